//! What the service manager is told: that the daemon is ready, reads its configuration again, ends, and that its event loop
//! still turns.
//!
//! Without a service manager nothing is told, and nothing depends on it.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The line to the service manager.
#[derive(Debug)]
pub(super) struct Supervisor {
    /// How often it wants to hear from the event loop, and when next.
    watchdog: Option<(Duration, Instant)>,
}

impl Supervisor {
    pub(super) fn new(now: Instant) -> Self {
        // Twice as often as needed: a loop that is busy for a while is no loop that stands.
        let interval = sd_notify::watchdog_enabled().map(|interval| interval / 2);
        let interval = interval.filter(|interval| !interval.is_zero());
        Self { watchdog: interval.map(|interval| (interval, now)) }
    }

    pub(super) fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.watchdog.map(|(_, due)| due)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some((interval, due)) = &mut self.watchdog
            && *due <= now
        {
            *due = now + *interval;
            tell(&[NotifyState::Watchdog]);
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager cannot be told: {error}");
    }
}
