//! The keys of one direction of an SA in the model's hands: it opens what the engine seals, and seals what the peer would send.
//! The layout is that of RFC 4303 2, the sizes those of RFC 4106, 7634, 3602, 4868 and 2410.

use adit_crypto::{EspKeys, EspTransforms, Protection, Secret};
use adit_esp::Drop;

pub(super) struct Keys {
    protection: Protection,
    pub(super) spi: u32,
    pub(super) esn: bool,
    suite: Suite,
}

/// A suite and its sizes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suite {
    pub(super) transforms: EspTransforms,
    pub(super) key: usize,
    pub(super) integ_key: usize,
    pub(super) iv: usize,
    pub(super) block: usize,
    pub(super) icv: usize,
}

impl Suite {
    /// The keys that `seed` stands for.
    pub(super) fn keys(&self, seed: u8) -> EspKeys {
        let of = |len: usize, first: u8| Secret::new((0..len).map(|i| first ^ (i as u8) << 1).collect());
        EspKeys { encr: of(self.key, seed), integ: of(self.integ_key, !seed) }
    }
}

impl Keys {
    pub(super) fn new(suite: Suite, spi: u32, esn: bool, seed: u8) -> Self {
        let EspKeys { encr, integ } = suite.keys(seed);
        let EspTransforms { encr: cipher, key_bits, integ: mac, .. } = suite.transforms;
        let protection = Protection::new(cipher, key_bits, mac, encr.expose(), integ.expose()).unwrap();
        Self { protection, spi, esn, suite }
    }

    /// Octets of ESP around so many of payload, with the least padding (RFC 4303 2.4).
    pub(super) fn packet_len(&self, payload: usize) -> usize {
        let Suite { iv, block, icv, .. } = self.suite;
        8 + iv + (payload + 2).next_multiple_of(block.max(4)) + icv
    }

    /// What the ICV covers in front of the IV, and behind the ciphertext (RFC 4303 2.2.1, RFC 4106 5).
    fn covered(&self, header: &[u8], sequence: u64) -> (Vec<u8>, Vec<u8>) {
        let high = ((sequence >> 32) as u32).to_be_bytes();
        match (self.esn, self.suite.transforms.integ) {
            (false, _) => (header.to_vec(), Vec::new()),
            (true, None) => ([&header[..4], &high, &header[4..]].concat(), Vec::new()),
            (true, Some(_)) => (header.to_vec(), high.to_vec()),
        }
    }

    /// The plaintext of an ESP packet: payload, padding, trailer.
    pub(super) fn open(&self, sequence: u64, esp: &[u8]) -> Result<Vec<u8>, Drop> {
        let Suite { iv, block, icv, .. } = self.suite;
        let body = esp.len().checked_sub(8 + iv + icv).ok_or(Drop::Malformed)?;
        if body < 2 || body % block != 0 {
            return Err(Drop::Malformed);
        }
        let (in_front, behind) = self.covered(&esp[..8], sequence);
        let mut text = esp[8 + iv..8 + iv + body].to_vec();
        let (iv, icv) = (&esp[8..8 + iv], &esp[8 + iv + body..]);
        self.protection.open(iv, &in_front, &behind, &mut text, icv).map_err(|_| Drop::Authentication)?;
        Ok(text)
    }

    /// The ESP packet of a plaintext, which is cut to whole blocks.
    pub(super) fn seal(&self, sequence: u64, plaintext: &[u8]) -> Vec<u8> {
        let Suite { iv, block, icv, .. } = self.suite;
        let mut esp = self.spi.to_be_bytes().to_vec();
        esp.extend((sequence as u32).to_be_bytes());
        // Any that is new will do: nobody attacks.
        let counter = [sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15), sequence].map(u64::to_be_bytes).concat();
        esp.extend(&counter[16 - iv..]);
        esp.extend(&plaintext[..plaintext.len() / block * block]);
        let body = esp.len();
        esp.resize(body + icv, 0);
        let (header, rest) = esp.split_at_mut(8);
        let (in_front, behind) = self.covered(header, sequence);
        let (iv, rest) = rest.split_at_mut(iv);
        let (text, icv) = rest.split_at_mut(rest.len() - icv);
        self.protection.seal(iv, &in_front, &behind, text, icv).unwrap();
        esp
    }

    /// Payload, padding and trailer, with so much more padding that the trailer ends with a block.
    pub(super) fn padded(&self, payload: &[u8], next_header: u8) -> Vec<u8> {
        let end = (payload.len() + 2).next_multiple_of(self.suite.block.max(4));
        let padding = (end - payload.len() - 2) as u8;
        [payload, &(1..=padding).collect::<Vec<_>>(), &[padding, next_header]].concat()
    }
}
