//! Pseudorandom functions and the stream `prf+` (RFC 7296 2.13). Owns the HMAC computation itself; what keys are
//! derived with it, and in which order, is in `keys`.

use adit_wire::ikev2::PrfId;
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::{Error, Secret, suites};

/// A negotiated pseudorandom function.
#[derive(Clone, Copy, Debug)]
pub struct Prf {
    id: PrfId,
    algorithm: hmac::Algorithm,
}

impl Prf {
    /// The function with this number.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where it is not built in.
    pub fn new(id: PrfId) -> Result<Self, Error> {
        match suites::prf(id) {
            Some(algorithm) => Ok(Self { id, algorithm }),
            None => Err(Error::Unsupported { what: id.to_string() }),
        }
    }

    /// Its number.
    pub fn id(&self) -> PrfId {
        self.id
    }

    /// Octets of output.
    pub fn output_len(&self) -> usize {
        self.algorithm.tag_len()
    }

    /// Octets of the preferred key; for HMAC those of the output (RFC 7296 2.14, RFC 4868 2.1.2).
    pub fn key_len(&self) -> usize {
        self.output_len()
    }

    /// `prf(key, parts)`, with the parts concatenated. HMAC takes keys of any length.
    pub fn compute(&self, key: &[u8], parts: &[&[u8]]) -> Secret {
        self.sign(&hmac::Key::new(self.algorithm, key), parts)
    }

    /// `prf+(key, seed)`: the first `len` octets of the stream T1 | T2 | ..
    ///
    /// # Errors
    /// [`Error::Length`] beyond 255 blocks, where the stream ends (RFC 7296 2.13).
    pub fn plus(&self, key: &[u8], seed: &[&[u8]], len: usize) -> Result<Secret, Error> {
        let longest = 255 * self.output_len();
        if len > longest {
            return Err(Error::Length { what: "prf+ output", expected: longest, actual: len });
        }
        let key = hmac::Key::new(self.algorithm, key);
        let mut stream = Vec::with_capacity(len);
        let mut previous = Secret::new(Vec::new());
        for counter in 1..=u8::MAX {
            if stream.len() == len {
                break;
            }
            let mut parts = Vec::with_capacity(seed.len() + 2);
            parts.push(previous.expose());
            parts.extend_from_slice(seed);
            let counter = [counter];
            parts.push(&counter);
            let block = self.sign(&key, &parts);
            // The buffer was allocated whole, so nothing secret is left behind by growing it.
            stream.extend(block.expose().iter().take(len - stream.len()));
            previous = block;
        }
        Ok(Secret::new(stream))
    }

    fn sign(&self, key: &hmac::Key, parts: &[&[u8]]) -> Secret {
        // The library returns a tag it does not wipe, unless it writes into a buffer of ours; that form takes the
        // message in one piece.
        let mut message = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
        for part in parts {
            message.extend_from_slice(part);
        }
        let mut output = Zeroizing::new(vec![0; self.output_len()]);
        hmac::sign_to_buffer(key, &message, &mut output).expect("the buffer has the length of the output");
        Secret::new(std::mem::take(&mut output))
    }
}
