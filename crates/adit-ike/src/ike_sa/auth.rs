//! IKE_AUTH, both roles (RFC 7296 1.2, 2.15, 2.21.2). How the two sides prove who they are is a file for each: `psk` and
//! `signature`; each side has its own.
//!
//! What comes in proves nothing until its AUTH payload is verified; until then no SA is usable, no child exists, and
//! garbage costs one decryption and changes nothing (RFC 8019 4.6).

use std::sync::Arc;
use std::time::Instant;

use adit_crypto::{Prf, Secret};
use adit_wire::ikev2::{
    AuthMethod, Authentication, ExchangeType, HashId, Identification, Notify, NotifyType, Payload, Proposal,
};

mod psk;
pub(super) mod signature;

use super::child::{self, Install, Nonces, Offer};
use super::established::Established;
use super::intermediate::{Intermediate, Last};
use super::mobike;
use super::ppk;
use super::secured::{Opened, Secured, Unmixed};
use super::window::{Answered, Fate, Outstanding};
use super::{AwaitDeleteResponse, AwaitRepetition, ChildSa, Contents, Core, Incoming, State, Wanted};
use crate::config::{Childless, Connection, LocalAuth, RemoteAuth, Unique};
use crate::credentials::{self, AuthorityHash};
use crate::identity::{Identity, IdentityPattern};
use crate::output::{Blame, DownReason, OutcomeCode, Stage};
use crate::proposal::{Notation, choose};
use crate::record::Outcome;
use crate::shared::{Effect, Shared};

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

/// Initiator: sends the IKE_AUTH request, with the first of the wanted children.
pub(super) fn request(
    core: &mut Core,
    cx: &mut Shared,
    mut secured: Secured,
    handshake: Handshake,
    mut wanted: Vec<Wanted>,
) -> State {
    let own = own_identity(core, &core.connection);
    core.local_id = Some(own.clone());
    let expected = core.connection.remote_id.exact().cloned();
    let id = own.to_wire();
    let started = Proof::find(core, cx, &handshake, &own, expected.as_ref()).and_then(|proof| {
        let plain = proof.make(core, &handshake, &secured, &id)?;
        Ok((proof, plain))
    });
    let (proof, plain) = match started {
        Ok(started) => started,
        Err(outcome) => {
            let failure = core.record(cx, outcome);
            return give_up(core, cx, wanted, &failure);
        }
    };
    let proposed = handshake.ppk.then(|| ppk::propose(core, cx, &mut secured)).flatten();
    let (unmixed, ppk_identity) = proposed.transpose().ok().flatten().unzip();
    let auth =
        if unmixed.is_some() { proof.make(core, &handshake, &secured, &id) } else { Ok(plain.clone()) };
    let auth = match auth {
        Ok(auth) => auth,
        Err(outcome) => {
            let failure = core.record(cx, outcome);
            return give_up(core, cx, wanted, &failure);
        }
    };
    let first = (!handshake.childless && !wanted.is_empty()).then(|| wanted.remove(0));
    let offer = first.map(|wanted| Offer::new(core, cx, wanted, false));
    let mut payloads = vec![Payload::IdInitiator(id)];
    let says_initial = core.connection.unique != Unique::Never;
    if expected.as_ref().is_some_and(|peer| says_initial && cx.established_with(&own, peer).is_empty()) {
        payloads.push(Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT, Vec::new())));
    }
    payloads.extend(expected.map(|peer| Payload::IdResponder(peer.to_wire())));
    payloads.extend(proof.certificates(core, cx, &handshake));
    payloads.extend(cx.credentials.request_of_peer(&core.connection));
    payloads.push(Payload::Authentication(auth));
    if let Some(identity) = ppk_identity {
        payloads.push(identity);
        payloads.extend((!ppk::is_required(core)).then(|| ppk::fallback(&plain.data)));
    }
    payloads.extend(offer.iter().flat_map(Offer::payloads));
    payloads.extend(offer.iter().flat_map(Offer::notifies));
    payloads.extend(mobike::supported(core));
    payloads.extend(own_window(cx));
    let id = handshake.intermediate.message_id();
    let header = core.header(ExchangeType::IKE_AUTH, false, id);
    let Ok(datagram) = secured.seal(&header, &payloads) else {
        wanted.extend(offer.map(|offer| offer.abandon(cx)));
        return give_up(core, cx, wanted, "the request cannot be encrypted");
    };
    for wanted in offer.iter().map(|offer| &offer.wanted).chain(&wanted) {
        cx.progress(&wanted.requests, "sending IKE_AUTH request");
    }
    let outstanding = Outstanding::send(core, cx, id, datagram, core.schedule());
    State::AwaitAuthResponse(Box::new(AwaitAuthResponse {
        secured,
        unmixed,
        handshake,
        outstanding,
        offer,
        wanted,
    }))
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

