//! Several Child SAs for one child, one for each worker (RFC 9611).

use std::time::Duration;

use adit_ike::config::{Action, Lifetime, Resources};
use adit_ike::{ChildHandle, OutcomeCode, TerminateTarget, proposal};
use adit_wire::ikev2::{ExchangeType, Notify, NotifyType, Payload, ProtocolId};

use crate::pair::*;

fn with(a: Option<(u16, u16)>, b: Option<(u16, u16)>) -> (Side, Side) {
    let (mut side_a, mut side_b) = sides();
    for (side, numbers) in [(&mut side_a, a), (&mut side_b, b)] {
        side.connection().children[0].resources = numbers.map(|(own, most)| Resources { own, most });
    }
    (side_a, side_b)
}

fn soft(side: &mut Side, seconds: u64) {
    let soft = Duration::from_secs(seconds);
    side.connection().children[0].limits.time = Lifetime { soft, hard: soft * 2, jitter: Duration::ZERO };
}

/// Up, and all that follows at once.
fn up(sides: (Side, Side)) -> Pair {
    let mut pair = Pair::new(sides);
    let request = pair.up();
    pair.settle();
    assert_eq!(pair.a.done.get(&request), Some(&Ok(())));
    pair
}

/// Whose the SAs are, in order.
fn resources(peer: &Peer) -> Vec<Option<u16>> {
    let mut all: Vec<Option<u16>> = peer.installed.values().map(|child| child.resource).collect();
    all.sort_unstable();
    all
}

fn first_and(own: &[u16]) -> Vec<Option<u16>> {
    [None].into_iter().chain(own.iter().copied().map(Some)).collect()
}

fn of(peer: &Peer, resource: Option<u16>) -> ChildHandle {
    peer.installed.values().find(|child| child.resource == resource).unwrap().handle
}

/// CREATE_CHILD_SA requests so far.
fn asked(pair: &Pair) -> usize {
    pair.sent.iter().filter(|packet| packet.is(ExchangeType::CREATE_CHILD_SA, false)).count()
}

/// The SA_RESOURCE_INFO of all messages of an exchange.
fn infos(pair: &Pair, exchange: ExchangeType) -> Vec<Notify> {
    let packets = pair.sent.iter().filter(|packet| packet.header().exchange == exchange);
    let payloads = packets.flat_map(|packet| pair.open(packet));
    let info = |payload| match payload {
        Payload::Notify(notify) if notify.notify_type == NotifyType::SA_RESOURCE_INFO => Some(notify),
        _ => None,
    };
    payloads.filter_map(info).collect()
}

/// One IKE SA's messages of one direction, altered in flight.
fn altered(pair: &mut Pair, response: bool, mut alter: impl FnMut(&mut Vec<Payload>) + 'static) {
    let (keys, mut iv) = (pair.b.keys.pop().unwrap(), 1 << 40);
    pair.link = Box::new(move |_, packet| {
        let before = packet.header();
        if !packet.is(ExchangeType::CREATE_CHILD_SA, response) {
            return Fate::Deliver;
        }
        let mut payloads = open(&keys, packet);
        alter(&mut payloads);
        iv += 1;
        let h = header(&keys, before.exchange, before.flags.initiator, response, before.message_id);
        Fate::Replace(vec![Packet { datagram: seal(&keys, &h, &payloads, iv), ..packet.clone() }])
    });
}

