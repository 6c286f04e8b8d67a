//! Key exchange by method number. Owns the private half; which method does what is in `curve`,
//! `modp` and `kem`. Every public value of a peer is checked before it touches a private key (RFC 6989) or gets a
//! secret (FIPS 203 7.2).

use std::fmt;

use adit_wire::ikev2::KeId;
use aws_lc_rs::agreement;
use aws_lc_rs::kem::DecapsulationKey;

use crate::curve::Curve;
use crate::kem::Kem;
use crate::modp;
use crate::{Entropy, Error, Secret};

/// The private half of one key exchange, wiped on drop. It is for one exchange; several answers to it may be tried.
pub struct KeyExchangeSecret {
    method: KeId,
    public: Vec<u8>,
    private: Private,
}

enum Private {
    Curve(&'static Curve, agreement::PrivateKey),
    Modp(&'static modp::Group, modp::Exponent),
    Kem(&'static Kem, DecapsulationKey),
}

impl KeyExchangeSecret {
    /// Draws a private key for `method` and computes its public value: the initiator's first half. Key encapsulation
    /// draws from the system, whatever `entropy` is.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the method is not built in.
    pub fn generate(method: KeId, entropy: &mut dyn Entropy) -> Result<Self, Error> {
        match Group::of(method)? {
            Group::Curve(curve) => {
                let private = curve.generate(entropy)?;
                Ok(Self { method, public: curve.public(&private)?, private: Private::Curve(curve, private) })
            }
            Group::Modp(group) => {
                let private = group.generate(entropy)?;
                Ok(Self { method, public: group.public(&private), private: Private::Modp(group, private) })
            }
            Group::Kem(kem) => {
                let (public, private) = kem.generate()?;
                Ok(Self { method, public, private: Private::Kem(kem, private) })
            }
        }
    }

    /// The public value, as the KE payload carries it.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The method this is for.
    pub fn method(&self) -> KeId {
        self.method
    }

    /// The shared secret with the holder of `peer`: the initiator's second half.
    ///
    /// # Errors
    /// [`Error::BadPublicValue`] for a value RFC 6989, RFC 8031 or FIPS 203 7.3 forbids; the exchange has failed then.
    pub fn agree(&self, peer: &[u8]) -> Result<Secret, Error> {
        match &self.private {
            Private::Curve(curve, private) => curve.agree(private, peer),
            Private::Modp(group, private) => group.agree(private, peer),
            Private::Kem(kem, private) => kem.decapsulate(private, peer),
        }
    }
}

impl fmt::Debug for KeyExchangeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyExchangeSecret").field("method", &self.method).finish_non_exhaustive()
    }
}

/// The responder's half in one step: our public value, and the secret shared with the holder of `peer`.
///
/// # Errors
/// [`Error::Unsupported`] where the method is not built in, [`Error::BadPublicValue`] for a value RFC 6989, RFC 8031
/// or FIPS 203 7.2 forbids.
pub fn respond(method: KeId, peer: &[u8], entropy: &mut dyn Entropy) -> Result<(Vec<u8>, Secret), Error> {
    // What costs nothing to refuse is refused before a key pair is paid for: strangers send this. On a curve a pair
    // is cheap, and the library judges points where it uses them.
    let group = Group::of(method)?;
    if peer.len() != group.len() {
        return Err(Error::BadPublicValue { method, why: "its length is not that of the method" });
    }
    match group {
        Group::Curve(_) => {}
        Group::Modp(group) => {
            group.public_value(peer)?;
        }
        Group::Kem(kem) => return kem.encapsulate(peer),
    }
    let mut ours = KeyExchangeSecret::generate(method, entropy)?;
    let public = std::mem::take(&mut ours.public);
    Ok((public, ours.agree(peer)?))
}

/// Octets of an initiator's public value; `None` where the method is not built in. But for key encapsulation, a
/// responder's has as many.
pub fn public_len(method: KeId) -> Option<usize> {
    Group::of(method).ok().map(Group::len)
}

#[derive(Clone, Copy)]
enum Group {
    Curve(&'static Curve),
    Modp(&'static modp::Group),
    Kem(&'static Kem),
}

impl Group {
    fn of(method: KeId) -> Result<Self, Error> {
        if let Some(curve) = Curve::of(method) {
            Ok(Self::Curve(curve))
        } else if let Some(group) = modp::Group::of(method) {
            Ok(Self::Modp(group))
        } else if let Some(kem) = Kem::of(method) {
            Ok(Self::Kem(kem))
        } else {
            Err(Error::Unsupported { what: method.to_string() })
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Curve(curve) => curve.len(),
            Self::Modp(group) => group.len(),
            Self::Kem(kem) => kem.key_len,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoEntropy;

    impl Entropy for NoEntropy {
        fn fill(&mut self, _: &mut [u8]) {
            panic!("a key pair is being made");
        }
    }

    /// A stranger's bad value must not cost an exponentiation.
    #[test]
    fn bad_modp_values_are_refused_before_a_key_pair_is_made() {
        for method in [KeId::MODP_2048, KeId::MODP_3072, KeId::MODP_4096] {
            let len = public_len(method).unwrap();
            let mut one = vec![0; len];
            *one.last_mut().unwrap() = 1;
            for value in [vec![0; len], one, vec![0xff; len], vec![2; len - 1]] {
                let refused = respond(method, &value, &mut NoEntropy);
                assert!(matches!(refused, Err(Error::BadPublicValue { .. })), "{method}");
            }
        }
    }
}
