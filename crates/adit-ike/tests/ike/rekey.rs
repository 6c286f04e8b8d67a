//! Rekeying of Child SAs and IKE SAs without collisions (RFC 7296 2.8), and what ends them. Collisions are the simulator's.

use std::time::Duration;

use adit_ike::config::{ChildLimits, Lifetime, Volume};
use adit_ike::proposal;
use adit_wire::ikev2::{ExchangeType, KeId, NotifyType, ProtocolId};

use crate::pair::*;

fn seconds(soft: u64, hard: u64) -> Lifetime {
    Lifetime { soft: Duration::from_secs(soft), hard: Duration::from_secs(hard), jitter: Duration::ZERO }
}

fn handles(peer: &Peer) -> Vec<u64> {
    peer.installed.keys().map(|handle| handle.0).collect()
}

/// Which payloads of a request were there, by name.
fn request(pair: &Pair, exchange: ExchangeType) -> Vec<String> {
    let packet = pair.sent.iter().rfind(|p| p.is(exchange, false)).unwrap();
    pair.open(packet).iter().map(|p| p.payload_type().to_string()).collect()
}

#[test]
fn either_side_rekeys_at_its_soft_limit() {
    for initiator in [true, false] {
        for esp in ["aes256gcm16-noesn", "aes256gcm16-x25519-noesn"] {
            let (mut a, mut b) = sides();
            let side = if initiator { &mut a } else { &mut b };
            side.connection().children[0].limits.time = seconds(60, 90);
            for side in [&mut a, &mut b] {
                side.connection().children[0].proposals = proposal::parse_esp(esp).unwrap();
            }
            let mut pair = Pair::established((a, b));
            let old = handles(&pair.a);
            pair.run(Duration::from_secs(59));
            assert_eq!(handles(&pair.a), old, "not before its time");
            pair.run(Duration::from_secs(2));
            pair.assert_children(1);
            assert_ne!(handles(&pair.a), old);
            assert_eq!((pair.a.retired.len(), pair.b.retired.len()), (1, 1), "what is on its way is taken");
            for peer in [&pair.a, &pair.b] {
                assert_eq!(peer.events.iter().filter(|e| e.starts_with("child-rekeyed net")).count(), 1);
                assert!(!peer.events.iter().any(|e| e.starts_with("child-down")), "{:?}", peer.events);
            }
            let sent = request(&pair, ExchangeType::CREATE_CHILD_SA);
            assert_eq!(sent.contains(&"KE".to_owned()), esp.contains("x25519"), "{sent:?}");
            // Five seconds later the old one is gone for good, and life goes on.
            pair.run(Duration::from_secs(6));
            assert_eq!((pair.a.retired.len(), pair.b.retired.len()), (0, 0));
            pair.run(Duration::from_secs(600));
            pair.assert_children(1);
            assert!(
                pair.a.codes().iter().chain(&pair.b.codes()).all(|c| !format!("{c:?}").contains("Failed"))
            );
        }
    }
}

/// RFC 7296 2.8: the responder can take packets on the new SA before it says so, and sends on the old one until the
/// initiator uses the new one or deletes the old one.
#[test]
fn the_responder_stands_by_until_the_old_one_is_deleted() {
    let (mut a, b) = sides();
    a.connection().children[0].limits.time = seconds(60, 90);
    let mut pair = Pair::established((a, b));
    // The request that deletes the old one gets lost.
    pair.link = Box::new(|_, p| {
        let delete = p.is(ExchangeType::INFORMATIONAL, false);
        if delete { Fate::Lose } else { Fate::Deliver }
    });
    pair.run(Duration::from_secs(61));
    let active = |peer: &Peer| peer.installed.values().map(|c| c.active).collect::<Vec<_>>();
    assert_eq!(active(&pair.b), [true, false]);
    assert_eq!((pair.a.installed.len(), pair.a.retired.len(), active(&pair.a)), (1, 1, vec![true]));
    pair.link = Box::new(|_, _| Fate::Deliver);
    pair.run(Duration::from_secs(5));
    pair.assert_children(1);
    assert_eq!(active(&pair.b), [true]);
}

#[test]
fn a_wrong_key_exchange_method_is_corrected() {
    let (mut a, mut b) = sides();
    a.connection().children[0].limits.time = seconds(60, 90);
    a.connection().children[0].proposals = proposal::parse_esp("aes256gcm16-x25519-ecp256-noesn").unwrap();
    b.connection().children[0].proposals = proposal::parse_esp("aes256gcm16-ecp256-noesn").unwrap();
    let mut pair = Pair::established((a, b));
    pair.run(Duration::from_secs(61));
    pair.assert_children(1);
    let ke = |pair: &Pair| pair.a.gateway.ike_sas().next().unwrap().children[0].ke;
    assert_eq!(ke(&pair), Some(KeId::ECP_256));
    // The method that served is tried first the next time.
    let before = pair.sent.iter().filter(|p| p.is(ExchangeType::CREATE_CHILD_SA, false)).count();
    pair.run(Duration::from_secs(60));
    let after = pair.sent.iter().filter(|p| p.is(ExchangeType::CREATE_CHILD_SA, false)).count();
    assert_eq!((before, after), (2, 3));
}

