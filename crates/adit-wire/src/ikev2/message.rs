//! Whole messages: the header and the chain of payloads (RFC 7296 3.1, 3.2).

use super::{
    Authentication, Certificate, CertificateRequest, Configuration, Delete, Eap, Encrypted, Fragment, Header,
    Identification, KeyExchange, Nonce, Notify, PayloadType, SecurityAssociation, TrafficSelectors,
    UnknownPayload, VendorId, Version,
};
use crate::cursor::{Reader, Writer};
use crate::{DecodeError, Reason};

/// A message as far as it can be read without keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The header.
    pub header: Header,
    /// The payloads in the clear, in the order they came.
    pub payloads: Vec<Payload>,
    /// Where the Encrypted payload lies, if there is one.
    pub encrypted: Option<Encrypted>,
}

impl Message {
    /// More payloads than this are an attack, not a message.
    pub const MAX_PAYLOADS: usize = 64;

    /// Decodes a whole datagram (without the non-ESP marker, if it came with one).
    ///
    /// Reserved fields, the minor version and the critical bit of known payloads are ignored (RFC 7296 2.5); an
    /// unknown payload is kept and its critical bit with it.
    ///
    /// # Errors
    /// The message is malformed, longer or shorter than its length field says, not IKEv2, or has more than
    /// [`Message::MAX_PAYLOADS`] payloads.
    pub fn decode(datagram: &[u8]) -> Result<Self, DecodeError> {
        let header = Header::decode(datagram)?;
        if header.version.major != Version::IKEV2.major {
            return Err(DecodeError::invalid("IKE header", "major version is not 2"));
        }
        header.check_length(datagram)?;
        let mut reader = Reader::new(datagram, "IKE message");
        reader.take(Header::LEN)?;
        let mut message = Self { header, payloads: Vec::new(), encrypted: None };
        let mut next = header.next_payload;
        let mut announced_at = Header::NEXT_PAYLOAD_AT;
        while next != PayloadType::NONE {
            check_count(&message.payloads)?;
            let start = datagram.len() - reader.remaining();
            let generic =
                Generic::decode(&mut reader).map_err(|e| e.in_item("payload", message.payloads.len() + 1))?;
            if next == PayloadType::SK || next == PayloadType::SKF {
                message.encrypted = Some(encrypted((next, announced_at), &generic, datagram.len(), &reader)?);
                break;
            }
            message.payloads.push(Payload::decode(next, &generic)?);
            (next, announced_at) = (generic.next, start);
        }
        reader.finish()?;
        Ok(message)
    }

    /// Decodes the chain of payloads that was inside an Encrypted payload, without padding and pad length.
    ///
    /// # Errors
    /// As [`Message::decode`]; an Encrypted payload inside an Encrypted payload is an error, too.
    pub fn decode_inner(first: PayloadType, plaintext: &[u8]) -> Result<Vec<Payload>, DecodeError> {
        let mut reader = Reader::new(plaintext, "Encrypted payload's content");
        let mut payloads = Vec::new();
        let mut next = first;
        while next != PayloadType::NONE {
            check_count(&payloads)?;
            if next == PayloadType::SK || next == PayloadType::SKF {
                return Err(reader.error(Reason::Invalid("an Encrypted payload inside")));
            }
            let generic =
                Generic::decode(&mut reader).map_err(|e| e.in_item("payload", payloads.len() + 1))?;
            payloads.push(Payload::decode(next, &generic)?);
            next = generic.next;
        }
        reader.finish()?;
        Ok(payloads)
    }

    /// Encodes a message in the clear. `length` and `next_payload` of `header` are ignored.
    #[must_use]
    pub fn encode(header: &Header, payloads: &[Payload]) -> Vec<u8> {
        let (next_payload, chain) = Self::encode_inner(payloads);
        let mut writer = Writer::new();
        Header { next_payload, length: 0, ..*header }.encode(&mut writer);
        writer.bytes(&chain);
        Self::finish(writer)
    }

    /// Encodes a chain of payloads, and says the type of the first one.
    #[must_use]
    pub fn encode_inner(payloads: &[Payload]) -> (PayloadType, Vec<u8>) {
        let mut writer = Writer::new();
        let mut following = payloads.iter().map(Payload::payload_type);
        let first = following.next().unwrap_or(PayloadType::NONE);
        for payload in payloads {
            payload.encode(following.next().unwrap_or(PayloadType::NONE), &mut writer);
        }
        (first, writer.into_vec())
    }

    /// Fills the length field of the IKE header in.
    pub(super) fn finish(mut writer: Writer) -> Vec<u8> {
        let length = u32::try_from(writer.len()).unwrap_or(u32::MAX);
        writer.patch(Header::LEN - 4, &length.to_be_bytes());
        writer.into_vec()
    }
}

fn check_count(payloads: &[Payload]) -> Result<(), DecodeError> {
    if payloads.len() < Message::MAX_PAYLOADS {
        Ok(())
    } else {
        Err(DecodeError::new("IKE message's payloads", Reason::TooMany { limit: Message::MAX_PAYLOADS }))
    }
}

fn encrypted(
    (payload_type, announced_at): (PayloadType, usize),
    generic: &Generic<'_>,
    end: usize,
    rest: &Reader<'_>,
) -> Result<Encrypted, DecodeError> {
    if !rest.is_empty() {
        return Err(rest.error(Reason::Invalid("the Encrypted payload is not the last one")));
    }
    let body_at = end - generic.body.len();
    let (fragment, associated_data_len) = if payload_type == PayloadType::SKF {
        (Some(Fragment::decode(generic.body)?), body_at + Fragment::LEN)
    } else {
        (None, body_at)
    };
    Ok(Encrypted { first_inner: generic.next, fragment, announced_at, associated_data_len, end })
}

