//! A plain model of the engine, written from RFC 4301, 4303 and 6040 and from what the engine's documents promise: lists that
//! are read from the beginning, packets that are copied, sets of sequence numbers. It knows nothing of trains, joined packets,
//! slots, caches and super-packets, and takes nothing from adit-esp but the names of settings.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_esp::tunnel::{DontFragment, Dscp, Tfc};
use adit_esp::{Action, Drop, Mss};
use adit_wire::ikev2::{Spi, TrafficSelector};

use super::keys::Keys;
use super::memory::{Allowed, FirstFragments, Window};
use super::packet::{self, Pair, Parsed};
use super::policies::{Line, admits, ends, lines};
use super::stream::Stream;
use crate::backend::{ChildId, Limits, NetEvent, PolicyId, PolicySpec, Treatment};
use crate::counters::DropCause;
use crate::engine::half::Transport;
use crate::engine::offload::Offload;
use crate::engine::{Arrival, Device};
use crate::sockets::Kind;

/// The engine as it should be.
pub(super) struct Model {
    lines: BTreeMap<Device, Vec<Line>>,
    traps: BTreeSet<PolicyId>,
    pub(super) sas: BTreeMap<ChildId, Sa>,
    activations: u64,
    waiting: BTreeMap<PolicyId, Waiting>,
    swept: Option<Instant>,
    first_fragments_out: FirstFragments,
    first_fragments_in: FirstFragments,
    /// Unknown SPIs that are told: a hundred a second.
    strangers: Allowed,
    /// Messages to senders: a thousand a second in all, and twenty for those who share one of 256 places.
    told: Allowed,
    told_to: Vec<Allowed>,
    places: RandomState,
    pub(super) did: Did,
}

/// What leaves the engine.
#[derive(Default)]
pub(super) struct Did {
    pub(super) sealed: Vec<Sealed>,
    pub(super) delivered: Vec<(Device, Vec<u8>)>,
    pub(super) events: Vec<NetEvent>,
    pub(super) paths: Vec<(ChildId, IpAddr)>,
    pub(super) drops: [u64; DropCause::ALL.len()],
    pub(super) ike: u64,
    pub(super) keepalives: u64,
}

/// A packet that leaves in ESP.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) id: ChildId,
    pub(super) sequence: u64,
    pub(super) next_header: u8,
    pub(super) payload: Vec<u8>,
    /// Octets of ESP.
    pub(super) len: usize,
    /// Octets of the inner packet.
    pub(super) inner_len: usize,
    pub(super) transport: Transport,
    pub(super) class: u8,
    pub(super) dont_fragment: bool,
    pub(super) hop_limit: Option<u8>,
}

/// A Child SA.
pub(super) struct Sa {
    pub(super) id: ChildId,
    pub(super) policy: PolicyId,
    pub(super) settings: Settings,
    pub(super) keys_in: Keys,
    pub(super) keys_out: Keys,
    pub(super) window: Window,
    /// No outbound half any more.
    pub(super) ended: bool,
    /// Which in the order of those that became active; those that are this worker's own come after all others.
    age: Option<(bool, u64)>,
    /// Sequence number of the last packet.
    pub(super) last: u64,
    sealed: (u64, u64),
    /// The inbound half may carry nothing more.
    spent: bool,
    transport: Transport,
    moved: Option<(SocketAddr, SocketAddr)>,
    moved_at: Option<Instant>,
    pub(super) stream: Option<Stream>,
    max_inner: usize,
    /// What the inbound half knows of it.
    max_inner_in: usize,
    learnt: Option<Instant>,
    soon: bool,
    reached: bool,
    pub(super) counts: Counts,
}

/// What a Child SA is made with.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) host_to_host: bool,
    /// In IP-TFS mode, and does the peer take packets in parts?
    pub(super) iptfs: Option<bool>,
    pub(super) device: Device,
    /// For this worker alone (RFC 9611).
    pub(super) own: bool,
    pub(super) spi_in: u32,
    pub(super) spi_out: u32,
    /// Of the inbound half: local, remote.
    pub(super) selectors_in: [Vec<TrafficSelector>; 2],
    pub(super) selectors_out: [Vec<TrafficSelector>; 2],
    pub(super) original: Option<(IpAddr, IpAddr)>,
    pub(super) limits: Limits,
    pub(super) treatment: Treatment,
    /// The same as in the treatment, local and remote.
    pub(super) pairs: [Vec<Pair>; 2],
    pub(super) tun_mtu: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) packets_in: u64,
    pub(super) bytes_in: u64,
    pub(super) packets_out: u64,
    pub(super) bytes_out: u64,
    pub(super) heard: Option<Instant>,
    pub(super) last_in: Option<Instant>,
    pub(super) last_out: Option<Instant>,
    pub(super) drops: [u64; Drop::ALL.len()],
}

/// What waits for an SA of a policy.
#[derive(Default)]
struct Waiting {
    packets: VecDeque<(Instant, Vec<u8>)>,
    asked: Option<Instant>,
}

