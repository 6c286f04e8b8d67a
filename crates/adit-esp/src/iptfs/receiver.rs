//! Putting inner packets together again: payloads in the order of their sequence numbers, then packets out of payloads (RFC
//! 9347 2.2.3).
//!
//! This module owns what waits for its turn and the one packet of which a part is still to come, both bounded. It never
//! checks who may send what: every packet it gives out has the length it says, and no more is known of it.
//!
//! Every payload says by its BlockOffset where a packet begins, so whatever came before, lost, forged by a peer or plain
//! nonsense, the next payload is read from there.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::payload::{Block, Header, MAX_PACKET};

/// The receiving half of an IP-TFS tunnel.
#[derive(Debug)]
pub struct Receiver {
    /// The sequence number whose turn it is.
    expected: u64,
    /// The payloads from that one on, as far as they are there; the first never is.
    slots: VecDeque<Option<Vec<u8>>>,
    /// How many payloads there are in them.
    held: usize,
    /// Since when the one whose turn it is has kept others waiting.
    waiting_since: Option<Instant>,
    /// Buffers to be used again.
    spare: Vec<Vec<u8>>,
    window: u16,
    drop_time: Duration,
    partial: Partial,
    counters: ReceiverCounters,
}

/// The packet of which a part is still to come.
#[derive(Debug, Default)]
struct Partial {
    octets: Vec<u8>,
    /// Its length, if that is known from its header or from the BlockOffset of what continued it.
    total: Option<usize>,
}

/// What a [`Receiver`] has met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiverCounters {
    /// Inner packets given out.
    pub packets: u64,
    /// Payloads of padding alone.
    pub padding: u64,
    /// Payloads that did not come, or not in time.
    pub lost: u64,
    /// Payloads that came after their turn, and were dropped.
    pub late: u64,
    /// Payloads without a header that can be read.
    pub malformed: u64,
    /// Data blocks that are neither packet nor padding; what followed them in their payload was dropped with them.
    pub invalid: u64,
    /// Inner packets dropped because a part was missing or did not fit.
    pub incomplete: u64,
}

impl Receiver {
    /// How many payloads wait for one that is missing, if nothing better is known (RFC 9347 2.2.3).
    pub const DEFAULT_WINDOW: u16 = 3;
    /// The widest reorder window. With it, what waits is at most 4 MiB.
    pub const MAX_WINDOW: u16 = 64;

    /// A receiver of an SA whose next sequence number is `next`. Up to `window` payloads wait for one that is missing, for
    /// at most `drop_time`; a window of 0 takes them as they come.
    #[must_use]
    pub fn new(window: u16, drop_time: Duration, next: u64) -> Self {
        Self {
            expected: next,
            slots: VecDeque::new(),
            held: 0,
            waiting_since: None,
            spare: Vec::new(),
            window: window.min(Self::MAX_WINDOW),
            drop_time,
            partial: Partial::default(),
            counters: ReceiverCounters::default(),
        }
    }

    /// Takes the payload of a packet that was authentic and not replayed, and gives out the inner packets that are whole
    /// now, in order.
    pub fn receive(
        &mut self,
        sequence: u64,
        payload: &mut [u8],
        now: Instant,
        deliver: &mut impl FnMut(&mut [u8]),
    ) {
        let Some(ahead) = sequence.checked_sub(self.expected) else {
            // RFC 9347 2.2.3: the window has moved past it.
            self.counters.late += 1;
            return;
        };
        if ahead > u64::from(self.window) {
            self.give_up_before(sequence - u64::from(self.window), deliver);
            self.waiting_since = None;
        }
        if sequence == self.expected {
            self.read(payload, deliver);
            self.slots.pop_front();
            self.expected = self.expected.saturating_add(1);
            self.go_on(deliver);
            self.waiting_since = (self.held > 0).then_some(now);
        } else {
            self.hold((sequence - self.expected) as usize, payload);
            self.waiting_since.get_or_insert(now);
        }
    }

