//! IP-TFS in the model (RFC 9347): packets that wait for payloads, payloads that wait for others, and the packet of which a part is
//! still to come.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::packet;
use crate::backend::Iptfs;
use crate::counters::DropCause;

pub(super) struct Stream {
    settings: Iptfs,
    pub(super) fragments: bool,
    /// Octets of a payload.
    pub(super) len: usize,
    /// What waits, as it leaves and as it came; of the first so many octets have left.
    waiting: VecDeque<(Vec<u8>, Vec<u8>)>,
    sent: usize,
    since: Option<Instant>,
    /// Of payloads that leave by the time.
    next: Option<Instant>,
    // The other way.
    expected: u64,
    held: BTreeMap<u64, Vec<u8>>,
    held_since: Option<Instant>,
    part: Vec<u8>,
    whole: Option<usize>,
}

impl Stream {
    pub(super) fn new(settings: Iptfs, fragments: bool, expected: u64) -> Self {
        Self {
            settings,
            fragments,
            len: 0,
            waiting: VecDeque::new(),
            sent: 0,
            since: None,
            next: None,
            expected,
            held: BTreeMap::new(),
            held_since: None,
            part: Vec::new(),
            whole: None,
        }
    }

    pub(super) fn start(&mut self, now: Instant) {
        self.next = self.settings.interval.map(|_| now);
    }

    pub(super) fn queue(&mut self, packet: Vec<u8>, came: Vec<u8>, now: Instant) -> Result<(), DropCause> {
        let waiting: usize = self.waiting.iter().map(|(packet, _)| packet.len()).sum();
        if waiting + packet.len() > self.settings.queue {
            return Err(DropCause::QueueFull);
        }
        self.waiting.push_back((packet, came));
        if self.settings.interval.is_none() {
            self.since.get_or_insert(now);
        }
        Ok(())
    }

    /// All that waits, as it came.
    pub(super) fn take(&mut self) -> Vec<Vec<u8>> {
        (self.sent, self.since) = (0, None);
        self.waiting.drain(..).map(|(_, came)| came).collect()
    }

    /// Octets that wait.
    fn octets(&self) -> usize {
        self.waiting.iter().map(|(packet, _)| packet.len()).sum::<usize>() - self.sent
    }

    pub(super) fn is_idle(&self) -> bool {
        self.next.is_none() && self.octets() == 0
    }

    pub(super) fn sends_next(&self) -> Option<Instant> {
        let full = self.octets() >= self.len - 4;
        let later = |since| if full { since } else { since + self.settings.init_delay };
        self.next.or_else(|| self.since.map(later))
    }

    /// How many payloads leave now, at the most.
    pub(super) fn due(&mut self, now: Instant) -> usize {
        if let (Some(next), Some(interval)) = (&mut self.next, self.settings.interval) {
            if now < *next {
                return 0;
            }
            while *next <= now {
                *next += interval;
            }
            return 1;
        }
        match self.since {
            Some(since) if since + self.settings.init_delay <= now => usize::MAX,
            _ => self.octets() / (self.len - 4),
        }
    }

    pub(super) fn left(&mut self, now: Instant) {
        self.since = (self.next.is_none() && self.octets() > 0).then_some(now);
    }

    /// A payload: with it how many packets have left, their octets, and how many fit none.
    pub(super) fn fill(&mut self) -> (Vec<u8>, u64, usize, u64) {
        let len = if self.next.is_some() { self.len } else { self.len.min(4 + self.octets()) };
        let left = if self.sent > 0 { self.waiting[0].0.len() - self.sent } else { 0 };
        let mut payload = vec![0, 0, (left >> 8) as u8, left as u8];
        let (mut packets, mut octets, mut unfit) = (0, 0, 0);
        while let Some((packet, _)) = self.waiting.front() {
            let part = &packet[self.sent..packet.len().min(self.sent + len - payload.len())];
            let ends = self.sent + part.len() == packet.len();
            if !ends && !self.fragments {
                if payload.len() > 4 {
                    break;
                }
                self.waiting.pop_front();
                unfit += 1;
                continue;
            }
            // A part that does not show its length follows nothing.
            if !ends && self.sent == 0 && part.len() < 6 && payload.len() > 4 {
                break;
            }
            payload.extend_from_slice(part);
            if !ends {
                self.sent += part.len();
                break;
            }
            (packets, octets, self.sent) = (packets + 1, octets + packet.len(), 0);
            self.waiting.pop_front();
        }
        payload.resize(len, 0);
        (payload, packets, octets, unfit)
    }

    // Received.

    pub(super) fn expires(&self) -> Option<Instant> {
        self.held_since.map(|since| since + self.settings.drop_time)
    }

