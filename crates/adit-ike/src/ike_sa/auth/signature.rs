//! AUTH payloads made with a private key (RFC 7296 2.15, RFC 7427, RFC 4754, RFC 8420): ours, and the peer's with the
//! certificate that has to name it.
//!
//! What is refused here is refused for one reason with a code of its own. The peer hears none of it but
//! AUTHENTICATION_FAILED.

use std::sync::Arc;

use adit_cert::{Certificate, Rejected, Requirements};
use adit_crypto::{KeyKind, PublicKey, SignatureScheme, Signer};
use adit_wire::ikev2::{
    AuthMethod, Authentication, CertEncoding, HashId, Identification, Notify, NotifyType, Payload,
};

use super::Handshake;
use crate::config::{Constraints, SendCert};
use crate::credentials::MOST_CERTIFICATES;
use crate::identity::Identity;
use crate::ike_sa::secured::Secured;
use crate::ike_sa::{Contents, Core};
use crate::output::{Blame, OutcomeCode};
use crate::shared::Shared;

/// The hash algorithms that we verify signatures with. SHA-1 is not among them (RFC 8247 3.2).
const HASHES: [HashId; 4] = [HashId::SHA2_256, HashId::SHA2_384, HashId::SHA2_512, HashId::IDENTITY];

/// SIGNATURE_HASH_ALGORITHMS: we know RFC 7427, and verify these (RFC 7427 4).
pub(in crate::ike_sa) fn announcement() -> Payload {
    let hashes = HASHES.iter().flat_map(|hash| hash.0.to_be_bytes()).collect();
    Payload::Notify(Notify::new(NotifyType::SIGNATURE_HASH_ALGORITHMS, hashes))
}

/// Which of ours the peer announces too; `None` if it does not know RFC 7427.
pub(in crate::ike_sa) fn announced(c: &Contents<'_>) -> Option<Vec<HashId>> {
    let notify = c.notify(NotifyType::SIGNATURE_HASH_ALGORITHMS)?;
    let (numbers, _) = notify.data.as_chunks();
    Some(HASHES.into_iter().filter(|hash| numbers.contains(&hash.0.to_be_bytes())).collect())
}

/// What went wrong, and whose fault it is.
pub(super) type Failure = (OutcomeCode, Blame, String);

/// What we sign with on one IKE SA.
pub(super) struct Own {
    certificate: Certificate,
    signer: Arc<dyn Signer>,
    method: AuthMethod,
    scheme: SignatureScheme,
}

impl Own {
    /// Of the certificates of the connection whose keys we have, and with which we can sign as the peer verifies: one that an
    /// authority has issued that the peer asks for, else the first.
    pub(super) fn choose(
        cx: &Shared,
        handshake: &Handshake,
        certificates: &[Certificate],
        constraints: &Constraints,
    ) -> Result<Self, Failure> {
        let Some(first) = certificates.first() else {
            let message = "we are to authenticate with a certificate and have none: add `certs` to `local`";
            return Err((OutcomeCode::NoCertificate, Blame::OurConfiguration, message.to_owned()));
        };
        let keyed = || certificates.iter().filter_map(|c| Some((c, cx.credentials.signer(c)?)));
        if keyed().next().is_none() {
            let message = format!(
                "there is no private key for our certificate \"{}\": put it where private keys are read, or name it in \
                 `secrets`",
                first.subject_text(),
            );
            return Err((OutcomeCode::NoPrivateKey, Blame::OurConfiguration, message));
        }
        let usable: Vec<Self> = keyed()
            .filter_map(|(certificate, signer)| {
                let (method, scheme) = method(&**signer, constraints, handshake.hashes.as_deref())?;
                Some(Self { certificate: certificate.clone(), signer: Arc::clone(signer), method, scheme })
            })
            .collect();
        let wanted = |own: &Self| {
            let authorities = handshake.requested.as_deref().unwrap_or_default();
            cx.credentials.leads_to(&own.certificate, authorities)
        };
        let place = usable.iter().position(wanted).unwrap_or(0);
        usable.into_iter().nth(place).ok_or_else(|| {
            no_common_method(first, keyed().map(|(_, signer)| signer.kind()), constraints, handshake)
        })
    }

