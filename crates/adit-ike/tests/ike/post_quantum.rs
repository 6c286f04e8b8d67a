//! Additional key exchanges before IKE_AUTH (RFC 9242, RFC 9370) with ML-KEM: negotiated, done, lost, altered, wrong.

use std::time::Duration;

use adit_ike::config::Fragmentation;
use adit_ike::{Blame, OutcomeCode, Stage, proposal};
use adit_wire::ikev2::{ExchangeType, KeId, KeyExchange, Message, Notify, NotifyType, Payload, PayloadType};

use crate::hand::Hand;
use crate::pair::{Fate, Packet, Pair, Side, header, notifies, open, seal, sides};
use crate::states::everything_else;

const HYBRID: &str = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";
const INTERMEDIATE: &[NotifyType] = &[NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED];

/// Both sides with these proposals; messages as large as they are.
fn with(ours: &str, theirs: &str) -> (Side, Side) {
    let (mut a, mut b) = sides();
    a.connection().proposals = proposal::parse_ike(ours).unwrap();
    b.connection().proposals = proposal::parse_ike(theirs).unwrap();
    a.connection().fragmentation = Fragmentation::No;
    b.connection().fragmentation = Fragmentation::No;
    (a, b)
}

fn both(proposals: &str) -> (Side, Side) {
    with(proposals, proposals)
}

/// The side that a [`Hand`] talks to.
fn responder(proposals: &str) -> Side {
    both(proposals).1
}

fn additional_kes(pair: &Pair) -> [Vec<KeId>; 2] {
    [&pair.a, &pair.b].map(|peer| peer.gateway.ike_sas().next().unwrap().additional_kes)
}

#[test]
fn x25519_with_ml_kem_768() {
    let pair = Pair::established(both(HYBRID));
    assert_eq!(
        pair.trace(),
        [
            "IKE_SA_INIT -> 0",
            "IKE_SA_INIT <- 0",
            "IKE_INTERMEDIATE -> 1",
            "IKE_INTERMEDIATE <- 1",
            "IKE_AUTH -> 2",
            "IKE_AUTH <- 2",
        ]
    );
    assert_eq!(additional_kes(&pair), [[KeId::ML_KEM_768], [KeId::ML_KEM_768]]);
    // Each generation of keys is logged, and every key is another one.
    for keys in [&pair.a.keys, &pair.b.keys] {
        assert_eq!(keys.len(), 2);
        assert_eq!(keys[0].responder_spi, keys[1].responder_spi);
        assert_ne!(keys[0].sk_ei, keys[1].sk_ei);
        assert_ne!(keys[0].sk_er, keys[1].sk_er);
    }
    assert!(pair.a.records[0].message.contains("ke1_mlkem768"), "{}", pair.a.records[0].message);
    let ke = |number: usize| match &pair.open_with(&pair.a.keys[0], number)[..] {
        [Payload::KeyExchange(ke)] => (ke.method, ke.data.len()),
        other => panic!("{other:?}"),
    };
    assert_eq!([ke(2), ke(3)], [(KeId::ML_KEM_768, 1184), (KeId::ML_KEM_768, 1088)]);
}

/// The default of both sides: post-quantum, in datagrams that go everywhere.
#[test]
fn the_default_is_post_quantum_and_fits_every_path() {
    let (mut a, mut b) = sides();
    for side in [&mut a, &mut b] {
        side.connection().proposals = proposal::parse_ike("default").unwrap();
    }
    let mut pair = Pair::established((a, b));
    assert_eq!(additional_kes(&pair), [[KeId::ML_KEM_768], [KeId::ML_KEM_768]]);
    assert!(pair.sent.iter().all(|p| p.datagram.len() + 40 + 8 + 4 <= 1280), "IPv6, UDP, non-ESP marker");
    let intermediate = pair.sent.iter().filter(|p| p.header().exchange == ExchangeType::IKE_INTERMEDIATE);
    assert!(intermediate.count() >= 3, "more datagrams than messages");
    pair.settle();
    pair.run(Duration::from_secs(60));
    pair.assert_children(1);
}

