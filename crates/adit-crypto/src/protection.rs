//! The protection of one direction of traffic: confidentiality and integrity together, as IKE's SK payload and ESP both
//! need it. Owns the keyed contexts; what is protected, and where IV and ICV stand in a packet, is the caller's.
//! Nothing here allocates once the keys are set.

use std::fmt;

use adit_wire::ikev2::{EncrId, IntegId};
use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use zeroize::Zeroizing;

use crate::aes_gcm::{AesGcm, NONCE_LEN};
use crate::suites::{Cipher, Integrity, SALT_LEN, Suite};
use crate::{Error, constant_time_eq};

/// Keys and algorithms for one direction.
pub struct Protection(Method);

enum Method {
    /// RFC 4106, RFC 7634, and for IKE RFC 5282: nonce = salt | IV.
    Aead(Aead),
    /// RFC 3602 with RFC 2404 or RFC 4868: encrypt, then MAC.
    Cbc(Box<Cbc>),
    /// RFC 2410: integrity alone.
    #[cfg(feature = "legacy")]
    Null(Box<Mac>),
}

/// The key of an AEAD cipher, and what the library works with: some 600 octets, which are far away if they have not been
/// used lately. To make them again takes less time than to fetch them from there, and less memory. The key never moves:
/// what is moved leaves a copy behind that nobody erases.
struct Aead {
    algorithm: &'static aead::Algorithm,
    key: Box<Zeroizing<[u8; AEAD_MAX_KEY_LEN]>>,
    salt: Zeroizing<[u8; SALT_LEN]>,
    expanded: Option<Expanded>,
}

/// A key as it is worked with.
enum Expanded {
    Library(LessSafeKey),
    /// AES-GCM, where the processor has the instructions.
    Vector(Box<AesGcm>),
}

/// The keys of AES-CBC, which holds both schedules of a key, with those of its MAC and its IVs.
struct Cbc {
    encrypting: EncryptingKey,
    decrypting: DecryptingKey,
    iv: EncryptingKey,
    mac: Mac,
}

/// Octets of the explicit IV of the AEAD ciphers here (RFC 4106 3.1, RFC 7634 2).
const AEAD_IV_LEN: usize = 8;

/// Octets of the longest key of the AEAD ciphers here.
const AEAD_MAX_KEY_LEN: usize = 32;

/// Octets that the library expands such a key to, about.
const EXPANDED_LEN: usize = 600;

/// Octets of the tag of the AEAD ciphers here.
const AEAD_ICV_LEN: usize = 16;

/// Octets of the AES block, and so of the IV of AES-CBC (RFC 3602 3).
const AES_BLOCK_LEN: usize = 16;

impl Protection {
    /// Sets the keys. `encr_key` holds the salt too where the cipher has one; the lengths are those of
    /// [`encr_key_len`](crate::encr_key_len) and [`integ_key_len`](crate::integ_key_len).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an algorithm not built in, an AEAD cipher with an integrity algorithm, or another
    /// cipher without one; [`Error::Length`] for a key of the wrong length.
    pub fn new(
        encr: EncrId,
        key_bits: Option<u16>,
        integ: Option<IntegId>,
        encr_key: &[u8],
        integ_key: &[u8],
    ) -> Result<Self, Error> {
        let suite = Suite::of(encr, key_bits, integ)?;
        check_len("encryption key", suite.cipher.key_len(), encr_key.len())?;
        check_len("integrity key", suite.integ_key_len(), integ_key.len())?;
        let mac = suite.integrity.map(|integrity| Mac::new(integrity, integ_key));
        let method = match (suite.cipher, mac) {
            (Cipher::Aead(algorithm), None) => {
                let (bytes, salt) = encr_key.split_last_chunk::<SALT_LEN>().ok_or(Error::BadKey)?;
                let mut key = Box::new(Zeroizing::new([0; _]));
                key.get_mut(..bytes.len()).ok_or(Error::BadKey)?.copy_from_slice(bytes);
                let mut aead = Aead { algorithm, key, salt: Zeroizing::new(*salt), expanded: None };
                aead.expanded = Some(aead.expand()?);
                Method::Aead(aead)
            }
            (Cipher::AesCbc { algorithm, .. }, Some(mac)) => {
                let key = |bytes: &[u8]| UnboundCipherKey::new(algorithm, bytes).map_err(|_| Error::BadKey);
                let iv_key = iv_key(encr_key)?;
                Method::Cbc(Box::new(Cbc {
                    encrypting: EncryptingKey::cbc(key(encr_key)?).map_err(|_| Error::BadKey)?,
                    decrypting: DecryptingKey::cbc(key(encr_key)?).map_err(|_| Error::BadKey)?,
                    iv: EncryptingKey::ecb(key(&iv_key)?).map_err(|_| Error::BadKey)?,
                    mac,
                }))
            }
            #[cfg(feature = "legacy")]
            (Cipher::Null, Some(mac)) => Method::Null(Box::new(mac)),
            _ => return Err(Error::Unsupported { what: encr.to_string() }),
        };
        Ok(Self(method))
    }

