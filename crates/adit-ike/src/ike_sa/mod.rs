//! One IKE SA: its states, and the one place where it goes from one to the next.
//!
//! A state is a struct named for what it awaits; handling an input consumes it and returns the next one. Each exchange
//! is a file: `init` (IKE_SA_INIT), `intermediate` (IKE_INTERMEDIATE), `auth` (IKE_AUTH), `create_child` (CREATE_CHILD_SA), `informational`
//! (INFORMATIONAL); `established` is the state between exchanges, `closing` the end. Nothing here looks at other IKE
//! SAs.

mod additional;
mod auth;
mod child;
mod children;
mod closing;
mod contents;
mod create_child;
mod established;
mod followup;
mod fragment;
mod generation;
mod informational;
mod init;
mod intermediate;
mod mobike;
mod mode;
mod ppk;
mod probe;
mod rekey_ike;
mod resources;
mod secured;
mod succession;
mod window;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_crypto::IkeTransforms;
use adit_wire::ikev2::{ExchangeType, Flags, Header, IkeSpi, KeId, Message, PayloadType, Version};
use tracing::debug;

use crate::config::{Child, Connection, Retransmission};
use crate::identity::Identity;
use crate::nat::Nat;
use crate::output::{
    ChildHandle, DownReason, Event, IkeSaHandle, IkeSaState, IkeSaView, Notice, NoticeKind, Output, RequestId,
};
use crate::record::{Facts, Outcome};
use crate::shared::{Effect, Shared};
use crate::tally::Way;

pub(crate) use auth::{AwaitAuthRequest, AwaitAuthResponse};
pub(crate) use child::{ChildSa, Wanted};
pub(crate) use closing::{AwaitDeleteResponse, AwaitRepetition};
pub(crate) use contents::{Contents, Refused};
pub(crate) use established::Established;
pub(crate) use init::{AwaitInitResponse, Dial, InitRequest};
pub(crate) use intermediate::{AwaitIntermediateRequest, AwaitIntermediateResponse};
pub(crate) use mobike::Mobility;
pub(crate) use secured::Secured;
pub(crate) use succession::{SWITCH, Succession};

/// One datagram for this IKE SA.
#[derive(Clone, Copy)]
pub(crate) struct Incoming<'a> {
    /// Where it arrived.
    pub(crate) local: SocketAddr,
    /// Where it came from.
    pub(crate) remote: SocketAddr,
    pub(crate) datagram: &'a [u8],
    pub(crate) message: &'a Message,
}

impl Incoming<'_> {
    fn header(&self) -> &Header {
        &self.message.header
    }

    /// The SPI of ours in it.
    fn our_spi(&self) -> IkeSpi {
        let h = self.header();
        if h.flags.initiator { h.responder_spi } else { h.initiator_spi }
    }

    fn is(&self, exchange: ExchangeType, response: bool, message_id: u32) -> bool {
        let h = self.header();
        h.exchange == exchange && h.flags.response == response && h.message_id == message_id
    }
}

