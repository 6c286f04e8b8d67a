//! IKE_SA_INIT, both roles (RFC 7296 1.2, 2.6, 2.7, 2.14, 2.23).
//!
//! Nothing in this exchange is authenticated: a responder keeps no state for a request it refuses, and an initiator
//! acts on no refusal at once.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_crypto::{IkeKeys, IkeTransforms, KeyExchangeSecret, Secret, ike_keys};
use adit_wire::ikev2::{
    ExchangeType, Flags, Header, IkeSpi, KeId, KeyExchange, Message, Nonce, Notify, NotifyType, Payload,
    PayloadType, Proposal, ProtocolId, SecurityAssociation, Version,
};
use tracing::debug;

use super::auth::{Handshake, signature};
use super::fragment;
use super::intermediate::{self, Intermediate};
use super::ppk;
use super::secured::Secured;
use super::window::{Fate, Outstanding};
use super::{Contents, Core, IkeSa, Incoming, Mobility, State, Succession, Wanted};
use crate::config::{Childless, Connection};
use crate::credentials;
use crate::nat::{self, Nat};
use crate::output::{Blame, DownReason, IkeKeyLog, OutcomeCode, Output, Stage};
use crate::proposal::{
    NotationList, additional_kes, answers, choose, classical, ike_transforms, ke_name, methods,
};
use crate::record::{Facts, Outcome, bounded};
use crate::shared::{Effect, Shared};
use crate::tally::Way;

/// Octets of our nonces: at least half the key of any PRF (RFC 7296 2.10).
pub(super) const NONCE_LEN: usize = 32;

/// How long we go on after an unprotected refusal. It may be forged, so the real answer gets its chance; but it is
/// most often true, and somebody waits to read it (RFC 7296 2.21.1).
const REFUSAL_PATIENCE: Duration = Duration::from_secs(2);

/// New starts because of COOKIE or INVALID_KE_PAYLOAD.
const MOST_RESTARTS: usize = 5;

/// Initiator: the first request is out.
pub(crate) struct AwaitInitResponse {
    dial: Box<Dial>,
    /// Why it will have failed if nothing better comes in time.
    refusal: Option<Box<Outcome>>,
    wanted: Vec<Wanted>,
}

impl AwaitInitResponse {
    /// Starts an IKE SA as initiator; `Err` gives the children back that now wait in vain. `wary` is the second attempt
    /// after one that a forged cookie may have spoilt.
    pub(crate) fn start(
        cx: &mut Shared,
        connection: Arc<Connection>,
        (local, remote): (SocketAddr, SocketAddr),
        wanted: Vec<Wanted>,
        wary: bool,
    ) -> Result<IkeSa, Vec<Wanted>> {
        let Some(method) = methods(&connection.proposals).first().copied() else { return Err(wanted) };
        let Ok(secret) = KeyExchangeSecret::generate(method, &mut *cx.entropy) else { return Err(wanted) };
        let fake = connection.encap;
        let handle = cx.next_ike_sa();
        let spi_i = cx.take_ike_spi(handle);
        let mut core = Core {
            handle,
            connection,
            initiator: true,
            dialled: true,
            spi_i,
            spi_r: IkeSpi::ZERO,
            local,
            remote,
            nat: Nat { fake, ..Nat::default() },
            local_id: None,
            remote_id: None,
            transforms: None,
            additional_kes: Vec::new(),
            ppk: false,
            begun: cx.now,
            established: None,
            last_sent: cx.now,
            nat_keepalive: cx.settings.nat_keepalive,
            last_proof: cx.now,
            delete_requests: Vec::new(),
            rekey_at: None,
            expires_at: None,
            spis: vec![spi_i],
            first_request: None,
            up_requests: Vec::new(),
            mobility: Mobility::default(),
            dial: None,
            succession: Succession::default(),
        };
        let nonce = cx.random::<NONCE_LEN>().to_vec();
        for w in &wanted {
            let line = format!("initiating IKE_SA {}[{}] to {}", core.connection.name, core.handle.0, remote);
            cx.progress(&w.requests, &line);
        }
        let request = Self::request(&core, cx, &secret, &nonce, None);
        let schedule = core.schedule();
        let outstanding = Outstanding::send(&mut core, cx, 0, vec![request.clone()], schedule);
        let dial = Dial {
            path: (local, remote),
            nonce,
            secrets: vec![secret],
            sent: vec![Sent { method, cookie: None, datagram: request }],
            outstanding,
            restarts: 0,
            wary,
            held: None,
            followed: Vec::new(),
            others: VecDeque::new(),
            patience: None,
        };
        let state = Self { dial: Box::new(dial), refusal: None, wanted };
        Ok(IkeSa::new(cx, core, State::AwaitInitResponse(Box::new(state))))
    }

