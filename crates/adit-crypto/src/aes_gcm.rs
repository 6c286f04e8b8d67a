//! AES-GCM (NIST SP 800-38D) for nonces of 12 octets and tags of 16, as ESP and IKE have them, in the vector instructions of
//! processors that encrypt and multiply four blocks at a time. Owns the expanded key and the arithmetic; it never decides where it
//! is used, and never whether a nonce is fresh. Everything else, and every other processor, has the library's.
//!
//! Sixteen blocks are encrypted together and authenticated together, with one reduction for all of them. What the hash
//! multiplies is kept with its octets in reverse, so that bit `n` of a number is the coefficient of x^n: RFC 8452 appendix A has the
//! algebra of that, in which the product of `a` and `b` is `a * b * x^-128`, modulo x^128 + x^127 + x^126 + x^121 + 1, and
//! the key of the hash is x times that of GHASH.
//!
//! No address and no branch depends on a key, a text or a tag, only on lengths.

use std::arch::x86_64::*;

use zeroize::Zeroize;

/// Octets of a block, of a tag, and of a vector of blocks.
const BLOCK: usize = 16;
const VECTOR: usize = 64;
/// Octets that are encrypted together, in four vectors.
const STRIDE: usize = 4 * VECTOR;
/// Powers of the hash's key: those that a stride takes, and one for the lengths behind it.
const POWERS: usize = STRIDE / BLOCK + 1;

/// Octets of the nonce: salt and IV (RFC 4106 4).
pub(crate) const NONCE_LEN: usize = 12;
/// Octets of the tag.
pub(crate) const TAG_LEN: usize = 16;

/// An expanded key. There is one only where the processor can use it: all that is below relies on that.
///
/// It never moves, as what is moved leaves a copy behind that nobody erases.
#[repr(C)]
pub(crate) struct AesGcm {
    /// FIPS 197 5.2: of a short key, the first eleven.
    round_keys: [__m128i; 15],
    /// From the highest to the first, and zeros, so that four can be read from each.
    powers: [__m128i; POWERS + 3],
    is_long: bool,
}

impl AesGcm {
    /// Octets of it.
    pub(crate) const LEN: usize = size_of::<Self>();

    /// Whether this processor has all that is needed.
    fn is_possible() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi2")
            && is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("vpclmulqdq")
            && is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("pclmulqdq")
    }

    /// Expands a key of 16 or 32 octets; `None` where the length is another or the processor cannot.
    pub(crate) fn new(key: &[u8]) -> Option<Box<Self>> {
        if !Self::is_possible() {
            return None;
        }
        // SAFETY: the processor has what is needed.
        unsafe {
            let zero = from_words([0, 0]);
            let mut this =
                Box::new(Self { round_keys: [zero; 15], powers: [zero; POWERS + 3], is_long: false });
            this.expand(key).then_some(this)
        }
    }

    /// Encrypts `text`, or what is in `out` where that is `None`, and then `end`, into `out`, which is as long, and returns the tag.
    #[inline]
    pub(crate) fn seal(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        text: Option<&[u8]>,
        end: &[u8],
        out: &mut [u8],
    ) -> [u8; TAG_LEN] {
        // SAFETY: there is a key, so the processor has what is needed.
        unsafe {
            if self.is_long {
                seal::<13>(self, nonce, associated, text, end, out)
            } else {
                seal::<9>(self, nonce, associated, text, end, out)
            }
        }
    }

    /// Decrypts `text` in place. Where the tag is not `tag`, returns false, and `text` is all zeros.
    #[inline]
    #[must_use]
    pub(crate) fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> bool {
        // SAFETY: there is a key, so the processor has what is needed.
        unsafe {
            if self.is_long {
                open::<13>(self, nonce, associated, text, tag)
            } else {
                open::<9>(self, nonce, associated, text, tag)
            }
        }
    }
}

impl Drop for AesGcm {
    fn drop(&mut self) {
        self.round_keys.zeroize();
        self.powers.zeroize();
    }
}

/// Gives functions the instructions they are made of. They are called from each other, or where `AesGcm::is_possible`.
macro_rules! vector {
    ($($item:item)*) => {
        $(
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,vaes,vpclmulqdq,aes,pclmulqdq")]
            #[inline]
            $item
        )*
    };
}

