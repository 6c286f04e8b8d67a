//! The Authentication payload (RFC 7296 3.8).

use super::AuthMethod;
use crate::DecodeError;
use crate::cursor::{Reader, Writer};

/// The proof that a peer is who it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// How it was made.
    pub method: AuthMethod,
    /// MAC or signature.
    pub data: Vec<u8>,
}

impl Authentication {
    pub(super) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body, "AUTH payload");
        let method = AuthMethod(reader.u8()?);
        reader.take(3)?; // RESERVED
        Ok(Self { method, data: reader.rest().to_vec() })
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u8(self.method.0);
        writer.zeros(3);
        writer.bytes(&self.data);
    }
}
