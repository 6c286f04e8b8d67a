//! Known answers for the protection of packets, and what opening must refuse.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod common;

use adit_crypto::{Error, Protection, encr_key_len, integ_key_len};
use adit_wire::ikev2::{EncrId, IntegId};
use common::{Hex, Verdict, Wycheproof, rfc, wycheproof};
use serde::Deserialize;

/// Algorithms, and the lengths of IV, block and ICV.
type Suite = (EncrId, Option<u16>, Option<IntegId>, usize, usize, usize);

/// Everything built in.
fn suites() -> Vec<Suite> {
    let mut suites = vec![(EncrId::CHACHA20_POLY1305, None, None, 8, 1, 16)];
    let mut integs = vec![
        (IntegId::HMAC_SHA2_256_128, 16),
        (IntegId::HMAC_SHA2_384_192, 24),
        (IntegId::HMAC_SHA2_512_256, 32),
    ];
    if cfg!(feature = "legacy") {
        integs.push((IntegId::HMAC_SHA1_96, 12));
    }
    for bits in [128, 192, 256] {
        suites.push((EncrId::AES_GCM_16, Some(bits), None, 8, 1, 16));
        for (integ, icv_len) in &integs {
            suites.push((EncrId::AES_CBC, Some(bits), Some(*integ), 16, 16, *icv_len));
        }
    }
    if cfg!(feature = "legacy") {
        for (integ, icv_len) in integs {
            suites.push((EncrId::NULL, None, Some(integ), 0, 1, icv_len));
        }
    }
    suites
}

/// Keys that are not all alike.
fn keyed(encr: EncrId, key_bits: Option<u16>, integ: Option<IntegId>, seed: u8) -> Protection {
    let key = |len: usize| (0..len).map(|n| (n as u8).wrapping_mul(7) ^ seed).collect::<Vec<u8>>();
    let encr_key = key(encr_key_len(encr, key_bits).unwrap());
    let integ_key = key(integ.map_or(0, |integ| integ_key_len(integ).unwrap()));
    Protection::new(encr, key_bits, integ, &encr_key, &integ_key).unwrap()
}

/// Seals and opens one known packet.
fn check(protection: &Protection, packet: &Packet<'_>) {
    let mut buf = packet.plaintext.to_vec();
    let mut icv = vec![0; protection.icv_len()];
    protection.seal(packet.iv, packet.associated_data, packet.mac_trailer, &mut buf, &mut icv).unwrap();
    assert_eq!(buf, packet.ciphertext, "{} ciphertext", packet.name);
    assert_eq!(icv, packet.icv, "{} ICV", packet.name);
    protection.open(packet.iv, packet.associated_data, packet.mac_trailer, &mut buf, packet.icv).unwrap();
    assert_eq!(buf, packet.plaintext, "{} plaintext", packet.name);
}

struct Packet<'a> {
    name: &'a str,
    iv: &'a [u8],
    associated_data: &'a [u8],
    mac_trailer: &'a [u8],
    plaintext: &'a [u8],
    ciphertext: &'a [u8],
    icv: &'a [u8],
}

/// draft-mcgrew-gcm-test-01, the ESP packets RFC 4106 10 points to: AES-128, 192 and 256, with and without extended
/// sequence numbers.
#[test]
fn esp_aes_gcm_mcgrew() {
    #[derive(Deserialize)]
    struct Case {
        case: u32,
        key: Hex,
        salt: Hex,
        iv: Hex,
        aad: Hex,
        plaintext: Hex,
        ciphertext: Hex,
        icv: Hex,
    }
    let cases: Vec<Case> = rfc("draft_mcgrew_gcm_test_01");
    assert_eq!(cases.len(), 14);
    for case in cases {
        let bits = u16::try_from(case.key.len() * 8).unwrap();
        let keymat = [&*case.key, &case.salt].concat();
        let protection = Protection::new(EncrId::AES_GCM_16, Some(bits), None, &keymat, &[]).unwrap();
        check(
            &protection,
            &Packet {
                name: &format!("case {}", case.case),
                iv: &case.iv,
                associated_data: &case.aad,
                mac_trailer: &[],
                plaintext: &case.plaintext,
                ciphertext: &case.ciphertext,
                icv: &case.icv,
            },
        );
    }
}

