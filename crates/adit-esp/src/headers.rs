//! Where the transport header of an inner packet lies, and how its checksum follows a change. It owns no rule: those who
//! rewrite packets do (the modules `mss` and `translate`).

use adit_wire::ip::{Ipv6Fragment, Ipv6Header};

/// What the checksum field of a transport header holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The checksum.
    Whole,
    /// The sum of the pseudo-header alone: whoever sends the packet completes it. Packets that the kernel has not cut yet
    /// come so.
    Partial,
}

impl Checksum {
    /// The field after one 16-bit word that it covers has changed.
    pub(crate) fn updated(self, field: u16, old: u16, new: u16) -> u16 {
        match self {
            Self::Whole => updated(field, old, new),
            // The same sum, not yet inverted.
            Self::Partial => !updated(!field, old, new),
        }
    }
}

/// An internet checksum after one of its words changed from `old` to `new` (RFC 1624, equation 3).
pub(crate) fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// The part of a packet behind its IP headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Upper {
    pub(crate) v6: bool,
    pub(crate) protocol: u8,
    /// Where it begins.
    pub(crate) offset: usize,
    pub(crate) fragment: Option<Fragment>,
}

/// That a packet is part of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) identification: u32,
    /// In octets, a multiple of 8.
    pub(crate) offset: u16,
    pub(crate) more: bool,
}

impl Upper {
    /// `None` for what is no IP packet, or whose headers are incomplete. Cheap for all but IPv6 with extension headers.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        match packet {
            [first, _, _, _, id_high, id_low, flags_high, flags_low, _, protocol, ..] if first >> 4 == 4 => {
                let flags = u16::from_be_bytes([*flags_high, *flags_low]);
                let fragment = (flags & 0x3fff != 0).then(|| Fragment {
                    identification: u16::from_be_bytes([*id_high, *id_low]).into(),
                    offset: (flags & 0x1fff) << 3,
                    more: flags & 0x2000 != 0,
                });
                let offset = usize::from(first & 0x0f) * 4;
                (offset >= 20 && offset <= packet.len()).then_some(Self {
                    v6: false,
                    protocol: *protocol,
                    offset,
                    fragment,
                })
            }
            [first, _, _, _, _, _, 0 | 43 | 44 | 60, ..] if first >> 4 == 6 => {
                let header = Ipv6Header::decode(packet).ok()?;
                let upper = header.upper_layer(packet).ok()?;
                let fragment = upper.fragment.map(|Ipv6Fragment { offset, more, identification }| Fragment {
                    identification,
                    offset,
                    more,
                });
                Some(Self { v6: true, protocol: upper.protocol, offset: upper.offset, fragment })
            }
            [first, _, _, _, _, _, protocol, ..] if first >> 4 == 6 && packet.len() >= 40 => {
                Some(Self { v6: true, protocol: *protocol, offset: 40, fragment: None })
            }
            _ => None,
        }
    }
}
