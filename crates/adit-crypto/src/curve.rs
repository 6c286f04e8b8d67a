//! Diffie-Hellman over Curve25519 and the ECP groups (RFC 8031, RFC 5903). Owns the wire form of their points and the
//! drawing of private keys; the arithmetic, and the check that a point is on the curve, is the library's.

use adit_wire::ikev2::KeId;
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use zeroize::Zeroizing;

use crate::{Entropy, Error, Secret};

/// One curve.
pub(crate) struct Curve {
    method: KeId,
    algorithm: &'static agreement::Algorithm,
    kind: Kind,
}

enum Kind {
    /// Curve25519: any 32 octets are a private key, a public value is one coordinate.
    Montgomery,
    /// ECP: a private key is a number from 1 to the order less one; a public value is x | y (RFC 5903 7).
    Weierstrass { order: &'static [u8] },
}

/// Octets of a private key and of a public value on Curve25519.
const X25519_LEN: usize = 32;

/// The octet SEC 1 puts before an uncompressed point, and the KE payload does not (RFC 5903 7).
const UNCOMPRESSED: u8 = 4;

/// How often a private key is drawn before the source counts as broken. The likeliest refusal, on P-256, has a chance
/// of 2^-32.
const DRAWS: usize = 32;

impl Curve {
    /// The curve with this number, if it is built in.
    pub(crate) fn of(method: KeId) -> Option<&'static Self> {
        match method {
            KeId::CURVE_25519 => Some(&CURVE_25519),
            KeId::ECP_256 => Some(&ECP_256),
            KeId::ECP_384 => Some(&ECP_384),
            KeId::ECP_521 => Some(&ECP_521),
            _ => None,
        }
    }

    /// Octets of a public value.
    pub(crate) fn len(&self) -> usize {
        match self.kind {
            Kind::Montgomery => X25519_LEN,
            Kind::Weierstrass { order } => 2 * order.len(),
        }
    }

    /// Draws a private key.
    pub(crate) fn generate(&self, entropy: &mut dyn Entropy) -> Result<PrivateKey, Error> {
        let private = match self.kind {
            Kind::Montgomery => {
                let mut private = Zeroizing::new(vec![0; X25519_LEN]);
                entropy.fill(&mut private);
                private
            }
            Kind::Weierstrass { order } => scalar(order, entropy)?,
        };
        PrivateKey::from_private_key(self.algorithm, &private).map_err(|_| Error::BadKey)
    }

    /// The public value of `private`, as the KE payload carries it.
    pub(crate) fn public(&self, private: &PrivateKey) -> Result<Vec<u8>, Error> {
        let public = private.compute_public_key().map_err(|_| Error::BadKey)?;
        match (&self.kind, public.as_ref()) {
            (Kind::Montgomery, coordinate) => Ok(coordinate.to_vec()),
            (Kind::Weierstrass { .. }, [UNCOMPRESSED, point @ ..]) => Ok(point.to_vec()),
            (Kind::Weierstrass { .. }, _) => Err(Error::BadKey),
        }
    }

    /// The shared secret with a peer whose public value is `peer`. On ECP it is the x coordinate (RFC 5903 7).
    pub(crate) fn agree(&self, private: &PrivateKey, peer: &[u8]) -> Result<Secret, Error> {
        let refuse = |why| Error::BadPublicValue { method: self.method, why };
        if peer.len() != self.len() {
            return Err(refuse("its length is not that of the curve"));
        }
        let (encoded, why) = match self.kind {
            // RFC 8031 2 with RFC 7748 6.1; the library refuses an all-zero result.
            Kind::Montgomery => (peer.to_vec(), "it has small order"),
            // RFC 6989 2.3; infinity has no form of this length.
            Kind::Weierstrass { .. } => ([&[UNCOMPRESSED], peer].concat(), "it is not a point on the curve"),
        };
        agreement::agree(private, UnparsedPublicKey::new(self.algorithm, encoded), refuse(why), |shared| {
            Ok(Secret::new(shared.to_vec()))
        })
    }
}

/// A number from 1 to `order` - 1, each as likely as the other: drawn again where it is outside (FIPS 186-5 A.2.2).
fn scalar(order: &[u8], entropy: &mut dyn Entropy) -> Result<Zeroizing<Vec<u8>>, Error> {
    // The order of P-521 begins with seven zero bits; drawing those would hit one time in 128.
    let unused_bits = order.first().map_or(0, |first| first.leading_zeros());
    let mut scalar = Zeroizing::new(vec![0; order.len()]);
    for _ in 0..DRAWS {
        entropy.fill(&mut scalar);
        if let Some(first) = scalar.first_mut() {
            *first &= 0xff >> unused_bits;
        }
        let any = scalar.iter().fold(0, |any, byte| any | byte);
        if any != 0 && below(&scalar, order) {
            return Ok(scalar);
        }
    }
    Err(Error::Entropy)
}

