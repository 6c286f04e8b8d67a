//! The IKE SA between its exchanges: both request windows, what waits to be asked, liveness, and NAT keepalives.
//!
//! One request is outstanding at a time (RFC 7296 2.3); the others wait in a queue.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use adit_wire::ikev2::{ExchangeType, Notify, NotifyType, Payload, Spi};
use tracing::{debug, info};

use super::closing::DELETE_TIMEOUT;
use super::create_child::CreateChild;
use super::informational::Deletion;
use super::secured::Secured;
use super::window::{Answered, Fate, Outstanding};
use super::{
    AwaitDeleteResponse, AwaitRepetition, ChildSa, Contents, Core, Incoming, Refused, State, Wanted,
    keep_nat_open,
};
use crate::output::{ChildHandle, DownReason, RequestId};
use crate::shared::Shared;

/// Least time between two liveness checks that strangers can cause (RFC 7296 2.21.4).
const SUSPICION_INTERVAL: Duration = Duration::from_secs(30);

/// SPIs remembered that the peer deletes while we await its answer for a child.
const MOST_DELETED_EARLY: usize = 16;

/// Something to ask the peer.
pub(super) enum Task {
    CreateChild(Wanted),
    /// CREATE_CHILD_SA once more, with another key exchange method.
    CreateChildAgain(Box<CreateChild>),
    Delete(Deletion),
    Liveness,
}

/// What the outstanding request asks.
enum Exchange {
    CreateChild(Box<CreateChild>),
    Delete(Deletion),
    Liveness,
}

/// What handling a request of the peer comes to.
pub(super) enum Handled {
    Respond(Vec<Payload>),
    /// The same, and the IKE SA is over.
    RespondAndClose(Vec<Payload>, DownReason, &'static str),
}

/// Both sides are authentic.
pub(crate) struct Established {
    pub(super) secured: Secured,
    next_request: u32,
    expected_request: u32,
    answered: Option<Answered>,
    outstanding: Option<(Outstanding, Exchange)>,
    queue: VecDeque<Task>,
    pub(super) children: Vec<ChildSa>,
    /// What the peer deleted, unknown to us, while we await its answer for a child: it may be that child.
    deleted_early: Vec<Spi>,
    /// It is to be deleted as soon as the outstanding request is answered, at the latest then.
    closing: Option<Instant>,
    last_suspicion: Option<Instant>,
}

impl Established {
    /// Message IDs: that of our next request, and that of the peer's.
    pub(super) fn new(
        core: &Core,
        secured: Secured,
        (next_request, expected_request): (u32, u32),
        answered: Option<Answered>,
    ) -> Self {
        debug!(handle = core.handle.0, "IKE SA established");
        Self {
            secured,
            next_request,
            expected_request,
            answered,
            outstanding: None,
            queue: VecDeque::new(),
            children: Vec::new(),
            deleted_early: Vec::new(),
            closing: None,
            last_suspicion: None,
        }
    }

    pub(super) fn add_child(&mut self, child: ChildSa) {
        self.children.push(child);
    }

    /// The peer believes in a child of ours that is none.
    pub(super) fn discard(&mut self, spi: Spi) {
        self.queue.push_back(Task::Delete(Deletion::of_spi(spi)));
    }

    /// The peer deleted a child that we do not have. Its response that creates it may be late (RFC 7296 2.25.1).
    pub(super) fn deleted_unknown(&mut self, spi: Spi) {
        let creating = matches!(self.outstanding, Some((_, Exchange::CreateChild(_))));
        if creating && self.deleted_early.len() < MOST_DELETED_EARLY {
            self.deleted_early.push(spi);
        }
    }

