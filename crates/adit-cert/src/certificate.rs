//! One certificate: parsed once, held as DER.
//!
//! This module owns [`Certificate`], what is read from it and how it is shown. It never decides whether it can be
//! trusted: nothing here has checked a signature or a date.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use der::asn1::AnyRef;
use der::oid::AssociatedOid;
use der::{Decode, Encode, Header, Reader, SliceReader, Tag};
use x509_cert::certificate::{CertificateInner, Rfc5280, Version};
use x509_cert::ext::pkix::name::{DistributionPointName, GeneralName};
use x509_cert::ext::pkix::{
    AuthorityInfoAccessSyntax, BasicConstraints, CertificatePolicies, CrlDistributionPoints,
    ExtendedKeyUsage, KeyUsage, NameConstraints, SubjectAltName,
};

use crate::name::{AltName, Name, shown};

/// The longest certificate that is read, in octets. IKE carries none longer than 64 KiB.
pub const MAX_LENGTH: usize = 65_535;
/// More alternative names, policies, purposes or places to ask than any real certificate has, each.
const MAX_ENTRIES: usize = 256;

/// An object identifier: of a policy, of a purpose.
pub type Oid = der::asn1::ObjectIdentifier;

/// An X.509 certificate. Cheap to clone; two are equal if their octets are.
///
/// It is what its octets say and no more: only [`Store::verify`](crate::Store::verify) tells whether to believe it.
#[derive(Clone)]
pub struct Certificate(Arc<Inner>);

struct Inner {
    der: Box<[u8]>,
    layout: Layout,
    key_hash: [u8; 20],
    not_before: Duration,
    not_after: Duration,
    version_1: bool,
    is_ca: bool,
    path_length: Option<u8>,
    name_constraints: bool,
    key_usage: Option<KeyUsage>,
    purposes: Option<Box<[Oid]>>,
    policies: Box<[Oid]>,
    alt_names: Box<[AltName]>,
    crl_urls: Box<[Box<str>]>,
    ocsp_urls: Box<[Box<str>]>,
}

