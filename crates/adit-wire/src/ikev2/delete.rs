//! The Delete payload (RFC 7296 3.11).

use super::{ProtocolId, Spi};
use crate::cursor::{Reader, Writer};
use crate::{DecodeError, Reason};

/// SAs the sender has taken out of use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// [`ProtocolId::IKE`] for the IKE SA that carries the message, or [`ProtocolId::ESP`] or [`ProtocolId::AH`].
    pub protocol: ProtocolId,
    /// The sender's inbound SPIs; empty for the IKE SA.
    pub spis: Vec<Spi>,
}

impl Delete {
    pub(super) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body, "Delete payload");
        let protocol = ProtocolId(reader.u8()?);
        let spi_size = usize::from(reader.u8()?);
        let count = usize::from(reader.u16()?);
        let expected_size = match protocol {
            ProtocolId::IKE => 0,
            ProtocolId::AH | ProtocolId::ESP => 4,
            _ => return Err(DecodeError::invalid("Delete payload", "protocol is none of IKE, AH and ESP")),
        };
        if spi_size != expected_size {
            return Err(reader.error(Reason::LengthMismatch { expected: expected_size, found: spi_size }));
        }
        let expected = count * spi_size;
        if reader.remaining() != expected {
            return Err(reader.error(Reason::LengthMismatch { expected, found: reader.remaining() }));
        }
        let (spis, _) = reader.rest().as_chunks::<4>();
        Ok(Self { protocol, spis: spis.iter().map(|spi| Spi(u32::from_be_bytes(*spi))).collect() })
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u8(self.protocol.0);
        if self.protocol == ProtocolId::IKE {
            writer.zeros(3);
            return;
        }
        writer.u8(4);
        writer.u16(u16::try_from(self.spis.len()).unwrap_or(u16::MAX));
        for spi in &self.spis {
            writer.u32(spi.0);
        }
    }
}