/// RFC 9370 2.2.1: the first of the proposals that both can do.
#[test]
fn a_peer_without_additional_key_exchanges_gets_classical_ones() {
    let classical = "aes256gcm16-prfsha384-x25519";
    for (ours, theirs) in [("default", classical), (classical, "default")] {
        let pair = Pair::established(with(ours, theirs));
        assert_eq!(additional_kes(&pair), [[], []]);
        assert_eq!(pair.sent.len(), 4);
    }
    let mut pair = Pair::new(with(HYBRID, classical));
    let request = pair.up();
    pair.run(Duration::from_secs(10));
    assert!(pair.a.done[&request].is_err());
    assert_eq!(pair.b.failure().code, OutcomeCode::NoProposalChosen);
    pair.assert_nothing();
}

/// RFC 9370 2.2.1: NONE is no exchange, slots need not follow one another, exchanges are numbered as they are done.
#[test]
fn several_additional_key_exchanges() {
    for (proposals, expected) in [
        ("ke1_none-ke3_none", &[][..]),
        ("ke2_mlkem768-ke3_ecp256-ke5_none", &[KeId::ML_KEM_768, KeId::ECP_256]),
        ("ke7_mlkem512", &[KeId::ML_KEM_512]),
        (
            "ke1_mlkem512-ke2_mlkem768-ke3_mlkem1024-ke4_x25519-ke5_ecp256-ke6_ecp384-ke7_ecp521",
            &[
                KeId::ML_KEM_512,
                KeId::ML_KEM_768,
                KeId::ML_KEM_1024,
                KeId::CURVE_25519,
                KeId::ECP_256,
                KeId::ECP_384,
                KeId::ECP_521,
            ],
        ),
    ] {
        let pair = Pair::established(both(&format!("aes256gcm16-prfsha384-x25519-{proposals}")));
        assert_eq!(additional_kes(&pair), [expected, expected], "{proposals}");
        assert_eq!(pair.sent.len(), 4 + 2 * expected.len());
        assert_eq!(pair.a.keys.len(), 1 + expected.len());
        let last = pair.sent.last().unwrap();
        assert!(last.is(ExchangeType::IKE_AUTH, true));
        assert_eq!(last.header().message_id as usize, 1 + expected.len());
    }
    // A post-quantum method may also be the first one.
    let pair = Pair::established(both("aes256gcm16-prfsha384-mlkem512-ke1_x25519"));
    assert_eq!(additional_kes(&pair), [[KeId::CURVE_25519], [KeId::CURVE_25519]]);
}

/// Keys, IntAuth and AUTH as the RFCs' formulas say, computed outside of the machine (RFC 9242 3.3.2, RFC 9370 2.2.2).
#[test]
fn the_formulas_of_the_rfcs() {
    for (slots, methods) in [
        ("", &[][..]),
        ("-ke1_mlkem768", &[KeId::ML_KEM_768]),
        ("-ke1_mlkem512-ke2_ecp384-ke3_mlkem1024", &[KeId::ML_KEM_512, KeId::ECP_384, KeId::ML_KEM_1024]),
    ] {
        let proposals = format!("aes256gcm16-prfsha384-x25519{slots}");
        let mut hand = Hand::new(responder(&proposals), &proposals, INTERMEDIATE).ok().unwrap();
        for method in methods {
            hand.additional(*method);
        }
        let request = hand.auth_request();
        assert!(hand.authenticate(&request), "{slots}");
        hand.assert_child();
    }
}

/// RFC 9370 2.2.1: without INTERMEDIATE_EXCHANGE_SUPPORTED such proposals are not there.
#[test]
fn additional_key_exchanges_need_intermediate() {
    let pair = Hand::new(responder(HYBRID), HYBRID, &[]).err().unwrap();
    assert_eq!(pair.sent[0].clear_notifies(), [NotifyType::NO_PROPOSAL_CHOSEN]);
    let either = format!("{HYBRID}, aes256gcm16-prfsha384-x25519");
    let mut hand = Hand::new(responder(&either), &either, &[]).ok().unwrap();
    assert!(!notifies(&hand.init_response).contains(&NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED));
    let request = hand.auth_request();
    assert!(hand.authenticate(&request));
    // Asked for without need it is not returned, and hurts nobody.
    let plain = "aes256gcm16-prfsha384-x25519";
    let mut hand = Hand::new(responder(plain), plain, INTERMEDIATE).ok().unwrap();
    assert!(!notifies(&hand.init_response).contains(&NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED));
    let request = hand.auth_request();
    assert!(hand.authenticate(&request));
}

