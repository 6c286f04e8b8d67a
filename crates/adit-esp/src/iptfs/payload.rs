//! The AGGFRAG payload as octets: its header, and the lengths of what follows it (RFC 9347 6.1).
//!
//! This module owns the layout. It never keeps anything from one payload to the next.

/// The header of an AGGFRAG payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Octets of data blocks, in this payload and the following ones, before the next block begins.
    pub block_offset: u16,
    /// What sub-type 1 tells beside. We have no use for it, and its payloads carry packets all the same.
    pub congestion: Option<Congestion>,
}

/// What a sender under congestion control tells its peer (RFC 9347 6.1.2). Times are in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Congestion {
    /// The path MTU is being probed, and what is missing need not be lost to congestion.
    pub probing: bool,
    /// Congestion marks are counted in the rate.
    pub ecn: bool,
    /// The inverse of the rate of loss events; 0 without loss.
    pub loss_event_rate: u32,
    /// The sender's estimate of the round trip.
    pub round_trip: u32,
    /// Between the arrival of the echoed value and this payload.
    pub echo_delay: u32,
    /// Between one payload and the next.
    pub transmit_delay: u32,
    /// To be echoed.
    pub value: u32,
    /// What is echoed.
    pub echo: u32,
}

/// Why octets are no AGGFRAG payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Shorter than its header.
    #[error("an AGGFRAG payload shorter than its header")]
    Truncated,
    /// Neither sub-type 0 nor 1.
    #[error("AGGFRAG sub-type {0}")]
    SubType(u8),
}

impl Header {
    /// Octets of the header of sub-type 0, the only one that is sent.
    pub const LEN: usize = 4;
    const CONGESTION_LEN: usize = 24;

    /// Takes the header off a payload; returns it with the data blocks.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn decode(payload: &mut [u8]) -> Result<(Self, &mut [u8]), HeaderError> {
        match payload.first() {
            Some(0) => {
                let (header, blocks) =
                    payload.split_first_chunk_mut::<{ Self::LEN }>().ok_or(HeaderError::Truncated)?;
                // RFC 9347 6.1.1: the second octet is reserved and not looked at.
                let [_, _, high, low] = *header;
                Ok((Self { block_offset: u16::from_be_bytes([high, low]), congestion: None }, blocks))
            }
            Some(1) => {
                let (header, blocks) = payload
                    .split_first_chunk_mut::<{ Self::CONGESTION_LEN }>()
                    .ok_or(HeaderError::Truncated)?;
                Ok((Self::with_congestion(header), blocks))
            }
            Some(other) => Err(HeaderError::SubType(*other)),
            None => Err(HeaderError::Truncated),
        }
    }

    fn with_congestion(header: &[u8; Self::CONGESTION_LEN]) -> Self {
        let [
            _,
            flags,
            o0,
            o1,
            l0,
            l1,
            l2,
            l3,
            t0,
            t1,
            t2,
            t3,
            t4,
            t5,
            t6,
            t7,
            v0,
            v1,
            v2,
            v3,
            e0,
            e1,
            e2,
            e3,
        ] = *header;
        // RFC 9347 6.1.2: 22, 21 and 21 bits, most significant first.
        let times = u64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7]);
        let delay = |shift: u32| (times >> shift) as u32 & 0x1f_ffff;
        Self {
            block_offset: u16::from_be_bytes([o0, o1]),
            congestion: Some(Congestion {
                probing: flags & 0x02 != 0,
                ecn: flags & 0x01 != 0,
                loss_event_rate: u32::from_be_bytes([l0, l1, l2, l3]),
                round_trip: (times >> 42) as u32,
                echo_delay: delay(21),
                transmit_delay: delay(0),
                value: u32::from_be_bytes([v0, v1, v2, v3]),
                echo: u32::from_be_bytes([e0, e1, e2, e3]),
            }),
        }
    }

    /// The header of a payload without congestion control.
    #[must_use]
    pub(super) fn encode(block_offset: u16) -> [u8; Self::LEN] {
        let [high, low] = block_offset.to_be_bytes();
        [0, 0, high, low]
    }
}

/// What the octets at the start of a data block say (RFC 9347 6.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// An IP packet of this many octets.
    Packet(usize),
    /// An IP packet; its length is in octets that are not there yet.
    Unknown,
    /// Padding, to the end of the payload.
    Pad,
    /// Neither, or a packet shorter than its own header.
    Invalid,
}

