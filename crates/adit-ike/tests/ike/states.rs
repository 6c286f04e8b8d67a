//! Messages that are well made and in the wrong place (standards: CVE-2026-78135 and its kin): every exchange in every
//! state before authentication, missing and repeated payloads, reflections, forged refusals.

use std::time::Duration;

use adit_ike::{DownReason, OutcomeCode, TerminateTarget};
use adit_wire::ikev2::{
    AuthMethod, Authentication, Delete, ExchangeType, Flags, Header, IkeSpi, KeId, Message, Notify,
    NotifyType, Payload, PayloadType, ProtocolId, Spi, UnknownPayload, Version,
};

use crate::pair::{A, B, Fate, Packet, Pair, at, header, net, notifies, notify, open, seal, sides};

/// Payloads that would do harm if anybody acted on them.
fn harmful(pair: &Pair) -> Vec<Vec<Payload>> {
    let child: Vec<Payload> = pair
        .sent
        .iter()
        .find(|p| p.is(ExchangeType::IKE_AUTH, false))
        .map(|p| pair.open(p))
        .unwrap_or_default()
        .into_iter()
        .filter(|p| matches!(p.payload_type(), PayloadType::SA | PayloadType::TSI | PayloadType::TSR))
        .chain([Payload::Nonce(adit_wire::ikev2::Nonce(vec![9; 32]))])
        .collect();
    vec![
        Vec::new(),
        child,
        vec![Payload::Delete(Delete { protocol: ProtocolId::IKE, spis: Vec::new() })],
        vec![Payload::Delete(Delete { protocol: ProtocolId::ESP, spis: vec![Spi(1); 1000] })],
        vec![notify(NotifyType::AUTHENTICATION_FAILED)],
        vec![notify(NotifyType::INITIAL_CONTACT)],
        vec![notify(NotifyType::INVALID_IKE_SPI)],
        vec![notify(NotifyType::INVALID_SYNTAX)],
    ]
}

/// Delivers every exchange type, as request and response, in the clear and sealed with the right keys, except what
/// `awaited` says is what the state waits for.
pub(crate) fn everything_else(pair: &mut Pair, to_responder: bool, awaited: (ExchangeType, bool, u32)) {
    let keys = if to_responder { pair.b.keys.pop() } else { pair.a.keys.pop() };
    let first = pair.sent[0].header();
    let (source, destination) =
        if to_responder { (at(A, 500), at(B, 500)) } else { (at(B, 500), at(A, 500)) };
    let payloads = harmful(pair);
    for exchange in (0..=255).map(ExchangeType) {
        for response in [false, true] {
            for id in [0, 1, 2, 3, u32::MAX] {
                if (exchange, response, id) == awaited {
                    continue;
                }
                for (n, payloads) in payloads.iter().enumerate() {
                    let spi_r = keys.as_ref().map_or(IkeSpi(77), |k| k.responder_spi);
                    let h = Header {
                        initiator_spi: first.initiator_spi,
                        responder_spi: spi_r,
                        next_payload: PayloadType::NONE,
                        version: Version::IKEV2,
                        exchange,
                        flags: Flags { initiator: to_responder, version: false, response },
                        message_id: id,
                        length: 0,
                    };
                    let mut datagrams = vec![Message::encode(&h, payloads)];
                    if let Some(keys) = &keys {
                        let iv = 1_000_000 + u64::from(exchange.0) * 100 + n as u64;
                        datagrams.push(seal(keys, &h, payloads, iv));
                    }
                    for datagram in datagrams {
                        pair.deliver(&Packet { source, destination, datagram });
                    }
                }
            }
        }
    }
    assert!(pair.a.installed.is_empty());
    assert!(pair.a.done.is_empty(), "{:?}", pair.a.done);
}

