//! What happens to packets between the TUN devices and the sockets. The engine owns the SAs of a worker, the packets that wait
//! for one, and the buffers of what is ready to leave: sealed packets in [`Trains`], opened ones in [`Deliveries`]. It makes no
//! system call and reads no clock: the module `worker` brings packets and the time, and carries away what has become of them.
//! What else the engine needs or has to tell is in [`Report`].
//!
//! Where a packet passes, in this order; whoever adds a step adds it in its place:
//!
//! ```text
//! outbound  Engine::outbound  flow, ports of fragments, sender -> policy -> SA (Sas::select, or as Flows knows it)
//!           Outbound::seal    size: refused; then for each packet of a super-packet, into its slot: limits -> translate,
//!                             clamp -> cut -> outer header, padding -> seal
//!           Trains::push      behind the packets before it that go the same way
//! inbound   Engine::inbound   IKE, keepalive or ESP -> SA by SPI
//!           Inbound::open     open -> ports of fragments -> selectors, ECN -> limits -> translate back, clamp
//!           Deliveries::push  joined to the packet of its flow before it -> to the TUN device
//! ```
//!
//! A super-packet stands for packets of one flow that differ in nothing but what [`Split`] writes; its own lengths and
//! checksums mean nothing. What changes a packet's addresses or options changes them in the super-packet.
//!
//! No step allocates, locks, clones an `Arc` or asks for the time for a packet that passes.

#[cfg(test)]
mod adversarial;
mod deliveries;
mod dummies;
mod flows;
mod half;
mod held;
mod iptfs;
mod join;
#[cfg(test)]
mod model;
mod offload;
#[cfg(test)]
mod reference;
mod sas;
mod sight;
mod spi_table;
mod split;
#[cfg(test)]
mod tests;
mod trains;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_esp::{Action, FragmentPorts, PolicyTable};
use adit_wire::icmp::{self, Unreachable};
use adit_wire::ikev2::Spi;
use adit_wire::ip;
use adit_wire::natt::{self, Datagram4500};

use crate::backend::{ChildId, NetEvent, PolicyId};
use crate::counters::{Clock, DropCause, SaCounts, WorkerCounts};
use crate::sockets::Kind;
use crate::steering;
use crate::tap::{Direction, Tap};

use deliveries::Deliveries;
pub(crate) use deliveries::{Delivery, Head};
pub(crate) use half::{Inbound, Outbound, Transport};
pub(crate) use held::INTERVAL;
pub(crate) use join::MAX_TCP;
pub(crate) use offload::Offload;
pub(crate) use sas::NewChild;
pub(crate) use trains::{Train, Trains};

use flows::Flows;
use half::{Refusal, Sealed};
use held::Held;
use iptfs::{Tunnels, Unpacked};
use sas::{Place, Sas};
use sight::Outside;
use split::Split;

/// How much of each direction a worker moves before it looks at the other: what the caches hold, and what others can wait for.
pub(crate) const ROUND_OCTETS: usize = 256 << 10;
pub(crate) const ROUND_PACKETS: usize = 256;

/// The packet half of a worker.
pub(crate) struct Engine {
    place: WorkerPlace,
    policies: Arc<Policies>,
    sas: Sas,
    held: Held,
    /// The SAs of the flows of late. Nothing about policies and SAs has changed since.
    flows: Flows,
    /// For policies and SAs that look at ports.
    fragments_out: FragmentPorts,
    fragments_in: FragmentPorts,
    limiter: Limiter,
    senders: Senders,
    tunnels: Tunnels,
    unpacked: Unpacked,
    pub(crate) trains: Trains,
    pub(crate) deliveries: Deliveries,
    pub(crate) report: Report,
    /// Whoever looks at packets.
    tap: Option<Box<Tap>>,
}

/// A TUN device: packets of an SA are read from one and handed to the same. What several workers share goes by its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Device(pub(crate) usize);

impl Device {
    /// The one of all policies without an interface of their own.
    pub(crate) const SHARED: Self = Self(0);

