//! What people without any key can make a gateway do: little, and ever less (RFC 7296 2.6, 2.21.4).

use std::net::SocketAddr;
use std::time::Duration;

use adit_ike::{OutcomeCode, TerminateTarget, proposal};
use adit_wire::ikev2::{
    ExchangeType, Flags, Header, IkeSpi, Message, Notify, NotifyType, PayloadType, Version,
};

use crate::pair::{A, B, Packet, Pair, at, notify, sides};

/// A responder that talks to anybody, and the first request of somebody.
pub(crate) fn open_house(change: impl FnOnce(&mut crate::pair::Side)) -> (Pair, Packet) {
    let (a, mut b) = sides();
    b.connection().remote_addrs = Vec::new();
    change(&mut b);
    let mut pair = Pair::new((a, b));
    pair.up();
    pair.collect();
    let first = pair.sent[0].clone();
    (pair, first)
}

pub(crate) fn from(n: u32) -> SocketAddr {
    let [_, b, c, d] = n.to_be_bytes();
    SocketAddr::from(([10, b, c, d], 500))
}

#[test]
fn adversarial_34_a_flood_gets_cookies_and_no_memory() {
    let (mut pair, first) = open_house(|_| {});
    for n in 0..5000 {
        pair.deliver(&Packet { source: from(n), ..first.clone() });
    }
    assert_eq!(pair.b.gateway.ike_sas().count(), 30, "the threshold");
    assert_eq!(pair.b.gateway.counters().cookies_demanded, 4970);
    let answer = pair.sent.last().unwrap();
    assert_eq!(answer.clear_notifies(), [NotifyType::COOKIE]);
    assert!(answer.datagram.len() < first.datagram.len(), "no amplification");
    assert_eq!(answer.header().responder_spi, IkeSpi::ZERO);
    // Somebody real still gets in.
    pair.settle();
    pair.assert_children(1);
}

/// Requests that are refused leave nothing to count, and cost as much.
#[test]
fn a_flood_of_refused_requests_gets_cookies() {
    let (mut pair, first) = open_house(|_| {});
    let mut message = Message::decode(&first.datagram).unwrap();
    message.payloads.retain(|p| p.payload_type() != PayloadType::KE);
    let datagram = Message::encode(&message.header, &message.payloads);
    let flood = |pair: &mut Pair| {
        for n in 0..1000 {
            pair.deliver(&Packet { source: from(n), datagram: datagram.clone(), ..first.clone() });
        }
        pair.b.gateway.counters().cookies_demanded
    };
    assert_eq!(flood(&mut pair), 970, "the threshold");
    assert_eq!(pair.b.gateway.ike_sas().count(), 0);
    pair.now += Duration::from_secs(1);
    assert_eq!(flood(&mut pair), 2 * 970, "per second");
    // Somebody real still gets in.
    pair.settle();
    pair.assert_children(1);
}

#[test]
fn half_open_ike_sas_have_a_limit_and_an_end() {
    let (mut pair, first) = open_house(|b| {
        b.settings.half_open_limit = 100;
        b.settings.cookie_threshold = usize::MAX;
    });
    for n in 0..1000 {
        pair.deliver(&Packet { source: from(n), ..first.clone() });
    }
    assert_eq!(pair.b.gateway.ike_sas().count(), 100);
    assert_eq!(pair.b.gateway.counters().half_open_refused, 900);
    pair.run(Duration::from_secs(31));
    assert!(pair.b.gateway.ike_sas().count() <= 1, "their slots are free again");
}

