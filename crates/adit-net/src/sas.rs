//! The SAs of a worker: which there are, which of them carries a packet, and how much each may still carry. It owns both
//! halves of every Child SA and all their state. It reads nothing and sends nothing: that is the worker's.
//!
//! The outbound half of an SA is standby until it is told, or shown by the peer, that the peer is ready for it; then
//! it is active; then it is retired, which ends it. The inbound half works from installation to removal.
//!
//! What a packet costs does not depend on how many SAs there are: inbound one lookup by SPI; outbound the policy's newest SA
//! if it fits, else one lookup for each length of prefix among the policy's SAs. An SA that carries nothing costs nothing.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_esp::tunnel::Ecn;
use adit_esp::{Error as SaError, InboundSa, Opened, OutboundSa, SaParameters, SealError};
use adit_wire::ikev2::TrafficSelector;
use adit_wire::ip;

use crate::Error;
use crate::backend::{ChildId, Limits, NetConfig, NetEvent, PolicyId, Treatment, UdpEncap};
use crate::counters::{DropCause, SaCounts};
use crate::path::Path;
use crate::sockets::{Kind, Outer, Sockets};
use crate::sys::Received;
use crate::tun::Tun;
use crate::worker::{Policies, Report};

/// The SAs of one worker.
#[derive(Default)]
pub(crate) struct Sas {
    inbound: HashMap<u32, Inbound>,
    outbound: HashMap<PolicyId, Active>,
    standby: HashMap<ChildId, Outbound>,
    places: HashMap<ChildId, Place>,
    /// How many have become active.
    activations: u64,
}

/// The active SAs of one policy.
#[derive(Default)]
struct Active {
    /// The one that became active last comes last.
    by_age: BTreeMap<u64, Outbound>,
    by_destination: Destinations,
}

/// Where the parts of a Child SA are.
struct Place {
    spi: u32,
    policy: PolicyId,
    /// In [`Active::by_age`], while it is there.
    age: Option<u64>,
}

/// Both halves of a Child SA, ready to work.
pub(crate) struct NewChild {
    pub(crate) id: ChildId,
    pub(crate) policy: PolicyId,
    pub(crate) active: bool,
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Outbound,
}

impl Sas {
    /// Returns the policy that has an active SA now.
    pub(crate) fn install(&mut self, child: NewChild, mark: u32) -> Option<PolicyId> {
        let NewChild { id, policy, active, inbound, mut outbound } = child;
        let spi = inbound.sa.spi().0;
        outbound.learn_path(Instant::now(), mark);
        self.places.insert(id, Place { spi, policy, age: None });
        // The peer may send as soon as it sees our first packet.
        self.inbound.insert(spi, inbound);
        self.standby.insert(id, outbound);
        active.then(|| self.switch(id)).flatten()
    }

    /// Makes the outbound half active, if it is on standby. Returns the policy that it carries the packets of.
    pub(crate) fn switch(&mut self, id: ChildId) -> Option<PolicyId> {
        let outbound = self.standby.remove(&id)?;
        let place = self.places.get_mut(&id)?;
        if let Some(inbound) = self.inbound.get_mut(&place.spi) {
            inbound.standby = false;
        }
        self.activations += 1;
        place.age = Some(self.activations);
        let active = self.outbound.entry(place.policy).or_default();
        active.by_destination.insert(self.activations, &outbound.destinations);
        active.by_age.insert(self.activations, outbound);
        Some(place.policy)
    }

    /// Ends the outbound half, and wipes its keys.
    pub(crate) fn retire(&mut self, id: ChildId) {
        let Some(Place { spi, policy, age }) = self.places.get_mut(&id) else { return };
        self.standby.remove(&id);
        if let Some(inbound) = self.inbound.get_mut(spi) {
            inbound.standby = false;
        }
        let Some(age) = age.take() else { return };
        let Some(active) = self.outbound.get_mut(policy) else { return };
        if let Some(outbound) = active.by_age.remove(&age) {
            active.by_destination.remove(age, &outbound.destinations);
        }
        if active.by_age.is_empty() {
            self.outbound.remove(policy);
        }
    }

