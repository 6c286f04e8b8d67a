//! The two halves of a Child SA: what happens to a packet once its SA is known. Each half owns its keys, its sequence numbers
//! and what it may still carry. It reads nothing and sends nothing.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_crypto::Protection;
use adit_esp::fragment::{Fragments, may_fragment};
use adit_esp::iptfs::Receiver;
use adit_esp::translate::Translation;
use adit_esp::transport::{Header, OuterHeader, hop_limit};
use adit_esp::tunnel::{DontFragment, OuterFields, OuterPolicy, Tfc, believed_path_mtu, decapsulate_dscp};
use adit_esp::{
    Checksum, Error as SaError, FragmentPorts, InboundSa, Mode, Mss, Opened, OutboundSa, SaParameters,
    SealError,
};
use adit_wire::esp::{NEXT_HEADER_IPV4, NEXT_HEADER_IPV6, NEXT_HEADER_NONE};
use adit_wire::ip::{self, Ipv6Header};

use super::dummies::Dummies;
use super::iptfs::{Payloads, Unpacked};
use super::sas::{Place, Prefix, prefixes};
use super::split::Split;
use super::trains::Trains;
use super::{Arrival, Device, Report};
use crate::backend::{ChildId, Iptfs, Limits, NetConfig, NetEvent, PolicyId, Treatment, UdpEncap};
use crate::counters::{DropCause, SaCounts};
use crate::sockets::{Kind, Sockets};
use crate::{Error, sys};

/// The inbound half of a Child SA.
pub(crate) struct Inbound {
    id: ChildId,
    device: Device,
    sa: InboundSa,
    /// Does the outbound half wait for the peer's first packet?
    standby: bool,
    allowance: Allowance,
    spent: bool,
    /// How the outbound half sends.
    transport: Transport,
    /// Where the peer's packets arrive and come from instead, as reported.
    moved: Option<Box<Moved>>,
    clamp: Clamp,
    translation: Option<Arc<Translation>>,
    /// Do inner packets take the DSCP of the outer ones?
    copies_dscp: bool,
    /// As the outbound half knows it.
    max_inner: usize,
    iptfs: Option<Box<Receiver>>,
    counts: Arc<SaCounts>,
}

/// The last report that the peer of an SA is elsewhere.
struct Moved {
    /// Our address and its; `None`: that is over.
    to: Option<(SocketAddr, SocketAddr)>,
    at: Instant,
}

/// Between two reports that the peer of one SA has moved.
const MOVES: Duration = Duration::from_millis(250);

impl Inbound {
    pub(crate) fn new(
        id: ChildId,
        sa: InboundSa,
        active: bool,
        limits: Limits,
        transport: Transport,
        (treatment, device, tun_mtu): (&Treatment, Device, usize),
        counts: Arc<SaCounts>,
    ) -> Self {
        let Iptfs { reorder_window, drop_time, .. } = treatment.iptfs;
        let mode = sa.mode();
        let iptfs = matches!(mode, Mode::Iptfs { .. })
            .then(|| Box::new(Receiver::new(reorder_window, drop_time, sa.window().top() + 1)));
        Self {
            id,
            device,
            sa,
            iptfs,
            standby: !active,
            allowance: limits.into(),
            spent: false,
            transport,
            moved: None,
            clamp: Clamp { mss: treatment.mss, tun_mtu },
            translation: treatment.translation.clone(),
            copies_dscp: treatment.dscp_inwards && mode == Mode::Tunnel,
            max_inner: usize::MAX,
            counts,
        }
    }

    /// Where its packets are handed to.
    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// Fetches what a packet needs of it, all but what is [elsewhere](Self::fetch_further).
    pub(crate) fn fetch(&self) {
        sys::fetch(std::ptr::from_ref(self).cast(), size_of::<Self>());
    }

    /// Fetches what a packet needs and it only points to.
    pub(crate) fn fetch_further(&self) {
        fetch_further(self.sa.keys(), &self.counts);
    }

    /// Lets its keys rest until they are used.
    pub(crate) fn rest(&mut self) {
        self.sa.keys_mut().rest();
    }

    /// Makes its keys ready for many packets. Have they rested?
    pub(crate) fn wake(&mut self) -> bool {
        // If there is no memory for it, the next packet tries again.
        self.sa.keys().is_resting() && self.sa.keys_mut().wake().is_ok()
    }

