//! IKE_AUTH, both roles (RFC 7296 1.2, 2.15, 2.21.2): a file for each, and one for each way in which a side proves who it is,
//! `psk` and `signature`; each side has its own.
//!
//! What comes in proves nothing until its AUTH payload is verified; until then no SA is usable, no child exists, and
//! garbage costs one decryption and changes nothing (RFC 8019 4.6).

mod initiator;
mod psk;
mod responder;
pub(super) mod signature;

use std::sync::Arc;

use adit_crypto::{Prf, Secret};
use adit_wire::ikev2::{Authentication, HashId, Identification, Notify, NotifyType, Payload, Proposal};

pub(crate) use initiator::AwaitAuthResponse;
pub(super) use initiator::request;
pub(crate) use responder::AwaitAuthRequest;

use super::child::Nonces;
use super::intermediate::Intermediate;
use super::secured::Secured;
use super::{Contents, Core, State, Wanted};
use crate::config::{Connection, LocalAuth, RemoteAuth};
use crate::credentials::AuthorityHash;
use crate::identity::Identity;
use crate::output::{Blame, DownReason, OutcomeCode, Stage};
use crate::proposal::Notation;
use crate::record::Outcome;
use crate::shared::Shared;

/// What IKE_SA_INIT leaves for IKE_AUTH to sign (RFC 7296 2.15).
pub(crate) struct Handshake {
    /// The request as it went over the wire last, cookie and all.
    pub(super) init_request: Vec<u8>,
    pub(super) init_response: Vec<u8>,
    pub(super) nonce_i: Vec<u8>,
    pub(super) nonce_r: Vec<u8>,
    /// The IKE proposal.
    pub(super) chosen: Proposal,
    pub(super) peer_proposals: Vec<Proposal>,
    pub(super) intermediate: Intermediate,
    /// Both sides sent USE_PPK (RFC 8784 3).
    pub(super) ppk: bool,
    /// Both sides sign both messages (draft-ietf-ipsecme-ikev2-downgrade-prevention).
    pub(super) full_transcript: bool,
    /// The hash algorithms of signatures that the peer verifies; `None` if not both sides know RFC 7427.
    pub(super) hashes: Option<Vec<HashId>>,
    /// The authorities of whose certificates it wants one of us; `None` if it wants none (RFC 7296 3.7).
    pub(super) requested: Option<Vec<AuthorityHash>>,
    /// No child comes with IKE_AUTH; for a responder: none has to (RFC 6023).
    pub(super) childless: bool,
}

impl Handshake {
    /// What the AUTH payload of one side proves: its own first message, the other's nonce, `prf(SK_p, its ID payload)`,
    /// and what IKE_INTERMEDIATE adds (RFC 9242 3.3.2).
    fn octets(&self, secured: &Secured, by_initiator: bool, id: &Identification) -> Option<Vec<u8>> {
        let (own, other, nonce, sk_p) = if by_initiator {
            (&self.init_request, &self.init_response, &self.nonce_r, &secured.sk_pi)
        } else {
            (&self.init_response, &self.init_request, &self.nonce_i, &secured.sk_pr)
        };
        // No message begins with a zero SPI: the two forms cannot be taken for one another.
        let before = if self.full_transcript { [&[0; 8][..], other].concat() } else { Vec::new() };
        let prf = Prf::new(secured.transforms.prf).ok()?;
        let maced_id = prf.compute(sk_p.expose(), &[&id.body()]);
        let int_auth = self.intermediate.int_auth();
        Some([&before, own, nonce, maced_id.expose(), &int_auth].concat())
    }

    fn nonces(&self) -> Nonces<'_> {
        Nonces { initiator: &self.nonce_i, responder: &self.nonce_r }
    }
}

/// An outcome at this stage, with the IKE proposals.
fn outcome(
    core: &Core,
    h: &Handshake,
    code: OutcomeCode,
    blame: Blame,
    message: impl Into<String>,
) -> Box<Outcome> {
    Outcome::new(code, Stage::IkeAuth, blame, message)
        .proposals(&core.connection.proposals, &h.peer_proposals)
        .chosen(&h.chosen)
}

/// How we prove who we are on one IKE SA.
enum Proof {
    Psk(Arc<Secret>),
    Signature(signature::Own),
}