    /// Lets go of what can be made again from the key: some 600 octets for an AEAD cipher, nothing for the others. To make
    /// them again costs each packet an eighth of a microsecond, until [`wake`](Self::wake).
    pub fn rest(&mut self) {
        if let Method::Aead(aead) = &mut self.0 {
            aead.expanded = None;
        }
    }

    /// Makes it quick again after [`rest`](Self::rest).
    ///
    /// # Errors
    /// [`Error::BadKey`] if the library fails, for want of memory; it goes on resting.
    pub fn wake(&mut self) -> Result<(), Error> {
        if let Method::Aead(aead) = &mut self.0
            && aead.expanded.is_none()
        {
            aead.expanded = Some(aead.expand()?);
        }
        Ok(())
    }

    /// Which memory beside its own a packet needs, and how many octets: for whoever can fetch it before the packet comes. Nothing
    /// else can be done with it. The library says to nobody where it keeps what it has expanded a key to; it asked for that
    /// memory right after we did for the key, and an allocator most likely put the one behind the other.
    pub fn place(&self) -> (*const u8, usize) {
        match &self.0 {
            Method::Aead(Aead { expanded: Some(Expanded::Vector(key)), .. }) => {
                ((&raw const **key).cast(), AesGcm::LEN)
            }
            Method::Aead(Aead { key, expanded, .. }) => {
                let len = if expanded.is_some() { AEAD_MAX_KEY_LEN + EXPANDED_LEN } else { AEAD_MAX_KEY_LEN };
                (key.as_ptr(), len)
            }
            _ => (std::ptr::null(), 0),
        }
    }

    /// Whether [`wake`](Self::wake) would do something.
    pub fn is_resting(&self) -> bool {
        matches!(&self.0, Method::Aead(Aead { expanded: None, .. }))
    }

    /// Whether one algorithm does both.
    pub fn is_aead(&self) -> bool {
        matches!(self.0, Method::Aead(_))
    }

    /// Octets of the explicit IV.
    pub fn iv_len(&self) -> usize {
        match &self.0 {
            Method::Aead(_) => AEAD_IV_LEN,
            Method::Cbc(_) => AES_BLOCK_LEN,
            #[cfg(feature = "legacy")]
            Method::Null(_) => 0,
        }
    }

    /// Octets the plaintext must be a multiple of: 16 for AES-CBC, else 1.
    pub fn block_len(&self) -> usize {
        match &self.0 {
            Method::Cbc(_) => AES_BLOCK_LEN,
            _ => 1,
        }
    }

    /// Octets of the integrity check value.
    pub fn icv_len(&self) -> usize {
        match &self.0 {
            Method::Aead(_) => AEAD_ICV_LEN,
            Method::Cbc(cbc) => cbc.mac.icv_len,
            #[cfg(feature = "legacy")]
            Method::Null(mac) => mac.icv_len,
        }
    }

    /// Writes the IV for packet number `counter` into `out`, which has [`iv_len`](Self::iv_len) octets.
    ///
    /// The caller never uses a counter twice with one key. For an AEAD cipher the IV is the counter, which is all it
    /// asks for (RFC 4106 3.1, RFC 7634 2). For AES-CBC nobody without the key may foresee it (RFC 3602 3), so it is
    /// the counter encrypted, under a key derived from the encryption key (NIST SP 800-38A appendix C, first method).
    /// A buffer of another length is left as it is, and [`seal`](Self::seal) will refuse it.
    #[inline]
    pub fn next_iv(&self, counter: u64, out: &mut [u8]) {
        match &self.0 {
            Method::Aead(_) => {
                if let Ok(out) = <&mut [u8; AEAD_IV_LEN]>::try_from(out) {
                    *out = counter.to_be_bytes();
                }
            }
            Method::Cbc(cbc) => {
                if out.len() == AES_BLOCK_LEN {
                    let (zeros, number) = out.split_at_mut(AES_BLOCK_LEN - size_of::<u64>());
                    zeros.fill(0);
                    number.copy_from_slice(&counter.to_be_bytes());
                    cbc.iv
                        .less_safe_encrypt(out, EncryptionContext::None)
                        .expect("ECB takes one whole block and no context");
                }
            }
            #[cfg(feature = "legacy")]
            Method::Null(_) => {}
        }
    }