/// One payload.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the payload of its name")]
pub enum Payload {
    SecurityAssociation(SecurityAssociation),
    KeyExchange(KeyExchange),
    IdInitiator(Identification),
    IdResponder(Identification),
    Certificate(Certificate),
    CertificateRequest(CertificateRequest),
    Authentication(Authentication),
    Nonce(Nonce),
    Notify(Notify),
    Delete(Delete),
    VendorId(VendorId),
    TrafficSelectorsInitiator(TrafficSelectors),
    TrafficSelectorsResponder(TrafficSelectors),
    Configuration(Configuration),
    Eap(Eap),
    Unknown(UnknownPayload),
}

impl Payload {
    /// The type that announces it.
    #[must_use]
    pub const fn payload_type(&self) -> PayloadType {
        match self {
            Self::SecurityAssociation(_) => PayloadType::SA,
            Self::KeyExchange(_) => PayloadType::KE,
            Self::IdInitiator(_) => PayloadType::IDI,
            Self::IdResponder(_) => PayloadType::IDR,
            Self::Certificate(_) => PayloadType::CERT,
            Self::CertificateRequest(_) => PayloadType::CERTREQ,
            Self::Authentication(_) => PayloadType::AUTH,
            Self::Nonce(_) => PayloadType::NONCE,
            Self::Notify(_) => PayloadType::NOTIFY,
            Self::Delete(_) => PayloadType::DELETE,
            Self::VendorId(_) => PayloadType::VENDOR,
            Self::TrafficSelectorsInitiator(_) => PayloadType::TSI,
            Self::TrafficSelectorsResponder(_) => PayloadType::TSR,
            Self::Configuration(_) => PayloadType::CP,
            Self::Eap(_) => PayloadType::EAP,
            Self::Unknown(unknown) => unknown.payload_type,
        }
    }

    fn decode(payload_type: PayloadType, generic: &Generic<'_>) -> Result<Self, DecodeError> {
        let body = generic.body;
        Ok(match payload_type {
            PayloadType::SA => Self::SecurityAssociation(SecurityAssociation::decode(body)?),
            PayloadType::KE => Self::KeyExchange(KeyExchange::decode(body)?),
            PayloadType::IDI => Self::IdInitiator(Identification::decode(body)?),
            PayloadType::IDR => Self::IdResponder(Identification::decode(body)?),
            PayloadType::CERT => Self::Certificate(Certificate::decode(body)?),
            PayloadType::CERTREQ => Self::CertificateRequest(CertificateRequest::decode(body)?),
            PayloadType::AUTH => Self::Authentication(Authentication::decode(body)?),
            PayloadType::NONCE => Self::Nonce(Nonce::decode(body)?),
            PayloadType::NOTIFY => Self::Notify(Notify::decode(body)?),
            PayloadType::DELETE => Self::Delete(Delete::decode(body)?),
            PayloadType::VENDOR => Self::VendorId(VendorId(body.to_vec())),
            PayloadType::TSI => Self::TrafficSelectorsInitiator(TrafficSelectors::decode(body)?),
            PayloadType::TSR => Self::TrafficSelectorsResponder(TrafficSelectors::decode(body)?),
            PayloadType::CP => Self::Configuration(Configuration::decode(body)?),
            PayloadType::EAP => Self::Eap(Eap::decode(body)?),
            payload_type => Self::Unknown(UnknownPayload {
                payload_type,
                critical: generic.critical,
                body: body.to_vec(),
            }),
        })
    }

    /// The critical bit is sent with unknown payloads only: all types of RFC 7296 are understood by every peer
    /// and go without (RFC 7296 2.5).
    fn encode(&self, next: PayloadType, writer: &mut Writer) {
        let critical = matches!(self, Self::Unknown(UnknownPayload { critical: true, .. }));
        let start = writer.len();
        writer.u8(next.0);
        writer.u8(if critical { Generic::CRITICAL } else { 0 });
        let length = writer.len_u16(start);
        match self {
            Self::SecurityAssociation(payload) => payload.encode(writer),
            Self::KeyExchange(payload) => payload.encode(writer),
            Self::IdInitiator(payload) | Self::IdResponder(payload) => payload.encode(writer),
            Self::Certificate(payload) => payload.encode(writer),
            Self::CertificateRequest(payload) => payload.encode(writer),
            Self::Authentication(payload) => payload.encode(writer),
            Self::Nonce(payload) => payload.encode(writer),
            Self::Notify(payload) => payload.encode(writer),
            Self::Delete(payload) => payload.encode(writer),
            Self::VendorId(payload) => payload.encode(writer),
            Self::TrafficSelectorsInitiator(payload) | Self::TrafficSelectorsResponder(payload) => {
                payload.encode(writer);
            }
            Self::Configuration(payload) => payload.encode(writer),
            Self::Eap(payload) => payload.encode(writer),
            Self::Unknown(payload) => payload.encode(writer),
        }
        writer.end_len(length);
    }
}

/// The generic payload header (RFC 7296 3.2) and what it frames.
struct Generic<'a> {
    next: PayloadType,
    critical: bool,
    body: &'a [u8],
}

impl<'a> Generic<'a> {
    const LEN: usize = 4;
    const CRITICAL: u8 = 0x80;

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let next = PayloadType(reader.u8()?);
        let critical = reader.u8()? & Self::CRITICAL != 0;
        let length = usize::from(reader.u16()?);
        let body = reader.framed(length, Self::LEN, Self::LEN, "IKE payload")?.rest();
        Ok(Self { next, critical, body })
    }
}
