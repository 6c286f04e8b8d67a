//! In place of `aes_gcm.rs` on processors of another kind: no key is ever expanded here.

pub(crate) const NONCE_LEN: usize = 12;
pub(crate) const TAG_LEN: usize = 16;

pub(crate) enum AesGcm {}

impl AesGcm {
    pub(crate) const LEN: usize = 0;

    pub(crate) fn new(_: &[u8]) -> Option<Box<Self>> {
        None
    }

    pub(crate) fn seal(
        &self,
        _: &[u8; NONCE_LEN],
        _: &[u8],
        _: Option<&[u8]>,
        _: &[u8],
        _: &mut [u8],
    ) -> [u8; TAG_LEN] {
        match *self {}
    }

    pub(crate) fn open(&self, _: &[u8; NONCE_LEN], _: &[u8], _: &mut [u8], _: &[u8; TAG_LEN]) -> bool {
        match *self {}
    }
}
