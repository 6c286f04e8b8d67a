//! The Security Association payload: proposals and transforms (RFC 7296 3.3).

use std::fmt;

use super::{EncrId, EsnId, IntegId, KeId, PrfId, ProtocolId, TransformType};
use crate::cursor::{Reader, Writer};
use crate::{DecodeError, Reason};

const CONTEXT: &str = "SA payload";

/// What a peer offers, in order of preference, or the one proposal it chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityAssociation {
    /// At most 255 when decoded.
    pub proposals: Vec<Proposal>,
}

impl SecurityAssociation {
    const MAX_PROPOSALS: usize = 255;

    pub(super) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body, CONTEXT);
        let mut proposals = Vec::new();
        loop {
            if proposals.len() == Self::MAX_PROPOSALS {
                return Err(reader.error(Reason::TooMany { limit: Self::MAX_PROPOSALS }));
            }
            let (proposal, more) =
                Proposal::decode(&mut reader).map_err(|e| e.in_item("proposal", proposals.len() + 1))?;
            proposals.push(proposal);
            if !more {
                break;
            }
        }
        reader.finish()?;
        Ok(Self { proposals })
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        for (index, proposal) in self.proposals.iter().enumerate() {
            proposal.encode(writer, index + 1 < self.proposals.len());
        }
    }
}

/// One combination of algorithms, all for one protocol: one transform of each type is to be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Counted from 1 in an offer; an answer repeats the number it chose.
    pub number: u8,
    /// What is negotiated.
    pub protocol: ProtocolId,
    /// The sender's inbound SPI: 8 octets or none for IKE, 4 for ESP and AH.
    pub spi: Vec<u8>,
    /// Alternatives of every type, in order of preference. At most 255.
    pub transforms: Vec<Transform>,
}

impl Proposal {
    const FIXED_LEN: usize = 8;
    /// "Last Substruc" value if another proposal follows.
    const MORE: u8 = 2;

    /// Returns whether another proposal follows.
    fn decode(reader: &mut Reader<'_>) -> Result<(Self, bool), DecodeError> {
        let more = more_follow(reader, Self::MORE)?;
        reader.u8()?; // RESERVED
        let mut reader = substructure(reader, Self::FIXED_LEN)?;
        let number = reader.u8()?;
        let protocol = ProtocolId(reader.u8()?);
        let spi_size = usize::from(reader.u8()?);
        let count = reader.u8()?;
        // RFC 7296 3.3.1: the SPI is as long as the protocol's SPIs are, or absent in a first IKE negotiation.
        let plausible = match protocol {
            ProtocolId::IKE => spi_size == 0 || spi_size == 8,
            ProtocolId::AH | ProtocolId::ESP => spi_size == 4,
            _ => true,
        };
        if !plausible {
            return Err(reader.error(Reason::Invalid("SPI size does not fit the protocol")));
        }
        let spi = reader.sub(spi_size, CONTEXT)?.rest().to_vec();
        let mut transforms = Vec::new();
        for index in 1..=usize::from(count) {
            let (transform, more) =
                Transform::decode(&mut reader).map_err(|e| e.in_item("transform", index))?;
            if more != (index < usize::from(count)) {
                return Err(reader
                    .error(Reason::Invalid("last-transform mark and number of transforms disagree"))
                    .in_item("transform", index));
            }
            transforms.push(transform);
        }
        reader.finish()?;
        Ok((Self { number, protocol, spi, transforms }, more))
    }

    fn encode(&self, writer: &mut Writer, more: bool) {
        let start = writer.len();
        writer.u8(if more { Self::MORE } else { 0 });
        writer.u8(0);
        let length = writer.len_u16(start);
        writer.u8(self.number);
        writer.u8(self.protocol.0);
        writer.u8(u8::try_from(self.spi.len()).unwrap_or(u8::MAX));
        writer.u8(u8::try_from(self.transforms.len()).unwrap_or(u8::MAX));
        writer.bytes(&self.spi);
        for (index, transform) in self.transforms.iter().enumerate() {
            transform.encode(writer, index + 1 < self.transforms.len());
        }
        writer.end_len(length);
    }
}

/// `ESP:AES_GCM_16_256/CURVE_25519/NO_EXT_SEQ`
impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.protocol)?;
        for (index, transform) in self.transforms.iter().enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            transform.fmt(f)?;
        }
        Ok(())
    }
}

/// One algorithm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transform {
    /// What it is for.
    pub transform_type: TransformType,
    /// Its number, in the registry of its type.
    pub id: u16,
    /// Key length in bits, if one was given.
    pub key_length: Option<u16>,
    /// It has attributes that are unknown, malformed or repeated: it must not be chosen (RFC 7296 3.3.6).
    pub unknown_attributes: bool,
    /// Those attributes as they came.
    unknown: Vec<u8>,
}

