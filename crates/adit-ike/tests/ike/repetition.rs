//! Loss, repetition and silence: bit-identical retransmission, convergence, liveness (RFC 7296 2.1 to 2.4).

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use adit_ike::{DownReason, TerminateTarget};
use adit_wire::ikev2::{ExchangeType, NotifyType};

use crate::pair::{Fate, Packet, Pair, at, child, sides};

/// One tunnel with two children up, then down: eight messages.
fn life(link: impl FnMut(usize, &Packet) -> Fate + 'static) -> Pair {
    let (mut a, mut b) = sides();
    a.connection().children.push(child("more", "10.11.0.0/16", "10.12.0.0/16"));
    b.connection().children.push(child("more", "10.12.0.0/16", "10.11.0.0/16"));
    let mut pair = Pair::new((a, b));
    pair.link = Box::new(link);
    let up = pair.up();
    pair.run(Duration::from_secs(20));
    assert_eq!(pair.a.done.get(&up), Some(&Ok(())), "{:?}", pair.trace());
    pair.assert_children(2);
    assert_eq!((pair.a.gateway.ike_sas().count(), pair.b.gateway.ike_sas().count()), (1, 1));
    let down = pair.down(&TerminateTarget { connection: Some("to-b".to_owned()), ..Default::default() });
    pair.run(Duration::from_secs(20));
    assert_eq!(pair.a.done.get(&down), Some(&Ok(())), "{:?}", pair.trace());
    pair.assert_nothing();
    assert_eq!((pair.a.removed, pair.b.removed), (2, 2));
    pair
}

#[test]
fn the_loss_of_any_message_is_made_good() {
    let messages = life(|_, _| Fate::Deliver).sent.len();
    assert_eq!(messages, 8);
    for lost in 0..messages {
        let pair = life(move |i, _| if i == lost { Fate::Lose } else { Fate::Deliver });
        assert!(pair.sent.len() > messages, "message {lost} was repeated");
        // Whatever was sent twice was the same both times.
        for packet in &pair.sent {
            let h = packet.header();
            for other in pair.sent.iter().filter(|p| p.header() == h) {
                assert_eq!(other.datagram, packet.datagram, "message {lost} lost: {h:?}");
            }
        }
    }
}

#[test]
fn every_message_may_come_twice() {
    let pair = life(|_, _| Fate::Repeat);
    assert!(pair.b.gateway.counters().repeated_requests >= 4);
    for i in 0..8 {
        life(move |n, _| if n == i { Fate::Repeat } else { Fate::Deliver });
    }
}

#[test]
fn a_third_of_all_messages_may_be_lost() {
    for seed in 1..40_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        life(move |i, _| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Every fourth message arrives: a delete is given up after five seconds.
            if state.is_multiple_of(3) && i % 4 != 3 { Fate::Lose } else { Fate::Deliver }
        });
    }
}

#[test]
fn requests_are_repeated_on_schedule_and_given_up() {
    let (a, b) = sides();
    let times: Rc<RefCell<Vec<Instant>>> = Rc::default();
    let mut pair = Pair::new((a, b));
    let start = pair.now;
    let now = Rc::new(RefCell::new(start));
    let (log, clock) = (Rc::clone(&times), Rc::clone(&now));
    pair.link = Box::new(move |_, _| {
        log.borrow_mut().push(*clock.borrow());
        Fate::Lose
    });
    let request = pair.up();
    pair.collect();
    while let Some(at) = pair.a.gateway.poll_timeout() {
        *now.borrow_mut() = at;
        pair.run(at - pair.now);
    }
    let seconds: Vec<f64> = times.borrow().iter().map(|t| (*t - start).as_secs_f64()).collect();
    assert_eq!(seconds, [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 61.5, 91.5, 121.5, 151.5]);
    assert!(pair.a.done[&request].is_err());
    assert_eq!(pair.now - start, Duration::from_secs(165));
    assert!(pair.sent.iter().all(|p| *p == pair.sent[0]), "bit for bit");
}

