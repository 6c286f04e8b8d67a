//! A connection that a client pushes over vici: the same keys, the same checks and the same errors as in the file.
//!
//! It owns the way from a message to a tree of sections, and the form in which programs know refusals. What is in the tree
//! is checked and built as if it had been read; nothing is applied here.

use adit_ike::config;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::build::Builder;
use super::check::Checker;
use super::diagnostic::{Diagnostic, Diagnostics, Problem};
use super::load::{GatewaySettings, Parts};
use super::resolve::Resolver;
use super::schema;
use super::shelf::Shelf;
use super::source::{Sources, Span};
use super::syntax::{ROOT, SectionId, Setting, Text, Tree};
use crate::control::vici::{Message, Value};

/// Sections may nest this deep.
const MAX_DEPTH: usize = 16;

/// A connection that can be used.
#[derive(Debug)]
pub struct Pushed {
    /// The connection, or its children that need no SA.
    pub parts: Parts,
    /// What is suspicious, though usable.
    pub warnings: Vec<Diagnostic>,
}

/// Reads the section `connections.<name>` as a message has it. `known` are the secrets that it may rest on.
///
/// # Errors
///
/// Why it is refused, in one sentence that begins as strongSwan's.
pub fn connection(
    name: &str,
    section: &Message,
    gateway: &GatewaySettings,
    known: &config::Configuration,
) -> Result<Pushed, String> {
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err("a connection needs a name without control characters".to_owned());
    }
    let mut reader = Reader { tree: Tree::new(), garbled: None };
    let connections = reader.tree.open(ROOT, "connections", Span::NOWHERE);
    let root = reader.tree.open(connections, name, Span::NOWHERE);
    let prefix = format!("connections.{name}");
    reader.section(root, section, &prefix, 0)?;
    let (mut sources, mut diagnostics) = (Sources::default(), Diagnostics::default());
    let checked = Checker::new(Resolver::new(&reader.tree), &mut sources, &mut diagnostics).root();
    let mut parts = Parts::default();
    if let Some(checked) = checked {
        let mut builder = Builder::new(&sources, &mut diagnostics, Shelf::empty());
        (parts.ike, parts.hosts, parts.shunts) = builder.parts(checked, gateway, known);
        (parts.treatments, parts.interfaces) = (builder.treatments, builder.interfaces);
    }
    if diagnostics.errors.is_empty()
        && let Some(problem) = reader.garbled
    {
        diagnostics.error(&sources, problem);
    }
    match diagnostics.errors.first() {
        None => Ok(Pushed { parts, warnings: diagnostics.warnings }),
        Some(first) => Err(refusal(first, &prefix, diagnostics.errors.len() - 1 + diagnostics.more)),
    }
}

/// Do connections agree about the interfaces that they share, wherever they come from?
///
/// # Errors
///
/// What they do not agree about.
pub fn compare_interfaces(parts: &Parts) -> Result<(), String> {
    let (sources, mut diagnostics) = (Sources::default(), Diagnostics::default());
    Builder::new(&sources, &mut diagnostics, Shelf::empty())
        .compare_anew(&parts.ike.connections, &parts.interfaces);
    diagnostics.errors.first().map_or(Ok(()), |error| Err(error.to_string()))
}

/// The sentence in which programs look for `unknown option: X, config discarded` and `invalid value for: X, ...`.
fn refusal(error: &Diagnostic, prefix: &str, more: usize) -> String {
    let inside = error.key.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'));
    let option = inside.map(|path| path.rsplit_once('.').map_or(path, |(_, option)| option));
    let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
    match option {
        Some(option) if error.is_unknown() => {
            format!("unknown option: {option}, config discarded: {error}{more}")
        }
        Some(option) => format!("invalid value for: {option}, config discarded: {error}{more}"),
        None => format!("config discarded: {error}{more}"),
    }
}

struct Reader {
    tree: Tree,
    /// The first value that is no text.
    garbled: Option<Problem>,
}

impl Reader {
    fn section(&mut self, id: SectionId, message: &Message, path: &str, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("config discarded: sections nest deeper than {MAX_DEPTH}"));
        }
        for (key, value) in message.entries() {
            if key.is_empty() || key.chars().any(char::is_control) {
                return Err(format!(
                    "config discarded: a name in `{path}` is empty or has control characters"
                ));
            }
            let path = format!("{path}.{key}");
            let octets = match value {
                // In DER or PEM, whatever that looks like.
                Value::Bytes(octets) if is_certificates(key) => base64(std::slice::from_ref(octets)),
                Value::List(items) if is_certificates(key) => base64(items),
                Value::Section(section) => {
                    let id = self.tree.open(id, key, Span::NOWHERE);
                    self.section(id, section, &path, depth + 1)?;
                    continue;
                }
                Value::Bytes(octets) => octets.clone(),
                Value::List(items) => items.join(&b","[..]),
            };
            let text = String::from_utf8_lossy(&octets);
            if matches!(text, std::borrow::Cow::Owned(_)) && self.garbled.is_none() {
                self.garbled = Some(Problem::nowhere(&path, "this is not UTF-8 text"));
            }
            let mut text = Text::constant(&text, Span::NOWHERE);
            text.hidden = schema::may_be_secret(key);
            // As in the file, nothing is no value.
            let value = Some(text).filter(|text| !text.text.is_empty());
            self.tree.set(id, Setting { key: key.to_owned(), key_span: Span::NOWHERE, value });
        }
        Ok(())
    }
}

