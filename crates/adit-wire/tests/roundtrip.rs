//! Whatever can be said goes over the wire unchanged.

#![cfg(test)]

use std::net::{Ipv4Addr, Ipv6Addr};

use adit_wire::ikev2::{
    AuthMethod, Authentication, CertEncoding, Certificate, CertificateRequest, CfgAttributeType, CfgType,
    Configuration, ConfigurationAttribute, Delete, Eap, ExchangeType, Flags, Header, IdType, Identification,
    IkeSpi, KeId, KeyExchange, Message, Nonce, Notify, NotifyType, Payload, PayloadType, Proposal,
    ProtocolId, SecurityAssociation, SkLayout, Spi, TrafficSelector, TrafficSelectors, Transform,
    TransformType, TsType, UnknownPayload, UnknownSelector, VendorId, Version,
};
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #[test]
    fn messages(header in header(), payloads in vec(payload(), 0..=12)) {
        let datagram = Message::encode(&header, &payloads);
        let message = Message::decode(&datagram).unwrap();
        prop_assert_eq!(&message.payloads, &payloads);
        prop_assert_eq!(message.encrypted, None);
        let next_payload = payloads.first().map_or(PayloadType::NONE, Payload::payload_type);
        let length = u32::try_from(datagram.len()).unwrap();
        prop_assert_eq!(message.header, Header { next_payload, length, ..header });
    }

    #[test]
    fn encrypted_messages(
        header in header(),
        payloads in vec(payload(), 0..=12),
        iv_len in 0usize..=16,
        block_len in prop_oneof![Just(1usize), Just(8), Just(16)],
        icv_len in 8usize..=32,
    ) {
        let draft = Message::encode_encrypted(&header, &payloads, SkLayout { iv_len, block_len, icv_len });
        let encrypted = Message::decode(&draft.datagram).unwrap().encrypted.unwrap();
        prop_assert_eq!(&draft.associated_data, &(0..encrypted.associated_data_len));
        prop_assert_eq!(encrypted.end, draft.datagram.len());
        prop_assert_eq!((draft.iv.len(), draft.icv.len()), (iv_len, icv_len));
        prop_assert_eq!((draft.iv.start, draft.iv.end), (draft.associated_data.end, draft.plaintext.start));
        prop_assert_eq!((draft.plaintext.end, draft.icv.end), (draft.icv.start, draft.datagram.len()));
        prop_assert_eq!(draft.plaintext.len() % block_len, 0);
        let (padding, inner) = draft.datagram[draft.plaintext].split_last().unwrap();
        let inner = &inner[..inner.len() - usize::from(*padding)];
        prop_assert_eq!(Message::decode_inner(encrypted.first_inner, inner).unwrap(), payloads);
    }
}

fn header() -> impl Strategy<Value = Header> {
    (any::<u64>(), any::<u64>(), any::<u8>(), any::<u32>(), any::<[bool; 3]>(), 0u8..16).prop_map(
        |(initiator_spi, responder_spi, exchange, message_id, [initiator, version, response], minor)| {
            Header {
                initiator_spi: IkeSpi(initiator_spi),
                responder_spi: IkeSpi(responder_spi),
                next_payload: PayloadType::NONE,
                version: Version { major: 2, minor },
                exchange: ExchangeType(exchange),
                flags: Flags { initiator, version, response },
                message_id,
                length: 0,
            }
        },
    )
}

