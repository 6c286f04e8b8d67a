//! Signatures: public keys, private keys behind [`Signer`], and the schemes of RFC 7427, RFC 4754 and RFC 8420 with their
//! AlgorithmIdentifiers. Owns which scheme fits which key and how it is written; which one a peer may use is not decided
//! here, and whose key it is is not known here.

use std::fmt;

use adit_wire::ikev2::HashId;
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    self as library, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding,
    RsaParameters, UnparsedPublicKey, VerificationAlgorithm,
};

use crate::Error;
use crate::der::{Reader, Tag, encoded};

/// How a signature is made: the algorithm, and what is signed with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignatureScheme {
    /// RSASSA-PKCS1-v1_5 (RFC 8017 8.2).
    RsaPkcs1(HashId),
    /// RSASSA-PSS with MGF1 over the same hash and a salt as long as it (RFC 8017 8.1).
    RsaPss(HashId),
    /// ECDSA, the signature an `ECDSA-Sig-Value` in DER (RFC 7427, X.509).
    Ecdsa(HashId),
    /// ECDSA, the signature r | s, each as long as the curve's order (methods 9, 10 and 11: RFC 4754 7).
    EcdsaFixed(HashId),
    /// Ed25519 over the message itself (RFC 8420 2).
    Ed25519,
}

impl SignatureScheme {
    /// Those that an AlgorithmIdentifier stands for, and a gateway that wants no old hash accepts.
    pub const ALL: [Self; 10] = [
        Self::Ed25519,
        Self::Ecdsa(HashId::SHA2_512),
        Self::Ecdsa(HashId::SHA2_384),
        Self::Ecdsa(HashId::SHA2_256),
        Self::RsaPss(HashId::SHA2_512),
        Self::RsaPss(HashId::SHA2_384),
        Self::RsaPss(HashId::SHA2_256),
        Self::RsaPkcs1(HashId::SHA2_512),
        Self::RsaPkcs1(HashId::SHA2_384),
        Self::RsaPkcs1(HashId::SHA2_256),
    ];

    /// The scheme that `der`, an `AlgorithmIdentifier` without anything behind it, stands for.
    ///
    /// Every form but the one the algorithm's own document wants is refused: parameters missing or there where they must
    /// not be, SHA-1, and PSS with the defaults of RFC 4055, which are SHA-1 as well.
    #[must_use]
    pub fn from_algorithm_identifier(der: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| match scheme {
            // RFC 4055 2.1: the parameters of a hash are NULL or absent. DER leaves the default trailerField out, RFC
            // 7427 A.4.3 writes it.
            Self::RsaPss(hash) => [(true, true), (true, false), (false, true), (false, false)]
                .into_iter()
                .any(|(nulls, trailer)| pss_identifier(*hash, nulls, trailer).as_deref() == Some(der)),
            _ => scheme.algorithm_identifier().as_deref() == Some(der),
        })
    }

    /// The `AlgorithmIdentifier` in DER, as RFC 7427 A has it; `None` for schemes without one.
    #[must_use]
    pub fn algorithm_identifier(self) -> Option<Vec<u8>> {
        const NULL: &[u8] = &[5, 0];
        let (oid, parameters): (&[u8], _) = match self {
            Self::RsaPkcs1(HashId::SHA1) => (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5], NULL),
            Self::RsaPkcs1(HashId::SHA2_256) => (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11], NULL),
            Self::RsaPkcs1(HashId::SHA2_384) => (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12], NULL),
            Self::RsaPkcs1(HashId::SHA2_512) => (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13], NULL),
            Self::RsaPss(hash) => return pss_identifier(hash, true, true),
            Self::Ecdsa(HashId::SHA2_256) => (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2], &[][..]),
            Self::Ecdsa(HashId::SHA2_384) => (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3], &[][..]),
            Self::Ecdsa(HashId::SHA2_512) => (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4], &[][..]),
            Self::Ed25519 => (&[0x2b, 0x65, 0x70], &[][..]),
            _ => return None,
        };
        Some(encoded(Tag::SEQUENCE, &[&encoded(Tag::OID, &[oid]), parameters]))
    }

    /// Its number among the hash algorithms of IKEv2 (RFC 7427 4, RFC 8420 2).
    #[must_use]
    pub fn hash(self) -> HashId {
        match self {
            Self::RsaPkcs1(hash) | Self::RsaPss(hash) | Self::Ecdsa(hash) | Self::EcdsaFixed(hash) => hash,
            Self::Ed25519 => HashId::IDENTITY,
        }
    }
}

