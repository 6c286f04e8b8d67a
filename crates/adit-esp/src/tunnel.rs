//! What the outer and the inner header have to do with each other in tunnel mode (RFC 4301 5.1.2, RFC 6040), and how much
//! fits inside (RFC 4301 8.2).
//!
//! This module owns the ECN, DSCP and DF rules and the MTU arithmetic. It never writes an outer header.
//!
//! * The flow label of an inner IPv6 packet is not copied: on a gateway, copies of labels that different hosts chose would
//!   collide (RFC 4301 5.1.2.2, note 8).
//! * DSCP is copied inwards only on request: whoever sits between the gateways could rewrite it (RFC 4301 5.1.2.1).
//! * The TTL or hop limit of the inner packet is not touched here. RFC 4301 5.1.2.1 has it decremented because the gateway
//!   forwards the packet, and the kernel does that: outbound when it routes the packet into the TUN device, inbound when it
//!   routes what came out of it.

use crate::{Drop, Layout, headers};

/// The two bits of Explicit Congestion Notification (RFC 3168).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Ecn {
    /// The transport does not know ECN.
    NotEct = 0b00,
    /// ECN-capable transport, codepoint 1.
    Ect1 = 0b01,
    /// ECN-capable transport, codepoint 0.
    Ect0 = 0b10,
    /// Congestion experienced.
    Ce = 0b11,
}

impl Ecn {
    /// The ECN field of an IPv4 TOS or IPv6 traffic class octet.
    #[must_use]
    pub fn from_traffic_class(octet: u8) -> Self {
        match octet & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// What the packet inside leaves the tunnel with (RFC 6040 4.2, Figure 4), or `None` if it has to be dropped: its
    /// transport would not understand that it met congestion.
    #[must_use]
    pub fn decapsulate(outer: Self, inner: Self) -> Option<Self> {
        match (inner, outer) {
            (Self::NotEct, Self::Ce) => None,
            (Self::NotEct, _) => Some(Self::NotEct),
            (Self::Ce, _) | (_, Self::Ce) => Some(Self::Ce),
            (_, Self::Ect1) => Some(Self::Ect1),
            (inner, Self::Ect0 | Self::NotEct) => Some(inner),
        }
    }
}

/// What an outer header takes from the inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterPolicy {
    /// The differentiated services codepoint.
    pub dscp: Dscp,
    /// Copy the ECN field (RFC 6040 normal mode); `false` sends Not-ECT (its compatibility mode).
    pub copy_ecn: bool,
    /// The don't-fragment bit of an IPv4 outer header.
    pub df: DontFragment,
}

/// The DSCP of the outer header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dscp {
    /// As the inner packet has it.
    Copy,
    /// Always this one, of six bits.
    Set(u8),
}

/// The DF bit of the outer header, which exists in IPv4 alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DontFragment {
    /// As the inner IPv4 packet has it; set for an inner IPv6 packet, which no router may fragment either.
    Copy,
    /// Always set.
    Set,
    /// Never set.
    Clear,
}

impl Default for OuterPolicy {
    /// Everything copied outwards (RFC 4301 5.1.2.1, RFC 6040 4.1).
    fn default() -> Self {
        Self { dscp: Dscp::Copy, copy_ecn: true, df: DontFragment::Copy }
    }
}

/// The fields of an outer header that depend on the inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterFields {
    /// IPv4 TOS or IPv6 traffic class.
    pub traffic_class: u8,
    /// IPv4 DF.
    pub dont_fragment: bool,
}