impl AesGcm {
    vector! {
        fn expand(&mut self, key: &[u8]) -> bool {
            if let Ok(key) = <&[u8; 16]>::try_from(key) {
                self.expand_short(load_block(key));
            } else if let Some((first, second)) = key.split_first_chunk::<16>()
                && let Ok(second) = <&[u8; 16]>::try_from(second)
            {
                self.is_long = true;
                self.expand_long(load_block(first), load_block(second));
            } else {
                return false;
            }
            self.expand_powers();
            true
        }

        /// FIPS 197 5.2 for keys of four words.
        fn expand_short(&mut self, mut key: __m128i) {
            let mut constant = 1;
            for (round, place) in self.round_keys.iter_mut().take(11).enumerate() {
                if round > 0 {
                    key = _mm_xor_si128(running_sum(key), substituted_and_rotated(key, constant));
                    constant = doubled(constant);
                }
                *place = key;
            }
        }

        /// The same for keys of eight.
        fn expand_long(&mut self, mut even: __m128i, mut odd: __m128i) {
            let mut constant = 1;
            for (round, place) in self.round_keys.iter_mut().enumerate() {
                if round >= 2 && round % 2 == 0 {
                    even = _mm_xor_si128(running_sum(even), substituted_and_rotated(odd, constant));
                    constant = doubled(constant);
                } else if round >= 2 {
                    odd = _mm_xor_si128(running_sum(odd), substituted(even));
                }
                *place = if round % 2 == 0 { even } else { odd };
            }
        }

        fn expand_powers(&mut self) {
            let zero = _mm_setzero_si128();
            let key = if self.is_long { self.encrypt_block::<13>(zero) } else { self.encrypt_block::<9>(zero) };
            let first = times_x(_mm_shuffle_epi8(key, reverse_block()));
            let second = multiply(first, first);
            let third = multiply(second, first);
            let fourth = multiply(second, second);
            let four = _mm512_inserti32x4(_mm512_castsi128_si512(fourth), third, 1);
            let four = _mm512_inserti32x4(_mm512_inserti32x4(four, second, 2), first, 3);
            let by_four = _mm512_broadcast_i32x4(fourth);
            let eight = multiply_each(four, by_four);
            let twelve = multiply_each(eight, by_four);
            let sixteen = multiply_each(twelve, by_four);
            let last = multiply(_mm512_castsi512_si128(sixteen), first);
            let [highest, powers @ ..] = &mut self.powers;
            *highest = last;
            let (powers, _) = powers.as_chunks_mut::<4>();
            for (place, four) in powers.iter_mut().zip([sixteen, twelve, eight, four]) {
                *place = [
                    _mm512_castsi512_si128(four),
                    _mm512_extracti32x4_epi32(four, 1),
                    _mm512_extracti32x4_epi32(four, 2),
                    _mm512_extracti32x4_epi32(four, 3),
                ];
            }
        }

        /// As many vectors of blocks, encrypted. `MIDDLE` is the number of rounds between the first and the last; after each of
        /// those something else may be done, for which the processor has the time.
        fn encrypt<const MIDDLE: usize, const N: usize>(
            &self,
            mut blocks: [__m512i; N],
            mut meanwhile: impl FnMut(usize),
        ) -> [__m512i; N] {
            let [first, keys @ ..] = &self.round_keys;
            let first = _mm512_broadcast_i32x4(*first);
            for block in &mut blocks {
                *block = _mm512_xor_si512(*block, first);
            }
            for (round, key) in keys.iter().take(MIDDLE).enumerate() {
                let key = _mm512_broadcast_i32x4(*key);
                for block in &mut blocks {
                    *block = _mm512_aesenc_epi128(*block, key);
                }
                meanwhile(round);
            }
            for key in keys.iter().skip(MIDDLE).take(1) {
                let key = _mm512_broadcast_i32x4(*key);
                for block in &mut blocks {
                    *block = _mm512_aesenclast_epi128(*block, key);
                }
            }
            blocks
        }

        fn encrypt_block<const MIDDLE: usize>(&self, mut block: __m128i) -> __m128i {
            let [first, keys @ ..] = &self.round_keys;
            block = _mm_xor_si128(block, *first);
            for key in keys.iter().take(MIDDLE) {
                block = _mm_aesenc_si128(block, *key);
            }
            for key in keys.iter().skip(MIDDLE).take(1) {
                block = _mm_aesenclast_si128(block, *key);
            }
            block
        }

        /// The power with this exponent, and the three below it.
        fn powers_from(&self, exponent: usize) -> __m512i {
            let from = POWERS.saturating_sub(exponent);
            let four = self.powers.get(from..).and_then(<[_]>::first_chunk);
            match four {
                Some(four) => load_four(four),
                None => _mm512_setzero_si512(),
            }
        }

        fn power_one(&self) -> __m128i {
            let [.., first, _, _, _] = &self.powers;
            *first
        }
    }
}