/// As `auth` of a configuration names it, without the size of the key.
impl fmt::Display for SignatureScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, hash) = match self {
            Self::RsaPkcs1(hash) => ("rsa", hash),
            Self::RsaPss(hash) => ("rsa/pss", hash),
            Self::Ecdsa(hash) | Self::EcdsaFixed(hash) => ("ecdsa", hash),
            Self::Ed25519 => return f.write_str("ed25519"),
        };
        let hash = match *hash {
            HashId::SHA1 => "sha1",
            HashId::SHA2_256 => "sha256",
            HashId::SHA2_384 => "sha384",
            HashId::SHA2_512 => "sha512",
            other => return write!(f, "{name}-{other}"),
        };
        write!(f, "{name}-{hash}")
    }
}

/// id-RSASSA-PSS with its parameters (RFC 4055 3.1): `hashAlgorithm`, `maskGenAlgorithm`, `saltLength`, `trailerField`.
fn pss_identifier(hash: HashId, nulls: bool, trailer: bool) -> Option<Vec<u8>> {
    const PSS: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
    const MGF1: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 8];
    let (number, length) = match hash {
        HashId::SHA2_256 => (1, 32),
        HashId::SHA2_384 => (2, 48),
        HashId::SHA2_512 => (3, 64),
        _ => return None,
    };
    let oid = encoded(Tag::OID, &[&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, number]]);
    let null: &[u8] = if nulls { &[5, 0] } else { &[] };
    let hash = encoded(Tag::SEQUENCE, &[&oid, null]);
    let mgf = encoded(Tag::SEQUENCE, &[&encoded(Tag::OID, &[&MGF1]), &hash]);
    let salt = encoded(Tag::INTEGER, &[&[length]]);
    let trailer =
        if trailer { encoded(Tag::context(3), &[&encoded(Tag::INTEGER, &[&[1]])]) } else { Vec::new() };
    let parameters = encoded(
        Tag::SEQUENCE,
        &[
            &encoded(Tag::context(0), &[&hash]),
            &encoded(Tag::context(1), &[&mgf]),
            &encoded(Tag::context(2), &[&salt]),
            &trailer,
        ],
    );
    Some(encoded(Tag::SEQUENCE, &[&encoded(Tag::OID, &[&PSS]), &parameters]))
}

/// What kind of key, and how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// RSA with a modulus of so many bits.
    Rsa(u32),
    /// ECDSA over P-256.
    EcdsaP256,
    /// ECDSA over P-384.
    EcdsaP384,
    /// ECDSA over P-521.
    EcdsaP521,
    /// Ed25519.
    Ed25519,
}

impl KeyKind {
    /// The bits of an RSA modulus, or of the curve.
    #[must_use]
    pub fn bits(self) -> u32 {
        match self {
            Self::Rsa(bits) => bits,
            Self::EcdsaP256 => 256,
            Self::EcdsaP384 => 384,
            Self::EcdsaP521 => 521,
            Self::Ed25519 => 255,
        }
    }

    /// Can a key of this kind make or verify such a signature?
    #[must_use]
    pub fn fits(self, scheme: SignatureScheme) -> bool {
        match self {
            Self::Rsa(_) => matches!(scheme, SignatureScheme::RsaPkcs1(_) | SignatureScheme::RsaPss(_)),
            Self::Ed25519 => scheme == SignatureScheme::Ed25519,
            Self::EcdsaP256 | Self::EcdsaP384 | Self::EcdsaP521 => {
                matches!(scheme, SignatureScheme::Ecdsa(_) | SignatureScheme::EcdsaFixed(_))
            }
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "RSA {bits}"),
            Self::EcdsaP256 => f.write_str("ECDSA P-256"),
            Self::EcdsaP384 => f.write_str("ECDSA P-384"),
            Self::EcdsaP521 => f.write_str("ECDSA P-521"),
            Self::Ed25519 => f.write_str("Ed25519"),
        }
    }
}

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    kind: KeyKind,
    spki: Vec<u8>,
}

