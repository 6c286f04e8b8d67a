//! Packets that mean nothing (RFC 4303 2.6): when the next is due on an SA, and how long it is. It never seals.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use adit_wire::ip::Ipv4Header;

/// Those of an outbound half.
pub(super) struct Dummies {
    interval: Duration,
    /// Since when the SA is silent; `None` before it is active.
    silent: Option<Instant>,
    /// How long it may be silent this time.
    wait: Duration,
    secret: RandomState,
    drawn: u64,
}

impl Dummies {
    /// The SA is to be silent no longer than this.
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, silent: None, wait: interval, secret: RandomState::new(), drawn: 0 }
    }

    /// The SA is active.
    pub(super) fn start(&mut self, now: Instant) {
        self.silent = Some(now);
    }

    /// Something else leaves.
    pub(super) fn traffic(&mut self, now: Instant) {
        if let Some(silent) = &mut self.silent {
            *silent = now;
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.silent.map(|silent| silent + self.wait)
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// One leaves. It is so long: at random, as far as packets of the SA differ. So is the time to the next: what always comes
    /// after the same silence is known for what it is.
    pub(super) fn next(&mut self, now: Instant, at_least: usize, most: usize) -> usize {
        self.silent = Some(now);
        let half = self.interval / 2;
        self.wait = half + Duration::from_nanos(self.draw(half.as_nanos() as u64));
        let least = at_least.max(Ipv4Header::LEN).min(most);
        least + self.draw((most - least) as u64) as usize
    }

    /// A number up to this one that nobody foresees.
    fn draw(&mut self, most: u64) -> u64 {
        self.drawn += 1;
        self.secret.hash_one(self.drawn) % most.saturating_add(1)
    }
}
