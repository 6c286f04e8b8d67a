//! Negotiations that must fail: the right notify on the wire, nothing installed, and a sentence that says what to
//! change on which side.

use std::time::Duration;

use adit_ike::{Blame, DownReason, OutcomeCode, Stage, TerminateTarget, proposal};
use adit_wire::ikev2::{ExchangeType, NotifyType, Payload};

use crate::pair::{
    A, Fate, KEY, Packet, Pair, Side, at, child, connection, ip, notifies, seal, secret, sides,
};

/// Brings it up, which must fail, and lets everything that follows happen.
fn refused(sides: (Side, Side)) -> Pair {
    let mut pair = Pair::new(sides);
    let request = pair.up();
    pair.run(Duration::from_secs(60));
    let result = pair.a.done.get(&request).unwrap_or_else(|| panic!("no end: {:?}", pair.a.events));
    let sentence = result.clone().expect_err("it must not succeed");
    assert!(sentence.contains("192.0.2.2"), "it names the peer: {sentence}");
    pair.assert_nothing();
    assert_eq!((pair.a.removed, pair.b.removed), (0, 0), "nothing was ever installed");
    for peer in [&pair.a, &pair.b] {
        let failures = peer.records.iter().filter(|r| !r.is_success()).count();
        assert!(failures <= 1, "one line, however often it is repeated: {:?}", peer.records);
    }
    pair
}

/// Notifies inside the response of IKE_AUTH.
fn auth_response(pair: &Pair) -> Vec<NotifyType> {
    let packet =
        pair.sent.iter().find(|p| p.is(ExchangeType::IKE_AUTH, true)).expect("IKE_AUTH was answered");
    notifies(&pair.open(packet))
}

#[test]
fn no_common_ike_proposal() {
    let (mut a, b) = sides();
    a.connection().proposals = proposal::parse_ike("aes128gcm16-prfsha256-x25519").unwrap();
    let pair = refused((a, b));
    assert_eq!(pair.sent[1].clear_notifies(), [NotifyType::NO_PROPOSAL_CHOSEN]);
    assert_eq!(pair.sent[1].header().responder_spi.0, 0);
    let (a, b) = (pair.a.failure(), pair.b.failure());
    assert_eq!(
        (a.code, a.stage, a.notify),
        (OutcomeCode::NoProposalChosen, Stage::IkeSaInit, Some(NotifyType::NO_PROPOSAL_CHOSEN))
    );
    assert_eq!((b.code, b.blame), (OutcomeCode::NoProposalChosen, Blame::PeerIncompatible));
    assert!(a.message.contains("aes128gcm16-prfsha256-x25519"), "{}", a.message);
    for part in ["\"to-a\"", "192.0.2.1", "aes128gcm16-prfsha256-x25519", "aes256gcm16-prfsha384-x25519"] {
        assert!(b.message.contains(part), "{part}: {}", b.message);
    }
    assert_eq!(b.peer_proposals.len(), 1);
}

#[test]
fn a_refusal_is_reported_within_seconds() {
    let (mut a, b) = sides();
    a.connection().proposals = proposal::parse_ike("aes128gcm16-prfsha256-x25519").unwrap();
    let mut pair = Pair::new((a, b));
    let request = pair.up();
    pair.run(Duration::from_secs(3));
    assert!(pair.a.done.contains_key(&request));
}

#[test]
fn unknown_peer() {
    let (a, mut b) = sides();
    b.connection().remote_addrs[0].first = ip("203.0.113.1");
    b.connection().remote_addrs[0].last = ip("203.0.113.1");
    let pair = refused((a, b));
    assert_eq!(pair.sent[1].clear_notifies(), [NotifyType::NO_PROPOSAL_CHOSEN]);
    let b = pair.b.failure();
    assert_eq!(
        (b.code, b.blame, b.connection.as_deref()),
        (OutcomeCode::UnknownPeer, Blame::OurConfiguration, None)
    );
    assert!(b.message.contains("192.0.2.1") && b.message.contains("remote_addrs"), "{}", b.message);
}

#[test]
fn wrong_key() {
    let (a, mut b) = sides();
    b.secrets = vec![secret(&["a.example"], b"another secret")];
    let pair = refused((a, b));
    assert_eq!(auth_response(&pair), [NotifyType::AUTHENTICATION_FAILED]);
    assert_eq!(pair.open(&pair.sent[3]).len(), 1, "and nothing else");
    let (a, b) = (pair.a.failure(), pair.b.failure());
    assert_eq!((a.code, a.stage), (OutcomeCode::RefusedByPeer, Stage::IkeAuth));
    assert_eq!((b.code, b.stage), (OutcomeCode::AuthenticationFailed, Stage::IkeAuth));
    assert!(b.message.contains("secrets.ike-1") && b.message.contains("a.example"), "{}", b.message);
    let all = format!("{:?}{:?}{:?}{:?}", pair.a.records, pair.b.records, pair.a.events, pair.b.events);
    assert!(!all.contains("another secret") && !all.contains("a long shared"), "no secret in any message");
}

