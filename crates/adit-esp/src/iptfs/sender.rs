//! Filling payloads: inner packets wait in one run of octets and leave in the order they came (RFC 9347 2.2 and 2.4).
//!
//! This module owns the queue and what of its first packet has left. It never says when a payload leaves or how long it is.

use std::collections::VecDeque;

use super::payload::{Block, Header, LENGTH_KNOWN};

/// The sending half of an IP-TFS tunnel: a queue of inner packets, bounded in octets.
#[derive(Debug)]
pub struct Sender {
    /// The packets that wait, one after the other; the first one whole, even if part of it has left.
    octets: VecDeque<u8>,
    /// Their lengths.
    lengths: VecDeque<u16>,
    /// Octets of the first one that have left.
    sent: usize,
    limit: usize,
    fragments: bool,
}

/// What went into a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Octets of the payload that are not padding, its header among them.
    pub len: usize,
    /// Inner packets that left with it to their last octet.
    pub packets: u64,
    /// Octets of those packets.
    pub octets: u64,
    /// Packets that were dropped: too long for the payload, and the peer takes no fragments.
    pub unfit: u64,
}

/// Why a packet was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// There is no room for it.
    #[error("the queue is full")]
    Full,
    /// It is no IP packet, or not as long as it says: the receiver could not find its end.
    #[error("not an IP packet of the length it says")]
    NotIp,
}

impl Sender {
    /// An empty queue of at most `limit` octets. Packets are divided among payloads if the peer takes `fragments`.
    #[must_use]
    pub fn new(limit: usize, fragments: bool) -> Self {
        Self { octets: VecDeque::new(), lengths: VecDeque::new(), sent: 0, limit, fragments }
    }

    /// Puts a packet at the end of the queue.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn push(&mut self, packet: &[u8]) -> Result<(), Refused> {
        // RFC 9347 6.1: BlockOffset has 16 bits, so a packet that is longer could not be continued.
        let len = match (Block::at(packet), u16::try_from(packet.len())) {
            (Block::Packet(len), Ok(own)) if len == packet.len() => own,
            _ => return Err(Refused::NotIp),
        };
        if self.octets.len() + packet.len() > self.limit {
            return Err(Refused::Full);
        }
        self.octets.extend(packet);
        self.lengths.push_back(len);
        Ok(())
    }

    /// Fills all of `payload`, which is at least as long as a [`Header`]: with what waits, then with padding.
    pub fn fill(&mut self, payload: &mut [u8]) -> Filled {
        let mut filled = Filled { len: Header::LEN, ..Filled::default() };
        let Some((header, blocks)) = payload.split_first_chunk_mut() else { return Filled::default() };
        let left =
            self.lengths.front().filter(|_| self.sent > 0).map_or(0, |len| usize::from(*len) - self.sent);
        *header = Header::encode(left as u16);

        let mut room = blocks;
        while let Some(len) = self.lengths.front().copied().map(usize::from) {
            let part = (len - self.sent).min(room.len());
            let whole = self.sent + part == len;
            let first = filled.len == Header::LEN;
            if !whole && !self.fragments {
                if !first {
                    break;
                }
                // It fits no payload of this size. Who queued it has known a larger one.
                self.take_first();
                filled.unfit += 1;
                continue;
            }
            // A first part that does not say how long its packet is: padding costs no more, and every receiver can read it.
            if !whole && self.sent == 0 && part < LENGTH_KNOWN && !first {
                break;
            }
            let (now, later) = std::mem::take(&mut room).split_at_mut(part);
            copy_out(&self.octets, self.sent, now);
            room = later;
            filled.len += part;
            if !whole {
                self.sent += part;
                break;
            }
            self.take_first();
            filled.packets += 1;
            filled.octets += len as u64;
        }
        // RFC 9347 6.1.3: a zero says that the rest is padding, and nothing is asked of the rest.
        room.fill(0);
        filled
    }

    fn take_first(&mut self) {
        let len = self.lengths.pop_front().unwrap_or(0);
        self.octets.drain(..usize::from(len));
        self.sent = 0;
    }

    /// Takes all packets out, for another SA to send. That of which a part has left is whole, because no packet may be divided
    /// between two SAs (RFC 9347 2.2.3): the receiver drops the part.
    pub fn take(&mut self) -> Vec<Vec<u8>> {
        self.sent = 0;
        let lengths = std::mem::take(&mut self.lengths);
        lengths.into_iter().map(|len| self.octets.drain(..usize::from(len)).collect()).collect()
    }

    /// May packets be divided?
    #[must_use]
    pub fn fragments(&self) -> bool {
        self.fragments
    }

    /// Octets that wait, without those that have left.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.octets.len() - self.sent
    }
}

/// Copies as many octets of `from`, starting at `at`, as `to` has.
fn copy_out(from: &VecDeque<u8>, at: usize, to: &mut [u8]) {
    let (first, second) = from.as_slices();
    let (first, second) = match first.get(at..) {
        Some(first) => (first, second),
        None => (second.get(at - first.len()..).unwrap_or_default(), &[][..]),
    };
    let (head, tail) = to.split_at_mut(first.len().min(to.len()));
    for (place, octets) in [(head, first), (tail, second)] {
        if let Some(octets) = octets.get(..place.len()) {
            place.copy_from_slice(octets);
        }
    }
}
