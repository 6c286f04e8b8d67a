//! Two ends of an SA, every suite, with 32-bit and with extended sequence numbers.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::HashSet;
use std::net::IpAddr;

use adit_crypto::Secret;
use adit_esp::fuzzing::{parameters, suites};
use adit_esp::tunnel::{Ecn, Encapsulation};
use adit_esp::{Drop, Error, InboundSa, Opened, OutboundSa, ReplayWindow, SaParameters, SealError};
use adit_wire::esp::EspHeader;
use adit_wire::ikev2::{EncrId, IntegId, TrafficSelector};
use adit_wire::ip;
use proptest::prelude::*;

const UDP: u8 = 17;
const WINDOW: u64 = 64;
const SUBSPACE: u64 = 1 << 32;

/// Every suite with and without ESN.
fn all() -> impl Iterator<Item = (String, Keyed)> {
    assert!(suites().count() >= 7);
    suites().flat_map(|(name, transforms)| {
        [false, true].map(|esn| {
            let transforms = adit_crypto::EspTransforms { esn, ..transforms };
            (format!("{name} esn {esn}"), Keyed { transforms })
        })
    })
}

/// A suite with the keys that the fuzz target has too.
#[derive(Clone, Copy)]
struct Keyed {
    transforms: adit_crypto::EspTransforms,
}

impl Keyed {
    /// The sender, whose next packet carries `next`. Its two sides are the receiver's swapped.
    fn sender(&self, next: u64) -> OutboundSa {
        let theirs = parameters(self.transforms);
        let ours = SaParameters { local_ts: theirs.remote_ts, remote_ts: theirs.local_ts, ..theirs };
        OutboundSa::resume(ours, next - 1).unwrap()
    }

    fn receiver(&self) -> InboundSa {
        InboundSa::new(parameters(self.transforms)).unwrap()
    }

    /// The packet with this sequence number, carrying `inner`.
    fn seal(&self, sequence: u64, inner: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.sender(sequence).seal(inner, &mut out).unwrap();
        out
    }

    fn esn(&self) -> bool {
        self.transforms.esn
    }
}

/// A packet of the peer's network to ours, of `len` bytes.
fn v4(len: usize) -> Vec<u8> {
    inner("10.2.0.7", "10.1.0.9", len - 20)
}

fn v6(len: usize) -> Vec<u8> {
    inner("fd02::7", "fd01::9", len - 40)
}

fn inner(source: &str, destination: &str, payload: usize) -> Vec<u8> {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let payload: Vec<u8> = (0..payload).map(|i| i as u8).collect();
    ip::packet(address(source), address(destination), UDP, 64, &payload).unwrap()
}

/// Opens a copy.
fn open(sa: &mut InboundSa, packet: &[u8]) -> Result<Option<Vec<u8>>, Drop> {
    match sa.open(&mut packet.to_vec())? {
        Opened::Packet(inner) => Ok(Some(inner.to_vec())),
        Opened::Dummy => Ok(None),
        Opened::Payload(..) | Opened::Aggfrag { .. } => unreachable!("it is in tunnel mode"),
    }
}

#[test]
fn every_length_of_both_families_comes_out_as_it_went_in() {
    for (name, suite) in all() {
        let (mut sender, mut receiver) = (suite.sender(1), suite.receiver());
        let mut sent = (0, 0);
        for packet in (20..120).map(v4).chain((40..120).map(v6)).chain([v4(1400), v6(9000), v4(65535)]) {
            let mut out = Vec::new();
            sender.seal(&packet, &mut out).unwrap();
            sent = (sent.0 + 1, sent.1 + packet.len() as u64);
            assert_eq!(
                EspHeader::decode(&out).unwrap(),
                EspHeader { spi: sender.spi(), sequence: sent.0 as u32 }
            );
            assert_eq!(out.len(), sender.layout().packet_len(packet.len()), "{name}");
            assert_eq!(out.len() % 4, 0, "{name}");
            assert_eq!(open(&mut receiver, &out), Ok(Some(packet)), "{name}");
        }
        let (s, r) = (sender.counters(), receiver.counters());
        assert_eq!((s.packets, s.bytes), sent, "{name}");
        assert_eq!((r.packets, r.bytes, r.dummies, r.drops.total()), (sent.0, sent.1, 0, 0), "{name}");
    }
}

