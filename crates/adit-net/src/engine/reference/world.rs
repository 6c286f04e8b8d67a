//! One game: the engine and the model side by side, what both are given, and what is compared.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_crypto::EspTransforms;
use adit_esp::translate::{Renumbering, Translation};
use adit_esp::tunnel::{DontFragment, Dscp, OuterPolicy, Tfc};
use adit_esp::{Action, FragmentPorts, InboundSa, Mode, Mss, OutboundSa, PolicyTable, SaParameters};
use adit_wire::ikev2::{EncrId, IntegId, Spi, TrafficSelector};

use super::Played;
use super::keys::{Keys, Suite};
use super::memory::Window;
use super::model::{Model, Sa, Sealed, Settings};
use super::packet::{self, Pair};
use super::sites::{arrival, host, ip, mapped, network, other_host, pairs, with_protocol};
use super::stream;
use super::traffic::{self, Dice, Ends};
use crate::backend::{ChildId, Iptfs, Limits, PolicyId, PolicySpec, Treatment};
use crate::counters::{Clock, DropCause, SaCounts, WorkerCounts};
use crate::engine::half::{Inbound, Outbound, Transport};
use crate::engine::offload::Offload;
use crate::engine::{Arrival, Device, Engine, NewChild, Policies, Table, WorkerPlace};
use crate::sockets::Kind;

pub(super) struct World {
    seed: u64,
    dice: Dice,
    engine: Engine,
    model: Model,
    counts: Arc<WorkerCounts>,
    clock: Clock,
    now: Instant,
    specs: Vec<PolicySpec>,
    names: u64,
    /// Beside the model's SAs.
    peers: BTreeMap<ChildId, Peer>,
    /// Parts of packets that are still to come.
    parts_out: Vec<Vec<u8>>,
    parts_in: Vec<Vec<u8>>,
    /// Datagrams that came, for replaying them.
    old: Vec<Vec<u8>>,
    /// The buffer that opened packets lie in.
    received: Vec<u8>,
    played: Played,
    /// Of SAs that are gone.
    refused: [u64; adit_esp::Drop::ALL.len()],
}

/// What the peer of an SA knows.
struct Peer {
    next: u64,
    /// What its next IP-TFS payload begins with.
    left: Vec<u8>,
    counts: Arc<SaCounts>,
}

type Outcome = Result<(), String>;

const fn aead(encr: EncrId, bits: Option<u16>, key: usize) -> Suite {
    let transforms = EspTransforms { encr, key_bits: bits, integ: None, esn: false };
    Suite { transforms, key, integ_key: 0, iv: 8, block: 1, icv: 16 }
}

const fn cbc(bits: u16, integ: IntegId, integ_key: usize, icv: usize) -> Suite {
    let transforms =
        EspTransforms { encr: EncrId::AES_CBC, key_bits: Some(bits), integ: Some(integ), esn: false };
    Suite { transforms, key: bits as usize / 8, integ_key, iv: 16, block: 16, icv }
}

/// The quick ones more often.
const SUITES: [Suite; 8] = [
    aead(EncrId::AES_GCM_16, Some(256), 36),
    aead(EncrId::AES_GCM_16, Some(128), 20),
    aead(EncrId::AES_GCM_16, Some(256), 36),
    aead(EncrId::AES_GCM_16, Some(192), 28),
    aead(EncrId::CHACHA20_POLY1305, None, 36),
    aead(EncrId::AES_GCM_16, Some(128), 20),
    cbc(256, IntegId::HMAC_SHA2_512_256, 64, 32),
    cbc(128, IntegId::HMAC_SHA2_256_128, 32, 16),
];

/// The one of all, and some for policies of their own.
const DEVICES: usize = 3;

