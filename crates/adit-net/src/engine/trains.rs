//! Sealed packets on their way out, in the order in which they leave. Packets that go the same way follow one another in a
//! train, which the kernel takes as a whole: all as long as the first, but for the last, which may be shorter. It owns their
//! octets and never sends.

use std::ops::Range;

use adit_esp::tunnel::OuterFields;

use super::half::Transport;
use super::sas::Place;

/// The sealed packets of a round.
#[derive(Default)]
pub(crate) struct Trains {
    /// As long as it has ever been needed; what stands behind `used` is old.
    octets: Vec<u8>,
    used: usize,
    trains: Vec<Train>,
    /// Octets inside of each packet.
    inner_lens: Vec<u16>,
    /// Room for a packet that cannot be made in its slot.
    pub(crate) scratch: Vec<u8>,
}

/// One or more packets of an SA with the same outer header.
#[derive(Clone, Debug)]
pub(crate) struct Train {
    /// The SA that they are counted for.
    pub(crate) sa: Place,
    pub(crate) transport: Transport,
    /// TOS or traffic class octet of the outer header.
    pub(crate) tos: u8,
    /// DF of the outer header. Over IPv6 it is always as if set.
    pub(crate) dont_fragment: bool,
    /// TTL or hop limit of the outer header; `None` for ours.
    pub(crate) hop_limit: Option<u8>,
    /// Octets of each packet but the last.
    pub(crate) segment: usize,
    octets: Range<usize>,
    /// The place of its packets among all.
    packets: Range<usize>,
}

/// What the kernel takes as one (`UDP_MAX_SEGMENTS` before Linux 6.9), and what a link does: with all its headers a frame
/// has to stay below 65,536 octets (`gso_max_size`), or the kernel takes the train apart before the link.
const MAX_PACKETS: usize = 64;
pub(super) const MAX_OCTETS: usize = 65_000;

impl Train {
    /// How many packets it has.
    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    /// DF is a setting of the socket.
    pub(crate) fn takes_same_socket(&self, other: &Self) -> bool {
        let socket =
            |train: &Self| (train.transport.kind, train.transport.destination.is_ipv6(), train.dont_fragment);
        socket(self) == socket(other)
    }

    fn takes(&self, sa: Place, fields: (OuterFields, Option<u8>), len: usize) -> bool {
        // One that ends with a shorter packet is complete.
        self.octets.len() == self.segment * self.packets.len()
            && self.sa == sa
            && (self.tos, self.dont_fragment) == (fields.0.traffic_class, fields.0.dont_fragment)
            && self.hop_limit == fields.1
            && len <= self.segment
            && self.packets.len() < MAX_PACKETS
            && self.octets.len() + len <= MAX_OCTETS
    }
}

impl Trains {
    /// Room for a packet of `len` octets behind the last one. It counts once it is [pushed](Self::push).
    pub(crate) fn slot(&mut self, len: usize) -> &mut [u8] {
        let end = self.used + len;
        if end > self.octets.len() {
            self.octets.resize(end.next_power_of_two(), 0);
        }
        self.octets.get_mut(self.used..end).unwrap_or_default()
    }

    /// Lets the packet of `len` octets leave that was put into the [slot](Self::slot), with `inner_len` octets inside.
    pub(crate) fn push(
        &mut self,
        (sa, transport, fields, hop_limit): (Place, Transport, OuterFields, Option<u8>),
        len: usize,
        inner_len: usize,
    ) {
        let (start, packet) = (self.used, self.inner_lens.len());
        self.used += len;
        self.inner_lens.push(inner_len as u16);
        match self.trains.last_mut() {
            Some(last) if last.takes(sa, (fields, hop_limit), len) => {
                last.octets.end = self.used;
                last.packets.end = packet + 1;
            }
            _ => self.trains.push(Train {
                sa,
                transport,
                tos: fields.traffic_class,
                dont_fragment: fields.dont_fragment,
                hop_limit,
                segment: len,
                octets: start..self.used,
                packets: packet..packet + 1,
            }),
        }
    }

    pub(crate) fn all(&self) -> &[Train] {
        &self.trains
    }