    pub(super) fn children(&self) -> &[ChildSa] {
        &self.children
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    pub(super) fn bring_up_all(mut self, core: &mut Core, cx: &mut Shared, wanted: Vec<Wanted>) -> State {
        for wanted in wanted {
            self.want(core, cx, wanted);
        }
        self.close_if_useless(core, cx);
        Box::new(self).pump(core, cx)
    }

    pub(super) fn bring_up(mut self: Box<Self>, core: &mut Core, cx: &mut Shared, wanted: Wanted) -> State {
        self.want(core, cx, wanted);
        self.pump(core, cx)
    }

    fn want(&mut self, core: &Core, cx: &mut Shared, wanted: Wanted) {
        let name = &wanted.child.name;
        if self.children.iter().any(|c| !c.deleting && c.config.name == *name) {
            let line = format!("CHILD_SA {name} is established already on IKE_SA [{}]", core.handle.0);
            cx.progress(&wanted.requests, &line);
            for request in wanted.requests {
                cx.finish_part(request, Ok(()));
            }
            return;
        }
        let pending = match &mut self.outstanding {
            Some((_, Exchange::CreateChild(create))) if create.name() == *name => Some(create.requests()),
            _ => self.queue.iter_mut().find_map(|task| match task {
                Task::CreateChild(other) if other.child.name == *name => Some(&mut other.requests),
                Task::CreateChildAgain(create) if create.name() == *name => Some(create.requests()),
                _ => None,
            }),
        };
        match pending {
            Some(requests) => requests.extend(wanted.requests),
            None => self.queue.push_back(Task::CreateChild(wanted)),
        }
    }

    /// As initiator we made this IKE SA for children: if none came and none is on its way, it goes. An IKE SA
    /// without children would look up and carry nothing.
    pub(super) fn close_if_useless(&mut self, core: &Core, cx: &Shared) {
        let creating = matches!(self.outstanding, Some((_, Exchange::CreateChild(_))))
            || self.queue.iter().any(|t| matches!(t, Task::CreateChild(_) | Task::CreateChildAgain(_)));
        if core.initiator && self.children.is_empty() && !creating && self.closing.is_none() {
            self.closing = Some(cx.now + DELETE_TIMEOUT);
        }
    }

    pub(super) fn delete(mut self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        if self.closing.is_none() {
            self.closing = Some(cx.now + DELETE_TIMEOUT);
        }
        self.pump(core, cx)
    }

    pub(super) fn delete_children(
        mut self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        handles: &[ChildHandle],
        requests: Vec<RequestId>,
        reason: DownReason,
    ) -> State {
        self.queue.push_back(Task::Delete(Deletion::of_children(handles, requests, reason)));
        self.pump(core, cx)
    }

    pub(super) fn suspect(mut self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        let recently = self.last_suspicion.is_some_and(|at| cx.now < at + SUSPICION_INTERVAL);
        if !recently && self.outstanding.is_none() && self.queue.is_empty() {
            self.last_suspicion = Some(cx.now);
            self.queue.push_back(Task::Liveness);
        }
        self.pump(core, cx)
    }

    /// Sends the next request if none is outstanding.
    fn pump(mut self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        while self.outstanding.is_none() {
            if self.closing.is_some() {
                return self.start_delete(core, cx);
            }
            // RFC 7296 2.2: Message IDs never wrap.
            if self.next_request == u32::MAX {
                return self.close(core, cx, DownReason::Failed, "Message IDs are used up");
            }
            let Some(task) = self.queue.pop_front() else { break };
            if let Err(failure) = self.begin(core, cx, task) {
                return self.close(core, cx, DownReason::Failed, failure);
            }
        }
        State::Established(self)
    }

    /// Sends the request of one task, unless nothing is left to ask.
    fn begin(&mut self, core: &mut Core, cx: &mut Shared, task: Task) -> Result<(), &'static str> {
        let (exchange_type, payloads, exchange) = match task {
            Task::CreateChild(wanted) => match CreateChild::new(core, cx, wanted) {
                Some(create) => (
                    ExchangeType::CREATE_CHILD_SA,
                    create.payloads(),
                    Exchange::CreateChild(Box::new(create)),
                ),
                None => {
                    self.close_if_useless(core, cx);
                    return Ok(());
                }
            },
            Task::CreateChildAgain(create) => {
                (ExchangeType::CREATE_CHILD_SA, create.payloads(), Exchange::CreateChild(create))
            }
            Task::Delete(mut deletion) => match deletion.start(&mut self.children) {
                Some(payload) => (ExchangeType::INFORMATIONAL, vec![payload], Exchange::Delete(deletion)),
                None => {
                    deletion.finish(core, cx, &mut self.children);
                    return Ok(());
                }
            },
            Task::Liveness => (ExchangeType::INFORMATIONAL, Vec::new(), Exchange::Liveness),
        };
        let id = self.next_request;
        let header = core.header(exchange_type, false, id);
        let Ok(datagram) = self.secured.seal(&header, &payloads) else {
            Self::abandon(exchange, core, cx, &mut self.children, "the request cannot be encrypted");
            return Err("a request cannot be encrypted");
        };
        self.next_request += 1;
        let outstanding = Outstanding::send(core, cx, id, datagram, core.schedule());
        self.outstanding = Some((outstanding, exchange));
        Ok(())
    }

    fn start_delete(mut self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        let failure = "the IKE SA is being deleted";
        for task in std::mem::take(&mut self.queue) {
            Self::drop_task(task, core, cx, &mut self.children, failure);
        }
        let Self { secured, next_request, expected_request, answered, children, .. } = *self;
        let ids = (next_request, expected_request);
        AwaitDeleteResponse::start(core, cx, secured, ids, answered, children, DownReason::DeletedByUs)
    }