    pub(crate) fn id(&self) -> ChildId {
        self.id
    }

    pub(crate) fn is_iptfs(&self) -> bool {
        self.iptfs.is_some()
    }

    /// Its name and SPI.
    pub(crate) fn who(&self) -> (&str, u32) {
        (&self.counts.name, self.sa.spi().0)
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.iptfs.as_ref()?.deadline()
    }

    /// Gives up IP-TFS payloads that others have waited for.
    pub(crate) fn expire(&mut self, now: Instant, unpacked: &mut Unpacked, report: &mut Report) {
        let moment = report.clock.number(now);
        self.unpack(unpacked, moment, report, |receiver, mut deliver| receiver.expire(now, &mut deliver));
    }

    /// Lets the receiver give out packets, and keeps those that may pass.
    fn unpack(
        &mut self,
        unpacked: &mut Unpacked,
        moment: u64,
        report: &mut Report,
        work: impl FnOnce(&mut Receiver, &mut dyn FnMut(&mut [u8])),
    ) {
        let Some(mut receiver) = self.iptfs.take() else { return };
        let lost = receiver.counters().lost;
        work(&mut receiver, &mut |inner| match self.sa.admit(inner) {
            Ok(()) if self.admits(inner.len(), moment, report) => {
                if let Some(translation) = &self.translation {
                    translation.inbound(inner);
                }
                self.clamp.apply(inner, self.max_inner);
                unpacked.push(self.device, inner);
            }
            Ok(()) => {}
            Err(cause) => {
                self.counts.dropped(cause);
                report.counts.dropped(DropCause::Refused, 1);
            }
        });
        // RFC 9347 2.4.1: the operator is to know.
        report.counts.dropped(DropCause::PayloadLost, (receiver.counters().lost - lost) as usize);
        self.iptfs = Some(receiver);
    }

    /// The outbound half waits for the peer no longer.
    pub(crate) fn awaits_no_packet(&mut self) {
        self.standby = false;
    }

    pub(crate) fn relocate(&mut self, transport: Transport) {
        self.transport = transport;
        self.has_not_moved();
    }