/// RFC 7634 appendix A (an ESP packet) and B (an IKEv2 message).
#[test]
fn chacha20_poly1305_rfc_7634() {
    #[derive(Deserialize)]
    struct Case {
        name: String,
        keymat: Hex,
        iv: Hex,
        aad: Hex,
        plaintext: Hex,
        ciphertext: Hex,
        icv: Hex,
    }
    let cases: Vec<Case> = rfc("rfc7634");
    assert_eq!(cases.len(), 2);
    for case in cases {
        let protection = Protection::new(EncrId::CHACHA20_POLY1305, None, None, &case.keymat, &[]).unwrap();
        check(
            &protection,
            &Packet {
                name: &case.name,
                iv: &case.iv,
                associated_data: &case.aad,
                mac_trailer: &[],
                plaintext: &case.plaintext,
                ciphertext: &case.ciphertext,
                icv: &case.icv,
            },
        );
    }
}

/// Wycheproof AES-GCM and ChaCha20-Poly1305, those with the nonce and tag lengths of ESP.
#[test]
fn aead_wycheproof() {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Group {
        iv_size: usize,
        key_size: u16,
        tag_size: usize,
        tests: Vec<Case>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Case {
        tc_id: u32,
        key: Hex,
        iv: Hex,
        aad: Hex,
        msg: Hex,
        ct: Hex,
        tag: Hex,
        result: Verdict,
    }
    for (file, encr, sizes) in [
        ("aes_gcm", EncrId::AES_GCM_16, &[128, 192, 256][..]),
        ("chacha20_poly1305", EncrId::CHACHA20_POLY1305, &[256]),
    ] {
        let vectors: Wycheproof<Group> = wycheproof(file);
        for size in sizes {
            let (mut valid, mut invalid) = (0, 0);
            let groups = vectors.test_groups.iter();
            for group in groups.filter(|g| g.iv_size == 96 && g.tag_size == 128 && g.key_size == *size) {
                for case in &group.tests {
                    let name = format!("{file} {}", case.tc_id);
                    let (salt, iv) = case.iv.split_at(4);
                    let key_bits = (encr == EncrId::AES_GCM_16).then_some(*size);
                    let keymat = [&*case.key, salt].concat();
                    let protection = Protection::new(encr, key_bits, None, &keymat, &[]).unwrap();
                    if case.result == Verdict::Valid {
                        let packet = Packet {
                            name: &name,
                            iv,
                            associated_data: &case.aad,
                            mac_trailer: &[],
                            plaintext: &case.msg,
                            ciphertext: &case.ct,
                            icv: &case.tag,
                        };
                        check(&protection, &packet);
                        valid += 1;
                    } else {
                        let mut buf = case.ct.to_vec();
                        let opened = protection.open(iv, &case.aad, &[], &mut buf, &case.tag);
                        assert_eq!(opened, Err(Error::Authentication), "{name}");
                        invalid += 1;
                    }
                }
            }
            assert!(valid >= 30 && invalid >= 20, "{file} {size}: {valid} valid, {invalid} invalid");
        }
    }
}

/// RFC 3602 4: four cases of AES-CBC and four ESP packets. The RFC has them without integrity, so their ICV is ours.
#[test]
fn aes_cbc_rfc_3602() {
    #[derive(Deserialize)]
    struct Case {
        case: u32,
        key: Hex,
        iv: Hex,
        plaintext: Hex,
        ciphertext: Hex,
    }
    let cases: Vec<Case> = rfc("rfc3602_4");
    assert_eq!(cases.len(), 8);
    for case in cases {
        let integ = IntegId::HMAC_SHA2_256_128;
        let protection =
            Protection::new(EncrId::AES_CBC, Some(128), Some(integ), &case.key, &[7; 32]).unwrap();
        let mut buf = case.plaintext.to_vec();
        let mut icv = [0; 16];
        protection.seal(&case.iv, b"header", &[], &mut buf, &mut icv).unwrap();
        assert_eq!(buf, *case.ciphertext, "case {}", case.case);
        protection.open(&case.iv, b"header", &[], &mut buf, &icv).unwrap();
        assert_eq!(buf, *case.plaintext, "case {}", case.case);
    }
}

/// RFC 4868 2.7.2: what is authenticated is `associated data | IV | ciphertext | trailer`, so a known HMAC over data
/// cut into these pieces is a known ICV.
#[test]
fn hmac_icv_rfc_4868() {
    #[derive(Deserialize)]
    struct Case {
        case: String,
        bits: u16,
        key: Hex,
        data: Hex,
        icv: Hex,
    }
    let cases: Vec<Case> = rfc("rfc4868_2_7");
    let mut seen = 0;
    for case in cases.iter().filter(|case| case.case.starts_with("AUTH")) {
        let integ = match case.bits {
            256 => IntegId::HMAC_SHA2_256_128,
            384 => IntegId::HMAC_SHA2_384_192,
            _ => IntegId::HMAC_SHA2_512_256,
        };
        if cfg!(feature = "legacy") {
            let null = Protection::new(EncrId::NULL, None, Some(integ), &[], &case.key).unwrap();
            let (associated_data, text) = case.data.split_at(3);
            let (text, mac_trailer) = text.split_at(text.len() - 4);
            let packet = Packet {
                name: &case.case,
                iv: &[],
                associated_data,
                mac_trailer,
                plaintext: text,
                ciphertext: text,
                icv: &case.icv,
            };
            check(&null, &packet);
        }
        // Long enough for an IV of 16 octets between header and trailer, with no text at all.
        if let Some((associated_data, rest)) = case.data.split_at_checked(8)
            && let Some((iv, mac_trailer)) = rest.split_at_checked(16)
        {
            let cbc = Protection::new(EncrId::AES_CBC, Some(256), Some(integ), &[9; 32], &case.key).unwrap();
            let packet = Packet {
                name: &case.case,
                iv,
                associated_data,
                mac_trailer,
                plaintext: &[],
                ciphertext: &[],
                icv: &case.icv,
            };
            check(&cbc, &packet);
            seen += 1;
        }
    }
    assert_eq!(seen, 9);
}

/// RFC 2202 3, test case 5: the vector RFC 2404 points to, with the truncation of HMAC_SHA1_96.
#[cfg(feature = "legacy")]
#[test]
fn hmac_sha1_96_rfc_2202() {
    let protection =
        Protection::new(EncrId::NULL, None, Some(IntegId::HMAC_SHA1_96), &[], &[0x0c; 20]).unwrap();
    let text = b"Test With Truncation";
    let packet = Packet {
        name: "test case 5",
        iv: &[],
        associated_data: &[],
        mac_trailer: &[],
        plaintext: text,
        ciphertext: text,
        icv: &hex::decode("4c1a03424b55e07fe7f27be1").unwrap(),
    };
    check(&protection, &packet);
}

/// Wycheproof HMAC at the key and tag lengths of ESP: right tags open, modified ones do not. NULL shows them bare.
#[cfg(feature = "legacy")]
#[test]
fn hmac_icv_wycheproof() {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Group {
        key_size: usize,
        tag_size: usize,
        tests: Vec<Case>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Case {
        tc_id: u32,
        key: Hex,
        msg: Hex,
        tag: Hex,
        result: Verdict,
    }
    for (file, integ, key_bits, tag_bits) in [
        ("hmac_sha256", IntegId::HMAC_SHA2_256_128, 256, 128),
        ("hmac_sha384", IntegId::HMAC_SHA2_384_192, 384, 192),
        ("hmac_sha512", IntegId::HMAC_SHA2_512_256, 512, 256),
    ] {
        let vectors: Wycheproof<Group> = wycheproof(file);
        let (mut valid, mut invalid) = (0, 0);
        let groups = vectors.test_groups.iter();
        for group in groups.filter(|group| group.key_size == key_bits && group.tag_size == tag_bits) {
            for case in &group.tests {
                let protection = Protection::new(EncrId::NULL, None, Some(integ), &[], &case.key).unwrap();
                let opened = protection.open(&[], &[], &[], &mut case.msg.to_vec(), &case.tag);
                if case.result == Verdict::Valid {
                    assert_eq!(opened, Ok(()), "{file} {}", case.tc_id);
                    valid += 1;
                } else {
                    assert_eq!(opened, Err(Error::Authentication), "{file} {}", case.tc_id);
                    invalid += 1;
                }
            }
        }
        assert!(valid > 0 && invalid > 0, "{file}: {valid} valid, {invalid} invalid");
    }
}

/// Every bit of header, IV, ciphertext, trailer and ICV counts, and so does the key.
#[test]
fn any_flipped_bit_is_refused() {
    for (encr, key_bits, integ, iv_len, block_len, icv_len) in suites() {
        let protection = keyed(encr, key_bits, integ, 1);
        assert_eq!(protection.is_aead(), integ.is_none());
        assert_eq!(protection.iv_len(), iv_len);
        assert_eq!(protection.block_len(), block_len);
        assert_eq!(protection.icv_len(), icv_len);

        let plaintext: Vec<u8> = (0..32).collect();
        let mut iv = vec![0; iv_len];
        protection.next_iv(77, &mut iv);
        let header = [0xa5; 8];
        let trailer = if protection.is_aead() { &[][..] } else { &[0, 0, 0, 9] };
        let mut buf = plaintext.clone();
        let mut icv = vec![0; icv_len];
        protection.seal(&iv, &header, trailer, &mut buf, &mut icv).unwrap();
        assert_eq!(buf == plaintext, encr == EncrId::NULL);

        // The packet as one run of octets, so that each bit has a number.
        let parts = [&header[..], &iv, &buf, trailer, &icv];
        let packet = parts.concat();
        let open = |protection: &Protection, packet: &[u8]| {
            let (header, rest) = packet.split_at(8);
            let (iv, rest) = rest.split_at(iv_len);
            let (text, rest) = rest.split_at(32);
            let (trailer, icv) = rest.split_at(trailer.len());
            let mut text = text.to_vec();
            protection.open(iv, header, trailer, &mut text, icv).map(|()| text)
        };
        assert_eq!(open(&protection, &packet).as_ref(), Ok(&plaintext), "{encr} {key_bits:?} {integ:?}");
        for bit in 0..packet.len() * 8 {
            let mut changed = packet.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                open(&protection, &changed),
                Err(Error::Authentication),
                "{encr} {key_bits:?} {integ:?} bit {bit}"
            );
        }
        assert_eq!(open(&keyed(encr, key_bits, integ, 2), &packet), Err(Error::Authentication));
    }
}

/// A length that is not the right one is an error, never a panic and never an ICV over something else.
#[test]
fn wrong_lengths_are_refused() {
    let length =
        |result: Result<(), Error>| assert!(matches!(result, Err(Error::Length { .. })), "{result:?}");
    for (encr, key_bits, integ, iv_len, block_len, icv_len) in suites() {
        let protection = keyed(encr, key_bits, integ, 1);
        let (iv, mut text, mut icv) = (vec![1; iv_len + 1], vec![2; 33], vec![3; icv_len + 1]);
        let shorter = icv_len - 1;
        length(protection.seal(&iv, &[], &[], &mut text[..32], &mut icv[..icv_len]));
        length(protection.open(&iv, &[], &[], &mut text[..32], &icv[..icv_len]));
        for wrong in [0, shorter, icv_len + 1] {
            length(protection.seal(&iv[..iv_len], &[], &[], &mut text[..32], &mut icv[..wrong]));
            length(protection.open(&iv[..iv_len], &[], &[], &mut text[..32], &icv[..wrong]));
        }
        if block_len > 1 {
            length(protection.seal(&iv[..iv_len], &[], &[], &mut text, &mut icv[..icv_len]));
            length(protection.open(&iv[..iv_len], &[], &[], &mut text, &icv[..icv_len]));
        }
        if protection.is_aead() {
            length(protection.seal(&iv[..iv_len], &[], &[0; 4], &mut text, &mut icv[..icv_len]));
            length(protection.open(&iv[..iv_len], &[], &[0; 4], &mut text, &icv[..icv_len]));
        }
        let (encr_len, integ_len) =
            (encr_key_len(encr, key_bits).unwrap(), integ.map_or(0, |integ| integ_key_len(integ).unwrap()));
        for (encr_len, integ_len) in [(encr_len + 1, integ_len), (encr_len, integ_len + 1)] {
            let result =
                Protection::new(encr, key_bits, integ, &vec![0; encr_len], &vec![0; integ_len]).map(|_| ());
            length(result);
        }
    }
}

/// AEAD: the IV is the counter (RFC 4106 3.1). CBC: it is not, differs from packet to packet and from key to key, and
/// is the same when asked again.
#[test]
fn ivs() {
    for (encr, key_bits, integ, iv_len, ..) in suites() {
        let iv = |seed, counter| {
            let mut iv = vec![0; iv_len];
            keyed(encr, key_bits, integ, seed).next_iv(counter, &mut iv);
            iv
        };
        match encr {
            EncrId::NULL => assert!(iv(1, 5).is_empty()),
            EncrId::AES_CBC => {
                let ivs = [iv(1, 0), iv(1, 1), iv(1, u64::MAX), iv(2, 0), iv(2, 1)];
                for (n, one) in ivs.iter().enumerate() {
                    assert!(ivs.iter().skip(n + 1).all(|other| other != one));
                    // Neither half is a plain counter.
                    assert_ne!(one[..8], [0; 8]);
                }
                assert_eq!(iv(1, 1), iv(1, 1));
            }
            _ => assert_eq!(iv(1, 0x0102_0304_0506_0708), [1, 2, 3, 4, 5, 6, 7, 8]),
        }
        // A buffer of another length is left alone.
        let mut odd = vec![0x55; iv_len + 1];
        keyed(encr, key_bits, integ, 1).next_iv(5, &mut odd);
        assert_eq!(odd, vec![0x55; iv_len + 1]);
    }
}

/// The IVs of CBC come from a key of their own: were it the encryption key, whoever has a block of his choice encrypted
/// would learn IVs to come.
#[test]
fn cbc_ivs_are_not_ciphertext() {
    let protection = keyed(EncrId::AES_CBC, Some(256), Some(IntegId::HMAC_SHA2_256_128), 1);
    let mut iv = [0; 16];
    protection.next_iv(5, &mut iv);
    let mut block = [0; 16];
    block[15] = 5;
    protection.seal(&[0; 16], &[], &[], &mut block, &mut [0; 16]).unwrap();
    assert_ne!(block, iv);
}

/// Workers share an SA's protection.
#[test]
fn protection_is_shared_between_threads() {
    fn assert_send_and_sync<T: Send + Sync>(_: &T) {}
    assert_send_and_sync(&keyed(EncrId::AES_GCM_16, Some(128), None, 1));
}

/// Awake or not, the same packets.
#[test]
fn keys_that_rest_do_the_same() {
    for (encr, key_bits, integ, ..) in suites() {
        let mut resting = keyed(encr, key_bits, integ, 3);
        let awake = keyed(encr, key_bits, integ, 3);
        resting.rest();
        let seal = |protection: &Protection| {
            let (mut text, mut icv) = (vec![7; 48], vec![0; protection.icv_len()]);
            let mut iv = vec![0; protection.iv_len()];
            protection.next_iv(9, &mut iv);
            protection.seal(&iv, b"header", &[], &mut text, &mut icv).unwrap();
            (iv, text, icv)
        };
        let sealed = seal(&awake);
        assert_eq!(seal(&resting), sealed);
        let opens = |protection: &Protection| {
            let (iv, mut text, icv) = sealed.clone();
            protection.open(&iv, b"header", &[], &mut text, &icv).unwrap();
            let (_, mut forged, icv) = sealed.clone();
            forged[3] ^= 1;
            assert!(protection.open(&iv, b"header", &[], &mut forged, &icv).is_err());
            text == [7; 48]
        };
        assert!(opens(&resting) && opens(&awake));
        assert_eq!(resting.is_resting(), resting.is_aead());
        resting.wake().unwrap();
        assert!(!resting.is_resting() && !awake.is_resting() && opens(&resting));
        assert_eq!(seal(&resting), sealed);
    }
}

/// Every file of the corpus of the fuzz target `aes_gcm`, and whatever it begins with.
#[test]
fn vectors_and_library_agree_on_the_corpus() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/aes_gcm");
    let files: Vec<_> = std::fs::read_dir(directory).unwrap().collect();
    assert!(files.len() >= 16);
    for file in files {
        let data = std::fs::read(file.unwrap().path()).unwrap();
        for len in (0..data.len()).step_by(7).chain([data.len()]) {
            adit_crypto::fuzzing::aes_gcm_any(&data[..len]);
        }
    }
}