/// Why packets do not leave.
enum Refused {
    Drop(DropCause),
    TooBig(usize),
    Wait(PolicyId),
}

impl Model {
    pub(super) fn new(secret: u64, places: RandomState) -> Self {
        Self {
            lines: BTreeMap::new(),
            traps: BTreeSet::new(),
            sas: BTreeMap::new(),
            activations: 0,
            waiting: BTreeMap::new(),
            swept: None,
            first_fragments_out: FirstFragments::new(secret),
            first_fragments_in: FirstFragments::new(secret),
            strangers: Allowed::default(),
            told: Allowed::default(),
            told_to: vec![Allowed::default(); 256],
            places,
            did: Did::default(),
        }
    }

    pub(super) fn follow(&mut self, policies: &[PolicySpec], device: impl Fn(&PolicySpec) -> Device) {
        let devices: BTreeSet<Device> = policies.iter().map(&device).collect();
        let of = |one| policies.iter().filter(|policy| device(policy) == one).collect::<Vec<_>>();
        self.lines = devices.into_iter().map(|one| (one, lines(&of(one)))).collect();
        self.traps = policies.iter().filter(|policy| policy.trap).map(|policy| policy.id).collect();
    }

    fn drop(&mut self, cause: DropCause, packets: usize) {
        self.did.drops[cause as usize] += packets as u64;
    }

    /// May this sender be told?
    fn tells(&mut self, sender: IpAddr, now: Instant) -> bool {
        let place = self.places.hash_one(sender) as usize % self.told_to.len();
        self.told_to[place].one_of(20, now) && self.told.one_of(1000, now)
    }

    // Outbound.

    /// What a TUN device hands out.
    pub(super) fn outbound(&mut self, device: Device, octets: &[u8], offload: &Offload, now: Instant) {
        match packet::cut(octets, offload) {
            Some(packets) => self.send(device, packets, now, now),
            None => self.drop(DropCause::Malformed, 1),
        }
    }

    /// Packets of one flow, which came at `since`.
    fn send(&mut self, device: Device, packets: Vec<Vec<u8>>, since: Instant, now: Instant) {
        let mut flow = packet::parse(&packets[0]).expect("whole packets");
        let largest = packets[0].len();
        if self.first_fragments_out.complete(device.0 as u32, &mut flow, now).is_err() {
            return self.drop(DropCause::Malformed, packets.len());
        }
        // RFC 4291 2.5.2.
        if flow.source.is_unspecified() {
            return self.drop(DropCause::NoSource, packets.len());
        }
        let mut packets = VecDeque::from(packets);
        while !packets.is_empty() {
            let refused = match self.choose(device, &flow) {
                Ok(id) => self.seal_all(id, &mut packets, largest, now),
                Err(refused) => Some(refused),
            };
            let left = packets.len();
            match refused {
                // Another SA may take what is left.
                None => continue,
                Some(Refused::Drop(cause)) => {
                    self.drop(cause, left);
                    // RFC 4301 6: who sends into the interface of a connection what is not for it.
                    if (cause, device == Device(0)) == (DropCause::NoPolicy, false)
                        && self.tells(flow.source, now)
                        && let Some(message) = packet::prohibited(&packets[0])
                    {
                        self.did.delivered.push((device, message));
                    }
                }
                Some(Refused::Wait(policy)) => self.wait(policy, packets, since, now),
                Some(Refused::TooBig(mtu)) => {
                    self.drop(DropCause::TooBig, left);
                    if self.tells(flow.source, now)
                        && let Some(message) = packet::too_big(&packets[0], mtu)
                    {
                        self.did.delivered.push((device, message));
                    }
                }
            }
            return;
        }
    }

    /// The SA for a packet (RFC 4301 5.1): of the policy that comes first; where several describe it equally well and protect
    /// it, of any of them. The one that became active last among those that may carry it.
    fn choose(&self, device: Device, flow: &Parsed) -> Result<ChildId, Refused> {
        let fits: Vec<&Line> =
            self.lines.get(&device).into_iter().flatten().filter(|line| line.fits(flow)).collect();
        let Some(first) = fits.first() else { return Err(Refused::Drop(DropCause::NoPolicy)) };
        let equal: Vec<PolicyId> = fits
            .iter()
            .take_while(|line| line.rank == first.rank && line.action == Action::Protect)
            .map(|line| line.policy)
            .collect();
        for policy in &equal {
            let active = self.sas.values().filter(|sa| sa.policy == *policy && sa.age.is_some());
            let fitting = active.filter(|sa| sa.takes(flow));
            if let Some(newest) = fitting.max_by_key(|sa| sa.age) {
                return Ok(newest.id);
            }
        }
        if let Some(trap) = equal.iter().find(|policy| self.traps.contains(policy)) {
            return Err(Refused::Wait(*trap));
        }
        Err(Refused::Drop(match first.action {
            Action::Protect => DropCause::NoSa,
            Action::Discard => DropCause::Discarded,
            Action::Bypass => DropCause::NoPolicy,
        }))
    }

