//! ICMP and ICMPv6 messages that a gateway sends or a demonstration needs (RFC 792, RFC 4443).
//!
//! Builds and reads; whether and how often to send one is for others.

use std::net::IpAddr;

use crate::DecodeError;
use crate::cursor::{Reader, Writer};
use crate::ip::{self, Flow, PROTOCOL_ICMP, PROTOCOL_ICMPV6};

const V4_ECHO_REPLY: u8 = 0;
const V4_DESTINATION_UNREACHABLE: u8 = 3;
const V4_ECHO_REQUEST: u8 = 8;
const V6_DESTINATION_UNREACHABLE: u8 = 1;
const V6_PACKET_TOO_BIG: u8 = 2;
const V6_ECHO_REQUEST: u8 = 128;
const V6_ECHO_REPLY: u8 = 129;
const V4_FRAGMENTATION_NEEDED: u8 = 4;

/// An echo request or reply, the same in both families but for its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Echo {
    /// A request, not a reply.
    pub request: bool,
    /// Tells senders apart.
    pub identifier: u16,
    /// Tells the requests of one sender apart.
    pub sequence: u16,
    /// Comes back in the reply.
    pub data: Vec<u8>,
}

impl Echo {
    /// Decodes the message after an IP header with ICMP ([`PROTOCOL_ICMP`] or [`PROTOCOL_ICMPV6`]). `None` if it
    /// is another ICMP message. The checksum is not looked at.
    ///
    /// # Errors
    /// [`crate::Reason::Truncated`] if the message is incomplete.
    pub fn decode(protocol: u8, message: &[u8]) -> Result<Option<Self>, DecodeError> {
        let mut reader = Reader::new(message, "ICMP message");
        let icmp_type = reader.u8()?;
        let request = match (protocol, icmp_type) {
            (PROTOCOL_ICMP, V4_ECHO_REQUEST) | (PROTOCOL_ICMPV6, V6_ECHO_REQUEST) => true,
            (PROTOCOL_ICMP, V4_ECHO_REPLY) | (PROTOCOL_ICMPV6, V6_ECHO_REPLY) => false,
            _ => return Ok(None),
        };
        reader.take(3)?; // code and checksum
        Ok(Some(Self {
            request,
            identifier: reader.u16()?,
            sequence: reader.u16()?,
            data: reader.rest().to_vec(),
        }))
    }

    /// The whole IP packet. `None` if the addresses are of two families or the packet would be too long.
    #[must_use]
    pub fn packet(&self, source: IpAddr, destination: IpAddr, ttl: u8) -> Option<Vec<u8>> {
        let icmp_type = match (source.is_ipv4(), self.request) {
            (true, true) => V4_ECHO_REQUEST,
            (true, false) => V4_ECHO_REPLY,
            (false, true) => V6_ECHO_REQUEST,
            (false, false) => V6_ECHO_REPLY,
        };
        let rest = (u32::from(self.identifier) << 16) | u32::from(self.sequence);
        packet(source, destination, ttl, icmp_type, 0, rest, &self.data)
    }
}

/// Tells the sender of `original` that it was too long: fragmentation needed (RFC 1191 4) or packet too big
/// (RFC 4443 3.2). Returns the whole IP packet from `from` to the sender of `original`.
///
/// `None` if no error may be sent about such a packet (RFC 1122 3.2.2, RFC 4443 2.4), it cannot be read, or
/// `from` is of the other family.
#[must_use]
pub fn packet_too_big(original: &[u8], from: IpAddr, mtu: u32) -> Option<Vec<u8>> {
    if from.is_ipv4() {
        // RFC 1191 4: 16 bits, in the low half.
        let mtu = u32::from(u16::try_from(mtu).unwrap_or(u16::MAX));
        error(original, from, V4_DESTINATION_UNREACHABLE, V4_FRAGMENTATION_NEEDED, mtu)
    } else {
        error(original, from, V6_PACKET_TOO_BIG, 0, mtu)
    }
}

/// Why a destination is unreachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// No route to it.
    Network,
    /// It does not answer.
    Host,
    /// Policy forbids it.
    Prohibited,
}

/// Tells the sender of `original` that its destination is unreachable (RFC 792, RFC 1812 5.2.7.1, RFC 4443 3.1).
/// Returns the whole IP packet from `from` to the sender of `original`.
///
/// `None` as for [`packet_too_big`].
#[must_use]
pub fn destination_unreachable(original: &[u8], from: IpAddr, why: Unreachable) -> Option<Vec<u8>> {
    let (icmp_type, code) = match (from.is_ipv4(), why) {
        (true, Unreachable::Network) => (V4_DESTINATION_UNREACHABLE, 0),
        (true, Unreachable::Host) => (V4_DESTINATION_UNREACHABLE, 1),
        (true, Unreachable::Prohibited) => (V4_DESTINATION_UNREACHABLE, 13),
        (false, Unreachable::Network) => (V6_DESTINATION_UNREACHABLE, 0),
        (false, Unreachable::Host) => (V6_DESTINATION_UNREACHABLE, 3),
        (false, Unreachable::Prohibited) => (V6_DESTINATION_UNREACHABLE, 1),
    };
    error(original, from, icmp_type, code, 0)
}

