//! The values of settings: booleans, numbers, times, sizes, blobs, addresses, selectors, identities, proposals.
//!
//! This module turns the text of one value into its meaning, or says what is wrong with which part of it. It knows
//! no key.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use adit_crypto::Secret;
use adit_ike::config::{AddressSpec, Constraints, ConstraintsError, SelectorSpec};
use adit_ike::identity::{Identity, IdentityPattern};
use adit_ike::proposal::{parse_esp, parse_ike};
use adit_wire::ikev2::{Proposal, TrafficSelector};
use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use super::hosts::Host;
use super::source::Span;
use super::syntax::Text;
use crate::http::{BadHttpAddress, HttpAddress};

/// What kind of value a key takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// `yes`, `no` and their synonyms.
    Bool,
    /// A whole number within bounds.
    Integer(u64, u64),
    /// Seconds, or with `ms`, `s`, `m`, `h`, `d`.
    Time,
    /// Octets, or with `k`, `m`, `g`.
    Bytes,
    /// One of these words.
    Choice(&'static [Choice]),
    /// A whole number within bounds, or one of these words.
    NumberOr(u64, u64, &'static [&'static str]),
    /// Anything.
    Text,
    /// `pubkey`, `psk`, `eap...`, and so on.
    Auth,
    /// Addresses, prefixes, ranges, `%any`.
    Addresses,
    /// IKE proposals.
    IkeProposals,
    /// ESP proposals.
    EspProposals,
    /// One identity.
    Identity,
    /// An identity with wildcards.
    IdentityPattern,
    /// Traffic selectors.
    Selectors,
    /// A mark and a mask.
    Mark,
    /// A pre-shared key.
    Secret,
    /// Certificates or keys: files, or the octets themselves.
    Material,
    /// Object identifiers.
    Oids,
    /// An absolute path.
    Path,
    /// The name of a network interface.
    Interface,
    /// Addresses with the lengths of their prefixes.
    Networks,
    /// Where the control socket is.
    Control,
    /// Where the HTTP service is, if anywhere.
    Http,
}

/// One word of [`Kind::Choice`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) name: &'static str,
    /// False: known, but Adit does not do it yet.
    pub(super) done: bool,
}

/// A value that Adit does.
pub(super) const fn done(name: &'static str) -> Choice {
    Choice { name, done: true }
}

/// A value that Adit does not do yet.
pub(super) const fn not_yet(name: &'static str) -> Choice {
    Choice { name, done: false }
}

/// The meaning of a value.
#[derive(Debug)]
pub(super) enum Value {
    Bool(bool),
    Integer(u64),
    Time(Duration),
    Word(&'static str),
    Auth(Auth),
    Text(String),
    Addresses(Vec<Host>),
    Networks(Vec<(IpAddr, u8)>),
    Proposals(Vec<Proposal>),
    Identity(Identity),
    Pattern(IdentityPattern),
    Selectors(Vec<SelectorSpec>),
    Mark(u32, u32),
    Secret(Secret),
    Material(Vec<(Material, Span)>),
    Oids(Vec<String>),
    Path(PathBuf),
    Control(ControlUri),
    Http(Option<HttpAddress>),
}

/// How somebody authenticates.
#[derive(Debug)]
pub(super) enum Auth {
    /// By a pre-shared key.
    Psk,
    /// By a signature.
    PublicKey(Constraints),
}

/// A certificate or a key, as it is written.
#[derive(Debug)]
pub(super) enum Material {
    /// The name of a file.
    File(String),
    /// In DER or PEM.
    Octets(Vec<u8>),
}

/// Where the control socket listens, or is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlUri {
    /// `unix:///path`.
    Unix(PathBuf),
    /// `tcp://127.0.0.1:4502`. The control protocol has no authentication, so only loopback addresses.
    Tcp(SocketAddr),
}

/// What is wrong with a value. Never holds the value of a secret.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) span: Span,
    pub(super) message: String,
    pub(super) expected: String,
    pub(super) nearest: Option<String>,
}