impl Certificate {
    /// Reads a certificate: X.509 version 3, or version 1 as some old authorities have it.
    ///
    /// # Errors
    ///
    /// [`CertificateError`] if it is too long, not DER from the first to the last octet, or has an extension that is
    /// read here and malformed.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_LENGTH {
            return Err(CertificateError::TooLong { length: der.len() });
        }
        let layout = Layout::of(der)?;
        let parsed = CertificateInner::<Rfc5280>::from_der(der)?;
        let tbs = parsed.tbs_certificate();
        // RFC 5280 4.1.1.2: what is signed says the same of the algorithm as what is not.
        if tbs.signature() != parsed.signature_algorithm() {
            return Err(CertificateError::Algorithms);
        }
        let version_1 = tbs.version() == Version::V1;
        let extensions = tbs.extensions().map_or(&[] as &[_], |e| e.as_slice());
        if tbs.version() != Version::V3 && !extensions.is_empty() {
            return Err(CertificateError::Version);
        }
        // RFC 5280 4.2: no extension twice.
        let mut seen: Vec<Oid> = extensions.iter().map(|e| e.extn_id).collect();
        seen.sort_unstable();
        if seen.len() > MAX_ENTRIES || seen.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
            return Err(CertificateError::Extension { name: "one that occurs twice" });
        }
        let extension =
            |oid: Oid| extensions.iter().find(|e| e.extn_id == oid).map(|e| e.extn_value.as_bytes());
        let basic: Option<BasicConstraints> = decode(extension(BasicConstraints::OID), "basicConstraints")?;
        let key_usage: Option<KeyUsage> = decode(extension(KeyUsage::OID), "keyUsage")?;
        let purposes: Option<ExtendedKeyUsage> =
            decode(extension(ExtendedKeyUsage::OID), "extendedKeyUsage")?;
        let policies: Option<CertificatePolicies> =
            decode(extension(CertificatePolicies::OID), "certificatePolicies")?;
        let names: Option<SubjectAltName> = decode(extension(SubjectAltName::OID), "subjectAltName")?;
        let points: Option<CrlDistributionPoints> =
            decode(extension(CrlDistributionPoints::OID), "cRLDistributionPoints")?;
        let access: Option<AuthorityInfoAccessSyntax> =
            decode(extension(AuthorityInfoAccessSyntax::OID), "authorityInfoAccess")?;
        let validity = tbs.validity();
        let spki = layout.slice(der, &layout.spki);
        Ok(Self(Arc::new(Inner {
            key_hash: adit_crypto::hash_sha1(&[spki]),
            not_before: validity.not_before.to_unix_duration(),
            not_after: validity.not_after.to_unix_duration(),
            version_1,
            is_ca: basic.as_ref().is_some_and(|b| b.ca),
            path_length: basic.and_then(|b| b.path_len_constraint),
            name_constraints: extension(NameConstraints::OID).is_some(),
            key_usage,
            purposes: purposes.map(|p| p.0.into_boxed_slice()),
            policies: policies.map_or_else(Vec::new, |p| p.0).iter().map(|p| p.policy_identifier).collect(),
            alt_names: names.map_or_else(Vec::new, |n| n.0).iter().filter_map(alt_name).collect(),
            crl_urls: points
                .map_or_else(Vec::new, |p| p.0)
                .into_iter()
                .filter_map(|p| match p.distribution_point {
                    Some(DistributionPointName::FullName(names)) => Some(names),
                    _ => None,
                })
                .flatten()
                .filter_map(|n| url(&n))
                .collect(),
            ocsp_urls: access
                .map_or_else(Vec::new, |a| a.0)
                .iter()
                .filter(|a| a.access_method == ID_AD_OCSP)
                .filter_map(|a| url(&a.access_location))
                .collect(),
            der: der.into(),
            layout,
        })))
    }

    /// Its octets.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// The DER of its SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        self.slice(&self.0.layout.spki)
    }

    /// The SHA-1 of its SubjectPublicKeyInfo, by which a CERTREQ names an authority (RFC 7296 3.7).
    #[must_use]
    pub fn key_hash(&self) -> [u8; 20] {
        self.0.key_hash
    }

    /// The DER of its subject's name.
    #[must_use]
    pub fn subject(&self) -> &[u8] {
        self.slice(&self.0.layout.subject)
    }

    /// The DER of its issuer's name.
    #[must_use]
    pub fn issuer(&self) -> &[u8] {
        self.slice(&self.0.layout.issuer)
    }

    /// Its subject for people: the whole distinguished name or, where that is empty, an alternative name.
    #[must_use]
    pub fn subject_text(&self) -> String {
        match self.0.alt_names.first() {
            Some(name) if self.subject() == EMPTY_NAME => name.to_string(),
            _ => shown(self.subject()),
        }
    }

    /// Its issuer for people.
    #[must_use]
    pub fn issuer_text(&self) -> String {
        shown(self.issuer())
    }

    /// The octets of its serial number.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        self.slice(&self.0.layout.serial)
    }

    /// When it begins to be valid.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        UNIX_EPOCH + self.0.not_before
    }

    /// When it ceases to be valid.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        UNIX_EPOCH + self.0.not_after
    }

    /// Its subject alternative names, but for those of types that are no identities of IKE, and those that could not be one
    /// (control characters, spaces, nothing at all).
    #[must_use]
    pub fn alt_names(&self) -> &[AltName] {
        &self.0.alt_names
    }

    /// Does it call itself an authority (basic constraints)?
    #[must_use]
    pub fn is_ca(&self) -> bool {
        self.0.is_ca
    }

    /// Is it of version 1, which has no extensions?
    #[must_use]
    pub fn is_version_1(&self) -> bool {
        self.0.version_1
    }

    /// Is its issuer its subject?
    #[must_use]
    pub fn is_self_issued(&self) -> bool {
        self.subject() == self.issuer()
    }

    /// May its key sign: is there no key usage, or digitalSignature or nonRepudiation in it (RFC 4945 5.1.3.2)?
    #[must_use]
    pub fn may_sign(&self) -> bool {
        self.0.key_usage.as_ref().is_none_or(|usage| usage.digital_signature() || usage.non_repudiation())
    }

    /// May its key sign certificates, as far as key usage goes (RFC 5280 4.2.1.3)?
    pub(crate) fn may_sign_certificates(&self) -> bool {
        self.0.key_usage.as_ref().is_none_or(KeyUsage::key_cert_sign)
    }

    /// May its key sign CRLs?
    pub(crate) fn may_sign_crls(&self) -> bool {
        self.0.key_usage.as_ref().is_none_or(KeyUsage::crl_sign)
    }

    /// How many authorities may be below it.
    pub(crate) fn path_length(&self) -> Option<u8> {
        self.0.path_length
    }

    /// Does it say for which names it may issue?
    pub(crate) fn has_name_constraints(&self) -> bool {
        self.0.name_constraints
    }

    /// Its extended key usages, if it says any.
    #[must_use]
    pub fn purposes(&self) -> Option<&[Oid]> {
        self.0.purposes.as_deref()
    }

    /// The policies under which it was issued.
    #[must_use]
    pub fn policies(&self) -> &[Oid] {
        &self.0.policies
    }

    /// Where it says its issuer's CRL is: URLs with `http`, `https`, `ldap`, `ldaps`, `ftp` or `file`.
    pub fn crl_urls(&self) -> impl Iterator<Item = &str> {
        self.0.crl_urls.iter().map(AsRef::as_ref)
    }

    /// Where it says an OCSP responder is.
    pub fn ocsp_urls(&self) -> impl Iterator<Item = &str> {
        self.0.ocsp_urls.iter().map(AsRef::as_ref)
    }

    /// Is this what the certificate is called: by an alternative name of the same type, or by its whole subject?
    ///
    /// RFC 4945 3.1 binds an identity to the certificate so. Nothing is guessed: no wildcard, no part of a name, and
    /// no common name in place of an alternative name.
    #[must_use]
    pub fn names(&self, name: &Name<'_>) -> bool {
        let subject = Name::Dn(self.subject());
        name.same_as(&subject) || self.0.alt_names.iter().any(|own| own.as_name().same_as(name))
    }

    fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.0.layout.slice(&self.0.der, range)
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.der == other.0.der
    }
}

