//! Fragmentation of IPv4 packets before encryption: those whose sender allows it and that do not fit the tunnel (RFC 4301
//! 8.2.1, RFC 791 3.2). Encrypted fragments need nothing of the peer; its hosts put them together.
//!
//! This module owns the headers of fragments. It copies no payload, and never puts fragments together.

use std::ops::Range;

use adit_wire::ip::{Ipv4Header, checksum};

/// The longest IPv4 header.
const MAX_HEADER: usize = 60;

/// The fragments of one packet, in order.
#[derive(Clone, Debug)]
pub struct Fragments {
    first: Header,
    /// As the first, without the options that are not copied.
    later: Header,
    /// Where the original's payload is, as far as no fragment has it yet.
    rest: Range<usize>,
    max: usize,
    /// What the original says about itself: it may be a fragment already.
    offset: u16,
    more: bool,
    begun: bool,
}

/// An IPv4 header with its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    octets: [u8; MAX_HEADER],
    len: usize,
}

impl Header {
    /// As it stands in front of the payload.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or_default()
    }

    fn push(&mut self, octets: &[u8]) {
        if let Some(place) = self.octets.get_mut(self.len..self.len + octets.len()) {
            place.copy_from_slice(octets);
            self.len += octets.len();
        }
    }
}

/// May an IPv4 packet be fragmented on its way (its DF bit is clear)?
#[must_use]
pub fn may_fragment(packet: &[u8]) -> bool {
    matches!(packet, [first, _, _, _, _, _, flags, ..] if first >> 4 == 4 && flags & 0x40 == 0)
}

impl Fragments {
    /// Divides an IPv4 packet into fragments of at most `max` octets. `None` if it is no such packet, its DF bit is set,
    /// or `max` has no room for any payload.
    #[must_use]
    pub fn of(packet: &[u8], max: usize) -> Option<Self> {
        let header = Ipv4Header::decode(packet).ok().filter(|header| !header.dont_fragment)?;
        let (fixed, options) = packet.get(..header.header_len)?.split_first_chunk::<{ Ipv4Header::LEN }>()?;
        let mut first = Header { octets: [0; MAX_HEADER], len: 0 };
        first.push(fixed);
        let mut later = first;
        first.push(options);
        copied_options(options, &mut later);
        // The first header is the longest.
        if max < header.header_len + 8 {
            return None;
        }
        Some(Self {
            first,
            later,
            rest: header.header_len..header.total_len,
            max,
            offset: header.fragment_offset,
            more: header.more_fragments,
            begun: false,
        })
    }
}

impl Fragments {
    /// The next fragment as a whole, laid out in the packet that it is made of: over what earlier ones had.
    pub fn next_within<'p>(&mut self, packet: &'p mut [u8]) -> Option<&'p [u8]> {
        let (header, payload) = self.next()?;
        let start = payload.start.checked_sub(header.len)?;
        let fragment = packet.get_mut(start..payload.end)?;
        fragment.get_mut(..header.len)?.copy_from_slice(header.octets());
        Some(fragment)
    }
}

impl Iterator for Fragments {
    /// The header, and where in the original packet the payload lies that follows it.
    type Item = (Header, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.begun && self.rest.is_empty() {
            return None;
        }
        let mut header = if self.begun { self.later } else { self.first };
        self.begun = true;
        let room = self.max.saturating_sub(header.len);
        // RFC 791 3.2: all but the last are multiples of 8 octets.
        let len = if self.rest.len() <= room { self.rest.len() } else { room & !7 };
        let payload = self.rest.start..self.rest.start + len;
        self.rest.start = payload.end;
        let more = self.more || !self.rest.is_empty();
        let flags = self.offset >> 3 | if more { 0x2000 } else { 0 };
        self.offset = self.offset.saturating_add(u16::try_from(len).unwrap_or(u16::MAX));
        let total = u16::try_from(header.len + len).unwrap_or(u16::MAX);
        let ihl = 0x40 | (header.len / 4) as u8;
        let [first, _, total_high, total_low, _, _, flags_high, flags_low, _, _, sum @ ..] =
            &mut header.octets;
        *first = ihl;
        [*total_high, *total_low] = total.to_be_bytes();
        [*flags_high, *flags_low] = flags.to_be_bytes();
        let [sum_high, sum_low, ..] = sum;
        [*sum_high, *sum_low] = [0, 0];
        let sum = checksum(&[header.octets()]);
        let [_, _, _, _, _, _, _, _, _, _, high, low, ..] = &mut header.octets;
        [*high, *low] = sum.to_be_bytes();
        Some((header, payload))
    }
}