/// What is true of an IKE SA in every state.
pub(crate) struct Core {
    pub(crate) handle: IkeSaHandle,
    /// As responder the best guess by addresses until IKE_AUTH tells who the peer is.
    pub(crate) connection: Arc<Connection>,
    /// Are we the initiator of the current IKE SA?
    pub(crate) initiator: bool,
    /// Are we the initiator of the first one, of which it is the successor?
    pub(crate) dialled: bool,
    pub(crate) spi_i: IkeSpi,
    pub(crate) spi_r: IkeSpi,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) nat: Nat,
    pub(crate) local_id: Option<Identity>,
    /// What the peer claims; authenticated once `established` is set.
    pub(crate) remote_id: Option<Identity>,
    pub(crate) transforms: Option<IkeTransforms>,
    /// Key exchanges after the first one, as far as they are done (RFC 9370).
    pub(crate) additional_kes: Vec<KeId>,
    /// Is a post-quantum pre-shared key mixed into the keys (RFC 8784)?
    pub(crate) ppk: bool,
    /// When its first request was sent or answered.
    pub(crate) begun: Instant,
    pub(crate) established: Option<Instant>,
    last_sent: Instant,
    nat_keepalive: Duration,
    /// When the peer last proved to be there.
    pub(crate) last_proof: Instant,
    /// `initiate` requests that wait for this IKE SA and no child of it (RFC 6023).
    pub(crate) up_requests: Vec<RequestId>,
    /// `terminate` requests that wait for the end of this IKE SA.
    delete_requests: Vec<RequestId>,
    /// When it is rekeyed.
    pub(crate) rekey_at: Option<Instant>,
    /// When it ends if it is not.
    pub(crate) expires_at: Option<Instant>,
    /// All SPIs of ours that lead here.
    pub(crate) spis: Vec<IkeSpi>,
    /// Responder: the hash by which the gateway knows the request that made it.
    pub(crate) first_request: Option<[u8; 20]>,
    pub(crate) mobility: Mobility,
    /// Initiator: until the peer is authentic, what there is to fall back on.
    pub(crate) dial: Option<Box<Dial>>,
    pub(crate) succession: Succession,
}

impl Core {
    fn take_spi(&mut self, cx: &mut Shared) -> IkeSpi {
        let spi = cx.take_ike_spi(self.handle);
        self.spis.push(spi);
        spi
    }

    fn release_spi(&mut self, cx: &mut Shared, spi: IkeSpi) {
        self.spis.retain(|s| *s != spi);
        cx.release_ike_spi(spi);
    }

    /// It lives anew.
    fn renew(&mut self, cx: &mut Shared) {
        self.established = Some(cx.now);
        (self.rekey_at, self.expires_at) = cx.lifetime(self.connection.rekey);
    }

    /// Another IKE SA takes its place (RFC 7296 2.8).
    fn rekeyed(&mut self, cx: &mut Shared, ike: &established::Ike) {
        (self.spi_i, self.spi_r, self.initiator) = (ike.spi_i, ike.spi_r, ike.initiator);
        self.transforms = Some(ike.secured.transforms);
        self.additional_kes.clone_from(&ike.additional_kes);
        self.renew(cx);
    }

    /// Header of a message of ours.
    fn header(&self, exchange: ExchangeType, response: bool, message_id: u32) -> Header {
        Header {
            initiator_spi: self.spi_i,
            responder_spi: self.spi_r,
            next_payload: PayloadType::NONE,
            version: Version::IKEV2,
            exchange,
            flags: Flags { initiator: self.initiator, version: false, response },
            message_id,
            length: 0,
        }
    }

    /// Sends a request.
    fn send(&mut self, cx: &mut Shared, datagrams: &[Vec<u8>]) {
        self.last_sent = cx.now;
        for datagram in datagrams {
            cx.transmit(self.local, self.remote, datagram.clone());
        }
    }

    /// Sends a response to where its request came from (RFC 7296 2.11).
    fn reply(&mut self, cx: &mut Shared, to: &Incoming<'_>, datagrams: &[Vec<u8>]) {
        cx.tallies.message(&self.connection.name, to.header().exchange, Way::Out, true);
        self.reply_again(cx, to, datagrams);
    }

    /// Something seen on the wire of this IKE SA.
    pub(crate) fn notice(&self, kind: NoticeKind, exchange: ExchangeType, message: String) -> Notice {
        let named = self.initiator || self.remote_id.is_some();
        Notice {
            kind,
            ike_sa: Some(self.handle),
            connection: named.then(|| self.connection.name.clone()),
            local: self.local,
            remote: self.remote,
            exchange: Some(exchange),
            message,
        }
    }

    fn reply_again(&mut self, cx: &mut Shared, to: &Incoming<'_>, datagrams: &[Vec<u8>]) {
        self.last_sent = cx.now;
        for datagram in datagrams {
            cx.transmit(to.local, to.remote, datagram.clone());
        }
    }

