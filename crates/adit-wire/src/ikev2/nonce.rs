//! The Nonce payload (RFC 7296 3.9).

use crate::cursor::Writer;
use crate::{DecodeError, Reason};

/// One side's contribution of fresh randomness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonce(pub Vec<u8>);

impl Nonce {
    /// The least length (RFC 7296 3.9).
    pub const MIN_LEN: usize = 16;
    /// The greatest length (RFC 7296 3.9).
    pub const MAX_LEN: usize = 256;

    pub(super) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let length = body.len();
        if length < Self::MIN_LEN {
            return Err(DecodeError::new(
                "Nonce payload",
                Reason::LengthBelow { length, minimum: Self::MIN_LEN },
            ));
        }
        if length > Self::MAX_LEN {
            return Err(DecodeError::new("Nonce payload", Reason::TooMany { limit: Self::MAX_LEN }));
        }
        Ok(Self(body.to_vec()))
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.bytes(&self.0);
    }
}