/// The counters of a message, and the hash over its ciphertext so far.
struct Stream<'k> {
    key: &'k AesGcm,
    /// The next four blocks, with the counter in the processor's order.
    counters: __m512i,
    hash: __m128i,
}

impl<'k> Stream<'k> {
    vector! {
        /// SP 800-38D 7.1: the first counter, 1, is for the tag.
        fn new(key: &'k AesGcm, nonce: &[u8; NONCE_LEN], associated: &[u8]) -> (Self, __m128i) {
            let [a, b, c, d, e, f, g, h, rest @ ..] = *nonce;
            let low = i64::from_le_bytes([a, b, c, d, e, f, g, h]);
            let high = i64::from(u32::from_le_bytes(rest));
            let lanes = _mm512_set_epi32(5, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0);
            let nonce = _mm_set_epi64x(high, low);
            let first = _mm_set_epi64x(high | 1 << 56, low);
            let counters = _mm512_or_si512(_mm512_broadcast_i32x4(nonce), lanes);
            let mut this = Self { key, counters, hash: _mm_setzero_si128() };
            for block in associated.chunks(BLOCK) {
                let block = _mm_shuffle_epi8(load_partial_block(block), reverse_block());
                this.hash = multiply(_mm_xor_si128(this.hash, block), key.power_one());
            }
            (this, first)
        }

        /// The next octets of the key stream.
        fn next<const MIDDLE: usize, const N: usize>(&mut self) -> [__m512i; N] {
            let blocks = self.count();
            self.key.encrypt::<MIDDLE, N>(blocks, |_| ())
        }

        /// The same, while a stride of ciphertext goes into the hash.
        fn next_and_hash<const MIDDLE: usize, const N: usize>(&mut self, hashed: [__m512i; 4]) -> [__m512i; N] {
            let blocks = self.count();
            let mut sum = Product::zero();
            let [_, powers @ ..] = &self.key.powers;
            let mut hash = _mm512_zextsi128_si512(self.hash);
            let mut pairs = hashed.into_iter().zip(powers.as_chunks::<4>().0);
            let sealed = self.key.encrypt::<MIDDLE, N>(blocks, |round| {
                if round % 2 == 0 && let Some((block, powers)) = pairs.next() {
                    let block = _mm512_xor_si512(_mm512_shuffle_epi8(block, reverse()), hash);
                    sum.add(block, load_four(powers));
                    hash = _mm512_setzero_si512();
                }
            });
            self.hash = sum.reduced();
            sealed
        }

        fn count<const N: usize>(&mut self) -> [__m512i; N] {
            let mut blocks = [_mm512_setzero_si512(); N];
            for block in &mut blocks {
                *block = _mm512_shuffle_epi8(self.counters, reverse_counters());
                self.counters = _mm512_add_epi32(self.counters, _mm512_set_epi32(4, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0));
            }
            blocks
        }

        /// Takes a stride of ciphertext into the hash.
        fn hash_stride(&mut self, blocks: [__m512i; 4]) {
            let mut sum = Product::zero();
            let [_, powers @ ..] = &self.key.powers;
            let mut hash = _mm512_zextsi128_si512(self.hash);
            for (block, powers) in blocks.into_iter().zip(powers.as_chunks::<4>().0) {
                let block = _mm512_xor_si512(_mm512_shuffle_epi8(block, reverse()), hash);
                sum.add(block, load_four(powers));
                hash = _mm512_setzero_si512();
            }
            self.hash = sum.reduced();
        }

        /// The tag, after `N` vectors with the last octets of ciphertext and zeros.
        fn finish<const MIDDLE: usize, const N: usize>(
            mut self,
            first: __m128i,
            last: [__m512i; N],
            [associated, text, rest]: [usize; 3],
        ) -> __m128i {
            let mask = self.key.encrypt_block::<MIDDLE>(first);
            let mut sum = Product::zero();
            let mut hash = _mm512_zextsi128_si512(self.hash);
            let mut exponent = rest.div_ceil(BLOCK) + 1;
            let lengths = _mm512_zextsi128_si512(_mm_set_epi64x(associated as i64 * 8, text as i64 * 8));
            if N == 0 {
                hash = _mm512_xor_si512(hash, lengths);
                sum.add(hash, _mm512_zextsi128_si512(self.key.power_one()));
            } else {
                for block in last {
                    let block = _mm512_xor_si512(_mm512_shuffle_epi8(block, reverse()), hash);
                    sum.add(block, self.key.powers_from(exponent));
                    hash = _mm512_setzero_si512();
                    exponent = exponent.saturating_sub(4);
                }
                sum.add(lengths, _mm512_zextsi128_si512(self.key.power_one()));
            }
            self.hash = sum.reduced();
            _mm_xor_si128(_mm_shuffle_epi8(self.hash, reverse_block()), mask)
        }
    }
}

