//! The inbound SPIs of Child SAs. It owns which are taken, and knows nothing of what they are for.
//!
//! The low bits of an SPI are the lane of its SA, by which a data plane leaves it to a worker; there are no more lanes than
//! workers. The bits above are its slot: numbers that stay dense, so that the data plane can find the SA by index. The
//! rest is random, and other than before when a slot is used again: what a peer still sends to the SA that had it is then for
//! no SA. So is the first slot: gateways that begin, or begin again, do not meet in the same few SPIs.

use std::collections::{HashSet, VecDeque};

use adit_wire::ikev2::Spi;

/// Lanes that an SPI has room for.
const LANES: u32 = 1 << 6;

/// Bits of the slot.
const SLOT_BITS: u32 = 20;
const SLOTS: u32 = 1 << SLOT_BITS;

/// So many free slots are left alone: the longest free is used again first, and only when there are more.
const RESTING: usize = 256;

/// RFC 4303 2.1: those below are reserved.
const FIRST: u32 = 256;

/// Which SPIs are taken.
#[derive(Debug)]
pub(crate) struct Spis {
    /// In use.
    lanes: u32,
    /// The number of the first slot; `None` before it is chosen.
    first: Option<u32>,
    slots: Vec<Slot>,
    /// Slots that are free, the one freed last at the end.
    free: VecDeque<u32>,
    /// SPIs taken when every slot was.
    beyond: HashSet<u32>,
}

/// Which lane an SPI is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Any,
    /// That of another SPI.
    Of(Spi),
    /// This one.
    Own(u32),
}

impl Lane {
    /// Its number. `any` is any number.
    fn number(self, lanes: u32, any: u32) -> u32 {
        match self {
            Self::Any => any % lanes,
            Self::Of(Spi(lane)) | Self::Own(lane) => lane % LANES,
        }
    }
}

#[derive(Debug)]
struct Slot {
    /// That has it, or had it last.
    spi: u32,
    taken: bool,
}

impl Spis {
    /// With so many lanes in use, 64 at most.
    pub(crate) fn new(lanes: usize) -> Self {
        let lanes = (lanes as u32).clamp(1, LANES);
        Self { lanes, first: None, slots: Vec::new(), free: VecDeque::new(), beyond: HashSet::new() }
    }

