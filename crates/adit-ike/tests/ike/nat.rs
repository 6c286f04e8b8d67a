//! A NAT that changes its mapping, without MOBIKE (RFC 7296 2.23): who is followed, and who is not.

use std::net::SocketAddr;
use std::time::Duration;

use adit_ike::config::AddressSpec;
use adit_ike::{DownReason, TerminateTarget};
use adit_wire::ikev2::ExchangeType;

use crate::pair::{A, B, Fate, Packet, Pair, at, child, ip, sides};

const OUTSIDE: &str = "198.51.100.7";

/// `a` is behind a NAT that shows its ports 500 and 4500 as these.
fn mapping(pair: &mut Pair, ike: u16, natt: u16) {
    pair.link = Box::new(move |_, p| {
        let mut packet = p.clone();
        if p.source.ip() == ip(A) {
            packet.source = at(OUTSIDE, if p.source.port() == 500 { ike } else { natt });
        } else if p.destination == at(OUTSIDE, ike) {
            packet.destination = at(A, 500);
        } else if p.destination == at(OUTSIDE, natt) {
            packet.destination = at(A, 4500);
        } else {
            return Fate::Lose;
        }
        Fate::Replace(vec![packet])
    });
}

fn behind_a_nat() -> Pair {
    let (mut a, mut b) = sides();
    b.connection().remote_addrs = Vec::new();
    a.connection().children.push(child("more", "10.11.0.0/16", "10.12.0.0/16"));
    b.connection().children.push(child("more", "10.12.0.0/16", "10.11.0.0/16"));
    let mut pair = Pair::new((a, b));
    mapping(&mut pair, 10_500, 14_500);
    pair.up();
    pair.settle();
    assert_eq!(pair.b.installed.len(), 2);
    assert_eq!(peer_of_b(&pair), vec![at(OUTSIDE, 14_500); 3]);
    pair
}

/// Where `b` sends: of the IKE SA, then of each child.
fn peer_of_b(pair: &Pair) -> Vec<SocketAddr> {
    let ike = pair.b.gateway.ike_sas().map(|sa| sa.remote);
    let esp =
        pair.b.installed.values().map(|c| SocketAddr::new(c.remote, c.encap.map_or(0, |(_, port)| port)));
    ike.chain(esp).collect()
}

#[test]
fn a_fresh_request_from_elsewhere_moves_everything() {
    let mut pair = behind_a_nat();
    let stale = pair.sent.iter().rfind(|p| p.source.ip() == ip(A)).unwrap().clone();
    pair.deliver(&Packet { source: at("203.0.113.1", 4500), ..stale });
    assert_eq!(peer_of_b(&pair), vec![at(OUTSIDE, 14_500); 3], "a repetition moves nothing");
    mapping(&mut pair, 20_500, 24_500);
    pair.down(&TerminateTarget { child: Some("more".to_owned()), ..Default::default() });
    pair.settle();
    assert_eq!(peer_of_b(&pair), vec![at(OUTSIDE, 24_500); 2]);
}

#[test]
fn esp_from_elsewhere_moves_everything() {
    let mut pair = behind_a_nat();
    let child = *pair.b.installed.keys().next().unwrap();
    pair.b.gateway.child_moved(pair.now, child, at(B, 4500), at(OUTSIDE, 24_500));
    pair.collect();
    assert_eq!(peer_of_b(&pair), vec![at(OUTSIDE, 24_500); 3]);
    // Not in UDP: no NAT did this.
    pair.b.gateway.child_moved(pair.now, child, at(B, 0), at("203.0.113.1", 0));
    pair.collect();
    assert_eq!(peer_of_b(&pair), vec![at(OUTSIDE, 24_500); 3]);
}

#[test]
fn who_is_behind_the_nat_follows_nobody() {
    let mut pair = behind_a_nat();
    let before = pair.a.gateway.ike_sas().next().unwrap().remote;
    let child = *pair.a.installed.keys().next().unwrap();
    pair.a.gateway.child_moved(pair.now, child, at(A, 4500), at("203.0.113.1", 4500));
    pair.collect();
    assert_eq!(pair.a.gateway.ike_sas().next().unwrap().remote, before);
    assert!(pair.a.installed.values().all(|c| c.remote == ip(B)));
}

