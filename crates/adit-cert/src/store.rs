//! Whom we trust, and the decision whether that reaches a peer's certificate.
//!
//! This module owns [`Store`], what a connection requires of a path ([`Requirements`]) and the reasons why a certificate is refused
//! ([`Rejected`]). webpki finds and checks paths; what it leaves to its callers is checked here: the dates, key
//! usage, path length and name constraints of the trusted authority, key usage of everyone, purposes, policies, pinned
//! certificates and revocation. It never compares the certificate with an identity; [`Certificate::names`] does.
//!
//! The work for one certificate is bounded, whoever sends it: where there are more than a few, certificates that nobody
//! trusted has signed take no part in the search for a path, and the signatures that are checked are limited.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use der::Decode;
use der::asn1::AnyRef;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, anchor_from_trusted_cert};

use crate::certificate::{Certificate, Oid};
use crate::constraints;
use crate::crl::{Crl, Status};
use crate::name::AltName;
use crate::signed::Signed;

/// A peer's certificates beyond these are not looked at.
const MAX_SENT: usize = 32;
/// So few certificates make no search long, whoever has signed them.
const MAX_UNSIGNED: usize = 4;
/// Signatures that are checked in order to know which certificates may take part in a path.
const MAX_SIGNATURES: usize = 64;
/// Names of issuers that are looked for in one search.
const MAX_NAMES: usize = 64;
/// CRLs of one issuer, each of another scope, or not known to be signed.
const MAX_LISTS: usize = 64;

/// Everything that we believe: trusted authorities, certificates that may lead to them, and lists of what is revoked.
#[derive(Clone, Debug, Default)]
pub struct Store {
    authorities: ByName<Certificate>,
    others: ByName<Certificate>,
    crls: ByName<Crl>,
}

/// Things by the DER of a name: of its subject, or of a CRL's issuer.
type ByName<T> = HashMap<Box<[u8]>, Vec<T>>;

impl Store {
    /// Trusts an authority: a certificate that says it is one, or a self-issued one of version 1.
    ///
    /// # Errors
    ///
    /// [`NotAnAuthority`] if it is neither.
    pub fn add_authority(&mut self, certificate: Certificate) -> Result<(), NotAnAuthority> {
        if !can_be_authority(&certificate) {
            return Err(NotAnAuthority { certificate });
        }
        insert(&mut self.authorities, certificate);
        Ok(())
    }

    /// Knows a certificate that may be missing in what a peer sends. It is trusted no more for it.
    pub fn add_intermediate(&mut self, certificate: Certificate) {
        insert(&mut self.others, certificate);
    }

    /// Takes a CRL into account, whenever its signature turns out to be right. It takes the place of an earlier one of
    /// the same scope if both are signed with the key of an authority or an intermediate certificate that is known already.
    ///
    /// # Errors
    ///
    /// [`TooManyLists`] if there are too many of its issuer.
    pub fn add_crl(&mut self, crl: Crl) -> Result<(), TooManyLists> {
        let issuers = self.authorities.values().chain(self.others.values()).flatten();
        let mut issuers = issuers.filter(|c| name_value(c.subject()) == crl.issuer_value());
        let signed = issuers.any(|c| crl.is_signed_by(c));
        let lists = self.crls.entry(crl.issuer_value().into()).or_default();
        if lists.iter().any(|known| known.der() == crl.der() || (signed && known.replaces(&crl))) {
            return Ok(());
        }
        if signed {
            lists.retain(|known| !crl.replaces(known));
        }
        if lists.len() >= MAX_LISTS {
            return Err(TooManyLists { issuer: crl.issuer_text() });
        }
        lists.push(crl);
        Ok(())
    }

    /// The trusted authorities, in no order.
    pub fn authorities(&self) -> impl Iterator<Item = &Certificate> {
        self.authorities.values().flatten()
    }

    /// The certificates that are known and not trusted for themselves, in no order.
    pub fn intermediates(&self) -> impl Iterator<Item = &Certificate> {
        self.others.values().flatten()
    }

