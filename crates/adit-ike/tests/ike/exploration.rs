//! Every exchange, as request and response, in every state there is (standards 3.3, test 19; CVE-2014-2338,
//! CVE-2019-12312, CVE-2026-78135): nothing becomes usable before authentication completes, and the real handshake
//! still completes afterwards.
//!
//! States are reached by letting so many messages of a real handshake through; the kinds of handshake here go through
//! all of them.

use adit_ike::config::{Childless, Fragmentation};
use adit_ike::{IkeKeyLog, TerminateTarget, proposal};
use adit_wire::ikev2::{
    AuthMethod, Authentication, Delete, Eap, ExchangeType, Flags, Header, IkeSpi, KeId, KeyExchange, Message,
    Nonce, Notify, NotifyType, Payload, PayloadType, ProtocolId, SecurityAssociation, Spi, Version,
};

use crate::pair::{A, B, Fate, Packet, Pair, Side, at, child, ip, notify, seal, sides};

/// All that have a number here, their neighbours, and some that have none.
const EXCHANGES: [u8; 17] = [0, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 100, 240, 255];

const MESSAGE_IDS: [u32; 6] = [0, 1, 2, 3, 4, u32::MAX];

type Kind = (&'static str, fn() -> (Side, Side));

/// The handshakes whose states are visited.
fn kinds() -> [Kind; 5] {
    fn both(change: fn(&mut Side)) -> (Side, Side) {
        let (mut a, mut b) = sides();
        change(&mut a);
        change(&mut b);
        (a, b)
    }
    [
        ("plain", sides),
        ("two additional key exchanges", || {
            both(|side| {
                side.connection().proposals =
                    proposal::parse_ike("aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke2_ecp256").unwrap();
            })
        }),
        ("in fragments", || both(|side| side.settings.fragment_size = 180)),
        ("after a cookie and another method", || {
            let (mut a, mut b) = sides();
            a.connection().proposals = proposal::parse_ike("aes256gcm16-prfsha384-x25519-ecp256").unwrap();
            b.connection().proposals = proposal::parse_ike("aes256gcm16-prfsha384-ecp256").unwrap();
            b.settings.cookie_threshold = 0;
            (a, b)
        }),
        ("without a child", || {
            both(|side| {
                side.connection().childless = Childless::Force;
                side.connection().fragmentation = Fragmentation::No;
            })
        }),
    ]
}

/// A handshake of which `stage` messages have arrived.
struct Scene {
    pair: Pair,
    request: adit_ike::RequestId,
    /// What is lost, to be delivered afterwards.
    rest: Vec<Packet>,
    iv: u64,
}

impl Scene {
    fn new(sides: (Side, Side), stage: usize) -> Self {
        let mut pair = Pair::new(sides);
        let request = pair.up();
        pair.link = Box::new(move |i, _| if i < stage { Fate::Deliver } else { Fate::Lose });
        pair.settle();
        let rest = pair.sent[stage.min(pair.sent.len())..].to_vec();
        Self { pair, request, rest, iv: 1 << 40 }
    }

    /// The message that comes next goes to the responder.
    fn next_is_for_b(&self) -> bool {
        self.rest[0].destination.ip() == ip(B)
    }

    fn is_established(&self) -> bool {
        [&self.pair.a, &self.pair.b].iter().all(|peer| peer.events.iter().any(|e| e.starts_with("ike-up")))
    }

    /// Payloads that would do harm if anybody acted on them.
    fn harmful(&self) -> Vec<Vec<Payload>> {
        let own = self.pair.a.installed.values().chain(self.pair.b.installed.values()).next();
        let esp = own.map_or(Spi(0x1234_5678), |child| child.inbound_spi);
        let mut esp_proposals = proposal::parse_esp("aes256gcm16-noesn").unwrap();
        esp_proposals[0].spi = vec![1, 2, 3, 4];
        let mut ike_proposals = proposal::parse_ike("aes256gcm16-prfsha384-x25519").unwrap();
        let first = vec![
            Payload::SecurityAssociation(SecurityAssociation { proposals: ike_proposals.clone() }),
            Payload::KeyExchange(KeyExchange { method: KeId::CURVE_25519, data: vec![9; 32] }),
            Payload::Nonce(Nonce(vec![7; 32])),
        ];
        ike_proposals[0].spi = vec![1; 8];
        let rekey_ike = vec![
            Payload::SecurityAssociation(SecurityAssociation { proposals: ike_proposals }),
            Payload::Nonce(Nonce(vec![7; 32])),
            Payload::KeyExchange(KeyExchange { method: KeId::CURVE_25519, data: vec![9; 32] }),
        ];
        let ts = |text: &str| adit_wire::ikev2::TrafficSelectors::new(vec![crate::pair::net(text)]);
        let one_child = vec![
            Payload::SecurityAssociation(SecurityAssociation { proposals: esp_proposals }),
            Payload::Nonce(Nonce(vec![7; 32])),
            Payload::TrafficSelectorsInitiator(ts("10.1.0.0/16")),
            Payload::TrafficSelectorsResponder(ts("10.2.0.0/16")),
        ];
        let identity = |name: &str| {
            let data = name.as_bytes().to_vec();
            adit_wire::ikev2::Identification::new(adit_wire::ikev2::IdType::FQDN, data)
        };
        let authentication = |method, data| Payload::Authentication(Authentication { method, data });
        let with_auth = |extra: Vec<Payload>| {
            let mut payloads = one_child.clone();
            payloads.push(Payload::IdInitiator(identity("a.example")));
            payloads.push(Payload::IdResponder(identity("b.example")));
            payloads.extend(extra);
            payloads
        };
        let rekey = Payload::Notify(Notify {
            protocol: ProtocolId::ESP,
            spi: esp.0.to_be_bytes().to_vec(),
            ..Notify::new(NotifyType::REKEY_SA, Vec::new())
        });
        vec![
            Vec::new(),
            one_child.clone(),
            [vec![rekey], one_child.clone()].concat(),
            first,
            rekey_ike,
            with_auth(Vec::new()),
            with_auth(vec![authentication(AuthMethod::SHARED_KEY, vec![0; 48])]),
            with_auth(vec![authentication(AuthMethod::NULL, vec![0; 48])]),
            with_auth(vec![Payload::Eap(Eap { code: 3, identifier: 1, data: Vec::new() })]),
            vec![
                Payload::KeyExchange(KeyExchange { method: KeId::CURVE_25519, data: vec![9; 32] }),
                Payload::Notify(Notify::new(NotifyType::ADDITIONAL_KEY_EXCHANGE, vec![1])),
            ],
            vec![Payload::Delete(Delete { protocol: ProtocolId::IKE, spis: Vec::new() })],
            vec![Payload::Delete(Delete { protocol: ProtocolId::ESP, spis: vec![esp; 100] })],
            vec![notify(NotifyType::AUTHENTICATION_FAILED)],
            vec![notify(NotifyType::INITIAL_CONTACT)],
            vec![notify(NotifyType::INVALID_IKE_SPI), notify(NotifyType::INVALID_SYNTAX)],
        ]
    }

    fn header(&self, to_b: bool, exchange: u8, response: bool, message_id: u32) -> Header {
        let first = self.pair.sent[0].header();
        let last = self.pair.sent.last().unwrap().header();
        let responder_spi = if last.responder_spi == IkeSpi::ZERO { IkeSpi(77) } else { last.responder_spi };
        Header {
            initiator_spi: first.initiator_spi,
            responder_spi,
            next_payload: PayloadType::NONE,
            version: Version::IKEV2,
            exchange: ExchangeType(exchange),
            flags: Flags { initiator: to_b, version: false, response },
            message_id,
            length: 0,
        }
    }

    fn deliver(&mut self, to_b: bool, datagram: Vec<u8>) {
        let (source, destination) = if to_b { (at(A, 500), at(B, 500)) } else { (at(B, 500), at(A, 500)) };
        self.pair.deliver(&Packet { source, destination, datagram });
    }

    /// The keys that `b`, or `a`, has by now; the last ones are those in use.
    fn keys(&self, b: bool) -> &[IkeKeyLog] {
        if b { &self.pair.b.keys } else { &self.pair.a.keys }
    }

    /// One message in the clear, one under keys that nobody has, and, sealed as the peer would, one under each of the
    /// right keys, if `right`.
    fn say(&mut self, to_b: bool, h: &Header, payloads: &[Payload], right: bool) {
        self.iv += 1;
        let mut datagrams = vec![Message::encode(h, payloads)];
        for (n, keys) in self.keys(to_b).iter().enumerate() {
            let wrong = IkeKeyLog {
                sk_ei: keys.sk_ei.iter().map(|o| o ^ 1).collect(),
                sk_er: keys.sk_ei.clone(),
                sk_ai: keys.sk_ai.clone(),
                sk_ar: keys.sk_ar.clone(),
                ..*keys
            };
            datagrams.push(seal(&wrong, h, payloads, self.iv));
            // Keys of before the last additional key exchange are wrong ones by now.
            if right || n + 1 < self.keys(to_b).len() {
                datagrams.push(seal(keys, h, payloads, self.iv));
            }
        }
        for datagram in datagrams {
            self.deliver(to_b, datagram);
        }
    }

    fn assert_unusable(&self, what: &str) {
        // Whoever has the last message of the handshake is right to believe in it.
        for peer in [&self.pair.a, &self.pair.b] {
            let authentic = peer.events.iter().any(|e| e.starts_with("ike-up"));
            assert!(authentic || peer.installed.is_empty(), "{what}: a child without authentication");
            assert!(!peer.events.iter().any(|e| e.starts_with("child-up")) || authentic, "{what}");
        }
    }
}

/// How many messages a handshake has.
fn messages(sides: (Side, Side)) -> usize {
    let scene = Scene::new(sides, usize::MAX);
    assert!(scene.is_established());
    scene.pair.sent.len()
}

#[test]
fn adversarial_19_every_exchange_in_every_state() {
    let mut said = 0;
    for (kind, sides) in kinds() {
        let all = messages(sides());
        for stage in 0..all {
            let mut scene = Scene::new(sides(), stage);
            if scene.rest[0].header().exchange == ExchangeType::CREATE_CHILD_SA {
                // Both are authentic by now.
                continue;
            }
            let (b_is_next, next) = (scene.next_is_for_b(), scene.rest[0].header());
            // What a side awaits is not to be said by somebody else with the right keys.
            let awaited = |to_b| match (to_b == b_is_next, next.flags.response) {
                (true, response) => (response, next.message_id),
                (false, false) => (true, next.message_id),
                (false, true) => (false, next.message_id + 1),
            };
            let up = [&scene.pair.a, &scene.pair.b].map(|p| p.events.iter().any(|e| e.starts_with("ike-up")));
            let authentic = |to_b| up[usize::from(to_b)];
            let before = (scene.pair.a.events.clone(), scene.pair.b.events.clone());
            for to_b in [true, false] {
                for payloads in scene.harmful() {
                    for exchange in EXCHANGES {
                        for response in [false, true] {
                            for message_id in MESSAGE_IDS {
                                let h = scene.header(to_b, exchange, response, message_id);
                                // A first message in the clear is anybody's: what forged ones can do is test 27.
                                let first = exchange == ExchangeType::IKE_SA_INIT.0 && message_id == 0;
                                if first && (response || to_b) {
                                    continue;
                                }
                                // Whoever is established may ask whether we live, if INVALID_IKE_SPI made it doubt.
                                let right =
                                    awaited(to_b) != (response, message_id) && !(response && authentic(to_b));
                                scene.say(to_b, &h, &payloads, right);
                                said += 1;
                            }
                        }
                    }
                }
            }
            let what = format!("{kind}, {stage} messages");
            scene.assert_unusable(&what);
            let after = (scene.pair.a.events.clone(), scene.pair.b.events.clone());
            assert_eq!(before, after, "{what}: nothing has happened");
            // And now the real ones.
            scene.pair.link = Box::new(|_, _| Fate::Deliver);
            for packet in std::mem::take(&mut scene.rest) {
                scene.pair.deliver(&packet);
            }
            scene.pair.settle();
            assert_eq!(scene.pair.a.done.get(&scene.request), Some(&Ok(())), "{what}");
            scene.pair.assert_children(1);
        }
    }
    println!("{said} messages, each in the clear and under all keys");
}

/// Whoever has the keys of IKE_SA_INIT, and no more, can end the handshake it is part of; it gets nothing.
#[test]
fn adversarial_19_the_awaited_exchange_with_other_contents() {
    let mut tried = 0;
    for (kind, sides) in kinds() {
        for stage in 1..messages(sides()) {
            let scene = Scene::new(sides(), stage);
            let (to_b, next) = (scene.next_is_for_b(), scene.rest[0].header());
            if ![ExchangeType::IKE_INTERMEDIATE, ExchangeType::IKE_AUTH].contains(&next.exchange) {
                continue;
            }
            for payloads in scene.harmful() {
                for exchange in EXCHANGES {
                    let mut scene = Scene::new(sides(), stage);
                    let h = scene.header(to_b, exchange, next.flags.response, next.message_id);
                    scene.iv += 1;
                    let datagram = seal(scene.keys(to_b).last().unwrap(), &h, &payloads, scene.iv);
                    scene.deliver(to_b, datagram);
                    tried += 1;
                    let peer = if to_b { &scene.pair.b } else { &scene.pair.a };
                    let what = format!("{kind}, {stage} messages, exchange {exchange}: {payloads:?}");
                    assert!(peer.installed.is_empty(), "{what}");
                    assert!(
                        !peer.events.iter().any(|e| e.starts_with("ike-up") || e.starts_with("child")),
                        "{what}"
                    );
                    // Another exchange than the awaited one does not even end it.
                    if exchange != next.exchange.0 {
                        scene.pair.link = Box::new(|_, _| Fate::Deliver);
                        for packet in std::mem::take(&mut scene.rest) {
                            scene.pair.deliver(&packet);
                        }
                        scene.pair.settle();
                        assert_eq!(scene.pair.a.done.get(&scene.request), Some(&Ok(())), "{what}");
                    }
                }
            }
        }
    }
    println!("{tried} handshakes");
}

/// What an established IKE SA is doing when the messages come.
type Busy = fn(&mut Pair);

/// After authentication: nothing in the clear or under wrong keys changes anything, and of what an authentic peer says
/// only CREATE_CHILD_SA, IKE_FOLLOWUP_KE and INFORMATIONAL, whatever is outstanding.
#[test]
fn adversarial_19_every_exchange_after_authentication() {
    let two = || {
        let (mut a, mut b) = sides();
        a.connection().children.push(child("more", "10.11.0.0/16", "10.12.0.0/16"));
        b.connection().children.push(child("more", "10.12.0.0/16", "10.11.0.0/16"));
        (a, b)
    };
    let busy: [(&str, Busy); 5] = [
        ("idle", |_| {}),
        ("a creates", |pair| {
            pair.up_child("more");
        }),
        ("a deletes a child", |pair| {
            pair.down(&TerminateTarget { child: Some("net".to_owned()), ..Default::default() });
        }),
        ("a rekeys", |pair| {
            let handle = *pair.a.installed.keys().next().unwrap();
            pair.a.gateway.child_expiring(pair.now, handle);
        }),
        ("b rekeys", |pair| {
            let handle = *pair.b.installed.keys().next().unwrap();
            pair.b.gateway.child_expiring(pair.now, handle);
        }),
    ];
    for (what, busy) in busy {
        let mut pair = Pair::new(two());
        let request = pair.up_child("net");
        pair.settle();
        pair.link = Box::new(|_, _| Fate::Lose);
        let before = pair.sent.len();
        busy(&mut pair);
        pair.collect();
        let outstanding = pair.sent[before..].to_vec();
        let events = pair.a.events.len() + pair.b.events.len();
        let installed = (pair.a.installed.len(), pair.b.installed.len());
        let mut scene = Scene { pair, request, rest: Vec::new(), iv: 1 << 40 };
        for to_b in [true, false] {
            for payloads in scene.harmful() {
                for exchange in EXCHANGES {
                    let understood = [
                        ExchangeType::CREATE_CHILD_SA,
                        ExchangeType::IKE_FOLLOWUP_KE,
                        ExchangeType::INFORMATIONAL,
                    ]
                    .contains(&ExchangeType(exchange));
                    for response in [false, true] {
                        for message_id in MESSAGE_IDS {
                            let h = scene.header(to_b, exchange, response, message_id);
                            if exchange == ExchangeType::IKE_SA_INIT.0 && message_id == 0 && to_b && !response
                            {
                                continue;
                            }
                            scene.say(to_b, &h, &payloads, !understood);
                        }
                    }
                }
            }
        }
        let mut pair = scene.pair;
        assert_eq!(pair.a.events.len() + pair.b.events.len(), events, "{what}: nothing has happened");
        assert_eq!((pair.a.installed.len(), pair.b.installed.len()), installed, "{what}");
        // What was outstanding goes on as if nothing had been.
        pair.link = Box::new(|_, _| Fate::Deliver);
        for packet in &outstanding {
            pair.deliver(packet);
        }
        pair.settle();
        pair.run(std::time::Duration::from_secs(60));
        let wanted = if what == "a creates" { 2 } else { usize::from(what != "a deletes a child") };
        pair.assert_children(wanted);
    }
}
