//! IP-TFS: payloads worked by hand, hostile peers, and sender and receiver over any line against a plain model.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use adit_esp::fuzzing::{parameters, suites};
use adit_esp::iptfs::{Receiver, ReceiverCounters, Refused, Sender};
use adit_esp::{Drop, InboundSa, Mode, Opened, OutboundSa, SaParameters};
use proptest::prelude::*;

const PLENTY: usize = 1 << 20;
const SOON: Duration = Duration::from_millis(100);

/// An IPv4 packet of `len` octets that is told from others by `id`.
fn v4(len: usize, id: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, id, 0, 0, 64, 17, 0, 0, 10, 2, 0, 7, 10, 1, 0, 9];
    packet.resize(len, id);
    packet[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    packet
}

/// An IPv6 packet of `len` octets.
fn v6(len: usize, id: u8) -> Vec<u8> {
    let mut packet = vec![id; len];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&u16::try_from(len - 40).unwrap().to_be_bytes());
    packet
}

/// A payload of these blocks.
fn payload(offset: u16, blocks: &[&[u8]]) -> Vec<u8> {
    let [high, low] = offset.to_be_bytes();
    [&[0, 0, high, low], blocks.concat().as_slice()].concat()
}

/// A receiver that expects sequence number 1, and what came out of it.
struct Line {
    receiver: Receiver,
    now: Instant,
    out: Vec<Vec<u8>>,
}

impl Line {
    fn new(window: u16) -> Self {
        Self { receiver: Receiver::new(window, SOON, 1), now: Instant::now(), out: Vec::new() }
    }

    fn take(&mut self, sequence: u64, payload: &[u8]) {
        let out = &mut self.out;
        self.receiver.receive(sequence, &mut payload.to_vec(), self.now, &mut |p| out.push(p.to_vec()));
        assert!(self.receiver.memory() <= 65 * 65_536 + 2 * 65_575);
    }

    fn wait(&mut self) {
        self.now += SOON;
        let out = &mut self.out;
        self.receiver.expire(self.now, &mut |p| out.push(p.to_vec()));
    }

    fn took(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.out)
    }

    fn counters(&self) -> ReceiverCounters {
        self.receiver.counters()
    }
}

fn filled(sender: &mut Sender, len: usize) -> Vec<u8> {
    let mut payload = vec![0xee; len];
    sender.fill(&mut payload);
    payload
}

fn offset(payload: &[u8]) -> u16 {
    u16::from_be_bytes([payload[2], payload[3]])
}

/// The example of RFC 9347, appendix A.1: payloads of 1404 octets with packets of 750, 750, 60, 240 and 3000. Worked there:
/// offsets 0, 100, 2000 and 600; in the fourth payload 600 octets of packet are followed by padding.
#[test]
fn the_example_of_the_rfc() {
    let packets = [v4(750, 1), v6(750, 2), v4(60, 3), v6(240, 4), v4(3000, 5)];
    let mut sender = Sender::new(PLENTY, true);
    for packet in &packets {
        sender.push(packet).unwrap();
    }
    let payloads: Vec<_> = (0..4).map(|_| filled(&mut sender, 1404)).collect();
    assert_eq!(payloads.iter().map(|p| offset(p)).collect::<Vec<_>>(), [0, 100, 2000, 600]);

    let stream = packets.concat();
    let blocks = payloads.iter().flat_map(|p| &p[4..]).copied().collect::<Vec<_>>();
    assert_eq!(blocks[..4800], stream);
    assert_eq!(blocks[4800..], [0; 800]);
    assert!(payloads.iter().all(|p| p[..2] == [0, 0]));
    assert_eq!(sender.waiting(), 0);

    let mut line = Line::new(0);
    for (sequence, payload) in (1..).zip(&payloads) {
        line.take(sequence, payload);
    }
    assert_eq!(line.took(), packets);
    // And what is idle afterwards: BlockOffset 0 and padding.
    assert_eq!(filled(&mut sender, 40), [0; 40]);
}