    fn request(
        core: &Core,
        cx: &mut Shared,
        secret: &KeyExchangeSecret,
        nonce: &[u8],
        cookie: Option<&[u8]>,
    ) -> Vec<u8> {
        let mut payloads = Vec::new();
        // RFC 7296 2.6: the cookie comes first, everything else as it was.
        payloads.extend(cookie.map(|c| Payload::Notify(Notify::new(NotifyType::COOKIE, c.to_vec()))));
        payloads.push(Payload::SecurityAssociation(SecurityAssociation {
            proposals: core.connection.proposals.clone(),
        }));
        payloads.push(Payload::KeyExchange(KeyExchange {
            method: secret.method(),
            data: secret.public().to_vec(),
        }));
        payloads.push(Payload::Nonce(Nonce(nonce.to_vec())));
        payloads.extend(nat::notifies(
            core.spi_i,
            IkeSpi::ZERO,
            core.local,
            core.remote,
            core.nat.fake,
            &mut *cx.entropy,
        ));
        payloads.extend(fragment::notify(&core.connection));
        payloads.extend(core.connection.has_public_keys().then(signature::announcement));
        payloads.extend(intermediate::notify(&core.connection.proposals));
        payloads.extend(ppk::offer(cx, &core.connection));
        payloads.push(full_transcript());
        if core.connection.starts_childless() {
            payloads.push(childless_supported());
        }
        Message::encode(&core.header(ExchangeType::IKE_SA_INIT, false, 0), &payloads)
    }

    pub(super) fn want(&mut self, wanted: Wanted) {
        self.wanted.push(wanted);
    }

    pub(super) fn deadline(&self) -> Instant {
        let outstanding = self.dial.outstanding.deadline();
        self.dial.held.as_ref().map_or(outstanding, |(at, _)| outstanding.min(*at))
    }

    pub(super) fn handle_timeout(mut self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        if let Some((_, cookies)) = self.dial.held.take_if(|(at, _)| cx.now >= *at) {
            let method = self.dial.method();
            for cookie in cookies {
                self = self.restart(core, cx, method, Some(cookie));
            }
        }
        if self.dial.outstanding.on_timeout(core, cx) == Fate::Waiting {
            return State::AwaitInitResponse(self);
        }
        let outcome = self.refusal.take().unwrap_or_else(|| {
            let (remote, times) = (core.remote, self.dial.outstanding.times_sent());
            Outcome::new(
                OutcomeCode::Timeout,
                Stage::IkeSaInit,
                Blame::Network,
                format!(
                    "no answer from {} port {} (UDP) to IKE_SA_INIT sent {times} times from {}: check that the \
                     peer's address is right, that it runs and listens there, and that no firewall drops UDP 500 \
                     and 4500",
                    remote.ip(),
                    remote.port(),
                    core.local,
                ),
            )
            .proposals(&core.connection.proposals, &[])
            .sent(times)
        });
        self.fail(core, cx, outcome)
    }

    pub(super) fn cancel(self, core: &mut Core, cx: &mut Shared) -> State {
        let outcome = Outcome::new(
            OutcomeCode::Cancelled,
            Stage::IkeSaInit,
            Blame::OurConfiguration,
            "the IKE_SA_INIT exchange was cancelled on our side",
        )
        .proposals(&core.connection.proposals, &[]);
        self.fail(core, cx, outcome)
    }

