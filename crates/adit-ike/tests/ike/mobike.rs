//! MOBIKE (RFC 4555), both roles.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use adit_ike::{DownReason, IkeKeyLog, TerminateTarget};
use adit_wire::ikev2::{ExchangeType, Notify, NotifyType, Payload};

use crate::pair::{A, B, Fate, Packet, Pair, Side, at, header, ip, notifies, notify, seal, sides};

const ELSEWHERE: &str = "198.51.100.20";
const VICTIM: &str = "203.0.113.66";

fn mobile() -> (Side, Side) {
    let (mut a, mut b) = sides();
    a.connection().local_addrs = Vec::new();
    b.connection().remote_addrs = Vec::new();
    for side in [&mut a, &mut b] {
        side.connection().mobike = true;
    }
    (a, b)
}

fn up(sides: (Side, Side)) -> Pair {
    let mut pair = Pair::new(sides);
    pair.homes_a.push(ip(ELSEWHERE));
    pair.homes_b.push(ip("192.0.2.22"));
    let request = pair.a.next_request();
    let target = adit_ike::Target {
        connection: Some("to-b".to_owned()),
        local: Some(ip(A)),
        ..adit_ike::Target::default()
    };
    pair.a.gateway.initiate(pair.now, &target, request).unwrap();
    pair.settle();
    assert_eq!(pair.a.done.get(&request), Some(&Ok(())), "{:?} {:?}", pair.a.events, pair.b.events);
    pair.assert_children(1);
    pair
}

/// The daemon of `a` (of `b`) says that the peer is reached from there now.
fn roam(pair: &mut Pair, local: &str) {
    let handle = pair.a.gateway.ike_sas().next().unwrap().handle;
    pair.a.gateway.path_changed(pair.now, handle, Some(ip(local)));
}

fn roam_b(pair: &mut Pair, local: &str) {
    let handle = pair.b.gateway.ike_sas().next().unwrap().handle;
    pair.b.gateway.path_changed(pair.now, handle, Some(ip(local)));
}

/// Where ESP goes: our side and the peer's, of the only child.
fn esp(peer: &crate::pair::Peer) -> (IpAddr, IpAddr) {
    let child = peer.installed.values().next().unwrap();
    (child.local, child.remote)
}

fn ike(peer: &crate::pair::Peer) -> (SocketAddr, SocketAddr) {
    let sa = peer.gateway.ike_sas().next().unwrap();
    (sa.local, sa.remote)
}

/// What INFORMATIONAL requests and responses carried since.
fn informational(pair: &Pair, since: usize) -> Vec<(bool, Vec<NotifyType>)> {
    let opened = |p: &Packet| (p.header().flags.response, notifies(&pair.open(p)));
    let about = |p: &&Packet| p.header().exchange == ExchangeType::INFORMATIONAL;
    pair.sent[since..].iter().filter(about).map(opened).collect()
}

#[test]
fn it_is_agreed_on_and_floats() {
    for (a, b) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut sides = mobile();
        sides.0.connection().mobike = a;
        sides.1.connection().mobike = b;
        let pair = up(sides);
        let request = pair.sent.iter().find(|p| p.is(ExchangeType::IKE_AUTH, false)).unwrap();
        let response = pair.sent.iter().find(|p| p.is(ExchangeType::IKE_AUTH, true)).unwrap();
        let says = |p: &Packet| notifies(&pair.open(p)).contains(&NotifyType::MOBIKE_SUPPORTED);
        assert_eq!((says(request), says(response)), (a, a && b));
        for peer in [&pair.a, &pair.b] {
            assert_eq!(peer.gateway.ike_sas().next().unwrap().mobike, a && b);
        }
        // RFC 4555 3.3: to the ports of NAT traversal, though there is no NAT and ESP needs no UDP.
        assert_eq!(request.source.port(), if a { 4500 } else { 500 });
        assert_eq!(request.destination.port(), if a { 4500 } else { 500 });
        assert_eq!(pair.a.installed.values().next().unwrap().encap, None);
    }
}

