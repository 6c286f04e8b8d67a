//! Identities of peers: what the wire carries, how an operator writes them, and which patterns accept them.
//!
//! An [`Identity`] is exactly what goes into an IDi or IDr payload (RFC 7296 3.5). An [`IdentityPattern`] is what a
//! configuration says about the peer's. Nothing here decides who is authentic; that is the business of IKE_AUTH.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use adit_cert::{Name, dn_eq, dn_from_text, dn_to_text};
use adit_wire::ikev2::{IdType, Identification};

/// Longest part of an identity shown to a person.
const SHOWN: usize = 128;

/// One identity: an ID type and its octets.
///
/// Domain names and mail addresses compare without regard to ASCII case, as DNS does, distinguished names as RFC 5280 7.1 has
/// it; everything else by octets.
#[derive(Clone)]
pub struct Identity {
    id_type: IdType,
    data: Vec<u8>,
}

impl Identity {
    /// `ID_IPV4_ADDR` or `ID_IPV6_ADDR`.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => Self { id_type: IdType::IPV4_ADDR, data: a.octets().to_vec() },
            IpAddr::V6(a) => Self { id_type: IdType::IPV6_ADDR, data: a.octets().to_vec() },
        }
    }

    /// `ID_FQDN`.
    #[must_use]
    pub fn fqdn(name: &str) -> Self {
        Self { id_type: IdType::FQDN, data: name.as_bytes().to_vec() }
    }

    /// `ID_RFC822_ADDR`.
    #[must_use]
    pub fn email(address: &str) -> Self {
        Self { id_type: IdType::RFC822_ADDR, data: address.as_bytes().to_vec() }
    }

    /// `ID_DER_ASN1_DN`, from the DER of a name.
    #[must_use]
    pub fn distinguished_name(der: &[u8]) -> Self {
        Self { id_type: IdType::DER_ASN1_DN, data: der.to_vec() }
    }

    /// `ID_KEY_ID`: octets that mean something to both sides only.
    #[must_use]
    pub fn key_id(octets: &[u8]) -> Self {
        Self { id_type: IdType::KEY_ID, data: octets.to_vec() }
    }

    /// Reads an IDi or IDr payload.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Length`] if an address has the wrong length or any other identity is empty.
    pub fn from_wire(payload: &Identification) -> Result<Self, IdentityError> {
        let fits = match payload.id_type {
            IdType::IPV4_ADDR => payload.data.len() == 4,
            IdType::IPV6_ADDR => payload.data.len() == 16,
            _ => !payload.data.is_empty(),
        };
        if !fits {
            return Err(IdentityError::Length { id_type: payload.id_type, length: payload.data.len() });
        }
        Ok(Self { id_type: payload.id_type, data: payload.data.clone() })
    }

    /// The IDi or IDr payload.
    #[must_use]
    pub fn to_wire(&self) -> Identification {
        Identification::new(self.id_type, self.data.clone())
    }

    /// Its type.
    #[must_use]
    pub fn id_type(&self) -> IdType {
        self.id_type
    }

    /// Its octets.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The address, if it is one.
    #[must_use]
    pub fn as_address(&self) -> Option<IpAddr> {
        match self.id_type {
            IdType::IPV4_ADDR => {
                <[u8; 4]>::try_from(self.data.as_slice()).ok().map(|a| IpAddr::V4(Ipv4Addr::from(a)))
            }
            IdType::IPV6_ADDR => {
                <[u8; 16]>::try_from(self.data.as_slice()).ok().map(|a| IpAddr::V6(Ipv6Addr::from(a)))
            }
            _ => None,
        }
    }

    /// What a certificate has to say in order to be this identity's (RFC 4945 3.1); `None` for what no certificate says.
    #[must_use]
    pub fn as_name(&self) -> Option<Name<'_>> {
        let text = || std::str::from_utf8(&self.data).ok();
        match self.id_type {
            IdType::DER_ASN1_DN => Some(Name::Dn(&self.data)),
            IdType::FQDN => text().map(Name::Dns),
            IdType::RFC822_ADDR => text().map(Name::Email),
            _ => self.as_address().map(Name::Ip),
        }
    }

    fn dn_text(&self) -> Option<String> {
        (self.id_type == IdType::DER_ASN1_DN).then(|| dn_to_text(&self.data).ok()).flatten()
    }

    fn ignores_case(&self) -> bool {
        matches!(self.id_type, IdType::FQDN | IdType::RFC822_ADDR)
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.id_type == other.id_type
            && match self.id_type {
                _ if self.data == other.data => true,
                IdType::DER_ASN1_DN => dn_eq(&self.data, &other.data),
                _ => self.ignores_case() && self.data.eq_ignore_ascii_case(&other.data),
            }
    }
}

