//! When payloads leave at a constant rate (RFC 9347 2.4.1).
//!
//! This module owns the schedule, which depends on its start and its rate and on nothing else. It never learns whether there
//! is anything to send.

use std::time::{Duration, Instant};

/// A schedule of equal sends at equal distances: `start + n * interval`.
///
/// Whoever comes late for one sends it late; those that were missed altogether do not take place. So what a busy moment does
/// to the line is a gap, never a burst, and the sends after it are on time again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    next: Instant,
    interval: Duration,
    burst: u32,
    missed: u64,
}

impl Schedule {
    /// The shortest distance of two sends. Above 2,000 payloads a second each send is of several payloads, always as many:
    /// no machine that does anything else keeps shorter times.
    pub const SHORTEST: Duration = Duration::from_micros(500);

    /// One payload in every `interval` on average, the first at `start`.
    #[must_use]
    pub fn new(start: Instant, interval: Duration) -> Self {
        let interval = interval.max(Duration::from_nanos(1));
        let burst = Self::SHORTEST.as_nanos().div_ceil(interval.as_nanos()) as u32;
        Self { next: start, interval: interval * burst, burst, missed: 0 }
    }

    /// When the next send is due.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.next
    }

    /// How many payloads are to be sent at `now`: none before the time, and then always the same number.
    pub fn due(&mut self, now: Instant) -> u32 {
        let Some(late) = now.checked_duration_since(self.next) else { return 0 };
        let missed = (late.as_nanos() / self.interval.as_nanos()) as u64;
        self.missed += missed * u64::from(self.burst);
        let step = self.interval.as_nanos() * u128::from(missed + 1);
        self.next += Duration::from_nanos(step as u64);
        self.burst
    }

    /// Payloads that did not leave because nobody came in time.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn every_send_is_a_multiple_of_the_interval_after_the_start() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, MS);
        assert_eq!(schedule.due(start - MS / 1000), 0);
        for n in 0..1000 {
            assert_eq!(schedule.deadline(), start + n * MS);
            // Late by less than an interval, and by another time each.
            let now = start + n * MS + Duration::from_micros((u64::from(n) * 37) % 1000);
            assert_eq!(schedule.due(now), 1);
            assert_eq!(schedule.due(now), 0);
        }
        assert_eq!(schedule.missed(), 0);
    }

    #[test]
    fn what_is_missed_is_not_made_up() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, MS);
        assert_eq!(schedule.due(start), 1);
        // Sends 1 to 6 are due, and it is 6.5: the last one takes place.
        assert_eq!(schedule.due(start + 6 * MS + MS / 2), 1);
        assert_eq!((schedule.missed(), schedule.deadline()), (5, start + 7 * MS));
    }

    #[test]
    fn a_high_rate_goes_in_equal_bursts() {
        let start = Instant::now();
        // 30,000 a second: 15 in 500 microseconds, and the first number of whole intervals not below that.
        let interval = Duration::from_nanos(33_333);
        let mut schedule = Schedule::new(start, interval);
        assert_eq!(schedule.due(start), 16);
        assert_eq!(schedule.deadline(), start + 16 * interval);
        assert_eq!(schedule.due(start + 33 * interval), 16);
        assert_eq!((schedule.missed(), schedule.deadline()), (16, start + 48 * interval));
        assert!(Schedule::new(start, Duration::ZERO).due(start) > 0, "no division by zero");
    }
}