    /// Who may have issued `certificate`, by name alone: intermediate certificates first, then authorities.
    pub fn issuers_of(&self, certificate: &Certificate) -> impl Iterator<Item = &Certificate> {
        let name = certificate.issuer();
        self.others.get(name).into_iter().chain(self.authorities.get(name)).flatten()
    }

    /// The CRLs, in no order.
    pub fn crls(&self) -> impl Iterator<Item = &Crl> {
        self.crls.values().flatten()
    }

    /// Can `end`, a peer's certificate, be trusted at `now`? `sent` is what else the peer has sent; its order means
    /// nothing.
    ///
    /// The answer says nothing about the peer's identity: ask [`Certificate::names`].
    ///
    /// # Errors
    ///
    /// [`Rejected`] says why not.
    pub fn verify(
        &self,
        end: &Certificate,
        sent: &[Certificate],
        requirements: &Requirements,
        now: SystemTime,
    ) -> Result<Path, Rejected> {
        let pinned = requirements.pinned.contains(end);
        if !pinned && !requirements.pinned.is_empty() {
            return Err(Rejected::NotPinned { certificate: end.clone() });
        }
        check_dates(end, now)?;
        if !end.may_sign() {
            return Err(Rejected::KeyUsage { certificate: end.clone() });
        }
        if !requirements.allows_purposes(end) {
            return Err(Rejected::Purpose { certificate: end.clone() });
        }
        match self.find_path(end, sent, requirements, now) {
            // A pinned certificate needs no authority, but what is known against it counts.
            Err(revoked @ Rejected::Revoked { .. }) => Err(revoked),
            Err(_) if pinned && requirements.need_no_path() => {
                Ok(Path { certificates: vec![end.clone()], unchecked: Vec::new() })
            }
            other => other,
        }
    }