    /// Encrypts `buf` in place and writes the integrity check value into `icv`.
    ///
    /// An AEAD cipher authenticates `associated_data` (in which the caller has put the high half of an extended
    /// sequence number already, RFC 4106 5); `mac_trailer` is empty then. The others authenticate
    /// `associated_data | iv | ciphertext | mac_trailer`, the trailer being that high half, or empty
    /// (RFC 4303 2.2.1 and 2.8).
    ///
    /// # Errors
    /// [`Error::Length`] where `iv`, `buf`, `icv` or `mac_trailer` does not have the length it must have.
    #[inline]
    pub fn seal(
        &self,
        iv: &[u8],
        associated_data: &[u8],
        mac_trailer: &[u8],
        buf: &mut [u8],
        icv: &mut [u8],
    ) -> Result<(), Error> {
        match &self.0 {
            Method::Aead(aead) => {
                check_aead(mac_trailer, icv)?;
                let mut made = None;
                let nonce = nonce(&aead.salt, iv)?;
                match aead.key(&mut made)? {
                    Expanded::Vector(key) => {
                        icv.copy_from_slice(&key.seal(&nonce, associated_data, None, &[], buf));
                    }
                    Expanded::Library(key) => key
                        .seal_in_place_scatter(
                            Nonce::assume_unique_for_key(nonce),
                            Aad::from(associated_data),
                            buf,
                            &[],
                            icv,
                        )
                        .map_err(|_| Error::BadKey)?,
                }
            }
            Method::Cbc(cbc) => {
                cbc.check_lengths(buf, icv)?;
                let context = EncryptionContext::Iv128(block_iv(iv)?);
                cbc.encrypting.less_safe_encrypt(buf, context).map_err(|_| Error::BadKey)?;
                cbc.mac.sign(&[associated_data, iv, buf, mac_trailer], icv);
            }
            #[cfg(feature = "legacy")]
            Method::Null(mac) => {
                check_len("IV", 0, iv.len())?;
                check_len("ICV", mac.icv_len, icv.len())?;
                mac.sign(&[associated_data, buf, mac_trailer], icv);
            }
        }
        Ok(())
    }

    /// As [`seal`](Self::seal), of `text` and what follows it, `end`, to `out`, which has room for both and the integrity
    /// check value behind them. An AEAD cipher reads `text` where it is, without a copy.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    #[inline]
    pub fn seal_into(
        &self,
        iv: &[u8],
        associated_data: &[u8],
        mac_trailer: &[u8],
        [text, end]: [&[u8]; 2],
        out: &mut [u8],
    ) -> Result<(), Error> {
        check_len("packet", text.len() + end.len() + self.icv_len(), out.len())?;
        if let Method::Aead(aead) = &self.0 {
            check_len("MAC trailer", 0, mac_trailer.len())?;
            let mut made = None;
            let nonce = nonce(&aead.salt, iv)?;
            match aead.key(&mut made)? {
                Expanded::Vector(key) => {
                    let (out, icv) = out.split_at_mut(text.len() + end.len());
                    icv.copy_from_slice(&key.seal(&nonce, associated_data, Some(text), end, out));
                }
                Expanded::Library(key) => {
                    let (body, rest) = out.split_at_mut(text.len());
                    let associated_data = Aad::from(associated_data);
                    key.seal_out_of_place_scatter(
                        Nonce::assume_unique_for_key(nonce),
                        associated_data,
                        text,
                        body,
                        end,
                        rest,
                    )
                    .map_err(|_| Error::BadKey)?;
                }
            }
            return Ok(());
        }
        let (body, rest) = out.split_at_mut(text.len());
        body.copy_from_slice(text);
        rest.split_at_mut(end.len()).0.copy_from_slice(end);
        let (body, icv) = out.split_at_mut(text.len() + end.len());
        self.seal(iv, associated_data, mac_trailer, body, icv)
    }