/// Standards 3.3 test 35: many real addresses that bring their cookies back, each with as many SPIs as it likes.
#[test]
fn a_crowd_with_cookies_pushes_out_its_own() {
    let (mut pair, first) = open_house(|b| {
        b.settings.half_open_limit = 100;
        b.settings.cookie_threshold = 0;
    });
    let with_cookie = |pair: &mut Pair, source: SocketAddr, spi: u64| {
        let mut message = Message::decode(&first.datagram).unwrap();
        message.header.initiator_spi = IkeSpi(spi);
        let datagram = Message::encode(&message.header, &message.payloads);
        pair.deliver(&Packet { source, datagram, ..first.clone() });
        let cookie = Message::decode(&pair.sent.last().unwrap().datagram).unwrap().payloads.remove(0);
        message.payloads.insert(0, cookie);
        let datagram = Message::encode(&message.header, &message.payloads);
        pair.deliver(&Packet { source, datagram, ..first.clone() });
    };
    for n in 0..2000 {
        with_cookie(&mut pair, from(n % 40), u64::from(n) + 1);
        assert!(pair.b.gateway.ike_sas().count() <= 100);
    }
    assert_eq!(pair.b.gateway.ike_sas().count(), 100);
    assert!(pair.b.gateway.counters().half_open_refused > 0);
    // Somebody real gets in, and stays until its IKE_AUTH is there, whatever they do meanwhile.
    for n in 2000..2100 {
        with_cookie(&mut pair, from(n % 40), u64::from(n) + 1);
        pair.run(Duration::from_millis(1));
    }
    pair.assert_children(1);
}

#[test]
fn adversarial_35_one_network_gets_a_tenth_of_the_slots() {
    let (mut pair, first) = open_house(|b| {
        b.connection().local_addrs = Vec::new();
        b.settings.half_open_limit = 1000;
        b.settings.cookie_threshold = usize::MAX;
    });
    let send = |pair: &mut Pair, source: SocketAddr| {
        let destination = at(if source.is_ipv4() { B } else { "2001:db8::2" }, 500);
        pair.deliver(&Packet { source, destination, datagram: first.datagram.clone() });
        pair.b.gateway.ike_sas().count()
    };
    for n in 0..200_u16 {
        send(&mut pair, at("198.51.100.1", 1000 + n));
    }
    assert_eq!(send(&mut pair, at("198.51.100.1", 500)), 100);
    assert_eq!(send(&mut pair, at("198.51.100.2", 500)), 101, "another one");
    for n in 0..200_u128 {
        send(&mut pair, SocketAddr::from(((0x2001_0db8_0001_u128 << 80 | n).to_be_bytes(), 500)));
    }
    assert_eq!(send(&mut pair, at("2001:db8:1::ffff", 500)), 201);
    assert_eq!(send(&mut pair, at("2001:db8:1:1::1", 500)), 202, "another one");
    pair.run(Duration::from_secs(31));
    let left = pair.b.gateway.ike_sas().count();
    assert!(left <= 1, "the real one");
    assert_eq!(send(&mut pair, at("198.51.100.1", 500)), left + 1, "their slots are free again");
}

/// A half-open IKE SA keeps its first request, and what it offered.
#[test]
fn long_first_requests_are_dropped() {
    let (mut pair, first) = open_house(|_| {});
    let mut message = Message::decode(&first.datagram).unwrap();
    for octets in [2000, 8192] {
        let vendor = Notify::new(NotifyType(40_000), vec![0; octets]);
        message.payloads.push(adit_wire::ikev2::Payload::Notify(vendor));
        let datagram = Message::encode(&message.header, &message.payloads);
        pair.deliver(&Packet { datagram, ..first.clone() });
        assert_eq!(pair.b.gateway.ike_sas().count(), 1, "{octets}");
    }
}

/// Somebody who completes IKE_SA_INIT and fails IKE_AUTH holds a slot like any half-open one, and gives it back.
#[test]
fn failed_authentications_are_half_open_too() {
    let (a, mut b) = sides();
    b.secrets = vec![crate::pair::secret(&[], b"another secret")];
    b.settings.half_open_limit = 1;
    b.settings.cookie_threshold = usize::MAX;
    let mut pair = Pair::new((a, b));
    pair.up();
    pair.settle();
    pair.up();
    pair.settle();
    assert_eq!(pair.b.gateway.counters().half_open_refused, 1);
    pair.run(Duration::from_secs(100));
    assert_eq!(pair.b.gateway.poll_timeout(), None, "nothing is kept");
}

/// Peers that come and go, many of them behind one NAT perhaps, are no strangers to those that come after them.
#[test]
fn what_was_established_and_ends_is_not_half_open() {
    let (a, mut b) = sides();
    b.settings.half_open_limit = 1;
    b.settings.cookie_threshold = usize::MAX;
    let mut pair = Pair::new((a, b));
    for _ in 0..3 {
        pair.up();
        pair.settle();
        pair.assert_children(1);
        pair.down(&TerminateTarget { connection: Some("to-b".to_owned()), ..TerminateTarget::default() });
        pair.settle();
    }
    assert_eq!(pair.b.gateway.counters().half_open_refused, 0);
}

