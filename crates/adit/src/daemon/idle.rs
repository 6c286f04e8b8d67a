//! Children that end when they are idle (`inactivity`): when to look at which.
//!
//! It owns the deadlines and neither reads counters nor takes anything down.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use adit_ike::ChildHandle;

/// The children with a limit.
#[derive(Debug, Default)]
pub(super) struct Idle {
    children: HashMap<ChildHandle, Watch>,
    due: BTreeSet<(Instant, ChildHandle)>,
}

#[derive(Clone, Copy, Debug)]
struct Watch {
    limit: Duration,
    /// It was not idle then.
    active: Instant,
}

impl Idle {
    /// A child is up. Zero is no limit.
    pub(super) fn up(&mut self, now: Instant, child: ChildHandle, limit: Duration) {
        if !limit.is_zero() {
            self.watch(child, Watch { limit, active: now });
        }
    }

    /// A child goes on as another one.
    pub(super) fn rekeyed(&mut self, old: ChildHandle, new: ChildHandle) {
        if let Some(watch) = self.down(old) {
            self.watch(new, watch);
        }
    }

    /// A child is gone.
    pub(super) fn gone(&mut self, child: ChildHandle) {
        self.down(child);
    }

    /// When something is due next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The children that have been idle for too long, by when there was traffic last.
    pub(super) fn expired(
        &mut self,
        now: Instant,
        traffic: impl Fn(ChildHandle) -> Option<Instant>,
    ) -> Vec<ChildHandle> {
        let mut expired = Vec::new();
        while let Some((at, child)) = self.due.first().copied()
            && at <= now
        {
            let Some(mut watch) = self.down(child) else { break };
            watch.active = traffic(child).map_or(watch.active, |at| at.max(watch.active));
            if watch.active + watch.limit <= now {
                expired.push(child);
            } else {
                self.watch(child, watch);
            }
        }
        expired
    }

    fn watch(&mut self, child: ChildHandle, watch: Watch) {
        self.children.insert(child, watch);
        self.due.insert((watch.active + watch.limit, child));
    }

    fn down(&mut self, child: ChildHandle) -> Option<Watch> {
        let watch = self.children.remove(&child)?;
        self.due.remove(&(watch.active + watch.limit, child));
        Some(watch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_postpones_the_end_and_rekeying_does_not() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (one, two) = (ChildHandle(1), ChildHandle(2));
        let mut idle = Idle::default();
        idle.up(start, ChildHandle(9), Duration::ZERO);
        assert_eq!(idle.poll_timeout(), None);
        idle.up(start, one, Duration::from_secs(60));
        assert_eq!(idle.poll_timeout(), Some(at(60)));
        assert!(idle.expired(at(59), |_| None).is_empty());
        assert!(idle.expired(at(60), |_| Some(at(30))).is_empty());
        assert_eq!(idle.poll_timeout(), Some(at(90)));
        idle.rekeyed(one, two);
        assert_eq!(idle.poll_timeout(), Some(at(90)));
        assert_eq!(idle.expired(at(90), |_| Some(at(20))), [two]);
        assert_eq!(idle.poll_timeout(), None);
        idle.up(start, one, Duration::from_secs(60));
        idle.gone(one);
        assert!(idle.expired(at(1000), |_| None).is_empty());
    }
}
