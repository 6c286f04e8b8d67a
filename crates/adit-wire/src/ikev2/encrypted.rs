//! Framing of the Encrypted payload (RFC 7296 3.14) and of the Encrypted Fragment payload (RFC 7383 2.5).
//!
//! Knows where IV, ciphertext and ICV lie; never sees a key.

use std::ops::Range;

use super::{Header, Message, Payload, PayloadType};
use crate::cursor::{Reader, Writer};
use crate::{DecodeError, Reason};

/// Where the Encrypted payload of a message lies. It is always the last one (RFC 7296 3.14).
///
/// `datagram[..associated_data_len]` is what an AEAD authenticates (RFC 5282 5.1),
/// `datagram[associated_data_len..end]` is IV, ciphertext and ICV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encrypted {
    /// Type of the first payload inside. [`PayloadType::NONE`] if there is none, and in every fragment but the
    /// first.
    pub first_inner: PayloadType,
    /// Set if it is an Encrypted Fragment payload.
    pub fragment: Option<Fragment>,
    /// Where the octet lies that announces it: in the IKE header, or in the generic header of the payload before.
    pub announced_at: usize,
    /// Octets from the IKE header to the last one before the IV.
    pub associated_data_len: usize,
    /// Octets of the message.
    pub end: usize,
}

impl Encrypted {
    const GENERIC_LEN: usize = 4;

    /// The message `datagram` is, or of which it is the first fragment, without encryption: its Encrypted payload holds
    /// `content` alone, no IV, padding or ICV, and all lengths and types say so. IKE_INTERMEDIATE authenticates this
    /// (RFC 9242 3.3.2).
    #[must_use]
    pub fn without_encryption(&self, datagram: &[u8], content: &[u8]) -> Vec<u8> {
        let numbers = if self.fragment.is_some() { Fragment::LEN } else { 0 };
        let generic_end = self.associated_data_len.saturating_sub(numbers);
        let mut writer = Writer::new();
        writer.bytes(datagram.get(..generic_end).unwrap_or_default());
        writer.bytes(content);
        writer.patch(self.announced_at, &[PayloadType::SK.0]);
        let length = u16::try_from(content.len() + Self::GENERIC_LEN).unwrap_or(u16::MAX);
        writer.patch(generic_end.saturating_sub(2), &length.to_be_bytes());
        Message::finish(writer)
    }
}

/// Which piece of a message an Encrypted Fragment payload is (RFC 7383 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Counted from 1.
    pub number: u16,
    /// How many there are, not below `number`.
    pub total: u16,
}

impl Fragment {
    pub(super) const LEN: usize = 4;

    pub(super) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body, "SKF payload");
        let fragment = Self { number: reader.u16()?, total: reader.u16()? };
        if fragment.number == 0 || fragment.number > fragment.total {
            return Err(reader.error(Reason::Invalid("fragment number not between 1 and the total")));
        }
        Ok(fragment)
    }
}

/// Lengths that the negotiated algorithms give to an Encrypted payload, in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkLayout {
    /// Initialization vector.
    pub iv_len: usize,
    /// Ciphertext is a multiple of this. 1 if any length will do.
    pub block_len: usize,
    /// Integrity check value.
    pub icv_len: usize,
}

/// A message that lacks only its cryptography: fill `iv`, encrypt `plaintext` in place, write `icv`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkDraft {
    /// The message with final lengths.
    pub datagram: Vec<u8>,
    /// From the IKE header to the generic header of the Encrypted payload, or for a fragment to its numbers.
    pub associated_data: Range<usize>,
    /// Zero octets for the IV.
    pub iv: Range<usize>,
    /// Payloads, padding and pad length.
    pub plaintext: Range<usize>,
    /// Zero octets for the ICV.
    pub icv: Range<usize>,
}

impl Message {
    /// Lays out a message whose payloads are all inside one Encrypted payload.
    ///
    /// `length` and `next_payload` of `header` are ignored. Padding is the least that fills the block
    /// (RFC 7296 3.14).
    #[must_use]
    pub fn encode_encrypted(header: &Header, payloads: &[Payload], layout: SkLayout) -> SkDraft {
        let (first_inner, chain) = Self::encode_inner(payloads);
        SkDraft::new(header, first_inner, None, &chain, layout)
    }

    /// Lays out one fragment of a message (RFC 7383 2.5): `piece` is its part of what [`Message::encode_inner`]
    /// made, and `first_inner` comes from there too; it goes into the first fragment only.
    #[must_use]
    pub fn encode_fragment(
        header: &Header,
        first_inner: PayloadType,
        fragment: Fragment,
        piece: &[u8],
        layout: SkLayout,
    ) -> SkDraft {
        let first_inner = if fragment.number == 1 { first_inner } else { PayloadType::NONE };
        SkDraft::new(header, first_inner, Some(fragment), piece, layout)
    }
}

impl SkDraft {
    fn new(
        header: &Header,
        first_inner: PayloadType,
        fragment: Option<Fragment>,
        chain: &[u8],
        layout: SkLayout,
    ) -> Self {
        let mut writer = Writer::new();
        let next_payload = if fragment.is_some() { PayloadType::SKF } else { PayloadType::SK };
        Header { next_payload, length: 0, ..*header }.encode(&mut writer);
        let start = writer.len();
        writer.u8(first_inner.0);
        writer.u8(0);
        let length = writer.len_u16(start);
        if let Some(fragment) = fragment {
            writer.u16(fragment.number);
            writer.u16(fragment.total);
        }
        let associated_data = 0..writer.len();
        writer.zeros(layout.iv_len);
        let iv = associated_data.end..writer.len();
        writer.bytes(chain);
        // The pad length is one octet, so a block is at most 256.
        let block_len = layout.block_len.clamp(1, 256);
        let filled = (chain.len() + 1) % block_len;
        let padding = u8::try_from((block_len - filled) % block_len).unwrap_or(u8::MAX);
        writer.zeros(padding.into());
        writer.u8(padding);
        let plaintext = iv.end..writer.len();
        writer.zeros(layout.icv_len);
        let icv = plaintext.end..writer.len();
        writer.end_len(length);
        Self { datagram: Message::finish(writer), associated_data, iv, plaintext, icv }
    }
}
