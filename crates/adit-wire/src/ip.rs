//! IPv4 and IPv6 headers, and the [`Flow`] a packet belongs to.
//!
//! Reads what selectors, tunnels and error messages need, and builds headers without options. Never rewrites a
//! packet in place and never reassembles fragments.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cursor::{Reader, Writer};
use crate::{DecodeError, Reason};

/// ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// DCCP.
pub const PROTOCOL_DCCP: u8 = 33;
/// ESP.
pub const PROTOCOL_ESP: u8 = 50;
/// ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;
/// SCTP.
pub const PROTOCOL_SCTP: u8 = 132;
/// IPv6 mobility header.
pub const PROTOCOL_MOBILITY: u8 = 135;
/// UDP-Lite.
pub const PROTOCOL_UDPLITE: u8 = 136;

/// What selectors look at in a packet (RFC 4301 4.4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The protocol after the IPv6 extension headers. AH and ESP count as such a protocol.
    pub protocol: u8,
    /// Source port, `type << 8 | code` of ICMP, `type << 8` of a mobility header; `None` if it cannot be seen or
    /// the protocol has none.
    pub source_port: Option<u16>,
    /// Destination port; `None` if it cannot be seen or the protocol has none.
    pub destination_port: Option<u16>,
    /// A fragment that is not the first: it has no ports.
    pub fragment: bool,
    /// Length of the packet by its own header, not above that of the slice it was read from.
    pub total_len: usize,
}

impl Flow {
    /// The flow of a packet from the first address to the second, whose `payload` of `protocol` has no IPv6 extension
    /// headers in front of it.
    #[must_use]
    pub fn new(
        (source, destination): (IpAddr, IpAddr),
        protocol: u8,
        fragment: bool,
        payload: &[u8],
        total_len: usize,
    ) -> Self {
        let (source_port, destination_port) = ports(protocol, fragment, payload);
        Self { source, destination, protocol, source_port, destination_port, fragment, total_len }
    }
}

/// Reads the flow of an IPv4 or IPv6 packet. Octets after the packet's end are ignored.
///
/// # Errors
/// The packet is neither, its header is malformed or longer than what is there, or its extension headers are too
/// many or incomplete.
#[inline]
pub fn flow(packet: &[u8]) -> Result<Flow, DecodeError> {
    match packet.first().map(|octet| octet >> 4) {
        Some(4) => {
            let header = Ipv4Header::decode(packet)?;
            let payload = packet.get(header.header_len..header.total_len).unwrap_or_default();
            let addresses = (header.source.into(), header.destination.into());
            let fragment = header.fragment_offset > 0;
            Ok(Flow::new(addresses, header.protocol, fragment, payload, header.total_len))
        }
        Some(6) => {
            let header = Ipv6Header::decode(packet)?;
            let upper = header.upper_layer(packet)?;
            let total_len = header.total_len();
            let payload = packet.get(upper.offset..total_len).unwrap_or_default();
            let addresses = (header.source.into(), header.destination.into());
            let fragment = upper.fragment.is_some_and(|fragment| fragment.offset > 0);
            Ok(Flow::new(addresses, upper.protocol, fragment, payload, total_len))
        }
        Some(_) => Err(DecodeError::invalid("IP header", "version is neither 4 nor 6")),
        None => Err(DecodeError::new("IP header", Reason::Truncated { needed: 1, left: 0 })),
    }
}

/// The ports as selectors see them. A header too short to hold them is one whose ports cannot be seen.
#[inline]
fn ports(protocol: u8, fragment: bool, payload: &[u8]) -> (Option<u16>, Option<u16>) {
    if fragment {
        return (None, None);
    }
    let port_at =
        |at| payload.get(at..at + 2).and_then(|port| port.first_chunk()).copied().map(u16::from_be_bytes);
    match protocol {
        PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_DCCP | PROTOCOL_SCTP | PROTOCOL_UDPLITE => {
            (port_at(0), port_at(2))
        }
        // RFC 4301 4.4.1.1: type and code, which stand where a source port would.
        PROTOCOL_ICMP | PROTOCOL_ICMPV6 => (port_at(0), None),
        PROTOCOL_MOBILITY => (payload.get(2).map(|mh_type| u16::from(*mh_type) << 8), None),
        _ => (None, None),
    }
}