    pub(crate) fn remove(&mut self, id: ChildId) {
        self.retire(id);
        if let Some(place) = self.places.remove(&id) {
            self.inbound.remove(&place.spi);
        }
    }

    pub(crate) fn relocate(&mut self, id: ChildId, transport: Transport, mark: u32) {
        let Some(Place { spi, policy, age }) = self.places.get(&id) else { return };
        if let Some(inbound) = self.inbound.get_mut(spi) {
            inbound.transport = transport;
            inbound.moved = None;
        }
        let active = age.and_then(|age| self.outbound.get_mut(policy)?.by_age.get_mut(&age));
        if let Some(outbound) = active.or_else(|| self.standby.get_mut(&id)) {
            outbound.transport = transport;
            outbound.learn_path(Instant::now(), mark);
        }
    }

    pub(crate) fn inbound(&mut self, spi: u32) -> Option<&mut Inbound> {
        self.inbound.get_mut(&spi)
    }

    /// Seals an inner packet at the end of `buffer`, on the SA for it: of its policy, the one that became active last among
    /// those whose selectors it fits. An SA may be narrower than its policy, and what does not fit would be dropped by
    /// the peer. Policies that describe the packet equally well stand in for each other.
    pub(crate) fn seal(
        &mut self,
        policies: &Policies,
        inner: &[u8],
        buffer: &mut Vec<u8>,
        (now, mark): (Instant, u32),
        report: &Report,
    ) -> Result<Sealed, Refusal> {
        let flow = ip::flow(inner).map_err(|_| Refusal::Drop(DropCause::Malformed))?;
        // Each round ends it, or an SA.
        loop {
            let mut spent = None;
            for policy in policies.of(&flow) {
                let active = self.outbound.get_mut(&policy);
                let Some(outbound) = active.and_then(|active| active.find(&flow)) else { continue };
                match outbound.seal(inner, buffer, (now, mark), report)? {
                    Some(sealed) => return Ok(sealed),
                    None => spent = Some(outbound.id),
                }
                break;
            }
            match spent {
                Some(id) => self.retire(id),
                None => return Err(no_sa(policies, &flow)),
            }
        }
    }
}

/// What becomes of a packet without an SA.
fn no_sa(policies: &Policies, flow: &ip::Flow) -> Refusal {
    match policies.of(flow).find(|policy| policies.traps.contains(policy)) {
        Some(trap) => Refusal::Wait(trap),
        None if policies.of(flow).next().is_none() => Refusal::Drop(DropCause::NoPolicy),
        None => Refusal::Drop(DropCause::NoSa),
    }
}

impl Active {
    /// The newest SA that a packet fits.
    fn find(&mut self, flow: &ip::Flow) -> Option<&mut Outbound> {
        let fits = |sa: &Outbound| sa.sa.selectors().admit_outbound(flow);
        let (newest, sa) = self.by_age.last_key_value()?;
        let age = if fits(sa) {
            *newest
        } else {
            let fits = |age| self.by_age.get(&age).is_some_and(fits);
            self.by_destination.newest(flow.destination, fits)?
        };
        self.by_age.get_mut(&age)
    }
}

/// Which SAs may carry packets to an address: for each prefix that SAs have on the peer's side their ages, rising.
#[derive(Debug, Default)]
struct Destinations {
    prefixes: HashMap<Prefix, Vec<u64>>,
    /// How many prefixes there are of each family and length.
    lengths: BTreeMap<(bool, u8), usize>,
}

type Prefix = (IpAddr, u8);

impl Destinations {
    /// `age` is above all others.
    fn insert(&mut self, age: u64, prefixes: &[Prefix]) {
        for prefix in prefixes {
            let ages = self.prefixes.entry(*prefix).or_insert_with(|| {
                *self.lengths.entry((prefix.0.is_ipv6(), prefix.1)).or_default() += 1;
                Vec::new()
            });
            ages.push(age);
        }
    }

