//! Packets from the worker that has read them to the worker that seals or opens them, in whole bursts. Between each two workers there
//! is one line in each direction, with one writer and one reader; emptied bursts come back by another, so that after the first
//! few nothing is allocated. It keeps the order of what passes between two workers, and never looks into a packet.

use std::ops::Range;

use adit_wire::ip::Flow;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::engine::{Device, Known, Offload, ROUND_OCTETS};
use crate::sys::Received;
use crate::worker::Wake;

/// Bursts under way between two workers.
const LINE: usize = 32;

/// Octets, with what is noted of each packet, after which a burst is sent on its way, and which are enough for a round.
const FULL: usize = ROUND_OCTETS;

/// As many wait while the line is full. What comes then is lost.
const MOST: usize = 2 * FULL;

/// One worker's ends of all lines. A worker has none to itself.
#[derive(Default)]
pub(crate) struct Handoff {
    exits: Vec<Option<Exit>>,
    entrances: Vec<Entrance>,
    /// The entrance that is looked at next.
    turn: usize,
}

/// Packets in their order.
#[derive(Default)]
pub(crate) struct Burst {
    /// The reader's number for the line that it came by.
    from: usize,
    octets: Vec<u8>,
    packets: Vec<Packet>,
}

struct Packet {
    place: Range<usize>,
    errand: Errand,
}

/// What is to be done with a packet, and what is known of it.
#[derive(Clone, Copy)]
pub(crate) enum Errand {
    /// It was read from a TUN device.
    Seal(Device, Offload, Known),
    /// It was received in a train of datagrams in UDP.
    Open(Received),
}

struct Exit {
    filling: Burst,
    full: Producer<Burst>,
    empty: Consumer<Burst>,
    reader: Wake,
}

struct Entrance {
    full: Consumer<Burst>,
    empty: Producer<Burst>,
}

/// The lines between so many workers, each of which is woken by its `wakes`.
pub(crate) fn lines(wakes: &[Wake]) -> Vec<Handoff> {
    let mut all: Vec<Handoff> = wakes.iter().map(|_| Handoff::default()).collect();
    for from in 0..wakes.len() {
        for (to, reader) in wakes.iter().enumerate() {
            let (full, entrance) = RingBuffer::new(LINE);
            let (empty, back) = RingBuffer::new(LINE);
            let exit = Exit { filling: Burst::default(), full, empty: back, reader: reader.clone() };
            if let Some(writer) = all.get_mut(from) {
                writer.exits.push((from != to).then_some(exit));
            }
            if let Some(reader) = all.get_mut(to).filter(|_| from != to) {
                reader.entrances.push(Entrance { full: entrance, empty });
            }
        }
    }
    all
}

impl Handoff {
    /// Adds a packet for the worker `to`. Returns how many packets are lost, because that worker does not keep up.
    pub(crate) fn add(&mut self, to: usize, packet: &[u8], errand: Errand) -> usize {
        let Some(Some(exit)) = self.exits.get_mut(to) else { return 1 };
        if exit.filling.load() >= MOST {
            return 1;
        }
        let start = exit.filling.octets.len();
        exit.filling.octets.extend_from_slice(packet);
        let place = start..exit.filling.octets.len();
        exit.filling.packets.push(Packet { place, errand });
        if exit.filling.load() >= FULL {
            exit.send();
        }
        0
    }

    /// Sends what was added on its way.
    pub(crate) fn flush(&mut self) {
        self.exits.iter_mut().flatten().for_each(Exit::send);
    }

    /// Does something wait for room in a line? Then [`flush`](Self::flush) has to be tried again soon.
    pub(crate) fn has_waiting(&self) -> bool {
        self.exits.iter().flatten().any(|exit| !exit.filling.packets.is_empty())
    }

    /// A burst that has come, if there is one, and those that were `taken` in this round are not enough: who seals may be slower
    /// than who reads, and has other things to do. All lines get their turn.
    pub(crate) fn take(&mut self, taken: &mut usize) -> Option<Burst> {
        let lines = self.entrances.len();
        if *taken >= FULL {
            return None;
        }
        let burst = (0..lines).find_map(|_| {
            let from = self.turn;
            self.turn = (from + 1) % lines;
            let burst = self.entrances.get_mut(from)?.full.pop().ok()?;
            Some(Burst { from, ..burst })
        })?;
        *taken += burst.load();
        Some(burst)
    }

    /// Is there a burst for the next round?
    pub(crate) fn has_come(&self) -> bool {
        self.entrances.iter().any(|entrance| !entrance.full.is_empty())
    }

    /// Lets the writer of a burst fill it again.
    pub(crate) fn give_back(&mut self, mut burst: Burst) {
        burst.packets.clear();
        burst.octets.clear();
        if let Some(entrance) = self.entrances.get_mut(burst.from) {
            // If the line back is full, the writer has enough.
            let _ = entrance.empty.push(burst);
        }
    }
}

impl Burst {
    /// Octets that it takes up. Packets may be small.
    fn load(&self) -> usize {
        self.octets.len() + self.packets.len() * size_of::<Packet>()
    }