/// Whether big-endian `a` < `b`, of equal lengths, in a time that does not depend on either.
fn below(a: &[u8], b: &[u8]) -> bool {
    let borrow = a.iter().zip(b).rev().fold(0, |borrow, (a, b)| {
        let difference = u16::from(*a).wrapping_sub(u16::from(*b)).wrapping_sub(borrow);
        difference >> 15
    });
    borrow == 1
}

static CURVE_25519: Curve =
    Curve { method: KeId::CURVE_25519, algorithm: &agreement::X25519, kind: Kind::Montgomery };

static ECP_256: Curve = Curve {
    method: KeId::ECP_256,
    algorithm: &agreement::ECDH_P256,
    kind: Kind::Weierstrass { order: &P256_ORDER },
};

static ECP_384: Curve = Curve {
    method: KeId::ECP_384,
    algorithm: &agreement::ECDH_P384,
    kind: Kind::Weierstrass { order: &P384_ORDER },
};

static ECP_521: Curve = Curve {
    method: KeId::ECP_521,
    algorithm: &agreement::ECDH_P521,
    kind: Kind::Weierstrass { order: &P521_ORDER },
};

/// RFC 5903 3.1, group order.
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
    0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// RFC 5903 3.2, group order.
const P384_ORDER: [u8; 48] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc7, 0x63, 0x4d, 0x81, 0xf4, 0x37, 0x2d, 0xdf, 0x58, 0x1a,
    0x0d, 0xb2, 0x48, 0xb0, 0xa7, 0x7a, 0xec, 0xec, 0x19, 0x6a, 0xcc, 0xc5, 0x29, 0x73,
];

/// RFC 5903 3.3, group order.
const P521_ORDER: [u8; 66] = [
    0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfa,
    0x51, 0x86, 0x87, 0x83, 0xbf, 0x2f, 0x96, 0x6b, 0x7f, 0xcc, 0x01, 0x48, 0xf7, 0x09, 0xa5, 0xd0, 0x3b,
    0xb5, 0xc9, 0xb8, 0x89, 0x9c, 0x47, 0xae, 0xbb, 0x6f, 0xb7, 0x1e, 0x91, 0x38, 0x64, 0x09,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out the given fills, then repeats the last one.
    struct Script(Vec<Vec<u8>>);

    impl Entropy for Script {
        fn fill(&mut self, out: &mut [u8]) {
            let next = if self.0.len() > 1 { self.0.remove(0) } else { self.0[0].clone() };
            out.copy_from_slice(&next);
        }
    }

    #[test]
    fn compares_big_endian_numbers() {
        for (a, b, expected) in [
            ([0, 0], [0, 1], true),
            ([0, 1], [0, 1], false),
            ([1, 0], [0, 255], false),
            ([0, 255], [1, 0], true),
            ([255, 255], [255, 254], false),
            ([254, 255], [255, 0], true),
        ] {
            assert_eq!(below(&a, &b), expected, "{a:?} < {b:?}");
        }
    }

    #[test]
    fn scalars_outside_the_range_are_drawn_again() {
        for order in [&P256_ORDER[..], &P384_ORDER, &P521_ORDER] {
            let mut order_less_one = order.to_vec();
            *order_less_one.last_mut().unwrap() -= 1;
            let mut one = vec![0; order.len()];
            *one.last_mut().unwrap() = 1;
            let zero = vec![0; order.len()];
            for accepted in [order_less_one, one] {
                let fills = vec![zero.clone(), order.to_vec(), vec![0xff; order.len()], accepted.clone()];
                assert_eq!(*scalar(order, &mut Script(fills)).unwrap(), accepted);
            }
            // Neither of these ever gives a scalar, and the drawing ends all the same.
            for hopeless in [zero, order.to_vec()] {
                assert_eq!(scalar(order, &mut Script(vec![hopeless])).unwrap_err(), Error::Entropy);
            }
        }
    }

    #[test]
    fn the_library_accepts_the_ends_of_the_range() {
        // One below the order the library takes; the order itself it refuses: so the constants are its own.
        for curve in [&ECP_256, &ECP_384, &ECP_521] {
            let Kind::Weierstrass { order } = curve.kind else { panic!("not an ECP curve") };
            let mut private = order.to_vec();
            assert!(PrivateKey::from_private_key(curve.algorithm, &private).is_err());
            *private.last_mut().unwrap() -= 1;
            assert!(PrivateKey::from_private_key(curve.algorithm, &private).is_ok());
        }
    }
}