    /// Where the fragments of a packet come from.
    fn scope(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

/// One worker among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerPlace {
    pub(crate) index: usize,
    pub(crate) workers: usize,
}

/// Whose business an outbound packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Ours,
    /// Of the worker with this index.
    Theirs(usize, Known),
}

/// What workers have found out about a packet before they hand it on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its flow, with the ports if it is a fragment; `None` if they are still to be found.
    flow: Option<ip::Flow>,
    /// A bit for each worker that has no SA for it.
    none: u64,
}

impl Known {
    pub(crate) fn flow(&self) -> Option<&ip::Flow> {
        self.flow.as_ref()
    }

    /// The flow is known, and the worker that seals the packet.
    pub(crate) fn settled(flow: ip::Flow) -> Self {
        Self { flow: Some(ip::Flow { total_len: 0, ..flow }), none: Self::SETTLED }
    }

    /// Nobody else is to be asked.
    const SETTLED: u64 = u64::MAX;
}

/// The policies, as workers see them.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    /// Of each [`Device`], by its number. A device without one has no policies.
    pub(crate) tables: Vec<Table>,
    /// Does any of them look at ports?
    pub(crate) ports: bool,
    /// Their names for people.
    pub(crate) names: HashMap<PolicyId, String>,
    /// Those whose packets wait for an SA.
    pub(crate) traps: HashSet<PolicyId>,
    /// Those for which workers may have SAs of their own.
    pub(crate) spread: HashSet<PolicyId>,
}

/// The policies of one device.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) table: PolicyTable,
    /// The name of each policy, by its index in the table.
    pub(crate) ids: Vec<PolicyId>,
}

impl Policies {
    /// The policies that protect a packet from a device: the first, and those that describe it equally well.
    pub(crate) fn of(&self, device: Device, flow: &ip::Flow) -> impl Iterator<Item = PolicyId> {
        let table = self.tables.get(device.0);
        table.into_iter().flat_map(|Table { table, ids }| {
            table.candidates_outbound(flow).filter_map(|index| ids.get(index.0).copied())
        })
    }

    /// What people call a policy.
    fn name(&self, policy: PolicyId) -> &str {
        self.names.get(&policy).map_or("", String::as_str)
    }

    /// Whose a packet is for people, whatever is done with it.
    fn name_of(&self, device: Device, flow: &ip::Flow) -> &str {
        let policy = self.tables.get(device.0).and_then(|Table { table, ids }| {
            let (index, _) = table.lookup_outbound(flow)?;
            ids.get(index.0)
        });
        policy.map_or("", |policy| self.name(*policy))
    }

    /// What is done with such a packet.
    fn action(&self, device: Device, flow: &ip::Flow) -> Option<Action> {
        Some(self.tables.get(device.0)?.table.lookup_outbound(flow)?.1)
    }
}

/// What leaves the engine beside packets.
pub(crate) struct Report {
    pub(crate) counts: Arc<WorkerCounts>,
    pub(crate) clock: Clock,
    pub(crate) events: Vec<NetEvent>,
    /// SAs whose path MTU is to be looked up again, and where they lead: [`Engine::learn_path`] is the answer.
    pub(crate) paths: Vec<(ChildId, IpAddr)>,
    /// SAs whose peer is ready for the outbound half, which another worker has.
    pub(crate) ready: Vec<ChildId>,
    /// Packets that have lost their SA here, for the workers that have another for them.
    pub(crate) astray: Vec<(usize, Device, Vec<u8>, Known)>,
    /// Datagrams of the train that [`Engine::inbound`] was given which are for another worker: its index, and their places.
    pub(crate) elsewhere: Vec<(usize, Range<usize>)>,
}

/// How a datagram has arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) kind: Kind,
    pub(crate) v6: bool,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) remote: Option<SocketAddr>,
    /// TOS or traffic class octet of the outer header.
    pub(crate) tos: u8,
    /// Its TTL or hop limit, if that is known.
    pub(crate) hop_limit: Option<u8>,
}

