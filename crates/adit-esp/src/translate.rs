//! Networks that both sides have: addresses translated one to one, so that each side sees the other under prefixes of its
//! own choice. What is negotiated are the addresses that the peer sees ("outside"); what our hosts and our routes
//! know ("inside") stays on our side.
//!
//! This module owns the addresses of packets and the checksums that cover them, those of packets quoted in ICMP errors
//! included (RFC 3022 4.3, RFC 5508 4). It keeps no state, never touches ports, and never decides which packets it gets.

use std::net::IpAddr;

use adit_wire::ikev2::TrafficSelector;
use adit_wire::ip::{
    Ipv4Header, Ipv6Header, PROTOCOL_DCCP, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP,
    PROTOCOL_UDPLITE,
};

use crate::headers::{Checksum, Upper};
use crate::selector::Address;

/// The networks of a child that have other addresses inside than outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// Of our side.
    pub local: Vec<Renumbering>,
    /// Of the peer's.
    pub remote: Vec<Renumbering>,
}

/// Two prefixes of equal length whose addresses stand for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renumbering {
    v6: bool,
    inside: u128,
    outside: u128,
    /// The bits that stay.
    host: u128,
}

impl Renumbering {
    /// `None` unless both are of one family, and `prefix_len` is a length of that family.
    #[must_use]
    pub fn new(inside: IpAddr, outside: IpAddr, prefix_len: u8) -> Option<Self> {
        let (inside, outside) = (Address::from(inside), Address::from(outside));
        let width: u32 = if inside.v6 { 128 } else { 32 };
        let free = width.checked_sub(prefix_len.into())?;
        let host = u128::MAX.checked_shr(128 - free).unwrap_or(0);
        (inside.v6 == outside.v6).then_some(Self {
            v6: inside.v6,
            inside: inside.value & !host,
            outside: outside.value & !host,
            host,
        })
    }
}

/// Which way an address is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Outside,
    Inside,
}

fn translated(all: &[Renumbering], to: To, v6: bool, address: u128) -> Option<u128> {
    all.iter().filter(|one| one.v6 == v6).find_map(|one| {
        let (before, after) = match to {
            To::Outside => (one.inside, one.outside),
            To::Inside => (one.outside, one.inside),
        };
        (address & !one.host == before).then_some(after | address & one.host)
    })
}

impl Translation {
    /// A packet of our side, on its way out.
    pub fn outbound(&self, packet: &mut [u8], checksum: Checksum) {
        rewrite(packet, To::Outside, (&self.local, &self.remote), checksum);
    }

    /// Such a packet, translated already, that does not leave after all.
    pub fn undo_outbound(&self, packet: &mut [u8]) {
        rewrite(packet, To::Inside, (&self.local, &self.remote), Checksum::Whole);
    }

    /// A packet of the peer's side that has come by the tunnel.
    pub fn inbound(&self, packet: &mut [u8]) {
        rewrite(packet, To::Inside, (&self.remote, &self.local), Checksum::Whole);
    }

    /// Selectors of our side as they are inside. `None` for one that lies partly in a translated network.
    #[must_use]
    pub fn local_inside(&self, selectors: &[TrafficSelector]) -> Option<Vec<TrafficSelector>> {
        inside(&self.local, selectors)
    }

    /// Selectors of the peer's side as they are inside. `None` for one that lies partly in a translated network.
    #[must_use]
    pub fn remote_inside(&self, selectors: &[TrafficSelector]) -> Option<Vec<TrafficSelector>> {
        inside(&self.remote, selectors)
    }
}

/// Translates a packet between networks of these, those of its sender first.
fn rewrite(
    packet: &mut [u8],
    to: To,
    (source, destination): (&[Renumbering], &[Renumbering]),
    checksum: Checksum,
) -> Option<()> {
    let Upper { v6, protocol, offset, fragment } = Upper::of(packet)?;
    let mut change = addresses(packet, v6, to, source, destination)?.addresses;
    if fragment.is_some_and(|fragment| fragment.offset > 0) {
        return Some(());
    }
    let upper = packet.get_mut(offset..)?;
    let is_error = match (protocol, upper.first()?) {
        (PROTOCOL_ICMP, icmp_type) => matches!(icmp_type, 3 | 4 | 5 | 11 | 12),
        (PROTOCOL_ICMPV6, icmp_type) => *icmp_type < 128,
        _ => false,
    };
    if protocol == PROTOCOL_ICMP {
        // No pseudo-header.
        change = Change::default();
    }
    // The quoted packet went the other way: its source is this one's destination.
    if is_error && let Some(quoted) = upper.get_mut(8..) {
        change.add(rewrite_quoted(quoted, to, destination, source));
    }
    update(upper, protocol, change, checksum);
    Some(())
}