#[test]
fn volume_limits_are_drawn_once_and_obeyed() {
    let (mut a, b) = sides();
    let bytes = Volume { soft: 1_000_000, hard: 2_000_000, jitter: 100_000 };
    let packets = Volume { soft: 1_000, hard: 0, jitter: 0 };
    a.connection().children[0].limits = ChildLimits { bytes, packets, ..ChildLimits::default() };
    let mut pair = Pair::established((a, b));
    let (handle, limits) = pair.a.installed.iter().map(|(h, c)| (*h, c.limits)).next().unwrap();
    let soft = limits.soft_bytes.unwrap();
    assert!((900_000..=1_000_000).contains(&soft), "{soft}");
    assert_eq!(
        (limits.hard_bytes, limits.soft_packets, limits.hard_packets),
        (Some(2_000_000), Some(1_000), None)
    );
    pair.a.gateway.child_expiring(pair.now, handle);
    pair.settle();
    pair.assert_children(1);
    assert!(!pair.a.installed.contains_key(&handle));
}

#[test]
fn a_hard_limit_ends_it() {
    let (mut a, b) = sides();
    // It may not be rekeyed: only the hard limit is set.
    a.connection().children[0].limits.time = seconds(0, 90);
    let mut pair = Pair::established((a, b));
    pair.run(Duration::from_secs(91));
    pair.assert_children(0);
    assert!(pair.a.events.contains(&"child-down net Expired".to_owned()), "{:?}", pair.a.events);
    assert!(pair.b.events.contains(&"child-down net DeletedByPeer".to_owned()), "{:?}", pair.b.events);
}

/// RFC 7296 2.25: the peer does not know the child. As ours always does, its answer is made up.
#[test]
fn a_child_that_the_peer_has_lost_is_made_anew() {
    let (mut a, b) = sides();
    a.connection().children[0].limits.time = seconds(60, 90);
    let mut pair = Pair::established((a, b));
    let keys = pair.b.keys.pop().unwrap();
    pair.link = Box::new(move |_, p| {
        if !p.is(ExchangeType::CREATE_CHILD_SA, false) || p.header().message_id != 2 {
            return Fate::Deliver;
        }
        let h = header(&keys, ExchangeType::CREATE_CHILD_SA, false, true, 2);
        let datagram = seal(&keys, &h, &[notify(NotifyType::CHILD_SA_NOT_FOUND)], 1000);
        Fate::Replace(vec![Packet { source: p.destination, destination: p.source, datagram }])
    });
    pair.run(Duration::from_secs(61));
    assert_eq!(handles(&pair.a), [0; 0], "{:?}", pair.a.events);
    assert!(pair.a.events.contains(&"child-down net DeletedByPeer".to_owned()), "{:?}", pair.a.events);
    // The request for a new one has Message ID 3, which the real peer, who has not seen 2, does not take.
    let again = pair.sent.iter().rfind(|p| p.is(ExchangeType::CREATE_CHILD_SA, false)).unwrap();
    assert_eq!(again.header().message_id, 3);
    assert!(!notifies(&open(&pair.a.keys[0], again)).contains(&NotifyType::REKEY_SA));
}

#[test]
fn an_operator_rekeys_and_hears_of_it() {
    let mut pair = Pair::established(sides());
    let request = pair.a.next_request();
    let target = adit_ike::TerminateTarget { child: Some("net".into()), ..Default::default() };
    assert_eq!(pair.a.gateway.rekey(pair.now, &target, request), Ok(1));
    pair.settle();
    assert_eq!(pair.a.done.get(&request), Some(&Ok(())));
    pair.assert_children(1);
    let rekey = pair.sent.iter().find(|p| p.is(ExchangeType::CREATE_CHILD_SA, false)).unwrap();
    let named = pair.open(rekey).into_iter().find_map(|p| match p {
        adit_wire::ikev2::Payload::Notify(n) if n.notify_type == NotifyType::REKEY_SA => Some(n),
        _ => None,
    });
    assert_eq!(named.map(|n| (n.protocol, n.spi.len())), Some((ProtocolId::ESP, 4)));
}

