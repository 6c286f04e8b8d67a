//! The Traffic Selector payloads TSi and TSr (RFC 7296 3.13) and what selectors mean.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::TsType;
use crate::DecodeError;
use crate::cursor::{Reader, Writer};

const CONTEXT: &str = "TS payload";

/// The traffic of one side of a Child SA: any packet that one of the selectors matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficSelectors {
    /// Selectors of addresses. At most 255 with the unknown ones.
    pub selectors: Vec<TrafficSelector>,
    /// Selectors of a kind that is not addresses, or of an empty range; ignored but counted (RFC 7296 2.9).
    pub unknown: Vec<UnknownSelector>,
}

impl TrafficSelectors {
    /// Selectors to send.
    #[must_use]
    pub const fn new(selectors: Vec<TrafficSelector>) -> Self {
        Self { selectors, unknown: Vec::new() }
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body, CONTEXT);
        let count = reader.u8()?;
        reader.take(3)?; // RESERVED
        let mut selectors = Self::new(Vec::new());
        for index in 1..=usize::from(count) {
            selectors.decode_selector(&mut reader).map_err(|e| e.in_item("selector", index))?;
        }
        reader.finish()?;
        Ok(selectors)
    }

    fn decode_selector(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        const FIXED_LEN: usize = 4;
        let ts_type = TsType(reader.u8()?);
        let protocol = reader.u8()?;
        let length = usize::from(reader.u16()?);
        let mut reader = reader.framed(length, FIXED_LEN, FIXED_LEN, CONTEXT)?;
        let body = reader.rest();
        let unknown = UnknownSelector { ts_type, second_octet: protocol, body: body.to_vec() };
        if ts_type != TsType::IPV4_ADDR_RANGE && ts_type != TsType::IPV6_ADDR_RANGE {
            self.unknown.push(unknown);
            return Ok(());
        }
        let mut reader = Reader::new(body, CONTEXT);
        let start_port = reader.u16()?;
        let end_port = reader.u16()?;
        let (start, end): (IpAddr, IpAddr) = if ts_type == TsType::IPV4_ADDR_RANGE {
            (Ipv4Addr::from(reader.array()?).into(), Ipv4Addr::from(reader.array()?).into())
        } else {
            (Ipv6Addr::from(reader.array()?).into(), Ipv6Addr::from(reader.array()?).into())
        };
        reader.finish()?;
        let selector = TrafficSelector { protocol, start_port, end_port, start, end };
        // A range that is empty is bad content and no malformed message (RFC 7296 2.21.2): it selects nothing, and what
        // else was sent still counts.
        if start > end || (start_port > end_port && !selector.is_opaque()) {
            self.unknown.push(unknown);
        } else {
            self.selectors.push(selector);
        }
        Ok(())
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u8(u8::try_from(self.selectors.len() + self.unknown.len()).unwrap_or(u8::MAX));
        writer.zeros(3);
        for selector in &self.selectors {
            selector.encode(writer);
        }
        for selector in &self.unknown {
            let start = writer.len();
            writer.u8(selector.ts_type.0);
            writer.u8(selector.second_octet);
            let length = writer.len_u16(start);
            writer.bytes(&selector.body);
            writer.end_len(length);
        }
    }
}

/// A selector that matches nothing we know: of a kind that is not addresses, such as a security label (RFC 9478), or
/// of a range whose start lies above its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownSelector {
    /// Its kind.
    pub ts_type: TsType,
    /// The octet after the kind: the IP protocol in selectors of addresses, reserved in a security label.
    pub second_octet: u8,
    /// What follows its length.
    pub body: Vec<u8>,
}

/// A range of addresses, an IP protocol and a range of ports (RFC 7296 3.13.1, RFC 4301 4.4.1.1).
///
/// For ICMP and ICMPv6 a "port" is `type << 8 | code`, for the IPv6 mobility header `type << 8`.
/// Start port 65535 with end port 0 is OPAQUE: only packets whose ports cannot be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrafficSelector {
    /// IP protocol, 0 for any.
    pub protocol: u8,
    /// First port.
    pub start_port: u16,
    /// Last port.
    pub end_port: u16,
    /// First address.
    pub start: IpAddr,
    /// Last address, of the same family.
    pub end: IpAddr,
}

