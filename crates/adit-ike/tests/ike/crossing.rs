//! What meets on the wire, or in the queue: limits, deletes, rekeyings and losses, each at a bad moment for the others.

use std::time::Duration;

use adit_ike::config::{Fragmentation, Lifetime};
use adit_ike::{DownReason, TerminateTarget, proposal};
use adit_wire::ikev2::{
    Delete, ExchangeType, Nonce, Notify, NotifyType, Payload, ProtocolId, SecurityAssociation, Spi,
    TrafficSelectors,
};

use crate::pair::*;

fn the_child(name: &str) -> TerminateTarget {
    TerminateTarget { child: Some(name.to_owned()), ..TerminateTarget::default() }
}

fn downs(peer: &Peer) -> usize {
    peer.events.iter().filter(|e| e.starts_with("child-down")).count()
}

fn rekeyed(peer: &Peer) -> usize {
    peer.events.iter().filter(|e| e.starts_with("child-rekeyed")).count()
}

fn lose(exchange: ExchangeType, response: bool) -> impl FnMut(usize, &Packet) -> Fate {
    move |_, p| if p.is(exchange, response) { Fate::Lose } else { Fate::Deliver }
}

/// More children on both sides than IKE_AUTH brings up.
fn with_more(names: &[&str]) -> (Side, Side) {
    let (mut a, mut b) = sides();
    for (n, name) in names.iter().enumerate() {
        let (one, other) = (format!("10.{}.0.0/16", 10 + n), format!("10.{}.0.0/16", 20 + n));
        a.connection().children.push(child(name, &one, &other));
        b.connection().children.push(child(name, &other, &one));
    }
    (a, b)
}

/// The request for the successor is out when the old one reaches its hard limit: that ends the old one only.
#[test]
fn a_hard_limit_does_not_end_the_successor() {
    for window in [1, 4] {
        let (mut a, mut b) = sides();
        (a.settings.window, b.settings.window) = (window, window);
        let mut pair = Pair::established((a, b));
        let old = *pair.a.installed.keys().next().unwrap();
        pair.a.gateway.child_expiring(pair.now, old);
        pair.collect();
        pair.a.gateway.child_expired(pair.now, old);
        pair.settle();
        pair.assert_children(1);
        for peer in [&pair.a, &pair.b] {
            assert_eq!((rekeyed(peer), downs(peer)), (1, 0), "{:?}", peer.events);
        }
    }
}

/// RFC 7296 2.25.1: what has reached its hard limit is about to be deleted, and no longer replaced.
#[test]
fn what_has_expired_is_not_rekeyed_by_the_peer() {
    let mut pair = Pair::new(with_more(&["second"]));
    pair.up();
    pair.settle();
    pair.assert_children(2);
    let find = |peer: &Peer, name: &str| *peer.installed.iter().find(|(_, c)| c.child == name).unwrap().0;
    let (second, net) = (find(&pair.a, "second"), find(&pair.a, "net"));
    // The request window is taken, so the Delete has to wait.
    pair.link = Box::new(lose(ExchangeType::CREATE_CHILD_SA, true));
    pair.a.gateway.child_expiring(pair.now, second);
    pair.settle();
    pair.a.gateway.child_expired(pair.now, net);
    pair.link = Box::new(|_, _| Fate::Deliver);
    let theirs = find(&pair.b, "net");
    pair.b.gateway.child_expiring(pair.now, theirs);
    pair.settle();
    let answer = pair.sent.iter().rfind(|p| p.is(ExchangeType::CREATE_CHILD_SA, true)).unwrap();
    assert_eq!(notifies(&pair.open(answer)), [NotifyType::TEMPORARY_FAILURE]);
    pair.run(Duration::from_secs(5));
    pair.assert_children(1);
    assert!(pair.a.events.contains(&"child-down net Expired".to_owned()), "{:?}", pair.a.events);
    assert!(pair.b.events.contains(&"child-down net DeletedByPeer".to_owned()), "{:?}", pair.b.events);
}

#[test]
fn a_limit_that_is_reached_twice_is_told_once() {
    let mut pair = Pair::established(sides());
    let (old, theirs) = (*pair.a.installed.keys().next().unwrap(), *pair.b.installed.keys().next().unwrap());
    // The peer has made the successor, its Delete is lost.
    pair.link = Box::new(lose(ExchangeType::INFORMATIONAL, false));
    pair.b.gateway.child_expiring(pair.now, theirs);
    pair.settle();
    for _ in 0..2 {
        pair.a.gateway.child_expired(pair.now, old);
        pair.settle();
    }
    pair.link = Box::new(|_, _| Fate::Deliver);
    pair.run(Duration::from_secs(5));
    pair.assert_children(1);
    assert_eq!((rekeyed(&pair.a), downs(&pair.a)), (1, 0), "{:?}", pair.a.events);
}

