//! Tests 34 to 42: denial of service. The flood of 50,000 packets per second against real sockets (34) is a program of
//! the laboratory; TCP encapsulation (41) is not built.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use adit_ike::proposal;
use adit_wire::ikev2::{
    Delete, ExchangeType, Flags, Header, IkeSpi, KeId, Message, Notify, NotifyType, Payload, PayloadType,
    ProtocolId, SkLayout, Spi, Version,
};

use super::{Insider, unknown};
use crate::pair::{A, B, Fate, Packet, Pair, at, notify, sides};
use crate::strangers::{from, open_house};

/// A cookie that is not the one of this address, SPI, nonce and time is none.
#[test]
fn adversarial_36_cookies_of_others() {
    let (mut pair, first) = open_house(|b| b.settings.cookie_threshold = 0);
    pair.deliver(&first);
    let Payload::Notify(cookie) =
        Message::decode(&pair.sent.last().unwrap().datagram).unwrap().payloads[0].clone()
    else {
        panic!()
    };
    let with = |cookie: &[u8], change: fn(&mut Message)| {
        let mut message = Message::decode(&first.datagram).unwrap();
        message.payloads.insert(0, Payload::Notify(Notify::new(NotifyType::COOKIE, cookie.to_vec())));
        change(&mut message);
        Message::encode(&message.header, &message.payloads)
    };
    let good = with(&cookie.data, |_| {});
    let mut wrong = vec![
        Packet { datagram: with(&[], |_| {}), ..first.clone() },
        Packet { datagram: with(&[0; 64], |_| {}), ..first.clone() },
        Packet { datagram: with(&[0; 65], |_| {}), ..first.clone() },
        Packet { datagram: with(&[&cookie.data[..], &[0]].concat(), |_| {}), ..first.clone() },
        Packet { datagram: with(&cookie.data, |m| m.header.initiator_spi = IkeSpi(3)), ..first.clone() },
        Packet { datagram: with(&cookie.data, |m| m.payloads.rotate_left(1)), ..first.clone() },
        Packet { datagram: good.clone(), source: from(7), ..first.clone() },
        Packet { datagram: good.clone(), source: at(A, 501), ..first.clone() },
    ];
    let mut other_nonce = Message::decode(&good).unwrap();
    for p in &mut other_nonce.payloads {
        if let Payload::Nonce(nonce) = p {
            nonce.0[0] ^= 1;
        }
    }
    let datagram = Message::encode(&other_nonce.header, &other_nonce.payloads);
    wrong.push(Packet { datagram, ..first.clone() });
    for packet in wrong {
        pair.deliver(&packet);
        assert_eq!(pair.sent.last().unwrap().clear_notifies(), [NotifyType::COOKIE], "another one");
        assert_eq!(pair.b.gateway.ike_sas().count(), 0);
    }
    // Two rotations of the secret later it is old.
    pair.now += Duration::from_secs(125);
    pair.deliver(&Packet { datagram: good, ..first.clone() });
    assert_eq!(pair.sent.last().unwrap().clear_notifies(), [NotifyType::COOKIE]);
    assert_eq!(pair.b.gateway.ike_sas().count(), 0);
}

/// A day of handshakes that are begun and abandoned (CVE-2020-3230): the slots come back.
#[test]
fn adversarial_37_abandoned_handshakes() {
    let (mut pair, first) = open_house(|b| {
        b.settings.half_open_limit = 100;
        b.settings.cookie_threshold = usize::MAX;
    });
    pair.link = Box::new(|_, _| Fate::Lose);
    for minute in 0..24 * 60_u32 {
        for n in 0..20 {
            pair.deliver(&Packet { source: from(minute * 20 + n), ..first.clone() });
        }
        pair.sent.truncate(1);
        pair.run(Duration::from_secs(60));
    }
    assert_eq!(pair.b.gateway.counters().half_open_refused, 0);
    assert_eq!(pair.b.gateway.kept(), adit_ike::Kept::default(), "nothing is left");
}

/// The dearest group there is costs a stranger who cannot be reached nothing of ours.
#[test]
fn adversarial_38_expensive_groups() {
    let (mut a, mut b) = sides();
    for side in [&mut a, &mut b] {
        side.connection().proposals = proposal::parse_ike("aes256-sha256-modp4096").unwrap();
    }
    b.connection().remote_addrs = Vec::new();
    b.settings.cookie_threshold = 3;
    let mut pair = Pair::new((a, b));
    pair.up();
    pair.collect();
    let first = pair.sent[0].clone();
    for n in 0..1000 {
        pair.deliver(&Packet { source: from(n), ..first.clone() });
    }
    // Each key pair made would have left a half-open IKE SA.
    assert_eq!(pair.b.gateway.ike_sas().count(), 3);
    assert_eq!(pair.b.gateway.counters().cookies_demanded, 997);
    // A responder whose policy has no such group never computes with it.
    let (a, mut b) = sides();
    b.connection().remote_addrs = Vec::new();
    let mut strict = Pair::new((a, b));
    strict.deliver(&first);
    assert_eq!(strict.sent.last().unwrap().clear_notifies(), [NotifyType::NO_PROPOSAL_CHOSEN]);
}

