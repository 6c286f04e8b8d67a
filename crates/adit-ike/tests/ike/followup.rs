//! Additional key exchanges of Child SAs (RFC 9370 2.2.4): IKE_FOLLOWUP_KE, done, lost, forgotten, forged, in collision.

use std::time::Duration;

use adit_crypto::KeyExchangeSecret;
use adit_ike::config::{Fragmentation, Lifetime};
use adit_ike::{OutcomeCode, TerminateTarget, proposal};
use adit_wire::ikev2::{
    ExchangeType, IkeSpi, KeId, KeyExchange, Nonce, Notify, NotifyType, Payload, SecurityAssociation,
    TrafficSelectors,
};

use crate::hand::{Hand, prf};
use crate::pair::{
    A, B, DELAY, Fate, Packet, Pair, Peer, Side, child, header, ip, net, notifies, open, seal, sides,
};

const ESP: &str = "aes256gcm16-x25519-ke1_mlkem768-ke2_ecp256-noesn";

/// A second child on both sides, with these proposals.
fn with_second(esp: &str) -> (Side, Side) {
    let (mut a, mut b) = sides();
    for (side, local, remote) in
        [(&mut a, "10.3.0.0/16", "10.4.0.0/16"), (&mut b, "10.4.0.0/16", "10.3.0.0/16")]
    {
        let mut second = child("second", local, remote);
        second.proposals = proposal::parse_esp(esp).unwrap();
        side.connection().children.push(second);
        side.connection().fragmentation = Fragmentation::No;
    }
    (a, b)
}

/// One child on both sides with these proposals, rekeyed by these sides after a minute.
fn rekeyed_by(esp: &str, by: [bool; 2]) -> (Side, Side) {
    let (mut a, mut b) = sides();
    for (side, rekeys) in [(&mut a, by[0]), (&mut b, by[1])] {
        let child = &mut side.connection().children[0];
        child.proposals = proposal::parse_esp(esp).unwrap();
        if rekeys {
            child.limits.time = Lifetime {
                soft: Duration::from_secs(60),
                hard: Duration::from_secs(300),
                jitter: Duration::ZERO,
            };
        }
        side.connection().fragmentation = Fragmentation::No;
    }
    (a, b)
}

fn of(pair: &Pair, exchange: ExchangeType) -> usize {
    pair.sent.iter().filter(|p| p.is(exchange, false)).count()
}

#[test]
fn a_child_comes_to_be_with_the_last_exchange() {
    let mut pair = Pair::new(with_second(ESP));
    let request = pair.up();
    pair.settle();
    assert_eq!(pair.a.done[&request], Ok(()), "{:?}", pair.a.records);
    pair.assert_children(2);
    assert_eq!(
        pair.trace()[4..],
        [
            "CREATE_CHILD_SA -> 2",
            "CREATE_CHILD_SA <- 2",
            "IKE_FOLLOWUP_KE -> 3",
            "IKE_FOLLOWUP_KE <- 3",
            "IKE_FOLLOWUP_KE -> 4",
            "IKE_FOLLOWUP_KE <- 4",
        ]
    );
    for peer in [&pair.a, &pair.b] {
        let second = peer.gateway.ike_sas().next().unwrap().children.into_iter().find(|c| c.name == "second");
        assert_eq!(second.unwrap().additional_kes, [KeId::ML_KEM_768, KeId::ECP_256]);
        assert_eq!(peer.events.iter().filter(|e| *e == "child-up second").count(), 1);
    }
    // Each response but the last says by which the next request is known, and never twice the same.
    let links: Vec<Option<Vec<u8>>> = pair.sent[4..].iter().map(|p| link(&pair.open(p))).collect();
    let [None, Some(one), Some(again), Some(two), Some(twice), None] = &links[..] else {
        panic!("{links:?}");
    };
    assert_eq!((one, two), (again, twice));
    assert_ne!(one, two);
    assert!(one.len() >= 16);
}

fn link(payloads: &[Payload]) -> Option<Vec<u8>> {
    payloads.iter().find_map(|p| match p {
        Payload::Notify(n) if n.notify_type == NotifyType::ADDITIONAL_KEY_EXCHANGE => Some(n.data.clone()),
        _ => None,
    })
}

