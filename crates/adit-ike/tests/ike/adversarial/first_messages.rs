//! Tests 1 to 18: parsers and headers, and what single payloads say.

use adit_ike::OutcomeCode;
use adit_wire::ikev2::{
    ExchangeType, IdType, Identification, IkeSpi, KeId, KeyExchange, Message, Nonce, Notify, NotifyType,
    Payload, PayloadType, ProtocolId,
};

use super::{Insider, agrees, auth_request, first_request, unknown};
use crate::pair::{Fate, Packet, Pair, at, header, notifies, notify, open, seal, sides};

#[test]
fn adversarial_01_runts() {
    let mut pair = Pair::established(sides());
    let genuine = pair.sent[2].clone();
    let before = pair.sent.len();
    for length in 0..28 {
        for fill in [genuine.datagram[..length].to_vec(), vec![0; length], vec![0xff; length]] {
            for port in [500, 4500] {
                let (source, destination) = (at(crate::pair::A, port), at(crate::pair::B, port));
                pair.deliver(&Packet { source, destination, datagram: fill.clone() });
                pair.deliver(&Packet { source: destination, destination: source, datagram: fill.clone() });
            }
        }
    }
    assert_eq!(pair.sent.len(), before, "no reply");
    pair.assert_children(1);
}

#[test]
fn adversarial_02_length_fields() {
    for length in [0, 27, 28, 100, 0xffff, 0x0001_0000, u32::MAX] {
        let mut pair = Pair::new(sides());
        pair.up();
        pair.collect();
        let mut first = pair.sent[0].clone();
        first.datagram[24..28].copy_from_slice(&length.to_be_bytes());
        pair.deliver(&first);
        assert_eq!(pair.sent.len(), 1, "{length}: no reply");
        assert_eq!(pair.b.gateway.ike_sas().count(), 0);
        // What follows the message is no part of it.
        let mut first = pair.sent[0].clone();
        first.datagram.push(0);
        pair.deliver(&first);
        assert_eq!(pair.sent.len(), 1);
    }
    // Inside an authentic message a lie is answered (and see `an_authentic_malformed_request_ends_the_ike_sa`).
    let mut insider = Insider::new();
    let answer = insider
        .ask_notifies(ExchangeType::INFORMATIONAL, &[unknown(PayloadType::NOTIFY.0, false, vec![0; 3])]);
    assert_eq!(answer, [NotifyType::INVALID_SYNTAX]);
}

#[test]
fn adversarial_03_payload_chains() {
    let mut pair = Pair::new(sides());
    pair.up();
    pair.collect();
    let genuine = pair.sent[0].clone();
    let mut send = |octets: Vec<u8>| {
        let mut datagram = genuine.datagram[..28].to_vec();
        datagram.extend(octets);
        let length = u32::try_from(datagram.len()).unwrap();
        datagram[24..28].copy_from_slice(&length.to_be_bytes());
        pair.deliver(&Packet { datagram, ..genuine.clone() });
        (pair.sent.len(), pair.b.gateway.ike_sas().count())
    };
    let first = genuine.datagram[16];
    // Lengths that a generic header cannot have, and one beyond the end.
    for length in [0_u16, 1, 2, 3, 5, 0xffff] {
        let [high, low] = length.to_be_bytes();
        assert_eq!(send(vec![first, 0, high, low]), (1, 0));
    }
    // Payload after payload, each announcing the next: more than a message has.
    for count in [65, 1000, 10_000] {
        assert_eq!(send([43, 0, 0, 4].repeat(count)), (1, 0), "{count}");
        assert_eq!(send([33, 0, 0, 4].repeat(count)), (1, 0), "{count}");
    }
}

#[test]
fn adversarial_04_unknown_payloads_are_ignored_unless_critical() {
    for payload_type in (1..=32).chain(54..=255) {
        let (_, answers) = first_request(|m| m.payloads.push(unknown(payload_type, false, vec![7; 5])));
        assert!(agrees(&answers), "{payload_type}");
        let (pair, answers) = first_request(|m| m.payloads.push(unknown(payload_type, true, vec![7; 5])));
        let message = Message::decode(&answers[0].datagram).unwrap();
        let Payload::Notify(n) = &message.payloads[0] else { panic!() };
        assert_eq!(
            (n.notify_type, n.data.clone()),
            (NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![payload_type])
        );
        assert_eq!(pair.b.gateway.ike_sas().count(), 0);
    }
    // The bit means nothing on types that are known.
    let mut pair = Pair::new(sides());
    pair.up();
    pair.collect();
    let mut first = pair.sent[0].clone();
    first.datagram[29] = 0x80;
    pair.deliver(&first);
    assert!(agrees(&pair.sent[1..]));
}