#[test]
fn nothing_but_ike_auth_moves_a_half_open_responder() {
    let mut pair = Pair::new(sides());
    let request = pair.up();
    pair.link = Box::new(|i, _| if i == 2 { Fate::Lose } else { Fate::Deliver });
    pair.settle();
    let genuine = pair.sent[2].clone();
    pair.link = Box::new(|_, _| Fate::Lose);
    everything_else(&mut pair, true, (ExchangeType::IKE_AUTH, false, 1));
    assert!(pair.b.installed.is_empty());
    assert!(pair.b.events.is_empty(), "{:?}", pair.b.events);
    pair.link = Box::new(|_, _| Fate::Deliver);
    pair.deliver(&genuine);
    pair.settle();
    assert_eq!(pair.a.done[&request], Ok(()));
    pair.assert_children(1);
}

#[test]
fn nothing_but_ike_auth_moves_an_unauthenticated_initiator() {
    let mut pair = Pair::new(sides());
    let request = pair.up();
    pair.link = Box::new(|i, _| if i == 3 { Fate::Lose } else { Fate::Deliver });
    pair.settle();
    let genuine = pair.sent[3].clone();
    pair.link = Box::new(|_, _| Fate::Lose);
    everything_else(&mut pair, false, (ExchangeType::IKE_AUTH, true, 1));
    pair.link = Box::new(|_, _| Fate::Deliver);
    pair.deliver(&genuine);
    pair.settle();
    assert_eq!(pair.a.done[&request], Ok(()));
    pair.assert_children(1);
}

#[test]
fn nothing_but_ike_sa_init_moves_an_initiator_without_keys() {
    let mut pair = Pair::new(sides());
    let request = pair.up();
    pair.link = Box::new(|i, _| if i == 1 { Fate::Lose } else { Fate::Deliver });
    pair.settle();
    let genuine = pair.sent[1].clone();
    pair.link = Box::new(|_, _| Fate::Lose);
    everything_else(&mut pair, false, (ExchangeType::IKE_SA_INIT, true, 0));
    pair.link = Box::new(|_, _| Fate::Deliver);
    pair.deliver(&genuine);
    pair.settle();
    assert_eq!(pair.a.done[&request], Ok(()));
    pair.assert_children(1);
}

/// The same on an established IKE SA, in the clear: nothing unprotected changes it, at most the peer is asked whether
/// it lives (RFC 7296 2.21.4).
#[test]
fn nothing_in_the_clear_moves_an_established_sa() {
    let mut pair = Pair::established(sides());
    let keys = pair.a.keys.pop().unwrap();
    let payloads = harmful(&pair);
    let before = pair.sent.len();
    for to_responder in [true, false] {
        let (source, destination) =
            if to_responder { (at(A, 500), at(B, 500)) } else { (at(B, 500), at(A, 500)) };
        for exchange in (0..=255).map(ExchangeType) {
            for (response, id) in [(false, 0), (false, 2), (true, 0), (true, 1), (true, 2)] {
                for payloads in &payloads {
                    let h = header(&keys, exchange, to_responder, response, id);
                    pair.deliver(&Packet { source, destination, datagram: Message::encode(&h, payloads) });
                }
            }
        }
    }
    pair.assert_children(1);
    let caused: Vec<&Packet> = pair.sent[before..].iter().collect();
    assert!(caused.iter().all(|p| p.is(ExchangeType::INFORMATIONAL, false)), "only questions");
    assert!(caused.len() <= 2, "one each in 30 s: {}", caused.len());
    pair.settle();
    pair.run(Duration::from_secs(200));
    pair.assert_children(1);
}

/// A pair whose link lets nothing through but the first two messages, and the IKE_AUTH request that was sent.
fn half_way() -> (Pair, Vec<Payload>) {
    let mut pair = Pair::new(sides());
    pair.up();
    pair.link = Box::new(|i, _| if i >= 2 { Fate::Lose } else { Fate::Deliver });
    pair.settle();
    let payloads = pair.open(&pair.sent[2]);
    (pair, payloads)
}