    /// The AUTH payload (RFC 7427 3).
    pub(super) fn make(
        &self,
        handshake: &Handshake,
        secured: &Secured,
        by_initiator: bool,
        id: &Identification,
    ) -> Result<Authentication, Failure> {
        let failed = |why: String| {
            let message =
                format!("the private key of our certificate \"{}\" failed: {why}", self.certificate);
            (OutcomeCode::NoPrivateKey, Blame::OurConfiguration, message)
        };
        let octets =
            handshake.octets(secured, by_initiator, id).ok_or_else(|| failed("no octets".to_owned()))?;
        let signature = self.signer.sign(self.scheme, &octets).map_err(|error| failed(error.to_string()))?;
        let identifier = match self.method {
            AuthMethod::DIGITAL_SIGNATURE => self.scheme.algorithm_identifier().unwrap_or_default(),
            _ => return Ok(Authentication { method: self.method, data: signature }),
        };
        let length = u8::try_from(identifier.len()).map_err(|error| failed(error.to_string()))?;
        Ok(Authentication { method: self.method, data: [&[length], &identifier[..], &signature].concat() })
    }

    /// The CERT payloads that go with it.
    pub(super) fn certificates(&self, core: &Core, cx: &Shared, handshake: &Handshake) -> Vec<Payload> {
        match core.connection.send_cert {
            SendCert::Always => {}
            SendCert::IfAsked if handshake.requested.is_some() => {}
            SendCert::IfAsked | SendCert::Never => return Vec::new(),
        }
        cx.credentials.certificate_payloads(&self.certificate)
    }
}

/// How to sign for a peer that verifies these hash algorithms; without RFC 7427, by the methods that each have one.
fn method(
    signer: &dyn Signer,
    constraints: &Constraints,
    hashes: Option<&[HashId]>,
) -> Option<(AuthMethod, SignatureScheme)> {
    let kind = signer.kind();
    if let Some(hashes) = hashes {
        // RFC 7427 4: one of those that the peer has announced.
        let able = |scheme: &SignatureScheme| signer.can(*scheme) && hashes.contains(&scheme.hash());
        return constraints.schemes(kind).into_iter().find(able).map(|s| (AuthMethod::DIGITAL_SIGNATURE, s));
    }
    let old: &[_] = match kind {
        // RFC 7296 3.8: SHA-1 by default, which is what peers verify; another one is better than none.
        KeyKind::Rsa(_) => &RSA_SIGNATURE,
        KeyKind::EcdsaP256 => &[(AuthMethod::ECDSA_256, SignatureScheme::EcdsaFixed(HashId::SHA2_256))],
        KeyKind::EcdsaP384 => &[(AuthMethod::ECDSA_384, SignatureScheme::EcdsaFixed(HashId::SHA2_384))],
        KeyKind::EcdsaP521 => &[(AuthMethod::ECDSA_521, SignatureScheme::EcdsaFixed(HashId::SHA2_512))],
        KeyKind::Ed25519 => &[],
    };
    old.iter().copied().find(|(_, scheme)| signer.can(*scheme) && constraints.allow(kind, *scheme))
}

/// What a signature of method 1 may be, which does not say its hash.
const RSA_SIGNATURE: [(AuthMethod, SignatureScheme); 4] = [
    (AuthMethod::RSA_SIGNATURE, SignatureScheme::RsaPkcs1(HashId::SHA1)),
    (AuthMethod::RSA_SIGNATURE, SignatureScheme::RsaPkcs1(HashId::SHA2_256)),
    (AuthMethod::RSA_SIGNATURE, SignatureScheme::RsaPkcs1(HashId::SHA2_384)),
    (AuthMethod::RSA_SIGNATURE, SignatureScheme::RsaPkcs1(HashId::SHA2_512)),
];

fn no_common_method(
    certificate: &Certificate,
    kinds: impl Iterator<Item = KeyKind>,
    constraints: &Constraints,
    handshake: &Handshake,
) -> Failure {
    let kinds: Vec<String> = kinds.map(|kind| kind.to_string()).collect();
    let verifies = match &handshake.hashes {
        None => "the methods from before RFC 7427 only".to_owned(),
        Some(hashes) if hashes.is_empty() => "no hash algorithm that we have".to_owned(),
        Some(hashes) => {
            let names: Vec<String> = hashes.iter().map(ToString::to_string).collect();
            format!("signatures with {}", names.join(", "))
        }
    };
    let message = format!(
        "there is no signature that our key ({}) of \"{certificate}\" can make, that `local.auth = {constraints}` allows, \
         and that it verifies: it announces {verifies}; use a key of another kind here",
        kinds.join(", "),
    );
    (OutcomeCode::AuthMethodRefused, Blame::PeerIncompatible, message)
}

/// What the peer's AUTH payload says: a signature, and by which schemes it may have been made.
struct Signature<'a> {
    schemes: Vec<SignatureScheme>,
    octets: &'a [u8],
}