fn inside(all: &[Renumbering], selectors: &[TrafficSelector]) -> Option<Vec<TrafficSelector>> {
    let one = |selector: &TrafficSelector| {
        let (first, last) = (Address::from(selector.start), Address::from(selector.end));
        let touched = all.iter().find(|one| {
            one.v6 == first.v6 && first.value <= one.outside | one.host && last.value >= one.outside
        });
        let Some(renumbering) = touched else { return Some(*selector) };
        let map = |address: Address| {
            let value = translated(std::slice::from_ref(renumbering), To::Inside, address.v6, address.value)?;
            Some(match address.v6 {
                true => IpAddr::V6(value.into()),
                false => IpAddr::V4(u32::try_from(value).ok()?.into()),
            })
        };
        Some(TrafficSelector { start: map(first)?, end: map(last)?, ..*selector })
    };
    selectors.iter().map(one).collect()
}

/// What a rewritten part of a packet adds to the sum over it, as one's complement of 16 bits.
#[derive(Clone, Copy, Default)]
struct Change(u16);

impl Change {
    fn word(&mut self, old: u16, new: u16) {
        self.add(Self(!old));
        self.add(Self(new));
    }

    fn add(&mut self, other: Self) {
        let (sum, carry) = self.0.overflowing_add(other.0);
        // The carry comes in again at the other end; there is room for it then.
        self.0 = sum + u16::from(carry);
    }
}

/// What has changed in an IP header.
struct Changed {
    addresses: Change,
    /// The addresses and the header's own checksum.
    all: Change,
}

/// Translates the addresses of an IP header, and sets its checksum right.
fn addresses(
    packet: &mut [u8],
    v6: bool,
    to: To,
    source: &[Renumbering],
    destination: &[Renumbering],
) -> Option<Changed> {
    let mut change = Change::default();
    for (at, all) in [(0, source), (1, destination)] {
        let len = if v6 { 16 } else { 4 };
        let start = if v6 { 8 } else { 12 } + at * len;
        let place = packet.get_mut(start..start + len)?;
        let value = place.iter().fold(0, |value, octet| value << 8 | u128::from(*octet));
        let Some(new) = translated(all, to, v6, value) else { continue };
        let new = new.to_be_bytes();
        for (word, new) in place.chunks_exact_mut(2).zip(new.get(16 - len..)?.chunks_exact(2)) {
            if let ([high, low], [new_high, new_low]) = (word, new) {
                change.word(u16::from_be_bytes([*high, *low]), u16::from_be_bytes([*new_high, *new_low]));
                (*high, *low) = (*new_high, *new_low);
            }
        }
    }
    let mut all = change;
    if !v6 {
        all.add(apply(packet, 10, change, Checksum::Whole));
    }
    Some(Changed { addresses: change, all })
}

/// Translates as much of a packet as an ICMP error quotes. Returns what that adds to the sum over it.
fn rewrite_quoted(quoted: &mut [u8], to: To, source: &[Renumbering], destination: &[Renumbering]) -> Change {
    // Its length may say more than is there, so the chain of IPv6 headers is followed only where there is none. What has not
    // even a whole header says nothing of use.
    let len = quoted.len();
    let (v6, protocol, offset, later) = match quoted {
        [first @ 0x45..=0x4f, _, _, _, _, _, high, low, _, protocol, ..] if len >= Ipv4Header::LEN => {
            (false, *protocol, usize::from(*first & 0x0f) * 4, (*high & 0x1f, *low) != (0, 0))
        }
        [first, _, _, _, _, _, next, ..] if *first >> 4 == 6 && len >= Ipv6Header::LEN => {
            (true, *next, Ipv6Header::LEN, false)
        }
        _ => return Change::default(),
    };
    let Some(Changed { addresses: change, mut all }) = addresses(quoted, v6, to, source, destination) else {
        return Change::default();
    };
    if !later
        && protocol != PROTOCOL_ICMP
        && let Some(upper) = quoted.get_mut(offset..)
    {
        all.add(update(upper, protocol, change, Checksum::Whole));
    }
    all
}

