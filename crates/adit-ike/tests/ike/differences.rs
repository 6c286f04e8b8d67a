//! What a record says about a failure: the first difference, exactly where the peer showed what it has, inferred where it
//! showed it elsewhere, and a step that mends it.

use adit_ike::{NegotiationRecord, OutcomeCode, Stage, proposal};

use crate::pair::{KEY, Pair, Side, child, secret, sides};

/// Brings up what does not fit; the records of both sides.
fn refused(spoil: impl FnOnce(&mut Side, &mut Side)) -> [NegotiationRecord; 2] {
    let (mut a, mut b) = sides();
    spoil(&mut a, &mut b);
    let mut pair = Pair::new((a, b));
    let request = pair.up();
    pair.run(std::time::Duration::from_secs(60));
    assert!(pair.a.done[&request].is_err());
    [pair.a.failure().clone(), pair.b.failure().clone()]
}

fn name(record: &NegotiationRecord) -> &'static str {
    record.difference().expect("both sides are known").name()
}

#[test]
fn every_transform_of_ike() {
    let ours = "aes256gcm16-prfsha384-x25519";
    for (theirs, differs, there, here) in [
        ("aes128gcm16-prfsha384-x25519", "encryption", "aes128gcm16-prfsha384-x25519", ours),
        ("aes256gcm16-prfsha256-x25519", "prf", "aes256gcm16-prfsha256-x25519", ours),
        ("aes256gcm16-prfsha384-ecp256", "key-exchange", "aes256gcm16-prfsha384-ecp256", ours),
        ("aes256-sha384-prfsha384-x25519", "encryption", "aes256-sha384-prfsha384-x25519", ours),
        (
            "aes256gcm16-prfsha384-x25519-ke1_mlkem768",
            "additional-key-exchange",
            "aes256gcm16-prfsha384-x25519-ke1_mlkem768",
            ours,
        ),
        // The nearest of several is what counts, and of it only what differs.
        (
            "aes128-sha256-modp2048, aes256gcm16-aes128gcm16-prfsha384-prfsha256-ecp256-ecp384",
            "key-exchange",
            "aes256gcm16-prfsha384-ecp256",
            ours,
        ),
    ] {
        let [a, b] = refused(|a, b| {
            a.connection().proposals = proposal::parse_ike(theirs).unwrap();
            b.connection().proposals = proposal::parse_ike(ours).unwrap();
        });
        assert_eq!((b.code, name(&b)), (OutcomeCode::NoProposalChosen, differs), "{theirs}");
        assert!(b.step().contains(&format!("on the peer add {here} ")), "{}", b.step());
        assert!(b.step().contains(&format!("here add {there} to `proposals`")), "{}", b.step());
        // The initiator learns only that it is so.
        assert_eq!((a.code, a.difference()), (OutcomeCode::NoProposalChosen, None));
        assert!(a.cause().contains("refused our IKE proposals (NO_PROPOSAL_CHOSEN)"), "{}", a.cause());
    }
    let [_, b] = refused(|a, b| {
        a.connection().proposals = proposal::parse_ike("aes256-sha256-prfsha256-x25519").unwrap();
        b.connection().proposals = proposal::parse_ike("aes256-sha512-prfsha256-x25519").unwrap();
    });
    assert_eq!(name(&b), "integrity");
    assert!(b.cause().contains("integrity (here sha512, peer sha256)"), "{}", b.cause());
    assert!(b.step().contains("here add aes256-sha256-prfsha256-x25519"), "{}", b.step());
}

#[test]
fn every_transform_of_esp() {
    for (ours, theirs, differs, here) in [
        ("aes256gcm16", "aes128gcm16", "encryption", "aes128gcm16"),
        ("aes256-sha256", "aes128-sha256", "encryption", "aes128-sha256"),
        ("aes256-sha256", "aes256-sha512", "integrity", "aes256-sha512"),
        ("aes256gcm16-noesn", "aes256gcm16-esn", "sequence-numbers", "aes256gcm16-esn"),
    ] {
        let [a, b] = refused(|a, b| {
            a.connection().children[0].proposals = proposal::parse_esp(theirs).unwrap();
            b.connection().children[0].proposals = proposal::parse_esp(ours).unwrap();
        });
        assert_eq!(
            (b.stage, b.child.as_deref(), name(&b)),
            (Stage::ChildSa, Some("net"), differs),
            "{theirs}"
        );
        assert!(b.step().contains(&format!("here add {here} to `esp_proposals`")), "{}", b.step());
        assert_eq!((a.stage, a.difference()), (Stage::ChildSa, None));
    }
}