    fn find_path(
        &self,
        end: &Certificate,
        sent: &[Certificate],
        requirements: &Requirements,
        now: SystemTime,
    ) -> Result<Path, Rejected> {
        let search = Search::new(self, end, sent, requirements)?;
        let anchors: Vec<CertificateDer<'_>> = search.anchors.iter().map(|c| c.der().into()).collect();
        let anchors = anchors
            .iter()
            .zip(&search.anchors)
            .map(|(der, certificate)| {
                let mut anchor = anchor_from_trusted_cert(der).map_err(|e| Rejected::of(&e, certificate))?;
                // webpki refuses kinds of constraints that are understood here.
                anchor.name_constraints = None;
                Ok(anchor)
            })
            .collect::<Result<Vec<_>, Rejected>>()?;
        let intermediates: Vec<CertificateDer<'_>> =
            search.intermediates.iter().map(|c| c.der().into()).collect();
        let end_der = CertificateDer::from(end.der());
        let end_entity = EndEntityCert::try_from(&end_der).map_err(|e| Rejected::of(&e, end))?;
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        // Of the paths that webpki accepts: the first that we do, and why we refused the first that we do not.
        let found = RefCell::new(None);
        let refused = RefCell::new(None);
        let judge = |path: &webpki::VerifiedPath<'_>| {
            let anchor = anchors.iter().zip(&search.anchors).find(|(a, _)| std::ptr::eq(*a, path.anchor()));
            let middle = path
                .intermediate_certificates()
                .map(|c| search.intermediates.iter().find(|known| known.der() == c.der().as_ref()).cloned());
            let certificates: Option<Vec<Certificate>> = std::iter::once(Some(end.clone()))
                .chain(middle)
                .chain([anchor.map(|(_, c)| c.clone())])
                .collect();
            match certificates
                .ok_or_else(|| Rejected::unknown_issuer(end))
                .and_then(|c| self.judge(c, requirements, now))
            {
                Ok(path) => {
                    *found.borrow_mut() = Some(path);
                    Ok(())
                }
                Err(reason) => {
                    refused.borrow_mut().get_or_insert(reason);
                    Err(webpki::Error::UnknownIssuer)
                }
            }
        };
        let verdict = end_entity.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &intermediates,
            UnixTime::since_unix_epoch(since),
            AnyPurpose,
            None,
            Some(&judge),
        );
        match (verdict, found.take(), refused.take()) {
            (Ok(_), Some(path), _) => Ok(path),
            (_, _, Some(reason)) => Err(reason),
            (Ok(_), None, None) => Err(Rejected::unknown_issuer(end)),
            (Err(error), _, None) => Err(search.explain(&error, end)),
        }
    }

    /// What webpki does not check of a path, whose last certificate is the trusted one.
    fn judge(
        &self,
        certificates: Vec<Certificate>,
        requirements: &Requirements,
        now: SystemTime,
    ) -> Result<Path, Rejected> {
        let mut unchecked = Vec::new();
        for (depth, pair) in certificates.windows(2).enumerate() {
            let [certificate, issuer] = pair else {
                continue;
            };
            check_dates(issuer, now)?;
            if !issuer.may_sign_certificates() {
                return Err(Rejected::IssuerKeyUsage { certificate: issuer.clone() });
            }
            // RFC 5280 4.2.1.9: what counts are the authorities between it and the end.
            if issuer.path_length().is_some_and(|most| depth > usize::from(most)) {
                return Err(Rejected::PathLength { certificate: issuer.clone() });
            }
            match self.status(certificate, issuer, now) {
                Status::Good => {}
                Status::Revoked => return Err(Rejected::Revoked { certificate: certificate.clone() }),
                Status::Unknown => {
                    unchecked.push(Unchecked { certificate: certificate.clone(), issuer: issuer.clone() });
                }
            }
        }
        let (Some(end), Some((anchor, below))) = (certificates.first(), certificates.split_last()) else {
            return Err(Rejected::TooMuchWork);
        };
        if !constraints::allow(anchor, below) {
            return Err(Rejected::NameConstraints {
                certificate: end.clone(),
                authority: Some(anchor.clone()),
            });
        }
        requirements.check(end, &certificates)?;
        let needed = |u: &Unchecked| match requirements.revocation {
            Revocation::Strict => true,
            Revocation::IfUri => u.crl_urls().next().is_some() || u.ocsp_urls().next().is_some(),
            Revocation::Relaxed => false,
        };
        match unchecked.iter().find(|u| needed(u)) {
            Some(unknown) => Err(Rejected::StatusUnknown { unknown: unknown.clone() }),
            None => Ok(Path { certificates, unchecked }),
        }
    }

    fn status(&self, certificate: &Certificate, issuer: &Certificate, now: SystemTime) -> Status {
        let name = name_value(certificate.issuer());
        let mut known = Status::Unknown;
        for crl in self.crls.get(name).into_iter().flatten() {
            match crl.status(certificate, issuer, now) {
                Status::Revoked => return Status::Revoked,
                Status::Good => known = Status::Good,
                Status::Unknown => {}
            }
        }
        known
    }
}

/// What a connection requires of a peer's certificate beyond a path to an authority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// `remote.certs`: it must be one of these. Then it needs no authority, unless something below asks for one.
    pub pinned: Vec<Certificate>,
    /// `remote.cacerts`: one of these must be in the path. They are trusted as authorities for this connection.
    pub authorities: Vec<Certificate>,
    /// `remote.ca_id`: an authority in the path must be called so.
    pub ca_id: Option<AltName>,
    /// `remote.cert_policy`: every certificate below the trusted one must have been issued under one of these policies.
    pub policies: Vec<Oid>,
    /// If it lists extended key usages, one of these must be among them, or anyExtendedKeyUsage. Empty: any will do, as with
    /// strongSwan.
    pub purposes: Vec<Oid>,
    /// `remote.revocation`.
    pub revocation: Revocation,
}

/// How certain it must be that nothing in a path is revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Revocation {
    /// Of every certificate there must be fresh news.
    Strict,
    /// Of every certificate that says where there is news.
    IfUri,
    /// Only what is known to be revoked is refused.
    #[default]
    Relaxed,
}