    /// Checks the integrity check value and decrypts `buf` in place. The arguments are those of
    /// [`seal`](Self::seal). Where it fails, what is in `buf` means nothing.
    ///
    /// # Errors
    /// [`Error::Authentication`] where the check fails, [`Error::Length`] where `iv`, `buf`, `icv` or `mac_trailer`
    /// does not have the length it must have.
    #[inline]
    pub fn open(
        &self,
        iv: &[u8],
        associated_data: &[u8],
        mac_trailer: &[u8],
        buf: &mut [u8],
        icv: &[u8],
    ) -> Result<(), Error> {
        match &self.0 {
            Method::Aead(aead) => {
                check_aead(mac_trailer, icv)?;
                let mut made = None;
                let nonce = nonce(&aead.salt, iv)?;
                match (aead.key(&mut made)?, <&[u8; AEAD_ICV_LEN]>::try_from(icv)) {
                    (Expanded::Vector(key), Ok(icv)) => {
                        if !key.open(&nonce, associated_data, buf, icv) {
                            return Err(Error::Authentication);
                        }
                    }
                    (Expanded::Library(key), Ok(icv)) => {
                        key.open_in_place_separate_tag(
                            Nonce::assume_unique_for_key(nonce),
                            Aad::from(associated_data),
                            icv,
                            buf,
                        )
                        .map_err(|_| Error::Authentication)?;
                    }
                    (_, Err(_)) => return Err(Error::Authentication),
                }
            }
            Method::Cbc(cbc) => {
                cbc.check_lengths(buf, icv)?;
                let context = DecryptionContext::Iv128(block_iv(iv)?);
                // Nothing is decrypted before it is known to be the peer's: no padding oracle (RFC 4303 3.4.4.1).
                cbc.mac.verify(&[associated_data, iv, buf, mac_trailer], icv)?;
                cbc.decrypting.decrypt(buf, context).map_err(|_| Error::BadKey)?;
            }
            #[cfg(feature = "legacy")]
            Method::Null(mac) => {
                check_len("IV", 0, iv.len())?;
                check_len("ICV", mac.icv_len, icv.len())?;
                mac.verify(&[associated_data, buf, mac_trailer], icv)?;
            }
        }
        Ok(())
    }
}

impl Aead {
    /// The expanded key; where that rests, one that is made in `place`.
    #[inline]
    fn key<'k>(&'k self, place: &'k mut Option<Expanded>) -> Result<&'k Expanded, Error> {
        match &self.expanded {
            Some(key) => Ok(key),
            None => Ok(place.insert(self.expand()?)),
        }
    }

    fn expand(&self) -> Result<Expanded, Error> {
        let key = self.key.get(..self.algorithm.key_len()).ok_or(Error::BadKey)?;
        let is_aes = [&aead::AES_128_GCM, &aead::AES_256_GCM].contains(&self.algorithm);
        if is_aes && let Some(key) = AesGcm::new(key) {
            return Ok(Expanded::Vector(key));
        }
        self.expand_by_library()
    }

    fn expand_by_library(&self) -> Result<Expanded, Error> {
        let key = self.key.get(..self.algorithm.key_len()).ok_or(Error::BadKey)?;
        let key = UnboundKey::new(self.algorithm, key).map_err(|_| Error::BadKey)?;
        Ok(Expanded::Library(LessSafeKey::new(key)))
    }
}

impl Cbc {
    fn check_lengths(&self, buf: &[u8], icv: &[u8]) -> Result<(), Error> {
        check_len("ICV", self.mac.icv_len, icv.len())?;
        check_len("text", buf.len().next_multiple_of(AES_BLOCK_LEN), buf.len())
    }
}

/// What an AEAD cipher does not check itself.
fn check_aead(mac_trailer: &[u8], icv: &[u8]) -> Result<(), Error> {
    // Left out of the check value in silence, it would not be protected.
    check_len("MAC trailer", 0, mac_trailer.len())?;
    check_len("ICV", AEAD_ICV_LEN, icv.len())
}

impl fmt::Debug for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protection")
            .field("aead", &self.is_aead())
            .field("icv_len", &self.icv_len())
            .finish_non_exhaustive()
    }
}

/// A truncated HMAC, with the key already absorbed.
struct Mac {
    key: hmac::Key,
    icv_len: usize,
}

