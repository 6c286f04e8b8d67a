//! Names in certificates: what they look like to a person, and when two are the same.
//!
//! This module owns [`Name`] and [`AltName`], the text of distinguished names and their comparison. It never decides whom a name
//! belongs to.
//!
//! Two distinguished names are the same if they have the same relative names in the same order, each with the same
//! attributes (RFC 5280 7.1). Values of the types PrintableString, UTF8String and IA5String are compared as text, without
//! regard to ASCII case and to the number of spaces; everything else octet for octet. What lies beyond ASCII is not
//! folded, so that no name is taken for another that only looks like it. There are no wildcards.

use std::fmt;
use std::net::IpAddr;

use der::asn1::{Any, ObjectIdentifier};
use der::{Decode, Encode, Tag, Tagged};
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::name::{RdnSequence, RelativeDistinguishedName};

/// More relative names than any real name has.
const MAX_RDNS: usize = 128;
/// More attributes than any real relative name has.
const MAX_ATTRIBUTES: usize = 16;

/// A name that a peer claims, to be compared with what its certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    /// A distinguished name, as the DER of its `Name`.
    Dn(&'a [u8]),
    /// A domain name.
    Dns(&'a str),
    /// A mail address.
    Email(&'a str),
    /// An address.
    Ip(IpAddr),
}

/// A name that a certificate carries in its subject alternative names, or one to look for in certificates.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum AltName {
    /// A distinguished name, as the DER of its `Name`.
    Dn(Box<[u8]>),
    /// A domain name.
    Dns(Box<str>),
    /// A mail address.
    Email(Box<str>),
    /// An address.
    Ip(IpAddr),
}

impl From<Name<'_>> for AltName {
    fn from(name: Name<'_>) -> Self {
        match name {
            Name::Dn(der) => Self::Dn(der.into()),
            Name::Dns(name) => Self::Dns(name.into()),
            Name::Email(address) => Self::Email(address.into()),
            Name::Ip(address) => Self::Ip(address),
        }
    }
}

impl AltName {
    /// The same, borrowed.
    #[must_use]
    pub fn as_name(&self) -> Name<'_> {
        match self {
            Self::Dn(der) => Name::Dn(der),
            Self::Dns(name) => Name::Dns(name),
            Self::Email(address) => Name::Email(address),
            Self::Ip(address) => Name::Ip(*address),
        }
    }
}

impl fmt::Debug for AltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for AltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_name().fmt(f)
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dn(der) => f.write_str(&shown(der)),
            Self::Dns(text) | Self::Email(text) => write!(f, "{}", text.escape_default()),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

impl Name<'_> {
    /// Is it the same name of the same type?
    ///
    /// Domain names compare without regard to ASCII case, as does the part of a mail address after the `@`
    /// (RFC 5280 7.2, 7.5). A name with a `*` is the same as none: wildcards mean nothing to IKE (RFC 4945 3.1).
    #[must_use]
    pub fn same_as(&self, other: &Name<'_>) -> bool {
        match (self, other) {
            (Self::Dn(a), Name::Dn(b)) => dn_eq(a, b),
            (Self::Dns(a), Name::Dns(b)) => plain(a) && a.eq_ignore_ascii_case(b),
            (Self::Email(a), Name::Email(b)) => match (a.rsplit_once('@'), b.rsplit_once('@')) {
                (Some((local_a, host_a)), Some((local_b, host_b))) => {
                    plain(a) && local_a == local_b && host_a.eq_ignore_ascii_case(host_b)
                }
                _ => false,
            },
            (Self::Ip(a), Name::Ip(b)) => a == b,
            _ => false,
        }
    }
}

/// Can a domain name or mail address stand for one host or mailbox only?
fn plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'*')
}

/// Are these two distinguished names, given as DER, the same? What is no name is the same as nothing, and neither is
/// the empty name.
#[must_use]
pub fn dn_eq(a: &[u8], b: &[u8]) -> bool {
    match (Dn::parse(a), Dn::parse(b)) {
        (Ok(a), Ok(b)) => !a.0.is_empty() && a.same_as(&b, Value::fold),
        _ => false,
    }
}