/// Extended key usages that matter to IKE (RFC 4945 5.1.3.12, RFC 5280 4.2.1.12).
pub mod purpose {
    use super::Oid;

    /// id-kp-ipsecIKE.
    pub const IPSEC_IKE: Oid = Oid::new_unwrap("1.3.6.1.5.5.7.3.17");
    /// id-kp-serverAuth, which Windows and Apple demand of a gateway.
    pub const SERVER_AUTH: Oid = Oid::new_unwrap("1.3.6.1.5.5.7.3.1");
    /// id-kp-clientAuth.
    pub const CLIENT_AUTH: Oid = Oid::new_unwrap("1.3.6.1.5.5.7.3.2");
    /// anyExtendedKeyUsage.
    pub const ANY: Oid = Oid::new_unwrap("2.5.29.37.0");
}

impl Requirements {
    fn need_no_path(&self) -> bool {
        let Self { pinned: _, authorities, ca_id, policies, purposes: _, revocation } = self;
        authorities.is_empty() && ca_id.is_none() && policies.is_empty() && *revocation == Revocation::Relaxed
    }

    fn allows_purposes(&self, end: &Certificate) -> bool {
        let accepted = |p: &Oid| *p == purpose::ANY || self.purposes.contains(p);
        self.purposes.is_empty() || end.purposes().is_none_or(|has| has.iter().any(accepted))
    }