/// An IPv4 header (RFC 791). Options are counted, not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Header {
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Tells fragments of different packets apart.
    pub identification: u16,
    /// The packet must not be fragmented.
    pub dont_fragment: bool,
    /// Another fragment follows.
    pub more_fragments: bool,
    /// Where a fragment's payload stands in the whole, in octets: a multiple of 8.
    pub fragment_offset: u16,
    /// Time to live.
    pub ttl: u8,
    /// What follows.
    pub protocol: u8,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Octets of the header with its options.
    pub header_len: usize,
    /// Octets of the packet.
    pub total_len: usize,
}

impl Ipv4Header {
    /// Its length in octets without options.
    pub const LEN: usize = 20;
    const DONT_FRAGMENT: u16 = 0x4000;
    const MORE_FRAGMENTS: u16 = 0x2000;

    /// A header for a packet that is no fragment; nothing special is asked for it but `DF`.
    #[must_use]
    pub const fn new(
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: u8,
        ttl: u8,
        payload_len: usize,
    ) -> Self {
        Self {
            traffic_class: 0,
            identification: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl,
            protocol,
            source,
            destination,
            header_len: Self::LEN,
            total_len: Self::LEN + payload_len,
        }
    }

    /// Decodes the header at the start of a packet. The checksum is not looked at: the kernel did, or a tunnel's
    /// integrity check says more.
    ///
    /// # Errors
    /// It is not IPv4, or its lengths do not fit together or go beyond the slice.
    #[inline]
    pub fn decode(packet: &[u8]) -> Result<Self, DecodeError> {
        const CONTEXT: &str = "IPv4 header";
        let [
            version_and_len,
            traffic_class,
            len_high,
            len_low,
            id_high,
            id_low,
            offset_high,
            offset_low,
            ttl,
            protocol,
            _checksum_high,
            _checksum_low,
            addresses @ ..,
        ] = Reader::new(packet, CONTEXT).array::<{ Self::LEN }>()?;
        if version_and_len >> 4 != 4 {
            return Err(DecodeError::invalid(CONTEXT, "version is not 4"));
        }
        let header_len = usize::from(version_and_len & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([len_high, len_low]));
        let identification = u16::from_be_bytes([id_high, id_low]);
        let flags_and_offset = u16::from_be_bytes([offset_high, offset_low]);
        let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;
        let (source, destination) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3));
        let reason = if header_len < Self::LEN {
            Reason::LengthBelow { length: header_len, minimum: Self::LEN }
        } else if total_len < header_len {
            Reason::LengthBelow { length: total_len, minimum: header_len }
        } else if total_len > packet.len() {
            Reason::LengthBeyond { length: total_len, available: packet.len() }
        } else {
            return Ok(Self {
                traffic_class,
                identification,
                dont_fragment: flags_and_offset & Self::DONT_FRAGMENT != 0,
                more_fragments: flags_and_offset & Self::MORE_FRAGMENTS != 0,
                fragment_offset: (flags_and_offset & 0x1fff) << 3,
                ttl,
                protocol,
                source,
                destination,
                header_len,
                total_len,
            });
        };
        Err(DecodeError::new(CONTEXT, reason))
    }

    /// The header without options and with its checksum; `header_len` is ignored. A total length above 65,535
    /// saturates.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let [len_high, len_low] = u16::try_from(self.total_len).unwrap_or(u16::MAX).to_be_bytes();
        let [id_high, id_low] = self.identification.to_be_bytes();
        let flags = if self.dont_fragment { Self::DONT_FRAGMENT } else { 0 }
            | if self.more_fragments { Self::MORE_FRAGMENTS } else { 0 };
        let [offset_high, offset_low] = (flags | (self.fragment_offset >> 3)).to_be_bytes();
        let [s1, s2, s3, s4] = self.source.octets();
        let [d1, d2, d3, d4] = self.destination.octets();
        let with_checksum = |[sum_high, sum_low]: [u8; 2]| {
            #[rustfmt::skip]
            let octets = [
                0x45, self.traffic_class, len_high, len_low,
                id_high, id_low, offset_high, offset_low,
                self.ttl, self.protocol, sum_high, sum_low,
                s1, s2, s3, s4,
                d1, d2, d3, d4,
            ];
            octets
        };
        with_checksum(checksum(&[&with_checksum([0, 0])]).to_be_bytes())
    }
}