/// Sends an IKE_AUTH request with these payloads to a half-open responder and returns the notifies it answers with.
fn ask(change: impl FnOnce(&mut Vec<Payload>)) -> (Pair, Vec<NotifyType>) {
    let (mut pair, mut payloads) = half_way();
    change(&mut payloads);
    let keys = pair.b.keys.pop().unwrap();
    let h = header(&keys, ExchangeType::IKE_AUTH, true, false, 1);
    let datagram = seal(&keys, &h, &payloads, 1 << 40);
    pair.deliver(&Packet { source: at(A, 500), destination: at(B, 500), datagram });
    let answer = pair.sent.get(3).map(|p| notifies(&open(&keys, p))).unwrap_or_default();
    (pair, answer)
}

#[test]
fn adversarial_21_each_missing_payload_of_the_request_is_refused() {
    for (missing, answer) in [
        (PayloadType::IDI, NotifyType::AUTHENTICATION_FAILED),
        (PayloadType::AUTH, NotifyType::AUTHENTICATION_FAILED),
        (PayloadType::SA, NotifyType::INVALID_SYNTAX),
        (PayloadType::TSI, NotifyType::INVALID_SYNTAX),
        (PayloadType::TSR, NotifyType::INVALID_SYNTAX),
    ] {
        let (pair, notifies) = ask(|payloads| payloads.retain(|p| p.payload_type() != missing));
        assert_eq!(notifies, [answer], "without {missing}");
        assert!(pair.b.installed.is_empty());
        assert_eq!(pair.b.gateway.ike_sas().count(), 0);
        assert_eq!(pair.b.codes().len(), 1, "one record");
    }
    for optional in [PayloadType::IDR, PayloadType::NOTIFY] {
        let (pair, notifies) = ask(|payloads| payloads.retain(|p| p.payload_type() != optional));
        assert!(notifies.is_empty(), "without {optional}: {notifies:?}");
        assert_eq!(pair.b.installed.len(), 1);
    }
}

/// Traffic selectors of which none can be used refuse the child, not the IKE SA.
#[test]
fn selectors_of_no_use_refuse_the_child() {
    for which in [PayloadType::TSI, PayloadType::TSR] {
        let (pair, notifies) = ask(|payloads| {
            for payload in payloads.iter_mut().filter(|p| p.payload_type() == which) {
                // One selector of a type that nobody knows, 8 octets long.
                let body = vec![1, 0, 0, 0, 200, 0, 0, 8, 0, 0, 0, 0];
                *payload = Payload::Unknown(UnknownPayload { payload_type: which, critical: false, body });
            }
        });
        assert_eq!(notifies, [NotifyType::TS_UNACCEPTABLE], "{which}");
        assert_eq!(pair.b.gateway.ike_sas().next().unwrap().children.len(), 0);
        assert!(pair.b.events.contains(&"ike-up to-a".to_owned()));
    }
}

#[test]
fn adversarial_22_each_repeated_payload_of_the_request_is_refused() {
    let (_, genuine) = half_way();
    for payload in genuine.iter().filter(|p| p.payload_type() != PayloadType::NOTIFY) {
        let (pair, notifies) = ask(|payloads| payloads.push(payload.clone()));
        assert_eq!(notifies, [NotifyType::INVALID_SYNTAX], "{} twice", payload.payload_type());
        assert!(pair.b.installed.is_empty());
    }
}

#[test]
fn payloads_may_come_in_any_order_and_with_unknown_company() {
    let (pair, notifies) = ask(|payloads| {
        payloads.reverse();
        for payload_type in [1, 32, 49, 200, 255].map(PayloadType) {
            payloads.push(Payload::Unknown(UnknownPayload {
                payload_type,
                critical: false,
                body: vec![1; 9],
            }));
        }
        payloads.push(Payload::VendorId(adit_wire::ikev2::VendorId(vec![7; 40])));
        payloads.push(notify(NotifyType::USE_TRANSPORT_MODE));
        payloads.push(notify(NotifyType::MOBIKE_SUPPORTED));
        payloads.push(notify(NotifyType(40_000)));
    });
    assert!(notifies.is_empty(), "tunnel mode: USE_TRANSPORT_MODE is declined in silence {notifies:?}");
    assert_eq!(pair.b.installed.len(), 1);
}

