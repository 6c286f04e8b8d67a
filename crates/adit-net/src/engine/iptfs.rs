//! IP-TFS in the engine: what of an SA waits for its payload, and when payloads leave. It never seals and never finds an SA.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use adit_esp::iptfs::{Header, Refused, Schedule, Sender};

use super::Device;
use super::half::Refusal;
use crate::backend::{ChildId, Iptfs};
use crate::counters::DropCause;

/// The SAs of a worker that time alone can move, those in IP-TFS mode and those that send dummies, by when that is or sooner. What
/// is asked for at each turn does not depend on how many there are.
#[derive(Default)]
pub(super) struct Tunnels {
    sas: HashMap<ChildId, Tunnel>,
    due: BTreeSet<(Instant, ChildId)>,
    /// Those that a packet, or an order, has moved since their times were looked at.
    moved: Vec<ChildId>,
}

struct Tunnel {
    /// Of the inbound half.
    spi: u32,
    due: Option<Instant>,
}

impl Tunnels {
    pub(super) fn add(&mut self, id: ChildId, spi: u32) {
        self.sas.insert(id, Tunnel { spi, due: None });
        self.moved.push(id);
    }

    pub(super) fn remove(&mut self, id: ChildId) {
        if let Some(Tunnel { due: Some(due), .. }) = self.sas.remove(&id) {
            self.due.remove(&(due, id));
        }
    }

    /// The times of this one may be others now.
    pub(super) fn moves(&mut self, id: ChildId) {
        // Packets of one SA come in runs.
        if self.moved.last() != Some(&id) {
            self.moved.push(id);
        }
    }

    /// When the first is due; `deadline` tells it of one, by its name and inbound SPI.
    pub(super) fn deadline(
        &mut self,
        mut deadline: impl FnMut(ChildId, u32) -> Option<Instant>,
    ) -> Option<Instant> {
        while let Some(id) = self.moved.pop() {
            let Some(tunnel) = self.sas.get_mut(&id) else { continue };
            let due = deadline(id, tunnel.spi);
            if let Some(before) =
                std::mem::replace(&mut tunnel.due, due).filter(|before| due != Some(*before))
            {
                self.due.remove(&(before, id));
            }
            self.due.extend(due.map(|due| (due, id)));
        }
        self.due.first().map(|(due, _)| *due)
    }

    /// One that is due, with its inbound SPI. It has moved then.
    pub(super) fn next(&mut self, now: Instant) -> Option<(ChildId, u32)> {
        let (due, id) = *self.due.first().filter(|(due, _)| *due <= now)?;
        self.due.remove(&(due, id));
        let tunnel = self.sas.get_mut(&id)?;
        tunnel.due = None;
        self.moved.push(id);
        Some((id, tunnel.spi))
    }
}

/// The outbound half's part.
pub(super) struct Payloads {
    settings: Iptfs,
    pub(super) sender: Sender,
    /// Once the SA is active, if payloads leave at a constant rate.
    schedule: Option<Schedule>,
    /// Octets of each payload. More than a header: [`resize`](Self::resize) comes before all else.
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
            None if self.full() > 0 => self.since,
            None => self.patience(),
        }
    }

    /// Until when packets wait for others, where payloads leave on demand.
    fn patience(&self) -> Option<Instant> {
        self.since.map(|since| since + self.settings.init_delay)
    }

    /// How many payloads could be filled.
    fn full(&self) -> usize {
        self.sender.waiting() / self.len.saturating_sub(Header::LEN).max(1)
    }

    /// How many payloads leave now, at the most. At a constant rate that depends on the time alone, and they do leave. On demand
    /// payloads leave when they are full, and all when their packets have waited.
    pub(super) fn due(&mut self, now: Instant) -> u32 {
        let waited = self.patience().is_some_and(|deadline| deadline <= now);
        match &mut self.schedule {
            Some(schedule) => schedule.due(now),
            None if self.settings.interval.is_some() => 0,
            None if waited => u32::MAX,
            None => self.full() as u32,
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

    /// Takes all packets that wait.
    pub(super) fn take(&mut self) -> Vec<Vec<u8>> {
        self.since = None;
        self.sender.take()
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
