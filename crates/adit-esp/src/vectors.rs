//! Published ESP packets, byte for byte.
//!
//! Most of them carry something else than an IP packet in tunnel mode (next header 1) and have IVs that are not our sequence
//! numbers, so these tests work one layer below [`OutboundSa`](crate::OutboundSa): our layout and padding, the vector's IV,
//! our protection.

use adit_crypto::{EspKeys, EspTransforms, Prf, Secret};
use adit_wire::ikev2::{EncrId, IntegId, PrfId, Spi, TrafficSelector};

use crate::packet::{HEADER_LEN, PacketProtection};
use crate::{Drop, InboundSa, Mode, Opened, SaParameters};

#[derive(serde::Deserialize)]
struct Mcgrew {
    vectors: Vec<GcmPacket>,
}

#[derive(serde::Deserialize)]
struct GcmPacket {
    id: u32,
    key: String,
    salt: String,
    iv: String,
    spi: String,
    seq: String,
    esn: bool,
    plaintext_with_esp_trailer: String,
    ciphertext: String,
    icv: String,
}

/// draft-mcgrew-gcm-test-01, to which RFC 4106 section 10 refers.
#[test]
fn aes_gcm_of_rfc_4106() {
    let file: Mcgrew =
        serde_json::from_str(include_str!("../tests/vectors/esp_aes_gcm_mcgrew.json")).unwrap();
    assert_eq!(file.vectors.len(), 14);
    for v in file.vectors {
        let key = [bytes(&v.key), bytes(&v.salt)].concat();
        let key_bits = Some(8 * (key.len() as u16 - 4));
        let transforms = EspTransforms { encr: EncrId::AES_GCM_16, key_bits, integ: None, esn: v.esn };
        let sequence = u64::from_str_radix(&v.seq, 16).unwrap();
        let plaintext = bytes(&v.plaintext_with_esp_trailer);
        let [payload @ .., pad_len, next_header] = &plaintext[..] else { panic!() };
        let payload = &payload[..payload.len() - usize::from(*pad_len)];
        let wire_sequence = (sequence as u32).to_be_bytes();
        let packet =
            [&bytes(&v.spi)[..], &wire_sequence, &bytes(&v.iv), &bytes(&v.ciphertext), &bytes(&v.icv)]
                .concat();

        let case = Case { transforms, key: &key, integ: &[], sequence };
        assert_eq!(case.seal(&packet, payload, *next_header), packet, "vector {}", v.id);
        assert_eq!(case.open(&packet), plaintext, "vector {}", v.id);
        // Genuine, so its number counts as seen, but not a packet for a tunnel.
        let mut sa = case.inbound(&packet, TrafficSelector::any_v4());
        assert_eq!(sa.open(&mut packet.clone()), Err(Drop::NextHeader), "vector {}", v.id);
        assert_eq!(sa.window().top(), sequence);
    }
}

/// RFC 3602 section 4, cases 5 to 8. They have no ICV; ours follows where they end.
#[test]
fn aes_cbc_of_rfc_3602() {
    // (key, SPI | sequence | IV | encrypted data, payload, next header)
    let cases = [
        (
            "90d382b410eeba7ad938c46cec1a82bf",
            "0000432100000001 e96e8c08ab465763fd098d45dd3ff893
             f663c25d325c18c6a9453e194e120849a4870b66cc6b9965330013b4898dc856
             a4699e523a55db080b59ec3a8e4b7e52775b07d1db34ed9c538ab50c551b874a
             a269add047ad2d5913ac19b7cfbad4a6",
            "08000ebda70a00008e9c083db95b070008090a0b0c0d0e0f1011121314151617
             18191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637",
            1,
        ),
        (
            "90d382b410eeba7ad938c46cec1a82bf",
            "0000432100000008 69d08df7d203329db093fc4924e5bd80
             f51995881ec4e0c4488987ce742e8109689bb379d2d750c0d915dca346a89f75",
            "0800b5e8a80a0500a69c083d0b660e00777777777777777777777777",
            1,
        ),
        (
            "0123456789abcdef0123456789abcdef",
            "0000876500000002 f4e765244f6407adf13dc1380f673f37
             773b5241a4c449225e4f3ce5ed611b0c237ca96cf74a93013c1b0ea1a0cf70f8
             e4ecaec78ac53aad7a0f022b859243c647752e94a859352b8a4d4d2decd136e5
             c177f132ad3fbfb2201ac9904c74ee0a109e0ca1e4dfe9d5a100b842f1c22f0d",
            "45000054090400004001f988c0a87b03c0a87bc808009f76a90a0100b49c083d
             02a2040008090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223
             2425262728292a2b2c2d2e2f3031323334353637",
            4,
        ),
        (
            "0123456789abcdef0123456789abcdef",
            "0000876500000005 85d47224b5f3dd5d2101d4ea8dffab22
             15b92683819596a8047232cc00f7048fe45318e11f8a0f62ede3c3fc61203bb5
             0f980a08c9843fd3a1b06d5c07ff9639b7eb7dfb3512e5de435e7207ed971ef3
             d2726d9b5ef6affc6d17a0decbb13892",
            "45000044090c00004001f990c0a87b03c0a87bc80800d63caa0a0200c69c083d
             a3de0300ffffffffffffffffffffffffffffffffffffffffffffffffffffffff
             ffffffff",
            4,
        ),
    ];
    let integ_key = [0x5a; 32];
    for (number, (key, packet, payload, next_header)) in (5..).zip(cases) {
        let (key, unauthenticated, payload) = (bytes(key), bytes(packet), bytes(payload));
        // RFC 4303 3.3.2.1: the high half of an extended sequence number is authenticated after the ciphertext, not sent.
        for high in [None, Some(0_u32), Some(0x1234_5678)] {
            let transforms = EspTransforms {
                encr: EncrId::AES_CBC,
                key_bits: Some(128),
                integ: Some(IntegId::HMAC_SHA2_256_128),
                esn: high.is_some(),
            };
            let trailer = high.map(u32::to_be_bytes);
            let trailer: &[u8] = trailer.as_ref().map_or(&[], |bytes| bytes);
            let hmac =
                Prf::new(PrfId::HMAC_SHA2_256).unwrap().compute(&integ_key, &[&unauthenticated, trailer]);
            let mut packet = [&unauthenticated, &hmac.expose()[..16]].concat();

            let low = u32::from_be_bytes(packet[4..8].try_into().unwrap());
            let sequence = u64::from(high.unwrap_or(0)) << 32 | u64::from(low);
            let case = Case { transforms, key: &key, integ: &integ_key, sequence };
            assert_eq!(case.seal(&packet, &payload, next_header), packet, "case {number}, ESN {high:?}");
            assert_eq!(case.open(&packet)[..payload.len()], payload, "case {number}, ESN {high:?}");
            let mut sa = case.inbound(&packet, TrafficSelector::subnet([192, 168, 123, 0].into(), 24));
            let expected = if next_header == 4 {
                Ok(Opened::Packet(&mut payload.clone()))
            } else {
                Err(Drop::NextHeader)
            };
            assert_eq!(sa.open(&mut packet), expected, "case {number}, ESN {high:?}");
        }
    }
}