    fn remove(&mut self, age: u64, prefixes: &[Prefix]) {
        for prefix in prefixes {
            let Some(ages) = self.prefixes.get_mut(prefix) else { continue };
            if let Ok(place) = ages.binary_search(&age) {
                ages.remove(place);
            }
            if ages.is_empty() {
                self.prefixes.remove(prefix);
                let length = (prefix.0.is_ipv6(), prefix.1);
                if let Some(count) = self.lengths.get_mut(&length) {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&length);
                    }
                }
            }
        }
    }

    /// The greatest age that fits.
    fn newest(&self, destination: IpAddr, fits: impl Fn(u64) -> bool) -> Option<u64> {
        let v6 = destination.is_ipv6();
        let prefixes =
            self.lengths.range((v6, 0)..=(v6, 128)).map(|((_, len), _)| network(destination, *len));
        let ages = prefixes.filter_map(|prefix| self.prefixes.get(&prefix));
        ages.filter_map(|ages| ages.iter().rev().copied().find(|age| fits(*age))).max()
    }
}

/// The prefix of a length that an address lies in.
fn network(address: IpAddr, len: u8) -> Prefix {
    let network = match address {
        IpAddr::V4(v4) => {
            let host = u32::MAX.checked_shr(len.into()).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & !host).into())
        }
        IpAddr::V6(v6) => {
            let host = u128::MAX.checked_shr(len.into()).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & !host).into())
        }
    };
    (network, len)
}

/// The smallest prefix of each selector: one each, however odd a range the peer has negotiated.
fn prefixes(selectors: &[TrafficSelector]) -> Vec<Prefix> {
    let smallest = |selector: &TrafficSelector| match (selector.start, selector.end) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Some(network(first.into(), (first.to_bits() ^ last.to_bits()).leading_zeros() as u8))
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            Some(network(first.into(), (first.to_bits() ^ last.to_bits()).leading_zeros() as u8))
        }
        _ => None,
    };
    let mut prefixes: Vec<Prefix> = selectors.iter().filter_map(smallest).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
}

/// The inbound half of a Child SA.
pub(crate) struct Inbound {
    id: ChildId,
    sa: InboundSa,
    /// Does the outbound half wait for the peer's first packet?
    standby: bool,
    allowance: Allowance,
    spent: bool,
    /// How the outbound half sends.
    transport: Transport,
    /// Where the peer's packets arrive and come from instead, as reported.
    moved: Option<(SocketAddr, SocketAddr)>,
    moved_at: Option<Instant>,
    counts: Arc<SaCounts>,
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
        counts: Arc<SaCounts>,
    ) -> Self {
        Self {
            id,
            sa,
            standby: !active,
            allowance: limits.into(),
            spent: false,
            transport,
            moved: None,
            moved_at: None,
            counts,
        }
    }

    /// Opens a packet and hands it to the kernel. Returns the SA's name if the packet is the peer's first, and the
    /// outbound half has waited for it.
    pub(crate) fn open(
        &mut self,
        esp: &mut [u8],
        (outer, about): (&Outer, &Received),
        now: Instant,
        tun: &Tun,
        report: &Report,
    ) -> Option<ChildId> {
        if self.spent {
            report.counts.dropped(DropCause::Limit);
            return None;
        }
        let before = self.sa.window().top();
        match self.sa.open_marked(esp, Ecn::from_traffic_class(about.tos)) {
            Ok(opened) => {
                self.counts.last_in.set(report.clock.number(now));
                if let Opened::Packet(inner) = opened {
                    self.deliver(inner, tun, report);
                }
            }
            Err(cause) => {
                tracing::trace!(id = self.id.0, %cause, "ESP dropped");
                self.counts.dropped(cause);
                report.counts.dropped(DropCause::Refused);
            }
        }
        // Only what is authentic moves the window, and what is late or replayed does not move it forward.
        if self.sa.window().top() == before {
            return None;
        }
        self.watch(outer, about, now, report);
        self.standby.then_some(self.id)
    }

    fn deliver(&mut self, inner: &[u8], tun: &Tun, report: &Report) {
        let (packets, bytes) =
            (self.counts.packets_in.read() + 1, self.counts.bytes_in.read() + inner.len() as u64);
        if self.allowance.is_spent(packets, bytes) {
            self.spent = true;
            report.limit_reached(self.id, &self.counts);
        } else if self.allowance.is_short(packets, bytes) {
            report.limit_soon(self.id, &self.counts);
        }
        if !self.allowance.admits(packets, bytes) {
            report.counts.dropped(DropCause::Limit);
            return;
        }
        self.counts.packets_in.set(packets);
        self.counts.bytes_in.set(bytes);
        if let Err(error) = tun.write(inner) {
            tracing::debug!(%error, "the kernel does not take a packet from the tunnel");
            report.counts.dropped(DropCause::Deliver);
        }
    }

    /// Reports where the peer is, if that is not where we send.
    fn watch(&mut self, outer: &Outer, about: &Received, now: Instant, report: &Report) {
        let (Some(local), Some(remote)) = (outer.local(about), about.source) else { return };
        let Transport { kind, source, destination } = self.transport;
        let expected = outer.kind == kind
            && (local.ip() == source || source.is_unspecified())
            && (remote.ip(), remote.port()) == (destination.ip(), destination.port());
        if expected {
            self.moved = None;
        } else if self.moved != Some((local, remote))
            && self.moved_at.is_none_or(|last| now.duration_since(last) >= MOVES)
        {
            self.moved = Some((local, remote));
            self.moved_at = Some(now);
            (report.events)(NetEvent::PeerMoved { id: self.id, local, remote });
        }
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
    sa: OutboundSa,
    /// The peer's side, coarsely.
    destinations: Vec<Prefix>,
    transport: Transport,
    treatment: Treatment,
    allowance: Allowance,
    /// The longest inner packet that fits the path, as far as it is known, and when that was last looked up.
    max_inner: usize,
    learnt: Option<Instant>,
    counts: Arc<SaCounts>,
}