impl Proof {
    /// What the connection wants, if we have it. `peer` is who it is, as far as that is known.
    fn find(
        core: &Core,
        cx: &Shared,
        h: &Handshake,
        own: &Identity,
        peer: Option<&Identity>,
    ) -> Result<Self, Box<Outcome>> {
        match &core.connection.local_auth {
            LocalAuth::Psk => match psk::key(core, cx, own, peer) {
                Some(secret) => Ok(Self::Psk(Arc::clone(&secret.secret))),
                None => {
                    let guess = Identity::address(core.remote.ip());
                    Err(psk::missing(core, h, own, peer.unwrap_or(&guess)))
                }
            },
            LocalAuth::PublicKey { certificates, constraints } => {
                signature::Own::choose(cx, h, certificates, constraints)
                    .map(Self::Signature)
                    .map_err(|(code, blame, message)| outcome(core, h, code, blame, message))
            }
        }
    }

    /// The AUTH payload, with the keys as they are.
    fn make(
        &self,
        core: &Core,
        h: &Handshake,
        secured: &Secured,
        id: &Identification,
    ) -> Result<Authentication, Box<Outcome>> {
        match self {
            Self::Psk(key) => psk::make(h, secured, core.initiator, id, key).ok_or_else(|| {
                let message = "the AUTH payload cannot be computed";
                outcome(core, h, OutcomeCode::AuthenticationFailed, Blame::OurBug, message)
            }),
            Self::Signature(own) => own
                .make(h, secured, core.initiator, id)
                .map_err(|(code, blame, message)| outcome(core, h, code, blame, message)),
        }
    }

    /// The CERT payloads that go with it.
    fn certificates(&self, core: &Core, cx: &Shared, h: &Handshake) -> Vec<Payload> {
        match self {
            Self::Psk(_) => Vec::new(),
            Self::Signature(own) => own.certificates(core, cx, h),
        }
    }
}

/// Verifies the peer's AUTH payload, as the connection wants it.
fn check(
    core: &Core,
    cx: &Shared,
    (secured, h): (&Secured, &Handshake),
    c: &Contents<'_>,
    (auth, id): (&Authentication, &Identification),
    (own, peer): (&Identity, &Identity),
) -> Result<(), Box<Outcome>> {
    match &core.connection.remote_auth {
        RemoteAuth::Psk => psk::check(core, cx, secured, h, auth, id, (own, peer)),
        RemoteAuth::PublicKey { requirements, constraints } => {
            let claim = signature::Claim { core, cx, peer, requirements, constraints };
            claim
                .check(secured, h, c, auth, id)
                .map_err(|(code, blame, message)| outcome(core, h, code, blame, message))
        }
    }
}

/// Our identity on this IKE SA: as configured, or our address.
fn own_identity(core: &Core, connection: &Connection) -> Identity {
    connection.local_id.clone().unwrap_or_else(|| Identity::address(core.local.ip()))
}

fn record_established(core: &Core, cx: &mut Shared, h: &Handshake) {
    let shown = |id: &Option<Identity>| id.as_ref().map(ToString::to_string).unwrap_or_default();
    let nat = match (core.nat.local, core.nat.remote, core.nat.fake) {
        (false, false, false) => "",
        (_, _, true) => ", ESP in UDP as configured (encap)",
        (true, false, _) => ", we are behind a NAT",
        (false, true, _) => ", the peer is behind a NAT",
        (true, true, _) => ", both sides are behind a NAT",
    };
    let message = format!(
        "IKE SA [{}] up between \"{}\" and \"{}\", {}{nat}",
        core.handle.0,
        shown(&core.local_id),
        shown(&core.remote_id),
        Notation(&h.chosen),
    );
    let outcome = outcome(core, h, OutcomeCode::Success, Blame::Nobody, message);
    core.record(cx, outcome);
}

/// How many requests the peer may have outstanding, where it is not one (RFC 7296 2.3).
fn own_window(cx: &Shared) -> Option<Payload> {
    let window = cx.settings.window;
    let notify = || Notify::new(NotifyType::SET_WINDOW_SIZE, window.to_be_bytes().to_vec());
    (window > 1).then(|| Payload::Notify(notify()))
}

/// How many requests the peer lets us have outstanding.
fn peer_window(c: &Contents<'_>) -> Option<u32> {
    let notify = c.notify(NotifyType::SET_WINDOW_SIZE)?;
    <[u8; 4]>::try_from(notify.data.as_slice()).ok().map(u32::from_be_bytes)
}

/// Ends an IKE SA that never came to be.
pub(super) fn give_up(core: &mut Core, cx: &mut Shared, wanted: Vec<Wanted>, failure: &str) -> State {
    for w in wanted {
        w.fail(cx, failure);
    }
    core.close(cx, Vec::new(), DownReason::Failed, failure)
}