/// RFC 9611 3: the notify comes with the first SA, both ways, and with each further one; the further ones are like the first,
/// with keys and SPIs of their own. A peer's packets arrive where they are wanted: the SPI tells whose they are.
#[test]
fn one_for_each_worker_of_both_sides() {
    for esp in ["aes256gcm16-noesn", "aes256gcm16-x25519-noesn", "aes256gcm16-x25519-ke1_mlkem768-noesn"] {
        let (mut a, mut b) = with(Some((3, 16)), Some((3, 16)));
        for side in [&mut a, &mut b] {
            side.connection().children[0].proposals = proposal::parse_esp(esp).unwrap();
        }
        let mut pair = up((a, b));
        pair.assert_children(4);
        for peer in [&pair.a, &pair.b] {
            assert_eq!(resources(peer), first_and(&[0, 1, 2]));
            for child in peer.installed.values() {
                assert!(child.active);
                if let Some(own) = child.resource {
                    assert_eq!(child.inbound_spi.0 % 64 % 3, u32::from(own));
                }
            }
            assert_eq!(peer.events.iter().filter(|event| *event == "child-up net").count(), 4);
        }
        let first = infos(&pair, ExchangeType::IKE_AUTH);
        let further = infos(&pair, ExchangeType::CREATE_CHILD_SA);
        assert_eq!((first.len(), further.len()), (2, 6));
        for info in first.iter().chain(&further) {
            assert_eq!((info.protocol, info.spi.len()), (ProtocolId::NONE, 0));
        }
        let data: std::collections::HashSet<&[u8]> =
            further.iter().map(|info| info.data.as_slice()).collect();
        assert_eq!(data.len(), 6, "each is another");
        let view = pair.a.gateway.ike_sas().next().unwrap();
        assert_eq!(view.children.iter().filter_map(|child| child.resource).sum::<u16>(), 3);
        // Nobody lacks anything.
        let before = asked(&pair);
        pair.run(Duration::from_secs(600));
        assert_eq!(asked(&pair), before);
        pair.assert_children(4);
    }
}

/// A side with one worker has nothing to ask for, and takes what the other asks for.
#[test]
fn the_side_with_more_workers_asks_for_its_own() {
    let mut pair = up(with(Some((2, 16)), Some((4, 16))));
    pair.assert_children(3);
    pair.run(Duration::from_secs(6));
    pair.assert_children(5);
    assert_eq!(resources(&pair.a), first_and(&[0, 0, 1, 1]));
    assert_eq!(resources(&pair.b), first_and(&[0, 1, 2, 3]));

    let mut pair = up(with(Some((1, 16)), Some((2, 16))));
    pair.assert_children(1);
    pair.run(Duration::from_secs(6));
    pair.assert_children(3);
    assert_eq!((resources(&pair.a), resources(&pair.b)), (first_and(&[0, 0]), first_and(&[0, 1])));

    let mut pair = up(with(Some((1, 16)), Some((1, 16))));
    pair.run(Duration::from_secs(60));
    pair.assert_children(1);
    assert_eq!(asked(&pair), 0);
}

/// RFC 9611 3: TS_MAX_QUEUE ends the asking and nothing else; it is tried again with the next first SA.
#[test]
fn a_peer_that_has_enough_says_so_once() {
    let (mut a, b) = with(Some((5, 16)), Some((1, 2)));
    soft(&mut a, 3600);
    let mut pair = up((a, b));
    assert_eq!((resources(&pair.a), resources(&pair.b)), (first_and(&[0, 1]), first_and(&[0, 0])));
    assert_eq!(asked(&pair), 3);
    let refused = pair.sent.iter().rfind(|packet| packet.is(ExchangeType::CREATE_CHILD_SA, true)).unwrap();
    let notify = |payload: &Payload| matches!(payload, Payload::Notify(n) if n.notify_type.0 == 48 && n.data.is_empty());
    assert!(matches!(&pair.open(refused)[..], [one] if notify(one)));
    let record = pair.a.records.last().unwrap();
    assert!(record.is_success() && record.message.contains("TS_MAX_QUEUE"), "{}", record.message);
    pair.run(Duration::from_secs(3500));
    assert_eq!(asked(&pair), 3);
    pair.assert_children(3);
    pair.run(Duration::from_secs(110));
    assert_eq!(asked(&pair), 7, "three successors, and one more that is refused");
    pair.assert_children(3);
    assert!(!pair.a.events.iter().any(|event| event.starts_with("child-down")), "{:?}", pair.a.events);
}