impl<'a> Signature<'a> {
    /// Reads it, before anything is done that costs.
    fn read(auth: &'a Authentication, agreed: bool, peer: &Identity) -> Result<Self, Failure> {
        let refused =
            |message: String| Err((OutcomeCode::AuthMethodRefused, Blame::PeerIncompatible, message));
        let malformed = |why: &str| {
            let message =
                format!("the AUTH payload of \"{peer}\" is malformed: {why} (AUTHENTICATION_FAILED sent)");
            Err((OutcomeCode::InvalidSyntax, Blame::PeerMalformed, message))
        };
        let (schemes, octets) = match auth.method {
            AuthMethod::RSA_SIGNATURE => {
                // Who knows RFC 7427 has no need of SHA-1.
                let schemes = RSA_SIGNATURE.into_iter().map(|(_, scheme)| scheme);
                (schemes.filter(|scheme| !agreed || scheme.hash() != HashId::SHA1).collect(), &auth.data[..])
            }
            AuthMethod::ECDSA_256 => (vec![SignatureScheme::EcdsaFixed(HashId::SHA2_256)], &auth.data[..]),
            AuthMethod::ECDSA_384 => (vec![SignatureScheme::EcdsaFixed(HashId::SHA2_384)], &auth.data[..]),
            AuthMethod::ECDSA_521 => (vec![SignatureScheme::EcdsaFixed(HashId::SHA2_512)], &auth.data[..]),
            AuthMethod::DIGITAL_SIGNATURE => {
                let parts =
                    auth.data.split_first().and_then(|(n, rest)| rest.split_at_checked(usize::from(*n)));
                let Some((identifier, octets)) = parts else {
                    return malformed("it ends before its algorithm does");
                };
                // What we announced is all that it may use (RFC 7427 4), and all that has an identifier here.
                let scheme = SignatureScheme::from_algorithm_identifier(identifier);
                match scheme.filter(|scheme| agreed && HASHES.contains(&scheme.hash())) {
                    Some(scheme) => (vec![scheme], octets),
                    None => {
                        return refused(format!(
                            "\"{peer}\" signs with an algorithm that we did not announce (AUTHENTICATION_FAILED sent): \
                             RSA, ECDSA with SHA-256, SHA-384 or SHA-512, and Ed25519 are accepted here",
                        ));
                    }
                }
            }
            other => {
                return refused(format!(
                    "\"{peer}\" authenticates with {other}, we accept a certificate only (AUTHENTICATION_FAILED sent): \
                     set `auth = pubkey` and `certs` in `local` there, or `remote.auth = psk` here"
                ));
            }
        };
        if octets.is_empty() {
            return malformed("it has no signature");
        }
        Ok(Self { schemes, octets })
    }
}

/// Who the peer says it is, and what it has to prove.
pub(super) struct Claim<'a> {
    pub(super) core: &'a Core,
    pub(super) cx: &'a Shared,
    pub(super) peer: &'a Identity,
    pub(super) requirements: &'a Requirements,
    pub(super) constraints: &'a Constraints,
}

