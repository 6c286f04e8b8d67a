//! The Child SAs of an established IKE SA: what becomes of the request for one, when each is replaced, and how it goes.
//!
//! It owns what an SA is to its successor and to others. What is asked, and when, is the business of `established.rs`; messages
//! and keys are that of `create_child.rs`.

use std::time::Instant;

use adit_wire::ikev2::{NotifyType, Spi};
use tracing::{debug, info};

use super::child::Phase;
use super::create_child::{Answer, Collision, CreateChild, Replaces};
use super::established::{Established, Exchange, Task, retry_at};
use super::informational::Deletion;
use super::{ChildSa, Contents, Core, State, Wanted};
use crate::output::{ChildHandle, ChildSaView, DownReason, Event, IkeSaState, Output};
use crate::shared::Shared;

/// How often in a row the peer may forget a half-done child of ours.
const MOST_FORGOTTEN: u32 = 3;

/// How often a child is asked for that the peer puts off: a few minutes.
const MOST_PUT_OFF: u32 = 20;

impl Established {
    /// Our request for a child is answered.
    pub(super) fn child_answered(
        &mut self,
        core: &mut Core,
        cx: &mut Shared,
        create: CreateChild,
        c: &Contents<'_>,
    ) {
        let creating = self.ike.exchanges().any(|e| matches!(e, Exchange::CreateChild(_)));
        let deleted_early =
            if creating { self.deleted_early.clone() } else { std::mem::take(&mut self.deleted_early) };
        self.count_forgotten(cx, c);
        let taken: Vec<Spi> = self.children.iter().map(|c| c.outbound_spi).collect();
        let beside = create.is_beside();
        match create.answered(core, cx, &self.ike.secured, c, (&deleted_early, &taken)) {
            Answer::Child { child, replaces: None, .. } => match beside {
                Some(beside) => self.spread(core, *child, beside),
                None => self.add_child(cx, *child, true),
            },
            Answer::Child { child, replaces: Some(replaces), lost } => {
                self.succeeded(core, cx, *child, replaces, lost);
            }
            Answer::Again(create) => {
                if create.is_following_up() {
                    // RFC 9370 2.2.4: ours goes on, the peer stops.
                    self.drop_pending(core, cx, |pending| pending.replaces(create.replaced()));
                    self.deleted_early = deleted_early;
                }
                self.queue.push_front(Task::CreateChildAgain(create));
            }
            Answer::Lost(wanted, replaces) => {
                for request in wanted.requests {
                    cx.finish_part(request, Ok(()));
                }
                if let Some(replaces) = replaces {
                    self.not_replaced(core, cx, replaces);
                }
            }
            Answer::Later(mut wanted, None) => {
                if let Some(beside) = beside {
                    return self.spread_later(cx, beside);
                }
                wanted.put_off += 1;
                if wanted.put_off < MOST_PUT_OFF {
                    self.later.push((retry_at(cx), Task::CreateChild(wanted)));
                } else {
                    wanted.fail(cx, "the peer puts the child off again and again (TEMPORARY_FAILURE)");
                    self.close_if_useless(core, cx);
                }
            }
            Answer::Later(mut wanted, Some(replaces)) => {
                wanted.tell_failure(cx, "the peer puts the rekeying off (TEMPORARY_FAILURE)");
                self.not_replaced(core, cx, replaces);
            }
            Answer::Failed { wanted, discard, replaces, notify, fatal } => {
                if fatal {
                    self.end(cx);
                }
                if let Some(spi) = discard {
                    self.discard(spi);
                }
                let Some(replaces) = replaces else { return self.close_if_useless(core, cx) };
                if is_for_good(notify) {
                    let old = self.children.iter().find(|c| c.handle == replaces.handle && c.is_live());
                    core.replace_before(cx, old.and_then(|c| c.expires_at));
                }
                // RFC 7296 2.25: the peer does not have the child; that it deleted it would have been told first.
                let lost_it = notify == Some(NotifyType::CHILD_SA_NOT_FOUND)
                    && replaces.collision.is_none()
                    && !self.is_unwanted(replaces.handle);
                let lost: Vec<ChildSa> =
                    self.children.extract_if(.., |c| lost_it && c.handle == replaces.handle).collect();
                if lost.is_empty() {
                    self.not_replaced(core, cx, replaces);
                }
                for child in lost {
                    // Nobody has decided that.
                    let missed = self.misses(&child, DownReason::Failed);
                    child.leave(core, cx, Some(DownReason::DeletedByPeer));
                    match missed {
                        Some(missed) => self.spread_again(cx, missed),
                        None => self.want(core, cx, Wanted::new(wanted.child.clone(), Vec::new())),
                    }
                }
            }
        }
    }