    /// Opens a packet in place.
    pub(crate) fn open<'p>(
        &mut self,
        esp: &'p mut [u8],
        arrival: &Arrival,
        now: Instant,
        fragments: &mut FragmentPorts,
        unpacked: &mut Unpacked,
        report: &mut Report,
    ) -> Arrived<'p> {
        if self.spent {
            report.counts.dropped(DropCause::Limit, 1);
            return Arrived { dropped: Some(DropCause::Limit.as_str()), ..Arrived::default() };
        }
        let before = self.sa.window().top();
        let mut arrived = Arrived::default();
        let outer = OuterHeader {
            addresses: arrival.remote.zip(arrival.local).map(|(remote, local)| (remote.ip(), local.ip())),
            traffic_class: arrival.tos,
            hop_limit: arrival.hop_limit.unwrap_or(OuterHeader::UNKNOWN.hop_limit),
        };
        match self.sa.open_among(esp, &outer, Some((fragments, now))) {
            Ok(opened) => {
                let moment = report.clock.number(now);
                self.counts.heard.set(moment);
                match opened {
                    Opened::Packet(inner) if self.admits(inner.len(), moment, report) => {
                        if self.copies_dscp {
                            decapsulate_dscp(arrival.tos, inner);
                        }
                        if let Some(translation) = &self.translation {
                            translation.inbound(inner);
                        }
                        self.clamp.apply(inner, self.max_inner);
                        arrived.inner = Some(inner);
                    }
                    Opened::Payload(header, payload)
                        if self.admits(header.len() + payload.len(), moment, report) =>
                    {
                        (arrived.header, arrived.inner) = (Some(header), Some(payload));
                    }
                    Opened::Aggfrag { sequence, payload } => {
                        self.unpack(unpacked, moment, report, |receiver, mut deliver| {
                            receiver.receive(sequence, payload, now, &mut deliver);
                        });
                    }
                    Opened::Packet(_) | Opened::Payload(..) => {
                        arrived.dropped = Some(DropCause::Limit.as_str());
                    }
                    _ => {}
                }
            }
            Err(cause) => {
                tracing::trace!(id = self.id.0, %cause, "ESP dropped");
                self.counts.dropped(cause);
                report.counts.dropped(DropCause::Refused, 1);
                arrived.dropped = Some(cause.as_str());
            }
        }
        // Only what is authentic moves the window, and what is late or replayed does not move it forward.
        if self.sa.window().top() != before {
            self.watch(arrival, now, report);
            arrived.ready = self.standby.then_some(self.id);
        }
        arrived
    }

    /// What the peer's SYN segments say is what our side will send back: it has to fit the way out.
    pub(crate) fn learn_path(&mut self, max_inner: usize) {
        self.max_inner = max_inner;
    }

    /// Counts an inner packet, if the SA may carry it.
    fn admits(&mut self, len: usize, moment: u64, report: &mut Report) -> bool {
        let (packets, bytes) = (self.counts.packets_in.read() + 1, self.counts.bytes_in.read() + len as u64);
        if self.allowance.is_spent(packets, bytes) {
            self.spent = true;
            report.limit_reached(self.id, &self.counts);
        } else if self.allowance.is_short(packets, bytes) {
            report.limit_soon(self.id, &self.counts);
        }
        if !self.allowance.admits(packets, bytes) {
            report.counts.dropped(DropCause::Limit, 1);
            return false;
        }
        self.counts.packets_in.set(packets);
        self.counts.bytes_in.set(bytes);
        self.counts.last_in.set(moment);
        true
    }

    /// Reports where the peer is, if that is not where we send.
    fn watch(&mut self, arrival: &Arrival, now: Instant, report: &mut Report) {
        let (Some(local), Some(remote)) = (arrival.local, arrival.remote) else { return };
        let Transport { kind, source, destination } = self.transport;
        let expected = arrival.kind == kind
            && (local.ip() == source || source.is_unspecified())
            && (remote.ip(), remote.port()) == (destination.ip(), destination.port());
        if expected {
            self.has_not_moved();
            return;
        }
        let to = Some((local, remote));
        let is_told = |moved: &Moved| moved.to == to || now.duration_since(moved.at) < MOVES;
        if !self.moved.as_deref().is_some_and(is_told) {
            self.moved = Some(Box::new(Moved { to, at: now }));
            report.events.push(NetEvent::PeerMoved { id: self.id, local, remote });
        }
    }

    fn has_not_moved(&mut self) {
        if let Some(moved) = &mut self.moved {
            moved.to = None;
        }
    }
}

fn fetch_further(keys: &Protection, counts: &Arc<SaCounts>) {
    sys::fetch(Arc::as_ptr(counts).cast(), size_of::<SaCounts>());
    let (start, len) = keys.place();
    sys::fetch(start, len);
}

/// What an ESP packet has brought.
#[derive(Debug, Default)]
pub(crate) struct Arrived<'p> {
    /// The packet inside, unless it was refused or a dummy.
    pub(crate) inner: Option<&'p [u8]>,
    /// What belongs in front of it, in transport mode.
    pub(crate) header: Option<Header>,
    /// Why it was refused.
    pub(crate) dropped: Option<&'static str>,
    /// The SA's name if the packet is the peer's first, and the outbound half has waited for it.
    pub(crate) ready: Option<ChildId>,
}

/// The segment size of connections: what fits the way to the peer, and the way into the TUN device as well.
#[derive(Clone, Copy)]
struct Clamp {
    mss: Mss,
    tun_mtu: usize,
}

impl Clamp {
    fn apply(self, inner: &mut [u8], max_inner: usize) {
        self.mss.clamp(inner, max_inner.min(self.tun_mtu), Checksum::Whole);
    }
}

/// How much one half of an SA may carry. What is not limited is `u64::MAX`.
struct Allowance {
    soft_packets: u64,
    soft_bytes: u64,
    hard_packets: u64,
    hard_bytes: u64,
}

impl From<Limits> for Allowance {
    fn from(limits: Limits) -> Self {
        let or_all = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        Self {
            soft_packets: or_all(limits.soft_packets),
            soft_bytes: or_all(limits.soft_bytes),
            hard_packets: or_all(limits.hard_packets),
            hard_bytes: or_all(limits.hard_bytes),
        }
    }
}