impl Wrong {
    fn new(text: &Text, expected: impl Into<String>) -> Self {
        Self::because(text, format!("bad value {}", quoted(text)), expected)
    }

    fn because(text: &Text, message: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { span: text.span, message: message.into(), expected: expected.into(), nearest: None }
    }
}

/// A value for a message: short, harmless to a terminal, and not at all if it may hold a secret.
pub(super) fn quoted(text: &Text) -> String {
    if text.hidden {
        return "(not shown)".to_owned();
    }
    let mut shown: String = text.text.chars().take(60).flat_map(escape).collect();
    if text.text.chars().nth(60).is_some() {
        shown.push_str("...");
    }
    format!("`{shown}`")
}

fn escape(character: char) -> impl Iterator<Item = char> {
    let escaped = character.is_control().then(|| character.escape_default());
    let plain = escaped.is_none().then_some(character);
    escaped.into_iter().flatten().chain(plain)
}

impl Kind {
    /// Reads a value of this kind.
    pub(super) fn read(self, text: &Text) -> Result<Value, Wrong> {
        match self {
            Self::Bool => boolean(text).map(Value::Bool),
            Self::Integer(least, most) => integer(text, least, most).map(Value::Integer),
            Self::Time => time(text).map(Value::Time),
            Self::Bytes => bytes(text).map(Value::Integer),
            Self::Choice(choices) => choice(text, choices).map(Value::Word),
            Self::NumberOr(least, most, words) => number_or(text, (least, most), words),
            Self::Text => Ok(Value::Text(text.text.to_string())),
            Self::Auth => auth(text).map(Value::Auth),
            Self::Addresses => addresses(text).map(Value::Addresses),
            Self::IkeProposals => proposals(text, false).map(Value::Proposals),
            Self::EspProposals => proposals(text, true).map(Value::Proposals),
            Self::Identity => {
                parsed(text, "an identity, like `gw.example.com` or `192.0.2.1`").map(Value::Identity)
            }
            Self::IdentityPattern => {
                parsed(text, "an identity, like `gw.example.com`, `*.example.com` or `%any`")
                    .map(Value::Pattern)
            }
            Self::Selectors => selectors(text).map(Value::Selectors),
            Self::Mark => mark(text).map(|(value, mask)| Value::Mark(value, mask)),
            Self::Secret => secret(text).map(Value::Secret),
            Self::Material => list(text, MATERIAL, material).map(Value::Material),
            Self::Oids => list(text, OID, oid).map(Value::Oids),
            Self::Path => path(text).map(Value::Path),
            Self::Interface => interface(text).map(Value::Text),
            Self::Networks => list(text, NETWORK, network).map(Value::Networks),
            Self::Control => control(text).map(Value::Control),
            Self::Http => http(text).map(Value::Http),
        }
    }

    /// What a value of this kind looks like, for the manual.
    pub(super) fn notation(self) -> String {
        match self {
            Self::Bool => "`yes` or `no`".to_owned(),
            Self::Integer(least, most) if most >= u64::from(u32::MAX) => format!("a number from {least}"),
            Self::Integer(least, most) => format!("a number from {least} to {most}"),
            Self::NumberOr(least, most, words) => {
                format!("a number from {least} to {most}, `{}`", words.join("`, `"))
            }
            Self::Time => "a time".to_owned(),
            Self::Bytes => "a size".to_owned(),
            Self::Choice(choices) => {
                let words: Vec<String> = choices
                    .iter()
                    .filter(|choice| choice.done)
                    .map(|choice| format!("`{}`", choice.name))
                    .collect();
                words.join(", ")
            }
            Self::Text => "text".to_owned(),
            Self::Auth => "`psk`, `pubkey`, or which keys and hashes, like `rsa-3072-sha384`".to_owned(),
            Self::Addresses => "addresses, prefixes, ranges, host names, `%any`".to_owned(),
            Self::IkeProposals | Self::EspProposals => "proposals".to_owned(),
            Self::Identity => "an identity".to_owned(),
            Self::IdentityPattern => "an identity, wildcards allowed".to_owned(),
            Self::Selectors => "traffic selectors".to_owned(),
            Self::Mark => "a mark, `value/mask`".to_owned(),
            Self::Secret => "text, `0x` hexadecimal, or `0s` base64".to_owned(),
            Self::Material => "files, or `0x` hexadecimal or `0s` base64 in their place".to_owned(),
            Self::Oids => "object identifiers".to_owned(),
            Self::Path => "an absolute path".to_owned(),
            Self::Interface => "an interface name".to_owned(),
            Self::Networks => "addresses with prefix lengths".to_owned(),
            Self::Control => "`unix:///path` or `tcp://loopback:port`".to_owned(),
            Self::Http => "`off`, `address:port` or `unix:///path`".to_owned(),
        }
    }
}

