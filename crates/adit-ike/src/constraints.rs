//! Which keys and signatures `auth` of a configuration allows, and in which order ours are tried.
//!
//! Owns the grammar of the words behind `pubkey`, `rsa`, `ecdsa` and `ed25519`; whether a signature is valid, and whose key
//! made it, is decided elsewhere.

use std::fmt;
use std::str::FromStr;

use adit_crypto::{KeyKind, SignatureScheme};
use adit_wire::ikev2::HashId;

/// What `auth` says of public keys: `pubkey`, `rsa-3072-sha384`, `rsa-2048-ecdsa-256`, `ike:rsa/pss-sha512-sha256`.
///
/// A key, the least size of it, hashes; then perhaps another key. Each is allowed. Without a size every one of at least 2048
/// bits (RSA) will do, without a hash every one but SHA-1 where a signature says which it has. Behind `ike:` stands what
/// holds for AUTH payloads only, and not for the signatures of certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Constraints {
    ike_only: bool,
    /// In the order written; none allows everything.
    any_of: Vec<Alternative>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Alternative {
    algorithm: Algorithm,
    bits: Option<u32>,
    hashes: Vec<HashId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Any,
    Rsa,
    RsaPss,
    Ecdsa,
    Ed25519,
}

impl Algorithm {
    const ALL: [(&'static str, Self); 5] = [
        ("pubkey", Self::Any),
        ("rsa/pss", Self::RsaPss),
        ("rsa", Self::Rsa),
        ("ecdsa", Self::Ecdsa),
        ("ed25519", Self::Ed25519),
    ];

    fn fits(self, key: KeyKind) -> bool {
        match self {
            Self::Any => true,
            Self::Rsa | Self::RsaPss => matches!(key, KeyKind::Rsa(_)),
            Self::Ecdsa => matches!(key, KeyKind::EcdsaP256 | KeyKind::EcdsaP384 | KeyKind::EcdsaP521),
            Self::Ed25519 => key == KeyKind::Ed25519,
        }
    }

    fn has_sizes(self) -> bool {
        matches!(self, Self::Rsa | Self::RsaPss | Self::Ecdsa)
    }
}

const HASHES: [(&str, HashId); 5] = [
    ("sha1", HashId::SHA1),
    ("sha256", HashId::SHA2_256),
    ("sha384", HashId::SHA2_384),
    ("sha512", HashId::SHA2_512),
    ("identity", HashId::IDENTITY),
];

impl Alternative {
    fn fits(&self, key: KeyKind) -> bool {
        self.algorithm.fits(key) && self.bits.is_none_or(|least| key.bits() >= least)
    }

    fn allows(&self, key: KeyKind, scheme: SignatureScheme) -> bool {
        let padding = self.algorithm != Algorithm::RsaPss || matches!(scheme, SignatureScheme::RsaPss(_));
        self.fits(key) && key.fits(scheme) && padding && self.allows_hash(scheme.hash())
    }

    fn allows_hash(&self, hash: HashId) -> bool {
        // A key that does not hash has nothing to choose.
        self.hashes.is_empty() || self.hashes.contains(&hash) || hash == HashId::IDENTITY
    }
}

impl Constraints {
    /// May an AUTH payload be signed so?
    #[must_use]
    pub fn allow(&self, key: KeyKind, scheme: SignatureScheme) -> bool {
        self.any_of.is_empty() || self.any_of.iter().any(|one| one.allows(key, scheme))
    }

    /// May a certificate of the path have this key?
    #[must_use]
    pub fn allow_key(&self, key: KeyKind) -> bool {
        self.ike_only || self.any_of.is_empty() || self.any_of.iter().any(|one| one.fits(key))
    }

