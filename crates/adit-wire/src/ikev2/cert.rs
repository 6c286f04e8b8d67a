//! The Certificate and Certificate Request payloads (RFC 7296 3.6, 3.7).

use super::CertEncoding;
use crate::DecodeError;
use crate::cursor::{Reader, Writer};

/// A certificate, or something else that carries a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// What the data is.
    pub encoding: CertEncoding,
    /// Not looked into here.
    pub data: Vec<u8>,
}

impl Certificate {
    pub(super) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body, "CERT payload");
        Ok(Self { encoding: CertEncoding(reader.u8()?), data: reader.rest().to_vec() })
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u8(self.encoding.0);
        writer.bytes(&self.data);
    }
}

/// Which certificates the sender would like to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    /// Which encoding it asks for.
    pub encoding: CertEncoding,
    /// For X.509 the SHA-1 hashes of acceptable authorities' public keys, 20 octets each, one after the other.
    pub authorities: Vec<u8>,
}

impl CertificateRequest {
    pub(super) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body, "CERTREQ payload");
        Ok(Self { encoding: CertEncoding(reader.u8()?), authorities: reader.rest().to_vec() })
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u8(self.encoding.0);
        writer.bytes(&self.authorities);
    }
}
