//! Adversarial tests of ESP by number, through the whole engine: what an attacker between the gateways, or a peer, sends.
//! The index of all is `adit-ike/tests/ike/adversarial/README.md`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_crypto::EspTransforms;
use adit_esp::fuzzing::{parameters, suites};
use adit_esp::{InboundSa, OutboundSa, SaParameters};
use adit_wire::ikev2::{Spi, TrafficSelector};
use adit_wire::ip;

use super::*;
use crate::backend::{Limits, Treatment};

const OURS: &str = "192.0.2.1:4500";
const PEER: &str = "198.51.100.7:4500";

/// A gateway with Child SAs, and its peers.
struct Scene {
    engine: Engine,
    counts: Arc<WorkerCounts>,
    now: Instant,
    peers: Vec<OutboundSa>,
}

impl Scene {
    /// With one SA for each of these, whose SPIs are 0x1000 and on.
    fn new(all: &[EspTransforms]) -> Self {
        let networks = |transforms: &EspTransforms| {
            let SaParameters { local_ts, remote_ts, .. } = parameters(*transforms);
            (*transforms, [local_ts, remote_ts])
        };
        Self::between(all.iter().map(networks))
    }

    /// The same with these selectors: ours, and the peer's.
    fn between(all: impl IntoIterator<Item = (EspTransforms, [Vec<TrafficSelector>; 2])>) -> Self {
        let (counts, now) = (Arc::new(WorkerCounts::default()), Instant::now());
        let place = WorkerPlace { index: 0, workers: 1 };
        let mut engine = Engine::new(place, Arc::clone(&counts), Clock::new(now), false, false);
        let mut peers = Vec::new();
        for (number, (transforms, [ours, theirs])) in (0..).zip(all) {
            let spi = Spi(0x1000 + number);
            let (id, transport) = (ChildId(number.into()), transport());
            let parameters = || SaParameters {
                spi,
                local_ts: ours.clone(),
                remote_ts: theirs.clone(),
                ..parameters(transforms)
            };
            let sa = InboundSa::new(parameters()).unwrap();
            let (limits, treatment) = (Limits::default(), Treatment::default());
            let device = (&treatment, Device::SHARED, 1500);
            let inbound = Inbound::new(id, sa, true, limits, transport, device, Arc::default());
            let device = (treatment, Device::SHARED, 1500);
            let outbound =
                Outbound::new(id, parameters(), limits, transport, device, Arc::default()).unwrap();
            let (policy, inbound, outbound) = (PolicyId(1), Some(inbound), Some(outbound));
            engine.install(
                NewChild { id, policy, spi: spi.0, own: false, active: true, inbound, outbound },
                None,
                now,
            );
            peers.push(OutboundSa::new(parameters()).unwrap());
        }
        Self { engine, counts, now, peers }
    }

    /// What the peer of an SA seals around a packet from and to these.
    fn sealed(&mut self, peer: usize, source: [u8; 4], destination: [u8; 4], protocol: u8) -> Vec<u8> {
        self.sealed_with(peer, (source, destination), protocol, &[0, 9, 0, 9, 0, 12])
    }

    fn sealed_with(&mut self, peer: usize, ends: ([u8; 4], [u8; 4]), protocol: u8, upper: &[u8]) -> Vec<u8> {
        let mut esp = Vec::new();
        self.peers[peer].seal(&inner(ends, protocol, upper), &mut esp).unwrap();
        esp
    }

    /// Is a packet of ours sealed? One policy is for everything.
    fn sends(&mut self, ends: ([u8; 4], [u8; 4]), protocol: u8, upper: &[u8]) -> bool {
        let everything = vec![TrafficSelector::any_v4()];
        let (local_ts, remote_ts) = (everything.clone(), everything);
        let policy = adit_esp::Policy { priority: 0, action: Action::Protect, local_ts, remote_ts };
        let table = Table { table: PolicyTable::new(&[policy]), ids: vec![PolicyId(1)] };
        self.engine.follow(&Arc::new(Policies { tables: vec![table], ..Policies::default() }));
        let before = self.counts.drops_for(DropCause::NoSa);
        let mut inner = inner(ends, protocol, upper);
        self.engine.outbound(Device::SHARED, &mut inner, &Offload::default(), None, self.now);
        let sealed = !self.engine.trains.all().is_empty();
        self.engine.all_sent();
        assert_eq!(self.counts.drops_for(DropCause::NoSa) - before, u64::from(!sealed), "counted");
        sealed
    }