    /// A message that is authentic and new proves that the peer lives, and, if it is behind a NAT and we are not, where
    /// it is to be reached now (RFC 7296 2.23).
    fn alive(&mut self, cx: &Shared, m: &Incoming<'_>) {
        self.last_proof = cx.now;
        self.mobility.doubted = false;
        if self.is_moved_by_nat() && self.remote != m.remote {
            debug!(handle = self.handle.0, from = %self.remote, to = %m.remote, "the NAT moved the peer");
            self.remote = m.remote;
        }
    }

    /// Is the peer to be followed when it comes from elsewhere? With MOBIKE it says so itself (RFC 4555 3.8).
    fn is_moved_by_nat(&self) -> bool {
        self.nat.remote && !self.nat.local && !self.mobility.mobike
    }

    /// When the NAT before us must see something again (RFC 3948 4).
    fn keepalive_due(&self) -> Option<Instant> {
        (self.nat.local && !self.nat_keepalive.is_zero() && !self.mobility.lost)
            .then(|| self.last_sent + self.nat_keepalive)
    }

    /// Tells these requests when it is established, or that it will not be.
    pub(crate) fn await_up(&mut self, cx: &mut Shared, requests: Vec<RequestId>) {
        self.up_requests.extend(requests);
        if self.established.is_some() {
            self.tell_up(cx);
        }
    }

    fn tell_up(&mut self, cx: &mut Shared) {
        for request in std::mem::take(&mut self.up_requests) {
            cx.finish_part(request, Ok(()));
        }
    }

    /// The sooner of a deadline and the time to try another answer to IKE_SA_INIT.
    fn dial_deadline(&self, deadline: Instant) -> Instant {
        self.dial.as_ref().and_then(|dial| dial.deadline()).map_or(deadline, |at| at.min(deadline))
    }

    /// Did one of its key exchanges withstand a quantum computer?
    fn has_post_quantum_ke(&self) -> bool {
        let first = self.transforms.map(|t| t.ke);
        first.iter().chain(&self.additional_kes).any(|method| method.is_post_quantum())
    }

    fn schedule(&self) -> Retransmission {
        self.connection.retransmission
    }

    pub(crate) fn view(&self, state: IkeSaState, children: &[ChildSa]) -> IkeSaView {
        IkeSaView {
            handle: self.handle,
            connection: if self.initiator || self.established.is_some() {
                self.connection.name.clone()
            } else {
                String::new()
            },
            state,
            initiator: self.initiator,
            initiator_spi: self.spi_i,
            responder_spi: self.spi_r,
            local: self.local,
            remote: self.remote,
            local_id: self.local_id.clone(),
            remote_id: self.remote_id.clone().filter(|_| self.established.is_some()),
            nat_local: self.nat.local,
            nat_remote: self.nat.remote,
            nat_fake: self.nat.fake,
            transforms: self.transforms,
            additional_kes: self.additional_kes.clone(),
            ppk: self.ppk,
            mobike: self.mobility.mobike,
            established: self.established,
            rekey_at: self.rekey_at,
            reauth_at: self.succession.reauth_at,
            expires_at: [self.expires_at, self.succession.ends_at].into_iter().flatten().min(),
            children: children.iter().map(ChildSa::view).collect(),
        }
    }

    /// Both sides are authentic.
    fn establish(&mut self, cx: &mut Shared) {
        self.renew(cx);
        let took = cx.now.saturating_duration_since(self.begun);
        match self.initiator {
            true => cx.statistics.handshakes_begun_by_us.add(took),
            false => cx.statistics.handshakes_begun_by_peers.add(took),
        }
        self.last_proof = cx.now;
        self.dial = None;
        if let (Some(local), Some(remote)) = (&self.local_id, &self.remote_id) {
            cx.add_peer(local, remote, self.handle, &self.connection, self.remote);
            cx.effects.push(Effect::Established(self.handle));
        }
        cx.event(Event::IkeUp(self.view(IkeSaState::Established, &[])));
        self.tell_up(cx);
    }

