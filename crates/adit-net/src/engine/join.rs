//! Joining opened packets of one flow into super-packets, which the kernel carries as one as far as the receiver, and could
//! cut into exactly these packets again. It compares headers and keeps the order of each flow; the octets stay where they
//! are.

use super::offload::{Offload, Segmentation, Sum};
use super::trains::MAX_OCTETS;

/// What is known of a packet that others may join, or that may join another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    tcp: bool,
    v6: bool,
    /// Where TCP or UDP starts, and where its payload does.
    upper: usize,
    pub(crate) headers: usize,
    pub(crate) payload: usize,
}

/// What a packet is to those that are still open.
pub(crate) enum Look {
    /// It may be joined, or at least opens the way for others of its flow.
    Candidate(Candidate),
    /// It is of a flow of its own, and nothing is joined to it.
    Apart,
    /// It may be of any flow: nothing before it may be joined by what comes after it.
    Odd,
}

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

impl Candidate {
    /// Reads the headers of a packet.
    pub(crate) fn look(packet: &[u8]) -> Look {
        let (v6, upper, protocol) = match packet {
            // Without options, and no fragment.
            [0x45, _, _, _, _, _, flags, offset, _, protocol, ..] if flags & !0x40 == 0 && *offset == 0 => {
                (false, 20, *protocol)
            }
            [first, _, _, _, _, _, protocol, ..] if first >> 4 == 6 => (true, 40, *protocol),
            _ => return Look::Odd,
        };
        let header = packet.get(upper..).unwrap_or_default();
        let (tcp, header_len) = match (protocol, header) {
            (6, [_, _, _, _, _, _, _, _, _, _, _, _, offset, ..]) => (true, usize::from(offset >> 4) * 4),
            (17, _) => (false, 8),
            // ICMP, ICMPv6, ESP, AH.
            (1 | 50 | 51 | 58, _) => return Look::Apart,
            _ => return Look::Odd,
        };
        let headers = upper + header_len;
        match packet.len().checked_sub(headers) {
            Some(payload) if header_len >= if tcp { 20 } else { 8 } => {
                Look::Candidate(Self { tcp, v6, upper, headers, payload })
            }
            _ => Look::Odd,
        }
    }

    /// May the packet be part of a super-packet at all, its checksums aside?
    pub(crate) fn joins(&self, packet: &[u8]) -> bool {
        let upper = packet.get(self.upper..).unwrap_or_default();
        if self.payload == 0 {
            return false;
        }
        match (self.tcp, upper) {
            (true, [_, _, _, _, _, _, _, _, _, _, _, _, reserved, flags, ..]) => {
                flags & !PSH == ACK && reserved & 0x0f == 0
            }
            (false, [_, _, _, _, l0, l1, c0, c1, ..]) => {
                usize::from(u16::from_be_bytes([*l0, *l1])) == upper.len() && (*c0, *c1) != (0, 0)
            }
            _ => false,
        }
    }

    /// A number that packets of one flow have in common.
    pub(crate) fn hash(&self, packet: &[u8]) -> usize {
        let Some(ports) = packet.get(self.upper..).and_then(<[u8]>::first_chunk::<4>) else { return 0 };
        let ports = u32::from_ne_bytes(*ports).wrapping_mul(0x9e37_79b1);
        (ports >> 20) as usize
    }

    /// Are two packets of one flow?
    pub(crate) fn is_flow_of(&self, packet: &[u8], other: &Self, of: &[u8]) -> bool {
        let addresses = if self.v6 { 8..40 } else { 12..20 };
        let ports = self.upper..self.upper + 4;
        (self.tcp, self.v6) == (other.tcp, other.v6)
            && packet.get(addresses.clone()) == of.get(addresses)
            && packet.get(ports.clone()) == of.get(ports)
    }

    /// Does a packet, which [joins](Self::joins), go on exactly where a super-packet ends? That begins with the packet `first`
    /// of `head`, which joins as well, and has `joined` packets by now, all with as much payload as the first.
    pub(crate) fn continues(&self, packet: &[u8], head: &Self, first: &[u8], joined: usize) -> bool {
        self.headers == head.headers
            && self.payload <= head.payload
            && self.headers + (joined + 1) * head.payload <= MAX_OCTETS
            && joined < if self.tcp { MAX_TCP } else { MAX_UDP }
            && self.same_network(packet, first, joined)
            && (!self.tcp || self.same_tcp(packet, first, joined * head.payload))
    }