impl Value {
    /// Do two values mean the same? Secrets never do.
    pub(super) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Integer(a), Self::Integer(b)) => a == b,
            (Self::Time(a), Self::Time(b)) => a == b,
            (Self::Word(a), Self::Word(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Mark(a, mask_a), Self::Mark(b, mask_b)) => a == b && mask_a == mask_b,
            _ => false,
        }
    }
}

fn boolean(text: &Text) -> Result<bool, Wrong> {
    let is = |words: [&str; 4]| words.iter().any(|word| text.text.eq_ignore_ascii_case(word));
    if is(["yes", "true", "enabled", "1"]) {
        Ok(true)
    } else if is(["no", "false", "disabled", "0"]) {
        Ok(false)
    } else {
        Err(Wrong::new(text, "`yes` or `no`"))
    }
}

/// Decimal, or hexadecimal after `0x`. Nothing but digits.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

fn integer(text: &Text, least: u64, most: u64) -> Result<u64, Wrong> {
    number(&text.text)
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| Wrong::new(text, format!("a whole number from {least} to {most}")))
}

/// A number with one of `units` behind it.
fn scaled(text: &str, units: &[(char, u64)]) -> Option<u64> {
    let unit =
        text.chars().next_back().filter(char::is_ascii_alphabetic).map(|unit| unit.to_ascii_lowercase());
    match units.iter().find(|(name, _)| Some(*name) == unit && !text.starts_with("0x")) {
        Some((_, factor)) => {
            let digits = text.get(..text.len() - 1)?;
            number(digits.trim_end_matches(' '))?.checked_mul(*factor)
        }
        None => number(text),
    }
}

