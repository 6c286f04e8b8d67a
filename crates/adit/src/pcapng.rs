//! Packets in the form that Wireshark and others read: pcapng (draft-ietf-opsawg-pcapng), as far as a capture of the tunnel
//! needs it. It makes blocks, and neither reads nor writes any file.

use std::time::{SystemTime, UNIX_EPOCH};

use adit_net::{Direction, Layer, TapPacket};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

/// Packets that begin with an IPv4 or IPv6 header (LINKTYPE_RAW).
const RAW_IP: u16 = 101;

/// Blocks one after another.
#[derive(Debug, Default)]
pub struct Blocks(Vec<u8>);

impl Blocks {
    /// What a capture begins with: one interface for inner packets, and one for outer packets.
    pub fn begin(&mut self, snaplen: usize) {
        self.block(SECTION_HEADER, |block| {
            block.extend(0x1a2b_3c4d_u32.to_le_bytes());
            // Version 1.0, of a length that is not known.
            block.extend(1_u16.to_le_bytes());
            block.extend(0_u16.to_le_bytes());
            block.extend((-1_i64).to_le_bytes());
            option(block, 4, concat!("adit ", env!("CARGO_PKG_VERSION")).as_bytes());
        });
        for (name, description) in [("inner", "inside the tunnel"), ("outer", "ESP between the gateways")] {
            self.block(INTERFACE_DESCRIPTION, |block| {
                block.extend(RAW_IP.to_le_bytes());
                block.extend([0; 2]);
                block.extend(u32::try_from(snaplen).unwrap_or(u32::MAX).to_le_bytes());
                option(block, 2, name.as_bytes());
                option(block, 3, description.as_bytes());
                // Times are in units of 10^-9 seconds.
                option(block, 9, &[9]);
            });
        }
    }

    /// A packet. The comment says whose it is, and why it went no further if it did not.
    pub fn packet(&mut self, packet: &TapPacket<'_>) {
        let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        self.block(ENHANCED_PACKET, |block| {
            block.extend(interface(packet.layer).to_le_bytes());
            time(block, packet.at);
            block.extend(length(packet.octets.len()));
            block.extend(length(packet.len));
            block.extend(packet.octets);
            pad(block);
            let flags: u32 = match packet.direction {
                Direction::Inbound => 1,
                Direction::Outbound => 2,
            };
            option(block, 2, &flags.to_le_bytes());
            let comment = comment(packet);
            if !comment.is_empty() {
                option(block, 1, comment.as_bytes());
            }
        });
    }

    /// How many packets have been shown so far, inside and outside, and how many are missing because nobody took them in time.
    pub fn statistics(&mut self, now: SystemTime, shown: [u64; 2], lost: [u64; 2]) {
        for (layer, (shown, lost)) in
            [Layer::Inner, Layer::Outer].into_iter().zip(shown.into_iter().zip(lost))
        {
            self.block(INTERFACE_STATISTICS, |block| {
                block.extend(interface(layer).to_le_bytes());
                time(block, now);
                option(block, 4, &shown.saturating_add(lost).to_le_bytes());
                option(block, 5, &lost.to_le_bytes());
            });
        }
    }

    /// The octets so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Is there nothing?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes all octets out.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }

    fn block(&mut self, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.0.len();
        self.0.extend(kind.to_le_bytes());
        self.0.extend([0; 4]);
        body(&mut self.0);
        // The list of options ends with an empty one.
        self.0.extend([0; 4]);
        let length = u32::try_from(self.0.len() - start + 4).unwrap_or(u32::MAX).to_le_bytes();
        self.0.extend(length);
        if let Some(place) = self.0.get_mut(start + 4..start + 8) {
            place.copy_from_slice(&length);
        }
    }
}

fn interface(layer: Layer) -> u32 {
    match layer {
        Layer::Inner => 0,
        Layer::Outer => 1,
    }
}