#[test]
fn what_a_payload_says_of_itself() {
    let mut sender = Sender::new(100, true);
    assert_eq!(sender.push(&v4(101, 1)), Err(Refused::Full));
    assert_eq!(sender.push(&[0; 20]), Err(Refused::NotIp));
    assert_eq!(sender.push(&v4(40, 1)[..39]), Err(Refused::NotIp));
    assert_eq!(sender.push(&[]), Err(Refused::NotIp));
    sender.push(&v4(60, 1)).unwrap();
    sender.push(&v4(40, 2)).unwrap();
    assert_eq!(sender.push(&v4(20, 3)), Err(Refused::Full));

    let mut octets = [0xee; 84];
    let filled = sender.fill(&mut octets);
    assert_eq!((filled.len, filled.packets, filled.octets), (84, 1, 60));
    let filled = sender.fill(&mut octets);
    assert_eq!((filled.len, filled.packets, filled.octets), (24, 1, 40));
    assert_eq!(offset(&octets), 20);
    assert_eq!(octets[24..], [0; 60]);
    sender.push(&v4(100, 4)).unwrap();
}

/// A part so short that it would not say how long its packet is is not sent: there is padding instead.
#[test]
fn no_part_without_its_length() {
    for room in 1..6 {
        let mut sender = Sender::new(PLENTY, true);
        sender.push(&v4(60, 1)).unwrap();
        sender.push(&v4(60, 2)).unwrap();
        let first = filled(&mut sender, 64 + room);
        assert_eq!(first[64..], [0; 5][..room]);
        assert_eq!(offset(&filled(&mut sender, 64)), 0);
    }
}

#[test]
fn a_peer_that_takes_no_fragments() {
    let mut sender = Sender::new(PLENTY, false);
    for packet in [v4(60, 1), v4(60, 2), v4(101, 3), v4(100, 4)] {
        sender.push(&packet).unwrap();
    }
    let mut line = Line::new(0);
    let mut unfit = 0;
    for sequence in 1..=4 {
        let mut octets = vec![0; 104];
        unfit += sender.fill(&mut octets).unfit;
        assert_eq!(offset(&octets), 0);
        line.take(sequence, &octets);
    }
    assert_eq!(line.took(), [v4(60, 1), v4(60, 2), v4(100, 4)]);
    assert_eq!((unfit, sender.waiting()), (1, 0));
}

/// On the successor of an SA the packet of which a part has left begins anew: each arrives once.
#[test]
fn no_packet_is_divided_between_two_sas() {
    let mut sender = Sender::new(PLENTY, true);
    sender.push(&v4(50, 1)).unwrap();
    sender.push(&v4(100, 2)).unwrap();
    let (mut old, mut new) = (Line::new(3), Line::new(3));
    old.take(1, &filled(&mut sender, 84));
    let left = sender.take();
    assert_eq!((left.len(), sender.waiting()), (1, 0));
    let mut sender = Sender::new(PLENTY, true);
    sender.push(&left[0]).unwrap();
    new.take(1, &filled(&mut sender, 84));
    new.take(2, &filled(&mut sender, 84));
    assert_eq!((old.took(), new.took()), (vec![v4(50, 1)], vec![v4(100, 2)]));
}

/// Every place where a header can be divided, for both versions, also with padding alone between the parts, which may stand
/// there (RFC 9347 2.2.3).
#[test]
fn a_packet_divided_anywhere() {
    for packet in [v4(60, 1), v6(60, 2)] {
        for at in 1..60 {
            for padding in [false, true] {
                let mut line = Line::new(3);
                line.take(1, &payload(0, &[&packet[..at]]));
                let mut next = 2;
                if padding {
                    line.take(2, &payload(0, &[&[0; 30]]));
                    line.take(3, &payload(0, &[]));
                    next = 4;
                }
                line.take(next, &payload(60 - at as u16, &[&packet[at..], &v4(20, 9)]));
                assert_eq!(line.took(), [packet.clone(), v4(20, 9)], "at {at}");
            }
        }
        // In single octets: BlockOffset counts down.
        let mut line = Line::new(3);
        for at in 0..60 {
            let left = if at == 0 { 0 } else { 60 - at as u16 };
            line.take(at as u64 + 1, &payload(left, &[&packet[at..=at]]));
        }
        assert_eq!(line.took(), [packet]);
    }
}

