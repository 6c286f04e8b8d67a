//! Diffie-Hellman over the MODP groups of RFC 2409 and RFC 3526: owns the primes, the exponent sizes and the
//! constant-time exponentiation. It never draws randomness but through the [`Entropy`] handed in, and never lets
//! a public value pass that RFC 6989 2.1 forbids.

use std::sync::LazyLock;

use adit_wire::ikev2::KeId;
use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd};
use zeroize::Zeroizing;

use crate::{Entropy, Error, Secret};

/// One group: generator 2 modulo a safe prime.
///
/// The exponent is shorter than the prime. RFC 3526 8 wants at least twice the strength of the group, and gives two
/// estimates of that strength; the sizes here take the higher one and round up to whole 64-bit words. All primes are
/// safe primes, so a short exponent leaks nothing to a peer who sends a value of small order: there are none between
/// 2 and p-2.
pub(crate) struct Group {
    method: KeId,
    bits: u32,
    exponent_len: usize,
    one: BoxedUint,
    prime_less_one: BoxedUint,
    parameters: BoxedMontyParams,
}

impl Group {
    /// The group with this number, if it is built in.
    pub(crate) fn of(method: KeId) -> Option<&'static Self> {
        match method {
            #[cfg(feature = "legacy")]
            KeId::MODP_1024 => Some(&MODP_1024),
            #[cfg(feature = "legacy")]
            KeId::MODP_1536 => Some(&MODP_1536),
            KeId::MODP_2048 => Some(&MODP_2048),
            KeId::MODP_3072 => Some(&MODP_3072),
            KeId::MODP_4096 => Some(&MODP_4096),
            _ => None,
        }
    }

    fn new(method: KeId, bits: u32, exponent_bits: usize, prime: &str) -> Self {
        let prime = BoxedUint::from_be_hex(prime, bits)
            .into_option()
            .and_then(|prime| Odd::new(prime).into_option())
            .expect("the constants below are odd numbers in hexadecimal; a test uses each");
        let one = BoxedUint::one_with_precision(bits);
        Self {
            method,
            bits,
            exponent_len: exponent_bits / 8,
            prime_less_one: prime.as_ref().wrapping_sub(&one),
            one,
            parameters: BoxedMontyParams::new_vartime(prime),
        }
    }

    /// Octets of a public value and of the shared secret: those of the prime, with leading zeros kept
    /// (RFC 7296 2.14 and 3.4).
    pub(crate) fn len(&self) -> usize {
        self.parameters.modulus().as_ref().nlimbs() * size_of::<crypto_bigint::Word>()
    }

    /// Draws a private exponent.
    pub(crate) fn generate(&self, entropy: &mut dyn Entropy) -> Result<Exponent, Error> {
        let mut bytes = Zeroizing::new(vec![0; self.exponent_len]);
        entropy.fill(&mut bytes);
        // The top bit is set, so that the public value can be neither 1 nor a small power of two, whatever was drawn.
        if let Some(first) = bytes.first_mut() {
            *first |= 0x80;
        }
        let bits = u32::try_from(self.exponent_len * 8).unwrap_or(u32::MAX);
        let exponent = BoxedUint::from_be_slice(&bytes, bits).map_err(|_| Error::Entropy)?;
        Ok(Exponent(Zeroizing::new(exponent)))
    }

    /// The public value of `exponent`, as the KE payload carries it.
    pub(crate) fn public(&self, exponent: &Exponent) -> Vec<u8> {
        let two = self.one.wrapping_add(&self.one);
        self.power(two, exponent).to_be_bytes().into_vec()
    }

    /// The shared secret with a peer whose public value is `peer`.
    pub(crate) fn agree(&self, exponent: &Exponent, peer: &[u8]) -> Result<Secret, Error> {
        let peer = self.public_value(peer)?;
        Ok(Secret::new(self.power(peer, exponent).to_be_bytes().into_vec()))
    }

    /// A peer's public value, if it may be used. Costs next to nothing.
    pub(crate) fn public_value(&self, peer: &[u8]) -> Result<BoxedUint, Error> {
        let refuse = |why| Error::BadPublicValue { method: self.method, why };
        if peer.len() != self.len() {
            return Err(refuse("its length is not that of the prime"));
        }
        let peer = BoxedUint::from_be_slice(peer, self.bits)
            .map_err(|_| refuse("its length is not that of the prime"))?;
        // RFC 6989 2.1: for a safe prime 1 < r < p-1 is the whole check.
        if peer <= self.one {
            return Err(refuse("it is 0 or 1"));
        }
        if peer >= self.prime_less_one {
            return Err(refuse("it is not below p-1"));
        }
        Ok(peer)
    }

    /// `base ^ exponent mod p`, in a time that depends on the group alone.
    fn power(&self, base: BoxedUint, exponent: &Exponent) -> Zeroizing<BoxedUint> {
        let base = BoxedMontyForm::new(base, &self.parameters);
        let power = Zeroizing::new(base.pow(&exponent.0));
        Zeroizing::new(power.retrieve())
    }
}

