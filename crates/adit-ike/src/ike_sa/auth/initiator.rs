//! IKE_AUTH as initiator: the request, and what becomes of the answer.

use std::time::Instant;

use adit_wire::ikev2::{ExchangeType, Notify, NotifyType, Payload};

use super::{
    Handshake, Proof, check, give_up, outcome, own_identity, own_window, peer_window, record_established,
};
use crate::config::{LocalAuth, Unique};
use crate::identity::Identity;
use crate::ike_sa::child::{Install, Offer};
use crate::ike_sa::established::Established;
use crate::ike_sa::secured::{Secured, Unmixed};
use crate::ike_sa::window::{Fate, Outstanding};
use crate::ike_sa::{AwaitDeleteResponse, Contents, Core, Incoming, State, Wanted, mobike, ppk};
use crate::output::{Blame, OutcomeCode};
use crate::record::Outcome;
use crate::shared::Shared;

/// Initiator: sends the IKE_AUTH request, with the first of the wanted children.
pub(in crate::ike_sa) fn request(
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
    pub(in crate::ike_sa) fn want(&mut self, mut wanted: Wanted) {
        match &mut self.offer {
            Some(offer) if offer.wanted.child.name == wanted.child.name => {
                offer.wanted.requests.append(&mut wanted.requests);
            }
            _ => self.wanted.push(wanted),
        }
    }

    pub(in crate::ike_sa) fn deadline(&self) -> Instant {
        self.outstanding.deadline()
    }

    pub(in crate::ike_sa) fn handle_timeout(mut self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
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

    pub(in crate::ike_sa) fn cancel(self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        let message = "the IKE_AUTH exchange was cancelled on our side";
        let outcome =
            outcome(core, &self.handshake, OutcomeCode::Cancelled, Blame::OurConfiguration, message);
        self.fail(core, cx, outcome)
    }

    /// Gives up what was going on; the children are still wanted.
    pub(in crate::ike_sa) fn release(self, cx: &mut Shared) -> Vec<Wanted> {
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

    pub(in crate::ike_sa) fn handle_message(
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