fn stray(exchange: ExchangeType, response: bool, encrypted: bool, spi_r: IkeSpi, version: u8) -> Vec<u8> {
    let header = Header {
        initiator_spi: IkeSpi(0x1111),
        responder_spi: spi_r,
        next_payload: PayloadType::NONE,
        version: Version { major: version, minor: 0 },
        exchange,
        flags: Flags { initiator: true, version: false, response },
        message_id: 5,
        length: 0,
    };
    if encrypted {
        let layout = adit_wire::ikev2::SkLayout { iv_len: 8, block_len: 1, icv_len: 16 };
        Message::encode_encrypted(&header, &[notify(NotifyType::INITIAL_CONTACT)], layout).datagram
    } else {
        Message::encode(&header, &[notify(NotifyType::INITIAL_CONTACT)])
    }
}

#[test]
fn requests_for_unknown_spis_are_told_so_a_few_times() {
    let mut pair = Pair::new(sides());
    let mut send = |datagram: Vec<u8>| {
        pair.deliver(&Packet { source: at(A, 4500), destination: at(B, 4500), datagram });
        pair.sent.len()
    };
    let spi = IkeSpi(0x2222);
    assert_eq!(
        send(stray(ExchangeType::INFORMATIONAL, true, true, spi, 2)),
        0,
        "never a response to a response"
    );
    assert_eq!(send(stray(ExchangeType::INFORMATIONAL, false, false, spi, 2)), 0, "nor to what no SA sends");
    assert_eq!(send(stray(ExchangeType::INFORMATIONAL, false, true, IkeSpi::ZERO, 2)), 0);
    let request = stray(ExchangeType::INFORMATIONAL, false, true, spi, 2);
    assert_eq!(send(request.clone()), 1);
    for _ in 0..1000 {
        send(request.clone());
    }
    assert_eq!(pair.sent.len(), 10, "rate limited");
    let answer = &pair.sent[0];
    assert_eq!(answer.clear_notifies(), [NotifyType::INVALID_IKE_SPI]);
    let (asked, told) = (Header::decode(&request).unwrap(), answer.header());
    assert_eq!((told.initiator_spi, told.responder_spi), (asked.initiator_spi, asked.responder_spi));
    assert_eq!((told.message_id, told.exchange), (asked.message_id, asked.exchange));
    assert!(told.flags.response && !told.flags.initiator);
    assert!(answer.datagram.len() <= request.len());
}

#[test]
fn adversarial_06_other_versions_are_told_ours_a_few_times() {
    let mut pair = Pair::new(sides());
    for version in [0, 1, 3, 15] {
        for _ in 0..100 {
            let datagram = stray(ExchangeType::IKE_SA_INIT, false, false, IkeSpi::ZERO, version);
            pair.deliver(&Packet { source: at(A, 500), destination: at(B, 500), datagram });
        }
    }
    assert_eq!(pair.sent.len(), 10);
    assert!(pair.sent.iter().all(|p| p.clear_notifies() == [NotifyType::INVALID_MAJOR_VERSION]));
    assert!(pair.sent.iter().all(|p| p.header().version == Version::IKEV2));
}

/// A minor version and reserved bits mean nothing (RFC 7296 2.5, 3.1).
#[test]
fn adversarial_06_a_higher_minor_version_is_welcome() {
    let (mut pair, first) = open_house(|_| {});
    let mut request = first;
    request.datagram[17] = 0x2f;
    request.datagram[19] |= 0xc7;
    request.source = at("192.0.2.9", 500);
    pair.deliver(&request);
    assert!(pair.sent.last().unwrap().is(ExchangeType::IKE_SA_INIT, true));
    assert_eq!(pair.b.gateway.ike_sas().count(), 1);
}