/// Sets the checksum of a transport header right, if it is there. Returns what that adds to the sum over the header.
fn update(upper: &mut [u8], protocol: u8, change: Change, checksum: Checksum) -> Change {
    if change.0 == 0 {
        return change;
    }
    let at = match protocol {
        PROTOCOL_TCP => 16,
        PROTOCOL_UDP | PROTOCOL_UDPLITE | PROTOCOL_DCCP => 6,
        PROTOCOL_ICMP | PROTOCOL_ICMPV6 => 2,
        _ => return Change::default(),
    };
    match upper.get(at..at + 2) {
        // RFC 768, and RFC 6935 5 for IPv6: the sender made none.
        Some([0, 0]) if protocol == PROTOCOL_UDP && checksum == Checksum::Whole => Change::default(),
        _ => {
            let mut change = apply(upper, at, change, checksum);
            if let (PROTOCOL_UDP | PROTOCOL_UDPLITE, Checksum::Whole, Some(field @ [0, 0])) =
                (protocol, checksum, upper.get_mut(at..at + 2))
            {
                // RFC 768, RFC 3828 3.1: one that comes out as zero is sent as all ones.
                field.fill(0xff);
                change.word(0, 0xffff);
            }
            change
        }
    }
}

/// Adds to the checksum field at `at`, if it is there. Returns what that adds to the sum over the field.
fn apply(octets: &mut [u8], at: usize, change: Change, checksum: Checksum) -> Change {
    let mut own = Change::default();
    if let Some([high, low]) = octets.get_mut(at..at + 2) {
        let old = u16::from_be_bytes([*high, *low]);
        // RFC 1624 3: the change is that of one word from all ones, which stand for zero, to its sum.
        let new = checksum.updated(old, 0xffff, change.0);
        [*high, *low] = new.to_be_bytes();
        own.word(old, new);
    }
    own
}

#[cfg(test)]
mod tests {
    use adit_wire::icmp::{Echo, Unreachable, destination_unreachable};
    use adit_wire::ip::{checksum, flow, packet, transport_checksum};

    use super::*;