    /// How an AUTH payload may be signed with such a key, the best first: in the order written, else PKCS#1 v1.5 before
    /// PSS, which fewer peers verify, and the hash that is as strong as the key first.
    #[must_use]
    pub fn schemes(&self, key: KeyKind) -> Vec<SignatureScheme> {
        let hashes = match key {
            KeyKind::Rsa(..=3072) | KeyKind::EcdsaP256 => {
                vec![HashId::SHA2_256, HashId::SHA2_384, HashId::SHA2_512]
            }
            KeyKind::Rsa(..=7680) | KeyKind::EcdsaP384 => {
                vec![HashId::SHA2_384, HashId::SHA2_512, HashId::SHA2_256]
            }
            KeyKind::Rsa(_) | KeyKind::EcdsaP521 => {
                vec![HashId::SHA2_512, HashId::SHA2_384, HashId::SHA2_256]
            }
            KeyKind::Ed25519 => {
                return Vec::from_iter(
                    self.allow(key, SignatureScheme::Ed25519).then_some(SignatureScheme::Ed25519),
                );
            }
        };
        let forms: &[fn(HashId) -> SignatureScheme] = match key {
            KeyKind::Rsa(_) => &[SignatureScheme::RsaPkcs1, SignatureScheme::RsaPss],
            _ => &[SignatureScheme::Ecdsa],
        };
        let all: Vec<_> = forms.iter().flat_map(|form| hashes.iter().map(move |hash| form(*hash))).collect();
        if self.any_of.is_empty() {
            return all;
        }
        let mut ordered = Vec::new();
        for one in &self.any_of {
            let written = one.hashes.iter().flat_map(|hash| forms.iter().map(move |form| form(*hash)));
            for scheme in written.chain(all.iter().copied()) {
                if SignatureScheme::ALL.contains(&scheme)
                    && one.allows(key, scheme)
                    && !ordered.contains(&scheme)
                {
                    ordered.push(scheme);
                }
            }
        }
        ordered
    }
}

impl FromStr for Constraints {
    type Err = ConstraintsError;

    fn from_str(text: &str) -> Result<Self, ConstraintsError> {
        let error = |word: &str| ConstraintsError(word.to_owned());
        let (ike_only, words) = text.strip_prefix("ike:").map_or((false, text), |rest| (true, rest));
        let mut any_of: Vec<Alternative> = Vec::new();
        let mut size_may_follow = false;
        for word in words.split('-') {
            if let Some((_, algorithm)) = Algorithm::ALL.iter().find(|(name, _)| *name == word) {
                any_of.push(Alternative { algorithm: *algorithm, bits: None, hashes: Vec::new() });
                size_may_follow = algorithm.has_sizes();
                continue;
            }
            let current = any_of.last_mut().ok_or_else(|| error(word))?;
            if let Some((_, hash)) = HASHES.iter().find(|(name, _)| *name == word) {
                current.hashes.push(*hash);
            } else {
                let bits = word.parse().ok().filter(|_| size_may_follow && !word.starts_with('+'));
                current.bits = Some(bits.ok_or_else(|| error(word))?);
            }
            size_may_follow = false;
        }
        Ok(Self { ike_only, any_of })
    }
}

/// As it is written.
impl fmt::Display for Constraints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.any_of.is_empty() {
            return f.write_str("pubkey");
        }
        f.write_str(if self.ike_only { "ike:" } else { "" })?;
        for (i, one) in self.any_of.iter().enumerate() {
            f.write_str(if i > 0 { "-" } else { "" })?;
            let name = Algorithm::ALL.iter().find(|(_, algorithm)| *algorithm == one.algorithm);
            f.write_str(name.map_or("", |(name, _)| name))?;
            if let Some(bits) = one.bits {
                write!(f, "-{bits}")?;
            }
            for (name, _) in HASHES.iter().filter(|(_, hash)| one.hashes.contains(hash)) {
                write!(f, "-{name}")?;
            }
        }
        Ok(())
    }
}

/// A word that has no meaning where it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not expected here: keys are pubkey, rsa, rsa/pss, ecdsa and ed25519, a size in bits follows rsa or ecdsa, \
     then hashes: sha1, sha256, sha384, sha512, identity"
)]
pub struct ConstraintsError(String);

#[cfg(test)]
mod tests {
    use SignatureScheme::{Ecdsa, Ed25519, RsaPkcs1, RsaPss};

    use super::*;

    const SHA1: HashId = HashId::SHA1;
    const SHA256: HashId = HashId::SHA2_256;
    const SHA384: HashId = HashId::SHA2_384;
    const SHA512: HashId = HashId::SHA2_512;