fn time(text: &Text) -> Result<Duration, Wrong> {
    /// More is surely a mistake, and would overflow clocks.
    const MOST: Duration = Duration::from_secs(100 * 365 * 86_400);
    let time = match text.text.strip_suffix("ms") {
        Some(digits) => number(digits.trim_end_matches(' ')).map(Duration::from_millis),
        None => {
            scaled(&text.text, &[('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)]).map(Duration::from_secs)
        }
    };
    time.filter(|time| *time <= MOST).ok_or_else(|| {
        Wrong::new(text, "a time: a whole number of seconds, or with `ms`, `s`, `m`, `h` or `d`")
    })
}

fn bytes(text: &Text) -> Result<u64, Wrong> {
    scaled(&text.text, &[('k', 1 << 10), ('m', 1 << 20), ('g', 1 << 30)])
        .ok_or_else(|| Wrong::new(text, "a size: a whole number of octets, or with `k`, `m` or `g`"))
}

fn number_or(text: &Text, (least, most): (u64, u64), words: &'static [&'static str]) -> Result<Value, Wrong> {
    if let Some(word) = words.iter().find(|word| text.text.eq_ignore_ascii_case(word)) {
        return Ok(Value::Word(word));
    }
    let expected = || format!("a whole number from {least} to {most}, or `{}`", words.join("` or `"));
    integer(text, least, most).map(Value::Integer).map_err(|_| Wrong::new(text, expected()))
}

fn choice(text: &Text, choices: &'static [Choice]) -> Result<&'static str, Wrong> {
    let names = |done: bool| {
        let names = choices.iter().filter(move |choice| choice.done || !done);
        names.map(|choice| format!("`{}`", choice.name)).collect::<Vec<_>>().join(" or ")
    };
    match choices.iter().find(|choice| text.text.eq_ignore_ascii_case(choice.name)) {
        Some(choice) if choice.done => Ok(choice.name),
        Some(_) => Err(Wrong::because(text, format!("{} is not done yet", quoted(text)), names(true))),
        None => {
            let mut wrong = Wrong::new(text, names(true));
            wrong.nearest = super::diagnostic::nearest(&text.text, choices.iter().map(|choice| choice.name))
                .map(ToOwned::to_owned);
            Err(wrong)
        }
    }
}

fn auth(text: &Text) -> Result<Auth, Wrong> {
    const EXPECTED: &str = "`psk` or `pubkey`";
    let word = text.text.to_ascii_lowercase();
    if word == "psk" {
        return Ok(Auth::Psk);
    }
    let first = word.split(['-', ':', '/']).next().unwrap_or_default();
    if ["pubkey", "rsa", "ecdsa", "ed25519", "ike"].contains(&first) {
        let read = word.parse().map(Auth::PublicKey);
        return read.map_err(|error: ConstraintsError| Wrong::because(text, error.to_string(), EXPECTED));
    }
    if ["eap", "xauth", "ed448", "bliss", "any"].contains(&first) {
        return Err(Wrong::because(text, format!("{} is not done yet", quoted(text)), EXPECTED));
    }
    let mut wrong = Wrong::new(text, EXPECTED);
    wrong.nearest = super::diagnostic::nearest(&word, ["psk", "pubkey"]).map(ToOwned::to_owned);
    Err(wrong)
}

/// The items of a comma-separated list, without blanks around them.
fn items(text: &Text) -> impl Iterator<Item = Text> {
    let mut at = 0;
    text.text.split(',').map(move |item| {
        let start = at + (item.len() - item.trim_start().len());
        at += item.len() + 1;
        text.part(start, start + item.trim().len())
    })
}

/// An empty value is an empty list; an empty item is a mistake.
fn list<T>(text: &Text, expected: &str, read: impl Fn(&Text) -> Result<T, Wrong>) -> Result<Vec<T>, Wrong> {
    if text.text.trim().is_empty() {
        return Ok(Vec::new());
    }
    items(text)
        .map(|item| {
            if item.text.is_empty() {
                return Err(Wrong::because(text, "an item of the list is empty", expected));
            }
            read(&item)
        })
        .collect()
}

const ADDRESS: &str =
    "an IP address, prefix (`192.0.2.0/24`), range (`192.0.2.1-192.0.2.9`), host name or `%any`";

fn addresses(text: &Text) -> Result<Vec<Host>, Wrong> {
    let any_v4 = AddressSpec { first: Ipv4Addr::UNSPECIFIED.into(), last: Ipv4Addr::BROADCAST.into() };
    let any_v6 = AddressSpec { first: Ipv6Addr::UNSPECIFIED.into(), last: Ipv6Addr::from(u128::MAX).into() };
    let specs = list(text, ADDRESS, |item| match item.text.as_str() {
        "%any" => Ok(vec![Host::Addresses(any_v4), Host::Addresses(any_v6)]),
        "%any4" | "0.0.0.0" => Ok(vec![Host::Addresses(any_v4)]),
        "%any6" | "::" => Ok(vec![Host::Addresses(any_v6)]),
        other => match block(other) {
            // An outer address carries no interface, and without one nothing can be sent there.
            Some((IpAddr::V6(first), _)) if first.is_unicast_link_local() => Err(Wrong::because(
                item,
                format!(
                    "{} is link-local, and those addresses cannot be reached without an interface",
                    quoted(item)
                ),
                "an address that is routed, like a global or a unique local one",
            )),
            Some((first, last)) => Ok(vec![Host::Addresses(AddressSpec { first, last })]),
            None if is_host_name(other) => Ok(vec![Host::Name(other.to_ascii_lowercase())]),
            None => {
                let mut wrong = Wrong::new(item, ADDRESS);
                wrong.nearest =
                    super::diagnostic::nearest(other, ["%any", "%any4", "%any6"]).map(ToOwned::to_owned);
                Err(wrong)
            }
        },
    })?
    .concat();
    // Anybody of both families is what an empty list says.
    let anybody = [any_v4, any_v6].into_iter().all(|any| specs.contains(&Host::Addresses(any)));
    let dialled = |host: &Host| match host {
        Host::Addresses(spec) => spec.single().is_some(),
        Host::Name(_) => true,
    };
    if anybody && !specs.iter().any(dialled) {
        return Ok(Vec::new());
    }
    Ok(specs)
}

/// RFC 1123 2.1, with the underscores that some have. An address that is slightly wrong is none, and neither is `any`.
fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|character| character.is_ascii_alphanumeric() || "-_".contains(character))
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    name.len() <= 253
        && name.split('.').all(label)
        && name.split('.').next_back().is_some_and(|last| last.contains(|c: char| c.is_ascii_alphabetic()))
        && !["any", "any4", "any6"].contains(&name)
}

/// An address, a prefix or a range, as its first and last address.
fn block(text: &str) -> Option<(IpAddr, IpAddr)> {
    if let Some((address, prefix)) = text.split_once('/') {
        return prefix_block(address.parse().ok()?, decimal(prefix)?);
    }
    if let Some((first, last)) = text.split_once("..").or_else(|| text.split_once('-')) {
        let (first, last): (IpAddr, IpAddr) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        return (first.is_ipv4() == last.is_ipv4() && first <= last).then_some((first, last));
    }
    let address = text.parse().ok()?;
    Some((address, address))
}

const NETWORK: &str = "an address with the length of its prefix, like `10.2.0.1/16` or `fd00:2::1/64`";

fn network(text: &Text) -> Result<(IpAddr, u8), Wrong> {
    let parse = |text: &str| {
        let (address, len) = text.split_once('/')?;
        let (address, len): (IpAddr, u8) = (address.parse().ok()?, u8::try_from(decimal(len)?).ok()?);
        (len <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, len))
    };
    parse(&text.text).ok_or_else(|| {
        let mut wrong = Wrong::new(text, NETWORK);
        let alone = text.text.parse().ok();
        wrong.nearest =
            alone.map(|address: IpAddr| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }));
        wrong
    })
}

