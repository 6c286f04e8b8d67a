//! Authentic peers that err, as peers in the field do: what slipped past the collision tests of others, and the rows of
//! the tables (standards 5.2, 5.4) that no two gateways of one kind can come to.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use adit_ike::{ChildHandle, InstallChild};
use adit_wire::ikev2::{
    Delete, ExchangeType, Nonce, Notify, NotifyType, Payload, PayloadType, ProtocolId, Spi,
};

use super::Insider;
use crate::pair::{A, B, Fate, Packet, Pair, at, header, net, notifies, notify, open, seal, sides};

fn delete(spi: Spi) -> Payload {
    Payload::Delete(Delete { protocol: ProtocolId::ESP, spis: vec![spi] })
}

fn rekey_notify(spi: Spi) -> Payload {
    Payload::Notify(Notify {
        protocol: ProtocolId::ESP,
        spi: spi.0.to_be_bytes().to_vec(),
        ..Notify::new(NotifyType::REKEY_SA, Vec::new())
    })
}

/// Asks for the successor of the child whose inbound SPI at the sender is `old`, to have the inbound SPI `new`.
fn rekey_request(insider: &Insider, old: Spi, new: Spi) -> Vec<Payload> {
    let mut request = insider.child_request();
    for p in &mut request {
        if let Payload::SecurityAssociation(sa) = p {
            sa.proposals[0].spi = new.0.to_be_bytes().to_vec();
        }
    }
    request.insert(0, rekey_notify(old));
    request
}

fn only(children: &std::collections::BTreeMap<ChildHandle, InstallChild>) -> &InstallChild {
    assert_eq!(children.len(), 1);
    children.values().next().unwrap()
}

/// C5: what is to be rekeyed is named by the sender's inbound SPI, and must be of this IKE SA.
#[test]
fn adversarial_30_c5_rekeying_of_what_is_not_there() {
    let mut insider = Insider::new();
    let ours = only(&insider.pair.b.installed).inbound_spi;
    for spi in [Spi(0), Spi(0x1234_5678), ours] {
        let answer =
            insider.ask(ExchangeType::CREATE_CHILD_SA, &rekey_request(&insider, spi, Spi(0x4444_4444)));
        let Payload::Notify(n) = &answer[0] else { panic!("{answer:?}") };
        assert_eq!(n.notify_type, NotifyType::CHILD_SA_NOT_FOUND);
        assert_eq!((n.protocol, n.spi.clone()), (ProtocolId::ESP, spi.0.to_be_bytes().to_vec()));
        insider.pair.assert_children(1);
    }
}

/// The peer's inbound SPI tells its Child SAs apart: it cannot give one to two of them (strongSwan's issue 2778).
#[test]
fn adversarial_30_an_spi_for_two_children() {
    for rekeys in [false, true] {
        let mut insider = Insider::new();
        let spi = only(&insider.pair.b.installed).outbound_spi;
        let mut request = rekey_request(&insider, spi, spi);
        if !rekeys {
            request.remove(0);
        }
        let answer = insider.ask_notifies(ExchangeType::CREATE_CHILD_SA, &request);
        assert_eq!(answer, [NotifyType::NO_PROPOSAL_CHOSEN]);
        insider.pair.assert_children(1);
    }
    // The same in an answer: what it makes is none, and the peer is told so.
    let mut pair = Pair::established(sides());
    let keys = pair.b.keys.pop().unwrap();
    let child = only(&pair.a.installed);
    let (handle, ours, theirs) = (child.handle, child.inbound_spi, child.outbound_spi);
    let request = rekey_answer(&mut pair, handle);
    let mut answer = open(&keys, &request);
    answer.retain(|p| p.payload_type() != PayloadType::NOTIFY);
    for p in &mut answer {
        match p {
            Payload::SecurityAssociation(sa) => sa.proposals[0].spi = theirs.0.to_be_bytes().to_vec(),
            Payload::Nonce(nonce) => *nonce = Nonce(vec![9; 32]),
            _ => {}
        }
    }
    let h = header(&keys, ExchangeType::CREATE_CHILD_SA, false, true, request.header().message_id);
    let datagram = seal(&keys, &h, &answer, 1 << 40);
    pair.deliver(&Packet { source: at(B, 500), destination: at(A, 500), datagram });
    assert_eq!(only(&pair.a.installed).inbound_spi, ours, "the old one stays");
    let Payload::Delete(d) = &open(&keys, pair.sent.last().unwrap())[0] else { panic!() };
    assert_ne!(d.spis, [ours], "the new one is deleted, not the old one");
}

/// `a` rekeys; what it sends is lost and returned.
fn rekey_answer(pair: &mut Pair, handle: ChildHandle) -> Packet {
    pair.link = Box::new(|_, _| Fate::Lose);
    pair.a.gateway.child_expiring(pair.now, handle);
    pair.collect();
    pair.sent.last().unwrap().clone()
}