/// With a window of four, two children are rekeyed at once (RFC 7296 2.3).
#[test]
fn a_larger_window_lets_requests_overlap() {
    for window in [1, 4] {
        let (mut a, mut b) = sides();
        for (side, local, remote) in
            [(&mut a, "10.3.0.0/16", "10.4.0.0/16"), (&mut b, "10.4.0.0/16", "10.3.0.0/16")]
        {
            side.settings.window = window;
            side.connection().children.push(child("second", local, remote));
        }
        let mut pair = Pair::new((a, b));
        pair.up();
        pair.settle();
        pair.assert_children(2);
        let before = pair.sent.len();
        let requests = ["net", "second"].map(|name| {
            let request = pair.a.next_request();
            let target = adit_ike::TerminateTarget { child: Some(name.into()), ..Default::default() };
            assert_eq!(pair.a.gateway.rekey(pair.now, &target, request), Ok(1));
            request
        });
        pair.settle();
        assert!(requests.iter().all(|r| pair.a.done.get(r) == Some(&Ok(()))));
        pair.assert_children(2);
        let first: Vec<bool> =
            pair.sent[before..].iter().map(|p| p.is(ExchangeType::CREATE_CHILD_SA, false)).take(2).collect();
        assert_eq!(first, [true, window > 1], "the second request waits for the first answer or not");
    }
}

fn ike_spis(peer: &Peer) -> Vec<(u64, u64)> {
    peer.gateway.ike_sas().map(|sa| (sa.initiator_spi.0, sa.responder_spi.0)).collect()
}

/// RFC 7296 2.8: the children move to the new IKE SA and do not notice.
#[test]
fn either_side_replaces_the_ike_sa() {
    for by_a in [true, false] {
        let (mut a, mut b) = sides();
        let side = if by_a { &mut a } else { &mut b };
        side.connection().rekey = seconds(3600, 4000);
        let mut pair = Pair::established((a, b));
        let (before, children) = (ike_spis(&pair.a), handles(&pair.a));
        pair.run(Duration::from_secs(3601));
        let after = ike_spis(&pair.a);
        assert_ne!(before, after);
        assert_eq!(after, ike_spis(&pair.b));
        let initiator = |peer: &Peer| peer.gateway.ike_sas().next().unwrap().initiator;
        assert_eq!((initiator(&pair.a), initiator(&pair.b)), (by_a, !by_a), "who asked is its initiator");
        assert_eq!(handles(&pair.a), children, "the children are the same");
        assert_eq!(pair.a.installed.len() + pair.a.retired.len(), 1, "nothing was done to them");
        for peer in [&pair.a, &pair.b] {
            let rekeyed = peer.events.iter().filter(|e| e.starts_with("ike-rekeyed")).count();
            let down = peer.events.iter().any(|e| e.contains("-down"));
            assert_eq!((rekeyed, down), (1, false), "{:?}", peer.events);
        }
        // Either side can go on with it: children, liveness, the next replacement, the end.
        for peer in [&mut pair.a, &mut pair.b] {
            let request = peer.next_request();
            let target = adit_ike::TerminateTarget { child: Some("net".into()), ..Default::default() };
            peer.gateway.rekey(pair.now, &target, request).unwrap();
        }
        pair.settle();
        pair.run(Duration::from_secs(30));
        pair.assert_children(1);
        pair.run(Duration::from_secs(20_000));
        pair.assert_children(1);
        assert_eq!(ike_spis(&pair.a), ike_spis(&pair.b));
        let request =
            pair.down(&adit_ike::TerminateTarget { connection: Some("to-b".into()), ..Default::default() });
        pair.settle();
        assert_eq!(pair.a.done.get(&request), Some(&Ok(())));
        pair.assert_nothing();
    }
}

#[test]
fn both_sides_replace_the_ike_sa_at_once() {
    for seed in 1..20 {
        let (mut a, mut b) = sides();
        for side in [&mut a, &mut b] {
            side.connection().rekey = seconds(100, 200);
        }
        let mut pair = Pair::seeded((a, b), seed);
        pair.up();
        pair.settle();
        for _ in 0..5 {
            for peer in [&mut pair.a, &mut pair.b] {
                let request = peer.next_request();
                let name = peer.gateway.ike_sas().next().unwrap().connection;
                let target = adit_ike::TerminateTarget { connection: Some(name), ..Default::default() };
                peer.gateway.rekey(pair.now, &target, request).unwrap();
            }
            pair.settle();
            pair.run(Duration::from_secs(60));
            pair.assert_children(1);
            assert_eq!(ike_spis(&pair.a).len(), 1);
            assert_eq!(ike_spis(&pair.a), ike_spis(&pair.b));
        }
        assert!(!pair.a.events.iter().any(|e| e.contains("-down")), "{:?}", pair.a.events);
    }
}

