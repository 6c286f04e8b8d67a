//! `ipsec.secrets`: whose a secret is, and what it is.
//!
//! What a report shows of a line ends before its secret.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{Report, comment, quote};
use crate::config::Files;

const MOST_OCTETS: usize = 4 * 1024 * 1024;

/// How deep includes nest, and how many files there are.
const MOST_DEPTH: usize = 16;
const MOST_FILES: usize = 1000;

/// The pre-shared keys of a file.
#[derive(Default)]
pub(super) struct Secrets(Vec<Secret>);

struct Secret {
    ids: Vec<String>,
    /// As `swanctl.conf` has it.
    value: Zeroizing<String>,
    report: Report,
}

impl Secrets {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn render(&self) -> Zeroizing<String> {
        // Room for all at once: a text that grows leaves copies of secrets behind.
        let size = |secret: &Secret| {
            64 + secret.value.len() + secret.ids.iter().map(|id| 2 * id.len() + 24).sum::<usize>()
        };
        let mut text = Zeroizing::new(String::with_capacity(32 + self.0.iter().map(size).sum::<usize>()));
        if self.0.is_empty() {
            return text;
        }
        text.push_str("secrets {\n");
        for (number, secret) in (1..).zip(&self.0) {
            text.push_str(&format!("    ike-{number} {{\n"));
            for (number, id) in (1..).zip(&secret.ids) {
                text.push_str(&format!("        id-{number} = {}\n", quote(id)));
            }
            text.push_str("        secret = ");
            text.push_str(&secret.value);
            text.push_str("\n    }\n");
        }
        text.push_str("}\n");
        text
    }

    /// The language does not take one of them: that which has this line of the text.
    pub(super) fn remove_at(&mut self, line: usize, why: &str, reports: &mut Vec<Report>) -> bool {
        let mut end = 1;
        let has_it = |secret: &Secret| {
            end += secret.ids.len() + 3;
            line <= end
        };
        let at = self.0.iter().position(has_it);
        let Some(secret) = at.map(|at| self.0.remove(at)).or_else(|| self.0.pop()) else { return false };
        reports.push(Report { why: why.to_owned(), ..secret.report });
        true
    }
}

/// Reads a file and all it includes.
pub(super) fn read(path: &Path, files: &dyn Files, reports: &mut Vec<Report>) -> Result<Secrets, String> {
    let mut reader = Reader { files, reports, secrets: Secrets::default(), octets: 0, seen: HashSet::new() };
    reader.file(path, 0).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(reader.secrets)
}

