//! `unique` and INITIAL_CONTACT (RFC 7296 2.4): what becomes of other IKE SAs with the same peer.

use std::net::SocketAddr;
use std::time::Duration;

use adit_ike::config::Unique;
use adit_ike::{DownReason, OutcomeCode, Target};
use adit_wire::ikev2::{ExchangeType, IkeSpi, Nonce, NotifyType, Payload};

use crate::pair::*;

const ELSEWHERE: &str = "192.0.2.77";

/// `a` restarts: it has forgotten everything.
fn restarted(pair: Pair, a: Side) -> Pair {
    let seed = 77 + pair.b.gateway.counters().received;
    let mut again = Pair::seeded((a, sides().1), seed);
    again.b = pair.b;
    again.now = pair.now + Duration::from_millis(1);
    again
}

/// `b` takes `a` from everywhere.
fn roaming(unique: Unique) -> (Side, Side) {
    let (a, mut b) = sides();
    b.connection().remote_addrs = Vec::new();
    b.connection().unique = unique;
    (a, b)
}

/// From now on `a` is elsewhere.
fn move_away(pair: &mut Pair) {
    let there = |address: SocketAddr| SocketAddr::new(ip(ELSEWHERE), address.port());
    pair.link = Box::new(move |_, p| {
        let mut p = p.clone();
        if p.source.ip() == ip(A) {
            p.source = there(p.source);
        } else if p.destination.ip() == ip(ELSEWHERE) {
            p.destination = SocketAddr::new(ip(A), p.destination.port());
        } else {
            return Fate::Lose;
        }
        Fate::Replace(vec![p])
    });
}

/// It does not know whom it will reach, so it cannot say INITIAL_CONTACT.
fn silent(mut a: Side) -> Side {
    a.connection().remote_id = "*.example".parse().unwrap();
    a
}

fn says_initial_contact(pair: &Pair) -> bool {
    let request = pair.sent.iter().find(|p| p.is(ExchangeType::IKE_AUTH, false)).unwrap();
    notifies(&pair.open(request)).contains(&NotifyType::INITIAL_CONTACT)
}

fn ike_sas(peer: &Peer) -> usize {
    peer.gateway.ike_sas().count()
}

fn active(peer: &Peer) -> Vec<bool> {
    peer.installed.values().map(|c| c.active).collect()
}

#[test]
fn adversarial_29_never_neither_says_nor_heeds_initial_contact() {
    for (ours, theirs, said, left) in [
        (Unique::Never, Unique::No, false, 2),
        (Unique::No, Unique::Never, true, 2),
        (Unique::No, Unique::No, true, 1),
        (Unique::Keep, Unique::Replace, true, 1),
        (Unique::Replace, Unique::Keep, true, 1),
    ] {
        let side = || {
            let (mut a, _) = sides();
            a.connection().unique = ours;
            a
        };
        let (_, mut b) = sides();
        b.connection().unique = theirs;
        let mut pair = restarted(Pair::established((side(), b)), side());
        let request = pair.up();
        pair.settle();
        assert_eq!(pair.a.done.get(&request), Some(&Ok(())));
        assert_eq!((says_initial_contact(&pair), ike_sas(&pair.b)), (said, left), "{ours:?} {theirs:?}");
        let down: Vec<DownReason> = vec![DownReason::Replaced; 2 - left];
        assert_eq!(pair.b.down, down);
        // What carries the traffic: at once where the old one is known to be gone, else when the peer shows up there.
        assert_eq!(active(&pair.b), if left == 1 { vec![true] } else { vec![true, false] });
        pair.run(Duration::from_secs(11));
        assert_eq!((active(&pair.b), ike_sas(&pair.b)), (vec![true; left], left));
    }
}

/// `no` and `never`: without INITIAL_CONTACT two devices of one user live side by side.
#[test]
fn without_a_policy_both_stay() {
    for unique in [Unique::No, Unique::Never] {
        let (a, b) = roaming(unique);
        let mut pair = restarted(Pair::established((silent(a), b)), silent(sides().0));
        move_away(&mut pair);
        pair.up();
        pair.run(Duration::from_secs(30));
        assert_eq!((ike_sas(&pair.b), &pair.b.down), (2, &Vec::new()));
    }
}

#[test]
fn replace_ends_the_old_one_from_elsewhere_at_once() {
    let (a, b) = roaming(Unique::Replace);
    let mut pair = restarted(Pair::established((silent(a), b)), silent(sides().0));
    move_away(&mut pair);
    let request = pair.up();
    pair.settle();
    assert_eq!(pair.a.done.get(&request), Some(&Ok(())));
    // The old one is told, where it was.
    let delete = pair.sent.iter().rfind(|p| p.is(ExchangeType::INFORMATIONAL, false)).unwrap();
    assert_eq!(delete.destination, at(A, 500));
    assert_eq!((active(&pair.b), pair.b.retired.len()), (vec![true], 1), "what is on its way is taken");
    pair.run(Duration::from_secs(6));
    assert_eq!((ike_sas(&pair.b), &pair.b.down), (1, &vec![DownReason::Replaced]));
}

