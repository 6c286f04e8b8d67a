//! Known answers for the pseudorandom functions and for everything derived with them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod common;

use adit_crypto::{
    Error, EspTransforms, IkeKeys, IkeTransforms, Prf, Secret, child_keys, constant_time_eq, ike_keys,
    mix_ppk, psk_auth, rekey_ike_keys,
};
use adit_wire::ikev2::{EncrId, IntegId, KeId, PrfId};
use common::{Hex, Verdict, Wycheproof, read, rfc, wycheproof};
use serde::Deserialize;

const SHA2: [(u16, PrfId, IntegId); 3] = [
    (256, PrfId::HMAC_SHA2_256, IntegId::HMAC_SHA2_256_128),
    (384, PrfId::HMAC_SHA2_384, IntegId::HMAC_SHA2_384_192),
    (512, PrfId::HMAC_SHA2_512, IntegId::HMAC_SHA2_512_256),
];

/// RFC 4231 4: seven cases, the fifth with a truncated output.
#[test]
fn hmac_sha2_rfc_4231() {
    #[derive(Deserialize)]
    struct Case {
        case: u32,
        key: Hex,
        data: Hex,
        hmac_sha256: Hex,
        hmac_sha384: Hex,
        hmac_sha512: Hex,
    }
    let cases: Vec<Case> = rfc("rfc4231_4");
    assert_eq!(cases.len(), 7);
    for case in cases {
        for ((_, id, _), expected) in
            SHA2.iter().zip([&case.hmac_sha256, &case.hmac_sha384, &case.hmac_sha512])
        {
            let prf = Prf::new(*id).unwrap();
            let (head, tail) = case.data.split_at(case.data.len() / 2);
            let output = prf.compute(&case.key, &[head, tail]);
            assert_eq!(output.len(), prf.output_len());
            let shown = if case.case == 5 { 16 } else { prf.output_len() };
            assert_eq!(output.expose()[..shown], **expected, "case {} {id}", case.case);
        }
    }
}

/// RFC 4868 2.7: the same functions by their names in IKEv2.
#[test]
fn prf_hmac_sha2_rfc_4868() {
    #[derive(Deserialize)]
    struct Case {
        case: String,
        bits: u16,
        key: Hex,
        data: Hex,
        prf: Hex,
    }
    let cases: Vec<Case> = rfc("rfc4868_2_7");
    assert_eq!(cases.len(), 30);
    for case in cases {
        let id = SHA2.iter().find(|(bits, ..)| *bits == case.bits).unwrap().1;
        let output = Prf::new(id).unwrap().compute(&case.key, &[&case.data]);
        assert!(output.ct_eq(&case.prf), "{} {id}", case.case);
    }
}