/// A private exponent; wiped on drop.
pub(crate) struct Exponent(Zeroizing<BoxedUint>);

#[cfg(feature = "legacy")]
/// RFC 2409 6.2.
static MODP_1024: LazyLock<Group> = LazyLock::new(|| {
    Group::new(
        KeId::MODP_1024,
        1024,
        256,
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
         020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
         4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
         EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE65381FFFFFFFFFFFFFFFF",
    )
});

#[cfg(feature = "legacy")]
/// RFC 3526 2.
static MODP_1536: LazyLock<Group> = LazyLock::new(|| {
    Group::new(
        KeId::MODP_1536,
        1536,
        256,
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
         020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
         4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
         EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05\
         98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB\
         9ED529077096966D670C354E4ABC9804F1746C08CA237327FFFFFFFFFFFFFFFF",
    )
});

/// RFC 3526 3.
static MODP_2048: LazyLock<Group> = LazyLock::new(|| {
    Group::new(
        KeId::MODP_2048,
        2048,
        320,
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
         020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
         4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
         EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05\
         98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB\
         9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
         E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718\
         3995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF",
    )
});

/// RFC 3526 4.
static MODP_3072: LazyLock<Group> = LazyLock::new(|| {
    Group::new(
        KeId::MODP_3072,
        3072,
        448,
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
         020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
         4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
         EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05\
         98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB\
         9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
         E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718\
         3995497CEA956AE515D2261898FA051015728E5A8AAAC42DAD33170D04507A33\
         A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7\
         ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864\
         D87602733EC86A64521F2B18177B200CBBE117577A615D6C770988C0BAD946E2\
         08E24FA074E5AB3143DB5BFCE0FD108E4B82D120A93AD2CAFFFFFFFFFFFFFFFF",
    )
});

/// RFC 3526 5.
static MODP_4096: LazyLock<Group> = LazyLock::new(|| {
    Group::new(
        KeId::MODP_4096,
        4096,
        512,
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
         020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
         4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
         EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05\
         98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB\
         9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
         E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718\
         3995497CEA956AE515D2261898FA051015728E5A8AAAC42DAD33170D04507A33\
         A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7\
         ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864\
         D87602733EC86A64521F2B18177B200CBBE117577A615D6C770988C0BAD946E2\
         08E24FA074E5AB3143DB5BFCE0FD108E4B82D120A92108011A723C12A787E6D7\
         88719A10BDBA5B2699C327186AF4E23C1A946834B6150BDA2583E9CA2AD44CE8\
         DBBBC2DB04DE8EF92E8EFC141FBECAA6287C59474E6BC05D99B2964FA090C3A2\
         233BA186515BE7ED1F612970CEE2D7AFB81BDD762170481CD0069127D5B05AA9\
         93B4EA988D8FDDC186FFB7DC90A6C08F4DF435C934063199FFFFFFFFFFFFFFFF",
    )
});
