//! Messages are counted once, for their connection and in all.

use std::time::Duration;

use adit_ike::{Exchanged, Tally, TerminateTarget};

use crate::pair::*;

fn tally(peer: &Peer) -> Tally {
    let of_connection = peer.gateway.tallies().by_connection().map(|(_, tally)| *tally);
    assert_eq!(of_connection.collect::<Vec<_>>(), [*peer.gateway.tallies().all()], "one connection has all");
    *peer.gateway.tallies().all()
}

const ASKED: Exchanged = Exchanged { requests_in: 0, responses_in: 1, requests_out: 1, responses_out: 0 };
const ANSWERED: Exchanged = Exchanged { requests_in: 1, responses_in: 0, requests_out: 0, responses_out: 1 };

#[test]
fn an_exchange_counts_once_however_often_it_is_sent() {
    let mut pair = Pair::new(sides());
    // Everything arrives twice, and every third datagram not at all.
    pair.link = Box::new(|number, _| if number % 3 == 2 { Fate::Lose } else { Fate::Repeat });
    pair.up();
    pair.run(Duration::from_secs(20));
    pair.assert_children(1);
    let one = |exchanged| Tally { ike_sa_init: exchanged, ike_auth: exchanged, ..Tally::default() };
    assert_eq!(tally(&pair.a), one(ASKED));
    assert_eq!(tally(&pair.b), one(ANSWERED));
}

#[test]
fn rekeyings_count_on_the_side_that_began_them() {
    let mut pair = Pair::established(sides());
    for target in [
        TerminateTarget { child: Some("net".into()), ..TerminateTarget::default() },
        TerminateTarget { connection: Some("to-b".into()), ..TerminateTarget::default() },
    ] {
        let request = pair.a.next_request();
        pair.a.gateway.rekey(pair.now, &target, request).unwrap();
        pair.settle();
    }
    let (a, b) = (tally(&pair.a), tally(&pair.b));
    assert_eq!((a.child_rekeys, a.ike_rekeys_by_us, a.ike_rekeys_by_peer), (1, 1, 0));
    assert_eq!((b.child_rekeys, b.ike_rekeys_by_us, b.ike_rekeys_by_peer), (1, 0, 1));
    assert_eq!((a.create_child_sa.requests_out, a.create_child_sa.responses_in), (2, 2));
    assert_eq!((b.create_child_sa.requests_in, b.create_child_sa.responses_out), (2, 2));
    // Both times the old one is deleted.
    assert_eq!((a.informational, b.informational), (twice(ASKED), twice(ANSWERED)));

    assert!(pair.a.gateway.tallies_mut().reset(Some("to-b")));
    assert!(!pair.a.gateway.tallies_mut().reset(Some("to-b")));
    assert_eq!((pair.a.gateway.tallies().of("to-b"), *pair.a.gateway.tallies().all()), (None, a));
    assert!(pair.a.gateway.tallies_mut().reset(None));
    assert_eq!(tally_of_all(&pair.a), Tally::default());
}

fn tally_of_all(peer: &Peer) -> Tally {
    *peer.gateway.tallies().all()
}

fn twice(one: Exchanged) -> Exchanged {
    Exchanged {
        requests_in: 2 * one.requests_in,
        responses_in: 2 * one.responses_in,
        requests_out: 2 * one.requests_out,
        responses_out: 2 * one.responses_out,
    }
}

#[test]
fn what_belongs_to_no_connection_counts_in_all() {
    let mut pair = Pair::established(sides());
    let auth = pair.sent[2].clone();
    let mut truncated = auth.clone();
    truncated.datagram.truncate(40);
    let mut stranger = auth;
    // Other SPIs, and a request of an exchange that an IKE SA could send.
    stranger.datagram[..16].fill(9);
    pair.deliver(&truncated);
    pair.deliver(&stranger);
    let all = pair.b.gateway.tallies().all();
    assert_eq!((all.malformed, all.unknown_spi), (1, 1));
    let (_, of_connection) = pair.b.gateway.tallies().by_connection().next().unwrap();
    assert_eq!((of_connection.malformed, of_connection.unknown_spi), (0, 0));
}