#[test]
fn adversarial_23_a_repeated_request_gets_the_same_response_a_hundred_times() {
    let mut pair = Pair::established(sides());
    let sent = pair.sent.clone();
    let (auth, response) = (sent[2].clone(), sent[3].clone());
    for _ in 0..100 {
        pair.deliver(&auth);
        assert_eq!(*pair.sent.last().unwrap(), response);
    }
    pair.assert_children(1);
    // The first request is older than that; it gets nothing, and starts nothing.
    pair.deliver(&sent[0]);
    assert_eq!(pair.sent.len(), 104);
    assert_eq!(pair.b.gateway.ike_sas().count(), 1);
}

#[test]
fn adversarial_23_a_changed_request_with_the_same_id_is_no_repetition() {
    let mut pair = Pair::established(sides());
    let mut auth = pair.sent[2].clone();
    for i in 28..auth.datagram.len() {
        auth.datagram[i] ^= 1;
        pair.deliver(&auth);
        auth.datagram[i] ^= 1;
    }
    assert_eq!(pair.sent.len(), 4, "no answer");
    pair.assert_children(1);
}

/// RFC 7296 2.1: initiators behind one NAT may choose the same SPI.
#[test]
fn first_requests_are_told_apart_as_a_whole() {
    let (a, mut b) = sides();
    b.connection().remote_addrs = Vec::new();
    let mut pair = Pair::new((a, b));
    pair.up();
    pair.collect();
    let request = pair.sent[0].clone();
    pair.deliver(&request);
    let first = pair.sent[1].clone();
    pair.deliver(&request);
    assert_eq!(pair.sent[2].datagram, first.datagram, "the same request, the same answer");
    pair.deliver(&Packet { source: at("192.0.2.77", 500), ..request.clone() });
    assert_ne!(pair.sent[3].datagram, first.datagram, "another source");
    let mut other = request;
    *other.datagram.last_mut().unwrap() ^= 1;
    pair.deliver(&other);
    assert_ne!(pair.sent[4].datagram, first.datagram, "another message");
    assert_eq!(pair.b.gateway.ike_sas().count(), 3);
    pair.run(Duration::from_secs(40));
    assert_eq!(pair.b.gateway.ike_sas().count(), 1, "the others time out");
    assert_eq!(pair.b.records.iter().filter(|r| !r.is_success()).count(), 2, "and leave a record");
}

#[test]
fn a_dead_peer_is_noticed_and_its_children_removed() {
    let (mut a, b) = sides();
    a.connection().dpd_delay = Duration::from_secs(10);
    a.connection().retransmission.give_up = Duration::from_secs(30);
    let mut pair = Pair::established((a, b));
    pair.run(Duration::from_secs(35));
    assert_eq!(
        pair.trace()[4..],
        [
            "INFORMATIONAL -> 2",
            "INFORMATIONAL <- 2",
            "INFORMATIONAL -> 3",
            "INFORMATIONAL <- 3",
            "INFORMATIONAL -> 4",
            "INFORMATIONAL <- 4"
        ]
    );
    assert!(pair.open(&pair.sent[4]).is_empty(), "a liveness check is empty");
    pair.link = Box::new(|_, _| Fate::Lose);
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.a.down, [DownReason::PeerDead]);
    assert!(pair.a.installed.is_empty());
    assert_eq!(pair.a.gateway.ike_sas().count(), 0);
    assert!(pair.b.down.is_empty(), "b checks nothing");
}

#[test]
fn traffic_proves_liveness() {
    let (mut a, b) = sides();
    a.connection().dpd_delay = Duration::from_secs(10);
    let mut pair = Pair::established((a, b));
    let handle = *pair.a.installed.keys().next().unwrap();
    for _ in 0..10 {
        pair.run(Duration::from_secs(9));
        pair.a.gateway.child_activity(pair.now, handle, pair.now);
    }
    assert_eq!(pair.trace().len(), 4, "nobody has to ask");
    pair.run(Duration::from_secs(11));
    assert_eq!(pair.trace().len(), 6);
}