/// How sealed packets get to the peer.
#[derive(Clone, Copy, Debug)]
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
        treatment: Treatment,
        counts: Arc<SaCounts>,
    ) -> Result<Self, SaError> {
        let destinations = prefixes(&parameters.remote_ts);
        Ok(Self {
            id,
            sa: OutboundSa::new(parameters)?,
            destinations,
            transport,
            treatment,
            allowance: limits.into(),
            max_inner: usize::MAX,
            learnt: None,
            counts,
        })
    }

    /// Seals one packet at the end of `buffer`; `None`: the SA may not carry any more.
    fn seal(
        &mut self,
        inner: &[u8],
        buffer: &mut Vec<u8>,
        (now, mark): (Instant, u32),
        report: &Report,
    ) -> Result<Option<Sealed>, Refusal> {
        if inner.len() > SMALL && self.learnt.is_none_or(|learnt| now.duration_since(learnt) >= PATH_LIFETIME)
        {
            self.learn_path(now, mark);
        }
        if let Some(mtu) = refused_mtu(inner, self.max_inner) {
            return Err(Refusal::TooBig { mtu });
        }
        let used = self.sa.counters();
        let (packets, bytes) = (used.packets + 1, used.bytes + inner.len() as u64);
        if !self.allowance.admits(packets, bytes) {
            report.limit_reached(self.id, &self.counts);
            return Ok(None);
        }
        let start = buffer.len();
        match self.sa.seal(inner, buffer) {
            Ok(()) => {}
            Err(SealError::SequenceExhausted) => {
                report.limit_reached(self.id, &self.counts);
                return Ok(None);
            }
            Err(_) => return Err(Refusal::Drop(DropCause::Malformed)),
        }
        if self.allowance.is_spent(packets, bytes) {
            report.limit_reached(self.id, &self.counts);
        } else if self.allowance.is_short(packets, bytes) || self.sa.rekey_due() {
            report.limit_soon(self.id, &self.counts);
        }
        let tos = self.treatment.outer.fields(inner).traffic_class;
        let counts = Arc::clone(&self.counts);
        Ok(Some(Sealed {
            transport: self.transport,
            tos,
            octets: start..buffer.len(),
            inner_len: inner.len(),
            counts,
        }))
    }

    fn learn_path(&mut self, now: Instant, mark: u32) {
        let remote = self.transport.destination.ip();
        self.learnt = Some(now);
        match Path::to(remote, mark).and_then(|path| path.mtu()) {
            Ok(mtu) => {
                self.max_inner = self.sa.max_inner(mtu, self.transport.kind == Kind::NatT, remote.is_ipv6());
            }
            // Without a route nothing can be sent, whatever its size.
            Err(error) => tracing::debug!(%error, %remote, "no path MTU"),
        }
    }
}