    /// The end: nothing of it is left in the data plane, and everybody who waits is told.
    fn close(&mut self, cx: &mut Shared, children: Vec<ChildSa>, reason: DownReason, failure: &str) -> State {
        for child in children {
            child.leave(self, cx, Some(reason));
        }
        if self.established.is_some() {
            if let (Some(local), Some(remote)) = (&self.local_id, &self.remote_id) {
                cx.remove_peer(local, remote, self.handle);
                cx.standby.remove(&self.handle);
            }
            cx.event(Event::IkeDown(self.view(IkeSaState::Deleting, &[]), reason));
            self.established = None;
        }
        for request in std::mem::take(&mut self.up_requests) {
            cx.finish_part(request, Err(failure));
        }
        for request in std::mem::take(&mut self.delete_requests) {
            cx.finish_part(request, Ok(()));
        }
        debug!(handle = self.handle.0, ?reason, failure, "IKE SA closed");
        State::Closed
    }

    /// Leaves a record of a negotiation and returns its sentence.
    pub(crate) fn record(&self, cx: &mut Shared, outcome: Box<Outcome>) -> String {
        let named = self.initiator || self.remote_id.is_some();
        // Whoever is not authenticated yet can make us write as much as it likes.
        let known = self.initiator || self.established.is_some();
        let record = outcome.into_record(Facts {
            at: cx.now,
            connection: named.then_some(self.connection.name.as_str()),
            initiator: self.initiator,
            local: self.local,
            remote: self.remote,
            nat: self.nat,
            local_id: self.local_id.as_ref(),
            remote_id: self.remote_id.as_ref(),
            known,
        });
        let message = record.message.clone();
        cx.record(record, known.then_some(self.handle));
        message
    }
}

/// What an IKE SA waits for.
pub(crate) enum State {
    /// Initiator: the response of IKE_SA_INIT.
    AwaitInitResponse(Box<AwaitInitResponse>),
    /// Initiator: the response of IKE_INTERMEDIATE.
    AwaitIntermediateResponse(Box<AwaitIntermediateResponse>),
    /// Initiator: the response of IKE_AUTH.
    AwaitAuthResponse(Box<AwaitAuthResponse>),
    /// Responder: the request of IKE_INTERMEDIATE.
    AwaitIntermediateRequest(Box<AwaitIntermediateRequest>),
    /// Responder: the request of IKE_AUTH.
    AwaitAuthRequest(Box<AwaitAuthRequest>),
    /// Any exchange.
    Established(Box<Established>),
    /// The response to the request that ends it.
    AwaitDeleteResponse(Box<AwaitDeleteResponse>),
    /// It is gone; only repetitions of its last request are still answered.
    AwaitRepetition(Box<AwaitRepetition>),
    /// Nothing: it can be forgotten.
    Closed,
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            Self::AwaitInitResponse(_) => "AwaitInitResponse",
            Self::AwaitIntermediateResponse(_) => "AwaitIntermediateResponse",
            Self::AwaitAuthResponse(_) => "AwaitAuthResponse",
            Self::AwaitIntermediateRequest(_) => "AwaitIntermediateRequest",
            Self::AwaitAuthRequest(_) => "AwaitAuthRequest",
            Self::Established(_) => "Established",
            Self::AwaitDeleteResponse(_) => "AwaitDeleteResponse",
            Self::AwaitRepetition(_) => "AwaitRepetition",
            Self::Closed => "Closed",
        }
    }

    /// Can a stranger make us keep it? What ends after the peer was authenticated is no stranger's.
    fn is_half_open(&self, core: &Core) -> bool {
        match self {
            Self::AwaitIntermediateRequest(_) | Self::AwaitAuthRequest(_) => true,
            Self::AwaitRepetition(_) => core.succession.authenticated.is_none(),
            _ => false,
        }
    }
}

