//! Lists that are told bit by bit: between two bits the event loop does everything else, and a client that does not read is
//! waited for by nobody.

use std::collections::VecDeque;
use std::time::Instant;

use super::Daemon;
use crate::control::server::{Hub, Reply};
use crate::control::vici::Message;

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

    /// Is there something to tell to somebody who reads?
    pub(super) fn are_ready(&self) -> bool {
        self.0.iter().any(Listing::is_ready)
    }

    /// Returns when there is.
    pub(super) async fn ready(&self, hub: &Hub) {
        while !self.are_ready() {
            match self.is_empty() {
                true => std::future::pending().await,
                false => hub.read_on().await,
            }
        }
    }
}

impl Listing {
    /// Whoever has gone is ready to be forgotten.
    fn is_ready(&self) -> bool {
        !self.reply.is_busy() || self.reply.is_closed()
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
        let Some(at) = self.listings.0.iter().position(Listing::is_ready) else { return };
        let Some(mut listing) = self.listings.0.remove(at) else { return };
        if listing.reply.is_closed() {
            return;
        }
        let begun = Instant::now();
        while !listing.reply.is_busy() {
            if !(listing.tell)(self, &listing.reply, now) {
                return listing.reply.respond(Message::new());
            }
            if begun.elapsed() > self.bit {
                break;
            }
        }
        self.listings.0.push_back(listing);
    }
}