#[test]
fn a_restarted_peer_takes_the_place_of_its_old_self() {
    let (a, b) = sides();
    let mut pair = Pair::established((a, b));
    // The initiator forgets everything and comes back.
    let (a, _) = sides();
    let mut again = Pair::seeded((a, sides().1), 77);
    std::mem::swap(&mut again.b, &mut pair.b);
    again.now = pair.now;
    let request = again.up();
    again.settle();
    assert_eq!(again.a.done[&request], Ok(()));
    assert!(again.open(&again.sent[2]).iter().any(
        |p| matches!(p, adit_wire::ikev2::Payload::Notify(n) if n.notify_type == NotifyType::INITIAL_CONTACT)
    ));
    again.assert_children(1);
    assert_eq!(again.b.gateway.ike_sas().count(), 1);
    assert_eq!(again.b.down, [DownReason::Replaced]);
    assert_eq!(again.b.removed, 1);
}

/// INITIAL_CONTACT concerns SAs of exactly the same two identities.
#[test]
fn adversarial_29_initial_contact_leaves_others_alone() {
    let (a, mut b) = sides();
    b.connection().remote_addrs = Vec::new();
    b.connection().remote_id = "*.example".parse().unwrap();
    b.secrets = vec![crate::pair::secret(&[], crate::pair::KEY)];
    let mut pair = Pair::established((a, b));
    let (mut other, _) = sides();
    other.connection().local_id = Some("other.example".parse().unwrap());
    other.secrets = vec![crate::pair::secret(&["other.example"], crate::pair::KEY)];
    let mut again = Pair::seeded((other, sides().1), 78);
    std::mem::swap(&mut again.b, &mut pair.b);
    again.now = pair.now;
    again.up();
    again.settle();
    assert_eq!(again.b.gateway.ike_sas().count(), 2);
    assert!(again.b.down.is_empty());
}

#[test]
fn both_sides_may_delete_at_once() {
    for whole in [true, false] {
        let mut pair = Pair::established(sides());
        let target = if whole {
            TerminateTarget { ike_sa: Some(adit_ike::IkeSaHandle(1)), ..Default::default() }
        } else {
            TerminateTarget { child: Some("net".to_owned()), ..Default::default() }
        };
        for peer in [&mut pair.a, &mut pair.b] {
            let request = peer.next_request();
            peer.gateway.terminate(pair.now, &target, request).unwrap();
        }
        pair.run(Duration::from_secs(60));
        pair.assert_children(0);
        assert_eq!((pair.a.removed, pair.b.removed), (1, 1), "removed once");
        for response in pair.sent.iter().filter(|p| p.is(ExchangeType::INFORMATIONAL, true)) {
            assert!(pair.open(response).is_empty(), "RFC 7296 1.4.1: no Delete in crossing responses");
        }
        let left = if whole { 0 } else { 1 };
        assert_eq!(pair.a.gateway.ike_sas().count(), left);
        assert_eq!(pair.b.gateway.ike_sas().count(), left);
    }
}

/// The response to the delete that crossed ours may be lost after ours is confirmed: the peer still gets it.
#[test]
fn the_last_response_of_crossing_deletes_is_repeated() {
    let mut pair = Pair::established(sides());
    let target = TerminateTarget { ike_sa: Some(adit_ike::IkeSaHandle(1)), ..Default::default() };
    for peer in [&mut pair.a, &mut pair.b] {
        let request = peer.next_request();
        peer.gateway.terminate(pair.now, &target, request).unwrap();
    }
    let mut lost = false;
    pair.link = Box::new(move |_, p| {
        let last = p.source == at(crate::pair::A, 500) && p.is(ExchangeType::INFORMATIONAL, true);
        if last && !std::mem::replace(&mut lost, true) { Fate::Lose } else { Fate::Deliver }
    });
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.a.gateway.counters().repeated_requests, 1);
    pair.assert_nothing();
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.a.gateway.poll_timeout(), None, "nothing is kept");
}

