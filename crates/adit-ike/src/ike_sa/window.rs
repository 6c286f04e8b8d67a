//! Message IDs and repetition, window size 1 (RFC 7296 2.1 to 2.3).
//!
//! Our request is repeated bit for bit until its response comes; a peer's request that is repeated bit for bit gets
//! the stored response bit for bit.

use std::time::{Duration, Instant};

use tracing::debug;

use super::Core;
use crate::config::Retransmission;
use crate::shared::Shared;

/// A request of ours without a response.
#[derive(Debug)]
pub(crate) struct Outstanding {
    pub(crate) message_id: u32,
    datagram: Vec<u8>,
    repetitions: u32,
    next: Instant,
    wait: Duration,
    most: Duration,
    give_up: Instant,
}

/// What became of an outstanding request at its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Waiting,
    GivenUp,
}

impl Outstanding {
    /// Sends a request for the first time.
    pub(crate) fn send(
        core: &mut Core,
        cx: &mut Shared,
        message_id: u32,
        datagram: Vec<u8>,
        schedule: Retransmission,
    ) -> Self {
        core.send(cx, datagram.clone());
        Self {
            message_id,
            datagram,
            repetitions: 0,
            next: cx.now + schedule.first,
            wait: schedule.first,
            most: schedule.most,
            give_up: cx.now + schedule.give_up,
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.next.min(self.give_up)
    }

    /// Repeats it if it is time to.
    pub(crate) fn on_timeout(&mut self, core: &mut Core, cx: &mut Shared) -> Fate {
        if cx.now >= self.give_up {
            return Fate::GivenUp;
        }
        if cx.now >= self.next {
            self.repetitions += 1;
            cx.counters.retransmissions += 1;
            debug!(
                message_id = self.message_id,
                repetition = self.repetitions,
                "no response yet, sending again"
            );
            core.send(cx, self.datagram.clone());
            self.wait = (self.wait * 2).min(self.most).max(Duration::from_millis(1));
            self.next = cx.now + self.wait;
        }
        Fate::Waiting
    }

    /// Gives it up at `at` if not before.
    pub(crate) fn give_up_by(&mut self, at: Instant) {
        self.give_up = self.give_up.min(at);
    }

    /// How often it was sent.
    pub(crate) fn times_sent(&self) -> u32 {
        self.repetitions + 1
    }

    pub(crate) fn datagram(&self) -> &[u8] {
        &self.datagram
    }
}

/// The last request of the peer and what we answered.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) message_id: u32,
    request: Vec<u8>,
    response: Vec<u8>,
}

impl Answered {
    pub(crate) fn new(message_id: u32, request: &[u8], response: Vec<u8>) -> Self {
        Self { message_id, request: request.to_vec(), response }
    }

    /// The stored response, if this is the same request once more. A different request with the same Message ID is
    /// not one, and gets nothing.
    pub(crate) fn repeat(&self, message_id: u32, datagram: &[u8]) -> Option<&[u8]> {
        (message_id == self.message_id && datagram == self.request).then_some(self.response.as_slice())
    }
}