impl Engine {
    /// `joins_tcp` and `joins_udp`: the TUN device takes super-packets of these.
    pub(crate) fn new(
        place: WorkerPlace,
        counts: Arc<WorkerCounts>,
        clock: Clock,
        joins_tcp: bool,
        joins_udp: bool,
    ) -> Self {
        let secret = RandomState::new().build_hasher().finish();
        Self {
            place,
            policies: Arc::default(),
            sas: Sas::default(),
            held: Held::default(),
            flows: Flows::default(),
            fragments_out: FragmentPorts::new(secret),
            fragments_in: FragmentPorts::new(secret),
            limiter: Limiter::new(100),
            senders: Senders::new(),
            tunnels: Tunnels::default(),
            unpacked: Unpacked::default(),
            trains: Trains::default(),
            deliveries: Deliveries::new(joins_tcp, joins_udp),
            report: Report {
                counts,
                clock,
                events: Vec::new(),
                paths: Vec::new(),
                ready: Vec::new(),
                astray: Vec::new(),
                elsewhere: Vec::new(),
            },
            tap: None,
        }
    }

    /// Goes by these policies from now on.
    pub(crate) fn follow(&mut self, policies: &Arc<Policies>) {
        if !Arc::ptr_eq(&self.policies, policies) {
            self.policies = Arc::clone(policies);
            self.flows.forget();
        }
    }

    /// Which worker seals a packet from a TUN device? The one that has the outbound halves of its policy; and so all packets of a
    /// flow are sealed by one. A worker with an SA of its own does it itself: the kernel gives it all packets of a flow. Where
    /// several policies describe a packet equally well, the first that has an SA for it.
    pub(crate) fn whose(
        &mut self,
        device: Device,
        packet: &[u8],
        known: Option<&Known>,
        now: Instant,
    ) -> Whose {
        let WorkerPlace { index, workers } = self.place;
        if workers == 1 || known.is_some_and(|known| known.none == Known::SETTLED) {
            return Whose::Ours;
        }
        let flow = match known.and_then(|known| known.flow) {
            Some(flow) if self.flows.get(device, &flow).is_some() => return Whose::Ours,
            Some(flow) => flow,
            None => {
                // What is wrong with a packet is found out when it is sealed.
                let Ok(mut flow) = ip::flow(packet) else { return Whose::Ours };
                if self.flows.get(device, &flow).is_some() {
                    return Whose::Ours;
                }
                // The kernel spreads packets by their ports, so the fragments of one may come to several workers.
                if self.policies.ports && index != 0 && is_fragment(packet, &flow) {
                    return Whose::Theirs(0, Known { flow: None, none: 0 });
                }
                if self.fragments_out.complete(device.scope(), packet, &mut flow, now).is_err() {
                    return Whose::Ours;
                }
                ip::Flow { total_len: 0, ..flow }
            }
        };
        let policies = &*self.policies;
        let owner = |policy| steering::worker_of_policy(device, policy, workers);
        let mut owners = policies.of(device, &flow).map(owner);
        let Some(first) = owners.next() else { return Whose::Ours };
        let is_spread = |policy: &PolicyId| policies.spread.contains(policy);
        let spread =
            !policies.spread.is_empty() && policies.of(device, &flow).any(|policy| is_spread(&policy));
        if !spread && owners.all(|other| other == first) {
            let settled = Known::settled(flow);
            return if first == index { Whose::Ours } else { Whose::Theirs(first, settled) };
        }
        let mut none = known.map_or(0, |known| known.none);
        // An own SA, then the one for all, and if that is gone whichever there is.
        let owners = |policy| {
            let all = if is_spread(&policy) { workers } else { 0 };
            (0..all.min(1)).map(|_| index).chain([owner(policy)]).chain(0..all)
        };
        for owner in policies.of(device, &flow).flat_map(owners) {
            let bit = 1 << owner;
            if none & bit != 0 {
                continue;
            }
            if owner != index {
                return Whose::Theirs(owner, Known { flow: Some(flow), none });
            }
            if let Some(place) = self.sas.select(policies, device, &flow) {
                self.flows.insert(device, flow, place, self.sas.len());
                return Whose::Ours;
            }
            none |= bit;
        }
        // Nobody has one. It is for the worker whose policy asks for one, if any does.
        let waiting = policies.of(device, &flow).find(|policy| policies.traps.contains(policy));
        match waiting.map_or(first, owner) {
            home if home == index => Whose::Ours,
            home => Whose::Theirs(home, Known::settled(flow)),
        }
    }