vector! {
    fn seal<const MIDDLE: usize>(
        key: &AesGcm,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        text: Option<&[u8]>,
        end: &[u8],
        out: &mut [u8],
    ) -> [u8; TAG_LEN] {
        let len = out.len();
        let (mut stream, first) = Stream::new(key, nonce, associated);
        // Whole strides of text.
        let strides = text.map_or(out.len(), <[u8]>::len) / STRIDE;
        let (from, text) = text.map(|text| text.as_chunks::<STRIDE>()).unzip();
        let (whole, mut out) = out.split_at_mut(strides * STRIDE);
        // Each stride goes into the hash while the next is encrypted.
        let mut pending = None;
        for (index, to) in whole.as_chunks_mut::<STRIDE>().0.iter_mut().enumerate() {
            let from = from.and_then(|from| from.get(index));
            let plain = load_stride(from.unwrap_or(to));
            let sealed = xor(plain, match pending {
                None => stream.next::<MIDDLE, 4>(),
                Some(hashed) => stream.next_and_hash::<MIDDLE, 4>(hashed),
            });
            store_stride(sealed, to);
            pending = Some(sealed);
        }
        if let Some(hashed) = pending {
            stream.hash_stride(hashed);
        }
        let (mut text, mut end) = (text, end);
        // Less than a stride of text, and its end, however long.
        while out.len() > STRIDE {
            let (to, rest) = out.split_at_mut(STRIDE);
            let plain = load_joined::<4>(text, end, to);
            let sealed = xor(plain, stream.next::<MIDDLE, 4>());
            store_partial(sealed, to);
            stream.hash_stride(sealed);
            out = rest;
            let taken = STRIDE - text.map_or(0, <[u8]>::len);
            end = end.get(taken..).unwrap_or_default();
            text = text.map(|_| &[][..]);
        }
        let lengths = [associated.len(), len, out.len()];
        match out.len().div_ceil(VECTOR) {
            0 => seal_last::<MIDDLE, 0>(stream, first, text, end, out, lengths),
            1 => seal_last::<MIDDLE, 1>(stream, first, text, end, out, lengths),
            2 => seal_last::<MIDDLE, 2>(stream, first, text, end, out, lengths),
            3 => seal_last::<MIDDLE, 3>(stream, first, text, end, out, lengths),
            _ => seal_last::<MIDDLE, 4>(stream, first, text, end, out, lengths),
        }
    }

    fn seal_last<const MIDDLE: usize, const N: usize>(
        mut stream: Stream<'_>,
        first: __m128i,
        text: Option<&[u8]>,
        end: &[u8],
        out: &mut [u8],
        lengths: [usize; 3],
    ) -> [u8; TAG_LEN] {
        let plain = load_joined::<N>(text, end, out);
        let sealed = xor(plain, stream.next::<MIDDLE, N>());
        let sealed = cut(sealed, out.len());
        store_partial(sealed, out);
        to_octets(stream.finish::<MIDDLE, N>(first, sealed, lengths))
    }

    fn open<const MIDDLE: usize>(
        key: &AesGcm,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> bool {
        let (mut stream, first) = Stream::new(key, nonce, associated);
        let len = text.len();
        let (whole, rest) = text.as_chunks_mut::<STRIDE>();
        for place in whole {
            let sealed = load_stride(place);
            store_stride(xor(sealed, stream.next_and_hash::<MIDDLE, 4>(sealed)), place);
        }
        let lengths = [associated.len(), len, rest.len()];
        let is_right = match rest.len().div_ceil(VECTOR) {
            0 => open_last::<MIDDLE, 0>(stream, first, rest, tag, lengths),
            1 => open_last::<MIDDLE, 1>(stream, first, rest, tag, lengths),
            2 => open_last::<MIDDLE, 2>(stream, first, rest, tag, lengths),
            3 => open_last::<MIDDLE, 3>(stream, first, rest, tag, lengths),
            _ => open_last::<MIDDLE, 4>(stream, first, rest, tag, lengths),
        };
        if !is_right {
            text.fill(0);
        }
        is_right
    }

    fn open_last<const MIDDLE: usize, const N: usize>(
        mut stream: Stream<'_>,
        first: __m128i,
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
        lengths: [usize; 3],
    ) -> bool {
        let sealed = load_joined::<N>(None, &[], text);
        store_partial(xor(sealed, stream.next::<MIDDLE, N>()), text);
        let expected = stream.finish::<MIDDLE, N>(first, sealed, lengths);
        let difference = _mm_xor_si128(expected, load_block(tag));
        _mm_test_epi64_mask(difference, difference) == 0
    }
}

/// A product of 256 bits or a sum of some, not yet reduced: what its bits 0 to 127, 64 to 191 and 128 to 255 have to be added up of.
#[derive(Clone, Copy)]
struct Product {
    low: __m512i,
    middle: __m512i,
    high: __m512i,
}

impl Product {
    vector! {
        fn zero() -> Self {
            let zero = _mm512_setzero_si512();
            Self { low: zero, middle: zero, high: zero }
        }

        /// Adds the products of the numbers in four lanes.
        fn add(&mut self, a: __m512i, b: __m512i) {
            self.low = _mm512_xor_si512(self.low, _mm512_clmulepi64_epi128(a, b, 0x00));
            self.high = _mm512_xor_si512(self.high, _mm512_clmulepi64_epi128(a, b, 0x11));
            let (a, b) = (_mm512_xor_si512(a, swapped(a)), _mm512_xor_si512(b, swapped(b)));
            self.middle = _mm512_xor_si512(self.middle, _mm512_clmulepi64_epi128(a, b, 0x00));
        }

        /// Each of the four, times x^-128, of at most 128 bits.
        ///
        /// The modulus is 1 + c * x^64 + x^128: what is in the lowest 64 bits goes away by adding as many times the modulus,
        /// and then what is in the next 64.
        fn reduced_each(self) -> __m512i {
            let c = _mm512_set1_epi64(0xc2_u64.rotate_right(8) as i64);
            let middle = xor_three(self.middle, self.low, self.high);
            let once = xor_three(middle, swapped(self.low), _mm512_clmulepi64_epi128(self.low, c, 0x00));
            xor_three(self.high, swapped(once), _mm512_clmulepi64_epi128(once, c, 0x00))
        }

        /// The sum of the four.
        fn reduced(self) -> __m128i {
            let four = self.reduced_each();
            let two = _mm256_xor_si256(_mm512_castsi512_si256(four), _mm512_extracti64x4_epi64(four, 1));
            _mm_xor_si128(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1))
        }
    }
}