#[test]
fn the_initiator_roams() {
    let mut pair = up(mobile());
    let before = pair.sent.len();
    roam(&mut pair, ELSEWHERE);
    pair.collect();
    assert_eq!(esp(&pair.a), (ip(ELSEWHERE), ip(B)), "we know our own address");
    assert_eq!(esp(&pair.b), (ip(B), ip(A)));
    pair.settle();
    assert_eq!(ike(&pair.a), (at(ELSEWHERE, 4500), at(B, 4500)));
    assert_eq!(ike(&pair.b), (at(B, 4500), at(ELSEWHERE, 4500)));
    assert_eq!(esp(&pair.b), (ip(B), ip(ELSEWHERE)));
    use NotifyType as N;
    assert_eq!(
        informational(&pair, before),
        [
            (
                false,
                vec![N::UPDATE_SA_ADDRESSES, N::NAT_DETECTION_SOURCE_IP, N::NAT_DETECTION_DESTINATION_IP]
            ),
            (true, vec![N::NAT_DETECTION_SOURCE_IP, N::NAT_DETECTION_DESTINATION_IP]),
            (false, vec![N::COOKIE2]),
            (true, vec![N::COOKIE2]),
        ]
    );
    pair.assert_children(1);
    // And back, and on.
    for address in [A, ELSEWHERE, A] {
        roam(&mut pair, address);
        pair.settle();
        assert_eq!((esp(&pair.a), esp(&pair.b)), ((ip(address), ip(B)), (ip(B), ip(address))));
    }
    let before = pair.sent.len();
    roam(&mut pair, A);
    pair.settle();
    assert_eq!(pair.sent.len(), before, "no change, no word");
}

/// RFC 4555 3.7: ESP goes nowhere before the peer has shown that it is there.
#[test]
fn esp_waits_for_the_return_routability_check() {
    let mut pair = up(mobile());
    let proof = |p: &Packet| p.source.ip() == ip(B) && p.is(ExchangeType::INFORMATIONAL, false);
    pair.link = Box::new(move |_, p| if proof(p) { Fate::Lose } else { Fate::Deliver });
    roam(&mut pair, ELSEWHERE);
    pair.run(Duration::from_secs(20));
    assert_eq!(ike(&pair.b).1, at(ELSEWHERE, 4500));
    assert_eq!(esp(&pair.b), (ip(B), ip(A)), "no proof yet");
    pair.link = Box::new(|_, _| Fate::Deliver);
    pair.run(Duration::from_secs(20));
    assert_eq!(esp(&pair.b), (ip(B), ip(ELSEWHERE)));
}

/// Somebody on the path makes the update seem to come from a victim. IKE asks there, ESP never goes there, and the
/// next sign of the peer repairs it.
#[test]
fn adversarial_59_esp_is_not_turned_on_a_victim() {
    let mut pair = up(mobile());
    pair.link = Box::new(|_, p| {
        let update = p.source.ip() == ip(ELSEWHERE) && p.is(ExchangeType::INFORMATIONAL, false);
        if update {
            Fate::Replace(vec![Packet { source: at(VICTIM, 4500), ..p.clone() }])
        } else {
            Fate::Deliver
        }
    });
    roam(&mut pair, ELSEWHERE);
    pair.run(Duration::from_secs(10));
    assert_eq!(ike(&pair.b).1, at(VICTIM, 4500));
    assert_eq!(esp(&pair.b), (ip(B), ip(A)));
    let to_victim: Vec<_> = pair.sent.iter().filter(|p| p.destination.ip() == ip(VICTIM)).collect();
    // Five times each in ten seconds: the response to the update, and the question.
    assert!(!to_victim.is_empty() && to_victim.len() <= 10, "{}", to_victim.len());
    pair.link = Box::new(|_, _| Fate::Deliver);
    roam(&mut pair, A);
    pair.run(Duration::from_secs(30));
    assert_eq!((esp(&pair.a), esp(&pair.b)), ((ip(A), ip(B)), (ip(B), ip(A))));
    pair.assert_children(1);
}