    /// Seals packets until there are none left, or one is refused, or the SA may carry no more: then it has ended.
    fn seal_all(
        &mut self,
        id: ChildId,
        packets: &mut VecDeque<Vec<u8>>,
        largest: usize,
        now: Instant,
    ) -> Option<Refused> {
        let sa = self.sas.get_mut(&id).expect("chosen");
        if largest > 512
            && sa.stream.is_none()
            && sa.learnt.is_none_or(|learnt| now - learnt >= Duration::from_secs(1))
        {
            sa.learnt = Some(now);
            self.did.paths.push((id, sa.transport.destination.ip()));
        }
        // RFC 4301 8.2.1. No IPv6 sender goes below 1280 octets.
        let v4 = packets[0][0] >> 4 == 4;
        if largest > sa.max_inner && v4 && !packet::may_be_divided(&packets[0]) {
            return Some(Refused::TooBig(sa.max_inner));
        }
        if largest > sa.max_inner && !v4 && largest > 1280 {
            return Some(Refused::TooBig(sa.max_inner.max(1280)));
        }
        while let Some(inner) = packets.front() {
            let parts = sa.parts(inner);
            let octets = parts.iter().map(Vec::len).sum();
            if !sa.may_seal(parts.len(), octets, &mut self.did.events) {
                self.end(id, now);
                return None;
            }
            for part in parts {
                let sealed = match &mut sa.stream {
                    Some(stream) => {
                        let [local, remote] = &sa.settings.pairs;
                        let mut came = part.clone();
                        packet::translate(&mut came, local, remote, false);
                        stream.queue(part, came, now).map(|()| None)
                    }
                    None => sa.seal(part).map(Some),
                };
                match sealed {
                    Ok(sealed) => self.did.sealed.extend(sealed),
                    Err(cause) => return Some(Refused::Drop(cause)),
                }
            }
            packets.pop_front();
        }
        None
    }

    /// The outbound half is no more. What waits for a payload of its looks for another SA.
    fn end(&mut self, id: ChildId, now: Instant) {
        let Some(sa) = self.sas.get_mut(&id) else { return };
        (sa.ended, sa.age) = (true, None);
        self.send_again(id, now);
    }

    /// As they came.
    fn send_again(&mut self, id: ChildId, now: Instant) {
        let Some(sa) = self.sas.get_mut(&id) else { return };
        let device = sa.settings.device;
        for inner in sa.stream.as_mut().map(Stream::take).unwrap_or_default() {
            self.send(device, vec![inner], now, now);
        }
    }

    // Time.