vector! {
    fn multiply_each(a: __m512i, b: __m512i) -> __m512i {
        let mut product = Product::zero();
        product.add(a, b);
        product.reduced_each()
    }

    fn multiply(a: __m128i, b: __m128i) -> __m128i {
        _mm512_castsi512_si128(multiply_each(_mm512_zextsi128_si512(a), _mm512_zextsi128_si512(b)))
    }

    /// RFC 8452 appendix A: mulX_POLYVAL.
    fn times_x(number: __m128i) -> __m128i {
        let number = to_number(number);
        let carry = (number >> 127).wrapping_neg();
        let doubled = (number << 1) ^ (carry & ((0xc2 << 120) | 1));
        from_words([doubled as u64, (doubled >> 64) as u64])
    }

    fn xor<const N: usize>(mut a: [__m512i; N], b: [__m512i; N]) -> [__m512i; N] {
        for (a, b) in a.iter_mut().zip(b) {
            *a = _mm512_xor_si512(*a, b);
        }
        a
    }

    fn xor_three(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
        _mm512_ternarylogic_epi64(a, b, c, 0x96)
    }

    fn swapped(halves: __m512i) -> __m512i {
        _mm512_shuffle_epi32(halves, _MM_PERM_BADC)
    }

    fn reverse_block() -> __m128i {
        _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    }

    fn reverse() -> __m512i {
        _mm512_broadcast_i32x4(reverse_block())
    }

    /// The last four octets of each block.
    fn reverse_counters() -> __m512i {
        _mm512_broadcast_i32x4(_mm_set_epi8(12, 13, 14, 15, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0))
    }

    /// Each word of a key, and all before it.
    fn running_sum(key: __m128i) -> __m128i {
        let key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
        _mm_xor_si128(key, _mm_slli_si128(key, 8))
    }

    /// SubWord of the last word, in all places: rows that are shifted are all alike.
    fn substituted(key: __m128i) -> __m128i {
        _mm_aesenclast_si128(_mm_shuffle_epi32(key, 0xff), _mm_setzero_si128())
    }

    /// SubWord(RotWord) of it, and the constant of the round.
    fn substituted_and_rotated(key: __m128i, constant: u8) -> __m128i {
        let rotated = _mm_shuffle_epi8(key, _mm_set1_epi32(0x0c0f_0e0d));
        _mm_aesenclast_si128(rotated, _mm_set1_epi32(i32::from(constant)))
    }

    /// The octets behind the first `len` are zeros.
    fn cut<const N: usize>(mut vectors: [__m512i; N], len: usize) -> [__m512i; N] {
        for (index, vector) in vectors.iter_mut().enumerate() {
            *vector = _mm512_maskz_mov_epi8(mask(len.saturating_sub(index * VECTOR)), *vector);
        }
        vectors
    }

    /// `text`, or what is in `place`, and then `end`, and then zeros.
    fn load_joined<const N: usize>(text: Option<&[u8]>, end: &[u8], place: &[u8]) -> [__m512i; N] {
        let text = text.unwrap_or(place);
        let mut vectors = [_mm512_setzero_si512(); N];
        for (index, vector) in vectors.iter_mut().enumerate() {
            let from = index * VECTOR;
            let part = text.get(from..).unwrap_or_default();
            if !part.is_empty() {
                *vector = load_partial(part);
            }
            if part.len() < VECTOR && let Some(behind @ [_, ..]) = end.get(from.saturating_sub(text.len())..) {
                let behind = _mm512_maskz_expand_epi8(!mask(part.len()), load_partial(behind));
                *vector = _mm512_or_si512(*vector, behind);
            }
        }
        vectors
    }
}

