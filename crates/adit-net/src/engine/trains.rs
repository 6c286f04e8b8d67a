//! Sealed packets on their way out, in the order in which they leave. Packets that go the same way follow one another in a
//! train, which the kernel takes as a whole: all as long as the first, but for the last, which may be shorter. They may be of
//! several SAs, if they are for the same worker over there: what arrives as a train goes to one. It owns their octets and never
//! sends.

use std::ops::Range;

use adit_esp::tunnel::OuterFields;

use super::half::Transport;
use super::sas::Place;
use crate::steering;

/// The sealed packets of a round.
#[derive(Default)]
pub(crate) struct Trains {
    /// As long as it has ever been needed; what stands behind `used` is old.
    octets: Vec<u8>,
    used: usize,
    trains: Vec<Train>,
    packets: Vec<Packet>,
    /// Room for a packet that cannot be made in its slot.
    pub(crate) scratch: Vec<u8>,
}

/// What a sealed packet is counted as.
#[derive(Clone, Copy)]
struct Packet {
    sa: Place,
    /// Octets inside. An IP-TFS payload counts whole packets of which only the end is in it.
    inner_len: u32,
}

/// One or more packets with the same outer header.
#[derive(Clone, Debug)]
pub(crate) struct Train {
    /// The SA of the last one.
    sa: Place,
    spi: u32,
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

    /// The SA of the last one.
    #[cfg(test)]
    pub(super) fn sa(&self) -> Place {
        self.sa
    }

    /// DF is a setting of the socket.
    pub(crate) fn takes_same_socket(&self, other: &Self) -> bool {
        let socket =
            |train: &Self| (train.transport.kind, train.transport.destination.is_ipv6(), train.dont_fragment);
        socket(self) == socket(other)
    }

    fn takes(
        &self,
        (sa, spi, transport): (Place, u32, &Transport),
        fields: (OuterFields, Option<u8>),
        len: usize,
    ) -> bool {
        // One that ends with a shorter packet is complete.
        self.octets.len() == self.segment * self.packets.len()
            && (self.sa == sa || self.transport == *transport && steering::go_together(self.spi, spi))
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
        let (start, packet) = (self.used, self.packets.len());
        self.used += len;
        self.packets.push(Packet { sa, inner_len: inner_len as u32 });
        let spi = self.octets.get(start..).and_then(|esp| esp.first_chunk()).copied();
        let spi = spi.map_or(0, u32::from_be_bytes);
        match self.trains.last_mut() {
            Some(last) if last.takes((sa, spi, &transport), (fields, hop_limit), len) => {
                last.sa = sa;
                last.octets.end = self.used;
                last.packets.end = packet + 1;
            }
            _ => self.trains.push(Train {
                sa,
                spi,
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

    /// Some of a train's packets by their SAs: how many follow one another, and how many inner packets, of how many octets, they
    /// have brought on their way. Dummies bring none.
    pub(crate) fn by_sa(
        &self,
        train: &Train,
        packets: Range<usize>,
    ) -> impl Iterator<Item = (Place, usize, (usize, usize))> {
        let first = train.packets.start;
        let packets = self.packets.get(first + packets.start..first + packets.end).unwrap_or_default();
        packets.chunk_by(|one, next| one.sa == next.sa).filter_map(|run| {
            let lens = run.iter().map(|packet| packet.inner_len as usize);
            let inside =
                lens.fold((0, 0), |(count, octets), len| (count + usize::from(len > 0), octets + len));
            Some((run.first()?.sa, run.len(), inside))
        })
    }

    /// Is there as much as one round should bring?
    pub(crate) fn is_full(&self) -> bool {
        self.used >= super::ROUND_OCTETS || self.packets.len() >= super::ROUND_PACKETS
    }

    pub(crate) fn clear(&mut self) {
        self.used = 0;
        self.trains.clear();
        self.packets.clear();
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
            let counted = trains.by_sa(train, 0..train.len());
            assert_eq!(
                counted.fold((0, 0), |sum, (_, count, (_, octets))| (sum.0 + count, sum.1 + octets)),
                (lens.len(), inner)
            );
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
    fn packets_of_several_sas_go_together_if_they_go_to_one_worker() {
        let transport = |last| Transport {
            kind: Kind::NatT,
            source: [192, 0, 2, 1].into(),
            destination: ([192, 0, 2, last], 4500).into(),
        };
        let fields = OuterFields { traffic_class: 0, dont_fragment: true };
        let mut trains = Trains::default();
        // By SA, SPI and peer. 64 SPIs further it is the same worker, however many there are.
        for (sa, spi, peer) in [(1, 900, 2), (1, 900, 2), (2, 964, 2), (1, 900, 2), (3, 965, 2), (4, 1029, 3)]
        {
            trains.slot(100)[..4].copy_from_slice(&u32::to_be_bytes(spi));
            trains.push((Place::at(sa), transport(peer), fields, None), 100, 60 + sa);
        }
        let counted = |train: &Train, packets| -> Vec<_> { trains.by_sa(train, packets).collect() };
        let all: Vec<_> = trains.all().iter().map(|train| counted(train, 0..train.len())).collect();
        let at = Place::at;
        assert_eq!(
            all,
            [
                vec![(at(1), 2, (2, 122)), (at(2), 1, (1, 62)), (at(1), 1, (1, 61))],
                vec![(at(3), 1, (1, 63))],
                vec![(at(4), 1, (1, 64))]
            ]
        );
        assert_eq!(counted(&trains.all()[0], 1..3), [(at(1), 1, (1, 61)), (at(2), 1, (1, 62))]);
    }

    #[test]
    fn a_train_has_one_mark_and_one_length() {
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