/// The packet in three payloads, and one before and after it.
fn three_parts() -> ([Vec<u8>; 3], [Vec<u8>; 3]) {
    let packets = [v4(40, 1), v4(200, 2), v4(40, 3)];
    let long = &packets[1];
    let payloads = [
        payload(0, &[&packets[0], &long[..50]]),
        payload(150, &[&long[50..130]]),
        payload(70, &[&long[130..], &packets[2]]),
    ];
    (packets, payloads)
}

/// Adversarial 62, a missing middle fragment: the packet is dropped and the next one found by BlockOffset; likewise for the
/// first and the last.
#[test]
fn adversarial_62_missing_fragments() {
    let (packets, payloads) = three_parts();
    for (missing, expected) in [(0, vec![2]), (1, vec![0, 2]), (2, vec![0])] {
        for window in [0, 3] {
            let mut line = Line::new(window);
            for (sequence, payload) in (1..).zip(&payloads) {
                if sequence != missing + 1 {
                    line.take(sequence, payload);
                }
            }
            line.take(4, &payload(0, &[&v4(30, 9)]));
            line.wait();
            let mut expected: Vec<_> = expected.iter().map(|at| packets[*at as usize].clone()).collect();
            expected.push(v4(30, 9));
            assert_eq!(line.took(), expected, "missing {missing}, window {window}");
            assert_eq!(line.counters().lost, 1);
        }
    }
}

/// Adversarial 62, the reorder window: what it holds is put in order, what is beyond it is lost, and it holds no more than
/// it has places for.
#[test]
fn adversarial_62_reorder_window_overflow() {
    let packets: Vec<_> = (1..=20).map(|id| v4(40, id)).collect();
    let payloads: Vec<_> = packets.iter().map(|p| payload(0, &[p])).collect();
    for window in 0..=5_u16 {
        for behind in 1..=6_u64 {
            // The second payload comes after `behind` others.
            let mut line = Line::new(window);
            line.take(1, &payloads[0]);
            for at in 0..behind {
                line.take(3 + at, &payloads[2 + at as usize]);
                assert_eq!(line.out.len() == 1, at < u64::from(window), "window {window}, after {at}");
            }
            line.take(2, &payloads[1]);
            let in_time = behind <= u64::from(window);
            let expected: Vec<_> = (1..=behind + 2)
                .filter(|id| in_time || *id != 2)
                .map(|id| packets[id as usize - 1].clone())
                .collect();
            assert_eq!(line.took(), expected, "window {window}, behind {behind}");
            assert_eq!(line.counters().late, u64::from(!in_time));
            assert_eq!(line.counters().lost, u64::from(!in_time));
        }
    }
    // A flood of the newest, each far beyond: of each only the last few are kept.
    let mut line = Line::new(64);
    for n in 1..1000 {
        line.take(n * 1000, &payload(0, &[&[0xff; 60_000]]));
        line.take(n * 1000 + 7, &payload(0, &[&[0xff; 60_000]]));
    }
    assert!(line.receiver.memory() <= 65 * 65_536);
    line.take(u64::MAX, &payloads[0]);
    line.wait();
    assert_eq!(line.took(), [packets[0].clone()]);
}

/// What waits for a payload that does not come waits for the drop time and no longer.
#[test]
fn a_missing_payload_is_given_up_in_time() {
    let mut line = Line::new(3);
    assert_eq!(line.receiver.deadline(), None);
    line.take(2, &payload(0, &[&v4(40, 2)]));
    assert_eq!(line.receiver.deadline(), Some(line.now + SOON));
    line.now += SOON / 2;
    line.take(4, &payload(0, &[&v4(40, 4)]));
    assert_eq!(line.receiver.deadline(), Some(line.now + SOON / 2), "the first that waits counts");
    line.now += SOON / 2 - Duration::from_millis(1);
    line.receiver.expire(line.now, &mut |_| panic!("too early"));
    line.now += Duration::from_millis(1);
    let out = &mut line.out;
    line.receiver.expire(line.now, &mut |p| out.push(p.to_vec()));
    assert_eq!(line.took(), [v4(40, 2)]);
    assert_eq!(line.receiver.deadline(), Some(line.now + SOON), "number 3 has its own time");
    line.wait();
    assert_eq!((line.took(), line.receiver.deadline()), (vec![v4(40, 4)], None));
    assert_eq!(line.counters().lost, 2);
}

