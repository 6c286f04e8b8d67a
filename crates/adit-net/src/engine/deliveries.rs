//! Inner packets on their way to the TUN device, in the order in which they leave: places in the buffer that they were
//! received in and opened, and packets that the engine made. It never writes them.

use std::ops::Range;

/// What a round has to hand to the kernel.
#[derive(Default)]
pub(crate) struct Deliveries {
    packets: Vec<Delivery>,
    own: Vec<u8>,
}

/// One packet.
#[derive(Clone, Debug)]
enum Delivery {
    /// In the buffer of what was received.
    Received(Range<usize>),
    /// In the engine's own.
    Own(Range<usize>),
}

impl Deliveries {
    /// Adds a packet that lies in the buffer of what was received.
    pub(crate) fn push(&mut self, place: Range<usize>) {
        self.packets.push(Delivery::Received(place));
    }

    /// Adds a packet that is nowhere else.
    pub(crate) fn push_own(&mut self, packet: &[u8]) {
        let start = self.own.len();
        self.own.extend_from_slice(packet);
        self.packets.push(Delivery::Own(start..self.own.len()));
    }

    /// All packets; `received` is the buffer that they were received in.
    pub(crate) fn all<'a>(&'a self, received: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.packets.iter().filter_map(move |packet| match packet {
            Delivery::Received(place) => received.get(place.clone()),
            Delivery::Own(place) => self.own.get(place.clone()),
        })
    }

    pub(crate) fn clear(&mut self) {
        self.packets.clear();
        self.own.clear();
    }
}