#[test]
fn an_unknown_critical_payload_refuses_the_message() {
    let critical =
        Payload::Unknown(UnknownPayload { payload_type: PayloadType(200), critical: true, body: vec![] });
    let (pair, notifies) = ask(|payloads| payloads.push(critical.clone()));
    assert_eq!(notifies, [NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD]);
    assert!(pair.b.installed.is_empty());
    assert_eq!(pair.b.failure().code, OutcomeCode::UnsupportedCriticalPayload);

    // On an established IKE SA the request fails and nothing else.
    let mut pair = Pair::established(sides());
    let keys = pair.a.keys.pop().unwrap();
    let h = header(&keys, ExchangeType::INFORMATIONAL, true, false, 2);
    let datagram = seal(&keys, &h, &[critical], 1 << 40);
    pair.deliver(&Packet { source: at(A, 500), destination: at(B, 500), datagram });
    let Payload::Notify(n) = &open(&keys, pair.sent.last().unwrap())[0] else { panic!() };
    assert_eq!((n.notify_type, n.data.as_slice()), (NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, &[200][..]));
    pair.assert_children(1);

    // In IKE_SA_INIT it is answered in the clear, and leaves no state.
    let mut pair = Pair::new(sides());
    pair.up();
    pair.collect();
    let first = pair.sent[0].clone();
    let mut message = Message::decode(&first.datagram).unwrap();
    message.payloads.push(Payload::Unknown(UnknownPayload {
        payload_type: PayloadType(200),
        critical: true,
        body: vec![],
    }));
    let datagram = Message::encode(&message.header, &message.payloads);
    pair.deliver(&Packet { datagram, ..first });
    assert_eq!(pair.sent[1].clear_notifies(), [NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD]);
    assert_eq!(pair.b.gateway.ike_sas().count(), 0);
}

#[test]
fn adversarial_20_another_kind_of_authentication_is_refused() {
    for (method, data) in [
        (AuthMethod::RSA_SIGNATURE, vec![1; 256]),
        (AuthMethod::NULL, vec![1; 48]),
        (AuthMethod::DIGITAL_SIGNATURE, vec![1; 64]),
        (AuthMethod::SHARED_KEY, Vec::new()),
        (AuthMethod::SHARED_KEY, vec![0; 48]),
        (AuthMethod(0), vec![0; 48]),
    ] {
        let (pair, notifies) = ask(|payloads| {
            for payload in payloads {
                if let Payload::Authentication(auth) = payload {
                    *auth = Authentication { method, data: data.clone() };
                }
            }
        });
        assert_eq!(notifies, [NotifyType::AUTHENTICATION_FAILED], "{method}");
        let by_key = method == AuthMethod::SHARED_KEY;
        let expected =
            if by_key { OutcomeCode::AuthenticationFailed } else { OutcomeCode::AuthMethodRefused };
        assert_eq!(pair.b.failure().code, expected);
        assert!(pair.b.installed.is_empty());
    }
}

/// Answers the initiator's IKE_AUTH with changed payloads.
fn answer(change: impl FnOnce(&mut Vec<Payload>)) -> Pair {
    let mut pair = Pair::new(sides());
    let request = pair.up();
    pair.link = Box::new(|i, _| if i == 3 { Fate::Lose } else { Fate::Deliver });
    pair.settle();
    let mut payloads = pair.open(&pair.sent[3]);
    change(&mut payloads);
    let keys = pair.b.keys.pop().unwrap();
    let h = header(&keys, ExchangeType::IKE_AUTH, false, true, 1);
    let datagram = seal(&keys, &h, &payloads, 1 << 40);
    pair.deliver(&Packet { source: at(B, 500), destination: at(A, 500), datagram });
    pair.settle();
    pair.run(Duration::from_secs(10));
    assert!(pair.a.done.contains_key(&request), "an answer ends the wait");
    pair
}

