//! What the kernel and the gateway leave to each other in a packet that crosses the TUN device: the header in front of each
//! packet (virtio 1.2, 5.1.6), and sums over octets. It knows nothing of what the packets are for.

use crate::sys;

/// The header in front of a packet, if the device has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offload {
    /// Is a checksum still to be made, from `checksum_start` to the end, into the place `checksum_offset` behind that?
    pub(crate) needs_checksum: bool,
    pub(crate) kind: Segmentation,
    /// Octets of payload in each packet that this one stands for; 0 if it stands for itself.
    pub(crate) segment: u16,
    pub(crate) checksum_start: u16,
    pub(crate) checksum_offset: u16,
}

/// How a packet is to be cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Segmentation {
    /// It is one packet.
    #[default]
    None,
    Tcp,
    Udp,
    /// In a way that we did not ask for.
    Unknown,
}

impl Offload {
    /// Octets of the header.
    pub(crate) const LEN: usize = 10;
    const NEEDS_CHECKSUM: u8 = 1;
    const TCP_V4: u8 = 1;
    const TCP_V6: u8 = 4;
    const UDP: u8 = 5;
    /// The TCP stream uses ECN: only the first packet may have CWR. Ours always do so.
    const ECN: u8 = 0x80;

    pub(crate) fn decode(header: &[u8; Self::LEN]) -> Self {
        let [flags, kind, _, _, s0, s1, c0, c1, o0, o1] = *header;
        let kind = match kind & !Self::ECN {
            0 => Segmentation::None,
            Self::TCP_V4 | Self::TCP_V6 => Segmentation::Tcp,
            Self::UDP => Segmentation::Udp,
            _ => Segmentation::Unknown,
        };
        Self {
            needs_checksum: flags & Self::NEEDS_CHECKSUM != 0,
            kind,
            segment: u16::from_ne_bytes([s0, s1]),
            checksum_start: u16::from_ne_bytes([c0, c1]),
            checksum_offset: u16::from_ne_bytes([o0, o1]),
        }
    }

    /// The header in front of a packet of family `v6` with `header_len` octets of headers.
    pub(crate) fn encode(&self, v6: bool, header_len: u16) -> [u8; Self::LEN] {
        let kind = match (self.kind, v6) {
            (Segmentation::Tcp, false) => Self::TCP_V4,
            (Segmentation::Tcp, true) => Self::TCP_V6,
            (Segmentation::Udp, _) => Self::UDP,
            (Segmentation::None | Segmentation::Unknown, _) => 0,
        };
        let [h0, h1] = header_len.to_ne_bytes();
        let [s0, s1] = self.segment.to_ne_bytes();
        let [c0, c1] = self.checksum_start.to_ne_bytes();
        let [o0, o1] = self.checksum_offset.to_ne_bytes();
        [u8::from(self.needs_checksum), kind, h0, h1, s0, s1, c0, c1, o0, o1]
    }
}

/// The sum of an Internet checksum (RFC 1071), not yet complemented. Parts of a packet may be added up in any order, as long as
/// each but the last has an even length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Of 16-bit words; what is missing in the last is 0.
    pub(crate) fn of(octets: &[u8]) -> Self {
        Self(sys::sum(octets))
    }

    /// With one more word.
    pub(crate) fn and(self, word: u16) -> Self {
        Self(self.0 + u64::from(word.to_be()))
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The sum itself, as the kernel wants it of a pseudo-header.
    pub(crate) fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::from_be(sum as u16)
    }

    /// What goes into a checksum field that counted as 0; 0 itself if the field was right already.
    pub(crate) fn checksum(self) -> u16 {
        !self.folded()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_survive() {
        for (kind, v6) in [
            (Segmentation::None, false),
            (Segmentation::Tcp, false),
            (Segmentation::Tcp, true),
            (Segmentation::Udp, true),
        ] {
            let offload = Offload {
                needs_checksum: kind != Segmentation::None,
                kind,
                segment: 1400,
                checksum_start: 40,
                checksum_offset: 16,
            };
            assert_eq!(Offload::decode(&offload.encode(v6, 60)), offload);
        }
        assert_eq!(Offload::decode(&[0; 10]), Offload::default());
        assert_eq!(Offload::decode(&[1, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]).kind, Segmentation::Tcp);
        assert_eq!(Offload::decode(&[0, 3, 0, 0, 0, 0, 0, 0, 0, 0]).kind, Segmentation::Unknown);
    }

    proptest! {
        /// Against adding octet by octet.
        #[test]
        fn sums_agree_with_the_slow_ones(octets in prop::collection::vec(any::<u8>(), 0..400), cut in 0_usize..200, word: u16) {
            let expected = adit_wire::ip::checksum(&[&octets, &[0][..octets.len() % 2], &word.to_be_bytes()]);
            let (head, tail) = octets.split_at((cut * 2).min(octets.len() & !1));
            prop_assert_eq!(Sum::of(head).and(word).plus(Sum::of(tail)).checksum(), expected);
        }
    }
}