/// Smallest and largest RSA modulus in bits. NIST SP 800-131A; what more costs, an unauthenticated peer would make us pay.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=8192;

impl PublicKey {
    /// Reads a `SubjectPublicKeyInfo` in DER, with nothing behind it (RFC 5280 4.1.2.7).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another kind of key, [`Error::BadKey`] for one that must not be used: malformed, RSA of
    /// less than 2048 or more than 8192 bits, a point that is not on its curve.
    pub fn from_spki(spki: &[u8]) -> Result<Self, Error> {
        let (algorithm, key) = Reader::new(spki)
            .only(Tag::SEQUENCE)
            .and_then(|fields| {
                let mut fields = Reader::new(fields);
                let both = (fields.take_whole(Tag::SEQUENCE)?, fields.take(Tag::BIT_STRING)?);
                fields.is_empty().then_some(both)
            })
            .ok_or(Error::BadKey)?;
        let key = key.strip_prefix(&[0]).ok_or(Error::BadKey)?;
        let kind = match algorithm {
            // rsaEncryption, parameters NULL (RFC 3279 2.3.1).
            [0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0] => {
                let bits = RsaParameters::public_modulus_len(key).map_err(|_| Error::BadKey)?;
                KeyKind::Rsa(bits)
            }
            // id-ecPublicKey with a named curve (RFC 5480 2.1.1).
            [0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, curve @ ..]
                if *curve == [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7] =>
            {
                KeyKind::EcdsaP256
            }
            [0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, curve @ ..]
                if *curve == [6, 5, 0x2b, 0x81, 4, 0, 0x22] =>
            {
                KeyKind::EcdsaP384
            }
            [0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, curve @ ..]
                if *curve == [6, 5, 0x2b, 0x81, 4, 0, 0x23] =>
            {
                KeyKind::EcdsaP521
            }
            // id-Ed25519 (RFC 8410 3).
            [0x30, 5, 6, 3, 0x2b, 0x65, 0x70] => KeyKind::Ed25519,
            _ => return Err(Error::Unsupported { what: "this kind of public key".to_owned() }),
        };
        let usable = match kind {
            KeyKind::Rsa(bits) => RSA_BITS.contains(&bits),
            _ => true,
        };
        let probe: &'static dyn VerificationAlgorithm = match kind {
            KeyKind::Rsa(_) => &library::RSA_PKCS1_2048_8192_SHA256,
            KeyKind::EcdsaP256 => &library::ECDSA_P256_SHA256_ASN1,
            KeyKind::EcdsaP384 => &library::ECDSA_P384_SHA384_ASN1,
            KeyKind::EcdsaP521 => &library::ECDSA_P521_SHA512_ASN1,
            KeyKind::Ed25519 => &library::ED25519,
        };
        if !usable || library::ParsedPublicKey::new(probe, spki).is_err() {
            return Err(Error::BadKey);
        }
        Ok(Self { kind, spki: spki.to_vec() })
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The `SubjectPublicKeyInfo` in DER.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Is `signature` that of `message`?
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the scheme is none for this key, [`Error::BadSignature`] if it is not.
    pub fn verify(&self, scheme: SignatureScheme, message: &[u8], signature: &[u8]) -> Result<(), Error> {
        let algorithm = verification(self.kind, scheme)
            .ok_or_else(|| Error::Unsupported { what: format!("{scheme} with {}", self.kind) })?;
        UnparsedPublicKey::new(algorithm, &self.spki)
            .verify(message, signature)
            .map_err(|_| Error::BadSignature)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.kind)
    }
}