    /// When time alone moves an SA.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.sas.values().filter_map(Sa::deadline).min()
    }

    /// IP-TFS payloads leave, and those that have not come are given up.
    pub(super) fn on_time(&mut self, now: Instant) {
        let due = |sa: &Sa| sa.deadline().filter(|due| *due <= now).map(|due| (due, sa.id));
        let all: BTreeSet<(Instant, ChildId)> = self.sas.values().filter_map(due).collect();
        let mut unpacked = Vec::new();
        for (_, id) in all {
            if !self.payloads(id, now) {
                self.end(id, now);
            }
            let Some(sa) = self.sas.get_mut(&id) else { continue };
            let Some(stream) = &mut sa.stream else { continue };
            let (packets, lost) = stream.expire(now);
            unpacked.extend(sa.unpack(packets, lost, now, &mut self.did));
        }
        self.did.delivered.append(&mut unpacked);
    }

    /// The payloads that are due. `false`: the SA may carry no more.
    fn payloads(&mut self, id: ChildId, now: Instant) -> bool {
        let Some(sa) = self.sas.get_mut(&id).filter(|sa| !sa.ended) else { return true };
        let Some(mut stream) = sa.stream.take() else { return true };
        let due = stream.due(now);
        if due > 0 && sa.learnt.is_none_or(|learnt| now - learnt >= Duration::from_secs(1)) {
            sa.learnt = Some(now);
            self.did.paths.push((id, sa.transport.destination.ip()));
        }
        let mut goes_on = true;
        for _ in 0..due {
            if stream.is_idle() {
                break;
            }
            goes_on = sa.may_seal(1, 0, &mut self.did.events);
            if !goes_on {
                break;
            }
            let (payload, packets, octets, unfit) = stream.fill();
            self.did.drops[DropCause::TooBig as usize] += unfit;
            sa.counts.packets_out += packets;
            sa.last += 1;
            sa.sealed = (sa.sealed.0 + packets, sa.sealed.1 + octets as u64);
            // RFC 9347 2.2.5: nothing of what is inside shows outside.
            let outer = sa.settings.treatment.outer;
            self.did.sealed.push(Sealed {
                id,
                sequence: sa.last,
                next_header: 144,
                len: sa.keys_out.packet_len(payload.len()),
                payload,
                inner_len: octets,
                transport: sa.transport,
                class: if let Dscp::Set(dscp) = outer.dscp { dscp << 2 } else { 0 },
                dont_fragment: sa.transport.destination.is_ipv6() || outer.df != DontFragment::Clear,
                hop_limit: None,
            });
        }
        if due > 0 {
            stream.left(now);
        }
        sa.stream = Some(stream);
        goes_on
    }

    /// Asks for an SA once a second, and keeps the first packets.
    fn wait(&mut self, policy: PolicyId, packets: VecDeque<Vec<u8>>, since: Instant, now: Instant) {
        let waiting = self.waiting.entry(policy).or_default();
        if waiting.asked.is_none_or(|asked| now - asked >= Duration::from_secs(1)) {
            waiting.asked = Some(now);
            self.did.events.push(NetEvent::Acquire { policy });
        }
        let all = packets.len();
        for (index, inner) in packets.into_iter().enumerate() {
            let octets = |waiting: &Waiting, more: usize| -> usize {
                waiting.packets.iter().map(|(_, inner)| inner.len() + more).sum()
            };
            let in_all: usize = self.waiting.values().map(|waiting| octets(waiting, 56)).sum();
            let waiting = self.waiting.get_mut(&policy).expect("made above");
            let fits = waiting.packets.len() < 64
                && octets(waiting, 0) + inner.len() <= 64 << 10
                && in_all + inner.len() + 56 <= 1 << 20;
            if !fits {
                return self.drop(DropCause::NoSa, all - index);
            }
            waiting.packets.push_back((since, inner));
        }
    }

    /// Gives up what has waited for thirty seconds; looks once a second.
    pub(super) fn sweep(&mut self, now: Instant) {
        if self.waiting.is_empty() || self.swept.is_some_and(|swept| now - swept < Duration::from_secs(1)) {
            return;
        }
        self.swept = Some(now);
        let mut given_up = 0;
        for waiting in self.waiting.values_mut() {
            let old = |(since, _): &mut (Instant, Vec<u8>)| now - *since >= Duration::from_secs(30);
            while waiting.packets.pop_front_if(old).is_some() {
                given_up += 1;
            }
        }
        let asked_lately = |asked: Option<Instant>| asked.is_some_and(|at| now - at < Duration::from_secs(1));
        self.waiting.retain(|_, waiting| !waiting.packets.is_empty() || asked_lately(waiting.asked));
        self.drop(DropCause::NoSa, given_up);
    }

    // Inbound.

    /// One datagram.
    pub(super) fn inbound(&mut self, datagram: &[u8], arrival: &Arrival, now: Instant) {
        let esp = match arrival.kind {
            Kind::Ike => return self.ike(arrival, datagram),
            Kind::Esp if arrival.v6 => datagram,
            Kind::Esp => {
                let header = datagram.first().map_or(0, |first| usize::from(first & 15) * 4);
                datagram.get(header..).unwrap_or_default()
            }
            Kind::NatT => match datagram {
                // RFC 3948 2.2 and 2.3.
                [0xff] => {
                    self.did.keepalives += 1;
                    return;
                }
                [0, 0, 0, 0, ike @ ..] => return self.ike(arrival, ike),
                esp => esp,
            },
        };
        let Some(spi) = esp.first_chunk().copied().map(u32::from_be_bytes) else {
            return self.drop(DropCause::OuterMalformed, 1);
        };
        let Some(id) = self.sas.values().find(|sa| sa.settings.spi_in == spi).map(|sa| sa.id) else {
            self.drop(DropCause::UnknownSpi, 1);
            if let Some(remote) = arrival.remote
                && self.strangers.one_of(100, now)
            {
                self.did.events.push(NetEvent::UnknownSpi { spi: Spi(spi), remote });
            }
            return;
        };
        let sa = self.sas.get_mut(&id).expect("found");
        if sa.spent {
            return self.drop(DropCause::Limit, 1);
        }
        let before = sa.window.top;
        match sa.open(esp, arrival, &mut self.first_fragments_in, now) {
            Err(cause) => {
                sa.counts.drops[cause as usize] += 1;
                self.did.drops[DropCause::Refused as usize] += 1;
            }
            Ok(inner) => {
                sa.counts.heard = Some(now);
                if let Some(stream) = &mut sa.stream {
                    let (packets, lost) = stream.receive(sa.window.latest, inner.unwrap_or_default(), now);
                    let unpacked = sa.unpack(packets, lost, now, &mut self.did);
                    self.did.delivered.extend(unpacked);
                } else if let Some(mut inner) = inner {
                    if sa.may_deliver(inner.len(), &mut self.did.events) {
                        sa.counts.last_in = Some(now);
                        sa.treat_inbound(&mut inner, arrival.tos);
                        self.did.delivered.push((sa.settings.device, inner));
                    } else {
                        self.did.drops[DropCause::Limit as usize] += 1;
                    }
                }
            }
        }
        if sa.window.top > before {
            sa.watch(arrival, now, &mut self.did.events);
            // RFC 7296 2.8: the peer is ready for this SA.
            self.switch(id, now);
        }
    }

    fn ike(&mut self, arrival: &Arrival, message: &[u8]) {
        self.did.ike += 1;
        if let (Some(local), Some(remote)) = (arrival.local, arrival.remote) {
            self.did.events.push(NetEvent::Ike { local, remote, datagram: message.to_vec() });
        }
    }

    // Orders.

    pub(super) fn install(&mut self, sa: Sa, mtu: Option<usize>, active: bool, now: Instant) {
        let id = sa.id;
        self.sas.insert(id, sa);
        if let Some(mtu) = mtu {
            self.learn_path(id, mtu);
        }
        if active {
            self.switch(id, now);
        }
    }

    /// Makes an SA active, unless it is or has been, and sends what waits for its policy.
    pub(super) fn switch(&mut self, id: ChildId, now: Instant) {
        let Some(sa) = self.sas.get_mut(&id).filter(|sa| sa.age.is_none() && !sa.ended) else { return };
        self.activations += 1;
        sa.age = Some((sa.settings.own, self.activations));
        let (policy, device, own) = (sa.policy, sa.settings.device, sa.settings.own);
        if let Some(stream) = &mut sa.stream {
            stream.start(now);
        }
        // What waits for a payload of the one before it comes first.
        let older = self
            .sas
            .values()
            .filter(|sa| sa.policy == policy && sa.age.is_some() && sa.settings.own == own && sa.id != id);
        if let Some(before) = older.max_by_key(|sa| sa.age).map(|sa| sa.id) {
            self.send_again(before, now);
        }
        let Some(waiting) = self.waiting.get_mut(&policy) else { return };
        waiting.asked = None;
        for (since, inner) in std::mem::take(&mut waiting.packets) {
            self.send(device, vec![inner], since, now);
        }
    }

    pub(super) fn retire(&mut self, id: ChildId, now: Instant) {
        self.end(id, now);
    }

    pub(super) fn remove(&mut self, id: ChildId, now: Instant) {
        self.end(id, now);
        self.sas.remove(&id);
    }

    pub(super) fn relocate(&mut self, id: ChildId, transport: Transport, mtu: Option<usize>) {
        let Some(sa) = self.sas.get_mut(&id) else { return };
        (sa.transport, sa.moved, sa.learnt) = (transport, None, None);
        if let Some(mtu) = mtu {
            self.learn_path(id, mtu);
        }
    }

    pub(super) fn learn_path(&mut self, id: ChildId, mtu: usize) {
        let Some(sa) = self.sas.get_mut(&id).filter(|sa| !sa.ended) else { return };
        sa.resize(mtu);
        sa.max_inner_in = sa.max_inner;
    }

    pub(super) fn sent(&mut self, id: ChildId, packets: usize, octets: usize, now: Instant) {
        let Some(sa) = self.sas.get_mut(&id) else { return };
        // Those in payloads have been counted.
        sa.counts.packets_out += if sa.stream.is_none() { packets as u64 } else { 0 };
        sa.counts.bytes_out += octets as u64;
        if octets > 0 {
            sa.counts.last_out = Some(now);
        }
    }
}