impl Eq for Identity {}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id_type.hash(state);
        if let Some(text) = self.dn_text() {
            // Names that are the same differ in case and blanks at most.
            let folded = text.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase);
            folded.for_each(|c| c.hash(state));
        } else if self.ignores_case() {
            self.data.to_ascii_lowercase().hash(state);
        } else {
            self.data.hash(state);
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// An identity as an operator would write it. What a peer sent is hostile: octets that are not plain printable
/// ASCII come out as hexadecimal, and nothing comes out longer than a line.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.as_address() {
            return write!(f, "{address}");
        }
        // What would not be read back as it is shown in hexadecimal.
        let dn = self.dn_text().filter(|text| {
            text.len() <= 2 * SHOWN
                && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
                && text.contains('=')
        });
        if let Some(text) = dn {
            return f.write_str(&text);
        }
        let prefix = match self.id_type {
            IdType::FQDN | IdType::RFC822_ADDR => String::new(),
            IdType::KEY_ID => "keyid:".to_owned(),
            IdType::DER_ASN1_DN => "asn1dn:".to_owned(),
            IdType::DER_ASN1_GN => "asn1gn:".to_owned(),
            other => format!("{{{}}}:", other.0),
        };
        let text = std::str::from_utf8(&self.data)
            .ok()
            .filter(|t| t.bytes().all(|b| b.is_ascii_graphic()) && !t.starts_with('#'));
        // A name whose text alone would be read back as another type gets its prefix.
        let prefix = match (self.id_type, text) {
            (IdType::FQDN, Some(t)) if auto_typed(t).as_ref() != Ok(self) => "fqdn:".to_owned(),
            (IdType::FQDN, None) => "fqdn:".to_owned(),
            (IdType::RFC822_ADDR, Some(t)) if auto_typed(t).as_ref() != Ok(self) => "email:".to_owned(),
            (IdType::RFC822_ADDR, None) => "email:".to_owned(),
            _ => prefix,
        };
        f.write_str(&prefix)?;
        match text {
            Some(text) if text.len() <= SHOWN => f.write_str(text),
            Some(text) => write!(f, "{}... ({} octets)", text.get(..SHOWN).unwrap_or_default(), text.len()),
            None => {
                f.write_str("#")?;
                for octet in self.data.iter().take(SHOWN / 2) {
                    write!(f, "{octet:02x}")?;
                }
                if self.data.len() > SHOWN / 2 {
                    write!(f, "... ({} octets)", self.data.len())?;
                }
                Ok(())
            }
        }
    }
}

/// Reads an identity as `swanctl.conf` writes it: typed by its looks (`10.0.0.1`, `gw.example.com`,
/// `joe@example.com`, `@name` for a name, `@@joe@example.com` for mail, `@#0a0b` for a key ID) or by a prefix
/// (`ipv4:`, `ipv6:`, `fqdn:`, `dns:`, `rfc822:`, `email:`, `userfqdn:`, `keyid:`, `asn1dn:`, `asn1gn:`, `{n}:`),
/// with `#` for hexadecimal after a prefix.
impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        match text.parse::<IdentityPattern>()? {
            IdentityPattern::Exact(identity) => Ok(identity),
            _ => Err(IdentityError::Pattern),
        }
    }
}

/// What a configuration accepts as the peer's identity, or as the owner of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityPattern {
    /// `%any`.
    Any,
    /// One identity.
    Exact(Identity),
    /// `*.example.com` or `*@example.com`: a name or mail address that ends so.
    Suffix(IdType, String),
    /// An address within a range, from `10.0.0.0/8` or `10.0.0.1-10.0.0.9`.
    Addresses(IpAddr, IpAddr),
}

/// How well a pattern fits an identity; greater is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// Only because anything does.
    Any,
    /// By a wildcard or a range.
    Pattern,
    /// Exactly.
    Exact,
}