/// The text of a distinguished name in its own order, as strongSwan prints it: `C=CH, O=strongSwan, CN=moon`.
///
/// Where strongSwan would be ambiguous, `,`, `+`, `"` and `\` get a backslash before them, and what cannot be shown safely comes out
/// as `\` and two hexadecimal digits an octet, so that [`dn_from_text`] reads the same name from it.
///
/// # Errors
///
/// [`NameError::Der`] if it is no distinguished name.
pub fn dn_to_text(der: &[u8]) -> Result<String, NameError> {
    let dn = Dn::parse(der)?;
    let mut text = String::new();
    for (i, rdn) in dn.0.iter().enumerate() {
        if i > 0 {
            text.push_str(", ");
        }
        for (j, attribute) in rdn.iter().enumerate() {
            if j > 0 {
                text.push_str(" + ");
            }
            match keyword_of(&attribute.oid) {
                Some(keyword) => text.push_str(keyword),
                None => text.push_str(&attribute.oid.to_string()),
            }
            text.push('=');
            push_value(&mut text, &attribute.value);
        }
    }
    Ok(text)
}

/// Reads a distinguished name as `swanctl.conf` has it, and returns its DER: `C=CH, O=strongSwan, CN=moon`, or with slashes,
/// `/C=CH/O=strongSwan/CN=moon`.
///
/// A backslash takes the next character literally, or stands with two hexadecimal digits for an octet; a value between
/// double quotes is literal up to the closing one; `#` and hexadecimal digits are the DER of any value. A `+` joins
/// attributes to one relative name if another attribute follows. Types are strongSwan's keywords or dotted numbers.
///
/// # Errors
///
/// [`NameError`] says what is wrong with the text.
pub fn dn_from_text(text: &str) -> Result<Vec<u8>, NameError> {
    let (rest, separator) = match text.trim().strip_prefix('/') {
        Some(rest) => (rest, '/'),
        None => (text.trim(), ','),
    };
    let mut rdns: Vec<RelativeDistinguishedName> = Vec::new();
    let mut attributes: Vec<AttributeTypeAndValue> = Vec::new();
    let mut rest = rest;
    loop {
        let (keyword, value) = rest
            .split_once('=')
            .ok_or_else(|| NameError::NoValue { attribute: rest.trim().escape_default().to_string() })?;
        let oid = oid_of(keyword.trim())
            .ok_or_else(|| NameError::Keyword { keyword: keyword.trim().escape_default().to_string() })?;
        let (value, end) = read_value(value, separator)?;
        if attributes.iter().any(|a| a.oid == oid) {
            return Err(NameError::Twice);
        }
        attributes.push(AttributeTypeAndValue { oid, value: value.encode(&oid)? });
        if attributes.len() > MAX_ATTRIBUTES || rdns.len() >= MAX_RDNS {
            return Err(NameError::TooLong);
        }
        if let End::Attribute(after) = end {
            rest = after;
            continue;
        }
        let set = std::mem::take(&mut attributes);
        rdns.push(RelativeDistinguishedName::try_from(set).map_err(|_| NameError::TooLong)?);
        match end {
            End::Rdn(after) => rest = after,
            End::Attribute(_) | End::Text => break,
        }
    }
    RdnSequence::from(rdns).to_der().map_err(|_| NameError::TooLong)
}

/// What is wrong with a distinguished name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not the DER of a distinguished name.
    #[error("this is not the DER encoding of a distinguished name")]
    Der,
    /// Something without `=`.
    #[error("expected TYPE=value instead of '{attribute}' in a distinguished name")]
    NoValue {
        /// What stands there.
        attribute: String,
    },
    /// An attribute type nobody knows.
    #[error(
        "'{keyword}' is no attribute of a distinguished name; write its number (1.2.3.4=value) if it has no name"
    )]
    Keyword {
        /// What stands there.
        keyword: String,
    },
    /// An attribute without a value.
    #[error("an attribute of the distinguished name has no value")]
    Empty,
    /// A backslash or a quotation mark with nothing behind it, or text after a quoted value.
    #[error("a quotation in the distinguished name does not end, or something follows it")]
    Quotation,
    /// Bad `#...`, or octets that are no text.
    #[error("expected # and the DER of a value in hexadecimal digits, or UTF-8, in the distinguished name")]
    Value,
    /// The same attribute twice in one relative name.
    #[error("an attribute occurs twice between two separators of the distinguished name")]
    Twice,
    /// More than a name can have.
    #[error("the distinguished name has too many attributes")]
    TooLong,
}

/// A distinguished name for people, whatever the octets are; never longer than a line.
pub(crate) fn shown(der: &[u8]) -> String {
    const LINE: usize = 200;
    let mut text = dn_to_text(der).unwrap_or_else(|_| "(not a distinguished name)".to_owned());
    if let Some((cut, _)) = text.char_indices().nth(LINE) {
        text.truncate(cut);
        text.push_str("...");
    }
    text
}

