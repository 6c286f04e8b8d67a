//! What the model knows about packets, octet by octet and from the RFCs alone. It shares no code with the engine, nor with
//! what the engine reads packets with.

use std::net::IpAddr;

use crate::engine::offload::{Offload, Segmentation};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
const MOBILITY: u8 = 135;
const UDPLITE: u8 = 136;

pub(super) fn word(octets: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([octets[at], octets[at + 1]])
}

pub(super) fn put(octets: &mut [u8], at: usize, value: u16) {
    octets[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The one's complement sum of 16-bit words (RFC 1071 1), of parts that begin at even places.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut total = 0_u64;
    for part in parts {
        let words = part.chunks_exact(2);
        if let [last] = words.remainder() {
            total += u64::from(*last) << 8;
        }
        total += words.map(|word| u64::from(word[0]) << 8 | u64::from(word[1])).sum::<u64>();
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

pub(super) fn checksum(parts: &[&[u8]]) -> u16 {
    !sum(parts)
}

/// That of a message and its pseudo-header (RFC 9293 3.1, RFC 8200 8.1).
pub(super) fn pseudo_checksum(source: IpAddr, destination: IpAddr, protocol: u8, message: &[u8]) -> u16 {
    let length = (message.len() as u32).to_be_bytes();
    checksum(&[&octets_of(source), &octets_of(destination), &length, &[0, protocol], message])
}

/// A checksum after octets under it have changed (RFC 1624 3, equation 3).
fn adjusted(checksum: u16, before: &[u8], after: &[u8]) -> u16 {
    if before == after {
        return checksum;
    }
    let mut inverse: Vec<u8> = before.iter().map(|octet| !octet).collect();
    if inverse.len() % 2 == 1 {
        inverse.push(0xff);
    }
    !sum(&[&(!checksum).to_be_bytes(), &inverse, after])
}

pub(super) fn octets_of(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// What selectors and fragments are about (RFC 4301 4.4.1.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct Parsed {
    pub(super) v6: bool,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Behind the extension headers that are not AH and ESP.
    pub(super) protocol: u8,
    /// Where that begins.
    pub(super) upper: usize,
    pub(super) total: usize,
    pub(super) fragment: Option<Fragment>,
    /// Source and destination; type and code of ICMP are in the source's place.
    pub(super) ports: (Option<u16>, Option<u16>),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Fragment {
    pub(super) id: u32,
    pub(super) offset: usize,
    pub(super) more: bool,
}

/// `None`: it is no IP packet, or not whole.
pub(super) fn parse(packet: &[u8]) -> Option<Parsed> {
    let mut parsed = match packet.first()? >> 4 {
        4 => parse_v4(packet)?,
        6 => parse_v6(packet)?,
        _ => return None,
    };
    parsed.ports = ports(parsed.protocol, &packet[parsed.upper..parsed.total]);
    if parsed.fragment.is_some_and(|fragment| fragment.offset > 0) {
        parsed.ports = (None, None);
    }
    Some(parsed)
}

/// RFC 791 3.1.
fn parse_v4(packet: &[u8]) -> Option<Parsed> {
    if packet.len() < 20 {
        return None;
    }
    let (upper, total) = (usize::from(packet[0] & 15) * 4, usize::from(word(packet, 2)));
    if upper < 20 || total < upper || total > packet.len() {
        return None;
    }
    let flags = word(packet, 6);
    let fragment = Fragment {
        id: word(packet, 4).into(),
        offset: usize::from(flags & 0x1fff) * 8,
        more: flags & 0x2000 != 0,
    };
    let address = |at| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
    Some(Parsed {
        v6: false,
        source: address(12),
        destination: address(16),
        protocol: packet[9],
        upper,
        total,
        fragment: (fragment.offset > 0 || fragment.more).then_some(fragment),
        ports: (None, None),
    })
}

/// RFC 8200 3 and 4. More than eight extension headers are refused.
fn parse_v6(packet: &[u8]) -> Option<Parsed> {
    if packet.len() < 40 {
        return None;
    }
    let total = 40 + usize::from(word(packet, 4));
    let packet = packet.get(..total)?;
    let address = |at| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
    let mut parsed = Parsed {
        v6: true,
        source: address(8),
        destination: address(24),
        protocol: packet[6],
        upper: 40,
        total,
        fragment: None,
        ports: (None, None),
    };
    for _ in 0..8 {
        let header = &packet[parsed.upper..];
        let len = match parsed.protocol {
            0 | 43 | 60 => 8 + 8 * usize::from(*header.get(1)?),
            44 => 8,
            _ => return Some(parsed),
        };
        let header = header.get(..len)?;
        if parsed.protocol == 44 {
            let field = word(header, 2);
            let id = u32::from(word(header, 4)) << 16 | u32::from(word(header, 6));
            let fragment = Fragment { id, offset: usize::from(field & 0xfff8), more: field & 1 != 0 };
            parsed.fragment = Some(fragment);
        }
        (parsed.protocol, parsed.upper) = (header[0], parsed.upper + len);
        if parsed.fragment.is_some_and(|fragment| fragment.offset > 0) {
            return Some(parsed);
        }
    }
    (!is_extension(parsed.protocol)).then_some(parsed)
}

pub(super) fn is_extension(protocol: u8) -> bool {
    matches!(protocol, 0 | 43 | 44 | 60)
}

fn ports(protocol: u8, upper: &[u8]) -> (Option<u16>, Option<u16>) {
    let port = |at: usize| (upper.len() >= at + 2).then(|| word(upper, at));
    match protocol {
        TCP | UDP | DCCP | SCTP | UDPLITE => (port(0), port(2)),
        ICMP | ICMPV6 => (port(0), None),
        MOBILITY => (upper.get(2).map(|kind| u16::from(*kind) << 8), None),
        _ => (None, None),
    }
}

/// RFC 4301 4.4.1.3: what has no ports but types has them on the sender's side alone.
pub(super) fn has_types(protocol: u8) -> bool {
    matches!(protocol, ICMP | ICMPV6 | MOBILITY)
}

/// A fragment that no host makes: not of whole eights though another follows, too long when put together, or one that
/// divides a TCP header (RFC 791 3.2, RFC 1858 3, RFC 3128).
pub(super) fn is_odd_fragment(parsed: &Parsed) -> bool {
    let Some(Fragment { offset, more, .. }) = parsed.fragment else { return false };
    let payload = parsed.total - parsed.upper;
    let uneven = more && (payload == 0 || !payload.is_multiple_of(8));
    let first_part = offset == 0 && more && payload < 16;
    uneven || offset + payload > 65_535 || parsed.protocol == TCP && (offset == 8 || first_part)
}

/// The packets that one from the TUN device stands for (virtio 1.2 5.1.6.2).
pub(super) fn cut(packet: &[u8], offload: &Offload) -> Option<Vec<Vec<u8>>> {
    let mut packet = packet.to_vec();
    let (start, offset) = (usize::from(offload.checksum_start), usize::from(offload.checksum_offset));
    if offload.kind == Segmentation::None && offload.needs_checksum {
        if start > packet.len() || start + offset + 2 > packet.len() {
            return None;
        }
        // RFC 768: zero means that there is none.
        let value = match checksum(&[&packet[start..]]) {
            0 => 0xffff,
            value => value,
        };
        put(&mut packet, start + offset, value);
    }
    let Parsed { v6, upper, total, protocol, fragment, source, destination, .. } = parse(&packet)?;
    packet.truncate(total);
    let tcp = match offload.kind {
        Segmentation::None => return Some(vec![packet]),
        Segmentation::Tcp => true,
        Segmentation::Udp => false,
        Segmentation::Unknown => return None,
    };
    if protocol != if tcp { TCP } else { UDP } || fragment.is_some() {
        return None;
    }
    let header = if tcp { usize::from(*packet.get(upper + 12)? >> 4) * 4 } else { 8 };
    let (headers, segment) = (upper + header, usize::from(offload.segment));
    if header < if tcp { 20 } else { 8 } || headers > total || segment == 0 {
        return None;
    }
    let count = (total - headers).div_ceil(segment).max(1);
    if count > 2048 {
        return None;
    }
    let one = |index: usize| {
        let from = headers + index * segment;
        let mut one = [&packet[..headers], &packet[from..total.min(from + segment)]].concat();
        let len = one.len();
        if v6 {
            put(&mut one, 4, (len - 40) as u16);
        } else {
            put(&mut one, 2, len as u16);
            let id = word(&packet, 4).wrapping_add(index as u16);
            put(&mut one, 4, id);
            fix_v4(&mut one);
        }
        let place = if tcp {
            let sequence = u32::from_be_bytes(one[upper + 4..upper + 8].try_into().unwrap());
            let sequence = sequence.wrapping_add((index * segment) as u32);
            one[upper + 4..upper + 8].copy_from_slice(&sequence.to_be_bytes());
            // FIN and PSH say that nothing follows, CWR is said once.
            one[upper + 13] &= if index + 1 == count { 0xff } else { !0x09 };
            one[upper + 13] &= if index == 0 { 0xff } else { !0x80 };
            upper + 16
        } else {
            put(&mut one, upper + 4, (len - upper) as u16);
            upper + 6
        };
        put(&mut one, place, 0);
        let value = pseudo_checksum(source, destination, protocol, &one[upper..]);
        put(&mut one, place, if value == 0 && !tcp { 0xffff } else { value });
        one
    };
    Some((0..count).map(one).collect())
}

/// Gives an IPv4 header its checksum.
pub(super) fn fix_v4(packet: &mut [u8]) {
    let header = usize::from(packet[0] & 15) * 4;
    put(packet, 10, 0);
    let value = checksum(&[&packet[..header]]);
    put(packet, 10, value);
}

pub(super) fn may_be_divided(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4 && packet[6] & 0x40 == 0
}

/// The fragments of an IPv4 packet, of up to `max` octets (RFC 791 3.2). `None`: no fragment fits.
pub(super) fn divide(packet: &[u8], max: usize) -> Option<Vec<Vec<u8>>> {
    let Parsed { upper, total, fragment, .. } = parse(packet)?;
    let (mut offset, more) = fragment.map_or((0, false), |fragment| (fragment.offset, fragment.more));
    let mut header = packet[..upper].to_vec();
    let mut later = packet[..20].to_vec();
    let mut options = &packet[20..upper];
    while let [kind, rest @ ..] = options {
        let len = match (kind, rest.first()) {
            (0, _) => break,
            (1, _) => 1,
            (_, Some(len)) if *len >= 2 && usize::from(*len) <= options.len() => usize::from(*len),
            _ => break,
        };
        // RFC 791 3.1: the highest bit says that all fragments have it.
        if kind & 0x80 != 0 {
            later.extend_from_slice(&options[..len]);
        }
        options = &options[len..];
    }
    later.resize(later.len().next_multiple_of(4), 0);
    if max < upper + 8 {
        return None;
    }
    let (mut rest, mut all) = (&packet[upper..total], Vec::new());
    loop {
        let room = max - header.len();
        let len = if rest.len() <= room { rest.len() } else { room / 8 * 8 };
        let (payload, left) = rest.split_at(len);
        let mut one = [&header, payload].concat();
        one[0] = 0x40 | (header.len() / 4) as u8;
        let total = one.len() as u16;
        put(&mut one, 2, total);
        put(&mut one, 6, (offset / 8) as u16 | if more || !left.is_empty() { 0x2000 } else { 0 });
        fix_v4(&mut one);
        all.push(one);
        if left.is_empty() {
            return Some(all);
        }
        (rest, offset) = (left, offset + len);
        header = std::mem::take(&mut later);
        later.clone_from(&header);
    }
}

/// Lowers the MSS options of a SYN to what packets of `max` octets leave room for, and to `limit` (RFC 6691 2).
pub(super) fn clamp(packet: &mut [u8], max: usize, limit: u16) {
    let Some(Parsed { v6, protocol: TCP, upper, fragment: None, total, .. }) = parse(packet) else { return };
    let tcp = &mut packet[upper..total];
    if tcp.len() < 20 || tcp[13] & 2 == 0 {
        return;
    }
    let header = usize::from(tcp[12] >> 4) * 4;
    if header < 20 || header > tcp.len() {
        return;
    }
    let room = max.saturating_sub(if v6 { 60 } else { 40 }).min(0xffff) as u16;
    let limit = limit.min(room);
    let before = tcp[..header].to_vec();
    let mut at = 20;
    while at < header && tcp[at] != 0 {
        if tcp[at] == 1 {
            at += 1;
            continue;
        }
        if at + 1 >= header || tcp[at + 1] < 2 {
            break;
        }
        let len = usize::from(tcp[at + 1]);
        if tcp[at] == 2 && len == 4 && at + 4 <= header && word(tcp, at + 2) > limit {
            put(tcp, at + 2, limit);
        }
        at += len;
    }
    let value = adjusted(word(tcp, 16), &before, &tcp[..header]);
    put(tcp, 16, value);
}

/// TOS or traffic class.
pub(super) fn class(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 4 { packet[1] } else { packet[0] << 4 | packet[1] >> 4 }
}

/// What comes of an inner ECN field behind an outer one (RFC 6040, Figure 4). `false`: drop.
pub(super) fn decapsulate_ecn(packet: &mut [u8], outer: u8) -> bool {
    // Rows: inner Not-ECT, ECT(1), ECT(0), CE, by their values; columns: the same outside.
    const DROP: u8 = 9;
    const TABLE: [[u8; 4]; 4] = [[0, 0, 0, DROP], [1, 1, 1, 3], [2, 1, 2, 3], [3, 3, 3, 3]];
    let inner = class(packet);
    let ecn = TABLE[usize::from(inner & 3)][usize::from(outer & 3)];
    if ecn == DROP {
        return false;
    }
    put_class(packet, inner & !3 | ecn);
    true
}

/// Another TOS or traffic class.
pub(super) fn put_class(packet: &mut [u8], new: u8) {
    if packet[0] >> 4 == 4 {
        let before = [packet[0], packet[1]];
        packet[1] = new;
        let value = adjusted(word(packet, 10), &before, &packet[..2]);
        put(packet, 10, value);
    } else {
        packet[0] = packet[0] & 0xf0 | new >> 4;
        packet[1] = packet[1] & 0x0f | new << 4;
    }
}

/// A prefix inside and the one that stands for it outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) inside: IpAddr,
    pub(super) outside: IpAddr,
    pub(super) len: u8,
}

impl Pair {
    /// An address of the one prefix as that of the other.
    fn map(&self, address: &[u8], outwards: bool) -> Option<Vec<u8>> {
        let (from, to) = if outwards { (self.inside, self.outside) } else { (self.outside, self.inside) };
        let (from, to) = (octets_of(from), octets_of(to));
        let bit = |octets: &[u8], at: usize| octets[at / 8] >> (7 - at % 8) & 1;
        let len = usize::from(self.len);
        if from.len() != address.len() || (0..len).any(|at| bit(&from, at) != bit(address, at)) {
            return None;
        }
        let mut new = address.to_vec();
        for at in 0..len {
            let mask = 1 << (7 - at % 8);
            new[at / 8] = new[at / 8] & !mask | to[at / 8] & mask;
        }
        Some(new)
    }

    pub(super) fn map_address(&self, address: IpAddr, outwards: bool) -> Option<IpAddr> {
        let new = self.map(&octets_of(address), outwards)?;
        Some(match <[u8; 4]>::try_from(&new[..]) {
            Ok(v4) => v4.into(),
            Err(_) => <[u8; 16]>::try_from(&new[..]).unwrap().into(),
        })
    }
}

/// Translates a packet's addresses, `source` those of its sender's side, and everything that has to follow (RFC 3022 4.3,
/// RFC 5508 4).
pub(super) fn translate(packet: &mut [u8], source: &[Pair], destination: &[Pair], outwards: bool) {
    let Some(parsed) = parse(packet) else { return };
    let before = packet.to_vec();
    readdress(packet, parsed.v6, source, destination, outwards);
    if parsed.fragment.is_some_and(|fragment| fragment.offset > 0) {
        return;
    }
    let addresses = if parsed.v6 { 8..40 } else { 12..20 };
    let (old, new) = (&before[addresses.clone()], packet[addresses].to_vec());
    let upper = &mut packet[parsed.upper..parsed.total];
    let kind = upper.first().copied().unwrap_or(0xff);
    let is_error = match parsed.protocol {
        ICMP => matches!(kind, 3 | 4 | 5 | 11 | 12),
        ICMPV6 => kind < 128,
        _ => false,
    };
    if is_error && upper.len() > 8 {
        // The quoted packet went the other way. Octets 4 to 8 are no matter.
        let old_quote = upper[8..].to_vec();
        translate_quoted(&mut upper[8..], destination, source, outwards);
        let new_quote = upper[8..].to_vec();
        follow(upper, parsed.protocol, &old_quote, &new_quote);
    }
    if parsed.protocol != ICMP {
        follow(upper, parsed.protocol, old, &new);
    }
}

/// The addresses of a whole IP header, and its checksum.
fn readdress(packet: &mut [u8], v6: bool, source: &[Pair], destination: &[Pair], outwards: bool) {
    let (start, len) = if v6 { (8, 16) } else { (12, 4) };
    let before = packet[start..start + 2 * len].to_vec();
    for (at, pairs) in [(start, source), (start + len, destination)] {
        let new = pairs.iter().find_map(|pair| pair.map(&packet[at..at + len], outwards));
        if let Some(new) = new {
            packet[at..at + len].copy_from_slice(&new);
        }
    }
    if !v6 {
        let value = adjusted(word(packet, 10), &before, &packet[12..20]);
        put(packet, 10, value);
    }
}

/// As much of a packet as an ICMP error quotes. Without a whole IP header it stays as it is.
fn translate_quoted(quoted: &mut [u8], source: &[Pair], destination: &[Pair], outwards: bool) {
    let v6 = match quoted[0] >> 4 {
        4 if quoted.len() >= 20 && quoted[0] & 15 >= 5 => false,
        6 if quoted.len() >= 40 => true,
        _ => return,
    };
    let addresses = if v6 { 8..40 } else { 12..20 };
    let old = quoted[addresses.clone()].to_vec();
    readdress(quoted, v6, source, destination, outwards);
    let new = quoted[addresses].to_vec();
    let (protocol, upper, later) = if v6 {
        (quoted[6], 40, false)
    } else {
        (quoted[9], usize::from(quoted[0] & 15) * 4, word(quoted, 6) & 0x1fff != 0)
    };
    if !later && protocol != ICMP && upper < quoted.len() {
        follow(&mut quoted[upper..], protocol, &old, &new);
    }
}

/// Lets the checksum of a transport header follow a change of what it covers, if it is there.
pub(super) fn follow(upper: &mut [u8], protocol: u8, before: &[u8], after: &[u8]) {
    let at = match protocol {
        TCP => 16,
        UDP | UDPLITE | DCCP => 6,
        ICMP | ICMPV6 => 2,
        _ => return,
    };
    // RFC 768: without one it stays without.
    if before == after || upper.len() < at + 2 || protocol == UDP && word(upper, at) == 0 {
        return;
    }
    let value = adjusted(word(upper, at), before, after);
    // RFC 768, RFC 3828 3.1: zero is sent as its other form.
    let other = matches!(protocol, UDP | UDPLITE) && value == 0;
    put(upper, at, if other { 0xffff } else { value });
}

/// The message that tells a sender how long its packets may be (RFC 1191 4, RFC 4443 3.2), if one may be sent.
pub(super) fn too_big(original: &[u8], mtu: usize) -> Option<Vec<u8>> {
    let v6 = original[0] >> 4 == 6;
    let word = if v6 { mtu } else { mtu.min(0xffff) } as u32;
    error(original, if v6 { [2, 0] } else { [3, 4] }, word)
}

/// The message that tells a sender that it may not send there (RFC 1812 5.2.7.1, RFC 4443 3.1), if one may be sent.
pub(super) fn prohibited(original: &[u8]) -> Option<Vec<u8>> {
    error(original, if original[0] >> 4 == 6 { [1, 1] } else { [3, 13] }, 0)
}

/// An error about a packet, unless it is about an error, a later fragment, or what is not from one host to one (RFC 1122 3.2.2,
/// RFC 4443 2.4, which makes an exception of packets that are too big).
fn error(original: &[u8], kind_and_code: [u8; 2], word: u32) -> Option<Vec<u8>> {
    let Parsed { v6, source, destination, protocol, ports, fragment, total, .. } = parse(original)?;
    let kind = ports.0.map(|port| port >> 8);
    let about_error = match protocol {
        ICMP => kind.is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12)),
        ICMPV6 => kind.is_none_or(|kind| kind < 128 || kind == 137),
        _ => false,
    };
    let nobody = match source {
        IpAddr::V4(source) => source.is_broadcast(),
        IpAddr::V6(_) => false,
    } || source.is_unspecified()
        || source.is_multicast()
        || source.is_loopback();
    let everybody = match destination {
        IpAddr::V4(destination) => destination.is_broadcast() || destination.is_multicast(),
        IpAddr::V6(destination) => destination.is_multicast() && kind_and_code != [2, 0],
    };
    if about_error || nobody || everybody || fragment.is_some_and(|fragment| fragment.offset > 0) {
        return None;
    }
    let quoted = &original[..total.min(if v6 { 1280 - 48 } else { 576 - 28 })];
    let mut message = [kind_and_code, [0, 0]].concat();
    message.extend(word.to_be_bytes());
    message.extend(quoted);
    let value =
        if v6 { pseudo_checksum(destination, source, ICMPV6, &message) } else { checksum(&[&message]) };
    put(&mut message, 2, value);
    let protocol = if v6 { ICMPV6 } else { ICMP };
    Some(whole((destination, source), protocol, (0, 64), &message))
}

/// A packet of a plain header, in IPv4 with DF, with this traffic class and this hop limit.
pub(super) fn whole(
    (source, destination): (IpAddr, IpAddr),
    protocol: u8,
    (class, hops): (u8, u8),
    payload: &[u8],
) -> Vec<u8> {
    let (source, to) = (octets_of(source), octets_of(destination));
    let mut packet = if destination.is_ipv6() {
        let len = (payload.len() as u16).to_be_bytes();
        vec![0x60 | class >> 4, class << 4, 0, 0, len[0], len[1], protocol, hops]
    } else {
        let len = (20 + payload.len() as u16).to_be_bytes();
        vec![0x45, class, len[0], len[1], 0, 0, 0x40, 0, hops, protocol, 0, 0]
    };
    packet.extend([source, to].concat());
    packet.extend(payload);
    if destination.is_ipv4() {
        fix_v4(&mut packet);
    }
    packet
}
