//! What is found by an SPI of ours. It owns where things are, and knows nothing of them.
//!
//! Our own SPIs have slots above the bits of their lane, dense from the first one on (`adit-ike` sees to that): such a thing is found by
//! index, and the whole SPI compared, since another may have had the slot before. That is 12 octets for each slot up to the highest in
//! use: 1.2 MB of table for 100,000 SAs, where the processor's caches still hold it. Every other SPI (of an SA made by hand, or
//! for a slot that is taken or below the first) is looked up by hash.

use std::collections::HashMap;

use crate::steering;

/// How many slots there are, and the bits of an SPI below them.
const SLOTS: u32 = 1 << 20;
const LANE_BITS: u32 = steering::LANES.trailing_zeros();

/// Slots up to this many times the number of SPIs, and the least number, are worth a table.
const SPREAD: usize = 4;
const LEAST: usize = 1024;

/// Things by SPI.
pub(crate) struct SpiTable<T> {
    /// The slot of index 0: that of what came into an empty table.
    first: u32,
    spis: Vec<u32>,
    /// Of the same index; `None` where nothing has the slot.
    things: Vec<Option<Box<T>>>,
    others: HashMap<u32, Box<T>>,
    len: usize,
}

impl<T> Default for SpiTable<T> {
    fn default() -> Self {
        Self { first: 0, spis: Vec::new(), things: Vec::new(), others: HashMap::new(), len: 0 }
    }
}

impl<T> SpiTable<T> {
    /// Whatever had the SPI is gone.
    pub(crate) fn insert(&mut self, spi: u32, thing: T) {
        self.remove(spi);
        if self.len == 0 {
            *self = Self { first: slot(spi), ..Self::default() };
        }
        self.len += 1;
        let slot = self.index(spi);
        if slot < SPREAD * (self.len + LEAST) && slot >= self.things.len() {
            self.things.resize_with(slot + 1, || None);
            self.spis.resize(slot + 1, 0);
        }
        match (self.spis.get_mut(slot), self.things.get_mut(slot)) {
            (Some(place), Some(free @ None)) => {
                *place = spi;
                *free = Some(Box::new(thing));
            }
            _ => drop(self.others.insert(spi, Box::new(thing))),
        }
    }

    pub(crate) fn get_mut(&mut self, spi: u32) -> Option<&mut T> {
        let slot = self.index(spi);
        let thing = match self.spis.get(slot) {
            Some(there) if *there == spi => self.things.get_mut(slot)?.as_mut(),
            _ => self.others.get_mut(&spi),
        };
        thing.map(|thing| &mut **thing)
    }

    pub(crate) fn remove(&mut self, spi: u32) -> Option<T> {
        let slot = self.index(spi);
        let thing = match self.spis.get_mut(slot) {
            Some(there) if *there == spi => {
                *there = 0;
                self.things.get_mut(slot)?.take()
            }
            _ => self.others.remove(&spi),
        };
        let thing = thing?;
        self.len -= 1;
        Some(*thing)
    }

    fn index(&self, spi: u32) -> usize {
        (slot(spi).wrapping_sub(self.first) % SLOTS) as usize
    }
}

fn slot(spi: u32) -> u32 {
    (spi >> LANE_BITS) % SLOTS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// SPIs that meet in slots, high and low.
    fn spis() -> impl Strategy<Value = u32> {
        let slot = prop_oneof![4 => 0_u32..8, 1 => 4000_u32..4200, 1 => Just(SLOTS - 1)];
        (slot, 0_u32..3).prop_map(|(slot, upper)| (upper + 1) << 26 | slot << 6)
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((spis(), any::<Option<u8>>()), 1..200)) {
            let (mut table, mut map) = (SpiTable::default(), HashMap::new());
            for (spi, insert) in steps {
                match insert {
                    Some(thing) => {
                        table.insert(spi, thing);
                        map.insert(spi, thing);
                    }
                    None => prop_assert_eq!(table.remove(spi), map.remove(&spi)),
                }
                prop_assert_eq!(table.len, map.len());
                for other in (0..4).flat_map(|upper| (0..8).map(move |slot| upper << 26 | slot << 6)).chain([spi]) {
                    prop_assert_eq!(table.get_mut(other).copied(), map.get(&other).copied());
                }
            }
        }
    }

    /// What somebody else chose does not make the table long, and what came first does not either.
    #[test]
    fn a_high_slot_costs_no_table() {
        for first in [0, 77, SLOTS - 50_000] {
            let (mut table, spi) = (SpiTable::default(), |slot: u32| 1 << 26 | ((first + slot) % SLOTS) << 6);
            table.insert(spi(0), 0);
            table.insert(spi(SLOTS / 2), 1);
            table.insert(spi(SLOTS - 1), 2);
            assert_eq!((table.things.len(), table.others.len()), (1, 2));
            // Where there are as many as that, they are in it.
            (1..100_000).for_each(|slot| table.insert(spi(slot), 3));
            assert_eq!((table.things.len(), table.others.len()), (100_000, 2));
            assert_eq!(table.get_mut(spi(SLOTS - 1)), Some(&mut 2));
            assert_eq!(table.remove(spi(99_999)), Some(3));
        }
    }

    #[test]
    fn zero_is_no_spi() {
        let mut table: SpiTable<u8> = SpiTable::default();
        table.insert(1 << 26, 1);
        table.remove(1 << 26);
        assert_eq!(table.get_mut(0), None);
        assert_eq!(table.remove(0), None);
    }
}
