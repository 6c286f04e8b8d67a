//! Where the engine stands: the addresses, networks and ways that policies, SAs and datagrams are made of, by the same die.

use std::net::{IpAddr, SocketAddr};

use adit_wire::ikev2::TrafficSelector;

use super::packet::Pair;
use super::traffic::{Dice, address_of, number_of};
use crate::engine::Arrival;
use crate::engine::half::Transport;
use crate::sockets::Kind;

const ALL_PORTS: (u16, u16) = (0, u16::MAX);

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The ends of outer packets, and of what is carried in transport mode.
pub(super) fn host(ours: bool, v4: bool) -> IpAddr {
    ip(match (ours, v4) {
        (true, true) => "192.0.2.1",
        (false, true) => "198.51.100.7",
        (true, false) => "2001:db8::1",
        (false, false) => "2001:db8:1::7",
    })
}

/// What the peer calls itself behind a NAT.
pub(super) fn other_host(v4: bool) -> IpAddr {
    if v4 { ip("10.9.9.9") } else { ip("fd99::9") }
}

pub(super) fn with_protocol(dice: &mut Dice, protocol: u8, mut ts: TrafficSelector) -> TrafficSelector {
    ts.protocol = if dice.one_in(40) { dice.pick(&[0, 6, 17]) } else { protocol };
    if (ts.protocol != 0 || dice.one_in(20)) && dice.one_in(2) {
        let ports =
            [ALL_PORTS, ALL_PORTS, (53, 53), (5000, 5010), (0x0800, 0x08ff), (0x0300, 0x0301), (u16::MAX, 0)];
        (ts.start_port, ts.end_port) = dice.pick(&ports);
    }
    ts
}

pub(super) fn network(dice: &mut Dice, ours: bool, v4: bool) -> TrafficSelector {
    let all: &[(&str, u8)] = match (ours, v4) {
        (true, true) => {
            &[("10.1.0.0", 16), ("10.1.5.0", 24), ("192.168.1.0", 24), ("10.1.0.9", 32), ("10.0.0.0", 8)]
        }
        (true, false) => &[("fd00:1::", 48), ("fd00:1:0:5::", 64)],
        (false, true) => {
            &[("10.2.0.0", 16), ("10.2.7.0", 24), ("10.2.0.5", 32), ("10.0.0.0", 8), ("0.0.0.0", 0)]
        }
        (false, false) => &[("fd00:2::", 48), ("fd00:2:0:7::", 64), ("::", 0)],
    };
    let (address, len) = dice.pick(all);
    let mut ts = TrafficSelector::subnet(ip(address), len);
    if dice.one_in(6) {
        // Any range.
        let (first, last) = (number_of(ts.start), number_of(ts.end));
        let v4 = ts.start.is_ipv4();
        let less = |dice: &mut Dice| u128::from(dice.below(30) as u64).min((last - first) / 3);
        (ts.start, ts.end) = (address_of(first + less(dice), v4), address_of(last - less(dice), v4));
    }
    ts
}

/// Both sides have 10.1.0.0/16.
pub(super) fn pairs() -> [Vec<Pair>; 2] {
    let pair = |inside, outside, len| Pair { inside: ip(inside), outside: ip(outside), len };
    [
        vec![pair("10.1.0.0", "172.20.0.0", 16), pair("fd00:1::", "fd00:a::", 48)],
        vec![pair("10.2.0.0", "10.1.0.0", 16), pair("fd00:2::", "fd00:1::", 48)],
    ]
}

/// A selector as the peer knows it, where it lies within one network.
pub(super) fn mapped(ts: &TrafficSelector, pairs: &[Pair]) -> TrafficSelector {
    let both = |pair: &Pair| Some((pair.map_address(ts.start, true)?, pair.map_address(ts.end, true)?));
    let (start, end) = pairs.iter().find_map(both).unwrap_or((ts.start, ts.end));
    TrafficSelector { start, end, ..*ts }
}

/// Mostly as we expect them, and seldom from elsewhere or by other means.
pub(super) fn arrival(dice: &mut Dice, transport: Transport) -> Arrival {
    let Transport { mut kind, source, destination } = transport;
    let local = if source.is_unspecified() { host(true, source.is_ipv4()) } else { source };
    let mut remote = destination;
    match dice.below(40) {
        0 => kind = if kind == Kind::Esp { Kind::NatT } else { Kind::Esp },
        1 => remote.set_port(dice.pick(&[4500, 1024, 7])),
        2 => remote.set_ip(other_host(remote.is_ipv4())),
        _ => {}
    }
    let port = if kind == Kind::NatT { 4500 } else { 0 };
    let unknown = dice.one_in(60);
    Arrival {
        kind,
        v6: destination.is_ipv6(),
        local: (!unknown).then(|| SocketAddr::new(local, port)),
        remote: (!dice.one_in(100)).then_some(remote),
        tos: dice.pick(&[0, 0, 0, 1, 2, 3, 0xb8, 0xbb]),
        hop_limit: dice.pick(&[Some(64), Some(1), Some(0), None]),
    }
}
