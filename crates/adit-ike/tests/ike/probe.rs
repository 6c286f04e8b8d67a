//! Padded liveness checks: what passes, what is swallowed for its size, what is lost by chance, and who is dead.

use std::time::Duration;

use adit_ike::config::Fragmentation;
use adit_ike::{CommandError, DownReason, Probed, proposal};
use adit_wire::ikev2::{ExchangeType, NotifyType, Payload};

use crate::pair::{Fate, Packet, Pair, notifies, sides};

const PACE: Duration = Duration::from_millis(200);

/// Octets of the IPv4 packet: what comes before the message, on the port with the marker or on the one without.
fn octets(packet: &Packet) -> usize {
    packet.datagram.len() + 20 + 8 + if packet.source.port() == 4500 { 4 } else { 0 }
}

/// No larger packet gets through, and nobody says so.
fn hole(pair: &mut Pair, largest: usize) {
    pair.link = Box::new(move |_, packet| if octets(packet) > largest { Fate::Lose } else { Fate::Deliver });
}

/// Probes from the gateway that dialled, and says what came of it after some time.
fn probe(pair: &mut Pair, size: u16, time: Duration) -> Option<Probed> {
    let handle = pair.a.gateway.ike_sas().next().unwrap().handle;
    pair.a.probes.clear();
    pair.a.gateway.probe(pair.now, handle, size, PACE).unwrap();
    pair.run(time);
    assert!(pair.a.probes.len() <= 1, "{:?}", pair.a.probes);
    let probe = pair.a.probes.pop()?;
    assert_eq!((probe.size, probe.ike_sa), (size, handle));
    Some(probe.result)
}

#[test]
fn what_fits_passes_and_is_as_large_as_was_asked_for() {
    for (suite, exact) in [
        ("aes256gcm16-prfsha384-x25519", 1),
        ("aes256-sha256-x25519", 16),
        ("chacha20poly1305-prfsha256-x25519", 1),
    ] {
        let mut sides = sides();
        for side in [&mut sides.0, &mut sides.1] {
            side.connection().proposals = proposal::parse_ike(suite).unwrap();
        }
        let mut pair = Pair::established(sides);
        for size in [1500, 1280, 576, 9000] {
            let before = pair.sent.len();
            let passed = probe(&mut pair, size, Duration::from_secs(1));
            assert_eq!(passed, Some(Probed::Passed(Some(Duration::from_millis(20)))), "two ways of 10 ms");
            let sent = &pair.sent[before..];
            assert_eq!(sent.len(), 2, "one request, one response");
            assert!(
                (usize::from(size) - exact + 1..=usize::from(size)).contains(&octets(&sent[0])),
                "{suite}"
            );
            assert!(octets(&sent[1]) < 128, "the answer is small");
            assert!(sent[0].is(ExchangeType::INFORMATIONAL, false));
            let inside = pair.open(&sent[0]);
            // RFC 7296 3.10.1: types from 40960 on are status types for private use.
            assert!(matches!(&inside[..], [Payload::Notify(n)] if n.notify_type >= NotifyType(40_960)));
            assert_eq!(notifies(&pair.open(&sent[1])), []);
        }
        pair.assert_children(1);
    }
}

#[test]
fn an_ordinary_check_measures_the_round_trip() {
    let mut sides = sides();
    sides.0.connection().fragmentation = Fragmentation::No;
    let mut pair = Pair::established(sides);
    let before = pair.sent.len();
    let passed = probe(&mut pair, 0, Duration::from_secs(1));
    assert_eq!(passed, Some(Probed::Passed(Some(Duration::from_millis(20)))));
    assert_eq!(pair.open(&pair.sent[before]), []);
    // Lost once, it comes again: how long one way takes is not known then.
    let (mut lost, pace) = (false, pair.now);
    pair.link =
        Box::new(move |_, _| if std::mem::replace(&mut lost, true) { Fate::Deliver } else { Fate::Lose });
    assert_eq!(probe(&mut pair, 0, Duration::from_secs(60)), Some(Probed::Passed(None)));
    assert!(pair.now > pace);
    // A large one could be lost for ever: without fragments there is none.
    let handle = pair.a.gateway.ike_sas().next().unwrap().handle;
    assert_eq!(pair.a.gateway.probe(pair.now, handle, 1500, PACE), Err(CommandError::NoFragments));
    assert_eq!(
        pair.a.gateway.probe(pair.now, adit_ike::IkeSaHandle(99), 0, PACE),
        Err(CommandError::NoSuchSa)
    );
}

#[test]
fn what_is_too_large_is_found_out_by_pieces_that_pass() {
    let mut pair = Pair::established(sides());
    hole(&mut pair, 1300);
    for (size, passes) in [(1500, false), (1301, false), (1300, true), (1280, true)] {
        let (begun, before) = (pair.now, pair.sent.len());
        let result = probe(&mut pair, size, 5 * PACE);
        match result {
            Some(Probed::Passed(_)) => assert!(passes, "{size}"),
            Some(Probed::Blocked) => assert!(!passes, "{size}"),
            other => panic!("{size}: {other:?}"),
        }
        let requests: Vec<_> = pair.sent[before..].iter().filter(|p| !p.header().flags.response).collect();
        let whole = requests.iter().filter(|p| octets(p) == usize::from(size)).count();
        assert_eq!(whole, if passes { 1 } else { 3 }, "{size}");
        // RFC 7296 2.1: the same request, not another one.
        assert!(requests.iter().all(|p| p.header().message_id == requests[0].header().message_id));
        assert!(requests.iter().all(|p| octets(p) == usize::from(size) || octets(p) <= 576));
        assert!(pair.now - begun <= 5 * PACE);
    }
    // The IKE SA is as good as before.
    assert!(pair.a.down.is_empty() && pair.b.down.is_empty());
    pair.link = Box::new(|_, _| Fate::Deliver);
    assert!(matches!(probe(&mut pair, 1500, Duration::from_secs(1)), Some(Probed::Passed(Some(_)))));
}