/// An authenticated peer that asks for everything there is, again and again.
#[test]
fn adversarial_39_an_insider_without_measure() {
    let mut insider = Insider::new();
    let mut refused = 0;
    for _ in 0..2000 {
        let request = insider.child_request();
        refused += usize::from(!insider.ask_notifies(ExchangeType::CREATE_CHILD_SA, &request).is_empty());
    }
    let installed = insider.pair.b.installed.len();
    assert!(installed <= 256 && installed + refused == 2001, "{installed} and {refused}");
    for n in 0..2000_u32 {
        let delete = Payload::Delete(Delete { protocol: ProtocolId::ESP, spis: vec![Spi(0xdead_0000 + n)] });
        assert!(insider.ask(ExchangeType::INFORMATIONAL, &[delete]).is_empty());
        assert!(insider.ask(ExchangeType::INFORMATIONAL, &[]).is_empty());
    }
    assert_eq!(insider.pair.b.installed.len(), installed);
    let kept = insider.pair.b.gateway.kept();
    assert_eq!((kept.ike_sas, kept.children, kept.inbound_spis), (1, installed, installed));
}

/// What a stranger gets for what it sends, in octets and datagrams. The table of the README beside this file has its figures.
#[test]
fn adversarial_40_amplification() {
    let (_, first) = open_house(|_| {});
    let genuine = Message::decode(&first.datagram).unwrap();
    let changed = |change: &dyn Fn(&mut Message)| {
        let mut message = genuine.clone();
        change(&mut message);
        Message::encode(&message.header, &message.payloads)
    };
    let stray = |exchange, response, encrypted| {
        let header = Header {
            initiator_spi: IkeSpi(0x1111),
            responder_spi: IkeSpi(0x2222),
            next_payload: PayloadType::NONE,
            version: Version::IKEV2,
            exchange,
            flags: Flags { initiator: true, version: false, response },
            message_id: 5,
            length: 0,
        };
        if encrypted {
            let layout = SkLayout { iv_len: 8, block_len: 1, icv_len: 16 };
            Message::encode_encrypted(&header, &[], layout).datagram
        } else {
            Message::encode(&header, &[])
        }
    };
    type Change = fn(&mut crate::pair::Side);
    let as_it_is: Change = |_| {};
    let cookies: Change = |b| b.settings.cookie_threshold = 0;
    let nobody: Change = |b| b.connections.clear();
    let twice = |t: PayloadType| {
        changed(&|m| {
            let copy = m.payloads.iter().find(|p| p.payload_type() == t).unwrap().clone();
            m.payloads.push(copy);
        })
    };
    let other_group = changed(&|m| {
        for p in &mut m.payloads {
            if let Payload::KeyExchange(ke) = p {
                ke.method = KeId::ECP_256;
            }
        }
    });
    let cases: [(&str, Change, Vec<u8>, f64); 14] = [
        ("IKE_SA_INIT request", as_it_is, first.datagram.clone(), 1.0),
        ("IKE_SA_INIT request, cookies wanted", cookies, first.datagram.clone(), 0.5),
        ("IKE_SA_INIT request, unknown peer", nobody, first.datagram.clone(), 0.5),
        ("IKE_SA_INIT request, another group wanted", as_it_is, other_group, 0.5),
        (
            "IKE_SA_INIT request without KE",
            as_it_is,
            changed(&|m| m.payloads.retain(|p| p.payload_type() != PayloadType::KE)),
            0.5,
        ),
        ("IKE_SA_INIT request with two SAs", as_it_is, twice(PayloadType::SA), 0.5),
        (
            "IKE_SA_INIT request, unknown critical payload",
            as_it_is,
            changed(&|m| m.payloads.push(unknown(200, true, Vec::new()))),
            0.5,
        ),
        ("header alone, IKE_SA_INIT", as_it_is, changed(&|m| m.payloads.clear()), 0.0),
        (
            "major version 3, header alone",
            as_it_is,
            changed(&|m| {
                m.header.version.major = 3;
                m.payloads.clear();
            }),
            0.0,
        ),
        (
            "unknown SPIs, request, Encrypted payload",
            as_it_is,
            stray(ExchangeType::INFORMATIONAL, false, true),
            1.0,
        ),
        (
            "unknown SPIs, request, in the clear",
            as_it_is,
            stray(ExchangeType::INFORMATIONAL, false, false),
            0.0,
        ),
        ("unknown SPIs, response", as_it_is, stray(ExchangeType::INFORMATIONAL, true, true), 0.0),
        ("garbage", as_it_is, vec![0x5a; 200], 0.0),
        ("one octet", as_it_is, vec![0xff], 0.0),
    ];
    for (what, change, datagram, most) in cases {
        let (mut pair, _) = open_house(change);
        let before = pair.sent.len();
        pair.deliver(&Packet {
            source: at("198.51.100.77", 500),
            destination: at(B, 500),
            datagram: datagram.clone(),
        });
        let silent = pair.sent.len();
        for _ in 0..100 {
            pair.now += Duration::from_secs(1);
            pair.b.gateway.handle_timeout(pair.now);
            pair.collect();
        }
        assert_eq!(pair.sent.len(), silent, "{what}: a responder never repeats itself of its own accord");
        let answers = &pair.sent[before..silent];
        assert!(answers.len() <= 1, "{what}: {} datagrams", answers.len());
        let out: usize = answers.iter().map(|p| p.datagram.len()).sum();
        let ratio = out as f64 / datagram.len() as f64;
        println!("| {what} | {} | {out} | {ratio:.2} |", datagram.len());
        assert!(ratio <= most && (most == 0.0 || ratio > 0.0), "{what}: {out} octets for {}", datagram.len());
    }
}

