//! Whoever sees our first request can answer it before the peer does. The peer's answer must win nevertheless
//! (RFC 7296 2.4, 2.21.1), and a forger must not make us work without end.

use std::time::Duration;

use adit_crypto::KeyExchangeSecret;
use adit_crypto::testing::SeededEntropy;
use adit_ike::proposal;
use adit_wire::ikev2::{ExchangeType, IkeSpi, KeId, Message, Nonce, Notify, NotifyType, Payload};

use crate::pair::{Fate, Packet, Pair, Side, sides};

/// A stateless answer to a first request.
fn answer(request: &Packet, notify: Notify) -> Packet {
    let mut header = request.header();
    header.flags.initiator = false;
    header.flags.response = true;
    let datagram = Message::encode(&header, &[Payload::Notify(notify)]);
    Packet { source: request.destination, destination: request.source, datagram }
}

fn cookie(n: u32) -> Notify {
    Notify::new(NotifyType::COOKIE, n.to_be_bytes().to_vec())
}

fn wish(method: KeId) -> Notify {
    Notify::new(NotifyType::INVALID_KE_PAYLOAD, method.0.to_be_bytes().to_vec())
}

/// The peer's answer with another SPI, nonce and public value: all is in order, and nobody but the forger has the keys.
fn other_answer(response: &Packet, n: u64) -> Packet {
    let mut message = Message::decode(&response.datagram).unwrap();
    message.header.responder_spi = IkeSpi(n + 1);
    for payload in &mut message.payloads {
        match payload {
            Payload::Nonce(nonce) => *nonce = Nonce(vec![7; 32]),
            Payload::KeyExchange(ke) => {
                let forger = KeyExchangeSecret::generate(ke.method, &mut SeededEntropy::new(n)).unwrap();
                ke.data = forger.public().to_vec();
            }
            _ => {}
        }
    }
    Packet { datagram: Message::encode(&message.header, &message.payloads), ..response.clone() }
}

/// What a forger sends, given a message between the two. A first request is answered before it arrives; what answers
/// the peer's is earlier than it.
fn up_despite(
    sides: (Side, Side),
    patience: Duration,
    mut forge: impl FnMut(&Packet) -> Vec<Packet> + 'static,
) -> Pair {
    let mut pair = Pair::new(sides);
    pair.link = Box::new(move |_, packet| {
        let mut packets = forge(packet);
        packets.push(packet.clone());
        Fate::Replace(packets)
    });
    let request = pair.up();
    pair.run(patience);
    assert_eq!(pair.a.done.get(&request), Some(&Ok(())), "{:?} {:#?}", pair.a.events, pair.trace());
    pair.assert_children(1);
    pair.run(Duration::from_secs(31));
    assert_eq!((pair.a.gateway.ike_sas().count(), pair.b.gateway.ike_sas().count()), (1, 1));
    pair
}

fn is_first(packet: &Packet) -> bool {
    packet.is(ExchangeType::IKE_SA_INIT, false)
}

/// Two methods on both sides, so that a wish for the second one is within policy.
fn two_methods() -> (Side, Side) {
    let (mut a, mut b) = sides();
    for side in [&mut a, &mut b] {
        side.connection().proposals = proposal::parse_ike("aes256gcm16-prfsha384-x25519-ecp256").unwrap();
    }
    (a, b)
}

const AT_ONCE: Duration = Duration::from_millis(500);

#[test]
fn adversarial_27_one_forged_cookie() {
    let mut n = 0;
    up_despite(sides(), AT_ONCE, move |packet| {
        n += 1;
        if n == 1 { vec![answer(packet, cookie(1))] } else { Vec::new() }
    });
}

#[test]
fn adversarial_27_a_thousand_forged_cookies_for_each_request() {
    let pair = up_despite(sides(), Duration::from_secs(10), |packet| {
        if is_first(packet) { (0..1000).map(|n| answer(packet, cookie(n))).collect() } else { Vec::new() }
    });
    // Six for each of two dials at most.
    assert!(pair.sent.iter().filter(|p| is_first(p)).count() <= 12);
}

#[test]
fn forged_cookies_where_cookies_are_demanded() {
    let mut sides = sides();
    sides.1.settings.cookie_threshold = 0;
    let mut n = 0;
    up_despite(sides, Duration::from_secs(5), move |packet| {
        n += 1;
        if is_first(packet) && n < 6 { vec![answer(packet, cookie(n))] } else { Vec::new() }
    });
}

/// The peer's answer to the request with the forged cookie does not arrive: only another dial helps, and in that one
/// forged cookies have no chance.
#[test]
fn a_forged_cookie_and_loss() {
    let mut pair = Pair::new(sides());
    pair.link = Box::new(move |_, packet| {
        let with_cookie = is_first(packet) && packet.clear_notifies().first() == Some(&NotifyType::COOKIE);
        if with_cookie {
            Fate::Lose
        } else if is_first(packet) {
            Fate::Replace(vec![answer(packet, cookie(1)), packet.clone()])
        } else {
            Fate::Deliver
        }
    });
    let request = pair.up();
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.a.done.get(&request), Some(&Ok(())), "{:?} {:#?}", pair.a.events, pair.trace());
    pair.assert_children(1);
    assert_eq!(pair.a.gateway.ike_sas().count(), 1);
    assert!(pair.a.records.iter().all(adit_ike::NegotiationRecord::is_success), "nothing to report");
}