/// One IKE SA.
pub(crate) struct IkeSa {
    pub(crate) core: Core,
    state: State,
    /// The network that it counts for while it is half-open.
    half_open_for: Option<IpAddr>,
}

impl IkeSa {
    /// A new IKE SA in its first state.
    pub(crate) fn new(cx: &mut Shared, core: Core, state: State) -> Self {
        let mut sa = Self { core, state: State::Closed, half_open_for: None };
        sa.transition(cx, "new", state);
        sa
    }

    /// Every transition of every IKE SA happens here.
    fn transition(&mut self, cx: &mut Shared, from: &'static str, next: State) {
        let to = next.name();
        if from != to {
            cx.counters.transitions += 1;
            debug!(handle = self.core.handle.0, from, to, "IKE SA");
        }
        match (self.half_open_for, next.is_half_open(&self.core)) {
            (None, true) => {
                self.half_open_for = Some(cx.half_open.add(self.core.remote.ip(), self.core.handle))
            }
            (Some(network), false) => {
                cx.half_open.remove(network, self.core.handle);
                self.half_open_for = None;
            }
            _ => {}
        }
        self.state = next;
    }

    /// Lets the state consume one input.
    fn step(&mut self, cx: &mut Shared, input: impl FnOnce(State, &mut Core, &mut Shared) -> State) {
        let state = std::mem::replace(&mut self.state, State::Closed);
        let from = state.name();
        let next = input(state, &mut self.core, cx);
        self.transition(cx, from, next);
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Is it gone for everyone but a peer that repeats itself?
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.state, State::Closed | State::AwaitRepetition(_))
    }

    /// Is it established, and to stay?
    pub(crate) fn is_open(&self) -> bool {
        matches!(&self.state, State::Established(s) if !s.is_closing())
    }

    /// Takes a message whose SPIs and role are this IKE SA's.
    pub(crate) fn handle_message(&mut self, cx: &mut Shared, incoming: &Incoming<'_>) {
        if let Some(dial) = &mut self.core.dial
            && incoming.is(ExchangeType::IKE_SA_INIT, true, 0)
        {
            return dial.note(cx, incoming);
        }
        self.step(cx, |state, core, cx| match state {
            State::AwaitInitResponse(s) => s.handle_message(core, cx, incoming),
            State::AwaitIntermediateResponse(s) => s.handle_message(core, cx, incoming),
            State::AwaitAuthResponse(s) => s.handle_message(core, cx, incoming),
            State::AwaitIntermediateRequest(s) => s.handle_message(core, cx, incoming),
            State::AwaitAuthRequest(s) => s.handle_message(core, cx, incoming),
            State::Established(s) => s.handle_message(core, cx, incoming),
            State::AwaitDeleteResponse(s) => s.handle_message(core, cx, incoming),
            State::AwaitRepetition(s) => s.handle_message(core, cx, incoming),
            State::Closed => State::Closed,
        });
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, cx: &mut Shared) {
        if self.deadline().is_none_or(|at| at > cx.now) {
            return;
        }
        if let Some(dial) = self.core.dial.take_if(|d| d.deadline().is_some_and(|at| cx.now >= at)) {
            return self.step(cx, |state, core, cx| match state {
                State::AwaitIntermediateResponse(s) => dial.follow_next(core, cx, s.release()),
                State::AwaitAuthResponse(s) => {
                    let wanted = s.release(cx);
                    dial.follow_next(core, cx, wanted)
                }
                state => state,
            });
        }
        self.step(cx, |state, core, cx| match state {
            State::AwaitInitResponse(s) => s.handle_timeout(core, cx),
            State::AwaitIntermediateResponse(s) => s.handle_timeout(core, cx),
            State::AwaitAuthResponse(s) => s.handle_timeout(core, cx),
            State::AwaitIntermediateRequest(s) => s.handle_timeout(core, cx),
            State::AwaitAuthRequest(s) => s.handle_timeout(core, cx),
            State::Established(s) => s.handle_timeout(core, cx),
            State::AwaitDeleteResponse(s) => s.handle_timeout(core, cx),
            State::AwaitRepetition(_) | State::Closed => State::Closed,
        });
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::AwaitInitResponse(s) => Some(s.deadline()),
            State::AwaitIntermediateResponse(s) => Some(self.core.dial_deadline(s.deadline())),
            State::AwaitAuthResponse(s) => Some(self.core.dial_deadline(s.deadline())),
            State::AwaitIntermediateRequest(s) => Some(s.deadline()),
            State::AwaitAuthRequest(s) => Some(s.deadline()),
            State::Established(s) => s.deadline(&self.core),
            State::AwaitDeleteResponse(s) => Some(s.deadline()),
            State::AwaitRepetition(s) => Some(s.deadline()),
            State::Closed => None,
        }
    }

    /// Is its connection known, and is it there?
    pub(crate) fn is_named(&self) -> bool {
        !self.is_gone() && (self.core.dialled || self.core.established.is_some())
    }

    /// Its connection has become this one, which is alike; so have its children, as far as they are.
    pub(crate) fn adopt(&mut self, cx: &Shared, connection: Arc<Connection>) {
        if let State::Established(s) = &mut self.state {
            for child in &mut s.children {
                let same = |new: &&Child| new.name == child.config.name && new.is_like(&child.config);
                if let Some(new) = connection.children.iter().find(same) {
                    child.config = cx.connections.child(&connection, new);
                }
            }
        }
        self.core.connection = connection;
    }

    /// Can it be asked to bring children up?
    pub(crate) fn serves(&self) -> bool {
        match &self.state {
            State::AwaitInitResponse(_)
            | State::AwaitIntermediateResponse(_)
            | State::AwaitAuthResponse(_) => true,
            State::Established(s) => !s.is_closing(),
            _ => false,
        }
    }

    /// Has the peer answered at all?
    pub(crate) fn is_answered(&self) -> bool {
        !matches!(self.state, State::AwaitInitResponse(_))
    }

    /// Is it established, with no child on its way?
    pub(crate) fn is_settled(&self) -> bool {
        matches!(&self.state, State::Established(s) if !s.is_closing() && !s.is_creating())
    }

    /// Brings one more child up.
    pub(crate) fn bring_up(&mut self, cx: &mut Shared, wanted: Wanted) {
        self.step(cx, |state, core, cx| match state {
            State::AwaitInitResponse(mut s) => {
                s.want(wanted);
                State::AwaitInitResponse(s)
            }
            State::AwaitIntermediateResponse(mut s) => {
                s.want(wanted);
                State::AwaitIntermediateResponse(s)
            }
            State::AwaitAuthResponse(mut s) => {
                s.want(wanted);
                State::AwaitAuthResponse(s)
            }
            State::Established(s) => s.bring_up(core, cx, wanted),
            state => {
                wanted.fail(cx, "the IKE SA is being deleted");
                state
            }
        });
    }

    /// Ends it: with a Delete if the peer knows it, at once if not.
    pub(crate) fn delete(&mut self, cx: &mut Shared, requests: Vec<RequestId>) {
        self.core.delete_requests.extend(requests);
        self.step(cx, |state, core, cx| match state {
            State::AwaitInitResponse(s) => s.cancel(core, cx),
            State::AwaitIntermediateResponse(s) => s.cancel(core, cx),
            State::AwaitAuthResponse(s) => s.cancel(core, cx),
            State::AwaitIntermediateRequest(_) | State::AwaitAuthRequest(_) => {
                core.close(cx, Vec::new(), DownReason::DeletedByUs, "cancelled")
            }
            State::Established(s) => s.delete(core, cx),
            state @ State::AwaitDeleteResponse(_) => state,
            State::AwaitRepetition(_) | State::Closed => {
                core.close(cx, Vec::new(), DownReason::DeletedByUs, "already gone")
            }
        });
    }

    /// Ends it without waiting for the peer, who has been told if it could be told at once.
    pub(crate) fn end(&mut self, cx: &mut Shared) {
        self.step(cx, |state, core, cx| match state {
            State::AwaitDeleteResponse(s) => s.close(core, cx, DownReason::DeletedByUs),
            State::Established(s) => s.close(core, cx, DownReason::DeletedByUs, "ended at once"),
            state => state,
        });
    }

    /// The children of an attempt of ours that nobody has answered yet.
    pub(crate) fn unanswered(&self) -> Option<impl Iterator<Item = &str>> {
        match &self.state {
            State::AwaitInitResponse(s) => Some(s.wanted()),
            _ => None,
        }
    }

    /// Whom such an attempt is addressed to.
    pub(crate) fn unanswered_by(&self) -> Option<IpAddr> {
        (!self.is_answered()).then(|| self.core.remote.ip())
    }

    /// Such an attempt is needless.
    pub(crate) fn give_up_dialling(&mut self, cx: &mut Shared) {
        self.step(cx, |state, core, cx| match state {
            State::AwaitInitResponse(s) => s.needless(core, cx),
            state => state,
        });
    }

    /// Ends it because another one takes its place, or may.
    pub(crate) fn give_way(&mut self, cx: &mut Shared, reason: DownReason) {
        self.core.succession.reason = reason;
        self.delete(cx, Vec::new());
    }

    /// Deletes Child SAs.
    pub(crate) fn delete_children(
        &mut self,
        cx: &mut Shared,
        handles: &[ChildHandle],
        requests: Vec<RequestId>,
        reason: DownReason,
    ) {
        self.step(cx, |state, core, cx| match state {
            State::Established(s) => s.delete_children(core, cx, handles, requests, reason),
            state => {
                for request in requests {
                    cx.finish_part(request, Ok(()));
                }
                state
            }
        });
    }

    /// Can it be sent a probe now, and one with padding?
    pub(crate) fn may_probe(&self) -> (bool, bool) {
        match &self.state {
            State::Established(s) => (!s.is_closing(), s.may_pad()),
            _ => (false, false),
        }
    }

    /// Asks the peer whether it is there, by a datagram of this size.
    pub(crate) fn probe(&mut self, cx: &mut Shared, size: u16, pace: Duration) {
        self.step(cx, |state, core, cx| match state {
            State::Established(s) => s.probe(core, cx, probe::Probe { size, pace }),
            state => state,
        });
    }

    /// Asks for a successor of the IKE SA.
    pub(crate) fn rekey(&mut self, cx: &mut Shared, requests: Vec<RequestId>) {
        self.step(cx, |state, core, cx| match state {
            State::Established(s) => s.rekey(core, cx, requests),
            state => {
                for request in requests {
                    cx.finish_part(request, Err("the IKE SA is not established"));
                }
                state
            }
        });
    }

    /// Asks for successors of Child SAs.
    pub(crate) fn rekey_children(
        &mut self,
        cx: &mut Shared,
        handles: &[ChildHandle],
        requests: &[RequestId],
    ) {
        self.step(cx, |state, core, cx| match state {
            State::Established(s) => s.rekey_children(core, cx, handles, requests),
            state => {
                for request in handles.iter().flat_map(|_| requests) {
                    cx.finish_part(*request, Err("the IKE SA is being deleted"));
                }
                state
            }
        });
    }

    /// An authentic packet arrived on a Child SA.
    pub(crate) fn child_active(&mut self, cx: &mut Shared, child: ChildHandle, last_inbound: Instant) {
        self.established(cx, |s, core, _| s.child_active(core, child, last_inbound));
    }

    /// A Child SA has carried its soft limit.
    pub(crate) fn child_expiring(&mut self, cx: &mut Shared, child: ChildHandle) {
        self.established(cx, |s, core, cx| s.child_expiring(core, cx, child));
    }

    /// A Child SA has carried its hard limit.
    pub(crate) fn child_expired(&mut self, cx: &mut Shared, child: ChildHandle) {
        self.established(cx, |s, core, cx| s.child_expired(core, cx, child));
    }

    /// For what concerns established IKE SAs only.
    fn established(
        &mut self,
        cx: &mut Shared,
        input: impl FnOnce(Box<Established>, &mut Core, &mut Shared) -> State,
    ) {
        self.step(cx, |state, core, cx| match state {
            State::Established(s) => input(s, core, cx),
            state => state,
        });
    }

    /// Do these SPIs and the role of the sender make a message one for us? `ours` leads here.
    pub(crate) fn accepts(&self, ours: IkeSpi, theirs: IkeSpi, header: &Header) -> bool {
        if let State::Established(s) = &self.state {
            return s.accepts(ours, theirs, header.flags.initiator);
        }
        // The sender has the other role, and where its SPI is known, that one. What we took for it in IKE_SA_INIT may
        // be forged.
        let its_spi = if self.core.initiator { self.core.spi_r } else { self.core.spi_i };
        let open = its_spi == IkeSpi::ZERO
            || self.core.dial.is_some() && header.exchange == ExchangeType::IKE_SA_INIT;
        self.core.initiator != header.flags.initiator && (its_spi == theirs || open)
    }

    /// The newest ESP packet came from there.
    pub(crate) fn esp_moved(&mut self, cx: &mut Shared, remote: SocketAddr) {
        self.established(cx, |s, core, cx| s.esp_moved(core, cx, remote));
    }

    /// From there the peer is reached now, if it is.
    pub(crate) fn path_changed(&mut self, cx: &mut Shared, local: Option<IpAddr>) {
        self.established(cx, |s, core, cx| s.path_changed(core, cx, local));
    }

    /// The peer says it no longer has it (INITIAL_CONTACT).
    pub(crate) fn forget(&mut self, cx: &mut Shared) {
        self.step(cx, |state, core, cx| match state {
            State::Established(s) => s.close(core, cx, DownReason::Replaced, "the peer started anew"),
            State::AwaitDeleteResponse(s) => s.close(core, cx, DownReason::Replaced),
            state => state,
        });
    }

    /// Something unauthenticated says that the peer may have lost it: worth a question, no more (RFC 7296 2.21.4).
    pub(crate) fn suspect(&mut self, cx: &mut Shared) {
        self.established(cx, |s, core, cx| s.suspect(core, cx));
    }

    pub(crate) fn children(&self) -> &[ChildSa] {
        match &self.state {
            State::Established(s) => s.children(),
            State::AwaitDeleteResponse(s) => s.children(),
            _ => &[],
        }
    }

    pub(crate) fn view(&self) -> IkeSaView {
        let state = match &self.state {
            State::Established(s) if !s.is_closing() => IkeSaState::Established,
            State::AwaitInitResponse(_)
            | State::AwaitIntermediateResponse(_)
            | State::AwaitAuthResponse(_)
            | State::AwaitIntermediateRequest(_)
            | State::AwaitAuthRequest(_) => IkeSaState::Connecting,
            _ => IkeSaState::Deleting,
        };
        self.core.view(state, self.children())
    }

    /// The stored IKE_SA_INIT response, while the initiator may not have it.
    pub(crate) fn init_response(&self) -> Option<&[u8]> {
        match &self.state {
            State::AwaitIntermediateRequest(s) => s.init_response(),
            State::AwaitAuthRequest(s) => s.init_response(),
            _ => None,
        }
    }
}

/// Sends one NAT keepalive (RFC 3948 2.3).
fn keep_nat_open(core: &mut Core, cx: &mut Shared) {
    core.last_sent = cx.now;
    cx.outputs.push_back(Output::NatKeepalive { local: core.local, remote: core.remote });
}
