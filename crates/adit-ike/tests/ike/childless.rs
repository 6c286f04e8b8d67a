//! IKE SAs without a child (RFC 6023).

use std::time::Duration;

use adit_ike::OutcomeCode;
use adit_ike::config::Childless;
use adit_wire::ikev2::{ExchangeType, NotifyType, PayloadType};

use crate::pair::{Pair, Side, sides};

fn with(a: Childless, b: Childless) -> (Side, Side) {
    let mut sides = sides();
    sides.0.connection().childless = a;
    sides.1.connection().childless = b;
    sides
}

/// Has the IKE_AUTH request what makes a child?
fn asks_for_a_child(pair: &Pair) -> bool {
    let request = pair.sent.iter().find(|p| p.is(ExchangeType::IKE_AUTH, false)).unwrap();
    let types: Vec<PayloadType> =
        pair.open(request).iter().map(adit_wire::ikev2::Payload::payload_type).collect();
    let found = [PayloadType::SA, PayloadType::TSI, PayloadType::TSR].map(|t| types.contains(&t));
    assert!(found == [true; 3] || found == [false; 3]);
    found[0]
}

#[test]
fn children_come_with_or_after_ike_auth() {
    use Childless::{Allow, Force, Never, Prefer};
    for (a, b, with_child) in [
        (Allow, Allow, true),
        (Never, Allow, true),
        (Prefer, Never, true),
        (Prefer, Allow, false),
        (Prefer, Prefer, false),
        (Force, Allow, false),
        (Force, Force, false),
    ] {
        let pair = Pair::established(with(a, b));
        assert_eq!(asks_for_a_child(&pair), with_child, "{a:?} {b:?}");
        let announced =
            |n: usize| pair.sent[n].clear_notifies().contains(&NotifyType::CHILDLESS_IKEV2_SUPPORTED);
        assert_eq!(announced(0), [Prefer, Force].contains(&a));
        assert_eq!(announced(1), b != Never && (announced(0) || pair.sent[0].datagram.len() > 216));
        assert!(pair.sent[1].datagram.len() <= pair.sent[0].datagram.len(), "no amplification");
        assert_eq!(
            pair.trace().contains(&"CREATE_CHILD_SA -> 2".to_owned()),
            !with_child,
            "{:?}",
            pair.trace()
        );
    }
}

#[test]
fn a_peer_that_must_and_cannot_is_refused() {
    let mut pair = Pair::new(with(Childless::Force, Childless::Never));
    let request = pair.up();
    pair.run(Duration::from_secs(5));
    assert!(pair.a.done[&request].as_ref().unwrap_err().contains("RFC 6023"), "{:?}", pair.a.done);
    assert_eq!(pair.a.failure().code, OutcomeCode::RefusedByPeer);
    pair.run(Duration::from_secs(60));
    pair.assert_nothing();
    // A child in IKE_AUTH where none may be: the IKE SA comes up and goes again.
    let mut pair = Pair::new(with(Childless::Allow, Childless::Force));
    let request = pair.up();
    pair.run(Duration::from_secs(5));
    assert!(pair.a.done[&request].is_err());
    assert!(pair.b.failure().message.contains("childless"), "{}", pair.b.failure().message);
    pair.run(Duration::from_secs(60));
    pair.assert_nothing();
}

/// The peer's policy counts, not what an initiator makes of a notify that nobody sent.
#[test]
fn nobody_gets_one_who_was_not_told() {
    let mut sides = with(Childless::Prefer, Childless::Never);
    sides.1.connection().name = "strict".to_owned();
    let mut pair = Pair::new(sides);
    pair.link = Box::new(|_, packet| {
        if !packet.is(ExchangeType::IKE_SA_INIT, true) {
            return crate::pair::Fate::Deliver;
        }
        let mut message = adit_wire::ikev2::Message::decode(&packet.datagram).unwrap();
        message.payloads.push(crate::pair::notify(NotifyType::CHILDLESS_IKEV2_SUPPORTED));
        let datagram = adit_wire::ikev2::Message::encode(&message.header, &message.payloads);
        crate::pair::Fate::Replace(vec![crate::pair::Packet { datagram, ..packet.clone() }])
    });
    pair.up();
    pair.run(Duration::from_secs(5));
    let answer = pair.sent.iter().find(|p| p.is(ExchangeType::IKE_AUTH, true)).unwrap();
    assert_eq!(crate::pair::notifies(&pair.open(answer)), [NotifyType::INVALID_SYNTAX]);
}

/// A connection without children: the IKE SA itself is wanted, and stays.
#[test]
fn an_ike_sa_for_its_own_sake() {
    let mut sides = with(Childless::Prefer, Childless::Allow);
    sides.0.connection().children.clear();
    sides.0.connection().dpd_delay = Duration::from_secs(30);
    let mut pair = Pair::new(sides);
    let request = pair.up();
    pair.settle();
    assert_eq!(pair.a.done.get(&request), Some(&Ok(())));
    let again = pair.up();
    assert_eq!(pair.a.done.get(&again), None, "nothing has been said yet");
    pair.settle();
    assert_eq!(pair.a.done.get(&again), Some(&Ok(())), "it is up already");
    pair.run(Duration::from_secs(3600));
    assert_eq!((pair.a.gateway.ike_sas().count(), pair.b.gateway.ike_sas().count()), (1, 1));
    pair.assert_children(0);
    pair.down(&adit_ike::TerminateTarget { connection: Some("to-b".to_owned()), ..Default::default() });
    pair.settle();
    pair.assert_nothing();
    // A responder without it is of no use, and that is said.
    let mut sides = with(Childless::Prefer, Childless::Never);
    sides.0.connection().children.clear();
    let mut pair = Pair::new(sides);
    let request = pair.up();
    pair.run(Duration::from_secs(5));
    assert!(pair.a.done[&request].is_err());
}
