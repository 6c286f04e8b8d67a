//! Every algorithm of Adit by its IANA number.
//!
//! This crate owns keys and what is done with them: random functions, key exchange, key derivation,
//! signatures, and the protection of one direction of traffic. It is the only one that names a crypto library. It never parses a message,
//! never decides which algorithm is acceptable (only which is built in), and draws no randomness but from the
//! [`Entropy`] it is handed, except for ML-KEM, whose library draws its own.
//!
//! What is built in, by the names of the IKEv2 registry:
//!
//! | | always | with the feature `legacy` |
//! |---|---|---|
//! | encryption | AES_GCM_16 and AES_CBC with 128, 192, 256 bits, CHACHA20_POLY1305 | NULL (ESP) |
//! | integrity | HMAC_SHA2_256_128, HMAC_SHA2_384_192, HMAC_SHA2_512_256 | HMAC_SHA1_96 |
//! | pseudorandom function | PRF_HMAC_SHA2_256, PRF_HMAC_SHA2_384, PRF_HMAC_SHA2_512 | PRF_HMAC_SHA1 |
//! | key exchange | CURVE_25519, ECP_256, ECP_384, ECP_521, MODP_2048, MODP_3072, MODP_4096 | MODP_1024, MODP_1536 |
//! | post-quantum key exchange | ML_KEM_512, ML_KEM_768, ML_KEM_1024 | |
//! | signature | RSA PKCS#1 v1.5 and PSS, ECDSA on P-256, P-384, P-521 with SHA2-256, SHA2-384, SHA2-512; Ed25519 | RSA PKCS#1 v1.5 with SHA-1 |

#![deny(unsafe_code, unsafe_op_in_unsafe_fn)]

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "vector instructions that a processor has or not, and their loads and stores")]
mod aes_gcm;
#[cfg(not(target_arch = "x86_64"))]
#[path = "aes_gcm_absent.rs"]
mod aes_gcm;
mod curve;
mod der;
mod entropy;
#[doc(hidden)]
pub mod fuzzing;
mod kem;
mod key_exchange;
mod keys;
mod modp;
mod prf;
mod protection;
#[cfg(feature = "legacy")]
mod rsa_sha1;
mod secret;
mod signature;
mod suites;

use adit_wire::ikev2::KeId;
use aws_lc_rs::{constant_time, digest};

pub use entropy::{Entropy, SystemEntropy, testing};
pub use key_exchange::{KeyExchangeSecret, public_len, respond};
pub use keys::{
    EspKeys, EspTransforms, IkeKeys, IkeTransforms, child_keys, ike_keys, mix_ppk, psk_auth, rekey_ike_keys,
};
pub use prf::Prf;
pub use protection::Protection;
pub use secret::Secret;
pub use signature::{KeyKind, PrivateKey, PublicKey, SignatureScheme, Signer};
pub use suites::{
    encr_key_len, integ_key_len, is_aead, supports_encr, supports_integ, supports_ke, supports_prf,
};

/// Why an operation was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The integrity check value is wrong: the octets are not what the holder of the key sealed.
    #[error("integrity check failed")]
    Authentication,
    /// A signature is not that of the message by the holder of the key.
    #[error("the signature is not valid")]
    BadSignature,
    /// The algorithm, or the combination, is not built in. A configuration or a negotiation let it through.
    #[error("{what} is not supported")]
    Unsupported {
        /// The algorithm, by its registry name.
        what: String,
    },
    /// The library refused a key of the right length.
    #[error("unusable key")]
    BadKey,
    /// The peer's public value must not be used (RFC 6989, RFC 8031, FIPS 203).
    #[error("{method} public value refused: {why}")]
    BadPublicValue {
        /// The key exchange method it was sent for.
        method: KeId,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A buffer or a key has the wrong length. Lengths are in octets.
    #[error("{what} has {actual} octets, not {expected}")]
    Length {
        /// Which one.
        what: &'static str,
        /// The length it should have; where several would do, the nearest.
        expected: usize,
        /// The length it has.
        actual: usize,
    },
    /// The entropy source gave nothing usable, which no working source does.
    #[error("the entropy source is broken")]
    Entropy,
}

/// Whether two octet strings are equal, in a time that depends on their lengths alone.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// SHA-1 over the concatenation of `parts`, for NAT detection (RFC 7296 2.23), which needs no strength of it.
pub fn hash_sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; 20];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4 example "abc" (RFC 3174 7.3, TEST1).
    #[test]
    fn sha1_of_parts() {
        let expected = "a9993e364706816aba3e25717850c26c9cd0d89d";
        assert_eq!(hex::encode(hash_sha1(&[b"abc"])), expected);
        assert_eq!(hex::encode(hash_sha1(&[b"a", b"", b"bc"])), expected);
    }
}
