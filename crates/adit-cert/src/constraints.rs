//! Name constraints of authorities (RFC 5280 4.2.1.10).
//!
//! This module owns the question whether a name lies within what an authority may issue. webpki asks it for the
//! authorities in the middle of a path, and refuses all constraints there of kinds that it does not know; those at the end
//! of a path, the trusted ones, are asked here.
//!
//! Both directions fail closed: what must be within a permitted tree is compared exactly, what must not be in an excluded one loosely
//! (any case, any kind of string), and a constraint of a kind that is not known here is broken by any name of that kind.

use std::mem::discriminant;

use der::asn1::Any;
use der::{Decode, Encode, Tag};
use x509_cert::certificate::{CertificateInner, Rfc5280};
use x509_cert::ext::pkix::constraints::name::GeneralSubtree;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{NameConstraints, SubjectAltName};

use crate::certificate::{Certificate, EMPTY_NAME};
use crate::name::{Dn, Value};

/// More comparisons than any real authority asks for.
const MAX_COMPARISONS: usize = 100_000;

/// May `authority` have issued, at whatever remove, all of `below`?
pub(crate) fn allow(authority: &Certificate, below: &[Certificate]) -> bool {
    if !authority.has_name_constraints() {
        return true;
    }
    let Some(constraints) = constraints(authority) else {
        return false;
    };
    let permitted = constraints.permitted_subtrees.unwrap_or_default();
    let excluded = constraints.excluded_subtrees.unwrap_or_default();
    let mut left = MAX_COMPARISONS;
    below.iter().all(|certificate| {
        let Some(names) = names(certificate) else {
            return false;
        };
        let cost = names.len().saturating_mul(permitted.len() + excluded.len());
        match left.checked_sub(cost) {
            Some(rest) => left = rest,
            None => return false,
        }
        names.iter().all(|name| within(name, &permitted) && !excluded.iter().any(|tree| touches(name, tree)))
    })
}

fn constraints(authority: &Certificate) -> Option<NameConstraints> {
    let parsed = CertificateInner::<Rfc5280>::from_der(authority.der()).ok()?;
    parsed.tbs_certificate().get_extension::<NameConstraints>().ok()?.map(|(_, constraints)| constraints)
}

/// All names of a certificate, also the mail address in its subject.
fn names(certificate: &Certificate) -> Option<Vec<GeneralName>> {
    const EMAIL: der::asn1::ObjectIdentifier =
        der::asn1::ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1");
    let parsed = CertificateInner::<Rfc5280>::from_der(certificate.der()).ok()?;
    let tbs = parsed.tbs_certificate();
    let mut names = tbs.get_extension::<SubjectAltName>().ok()?.map_or_else(Vec::new, |(_, names)| names.0);
    if certificate.subject() != EMPTY_NAME {
        for attribute in tbs.subject().iter().filter(|a| a.oid == EMAIL) {
            let text = std::str::from_utf8(attribute.value.value()).ok()?;
            names.push(GeneralName::Rfc822Name(der::asn1::Ia5String::new(text).ok()?));
        }
        names.push(GeneralName::DirectoryName(tbs.subject().clone()));
    }
    Some(names)
}

/// Is there no permitted tree of the kind of `name`, or one that holds it?
fn within(name: &GeneralName, permitted: &[GeneralSubtree]) -> bool {
    let mut same_kind =
        permitted.iter().filter(|tree| discriminant(&tree.base) == discriminant(name)).peekable();
    same_kind.peek().is_none()
        || same_kind.any(|tree| simple(tree) && holds(&tree.base, name, Fold::Exact) == Some(true))
}

/// Might `name` be in an excluded tree?
fn touches(name: &GeneralName, tree: &GeneralSubtree) -> bool {
    discriminant(&tree.base) == discriminant(name)
        && (!simple(tree) || holds(&tree.base, name, Fold::Loose) != Some(false))
}

/// RFC 5280 4.2.1.10: minimum 0, maximum absent.
fn simple(tree: &GeneralSubtree) -> bool {
    tree.minimum == 0 && tree.maximum.is_none()
}

#[derive(Clone, Copy, PartialEq)]
enum Fold {
    Exact,
    Loose,
}

/// Is `name` in the tree below `base`? `None` if that cannot be said.
fn holds(base: &GeneralName, name: &GeneralName, fold: Fold) -> Option<bool> {
    match (base, name) {
        (GeneralName::DirectoryName(base), GeneralName::DirectoryName(name)) => {
            let (base, name) = (base.to_der().ok()?, name.to_der().ok()?);
            let (base, name) = (Dn::parse(&base).ok()?, Dn::parse(&name).ok()?);
            Some(match fold {
                Fold::Exact => name.begins_with(&base, Value::fold),
                Fold::Loose => name.begins_with(&base, loose),
            })
        }
        (GeneralName::DnsName(base), GeneralName::DnsName(name)) => {
            Some(host_in(base.as_str(), name.as_str(), true))
        }
        (GeneralName::Rfc822Name(base), GeneralName::Rfc822Name(name)) => {
            mail_in(base.as_str(), name.as_str(), fold)
        }
        (GeneralName::IpAddress(base), GeneralName::IpAddress(name)) => {
            address_in(base.as_bytes(), name.as_bytes())
        }
        _ => None,
    }
}

/// A domain name; `below` says whether names below one without a leading dot are in its tree.
fn host_in(base: &str, name: &str, below: bool) -> bool {
    let (base, name) =
        (base.trim_end_matches('.').to_ascii_lowercase(), name.trim_end_matches('.').to_ascii_lowercase());
    match (base.strip_prefix('.'), name.strip_suffix(base.as_str())) {
        _ if base.is_empty() => true,
        (_, None) => false,
        (Some(_), Some(rest)) => !rest.is_empty(),
        (None, Some(rest)) => rest.is_empty() || (below && rest.ends_with('.')),
    }
}

fn mail_in(base: &str, name: &str, fold: Fold) -> Option<bool> {
    let (local, host) = name.rsplit_once('@')?;
    Some(match base.rsplit_once('@') {
        Some((base_local, base_host)) => {
            let same = if fold == Fold::Loose {
                local.eq_ignore_ascii_case(base_local)
            } else {
                local == base_local
            };
            same && host_in(base_host, host, false) && !host.is_empty()
        }
        None => host_in(base, host, false),
    })
}

/// Address and mask.
fn address_in(base: &[u8], name: &[u8]) -> Option<bool> {
    if !matches!(base.len(), 8 | 32) || !matches!(name.len(), 4 | 16) {
        return None;
    }
    let (network, mask) = base.split_at_checked(base.len() / 2)?;
    Some(network.len() == name.len() && network.iter().zip(mask).zip(name).all(|((n, m), a)| n & m == a & m))
}

/// As many values as possible are the same as an excluded one.
fn loose(value: &Any) -> Value {
    let octets = value.value();
    let text = match der::Tagged::tag(value) {
        Tag::BmpString => {
            let units: Vec<u16> =
                octets.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
            String::from_utf16_lossy(&units)
        }
        Tag::TeletexString => octets.iter().map(|b| char::from(*b)).collect(),
        _ => String::from_utf8_lossy(octets).into_owned(),
    };
    Value::Text(text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase())
}