    /// All of a train's octets, packet after packet.
    pub(crate) fn octets(&self, train: &Train) -> &[u8] {
        // They are there: the buffer is only ever emptied together with the trains.
        self.octets.get(train.octets.clone()).unwrap_or_default()
    }

    /// How many inner packets some of a train's packets have brought on their way, and their octets. Dummies bring none.
    pub(crate) fn inside(&self, train: &Train, packets: Range<usize>) -> (usize, usize) {
        let first = train.packets.start;
        let lens = self.inner_lens.get(first + packets.start..first + packets.end).unwrap_or_default();
        lens.iter()
            .fold((0, 0), |(count, octets), len| (count + usize::from(*len > 0), octets + usize::from(*len)))
    }

    /// Is there as much as one round should bring?
    pub(crate) fn is_full(&self) -> bool {
        self.used >= super::ROUND_OCTETS || self.inner_lens.len() >= super::ROUND_PACKETS
    }

    pub(crate) fn clear(&mut self) {
        self.used = 0;
        self.trains.clear();
        self.inner_lens.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets::Kind;

    /// The lengths of the packets of each train, for packets of (SA, TOS, length).
    fn lengths(packets: &[(usize, u8, usize)]) -> Vec<Vec<usize>> {
        let transport = Transport {
            kind: Kind::NatT,
            source: [192, 0, 2, 1].into(),
            destination: ([192, 0, 2, 2], 4500).into(),
        };
        let mut trains = Trains::default();
        for (number, (sa, tos, len)) in packets.iter().enumerate() {
            trains.slot(*len).fill(number as u8);
            let fields = OuterFields { traffic_class: *tos, dont_fragment: true };
            trains.push((Place::at(*sa), transport, fields, None), *len, len - 30);
        }
        let mut number = 0;
        let mut of = |train: &Train| {
            let octets = trains.octets(train);
            let packets: Vec<&[u8]> = octets.chunks(train.segment).collect();
            assert_eq!(packets.len(), train.len());
            for packet in &packets {
                assert!(packet.iter().all(|octet| *octet == number as u8), "order");
                number += 1;
            }
            let lens: Vec<usize> = packets.iter().map(|packet| packet.len()).collect();
            let inner: usize = lens.iter().map(|len| len - 30).sum();
            assert_eq!(trains.inside(train, 0..train.len()), (train.len(), inner));
            lens
        };
        let all = trains.all().iter().map(&mut of).collect();
        trains.clear();
        assert!(trains.all().is_empty() && trains.used == 0);
        all
    }

    #[test]
    fn packets_with_df_and_without_leave_apart() {
        let transport = Transport {
            kind: Kind::Esp,
            source: [192, 0, 2, 1].into(),
            destination: ([192, 0, 2, 2], 0).into(),
        };
        let mut trains = Trains::default();
        for dont_fragment in [true, true, false, false, true] {
            trains.slot(100);
            let fields = OuterFields { traffic_class: 0, dont_fragment };
            trains.push((Place::at(1), transport, fields, None), 100, 70);
        }
        let all: Vec<_> = trains.all().iter().map(|train| (train.len(), train.dont_fragment)).collect();
        assert_eq!(all, [(2, true), (2, false), (1, true)]);
        let [first, second, third] = trains.all() else { panic!("three") };
        assert!(!first.takes_same_socket(second) && first.takes_same_socket(third));
    }

    #[test]
    fn a_train_is_of_one_sa_one_mark_and_one_length() {
        let all = [(1, 0, 100), (1, 0, 100), (1, 2, 100), (2, 2, 100), (2, 2, 101), (2, 2, 101), (2, 2, 60)];
        assert_eq!(lengths(&all), [vec![100, 100], vec![100], vec![100], vec![101, 101, 60]]);
        assert_eq!(lengths(&[(1, 0, 100), (1, 0, 60), (1, 0, 60)]), [vec![100, 60], vec![60]]);
        // 46 of them are 65,504, and with 20, 8 and 14 octets of headers no frame that a link takes.
        let all = lengths(&[(1, 0, 1424); 100]);
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [45, 45, 10]);
        let all = lengths(&[(1, 0, 90); 130]);
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 2]);
    }
}
