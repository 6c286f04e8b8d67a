//! Lists that are told bit by bit: between two bits the event loop does everything else, and a client that does not read is
//! waited for by nobody.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Daemon;
use crate::control::server::{Hub, Reply};
use crate::control::vici::Message;

/// How long one bit may take.
const BIT: Duration = Duration::from_micros(500);

/// Lists under way, the one whose turn it is first.
#[derive(Default)]
pub(super) struct Listings(VecDeque<Listing>);

struct Listing {
    reply: Reply,
    tell: Box<Tell>,
}

/// Tells about the next item; `false` if there is none.
type Tell = dyn FnMut(&mut Daemon, &Reply, Instant) -> bool;

impl Listings {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns when there is something to tell to somebody who reads.
    pub(super) async fn due(&self, hub: &Hub) {
        while self.0.iter().all(|listing| listing.reply.is_busy() && !listing.reply.is_closed()) {
            match self.is_empty() {
                true => std::future::pending().await,
                false => hub.read_on().await,
            }
        }
        // Whoever else has something to do comes first.
        tokio::task::yield_now().await;
    }
}

impl Daemon {
    /// Tells a client about items, one at a time, as they are when their turn comes; then comes an empty answer.
    pub(super) fn list<T: 'static>(
        &mut self,
        now: Instant,
        reply: Reply,
        items: Vec<T>,
        tell: impl Fn(&mut Self, &Reply, &T, Instant) + 'static,
    ) {
        let mut items = items.into_iter();
        let tell = move |daemon: &mut Self, reply: &Reply, now| {
            let item = items.next();
            item.inspect(|item| tell(daemon, reply, item, now)).is_some()
        };
        // The first bit at once.
        self.listings.0.push_front(Listing { reply, tell: Box::new(tell) });
        self.list_on(now);
    }

    /// Tells one bit of one list.
    pub(super) fn list_on(&mut self, now: Instant) {
        let ready = |listing: &Listing| !listing.reply.is_busy() || listing.reply.is_closed();
        let Some(at) = self.listings.0.iter().position(ready) else { return };
        let Some(mut listing) = self.listings.0.remove(at) else { return };
        if listing.reply.is_closed() {
            return;
        }
        let begun = Instant::now();
        while !listing.reply.is_busy() {
            if !(listing.tell)(self, &listing.reply, now) {
                return listing.reply.respond(Message::new());
            }
            if begun.elapsed() > BIT {
                break;
            }
        }
        self.listings.0.push_back(listing);
    }
}