/// Takes over the options that every fragment has (RFC 791 3.1: those with the copied flag), padded to whole words. What
/// follows an option without a proper length is left out.
fn copied_options(mut options: &[u8], header: &mut Header) {
    loop {
        let len = match options {
            [] | [0, ..] => break,
            [1, ..] => 1,
            [_, len, ..] if *len >= 2 => usize::from(*len),
            _ => break,
        };
        let Some((option, rest)) = options.split_at_checked(len) else { break };
        if option.first().is_some_and(|kind| kind & 0x80 != 0) {
            header.push(option);
        }
        options = rest;
    }
    // The rest is zero: the end of options.
    header.len = header.len.next_multiple_of(4);
}

#[cfg(test)]
mod tests {
    use adit_wire::ip::PROTOCOL_UDP;

    use super::*;

    /// A packet that may be fragmented, with options and a payload that counts.
    fn original(options: &[u8], payload: usize) -> Vec<u8> {
        let header = Ipv4Header {
            identification: 0x1234,
            dont_fragment: false,
            ..Ipv4Header::new([10, 1, 0, 1].into(), [10, 2, 0, 1].into(), PROTOCOL_UDP, 63, payload)
        };
        let mut packet = header.encode().to_vec();
        packet.extend_from_slice(options);
        let (ihl, total) = (packet.len() / 4, packet.len() + payload);
        packet[0] = 0x40 | ihl as u8;
        packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        fix_sum(&mut packet);
        packet.extend((0..payload).map(|i| (i >> 3) as u8));
        packet
    }