    fn drop_task(task: Task, core: &Core, cx: &mut Shared, children: &mut Vec<ChildSa>, failure: &str) {
        match task {
            Task::CreateChild(wanted) => wanted.fail(cx, failure),
            Task::CreateChildAgain(create) => create.abandon(cx, failure),
            // With the IKE SA all children go.
            Task::Delete(deletion) => deletion.finish(core, cx, children),
            Task::Liveness => {}
        }
    }

    fn abandon(exchange: Exchange, core: &Core, cx: &mut Shared, children: &mut Vec<ChildSa>, failure: &str) {
        match exchange {
            Exchange::CreateChild(create) => create.abandon(cx, failure),
            Exchange::Delete(deletion) => deletion.finish(core, cx, children),
            Exchange::Liveness => {}
        }
    }

    /// The end, without asking the peer.
    pub(super) fn close(
        mut self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        reason: DownReason,
        failure: &str,
    ) -> State {
        if let Some((_, exchange)) = self.outstanding.take() {
            Self::abandon(exchange, core, cx, &mut self.children, failure);
        }
        for task in std::mem::take(&mut self.queue) {
            Self::drop_task(task, core, cx, &mut self.children, failure);
        }
        core.close(cx, self.children, reason, failure)
    }

    pub(super) fn deadline(&self, core: &Core) -> Option<Instant> {
        let keepalive = core.keepalive_due();
        [
            self.outstanding.as_ref().map(|(o, _)| o.deadline()),
            self.closing,
            self.liveness_due(core),
            self.secured.deadline(),
            keepalive,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// When the peer must be asked whether it lives (RFC 7296 2.4).
    fn liveness_due(&self, core: &Core) -> Option<Instant> {
        let delay = core.connection.dpd_delay;
        (!delay.is_zero() && self.outstanding.is_none() && self.closing.is_none())
            .then(|| core.last_proof + delay)
    }

    pub(super) fn handle_timeout(mut self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        if self.closing.is_some_and(|at| cx.now >= at) {
            return self.close(core, cx, DownReason::DeletedByUs, "the IKE SA is being deleted");
        }
        if let Some((outstanding, _)) = &mut self.outstanding
            && outstanding.on_timeout(core, cx) == Fate::GivenUp
        {
            return self.peer_is_dead(core, cx);
        }
        if self.liveness_due(core).is_some_and(|at| cx.now >= at) && self.queue.is_empty() {
            debug!(handle = core.handle.0, "peer was silent, checking its liveness");
            self.queue.push_back(Task::Liveness);
        }
        self.secured.handle_timeout(cx.now);
        if core.keepalive_due().is_some_and(|at| cx.now >= at) {
            keep_nat_open(core, cx);
        }
        self.pump(core, cx)
    }

    fn peer_is_dead(mut self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        let message = format!(
            "no answer from {} port {} (UDP) to a request on an established IKE SA: the peer is taken for dead, its \
             children are removed",
            core.remote.ip(),
            core.remote.port(),
        );
        info!("connection \"{}\": {message}", core.connection.name);
        if let Some((_, Exchange::CreateChild(create))) = &self.outstanding {
            core.record(cx, create.timeout(&message));
        }
        if let Some((_, exchange)) = self.outstanding.take() {
            Self::abandon(exchange, core, cx, &mut self.children, &message);
        }
        self.close(core, cx, DownReason::PeerDead, &message)
    }

    pub(super) fn handle_message(
        self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        m: &Incoming<'_>,
    ) -> State {
        if m.header().flags.response {
            self.handle_response(core, cx, m)
        } else {
            self.handle_request(core, cx, m)
        }
    }

    fn handle_request(mut self: Box<Self>, core: &mut Core, cx: &mut Shared, m: &Incoming<'_>) -> State {
        let (id, exchange) = (m.header().message_id, m.header().exchange);
        if self.answered.as_ref().is_some_and(|a| a.repeat(core, cx, Some(&self.secured), m)) {
            return State::Established(self);
        }
        // Window size 1: what is older is answered, what is newer cannot be (RFC 7296 2.3).
        let expected = id == self.expected_request
            && matches!(exchange, ExchangeType::CREATE_CHILD_SA | ExchangeType::INFORMATIONAL);
        let (true, Some(after)) = (expected, id.checked_add(1)) else {
            cx.counters.ignored += 1;
            return State::Established(self);
        };
        let Some(opened) = self.secured.open(core, cx, m) else { return State::Established(self) };
        let handled = match &opened.payloads {
            Err(error) => {
                info!(
                    "connection \"{}\": peer {} sent a malformed request: {error}",
                    core.connection.name, core.remote
                );
                Handled::invalid_syntax()
            }
            Ok(payloads) => match Contents::read(payloads) {
                Err(refused @ Refused::Critical(_)) => {
                    Handled::Respond(vec![Payload::Notify(refused.notify())])
                }
                Err(Refused::Twice(_)) => Handled::invalid_syntax(),
                Ok(contents) if exchange == ExchangeType::CREATE_CHILD_SA => {
                    self.respond_to_create_child(core, cx, &contents)
                }
                Ok(contents) => self.respond_to_informational(core, cx, &contents, id),
            },
        };
        core.alive(cx, m);
        self.expected_request = after;
        let (payloads, end) = match handled {
            Handled::Respond(payloads) => (payloads, None),
            Handled::RespondAndClose(payloads, reason, why) => (payloads, Some((reason, why))),
        };
        let Ok(response) = self.secured.seal(&core.header(exchange, true, id), &payloads) else {
            return self.close(core, cx, DownReason::Failed, "a response cannot be encrypted");
        };
        core.reply(cx, m, &response);
        let answered = Answered::new(id, opened.datagram, response);
        match end {
            Some((reason, why)) => {
                self.close(core, cx, reason, why);
                AwaitRepetition::start(cx, answered)
            }
            None => {
                self.answered = Some(answered);
                self.pump(core, cx)
            }
        }
    }

    fn handle_response(mut self: Box<Self>, core: &mut Core, cx: &mut Shared, m: &Incoming<'_>) -> State {
        let awaited = self.outstanding.as_ref().is_some_and(|(outstanding, exchange)| {
            outstanding.message_id == m.header().message_id && exchange.exchange_type() == m.header().exchange
        });
        if !awaited {
            cx.counters.ignored += 1;
            return State::Established(self);
        }
        let Some(opened) = self.secured.open(core, cx, m) else { return State::Established(self) };
        core.alive(cx, m);
        let Some((_, exchange)) = self.outstanding.take() else { return State::Established(self) };
        let contents = opened.payloads.as_ref().ok().and_then(|payloads| Contents::read(payloads).ok());
        let Some(contents) = contents else {
            // RFC 7296 2.21: no error goes back for a response; the state is cleaned up instead.
            info!("connection \"{}\": peer {} sent a malformed response", core.connection.name, core.remote);
            Self::abandon(exchange, core, cx, &mut self.children, "the peer's response is malformed");
            return self.delete(core, cx);
        };
        match exchange {
            Exchange::CreateChild(create) => self.child_answered(core, cx, *create, &contents),
            Exchange::Delete(deletion) => deletion.finish(core, cx, &mut self.children),
            Exchange::Liveness => {}
        }
        // RFC 7296 2.21.3: the peer has dropped the IKE SA, there is nobody to send a Delete to.
        if contents.has(NotifyType::INVALID_SYNTAX) {
            return self.close(core, cx, DownReason::Failed, "the peer found a request of ours malformed");
        }
        self.pump(core, cx)
    }

    fn child_answered(&mut self, core: &mut Core, cx: &mut Shared, create: CreateChild, c: &Contents<'_>) {
        use super::create_child::Answer;
        let deleted_early = std::mem::take(&mut self.deleted_early);
        match create.answered(core, cx, &self.secured, c) {
            Answer::Child(child) if deleted_early.contains(&child.outbound_spi) => {
                child.remove(core, cx, DownReason::DeletedByPeer);
                self.close_if_useless(core, cx);
            }
            Answer::Child(child) => self.children.push(child),
            Answer::Again(create) => self.queue.push_front(Task::CreateChildAgain(create)),
            Answer::Failed { discard } => {
                if let Some(spi) = discard {
                    self.discard(spi);
                }
                self.close_if_useless(core, cx);
            }
        }
    }
}

impl Handled {
    /// A malformed request ends the IKE SA on both sides (RFC 7296 2.21.3).
    pub(super) fn invalid_syntax() -> Self {
        let notify = Payload::Notify(Notify::new(NotifyType::INVALID_SYNTAX, Vec::new()));
        Self::RespondAndClose(vec![notify], DownReason::Failed, "the peer sent a malformed request")
    }

    /// A refusal that changes nothing.
    pub(super) fn refuse(notify: NotifyType) -> Self {
        Self::Respond(vec![Payload::Notify(Notify::new(notify, Vec::new()))])
    }
}

impl Exchange {
    fn exchange_type(&self) -> ExchangeType {
        match self {
            Self::CreateChild(_) => ExchangeType::CREATE_CHILD_SA,
            Self::Delete(_) | Self::Liveness => ExchangeType::INFORMATIONAL,
        }
    }
}
