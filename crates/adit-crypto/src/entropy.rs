//! Where random octets come from. Owns the trait the machines are handed and its production source; nothing else in
//! the program draws randomness.

use aws_lc_rs::rand;

/// A source of random octets, handed to whatever needs them so that a test can repeat a run.
pub trait Entropy: Send {
    /// Fills all of `out` with octets nobody can predict.
    fn fill(&mut self, out: &mut [u8]);
}

/// The operating system's randomness through the library's DRBG: the source for production.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&mut self, out: &mut [u8]) {
        // A gateway that cannot draw randomness must not go on with predictable keys, and no caller could mend it.
        rand::fill(out).expect("the system's random source works");
    }
}

/// Entropy that is not random, for tests and simulations.
pub mod testing {
    use aws_lc_rs::digest;

    use super::Entropy;

    /// A repeatable stream: SHA-256 over seed and counter.
    ///
    /// Never for production: whoever knows the seed knows every key.
    #[derive(Clone, Debug)]
    pub struct SeededEntropy {
        seed: u64,
        blocks: u64,
        left: Vec<u8>,
    }

    impl SeededEntropy {
        /// The stream of this seed, from its beginning.
        pub fn new(seed: u64) -> Self {
            Self { seed, blocks: 0, left: Vec::new() }
        }
    }

    impl Entropy for SeededEntropy {
        fn fill(&mut self, out: &mut [u8]) {
            for byte in out {
                if self.left.is_empty() {
                    let mut input = self.seed.to_be_bytes().to_vec();
                    input.extend_from_slice(&self.blocks.to_be_bytes());
                    self.left = digest::digest(&digest::SHA256, &input).as_ref().to_vec();
                    self.blocks += 1;
                }
                *byte = self.left.pop().unwrap_or_default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::SeededEntropy;
    use super::*;

    fn draw(entropy: &mut dyn Entropy, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        entropy.fill(&mut out);
        out
    }

    #[test]
    fn seeded_streams_repeat_and_differ_by_seed() {
        let whole = draw(&mut SeededEntropy::new(7), 100);
        let mut again = SeededEntropy::new(7);
        let pieces = [draw(&mut again, 1), draw(&mut again, 40), draw(&mut again, 59)].concat();
        assert_eq!(whole, pieces);
        assert_ne!(whole, draw(&mut SeededEntropy::new(8), 100));
        assert_ne!(whole[..32], whole[32..64]);
    }

    #[test]
    fn system_entropy_does_not_repeat() {
        assert_ne!(draw(&mut SystemEntropy, 32), draw(&mut SystemEntropy, 32));
    }
}