impl Sa {
    pub(super) fn new(
        (id, policy): (ChildId, PolicyId),
        settings: Settings,
        (keys_in, keys_out): (Keys, Keys),
        window: Window,
        last: u64,
        transport: Transport,
    ) -> Self {
        let iptfs = settings.treatment.iptfs;
        let stream = settings.iptfs.map(|fragments| Stream::new(iptfs, fragments, window.top + 1));
        let mut sa = Self {
            id,
            policy,
            stream,
            settings,
            keys_in,
            keys_out,
            window,
            ended: false,
            age: None,
            last,
            sealed: (0, 0),
            spent: false,
            transport,
            moved: None,
            moved_at: None,
            max_inner: usize::MAX,
            max_inner_in: usize::MAX,
            learnt: None,
            soon: false,
            reached: false,
            counts: Counts::default(),
        };
        if sa.stream.is_some() {
            sa.resize(0);
        }
        sa
    }

    pub(super) fn transport(&self) -> Transport {
        self.transport
    }

    fn deadline(&self) -> Option<Instant> {
        let stream = self.stream.as_ref()?;
        let sends = if self.ended { None } else { stream.sends_next() };
        sends.into_iter().chain(stream.expires()).min()
    }

    /// The path takes outer packets of so many octets.
    fn resize(&mut self, mtu: usize) {
        self.max_inner = self.fits(mtu);
        if let Some(stream) = &mut self.stream {
            stream.len = self.max_inner;
            self.max_inner = if stream.fragments { usize::MAX } else { self.max_inner - 4 };
        }
    }