/// After anything at all the receiver reads the next payload from its BlockOffset.
fn resyncs(line: &mut Line, sequence: u64) {
    line.took();
    line.take(sequence, &payload(8, &[&[0xff; 8], &v4(33, 7), &v6(44, 8)]));
    assert_eq!(line.took(), [v4(33, 7), v6(44, 8)]);
}

/// Adversarial 62, a block offset that points outside the payload or disagrees with the packet.
#[test]
fn adversarial_62_block_offset_outside() {
    let packet = v4(60, 1);
    for offset in [21, 39, 41, 100, 0xfff0, 0xffff] {
        let mut line = Line::new(0);
        line.take(1, &payload(0, &[&packet[..20]]));
        line.take(2, &payload(offset, &[&packet[20..], &v4(20, 2)]));
        assert!(!line.took().contains(&packet), "offset {offset}");
        assert_eq!(line.counters().incomplete, 1);
        resyncs(&mut line, 3);
    }
    // Without anything to continue.
    let mut line = Line::new(0);
    line.take(1, &payload(0xffff, &[&packet]));
    assert_eq!(line.took(), Vec::<Vec<u8>>::new());
    resyncs(&mut line, 2);
    // BlockOffset 0 and a packet, while another is to be continued.
    line.take(3, &payload(0, &[&packet[..20]]));
    line.take(4, &payload(0, &[&v4(40, 3)]));
    assert_eq!(line.took(), [v4(40, 3)]);
    resyncs(&mut line, 5);
}

/// Adversarial 62, a continuation that starts over and over, and one that never comes to an end: nothing grows, and nothing
/// comes out that is not whole.
#[test]
fn adversarial_62_cyclic_and_never_ending() {
    let mut line = Line::new(3);
    let packet = v4(60_000, 1);
    line.take(1, &payload(0, &[&packet[..1000]]));
    for n in 0..200 {
        // The same part again, each time with the same offset: the second one disagrees with the length.
        line.take(2 + n, &payload(59_000, &[&packet[1000..2000]]));
    }
    assert_eq!(line.counters().incomplete, 1);
    resyncs(&mut line, 202);

    // As much more to come after each part as before it, or no octets at all.
    for part in [&packet[..0], &packet[..1], &packet[..1000]] {
        let mut line = Line::new(3);
        line.take(1, &payload(0, &[&packet[..3]]));
        for n in 0..200 {
            line.take(2 + n, &payload(0xffff, &[part]));
            assert!(line.receiver.memory() <= 2 * 65_575);
        }
        assert_eq!(line.took(), Vec::<Vec<u8>>::new());
        resyncs(&mut line, 202);
    }
}

/// Adversarial 62, padding: to the end whatever it holds, and no packet is made of it.
#[test]
fn adversarial_62_pad() {
    let mut line = Line::new(3);
    line.take(1, &payload(0, &[&v4(30, 1), &[0], &v4(30, 2)]));
    line.take(2, &payload(0, &[&[0x0f; 70_000]]));
    assert_eq!(line.took(), [v4(30, 1)]);
    // A packet that ends where padding begins, which a continuation then claims to go on.
    line.take(3, &payload(0, &[&v4(30, 3)[..20]]));
    line.take(4, &payload(10, &[&v4(30, 3)[20..], &[0; 9]]));
    line.take(5, &payload(10, &[&[0; 10], &v4(25, 4)]));
    assert_eq!(line.took(), [v4(30, 3), v4(25, 4)]);
    resyncs(&mut line, 6);
}