/// FIPS 197 5.2: the next round's constant.
fn doubled(constant: u8) -> u8 {
    (constant << 1) ^ ((constant >> 7) * 0x1b)
}

/// A bit for each of the first octets of a vector.
fn mask(len: usize) -> u64 {
    if len < VECTOR { !(u64::MAX << len) } else { u64::MAX }
}

// What follows reads and writes memory.
vector! {
    fn load_stride(from: &[u8; STRIDE]) -> [__m512i; 4] {
        let mut vectors = [_mm512_setzero_si512(); 4];
        for (vector, from) in vectors.iter_mut().zip(from.as_chunks::<VECTOR>().0) {
            // SAFETY: the reference is to as many octets as are read.
            *vector = unsafe { _mm512_loadu_si512(from.as_ptr().cast()) };
        }
        vectors
    }

    fn store_stride(vectors: [__m512i; 4], to: &mut [u8; STRIDE]) {
        for (vector, to) in vectors.into_iter().zip(to.as_chunks_mut::<VECTOR>().0) {
            // SAFETY: the reference is to as many octets as are written.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), vector) }
        }
    }

    /// The first octets of `from`, as many as there are up to 64, and zeros.
    fn load_partial(from: &[u8]) -> __m512i {
        // SAFETY: the mask has no bit for what is behind the slice.
        unsafe { _mm512_maskz_loadu_epi8(mask(from.len()), from.as_ptr().cast()) }
    }

    /// As many octets as there is room for.
    fn store_partial<const N: usize>(vectors: [__m512i; N], to: &mut [u8]) {
        for (vector, to) in vectors.into_iter().zip(to.chunks_mut(VECTOR)) {
            // SAFETY: the mask has no bit for what is behind the slice.
            unsafe { _mm512_mask_storeu_epi8(to.as_mut_ptr().cast(), mask(to.len()), vector) }
        }
    }

    fn load_partial_block(from: &[u8]) -> __m128i {
        _mm512_castsi512_si128(load_partial(from))
    }

    fn load_block(from: &[u8; BLOCK]) -> __m128i {
        let number = u128::from_le_bytes(*from);
        from_words([number as u64, (number >> 64) as u64])
    }

    fn load_four(from: &[__m128i; 4]) -> __m512i {
        // SAFETY: the reference is to as many octets as are read.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    fn from_words([low, high]: [u64; 2]) -> __m128i {
        _mm_set_epi64x(high as i64, low as i64)
    }

    fn to_number(vector: __m128i) -> u128 {
        let high = _mm_extract_epi64(vector, 1) as u64;
        u128::from(high) << 64 | u128::from(_mm_cvtsi128_si64(vector) as u64)
    }

    fn to_octets(vector: __m128i) -> [u8; BLOCK] {
        to_number(vector).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};

    use super::*;
    use crate::Entropy;
    use crate::testing::SeededEntropy;

    fn octets(entropy: &mut SeededEntropy, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        entropy.fill(&mut octets);
        octets
    }

    /// The same octets as from the library, of all lengths; and what has been changed is refused and erased.
    fn as_the_library(algorithm: &'static Algorithm, seed: u64) {
        if !AesGcm::is_possible() {
            return;
        }
        let mut entropy = SeededEntropy::new(seed);
        for len in 0..=2100 {
            let key = octets(&mut entropy, algorithm.key_len());
            let nonce: [u8; NONCE_LEN] = octets(&mut entropy, NONCE_LEN).try_into().unwrap();
            let associated = octets(&mut entropy, [8, 12, len % 70][len % 3]);
            let text = octets(&mut entropy, len);
            let mut expected = text.clone();
            let library = LessSafeKey::new(UnboundKey::new(algorithm, &key).unwrap());
            let unique = Nonce::assume_unique_for_key(nonce);
            let tag =
                library.seal_in_place_separate_tag(unique, Aad::from(&associated), &mut expected).unwrap();
            let tag: [u8; TAG_LEN] = tag.as_ref().try_into().unwrap();
            let ours = AesGcm::new(&key).unwrap();
            let mut sealed = text.clone();
            assert_eq!(ours.seal(&nonce, &associated, None, &[], &mut sealed), tag, "{len}");
            assert_eq!(sealed, expected, "{len}");
            for end in [0, 2, 3, 17, 18, 64, 257, 258, 600, 1999] {
                let Some(front) = len.checked_sub(end) else { continue };
                let (front, end) = text.split_at(front);
                sealed.fill(0x55);
                assert_eq!(ours.seal(&nonce, &associated, Some(front), end, &mut sealed), tag);
                assert_eq!(sealed, expected, "{len} {}", end.len());
            }
            let mut opened = expected.clone();
            assert!(ours.open(&nonce, &associated, &mut opened, &tag));
            assert_eq!(opened, text);
            let refused = |associated: &[u8], text: &[u8], tag: &[u8; TAG_LEN]| {
                let mut text = text.to_vec();
                !ours.open(&nonce, associated, &mut text, tag) && text.iter().all(|octet| *octet == 0)
            };
            let changed = |of: &[u8]| {
                let mut of = of.to_vec();
                let at = (len * 7) % of.len();
                of[at] ^= 1 << (len % 8);
                of
            };
            assert!(refused(&associated, &expected, &changed(&tag).try_into().unwrap()));
            assert!(associated.is_empty() || refused(&changed(&associated), &expected, &tag));
            assert!(text.is_empty() || refused(&associated, &changed(&expected), &tag));
            assert!(refused(&[&associated[..], &[0]].concat(), &expected, &tag));
        }
    }

    #[test]
    fn keys_of_128_bits_do_as_the_library() {
        as_the_library(&AES_128_GCM, 1);
    }

    #[test]
    fn keys_of_256_bits_do_as_the_library() {
        as_the_library(&AES_256_GCM, 2);
    }

    #[test]
    fn keys_of_other_lengths_are_the_librarys() {
        assert!([0, 15, 17, 24, 31, 33].iter().all(|len| AesGcm::new(&vec![0; *len]).is_none()));
    }
}