fn decimal(text: &str) -> Option<u64> {
    number(text).filter(|_| !text.contains(['x', 'X']))
}

fn prefix_block(address: IpAddr, prefix: u64) -> Option<(IpAddr, IpAddr)> {
    let prefix = u32::try_from(prefix).ok()?;
    Some(match address {
        IpAddr::V4(address) => {
            let host = u32::MAX.checked_shr(prefix).unwrap_or(0);
            let first = u32::from(address) & !host;
            (prefix <= 32).then_some((Ipv4Addr::from(first).into(), Ipv4Addr::from(first | host).into()))?
        }
        IpAddr::V6(address) => {
            let host = u128::MAX.checked_shr(prefix).unwrap_or(0);
            let first = u128::from(address) & !host;
            (prefix <= 128).then_some((Ipv6Addr::from(first).into(), Ipv6Addr::from(first | host).into()))?
        }
    })
}

fn proposals(text: &Text, esp: bool) -> Result<Vec<Proposal>, Wrong> {
    let read = if esp { parse_esp } else { parse_ike };
    read(&text.text).map_err(|error| Wrong {
        span: text.part(error.place.start, error.place.end).span,
        message: if text.hidden { format!("bad value {}", quoted(text)) } else { error.message },
        expected: if esp {
            "ESP proposals, like `aes256gcm16-x25519, default`".to_owned()
        } else {
            "IKE proposals, like `aes256gcm16-prfsha384-x25519, default`".to_owned()
        },
        nearest: error.nearest.map(ToOwned::to_owned),
    })
}