impl IdentityPattern {
    /// Does it accept `identity`, and how well?
    #[must_use]
    pub fn fit(&self, identity: &Identity) -> Option<Fit> {
        match self {
            Self::Any => Some(Fit::Any),
            Self::Exact(own) => (own == identity).then_some(Fit::Exact),
            Self::Suffix(id_type, suffix) => {
                let start = identity.data.len().checked_sub(suffix.len())?;
                let tail = identity.data.get(start..)?;
                (identity.id_type == *id_type && start > 0 && tail.eq_ignore_ascii_case(suffix.as_bytes()))
                    .then_some(Fit::Pattern)
            }
            Self::Addresses(first, last) => {
                let address = identity.as_address()?;
                (first.is_ipv4() == address.is_ipv4() && *first <= address && address <= *last)
                    .then_some(Fit::Pattern)
            }
        }
    }

    /// Can both accept one identity, and how surely?
    pub(crate) fn meets(&self, other: &Self) -> Option<Fit> {
        match (self, other) {
            (Self::Exact(identity), pattern) | (pattern, Self::Exact(identity)) => pattern.fit(identity),
            (one, another) if one == another => Some(Fit::Pattern),
            _ => Some(Fit::Any),
        }
    }

    /// The one identity it accepts, if it accepts one only.
    #[must_use]
    pub fn exact(&self) -> Option<&Identity> {
        match self {
            Self::Exact(identity) => Some(identity),
            _ => None,
        }
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("%any"),
            Self::Exact(identity) => identity.fmt(f),
            Self::Suffix(_, suffix) => write!(f, "*{suffix}"),
            Self::Addresses(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl FromStr for IdentityPattern {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if matches!(text, "" | "%any" | "%any6" | "*" | "0.0.0.0" | "::" | "0::0") {
            return Ok(Self::Any);
        }
        if let Some(prefixed) = prefixed(text) {
            return prefixed;
        }
        if let Some(suffix) = text.strip_prefix('*') {
            let id_type = if suffix.contains('@') { IdType::RFC822_ADDR } else { IdType::FQDN };
            return suffix_pattern(id_type, suffix);
        }
        if let Some(range) = address_range(text) {
            return Ok(range);
        }
        auto_typed(text).map(Self::Exact)
    }
}

/// Why a text is no identity, or a payload none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// A pattern where one identity is needed.
    #[error("one identity is needed here, not a pattern")]
    Pattern,
    /// Not what a distinguished name looks like.
    #[error("not a distinguished name like C=CH, O=Example, CN=gw: {0}")]
    DistinguishedName(#[from] adit_cert::NameError),
    /// Other names of X.500 are written as DER in hexadecimal only.
    #[error("a general name must be written as asn1gn:#<DER in hexadecimal>")]
    GeneralName,
    /// `type:^...$`.
    #[error("regular expressions in identities are not supported")]
    RegularExpression,
    /// `*` elsewhere than at the start.
    #[error("a wildcard is allowed only at the start of a name or mail address")]
    Wildcard,
    /// After `#`.
    #[error("expected an even number of hexadecimal digits after #")]
    Hexadecimal,
    /// After `ipv4:` or `ipv6:`.
    #[error("expected an address after {prefix}")]
    Address {
        /// The prefix.
        prefix: &'static str,
    },
    /// Nothing where something is needed.
    #[error("the identity is empty")]
    Empty,
    /// An ID payload of the wrong length.
    #[error("an identity of type {id_type} cannot have {length} octets")]
    Length {
        /// Its type.
        id_type: IdType,
        /// Its length.
        length: usize,
    },
}

/// Texts with a type prefix; `None` if there is none.
fn prefixed(text: &str) -> Option<Result<IdentityPattern, IdentityError>> {
    let (prefix, value) = text.split_once(':')?;
    let id_type = match prefix {
        "ipv4" => IdType::IPV4_ADDR,
        "ipv6" => IdType::IPV6_ADDR,
        "fqdn" | "dns" => IdType::FQDN,
        "rfc822" | "email" | "userfqdn" => IdType::RFC822_ADDR,
        "asn1dn" => IdType::DER_ASN1_DN,
        "asn1gn" => IdType::DER_ASN1_GN,
        "keyid" => IdType::KEY_ID,
        _ => IdType(prefix.strip_prefix('{')?.strip_suffix('}')?.parse().ok()?),
    };
    Some(typed(id_type, value))
}

fn typed(id_type: IdType, value: &str) -> Result<IdentityPattern, IdentityError> {
    let data = if let Some(digits) = value.strip_prefix('#') {
        hexadecimal(digits)?
    } else {
        match id_type {
            IdType::IPV4_ADDR => {
                let address: Ipv4Addr =
                    value.parse().map_err(|_| IdentityError::Address { prefix: "ipv4:" })?;
                address.octets().to_vec()
            }
            IdType::IPV6_ADDR => {
                let address: Ipv6Addr =
                    value.parse().map_err(|_| IdentityError::Address { prefix: "ipv6:" })?;
                address.octets().to_vec()
            }
            IdType::DER_ASN1_DN => return distinguished_name(value).map(IdentityPattern::Exact),
            IdType::DER_ASN1_GN => return Err(IdentityError::GeneralName),
            IdType::FQDN | IdType::RFC822_ADDR if value.starts_with('^') => {
                return Err(IdentityError::RegularExpression);
            }
            IdType::FQDN | IdType::RFC822_ADDR if value.starts_with('*') => {
                return suffix_pattern(id_type, value.strip_prefix('*').unwrap_or_default());
            }
            IdType::FQDN | IdType::RFC822_ADDR if value.contains('*') => return Err(IdentityError::Wildcard),
            _ => value.as_bytes().to_vec(),
        }
    };
    Ok(IdentityPattern::Exact(Identity::from_wire(&Identification::new(id_type, data))?))
}

fn suffix_pattern(id_type: IdType, suffix: &str) -> Result<IdentityPattern, IdentityError> {
    if suffix.is_empty() {
        return Ok(IdentityPattern::Any);
    }
    if suffix.contains('*') {
        return Err(IdentityError::Wildcard);
    }
    Ok(IdentityPattern::Suffix(id_type, suffix.to_owned()))
}

fn address_range(text: &str) -> Option<IdentityPattern> {
    if let Some((first, last)) = text.split_once('-') {
        let (first, last): (IpAddr, IpAddr) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        return (first.is_ipv4() == last.is_ipv4() && first <= last)
            .then_some(IdentityPattern::Addresses(first, last));
    }
    let (address, length) = text.split_once('/')?;
    let (address, length): (IpAddr, u32) = (address.parse().ok()?, length.parse().ok()?);
    match address {
        IpAddr::V4(a) if length <= 32 => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            let first = a.to_bits() & mask;
            Some(IdentityPattern::Addresses(
                Ipv4Addr::from(first).into(),
                Ipv4Addr::from(first | !mask).into(),
            ))
        }
        IpAddr::V6(a) if length <= 128 => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            let first = a.to_bits() & mask;
            Some(IdentityPattern::Addresses(
                Ipv6Addr::from(first).into(),
                Ipv6Addr::from(first | !mask).into(),
            ))
        }
        _ => None,
    }
}