/// The same in the response: nothing unprotected makes an initiator give up at once, nor go on with what it cannot do.
#[test]
fn a_response_that_leaves_intermediate_out_is_refused() {
    let mut pair = Pair::new(both(HYBRID));
    pair.link = Box::new(|_, packet| {
        if !packet.is(ExchangeType::IKE_SA_INIT, true) {
            return Fate::Deliver;
        }
        let mut message = Message::decode(&packet.datagram).unwrap();
        message.payloads.retain(|p| {
            !matches!(p, Payload::Notify(n) if n.notify_type == NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED)
        });
        let datagram = Message::encode(&message.header, &message.payloads);
        Fate::Replace(vec![Packet { datagram, ..packet.clone() }])
    });
    let request = pair.up();
    pair.run(Duration::from_secs(10));
    assert!(pair.a.done[&request].as_ref().unwrap_err().contains("not IKE_INTERMEDIATE"));
    assert!(pair.sent.iter().all(|p| p.header().exchange == ExchangeType::IKE_SA_INIT));
}

/// A KE payload of a method with this content.
fn ke(method: KeId, data: Vec<u8>) -> Payload {
    Payload::KeyExchange(KeyExchange { method, data })
}

/// Standards 3.3 test 11, RFC 9370 T5: a clean refusal, and nothing is kept.
#[test]
fn wrong_requests_are_refused() {
    // FIPS 203 7.2: the first coefficient is 3329, 0xd01, which is not below the modulus.
    let mut overflowing = vec![0; 1184];
    overflowing[..2].copy_from_slice(&[0x01, 0x0d]);
    let unknown = Payload::Unknown(adit_wire::ikev2::UnknownPayload {
        payload_type: PayloadType(200),
        critical: true,
        body: Vec::new(),
    });
    for (payloads, answer, why) in [
        (vec![], NotifyType::INVALID_SYNTAX, "lacks the KE payload for mlkem768"),
        (vec![ke(KeId::CURVE_25519, vec![9; 32])], NotifyType::INVALID_SYNTAX, "it does x25519"),
        (vec![ke(KeId::ML_KEM_1024, vec![0; 1568])], NotifyType::INVALID_SYNTAX, "it does mlkem1024"),
        (vec![ke(KeId::ML_KEM_768, vec![0; 1183])], NotifyType::INVALID_SYNTAX, "length"),
        (vec![ke(KeId::ML_KEM_768, vec![0; 1185])], NotifyType::INVALID_SYNTAX, "length"),
        (vec![ke(KeId::ML_KEM_768, vec![])], NotifyType::INVALID_SYNTAX, "length"),
        (vec![ke(KeId::ML_KEM_768, overflowing)], NotifyType::INVALID_SYNTAX, "not an encapsulation key"),
        (
            vec![ke(KeId::ML_KEM_768, vec![0; 1184]), ke(KeId::ML_KEM_768, vec![0; 1184])],
            NotifyType::INVALID_SYNTAX,
            "Twice",
        ),
        (vec![unknown], NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, "Critical"),
    ] {
        let mut hand = Hand::new(responder(HYBRID), HYBRID, INTERMEDIATE).ok().unwrap();
        let response = hand.exchange(ExchangeType::IKE_INTERMEDIATE, &payloads).expect("answered");
        assert_eq!(notifies(&response), [answer], "{why}");
        assert_eq!(hand.pair.b.gateway.ike_sas().count(), 0, "{why}");
        let record = hand.pair.b.failure();
        assert_eq!((record.stage, record.blame), (Stage::IkeIntermediate, Blame::PeerMalformed), "{why}");
        assert!(record.message.contains(why), "{}", record.message);
    }
}

/// RFC 9370 2.2.2: every negotiated exchange is done, in order, before IKE_AUTH; and none that was not negotiated.
#[test]
fn exchanges_out_of_their_order_are_ignored() {
    let mut hand = Hand::new(responder(HYBRID), HYBRID, INTERMEDIATE).ok().unwrap();
    let request = hand.auth_request();
    assert_eq!(hand.exchange(ExchangeType::IKE_AUTH, &request), None);
    hand.next_id = 2;
    assert_eq!(hand.exchange(ExchangeType::IKE_AUTH, &request), None);
    assert_eq!(hand.exchange(ExchangeType::IKE_INTERMEDIATE, &[]), None, "Message ID 2 before 1");
    hand.next_id = 1;
    hand.additional(KeId::ML_KEM_768);
    assert_eq!(hand.exchange(ExchangeType::IKE_INTERMEDIATE, &[]), None, "one more than negotiated");
    let request = hand.auth_request();
    assert!(hand.authenticate(&request));
    assert_eq!(hand.exchange(ExchangeType::IKE_INTERMEDIATE, &[]), None, "after IKE_AUTH");
    hand.assert_child();
}