/// CVE-2026-12413: payloads before the Encrypted payload.
#[test]
fn adversarial_05_unknown_payloads_outside_the_encrypted_one() {
    for count in [1_usize, 60, 1000] {
        let mut pair = Pair::new(sides());
        let request = pair.up();
        pair.link = Box::new(move |i, p| {
            if i != 2 {
                return Fate::Deliver;
            }
            let mut datagram = p.datagram[..28].to_vec();
            let encrypted = datagram[16];
            datagram[16] = 200;
            for n in 0..count {
                datagram.extend([if n + 1 == count { encrypted } else { 200 }, 0, 0, 8, 1, 2, 3, 4]);
            }
            datagram.extend(&p.datagram[28..]);
            let length = u32::try_from(datagram.len()).unwrap();
            datagram[24..28].copy_from_slice(&length.to_be_bytes());
            Fate::Replace(vec![Packet { datagram, ..p.clone() }, p.clone()])
        });
        pair.settle();
        assert_eq!(pair.a.done[&request], Ok(()), "{count}: the genuine request counts");
        pair.assert_children(1);
        assert!(pair.sent.len() == 4, "no reply to the other");
    }
}

/// Payload types of IKEv1 have no meaning in IKEv2 (CVE-2015-3991), and those of IKEv2 make no IKEv1 message one.
#[test]
fn adversarial_07_payload_types_of_ikev1() {
    for payload_type in 1..=13 {
        // A well-formed SA, KE, ID, hash or Delete of IKEv1 changes nothing.
        let body = vec![0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 40, 1, 1, 0, 1, 0, 0, 0, 32, 1, 1, 0, 0];
        let (pair, answers) =
            first_request(|m| m.payloads.insert(0, unknown(payload_type, false, body.clone())));
        assert!(agrees(&answers));
        assert_eq!(pair.b.gateway.ike_sas().count(), 1);
    }
    let (pair, answers) = first_request(|m| m.header.version.major = 1);
    assert!(answers.is_empty(), "IKEv1 has no answer to that");
    assert_eq!(pair.b.gateway.ike_sas().count(), 0);
}

#[test]
fn adversarial_08_one_spi_from_two_sources() {
    let (a, mut b) = sides();
    b.connection().remote_addrs = Vec::new();
    let mut pair = Pair::new((a, b));
    pair.up();
    pair.collect();
    let first = pair.sent[0].clone();
    for port in [500, 1024, 1025] {
        pair.deliver(&Packet { source: at("198.51.100.7", port), ..first.clone() });
    }
    assert_eq!(pair.b.gateway.ike_sas().count(), 3, "each is an initiator of its own");
    let spis: std::collections::BTreeSet<IkeSpi> =
        pair.sent[1..].iter().map(|p| p.header().responder_spi).collect();
    assert_eq!(spis.len(), 3);
}

/// The octets of an SA payload: proposals of `(number, protocol, SPI, transforms)`, transforms of `(type, ID,
/// attributes)`.
type RawTransform<'a> = (u8, u16, &'a [u8]);
type RawProposal<'a> = (u8, u8, &'a [u8], &'a [RawTransform<'a>]);