impl Allowance {
    fn is_short(&self, packets: u64, bytes: u64) -> bool {
        packets >= self.soft_packets || bytes >= self.soft_bytes
    }

    /// May there be so many?
    fn admits(&self, packets: u64, bytes: u64) -> bool {
        packets <= self.hard_packets && bytes <= self.hard_bytes
    }

    /// Is there room for none after so many?
    fn is_spent(&self, packets: u64, bytes: u64) -> bool {
        packets >= self.hard_packets || bytes >= self.hard_bytes
    }
}

/// The outbound half of a Child SA.
pub(crate) struct Outbound {
    id: ChildId,
    device: Device,
    sa: OutboundSa,
    mode: Mode,
    /// The peer's side, coarsely.
    destinations: Vec<Prefix>,
    transport: Transport,
    outer: OuterPolicy,
    tfc: Tfc,
    translation: Option<Arc<Translation>>,
    clamp: Clamp,
    allowance: Allowance,
    /// The longest inner packet that fits the path, as far as it is known, and when that was last looked up.
    max_inner: usize,
    learnt: Option<Instant>,
    iptfs: Option<Box<Payloads>>,
    dummies: Option<Box<Dummies>>,
    counts: Arc<SaCounts>,
}

/// How sealed packets get to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transport {
    pub(crate) kind: Kind,
    pub(crate) source: IpAddr,
    pub(crate) destination: SocketAddr,
}

impl Transport {
    pub(crate) fn new(
        config: &NetConfig,
        sockets: &Sockets,
        local: IpAddr,
        remote: IpAddr,
        encap: Option<UdpEncap>,
    ) -> Result<Self, Error> {
        let (kind, port) = match encap {
            Some(UdpEncap { local_port, remote_port }) if local_port == config.nat_t_port => {
                (Kind::NatT, remote_port)
            }
            Some(UdpEncap { local_port, .. }) => {
                let port = config.nat_t_port;
                return Err(Error::Configuration(format!(
                    "ESP in UDP is sent from port {port}, not {local_port}"
                )));
            }
            None => (Kind::Esp, 0),
        };
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(Error::Configuration(format!("{local} and {remote} are of different families")));
        }
        if sockets.find(kind, remote.is_ipv6()).is_none() {
            return Err(Error::Configuration(match kind {
                Kind::Esp if !config.raw_esp => "ESP without UDP is switched off".into(),
                _ => format!("this machine has no socket that reaches {remote}"),
            }));
        }
        Ok(Self { kind, source: local, destination: SocketAddr::new(remote, port) })
    }
}

/// How long a path MTU is believed before it is looked up again, while big packets are sent.
const PATH_LIFETIME: Duration = Duration::from_secs(1);

/// Inner packets up to this size fit any path that is worth the name: they need no fresh path MTU.
const SMALL: usize = 512;

/// Every IPv6 link carries packets of this size (RFC 8200 5), so senders do not go below it.
const IPV6_MIN_MTU: usize = 1280;

impl Outbound {
    pub(crate) fn new(
        id: ChildId,
        parameters: SaParameters,
        limits: Limits,
        transport: Transport,
        (treatment, device, tun_mtu): (Treatment, Device, usize),
        counts: Arc<SaCounts>,
    ) -> Result<Self, SaError> {
        let destinations = prefixes(&parameters.remote_ts);
        let iptfs = match parameters.mode {
            Mode::Iptfs { fragments } => Some(Box::new(Payloads::new(treatment.iptfs, fragments))),
            Mode::Tunnel | Mode::Transport => None,
        };
        let dummies = treatment.dummies.filter(|_| iptfs.is_none());
        let mut outbound = Self {
            id,
            device,
            iptfs,
            dummies: dummies.map(|interval| Box::new(Dummies::new(interval))),
            mode: parameters.mode,
            sa: OutboundSa::new(parameters)?,
            destinations,
            transport,
            clamp: Clamp { mss: treatment.mss, tun_mtu },
            outer: treatment.outer,
            tfc: treatment.tfc,
            translation: treatment.translation,
            allowance: limits.into(),
            max_inner: usize::MAX,
            learnt: None,
            counts,
        };
        if outbound.is_iptfs() {
            // Payloads have a size from the beginning: what any path takes.
            outbound.learn_path(0);
        }
        Ok(outbound)
    }