/// Adversarial 62, garbage where a packet should begin, lengths below the header's, unknown sub-types, payloads that are cut.
#[test]
fn adversarial_62_inner_garbage() {
    for first in (0x10..=0xff_u8).filter(|first| !matches!(first >> 4, 4 | 6)).chain(0x40..0x45) {
        let mut line = Line::new(3);
        line.take(1, &payload(0, &[&v4(30, 1), &[first; 100], &v4(30, 2)]));
        assert_eq!(line.took(), [v4(30, 1)], "{first:#x}");
        assert_eq!(line.counters().invalid, 1);
        resyncs(&mut line, 2);
    }
    for (header, total) in [(0x45, 0), (0x45, 19), (0x4f, 59)] {
        let mut short = vec![0; 80];
        short[0] = header;
        short[3] = total;
        let mut line = Line::new(3);
        line.take(1, &payload(0, &[&short]));
        // The same, seen only once the second part is there.
        line.take(2, &payload(0, &[&short[..1]]));
        line.take(3, &payload(79, &[&short[1..]]));
        assert_eq!(line.took(), Vec::<Vec<u8>>::new());
        resyncs(&mut line, 4);
    }
    let mut line = Line::new(3);
    for (sequence, payload) in
        (1..).zip([&[][..], &[0], &[0, 0, 0], &[2, 0, 0, 0, 0x45], &[1; 23], &[255; 60]])
    {
        line.take(sequence, payload);
    }
    assert_eq!((line.counters().malformed, line.took()), (6, vec![]));
    resyncs(&mut line, 7);
}

/// Which packets have all their octets in payloads that arrive, worked out by counting octets alone.
fn model(packets: &[Vec<u8>], room: usize, arrives: impl Fn(usize) -> bool) -> (Vec<Vec<u8>>, usize) {
    let (mut whole, mut at, mut used) = (Vec::new(), 0, 0);
    for packet in packets {
        if used == room || used > 0 && room - used < 6 && room - used < packet.len() {
            (at, used) = (at + 1, 0);
        }
        let first = at;
        let mut left = packet.len();
        while left > room - used {
            left -= room - used;
            (at, used) = (at + 1, 0);
        }
        used += left;
        if (first..=at).all(&arrives) {
            whole.push(packet.clone());
        }
    }
    (whole, at + 1)
}

fn packets() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let packet = (prop_oneof![40..60_usize, 40..1500_usize, 1000..9000_usize], any::<bool>());
    prop::collection::vec(packet, 1..30).prop_map(|packets| {
        let packet = |(id, (len, six)): (u8, (usize, bool))| if six { v6(len, id) } else { v4(len, id) };
        (0..).zip(packets).map(packet).collect()
    })
}

proptest! {
    /// Without loss everything arrives once and in order, whatever the size of payloads and wherever padding comes between.
    #[test]
    fn everything_arrives_over_a_line_without_loss(
        packets in packets(),
        sizes in prop::collection::vec(5..1500_usize, 1..10),
        pushed_at_once in 1..10_usize,
    ) {
        let mut sender = Sender::new(PLENTY, true);
        let mut line = Line::new(3);
        let mut sequence = 0;
        let mut sizes = sizes.iter().cycle();
        for packets in packets.chunks(pushed_at_once) {
            for packet in packets {
                sender.push(packet).unwrap();
            }
            sequence += 1;
            line.take(sequence, &filled(&mut sender, *sizes.next().unwrap()));
        }
        while sender.waiting() > 0 {
            sequence += 1;
            line.take(sequence, &filled(&mut sender, *sizes.next().unwrap()));
        }
        prop_assert_eq!(line.took(), packets);
        let counters = line.counters();
        prop_assert_eq!((counters.lost, counters.late, counters.invalid, counters.incomplete), (0, 0, 0, 0));
    }

    /// With loss, and with reordering within the window, exactly those packets arrive that are whole, in order.
    #[test]
    fn over_any_line_what_is_whole_arrives(
        packets in packets(),
        room in 40..1500_usize,
        lost in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        swaps in prop::collection::vec(any::<bool>(), 400),
        window in 1..5_u16,
    ) {
        let mut sender = Sender::new(PLENTY, true);
        for packet in &packets {
            sender.push(packet).unwrap();
        }
        let mut payloads = Vec::new();
        while sender.waiting() > 0 {
            payloads.push(filled(&mut sender, room + 4));
        }
        let lost: BTreeSet<usize> = lost.iter().map(|index| index.index(payloads.len())).collect();
        let (expected, used) = model(&packets, room, |at| !lost.contains(&at));
        prop_assert_eq!(used, payloads.len());

        // Neighbours that change places are never further apart than a window of 1 bears, with losses between them: two
        // that change places over a lost one are two apart.
        let mut order: Vec<usize> = (0..payloads.len()).collect();
        let mut at = 0;
        while at + 1 < order.len() {
            if swaps[at % swaps.len()] && !lost.contains(&at) && !lost.contains(&(at + 1)) {
                order.swap(at, at + 1);
                at += 1;
            }
            at += 1;
        }
        let mut line = Line::new(window);
        for at in order.into_iter().filter(|at| !lost.contains(at)) {
            line.take(at as u64 + 1, &payloads[at]);
        }
        while line.receiver.deadline().is_some() {
            line.wait();
        }
        prop_assert_eq!(line.took(), expected);
    }
}