#[test]
fn lost_and_repeated_messages() {
    for lost in 4..10 {
        let mut pair = Pair::new(with_second(ESP));
        pair.link = Box::new(move |n, _| if n == lost { Fate::Lose } else { Fate::Repeat });
        let request = pair.up();
        pair.run(Duration::from_secs(10));
        assert_eq!(pair.a.done.get(&request), Some(&Ok(())), "{lost}");
        pair.assert_children(2);
    }
}

#[test]
fn either_side_rekeys() {
    for by in [[true, false], [false, true]] {
        let mut pair = Pair::established(rekeyed_by(ESP, by));
        pair.run(Duration::from_secs(200));
        pair.assert_children(1);
        assert_eq!(of(&pair, ExchangeType::CREATE_CHILD_SA), 3);
        assert_eq!(of(&pair, ExchangeType::IKE_FOLLOWUP_KE), 6);
        for peer in [&pair.a, &pair.b] {
            assert_eq!(peer.events.iter().filter(|e| e.starts_with("child-rekeyed net")).count(), 3);
            assert!(!peer.events.iter().any(|e| e.starts_with("child-down")), "{:?}", peer.events);
        }
    }
}

/// An initiator made by hand that is authenticated and asks for children.
struct Asker {
    hand: Hand,
    shared: Vec<Vec<u8>>,
    ni: Vec<u8>,
    nr: Vec<u8>,
    link: Option<Vec<u8>>,
}

impl Asker {
    fn new(timeout: u64) -> Self {
        let (_, mut b) = with_second(ESP);
        b.settings.followup_timeout = Duration::from_secs(timeout);
        let mut hand = Hand::new(b, "aes256gcm16-prfsha384-x25519", &[]).ok().unwrap();
        let request = hand.auth_request();
        assert!(hand.authenticate(&request));
        hand.assert_child();
        Self { hand, shared: Vec::new(), ni: Vec::new(), nr: Vec::new(), link: None }
    }

    /// CREATE_CHILD_SA for the second child.
    fn create(&mut self, nonce: u8) {
        let secret = KeyExchangeSecret::generate(KeId::CURVE_25519, &mut self.hand.entropy).unwrap();
        let mut proposals = proposal::parse_esp(ESP).unwrap();
        proposals[0].spi = vec![0xc0, 0xff, 0xef, nonce];
        self.ni = vec![nonce; 32];
        let request = [
            Payload::SecurityAssociation(SecurityAssociation { proposals }),
            Payload::Nonce(Nonce(self.ni.clone())),
            ke(KeId::CURVE_25519, secret.public().to_vec()),
            Payload::TrafficSelectorsInitiator(TrafficSelectors::new(vec![net("10.3.0.0/16")])),
            Payload::TrafficSelectorsResponder(TrafficSelectors::new(vec![net("10.4.0.0/16")])),
        ];
        let answer = self.hand.exchange(ExchangeType::CREATE_CHILD_SA, &request).expect("answered");
        self.nr = answer
            .iter()
            .find_map(|p| if let Payload::Nonce(n) = p { Some(n.0.clone()) } else { None })
            .unwrap();
        self.shared = vec![agreed(secret, &answer)];
        self.link = link(&answer);
    }

    fn follow_up(&mut self, method: KeId) {
        let secret = KeyExchangeSecret::generate(method, &mut self.hand.entropy).unwrap();
        let link_payload = link_of(&self.link.take().unwrap());
        let request = [ke(method, secret.public().to_vec()), link_payload];
        let answer = self.hand.exchange(ExchangeType::IKE_FOLLOWUP_KE, &request).expect("answered");
        self.shared.push(agreed(secret, &answer));
        self.link = link(&answer);
    }

    /// The notifies of the answer to an IKE_FOLLOWUP_KE of these payloads.
    fn refused(&mut self, payloads: &[Payload]) -> Vec<NotifyType> {
        notifies(&self.hand.exchange(ExchangeType::IKE_FOLLOWUP_KE, payloads).expect("answered"))
    }

    fn children(&self) -> usize {
        self.hand.pair.b.installed.len()
    }
}

