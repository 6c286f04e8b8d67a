//! Copies of packets for whoever wants to look into the tunnel: the inner ones as they pass the TUN device, the outer ones
//! with their headers, and why some went no further. It never writes a key, and never holds a packet up: what the reader does
//! not take in time is left out and counted.
//!
//! Each worker has an end of its own, and a line of bursts to the reader as between workers (see the module `handoff`). A
//! packet is copied before anything alters it, and kept or left out when its fate is known. Without a tap a worker has
//! nothing of this but a field that says so. Once the reader has gone, a worker lets go of its end with its next packets.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rtrb::{Consumer, Producer, RingBuffer};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::Error;
use crate::counters::Count;
use crate::worker::Wake;

/// What a tap is to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapFilter {
    /// Inner packets.
    pub inner: bool,
    /// Outer packets.
    pub outer: bool,
    /// Only packets of SAs and policies of this connection, or of this child of one (`connection/child`); `None`: all.
    pub name: Option<String>,
    /// Octets of each packet.
    pub snaplen: usize,
}

/// On which side of the gateway's work a packet was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// As it passes the TUN device: not yet translated and clamped on the way out, both on the way in.
    Inner,
    /// ESP with its outer headers. They are made from what the sockets say, not copied: identification, flow label and the
    /// like are 0, and so is DF of what arrives.
    Outer,
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the peer.
    Inbound,
    /// To the peer.
    Outbound,
}

/// A packet, as a tap shows it.
#[derive(Clone, Copy, Debug)]
pub struct TapPacket<'a> {
    /// When it was handled, to the accuracy of one batch.
    pub at: SystemTime,
    /// Inside or outside.
    pub layer: Layer,
    /// Where to.
    pub direction: Direction,
    /// The policy of its SA; empty if it is nobody's.
    pub name: &'a str,
    /// The SPI of its SA.
    pub spi: Option<u32>,
    /// Why it went no further.
    pub dropped: Option<&'static str>,
    /// How long it was.
    pub len: usize,
    /// It, from its IP header on, as far as was asked for.
    pub octets: &'a [u8],
}

/// The end of a tap where packets come out. Dropping it closes the tap.
pub struct TapReader {
    workers: Vec<Entrance>,
    ready: Wake,
    _alive: Arc<()>,
}

impl TapReader {
    /// Hands what has come to `each`, waiting at most `patience` for the first packets. Returns how many.
    ///
    /// # Errors
    /// The data plane has stopped.
    pub fn read(&mut self, patience: Duration, mut each: impl FnMut(&TapPacket<'_>)) -> Result<usize, Error> {
        let timeout = Timespec::try_from(patience).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let mut fds = [PollFd::new(&self.ready, PollFlags::IN)];
        // Interrupted: there is nothing yet.
        if rustix::event::poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready > 0) {
            self.ready.clear();
        }
        let mut count = 0;
        let mut working = false;
        for worker in &mut self.workers {
            working |= !worker.full.is_abandoned();
            while let Ok(mut burst) = worker.full.pop() {
                count += burst.packets().inspect(|packet| each(packet)).count();
                burst.clear();
                // If the line back is full, the worker has enough.
                let _ = worker.empty.push(burst);
            }
        }
        if working || count > 0 { Ok(count) } else { Err(Error::Stopped) }
    }

    /// How many inner, and how many outer packets were left out because they were not taken in time.
    #[must_use]
    pub fn lost(&self) -> [u64; 2] {
        [0, 1].map(|layer| {
            self.workers.iter().filter_map(|worker| worker.lost.get(layer)).map(Count::read).sum()
        })
    }
}

impl fmt::Debug for TapReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TapReader").field("workers", &self.workers.len()).finish_non_exhaustive()
    }
}

/// Bursts under way to the reader from each worker, and the octets and packets after which one is full.
const LINE: usize = 32;
const FULL: usize = 256 << 10;
const MOST: usize = 2048;

struct Entrance {
    full: Consumer<Burst>,
    empty: Producer<Burst>,
    lost: Arc<[Count; 2]>,
}

/// Packets in their order.
#[derive(Default)]
struct Burst {
    octets: Vec<u8>,
    records: Vec<Record>,
}

/// A packet in [`Burst::octets`], with its name behind it.
struct Record {
    at: SystemTime,
    layer: Layer,
    direction: Direction,
    spi: Option<u32>,
    dropped: Option<&'static str>,
    len: usize,
    kept: usize,
    name: usize,
}