fn error(original: &[u8], from: IpAddr, icmp_type: u8, code: u8, rest: u32) -> Option<Vec<u8>> {
    let flow = ip::flow(original).ok()?;
    if !may_answer(&flow, icmp_type) {
        return None;
    }
    // As much of the packet as fits: 576 octets in IPv4 (RFC 1812 4.3.2.3), the minimum MTU in IPv6 (RFC 4443 2.4).
    let most = if from.is_ipv4() { 576 - 20 - 8 } else { 1280 - 40 - 8 };
    let quoted = original.get(..flow.total_len.min(most))?;
    packet(from, flow.source, 64, icmp_type, code, rest, quoted)
}

/// RFC 1122 3.2.2 and RFC 4443 2.4 (e): no error about an error, about a fragment that is not the first, to or
/// about more than one host.
fn may_answer(flow: &Flow, icmp_type: u8) -> bool {
    let about_error = match (flow.protocol, flow.source_port.map(u16::to_be_bytes)) {
        (PROTOCOL_ICMP, Some([icmp_type, _])) => matches!(icmp_type, 3 | 4 | 5 | 11 | 12),
        // Errors, and redirects.
        (PROTOCOL_ICMPV6, Some([icmp_type, _])) => icmp_type < 128 || icmp_type == 137,
        (PROTOCOL_ICMP | PROTOCOL_ICMPV6, None) => true,
        _ => false,
    };
    let one_sender = match flow.source {
        IpAddr::V4(source) => {
            !(source.is_unspecified()
                || source.is_broadcast()
                || source.is_multicast()
                || source.is_loopback())
        }
        IpAddr::V6(source) => !(source.is_unspecified() || source.is_multicast() || source.is_loopback()),
    };
    let one_receiver = match flow.destination {
        IpAddr::V4(destination) => !(destination.is_broadcast() || destination.is_multicast()),
        // Path MTU discovery works for multicast, too (RFC 4443 2.4 (e.3)).
        IpAddr::V6(destination) => icmp_type == V6_PACKET_TOO_BIG || !destination.is_multicast(),
    };
    !about_error && !flow.fragment && one_sender && one_receiver
}