    /// Is a child to be deleted?
    pub(super) fn is_unwanted(&self, handle: ChildHandle) -> bool {
        self.queue.iter().any(|t| matches!(t, Task::Delete(d) if d.ends(handle)))
    }

    /// Our request for a successor is answered with one.
    fn succeeded(
        &mut self,
        core: &Core,
        cx: &mut Shared,
        mut child: ChildSa,
        replaces: Replaces,
        lost: bool,
    ) {
        let old = self.children.iter_mut().find(|c| c.handle == replaces.handle);
        if lost {
            // RFC 7296 2.8.1: who made what is one too many deletes it. The old one is deleted by the peer.
            debug!(handle = core.handle.0, child = child.handle.0, "lost a collision of rekeyings");
            child.redundant = true;
            self.queue.push_front(Task::Delete(Deletion::of_replaced(child.handle)));
            self.add_child(cx, child, false);
            self.not_rekeying(replaces.handle, None);
            return;
        }
        cx.statistics.child_rekeys.add(cx.now.saturating_duration_since(replaces.asked));
        let view = old.as_deref().map(ChildSa::view).or_else(|| replaces.gone.map(|(view, _)| view));
        if let Some(old) = old {
            old.phase = Phase::Rekeyed;
            // RFC 7296 2.8: the one who asked for the successor deletes the old one.
            self.queue.push_front(Task::Delete(Deletion::of_replaced(old.handle)));
        }
        let ike_sa = core.view(IkeSaState::Established, &[]);
        if let Some(old) = view {
            cx.event(Event::ChildRekeyed { ike_sa, old, new: child.view() });
        }
        for task in &mut self.queue {
            if let Task::Delete(deletion) = task {
                deletion.extend(replaces.handle, child.handle);
            }
        }
        // The peer's own successor is one too many, and the peer deletes it.
        let theirs = replaces.collision.and_then(|c| c.child);
        if let Some(theirs) = self.children.iter_mut().find(|c| Some(c.handle) == theirs) {
            theirs.redundant = true;
        }
        self.add_child(cx, child, true);
    }

    /// Our request for a successor has failed: the old one stays until its end, and it is asked for again.
    fn not_replaced(&mut self, core: &Core, cx: &mut Shared, replaces: Replaces) {
        if let Some((child, reason)) = replaces.gone {
            cx.event(Event::ChildDown(core.view(IkeSaState::Established, &[]), child, reason));
        }
        let again = retry_at(cx);
        self.not_rekeying(replaces.handle, Some(again));
    }

    pub(super) fn not_rekeying(&mut self, handle: ChildHandle, again: Option<Instant>) {
        let old = self.children.iter_mut().find(|c| c.handle == handle && c.phase == Phase::Rekeying);
        if let Some(old) = old {
            old.phase = Phase::Installed;
            old.rekey_at = again.filter(|_| old.successor.is_none());
        }
    }