    /// Of packets that came in payloads those that may pass, as they pass.
    fn unpack(
        &mut self,
        packets: Vec<Vec<u8>>,
        lost: u64,
        now: Instant,
        did: &mut Did,
    ) -> Vec<(Device, Vec<u8>)> {
        did.drops[DropCause::PayloadLost as usize] += lost;
        let mut all = Vec::new();
        for mut inner in packets {
            let refused = match packet::parse(&inner) {
                None => Some(Drop::InnerHeader),
                Some(flow) if !self.brings(&flow) => Some(Drop::Selector),
                Some(_) => None,
            };
            if let Some(cause) = refused {
                self.counts.drops[cause as usize] += 1;
                did.drops[DropCause::Refused as usize] += 1;
            } else if self.may_deliver(inner.len(), &mut did.events) {
                self.counts.last_in = Some(now);
                self.treat_inbound(&mut inner, 0);
                all.push((self.settings.device, inner));
            } else {
                did.drops[DropCause::Limit as usize] += 1;
            }
        }
        all
    }

    fn takes(&self, flow: &Parsed) -> bool {
        let [local, remote] = &self.settings.selectors_out;
        let [source, destination] = ends(flow);
        local.iter().any(|ts| admits(ts, &source)) && remote.iter().any(|ts| admits(ts, &destination))
    }

    /// The longest inner packet for outer ones of `mtu` octets; what is told of IPv4 paths below 552 and IPv6 paths below 1280
    /// is not believed.
    fn fits(&self, mtu: usize) -> usize {
        let v6 = self.transport.destination.is_ipv6();
        let mtu = mtu.max(if v6 { 1280 } else { 552 });
        // Payloads may be wanted smaller.
        let mtu = match self.settings.treatment.iptfs.packet_size {
            0 => mtu,
            size if self.stream.is_some() => mtu.min(size.into()),
            _ => mtu,
        };
        let outer = if v6 { 40 } else { 20 } + if self.transport.kind == Kind::NatT { 8 } else { 0 };
        // The header of transport mode is the outer one.
        let own = if self.settings.host_to_host { self.settings.own_header() } else { 0 };
        (0..=mtu).rev().find(|len| outer + self.keys_out.packet_len(*len) <= mtu).map_or(0, |len| len + own)
    }

    /// A packet as it leaves, in parts if it may be divided and has to be (RFC 4301 8.2.1; RFC 4303 3.1.1: not in transport
    /// mode), with what else is done to it on the way.
    fn parts(&self, inner: &[u8]) -> Vec<Vec<u8>> {
        let Settings { treatment, pairs: [local, remote], tun_mtu, host_to_host, .. } = &self.settings;
        let mut inner = inner.to_vec();
        let len = inner.len();
        packet::translate(&mut inner, local, remote, true);
        if let Some(limit) = mss(treatment.mss) {
            packet::clamp(&mut inner, self.max_inner.min(*tun_mtu), limit);
        }
        if len > self.max_inner
            && !host_to_host
            && packet::may_be_divided(&inner)
            && let Some(parts) = packet::divide(&inner, self.max_inner)
        {
            return parts;
        }
        vec![inner]
    }

    /// Are there limits or sequence numbers left for all of these? Tells what is to be told.
    fn may_seal(&mut self, count: usize, octets: usize, events: &mut Vec<NetEvent>) -> bool {
        let count = count as u64;
        let (packets, octets) = (self.sealed.0 + count, self.sealed.1 + octets as u64);
        let last = if self.keys_out.esn { u64::MAX } else { u32::MAX.into() };
        let limits = self.settings.limits;
        let above = |limit: Option<u64>, used: u64| limit.is_some_and(|limit| used > limit);
        let at = |limit: Option<u64>, used: u64| limit.is_some_and(|limit| used >= limit);
        if above(limits.hard_packets, packets) || above(limits.hard_bytes, octets) || last - self.last < count
        {
            self.tell_reached(events);
            return false;
        }
        if at(limits.hard_packets, packets) || at(limits.hard_bytes, octets) {
            self.tell_reached(events);
        } else if at(limits.soft_packets, packets)
            || at(limits.soft_bytes, octets)
            // An eighth of its sequence numbers is left.
            || last - self.last <= last / 8
        {
            self.tell_soon(events);
        }
        true
    }

    fn tell_reached(&mut self, events: &mut Vec<NetEvent>) {
        if !std::mem::replace(&mut self.reached, true) {
            events.push(NetEvent::LimitReached { id: self.id });
        }
    }

    fn tell_soon(&mut self, events: &mut Vec<NetEvent>) {
        if !std::mem::replace(&mut self.soon, true) {
            events.push(NetEvent::LimitSoon { id: self.id });
        }
    }

