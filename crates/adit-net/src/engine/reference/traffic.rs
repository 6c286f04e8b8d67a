//! What the engine is fed: packets of hosts and of peers, by a die with a seed. Most are what hosts send, so that they come far;
//! the others are altered, cut short, or made of nothing.

use std::net::IpAddr;
use std::sync::LazyLock;

use adit_wire::ikev2::TrafficSelector;

use super::packet::{checksum, fix_v4, octets_of, pseudo_checksum, put, whole};
use crate::engine::offload::{Offload, Segmentation};

/// Numbers that look random and depend on a seed alone (SplitMix64).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64, step: u64) -> Self {
        let mut dice = Self(seed ^ step.wrapping_mul(0xd6e8_feb8_6659_fd93));
        dice.number();
        dice
    }

    pub(super) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(super) fn octet(&mut self) -> u8 {
        self.number() as u8
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.number()) * bound as u128) >> 64) as usize
    }

    pub(super) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// So many octets of no meaning.
    pub(super) fn noise(&mut self, len: usize) -> &'static [u8] {
        static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
            let mut dice = Dice::new(1, 1);
            (0..1 << 17).map(|_| dice.octet()).collect()
        });
        let from = self.below(NOISE.len() - len);
        &NOISE[from..from + len]
    }

    /// A length of data: mostly little, seldom all that a packet can have.
    pub(super) fn len(&mut self) -> usize {
        match self.below(256) {
            0 => self.below(65_000),
            1..6 => self.below(9000),
            6..30 => 400 + self.below(1100),
            _ => self.below(120),
        }
    }
}

/// Who sends to whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) ports: (u16, u16),
}

impl Ends {
    /// Ends that lie within selectors, or nearly.
    pub(super) fn of(dice: &mut Dice, source: &[TrafficSelector], destination: &[TrafficSelector]) -> Self {
        let to = dice.pick(destination);
        let family = |ts: &&TrafficSelector| ts.start.is_ipv4() == to.start.is_ipv4();
        let fitting: Vec<TrafficSelector> = source.iter().filter(family).copied().collect();
        let from = if fitting.is_empty() { to } else { dice.pick(&fitting) };
        let any = dice.pick(&[6, 6, 6, 17, 17, 1, 58, 132, 33, 136, 135, 47, 50]);
        let mut protocol = [from.protocol, to.protocol].into_iter().find(|one| *one != 0).unwrap_or(any);
        if matches!(protocol, 1 | 58) && from.protocol == 0 {
            protocol = if to.start.is_ipv4() { 1 } else { 58 };
        }
        let ports = (port(dice, &from), port(dice, &to));
        let mut ends =
            Self { source: address(dice, &from), destination: address(dice, &to), protocol, ports };
        match dice.below(160) {
            0 => ends.source = ends.destination,
            1 => ends.destination = ends.source,
            2 => ends.protocol = dice.octet(),
            3 => ends.ports = (dice.number() as u16, dice.number() as u16),
            4 => std::mem::swap(&mut ends.source, &mut ends.destination),
            _ => {}
        }
        ends
    }
}

fn port(dice: &mut Dice, ts: &TrafficSelector) -> u16 {
    if (ts.start_port, ts.end_port) == (0, u16::MAX) || ts.start_port > ts.end_port {
        return dice.pick(&[53, 80, 443, 500, 5000, 0x0800, 0x0300, 0]);
    }
    let span = usize::from(ts.end_port - ts.start_port);
    ts.start_port + dice.below(span + 1) as u16
}

/// One of the first, of the last, one of some between, or just beside.
fn address(dice: &mut Dice, ts: &TrafficSelector) -> IpAddr {
    let (first, last) = (number_of(ts.start), number_of(ts.end));
    let span = last - first;
    let number = match dice.below(256) {
        0..4 => first,
        4..8 => last,
        8 => last.saturating_add(1),
        9 => first.saturating_sub(1),
        _ => first + u128::from(dice.below(40) as u64).min(span),
    };
    address_of(number, ts.start.is_ipv4())
}

pub(super) fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

pub(super) fn address_of(number: u128, v4: bool) -> IpAddr {
    if v4 { IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()) } else { IpAddr::V6(number.into()) }
}

