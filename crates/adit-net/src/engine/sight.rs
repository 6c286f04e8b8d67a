//! What the engine shows to whoever looks at packets (see the module `tap`): what passes where, under which headers, and what
//! became of it. Nothing here is called while nobody looks, and nothing here changes a packet.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Instant;

use adit_esp::transport::Header;
use adit_wire::ip::{self, Ipv4Header, Ipv6Header, PROTOCOL_ESP, PROTOCOL_UDP, transport_checksum};

use super::half::Arrived;
use super::iptfs::Unpacked;
use super::split::Split;
use super::{Arrival, Device, Engine, Train, Trains};
use crate::counters::DropCause;
use crate::sockets::Kind;
use crate::tap::{Direction, Layer, Sight, Tap};

/// The hop limit of outer packets that take the kernel's.
const HOP_LIMIT: u8 = 64;

impl Engine {
    /// Whoever looks at packets learns what became of those of a super-packet: so many were sealed, the others refused.
    #[cold]
    pub(super) fn settle_outbound(
        &mut self,
        device: Device,
        split: &Split<'_>,
        sealed: usize,
        dropped: Option<DropCause>,
    ) {
        let Some(tap) = &mut self.tap else { return };
        let flow = split.flow();
        let known = self.flows.get(device, flow);
        let sa = known.or_else(|| self.sas.select(&self.policies, device, flow));
        let dropped = dropped.map(DropCause::as_str);
        if let Some((name, spi)) = sa.and_then(|place| self.sas.who(place)) {
            tap.settle(sealed, name, Some(spi), dropped);
        } else {
            tap.settle(sealed, self.policies.name_of(device, flow), None, dropped);
        }
    }

    /// Shows packets of a train that were sent from this UDP port, or could not be.
    #[cold]
    pub(crate) fn show_sent(
        &mut self,
        (trains, train, port): (&Trains, &Train, u16),
        packets: Range<usize>,
        dropped: Option<DropCause>,
        now: Instant,
    ) {
        let Some(tap) = &mut self.tap else { return };
        let outside = Outside::of_train(train, port);
        let mut octets = trains.octets(train).chunks(train.segment).skip(packets.start);
        for (sa, count, _) in trains.by_sa(train, packets) {
            for esp in octets.by_ref().take(count) {
                outside.show(tap, Direction::Outbound, esp, now);
            }
            let (name, spi) = self.sas.who(sa).unzip();
            let sent = if dropped.is_none() { count } else { 0 };
            tap.settle(sent, name.unwrap_or_default(), spi, dropped.map(DropCause::as_str));
        }
    }

    /// Shows an inner packet that got lost outside of the engine: between two workers, or because the kernel did not take it.
    #[cold]
    pub(crate) fn show_lost(&mut self, device: Device, packet: &[u8], cause: DropCause, now: Instant) {
        let Some(tap) = &mut self.tap else { return };
        let direction = if cause == DropCause::Deliver { Direction::Inbound } else { Direction::Outbound };
        let flow = ip::flow(packet).map(|flow| match direction {
            // The way that its policy speaks of.
            Direction::Inbound => ip::Flow {
                source: flow.destination,
                destination: flow.source,
                source_port: flow.destination_port,
                destination_port: flow.source_port,
                ..flow
            },
            Direction::Outbound => flow,
        });
        let name = flow.as_ref().map_or("", |flow| self.policies.name_of(device, flow));
        tap.note(Sight { layer: Layer::Inner, direction, now }, &[packet]);
        tap.settle(0, name, None, Some(cause.as_str()));
    }

    /// Does anybody look?
    pub(crate) fn is_tapped(&self) -> bool {
        self.tap.is_some()
    }

    /// Shows packets to whoever looks at them, from now on.
    pub(crate) fn set_tap(&mut self, tap: Box<Tap>) {
        self.tap = Some(tap);
    }

    /// Sends what there is to look at on its way. `true`: it has to be tried again soon.
    pub(crate) fn flush_tap(&mut self) -> bool {
        let Some(tap) = &mut self.tap else { return false };
        if !tap.flush() {
            self.tap = None;
        }
        self.tap.as_ref().is_some_and(|tap| tap.has_waiting())
    }
}

impl Tap {
    /// Notes the packets of a super-packet from the TUN device, before they are altered.
    #[cold]
    pub(super) fn note_split(&mut self, split: &Split<'_>, now: Instant) {
        let sight = Sight { layer: Layer::Inner, direction: Direction::Outbound, now };
        if split.count() == 1 {
            return self.note(sight, &[split.packet()]);
        }
        let mut copy = Vec::new();
        for index in 0..split.count() {
            if split.copy(index, &mut copy).is_some() {
                self.note(sight, &[&copy]);
            }
        }
    }