fn ke(method: KeId, data: Vec<u8>) -> Payload {
    Payload::KeyExchange(KeyExchange { method, data })
}

fn link_of(link: &[u8]) -> Payload {
    Payload::Notify(Notify::new(NotifyType::ADDITIONAL_KEY_EXCHANGE, link.to_vec()))
}

fn agreed(secret: KeyExchangeSecret, answer: &[Payload]) -> Vec<u8> {
    let theirs = answer.iter().find_map(|p| if let Payload::KeyExchange(ke) = p { Some(ke) } else { None });
    secret.agree(&theirs.unwrap().data).unwrap().expose().to_vec()
}

/// KEYMAT = prf+ (SK_d, SK(0) | Ni | Nr | SK(1) | SK(2)), computed outside of the machine.
#[test]
fn the_formula_of_rfc_9370() {
    let mut asker = Asker::new(15);
    asker.create(1);
    asker.follow_up(KeId::ML_KEM_768);
    assert_eq!(asker.children(), 1, "not before the last one");
    asker.follow_up(KeId::ECP_256);
    assert_eq!((asker.link.is_none(), asker.children()), (true, 2));
    let [first, second, third] = &asker.shared[..] else { panic!("three secrets") };
    let seed = [first, &asker.ni, &asker.nr, second, third].map(Vec::as_slice).concat();
    let [ours, theirs] = asker.hand.keymat(&seed);
    let made = asker.hand.pair.b.installed.values().find(|c| c.child == "second").unwrap();
    assert!(made.inbound_keys.encr.ct_eq(&ours));
    assert!(made.outbound_keys.encr.ct_eq(&theirs));
}

/// RFC 9370 T6: whatever does not name the series is told so, and harms neither it nor the IKE SA.
#[test]
fn links_that_are_none() {
    let mut asker = Asker::new(15);
    let exchange = ke(KeId::CURVE_25519, vec![9; 32]);
    assert_eq!(
        asker.refused(&[exchange.clone(), link_of(&[1; 16])]),
        [NotifyType::STATE_NOT_FOUND],
        "no series"
    );
    asker.create(1);
    let stale = asker.link.clone().unwrap();
    let mut altered = stale.clone();
    altered[15] ^= 1;
    for wrong in [vec![], altered, stale[..15].to_vec(), [&stale[..], &[0]].concat()] {
        assert_eq!(asker.refused(&[exchange.clone(), link_of(&wrong)]), [NotifyType::STATE_NOT_FOUND]);
    }
    assert_eq!(asker.refused(std::slice::from_ref(&exchange)), [NotifyType::STATE_NOT_FOUND]);
    // Another series: the one before is forgotten.
    asker.create(2);
    assert_eq!(asker.refused(&[exchange.clone(), link_of(&stale)]), [NotifyType::STATE_NOT_FOUND]);
    asker.follow_up(KeId::ML_KEM_768);
    let last = asker.link.clone().unwrap();
    asker.follow_up(KeId::ECP_256);
    assert_eq!(asker.refused(&[exchange, link_of(&last)]), [NotifyType::STATE_NOT_FOUND], "it is done");
    assert_eq!(asker.children(), 2);
}

/// RFC 9370 T5: a wrong public value ends the IKE SA, as in CREATE_CHILD_SA.
#[test]
fn wrong_requests_are_refused() {
    for (payload, why) in [
        (None, "lacks the KE payload"),
        (Some(ke(KeId::ECP_256, vec![4; 64])), "it does ecp256"),
        (Some(ke(KeId::ML_KEM_768, vec![0; 1183])), "length"),
        (Some(ke(KeId::ML_KEM_768, vec![0xff; 1184])), "not an encapsulation key"),
    ] {
        let mut asker = Asker::new(15);
        asker.create(1);
        let link = link_of(&asker.link.take().unwrap());
        let request: Vec<Payload> = payload.into_iter().chain([link]).collect();
        assert_eq!(asker.refused(&request), [NotifyType::INVALID_SYNTAX], "{why}");
        let b = &asker.hand.pair.b;
        assert!(b.failure().message.contains(why), "{}", b.failure().message);
        assert_eq!(b.gateway.ike_sas().count(), 0);
    }
}

