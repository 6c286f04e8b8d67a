//! What shares the NAT traversal port: IKE, ESP and keepalives (RFC 3948 2, RFC 7296 2.23).

use crate::{DecodeError, Reason};

/// Stands before an IKE message, where an ESP packet has its SPI.
pub const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// All of a NAT keepalive (RFC 3948 2.3).
pub const KEEPALIVE: [u8; 1] = [0xff];

/// A datagram received on the NAT traversal port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram4500<'a> {
    /// An IKE message, without the marker.
    Ike(&'a [u8]),
    /// An ESP packet.
    Esp(&'a [u8]),
    /// To be ignored.
    Keepalive,
}

/// Tells what a datagram received on the NAT traversal port is.
///
/// # Errors
/// [`Reason::Truncated`] if it is shorter than a marker or an SPI, and no keepalive.
pub fn classify(datagram: &[u8]) -> Result<Datagram4500<'_>, DecodeError> {
    if datagram == KEEPALIVE {
        return Ok(Datagram4500::Keepalive);
    }
    match datagram.split_first_chunk() {
        Some((&NON_ESP_MARKER, message)) => Ok(Datagram4500::Ike(message)),
        Some(_) => Ok(Datagram4500::Esp(datagram)),
        None => {
            let reason = Reason::Truncated { needed: NON_ESP_MARKER.len(), left: datagram.len() };
            Err(DecodeError::new("UDP-encapsulated datagram", reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3948_figures() {
        // RFC 3948 2.1 to 2.3.
        assert_eq!(classify(&[1, 2, 3, 4, 0, 0, 0, 5]), Ok(Datagram4500::Esp(&[1, 2, 3, 4, 0, 0, 0, 5])));
        assert_eq!(classify(&[0, 0, 0, 0, 0xc0, 0xc1]), Ok(Datagram4500::Ike(&[0xc0, 0xc1])));
        assert_eq!(classify(&[0xff]), Ok(Datagram4500::Keepalive));
    }

    #[test]
    fn runts() {
        assert_eq!(classify(&[0, 0, 0, 0]), Ok(Datagram4500::Ike(&[])));
        assert_eq!(classify(&[0xff, 0xff, 0xff, 0xff]), Ok(Datagram4500::Esp(&[0xff; 4])));
        for runt in [[].as_slice(), &[0], &[0xff, 0xff], &[0, 0, 0]] {
            let why = format!("UDP-encapsulated datagram: 4 octets needed, {} left", runt.len());
            assert_eq!(classify(runt).unwrap_err().to_string(), why);
        }
    }
}
