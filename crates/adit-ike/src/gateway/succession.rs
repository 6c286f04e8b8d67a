//! Which IKE SA takes the place of which: re-authentication (RFC 7296 2.8.3), INITIAL_CONTACT (2.4), `unique`, and
//! both sides dialling at once.
//!
//! What IKE SAs find out about others arrives here as [`Effect`]s. Only IKE SAs between exactly the same two identities
//! ever concern each other; how many those are is bounded, so nothing here grows with the number of peers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use super::{CommandError, Gateway, TerminateTarget};
use crate::config::Unique;
use crate::ike_sa::{IkeSa, SWITCH, Wanted};
use crate::output::{ChildHandle, DownReason, IkeSaHandle, Output, RequestId};
use crate::shared::{Effect, Peer};

/// How long both IKE SAs stay where both sides dialled at once, and a random part of as much more.
const BOTH_STAY: Duration = Duration::from_secs(2);

/// How long an IKE SA that is replaced from the same place stays: its peer makes the new one before it breaks the old
/// one, and would rather do the latter itself.
const REPLACED_STAYS: Duration = Duration::from_secs(10);

/// The wait after a failed attempt to authenticate anew; it doubles up to `LONGEST_WAIT`, and a random half is taken
/// off.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(160);

impl Gateway {
    /// IKE SAs between two identities: more than any number of connections and crossing beginnings needs.
    const MOST_OF_ONE_PEER: usize = 16;

    /// Dials new IKE SAs that take the place of these, children and all, and then deletes these (RFC 7296 2.8.3);
    /// returns how many. [`crate::Event::RequestDone`] tells when the children are up.
    ///
    /// # Errors
    ///
    /// [`CommandError`] if nothing fits, or the peers dialled all that does: they have to authenticate anew.
    pub fn reauthenticate(
        &mut self,
        now: std::time::Instant,
        target: &TerminateTarget,
        request: RequestId,
    ) -> Result<usize, CommandError> {
        self.shared.now = now;
        let (_, found) = self.fitting(target)?;
        let dialled: Vec<(IkeSaHandle, usize)> = found
            .into_iter()
            .filter_map(|(handle, _)| {
                let sa = self.ike_sas.get(&handle)?;
                let fits = sa.is_open() && sa.core.dialled && sa.core.succession.successor.is_none();
                // Without children it is the IKE SA itself that is wanted (RFC 6023).
                let whole = sa.core.connection.children.is_empty();
                fits.then(|| (handle, live_names(sa).len().max(usize::from(whole))))
            })
            .filter(|(_, parts)| *parts > 0)
            .collect();
        if dialled.is_empty() {
            return Err(CommandError::NothingToReauthenticate);
        }
        self.shared.begin_request(request, dialled.iter().map(|(_, parts)| parts).sum());
        for (handle, _) in &dialled {
            self.dial_successor(*handle, &[request]);
        }
        self.apply_effects();
        Ok(dialled.len())
    }

    /// What one IKE SA found out about others.
    pub(super) fn apply_effects(&mut self) {
        while !self.shared.effects.is_empty() {
            for effect in std::mem::take(&mut self.shared.effects) {
                match effect {
                    Effect::InitialContact(new) => self.initial_contact(new),
                    Effect::DialAgain { connection, path, wanted, requests, replaces } => {
                        let new = self.start(connection, path, (wanted, requests), true);
                        self.link(replaces, new);
                    }
                    Effect::Established(new) => {
                        self.bound_peer(new);
                        self.make_unique(new);
                        self.settle_crossing(new);
                        self.give_up_dialling(new);
                    }
                    Effect::Reauthenticate(old) => self.dial_successor(old, &[]),
                    Effect::Redundant(handle) => self.drop_redundant(handle),
                    Effect::Settled(new) => self.complete(new),
                    Effect::StoodBy(child) => self.stand_by(child),
                }
            }
        }
    }

    /// The IKE SAs with the same peer, without this one.
    fn others(&self, handle: IkeSaHandle) -> Vec<Peer> {
        let Some(sa) = self.ike_sas.get(&handle) else { return Vec::new() };
        let (Some(local), Some(remote)) = (&sa.core.local_id, &sa.core.remote_id) else { return Vec::new() };
        let all = self.shared.established_with(local, remote);
        all.iter().filter(|other| other.handle != handle).cloned().collect()
    }