/// Nobody was told of a successor that has not taken over: what ends is one child.
#[test]
fn what_stands_by_ends_without_a_word() {
    for broken in [false, true] {
        let mut pair = Pair::established(sides());
        let theirs = *pair.b.installed.keys().next().unwrap();
        if broken {
            pair.a.broken_data_plane = Some("no room".to_owned());
        } else {
            pair.link = Box::new(lose(ExchangeType::INFORMATIONAL, false));
        }
        pair.b.gateway.child_expiring(pair.now, theirs);
        pair.settle();
        if !broken {
            assert_eq!((pair.a.installed.len(), downs(&pair.a)), (2, 0), "one stands by");
            pair.link = Box::new(|_, _| Fate::Deliver);
            pair.down(&the_child("net"));
        }
        pair.run(Duration::from_secs(5));
        pair.assert_children(0);
        assert_eq!((downs(&pair.a), downs(&pair.b)), (1, 1), "{:?} {:?}", pair.a.events, pair.b.events);
    }
}

/// The peer deletes the child whose successor we ask for, and then wants that with another key exchange method.
#[test]
fn a_deleted_child_is_told_of_whatever_becomes_of_its_successor() {
    let (mut a, mut b) = sides();
    a.connection().children[0].proposals = proposal::parse_esp("aes256gcm16-x25519-ecp256-noesn").unwrap();
    b.connection().children[0].proposals = proposal::parse_esp("aes256gcm16-ecp256-noesn").unwrap();
    let mut pair = Pair::established((a, b));
    let old = *pair.a.installed.keys().next().unwrap();
    pair.link = Box::new(lose(ExchangeType::CREATE_CHILD_SA, true));
    pair.a.gateway.child_expiring(pair.now, old);
    pair.settle();
    let request = pair.b.next_request();
    pair.b.gateway.terminate(pair.now, &the_child("net"), request).unwrap();
    pair.settle();
    pair.link = Box::new(|_, _| Fate::Deliver);
    pair.run(Duration::from_secs(2));
    pair.assert_children(0);
    assert!(pair.a.events.contains(&"child-down net DeletedByPeer".to_owned()), "{:?}", pair.a.events);
    assert_eq!(downs(&pair.a), 1);
}

#[test]
fn what_is_rekeyed_and_taken_down_is_down() {
    for window in [1, 4] {
        let (mut a, mut b) = sides();
        (a.settings.window, b.settings.window) = (window, window);
        let mut pair = Pair::established((a, b));
        let request = pair.a.next_request();
        pair.a.gateway.rekey(pair.now, &the_child("net"), request).unwrap();
        pair.collect();
        let down = pair.down(&the_child("net"));
        pair.settle();
        assert_eq!(pair.a.done.get(&request), Some(&Ok(())));
        assert_eq!(pair.a.done.get(&down), Some(&Ok(())));
        pair.assert_children(0);
        assert_eq!((downs(&pair.a), downs(&pair.b)), (1, 1), "{:?} {:?}", pair.a.events, pair.b.events);
    }
}

#[test]
fn whoever_rekeys_what_is_being_deleted_hears_so() {
    let mut pair = Pair::established(sides());
    pair.link = Box::new(|_, _| Fate::Lose);
    pair.down(&TerminateTarget { connection: Some("to-b".to_owned()), ..TerminateTarget::default() });
    pair.settle();
    let request = pair.a.next_request();
    pair.a.gateway.rekey(pair.now, &the_child("net"), request).unwrap();
    pair.run(Duration::from_secs(10));
    assert!(pair.a.done.get(&request).is_some_and(Result::is_err), "{:?}", pair.a.events);
}

/// RFC 7296 2.1: the request is repeated until its response comes, and the IKE SA it came on answers it.
#[test]
fn a_replaced_ike_sa_answers_as_long_as_the_peer_may_ask() {
    let mut pair = Pair::established(sides());
    pair.link = Box::new(lose(ExchangeType::CREATE_CHILD_SA, true));
    let request = pair.a.next_request();
    let target = TerminateTarget { connection: Some("to-b".to_owned()), ..TerminateTarget::default() };
    pair.a.gateway.rekey(pair.now, &target, request).unwrap();
    pair.run(Duration::from_secs(40));
    pair.link = Box::new(|_, _| Fate::Deliver);
    pair.run(Duration::from_secs(30));
    assert_eq!(pair.a.done.get(&request), Some(&Ok(())));
    let spis = |peer: &Peer| -> Vec<_> {
        peer.gateway.ike_sas().map(|sa| (sa.initiator_spi, sa.responder_spi)).collect()
    };
    assert_eq!(spis(&pair.a), spis(&pair.b));
    pair.assert_children(1);
    assert_eq!((downs(&pair.a), downs(&pair.b)), (0, 0));
    // Once it is deleted nothing is left of it.
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.b.gateway.ike_sas().count(), 1);
}