/// No block says its length later than in this many octets.
pub(super) const LENGTH_KNOWN: usize = 6;
/// The longest packet that a block can be: IPv6 with the most payload there is.
pub(super) const MAX_PACKET: usize = 40 + u16::MAX as usize;

impl Block {
    pub(super) fn at(octets: &[u8]) -> Self {
        let word = |at| octets.get(at..).and_then(<[u8]>::first_chunk).map(|word| u16::from_be_bytes(*word));
        match octets.first() {
            Some(first) if first >> 4 == 4 => {
                let header_len = usize::from(first & 0x0f) * 4;
                match word(2).map(usize::from) {
                    _ if header_len < 20 => Self::Invalid,
                    None => Self::Unknown,
                    Some(total) if total < header_len => Self::Invalid,
                    Some(total) => Self::Packet(total),
                }
            }
            Some(first) if first >> 4 == 6 => {
                word(4).map_or(Self::Unknown, |payload| Self::Packet(40 + usize::from(payload)))
            }
            Some(first) if first >> 4 == 0 => Self::Pad,
            _ => Self::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9347 6.1.1: sub-type, reserved, BlockOffset.
    #[test]
    fn without_congestion_control() {
        let mut payload = hex::decode("00ff012c45").unwrap();
        let (header, blocks) = Header::decode(&mut payload).unwrap();
        assert_eq!(header, Header { block_offset: 300, congestion: None });
        assert_eq!(blocks, [0x45]);
        assert_eq!(Header::encode(300), [0, 0, 1, 0x2c]);
    }

    /// RFC 9347 6.1.2, worked by hand: 25000 << 42 | 1500 << 21 | 2000 is 0x0186a000bb8007d0.
    #[test]
    fn with_congestion_control() {
        let octets = "0101006400 0003e8 0186a000bb8007d0 01020304 a0b0c0d0 60".replace(' ', "");
        let mut payload = hex::decode(octets).unwrap();
        let (header, blocks) = Header::decode(&mut payload).unwrap();
        let congestion = Congestion {
            probing: false,
            ecn: true,
            loss_event_rate: 1000,
            round_trip: 25_000,
            echo_delay: 1500,
            transmit_delay: 2000,
            value: 0x0102_0304,
            echo: 0xa0b0_c0d0,
        };
        assert_eq!(header, Header { block_offset: 100, congestion: Some(congestion) });
        assert_eq!(blocks, [0x60]);

        // Every field at its most, which shows where each ends.
        let mut most = [0xff; 24];
        most[0] = 1;
        let (header, blocks) = Header::decode(&mut most).unwrap();
        let congestion = header.congestion.unwrap();
        assert!(congestion.probing && congestion.ecn && blocks.is_empty());
        assert_eq!(congestion.round_trip, 0x3f_ffff);
        assert_eq!((congestion.echo_delay, congestion.transmit_delay), (0x1f_ffff, 0x1f_ffff));
    }

    #[test]
    fn what_is_no_payload() {
        for len in 0..4 {
            assert_eq!(Header::decode(&mut [0; 4][..len]).unwrap_err(), HeaderError::Truncated);
        }
        for len in 1..24 {
            assert_eq!(Header::decode(&mut [1; 24][..len]).unwrap_err(), HeaderError::Truncated);
        }
        for sub_type in 2..=255 {
            assert_eq!(Header::decode(&mut [sub_type; 24]).unwrap_err(), HeaderError::SubType(sub_type));
        }
    }

    #[test]
    fn what_a_block_is() {
        assert_eq!(Block::at(&[0x45, 0, 0, 20]), Block::Packet(20));
        assert_eq!(Block::at(&[0x45, 0, 0, 19]), Block::Invalid);
        assert_eq!(Block::at(&[0x4f, 0, 0, 59]), Block::Invalid);
        assert_eq!(Block::at(&[0x44, 0, 1, 0]), Block::Invalid);
        assert_eq!(Block::at(&[0x45, 0, 0]), Block::Unknown);
        assert_eq!(Block::at(&[0x60, 0, 0, 0, 0, 0]), Block::Packet(40));
        assert_eq!(Block::at(&[0x60, 0, 0, 0, 0xff, 0xff]), Block::Packet(MAX_PACKET));
        assert_eq!(Block::at(&[0x60, 0, 0, 0, 0]), Block::Unknown);
        assert_eq!(Block::at(&[0x0f]), Block::Pad);
        for first in (0x10..0x40).chain(0x50..0x60).chain(0x70..=0xff) {
            assert_eq!(Block::at(&[first; 40]), Block::Invalid);
        }
        assert_eq!(Block::at(&[]), Block::Invalid);
    }
}
