//! Cutting and joining against a model: packets made one by one with `adit-wire`, every checksum verified by its arithmetic.

use std::net::IpAddr;

use adit_wire::ip::{self, Ipv4Header, Ipv6Header, transport_checksum};
use proptest::prelude::*;

use super::Device;
use super::deliveries::Deliveries;
use super::offload::{Offload, Segmentation};
use super::split::Split;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;

/// Everything that tells packets apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packet {
    v6: bool,
    tcp: bool,
    /// Source port; of those with equal ones the addresses are equal too.
    flow: u16,
    class: u8,
    hops: u8,
    dont_fragment: bool,
    id: u16,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    window: u16,
    options: Vec<u8>,
    payload: Vec<u8>,
}

impl Packet {
    fn addresses(&self) -> (IpAddr, IpAddr) {
        let host = u8::try_from(self.flow % 250).unwrap();
        if self.v6 {
            let at = |net| IpAddr::from([0xfd00, net, 0, 0, 0, 0, 0, u16::from(host)]);
            (at(1), at(2))
        } else {
            (IpAddr::from([10, 1, 0, host]), IpAddr::from([10, 2, 0, host]))
        }
    }

    fn octets(&self) -> Vec<u8> {
        let (source, destination) = self.addresses();
        let mut upper = Vec::new();
        upper.extend(self.flow.to_be_bytes());
        upper.extend(443_u16.to_be_bytes());
        let at = if self.tcp {
            upper.extend(self.sequence.to_be_bytes());
            upper.extend(self.acknowledgement.to_be_bytes());
            upper.extend([((20 + self.options.len()) / 4 * 16) as u8, self.flags]);
            upper.extend(self.window.to_be_bytes());
            upper.extend([0; 4]);
            upper.extend(&self.options);
            16
        } else {
            upper.extend((8 + self.payload.len() as u16).to_be_bytes());
            upper.extend([0; 2]);
            6
        };
        upper.extend(&self.payload);
        let protocol = if self.tcp { 6 } else { 17 };
        let checksum = match transport_checksum(source, destination, protocol, &upper) {
            0 if !self.tcp => 0xffff,
            checksum => checksum,
        };
        upper[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        let network = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = Ipv4Header::new(source, destination, protocol, self.hops, upper.len());
                header.traffic_class = self.class;
                header.dont_fragment = self.dont_fragment;
                header.identification = self.id;
                header.encode().to_vec()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => Ipv6Header {
                traffic_class: self.class,
                flow_label: self.flow.into(),
                payload_len: upper.len() as u16,
                next_header: protocol,
                hop_limit: self.hops,
                source,
                destination,
            }
            .encode()
            .to_vec(),
            _ => unreachable!(),
        };
        [network, upper].concat()
    }

    fn headers(&self) -> usize {
        let network = if self.v6 { 40 } else { 20 };
        network + if self.tcp { 20 + self.options.len() } else { 8 }
    }

    /// The packets that it stands for if it is a super-packet of this segment size.
    fn cut(&self, segment: usize) -> Vec<Self> {
        let count = self.payload.len().div_ceil(segment);
        let one = |(index, payload): (usize, &[u8])| {
            let (first, last) = (index == 0, index + 1 == count);
            let mut flags = self.flags;
            if !first {
                flags &= !CWR;
            }
            if !last {
                flags &= !(FIN | PSH);
            }
            Self {
                id: self.id.wrapping_add(index as u16),
                sequence: self.sequence.wrapping_add((index * segment) as u32),
                flags,
                payload: payload.to_vec(),
                ..self.clone()
            }
        };
        self.payload.chunks(segment).enumerate().map(one).collect()
    }

    fn offload(&self, segment: usize) -> Offload {
        Offload {
            needs_checksum: true,
            kind: if self.tcp { Segmentation::Tcp } else { Segmentation::Udp },
            segment: segment as u16,
            checksum_start: if self.v6 { 40 } else { 20 },
            checksum_offset: if self.tcp { 16 } else { 6 },
        }
    }
}

fn all_of(split: &Split<'_>) -> Vec<Vec<u8>> {
    (0..split.count()).map(|index| split.to_vec(index).unwrap()).collect()
}

/// What the kernel would make of what the TUN device is given.
fn delivered(deliveries: &Deliveries, received: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let cut = |delivery| {
        let packets: Vec<Vec<u8>> = deliveries.packets(delivery, received).map(<[u8]>::to_vec).collect();
        let Some(head) = deliveries.head(delivery, received) else { return packets };
        let mut whole = head.octets().to_vec();
        packets.iter().for_each(|packet| whole.extend_from_slice(head.payload(packet)));
        let (header, packet) = whole.split_first_chunk_mut().unwrap();
        all_of(&Split::new(packet, &Offload::decode(header)).unwrap())
    };
    deliveries.all().iter().map(cut).collect()
}

