//! INFORMATIONAL: deletes, liveness checks, and what else a peer tells (RFC 7296 1.4).

use adit_wire::ikev2::{Delete, IkeSpi, NotifyType, Payload, ProtocolId, Spi};

use super::child::Phase;
use super::established::{Established, Handled};
use super::{ChildSa, Contents, Core};
use crate::output::{Blame, ChildHandle, DownReason, OutcomeCode, RequestId, Stage};
use crate::record::Outcome;
use crate::shared::Shared;

/// Child SAs we delete.
pub(super) struct Deletion {
    handles: Vec<ChildHandle>,
    /// Inbound SPIs of children that the peer believes in and we do not.
    spis: Vec<Spi>,
    requests: Vec<RequestId>,
    /// `None` where something else carries the traffic.
    reason: Option<DownReason>,
}

impl Deletion {
    pub(super) fn of_children(handles: &[ChildHandle], requests: Vec<RequestId>, reason: DownReason) -> Self {
        Self { handles: handles.to_vec(), spis: Vec::new(), requests, reason: Some(reason) }
    }

    /// A child that another has taken the place of.
    pub(super) fn of_replaced(handle: ChildHandle) -> Self {
        Self { handles: vec![handle], spis: Vec::new(), requests: Vec::new(), reason: None }
    }

    pub(super) fn of_spi(spi: Spi) -> Self {
        Self { handles: Vec::new(), spis: vec![spi], requests: Vec::new(), reason: None }
    }

    /// The Delete payload, unless all of it is gone by now. It names our inbound SPIs (RFC 7296 1.4.1). What is
    /// deleted sends nothing any more.
    pub(super) fn start(&mut self, cx: &mut Shared, children: &mut [ChildSa]) -> Option<Payload> {
        let mut spis = self.spis.clone();
        for child in children.iter_mut() {
            if self.handles.contains(&child.handle) && child.phase != Phase::Deleting {
                child.phase = Phase::Deleting;
                if self.reason.is_some() {
                    child.hand_over(cx);
                }
                child.retire(cx);
                spis.push(child.inbound_spi);
            }
        }
        (!spis.is_empty()).then_some(Payload::Delete(Delete { protocol: ProtocolId::ESP, spis }))
    }

    /// Those of the children that it ends, and why.
    pub(super) fn of<'c>(&self, children: &'c [ChildSa]) -> impl Iterator<Item = (&'c ChildSa, DownReason)> {
        let all = children.iter().filter(|child| self.concerns(child.handle));
        all.filter_map(|child| Some((child, self.reason?)))
    }

    /// The peer has confirmed, or never will.
    pub(super) fn finish(self, core: &Core, cx: &mut Shared, children: &mut Vec<ChildSa>) {
        for child in children.extract_if(.., |c| self.handles.contains(&c.handle)) {
            child.leave(core, cx, self.reason);
        }
        for child in children.iter_mut().filter(|c| c.successor.is_some_and(|new| self.concerns(new))) {
            child.go_on(cx);
        }
        self.done(cx);
    }

    /// Nothing is left to delete.
    pub(super) fn done(self, cx: &mut Shared) {
        for request in self.requests {
            cx.finish_part(request, Ok(()));
        }
    }

    /// Is this child to be gone, and not replaced? One that has reached its limit only makes room.
    pub(super) fn ends(&self, handle: ChildHandle) -> bool {
        self.reason.is_some_and(|reason| reason != DownReason::Expired) && self.concerns(handle)
    }

    pub(super) fn concerns(&self, handle: ChildHandle) -> bool {
        self.handles.contains(&handle)
    }

    /// Whoever wanted the old one gone wants its successor gone.
    pub(super) fn extend(&mut self, old: ChildHandle, new: ChildHandle) {
        if self.ends(old) {
            self.handles.push(new);
        }
    }
}

impl Established {
    pub(super) fn respond_to_informational(
        &mut self,
        core: &mut Core,
        cx: &mut Shared,
        c: &Contents<'_>,
        (on, message_id): (IkeSpi, u32),
    ) -> Handled {
        if c.deletes_ike() {
            if self.ike_deleted(core, cx, on) {
                return Handled::Respond(Vec::new());
            }
            let superseded = cx.is_superseded(core.handle);
            return Handled::RespondAndClose(
                Vec::new(),
                if superseded { DownReason::Reauthenticated } else { DownReason::DeletedByPeer },
                "the peer deleted the IKE SA",
            );
        }
        // RFC 7296 2.21.2: right after IKE_AUTH an initiator may tell that it does not believe us.
        let rejected = c.notifies.iter().find(|n| {
            matches!(
                n.notify_type,
                NotifyType::AUTHENTICATION_FAILED
                    | NotifyType::INVALID_SYNTAX
                    | NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD
            )
        });
        let first = u32::try_from(core.additional_kes.len()).map_or(u32::MAX, |before| 2 + before);
        if let Some(notify) = rejected
            && !core.dialled
            && message_id == first
        {
            let message = format!(
                "rejected our IKE_AUTH response ({}): compare the pre-shared keys on both sides, and whether it \
                 expects our identity",
                notify.notify_type,
            );
            let outcome =
                Outcome::new(OutcomeCode::RefusedByPeer, Stage::IkeAuth, Blame::PeerIncompatible, message);
            core.record(cx, outcome.notify(notify.notify_type));
            return Handled::RespondAndClose(
                Vec::new(),
                DownReason::Failed,
                "the peer rejected our authentication",
            );
        }
        core.heed_auth_lifetime(cx, c);
        for spi in c.deletes.iter().filter(|d| d.protocol == ProtocolId::ESP).flat_map(|d| &d.spis) {
            if !self.children.iter().any(|child| child.outbound_spi == *spi) {
                self.deleted_unknown(*spi);
            }
        }
        let asked = |child: &ChildSa| {
            c.deletes.iter().any(|d| d.protocol == ProtocolId::ESP && d.spis.contains(&child.outbound_spi))
        };
        // Where both sides delete at once, each response leaves out what the other has asked for already, and it is
        // gone when our own request is answered (RFC 7296 1.4.1).
        let mut spis = Vec::new();
        let gone: Vec<ChildSa> =
            self.children.extract_if(.., |child| child.phase != Phase::Deleting && asked(child)).collect();
        for child in gone {
            spis.push(child.inbound_spi);
            self.deleted_by_peer(core, cx, child);
        }
        if spis.is_empty() {
            Handled::Respond(Vec::new())
        } else {
            Handled::Respond(vec![Payload::Delete(Delete { protocol: ProtocolId::ESP, spis })])
        }
    }
}