#[test]
fn a_batch_in_one_buffer_is_not_allocated_again() {
    for (name, suite) in all() {
        let (mut sender, mut receiver) = (suite.sender(1), suite.receiver());
        let mut buffer = Vec::new();
        let mut storage = None;
        for _ in 0..3 {
            buffer.clear();
            let ends: Vec<usize> = (0..10)
                .map(|n| {
                    sender.seal(&v4(1000 + n), &mut buffer).unwrap();
                    buffer.len()
                })
                .collect();
            let mut start = 0;
            for (n, end) in ends.into_iter().enumerate() {
                assert_eq!(open(&mut receiver, &buffer[start..end]), Ok(Some(v4(1000 + n))), "{name}");
                start = end;
            }
            let now = (buffer.as_ptr(), buffer.capacity());
            assert_eq!(*storage.get_or_insert(now), now, "{name}");
        }
    }
}

/// RFC 4303 2.7: whatever stood in the slot, a longer one has zeros behind the payload.
#[test]
fn a_slot_longer_than_the_payload_needs_hides_its_length() {
    for (name, suite) in all() {
        let (mut sender, mut receiver) = (suite.sender(1), suite.receiver());
        let mut elsewhere = suite.sender(1);
        let layout = sender.layout();
        for (len, padded) in [(20, 20), (20, 21), (20, 36), (61, 1400), (100, 101), (1400, 1400)] {
            let mut slot = vec![0xaa; layout.packet_len(padded)];
            slot[layout.payload_offset()..][..len].copy_from_slice(&v4(len));
            sender.seal_at(&mut slot, len, 4).unwrap();
            assert_eq!(slot.len(), layout.packet_len(padded), "{name}");
            let mut other = vec![0x55; slot.len()];
            elsewhere.seal_from(&mut other, &v4(len), 4).unwrap();
            assert_eq!(other, slot, "{name}: {len} in {padded}, from elsewhere");
            assert_eq!(open(&mut receiver, &slot), Ok(Some(v4(len))), "{name}: {len} in {padded}");
        }
        assert_eq!((sender.counters().packets, sender.counters().bytes), (6, 1621));
        assert_eq!(elsewhere.counters(), sender.counters());
    }
}

#[test]
fn a_slot_that_is_no_packet_is_not_sealed() {
    for (name, suite) in all() {
        let mut sender = suite.sender(1);
        let least = sender.layout().packet_len(50);
        for len in (0..least).chain(least + 1..least + 4) {
            let sealed = sender.seal_at(&mut vec![0x45; len], 50, 4);
            assert!(matches!(sealed, Err(SealError::Crypto(_))), "{name}: {len}");
            let sealed = sender.seal_from(&mut vec![0x45; len], &[0x45; 50], 4);
            assert!(matches!(sealed, Err(SealError::Crypto(_))), "{name}: {len}");
        }
        assert_eq!(sender.counters().packets, 0);
    }
}

#[test]
fn what_is_not_an_ip_packet_is_not_sealed_and_costs_nothing() {
    for (name, suite) in all() {
        let mut sender = suite.sender(1);
        let mut out = vec![7; 3];
        assert!(matches!(sender.seal(&[], &mut out), Err(SealError::NotIp)), "{name}");
        assert!(matches!(sender.seal(&[0x50; 40], &mut out), Err(SealError::NotIp)), "{name}");
        assert!(matches!(sender.seal(&[0x45; 65536], &mut out), Err(SealError::TooLong(65536))), "{name}");
        assert_eq!(out, [7; 3]);
        assert_eq!(sender.last_sequence(), 0);
    }
}

/// RFC 4303 3.3.3: no sequence number comes twice.
#[test]
fn the_last_sequence_number_is_the_last() {
    for (name, suite) in all() {
        let last = if suite.esn() { u64::MAX } else { u32::MAX.into() };
        let mut sender = suite.sender(last - 1);
        let mut receiver = InboundSa::resume(parameters(suite.transforms), last - 2).unwrap();
        assert!(sender.rekey_due());
        for remaining in [1, 0] {
            let mut out = Vec::new();
            sender.seal(&v4(100), &mut out).unwrap();
            assert_eq!(sender.remaining(), remaining, "{name}");
            assert_eq!(open(&mut receiver, &out), Ok(Some(v4(100))), "{name}");
        }
        let mut out = vec![1, 2, 3];
        for _ in 0..3 {
            assert!(matches!(sender.seal(&v4(100), &mut out), Err(SealError::SequenceExhausted)), "{name}");
            assert!(matches!(sender.seal_dummy(0, &mut out), Err(SealError::SequenceExhausted)), "{name}");
        }
        assert_eq!((out, sender.last_sequence()), (vec![1, 2, 3], last));
        assert_eq!(sender.counters().packets, 2);
    }
}

