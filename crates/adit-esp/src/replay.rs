//! The anti-replay window of one inbound SA (RFC 4303 3.4.3 and Appendix A2).
//!
//! This module owns which sequence numbers have been seen, and infers the high half of extended ones. It never sees a
//! packet: the caller checks before verifying the ICV and records after it, so that a forgery changes nothing.

use crate::{Drop, Error};

/// A ring of bits over the last sequence numbers, in words of 64 as RFC 6479 lays it out.
///
/// Moving the window forward clears whole words and never shifts. The word at the top is kept beside the ring: packets in
/// order touch nothing else, and where there are many SAs that is one cache line less.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// Highest sequence number recorded; 0 while there is none.
    top: u64,
    /// The word that `top` lies in.
    head: u64,
    size: u32,
    esn: bool,
    /// The words below it.
    ring: Box<[u64]>,
}

impl ReplayWindow {
    /// A sensible size: wide enough for several cores and traffic classes to reorder packets.
    pub const DEFAULT_SIZE: u32 = 1024;
    /// Widest window that is supported (2 MiB of bits); Appendix A2 works up to 2^31.
    pub const MAX_SIZE: u32 = 1 << 24;

    /// An empty window of `size` packets; 0 means that nothing is checked.
    ///
    /// # Errors
    /// [`Error::EsnWithoutWindow`] and [`Error::WindowTooLarge`].
    pub fn new(size: u32, esn: bool) -> Result<Self, Error> {
        if size > Self::MAX_SIZE {
            return Err(Error::WindowTooLarge(size));
        }
        // RFC 4303 3.3.3: without a window the receiver cannot tell the high half.
        if size == 0 && esn {
            return Err(Error::EsnWithoutWindow);
        }
        let words = if size == 0 { 0 } else { (size as usize).div_ceil(64).next_power_of_two() };
        Ok(Self { top: 0, head: 0, size, esn, ring: vec![0; words].into() })
    }

    /// Continues another window's work: every number up to and including `top` counts as seen.
    #[must_use]
    pub fn resume(mut self, top: u64) -> Self {
        self.top = if self.esn { top } else { top.min(u64::from(u32::MAX)) };
        self.ring.fill(u64::MAX);
        self.head = u64::MAX >> (63 - self.top % 64);
        self
    }

    /// Highest sequence number recorded, 0 if none.
    #[must_use]
    pub fn top(&self) -> u64 {
        self.top
    }

    /// Window size in packets; 0 means that the check is off.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// May a packet that shows `low` on the wire be new? Returns its whole sequence number, to be authenticated and
    /// then given to [`record`](Self::record). Changes nothing.
    ///
    /// # Errors
    /// [`Drop::Replayed`] for a number already recorded, [`Drop::TooOld`] for one below the window.
    pub fn check(&self, low: u32) -> Result<u64, Drop> {
        if self.size == 0 {
            return Ok(u64::from(low));
        }
        let sequence = if self.esn { self.infer(low).ok_or(Drop::TooOld)? } else { u64::from(low) };
        // RFC 4303 2.2, 3.3.3: the first packet carries 1, and a counter never comes round to 0.
        if sequence == 0 {
            return Err(Drop::TooOld);
        }
        if sequence > self.top {
            return Ok(sequence);
        }
        if self.top - sequence >= u64::from(self.size) {
            return Err(Drop::TooOld);
        }
        let word = if sequence / 64 == self.top / 64 {
            self.head
        } else {
            self.ring.get(self.place(sequence / 64)).copied().unwrap_or(u64::MAX)
        };
        if word & bit(sequence) == 0 { Ok(sequence) } else { Err(Drop::Replayed) }
    }

