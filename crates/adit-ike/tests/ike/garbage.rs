//! Every truncation and every single-byte change of every message: no panic, nothing established by it, and what is
//! real goes on.

use std::time::Duration;

use adit_ike::{TerminateTarget, proposal};
use adit_wire::ikev2::ExchangeType;

use crate::pair::{Fate, Packet, Pair, Side, child, sides};

/// All truncations of a message, and all messages that differ from it in one octet by one of `masks`.
fn changes(packet: &Packet, masks: impl Iterator<Item = u8> + Clone) -> impl Iterator<Item = Packet> {
    let truncated = {
        let packet = packet.clone();
        (0..packet.datagram.len())
            .map(move |n| Packet { datagram: packet.datagram[..n].to_vec(), ..packet.clone() })
    };
    let packet = packet.clone();
    let changed = (0..packet.datagram.len()).flat_map(move |i| {
        let packet = packet.clone();
        masks.clone().map(move |mask| {
            let mut packet = packet.clone();
            packet.datagram[i] ^= mask;
            packet
        })
    });
    truncated.chain(changed)
}

/// Suites of both kinds: AEAD, and CBC with HMAC.
fn suites() -> [(Side, Side); 2] {
    let (mut a, mut b) = sides();
    for side in [&mut a, &mut b] {
        side.connection().proposals = proposal::parse_ike("aes256-sha256-x25519").unwrap();
        side.connection().children[0].proposals = proposal::parse_esp("aes256-sha256").unwrap();
    }
    [sides(), (a, b)]
}

fn nothing_up(pair: &Pair) {
    assert!(pair.a.installed.is_empty() && pair.b.installed.is_empty());
    assert!(pair.a.events.iter().chain(&pair.b.events).all(|e| !e.starts_with("ike-up")));
}

#[test]
fn first_request() {
    let (mut a, mut b) = sides();
    b.settings.cookie_threshold = usize::MAX;
    a.connection().retransmission.first = Duration::from_secs(100_000);
    a.connection().retransmission.give_up = Duration::from_secs(200_000);
    let mut pair = Pair::new((a, b));
    let request = pair.up();
    pair.collect();
    let genuine = pair.sent[0].clone();
    pair.link = Box::new(|i, _| if i == 0 { Fate::Deliver } else { Fate::Lose });
    for (n, packet) in changes(&genuine, 1..=255).enumerate() {
        pair.deliver(&packet);
        if n % 1000 == 999 {
            // Half-open IKE SAs time out.
            pair.now += Duration::from_secs(31);
            pair.b.gateway.handle_timeout(pair.now);
            pair.collect();
            pair.sent.truncate(1);
        }
    }
    nothing_up(&pair);
    pair.link = Box::new(|_, _| Fate::Deliver);
    pair.settle();
    assert_eq!(pair.a.done[&request], Ok(()), "the genuine handshake completes");
    pair.assert_children(1);
}

/// The first response is not protected. A forgery before the genuine one costs time, and no more.
#[test]
fn first_response() {
    let mut reference = Pair::new(sides());
    reference.up();
    reference.settle();
    let genuine = reference.sent[1].clone();
    for packet in changes(&genuine, 1..=255) {
        let mut pair = Pair::new(sides());
        let request = pair.up();
        let forged = packet.clone();
        pair.link =
            Box::new(
                move |i, p| {
                    if i == 1 { Fate::Replace(vec![forged.clone(), p.clone()]) } else { Fate::Deliver }
                },
            );
        pair.run(Duration::from_secs(10));
        assert_eq!(pair.a.done.get(&request), Some(&Ok(())), "{:02x?} {:#?}", packet.datagram, pair.a.events);
        pair.assert_children(1);
    }
}

#[test]
fn adversarial_18_authentication_request() {
    for suite in suites() {
        let mut pair = Pair::new(suite);
        let request = pair.up();
        pair.link = Box::new(|i, _| if i == 2 { Fate::Lose } else { Fate::Deliver });
        pair.settle();
        let genuine = pair.sent[2].clone();
        pair.link = Box::new(|_, _| Fate::Lose);
        for packet in changes(&genuine, 1..=255) {
            pair.deliver(&packet);
        }
        nothing_up(&pair);
        pair.link = Box::new(|_, _| Fate::Deliver);
        pair.deliver(&genuine);
        pair.settle();
        assert_eq!(pair.a.done[&request], Ok(()), "the keys were kept (RFC 8019 4.6)");
        pair.assert_children(1);
    }
}

