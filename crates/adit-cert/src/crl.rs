//! Certificate revocation lists (RFC 5280 5).
//!
//! This module owns [`Crl`]: what it says of one certificate, and whether that is certain. It never fetches one.
//!
//! Lists that say less than they seem to are refused when they are read: indirect and delta lists, and lists for some reasons or for
//! attribute certificates only.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use der::asn1::AnyRef;
use der::{Decode, Reader, Tag, Tagged};
use webpki::{BorrowedCertRevocationList, CertRevocationList};
use x509_cert::ext::pkix::crl::dp::IssuingDistributionPoint;
use x509_cert::ext::pkix::name::{DistributionPointName, GeneralName};
use x509_cert::time::Time;

use crate::certificate::Certificate;
use crate::name::shown;
use crate::signed::Signed;

/// The longest CRL that is read, in octets: about a million certificates.
pub const MAX_CRL_LENGTH: usize = 64 << 20;

/// A certificate revocation list. Cheap to clone.
#[derive(Clone)]
pub struct Crl(Arc<Inner>);

struct Inner {
    der: Box<[u8]>,
    /// Of its own accord webpki says only who is on it.
    list: CertRevocationList<'static>,
    this_update: Duration,
    next_update: Duration,
    scope: Scope,
    /// The key that its signature was found right with. Checking it takes as long as hashing the list.
    signer: OnceLock<Box<[u8]>>,
}

/// Which certificates of its issuer it is about.
#[derive(Default, PartialEq)]
struct Scope {
    only_users: bool,
    only_authorities: bool,
    /// If there are any, only certificates that name one of them.
    places: Vec<Box<str>>,
}

/// What is known of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Not revoked, says someone whose word still holds.
    Good,
    Revoked,
    Unknown,
}

impl Crl {
    /// Reads a CRL in DER.
    ///
    /// # Errors
    ///
    /// [`CrlError`] if it is none, is longer than [`MAX_CRL_LENGTH`], or says less than a complete list.
    pub fn from_der(der: &[u8]) -> Result<Self, CrlError> {
        if der.len() > MAX_CRL_LENGTH {
            return Err(CrlError::TooLong { length: der.len() });
        }
        let list = BorrowedCertRevocationList::from_der(der)?.to_owned()?;
        let list = CertRevocationList::from(list);
        let signed = Signed::from_der(der)?;
        let (this_update, next_update) = dates(signed.message)?;
        let scope = match list.issuing_distribution_point() {
            Some(point) => Scope::of(point)?,
            None => Scope::default(),
        };
        Ok(Self(Arc::new(Inner {
            der: der.into(),
            list,
            this_update,
            next_update,
            scope,
            signer: OnceLock::new(),
        })))
    }

    /// Its octets.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// The value of its issuer's name: what is inside the outermost SEQUENCE.
    pub(crate) fn issuer_value(&self) -> &[u8] {
        self.0.list.issuer()
    }

    /// Its issuer for people.
    #[must_use]
    pub fn issuer_text(&self) -> String {
        let name = AnyRef::new(Tag::Sequence, self.issuer_value()).and_then(|any| der::Encode::to_der(&any));
        shown(&name.unwrap_or_default())
    }

    /// When it was issued.
    #[must_use]
    pub fn this_update(&self) -> SystemTime {
        UNIX_EPOCH + self.0.this_update
    }

    /// When the next one is due: what it does not list is not known to be good any more.
    #[must_use]
    pub fn next_update(&self) -> SystemTime {
        UNIX_EPOCH + self.0.next_update
    }

    /// What it says of `certificate`, which `issuer` has issued. An old list still tells what was revoked.
    pub(crate) fn status(&self, certificate: &Certificate, issuer: &Certificate, now: SystemTime) -> Status {
        if !self.0.scope.covers(certificate) || !issuer.may_sign_crls() || !self.is_signed_by(issuer) {
            return Status::Unknown;
        }
        match self.0.list.find_serial(certificate.serial()) {
            Ok(Some(_)) => Status::Revoked,
            Ok(None) if self.this_update() <= now && now < self.next_update() => Status::Good,
            _ => Status::Unknown,
        }
    }

