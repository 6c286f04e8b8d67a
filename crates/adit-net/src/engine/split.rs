//! Cutting the super-packets that the kernel hands out into the packets that they stand for, and making the checksums that it
//! left open. The packets are what a network card would have sent (the kernel's own rules of segmentation). It copies octets
//! into places that it is given, and knows nothing of SAs.

use adit_wire::ip::{self, Flow, PROTOCOL_TCP, PROTOCOL_UDP};

use super::offload::{Offload, Segmentation, Sum};

/// A packet from the TUN device, with all that is needed to cut it.
pub(crate) struct Split<'p> {
    packet: &'p mut [u8],
    flow: Flow,
    /// Octets of the headers that every segment has.
    headers: usize,
    /// Octets of payload in every segment but the last.
    segment: usize,
    count: usize,
    /// Where the transport's header starts, and what is summed up of it; `None` for a packet that stands for itself.
    transport: Option<Transport>,
}

#[derive(Clone, Copy)]
struct Transport {
    tcp: bool,
    offset: usize,
    /// Of the pseudo-header without the length.
    pseudo: Sum,
}

/// More segments than any sender makes: 2^16 octets in TCP segments of 48 octets (the kernel's smallest) are fewer.
const MAX_SEGMENTS: usize = 2048;

const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

impl<'p> Split<'p> {
    /// Looks at a packet. A checksum that the packet itself lacks is put in. Checksums, lengths and the like of a super-packet
    /// mean nothing yet: [`write`](Self::write) makes them.
    ///
    /// `None`: it is no IP packet, or what the kernel says about it does not fit.
    pub(crate) fn new(packet: &'p mut [u8], offload: &Offload) -> Option<Self> {
        if offload.kind == Segmentation::None && offload.needs_checksum {
            complete_checksum(packet, offload)?;
        }
        let flow = ip::flow(packet).ok()?;
        let packet = packet.get_mut(..flow.total_len)?;
        let tcp = match offload.kind {
            Segmentation::None => {
                let segment = flow.total_len;
                return Some(Self { packet, flow, headers: 0, segment, count: 1, transport: None });
            }
            Segmentation::Tcp => true,
            Segmentation::Udp => false,
            Segmentation::Unknown => return None,
        };
        let offset = transport_offset(packet)?;
        let protocol = if tcp { PROTOCOL_TCP } else { PROTOCOL_UDP };
        let header = packet.get(offset..)?;
        let header_len = if tcp { usize::from(*header.get(12)? >> 4) * 4 } else { 8 };
        if flow.protocol != protocol || header_len < if tcp { 20 } else { 8 } {
            return None;
        }
        let headers = offset + header_len;
        let (segment, payload) = (usize::from(offload.segment), packet.len().checked_sub(headers)?);
        let count = payload.checked_div(segment)? + usize::from(!payload.is_multiple_of(segment));
        if count > MAX_SEGMENTS {
            return None;
        }
        let addresses = if is_v6(packet) { packet.get(8..40)? } else { packet.get(12..20)? };
        let pseudo = Sum::of(addresses).and(protocol.into());
        let transport = Some(Transport { tcp, offset, pseudo });
        let split = Self { packet, flow, headers, segment, count: count.max(1), transport };
        if count > 1 {
            return Some(split);
        }
        // One segment, or none, is a packet all the same: it is finished here, since it may leave as it stands.
        let whole = split.to_vec(0)?;
        split.packet.copy_from_slice(&whole);
        Some(split)
    }

    /// What all of its segments have in common for selectors.
    pub(crate) fn flow(&self) -> &Flow {
        &self.flow
    }

    /// The headers, and whatever follows.
    pub(crate) fn packet(&self) -> &[u8] {
        self.packet
    }

    /// The same, for changing what belongs to every packet, or the only one.
    pub(crate) fn packet_mut(&mut self) -> &mut [u8] {
        self.packet
    }

    /// How many packets it stands for.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Octets of packet number `index`, from 0 on. None is longer than the first.
    pub(crate) fn len(&self, index: usize) -> usize {
        let payload = self.packet.len() - self.headers;
        self.headers + self.segment.min(payload.saturating_sub(index * self.segment))
    }

    /// Packet number `index`, in place of what is in `copy`.
    pub(crate) fn copy(&self, index: usize, copy: &mut Vec<u8>) -> Option<()> {
        copy.resize(self.len(index), 0);
        self.write(index, copy)
    }

    /// Packet number `index` for itself.
    pub(crate) fn to_vec(&self, index: usize) -> Option<Vec<u8>> {
        let mut packet = Vec::new();
        self.copy(index, &mut packet)?;
        Some(packet)
    }

    /// Writes packet number `index` to `out`, which is as long as [`len`](Self::len) says. `None`: it is not.
    pub(crate) fn write(&self, index: usize, out: &mut [u8]) -> Option<()> {
        let Some(transport) = self.transport else {
            return (out.len() == self.packet.len()).then(|| out.copy_from_slice(self.packet));
        };
        let start = self.headers + index * self.segment;
        let payload = self.packet.get(start..start + self.len(index) - self.headers)?;
        let (header, body) = out.split_at_mut_checked(self.headers)?;
        if body.len() != payload.len() {
            return None;
        }
        header.copy_from_slice(self.packet.get(..self.headers)?);
        body.copy_from_slice(payload);
        finish(&transport, (index, self.segment, self.count), header, body)
    }

