//! Reading and writing big-endian fields.
//!
//! The only place that counts octets. A [`Reader`] never goes beyond its slice and says in whose name it failed;
//! a [`Writer`] fills length fields in after what they count is written.

use crate::{DecodeError, Reason};

/// A slice that is consumed from the front.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    context: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`; errors will name `context`.
    #[must_use]
    pub const fn new(bytes: &'a [u8], context: &'static str) -> Self {
        Self { rest: bytes, context }
    }

    /// The next `len` octets.
    ///
    /// # Errors
    /// [`Reason::Truncated`] if fewer are left; nothing is consumed then.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or_else(|| self.truncated(len))?;
        self.rest = tail;
        Ok(head)
    }

    /// The next `N` octets.
    ///
    /// # Errors
    /// As [`Reader::take`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.truncated(N))?;
        self.rest = tail;
        Ok(*head)
    }

    /// One octet.
    ///
    /// # Errors
    /// As [`Reader::take`].
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[octet]| octet)
    }

    /// Two octets, big-endian.
    ///
    /// # Errors
    /// As [`Reader::take`].
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four octets, big-endian.
    ///
    /// # Errors
    /// As [`Reader::take`].
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight octets, big-endian.
    ///
    /// # Errors
    /// As [`Reader::take`].
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A reader over the next `len` octets, which are consumed here; its errors will name `context`.
    ///
    /// # Errors
    /// [`Reason::LengthBeyond`] if fewer are left.
    pub fn sub(&mut self, len: usize, context: &'static str) -> Result<Self, DecodeError> {
        self.framed(len, 0, 0, context)
    }

    /// As [`Reader::sub`], for a structure whose length field counts the `read` octets before it as well.
    ///
    /// # Errors
    /// [`Reason::LengthBelow`] if `length` is below `minimum`, which is at least `read`; [`Reason::LengthBeyond`]
    /// if it is more than what is there.
    pub fn framed(
        &mut self,
        length: usize,
        read: usize,
        minimum: usize,
        context: &'static str,
    ) -> Result<Self, DecodeError> {
        if length < minimum.max(read) {
            return Err(self.error(Reason::LengthBelow { length, minimum }));
        }
        let available = read + self.rest.len();
        let bytes =
            self.take(length - read).map_err(|_| self.error(Reason::LengthBeyond { length, available }))?;
        Ok(Self::new(bytes, context))
    }

    /// Everything that is left, consumed.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// How many octets are left.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Are no octets left?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Checks that all was consumed.
    ///
    /// # Errors
    /// [`Reason::Trailing`] if octets are left.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(self.error(Reason::Trailing(left))),
        }
    }

    /// An error in the name of this reader's structure.
    #[must_use]
    pub const fn error(&self, reason: Reason) -> DecodeError {
        DecodeError::new(self.context, reason)
    }

    const fn truncated(&self, needed: usize) -> DecodeError {
        self.error(Reason::Truncated { needed, left: self.rest.len() })
    }
}

/// A growing message.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

/// Place of a two-octet length field that is filled in later by [`Writer::end_len`].
#[derive(Debug)]
#[must_use = "a length field left open stays zero"]
pub struct OpenLen {
    field: usize,
    from: usize,
}

impl Writer {
    /// An empty message.
    #[must_use]
    pub const fn new() -> Self {
        Self { out: Vec::new() }
    }

    /// How much is written.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.out.len()
    }

    /// Is nothing written?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Appends one octet.
    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    /// Appends two octets, big-endian.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    /// Appends four octets, big-endian.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    /// Appends eight octets, big-endian.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    /// Appends octets.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Appends `count` zero octets.
    pub fn zeros(&mut self, count: usize) {
        self.out.resize(self.out.len() + count, 0);
    }

    /// Appends a two-octet length field. It will count from `from`, a value of [`Writer::len`].
    pub fn len_u16(&mut self, from: usize) -> OpenLen {
        let field = self.out.len();
        self.u16(0);
        OpenLen { field, from }
    }

    /// Fills a length field in: it counts up to here.
    ///
    /// What is longer than 65,535 octets has no encoding. Its length field saturates, so that a receiver finds
    /// the message malformed; nothing that fits in a UDP datagram comes so far.
    pub fn end_len(&mut self, open: OpenLen) {
        let length = u16::try_from(self.out.len() - open.from).unwrap_or(u16::MAX);
        self.patch(open.field, &length.to_be_bytes());
    }

    /// Overwrites octets that were written before. What lies beyond the end is left alone.
    pub fn patch(&mut self, at: usize, bytes: &[u8]) {
        if let Some(field) = self.out.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    }

    /// The message.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.out
    }
}