/// `rest` is the second word of the message.
fn packet(
    source: IpAddr,
    destination: IpAddr,
    ttl: u8,
    icmp_type: u8,
    code: u8,
    rest: u32,
    data: &[u8],
) -> Option<Vec<u8>> {
    let mut writer = Writer::new();
    writer.u8(icmp_type);
    writer.u8(code);
    let checksum_at = writer.len();
    writer.u16(0);
    writer.u32(rest);
    writer.bytes(data);
    let mut message = writer.into_vec();
    let (protocol, checksum) = if source.is_ipv4() {
        (PROTOCOL_ICMP, ip::checksum(&[&message]))
    } else {
        (PROTOCOL_ICMPV6, ip::transport_checksum(source, destination, PROTOCOL_ICMPV6, &message))
    };
    message.splice(checksum_at..checksum_at + 2, checksum.to_be_bytes());
    ip::packet(source, destination, protocol, ttl, &message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::{Ipv4Header, PROTOCOL_UDP, checksum, transport_checksum};

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn echo_request_is_what_rfc7634_carries() {
        // The ICMP message of the packet in RFC 7634 appendix A.
        let data: Vec<u8> = hex::decode(
            "553bec100007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20\
                                         2122232425262728292a2b2c2d2e2f3031323334353637",
        )
        .unwrap();
        let echo = Echo { request: true, identifier: 0x3a08, sequence: 0, data };
        let packet = echo.packet(address("198.51.100.5"), address("192.0.2.5"), 64).unwrap();
        assert_eq!(packet[20..28], [0x08, 0x00, 0x5b, 0x7a, 0x3a, 0x08, 0x00, 0x00]);
        assert_eq!(packet.len(), 84);
        assert_eq!(Echo::decode(1, &packet[20..]).unwrap(), Some(echo));
    }

    #[test]
    fn echo_in_ipv6_has_a_pseudo_header() {
        let echo = Echo { request: false, identifier: 1, sequence: 2, data: b"adit".to_vec() };
        let (source, destination) = (address("2001:db8::1"), address("2001:db8::2"));
        let packet = echo.packet(source, destination, 64).unwrap();
        assert_eq!(packet[40], 129);
        assert_eq!(transport_checksum(source, destination, 58, &packet[40..]), 0);
        assert_eq!(Echo::decode(58, &packet[40..]).unwrap(), Some(echo));
        assert_eq!(Echo::decode(1, &packet[40..]).unwrap(), None);
    }

    #[test]
    fn fragmentation_needed() {
        let original =
            ip::packet(address("10.1.0.1"), address("10.2.0.1"), PROTOCOL_UDP, 64, &[7; 1480]).unwrap();
        let packet = packet_too_big(&original, address("10.1.0.254"), 1400).unwrap();
        let header = Ipv4Header::decode(&packet).unwrap();
        assert_eq!((header.protocol, header.total_len), (1, 576));
        assert_eq!(IpAddr::V4(header.destination), address("10.1.0.1"));
        assert_eq!(packet[20..22], [3, 4]);
        assert_eq!(packet[24..28], [0, 0, 0x05, 0x78]);
        assert_eq!(packet[28..], original[..548]);
        assert_eq!(checksum(&[&packet[20..]]), 0);
    }

    #[test]
    fn packet_too_big_in_ipv6() {
        let (source, destination) = (address("2001:db8:1::1"), address("2001:db8:2::1"));
        let original = ip::packet(source, destination, PROTOCOL_UDP, 64, &[7; 1460]).unwrap();
        let packet = packet_too_big(&original, address("2001:db8:1::fe"), 1400).unwrap();
        assert_eq!(packet.len(), 1280);
        assert_eq!(packet[40..42], [2, 0]);
        assert_eq!(packet[44..48], [0, 0, 0x05, 0x78]);
        assert_eq!(packet[48..], original[..1232]);
        assert_eq!(transport_checksum(address("2001:db8:1::fe"), source, 58, &packet[40..]), 0);
    }

    #[test]
    fn unreachable_codes() {
        for (from, to, why, start) in [
            ("10.1.0.1", "10.2.0.1", Unreachable::Network, [3, 0]),
            ("10.1.0.1", "10.2.0.1", Unreachable::Host, [3, 1]),
            ("10.1.0.1", "10.2.0.1", Unreachable::Prohibited, [3, 13]),
            ("2001:db8::1", "2001:db8::2", Unreachable::Network, [1, 0]),
            ("2001:db8::1", "2001:db8::2", Unreachable::Host, [1, 3]),
            ("2001:db8::1", "2001:db8::2", Unreachable::Prohibited, [1, 1]),
        ] {
            let original = ip::packet(address(from), address(to), PROTOCOL_UDP, 64, &[0; 8]).unwrap();
            let packet = destination_unreachable(&original, address(to), why).unwrap();
            let icmp_at = packet.len() - original.len() - 8;
            assert_eq!(packet[icmp_at..icmp_at + 2], start);
            assert_eq!(packet[icmp_at + 8..], original);
        }
    }

    #[test]
    fn no_error_about_what_must_not_be_answered() {
        let too_big = |source: &str, destination: &str, protocol, payload: &[u8]| {
            let original = ip::packet(address(source), address(destination), protocol, 64, payload).unwrap();
            let from = if address(source).is_ipv4() { "192.0.2.1" } else { "2001:db8::99" };
            packet_too_big(&original, address(from), 1280).is_some()
        };
        assert!(too_big("10.1.0.1", "10.2.0.1", 1, &[8, 0, 0, 0, 0, 0, 0, 0]));
        assert!(!too_big("10.1.0.1", "10.2.0.1", 1, &[3, 4, 0, 0, 0, 0, 0, 0]));
        assert!(!too_big("10.1.0.1", "10.2.0.1", 1, &[]));
        assert!(!too_big("10.1.0.1", "224.0.0.5", 17, &[0; 8]));
        assert!(!too_big("255.255.255.255", "10.2.0.1", 17, &[0; 8]));
        assert!(!too_big("0.0.0.0", "10.2.0.1", 17, &[0; 8]));
        assert!(too_big("2001:db8::1", "2001:db8::2", 58, &[128, 0, 0, 0]));
        assert!(!too_big("2001:db8::1", "2001:db8::2", 58, &[2, 0, 0, 0]));
        assert!(!too_big("2001:db8::1", "2001:db8::2", 58, &[137, 0, 0, 0]));
        assert!(too_big("2001:db8::1", "ff0e::1", 17, &[0; 8]));
        assert!(!too_big("::", "2001:db8::2", 17, &[0; 8]));
        // A fragment that is not the first.
        let mut later = ip::packet(address("10.1.0.1"), address("10.2.0.1"), 17, 64, &[0; 8]).unwrap();
        later[7] = 1;
        assert_eq!(packet_too_big(&later, address("192.0.2.1"), 1280), None);
        // Families do not mix.
        let v4 = ip::packet(address("10.1.0.1"), address("10.2.0.1"), 17, 64, &[0; 8]).unwrap();
        assert_eq!(packet_too_big(&v4, address("2001:db8::1"), 1280), None);
    }
}