    /// Records a number that [`check`](Self::check) let pass, once its packet's ICV has been verified.
    pub fn record(&mut self, sequence: u64) {
        if self.size == 0 {
            self.top = self.top.max(sequence);
            return;
        }
        if sequence > self.top {
            self.advance(sequence);
        }
        if sequence / 64 == self.top / 64 {
            self.head |= bit(sequence);
        } else if let Some(word) = self.ring.get_mut(self.place(sequence / 64)) {
            *word |= bit(sequence);
        }
    }

    /// The 64-bit number that `low` stands for (RFC 4303 A2.2), or `None` where that would lie before the first or
    /// after the last one.
    fn infer(&self, low: u32) -> Option<u64> {
        let (top_low, top_high) = (self.top as u32, (self.top >> 32) as u32);
        let bottom = top_low.wrapping_sub(self.size - 1);
        let high = if top_low >= self.size - 1 {
            // Case A: the window lies within one subspace; what is below it belongs to the next subspace.
            if low >= bottom { top_high } else { top_high.checked_add(1)? }
        } else {
            // Case B: the window reaches back into the subspace before.
            if low >= bottom { top_high.checked_sub(1)? } else { top_high }
        };
        Some(u64::from(high) << 32 | u64::from(low))
    }

    fn advance(&mut self, sequence: u64) {
        let (old, new) = (self.top / 64, sequence / 64);
        self.top = sequence;
        if new == old {
            return;
        }
        if let Some(word) = self.ring.get_mut(self.place(old)) {
            *word = self.head;
        }
        self.head = 0;
        // The words between: at most once round the ring, however far the jump.
        for skipped in (old + 1..new).rev().take(self.ring.len()) {
            if let Some(word) = self.ring.get_mut(self.place(skipped)) {
                *word = 0;
            }
        }
    }

    /// Where in the ring a word is.
    fn place(&self, word: u64) -> usize {
        (word & (self.ring.len() as u64).wrapping_sub(1)) as usize
    }
}