/// A parsed distinguished name of bounded size.
pub(crate) struct Dn(RdnSequence);

impl Dn {
    pub(crate) fn parse(der: &[u8]) -> Result<Self, NameError> {
        let rdns = RdnSequence::from_der(der).map_err(|_| NameError::Der)?;
        let fits = rdns.len() <= MAX_RDNS && rdns.iter().all(|r| !r.is_empty() && r.len() <= MAX_ATTRIBUTES);
        if fits { Ok(Self(rdns)) } else { Err(NameError::Der) }
    }

    /// Same relative names in the same order, values compared as `fold` sees them.
    fn same_as(&self, other: &Self, fold: impl Fn(&Any) -> Value + Copy) -> bool {
        self.0.len() == other.0.len() && self.begins_with(other, fold)
    }

    pub(crate) fn begins_with(&self, start: &Self, fold: impl Fn(&Any) -> Value + Copy) -> bool {
        self.0.len() >= start.0.len() && self.0.iter().zip(start.0.iter()).all(|(a, b)| same_rdn(a, b, fold))
    }
}

/// The order of the attributes of one relative name means nothing; it is a set.
fn same_rdn(
    a: &RelativeDistinguishedName,
    b: &RelativeDistinguishedName,
    fold: impl Fn(&Any) -> Value + Copy,
) -> bool {
    let set = |rdn: &RelativeDistinguishedName| {
        let mut all: Vec<_> = rdn.iter().map(|t| (t.oid, fold(&t.value))).collect();
        all.sort_unstable();
        all
    };
    a.len() == b.len() && set(a) == set(b)
}

/// A value as it is compared.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    Text(String),
    Other(Vec<u8>),
}

impl Value {
    pub(crate) fn fold(value: &Any) -> Self {
        match text_of(value) {
            Some(text) => {
                let words: Vec<&str> = text.split(' ').filter(|w| !w.is_empty()).collect();
                Self::Text(words.join(" ").to_ascii_lowercase())
            }
            None => Self::Other(value.to_der().unwrap_or_default()),
        }
    }
}

fn text_of(value: &Any) -> Option<&str> {
    matches!(value.tag(), Tag::PrintableString | Tag::Utf8String | Tag::Ia5String)
        .then(|| std::str::from_utf8(value.value()).ok())
        .flatten()
}

fn push_value(out: &mut String, value: &Any) {
    use fmt::Write;
    let Some(text) = text_of(value) else {
        out.push('#');
        for octet in value.to_der().unwrap_or_default() {
            let _ = write!(out, "{octet:02x}");
        }
        return;
    };
    let last = text.len().saturating_sub(1);
    for (i, c) in text.char_indices() {
        match c {
            ',' | '+' | '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '#' if i == 0 => out.push_str("\\#"),
            ' ' if i == 0 || i == last => out.push_str("\\20"),
            c if c.is_ascii_graphic() || c == ' ' || (!c.is_ascii() && c.is_alphanumeric()) => out.push(c),
            c => {
                for octet in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(out, "\\{octet:02x}");
                }
            }
        }
    }
}

/// What comes after a value.
enum End<'a> {
    Attribute(&'a str),
    Rdn(&'a str),
    Text,
}

/// A value as it was written.
enum Written {
    Text(String),
    Der(Any),
}

impl Written {
    /// Mail addresses and domain components are IA5String (RFC 5280 Appendix A), the rest PrintableString where that can
    /// hold it, as strongSwan has it, or UTF8String. Comparison does not distinguish them.
    fn encode(self, oid: &ObjectIdentifier) -> Result<Any, NameError> {
        let text = match self {
            Self::Der(any) => return Ok(any),
            Self::Text(text) => text,
        };
        let printable = |b: u8| b.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&b);
        let tag = match keyword_of(oid) {
            Some("E" | "DC") if text.is_ascii() => Tag::Ia5String,
            _ if text.bytes().all(printable) => Tag::PrintableString,
            _ => Tag::Utf8String,
        };
        Any::new(tag, text.into_bytes()).map_err(|_| NameError::TooLong)
    }
}