    /// Both sides have 192.168.1.0/24 and fd00:1::/64; the peer knows ours as 10.1.1.0/24, we its as 10.2.1.0/24.
    fn ours() -> Translation {
        let pair = |inside: &str, outside: &str, len| Renumbering::new(ip(inside), ip(outside), len).unwrap();
        Translation {
            local: vec![pair("192.168.1.0", "10.1.1.0", 24), pair("fd00:1::", "fd00:a::", 64)],
            remote: vec![pair("10.2.1.0", "192.168.1.0", 24), pair("fd00:b::", "fd00:1::", 64)],
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Whom a packet of ours is from and to: inside, outside.
    fn ends(v6: bool) -> [(IpAddr, IpAddr); 2] {
        if v6 {
            [(ip("fd00:1::7"), ip("fd00:b::9")), (ip("fd00:a::7"), ip("fd00:1::9"))]
        } else {
            [(ip("192.168.1.7"), ip("10.2.1.9")), (ip("10.1.1.7"), ip("192.168.1.9"))]
        }
    }

    /// Whole, with right checksums, and a payload of `len` octets.
    fn transport((source, destination): (IpAddr, IpAddr), protocol: u8, len: usize) -> Vec<u8> {
        let mut upper = vec![0x13, 0x88, 0, 53, 0, 0, 0, 0];
        upper.resize(if protocol == PROTOCOL_TCP { 20 } else { 8 }, 0x50);
        upper.extend((0..len).map(|i| i as u8));
        let at = if protocol == PROTOCOL_TCP { 16 } else { 6 };
        upper[at..at + 2].fill(0);
        let sum = transport_checksum(source, destination, protocol, &upper);
        upper[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        packet(source, destination, protocol, 64, &upper).unwrap()
    }

    fn echo((source, destination): (IpAddr, IpAddr)) -> Vec<u8> {
        let echo = Echo { request: true, identifier: 1, sequence: 2, data: b"adit".to_vec() };
        echo.packet(source, destination, 64).unwrap()
    }

    #[test]
    fn packets_become_what_the_other_side_would_have_made_them() {
        for v6 in [false, true] {
            let [inside, outside] = ends(v6);
            let kinds: [&dyn Fn((IpAddr, IpAddr)) -> Vec<u8>; 5] = [
                &|ends| transport(ends, PROTOCOL_TCP, 100),
                &|ends| transport(ends, PROTOCOL_UDP, 101),
                &|ends| transport(ends, PROTOCOL_DCCP, 1),
                &|ends| packet(ends.0, ends.1, 132, 64, b"sctp has no pseudo-header").unwrap(),
                &echo,
            ];
            for make in kinds {
                let mut one = make(inside);
                ours().outbound(&mut one, Checksum::Whole);
                assert_eq!(one, make(outside));
                // The answer comes back.
                let mut one = make((outside.1, outside.0));
                ours().inbound(&mut one);
                assert_eq!(one, make((inside.1, inside.0)));
            }
        }
    }

    /// RFC 5508 4.2: what is quoted is translated, too, whole or cut short.
    #[test]
    fn errors_quote_what_their_receiver_has_sent() {
        for v6 in [false, true] {
            let [inside, outside] = ends(v6);
            for protocol in [PROTOCOL_UDP, PROTOCOL_TCP] {
                for (quote, len) in [(1000, 300), (8, 8), (12, 8), (0, 0)] {
                    // One of our hosts says that what the peer sent it is refused.
                    let error = |ends: (IpAddr, IpAddr)| {
                        let mut original = transport((ends.1, ends.0), protocol, len);
                        let header = if v6 { 40 } else { 20 };
                        original.truncate(header + quote);
                        // As if the packet had been so short.
                        let total = original.len();
                        if v6 {
                            original[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
                        } else {
                            original[2..4].copy_from_slice(&(total as u16).to_be_bytes());
                            original[10..12].fill(0);
                            let sum = checksum(&[&original[..20]]);
                            original[10..12].copy_from_slice(&sum.to_be_bytes());
                        }
                        destination_unreachable(&original, ends.0, Unreachable::Host).unwrap()
                    };
                    let mut one = error(inside);
                    ours().outbound(&mut one, Checksum::Whole);
                    assert_eq!(one, error(outside), "v6 {v6} protocol {protocol} {quote}");
                    let mut one = error((outside.1, outside.0));
                    ours().inbound(&mut one);
                    assert_eq!(one, error((inside.1, inside.0)), "v6 {v6} protocol {protocol} {quote}");
                }
            }
        }
    }

    #[test]
    fn no_udp_checksum_stays_none_and_zero_is_never_made() {
        for (v6, at) in [(true, 46), (false, 26)] {
            let mut one = transport(ends(v6)[0], PROTOCOL_UDP, 10);
            one[at..at + 2].fill(0);
            ours().outbound(&mut one, Checksum::Whole);
            assert_eq!(one[at..at + 2], [0, 0]);
        }
        let [inside, outside] = ends(false);
        // Among all payloads there is one whose checksum comes out as zero.
        let mut found = 0;
        for word in 0..=u16::MAX {
            let make = |(source, destination): (IpAddr, IpAddr)| {
                let mut upper = vec![0, 1, 0, 2, 0, 10, 0, 0];
                upper.extend(word.to_be_bytes());
                let sum = transport_checksum(source, destination, PROTOCOL_UDP, &upper);
                let sum = if sum == 0 { 0xffff } else { sum };
                upper[6..8].copy_from_slice(&sum.to_be_bytes());
                packet(source, destination, PROTOCOL_UDP, 64, &upper).unwrap()
            };
            let mut one = make(inside);
            ours().outbound(&mut one, Checksum::Whole);
            assert_eq!(one, make(outside), "{word}");
            found += usize::from(one[26..28] == [0xff, 0xff]);
        }
        assert_eq!(found, 1);
    }

    #[test]
    fn later_fragments_have_no_checksum() {
        let [inside, outside] = ends(false);
        let fragment = |ends: (IpAddr, IpAddr)| {
            let mut one = packet(ends.0, ends.1, PROTOCOL_UDP, 64, &[7; 64]).unwrap();
            one[6..8].copy_from_slice(&[0, 9]);
            one[10..12].fill(0);
            let sum = checksum(&[&one[..20]]);
            one[10..12].copy_from_slice(&sum.to_be_bytes());
            one
        };
        let mut one = fragment(inside);
        ours().outbound(&mut one, Checksum::Whole);
        assert_eq!(one, fragment(outside));
    }

    /// The sum of the pseudo-header alone, not inverted.
    #[test]
    fn a_checksum_to_be_completed_follows_the_addresses() {
        for v6 in [false, true] {
            let [inside, outside] = ends(v6);
            let partial = |ends: (IpAddr, IpAddr)| {
                let mut one = transport(ends, PROTOCOL_TCP, 0);
                let at = if v6 { 56 } else { 36 };
                // Over a message of zeros that says only how long it is.
                let sum = !transport_checksum(ends.0, ends.1, PROTOCOL_TCP, &[0; 20]);
                one[at..at + 2].copy_from_slice(&sum.to_be_bytes());
                one
            };
            let mut one = partial(inside);
            ours().outbound(&mut one, Checksum::Partial);
            assert_eq!(one, partial(outside));
        }
    }

    #[test]
    fn other_addresses_stay() {
        let others = transport((ip("192.168.2.7"), ip("10.3.0.1")), PROTOCOL_TCP, 5);
        let mut one = others.clone();
        ours().outbound(&mut one, Checksum::Whole);
        ours().inbound(&mut one);
        assert_eq!(one, others);
    }

    #[test]
    fn selectors_are_translated_whole_or_not_at_all() {
        let range = |first: &str, last: &str| TrafficSelector {
            protocol: 6,
            start_port: 80,
            end_port: 80,
            start: ip(first),
            end: ip(last),
        };
        let all = [
            range("10.1.1.16", "10.1.1.31"),
            range("172.16.0.0", "172.16.0.9"),
            range("fd00:a::1", "fd00:a::1"),
        ];
        let expected = [
            range("192.168.1.16", "192.168.1.31"),
            range("172.16.0.0", "172.16.0.9"),
            range("fd00:1::1", "fd00:1::1"),
        ];
        assert_eq!(ours().local_inside(&all).unwrap(), expected);
        assert_eq!(
            ours().remote_inside(&[range("192.168.1.5", "192.168.1.5")]).unwrap(),
            [range("10.2.1.5", "10.2.1.5")]
        );
        assert_eq!(ours().local_inside(&[range("10.1.0.0", "10.1.1.31")]), None);
        assert_eq!(ours().local_inside(&[range("10.0.0.0", "10.255.255.255")]), None);
    }

    #[test]
    fn prefixes_have_a_length() {
        assert!(Renumbering::new(ip("10.0.0.0"), ip("fd00::"), 8).is_none());
        assert!(Renumbering::new(ip("10.0.0.0"), ip("11.0.0.0"), 33).is_none());
        for (inside, outside, len) in
            [("0.0.0.0", "0.0.0.0", 0), ("10.0.0.1", "10.0.0.2", 32), ("::1", "::2", 128)]
        {
            let one = Renumbering::new(ip(inside), ip(outside), len).unwrap();
            let address = Address::from(ip(inside));
            assert_eq!(
                translated(&[one], To::Outside, address.v6, address.value),
                Some(Address::from(ip(outside)).value)
            );
        }
    }

    /// Whatever the octets: no panic; there and back again is the same.
    #[test]
    fn there_and_back_is_the_same() {
        let mut state = 1_u64;
        let mut octet = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        let mut changed = 0;
        for round in 0..200_000_u32 {
            let v6 = round & 1 == 1;
            let mut one = transport(ends(v6)[0], [6, 17, 1, 58, 132][(octet() % 5) as usize], 60);
            for at in 8..12 {
                one[if v6 { 40 } else { 20 } + at] = octet();
            }
            for _ in 0..octet() % 4 {
                let at = usize::from(octet()) % one.len();
                // Another address could be one that the other side has.
                if !(8..if v6 { 40 } else { 20 }).contains(&at) {
                    one[at] = octet();
                }
            }
            one.truncate(usize::from(octet()) + 1);
            let before = one.clone();
            ours().outbound(&mut one, Checksum::Whole);
            changed += u32::from(one != before);
            ours().undo_outbound(&mut one);
            assert_eq!(one.len(), before.len());
            if flow(&before).is_ok() {
                for (at, (new, old)) in one.iter().zip(&before).enumerate() {
                    // Zero has two forms in a checksum.
                    let pair = at & !1;
                    let zero =
                        |octets: &[u8]| matches!(octets.get(pair..pair + 2), Some([0, 0] | [0xff, 0xff]));
                    assert!(new == old || (zero(&one) && zero(&before)), "{at}: {before:02x?} {one:02x?}");
                }
            }
        }
        assert!(changed > 100_000, "{changed}");
    }
}