#[test]
fn an_ike_sa_that_is_not_replaced_ends_at_its_hard_limit() {
    let (mut a, b) = sides();
    a.connection().rekey = seconds(0, 300);
    let mut pair = Pair::established((a, b));
    pair.run(Duration::from_secs(301));
    pair.assert_nothing();
}

/// Two children with one SPI could not be told apart.
#[test]
fn a_peer_cannot_use_an_spi_twice() {
    use adit_wire::ikev2::{Nonce, Payload, SecurityAssociation, TrafficSelectors};
    let mut pair = Pair::established(sides());
    let keys = pair.a.keys.pop().unwrap();
    let taken = pair.a.installed.values().next().unwrap().inbound_spi;
    for (id, spi, accepted) in [(2, taken.0, false), (3, taken.0 ^ 1, true)] {
        let mut proposals = proposal::parse_esp("aes256gcm16-noesn").unwrap();
        proposals[0].spi = spi.to_be_bytes().to_vec();
        let ts = |s: &str| TrafficSelectors::new(vec![net(s)]);
        let payloads = [
            Payload::SecurityAssociation(SecurityAssociation { proposals }),
            Payload::Nonce(Nonce(vec![7; 32])),
            Payload::TrafficSelectorsInitiator(ts("10.1.0.0/16")),
            Payload::TrafficSelectorsResponder(ts("10.2.0.0/16")),
        ];
        let h = header(&keys, ExchangeType::CREATE_CHILD_SA, true, false, id);
        let datagram = seal(&keys, &h, &payloads, 1000 + u64::from(id));
        pair.deliver(&Packet { source: at(A, 500), destination: at(B, 500), datagram });
        let answer = open(&keys, pair.sent.last().unwrap());
        assert_eq!(notifies(&answer).is_empty(), accepted, "{answer:?}");
        assert_eq!(pair.b.installed.len(), 1 + usize::from(accepted));
    }
}

/// A peer that made the current IKE SA and then falls silent is found out all the same.
#[test]
fn a_peer_that_falls_silent_after_replacing_the_ike_sa_is_dead() {
    let (mut a, mut b) = sides();
    a.connection().rekey = seconds(100, 2000);
    b.connection().dpd_delay = Duration::from_secs(30);
    let mut pair = Pair::established((a, b));
    let from_a = ip(A);
    let mut rekeyed = false;
    pair.link = Box::new(move |_, p| {
        let silent = rekeyed && p.source.ip() == from_a;
        rekeyed |= p.is(ExchangeType::CREATE_CHILD_SA, false);
        if silent { Fate::Lose } else { Fate::Deliver }
    });
    pair.run(Duration::from_secs(101));
    assert_eq!(pair.b.gateway.ike_sas().count(), 1);
    pair.run(Duration::from_secs(600));
    assert_eq!(pair.b.gateway.ike_sas().count(), 0, "{:?}", pair.b.events);
    assert!(pair.b.events.contains(&"child-down net PeerDead".to_owned()), "{:?}", pair.b.events);
}

/// A responder does not replace what the peer may not know of yet: strongSwan drops a response that comes while it works
/// on a request with the same Message ID, and gets it once more a second later.
#[test]
fn what_the_peer_may_not_know_of_is_not_replaced() {
    let (mut a, mut b) = sides();
    a.connection().children[0].limits.time = seconds(60, 90);
    b.connection().children[0].limits.time = seconds(60, 90);
    let mut pair = Pair::established((a, b));
    // A's request arrives, B's response does not for 20 seconds.
    let start = pair.now;
    pair.run(Duration::from_secs(30));
    let request = pair.a.next_request();
    let target = adit_ike::TerminateTarget { child: Some("net".into()), ..Default::default() };
    pair.a.gateway.rekey(pair.now, &target, request).unwrap();
    let from_b = ip(B);
    pair.link = Box::new(move |_, p| {
        if p.source.ip() == from_b && p.header().flags.response { Fate::Lose } else { Fate::Deliver }
    });
    pair.run(Duration::from_secs(1));
    let new = *pair.b.installed.keys().next_back().unwrap();
    pair.b.gateway.child_expiring(pair.now, new);
    pair.run(Duration::from_secs(19));
    let asked = |pair: &Pair| {
        pair.sent.iter().any(|p| p.source.ip() == from_b && p.is(ExchangeType::CREATE_CHILD_SA, false))
    };
    assert!(!asked(&pair) && pair.b.installed.contains_key(&new));
    pair.link = Box::new(|_, _| Fate::Deliver);
    pair.run(Duration::from_secs(30));
    assert!(asked(&pair), "{:?}", pair.now - start);
    pair.assert_children(1);
    assert!(!pair.a.events.iter().chain(&pair.b.events).any(|e| e.starts_with("child-down")));
}
