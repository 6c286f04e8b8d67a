//! Transport mode (RFC 4303 3.1.1): which part of a packet is protected, and the header that it gets back, which is the one
//! that it travelled behind.
//!
//! This module owns what may be carried without its header, and the checksums that a NAT spoils. It never chooses the mode,
//! and never writes an outer header.
//!
//! Whole packets with a plain header are carried. What has IPv4 options or IPv6 extension headers would have to keep them in
//! front of ESP, and fragments are not to be protected at all (RFC 4303 3.1.1): both are refused, in either direction.

use std::net::IpAddr;

use adit_wire::esp::{NEXT_HEADER_AGGFRAG, NEXT_HEADER_NONE};
use adit_wire::ikev2::TrafficSelector;
use adit_wire::ip::{
    Flow, Ipv4Header, Ipv6Header, PROTOCOL_DCCP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP,
    PROTOCOL_UDPLITE,
};

use crate::headers::updated;
use crate::{Drop, SealError};

/// What an ESP packet came behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterHeader {
    /// Source and destination.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// IPv4 TOS or IPv6 traffic class, as it arrived.
    pub traffic_class: u8,
    /// TTL or hop limit, as it arrived.
    pub hop_limit: u8,
}

impl OuterHeader {
    /// Nothing is known of it.
    pub const UNKNOWN: Self = Self { addresses: None, traffic_class: 0, hop_limit: 64 };
}

/// The header of a packet that came without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// IPv4, without options.
    V4([u8; Ipv4Header::LEN]),
    /// IPv6.
    V6([u8; Ipv6Header::LEN]),
}

impl Header {
    /// Its octets.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::V4(octets) => octets,
            Self::V6(octets) => octets,
        }
    }

    #[expect(clippy::len_without_is_empty, reason = "a header is never empty")]
    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }
}

/// TTL or hop limit of an IP packet that is to be sent: in transport mode its header goes outside.
#[must_use]
pub fn hop_limit(packet: &[u8]) -> Option<u8> {
    let place = if packet.first()? >> 4 == 4 { 8 } else { 7 };
    packet.get(place).copied().filter(|limit| *limit > 0)
}

/// Octets of the headers of packets that fit `selectors`, which are all of one address.
pub(crate) fn header_len(selectors: &[TrafficSelector]) -> usize {
    if selectors.iter().any(|ts| ts.start.is_ipv6()) { Ipv6Header::LEN } else { Ipv4Header::LEN }
}

/// Is it one of the IPv6 extension headers that [`Flow`] looks behind?
fn is_extension(next_header: u8) -> bool {
    matches!(next_header, 0 | 43 | 44 | 60)
}

/// Does it mean something else inside ESP than in front of it: a dummy (RFC 4303 2.6), or an IP-TFS payload (RFC 9347 6.1)?
fn is_taken(protocol: u8) -> bool {
    matches!(protocol, NEXT_HEADER_NONE | NEXT_HEADER_AGGFRAG)
}

/// What follows the header of the IP packet `inner`, and its protocol.
pub(crate) fn payload(inner: &[u8]) -> Result<(u8, &[u8]), SealError> {
    if let Ok(header) = Ipv4Header::decode(inner) {
        let plain =
            header.header_len == Ipv4Header::LEN && !header.more_fragments && header.fragment_offset == 0;
        let plain = plain && !is_taken(header.protocol);
        let payload = inner.get(Ipv4Header::LEN..header.total_len).filter(|_| plain);
        return payload.map(|payload| (header.protocol, payload)).ok_or(SealError::NotPlain);
    }
    let header = Ipv6Header::decode(inner).map_err(|_| SealError::NotIp)?;
    let plain = !is_extension(header.next_header) && !is_taken(header.next_header);
    let payload = inner.get(Ipv6Header::LEN..header.total_len()).filter(|_| plain);
    payload.map(|payload| (header.next_header, payload)).ok_or(SealError::NotPlain)
}

/// The header in front of `payload`, from the one that it came behind, and the packet's flow. Puts the checksum in order if
/// the packet went from and to other addresses when it was made, `original`.
pub(crate) fn rebuild(
    outer: &OuterHeader,
    original: Option<(IpAddr, IpAddr)>,
    protocol: u8,
    payload: &mut [u8],
) -> Result<(Header, Flow), Drop> {
    let (source, destination) = outer.addresses.ok_or(Drop::Selector)?;
    let length = u16::try_from(payload.len()).map_err(|_| Drop::InnerLength)?;
    let header = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = Ipv4Header::new(source, destination, protocol, outer.hop_limit, payload.len());
            u16::try_from(header.total_len).map_err(|_| Drop::InnerLength)?;
            Header::V4(Ipv4Header { traffic_class: outer.traffic_class, ..header }.encode())
        }
        (IpAddr::V6(_), IpAddr::V6(_)) if is_extension(protocol) => return Err(Drop::NextHeader),
        (IpAddr::V6(source), IpAddr::V6(destination)) => Header::V6(
            Ipv6Header {
                traffic_class: outer.traffic_class,
                flow_label: 0,
                payload_len: length,
                next_header: protocol,
                hop_limit: outer.hop_limit,
                source,
                destination,
            }
            .encode(),
        ),
        _ => return Err(Drop::Selector),
    };
    if let Some((from, to)) = original {
        for (was, is) in [(from, source), (to, destination)] {
            readdress(protocol, payload, was, is);
        }
    }
    let flow = Flow::new((source, destination), protocol, false, payload, header.len() + payload.len());
    Ok((header, flow))
}

/// Brings the checksum of `payload` from one address of its pseudo-header to another (RFC 3948 3.1.2).
fn readdress(protocol: u8, payload: &mut [u8], was: IpAddr, is: IpAddr) {
    let place = match protocol {
        PROTOCOL_TCP => 16,
        PROTOCOL_UDP | PROTOCOL_UDPLITE | PROTOCOL_DCCP => 6,
        PROTOCOL_ICMPV6 => 2,
        _ => return,
    };
    let Some(field) = payload.get_mut(place..).and_then(|rest| rest.first_chunk_mut()) else { return };
    let before = u16::from_be_bytes(*field);
    // RFC 768: its sender did without.
    if protocol == PROTOCOL_UDP && before == 0 {
        return;
    }
    let sum = words(was).zip(words(is)).fold(before, |sum, (old, new)| updated(sum, old, new));
    // RFC 768: one that comes to 0 is sent as its other form.
    let none = matches!(protocol, PROTOCOL_UDP | PROTOCOL_UDPLITE) && sum == 0;
    *field = if none { u16::MAX } else { sum }.to_be_bytes();
}

/// An address as checksums see it; what stands in front of an IPv4 address adds nothing to a sum.
fn words(address: IpAddr) -> impl Iterator<Item = u16> {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let (words, _) = octets.as_chunks();
    let words: [u16; 8] = std::array::from_fn(|i| words.get(i).copied().map_or(0, u16::from_be_bytes));
    words.into_iter()
}
