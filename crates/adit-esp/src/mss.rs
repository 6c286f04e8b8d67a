//! The maximum segment size of TCP connections through a tunnel: so that neither end sends what would not fit, even where
//! the messages that would tell it are filtered (RFC 4821 2, RFC 9293 3.7.1).
//!
//! This module owns the option in SYN segments of both directions. It only ever lowers it, and never adds one: without
//! it, a sender keeps to 536 octets in IPv4 and 1220 in IPv6.

use adit_wire::ip::PROTOCOL_TCP;

use crate::headers::{Checksum, Upper};

/// Up to which segment size connections may be opened through an SA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mss {
    /// What fits the path without fragments.
    #[default]
    Path,
    /// So many octets, or what fits the path if that is less.
    At(u16),
    /// Any.
    Untouched,
}

const SYN: u8 = 0x02;

impl Mss {
    /// Lowers the MSS of a SYN or SYN/ACK segment to what `max_inner` octets of an IP packet leave room for; `true` if
    /// that changed the packet. What is no such segment, or not whole, stays as it is.
    pub fn clamp(self, packet: &mut [u8], max_inner: usize, checksum: Checksum) -> bool {
        let limit = match self {
            Self::Path => u16::MAX,
            Self::At(mss) => mss,
            Self::Untouched => return false,
        };
        let Some(Upper { v6, protocol: PROTOCOL_TCP, offset, fragment: None }) = Upper::of(packet) else {
            return false;
        };
        let Some(tcp) = packet.get_mut(offset..) else { return false };
        if tcp.get(13).is_none_or(|flags| flags & SYN == 0) {
            return false;
        }
        // RFC 6691 2: the headers without options count, whatever there is in this segment.
        let fits = max_inner.saturating_sub(if v6 { 60 } else { 40 });
        lower(tcp, u16::try_from(fits).unwrap_or(u16::MAX).min(limit), checksum).unwrap_or(false)
    }
}