/// The bit of a number in its word.
fn bit(sequence: u64) -> u64 {
    1 << (sequence % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const SUBSPACE: u64 = 1 << 32;

    /// RFC 4303 in its plainest words: the set of all numbers ever recorded, and the highest.
    struct Model {
        seen: BTreeSet<u64>,
        top: u64,
        size: u64,
        esn: bool,
    }

    impl Model {
        fn new(size: u32, esn: bool) -> Self {
            Self { seen: BTreeSet::new(), top: 0, size: size.into(), esn }
        }

        /// The one number with these low bits in the 2^32 numbers that start at the bottom of the window.
        fn whole(&self, low: u32) -> Option<u64> {
            if !self.esn {
                return Some(low.into());
            }
            let bottom = i128::from(self.top) - i128::from(self.size) + 1;
            let first = bottom.div_euclid(SUBSPACE.into()) * i128::from(SUBSPACE) + i128::from(low);
            let whole = if first < bottom { first + i128::from(SUBSPACE) } else { first };
            u64::try_from(whole).ok()
        }

        fn check(&self, low: u32) -> Result<u64, Drop> {
            let whole = self.whole(low).filter(|w| *w != 0).ok_or(Drop::TooOld)?;
            if whole + self.size <= self.top {
                Err(Drop::TooOld)
            } else if self.seen.contains(&whole) {
                Err(Drop::Replayed)
            } else {
                Ok(whole)
            }
        }

        fn record(&mut self, whole: u64) {
            self.seen.insert(whole);
            self.top = self.top.max(whole);
        }
    }

    fn window(size: u32, esn: bool) -> ReplayWindow {
        ReplayWindow::new(size, esn).unwrap()
    }

    /// Checks and records, as for a packet whose ICV is right.
    fn take(w: &mut ReplayWindow, low: u32) -> Result<u64, Drop> {
        let whole = w.check(low)?;
        w.record(whole);
        Ok(whole)
    }

    #[test]
    fn a_duplicate_is_replayed_and_zero_never_valid() {
        for esn in [false, true] {
            let mut w = window(64, esn);
            assert_eq!(w.check(0), Err(Drop::TooOld));
            assert_eq!(take(&mut w, 1), Ok(1));
            assert_eq!(take(&mut w, 1), Err(Drop::Replayed));
            assert_eq!(take(&mut w, 2), Ok(2));
            assert_eq!(take(&mut w, 1), Err(Drop::Replayed));
        }
    }

    #[test]
    fn the_edge_of_every_window_size() {
        for size in [1, 2, 31, 32, 63, 64, 65, 127, 128, 1000, 1024, 4096] {
            // Every alignment of the window to the words of the ring.
            for top in 10_000..10_130 {
                let mut w = window(size, false);
                assert_eq!(take(&mut w, top), Ok(top.into()));
                assert_eq!(w.check(top), Err(Drop::Replayed));
                assert_eq!(w.check(top - size), Err(Drop::TooOld), "one below a window of {size}");
                assert_eq!(w.check(top - size - 1), Err(Drop::TooOld));
                if size > 1 {
                    assert_eq!(
                        take(&mut w, top - size + 1),
                        Ok(u64::from(top - size + 1)),
                        "bottom of {size}"
                    );
                    assert_eq!(w.check(top - size + 1), Err(Drop::Replayed));
                }
                assert_eq!(take(&mut w, top + 1), Ok(u64::from(top + 1)));
                assert_eq!(w.check(top - size + 1), Err(Drop::TooOld), "the window moved by one");
            }
        }
    }

    #[test]
    fn reordered_by_less_than_the_window_passes_and_by_more_does_not() {
        for size in [64_u32, 1024] {
            let mut w = window(size, false);
            assert_eq!(take(&mut w, 5000), Ok(5000));
            for low in (5001 - size..5000).rev() {
                assert_eq!(take(&mut w, low), Ok(low.into()));
            }
            for low in 5001 - size..=5000 {
                assert_eq!(take(&mut w, low), Err(Drop::Replayed));
            }
            assert_eq!(take(&mut w, 5000 - size), Err(Drop::TooOld));
        }
    }

    #[test]
    fn without_esn_the_counter_ends_at_its_last_number() {
        let mut w = window(64, false);
        assert_eq!(take(&mut w, u32::MAX), Ok(u32::MAX.into()));
        assert_eq!(w.check(0), Err(Drop::TooOld));
        assert_eq!(w.check(1), Err(Drop::TooOld));
        assert_eq!(take(&mut w, u32::MAX - 63), Ok(u64::from(u32::MAX) - 63));
        assert_eq!(w.check(u32::MAX - 64), Err(Drop::TooOld));
    }

    #[test]
    fn esn_goes_on_into_the_next_subspace_and_back_into_the_window() {
        let mut w = window(64, true).resume(SUBSPACE - 3);
        assert_eq!(take(&mut w, u32::MAX), Ok(SUBSPACE - 1));
        assert_eq!(take(&mut w, 1), Ok(SUBSPACE + 1));
        assert_eq!(take(&mut w, u32::MAX - 1), Ok(SUBSPACE - 2), "late packet of the subspace before");
        assert_eq!(take(&mut w, u32::MAX), Err(Drop::Replayed));
        assert_eq!(take(&mut w, 0), Ok(SUBSPACE), "low half 0 is a number like any other here");
    }

    #[test]
    fn esn_survives_the_loss_of_almost_a_subspace() {
        // RFC 4303 A2.2: everything up to 2^32 - W beyond the top is told apart.
        for top in [1, 63, 64, 5000, SUBSPACE - 1, SUBSPACE, 7 * SUBSPACE + 12] {
            for jump in [SUBSPACE / 2, SUBSPACE / 2 + 1, SUBSPACE - 64] {
                let w = window(64, true).resume(top);
                assert_eq!(w.check((top + jump) as u32), Ok(top + jump), "from {top} by {jump}");
            }
            // One more is taken for the bottom of the window, as the RFC says it must.
            let w = window(64, true).resume(top);
            assert!(w.check((top + SUBSPACE - 63) as u32).is_err());
        }
    }

    #[test]
    fn esn_ends_at_the_last_number_of_all() {
        let mut w = window(64, true).resume(u64::MAX - 1);
        assert_eq!(take(&mut w, u32::MAX), Ok(u64::MAX));
        assert_eq!(w.check(0), Err(Drop::TooOld));
        assert_eq!(w.check(u32::MAX), Err(Drop::Replayed));
    }

    #[test]
    fn resuming_counts_everything_before_as_seen() {
        for esn in [false, true] {
            for top in [0_u32, 1, 62, 63, 64, 65, 1000, 1023, 1024] {
                let w = window(128, esn).resume(top.into());
                assert!((0..=top).all(|low| w.check(low) != Ok(low.into())), "up to {top}");
                assert_eq!(w.check(top + 1), Ok(u64::from(top) + 1));
                assert_eq!(w.check(top + 500), Ok(u64::from(top) + 500));
            }
        }
    }

    #[test]
    fn a_far_jump_forgets_every_bit_of_the_ring() {
        let mut w = window(1024, false);
        for low in 1..5000 {
            assert!(take(&mut w, low).is_ok());
        }
        assert!(take(&mut w, 4_000_000_000).is_ok());
        for low in 4_000_000_000 - 1023..4_000_000_000 {
            assert!(take(&mut w, low).is_ok());
        }
    }

    #[test]
    fn size_zero_checks_nothing_and_needs_32_bit_numbers() {
        let mut w = window(0, false);
        for low in [7, 7, 1, 0, u32::MAX, 7] {
            assert_eq!(take(&mut w, low), Ok(low.into()));
        }
        assert!(matches!(ReplayWindow::new(0, true), Err(Error::EsnWithoutWindow)));
        assert!(matches!(ReplayWindow::new(ReplayWindow::MAX_SIZE + 1, true), Err(Error::WindowTooLarge(_))));
        assert!(ReplayWindow::new(ReplayWindow::MAX_SIZE, true).is_ok());
    }

    /// Where a packet lies relative to the highest one so far, and whether its ICV is right.
    fn steps() -> impl Strategy<Value = Vec<(i64, bool)>> {
        let offset = prop_oneof![
            6 => -5_i64..8,
            4 => -2100_i64..2100,
            1 => -(1_i64 << 33)..(1_i64 << 33),
            1 => prop_oneof![Just(1_i64 << 31), Just((1 << 32) - 64), Just(1 << 32), Just(-(1_i64 << 32))],
        ];
        prop::collection::vec((offset, prop::bool::weighted(0.8)), 1..300)
    }

    proptest! {
        #[test]
        fn agrees_with_the_plain_model(
            size in prop_oneof![Just(1_u32), Just(32), Just(64), Just(65), Just(1000), Just(1024), 1_u32..2000],
            start in prop_oneof![Just(0_u64), Just(SUBSPACE - 40), 0..SUBSPACE * 3],
            esn: bool,
            steps in steps(),
        ) {
            let mut window = window(size, esn);
            let mut model = Model::new(size, esn);
            if esn && start > 0 {
                // Walk there in steps that the inference can follow.
                let mut at = 0;
                while at < start {
                    at = start.min(at + SUBSPACE / 2);
                    prop_assert_eq!(take(&mut window, at as u32), Ok(at));
                    model.record(at);
                }
            }
            for (offset, genuine) in steps {
                let low = model.top.wrapping_add_signed(offset) as u32;
                let verdict = window.check(low);
                prop_assert_eq!(verdict, model.check(low));
                if let (Ok(whole), true) = (verdict, genuine) {
                    window.record(whole);
                    model.record(whole);
                }
                prop_assert_eq!(window.top(), model.top);
            }
        }
    }
}