fn octets(most: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=most)
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        vec(proposal(), 1..4)
            .prop_map(|proposals| Payload::SecurityAssociation(SecurityAssociation { proposals })),
        (any::<u16>(), octets(300))
            .prop_map(|(method, data)| Payload::KeyExchange(KeyExchange { method: KeId(method), data })),
        (any::<u8>(), octets(40), any::<bool>()).prop_map(|(id_type, data, initiator)| {
            let id = Identification::new(IdType(id_type), data);
            if initiator { Payload::IdInitiator(id) } else { Payload::IdResponder(id) }
        }),
        (any::<u8>(), octets(400)).prop_map(|(encoding, data)| {
            Payload::Certificate(Certificate { encoding: CertEncoding(encoding), data })
        }),
        (any::<u8>(), octets(60)).prop_map(|(encoding, authorities)| {
            Payload::CertificateRequest(CertificateRequest { encoding: CertEncoding(encoding), authorities })
        }),
        (any::<u8>(), octets(64)).prop_map(|(method, data)| {
            Payload::Authentication(Authentication { method: AuthMethod(method), data })
        }),
        vec(any::<u8>(), 16..=256).prop_map(|nonce| Payload::Nonce(Nonce(nonce))),
        (any::<u8>(), octets(255), any::<u16>(), octets(60)).prop_map(
            |(protocol, spi, notify_type, data)| {
                let notify_type = NotifyType(notify_type);
                Payload::Notify(Notify { protocol: ProtocolId(protocol), spi, notify_type, data })
            }
        ),
        (any::<bool>(), vec(any::<u32>().prop_map(Spi), 0..5)).prop_map(|(esp, spis)| {
            Payload::Delete(Delete { protocol: if esp { ProtocolId::ESP } else { ProtocolId::AH }, spis })
        }),
        Just(Payload::Delete(Delete { protocol: ProtocolId::IKE, spis: Vec::new() })),
        octets(40).prop_map(|id| Payload::VendorId(VendorId(id))),
        (vec(selector(), 0..5), vec(unknown_selector(), 0..2), any::<bool>()).prop_map(
            |(selectors, unknown, initiator)| {
                let selectors = TrafficSelectors { selectors, unknown };
                if initiator {
                    Payload::TrafficSelectorsInitiator(selectors)
                } else {
                    Payload::TrafficSelectorsResponder(selectors)
                }
            }
        ),
        (any::<u8>(), vec((0u16..0x8000, octets(20)), 0..5)).prop_map(|(cfg_type, attributes)| {
            let attributes = attributes
                .into_iter()
                .map(|(attribute_type, value)| ConfigurationAttribute {
                    attribute_type: CfgAttributeType(attribute_type),
                    value,
                })
                .collect();
            Payload::Configuration(Configuration { cfg_type: CfgType(cfg_type), attributes })
        }),
        (any::<u8>(), any::<u8>(), octets(60)).prop_map(|(code, identifier, data)| Payload::Eap(Eap {
            code,
            identifier,
            data
        })),
        (prop_oneof![1u8..=32, 54u8..=255], any::<bool>(), octets(60)).prop_map(
            |(payload_type, critical, body)| {
                Payload::Unknown(UnknownPayload { payload_type: PayloadType(payload_type), critical, body })
            }
        ),
    ]
}

fn proposal() -> impl Strategy<Value = Proposal> {
    let transform =
        (any::<u8>(), any::<u16>(), any::<Option<u16>>()).prop_map(|(transform_type, id, key_length)| {
            Transform::new(TransformType(transform_type), id, key_length)
        });
    let protocol_and_spi = prop_oneof![
        Just((1, Vec::new())),
        vec(any::<u8>(), 8).prop_map(|spi| (1, spi)),
        (2u8..=3, vec(any::<u8>(), 4)),
        (4u8..=255, octets(255)),
    ];
    (any::<u8>(), protocol_and_spi, vec(transform, 0..20)).prop_map(
        |(number, (protocol, spi), transforms)| Proposal {
            number,
            protocol: ProtocolId(protocol),
            spi,
            transforms,
        },
    )
}

fn selector() -> impl Strategy<Value = TrafficSelector> {
    let addresses = prop_oneof![
        any::<[u32; 2]>().prop_map(|[a, b]| {
            (Ipv4Addr::from_bits(a.min(b)).into(), Ipv4Addr::from_bits(a.max(b)).into())
        }),
        any::<[u128; 2]>().prop_map(|[a, b]| {
            (Ipv6Addr::from_bits(a.min(b)).into(), Ipv6Addr::from_bits(a.max(b)).into())
        }),
    ];
    let ports = prop_oneof![Just((65535, 0)), any::<[u16; 2]>().prop_map(|[a, b]| (a.min(b), a.max(b)))];
    (any::<u8>(), ports, addresses).prop_map(|(protocol, (start_port, end_port), (start, end))| {
        TrafficSelector { protocol, start_port, end_port, start, end }
    })
}

fn unknown_selector() -> impl Strategy<Value = UnknownSelector> {
    (9u8..=255, any::<u8>(), octets(30)).prop_map(|(ts_type, second_octet, body)| UnknownSelector {
        ts_type: TsType(ts_type),
        second_octet,
        body,
    })
}
