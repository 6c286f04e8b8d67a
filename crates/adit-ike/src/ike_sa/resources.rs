//! Child SAs for resources (RFC 9611): beside the first SA of a child, which whatever has no own one uses, one more for each
//! of our resources, which are worker threads.
//!
//! Both sides say with the first, by SA_RESOURCE_INFO, that there may be more. Who asked for the first then asks for the
//! others, one after the other; the other side a little later, if some of its resources have none. What one side takes for
//! which of its resources is nothing to the other. This module owns when one more is asked for and whether one more is
//! taken, never messages and keys: they are those of any child.

use std::time::{Duration, Instant};

use adit_crypto::EspTransforms;
use adit_wire::esp::Mode;
use adit_wire::ikev2::{Notify, NotifyType, Payload, Spi};

use super::established::{Established, Task, retry_at};
use super::informational::Deletion;
use super::{ChildSa, Contents, Core};
use crate::config::{Action, Child};
use crate::output::{Blame, ChildHandle, DownReason, OutcomeCode, Stage};
use crate::record::Outcome;
use crate::selector::Selectors;
use crate::shared::Shared;
use crate::spis::Lane;

/// How long who did not ask for the first SA waits for the other side to ask for more.
const OTHERS_FIRST: Duration = Duration::from_secs(5);

/// Least time between two SAs of a resource that are asked for.
const LEAST_BETWEEN: Duration = Duration::from_secs(60);

/// How often one more is asked for that the peer puts off.
const MOST_PUT_OFF: u32 = 3;

/// What an SA is among those of its child.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Role {
    /// Did both sides say that there may be more?
    pub(super) spreads: bool,
    /// The resource of ours whose own it is. The first is nobody's.
    pub(super) own: Option<u16>,
}

/// What one more is to be like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beside {
    pub(super) first: ChildHandle,
    own: u16,
    /// RFC 9611 3: algorithms, selectors and mode are those of the first.
    transforms: EspTransforms,
    mode: Mode,
    /// How often the peer has put it off.
    put_off: u32,
}

impl Beside {
    pub(super) fn role(&self) -> Role {
        Role { spreads: true, own: Some(self.own) }
    }

    pub(super) fn is_met_by(&self, transforms: &EspTransforms, mode: Mode) -> bool {
        self.transforms == *transforms && self.mode == mode
    }
}

impl Role {
    const FIRST: Self = Self { spreads: true, own: None };

    /// That of a child that we have asked for, and what the peer says to that.
    pub(super) fn of_first(child: &Child, c: &Contents<'_>) -> Self {
        Self { spreads: child.resources.is_some() && c.has(NotifyType::SA_RESOURCE_INFO), own: None }
    }

    /// Whose packets arrive with this SPI: a successor has the place of what it replaces, and the own SA of a resource is
    /// near it.
    pub(super) fn lane(self, replaced: Option<Spi>) -> Lane {
        match (replaced, self.own) {
            (Some(old), _) => Lane::Of(old),
            (None, Some(own)) => Lane::Own(own.into()),
            (None, None) => Lane::Any,
        }
    }
}

/// The notify of a child that may have more SAs, or be one more. The peer uses the data for nothing but its log (RFC 9611 5.1).
pub(super) fn notify(child: &Child, spi: Spi) -> Option<Payload> {
    let data = spi.0.to_be_bytes().to_vec();
    child.resources.map(|_| Payload::Notify(Notify::new(NotifyType::SA_RESOURCE_INFO, data)))
}

/// The SAs of a child with these selectors that carry traffic, each with its successor as one.
fn group<'c>(
    children: &'c [ChildSa],
    child: &'c Child,
    selectors: &'c Selectors,
) -> impl Iterator<Item = &'c ChildSa> + Clone {
    let is_one = |c: &&ChildSa| c.config.name == child.name && c.selectors == *selectors;
    children.iter().filter(is_one).filter(|c| c.is_live() && c.successor.is_none())
}

/// Why the peer gets no SA more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// There are as many as we allow.
    Full,
    /// It is not like the first.
    Differs,
}

impl Refused {
    pub(super) fn notify(self) -> Notify {
        // RFC 9611 3: not NO_ADDITIONAL_SAS, which would be about all children.
        let notify = match self {
            Self::Full => NotifyType::TS_MAX_QUEUE,
            Self::Differs => NotifyType::NO_PROPOSAL_CHOSEN,
        };
        Notify::new(notify, Vec::new())
    }

    pub(super) fn outcome(self) -> Box<Outcome> {
        let (code, blame, message) = match self {
            Self::Full => (OutcomeCode::Success, Blame::Nobody, "as many SAs as `per_cpu_sas` allows"),
            Self::Differs => (
                OutcomeCode::NoProposalChosen,
                Blame::PeerIncompatible,
                "an own SA of a resource of the peer is not like the first of its child (RFC 9611)",
            ),
        };
        Outcome::new(code, Stage::ChildSa, blame, message)
    }
}