#[test]
fn rekeying_is_due_in_time() {
    for (name, suite) in all() {
        let limit = if suite.esn() { u64::MAX } else { u32::MAX.into() };
        assert!(!suite.sender(1).rekey_due(), "{name}");
        assert!(!suite.sender(limit - limit / 8).rekey_due(), "{name}");
        assert!(suite.sender(limit - limit / 8 + 1).rekey_due(), "{name}");
    }
}

#[test]
fn no_iv_comes_twice() {
    for (name, suite) in all() {
        let mut sender = suite.sender(SUBSPACE - 2000 * u64::from(!suite.esn()) - 1000);
        let iv_len = sender.layout().iv_len();
        let mut seen = HashSet::new();
        let mut out = Vec::new();
        for _ in 0..2000 {
            out.clear();
            sender.seal(&v4(20), &mut out).unwrap();
            assert!(iv_len == 0 || seen.insert(out[8..8 + iv_len].to_vec()), "{name}");
        }
    }
}

#[test]
fn a_duplicate_and_the_edges_of_the_window() {
    for (name, suite) in all() {
        let mut sa = suite.receiver();
        let packet = |n: u64| suite.seal(n, &v4(100));
        let top = 1000;
        assert!(open(&mut sa, &packet(top)).is_ok(), "{name}");
        assert_eq!(open(&mut sa, &packet(top)), Err(Drop::Replayed), "{name}");
        // What is below an ESN window is taken for the next subspace, and the ICV tells.
        let below = if suite.esn() { Drop::Authentication } else { Drop::TooOld };
        for late in [WINDOW + 1, WINDOW] {
            assert_eq!(open(&mut sa, &packet(top - late)), Err(below), "{name}: {late} late");
        }
        for late in [WINDOW - 1, 1] {
            assert!(open(&mut sa, &packet(top - late)).is_ok(), "{name}: {late} late");
            assert_eq!(open(&mut sa, &packet(top - late)), Err(Drop::Replayed), "{name}: {late} late");
        }
        assert_eq!(sa.window().top(), top);
        assert!(open(&mut sa, &packet(top + 1)).is_ok(), "{name}");
        assert_eq!(open(&mut sa, &packet(top + 1 - WINDOW)), Err(below), "{name}: the window has moved");
        assert_eq!(sa.counters().packets, 4);
        assert_eq!(sa.counters().drops.total(), 6);
    }
}

#[test]
fn reordering_within_the_window_loses_nothing() {
    for (name, suite) in all() {
        let mut sa = suite.receiver();
        for n in (1..=WINDOW).rev().chain((WINDOW + 1..3 * WINDOW).rev().filter(|n| *n > 2 * WINDOW)) {
            assert_eq!(open(&mut sa, &suite.seal(n, &v6(100))), Ok(Some(v6(100))), "{name}: {n}");
        }
        for n in 2 * WINDOW + 1..3 * WINDOW {
            assert_eq!(open(&mut sa, &suite.seal(n, &v6(100))), Err(Drop::Replayed), "{name}: {n}");
        }
    }
}

#[test]
fn extended_numbers_go_on_past_2_to_the_32() {
    for (name, suite) in all().filter(|(_, suite)| suite.esn()) {
        let mut sa = suite.receiver();
        let mut sequence = 1;
        // Losses of 2^31 and more at a time, through several subspaces.
        for jump in [SUBSPACE / 2, SUBSPACE / 2 + 1, SUBSPACE - WINDOW, SUBSPACE - WINDOW, 1, SUBSPACE / 2] {
            assert!(open(&mut sa, &suite.seal(sequence, &v4(50))).is_ok(), "{name}: {sequence}");
            assert_eq!(sa.window().top(), sequence);
            sequence += jump;
        }
        // Both sides of a wrap of the low half, in and out of order, and no repetition of what came before it.
        let mut sa = InboundSa::resume(parameters(suite.transforms), SUBSPACE - 10).unwrap();
        for n in [SUBSPACE - 1, SUBSPACE + 1, SUBSPACE - 2, SUBSPACE, SUBSPACE + 5] {
            let packet = suite.seal(n, &v4(50));
            assert!(open(&mut sa, &packet).is_ok(), "{name}: {n}");
            assert_eq!(open(&mut sa, &packet), Err(Drop::Replayed), "{name}: {n}");
        }
        // The same low half, a subspace earlier, is another number.
        assert_eq!(open(&mut sa, &suite.seal(7, &v4(50))), Err(Drop::Authentication), "{name}");
    }
}