/// Initiator: the IKE_AUTH request is out.
pub(crate) struct AwaitAuthResponse {
    secured: Secured,
    /// The keys without our post-quantum pre-shared key, if we proposed one.
    unmixed: Option<Unmixed>,
    handshake: Handshake,
    outstanding: Outstanding,
    /// The first child, unless it comes later like the others.
    offer: Option<Offer>,
    /// Children to come after IKE_AUTH.
    wanted: Vec<Wanted>,
}

impl AwaitAuthResponse {
    pub(super) fn want(&mut self, mut wanted: Wanted) {
        match &mut self.offer {
            Some(offer) if offer.wanted.child.name == wanted.child.name => {
                offer.wanted.requests.append(&mut wanted.requests);
            }
            _ => self.wanted.push(wanted),
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.outstanding.deadline()
    }

    pub(super) fn handle_timeout(mut self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        if self.outstanding.on_timeout(core, cx) == Fate::Waiting {
            return State::AwaitAuthResponse(self);
        }
        let message = format!(
            "no answer from {} port {} (UDP) to IKE_AUTH sent {} times, although it answered IKE_SA_INIT: check that \
             UDP port {} is open both ways and that messages of this size arrive; it may also drop what it cannot \
             decrypt",
            core.remote.ip(),
            core.remote.port(),
            self.outstanding.times_sent(),
            core.remote.port(),
        );
        let outcome = outcome(core, &self.handshake, OutcomeCode::Timeout, Blame::Network, message);
        let times = self.outstanding.times_sent();
        self.fail(core, cx, outcome.sent(times))
    }

    pub(super) fn cancel(self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        let message = "the IKE_AUTH exchange was cancelled on our side";
        let outcome =
            outcome(core, &self.handshake, OutcomeCode::Cancelled, Blame::OurConfiguration, message);
        self.fail(core, cx, outcome)
    }

    /// Gives up what was going on; the children are still wanted.
    pub(super) fn release(self, cx: &mut Shared) -> Vec<Wanted> {
        self.take_apart(cx).1
    }

    fn take_apart(self, cx: &mut Shared) -> (Secured, Vec<Wanted>) {
        let mut wanted: Vec<Wanted> = self.offer.map(|offer| offer.abandon(cx)).into_iter().collect();
        wanted.extend(self.wanted);
        (self.secured, wanted)
    }

    /// The responder keeps nothing, or cannot be told.
    fn fail(self: Box<Self>, core: &mut Core, cx: &mut Shared, outcome: Box<Outcome>) -> State {
        let failure = core.record(cx, outcome);
        let wanted = self.release(cx);
        give_up(core, cx, wanted, &failure)
    }

    /// The responder believes that the IKE SA exists; it does not (RFC 7296 2.21.2).
    fn reject(self: Box<Self>, core: &mut Core, cx: &mut Shared, outcome: Box<Outcome>) -> State {
        if let Some(dial) = core.dial.take_if(|dial| dial.has_others()) {
            if dial.is_wary() {
                let wanted = self.release(cx);
                return dial.follow_next(core, cx, wanted);
            }
            // It may be the peer nevertheless, and only its IKE_SA_INIT response have been changed on the way.
            let id = self.outstanding.message_id + 1;
            let (secured, wanted) = self.take_apart(cx);
            dial.again(core, cx, wanted);
            return AwaitDeleteResponse::start_unauthenticated(core, cx, secured, id);
        }
        let failure = core.record(cx, outcome.notify(NotifyType::AUTHENTICATION_FAILED));
        let id = self.outstanding.message_id + 1;
        let (secured, wanted) = self.take_apart(cx);
        for wanted in wanted {
            wanted.fail(cx, &failure);
        }
        AwaitDeleteResponse::start_unauthenticated(core, cx, secured, id)
    }

    pub(super) fn handle_message(
        mut self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        m: &Incoming<'_>,
    ) -> State {
        if !m.is(ExchangeType::IKE_AUTH, true, self.outstanding.message_id) {
            cx.counters.ignored += 1;
            return State::AwaitAuthResponse(self);
        }
        let Some(opened) = self.secured.open(core, cx, m) else { return State::AwaitAuthResponse(self) };
        let malformed = |core: &Core, h: &Handshake, why: &str| {
            let message = format!("its IKE_AUTH response is invalid: {why}");
            outcome(core, h, OutcomeCode::InvalidSyntax, Blame::PeerMalformed, message)
        };
        let payloads = match opened.payloads {
            Ok(payloads) => payloads,
            Err(error) => {
                let outcome = malformed(core, &self.handshake, &error.to_string());
                return self.reject(core, cx, outcome);
            }
        };
        let contents = match Contents::read(&payloads) {
            Ok(contents) => contents,
            Err(refused) => {
                let outcome = malformed(core, &self.handshake, &format!("{refused:?}"));
                return self.reject(core, cx, outcome);
            }
        };
        // A refusal comes alone (RFC 7296 2.21.2); beside AUTH an error is about the child.
        if contents.auth.is_none()
            && let Some(error) = contents.error()
        {
            let unbelieved = error.notify_type == NotifyType::AUTHENTICATION_FAILED;
            if let Some(dial) = core.dial.take_if(|d| d.has_others() || unbelieved && d.is_spoilt()) {
                let wanted = self.release(cx);
                return dial.follow_next(core, cx, wanted);
            }
            let outcome = self.refusal(core, cx, error.notify_type);
            return self.fail(core, cx, outcome);
        }
        if let Err(outcome) = self.settle_ppk(core, &contents) {
            return self.reject(core, cx, outcome);
        }
        match self.verify(core, cx, &contents) {
            Ok(identity) => core.remote_id = Some(identity),
            Err(outcome) => return self.reject(core, cx, outcome),
        }
        self.established(core, cx, &contents)
    }

    /// Does the responder use the post-quantum pre-shared key that we proposed? (RFC 8784 3)
    fn settle_ppk(&mut self, core: &mut Core, c: &Contents<'_>) -> Result<(), Box<Outcome>> {
        let unmixed = self.unmixed.take();
        core.ppk = unmixed.is_some() && c.has(NotifyType::PPK_IDENTITY);
        if core.ppk {
            return Ok(());
        }
        if ppk::is_required(core) {
            let (code, blame, message) = ppk::missing(core, "it does not use our post-quantum preshared key");
            return Err(outcome(core, &self.handshake, code, blame, message));
        }
        if let Some(unmixed) = unmixed {
            self.secured.exchange(unmixed);
        }
        Ok(())
    }

    /// Is it who we want to talk to?
    fn verify(&self, core: &mut Core, cx: &Shared, c: &Contents<'_>) -> Result<Identity, Box<Outcome>> {
        let fail = |core: &Core, code, blame, message: String| {
            Err(outcome(core, &self.handshake, code, blame, message))
        };
        let own = own_identity(core, &core.connection);
        let (Some(id), Some(auth)) = (c.id_responder, c.auth) else {
            let message = "its IKE_AUTH response lacks IDr or AUTH".to_owned();
            return fail(core, OutcomeCode::InvalidSyntax, Blame::PeerMalformed, message);
        };
        let identity = match Identity::from_wire(id) {
            Ok(identity) => identity,
            Err(error) => {
                return fail(core, OutcomeCode::InvalidSyntax, Blame::PeerMalformed, error.to_string());
            }
        };
        core.remote_id = Some(identity.clone());
        if identity == own {
            let message = format!(
                "it claims our own identity \"{own}\": messages are reflected to us, or both sides have the same \
                 `local.id`"
            );
            return fail(core, OutcomeCode::IdentityMismatch, Blame::PeerMisbehaved, message);
        }
        if core.connection.remote_id.fit(&identity).is_none() {
            let message = format!(
                "it says it is \"{identity}\", we want \"{}\": correct `remote.id` here or `local.id` there",
                core.connection.remote_id,
            );
            return fail(core, OutcomeCode::IdentityMismatch, Blame::PeerIncompatible, message)
                .map_err(|outcome: Box<Outcome>| outcome.accepted(vec![core.connection.remote_id.clone()]));
        }
        check(core, cx, (&self.secured, &self.handshake), c, (auth, id), (&own, &identity))?;
        Ok(identity)
    }

    fn established(self: Box<Self>, core: &mut Core, cx: &mut Shared, c: &Contents<'_>) -> State {
        core.authenticated(cx, (&self.handshake.nonce_i, &self.handshake.nonce_r));
        core.heed_auth_lifetime(cx, c);
        core.establish(cx);
        record_established(core, cx, &self.handshake);
        let Self { secured, handshake, outstanding, offer, wanted, .. } = *self;
        let line = format!("IKE_SA {}[{}] established", core.connection.name, core.handle.0);
        for wanted in offer.iter().map(|offer| &offer.wanted).chain(&wanted) {
            cx.progress(&wanted.requests, &line);
        }
        let mut established = Established::new(core, secured, (outstanding.message_id + 1, 0), None);
        established.ike.set_windows(peer_window(c), cx.settings.window);
        mobike::agree(core, c);
        let Some(offer) = offer else { return established.bring_up_all(core, cx, wanted) };
        match offer.answered(core, c) {
            Ok(agreed) => {
                match agreed.install(
                    core,
                    cx,
                    &established.ike.secured,
                    &[],
                    handshake.nonces(),
                    true,
                    Install::New,
                ) {
                    Ok(child) => {
                        established.add_child(cx, child, true);
                        offer.succeed(cx);
                    }
                    Err(error) => {
                        established.discard(offer.spi);
                        let failure = format!("the child's keys cannot be derived: {error}");
                        offer.abandon(cx).fail(cx, &failure);
                    }
                }
            }
            Err((outcome, peer_has_it)) => {
                let failure = core.record(cx, outcome);
                if peer_has_it {
                    established.discard(offer.spi);
                }
                offer.abandon(cx).fail(cx, &failure);
            }
        }
        established.bring_up_all(core, cx, wanted)
    }

    /// What the responder's refusal means for the operator.
    fn refusal(&self, core: &Core, cx: &Shared, notify: NotifyType) -> Box<Outcome> {
        let own = own_identity(core, &core.connection);
        let by_psk = core.connection.local_auth == LocalAuth::Psk;
        let (code, message) = match notify {
            NotifyType::AUTHENTICATION_FAILED if !by_psk => (
                OutcomeCode::RefusedByPeer,
                format!(
                    "refused our authentication (AUTHENTICATION_FAILED): see whether it trusts the authority of our \
                     certificate, which has to name \"{own}\", expects \"{own}\" as `remote.id`, and calls itself \"{}\"",
                    core.connection.remote_id,
                ),
            ),
            NotifyType::AUTHENTICATION_FAILED => (
                OutcomeCode::RefusedByPeer,
                format!(
                    "refused our authentication (AUTHENTICATION_FAILED): compare the pre-shared key of \"{own}\" and \
                     \"{}\" on both sides, and whether it expects \"{own}\" as `remote.id` and calls itself \"{}\"",
                    core.connection.remote_id, core.connection.remote_id,
                ),
            ),
            other => (OutcomeCode::RefusedByPeer, format!("refused IKE_AUTH with {other}: its log says why")),
        };
        let peer = core.connection.remote_id.exact().filter(|_| by_psk);
        let secret = peer.and_then(|peer| cx.secrets.between(&own, peer));
        let outcome = outcome(core, &self.handshake, code, Blame::PeerIncompatible, message)
            .accepted(vec![core.connection.remote_id.clone()])
            .notify(notify);
        match secret {
            Some(secret) => outcome.secret(&secret.name),
            None => outcome,
        }
    }
}

/// Responder: IKE_SA_INIT is answered, its keys are there, and nobody is known yet.
pub(crate) struct AwaitAuthRequest {
    secured: Secured,
    handshake: Handshake,
    last: Option<Last>,
    until: Instant,
}

impl AwaitAuthRequest {
    pub(super) fn new(secured: Secured, handshake: Handshake, last: Option<Last>, until: Instant) -> Self {
        Self { secured, handshake, last, until }
    }