fn parsed<T: FromStr<Err: fmt::Display>>(text: &Text, expected: &str) -> Result<T, Wrong> {
    text.text
        .parse()
        .map_err(|error| Wrong::because(text, format!("bad value {}: {error}", quoted(text)), expected))
}

const SELECTOR: &str = "a prefix, address, range or `dynamic`, with `[protocol/port]` behind it if that is meant (`10.1.0.0/16[tcp/443]`)";

fn selectors(text: &Text) -> Result<Vec<SelectorSpec>, Wrong> {
    let selectors = list(text, SELECTOR, selector)?;
    // RFC 7296 3.13: the number of selectors of a payload is one octet.
    match selectors.len() {
        0 => Err(Wrong::because(text, "no traffic selector", SELECTOR)),
        1..=255 => Ok(selectors),
        _ => Err(Wrong::because(text, "more than 255 traffic selectors", "at most 255")),
    }
}

fn selector(text: &Text) -> Result<SelectorSpec, Wrong> {
    let (addresses, upper) = match text.text.find('[') {
        None => (text.part(0, text.text.len()), None),
        Some(open) => {
            if !text.text.ends_with(']') {
                return Err(Wrong::because(text, "`[` without a `]` at the end", SELECTOR));
            }
            (text.part(0, open), Some(text.part(open + 1, text.text.len() - 1)))
        }
    };
    let (protocol, start_port, end_port) = match upper {
        None => (0, 0, u16::MAX),
        Some(upper) => upper_layer(&upper)?,
    };
    if addresses.text.eq_ignore_ascii_case("dynamic") {
        return Ok(SelectorSpec::Dynamic { protocol, start_port, end_port });
    }
    let (start, end) = block(addresses.text.trim()).ok_or_else(|| {
        let mut wrong = Wrong::new(&addresses, SELECTOR);
        wrong.nearest = super::diagnostic::nearest(&addresses.text, ["dynamic"]).map(ToOwned::to_owned);
        wrong
    })?;
    Ok(SelectorSpec::Fixed(TrafficSelector { protocol, start_port, end_port, start, end }))
}

/// `protocol`, `protocol/port`, `protocol/first-last`, `protocol/opaque`.
fn upper_layer(text: &Text) -> Result<(u8, u16, u16), Wrong> {
    let slash = text.text.find('/');
    let name = text.part(0, slash.unwrap_or(text.text.len()));
    let protocol = protocol(name.text.as_str()).ok_or_else(|| {
        let mut wrong = Wrong::new(&name, "an IP protocol by name or number, or `any`");
        wrong.nearest = super::diagnostic::nearest(&name.text, PROTOCOLS.iter().map(|(name, _)| *name))
            .map(ToOwned::to_owned);
        wrong
    })?;
    let Some(slash) = slash else { return Ok((protocol, 0, u16::MAX)) };
    let port = text.part(slash + 1, text.text.len());
    let (first, last) = match port.text.as_str() {
        "any" | "%any" => return Ok((protocol, 0, u16::MAX)),
        // RFC 7296 3.13.1: OPAQUE is written as a range that ends before it starts.
        "opaque" | "%opaque" => (u16::MAX, 0),
        other => ports(other).ok_or_else(|| {
            let expected = "a port by name or number, a range `first-last`, `opaque` or `any`";
            let mut wrong = Wrong::new(&port, expected);
            wrong.nearest = super::diagnostic::nearest(other, SERVICES.iter().map(|(name, _)| *name))
                .map(ToOwned::to_owned);
            wrong
        })?,
    };
    // RFC 7296 3.13.1: ports mean nothing without a protocol that has them.
    if !PORT_PROTOCOLS.contains(&protocol) {
        return Err(Wrong::because(&name, "this protocol has no ports", "a protocol with ports, like `tcp`"));
    }
    Ok((protocol, first, last))
}