    /// With another SA of the same parameters: one that has sent before.
    #[cfg(test)]
    pub(crate) fn with_sa(self, sa: OutboundSa) -> Self {
        Self { sa, ..self }
    }

    /// Lets its keys rest until they are used.
    pub(crate) fn rest(&mut self) {
        self.sa.keys_mut().rest();
    }

    /// Makes its keys ready for many packets. Have they rested?
    pub(crate) fn wake(&mut self) -> bool {
        // If there is no memory for it, the next packet tries again.
        self.sa.keys().is_resting() && self.sa.keys_mut().wake().is_ok()
    }

    pub(crate) fn id(&self) -> ChildId {
        self.id
    }

    /// Where its packets are read from.
    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// Its name and SPI.
    pub(crate) fn who(&self) -> (&str, u32) {
        (&self.counts.name, self.sa.spi().0)
    }

    /// How its packets get to the peer.
    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    pub(crate) fn destinations(&self) -> &[Prefix] {
        &self.destinations
    }

    /// Fetches what a packet needs of it, all but what is [elsewhere](Self::fetch_further).
    pub(crate) fn fetch(&self) {
        sys::fetch(std::ptr::from_ref(self).cast(), size_of::<Self>());
    }

    /// Fetches what a packet needs and it only points to.
    pub(crate) fn fetch_further(&self) {
        fetch_further(self.sa.keys(), &self.counts);
    }

    pub(crate) fn admits(&self, flow: &ip::Flow) -> bool {
        self.sa.selectors().admit_outbound(flow)
    }

    pub(crate) fn relocate(&mut self, transport: Transport) {
        self.transport = transport;
        self.learnt = None;
    }

    /// Seals packets, from number `from` of a super-packet on, behind those that leave before them. `from` moves up to the first
    /// that is not.
    pub(crate) fn seal(
        &mut self,
        split: &mut Split<'_>,
        from: &mut usize,
        place: Place,
        now: Instant,
        trains: &mut Trains,
        report: &mut Report,
    ) -> Result<Sealed, Refusal> {
        let largest = split.len(0);
        if self.iptfs.is_none() && largest > SMALL {
            self.ask_for_path(now, report);
        }
        if let Some(mtu) = refused_mtu(split.packet(), largest, self.max_inner) {
            return Err(Refusal::TooBig { mtu });
        }
        if let Some(dummies) = &mut self.dummies {
            dummies.traffic(now);
        }
        if split.count() == 1 {
            let sealed = self.seal_one(split.packet_mut(), (place, now), trains, report)?;
            return Ok(if sealed { Sealed::All } else { Sealed::Spent });
        }
        let in_place = self.mode == Mode::Tunnel && largest <= self.max_inner && self.translation.is_none();
        let fields = self.fields(self.outer, split.packet());
        let mut copy = std::mem::take(&mut trains.scratch);
        let mut sealed = Ok(true);
        while *from < split.count() && matches!(sealed, Ok(true)) {
            sealed = if in_place {
                self.seal_segment(split, *from, (place, fields), trains, report)
            } else {
                match split.copy(*from, &mut copy) {
                    Some(()) => self.seal_one(&mut copy, (place, now), trains, report),
                    None => Err(Refusal::Drop(DropCause::Malformed)),
                }
            };
            *from += usize::from(matches!(sealed, Ok(true)));
        }
        trains.scratch = copy;
        Ok(if sealed? { Sealed::All } else { Sealed::Spent })
    }

    /// What the outer header has of an inner packet. No router may fragment IPv6.
    fn fields(&self, policy: OuterPolicy, inner: &[u8]) -> OuterFields {
        let fields = policy.fields(inner);
        let dont_fragment = fields.dont_fragment || self.transport.destination.is_ipv6();
        OuterFields { dont_fragment, ..fields }
    }

    /// The same where nothing of what is inside is to show outside.
    fn fields_of_nothing(&self) -> OuterFields {
        let fields = self.fields(self.outer, &[]);
        let dont_fragment = fields.dont_fragment || self.outer.df == DontFragment::Copy;
        OuterFields { dont_fragment, ..fields }
    }