/// An IPv6 header (RFC 8200 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Header {
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Octets after this header.
    pub payload_len: u16,
    /// What follows: an extension header or the upper layer.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
}

impl Ipv6Header {
    /// Its length in octets.
    pub const LEN: usize = 40;
    /// No packet on the Internet has more extension headers.
    const MAX_EXTENSION_HEADERS: usize = 8;

    /// Decodes the header at the start of a packet.
    ///
    /// # Errors
    /// It is not IPv6 or its payload goes beyond the slice.
    pub fn decode(packet: &[u8]) -> Result<Self, DecodeError> {
        const CONTEXT: &str = "IPv6 header";
        let mut reader = Reader::new(packet, CONTEXT);
        let word = reader.u32()?;
        if word >> 28 != 6 {
            return Err(DecodeError::invalid(CONTEXT, "version is not 6"));
        }
        let [version_and_class, class_and_label, ..] = word.to_be_bytes();
        let header = Self {
            traffic_class: (version_and_class << 4) | (class_and_label >> 4),
            flow_label: word & 0x000f_ffff,
            payload_len: reader.u16()?,
            next_header: reader.u8()?,
            hop_limit: reader.u8()?,
            source: Ipv6Addr::from(reader.array()?),
            destination: Ipv6Addr::from(reader.array()?),
        };
        if header.total_len() > packet.len() {
            return Err(DecodeError::new(
                CONTEXT,
                Reason::LengthBeyond { length: header.total_len(), available: packet.len() },
            ));
        }
        Ok(header)
    }

    /// Octets of the packet.
    #[must_use]
    pub fn total_len(&self) -> usize {
        Self::LEN + usize::from(self.payload_len)
    }

    /// Walks the extension headers of the packet this header was decoded from.
    ///
    /// Hop-by-hop options, routing, fragment and destination options are skipped; AH and ESP are where the walk
    /// ends, as selectors see them (RFC 4301 4.4.1.1). So does a fragment that is not the first.
    ///
    /// # Errors
    /// A header is incomplete, or there are more than eight.
    pub fn upper_layer(&self, packet: &[u8]) -> Result<UpperLayer, DecodeError> {
        const CONTEXT: &str = "IPv6 extension headers";
        let mut reader = Reader::new(packet, CONTEXT);
        let mut reader = reader.sub(self.total_len(), CONTEXT)?;
        reader.take(Self::LEN)?;
        let mut upper = UpperLayer { protocol: self.next_header, offset: Self::LEN, fragment: None };
        for _ in 0..Self::MAX_EXTENSION_HEADERS {
            match upper.protocol {
                0 | 43 | 60 => {
                    upper.protocol = reader.u8()?;
                    let more = usize::from(reader.u8()?) * 8;
                    reader.take(6 + more)?;
                }
                44 => {
                    upper.protocol = reader.u8()?;
                    reader.u8()?; // reserved
                    let offset_and_flag = reader.u16()?;
                    upper.fragment = Some(Ipv6Fragment {
                        offset: offset_and_flag & 0xfff8,
                        more: offset_and_flag & 1 != 0,
                        identification: reader.u32()?,
                    });
                }
                _ => return Ok(upper),
            }
            upper.offset = self.total_len() - reader.remaining();
            if upper.fragment.is_some_and(|fragment| fragment.offset > 0) {
                return Ok(upper);
            }
        }
        match upper.protocol {
            0 | 43 | 44 | 60 => Err(reader.error(Reason::TooMany { limit: Self::MAX_EXTENSION_HEADERS })),
            _ => Ok(upper),
        }
    }

