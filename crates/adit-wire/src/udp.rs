//! UDP headers (RFC 768).

use std::net::SocketAddr;

use crate::cursor::{Reader, Writer};
use crate::ip::{PROTOCOL_UDP, transport_checksum};
use crate::{DecodeError, Reason};

/// A UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpHeader {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Octets of header and payload.
    pub length: u16,
    /// Checksum, 0 if the sender made none.
    pub checksum: u16,
}

impl UdpHeader {
    /// Its length in octets.
    pub const LEN: usize = 8;

    /// Splits a UDP datagram into header and payload. The checksum is not looked at; see
    /// [`transport_checksum`]. Octets after the payload are ignored.
    ///
    /// # Errors
    /// The datagram is shorter than a header or than its length field says, or that is below 8.
    pub fn decode(datagram: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        const CONTEXT: &str = "UDP header";
        let mut reader = Reader::new(datagram, CONTEXT);
        let header = Self {
            source_port: reader.u16()?,
            destination_port: reader.u16()?,
            length: reader.u16()?,
            checksum: reader.u16()?,
        };
        let length = usize::from(header.length);
        let payload_len = length
            .checked_sub(Self::LEN)
            .ok_or_else(|| reader.error(Reason::LengthBelow { length, minimum: Self::LEN }))?;
        let payload = reader.take(payload_len).map_err(|_| {
            DecodeError::new(CONTEXT, Reason::LengthBeyond { length, available: datagram.len() })
        })?;
        Ok((header, payload))
    }
}

/// A whole UDP datagram with its checksum.
///
/// `None` if it would be longer than its length field can say.
#[must_use]
pub fn datagram(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let mut writer = Writer::new();
    writer.u16(source.port());
    writer.u16(destination.port());
    writer.u16(u16::try_from(UdpHeader::LEN + payload.len()).ok()?);
    let checksum_at = writer.len();
    writer.u16(0);
    writer.bytes(payload);
    let mut datagram = writer.into_vec();
    // A sum of zero goes out as its other representation, because zero means none (RFC 768).
    let checksum = match transport_checksum(source.ip(), destination.ip(), PROTOCOL_UDP, &datagram) {
        0 => 0xffff,
        checksum => checksum,
    };
    datagram.splice(checksum_at..checksum_at + 2, checksum.to_be_bytes());
    Some(datagram)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_a_hand_added_datagram() {
        // c000 + 0201 + c000 + 0202 + 0011 + 000a + 1388 + 01f4 + 000a + 4142 = 1 dae6 -> dae7, inverted 2518.
        let datagram =
            datagram("192.0.2.1:5000".parse().unwrap(), "192.0.2.2:500".parse().unwrap(), b"AB").unwrap();
        assert_eq!(hex::encode(&datagram), "138801f4000a25184142");
        let (header, payload) = UdpHeader::decode(&datagram).unwrap();
        assert_eq!((header.source_port, header.destination_port, payload), (5000, 500, b"AB".as_slice()));
    }

    #[test]
    fn zero_sum_is_sent_as_ones() {
        // The payload is the inverted sum of all else: 0 + 0 + 0011 + 000a + 0 + 0 + 000a = 0025 -> ffda.
        let any: SocketAddr = "0.0.0.0:0".parse().unwrap();
        let datagram = datagram(any, any, &[0xff, 0xda]).unwrap();
        assert_eq!(datagram[6..8], [0xff, 0xff]);
        assert_eq!(transport_checksum(any.ip(), any.ip(), PROTOCOL_UDP, &datagram), 0);
    }

    #[test]
    fn lengths() {
        let error = |octets: &[u8]| UdpHeader::decode(octets).unwrap_err().to_string();
        assert_eq!(error(&[0; 7]), "UDP header: 2 octets needed, 1 left");
        assert_eq!(error(&[0, 0, 0, 0, 0, 7, 0, 0]), "UDP header: length 7 below 8");
        assert_eq!(error(&[0, 0, 0, 0, 0, 9, 0, 0]), "UDP header: length 9 beyond the 8 available");
        assert_eq!(UdpHeader::decode(&[0, 0, 0, 0, 0, 8, 0, 0, 9]).unwrap().1, []);
    }
}
