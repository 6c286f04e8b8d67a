//! IKE fragments (RFC 7383): agreed on or not, lost, repeated, reordered, cut anew, forged, and too many.

use std::time::Duration;

use adit_ike::IkeKeyLog;
use adit_ike::config::Fragmentation;
use adit_wire::ikev2::{
    ExchangeType, Fragment, Header, Message, Notify, NotifyType, Payload, PayloadType, SkLayout,
};

use crate::pair::{Fate, Packet, Pair, Side, header, notify, protection, sides};

/// Both sides send no larger IP datagrams than this once they may send fragments.
fn narrow(octets: u16) -> (Side, Side) {
    let (mut a, mut b) = sides();
    a.settings.fragment_size = octets;
    b.settings.fragment_size = octets;
    (a, b)
}

fn fragment_of(packet: &Packet) -> Option<Fragment> {
    Message::decode(&packet.datagram).ok()?.encrypted?.fragment
}

/// How many fragments the first IKE_AUTH request and response have; 0 is an Encrypted payload.
fn auth_fragments(pair: &Pair) -> [u16; 2] {
    [false, true].map(|response| {
        let first = pair.sent.iter().find(|p| p.is(ExchangeType::IKE_AUTH, response)).unwrap();
        fragment_of(first).map_or(0, |f| f.total)
    })
}

#[test]
fn large_messages_go_in_fragments_and_small_ones_do_not() {
    let mut pair = Pair::established(narrow(200));
    assert!(auth_fragments(&pair).iter().all(|n| *n > 1), "{:?}", auth_fragments(&pair));
    for packet in &pair.sent {
        if !packet.is(ExchangeType::IKE_SA_INIT, false) && !packet.is(ExchangeType::IKE_SA_INIT, true) {
            assert!(packet.datagram.len() + 20 + 8 <= 200, "the whole IPv4 datagram");
        }
        // RFC 7383 2.5: only the first fragment says what is inside.
        let encrypted = Message::decode(&packet.datagram).unwrap().encrypted;
        if let Some((encrypted, fragment)) = encrypted.and_then(|e| Some((e, e.fragment?))) {
            assert_eq!(encrypted.first_inner == PayloadType::NONE, fragment.number > 1);
        }
    }
    let before = pair.sent.len();
    pair.down(&adit_ike::TerminateTarget { connection: Some("to-b".to_owned()), ..Default::default() });
    pair.settle();
    assert!(pair.sent.len() > before);
    assert!(pair.sent[before..].iter().all(|p| fragment_of(p).is_none()));
    pair.assert_nothing();
    // As large as IPv6 wants it, nothing of a pre-shared key handshake is cut.
    assert_eq!(auth_fragments(&Pair::established(sides())), [0, 0]);
}

#[test]
fn both_must_want_it() {
    use Fragmentation::{Accept, No, Yes};
    for (a, b, expected) in [
        (Yes, No, [false, false]),
        (No, Yes, [false, false]),
        (Accept, Yes, [false, true]),
        (Yes, Accept, [true, false]),
        (Accept, Accept, [false, false]),
        (Yes, Yes, [true, true]),
    ] {
        let mut sides = narrow(200);
        sides.0.connection().fragmentation = a;
        sides.1.connection().fragmentation = b;
        let pair = Pair::established(sides);
        assert_eq!(auth_fragments(&pair).map(|n| n > 0), expected, "{a:?} {b:?}");
        let announced =
            |n: usize| pair.sent[n].clear_notifies().contains(&NotifyType::IKEV2_FRAGMENTATION_SUPPORTED);
        assert_eq!(announced(0), a != No);
        assert_eq!(announced(1), a != No && b != No, "unasked it is not offered");
    }
}

#[test]
fn an_unasked_notify_means_nothing() {
    let mut sides = narrow(200);
    sides.0.connection().fragmentation = Fragmentation::No;
    let mut pair = Pair::new(sides);
    pair.link = Box::new(|_, packet| {
        if !packet.is(ExchangeType::IKE_SA_INIT, true) {
            return Fate::Deliver;
        }
        let mut message = Message::decode(&packet.datagram).unwrap();
        message.payloads.push(notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED));
        let datagram = Message::encode(&message.header, &message.payloads);
        Fate::Replace(vec![Packet { datagram, ..packet.clone() }])
    });
    pair.up();
    pair.settle();
    assert_eq!(auth_fragments(&pair)[0], 0);
}

