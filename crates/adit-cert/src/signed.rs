//! What is signed in ASN.1's way: a value, an algorithm, a bit string.
//!
//! This module owns the check of one signature with one key, for certificates, CRLs and OCSP responses alike. The algorithms are
//! webpki's: RSA of 2048 to 8192 bits (PKCS#1 v1.5 and PSS), ECDSA with P-256, P-384 and P-521, Ed25519, never with SHA-1.
//! It never decides who may sign.

use der::asn1::{AnyRef, BitStringRef};
use der::{Decode, Reader, SliceReader, Tag};

/// The three parts of a signed structure, as DER.
#[derive(Clone, Copy)]
pub(crate) struct Signed<'a> {
    /// What is signed, header and all.
    pub(crate) message: &'a [u8],
    /// The value of the AlgorithmIdentifier, without its header.
    pub(crate) algorithm: &'a [u8],
    pub(crate) signature: &'a [u8],
}

impl<'a> Signed<'a> {
    /// Reads a whole structure, nothing before or behind it.
    pub(crate) fn from_der(der: &'a [u8]) -> der::Result<Self> {
        let outer = AnyRef::from_der(der)?;
        outer.sequence(|parts| -> der::Result<Self> {
            let message = parts.tlv_bytes()?;
            Ok(Self { message, algorithm: sequence(parts)?, signature: bits(parts)? })
        })
    }

    /// Is the signature right for the key in `spki`?
    pub(crate) fn verifies(&self, spki: &[u8]) -> bool {
        let Ok((key_algorithm, key)) = key_parts(spki) else {
            return false;
        };
        webpki::ALL_VERIFICATION_ALGS
            .iter()
            .filter(|a| {
                a.signature_alg_id().as_ref() == self.algorithm
                    && a.public_key_alg_id().as_ref() == key_algorithm
            })
            .any(|a| a.verify_signature(key, self.message, self.signature).is_ok())
    }
}

/// The value of the algorithm and the bits of a SubjectPublicKeyInfo.
pub(crate) fn key_parts(spki: &[u8]) -> der::Result<(&[u8], &[u8])> {
    AnyRef::from_der(spki)?.sequence(|parts| -> der::Result<_> { Ok((sequence(parts)?, bits(parts)?)) })
}

fn sequence<'a>(reader: &mut SliceReader<'a>) -> der::Result<&'a [u8]> {
    let any = AnyRef::decode(reader)?;
    der::Tagged::tag(&any).assert_eq(Tag::Sequence)?;
    Ok(any.value())
}

fn bits<'a>(reader: &mut SliceReader<'a>) -> der::Result<&'a [u8]> {
    BitStringRef::decode(reader)?
        .as_bytes()
        .ok_or_else(|| reader.error(der::ErrorKind::Noncanonical { tag: Tag::BitString }))
}