#[test]
fn a_forged_high_number_does_not_move_the_window() {
    for (name, suite) in all() {
        let mut sa = suite.receiver();
        assert!(open(&mut sa, &suite.seal(1, &v4(100))).is_ok());
        for forged in [2, 1000, 1 << 31, u32::MAX - 100] {
            let mut packet = suite.seal(2, &v4(100));
            packet[4..8].copy_from_slice(&u32::to_be_bytes(forged));
            packet[20] ^= 1;
            assert_eq!(open(&mut sa, &packet), Err(Drop::Authentication), "{name}: {forged}");
            assert_eq!(sa.window().top(), 1, "{name}");
        }
        assert!(open(&mut sa, &suite.seal(2, &v4(100))).is_ok(), "{name}");
    }
}

#[test]
fn every_truncation_and_every_change_of_a_byte_is_dropped_and_harms_nothing() {
    for (name, suite) in all() {
        let mut sa = InboundSa::resume(parameters(suite.transforms), 500).unwrap();
        let (packet, next) = (suite.seal(600, &v4(37)), suite.seal(501, &v4(60)));
        let mut dropped = 0;
        let mut refused = |sa: &mut InboundSa, packet: &[u8], what: &dyn Fn() -> String| {
            let done = open(sa, packet);
            assert!(done.is_err(), "{name}: {} opened", what());
            assert_eq!(sa.window().top(), 500, "{name}: {} moved the window", what());
            dropped += 1;
        };
        for len in 0..packet.len() {
            refused(&mut sa, &packet[..len], &|| format!("cut to {len}"));
            refused(&mut sa, &packet[packet.len() - len..], &|| format!("last {len}"));
        }
        let mut long = packet.clone();
        for _ in 0..32 {
            long.push(0);
            refused(&mut sa, &long, &|| format!("{} bytes", long.len()));
        }
        // The SPI is not looked at, but it is covered by the ICV.
        for at in 0..packet.len() {
            let mut changed = packet.clone();
            for flip in 1..=u8::MAX {
                changed[at] = packet[at] ^ flip;
                refused(&mut sa, &changed, &|| format!("byte {at} ^ {flip:#x}"));
            }
        }
        assert_eq!(sa.counters().drops.total(), dropped);
        assert_eq!(open(&mut sa, &next), Ok(Some(v4(60))), "{name}");
        assert_eq!(open(&mut sa, &packet), Ok(Some(v4(37))), "{name}");
    }
}

#[test]
fn what_cannot_hold_a_trailer_or_is_not_whole_blocks_is_malformed() {
    for (name, suite) in all() {
        let mut sa = suite.receiver();
        let packet = suite.seal(1, &v4(100));
        let layout = suite.sender(1).layout();
        let least = 8 + layout.iv_len() + 2 + layout.icv_len();
        for len in 0..least {
            assert_eq!(open(&mut sa, &packet[..len]), Err(Drop::Malformed), "{name}: {len} bytes");
        }
        if suite.transforms.encr == EncrId::AES_CBC {
            for cut in (1..48).filter(|cut| cut % 16 != 0) {
                let len = packet.len() - cut;
                assert_eq!(open(&mut sa, &packet[..len]), Err(Drop::Malformed), "{name}: {cut} cut off");
            }
        }
    }
}

#[test]
fn another_key_another_suite_and_esn_on_one_side_alone_are_refused() {
    for (name, suite) in all() {
        let packet = suite.seal(5, &v4(100));
        let mut wrong_key = parameters(suite.transforms);
        wrong_key.keys.encr = Secret::new(wrong_key.keys.encr.expose().iter().map(|b| b ^ 1).collect());
        wrong_key.keys.integ = Secret::new(wrong_key.keys.integ.expose().iter().map(|b| b ^ 1).collect());
        assert_eq!(
            open(&mut InboundSa::new(wrong_key).unwrap(), &packet),
            Err(Drop::Authentication),
            "{name}"
        );

        let mut transforms = suite.transforms;
        transforms.esn = !transforms.esn;
        let mut other_esn = InboundSa::new(parameters(transforms)).unwrap();
        assert_eq!(open(&mut other_esn, &packet), Err(Drop::Authentication), "{name}");
        assert_eq!(other_esn.window().top(), 0);

        for (other_name, other) in all().filter(|(_, other)| other.transforms.encr != suite.transforms.encr) {
            assert!(open(&mut other.receiver(), &packet).is_err(), "{name} opened as {other_name}");
        }
    }
}