    /// The names of the children it is for.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &str> {
        self.wanted.iter().map(|wanted| wanted.child.name.as_str())
    }

    /// What it is for is there.
    pub(super) fn needless(self, core: &mut Core, cx: &mut Shared) -> State {
        let requests: Vec<_> = self.wanted.into_iter().flat_map(|wanted| wanted.requests).collect();
        cx.progress(&requests, "the peer has brought it up meanwhile");
        for request in requests {
            cx.finish_part(request, Ok(()));
        }
        core.close(cx, Vec::new(), DownReason::Replaced, "the peer dialled and was answered first")
    }

    fn fail(self, core: &mut Core, cx: &mut Shared, outcome: Box<Outcome>) -> State {
        let message = core.record(cx, outcome);
        for wanted in self.wanted {
            wanted.fail(cx, &message);
        }
        core.close(cx, Vec::new(), DownReason::Failed, &message)
    }

    pub(super) fn handle_message(
        self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        m: &Incoming<'_>,
    ) -> State {
        // The answer comes from where the question went to (RFC 7296 2.11), and is no echo of our own message.
        if !m.is(ExchangeType::IKE_SA_INIT, true, 0)
            || m.remote != core.remote
            || m.message.encrypted.is_some()
        {
            cx.counters.ignored += 1;
            return State::AwaitInitResponse(self);
        }
        cx.tallies.message(&core.connection.name, ExchangeType::IKE_SA_INIT, Way::In, true);
        let Ok(contents) = Contents::read(&m.message.payloads) else {
            return self.refused(core, cx, Outcome::new(
                OutcomeCode::InvalidSyntax,
                Stage::IkeSaInit,
                Blame::PeerMalformed,
                "its IKE_SA_INIT response cannot be understood (a repeated or an unknown critical payload)",
            ));
        };
        if let Some(cookie) = contents.notify(NotifyType::COOKIE) {
            return self.with_cookie(core, cx, &cookie.data);
        }
        if let Some(notify) = contents.notify(NotifyType::INVALID_KE_PAYLOAD) {
            let method =
                <[u8; 2]>::try_from(notify.data.as_slice()).ok().map(|b| KeId(u16::from_be_bytes(b)));
            return self.with_method(core, cx, method);
        }
        if let Some(notify) = contents.error() {
            let outcome = refusal_of_init(core, notify);
            return self.refused(core, cx, outcome);
        }
        self.accepted(core, cx, m, &contents)
    }

    /// A refusal that nothing protects: it stands unless the real answer comes soon.
    fn refused(mut self: Box<Self>, core: &Core, cx: &mut Shared, outcome: Box<Outcome>) -> State {
        self.refuse(core, cx, outcome);
        State::AwaitInitResponse(self)
    }

    fn refuse(&mut self, core: &Core, cx: &mut Shared, outcome: Box<Outcome>) {
        debug!(handle = core.handle.0, message = %outcome.message, "refused, waiting whether that is all");
        if self.refusal.is_none() {
            self.dial.outstanding.give_up_by(cx.now + REFUSAL_PATIENCE);
            let requests: Vec<_> = self.wanted.iter().flat_map(|w| w.requests.iter().copied()).collect();
            cx.progress(&requests, &format!("peer {}: {}", core.remote, outcome.message));
        }
        self.refusal = Some(outcome.proposals(&core.connection.proposals, &[]));
    }

    fn with_cookie(mut self: Box<Self>, core: &mut Core, cx: &mut Shared, cookie: &[u8]) -> State {
        // RFC 7296 2.6: 1 to 64 octets.
        let known = self.dial.sent.iter().any(|s| s.cookie.as_deref() == Some(cookie));
        if cookie.is_empty() || cookie.len() > 64 || known {
            cx.counters.ignored += 1;
            return State::AwaitInitResponse(self);
        }
        if self.dial.wary {
            // Whoever answers without a cookie after all needs none, and would be asked twice.
            let (_, held) = self.dial.held.get_or_insert_with(|| (cx.now + REFUSAL_PATIENCE, Vec::new()));
            if held.len() < MOST_RESTARTS && !held.iter().any(|c| c == cookie) {
                held.push(cookie.to_vec());
            }
            return State::AwaitInitResponse(self);
        }
        let method = self.dial.method();
        State::AwaitInitResponse(self.restart(core, cx, method, Some(cookie.to_vec())))
    }

    /// INVALID_KE_PAYLOAD (RFC 7296 1.2, 2.7). Never to a method outside our own proposals, whoever wishes it.
    fn with_method(self: Box<Self>, core: &mut Core, cx: &mut Shared, method: Option<KeId>) -> State {
        let ours = methods(&core.connection.proposals);
        match method {
            Some(method) if method == self.dial.method() => {
                // A late answer to a request before this one.
                cx.counters.ignored += 1;
                State::AwaitInitResponse(self)
            }
            Some(method) if ours.contains(&method) => {
                let cookie = self.dial.sent.last().and_then(|s| s.cookie.clone());
                State::AwaitInitResponse(self.restart(core, cx, method, cookie))
            }
            _ => {
                let wish = method.map_or_else(|| "no method it names".to_owned(), ke_name);
                let have: Vec<String> = ours.iter().map(|m| ke_name(*m)).collect();
                self.refused(core, cx, Outcome::new(
                    OutcomeCode::InvalidKe,
                    Stage::IkeSaInit,
                    Blame::PeerIncompatible,
                    format!(
                        "it wants the key exchange method {wish} (INVALID_KE_PAYLOAD), our proposals have {}: add \
                         its method to `proposals` here or one of ours there",
                        have.join(", "),
                    ),
                ).notify(NotifyType::INVALID_KE_PAYLOAD))
            }
        }
    }

    /// Sends a changed first request. SPI and nonce stay (a cookie is bound to them), the cookie too (RFC 7296 2.6.1),
    /// and whatever answers one of those before is as good.
    fn restart(
        mut self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        method: KeId,
        cookie: Option<Vec<u8>>,
    ) -> Box<Self> {
        if self.dial.restarts >= MOST_RESTARTS {
            let message = format!("it asked for a changed IKE_SA_INIT more than {MOST_RESTARTS} times");
            let outcome =
                Outcome::new(OutcomeCode::InvalidKe, Stage::IkeSaInit, Blame::PeerMisbehaved, message);
            self.refuse(core, cx, outcome);
            return self;
        }
        self.dial.restarts += 1;
        let secret = match self.dial.secret(method) {
            Some(secret) => secret,
            None => match KeyExchangeSecret::generate(method, &mut *cx.entropy) {
                Ok(secret) => self.dial.secrets.push_mut(secret),
                Err(_) => return self,
            },
        };
        debug!(handle = core.handle.0, cookie = cookie.is_some(), %method, "starting IKE_SA_INIT again");
        let datagram = Self::request(core, cx, secret, &self.dial.nonce, cookie.as_deref());
        self.dial.outstanding = Outstanding::send(core, cx, 0, vec![datagram.clone()], core.schedule());
        self.dial.sent.push(Sent { method, cookie, datagram });
        self.refusal = None;
        self
    }

    fn accepted(
        self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        m: &Incoming<'_>,
        c: &Contents<'_>,
    ) -> State {
        let invalid = |why: &str| {
            Outcome::new(
                OutcomeCode::InvalidSyntax,
                Stage::IkeSaInit,
                Blame::PeerMisbehaved,
                format!("its IKE_SA_INIT response is invalid: {why}"),
            )
        };
        let (Some(sa), Some(ke), Some(nonce)) = (c.sa, c.ke, c.nonce) else {
            return self.refused(core, cx, invalid("it lacks SA, KE or Nonce"));
        };
        let spi_r = m.header().responder_spi;
        let (Some(proposal), 1) = (sa.proposals.first(), sa.proposals.len()) else {
            return self.refused(core, cx, invalid("it does not choose one proposal"));
        };
        let transforms = ike_transforms(proposal).filter(|_| answers(&core.connection.proposals, proposal));
        let Some(transforms) = transforms else {
            return self.refused(core, cx, invalid("it chooses what we did not offer").chosen(proposal));
        };
        // RFC 9370 2.2.1: without IKE_INTERMEDIATE they cannot be done.
        if !c.has(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED)
            && !additional_kes(proposal).is_some_and(|methods| methods.is_empty())
        {
            let why = "it chooses additional key exchanges, but not IKE_INTERMEDIATE";
            return self.refused(core, cx, invalid(why).chosen(proposal));
        }
        let able = c.has(NotifyType::CHILDLESS_IKEV2_SUPPORTED);
        if !able && core.connection.needs_childless() {
            let message = "it does not announce IKE SAs without a child (RFC 6023), and `childless = force` or a \
                               connection without children has to have one: allow them there";
            let code = OutcomeCode::RefusedByPeer;
            let outcome = Outcome::new(code, Stage::IkeSaInit, Blame::PeerIncompatible, message);
            return self.refused(core, cx, outcome);
        }
        let childless = able && core.connection.starts_childless();
        // An echo of our own nonce or SPI is our own message come back.
        if spi_r == IkeSpi::ZERO || spi_r == core.spi_i || nonce.0 == self.dial.nonce {
            return self.refused(core, cx, invalid("its SPI or nonce is zero or our own"));
        }
        // The last of the requests that it can answer: a cookie makes those before it void.
        let sent = self.dial.sent.iter().rev().find(|sent| sent.method == ke.method);
        let (Some(sent), Some(secret), true) =
            (sent, self.dial.secret(ke.method), ke.method == transforms.ke)
        else {
            return self.refused(core, cx, invalid("its public value is not of the method it chooses"));
        };
        if short_nonce(&transforms, &nonce.0) {
            return self.refused(core, cx, invalid("its nonce is too short for the PRF"));
        }
        // RFC 8784 3: the peer has no such key, or somebody wants us to believe so.
        let ppk = c.has(NotifyType::USE_PPK) && ppk::offer(cx, &core.connection).is_some();
        let wants_ppk = core.connection.ppk.required
            || core.connection.require_post_quantum && !is_post_quantum(proposal, &transforms);
        if wants_ppk && !ppk {
            let (code, blame, message) = ppk::missing(core, "no post-quantum preshared key is agreed");
            let outcome = Outcome::new(code, Stage::IkeSaInit, blame, message).chosen(proposal);
            return self.refused(core, cx, outcome);
        }
        let shared = match secret.agree(&ke.data) {
            Ok(shared) => shared,
            Err(error) => return self.refused(core, cx, invalid(&error.to_string())),
        };
        let init_request = sent.datagram.clone();
        let Self { mut dial, wanted, .. } = *self;
        dial.followed = m.datagram.to_vec();
        core.spi_r = spi_r;
        core.transforms = Some(transforms);
        core.additional_kes.clear();
        let mut secured = match derive(cx, core, transforms, &shared, &dial.nonce, &nonce.0) {
            Ok(secured) => secured,
            Err(failure) => {
                let outcome = Outcome::new(
                    OutcomeCode::NoProposalChosen,
                    Stage::IkeSaInit,
                    Blame::OurBug,
                    format!("the keys cannot be derived: {failure}"),
                );
                let message = core.record(cx, outcome);
                for w in wanted {
                    w.fail(cx, &message);
                }
                return core.close(cx, Vec::new(), DownReason::Failed, &message);
            }
        };
        secured.largest = fragment::agree(&core.connection, &cx.settings, c);
        let detected = nat::detect(&c.notifies, core.spi_i, core.spi_r, m.local, m.remote);
        core.nat = detected.map_or_else(Nat::default, |nat| Nat { fake: core.nat.fake, ..nat });
        // RFC 4555 3.3: with MOBIKE even where there is no NAT yet.
        if core.nat.encapsulates() || core.connection.mobike && detected.is_some() {
            float(core, cx);
        }
        let handshake = Handshake {
            init_request,
            init_response: m.datagram.to_vec(),
            nonce_i: dial.nonce.clone(),
            nonce_r: nonce.0.clone(),
            chosen: proposal.clone(),
            peer_proposals: Vec::new(),
            ppk,
            full_transcript: c.has(NotifyType::IKE_SA_INIT_FULL_TRANSCRIPT_AUTH),
            hashes: signature::announced(c).filter(|_| core.connection.has_public_keys()),
            requested: credentials::requested(&c.certificate_requests),
            intermediate: Intermediate::new(&additional_kes(proposal).unwrap_or_default()),
            childless,
        };
        core.dial = Some(dial);
        intermediate::request(core, cx, secured, handshake, wanted)
    }
}