fn verification(kind: KeyKind, scheme: SignatureScheme) -> Option<&'static dyn VerificationAlgorithm> {
    use SignatureScheme::{Ecdsa, EcdsaFixed, RsaPkcs1, RsaPss};
    Some(match (kind, scheme) {
        #[cfg(feature = "legacy")]
        (KeyKind::Rsa(_), RsaPkcs1(HashId::SHA1)) => &library::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
        (KeyKind::Rsa(_), RsaPkcs1(HashId::SHA2_256)) => &library::RSA_PKCS1_2048_8192_SHA256,
        (KeyKind::Rsa(_), RsaPkcs1(HashId::SHA2_384)) => &library::RSA_PKCS1_2048_8192_SHA384,
        (KeyKind::Rsa(_), RsaPkcs1(HashId::SHA2_512)) => &library::RSA_PKCS1_2048_8192_SHA512,
        (KeyKind::Rsa(_), RsaPss(HashId::SHA2_256)) => &library::RSA_PSS_2048_8192_SHA256,
        (KeyKind::Rsa(_), RsaPss(HashId::SHA2_384)) => &library::RSA_PSS_2048_8192_SHA384,
        (KeyKind::Rsa(_), RsaPss(HashId::SHA2_512)) => &library::RSA_PSS_2048_8192_SHA512,
        (KeyKind::EcdsaP256, Ecdsa(HashId::SHA2_256)) => &library::ECDSA_P256_SHA256_ASN1,
        (KeyKind::EcdsaP256, Ecdsa(HashId::SHA2_384)) => &library::ECDSA_P256_SHA384_ASN1,
        (KeyKind::EcdsaP256, Ecdsa(HashId::SHA2_512)) => &library::ECDSA_P256_SHA512_ASN1,
        (KeyKind::EcdsaP384, Ecdsa(HashId::SHA2_256)) => &library::ECDSA_P384_SHA256_ASN1,
        (KeyKind::EcdsaP384, Ecdsa(HashId::SHA2_384)) => &library::ECDSA_P384_SHA384_ASN1,
        (KeyKind::EcdsaP384, Ecdsa(HashId::SHA2_512)) => &library::ECDSA_P384_SHA512_ASN1,
        (KeyKind::EcdsaP521, Ecdsa(HashId::SHA2_256)) => &library::ECDSA_P521_SHA256_ASN1,
        (KeyKind::EcdsaP521, Ecdsa(HashId::SHA2_384)) => &library::ECDSA_P521_SHA384_ASN1,
        (KeyKind::EcdsaP521, Ecdsa(HashId::SHA2_512)) => &library::ECDSA_P521_SHA512_ASN1,
        (KeyKind::EcdsaP256, EcdsaFixed(HashId::SHA2_256)) => &library::ECDSA_P256_SHA256_FIXED,
        (KeyKind::EcdsaP384, EcdsaFixed(HashId::SHA2_384)) => &library::ECDSA_P384_SHA384_FIXED,
        (KeyKind::EcdsaP521, EcdsaFixed(HashId::SHA2_512)) => &library::ECDSA_P521_SHA512_FIXED,
        (KeyKind::Ed25519, SignatureScheme::Ed25519) => &library::ED25519,
        _ => return None,
    })
}

/// Who holds a private key and signs with it. The key itself never leaves.
pub trait Signer: fmt::Debug + Send + Sync {
    /// The `SubjectPublicKeyInfo` of the public key, in DER.
    fn public_key(&self) -> &[u8];

    /// What kind of key it is.
    fn kind(&self) -> KeyKind;

    /// Can it make such a signature?
    fn can(&self, scheme: SignatureScheme) -> bool;

    /// Signs `message`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if it cannot make such a signature, [`Error::BadKey`] if it failed.
    fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, Error>;
}

/// A private key in our memory, wiped on drop.
pub struct PrivateKey {
    kind: KeyKind,
    spki: Vec<u8>,
    key: Key,
}

enum Key {
    Rsa(rsa::KeyPair),
    /// The same key for each scheme: the library binds keys to those.
    Ecdsa(Vec<(SignatureScheme, EcdsaKeyPair)>),
    Ed25519(Ed25519KeyPair),
}

impl PrivateKey {
    /// Reads a private key in DER: PKCS#8 (RFC 5208, RFC 5958) without encryption, PKCS#1 (RFC 8017 A.1.2) or SEC 1
    /// (RFC 5915).
    ///
    /// # Errors
    /// [`Error::BadKey`] if it is none of these, not consistent, or RSA of less than 2048 or more than 8192 bits.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        if let Ok(pair) = rsa::KeyPair::from_pkcs8(der).or_else(|_| rsa::KeyPair::from_der(der)) {
            let public = pair.public_key().as_der();
            return Self::new(&public.map_err(|_| Error::BadKey)?, Key::Rsa(pair));
        }
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            let public = pair.public_key().as_der();
            return Self::new(&public.map_err(|_| Error::BadKey)?, Key::Ed25519(pair));
        }
        for schemes in [P256, P384, P521] {
            let pairs: Vec<_> = schemes
                .iter()
                .filter_map(|(scheme, algorithm)| {
                    let pair = EcdsaKeyPair::from_private_key_der(algorithm, der).ok()?;
                    Some((*scheme, pair))
                })
                .collect();
            if let Some((_, pair)) = pairs.first() {
                let public = pair.public_key().as_der();
                return Self::new(&public.map_err(|_| Error::BadKey)?, Key::Ecdsa(pairs));
            }
        }
        Err(Error::BadKey)
    }

    fn new(spki: &PublicKeyX509Der<'_>, key: Key) -> Result<Self, Error> {
        let public = PublicKey::from_spki(spki.as_ref())?;
        Ok(Self { kind: public.kind, spki: public.spki, key })
    }
}