    /// The header as it stands.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let word = 6 << 28 | u32::from(self.traffic_class) << 20 | (self.flow_label & 0x000f_ffff);
        let mut writer = Writer::new();
        writer.u32(word);
        writer.u16(self.payload_len);
        writer.u8(self.next_header);
        writer.u8(self.hop_limit);
        let mut octets = [0; Self::LEN];
        let (fixed, addresses) = octets.split_at_mut(8);
        let (source, destination) = addresses.split_at_mut(16);
        fixed.copy_from_slice(&writer.into_vec());
        source.copy_from_slice(&self.source.octets());
        destination.copy_from_slice(&self.destination.octets());
        octets
    }
}

/// Where the extension headers of an IPv6 packet end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpperLayer {
    /// What stands there. In a fragment that is not the first: what the fragment header says the whole packet
    /// goes on with.
    pub protocol: u8,
    /// Where it stands, in octets from the start of the packet.
    pub offset: usize,
    /// The fragment header, if there is one.
    pub fragment: Option<Ipv6Fragment>,
}

/// An IPv6 fragment header (RFC 8200 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Fragment {
    /// Where the fragment stands in the whole, in octets: a multiple of 8.
    pub offset: u16,
    /// Another fragment follows.
    pub more: bool,
    /// Tells fragments of different packets apart.
    pub identification: u32,
}

/// A whole packet without options or extension headers; in IPv4 it must not be fragmented.
///
/// `None` if the addresses are of two families or the packet would be longer than its length field can say.
#[must_use]
pub fn packet(source: IpAddr, destination: IpAddr, protocol: u8, ttl: u8, payload: &[u8]) -> Option<Vec<u8>> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = Ipv4Header::new(source, destination, protocol, ttl, payload.len());
            u16::try_from(header.total_len).ok()?;
            Some([&header.encode(), payload].concat())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: 0,
                payload_len: u16::try_from(payload.len()).ok()?,
                next_header: protocol,
                hop_limit: ttl,
                source,
                destination,
            };
            Some([&header.encode(), payload].concat())
        }
        _ => None,
    }
}