    fn same_network(&self, packet: &[u8], first: &[u8], joined: usize) -> bool {
        match (packet, first) {
            // Traffic class, flow label, hop limit. Addresses are the flow's.
            ([a0, a1, a2, a3, _, _, _, a_hops, ..], [b0, b1, b2, b3, _, _, _, b_hops, ..]) if self.v6 => {
                [a0, a1, a2, a3, a_hops] == [b0, b1, b2, b3, b_hops]
            }
            // TOS, DF, TTL. Where routers may cut packets, their identifications have to count up as the kernel would count.
            (
                [_, a_tos, _, _, a0, a1, a_flags, _, a_ttl, ..],
                [_, b_tos, _, _, b0, b1, b_flags, _, b_ttl, ..],
            ) => {
                let id = |high: &u8, low: &u8| u16::from_be_bytes([*high, *low]);
                [a_tos, a_flags, a_ttl] == [b_tos, b_flags, b_ttl]
                    && (a_flags & 0x40 != 0 || id(a0, a1) == id(b0, b1).wrapping_add(joined as u16))
            }
            _ => false,
        }
    }

    /// The next sequence number; the same acknowledgement, window, urgent pointer and options.
    fn same_tcp(&self, packet: &[u8], first: &[u8], offset: usize) -> bool {
        let tcp =
            |packet: &'_ [u8]| packet.get(self.upper..).and_then(|tcp| tcp.first_chunk::<20>().copied());
        let (Some(a), Some(b)) = (tcp(packet), tcp(first)) else { return false };
        let sequence = |tcp: &[u8; 20]| u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let options = self.upper + 20..self.headers;
        sequence(&a) == sequence(&b).wrapping_add(offset as u32)
            && a[8..13] == b[8..13]
            && a[14..16] == b[14..16]
            && a[18..20] == b[18..20]
            && packet.get(options.clone()) == first.get(options)
    }

    /// Does the sender want the receiver to look at once? Then nothing may follow in a super-packet.
    pub(crate) fn pushes(&self, packet: &[u8]) -> bool {
        self.tcp && packet.get(self.upper + 13).is_some_and(|flags| flags & PSH != 0)
    }

    /// Are its checksums right? Only then may the kernel make new ones in their place.
    pub(crate) fn verifies(&self, packet: &[u8]) -> bool {
        let network = packet.get(..self.upper).unwrap_or_default();
        let upper = packet.get(self.upper..).unwrap_or_default();
        let sum = self.pseudo(packet, upper.len()).plus(Sum::of(upper));
        sum.checksum() == 0 && (self.v6 || Sum::of(network).checksum() == 0)
    }

    fn pseudo(&self, packet: &[u8], upper_len: usize) -> Sum {
        let addresses = if self.v6 { packet.get(8..40) } else { packet.get(12..20) };
        let protocol = if self.tcp { 6 } else { 17 };
        Sum::of(addresses.unwrap_or_default()).and(protocol).and(upper_len as u16)
    }

    /// The headers of the super-packet that begins with `first` and has `payload` octets of payload, written to `out`; and what
    /// the kernel has to know about it. `None` if they do not fit.
    pub(crate) fn head(
        &self,
        first: &[u8],
        payload: usize,
        push: bool,
        out: &mut [u8],
    ) -> Option<[u8; Offload::LEN]> {
        let out = out.get_mut(..self.headers)?;
        out.copy_from_slice(first.get(..self.headers)?);
        let total = self.headers + payload;
        let upper_len = total - self.upper;
        let pseudo = self.pseudo(first, upper_len).folded();
        let (network, upper) = out.split_at_mut_checked(self.upper)?;
        if self.v6 {
            put(network, 4, u16::try_from(total - 40).ok()?)?;
        } else {
            put(network, 2, u16::try_from(total).ok()?)?;
            put(network, 10, 0)?;
            put(network, 10, Sum::of(network).checksum())?;
        }
        let checksum_offset = if self.tcp {
            if push {
                *upper.get_mut(13)? |= PSH;
            }
            16
        } else {
            put(upper, 4, u16::try_from(upper_len).ok()?)?;
            6
        };
        put(upper, checksum_offset.into(), pseudo)?;
        let offload = Offload {
            needs_checksum: true,
            kind: if self.tcp { Segmentation::Tcp } else { Segmentation::Udp },
            segment: self.payload as u16,
            checksum_start: self.upper as u16,
            checksum_offset,
        };
        Some(offload.encode(self.v6, self.headers as u16))
    }

    pub(crate) fn is_tcp(&self) -> bool {
        self.tcp
    }
}

/// Packets in one super-packet. What one call writes has a bound as well (`UIO_MAXIOV`, 1024).
pub(crate) const MAX_TCP: usize = 256;
const MAX_UDP: usize = 64;

fn put(octets: &mut [u8], at: usize, value: u16) -> Option<()> {
    *octets.get_mut(at..)?.first_chunk_mut()? = value.to_be_bytes();
    Some(())
}
