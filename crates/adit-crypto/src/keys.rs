//! From a shared secret to the keys of an SA: RFC 7296 2.13 to 2.18. Owns the order in which keying material is cut up;
//! the functions that make it are in `prf`.

use adit_wire::ikev2::{EncrId, IntegId, KeId, PrfId};

use crate::suites::Suite;
use crate::{Error, Prf, Secret};

/// The algorithms of an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IkeTransforms {
    /// Encryption.
    pub encr: EncrId,
    /// Its Key Length attribute, in bits.
    pub key_bits: Option<u16>,
    /// Integrity; `None` (or NONE) beside an AEAD cipher.
    pub integ: Option<IntegId>,
    /// Pseudorandom function.
    pub prf: PrfId,
    /// Key exchange method.
    pub ke: KeId,
}

/// The keys of an IKE SA (RFC 7296 2.14). Of each pair, `i` is the original initiator's direction.
#[derive(Debug)]
pub struct IkeKeys {
    /// Derives the keys of Child SAs and of the next IKE SA.
    pub sk_d: Secret,
    /// Integrity, initiator's messages; empty with an AEAD cipher.
    pub sk_ai: Secret,
    /// Integrity, responder's messages; empty with an AEAD cipher.
    pub sk_ar: Secret,
    /// Encryption, initiator's messages; ends in the salt with an AEAD cipher.
    pub sk_ei: Secret,
    /// Encryption, responder's messages; ends in the salt with an AEAD cipher.
    pub sk_er: Secret,
    /// Goes into the initiator's AUTH payload.
    pub sk_pi: Secret,
    /// Goes into the responder's AUTH payload.
    pub sk_pr: Secret,
}

/// The algorithms of an ESP SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EspTransforms {
    /// Encryption.
    pub encr: EncrId,
    /// Its Key Length attribute, in bits.
    pub key_bits: Option<u16>,
    /// Integrity; `None` (or NONE) beside an AEAD cipher.
    pub integ: Option<IntegId>,
    /// Whether sequence numbers have 64 bits.
    pub esn: bool,
}

/// The keys of one direction of an ESP SA.
#[derive(Debug)]
pub struct EspKeys {
    /// Encryption; ends in the salt with an AEAD cipher.
    pub encr: Secret,
    /// Integrity; empty with an AEAD cipher.
    pub integ: Secret,
}

/// The keys of the first IKE SA between two peers: `SKEYSEED = prf(Ni | Nr, g^ir)` (RFC 7296 2.14).
///
/// `ni` and `nr` are the nonces without payload header, the SPIs those of the new SA.
///
/// # Errors
/// [`Error::Unsupported`] where an algorithm, or the combination, is not built in.
pub fn ike_keys(
    t: &IkeTransforms,
    shared: &Secret,
    ni: &[u8],
    nr: &[u8],
    spi_i: u64,
    spi_r: u64,
) -> Result<IkeKeys, Error> {
    let skeyseed = Prf::new(t.prf)?.compute(&[ni, nr].concat(), &[shared.expose()]);
    expand(t, &skeyseed, ni, nr, spi_i, spi_r)
}

/// The keys of an IKE SA from those of another: `SKEYSEED = prf(SK_d, SK(0) | Ni | Nr | SK(1) | .. | SK(n))`, where
/// `shared` is SK(0) to SK(n), the secrets of its key exchanges in their order.
///
/// - Rekeying (RFC 7296 2.18, RFC 9370 2.2.4): `old_sk_d` is of the old SA, nonces and SPIs are the new SA's. The
///   function of the old SA makes the seed, that of the new one the keys.
/// - IKE_INTERMEDIATE (RFC 9370 2.2.2): `old_sk_d` is the one so far, `shared` the secret of this exchange alone;
///   nonces and SPIs are those of IKE_SA_INIT, and there is one function.
///
/// # Errors
/// [`Error::Unsupported`] where an algorithm, or the combination, is not built in.
#[expect(
    clippy::too_many_arguments,
    reason = "they are the inputs of the RFC's formula, each of its own kind"
)]
pub fn rekey_ike_keys(
    old_prf: PrfId,
    old_sk_d: &Secret,
    t: &IkeTransforms,
    shared: &[Secret],
    ni: &[u8],
    nr: &[u8],
    spi_i: u64,
    spi_r: u64,
) -> Result<IkeKeys, Error> {
    let skeyseed = Prf::new(old_prf)?.compute(old_sk_d.expose(), &seed(shared, ni, nr));
    expand(t, &skeyseed, ni, nr, spi_i, spi_r)
}