#[test]
fn adversarial_21_22_each_missing_or_repeated_payload_of_the_response_is_refused() {
    let pair = answer(|_| {});
    pair.assert_children(1);
    for bad in [PayloadType::IDR, PayloadType::AUTH, PayloadType::SA, PayloadType::TSI, PayloadType::TSR] {
        for twice in [false, true] {
            let pair = answer(|payloads| {
                if twice {
                    let copy = payloads.iter().find(|p| p.payload_type() == bad).unwrap().clone();
                    payloads.push(copy);
                } else {
                    payloads.retain(|p| p.payload_type() != bad);
                }
            });
            assert!(pair.a.done.values().all(Result::is_err), "{bad} twice: {twice}");
            assert!(pair.a.installed.is_empty());
            pair.assert_nothing();
            assert!(pair.b.installed.is_empty(), "and the responder was told");
        }
    }
}

#[test]
fn a_response_beyond_what_was_offered_is_refused() {
    type Change = fn(&mut Vec<Payload>);
    let changes: [(&str, Change); 5] = [
        ("wider selectors", |payloads| {
            for p in payloads {
                if let Payload::TrafficSelectorsInitiator(ts) = p {
                    ts.selectors = vec![net("0.0.0.0/0")];
                }
            }
        }),
        ("other selectors", |payloads| {
            for p in payloads {
                if let Payload::TrafficSelectorsResponder(ts) = p {
                    ts.selectors = vec![net("10.99.0.0/16")];
                }
            }
        }),
        ("another algorithm", |payloads| {
            for p in payloads {
                if let Payload::SecurityAssociation(sa) = p {
                    sa.proposals[0].transforms[0].key_length = Some(128);
                }
            }
        }),
        ("two proposals", |payloads| {
            for p in payloads {
                if let Payload::SecurityAssociation(sa) = p {
                    let copy = sa.proposals[0].clone();
                    sa.proposals.push(copy);
                }
            }
        }),
        ("a reserved SPI", |payloads| {
            for p in payloads {
                if let Payload::SecurityAssociation(sa) = p {
                    sa.proposals[0].spi = vec![0, 0, 0, 5];
                }
            }
        }),
    ];
    for (what, change) in changes {
        let pair = answer(change);
        assert!(pair.a.done.values().all(Result::is_err), "{what}");
        pair.assert_nothing();
        assert_eq!(pair.b.removed, 1, "{what}: the responder's half is deleted too");
    }
}

/// A refusal in the clear may be forged: the real answer counts (RFC 7296 2.21.1).
#[test]
fn adversarial_27_forged_refusals_do_not_stop_a_handshake() {
    let refusals = [
        Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new()),
        Notify::new(NotifyType::AUTHENTICATION_FAILED, Vec::new()),
        Notify::new(NotifyType::INVALID_SYNTAX, Vec::new()),
        Notify::new(NotifyType::INVALID_MAJOR_VERSION, Vec::new()),
        Notify::new(NotifyType::INVALID_KE_PAYLOAD, KeId::MODP_1024.0.to_be_bytes().to_vec()),
        Notify::new(NotifyType::INVALID_KE_PAYLOAD, vec![1]),
        Notify::new(NotifyType::COOKIE, Vec::new()),
        Notify::new(NotifyType::COOKIE, vec![1; 65]),
        Notify::new(NotifyType::REDIRECT, vec![3; 20]),
    ];
    for refusal in refusals {
        let mut pair = Pair::new(sides());
        let request = pair.up();
        let notify = Payload::Notify(refusal.clone());
        pair.link = Box::new(move |i, p| {
            if i != 1 {
                return Fate::Deliver;
            }
            let h = Header { responder_spi: IkeSpi::ZERO, ..p.header() };
            let forged = Packet { datagram: Message::encode(&h, std::slice::from_ref(&notify)), ..p.clone() };
            Fate::Replace(vec![forged, p.clone()])
        });
        pair.settle();
        assert_eq!(pair.a.done.get(&request), Some(&Ok(())), "{:?}", refusal.notify_type);
        pair.assert_children(1);
    }
}