    /// The stored IKE_SA_INIT response, while the initiator may not have it.
    pub(super) fn init_response(&self) -> Option<&[u8]> {
        self.last.is_none().then_some(self.handshake.init_response.as_slice())
    }

    pub(super) fn deadline(&self) -> Instant {
        self.until
    }

    pub(super) fn handle_timeout(self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        let message = format!(
            "answered by us, it sent no IKE_AUTH request that we could decrypt within {} s: check that UDP port \
             4500 is open both ways",
            cx.settings.half_open_timeout.as_secs(),
        );
        let outcome = outcome(core, &self.handshake, OutcomeCode::Timeout, Blame::Network, message);
        core.record(cx, outcome);
        core.close(cx, Vec::new(), DownReason::Failed, "half-open for too long")
    }

    pub(super) fn handle_message(
        mut self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        m: &Incoming<'_>,
    ) -> State {
        if self.last.as_ref().is_some_and(|last| last.repeat(core, cx, m)) {
            return State::AwaitAuthRequest(self);
        }
        if !m.is(ExchangeType::IKE_AUTH, false, self.handshake.intermediate.message_id()) {
            cx.counters.ignored += 1;
            return State::AwaitAuthRequest(self);
        }
        let Some(Opened { payloads, datagram, .. }) = self.secured.open(core, cx, m) else {
            return State::AwaitAuthRequest(self);
        };
        // The initiator may have floated to the NAT traversal ports (RFC 7296 2.23).
        core.local = m.local;
        core.remote = m.remote;
        let malformed = |core: &Core, h: &Handshake, why: &str| {
            let message = format!("its IKE_AUTH request is invalid: {why}");
            outcome(core, h, OutcomeCode::InvalidSyntax, Blame::PeerMalformed, message)
        };
        let invalid_syntax = || Notify::new(NotifyType::INVALID_SYNTAX, Vec::new());
        let payloads = match payloads {
            Ok(payloads) => payloads,
            Err(error) => {
                let outcome = malformed(core, &self.handshake, &error.to_string());
                return self.refuse(core, cx, (m, datagram), invalid_syntax(), outcome);
            }
        };
        let contents = match Contents::read(&payloads) {
            Ok(contents) => contents,
            Err(refused) => {
                let mut outcome = malformed(core, &self.handshake, &format!("{refused:?}"));
                if let super::Refused::Critical(_) = refused {
                    outcome.code = OutcomeCode::UnsupportedCriticalPayload;
                }
                return self.refuse(core, cx, (m, datagram), refused.notify(), outcome);
            }
        };
        let child = [contents.sa.is_some(), contents.ts_initiator.is_some(), contents.ts_responder.is_some()];
        // RFC 6023 3: what we announced is what counts, whichever connection it turns out to be.
        let childless = child == [false; 3] && self.handshake.childless;
        if child != [true; 3] && !childless {
            let outcome = malformed(core, &self.handshake, "it lacks SA, TSi or TSr");
            return self.refuse(core, cx, (m, datagram), invalid_syntax(), outcome);
        }
        let proved = self.verify(core, cx, &contents).and_then(|()| self.prove(core, cx, &contents));
        match proved {
            Ok(proof) => self.established(core, cx, (m, datagram), &contents, proof),
            Err(outcome) => {
                let notify = Notify::new(NotifyType::AUTHENTICATION_FAILED, Vec::new());
                self.refuse(core, cx, (m, datagram), notify, outcome)
            }
        }
    }

