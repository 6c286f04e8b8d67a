//! Post-quantum pre-shared keys (RFC 8784), the policy that wants something post-quantum, and what nobody can take away
//! from either (downgrade prevention).

use std::sync::Arc;
use std::time::Duration;

use adit_crypto::Secret;
use adit_ike::config::{PostQuantumKey, PpkPolicy};
use adit_ike::{OutcomeCode, proposal};
use adit_wire::ikev2::{ExchangeType, Message, Notify, NotifyType, Payload};

use crate::hand::Hand;
use crate::pair::{Fate, Packet, Pair, Side, notifies, sides};

const PPK: &[u8] = b"a post-quantum key of two hundred and fifty-six bits";

fn ppk(ids: &[&[u8]], key: &[u8]) -> PostQuantumKey {
    PostQuantumKey {
        name: "ppk-1".to_owned(),
        ids: ids.iter().map(|id| id.to_vec()).collect(),
        secret: Arc::new(Secret::new(key.to_vec())),
    }
}

/// Both sides have a key: the initiator proposes it, under the name the responder knows it by.
fn with_ppk(required: [bool; 2]) -> (Side, Side) {
    let (mut a, mut b) = sides();
    for side in [&mut a, &mut b] {
        side.ppks = vec![ppk(&[b"other"], b"not this one"), ppk(&[b"alice"], PPK)];
    }
    a.connection().ppk = PpkPolicy { id: Some(b"alice".to_vec()), required: required[0] };
    b.connection().ppk = PpkPolicy { id: None, required: required[1] };
    (a, b)
}

fn in_use(pair: &Pair) -> [bool; 2] {
    [&pair.a, &pair.b].map(|peer| peer.gateway.ike_sas().next().unwrap().ppk)
}

/// The notifies inside the IKE_AUTH request and response.
fn auth_notifies(pair: &Pair) -> [Vec<NotifyType>; 2] {
    [false, true].map(|response| {
        let packet = pair.sent.iter().find(|p| p.is(ExchangeType::IKE_AUTH, response)).unwrap();
        let mut notifies = notifies(&pair.open(packet));
        notifies.retain(|n| *n != NotifyType::INITIAL_CONTACT);
        notifies
    })
}

/// A link that takes these notifies out of IKE_SA_INIT, one way or both.
fn strip(wanted: NotifyType, from: &'static [bool]) -> impl FnMut(usize, &Packet) -> Fate {
    edit(from, move |payloads| {
        payloads.retain(|p| !matches!(p, Payload::Notify(n) if n.notify_type == wanted));
    })
}

/// A link that changes IKE_SA_INIT requests (`false`), responses (`true`) or both.
fn edit(what: &'static [bool], change: impl Fn(&mut Vec<Payload>)) -> impl FnMut(usize, &Packet) -> Fate {
    move |_, packet| {
        if !what.iter().any(|response| packet.is(ExchangeType::IKE_SA_INIT, *response)) {
            return Fate::Deliver;
        }
        let mut message = Message::decode(&packet.datagram).unwrap();
        change(&mut message.payloads);
        let datagram = Message::encode(&message.header, &message.payloads);
        Fate::Replace(vec![Packet { datagram, ..packet.clone() }])
    }
}

#[test]
fn a_key_that_both_have_is_used() {
    for required in [[false, false], [true, false], [false, true], [true, true]] {
        let pair = Pair::established(with_ppk(required));
        assert_eq!(in_use(&pair), [true, true]);
        assert!(pair.sent[0].clear_notifies().contains(&NotifyType::USE_PPK));
        assert!(pair.sent[1].clear_notifies().contains(&NotifyType::USE_PPK));
        let request = if required[0] {
            vec![NotifyType::PPK_IDENTITY]
        } else {
            vec![NotifyType::PPK_IDENTITY, NotifyType::NO_PPK_AUTH]
        };
        assert_eq!(auth_notifies(&pair), [request, vec![NotifyType::PPK_IDENTITY]]);
    }
    // Together with IKE_INTERMEDIATE.
    let (mut a, mut b) = with_ppk([true, true]);
    for side in [&mut a, &mut b] {
        side.connection().proposals = proposal::parse_ike("default").unwrap();
    }
    assert_eq!(in_use(&Pair::established((a, b))), [true, true]);
}

/// RFC 8784 3: SK_d, SK_pi and SK_pr = prf+ (PPK, ..), computed outside of the machine; with and without IKE_INTERMEDIATE.
#[test]
fn the_formulas_of_rfc_8784() {
    for slots in ["", "-ke1_mlkem768"] {
        let proposals = format!("aes256gcm16-prfsha384-x25519{slots}");
        let mut b = with_ppk([false, true]).1;
        b.connection().proposals = proposal::parse_ike(&proposals).unwrap();
        b.connection().fragmentation = adit_ike::config::Fragmentation::No;
        let init = [NotifyType::USE_PPK, NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED];
        let mut hand = Hand::new(b, &proposals, &init).ok().unwrap();
        if !slots.is_empty() {
            hand.additional(adit_wire::ikev2::KeId::ML_KEM_768);
        }
        hand.mix(PPK);
        let mut request = hand.auth_request();
        // RFC 8784 5.1: PPK_ID_FIXED is 2.
        request.push(named(b"\x02alice"));
        assert!(hand.authenticate(&request));
        hand.assert_child();
    }
}