/// Who is not asked to, or does not know of it, gets and makes one SA.
#[test]
fn both_sides_have_to_want_it() {
    for (a, b) in [(Some((4, 16)), None), (None, Some((4, 16)))] {
        let mut pair = up(with(a, b));
        pair.run(Duration::from_secs(60));
        pair.assert_children(1);
        assert_eq!((asked(&pair), resources(&pair.a)), (0, first_and(&[])));
    }
}

/// The successor of each has its place, whoever asks for it, and the notify is there when we do.
#[test]
fn rekeying_keeps_whose_it_is() {
    for initiator in [true, false] {
        let (mut a, mut b) = with(Some((3, 16)), Some((3, 16)));
        soft(if initiator { &mut a } else { &mut b }, 60);
        let mut pair = up((a, b));
        for _ in 0..3 {
            let place = |peer: &Peer| -> Vec<(Option<u16>, u32)> {
                let mut all: Vec<_> =
                    peer.installed.values().map(|child| (child.resource, child.inbound_spi.0 % 64)).collect();
                all.sort_unstable();
                all
            };
            let (before, old) =
                ((place(&pair.a), place(&pair.b)), pair.a.installed.keys().copied().collect::<Vec<_>>());
            let sent = pair.sent.len();
            pair.run(Duration::from_secs(66));
            pair.assert_children(4);
            assert_eq!((place(&pair.a), place(&pair.b)), before);
            assert!(old.iter().all(|old| !pair.a.installed.contains_key(old)));
            let requests =
                pair.sent[sent..].iter().filter(|packet| packet.is(ExchangeType::CREATE_CHILD_SA, false));
            let said: Vec<Vec<NotifyType>> = requests.map(|packet| notifies(&pair.open(packet))).collect();
            assert_eq!(said.len(), 4);
            for said in said {
                assert!(said.contains(&NotifyType::REKEY_SA) && said.contains(&NotifyType::SA_RESOURCE_INFO));
            }
        }
    }
}

/// RFC 9611 3: the notify may be left out of a rekeying.
#[test]
fn a_peer_that_rekeys_without_the_notify_keeps_whose_it_is() {
    let (mut a, b) = with(Some((2, 16)), Some((2, 16)));
    soft(&mut a, 60);
    let mut pair = up((a, b));
    altered(&mut pair, false, |payloads| {
        payloads
            .retain(|p| !matches!(p, Payload::Notify(n) if n.notify_type == NotifyType::SA_RESOURCE_INFO));
    });
    pair.run(Duration::from_secs(66));
    assert_eq!((resources(&pair.a), resources(&pair.b)), (first_and(&[0, 1]), first_and(&[0, 1])));
}

/// The IKE SA's successor takes all of them.
#[test]
fn they_survive_the_ike_sa() {
    let (mut a, b) = with(Some((2, 16)), Some((2, 16)));
    let soft = Duration::from_secs(60);
    a.connection().rekey = Lifetime { soft, hard: soft * 2, jitter: Duration::ZERO };
    let mut pair = up((a, b));
    pair.run(Duration::from_secs(600));
    assert_eq!((resources(&pair.a), resources(&pair.b)), (first_and(&[0, 1]), first_and(&[0, 1])));
    assert_eq!(pair.a.gateway.ike_sas().next().unwrap().children.len(), 3);
}

/// One that is deleted leaves the others alone, the first one too, and is not asked for at once again.
#[test]
fn one_that_goes_takes_no_other_with_it() {
    for (from_a, which) in [(true, Some(0)), (false, Some(1)), (true, None), (false, None)] {
        let (mut a, b) = with(Some((2, 16)), Some((2, 16)));
        soft(&mut a, 3600);
        let mut pair = up((a, b));
        pair.run(Duration::from_secs(10));
        let now = pair.now;
        let peer = if from_a { &mut pair.a } else { &mut pair.b };
        let target = TerminateTarget { child_handle: Some(of(peer, which)), ..TerminateTarget::default() };
        let request = peer.next_request();
        peer.gateway.terminate(now, &target, request).unwrap();
        pair.run(Duration::from_secs(1800));
        pair.assert_children(2);
        let left: Vec<Option<u16>> =
            [None, Some(0), Some(1)].into_iter().filter(|one| *one != which).collect();
        assert_eq!(resources(if from_a { &pair.a } else { &pair.b }), left);
        assert_eq!(pair.a.gateway.ike_sas().count(), 1);
        if which.is_some() {
            pair.run(Duration::from_secs(1900));
            assert_eq!(resources(&pair.a), first_and(&[0, 1]), "with the next first one it is");
        } else {
            // Whoever wants the child gets a first one.
            pair.up_child("net");
            pair.run(Duration::from_secs(1));
            assert_eq!(resources(&pair.a), first_and(&[0, 1]));
        }
    }
}

