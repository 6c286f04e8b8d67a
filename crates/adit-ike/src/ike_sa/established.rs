//! The IKE SA between its exchanges: what waits to be asked, requests and responses, liveness, and NAT
//! keepalives.
//!
//! As many requests are outstanding as the peer's window holds, usually one (RFC 7296 2.3); the others wait in a queue,
//! and whether there is still something to ask is looked at when their turn comes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use adit_wire::ikev2::{ExchangeType, IkeSpi, Notify, NotifyType, Payload, ProtocolId, Spi};
use tracing::{debug, info};

use super::child::Phase;
use super::closing::CLOSING_PATIENCE;
use super::create_child::CreateChild;
use super::followup::Pending;
use super::generation::Generation;
use super::informational::Deletion;
use super::mobike::{Ask, Asked};
use super::probe::{self, Probe};
use super::rekey_ike::{CreateIke, Other, Role};
use super::secured::Secured;
use super::window::{Answered, Fate, Outstanding};
use super::{
    AwaitDeleteResponse, AwaitRepetition, ChildSa, Contents, Core, Incoming, Refused, State, Wanted,
    keep_nat_open,
};
use crate::output::{ChildHandle, DownReason, Event, IkeSaState, NoticeKind, RequestId};
use crate::shared::Shared;

/// Least time between two liveness checks that strangers can cause (RFC 7296 2.21.4).
const SUSPICION_INTERVAL: Duration = Duration::from_secs(30);

/// SPIs remembered that the peer deletes while we await its answer for a child.
const MOST_DELETED_EARLY: usize = 16;

/// How long to wait before something is asked once more that the peer could not do, less a random part of up to
/// `RETRY_JITTER` (RFC 7296 2.25).
const RETRY: Duration = Duration::from_secs(15);
const RETRY_JITTER: Duration = Duration::from_secs(10);

/// How long to wait for a sign that the peer has the response that made a child, before that is replaced in turn.
const UNSETTLED: Duration = Duration::from_secs(1);

/// An IKE SA and what is asked on it.
pub(super) type Ike = Generation<Exchange>;

/// Something to ask the peer.
pub(super) enum Task {
    CreateChild(Wanted),
    /// One more SA beside this one, if one is missing, and how often the peer has put that off.
    Spread(ChildHandle, u32),
    /// The successor of a child.
    RekeyChild(ChildHandle, Vec<RequestId>),
    /// CREATE_CHILD_SA once more, with another key exchange method.
    CreateChildAgain(Box<CreateChild>),
    /// The successor of the IKE SA.
    RekeyIke(Vec<RequestId>),
    /// The same once more, with another key exchange method.
    RekeyIkeAgain(Box<CreateIke>),
    Delete(Deletion),
    Liveness,
    Probe(Probe),
    Path(Ask),
}

/// What an outstanding request asks.
pub(super) enum Exchange {
    CreateChild(Box<CreateChild>),
    RekeyIke(Box<CreateIke>),
    Delete(Deletion),
    /// The end of an IKE SA beside the current one.
    DeleteIke,
    Liveness,
    Probe(probe::Sent),
    Path(Asked),
}

