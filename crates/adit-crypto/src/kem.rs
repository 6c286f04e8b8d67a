//! Key encapsulation: ML-KEM (FIPS 203; draft-ietf-ipsecme-ikev2-mlkem). Owns what goes over the wire in each
//! direction, which is not alike: the initiator publishes an encapsulation key, the responder answers with a
//! ciphertext. The lattices, and the check of an encapsulation key (FIPS 203 7.2), are the library's.
//!
//! The library draws the randomness of key pairs and ciphertexts itself and has no way to be handed any: the
//! [`crate::Entropy`] that tests seed does not reach it. Lengths do not depend on it.

use adit_wire::ikev2::KeId;
use aws_lc_rs::kem::{self, Ciphertext, DecapsulationKey, EncapsulationKey};

use crate::{Error, Secret};

/// One parameter set.
pub(crate) struct Kem {
    method: KeId,
    algorithm: &'static kem::Algorithm,
    /// Octets of an encapsulation key.
    pub(crate) key_len: usize,
    /// Octets of a ciphertext.
    ciphertext_len: usize,
}

impl Kem {
    /// The parameter set with this number, if it is built in.
    pub(crate) fn of(method: KeId) -> Option<&'static Self> {
        match method {
            KeId::ML_KEM_512 => Some(&ML_KEM_512),
            KeId::ML_KEM_768 => Some(&ML_KEM_768),
            KeId::ML_KEM_1024 => Some(&ML_KEM_1024),
            _ => None,
        }
    }

    /// A fresh key pair, never used for more than one exchange: the encapsulation key as it goes over the wire, and
    /// the other half.
    pub(crate) fn generate(&self) -> Result<(Vec<u8>, DecapsulationKey), Error> {
        let private = DecapsulationKey::generate(self.algorithm).map_err(|_| Error::Entropy)?;
        let public = private.encapsulation_key().map_err(|_| Error::BadKey)?;
        let public = public.key_bytes().map_err(|_| Error::BadKey)?.as_ref().to_vec();
        Ok((public, private))
    }

    /// A fresh secret for the holder of an encapsulation key, and the ciphertext that tells it.
    pub(crate) fn encapsulate(&self, key: &[u8]) -> Result<(Vec<u8>, Secret), Error> {
        // FIPS 203 7.2: the length, and that every coefficient is below the modulus.
        let refused = self.refuse("it is not an encapsulation key");
        let Ok(key) = EncapsulationKey::new(self.algorithm, key) else { return Err(refused) };
        let Ok((ciphertext, secret)) = key.encapsulate() else { return Err(refused) };
        Ok((ciphertext.as_ref().to_vec(), Secret::new(secret.as_ref().to_vec())))
    }

    /// The secret in a ciphertext. An altered one of the right length is no error: it gives a secret that nobody else
    /// has (FIPS 203 6.3).
    pub(crate) fn decapsulate(&self, private: &DecapsulationKey, ciphertext: &[u8]) -> Result<Secret, Error> {
        // FIPS 203 7.3
        if ciphertext.len() != self.ciphertext_len {
            return Err(self.refuse("its length is not that of a ciphertext"));
        }
        let secret = private.decapsulate(Ciphertext::from(ciphertext)).map_err(|_| Error::BadKey)?;
        Ok(Secret::new(secret.as_ref().to_vec()))
    }

    fn refuse(&self, why: &'static str) -> Error {
        Error::BadPublicValue { method: self.method, why }
    }
}

static ML_KEM_512: Kem =
    Kem { method: KeId::ML_KEM_512, algorithm: &kem::ML_KEM_512, key_len: 800, ciphertext_len: 768 };
static ML_KEM_768: Kem =
    Kem { method: KeId::ML_KEM_768, algorithm: &kem::ML_KEM_768, key_len: 1184, ciphertext_len: 1088 };
static ML_KEM_1024: Kem =
    Kem { method: KeId::ML_KEM_1024, algorithm: &kem::ML_KEM_1024, key_len: 1568, ciphertext_len: 1568 };

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;
    use serde::Deserialize;

    use super::*;

    /// `tests/vectors/mlkem.json.gz`, from Wycheproof. Valid ciphertexts and implicit rejections are both among them.
    #[test]
    fn decapsulation_wycheproof() {
        #[derive(Deserialize)]
        struct Case {
            method: u16,
            decapsulation: Vec<Decapsulation>,
        }
        #[derive(Deserialize)]
        struct Decapsulation {
            dk: String,
            c: String,
            k: String,
        }
        let file = &include_bytes!("../tests/vectors/mlkem.json.gz")[..];
        let cases: Vec<Case> = serde_json::from_reader(GzDecoder::new(file)).unwrap();
        let mut seen = 0;
        for case in cases {
            let kem = Kem::of(KeId(case.method)).unwrap();
            for Decapsulation { dk, c, k } in case.decapsulation {
                let private = DecapsulationKey::new(kem.algorithm, &hex::decode(dk).unwrap()).unwrap();
                let secret = kem.decapsulate(&private, &hex::decode(c).unwrap()).unwrap();
                assert!(secret.ct_eq(&hex::decode(k).unwrap()), "{}", kem.method);
                seen += 1;
            }
        }
        assert_eq!(seen, 20);
    }
}