/// The same with all that `a` has ever sent, word for word, its updates among it, and with ESP: the data plane says that fresh packets
/// come from the victim, as they do when somebody on the path changes where they are from.
#[test]
fn adversarial_59_what_is_replayed_or_comes_by_another_way_moves_nobody() {
    let mut pair = up(mobile());
    roam(&mut pair, ELSEWHERE);
    pair.run(Duration::from_secs(10));
    let there = (at(B, 4500), at(ELSEWHERE, 4500));
    assert_eq!((ike(&pair.b), esp(&pair.b)), (there, (ip(B), ip(ELSEWHERE))));
    let from_a: Vec<Packet> = pair.sent.iter().filter(|p| p.source.ip() != ip(B)).cloned().collect();
    assert!(from_a.len() >= 3, "two requests, and an update");
    for packet in from_a {
        let before = pair.sent.len();
        let victim = at(VICTIM, packet.source.port());
        pair.deliver(&Packet { source: victim, ..packet.clone() });
        let answers: Vec<usize> = pair.sent[before..].iter().map(|p| p.datagram.len()).collect();
        assert!(answers.len() <= 1, "{answers:?}");
    }
    let before = pair.sent.len();
    let child = *pair.b.installed.keys().next().unwrap();
    for _ in 0..10 {
        pair.b.gateway.child_moved(pair.now, child, at(B, 4500), at(VICTIM, 4500));
        pair.run(Duration::from_secs(1));
    }
    pair.run(Duration::from_secs(60));
    assert!(pair.sent[before..].iter().all(|p| p.destination.ip() != ip(VICTIM)));
    assert_eq!((ike(&pair.b), esp(&pair.b)), (there, (ip(B), ip(ELSEWHERE))));
    pair.assert_children(1);
}

#[test]
fn requests_that_are_out_go_on_from_the_new_address() {
    let mut pair = up(mobile());
    pair.link = Box::new(|_, p| {
        if [p.source.ip(), p.destination.ip()].contains(&ip(A)) { Fate::Lose } else { Fate::Deliver }
    });
    let down = pair.down(&TerminateTarget { child: Some("net".to_owned()), ..Default::default() });
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.a.done.get(&down), None);
    let before = pair.sent.len();
    roam(&mut pair, ELSEWHERE);
    pair.run(Duration::from_millis(200));
    assert_eq!(pair.a.done.get(&down), Some(&Ok(())));
    assert_eq!(pair.sent[before].source, at(ELSEWHERE, 4500));
    assert_eq!(pair.sent[before].datagram, pair.sent[before - 1].datagram, "the same request");
    assert_eq!(ike(&pair.b).1, at(ELSEWHERE, 4500), "and then the update");
}

/// Two changes in a row: the answer to the first update says nothing about the second address.
#[test]
fn the_last_change_counts() {
    let mut pair = up(mobile());
    pair.homes_a.push(ip("198.51.100.30"));
    roam(&mut pair, ELSEWHERE);
    pair.collect();
    roam(&mut pair, "198.51.100.30");
    pair.settle();
    pair.run(Duration::from_secs(10));
    assert_eq!((esp(&pair.a), esp(&pair.b)), ((ip("198.51.100.30"), ip(B)), (ip(B), ip("198.51.100.30"))));
}

/// Whoever began the first IKE SA decides, whoever made its successor (RFC 4555 1.3).
#[test]
fn a_rekeyed_ike_sa_moves_too() {
    for by_responder in [false, true] {
        let mut pair = up(mobile());
        let peer = if by_responder { &mut pair.b } else { &mut pair.a };
        let handle = peer.gateway.ike_sas().next().unwrap().handle;
        let target = TerminateTarget { ike_sa: Some(handle), ..Default::default() };
        let request = peer.next_request();
        peer.gateway.rekey(pair.now, &target, request).unwrap();
        pair.run(Duration::from_secs(10));
        assert_eq!(pair.a.gateway.ike_sas().next().unwrap().initiator, !by_responder, "rekeyed");
        roam(&mut pair, ELSEWHERE);
        pair.run(Duration::from_secs(10));
        assert_eq!((esp(&pair.a), esp(&pair.b)), ((ip(ELSEWHERE), ip(B)), (ip(B), ip(ELSEWHERE))));
        pair.assert_children(1);
    }
}

/// The responder's only address changes (RFC 4555 3.6): it says so, and the initiator decides.
#[test]
fn the_responder_roams() {
    let mut sides = mobile();
    sides.1.connection().local_addrs = Vec::new();
    sides
        .0
        .connection()
        .remote_addrs
        .push(adit_ike::config::AddressSpec { first: ip("192.0.2.20"), last: ip("192.0.2.30") });
    let mut pair = up(sides);
    roam_b(&mut pair, "192.0.2.22");
    pair.settle();
    assert_eq!((esp(&pair.a), esp(&pair.b)), ((ip(A), ip("192.0.2.22")), (ip("192.0.2.22"), ip(A))));
    assert_eq!(ike(&pair.a), (at(A, 4500), at("192.0.2.22", 4500)));
    pair.assert_children(1);
    // To where the initiator may not go, it does not go.
    pair.homes_b.push(ip("192.0.2.99"));
    roam_b(&mut pair, "192.0.2.99");
    pair.settle();
    assert_eq!(ike(&pair.a), (at(A, 4500), at("192.0.2.22", 4500)));
}