    /// Packet number `index`, made where its payload lies: its headers take the place of what is in front of it, which only
    /// packets before it need. They cannot be made again then. `None`: there is no room.
    pub(crate) fn take(&mut self, index: usize) -> Option<&[u8]> {
        let transport = self.transport?;
        let (start, len) = (index * self.segment, self.len(index));
        // The first has the headers that the others are made with.
        let (headers, payloads) = self.packet.split_at_mut_checked(self.headers)?;
        let packet = payloads.get_mut(start.checked_sub(self.headers)?..)?.get_mut(..len)?;
        let (header, body) = packet.split_at_mut_checked(self.headers)?;
        header.copy_from_slice(headers);
        finish(&transport, (index, self.segment, self.count), header, body)?;
        Some(packet)
    }
}

/// Makes the copied headers those of packet number `index` of so many, each with so much payload.
fn finish(
    transport: &Transport,
    (index, segment, count): (usize, usize, usize),
    header: &mut [u8],
    body: &[u8],
) -> Option<()> {
    let total = header.len() + body.len();
    let (network, upper) = header.split_at_mut_checked(transport.offset)?;
    finish_network(network, total, index)?;
    let length = u16::try_from(total - transport.offset).ok()?;
    let pseudo = transport.pseudo.and(length);
    if transport.tcp {
        finish_tcp(upper, index * segment, index == 0, index + 1 == count)?;
        let sum = pseudo.plus(Sum::of(upper)).plus(Sum::of(body));
        put(upper, TCP_CHECKSUM, sum.checksum())
    } else {
        put(upper, 4, length)?;
        put(upper, UDP_CHECKSUM, 0)?;
        let sum = pseudo.plus(Sum::of(upper)).plus(Sum::of(body));
        // RFC 768: a sum of zero goes out as its other representation, because zero means none.
        put(upper, UDP_CHECKSUM, if sum.checksum() == 0 { 0xffff } else { sum.checksum() })
    }
}

/// Lengths, the identification that tells packets apart (each its own, RFC 791 3.2), and the header's checksum.
fn finish_network(network: &mut [u8], total: usize, index: usize) -> Option<()> {
    if is_v6(network) {
        return put(network, 4, u16::try_from(total - 40).ok()?);
    }
    put(network, 2, u16::try_from(total).ok()?)?;
    let identification = word(network, 4)?.wrapping_add(index as u16);
    put(network, 4, identification)?;
    put(network, 10, 0)?;
    put(network, 10, Sum::of(network).checksum())
}

/// The sequence number, and the flags that belong to the first or the last segment alone: FIN and PSH say that nothing
/// follows at once, and CWR (RFC 3168 6.1.2) is told once. The checksum is left 0.
fn finish_tcp(tcp: &mut [u8], offset: usize, first: bool, last: bool) -> Option<()> {
    const FIN_AND_PSH: u8 = 0x01 | 0x08;
    const CWR: u8 = 0x80;
    let sequence = tcp.get_mut(4..8)?.first_chunk_mut::<4>()?;
    *sequence = u32::from_be_bytes(*sequence).wrapping_add(offset as u32).to_be_bytes();
    let flags = tcp.get_mut(13)?;
    *flags &= !if last { 0 } else { FIN_AND_PSH };
    *flags &= !if first { 0 } else { CWR };
    put(tcp, TCP_CHECKSUM, 0)
}

/// Puts the checksum in that the kernel left open: its field holds the pseudo-header's sum.
fn complete_checksum(packet: &mut [u8], offload: &Offload) -> Option<()> {
    let summed = packet.get_mut(offload.checksum_start.into()..)?;
    let checksum = match Sum::of(summed).checksum() {
        // RFC 768: zero means none. To others it is the same number.
        0 => 0xffff,
        checksum => checksum,
    };
    put(summed, offload.checksum_offset.into(), checksum)
}

/// `None`: it is a fragment, which has no header of its own to be finished.
fn transport_offset(packet: &[u8]) -> Option<usize> {
    if is_v6(packet) {
        let upper = ip::Ipv6Header::decode(packet).and_then(|header| header.upper_layer(packet)).ok()?;
        return upper.fragment.is_none().then_some(upper.offset);
    }
    let fragment = word(packet, 6)? & 0x3fff;
    (fragment == 0).then_some(usize::from(packet.first()? & 0x0f) * 4)
}

fn is_v6(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 6)
}

fn word(octets: &[u8], at: usize) -> Option<u16> {
    octets.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

fn put(octets: &mut [u8], at: usize, value: u16) -> Option<()> {
    *octets.get_mut(at..)?.first_chunk_mut()? = value.to_be_bytes();
    Some(())
}