impl OuterPolicy {
    /// The fields for the packet that carries `inner`. Of what is not IP nothing is copied.
    #[must_use]
    pub fn fields(&self, inner: &[u8]) -> OuterFields {
        let (class, df) = match inner.first_chunk() {
            Some([first, second, _, _, _, _, flags, _]) if first >> 4 == 4 => (*second, flags & 0x40 != 0),
            Some([first, second, ..]) if first >> 4 == 6 => (first << 4 | second >> 4, true),
            _ => (0, false),
        };
        let dscp = match self.dscp {
            Dscp::Copy => class & 0b1111_1100,
            Dscp::Set(dscp) => dscp << 2,
        };
        let ecn = if self.copy_ecn { class & 0b11 } else { 0 };
        let dont_fragment = match self.df {
            DontFragment::Copy => df,
            DontFragment::Set => true,
            DontFragment::Clear => false,
        };
        OuterFields { traffic_class: dscp | ecn, dont_fragment }
    }
}

/// Gives an opened packet the ECN field that RFC 6040 4.2 derives from its own and the outer one.
///
/// # Errors
/// [`Drop::Congestion`] if the combination demands that the packet be dropped.
#[inline]
pub fn decapsulate_ecn(outer: Ecn, inner: &mut [u8]) -> Result<(), Drop> {
    // That changes nothing, whatever is inside.
    if outer == Ecn::NotEct {
        return Ok(());
    }
    match inner {
        [first, tos, rest @ ..] if *first >> 4 == 4 => {
            let before = *tos;
            let after = Ecn::decapsulate(outer, Ecn::from_traffic_class(before)).ok_or(Drop::Congestion)?;
            *tos = before & !0b11 | after as u8;
            if let (true, [_, _, _, _, _, _, _, _, high, low, ..]) = (*tos != before, rest) {
                let word = |tos| u16::from_be_bytes([*first, tos]);
                let checksum = u16::from_be_bytes([*high, *low]);
                [*high, *low] = headers::updated(checksum, word(before), word(*tos)).to_be_bytes();
            }
        }
        [first, second, ..] if *first >> 4 == 6 => {
            let after =
                Ecn::decapsulate(outer, Ecn::from_traffic_class(*second >> 4)).ok_or(Drop::Congestion)?;
            *second = *second & !0b0011_0000 | (after as u8) << 4;
        }
        _ => {}
    }
    Ok(())
}

/// Gives an opened packet the DSCP of the outer header. It is for networks that mark packets on their way and trust each other.
pub fn decapsulate_dscp(outer: u8, inner: &mut [u8]) {
    match inner {
        [first, tos, _, _, _, _, _, _, _, _, high, low, ..] if *first >> 4 == 4 => {
            let word = |tos| u16::from_be_bytes([*first, tos]);
            let after = outer & !0b11 | *tos & 0b11;
            if after == *tos {
                return;
            }
            let checksum = u16::from_be_bytes([*high, *low]);
            [*high, *low] = headers::updated(checksum, word(*tos), word(after)).to_be_bytes();
            *tos = after;
        }
        [first, second, ..] if *first >> 4 == 6 => {
            *first = 0x60 | outer >> 4;
            *second = *second & 0b0011_1111 | (outer & 0b0000_1100) << 4;
        }
        _ => {}
    }
}

/// Padding against traffic analysis (RFC 4303 2.7): how long inner packets look from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tfc {
    /// As long as they are.
    #[default]
    Off,
    /// At least so many octets, as far as the path carries them.
    AtLeast(u16),
    /// All as long as the path carries.
    Path,
}

impl Tfc {
    /// The least length that an inner packet is given, where inner packets of `max_inner` octets fit.
    #[must_use]
    pub fn at_least(self, max_inner: usize) -> usize {
        match self {
            Self::Off => 0,
            Self::AtLeast(len) => usize::from(len).min(max_inner),
            // Not known yet: no length is better than another.
            Self::Path if max_inner > usize::from(u16::MAX) => 0,
            Self::Path => max_inner,
        }
    }
}

/// How much of what is said about a path MTU is believed: an IPv4 path carries 552 octets, an IPv6 path 1280 (RFC 8200 5).
/// Whoever knows our addresses and ports can forge the messages that lower it (RFC 8201 6, RFC 1191 6.3): this is what
/// they can do, until the kernel forgets after ten minutes. 552 is where Linux stops believing, too; if a path does
/// carry less, the kernel fragments outer packets, and everything still arrives.
#[must_use]
pub fn believed_path_mtu(told: usize, ipv6: bool) -> usize {
    told.max(if ipv6 { 1280 } else { 552 })
}