/// A responder that has the keys of the IKE SA, and not the pre-shared one.
#[test]
fn a_responder_that_is_not_authentic() {
    let mut pair = Pair::new(sides());
    let request = pair.up();
    pair.link = Box::new(|_, p| if p.is(ExchangeType::IKE_AUTH, true) { Fate::Lose } else { Fate::Deliver });
    pair.settle();
    let genuine = pair.sent.last().unwrap().clone();
    let mut payloads = pair.open(&genuine);
    for payload in &mut payloads {
        if let Payload::Authentication(auth) = payload {
            auth.data[0] ^= 1;
        }
    }
    let datagram = seal(pair.keys(&genuine), &genuine.header(), &payloads, 1 << 40);
    pair.link = Box::new(|_, _| Fate::Deliver);
    pair.deliver(&Packet { datagram, ..genuine });
    pair.run(Duration::from_secs(60));
    let sentence = pair.a.done[&request].clone().unwrap_err();
    assert!(sentence.contains("pre-shared key"), "{sentence}");
    assert_eq!(pair.a.failure().code, OutcomeCode::AuthenticationFailed);
    // RFC 7296 2.21.2: the responder, which thinks all is well, is told, and drops what it had installed.
    let told = pair
        .sent
        .iter()
        .find(|p| p.is(ExchangeType::INFORMATIONAL, false))
        .expect("an INFORMATIONAL request");
    assert_eq!(notifies(&pair.open(told)), [NotifyType::AUTHENTICATION_FAILED]);
    assert_eq!(pair.b.down, [DownReason::Failed]);
    assert_eq!((pair.a.removed, pair.b.removed), (0, 1));
    pair.assert_nothing();
}

#[test]
fn no_key_at_all() {
    let (mut a, b) = sides();
    a.secrets = vec![secret(&["c.example"], KEY)];
    let pair = refused((a, b));
    assert_eq!(pair.a.failure().code, OutcomeCode::NoSharedSecret);
    assert_eq!(pair.a.failure().blame, Blame::OurConfiguration);
    assert_eq!(pair.trace().len(), 2, "nothing is sent without a key");

    let (a, mut b) = sides();
    b.secrets = Vec::new();
    let pair = refused((a, b));
    assert_eq!(auth_response(&pair), [NotifyType::AUTHENTICATION_FAILED]);
    assert_eq!(pair.b.failure().code, OutcomeCode::NoSharedSecret);
}

/// Who shares a secret with us can be who the secret says, and nobody else whom we await.
#[test]
fn the_secret_of_somebody_else() {
    let (mut a, mut b) = sides();
    a.connection().local_id = Some("bob.example".parse().unwrap());
    a.secrets = vec![secret(&[], KEY)];
    b.connection().remote_id = "bob.example".parse().unwrap();
    b.secrets = vec![
        secret(&["b.example", "carol.example"], b"another secret"),
        secret(&["b.example", "alice.example"], KEY),
    ];
    let pair = refused((a, b));
    assert_eq!(auth_response(&pair), [NotifyType::AUTHENTICATION_FAILED]);
    assert_eq!(pair.b.failure().code, OutcomeCode::NoSharedSecret);
}

#[test]
fn wrong_identity_of_the_initiator() {
    let (a, mut b) = sides();
    b.connection().remote_id = "z.example".parse().unwrap();
    let pair = refused((a, b));
    assert_eq!(auth_response(&pair), [NotifyType::AUTHENTICATION_FAILED]);
    let record = pair.b.failure();
    assert_eq!(record.code, OutcomeCode::IdentityMismatch);
    assert_eq!(record.remote_id.as_ref().unwrap().to_string(), "a.example");
    for part in ["a.example", "z.example", "remote.id"] {
        assert!(record.message.contains(part), "{part}: {}", record.message);
    }
}

#[test]
fn wrong_identity_of_the_responder() {
    // The initiator asks for an identity the responder does not have.
    let (mut a, b) = sides();
    a.connection().remote_id = "z.example".parse().unwrap();
    a.secrets = vec![secret(&[], KEY)];
    let pair = refused((a, b));
    assert_eq!(auth_response(&pair), [NotifyType::AUTHENTICATION_FAILED]);
    assert!(pair.b.failure().message.contains("z.example"), "{}", pair.b.failure().message);

    // It does not ask, and does not accept what it gets.
    let (mut a, b) = sides();
    a.connection().remote_id = "*.elsewhere".parse().unwrap();
    a.secrets = vec![secret(&[], KEY)];
    let mut pair = Pair::new((a, b));
    let request = pair.up();
    pair.run(Duration::from_secs(60));
    assert!(pair.a.done[&request].is_err());
    assert_eq!(pair.a.failure().code, OutcomeCode::IdentityMismatch);
    assert!(pair.a.failure().message.contains("b.example"), "{}", pair.a.failure().message);
    pair.assert_nothing();
}

