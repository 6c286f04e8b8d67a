//! What is built in: one table per transform type, from IANA number to algorithm and lengths. Whether something built
//! in may be used is a matter of configuration and never decided here.

use adit_wire::ikev2::{EncrId, IntegId, KeId, PrfId};
use aws_lc_rs::{aead, cipher, hmac};

use crate::{Error, public_len};

/// Octets of salt after the key in an AEAD cipher's keying material (RFC 4106 8.1, RFC 7634 2).
pub(crate) const SALT_LEN: usize = 4;

/// An encryption algorithm.
#[derive(Clone, Copy)]
pub(crate) enum Cipher {
    Aead(&'static aead::Algorithm),
    AesCbc {
        algorithm: &'static cipher::Algorithm,
        key_len: usize,
    },
    #[cfg(feature = "legacy")]
    Null,
}

impl Cipher {
    /// The algorithm with this number and Key Length attribute, if it is built in.
    ///
    /// AES needs the attribute and ChaCha20 and NULL must not have it (RFC 7296 3.3.5, RFC 7634 4).
    pub(crate) fn of(encr: EncrId, key_bits: Option<u16>) -> Option<Self> {
        match (encr, key_bits) {
            (EncrId::AES_GCM_16, Some(128)) => Some(Self::Aead(&aead::AES_128_GCM)),
            (EncrId::AES_GCM_16, Some(192)) => Some(Self::Aead(&aead::AES_192_GCM)),
            (EncrId::AES_GCM_16, Some(256)) => Some(Self::Aead(&aead::AES_256_GCM)),
            (EncrId::CHACHA20_POLY1305, None) => Some(Self::Aead(&aead::CHACHA20_POLY1305)),
            (EncrId::AES_CBC, Some(128)) => Some(Self::AesCbc { algorithm: &cipher::AES_128, key_len: 16 }),
            (EncrId::AES_CBC, Some(192)) => Some(Self::AesCbc { algorithm: &cipher::AES_192, key_len: 24 }),
            (EncrId::AES_CBC, Some(256)) => Some(Self::AesCbc { algorithm: &cipher::AES_256, key_len: 32 }),
            #[cfg(feature = "legacy")]
            (EncrId::NULL, None) => Some(Self::Null),
            _ => None,
        }
    }

    /// Octets of keying material, salt included.
    pub(crate) fn key_len(self) -> usize {
        match self {
            Self::Aead(algorithm) => algorithm.key_len() + SALT_LEN,
            Self::AesCbc { key_len, .. } => key_len,
            #[cfg(feature = "legacy")]
            Self::Null => 0,
        }
    }
}

/// An integrity algorithm: a truncated HMAC.
#[derive(Clone, Copy)]
pub(crate) struct Integrity {
    pub(crate) algorithm: hmac::Algorithm,
    /// Octets of the integrity check value on the wire.
    pub(crate) icv_len: usize,
}

impl Integrity {
    /// The algorithm with this number, if it is built in.
    pub(crate) fn of(integ: IntegId) -> Option<Self> {
        let (algorithm, icv_len) = match integ {
            // RFC 2404
            #[cfg(feature = "legacy")]
            IntegId::HMAC_SHA1_96 => (hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, 12),
            // RFC 4868 2.3: half of the hash
            IntegId::HMAC_SHA2_256_128 => (hmac::HMAC_SHA256, 16),
            IntegId::HMAC_SHA2_384_192 => (hmac::HMAC_SHA384, 24),
            IntegId::HMAC_SHA2_512_256 => (hmac::HMAC_SHA512, 32),
            _ => return None,
        };
        Some(Self { algorithm, icv_len })
    }

    /// Octets of the key: those of the hash (RFC 2404 3, RFC 4868 2.1.1).
    pub(crate) fn key_len(self) -> usize {
        self.algorithm.tag_len()
    }
}

/// An encryption algorithm with the integrity algorithm it needs, and only then.
#[derive(Clone, Copy)]
pub(crate) struct Suite {
    pub(crate) cipher: Cipher,
    pub(crate) integrity: Option<Integrity>,
}

impl Suite {
    /// Pairs them. An AEAD cipher goes alone, or with NONE (RFC 7296 3.3.3); every other needs integrity
    /// (RFC 4303 3.2.2, RFC 7296 3.14).
    pub(crate) fn of(encr: EncrId, key_bits: Option<u16>, integ: Option<IntegId>) -> Result<Self, Error> {
        let unsupported = |what: String| Error::Unsupported { what };
        let cipher = Cipher::of(encr, key_bits).ok_or_else(|| {
            unsupported(match key_bits {
                Some(bits) => format!("{encr} with {bits} bits of key"),
                None => encr.to_string(),
            })
        })?;
        let integ = integ.filter(|integ| *integ != IntegId::NONE);
        let integrity = match integ {
            Some(id) => Some(Integrity::of(id).ok_or_else(|| unsupported(id.to_string()))?),
            None => None,
        };
        match (cipher, integ) {
            (Cipher::Aead(_), Some(integ)) => Err(unsupported(format!("{encr} with {integ}"))),
            (Cipher::Aead(_), None) | (_, Some(_)) => Ok(Self { cipher, integrity }),
            (_, None) => Err(unsupported(format!("{encr} without integrity"))),
        }
    }

