//! IKE_INTERMEDIATE between IKE_SA_INIT and IKE_AUTH, both roles (RFC 9242): one for each additional key exchange
//! (RFC 9370 2.2.2).
//!
//! Nothing here is authenticated until IKE_AUTH, which proves every message of it; until then a failure ends the IKE
//! SA as one in IKE_AUTH does.

use std::collections::VecDeque;
use std::time::Instant;

use adit_crypto::{Error, KeyExchangeSecret, Prf, Secret, rekey_ike_keys};
use adit_wire::ikev2::{ExchangeType, KeId, Message, Notify, NotifyType, Payload, Proposal};

use super::additional;
use super::auth::{self, AwaitAuthRequest, Handshake};
use super::init::secure;
use super::secured::{Opened, Secured};
use super::window::{Answered, Fate, Outstanding};
use super::{AwaitRepetition, Contents, Core, Incoming, State, Wanted};
use crate::output::{Blame, DownReason, OutcomeCode, Stage};
use crate::proposal::{classical, ke_name};
use crate::record::Outcome;
use crate::shared::Shared;

/// The notify that goes with proposals that have additional key exchanges (RFC 9370 2.2.1).
pub(super) fn notify(proposals: &[Proposal]) -> Option<Payload> {
    (classical(proposals).len() < proposals.len())
        .then(|| Payload::Notify(Notify::new(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED, Vec::new())))
}

/// The key exchanges that are still to be done before IKE_AUTH, and what IKE_AUTH must prove of those that are.
pub(super) struct Intermediate {
    left: VecDeque<KeId>,
    message_id: u32,
    /// Of the initiator's messages, and of the responder's (RFC 9242 3.3.2).
    int_auth: Option<(Secret, Secret)>,
}

impl Intermediate {
    /// All of these are to be done.
    pub(super) fn new(methods: &[KeId]) -> Self {
        Self { left: methods.iter().copied().collect(), message_id: 1, int_auth: None }
    }

    /// Message ID of the next exchange; of IKE_AUTH once nothing is left.
    pub(super) fn message_id(&self) -> u32 {
        self.message_id
    }

    /// IntAuth, which the AUTH payloads cover: nothing if there was no exchange.
    pub(super) fn int_auth(&self) -> Vec<u8> {
        match &self.int_auth {
            Some((i, r)) => [i.expose(), r.expose(), &self.message_id.to_be_bytes()].concat(),
            None => Vec::new(),
        }
    }
}

impl Handshake {
    /// One exchange is over: both messages are authenticated with the keys that protected them, then there are new
    /// ones (RFC 9242 3.3.2, RFC 9370 2.2.2).
    fn exchanged(
        &mut self,
        core: &mut Core,
        cx: &mut Shared,
        secured: &Secured,
        (request, response): (&[u8], &[u8]),
        shared: Secret,
    ) -> Result<Secured, Error> {
        let t = secured.transforms;
        let prf = Prf::new(t.prf)?;
        let intermediate = &mut self.intermediate;
        let chain = |sk_p: &Secret, before: Option<Secret>, message: &[u8]| {
            let before = before.as_ref().map_or(&[][..], Secret::expose);
            prf.compute(sk_p.expose(), &[before, message])
        };
        let (before_i, before_r) = intermediate.int_auth.take().unzip();
        let int_auth_i = chain(&secured.sk_pi, before_i, request);
        let int_auth_r = chain(&secured.sk_pr, before_r, response);
        intermediate.int_auth = Some((int_auth_i, int_auth_r));
        intermediate.message_id += 1;
        core.additional_kes.extend(intermediate.left.pop_front());
        let (ni, nr) = (&self.nonce_i, &self.nonce_r);
        let keys = rekey_ike_keys(t.prf, &secured.sk_d, &t, &[shared], ni, nr, core.spi_i.0, core.spi_r.0)?;
        let mut next = secure(cx, (core.spi_i, core.spi_r), core.initiator, t, keys)?;
        next.largest = secured.largest;
        Ok(next)
    }
}