/// RFC 9370 T7: half-done SAs are forgotten in time; the IKE SA stays.
#[test]
fn a_half_done_child_is_forgotten() {
    let mut asker = Asker::new(7);
    asker.create(1);
    asker.hand.pair.run(Duration::from_secs(6));
    asker.follow_up(KeId::ML_KEM_768);
    asker.hand.pair.run(Duration::from_secs(8));
    let link = link_of(&asker.link.take().unwrap());
    let late = [ke(KeId::ECP_256, vec![4; 64]), link];
    assert_eq!(asker.refused(&late), [NotifyType::STATE_NOT_FOUND]);
    let codes = asker.hand.pair.b.codes();
    assert!(codes.iter().all(|c| *c == OutcomeCode::Success), "that is nobody's failure: {codes:?}");
    asker.create(2);
    asker.follow_up(KeId::ML_KEM_768);
    asker.follow_up(KeId::ECP_256);
    assert_eq!(asker.children(), 2);
}

/// The initiator starts over when the responder has forgotten; when that happens again and again, the IKE SA goes.
#[test]
fn a_forgotten_child_is_asked_for_again() {
    for times in [1, 2, 5] {
        let (a, mut b) = with_second(ESP);
        b.settings.followup_timeout = Duration::from_secs(1);
        let mut pair = Pair::new((a, b));
        // What goes to the responder comes too late that often.
        let mut left = times;
        let mut held = 0;
        pair.link = Box::new(move |_, p| {
            if !p.is(ExchangeType::IKE_FOLLOWUP_KE, false) || left == 0 {
                return Fate::Deliver;
            }
            held += 1;
            if held < 3 {
                return Fate::Lose;
            }
            (left, held) = (left - 1, 0);
            Fate::Deliver
        });
        let request = pair.up();
        pair.run(Duration::from_secs(100));
        let up = pair.a.done[&request].is_ok();
        assert_eq!(up, times < 3, "{times}: {:?}", pair.a.done);
        if up {
            pair.assert_children(2);
        } else {
            pair.assert_nothing();
        }
    }
}

/// draft-ietf-ipsecme-ikev2-mlkem: after a ciphertext of the wrong length the initiator deletes the IKE SA.
#[test]
fn a_wrong_ciphertext_ends_the_ike_sa() {
    for (payloads, why) in [
        (vec![ke(KeId::ML_KEM_768, vec![0; 1087]), link_of(&[1; 16])], "length"),
        (vec![ke(KeId::ML_KEM_768, vec![0; 1088])], "fewer key exchanges"),
        (vec![link_of(&[1; 16])], "lacks the KE payload"),
    ] {
        let mut pair = Pair::new(with_second(ESP));
        pair.link =
            Box::new(
                |_, p| if p.is(ExchangeType::IKE_FOLLOWUP_KE, true) { Fate::Lose } else { Fate::Deliver },
            );
        let request = pair.up();
        pair.settle();
        let genuine = pair.sent.last().unwrap().clone();
        let keys = pair.b.keys.last().unwrap();
        let h = header(keys, ExchangeType::IKE_FOLLOWUP_KE, false, true, 3);
        let datagram = seal(keys, &h, &payloads, 1 << 40);
        pair.link = Box::new(|_, _| Fate::Deliver);
        pair.deliver(&Packet { datagram, ..genuine });
        pair.settle();
        assert!(pair.a.done[&request].as_ref().unwrap_err().contains(why), "{:?}", pair.a.done);
        pair.run(Duration::from_secs(20));
        pair.assert_nothing();
    }
}