fn named(id: &[u8]) -> Payload {
    Payload::Notify(Notify::new(NotifyType::PPK_IDENTITY, id.to_vec()))
}

/// RFC 8784 3, the initiator's rules and table 1, wherever one side has no key or another one.
#[test]
fn without_a_common_key() {
    type Change = fn(&mut Side, &mut Side);
    let cases: [(&str, Change, [[bool; 2]; 2]); 4] = [
        // What is changed, and whether it comes up for [initiator, responder] requiring it.
        ("the initiator has none", |a, _| a.ppks.clear(), [[true, false], [false, false]]),
        ("the responder has none", |_, b| b.ppks.clear(), [[true, false], [false, false]]),
        ("the responder has others", |_, b| b.ppks.truncate(1), [[true, false], [false, false]]),
        ("another key", |a, _| a.ppks[1] = ppk(&[b"alice"], b"x"), [[false, false], [false, false]]),
    ];
    for (what, change, expected) in cases {
        for initiator in [false, true] {
            for responder in [false, true] {
                let (mut a, mut b) = with_ppk([initiator, responder]);
                change(&mut a, &mut b);
                let mut pair = Pair::new((a, b));
                let request = pair.up();
                pair.run(Duration::from_secs(10));
                let up = pair.a.done[&request].is_ok();
                let context = format!("{what}, required {initiator} {responder}: {:?}", pair.a.done);
                assert_eq!(up, expected[usize::from(initiator)][usize::from(responder)], "{context}");
                if up {
                    assert_eq!(in_use(&pair), [false, false], "{context}");
                    pair.assert_children(1);
                } else {
                    assert!(pair.a.installed.is_empty() && pair.b.installed.is_empty());
                    let codes = [pair.a.codes(), pair.b.codes()].concat();
                    let right = if what == "another key" {
                        OutcomeCode::AuthenticationFailed
                    } else {
                        OutcomeCode::NotPostQuantum
                    };
                    assert!(codes.contains(&right), "{context} {codes:?}");
                    let ended = codes.contains(&OutcomeCode::Success);
                    assert!(!ended || what == "another key", "{context}");
                }
            }
        }
    }
}

/// Standards 3.3 test 52: a mandatory key that somebody takes out of IKE_SA_INIT is missed.
#[test]
fn adversarial_52_a_mandatory_key_cannot_be_stripped() {
    for required in [[true, false], [false, true], [true, true]] {
        for from in [&[false][..], &[true], &[false, true]] {
            let mut pair = Pair::new(with_ppk(required));
            pair.link = Box::new(strip(NotifyType::USE_PPK, from));
            let request = pair.up();
            pair.run(Duration::from_secs(10));
            assert!(pair.a.done[&request].is_err());
            assert!(pair.a.installed.is_empty() && pair.b.installed.is_empty());
        }
    }
}

#[test]
fn malformed_names_are_no_keys() {
    for id in [&b""[..], b"\x02", b"alice", b"\x01alice", b"\x02alic", b"\x02alicee"] {
        let proposals = "aes256gcm16-prfsha384-x25519";
        let b = with_ppk([false, false]).1;
        let mut hand = Hand::new(b, proposals, &[NotifyType::USE_PPK]).ok().unwrap();
        let mut request = hand.auth_request();
        request.push(named(id));
        let answer = hand.exchange(ExchangeType::IKE_AUTH, &request).unwrap();
        assert_eq!(notifies(&answer), [NotifyType::AUTHENTICATION_FAILED], "{id:?}");
        assert_eq!(hand.pair.b.failure().code, OutcomeCode::NotPostQuantum);
    }
    // RFC 8784 3: agreed, and then not named.
    let b = with_ppk([false, false]).1;
    let proposals = "aes256gcm16-prfsha384-x25519";
    let mut hand = Hand::new(b, proposals, &[NotifyType::USE_PPK]).ok().unwrap();
    let request = hand.auth_request();
    let answer = hand.exchange(ExchangeType::IKE_AUTH, &request).unwrap();
    assert_eq!(notifies(&answer), [NotifyType::AUTHENTICATION_FAILED]);
}

/// NO_PPK_AUTH authenticates as the AUTH payload would: it is no way around it.
#[test]
fn the_fallback_is_verified() {
    for right in [true, false] {
        let b = with_ppk([false, false]).1;
        let proposals = "aes256gcm16-prfsha384-x25519";
        let mut hand = Hand::new(b, proposals, &[NotifyType::USE_PPK]).ok().unwrap();
        let mut request = hand.auth_request();
        let mut data = match &request[1] {
            Payload::Authentication(auth) => auth.data.clone(),
            other => panic!("{other:?}"),
        };
        if let Payload::Authentication(auth) = &mut request[1] {
            auth.data.fill(7);
        }
        if !right {
            data[0] ^= 1;
        }
        request.push(named(b"\x02unknown"));
        request.push(Payload::Notify(Notify::new(NotifyType::NO_PPK_AUTH, data)));
        assert_eq!(hand.authenticate(&request), right);
        assert_eq!(hand.pair.b.installed.len(), usize::from(right));
    }
}

