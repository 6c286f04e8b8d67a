//! The grammar of `ipsec.conf`: sections, their settings, `also`, `conn %default` and includes.
//!
//! It owns where each line stands and which of several settings counts. It knows no key but `also` and `include`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{Dialect, Report};
use crate::config::Files;

/// Octets of all files together, and files.
const MOST_OCTETS: usize = 4 * 1024 * 1024;
const MOST_FILES: usize = 1000;

/// How deep includes nest.
const MOST_DEPTH: usize = 16;

/// Settings that connections have, counting those from `also` wherever they are read, and a long one as several.
const MOST_SETTINGS: usize = 100_000;
const LONG: usize = 100;

/// A line of a file.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) file: Rc<PathBuf>,
    pub(super) number: usize,
    pub(super) text: Rc<str>,
}

impl Line {
    pub(super) fn report(&self, why: impl Into<String>) -> Report {
        Report {
            file: self.file.as_ref().clone(),
            line: self.number,
            text: super::comment(self.text.trim()),
            why: why.into(),
        }
    }
}

/// `key=value`.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    /// In small letters, with `-` for `_`.
    pub(super) key: Rc<str>,
    pub(super) value: Rc<str>,
    pub(super) line: Line,
}

#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) line: Line,
    pub(super) settings: Vec<Setting>,
}

/// All files together.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) setup: Vec<Setting>,
    pub(super) conns: Vec<Section>,
    pub(super) reports: Vec<Report>,
    by_name: HashMap<String, Vec<usize>>,
}

/// What a connection says, with all that it takes from others.
#[derive(Debug)]
pub(super) struct Conn<'a> {
    pub(super) name: &'a str,
    pub(super) line: &'a Line,
    pub(super) settings: BTreeMap<Rc<str>, Setting>,
}

impl Parsed {
    /// The program that this was written for, by what only Libreswan has.
    pub(super) fn dialect(&self) -> Dialect {
        const OURS: [&str; 9] = [
            "ikev2",
            "phase2alg",
            "leftsubnets",
            "rightsubnets",
            "salifetime",
            "ipsec-interface",
            "leftrsasigkey",
            "encapsulation",
            "protostack",
        ];
        let settings = self.setup.iter().chain(self.conns.iter().flat_map(|conn| &conn.settings));
        let is_ours = |setting: &Setting| {
            OURS.contains(&&*setting.key)
                || (&*setting.key == "ike" && setting.value.contains(';'))
                || (&*setting.key == "auto" && &*setting.value == "ondemand")
        };
        if settings.into_iter().any(is_ours) { Dialect::Libreswan } else { Dialect::Strongswan }
    }

    /// Every connection; what it says itself counts more than what it takes from others, and `%default` least.
    pub(super) fn connections(&self, reports: &mut Vec<Report>) -> Vec<Conn<'_>> {
        let mut templates = HashSet::new();
        let mut all = Vec::new();
        let mut budget = MOST_SETTINGS;
        let mut seen = HashSet::new();
        for conn in self.conns.iter().filter(|conn| conn.name != "%default") {
            if !seen.insert(conn.name.as_str()) {
                continue;
            }
            let mut settings = BTreeMap::new();
            let mut visited = HashSet::new();
            self.collect(&conn.name, &mut settings, &mut visited, &mut budget, reports);
            templates.extend(visited.iter().filter(|name| **name != conn.name).cloned());
            self.collect("%default", &mut settings, &mut visited, &mut budget, reports);
            all.push(Conn { name: &conn.name, line: &conn.line, settings });
        }
        // A section without `auto` that others take from is there for them only.
        all.retain(|conn| conn.settings.contains_key("auto") || !templates.contains(conn.name));
        all
    }

    /// Adds what `name` says, then what it takes from others.
    fn collect(
        &self,
        name: &str,
        into: &mut BTreeMap<Rc<str>, Setting>,
        visited: &mut HashSet<String>,
        budget: &mut usize,
        reports: &mut Vec<Report>,
    ) {
        let mut open = vec![name.to_owned()];
        while let Some(name) = open.pop() {
            if !visited.insert(name.clone()) {
                continue;
            }
            let sections = self.by_name.get(&name).map(Vec::as_slice).unwrap_or_default();
            let settings =
                || sections.iter().filter_map(|at| self.conns.get(*at)).flat_map(|conn| &conn.settings);
            // Of one key set twice in a section, the later counts.
            let mut own: BTreeMap<&str, &Setting> = BTreeMap::new();
            let mut also = Vec::new();
            for setting in settings() {
                *budget = budget.saturating_sub(1 + setting.value.len() / LONG);
                if *budget == 0 {
                    reports.push(setting.line.report("too many settings: the rest is left out"));
                    return;
                }
                if &*setting.key == "also" {
                    if self.by_name.contains_key(&*setting.value) {
                        also.push(setting.value.to_string());
                    } else {
                        reports.push(setting.line.report("there is no such section"));
                    }
                } else {
                    own.insert(&setting.key, setting);
                }
            }
            for setting in own.into_values() {
                into.entry(Rc::clone(&setting.key)).or_insert_with(|| setting.clone());
            }
            open.extend(also.into_iter().rev());
        }
    }
}

