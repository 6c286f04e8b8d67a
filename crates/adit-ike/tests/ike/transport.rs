//! Transport mode: who gets it, over rekeyings and through NATs (RFC 7296 1.3.1, 2.23.1), and what ends it.

use std::net::IpAddr;
use std::time::Duration;

use adit_ike::InstallChild;
use adit_ike::config::{Lifetime, SelectorSpec};
use adit_wire::esp::Mode::{self, Transport, Tunnel};
use adit_wire::ikev2::{ExchangeType, NotifyType, Payload, TrafficSelector};

use crate::pair::*;

/// Where NATs show `a` and `b`.
const SEEN_A: &str = "198.51.100.7";
const SEEN_B: &str = "203.0.113.2";

const DYNAMIC: SelectorSpec = SelectorSpec::Dynamic { protocol: 0, start_port: 0, end_port: 65_535 };

/// Two hosts that want these modes for what is between them.
fn hosts(a: Mode, b: Mode) -> (Side, Side) {
    let mut sides = sides();
    for (side, mode) in [(&mut sides.0, a), (&mut sides.1, b)] {
        let child = &mut side.connection().children[0];
        (child.mode, child.local_ts, child.remote_ts) = (mode, vec![DYNAMIC], vec![DYNAMIC]);
    }
    sides
}

fn only(peer: &Peer) -> &InstallChild {
    assert_eq!(peer.installed.len(), 1);
    peer.installed.values().next().unwrap()
}

fn modes(pair: &Pair) -> (Mode, Mode) {
    (only(&pair.a).mode, only(&pair.b).mode)
}

/// The whole of a host.
fn host(address: &str) -> Vec<TrafficSelector> {
    vec![net(&format!("{address}/{}", if ip(address).is_ipv4() { 32 } else { 128 }))]
}

/// The selectors of one side, seen from it.
fn between(child: &InstallChild) -> (Vec<TrafficSelector>, Vec<TrafficSelector>) {
    (child.local_ts.clone(), child.remote_ts.clone())
}

/// Was there USE_TRANSPORT_MODE in the newest message of this kind?
fn says_transport(pair: &Pair, exchange: ExchangeType, response: bool) -> bool {
    let packet = pair.sent.iter().rfind(|p| p.is(exchange, response)).unwrap();
    notifies(&pair.open(packet)).contains(&NotifyType::USE_TRANSPORT_MODE)
}

#[test]
fn it_takes_two() {
    for (a, b) in [(Transport, Transport), (Transport, Tunnel), (Tunnel, Transport), (Tunnel, Tunnel)] {
        let pair = Pair::established(hosts(a, b));
        let agreed = if (a, b) == (Transport, Transport) { Transport } else { Tunnel };
        assert_eq!(modes(&pair), (agreed, agreed), "{a:?} {b:?}");
        assert_eq!(says_transport(&pair, ExchangeType::IKE_AUTH, false), a == Transport);
        assert_eq!(says_transport(&pair, ExchangeType::IKE_AUTH, true), agreed == Transport);
        for (peer, own, other, wanted) in [(&pair.a, A, B, a), (&pair.b, B, A, b)] {
            assert_eq!(between(only(peer)), (host(own), host(other)));
            assert_eq!(only(peer).original, None, "no NAT");
            let told = peer.records.iter().any(|r| r.message.contains("both sides have to want it"));
            assert_eq!(told, wanted != agreed, "{a:?} {b:?}");
        }
    }
}

/// Transport mode is for the two hosts themselves; it is not asked for otherwise.
#[test]
fn networks_need_a_tunnel() {
    let (mut a, mut b) = sides();
    for side in [&mut a, &mut b] {
        side.connection().children[0].mode = Transport;
    }
    let pair = Pair::established((a, b));
    assert_eq!(modes(&pair), (Tunnel, Tunnel));
    assert!(!says_transport(&pair, ExchangeType::IKE_AUTH, false));
}

/// Nor is it given to a peer that asks for it.
#[test]
fn a_wish_for_more_than_hosts_is_granted_as_a_tunnel() {
    let (mut a, mut b) = hosts(Transport, Transport);
    for side in [&mut a, &mut b] {
        let child = &mut side.connection().children[0];
        child.local_ts = vec![SelectorSpec::Fixed(net("192.0.2.0/24"))];
        child.remote_ts = child.local_ts.clone();
    }
    let mut pair = Pair::new((a, b));
    pair.up();
    pair.link = Box::new(|i, _| if i >= 2 { Fate::Lose } else { Fate::Deliver });
    pair.settle();
    let mut payloads = pair.open(&pair.sent[2]);
    payloads.push(notify(NotifyType::USE_TRANSPORT_MODE));
    let keys = pair.b.keys.pop().unwrap();
    let header = header(&keys, ExchangeType::IKE_AUTH, true, false, 1);
    let datagram = seal(&keys, &header, &payloads, 1 << 40);
    pair.deliver(&Packet { source: at(A, 500), destination: at(B, 500), datagram });
    assert_eq!(only(&pair.b).mode, Tunnel);
    let answer = open(&keys, pair.sent.last().unwrap());
    assert!(!notifies(&answer).contains(&NotifyType::USE_TRANSPORT_MODE));
}

