//! The Extensible Authentication Protocol payload (RFC 7296 3.16, RFC 3748 4).

use crate::cursor::{Reader, Writer};
use crate::{DecodeError, Reason};

/// One EAP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eap {
    /// 1 request, 2 response, 3 success, 4 failure; others are kept.
    pub code: u8,
    /// Matches a response with its request.
    pub identifier: u8,
    /// What follows the EAP length field: type and type data of requests and responses.
    pub data: Vec<u8>,
}

impl Eap {
    const HEADER_LEN: usize = 4;

    pub(super) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body, "EAP payload");
        let code = reader.u8()?;
        let identifier = reader.u8()?;
        let length = usize::from(reader.u16()?);
        // The EAP packet fills the payload (RFC 7296 3.16): its own length must say the same.
        if length != body.len() {
            return Err(reader.error(Reason::LengthMismatch { expected: body.len(), found: length }));
        }
        Ok(Self { code, identifier, data: reader.rest().to_vec() })
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u8(self.code);
        writer.u8(self.identifier);
        writer.u16(u16::try_from(Self::HEADER_LEN + self.data.len()).unwrap_or(u16::MAX));
        writer.bytes(&self.data);
    }
}