struct Reader<'a> {
    files: &'a dyn Files,
    reports: &'a mut Vec<Report>,
    secrets: Secrets,
    octets: usize,
    seen: HashSet<PathBuf>,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, depth: usize) -> Result<(), String> {
        if depth > MOST_DEPTH || self.seen.len() >= MOST_FILES || !self.seen.insert(path.to_owned()) {
            return Err("too many includes, or one that goes round".to_owned());
        }
        let bytes = self.files.read(path, MOST_OCTETS.saturating_sub(self.octets))?;
        self.octets += bytes.len();
        let text = std::str::from_utf8(&bytes).map_err(|_| "it is not UTF-8")?;
        // An entry goes on with lines that begin with a blank.
        let mut entry: Option<(usize, Zeroizing<String>)> = None;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim_end();
            if line.trim_start().starts_with('#') || line.is_empty() {
                continue;
            }
            match &mut entry {
                Some((_, text)) if line.starts_with([' ', '\t']) => {
                    text.reserve_exact(line.len() + 1);
                    text.push('\n');
                    text.push_str(line);
                }
                _ => {
                    self.end(path, entry.take(), depth);
                    entry = Some((number, Zeroizing::new(line.to_owned())));
                }
            }
        }
        self.end(path, entry, depth);
        Ok(())
    }

    fn end(&mut self, path: &Path, entry: Option<(usize, Zeroizing<String>)>, depth: usize) {
        let Some((line, text)) = entry else { return };
        let words = words(&text);
        let report = |shown: &str, why: &str| Report {
            file: path.to_owned(),
            line,
            text: comment(shown),
            why: why.to_owned(),
        };
        if let [Word { text: "include", .. }, pattern] = words.as_slice() {
            let shown = format!("include {}", pattern.text);
            let directory = path.parent().unwrap_or_else(|| Path::new(""));
            let result = self
                .files
                .expand(&directory.join(pattern.text))
                .and_then(|files| files.iter().try_for_each(|file| self.file(file, depth + 1)));
            if let Err(error) = result {
                self.reports.push(report(&shown, &error));
            }
            return;
        }
        let Some(colon) = words.iter().position(|word| word.text == ":" && !word.quoted) else {
            return self
                .reports
                .push(report("(not shown)", "not understood: there is no `:` before a kind of secret"));
        };
        let (ids, rest) = words.split_at(colon);
        let ids: Vec<String> = ids.iter().map(|id| id.text.to_owned()).collect();
        let owners = ids.join(" ");
        let kind = rest.get(1).map_or("", |word| word.text).to_uppercase();
        let shown = |kind: &str| format!("{owners} : {kind} ...").trim_start().to_owned();
        match (kind.as_str(), rest.get(2)) {
            ("PSK", Some(secret)) if rest.len() == 3 => {
                let report = report(&shown("PSK"), "");
                let value = value(secret);
                let anybody = |id: &String| ["%any", "%any6", "0.0.0.0", "::"].contains(&id.as_str());
                let ids = ids.into_iter().filter(|id| !anybody(id)).collect();
                self.secrets.0.push(Secret { ids, value, report });
            }
            ("PSK", _) => self.reports.push(report(&shown("PSK"), "not understood: one secret belongs here")),
            ("RSA" | "ECDSA" | "PKCS8" | "P12" | "PIN" | "BLISS", _) => {
                self.reports.push(report(&shown(&kind), "private keys and certificates are not done yet"));
            }
            ("EAP" | "NTLM", _) => self.reports.push(report(&shown(&kind), "EAP is not done yet")),
            ("XAUTH", _) => self.reports.push(report(&shown(&kind), "IKEv1 is not done yet")),
            ("PPKS", _) => self
                .reports
                .push(report(&shown(&kind), "write it as `secrets.ppk*`, with `ppk_id` in the connection")),
            // What stands there may be a secret.
            _ => self
                .reports
                .push(report(&shown("(not shown)"), "not understood: no kind of secret that is known")),
        }
    }
}

struct Word<'a> {
    text: &'a str,
    quoted: bool,
}

/// Words with blanks between them; in quotes, anything. A colon need not have blanks around it when it stands for itself.
fn words(text: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == '#' {
            rest = rest.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
            continue;
        }
        let (word, after, quoted) = if matches!(first, '"' | '\'') {
            let inside = rest.get(1..).unwrap_or_default();
            match inside.split_once(first) {
                Some((word, after)) => (word, after, true),
                None => (inside, "", true),
            }
        } else if first == ':' && !rest.starts_with("::") {
            (":", rest.get(1..).unwrap_or_default(), false)
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let (word, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
            (word, after, false)
        };
        words.push(Word { text: word, quoted });
        rest = after.trim_start();
    }
    words
}

/// A secret as `swanctl.conf` has it: what has another meaning there is written in hexadecimal digits.
fn value(word: &Word<'_>) -> Zeroizing<String> {
    let text = word.text;
    let encoded = text.starts_with("0x") || text.starts_with("0s");
    if encoded && !word.quoted {
        // What is neither hexadecimal nor Base64 is refused as the one value that it is.
        return Zeroizing::new(quote(text));
    }
    let plain =
        |character: char| (character.is_ascii_graphic() || character == ' ') && !"\"\\".contains(character);
    let mut value = Zeroizing::new(String::with_capacity(2 * text.len() + 2));
    if !encoded && text.chars().all(plain) {
        value.push('"');
        value.push_str(text);
        value.push('"');
    } else {
        value.push_str("0x");
        for octet in text.bytes() {
            for digit in [octet >> 4, octet & 15] {
                value.extend(char::from_digit(u32::from(digit), 16));
            }
        }
    }
    value
}