#[test]
fn adversarial_27_a_thousand_cookies_cause_few_requests() {
    let (a, b) = sides();
    let mut pair = Pair::new((a, b));
    pair.link = Box::new(|_, _| Fate::Lose);
    pair.up();
    pair.collect();
    let h = pair.sent[0].header();
    for i in 0..1000_u32 {
        let h = Header { flags: Flags { initiator: false, version: false, response: true }, ..h };
        let cookie = Payload::Notify(Notify::new(NotifyType::COOKIE, i.to_be_bytes().to_vec()));
        let datagram = Message::encode(&h, &[cookie]);
        pair.deliver(&Packet { source: at(B, 500), destination: at(A, 500), datagram });
    }
    assert!(pair.sent.len() <= 6, "{}", pair.sent.len());
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.a.done.len(), 1, "and it ends");
}

/// Standards 3.3 test 25: our own messages come back to us.
#[test]
fn adversarial_25_reflected_messages_are_dropped() {
    let mut pair = Pair::new(sides());
    let request = pair.up();
    pair.link = Box::new(|_, p| {
        let back = Packet { source: p.destination, destination: p.source, datagram: p.datagram.clone() };
        Fate::Replace(vec![back, p.clone()])
    });
    pair.settle();
    assert_eq!(pair.a.done[&request], Ok(()));
    pair.assert_children(1);
    assert_eq!(pair.a.gateway.ike_sas().count(), 1);
    assert_eq!(pair.b.gateway.ike_sas().count(), 1);
}

/// A peer that calls itself what we call ourselves is we ourselves, or a mistake.
#[test]
fn adversarial_25_our_own_identity_is_nobody_elses() {
    let (mut a, mut b) = sides();
    a.connection().remote_id = "%any".parse().unwrap();
    b.connection().remote_id = "%any".parse().unwrap();
    b.connection().local_id = Some("a.example".parse().unwrap());
    for side in [&mut a, &mut b] {
        side.secrets = vec![crate::pair::secret(&[], crate::pair::KEY)];
    }
    let mut pair = Pair::new((a, b));
    let request = pair.up();
    pair.run(Duration::from_secs(60));
    assert!(pair.a.done[&request].is_err());
    assert_eq!(pair.b.failure().code, OutcomeCode::IdentityMismatch);
    assert!(pair.b.failure().message.contains("our own identity"));
    pair.assert_nothing();
}

/// Standards 3.3 test 16.
#[test]
fn adversarial_16_deletes_reach_only_the_senders_own_children() {
    let mut pair = Pair::established(sides());
    let keys = pair.a.keys.pop().unwrap();
    let own = pair.a.installed.values().next().unwrap();
    let (inbound, outbound) = (own.inbound_spi, own.outbound_spi);
    // Not the sender's inbound SPI but ours; SPIs nobody has; another protocol: nothing happens.
    for (id, delete) in [
        (2, Delete { protocol: ProtocolId::ESP, spis: vec![outbound] }),
        (3, Delete { protocol: ProtocolId::ESP, spis: (1000..9000).map(Spi).collect() }),
        (4, Delete { protocol: ProtocolId::AH, spis: vec![inbound] }),
    ] {
        let h = header(&keys, ExchangeType::INFORMATIONAL, true, false, id);
        let datagram = seal(&keys, &h, &[Payload::Delete(delete)], (1 << 40) + u64::from(id));
        pair.deliver(&Packet { source: at(A, 500), destination: at(B, 500), datagram });
        assert!(open(&keys, pair.sent.last().unwrap()).is_empty());
        pair.assert_children(1);
    }
    // The right one, a thousand times: once.
    let delete = Delete { protocol: ProtocolId::ESP, spis: vec![inbound; 1000] };
    let h = header(&keys, ExchangeType::INFORMATIONAL, true, false, 5);
    let datagram = seal(&keys, &h, &[Payload::Delete(delete)], 1 << 41);
    pair.deliver(&Packet { source: at(A, 500), destination: at(B, 500), datagram });
    let answer = open(&keys, pair.sent.last().unwrap());
    assert_eq!(answer, [Payload::Delete(Delete { protocol: ProtocolId::ESP, spis: vec![outbound] })]);
    assert_eq!(pair.b.removed, 1);
}