#[test]
fn adversarial_32_lost_repeated_and_reordered_fragments_arrive() {
    for seed in 1..20_usize {
        let mut pair = Pair::seeded(narrow(150), 1000 + u64::try_from(seed).unwrap());
        let mut held: Vec<Packet> = Vec::new();
        pair.link = Box::new(move |number, packet| {
            // Arithmetic in place of chance: a third is lost, a third comes twice, and all come late and backwards.
            match (number * 7 + seed * 11 + number / 5) % 3 {
                0 => return Fate::Lose,
                1 => held.push(packet.clone()),
                _ => held.extend([packet.clone(), packet.clone()]),
            }
            if held.len() < 4 {
                return Fate::Lose;
            }
            held.reverse();
            Fate::Replace(std::mem::take(&mut held))
        });
        let request = pair.up();
        pair.run(Duration::from_secs(160));
        assert_eq!(pair.a.done.get(&request), Some(&Ok(())), "{seed}: {:?}", pair.a.events);
        pair.assert_children(1);
    }
}

/// A peer with the keys of an established IKE SA that cuts as it likes; `a` is its victim.
struct Cutter {
    pair: Pair,
    /// Of the first datagram `b` sent within the IKE SA.
    keys: IkeKeyLog,
    iv: u64,
}

impl Cutter {
    fn new(sides: (Side, Side)) -> Self {
        let mut pair = Pair::established(sides);
        let keys = pair.b.keys.pop().unwrap();
        Self { pair, keys, iv: 1 << 40 }
    }

    /// The fragments of an INFORMATIONAL request of `b` whose content takes so many octets.
    fn cut(&mut self, message_id: u32, octets: usize, total: u16) -> Vec<Packet> {
        let header = header(&self.keys, ExchangeType::INFORMATIONAL, false, false, message_id);
        self.cut_as(&header, octets, total)
    }

    fn cut_as(&mut self, header: &Header, octets: usize, total: u16) -> Vec<Packet> {
        let filling = Payload::Notify(Notify::new(NotifyType(40_000), vec![7; octets]));
        let (first, content) = Message::encode_inner(&[filling]);
        let pieces = content.chunks(content.len().div_ceil(usize::from(total)));
        assert_eq!(pieces.len(), usize::from(total));
        (1..=total)
            .zip(pieces)
            .map(|(number, piece)| self.seal(header, first, Fragment { number, total }, piece))
            .collect()
    }

    fn seal(&mut self, header: &Header, first: PayloadType, fragment: Fragment, piece: &[u8]) -> Packet {
        let protection = protection(&self.keys, header.flags.initiator);
        let layout = SkLayout {
            iv_len: protection.iv_len(),
            block_len: protection.block_len(),
            icv_len: protection.icv_len(),
        };
        let draft = Message::encode_fragment(header, first, fragment, piece, layout);
        let mut datagram = draft.datagram;
        let (associated, rest) = datagram.split_at_mut(draft.iv.start);
        let (iv, rest) = rest.split_at_mut(draft.iv.len());
        let (text, icv) = rest.split_at_mut(draft.plaintext.len());
        self.iv += 1;
        protection.next_iv(self.iv, iv);
        protection.seal(iv, associated, &[], text, icv).unwrap();
        let response = !header.flags.initiator;
        let auth = self.pair.sent.iter().find(|p| p.is(ExchangeType::IKE_AUTH, response)).unwrap();
        Packet { datagram, ..auth.clone() }
    }

    /// Hands fragments in; how many responses come back.
    fn deliver(&mut self, packets: &[&Packet]) -> usize {
        let before = self.pair.sent.len();
        for packet in packets {
            self.pair.deliver(packet);
        }
        self.pair.sent.len() - before
    }
}

fn forged(packet: &Packet) -> Packet {
    let mut forged = packet.clone();
    *forged.datagram.last_mut().unwrap() ^= 1;
    forged
}

#[test]
fn adversarial_31_only_authentic_fragments_count() {
    let mut c = Cutter::new(sides());
    let (two, three) = (c.cut(0, 300, 2), c.cut(0, 300, 3));
    assert_eq!(c.deliver(&[&forged(&two[0]), &forged(&two[1]), &two[0]]), 0);
    // Nobody can make us start over who has no keys.
    assert_eq!(c.deliver(&[&forged(&three[0]), &two[0], &forged(&two[1])]), 0);
    assert_eq!(c.pair.a.gateway.counters().not_authentic, 4);
    assert_eq!(c.deliver(&[&two[1]]), 1);
}

