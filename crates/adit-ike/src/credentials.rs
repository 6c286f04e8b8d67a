//! The public-key credentials of a gateway: private keys, whom it trusts, and the date. Owns which key belongs to which
//! certificate and the way from a certificate up to an authority; whether a path is valid is for `adit-cert` to say.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use adit_cert::{Certificate, Store};
use adit_crypto::Signer;
use adit_wire::ikev2::{CertEncoding, Certificate as CertificatePayload, CertificateRequest, Payload};

use crate::authentication::RemoteAuth;
use crate::config::Connection;

/// How an authority is named in a CERTREQ payload: SHA-1 of its SubjectPublicKeyInfo (RFC 7296 3.7).
pub(crate) type AuthorityHash = [u8; 20];

/// Certificates of a peer that are looked at; of our own, so many are sent at most.
pub(crate) const MOST_CERTIFICATES: usize = 16;

/// Authorities that a peer can ask for; what is beyond counts as not asked for.
const MOST_REQUESTED: usize = 1024;

#[derive(Default)]
pub(crate) struct Credentials {
    /// By SubjectPublicKeyInfo.
    keys: HashMap<Vec<u8>, Arc<dyn Signer>>,
    pub(crate) store: Store,
    /// Some connection has public keys on one side.
    has_public_keys: bool,
    /// Some connection asks its peer for certificates.
    asks: bool,
    /// What time it was, and when.
    wall: Option<(Instant, SystemTime)>,
}

impl Credentials {
    pub(crate) fn replace(&mut self, keys: Vec<Arc<dyn Signer>>, store: Store) {
        self.keys = keys.into_iter().map(|key| (key.public_key().to_vec(), key)).collect();
        self.store = store;
    }

    /// Finds out what these connections want of the gateway as a whole.
    pub(crate) fn serve(&mut self, connections: &[Connection]) {
        self.has_public_keys = connections.iter().any(Connection::has_public_keys);
        let asks = |c: &Connection| c.send_certreq && c.remote_auth != RemoteAuth::Psk;
        self.asks = connections.iter().any(asks);
    }

    /// May a peer that nobody knows yet have to do with public keys?
    pub(crate) fn has_public_keys(&self) -> bool {
        self.has_public_keys
    }

    pub(crate) fn set_wall_clock(&mut self, now: Instant, wall: SystemTime) {
        self.wall = Some((now, wall));
    }

    /// The date. Who was not told it takes no certificate for valid.
    pub(crate) fn date(&self, now: Instant) -> SystemTime {
        self.wall.map_or(SystemTime::UNIX_EPOCH, |(then, wall)| wall + now.saturating_duration_since(then))
    }

    /// Who signs with the key of this certificate.
    pub(crate) fn signer(&self, certificate: &Certificate) -> Option<&Arc<dyn Signer>> {
        self.keys.get(certificate.spki())
    }

    /// Does the way up from `certificate` lead to one of these authorities?
    pub(crate) fn leads_to(&self, certificate: &Certificate, authorities: &[AuthorityHash]) -> bool {
        self.way_up(certificate).any(|issuer| authorities.contains(&issuer.key_hash()))
    }

    /// The CERT payloads that go with a signature: the certificate, then the intermediates that we have. The peer has the
    /// root or would not trust it if we sent it.
    pub(crate) fn certificate_payloads(&self, certificate: &Certificate) -> Vec<Payload> {
        let intermediates = self.way_up(certificate).filter(|issuer| !issuer.is_self_issued());
        std::iter::once(certificate)
            .chain(intermediates)
            .take(MOST_CERTIFICATES)
            .map(|certificate| {
                Payload::Certificate(CertificatePayload {
                    encoding: CertEncoding::X509_SIGNATURE,
                    data: certificate.der().to_vec(),
                })
            })
            .collect()
    }

    /// The certificates above it, by names alone.
    fn way_up<'a>(&'a self, certificate: &'a Certificate) -> impl Iterator<Item = &'a Certificate> {
        std::iter::successors(Some(certificate), |below| {
            self.store.issuers_of(below).next().filter(|_| !below.is_self_issued())
        })
        .skip(1)
        .take(MOST_CERTIFICATES)
    }

    /// CERTREQ of a responder that does not know yet who asks: for all authorities, as far as there is `room` for so many
    /// octets.
    pub(crate) fn request_of_anybody(&self, room: usize) -> Option<Payload> {
        let authorities = self.store.authorities().take(room / size_of::<AuthorityHash>());
        self.asks.then(|| request(authorities)).flatten()
    }

    /// CERTREQ to the peer of this connection.
    pub(crate) fn request_of_peer(&self, connection: &Connection) -> Option<Payload> {
        let RemoteAuth::PublicKey { requirements, .. } = &connection.remote_auth else { return None };
        let pinned = requirements.authorities.iter();
        let all = self.store.authorities().filter(|_| requirements.authorities.is_empty());
        connection.send_certreq.then(|| request(pinned.chain(all).take(MOST_REQUESTED))).flatten()
    }
}

fn request<'a>(authorities: impl Iterator<Item = &'a Certificate>) -> Option<Payload> {
    let authorities: Vec<u8> = authorities.flat_map(Certificate::key_hash).collect();
    let request = CertificateRequest { encoding: CertEncoding::X509_SIGNATURE, authorities };
    (!request.authorities.is_empty()).then_some(Payload::CertificateRequest(request))
}

/// The authorities that CERTREQ payloads name; `None` if there is no such payload for X.509 certificates.
pub(crate) fn requested(payloads: &[&CertificateRequest]) -> Option<Vec<AuthorityHash>> {
    let mut x509 = payloads.iter().filter(|p| p.encoding == CertEncoding::X509_SIGNATURE).peekable();
    x509.peek()?;
    Some(x509.flat_map(|p| p.authorities.as_chunks().0).copied().take(MOST_REQUESTED).collect())
}
