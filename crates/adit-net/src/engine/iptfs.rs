//! IP-TFS in the engine: what of an SA waits for its payload, and when payloads leave. It never seals and never finds an SA.

use std::time::Instant;

use adit_esp::iptfs::{Header, Refused, Schedule, Sender};

use super::Device;
use super::half::Refusal;
use crate::backend::{ChildId, Iptfs};
use crate::counters::DropCause;

/// The SAs of a worker that are in IP-TFS mode: those that time alone can move.
#[derive(Default)]
pub(super) struct Tunnels(Vec<(ChildId, u32)>);

impl Tunnels {
    pub(super) fn add(&mut self, id: ChildId, spi: u32) {
        self.0.push((id, spi));
    }

    pub(super) fn remove(&mut self, id: ChildId) {
        self.0.retain(|(own, _)| *own != id);
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (ChildId, u32)> {
        self.0.iter().copied()
    }

    /// Number `index`, with its inbound SPI.
    pub(super) fn at(&self, index: usize) -> Option<(ChildId, u32)> {
        self.0.get(index).copied()
    }
}

/// The outbound half's part.
pub(super) struct Payloads {
    settings: Iptfs,
    pub(super) sender: Sender,
    /// Once the SA is active, if payloads leave at a constant rate.
    schedule: Option<Schedule>,
    /// Octets of each payload.
    pub(super) len: usize,
    /// Since when packets wait, where payloads leave on demand.
    since: Option<Instant>,
}

impl Payloads {
    pub(super) fn new(settings: Iptfs, fragments: bool) -> Self {
        let sender = Sender::new(settings.queue, fragments);
        Self { settings, sender, schedule: None, len: Header::LEN, since: None }
    }

    /// Octets of the outer packets on a path that takes `mtu`.
    pub(super) fn packet_size(&self, mtu: usize) -> usize {
        if self.settings.packet_size == 0 { mtu } else { mtu.min(self.settings.packet_size.into()) }
    }

    /// The longest packet that may come, with payloads of `len` octets from now on: any, unless the peer wants them whole.
    pub(super) fn resize(&mut self, len: usize) -> usize {
        self.len = len;
        if self.sender.fragments() { usize::MAX } else { len.saturating_sub(Header::LEN) }
    }

    /// The SA is active: the schedule begins.
    pub(super) fn start(&mut self, now: Instant) {
        self.schedule = self.settings.interval.map(|interval| Schedule::new(now, interval));
    }

    /// Lets a packet wait for its payload.
    pub(super) fn queue(&mut self, inner: &[u8], now: Instant) -> Result<(), Refusal> {
        self.sender.push(inner).map_err(|refused| match refused {
            Refused::Full => Refusal::Drop(DropCause::QueueFull),
            _ => Refusal::Drop(DropCause::Malformed),
        })?;
        if self.settings.interval.is_none() {
            self.since.get_or_insert(now);
        }
        Ok(())
    }

    /// When payloads leave next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.schedule {
            Some(schedule) => Some(schedule.deadline()),
            None => self.since.map(|since| since + self.settings.init_delay),
        }
    }

    /// How many payloads leave now, at the most. At a constant rate that depends on the time alone, and they do leave. On demand
    /// payloads leave when they are full, and all when their packets have waited.
    pub(super) fn due(&mut self, now: Instant) -> u32 {
        let waited = self.deadline().is_some_and(|deadline| deadline <= now);
        match &mut self.schedule {
            Some(schedule) => schedule.due(now),
            None if self.settings.interval.is_some() => 0,
            None if waited => u32::MAX,
            None => (self.sender.waiting() / self.len.saturating_sub(Header::LEN).max(1)) as u32,
        }
    }

    /// Octets of the next payload, if there is one: on demand it is no longer than it has to be.
    pub(super) fn next_len(&self) -> Option<usize> {
        match (self.schedule, self.sender.waiting()) {
            (Some(_), _) => Some(self.len),
            (None, 0) => None,
            (None, waiting) => Some(self.len.min(Header::LEN + waiting)),
        }
    }

    /// What was due has left.
    pub(super) fn left(&mut self, now: Instant) {
        self.since = (self.schedule.is_none() && self.sender.waiting() > 0).then_some(now);
    }
}

/// Packets that came out of payloads, one after the other.
#[derive(Default)]
pub(crate) struct Unpacked {
    octets: Vec<u8>,
    packets: Vec<(Device, usize)>,
}

impl Unpacked {
    pub(super) fn push(&mut self, device: Device, packet: &[u8]) {
        self.octets.extend_from_slice(packet);
        self.packets.push((device, packet.len()));
    }

    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (Device, &[u8])> {
        let mut rest = &self.octets[..];
        self.packets.iter().map_while(move |(device, len)| {
            let (packet, more) = rest.split_at_checked(*len)?;
            rest = more;
            Some((*device, packet))
        })
    }

    pub(super) fn clear(&mut self) {
        self.octets.clear();
        self.packets.clear();
    }
}
