//! Known answers for signatures: RFC 7427 A, RFC 4754 8, and Project Wycheproof through our own verification.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod common;

use adit_crypto::{Error, KeyKind, PrivateKey, PublicKey, SignatureScheme, Signer};
use adit_wire::ikev2::HashId;
use common::{Hex, Verdict, Wycheproof, rfc, wycheproof};

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    public_key_der: Hex,
    tests: Vec<Case>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    tc_id: u32,
    comment: String,
    msg: Hex,
    sig: Hex,
    result: Verdict,
}

/// Runs a file; returns how many signatures were valid.
fn run(file: &str, scheme: SignatureScheme, kind: KeyKind) -> usize {
    let vectors: Wycheproof<Group> = wycheproof(file);
    let (mut seen, mut valid) = (0, 0);
    for group in &vectors.test_groups {
        let key = PublicKey::from_spki(&group.public_key_der).unwrap();
        assert!(
            key.kind() == kind || matches!((key.kind(), kind), (KeyKind::Rsa(_), KeyKind::Rsa(_))),
            "{file}"
        );
        assert_eq!(key.spki(), &*group.public_key_der);
        for case in &group.tests {
            // What Wycheproof calls acceptable lacks the NULL of the DigestInfo, which RFC 8017 9.2 wants there.
            let expected = if case.result == Verdict::Valid { Ok(()) } else { Err(Error::BadSignature) };
            let name = format!("{file} {}: {}", case.tc_id, case.comment);
            assert_eq!(key.verify(scheme, &case.msg, &case.sig), expected, "{name}");
            valid += usize::from(expected.is_ok());
            seen += 1;
            // A valid signature is one of this message, by this scheme, alone.
            if expected.is_ok() {
                let other = [&case.msg[..], b"."].concat();
                assert_eq!(key.verify(scheme, &other, &case.sig), Err(Error::BadSignature), "{name}");
                for scheme in SignatureScheme::ALL.into_iter().filter(|other| *other != scheme) {
                    assert!(key.verify(scheme, &case.msg, &case.sig).is_err(), "{name} as {scheme}");
                }
            }
        }
    }
    assert_eq!(seen, vectors.number_of_tests, "{file}");
    valid
}

#[test]
fn rsa_pkcs1_wycheproof() {
    for (file, hash, bits) in [
        ("rsa_signature_2048_sha256", HashId::SHA2_256, 2048),
        ("rsa_signature_3072_sha384", HashId::SHA2_384, 3072),
        ("rsa_signature_4096_sha512", HashId::SHA2_512, 4096),
    ] {
        assert!(run(file, SignatureScheme::RsaPkcs1(hash), KeyKind::Rsa(bits)) > 0);
    }
}

#[test]
fn rsa_pss_wycheproof() {
    for (file, hash, bits) in [
        ("rsa_pss_2048_sha256_mgf1_32", HashId::SHA2_256, 2048),
        ("rsa_pss_2048_sha384_mgf1_48", HashId::SHA2_384, 2048),
        ("rsa_pss_3072_sha256_mgf1_32", HashId::SHA2_256, 3072),
        ("rsa_pss_4096_sha512_mgf1_64", HashId::SHA2_512, 4096),
    ] {
        assert!(run(file, SignatureScheme::RsaPss(hash), KeyKind::Rsa(bits)) > 0);
    }
}

#[test]
fn ecdsa_wycheproof() {
    for (curve, hash, id, kind) in [
        ("secp256r1", "sha256", HashId::SHA2_256, KeyKind::EcdsaP256),
        ("secp384r1", "sha384", HashId::SHA2_384, KeyKind::EcdsaP384),
        ("secp521r1", "sha512", HashId::SHA2_512, KeyKind::EcdsaP521),
    ] {
        assert!(run(&format!("ecdsa_{curve}_{hash}"), SignatureScheme::Ecdsa(id), kind) > 0);
        assert!(run(&format!("ecdsa_{curve}_{hash}_p1363"), SignatureScheme::EcdsaFixed(id), kind) > 0);
    }
}

#[test]
fn ed25519_wycheproof() {
    assert!(run("ed25519", SignatureScheme::Ed25519, KeyKind::Ed25519) > 0);
}