/// What goes for no wish of anybody is asked for again, once and after a pause; what a peer deletes, if its closing is answered
/// by a new start.
#[test]
fn one_that_is_missed_comes_again() {
    type Loss = fn(&mut Peer, std::time::Instant, ChildHandle);
    let losses: [(Loss, Action, bool); 4] = [
        (|a, now, own| a.gateway.child_failed(now, own, "the data plane refuses"), Action::None, true),
        (|a, now, own| a.gateway.child_expired(now, own), Action::None, true),
        (|b, now, own| deleted(b, now, own), Action::Start, true),
        (|b, now, own| deleted(b, now, own), Action::None, false),
    ];
    for (number, (lose, on_close, again)) in losses.into_iter().enumerate() {
        let (mut a, b) = with(Some((3, 16)), Some((1, 16)));
        a.connection().children[0].on_close = on_close;
        let mut pair = up((a, b));
        pair.run(Duration::from_secs(100));
        let (now, before) = (pair.now, asked(&pair));
        let at_a = of(&pair.a, Some(1));
        if number < 2 {
            lose(&mut pair.a, now, at_a);
        } else {
            let spi = pair.a.installed[&at_a].inbound_spi;
            let at_b = pair.b.installed.values().find(|child| child.outbound_spi == spi).unwrap().handle;
            lose(&mut pair.b, now, at_b);
        }
        pair.run(Duration::from_secs(4));
        assert_eq!((resources(&pair.a), asked(&pair)), (first_and(&[0, 2]), before), "{number}");
        pair.run(Duration::from_secs(600));
        let (own, more) = if again { (&[0, 1, 2][..], 1) } else { (&[0, 2][..], 0) };
        assert_eq!((resources(&pair.a), asked(&pair)), (first_and(own), before + more), "{number}");
        pair.assert_children(own.len() + 1);
    }
}

fn deleted(peer: &mut Peer, now: std::time::Instant, child: ChildHandle) {
    let target = TerminateTarget { child_handle: Some(child), ..TerminateTarget::default() };
    let request = peer.next_request();
    peer.gateway.terminate(now, &target, request).unwrap();
}

/// What the data plane refuses each time is not asked for more than once a minute.
#[test]
fn what_is_refused_each_time_is_not_asked_for_often() {
    let mut pair = up(with(Some((2, 16)), Some((1, 16))));
    let before = asked(&pair);
    for _ in 0..600 {
        let now = pair.now;
        if let Some(own) = pair.a.installed.values().find(|child| child.resource == Some(1)) {
            let own = own.handle;
            pair.a.gateway.child_failed(now, own, "the data plane refuses");
        }
        pair.run(Duration::from_secs(1));
    }
    assert!((8..=10).contains(&(asked(&pair) - before)), "{}", asked(&pair) - before);
}

/// Whenever an operator ends the child, all of it goes; nothing comes up behind.
#[test]
fn the_end_of_a_child_is_the_end_of_all() {
    for step in 0..12 {
        for from_a in [true, false] {
            let mut pair = Pair::new(with(Some((3, 16)), Some((3, 16))));
            pair.up();
            pair.run(DELAY * step);
            let now = pair.now;
            let peer = if from_a { &mut pair.a } else { &mut pair.b };
            let target = TerminateTarget { child: Some("net".to_owned()), ..TerminateTarget::default() };
            let request = peer.next_request();
            if peer.gateway.terminate(now, &target, request).is_err() {
                assert!(step < 5, "there is none yet");
                continue;
            }
            pair.run(Duration::from_secs(60));
            if from_a {
                pair.assert_children(0);
            } else {
                // What A asks for meanwhile is a new wish of A's, at most the one that was on its way.
                assert!(pair.b.installed.len() <= 1, "{step}: {:?}", pair.b.events);
                assert_eq!(pair.a.installed.len(), pair.b.installed.len());
            }
        }
    }
}