#[test]
fn adversarial_32_smaller_pieces_start_over_and_larger_ones_are_late() {
    let mut c = Cutter::new(sides());
    let (two, three) = (c.cut(0, 300, 2), c.cut(0, 300, 3));
    assert_eq!(c.deliver(&[&two[0], &three[2], &two[1], &two[0], &three[0]]), 0);
    assert_eq!(c.deliver(&[&three[1]]), 1);
    // The next message; what is left of another one goes.
    let (one, other) = (c.cut(1, 300, 2), c.cut(2, 300, 2));
    assert_eq!(c.deliver(&[&one[1], &other[0], &one[0]]), 1);
    assert_eq!(c.deliver(&[&other[1]]), 0, "it was not expected when its first fragment came");
    assert_eq!(c.deliver(&[&other[0]]), 1);
}

/// RFC 7383 2.6.1.
#[test]
fn a_repeated_request_is_answered_on_its_first_fragment() {
    let mut c = Cutter::new(sides());
    let (two, three) = (c.cut(0, 300, 2), c.cut(0, 300, 3));
    assert_eq!(c.deliver(&[&two[1], &two[0]]), 1);
    let response = c.pair.sent.last().unwrap().clone();
    assert_eq!(c.deliver(&[&two[1], &three[1], &three[2]]), 0);
    assert_eq!(c.deliver(&[&two[0]]), 1);
    assert_eq!(c.deliver(&[&three[0]]), 1, "cut anew it is the same request");
    assert_eq!(c.pair.sent.last(), Some(&response));
    assert_eq!(c.deliver(&[&forged(&three[0]), &forged(&two[0])]), 0);
}

#[test]
fn adversarial_33_fragments_that_nobody_agreed_on_are_dropped() {
    let mut sides = sides();
    sides.0.connection().fragmentation = Fragmentation::No;
    let mut c = Cutter::new(sides);
    let two = c.cut(0, 300, 2);
    assert_eq!(c.deliver(&[&two[0], &two[1]]), 0);
    // Before there are keys, too.
    let before = c.pair.b.gateway.ike_sas().count();
    let mut packet = c.pair.sent[0].clone();
    packet.datagram = two[0].datagram.clone();
    packet.datagram[..8].fill(9);
    packet.datagram[8..16].fill(0);
    packet.datagram[18] = ExchangeType::IKE_SA_INIT.0;
    packet.datagram[19] = 0x08;
    assert_eq!(c.deliver(&[&packet]), 0);
    assert_eq!(c.pair.b.gateway.ike_sas().count(), before);
}

#[test]
fn adversarial_31_32_what_is_gathered_has_bounds() {
    let mut c = Cutter::new(sides());
    let ignored = |c: &Cutter| c.pair.a.gateway.counters().ignored;
    // More fragments than any message needs: not even decrypted.
    let header = header(&c.keys, ExchangeType::INFORMATIONAL, false, false, 0);
    let first = c.seal(&header, PayloadType::NOTIFY, Fragment { number: 1, total: u16::MAX }, &[0; 8]);
    let before = ignored(&c);
    assert_eq!(c.deliver(&[&first]), 0);
    assert_eq!(ignored(&c), before + 1);
    // Larger than a datagram without fragments could be.
    let large: Vec<Packet> = c.cut(0, 65_500, 64);
    assert_eq!(c.deliver(&large.iter().collect::<Vec<_>>()), 0);
    // Without end.
    for _ in 0..1000 {
        let begun = c.cut(0, 40_000, 60);
        assert_eq!(c.deliver(&begun[1..50].iter().collect::<Vec<_>>()), 0);
    }
    // It is given up in time, and the IKE SA is as before.
    assert!(c.pair.a.gateway.poll_timeout().is_some(), "somebody looks after it");
    c.pair.run(Duration::from_secs(31));
    assert_eq!(c.pair.a.gateway.poll_timeout(), None, "nothing is left to wait for");
    let two = c.cut(0, 300, 2);
    assert_eq!(c.deliver(&[&two[1]]), 0);
    c.pair.run(Duration::from_secs(31));
    assert_eq!(c.deliver(&[&two[0]]), 0, "the other one is forgotten");
    assert_eq!(c.deliver(&[&two[1]]), 1);
}

/// Whoever is not authenticated yet gets less room.
#[test]
fn a_stranger_has_room_for_certificates_and_no_more() {
    for (octets, answers) in [(20_000, 1), (40_000, 0)] {
        let mut pair = Pair::new(sides());
        pair.link =
            Box::new(|_, p| if p.is(ExchangeType::IKE_AUTH, false) { Fate::Lose } else { Fate::Deliver });
        pair.up();
        pair.settle();
        let keys = pair.b.keys.pop().unwrap();
        let mut c = Cutter { pair, keys, iv: 1 << 40 };
        let header = header(&c.keys, ExchangeType::IKE_AUTH, true, false, 1);
        let request = c.cut_as(&header, octets, 40);
        assert_eq!(c.deliver(&request.iter().collect::<Vec<_>>()), answers, "{octets}");
    }
}
