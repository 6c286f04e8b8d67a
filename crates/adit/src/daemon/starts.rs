//! Children with `start_action = start`: tried until they have been up once.
//!
//! It owns when the next attempt is due, and never makes one.

use std::time::{Duration, Instant};

use adit_crypto::{Entropy, SystemEntropy};
use adit_ike::RequestId;
use adit_ike::config::Connection;

/// Longest wait between two attempts, before jitter.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The children that are not up yet.
#[derive(Debug, Default)]
pub(super) struct Starts(Vec<Start>);

#[derive(Debug)]
struct Start {
    connection: String,
    child: String,
    failures: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    /// To be tried then.
    Waiting(Instant),
    /// Being tried.
    Running(RequestId),
}

impl Starts {
    /// Everything to start, at once.
    pub(super) fn new(connections: &[Connection], now: Instant) -> Self {
        let starts = connections.iter().flat_map(|connection| {
            connection.children.iter().filter(|child| child.start).map(|child| Start {
                connection: connection.name.clone(),
                child: child.name.clone(),
                failures: 0,
                state: State::Waiting(now),
            })
        });
        Self(starts.collect())
    }

    /// When something is due next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.0.iter().filter_map(|start| match start.state {
            State::Waiting(until) => Some(until),
            State::Running(_) => None,
        });
        waiting.min()
    }

    /// A connection and child to be tried now. The caller says what came of it before it asks again.
    pub(super) fn due(&self, now: Instant) -> Option<(String, String)> {
        let due = |start: &&Start| matches!(start.state, State::Waiting(until) if until <= now);
        self.0.iter().find(due).map(|start| (start.connection.clone(), start.child.clone()))
    }

    /// An attempt is under way.
    pub(super) fn running(&mut self, connection: &str, child: &str, request: RequestId) {
        if let Some(start) = self.of(connection, child) {
            start.state = State::Running(request);
        }
    }

    /// What that request was for.
    pub(super) fn find(&self, request: RequestId) -> Option<(String, String)> {
        let running = |start: &&Start| matches!(start.state, State::Running(own) if own == request);
        self.0.iter().find(running).map(|start| (start.connection.clone(), start.child.clone()))
    }

    /// An attempt failed; returns the wait until the next: 1 s, 2, 4, ... 60, each with a quarter of jitter, so that
    /// gateways that were cut off together do not come back together.
    pub(super) fn failed(&mut self, connection: &str, child: &str, now: Instant) -> Duration {
        let mut octet = [0];
        SystemEntropy.fill(&mut octet);
        let [jitter] = octet;
        let Some(start) = self.of(connection, child) else { return LONGEST_WAIT };
        let wait = Duration::from_secs(1 << start.failures.min(6)).min(LONGEST_WAIT);
        let wait = wait.mul_f64(0.75 + f64::from(jitter) / 510.0);
        start.failures += 1;
        start.state = State::Waiting(now + wait);
        wait
    }

    /// It is up, whoever brought it up.
    pub(super) fn up(&mut self, connection: &str, child: &str) {
        self.forget(connection, child);
    }

    /// It is not to be tried again.
    pub(super) fn forget(&mut self, connection: &str, child: &str) {
        self.0.retain(|start| start.connection != connection || start.child != child);
    }

    /// Nothing that fits is to be tried again: an operator took it down.
    pub(super) fn cancel(&mut self, connection: Option<&str>, child: Option<&str>) {
        let fits = |start: &Start| {
            connection.is_none_or(|name| name == start.connection)
                && child.is_none_or(|name| name == start.child)
        };
        self.0.retain(|start| !fits(start));
    }

    fn of(&mut self, connection: &str, child: &str) -> Option<&mut Start> {
        self.0.iter_mut().find(|start| start.connection == connection && start.child == child)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(now: Instant) -> Starts {
        let start = |child: &str| Start {
            connection: "gw".into(),
            child: child.into(),
            failures: 0,
            state: State::Waiting(now),
        };
        Starts(vec![start("a"), start("b")])
    }

    #[test]
    fn attempts_back_off_until_it_is_up() {
        let mut now = Instant::now();
        let mut starts = starts(now);
        assert_eq!(starts.due(now), Some(("gw".into(), "a".into())));
        starts.running("gw", "a", RequestId(1));
        assert_eq!(starts.due(now), Some(("gw".into(), "b".into())));
        starts.running("gw", "b", RequestId(2));
        assert_eq!((starts.due(now), starts.poll_timeout()), (None, None));
        assert_eq!(starts.find(RequestId(2)), Some(("gw".into(), "b".into())));
        starts.up("gw", "b");
        assert_eq!(starts.find(RequestId(2)), None);
        for nominal in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0] {
            let wait = starts.failed("gw", "a", now);
            assert!((0.75..=1.25).contains(&(wait.as_secs_f64() / nominal)), "{wait:?} for {nominal}");
            assert_eq!(starts.poll_timeout(), Some(now + wait));
            assert_eq!(starts.due(now), None);
            now += wait;
            assert!(starts.due(now).is_some());
            starts.running("gw", "a", RequestId(3));
        }
    }

    #[test]
    fn what_an_operator_takes_down_is_not_started_again() {
        let now = Instant::now();
        for (connection, child, left) in [
            (Some("gw"), None, 0),
            (None, Some("a"), 1),
            (Some("gw"), Some("b"), 1),
            (Some("other"), Some("a"), 2),
        ] {
            let mut starts = starts(now);
            starts.cancel(connection, child);
            assert_eq!(starts.0.len(), left, "{connection:?} {child:?}");
        }
    }
}