    /// When [`expire`](Self::expire) is to be called, if nothing arrives before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        Some(self.waiting_since? + self.drop_time)
    }

    /// Gives up what is missing, if others have waited for it for too long.
    pub fn expire(&mut self, now: Instant, deliver: &mut impl FnMut(&mut [u8])) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        let missing = self.slots.iter().take_while(|slot| slot.is_none()).count();
        self.give_up_before(self.expected.saturating_add(missing as u64), deliver);
        self.waiting_since = (self.held > 0).then_some(now);
    }

    /// What it has met.
    #[must_use]
    pub fn counters(&self) -> ReceiverCounters {
        self.counters
    }

    /// Octets that it keeps.
    #[must_use]
    pub fn memory(&self) -> usize {
        let buffers = self.slots.iter().flatten().chain(&self.spare);
        buffers.map(Vec::capacity).sum::<usize>() + self.partial.octets.capacity()
    }

    /// Keeps the payload whose turn comes after `ahead` others, which are at most as many as the window has.
    fn hold(&mut self, ahead: usize, payload: &[u8]) {
        while self.slots.len() <= ahead {
            self.slots.push_back(None);
        }
        let Some(slot) = self.slots.get_mut(ahead) else { return };
        // The replay window lets a number pass once. Where there is none, the first one stays.
        if slot.is_some() {
            self.counters.late += 1;
            return;
        }
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(payload);
        *slot = Some(buffer);
        self.held += 1;
    }

    /// It is the turn of `sequence`: what is there of those before it is read, and the others are lost.
    fn give_up_before(&mut self, sequence: u64, deliver: &mut impl FnMut(&mut [u8])) {
        while self.held > 0 && self.expected < sequence {
            match self.slots.pop_front().flatten() {
                Some(buffer) => self.read_held(buffer, deliver),
                None => self.lose(1),
            }
            self.expected += 1;
        }
        if self.expected < sequence {
            self.lose(sequence - self.expected);
            self.expected = sequence;
            self.slots.clear();
        }
        self.go_on(deliver);
    }

    /// Reads what has waited and whose turn it is now.
    fn go_on(&mut self, deliver: &mut impl FnMut(&mut [u8])) {
        while let Some(buffer) = self.slots.front_mut().and_then(Option::take) {
            self.slots.pop_front();
            self.read_held(buffer, deliver);
            self.expected = self.expected.saturating_add(1);
        }
    }

    fn read_held(&mut self, mut buffer: Vec<u8>, deliver: &mut impl FnMut(&mut [u8])) {
        self.held -= 1;
        self.read(&mut buffer, deliver);
        self.spare.push(buffer);
    }

    /// A packet cannot be continued over what is lost (RFC 9347 2.2.3).
    fn lose(&mut self, payloads: u64) {
        self.counters.lost += payloads;
        self.drop_partial();
    }

    /// Reads the payload whose turn it is.
    fn read(&mut self, payload: &mut [u8], deliver: &mut impl FnMut(&mut [u8])) {
        let Ok((header, blocks)) = Header::decode(payload) else {
            self.counters.malformed += 1;
            self.drop_partial();
            return;
        };
        let offset = usize::from(header.block_offset);
        if offset == 0 && (blocks.is_empty() || Block::at(blocks) == Block::Pad) {
            // RFC 9347 2.2.3: padding alone may stand between the parts of a packet.
            self.counters.padding += 1;
            return;
        }
        let (continuation, blocks) = blocks.split_at_mut(offset.min(blocks.len()));
        self.continue_partial(continuation, offset, deliver);
        self.read_blocks(blocks, deliver);
    }

    /// The packet that had begun has `offset` octets more, and these are the first of them.
    fn continue_partial(&mut self, octets: &[u8], offset: usize, deliver: &mut impl FnMut(&mut [u8])) {
        let Partial { octets: partial, total } = &mut self.partial;
        if partial.is_empty() {
            return;
        }
        // RFC 9347 2.2.3: where BlockOffset and the packet's own length do not agree, the packet is dropped. What has been
        // said once counts, so every part brings the end nearer.
        let end = partial.len() + offset;
        if end > MAX_PACKET || *total.get_or_insert(end) != end {
            return self.drop_partial();
        }
        partial.extend_from_slice(octets);
        match Block::at(partial) {
            Block::Packet(len) if len != end => self.drop_partial(),
            Block::Packet(len) if len == partial.len() => {
                self.counters.packets += 1;
                deliver(partial);
                self.partial.clear();
            }
            Block::Unknown if partial.len() < end => {}
            Block::Packet(_) => {}
            _ => self.drop_partial(),
        }
    }

    /// Reads data blocks from the start of one.
    fn read_blocks(&mut self, mut blocks: &mut [u8], deliver: &mut impl FnMut(&mut [u8])) {
        while !blocks.is_empty() {
            match Block::at(blocks) {
                Block::Packet(len) if len <= blocks.len() => {
                    let (packet, rest) = blocks.split_at_mut(len);
                    self.counters.packets += 1;
                    deliver(packet);
                    blocks = rest;
                }
                Block::Packet(len) => return self.partial.begin(blocks, Some(len)),
                Block::Unknown => return self.partial.begin(blocks, None),
                Block::Pad => return,
                Block::Invalid => {
                    self.counters.invalid += 1;
                    return;
                }
            }
        }
    }

    fn drop_partial(&mut self) {
        if !self.partial.octets.is_empty() {
            self.counters.incomplete += 1;
            self.partial.clear();
        }
    }
}

impl Partial {
    fn begin(&mut self, octets: &[u8], total: Option<usize>) {
        self.octets.extend_from_slice(octets);
        self.total = total;
    }

    fn clear(&mut self) {
        self.octets.clear();
        self.total = None;
    }
}