impl TrafficSelector {
    /// Everything in IPv4.
    #[must_use]
    pub fn any_v4() -> Self {
        Self::range(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into())
    }

    /// Everything in IPv6.
    #[must_use]
    pub fn any_v6() -> Self {
        Self::range(Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from_bits(u128::MAX).into())
    }

    /// All traffic of a prefix. Host bits of `address` are ignored; a prefix longer than the address counts as
    /// the whole address.
    #[must_use]
    pub fn subnet(address: IpAddr, prefix: u8) -> Self {
        match address {
            IpAddr::V4(address) => {
                let host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
                let bits = address.to_bits();
                Self::range(Ipv4Addr::from_bits(bits & !host).into(), Ipv4Addr::from_bits(bits | host).into())
            }
            IpAddr::V6(address) => {
                let host = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
                let bits = address.to_bits();
                Self::range(Ipv6Addr::from_bits(bits & !host).into(), Ipv6Addr::from_bits(bits | host).into())
            }
        }
    }

    /// All traffic of the addresses from `start` to `end`, which are of one family and in order.
    #[must_use]
    pub const fn range(start: IpAddr, end: IpAddr) -> Self {
        Self { protocol: 0, start_port: 0, end_port: u16::MAX, start, end }
    }

    /// Every port, seen or not?
    #[must_use]
    pub const fn is_any_port(&self) -> bool {
        self.start_port == 0 && self.end_port == u16::MAX
    }

    /// Only packets whose ports cannot be seen (RFC 4301 4.4.1.1)?
    #[must_use]
    pub const fn is_opaque(&self) -> bool {
        self.start_port == u16::MAX && self.end_port == 0
    }

    /// The traffic that both select, if any.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        if self.start.is_ipv4() != other.start.is_ipv4() {
            return None;
        }
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        let protocol = match (self.protocol, other.protocol) {
            (0, protocol) | (protocol, 0) => protocol,
            (ours, theirs) if ours == theirs => ours,
            _ => return None,
        };
        // ANY includes OPAQUE, no other range does (RFC 7296 3.13.1).
        let (start_port, end_port) = if self.is_any_port() {
            (other.start_port, other.end_port)
        } else if other.is_any_port() || (self.is_opaque() && other.is_opaque()) {
            (self.start_port, self.end_port)
        } else if self.is_opaque() || other.is_opaque() {
            return None;
        } else {
            let (start, end) = (self.start_port.max(other.start_port), self.end_port.min(other.end_port));
            if start > end {
                return None;
            }
            (start, end)
        };
        (start <= end).then_some(Self { protocol, start_port, end_port, start, end })
    }

    /// Does this select all that `other` selects?
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.intersection(other).as_ref() == Some(other)
    }

    /// Does this select a packet with this address on its side? `port` is `None` where it cannot be seen or the
    /// protocol has none.
    #[must_use]
    pub fn matches(&self, address: IpAddr, protocol: u8, port: Option<u16>) -> bool {
        self.start.is_ipv4() == address.is_ipv4()
            && (self.start..=self.end).contains(&address)
            && (self.protocol == 0 || self.protocol == protocol)
            && match port {
                _ if self.is_any_port() => true,
                Some(port) => (self.start_port..=self.end_port).contains(&port),
                None => self.is_opaque(),
            }
    }

    /// The least number of prefixes that together are exactly the addresses from start to end, in order.
    ///
    /// At most 62 for IPv4 and 254 for IPv6; none if start is above end or of another family.
    #[must_use]
    pub fn prefixes(&self) -> Vec<(IpAddr, u8)> {
        match (self.start, self.end) {
            (IpAddr::V4(start), IpAddr::V4(end)) => {
                cover(start.to_bits().into(), end.to_bits().into(), 32)
                    // The cover of 32-bit numbers holds 32-bit numbers.
                    .filter_map(|(bits, len)| {
                        Some((Ipv4Addr::from_bits(u32::try_from(bits).ok()?).into(), len))
                    })
                    .collect()
            }
            (IpAddr::V6(start), IpAddr::V6(end)) => cover(start.to_bits(), end.to_bits(), 128)
                .map(|(bits, len)| (Ipv6Addr::from_bits(bits).into(), len))
                .collect(),
            _ => Vec::new(),
        }
    }

    fn encode(&self, writer: &mut Writer) {
        let start = writer.len();
        let (TsType(ts_type), addresses) = match (self.start, self.end) {
            (IpAddr::V4(start), IpAddr::V4(end)) => {
                (TsType::IPV4_ADDR_RANGE, [start.octets().as_slice(), &end.octets()].concat())
            }
            (start, end) => (TsType::IPV6_ADDR_RANGE, [v6(start).octets(), v6(end).octets()].concat()),
        };
        writer.u8(ts_type);
        writer.u8(self.protocol);
        let length = writer.len_u16(start);
        writer.u16(self.start_port);
        writer.u16(self.end_port);
        writer.bytes(&addresses);
        writer.end_len(length);
    }
}

