//! The end of an IKE SA: our request to end it, and the time afterwards in which a peer may not have our last response.

use std::time::{Duration, Instant};

use adit_wire::ikev2::{Delete, ExchangeType, Notify, NotifyType, Payload, ProtocolId};
use tracing::debug;

use super::secured::Secured;
use super::window::{Answered, Fate, Outstanding};
use super::{ChildSa, Core, Incoming, State};
use crate::output::{DownReason, IkeSaState};
use crate::shared::Shared;

/// How long an IKE SA that is to be deleted waits for the answers to what is asked already. Then it goes without telling
/// the peer, who could not take one more request (RFC 7296 2.3).
pub(super) const CLOSING_PATIENCE: Duration = Duration::from_secs(15);

/// How long a peer gets to confirm a delete. What is deleted is gone then either way.
const DELETE_TIMEOUT: Duration = Duration::from_secs(5);

/// Our request to end the IKE SA is out.
pub(crate) struct AwaitDeleteResponse {
    secured: Secured,
    outstanding: Outstanding,
    expected_request: u32,
    answered: Option<Answered>,
    /// Did a request of the peer cross ours? It may not have our response yet.
    crossed: bool,
    children: Vec<ChildSa>,
    reason: DownReason,
}

impl AwaitDeleteResponse {
    /// Deletes the IKE SA (RFC 7296 1.4.1).
    pub(super) fn start(
        core: &mut Core,
        cx: &mut Shared,
        secured: Secured,
        ids: (u32, u32),
        answered: Option<Answered>,
        mut children: Vec<ChildSa>,
        reason: DownReason,
    ) -> State {
        // RFC 7296 1.4.1: with the IKE SA go its children; the last of their packets leaves before the Delete.
        for child in &mut children {
            child.hand_over(cx);
            child.retire(cx);
        }
        let delete = Payload::Delete(Delete { protocol: ProtocolId::IKE, spis: Vec::new() });
        Self::send(core, cx, secured, ids, answered, children, reason, delete)
    }

    /// Tells the responder that it did not authenticate itself (RFC 7296 2.21.2).
    pub(super) fn start_unauthenticated(
        core: &mut Core,
        cx: &mut Shared,
        secured: Secured,
        message_id: u32,
    ) -> State {
        let notify = Payload::Notify(Notify::new(NotifyType::AUTHENTICATION_FAILED, Vec::new()));
        Self::send(core, cx, secured, (message_id, 0), None, Vec::new(), DownReason::Failed, notify)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of the state it comes from")]
    fn send(
        core: &mut Core,
        cx: &mut Shared,
        mut secured: Secured,
        (message_id, expected_request): (u32, u32),
        answered: Option<Answered>,
        children: Vec<ChildSa>,
        reason: DownReason,
        payload: Payload,
    ) -> State {
        let header = core.header(ExchangeType::INFORMATIONAL, false, message_id);
        let Ok(datagram) = secured.seal(&header, &[payload]) else {
            return core.close(cx, children, reason, "cannot encrypt");
        };
        let mut outstanding = Outstanding::send(core, cx, message_id, datagram, core.schedule());
        outstanding.give_up_by(cx.now + DELETE_TIMEOUT);
        State::AwaitDeleteResponse(Box::new(Self {
            secured,
            outstanding,
            expected_request,
            answered,
            crossed: false,
            children,
            reason,
        }))
    }

    pub(super) fn children(&self) -> &[ChildSa] {
        &self.children
    }

    pub(super) fn deadline(&self) -> Instant {
        self.outstanding.deadline()
    }

    pub(super) fn close(self, core: &mut Core, cx: &mut Shared, reason: DownReason) -> State {
        let closed = core.close(cx, self.children, reason, "deleted");
        match self.answered {
            Some(answered) if self.crossed => AwaitRepetition::start(cx, answered),
            _ => closed,
        }
    }

    pub(super) fn handle_timeout(mut self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        match self.outstanding.on_timeout(core, cx) {
            Fate::Waiting => State::AwaitDeleteResponse(self),
            Fate::GivenUp => {
                let reason = self.reason;
                self.close(core, cx, reason)
            }
        }
    }

    pub(super) fn handle_message(
        mut self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        m: &Incoming<'_>,
    ) -> State {
        let header = *m.header();
        if self.answered.as_ref().is_some_and(|a| a.repeat(core, cx, Some(&self.secured), m)) {
            return State::AwaitDeleteResponse(self);
        }
        let expected =
            if header.flags.response { self.outstanding.message_id } else { self.expected_request };
        if header.message_id != expected {
            cx.counters.ignored += 1;
            return State::AwaitDeleteResponse(self);
        }
        let Some(opened) = self.secured.open(core, cx, m) else { return State::AwaitDeleteResponse(self) };
        if header.flags.response {
            let reason = self.reason;
            return self.close(core, cx, reason);
        }
        // Both sides may close it at once (RFC 7296 1.4.1); anything else waits for an IKE SA that has a future.
        let payloads = if header.exchange == ExchangeType::INFORMATIONAL {
            Vec::new()
        } else {
            vec![Payload::Notify(Notify::new(NotifyType::TEMPORARY_FAILURE, Vec::new()))]
        };
        let reply = core.header(header.exchange, true, header.message_id);
        if let Ok(response) = self.secured.seal(&reply, &payloads) {
            core.reply(cx, m, &response);
            self.crossed = true;
            self.answered = Some(Answered::new(header.message_id, opened.datagram, response));
            self.expected_request = self.expected_request.saturating_add(1);
        }
        State::AwaitDeleteResponse(self)
    }
}

/// The IKE SA is gone. A peer that did not get our last response repeats its request and must get it once more, or it
/// would wait until it takes us for dead.
pub(crate) struct AwaitRepetition {
    answered: Answered,
    until: Instant,
}

impl AwaitRepetition {
    pub(super) fn start(cx: &Shared, answered: Answered) -> State {
        let until = cx.now + cx.settings.half_open_timeout;
        State::AwaitRepetition(Box::new(Self { answered, until }))
    }

    pub(super) fn deadline(&self) -> Instant {
        self.until
    }

    pub(super) fn handle_message(
        self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        m: &Incoming<'_>,
    ) -> State {
        if self.answered.repeat(core, cx, None, m) {
            debug!(handle = core.handle.0, state = %IkeSaState::Deleting, "last response repeated");
        } else {
            cx.counters.ignored += 1;
        }
        State::AwaitRepetition(self)
    }
}