impl Transform {
    const FIXED_LEN: usize = 8;
    /// "Last Substruc" value if another transform follows.
    const MORE: u8 = 3;
    /// Attribute format bit: a two-octet value stands where a length would.
    const ATTRIBUTE_TV: u16 = 0x8000;
    const ATTRIBUTE_KEY_LENGTH: u16 = 14;

    /// A transform to offer or to compare with.
    #[must_use]
    pub const fn new(transform_type: TransformType, id: u16, key_length: Option<u16>) -> Self {
        Self { transform_type, id, key_length, unknown_attributes: false, unknown: Vec::new() }
    }

    /// Encryption, with a key length in bits if the algorithm has several.
    #[must_use]
    pub const fn encr(id: EncrId, key_length: Option<u16>) -> Self {
        Self::new(TransformType::ENCR, id.0, key_length)
    }

    /// Pseudorandom function.
    #[must_use]
    pub const fn prf(id: PrfId) -> Self {
        Self::new(TransformType::PRF, id.0, None)
    }

    /// Integrity.
    #[must_use]
    pub const fn integ(id: IntegId) -> Self {
        Self::new(TransformType::INTEG, id.0, None)
    }

    /// Key exchange.
    #[must_use]
    pub const fn ke(id: KeId) -> Self {
        Self::new(TransformType::KE, id.0, None)
    }

    /// Extended sequence numbers.
    #[must_use]
    pub const fn esn(id: EsnId) -> Self {
        Self::new(TransformType::ESN, id.0, None)
    }

    /// Returns whether another transform follows.
    fn decode(reader: &mut Reader<'_>) -> Result<(Self, bool), DecodeError> {
        let more = more_follow(reader, Self::MORE)?;
        reader.u8()?; // RESERVED
        let mut reader = substructure(reader, Self::FIXED_LEN)?;
        let transform_type = TransformType(reader.u8()?);
        reader.u8()?; // RESERVED
        let mut transform = Self::new(transform_type, reader.u16()?, None);
        while !reader.is_empty() {
            transform.decode_attribute(&mut reader)?;
        }
        Ok((transform, more))
    }

    fn decode_attribute(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        let format_and_type = reader.u16()?;
        let value_or_length = reader.u16()?;
        let value = if format_and_type & Self::ATTRIBUTE_TV != 0 {
            if format_and_type & !Self::ATTRIBUTE_TV == Self::ATTRIBUTE_KEY_LENGTH
                && self.key_length.is_none()
            {
                self.key_length = Some(value_or_length);
                return Ok(());
            }
            &[]
        } else {
            reader.sub(usize::from(value_or_length), CONTEXT)?.rest()
        };
        self.unknown_attributes = true;
        self.unknown.extend_from_slice(&format_and_type.to_be_bytes());
        self.unknown.extend_from_slice(&value_or_length.to_be_bytes());
        self.unknown.extend_from_slice(value);
        Ok(())
    }

    fn encode(&self, writer: &mut Writer, more: bool) {
        let start = writer.len();
        writer.u8(if more { Self::MORE } else { 0 });
        writer.u8(0);
        let length = writer.len_u16(start);
        writer.u8(self.transform_type.0);
        writer.u8(0);
        writer.u16(self.id);
        if let Some(bits) = self.key_length {
            writer.u16(Self::ATTRIBUTE_TV | Self::ATTRIBUTE_KEY_LENGTH);
            writer.u16(bits);
        }
        writer.bytes(&self.unknown);
        writer.end_len(length);
    }
}

/// `AES_GCM_16_256`, `PRF_HMAC_SHA2_256`, `ADDKE1=ML_KEM_768`
impl fmt::Display for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transform_type {
            TransformType::ENCR => EncrId(self.id).fmt(f)?,
            TransformType::PRF => PrfId(self.id).fmt(f)?,
            TransformType::INTEG => IntegId(self.id).fmt(f)?,
            TransformType::KE => KeId(self.id).fmt(f)?,
            TransformType::ESN => EsnId(self.id).fmt(f)?,
            TransformType(6..=12) => write!(f, "{}={}", self.transform_type, KeId(self.id))?,
            other => write!(f, "{other}={}", self.id)?,
        }
        if let Some(bits) = self.key_length {
            write!(f, "_{bits}")?;
        }
        if self.unknown_attributes {
            f.write_str("(unknown attributes)")?;
        }
        Ok(())
    }
}

/// Reads the "Last Substruc" octet: 0, or `mark` if another substructure of the kind follows.
fn more_follow(reader: &mut Reader<'_>, mark: u8) -> Result<bool, DecodeError> {
    match reader.u8()? {
        0 => Ok(false),
        octet if octet == mark => Ok(true),
        _ => Err(reader.error(Reason::Invalid("last-substructure mark is not one of its two values"))),
    }
}

/// Reads the length of a substructure of which four octets are consumed with it, and the rest of it.
fn substructure<'a>(reader: &mut Reader<'a>, minimum: usize) -> Result<Reader<'a>, DecodeError> {
    let length = usize::from(reader.u16()?);
    reader.framed(length, 4, minimum, CONTEXT)
}