/// `10.1.0.0/16`, `10.0.0.1..10.0.0.9`, `10.0.0.1/32[tcp/22]`, `0.0.0.0/0[icmp/8(0)]`, `::/0[udp/OPAQUE]`
impl fmt::Display for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefixes().as_slice() {
            [(address, len)] => write!(f, "{address}/{len}")?,
            _ => write!(f, "{}..{}", self.start, self.end)?,
        }
        if self.protocol == 0 && self.is_any_port() {
            return Ok(());
        }
        f.write_str("[")?;
        match protocol_name(self.protocol) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "{}", self.protocol)?,
        }
        if self.is_opaque() {
            f.write_str("/OPAQUE")?;
        } else if !self.is_any_port() {
            match self.protocol {
                crate::ip::PROTOCOL_ICMP | crate::ip::PROTOCOL_ICMPV6 => self.fmt_icmp(f)?,
                _ if self.start_port == self.end_port => write!(f, "/{}", self.start_port)?,
                _ => write!(f, "/{}-{}", self.start_port, self.end_port)?,
            }
        }
        f.write_str("]")
    }
}

impl TrafficSelector {
    fn fmt_icmp(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first_type, first_code] = self.start_port.to_be_bytes();
        let [last_type, last_code] = self.end_port.to_be_bytes();
        write!(f, "/{first_type}")?;
        let every_code = first_code == 0 && last_code == u8::MAX;
        if !every_code {
            write!(f, "({first_code})")?;
        }
        if first_type != last_type || (!every_code && first_code != last_code) {
            write!(f, "-{last_type}")?;
            if !every_code {
                write!(f, "({last_code})")?;
            }
        }
        Ok(())
    }
}

fn protocol_name(protocol: u8) -> Option<&'static str> {
    Some(match protocol {
        1 => "icmp",
        2 => "igmp",
        4 => "ipencap",
        6 => "tcp",
        17 => "udp",
        33 => "dccp",
        41 => "ipv6",
        47 => "gre",
        50 => "esp",
        51 => "ah",
        58 => "ipv6-icmp",
        89 => "ospf",
        103 => "pim",
        112 => "vrrp",
        115 => "l2tp",
        132 => "sctp",
        135 => "mobility-header",
        136 => "udplite",
        _ => return None,
    })
}

/// A selector of mixed families has no encoding; the IPv4 half goes out mapped, which no peer accepts.
const fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// The prefixes `(first address, prefix length)` of `start..=end` among numbers of `width` bits.
fn cover(start: u128, end: u128, width: u32) -> impl Iterator<Item = (u128, u8)> {
    let mut next = (start <= end).then_some(start);
    std::iter::from_fn(move || {
        let start = next?;
        // The largest block that starts here: aligned, and not beyond the end.
        let mut host_bits = start.trailing_zeros().min(width);
        while host_mask(host_bits) > end - start {
            host_bits -= 1;
        }
        let last = start + host_mask(host_bits);
        next = (last < end).then(|| last + 1);
        u8::try_from(width - host_bits).ok().map(|len| (start, len))
    })
}

fn host_mask(host_bits: u32) -> u128 {
    // host_bits is at most 128, which shifts everything in.
    u128::MAX.checked_shr(128 - host_bits).unwrap_or(0)
}
