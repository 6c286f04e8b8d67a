//! ESP packets around their ciphertext (RFC 4303 2).

use crate::DecodeError;
use crate::cursor::Reader;
use crate::ikev2::Spi;

/// Next header of an IPv4 packet in tunnel mode.
pub const NEXT_HEADER_IPV4: u8 = 4;
/// Next header of an IPv6 packet in tunnel mode.
pub const NEXT_HEADER_IPV6: u8 = 41;
/// Next header of a dummy packet, to be dropped in silence (RFC 4303 2.6).
pub const NEXT_HEADER_NONE: u8 = 59;
/// Next header of an AGGFRAG payload, which holds IP packets whole and in parts (RFC 9347 6.1).
pub const NEXT_HEADER_AGGFRAG: u8 = 144;

/// What the packets of an SA carry (RFC 4301 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Whole IP packets, whoever sent them.
    #[default]
    Tunnel,
    /// What follows the header of IP packets between the two ends themselves; the outer header is that header.
    Transport,
    /// Whole IP packets as in tunnel mode, several of them and parts of them in payloads of any size (RFC 9347).
    Iptfs {
        /// The receiver takes parts of packets.
        fragments: bool,
    },
}

/// The fields in the clear before the IV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EspHeader {
    /// Names the receiver's SA.
    pub spi: Spi,
    /// Sequence number, the low 32 bits of an extended one.
    pub sequence: u32,
}

impl EspHeader {
    /// Its length in octets.
    pub const LEN: usize = 8;

    /// Decodes the header at the start of a packet.
    ///
    /// # Errors
    /// The packet is shorter, or its SPI is one of 0 to 255, which are never on the wire (RFC 4303 2.1).
    pub fn decode(packet: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(packet, "ESP header");
        let header = Self { spi: Spi(reader.u32()?), sequence: reader.u32()? };
        if header.spi.0 < 256 {
            return Err(DecodeError::invalid("ESP header", "reserved SPI"));
        }
        Ok(header)
    }

    /// The octets.
    #[must_use]
    pub const fn encode(&self) -> [u8; Self::LEN] {
        let [a, b, c, d] = self.spi.0.to_be_bytes();
        let [e, f, g, h] = self.sequence.to_be_bytes();
        [a, b, c, d, e, f, g, h]
    }
}

/// The end of the plaintext: padding, pad length and next header (RFC 4303 2.4 to 2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EspTrailer {
    /// Octets of padding.
    pub pad_len: u8,
    /// What the payload data is.
    pub next_header: u8,
}

impl EspTrailer {
    /// Octets after the padding.
    pub const LEN: usize = 2;

    /// The trailer for `payload_len` octets of payload data when payload, padding and trailer together must be a
    /// multiple of `block_len` (1 to 256), and of 4 in any case (RFC 4303 2.4).
    #[must_use]
    pub fn aligned(payload_len: usize, next_header: u8, block_len: usize) -> Self {
        let align = if block_len.is_multiple_of(4) { block_len.clamp(4, 256) } else { 4 };
        let filled = (payload_len + Self::LEN) % align;
        let pad_len = u8::try_from((align - filled) % align).unwrap_or(u8::MAX);
        Self { pad_len, next_header }
    }

    /// Appends padding (1, 2, 3 ...) and the trailer.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(1..=self.pad_len);
        out.extend([self.pad_len, self.next_header]);
    }

    /// Splits decrypted octets into payload data and trailer. The padding must be 1, 2, 3 ... as the default of
    /// RFC 4303 2.4 has it.
    ///
    /// # Errors
    /// The trailer is not there, counts more padding than is there, or the padding is not the default one.
    pub fn decode(plaintext: &[u8]) -> Result<(&[u8], Self), DecodeError> {
        let error = |why| DecodeError::invalid("ESP trailer", why);
        let Some((before, [pad_len, next_header])) = plaintext.split_last_chunk::<2>() else {
            return Err(error("no pad length and next header"));
        };
        let trailer = Self { pad_len: *pad_len, next_header: *next_header };
        let (payload, padding) = before
            .len()
            .checked_sub(usize::from(trailer.pad_len))
            .and_then(|at| before.split_at_checked(at))
            .ok_or_else(|| error("pad length beyond the plaintext"))?;
        if padding.iter().zip(1..=u8::MAX).any(|(found, expected)| *found != expected) {
            return Err(error("padding is not 1, 2, 3 ..."));
        }
        Ok((payload, trailer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc7634_header() {
        // RFC 7634 appendix A: SPI 01020304, sequence number 5.
        let packet = [1, 2, 3, 4, 0, 0, 0, 5, 0x10, 0x11];
        let header = EspHeader::decode(&packet).unwrap();
        assert_eq!(header, EspHeader { spi: Spi(0x0102_0304), sequence: 5 });
        assert_eq!(header.encode(), packet[..8]);
        assert_eq!(
            EspHeader::decode(&packet[..7]).unwrap_err().to_string(),
            "ESP header: 4 octets needed, 3 left"
        );
        assert_eq!(
            EspHeader::decode(&[0, 0, 0, 255, 0, 0, 0, 1]).unwrap_err().to_string(),
            "ESP header: reserved SPI"
        );
        assert!(EspHeader::decode(&[0, 0, 1, 0, 0, 0, 0, 1]).is_ok());
    }

    #[test]
    fn trailers() {
        // The first is RFC 7634 appendix A, the third RFC 3602 section 4 case 5; the others are counted by hand.
        for (payload_len, block_len, next_header, end) in [
            (84, 1, 4, vec![1, 2, 2, 4]),
            (84, 4, 4, vec![1, 2, 2, 4]),
            (64, 16, 1, vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 14, 1]),
            (14, 16, 41, vec![0, 41]),
            (15, 16, 41, [(1..=15).collect(), vec![15, 41]].concat()),
            (0, 1, 59, vec![1, 2, 2, 59]),
        ] {
            let trailer = EspTrailer::aligned(payload_len, next_header, block_len);
            let payload = vec![0xee; payload_len];
            let mut plaintext = payload.clone();
            trailer.encode(&mut plaintext);
            assert_eq!(plaintext[payload_len..], end);
            assert_eq!(EspTrailer::decode(&plaintext).unwrap(), (payload.as_slice(), trailer));
        }
    }

    #[test]
    fn bad_trailers() {
        for (plaintext, why) in [
            (vec![], "no pad length and next header"),
            (vec![4], "no pad length and next header"),
            (vec![1, 4], "pad length beyond the plaintext"),
            (vec![0xee, 1, 2, 4, 4], "pad length beyond the plaintext"),
            (vec![0xee, 1, 3, 2, 4], "padding is not 1, 2, 3 ..."),
            (vec![0xee, 0, 1, 2, 4], "padding is not 1, 2, 3 ..."),
        ] {
            assert_eq!(
                EspTrailer::decode(&plaintext).unwrap_err().to_string(),
                format!("ESP trailer: {why}")
            );
        }
        // The longest padding there is.
        let mut plaintext: Vec<u8> = (1..=255).collect();
        plaintext.extend([255, 59]);
        assert_eq!(EspTrailer::decode(&plaintext).unwrap().0, []);
    }
}