/// Some peers do not take the fragments of a liveness check; they are no less alive.
#[test]
fn who_takes_no_fragments_of_it_is_asked_without() {
    let mut pair = Pair::established(sides());
    let is_fragment = |packet: &Packet| packet.datagram.get(16) == Some(&53);
    let largest = |packet: &Packet| octets(packet) <= 1300;
    pair.link = Box::new(
        move |_, packet| if largest(packet) && !is_fragment(packet) { Fate::Deliver } else { Fate::Lose },
    );
    for (size, expected) in [(1500, Probed::Blocked), (1301, Probed::Blocked)] {
        let before = pair.sent.len();
        assert_eq!(probe(&mut pair, size, 8 * PACE), Some(expected), "{size}");
        let requests: Vec<_> = pair.sent[before..].iter().filter(|p| !p.header().flags.response).collect();
        // Once in its last form, which is the same request to whoever has received another.
        let last = requests.iter().filter(|p| largest(p) && !is_fragment(p)).count();
        assert_eq!(last, 1, "{size}");
        assert!(requests.iter().all(|p| p.header().message_id == requests[0].header().message_id));
    }
    assert!(matches!(probe(&mut pair, 1300, Duration::from_secs(1)), Some(Probed::Passed(Some(_)))));
    assert!(pair.a.down.is_empty() && pair.b.down.is_empty());
}

/// What was answered before in another form is answered with the same.
#[test]
fn a_lost_answer_comes_again_for_any_form() {
    let mut pair = Pair::established(sides());
    let mut lost = 0;
    pair.link = Box::new(move |_, packet| {
        let drop = packet.header().flags.response && lost < 4;
        lost += u32::from(drop);
        if drop { Fate::Lose } else { Fate::Deliver }
    });
    assert!(probe(&mut pair, 1500, 12 * PACE).is_some());
    assert!(pair.a.down.is_empty() && pair.b.down.is_empty());
}

#[test]
fn who_answers_nothing_at_all_is_dead_in_the_usual_time() {
    let mut pair = Pair::established(sides());
    pair.link = Box::new(|_, _| Fate::Lose);
    assert_eq!(
        probe(&mut pair, 1500, Duration::from_secs(60)),
        None,
        "nothing is learnt, and nothing given up"
    );
    assert!(pair.a.down.is_empty());
    pair.run(Duration::from_secs(200));
    assert_eq!(pair.a.probes.pop().unwrap().result, Probed::Abandoned);
    assert!(pair.a.down.iter().all(|reason| *reason == DownReason::PeerDead) && !pair.a.down.is_empty());
    assert!(pair.a.installed.is_empty());
}

/// A tenth of all datagrams is lost. That alone is rarely taken for a hole, hardly ever twice in a row, which is what lowers
/// anything.
#[test]
fn loss_alone_looks_like_a_hole_very_rarely() {
    let (mut blocked, mut in_a_row, mut last) = (0, 0, false);
    for seed in 0..10_u64 {
        let mut pair = Pair::established(sides());
        let mut state = seed * 77 + 1;
        pair.link = Box::new(move |_, _| {
            // Knuth's linear congruential generator.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if (state >> 33) % 10 == 0 { Fate::Lose } else { Fate::Deliver }
        });
        for _ in 0..100 {
            let now = match probe(&mut pair, 1500, Duration::from_secs(30)) {
                Some(Probed::Passed(_)) => false,
                Some(Probed::Blocked) => true,
                other => panic!("{other:?}"),
            };
            blocked += u32::from(now);
            in_a_row += u32::from(now && last);
            last = now;
        }
    }
    // Three requests or their answers in a row: 0.19^3 is 7 of 1,000.
    assert!(blocked < 20, "{blocked} of 1,000");
    assert_eq!(in_a_row, 0);
}

#[test]
fn others_wait_their_turn_and_the_end_is_told() {
    let mut pair = Pair::established(sides());
    hole(&mut pair, 1300);
    let handle = pair.a.gateway.ike_sas().next().unwrap().handle;
    pair.a.gateway.probe(pair.now, handle, 1500, PACE).unwrap();
    pair.a.gateway.probe(pair.now, handle, 1280, PACE).unwrap();
    let request = pair.down(&adit_ike::TerminateTarget { ike_sa: Some(handle), ..Default::default() });
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.a.done.get(&request), Some(&Ok(())));
    pair.assert_nothing();
    let results: Vec<_> = pair.a.probes.iter().map(|probe| (probe.size, probe.result)).collect();
    assert!(
        results.contains(&(1500, Probed::Blocked)) && results.contains(&(1280, Probed::Abandoned)),
        "{results:?}"
    );
}