/// Types an identity by its looks.
fn auto_typed(text: &str) -> Result<Identity, IdentityError> {
    if text.is_empty() {
        return Err(IdentityError::Empty);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Identity::address(address));
    }
    if let Some(rest) = text.strip_prefix("@#") {
        return hexadecimal(rest).and_then(|octets| {
            if octets.is_empty() { Err(IdentityError::Empty) } else { Ok(Identity::key_id(&octets)) }
        });
    }
    let name = match (text.strip_prefix("@@"), text.strip_prefix('@')) {
        (Some(mail), _) => Identity::email(mail),
        (None, Some(name)) => Identity::fqdn(name),
        (None, None) if text.contains('=') => return distinguished_name(text),
        (None, None) if text.contains('@') => Identity::email(text),
        // Neither an address nor a name can hold a colon: strongSwan too takes it for a key ID.
        (None, None) if text.contains(':') => Identity::key_id(text.as_bytes()),
        (None, None) => Identity::fqdn(text),
    };
    if name.data.is_empty() {
        return Err(IdentityError::Empty);
    }
    if name.id_type != IdType::KEY_ID && name.data.contains(&b'*') {
        return Err(IdentityError::Wildcard);
    }
    Ok(name)
}

fn distinguished_name(text: &str) -> Result<Identity, IdentityError> {
    if text.replace(' ', "").contains("=*") {
        return Err(IdentityError::Wildcard);
    }
    Ok(Identity::distinguished_name(&dn_from_text(text)?))
}

