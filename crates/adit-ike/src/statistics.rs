//! What all negotiations together come to: how long those took that succeeded, and where the others ended.
//!
//! It owns the counts, which have a fixed size, and decides nothing. What a single negotiation was is in its record.

use std::time::Duration;

use crate::output::{OutcomeCode, Stage};

/// How long something took, in classes that double: up to 1 ms, 2 ms, 4 ms, and so on up to 65.536 s, then all the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    classes: [u64; Self::CLASSES + 1],
    sum: Duration,
}

impl Histogram {
    /// Classes that have an upper bound.
    pub const CLASSES: usize = 17;

    /// Counts one more.
    pub fn add(&mut self, took: Duration) {
        let class = (0..Self::CLASSES).find(|class| took <= Self::bound(*class)).unwrap_or(Self::CLASSES);
        if let Some(count) = self.classes.get_mut(class) {
            *count += 1;
        }
        self.sum += took;
    }

    /// The most that belongs to a class.
    #[must_use]
    pub fn bound(class: usize) -> Duration {
        Duration::from_millis(1 << class.min(Self::CLASSES))
    }

    /// How many belong to each class; the last has no bound.
    #[must_use]
    pub fn classes(&self) -> &[u64] {
        &self.classes
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.classes.iter().sum()
    }

    /// How long all of them took together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }
}

/// What negotiations come to since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// From our first request to the end of IKE_AUTH.
    pub handshakes_begun_by_us: Histogram,
    /// From the peer's first request that was answered to the end of IKE_AUTH.
    pub handshakes_begun_by_peers: Histogram,
    /// From our request for the successor of a Child SA until it is in use.
    pub child_rekeys: Histogram,
    /// From our request for the successor of an IKE SA until it is in use.
    pub ike_rekeys: Histogram,
    failures: Vec<(Stage, OutcomeCode, u64)>,
}

impl Statistics {
    /// Negotiations that failed, by where and how: those also whose records were left out. There are only so many pairs.
    pub fn failures(&self) -> impl Iterator<Item = (Stage, OutcomeCode, u64)> {
        self.failures.iter().copied()
    }

    pub(crate) fn failed(&mut self, stage: Stage, code: OutcomeCode) {
        match self.failures.iter_mut().find(|(s, c, _)| (*s, *c) == (stage, code)) {
            Some((_, _, count)) => *count += 1,
            None => self.failures.push((stage, code, 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_classes_that_double() {
        let mut histogram = Histogram::default();
        // One at each bound belongs to that class, one just above to the next.
        for class in 0..Histogram::CLASSES {
            histogram.add(Histogram::bound(class));
            histogram.add(Histogram::bound(class) + Duration::from_nanos(1));
        }
        let mut expected = [2; Histogram::CLASSES + 1];
        (expected[0], expected[Histogram::CLASSES]) = (1, 1);
        assert_eq!(histogram.classes(), expected);
        assert_eq!(histogram.count(), 34);
        // 1 + 2 + ... + 65,536 ms, twice, and 17 ns.
        assert_eq!(histogram.sum(), Duration::from_millis(2 * 131_071) + Duration::from_nanos(17));
    }

    #[test]
    fn failures_are_told_apart_by_stage_and_code() {
        let mut statistics = Statistics::default();
        statistics.failed(Stage::IkeAuth, OutcomeCode::Timeout);
        statistics.failed(Stage::ChildSa, OutcomeCode::Timeout);
        statistics.failed(Stage::IkeAuth, OutcomeCode::Timeout);
        let failures: Vec<_> = statistics.failures().collect();
        let (auth, child) =
            ((Stage::IkeAuth, OutcomeCode::Timeout, 2), (Stage::ChildSa, OutcomeCode::Timeout, 1));
        assert_eq!(failures, [auth, child]);
    }
}