    /// Seals what a TUN device handed out as one packet, or does what is to be done instead.
    pub(crate) fn outbound(
        &mut self,
        device: Device,
        packet: &mut [u8],
        offload: &Offload,
        known: Option<&Known>,
        now: Instant,
    ) {
        match Split::new(packet, offload) {
            Some(mut split) => {
                let flow = known.and_then(|known| known.flow.as_ref());
                self.outbound_since(device, &mut split, flow, now, now);
            }
            None => self.report.counts.dropped(DropCause::Malformed, 1),
        }
    }

    /// As [`outbound`](Self::outbound), for a packet that came at `since`.
    fn outbound_since(
        &mut self,
        device: Device,
        split: &mut Split<'_>,
        flow: Option<&ip::Flow>,
        since: Instant,
        now: Instant,
    ) {
        if let Some(tap) = &mut self.tap {
            tap.note_split(split, now);
        }
        let mut from = 0;
        let Err(refusal) = self.seal(device, split, flow, &mut from, now) else {
            if self.tap.is_some() {
                self.settle_outbound(device, split, split.count(), None);
            }
            return;
        };
        let rest = split.count() - from;
        let dropped = match refusal {
            Refusal::Drop(cause) => {
                self.report.counts.dropped(cause, rest);
                // RFC 4301 6. Where all policies are, only routes can have been wrong, and may be right by now.
                if cause == DropCause::NoPolicy && device != Device::SHARED {
                    self.tell(device, split, from, now, |inner, by| {
                        icmp::destination_unreachable(inner, by, Unreachable::Prohibited)
                    });
                }
                Some(cause)
            }
            Refusal::Wait(policy) => {
                if self.held.asks(policy, now) {
                    self.report.events.push(NetEvent::Acquire { policy });
                }
                let kept = (from..split.count()).map_while(|index| split.to_vec(index));
                let kept = kept.take_while(|inner| self.held.keep(policy, inner, since)).count();
                self.report.counts.dropped(DropCause::NoSa, rest - kept);
                // What waits is seen when it has an SA.
                (kept == 0).then_some(DropCause::NoSa)
            }
            Refusal::TooBig { mtu } => {
                self.report.counts.dropped(DropCause::TooBig, rest);
                // RFC 4301 8.2.1.
                let mtu = u32::try_from(mtu).unwrap_or(u32::MAX);
                self.tell(device, split, from, now, |inner, by| icmp::packet_too_big(inner, by, mtu));
                Some(DropCause::TooBig)
            }
        };
        if self.tap.is_some() {
            self.settle_outbound(device, split, from, dropped);
        }
    }

    /// Seals the packets of a super-packet from number `from` on, which moves up to the first that is refused.
    fn seal(
        &mut self,
        device: Device,
        split: &mut Split<'_>,
        flow: Option<&ip::Flow>,
        from: &mut usize,
        now: Instant,
    ) -> Result<(), Refusal> {
        let flow = match flow {
            Some(flow) => *flow,
            None => {
                let mut flow = *split.flow();
                let completed = self.fragments_out.complete(device.scope(), split.packet(), &mut flow, now);
                completed.map_err(|_| Refusal::Drop(DropCause::Malformed))?;
                ip::Flow { total_len: 0, ..flow }
            }
        };
        // RFC 4291 2.5.2, RFC 1812 5.3.7: no router forwards it. Interfaces that come up send such (RFC 3590).
        if flow.source.is_unspecified() {
            return Err(Refusal::Drop(DropCause::NoSource));
        }
        // Each round ends it, or an SA.
        loop {
            let place = match self.flows.get(device, &flow) {
                Some(place) => place,
                None => {
                    let place = self.sas.select(&self.policies, device, &flow);
                    let place = place.ok_or_else(|| no_sa(&self.policies, device, &flow))?;
                    self.flows.insert(device, flow, place, self.sas.len());
                    place
                }
            };
            let Some(sa) = self.sas.outbound(place) else { return Err(Refusal::Drop(DropCause::NoSa)) };
            let sealed = sa.seal(split, from, place, now, &mut self.trains, &mut self.report);
            if sa.is_iptfs() {
                self.tunnels.moves(sa.id());
            }
            match sealed? {
                Sealed::All => return Ok(()),
                Sealed::Spent => self.end(place, now),
            }
        }
    }