/// A collision of which one half is refused (strongSwan's issue 2477, seen with a Cisco ASA): the other half must
/// carry the traffic.
#[test]
fn adversarial_30_one_half_of_a_collision_is_refused() {
    for refusal in
        [NotifyType::TS_UNACCEPTABLE, NotifyType::NO_PROPOSAL_CHOSEN, NotifyType::TEMPORARY_FAILURE]
    {
        let mut pair = Pair::established(sides());
        let keys = pair.b.keys.pop().unwrap();
        let handle = only(&pair.a.installed).handle;
        let lost = rekey_answer(&mut pair, handle);
        // The peer rekeys, too; its request arrives, then its refusal of ours.
        let theirs = only(&pair.b.installed).handle;
        pair.b.gateway.child_expiring(pair.now, theirs);
        pair.collect();
        let request = pair.sent.last().unwrap().clone();
        pair.deliver(&request);
        let answer = pair.sent.last().unwrap().clone();
        assert!(answer.is(ExchangeType::CREATE_CHILD_SA, true));
        let h = header(&keys, ExchangeType::CREATE_CHILD_SA, false, true, lost.header().message_id);
        let datagram = seal(&keys, &h, &[notify(refusal)], 1 << 40);
        pair.deliver(&Packet { source: at(B, 500), destination: at(A, 500), datagram });
        // The peer gets its answer, switches and deletes the old one.
        pair.link = Box::new(|_, _| Fate::Deliver);
        pair.deliver(&answer);
        pair.settle();
        pair.run(Duration::from_secs(8));
        pair.assert_children(1);
        assert!(only(&pair.a.installed).active && only(&pair.b.installed).active, "{refusal}");
        assert_ne!(only(&pair.a.installed).handle, handle);
    }
}

/// A peer that deletes the old child itself right after its answer, which overtakes the answer or follows it
/// (standards 5.2, step 10).
#[test]
fn adversarial_30_the_responder_deletes_the_old_child() {
    for overtakes in [true, false] {
        let mut pair = Pair::established(sides());
        let keys = pair.b.keys.pop().unwrap();
        let old = only(&pair.a.installed);
        let (handle, old_out) = (old.handle, old.outbound_spi);
        // The answer of the real peer, held back.
        let held: Rc<RefCell<Vec<Packet>>> = Rc::default();
        let keep = Rc::clone(&held);
        pair.link = Box::new(move |_, p| {
            if p.source == at(B, 500) {
                keep.borrow_mut().push(p.clone());
            }
            if p.source == at(A, 500) && p.is(ExchangeType::CREATE_CHILD_SA, false) {
                Fate::Deliver
            } else {
                Fate::Lose
            }
        });
        pair.a.gateway.child_expiring(pair.now, handle);
        pair.settle();
        let answer = held.borrow()[0].clone();
        let h = header(&keys, ExchangeType::INFORMATIONAL, false, false, 0);
        let datagram = seal(&keys, &h, &[delete(old_out)], 1 << 40);
        let wrong = Packet { source: at(B, 500), destination: at(A, 500), datagram };
        for packet in if overtakes { [&wrong, &answer] } else { [&answer, &wrong] } {
            pair.deliver(packet);
        }
        let new = only(&pair.a.installed);
        assert!(new.active && new.handle != handle, "the successor is adopted, overtaken or not");
        assert!(!pair.a.events.iter().any(|e| e.starts_with("child-down")), "{:?}", pair.a.events);
        assert!(pair.a.retired.contains_key(&handle), "what is on its way still arrives");
    }
}

/// A successor that protects less than the old child, or another algorithm than was offered, is none: the old one
/// stays, and the peer is told to forget the new one.
#[test]
fn adversarial_30_a_successor_that_protects_less() {
    let mut pair = Pair::established(sides());
    let keys = pair.b.keys.pop().unwrap();
    let old = only(&pair.a.installed);
    let (handle, ours) = (old.handle, old.inbound_spi);
    let request = rekey_answer(&mut pair, handle);
    let mut answer = open(&keys, &request);
    answer.retain(|p| p.payload_type() != PayloadType::NOTIFY);
    for p in &mut answer {
        match p {
            Payload::SecurityAssociation(sa) => sa.proposals[0].spi = vec![7, 7, 7, 7],
            Payload::Nonce(nonce) => *nonce = Nonce(vec![9; 32]),
            Payload::TrafficSelectorsInitiator(ts) => ts.selectors = vec![net("10.1.2.0/24")],
            _ => {}
        }
    }
    let h = header(&keys, ExchangeType::CREATE_CHILD_SA, false, true, request.header().message_id);
    let datagram = seal(&keys, &h, &answer, 1 << 40);
    pair.deliver(&Packet { source: at(B, 500), destination: at(A, 500), datagram });
    let left = only(&pair.a.installed);
    assert!(left.inbound_spi == ours && left.active);
    let told = open(&keys, pair.sent.last().unwrap());
    assert!(matches!(&told[..], [Payload::Delete(d)] if d.spis.len() == 1 && d.spis[0] != ours), "{told:?}");
    // A peer that asks for less is refused.
    let mut insider = Insider::new();
    let spi = only(&insider.pair.b.installed).outbound_spi;
    let mut request = rekey_request(&insider, spi, Spi(0x4444_4444));
    for p in &mut request {
        if let Payload::TrafficSelectorsInitiator(ts) = p {
            ts.selectors = vec![net("10.1.2.0/24")];
        }
    }
    let answer = insider.ask(ExchangeType::CREATE_CHILD_SA, &request);
    assert_eq!(notifies(&answer), [NotifyType::TS_UNACCEPTABLE]);
    insider.pair.assert_children(1);
}

