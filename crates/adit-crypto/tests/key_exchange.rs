//! Known answers for the key exchange methods, and the public values that must be refused (RFC 6989, RFC 8031).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod common;

use adit_crypto::testing::SeededEntropy;
use adit_crypto::{Error, KeyExchangeSecret, Secret, public_len, respond, supports_ke};
use adit_wire::ikev2::KeId;
use common::{Fixed, Hex, Verdict, Wycheproof, read, rfc, wycheproof};
use serde::Deserialize;

const KEMS: [KeId; 3] = [KeId::ML_KEM_512, KeId::ML_KEM_768, KeId::ML_KEM_1024];
const CURVES: [KeId; 4] = [KeId::CURVE_25519, KeId::ECP_256, KeId::ECP_384, KeId::ECP_521];

fn modp() -> Vec<KeId> {
    let all = [KeId::MODP_1024, KeId::MODP_1536, KeId::MODP_2048, KeId::MODP_3072, KeId::MODP_4096];
    let built_in: Vec<KeId> = all.into_iter().filter(|method| supports_ke(*method)).collect();
    assert_eq!(built_in.len(), if cfg!(feature = "legacy") { 5 } else { 3 });
    built_in
}

/// One whole exchange, both private keys given.
#[derive(Deserialize)]
struct Exchange {
    i: Hex,
    r: Hex,
    public_i: Hex,
    public_r: Hex,
    shared: Hex,
}

impl Exchange {
    /// Runs it from both sides.
    fn check(&self, method: KeId) {
        let initiator = KeyExchangeSecret::generate(method, &mut Fixed(&self.i)).unwrap();
        assert_eq!(initiator.method(), method);
        assert_eq!(initiator.public(), &*self.public_i, "{method} initiator's public value");
        assert_eq!(public_len(method), Some(self.public_i.len()));
        let (public, shared) = respond(method, &self.public_i, &mut Fixed(&self.r)).unwrap();
        assert_eq!(public, *self.public_r, "{method} responder's public value");
        assert!(shared.ct_eq(&self.shared), "{method} responder's secret");
        assert!(initiator.agree(&self.public_r).unwrap().ct_eq(&self.shared), "{method} initiator's secret");
    }
}

/// RFC 5903 8.1 to 8.3.
#[test]
fn ecp_rfc_5903() {
    #[derive(Deserialize)]
    struct Case {
        method: u16,
        #[serde(flatten)]
        exchange: Exchange,
    }
    let cases: Vec<Case> = rfc("rfc5903_8");
    assert_eq!(cases.len(), 3);
    for case in cases {
        case.exchange.check(KeId(case.method));
    }
}

/// RFC 8031 appendix A and RFC 7748 6.1.
#[test]
fn x25519_rfc_8031_and_7748() {
    rfc::<Exchange>("rfc8031_a").check(KeId::CURVE_25519);
    rfc::<Exchange>("rfc7748_6_1").check(KeId::CURVE_25519);
}

/// `vectors/modp.py`, computed with Python's integers from the closed formula of the primes. In each group one case
/// has a public value, and one a secret, that begins with a zero octet.
#[test]
fn modp_python() {
    #[derive(Deserialize)]
    struct Case {
        method: u16,
        #[serde(flatten)]
        exchange: Exchange,
    }
    let cases: Vec<Case> = read("modp.json");
    for method in modp() {
        let of_method: Vec<&Case> = cases.iter().filter(|case| KeId(case.method) == method).collect();
        assert_eq!(of_method.len(), 3);
        assert!(of_method.iter().any(|case| case.exchange.public_i[0] == 0));
        assert!(of_method.iter().any(|case| case.exchange.shared[0] == 0));
        for case in of_method {
            case.exchange.check(method);
        }
    }
}