    /// An outbound half can carry no more. What waits for its payload looks for another.
    fn end(&mut self, place: Place, now: Instant) {
        let waiting = self.take_waiting(place);
        self.sas.end(place);
        self.flows.forget();
        self.outbound_again(waiting, now);
    }

    /// These ESP packets are to be opened next. Where there are many SAs, theirs are fetched from memory all at once.
    pub(crate) fn expect<'p>(&mut self, packets: impl Iterator<Item = &'p [u8]> + Clone) {
        let spis = packets.filter_map(|packet| packet.first_chunk().copied().map(u32::from_be_bytes));
        self.sas.expect(spis);
    }

    /// The same for packets of these flows, which are to be sealed next.
    pub(crate) fn expect_flows<'f>(&mut self, flows: impl Iterator<Item = (Device, &'f ip::Flow)> + Clone) {
        let Self { sas, flows: known, policies, .. } = self;
        if !sas.are_many() {
            return;
        }
        for (device, flow) in flows.clone() {
            if known.get(device, flow).is_none()
                && let Some(place) = sas.select(policies, device, flow)
            {
                known.insert(device, *flow, place, sas.len());
            }
        }
        for place in flows.filter_map(|(device, flow)| known.get(device, flow)) {
            sas.expect_outbound(place);
        }
    }

    /// Takes what has arrived in `place` of `buffer`: one datagram, or several of `segment` octets each (the last may be
    /// shorter) one after another. ESP is opened in place.
    pub(crate) fn inbound(
        &mut self,
        buffer: &mut [u8],
        place: Range<usize>,
        segment: usize,
        arrival: &Arrival,
        now: Instant,
    ) {
        if segment == 0 || place.len() <= segment {
            return self.inbound_one(buffer, place, arrival, now);
        }
        for start in place.clone().step_by(segment) {
            let place = start..place.end.min(start + segment);
            match self.opener_of(buffer.get(place.clone()).unwrap_or_default()) {
                Some(other) => self.report.elsewhere.push((other, place)),
                None => self.inbound_one(buffer, place, arrival, now),
            }
        }
    }

    /// The worker that a datagram of a train is for, if it is not this one: the kernel joins datagrams whatever their SPIs, and
    /// chooses by the first.
    fn opener_of(&self, datagram: &[u8]) -> Option<usize> {
        let WorkerPlace { index, workers } = self.place;
        if workers == 1 {
            return None;
        }
        let spi = datagram.first_chunk().map_or(0, |spi| u32::from_be_bytes(*spi));
        Some(steering::worker_of(spi, workers)).filter(|worker| *worker != index)
    }

    fn inbound_one(&mut self, buffer: &mut [u8], place: Range<usize>, arrival: &Arrival, now: Instant) {
        let base = buffer.as_ptr().addr();
        let Some(datagram) = buffer.get_mut(place) else { return };
        let esp = match arrival.kind {
            Kind::Esp => without_ip_header(arrival.v6, datagram),
            Kind::Ike => return self.report.ike(arrival, datagram),
            Kind::NatT => match natt::classify(datagram) {
                Ok(Datagram4500::Esp(_)) => Some(datagram),
                Ok(Datagram4500::Ike(message)) => return self.report.ike(arrival, message),
                Ok(Datagram4500::Keepalive) => return self.report.counts.keepalives_received.add(1),
                Err(_) => None,
            },
        };
        let spi = |esp: &[u8]| esp.first_chunk().copied().map(u32::from_be_bytes);
        let Some((esp, spi)) = esp.and_then(|esp| spi(esp).map(|spi| (esp, spi))) else {
            return self.report.counts.dropped(DropCause::OuterMalformed, 1);
        };
        if let Some(tap) = &mut self.tap
            && let Some(outside) = Outside::of_arrival(arrival)
        {
            outside.show(tap, Direction::Inbound, esp, now);
        }
        let Some(sa) = self.sas.inbound(spi) else {
            self.report.counts.dropped(DropCause::UnknownSpi, 1);
            if let Some(tap) = &mut self.tap {
                tap.settle(0, "", Some(spi), Some(DropCause::UnknownSpi.as_str()));
            }
            if let Some(remote) = arrival.remote.filter(|_| self.limiter.allow(now)) {
                self.report.events.push(NetEvent::UnknownSpi { spi: Spi(spi), remote });
            }
            return;
        };
        let device = sa.device();
        let opened = sa.open(esp, arrival, now, &mut self.fragments_in, &mut self.unpacked, &mut self.report);
        let ready = opened.ready;
        if sa.is_iptfs() {
            self.tunnels.moves(sa.id());
        }
        if let Some(tap) = &mut self.tap {
            tap.show_opened(sa.who(), &opened, &self.unpacked, now);
        }
        if let Some(inner) = opened.inner {
            let start = inner.as_ptr().addr() - base;
            let place = start..start + inner.len();
            match opened.header {
                None => self.deliveries.push(device, buffer, place),
                Some(header) => {
                    let payload = buffer.get(place).unwrap_or_default();
                    self.deliveries.push_own(device, buffer, [header.as_bytes(), payload]);
                }
            }
        }
        self.deliver_unpacked(buffer);
        // RFC 7296 2.8: what the peer sends on a new SA shows that it is ready for it.
        if let Some(id) = ready {
            if self.sas.has_outbound(id) {
                self.switch(id, now);
            } else {
                // Another worker has it. It is told once.
                if let Some(sa) = self.sas.inbound(spi) {
                    sa.awaits_no_packet();
                }
                self.report.ready.push(id);
            }
        }
    }

    /// Puts both halves of a Child SA in place, on a path of this MTU.
    pub(crate) fn install(&mut self, child: NewChild, path_mtu: Option<usize>, now: Instant) {
        let (id, active) = (child.id, child.active);
        // One half may be another worker's.
        let inbound = child.inbound.as_ref().is_some_and(Inbound::is_iptfs);
        if inbound || child.outbound.as_ref().is_some_and(Outbound::is_timed) {
            self.tunnels.add(id, child.spi);
        }
        self.sas.install(child);
        if let Some(mtu) = path_mtu {
            self.learn_path(id, mtu);
        }
        if active {
            self.switch(id, now);
        }
    }

    /// Makes an outbound half active, and seals what has waited for it before anything else. What the SA does not carry,
    /// because it is narrower than its policy, waits on.
    pub(crate) fn switch(&mut self, id: ChildId, now: Instant) {
        self.flows.forget();
        let Some(policy) = self.sas.switch(id) else { return };
        let Some(outbound) = self.sas.outbound_of(id) else { return };
        let device = outbound.device();
        if outbound.is_timed() {
            outbound.start(now);
            self.tunnels.moves(id);
        }
        // What has not left on the SA before comes first on the new one.
        let waiting = self.sas.before(id).and_then(|before| self.take_waiting(before));
        self.outbound_again(waiting, now);
        for (since, mut inner) in self.held.take(policy) {
            if let Some(mut split) = Split::new(&mut inner, &Offload::default()) {
                self.outbound_since(device, &mut split, None, since, now);
            }
        }
    }

    pub(crate) fn retire(&mut self, id: ChildId, now: Instant) {
        self.flows.forget();
        let waiting = self.sas.place_of(id).and_then(|place| self.take_waiting(place));
        self.sas.retire(id);
        self.outbound_again(waiting, now);
    }

    /// The packets that wait for a payload of an SA, and the device that they are from.
    fn take_waiting(&mut self, place: Place) -> Option<(Device, Vec<Vec<u8>>)> {
        let outbound = self.sas.outbound(place).filter(|outbound| outbound.is_iptfs())?;
        self.tunnels.moves(outbound.id());
        Some((outbound.device(), outbound.take_waiting()))
    }

    /// Packets that have been on their way already look for an SA anew.
    fn outbound_again(&mut self, packets: Option<(Device, Vec<Vec<u8>>)>, now: Instant) {
        let Some((device, packets)) = packets else { return };
        for mut packet in packets {
            match self.whose(device, &packet, None, now) {
                Whose::Ours => self.outbound(device, &mut packet, &Offload::default(), None, now),
                Whose::Theirs(to, known) => self.report.astray.push((to, device, packet, known)),
            }
        }
    }

    /// When [`on_time`](Self::on_time) has something to do.
    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        let Self { tunnels, sas, .. } = self;
        tunnels.deadline(|id, spi| sas.deadline(id, spi))
    }

    /// Seals the IP-TFS payloads and dummies that are due, and gives up the payloads of the peers that are overdue.
    pub(crate) fn on_time(&mut self, now: Instant) {
        self.deadline();
        while let Some((id, spi)) = self.tunnels.next(now) {
            if let Some(place) = self.sas.place_of(id)
                && let Some(outbound) = self.sas.outbound(place)
                && !outbound.on_time(place, now, &mut self.trains, &mut self.report)
            {
                self.end(place, now);
            }
            let before = self.unpacked.len();
            if let Some(inbound) = self.sas.inbound(spi) {
                inbound.expire(now, &mut self.unpacked, &mut self.report);
                if let Some(tap) = &mut self.tap {
                    tap.show_inbound(
                        inbound.who(),
                        self.unpacked.all().skip(before).map(|(_, packet)| packet),
                        now,
                    );
                }
            }
        }
        self.deliver_unpacked(&[]);
    }

    /// Hands on what came out of payloads. `received` is the buffer of the other packets.
    fn deliver_unpacked(&mut self, received: &[u8]) {
        for (device, packet) in self.unpacked.all() {
            self.deliveries.push_own(device, received, [packet, &[]]);
        }
        self.unpacked.clear();
    }

    pub(crate) fn relocate(&mut self, id: ChildId, transport: Transport, path_mtu: Option<usize>) {
        self.sas.relocate(id, transport);
        if let Some(mtu) = path_mtu {
            self.learn_path(id, mtu);
        }
    }

    pub(crate) fn remove(&mut self, id: ChildId, now: Instant) {
        self.retire(id, now);
        self.tunnels.remove(id);
        self.sas.remove(id);
    }

    /// The SAs whose packets leave for an address.
    pub(crate) fn towards(&self, remote: IpAddr) -> Vec<ChildId> {
        self.sas.towards(remote)
    }

    /// The way to the peer of an SA carries outer packets of up to `mtu` octets.
    pub(crate) fn learn_path(&mut self, id: ChildId, mtu: usize) {
        self.sas.learn_path(id, mtu);
        // Payloads of another length are full with more, or less.
        self.tunnels.moves(id);
    }

    /// The kernel has taken these packets of a train.
    pub(crate) fn sent(&mut self, trains: &Trains, train: &Train, packets: Range<usize>, now: Instant) {
        let moment = self.report.clock.number(now);
        for (sa, _, (count, octets)) in trains.by_sa(train, packets) {
            self.sas.sent(sa, count, octets, moment);
        }
    }

    /// All trains have been sent, or given up.
    pub(crate) fn all_sent(&mut self) {
        self.trains.clear();
        self.sas.bury();
    }

    /// Do packets wait that [`sweep`](Self::sweep) has to look after?
    pub(crate) fn has_waiting(&self) -> bool {
        !self.held.is_empty()
    }

    /// Gives up packets that have waited too long.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let Self { held, tap, policies, report, .. } = self;
        held.sweep(now, |policy, packet| {
            report.counts.dropped(DropCause::NoSa, 1);
            if let Some(tap) = tap {
                tap.note_waited(packet, now);
                tap.settle(0, policies.name(policy), None, Some(DropCause::NoSa.as_str()));
            }
        });
    }

    /// Tells the sender of a packet what is wrong with it, rates permitting. The message comes in by the TUN device as if the
    /// packet's destination had sent it: no address of this machine would be let in there.
    fn tell(
        &mut self,
        device: Device,
        split: &Split<'_>,
        index: usize,
        now: Instant,
        message: impl FnOnce(&[u8], IpAddr) -> Option<Vec<u8>>,
    ) {
        let ip::Flow { source, destination, .. } = *split.flow();
        if self.senders.allow(source, now)
            && let Some(inner) = split.to_vec(index)
            && let Some(message) = message(&inner, destination)
        {
            self.deliveries.push_own(device, &[], [&message, &[]]);
        }
    }
}

