//! The Notify payload (RFC 7296 3.10).

use super::{NotifyType, ProtocolId};
use crate::DecodeError;
use crate::cursor::{Reader, Writer};

/// An error or a status, possibly about one SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Protocol of the SA it is about, [`ProtocolId::NONE`] if it is about none.
    pub protocol: ProtocolId,
    /// SPI of that SA; empty if it is about none or about the IKE SA itself. At most 255 octets.
    pub spi: Vec<u8>,
    /// What it says.
    pub notify_type: NotifyType,
    /// More, in a form the type defines.
    pub data: Vec<u8>,
}

impl Notify {
    /// A notify that is about no particular SA.
    #[must_use]
    pub fn new(notify_type: NotifyType, data: Vec<u8>) -> Self {
        Self { protocol: ProtocolId::NONE, spi: Vec::new(), notify_type, data }
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body, "Notify payload");
        let protocol = ProtocolId(reader.u8()?);
        let spi_size = usize::from(reader.u8()?);
        let notify_type = NotifyType(reader.u16()?);
        let spi = reader.sub(spi_size, "Notify payload")?.rest().to_vec();
        Ok(Self { protocol, spi, notify_type, data: reader.rest().to_vec() })
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u8(self.protocol.0);
        writer.u8(u8::try_from(self.spi.len()).unwrap_or(u8::MAX));
        writer.u16(self.notify_type.0);
        writer.bytes(&self.spi);
        writer.bytes(&self.data);
    }
}