    /// Notes a packet that has waited for an SA in vain.
    pub(super) fn note_waited(&mut self, packet: &[u8], now: Instant) {
        self.note(Sight { layer: Layer::Inner, direction: Direction::Outbound, now }, &[packet]);
    }

    /// Shows packets for the TUN device.
    pub(super) fn show_inbound<'p>(
        &mut self,
        (name, spi): (&str, u32),
        packets: impl Iterator<Item = &'p [u8]>,
        now: Instant,
    ) {
        let sight = Sight { layer: Layer::Inner, direction: Direction::Inbound, now };
        packets.for_each(|packet| self.note(sight, &[packet]));
        self.settle(usize::MAX, name, Some(spi), None);
    }

    /// What was in the ESP packet that was noted before it was opened.
    #[cold]
    pub(super) fn show_opened(
        &mut self,
        (name, spi): (&str, u32),
        arrived: &Arrived<'_>,
        unpacked: &Unpacked,
        now: Instant,
    ) {
        self.settle(usize::from(arrived.dropped.is_none()), name, Some(spi), arrived.dropped);
        if let Some(inner) = &arrived.inner {
            let sight = Sight { layer: Layer::Inner, direction: Direction::Inbound, now };
            self.note(sight, &[arrived.header.as_ref().map_or(&[][..], Header::as_bytes), inner]);
        }
        self.show_inbound((name, spi), unpacked.all().map(|(_, packet)| packet), now);
    }
}

/// What the outer headers of an ESP packet say.
pub(super) struct Outside {
    source: SocketAddr,
    destination: SocketAddr,
    udp: bool,
    traffic_class: u8,
    dont_fragment: bool,
    hop_limit: u8,
}

impl Outside {
    /// `None`: the kernel has not told all of it.
    pub(super) fn of_arrival(arrival: &Arrival) -> Option<Self> {
        Some(Self {
            source: arrival.remote?,
            destination: arrival.local?,
            udp: arrival.kind != Kind::Esp,
            traffic_class: arrival.tos,
            // The kernel does not say.
            dont_fragment: false,
            hop_limit: arrival.hop_limit.unwrap_or(HOP_LIMIT),
        })
    }

    fn of_train(train: &Train, port: u16) -> Self {
        let udp = train.transport.kind != Kind::Esp;
        Self {
            source: SocketAddr::new(train.transport.source, if udp { port } else { 0 }),
            destination: train.transport.destination,
            udp,
            traffic_class: train.tos,
            dont_fragment: train.dont_fragment,
            hop_limit: train.hop_limit.unwrap_or(HOP_LIMIT),
        }
    }

    /// Notes an ESP packet with its headers in front.
    #[cold]
    pub(super) fn show(&self, tap: &mut Tap, direction: Direction, esp: &[u8], now: Instant) {
        let sight = Sight { layer: Layer::Outer, direction, now };
        let udp = self.udp.then(|| self.udp_header(esp));
        let udp = udp.as_ref().map_or(&[][..], |header| header);
        let (len, protocol) = (udp.len() + esp.len(), if self.udp { PROTOCOL_UDP } else { PROTOCOL_ESP });
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = Ipv4Header {
                    traffic_class: self.traffic_class,
                    dont_fragment: self.dont_fragment,
                    ..Ipv4Header::new(source, destination, protocol, self.hop_limit, len)
                };
                tap.note(sight, &[&header.encode(), udp, esp]);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    traffic_class: self.traffic_class,
                    flow_label: 0,
                    payload_len: len as u16,
                    next_header: protocol,
                    hop_limit: self.hop_limit,
                    source,
                    destination,
                };
                tap.note(sight, &[&header.encode(), udp, esp]);
            }
            _ => {}
        }
    }

    /// RFC 3948 2.1: over IPv4 it needs no checksum. IPv6 does not go without (RFC 8200 8.1).
    fn udp_header(&self, esp: &[u8]) -> [u8; 8] {
        let mut header = [0; 8];
        let fields = [self.source.port(), self.destination.port(), (header.len() + esp.len()) as u16];
        for (place, field) in header.chunks_exact_mut(2).zip(fields) {
            place.copy_from_slice(&field.to_be_bytes());
        }
        if self.source.is_ipv6() {
            let datagram = [&header, esp].concat();
            let checksum =
                transport_checksum(self.source.ip(), self.destination.ip(), PROTOCOL_UDP, &datagram);
            if let Some(place) = header.last_chunk_mut() {
                *place = if checksum == 0 { 0xffff } else { checksum }.to_be_bytes();
            }
        }
        header
    }
}