#[test]
fn adversarial_27_forged_wishes_for_other_methods() {
    for method in [KeId::ECP_256, KeId::CURVE_25519, KeId::MODP_1024, KeId(0)] {
        let pair = up_despite(two_methods(), AT_ONCE, move |packet| {
            if is_first(packet) { vec![answer(packet, wish(method))] } else { Vec::new() }
        });
        for packet in pair.sent.iter().filter(|p| is_first(p)) {
            let message = Message::decode(&packet.datagram).unwrap();
            let ke = message.payloads.iter().find_map(|p| match p {
                Payload::KeyExchange(ke) => Some(ke.method),
                _ => None,
            });
            assert!([Some(KeId::CURVE_25519), Some(KeId::ECP_256)].contains(&ke), "never outside policy");
        }
    }
}

/// The peer has only the first method, and somebody sends us back and forth.
#[test]
fn a_forged_wish_that_the_peer_does_not_share() {
    let (a, mut b) = two_methods();
    b.connection().proposals = proposal::parse_ike("aes256gcm16-prfsha384-x25519").unwrap();
    up_despite((a, b), AT_ONCE, |packet| {
        if is_first(packet) {
            [KeId::ECP_256, KeId::CURVE_25519, KeId::ECP_256].map(|m| answer(packet, wish(m))).to_vec()
        } else {
            Vec::new()
        }
    });
}

#[test]
fn adversarial_27_everything_at_once() {
    let refusals = |packet: &Packet| {
        vec![
            answer(packet, Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new())),
            answer(packet, cookie(1)),
            answer(packet, wish(KeId::ECP_256)),
            answer(packet, Notify::new(NotifyType::INVALID_SYNTAX, Vec::new())),
            // REDIRECT (RFC 5685), which we never asked for.
            answer(packet, Notify::new(NotifyType::REDIRECT, vec![1, 4, 192, 0, 2, 66])),
        ]
    };
    up_despite(two_methods(), Duration::from_secs(10), move |packet| {
        if is_first(packet) { refusals(packet) } else { Vec::new() }
    });
}

#[test]
fn adversarial_27_forged_answers_with_keys_of_the_forger() {
    for count in [1, 2, 5] {
        let pair = up_despite(sides(), Duration::from_secs(2 * count + 1), move |packet| {
            if packet.is(ExchangeType::IKE_SA_INIT, true) {
                (0..count).map(|n| other_answer(packet, n)).collect()
            } else {
                Vec::new()
            }
        });
        assert_eq!(pair.b.gateway.counters().negotiations_failed, 0);
    }
}

#[test]
fn forged_answers_with_useless_public_values() {
    let pair = up_despite(sides(), AT_ONCE, |packet| {
        if !packet.is(ExchangeType::IKE_SA_INIT, true) {
            return Vec::new();
        }
        let with = |data: Vec<u8>| {
            let mut message = Message::decode(&packet.datagram).unwrap();
            for payload in &mut message.payloads {
                if let Payload::KeyExchange(ke) = payload {
                    ke.data.clone_from(&data);
                }
            }
            Packet { datagram: Message::encode(&message.header, &message.payloads), ..packet.clone() }
        };
        // RFC 7748 6.1: of low order; and of the wrong length.
        vec![with(vec![0; 32]), with(vec![9; 31]), with(Vec::new())]
    });
    assert_eq!(pair.sent.iter().filter(|p| is_first(p)).count(), 1, "no reason to ask again");
}

/// The same with a key exchange between IKE_SA_INIT and IKE_AUTH: the forger has its keys and answers nothing.
#[test]
fn forged_answers_before_additional_key_exchanges() {
    let (mut a, mut b) = sides();
    for side in [&mut a, &mut b] {
        side.connection().proposals =
            proposal::parse_ike("aes256gcm16-prfsha384-x25519-ke1_mlkem768").unwrap();
    }
    up_despite((a, b), Duration::from_secs(3), move |packet| {
        if packet.is(ExchangeType::IKE_SA_INIT, true) { vec![other_answer(packet, 1)] } else { Vec::new() }
    });
}

/// A forged answer after the peer's, and a path on which that peer is slow.
#[test]
fn a_late_forgery_costs_time_only() {
    let mut pair = Pair::new(sides());
    let mut number = 0;
    pair.link = Box::new(move |_, packet| {
        number += 1;
        match () {
            () if packet.is(ExchangeType::IKE_SA_INIT, true) => {
                Fate::Replace(vec![packet.clone(), other_answer(packet, number)])
            }
            // Three seconds of silence in each dial.
            () if packet.is(ExchangeType::IKE_AUTH, false) && number < 14 => Fate::Lose,
            () => Fate::Deliver,
        }
    });
    let request = pair.up();
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.a.done.get(&request), Some(&Ok(())), "{:?} {:#?}", pair.a.events, pair.trace());
    pair.assert_children(1);
}