#[test]
fn a_packet_from_or_to_elsewhere_is_dropped() {
    for (name, suite) in all() {
        let mut sa = suite.receiver();
        let elsewhere = [
            ("10.3.0.7", "10.1.0.9"),
            ("10.2.0.7", "10.2.0.9"),
            ("10.1.0.9", "10.2.0.7"),
            ("10.2.0.7", "8.8.8.8"),
            ("fd03::7", "fd01::9"),
            ("fd02::7", "fd02::9"),
            ("fd02:0:0:1::7", "fd01::9"),
        ];
        for (n, (source, destination)) in (1..).zip(elsewhere) {
            let packet = suite.seal(n, &inner(source, destination, 20));
            assert_eq!(open(&mut sa, &packet), Err(Drop::Selector), "{name}: {source} to {destination}");
            assert_eq!(open(&mut sa, &packet), Err(Drop::Replayed), "its number is used up all the same");
        }
        assert_eq!(sa.counters().drops.count(Drop::Selector), elsewhere.len() as u64);
        assert_eq!(sa.counters().packets, 0);
    }
}

#[test]
fn port_selectors_hold_inside() {
    let (_, suite) = all().next().unwrap();
    let mut narrow = parameters(suite.transforms);
    narrow.local_ts =
        vec![TrafficSelector { protocol: UDP, start_port: 0x0203, end_port: 0x0203, ..narrow.local_ts[0] }];
    let mut sa = InboundSa::new(narrow).unwrap();
    // `inner` fills the payload with 0, 1, 2, 3: ports 0x0001 and 0x0203.
    let good = v4(60);
    assert!(open(&mut sa, &suite.seal(1, &good)).is_ok());
    let mut other_port = good.clone();
    other_port[23] = 4;
    assert_eq!(open(&mut sa, &suite.seal(2, &other_port)), Err(Drop::Selector));
    let mut later_fragment = good.clone();
    later_fragment[7] = 1;
    assert_eq!(open(&mut sa, &suite.seal(3, &later_fragment)), Err(Drop::Selector));
    let mut other_protocol = good;
    other_protocol[9] = 6;
    assert_eq!(open(&mut sa, &suite.seal(4, &other_protocol)), Err(Drop::Selector));
}

#[test]
fn a_dummy_is_nothing_and_counts_as_seen() {
    for (name, suite) in all() {
        let (mut sender, mut receiver) = (suite.sender(1), suite.receiver());
        for len in [0, 1, 100, 1400] {
            let mut out = Vec::new();
            sender.seal_dummy(len, &mut out).unwrap();
            assert_eq!(open(&mut receiver, &out), Ok(None), "{name}");
            assert_eq!(open(&mut receiver, &out), Err(Drop::Replayed), "{name}");
        }
        assert_eq!(receiver.counters().dummies, 4);
        // The key has been used for them all the same.
        assert_eq!((sender.counters().packets, sender.counters().bytes), (4, 1501));
        assert_eq!(receiver.counters().packets, 0);
    }
}

#[test]
fn congestion_on_the_way_is_told_inside_or_the_packet_dropped() {
    for (name, suite) in all() {
        let mut sa = suite.receiver();
        for (n, capable, byte) in [(1, v4(60), 1), (2, v6(60), 1)] {
            let ect = if capable[0] >> 4 == 4 { 0b10 } else { 0b10 << 4 };
            let mut packet = capable.clone();
            packet[byte] |= ect;
            let mut sealed = suite.seal(n, &packet);
            let Ok(Opened::Packet(opened)) = sa.open_marked(&mut sealed, Ecn::Ce) else { panic!("{name}") };
            let class = if opened[0] >> 4 == 4 { opened[1] } else { opened[1] >> 4 };
            assert_eq!(Ecn::from_traffic_class(class), Ecn::Ce, "{name}");

            let mut sealed = suite.seal(n + 10, &capable);
            assert_eq!(sa.open_marked(&mut sealed, Ecn::Ce), Err(Drop::Congestion), "{name}");
            let mut sealed = suite.seal(n + 20, &capable);
            assert_eq!(
                sa.open_marked(&mut sealed, Ecn::Ect0),
                Ok(Opened::Packet(&mut capable.clone())),
                "{name}"
            );
        }
    }
}