/// Both sides start at once, and both succeed: nothing hangs, every child fits one of the peer's.
#[test]
fn both_sides_may_start_at_once() {
    let mut pair = Pair::new(sides());
    let a = pair.up();
    let b = pair.b.next_request();
    let target = adit_ike::Target { connection: Some("to-a".to_owned()), ..Default::default() };
    pair.b.gateway.initiate(pair.now, &target, b).unwrap();
    pair.run(Duration::from_secs(30));
    assert_eq!((&pair.a.done[&a], &pair.b.done[&b]), (&Ok(()), &Ok(())));
    assert!(!pair.a.installed.is_empty());
    pair.assert_children(pair.a.installed.len());
}

/// The INITIAL_CONTACT of one says nothing about what the other has brought up in the meantime.
#[test]
fn a_late_initial_contact_spares_what_is_newer() {
    let mut pair = Pair::new(sides());
    pair.up();
    let b = pair.b.next_request();
    let target = adit_ike::Target { connection: Some("to-a".to_owned()), ..Default::default() };
    pair.b.gateway.initiate(pair.now, &target, b).unwrap();
    let mut lost = false;
    pair.link = Box::new(move |_, p| {
        let late = p.source == at(crate::pair::B, 500) && p.is(ExchangeType::IKE_AUTH, false);
        if late && !std::mem::replace(&mut lost, true) { Fate::Lose } else { Fate::Deliver }
    });
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.b.done[&b], Ok(()));
    assert!(pair.a.down.is_empty() && pair.b.down.is_empty());
    assert_eq!((pair.a.gateway.ike_sas().count(), pair.b.gateway.ike_sas().count()), (2, 2));
    pair.assert_children(2);
}

/// A peer that forgets its IKE SAs, or never minds them, gets no more than 16.
#[test]
fn ike_sas_of_one_peer_are_bounded() {
    let new = |seed| {
        let (mut a, b) = sides();
        // It does not know whom it will reach, so it cannot say INITIAL_CONTACT.
        a.connection().remote_id = "*.example".parse().unwrap();
        Pair::seeded((a, b), seed)
    };
    let mut pair = new(100);
    for seed in 101..121 {
        pair.up();
        pair.settle();
        let mut next = new(seed);
        std::mem::swap(&mut next.b, &mut pair.b);
        next.now = pair.now + Duration::from_millis(1);
        pair = next;
    }
    pair.run(Duration::from_secs(10));
    let left: Vec<u64> = pair.b.gateway.ike_sas().map(|view| view.handle.0).collect();
    assert_eq!(left, (5..=20).collect::<Vec<_>>(), "the last 16");
    assert_eq!((pair.b.installed.len(), pair.b.removed), (16, 4));
}

/// The peer creates a child and deletes it, and its first message is the later one to arrive.
#[test]
fn a_child_deleted_before_its_response_arrives_stays_deleted() {
    let (mut a, mut b) = sides();
    a.connection().children.push(child("more", "10.3.0.0/16", "10.4.0.0/16"));
    b.connection().children.push(child("more", "10.4.0.0/16", "10.3.0.0/16"));
    let mut pair = Pair::new((a, b));
    let late = Rc::new(RefCell::new(None));
    let keep = Rc::clone(&late);
    pair.link = Box::new(move |_, p| {
        let (request, response) =
            (p.is(ExchangeType::CREATE_CHILD_SA, false), p.is(ExchangeType::CREATE_CHILD_SA, true));
        if response && keep.borrow().is_none() {
            *keep.borrow_mut() = Some(p.clone());
            return Fate::Lose;
        }
        // No repetition brings the response sooner.
        if request && keep.borrow().is_some() { Fate::Lose } else { Fate::Deliver }
    });
    pair.up();
    pair.settle();
    assert_eq!((pair.a.installed.len(), pair.b.installed.len()), (1, 2));
    let target = TerminateTarget { child: Some("more".to_owned()), ..Default::default() };
    let request = pair.b.next_request();
    pair.b.gateway.terminate(pair.now, &target, request).unwrap();
    pair.collect();
    pair.settle();
    assert_eq!(pair.b.installed.len(), 1);
    let response = late.borrow_mut().take().unwrap();
    pair.deliver(&response);
    pair.settle();
    pair.assert_children(1);
}