/// draft-ietf-ipsecme-ikev2-mlkem, RFC 9370 2.2.2: after a wrong response there is no IKE_AUTH.
#[test]
fn wrong_responses_are_the_end() {
    for (change, why) in [
        (vec![ke(KeId::ML_KEM_768, vec![0; 1087])], "length"),
        (vec![ke(KeId::ML_KEM_768, vec![0; 1089])], "length"),
        (vec![ke(KeId::ML_KEM_512, vec![0; 768])], "it does mlkem512"),
        (vec![], "lacks the KE payload"),
        (vec![Payload::Notify(Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new()))], "refused"),
    ] {
        let mut pair = Pair::new(both(HYBRID));
        pair.link =
            Box::new(
                |_, p| {
                    if p.is(ExchangeType::IKE_INTERMEDIATE, true) { Fate::Lose } else { Fate::Deliver }
                },
            );
        let request = pair.up();
        pair.settle();
        let genuine = pair.sent.last().unwrap().clone();
        let keys = &pair.b.keys[0];
        let h = header(keys, ExchangeType::IKE_INTERMEDIATE, false, true, 1);
        let datagram = seal(keys, &h, &change, 1 << 40);
        let sent = pair.sent.len();
        pair.deliver(&Packet { datagram, ..genuine });
        assert!(pair.a.done[&request].as_ref().unwrap_err().contains(why), "{:?}", pair.a.done);
        assert_eq!(pair.sent.len(), sent, "nothing more is said");
        assert_eq!(pair.a.gateway.ike_sas().count(), 0);
        pair.run(Duration::from_secs(60));
        pair.assert_nothing();
    }
}

/// draft-ietf-ipsecme-ikev2-mlkem: an altered ciphertext is no error; the next message cannot be opened.
#[test]
fn an_altered_ciphertext_shows_in_the_next_message() {
    let mut pair = Pair::new(both(HYBRID));
    pair.link =
        Box::new(|_, p| if p.is(ExchangeType::IKE_INTERMEDIATE, true) { Fate::Lose } else { Fate::Deliver });
    pair.up();
    pair.settle();
    let genuine = pair.sent.last().unwrap().clone();
    let keys = &pair.b.keys[0];
    let mut payloads = open(keys, &genuine);
    let Payload::KeyExchange(exchange) = &mut payloads[0] else { panic!("{payloads:?}") };
    exchange.data[100] ^= 1;
    let datagram = seal(keys, &genuine.header(), &payloads, 1 << 40);
    pair.link = Box::new(|_, _| Fate::Deliver);
    pair.deliver(&Packet { datagram, ..genuine });
    pair.settle();
    assert!(pair.sent.last().unwrap().is(ExchangeType::IKE_AUTH, false));
    assert_eq!(pair.b.gateway.counters().not_authentic, 1);
    pair.run(Duration::from_secs(200));
    pair.assert_nothing();
}

/// Standards 3.3 test 53: who can break the first key exchange and alters IKE_INTERMEDIATE is found out by IKE_AUTH.
#[test]
fn adversarial_53_altered_messages_fail_authentication() {
    for response in [false, true] {
        let mut pair = Pair::new(both(HYBRID));
        pair.link =
            Box::new(
                move |_, p| {
                    if p.is(ExchangeType::IKE_INTERMEDIATE, response) { Fate::Lose } else { Fate::Deliver }
                },
            );
        let request = pair.up();
        pair.settle();
        let genuine = pair.sent.last().unwrap().clone();
        assert!(genuine.is(ExchangeType::IKE_INTERMEDIATE, response));
        let keys = &pair.a.keys[0];
        let mut payloads = open(keys, &genuine);
        payloads.push(Payload::Notify(Notify::new(NotifyType(40_000), Vec::new())));
        let datagram = seal(keys, &genuine.header(), &payloads, 1 << 40);
        pair.link = Box::new(|_, _| Fate::Deliver);
        pair.deliver(&Packet { datagram, ..genuine });
        pair.settle();
        let message = pair.a.done[&request].as_ref().unwrap_err();
        assert!(message.contains("AUTHENTICATION_FAILED"), "{message}");
        assert_eq!(pair.b.failure().code, OutcomeCode::AuthenticationFailed);
        assert!(pair.a.installed.is_empty() && pair.b.installed.is_empty());
    }
}