/// What an SA becomes that the peer asks for, saying that it is one of several: the first, or that of the resource which
/// has fewest.
pub(super) fn place(
    children: &[ChildSa],
    child: &Child,
    (selectors, transforms, mode): (&Selectors, &EspTransforms, Mode),
) -> Result<Role, Refused> {
    let Some(resources) = child.resources else { return Ok(Role::default()) };
    let all = group(children, child, selectors);
    let mut role = Role::FIRST;
    let Some(first) = all.clone().find(|c| c.role.own.is_none()) else { return Ok(role) };
    if first.transforms != *transforms || first.mode != mode {
        return Err(Refused::Differs);
    }
    if all.clone().filter(|c| c.role.own.is_some()).count() >= resources.most.into() {
        return Err(Refused::Full);
    }
    let count = |own: &u16| all.clone().filter(|c| c.role.own == Some(*own)).count();
    role.own = Some((0..resources.own).min_by_key(count).unwrap_or(0));
    Ok(role)
}

impl Established {
    /// One more child; if it is a first one, those of our resources follow. `ours`: we have asked for it.
    pub(super) fn add_child(&mut self, cx: &Shared, child: ChildSa, ours: bool) {
        if child.role == Role::FIRST {
            let task = Task::Spread(child.handle, 0);
            if ours {
                self.queue.push_back(task);
            } else {
                self.later.push((cx.now + OTHERS_FIRST, task));
            }
        }
        self.children.push(child);
    }

    fn first_of(&self, child: &ChildSa) -> Option<ChildHandle> {
        let mut all = group(&self.children, &child.config, &child.selectors);
        all.find(|c| c.role.own.is_none()).map(|c| c.handle)
    }

    /// The SA beside which one more is to be asked for, and what that is to be; `None` if none is missing any more.
    pub(super) fn lacks(&self, first: ChildHandle, put_off: u32) -> Option<(&ChildSa, Beside)> {
        let first =
            self.children.iter().find(|c| c.handle == first && c.is_live() && c.successor.is_none())?;
        let all = group(&self.children, &first.config, &first.selectors);
        // A single one has the first to itself.
        let own = first.config.resources.map_or(0, |resources| resources.own);
        let is_missing = |own: &u16| all.clone().all(|c| c.role.own != Some(*own));
        let own = (0..own).filter(|_| own > 1).find(is_missing)?;
        let ChildSa { handle, transforms, mode, .. } = *first;
        Some((first, Beside { first: handle, own, transforms, mode, put_off }))
    }

    /// What we asked for is there. If the first is not, nobody wants it.
    pub(super) fn spread(&mut self, core: &Core, child: ChildSa, beside: Beside) {
        tracing::debug!(
            handle = core.handle.0,
            child = child.handle.0,
            own = beside.own,
            "own SA of a resource"
        );
        let first = self.first_of(&child);
        for task in &mut self.queue {
            if let Task::Delete(deletion) = task {
                deletion.extend(first.unwrap_or(beside.first), child.handle);
            }
        }
        self.queue.push_back(match first {
            Some(first) => Task::Spread(first, 0),
            None => {
                Task::Delete(Deletion::of_children(&[child.handle], Vec::new(), DownReason::DeletedByPeer))
            }
        });
        self.children.push(child);
    }

    /// A child goes. If it is the own one of a resource, and is missed: the first of its group, and when to ask again at the
    /// earliest.
    pub(super) fn misses(&self, gone: &ChildSa, reason: DownReason) -> Option<(ChildHandle, Instant)> {
        let is_missed = match reason {
            DownReason::DeletedByPeer => gone.config.on_close == Action::Start,
            DownReason::DeletedByUs => false,
            _ => true,
        };
        let first = self.first_of(gone).filter(|_| is_missed && gone.role.own.is_some());
        first.map(|first| (first, gone.installed + LEAST_BETWEEN))
    }

    /// Asks, after a pause, for what is [missed](Self::misses).
    pub(super) fn spread_again(&mut self, cx: &mut Shared, (first, earliest): (ChildHandle, Instant)) {
        let waiting = self.queue.iter().chain(self.later.iter().map(|(_, task)| task));
        let mut known = waiting.map(|task| match task {
            Task::Spread(first, _) => Some(*first),
            _ => None,
        });
        // One at a time: the next is asked for when it has come.
        if !known.any(|known| known == Some(first)) && !self.is_spreading(first) {
            self.later.push((retry_at(cx).max(earliest), Task::Spread(first, 0)));
        }
    }

    /// The peer was busy.
    pub(super) fn spread_later(&mut self, cx: &mut Shared, beside: Beside) {
        if beside.put_off < MOST_PUT_OFF {
            self.later.push((retry_at(cx), Task::Spread(beside.first, beside.put_off + 1)));
        }
    }
}