    fn check(&self, end: &Certificate, path: &[Certificate]) -> Result<(), Rejected> {
        let above = path.get(1..).unwrap_or_default();
        let below = path.split_last().map_or(&[] as &[_], |(_, below)| below);
        if !self.authorities.is_empty() && !above.iter().any(|c| self.authorities.contains(c)) {
            return Err(Rejected::OtherAuthority { certificate: end.clone() });
        }
        if self.ca_id.as_ref().is_some_and(|id| !above.iter().any(|c| c.names(&id.as_name()))) {
            return Err(Rejected::OtherAuthority { certificate: end.clone() });
        }
        let under = |c: &&Certificate| !c.policies().iter().any(|p| self.policies.contains(p));
        match below.iter().find(under) {
            Some(certificate) if !self.policies.is_empty() => {
                Err(Rejected::Policy { certificate: certificate.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// A path from a peer's certificate to a trusted authority.
#[derive(Clone, Debug)]
pub struct Path {
    certificates: Vec<Certificate>,
    unchecked: Vec<Unchecked>,
}

impl Path {
    /// The certificates of the path: the peer's first, the trusted authority's last. Only the peer's, if that is pinned and
    /// nothing leads to an authority.
    #[must_use]
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// Those of which it is not known whether they have been revoked.
    #[must_use]
    pub fn unchecked(&self) -> &[Unchecked] {
        &self.unchecked
    }
}

/// A certificate in a path to a trusted authority, of which it is not known whether it has been revoked.
///
/// Only such certificates say whom to ask: nobody should follow a URL that anybody could have sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unchecked {
    /// The certificate.
    pub certificate: Certificate,
    /// Who has issued it.
    pub issuer: Certificate,
}

impl Unchecked {
    /// Where its issuer's CRL is said to be.
    pub fn crl_urls(&self) -> impl Iterator<Item = &str> {
        self.certificate.crl_urls()
    }

    /// Where an OCSP responder is said to be.
    pub fn ocsp_urls(&self) -> impl Iterator<Item = &str> {
        self.certificate.ocsp_urls()
    }
}

/// Why a peer's certificate is refused. Each says which certificate, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are the certificates that the sentences name")]
pub enum Rejected {
    /// Not one of those that the connection names.
    #[error(
        "\"{certificate}\" is not one of the certificates that the connection accepts; add it to remote.certs, or correct the peer's"
    )]
    NotPinned { certificate: Certificate },
    /// Its time is over.
    #[error("\"{certificate}\" expired on {}; it has to be renewed", date(certificate.not_after()))]
    Expired { certificate: Certificate },
    /// Its time has not come.
    #[error("\"{certificate}\" is not valid before {}; correct the clock of this host, or wait", date(certificate.not_before()))]
    NotYetValid { certificate: Certificate },
    /// Nobody trusted has issued it.
    #[error("\"{certificate}\" was issued by \"{}\", which no trusted authority leads to; trust that authority, or have the peer send the certificates between", certificate.issuer_text())]
    UnknownIssuer { certificate: Certificate },
    /// It has issued itself.
    #[error(
        "\"{certificate}\" is self-signed; name it in remote.certs, or have it issued by a trusted authority"
    )]
    SelfSigned { certificate: Certificate },
    /// It is an authority itself.
    #[error(
        "\"{certificate}\" is an authority's certificate; give the peer one of its own, or name this in remote.certs"
    )]
    Authority { certificate: Certificate },
    /// A signature is wrong.
    #[error(
        "the signature of \"{certificate}\", or of a certificate above it, is wrong: its issuer has the name of a trusted authority but another key; compare the authority's certificate on both sides"
    )]
    Signature { certificate: Certificate },
    /// A signature of a kind that is not accepted.
    #[error(
        "\"{certificate}\", or a certificate above it, is signed in a way that is not accepted (SHA-1, RSA with less than 2048 bits, an unknown algorithm); it has to be issued anew"
    )]
    Algorithm { certificate: Certificate },
    /// Of version 1 or 2.
    #[error("\"{certificate}\" is not of X.509 version 3; it has to be issued anew")]
    Version { certificate: Certificate },
    /// Someone in the path is no authority.
    #[error(
        "\"{certificate}\" was issued by a certificate that is no authority (basic constraints); it has to be issued anew"
    )]
    IssuerNoAuthority { certificate: Certificate },
    /// The key of an authority may not sign certificates.
    #[error(
        "\"{certificate}\" has issued a certificate, but its key usage does not allow that; it has to be issued anew with keyCertSign"
    )]
    IssuerKeyUsage { certificate: Certificate },
    /// The key may not sign.
    #[error(
        "the key usage of \"{certificate}\" allows no signatures, which IKE needs; it has to be issued anew with digitalSignature"
    )]
    KeyUsage { certificate: Certificate },
    /// It may not be used for IKE.
    #[error(
        "the extended key usage of \"{certificate}\" has none of the purposes that are accepted here; it has to be issued anew with ipsecIKE, or with serverAuth or clientAuth for the role of its owner"
    )]
    Purpose { certificate: Certificate },
    /// Too many authorities below one.
    #[error(
        "there are more authorities below \"{certificate}\" than its path length allows; one of them has to be issued by another"
    )]
    PathLength { certificate: Certificate },
    /// An authority may not issue for this name.
    #[error("\"{certificate}\" has a name that the name constraints of {} do not allow; it has to be issued by another", authority.as_ref().map_or_else(|| "an authority above it".to_owned(), |a| format!("\"{a}\"")))]
    NameConstraints { certificate: Certificate, authority: Option<Certificate> },
    /// An extension that must be understood and is not.
    #[error(
        "\"{certificate}\", or a certificate above it, has a critical extension that is not known here; it has to be issued without"
    )]
    CriticalExtension { certificate: Certificate },
    /// Something else is wrong with its encoding.
    #[error(
        "\"{certificate}\", or a certificate above it, is malformed ({reason}); it has to be issued anew"
    )]
    Malformed { certificate: Certificate, reason: String },
    /// Another authority than the connection asks for.
    #[error(
        "\"{certificate}\" leads to a trusted authority, but not by way of one that the connection asks for (remote.cacerts, remote.ca_id); correct these, or the peer's certificate"
    )]
    OtherAuthority { certificate: Certificate },
    /// Not issued under the policy that the connection asks for.
    #[error(
        "\"{certificate}\" was not issued under a policy that the connection asks for (remote.cert_policy); correct that, or have it issued anew"
    )]
    Policy { certificate: Certificate },
    /// It has been revoked.
    #[error("\"{certificate}\" has been revoked by \"{}\"; it has to be replaced", certificate.issuer_text())]
    Revoked { certificate: Certificate },
    /// Nobody knows whether it has been revoked.
    #[error("it is not known whether \"{}\" has been revoked; provide a fresh CRL of \"{}\"{}", unknown.certificate, unknown.issuer, urls(unknown))]
    StatusUnknown { unknown: Unchecked },
    /// The search for a path took too long.
    #[error(
        "the peer's certificates need too much work to verify; it should send only those between its own and a trusted authority"
    )]
    TooMuchWork,
}