/// From the same place it may be re-authentication: the peer gets ten seconds to end the old one itself.
#[test]
fn replace_gives_the_same_place_time() {
    let (a, b) = roaming(Unique::Replace);
    let mut pair = restarted(Pair::established((silent(a), b)), silent(sides().0));
    pair.up();
    pair.run(Duration::from_secs(9));
    assert_eq!((ike_sas(&pair.b), active(&pair.b)), (2, vec![true, false]));
    pair.run(Duration::from_secs(7));
    assert_eq!((ike_sas(&pair.b), active(&pair.b)), (1, vec![true]));
    assert_eq!(pair.b.down, [DownReason::Replaced]);
}

#[test]
fn keep_refuses_a_second_one_from_elsewhere() {
    let (a, b) = roaming(Unique::Keep);
    let mut pair = restarted(Pair::established((silent(a), b)), silent(sides().0));
    move_away(&mut pair);
    let request = pair.up();
    pair.run(Duration::from_secs(30));
    assert!(pair.a.done[&request].is_err());
    assert_eq!(pair.b.failure().code, OutcomeCode::NotUnique);
    assert_eq!(pair.a.failure().notify, Some(NotifyType::AUTHENTICATION_FAILED));
    assert_eq!((ike_sas(&pair.b), active(&pair.b), &pair.b.down), (1, vec![true], &Vec::new()));
    // Whoever says that it has no other one is believed: it is the same, and authentic.
    let mut pair = restarted(pair, sides().0);
    move_away(&mut pair);
    let request = pair.up();
    pair.settle();
    assert_eq!((pair.a.done.get(&request), &pair.b.down), (Some(&Ok(())), &vec![DownReason::Replaced]));
}

/// No policy stands in the way of re-authentication, which looks like another login.
#[test]
fn every_policy_lets_a_peer_authenticate_anew() {
    for unique in [Unique::Never, Unique::No, Unique::Keep, Unique::Replace] {
        let (mut a, b) = roaming(unique);
        a.connection().reauth.soft = Duration::from_secs(60);
        let mut pair = Pair::established((a, b));
        for second in 0..200 {
            pair.run(Duration::from_secs(1));
            assert!(pair.b.installed.values().any(|c| c.active), "{unique:?} at {second}");
        }
        pair.assert_children(1);
        assert_eq!(pair.b.down, [DownReason::Reauthenticated; 3], "{unique:?}");
        assert_eq!(pair.a.down, [DownReason::Reauthenticated; 3], "{unique:?}");
    }
}

/// A policy concerns IKE SAs of exactly the same two identities, on the same connection.
#[test]
fn replace_leaves_others_alone() {
    let secrets = || vec![secret(&[], KEY)];
    // Another peer.
    let (a, mut b) = roaming(Unique::Replace);
    b.connection().remote_id = "*.example".parse().unwrap();
    b.secrets = secrets();
    let mut other = sides().0;
    other.connection().local_id = Some("other.example".parse().unwrap());
    other.secrets = secrets();
    let mut pair = restarted(Pair::established((silent(a), b)), silent(other));
    pair.up();
    pair.run(Duration::from_secs(30));
    assert_eq!((ike_sas(&pair.b), &pair.b.down), (2, &Vec::new()));
    // The same peer on another connection: here, each of both connections has its own local address.
    let (mut a, mut b) = sides();
    let mut second = b.connections[0].clone();
    (second.name, second.local_addrs) = ("second".into(), vec![address("2001:db8::2")]);
    second.remote_addrs = vec![address("2001:db8::1")];
    b.connections.push(second);
    let mut second = a.connections[0].clone();
    (second.name, second.local_addrs) = ("second".into(), vec![address("2001:db8::1")]);
    second.remote_addrs = vec![address("2001:db8::2")];
    a.connections.push(second);
    for connection in &mut b.connections {
        connection.unique = Unique::Replace;
    }
    let mut pair = Pair::established((a, b));
    pair.up_connection("second");
    pair.run(Duration::from_secs(30));
    assert_eq!((ike_sas(&pair.b), &pair.b.down), (2, &Vec::new()));
}

fn address(text: &str) -> adit_ike::config::AddressSpec {
    adit_ike::config::AddressSpec { first: ip(text), last: ip(text) }
}

