//! Inner packets on their way to the TUN devices: where they lie, and which of them are joined. Each flow keeps its order;
//! between flows it may change. Octets stay where they were received and opened; the engine's own packets lie here. It
//! never writes to the device.

use std::ops::Range;

use super::Device;
use super::join::{Candidate, Look};
use super::offload::Offload;

/// What a round has to hand to the kernel.
pub(crate) struct Deliveries {
    tcp: bool,
    udp: bool,
    all: Vec<Delivery>,
    packets: Vec<Packet>,
    own: Vec<u8>,
    /// By [`Candidate::hash`]: the latest delivery that others may join.
    open: [Option<usize>; FLOWS],
}

/// Flows that are joined at the same time.
const FLOWS: usize = 64;

/// One packet, or several as one.
pub(crate) struct Delivery {
    device: Device,
    /// In the list of packets: the first, the last, and how many.
    first: usize,
    last: usize,
    count: usize,
    /// Octets of payload in all of them.
    payload: usize,
    candidate: Option<Candidate>,
    /// Are the checksums of the first known to be right?
    verified: bool,
    /// Did the last ask to be looked at?
    pushed: bool,
}

struct Packet {
    /// Does it lie in the engine's own buffer?
    own: bool,
    place: Range<usize>,
    /// The packet that follows it in its delivery, if that goes on.
    next: usize,
}

/// Room for the headers of any packet that is joined: IPv6 and TCP with all options.
const HEADERS: usize = 40 + 60;

/// The beginning of a super-packet as the TUN device takes it.
pub(crate) struct Head {
    octets: [u8; Offload::LEN + HEADERS],
    len: usize,
    /// Octets of headers in each of its packets.
    headers: usize,
}

impl Deliveries {
    /// Joins packets of TCP, and of UDP, or only lines them up.
    pub(crate) fn new(tcp: bool, udp: bool) -> Self {
        let (all, packets, own) = (Vec::new(), Vec::new(), Vec::new());
        Self { tcp, udp, all, packets, own, open: [None; FLOWS] }
    }

    /// Adds a packet that lies in the buffer of what was received.
    pub(crate) fn push(&mut self, device: Device, received: &[u8], place: Range<usize>) {
        self.add(device, received, Packet { own: false, place, next: 0 });
    }

    /// Adds a packet that is nowhere else in one piece. `received` is the buffer that the others are in.
    pub(crate) fn push_own(&mut self, device: Device, received: &[u8], parts: [&[u8]; 2]) {
        let start = self.own.len();
        parts.into_iter().for_each(|part| self.own.extend_from_slice(part));
        self.add(device, received, Packet { own: true, place: start..self.own.len(), next: 0 });
    }

    fn add(&mut self, device: Device, received: &[u8], packet: Packet) {
        if !(self.tcp || self.udp) {
            self.start(device, packet, None);
            return;
        }
        let octets = self.octets(received, &packet);
        let candidate = match Candidate::look(octets) {
            Look::Candidate(candidate) => candidate,
            Look::Apart => {
                self.start(device, packet, None);
                return;
            }
            Look::Odd => {
                self.open = [None; FLOWS];
                self.start(device, packet, None);
                return;
            }
        };
        let joins = candidate.joins(octets) && if candidate.is_tcp() { self.tcp } else { self.udp };
        let pushes = candidate.pushes(octets);
        let slot = candidate.hash(octets) % FLOWS;
        let open = self.open.get(slot).copied().flatten();
        let same_flow = open.is_some_and(|open| self.is_flow(received, open, (device, &candidate), octets));
        let open = open.filter(|_| same_flow);
        if let Some(open) = open.filter(|open| joins && self.admits(received, *open, &candidate, octets)) {
            let full = self.append(open, packet, candidate.payload, pushes);
            if full && let Some(entry) = self.open.get_mut(slot) {
                *entry = None;
            }
            return;
        }
        let index = self.start(device, packet, Some(candidate));
        if let Some(entry) = self.open.get_mut(slot) {
            if joins && !pushes {
                *entry = Some(index);
            } else if same_flow {
                // What follows must not overtake it.
                *entry = None;
            }
        }
    }