    /// RFC 9370 2.2.4: a peer that forgets each time what it has agreed to ends the IKE SA.
    pub(super) fn count_forgotten(&mut self, cx: &Shared, c: &Contents<'_>) {
        if !c.has(NotifyType::STATE_NOT_FOUND) {
            if c.ke.is_some() && !c.has(NotifyType::ADDITIONAL_KEY_EXCHANGE) {
                self.forgotten = 0;
            }
            return;
        }
        self.forgotten += 1;
        if self.forgotten >= MOST_FORGOTTEN {
            self.end(cx);
        }
    }

    /// Is one more beside this one being asked for?
    pub(super) fn is_spreading(&self, first: ChildHandle) -> bool {
        let beside = |exchange: &Exchange| match exchange {
            Exchange::CreateChild(create) => create.is_beside(),
            _ => None,
        };
        self.ike.exchanges().filter_map(beside).any(|beside| beside.first == first)
    }

    /// Are additional key exchanges of ours for the successor of a child under way?
    pub(super) fn follows_up(&self, old: ChildHandle) -> bool {
        let waiting = self.queue.iter().filter_map(|task| match task {
            Task::CreateChildAgain(create) => Some(create),
            _ => None,
        });
        let out = self.ike.exchanges().filter_map(|exchange| match exchange {
            Exchange::CreateChild(create) => Some(create),
            _ => None,
        });
        out.chain(waiting).any(|create| create.is_following_up() && create.replaced() == Some(old))
    }

    /// The peer replaces a child too, in an exchange whose lower nonce is `lowest_nonce`; `child` is what it has made.
    pub(super) fn collides_with_peer(
        &mut self,
        old: ChildHandle,
        child: Option<ChildHandle>,
        lowest_nonce: &[u8],
    ) {
        let collision = Collision { lowest_nonce: lowest_nonce.to_vec(), child };
        for exchange in self.ike.exchanges_mut() {
            if let Exchange::CreateChild(create) = exchange
                && let Some(replaces) = create.replaces.as_mut().filter(|r| r.handle == old)
            {
                replaces.collision = Some(collision.clone());
            }
        }
    }

    /// The peer has made the successor of a child, in an exchange whose lower nonce is `lowest_nonce`.
    pub(super) fn replaced_by_peer(&mut self, old: ChildHandle, new: ChildHandle, lowest_nonce: &[u8]) {
        self.collides_with_peer(old, Some(new), lowest_nonce);
        for task in &mut self.queue {
            if let Task::Delete(deletion) = task {
                deletion.extend(old, new);
            }
        }
        if let Some(old) = self.children.iter_mut().find(|c| c.handle == old) {
            old.successor = Some(new);
            old.rekey_at = None;
        }
    }

    /// The peer has deleted a child, which is out of the list already.
    pub(super) fn deleted_by_peer(&mut self, core: &Core, cx: &mut Shared, old: ChildSa) {
        let ike_sa = || core.view(IkeSaState::Established, &[]);
        // RFC 7296 2.8: its successor, if the peer made one, is in use from now on.
        let successor = self.children.iter().find(|c| c.succeeds(&old)).map(|c| c.handle);
        if let Some(new) = successor.and_then(|new| self.take_over(new)) {
            cx.outputs.push_back(Output::SwitchChild(new.handle));
            cx.event(Event::ChildRekeyed { ike_sa: ike_sa(), old: old.view(), new });
            return old.leave(core, cx, None);
        }
        // Our own request for its successor may be answered yet.
        let replaces = self.ike.exchanges_mut().find_map(|exchange| match exchange {
            Exchange::CreateChild(create) => create.replaces.as_mut().filter(|r| r.handle == old.handle),
            _ => None,
        });
        if let Some(replaces) = replaces {
            replaces.gone = Some((old.view(), DownReason::DeletedByPeer));
            return old.leave(core, cx, None);
        }
        // A successor that never took over: what it was to replace goes on.
        let replaced = self.children.iter_mut().find(|c| c.successor == Some(old.handle));
        let quiet = replaced.is_some() || old.phase == Phase::Rekeyed;
        if let Some(replaced) = replaced {
            replaced.go_on(cx);
        }
        let missed = self.misses(&old, DownReason::DeletedByPeer).filter(|_| !quiet);
        old.leave(core, cx, (!quiet).then_some(DownReason::DeletedByPeer));
        if let Some(missed) = missed {
            self.spread_again(cx, missed);
        }
    }