/// The Internet checksum over the concatenation of `parts` (RFC 1071).
///
/// Over data that holds its own right checksum the result is 0.
#[must_use]
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u64 = 0;
    let mut odd = false;
    for part in parts {
        for &octet in *part {
            sum += u64::from(octet) << if odd { 0 } else { 8 };
            odd = !odd;
        }
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The checksum of a TCP, UDP or ICMPv6 message with its pseudo-header (RFC 9293 3.1, RFC 768, RFC 8200 8.1).
///
/// The message's own checksum field must be zero to make one; with the right one in it, the result is 0.
#[must_use]
pub fn transport_checksum(source: IpAddr, destination: IpAddr, protocol: u8, message: &[u8]) -> u16 {
    // Both pseudo-headers hold the same numbers in other places, which the sum does not notice.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let address = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    checksum(&[&address(source), &address(destination), &length, &[0, protocol], message])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        hex::decode(hex.replace(|c: char| c.is_whitespace(), "")).unwrap()
    }

    /// The inner packet of RFC 7634 appendix A: an IPv4 ICMP echo request.
    const RFC7634_PACKET: &str = "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec100007362708090a0b0c0d0e0f1011\
         12131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637";

    #[test]
    fn rfc7634_inner_packet() {
        let packet = bytes(RFC7634_PACKET);
        assert_eq!(
            flow(&packet).unwrap(),
            Flow {
                source: "198.51.100.5".parse().unwrap(),
                destination: "192.0.2.5".parse().unwrap(),
                protocol: 1,
                source_port: Some(0x0800),
                destination_port: None,
                fragment: false,
                total_len: 84,
            }
        );
        // Its checksums are right, and ours of the same header is the same.
        assert_eq!(checksum(&[&packet[..20]]), 0);
        assert_eq!(checksum(&[&packet[20..]]), 0);
        assert_eq!(Ipv4Header::decode(&packet).unwrap().encode(), packet[..20]);
    }

    #[test]
    fn rfc1071_sum() {
        // RFC 1071 section 3: the sum of these is ddf2.
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        assert_eq!(checksum(&[&[0x00], &[0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        assert_eq!(checksum(&[&[0x12]]), !0x1200);
        assert_eq!(checksum(&[]), 0xffff);
    }

    #[test]
    fn ipv4_tcp_with_options_and_padding_after_the_packet() {
        let mut packet =
            bytes("46000020 00014000 4006 0000 0a010001 0a020002 01010101 d431 0016 00000001 ffff");
        let found = flow(&packet).unwrap();
        assert_eq!((found.source_port, found.destination_port), (Some(54321), Some(22)));
        assert_eq!(found.total_len, 32);
        // TFC padding after the packet changes nothing; one octet too few is an error.
        packet.extend([0; 100]);
        assert_eq!(flow(&packet).unwrap(), found);
        assert_eq!(
            flow(&packet[..31]).unwrap_err().to_string(),
            "IPv4 header: length 32 beyond the 31 available"
        );
    }

    #[test]
    fn ipv4_fragments() {
        // First fragment: ports are there. Later ones: they are not, whatever the octets look like.
        let first = bytes("4500001c 1234 2000 40 11 0000 0a010001 0a020002 1388 0035 0010 0000");
        let found = flow(&first).unwrap();
        assert_eq!(
            (found.source_port, found.destination_port, found.fragment),
            (Some(5000), Some(53), false)
        );
        assert!(Ipv4Header::decode(&first).unwrap().more_fragments);
        let second = bytes("4500001c 1234 00b9 40 11 0000 0a010001 0a020002 1388 0035 0010 0000");
        let found = flow(&second).unwrap();
        assert_eq!((found.source_port, found.destination_port, found.fragment), (None, None, true));
        assert_eq!(Ipv4Header::decode(&second).unwrap().fragment_offset, 1480);
    }

    #[test]
    fn ipv4_lies() {
        for (packet, error) in [
            ("", "IP header: 1 octets needed, 0 left"),
            ("55", "IP header: version is neither 4 nor 6"),
            ("45000014", "IPv4 header: 20 octets needed, 4 left"),
            ("44000014 00000000 40060000 0a010001 0a020002", "IPv4 header: length 16 below 20"),
            ("45000013 00000000 40060000 0a010001 0a020002", "IPv4 header: length 19 below 20"),
            ("46000014 00000000 40060000 0a010001 0a020002", "IPv4 header: length 20 below 24"),
        ] {
            assert_eq!(flow(&bytes(packet)).unwrap_err().to_string(), error);
        }
        // No room for ports: they cannot be seen.
        let short = bytes("45000017 00000000 40060000 0a010001 0a020002 123456");
        assert_eq!(
            (flow(&short).unwrap().source_port, flow(&short).unwrap().destination_port),
            (Some(0x1234), None)
        );
    }

    const V6_ADDRESSES: &str = "20010db8000000000000000000000001 20010db8000000000000000000000002";

    #[test]
    fn ipv6_extension_headers() {
        // Hop-by-hop (8), destination options (16), routing (8), then UDP.
        let chain = "3c00 050200000100 2b01 0104 00000000 0104 00000000 0000 1100 0000 00000000";
        let udp = "0035 1388 0008 0000";
        let packet = bytes(&format!("6ab12345 0028 00 40 {V6_ADDRESSES} {chain} {udp}"));
        let header = Ipv6Header::decode(&packet).unwrap();
        assert_eq!((header.traffic_class, header.flow_label, header.hop_limit), (0xab, 0x12345, 64));
        assert_eq!(header.encode(), packet[..40]);
        assert_eq!(
            header.upper_layer(&packet).unwrap(),
            UpperLayer { protocol: 17, offset: 72, fragment: None }
        );
        let found = flow(&packet).unwrap();
        assert_eq!((found.source_port, found.destination_port, found.total_len), (Some(53), Some(5000), 80));
        // Every truncation that its own length admits to leaves an incomplete chain or unseen ports.
        for payload_len in 0..40u8 {
            let mut packet = packet.clone();
            packet[5] = payload_len;
            match payload_len {
                0..32 => assert_eq!(flow(&packet).unwrap_err().context(), "IPv6 extension headers"),
                _ => assert_eq!(flow(&packet).unwrap().destination_port.is_some(), payload_len >= 36),
            }
        }
    }

    #[test]
    fn ipv6_fragments() {
        let first =
            bytes(&format!("60000000 0010 2c 40 {V6_ADDRESSES} 0600 0001 89abcdef 1388 0016 00000000"));
        let found = flow(&first).unwrap();
        assert_eq!((found.protocol, found.source_port, found.fragment), (6, Some(5000), false));
        // Not the first: protocol 60 here is only what the whole packet goes on with.
        let later =
            bytes(&format!("60000000 0010 2c 40 {V6_ADDRESSES} 3c00 0100 89abcdef ffff ffff ffffffff"));
        let found = flow(&later).unwrap();
        assert_eq!((found.protocol, found.source_port, found.fragment), (60, None, true));
        let upper = Ipv6Header::decode(&later).unwrap().upper_layer(&later).unwrap();
        assert_eq!(
            upper.fragment,
            Some(Ipv6Fragment { offset: 256, more: false, identification: 0x89ab_cdef })
        );
    }

    #[test]
    fn ipv6_chain_is_bounded() {
        let packet = |headers: usize| {
            let mut packet = bytes(&format!("60000000 0000 3c 40 {V6_ADDRESSES}"));
            for left in (0..headers).rev() {
                packet.extend([if left == 0 { 59 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
            }
            packet[5] = u8::try_from(headers * 8).unwrap();
            packet
        };
        assert_eq!(flow(&packet(8)).unwrap().protocol, 59);
        assert_eq!(flow(&packet(9)).unwrap_err().to_string(), "IPv6 extension headers: more than 8");
    }

    #[test]
    fn ah_and_esp_end_the_walk() {
        for protocol in [50, 51] {
            let packet = bytes(&format!("60000000 0008 {protocol:02x} 40 {V6_ADDRESSES} 3a04 0000 00001000"));
            assert_eq!(flow(&packet).unwrap().protocol, protocol);
        }
    }

    #[test]
    fn mobility_header_type_is_the_high_octet() {
        // RFC 4301 4.4.1.1: MH type 5 (binding update) is "port" 0500.
        let packet = bytes(&format!("60000000 0008 87 40 {V6_ADDRESSES} 3b00 0500 0000 0000"));
        assert_eq!(flow(&packet).unwrap().source_port, Some(0x0500));
    }

    #[test]
    fn built_packets_read_back() {
        for (source, destination) in [("10.1.0.1", "10.2.0.2"), ("2001:db8::1", "2001:db8::2")] {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            let packet = packet(source, destination, 17, 64, &[0x13, 0x88, 0, 53, 0, 8, 0, 0]).unwrap();
            let found = flow(&packet).unwrap();
            assert_eq!((found.source, found.destination, found.protocol), (source, destination, 17));
            assert_eq!((found.source_port, found.total_len), (Some(5000), packet.len()));
        }
        let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        assert_eq!(packet(v4, v6, 17, 64, &[]), None);
        assert!(packet(v4, v4, 17, 64, &[0; 65_515]).is_some());
        assert_eq!(packet(v4, v4, 17, 64, &[0; 65_516]), None);
        assert!(packet(v6, v6, 17, 64, &[0; 65_535]).is_some());
        assert_eq!(packet(v6, v6, 17, 64, &[0; 65_536]), None);
    }
}