    /// Octets of the integrity key.
    pub(crate) fn integ_key_len(self) -> usize {
        self.integrity.map_or(0, Integrity::key_len)
    }
}

/// The HMAC behind a pseudorandom function, if it is built in.
pub(crate) fn prf(prf: PrfId) -> Option<hmac::Algorithm> {
    match prf {
        #[cfg(feature = "legacy")]
        PrfId::HMAC_SHA1 => Some(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
        PrfId::HMAC_SHA2_256 => Some(hmac::HMAC_SHA256),
        PrfId::HMAC_SHA2_384 => Some(hmac::HMAC_SHA384),
        PrfId::HMAC_SHA2_512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

/// Whether this encryption algorithm is built in with this Key Length attribute (in bits; AES needs one, the others
/// must not have one). NULL counts, where built in, for ESP alone: IKE must not use it (RFC 7296 5).
pub fn supports_encr(encr: EncrId, key_bits: Option<u16>) -> bool {
    Cipher::of(encr, key_bits).is_some()
}

/// Whether this pseudorandom function is built in.
pub fn supports_prf(id: PrfId) -> bool {
    prf(id).is_some()
}

/// Whether this integrity algorithm is built in. NONE is not one.
pub fn supports_integ(integ: IntegId) -> bool {
    Integrity::of(integ).is_some()
}

/// Whether this key exchange method is built in.
pub fn supports_ke(method: KeId) -> bool {
    public_len(method).is_some()
}

/// Whether the algorithm, built in or not, protects integrity itself and so stands without an integrity transform
/// (RFC 5282 8).
pub fn is_aead(encr: EncrId) -> bool {
    matches!(
        encr,
        EncrId::AES_CCM_8
            | EncrId::AES_CCM_12
            | EncrId::AES_CCM_16
            | EncrId::AES_GCM_8
            | EncrId::AES_GCM_12
            | EncrId::AES_GCM_16
            | EncrId::NULL_AUTH_AES_GMAC
            | EncrId::CAMELLIA_CCM_8
            | EncrId::CAMELLIA_CCM_12
            | EncrId::CAMELLIA_CCM_16
            | EncrId::CHACHA20_POLY1305
            | EncrId::AES_CCM_8_IIV
            | EncrId::AES_GCM_16_IIV
            | EncrId::CHACHA20_POLY1305_IIV
    )
}

/// Octets of keying material an encryption algorithm takes, salt included; `None` where it is not built in.
pub fn encr_key_len(encr: EncrId, key_bits: Option<u16>) -> Option<usize> {
    Cipher::of(encr, key_bits).map(Cipher::key_len)
}

/// Octets of keying material an integrity algorithm takes; `None` where it is not built in.
pub fn integ_key_len(integ: IntegId) -> Option<usize> {
    Integrity::of(integ).map(Integrity::key_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_lengths_are_those_of_the_rfcs() {
        // RFC 4106 8.1, RFC 7634 2: key and four octets of salt.
        assert_eq!(encr_key_len(EncrId::AES_GCM_16, Some(128)), Some(20));
        assert_eq!(encr_key_len(EncrId::AES_GCM_16, Some(192)), Some(28));
        assert_eq!(encr_key_len(EncrId::AES_GCM_16, Some(256)), Some(36));
        assert_eq!(encr_key_len(EncrId::CHACHA20_POLY1305, None), Some(36));
        assert_eq!(encr_key_len(EncrId::AES_CBC, Some(192)), Some(24));
        // RFC 4868 2.1.1
        assert_eq!(integ_key_len(IntegId::HMAC_SHA2_256_128), Some(32));
        assert_eq!(integ_key_len(IntegId::HMAC_SHA2_384_192), Some(48));
        assert_eq!(integ_key_len(IntegId::HMAC_SHA2_512_256), Some(64));
    }

    #[test]
    fn the_key_length_attribute_must_fit() {
        assert!(!supports_encr(EncrId::AES_GCM_16, None));
        assert!(!supports_encr(EncrId::AES_CBC, None));
        assert!(!supports_encr(EncrId::AES_CBC, Some(512)));
        assert!(!supports_encr(EncrId::CHACHA20_POLY1305, Some(256)));
        assert!(!supports_encr(EncrId::AES_GCM_8, Some(128)));
        assert!(!supports_encr(EncrId(65000), None));
    }

    #[test]
    fn legacy_only_adds() {
        let legacy = cfg!(feature = "legacy");
        assert_eq!(supports_encr(EncrId::NULL, None), legacy);
        assert_eq!(integ_key_len(IntegId::HMAC_SHA1_96), legacy.then_some(20));
        assert_eq!(supports_prf(PrfId::HMAC_SHA1), legacy);
        assert_eq!(supports_ke(KeId::MODP_1024), legacy);
        assert_eq!(supports_ke(KeId::MODP_1536), legacy);
        assert!(supports_prf(PrfId::HMAC_SHA2_256) && supports_ke(KeId::MODP_2048));
        assert!(!supports_integ(IntegId::NONE) && !supports_ke(KeId::NONE));
    }

    #[test]
    fn integrity_comes_exactly_once() {
        let refused = |encr, bits, integ| Suite::of(encr, bits, integ).err().map(|error| error.to_string());
        assert_eq!(
            refused(EncrId::AES_CBC, Some(128), None).as_deref(),
            Some("AES_CBC without integrity is not supported")
        );
        assert!(refused(EncrId::AES_CBC, Some(128), Some(IntegId::NONE)).is_some());
        assert!(refused(EncrId::NULL, None, None).is_some());
        assert!(refused(EncrId::AES_GCM_16, Some(128), Some(IntegId::HMAC_SHA2_256_128)).is_some());
        assert!(refused(EncrId::AES_GCM_16, Some(128), Some(IntegId::NONE)).is_none());
        assert!(refused(EncrId::AES_GCM_16, Some(128), None).is_none());
    }
}
