//! The IKE header (RFC 7296 3.1) and the SPIs.

use std::fmt;

use super::{ExchangeType, PayloadType};
use crate::cursor::{Reader, Writer};
use crate::{DecodeError, Reason};

/// The fixed part of every IKE message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// SPI of the original initiator of the IKE SA.
    pub initiator_spi: IkeSpi,
    /// SPI of the original responder, zero in the first request.
    pub responder_spi: IkeSpi,
    /// Type of the first payload.
    pub next_payload: PayloadType,
    /// IKE version.
    pub version: Version,
    /// Exchange type.
    pub exchange: ExchangeType,
    /// Flags.
    pub flags: Flags,
    /// Number of the request, repeated in its response.
    pub message_id: u32,
    /// Octets of the whole message.
    pub length: u32,
}

impl Header {
    /// Its length in octets.
    pub const LEN: usize = 28;

    /// Where the type of the first payload stands.
    pub(super) const NEXT_PAYLOAD_AT: usize = 16;

    /// Decodes the header at the start of a message, of whatever IKE version.
    ///
    /// Nothing is checked here but that it is there: the version and the length are for the caller
    /// ([`super::Message::decode`] checks both).
    ///
    /// # Errors
    /// [`Reason::Truncated`] if the message is shorter than a header.
    pub fn decode(datagram: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(datagram, "IKE header");
        Ok(Self {
            initiator_spi: IkeSpi(reader.u64()?),
            responder_spi: IkeSpi(reader.u64()?),
            next_payload: PayloadType(reader.u8()?),
            version: Version::from_octet(reader.u8()?),
            exchange: ExchangeType(reader.u8()?),
            flags: Flags::from_octet(reader.u8()?),
            message_id: reader.u32()?,
            length: reader.u32()?,
        })
    }

    /// Appends the header as it stands.
    pub fn encode(&self, writer: &mut Writer) {
        writer.u64(self.initiator_spi.0);
        writer.u64(self.responder_spi.0);
        writer.u8(self.next_payload.0);
        writer.u8(self.version.octet());
        writer.u8(self.exchange.0);
        writer.u8(self.flags.octet());
        writer.u32(self.message_id);
        writer.u32(self.length);
    }

    /// Checks the length field against the datagram that carries the message. They must agree: a datagram holds
    /// one message and nothing else.
    pub(super) fn check_length(&self, datagram: &[u8]) -> Result<(), DecodeError> {
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        let reason = if length < Self::LEN {
            Reason::LengthBelow { length, minimum: Self::LEN }
        } else if length > datagram.len() {
            Reason::LengthBeyond { length, available: datagram.len() }
        } else if length < datagram.len() {
            Reason::Trailing(datagram.len() - length)
        } else {
            return Ok(());
        };
        Err(DecodeError::new("IKE header", reason))
    }
}

/// SPI of one side of an IKE SA.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct IkeSpi(pub u64);

impl IkeSpi {
    /// Not known yet.
    pub const ZERO: Self = Self(0);
}

impl fmt::Display for IkeSpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for IkeSpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// SPI of an ESP or AH SA.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Spi(pub u32);

impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// IKE version. The minor number is kept but means nothing (RFC 7296 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Incompatible versions differ here. Four bits on the wire.
    pub major: u8,
    /// Four bits on the wire.
    pub minor: u8,
}

impl Version {
    /// IKEv2.
    pub const IKEV2: Self = Self { major: 2, minor: 0 };

    const fn from_octet(octet: u8) -> Self {
        Self { major: octet >> 4, minor: octet & 0x0f }
    }

    const fn octet(self) -> u8 {
        (self.major << 4) | (self.minor & 0x0f)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Flags of the IKE header. Reserved bits are ignored and sent as zero (RFC 7296 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The sender is the original initiator of the IKE SA.
    pub initiator: bool,
    /// The sender could speak a higher major version.
    pub version: bool,
    /// The message is a response.
    pub response: bool,
}

impl Flags {
    const INITIATOR: u8 = 0x08;
    const VERSION: u8 = 0x10;
    const RESPONSE: u8 = 0x20;

    const fn from_octet(octet: u8) -> Self {
        Self {
            initiator: octet & Self::INITIATOR != 0,
            version: octet & Self::VERSION != 0,
            response: octet & Self::RESPONSE != 0,
        }
    }

    const fn octet(self) -> u8 {
        (if self.initiator { Self::INITIATOR } else { 0 })
            | (if self.version { Self::VERSION } else { 0 })
            | (if self.response { Self::RESPONSE } else { 0 })
    }
}
