//! Payload by payload, with octets laid out by hand from the diagrams of RFC 7296 section 3.

#![cfg(test)]

mod samples;

use adit_wire::ikev2::{
    AuthMethod, Authentication, CertEncoding, Certificate, CertificateRequest, CfgAttributeType, CfgType,
    Configuration, ConfigurationAttribute, Delete, Eap, EncrId, EsnId, IdType, Identification, IntegId, KeId,
    KeyExchange, Message, Nonce, Notify, NotifyType, Payload, PayloadType, PrfId, Proposal, ProtocolId,
    SecurityAssociation, Spi, TrafficSelector, TrafficSelectors, Transform, TransformType, TsType,
    UnknownSelector, VendorId,
};
use samples::bytes;

/// One payload with its generic header.
fn framed(body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[0, 0], length.as_slice(), body].concat()
}

fn decode(payload_type: PayloadType, body: &str) -> Result<Payload, String> {
    match Message::decode_inner(payload_type, &framed(&bytes(body))) {
        Ok(payloads) => Ok(payloads.into_iter().next().unwrap()),
        Err(error) => Err(error.to_string()),
    }
}

#[track_caller]
fn both_ways(body: &str, payload: Payload) {
    assert_eq!(decode(payload.payload_type(), body).as_ref(), Ok(&payload));
    let (first, encoded) = Message::encode_inner(std::slice::from_ref(&payload));
    assert_eq!(first, payload.payload_type());
    assert_eq!(hex::encode(encoded), hex::encode(framed(&bytes(body))));
}

#[track_caller]
fn refused(payload_type: PayloadType, body: &str, why: &str) {
    assert_eq!(decode(payload_type, body), Err(why.to_owned()));
}

#[test]
fn key_exchange() {
    both_ways(
        "001f 0000 01020304",
        Payload::KeyExchange(KeyExchange { method: KeId::CURVE_25519, data: vec![1, 2, 3, 4] }),
    );
    both_ways("0025 0000", Payload::KeyExchange(KeyExchange { method: KeId::ML_KEM_1024, data: vec![] }));
    refused(PayloadType::KE, "001f00", "KE payload: 2 octets needed, 1 left");
}

#[test]
fn identification() {
    both_ways(
        "01 000000 c0000201",
        Payload::IdInitiator(Identification::new(IdType::IPV4_ADDR, vec![192, 0, 2, 1])),
    );
    both_ways(
        "03 000000 614062",
        Payload::IdResponder(Identification::new(IdType::RFC822_ADDR, b"a@b".to_vec())),
    );
    both_ways("0d 000000", Payload::IdInitiator(Identification::new(IdType::NULL, vec![])));
    refused(PayloadType::IDR, "010000", "ID payload: 3 octets needed, 2 left");
    // AUTH covers the payload as it was sent, reserved octets and all (RFC 7296 2.15).
    let Ok(Payload::IdInitiator(id)) = decode(PayloadType::IDI, "02 abcdef 61") else { panic!() };
    assert_eq!(id.body(), bytes("02abcdef61"));
}

#[test]
fn certificates() {
    both_ways(
        "04 3003",
        Payload::Certificate(Certificate { encoding: CertEncoding::X509_SIGNATURE, data: vec![0x30, 3] }),
    );
    both_ways(
        "04 0102",
        Payload::CertificateRequest(CertificateRequest {
            encoding: CertEncoding::X509_SIGNATURE,
            authorities: vec![1, 2],
        }),
    );
    refused(PayloadType::CERT, "", "CERT payload: 1 octets needed, 0 left");
    refused(PayloadType::CERTREQ, "", "CERTREQ payload: 1 octets needed, 0 left");
}

#[test]
fn authentication() {
    both_ways(
        "02 000000 aabb",
        Payload::Authentication(Authentication { method: AuthMethod::SHARED_KEY, data: vec![0xaa, 0xbb] }),
    );
    refused(PayloadType::AUTH, "02", "AUTH payload: 3 octets needed, 0 left");
}