impl Rejected {
    fn unknown_issuer(end: &Certificate) -> Self {
        let certificate = end.clone();
        if end.is_self_issued() {
            Self::SelfSigned { certificate }
        } else {
            Self::UnknownIssuer { certificate }
        }
    }

    fn of(error: &webpki::Error, certificate: &Certificate) -> Self {
        use webpki::Error as E;
        let certificate = certificate.clone();
        match error {
            E::CertExpired { .. } => Self::Expired { certificate },
            E::CertNotValidYet { .. } => Self::NotYetValid { certificate },
            E::CaUsedAsEndEntity => Self::Authority { certificate },
            E::EndEntityUsedAsCa => Self::IssuerNoAuthority { certificate },
            E::InvalidSignatureForPublicKey => Self::Signature { certificate },
            E::UnsupportedSignatureAlgorithmContext(_)
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Self::Algorithm { certificate },
            E::UnsupportedCertVersion => Self::Version { certificate },
            E::PathLenConstraintViolated => Self::PathLength { certificate },
            E::NameConstraintViolation => Self::NameConstraints { certificate, authority: None },
            E::UnsupportedCriticalExtension => Self::CriticalExtension { certificate },
            E::UnknownIssuer => Self::unknown_issuer(&certificate),
            E::MaximumNameConstraintComparisonsExceeded
            | E::MaximumPathBuildCallsExceeded
            | E::MaximumPathDepthExceeded
            | E::MaximumSignatureChecksExceeded => Self::TooMuchWork,
            other => Self::Malformed { certificate, reason: other.to_string() },
        }
    }
}

/// A certificate that was to be trusted as an authority and is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{certificate}\" is not an authority's certificate: its basic constraints do not say CA")]
pub struct NotAnAuthority {
    /// The certificate.
    pub certificate: Certificate,
}

/// A CRL beyond the number that is kept of one issuer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {MAX_LISTS} CRLs of \"{issuer}\" already; remove those that are not needed")]
pub struct TooManyLists {
    /// The issuer, for people.
    pub issuer: String,
}

/// Who may take part in a path.
struct Search {
    anchors: Vec<Certificate>,
    intermediates: Vec<Certificate>,
}

impl Search {
    fn new(
        store: &Store,
        end: &Certificate,
        sent: &[Certificate],
        requirements: &Requirements,
    ) -> Result<Self, Rejected> {
        // Upwards, by name only.
        let mut names: Vec<Box<[u8]>> = vec![end.issuer().into()];
        let mut anchors: Vec<Certificate> = Vec::new();
        let mut candidates: Vec<Certificate> = Vec::new();
        let mut next = 0;
        while let Some(name) = names.get(next).filter(|_| next < MAX_NAMES).cloned() {
            next += 1;
            let called = |c: &&Certificate| c.subject() == &*name;
            let required = requirements.authorities.iter().filter(called);
            for c in store.authorities.get(&name).into_iter().flatten().chain(required) {
                if !anchors.contains(c) && can_be_authority(c) {
                    anchors.push(c.clone());
                }
                // One that is trusted may lead to another that the connection asks for.
                if !requirements.authorities.is_empty() && !c.is_self_issued() && !candidates.contains(c) {
                    candidates.push(c.clone());
                }
            }
            let sent = sent.iter().take(MAX_SENT).filter(called);
            for c in store.others.get(&name).into_iter().flatten().chain(sent) {
                if c != end && !candidates.contains(c) && !anchors.contains(c) {
                    candidates.push(c.clone());
                }
            }
            for c in &candidates {
                if !names.iter().any(|n| **n == *c.issuer()) {
                    names.push(c.issuer().into());
                }
            }
        }
        let few = candidates.len() <= MAX_UNSIGNED;
        let intermediates = if few { candidates } else { signed_below(&anchors, candidates)? };
        Ok(Self { anchors, intermediates })
    }