/// A message of the transport, with its checksum.
fn upper(dice: &mut Dice, ends: &Ends, len: usize) -> Vec<u8> {
    let Ends { source, destination, protocol, ports } = *ends;
    let mut message = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    let place = match protocol {
        6 => {
            message.extend(dice.noise(8));
            let options: &[u8] = match dice.below(8) {
                0 => &[2, 4, 0x05, 0xb4, 1, 3, 3, 7],
                1 => &[1, 2, 4, 0x23, 0, 4, 2, 0],
                2 => &[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
                3 => &[2, 9, 1, 1, 2, 4, 0xff, 0xff],
                _ => &[],
            };
            let flags = dice.pick(&[0x10, 0x10, 0x18, 0x02, 0x12, 0x11, 0x90, 0xc2, 0x04]);
            message.extend([(5 + options.len() as u8 / 4) << 4, flags, 1, 2, 0, 0, 0, 0]);
            message.extend(options);
            Some(16)
        }
        17 | 136 => {
            message.extend((8 + len as u16).to_be_bytes());
            message.extend([0, 0]);
            Some(6)
        }
        33 => {
            message.extend([4, 0, 0, 0]);
            Some(6)
        }
        1 | 58 => {
            // Type and code are in the place of the first port.
            message[2..4].fill(0);
            message.extend(dice.noise(4));
            Some(2)
        }
        _ => None,
    };
    message.extend(dice.noise(len));
    if let Some(place) = place {
        let value = if protocol == 1 {
            checksum(&[&message])
        } else {
            pseudo_checksum(source, destination, protocol, &message)
        };
        put(&mut message, place, if value == 0 && matches!(protocol, 17 | 136) { 0xffff } else { value });
        if protocol == 17 && dice.one_in(12) {
            put(&mut message, place, 0);
        }
    }
    message
}

/// A header for it, in IPv4 with any DF and identification.
fn with_header(dice: &mut Dice, ends: &Ends, upper: &[u8]) -> Vec<u8> {
    let class = dice.pick(&[0, 0, 0, 1, 2, 3, 0xb8, 0xba, 0x2b, 0xff]);
    let hops = dice.pick(&[64, 64, 64, 63, 1, 0, 255]);
    let mut packet = whole((ends.source, ends.destination), ends.protocol, (class, hops), upper);
    if ends.source.is_ipv4() {
        put(&mut packet, 6, dice.pick(&[0x4000, 0x4000, 0]));
        put(&mut packet, 4, dice.number() as u16);
        fix_v4(&mut packet);
    } else {
        packet[1] |= dice.octet() & 15;
        packet[3] = dice.octet();
    }
    packet
}

/// A packet of a host.
pub(super) fn plain(dice: &mut Dice, ends: &Ends) -> Vec<u8> {
    let len = dice.len();
    let upper = upper(dice, ends, len);
    with_header(dice, ends, &upper)
}

/// What the kernel hands out as one packet, with what it says about it.
pub(super) fn from_tun(dice: &mut Dice, ends: &Ends, recent: &mut Vec<Vec<u8>>) -> (Vec<u8>, Offload) {
    let none = Offload::default();
    let kind = if matches!(ends.protocol, 6 | 17) { dice.below(100) } else { dice.below(124) % 100 };
    match kind {
        0..55 => (plain(dice, ends), none),
        55..68 => super_packet(dice, ends),
        68..73 => unfinished(dice, ends),
        73..81 => (fragment(dice, ends, recent), none),
        81..87 => (with_options(dice, ends), none),
        87..90 => (error(dice, ends), none),
        90..97 => {
            let (mut packet, mut offload) = match dice.below(4) {
                0 => super_packet(dice, ends),
                1 => (with_options(dice, ends), none),
                _ => (plain(dice, ends), none),
            };
            mutate(dice, &mut packet);
            if dice.one_in(8) {
                offload.segment = dice.number() as u16;
                offload.checksum_start = dice.below(100) as u16;
                offload.checksum_offset = dice.below(40) as u16;
                offload.kind = dice.pick(&[
                    Segmentation::None,
                    Segmentation::Tcp,
                    Segmentation::Udp,
                    Segmentation::Unknown,
                ]);
                offload.needs_checksum = dice.one_in(2);
            }
            (without_syn(packet, &offload), offload)
        }
        _ => (random(dice), none),
    }
}

/// No kernel cuts a SYN into segments: what its options mean then is nowhere said.
fn without_syn(mut packet: Vec<u8>, offload: &Offload) -> Vec<u8> {
    let upper = super::packet::parse(&packet).map(|parsed| parsed.upper);
    if let (Segmentation::Tcp, Some(upper)) = (offload.kind, upper)
        && let Some(flags) = packet.get_mut(upper + 13)
    {
        *flags &= !2;
    }
    packet
}

pub(super) fn random(dice: &mut Dice) -> Vec<u8> {
    let len = dice.below(100);
    let mut packet = dice.noise(len).to_vec();
    if let [first, _, high, low, v6_high, v6_low, ..] = &mut packet[..]
        && !dice.one_in(4)
    {
        *first = dice.pick(&[0x45, 0x46, 0x60, 0x4f, 0x6f]);
        let fields = if *first >> 4 == 4 { (high, low) } else { (v6_high, v6_low) };
        (*fields.0, *fields.1) = (0, dice.below(len) as u8);
    }
    packet
}

/// Some octets altered, most of them near the beginning; or more or fewer of them.
pub(super) fn mutate(dice: &mut Dice, packet: &mut Vec<u8>) {
    for _ in 0..=dice.below(3) {
        if packet.is_empty() {
            return;
        }
        let end = if dice.one_in(4) { packet.len() } else { packet.len().min(48) };
        match dice.below(10) {
            0 => packet.truncate(dice.below(packet.len())),
            1 => {
                let more = dice.below(20);
                packet.extend(dice.noise(more));
            }
            2..6 => packet[dice.below(end)] ^= 1 << dice.below(8),
            _ => packet[dice.below(end)] = dice.pick(&[0, 1, 4, 6, 17, 44, 60, 0xff, dice_octet(end)]),
        }
    }
}

fn dice_octet(end: usize) -> u8 {
    (end as u8).wrapping_mul(37)
}

fn super_packet(dice: &mut Dice, ends: &Ends) -> (Vec<u8>, Offload) {
    let protocol = if matches!(ends.protocol, 6 | 17) { ends.protocol } else { dice.pick(&[6, 6, 17]) };
    let ends = Ends { protocol, ..*ends };
    let tcp = ends.protocol == 6;
    let segment = match dice.below(8) {
        0 => 1 + dice.below(40),
        1 => 600 + dice.below(900),
        _ => 20 + dice.below(100),
    };
    let segments = 1 + dice.below(12);
    let len = (segment * segments + dice.below(segment)).min(60_000);
    let message = upper(dice, &ends, len);
    let mut packet = with_header(dice, &ends, &message);
    let upper = packet.len() - message.len();
    let offload = Offload {
        needs_checksum: true,
        kind: if tcp { Segmentation::Tcp } else { Segmentation::Udp },
        segment: segment as u16,
        checksum_start: upper as u16,
        checksum_offset: if tcp { 16 } else { 6 },
    };
    // Whatever is there.
    put(&mut packet, upper + usize::from(offload.checksum_offset), dice.number() as u16);
    (without_syn(packet, &offload), offload)
}

/// One whose checksum the sender has left to the card.
fn unfinished(dice: &mut Dice, ends: &Ends) -> (Vec<u8>, Offload) {
    let ends = Ends { protocol: dice.pick(&[6, 17]), ..*ends };
    let len = dice.len();
    let mut message = upper(dice, &ends, len);
    let place = if ends.protocol == 6 { 16 } else { 6 };
    let length = (message.len() as u32).to_be_bytes();
    let addresses = [octets_of(ends.source), octets_of(ends.destination)].concat();
    let pseudo = !checksum(&[&addresses, &length, &[0, ends.protocol]]);
    put(&mut message, place, pseudo);
    let packet = with_header(dice, &ends, &message);
    let offload = Offload {
        needs_checksum: true,
        checksum_start: (packet.len() - message.len()) as u16,
        checksum_offset: place as u16,
        ..Offload::default()
    };
    (packet, offload)
}

/// One part of a packet; the others come later, perhaps.
fn fragment(dice: &mut Dice, ends: &Ends, recent: &mut Vec<Vec<u8>>) -> Vec<u8> {
    if !recent.is_empty() && !dice.one_in(3) {
        return recent.swap_remove(dice.below(recent.len()));
    }
    let large = dice.one_in(6);
    let len = dice.below(if large { 4000 } else { 200 });
    let message = upper(dice, ends, len);
    let size = 8 * (1 + dice.below(if large { 200 } else { 8 }));
    let id = dice.below(6) as u16;
    let mut all: Vec<Vec<u8>> = Vec::new();
    for (index, part) in message.chunks(size).enumerate() {
        let field = (index * size) as u16;
        let more = (index + 1) * size < message.len();
        let mut packet;
        if ends.source.is_ipv4() {
            packet = with_header(dice, ends, part);
            put(&mut packet, 4, id);
            put(&mut packet, 6, (field / 8) | if more { 0x2000 } else { 0 });
            fix_v4(&mut packet);
        } else {
            let header =
                [ends.protocol, 0, (field >> 8) as u8, field as u8 | u8::from(more), 0, 0, 0, id as u8];
            let ends = Ends { protocol: 44, ..*ends };
            packet = with_header(dice, &ends, &[&header, part].concat());
        }
        all.push(packet);
    }
    let first = all.remove(0);
    recent.extend(all.into_iter().take(4));
    recent.truncate(12);
    first
}

/// IPv4 options, or IPv6 extension headers.
fn with_options(dice: &mut Dice, ends: &Ends) -> Vec<u8> {
    let len = dice.len().min(60_000);
    let message = upper(dice, ends, len);
    if ends.source.is_ipv4() {
        let mut packet = with_header(dice, ends, &message);
        let options: &[u8] = dice.pick(&[
            &[0x94, 4, 0, 0][..],
            &[1, 1, 7, 7, 4, 0, 0, 0, 0, 1, 1, 0],
            &[0x83, 7, 4, 10, 9, 9, 9, 1, 0x94, 4, 0, 0],
            &[0, 0, 0, 0],
            &[0x82, 1, 0, 0],
            &[7, 30, 4, 0],
        ]);
        packet.splice(20..20, options.iter().copied());
        packet[0] += (options.len() / 4) as u8;
        let total = packet.len() as u16;
        put(&mut packet, 2, total);
        fix_v4(&mut packet);
        return packet;
    }
    let mut headers = Vec::new();
    let kinds: Vec<u8> =
        (0..1 + dice.below(10).min(dice.below(10))).map(|_| dice.pick(&[0, 43, 60, 44, 51])).collect();
    for at in 0..kinds.len() {
        let next = kinds.get(at + 1).copied().unwrap_or(ends.protocol);
        match kinds[at] {
            44 => headers.extend([next, 0, 0, 0, 0, 0, 0, 9]),
            _ => {
                let more = dice.below(2);
                headers.extend([next, more as u8]);
                headers.extend(dice.noise(6 + 8 * more));
            }
        }
    }
    let ends = Ends { protocol: kinds[0], ..*ends };
    with_header(dice, &ends, &[headers, message].concat())
}

/// An ICMP error about a packet that came from where it goes.
fn error(dice: &mut Dice, ends: &Ends) -> Vec<u8> {
    let back = Ends { source: ends.destination, destination: ends.source, ..*ends };
    let mut quoted = if dice.one_in(4) { with_options(dice, &back) } else { plain(dice, &back) };
    quoted.truncate(if dice.one_in(3) { dice.below(70) } else { 548 });
    let v4 = ends.source.is_ipv4();
    let kind = if v4 { dice.pick(&[3, 11, 12, 4, 5]) } else { dice.pick(&[1, 2, 3, 4]) };
    let mut message = vec![kind, dice.pick(&[0, 1, 4]), 0, 0, 0, 0, 2, 0];
    message.extend(quoted);
    let protocol = if v4 { 1 } else { 58 };
    let value =
        if v4 { checksum(&[&message]) } else { pseudo_checksum(ends.source, ends.destination, 58, &message) };
    put(&mut message, 2, value);
    with_header(dice, &Ends { protocol, ..*ends }, &message)
}

/// Packets as a peer's host sends them: alone, or segments of a stream one after another.
pub(super) fn from_peer(
    dice: &mut Dice,
    ends: &Ends,
    count: usize,
    recent: &mut Vec<Vec<u8>>,
) -> Vec<Vec<u8>> {
    if matches!(ends.protocol, 6 | 17) && dice.one_in(2) {
        let (packet, offload) = super_packet(dice, ends);
        if let Some(mut packets) = super::packet::cut(&packet, &offload) {
            packets.truncate(count.max(2));
            return packets;
        }
    }
    let one = |_| match dice.below(100) {
        0..74 => plain(dice, ends),
        74..80 => fragment(dice, ends, recent),
        80..86 => with_options(dice, ends),
        86..90 => error(dice, ends),
        90..97 => {
            let mut packet = plain(dice, ends);
            mutate(dice, &mut packet);
            packet
        }
        _ => random(dice),
    };
    (0..count).map(one).collect()
}