#[test]
fn nonce() {
    for length in [16, 32, 256] {
        both_ways(&"5a".repeat(length), Payload::Nonce(Nonce(vec![0x5a; length])));
    }
    refused(PayloadType::NONCE, &"5a".repeat(15), "Nonce payload: length 15 below 16");
    refused(PayloadType::NONCE, &"5a".repeat(257), "Nonce payload: more than 256");
}

#[test]
fn notify() {
    both_ways("00 00 400e 01", Payload::Notify(Notify::new(NotifyType(16_398), vec![1])));
    both_ways(
        "03 04 4009 0a0b0c0d",
        Payload::Notify(Notify {
            protocol: ProtocolId::ESP,
            spi: vec![10, 11, 12, 13],
            notify_type: NotifyType::REKEY_SA,
            data: vec![],
        }),
    );
    both_ways("00 00 0011 001f", Payload::Notify(Notify::new(NotifyType::INVALID_KE_PAYLOAD, vec![0, 31])));
    refused(PayloadType::NOTIFY, "03 04 4009 0a0b0c", "Notify payload: length 4 beyond the 3 available");
    refused(PayloadType::NOTIFY, "03 04 40", "Notify payload: 2 octets needed, 1 left");
}

#[test]
fn delete() {
    both_ways("01 00 0000", Payload::Delete(Delete { protocol: ProtocolId::IKE, spis: vec![] }));
    both_ways(
        "03 04 0002 0a0b0c0d 01020304",
        Payload::Delete(Delete { protocol: ProtocolId::ESP, spis: vec![Spi(0x0a0b_0c0d), Spi(0x0102_0304)] }),
    );
    both_ways("02 04 0000", Payload::Delete(Delete { protocol: ProtocolId::AH, spis: vec![] }));
    for (body, why) in [
        ("03 04 0002 0a0b0c0d", "Delete payload: length 4 must be 8"),
        ("03 04 0001 0a0b0c0d 00", "Delete payload: length 5 must be 4"),
        ("03 04 ffff 0a0b0c0d", "Delete payload: length 4 must be 262140"),
        ("03 00 0001", "Delete payload: length 0 must be 4"),
        ("03 08 0001 0a0b0c0d 0a0b0c0d", "Delete payload: length 8 must be 4"),
        ("01 08 0001 0a0b0c0d 0a0b0c0d", "Delete payload: length 8 must be 0"),
        ("01 00 0000 00", "Delete payload: length 1 must be 0"),
        ("00 04 0001 0a0b0c0d", "Delete payload: protocol is none of IKE, AH and ESP"),
        ("03 04 00", "Delete payload: 2 octets needed, 1 left"),
    ] {
        refused(PayloadType::DELETE, body, why);
    }
}

#[test]
fn vendor_id() {
    both_ways("61646974", Payload::VendorId(VendorId(b"adit".to_vec())));
    both_ways("", Payload::VendorId(VendorId(vec![])));
}

#[test]
fn configuration() {
    both_ways(
        "01 000000 0001 0000 0003 0004 08080808",
        Payload::Configuration(Configuration {
            cfg_type: CfgType::REQUEST,
            attributes: vec![
                ConfigurationAttribute {
                    attribute_type: CfgAttributeType::INTERNAL_IP4_ADDRESS,
                    value: vec![],
                },
                ConfigurationAttribute {
                    attribute_type: CfgAttributeType::INTERNAL_IP4_DNS,
                    value: vec![8; 4],
                },
            ],
        }),
    );
    both_ways(
        "04 000000",
        Payload::Configuration(Configuration { cfg_type: CfgType::ACK, attributes: vec![] }),
    );
    // The top bit of an attribute's type is reserved.
    let Ok(Payload::Configuration(cp)) = decode(PayloadType::CP, "02 000000 8001 0000") else { panic!() };
    assert_eq!(cp.attributes[0].attribute_type, CfgAttributeType::INTERNAL_IP4_ADDRESS);
    refused(
        PayloadType::CP,
        "01 000000 0001 0001",
        "CP payload: attribute 1: length 1 beyond the 0 available",
    );
    refused(PayloadType::CP, "01 000000 0001 0000 00", "CP payload: attribute 2: 2 octets needed, 1 left");
    refused(PayloadType::CP, "01", "CP payload: 3 octets needed, 0 left");
}