/// A request of `a`, made by hand; what `b` answers. From where it comes is for the test to say.
fn ask(
    pair: &mut Pair,
    keys: &IkeKeyLog,
    source: SocketAddr,
    id: u32,
    payloads: &[Payload],
) -> Vec<NotifyType> {
    let header = header(keys, ExchangeType::INFORMATIONAL, true, false, id);
    let datagram = seal(keys, &header, payloads, (1 << 40) + u64::from(id));
    let before = pair.sent.len();
    pair.deliver(&Packet { source, destination: at(B, 4500), datagram });
    let response = pair.sent[before..].iter().find(|p| p.header().flags.response).unwrap();
    assert_eq!(response.destination, source, "RFC 4555 3.9: to where the request came from");
    notifies(&crate::pair::open(keys, response))
}

fn no_nats(source: SocketAddr, destination: SocketAddr) -> Payload {
    let octets = |a: IpAddr| match a {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    let data = [octets(source.ip()), octets(destination.ip()), ports].concat();
    Payload::Notify(Notify::new(NotifyType::NO_NATS_ALLOWED, data))
}

#[test]
fn updates_are_obeyed_only_if_all_is_in_order() {
    let mut sides = mobile();
    sides.1.connection().remote_addrs =
        vec![adit_ike::config::AddressSpec { first: ip("192.0.2.0"), last: ip("198.51.100.255") }];
    let mut pair = up(sides);
    let keys = pair.b.keys.pop().unwrap();
    let update = notify(NotifyType::UPDATE_SA_ADDRESSES);
    let stays = |pair: &Pair| assert_eq!((ike(&pair.b).1, esp(&pair.b).1), (at(A, 4500), ip(A)));
    // From elsewhere without the word nothing happens.
    assert_eq!(ask(&mut pair, &keys, at(ELSEWHERE, 4500), 2, &[]), []);
    stays(&pair);
    let answer = ask(&mut pair, &keys, at(VICTIM, 4500), 3, std::slice::from_ref(&update));
    assert_eq!(answer, [NotifyType::UNACCEPTABLE_ADDRESSES], "outside of remote_addrs");
    stays(&pair);
    let changed = [update.clone(), no_nats(at(A, 4500), at(B, 4500))];
    let answer = ask(&mut pair, &keys, at(ELSEWHERE, 4500), 4, &changed);
    assert_eq!(answer, [NotifyType::UNEXPECTED_NAT_DETECTED]);
    stays(&pair);
    let cookie = Payload::Notify(Notify::new(NotifyType::COOKIE2, vec![7; 20]));
    assert_eq!(ask(&mut pair, &keys, at(A, 4500), 5, &[cookie]), [NotifyType::COOKIE2]);
    let unchanged = [update, no_nats(at(ELSEWHERE, 4500), at(B, 4500))];
    assert_eq!(ask(&mut pair, &keys, at(ELSEWHERE, 4500), 6, &unchanged), []);
    assert_eq!(ike(&pair.b).1, at(ELSEWHERE, 4500));
}

#[test]
fn a_wrong_cookie2_ends_the_ike_sa() {
    let mut pair = up(mobile());
    let keys = pair.b.keys.pop().unwrap();
    let update = notify(NotifyType::UPDATE_SA_ADDRESSES);
    pair.homes_a.clear();
    assert_eq!(ask(&mut pair, &keys, at(ELSEWHERE, 4500), 2, &[update]), []);
    let question = pair.sent.last().unwrap().clone();
    assert_eq!((question.destination, question.header().flags.response), (at(ELSEWHERE, 4500), false));
    let header = header(&keys, ExchangeType::INFORMATIONAL, true, true, question.header().message_id);
    let other = Payload::Notify(Notify::new(NotifyType::COOKIE2, vec![7; 16]));
    let datagram = seal(&keys, &header, &[other], 1 << 50);
    pair.deliver(&Packet { source: at(ELSEWHERE, 4500), destination: at(B, 4500), datagram });
    assert_eq!(pair.b.down, [DownReason::Failed]);
    assert!(pair.b.installed.is_empty());
}

#[test]
fn whoever_did_not_agree_updates_nothing() {
    let mut sides = mobile();
    sides.1.connection().mobike = false;
    let mut pair = up(sides);
    let keys = pair.b.keys.pop().unwrap();
    let update = notify(NotifyType::UPDATE_SA_ADDRESSES);
    let cookie = Payload::Notify(Notify::new(NotifyType::COOKIE2, vec![7; 20]));
    assert_eq!(ask(&mut pair, &keys, at(ELSEWHERE, 4500), 2, &[update, cookie]), []);
    assert_eq!((ike(&pair.b).1, esp(&pair.b).1), (at(A, 4500), ip(A)));
}

/// A responder has no say about the addresses of the initiator.
#[test]
fn an_update_of_the_responder_is_ignored() {
    let mut pair = up(mobile());
    let keys = pair.b.keys.pop().unwrap();
    let header = header(&keys, ExchangeType::INFORMATIONAL, false, false, 0);
    let datagram = seal(&keys, &header, &[notify(NotifyType::UPDATE_SA_ADDRESSES)], 1 << 40);
    pair.deliver(&Packet { source: at("192.0.2.22", 4500), destination: at(A, 4500), datagram });
    assert_eq!((ike(&pair.a).1, esp(&pair.a).1), (at(B, 4500), ip(B)));
}

const OUTSIDE: &str = "198.51.100.7";

/// `a` is behind a NAT that shows its port 4500 as this.
fn mapping(pair: &mut Pair, natt: u16) {
    pair.link = Box::new(move |_, p| {
        let mut packet = p.clone();
        if [ip(A), ip(ELSEWHERE)].contains(&p.source.ip()) {
            packet.source = at(OUTSIDE, if p.source.port() == 500 { 500 } else { natt });
        } else if [500, natt].contains(&p.destination.port()) {
            packet.destination = at(A, if p.destination.port() == 500 { 500 } else { 4500 });
        } else {
            return Fate::Lose;
        }
        Fate::Replace(vec![packet])
    });
}

/// RFC 4555 3.8: the responder follows nothing but an update, which a liveness check brings about.
#[test]
fn another_mapping_is_noticed_by_a_liveness_check() {
    let mut sides = mobile();
    sides.0.connection().dpd_delay = Duration::from_secs(20);
    let mut pair = Pair::new(sides);
    mapping(&mut pair, 14_500);
    let request = pair.a.next_request();
    let target = adit_ike::Target {
        connection: Some("to-b".to_owned()),
        local: Some(ip(A)),
        ..adit_ike::Target::default()
    };
    pair.a.gateway.initiate(pair.now, &target, request).unwrap();
    pair.run(Duration::from_secs(50));
    let encap = |pair: &Pair| pair.b.installed.values().next().unwrap().encap.unwrap().1;
    assert_eq!((ike(&pair.b).1, encap(&pair)), (at(OUTSIDE, 14_500), 14_500));
    assert!(pair.a.gateway.ike_sas().next().unwrap().nat_local);
    mapping(&mut pair, 24_500);
    let child = *pair.b.installed.keys().next().unwrap();
    pair.b.gateway.child_moved(pair.now, child, at(B, 4500), at(OUTSIDE, 24_500));
    pair.collect();
    assert_eq!(ike(&pair.b).1, at(OUTSIDE, 14_500), "no implicit update");
    pair.run(Duration::from_secs(30));
    assert_eq!((ike(&pair.b).1, encap(&pair)), (at(OUTSIDE, 24_500), 24_500));
    pair.assert_installed(1);
}

/// From behind a NAT to where there is none, and back: UDP encapsulation goes and comes.
#[test]
fn encapsulation_follows_the_nat() {
    let mut pair = up(mobile());
    mapping(&mut pair, 14_500);
    roam(&mut pair, ELSEWHERE);
    pair.run(Duration::from_secs(5));
    let encap = |peer: &crate::pair::Peer| peer.installed.values().next().unwrap().encap;
    assert_eq!((encap(&pair.a), encap(&pair.b)), (Some((4500, 4500)), Some((4500, 14_500))));
    assert_eq!(esp(&pair.b), (ip(B), ip(OUTSIDE)));
    pair.link = Box::new(|_, _| Fate::Deliver);
    roam(&mut pair, A);
    pair.run(Duration::from_secs(5));
    assert_eq!((encap(&pair.a), encap(&pair.b)), (None, None));
    pair.assert_children(1);
}