/// A child in the mode that is asked for is taken before one that fits as well.
#[test]
fn the_mode_helps_to_choose() {
    for wish in [Transport, Tunnel] {
        for order in [[Transport, Tunnel], [Tunnel, Transport]] {
            let (a, mut b) = hosts(wish, wish);
            let children = &mut b.connection().children;
            let template = children.remove(0);
            for mode in order {
                let name = format!("{mode:?}");
                children.push(adit_ike::config::Child { name, mode, ..template.clone() });
            }
            let pair = Pair::established((a, b));
            assert_eq!(modes(&pair), (wish, wish));
            assert_eq!(only(&pair.b).child, format!("{wish:?}"));
        }
    }
}

/// Protocol and ports are narrowed as ever.
#[test]
fn ports_are_narrowed() {
    let (mut a, mut b) = hosts(Transport, Transport);
    let telnet = |protocol, port| SelectorSpec::Dynamic { protocol, start_port: port, end_port: port };
    a.connection().children[0].remote_ts = vec![telnet(6, 23), telnet(6, 22), telnet(17, 53)];
    b.connection().children[0].local_ts = vec![telnet(6, 22), telnet(17, 53)];
    let pair = Pair::established((a, b));
    assert_eq!(modes(&pair), (Transport, Transport));
    pair.assert_children(1);
    let ports: Vec<_> = only(&pair.a).remote_ts.iter().map(|ts| (ts.protocol, ts.start_port)).collect();
    assert_eq!(ports, [(6, 22), (17, 53)]);
}

fn rekeyed_soon(side: &mut Side) {
    let seconds = Duration::from_secs;
    side.connection().children[0].limits.time =
        Lifetime { soft: seconds(60), hard: seconds(90), jitter: Duration::ZERO };
}

#[test]
fn a_successor_is_what_the_old_one_was() {
    for by_a in [true, false] {
        for (mode_b, agreed) in [(Transport, Transport), (Tunnel, Tunnel)] {
            let (mut a, mut b) = hosts(Transport, mode_b);
            rekeyed_soon(if by_a { &mut a } else { &mut b });
            let mut pair = Pair::established((a, b));
            let old = *pair.a.installed.keys().next().unwrap();
            pair.run(Duration::from_secs(70));
            pair.assert_children(1);
            assert!(!pair.a.installed.contains_key(&old), "rekeyed");
            assert_eq!(modes(&pair), (agreed, agreed), "{by_a}");
            let asked = says_transport(&pair, ExchangeType::CREATE_CHILD_SA, false);
            assert_eq!(asked, agreed == Transport);
        }
    }
}

/// `a` is shown as [`SEEN_A`] and reaches `b` as [`SEEN_B`], or as itself where that is not wanted.
fn nats(pair: &mut Pair, (at_a, at_b): (bool, bool)) {
    pair.link = Box::new(move |_, p| {
        let mut packet = p.clone();
        for (inside, outside, there) in [(A, SEEN_A, at_a), (B, SEEN_B, at_b)] {
            if there && p.source.ip() == ip(inside) {
                packet.source = at(outside, p.source.port());
            }
            if there && p.destination.ip() == ip(outside) {
                packet.destination = at(inside, p.destination.port());
            }
        }
        Fate::Replace(vec![packet])
    });
}

/// RFC 7296 2.23.1, with each of the NATs A and B there and not. In its words `a` is IP1, shown as IPN1, and `b` is IP2,
/// shown as IPN2.
#[test]
fn through_nats_each_side_sees_its_own_addresses() {
    for by_a in [true, false] {
        for there in [(true, true), (true, false), (false, true)] {
            let (mut a, mut b) = hosts(Transport, Transport);
            rekeyed_soon(if by_a { &mut a } else { &mut b });
            let (seen_a, seen_b) = (if there.0 { SEEN_A } else { A }, if there.1 { SEEN_B } else { B });
            let remote = |address| {
                let address = ip(address);
                vec![adit_ike::config::AddressSpec { first: address, last: address }]
            };
            a.connection().remote_addrs = remote(seen_b);
            b.connection().remote_addrs = remote(seen_a);
            let mut pair = Pair::new((a, b));
            nats(&mut pair, there);
            pair.up();
            pair.settle();
            for generation in 0..3 {
                assert_eq!(modes(&pair), (Transport, Transport), "{there:?} {generation}");
                let (a, b) = (only(&pair.a), only(&pair.b));
                assert_eq!(between(a), (host(A), host(seen_b)));
                assert_eq!(between(b), (host(B), host(seen_a)));
                assert!(a.encap.is_some() && b.encap.is_some());
                // The addresses that the other side's packets have when it makes them.
                let original = |source, destination| Some((ip(source), ip(destination)));
                assert_eq!(a.original, original(B, seen_a), "{there:?}");
                assert_eq!(b.original, original(A, seen_b), "{there:?}");
                pair.run(Duration::from_secs(65));
            }
        }
    }
}