/// RFC 9370 2.2.4: who asks for a successor while ours is half-done is put off.
#[test]
fn a_rekeying_that_is_past_create_child_sa_wins() {
    let mut pair = Pair::established(rekeyed_by(ESP, [true, false]));
    pair.link =
        Box::new(|_, p| if p.is(ExchangeType::IKE_FOLLOWUP_KE, false) { Fate::Lose } else { Fate::Deliver });
    pair.run(Duration::from_secs(61));
    assert_eq!(of(&pair, ExchangeType::IKE_FOLLOWUP_KE), 2);
    let keys = pair.b.keys.pop().unwrap();
    let spi = pair.b.installed.values().next().unwrap().inbound_spi;
    let mut proposals = proposal::parse_esp(ESP).unwrap();
    proposals[0].spi = vec![0xc0, 0xff, 0xee, 1];
    let secret =
        KeyExchangeSecret::generate(KeId::CURVE_25519, &mut adit_crypto::testing::SeededEntropy::new(5))
            .unwrap();
    let request = [
        Payload::Notify(Notify {
            protocol: adit_wire::ikev2::ProtocolId::ESP,
            spi: spi.0.to_be_bytes().to_vec(),
            ..Notify::new(NotifyType::REKEY_SA, Vec::new())
        }),
        Payload::SecurityAssociation(SecurityAssociation { proposals }),
        Payload::Nonce(Nonce(vec![7; 32])),
        ke(KeId::CURVE_25519, secret.public().to_vec()),
        Payload::TrafficSelectorsInitiator(TrafficSelectors::new(vec![net("10.2.0.0/16")])),
        Payload::TrafficSelectorsResponder(TrafficSelectors::new(vec![net("10.1.0.0/16")])),
    ];
    let h = header(&keys, ExchangeType::CREATE_CHILD_SA, false, false, 0);
    let datagram = seal(&keys, &h, &request, 1 << 40);
    let from_b = pair.sent.iter().find(|p| p.is(ExchangeType::IKE_AUTH, true)).unwrap().clone();
    let before = pair.sent.len();
    pair.deliver(&Packet { datagram, ..from_b });
    assert_eq!(notifies(&open(&keys, &pair.sent[before])), [NotifyType::TEMPORARY_FAILURE]);
    pair.link = Box::new(|_, _| Fate::Deliver);
    pair.run(Duration::from_secs(30));
    pair.assert_children(1);
}

/// RFC 9370 T8: both sides replace the child at once, whatever is lost: one successor stays, and nobody calls it a
/// failure.
#[test]
fn collisions() {
    let mut winners = [0, 0];
    for seed in 1..12 {
        for lost in [None].into_iter().chain((4..18).map(Some)) {
            let (mut a, b) = rekeyed_by(ESP, [true, true]);
            // `b` has the child a moment earlier.
            a.connection().children[0].limits.time.soft -= DELAY;
            let mut pair = Pair::seeded((a, b), seed);
            pair.link = Box::new(move |n, _| if Some(n) == lost { Fate::Lose } else { Fate::Deliver });
            pair.up();
            pair.run(Duration::from_secs(110));
            let sent = |exchange: ExchangeType, from: &str| {
                pair.sent.iter().filter(|p| p.is(exchange, false) && p.source.ip() == ip(from)).count()
            };
            let context = format!("{seed} {lost:?} {:?}", pair.trace());
            assert!([A, B].iter().all(|from| sent(ExchangeType::CREATE_CHILD_SA, from) > 0), "{context}");
            // RFC 9370 2.2.4: the loser just stops.
            let follow = [A, B].map(|from| sent(ExchangeType::IKE_FOLLOWUP_KE, from));
            if lost.is_none() {
                assert!(matches!(follow, [2, 0] | [0, 2]), "{context}");
                winners[usize::from(follow[0] == 0)] += 1;
            }
            pair.assert_children(1);
            for peer in [&pair.a, &pair.b] {
                let codes = peer.codes();
                assert!(codes.iter().all(|c| *c == OutcomeCode::Success), "{context} {codes:?}");
                assert!(
                    !peer.events.iter().any(|e| e.starts_with("child-down")),
                    "{context} {:?}",
                    peer.events
                );
                let rekeyed = peer.events.iter().filter(|e| e.starts_with("child-rekeyed")).count();
                assert_eq!(rekeyed, 1, "{context} {:?}", peer.events);
                assert!(peer.retired.is_empty());
            }
        }
    }
    assert!(winners.iter().all(|n| *n > 0), "{winners:?}");
}

