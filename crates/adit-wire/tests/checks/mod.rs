//! What must hold for any octets whatever: the bodies of the fuzz targets, and of the tests that replay their
//! corpora.
//!
//! One function per target. It panics if a decoder breaks its promise.

#![allow(dead_code, reason = "every fuzz target takes the check it needs")]

use std::net::IpAddr;

use adit_wire::esp::{EspHeader, EspTrailer};
use adit_wire::icmp::{self, Echo, Unreachable};
use adit_wire::ikev2::{
    ExchangeType, Flags, Fragment, Header, IkeSpi, Message, Payload, PayloadType, SkLayout, TrafficSelectors,
    Version,
};
use adit_wire::ip;
use adit_wire::natt::{self, Datagram4500};
use adit_wire::udp::UdpHeader;

/// A whole IKE datagram: decode, encode, decode is stable, and the Encrypted payload lies inside the datagram.
pub(crate) fn ikev2_message(data: &[u8]) {
    let message = match Message::decode(data) {
        Ok(message) => message,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert_eq!(usize::try_from(message.header.length), Ok(data.len()));
    if let Some(encrypted) = message.encrypted {
        assert_eq!(encrypted.end, data.len());
        assert!(encrypted.associated_data_len <= encrypted.end);
        assert!(encrypted.associated_data_len >= Header::LEN + 4);
        if let Some(Fragment { number, total }) = encrypted.fragment {
            assert!(1 <= number && number <= total);
        }
    }
    let encoded = Message::encode(&message.header, &message.payloads);
    let again = Message::decode(&encoded).expect("what we encode decodes");
    assert_eq!(again.payloads, message.payloads);
    assert_eq!(again.encrypted, None);
    assert_eq!(Message::encode(&again.header, &again.payloads), encoded);
    check_payloads(&message.payloads);
}

/// The content of an Encrypted payload, after an octet that is the type of its first payload.
pub(crate) fn ikev2_inner(data: &[u8]) {
    let Some((&first, chain)) = data.split_first() else { return };
    let Ok(payloads) = Message::decode_inner(PayloadType(first), chain) else { return };
    let (first_again, encoded) = Message::encode_inner(&payloads);
    assert_eq!(first_again, PayloadType(first));
    assert_eq!(encoded.len(), chain.len(), "no field is dropped or added");
    assert_eq!(Message::decode_inner(first_again, &encoded).as_ref(), Ok(&payloads));
    check_payloads(&payloads);

    let header = Header {
        initiator_spi: IkeSpi(1),
        responder_spi: IkeSpi(2),
        next_payload: PayloadType::NONE,
        version: Version::IKEV2,
        exchange: ExchangeType::INFORMATIONAL,
        flags: Flags::default(),
        message_id: 0,
        length: 0,
    };
    for layout in [
        SkLayout { iv_len: 8, block_len: 1, icv_len: 16 },
        SkLayout { iv_len: 16, block_len: 16, icv_len: 24 },
    ] {
        let draft = Message::encode_encrypted(&header, &payloads, layout);
        assert_eq!(draft.plaintext.len() % layout.block_len, 0);
        // One payload of at most 65,535 octets: a content that does not fit cannot be framed.
        if draft.datagram.len() - Header::LEN > usize::from(u16::MAX) {
            continue;
        }
        let encrypted = Message::decode(&draft.datagram).expect("what we frame decodes").encrypted;
        let encrypted = encrypted.expect("an Encrypted payload");
        assert_eq!(encrypted.first_inner, first_again);
        assert_eq!(draft.associated_data, 0..encrypted.associated_data_len);
        assert_eq!(draft.icv.end, encrypted.end);
        let plaintext = draft.datagram.get(draft.plaintext).unwrap_or_default();
        let (&padding, before) = plaintext.split_last().expect("a pad length");
        assert!(usize::from(padding) < layout.block_len);
        assert_eq!(before.get(..before.len() - usize::from(padding)), Some(encoded.as_slice()));
    }
}

fn check_payloads(payloads: &[Payload]) {
    assert!(payloads.len() <= Message::MAX_PAYLOADS);
    for payload in payloads {
        match payload {
            Payload::SecurityAssociation(sa) => {
                for proposal in &sa.proposals {
                    assert!(!proposal.to_string().is_empty());
                }
            }
            Payload::TrafficSelectorsInitiator(selectors) | Payload::TrafficSelectorsResponder(selectors) => {
                check_selectors(selectors);
            }
            Payload::Nonce(nonce) => assert!((16..=256).contains(&nonce.0.len())),
            _ => {}
        }
    }
}

fn check_selectors(selectors: &TrafficSelectors) {
    for selector in &selectors.selectors {
        assert!(selector.start <= selector.end);
        assert_eq!(selector.start.is_ipv4(), selector.end.is_ipv4());
        assert!(selector.covers(selector), "{selector} covers itself");
        let prefixes = selector.prefixes();
        assert!((1..=254).contains(&prefixes.len()));
        assert_eq!(prefixes.first().map(|(address, _)| *address), Some(selector.start));
        for other in &selectors.selectors {
            let common = selector.intersection(other);
            assert_eq!(common, other.intersection(selector));
            assert!(common.is_none_or(|common| selector.covers(&common) && other.covers(&common)));
        }
        assert!(!selector.to_string().is_empty());
    }
}

/// An IP packet: its flow does not depend on what follows it, and errors about it are packets themselves.
pub(crate) fn ip_flow(data: &[u8]) {
    let Ok(flow) = ip::flow(data) else { return };
    assert!(flow.total_len <= data.len());
    assert_eq!(flow.source.is_ipv4(), flow.destination.is_ipv4());
    assert!(!flow.fragment || (flow.source_port, flow.destination_port) == (None, None));
    let packet = data.get(..flow.total_len).unwrap_or_default();
    assert_eq!(ip::flow(packet), Ok(flow));
    let from: IpAddr =
        if flow.source.is_ipv4() { [192, 0, 2, 1].into() } else { [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into() };
    let unreachable = icmp::destination_unreachable(data, from, Unreachable::Prohibited);
    for error in [icmp::packet_too_big(data, from, 1280), unreachable].into_iter().flatten() {
        let back = ip::flow(&error).expect("what we build is a packet");
        assert_eq!((back.source, back.destination, back.total_len), (from, flow.source, error.len()));
        assert_eq!(icmp::packet_too_big(&error, flow.source, 1280), None, "no error about an error");
    }
    let payload = match ip::Ipv6Header::decode(data) {
        Ok(header) => {
            let upper = header.upper_layer(data).expect("the flow was read through it");
            data.get(upper.offset..flow.total_len)
        }
        Err(_) => {
            ip::Ipv4Header::decode(data).ok().and_then(|header| data.get(header.header_len..header.total_len))
        }
    };
    let payload = payload.expect("the payload is inside the packet");
    if let Ok((header, content)) = UdpHeader::decode(payload) {
        assert_eq!(usize::from(header.length), UdpHeader::LEN + content.len());
    }
    if let Ok(Some(echo)) = Echo::decode(flow.protocol, payload) {
        assert_eq!(echo.data.len() + 8, payload.len());
    }
}

/// A datagram of the NAT traversal port, and the same octets as a decrypted ESP payload.
pub(crate) fn esp_and_natt(data: &[u8]) {
    match natt::classify(data) {
        Ok(Datagram4500::Ike(message)) => assert_eq!(message.len() + 4, data.len()),
        Ok(Datagram4500::Esp(packet)) => assert_eq!(packet, data),
        Ok(Datagram4500::Keepalive) => assert_eq!(data, [0xff]),
        Err(_) => assert!(data.len() < 4),
    }
    if let Ok(header) = EspHeader::decode(data) {
        assert_eq!(data.first_chunk(), Some(&header.encode()));
    }
    if let Ok((payload, trailer)) = EspTrailer::decode(data) {
        let mut again = payload.to_vec();
        trailer.encode(&mut again);
        assert_eq!(again, data);
    }
}