    /// The flows of the packets to seal, as far as they are known.
    pub(crate) fn flows(&self) -> impl Iterator<Item = (Device, &Flow)> + Clone {
        self.packets.iter().filter_map(|packet| match &packet.errand {
            Errand::Seal(device, _, known) => Some((*device, known.flow()?)),
            Errand::Open(_) => None,
        })
    }

    /// Hands the packets to `each`: all octets, and the place of one among them.
    pub(crate) fn packets(&mut self, mut each: impl FnMut(&mut [u8], Range<usize>, &Errand)) {
        for Packet { place, errand } in &self.packets {
            each(&mut self.octets, place.clone(), errand);
        }
    }

    /// All octets.
    pub(crate) fn octets(&self) -> &[u8] {
        &self.octets
    }
}

impl Exit {
    /// Sends the burst that is being filled, or goes on filling it if there is no room in the line.
    fn send(&mut self) {
        if self.filling.packets.is_empty() || self.full.is_full() {
            return;
        }
        let next = self.empty.pop().unwrap_or_default();
        let burst = std::mem::replace(&mut self.filling, next);
        // There is room: nobody else writes.
        if self.full.push(burst).is_ok() {
            self.reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::EventfdFlags;

    use super::*;

    const DEVICE: Device = Device(3);

    fn errand() -> Errand {
        Errand::Seal(DEVICE, Offload::default(), Known::default())
    }

    fn wakes(count: usize) -> Vec<Wake> {
        let eventfd = || rustix::event::eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        (0..count).map(|_| Wake::new(eventfd())).collect()
    }

    fn taken(handoff: &mut Handoff) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(mut burst) = handoff.take(&mut 0) {
            burst.packets(|octets, place, errand| {
                assert!(matches!(errand, Errand::Seal(DEVICE, ..)));
                all.push(octets[place].to_vec());
            });
            handoff.give_back(burst);
        }
        all
    }

    #[test]
    fn bursts_arrive_whole_and_in_order_and_only_where_they_are_sent() {
        let mut workers = lines(&wakes(3));
        for number in 0..100_u8 {
            assert_eq!(workers[0].add(2, &[number, 0], errand()), 0);
            assert_eq!(workers[1].add(2, &[number, 1], errand()), 0);
            assert_eq!(workers[2].add(0, &[number, 2], errand()), 0);
            if number % 7 == 0 {
                workers.iter_mut().for_each(Handoff::flush);
            }
        }
        workers.iter_mut().for_each(Handoff::flush);
        assert!(!workers.iter().any(Handoff::has_waiting));
        let of = |all: &[Vec<u8>], from: u8| -> Vec<u8> {
            all.iter().filter(|packet| packet[1] == from).map(|packet| packet[0]).collect()
        };
        let all = taken(&mut workers[2]);
        assert!(all.len() == 200 && of(&all, 0).into_iter().eq(0..100) && of(&all, 1).into_iter().eq(0..100));
        assert!(of(&taken(&mut workers[0]), 2).into_iter().eq(0..100));
        assert!(taken(&mut workers[1]).is_empty());
    }

    #[test]
    fn what_a_worker_does_not_take_in_time_is_lost_and_counted() {
        let mut workers = lines(&wakes(2));
        let packet = vec![7; FULL];
        let lost: usize = (0..100).map(|_| workers[0].add(1, &packet, errand())).sum();
        assert_eq!(lost, 100 - LINE - MOST / FULL);
        assert!(workers[0].has_waiting());
        assert_eq!(taken(&mut workers[1]).len(), LINE);
        workers[0].flush();
        assert!(!workers[0].has_waiting());
        assert_eq!(taken(&mut workers[1]).len(), MOST / FULL);
        // Afterwards there is room again.
        assert_eq!(workers[0].add(1, &packet, errand()), 0);
        assert_eq!(workers[0].add(0, &packet, errand()), 1, "nobody hands packets to himself");
    }

    #[test]
    fn a_round_ends_however_fast_others_are_and_all_of_them_get_their_turn() {
        let mut workers = lines(&wakes(3));
        let send = |workers: &mut [Handoff], from: u8| {
            for _ in 0..256 {
                workers[usize::from(from)].add(2, &[from; 64], errand());
            }
            workers[usize::from(from)].flush();
        };
        (0..LINE).for_each(|_| send(&mut workers, 0));
        send(&mut workers, 1);
        let (mut taken, mut order) = (0, Vec::new());
        while let Some(mut burst) = workers[2].take(&mut taken) {
            burst.packets(|octets, place, _| order.push(octets[place.start]));
            workers[2].give_back(burst);
            send(&mut workers, 0);
        }
        order.dedup();
        assert_eq!(order, [0, 1, 0]);
        assert!((FULL..FULL + 256 * (64 + size_of::<Packet>())).contains(&taken), "{taken}");
        assert!(workers[2].has_come() && !workers[0].has_come());
    }

    #[test]
    fn small_packets_take_up_no_more_than_large_ones() {
        let mut workers = lines(&wakes(2));
        let lost: usize = (0..1 << 20).map(|_| workers[0].add(1, &[0x45; 20], errand())).sum();
        let each = 20 + size_of::<Packet>();
        assert_eq!((1 << 20) - lost, LINE * FULL.div_ceil(each) + MOST.div_ceil(each));
    }
}