fn read_value(text: &str, separator: char) -> Result<(Written, End<'_>), NameError> {
    let text = text.trim_start();
    if let Some(digits) = text.strip_prefix('#') {
        let (digits, end) = match digits.find([separator, '+']) {
            Some(at) => {
                let (digits, after) = digits.split_at_checked(at).ok_or(NameError::Value)?;
                let mut after = after.chars();
                let end = if after.next() == Some('+') { End::Attribute } else { End::Rdn };
                (digits, end(after.as_str()))
            }
            None => (digits, End::Text),
        };
        let any = hexadecimal(digits.trim()).and_then(|der| Any::from_der(&der).ok());
        return Ok((Written::Der(any.ok_or(NameError::Value)?), end));
    }
    let mut octets = Vec::new();
    // How much of `octets` must stay, because it was quoted.
    let mut literal = 0;
    let mut chars = text.chars();
    let mut quoted = false;
    let end = loop {
        let before = chars.as_str();
        let Some(c) = chars.next() else {
            break End::Text;
        };
        match c {
            '"' if quoted => {
                quoted = false;
                let after = chars.as_str().trim_start();
                if after.is_empty() {
                    break End::Text;
                } else if let Some(after) = after.strip_prefix(separator) {
                    break End::Rdn(after);
                } else if let Some(after) = after.strip_prefix('+') {
                    break End::Attribute(after);
                }
                return Err(NameError::Quotation);
            }
            '"' if octets.is_empty() => quoted = true,
            '\\' => {
                let escaped = chars.next().ok_or(NameError::Quotation)?;
                let pair = escaped.to_digit(16).zip(chars.clone().next().and_then(|c| c.to_digit(16)));
                match pair.and_then(|(high, low)| u8::try_from(high << 4 | low).ok()) {
                    Some(octet) => {
                        octets.push(octet);
                        chars.next();
                    }
                    None => octets.extend_from_slice(escaped.encode_utf8(&mut [0; 4]).as_bytes()),
                }
                literal = octets.len();
            }
            c if quoted => {
                octets.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                literal = octets.len();
            }
            c if c == separator => break End::Rdn(chars.as_str()),
            '+' if attribute_follows(chars.as_str()) => break End::Attribute(chars.as_str()),
            _ => octets.extend_from_slice(before.get(..c.len_utf8()).unwrap_or_default().as_bytes()),
        }
    };
    if quoted {
        return Err(NameError::Quotation);
    }
    while octets.len() > literal && octets.last() == Some(&b' ') {
        octets.pop();
    }
    if octets.is_empty() {
        return Err(NameError::Empty);
    }
    Ok((Written::Text(String::from_utf8(octets).map_err(|_| NameError::Value)?), end))
}

fn attribute_follows(text: &str) -> bool {
    text.split_once('=').is_some_and(|(keyword, _)| oid_of(keyword.trim()).is_some())
}

fn hexadecimal(digits: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = digits.chars().map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| u8::try_from(high << 4 | low).ok()).collect()
}