/// What handling a request of the peer comes to.
pub(super) enum Handled {
    Respond(Vec<Payload>),
    /// The same, and the IKE SA is over.
    RespondAndClose(Vec<Payload>, DownReason, &'static str),
}

/// Both sides are authentic.
pub(crate) struct Established {
    pub(super) ike: Ike,
    /// Those that it replaces, or that are one too many.
    pub(super) others: Vec<Other>,
    /// The peer made the current IKE SA and cannot take a request on it before it has our response: until it uses it,
    /// at the latest until then.
    pub(super) held: Option<Instant>,
    pub(super) queue: VecDeque<Task>,
    /// What waits for its time to be queued.
    pub(super) later: Vec<(Instant, Task)>,
    pub(super) children: Vec<ChildSa>,
    /// What the peer deleted, unknown to us, while we await its answer for a child: it may be that child.
    pub(super) deleted_early: Vec<Spi>,
    /// It is to be deleted as soon as the outstanding requests are answered, at the latest then.
    pub(super) closing: Option<Instant>,
    last_suspicion: Option<Instant>,
    /// A child of the peer that comes to be with additional key exchanges.
    pub(super) pending: Option<Pending>,
    /// How often in a row the peer knew nothing of such a child of ours (STATE_NOT_FOUND).
    pub(super) forgotten: u32,
}

impl Established {
    /// Message IDs: that of our next request, and that of the peer's.
    pub(super) fn new(core: &Core, secured: Secured, ids: (u32, u32), answered: Option<Answered>) -> Self {
        debug!(handle = core.handle.0, "IKE SA established");
        let mut ike = Ike::new((core.spi_i, core.spi_r), core.initiator, secured, ids);
        if let Some(answered) = answered {
            ike.answer(answered);
        }
        Self {
            ike,
            others: Vec::new(),
            held: None,
            queue: VecDeque::new(),
            later: Vec::new(),
            children: Vec::new(),
            deleted_early: Vec::new(),
            closing: None,
            last_suspicion: None,
            pending: None,
            forgotten: 0,
        }
    }

    /// The peer believes in a child of ours that is none.
    pub(super) fn discard(&mut self, spi: Spi) {
        self.queue.push_back(Task::Delete(Deletion::of_spi(spi)));
    }

    /// The peer deleted a child that we do not have. Its response that creates it may be late (RFC 7296 2.25.1).
    pub(super) fn deleted_unknown(&mut self, spi: Spi) {
        let creating = self.ike.exchanges().any(|e| matches!(e, Exchange::CreateChild(_)));
        if creating && self.deleted_early.len() < MOST_DELETED_EARLY {
            self.deleted_early.push(spi);
        }
    }

    pub(super) fn children(&self) -> &[ChildSa] {
        &self.children
    }