/// Both halves of an SA in IP-TFS mode, with keys: packets arrive, of the size that was asked for; nothing else is taken, and
/// selectors hold for every packet inside.
#[test]
fn over_an_sa() {
    for (name, transforms) in suites() {
        let parameters = |mode| SaParameters { mode, ..parameters(transforms) };
        let iptfs = Mode::Iptfs { fragments: true };
        let mut outbound = OutboundSa::new(parameters(iptfs)).unwrap();
        let mut inbound = InboundSa::new(parameters(iptfs)).unwrap();
        let mut receiver = Receiver::new(3, SOON, 1);
        let mut sender = Sender::new(PLENTY, true);
        // The last one is from the peer's network to another.
        let mut foreign = v4(100, 9);
        foreign[16..20].copy_from_slice(&[10, 9, 0, 1]);
        let packets = [v4(60, 1), v4(1400, 2), v4(1000, 3), foreign];
        for packet in &packets {
            sender.push(packet).unwrap();
        }
        let (mut arrived, mut refused) = (Vec::new(), Vec::new());
        for sequence in 1..=9 {
            let mut slot = vec![0; outbound.layout().packet_len(500)];
            outbound.seal_aggfrag(&mut slot, 500, &mut sender).unwrap();
            let Ok(Opened::Aggfrag { sequence: number, payload }) = inbound.open(&mut slot) else {
                panic!("{name}");
            };
            assert_eq!((number, payload.len()), (sequence, 500));
            receiver.receive(number, payload, Instant::now(), &mut |packet| match inbound.admit(packet) {
                Ok(()) => arrived.push(packet.to_vec()),
                Err(cause) => refused.push(cause),
            });
        }
        assert_eq!(arrived, packets[..3], "{name}");
        assert_eq!(refused, [Drop::Selector]);
        assert_eq!((inbound.counters().packets, inbound.counters().bytes), (3, 2460));
        assert_eq!((outbound.counters().packets, outbound.counters().bytes), (4, 2560));

        let mut tunnel = OutboundSa::resume(parameters(Mode::Tunnel), 9).unwrap();
        for dummy in [false, true] {
            let mut packet = Vec::new();
            let sealed = if dummy {
                tunnel.seal_dummy(60, &mut packet)
            } else {
                tunnel.seal(&packets[0], &mut packet)
            };
            sealed.unwrap();
            assert_eq!(inbound.open(&mut packet), Err(Drop::NextHeader), "RFC 9347 2.3");
        }
        let mut slot = vec![0; outbound.layout().packet_len(500)];
        outbound.seal_aggfrag(&mut slot, 500, &mut sender).unwrap();
        let mut plain = InboundSa::new(parameters(Mode::Tunnel)).unwrap();
        assert_eq!(plain.open(&mut slot), Err(Drop::NextHeader), "it was not agreed to");
    }
}