#[test]
fn adversarial_08_first_requests_that_cannot_be_are_dropped() {
    let (mut pair, first) = open_house(|_| {});
    let change = |f: fn(&mut Header)| {
        let mut message = Message::decode(&first.datagram).unwrap();
        f(&mut message.header);
        Packet { datagram: Message::encode(&message.header, &message.payloads), ..first.clone() }
    };
    let sent = pair.sent.len();
    for packet in [
        change(|h| h.initiator_spi = IkeSpi::ZERO),
        change(|h| h.responder_spi = IkeSpi(9)),
        change(|h| h.message_id = 1),
        change(|h| h.flags.initiator = false),
    ] {
        pair.deliver(&packet);
    }
    assert_eq!(pair.sent.len(), sent);
    assert_eq!(pair.b.gateway.ike_sas().count(), 0);
}

/// Standards 3.3 tests 11 and 12: public values and nonces that must not be used.
#[test]
fn adversarial_11_12_bad_public_values_and_nonces_leave_no_state() {
    use adit_wire::ikev2::{KeId, KeyExchange, Nonce, Payload};
    let mut tried = 0;
    for (ike, method, length) in [
        ("aes256gcm16-prfsha512-x25519", KeId::CURVE_25519, 32),
        ("aes256gcm16-prfsha512-ecp256", KeId::ECP_256, 64),
        ("aes256gcm16-prfsha512-modp2048", KeId::MODP_2048, 256),
    ] {
        let (mut a, mut b) = sides();
        for side in [&mut a, &mut b] {
            side.connection().proposals = proposal::parse_ike(ike).unwrap();
        }
        let mut pair = Pair::new((a, b));
        pair.up();
        pair.collect();
        let first = pair.sent[0].clone();
        let genuine = Message::decode(&first.datagram).unwrap();
        let mut bad: Vec<Vec<Payload>> = Vec::new();
        // The number 1: little-endian on the curve of RFC 7748, big-endian elsewhere.
        let mut one = vec![0; length];
        one[if method == KeId::CURVE_25519 { 0 } else { length - 1 }] = 1;
        for data in [Vec::new(), vec![0; length], vec![0xff; length - 1], vec![0; length + 1], one] {
            bad.push(
                genuine
                    .payloads
                    .iter()
                    .map(|p| match p {
                        Payload::KeyExchange(_) => {
                            Payload::KeyExchange(KeyExchange { method, data: data.clone() })
                        }
                        other => other.clone(),
                    })
                    .collect(),
            );
        }
        for t in [PayloadType::SA, PayloadType::KE, PayloadType::NONCE] {
            bad.push(genuine.payloads.iter().filter(|p| p.payload_type() != t).cloned().collect());
        }
        // Half the key of the PRF at least (RFC 7296 2.10): 32 octets here.
        bad.push(
            genuine
                .payloads
                .iter()
                .map(|p| match p {
                    Payload::Nonce(_) => Payload::Nonce(Nonce(vec![4; 31])),
                    other => other.clone(),
                })
                .collect(),
        );
        for payloads in bad {
            let datagram = Message::encode(&genuine.header, &payloads);
            pair.deliver(&Packet { datagram, ..first.clone() });
            let answer = pair.sent.last().unwrap();
            assert_eq!(answer.clear_notifies(), [NotifyType::INVALID_SYNTAX], "{ike}");
            assert_eq!(pair.b.gateway.ike_sas().count(), 0);
            assert_eq!(pair.b.records.last().unwrap().code, OutcomeCode::InvalidSyntax);
            tried += 1;
            pair.now += Duration::from_secs(5);
        }
    }
    assert_eq!(tried, 27);
}

#[test]
fn records_and_answers_are_bounded() {
    let (mut pair, first) = open_house(|b| {
        b.connection().remote_addrs = vec![adit_ike::config::AddressSpec {
            first: crate::pair::ip("203.0.113.1"),
            last: crate::pair::ip("203.0.113.1"),
        }];
        b.settings.cookie_threshold = usize::MAX;
    });
    for n in 0..20_000_u32 {
        let mut request = Packet { source: from(n % 2000), ..first.clone() };
        request.datagram[..4].copy_from_slice(&n.to_be_bytes());
        pair.deliver(&request);
    }
    assert!(pair.b.records.len() < 15_000);
    assert!(pair.b.gateway.counters().records_suppressed > 5000);
    assert!(pair.b.records.iter().all(|r| r.code == OutcomeCode::UnknownPeer));
}