    /// Seals a packet, in fragments if it may be divided and does not fit. `false`: the SA may carry no more.
    fn seal_one(
        &mut self,
        inner: &mut [u8],
        (place, now): (Place, Instant),
        trains: &mut Trains,
        report: &mut Report,
    ) -> Result<bool, Refusal> {
        // RFC 4303 3.1.1: transport mode protects whole packets, which the kernel divides afterwards.
        let max = self.max_inner;
        let divides = inner.len() > max && self.mode != Mode::Transport && may_fragment(inner);
        let fragments = |inner: &[u8]| divides.then(|| Fragments::of(inner, max)).flatten();
        let (count, len) = fragments(inner).map_or((1, inner.len()), |all| {
            all.fold((0, 0), |(count, len), (header, rest)| {
                (count + 1, len + header.octets().len() + rest.len())
            })
        });
        // A packet that is altered has to leave: another SA could not take it then.
        if !self.carries(count, len, report) {
            return Ok(false);
        }
        if let Some(translation) = &self.translation {
            translation.outbound(inner, Checksum::Whole);
        }
        self.clamp.apply(inner, self.max_inner);
        // Their headers are that of the packet as it is now.
        match fragments(inner) {
            None => self.push(inner, place, now, trains)?,
            Some(mut fragments) => {
                while let Some(fragment) = fragments.next_within(inner) {
                    self.push(fragment, place, now, trains)?;
                }
            }
        }
        Ok(true)
    }

    /// Seals one packet of a super-packet into its slot, after all before it. `false`: the SA may carry no more.
    fn seal_segment(
        &mut self,
        split: &mut Split<'_>,
        index: usize,
        (place, fields): (Place, OuterFields),
        trains: &mut Trains,
        report: &mut Report,
    ) -> Result<bool, Refusal> {
        let len = split.len(index);
        if !self.carries(1, len, report) {
            return Ok(false);
        }
        let layout = self.sa.layout();
        let packet_len = layout.packet_len(len.max(self.tfc.at_least(self.max_inner)));
        let next_header = if split.flow().source.is_ipv4() { NEXT_HEADER_IPV4 } else { NEXT_HEADER_IPV6 };
        let slot = trains.slot(packet_len);
        let sealed = match split.take(index) {
            Some(packet) => self.sa.seal_from(slot, packet, next_header).ok(),
            None => {
                let payload = slot.get_mut(layout.payload_offset()..).and_then(|rest| rest.get_mut(..len));
                let written = payload.and_then(|payload| split.write(index, payload));
                written.and_then(|()| self.sa.seal_at(slot, len, next_header).ok())
            }
        };
        sealed.ok_or(Refusal::Drop(DropCause::Malformed))?;
        trains.push((place, self.transport, fields, None), packet_len, len);
        Ok(true)
    }

    /// May it carry so many more packets with so many octets? Tells when the end is near, and when it is there.
    fn carries(&mut self, count: u64, len: usize, report: &mut Report) -> bool {
        let used = self.sa.counters();
        let (packets, bytes) = (used.packets + count, used.bytes + len as u64);
        if !self.allowance.admits(packets, bytes) || self.sa.remaining() < count {
            report.limit_reached(self.id, &self.counts);
            return false;
        }
        if self.allowance.is_spent(packets, bytes) {
            report.limit_reached(self.id, &self.counts);
        } else if self.allowance.is_short(packets, bytes) || self.sa.rekey_due() {
            report.limit_soon(self.id, &self.counts);
        }
        true
    }

    /// Puts a packet into a slot, sealed, or lets it wait for its IP-TFS payload.
    fn push(&mut self, inner: &[u8], place: Place, now: Instant, trains: &mut Trains) -> Result<(), Refusal> {
        if let Some(iptfs) = &mut self.iptfs {
            return iptfs.queue(inner, now);
        }
        let malformed = || Refusal::Drop(DropCause::Malformed);
        let (next_header, payload) = self.sa.payload_of(inner).map_err(|error| match error {
            SealError::NotPlain => Refusal::Drop(DropCause::NotPlain),
            _ => malformed(),
        })?;
        let at_least = match self.mode {
            Mode::Tunnel => self.tfc.at_least(self.max_inner),
            _ => 0,
        };
        let layout = self.sa.layout();
        let packet_len = layout.packet_len(payload.len().max(at_least));
        let slot = trains.slot(packet_len);
        let place_of_payload = layout.payload_offset()..layout.payload_offset() + payload.len();
        slot.get_mut(place_of_payload).ok_or_else(malformed)?.copy_from_slice(payload);
        self.sa.seal_at(slot, payload.len(), next_header).map_err(|_| malformed())?;
        // In transport mode it is the packet's own header that goes outside.
        let (outer, hop_limit) = match self.mode {
            Mode::Transport => (OuterPolicy::default(), hop_limit(inner)),
            _ => (self.outer, None),
        };
        let fields = self.fields(outer, inner);
        trains.push((place, self.transport, fields, hop_limit), packet_len, inner.len());
        Ok(())
    }

