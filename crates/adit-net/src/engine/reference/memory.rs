//! What the model remembers of packets that have come: the sequence numbers of an SA, the ports in first
//! fragments, and how often somebody has been told something.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_esp::Drop;

use super::packet::{self, Parsed};

/// The receiver's window (RFC 4303 3.4.3), as the set of all numbers that have come.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) top: u64,
    /// The number of the packet that was recorded last.
    pub(super) latest: u64,
    size: u64,
    esn: bool,
    /// Down to the lowest of the window; all below have come.
    seen: BTreeSet<u64>,
    all_to: u64,
}

impl Window {
    /// One that goes on after `top`.
    pub(super) fn new(size: u32, esn: bool, top: u64) -> Self {
        Self { top, latest: top, size: size.into(), esn, seen: BTreeSet::new(), all_to: top }
    }

    pub(super) fn check(&self, low: u32) -> Result<u64, Drop> {
        if self.size == 0 {
            return Ok(low.into());
        }
        let sequence = if self.esn { self.whole(low).ok_or(Drop::TooOld)? } else { low.into() };
        // RFC 4303 2.2: the first is 1.
        if sequence == 0 || sequence <= self.top && self.top - sequence >= self.size {
            Err(Drop::TooOld)
        } else if sequence <= self.all_to || self.seen.contains(&sequence) {
            Err(Drop::Replayed)
        } else {
            Ok(sequence)
        }
    }

    /// RFC 4303 A2.2: the one number of these low bits among the 2^32 from the bottom of the window on.
    fn whole(&self, low: u32) -> Option<u64> {
        let bottom = i128::from(self.top) - i128::from(self.size) + 1;
        let near = bottom.div_euclid(1 << 32) * (1 << 32) + i128::from(low);
        u64::try_from(if near < bottom { near + (1 << 32) } else { near }).ok()
    }

    pub(super) fn record(&mut self, sequence: u64) {
        (self.top, self.latest) = (self.top.max(sequence), sequence);
        if self.size > 0 {
            self.seen.insert(sequence);
            while self.seen.first().is_some_and(|first| self.top - first >= self.size) {
                self.seen.pop_first();
            }
        }
    }
}

/// What the first fragments of packets have shown (RFC 4301 7.4), for a minute. There are 256 shelves with room for four each,
/// and who comes takes the place of the oldest.
pub(super) struct FirstFragments {
    secret: u64,
    shelves: Vec<Vec<(Packet, Ports, Instant)>>,
}

type Ports = (Option<u16>, Option<u16>);

/// RFC 791 3.2, and the SA that it comes by, or the device.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Packet {
    from: u32,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    id: u32,
}

impl FirstFragments {
    pub(super) fn new(secret: u64) -> Self {
        Self { secret, shelves: vec![Vec::new(); 256] }
    }

    pub(super) fn complete(&mut self, from: u32, flow: &mut Parsed, now: Instant) -> Result<(), ()> {
        let Some(fragment) = flow.fragment else { return Ok(()) };
        if packet::is_odd_fragment(flow) {
            return Err(());
        }
        let Parsed { source, destination, protocol, .. } = *flow;
        let packet = Packet { from, source, destination, protocol, id: fragment.id };
        let mut hasher = DefaultHasher::new();
        (self.secret, packet).hash(&mut hasher);
        let shelf = &mut self.shelves[hasher.finish() as usize % 256];
        let place = shelf.iter().position(|(other, ..)| *other == packet);
        match (fragment.offset, fragment.more) {
            (0, true) => {
                let entry = (packet, flow.ports, now);
                let oldest = (0..shelf.len()).min_by_key(|place| shelf[*place].2);
                match place.or_else(|| oldest.filter(|_| shelf.len() == 4)) {
                    Some(place) => shelf[place] = entry,
                    None => shelf.push(entry),
                }
            }
            (0, false) => {}
            _ => {
                if let Some((_, ports, since)) = place.map(|place| shelf[place])
                    && now - since < Duration::from_secs(60)
                {
                    flow.ports = ports;
                }
            }
        }
        Ok(())
    }
}

/// How many things have been allowed since when.
#[derive(Clone, Copy, Default)]
pub(super) struct Allowed(Option<(Instant, u32)>);

impl Allowed {
    /// Is it one of so many in a second?
    pub(super) fn one_of(&mut self, most: u32, now: Instant) -> bool {
        let (_, count) = match &mut self.0 {
            Some(allowed) if now - allowed.0 < Duration::from_secs(1) => allowed,
            allowed => allowed.insert((now, 0)),
        };
        *count += 1;
        *count <= most
    }
}