#[test]
fn eap() {
    // RFC 3748 4.1: an identity request, and 4.2: success.
    both_ways("01 07 0005 01", Payload::Eap(Eap { code: 1, identifier: 7, data: vec![1] }));
    both_ways("03 07 0004", Payload::Eap(Eap { code: 3, identifier: 7, data: vec![] }));
    refused(PayloadType::EAP, "01 07 0006 01", "EAP payload: length 6 must be 5");
    refused(PayloadType::EAP, "01 07 0004 01", "EAP payload: length 4 must be 5");
    refused(PayloadType::EAP, "01 07 00", "EAP payload: 2 octets needed, 1 left");
}

fn sa(proposals: Vec<Proposal>) -> Payload {
    Payload::SecurityAssociation(SecurityAssociation { proposals })
}

#[test]
fn security_association() {
    let proposal = |number, spi: &str, transforms| Proposal {
        number,
        protocol: ProtocolId::ESP,
        spi: bytes(spi),
        transforms,
    };
    // The example drawn in RFC 7296 3.3.
    both_ways(
        "02 00 0050 01 03 04 07 052357bb
           03 00 000c 01 00 000c 800e 0080
           03 00 000c 01 00 000c 800e 00c0
           03 00 000c 01 00 000c 800e 0100
           03 00 0008 03 00 0002
           03 00 0008 03 00 0005
           03 00 0008 05 00 0001
           00 00 0008 05 00 0000
         00 00 0034 02 03 04 04 35a1d6f2
           03 00 000c 01 00 0012 800e 0080
           03 00 000c 01 00 0012 800e 0100
           03 00 0008 05 00 0001
           00 00 0008 05 00 0000",
        sa(vec![
            proposal(
                1,
                "052357bb",
                vec![
                    Transform::encr(EncrId::AES_CBC, Some(128)),
                    Transform::encr(EncrId::AES_CBC, Some(192)),
                    Transform::encr(EncrId::AES_CBC, Some(256)),
                    Transform::integ(IntegId::HMAC_SHA1_96),
                    Transform::integ(IntegId::AES_XCBC_96),
                    Transform::esn(EsnId::ESN),
                    Transform::esn(EsnId::NO_ESN),
                ],
            ),
            proposal(
                2,
                "35a1d6f2",
                vec![
                    Transform::encr(EncrId::AES_GCM_8, Some(128)),
                    Transform::encr(EncrId::AES_GCM_8, Some(256)),
                    Transform::esn(EsnId::ESN),
                    Transform::esn(EsnId::NO_ESN),
                ],
            ),
        ]),
    );
}

#[test]
fn proposals_print_as_operators_know_them() {
    let proposal = Proposal {
        number: 1,
        protocol: ProtocolId::IKE,
        spi: vec![],
        transforms: vec![
            Transform::encr(EncrId::AES_CBC, Some(256)),
            Transform::integ(IntegId::HMAC_SHA2_256_128),
            Transform::prf(PrfId::HMAC_SHA2_256),
            Transform::ke(KeId::MODP_2048),
            Transform::new(TransformType::ADDKE1, KeId::ML_KEM_768.0, None),
            Transform::new(TransformType(99), 7, None),
        ],
    };
    assert_eq!(
        proposal.to_string(),
        "IKE:AES_CBC_256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048/ADDKE1=ML_KEM_768/TransformType(99)=7"
    );
}