    fn seal(&mut self, inner: Vec<u8>) -> Result<Sealed, DropCause> {
        let Settings { treatment, host_to_host, .. } = &self.settings;
        let flow = packet::parse(&inner).expect("whole packets");
        let class = packet::class(&inner);
        let (inner_len, at_least) = (inner.len(), self.tfc());
        // RFC 4301 8.1. No router divides IPv6.
        let dont_fragment = self.transport.destination.is_ipv6()
            || match treatment.outer.df {
                DontFragment::Set if !host_to_host => true,
                DontFragment::Clear if !host_to_host => false,
                _ => flow.v6 || !packet::may_be_divided(&inner),
            };
        let (next_header, payload, class, hop_limit) = if *host_to_host {
            // RFC 4303 3.1.1: no fragments; options and extension headers are not supported. 59 means a dummy in ESP, and 144
            // an IP-TFS payload.
            let header = if flow.v6 { 40 } else { 20 };
            if flow.fragment.is_some() || flow.upper != header || matches!(flow.protocol, 59 | 144) {
                return Err(DropCause::NotPlain);
            }
            let hops = if flow.v6 { inner[7] } else { inner[8] };
            (flow.protocol, inner[header..].to_vec(), class, Some(hops).filter(|hops| *hops > 0))
        } else {
            let dscp = match treatment.outer.dscp {
                Dscp::Copy => class & !3,
                Dscp::Set(dscp) => dscp << 2,
            };
            // RFC 6040 4.1.
            let ecn = if treatment.outer.copy_ecn { class & 3 } else { 0 };
            (if flow.v6 { 41 } else { 4 }, inner, dscp | ecn, None)
        };
        self.last += 1;
        self.sealed.0 += 1;
        self.sealed.1 += inner_len as u64;
        Ok(Sealed {
            id: self.id,
            sequence: self.last,
            next_header,
            len: self.keys_out.packet_len(payload.len().max(at_least)),
            inner_len,
            payload,
            transport: self.transport,
            class,
            dont_fragment,
            hop_limit,
        })
    }

    /// How long inner packets look at least (RFC 4303 2.7), where the payload says how long it is.
    fn tfc(&self) -> usize {
        match self.settings.treatment.tfc {
            _ if self.settings.host_to_host => 0,
            Tfc::Off => 0,
            Tfc::AtLeast(len) => usize::from(len).min(self.max_inner),
            Tfc::Path if self.max_inner == usize::MAX => 0,
            Tfc::Path => self.max_inner,
        }
    }

    /// RFC 4303 3.4 and RFC 4301 5.2. `None` inside is a dummy.
    fn open(
        &mut self,
        esp: &[u8],
        arrival: &Arrival,
        fragments: &mut FirstFragments,
        now: Instant,
    ) -> Result<Option<Vec<u8>>, Drop> {
        if esp.len() < 8 {
            return Err(Drop::Malformed);
        }
        let low = u32::from(packet::word(esp, 4)) << 16 | u32::from(packet::word(esp, 6));
        let sequence = self.window.check(low)?;
        let plaintext = self.keys_in.open(sequence, esp)?;
        self.window.record(sequence);
        // RFC 4303 2.4: padding counts up from 1.
        let [rest @ .., pad_len, next_header] = &plaintext[..] else { return Err(Drop::Padding) };
        let end = rest.len().checked_sub((*pad_len).into()).ok_or(Drop::Padding)?;
        let (payload, padding) = rest.split_at(end);
        if !padding.iter().copied().eq((1..=255).take(padding.len())) {
            return Err(Drop::Padding);
        }
        match *next_header {
            // RFC 9347 2.3: such an SA carries nothing else.
            144 if self.stream.is_some() => Ok(Some(payload.to_vec())),
            _ if self.stream.is_some() => Err(Drop::NextHeader),
            // RFC 4303 2.6.
            59 => Ok(None),
            protocol if self.settings.host_to_host => self.rebuild(arrival, protocol, payload).map(Some),
            4 | 41 => self.admit(arrival, *next_header, payload, fragments, now).map(Some),
            _ => Err(Drop::NextHeader),
        }
    }

    /// A packet in tunnel mode.
    fn admit(
        &self,
        arrival: &Arrival,
        next_header: u8,
        payload: &[u8],
        fragments: &mut FirstFragments,
        now: Instant,
    ) -> Result<Vec<u8>, Drop> {
        let (version, header) = if next_header == 4 { (4, 20) } else { (6, 40) };
        if payload.len() < 6 {
            return Err(Drop::InnerLength);
        }
        if payload[0] >> 4 != version {
            return Err(Drop::NextHeader);
        }
        // What is behind the packet hides its length (RFC 4303 2.7).
        let total = usize::from(word_at(payload, version)) + if version == 4 { 0 } else { 40 };
        if total < header || total > payload.len() {
            return Err(Drop::InnerLength);
        }
        let mut inner = payload[..total].to_vec();
        let mut flow = packet::parse(&inner).ok_or(Drop::InnerHeader)?;
        fragments.complete(self.settings.spi_in, &mut flow, now).map_err(|()| Drop::InnerHeader)?;
        if !self.brings(&flow) {
            return Err(Drop::Selector);
        }
        if !packet::decapsulate_ecn(&mut inner, arrival.tos) {
            return Err(Drop::Congestion);
        }
        Ok(inner)
    }

