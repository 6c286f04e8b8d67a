//! The Identification payloads IDi and IDr (RFC 7296 3.5).

use super::IdType;
use crate::DecodeError;
use crate::cursor::{Reader, Writer};

/// Who a peer says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identification {
    /// How to read the data.
    pub id_type: IdType,
    /// The identity; its form is not checked here.
    pub data: Vec<u8>,
    /// The three octets that nobody has a meaning for. AUTH covers what the peer sent (RFC 7296 2.15), so they
    /// are kept.
    reserved: [u8; 3],
}

impl Identification {
    /// An identity to send.
    #[must_use]
    pub fn new(id_type: IdType, data: Vec<u8>) -> Self {
        Self { id_type, data, reserved: [0; 3] }
    }

    /// The payload without its generic header, exactly as received or to be sent: what AUTH covers
    /// (RFC 7296 2.15, "RestOfIDPayload").
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        self.encode(&mut writer);
        writer.into_vec()
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body, "ID payload");
        let id_type = IdType(reader.u8()?);
        let reserved = reader.array()?;
        Ok(Self { id_type, data: reader.rest().to_vec(), reserved })
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u8(self.id_type.0);
        writer.bytes(&self.reserved);
        writer.bytes(&self.data);
    }
}