#[test]
fn without_a_nat_nobody_is_followed() {
    let mut pair = Pair::established(sides());
    let child = *pair.b.installed.keys().next().unwrap();
    pair.b.gateway.child_moved(pair.now, child, at(B, 4500), at("203.0.113.1", 4500));
    pair.link = Box::new(|_, p| {
        let source = if p.source.ip() == ip(A) { at("203.0.113.1", 500) } else { p.source };
        let destination = if p.destination.ip() == ip(A) { p.destination } else { at(B, 500) };
        Fate::Replace(vec![Packet { source, destination, ..p.clone() }])
    });
    pair.down(&TerminateTarget { child: Some("net".to_owned()), ..Default::default() });
    pair.collect();
    let child = pair.b.installed.values().next().unwrap();
    assert_eq!((child.remote, pair.b.gateway.ike_sas().next().unwrap().remote), (ip(A), at(A, 500)));
    pair.settle();
    assert_eq!(pair.b.gateway.ike_sas().next().unwrap().remote, at(A, 500));
}

/// Keepalives keep the mapping, where there is one, and only while nothing else is sent.
#[test]
fn keepalives_are_for_who_is_behind_a_nat_and_silent() {
    let mut pair = behind_a_nat();
    let start = pair.sent.len();
    pair.run(Duration::from_secs(205));
    assert_eq!(pair.a.keepalives.len(), 10, "one in 20 s");
    assert!(pair.a.keepalives.iter().all(|(from, to)| (*from, *to) == (at(A, 4500), at(B, 4500))));
    assert!(pair.b.keepalives.is_empty());
    assert_eq!(pair.sent.len(), start);
}

/// Without MOBIKE an IKE SA is tied to its addresses. One that no longer works is given up quickly, so that a new one
/// can be made; one that works stays.
#[test]
fn without_mobike_another_address_is_a_reason_for_doubt() {
    let mut sides = sides();
    sides.0.connection().local_addrs.push(AddressSpec { first: ip("203.0.113.9"), last: ip("203.0.113.9") });
    let mut pair = Pair::established(sides);
    let handle = pair.a.gateway.ike_sas().next().unwrap().handle;
    pair.a.gateway.path_changed(pair.now, handle, Some(ip("203.0.113.9")));
    pair.settle();
    pair.run(Duration::from_secs(60));
    pair.assert_children(1);
    assert_eq!(
        pair.sent.iter().filter(|p| p.is(ExchangeType::INFORMATIONAL, false)).count(),
        1,
        "one question"
    );

    pair.link = Box::new(|_, _| Fate::Lose);
    pair.a.gateway.path_changed(pair.now, handle, Some(ip("203.0.113.9")));
    pair.run(Duration::from_secs(11));
    assert_eq!(pair.a.down, [DownReason::Failed], "not the peer's fault");
    assert!(pair.a.installed.is_empty());
}

#[test]
fn while_there_is_no_way_to_the_peer_nothing_is_given_up() {
    for mobike in [false, true] {
        let mut sides = sides();
        sides.0.connection().mobike = mobike;
        sides.1.connection().mobike = mobike;
        sides.0.connection().dpd_delay = Duration::from_secs(30);
        let mut pair = Pair::established(sides);
        let handle = pair.a.gateway.ike_sas().next().unwrap().handle;
        pair.link = Box::new(|_, _| Fate::Lose);
        pair.run(Duration::from_secs(35));
        pair.a.gateway.path_changed(pair.now, handle, None);
        let silent = pair.sent.len();
        pair.run(Duration::from_secs(3600));
        assert_eq!(pair.sent.len(), silent, "what nobody gets is not sent");
        pair.link = Box::new(|_, _| Fate::Deliver);
        pair.a.gateway.path_changed(pair.now, handle, Some(ip(A)));
        pair.run(Duration::from_secs(2));
        pair.assert_children(1);
        assert!(pair.sent.len() >= silent + 2, "asked and answered");
        assert!(pair.a.down.is_empty());
    }
}
