//! What the data plane has counted in all. Some of it only the kernel knows, which is asked on a thread of its own: whoever wants
//! to know waits for it, and the event loop for nobody.
//!
//! It owns who waits. What they are told is the business of `look` and of the command `stats`.

use std::thread;
use std::time::{Duration, Instant};

use adit_net::Stats;
use tokio::sync::mpsc;

use super::{Daemon, commands};
use crate::control::server::Reply;

/// A kernel that takes longer is told of as it was.
const PATIENCE: Duration = Duration::from_millis(500);

/// What was counted last, and who waits for it to be counted anew.
pub(super) struct Counts {
    pub(super) last: Stats,
    answers: mpsc::UnboundedSender<Stats>,
    /// The kernel is being asked.
    asking: bool,
    /// Clients that want to be told.
    stats: Vec<Reply>,
    /// When those that wait are told what is known.
    pub(super) due: Option<Instant>,
}

impl Counts {
    /// The kernel's answers are sent to `answers`, and come back by [`Daemon::counted`].
    pub(super) fn new(answers: mpsc::UnboundedSender<Stats>) -> Self {
        Self { last: Stats::default(), answers, asking: false, stats: Vec::new(), due: None }
    }
}

impl Daemon {
    /// Answers `stats` when it is known what was counted.
    pub(super) fn tell_stats(&mut self, now: Instant, reply: Reply) {
        self.counts.stats.push(reply);
        self.count(now);
    }

    /// Finds out what was counted, for [`Daemon::look_now`] and whoever else waits.
    pub(super) fn count(&mut self, now: Instant) {
        self.counts.due.get_or_insert(now + PATIENCE);
        if self.counts.asking {
            return;
        }
        let (count, answers) = (self.backend.count(), self.counts.answers.clone());
        let ask = move || {
            // Nobody takes it once the daemon is stopping.
            let _ = answers.send(count());
        };
        match thread::Builder::new().name("adit-counts".into()).spawn(ask) {
            Ok(_) => self.counts.asking = true,
            Err(error) => {
                tracing::warn!("the kernel's counters cannot be read: {error}");
                self.tell_counts(now);
            }
        }
    }

    /// The kernel has answered.
    pub(super) fn counted(&mut self, now: Instant, stats: Stats) {
        self.counts.asking = false;
        self.counts.last = stats;
        self.tell_counts(now);
    }

    /// Tells those that wait what is known, if it is time.
    pub(super) fn tell_counts_in_time(&mut self, now: Instant) {
        if self.counts.due.is_some_and(|due| due <= now) {
            self.tell_counts(now);
        }
    }

    fn tell_counts(&mut self, now: Instant) {
        self.counts.due = None;
        for reply in std::mem::take(&mut self.counts.stats) {
            commands::answer_stats(self, now, reply);
        }
        self.look_now(now);
    }
}