/// Test 64: the hard limit comes while the rekeying cannot succeed: nothing is sent any more, and nothing is sent in
/// the clear instead. A clock that jumps ahead, as after a suspend, is no different.
#[test]
fn adversarial_64_hard_limits_while_rekeying_is_blocked() {
    for jump in [false, true] {
        let (mut a, b) = sides();
        let time = &mut a.connection().children[0].limits.time;
        (time.soft, time.hard) = (Duration::from_secs(60), Duration::from_secs(90));
        let mut pair = Pair::established((a, b));
        // TEMPORARY_FAILURE to everything.
        let keys = pair.b.keys.pop().unwrap();
        pair.link = Box::new(move |n, p| {
            if p.source != at(A, 500) || !p.is(ExchangeType::CREATE_CHILD_SA, false) {
                return Fate::Deliver;
            }
            let h = header(&keys, ExchangeType::CREATE_CHILD_SA, false, true, p.header().message_id);
            let datagram = seal(&keys, &h, &[notify(NotifyType::TEMPORARY_FAILURE)], (1 << 40) + n as u64);
            Fate::Replace(vec![Packet { source: p.destination, destination: p.source, datagram }])
        });
        if jump {
            pair.now += Duration::from_secs(3600);
            pair.a.gateway.handle_timeout(pair.now);
            pair.collect();
        } else {
            pair.run(Duration::from_secs(89));
            assert_eq!(pair.a.installed.len(), 1, "in use up to its limit");
            let asked = pair.sent.iter().filter(|p| p.is(ExchangeType::CREATE_CHILD_SA, false)).count();
            assert!((1..=4).contains(&asked), "{asked}: no storm");
            pair.run(Duration::from_secs(2));
        }
        assert!(pair.a.installed.is_empty(), "fail closed");
    }
    // Where nothing is limited, an hour ahead changes nothing.
    let mut pair = Pair::established(sides());
    for _ in 0..3 {
        pair.now += Duration::from_secs(3600);
        pair.a.gateway.handle_timeout(pair.now);
        pair.b.gateway.handle_timeout(pair.now);
        pair.settle();
    }
    pair.assert_children(1);
    assert_eq!(pair.sent.len(), 4, "and nothing is said");
}

/// RFC 7296 1.3.1: a peer that does not take padding says so when a child is made, whoever asks for it.
#[test]
fn padding_is_left_out_where_the_peer_does_not_take_it() {
    for refused in [false, true] {
        // It asks.
        let mut insider = Insider::new();
        assert!(only(&insider.pair.b.installed).tfc_padding);
        let mut request = insider.child_request();
        if refused {
            request.push(notify(NotifyType::ESP_TFC_PADDING_NOT_SUPPORTED));
        }
        insider.ask(ExchangeType::CREATE_CHILD_SA, &request);
        let pads: Vec<bool> = insider.pair.b.installed.values().map(|child| child.tfc_padding).collect();
        assert_eq!(pads, [true, !refused]);

        // It answers.
        let mut pair = Pair::established(sides());
        let keys = pair.b.keys.pop().unwrap();
        let handle = only(&pair.a.installed).handle;
        let request = rekey_answer(&mut pair, handle);
        let mut answer = open(&keys, &request);
        answer.retain(|p| p.payload_type() != PayloadType::NOTIFY);
        for p in &mut answer {
            match p {
                Payload::SecurityAssociation(sa) => sa.proposals[0].spi = vec![7; 4],
                Payload::Nonce(nonce) => *nonce = Nonce(vec![9; 32]),
                _ => {}
            }
        }
        if refused {
            answer.push(notify(NotifyType::ESP_TFC_PADDING_NOT_SUPPORTED));
        }
        let h = header(&keys, ExchangeType::CREATE_CHILD_SA, false, true, request.header().message_id);
        let datagram = seal(&keys, &h, &answer, 1 << 40);
        pair.deliver(&Packet { source: at(B, 500), destination: at(A, 500), datagram });
        let new = pair.a.installed.values().find(|child| child.outbound_spi == Spi(0x0707_0707)).unwrap();
        assert_eq!(new.tfc_padding, !refused);
    }
}