impl Claim<'_> {
    /// Verifies the AUTH payload: its signature, and that the certificate of the key is the peer's, and trusted.
    pub(super) fn check(
        &self,
        secured: &Secured,
        handshake: &Handshake,
        c: &Contents<'_>,
        auth: &Authentication,
        id: &Identification,
    ) -> Result<(), Failure> {
        let Self { core, peer, constraints, .. } = self;
        let signature = Signature::read(auth, handshake.hashes.is_some(), peer)?;
        let (end, sent) = self.certificates(c)?;
        self.names(&end)?;
        let key = PublicKey::from_spki(end.spki()).map_err(|error| {
            let message = format!("the key of certificate \"{end}\" of \"{peer}\" must not be used: {error}");
            (OutcomeCode::BadCertificate, Blame::PeerIncompatible, message)
        })?;
        let kind = key.kind();
        let mut schemes = signature.schemes;
        schemes.retain(|scheme| kind.fits(*scheme));
        if schemes.is_empty() {
            let message = format!(
                "\"{peer}\" signs with {} in a way that the {kind} key of its certificate \"{end}\" cannot \
                 (AUTHENTICATION_FAILED sent): see that it has the private key that belongs to this certificate",
                auth.method,
            );
            return Err((OutcomeCode::AuthMethodRefused, Blame::PeerMisbehaved, message));
        }
        schemes.retain(|scheme| constraints.allow(kind, *scheme));
        if schemes.is_empty() || !constraints.allow_key(kind) {
            let message = format!(
                "\"{peer}\" signs with {} by an {kind} key, which `remote.auth = {}` here does not allow \
                 (AUTHENTICATION_FAILED sent): allow it here, or give it another key",
                auth.method, constraints,
            );
            return Err((OutcomeCode::AuthMethodRefused, Blame::PeerIncompatible, message));
        }
        let octets = handshake.octets(secured, !core.initiator, id);
        let valid = octets.is_some_and(|octets| {
            schemes.iter().any(|scheme| key.verify(*scheme, &octets, signature.octets).is_ok())
        });
        if !valid {
            let message = format!(
                "the signature of \"{peer}\" does not verify with the {kind} key of certificate \"{end}\" \
                 (AUTHENTICATION_FAILED sent): see that it has the private key that belongs to this certificate{}",
                if core.ppk {
                    ", and that the post-quantum preshared key is the same on both sides"
                } else {
                    ""
                },
            );
            return Err((OutcomeCode::SignatureInvalid, Blame::PeerIncompatible, message));
        }
        self.trusted(&end, &sent)
    }

    /// The certificate that has to verify the signature, and the others. The first X.509 certificate is that (RFC 7296 3.6);
    /// of the others only what can be read is of use. What nobody sent may be configured.
    fn certificates(&self, c: &Contents<'_>) -> Result<(Certificate, Vec<Certificate>), Failure> {
        let peer = self.peer;
        let x509 = c.certificates.iter().filter(|p| p.encoding == CertEncoding::X509_SIGNATURE);
        let mut x509 = x509.take(MOST_CERTIFICATES);
        let pinned = &self.requirements.pinned;
        let Some(first) = x509.next() else {
            let configured = pinned.iter().find(|own| self.is_named_by(own)).or_else(|| pinned.first());
            return configured.map(|own| (own.clone(), Vec::new())).ok_or_else(|| {
                let message = format!(
                    "\"{peer}\" sent no X.509 certificate (AUTHENTICATION_FAILED sent): set `send_cert = always` there, \
                     leave `send_certreq` here at its default, or put its certificate into `remote.certs` here"
                );
                (OutcomeCode::NoCertificate, Blame::PeerIncompatible, message)
            });
        };
        let end = Certificate::from_der(&first.data).map_err(|error| {
            let message =
                format!("the certificate of \"{peer}\" cannot be read (AUTHENTICATION_FAILED sent): {error}");
            (OutcomeCode::BadCertificate, Blame::PeerMalformed, message)
        })?;
        let others = x509.filter_map(|p| Certificate::from_der(&p.data).ok()).collect();
        Ok((end, others))
    }

    fn is_named_by(&self, certificate: &Certificate) -> bool {
        self.peer.as_name().is_some_and(|name| certificate.names(&name))
    }

    /// Is the certificate the peer's? By a subject alternative name of the type of its identity, or the whole
    /// distinguished name (RFC 4945 3.1); nothing else names anybody.
    fn names(&self, end: &Certificate) -> Result<(), Failure> {
        if self.is_named_by(end) {
            return Ok(());
        }
        let names: Vec<String> = end.alt_names().iter().take(8).map(ToString::to_string).collect();
        let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let message = format!(
            "it says it is \"{}\" ({}), and its certificate \"{end}\" does not say so (AUTHENTICATION_FAILED sent): its \
             subject alternative names are {has}; set `local.id` there to one of them or to the whole subject, or issue \
             another certificate",
            self.peer,
            self.peer.id_type(),
        );
        Err((OutcomeCode::IdentityNotInCertificate, Blame::PeerIncompatible, message))
    }

    /// Is the certificate valid, and does a path lead from it to an authority that we trust?
    fn trusted(&self, end: &Certificate, sent: &[Certificate]) -> Result<(), Failure> {
        let Self { cx, peer, requirements, constraints, .. } = self;
        let refuse = |code, why: &dyn std::fmt::Display| {
            let message = format!("\"{peer}\" is not trusted (AUTHENTICATION_FAILED sent): {why}");
            (code, Blame::PeerIncompatible, message)
        };
        let credentials = &cx.credentials;
        let path = credentials.store.verify(end, sent, requirements, credentials.date(cx.now)).map_err(
            |rejected| {
                let code = match rejected {
                    Rejected::Expired { .. } | Rejected::NotYetValid { .. } => OutcomeCode::Expired,
                    Rejected::Revoked { .. } => OutcomeCode::Revoked,
                    Rejected::StatusUnknown { .. } => OutcomeCode::RevocationUnknown,
                    _ => OutcomeCode::Untrusted,
                };
                refuse(code, &rejected)
            },
        )?;
        let allowed = |above: &&Certificate| {
            PublicKey::from_spki(above.spki()).is_ok_and(|key| constraints.allow_key(key.kind()))
        };
        match path.certificates().iter().skip(1).find(|above| !allowed(above)) {
            Some(above) => {
                let why = format!("the key of \"{above}\" is none that `remote.auth = {constraints}` allows");
                Err(refuse(OutcomeCode::Untrusted, &why))
            }
            None => Ok(()),
        }
    }
}