    /// Is it later than `known`, of the same scope, and both signed with the same key, as far as has been found out?
    pub(crate) fn replaces(&self, known: &Self) -> bool {
        let signers = (self.0.signer.get(), known.0.signer.get());
        self.0.this_update >= known.0.this_update
            && self.0.scope == known.0.scope
            && matches!(signers, (Some(a), Some(b)) if a == b)
    }

    pub(crate) fn is_signed_by(&self, issuer: &Certificate) -> bool {
        if let Some(key) = self.0.signer.get() {
            return **key == *issuer.spki();
        }
        let right = Signed::from_der(&self.0.der).is_ok_and(|s| s.verifies(issuer.spki()));
        if right {
            let _ = self.0.signer.set(issuer.spki().into());
        }
        right
    }
}

impl fmt::Debug for Crl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crl({})", self.issuer_text())
    }
}

/// Why octets are no CRL that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CrlError {
    /// Longer than [`MAX_CRL_LENGTH`].
    #[error("a CRL of {length} octets is too long; the limit is {MAX_CRL_LENGTH}")]
    TooLong {
        /// Its length in octets.
        length: usize,
    },
    /// Not the DER of a CRL of version 2.
    #[error("this is not an X.509 CRL of version 2 in DER: {reason}")]
    Der {
        /// What the decoder says.
        reason: String,
    },
    /// A list of what others have issued.
    #[error("this is an indirect CRL, which is not supported: every authority has to issue its own list")]
    Indirect,
    /// A list of changes.
    #[error("this is a delta CRL, which is not supported: use the complete list")]
    Delta,
    /// A list for some reasons, or for a place that is named relatively to its issuer.
    #[error(
        "this CRL covers only some reasons of revocation or only attribute certificates; use the complete list"
    )]
    Partial,
}

impl From<der::Error> for CrlError {
    fn from(error: der::Error) -> Self {
        Self::Der { reason: error.to_string() }
    }
}

impl From<webpki::Error> for CrlError {
    fn from(error: webpki::Error) -> Self {
        use webpki::Error as E;
        match error {
            E::UnsupportedIndirectCrl => Self::Indirect,
            E::UnsupportedDeltaCrl => Self::Delta,
            E::UnsupportedRevocationReasonsPartitioning => Self::Partial,
            other => Self::Der { reason: other.to_string() },
        }
    }
}

impl Scope {
    fn of(point: &[u8]) -> Result<Self, CrlError> {
        // webpki has refused indirect lists and those for some reasons or for attribute certificates.
        let point = IssuingDistributionPoint::from_der(point)?;
        let places = match point.distribution_point {
            None => Vec::new(),
            Some(DistributionPointName::FullName(names)) => names
                .into_iter()
                .filter_map(|n| match n {
                    GeneralName::UniformResourceIdentifier(url) => Some(url.as_str().into()),
                    _ => None,
                })
                .collect(),
            Some(DistributionPointName::NameRelativeToCRLIssuer(_)) => return Err(CrlError::Partial),
        };
        Ok(Self {
            only_users: point.only_contains_user_certs,
            only_authorities: point.only_contains_ca_certs,
            places,
        })
    }

    /// RFC 5280 6.3.3 (b).
    fn covers(&self, certificate: &Certificate) -> bool {
        let here = self.places.is_empty()
            || certificate.crl_urls().any(|url| self.places.iter().any(|p| **p == *url));
        let excluded = if certificate.is_ca() { self.only_users } else { self.only_authorities };
        here && !excluded
    }
}

fn dates(tbs: &[u8]) -> der::Result<(Duration, Duration)> {
    AnyRef::from_der(tbs)?.sequence(|fields| -> der::Result<_> {
        for expected in [Tag::Integer, Tag::Sequence, Tag::Sequence] {
            AnyRef::decode(fields)?.tag().assert_eq(expected)?;
        }
        let dates = (Time::decode(fields)?.to_unix_duration(), Time::decode(fields)?.to_unix_duration());
        while !fields.is_finished() {
            AnyRef::decode(fields)?;
        }
        Ok(dates)
    })
}
