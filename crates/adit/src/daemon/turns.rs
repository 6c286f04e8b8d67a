//! How the event loop takes turns: datagrams, commands, lists and the snapshot, each for a bounded time, however much of
//! another waits.
//!
//! It owns the order and the times, and decides nothing else. Handshakes come first: while datagrams wait, whoever is told at
//! length gets a small part of the time.

use std::time::{Duration, Instant};

use adit_net::NetEvent;
use tokio::sync::mpsc;

use super::Daemon;
use crate::control::server::Request;

/// How long datagrams, and then commands, are taken before others have their turn. One that takes longer is not interrupted.
const TURN: Duration = Duration::from_millis(1);

/// How long one bit of a list, or of a snapshot, may take.
pub(super) const BIT: Duration = Duration::from_micros(500);

/// The same while datagrams wait.
const ASIDE: Duration = Duration::from_micros(100);

impl Daemon {
    /// Gives everybody who waits a turn; `true` if somebody waits still. Then sockets are to be read and written before the
    /// next call: clients wait for that as well.
    pub(super) fn take_turns(
        &mut self,
        events: &mut mpsc::UnboundedReceiver<NetEvent>,
        mut request: impl FnMut() -> Option<Request>,
        clock: impl Fn() -> Instant,
    ) -> bool {
        let mut now = clock();
        let end = now + TURN;
        while now < end
            && let Ok(event) = events.try_recv()
        {
            self.net_event(now, event);
            self.drain(now);
            now = clock();
        }
        let datagrams_wait = !events.is_empty();
        self.bit = if datagrams_wait { ASIDE } else { BIT };
        let end = now + TURN;
        let mut commands_wait = true;
        while commands_wait && now < end {
            match request() {
                Some(request) => {
                    self.command(now, request);
                    self.drain(now);
                    now = clock();
                }
                None => commands_wait = false,
            }
        }
        self.list_on(now);
        self.look_on(now);
        datagrams_wait || commands_wait || self.listings.are_ready() || self.looks.are_made()
    }
}
