//! One ESP packet as bytes: where its fields lie, and its protection with one SA's keys (RFC 4303 2 and 3.3.2).
//!
//! This module owns the layout, the padding, and what is authenticated. It never chooses a sequence number and never looks
//! inside the payload.

use adit_crypto::{EspTransforms, Protection, encr_key_len, integ_key_len};
use adit_wire::ikev2::Spi;

use crate::{Drop, Error, SaParameters};

/// SPI and sequence number.
pub(crate) const HEADER_LEN: usize = 8;
/// Pad length and next header.
const TRAILER_LEN: usize = 2;

/// The sizes that a suite gives its ESP packets: `SPI 4 | sequence 4 | IV | payload | padding | 2 | ICV`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    iv_len: usize,
    alignment: usize,
    icv_len: usize,
}

impl Layout {
    /// The layout of packets under `transforms`, before there are keys.
    ///
    /// # Errors
    /// [`Error::Crypto`] for a suite that is not implemented.
    pub fn of(transforms: &EspTransforms) -> Result<Self, Error> {
        // Sizes do not depend on the key, and Protection knows them all: ask one that will never protect anything.
        let encr = vec![0; encr_key_len(transforms.encr, transforms.key_bits).unwrap_or(0)];
        let integ = vec![0; transforms.integ.and_then(integ_key_len).unwrap_or(0)];
        let protection =
            Protection::new(transforms.encr, transforms.key_bits, transforms.integ, &encr, &integ)?;
        Ok(Self::from(&protection))
    }

    /// Length of the ESP packet, SPI to ICV, that carries `payload` bytes with the least padding.
    #[must_use]
    pub fn packet_len(&self, payload: usize) -> usize {
        HEADER_LEN + self.iv_len + (payload + TRAILER_LEN).next_multiple_of(self.alignment) + self.icv_len
    }

    /// The longest payload of an ESP packet of at most `packet` bytes; 0 if none fits.
    #[must_use]
    pub fn max_payload(&self, packet: usize) -> usize {
        let room = packet.saturating_sub(HEADER_LEN + self.iv_len + self.icv_len);
        (room - room % self.alignment).saturating_sub(TRAILER_LEN)
    }

    /// Where the payload begins in the packet.
    #[must_use]
    pub fn payload_offset(&self) -> usize {
        HEADER_LEN + self.iv_len
    }

    /// Bytes of the explicit IV.
    #[must_use]
    pub fn iv_len(&self) -> usize {
        self.iv_len
    }

    /// Bytes of the integrity check value.
    #[must_use]
    pub fn icv_len(&self) -> usize {
        self.icv_len
    }
}

impl From<&Protection> for Layout {
    fn from(protection: &Protection) -> Self {
        // RFC 4303 2.4: the trailer ends on a 4-byte boundary, and on a block boundary where the cipher has blocks.
        let alignment = protection.block_len().max(4);
        Self { iv_len: protection.iv_len(), alignment, icv_len: protection.icv_len() }
    }
}

/// One SA's keys, applied to whole packets.
pub(crate) struct PacketProtection {
    protection: Protection,
    layout: Layout,
    esn: bool,
}