    fn explain(&self, error: &webpki::Error, end: &Certificate) -> Rejected {
        let at = |time: &UnixTime| UNIX_EPOCH + Duration::from_secs(time.as_secs());
        let culprit = match error {
            webpki::Error::CertExpired { not_after, .. } => {
                self.intermediates.iter().find(|c| c.not_after() == at(not_after))
            }
            webpki::Error::CertNotValidYet { not_before, .. } => {
                self.intermediates.iter().find(|c| c.not_before() == at(not_before))
            }
            _ => None,
        };
        Rejected::of(error, culprit.unwrap_or(end))
    }
}

/// Those of the candidates that someone trusted has signed, at whatever remove.
fn signed_below(
    anchors: &[Certificate],
    mut candidates: Vec<Certificate>,
) -> Result<Vec<Certificate>, Rejected> {
    let mut left = MAX_SIGNATURES;
    let mut all = Vec::new();
    let mut latest = anchors.to_vec();
    while !latest.is_empty() && !candidates.is_empty() {
        let mut signed = Vec::new();
        let mut others = Vec::new();
        for candidate in candidates {
            let mut found = false;
            for issuer in latest.iter().filter(|i| i.subject() == candidate.issuer()) {
                left = left.checked_sub(1).ok_or(Rejected::TooMuchWork)?;
                if Signed::from_der(candidate.der()).is_ok_and(|s| s.verifies(issuer.spki())) {
                    found = true;
                    break;
                }
            }
            if found { &mut signed } else { &mut others }.push(candidate);
        }
        candidates = others;
        all.extend(signed.iter().cloned());
        latest = signed;
    }
    Ok(all)
}

/// An authority says so, unless it is so old that it cannot.
fn can_be_authority(certificate: &Certificate) -> bool {
    certificate.is_ca() || (certificate.is_version_1() && certificate.is_self_issued())
}

fn insert(all: &mut ByName<Certificate>, certificate: Certificate) {
    let known = all.entry(certificate.subject().into()).or_default();
    if !known.contains(&certificate) {
        known.push(certificate);
    }
}

fn check_dates(certificate: &Certificate, now: SystemTime) -> Result<(), Rejected> {
    if now < certificate.not_before() {
        Err(Rejected::NotYetValid { certificate: certificate.clone() })
    } else if now > certificate.not_after() {
        Err(Rejected::Expired { certificate: certificate.clone() })
    } else {
        Ok(())
    }
}

/// What is inside the SEQUENCE of a name.
fn name_value(name: &[u8]) -> &[u8] {
    AnyRef::from_der(name).map(|any| any.value()).unwrap_or_default()
}

fn date(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    der::DateTime::from_unix_duration(since)
        .map_or_else(|_| "a date beyond all reason".to_owned(), |d| d.to_string())
}

fn urls(unknown: &Unchecked) -> String {
    let all: Vec<&str> = unknown.crl_urls().chain(unknown.ocsp_urls()).collect();
    if all.is_empty() { String::new() } else { format!(" (it names {})", all.join(", ")) }
}

/// Purposes are checked of the peer's certificate only, and before: RFC 5280 gives them no meaning in authorities.
struct AnyPurpose;

impl ExtendedKeyUsageValidator for AnyPurpose {
    fn validate(&self, mut purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        purposes.try_for_each(|purpose| purpose.map(drop))
    }
}