/// What only looks like a NAT changes nothing.
#[test]
fn forced_encapsulation_is_no_nat() {
    for (a_forces, b_forces) in [(true, false), (false, true), (true, true)] {
        let (mut a, mut b) = hosts(Transport, Transport);
        (a.connection().encap, b.connection().encap) = (a_forces, b_forces);
        let pair = Pair::established((a, b));
        assert_eq!(modes(&pair), (Transport, Transport));
        for (peer, own, other) in [(&pair.a, A, B), (&pair.b, B, A)] {
            assert_eq!(between(only(peer)), (host(own), host(other)));
            assert_eq!((only(peer).encap, only(peer).original), (Some((4500, 4500)), None));
        }
    }
}

/// RFC 7296 2.23.1: where transport mode is not for this traffic, the peer's own addresses count again.
#[test]
fn a_tunnel_through_a_nat_is_for_the_addresses_behind_it() {
    let (a, mut b) = hosts(Transport, Tunnel);
    b.connection().remote_addrs = Vec::new();
    b.connection().children[0].remote_ts = vec![SelectorSpec::Fixed(net("192.0.2.1/32"))];
    let mut pair = Pair::new((a, b));
    nats(&mut pair, (true, false));
    pair.up();
    pair.settle();
    assert_eq!(modes(&pair), (Tunnel, Tunnel));
    pair.assert_children(1);
    assert_eq!(between(only(&pair.b)), (host(B), host(A)));
    assert_eq!((only(&pair.a).original, only(&pair.b).original), (None, None));
}

/// A response that nobody asked for is no agreement, and one for several addresses none for us.
#[test]
fn what_a_responder_may_not_answer() {
    let agree = |a: Mode, answer: fn(&mut Vec<Payload>)| -> Option<Mode> {
        let mut pair = Pair::new(hosts(a, a));
        pair.up();
        pair.link = Box::new(|i, _| if i == 3 { Fate::Lose } else { Fate::Deliver });
        pair.settle();
        let response = pair.sent[3].clone();
        assert!(response.is(ExchangeType::IKE_AUTH, true));
        let mut payloads = pair.open(&response);
        answer(&mut payloads);
        let keys = pair.keys(&response);
        let header = header(keys, ExchangeType::IKE_AUTH, false, true, 1);
        let datagram = seal(keys, &header, &payloads, 1 << 40);
        pair.deliver(&Packet { datagram, ..response });
        pair.a.installed.values().next().map(|child| child.mode)
    };
    assert_eq!(agree(Transport, |_| ()), Some(Transport));
    assert_eq!(agree(Tunnel, |p| p.push(notify(NotifyType::USE_TRANSPORT_MODE))), Some(Tunnel));
    let both = |payloads: &mut Vec<Payload>| {
        for payload in payloads {
            if let Payload::TrafficSelectorsResponder(ts) = payload {
                ts.selectors.extend(host(SEEN_B));
            }
        }
    };
    assert_eq!(agree(Transport, both), None);
}

/// RFC 4555 leaves transport mode out: its SAs belong to the addresses, and go with them.
#[test]
fn another_address_ends_it() {
    let elsewhere: IpAddr = ip("198.51.100.20");
    let (mut a, mut b) = hosts(Transport, Transport);
    a.connection().local_addrs = Vec::new();
    b.connection().remote_addrs = Vec::new();
    for side in [&mut a, &mut b] {
        side.connection().mobike = true;
    }
    let mut pair = Pair::new((a, b));
    pair.homes_a.push(elsewhere);
    let request = pair.a.next_request();
    let target = adit_ike::Target {
        connection: Some("to-b".to_owned()),
        local: Some(ip(A)),
        ..adit_ike::Target::default()
    };
    pair.a.gateway.initiate(pair.now, &target, request).unwrap();
    pair.settle();
    assert_eq!(modes(&pair), (Transport, Transport));
    let handle = pair.a.gateway.ike_sas().next().unwrap().handle;
    pair.a.gateway.path_changed(pair.now, handle, Some(elsewhere));
    pair.settle();
    assert!(
        pair.a.installed.is_empty() && pair.b.installed.is_empty(),
        "{:?} {:?}",
        pair.a.events,
        pair.b.events
    );
    let down: Vec<_> = pair.a.events.iter().filter(|e| e.starts_with("child-down")).collect();
    assert_eq!(down, ["child-down net DataPlane"]);
    // The next one is for the new address.
    pair.up();
    pair.settle();
    assert_eq!(modes(&pair), (Transport, Transport));
    assert_eq!(between(only(&pair.b)), (host(B), host("198.51.100.20")));
}