fn is_certificates(key: &str) -> bool {
    matches!(key, "certs" | "cacerts")
}

/// A list of octets as a file would have it.
fn base64(items: &[Vec<u8>]) -> Vec<u8> {
    let items: Vec<String> = items.iter().map(|item| format!("0s{}", STANDARD.encode(item))).collect();
    items.join(",").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `adit check` would read, with the section `gateway` alone.
    fn gateway() -> GatewaySettings {
        super::super::load_if_there(std::path::Path::new("/nonexistent/swanctl.conf")).unwrap().gateway
    }

    fn section(entries: &[(&str, &str)]) -> Message {
        let mut message = Message::new();
        for (key, value) in entries {
            message.put(key, value);
        }
        message
    }

    fn site(more: &[(&str, &str)]) -> Message {
        let mut message = section(more);
        message.put_list("local_addrs", ["192.0.2.1"]).put_list("remote_addrs", ["192.0.2.2"]);
        message.put_section("local-1", section(&[("auth", "psk"), ("id", "a.example")]));
        message.put_section("remote-1", section(&[("auth", "psk"), ("id", "b.example")]));
        let mut net = section(&[("start_action", "trap"), ("rekey_time", "10m")]);
        net.put_list("local_ts", ["10.1.0.0/16", "10.3.0.0/16"]).put_list("remote_ts", ["10.2.0.0/16"]);
        let mut children = Message::new();
        children.put_section("net", net);
        message.put_section("children", children);
        message
    }

    fn read(section: &Message) -> Result<Pushed, String> {
        connection("gw", section, &gateway(), &config::Configuration::default())
    }

    #[test]
    fn the_same_as_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("swanctl.conf");
        let text = "connections { gw { local_addrs = 192.0.2.1
                remote_addrs = 192.0.2.2
                version = 2
                local-1 { auth = psk
                    id = a.example }
                remote-1 { auth = psk
                    id = b.example }
                children { net { start_action = trap
                    rekey_time = 10m
                    local_ts = 10.1.0.0/16, 10.3.0.0/16
                    remote_ts = 10.2.0.0/16 } } } }";
        std::fs::write(&file, text).unwrap();
        let pushed = read(&site(&[("version", "2")])).unwrap().parts;
        assert_eq!(pushed.ike.connections, super::super::load(&file).unwrap().ike.connections);
        assert_eq!(pushed.ike.connections[0].children[0].local_ts.len(), 2);
    }

    #[test]
    fn refusals_are_strongswans_sentences_and_say_more() {
        let refused = |more: &[(&str, &str)]| read(&site(more)).unwrap_err();
        let unknown = refused(&[("versoin", "2")]);
        assert!(unknown.starts_with("unknown option: versoin, config discarded: "), "{unknown}");
        assert!(unknown.contains("did you mean `version`?"), "{unknown}");
        let invalid = refused(&[("version", "3")]);
        assert!(invalid.starts_with("invalid value for: version, config discarded: connections.gw.version"));
        let mut deep = site(&[]);
        deep.put_section("local-2", section(&[("auth", "psk"), ("pubkeys", "\u{1}")]));
        let later = read(&deep).unwrap_err();
        assert!(later.starts_with("invalid value for: pubkeys, config discarded: "), "{later}");
        assert!(later.contains("not done yet"), "{later}");
        let mut garbage = site(&[]);
        garbage.put_section("local-1", section(&[("auth", "pubkey"), ("certs", "no certificate")]));
        let wrong = read(&garbage).unwrap_err();
        assert!(wrong.starts_with("invalid value for: certs, config discarded: "), "{wrong}");
        assert!(wrong.contains("neither DER nor PEM"), "{wrong}");
        let bare = read(&section(&[("version", "2")])).unwrap_err();
        assert!(bare.starts_with("config discarded: connections.gw: there is no section `local`"), "{bare}");
    }

    #[test]
    fn names_and_values_that_no_file_has_are_refused() {
        let known = config::Configuration::default();
        assert!(connection("", &site(&[]), &gateway(), &known).is_err());
        assert!(connection("a\nb", &site(&[]), &gateway(), &known).is_err());
        assert!(read(&site(&[("a\u{1b}[2J", "2")])).is_err());
        let mut octets = site(&[]);
        octets.put("interface_mtu", [0xff_u8, 0xfe]);
        assert!(read(&octets).is_err());
        let mut deep = Message::new();
        for _ in 0..60 {
            let mut outer = Message::new();
            outer.put_section("children", deep);
            deep = outer;
        }
        assert!(read(&deep).is_err());
    }
}