fn device_of(spec: &PolicySpec) -> Device {
    Device(spec.interface.as_ref().map_or(0, |name| name.parse().unwrap()))
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let (counts, now) = (Arc::new(WorkerCounts::default()), Instant::now());
        let clock = Clock::new(now);
        let place = WorkerPlace { index: 0, workers: 1 };
        let mut dice = Dice::new(seed, u64::MAX);
        let (joins_tcp, joins_udp) = (!dice.one_in(8), !dice.one_in(8));
        let mut engine = Engine::new(place, Arc::clone(&counts), clock, joins_tcp, joins_udp);
        engine.fragments_out = FragmentPorts::new(seed);
        engine.fragments_in = FragmentPorts::new(seed);
        let places = engine.senders.secret.clone();
        let mut world = Self {
            seed,
            dice,
            engine,
            model: Model::new(seed, places),
            counts,
            clock,
            now,
            specs: Vec::new(),
            names: 0,
            peers: BTreeMap::new(),
            parts_out: Vec::new(),
            parts_in: Vec::new(),
            old: Vec::new(),
            received: Vec::new(),
            refused: Default::default(),
            played: Played { games: 1, ..Played::default() },
        };
        world.policies();
        for _ in 0..world.dice.below(30) {
            world.install();
        }
        world
    }

    pub(super) fn played(&self) -> Played {
        let mut refused = self.refused;
        self.model.sas.values().for_each(|sa| add(&mut refused, &sa.counts.drops));
        Played { drops: self.model.did.drops, refused, ..self.played }
    }

    /// Gives both the same, and compares. What a step does depends on its number, and on what steps before it have left.
    pub(super) fn step(&mut self, step: u32) -> Outcome {
        self.dice = Dice::new(self.seed, step.into());
        self.now += Duration::from_millis(self.dice.pick(&[0, 0, 0, 1, 5, 100]));
        let what = self.dice.below(100);
        match what {
            0..44 => self.packets_out(),
            44..91 => self.packets_in(),
            _ => {
                self.played.orders += 1;
                self.order(what);
            }
        }
        self.engine.on_time(self.now);
        self.model.on_time(self.now);
        self.compare().map_err(|difference| format!("{difference} (kind {what})"))
    }

    fn order(&mut self, what: usize) {
        let id = self.some_sa();
        match what {
            91 => self.now += Duration::from_millis(self.dice.pick(&[200, 1000, 4000, 31_000, 61_000])),
            92 => {
                self.engine.sweep(self.now);
                self.model.sweep(self.now);
            }
            93 if self.dice.one_in(6) => self.policies(),
            94..96 => self.install(),
            96 => {
                if let Some(id) = id {
                    self.engine.switch(id, self.now);
                    self.model.switch(id, self.now);
                }
            }
            97 => {
                if let Some(id) = id {
                    self.engine.retire(id, self.now);
                    self.model.retire(id, self.now);
                }
            }
            98 => {
                if let Some(id) = id.filter(|_| self.peers.len() > 12) {
                    self.remove(id);
                }
            }
            99 => {
                if let Some(id) = id {
                    let transport = self.transport(self.model.sas[&id].settings.host_to_host);
                    let mtu = self.mtu();
                    // A path has one MTU; without it the old one stays.
                    self.engine.relocate(id, transport, mtu);
                    self.model.relocate(id, transport, mtu);
                }
            }
            _ => {
                if let Some(id) = id {
                    self.learn(id);
                }
            }
        }
    }

    fn remove(&mut self, id: ChildId) {
        add(&mut self.refused, &self.model.sas[&id].counts.drops);
        self.engine.remove(id, self.now);
        self.model.remove(id, self.now);
        self.peers.remove(&id);
    }

    fn some_sa(&mut self) -> Option<ChildId> {
        let all: Vec<ChildId> = self.peers.keys().copied().collect();
        if all.is_empty() { None } else { Some(self.dice.pick(&all)) }
    }

    fn mtu(&mut self) -> Option<usize> {
        let any = self.dice.below(9000);
        self.dice.pick(&[None, Some(1500), Some(1500), Some(1280), Some(600), Some(0), Some(9000), Some(any)])
    }

    fn learn(&mut self, id: ChildId) {
        if let Some(mtu) = self.mtu() {
            self.engine.learn_path(id, mtu);
            self.model.learn_path(id, mtu);
        }
    }

    // Policies and SAs.

    fn policies(&mut self) {
        let keeps = self.dice.below(3);
        let mut specs: Vec<PolicySpec> = Vec::new();
        for spec in std::mem::take(&mut self.specs) {
            if self.dice.below(3) < keeps {
                specs.push(spec);
            }
        }
        for _ in 0..4 + self.dice.below(8) {
            self.names += 1;
            specs.push(self.policy(PolicyId(self.names)));
        }
        let tables = (0..DEVICES).map(|number| {
            let of = || specs.iter().filter(move |spec| device_of(spec) == Device(number));
            let table: Vec<adit_esp::Policy> = of().map(PolicySpec::selectors).collect();
            Table { table: PolicyTable::new(&table), ids: of().map(|spec| spec.id).collect() }
        });
        let policies = Policies {
            tables: tables.collect(),
            ports: specs.iter().any(PolicySpec::looks_at_ports),
            traps: specs.iter().filter(|spec| spec.trap).map(|spec| spec.id).collect(),
            ..Policies::default()
        };
        self.engine.follow(&Arc::new(policies));
        self.model.follow(&specs, device_of);
        // The SAs of a policy that is gone go as well, if not at once.
        let stale = |sa: &&Sa| specs.iter().all(|spec| spec.id != sa.policy);
        let stale: Vec<ChildId> = self.model.sas.values().filter(stale).map(|sa| sa.id).collect();
        for id in stale {
            if !self.dice.one_in(4) {
                self.remove(id);
            }
        }
        self.specs = specs;
    }

    fn policy(&mut self, id: PolicyId) -> PolicySpec {
        let dice = &mut self.dice;
        let host_to_host = dice.one_in(6);
        // The sides of a policy ask for the same, mostly.
        let protocol = if dice.one_in(4) { dice.pick(&[6, 17, 17, 1, 58, 132, 135]) } else { 0 };
        let mut side = |ours: bool| -> Vec<TrafficSelector> {
            if host_to_host {
                let v4 = id.0.is_multiple_of(2);
                return vec![with_protocol(
                    dice,
                    protocol,
                    TrafficSelector::subnet(host(ours, v4), if v4 { 32 } else { 128 }),
                )];
            }
            // One of each family, mostly, so that there is somebody to talk to.
            let v4 = !id.0.is_multiple_of(3);
            let families = [v4, !v4, v4, v4];
            families[..1 + dice.below(4)]
                .iter()
                .map(|v4| {
                    let network = network(dice, ours, *v4);
                    with_protocol(dice, protocol, network)
                })
                .collect()
        };
        let (local, remote) = (side(true), side(false));
        let mut spec = PolicySpec::new(id, "policy", local, remote);
        spec.action = match dice.below(10) {
            0 if !host_to_host => Action::Bypass,
            1 if !host_to_host => Action::Discard,
            _ => Action::Protect,
        };
        spec.priority = dice.pick(&[0, 0, 0, 0, 1, 2, 3]);
        spec.trap = dice.one_in(2);
        spec.interface = dice.one_in(4).then(|| (1 + dice.below(DEVICES - 1)).to_string());
        spec
    }

    fn transport(&mut self, host_to_host: bool) -> Transport {
        let kind = self.dice.pick(&[Kind::NatT, Kind::NatT, Kind::Esp]);
        let v4 = !self.dice.one_in(3);
        let port = if kind == Kind::NatT { self.dice.pick(&[4500, 4500, 1024]) } else { 0 };
        let source = match self.dice.below(12) {
            0 if !host_to_host => {
                if v4 {
                    ip("0.0.0.0")
                } else {
                    ip("::")
                }
            }
            _ => host(true, v4),
        };
        Transport { kind, source, destination: SocketAddr::new(host(false, v4), port) }
    }

    fn install(&mut self) {
        let protecting: Vec<usize> =
            (0..self.specs.len()).filter(|at| self.specs[*at].action == Action::Protect).collect();
        if protecting.is_empty() || self.peers.len() > 40 {
            return;
        }
        let at = self.dice.pick(&protecting);
        let spec = self.specs[at].clone();
        self.names += 1;
        let (id, now) = (ChildId(self.names), self.now);
        let single = |list: &[TrafficSelector]| matches!(list, [ts] if ts.start == ts.end);
        let host_to_host = single(&spec.local_ts) && single(&spec.remote_ts) && !self.dice.one_in(4);
        let mut selectors_out = [spec.local_ts.clone(), spec.remote_ts.clone()];
        if !host_to_host && self.dice.one_in(2) {
            for side in &mut selectors_out {
                self.narrow(side);
            }
        }
        let pairs = if !host_to_host && self.dice.one_in(4) { pairs() } else { [Vec::new(), Vec::new()] };
        let outside =
            |side: &[TrafficSelector], pairs: &[Pair]| side.iter().map(|ts| mapped(ts, pairs)).collect();
        let selectors_in = [outside(&selectors_out[0], &pairs[0]), outside(&selectors_out[1], &pairs[1])];
        let translation = |pairs: &[Pair]| {
            let one = |pair: &Pair| Renumbering::new(pair.inside, pair.outside, pair.len).unwrap();
            pairs.iter().map(one).collect()
        };
        let translation = (!pairs[0].is_empty())
            .then(|| Arc::new(Translation { local: translation(&pairs[0]), remote: translation(&pairs[1]) }));
        let mut transport = self.transport(host_to_host);
        if host_to_host {
            let v4 = spec.remote_ts[0].start.is_ipv4();
            (transport.source, transport.destination) =
                (host(true, v4), SocketAddr::new(host(false, v4), transport.destination.port()));
        }
        let nat = host_to_host && self.dice.one_in(3);
        let original = nat.then(|| (other_host(transport.source.is_ipv4()), transport.source));
        let treatment = self.treatment(translation);
        let spi_in = match self.dice.below(4) {
            // Sparse, and one that another had.
            0 => self.dice.number() as u32 | 0x100,
            _ => (1 << 20) * (1 + self.dice.below(3) as u32) + self.dice.below(64) as u32,
        };
        if self.model.sas.values().any(|sa| sa.settings.spi_in == spi_in) {
            return;
        }
        let iptfs = (!host_to_host && self.dice.one_in(4)).then(|| !self.dice.one_in(3));
        let mode = match iptfs {
            Some(fragments) => Mode::Iptfs { fragments },
            None if host_to_host => Mode::Transport,
            None => Mode::Tunnel,
        };
        let settings = Settings {
            host_to_host,
            iptfs,
            device: device_of(&spec),
            own: self.dice.one_in(8),
            spi_in,
            spi_out: 0x0100_0000 + self.names as u32,
            selectors_in,
            selectors_out,
            original,
            limits: self.limits(),
            treatment: treatment.clone(),
            pairs,
            tun_mtu: self.dice.pick(&[usize::MAX, usize::MAX, 1390]),
        };
        let suite = self.dice.below(SUITES.len());
        let esn = self.dice.one_in(2);
        let size = match esn {
            true => self.dice.pick(&[1, 32, 64, 100, 1024]),
            false => self.dice.pick(&[0, 1, 32, 64, 65, 1024]),
        };
        let seed = self.dice.octet();
        let (top, last) = (self.sequence(esn), self.sequence(esn));
        let active = self.dice.one_in(2);
        let mtu = self.mtu();
        let counts = Arc::new(SaCounts::default());
        let parameters = |outbound: bool| SaParameters {
            spi: Spi(if outbound { settings.spi_out } else { settings.spi_in }),
            mode,
            transforms: EspTransforms { esn, ..SUITES[suite].transforms },
            keys: SUITES[suite].keys(if outbound { seed } else { !seed }),
            replay_window: size,
            local_ts: if outbound { &settings.selectors_out } else { &settings.selectors_in }[0].clone(),
            remote_ts: if outbound { &settings.selectors_out } else { &settings.selectors_in }[1].clone(),
            original: settings.original.filter(|_| !outbound),
        };
        let inbound = Inbound::new(
            id,
            InboundSa::resume(parameters(false), top).unwrap(),
            active,
            settings.limits,
            transport,
            (&treatment, settings.device, settings.tun_mtu),
            Arc::clone(&counts),
        );
        let outbound = Outbound::new(
            id,
            parameters(true),
            settings.limits,
            transport,
            (treatment, settings.device, settings.tun_mtu),
            Arc::clone(&counts),
        );
        let outbound = outbound.unwrap().with_sa(OutboundSa::resume(parameters(true), last).unwrap());
        let child = NewChild {
            id,
            policy: spec.id,
            spi: settings.spi_in,
            own: settings.own,
            active,
            inbound: Some(inbound),
            outbound: Some(outbound),
        };
        self.engine.install(child, mtu, now);
        let keys = |spi, seed| Keys::new(SUITES[suite], spi, esn, seed);
        let both = (keys(settings.spi_in, !seed), keys(settings.spi_out, seed));
        let window = Window::new(size, esn, top);
        let sa = Sa::new((id, spec.id), settings, both, window, last, transport);
        self.model.install(sa, mtu, active, now);
        self.peers.insert(id, Peer { next: top + 1, left: Vec::new(), counts });
    }

    /// Some of the selectors, or a part of one.
    fn narrow(&mut self, side: &mut Vec<TrafficSelector>) {
        let at = self.dice.below(side.len());
        if side.len() > 1 && self.dice.one_in(2) {
            side.remove(at);
            return;
        }
        let ts = &mut side[at];
        let (first, last) = (traffic::number_of(ts.start), traffic::number_of(ts.end));
        let v4 = ts.start.is_ipv4();
        ts.end = traffic::address_of(first + (last - first) / self.dice.pick(&[1, 2, 3, 256]), v4);
        if ts.protocol == 0 && self.dice.one_in(4) {
            ts.protocol = self.dice.pick(&[6, 17]);
        }
    }

    fn limits(&mut self) -> Limits {
        let mut limit = |times: usize, all: &[u64]| self.dice.one_in(times).then(|| self.dice.pick(all));
        Limits {
            soft_bytes: limit(16, &[1, 3000, 20_000]),
            hard_bytes: limit(16, &[1000, 5000, 100_000]),
            soft_packets: limit(16, &[1, 20, 100]),
            hard_packets: limit(16, &[1, 40, 150, 600]),
        }
    }

    fn treatment(&mut self, translation: Option<Arc<Translation>>) -> Treatment {
        let dice = &mut self.dice;
        let outer = OuterPolicy {
            dscp: dice.pick(&[Dscp::Copy, Dscp::Copy, Dscp::Set(0), Dscp::Set(46)]),
            copy_ecn: !dice.one_in(4),
            df: dice.pick(&[DontFragment::Copy, DontFragment::Copy, DontFragment::Set, DontFragment::Clear]),
        };
        let tfc = match dice.below(8) {
            0 => Tfc::Path,
            1 => Tfc::AtLeast(dice.pick(&[1, 100, 333, 2000])),
            _ => Tfc::Off,
        };
        let mss = dice.pick(&[Mss::Path, Mss::Path, Mss::At(1000), Mss::At(0), Mss::Untouched]);
        let dscp_inwards = dice.one_in(6);
        let millis = |dice: &mut Dice, all: &[u64]| Duration::from_millis(dice.pick(all));
        let iptfs = Iptfs {
            packet_size: dice.pick(&[0, 0, 256, 700]),
            interval: dice.one_in(3).then(|| millis(dice, &[5, 90])),
            init_delay: millis(dice, &[0, 1, 40]),
            queue: dice.pick(&[4000, 1 << 16, 1 << 20]),
            reorder_window: dice.pick(&[0, 3, 64]),
            drop_time: millis(dice, &[10, 1000]),
        };
        Treatment { outer, tfc, mss, translation, dscp_inwards, iptfs, ..Treatment::default() }
    }

    /// Where an SA begins: mostly at the beginning, and near all ends.
    fn sequence(&mut self, esn: bool) -> u64 {
        const LAST: u64 = u32::MAX as u64;
        match (self.dice.below(24), esn) {
            (0, false) => LAST - 30,
            (1, false) => LAST - LAST / 8 - 20,
            (2, false) => LAST / 2,
            (0, true) => LAST - 20,
            (1, true) => 5 * (LAST + 1) - 20,
            (2, true) => u64::MAX - 60,
            (3, true) => u64::MAX - u64::MAX / 8 - 20,
            (4, true) => 7 * LAST,
            _ => 0,
        }
    }

    // Packets.

    fn packets_out(&mut self) {
        for _ in 0..1 + self.dice.below(16) {
            let (device, ends) = self.ends_out();
            let (packet, offload) = traffic::from_tun(&mut self.dice, &ends, &mut self.parts_out);
            // Runs of one flow, for what is remembered from packet to packet.
            for _ in 0..self.dice.pick(&[1, 1, 1, 2, 4]) {
                self.played.from_tun += 1;
                self.played.from_tun_cut += packet::cut(&packet, &offload).map_or(1, |all| all.len() as u64);
                self.engine.outbound(device, &mut packet.clone(), &offload, None, self.now);
                self.model.outbound(device, &packet, &offload, self.now);
            }
        }
    }

    /// Mostly what an SA is for, else what a policy is for; and mostly from where it should come.
    fn ends_out(&mut self) -> (Device, Ends) {
        let sa = if self.dice.one_in(3) { None } else { self.some_sa() };
        let (device, [local, remote]) = if let Some(id) = sa {
            let settings = &self.model.sas[&id].settings;
            (settings.device, settings.selectors_out.clone())
        } else {
            let at = self.dice.below(self.specs.len());
            let spec = &self.specs[at];
            (device_of(spec), [spec.local_ts.clone(), spec.remote_ts.clone()])
        };
        let device = if self.dice.one_in(40) { Device(self.dice.below(DEVICES + 1)) } else { device };
        (device, Ends::of(&mut self.dice, &local, &remote))
    }

    fn packets_in(&mut self) {
        let mut buffer = Vec::new();
        let mut given: Vec<(std::ops::Range<usize>, usize, Arrival)> = Vec::new();
        for _ in 0..1 + self.dice.below(4) {
            let Some((datagrams, arrival)) = self.datagrams() else { return };
            let mut rest = &datagrams[..];
            while let [first, more @ ..] = rest {
                // A train: all as long as the first, but for the last.
                let same = more.iter().take_while(|one| one.len() == first.len()).count();
                let shorter = more.get(same).is_some_and(|one| one.len() < first.len() && !one.is_empty());
                let joined = arrival.kind == Kind::NatT && !first.is_empty() && !self.dice.one_in(3);
                let count = if joined { 1 + same + usize::from(shorter) } else { 1 };
                let (train, after) = rest.split_at(count);
                let start = buffer.len();
                train.iter().for_each(|one| buffer.extend_from_slice(one));
                let segment = if count > 1 { first.len() } else { self.dice.pick(&[0, first.len().max(1)]) };
                given.push((start..buffer.len(), segment, arrival));
                rest = after;
            }
        }
        let before = buffer.clone();
        for (place, segment, arrival) in given {
            let datagrams: Vec<&[u8]> = match (segment, &before[place.clone()]) {
                (0, one) | (_, one @ []) => vec![one],
                (segment, all) => all.chunks(segment).collect(),
            };
            for datagram in datagrams {
                self.played.from_peers += 1;
                self.model.inbound(datagram, &arrival, self.now);
            }
            self.engine.inbound(&mut buffer, place, segment, &arrival, self.now);
        }
        self.received = buffer;
    }

    /// Some datagrams from one place.
    fn datagrams(&mut self) -> Option<(Vec<Vec<u8>>, Arrival)> {
        let id = self.some_sa()?;
        let sa = &self.model.sas[&id];
        let (transport, host_to_host) = (sa.transport(), sa.settings.host_to_host);
        let [local, remote] = sa.settings.selectors_in.clone();
        let mut arrival = arrival(&mut self.dice, transport);
        let count = 1 + self.dice.below(8);
        let ends = Ends::of(&mut self.dice, &remote, &local);
        let inner = traffic::from_peer(&mut self.dice, &ends, count, &mut self.parts_in);
        let mut all: Vec<Vec<u8>> =
            inner.into_iter().map(|inner| self.datagram(id, host_to_host, inner)).collect();
        if self.dice.one_in(60) {
            let random = traffic::random(&mut self.dice);
            let odd: &[u8] =
                self.dice.pick(&[&[0xff], &[0, 0, 0, 0, 1, 2], &[0; 4], &[1, 2, 3], &[], &random]);
            all.insert(self.dice.below(all.len() + 1), odd.to_vec());
            if self.dice.one_in(4) {
                arrival.kind = Kind::Ike;
            }
        }
        if (arrival.kind, arrival.v6) == (Kind::Esp, false) {
            let options = 4 * self.dice.pick(&[0, 0, 0, 1, 10]);
            for esp in &mut all {
                let mut header = vec![0x45 + (options / 4) as u8; 20 + options];
                header.append(esp);
                *esp = header;
            }
        }
        Some((all, arrival))
    }

    /// One of the peer's packets in ESP, or something that is not quite that.
    fn datagram(&mut self, id: ChildId, host_to_host: bool, inner: Vec<u8>) -> Vec<u8> {
        let (dice, peer) = (&mut self.dice, self.peers.get_mut(&id).expect("chosen"));
        let sa = &self.model.sas[&id];
        peer.next = peer.next.max(sa.window.top.saturating_add(1));
        if !self.old.is_empty() && dice.one_in(24) {
            return self.old[dice.below(self.old.len())].clone();
        }
        let mut next_header = if inner.first().is_some_and(|first| first >> 4 == 6) { 41 } else { 4 };
        let mut payload = inner;
        if host_to_host && payload.len() >= 40 {
            let (at, header) = if next_header == 41 { (6, 40) } else { (9, 20) };
            next_header = payload[at];
            payload.drain(..header);
        }
        if sa.stream.is_some() {
            next_header = 144;
            let len = dice.pick(&[20, 300, 1400, 1400, 9000]);
            payload = stream::payload(&mut peer.left, &payload, len);
            match dice.below(60) {
                0 => payload[0] = dice.octet(),
                1 => payload[2 + dice.below(2)] ^= 1 << dice.below(8),
                2 => payload = [&[1][..], &payload[1..4], dice.noise(20), &payload[4..]].concat(),
                3 => payload.resize(payload.len() + dice.below(100), 0),
                _ => {}
            }
        }
        match dice.below(120) {
            0..3 => next_header = 59,
            3 => next_header = dice.octet(),
            4 => next_header = dice.pick(&[4, 41]),
            5 => payload.truncate(dice.below(payload.len().max(1))),
            6..12 => {
                let more = dice.below(200);
                payload.extend(dice.noise(more));
            }
            _ => {}
        }
        let mut plaintext = sa.keys_in.padded(&payload, next_header);
        let end = plaintext.len();
        match dice.below(120) {
            0 => plaintext[end - 2] ^= 1 << dice.below(8),
            1 => plaintext[end - 3 - dice.below(2).min(end - 3)] ^= 1 << dice.below(8),
            2 => {
                // As much padding as there can be.
                plaintext = [&payload[..], &(1..=255).collect::<Vec<u8>>(), &[255, next_header]].concat();
            }
            3 => plaintext.truncate(dice.below(end)),
            _ => {}
        }
        let size = 80;
        let sequence = match dice.below(200) {
            0..168 => peer.next,
            168..182 => peer.next.saturating_add(dice.below(70) as u64),
            182..197 => sa.window.top.saturating_sub(dice.below(size) as u64),
            197 => dice.pick(&[0, 1, u32::MAX.into(), 1 << 32, u64::MAX]),
            198 => peer.next.saturating_add(dice.below(2000) as u64),
            _ if dice.one_in(20) => {
                peer.next.saturating_add(dice.pick(&[1 << 31, (1 << 32) - 70, 1 << 32, 1 << 40]))
            }
            _ => peer.next,
        };
        // It goes on from there if that was near.
        if sequence >= peer.next && sequence - peer.next < 1 << 31 {
            peer.next = sequence.saturating_add(1);
        }
        let mut esp = sa.keys_in.seal(sequence, &plaintext);
        if dice.one_in(16) {
            self.old.push(esp.clone());
            if self.old.len() > 64 {
                self.old.swap_remove(dice.below(64));
            }
        }
        if dice.one_in(20) {
            match dice.below(4) {
                0 => traffic::mutate(dice, &mut esp),
                1 => esp.truncate(dice.below(esp.len())),
                2 => {
                    let at = dice.below(esp.len());
                    esp[at] ^= 1 << dice.below(8);
                }
                _ => {
                    let spi: u32 = if dice.one_in(2) { dice.below(300) as u32 } else { dice.number() as u32 };
                    esp[..4].copy_from_slice(&spi.to_be_bytes());
                }
            }
        }
        esp
    }

    // What is compared.

    fn compare(&mut self) -> Outcome {
        self.compare_sealed()?;
        self.compare_delivered()?;
        let (engine, model) = (&mut self.engine, &mut self.model);
        let (theirs, ours) =
            (std::mem::take(&mut engine.report.events), std::mem::take(&mut model.did.events));
        equal("events", &theirs, &ours)?;
        let (theirs, ours) = (std::mem::take(&mut engine.report.paths), std::mem::take(&mut model.did.paths));
        equal("paths", &theirs, &ours)?;
        equal("others are told", &engine.report.ready.len(), &0)?;
        equal("the next time", &engine.deadline(), &model.deadline())?;
        for (id, _) in ours {
            if self.dice.one_in(2) {
                self.learn(id);
            }
        }
        self.compare_counts()
    }

    /// Each train is opened, packet by packet.
    fn compare_sealed(&mut self) -> Outcome {
        let expected = std::mem::take(&mut self.model.did.sealed);
        self.played.sealed += expected.len() as u64;
        let trains = std::mem::take(&mut self.engine.trains);
        let mut left = expected.iter();
        for train in trains.all() {
            let octets = trains.octets(train);
            equal("a train's packets", &octets.len().div_ceil(train.segment), &train.len())?;
            if train.len() > 64 || octets.len() > 65_000 && train.len() > 1 {
                return Err(format!("no kernel takes {train:?}"));
            }
            let mut worker = None;
            for (place, esp) in octets.chunks(train.segment).enumerate() {
                let Some(expected) = left.next() else {
                    return Err(format!("sealed besides: {train:?}: {}", self.inside(esp)));
                };
                self.compare_packet(expected, esp).map_err(|text| {
                    let Sealed { id, sequence, .. } = expected;
                    format!("{text}\nnumber {sequence} of SA {}, number {place} of {train:?}", id.0)
                })?;
                equal("TOS", &train.tos, &expected.class)?;
                equal("DF", &train.dont_fragment, &expected.dont_fragment)?;
                equal("TTL", &train.hop_limit, &expected.hop_limit)?;
                let way = |way: Transport| (way.kind, way.source, way.destination);
                equal("way", &way(train.transport), &way(expected.transport))?;
                let counted: Vec<_> =
                    trains.by_sa(train, place..place + 1).map(|(_, _, inside)| inside).collect();
                equal("counted", &counted, &vec![(usize::from(expected.inner_len > 0), expected.inner_len)])?;
                // The peer may have as many workers as there are lanes: 64.
                let lane = esp.get(3).map(|octet| octet % 64);
                equal("workers of a train", &worker.replace(lane).unwrap_or(lane), &lane)?;
                self.model.sent(expected.id, 1, expected.inner_len, self.now);
            }
            self.engine.sent(&trains, train, 0..train.len(), self.now);
        }
        if let Some(missing) = left.next() {
            return Err(format!("not sealed: {missing:?}"));
        }
        self.engine.trains = trains;
        self.engine.all_sent();
        Ok(())
    }

    /// What is in a packet that nobody expects.
    fn inside(&self, esp: &[u8]) -> String {
        let sa = self.model.sas.values().find(|sa| esp.starts_with(&sa.settings.spi_out.to_be_bytes()));
        let Some(sa) = sa else { return "of no SA".into() };
        let low = u64::from(packet::word(esp, 4)) << 16 | u64::from(packet::word(esp, 6));
        let inside = sa.keys_out.open(sa.last >> 32 << 32 | low, esp);
        format!("of SA {}, {inside:02x?}", sa.id.0)
    }

    fn compare_packet(&self, expected: &Sealed, esp: &[u8]) -> Outcome {
        equal("octets of ESP", &esp.len(), &expected.len)?;
        let Some(sa) = self.model.sas.get(&expected.id) else { return Err("of an SA that is gone".into()) };
        let wire = [sa.settings.spi_out.to_be_bytes(), (expected.sequence as u32).to_be_bytes()].concat();
        equal("SPI and sequence number", &&esp[..8], &&wire[..])?;
        let plaintext =
            sa.keys_out.open(expected.sequence, esp).map_err(|cause| format!("does not open: {cause}"))?;
        let [rest @ .., pad_len, next_header] = &plaintext[..] else { return Err("no trailer".into()) };
        equal("next header", next_header, &expected.next_header)?;
        let (rest, padding) =
            rest.split_at_checked(rest.len().wrapping_sub((*pad_len).into())).ok_or("padding")?;
        if !padding.iter().copied().eq((1..=255).take(padding.len())) {
            return Err(format!("padding {padding:?}"));
        }
        let (payload, hiding) = rest.split_at_checked(expected.payload.len()).ok_or("too short inside")?;
        equal_octets("payload", payload, &expected.payload)?;
        match hiding.iter().all(|octet| *octet == 0) {
            true => Ok(()),
            false => Err("what hides the length is not empty".into()),
        }
    }

    /// Each flow has to come in its order; and nothing may pass what could be of any flow.
    fn compare_delivered(&mut self) -> Outcome {
        let expected = std::mem::take(&mut self.model.did.delivered);
        self.played.delivered += expected.len() as u64;
        let deliveries = &self.engine.deliveries;
        let mut theirs: Vec<(Device, Vec<u8>)> = Vec::new();
        for delivery in deliveries.all() {
            let packets: Vec<&[u8]> = deliveries.packets(delivery, &self.received).collect();
            match deliveries.head(delivery, &self.received) {
                None => theirs.extend(packets.into_iter().map(|packet| (delivery.device(), packet.to_vec()))),
                Some(head) => {
                    let mut whole = head.octets().to_vec();
                    packets.iter().for_each(|packet| whole.extend_from_slice(head.payload(packet)));
                    let (offload, packet) = whole.split_first_chunk().ok_or("no header")?;
                    let cut = packet::cut(packet, &Offload::decode(offload)).ok_or("joined badly")?;
                    equal("packets joined", &cut.len(), &packets.len())?;
                    for (cut, packet) in cut.iter().zip(packets) {
                        if !same_but_for_an_idle_id(cut, packet) {
                            return Err(format!("joined: {cut:02x?}\n    was: {packet:02x?}"));
                        }
                    }
                    theirs.extend(cut.into_iter().map(|packet| (delivery.device(), packet)));
                }
            }
        }
        self.engine.deliveries.clear();
        self.received.clear();
        let same = |a: &[&(Device, Vec<u8>)], b: &[&(Device, Vec<u8>)]| {
            let same = |a: &(Device, Vec<u8>), b: &(Device, Vec<u8>)| {
                a.0 == b.0 && same_but_for_an_idle_id(&a.1, &b.1)
            };
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        };
        let (ours, theirs): (Vec<_>, Vec<_>) = (expected.iter().collect(), theirs.iter().collect());
        if same(&theirs, &ours) {
            return Ok(());
        }
        equal("packets delivered", &theirs.len(), &ours.len())
            .map_err(|text| format!("{text}\n{theirs:02x?}\n{ours:02x?}"))?;
        for (_, packet) in &expected {
            let flow = flow_of(packet);
            let of = |all: &[&'_ (Device, Vec<u8>)]| -> Vec<usize> {
                let at = |at: &usize| flow_of(&all[*at].1);
                (0..all.len()).filter(|place| at(place) == flow || at(place).is_none()).collect()
            };
            let a: Vec<_> = of(&theirs).into_iter().map(|at| theirs[at]).collect();
            let b: Vec<_> = of(&ours).into_iter().map(|at| ours[at]).collect();
            if !same(&a, &b) {
                return Err(format!("delivered: {a:02x?}\nexpected: {b:02x?}"));
            }
        }
        Ok(())
    }

    fn compare_counts(&self) -> Outcome {
        let did = &self.model.did;
        for cause in DropCause::ALL {
            equal(cause.as_str(), &self.counts.drops_for(cause), &did.drops[cause as usize])?;
        }
        equal("IKE messages", &self.counts.ike_received.read(), &did.ike)?;
        equal("keepalives", &self.counts.keepalives_received.read(), &did.keepalives)?;
        for (id, peer) in &self.peers {
            let (theirs, ours) = (&peer.counts, &self.model.sas[id].counts);
            let moment = |at: Option<Instant>| at.map_or(0, |at| self.clock.number(at));
            let theirs = [
                theirs.packets_in.read(),
                theirs.bytes_in.read(),
                theirs.packets_out.read(),
                theirs.bytes_out.read(),
                theirs.heard.read(),
                theirs.last_in.read(),
                theirs.last_out.read(),
            ];
            let expected = [
                ours.packets_in,
                ours.bytes_in,
                ours.packets_out,
                ours.bytes_out,
                moment(ours.heard),
                moment(ours.last_in),
                moment(ours.last_out),
            ];
            equal("counts", &theirs, &expected).map_err(|text| format!("{text}, SA {}", id.0))?;
        }
        Ok(())
    }

    /// The causes of drops of each SA.
    pub(super) fn compare_drops(&self) -> Outcome {
        for (id, peer) in &self.peers {
            let theirs = peer.counts.read(self.clock).drops;
            let theirs: Vec<u64> = theirs.into_iter().map(|(_, count)| count).collect();
            let ours = &self.model.sas[id].counts.drops;
            equal("drops", &&theirs[..], &&ours[..]).map_err(|text| format!("{text}, SA {}", id.0))?;
        }
        Ok(())
    }
}