/// IKE_AUTH makes a child without a key exchange, so that only its rekeying finds out.
#[test]
fn forward_secrecy_that_only_one_side_wants() {
    let (mut a, mut b) = sides();
    a.connection().children[0].proposals = proposal::parse_esp("aes256gcm16-x25519").unwrap();
    b.connection().children[0].proposals = proposal::parse_esp("aes256gcm16-ecp384").unwrap();
    let mut pair = Pair::established((a, b));
    let request = pair.a.next_request();
    let target = adit_ike::TerminateTarget { child: Some("net".to_owned()), ..Default::default() };
    pair.a.gateway.rekey(pair.now, &target, request).unwrap();
    pair.settle();
    let b = pair.b.failure();
    assert_eq!((b.stage, name(b)), (Stage::ChildSa, "key-exchange"));
    assert!(b.step().contains("here add aes256gcm16-x25519 to `esp_proposals`"), "{}", b.step());
    assert!(
        pair.a.failure().step().contains("on the peer add aes256gcm16-x25519"),
        "{}",
        pair.a.failure().step()
    );
}

#[test]
fn each_side_of_the_selectors() {
    for (local, remote, differs, step) in [
        ("10.9.0.0/16", "10.1.0.0/16", "local-addresses", "here `local_ts = 10.2.0.0/16`"),
        ("10.2.0.0/16", "10.9.0.0/16", "remote-addresses", "here `remote_ts = 10.1.0.0/16`"),
        ("fd02::/64", "10.1.0.0/16", "local-addresses", "here `local_ts = 10.2.0.0/16`"),
    ] {
        let [a, b] = refused(|_, b| b.connection().children = vec![child("net", local, remote)]);
        assert_eq!(
            (b.code, b.child.as_deref(), name(&b)),
            (OutcomeCode::TsUnacceptable, Some("net"), differs)
        );
        assert!(b.step().contains(step), "{}", b.step());
        assert!(a.step().contains("`local_ts = 10.2.0.0/16` and `remote_ts = 10.1.0.0/16`"), "{}", a.step());
    }
    // The child that was probably meant, not the first.
    let [_, b] = refused(|_, b| {
        b.connection().children =
            vec![child("other", "10.77.0.0/16", "10.78.0.0/16"), child("net", "10.2.0.0/16", "10.78.0.0/16")];
    });
    assert_eq!((b.child.as_deref(), name(&b)), (Some("net"), "remote-addresses"));
}

#[test]
fn protocol_and_port() {
    let spec = |text: &str, protocol, port| {
        let mut selector = match child("x", text, text).local_ts[0] {
            adit_ike::config::SelectorSpec::Fixed(selector) => selector,
            ref other => panic!("{other:?}"),
        };
        (selector.protocol, selector.start_port, selector.end_port) = (protocol, port, port);
        vec![adit_ike::config::SelectorSpec::Fixed(selector)]
    };
    for (ours, theirs, differs) in
        [((6, 443), (17, 443), "remote-protocol"), ((6, 443), (6, 80), "remote-ports")]
    {
        let [_, b] = refused(|a, b| {
            a.connection().children[0].local_ts = spec("10.1.0.0/16", theirs.0, theirs.1);
            b.connection().children[0].remote_ts = spec("10.1.0.0/16", ours.0, ours.1);
        });
        assert_eq!(name(&b), differs);
        assert!(b.cause().contains("10.1.0.0/16["), "{}", b.cause());
    }
}

#[test]
fn what_is_narrowed_is_told() {
    let (a, mut b) = sides();
    b.connection().children = vec![child("part", "10.2.7.0/24", "10.1.0.0/16")];
    let pair = Pair::established((a, b));
    let narrowed = pair.a.records.iter().find(|r| r.code == OutcomeCode::Narrowed).unwrap();
    assert_eq!(name(narrowed), "remote-extent");
    assert!(
        narrowed.step().contains("`local_ts = 10.2.0.0/16`, or here `remote_ts = 10.2.7.0/24`"),
        "{}",
        narrowed.step()
    );
    // Who is asked for more than it has gives all that it has.
    assert_eq!(pair.b.records.iter().find(|r| r.code == OutcomeCode::Narrowed).unwrap().difference(), None);
}