/// strongSwan's keywords; the first of an attribute is the one it is printed with.
const KEYWORDS: &[(&str, ObjectIdentifier)] = &[
    ("CN", ObjectIdentifier::new_unwrap("2.5.4.3")),
    ("C", ObjectIdentifier::new_unwrap("2.5.4.6")),
    ("L", ObjectIdentifier::new_unwrap("2.5.4.7")),
    ("ST", ObjectIdentifier::new_unwrap("2.5.4.8")),
    ("O", ObjectIdentifier::new_unwrap("2.5.4.10")),
    ("OU", ObjectIdentifier::new_unwrap("2.5.4.11")),
    ("E", ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1")),
    ("Email", ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1")),
    ("emailAddress", ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1")),
    ("DC", ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.25")),
    ("UID", ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.1")),
    ("SN", ObjectIdentifier::new_unwrap("2.5.4.4")),
    ("S", ObjectIdentifier::new_unwrap("2.5.4.4")),
    ("serialNumber", ObjectIdentifier::new_unwrap("2.5.4.5")),
    ("T", ObjectIdentifier::new_unwrap("2.5.4.12")),
    ("D", ObjectIdentifier::new_unwrap("2.5.4.13")),
    ("STREET", ObjectIdentifier::new_unwrap("2.5.4.9")),
    ("postalAddress", ObjectIdentifier::new_unwrap("2.5.4.16")),
    ("postalCode", ObjectIdentifier::new_unwrap("2.5.4.17")),
    ("N", ObjectIdentifier::new_unwrap("2.5.4.41")),
    ("G", ObjectIdentifier::new_unwrap("2.5.4.42")),
    ("GN", ObjectIdentifier::new_unwrap("2.5.4.42")),
    ("I", ObjectIdentifier::new_unwrap("2.5.4.43")),
    ("ID", ObjectIdentifier::new_unwrap("2.5.4.45")),
    ("dnQualifier", ObjectIdentifier::new_unwrap("2.5.4.46")),
    ("pseudonym", ObjectIdentifier::new_unwrap("2.5.4.65")),
    ("EN", ObjectIdentifier::new_unwrap("2.16.840.1.113730.3.1.3")),
    ("employeeNumber", ObjectIdentifier::new_unwrap("2.16.840.1.113730.3.1.3")),
    ("unstructuredName", ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.2")),
    ("UN", ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.2")),
    ("unstructuredAddress", ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.8")),
    ("UA", ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.8")),
];

fn keyword_of(oid: &ObjectIdentifier) -> Option<&'static str> {
    KEYWORDS.iter().find(|(_, o)| o == oid).map(|(k, _)| *k)
}

fn oid_of(keyword: &str) -> Option<ObjectIdentifier> {
    KEYWORDS
        .iter()
        .find(|(k, _)| k.eq_ignore_ascii_case(keyword))
        .map(|(_, oid)| *oid)
        .or_else(|| ObjectIdentifier::new(keyword).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dn(text: &str) -> Vec<u8> {
        dn_from_text(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    /// A name with one attribute, from a tag and octets that nothing has checked.
    fn raw(tag: u8, value: &[u8]) -> Vec<u8> {
        let n = u8::try_from(value.len()).unwrap();
        let head = [0x30, n + 11, 0x31, n + 9, 0x30, n + 7, 6, 3, 0x55, 4, 3, tag, n];
        [head.as_slice(), value].concat()
    }

    /// The octets are counted by hand from X.690.
    #[test]
    fn the_text_of_a_name_becomes_der_and_back() {
        let expected: &[u8] = &[
            0x30, 0x1d, // Name
            0x31, 0x0b, 0x30, 0x09, 6, 3, 0x55, 4, 6, 0x13, 2, b'C', b'H', // C
            0x31, 0x0e, 0x30, 0x0c, 6, 3, 0x55, 4, 3, 0x0c, 5, b'm', 0xc3, 0xb6, b'\'', b'n',
        ];
        assert_eq!(dn("C=CH, CN=mö'n"), expected);
        assert_eq!(dn("/C=CH/CN=mö'n"), expected);
        assert_eq!(dn_to_text(expected).unwrap(), "C=CH, CN=mö'n");
    }

    #[test]
    fn what_would_be_ambiguous_is_escaped() {
        let cases = [
            (r"O=Smith\, Jones, CN=a", r"O=Smith\, Jones, CN=a"),
            (r#"O="Smith, Jones" , CN=a"#, r"O=Smith\, Jones, CN=a"),
            (r"CN=\20a\20", r"CN=\20a\20"),
            (r"CN=\#1", r"CN=\#1"),
            (r"CN=C+D", r"CN=C\+D"),
            (r"CN=a+OU=b", "CN=a + OU=b"),
            (r"cn=a/b=c", "CN=a/b=c"),
            (r"/CN=a, b", r"CN=a\, b"),
            ("1.2.3.4=x", "1.2.3.4=x"),
            ("CN=#1e020061", "CN=#1e020061"),
            ("CN=#1e020061, O=x", "CN=#1e020061, O=x"),
            ("CN=a\u{202e}b", r"CN=a\e2\80\aeb"),
            ("CN=a\nb", r"CN=a\0ab"),
        ];
        for (text, shown) in cases {
            assert_eq!(dn_to_text(&dn(text)).unwrap(), shown, "{text}");
            assert_eq!(dn(shown), dn(text), "{text}");
        }
    }

    #[test]
    fn bad_texts_say_why() {
        let cases = [
            ("", NameError::NoValue { attribute: String::new() }),
            ("C=CH, moon", NameError::NoValue { attribute: "moon".to_owned() }),
            ("C=CH, XX=moon", NameError::Keyword { keyword: "XX".to_owned() }),
            ("CN=", NameError::Empty),
            ("CN=\"a", NameError::Quotation),
            ("CN=\"a\"b", NameError::Quotation),
            ("CN=a\\", NameError::Quotation),
            ("CN=#13", NameError::Value),
            ("CN=\\ff", NameError::Value),
            ("CN=a+CN=b", NameError::Twice),
        ];
        for (text, error) in cases {
            assert_eq!(dn_from_text(text), Err(error), "{text}");
        }
    }

    #[test]
    fn names_are_compared_as_rfc_5280_demands() {
        assert!(dn_eq(&raw(0x13, b"Moon Base"), &raw(0x0c, b"  moon   bASE ")));
        assert!(!dn_eq(&raw(0x13, b"moon base"), &raw(0x13, b"moonbase")));
        assert!(!dn_eq(&raw(0x14, b"moon"), &raw(0x13, b"moon")), "T61String is octets");
        assert!(dn_eq(&raw(0x14, b"moon"), &raw(0x14, b"moon")));
        assert!(!dn_eq(&dn("C=CH, CN=a"), &dn("CN=a, C=CH")), "order counts");
        assert!(!dn_eq(&dn("C=CH, CN=a"), &dn("C=CH")) && !dn_eq(&dn("C=CH"), &dn("C=CH, CN=a")));
        assert!(!dn_eq(&dn("CN=a + OU=b"), &dn("CN=a, OU=b")));
        assert!(dn_eq(&dn("CN=A + OU=b"), &dn("OU=B + CN=a")), "a relative name is a set");
        assert!(!dn_eq(&dn("CN=a"), &dn("OU=a")));
        // A wildcard is a character; strongSwan's patterns are no identities.
        assert!(!dn_eq(&dn("CN=*"), &dn("CN=a")));
        assert!(!dn_eq(&[0x30, 0], &[0x30, 0]), "nobody is called nothing");
    }

    /// Class 7 of the history of others: what only looks or folds alike is not the same.
    #[test]
    fn class_7_names_that_look_alike_differ() {
        assert!(
            !dn_eq(&raw(0x0c, "Kelvin".as_bytes()), &raw(0x0c, "\u{212a}elvin".as_bytes())),
            "Kelvin sign"
        );
        assert!(!dn_eq(&raw(0x0c, "paypal".as_bytes()), &raw(0x0c, "p\u{430}ypal".as_bytes())), "Cyrillic");
        assert!(!dn_eq(&raw(0x0c, b"moon\0.evil"), &raw(0x0c, b"moon")), "NUL ends nothing");
        assert!(!dn_eq(&raw(0x0c, b"moon\xa0"), &raw(0x0c, b"moon")), "not UTF-8: octets");
        let dns = |a, b| Name::Dns(a).same_as(&Name::Dns(b));
        assert!(dns("Moon.example.org", "moon.EXAMPLE.org"));
        assert!(!dns("moon.example.org.", "moon.example.org"));
        assert!(!dns("*.example.org", "*.example.org") && !dns("*.example.org", "a.example.org"));
        assert!(!dns("evil-moon.example.org", "moon.example.org") && !dns("moon.example.org", "example.org"));
        let mail = |a, b| Name::Email(a).same_as(&Name::Email(b));
        assert!(mail("joe@Example.org", "joe@example.ORG"));
        assert!(!mail("Joe@example.org", "joe@example.org"), "RFC 5280 7.5");
        assert!(!mail("joe", "joe") && !Name::Email("a@b").same_as(&Name::Dns("a@b")));
    }

    /// A length of one octet more than there is compared beyond the end elsewhere (CVE-2013-6075).
    #[test]
    fn class_7_names_that_are_no_names_are_nothing() {
        let good = dn("C=CH, CN=moon");
        for end in 0..good.len() {
            assert!(!dn_eq(&good[..end], &good[..end]), "{end}");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert!(!dn_eq(&longer, &longer));
        assert_eq!(dn_to_text(&longer), Err(NameError::Der));
        assert!(dn_eq(&good, &good));
    }

    proptest! {
        #[test]
        fn any_name_reads_back_from_its_text(values in proptest::collection::vec((0..KEYWORDS.len(), "\\PC{1,20}|[ -~]{1,20}"), 1..6)) {
            let rdns: Vec<RelativeDistinguishedName> = values
                .into_iter()
                .map(|(i, text)| {
                    let value = Any::new(Tag::Utf8String, text.into_bytes()).unwrap();
                    RelativeDistinguishedName::try_from(vec![AttributeTypeAndValue { oid: KEYWORDS[i].1, value }]).unwrap()
                })
                .collect();
            let der = RdnSequence::from(rdns).to_der().unwrap();
            let text = dn_to_text(&der).unwrap();
            prop_assert!(dn_eq(&dn(&text), &der), "{}", text);
        }

        #[test]
        fn no_text_and_no_octets_do_harm(text in "\\PC*", octets in any::<Vec<u8>>()) {
            let _ = dn_from_text(&text);
            let _ = dn_to_text(&octets);
            let _ = dn_eq(&octets, &octets);
        }
    }
}