fn hexadecimal(digits: &str) -> Result<Vec<u8>, IdentityError> {
    let digits: Vec<u32> = digits
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16))
        .collect::<Option<_>>()
        .ok_or(IdentityError::Hexadecimal)?;
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(IdentityError::Hexadecimal);
    }
    #[expect(clippy::cast_possible_truncation, reason = "two hexadecimal digits fit an octet")]
    Ok(pairs.iter().map(|[high, low]| (high << 4 | low) as u8).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> IdentityPattern {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    /// The auto-typing rules of strongSwan's documentation (config/identityParsing).
    #[test]
    fn identities_are_typed_by_their_looks() {
        let cases: &[(&str, IdType, &[u8])] = &[
            ("10.1.2.3", IdType::IPV4_ADDR, &[10, 1, 2, 3]),
            ("fe80::1", IdType::IPV6_ADDR, &[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            ("gw.example.com", IdType::FQDN, b"gw.example.com"),
            ("@10.1.2.3", IdType::FQDN, b"10.1.2.3"),
            ("joe@example.com", IdType::RFC822_ADDR, b"joe@example.com"),
            ("@@joe", IdType::RFC822_ADDR, b"joe"),
            ("@#0a0B", IdType::KEY_ID, &[0x0a, 0x0b]),
            ("keyid:#00:ff", IdType::KEY_ID, &[0x00, 0xff]),
            ("keyid:office", IdType::KEY_ID, b"office"),
            ("fqdn:joe@x", IdType::FQDN, b"joe@x"),
            ("{2}:a", IdType::FQDN, b"a"),
            ("asn1dn:#3000", IdType::DER_ASN1_DN, &[0x30, 0]),
            // As `openssl req -subj /CN=x` has it, but for the kind of string.
            ("CN=x", IdType::DER_ASN1_DN, b"\x30\x0c\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x13\x01x"),
        ];
        for (text, id_type, data) in cases {
            let identity: Identity = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((identity.id_type, identity.data.as_slice()), (*id_type, *data), "{text}");
            let again: Identity = identity.to_string().parse().unwrap();
            assert_eq!(again, identity, "{text} shown as {identity}");
        }
    }

    #[test]
    fn bad_identities_say_why() {
        let cases = [
            ("C=CH, O=x, CN=*", IdentityError::Wildcard),
            ("asn1gn:x", IdentityError::GeneralName),
            ("@#0", IdentityError::Hexadecimal),
            ("ipv4:x", IdentityError::Address { prefix: "ipv4:" }),
            ("fqdn:^a.*$", IdentityError::RegularExpression),
            ("a*.example", IdentityError::Wildcard),
            ("@", IdentityError::Empty),
            ("*.example", IdentityError::Pattern),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Identity>(), Err(error), "{text}");
        }
    }

    #[test]
    fn patterns_accept_what_they_say() {
        let name: Identity = "Gw.Example.com".parse().unwrap();
        let address: Identity = "10.9.0.1".parse().unwrap();
        assert_eq!(pattern("%any").fit(&name), Some(Fit::Any));
        assert_eq!(pattern("gw.example.COM").fit(&name), Some(Fit::Exact));
        assert_eq!(pattern("*.example.com").fit(&name), Some(Fit::Pattern));
        assert_eq!(pattern("*gw.example.com").fit(&name), None, "a wildcard stands for something");
        assert_eq!(pattern("email:gw.example.com").fit(&name), None, "types differ");
        assert_eq!(pattern("10.0.0.0/8").fit(&address), Some(Fit::Pattern));
        assert_eq!(pattern("10.9.0.2-10.9.0.9").fit(&address), None);
        assert_eq!(pattern("0.0.0.0/0").fit(&address), Some(Fit::Pattern));
        assert!(Fit::Exact > Fit::Pattern && Fit::Pattern > Fit::Any);
    }

    #[test]
    fn a_hostile_identity_is_shown_harmlessly() {
        let evil = Identity::fqdn("a\nb \x1b[31m%n");
        assert!(evil.to_string().chars().all(|c| c.is_ascii_graphic()), "{evil}");
        let long = Identity::key_id(&[b'x'; 5000]);
        assert!(long.to_string().len() < 300);
    }

    #[test]
    fn lengths_on_the_wire_are_checked() {
        for (id_type, length) in [(IdType::IPV4_ADDR, 5), (IdType::IPV6_ADDR, 4), (IdType::FQDN, 0)] {
            let payload = Identification::new(id_type, vec![1; length]);
            assert_eq!(Identity::from_wire(&payload), Err(IdentityError::Length { id_type, length }));
        }
    }
}