/// What an ESP packet travels in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encapsulation {
    /// The gateways talk over IPv6.
    pub ipv6: bool,
    /// In UDP (RFC 3948).
    pub udp: bool,
}

impl Encapsulation {
    /// Bytes of the outer headers in front of the ESP packet: IP without options, and UDP if there is.
    #[must_use]
    pub fn header_len(self) -> usize {
        (if self.ipv6 { 40 } else { 20 }) + (if self.udp { 8 } else { 0 })
    }

    /// Length of the outer packet that carries an inner one of `inner` bytes.
    #[must_use]
    pub fn outer_len(self, layout: Layout, inner: usize) -> usize {
        self.header_len() + layout.packet_len(inner)
    }

    /// The longest inner packet whose outer packet has at most `outer_mtu` bytes; 0 if none fits.
    #[must_use]
    pub fn max_inner(self, layout: Layout, outer_mtu: usize) -> usize {
        layout.max_payload(outer_mtu.saturating_sub(self.header_len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::suites;

    #[test]
    fn the_class_is_copied_inwards_without_the_congestion_mark() {
        for (outer, inner, expected) in [(0xb8, 0x02, 0xba), (0x03, 0xb9, 0x01), (0xff, 0x00, 0xfc)] {
            for make in [ipv4, ipv6] {
                let mut packet = make(inner);
                decapsulate_dscp(outer, &mut packet);
                assert_eq!(packet, make(expected), "{outer:02x} {inner:02x}");
            }
        }
        decapsulate_dscp(0xb8, &mut [0x45]);
    }

    /// RFC 6040, Figure 4, cell by cell: rows Not-ECT, ECT(0), ECT(1), CE inside; columns the same outside.
    #[test]
    fn all_sixteen_cells() {
        use Ecn::{Ce, Ect0, Ect1, NotEct};
        let order = [NotEct, Ect0, Ect1, Ce];
        let table = [
            [Some(NotEct), Some(NotEct), Some(NotEct), None],
            [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)],
            [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)],
            [Some(Ce), Some(Ce), Some(Ce), Some(Ce)],
        ];
        for (inner, row) in order.into_iter().zip(table) {
            for (outer, cell) in order.into_iter().zip(row) {
                assert_eq!(Ecn::decapsulate(outer, inner), cell, "inner {inner:?} outer {outer:?}");
                for (version, mut packet) in [(4, ipv4(0xb8 | inner as u8)), (6, ipv6(0xb8 | inner as u8))] {
                    let before = packet.clone();
                    let done = decapsulate_ecn(outer, &mut packet);
                    let Some(cell) = cell else {
                        assert_eq!(done, Err(Drop::Congestion));
                        continue;
                    };
                    assert_eq!(done, Ok(()));
                    let expected =
                        if version == 4 { ipv4(0xb8 | cell as u8) } else { ipv6(0xb8 | cell as u8) };
                    assert_eq!(packet, expected, "IPv{version}, from {before:02x?}");
                }
            }
        }
    }

    #[test]
    fn the_checksum_is_right_whatever_it_was() {
        for id in 0..=u16::MAX {
            let mut packet = ipv4(Ecn::Ect0 as u8);
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            fix_checksum(&mut packet);
            decapsulate_ecn(Ecn::Ce, &mut packet).unwrap();
            let sum = packet.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(c[1])).sum::<u32>();
            assert_eq!(sum % 0xffff, 0, "id {id}");
        }
    }