/// What an initiator keeps of IKE_SA_INIT until the peer is authentic. Nothing in that exchange is: the answer we go on
/// with may be forged and the true one still come, or a forged wish have made us ask twice (RFC 7296 2.4, 2.21.1).
pub(crate) struct Dial {
    path: (SocketAddr, SocketAddr),
    nonce: Vec<u8>,
    /// One for each method asked for so far.
    secrets: Vec<KeyExchangeSecret>,
    sent: Vec<Sent>,
    /// The last one of `sent`.
    outstanding: Outstanding,
    restarts: usize,
    /// Cookies are used only if nothing better comes for a while.
    wary: bool,
    held: Option<(Instant, Vec<Vec<u8>>)>,
    /// The answer we go on with.
    followed: Vec<u8>,
    /// Other answers.
    others: VecDeque<Vec<u8>>,
    /// When the one we follow has had its time.
    patience: Option<Instant>,
}

/// A first request that went out.
struct Sent {
    method: KeId,
    cookie: Option<Vec<u8>>,
    datagram: Vec<u8>,
}

impl Dial {
    /// Answers kept.
    const MOST_OTHERS: usize = 8;

    fn method(&self) -> KeId {
        self.sent.last().map_or(KeId::NONE, |sent| sent.method)
    }

    fn secret(&self, method: KeId) -> Option<&KeyExchangeSecret> {
        self.secrets.iter().find(|secret| secret.method() == method)
    }

