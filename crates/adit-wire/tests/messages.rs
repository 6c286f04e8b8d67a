//! Whole messages, against octets that others made.

#![cfg(test)]

mod checks;
mod samples;

use adit_wire::ikev2::{
    EncrId, Encrypted, EsnId, ExchangeType, Flags, Fragment, Header, IdType, IkeSpi, KeId, Message,
    NotifyType, Payload, PayloadType, PrfId, Proposal, ProtocolId, SkLayout, Spi, TrafficSelector, Transform,
    UnknownPayload, Version,
};
use samples::bytes;

/// AES-GCM in IKE: 8 octets of IV, 16 of ICV, no padding.
const GCM: SkLayout = SkLayout { iv_len: 8, block_len: 1, icv_len: 16 };

fn proposal_of(payload: &Payload) -> &Proposal {
    match payload {
        Payload::SecurityAssociation(sa) if sa.proposals.len() == 1 => &sa.proposals[0],
        other => panic!("one proposal expected, not {other:?}"),
    }
}

#[test]
fn strongswan_ike_sa_init_request() {
    let datagram = bytes(samples::INIT_REQUEST);
    let message = Message::decode(&datagram).unwrap();
    assert_eq!(
        message.header,
        Header {
            initiator_spi: IkeSpi(0xdbae_2166_c4c3_165f),
            responder_spi: IkeSpi::ZERO,
            next_payload: PayloadType::SA,
            version: Version::IKEV2,
            exchange: ExchangeType::IKE_SA_INIT,
            flags: Flags { initiator: true, version: false, response: false },
            message_id: 0,
            length: 264,
        }
    );
    assert_eq!(message.encrypted, None);
    let [sa, Payload::KeyExchange(ke), Payload::Nonce(nonce), notifies @ ..] = message.payloads.as_slice()
    else {
        panic!("{:?}", message.payloads);
    };
    let proposal = proposal_of(sa);
    // As strongSwan's own log has it.
    assert_eq!(proposal.to_string(), "IKE:AES_GCM_16_128/PRF_HMAC_SHA2_256/ECP_256");
    assert_eq!((proposal.number, proposal.protocol, proposal.spi.len()), (1, ProtocolId::IKE, 0));
    assert_eq!(
        proposal.transforms,
        [
            Transform::encr(EncrId::AES_GCM_16, Some(128)),
            Transform::prf(PrfId::HMAC_SHA2_256),
            Transform::ke(KeId::ECP_256),
        ]
    );
    assert_eq!((ke.method, ke.data.len()), (KeId::ECP_256, 64));
    assert_eq!(nonce.0[..4], [0xba, 0xeb, 0xd0, 0x47]);
    let notifies: Vec<_> = notifies
        .iter()
        .map(|payload| match payload {
            Payload::Notify(notify) => (notify.notify_type, notify.data.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        notifies,
        [
            (NotifyType::NAT_DETECTION_SOURCE_IP, 20),
            (NotifyType::NAT_DETECTION_DESTINATION_IP, 20),
            (NotifyType::IKEV2_FRAGMENTATION_SUPPORTED, 0),
            (NotifyType::SIGNATURE_HASH_ALGORITHMS, 8),
            (NotifyType::REDIRECT_SUPPORTED, 0),
        ]
    );
    assert_eq!(Message::encode(&message.header, &message.payloads), datagram);
}

#[test]
fn strongswan_ike_sa_init_response() {
    let datagram = bytes(samples::INIT_RESPONSE);
    let message = Message::decode(&datagram).unwrap();
    assert_eq!(message.header.responder_spi, IkeSpi(0x4bf5_5ff6_b484_e814));
    assert_eq!(message.header.flags, Flags { initiator: false, version: false, response: true });
    assert_eq!(message.payloads.len(), 9);
    assert_eq!(Message::encode(&message.header, &message.payloads), datagram);
}

#[test]
fn strongswan_ike_auth() {
    let datagram = bytes(samples::AUTH_REQUEST);
    let message = Message::decode(&datagram).unwrap();
    assert_eq!(message.payloads, []);
    assert_eq!(
        message.encrypted,
        Some(Encrypted {
            first_inner: PayloadType::IDI,
            fragment: None,
            announced_at: 16,
            associated_data_len: 32,
            end: 319
        })
    );

    let inner = bytes(samples::AUTH_REQUEST_INNER);
    let payloads = Message::decode_inner(PayloadType::IDI, &inner).unwrap();
    let [
        Payload::IdInitiator(id_i),
        Payload::Notify(initial_contact),
        Payload::IdResponder(id_r),
        Payload::Authentication(auth),
        sa,
        Payload::TrafficSelectorsInitiator(ts_i),
        Payload::TrafficSelectorsResponder(ts_r),
        Payload::Notify(_),
        Payload::Notify(_),
        Payload::Notify(_),
    ] = payloads.as_slice()
    else {
        panic!("{payloads:?}");
    };
    assert_eq!((id_i.id_type, id_i.data.as_slice()), (IdType::FQDN, b"a.lab".as_slice()));
    // What strongSwan logged as IDx', the part of the payload that AUTH covers.
    assert_eq!(id_i.body(), b"\x02\0\0\0a.lab");
    assert_eq!(id_r.data, b"b.lab");
    assert_eq!(initial_contact.notify_type, NotifyType::INITIAL_CONTACT);
    assert_eq!((auth.method.to_string().as_str(), auth.data.len()), ("SHARED_KEY", 32));
    let proposal = proposal_of(sa);
    assert_eq!(proposal.to_string(), "ESP:AES_GCM_16_128/NO_EXT_SEQ");
    assert_eq!(
        (proposal.protocol, proposal.spi.as_slice()),
        (ProtocolId::ESP, [0xf1, 0x3a, 0x58, 0xc5].as_slice())
    );
    assert_eq!(proposal.transforms[1], Transform::esn(EsnId::NO_ESN));
    let display =
        |selectors: &[TrafficSelector]| selectors.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(display(&ts_i.selectors), ["10.1.0.0/24", "fd00:1::/64"]);
    assert_eq!(display(&ts_r.selectors), ["10.2.0.0/24", "fd00:2::/64"]);

    // Our layout of the same payloads differs in IV, ciphertext and ICV only.
    let draft = Message::encode_encrypted(&message.header, &payloads, GCM);
    assert_eq!(draft.datagram.len(), datagram.len());
    assert_eq!(draft.datagram[draft.associated_data.clone()], datagram[..32]);
    assert_eq!((draft.iv, draft.icv), (32..40, 303..319));
    assert_eq!(draft.datagram[draft.plaintext], [inner.as_slice(), &[0]].concat());
}

#[test]
fn rfc7634_example() {
    let datagram = bytes(samples::RFC7634_INFORMATIONAL);
    let message = Message::decode(&datagram).unwrap();
    assert_eq!(message.header.exchange, ExchangeType::INFORMATIONAL);
    assert_eq!(message.header.message_id, 9);
    let encrypted = message.encrypted.unwrap();
    assert_eq!((encrypted.first_inner, encrypted.associated_data_len), (PayloadType::NOTIFY, 32));
    // The RFC: IV 10..17, ciphertext 61 .. 89, tag 6b .. b2.
    assert_eq!(datagram[32..40], [0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17]);
    assert_eq!((datagram[40], datagram[52], datagram[53]), (0x61, 0x89, 0x6b));

    let payloads = Message::decode_inner(encrypted.first_inner, &bytes(samples::RFC7634_INNER)).unwrap();
    let [Payload::Notify(notify)] = payloads.as_slice() else { panic!("{payloads:?}") };
    assert_eq!(
        (notify.notify_type, notify.data.as_slice()),
        (NotifyType::SET_WINDOW_SIZE, [0, 0, 0, 10].as_slice())
    );

    let draft = Message::encode_encrypted(&message.header, &payloads, GCM);
    assert_eq!(draft.datagram[draft.associated_data], datagram[..32]);
    assert_eq!(draft.datagram[draft.plaintext], bytes("0000000c000040010000000a00"));
}

#[test]
fn block_ciphers_are_padded_to_their_block() {
    let header = Message::decode(&bytes(samples::RFC7634_INFORMATIONAL)).unwrap().header;
    let layout = SkLayout { iv_len: 16, block_len: 16, icv_len: 16 };
    for (octets, padding) in [(0, 7), (6, 1), (7, 0), (8, 15)] {
        // 4 octets of generic header, 4 of notify header, the data, the padding and its length.
        let notify = adit_wire::ikev2::Notify::new(NotifyType::COOKIE2, vec![1; octets]);
        let draft = Message::encode_encrypted(&header, &[Payload::Notify(notify)], layout);
        assert_eq!(draft.plaintext, 48..48 + 8 + octets + padding + 1);
        assert_eq!(draft.plaintext.len() % 16, 0);
        assert_eq!(usize::from(draft.datagram[draft.plaintext.end - 1]), padding);
        assert_eq!(draft.icv.end, draft.datagram.len());
    }
    // Nothing inside: what a liveness check looks like.
    let draft = Message::encode_encrypted(&header, &[], layout);
    assert_eq!(draft.datagram[28], 0);
    assert_eq!(draft.plaintext, 48..64);
    assert_eq!(Message::decode_inner(PayloadType::NONE, &[]), Ok(Vec::new()));
}

#[test]
fn fragments() {
    // RFC 7383 2.5, by hand: fragment 2 of 3, then IV, ciphertext and ICV.
    let mut datagram =
        bytes("0102030405060708 1112131415161718 35202308 00000001 00000040 00000024 00020003");
    datagram.extend([0xaa; 28]);
    let message = Message::decode(&datagram).unwrap();
    assert_eq!(
        message.encrypted,
        Some(Encrypted {
            first_inner: PayloadType::NONE,
            fragment: Some(Fragment { number: 2, total: 3 }),
            announced_at: 16,
            associated_data_len: 36,
            end: 64,
        })
    );
    let draft = Message::encode_fragment(
        &message.header,
        PayloadType::IDI,
        Fragment { number: 2, total: 3 },
        &[0xaa; 3],
        GCM,
    );
    assert_eq!(draft.associated_data, 0..36);
    assert_eq!(draft.datagram[..36], datagram[..36]);
    let first = Message::encode_fragment(
        &message.header,
        PayloadType::IDI,
        Fragment { number: 1, total: 3 },
        &[0xaa; 3],
        GCM,
    );
    assert_eq!(first.datagram[28..36], [35, 0, 0, 0x24, 0, 1, 0, 3]);

    for bad in [[0, 0, 0, 3], [0, 4, 0, 3], [0, 0, 0, 0]] {
        datagram[32..36].copy_from_slice(&bad);
        let error = Message::decode(&datagram).unwrap_err();
        assert_eq!(error.to_string(), "SKF payload: fragment number not between 1 and the total");
    }
}

/// RFC 9242 3.3.2, by hand: lengths without IV, padding and ICV, the types of an Encrypted payload, and all that is
/// reserved as the first fragment has it.
#[test]
fn a_message_without_encryption_is_the_same_whole_or_cut() {
    let whole = "0102030405060708 1112131415161718 2e202b08 00000001 00000026 2980000a";
    let sent = |first: &str| {
        let mut datagram = bytes(first);
        datagram.extend([0xaa; 28]);
        let encrypted = Message::decode(&datagram).unwrap().encrypted.unwrap();
        encrypted.without_encryption(&datagram, &[1, 2, 3, 4, 5, 6])
    };
    let expected = bytes(&format!("{whole} 010203040506"));
    let in_one = "0102030405060708 1112131415161718 2e202b08 00000001 0000003c 29800020";
    assert_eq!(sent(in_one), expected);
    let in_two = "0102030405060708 1112131415161718 35202b08 00000001 00000040 29800024 00010002";
    assert_eq!(sent(in_two), expected);
    let after_another =
        "0102030405060708 1112131415161718 2b202b08 00000001 00000045 35000005 ff 29800024 00010002";
    let expected =
        "0102030405060708 1112131415161718 2b202b08 00000001 0000002b 2e000005 ff 2980000a 010203040506";
    assert_eq!(sent(after_another), bytes(expected));
}

#[test]
fn reserved_bits_minor_version_and_critical_bits_mean_nothing() {
    let datagram = bytes(samples::INIT_REQUEST);
    let clean = Message::decode(&datagram).unwrap();
    let mut dirty = datagram.clone();
    dirty[17] = 0x2f; // version 2.15
    dirty[19] |= 0xc7; // reserved flags
    dirty[29] = 0xff; // SA: critical, and every reserved bit
    dirty[33] = 0xff; // proposal: RESERVED
    dirty[41] = 0xff; // first transform: RESERVED, twice
    dirty[45] = 0xff;
    dirty[69] = 0xff; // KE: critical and reserved bits, then RESERVED
    dirty[74] = 0xff;
    let dirty_message = Message::decode(&dirty).unwrap();
    assert_eq!(dirty_message.payloads, clean.payloads);
    assert_eq!(dirty_message.header.flags, clean.header.flags);
    assert_eq!(dirty_message.header.version, Version { major: 2, minor: 15 });
}

/// Header of an INFORMATIONAL request in the clear whose first payload is `first`, with `body` after it.
fn with_header(first: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(28 + body.len()).unwrap();
    let mut datagram = bytes("0102030405060708 1112131415161718");
    datagram.extend([first, 0x20, 37, 0x08, 0, 0, 0, 7]);
    datagram.extend(length.to_be_bytes());
    datagram.extend(body);
    datagram
}

fn error(datagram: &[u8]) -> String {
    Message::decode(datagram).unwrap_err().to_string()
}

#[test]
fn short_datagrams() {
    let datagram = bytes(samples::INIT_REQUEST);
    for length in 0..28 {
        assert!(error(&datagram[..length]).starts_with("IKE header: "), "{length}");
    }
    assert_eq!(error(&datagram[..28]), "IKE header: length 264 beyond the 28 available");
}

#[test]
fn length_field_lies() {
    let with_length = |length: u32| {
        let mut datagram = bytes(samples::INIT_REQUEST);
        datagram[24..28].copy_from_slice(&length.to_be_bytes());
        error(&datagram)
    };
    assert_eq!(with_length(0), "IKE header: length 0 below 28");
    assert_eq!(with_length(27), "IKE header: length 27 below 28");
    assert_eq!(with_length(28), "IKE header: 236 octets follow its end");
    assert_eq!(with_length(263), "IKE header: 1 octets follow its end");
    assert_eq!(with_length(265), "IKE header: length 265 beyond the 264 available");
    assert_eq!(with_length(u32::MAX), "IKE header: length 4294967295 beyond the 264 available");
}

#[test]
fn other_versions() {
    let mut datagram = bytes(samples::INIT_REQUEST);
    for version in [0x10, 0x30, 0xf0] {
        datagram[17] = version;
        assert_eq!(error(&datagram), "IKE header: major version is not 2");
        // The header alone is readable, for INVALID_MAJOR_VERSION.
        assert_eq!(Header::decode(&datagram).unwrap().version.major, version >> 4);
    }
}

#[test]
fn payload_length_lies() {
    for length in 0..4 {
        let why = format!("IKE message: payload 1: length {length} below 4");
        assert_eq!(error(&with_header(43, &[0, 0, 0, length])), why);
    }
    assert_eq!(error(&with_header(43, &[0, 0, 0])), "IKE message: payload 1: 2 octets needed, 1 left");
    assert_eq!(
        error(&with_header(43, &[0, 0, 0, 5])),
        "IKE message: payload 1: length 5 beyond the 4 available"
    );
    assert_eq!(
        error(&with_header(43, &[0, 0, 0xff, 0xff])),
        "IKE message: payload 1: length 65535 beyond the 4 available"
    );
    assert_eq!(error(&with_header(43, &[0, 0, 0, 4, 9])), "IKE message: 1 octets follow its end");
    assert_eq!(error(&with_header(0, &[9])), "IKE message: 1 octets follow its end");
    // The chain goes on but the message does not.
    assert_eq!(error(&with_header(43, &[43, 0, 0, 4])), "IKE message: payload 2: 1 octets needed, 0 left");
    assert_eq!(Message::decode(&with_header(0, &[])).unwrap().payloads, []);
}

#[test]
fn payloads_are_counted() {
    let chain = |count: usize| {
        let mut body = [43, 0, 0, 4].repeat(count);
        if let Some(last) = body.len().checked_sub(4) {
            body[last] = 0;
        }
        body
    };
    assert_eq!(Message::decode(&with_header(43, &chain(64))).unwrap().payloads.len(), 64);
    for count in [65, 10_000] {
        assert_eq!(error(&with_header(43, &chain(count))), "IKE message's payloads: more than 64");
        let inner = Message::decode_inner(PayloadType::VENDOR, &chain(count));
        assert_eq!(inner.unwrap_err().to_string(), "IKE message's payloads: more than 64");
    }
    // Outside an Encrypted payload just as well (CVE-2026-12413).
    let mut outside = [200, 0, 0, 4].repeat(64);
    outside[63 * 4] = 53;
    outside.extend([0, 0, 0, 8, 0, 1, 0, 1]);
    assert_eq!(error(&with_header(200, &outside)), "IKE message's payloads: more than 64");
}

#[test]
fn unknown_payloads_are_kept() {
    for payload_type in (1..=32).chain(49..=52).chain(54..=255) {
        for critical in [false, true] {
            let body = [0, if critical { 0x80 } else { 0x7f }, 0, 6, 0xab, 0xcd];
            let message = Message::decode(&with_header(payload_type, &body)).unwrap();
            assert_eq!(
                message.payloads,
                [Payload::Unknown(UnknownPayload {
                    payload_type: PayloadType(payload_type),
                    critical,
                    body: vec![0xab, 0xcd]
                })]
            );
        }
    }
}

#[test]
fn encrypted_payload_is_the_last_and_not_inside_itself() {
    let why = "IKE message: the Encrypted payload is not the last one";
    assert_eq!(error(&with_header(46, &[43, 0, 0, 5, 1, 0, 0, 0, 4])), why);
    for nested in [46, 53] {
        let inner = Message::decode_inner(PayloadType(nested), &[0, 0, 0, 4]);
        assert_eq!(
            inner.unwrap_err().to_string(),
            "Encrypted payload's content: an Encrypted payload inside"
        );
    }
    // Payloads before it are read.
    let message = Message::decode(&with_header(43, &[46, 0, 0, 5, 7, 41, 0, 0, 6, 1, 2])).unwrap();
    assert_eq!(message.payloads.len(), 1);
    let encrypted = message.encrypted.unwrap();
    assert_eq!((encrypted.associated_data_len, encrypted.end), (37, 39));
}

#[test]
fn order_of_payloads_is_free() {
    let message = Message::decode(&bytes(samples::INIT_REQUEST)).unwrap();
    let mut reversed = message.payloads.clone();
    reversed.reverse();
    let again = Message::decode(&Message::encode(&message.header, &reversed)).unwrap();
    assert_eq!(again.payloads, reversed);
}

/// Every truncation and every change of one octet, of every sample: no panic, and what still decodes is stable.
#[test]
fn every_mutation() {
    let messages = [
        samples::INIT_REQUEST,
        samples::INIT_RESPONSE,
        samples::AUTH_REQUEST,
        samples::AUTH_RESPONSE,
        samples::RFC7634_INFORMATIONAL,
    ];
    for sample in messages {
        mutate(&bytes(sample), 28, checks::ikev2_message);
    }
    let inner =
        [(35, samples::AUTH_REQUEST_INNER), (36, samples::AUTH_RESPONSE_INNER), (41, samples::RFC7634_INNER)];
    for (first, sample) in inner {
        let data = [&[first], bytes(sample).as_slice()].concat();
        mutate(&data, 0, checks::ikev2_inner);
    }
}

/// Where there is an IKE header its length field is made to fit the truncation in a second attempt.
fn mutate(sample: &[u8], header_len: usize, check: fn(&[u8])) {
    check(sample);
    for length in 0..sample.len() {
        let mut truncated = sample[..length].to_vec();
        check(&truncated);
        if header_len > 0 && length >= header_len {
            truncated[24..28].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
            check(&truncated);
        }
    }
    let mut changed = sample.to_vec();
    for at in 0..sample.len() {
        for octet in 0..=255 {
            changed[at] = octet;
            check(&changed);
        }
        changed[at] = sample[at];
    }
}

#[test]
fn numbers_print_their_names() {
    assert_eq!(ExchangeType::IKE_FOLLOWUP_KE.to_string(), "IKE_FOLLOWUP_KE");
    assert_eq!(ExchangeType(240).to_string(), "ExchangeType(240)");
    assert_eq!(format!("{:?}", KeId(36)), "ML_KEM_768");
    assert_eq!(format!("{:?}", EncrId(1024)), "EncrId(1024)");
    assert_eq!(format!("[{:>8}]", PayloadType::TSI), "[     TSi]");
    assert_eq!(
        (Spi(0xc5).to_string(), IkeSpi(0x1f).to_string()),
        ("000000c5".into(), "000000000000001f".into())
    );
    assert!(NotifyType::NO_PROPOSAL_CHOSEN.is_error() && NotifyType(16_383).is_error());
    assert!(!NotifyType(0).is_error() && !NotifyType::INITIAL_CONTACT.is_error());
}