impl Signer for PrivateKey {
    fn public_key(&self) -> &[u8] {
        &self.spki
    }

    fn kind(&self) -> KeyKind {
        self.kind
    }

    fn can(&self, scheme: SignatureScheme) -> bool {
        match &self.key {
            Key::Rsa(_) if scheme == SignatureScheme::RsaPkcs1(HashId::SHA1) => cfg!(feature = "legacy"),
            Key::Rsa(_) => rsa_encoding(scheme).is_some(),
            Key::Ecdsa(pairs) => pairs.iter().any(|(one, _)| *one == scheme),
            Key::Ed25519(_) => scheme == SignatureScheme::Ed25519,
        }
    }

    fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, Error> {
        let unsupported = || Error::Unsupported { what: format!("{scheme} with {}", self.kind) };
        let random = SystemRandom::new();
        let signature = match &self.key {
            #[cfg(feature = "legacy")]
            Key::Rsa(pair) if scheme == SignatureScheme::RsaPkcs1(HashId::SHA1) => {
                // A power that came out wrong could give the key away.
                let signature = crate::rsa_sha1::sign(pair, message)?;
                let public = PublicKey { kind: self.kind, spki: self.spki.clone() };
                return public
                    .verify(scheme, message, &signature)
                    .map(|()| signature)
                    .map_err(|_| Error::BadKey);
            }
            Key::Rsa(pair) => {
                let encoding = rsa_encoding(scheme).ok_or_else(unsupported)?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature).map(|()| signature)
            }
            Key::Ecdsa(pairs) => {
                let (_, pair) = pairs.iter().find(|(one, _)| *one == scheme).ok_or_else(unsupported)?;
                pair.sign(&random, message).map(|signature| signature.as_ref().to_vec())
            }
            Key::Ed25519(pair) if scheme == SignatureScheme::Ed25519 => {
                pair.try_sign(message).map(|signature| signature.as_ref().to_vec())
            }
            Key::Ed25519(_) => return Err(unsupported()),
        };
        signature.map_err(|_| Error::BadKey)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.kind)
    }
}

/// What the library signs with RSA.
fn rsa_encoding(scheme: SignatureScheme) -> Option<&'static dyn RsaEncoding> {
    Some(match scheme {
        SignatureScheme::RsaPkcs1(HashId::SHA2_256) => &library::RSA_PKCS1_SHA256,
        SignatureScheme::RsaPkcs1(HashId::SHA2_384) => &library::RSA_PKCS1_SHA384,
        SignatureScheme::RsaPkcs1(HashId::SHA2_512) => &library::RSA_PKCS1_SHA512,
        SignatureScheme::RsaPss(HashId::SHA2_256) => &library::RSA_PSS_SHA256,
        SignatureScheme::RsaPss(HashId::SHA2_384) => &library::RSA_PSS_SHA384,
        SignatureScheme::RsaPss(HashId::SHA2_512) => &library::RSA_PSS_SHA512,
        _ => return None,
    })
}

type EcdsaSchemes = &'static [(SignatureScheme, &'static EcdsaSigningAlgorithm)];

