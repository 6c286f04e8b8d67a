//! The one type secrets live in. It owns the octets and wipes them; it never shows, copies or serializes them.

use std::fmt;

use zeroize::Zeroizing;

use crate::constant_time_eq;

/// Secret octets on the heap, wiped on drop.
///
/// There is no `Clone`, no serialization, and `Debug` prints the length alone.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes over `bytes`; the buffer itself becomes the secret, nothing is copied.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The octets, for as short a time as possible.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The number of octets.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no octets, as the integrity key beside an AEAD cipher has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the octets equal `other`, in a time that depends on the lengths alone.
    pub fn ct_eq(&self, other: &[u8]) -> bool {
        constant_time_eq(&self.0, other)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} octets)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_length_alone() {
        let secret = Secret::new(b"\x01\x02hush".to_vec());
        assert_eq!(format!("{secret:?}"), "Secret(6 octets)");
    }

    #[test]
    fn compares_octets_and_length() {
        let secret = Secret::new(vec![1, 2, 3]);
        assert!(secret.ct_eq(&[1, 2, 3]));
        assert!(!secret.ct_eq(&[1, 2, 4]));
        assert!(!secret.ct_eq(&[1, 2]));
        assert!(!secret.ct_eq(&[1, 2, 3, 0]));
    }
}