    /// It is to be deleted.
    pub(super) fn end(&mut self, cx: &Shared) {
        if self.closing.is_none() {
            self.closing = Some(cx.now + CLOSING_PATIENCE);
        }
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

    pub(super) fn want(&mut self, core: &Core, cx: &mut Shared, wanted: Wanted) {
        let name = &wanted.child.name;
        let is_it = |c: &ChildSa| c.config.name == *name && c.role.own.is_none();
        if self.children.iter().any(|c| c.phase != Phase::Deleting && is_it(c)) {
            let line = format!("CHILD_SA {name} is established already on IKE_SA [{}]", core.handle.0);
            cx.progress(&wanted.requests, &line);
            for request in wanted.requests {
                cx.finish_part(request, Ok(()));
            }
            return;
        }
        let mut pending = self.ike.exchanges_mut().find_map(|exchange| match exchange {
            Exchange::CreateChild(create) if create.name() == *name && create.is_beside().is_none() => {
                Some(create.requests())
            }
            _ => None,
        });
        let waiting = self.queue.iter_mut().chain(self.later.iter_mut().map(|(_, task)| task));
        for task in waiting {
            match task {
                Task::CreateChild(other) if other.child.name == *name => pending = Some(&mut other.requests),
                Task::CreateChildAgain(create) if create.name() == *name && create.is_beside().is_none() => {
                    pending = Some(create.requests());
                }
                _ => {}
            }
        }
        match pending {
            Some(requests) => requests.extend(wanted.requests),
            None => self.queue.push_back(Task::CreateChild(wanted)),
        }
    }

    /// Asks for successors of these children now; what cannot be replaced is left alone.
    pub(super) fn rekey_children(
        mut self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        handles: &[ChildHandle],
        requests: &[RequestId],
    ) -> State {
        for handle in handles {
            self.queue.push_back(Task::RekeyChild(*handle, requests.to_vec()));
        }
        self.pump(core, cx)
    }

    /// Asks for a successor of the IKE SA now.
    pub(super) fn rekey(
        mut self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        requests: Vec<RequestId>,
    ) -> State {
        core.rekey_at = None;
        self.queue.push_back(Task::RekeyIke(requests));
        self.pump(core, cx)
    }

    /// The IKE SA with this SPI of ours: the current one, or one beside it.
    pub(super) fn on(&mut self, ours: IkeSpi) -> Option<&mut Ike> {
        if self.ike.our_spi() == ours {
            return Some(&mut self.ike);
        }
        self.others.iter_mut().map(|o| &mut o.ike).find(|ike| ike.our_spi() == ours)
    }

    /// What it is there for, if it is not the current one.
    fn role(&self, ours: IkeSpi) -> Option<Role> {
        self.others.iter().find(|o| o.ike.our_spi() == ours).map(|o| o.role)
    }

    /// Do these SPIs and this role make a message one for us?
    pub(super) fn accepts(&self, ours: IkeSpi, theirs: IkeSpi, from_initiator: bool) -> bool {
        let fits = |ike: &Ike| {
            ike.our_spi() == ours
                && ike.initiator != from_initiator
                && theirs == if ike.initiator { ike.spi_r } else { ike.spi_i }
        };
        fits(&self.ike) || self.others.iter().any(|other| fits(&other.ike))
    }

    /// As initiator we made this IKE SA for children: if none came and none is on its way, it goes. An IKE SA
    /// without children would look up and carry nothing.
    pub(super) fn close_if_useless(&mut self, core: &Core, cx: &Shared) {
        // Where there is no child to ask for, the IKE SA itself is what is wanted.
        let wanted = self.is_creating() || core.connection.children.is_empty();
        if core.dialled && self.children.is_empty() && !wanted && self.closing.is_none() {
            self.closing = Some(cx.now + CLOSING_PATIENCE);
        }
    }

    /// Is a child on its way?
    pub(super) fn is_creating(&self) -> bool {
        let mut waiting = self.queue.iter().chain(self.later.iter().map(|(_, task)| task));
        self.ike.exchanges().any(|e| matches!(e, Exchange::CreateChild(_)))
            || waiting.any(|t| matches!(t, Task::CreateChild(_) | Task::CreateChildAgain(_)))
    }

    pub(super) fn delete(mut self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        if self.closing.is_none() {
            self.closing = Some(cx.now + CLOSING_PATIENCE);
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
        if !recently && self.ike.is_idle() && self.queue.is_empty() {
            self.last_suspicion = Some(cx.now);
            self.queue.push_back(Task::Liveness);
        }
        self.pump(core, cx)
    }

    /// Sends what is next while the peer's window has room.
    pub(super) fn pump(mut self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        self.follow_path(core, cx);
        if self.closing.is_some() && self.ike.is_idle() {
            return self.start_delete(core, cx);
        }
        self.held.take_if(|until| *until <= cx.now);
        // RFC 7296 2.8: once a successor of the IKE SA is asked for, by either side, the rest waits for it.
        let replacing = self.pending.as_ref().is_some_and(Pending::is_ike);
        while self.closing.is_none()
            && self.held.is_none()
            && !replacing
            && self.ike.has_room()
            && !self.rekeys_ike()
        {
            let alone = |task: &Task| matches!(task, Task::RekeyIke(_) | Task::RekeyIkeAgain(_));
            let next = self.queue.iter().position(|task| !self.must_wait(task));
            let may_begin = |next: &usize| self.ike.is_idle() || !self.queue.get(*next).is_some_and(alone);
            let task = next.filter(may_begin).and_then(|next| self.queue.remove(next));
            let Some(task) = task else { break };
            if let Err(failure) = self.begin(core, cx, task) {
                return self.close(core, cx, DownReason::Failed, failure);
            }
            if self.closing.is_some() {
                return self.pump(core, cx);
            }
        }
        State::Established(self)
    }

    /// Whoever wants a child gone wants its successor gone, which is known when the peer has answered. And what the
    /// peer is about to replace is no place to ask anything new (RFC 7296 2.8).
    fn must_wait(&self, task: &Task) -> bool {
        let concerns = |exchange: &Exchange, deletion: &Deletion| matches!(exchange, Exchange::CreateChild(create) if create.concerns(deletion));
        match task {
            Task::RekeyIkeAgain(_) => false,
            _ if self.pending.as_ref().is_some_and(Pending::is_ike) => true,
            Task::Delete(deletion) => self.ike.exchanges().any(|exchange| concerns(exchange, deletion)),
            _ => false,
        }
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
            Task::Spread(first, put_off) => {
                let Some((first, beside)) = self.lacks(first, put_off) else { return Ok(()) };
                let Some(create) = CreateChild::beside(core, cx, first, beside) else { return Ok(()) };
                (ExchangeType::CREATE_CHILD_SA, create.payloads(), Exchange::CreateChild(Box::new(create)))
            }
            Task::RekeyChild(handle, requests) => {
                // The peer is about to replace it; if nothing comes of that, we do.
                if let Some(pending) = self.pending.as_ref().filter(|p| p.replaces(Some(handle))) {
                    self.later.push((pending.deadline(), Task::RekeyChild(handle, requests)));
                    return Ok(());
                }
                let old = self.children.iter_mut().find(|c| c.handle == handle && c.may_be_rekeyed());
                // The peer has no use for a second successor while its own is half-done (RFC 9370 2.2.4).
                let half_done = self.pending.as_ref().is_some_and(|p| p.replaces(Some(handle)));
                if let Some(old) = &old
                    && (!old.settled || half_done)
                {
                    self.later.push((cx.now + UNSETTLED, Task::RekeyChild(handle, requests)));
                    return Ok(());
                }
                let Some(old) = old else {
                    // The peer was quicker, or it is gone.
                    for request in requests {
                        cx.finish_part(request, Ok(()));
                    }
                    return Ok(());
                };
                let wanted = Wanted::new(old.config.clone(), requests);
                let Some(create) = CreateChild::successor(core, cx, wanted, old) else {
                    old.rekey_at = None;
                    return Ok(());
                };
                old.phase = Phase::Rekeying;
                old.rekey_at = None;
                (ExchangeType::CREATE_CHILD_SA, create.payloads(), Exchange::CreateChild(Box::new(create)))
            }
            Task::CreateChildAgain(create) => {
                // RFC 7296 2.25.1: the peer may have replaced or deleted the child meanwhile.
                if let Some(handle) = create.replaced()
                    && !self
                        .children
                        .iter()
                        .any(|c| c.handle == handle && (c.successor.is_none() || create.is_following_up()))
                {
                    let failure = "the peer has replaced or deleted the child";
                    self.abandon(core, cx, Exchange::CreateChild(create), failure);
                    self.not_rekeying(handle, None);
                    return Ok(());
                }
                (create.exchange_type(), create.payloads(), Exchange::CreateChild(create))
            }
            // The peer was quicker.
            Task::RekeyIke(requests) if requests.is_empty() && core.rekey_at.is_some() => return Ok(()),
            Task::RekeyIke(requests) => {
                let Some(create) = CreateIke::new(core, cx, self.ike.our_spi(), requests) else {
                    return Ok(());
                };
                (ExchangeType::CREATE_CHILD_SA, create.payloads(), Exchange::RekeyIke(Box::new(create)))
            }
            Task::RekeyIkeAgain(create) if !create.concerns(&self.ike) => {
                create.abandon(core, cx, "the peer has replaced the IKE SA");
                return Ok(());
            }
            Task::RekeyIkeAgain(create) => {
                (create.exchange_type(), create.payloads(), Exchange::RekeyIke(create))
            }
            Task::Delete(mut deletion) => match deletion.start(cx, &mut self.children) {
                Some(payload) => (ExchangeType::INFORMATIONAL, vec![payload], Exchange::Delete(deletion)),
                None => {
                    deletion.done(cx);
                    return Ok(());
                }
            },
            Task::Liveness => {
                (ExchangeType::INFORMATIONAL, self.liveness_payloads(core, cx), Exchange::Liveness)
            }
            Task::Probe(probe) => return self.begin_probe(core, cx, probe),
            Task::Path(ask) => {
                let (payloads, asked) = self.path_request(core, cx, ask);
                (ExchangeType::INFORMATIONAL, payloads, Exchange::Path(asked))
            }
        };
        let sealed = self.ike.next_request().ok_or("Message IDs are used up").and_then(|id| {
            let header = self.ike.header(exchange_type, false, id);
            let datagram =
                self.ike.secured.seal(&header, &payloads).map_err(|_| "a request cannot be encrypted")?;
            Ok((id, datagram))
        });
        match sealed {
            Ok((id, datagram)) => {
                let outstanding = Outstanding::send(core, cx, id, datagram, core.schedule());
                self.ike.sent(outstanding, exchange);
                if core.mobility.doubted {
                    self.doubt_since(cx.now);
                }
                Ok(())
            }
            Err(failure) => {
                self.abandon(core, cx, exchange, failure);
                Err(failure)
            }
        }
    }

    fn start_delete(mut self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        self.drop_waiting(core, cx, "the IKE SA is being deleted");
        self.drop_others(core, cx, |_| true);
        let Self { ike, children, .. } = *self;
        let (secured, ids, answered) = ike.into_parts();
        let reason = core.succession.reason;
        AwaitDeleteResponse::start(core, cx, secured, ids, answered, children, reason)
    }

    /// Forgets IKE SAs beside the current one.
    pub(super) fn drop_others(&mut self, core: &mut Core, cx: &mut Shared, which: impl Fn(&Other) -> bool) {
        let dropped: Vec<Other> = self.others.extract_if(.., |other| which(other)).collect();
        for mut other in dropped {
            for exchange in other.ike.take_all() {
                self.abandon(core, cx, exchange, "the IKE SA is gone");
            }
            core.release_spi(cx, other.ike.our_spi());
        }
    }

    fn drop_waiting(&mut self, core: &mut Core, cx: &mut Shared, failure: &str) {
        self.drop_pending(core, cx, |_| true);
        let later = std::mem::take(&mut self.later).into_iter().map(|(_, task)| task);
        for task in std::mem::take(&mut self.queue).into_iter().chain(later) {
            match task {
                Task::CreateChild(wanted) => wanted.fail(cx, failure),
                Task::RekeyChild(_, requests) | Task::RekeyIke(requests) => {
                    for request in requests {
                        cx.finish_part(request, Err(failure));
                    }
                }
                Task::CreateChildAgain(create) => {
                    self.abandon(core, cx, Exchange::CreateChild(create), failure);
                }
                Task::RekeyIkeAgain(create) => create.abandon(core, cx, failure),
                // With the IKE SA all children go.
                Task::Delete(deletion) => deletion.finish(core, cx, &mut self.children),
                Task::Probe(probe) => probe.abandon(core, cx),
                Task::Liveness | Task::Path(_) | Task::Spread(..) => {}
            }
        }
    }

    /// A request will not be answered.
    pub(super) fn abandon(&mut self, core: &mut Core, cx: &mut Shared, exchange: Exchange, failure: &str) {
        match exchange {
            Exchange::CreateChild(mut create) => {
                // Whoever was promised a successor learns that there will be none.
                if let Some((child, reason)) = create.replaces.as_mut().and_then(|r| r.gone.take()) {
                    cx.event(Event::ChildDown(core.view(IkeSaState::Established, &[]), child, reason));
                }
                create.abandon(cx, failure);
            }
            Exchange::RekeyIke(create) => create.abandon(core, cx, failure),
            Exchange::Delete(deletion) => deletion.finish(core, cx, &mut self.children),
            Exchange::Probe(sent) => sent.abandon(core, cx),
            Exchange::DeleteIke | Exchange::Liveness | Exchange::Path(_) => {}
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
        for exchange in self.ike.take_all() {
            self.abandon(core, cx, exchange, failure);
        }
        self.drop_waiting(core, cx, failure);
        self.drop_others(core, cx, |_| true);
        core.close(cx, self.children, reason, failure)
    }

    pub(super) fn deadline(&self, core: &Core) -> Option<Instant> {
        [
            self.ike.deadline().filter(|_| !core.mobility.lost),
            self.ike.secured.deadline(),
            self.closing,
            self.held.filter(|_| !self.queue.is_empty()),
            core.rekey_at,
            core.expires_at,
            self.pending.as_ref().map(Pending::deadline),
            self.liveness_due(core),
            core.keepalive_due(),
            core.succession.deadline(),
        ]
        .into_iter()
        .chain(self.others.iter().flat_map(|o| [Some(o.until), o.ike.deadline(), o.ike.secured.deadline()]))
        .chain(self.later.iter().map(|(at, _)| Some(*at)))
        .chain(self.children.iter().flat_map(|c| [c.rekey_at, c.expires_at]))
        .flatten()
        .min()
    }

    /// When the peer must be asked whether it lives (RFC 7296 2.4).
    fn liveness_due(&self, core: &Core) -> Option<Instant> {
        let delay = core.connection.dpd_delay;
        let quiet = self.ike.is_idle() && self.closing.is_none() && !core.mobility.lost;
        let due = (core.last_proof + delay).max(self.held.unwrap_or(core.last_proof));
        (!delay.is_zero() && quiet).then_some(due)
    }

    pub(super) fn handle_timeout(mut self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        if self.closing.is_some_and(|at| cx.now >= at) {
            let reason = core.succession.reason;
            return self.close(core, cx, reason, "the IKE SA is being deleted");
        }
        // Without a way to the peer its silence means nothing.
        let lost = core.mobility.lost;
        let given_up = |outstanding: &mut Outstanding| outstanding.on_timeout(core, cx) == Fate::GivenUp;
        if !lost && self.ike.outstanding_mut().any(given_up) {
            return self.peer_is_dead(core, cx);
        }
        for (_, task) in self.later.extract_if(.., |(at, _)| *at <= cx.now) {
            self.queue.push_back(task);
        }
        for other in &mut self.others {
            other.ike.secured.handle_timeout(cx.now);
            let given_up = |outstanding: &mut Outstanding| outstanding.on_timeout(core, cx) == Fate::GivenUp;
            if other.ike.outstanding_mut().any(given_up) {
                other.until = cx.now;
            }
        }
        let now = cx.now;
        self.drop_others(core, cx, |other| other.until <= now);
        self.drop_pending(core, cx, |pending| pending.deadline() <= now);
        if core.expires_at.take_if(|at| *at <= cx.now).is_some() {
            info!("connection \"{}\": the IKE SA reached its hard limit", core.connection.name);
            core.succession.reason = DownReason::Expired;
            return self.delete(core, cx);
        }
        if core.rekey_at.take_if(|at| *at <= cx.now).is_some() {
            self.queue.push_back(Task::RekeyIke(Vec::new()));
        }
        self.renew_children(core, cx);
        self.succession_timeout(core, cx);
        if self.liveness_due(core).is_some_and(|at| cx.now >= at) && self.queue.is_empty() {
            debug!(handle = core.handle.0, "peer was silent, checking its liveness");
            self.queue.push_back(Task::Liveness);
        }
        self.ike.secured.handle_timeout(cx.now);
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
        for exchange in self.ike.take_all() {
            if let Exchange::CreateChild(create) = &exchange {
                core.record(cx, create.timeout(&message));
            }
            self.abandon(core, cx, exchange, &message);
        }
        let reason = Self::silence(core);
        self.close(core, cx, reason, &message)
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
        let (id, exchange, on) = (m.header().message_id, m.header().exchange, m.our_spi());
        let role = self.role(on);
        let Some(ike) = self.on(on) else { return State::Established(self) };
        if ike.repeat(core, cx, m) {
            return State::Established(self);
        }
        let known = matches!(
            exchange,
            ExchangeType::CREATE_CHILD_SA | ExchangeType::IKE_FOLLOWUP_KE | ExchangeType::INFORMATIONAL
        );
        if !known || !ike.is_new(id) || role == Some(Role::Gone) {
            cx.counters.ignored += 1;
            return State::Established(self);
        }
        let Some(opened) = ike.secured.open(core, cx, m) else { return State::Established(self) };
        // Whoever asks again has our last response.
        for child in &mut self.children {
            child.settled = true;
        }
        if role.is_none() {
            self.held = None;
        }
        let handled = match &opened.payloads {
            Err(error) => {
                info!(
                    "connection \"{}\": peer {} sent a malformed request: {error}",
                    core.connection.name, core.remote
                );
                let message = format!("a request of the peer cannot be decoded: {error}");
                cx.notice(m.remote.ip(), || core.notice(NoticeKind::MalformedBody, exchange, message));
                Handled::invalid_syntax()
            }
            Ok(payloads) => match Contents::read(payloads) {
                Err(refused @ Refused::Critical(_)) => {
                    Handled::Respond(vec![Payload::Notify(refused.notify())])
                }
                Err(Refused::Twice(_)) => Handled::invalid_syntax(),
                Ok(contents) => {
                    let about_path = self.respond_about_path(core, cx, m, &contents);
                    self.respond(core, cx, &contents, (on, id), exchange).with(about_path)
                }
            },
        };
        core.alive(cx, m);
        let (payloads, end) = match handled {
            Handled::Respond(payloads) => (payloads, None),
            Handled::RespondAndClose(payloads, reason, why) => (payloads, Some((reason, why))),
        };
        let response = self.on(on).and_then(|ike| {
            let header = ike.header(exchange, true, id);
            ike.secured.seal(&header, &payloads).ok()
        });
        let Some(response) = response else {
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
                if let Some(ike) = self.on(on) {
                    ike.answer(answered);
                }
                self.adopt_candidate(core, cx);
                self.pump(core, cx)
            }
        }
    }

    fn respond(
        &mut self,
        core: &mut Core,
        cx: &mut Shared,
        c: &Contents<'_>,
        (on, id): (IkeSpi, u32),
        exchange: ExchangeType,
    ) -> Handled {
        if !c.deletes_ike() {
            self.candidate_in_use(core, cx, on);
        }
        let replaces_ike = c.sa.is_some_and(|sa| sa.proposals.iter().any(|p| p.protocol == ProtocolId::IKE));
        match exchange {
            ExchangeType::CREATE_CHILD_SA | ExchangeType::IKE_FOLLOWUP_KE if self.ike.our_spi() != on => {
                // RFC 7296 2.25.2: it is replaced already.
                Handled::refuse(NotifyType::TEMPORARY_FAILURE)
            }
            ExchangeType::CREATE_CHILD_SA if replaces_ike => self.respond_to_rekey_ike(core, cx, c),
            ExchangeType::CREATE_CHILD_SA => self.respond_to_create_child(core, cx, c),
            ExchangeType::IKE_FOLLOWUP_KE => self.respond_to_followup(core, cx, c),
            _ => self.respond_to_informational(core, cx, c, (on, id)),
        }
    }

    fn handle_response(mut self: Box<Self>, core: &mut Core, cx: &mut Shared, m: &Incoming<'_>) -> State {
        let (id, exchange_type, on) = (m.header().message_id, m.header().exchange, m.our_spi());
        let Some(ike) = self.on(on) else { return State::Established(self) };
        if ike.awaited(id).is_none_or(|e| e.exchange_type() != exchange_type) {
            cx.counters.ignored += 1;
            return State::Established(self);
        }
        let Some(opened) = ike.secured.open(core, cx, m) else { return State::Established(self) };
        let trouble = ike.trouble_with(id);
        let Some(exchange) = ike.take_awaited(id) else { return State::Established(self) };
        core.alive(cx, m);
        let contents = opened.payloads.as_ref().ok().and_then(|payloads| Contents::read(payloads).ok());
        let Some(contents) = contents else {
            // RFC 7296 2.21: no error goes back for a response; the state is cleaned up instead.
            info!("connection \"{}\": peer {} sent a malformed response", core.connection.name, core.remote);
            let message = "a response of the peer cannot be decoded".to_owned();
            cx.notice(m.remote.ip(), || core.notice(NoticeKind::MalformedBody, m.header().exchange, message));
            self.abandon(core, cx, exchange, "the peer's response is malformed");
            return self.delete(core, cx);
        };
        match exchange {
            Exchange::CreateChild(create) => self.child_answered(core, cx, *create, &contents),
            Exchange::RekeyIke(create) => self.ike_answered(core, cx, *create, &contents),
            Exchange::Delete(deletion) => {
                let missed: Vec<_> = deletion
                    .of(&self.children)
                    .filter_map(|(child, reason)| self.misses(child, reason))
                    .collect();
                deletion.finish(core, cx, &mut self.children);
                missed.into_iter().for_each(|missed| self.spread_again(cx, missed));
            }
            Exchange::DeleteIke => {
                if let Some(other) = self.others.iter_mut().find(|o| o.ike.our_spi() == on) {
                    other.role = Role::Gone;
                }
            }
            Exchange::Liveness => self.liveness_answered(core, &contents),
            Exchange::Probe(sent) => sent.answered(core, cx, trouble),
            Exchange::Path(asked) => {
                if let Err(failure) = self.path_answered(core, m, &asked, &contents) {
                    info!("connection \"{}\": {failure}", core.connection.name);
                    return self.close(core, cx, DownReason::Failed, failure);
                }
            }
        }
        // RFC 7296 2.21.3: the peer has dropped the IKE SA, there is nobody to send a Delete to.
        if contents.has(NotifyType::INVALID_SYNTAX) && self.ike.our_spi() == on {
            return self.close(core, cx, DownReason::Failed, "the peer found a request of ours malformed");
        }
        self.pump(core, cx)
    }
}

/// When something is asked once more.
pub(super) fn retry_at(cx: &mut Shared) -> Instant {
    cx.now + RETRY - RETRY_JITTER.mul_f64(cx.fraction())
}

impl Handled {
    /// A malformed request ends the IKE SA on both sides (RFC 7296 2.21.3).
    pub(super) fn invalid_syntax() -> Self {
        let notify = Payload::Notify(Notify::new(NotifyType::INVALID_SYNTAX, Vec::new()));
        Self::RespondAndClose(vec![notify], DownReason::Failed, "the peer sent a malformed request")
    }

    /// The same with something more to tell.
    fn with(mut self, more: Vec<Payload>) -> Self {
        let (Self::Respond(payloads) | Self::RespondAndClose(payloads, ..)) = &mut self;
        payloads.extend(more);
        self
    }

    /// A refusal that changes nothing.
    pub(super) fn refuse(notify: NotifyType) -> Self {
        Self::Respond(vec![Payload::Notify(Notify::new(notify, Vec::new()))])
    }
}

impl Exchange {
    fn exchange_type(&self) -> ExchangeType {
        match self {
            Self::CreateChild(create) => create.exchange_type(),
            Self::RekeyIke(create) => create.exchange_type(),
            Self::Delete(_) | Self::DeleteIke | Self::Liveness | Self::Probe(_) | Self::Path(_) => {
                ExchangeType::INFORMATIONAL
            }
        }
    }
}