impl PacketProtection {
    pub(crate) fn new(parameters: &SaParameters) -> Result<Self, Error> {
        let SaParameters { transforms, keys, .. } = parameters;
        let protection = Protection::new(
            transforms.encr,
            transforms.key_bits,
            transforms.integ,
            keys.encr.expose(),
            keys.integ.expose(),
        )?;
        Ok(Self { layout: Layout::from(&protection), protection, esn: transforms.esn })
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn keys(&self) -> &Protection {
        &self.protection
    }

    pub(crate) fn keys_mut(&mut self) -> &mut Protection {
        &mut self.protection
    }

    /// Seals the packet in place whose payload of `payload_len` bytes stands in it already: writes everything around that,
    /// encrypts, and writes the ICV.
    ///
    /// What room there is beyond the least padding is filled with zeros behind the payload (RFC 4303 2.7).
    #[inline]
    pub(crate) fn seal(
        &self,
        spi: Spi,
        sequence: u64,
        packet: &mut [u8],
        payload_len: usize,
        next_header: u8,
    ) -> Result<(), adit_crypto::Error> {
        let actual = packet.len();
        let fields = self.fields(packet).and_then(|fields| self.lay_out(fields, payload_len, next_header));
        let Some(mut fields) = fields else {
            let expected = self.layout.packet_len(payload_len);
            return Err(adit_crypto::Error::Length { what: "ESP packet", expected, actual });
        };
        self.start(spi, sequence, fields.header, fields.iv);
        self.encrypt(sequence, &mut fields)
    }

    /// As [`seal`](Self::seal), of a payload that lies elsewhere.
    #[inline]
    pub(crate) fn seal_from(
        &self,
        spi: Spi,
        sequence: u64,
        packet: &mut [u8],
        payload: &[u8],
        next_header: u8,
    ) -> Result<(), adit_crypto::Error> {
        let (expected, actual) = (self.layout.packet_len(payload.len()), packet.len());
        let wrong = || adit_crypto::Error::Length { what: "ESP packet", expected, actual };
        if actual != expected {
            // Longer, or an error.
            let place = packet.get_mut(self.layout.payload_offset()..).ok_or_else(wrong)?;
            place.get_mut(..payload.len()).ok_or_else(wrong)?.copy_from_slice(payload);
            return self.seal(spi, sequence, packet, payload.len(), next_header);
        }
        let (header, rest) = packet.split_first_chunk_mut::<HEADER_LEN>().ok_or_else(wrong)?;
        let (iv, out) = rest.split_at_mut_checked(self.layout.iv_len).ok_or_else(wrong)?;
        self.start(spi, sequence, header, iv);
        // RFC 4303 2.4: padding bytes count up from 1. There are fewer than 16 of them.
        let mut end: [u8; 16 + TRAILER_LEN] = std::array::from_fn(|index| index as u8 + 1);
        let len = out.len() - self.layout.icv_len - payload.len();
        let end = end.get_mut(..len).ok_or_else(wrong)?;
        *end.last_chunk_mut().ok_or_else(wrong)? = [(len - TRAILER_LEN) as u8, next_header];
        let mut scratch = [0; 12];
        let (associated, trailer) = self.authenticated(header, sequence, &mut scratch);
        self.protection.seal_into(iv, associated, trailer, [payload, end], out)
    }

    /// Padding and trailer. `None` if this is not the length of a packet that holds `payload_len` bytes.
    #[inline]
    pub(crate) fn lay_out<'p>(
        &self,
        fields: Fields<'p>,
        payload_len: usize,
        next_header: u8,
    ) -> Option<Fields<'p>> {
        // A power of two.
        if fields.body.len() & (self.layout.alignment - 1) != 0 {
            return None;
        }
        let (rest, trailer) = fields.body.split_last_chunk_mut::<TRAILER_LEN>()?;
        let mut padding = rest.get_mut(payload_len..)?;
        if padding.len() >= self.layout.alignment {
            padding.fill(0);
            padding = &mut [];
        }
        *trailer = [padding.len() as u8, next_header];
        // RFC 4303 2.4: padding bytes count up from 1. There are fewer than 16 of them.
        for (byte, number) in padding.iter_mut().zip(1..) {
            *byte = number;
        }
        Some(fields)
    }

    /// SPI, sequence number and IV.
    #[inline]
    pub(crate) fn start(&self, spi: Spi, sequence: u64, header: &mut [u8; HEADER_LEN], iv: &mut [u8]) {
        // RFC 4303 2.2.1: of an extended sequence number only the low half travels.
        *header = (u64::from(spi.0) << 32 | sequence & u64::from(u32::MAX)).to_be_bytes();
        // The sequence number never repeats under one key, and so neither does the IV made from it.
        self.protection.next_iv(sequence, iv);
    }

    /// Encrypts what is laid out and writes the ICV.
    #[inline]
    pub(crate) fn encrypt(&self, sequence: u64, fields: &mut Fields<'_>) -> Result<(), adit_crypto::Error> {
        let mut scratch = [0; 12];
        let (associated, trailer) = self.authenticated(fields.header, sequence, &mut scratch);
        self.protection.seal(fields.iv, associated, trailer, fields.body, fields.icv)
    }

    /// The packet that carries `plaintext`, with padding and trailer as the caller has them at its end, cut to whole
    /// blocks. For tests: it makes what a faulty peer with the right key could send.
    pub(crate) fn seal_plaintext(&self, spi: Spi, sequence: u64, plaintext: &[u8]) -> Option<Vec<u8>> {
        let whole = plaintext.len() - plaintext.len() % self.protection.block_len();
        let mut packet = vec![0; self.layout.payload_offset()];
        packet.extend(plaintext.iter().take(whole));
        packet.resize(packet.len() + self.layout.icv_len, 0);
        let mut fields = self.fields(&mut packet)?;
        self.start(spi, sequence, fields.header, fields.iv);
        self.encrypt(sequence, &mut fields).ok()?;
        Some(packet)
    }

    /// Verifies and decrypts a packet in place; returns payload, padding and trailer.
    #[inline]
    pub(crate) fn open<'p>(&self, sequence: u64, packet: &'p mut [u8]) -> Result<&'p mut [u8], Drop> {
        let mut scratch = [0; 12];
        let Fields { header, iv, body, icv } = self.fields(packet).ok_or(Drop::Malformed)?;
        let (associated, trailer) = self.authenticated(header, sequence, &mut scratch);
        match self.protection.open(iv, associated, trailer, body, icv) {
            Ok(()) => Ok(body),
            Err(adit_crypto::Error::Authentication) => Err(Drop::Authentication),
            Err(_) => Err(Drop::Malformed),
        }
    }

    /// Splits a packet, if it can hold a trailer and its ciphertext is whole blocks.
    #[inline]
    pub(crate) fn fields<'p>(&self, packet: &'p mut [u8]) -> Option<Fields<'p>> {
        let (header, rest) = packet.split_first_chunk_mut::<HEADER_LEN>()?;
        let (iv, rest) = rest.split_at_mut_checked(self.layout.iv_len)?;
        let body_len = rest.len().checked_sub(self.layout.icv_len)?;
        let (body, icv) = rest.split_at_mut_checked(body_len)?;
        (body_len >= TRAILER_LEN && body_len & (self.protection.block_len() - 1) == 0).then_some(Fields {
            header,
            iv,
            body,
            icv,
        })
    }

    /// What the ICV covers beside IV and ciphertext: (in front of them, after them).
    ///
    /// RFC 4106 5 and RFC 7634 2.1: combined modes take SPI | high | low in front. RFC 4303 3.3.2.1: a separate MAC takes
    /// SPI | low in front and the high half after the ciphertext. Without ESN it is SPI | sequence alone.
    #[inline]
    fn authenticated<'a>(
        &self,
        header: &'a [u8; HEADER_LEN],
        sequence: u64,
        scratch: &'a mut [u8; 12],
    ) -> (&'a [u8], &'a [u8]) {
        if !self.esn {
            return (header, &[]);
        }
        let [spi @ .., _, _, _, _] = header;
        scratch[..4].copy_from_slice(spi);
        scratch[4..].copy_from_slice(&sequence.to_be_bytes());
        if self.protection.is_aead() { (scratch, &[]) } else { (header, &scratch[4..8]) }
    }
}

/// The parts of a packet; its body is payload, padding and trailer.
pub(crate) struct Fields<'p> {
    pub(crate) header: &'p mut [u8; HEADER_LEN],
    pub(crate) iv: &'p mut [u8],
    body: &'p mut [u8],
    icv: &'p mut [u8],
}