impl Burst {
    fn packets(&self) -> impl Iterator<Item = TapPacket<'_>> {
        let mut rest = &self.octets[..];
        self.records.iter().map_while(move |record| {
            let (octets, more) = rest.split_at_checked(record.kept)?;
            let (name, more) = more.split_at_checked(record.name)?;
            rest = more;
            Some(TapPacket {
                at: record.at,
                layer: record.layer,
                direction: record.direction,
                name: std::str::from_utf8(name).unwrap_or_default(),
                spi: record.spi,
                dropped: record.dropped,
                len: record.len,
                octets,
            })
        })
    }

    fn is_full(&self) -> bool {
        self.octets.len() >= FULL || self.records.len() >= MOST
    }

    fn clear(&mut self) {
        self.octets.clear();
        self.records.clear();
    }
}

/// A worker's end of a tap.
pub(crate) struct Tap {
    filter: TapFilter,
    start: (Instant, SystemTime),
    filling: Burst,
    full: Producer<Burst>,
    empty: Consumer<Burst>,
    ready: Wake,
    lost: Arc<[Count; 2]>,
    /// What was [noted](Self::note) and is not [settled](Self::settle) yet.
    noted: Burst,
}

/// What a packet is to be noted as.
#[derive(Clone, Copy)]
pub(crate) struct Sight {
    pub(crate) layer: Layer,
    pub(crate) direction: Direction,
    pub(crate) now: Instant,
}

/// A reader and an end for each of so many workers.
pub(crate) fn open(
    filter: &TapFilter,
    workers: usize,
    ready: Wake,
) -> (TapReader, Vec<Tap>, std::sync::Weak<()>) {
    let alive = Arc::new(());
    let weak = Arc::downgrade(&alive);
    let start = (Instant::now(), SystemTime::now());
    let ends = (0..workers).map(|_| {
        let (full, entrance) = RingBuffer::new(LINE);
        let (back, empty) = RingBuffer::new(LINE);
        let lost = Arc::<[Count; 2]>::default();
        let tap = Tap {
            filter: filter.clone(),
            start,
            filling: Burst::default(),
            full,
            empty,
            ready: ready.clone(),
            lost: Arc::clone(&lost),
            noted: Burst::default(),
        };
        (Entrance { full: entrance, empty: back, lost }, tap)
    });
    let (entrances, taps) = ends.unzip();
    (TapReader { workers: entrances, ready, _alive: alive }, taps, weak)
}

impl Tap {
    fn wants(&self, layer: Layer) -> bool {
        match layer {
            Layer::Inner => self.filter.inner,
            Layer::Outer => self.filter.outer,
        }
    }

    /// Copies a packet, in parts, whose fate is still open.
    pub(crate) fn note(&mut self, sight: Sight, parts: &[&[u8]]) {
        let Sight { layer, direction, now } = sight;
        if !self.wants(layer) {
            return;
        }
        let (instant, time) = self.start;
        let at = time + now.saturating_duration_since(instant);
        let before = self.noted.octets.len();
        let mut len = 0;
        for part in parts {
            let room = self.filter.snaplen.saturating_sub(len);
            self.noted.octets.extend_from_slice(part.get(..room).unwrap_or(part));
            len += part.len();
        }
        let kept = self.noted.octets.len() - before;
        let record = Record { at, layer, direction, spi: None, dropped: None, len, kept, name: 0 };
        self.noted.records.push(record);
    }

    /// Of what was noted, the first `passed` belong to the SA of this name and SPI, and so do those after them, which are
    /// dropped for this cause; if there is none, they are not shown.
    pub(crate) fn settle(
        &mut self,
        passed: usize,
        name: &str,
        spi: Option<u32>,
        dropped: Option<&'static str>,
    ) {
        let Self { filter, filling, noted, .. } = self;
        let is_wanted = filter.name.as_ref().is_none_or(|wanted| {
            name.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        let mut rest = &noted.octets[..];
        for (index, record) in noted.records.drain(..).enumerate() {
            let Some((octets, more)) = rest.split_at_checked(record.kept) else { break };
            rest = more;
            let dropped = if index < passed { None } else { dropped };
            if !is_wanted || (index >= passed && dropped.is_none()) {
                continue;
            }
            if filling.is_full() {
                if let Some(lost) = self.lost.get(record.layer as usize) {
                    lost.add(1);
                }
                continue;
            }
            filling.octets.extend_from_slice(octets);
            filling.octets.extend_from_slice(name.as_bytes());
            filling.records.push(Record { spi, dropped, name: name.len(), ..record });
        }
        noted.octets.clear();
        if self.filling.is_full() {
            self.flush();
        }
    }

    /// Sends what was noted on its way to the reader. `false`: it has gone.
    pub(crate) fn flush(&mut self) -> bool {
        if self.full.is_abandoned() {
            return false;
        }
        if self.has_waiting() && !self.full.is_full() {
            let next = self.empty.pop().unwrap_or_default();
            // There is room: nobody else writes.
            let _ = self.full.push(std::mem::replace(&mut self.filling, next));
            self.ready.wake();
        }
        true
    }

    /// Does something wait for room in the line? Then [`flush`](Self::flush) has to be tried again soon.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.filling.records.is_empty()
    }
}