/// RFC 6864 4.1: the identification of a packet that may not be fragmented means nothing, and nobody may look at it.
fn without_idle_id(packets: impl IntoIterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let mut packets: Vec<Vec<u8>> = packets.into_iter().collect();
    for packet in &mut packets {
        if packet[0] == 0x45 && packet[6] == 0x40 && ip::checksum(&[&packet[..20]]) == 0 {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
    }
    packets
}

/// Opened packets one after another in a buffer.
fn deliver(packets: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
    let received = packets.concat();
    let mut deliveries = Deliveries::new(true, true);
    let mut start = 0;
    for packet in packets {
        deliveries.push(Device::SHARED, &received, start..start + packet.len());
        start += packet.len();
    }
    delivered(&deliveries, &received)
}

fn packet(payload: std::ops::Range<usize>) -> impl Strategy<Value = Packet> {
    let address = (any::<bool>(), any::<bool>(), 1_u16..1000);
    let network = (any::<u8>(), 1_u8..255, any::<bool>(), any::<u16>());
    let flags = prop::sample::select(vec![ACK, ACK | PSH, ACK | FIN, ACK | PSH | CWR, ACK | CWR | 0x40]);
    let tcp = (any::<u32>(), any::<u32>(), flags, any::<u16>(), 0_usize..11);
    (address, network, tcp, prop::collection::vec(any::<u8>(), payload)).prop_map(
        |(
            (v6, tcp, flow),
            (class, hops, dont_fragment, id),
            (sequence, ack, flags, window, words),
            payload,
        )| {
            Packet {
                v6,
                tcp,
                flow,
                class,
                hops,
                dont_fragment,
                id,
                sequence,
                acknowledgement: ack,
                flags,
                window,
                options: (0..words as u8 * 4).collect(),
                payload,
            }
        },
    )
}

/// Both checksums, by the sums that RFC 1071 and RFC 9293 3.1 ask for.
fn verifies(octets: &[u8]) -> bool {
    let flow = ip::flow(octets).unwrap();
    let upper = if octets[0] >> 4 == 4 { 20 } else { 40 };
    let sum = transport_checksum(flow.source, flow.destination, flow.protocol, &octets[upper..]);
    sum == 0 && (upper == 40 || ip::checksum(&[&octets[..20]]) == 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn super_packets_are_cut_as_the_model_cuts_them(packet in packet(1..6000), segment in 1_usize..1500) {
        prop_assume!(packet.payload.len().div_ceil(segment) <= 2048);
        let expected: Vec<Vec<u8>> = packet.cut(segment).iter().map(Packet::octets).collect();
        let (mut octets, offload) = (packet.octets(), packet.offload(segment));
        // What the kernel leaves in the checksum's place is not looked at.
        octets[usize::from(offload.checksum_start + offload.checksum_offset)..][..2].fill(0xa5);
        let mut split = Split::new(&mut octets, &offload).unwrap();
        let all = all_of(&split);
        prop_assert!(all.iter().all(|octets| verifies(octets)));
        if let [one] = &all[..] {
            prop_assert_eq!(split.packet(), one, "one segment may leave as it stands");
        }
        prop_assert_eq!(&all, &expected);
        // In their places, one after another; what follows can still be made elsewhere.
        for (index, expected) in expected.iter().enumerate() {
            if let Some(taken) = split.take(index) {
                prop_assert_eq!(taken, &expected[..]);
            }
            prop_assert_eq!(split.len(index), expected.len());
            for later in [index + 1, all.len() - 1].into_iter().filter(|later| (index + 1..all.len()).contains(later)) {
                prop_assert_eq!(&split.to_vec(later).unwrap(), &all[later]);
            }
        }
        let room = segment >= split.len(0) - segment.min(packet.payload.len());
        prop_assert!(!room || all.len() < 2 || split.take(1).is_some());
    }

    #[test]
    fn what_was_cut_is_joined_and_can_be_cut_again(packet in packet(1..20_000), segment in 100_usize..1500) {
        let packet = Packet { flags: packet.flags & !(FIN | CWR | 0x40), ..packet };
        let packets: Vec<Vec<u8>> = packet.cut(segment).iter().map(Packet::octets).collect();
        let deliveries = deliver(&packets);
        let most = if packet.tcp { 256 } else { 64 };
        prop_assert_eq!(deliveries.len(), packets.len().div_ceil(most));
        prop_assert_eq!(deliveries.concat(), packets);
    }

    /// Whatever comes, in whatever order: nothing is lost or changed, and each flow keeps its order.
    #[test]
    fn any_mixture_keeps_each_flow_as_it_is(
        steps in prop::collection::vec((0_u16..4, 0_u8..24, any::<bool>(), prop::sample::select(vec![0_usize, 7, 100, 100, 100, 100])), 1..120),
        v6: bool,
        tcp: bool,
    ) {
        let mut sequences = [0_u32, 1000, u32::MAX - 500, 7];
        let mut ids = [0_u16, 65_500, 9, 30];
        let mut packets = Vec::new();
        for (number, (flow, what, push, len)) in steps.into_iter().enumerate() {
            let place = usize::from(flow);
            let mut packet = Packet {
                v6,
                tcp,
                flow: flow + 1,
                class: 0,
                hops: 64,
                dont_fragment: flow % 2 == 0,
                id: ids[place],
                sequence: sequences[place],
                acknowledgement: 1,
                flags: if push { ACK | PSH } else { ACK },
                window: 500,
                options: vec![1; 12],
                payload: vec![number as u8; len],
            };
            match what {
                0 => packet.class = 3,
                1 => packet.hops = 63,
                2 => packet.id = packet.id.wrapping_add(5),
                3 => packet.sequence = packet.sequence.wrapping_add(1),
                4 => packet.acknowledgement = 2,
                5 => packet.window = 501,
                6 => packet.flags |= FIN,
                7 => packet.flags |= 0x40,
                8 => packet.options = vec![1; 8],
                9 => packet.dont_fragment = !packet.dont_fragment,
                _ => {}
            }
            sequences[place] = packet.sequence.wrapping_add(len as u32);
            ids[place] = packet.id.wrapping_add(1);
            let mut octets = packet.octets();
            let upper = if v6 { 40 } else { 20 };
            match what {
                // A wrong checksum; none; a protocol that nobody joins; a fragment.
                10 => *octets.last_mut().unwrap() ^= 0x40,
                11 if !tcp => octets[upper + 6..upper + 8].fill(0),
                12 if !v6 => octets[6] |= 0x20,
                12 => octets[6] = 60,
                13 if !v6 => octets[10] ^= 1,
                _ => {}
            }
            packets.push(octets);
        }
        let deliveries = deliver(&packets);
        let flow_of = |packet: &Vec<u8>| packet[if v6 { 23 } else { 15 }];
        for flow in 1..5 {
            let of = |all: &mut dyn Iterator<Item = &Vec<u8>>| {
                without_idle_id(all.filter(|packet| flow_of(packet) == flow).cloned())
            };
            prop_assert_eq!(of(&mut deliveries.iter().flatten()), of(&mut packets.iter()));
        }
    }

    /// The kernel is trusted, and still nothing it says may end the program.
    #[test]
    fn nothing_the_device_says_is_fatal(header: [u8; 10], mut octets in prop::collection::vec(any::<u8>(), 0..200), version in prop::sample::select(vec![0x45_u8, 0x4f, 0x60, 0x00])) {
        if let [first, _, high, low, ..] = octets.as_mut_slice() {
            [*first, *high, *low] = [version, 0, 60];
        }
        if let Some(split) = Split::new(&mut octets, &Offload::decode(&header)) {
            for index in 0..split.count() {
                if let Some(packet) = split.to_vec(index) {
                    prop_assert!(packet.len() <= split.len(0));
                }
            }
        }
    }
}

fn tcp(sequence: u32, len: usize) -> Packet {
    Packet {
        v6: false,
        tcp: true,
        flow: 9,
        class: 0,
        hops: 64,
        dont_fragment: true,
        id: 0,
        sequence,
        acknowledgement: 0,
        flags: ACK,
        window: 1,
        options: Vec::new(),
        payload: vec![1; len],
    }
}

/// How many packets each delivery has.
fn sizes(packets: &[Vec<u8>]) -> Vec<usize> {
    deliver(packets).iter().map(Vec::len).collect()
}

#[test]
fn a_super_packet_ends_where_it_must() {
    let of = |packets: &[Packet]| sizes(&packets.iter().map(Packet::octets).collect::<Vec<_>>());
    let row =
        |first: u32, count: u32| (0..count).map(move |i| tcp((first + i) * 100, 100)).collect::<Vec<_>>();
    assert_eq!(of(&row(0, 5)), [5]);
    // With the shorter one; a longer one begins anew.
    let mut all = row(0, 2);
    all.extend([tcp(200, 40), tcp(240, 100), tcp(340, 101)]);
    assert_eq!(of(&all), [3, 1, 1]);
    // With the one that is pushed, and not before another mark, hop limit, acknowledgement or window.
    let mut all = row(0, 6);
    all[2].flags |= PSH;
    assert_eq!(of(&all), [3, 3]);
    for change in [
        |packet: &mut Packet| packet.class = 3,
        |packet: &mut Packet| packet.hops = 63,
        |packet: &mut Packet| packet.acknowledgement = 1,
        |packet: &mut Packet| packet.window = 2,
        |packet: &mut Packet| packet.flags |= 0x40,
        |packet: &mut Packet| packet.flags |= CWR,
        |packet: &mut Packet| packet.dont_fragment = false,
        |packet: &mut Packet| packet.options = vec![1; 4],
    ] {
        let mut all = row(0, 4);
        change(&mut all[1]);
        assert_eq!(of(&all)[..2], [1, 1], "{:?}", all[1]);
        assert_eq!(of(&all).iter().sum::<usize>(), 4);
    }
    // Two flows at a time.
    let other = row(0, 4).into_iter().map(|packet| Packet { flow: 10, ..packet });
    let all: Vec<Packet> = row(0, 4).into_iter().zip(other).flat_map(|(one, other)| [one, other]).collect();
    assert_eq!(of(&all), [4, 4]);
    // As much as the length field can say: 65,535 = 40 + 46 * 1,400 + 1,095.
    let all: Vec<Packet> = (0..60).map(|i| tcp(i * 1400, 1400)).collect();
    assert_eq!(of(&all), [46, 14]);
}

#[test]
fn what_does_not_verify_stays_alone_and_unaltered() {
    let mut all: Vec<Vec<u8>> = (0..4).map(|i| tcp(i * 100, 100).octets()).collect();
    all[1][60] ^= 1;
    assert_eq!(sizes(&all), [1, 1, 2]);
    assert_eq!(without_idle_id(deliver(&all).concat()), without_idle_id(all));
    // The first is looked at when another could join it.
    let mut all: Vec<Vec<u8>> = (0..3).map(|i| tcp(i * 100, 100).octets()).collect();
    all[0][60] ^= 1;
    assert_eq!(sizes(&all), [1, 2]);
    assert_eq!(without_idle_id(deliver(&all).concat()), without_idle_id(all));
}

#[test]
fn fragments_and_extension_headers_let_nothing_overtake_them() {
    let mut all: Vec<Vec<u8>> = (0..3).map(|i| tcp(i * 100, 100).octets()).collect();
    let mut fragment = all[0].clone();
    fragment[6] = 0x20;
    all.insert(1, fragment);
    assert_eq!(sizes(&all), [1, 1, 2]);
    let v6 = |sequence| Packet { v6: true, ..tcp(sequence, 100) };
    let mut all: Vec<Vec<u8>> = (0..3).map(|i| v6(i * 100).octets()).collect();
    let mut extended = all[0].clone();
    extended[6] = 60;
    all.insert(1, extended);
    assert_eq!(sizes(&all), [1, 1, 2]);
}

#[test]
fn an_open_checksum_is_put_in() {
    for v6 in [false, true] {
        for is_tcp in [false, true] {
            let whole = Packet { v6, tcp: is_tcp, options: Vec::new(), ..tcp(5, 33) };
            let expected = whole.octets();
            let mut octets = expected.clone();
            let offload = Offload { kind: Segmentation::None, segment: 0, ..whole.offload(0) };
            let upper = usize::from(offload.checksum_start);
            let at = upper + usize::from(offload.checksum_offset);
            // The pseudo-header's sum: that of everything with an empty message, not complemented.
            let (source, destination) = whole.addresses();
            let length = (octets.len() - upper) as u16;
            let pseudo = transport_checksum(source, destination, if is_tcp { 6 } else { 17 }, &[]);
            let sum = u32::from(!pseudo) + u32::from(length);
            let sum = ((sum & 0xffff) + (sum >> 16)) as u16;
            octets[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            let all = all_of(&Split::new(&mut octets, &offload).unwrap());
            assert_eq!(all, [expected]);
            assert_eq!(whole.headers(), upper + if is_tcp { 20 } else { 8 });
        }
    }
}

#[test]
fn more_segments_than_anyone_makes_are_refused() {
    let packet = Packet { payload: vec![0; 4096], ..tcp(0, 0) };
    assert!(Split::new(&mut packet.octets(), &packet.offload(2)).is_some());
    assert!(Split::new(&mut packet.octets(), &packet.offload(1)).is_none());
    assert!(Split::new(&mut packet.octets(), &packet.offload(0)).is_none());
}