    /// Its peer says that it had no other one (RFC 7296 2.4).
    fn initial_contact(&mut self, new: IkeSaHandle) {
        let Some(begun) = self.ike_sas.get(&new).map(|sa| sa.core.begun) else { return };
        for other in self.others(new) {
            // What came to be since then is not what the peer has lost: it may have begun itself while we did, and its
            // message took longer.
            self.with(other.handle, |sa, cx| {
                if sa.core.succession.authenticated.is_some_and(|at| at <= begun) {
                    sa.forget(cx);
                }
            });
        }
    }

    /// `unique = replace`: one that the peer made takes the place of those before it.
    fn make_unique(&mut self, new: IkeSaHandle) {
        let Some(sa) = self.ike_sas.get(&new) else { return };
        let (connection, remote) = (Arc::clone(&sa.core.connection), sa.core.remote);
        if connection.unique != Unique::Replace || sa.core.dialled {
            return;
        }
        let later = self.shared.now + REPLACED_STAYS;
        for other in self.others(new).into_iter().filter(|other| other.connection.name == connection.name) {
            self.with(other.handle, |sa, cx| {
                if !sa.is_open() {
                } else if other.remote == remote {
                    sa.core.succession.redundant_at.get_or_insert(later);
                } else {
                    sa.give_way(cx, DownReason::Replaced);
                }
            });
        }
    }

    /// Both sides dialled at once: whoever made the IKE SA with the lowest nonce deletes it after a while. Ours, never
    /// the peer's: it may have another rule.
    fn settle_crossing(&mut self, new: IkeSaHandle) {
        for other in self.others(new) {
            let (Some(one), Some(another)) = (self.ike_sas.get(&new), self.ike_sas.get(&other.handle)) else {
                continue;
            };
            let crossing = one.core.connection.name == another.core.connection.name
                && one.core.connection.unique != Unique::Never
                && one.core.dialled != another.core.dialled
                && one.core.succession.replaces.is_none()
                && another.core.succession.authenticated.is_some_and(|at| one.core.begun < at);
            let (ours, theirs) = if one.core.dialled { (one, another) } else { (another, one) };
            if crossing && ours.core.succession.lowest_nonce < theirs.core.succession.lowest_nonce {
                let handle = ours.core.handle;
                let wait = BOTH_STAY + BOTH_STAY.mul_f64(self.shared.fraction());
                let at = self.shared.now + wait;
                self.with(handle, |sa, _| sa.core.succession.redundant_at = Some(at));
            }
        }
    }

    /// The peer was quicker: an attempt of ours for the same children that it has not answered is needless.
    fn give_up_dialling(&mut self, new: IkeSaHandle) {
        let Some(sa) = self.ike_sas.get(&new).filter(|sa| !sa.core.dialled) else { return };
        let (up, remote) = (live_names(sa), sa.core.remote.ip());
        let connection = &sa.core.connection.name;
        let needless = |handle: &IkeSaHandle| {
            self.ike_sas.get(handle).is_some_and(|sa| {
                let all_up = sa.unanswered().is_some_and(|mut wanted| wanted.all(|name| up.contains(name)));
                all_up && sa.core.connection.name == *connection && sa.core.succession.replaces.is_none()
            })
        };
        let attempts = (remote, IkeSaHandle(0))..=(remote, IkeSaHandle(u64::MAX));
        let handles = self.unanswered.range(attempts).map(|(_, handle)| *handle);
        let handles: Vec<IkeSaHandle> = handles.filter(needless).collect();
        for handle in handles {
            self.with(handle, IkeSa::give_up_dialling);
        }
    }

    /// It goes if another one does what it does, or, where the peer made it, has replaced it.
    fn drop_redundant(&mut self, handle: IkeSaHandle) {
        let Some(sa) = self.ike_sas.get(&handle).filter(|sa| sa.is_open()) else { return };
        let (names, name) = (live_names(sa), &sa.core.connection.name);
        let replaced =
            self.others(handle).iter().filter(|other| other.connection.name == *name).any(|other| {
                self.ike_sas.get(&other.handle).is_some_and(|other| {
                    other.is_open() && (!sa.core.dialled || names.is_subset(&live_names(other)))
                })
            });
        if replaced {
            self.with(handle, |sa, cx| sa.give_way(cx, DownReason::Replaced));
        }
    }