/// What is authentic and malformed ends the IKE SA on both sides (RFC 7296 2.21.3).
#[test]
fn an_authentic_malformed_request_ends_the_ike_sa() {
    let mut pair = Pair::established(sides());
    let keys = pair.a.keys.pop().unwrap();
    let body = vec![3, 7, 0xff, 0xff, 1, 2, 3];
    let malformed =
        Payload::Unknown(UnknownPayload { payload_type: PayloadType::DELETE, critical: false, body });
    let h = header(&keys, ExchangeType::INFORMATIONAL, true, false, 2);
    let datagram = seal(&keys, &h, &[malformed], 1 << 40);
    pair.deliver(&Packet { source: at(A, 500), destination: at(B, 500), datagram });
    assert_eq!(notifies(&open(&keys, pair.sent.last().unwrap())), [NotifyType::INVALID_SYNTAX]);
    assert_eq!(pair.b.gateway.ike_sas().count(), 0);
    assert_eq!(pair.b.removed, 1);
}

/// A peer that finds our request malformed has dropped the IKE SA (RFC 7296 2.21.3).
#[test]
fn a_request_that_the_peer_finds_malformed_ends_the_ike_sa() {
    let mut pair = Pair::established(sides());
    let keys = pair.a.keys.pop().unwrap();
    pair.link = Box::new(|_, _| Fate::Lose);
    let target = TerminateTarget { child: Some("net".to_owned()), ..Default::default() };
    let request = pair.down(&target);
    pair.settle();
    let sent = pair.sent.len();
    let h = header(&keys, ExchangeType::INFORMATIONAL, false, true, 2);
    let datagram = seal(&keys, &h, &[notify(NotifyType::INVALID_SYNTAX)], 1 << 40);
    pair.deliver(&Packet { source: at(B, 500), destination: at(A, 500), datagram });
    assert_eq!(pair.a.down, [DownReason::Failed]);
    assert_eq!(pair.a.gateway.ike_sas().count(), 0);
    assert_eq!(pair.sent.len(), sent, "no Delete");
    assert!(pair.a.done.contains_key(&request) && pair.a.installed.is_empty());
}

#[test]
fn adversarial_39_children_of_one_peer_are_bounded() {
    let mut pair = Pair::established(sides());
    let keys = pair.a.keys.pop().unwrap();
    let mut request: Vec<Payload> = pair.open_with(&keys, 2);
    request.retain(|p| matches!(p.payload_type(), PayloadType::SA | PayloadType::TSI | PayloadType::TSR));
    request.push(Payload::Nonce(adit_wire::ikev2::Nonce(vec![5; 32])));
    let mut refused = 0;
    for id in 2..1000_u32 {
        for payload in &mut request {
            if let Payload::SecurityAssociation(sa) = payload {
                sa.proposals[0].spi = (id << 16).to_be_bytes().to_vec();
            }
        }
        let h = header(&keys, ExchangeType::CREATE_CHILD_SA, true, false, id);
        let datagram = seal(&keys, &h, &request, (1 << 40) + u64::from(id));
        pair.deliver(&Packet { source: at(A, 500), destination: at(B, 500), datagram });
        let answer = notifies(&open(&keys, pair.sent.last().unwrap()));
        refused += usize::from(answer == [NotifyType::NO_ADDITIONAL_SAS]);
    }
    assert_eq!(pair.b.installed.len(), 256);
    assert_eq!(refused, 998 - 255);
    let target = TerminateTarget { connection: Some("to-a".to_owned()), ..Default::default() };
    let request = pair.b.next_request();
    pair.b.gateway.terminate(pair.now, &target, request).unwrap();
    pair.settle();
    assert!(pair.b.installed.is_empty());
}