/// Wycheproof HMAC: every tag, whole or truncated, right or modified.
#[test]
fn hmac_wycheproof() {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Group {
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
    let mut files = vec![
        ("hmac_sha256", PrfId::HMAC_SHA2_256),
        ("hmac_sha384", PrfId::HMAC_SHA2_384),
        ("hmac_sha512", PrfId::HMAC_SHA2_512),
    ];
    if cfg!(feature = "legacy") {
        files.push(("hmac_sha1", PrfId::HMAC_SHA1));
    }
    for (file, id) in files {
        let vectors: Wycheproof<Group> = wycheproof(file);
        let prf = Prf::new(id).unwrap();
        let mut seen = 0;
        for group in &vectors.test_groups {
            for case in &group.tests {
                let output = prf.compute(&case.key, &[&case.msg]);
                let equal = constant_time_eq(&output.expose()[..group.tag_size / 8], &case.tag);
                assert_eq!(equal, case.result == Verdict::Valid, "{file} {}", case.tc_id);
                seen += 1;
            }
        }
        assert_eq!(seen, vectors.number_of_tests);
    }
}

/// NIST CAVS 17.3, IKEv2 KDF: SKEYSEED, the seven keys of an IKE SA, the keys of Child SAs without and with a key
/// exchange of their own, and the seed of a rekeyed IKE SA.
#[test]
fn key_derivation_nist_cavs() {
    #[derive(Deserialize)]
    struct File {
        groups: Vec<Group>,
    }
    #[derive(Deserialize)]
    struct Group {
        hash: String,
        tests: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        #[serde(rename = "Ni")]
        ni: Hex,
        #[serde(rename = "Nr")]
        nr: Hex,
        #[serde(rename = "g^ir")]
        shared: Hex,
        #[serde(rename = "g^ir (new)")]
        shared_new: Hex,
        #[serde(rename = "SPIi")]
        spi_i: Hex,
        #[serde(rename = "SPIr")]
        spi_r: Hex,
        #[serde(rename = "SKEYSEED")]
        skeyseed: Hex,
        #[serde(rename = "DKM")]
        dkm: Hex,
        #[serde(rename = "DKM(Child SA)")]
        dkm_child: Hex,
        #[serde(rename = "DKM(Child SA D-H)")]
        dkm_child_ke: Hex,
        #[serde(rename = "SKEYSEED(Rekey)")]
        skeyseed_rekey: Hex,
    }
    let file: File = read("nist_cavs_ikev2_kdf.json.gz");
    assert_eq!(file.groups.len(), 9);
    let mut seen = 0;
    for group in file.groups {
        let (id, integ) = match group.hash.as_str() {
            "SHA-1" if !cfg!(feature = "legacy") => continue,
            "SHA-1" => (PrfId::HMAC_SHA1, IntegId::HMAC_SHA1_96),
            "SHA-256" => (PrfId::HMAC_SHA2_256, IntegId::HMAC_SHA2_256_128),
            "SHA-384" => (PrfId::HMAC_SHA2_384, IntegId::HMAC_SHA2_384_192),
            "SHA-512" => (PrfId::HMAC_SHA2_512, IntegId::HMAC_SHA2_512_256),
            other => panic!("hash {other}"),
        };
        let prf = Prf::new(id).unwrap();
        let ciphers = [
            (EncrId::AES_CBC, Some(128), Some(integ)),
            (EncrId::AES_GCM_16, Some(128), None),
            (EncrId::CHACHA20_POLY1305, None, Some(IntegId::NONE)),
        ];
        for case in group.tests {
            let spi = |octets: &Hex| u64::from_be_bytes(octets.0.clone().try_into().unwrap());
            let (spi_i, spi_r) = (spi(&case.spi_i), spi(&case.spi_r));
            let (ni, nr) = (&*case.ni, &*case.nr);
            let shared = Secret::new(case.shared.0.clone());
            let shared_new = [Secret::new(case.shared_new.0.clone())];

            // Function by function, in full length ..
            let skeyseed = prf.compute(&[ni, nr].concat(), &[&case.shared]);
            assert_eq!(skeyseed.expose(), &*case.skeyseed);
            let seed = [ni, nr, &case.spi_i, &case.spi_r];
            assert_eq!(prf.plus(&case.skeyseed, &seed, case.dkm.len()).unwrap().expose(), &*case.dkm);
            let sk_d = &case.dkm[..prf.key_len()];
            assert_eq!(prf.compute(sk_d, &[&case.shared_new, ni, nr]).expose(), &*case.skeyseed_rekey);
            let new_dkm = prf.plus(&case.skeyseed_rekey, &seed, case.dkm.len()).unwrap();

            // .. and as whole SAs, whose keys one after the other are the stream as far as NIST gives it.
            for (encr, key_bits, integ) in ciphers {
                let t = IkeTransforms { encr, key_bits, integ, prf: id, ke: KeId::MODP_2048 };
                let keys = ike_keys(&t, &shared, ni, nr, spi_i, spi_r).unwrap();
                assert_stream(&ike_stream(&keys), &case.dkm);
                assert_eq!(keys.sk_d.expose(), sk_d);
                let rekeyed = rekey_ike_keys(id, &keys.sk_d, &t, &shared_new, ni, nr, spi_i, spi_r).unwrap();
                assert_stream(&ike_stream(&rekeyed), new_dkm.expose());

                let t = EspTransforms { encr, key_bits, integ, esn: true };
                for (shared, dkm) in [(&[][..], &case.dkm_child), (&shared_new, &case.dkm_child_ke)] {
                    let (i, r) = child_keys(id, &keys.sk_d, shared, ni, nr, &t).unwrap();
                    let parts = [i.encr.expose(), i.integ.expose(), r.encr.expose(), r.integ.expose()];
                    assert_stream(&parts.concat(), dkm);
                }
            }
            seen += 1;
        }
    }
    assert_eq!(seen, if cfg!(feature = "legacy") { 54 } else { 36 });
}

fn ike_stream(keys: &IkeKeys) -> Vec<u8> {
    [&keys.sk_d, &keys.sk_ai, &keys.sk_ar, &keys.sk_ei, &keys.sk_er, &keys.sk_pi, &keys.sk_pr]
        .map(Secret::expose)
        .concat()
}

fn assert_stream(keys: &[u8], expected: &[u8]) {
    let common = keys.len().min(expected.len());
    assert!(common >= 40);
    assert_eq!(keys[..common], expected[..common]);
}

/// RFC 7296 2.18: where old and new SA differ in their function, the old one makes the seed and the new one the keys.
/// The single functions are those checked above.
#[test]
fn rekeying_to_another_prf() {
    let (sk_d, shared) = (Secret::new(vec![1; 32]), [Secret::new(vec![2; 32])]);
    let (ni, nr) = ([3; 32], [4; 32]);
    let t = IkeTransforms {
        encr: EncrId::AES_GCM_16,
        key_bits: Some(256),
        integ: None,
        prf: PrfId::HMAC_SHA2_512,
        ke: KeId::CURVE_25519,
    };
    let keys = rekey_ike_keys(PrfId::HMAC_SHA2_256, &sk_d, &t, &shared, &ni, &nr, 5, 6).unwrap();
    let old = Prf::new(PrfId::HMAC_SHA2_256).unwrap();
    let new = Prf::new(PrfId::HMAC_SHA2_512).unwrap();
    let seed = old.compute(sk_d.expose(), &[&[2; 32], &ni, &nr]);
    let expected =
        new.plus(seed.expose(), &[&ni, &nr, &[0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6]], 264);
    assert_eq!(ike_stream(&keys), expected.unwrap().expose());
}

/// RFC 9370 2.2.4: the first secret stands before the nonces, the others behind. Octets from Python's `hmac`:
/// `hmac.new(b"\1"*32, b"\2"*32 + b"\3"*32 + b"\4"*32 + b"\5"*32 + b"\6"*66 + tail, "sha256")`, with the counter 1 as
/// the tail of KEYMAT and none for SKEYSEED, from which prf+ goes on over nonces and SPIs.
#[test]
fn several_key_exchanges() {
    let sk_d = Secret::new(vec![1; 32]);
    let shared = [Secret::new(vec![2; 32]), Secret::new(vec![5; 32]), Secret::new(vec![6; 66])];
    let (ni, nr) = ([3; 32], [4; 32]);
    let t = EspTransforms { encr: EncrId::AES_GCM_16, key_bits: Some(128), integ: None, esn: true };
    let (from_initiator, _) = child_keys(PrfId::HMAC_SHA2_256, &sk_d, &shared, &ni, &nr, &t).unwrap();
    assert_eq!(hex::encode(from_initiator.encr.expose()), "25f433d21db8ba838ffcd17b215678e1602f43f2");
    let t = IkeTransforms {
        encr: EncrId::AES_GCM_16,
        key_bits: Some(256),
        integ: None,
        prf: PrfId::HMAC_SHA2_256,
        ke: KeId::CURVE_25519,
    };
    let keys = rekey_ike_keys(PrfId::HMAC_SHA2_256, &sk_d, &t, &shared, &ni, &nr, 5, 6).unwrap();
    assert_eq!(
        hex::encode(keys.sk_d.expose()),
        "9bdba5d833d0a0978d5e6f7c7f3b4fba9de7e27313bdbffd56436d559e6af6f9"
    );
}

/// RFC 8784 3: `SK_d = prf+ (PPK, SK_d')`, `SK_pi = prf+ (PPK, SK_pi')`. Octets from Python's `hmac`:
/// `hmac.new(b"ppk", b"\1"*32 + b"\1", "sha256")`; one block, for the key is as long as the output.
#[test]
fn a_post_quantum_key_is_mixed_in() {
    let mixed =
        mix_ppk(PrfId::HMAC_SHA2_256, &Secret::new(b"ppk".to_vec()), &Secret::new(vec![1; 32])).unwrap();
    assert_eq!(
        hex::encode(mixed.expose()),
        "efd70b6c6c7cac8f54bee568d4f61d1b3468abc684bed6b02049724cabeefad5"
    );
}

/// RFC 7296 2.14 and RFC 5282 7: which key has which length.
#[test]
fn key_lengths() {
    let shared = Secret::new(vec![1; 32]);
    let t = IkeTransforms {
        encr: EncrId::AES_GCM_16,
        key_bits: Some(256),
        integ: None,
        prf: PrfId::HMAC_SHA2_384,
        ke: KeId::ECP_384,
    };
    let lengths = |t: &IkeTransforms| {
        let keys = ike_keys(t, &shared, &[2; 32], &[3; 32], 4, 5).unwrap();
        [&keys.sk_d, &keys.sk_ai, &keys.sk_ar, &keys.sk_ei, &keys.sk_er, &keys.sk_pi, &keys.sk_pr]
            .map(Secret::len)
    };
    assert_eq!(lengths(&t), [48, 0, 0, 36, 36, 48, 48]);
    let t = IkeTransforms {
        encr: EncrId::AES_CBC,
        integ: Some(IntegId::HMAC_SHA2_512_256),
        prf: PrfId::HMAC_SHA2_256,
        ..t
    };
    assert_eq!(lengths(&t), [32, 64, 64, 32, 32, 32, 32]);
}

/// What the registry knows and nobody may use for IKE, or in that combination.
#[test]
fn unusable_transforms_are_refused() {
    let shared = Secret::new(vec![1; 32]);
    let refused = |encr, key_bits, integ, prf| {
        let t = IkeTransforms { encr, key_bits, integ, prf, ke: KeId::CURVE_25519 };
        let error = ike_keys(&t, &shared, &[2; 32], &[3; 32], 4, 5).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
    };
    let sha2 = Some(IntegId::HMAC_SHA2_256_128);
    refused(EncrId::NULL, None, sha2, PrfId::HMAC_SHA2_256);
    refused(EncrId::AES_CBC, Some(128), None, PrfId::HMAC_SHA2_256);
    refused(EncrId::AES_GCM_16, Some(128), sha2, PrfId::HMAC_SHA2_256);
    refused(EncrId::AES_GCM_16, None, None, PrfId::HMAC_SHA2_256);
    refused(EncrId::AES_GCM_16, Some(128), None, PrfId::HMAC_MD5);
}

/// RFC 7296 2.13: the stream ends after 255 blocks. Its blocks are chained by hand here.
#[test]
fn prf_plus_to_its_end() {
    let prf = Prf::new(PrfId::HMAC_SHA2_256).unwrap();
    let longest = 255 * 32;
    let stream = prf.plus(b"key", &[b"se", b"ed"], longest).unwrap();
    assert_eq!(stream.len(), longest);
    let mut previous = Vec::new();
    for (block, number) in stream.expose().chunks(32).zip(1..=255) {
        previous = prf.compute(b"key", &[&previous, b"seed", &[number]]).expose().to_vec();
        assert_eq!(block, previous);
    }
    assert!(prf.plus(b"key", &[b"seed"], 0).unwrap().is_empty());
    assert_eq!(prf.plus(b"key", &[b"seed"], 33).unwrap().expose(), &stream.expose()[..33]);
    assert_eq!(
        prf.plus(b"key", &[b"seed"], longest + 1).unwrap_err(),
        Error::Length { what: "prf+ output", expected: longest, actual: longest + 1 }
    );
}

/// RFC 7296 2.15; expected values from Python's `hmac`:
/// `hmac.new(hmac.new(b"correct horse", b"Key Pad for IKEv2", h).digest(), bytes(range(100)), h)`.
#[test]
fn shared_key_authentication() {
    let octets: Vec<u8> = (0..100).collect();
    for (prf, expected) in [
        (PrfId::HMAC_SHA2_256, "5086e5f0905d201b099db8a9ad3a7ce01ffb6c19273dc74158c32bdc59dbe2f4"),
        (
            PrfId::HMAC_SHA2_384,
            "60404a105f4fe5f2bfedf30e5f77050efadb1c7e03ff2f013e90f6e550c389e9bd828493916f00114843e761bd8a1dce",
        ),
        (
            PrfId::HMAC_SHA2_512,
            "dba1880ece12476f9e019957e2ad9d20bc856f5880192353407e852fc735f196\
             f4d85c8cb47ad2190e10478a076c2c668a585866b581fc2951dc5eeca6f1890d",
        ),
    ] {
        let auth = psk_auth(prf, b"correct horse", &[&octets[..7], &octets[7..]]).unwrap();
        assert_eq!(hex::encode(auth.expose()), expected);
    }
    let sha1 = psk_auth(PrfId::HMAC_SHA1, b"correct horse", &[&octets]);
    assert_eq!(
        sha1.ok().map(|auth| hex::encode(auth.expose())).as_deref(),
        cfg!(feature = "legacy").then_some("cdcfcac8eb207591e2006004545bd80a0821d4d0")
    );
    assert!(psk_auth(PrfId::HMAC_MD5, b"correct horse", &[&octets]).is_err());
}