fn protocol(text: &str) -> Option<u8> {
    if matches!(text, "any" | "%any") {
        return Some(0);
    }
    let known = PROTOCOLS.iter().find(|(name, _)| text.eq_ignore_ascii_case(name)).map(|(_, number)| *number);
    known.or_else(|| decimal(text).and_then(|number| u8::try_from(number).ok()))
}

fn ports(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| decimal(text).and_then(|number| u16::try_from(number).ok());
    if let Some((_, port)) = SERVICES.iter().find(|(name, _)| text.eq_ignore_ascii_case(name)) {
        return Some((*port, *port));
    }
    match text.split_once('-') {
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            (first <= last).then_some((first, last))
        }
        None => port(text).map(|port| (port, port)),
    }
}

/// TCP, UDP, SCTP, DCCP, UDP-Lite; ICMP, ICMPv6 and Mobility Header pack type and code there (RFC 4301 4.4.1.1).
const PORT_PROTOCOLS: [u8; 8] = [6, 17, 132, 33, 136, 1, 58, 135];

/// IP protocols by the names of the IANA registry and of `/etc/protocols`.
const PROTOCOLS: [(&str, u8); 17] = [
    ("icmp", 1),
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("ipv6", 41),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("ipv6-icmp", 58),
    ("ospf", 89),
    ("vrrp", 112),
    ("l2tp", 115),
    ("sctp", 132),
    ("udplite", 136),
];

/// Ports by the names of the IANA registry.
const SERVICES: [(&str, u16); 33] = [
    ("ftp-data", 20),
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("smtp", 25),
    ("domain", 53),
    ("bootps", 67),
    ("bootpc", 68),
    ("tftp", 69),
    ("http", 80),
    ("kerberos", 88),
    ("pop3", 110),
    ("ntp", 123),
    ("imap", 143),
    ("imap2", 143),
    ("snmp", 161),
    ("bgp", 179),
    ("ldap", 389),
    ("https", 443),
    ("microsoft-ds", 445),
    ("submission", 587),
    ("isakmp", 500),
    ("syslog", 514),
    ("ldaps", 636),
    ("imaps", 993),
    ("pop3s", 995),
    ("l2f", 1701),
    ("l2tp", 1701),
    ("radius", 1812),
    ("nfs", 2049),
    ("mysql", 3306),
    ("ms-wbt-server", 3389),
    ("ipsec-nat-t", 4500),
];

fn mark(text: &Text) -> Result<(u32, u32), Wrong> {
    let wrong = || Wrong::new(text, "a mark: `value` or `value/mask`");
    let part = |text: &str| number(text.trim()).and_then(|number| u32::try_from(number).ok());
    let (value, mask) = match text.text.split_once('/') {
        Some((value, mask)) => (value, part(mask).ok_or_else(wrong)?),
        None => (text.text.as_str(), u32::MAX),
    };
    if matches!(value, "%unique" | "%unique-dir" | "%same") {
        let message = format!("{} is not done yet", quoted(text));
        return Err(Wrong::because(text, message, "a mark: `value` or `value/mask`"));
    }
    Ok((part(value).ok_or_else(wrong)?, mask))
}

/// Never says anything about the octets.
fn secret(text: &Text) -> Result<Secret, Wrong> {
    let expected = "text, hexadecimal behind `0x`, or base64 behind `0s`";
    if text.text.is_empty() {
        return Err(Wrong::because(text, "the secret is empty", expected));
    }
    let octets = blob(text)?.unwrap_or_else(|| text.text.as_bytes().to_vec());
    Ok(Secret::new(octets))
}

const MATERIAL: &str = "the name of a file, hexadecimal behind `0x`, or base64 behind `0s`";