/// Whatever is lost or comes twice, in one piece or several, it is said again and answered with what was said before.
#[test]
fn lost_and_repeated_messages() {
    for fragmentation in [Fragmentation::No, Fragmentation::Yes] {
        for lost in 0..10 {
            let (mut a, mut b) = both("aes256gcm16-prfsha384-x25519-ke1_mlkem1024-ke2_ecp256");
            a.connection().fragmentation = fragmentation;
            b.connection().fragmentation = fragmentation;
            let mut pair = Pair::new((a, b));
            pair.link = Box::new(move |n, _| if n == lost { Fate::Lose } else { Fate::Repeat });
            let request = pair.up();
            pair.run(Duration::from_secs(20));
            assert_eq!(pair.a.done.get(&request), Some(&Ok(())), "{lost}: {:?}", pair.b.events);
            pair.assert_children(1);
            assert_eq!(pair.a.keys.len(), 3, "keys are made once");
            assert_eq!(pair.b.keys.len(), 3);
        }
    }
}

/// RFC 9242 3.3.2: fragments, of whatever size, make no difference to IntAuth.
#[test]
fn int_auth_does_not_depend_on_fragments() {
    for (ours, theirs) in [(1280, 1280), (576, 1280), (1280, 400), (9000, 576)] {
        let (mut a, mut b) = both("aes256gcm16-prfsha384-x25519-ke1_mlkem1024-ke2_mlkem768");
        for (side, size) in [(&mut a, ours), (&mut b, theirs)] {
            side.connection().fragmentation = Fragmentation::Yes;
            side.settings.fragment_size = size;
        }
        Pair::established((a, b));
    }
}

#[test]
fn silence_is_the_end_of_both() {
    let mut pair = Pair::new(both(HYBRID));
    pair.link =
        Box::new(|_, p| if p.is(ExchangeType::IKE_INTERMEDIATE, false) { Fate::Lose } else { Fate::Deliver });
    let request = pair.up();
    pair.run(Duration::from_secs(200));
    assert!(pair.a.done[&request].as_ref().unwrap_err().contains("IKE_INTERMEDIATE"));
    let stages: Vec<_> = pair.b.records.iter().map(|r| (r.code, r.stage)).collect();
    assert_eq!(stages, [(OutcomeCode::Timeout, Stage::IkeIntermediate)]);
    pair.assert_nothing();
}

#[test]
fn nothing_but_intermediate_moves_a_half_open_responder() {
    let mut pair = Pair::new(both(HYBRID));
    let request = pair.up();
    pair.link = Box::new(|i, _| if i == 2 { Fate::Lose } else { Fate::Deliver });
    pair.settle();
    let genuine = pair.sent[2].clone();
    pair.link = Box::new(|_, _| Fate::Lose);
    everything_else(&mut pair, true, (ExchangeType::IKE_INTERMEDIATE, false, 1));
    assert!(pair.b.events.is_empty(), "{:?}", pair.b.events);
    pair.link = Box::new(|_, _| Fate::Deliver);
    pair.deliver(&genuine);
    pair.settle();
    assert_eq!(pair.a.done[&request], Ok(()));
    pair.assert_children(1);
}

#[test]
fn nothing_but_intermediate_moves_an_initiator_that_awaits_it() {
    let mut pair = Pair::new(both(HYBRID));
    let request = pair.up();
    pair.link = Box::new(|i, _| if i == 3 { Fate::Lose } else { Fate::Deliver });
    pair.settle();
    let genuine = pair.sent[3].clone();
    pair.link = Box::new(|_, _| Fate::Lose);
    everything_else(&mut pair, false, (ExchangeType::IKE_INTERMEDIATE, true, 1));
    pair.link = Box::new(|_, _| Fate::Deliver);
    pair.deliver(&genuine);
    pair.settle();
    assert_eq!(pair.a.done[&request], Ok(()));
    pair.assert_children(1);
}

/// RFC 9242 3.3: behind a NAT the ports change at the first IKE_INTERMEDIATE.
#[test]
fn ports_float_before_the_first_additional_exchange() {
    let (mut a, b) = both(HYBRID);
    a.connection().encap = true;
    let pair = Pair::established((a, b));
    for packet in &pair.sent[2..] {
        assert_eq!((packet.source.port(), packet.destination.port()), (4500, 4500));
    }
}