    fn fix_sum(header: &mut [u8]) {
        header[10..12].fill(0);
        let sum = checksum(&[header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }

    fn all(packet: &[u8], max: usize) -> Vec<Vec<u8>> {
        let fragments = Fragments::of(packet, max).unwrap();
        fragments.map(|(header, payload)| [header.octets(), &packet[payload]].concat()).collect()
    }

    /// RFC 791, appendix A, example 2: 452 octets of data through a network of 280.
    #[test]
    fn the_example_of_rfc_791() {
        let mut packet = original(&[], 452);
        packet[4..6].copy_from_slice(&111_u16.to_be_bytes());
        packet[8] = 123;
        packet[9] = 6;
        fix_sum(&mut packet[..20]);
        let [first, second] = &all(&packet, 280)[..] else { panic!() };
        // "Total Length = 276 .. Flg=1, Fragment Offset = 0" and "Total Length = 216 .. Fragment Offset = 32".
        assert_eq!(first[..10], [0x45, 0, 1, 20, 0, 111, 0x20, 0, 123, 6]);
        assert_eq!(second[..10], [0x45, 0, 0, 216, 0, 111, 0, 32, 123, 6]);
        assert_eq!(first[20..], packet[20..276]);
        assert_eq!(second[20..], packet[276..]);
    }

    /// Every octet once and in place, sums right, sizes within bounds, for options copied and not, and for a packet that is
    /// a fragment itself.
    #[test]
    fn fragments_make_the_whole() {
        // Record route (7, not copied), security (130, copied), no operation, loose source route (131, copied).
        let options =
            [&[7, 7, 4, 0, 0, 0, 0][..], &[130, 3, 9], &[1], &[131, 7, 4, 10, 9, 9, 9], &[0, 0]].concat();
        for options in [&[][..], &options] {
            for payload in [0, 1, 8, 100, 1479, 1480, 1481, 9000, 65_000] {
                for (start, last) in [(0, true), (0, false), (800, true), (800, false)] {
                    if start + payload > 65_535 || (!last && payload % 8 != 0) {
                        continue;
                    }
                    let mut packet = original(options, payload);
                    let flags = (start / 8) as u16 | if last { 0 } else { 0x2000 };
                    packet[6..8].copy_from_slice(&flags.to_be_bytes());
                    let header_len = 20 + options.len();
                    fix_sum(&mut packet[..header_len]);
                    for max in [header_len + 8, 68, 576, 1438, 1500] {
                        let fragments = all(&packet, max);
                        let mut next = start;
                        for (index, one) in fragments.iter().enumerate() {
                            let header = Ipv4Header::decode(one).unwrap();
                            assert!(one.len() <= max && header.total_len == one.len());
                            assert_eq!(checksum(&[&one[..header.header_len]]), 0);
                            assert_eq!(usize::from(header.fragment_offset), next);
                            assert_eq!(
                                (header.identification, header.ttl, header.protocol),
                                (0x1234, 63, 17)
                            );
                            let is_last = index + 1 == fragments.len();
                            assert_eq!(header.more_fragments, !(is_last && last));
                            let from = header_len + next - start;
                            let body = &one[header.header_len..];
                            assert_eq!(*body, packet[from..from + body.len()]);
                            next += body.len();
                            match (index, options.is_empty()) {
                                (_, true) => assert_eq!(header.header_len, 20),
                                (0, false) => assert_eq!(one[20..header_len], *options),
                                // Security and source route, padded to whole words.
                                (_, false) => assert_eq!(
                                    one[20..header.header_len],
                                    [130, 3, 9, 131, 7, 4, 10, 9, 9, 9, 0, 0]
                                ),
                            }
                        }
                        assert_eq!(next, start + payload, "{payload} {max}");
                    }
                }
            }
        }
    }

    #[test]
    fn in_place_they_are_the_same() {
        for (options, payload) in [(&[][..], 9000), (&[130, 3, 9, 0], 3001), (&[7, 4, 4, 0], 1), (&[], 0)] {
            let packet = original(options, payload);
            for max in [60, 576, 1438] {
                let (mut within, mut fragments) = (packet.clone(), Fragments::of(&packet, max).unwrap());
                let expected = all(&packet, max);
                assert_eq!(fragments.clone().count(), expected.len());
                for one in &expected {
                    assert_eq!(fragments.next_within(&mut within), Some(&one[..]));
                }
                assert_eq!(fragments.next_within(&mut within), None);
            }
        }
    }

    #[test]
    fn what_may_not_be_fragmented_is_not() {
        let mut packet = original(&[], 1000);
        assert!(may_fragment(&packet));
        assert!(Fragments::of(&packet, 27).is_none(), "no room for 8 octets");
        assert!(Fragments::of(&packet[..999], 576).is_none(), "not whole");
        packet[6] = 0x40;
        assert!(!may_fragment(&packet) && Fragments::of(&packet, 576).is_none());
        packet[0] = 0x65;
        packet[6] = 0;
        assert!(!may_fragment(&packet) && Fragments::of(&packet, 576).is_none());
        assert!(!may_fragment(&[]) && Fragments::of(&[], 576).is_none());
    }

    /// Options whose lengths lead astray do no harm.
    #[test]
    fn odd_options_are_left_out() {
        for options in [&[0x82, 0, 9, 9][..], &[0x82, 1, 9, 9], &[0x82, 200, 9, 9], &[0x82, 3, 9, 0x83]] {
            for one in all(&original(options, 3000), 600).iter().skip(1) {
                let header_len = Ipv4Header::decode(one).unwrap().header_len;
                assert_eq!(header_len, if options[1] == 3 { 24 } else { 20 });
            }
        }
    }
}