    /// Soft and hard limits in time (RFC 4301 4.4.2.1, RFC 7296 2.8).
    pub(super) fn renew_children(&mut self, core: &Core, cx: &mut Shared) {
        let mut expired = Vec::new();
        for child in &mut self.children {
            if child.expires_at.take_if(|at| *at <= cx.now).is_some() {
                expired.push(child.handle);
            } else if child.rekey_at.take_if(|at| *at <= cx.now).is_some() && child.may_be_rekeyed() {
                self.queue.push_back(Task::RekeyChild(child.handle, Vec::new()));
            }
        }
        for handle in expired {
            self.expire(core, cx, handle);
        }
    }

    /// A hard limit is reached: it sends nothing more (RFC 4301 4.4.2.1), and goes. What the peer has made to replace it
    /// takes over.
    fn expire(&mut self, core: &Core, cx: &mut Shared, handle: ChildHandle) {
        let lasts = |c: &ChildSa| !c.retired && !matches!(c.phase, Phase::Rekeyed | Phase::Deleting);
        let Some(old) = self.children.iter().find(|c| c.handle == handle && lasts(c)) else { return };
        let view = old.view();
        info!("connection \"{}\", child \"{}\": its hard limit is reached", core.connection.name, view.name);
        let new = self.children.iter().find(|c| c.succeeds(old)).map(|c| c.handle);
        let replaced = new.and_then(|new| self.take_over(new));
        let deletion = match replaced {
            Some(new) => {
                let ike_sa = core.view(IkeSaState::Established, &[]);
                cx.outputs.push_back(Output::SwitchChild(new.handle));
                cx.event(Event::ChildRekeyed { ike_sa, old: view, new });
                Deletion::of_replaced(handle)
            }
            None => Deletion::of_children(&[handle], Vec::new(), DownReason::Expired),
        };
        if let Some(old) = self.children.iter_mut().find(|c| c.handle == handle) {
            if new.is_some() {
                (old.phase, old.successor) = (Phase::Rekeyed, None);
            }
            old.hand_over(cx);
            old.retire(cx);
        }
        self.queue.push_back(Task::Delete(deletion));
    }

    /// What stood by is in use from now on.
    fn take_over(&mut self, new: ChildHandle) -> Option<ChildSaView> {
        let new = self.children.iter_mut().find(|c| c.handle == new)?;
        new.told = true;
        Some(new.view())
    }

    /// An authentic packet arrived on a child: its peer knows of it.
    pub(super) fn child_active(
        mut self: Box<Self>,
        core: &mut Core,
        handle: ChildHandle,
        last_inbound: Instant,
    ) -> State {
        core.last_proof = core.last_proof.max(last_inbound);
        if let Some(child) = self.children.iter_mut().find(|c| c.handle == handle) {
            child.settled |= last_inbound >= child.installed;
        }
        State::Established(self)
    }

    /// A child has carried its soft limit.
    pub(super) fn child_expiring(
        mut self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        handle: ChildHandle,
    ) -> State {
        self.queue.push_back(Task::RekeyChild(handle, Vec::new()));
        self.pump(core, cx)
    }

    /// A child has carried its hard limit.
    pub(super) fn child_expired(
        mut self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        handle: ChildHandle,
    ) -> State {
        self.expire(core, cx, handle);
        self.pump(core, cx)
    }
}

/// Will the peer's answer to a rekeying be the same the next time?
fn is_for_good(notify: Option<NotifyType>) -> bool {
    matches!(
        notify,
        Some(NotifyType::NO_ADDITIONAL_SAS | NotifyType::NO_PROPOSAL_CHOSEN | NotifyType::TS_UNACCEPTABLE)
    )
}