fn add(all: &mut [u64], more: &[u64]) {
    all.iter_mut().zip(more).for_each(|(all, more)| *all += more);
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, engine: &T, model: &T) -> Outcome {
    if engine == model {
        Ok(())
    } else {
        Err(format!("{what}: the engine {engine:02x?}\n   the model {model:02x?}"))
    }
}

/// Shows where they differ.
fn equal_octets(what: &str, engine: &[u8], model: &[u8]) -> Outcome {
    let at = (0..engine.len()).find(|at| engine.get(*at) != model.get(*at));
    if at.is_none() && engine.len() == model.len() {
        return Ok(());
    }
    let hex = |octets: &[u8]| octets.iter().take(80).map(|octet| format!("{octet:02x}")).collect::<String>();
    let (engine_len, model_len) = (engine.len(), model.len());
    let lens = format!("{what}: {engine_len} and {model_len} octets, differing at {at:?}");
    Err(format!("{lens}\n    engine {}\n    model  {}", hex(engine), hex(model)))
}

/// RFC 6864 4.1: the identification of what may not be divided means nothing, and joined packets do not keep it.
fn same_but_for_an_idle_id(a: &[u8], b: &[u8]) -> bool {
    let idle = |packet: &[u8]| {
        packet.len() >= 20
            && packet[0] == 0x45
            && packet[6..8] == [0x40, 0]
            && packet::checksum(&[&packet[..20]]) == 0
    };
    a == b
        || idle(a)
            && idle(b)
            && a.len() == b.len()
            && (0..a.len()).all(|at| a[at] == b[at] || matches!(at, 4 | 5 | 10 | 11))
}

/// What keeps its order; `None`: anything.
fn flow_of(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8, [u8; 4])> {
    let parsed = packet::parse(packet)?;
    let plain = parsed.fragment.is_none() && parsed.upper == if parsed.v6 { 40 } else { 20 };
    let ports = match parsed.protocol {
        6 | 17 => packet.get(parsed.upper..parsed.upper + 4)?.try_into().ok()?,
        _ => [0; 4],
    };
    plain.then_some((parsed.source, parsed.destination, parsed.protocol, ports))
}