/// Counts the lines that an operator sees.
struct Lines(Arc<AtomicUsize>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn adversarial_42_log_flood() {
    let lines = Arc::new(AtomicUsize::new(0));
    let subscriber = Lines(Arc::clone(&lines));
    tracing::subscriber::with_default(subscriber, || {
        let (mut pair, first) = open_house(|b| {
            b.connection().proposals = proposal::parse_ike("aes128-sha256-ecp256").unwrap();
            b.settings.cookie_threshold = usize::MAX;
        });
        pair.link = Box::new(|_, _| Fate::Lose);
        // From one address, and from many; refused, malformed, unknown, of another version.
        for n in 0..100_000_u32 {
            // A test on another thread that comes by the same place at the same moment can leave it marked as of interest to nobody.
            if n % 1000 == 1 {
                tracing::callsite::rebuild_interest_cache();
            }
            let mut packet = first.clone();
            packet.source = if n % 2 == 0 { at("198.51.100.1", 500) } else { from(n) };
            packet.datagram[..4].copy_from_slice(&(n + 1).to_be_bytes());
            match n % 5 {
                0 => {}
                1 => packet.datagram[17] = 0x30,
                2 => packet.datagram[18] = 37,
                3 => packet.datagram.truncate(40),
                _ => packet.datagram[30] = 0xff,
            }
            pair.deliver(&packet);
            pair.sent.clear();
        }
    });
    let lines = lines.load(Ordering::Relaxed);
    // 10 per address at most, of the first 1024 addresses; all others share one allowance.
    assert!((10..=10_300).contains(&lines), "{lines} lines for 100,000 datagrams");
}

/// Test 35: addresses that are real, bring their cookies back, and go no further: `one_network_gets_a_tenth_of_the_slots`
/// bounds them; others still get in.
#[test]
fn adversarial_35_real_addresses() {
    let (mut pair, first) = open_house(|b| b.settings.half_open_limit = 640);
    let bot = |n: u32| std::net::SocketAddr::from(([203, 0, (n >> 8) as u8, n as u8], 500));
    for round in 0..5_u32 {
        for n in 0..1000_u32 {
            let mut message = Message::decode(&first.datagram).unwrap();
            message.header.initiator_spi = IkeSpi(u64::from(round * 1000 + n + 1));
            let datagram = Message::encode(&message.header, &message.payloads);
            let packet = Packet { source: bot(n % 8), destination: at(B, 500), datagram };
            let before = pair.sent.len();
            pair.deliver(&packet);
            let Some(answer) = pair.sent.get(before) else { continue };
            if answer.clear_notifies() == [NotifyType::COOKIE] {
                let cookie = Message::decode(&answer.datagram).unwrap().payloads[0].clone();
                message.payloads.insert(0, cookie);
                let datagram = Message::encode(&message.header, &message.payloads);
                pair.deliver(&Packet { datagram, ..packet });
            }
            // Garbage instead of IKE_AUTH keeps nothing and frees nothing.
            let h = pair.sent.last().unwrap().header();
            if h.responder_spi != IkeSpi::ZERO {
                let layout = SkLayout { iv_len: 8, block_len: 1, icv_len: 16 };
                let garbage = Header {
                    exchange: ExchangeType::IKE_AUTH,
                    flags: Flags { initiator: true, version: false, response: false },
                    message_id: 1,
                    ..h
                };
                let datagram =
                    Message::encode_encrypted(&garbage, &[notify(NotifyType::INITIAL_CONTACT)], layout)
                        .datagram;
                pair.deliver(&Packet { source: bot(n % 8), destination: at(B, 500), datagram });
            }
        }
        assert_eq!(pair.b.gateway.ike_sas().count(), 8 * 64, "64 for each address");
        pair.sent.truncate(1);
    }
    // Somebody from elsewhere still gets in, with a cookie.
    pair.settle();
    pair.assert_children(1);
}