impl Eq for Certificate {}

impl Hash for Certificate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.der.hash(state);
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({self})")
    }
}

/// Its subject.
impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.subject_text())
    }
}

/// Why octets are no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Longer than [`MAX_LENGTH`].
    #[error("a certificate of {length} octets is too long; the limit is {MAX_LENGTH}")]
    TooLong {
        /// Its length in octets.
        length: usize,
    },
    /// Not the DER of a certificate.
    #[error("this is not an X.509 certificate in DER: {reason}")]
    Der {
        /// What the decoder says.
        reason: String,
    },
    /// The algorithm of the signature is given twice and differs.
    #[error("the certificate names two different algorithms for its signature")]
    Algorithms,
    /// Extensions in a certificate of version 1 or 2.
    #[error("the certificate has extensions, but is not of version 3")]
    Version,
    /// An extension that is malformed, or repeated.
    #[error("the certificate has a bad extension: {name}")]
    Extension {
        /// Its name in RFC 5280.
        name: &'static str,
    },
}

impl From<der::Error> for CertificateError {
    fn from(error: der::Error) -> Self {
        Self::Der { reason: error.to_string() }
    }
}

/// The DER of a name without anything in it.
pub(crate) const EMPTY_NAME: &[u8] = &[0x30, 0];
/// `id-ad-ocsp`.
const ID_AD_OCSP: Oid = Oid::new_unwrap("1.3.6.1.5.5.7.48.1");

/// Where the parts of a certificate are that are wanted as octets.
struct Layout {
    serial: Range<usize>,
    issuer: Range<usize>,
    subject: Range<usize>,
    spki: Range<usize>,
}

impl Layout {
    fn of(der: &[u8]) -> der::Result<Self> {
        let mut reader = SliceReader::new(der)?;
        reader.sequence(|certificate| {
            let layout = certificate.sequence(|tbs| -> der::Result<Self> {
                if Tag::peek(tbs)?.is_context_specific() {
                    AnyRef::decode(tbs)?;
                }
                Header::peek(tbs)?.tag().assert_eq(Tag::Integer)?;
                let serial = element(tbs)?;
                AnyRef::decode(tbs)?;
                let issuer = element(tbs)?;
                AnyRef::decode(tbs)?;
                let layout = Self { serial, issuer, subject: element(tbs)?, spki: element(tbs)? };
                while !tbs.is_finished() {
                    AnyRef::decode(tbs)?;
                }
                Ok(layout)
            })?;
            while !certificate.is_finished() {
                AnyRef::decode(certificate)?;
            }
            // Of the serial number only the value.
            let mut serial = SliceReader::new(der.get(layout.serial.clone()).unwrap_or_default())?;
            let header = Header::decode(&mut serial)?;
            let start = layout.serial.end.saturating_sub(usize::try_from(header.length())?);
            Ok(Self { serial: start..layout.serial.end, ..layout })
        })
    }

    fn slice<'a>(&self, der: &'a [u8], range: &Range<usize>) -> &'a [u8] {
        der.get(range.clone()).unwrap_or_default()
    }
}

/// Where the next element is, header and all.
fn element<'r>(reader: &mut impl Reader<'r>) -> der::Result<Range<usize>> {
    let start = usize::try_from(reader.position())?;
    AnyRef::decode(reader)?;
    Ok(start..usize::try_from(reader.position())?)
}

fn decode<'a, T: Decode<'a>>(
    value: Option<&'a [u8]>,
    name: &'static str,
) -> Result<Option<T>, CertificateError> {
    value.map(T::from_der).transpose().map_err(|_| CertificateError::Extension { name })
}

fn alt_name(name: &GeneralName) -> Option<AltName> {
    let usable = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    match name {
        GeneralName::DnsName(text) => usable(text.as_str()).then(|| AltName::Dns(text.as_str().into())),
        GeneralName::Rfc822Name(text) => usable(text.as_str()).then(|| AltName::Email(text.as_str().into())),
        GeneralName::DirectoryName(dn) => dn.to_der().ok().map(|der| AltName::Dn(der.into())),
        GeneralName::IpAddress(octets) => {
            let octets = octets.as_bytes();
            let v4 = || <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(octets).ok().map(IpAddr::from);
            v4().or_else(v6).map(AltName::Ip)
        }
        _ => None,
    }
}

/// A URL worth following: a scheme that is known, printable, of bounded length.
fn url(name: &GeneralName) -> Option<Box<str>> {
    const LONGEST: usize = 2_048;
    let GeneralName::UniformResourceIdentifier(text) = name else {
        return None;
    };
    let text = text.as_str();
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase())?;
    let known = ["http", "https", "ldap", "ldaps", "ftp", "file"].contains(&scheme.as_str());
    (known && text.len() <= LONGEST && text.bytes().all(|b| b.is_ascii_graphic())).then(|| text.into())
}