/// Both sides with these IKE proposals, the IKE SA rekeyed by these sides after a minute.
fn ike_rekeyed_by(proposals: &str, by: [bool; 2]) -> (Side, Side) {
    let (mut a, mut b) = sides();
    for (side, rekeys) in [(&mut a, by[0]), (&mut b, by[1])] {
        let connection = side.connection();
        connection.proposals = proposal::parse_ike(proposals).unwrap();
        connection.fragmentation = Fragmentation::No;
        if rekeys {
            connection.rekey = Lifetime {
                soft: Duration::from_secs(60),
                hard: Duration::from_secs(300),
                jitter: Duration::ZERO,
            };
        }
    }
    (a, b)
}

const IKE: &str = "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke2_ecp256";

/// Both sides have one IKE SA, the same, and it works.
fn assert_one_ike_sa(pair: &mut Pair, context: &str) {
    let spis = |peer: &Peer| {
        let sas: Vec<_> = peer.gateway.ike_sas().map(|sa| (sa.initiator_spi, sa.responder_spi)).collect();
        assert_eq!(sas.len(), 1, "{context} {:?}", peer.events);
        sas[0]
    };
    assert_eq!(spis(&pair.a), spis(&pair.b), "{context}");
    pair.assert_children(1);
    let request = pair.down(&TerminateTarget { child: Some("net".to_owned()), ..TerminateTarget::default() });
    pair.run(Duration::from_secs(30));
    assert_eq!(pair.a.done.get(&request), Some(&Ok(())), "{context}");
    pair.assert_children(0);
}

#[test]
fn the_ike_sa_is_replaced_with_the_last_exchange() {
    for by in [[true, false], [false, true]] {
        let mut pair = Pair::established(ike_rekeyed_by(IKE, by));
        let children: Vec<_> = pair.a.installed.keys().copied().collect();
        pair.run(Duration::from_secs(65));
        assert_eq!(of(&pair, ExchangeType::CREATE_CHILD_SA), 1);
        assert_eq!(of(&pair, ExchangeType::IKE_FOLLOWUP_KE), 2);
        for peer in [&pair.a, &pair.b] {
            assert_eq!(peer.events.iter().filter(|e| e.starts_with("ike-rekeyed")).count(), 1);
            let sa = peer.gateway.ike_sas().next().unwrap();
            assert_eq!(sa.additional_kes, [KeId::ML_KEM_768, KeId::ECP_256]);
        }
        assert_eq!(pair.a.installed.keys().copied().collect::<Vec<_>>(), children, "they do not notice");
        pair.run(Duration::from_secs(200));
        assert_eq!(of(&pair, ExchangeType::CREATE_CHILD_SA), 4, "and so on");
        assert_one_ike_sa(&mut pair, "");
    }
}

/// What is not agreed on again is gone: the list tells of the IKE SA as it is.
#[test]
fn the_list_follows_the_ike_sa() {
    let (a, mut b) = ike_rekeyed_by(&format!("{IKE}, aes256gcm16-prfsha384-x25519"), [true, false]);
    b.connection().proposals = proposal::parse_ike(&format!("aes256gcm16-prfsha384-x25519, {IKE}")).unwrap();
    let mut pair = Pair::established((a, b));
    pair.run(Duration::from_secs(65));
    assert!(pair.a.gateway.ike_sas().next().unwrap().additional_kes.is_empty());
    assert_one_ike_sa(&mut pair, "");
}

#[test]
fn the_ike_sa_is_replaced_whatever_is_lost() {
    for lost in 8..18 {
        for by in [[true, false], [false, true]] {
            let mut pair = Pair::new(ike_rekeyed_by(IKE, by));
            pair.link = Box::new(move |n, _| if n == lost { Fate::Lose } else { Fate::Repeat });
            pair.up();
            pair.run(Duration::from_secs(100));
            for peer in [&pair.a, &pair.b] {
                let rekeyed = peer.events.iter().filter(|e| e.starts_with("ike-rekeyed")).count();
                assert_eq!(rekeyed, 1, "{lost} {by:?} {:?}", peer.events);
            }
            assert_one_ike_sa(&mut pair, &format!("{lost} {by:?}"));
        }
    }
}