/// The keys of a Child SA: first those of the direction from initiator to responder of the exchange that makes it,
/// then the other: `KEYMAT = prf+(SK_d, SK(0) | Ni | Nr | SK(1) | .. | SK(n))` (RFC 7296 2.17, RFC 9370 2.2.4).
/// `shared` is SK(0) to SK(n), the secrets of its own key exchanges in their order; empty where it has none.
///
/// # Errors
/// [`Error::Unsupported`] where an algorithm, or the combination, is not built in.
pub fn child_keys(
    prf: PrfId,
    sk_d: &Secret,
    shared: &[Secret],
    ni: &[u8],
    nr: &[u8],
    t: &EspTransforms,
) -> Result<(EspKeys, EspKeys), Error> {
    let suite = Suite::of(t.encr, t.key_bits, t.integ)?;
    let (encr, integ) = (suite.cipher.key_len(), suite.integ_key_len());
    let keymat = Prf::new(prf)?.plus(sk_d.expose(), &seed(shared, ni, nr), 2 * (encr + integ))?;
    let mut keymat = Keymat(keymat.expose());
    let initiator = EspKeys { encr: keymat.take(encr)?, integ: keymat.take(integ)? };
    let responder = EspKeys { encr: keymat.take(encr)?, integ: keymat.take(integ)? };
    Ok((initiator, responder))
}

/// `SK(0) | Ni | Nr | SK(1) | .. | SK(n)`: the first secret stands before the nonces, the others behind (RFC 9370
/// 2.2.4).
fn seed<'a>(shared: &'a [Secret], ni: &'a [u8], nr: &'a [u8]) -> Vec<&'a [u8]> {
    let mut secrets = shared.iter().map(Secret::expose);
    let mut parts = vec![secrets.next().unwrap_or_default(), ni, nr];
    parts.extend(secrets);
    parts
}

/// A key with a post-quantum pre-shared key mixed in: `SK' = prf+(PPK, SK)`, as long as `sk` (RFC 8784 3).
///
/// # Errors
/// [`Error::Unsupported`] where the function is not built in.
pub fn mix_ppk(prf: PrfId, ppk: &Secret, sk: &Secret) -> Result<Secret, Error> {
    Prf::new(prf)?.plus(ppk.expose(), &[sk.expose()], sk.len())
}

/// What the AUTH payload holds for a shared key: `prf(prf(psk, "Key Pad for IKEv2"), octets)` (RFC 7296 2.15), with
/// the parts of the signed octets concatenated.
///
/// # Errors
/// [`Error::Unsupported`] where the function is not built in.
pub fn psk_auth(prf: PrfId, psk: &[u8], signed_octets_parts: &[&[u8]]) -> Result<Secret, Error> {
    let prf = Prf::new(prf)?;
    let key = prf.compute(psk, &[b"Key Pad for IKEv2"]);
    Ok(prf.compute(key.expose(), signed_octets_parts))
}

/// `{SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr)` (RFC 7296 2.14).
/// With an AEAD cipher SK_a is not there and SK_e includes the salt (RFC 5282 7).
fn expand(
    t: &IkeTransforms,
    skeyseed: &Secret,
    ni: &[u8],
    nr: &[u8],
    spi_i: u64,
    spi_r: u64,
) -> Result<IkeKeys, Error> {
    // RFC 7296 5: IKE messages are never left in the clear.
    if t.encr == EncrId::NULL {
        return Err(Error::Unsupported { what: format!("{} for IKE", t.encr) });
    }
    let prf = Prf::new(t.prf)?;
    let suite = Suite::of(t.encr, t.key_bits, t.integ)?;
    let (encr, integ) = (suite.cipher.key_len(), suite.integ_key_len());
    let seed = [ni, nr, &spi_i.to_be_bytes(), &spi_r.to_be_bytes()];
    let keymat = prf.plus(skeyseed.expose(), &seed, 3 * prf.key_len() + 2 * (encr + integ))?;
    let mut keymat = Keymat(keymat.expose());
    Ok(IkeKeys {
        sk_d: keymat.take(prf.key_len())?,
        sk_ai: keymat.take(integ)?,
        sk_ar: keymat.take(integ)?,
        sk_ei: keymat.take(encr)?,
        sk_er: keymat.take(encr)?,
        sk_pi: keymat.take(prf.key_len())?,
        sk_pr: keymat.take(prf.key_len())?,
    })
}

/// Keying material, cut from the front.
struct Keymat<'a>(&'a [u8]);

impl Keymat<'_> {
    fn take(&mut self, len: usize) -> Result<Secret, Error> {
        let (key, rest) = self.0.split_at_checked(len).ok_or(Error::Length {
            what: "keying material",
            expected: len,
            actual: self.0.len(),
        })?;
        self.0 = rest;
        Ok(Secret::new(key.to_vec()))
    }
}