/// The MTU to tell the sender of a packet that does not fit and that it may be asked to cut, `None` if the packet
/// is to be sent. Inner IPv4 packets without DF and IPv6 packets of the minimum MTU are sent in any case.
fn refused_mtu(inner: &[u8], max_inner: usize) -> Option<usize> {
    if inner.len() <= max_inner {
        return None;
    }
    match inner {
        [first, _, _, _, _, _, flags, ..] if first >> 4 == 4 => (flags & 0x40 != 0).then_some(max_inner),
        _ => (inner.len() > IPV6_MIN_MTU).then_some(max_inner.max(IPV6_MIN_MTU)),
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

/// One sealed packet of a batch.
pub(crate) struct Sealed {
    pub(crate) transport: Transport,
    pub(crate) tos: u8,
    /// Its place in the batch's buffer.
    pub(crate) octets: Range<usize>,
    pub(crate) inner_len: usize,
    pub(crate) counts: Arc<SaCounts>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_found_as_by_reading_the_whole_list() {
        let range = |first: [u8; 4], last: [u8; 4]| TrafficSelector {
            start: first.into(),
            end: last.into(),
            ..TrafficSelector::any_v4()
        };
        let mut all = vec![
            vec![TrafficSelector::any_v4()],
            vec![range([10, 2, 0, 0], [10, 2, 255, 255]), range([10, 3, 0, 0], [10, 3, 0, 255])],
            vec![TrafficSelector::any_v6(), range([10, 2, 0, 7], [10, 2, 0, 7])],
            vec![range([10, 2, 0, 5], [10, 2, 0, 9])],
            vec![TrafficSelector::subnet("fd00:2::".parse().unwrap(), 64)],
            vec![range([10, 2, 0, 7], [10, 2, 0, 7])],
            vec![range([0, 0, 0, 0], [255, 255, 255, 254])],
        ];
        let mut destinations = Destinations::default();
        for (age, selectors) in all.iter().enumerate() {
            destinations.insert(age as u64, &prefixes(selectors));
        }
        let addresses =
            ["10.2.0.7", "10.2.0.5", "10.2.9.9", "10.3.0.1", "10.3.1.1", "255.255.255.255", "0.0.0.0"]
                .into_iter()
                .chain(["fd00:2::1", "fd00:3::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]);
        let addresses: Vec<IpAddr> = addresses.map(|text| text.parse().unwrap()).collect();
        let mut found = 0;
        while !all.is_empty() {
            for address in &addresses {
                let fits = |selectors: &Vec<TrafficSelector>| {
                    selectors.iter().any(|ts| (ts.start..=ts.end).contains(address))
                };
                let expected = all.iter().rposition(fits).map(|age| age as u64);
                assert_eq!(
                    destinations.newest(*address, |age| fits(&all[age as usize])),
                    expected,
                    "{address}"
                );
                found += usize::from(expected.is_some());
            }
            let age = all.len() as u64 - 1;
            destinations.remove(age, &prefixes(&all.pop().unwrap()));
        }
        assert!(found > 20 && destinations.prefixes.is_empty() && destinations.lengths.is_empty());
    }

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
        assert_eq!(refused_mtu(&ipv4(1300, true), 1300), None);
        assert_eq!(refused_mtu(&ipv4(1301, true), 1300), Some(1300));
        assert_eq!(refused_mtu(&ipv4(1301, false), 1300), None);
        assert_eq!(refused_mtu(&ipv6(1301), 1300), Some(1300));
        assert_eq!(refused_mtu(&ipv6(1280), 1200), None, "no IPv6 sender goes below 1280");
        assert_eq!(refused_mtu(&ipv6(1281), 1200), Some(1280));
    }
}