fn material(text: &Text) -> Result<(Material, Span), Wrong> {
    let octets = blob(text)?;
    let material = octets.map_or_else(|| Material::File(text.text.to_string()), Material::Octets);
    Ok((material, text.span))
}

/// Octets in hexadecimal or base64; `None` if the text says neither.
fn blob(text: &Text) -> Result<Option<Vec<u8>>, Wrong> {
    if let Some(digits) = text.text.strip_prefix("0x") {
        let expected = "an even number of hexadecimal digits behind `0x`";
        return hexadecimal(digits)
            .map(Some)
            .ok_or_else(|| Wrong::because(text, "bad hexadecimal", expected));
    }
    let Some(digits) = text.text.strip_prefix("0s") else { return Ok(None) };
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, config);
    let octets = engine.decode(digits).ok().filter(|octets| !octets.is_empty());
    octets.map(Some).ok_or_else(|| Wrong::because(text, "bad base64", "base64 behind `0s`"))
}

const OID: &str = "an object identifier, like `2.5.29.32.0`";

fn oid(text: &Text) -> Result<String, Wrong> {
    let arcs: Option<Vec<u64>> =
        text.text.split('.').map(|arc| number(arc).filter(|_| !arc.contains('x'))).collect();
    match arcs.as_deref() {
        Some([first, second, ..]) if *first < 2 && *second < 40 || *first == 2 => Ok(text.text.to_string()),
        _ => Err(Wrong::new(text, OID)),
    }
}

fn hexadecimal(digits: &str) -> Option<Vec<u8>> {
    if digits.is_empty() || !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |&digit: &u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    digits
        .as_bytes()
        .chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect()
}

fn path(text: &Text) -> Result<PathBuf, Wrong> {
    let path = PathBuf::from(text.text.as_str());
    if path.is_absolute() { Ok(path) } else { Err(Wrong::new(text, "an absolute path")) }
}

/// What Linux takes as the name of an interface.
fn interface(text: &Text) -> Result<String, Wrong> {
    let name = text.text.as_str();
    let fits = (1..=15).contains(&name.len())
        && !matches!(name, "." | ".." | "lo" | "all" | "default")
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte));
    if fits {
        Ok(name.to_owned())
    } else {
        Err(Wrong::new(
            text,
            "the name of an interface: at most 15 characters, no `/`, `:`, `%` or blank, none of Linux's own",
        ))
    }
}

fn http(text: &Text) -> Result<Option<HttpAddress>, Wrong> {
    if text.text.as_str() == "off" {
        return Ok(None);
    }
    text.text.parse().map(Some).map_err(|error: BadHttpAddress| Wrong::new(text, error.to_string()))
}

fn control(text: &Text) -> Result<ControlUri, Wrong> {
    text.text.parse().map_err(|error: BadControlUri| Wrong::new(text, error.to_string()))
}

/// A text is no [`ControlUri`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`unix:///absolute/path` or `tcp://address:port` with a loopback address")]
pub struct BadControlUri;

impl FromStr for ControlUri {
    type Err = BadControlUri;

    fn from_str(text: &str) -> Result<Self, BadControlUri> {
        if let Some(path) = text.strip_prefix("unix://") {
            // The path names a file, and sockaddr_un has room for 107 octets of it.
            let fits =
                path.starts_with('/') && !path.ends_with('/') && path.len() <= 107 && !path.contains('\0');
            return if fits { Ok(Self::Unix(path.into())) } else { Err(BadControlUri) };
        }
        let address: SocketAddr =
            text.strip_prefix("tcp://").and_then(|rest| rest.parse().ok()).ok_or(BadControlUri)?;
        if address.ip().is_loopback() && address.port() != 0 {
            Ok(Self::Tcp(address))
        } else {
            Err(BadControlUri)
        }
    }
}

impl fmt::Display for ControlUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl Default for ControlUri {
    fn default() -> Self {
        Self::Unix("/run/adit/adit.vici".into())
    }
}