#[test]
fn transform_attributes() {
    let transform = |attributes: &str| {
        let attributes = bytes(attributes);
        let (t, p) = (8 + attributes.len(), 16 + attributes.len());
        let body = format!("000000{p:02x} 01010001 000000{t:02x} 0100000c {}", hex::encode(&attributes));
        let payload = decode(PayloadType::SA, &body).unwrap();
        // Whatever the attributes are, they go out as they came in, a key length first.
        let (_, encoded) = Message::encode_inner(std::slice::from_ref(&payload));
        assert_eq!(
            Message::decode_inner(PayloadType::SA, &encoded).as_deref(),
            Ok(std::slice::from_ref(&payload))
        );
        let Payload::SecurityAssociation(sa) = payload else { panic!() };
        let transform = sa.proposals[0].transforms[0].clone();
        (transform.key_length, transform.unknown_attributes)
    };
    assert_eq!(transform(""), (None, false));
    assert_eq!(transform("800e 0100"), (Some(256), false));
    assert_eq!(transform("800e 0000"), (Some(0), false));
    // Unknown, in both formats.
    assert_eq!(transform("8011 0001"), (None, true));
    assert_eq!(transform("0011 0002 abcd 800e 0080"), (Some(128), true));
    assert_eq!(transform("0011 0000"), (None, true));
    // A key length that is repeated or not two octets of value: not to be chosen.
    assert_eq!(transform("800e 0080 800e 0100"), (Some(128), true));
    assert_eq!(transform("000e 0002 0080"), (None, true));
}

#[test]
fn security_association_lies() {
    for (body, why) in [
        ("", "SA payload: proposal 1: 1 octets needed, 0 left"),
        ("00000007 010100", "SA payload: proposal 1: length 7 below 8"),
        ("00000009 01010000", "SA payload: proposal 1: length 9 beyond the 8 available"),
        ("00000008 01010000 00", "SA payload: 1 octets follow its end"),
        ("01000008 01010000", "SA payload: proposal 1: last-substructure mark is not one of its two values"),
        ("03000008 01010000", "SA payload: proposal 1: last-substructure mark is not one of its two values"),
        ("02000008 01010000", "SA payload: proposal 2: 1 octets needed, 0 left"),
        // SPI sizes.
        ("0000000c 01010400 01020304", "SA payload: proposal 1: SPI size does not fit the protocol"),
        ("00000008 01030000", "SA payload: proposal 1: SPI size does not fit the protocol"),
        ("0000000a 01020200 0102", "SA payload: proposal 1: SPI size does not fit the protocol"),
        ("0000000a 01030400 0102", "SA payload: proposal 1: length 4 beyond the 2 available"),
        // Transforms: fewer and more than counted, and marked wrongly.
        ("00000008 01010001", "SA payload: transform 1: 1 octets needed, 0 left"),
        ("00000010 01010000 00000008 01000014", "SA payload: proposal 1: 8 octets follow its end"),
        (
            "00000010 01010001 03000008 01000014",
            "SA payload: transform 1: last-transform mark and number of transforms disagree",
        ),
        (
            "00000018 01010002 00000008 01000014 00000008 02000005",
            "SA payload: transform 1: last-transform mark and number of transforms disagree",
        ),
        (
            "00000010 01010001 02000008 01000014",
            "SA payload: transform 1: last-substructure mark is not one of its two values",
        ),
        ("00000010 01010001 00000007 01000014", "SA payload: transform 1: length 7 below 8"),
        ("00000010 01010001 00000009 01000014", "SA payload: transform 1: length 9 beyond the 8 available"),
        ("00000012 01010001 0000000a 01000014 800e", "SA payload: transform 1: 2 octets needed, 0 left"),
        (
            "00000014 01010001 0000000c 01000014 00110001",
            "SA payload: transform 1: length 1 beyond the 0 available",
        ),
    ] {
        refused(PayloadType::SA, body, why);
    }
}

