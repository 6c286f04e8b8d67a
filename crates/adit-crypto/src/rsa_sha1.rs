//! RSASSA-PKCS1-v1_5 with SHA-1 (RFC 8017 8.2.1), which the library verifies but does not make. Peers without RFC 7427 verify
//! nothing else by default (RFC 7296 3.8). Owns the padding and one exponentiation in constant time; a signature leaves only
//! once the library has verified it.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa;
use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd};
use zeroize::Zeroizing;

use crate::der::{Reader, Tag};
use crate::{Error, hash_sha1};

/// The `DigestInfo` of a SHA-1 hash, up to the hash (RFC 8017 9.2, note 1).
const DIGEST_INFO: [u8; 15] = [0x30, 0x21, 0x30, 0x09, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0, 4, 0x14];

/// Signs `message`: EMSA-PKCS1-v1_5 of its hash, to the power of the private exponent.
pub(crate) fn sign(pair: &rsa::KeyPair, message: &[u8]) -> Result<Vec<u8>, Error> {
    let der: Pkcs8V1Der<'static> = pair.as_der().map_err(|_| Error::BadKey)?;
    let [modulus, exponent] = numbers(der.as_ref()).ok_or(Error::BadKey)?;
    let length = modulus.len();
    let hash = hash_sha1(&[message]);
    let padding = length.checked_sub(3 + DIGEST_INFO.len() + hash.len()).ok_or(Error::BadKey)?;
    let padded = [&[0, 1], &vec![0xff; padding][..], &[0], &DIGEST_INFO, &hash].concat();
    let bits = u32::try_from(8 * length).map_err(|_| Error::BadKey)?;
    let number = |octets: &[u8]| BoxedUint::from_be_slice(octets, bits).map_err(|_| Error::BadKey);
    let odd = Odd::new(number(modulus)?).into_option().ok_or(Error::BadKey)?;
    let parameters = BoxedMontyParams::new_vartime(odd);
    let exponent = Zeroizing::new(number(exponent)?);
    let power = BoxedMontyForm::new(number(&padded)?, &parameters).pow(&exponent).retrieve();
    let octets = power.to_be_bytes();
    octets
        .len()
        .checked_sub(length)
        .and_then(|start| octets.get(start..))
        .map(<[u8]>::to_vec)
        .ok_or(Error::BadKey)
}

/// The modulus and the private exponent of a PKCS#8 key (RFC 5208 5, RFC 8017 A.1.2), without leading zeros.
fn numbers(pkcs8: &[u8]) -> Option<[&[u8]; 2]> {
    let mut info = Reader::new(Reader::new(pkcs8).only(Tag::SEQUENCE)?);
    info.take(Tag::INTEGER)?;
    info.take(Tag::SEQUENCE)?;
    let mut key = Reader::new(Reader::new(info.take(Tag::OCTET_STRING)?).only(Tag::SEQUENCE)?);
    key.take(Tag::INTEGER)?;
    let mut number = || key.take(Tag::INTEGER).map(|octets| octets.strip_prefix(&[0]).unwrap_or(octets));
    let (modulus, _public, private) = (number()?, number()?, number()?);
    Some([modulus, private])
}