    /// A packet in transport mode, with the header that it came behind.
    fn rebuild(&self, arrival: &Arrival, protocol: u8, payload: &[u8]) -> Result<Vec<u8>, Drop> {
        let (Some(remote), Some(local)) = (arrival.remote, arrival.local) else { return Err(Drop::Selector) };
        let (source, destination) = (remote.ip(), local.ip());
        let header = if source.is_ipv4() { 20 } else { 0 };
        if payload.len() + header > 65_535 {
            return Err(Drop::InnerLength);
        }
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(Drop::Selector);
        }
        if source.is_ipv6() && packet::is_extension(protocol) {
            return Err(Drop::NextHeader);
        }
        let mut payload = payload.to_vec();
        if let Some((from, to)) = self.settings.original {
            // RFC 3948 3.1.2: the peer made the checksum with other addresses.
            let before = [packet::octets_of(from), packet::octets_of(to)].concat();
            let after = [packet::octets_of(source), packet::octets_of(destination)].concat();
            if protocol != 1 {
                packet::follow(&mut payload, protocol, &before, &after);
            }
        }
        let fields = (arrival.tos, arrival.hop_limit.unwrap_or(64));
        let inner = packet::whole((source, destination), protocol, fields, &payload);
        let flow = packet::parse(&inner).ok_or(Drop::InnerHeader)?;
        if self.brings(&flow) { Ok(inner) } else { Err(Drop::Selector) }
    }

    /// RFC 4301 5.2, step 4: is it of what was negotiated?
    fn brings(&self, flow: &Parsed) -> bool {
        let [local, remote] = &self.settings.selectors_in;
        let [source, destination] = ends(flow);
        remote.iter().any(|ts| admits(ts, &source)) && local.iter().any(|ts| admits(ts, &destination))
    }

    /// Counts an inner packet, if there is room for it.
    fn may_deliver(&mut self, len: usize, events: &mut Vec<NetEvent>) -> bool {
        let (packets, octets) = (self.counts.packets_in + 1, self.counts.bytes_in + len as u64);
        let limits = self.settings.limits;
        let above = |limit: Option<u64>, used: u64| limit.is_some_and(|limit| used > limit);
        let at = |limit: Option<u64>, used: u64| limit.is_some_and(|limit| used >= limit);
        if at(limits.hard_packets, packets) || at(limits.hard_bytes, octets) {
            self.spent = true;
            self.tell_reached(events);
        } else if at(limits.soft_packets, packets) || at(limits.soft_bytes, octets) {
            self.tell_soon(events);
        }
        if above(limits.hard_packets, packets) || above(limits.hard_bytes, octets) {
            return false;
        }
        (self.counts.packets_in, self.counts.bytes_in) = (packets, octets);
        true
    }

    fn treat_inbound(&self, inner: &mut [u8], outer: u8) {
        if self.settings.host_to_host {
            return;
        }
        if self.settings.treatment.dscp_inwards && self.stream.is_none() {
            let class = outer & !3 | packet::class(inner) & 3;
            packet::put_class(inner, class);
        }
        let Settings { treatment, pairs: [local, remote], tun_mtu, .. } = &self.settings;
        packet::translate(inner, remote, local, false);
        if let Some(limit) = mss(treatment.mss) {
            packet::clamp(inner, self.max_inner_in.min(*tun_mtu), limit);
        }
    }

    /// Reports that the peer is somewhere else: once for each place, and at most every quarter of a second.
    fn watch(&mut self, arrival: &Arrival, now: Instant, events: &mut Vec<NetEvent>) {
        let (Some(local), Some(remote)) = (arrival.local, arrival.remote) else { return };
        let Transport { kind, source, destination } = self.transport;
        let from = (remote.ip(), remote.port()) == (destination.ip(), destination.port());
        if arrival.kind == kind && from && (source.is_unspecified() || local.ip() == source) {
            self.moved = None;
            return;
        }
        let waits = self.moved_at.is_some_and(|at| now - at < Duration::from_millis(250));
        if self.moved != Some((local, remote)) && !waits {
            (self.moved, self.moved_at) = (Some((local, remote)), Some(now));
            events.push(NetEvent::PeerMoved { id: self.id, local, remote });
        }
    }
}

impl Settings {
    fn own_header(&self) -> usize {
        if self.selectors_out[1].iter().any(|ts| ts.start.is_ipv6()) { 40 } else { 20 }
    }
}

fn word_at(payload: &[u8], version: u8) -> u16 {
    packet::word(payload, if version == 4 { 2 } else { 4 })
}

fn mss(mss: Mss) -> Option<u16> {
    match mss {
        Mss::Path => Some(u16::MAX),
        Mss::At(limit) => Some(limit),
        Mss::Untouched => None,
    }
}