/// RFC 9370 T8 for the IKE SA.
#[test]
fn collisions_of_ike_sas() {
    let mut winners = [0, 0];
    for seed in 1..12 {
        for lost in [None].into_iter().chain((8..20).map(Some)) {
            let (mut a, b) = ike_rekeyed_by(IKE, [true, true]);
            // `b` knows of the IKE SA a moment earlier.
            a.connection().rekey.soft -= DELAY;
            let mut pair = Pair::seeded((a, b), seed);
            pair.link = Box::new(move |n, _| if Some(n) == lost { Fate::Lose } else { Fate::Deliver });
            pair.up();
            pair.run(Duration::from_secs(110));
            let sent = |exchange: ExchangeType, from: &str| {
                pair.sent.iter().filter(|p| p.is(exchange, false) && p.source.ip() == ip(from)).count()
            };
            let context = format!("{seed} {lost:?} {:?}", pair.trace());
            assert!([A, B].iter().all(|from| sent(ExchangeType::CREATE_CHILD_SA, from) > 0), "{context}");
            if lost.is_none() {
                let follow = [A, B].map(|from| sent(ExchangeType::IKE_FOLLOWUP_KE, from));
                assert!(matches!(follow, [2, 0] | [0, 2]), "{context}");
                winners[usize::from(follow[0] == 0)] += 1;
            }
            for peer in [&pair.a, &pair.b] {
                let rekeyed = peer.events.iter().filter(|e| e.starts_with("ike-rekeyed")).count();
                assert_eq!(rekeyed, 1, "{context} {:?}", peer.events);
                assert!(
                    peer.codes().iter().all(|c| *c == OutcomeCode::Success),
                    "{context} {:?}",
                    peer.codes()
                );
            }
            assert_one_ike_sa(&mut pair, &context);
        }
    }
    assert!(winners.iter().all(|n| *n > 0), "{winners:?}");
}

/// SKEYSEED = prf (SK_d, SK(0) | Ni | Nr | SK(1) | SK(2)), computed outside of the machine: the new IKE SA takes what is
/// sealed with the keys of it.
#[test]
fn the_formula_of_rfc_9370_for_the_ike_sa() {
    let (_, mut b) = sides();
    b.connection().proposals = proposal::parse_ike(&format!("aes256gcm16-prfsha384-x25519, {IKE}")).unwrap();
    let hand = Hand::new(b, "aes256gcm16-prfsha384-x25519", &[]).ok().unwrap();
    let mut asker = Asker { hand, shared: Vec::new(), ni: vec![5; 32], nr: Vec::new(), link: None };
    let request = asker.hand.auth_request();
    assert!(asker.hand.authenticate(&request));
    let secret = KeyExchangeSecret::generate(KeId::CURVE_25519, &mut asker.hand.entropy).unwrap();
    let mut proposals = proposal::parse_ike(IKE).unwrap();
    proposals[0].spi = vec![0x77; 8];
    let request = [
        Payload::SecurityAssociation(SecurityAssociation { proposals }),
        Payload::Nonce(Nonce(asker.ni.clone())),
        ke(KeId::CURVE_25519, secret.public().to_vec()),
    ];
    let answer = asker.hand.exchange(ExchangeType::CREATE_CHILD_SA, &request).expect("answered");
    let spi_r = answer.iter().find_map(|p| match p {
        Payload::SecurityAssociation(sa) => Some(sa.proposals[0].spi.clone()),
        _ => None,
    });
    asker.nr =
        answer.iter().find_map(|p| if let Payload::Nonce(n) = p { Some(n.0.clone()) } else { None }).unwrap();
    asker.shared = vec![agreed(secret, &answer)];
    asker.link = link(&answer);
    asker.follow_up(KeId::ML_KEM_768);
    asker.follow_up(KeId::ECP_256);
    let [first, second, third] = &asker.shared[..] else { panic!("three secrets") };
    let seed = [first, &asker.ni, &asker.nr, second, third].map(Vec::as_slice).concat();
    let skeyseed = prf(&asker.hand.sk_d, &[&seed]);
    asker.hand.replace(&skeyseed, (IkeSpi(0x7777_7777_7777_7777), spi_r.unwrap()), (&asker.ni, &asker.nr));
    let answer = asker.hand.exchange(ExchangeType::INFORMATIONAL, &[]).expect("answered under the new keys");
    assert!(answer.is_empty());
}