    fn is_flow(
        &self,
        received: &[u8],
        open: usize,
        (device, candidate): (Device, &Candidate),
        octets: &[u8],
    ) -> bool {
        let Some(delivery) = self.all.get(open) else { return false };
        let (Some(head), Some(first)) = (delivery.candidate, self.packets.get(delivery.first)) else {
            return false;
        };
        delivery.device == device && candidate.is_flow_of(octets, &head, self.octets(received, first))
    }

    /// May a packet of the same flow join? Then the checksums of both have been looked at.
    fn admits(&self, received: &[u8], open: usize, candidate: &Candidate, octets: &[u8]) -> bool {
        let Some(delivery) = self.all.get(open) else { return false };
        let (Some(head), Some(first)) = (delivery.candidate, self.packets.get(delivery.first)) else {
            return false;
        };
        let first = self.octets(received, first);
        candidate.continues(octets, &head, first, delivery.count)
            && (delivery.verified || head.verifies(first))
            && candidate.verifies(octets)
    }

    /// Adds to a super-packet. `true`: nothing more can follow in it.
    fn append(&mut self, open: usize, packet: Packet, payload: usize, pushes: bool) -> bool {
        let index = self.packets.len();
        self.packets.push(packet);
        let Some(delivery) = self.all.get_mut(open) else { return true };
        if let Some(last) = self.packets.get_mut(delivery.last) {
            last.next = index;
        }
        delivery.last = index;
        delivery.count += 1;
        delivery.payload += payload;
        delivery.verified = true;
        delivery.pushed = pushes;
        pushes || delivery.candidate.is_none_or(|head| payload < head.payload)
    }

    fn start(&mut self, device: Device, packet: Packet, candidate: Option<Candidate>) -> usize {
        let (index, payload) = (self.packets.len(), candidate.map_or(0, |candidate| candidate.payload));
        self.packets.push(packet);
        let (verified, pushed) = (false, false);
        self.all.push(Delivery {
            device,
            first: index,
            last: index,
            count: 1,
            payload,
            candidate,
            verified,
            pushed,
        });
        self.all.len() - 1
    }

    fn octets<'a>(&'a self, received: &'a [u8], packet: &Packet) -> &'a [u8] {
        let buffer = if packet.own { &self.own } else { received };
        // It is there: the buffers are emptied together with the deliveries.
        buffer.get(packet.place.clone()).unwrap_or_default()
    }

    pub(crate) fn all(&self) -> &[Delivery] {
        &self.all
    }

    /// The packets of a delivery as they were opened.
    pub(crate) fn packets<'a>(
        &'a self,
        delivery: &Delivery,
        received: &'a [u8],
    ) -> impl Iterator<Item = &'a [u8]> {
        let mut next = delivery.first;
        (0..delivery.count).map_while(move |_| {
            let packet = self.packets.get(next)?;
            next = packet.next;
            Some(self.octets(received, packet))
        })
    }

    /// What stands in front of the payloads if the delivery is a super-packet.
    pub(crate) fn head(&self, delivery: &Delivery, received: &[u8]) -> Option<Head> {
        let candidate = delivery.candidate.filter(|_| delivery.count > 1)?;
        let first = self.octets(received, self.packets.get(delivery.first)?);
        let mut head = Head {
            octets: [0; Offload::LEN + HEADERS],
            len: Offload::LEN + candidate.headers,
            headers: candidate.headers,
        };
        let (offload, headers) = head.octets.split_first_chunk_mut::<{ Offload::LEN }>()?;
        *offload = candidate.head(first, delivery.payload, delivery.pushed, headers)?;
        Some(head)
    }

    pub(crate) fn clear(&mut self) {
        self.all.clear();
        self.packets.clear();
        self.own.clear();
        self.open = [None; FLOWS];
    }
}

impl Delivery {
    /// Where it goes.
    pub(crate) fn device(&self) -> Device {
        self.device
    }
}

impl Head {
    pub(crate) fn octets(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or_default()
    }

    /// What a packet of the delivery adds.
    pub(crate) fn payload<'p>(&self, packet: &'p [u8]) -> &'p [u8] {
        packet.get(self.headers..).unwrap_or_default()
    }
}