/// Reads a file and all it includes.
pub(super) fn parse(path: &Path, files: &dyn Files) -> Result<Parsed, String> {
    let mut parser = Parser {
        files,
        parsed: Parsed::default(),
        within: Within::Nothing,
        octets: 0,
        read: 0,
        open: Vec::new(),
    };
    parser.file(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(parser.parsed)
}

struct Parser<'a> {
    files: &'a dyn Files,
    parsed: Parsed,
    within: Within,
    octets: usize,
    read: usize,
    /// Files that are being read: each includes the next.
    open: Vec<Rc<PathBuf>>,
}

/// The section that lines belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Nothing,
    Setup,
    Conn,
    Unknown,
}

impl Parser<'_> {
    fn file(&mut self, path: &Path) -> Result<(), String> {
        if self.open.iter().any(|open| **open == *path) {
            return Err("it includes itself".to_owned());
        }
        self.read += 1;
        if self.open.len() > MOST_DEPTH || self.read > MOST_FILES {
            return Err("too many includes".to_owned());
        }
        let bytes = self.files.read(path, MOST_OCTETS.saturating_sub(self.octets))?;
        self.octets += bytes.len();
        let text = String::from_utf8_lossy(&bytes);
        let file = Rc::new(path.to_owned());
        self.open.push(Rc::clone(&file));
        for (index, text) in text.lines().enumerate() {
            self.line(Line { file: Rc::clone(&file), number: index + 1, text: text.into() });
        }
        self.open.pop();
        Ok(())
    }

    fn line(&mut self, line: Line) {
        let text = Rc::clone(&line.text);
        let content = without_comment(&text).trim_end();
        if content.trim().is_empty() {
            return;
        }
        if content.starts_with([' ', '\t']) {
            return self.setting(line, content.trim());
        }
        let (word, rest) = content.split_once([' ', '\t']).unwrap_or((content, ""));
        let rest = rest.trim();
        match (word, rest) {
            ("version", _) => {}
            ("config", "setup") => self.within = Within::Setup,
            ("conn", name) if !name.is_empty() => {
                self.within = Within::Conn;
                let at = self.parsed.conns.len();
                self.parsed.by_name.entry(name.to_owned()).or_default().push(at);
                self.parsed.conns.push(Section { name: name.to_owned(), line, settings: Vec::new() });
            }
            ("ca", _) => {
                self.within = Within::Unknown;
                self.parsed.reports.push(line.report("certificates are not done yet"));
            }
            ("include", pattern) if !pattern.is_empty() => self.include(&line, unquote(pattern)),
            _ => {
                self.within = Within::Unknown;
                self.parsed.reports.push(line.report("not understood"));
            }
        }
    }

    fn include(&mut self, line: &Line, pattern: &str) {
        let directory = line.file.parent().unwrap_or_else(|| Path::new(""));
        let result = self.files.expand(&directory.join(pattern)).and_then(|files| {
            files.iter().try_for_each(|file| {
                // What is included begins with sections of its own.
                self.within = Within::Nothing;
                self.file(file).map_err(|error| format!("{}: {error}", file.display()))
            })
        });
        self.within = Within::Nothing;
        if let Err(error) = result {
            self.parsed.reports.push(line.report(error));
        }
    }

    fn setting(&mut self, line: Line, content: &str) {
        let Some((key, value)) = content.split_once('=') else {
            return self.parsed.reports.push(line.report("not understood"));
        };
        let key: Rc<str> = key.trim().to_lowercase().replace('_', "-").into();
        let setting = Setting { key, value: unquote(value.trim()).into(), line };
        match self.within {
            Within::Setup => self.parsed.setup.push(setting),
            Within::Conn => {
                if let Some(conn) = self.parsed.conns.last_mut() {
                    conn.settings.push(setting);
                }
            }
            Within::Unknown => {
                self.parsed.reports.push(setting.line.report("in a section that is not taken over"))
            }
            Within::Nothing => self.parsed.reports.push(setting.line.report("outside of any section")),
        }
    }
}

/// A comment begins with a `#` at the start of a line or after a blank, outside of quotes.
fn without_comment(line: &str) -> &str {
    let (mut quoted, mut blank) = (false, true);
    for (at, character) in line.char_indices() {
        match character {
            '"' => quoted = !quoted,
            '#' if blank && !quoted => return line.get(..at).unwrap_or(line),
            _ => {}
        }
        blank = character.is_whitespace();
    }
    line
}

pub(super) fn unquote(value: &str) -> &str {
    let inside = |open, close| value.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    inside('"', '"').or_else(|| inside('\'', '\'')).or_else(|| inside('{', '}')).unwrap_or(value).trim()
}