    /// An SPI that nobody else has. `random` gives random numbers.
    pub(crate) fn take(&mut self, lane: Lane, mut random: impl FnMut() -> u32) -> Spi {
        let first = *self.first.get_or_insert_with(|| random() % SLOTS);
        let slot = self.slot();
        loop {
            let number = random();
            let (upper, any) = match slot {
                Some(slot) => (number & !(SLOTS * LANES - 1) | ((first + slot) % SLOTS * LANES), slot),
                None => (number & !(LANES - 1), number),
            };
            let spi = upper | lane.number(self.lanes, any);
            let before = self.slots.get(self.slot_of(spi));
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

    /// A slot, free or new; `None` if all are taken.
    fn slot(&mut self) -> Option<u32> {
        let next = self.slots.len() as u32;
        if self.free.len() > RESTING || next >= SLOTS { self.free.pop_front() } else { Some(next) }
    }

    /// Counted from the first.
    fn slot_of(&self, spi: u32) -> usize {
        ((spi / LANES).wrapping_sub(self.first.unwrap_or_default()) % SLOTS) as usize
    }

    /// It is no longer used. One that is not taken changes nothing.
    pub(crate) fn release(&mut self, spi: Spi) {
        let number = self.slot_of(spi.0);
        match self.slots.get_mut(number) {
            Some(slot) if slot.taken && slot.spi == spi.0 => {
                slot.taken = false;
                self.free.push_back(number as u32);
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

    const ANY: Lane = Lane::Any;

    /// Numbers that look random.
    fn source() -> impl FnMut() -> u32 {
        let mut state = 1_u64;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        }
    }

    /// Whatever the first was.
    fn slot(spis: &Spis, spi: Spi) -> u32 {
        (spi.0 >> 6).wrapping_sub(spis.first.unwrap()) & 0xf_ffff
    }

    /// The lowest of the random bits.
    const RANDOM: u32 = 1 << 26;

    #[test]
    fn slots_are_dense_and_rest_before_they_are_used_again() {
        let (mut spis, mut random) = (Spis::new(1), source());
        let mut taken: Vec<Spi> = (0..1000).map(|_| spis.take(ANY, &mut random)).collect();
        assert!(taken.iter().map(|spi| slot(&spis, *spi)).eq(0..1000));
        for round in 0..10_000 {
            let gone = taken.remove(round * 7 % 1000);
            spis.release(gone);
            taken.push(spis.take(ANY, &mut random));
            assert_ne!(slot(&spis, taken[999]), slot(&spis, gone), "at once again");
        }
        assert!(taken.iter().all(|spi| slot(&spis, *spi) <= 1000 + RESTING as u32), "as dense as they were");
        assert_eq!(spis.len(), 1000);
    }

    /// However the random source behaves: it may well say the same thing again.
    #[test]
    fn a_slot_has_another_number_when_it_is_used_again() {
        let mut spis = Spis::new(1);
        let repeated = [5 * RANDOM; 300].into_iter().chain([5 * RANDOM, 5 * RANDOM, 6 * RANDOM]);
        let mut numbers = [0].into_iter().chain(repeated);
        let mut random = || numbers.next().unwrap();
        let all: Vec<Spi> = (0..300).map(|_| spis.take(ANY, &mut random)).collect();
        all.iter().for_each(|spi| spis.release(*spi));
        assert_eq!((all[0], spis.take(ANY, &mut random)), (Spi(5 * RANDOM), Spi(6 * RANDOM)));
    }

    /// Two gateways of one making, or one that begins again, would otherwise often have the same.
    #[test]
    fn the_first_slot_is_any() {
        let mut random = source();
        let first: HashSet<u32> =
            (0..100).map(|_| Spis::new(1).take(ANY, &mut random).0 / LANES % SLOTS).collect();
        assert!(first.len() > 95);
        // The last is followed by the lowest.
        let mut spis = Spis::new(1);
        let mut numbers = [SLOTS - 1, 5 * RANDOM, 5 * RANDOM].into_iter();
        let mut random = || numbers.next().unwrap();
        assert_eq!(spis.take(ANY, &mut random), Spi(5 * RANDOM + (SLOTS - 1) * LANES));
        let lowest = spis.take(ANY, &mut random);
        assert_eq!(lowest, Spi(5 * RANDOM));
        spis.release(lowest);
        assert_eq!(spis.len(), 1);
    }

    /// However many come and go, each in its lane; and the slots stay dense.
    #[test]
    fn a_successor_has_the_lane_of_what_it_replaces() {
        let (mut spis, mut random) = (Spis::new(7), source());
        let mut taken: Vec<Spi> = (0..100).map(|_| spis.take(ANY, &mut random)).collect();
        for lane in 0..7 {
            assert!((14..16).contains(&taken.iter().filter(|spi| spi.0 % 64 == lane).count()));
        }
        for own in 0..7 {
            let spi = spis.take(Lane::Own(own), &mut random);
            assert_eq!(spi.0 % 64, own);
            taken.push(spi);
        }
        let lanes: Vec<u32> = taken.iter().map(|spi| spi.0 % 64).collect();
        for round in 0..20_000 {
            let spi = &mut taken[round * 7 % 107];
            let new = spis.take(Lane::Of(*spi), &mut random);
            spis.release(std::mem::replace(spi, new));
        }
        assert!(taken.iter().map(|spi| spi.0 % 64).eq(lanes));
        assert!(taken.iter().all(|spi| slot(&spis, *spi) <= 108 + RESTING as u32), "as dense as they were");
        assert_eq!(spis.len(), 107);
        // What a peer of another make chose has a lane too.
        assert_eq!(spis.take(Lane::Of(Spi(0xffff_ffff)), &mut random).0 % 64, 63);
    }

    #[test]
    fn what_is_reserved_is_not_given_out() {
        let mut spis = Spis::new(1);
        let mut numbers = [0, 0, 7, RANDOM, 3 * RANDOM].into_iter();
        assert_eq!(spis.take(ANY, || numbers.next().unwrap()), Spi(RANDOM));
    }

    #[test]
    fn more_than_there_are_slots() {
        let (mut spis, mut random) = (Spis::new(1), source());
        let mut taken: Vec<Spi> = (0..(1 << SLOT_BITS) + 1000).map(|_| spis.take(ANY, &mut random)).collect();
        let all: HashSet<Spi> = taken.iter().copied().collect();
        assert_eq!((all.len(), spis.len()), (taken.len(), taken.len()));
        // One of them goes, and the next has its slot.
        let gone = taken.swap_remove(77);
        spis.release(gone);
        let next = spis.take(ANY, &mut random);
        assert_eq!(slot(&spis, next), 77);
        assert!(next != gone && !taken.contains(&next));
        taken.push(next);
        taken.into_iter().for_each(|spi| spis.release(spi));
        assert_eq!(spis.len(), 0);
    }

    proptest! {
        /// Against a set: nothing is given out twice, whatever comes back when.
        #[test]
        fn nobody_has_what_another_has(steps in prop::collection::vec(any::<Option<prop::sample::Index>>(), 1..2000)) {
            let (mut spis, mut random) = (Spis::new(1), source());
            let (mut taken, mut last): (Vec<Spi>, Vec<Spi>) = (Vec::new(), Vec::new());
            for step in steps {
                match step.filter(|_| !taken.is_empty()) {
                    Some(index) => {
                        let gone = taken.swap_remove(index.index(taken.len()));
                        last.retain(|spi| slot(&spis, *spi) != slot(&spis, gone));
                        last.push(gone);
                        spis.release(gone);
                        spis.release(gone);
                    }
                    None => {
                        let spi = spis.take(ANY, &mut random);
                        prop_assert!(spi.0 >= FIRST && !taken.contains(&spi) && !last.contains(&spi));
                        taken.push(spi);
                    }
                }
                prop_assert_eq!(spis.len(), taken.len());
            }
        }
    }
}