fn sa_payload(proposals: &[RawProposal<'_>], last_flags_lie: bool) -> Payload {
    let mut sa = Vec::new();
    for (n, (number, protocol, spi, transforms)) in proposals.iter().enumerate() {
        let mut body = Vec::new();
        for (t, (kind, id, attributes)) in transforms.iter().enumerate() {
            let more = if (t + 1 < transforms.len()) != last_flags_lie { 3 } else { 0 };
            let length = u16::try_from(8 + attributes.len()).unwrap().to_be_bytes();
            let id = id.to_be_bytes();
            body.extend([more, 0, length[0], length[1], *kind, 0, id[0], id[1]]);
            body.extend(*attributes);
        }
        let more = if (n + 1 < proposals.len()) != last_flags_lie { 2 } else { 0 };
        let length = u16::try_from(8 + spi.len() + body.len()).unwrap().to_be_bytes();
        let (spi_len, count) = (u8::try_from(spi.len()).unwrap(), u8::try_from(transforms.len()).unwrap());
        sa.extend([more, 0, length[0], length[1], *number, *protocol, spi_len, count]);
        sa.extend(*spi);
        sa.extend(body);
    }
    unknown(PayloadType::SA.0, false, sa)
}

const KEY_256: &[u8] = &[0x80, 14, 1, 0];

/// What the configuration of the tests asks for: AES-GCM with 256 bits, HMAC-SHA2-384, X25519.
const GOOD: &[RawTransform<'_>] = &[(1, 20, KEY_256), (2, 6, &[]), (4, 31, &[])];

fn with_sa(payload: Payload) -> (Pair, Vec<Packet>) {
    first_request(|m| {
        for p in &mut m.payloads {
            if p.payload_type() == PayloadType::SA {
                *p = payload.clone();
            }
        }
    })
}

fn refused(what: &str, payload: Payload) {
    let (pair, answers) = with_sa(payload);
    assert!(!agrees(&answers), "{what}");
    assert_eq!(pair.b.gateway.ike_sas().count(), 0, "{what}");
    for answer in answers {
        let told = answer.clear_notifies();
        let fits = [NotifyType::NO_PROPOSAL_CHOSEN, NotifyType::INVALID_SYNTAX];
        assert!(told.iter().all(|n| fits.contains(n)), "{what}: {told:?}");
    }
}

#[test]
fn adversarial_09_shapes_of_sa_payloads() {
    let (_, answers) = with_sa(sa_payload(&[(1, 1, &[], GOOD)], false));
    assert!(agrees(&answers), "the good one is good");

    let aes = |attributes: &'static [u8]| -> [RawTransform<'static>; 3] {
        [(1, 20, attributes), (2, 6, &[]), (4, 31, &[])]
    };
    refused("no proposal", sa_payload(&[], false));
    refused("a proposal without transforms", sa_payload(&[(1, 1, &[], &[])], false));
    refused("two key lengths", sa_payload(&[(1, 1, &[], &aes(&[0x80, 14, 1, 0, 0x80, 14, 1, 0]))], false));
    refused("no key length", sa_payload(&[(1, 1, &[], &aes(&[]))], false));
    refused("key length 0", sa_payload(&[(1, 1, &[], &aes(&[0x80, 14, 0, 0]))], false));
    refused(
        "a key length in an attribute of variable length",
        sa_payload(&[(1, 1, &[], &aes(&[0, 14, 0, 2, 1, 0]))], false),
    );
    refused(
        "an unknown attribute",
        sa_payload(&[(1, 1, &[], &aes(&[0x80, 14, 1, 0, 0x80, 77, 0, 1]))], false),
    );
    let mut more = GOOD.to_vec();
    more.push((77, 1, &[]));
    refused("a transform of an unknown type", sa_payload(&[(1, 1, &[], &more)], false));
    for spi in [&[1_u8][..], &[1; 4], &[0; 8], &[1; 8], &[1; 255]] {
        refused("an SPI in the first exchange", sa_payload(&[(1, 1, spi, GOOD)], false));
    }
    for protocol in [0, 2, 3, 4, 5, 255] {
        refused("another protocol", sa_payload(&[(1, protocol, &[], GOOD)], false));
    }
    refused("flags of the last one that lie", sa_payload(&[(1, 1, &[], GOOD), (2, 1, &[], GOOD)], true));

    // 255 proposals, and 255 transforms in one: bounded work, and the good one is still found or all refused.
    let bad: &[RawTransform<'_>] = &[(1, 999, KEY_256), (2, 6, &[]), (4, 31, &[])];
    let many: Vec<RawProposal<'_>> = (1..=255).map(|n| (n, 1, &[][..], bad)).collect();
    refused("255 proposals of what we do not have", sa_payload(&many, false));
    let mut many: Vec<RawTransform<'_>> = (1..=250).map(|n| (1, 1000 + n, KEY_256)).collect();
    many.extend(GOOD);
    let (_, answers) = with_sa(sa_payload(&[(1, 1, &[], &many)], false));
    assert!(agrees(&answers), "253 transforms with ours among them");
}

#[test]
fn adversarial_10_proposals_that_lack_something() {
    let gcm: RawTransform<'_> = (1, 20, KEY_256);
    let cbc: RawTransform<'_> = (1, 12, KEY_256);
    let [prf, integ, ke]: [RawTransform<'_>; 3] = [(2, 6, &[]), (3, 13, &[]), (4, 31, &[])];
    let null: RawTransform<'_> = (1, 11, &[]);
    for (what, transforms) in [
        ("without key exchange (CVE-2016-5391)", &[gcm, prf][..]),
        ("without PRF", &[gcm, ke]),
        ("without encryption", &[prf, ke]),
        ("without integrity", &[cbc, prf, ke]),
        ("integrity beside AEAD", &[gcm, prf, integ, ke]),
        ("no encryption", &[null, prf, integ, ke]),
        ("key exchange NONE", &[gcm, prf, (4, 0, &[])]),
        ("key exchange NONE beside ours", &[gcm, prf, (4, 0, &[]), (6, 31, &[])]),
    ] {
        refused(what, sa_payload(&[(1, 1, &[], transforms)], false));
    }
}

#[test]
fn adversarial_11_key_exchange_methods_that_do_not_exist() {
    for method in [0_u16, 1, 22, 1025, 65_535] {
        for data in [Vec::new(), vec![0; 32], vec![0xff; 5000]] {
            let (pair, answers) = first_request(|m| {
                for p in &mut m.payloads {
                    if let Payload::KeyExchange(ke) = p {
                        *ke = KeyExchange { method: KeId(method), data: data.clone() };
                    }
                }
            });
            assert_eq!(answers[0].clear_notifies(), [NotifyType::INVALID_KE_PAYLOAD], "{method}");
            assert_eq!(pair.b.gateway.ike_sas().count(), 0);
        }
    }
}

#[test]
fn adversarial_12_lengths_of_nonces() {
    for (length, fine) in
        [(0, false), (15, false), (16, false), (23, false), (24, true), (256, true), (257, false)]
    {
        let (pair, answers) = first_request(|m| {
            for p in &mut m.payloads {
                if let Payload::Nonce(nonce) = p {
                    *nonce = Nonce(vec![3; length]);
                }
            }
        });
        // Half the key of HMAC-SHA2-384 is 24 octets (RFC 7296 2.10).
        assert_eq!(agrees(&answers), fine, "{length}");
        assert_eq!(pair.b.gateway.ike_sas().count(), usize::from(fine), "{length}");
    }
}

#[test]
fn adversarial_13_traffic_selectors() {
    let v4 = |protocol: u8, ports: (u16, u16), from: [u8; 4], to: [u8; 4]| {
        let (start, end) = (ports.0.to_be_bytes(), ports.1.to_be_bytes());
        let mut octets = vec![7, protocol, 0, 16, start[0], start[1], end[0], end[1]];
        octets.extend(from);
        octets.extend(to);
        octets
    };
    let ts = |selectors: &[Vec<u8>]| {
        let mut body = vec![u8::try_from(selectors.len()).unwrap(), 0, 0, 0];
        body.extend(selectors.concat());
        body
    };
    let ours = v4(0, (0, 65_535), [10, 1, 0, 0], [10, 1, 255, 255]);
    let v6 = [vec![8, 0, 0, 40, 0, 0, 255, 255], vec![0; 16], vec![255; 16]].concat();
    let cases: [(&str, Vec<u8>, NotifyType); 9] = [
        ("none", ts(&[]), NotifyType::TS_UNACCEPTABLE),
        (
            "start after end",
            ts(&[v4(0, (0, 65_535), [10, 1, 9, 9], [10, 1, 0, 0])]),
            NotifyType::TS_UNACCEPTABLE,
        ),
        (
            "start port after end port",
            ts(&[v4(6, (9, 8), [10, 1, 0, 0], [10, 1, 0, 9])]),
            NotifyType::TS_UNACCEPTABLE,
        ),
        ("an unknown type", ts(&[vec![77, 0, 0, 8, 1, 2, 3, 4]]), NotifyType::TS_UNACCEPTABLE),
        ("the other family", ts(&[v6]), NotifyType::TS_UNACCEPTABLE),
        (
            "somebody else's",
            ts(&[v4(0, (0, 65_535), [10, 9, 0, 0], [10, 9, 255, 255])]),
            NotifyType::TS_UNACCEPTABLE,
        ),
        ("a count that lies", [vec![255, 0, 0, 0], ours.clone()].concat(), NotifyType::INVALID_SYNTAX),
        (
            "a length that lies",
            [vec![1, 0, 0, 0, 7, 0, 0, 15], vec![0; 12]].concat(),
            NotifyType::INVALID_SYNTAX,
        ),
        ("a length of 0", [vec![1, 0, 0, 0, 7, 0, 0, 0], vec![0; 12]].concat(), NotifyType::INVALID_SYNTAX),
    ];
    for (what, body, wanted) in cases {
        let (pair, answer) = auth_request(|payloads| {
            for p in payloads.iter_mut().filter(|p| p.payload_type() == PayloadType::TSI) {
                *p = unknown(PayloadType::TSI.0, false, body.clone());
            }
        });
        assert_eq!(notifies(&answer), [wanted], "{what}");
        assert!(pair.b.installed.is_empty(), "{what}");
    }
    // 255 of them, ports where the protocol has none, OPAQUE ports: an answer that is within what was asked for.
    let many: Vec<Vec<u8>> = (0..255).map(|n| v4(0, (0, 65_535), [10, 1, n, 0], [10, 1, n, 255])).collect();
    let odd =
        [v4(47, (5, 6), [10, 1, 0, 0], [10, 1, 0, 9]), v4(17, (65_535, 0), [10, 1, 0, 0], [10, 1, 0, 9])];
    for selectors in [&many[..], &odd] {
        let (pair, _) = auth_request(|payloads| {
            for p in payloads.iter_mut().filter(|p| p.payload_type() == PayloadType::TSI) {
                *p = unknown(PayloadType::TSI.0, false, ts(selectors));
            }
        });
        let installed = pair.b.installed.values().next().unwrap();
        assert!(installed.remote_ts.len() <= selectors.len());
        assert!(installed.remote_ts.iter().all(|ts| crate::pair::net("10.1.0.0/16").covers(ts)));
    }
}

#[test]
fn adversarial_14_identities() {
    let rdns =
        [0x31, 0x0c, 0x30, 0x0a, 0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, 0x03, b'a', b'b', b'c'].repeat(2000);
    let cases: [(IdType, Vec<u8>); 12] = [
        (IdType::FQDN, Vec::new()),
        (IdType::FQDN, b"a.example\0.evil".to_vec()),
        (IdType::FQDN, b"a.example\n2026-01-01 INFO all is well".to_vec()),
        (IdType::FQDN, vec![0xff; 300]),
        (IdType::FQDN, vec![b'a'; 60_000]),
        (IdType::RFC822_ADDR, vec![0xc3, 0x28]),
        (IdType::IPV4_ADDR, vec![1, 2, 3]),
        (IdType::IPV6_ADDR, vec![0; 4]),
        (IdType::DER_ASN1_DN, vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff]),
        (IdType::DER_ASN1_DN, rdns),
        (IdType::KEY_ID, vec![27, b'[', b'2', b'J']),
        (IdType(0), b"a.example".to_vec()),
    ];
    for (id_type, data) in cases {
        let (pair, answer) = auth_request(|payloads| {
            for p in payloads.iter_mut() {
                if let Payload::IdInitiator(id) = p {
                    *id = Identification::new(id_type, data.clone());
                }
            }
        });
        assert_eq!(notifies(&answer), [NotifyType::AUTHENTICATION_FAILED], "{id_type}");
        assert!(pair.b.installed.is_empty());
        let message = &pair.b.failure().message;
        assert!(message.len() < 2000, "{id_type}: {} octets in a log line", message.len());
        assert!(!message.chars().any(char::is_control), "never raw: {message:?}");
    }
}

#[test]
fn adversarial_15_notifies() {
    let odd = |protocol: u8, spi: Vec<u8>, notify_type, data: Vec<u8>| {
        Payload::Notify(Notify { protocol: ProtocolId(protocol), spi, notify_type, data })
    };
    let shell = b"%n%s$(reboot);`id`|\n\r\x1b]0;x\x07".to_vec();
    let all = [
        odd(3, vec![1; 255], NotifyType::INITIAL_CONTACT, shell.clone()),
        odd(77, Vec::new(), NotifyType::HTTP_CERT_LOOKUP_SUPPORTED, shell.clone()),
        odd(0, vec![9; 8], NotifyType(40_000), vec![0x41; 30_000]),
        odd(1, vec![9; 3], NotifyType::ADDITIONAL_TS_POSSIBLE, Vec::new()),
        odd(2, vec![9; 4], NotifyType::ESP_TFC_PADDING_NOT_SUPPORTED, shell.clone()),
        odd(0, Vec::new(), NotifyType(65_535), shell),
    ];
    for n in &all {
        let (pair, answer) = auth_request(|payloads| payloads.push(n.clone()));
        assert!(notifies(&answer).iter().all(|n| n.0 >= 16_384), "inert: {n:?}");
        assert_eq!(pair.b.installed.len(), 1, "inert: {n:?}");
        assert!(pair.b.records.iter().all(|r| !r.message.chars().any(char::is_control)));
        let mut insider = Insider::new();
        insider.ask(ExchangeType::INFORMATIONAL, std::slice::from_ref(n));
        insider.pair.assert_children(1);
    }
    // An SPI longer than the payload.
    let (pair, answer) =
        auth_request(|payloads| payloads.push(unknown(PayloadType::NOTIFY.0, false, vec![3, 255, 64, 0, 1])));
    assert_eq!(notifies(&answer), [NotifyType::INVALID_SYNTAX]);
    assert!(pair.b.installed.is_empty());
}

#[test]
fn adversarial_17_configuration_payloads() {
    let attributes = |count: u16| {
        (0..count).flat_map(|n| [0, 1, 0, 4, 10, 0, (n >> 8) as u8, n as u8]).collect::<Vec<u8>>()
    };
    let mut bodies: Vec<(Vec<u8>, bool)> = Vec::new();
    for cfg_type in [0, 1, 2, 3, 4, 255] {
        bodies.push(([vec![cfg_type, 0, 0, 0], attributes(1000)].concat(), true));
        bodies.push((vec![cfg_type, 0, 0, 0], true));
        // INTERNAL_IP4_ADDRESS of 3 octets: its length is nobody's business as long as nobody uses it.
        bodies.push((vec![cfg_type, 0, 0, 0, 0, 1, 0, 3, 1, 2, 3], true));
        bodies.push((vec![cfg_type, 0, 0, 0, 0, 1, 0, 9, 1, 2, 3], false));
    }
    for (body, fine) in bodies {
        let cp = unknown(PayloadType::CP.0, false, body);
        let (pair, answer) = auth_request(|payloads| payloads.push(cp.clone()));
        assert!(answer.iter().all(|p| p.payload_type() != PayloadType::CP), "nothing is handed out");
        assert_eq!(pair.b.installed.len(), usize::from(fine));
        let mut insider = Insider::new();
        let answer = insider.ask(ExchangeType::INFORMATIONAL, &[cp]);
        assert!(answer.iter().all(|p| p.payload_type() != PayloadType::CP));
        assert_eq!(insider.pair.b.installed.len(), usize::from(fine));
    }
}

/// The outermost octets of an Encrypted payload lie; the flipped bits are in `garbage`.
#[test]
fn adversarial_18_encrypted_payloads() {
    // An Encrypted payload inside an Encrypted payload.
    let mut insider = Insider::new();
    for inner in [PayloadType::SK, PayloadType::SKF] {
        let answer =
            insider.ask_notifies(ExchangeType::INFORMATIONAL, &[unknown(inner.0, false, vec![0; 40])]);
        assert!(answer.is_empty() || answer == [NotifyType::INVALID_SYNTAX]);
        assert!(insider.pair.b.installed.len() <= 1);
        insider = Insider::new();
    }
    // Too short for an IV and an ICV, or for anything between them: nothing is answered, the keys stay good.
    let Insider { mut pair, keys, .. } = Insider::new();
    let before = pair.sent.len();
    let h = header(&keys, ExchangeType::INFORMATIONAL, true, false, 2);
    let whole = seal(&keys, &h, &[notify(NotifyType::INITIAL_CONTACT)], 1 << 40);
    for length in 32..whole.len() {
        let mut datagram = whole[..length].to_vec();
        datagram[24..28].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        datagram[30..32].copy_from_slice(&u16::try_from(length - 28).unwrap().to_be_bytes());
        pair.deliver(&Packet {
            source: at(crate::pair::A, 500),
            destination: at(crate::pair::B, 500),
            datagram,
        });
    }
    assert_eq!(pair.sent.len(), before, "dropped in silence");
    pair.deliver(&Packet {
        source: at(crate::pair::A, 500),
        destination: at(crate::pair::B, 500),
        datagram: whole,
    });
    assert!(open(&keys, &pair.sent[before]).is_empty(), "the Message ID is unchanged, the keys are kept");
    pair.assert_children(1);
    assert_eq!(pair.b.codes(), [OutcomeCode::Success, OutcomeCode::Success]);
}