    /// Whoever is authentic may open IKE SAs, but not without end: the one that was silent for longest goes.
    fn bound_peer(&mut self, new: IkeSaHandle) {
        let others = self.others(new);
        let open: Vec<&IkeSa> = others
            .iter()
            .filter_map(|other| self.ike_sas.get(&other.handle))
            .filter(|sa| sa.is_open())
            .collect();
        if open.len() < Self::MOST_OF_ONE_PEER {
            return;
        }
        let oldest = open.iter().min_by_key(|sa| sa.core.last_proof);
        let Some((handle, remote, id)) =
            oldest.map(|sa| (sa.core.handle, sa.core.remote, sa.core.remote_id.clone()))
        else {
            return;
        };
        if self.shared.may_log(remote.ip()) {
            info!(
                "peer {remote}: \"{}\" has more than {} IKE SAs, deleting the one that was silent for longest",
                id.map(|id| id.to_string()).unwrap_or_default(),
                Self::MOST_OF_ONE_PEER,
            );
        }
        self.with(handle, |sa, cx| sa.delete(cx, Vec::new()));
    }

    /// A child of the peer's is on standby. If there is another one of its name with that peer, it takes over from that
    /// one; if not, it is used at once.
    fn stand_by(&mut self, child: ChildHandle) {
        let Some(handle) = self.ike_sa_of(child) else { return };
        let Some(sa) = self.ike_sas.get(&handle) else { return };
        let Some(name) = sa.children().iter().find(|c| c.handle == child).map(|c| c.config.name.clone())
        else {
            return;
        };
        let connection = &sa.core.connection.name;
        let mut before = self.others(handle);
        before.retain(|other| {
            other.connection.name == *connection
                && self.ike_sas.get(&other.handle).is_some_and(|sa| live_names(sa).contains(name.as_str()))
        });
        if before.is_empty() {
            self.shared.outputs.push_back(Output::SwitchChild(child));
            return;
        }
        let shared = &mut self.shared;
        for other in before {
            let heirs = shared.standby.entry(other.handle).or_default();
            heirs.retain(|(_, heir)| shared.child_owners.contains_key(heir));
            heirs.push((name.clone(), child));
        }
        shared.waiting.insert(child);
        let at = shared.now + SWITCH;
        self.with(handle, |sa, _| {
            sa.core.succession.switch_at.get_or_insert(at);
        });
    }

    /// Dials an IKE SA that is to take the place of this one. It says nothing of that to the peer.
    fn dial_successor(&mut self, old: IkeSaHandle, requests: &[RequestId]) {
        let Some(sa) = self.ike_sas.get(&old) else { return };
        let core = &sa.core;
        if !sa.is_open() || !core.dialled || core.succession.successor.is_some() || self.shutting_down {
            return;
        }
        let wanted = wanted(sa, requests);
        if wanted.is_empty() && !core.connection.children.is_empty() {
            return;
        }
        let whole = if wanted.is_empty() { requests.to_vec() } else { Vec::new() };
        let (connection, local, remote) = (Arc::clone(&core.connection), core.local.ip(), core.remote.ip());
        info!("connection \"{}\": authenticating anew", connection.name);
        self.with(old, |sa, _| sa.core.succession.reauth_at = None);
        let new = self.dial(connection, local, remote, (wanted, whole));
        self.link(Some(old), new);
    }

    /// `new` is to take the place of `old`; without it, that has failed.
    fn link(&mut self, old: Option<IkeSaHandle>, new: Option<IkeSaHandle>) {
        let Some(old) = old else { return };
        if let Some(new) = new {
            self.with(new, |sa, _| sa.core.succession.replaces = Some(old));
            self.with(old, |sa, _| sa.core.succession.successor = Some(new));
        } else {
            self.successor_failed(old);
        }
    }