/// RFC 7634 appendix A, a packet in tunnel mode.
#[test]
fn chacha20_poly1305_of_rfc_7634() {
    let key: Vec<u8> = (0x80..=0xa3).collect();
    let packet = bytes(
        "01020304 00000005 1011121314151617
         24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c6
         14ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3
         cbec163fac469b502773f6fb94e664da9165b82829f641e0
         76aaa8266b7fb0f7b11b369907e1ad43",
    );
    let inner = bytes(
        "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10
         0007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223
         2425262728292a2b2c2d2e2f3031323334353637",
    );
    let transforms =
        EspTransforms { encr: EncrId::CHACHA20_POLY1305, key_bits: None, integ: None, esn: false };
    let case = Case { transforms, key: &key, integ: &[], sequence: 5 };
    assert_eq!(case.seal(&packet, &inner, 4), packet);
    let mut sa = case.inbound(&packet, TrafficSelector::any_v4());
    assert_eq!(sa.open(&mut packet.clone()), Ok(Opened::Packet(&mut inner.clone())));
}

struct Case<'k> {
    transforms: EspTransforms,
    key: &'k [u8],
    integ: &'k [u8],
    sequence: u64,
}

impl Case<'_> {
    fn parameters(&self, spi: Spi, ts: TrafficSelector) -> SaParameters {
        SaParameters {
            spi,
            mode: Mode::Tunnel,
            transforms: self.transforms,
            keys: EspKeys { encr: Secret::new(self.key.to_vec()), integ: Secret::new(self.integ.to_vec()) },
            replay_window: 64,
            local_ts: vec![ts],
            remote_ts: vec![ts],
            original: None,
        }
    }

    fn protection(&self) -> PacketProtection {
        PacketProtection::new(&self.parameters(Spi(0), TrafficSelector::any_v4())).unwrap()
    }

    /// Our packet, with the SPI and the IV of `packet`.
    fn seal(&self, packet: &[u8], payload: &[u8], next_header: u8) -> Vec<u8> {
        let protection = self.protection();
        let layout = protection.layout();
        let mut ours = vec![0xaa; layout.packet_len(payload.len())];
        ours[layout.payload_offset()..][..payload.len()].copy_from_slice(payload);
        let fields = protection.fields(&mut ours).unwrap();
        let mut fields = protection.lay_out(fields, payload.len(), next_header).unwrap();
        protection.start(spi(packet), self.sequence, fields.header, fields.iv);
        fields.iv.copy_from_slice(&packet[HEADER_LEN..layout.payload_offset()]);
        protection.encrypt(self.sequence, &mut fields).unwrap();
        ours
    }

    /// Payload, padding and trailer.
    fn open(&self, packet: &[u8]) -> Vec<u8> {
        self.protection().open(self.sequence, &mut packet.to_vec()).unwrap().to_vec()
    }

    fn inbound(&self, packet: &[u8], ts: TrafficSelector) -> InboundSa {
        InboundSa::resume(self.parameters(spi(packet), ts), self.sequence - 1).unwrap()
    }
}

fn spi(packet: &[u8]) -> Spi {
    Spi(u32::from_be_bytes(packet[..4].try_into().unwrap()))
}

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex.split_whitespace().collect::<String>()).unwrap()
}
