//! The Key Exchange payload (RFC 7296 3.4).

use super::KeId;
use crate::DecodeError;
use crate::cursor::{Reader, Writer};

/// A public value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyExchange {
    /// The method it belongs to.
    pub method: KeId,
    /// The value, of a length the method defines; not checked here.
    pub data: Vec<u8>,
}

impl KeyExchange {
    pub(super) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body, "KE payload");
        let method = KeId(reader.u16()?);
        reader.take(2)?; // RESERVED
        Ok(Self { method, data: reader.rest().to_vec() })
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u16(self.method.0);
        writer.u16(0);
        writer.bytes(&self.data);
    }
}