#[test]
fn no_common_esp_proposal() {
    let (a, mut b) = sides();
    b.connection().children[0].proposals = proposal::parse_esp("aes128gcm16").unwrap();
    let pair = refused((a, b));
    // RFC 7296 2.21.2: the responder authenticates itself and refuses the child only.
    let inner = pair.open(&pair.sent[3]);
    assert_eq!(notifies(&inner), [NotifyType::NO_PROPOSAL_CHOSEN]);
    assert_eq!(inner.len(), 3, "IDr, AUTH and the notify");
    let record = pair.b.failure();
    assert_eq!(
        (record.code, record.stage, record.child.as_deref()),
        (OutcomeCode::NoProposalChosen, Stage::ChildSa, Some("net"))
    );
    assert!(
        record.message.contains("aes256gcm16") && record.message.contains("aes128gcm16"),
        "{}",
        record.message
    );
    // An IKE SA without children is not left behind by the initiator.
    assert_eq!(pair.trace()[4..], ["INFORMATIONAL -> 2", "INFORMATIONAL <- 2"]);
}

#[test]
fn selectors_that_do_not_fit() {
    let (a, mut b) = sides();
    b.connection().children = vec![child("net", "10.2.0.0/16", "10.9.0.0/16")];
    let pair = refused((a, b));
    assert_eq!(notifies(&pair.open(&pair.sent[3])), [NotifyType::TS_UNACCEPTABLE]);
    let (a, b) = (pair.a.failure(), pair.b.failure());
    assert_eq!((a.code, b.code), (OutcomeCode::TsUnacceptable, OutcomeCode::TsUnacceptable));
    assert!(a.message.contains("10.1.0.0/16 === 10.2.0.0/16"), "{}", a.message);
    assert!(b.message.contains("10.9.0.0/16") && b.message.contains("10.1.0.0/16"), "{}", b.message);
}

#[test]
fn one_child_of_two_is_refused() {
    let (mut a, b) = sides();
    a.connection().children.push(child("no", "10.77.0.0/16", "10.78.0.0/16"));
    let mut pair = Pair::new((a, b));
    let request = pair.up();
    pair.settle();
    let sentence = pair.a.done[&request].clone().unwrap_err();
    assert!(sentence.contains("\"no\"") && sentence.contains("TS_UNACCEPTABLE"), "{sentence}");
    pair.assert_children(1);
}

#[test]
fn a_method_we_do_not_have_is_never_used() {
    let (mut a, mut b) = sides();
    a.connection().proposals = proposal::parse_ike("aes256gcm16-prfsha384-x25519").unwrap();
    b.connection().proposals = proposal::parse_ike("aes256gcm16-prfsha384-ecp384").unwrap();
    let pair = refused((a, b));
    assert_eq!(pair.sent[1].clear_notifies(), [NotifyType::NO_PROPOSAL_CHOSEN]);

    // The same, demanded by somebody: still not.
    let (a, b) = sides();
    let mut pair = Pair::new((a, b));
    let request = pair.up();
    pair.collect();
    let mut forged = Vec::new();
    for method in [1_u16, 14, 20, 1025, 65535] {
        let h = pair.sent[0].header();
        let keys = adit_wire::ikev2::Header {
            flags: adit_wire::ikev2::Flags { initiator: false, version: false, response: true },
            ..h
        };
        let n = adit_wire::ikev2::Notify::new(NotifyType::INVALID_KE_PAYLOAD, method.to_be_bytes().to_vec());
        forged.push(adit_wire::ikev2::Message::encode(&keys, &[Payload::Notify(n)]));
    }
    for datagram in forged {
        let packet = Packet { source: at("192.0.2.2", 500), destination: at(A, 500), datagram };
        pair.deliver(&packet);
    }
    assert_eq!(pair.sent.len(), 1, "no second request");
    pair.settle();
    assert_eq!(pair.a.done[&request], Ok(()), "the real answer still counts");
}