    /// The kernel says that outer packets of up to `mtu` octets reach the peer whole. Returns how long inner packets may
    /// be.
    pub(crate) fn learn_path(&mut self, mtu: usize) -> usize {
        let v6 = self.transport.destination.is_ipv6();
        let mtu = believed_path_mtu(mtu, v6);
        let mtu = self.iptfs.as_ref().map_or(mtu, |iptfs| iptfs.packet_size(mtu));
        self.max_inner = self.sa.max_inner(mtu, self.transport.kind == Kind::NatT, v6);
        if let Some(iptfs) = &mut self.iptfs {
            self.max_inner = iptfs.resize(self.max_inner);
        }
        self.max_inner
    }

    pub(crate) fn is_iptfs(&self) -> bool {
        self.iptfs.is_some()
    }

    /// Does time alone move it?
    pub(crate) fn is_timed(&self) -> bool {
        self.iptfs.is_some() || self.dummies.is_some()
    }

    /// It is active: what leaves by the time begins to.
    pub(crate) fn start(&mut self, now: Instant) {
        if let Some(iptfs) = &mut self.iptfs {
            iptfs.start(now);
        }
        if let Some(dummies) = &mut self.dummies {
            dummies.start(now);
        }
    }

    /// When [`on_time`](Self::on_time) has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.iptfs {
            Some(iptfs) => iptfs.deadline(),
            None => self.dummies.as_ref()?.deadline(),
        }
    }

    /// The packets that still wait for a payload, with the addresses that they came with.
    pub(crate) fn take_waiting(&mut self) -> Vec<Vec<u8>> {
        let mut waiting = self.iptfs.as_mut().map_or_else(Vec::new, |iptfs| iptfs.take());
        if let Some(translation) = &self.translation {
            waiting.iter_mut().for_each(|packet| translation.undo_outbound(packet));
        }
        waiting
    }

    /// Seals what the time alone asks for. `false`: the SA may carry no more.
    pub(crate) fn on_time(
        &mut self,
        place: Place,
        now: Instant,
        trains: &mut Trains,
        report: &mut Report,
    ) -> bool {
        let Some(iptfs) = self.iptfs.take() else { return self.dummy(place, now, trains, report) };
        self.payloads(iptfs, place, now, trains, report)
    }

    /// Seals a dummy, if one is due.
    fn dummy(&mut self, place: Place, now: Instant, trains: &mut Trains, report: &mut Report) -> bool {
        let Some(dummies) = self.dummies.as_mut().filter(|dummies| dummies.is_due(now)) else { return true };
        // As long as packets of the SA may look.
        let most = if self.max_inner == usize::MAX { SMALL } else { self.max_inner };
        let len = match self.mode {
            Mode::Tunnel => dummies.next(now, self.tfc.at_least(most), most),
            _ => dummies.next(now, 0, most.saturating_sub(Ipv6Header::LEN)),
        };
        self.ask_for_path(now, report);
        if !self.carries(1, len, report) {
            return false;
        }
        let packet_len = self.sa.layout().packet_len(len);
        let (slot, start) = (trains.slot(packet_len), self.sa.layout().payload_offset());
        slot.get_mut(start..start + len).unwrap_or_default().fill(0);
        match self.sa.seal_at(slot, len, NEXT_HEADER_NONE) {
            Ok(()) => trains.push((place, self.transport, self.fields_of_nothing(), None), packet_len, 0),
            Err(error) => tracing::debug!(id = self.id.0, %error, "a dummy is not sealed"),
        }
        true
    }

    /// Asks for the MTU of the path, if that is not known of late.
    fn ask_for_path(&mut self, now: Instant, report: &mut Report) {
        if self.learnt.is_none_or(|learnt| now.duration_since(learnt) >= PATH_LIFETIME) {
            self.learnt = Some(now);
            report.paths.push((self.id, self.transport.destination.ip()));
        }
    }

    /// Seals the IP-TFS payloads that are due.
    fn payloads(
        &mut self,
        mut iptfs: Box<Payloads>,
        place: Place,
        now: Instant,
        trains: &mut Trains,
        report: &mut Report,
    ) -> bool {
        let due = iptfs.due(now);
        if due > 0 {
            self.ask_for_path(now, report);
        }
        // RFC 9347 2.2.5: nothing of what is inside shows outside.
        let fields = self.fields_of_nothing();
        let mut goes_on = true;
        for _ in 0..due {
            let Some(len) = iptfs.next_len() else { break };
            goes_on = self.carries(1, 0, report);
            if !goes_on {
                break;
            }
            let packet_len = self.sa.layout().packet_len(len);
            match self.sa.seal_aggfrag(trains.slot(packet_len), len, &mut iptfs.sender) {
                Ok(filled) => {
                    report.counts.dropped(DropCause::TooBig, filled.unfit as usize);
                    self.counts.packets_out.add(filled.packets);
                    trains.push((place, self.transport, fields, None), packet_len, filled.octets as usize);
                }
                Err(error) => {
                    tracing::debug!(id = self.id.0, %error, "a payload is not sealed");
                    report.counts.dropped(DropCause::Malformed, 1);
                }
            }
        }
        if due > 0 {
            iptfs.left(now);
        }
        self.iptfs = Some(iptfs);
        goes_on
    }

    /// So many inner packets have left, with so many octets.
    pub(crate) fn sent(&self, packets: usize, bytes: usize, moment: u64) {
        // The packets in IP-TFS payloads have been counted when they were put in.
        if self.iptfs.is_none() {
            self.counts.packets_out.add(packets as u64);
        }
        self.counts.bytes_out.add(bytes as u64);
        if bytes > 0 {
            self.counts.last_out.set(moment);
        }
    }
}