/// Is it any part of a packet but the whole? IPv6 fragment headers behind other extension headers are not looked for.
fn is_fragment(packet: &[u8], flow: &ip::Flow) -> bool {
    flow.fragment
        || match packet {
            [first, _, _, _, _, _, flags, ..] if first >> 4 == 4 => flags & 0x20 != 0,
            [_, _, _, _, _, _, next_header, ..] => *next_header == 44,
            _ => false,
        }
}

/// What becomes of a packet without an SA.
fn no_sa(policies: &Policies, device: Device, flow: &ip::Flow) -> Refusal {
    match policies.of(device, flow).find(|policy| policies.traps.contains(policy)) {
        Some(trap) => Refusal::Wait(trap),
        None => Refusal::Drop(match policies.action(device, flow) {
            Some(Action::Protect) => DropCause::NoSa,
            Some(Action::Discard) => DropCause::Discarded,
            Some(Action::Bypass) | None => DropCause::NoPolicy,
        }),
    }
}

/// ESP as a raw socket receives it: IPv4 sockets show the outer header, IPv6 sockets do not.
fn without_ip_header(v6: bool, datagram: &mut [u8]) -> Option<&mut [u8]> {
    if v6 {
        return Some(datagram);
    }
    let header_len = usize::from(datagram.first()? & 0x0f) * 4;
    datagram.get_mut(header_len..)
}