/// `A | P` of a message of ours (RFC 9242 3.3.2): without encryption, however it was sent.
fn octets(datagrams: &[Vec<u8>], payloads: &[Payload]) -> Option<Vec<u8>> {
    let first = datagrams.first()?;
    let encrypted = Message::decode(first).ok()?.encrypted?;
    Some(encrypted.without_encryption(first, &Message::encode_inner(payloads).1))
}

fn outcome(
    core: &Core,
    h: &Handshake,
    code: OutcomeCode,
    blame: Blame,
    message: impl Into<String>,
) -> Box<Outcome> {
    Outcome::new(code, Stage::IkeIntermediate, blame, message)
        .proposals(&core.connection.proposals, &h.peer_proposals)
        .chosen(&h.chosen)
}

/// Initiator: the next exchange, which is IKE_AUTH if no key exchange is left.
pub(super) fn request(
    core: &mut Core,
    cx: &mut Shared,
    mut secured: Secured,
    handshake: Handshake,
    wanted: Vec<Wanted>,
) -> State {
    let Some(method) = handshake.intermediate.left.front().copied() else {
        return auth::request(core, cx, secured, handshake, wanted);
    };
    let id = handshake.intermediate.message_id;
    let header = core.header(ExchangeType::IKE_INTERMEDIATE, false, id);
    let sealed = KeyExchangeSecret::generate(method, &mut *cx.entropy).and_then(|secret| {
        let payloads = [additional::offer(&secret)];
        Ok((secured.seal(&header, &payloads)?, payloads, secret))
    });
    let started =
        sealed.ok().and_then(|(sent, payloads, secret)| Some((octets(&sent, &payloads)?, sent, secret)));
    let Some((octets, datagrams, secret)) = started else {
        let message = format!("the key exchange {} cannot be started", ke_name(method));
        let outcome = outcome(core, &handshake, OutcomeCode::InvalidKe, Blame::OurBug, message);
        let failure = core.record(cx, outcome);
        return auth::give_up(core, cx, wanted, &failure);
    };
    let requests: Vec<_> = wanted.iter().flat_map(|w| w.requests.iter().copied()).collect();
    cx.progress(&requests, &format!("sending IKE_INTERMEDIATE request ({})", ke_name(method)));
    let outstanding = Outstanding::send(core, cx, id, datagrams, core.schedule());
    State::AwaitIntermediateResponse(Box::new(AwaitIntermediateResponse {
        secured,
        handshake,
        outstanding,
        secret,
        request: octets,
        wanted,
    }))
}

/// Initiator: an IKE_INTERMEDIATE request is out.
pub(crate) struct AwaitIntermediateResponse {
    secured: Secured,
    handshake: Handshake,
    outstanding: Outstanding,
    secret: KeyExchangeSecret,
    /// The request as IntAuth covers it.
    request: Vec<u8>,
    wanted: Vec<Wanted>,
}

impl AwaitIntermediateResponse {
    pub(super) fn want(&mut self, wanted: Wanted) {
        self.wanted.push(wanted);
    }

    /// Gives up what was going on; the children are still wanted.
    pub(super) fn release(self) -> Vec<Wanted> {
        self.wanted
    }

    pub(super) fn deadline(&self) -> Instant {
        let own = self.outstanding.deadline();
        self.secured.deadline().map_or(own, |at| at.min(own))
    }

    pub(super) fn handle_timeout(mut self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        self.secured.handle_timeout(cx.now);
        if self.outstanding.on_timeout(core, cx) == Fate::Waiting {
            return State::AwaitIntermediateResponse(self);
        }
        let message = format!(
            "no answer from {} port {} (UDP) to IKE_INTERMEDIATE sent {} times, although it answered IKE_SA_INIT: \
             check that UDP port {} is open both ways and that messages of this size arrive",
            core.remote.ip(),
            core.remote.port(),
            self.outstanding.times_sent(),
            core.remote.port(),
        );
        let outcome = outcome(core, &self.handshake, OutcomeCode::Timeout, Blame::Network, message);
        let times = self.outstanding.times_sent();
        fail(core, cx, self.wanted, outcome.sent(times))
    }

    pub(super) fn cancel(self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        let message = "the IKE_INTERMEDIATE exchange was cancelled on our side";
        let code = OutcomeCode::Cancelled;
        let outcome = outcome(core, &self.handshake, code, Blame::OurConfiguration, message);
        fail(core, cx, self.wanted, outcome)
    }