/// The MTU to tell the sender of a packet of `len` octets that does not fit and that it may be asked to cut, `None` if the
/// packet is to be sent. Inner IPv4 packets without DF and IPv6 packets of the minimum MTU are sent in any case.
fn refused_mtu(inner: &[u8], len: usize, max_inner: usize) -> Option<usize> {
    if len <= max_inner {
        return None;
    }
    match inner {
        [first, _, _, _, _, _, flags, ..] if first >> 4 == 4 => (flags & 0x40 != 0).then_some(max_inner),
        _ => (len > IPV6_MIN_MTU).then_some(max_inner.max(IPV6_MIN_MTU)),
    }
}

/// Why a packet was not sealed.
pub(crate) enum Refusal {
    Drop(DropCause),
    TooBig {
        mtu: usize,
    },
    /// There is no SA, and the policy asks for one.
    Wait(PolicyId),
}

/// What became of packets that were not refused.
pub(crate) enum Sealed {
    All,
    /// The SA may carry no more.
    Spent,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(len: usize, dont_fragment: bool) -> Vec<u8> {
        let mut packet = vec![0; len];
        packet[0] = 0x45;
        packet[6] = if dont_fragment { 0x40 } else { 0 };
        packet
    }

    fn ipv6(len: usize) -> Vec<u8> {
        let mut packet = vec![0; len];
        packet[0] = 0x60;
        packet
    }

    #[test]
    fn only_packets_that_may_be_refused_are_refused() {
        assert_eq!(refused_mtu(&ipv4(1300, true), 1300, 1300), None);
        assert_eq!(refused_mtu(&ipv4(1301, true), 1301, 1300), Some(1300));
        assert_eq!(refused_mtu(&ipv4(1301, false), 1301, 1300), None);
        assert_eq!(refused_mtu(&ipv6(1301), 1301, 1300), Some(1300));
        assert_eq!(refused_mtu(&ipv6(1280), 1280, 1200), None, "no IPv6 sender goes below 1280");
        assert_eq!(refused_mtu(&ipv6(1281), 1281, 1200), Some(1280));
    }
}
