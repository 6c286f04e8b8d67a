//! Message IDs and repetition, window size 1 (RFC 7296 2.1 to 2.3).
//!
//! Our request is repeated bit for bit until its response comes, but for probes; a peer's request that is repeated bit for bit gets
//! the stored response bit for bit.

use std::time::{Duration, Instant};

use adit_wire::ikev2::ExchangeType;
use tracing::debug;

use super::{Core, Incoming, Secured};
use crate::config::Retransmission;
use crate::output::NoticeKind;
use crate::shared::Shared;
use crate::tally::Way;

/// A request of ours without a response.
#[derive(Debug)]
pub(crate) struct Outstanding {
    pub(crate) message_id: u32,
    datagrams: Vec<Vec<u8>>,
    repetitions: u32,
    next: Instant,
    wait: Duration,
    most: Duration,
    give_up: Instant,
    /// The next one last.
    others: Vec<Another>,
    /// The form before this one: with the last one it takes turns.
    before: Option<Vec<Vec<u8>>>,
}

/// Another form of a request, taken once it was sent often enough in vain.
#[derive(Debug)]
pub(crate) struct Another {
    /// How often those before it go out.
    pub(crate) after: u32,
    /// And how long each of these waits.
    pub(crate) pace: Duration,
    pub(crate) datagrams: Vec<Vec<u8>>,
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
        datagrams: Vec<Vec<u8>>,
        schedule: Retransmission,
    ) -> Self {
        if let Some(exchange) = exchange(&datagrams) {
            cx.tallies.message(&core.connection.name, exchange, Way::Out, false);
        }
        core.send(cx, &datagrams);
        Self {
            message_id,
            datagrams,
            repetitions: 0,
            next: cx.now + schedule.first,
            wait: schedule.first,
            most: schedule.most,
            give_up: cx.now + schedule.give_up,
            others: Vec::new(),
            before: None,
        }
    }

    /// With other forms, the last resort first.
    pub(crate) fn with(mut self, others: Vec<Another>) -> Self {
        if let Some(another) = others.last() {
            self.next = self.next - self.wait + another.pace;
        }
        Self { others, ..self }
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
            if let Some(exchange) = exchange(&self.datagrams) {
                let message = format!(
                    "no answer to a request after it was sent {} times: it is sent again",
                    self.repetitions
                );
                cx.notice(core.remote.ip(), || core.notice(NoticeKind::SentAgain, exchange, message));
            }
            debug!(
                message_id = self.message_id,
                repetition = self.repetitions,
                "no response yet, sending again"
            );
            if let Some(another) = self.others.pop_if(|another| self.repetitions >= another.after) {
                self.before = Some(std::mem::replace(&mut self.datagrams, another.datagrams));
            } else if let Some(before) = self.before.as_mut().filter(|_| self.others.is_empty()) {
                std::mem::swap(before, &mut self.datagrams);
            }
            core.send(cx, &self.datagrams);
            let pace = self.others.last().map(|another| another.pace);
            let wait = if pace.is_none() { self.wait * 2 } else { self.wait };
            self.wait = wait.min(self.most).max(Duration::from_millis(1));
            self.next = cx.now + pace.unwrap_or(self.wait);
        }
        Fate::Waiting
    }

    /// Starts over on another path: it is sent at once, and has all its time again.
    pub(crate) fn renew(&mut self, now: Instant, schedule: Retransmission) {
        self.next = now;
        self.wait = schedule.first / 2;
        self.give_up = now + schedule.give_up;
    }

    /// Gives it up at `at` if not before.
    pub(crate) fn give_up_by(&mut self, at: Instant) {
        self.give_up = self.give_up.min(at);
    }

    /// Was it sent in its first form only?
    pub(crate) fn is_first_form(&self) -> bool {
        self.before.is_none()
    }

    /// How often it was sent.
    pub(crate) fn times_sent(&self) -> u32 {
        self.repetitions + 1
    }
}

/// The octet of the exchange type (RFC 7296 3.1).
fn exchange(datagrams: &[Vec<u8>]) -> Option<ExchangeType> {
    datagrams.first()?.get(18).copied().map(ExchangeType)
}

/// The last request of the peer and what we answered.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) message_id: u32,
    /// As it came, or its first fragment.
    request: Vec<u8>,
    response: Vec<Vec<u8>>,
}

impl Answered {
    pub(crate) fn new(message_id: u32, request: Vec<u8>, response: Vec<Vec<u8>>) -> Self {
        Self { message_id, request, response }
    }

    /// Sends the stored response if this is the same request once more. A different request with the same Message ID
    /// is not one, and gets nothing. Of fragments the first one counts; `secured` knows it even if the peer has cut the
    /// request into others (RFC 7383 2.6.1).
    pub(crate) fn repeat(
        &self,
        core: &mut Core,
        cx: &mut Shared,
        secured: Option<&Secured>,
        m: &Incoming<'_>,
    ) -> bool {
        let header = m.header();
        if header.flags.response || header.message_id != self.message_id {
            return false;
        }
        let fragment = m.message.encrypted.and_then(|e| e.fragment);
        let again = m.datagram == self.request
            || fragment.is_some_and(|f| f.number == 1) && secured.is_some_and(|s| s.is_authentic(m));
        if again {
            cx.counters.repeated_requests += 1;
            cx.notice(m.remote.ip(), || {
                let message = "the peer repeats a request that we have answered: our answer may not reach it";
                core.notice(NoticeKind::ReceivedAgain, header.exchange, message.to_owned())
            });
            core.reply_again(cx, m, &self.response);
        }
        again
    }
}