/// A peer that cannot use the successor it has made deletes that: the old one goes on, and is rekeyed.
#[test]
fn a_child_whose_successor_is_deleted_is_rekeyed_again() {
    let (a, mut b) = sides();
    b.connection().children[0].limits.time =
        Lifetime { soft: Duration::from_secs(60), hard: Duration::from_secs(900), jitter: Duration::ZERO };
    let mut pair = Pair::established((a, b));
    let keys = pair.a.keys.pop().unwrap();
    let old = pair.a.installed.values().next().unwrap().inbound_spi;
    let new = Spi(old.0 ^ 1);
    let mut proposals = proposal::parse_esp("aes256gcm16-noesn").unwrap();
    proposals[0].spi = new.0.to_be_bytes().to_vec();
    let ts = |s: &str| TrafficSelectors::new(vec![net(s)]);
    let rekey_sa = Notify {
        protocol: ProtocolId::ESP,
        spi: old.0.to_be_bytes().to_vec(),
        ..Notify::new(NotifyType::REKEY_SA, Vec::new())
    };
    let make = vec![
        Payload::Notify(rekey_sa),
        Payload::SecurityAssociation(SecurityAssociation { proposals }),
        Payload::Nonce(Nonce(vec![7; 32])),
        Payload::TrafficSelectorsInitiator(ts("10.1.0.0/16")),
        Payload::TrafficSelectorsResponder(ts("10.2.0.0/16")),
    ];
    let delete = vec![Payload::Delete(Delete { protocol: ProtocolId::ESP, spis: vec![new] })];
    for (id, exchange, payloads) in
        [(2, ExchangeType::CREATE_CHILD_SA, make), (3, ExchangeType::INFORMATIONAL, delete)]
    {
        let h = header(&keys, exchange, true, false, id);
        let datagram = seal(&keys, &h, &payloads, 1000 + u64::from(id));
        pair.deliver(&Packet { source: at(A, 500), destination: at(B, 500), datagram });
        assert_eq!(pair.b.installed.len(), if id == 2 { 2 } else { 1 });
    }
    pair.run(Duration::from_secs(30));
    assert_eq!(rekeyed(&pair.b), 1, "{:?}", pair.b.events);
    pair.assert_children(1);
}

/// The responses that make two children are late, and the peer has deleted the second meanwhile (RFC 7296 2.25.1).
#[test]
fn a_delete_that_overtakes_two_responses() {
    let (mut a, mut b) = with_more(&["second", "third"]);
    (a.settings.window, b.settings.window) = (4, 4);
    let mut pair = Pair::new((a, b));
    let mut lost = 0;
    pair.link = Box::new(move |_, p| {
        let lose = p.is(ExchangeType::CREATE_CHILD_SA, true) && lost < 2;
        lost += usize::from(lose);
        if lose { Fate::Lose } else { Fate::Deliver }
    });
    pair.up();
    pair.settle();
    let request = pair.b.next_request();
    pair.b.gateway.terminate(pair.now, &the_child("third"), request).unwrap();
    pair.run(Duration::from_secs(2));
    pair.assert_children(2);
    assert!(!pair.a.installed.values().any(|c| c.child == "third"));
}

/// RFC 7296 2.21.2: an initiator that does not believe our IKE_AUTH response says so in the exchange after it, whose
/// Message ID depends on how many came before.
#[test]
fn a_rejected_response_after_ike_intermediate() {
    let (mut a, mut b) = sides();
    for side in [&mut a, &mut b] {
        let hybrid = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";
        side.connection().proposals = proposal::parse_ike(hybrid).unwrap();
        side.connection().fragmentation = Fragmentation::No;
    }
    let mut pair = Pair::new((a, b));
    pair.up();
    pair.link = Box::new(lose(ExchangeType::IKE_AUTH, true));
    pair.settle();
    let genuine = pair.sent.last().unwrap().clone();
    let keys: Vec<_> = pair.a.keys.iter().chain(&pair.b.keys).collect();
    let (keys, mut payloads) =
        keys.into_iter().find_map(|k| Some((k, try_open(k, &genuine)?))).expect("one of them");
    for payload in &mut payloads {
        if let Payload::Authentication(auth) = payload {
            auth.data[0] ^= 1;
        }
    }
    let datagram = seal(keys, &genuine.header(), &payloads, 1 << 40);
    pair.link = Box::new(|_, _| Fate::Deliver);
    pair.deliver(&Packet { datagram, ..genuine });
    pair.settle();
    assert_eq!(pair.b.down, [DownReason::Failed], "{:?}", pair.b.events);
    pair.assert_children(0);
}

/// Nobody unknown gets more than it sent.
#[test]
fn the_shortest_message_for_an_unknown_spi() {
    let (_, b) = sides();
    let (a, _) = sides();
    let mut pair = Pair::new((a, b));
    for body in [0_usize, 1, 4, 8] {
        let mut datagram = [[0x11_u8; 8], [0x22; 8]].concat();
        let length = u8::try_from(28 + 4 + body).unwrap();
        datagram.extend([46, 0x20, 37, 0x08, 0, 0, 0, 5, 0, 0, 0, length]);
        datagram.extend([0, 0, 0, u8::try_from(4 + body).unwrap()]);
        datagram.extend(vec![0x33; body]);
        let before = pair.sent.len();
        pair.deliver(&Packet { source: at(A, 500), destination: at(B, 500), datagram });
        let answered = pair.sent[before..].iter().map(|p| p.datagram.len()).sum::<usize>();
        assert!(answered <= usize::from(length), "{answered} octets for {length}");
    }
}
