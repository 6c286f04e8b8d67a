//! Sealed packets on their way out, in the order in which they leave. Packets that go the same way follow one another in a
//! train. It owns their octets and never sends.

use std::ops::Range;

use super::half::Transport;
use super::sas::Place;

/// The sealed packets of a round.
#[derive(Default)]
pub(crate) struct Trains {
    octets: Vec<u8>,
    trains: Vec<Train>,
}

/// One or more packets of an SA with the same outer header.
#[derive(Clone, Debug)]
pub(crate) struct Train {
    /// The SA that they are counted for.
    pub(crate) sa: Place,
    pub(crate) transport: Transport,
    /// TOS or traffic class octet of the outer header.
    pub(crate) tos: u8,
    octets: Range<usize>,
    inner_len: usize,
}

impl Train {
    /// Octets of the inner packets in the first `packets`.
    pub(crate) fn inner_len(&self, packets: usize) -> usize {
        if packets == 0 { 0 } else { self.inner_len }
    }
}

impl Trains {
    /// Adds the packet that `seal` appends to the buffer it is given. The inner packet has `inner_len` octets.
    pub(crate) fn push<E>(
        &mut self,
        (sa, transport, tos): (Place, Transport, u8),
        inner_len: usize,
        seal: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.octets.len();
        seal(&mut self.octets)?;
        self.trains.push(Train { sa, transport, tos, octets: start..self.octets.len(), inner_len });
        Ok(())
    }

    pub(crate) fn all(&self) -> &[Train] {
        &self.trains
    }

    pub(crate) fn octets(&self, train: &Train) -> &[u8] {
        // They are there: the buffer is only ever emptied together with the trains.
        self.octets.get(train.octets.clone()).unwrap_or_default()
    }

    pub(crate) fn clear(&mut self) {
        self.octets.clear();
        self.trains.clear();
    }
}