/// RFC 4754 8: the payloads it prints verify, as they stand for methods 9 to 11 and in DER for method 14.
#[test]
fn rfc4754_payloads() {
    #[derive(serde::Deserialize)]
    struct Vector {
        method: u8,
        private: Hex,
        x: Hex,
        y: Hex,
        payload: Hex,
    }
    // RFC 5480 2.1.1.1 and 2.2: the curve's name; the point behind 0 unused bits.
    let curves = [
        ("301306072a8648ce3d020106082a8648ce3d030107", KeyKind::EcdsaP256, HashId::SHA2_256),
        ("301006072a8648ce3d020106052b81040022", KeyKind::EcdsaP384, HashId::SHA2_384),
        ("301006072a8648ce3d020106052b81040023", KeyKind::EcdsaP521, HashId::SHA2_512),
    ];
    let vectors: Vec<Vector> = rfc("rfc4754_8");
    assert_eq!(vectors.len(), curves.len());
    for (vector, (algorithm, kind, hash)) in vectors.iter().zip(curves) {
        let point = [&[0, 4], &vector.x[..], &vector.y].concat();
        let algorithm = hex::decode(algorithm).unwrap();
        let spki = sequence(&[&algorithm, &element(3, &point)]);
        let key = PublicKey::from_spki(&spki).unwrap();
        assert_eq!(key.kind(), kind);
        // Next payload, reserved, length; a word with the method, which is printed in its second octet; then r | s.
        let (header, signature) = vector.payload.split_at(8);
        assert_eq!(header[4..6], [0, vector.method]);
        let fixed = SignatureScheme::EcdsaFixed(hash);
        assert_eq!(key.verify(fixed, b"abc", signature), Ok(()));
        assert_eq!(key.verify(fixed, b"abd", signature), Err(Error::BadSignature));
        // One octet more or less, though the numbers are the same.
        let (r, s) = signature.split_at(signature.len() / 2);
        let longer = [&[0], r, &[0], s].concat();
        assert_eq!(key.verify(fixed, b"abc", &longer), Err(Error::BadSignature));
        assert_eq!(key.verify(fixed, b"abc", &signature[..signature.len() - 1]), Err(Error::BadSignature));
        let der = sequence(&[&integer(r), &integer(s)]);
        assert_eq!(key.verify(SignatureScheme::Ecdsa(hash), b"abc", &der), Ok(()));
        assert_eq!(key.verify(fixed, b"abc", &der), Err(Error::BadSignature));
        assert_eq!(key.verify(SignatureScheme::Ecdsa(hash), b"abc", signature), Err(Error::BadSignature));

        // RFC 5915: the private key of the same section has this public key, and what it signs verifies.
        let (_, curve) = algorithm.split_at(2 + 9);
        let private = sequence(&[
            &integer(&[1]),
            &element(4, &vector.private),
            &element(0xa0, curve),
            &element(0xa1, &element(3, &point)),
        ]);
        let private = PrivateKey::from_der(&private).unwrap();
        assert_eq!(private.public_key(), spki);
        for scheme in [fixed, SignatureScheme::Ecdsa(hash)] {
            let signature = private.sign(scheme, b"abc").unwrap();
            assert_eq!(key.verify(scheme, b"abc", &signature), Ok(()));
        }
    }
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = match content.len() {
        short @ 0..0x80 => vec![short as u8],
        long => vec![0x81, u8::try_from(long).unwrap()],
    };
    [&[tag], &length[..], content].concat()
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(0x30, &parts.concat())
}

fn integer(octets: &[u8]) -> Vec<u8> {
    let zeros = octets.iter().take_while(|octet| **octet == 0).count();
    let digits = &octets[zeros..];
    let sign: &[u8] = if digits[0] >= 0x80 { &[0] } else { &[] };
    element(2, &[sign, digits].concat())
}

/// RFC 7427 A, RFC 8420 A.1 (RFC 8410 3).
#[test]
fn algorithm_identifiers_are_as_printed() {
    use SignatureScheme::{Ecdsa, Ed25519, RsaPkcs1, RsaPss};
    for (scheme, printed) in [
        (RsaPkcs1(HashId::SHA2_256), "300d 0609 2a86 4886 f70d 0101 0b05 00"),
        (RsaPkcs1(HashId::SHA2_384), "300d 0609 2a86 4886 f70d 0101 0c05 00"),
        (RsaPkcs1(HashId::SHA2_512), "300d 0609 2a86 4886 f70d 0101 0d05 00"),
        (Ecdsa(HashId::SHA2_256), "300a 0608 2a86 48ce 3d04 0302"),
        (Ecdsa(HashId::SHA2_384), "300a 0608 2a86 48ce 3d04 0303"),
        (Ecdsa(HashId::SHA2_512), "300a 0608 2a86 48ce 3d04 0304"),
        (
            RsaPss(HashId::SHA2_256),
            "3046 0609 2a86 4886 f70d 0101 0a30 39a0 0f30 0d06 0960 8648 0165 0304 0201 0500 a11c 301a 0609 2a86 \
             4886 f70d 0101 0830 0d06 0960 8648 0165 0304 0201 0500 a203 0201 20a3 0302 0101",
        ),
        (Ed25519, "3005 0603 2b65 70"),
    ] {
        let printed = hex::decode(printed.replace(' ', "")).unwrap();
        assert_eq!(scheme.algorithm_identifier().unwrap(), printed, "{scheme}");
        assert_eq!(SignatureScheme::from_algorithm_identifier(&printed), Some(scheme));
    }
    for scheme in SignatureScheme::ALL {
        let der = scheme.algorithm_identifier().unwrap();
        assert_eq!(SignatureScheme::from_algorithm_identifier(&der), Some(scheme));
        assert_eq!(SignatureScheme::from_algorithm_identifier(&[&der[..], &[0]].concat()), None);
        assert_eq!(SignatureScheme::from_algorithm_identifier(&der[..der.len() - 1]), None);
    }
    // A.1.1, A.2.1, A.3.1, A.4.1 and A.4.2: SHA-1, DSA, and PSS with SHA-1 by default; and no parameters where NULL has
    // to be, or NULL where none may be.
    for refused in [
        "300d 0609 2a86 4886 f70d 0101 0505 00",
        "3009 0607 2a86 48ce 3804 03",
        "3009 0607 2a86 48ce 3d04 01",
        "300d 0609 2a86 4886 f70d 0101 0a30 00",
        "303e 0609 2a86 4886 f70d 0101 0a30 31a0 0b30 0906 052b 0e03 021a 0500 a118 3016 0609 2a86 4886 f70d 0101 \
         0830 0906 052b 0e03 021a 0500 a203 0201 14a3 0302 0101",
        "300b 0609 2a86 4886 f70d 0101 0b",
        "300c 0608 2a86 48ce 3d04 0302 0500",
        "3007 0603 2b65 7005 00",
        "",
    ] {
        let der = hex::decode(refused.replace(' ', "")).unwrap();
        assert_eq!(SignatureScheme::from_algorithm_identifier(&der), None, "{refused}");
    }
    // RFC 4055 2.1 and 3.1: no NULL in the hashes, and the default trailerField left out.
    let bare = "303d 0609 2a86 4886 f70d 0101 0a30 30a0 0d30 0b06 0960 8648 0165 0304 0201 a11a 3018 0609 2a86 4886 \
                f70d 0101 0830 0b06 0960 8648 0165 0304 0201 a203 0201 20";
    let bare = hex::decode(bare.replace(' ', "")).unwrap();
    assert_eq!(SignatureScheme::from_algorithm_identifier(&bare), Some(RsaPss(HashId::SHA2_256)));
}