#[test]
fn identities_by_value_and_by_type() {
    // Who initiates is somebody else.
    let [a, b] = refused(|_, b| b.connection().remote_id = "z.example".parse().unwrap());
    assert_eq!((b.code, name(&b)), (OutcomeCode::IdentityMismatch, "peer-identity"));
    assert!(
        b.cause().contains("says it is a.example (ID_FQDN); we accept z.example (ID_FQDN)"),
        "{}",
        b.cause()
    );
    assert!(b.step().contains("here `remote.id = a.example`"), "{}", b.step());
    assert!(a.cause().contains("refused our authentication as a.example (ID_FQDN)"), "{}", a.cause());
    assert!(a.step().contains("`secrets.ike-1`") && a.step().contains("b.example"), "{}", a.step());

    let [_, b] = refused(|a, b| {
        a.connection().local_id = Some("keyid:a.example".parse().unwrap());
        a.secrets = vec![secret(&[], KEY)];
        b.secrets = vec![secret(&[], KEY)];
    });
    assert_eq!(name(&b), "peer-identity-type");
    assert!(b.cause().contains("keyid:a.example (ID_KEY_ID), an identity of another type"), "{}", b.cause());

    // Who is asked for is somebody else.
    let [_, b] = refused(|a, _| {
        a.connection().remote_id = "z.example".parse().unwrap();
        a.secrets = vec![secret(&[], KEY)];
    });
    assert_eq!(name(&b), "own-identity");
    assert!(b.step().contains("remote side to b.example, or here `local.id = z.example`"), "{}", b.step());

    // Who answers is somebody else.
    let [a, _] = refused(|a, _| {
        a.connection().remote_id = "192.0.2.0/24".parse().unwrap();
        a.secrets = vec![secret(&[], KEY)];
    });
    assert_eq!((a.code, name(&a)), (OutcomeCode::IdentityMismatch, "peer-identity-type"));
    assert!(a.step().contains("here `remote.id = b.example`"), "{}", a.step());
}

#[test]
fn keys() {
    let [a, b] = refused(|_, b| b.secrets = vec![secret(&["a.example"], b"another secret")]);
    assert_eq!((b.code, name(&b)), (OutcomeCode::AuthenticationFailed, "pre-shared-key"));
    assert!(
        b.cause().contains("keys of b.example (ID_FQDN) and a.example (ID_FQDN) differ"),
        "{}",
        b.cause()
    );
    for record in [a, b] {
        let all = format!("{}{}{record:?}", record.cause(), record.step());
        assert!(!all.contains("another secret") && !all.contains("a long shared"), "{all}");
    }
    let [a, _] = refused(|a, _| a.secrets.clear());
    assert_eq!((a.code, a.difference()), (OutcomeCode::NoSharedSecret, None));
    assert!(a.cause().contains("b.example"), "{}", a.cause());
}

/// Two gateways that both dial: what each learns as responder explains what it was refused as initiator.
#[test]
fn what_the_peer_asks_for_itself_explains_its_refusal() {
    let [failed, _] = refused(|a, _| {
        a.connection().proposals = proposal::parse_ike("aes128gcm16-prfsha384-x25519").unwrap()
    });
    // The same two with their roles changed: what b offers, as a sees it.
    let (mut a, b) = sides();
    a.connection().proposals = proposal::parse_ike("aes128gcm16-prfsha384-x25519").unwrap();
    let mut pair = Pair::new((b, a));
    std::mem::swap(&mut pair.homes_a, &mut pair.homes_b);
    let request = pair.up_connection("to-a");
    pair.run(std::time::Duration::from_secs(60));
    assert!(pair.a.done[&request].is_err());
    let seen = pair.b.failure();
    assert!(!seen.initiator && seen.connection.as_deref() == Some("to-b"));

    let informed = failed.informed_by(seen).unwrap();
    assert!(informed.inferred && !failed.inferred);
    assert_eq!(name(&informed), "encryption");
    assert!(
        informed.step().contains("here add aes256gcm16-prfsha384-x25519 to `proposals`"),
        "{}",
        informed.step()
    );
    assert!(seen.informed_by(&failed).is_none(), "an initiator's record tells nothing of the peer");
    let elsewhere = NegotiationRecord { remote: "192.0.2.77:500".parse().unwrap(), ..seen.clone() };
    assert!(failed.informed_by(&elsewhere).is_none());
}

#[test]
fn silence() {
    let mut pair = Pair::new(sides());
    pair.link = Box::new(|_, _| crate::pair::Fate::Lose);
    pair.up();
    pair.run(std::time::Duration::from_secs(300));
    let record = pair.a.failure();
    assert_eq!((record.code, record.stage), (OutcomeCode::Timeout, Stage::IkeSaInit));
    let times = pair.sent.len();
    assert!(record.cause().ends_with(&format!("to IKE_SA_INIT, sent {times} times")), "{}", record.cause());
    assert!(record.step().contains("500 and 4500"), "{}", record.step());
}