fn comment(packet: &TapPacket<'_>) -> String {
    let spi = packet.spi.map(|spi| format!("SPI {spi:08x}"));
    let dropped = packet.dropped.map(|cause| format!("dropped: {cause}"));
    let parts = [(!packet.name.is_empty()).then(|| packet.name.to_owned()), spi, dropped];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// In two halves, the upper one first.
fn time(block: &mut Vec<u8>, at: SystemTime) {
    let nanoseconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos()) as u64;
    block.extend(((nanoseconds >> 32) as u32).to_le_bytes());
    block.extend((nanoseconds as u32).to_le_bytes());
}

fn option(block: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
    block.extend(code.to_le_bytes());
    block.extend((value.len() as u16).to_le_bytes());
    block.extend(value);
    pad(block);
}

/// All blocks begin at a multiple of four octets.
fn pad(block: &mut Vec<u8>) {
    block.resize(block.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A block's type, its body without lengths, and what follows. Both lengths are right.
    fn split(octets: &[u8]) -> (u32, &[u8], &[u8]) {
        let word = |at: usize| u32::from_le_bytes(octets[at..at + 4].try_into().unwrap());
        let length = word(4) as usize;
        assert_eq!((length % 4, word(length - 4)), (0, length as u32));
        (word(0), &octets[8..length - 4], &octets[length..])
    }

    #[test]
    fn blocks_are_as_the_format_says() {
        let mut blocks = Blocks::default();
        blocks.begin(96);
        let all = blocks.take();
        assert!(blocks.is_empty());
        // 4.1: byte-order magic, version 1.0, length of the section not known.
        let (kind, header, rest) = split(&all);
        assert_eq!((kind, &header[..8]), (0x0a0d_0d0a, &[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0][..]));
        assert_eq!(header[8..16], [0xff; 8]);
        let mut rest = rest;
        for name in [b"inner", b"outer"] {
            // 4.2: link type, reserved, snaplen; if_name (2).
            let (kind, interface, next) = split(rest);
            assert_eq!((kind, &interface[..8]), (1, &[101, 0, 0, 0, 96, 0, 0, 0][..]));
            assert_eq!((&interface[8..12], &interface[12..17]), (&[2, 0, 5, 0][..], &name[..]));
            // if_tsresol (9): 10^-9; opt_endofopt.
            assert!(interface.ends_with(&[9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]));
            rest = next;
        }
        assert!(rest.is_empty());

        blocks.packet(&TapPacket {
            at: UNIX_EPOCH + Duration::from_nanos(0x0001_0002_0003_0004),
            layer: Layer::Outer,
            direction: Direction::Inbound,
            name: "gw/net",
            spi: Some(0xc0ff_ee42),
            dropped: Some("replayed"),
            len: 1400,
            octets: &[0x45, 0, 5, 0x78, 9],
        });
        let all = blocks.take();
        let (kind, packet, rest) = split(&all);
        // 4.3: interface, time (upper half first), lengths here and on the link, the packet; epb_flags (2).
        let mut expected = vec![1, 0, 0, 0, 2, 0, 1, 0, 4, 0, 3, 0, 5, 0, 0, 0, 0x78, 5, 0, 0];
        expected.extend([0x45, 0, 5, 0x78, 9, 0, 0, 0, 2, 0, 4, 0, 1, 0, 0, 0]);
        // opt_comment (1), 39 octets and one that fills up.
        expected.extend([1, 0, 39, 0]);
        expected.extend(b"gw/net, SPI c0ffee42, dropped: replayed\0");
        expected.extend([0; 4]);
        assert!(kind == 6 && packet == expected && rest.is_empty(), "{packet:02x?}");

        blocks.statistics(UNIX_EPOCH + Duration::from_nanos(5), [255, 7], [3, 0]);
        let all = blocks.take();
        let (kind, statistics, rest) = split(&all);
        // 4.6: isb_ifrecv (4) and isb_ifdrop (5), of eight octets each.
        let mut expected = vec![0; 8];
        expected.extend([5, 0, 0, 0, 4, 0, 8, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        expected.extend([5, 0, 8, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(kind == 5 && statistics == expected, "{statistics:02x?}");
        let (kind, statistics, rest) = split(rest);
        let mut expected = vec![1, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([5, 0, 0, 0, 4, 0, 8, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([5, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(kind == 5 && statistics == expected && rest.is_empty(), "{statistics:02x?}");
    }
}