/// The kinds of keys that are not what they seem.
#[test]
fn public_keys_that_must_not_be_used() {
    let vectors: Wycheproof<Group> = wycheproof("ecdsa_secp256r1_sha256");
    let good = &vectors.test_groups[0].public_key_der;
    assert!(PublicKey::from_spki(good).is_ok());
    let mut off_the_curve = good.to_vec();
    *off_the_curve.last_mut().unwrap() ^= 1;
    // P-384 by name, a point of P-256; a compressed form is not ours to take.
    let (_, key) = good.split_at(2 + 21);
    let other_curve = sequence(&[&hex::decode("301006072a8648ce3d020106052b81040022").unwrap(), key]);
    for (spki, what) in [
        (off_the_curve, "off the curve"),
        (other_curve, "of another curve"),
        ([&good[..], &[0]].concat(), "with something behind it"),
        (good[..good.len() - 1].to_vec(), "cut short"),
        (Vec::new(), "empty"),
    ] {
        assert_eq!(PublicKey::from_spki(&spki), Err(Error::BadKey), "{what}");
    }
    let rsa = |modulus: &[u8], exponent: &[u8]| {
        let key = sequence_long(&[&integer_long(modulus), &integer_long(exponent)]);
        let bits = element_long(3, &[&[0], &key[..]].concat());
        sequence_long(&[&hex::decode("300d06092a864886f70d0101010500").unwrap(), &bits])
    };
    let odd = |octets: usize| [vec![0xc1], vec![0x55; octets - 1]].concat();
    assert_eq!(
        PublicKey::from_spki(&rsa(&odd(256), &[1, 0, 1])).map(|key| key.kind()),
        Ok(KeyKind::Rsa(2048))
    );
    for (modulus, exponent, what) in [
        (odd(128), vec![1, 0, 1], "RSA 1024"),
        (odd(255), vec![1, 0, 1], "RSA 2040"),
        (odd(1025), vec![1, 0, 1], "RSA 8200"),
        (odd(256), vec![1], "exponent 1"),
        (odd(256), vec![2], "an even exponent"),
        (odd(256), vec![0x55; 100], "a huge exponent"),
        ([vec![0xc1], vec![0x54; 255]].concat(), vec![1, 0, 1], "an even modulus"),
    ] {
        let key = PublicKey::from_spki(&rsa(&modulus, &exponent));
        // What the library takes as a key, it refuses to verify with.
        let scheme = SignatureScheme::RsaPkcs1(HashId::SHA2_256);
        let refused = key.and_then(|key| key.verify(scheme, b"abc", &vec![1; modulus.len()]));
        assert!(refused.is_err(), "{what}");
    }
}

fn element_long(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    if length < 0x100 {
        return element(tag, content);
    }
    [&[tag, 0x82, (length >> 8) as u8, length as u8], content].concat()
}

fn sequence_long(parts: &[&[u8]]) -> Vec<u8> {
    element_long(0x30, &parts.concat())
}

fn integer_long(octets: &[u8]) -> Vec<u8> {
    let sign: &[u8] = if octets[0] >= 0x80 { &[0] } else { &[] };
    element_long(2, &[sign, octets].concat())
}

#[test]
fn private_keys_that_are_none() {
    for garbage in [&[][..], &[0x30, 0], &[0x30, 0x82, 0xff, 0xff], &[0; 300]] {
        assert_eq!(PrivateKey::from_der(garbage).err(), Some(Error::BadKey));
    }
}