    /// Answers with nothing but an error; the IKE SA is gone (RFC 7296 2.21.2).
    fn refuse(
        mut self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        (m, datagram): (&Incoming<'_>, Vec<u8>),
        notify: Notify,
        outcome: Box<Outcome>,
    ) -> State {
        let failure = core.record(cx, outcome.notify(notify.notify_type));
        let id = self.handshake.intermediate.message_id();
        let header = core.header(ExchangeType::IKE_AUTH, true, id);
        let response = self.secured.seal(&header, &[Payload::Notify(notify)]);
        let closed = core.close(cx, Vec::new(), DownReason::Failed, &failure);
        match response {
            Ok(response) => {
                core.reply(cx, m, &response);
                AwaitRepetition::start(cx, Answered::new(id, datagram, response))
            }
            Err(_) => closed,
        }
    }

    /// Finds the connection that is meant, and verifies that the peer is who it says.
    fn verify(&mut self, core: &mut Core, cx: &Shared, c: &Contents<'_>) -> Result<(), Box<Outcome>> {
        let fail = |core: &Core, code, blame, message: String| {
            Err(outcome(core, &self.handshake, code, blame, message))
        };
        let Some(id) = c.id_initiator else {
            let message = "its IKE_AUTH request lacks IDi (AUTHENTICATION_FAILED sent)".to_owned();
            return fail(core, OutcomeCode::InvalidSyntax, Blame::PeerMalformed, message);
        };
        let identities = Identity::from_wire(id)
            .and_then(|peer| Ok((peer, c.id_responder.map(Identity::from_wire).transpose()?)));
        let (peer, asked_for) = match identities {
            Ok(both) => both,
            Err(error) => {
                return fail(core, OutcomeCode::InvalidSyntax, Blame::PeerMalformed, error.to_string());
            }
        };
        core.remote_id = Some(peer.clone());
        let Some(connection) = self.connection_for(core, cx, &peer, asked_for.as_ref(), c.auth) else {
            return Err(self.no_connection(core, cx, &peer, asked_for));
        };
        core.connection = connection;
        let own = own_identity(core, &core.connection);
        core.local_id = Some(own.clone());
        if peer == own {
            let message = format!(
                "it claims our own identity \"{own}\" (AUTHENTICATION_FAILED sent): messages are reflected to us, or \
                 both sides have the same `local.id`"
            );
            return fail(core, OutcomeCode::IdentityMismatch, Blame::PeerMisbehaved, message);
        }
        let Some(auth) = c.auth else {
            // No AUTH payload asks for EAP (RFC 7296 2.16), which no connection has.
            let message = format!(
                "\"{peer}\" wants EAP, we accept a pre-shared key or a certificate only (AUTHENTICATION_FAILED sent): set \
                 `auth = psk` or `auth = pubkey` there"
            );
            return fail(core, OutcomeCode::AuthMethodRefused, Blame::PeerIncompatible, message);
        };
        match ppk::respond(core, cx, &mut self.secured, c, (self.handshake.ppk, auth)) {
            Ok(auth) => check(core, cx, (&self.secured, &self.handshake), c, (&auth, id), (&own, &peer))?,
            Err((code, blame, message)) => return fail(core, code, blame, message),
        }
        let others = core.connection.unique == Unique::Keep && !c.has(NotifyType::INITIAL_CONTACT);
        if others && cx.is_kept_out(&own, &peer, &core.connection.name, core.remote) {
            let message = format!(
                "\"{peer}\" has an IKE SA from another address already, and `unique = keep` here lets it have no \
                 other (AUTHENTICATION_FAILED sent)"
            );
            return fail(core, OutcomeCode::NotUnique, Blame::PeerIncompatible, message);
        }
        Ok(())
    }

    /// Our side of it: IDr, certificates and AUTH. Only who has proved who it is learns of it.
    fn prove(&mut self, core: &Core, cx: &Shared, c: &Contents<'_>) -> Result<Vec<Payload>, Box<Outcome>> {
        let own = own_identity(core, &core.connection);
        self.handshake.requested = credentials::requested(&c.certificate_requests);
        let proof = Proof::find(core, cx, &self.handshake, &own, core.remote_id.as_ref())?;
        let id = own.to_wire();
        let auth = proof.make(core, &self.handshake, &self.secured, &id)?;
        let mut payloads = vec![Payload::IdResponder(id)];
        payloads.extend(proof.certificates(core, cx, &self.handshake));
        payloads.push(Payload::Authentication(auth));
        Ok(payloads)
    }

    /// Does it fit the IKE proposal?
    fn suits(&self, connection: &Connection) -> bool {
        choose(&connection.proposals, std::slice::from_ref(&self.handshake.chosen)).is_some()
    }

    /// Of those that fit addresses and IKE proposal, the one that fits the identities best; of one that wants another
    /// kind of proof than there is, it is said that it does.
    fn connection_for(
        &self,
        core: &Core,
        cx: &Shared,
        peer: &Identity,
        asked_for: Option<&Identity>,
        auth: Option<&Authentication>,
    ) -> Option<Arc<Connection>> {
        let suits = |connection: &Connection| {
            self.suits(connection) && asked_for.is_none_or(|id| *id == own_identity(core, connection))
        };
        let by_psk = auth.map(|auth| auth.method == AuthMethod::SHARED_KEY);
        let verifies = |connection: &Connection| {
            by_psk.is_none_or(|by_psk| by_psk == (connection.remote_auth == RemoteAuth::Psk))
        };
        let (local, remote) = (core.local.ip(), core.remote.ip());
        let best = cx.connections.of_peer(local, remote, peer, |c| suits(c) && verifies(c));
        best.or_else(|| cx.connections.of_peer(local, remote, peer, suits))
    }

    fn no_connection(
        &self,
        core: &Core,
        cx: &Shared,
        peer: &Identity,
        asked_for: Option<Identity>,
    ) -> Box<Outcome> {
        let mut candidates = cx.connections.examples(core.local.ip(), core.remote.ip());
        candidates.retain(|c| self.suits(c));
        let own: Vec<Identity> = candidates.iter().map(|c| own_identity(core, c)).collect();
        let accepted = candidates.iter().map(|c| c.remote_id.clone()).collect();
        let message = match &asked_for {
            Some(wish) if !own.contains(wish) => {
                let ours: Vec<String> = candidates
                    .iter()
                    .zip(&own)
                    .map(|(c, own)| format!("\"{}\" is \"{own}\"", c.name))
                    .collect();
                format!(
                    "\"{peer}\" wants to talk to \"{wish}\", which is no identity of ours (AUTHENTICATION_FAILED \
                     sent): connection {}; correct `remote.id` there or `local.id` here",
                    ours.join(", "),
                )
            }
            _ => {
                let accepts: Vec<String> = candidates
                    .iter()
                    .map(|c| format!("\"{}\" wants {}", c.name, pattern(&c.remote_id)))
                    .collect();
                format!(
                    "it says it is \"{peer}\", which no connection accepts (AUTHENTICATION_FAILED sent): connection \
                     {}; correct `remote.id` here or `local.id` there",
                    accepts.join(", "),
                )
            }
        };
        outcome(core, &self.handshake, OutcomeCode::IdentityMismatch, Blame::PeerIncompatible, message)
            .accepted(accepted)
            .asked(asked_for, own)
    }

    fn established(
        mut self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        (m, datagram): (&Incoming<'_>, Vec<u8>),
        c: &Contents<'_>,
        mut payloads: Vec<Payload>,
    ) -> State {
        core.authenticated(cx, (&self.handshake.nonce_i, &self.handshake.nonce_r));
        core.establish(cx);
        record_established(core, cx, &self.handshake);
        if c.has(NotifyType::INITIAL_CONTACT) && core.connection.unique != Unique::Never {
            cx.effects.push(Effect::InitialContact(core.handle));
        }
        payloads.extend(core.ppk.then(ppk::confirmation));
        let child = match c.sa.map(|_| self.child(core, cx, c)) {
            None => None,
            Some(Ok((child, agreed))) => {
                payloads.extend(agreed);
                Some(child)
            }
            Some(Err((notify, outcome))) => {
                core.record(cx, outcome.notify(notify.notify_type));
                payloads.push(Payload::Notify(notify));
                None
            }
        };
        payloads.extend(core.auth_lifetime());
        mobike::agree(core, c);
        payloads.extend(mobike::supported(core).filter(|_| core.mobility.mobike));
        payloads.extend(own_window(cx));
        let children: Vec<ChildSa> = child.into_iter().collect();
        let id = self.handshake.intermediate.message_id();
        let header = core.header(ExchangeType::IKE_AUTH, true, id);
        let Ok(response) = self.secured.seal(&header, &payloads) else {
            return core.close(cx, children, DownReason::Failed, "the response cannot be encrypted");
        };
        core.reply(cx, m, &response);
        let answered = Answered::new(id, datagram, response);
        let mut established = Established::new(core, self.secured, (0, id + 1), Some(answered));
        established.ike.set_windows(peer_window(c), cx.settings.window);
        for child in children {
            established.add_child(cx, child, false);
        }
        State::Established(Box::new(established))
    }

    /// The child of IKE_AUTH: it is in the data plane before the peer hears of it.
    fn child(
        &self,
        core: &Core,
        cx: &mut Shared,
        c: &Contents<'_>,
    ) -> Result<(ChildSa, Vec<Payload>), (Notify, Box<Outcome>)> {
        let missing = || {
            let message = "its request for a child lacks SA, TSi or TSr";
            let notify = Notify::new(NotifyType::INVALID_SYNTAX, Vec::new());
            (
                notify,
                outcome(core, &self.handshake, OutcomeCode::InvalidSyntax, Blame::PeerMalformed, message),
            )
        };
        let (sa, ts_i, ts_r) = (
            c.sa.ok_or_else(missing)?,
            c.ts_initiator.ok_or_else(missing)?,
            c.ts_responder.ok_or_else(missing)?,
        );
        if core.connection.childless == Childless::Force {
            let message = "it wants a child in IKE_AUTH, which `childless = force` forbids here: set `childless = \
                           force` or `prefer` there as well, or another value here";
            let notify = Notify::new(NotifyType::NO_ADDITIONAL_SAS, Vec::new());
            let code = OutcomeCode::NoProposalChosen;
            return Err((notify, outcome(core, &self.handshake, code, Blame::PeerIncompatible, message)));
        }
        let agreed = child::respond(core, cx, c, (sa, ts_i, ts_r), false, (None, &[]))?;
        let payloads = agreed.payloads().into_iter().chain(agreed.notifies()).collect();
        let failed = agreed.outcome(
            OutcomeCode::NoProposalChosen,
            Blame::OurBug,
            "the child's keys cannot be derived",
        );
        let nonces = self.handshake.nonces();
        match agreed.install(core, cx, &self.secured, &[], nonces, false, Install::New) {
            Ok(child) => Ok((child, payloads)),
            Err(_) => Err((Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new()), failed)),
        }
    }
}

fn pattern(pattern: &IdentityPattern) -> String {
    match pattern {
        IdentityPattern::Any => "anyone".to_owned(),
        other => format!("\"{other}\""),
    }
}