/// Both ask at once, as the requests of one side are late: each gets what it asks for, within the limits.
#[test]
fn both_sides_ask_at_once() {
    for late in [5_010, 5_200, 6_400] {
        let mut pair = Pair::new(with(Some((3, 6)), Some((3, 6))));
        let start = std::rc::Rc::new(std::cell::Cell::new(false));
        let lost = std::rc::Rc::clone(&start);
        pair.link = Box::new(move |_, packet| {
            let from_a = packet.source.ip() == ip(A);
            let is = packet.is(ExchangeType::CREATE_CHILD_SA, false);
            if is && from_a && !lost.get() { Fate::Lose } else { Fate::Deliver }
        });
        pair.up();
        pair.run(Duration::from_millis(late));
        start.set(true);
        pair.run(Duration::from_secs(60));
        let (a, b) = (resources(&pair.a), resources(&pair.b));
        assert_eq!(a.len(), b.len());
        assert!((4..=7).contains(&a.len()), "{a:?}");
        for all in [a, b] {
            assert!((0..3).all(|own| all.contains(&Some(own))) && all.contains(&None), "{all:?}");
        }
        pair.assert_children(pair.a.installed.len());
    }
}

/// The data is for logs, protocol and SPI are to be ignored, and twenty notifies say what one says (RFC 9611 5.1).
#[test]
fn whatever_is_in_the_notify() {
    for data in [0, 1, 3, 5, 1000] {
        let mut pair = Pair::new(with(Some((3, 16)), Some((3, 16))));
        pair.up();
        // Until the first is up, and the next is on its way.
        while pair.b.keys.is_empty() || pair.a.installed.is_empty() {
            pair.run(DELAY);
        }
        altered(&mut pair, false, move |payloads| {
            let odd = Notify {
                protocol: ProtocolId::ESP,
                spi: vec![7; 4],
                ..Notify::new(NotifyType::SA_RESOURCE_INFO, vec![0xff; data])
            };
            payloads.retain(|p| !matches!(p, Payload::Notify(_)));
            payloads.extend(std::iter::repeat_n(Payload::Notify(odd), 20));
        });
        pair.run(Duration::from_secs(4));
        assert_eq!((resources(&pair.a), resources(&pair.b)), (first_and(&[0, 1, 2]), first_and(&[0, 1, 2])));
    }
}

/// RFC 9611 3: algorithms are those of the first. What is answered otherwise is deleted, and the first goes on.
#[test]
fn an_answer_that_differs_from_the_first_is_deleted() {
    let (mut a, mut b) = with(Some((2, 16)), Some((1, 16)));
    for side in [&mut a, &mut b] {
        side.connection().children[0].proposals =
            proposal::parse_esp("aes256gcm16-noesn,aes128gcm16-noesn").unwrap();
    }
    let mut pair = Pair::new((a, b));
    pair.up();
    while pair.b.keys.is_empty() || pair.a.installed.is_empty() {
        pair.run(DELAY);
    }
    let offered = proposal::parse_esp("aes256gcm16-noesn,aes128gcm16-noesn").unwrap();
    altered(&mut pair, true, move |payloads| {
        for payload in payloads {
            if let Payload::SecurityAssociation(sa) = payload {
                let spi = sa.proposals[0].spi.clone();
                sa.proposals = vec![offered[1].clone()];
                sa.proposals[0].spi = spi;
            }
        }
    });
    pair.run(Duration::from_secs(60));
    pair.assert_children(1);
    assert_eq!(pair.a.failure().code, OutcomeCode::InvalidSyntax);
    assert_eq!(asked(&pair), 1);
}