/// `None`: the header ends where it should not.
fn lower(tcp: &mut [u8], limit: u16, checksum: Checksum) -> Option<bool> {
    let header_len = usize::from(*tcp.get(12)? >> 4) * 4;
    let (fixed, options) = tcp.get_mut(..header_len)?.split_first_chunk_mut::<20>()?;
    let mut changed = false;
    let mut at = 0;
    loop {
        match options.get_mut(at..).unwrap_or_default() {
            // No operation.
            [1, ..] => at += 1,
            [2, 4, high, low, ..] => {
                let (old, parity) = (u16::from_be_bytes([*high, *low]), at % 2);
                if old > limit {
                    [*high, *low] = limit.to_be_bytes();
                    changed = true;
                    // A word that begins at an odd place lies the other way round in the sum.
                    let in_sum = |word: u16| if parity == 0 { word } else { word.swap_bytes() };
                    // The sum of the pseudo-header does not cover it.
                    if let (Checksum::Whole, [.., high, low, _, _]) = (checksum, &mut *fixed) {
                        let sum = u16::from_be_bytes([*high, *low]);
                        [*high, *low] = checksum.updated(sum, in_sum(old), in_sum(limit)).to_be_bytes();
                    }
                }
                at += 4;
            }
            [0, ..] | [] => return Some(changed),
            [_, len, ..] if *len >= 2 => at += usize::from(*len),
            // A length that goes nowhere.
            _ => return Some(changed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use adit_wire::ip::{packet, transport_checksum};

    use super::*;

    const SYN_ACK: u8 = 0x12;

    /// A segment with right checksums.
    fn segment(v6: bool, flags: u8, options: &[u8]) -> Vec<u8> {
        let (source, destination): (IpAddr, IpAddr) = addresses(v6);
        assert!(options.len().is_multiple_of(4));
        let mut tcp = vec![0x9c, 0x40, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0, flags, 0xff, 0xff, 0, 0, 0, 0];
        tcp[12] = (5 + options.len() as u8 / 4) << 4;
        tcp.extend_from_slice(options);
        let sum = transport_checksum(source, destination, 6, &tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        packet(source, destination, 6, 64, &tcp).unwrap()
    }

    fn addresses(v6: bool) -> (IpAddr, IpAddr) {
        let [source, destination] =
            if v6 { ["fd00:1::10", "fd00:2::10"] } else { ["10.1.0.10", "10.2.0.10"] };
        (source.parse().unwrap(), destination.parse().unwrap())
    }

    fn sum_is_right(v6: bool, packet: &[u8]) -> bool {
        let (source, destination) = addresses(v6);
        transport_checksum(source, destination, 6, &packet[if v6 { 40 } else { 20 }..]) == 0
    }

    /// Worked by hand: 1438 octets leave 1398 for a segment in IPv4 and 1378 in IPv6 (RFC 6691 2).
    #[test]
    fn both_directions_and_families_are_lowered_and_sums_stay_right() {
        for (v6, expected) in [(false, 1398_u16), (true, 1378)] {
            for flags in [SYN, SYN_ACK] {
                // MSS 1460, window scale, SACK permitted, as Linux sends it, with a NOP in front as others do.
                for options in
                    [&[2, 4, 0x05, 0xb4, 1, 3, 3, 7, 4, 2, 1, 1][..], &[1, 2, 4, 0x05, 0xb4, 4, 2, 0]]
                {
                    let original = segment(v6, flags, options);
                    let mut clamped = original.clone();
                    assert!(Mss::Path.clamp(&mut clamped, 1438, Checksum::Whole));
                    let at = if v6 { 60 } else { 40 } + if options[0] == 1 { 3 } else { 2 };
                    assert_eq!(clamped[at..at + 2], expected.to_be_bytes());
                    assert!(sum_is_right(v6, &clamped), "v6 {v6} {options:02x?}");
                    // Nothing else has changed.
                    let sum_at = if v6 { 56 } else { 36 };
                    clamped[at..at + 2].copy_from_slice(&original[at..at + 2]);
                    clamped[sum_at..sum_at + 2].copy_from_slice(&original[sum_at..sum_at + 2]);
                    assert_eq!(clamped, original);
                }
            }
        }
    }

    /// Whatever the values and wherever the option stands.
    #[test]
    fn sums_are_right_for_every_value() {
        for mss in (0..=u16::MAX).step_by(7) {
            for nops in 0..4 {
                let mut options = vec![1; nops];
                options.extend([2, 4]);
                options.extend(mss.to_be_bytes());
                options.resize(8, 1);
                for limit in [0, 536, 1300, 0xfffe] {
                    let mut one = segment(false, SYN, &options);
                    let changed = Mss::At(limit).clamp(&mut one, usize::MAX, Checksum::Whole);
                    assert_eq!(changed, mss > limit);
                    let now = u16::from_be_bytes([one[42 + nops], one[43 + nops]]);
                    assert_eq!(now, mss.min(limit));
                    assert!(sum_is_right(false, &one), "{mss} {nops} {limit}");
                }
            }
        }
    }

    #[test]
    fn a_sum_that_is_not_complete_yet_stays() {
        let mut one = segment(false, SYN, &[2, 4, 0x05, 0xb4]);
        let before = one[36..38].to_vec();
        assert!(Mss::Path.clamp(&mut one, 1400, Checksum::Partial));
        assert_eq!((one[36..38].to_vec(), &one[42..44]), (before, &1360_u16.to_be_bytes()[..]));
    }

    #[test]
    fn what_is_not_to_be_touched_is_not() {
        let untouched = |mut one: Vec<u8>, mss: Mss, max_inner| {
            let before = one.clone();
            assert!(!mss.clamp(&mut one, max_inner, Checksum::Whole));
            assert_eq!(one, before);
        };
        let option = [2, 4, 0x05, 0xb4];
        untouched(segment(false, SYN, &option), Mss::Untouched, 1000);
        untouched(segment(false, SYN, &option), Mss::Path, 1500);
        untouched(segment(false, SYN, &option), Mss::Path, usize::MAX);
        untouched(segment(false, SYN, &option), Mss::At(1460), 1500);
        untouched(segment(false, 0x10, &option), Mss::Path, 1000);
        untouched(segment(false, SYN, &[]), Mss::Path, 1000);
        // End of options in front of it.
        untouched(segment(false, SYN, &[0, 0, 0, 0, 2, 4, 0x05, 0xb4]), Mss::Path, 1000);
        // Fragments of either kind, another protocol, another length of the option.
        for flags in [[0x20, 0x00], [0x00, 0x01]] {
            let mut one = segment(false, SYN, &option);
            one[6..8].copy_from_slice(&flags);
            untouched(one, Mss::Path, 1000);
        }
        let mut udp = segment(false, SYN, &option);
        udp[9] = 17;
        untouched(udp, Mss::Path, 1000);
        untouched(segment(false, SYN, &[2, 3, 0x05, 0xb4]), Mss::Path, 1000);
    }

    /// Options that lead astray, and packets that end anywhere: no panic, no endless walk, never a higher MSS.
    #[test]
    fn whatever_the_octets_nothing_is_raised() {
        let mut state = 1_u64;
        let mut octet = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        let mut changed = 0;
        for round in 0..200_000_u32 {
            let mut options: Vec<u8> = (0..(round % 11) * 4).map(|_| octet()).collect();
            if let Some(start) = options.first_chunk_mut::<4>() {
                // Half of them begin with an option that makes sense.
                if octet() & 1 == 0 {
                    *start = [2, 4, octet(), octet()];
                }
            }
            let mut one = segment(round & 1 == 1, SYN, &options);
            let before = one.clone();
            let cut = if octet() < 32 { usize::from(octet()) % one.len() } else { one.len() };
            changed += u32::from(Mss::Path.clamp(&mut one[..cut], 600, Checksum::Whole));
            let (sum_at, options_at) = if round & 1 == 1 { (56, 60) } else { (36, 40) };
            for (at, (new, old)) in one.iter().zip(&before).enumerate().filter(|(_, (new, old))| new != old) {
                // Where they differ stands the checksum or an option that was above 540 or 560, the limit now.
                let limit = if round & 1 == 1 { 540_u16 } else { 560 };
                let option = (at - 3..=at - 2).any(|start| {
                    start >= options_at
                        && before[start..start + 2] == [2, 4]
                        && one[start + 2..start + 4] == limit.to_be_bytes()
                        && before[start + 2..start + 4] > limit.to_be_bytes()[..]
                });
                assert!(option || (sum_at..sum_at + 2).contains(&at), "octet {at}: {old} became {new}");
            }
            if cut == one.len() {
                assert!(sum_is_right(round & 1 == 1, &one));
            }
        }
        assert!(changed > 50_000, "{changed}");
    }
}