/// `post_quantum = required`: ML-KEM or a key, and nothing else.
#[test]
fn adversarial_51_post_quantum_can_be_required() {
    let hybrid = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";
    let either = "aes256gcm16-prfsha384-x25519, aes256gcm16-prfsha384-x25519-ke1_mlkem768";
    let classical = "aes256gcm16-prfsha384-x25519";
    for (ours, theirs, keys, expected) in [
        (hybrid, hybrid, [false, false], true),
        // What is not post-quantum is not offered, nor chosen, whatever the order.
        (either, either, [false, false], true),
        (either, classical, [false, false], false),
        (classical, either, [false, false], false),
        (classical, classical, [true, true], true),
        (classical, classical, [true, false], false),
        (classical, classical, [false, true], false),
        (hybrid, hybrid, [true, false], true),
    ] {
        for required in [[true, false], [false, true], [true, true]] {
            let (mut a, mut b) = with_ppk([false, false]);
            for (side, text, required, key) in
                [(&mut a, ours, required[0], keys[0]), (&mut b, theirs, required[1], keys[1])]
            {
                side.connection().proposals = proposal::parse_ike(text).unwrap();
                side.connection().require_post_quantum = required;
                if !key {
                    side.ppks.clear();
                }
            }
            let mut pair = Pair::new((a, b));
            let request = pair.up();
            pair.run(Duration::from_secs(10));
            let context = format!("{ours} / {theirs} {keys:?} {required:?}: {:?}", pair.a.done);
            assert_eq!(pair.a.done[&request].is_ok(), expected, "{context}");
            if !expected {
                let codes = [pair.a.codes(), pair.b.codes()].concat();
                let reasons = [OutcomeCode::NotPostQuantum, OutcomeCode::NoProposalChosen];
                assert!(codes.iter().any(|code| reasons.contains(code)), "{context} {codes:?}");
                assert!(pair.a.installed.is_empty() && pair.b.installed.is_empty());
            }
        }
    }
}

/// draft-ietf-ipsecme-ikev2-downgrade-prevention: both forms of AUTH, computed outside of the machine.
#[test]
fn both_messages_are_signed_if_both_sides_say_so() {
    let full = NotifyType::IKE_SA_INIT_FULL_TRANSCRIPT_AUTH;
    let proposals = "aes256gcm16-prfsha384-x25519";
    for init in [&[][..], &[full]] {
        let mut hand = Hand::new(sides().1, proposals, init).ok().unwrap();
        assert!(notifies(&hand.init_response).contains(&full), "asked for or not");
        let request = hand.auth_request();
        assert!(hand.authenticate(&request), "{init:?}");
    }
    let hybrid = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";
    let mut b = sides().1;
    b.connection().proposals = proposal::parse_ike(hybrid).unwrap();
    b.connection().fragmentation = adit_ike::config::Fragmentation::No;
    let init = [full, NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED];
    let mut hand = Hand::new(b, hybrid, &init).ok().unwrap();
    hand.additional(adit_wire::ikev2::KeId::ML_KEM_768);
    let request = hand.auth_request();
    assert!(hand.authenticate(&request));
}

/// Standards 3.3 test 51: whatever is taken out of IKE_SA_INIT, authentication fails, or the policy does.
#[test]
fn adversarial_51_a_downgrade_fails_authentication() {
    let both: &[&[bool]] = &[&[false], &[true], &[false, true]];
    for stripped in [
        NotifyType::IKE_SA_INIT_FULL_TRANSCRIPT_AUTH,
        NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED,
        NotifyType::USE_PPK,
        NotifyType::IKEV2_FRAGMENTATION_SUPPORTED,
    ] {
        for from in both {
            let (mut a, mut b) = with_ppk([false, false]);
            for side in [&mut a, &mut b] {
                side.connection().proposals = proposal::parse_ike("default").unwrap();
            }
            let mut pair = Pair::new((a, b));
            pair.link = Box::new(strip(stripped, from));
            let request = pair.up();
            pair.run(Duration::from_secs(10));
            assert!(pair.a.done[&request].is_err(), "{stripped} {from:?}");
            assert!(pair.a.installed.is_empty() && pair.b.installed.is_empty(), "{stripped} {from:?}");
        }
    }
    // The proposal with ML-KEM, out of the request.
    let (mut a, mut b) = sides();
    for side in [&mut a, &mut b] {
        side.connection().proposals = proposal::parse_ike("default").unwrap();
    }
    let mut pair = Pair::new((a, b));
    pair.link = Box::new(edit(&[false], |payloads| {
        for payload in payloads {
            if let Payload::SecurityAssociation(sa) = payload {
                sa.proposals.remove(0);
            }
        }
    }));
    let request = pair.up();
    pair.run(Duration::from_secs(10));
    assert!(pair.a.done[&request].is_err());
    assert!(pair.a.installed.is_empty() && pair.b.installed.is_empty());
}