/// What the library signs with each curve.
const P256: EcdsaSchemes = &[
    (SignatureScheme::Ecdsa(HashId::SHA2_256), &library::ECDSA_P256_SHA256_ASN1_SIGNING),
    (SignatureScheme::EcdsaFixed(HashId::SHA2_256), &library::ECDSA_P256_SHA256_FIXED_SIGNING),
];
const P384: EcdsaSchemes = &[
    (SignatureScheme::Ecdsa(HashId::SHA2_384), &library::ECDSA_P384_SHA384_ASN1_SIGNING),
    (SignatureScheme::EcdsaFixed(HashId::SHA2_384), &library::ECDSA_P384_SHA384_FIXED_SIGNING),
];
const P521: EcdsaSchemes = &[
    (SignatureScheme::Ecdsa(HashId::SHA2_512), &library::ECDSA_P521_SHA512_ASN1_SIGNING),
    (SignatureScheme::Ecdsa(HashId::SHA2_384), &library::ECDSA_P521_SHA384_ASN1_SIGNING),
    (SignatureScheme::Ecdsa(HashId::SHA2_256), &library::ECDSA_P521_SHA256_ASN1_SIGNING),
    (SignatureScheme::EcdsaFixed(HashId::SHA2_512), &library::ECDSA_P521_SHA512_FIXED_SIGNING),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::der::Reader;

    /// Everything that a key of this kind can make, it makes so that the public key verifies it.
    fn signs(private: &PrivateKey, expected: usize) {
        let public = PublicKey::from_spki(private.public_key()).unwrap();
        assert_eq!(public.kind(), private.kind());
        let hashes = [HashId::SHA1, HashId::SHA2_256, HashId::SHA2_384, HashId::SHA2_512, HashId::IDENTITY];
        let all = hashes.into_iter().flat_map(|hash| {
            use SignatureScheme::{Ecdsa, EcdsaFixed, RsaPkcs1, RsaPss};
            [RsaPkcs1(hash), RsaPss(hash), Ecdsa(hash), EcdsaFixed(hash)]
        });
        let mut made = 0;
        for scheme in all.chain([SignatureScheme::Ed25519]) {
            match private.sign(scheme, b"abc") {
                Ok(signature) => {
                    assert!(private.can(scheme) && private.kind().fits(scheme), "{scheme}");
                    assert_eq!(public.verify(scheme, b"abc", &signature), Ok(()), "{scheme}");
                    assert_eq!(
                        public.verify(scheme, b"abd", &signature),
                        Err(Error::BadSignature),
                        "{scheme}"
                    );
                    made += 1;
                }
                Err(error) => {
                    assert!(matches!(error, Error::Unsupported { .. }), "{scheme}: {error}");
                    assert!(!private.can(scheme), "{scheme}");
                }
            }
        }
        assert_eq!(made, expected);
    }

    #[test]
    fn rsa_keys_of_both_forms() {
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'static> = pair.as_der().unwrap();
        // RFC 5208 5: version, algorithm, and the PKCS#1 key as an octet string.
        let mut info = Reader::new(Reader::new(pkcs8.as_ref()).only(Tag::SEQUENCE).unwrap());
        info.take(Tag::INTEGER).unwrap();
        info.take(Tag::SEQUENCE).unwrap();
        let pkcs1 = info.take(Tag::OCTET_STRING).unwrap();
        for der in [pkcs8.as_ref(), pkcs1] {
            let private = PrivateKey::from_der(der).unwrap();
            assert_eq!(private.kind(), KeyKind::Rsa(2048));
            signs(&private, if cfg!(feature = "legacy") { 7 } else { 6 });
            assert_eq!(format!("{private:?}"), "PrivateKey(RSA 2048)");
        }
        assert_eq!(PrivateKey::from_der(&pkcs1[..pkcs1.len() - 1]).err(), Some(Error::BadKey));
    }

    #[test]
    fn ecdsa_keys() {
        for (schemes, kind) in
            [(P256, KeyKind::EcdsaP256), (P384, KeyKind::EcdsaP384), (P521, KeyKind::EcdsaP521)]
        {
            let pair = EcdsaKeyPair::generate(schemes[0].1).unwrap();
            let private = PrivateKey::from_der(pair.to_pkcs8v1().unwrap().as_ref()).unwrap();
            assert_eq!(private.kind(), kind);
            signs(&private, schemes.len());
        }
    }

    #[test]
    fn ed25519_keys_of_both_versions() {
        let pair = Ed25519KeyPair::generate().unwrap();
        for der in [pair.to_pkcs8().unwrap(), pair.to_pkcs8v1().unwrap()] {
            let private = PrivateKey::from_der(der.as_ref()).unwrap();
            assert_eq!(private.kind(), KeyKind::Ed25519);
            signs(&private, 1);
        }
    }
}