    pub(super) fn handle_message(
        mut self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        m: &Incoming<'_>,
    ) -> State {
        if !m.is(ExchangeType::IKE_INTERMEDIATE, true, self.handshake.intermediate.message_id) {
            cx.counters.ignored += 1;
            return State::AwaitIntermediateResponse(self);
        }
        let Some(opened) = self.secured.open(core, cx, m) else {
            return State::AwaitIntermediateResponse(self);
        };
        let Self { secured, mut handshake, secret, request: sent, wanted, .. } = *self;
        let invalid = |core: &Core, handshake: &Handshake, why: String| {
            let message = format!("its IKE_INTERMEDIATE response is invalid: {why}");
            outcome(core, handshake, OutcomeCode::InvalidSyntax, Blame::PeerMalformed, message)
        };
        let contents = match &opened.payloads {
            Ok(payloads) => Contents::read(payloads).map_err(|refused| format!("{refused:?}")),
            Err(error) => Err(error.to_string()),
        };
        let contents = match contents {
            Ok(contents) => contents,
            Err(why) => {
                let outcome = invalid(core, &handshake, why);
                return fail(core, cx, wanted, outcome);
            }
        };
        if let Some(error) = contents.error() {
            let message = format!("refused IKE_INTERMEDIATE with {}: its log says why", error.notify_type);
            let code = OutcomeCode::RefusedByPeer;
            let outcome = outcome(core, &handshake, code, Blame::PeerIncompatible, message);
            return fail(core, cx, wanted, outcome.notify(error.notify_type));
        }
        // draft-ietf-ipsecme-ikev2-mlkem: after a ciphertext that is refused there is no further exchange.
        let shared = match additional::agree(secret, contents.ke) {
            Ok(shared) => shared,
            Err(why) => {
                let outcome = invalid(core, &handshake, why);
                return fail(core, cx, wanted, outcome);
            }
        };
        match handshake.exchanged(core, cx, &secured, (&sent, &opened.octets), shared) {
            Ok(secured) => request(core, cx, secured, handshake, wanted),
            Err(error) => {
                let message = format!("the keys cannot be derived: {error}");
                let code = OutcomeCode::InvalidKe;
                let outcome = outcome(core, &handshake, code, Blame::OurBug, message);
                fail(core, cx, wanted, outcome)
            }
        }
    }
}

/// Nobody is authenticated: the responder is told nothing, it gives up by itself.
fn fail(core: &mut Core, cx: &mut Shared, wanted: Vec<Wanted>, outcome: Box<Outcome>) -> State {
    if outcome.code != OutcomeCode::Cancelled
        && let Some(dial) = core.dial.take_if(|dial| dial.has_others())
    {
        return dial.follow_next(core, cx, wanted);
    }
    let failure = core.record(cx, outcome);
    auth::give_up(core, cx, wanted, &failure)
}

/// Responder: IKE_SA_INIT is answered; the next exchange, which is IKE_AUTH if no key exchange is left. `last` is the
/// exchange before, whose response may be lost, with the keys that protect it.
pub(super) fn expect(cx: &Shared, secured: Secured, handshake: Handshake, last: Option<Last>) -> State {
    let until = cx.now + cx.settings.half_open_timeout;
    if handshake.intermediate.left.is_empty() {
        State::AwaitAuthRequest(Box::new(AwaitAuthRequest::new(secured, handshake, last, until)))
    } else {
        State::AwaitIntermediateRequest(Box::new(AwaitIntermediateRequest {
            secured,
            handshake,
            last,
            until,
        }))
    }
}

/// An exchange that is over for the responder, and perhaps not for the initiator.
pub(super) struct Last {
    answered: Answered,
    secured: Secured,
}

impl Last {
    /// Sends the stored response if this is the same request once more.
    pub(super) fn repeat(&self, core: &mut Core, cx: &mut Shared, m: &Incoming<'_>) -> bool {
        self.answered.repeat(core, cx, Some(&self.secured), m)
    }
}