#[test]
fn many_proposals_and_transforms() {
    // 255 of each is what their counters can say.
    let empty = |more: bool| if more { "02000008 01010000" } else { "00000008 01010000" };
    let body = |count: usize| (0..count).map(|n| empty(n + 1 < count)).collect::<String>();
    let Ok(Payload::SecurityAssociation(sa)) = decode(PayloadType::SA, &body(255)) else { panic!() };
    assert_eq!(sa.proposals.len(), 255);
    refused(PayloadType::SA, &body(256), "SA payload: more than 255");

    let transforms: String =
        (0..255).map(|n| if n < 254 { "03000008 01000014" } else { "00000008 01000014" }).collect();
    let body = format!("0000{:04x} 010100ff {transforms}", 8 + 255 * 8);
    let Ok(Payload::SecurityAssociation(sa)) = decode(PayloadType::SA, &body) else { panic!() };
    assert_eq!(sa.proposals[0].transforms.len(), 255);
}

#[test]
fn proposals_of_unknown_protocols_are_kept() {
    both_ways(
        "00 00 000b 01 c8 03 00 010203",
        sa(vec![Proposal { number: 1, protocol: ProtocolId(200), spi: vec![1, 2, 3], transforms: vec![] }]),
    );
}

#[test]
fn traffic_selectors() {
    let ping =
        TrafficSelector { protocol: 1, start_port: 0x0800, end_port: 0x08ff, ..TrafficSelector::any_v4() };
    let opaque = TrafficSelector {
        protocol: 17,
        start_port: 65535,
        end_port: 0,
        ..TrafficSelector::subnet("2001:db8::".parse().unwrap(), 32)
    };
    both_ways(
        "03 000000
           07 01 0010 0800 08ff 00000000 ffffffff
           08 11 0028 ffff 0000 20010db8000000000000000000000000 20010db8ffffffffffffffffffffffff
           0a 00 0007 616263",
        Payload::TrafficSelectorsResponder(TrafficSelectors {
            selectors: vec![ping, opaque],
            unknown: vec![UnknownSelector {
                ts_type: TsType::SECLABEL,
                second_octet: 0,
                body: b"abc".to_vec(),
            }],
        }),
    );
    both_ways("00 000000", Payload::TrafficSelectorsInitiator(TrafficSelectors::new(vec![])));
}

/// RFC 7296 2.21.2: bad contents are no malformed message. What selects nothing is kept apart.
#[test]
fn empty_ranges_select_nothing() {
    for (second_octet, body) in [(0, "0000ffff 0a000002 0a000001"), (6, "00500016 0a000001 0a000001")] {
        let body = bytes(body);
        let empty = UnknownSelector { ts_type: TsType::IPV4_ADDR_RANGE, second_octet, body: body.clone() };
        both_ways(
            &format!("01 000000 07{second_octet:02x}0010 {}", hex::encode(&body)),
            Payload::TrafficSelectorsInitiator(TrafficSelectors { selectors: vec![], unknown: vec![empty] }),
        );
    }
}

#[test]
fn traffic_selector_lies() {
    for (body, why) in [
        ("01 0000", "TS payload: 3 octets needed, 2 left"),
        ("01 000000", "TS payload: selector 1: 1 octets needed, 0 left"),
        ("00 000000 07", "TS payload: 1 octets follow its end"),
        ("01 000000 07000003", "TS payload: selector 1: length 3 below 4"),
        ("01 000000 07000010 0000ffff 0a000001", "TS payload: selector 1: length 16 beyond the 12 available"),
        ("01 000000 0700000c 0000ffff 0a000001", "TS payload: selector 1: 4 octets needed, 0 left"),
        (
            "01 000000 07000014 0000ffff 0a000001 0a000002 00000000",
            "TS payload: selector 1: 4 octets follow its end",
        ),
        ("01 000000 08000010 0000ffff 0a000001 0a000002", "TS payload: selector 1: 16 octets needed, 8 left"),
    ] {
        refused(PayloadType::TSI, body, why);
    }
}