    /// One more answer, while another one is being followed.
    pub(super) fn note(&mut self, cx: &mut Shared, m: &Incoming<'_>) {
        let known = m.datagram == self.followed || self.others.iter().any(|other| other == m.datagram);
        let accepts = m.message.payloads.iter().any(|p| matches!(p, Payload::KeyExchange(_)));
        if known || !accepts || m.remote != self.path.1 || self.others.len() >= Self::MOST_OTHERS {
            cx.counters.ignored += 1;
            return;
        }
        debug!("another answer to IKE_SA_INIT");
        self.others.push_back(m.datagram.to_vec());
        let until = cx.now + self.wait();
        self.patience.get_or_insert(until);
    }

    /// How long an answer that looks right is followed while there is something else to try.
    fn wait(&self) -> Duration {
        if self.wary { REFUSAL_PATIENCE * 5 } else { REFUSAL_PATIENCE }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.patience
    }

    /// Is there another answer to follow?
    pub(super) fn has_others(&self) -> bool {
        !self.others.is_empty()
    }

    /// Can a forged cookie be the reason why the peer does not believe us? Then it has answered a request before the
    /// one that our AUTH payload covers.
    pub(super) fn is_spoilt(&self) -> bool {
        !self.wary && self.sent.iter().any(|sent| sent.cookie.is_some())
    }

    /// The one attempt more, which trusts less.
    pub(super) fn is_wary(&self) -> bool {
        self.wary
    }

    /// Dials once more.
    pub(super) fn again(&self, core: &mut Core, cx: &mut Shared, wanted: Vec<Wanted>) {
        debug!(handle = core.handle.0, "IKE_SA_INIT may have been forged, dialling again");
        let (path, connection) = (self.path, Arc::clone(&core.connection));
        let requests = std::mem::take(&mut core.up_requests);
        let replaces = core.succession.replaces.take();
        cx.effects.push(Effect::DialAgain { connection, path, wanted, requests, replaces });
    }

    /// Follows the next answer; without one, dials anew.
    pub(super) fn follow_next(
        mut self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        wanted: Vec<Wanted>,
    ) -> State {
        let Some(datagram) = self.others.pop_front() else {
            self.again(core, cx, wanted);
            return core.close(cx, Vec::new(), DownReason::Failed, "dialled again");
        };
        debug!(handle = core.handle.0, "following the next answer to IKE_SA_INIT");
        self.patience = (self.has_others() || !self.wary).then(|| cx.now + self.wait());
        (core.local, core.remote) = self.path;
        core.spi_r = IkeSpi::ZERO;
        core.additional_kes.clear();
        core.nat = Nat { fake: core.connection.encap, ..Nat::default() };
        let (local, remote) = self.path;
        let state = Box::new(AwaitInitResponse { dial: self, refusal: None, wanted });
        match Message::decode(&datagram) {
            Ok(message) => {
                let m = Incoming { local, remote, datagram: &datagram, message: &message };
                state.handle_message(core, cx, &m)
            }
            Err(_) => State::AwaitInitResponse(state),
        }
    }
}