/// Responder: the keys are there, and another key exchange is to come.
pub(crate) struct AwaitIntermediateRequest {
    secured: Secured,
    handshake: Handshake,
    last: Option<Last>,
    until: Instant,
}

impl AwaitIntermediateRequest {
    /// The stored IKE_SA_INIT response, while the initiator may not have it.
    pub(super) fn init_response(&self) -> Option<&[u8]> {
        self.last.is_none().then_some(self.handshake.init_response.as_slice())
    }

    pub(super) fn deadline(&self) -> Instant {
        self.secured.deadline().map_or(self.until, |at| at.min(self.until))
    }

    pub(super) fn handle_timeout(mut self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        self.secured.handle_timeout(cx.now);
        if cx.now < self.until {
            return State::AwaitIntermediateRequest(self);
        }
        let message = format!(
            "answered by us, it sent no IKE_INTERMEDIATE request that we could decrypt within {} s: check that UDP \
             port 4500 is open both ways and that messages of this size arrive",
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
            return State::AwaitIntermediateRequest(self);
        }
        let id = self.handshake.intermediate.message_id;
        let left = self.handshake.intermediate.left.front().copied();
        let (true, Some(method)) = (m.is(ExchangeType::IKE_INTERMEDIATE, false, id), left) else {
            cx.counters.ignored += 1;
            return State::AwaitIntermediateRequest(self);
        };
        let Some(Opened { payloads, octets: received, datagram }) = self.secured.open(core, cx, m) else {
            return State::AwaitIntermediateRequest(self);
        };
        // RFC 9242 3.3.1: the initiator may have floated to the NAT traversal ports.
        core.local = m.local;
        core.remote = m.remote;
        let invalid_syntax = || Notify::new(NotifyType::INVALID_SYNTAX, Vec::new());
        let contents = match &payloads {
            Ok(payloads) => {
                Contents::read(payloads).map_err(|refused| (refused.notify(), format!("{refused:?}")))
            }
            Err(error) => Err((invalid_syntax(), error.to_string())),
        };
        let answer = contents.and_then(|contents| {
            additional::respond(cx, method, contents.ke).map_err(|why| (invalid_syntax(), why))
        });
        let (payload, shared) = match answer {
            Ok(answer) => answer,
            Err((notify, why)) => return self.refuse(core, cx, (m, datagram), notify, &why),
        };
        let Self { mut secured, mut handshake, .. } = *self;
        let payloads = [payload];
        let header = core.header(ExchangeType::IKE_INTERMEDIATE, true, id);
        let sealed = secured.seal(&header, &payloads).ok();
        let next = sealed.and_then(|response| {
            let sent = octets(&response, &payloads)?;
            let next = handshake.exchanged(core, cx, &secured, (&received, &sent), shared).ok()?;
            Some((response, next))
        });
        let Some((response, next)) = next else {
            return core.close(cx, Vec::new(), DownReason::Failed, "the response cannot be made");
        };
        core.reply(cx, m, &response);
        let answered = Answered::new(id, datagram, response);
        expect(cx, next, handshake, Some(Last { answered, secured }))
    }

    /// Answers with nothing but an error; the IKE SA is gone (RFC 9242 3.4, RFC 7296 2.21.2).
    fn refuse(
        mut self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        (m, datagram): (&Incoming<'_>, Vec<u8>),
        notify: Notify,
        why: &str,
    ) -> State {
        let message = format!("its IKE_INTERMEDIATE request is invalid: {why} ({} sent)", notify.notify_type);
        let outcome =
            outcome(core, &self.handshake, OutcomeCode::InvalidSyntax, Blame::PeerMalformed, message);
        let failure = core.record(cx, outcome.notify(notify.notify_type));
        let header = core.header(ExchangeType::IKE_INTERMEDIATE, true, m.header().message_id);
        let response = self.secured.seal(&header, &[Payload::Notify(notify)]);
        let closed = core.close(cx, Vec::new(), DownReason::Failed, &failure);
        match response {
            Ok(response) => {
                core.reply(cx, m, &response);
                AwaitRepetition::start(cx, Answered::new(m.header().message_id, datagram, response))
            }
            Err(_) => closed,
        }
    }
}