    fn good(&mut self, peer: usize) -> Vec<u8> {
        self.sealed(peer, [10, 2, 0, 1], [10, 1, 0, 1], ip::PROTOCOL_UDP)
    }

    /// How many packets come of a datagram from there.
    fn receive(&mut self, datagram: &[u8], remote: &str) -> usize {
        let arrival = Arrival {
            kind: Kind::NatT,
            v6: false,
            local: Some(address(OURS)),
            remote: Some(address(remote)),
            tos: 0,
            hop_limit: None,
        };
        let mut buffer = datagram.to_vec();
        let place = 0..buffer.len();
        self.engine.inbound(&mut buffer, place, 0, &arrival, self.now);
        let delivered = self.engine.deliveries.all().len();
        self.engine.deliveries.clear();
        delivered
    }

    fn events(&mut self) -> Vec<NetEvent> {
        std::mem::take(&mut self.engine.report.events)
    }
}

fn inner((source, destination): ([u8; 4], [u8; 4]), protocol: u8, upper: &[u8]) -> Vec<u8> {
    ip::packet(source.into(), destination.into(), protocol, 64, upper).unwrap()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn transport() -> Transport {
    Transport { kind: Kind::NatT, source: address(OURS).ip(), destination: address(PEER) }
}

fn usual() -> EspTransforms {
    suites().next().unwrap().1
}

/// With every suite: what has come does not come again, and a forgery with a number far ahead closes the window for nobody.
#[test]
fn adversarial_55_replays_and_forged_numbers() {
    for (name, transforms) in suites() {
        for esn in [false, true] {
            let mut scene = Scene::new(&[EspTransforms { esn, ..transforms }]);
            let packets: Vec<Vec<u8>> = (0..64).map(|_| scene.good(0)).collect();
            let mut forged = packets[63].clone();
            forged[4..8].copy_from_slice(&0x7fff_ffff_u32.to_be_bytes());
            assert_eq!(scene.receive(&forged, PEER), 0, "{name}");
            // The last comes first, which leaves all others just inside the window of 64.
            for packet in packets.iter().rev() {
                assert_eq!(scene.receive(packet, PEER), 1, "{name} esn {esn}");
            }
            for packet in &packets {
                assert_eq!(scene.receive(packet, PEER), 0, "{name} esn {esn}");
            }
            assert_eq!(scene.counts.drops_for(DropCause::Refused), 65);
            // One more moves the window: its lower edge is gone, and stays refused.
            let next = scene.good(0);
            assert_eq!((scene.receive(&next, PEER), scene.receive(&packets[0], PEER)), (1, 0));
        }
    }
}

/// SPIs that nobody has, the reserved ones among them, and runts: counted, told a hundred times a second at most, answered never.
#[test]
fn adversarial_56_what_is_no_packet_of_an_sa() {
    let mut scene = Scene::new(&[usual()]);
    let good = scene.good(0);
    for spi in 1_u32..=255 {
        let mut esp = good.clone();
        esp[..4].copy_from_slice(&spi.to_be_bytes());
        assert_eq!(scene.receive(&esp, PEER), 0);
    }
    assert_eq!(scene.counts.drops_for(DropCause::UnknownSpi), 255);
    assert_eq!(scene.events().len(), 100);
    for len in 4..good.len() {
        assert_eq!(scene.receive(&good[..len], PEER), 0, "{len} octets");
    }
    for at in 4..good.len() {
        let mut esp = good.clone();
        esp[at] ^= 0x10;
        assert_eq!(scene.receive(&esp, PEER), 0, "octet {at} changed");
    }
    assert_eq!(scene.counts.drops_for(DropCause::Refused), 2 * (good.len() as u64 - 4));
    assert!(scene.engine.trains.all().is_empty() && scene.events().is_empty());
    assert_eq!(scene.receive(&good, PEER), 1);
}

/// A peer with the right keys, and the wrong networks: from ours, to others, to another client's.
#[test]
fn adversarial_57_inner_packets_outside_of_what_was_negotiated() {
    let mut scene = Scene::new(&[usual()]);
    for (source, destination) in [
        ([10, 1, 0, 1], [10, 1, 0, 2]),
        ([10, 2, 0, 1], [10, 2, 0, 2]),
        ([10, 3, 0, 1], [10, 1, 0, 1]),
        ([10, 2, 0, 1], [8, 8, 8, 8]),
        ([127, 0, 0, 1], [10, 1, 0, 1]),
    ] {
        let esp = scene.sealed(0, source, destination, ip::PROTOCOL_UDP);
        assert_eq!(scene.receive(&esp, PEER), 0, "{source:?} to {destination:?}");
    }
    assert_eq!(scene.counts.drops_for(DropCause::Refused), 5);
    let good = scene.good(0);
    assert_eq!(scene.receive(&good, PEER), 1);
}

/// Protocols, ports, and the types of ICMP, which are the sender's alone (RFC 4301 4.4.1.3): in both directions what was not negotiated
/// is dropped and counted.
#[test]
fn adversarial_57_protocols_ports_and_icmp_types() {
    let of = |net: u8, protocol, (start_port, end_port)| TrafficSelector {
        protocol,
        start_port,
        end_port,
        ..TrafficSelector::subnet([10, net, 0, 0].into(), 16)
    };
    const ALL: (u16, u16) = (0, u16::MAX);
    let (ours, theirs) = ([10, 1, 0, 1], [10, 2, 0, 1]);
    let ports = |source: u16, destination: u16| {
        let mut upper = [source.to_be_bytes(), destination.to_be_bytes()].concat();
        upper.resize(20, 0);
        upper
    };
    // We ask a service of the peer's.
    let selectors = [vec![of(1, 17, ALL)], vec![of(2, 17, (5000, 5001))]];
    let mut scene = Scene::between([(usual(), selectors)]);
    for (protocol, server, client, passes) in [
        (17, 5000, 9, true),
        (17, 5001, 65_535, true),
        (17, 4999, 9, false),
        (17, 5002, 9, false),
        (17, 9, 5000, false),
        (6, 5000, 9, false),
        (1, 5000, 9, false),
        (50, 5000, 9, false),
    ] {
        let esp = scene.sealed_with(0, (theirs, ours), protocol, &ports(server, client));
        assert_eq!(scene.receive(&esp, PEER) == 1, passes, "{protocol}: {server} to {client}");
        let sends = scene.sends((ours, theirs), protocol, &ports(client, server));
        assert_eq!(sends, passes, "{protocol}: {client} to {server}");
    }
    // The peer's hosts may ask for an echo, and ours may answer.
    let selectors = [vec![of(1, 1, (0, 0x00ff))], vec![of(2, 1, (0x0800, 0x08ff))]];
    let mut scene = Scene::between([(usual(), selectors)]);
    for icmp_type in 0..=u8::MAX {
        let upper = [icmp_type, 0, 0, 0, 0, 0, 0, 0];
        let esp = scene.sealed_with(0, (theirs, ours), 1, &upper);
        assert_eq!(scene.receive(&esp, PEER) == 1, icmp_type == 8, "from the peer: {icmp_type}");
        assert_eq!(scene.sends((ours, theirs), 1, &upper), icmp_type == 0, "to the peer: {icmp_type}");
    }
    assert_eq!(scene.counts.drops_for(DropCause::Refused), 255);
}

/// Clients, each with an address of its own: what one sends to another arrives only if that was negotiated, and never in the name of
/// another.
#[test]
fn adversarial_57_from_client_to_client_only_by_policy() {
    let host = |last: u8| vec![TrafficSelector::subnet([10, 2, 0, last].into(), 32)];
    let net = |net: u8| TrafficSelector::subnet([10, net, 0, 0].into(), 16);
    let mut scene = Scene::between([
        (usual(), [vec![net(1)], host(1)]),
        (usual(), [vec![net(1)], host(2)]),
        (usual(), [vec![net(1), net(2)], host(3)]),
    ]);
    let at = |last: u8| [10, 2, 0, last];
    for (client, from, to, passes) in [
        (0, at(1), [10, 1, 0, 1], true),
        (0, at(1), at(2), false),
        (0, at(2), [10, 1, 0, 1], false),
        (1, at(2), at(1), false),
        (2, at(3), at(1), true),
        (2, at(3), [10, 3, 0, 1], false),
        (2, at(1), at(2), false),
    ] {
        let esp = scene.sealed(client, from, to, ip::PROTOCOL_UDP);
        assert_eq!(scene.receive(&esp, PEER) == 1, passes, "{client}: {from:?} to {to:?}");
    }
    // The way back: only the third client is sent what comes from other clients.
    for (from, to, passes) in [
        ([10, 1, 0, 1], at(1), true),
        (at(1), at(3), true),
        (at(3), at(1), false),
        (at(1), at(2), false),
        ([10, 1, 0, 1], at(4), false),
    ] {
        assert_eq!(scene.sends((from, to), 17, &[0, 9, 0, 9, 0, 8, 0, 0]), passes, "{from:?} to {to:?}");
    }
}

/// A NAT maps anew: a fresh packet says so. One that was seen, or altered, or is late, says nothing about where the peer is.
#[test]
fn adversarial_59_only_fresh_packets_move_a_peer() {
    const ELSEWHERE: &str = "203.0.113.9:1024";
    let mut scene = Scene::new(&[usual()]);
    let packets: Vec<Vec<u8>> = (0..4).map(|_| scene.good(0)).collect();
    scene.receive(&packets[1], PEER);
    assert_eq!(scene.receive(&packets[1], ELSEWHERE), 0, "a replay");
    let mut altered = packets[2].clone();
    *altered.last_mut().unwrap() ^= 1;
    assert_eq!(scene.receive(&altered, ELSEWHERE), 0, "a forgery");
    assert_eq!(scene.receive(&packets[0], ELSEWHERE), 1, "a late one that was held back");
    assert_eq!(scene.events(), []);
    assert_eq!(scene.receive(&packets[3], ELSEWHERE), 1);
    let (local, remote) = (address(OURS), address(ELSEWHERE));
    assert_eq!(scene.events(), [NetEvent::PeerMoved { id: ChildId(0), local, remote }]);
}

/// Two clients behind one NAT, with the same address inside and the same selectors: the SPI and its keys tell them apart, and
/// what one sends says nothing about the other.
#[test]
fn adversarial_59_clients_behind_one_nat_are_apart() {
    let other = suites().nth(1).unwrap().1;
    let mut scene = Scene::new(&[usual(), other]);
    let (one, mut two) = (scene.good(0), scene.good(1));
    assert_eq!((scene.receive(&one, PEER), scene.receive(&two, "198.51.100.7:1025")), (1, 1));
    let (local, remote) = (address(OURS), address("198.51.100.7:1025"));
    assert_eq!(scene.events(), [NetEvent::PeerMoved { id: ChildId(1), local, remote }]);
    // The other's SPI with one's own keys.
    two = scene.good(1);
    two[..4].copy_from_slice(&0x1000_u32.to_be_bytes());
    assert_eq!(scene.receive(&two, "198.51.100.7:1025"), 0);
    scene.now += Duration::from_secs(1);
    assert_eq!((scene.events(), scene.counts.drops_for(DropCause::Refused)), (Vec::new(), 1));
}