    #[test]
    fn outer_fields_follow_the_policy() {
        let copy = OuterPolicy::default();
        let mut v4 = ipv4(0xb9);
        assert_eq!(copy.fields(&v4), OuterFields { traffic_class: 0xb9, dont_fragment: false });
        v4[6] = 0x40;
        assert_eq!(copy.fields(&v4), OuterFields { traffic_class: 0xb9, dont_fragment: true });
        assert_eq!(copy.fields(&ipv6(0xb9)), OuterFields { traffic_class: 0xb9, dont_fragment: true });
        assert_eq!(copy.fields(&[]), OuterFields { traffic_class: 0, dont_fragment: false });

        let own = OuterPolicy { dscp: Dscp::Set(10), copy_ecn: false, df: DontFragment::Clear };
        assert_eq!(own.fields(&v4), OuterFields { traffic_class: 40, dont_fragment: false });
        let set = OuterPolicy { dscp: Dscp::Set(0), copy_ecn: true, df: DontFragment::Set };
        assert_eq!(set.fields(&ipv4(0xb9)), OuterFields { traffic_class: 1, dont_fragment: true });
    }

    /// The longest inner packet fits, one byte more does not, for every suite, way and MTU.
    #[test]
    fn max_inner_is_exact() {
        for (_, transforms) in suites() {
            let layout = Layout::of(&transforms).unwrap();
            for ipv6 in [false, true] {
                for udp in [false, true] {
                    let way = Encapsulation { ipv6, udp };
                    for mtu in 200..1600 {
                        let inner = way.max_inner(layout, mtu);
                        assert!(way.outer_len(layout, inner) <= mtu, "{way:?} {layout:?} {mtu}: {inner}");
                        assert!(way.outer_len(layout, inner + 1) > mtu, "{way:?} {layout:?} {mtu}: {inner}");
                    }
                    assert_eq!(way.max_inner(layout, 0), 0);
                }
            }
        }
    }

    #[test]
    fn forged_path_mtus_have_a_floor() {
        for (told, v4, v6) in [
            (0, 552, 1280),
            (68, 552, 1280),
            (551, 552, 1280),
            (576, 576, 1280),
            (1279, 1279, 1280),
            (1500, 1500, 1500),
        ] {
            assert_eq!((believed_path_mtu(told, false), believed_path_mtu(told, true)), (v4, v6));
        }
    }

    #[test]
    fn padding_never_makes_what_does_not_fit() {
        assert_eq!(Tfc::Off.at_least(1438), 0);
        assert_eq!(Tfc::AtLeast(1000).at_least(1438), 1000);
        assert_eq!(Tfc::AtLeast(1500).at_least(1438), 1438);
        assert_eq!((Tfc::Path.at_least(1438), Tfc::Path.at_least(usize::MAX)), (1438, 0));
    }

    /// Worked by hand: 1500 - 20 - 8 - 8 (ESP) - 8 (IV) - 16 (ICV) = 1440, less the trailer of 2.
    #[test]
    fn max_inner_of_the_common_case() {
        let gcm = suites().find(|(name, _)| *name == "AES_GCM_16-256").unwrap().1;
        let layout = Layout::of(&gcm).unwrap();
        assert_eq!(Encapsulation { ipv6: false, udp: true }.max_inner(layout, 1500), 1438);
        assert_eq!(Encapsulation { ipv6: true, udp: false }.max_inner(layout, 1500), 1426);
    }

    /// A header of 20 bytes, DF clear, with the given TOS and a right checksum.
    fn ipv4(tos: u8) -> Vec<u8> {
        let mut packet = vec![0x45, tos, 0, 20, 0x12, 0x34, 0, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1];
        fix_checksum(&mut packet);
        packet
    }

    fn fix_checksum(packet: &mut [u8]) {
        packet[10..12].fill(0);
        let mut sum = packet.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(c[1])).sum::<u32>();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }

    /// A header with the given traffic class and a flow label.
    fn ipv6(class: u8) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[..4].copy_from_slice(&(6 << 28 | u32::from(class) << 20 | 0xabcde).to_be_bytes());
        packet
    }
}