/// Behind or before a NAT, everything after IKE_SA_INIT goes from and to the NAT traversal ports (RFC 7296 2.23). Where
/// the peer's port is not 500 it is its NAT traversal port already.
fn float(core: &mut Core, cx: &Shared) {
    core.local.set_port(cx.settings.nat_t_port);
    if core.remote.port() == 500 {
        core.remote.set_port(4500);
    }
}

/// IKE_AUTH may come without a child (RFC 6023 4). It is about the IKE SA. The responder says so; an initiator does to
/// leave room for it.
fn childless_supported() -> Payload {
    let notify = Notify::new(NotifyType::CHILDLESS_IKEV2_SUPPORTED, Vec::new());
    Payload::Notify(Notify { protocol: ProtocolId::IKE, ..notify })
}

/// That we sign both messages of this exchange, whole, with a peer that says the same: nobody can take something out
/// of either one unnoticed (draft-ietf-ipsecme-ikev2-downgrade-prevention).
fn full_transcript() -> Payload {
    Payload::Notify(Notify::new(NotifyType::IKE_SA_INIT_FULL_TRANSCRIPT_AUTH, Vec::new()))
}

fn is_post_quantum(chosen: &Proposal, transforms: &IkeTransforms) -> bool {
    let additional = additional_kes(chosen).unwrap_or_default();
    transforms.ke.is_post_quantum() || additional.iter().any(|method| method.is_post_quantum())
}

/// RFC 7296 2.10: at least half the key of the PRF.
fn short_nonce(transforms: &IkeTransforms, nonce: &[u8]) -> bool {
    adit_crypto::Prf::new(transforms.prf).is_ok_and(|prf| nonce.len() * 2 < prf.key_len())
}

/// SKEYSEED and all that comes of it (RFC 7296 2.14).
fn derive(
    cx: &mut Shared,
    core: &Core,
    transforms: IkeTransforms,
    shared: &Secret,
    nonce_i: &[u8],
    nonce_r: &[u8],
) -> Result<Secured, adit_crypto::Error> {
    let keys = ike_keys(&transforms, shared, nonce_i, nonce_r, core.spi_i.0, core.spi_r.0)?;
    secure(cx, (core.spi_i, core.spi_r), core.initiator, transforms, keys)
}

/// Puts keys to use.
pub(super) fn secure(
    cx: &mut Shared,
    (spi_i, spi_r): (IkeSpi, IkeSpi),
    initiator: bool,
    transforms: IkeTransforms,
    keys: IkeKeys,
) -> Result<Secured, adit_crypto::Error> {
    if cx.settings.key_log {
        let copy = |key: &Secret| key.expose().to_vec();
        cx.outputs.push_back(Output::KeyLog(IkeKeyLog {
            initiator_spi: spi_i,
            responder_spi: spi_r,
            transforms,
            sk_ei: copy(&keys.sk_ei),
            sk_er: copy(&keys.sk_er),
            sk_ai: copy(&keys.sk_ai),
            sk_ar: copy(&keys.sk_ar),
        }));
    }
    Secured::new(transforms, keys, initiator)
}

/// What an error notify in an IKE_SA_INIT response means for the operator.
fn refusal_of_init(core: &Core, notify: &Notify) -> Box<Outcome> {
    let offered = NotationList(&core.connection.proposals).to_string();
    let (code, message) = match notify.notify_type {
        NotifyType::NO_PROPOSAL_CHOSEN => (
            OutcomeCode::NoProposalChosen,
            format!(
                "refused our IKE proposals (NO_PROPOSAL_CHOSEN): we offered {offered}; add one that it accepts to \
                 `proposals` here, or one of these there; it may also have no connection for our address {}",
                core.local.ip(),
            ),
        ),
        other => (
            OutcomeCode::RefusedByPeer,
            format!("refused IKE_SA_INIT with {other}: its log says why; we offered {offered}"),
        ),
    };
    Outcome::new(code, Stage::IkeSaInit, Blame::PeerIncompatible, message).notify(notify.notify_type)
}

/// Responder: a first request, not yet worth any state.
pub(crate) struct InitRequest<'a> {
    pub(crate) incoming: Incoming<'a>,
    pub(crate) contents: Contents<'a>,
    /// It was refused before and is answered as before, without a second record.
    pub(crate) repeated: bool,
}

