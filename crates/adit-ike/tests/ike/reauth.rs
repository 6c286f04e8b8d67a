//! Re-authentication, made before it is broken (RFC 7296 2.8.3, RFC 4478).

use std::collections::BTreeSet;
use std::time::Duration;

use adit_ike::config::Lifetime;
use adit_ike::{CommandError, DownReason, IkeSaHandle, NegotiationRecord, Target, TerminateTarget, proposal};
use adit_wire::ikev2::{ExchangeType, Notify, NotifyType, Payload};

use crate::pair::*;

fn seconds(soft: u64, hard: u64) -> Lifetime {
    Lifetime { soft: Duration::from_secs(soft), hard: Duration::from_secs(hard), jitter: Duration::ZERO }
}

fn second(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Two children; `a` authenticates anew every minute.
fn two_children() -> (Side, Side) {
    let (mut a, mut b) = sides();
    a.connection().children.push(child("more", "10.3.0.0/16", "10.4.0.0/16"));
    b.connection().children.push(child("more", "10.4.0.0/16", "10.3.0.0/16"));
    a.connection().reauth = seconds(60, 90);
    (a, b)
}

/// Up and settled, with so many children.
fn up(sides: (Side, Side), children: usize) -> Pair {
    let mut pair = Pair::new(sides);
    pair.up();
    pair.settle();
    pair.assert_children(children);
    pair
}

fn numbers(peer: &Peer) -> Vec<u64> {
    peer.gateway.ike_sas().map(|sa| sa.handle.0).collect()
}

/// Active or not, by age.
fn active(peer: &Peer) -> Vec<bool> {
    peer.installed.values().map(|c| c.active).collect()
}

fn whole() -> TerminateTarget {
    TerminateTarget { connection: Some("to-b".into()), ..TerminateTarget::default() }
}

fn auth_requests(pair: &Pair) -> Vec<Vec<NotifyType>> {
    let requests = pair.sent.iter().filter(|p| p.is(ExchangeType::IKE_AUTH, false));
    requests.map(|p| notifies(&pair.open(p))).collect()
}

#[test]
fn the_new_one_is_up_before_the_old_one_goes() {
    let mut pair = up(two_children(), 2);
    let at = pair.a.gateway.ike_sas().next().unwrap().reauth_at;
    assert_eq!(at.map(|at| at.duration_since(pair.now).as_secs()), Some(59));
    pair.run(second(59));
    assert_eq!((numbers(&pair.a), numbers(&pair.b)), (vec![1], vec![1]), "not before its time");
    let (a, b) = (pair.a.events.len(), pair.b.events.len());
    pair.run(second(2));
    pair.assert_children(2);
    assert_eq!((numbers(&pair.a), numbers(&pair.b)), (vec![2], vec![2]));
    assert_eq!((active(&pair.a), active(&pair.b)), (vec![true; 2], vec![true; 2]));
    let told = [
        "ike-up",
        "child-up net",
        "child-up more",
        "child-down net Reauthenticated",
        "child-down more Reauthenticated",
        "ike-down",
    ];
    for (events, from) in [(&pair.a.events, a), (&pair.b.events, b)] {
        assert_eq!(events.len() - from, told.len(), "{:?}", &events[from..]);
        assert!(events[from..].iter().zip(told).all(|(e, t)| e.starts_with(t)), "{:?}", &events[from..]);
    }
    assert_eq!((pair.a.retired.len(), pair.b.retired.len()), (2, 2), "what is on its way is taken");
    // RFC 7296 2.4 and 2.8.3: the old one exists, and nothing tells the peer that the new one takes its place.
    let said = auth_requests(&pair);
    assert_eq!((said.len(), said[1].contains(&NotifyType::INITIAL_CONTACT)), (2, false));
    assert!(said[0].contains(&NotifyType::INITIAL_CONTACT));
    pair.run(second(600));
    pair.assert_children(2);
    pair.run(second(35));
    assert_eq!(numbers(&pair.a), [12], "and so on");
    assert!([&pair.a, &pair.b].iter().all(|p| p.records.iter().all(NegotiationRecord::is_success)));
    let kept = pair.b.gateway.kept();
    assert_eq!((kept.ike_sas, kept.children, kept.peers), (1, 2, 1));
}

/// The responder cannot know that the initiator has its response: it sends on the old child until the peer uses the new
/// one or ends the old one.
#[test]
fn the_responder_stands_by() {
    let mut pair = up(two_children(), 2);
    pair.link =
        Box::new(|_, p| if p.is(ExchangeType::INFORMATIONAL, false) { Fate::Lose } else { Fate::Deliver });
    pair.run(second(61));
    assert_eq!(active(&pair.b), [true, true, false, false]);
    assert_eq!((active(&pair.a), pair.a.retired.len()), (vec![true, true], 2));
    // Its Delete arrives: the new ones are in use before the old ones retire, which the data plane would have noticed.
    pair.link = Box::new(|_, _| Fate::Deliver);
    pair.run(second(3));
    assert_eq!((active(&pair.b), pair.b.retired.len()), (vec![true, true], 2));
}

/// A peer that never uses the new child nor ends the old one wants to be sent to on the new one all the same.
#[test]
fn the_responder_does_not_stand_by_for_ever() {
    let mut pair = up(two_children(), 2);
    pair.link =
        Box::new(|_, p| if p.is(ExchangeType::INFORMATIONAL, false) { Fate::Lose } else { Fate::Deliver });
    pair.run(second(69));
    assert_eq!(active(&pair.b), [true, true, false, false]);
    pair.run(second(2));
    assert_eq!(active(&pair.b), [true; 4]);
    assert_eq!(numbers(&pair.a), [2], "the end of the old one was not confirmed");
}

#[test]
fn what_fails_is_tried_again_until_the_end() {
    let mut pair = up(two_children(), 2);
    // The peer is there, but takes no new IKE SA.
    pair.link = Box::new(|_, p| {
        if p.is(ExchangeType::IKE_SA_INIT, false) { Fate::Replace(vec![refuse(p)]) } else { Fate::Deliver }
    });
    pair.run(second(88));
    pair.assert_children(2);
    let inits = pair.sent.iter().filter(|p| p.is(ExchangeType::IKE_SA_INIT, false));
    let attempts: BTreeSet<u64> = inits.map(|p| p.header().initiator_spi.0).collect();
    assert!(
        (4..=7).contains(&attempts.len()),
        "the first, and attempts that take longer and longer: {attempts:x?}"
    );
    pair.run(second(4));
    assert_eq!((&pair.a.down, &pair.b.down), (&vec![DownReason::Expired], &vec![DownReason::DeletedByPeer]));
    pair.run(second(60));
    pair.assert_nothing();
    assert_eq!(pair.a.gateway.poll_timeout(), None, "no attempt is left");
}

/// NO_PROPOSAL_CHOSEN for a first request.
fn refuse(request: &Packet) -> Packet {
    let mut header = request.header();
    (header.flags.initiator, header.flags.response) = (false, true);
    let datagram = adit_wire::ikev2::Message::encode(&header, &[notify(NotifyType::NO_PROPOSAL_CHOSEN)]);
    Packet { source: request.destination, destination: request.source, datagram }
}

#[test]
fn one_failure_is_made_good() {
    let mut pair = up(two_children(), 2);
    pair.link = Box::new(|_, p| {
        if p.is(ExchangeType::IKE_SA_INIT, false) { Fate::Replace(vec![refuse(p)]) } else { Fate::Deliver }
    });
    pair.run(second(61));
    pair.link = Box::new(|_, _| Fate::Deliver);
    pair.run(second(10));
    pair.assert_children(2);
    assert_eq!(pair.b.down, [DownReason::Reauthenticated]);
    assert_eq!(active(&pair.b), [true, true]);
}

/// RFC 4478 2: the responder says how long, and the initiator is earlier than that.
#[test]
fn the_responder_sets_a_limit() {
    let (mut a, mut b) = two_children();
    a.connection().reauth = Lifetime::default();
    b.connection().reauth = seconds(60, 70);
    let mut pair = up((a, b), 2);
    let response = pair.sent.iter().find(|p| p.is(ExchangeType::IKE_AUTH, true)).unwrap();
    let lifetime = pair.open(response).into_iter().find_map(|p| match p {
        Payload::Notify(n) if n.notify_type == NotifyType::AUTH_LIFETIME => Some(n.data),
        _ => None,
    });
    assert_eq!(lifetime, Some(vec![0, 0, 0, 60]));
    pair.run(second(47));
    assert_eq!(numbers(&pair.a), [1]);
    pair.run(second(8));
    assert_eq!((numbers(&pair.a), numbers(&pair.b)), (vec![2], vec![2]));
    pair.assert_children(2);
    pair.run(second(600));
    assert!(pair.b.down.iter().all(|reason| *reason == DownReason::Reauthenticated), "{:?}", pair.b.down);
}

#[test]
fn whoever_does_not_authenticate_anew_is_put_out() {
    let (a, mut b) = sides();
    b.connection().reauth = seconds(60, 70);
    let mut pair = up((a, b), 1);
    pair.link = Box::new(|_, _| Fate::Lose);
    pair.run(second(69));
    assert!(pair.b.down.is_empty() && !pair.b.installed.is_empty());
    pair.run(second(7));
    assert_eq!(pair.b.down, [DownReason::Expired]);
    assert!(pair.b.installed.is_empty());
}

/// RFC 4478 2: it may come at any time, and zero means at once; but only a responder has a say.
#[test]
fn a_limit_may_come_later() {
    for (said, by_responder, expected) in [(0_u32, true, 2), (30, true, 2), (0, false, 1)] {
        let mut pair = up(two_children(), 2);
        let keys = &pair.a.keys[0];
        pair.now += second(10);
        let notify = Notify::new(NotifyType::AUTH_LIFETIME, said.to_be_bytes().to_vec());
        let id = if by_responder { 0 } else { 3 };
        let header = header(keys, ExchangeType::INFORMATIONAL, !by_responder, false, id);
        let datagram = seal(keys, &header, &[Payload::Notify(notify)], 1 << 40);
        let (here, there) = (at(A, 500), at(B, 500));
        let (source, destination) = if by_responder { (there, here) } else { (here, there) };
        pair.deliver(&Packet { source, destination, datagram });
        assert!(pair.sent.last().unwrap().is(ExchangeType::INFORMATIONAL, true));
        // What was made up has used a Message ID, so the old one cannot be deleted in order; that it goes is enough.
        pair.run(second(30));
        assert_eq!(numbers(&pair.a).last(), Some(&expected), "{said} {by_responder}");
    }
}

#[test]
fn an_operator_may_ask_for_it() {
    let mut pair = up(two_children(), 2);
    let request = pair.a.next_request();
    assert_eq!(pair.a.gateway.reauthenticate(pair.now, &whole(), request), Ok(1));
    let again = pair.a.next_request();
    let refused = Err(CommandError::NothingToReauthenticate);
    assert_eq!(pair.a.gateway.reauthenticate(pair.now, &whole(), again), refused, "under way");
    pair.settle();
    assert_eq!(pair.a.done.get(&request), Some(&Ok(())));
    assert_eq!(numbers(&pair.b), [2]);
    pair.assert_children(2);
    // Who was dialled cannot dial.
    let target = TerminateTarget { connection: Some("to-a".into()), ..TerminateTarget::default() };
    let request = pair.b.next_request();
    assert_eq!(pair.b.gateway.reauthenticate(pair.now, &target, request), refused);
}

/// A child that came up meanwhile is taken along.
#[test]
fn nothing_is_left_behind() {
    let mut pair = Pair::new(two_children());
    let target = |name: &str| Target { child: Some(name.into()), ..Target::default() };
    let request = pair.a.next_request();
    pair.a.gateway.initiate(pair.now, &target("net"), request).unwrap();
    pair.settle();
    pair.assert_children(1);
    let request = pair.a.next_request();
    pair.a.gateway.reauthenticate(pair.now, &whole(), request).unwrap();
    let request = pair.a.next_request();
    pair.a.gateway.initiate(pair.now, &target("more"), request).unwrap();
    pair.settle();
    assert_eq!(pair.a.done.get(&request), Some(&Ok(())));
    pair.assert_children(2);
    assert_eq!((numbers(&pair.a), numbers(&pair.b)), (vec![2], vec![2]));
    assert_eq!(active(&pair.b), [true, true]);
}

/// What is taken down while a new IKE SA is dialled stays down.
#[test]
fn an_attempt_does_not_bring_back_what_is_taken_down() {
    for child in [None, Some("more".to_owned())] {
        let mut pair = up(two_children(), 2);
        pair.link =
            Box::new(|_, p| if p.is(ExchangeType::IKE_SA_INIT, true) { Fate::Lose } else { Fate::Deliver });
        pair.run(second(61));
        assert_eq!(numbers(&pair.a), [1, 2]);
        let request = pair.down(&TerminateTarget { child: child.clone(), ..whole() });
        pair.link = Box::new(|_, _| Fate::Deliver);
        pair.run(second(200));
        assert_eq!(pair.a.done.get(&request), Some(&Ok(())), "{:?}", pair.a.events);
        let left = usize::from(child.is_some());
        pair.assert_children(left);
        assert_eq!(pair.a.gateway.ike_sas().count(), left);
    }
}

/// The peer ends the old one before it has answered: it wants none.
#[test]
fn the_peers_end_ends_the_attempt() {
    let mut pair = up(two_children(), 2);
    pair.link =
        Box::new(|_, p| if p.is(ExchangeType::IKE_SA_INIT, false) { Fate::Lose } else { Fate::Deliver });
    pair.run(second(61));
    let request = pair.b.next_request();
    let old = TerminateTarget { ike_sa: Some(IkeSaHandle(1)), ..TerminateTarget::default() };
    pair.b.gateway.terminate(pair.now, &old, request).unwrap();
    pair.run(second(60));
    pair.assert_nothing();
    assert_eq!(pair.a.down, [DownReason::DeletedByPeer]);
}

/// The key exchange of the children fits on neither side, which only their rekeying shows (RFC 7296 1.2): a new IKE SA
/// is in time before they end.
#[test]
fn what_cannot_be_rekeyed_is_made_anew() {
    let (mut a, mut b) = sides();
    a.connection().children[0].limits.time = seconds(60, 90);
    a.connection().children[0].proposals = proposal::parse_esp("aes256gcm16-x25519-noesn").unwrap();
    b.connection().children[0].proposals = proposal::parse_esp("aes256gcm16-ecp256-noesn").unwrap();
    let mut pair = Pair::established((a, b));
    for _ in 0..900 {
        pair.run(second(1));
        assert!(pair.a.installed.values().any(|c| c.active), "{:?}", pair.a.events);
        assert!(pair.b.installed.values().any(|c| c.active), "{:?}", pair.b.events);
    }
    pair.assert_children(1);
    assert!(pair.b.down.len() >= 10, "{:?}", pair.b.down);
    assert!(pair.b.down.iter().all(|reason| *reason == DownReason::Reauthenticated), "{:?}", pair.b.down);
}

/// Any message may be lost: no policy is without an active Child SA for a moment.
#[test]
fn nothing_is_lost_with_any_message() {
    let mut messages = 100;
    let mut lost = 0;
    while lost < messages {
        let mut pair = up(two_children(), 2);
        let before = pair.sent.len();
        pair.link = Box::new(move |i, _| if i == before + lost { Fate::Lose } else { Fate::Deliver });
        pair.run(second(60));
        for _ in 0..200 {
            pair.run(Duration::from_millis(50));
            for peer in [&pair.a, &pair.b] {
                for name in ["net", "more"] {
                    assert!(peer.installed.values().any(|c| c.child == name && c.active), "{lost}");
                }
            }
        }
        pair.assert_children(2);
        assert_eq!((numbers(&pair.a), numbers(&pair.b)), (vec![2], vec![2]), "{lost}");
        messages = messages.min(pair.sent.len() - before);
        lost += 1;
    }
    assert_eq!(messages, 8);
}

/// A minimal peer makes no SA more (RFC 7296 4): the IKE SA is replaced by a new one before its hard limit.
#[test]
fn a_peer_that_does_not_replace_ike_sas_gets_a_new_one() {
    let (mut a, b) = sides();
    a.connection().rekey = seconds(60, 120);
    let mut pair = Pair::established((a, b));
    let keys = pair.b.keys.pop().unwrap();
    pair.link = Box::new(move |_, p| {
        if !p.is(ExchangeType::CREATE_CHILD_SA, false) || p.header().initiator_spi != keys.initiator_spi {
            return Fate::Deliver;
        }
        let id = p.header().message_id;
        let h = header(&keys, ExchangeType::CREATE_CHILD_SA, false, true, id);
        let datagram = seal(&keys, &h, &[notify(NotifyType::NO_ADDITIONAL_SAS)], 1000 + u64::from(id));
        Fate::Replace(vec![Packet { source: p.destination, destination: p.source, datagram }])
    });
    let first = pair.a.gateway.ike_sas().next().unwrap().handle;
    pair.run(Duration::from_secs(119));
    let now: Vec<_> = pair.a.gateway.ike_sas().map(|sa| sa.handle).collect();
    assert!(now.iter().any(|handle| *handle != first), "{:?}", pair.a.events);
    assert!(pair.a.installed.values().any(|child| child.ike_sa != first && child.active));
}