#[test]
fn a_silent_peer_is_named() {
    let (mut a, b) = sides();
    a.connection().retransmission.give_up = Duration::from_secs(20);
    let mut pair = Pair::new((a, b));
    pair.link = Box::new(|_, _| Fate::Lose);
    let request = pair.up();
    pair.run(Duration::from_secs(30));
    let sentence = pair.a.done[&request].clone().unwrap_err();
    for part in ["to-b", "192.0.2.2", "500", "no answer"] {
        assert!(sentence.contains(part), "{part}: {sentence}");
    }
    assert_eq!((pair.a.failure().code, pair.a.failure().blame), (OutcomeCode::Timeout, Blame::Network));
    pair.assert_nothing();
}

#[test]
fn a_data_plane_that_refuses_is_told_and_cleaned_up() {
    for initiator in [true, false] {
        let mut pair = Pair::new(sides());
        let peer = if initiator { &mut pair.a } else { &mut pair.b };
        peer.broken_data_plane = Some("no such device".to_owned());
        let request = pair.up();
        pair.settle();
        if initiator {
            let sentence = pair.a.done[&request].clone().unwrap_err();
            assert!(sentence.contains("no such device"), "{sentence}");
        }
        let peer = if initiator { &pair.a } else { &pair.b };
        assert_eq!(peer.failure().code, OutcomeCode::DataPlane);
        pair.assert_children(0);
        let deleted = pair.sent.iter().filter(|p| p.is(ExchangeType::INFORMATIONAL, false)).count();
        assert_eq!(deleted, 1, "the peer's half goes too");
    }
}

#[test]
fn cancelling_ends_the_wait() {
    let (a, b) = sides();
    let mut pair = Pair::new((a, b));
    pair.link = Box::new(|_, _| Fate::Lose);
    let up = pair.up();
    pair.run(Duration::from_secs(1));
    let target = TerminateTarget { connection: Some("to-b".to_owned()), ..Default::default() };
    let down = pair.down(&target);
    pair.collect();
    assert!(pair.a.done[&up].is_err());
    assert_eq!(pair.a.done[&down], Ok(()));
    assert_eq!(pair.a.failure().code, OutcomeCode::Cancelled);
    pair.assert_nothing();
}

#[test]
fn commands_that_name_nothing_say_so() {
    use adit_ike::{CommandError, RequestId, Target};
    let (mut a, b) = sides();
    let mut answering = connection(
        "answering",
        A,
        "192.0.2.9",
        ("a.example", "%any"),
        vec![child("in", "10.1.0.0/16", "10.3.0.0/16")],
    );
    answering.remote_addrs = Vec::new();
    let mut childless = connection("childless", A, "192.0.2.8", ("a.example", "%any"), Vec::new());
    childless.local_addrs = Vec::new();
    let mut roaming = connection(
        "roaming",
        A,
        "192.0.2.2",
        ("a.example", "b.example"),
        vec![child("net", "10.1.0.0/16", "10.2.0.0/16")],
    );
    roaming.local_addrs = Vec::new();
    a.connections.extend([answering, childless, roaming]);
    let mut pair = Pair::new((a, b));
    let target = |connection: Option<&str>, child: Option<&str>| Target {
        connection: connection.map(str::to_owned),
        child: child.map(str::to_owned),
        local: None,
    };
    let mut initiate = |t: &Target| pair.a.gateway.initiate(pair.now, t, RequestId(99));
    assert_eq!(initiate(&target(None, None)), Err(CommandError::NothingNamed));
    assert_eq!(initiate(&target(Some("x"), None)), Err(CommandError::NoSuchConnection("x".to_owned())));
    assert_eq!(initiate(&target(None, Some("x"))), Err(CommandError::NoSuchChild("x".to_owned())));
    assert_eq!(
        initiate(&target(Some("childless"), None)),
        Err(CommandError::NoChildren("childless".to_owned()))
    );
    assert_eq!(
        initiate(&target(Some("answering"), None)),
        Err(CommandError::NoRemoteAddress("answering".to_owned()))
    );
    let roaming = target(Some("roaming"), None);
    assert_eq!(initiate(&roaming), Err(CommandError::NoLocalAddress("roaming".to_owned(), ip("192.0.2.2"))));
    assert_eq!(pair.a.gateway.route_needed(&roaming), Some(ip("192.0.2.2")));
    assert_eq!(pair.a.gateway.route_needed(&target(Some("to-b"), None)), None);
    let found = Target { local: Some(ip(A)), ..roaming };
    assert_eq!(pair.a.gateway.initiate(pair.now, &found, RequestId(99)), Ok(()));
    pair.settle();
    pair.assert_children(1);
    let nothing = TerminateTarget { connection: Some("childless".to_owned()), ..Default::default() };
    assert_eq!(pair.a.gateway.terminate(pair.now, &nothing, RequestId(100)), Err(CommandError::NoSuchSa));
    let all = pair.a.gateway.terminate(pair.now, &TerminateTarget::default(), RequestId(100));
    assert_eq!(all, Err(CommandError::NothingNamed));
}