impl Report {
    fn ike(&mut self, arrival: &Arrival, message: &[u8]) {
        self.counts.ike_received.add(1);
        let (Some(remote), Some(local)) = (arrival.remote, arrival.local) else { return };
        self.events.push(NetEvent::Ike { local, remote, datagram: message.to_vec() });
    }

    fn limit_soon(&mut self, id: ChildId, counts: &SaCounts) {
        if counts.soon.is_first() {
            self.events.push(NetEvent::LimitSoon { id });
        }
    }

    fn limit_reached(&mut self, id: ChildId, counts: &SaCounts) {
        if counts.reached.is_first() {
            self.events.push(NetEvent::LimitReached { id });
        }
    }
}

/// Lets a few things per second happen that anyone outside can cause.
#[derive(Clone)]
struct Limiter {
    per_second: u32,
    second: Option<Instant>,
    left: u32,
}

impl Limiter {
    fn new(per_second: u32) -> Self {
        Self { per_second, second: None, left: 0 }
    }

    fn allow(&mut self, now: Instant) -> bool {
        if self.second.is_none_or(|second| now.duration_since(second) >= Duration::from_secs(1)) {
            self.second = Some(now);
            self.left = self.per_second;
        }
        self.left.checked_sub(1).inspect(|left| self.left = *left).is_some()
    }
}

/// Lets each sender be told a few things per second, and all of them more: one who sends much does not use up what is for
/// others, but for those few who share a place with him by chance.
struct Senders {
    all: Limiter,
    secret: RandomState,
    each: Vec<Limiter>,
}

impl Senders {
    fn new() -> Self {
        Self { all: Limiter::new(1000), secret: RandomState::new(), each: vec![Limiter::new(20); 256] }
    }

    fn allow(&mut self, sender: IpAddr, now: Instant) -> bool {
        let place = self.secret.hash_one(sender) as usize % self.each.len();
        self.each.get_mut(place).is_some_and(|one| one.allow(now)) && self.all.allow(now)
    }
}