/// What [`Encapsulation::max_inner`] promises, on packets really sealed.
#[test]
fn the_longest_inner_packet_fits_and_one_byte_more_does_not() {
    for (name, suite) in all() {
        let mut sender = suite.sender(1);
        for ipv6 in [false, true] {
            for udp in [false, true] {
                for mtu in [576, 1280, 1281, 1400, 1492, 1500, 9000] {
                    let max = sender.max_inner(mtu, udp, ipv6);
                    let mut outer_len = |inner: usize| {
                        let mut out = Vec::new();
                        sender.seal(&v4(inner), &mut out).unwrap();
                        let len = Encapsulation { ipv6, udp }.header_len() + out.len();
                        assert_eq!(inner + sender.overhead(inner, udp, ipv6), len, "{name}");
                        len
                    };
                    assert!(outer_len(max) <= mtu, "{name} in {mtu}");
                    assert!(outer_len(max + 1) > mtu, "{name} in {mtu}");
                }
            }
        }
    }
}

#[test]
fn parameters_that_make_no_sense_are_refused() {
    for (name, suite) in all() {
        let windowless = || SaParameters { replay_window: 0, ..parameters(suite.transforms) };
        match InboundSa::new(windowless()) {
            Err(Error::EsnWithoutWindow) => assert!(suite.esn(), "{name}"),
            Ok(mut sa) => {
                assert!(!suite.esn(), "{name}");
                let packet = suite.seal(3, &v4(40));
                assert!(open(&mut sa, &packet).is_ok() && open(&mut sa, &packet).is_ok(), "{name}");
            }
            Err(other) => panic!("{name}: {other}"),
        }
        assert!(OutboundSa::new(windowless()).is_ok(), "{name}: the window is the receiver's");
        let wide = SaParameters { replay_window: ReplayWindow::MAX_SIZE + 1, ..parameters(suite.transforms) };
        assert!(matches!(InboundSa::new(wide), Err(Error::WindowTooLarge(_))), "{name}");

        let mut short_key = parameters(suite.transforms);
        if suite.transforms.encr != EncrId::NULL {
            short_key.keys.encr = Secret::new(vec![0; 7]);
            assert!(matches!(OutboundSa::new(short_key), Err(Error::Crypto(_))), "{name}");
        }
    }
    let (_, gcm) = suites().next().unwrap();
    let both = adit_crypto::EspTransforms { integ: Some(IntegId::HMAC_SHA2_256_128), ..gcm };
    assert!(OutboundSa::new(parameters(both)).is_err(), "combined mode and integrity");
    let (_, cbc) = suites().find(|(_, t)| t.encr == EncrId::AES_CBC).unwrap();
    let neither = adit_crypto::EspTransforms { integ: None, ..cbc };
    assert!(InboundSa::new(parameters(neither)).is_err(), "encryption without integrity");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One SA under loss, reordering, repetition and forgery hands on each packet at most once, and every genuine one that was
    /// not overtaken by a whole window.
    #[test]
    fn whatever_the_network_does(
        suite in 0_usize..suites().count() * 2,
        start in prop_oneof![Just(1_u64), Just(SUBSPACE - 100)],
        delays in prop::collection::vec((0_u64..200, 0_u8..10), 1..150),
    ) {
        let (_, suite) = all().nth(suite).unwrap();
        let start = if suite.esn() { start } else { 1 };
        // (when it arrives, its number, what the network did to it)
        let mut arrivals = Vec::new();
        for (n, (delay, fate)) in (0..).zip(delays) {
            arrivals.push((n + delay, start + n, fate));
            if fate == 1 {
                arrivals.push((n + delay / 2, start + n, 9));
            }
        }
        arrivals.sort();
        let mut sa = InboundSa::resume(parameters(suite.transforms), start - 1).unwrap();
        let (mut taken, mut top) = (HashSet::new(), start - 1);
        for (_, n, fate) in arrivals {
            let mut packet = suite.seal(n, &v4(20 + (n % 50) as usize));
            if fate == 0 {
                let last = packet.len() - 1;
                packet[last] ^= 0x80;
                prop_assert!(open(&mut sa, &packet).is_err());
            } else {
                let fresh = n + WINDOW > top && !taken.contains(&n);
                prop_assert_eq!(open(&mut sa, &packet).is_ok(), fresh, "{} after {}", n, top);
                if fresh {
                    taken.insert(n);
                    top = top.max(n);
                }
            }
            prop_assert_eq!(sa.window().top(), top);
        }
    }
}