#[test]
fn adversarial_18_authentication_response() {
    for suite in suites() {
        let mut pair = Pair::new(suite);
        let request = pair.up();
        pair.link = Box::new(|i, _| if i == 3 { Fate::Lose } else { Fate::Deliver });
        pair.settle();
        let genuine = pair.sent[3].clone();
        pair.link = Box::new(|_, _| Fate::Lose);
        for packet in changes(&genuine, 1..=255) {
            pair.deliver(&packet);
        }
        assert!(pair.a.installed.is_empty() && pair.a.done.is_empty());
        pair.link = Box::new(|_, _| Fate::Deliver);
        pair.deliver(&genuine);
        pair.settle();
        assert_eq!(pair.a.done[&request], Ok(()));
        pair.assert_children(1);
    }
}

/// All four messages of an established IKE SA's exchanges, to both sides, before and after the real ones.
#[test]
fn adversarial_18_an_established_tunnel_is_unharmed() {
    for (mut a, mut b) in suites() {
        a.connection().children.push(child("more", "10.11.0.0/16", "10.12.0.0/16"));
        b.connection().children.push(child("more", "10.12.0.0/16", "10.11.0.0/16"));
        let mut pair = Pair::new((a, b));
        pair.up_child("net");
        pair.settle();
        let more = pair.up_child("more");
        // Every datagram is preceded by a few hundred changed ones.
        pair.link = Box::new(|_, p| {
            let mut all: Vec<Packet> = changes(p, [0x01, 0x80].into_iter()).collect();
            all.push(p.clone());
            Fate::Replace(all)
        });
        pair.settle();
        assert_eq!(pair.a.done[&more], Ok(()));
        pair.assert_children(2);
        let down = pair.down(&TerminateTarget { child: Some("more".to_owned()), ..Default::default() });
        pair.settle();
        assert_eq!(pair.a.done[&down], Ok(()));
        pair.assert_children(1);
        // And everything that was ever said, changed, once more.
        let said = pair.sent.clone();
        pair.link = Box::new(|_, _| Fate::Lose);
        for packet in &said {
            for changed in changes(packet, [0x01, 0x10, 0xff].into_iter()) {
                pair.deliver(&changed);
            }
        }
        pair.assert_children(1);
        assert_eq!(pair.a.gateway.ike_sas().count(), 1);
        pair.link = Box::new(|_, _| Fate::Deliver);
        let down = pair.down(&TerminateTarget { connection: Some("to-b".to_owned()), ..Default::default() });
        // Some change made an INVALID_IKE_SPI for another SPI one for ours: the liveness check it caused goes first.
        pair.run(Duration::from_secs(5));
        assert_eq!(pair.a.done.get(&down), Some(&Ok(())));
        assert!(pair.sent.last().unwrap().is(ExchangeType::INFORMATIONAL, true));
    }
}

#[test]
fn runts_and_noise() {
    let mut pair = Pair::established(sides());
    let mut state = 1_u64;
    for length in 0..2000_usize {
        let mut datagram: Vec<u8> = (0..length % 300)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect();
        // Half of it looks like IKEv2 of this SA as far as the header goes.
        if length.is_multiple_of(2) && datagram.len() >= 28 {
            let genuine = pair.sent[2].datagram.clone();
            datagram[..24].copy_from_slice(&genuine[..24]);
            let len = u32::try_from(datagram.len()).unwrap();
            datagram[24..28].copy_from_slice(&len.to_be_bytes());
        }
        let to_b = Packet { datagram, ..pair.sent[2].clone() };
        let to_a =
            Packet { source: to_b.destination, destination: to_b.source, datagram: to_b.datagram.clone() };
        pair.deliver(&to_b);
        pair.deliver(&to_a);
    }
    pair.assert_children(1);
    assert!(pair.sent.len() < 60, "strangers get few answers: {}", pair.sent.len());
}