impl Mac {
    fn new(integrity: Integrity, key: &[u8]) -> Self {
        Self { key: hmac::Key::new(integrity.algorithm, key), icv_len: integrity.icv_len }
    }

    /// Writes as many octets of the HMAC over the parts as `icv` takes.
    fn sign(&self, parts: &[&[u8]], icv: &mut [u8]) {
        for (out, byte) in icv.iter_mut().zip(self.tag(parts).as_ref()) {
            *out = *byte;
        }
    }

    fn verify(&self, parts: &[&[u8]], icv: &[u8]) -> Result<(), Error> {
        let tag = self.tag(parts);
        match tag.as_ref().get(..self.icv_len) {
            Some(expected) if constant_time_eq(expected, icv) => Ok(()),
            _ => Err(Error::Authentication),
        }
    }

    fn tag(&self, parts: &[&[u8]]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(part);
        }
        context.sign()
    }
}

fn nonce(salt: &[u8; SALT_LEN], iv: &[u8]) -> Result<[u8; NONCE_LEN], Error> {
    let Ok(iv) = <&[u8; AEAD_IV_LEN]>::try_from(iv) else {
        return Err(Error::Length { what: "IV", expected: AEAD_IV_LEN, actual: iv.len() });
    };
    let [s0, s1, s2, s3] = *salt;
    let [i0, i1, i2, i3, i4, i5, i6, i7] = *iv;
    Ok([s0, s1, s2, s3, i0, i1, i2, i3, i4, i5, i6, i7])
}

fn block_iv(iv: &[u8]) -> Result<FixedLength<AES_BLOCK_LEN>, Error> {
    FixedLength::try_from(iv).map_err(|_| Error::Length {
        what: "IV",
        expected: AES_BLOCK_LEN,
        actual: iv.len(),
    })
}

/// The key the IVs of AES-CBC are made with: as long as the encryption key, and of no use in finding it.
fn iv_key(encr_key: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut key = Zeroizing::new(vec![0; hmac::HMAC_SHA256.tag_len()]);
    hmac::sign_to_buffer(&hmac::Key::new(hmac::HMAC_SHA256, encr_key), b"Adit AES-CBC IV", &mut key)
        .map_err(|_| Error::BadKey)?;
    key.truncate(encr_key.len());
    Ok(key)
}

fn check_len(what: &'static str, expected: usize, actual: usize) -> Result<(), Error> {
    if actual == expected { Ok(()) } else { Err(Error::Length { what, expected, actual }) }
}

/// The same key, and salt, of AES-GCM twice: as on this processor, and as on one without vector instructions. For checks.
pub(crate) fn aes_gcm_pair(key: &[u8]) -> Result<[Protection; 2], Error> {
    let bits = u16::try_from(key.len().saturating_sub(SALT_LEN) * 8).map_err(|_| Error::BadKey)?;
    let new = || Protection::new(EncrId::AES_GCM_16, Some(bits), None, key, &[]);
    let (here, mut elsewhere) = (new()?, new()?);
    if let Method::Aead(aead) = &mut elsewhere.0 {
        aead.expanded = Some(aead.expand_by_library()?);
    }
    Ok([here, elsewhere])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whichever has sealed, the other opens, and both refuse.
    #[test]
    fn vectors_and_library_understand_each_other() {
        for key_len in [16, 24, 32] {
            let key: Vec<u8> = (0..key_len + 4).collect();
            let both = aes_gcm_pair(&key).unwrap();
            for (sealing, opening) in [(0, 1), (1, 0)] {
                for len in [0, 1, 68, 256, 1424] {
                    let (mut packet, mut icv) = (vec![9; len], [0; AEAD_ICV_LEN]);
                    both[sealing].seal(&[1; 8], b"header", &[], &mut packet, &mut icv).unwrap();
                    let mut into = vec![0; len + AEAD_ICV_LEN];
                    let (text, end) = (vec![9; len - len.min(2)], vec![9; len.min(2)]);
                    both[opening].seal_into(&[1; 8], b"header", &[], [&text, &end], &mut into).unwrap();
                    assert_eq!(into, [&packet[..], &icv].concat());
                    both[opening].open(&[1; 8], b"header", &[], &mut packet, &icv).unwrap();
                    assert_eq!(packet, vec![9; len]);
                    let forged = both[opening].open(&[1; 8], b"header", &[], &mut packet, &[0; 16]);
                    assert_eq!(forged, Err(Error::Authentication));
                }
            }
        }
    }
}