    /// The old one stays until its end, and another attempt is made.
    fn successor_failed(&mut self, old: IkeSaHandle) {
        let failures = self.ike_sas.get(&old).map_or(0, |sa| sa.core.succession.failures);
        let longest = (FIRST_WAIT * (1 << failures.min(5))).min(LONGEST_WAIT);
        let at = self.shared.now + longest - (longest / 2).mul_f64(self.shared.fraction());
        self.with(old, |sa, _| {
            let s = &mut sa.core.succession;
            s.successor = None;
            s.failures = s.failures.saturating_add(1);
            s.reauth_at = Some(at);
        });
    }

    /// An IKE SA is gone: whoever was linked to it learns that.
    pub(super) fn unlink(
        &mut self,
        gone: IkeSaHandle,
        replaces: Option<IkeSaHandle>,
        successor: Option<IkeSaHandle>,
    ) {
        if let Some(old) = replaces.filter(|old| self.is_successor(*old, gone)) {
            self.successor_failed(old);
        }
        if let Some(new) = successor {
            self.with(new, |sa, cx| {
                sa.core.succession.replaces = None;
                // The peer has not answered: what became of the old one decides whether there is to be a new one. If
                // it has, it may have ended the old one for it.
                if !sa.is_answered() {
                    sa.delete(cx, Vec::new());
                }
            });
        }
    }

    fn is_successor(&self, old: IkeSaHandle, new: IkeSaHandle) -> bool {
        self.ike_sas.get(&old).is_some_and(|sa| sa.is_open() && sa.core.succession.successor == Some(new))
    }

    /// What is taken down is not to come back with a successor that is being dialled; what is left gets another one.
    pub(super) fn cancel_successors(&mut self, of: &[IkeSaHandle]) {
        for old in of {
            let new = self.ike_sas.get(old).and_then(|sa| sa.core.succession.successor);
            if let Some(new) = new.filter(|new| !of.contains(new)) {
                self.with(new, |sa, cx| sa.delete(cx, Vec::new()));
            }
        }
    }

    /// The new IKE SA has all the children that it can have: the old one goes, with the children that it has.
    fn complete(&mut self, new: IkeSaHandle) {
        let Some(sa) = self.ike_sas.get(&new).filter(|sa| sa.is_settled()) else { return };
        let Some(old) = sa.core.succession.replaces.filter(|old| self.is_successor(*old, new)) else {
            return;
        };
        let up: BTreeSet<String> = live_names(sa).into_iter().map(str::to_owned).collect();
        let Some(before) = self.ike_sas.get(&old) else { return };
        let missing = wanted(before, &[]).into_iter().filter(|w| !up.contains(&w.child.name));
        let missing: Vec<Wanted> = missing.collect();
        // Children may have come up on the old one meanwhile.
        if !missing.is_empty() && !sa.core.succession.complete {
            self.with(new, |sa, _| sa.core.succession.complete = true);
            for wanted in missing {
                self.with(new, |sa, cx| sa.bring_up(cx, wanted));
            }
            return;
        }
        let moved: Vec<ChildHandle> =
            before.children().iter().filter(|c| up.contains(&c.config.name)).map(|c| c.handle).collect();
        self.with(new, |sa, _| sa.core.succession.replaces = None);
        self.with(old, |sa, cx| {
            sa.core.succession.successor = None;
            if missing.is_empty() {
                sa.give_way(cx, DownReason::Reauthenticated);
            } else {
                // What the peer wants here only lives here until the end.
                sa.delete_children(cx, &moved, Vec::new(), DownReason::Reauthenticated);
            }
        });
    }
}

/// The names of the children that carry its traffic.
fn live_names(sa: &IkeSa) -> BTreeSet<&str> {
    if !sa.is_open() {
        return BTreeSet::new();
    }
    sa.children().iter().filter(|c| c.is_live()).map(|c| c.config.name.as_str()).collect()
}

/// These children, to be brought up elsewhere.
fn wanted(sa: &IkeSa, requests: &[RequestId]) -> Vec<Wanted> {
    let mut names = live_names(sa);
    let live = sa.children().iter().filter(|c| c.is_live() && names.remove(c.config.name.as_str()));
    live.map(|c| Wanted::new(Arc::clone(&c.config), requests.to_vec())).collect()
}