    fn read(text: &str) -> Constraints {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_written_is_what_is_allowed() {
        for (text, key, scheme, allowed) in [
            ("pubkey", KeyKind::Rsa(2048), RsaPkcs1(SHA256), true),
            ("pubkey", KeyKind::Rsa(2048), RsaPkcs1(SHA1), true),
            ("pubkey", KeyKind::Rsa(2048), RsaPss(SHA256), true),
            ("pubkey", KeyKind::Rsa(2048), Ecdsa(SHA256), false),
            ("pubkey", KeyKind::Ed25519, Ed25519, true),
            ("pubkey-sha384", KeyKind::EcdsaP256, Ecdsa(SHA384), true),
            ("pubkey-sha384", KeyKind::EcdsaP256, Ecdsa(SHA256), false),
            ("pubkey-sha384", KeyKind::Ed25519, Ed25519, true),
            ("rsa", KeyKind::EcdsaP256, Ecdsa(SHA256), false),
            ("rsa", KeyKind::Rsa(2048), RsaPss(SHA256), true),
            ("rsa/pss", KeyKind::Rsa(2048), RsaPss(SHA512), true),
            ("rsa/pss", KeyKind::Rsa(2048), RsaPkcs1(SHA256), false),
            ("rsa/pss-sha512", KeyKind::Rsa(2048), RsaPss(SHA256), false),
            ("rsa-3072", KeyKind::Rsa(2048), RsaPkcs1(SHA256), false),
            ("rsa-3072", KeyKind::Rsa(3072), RsaPkcs1(SHA256), true),
            ("rsa-3072-sha512", KeyKind::Rsa(4096), RsaPkcs1(SHA256), false),
            ("ecdsa-384", KeyKind::EcdsaP256, Ecdsa(SHA256), false),
            ("ecdsa-384", KeyKind::EcdsaP521, Ecdsa(SHA512), true),
            ("ed25519", KeyKind::Ed25519, Ed25519, true),
            ("ed25519", KeyKind::EcdsaP256, Ecdsa(SHA256), false),
            ("rsa-2048-sha256-ecdsa-384-sha384", KeyKind::Rsa(2048), RsaPkcs1(SHA256), true),
            ("rsa-2048-sha256-ecdsa-384-sha384", KeyKind::Rsa(2048), RsaPkcs1(SHA384), false),
            ("rsa-2048-sha256-ecdsa-384-sha384", KeyKind::EcdsaP384, Ecdsa(SHA384), true),
            ("rsa-2048-sha256-ecdsa-384-sha384", KeyKind::EcdsaP384, Ecdsa(SHA256), false),
            ("ike:rsa/pss-sha384", KeyKind::Rsa(2048), RsaPss(SHA384), true),
            ("ike:rsa/pss-sha384", KeyKind::Rsa(2048), RsaPss(SHA256), false),
        ] {
            assert_eq!(read(text).allow(key, scheme), allowed, "{text}: {key} {scheme}");
        }
        assert!(!read("ecdsa-384").allow_key(KeyKind::EcdsaP256));
        assert!(read("ecdsa-384").allow_key(KeyKind::EcdsaP384));
        assert!(read("ike:ecdsa-384").allow_key(KeyKind::Rsa(2048)));
    }

    #[test]
    fn ours_are_tried_in_the_order_written() {
        for (text, key, expected) in [
            ("pubkey", KeyKind::EcdsaP384, vec![Ecdsa(SHA384), Ecdsa(SHA512), Ecdsa(SHA256)]),
            ("pubkey", KeyKind::Ed25519, vec![Ed25519]),
            ("ike:rsa/pss-sha384-sha256", KeyKind::Rsa(2048), vec![RsaPss(SHA384), RsaPss(SHA256)]),
            ("rsa/pss-sha256-rsa-sha256", KeyKind::Rsa(2048), vec![RsaPss(SHA256), RsaPkcs1(SHA256)]),
            ("pubkey-sha1-sha512", KeyKind::Rsa(2048), vec![RsaPkcs1(SHA512), RsaPss(SHA512)]),
            ("ecdsa", KeyKind::Rsa(2048), vec![]),
            ("rsa", KeyKind::Ed25519, vec![]),
        ] {
            assert_eq!(read(text).schemes(key), expected, "{text} {key}");
        }
        let default = Constraints::default().schemes(KeyKind::Rsa(2048));
        assert_eq!((default.first(), default.len()), (Some(&RsaPkcs1(SHA256)), 6));
        assert_eq!(Constraints::default().schemes(KeyKind::Rsa(4096)).first(), Some(&RsaPkcs1(SHA384)));
    }

    #[test]
    fn what_is_read_is_shown() {
        for text in
            ["pubkey", "rsa-2048-sha256-sha512", "ike:rsa/pss-sha384", "rsa-3072-ecdsa-256", "ed25519"]
        {
            assert_eq!(read(text).to_string(), text);
        }
    }

    #[test]
    fn refuses_what_has_no_meaning() {
        for (text, word) in [
            ("", ""),
            ("ike:", ""),
            ("sha256", "sha256"),
            ("rsa-", ""),
            ("rsa-sha256-2048", "2048"),
            ("rsa-2048-3072", "3072"),
            ("rsa-+2048", "+2048"),
            ("pubkey-2048", "2048"),
            ("ed25519-256", "256"),
            ("rsa-md5", "md5"),
            ("ed448", "ed448"),
            ("rsa-99999999999", "99999999999"),
            ("RSA", "RSA"),
        ] {
            assert_eq!(text.parse::<Constraints>(), Err(ConstraintsError(word.to_owned())), "{text}");
        }
    }
}