/// Both sides dial at once (K7): after a few seconds the one with the lowest nonce is gone, deleted by whom it was
/// made, and traffic had an SA all the time.
#[test]
fn of_two_that_cross_one_stays() {
    let mut losers = [0, 0];
    for seed in 1..40 {
        for unique in [Unique::No, Unique::Keep, Unique::Replace] {
            let mut both = sides();
            both.0.connection().unique = unique;
            both.1.connection().unique = unique;
            let mut pair = Pair::seeded(both, seed);
            pair.up();
            let target = Target { connection: Some("to-a".into()), ..Target::default() };
            let request = pair.b.next_request();
            pair.b.gateway.initiate(pair.now, &target, request).unwrap();
            pair.run(Duration::from_millis(1900));
            pair.assert_children(2);
            assert_eq!((ike_sas(&pair.a), ike_sas(&pair.b)), (2, 2));
            // By what went over the wire.
            let lowest = |initiator: &str| {
                let inits = pair.sent.iter().filter(|p| p.header().exchange == ExchangeType::IKE_SA_INIT);
                let own = inits.filter(|p| p.is(ExchangeType::IKE_SA_INIT, p.source.ip() != ip(initiator)));
                own.map(|p| (nonce(p), p.header().initiator_spi)).min().unwrap()
            };
            let (a, b): ((Vec<u8>, IkeSpi), _) = (lowest(A), lowest(B));
            let a_loses = a.0 < b.0;
            for _ in 0..40 {
                pair.run(Duration::from_millis(100));
                for peer in [&pair.a, &pair.b] {
                    assert!(peer.installed.values().any(|c| c.active));
                }
            }
            let survivor = if a_loses { b.1 } else { a.1 };
            for peer in [&pair.a, &pair.b] {
                let left: Vec<IkeSpi> = peer.gateway.ike_sas().map(|sa| sa.initiator_spi).collect();
                assert_eq!(left, [survivor], "{unique:?} {seed}");
            }
            let deleted = pair.sent.iter().find(|p| p.is(ExchangeType::INFORMATIONAL, false)).unwrap();
            assert_eq!(deleted.source.ip() == ip(A), a_loses, "its maker deletes it");
            pair.run(Duration::from_secs(30));
            pair.assert_children(1);
            losers[usize::from(a_loses)] += 1;
        }
    }
    assert!(losers.iter().all(|n| *n > 10), "{losers:?}");
}

fn nonce(packet: &Packet) -> Vec<u8> {
    let message = adit_wire::ikev2::Message::decode(&packet.datagram).unwrap();
    let nonce = message.payloads.into_iter().find_map(|p| match p {
        Payload::Nonce(Nonce(nonce)) => Some(nonce),
        _ => None,
    });
    nonce.unwrap()
}

/// Both sides dial, and the first message of one is lost: its repetition must not make a second IKE SA once the other's
/// has brought up all it is for, whatever `unique` says.
#[test]
fn an_unanswered_attempt_ends_when_the_peer_was_quicker() {
    let mut pair = Pair::new(sides());
    pair.link = Box::new(|number, _| if number == 0 { Fate::Lose } else { Fate::Deliver });
    let ours = pair.up();
    pair.collect();
    assert_eq!(pair.a.gateway.kept().unanswered, 1);
    let theirs = pair.b.next_request();
    let target = Target { connection: Some("to-a".to_owned()), ..Default::default() };
    pair.b.gateway.initiate(pair.now, &target, theirs).unwrap();
    pair.settle();
    assert_eq!((pair.a.gateway.kept().unanswered, pair.b.gateway.kept().unanswered), (0, 0));
    assert_eq!((pair.a.done.get(&ours), pair.b.done.get(&theirs)), (Some(&Ok(())), Some(&Ok(()))));
    pair.run(Duration::from_secs(200));
    pair.assert_children(1);
    assert_eq!((pair.a.gateway.ike_sas().count(), pair.b.gateway.ike_sas().count()), (1, 1));
    let first = pair.sent.iter().filter(|p| p.is(ExchangeType::IKE_SA_INIT, false)).count();
    assert_eq!(first, 2, "one of each side, none repeated");
}

/// A gateway that begins again uses no key again, and so no IV twice under one, on whichever side it is looked at.
#[test]
fn adversarial_61_what_begins_again_has_other_keys() {
    let mut pair = Pair::established(sides());
    let mut seen = std::collections::BTreeSet::new();
    for life in 1..=4 {
        let child = pair.a.installed.values().next().unwrap();
        for keys in [&child.outbound_keys, &child.inbound_keys] {
            assert!(seen.insert(keys.encr.expose().to_vec()), "life {life}");
        }
        pair = restarted(pair, sides().0);
        let request = pair.up();
        pair.settle();
        assert_eq!(pair.a.done.get(&request), Some(&Ok(())));
    }
}