impl InitRequest<'_> {
    fn spi_i(&self) -> IkeSpi {
        self.incoming.header().initiator_spi
    }

    /// Header of a response without state: the responder's SPI stays zero (RFC 7296 2.6).
    pub(crate) fn stateless_header(request: &Header) -> Header {
        Header {
            initiator_spi: request.initiator_spi,
            responder_spi: request.responder_spi,
            next_payload: PayloadType::NONE,
            version: Version::IKEV2,
            exchange: request.exchange,
            flags: Flags { initiator: !request.flags.initiator, version: false, response: true },
            message_id: request.message_id,
            length: 0,
        }
    }

    /// Answers with a notify and keeps nothing. Nobody gets more than it sent: it may not be who it says.
    pub(crate) fn answer(&self, cx: &mut Shared, notify: Notify) {
        let header = Self::stateless_header(self.incoming.header());
        let datagram = Message::encode(&header, &[Payload::Notify(notify)]);
        if datagram.len() > self.incoming.datagram.len() {
            return;
        }
        cx.tallies.message("", ExchangeType::IKE_SA_INIT, Way::Out, true);
        cx.transmit(self.incoming.local, self.incoming.remote, datagram);
    }

    /// Refuses, with a record, unless this address has had too many answers lately.
    fn refuse(
        &self,
        cx: &mut Shared,
        connection: Option<&Connection>,
        notify: Notify,
        outcome: Box<Outcome>,
    ) {
        if cx.may_answer(self.incoming.remote.ip()) {
            self.answer(cx, notify.clone());
        }
        if self.repeated {
            return;
        }
        let record = outcome.notify(notify.notify_type).into_record(Facts {
            at: cx.now,
            connection: connection.map(|c| c.name.as_str()),
            initiator: false,
            local: self.incoming.local,
            remote: self.incoming.remote,
            nat: Nat::default(),
            local_id: None,
            remote_id: None,
            known: false,
        });
        cx.record(record, None);
    }

    fn malformed(&self, cx: &mut Shared, why: &str) {
        let outcome = Outcome::new(
            OutcomeCode::InvalidSyntax,
            Stage::IkeSaInit,
            Blame::PeerMalformed,
            format!("its IKE_SA_INIT request is invalid: {why}"),
        );
        self.refuse(cx, None, Notify::new(NotifyType::INVALID_SYNTAX, Vec::new()), outcome);
    }

    /// Chooses a connection and a proposal, and answers. Everything that costs comes last.
    pub(crate) fn respond(&self, cx: &mut Shared) -> Option<IkeSa> {
        let (local, remote) = (self.incoming.local, self.incoming.remote);
        let c = &self.contents;
        let (Some(sa), Some(ke), Some(nonce)) = (c.sa, c.ke, c.nonce) else {
            self.malformed(cx, "it lacks SA, KE or Nonce");
            return None;
        };
        let candidates = cx.connections.at(local.ip(), remote.ip());
        let Some(nearest) = candidates.first() else {
            self.unknown_peer(cx, &sa.proposals);
            return None;
        };
        // RFC 9370 2.2.1: without IKE_INTERMEDIATE, additional key exchanges are transforms of an unknown type.
        let offered = if c.has(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED) {
            &sa.proposals
        } else {
            &classical(&sa.proposals)
        };
        let choice = candidates.iter().find_map(|connection| {
            let proposal = choose(&connection.proposals, offered)?.proposal;
            let transforms = ike_transforms(&proposal)?;
            Some((connection, proposal, transforms))
        });
        let Some((connection, proposal, transforms)) = choice else {
            self.no_proposal(cx, nearest, &sa.proposals);
            return None;
        };
        if short_nonce(&transforms, &nonce.0) {
            self.malformed(cx, "its nonce is too short for the PRF");
            return None;
        }
        if ke.method != transforms.ke {
            // RFC 7296 1.2: name the method we choose; the initiator starts again.
            debug!(%remote, got = %ke.method, want = %transforms.ke, "asking for another key exchange method");
            let wish = transforms.ke.0.to_be_bytes().to_vec();
            self.answer(cx, Notify::new(NotifyType::INVALID_KE_PAYLOAD, wish));
            return None;
        }
        let (public, shared) = match adit_crypto::respond(ke.method, &ke.data, &mut *cx.entropy) {
            Ok(both) => both,
            Err(error) => {
                self.malformed(cx, &error.to_string());
                return None;
            }
        };
        self.accept(cx, Arc::clone(connection), proposal, transforms, &public, &shared)
    }

    fn accept(
        &self,
        cx: &mut Shared,
        connection: Arc<Connection>,
        proposal: Proposal,
        transforms: IkeTransforms,
        public: &[u8],
        shared: &Secret,
    ) -> Option<IkeSa> {
        let (local, remote) = (self.incoming.local, self.incoming.remote);
        let (sa, peer_nonce) = (self.contents.sa?, self.contents.nonce?);
        let nonce = cx.random::<NONCE_LEN>().to_vec();
        let detected = nat::detect(&self.contents.notifies, self.spi_i(), IkeSpi::ZERO, local, remote);
        let fake = connection.encap;
        let handle = cx.next_ike_sa();
        let spi_r = cx.take_ike_spi(handle);
        let core = Core {
            handle,
            connection,
            initiator: false,
            dialled: false,
            spi_i: self.spi_i(),
            spi_r,
            local,
            remote,
            nat: detected.map_or_else(Nat::default, |nat| Nat { fake, ..nat }),
            local_id: None,
            remote_id: None,
            transforms: Some(transforms),
            additional_kes: Vec::new(),
            ppk: false,
            begun: cx.now,
            established: None,
            last_sent: cx.now,
            nat_keepalive: cx.settings.nat_keepalive,
            last_proof: cx.now,
            delete_requests: Vec::new(),
            rekey_at: None,
            expires_at: None,
            spis: vec![spi_r],
            first_request: None,
            up_requests: Vec::new(),
            mobility: Mobility::default(),
            dial: None,
            succession: Succession::default(),
        };
        let Ok(mut secured) = derive(cx, &core, transforms, shared, &peer_nonce.0, &nonce) else {
            cx.release_ike_spi(spi_r);
            return None;
        };
        secured.largest = fragment::agree(&core.connection, &cx.settings, &self.contents);
        let mut payloads = vec![
            Payload::SecurityAssociation(SecurityAssociation { proposals: vec![proposal.clone()] }),
            Payload::KeyExchange(KeyExchange { method: transforms.ke, data: public.to_vec() }),
            Payload::Nonce(Nonce(nonce.clone())),
        ];
        if detected.is_some() {
            payloads.extend(nat::notifies(core.spi_i, core.spi_r, local, remote, fake, &mut *cx.entropy));
        }
        payloads.extend(secured.largest.and_then(|_| fragment::notify(&core.connection)));
        let hashes = signature::announced(&self.contents).filter(|_| cx.credentials.has_public_keys());
        payloads.extend(hashes.is_some().then(signature::announcement));
        payloads.extend(intermediate::notify(std::slice::from_ref(&proposal)));
        let consent = ppk::consent(cx, &self.contents);
        let ppk = consent.is_some();
        payloads.extend(consent);
        payloads.push(full_transcript());
        let header = core.header(ExchangeType::IKE_SA_INIT, true, 0);
        let mut response = Message::encode(&header, &payloads);
        // Nobody gets much more than it sent; but whoever is asked for nothing may send no certificate.
        let room = (2 * self.incoming.datagram.len()).saturating_sub(response.len());
        if let Some(request) = cx.credentials.request_of_anybody(room) {
            payloads.push(request);
            response = Message::encode(&header, &payloads);
        }
        payloads.push(childless_supported());
        let longer = Message::encode(&header, &payloads);
        // Nobody gets more than it sent, and this can be left out.
        let childless =
            core.connection.childless != Childless::Never && longer.len() <= self.incoming.datagram.len();
        if childless {
            response = longer;
        }
        cx.tallies.message(&core.connection.name, ExchangeType::IKE_SA_INIT, Way::Out, true);
        cx.transmit(local, remote, response.clone());
        let handshake = Handshake {
            init_request: self.incoming.datagram.to_vec(),
            init_response: response,
            nonce_i: peer_nonce.0.clone(),
            nonce_r: nonce,
            intermediate: Intermediate::new(&additional_kes(&proposal)?),
            childless,
            chosen: proposal,
            peer_proposals: bounded(&sa.proposals),
            ppk,
            full_transcript: self.contents.has(NotifyType::IKE_SA_INIT_FULL_TRANSCRIPT_AUTH),
            hashes,
            requested: None,
        };
        let state = intermediate::expect(cx, secured, handshake, None);
        Some(IkeSa::new(cx, core, state))
    }

    fn unknown_peer(&self, cx: &mut Shared, theirs: &[Proposal]) {
        let (local, remote) = (self.incoming.local.ip(), self.incoming.remote.ip());
        let outcome = Outcome::new(
            OutcomeCode::UnknownPeer,
            Stage::IkeSaInit,
            Blame::OurConfiguration,
            format!(
                "wants an IKE SA, but no connection has {local} in local_addrs and {remote} in remote_addrs \
                 (NO_PROPOSAL_CHOSEN sent): if it is welcome, add its address to `remote_addrs` here"
            ),
        )
        .proposals(&[], theirs);
        self.refuse(cx, None, Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new()), outcome);
    }

    fn no_proposal(&self, cx: &mut Shared, connection: &Connection, theirs: &[Proposal]) {
        let outcome = Outcome::new(
            OutcomeCode::NoProposalChosen,
            Stage::IkeSaInit,
            Blame::PeerIncompatible,
            format!(
                "no common IKE proposal (NO_PROPOSAL_CHOSEN sent): it offers {}, we accept {}; make `proposals` \
                 overlap on one side",
                NotationList(&bounded(theirs)),
                NotationList(&connection.proposals),
            ),
        )
        .proposals(&connection.proposals, theirs);
        self.refuse(cx, Some(connection), Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new()), outcome);
    }
}