/// Wycheproof X25519. What it calls acceptable is right by RFC 7748, but for results of zero, which RFC 8031 2 has us
/// refuse.
#[test]
fn x25519_wycheproof() {
    #[derive(Deserialize)]
    struct Group {
        tests: Vec<Case>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Case {
        tc_id: u32,
        flags: Vec<String>,
        public: Hex,
        private: Hex,
        shared: Hex,
    }
    let vectors: Wycheproof<Group> = wycheproof("x25519");
    let (mut seen, mut zero) = (0, 0);
    for case in vectors.test_groups.iter().flat_map(|group| &group.tests) {
        let ours = KeyExchangeSecret::generate(KeId::CURVE_25519, &mut Fixed(&case.private)).unwrap();
        let agreed = ours.agree(&case.public);
        if case.flags.iter().any(|flag| flag == "ZeroSharedSecret") {
            assert!(case.shared.iter().all(|byte| *byte == 0));
            assert!(matches!(agreed, Err(Error::BadPublicValue { .. })), "{}", case.tc_id);
            zero += 1;
        } else {
            assert!(agreed.unwrap().ct_eq(&case.shared), "{}", case.tc_id);
        }
        seen += 1;
    }
    assert_eq!(seen, vectors.number_of_tests);
    assert_eq!(zero, 31);
}

/// Wycheproof ECDH with points as in SEC 1: those not on the curve are refused, and so are compressed ones, which a KE
/// payload cannot carry.
#[test]
fn ecp_wycheproof() {
    #[derive(Deserialize)]
    struct Group {
        tests: Vec<Case>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Case {
        tc_id: u32,
        public: Hex,
        private: String,
        shared: Hex,
        result: Verdict,
    }
    for (file, method, len) in [
        ("ecdh_secp256r1_ecpoint", KeId::ECP_256, 32),
        ("ecdh_secp384r1_ecpoint", KeId::ECP_384, 48),
        ("ecdh_secp521r1_ecpoint", KeId::ECP_521, 66),
    ] {
        let vectors: Wycheproof<Group> = wycheproof(file);
        let (mut valid, mut off_curve, mut other) = (0, 0, 0);
        for case in vectors.test_groups.iter().flat_map(|group| &group.tests) {
            // Private keys are numbers there: zeros in front are missing or too many.
            let private = format!("{:0>width$}", case.private.trim_start_matches('0'), width = 2 * len);
            let private = hex::decode(private).unwrap();
            let ours = KeyExchangeSecret::generate(method, &mut Fixed(&private)).unwrap();
            match (&*case.public, case.result) {
                ([4, point @ ..], Verdict::Valid) => {
                    assert!(ours.agree(point).unwrap().ct_eq(&case.shared), "{file} {}", case.tc_id);
                    valid += 1;
                }
                ([4, point @ ..], _) => {
                    let error = ours.agree(point).unwrap_err();
                    assert_eq!(
                        error,
                        Error::BadPublicValue { method, why: "it is not a point on the curve" }
                    );
                    off_curve += 1;
                }
                (encoded, _) => {
                    let error = ours.agree(encoded).unwrap_err();
                    assert!(matches!(error, Error::BadPublicValue { .. }), "{file} {}", case.tc_id);
                    other += 1;
                }
            }
        }
        assert_eq!(valid + off_curve + other, vectors.number_of_tests);
        assert!(valid >= 330 && off_curve == 16);
    }
}

/// Both sides agree, whatever the keys; and never twice on the same.
#[test]
fn both_sides_agree() {
    let mut entropy = SeededEntropy::new(1);
    for method in CURVES.into_iter().chain(modp()).chain(KEMS) {
        let mut last = Secret::new(Vec::new());
        for _ in 0..3 {
            let initiator = KeyExchangeSecret::generate(method, &mut entropy).unwrap();
            let (public, theirs) = respond(method, initiator.public(), &mut entropy).unwrap();
            let ours = initiator.agree(&public).unwrap();
            assert!(ours.ct_eq(theirs.expose()), "{method}");
            assert!(!ours.ct_eq(last.expose()), "{method}");
            last = ours;
        }
    }
}

/// draft-ietf-ipsecme-ikev2-mlkem: what goes over the wire has these lengths, and is never the same twice.
#[test]
fn ml_kem_payloads_are_fresh_and_of_the_right_length() {
    let mut entropy = SeededEntropy::new(6);
    for (method, key_len, ciphertext_len) in
        [(KeId::ML_KEM_512, 800, 768), (KeId::ML_KEM_768, 1184, 1088), (KeId::ML_KEM_1024, 1568, 1568)]
    {
        let one = KeyExchangeSecret::generate(method, &mut entropy).unwrap();
        let other = KeyExchangeSecret::generate(method, &mut entropy).unwrap();
        assert_ne!(one.public(), other.public());
        let (ciphertext, secret) = respond(method, one.public(), &mut entropy).unwrap();
        let (again, another) = respond(method, one.public(), &mut entropy).unwrap();
        assert_ne!(ciphertext, again);
        assert!(!secret.ct_eq(another.expose()));
        assert_eq!((one.public().len(), ciphertext.len(), secret.len()), (key_len, ciphertext_len, 32));
        assert_eq!(public_len(method), Some(key_len));
    }
}

/// FIPS 203 7.2, on Wycheproof's keys: of another length, or with a coefficient not below the modulus.
#[test]
fn ml_kem_keys_are_checked_before_encapsulation() {
    #[derive(Deserialize)]
    struct Case {
        method: u16,
        refused: Vec<Hex>,
        accepted: Vec<Hex>,
    }
    let mut entropy = SeededEntropy::new(7);
    let mut seen = 0;
    for case in read::<Vec<Case>>("mlkem.json.gz") {
        let method = KeId(case.method);
        let len = public_len(method).unwrap();
        assert!(case.refused.iter().filter(|key| key.len() == len).count() >= 8);
        for key in &case.refused {
            let error = respond(method, key, &mut entropy).unwrap_err();
            assert!(matches!(error, Error::BadPublicValue { .. }), "{method}");
        }
        for key in &case.accepted {
            assert!(respond(method, key, &mut entropy).is_ok(), "{method}");
        }
        seen += 1;
    }
    assert_eq!(seen, 3);
}

/// FIPS 203 6.3: an altered ciphertext is not refused, it gives another secret.
#[test]
fn ml_kem_ciphertexts_are_rejected_implicitly() {
    let mut entropy = SeededEntropy::new(8);
    for method in KEMS {
        let initiator = KeyExchangeSecret::generate(method, &mut entropy).unwrap();
        let (mut ciphertext, theirs) = respond(method, initiator.public(), &mut entropy).unwrap();
        ciphertext[0] ^= 1;
        let ours = initiator.agree(&ciphertext).unwrap();
        assert_eq!(ours.len(), 32);
        assert!(!ours.ct_eq(theirs.expose()), "{method}");
    }
}

/// A public value of another length is refused by either side (RFC 7296 3.4, FIPS 203 7.2 and 7.3).
#[test]
fn wrong_lengths_are_refused() {
    let mut entropy = SeededEntropy::new(2);
    for method in CURVES.into_iter().chain(modp()).chain(KEMS) {
        let right = KeyExchangeSecret::generate(method, &mut entropy).unwrap().public().to_vec();
        let (response, _) = respond(method, &right, &mut entropy).unwrap();
        let wrong = |right: &[u8]| {
            let longer = [[&[0], right].concat(), [right, &[0]].concat()];
            let shorter = [right[1..].to_vec(), right[..right.len() - 1].to_vec(), Vec::new()];
            longer.into_iter().chain(shorter).collect::<Vec<_>>()
        };
        for wrong in wrong(&response) {
            let ours = KeyExchangeSecret::generate(method, &mut entropy).unwrap();
            assert!(matches!(ours.agree(&wrong), Err(Error::BadPublicValue { .. })), "{method}");
        }
        for wrong in wrong(&right) {
            let refused = respond(method, &wrong, &mut entropy);
            assert!(matches!(refused, Err(Error::BadPublicValue { .. })), "{method}");
        }
    }
}

/// RFC 6989 2.1: 1 < r < p-1. The primes are those of `vectors/modp.py`.
#[test]
fn modp_values_out_of_range_are_refused() {
    #[derive(Deserialize)]
    struct Case {
        method: u16,
        prime: Hex,
    }
    let cases: Vec<Case> = read("modp.json");
    let mut entropy = SeededEntropy::new(3);
    for method in modp() {
        let prime = &cases.iter().find(|case| KeId(case.method) == method).unwrap().prime.0;
        let small = |value: u8| {
            let mut octets = vec![0; prime.len()];
            *octets.last_mut().unwrap() = value;
            octets
        };
        // The primes end in 64 one bits, so no borrow and no carry but the last.
        let less = |value: u8| {
            let mut octets = prime.clone();
            *octets.last_mut().unwrap() -= value;
            octets
        };
        for refused in [small(0), small(1), less(1), less(0), vec![0xff; prime.len()]] {
            let error = respond(method, &refused, &mut entropy).unwrap_err();
            assert!(matches!(error, Error::BadPublicValue { .. }), "{method}");
        }
        for accepted in [small(2), less(2)] {
            assert!(respond(method, &accepted, &mut entropy).is_ok(), "{method}");
        }
    }
}

/// RFC 6989 2.3: x and y of zero, of ones, or not on the curve.
#[test]
fn ecp_values_off_the_curve_are_refused() {
    let mut entropy = SeededEntropy::new(4);
    for method in [KeId::ECP_256, KeId::ECP_384, KeId::ECP_521] {
        let mut flipped = KeyExchangeSecret::generate(method, &mut entropy).unwrap().public().to_vec();
        *flipped.last_mut().unwrap() ^= 1;
        let len = flipped.len();
        for refused in [vec![0; len], vec![0xff; len], flipped] {
            let error = respond(method, &refused, &mut entropy).unwrap_err();
            assert_eq!(error, Error::BadPublicValue { method, why: "it is not a point on the curve" });
        }
    }
}

/// What is not built in says so by name.
#[test]
fn unknown_methods_are_refused() {
    let mut entropy = SeededEntropy::new(5);
    for method in [KeId::NONE, KeId::MODP_768, KeId::CURVE_448, KeId(65000)] {
        assert!(!supports_ke(method) && public_len(method).is_none());
        let expected = Error::Unsupported { what: method.to_string() };
        assert_eq!(KeyExchangeSecret::generate(method, &mut entropy).unwrap_err(), expected);
        assert_eq!(respond(method, &[0; 32], &mut entropy).unwrap_err(), expected);
    }
}
