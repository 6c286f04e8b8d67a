//! The inbound SPIs of Child SAs. It owns which are taken, and knows nothing of what they are for.
//!
//! The low bits of an SPI are the slot of its SA: small numbers that stay dense, so that a data plane can find the SA by index,
//! and leave it to a worker by a few bits. The rest is random, and other than before when a slot is used again: what a peer
//! still sends to the SA that had it is then for no SA.

use std::collections::{HashSet, VecDeque};

use adit_wire::ikev2::Spi;

/// Bits of the slot.
const SLOT_BITS: u32 = 20;

/// So many free slots are left alone: the longest free is used again first, and only when there are more.
const RESTING: usize = 256;

/// RFC 4303 2.1: those below are reserved.
const FIRST: u32 = 256;

/// Which SPIs are taken.
#[derive(Debug, Default)]
pub(crate) struct Spis {
    slots: Vec<Slot>,
    /// Slots that are free, the one freed last at the end.
    free: VecDeque<u32>,
    /// SPIs taken when every slot was.
    beyond: HashSet<u32>,
}

#[derive(Debug)]
struct Slot {
    /// That has it, or had it last.
    spi: u32,
    taken: bool,
}

impl Spis {
    /// An SPI that nobody else has. `random` gives random numbers.
    pub(crate) fn take(&mut self, mut random: impl FnMut() -> u32) -> Spi {
        let slots = 1 << SLOT_BITS;
        let new = self.slots.len() as u32;
        let slot = if self.free.len() > RESTING || new == slots { self.free.pop_front() } else { Some(new) };
        loop {
            let spi = match slot {
                Some(slot) => random() & !(slots - 1) | slot,
                None => random(),
            };
            let before = self.slots.get((spi & (slots - 1)) as usize);
            if spi < FIRST || before.is_some_and(|slot| slot.spi == spi) || self.beyond.contains(&spi) {
                continue;
            }
            let taken = Slot { spi, taken: true };
            match slot.map(|slot| self.slots.get_mut(slot as usize)) {
                Some(Some(slot)) => *slot = taken,
                Some(None) => self.slots.push(taken),
                None => drop(self.beyond.insert(spi)),
            }
            return Spi(spi);
        }
    }

    /// It is no longer used. One that is not taken changes nothing.
    pub(crate) fn release(&mut self, spi: Spi) {
        let number = spi.0 & ((1 << SLOT_BITS) - 1);
        match self.slots.get_mut(number as usize) {
            Some(slot) if slot.taken && slot.spi == spi.0 => {
                slot.taken = false;
                self.free.push_back(number);
            }
            _ => drop(self.beyond.remove(&spi.0)),
        }
    }

    /// How many are taken.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len() + self.beyond.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Numbers that look random.
    fn source() -> impl FnMut() -> u32 {
        let mut state = 1_u64;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        }
    }

    fn slot(spi: Spi) -> u32 {
        spi.0 % (1 << SLOT_BITS)
    }

    #[test]
    fn slots_are_dense_and_rest_before_they_are_used_again() {
        let (mut spis, mut random) = (Spis::default(), source());
        let mut taken: Vec<Spi> = (0..1000).map(|_| spis.take(&mut random)).collect();
        assert!(taken.iter().map(|spi| slot(*spi)).eq(0..1000));
        for round in 0..10_000 {
            let gone = taken.remove(round * 7 % 1000);
            spis.release(gone);
            taken.push(spis.take(&mut random));
            assert_ne!(slot(taken[999]), slot(gone), "at once again");
        }
        assert!(taken.iter().all(|spi| slot(*spi) <= 1000 + RESTING as u32), "as dense as they were");
        assert_eq!(spis.len(), 1000);
    }

    /// However the random source behaves: it may well say the same thing again.
    #[test]
    fn a_slot_has_another_number_when_it_is_used_again() {
        let mut spis = Spis::default();
        let mut numbers =
            [5 << SLOT_BITS; 300].into_iter().chain([5 << SLOT_BITS, 5 << SLOT_BITS, 6 << SLOT_BITS]);
        let mut random = || numbers.next().unwrap();
        let all: Vec<Spi> = (0..300).map(|_| spis.take(&mut random)).collect();
        all.iter().for_each(|spi| spis.release(*spi));
        assert_eq!((all[0], spis.take(&mut random)), (Spi(5 << SLOT_BITS), Spi(6 << SLOT_BITS)));
    }

    #[test]
    fn what_is_reserved_is_not_given_out() {
        let mut spis = Spis::default();
        let mut numbers = [0, 7, 1 << SLOT_BITS, 3 << SLOT_BITS].into_iter();
        assert_eq!(spis.take(|| numbers.next().unwrap()), Spi(1 << SLOT_BITS));
    }

    #[test]
    fn more_than_there_are_slots() {
        let (mut spis, mut random) = (Spis::default(), source());
        let mut taken: Vec<Spi> = (0..(1 << SLOT_BITS) + 1000).map(|_| spis.take(&mut random)).collect();
        let all: HashSet<Spi> = taken.iter().copied().collect();
        assert_eq!((all.len(), spis.len()), (taken.len(), taken.len()));
        // One of them goes, and the next has its slot.
        let gone = taken.swap_remove(77);
        spis.release(gone);
        let next = spis.take(&mut random);
        assert_eq!(slot(next), 77);
        assert!(next != gone && !taken.contains(&next));
        taken.push(next);
        taken.into_iter().for_each(|spi| spis.release(spi));
        assert_eq!(spis.len(), 0);
    }

    proptest! {
        /// Against a set: nothing is given out twice, whatever comes back when.
        #[test]
        fn nobody_has_what_another_has(steps in prop::collection::vec(any::<Option<prop::sample::Index>>(), 1..2000)) {
            let (mut spis, mut random) = (Spis::default(), source());
            let (mut taken, mut last): (Vec<Spi>, Vec<Spi>) = (Vec::new(), Vec::new());
            for step in steps {
                match step.filter(|_| !taken.is_empty()) {
                    Some(index) => {
                        let gone = taken.swap_remove(index.index(taken.len()));
                        last.retain(|spi| slot(*spi) != slot(gone));
                        last.push(gone);
                        spis.release(gone);
                        spis.release(gone);
                    }
                    None => {
                        let spi = spis.take(&mut random);
                        prop_assert!(spi.0 >= FIRST && !taken.contains(&spi) && !last.contains(&spi));
                        taken.push(spi);
                    }
                }
                prop_assert_eq!(spis.len(), taken.len());
            }
        }
    }
}