    /// The packets that are whole now, and how many payloads are lost.
    pub(super) fn receive(&mut self, sequence: u64, payload: Vec<u8>, now: Instant) -> (Vec<Vec<u8>>, u64) {
        let (mut packets, mut lost) = (Vec::new(), 0);
        let Some(ahead) = sequence.checked_sub(self.expected) else { return (packets, lost) };
        let window = u64::from(self.settings.reorder_window);
        self.held.entry(sequence).or_insert(payload);
        if ahead > window {
            lost = self.give_up(sequence - window, &mut packets);
            self.held_since = None;
        }
        let turn = self.expected;
        self.go_on(&mut packets);
        match self.held.is_empty() {
            true => self.held_since = None,
            false if self.expected > turn => self.held_since = Some(now),
            false => _ = self.held_since.get_or_insert(now),
        }
        (packets, lost)
    }

    pub(super) fn expire(&mut self, now: Instant) -> (Vec<Vec<u8>>, u64) {
        let (mut packets, mut lost) = (Vec::new(), 0);
        if self.expires().is_some_and(|deadline| deadline <= now) {
            let first = self.held.first_key_value().map_or(self.expected, |(first, _)| *first);
            lost = self.give_up(first, &mut packets);
            self.go_on(&mut packets);
            self.held_since = (!self.held.is_empty()).then_some(now);
        }
        (packets, lost)
    }

    /// It is the turn of `next`: what is there of those before is read, the others are lost.
    fn give_up(&mut self, next: u64, packets: &mut Vec<Vec<u8>>) -> u64 {
        let mut lost = 0;
        while self.expected < next {
            let first = self.held.first_key_value().map_or(next, |(first, _)| next.min(*first));
            if first > self.expected {
                // Nothing goes on over what is lost.
                self.part.clear();
                lost += first - self.expected;
                self.expected = first;
            } else if let Some((_, payload)) = self.held.pop_first() {
                self.expected += 1;
                self.read(&payload, packets);
            }
        }
        lost
    }

    fn go_on(&mut self, packets: &mut Vec<Vec<u8>>) {
        while let Some(payload) = self.held.remove(&self.expected) {
            self.expected = self.expected.saturating_add(1);
            self.read(&payload, packets);
        }
    }

    fn read(&mut self, payload: &[u8], packets: &mut Vec<Vec<u8>>) {
        let header = match payload.first() {
            Some(0) => 4,
            Some(1) => 24,
            _ => usize::MAX,
        };
        let Some(mut blocks) = payload.get(header..) else { return self.part.clear() };
        let offset = usize::from(packet::word(payload, 2));
        // Padding alone may stand between the parts of a packet.
        if offset == 0 && blocks.first().is_none_or(|first| first >> 4 == 0) {
            return;
        }
        let (more, rest) = blocks.split_at(offset.min(blocks.len()));
        blocks = rest;
        if !self.part.is_empty() {
            let whole = self.part.len() + offset;
            let agreed = self.whole.is_none_or(|before| before == whole) && whole <= 65_575;
            self.whole = Some(whole);
            self.part.extend_from_slice(more);
            match said(&self.part) {
                Some(len) if !agreed || len.is_some_and(|len| len != whole) => self.part.clear(),
                None => self.part.clear(),
                Some(_) if self.part.len() < whole => {}
                Some(None) => self.part.clear(),
                Some(Some(_)) => packets.push(std::mem::take(&mut self.part)),
            }
        }
        while !blocks.is_empty() {
            match said(blocks) {
                Some(Some(len)) if len <= blocks.len() => {
                    let (packet, rest) = blocks.split_at(len);
                    packets.push(packet.to_vec());
                    blocks = rest;
                }
                Some(whole) => {
                    (self.part, self.whole) = (blocks.to_vec(), whole);
                    return;
                }
                None => return,
            }
        }
    }
}

/// The length that a packet says it has, if that is there; `None`: it is no packet.
fn said(block: &[u8]) -> Option<Option<usize>> {
    let word = |at: usize| (block.len() >= at + 2).then(|| usize::from(packet::word(block, at)));
    match block[0] >> 4 {
        4 => {
            let header = usize::from(block[0] & 15) * 4;
            (header >= 20 && word(2).is_none_or(|total| total >= header)).then(|| word(2))
        }
        6 => Some(word(4).map(|payload| 40 + payload)),
        _ => None,
    }
}

/// The payload of a peer that goes on with what is `left`, and then has this packet, as far as there is room.
pub(super) fn payload(left: &mut Vec<u8>, packet: &[u8], len: usize) -> Vec<u8> {
    let [high, low] = (left.len() as u16).to_be_bytes();
    left.extend(packet);
    let rest = left.split_off(left.len().min(len));
    [&[0, 0, high, low][..], &std::mem::replace(left, rest)].concat()
}
