//! What is told of the wire without being an outcome: requests sent again and received again, what cannot be decoded, what is
//! for nobody. One address cannot cause many.

use std::time::Duration;

use adit_ike::{NoticeKind, OutcomeCode};
use adit_wire::ikev2::ExchangeType;

use crate::pair::{A, B, Fate, Pair, at, sides};

fn kinds(notices: &[adit_ike::Notice]) -> Vec<NoticeKind> {
    notices.iter().map(|notice| notice.kind).collect()
}

#[test]
fn a_lost_answer_is_told_by_both_sides() {
    let mut pair = Pair::new(sides());
    let mut lost = false;
    pair.link = Box::new(move |_, packet| {
        let lose =
            !lost && packet.header().flags.response && packet.header().exchange == ExchangeType::IKE_AUTH;
        lost |= lose;
        if lose { Fate::Lose } else { Fate::Deliver }
    });
    pair.up();
    pair.run(Duration::from_secs(30));
    assert_eq!(kinds(&pair.a.notices), [NoticeKind::SentAgain]);
    assert_eq!(kinds(&pair.b.notices), [NoticeKind::ReceivedAgain]);
    let both = [(&pair.a.notices, Some("to-b")), (&pair.b.notices, Some("to-a"))];
    for (notice, name) in both.into_iter().flat_map(|(notices, name)| notices.iter().map(move |n| (n, name)))
    {
        assert_eq!((notice.exchange, notice.connection.as_deref()), (Some(ExchangeType::IKE_AUTH), name));
        assert!(notice.ike_sa.is_some(), "{notice:?}");
    }
}

#[test]
fn what_no_peer_sends_is_told_and_not_without_end() {
    let mut pair = Pair::established(sides());
    let mut header = vec![0x11; 16];
    header.extend([46, 0x20, 37, 0x08, 0, 0, 0, 0, 0, 0, 0]);
    // Of an IKE SA that there is not: an Encrypted payload with 40 octets.
    let unknown = [&header[..], &[72, 0, 0, 0, 44], &[0xaa; 40]].concat();
    // A payload that is longer than its message.
    let body = [&header[..], &[40, 0, 0, 0xff, 0xff], &[0; 8]].concat();
    let expected = [
        (b"garbage".to_vec(), NoticeKind::MalformedHeader),
        (body, NoticeKind::MalformedBody),
        (unknown, NoticeKind::UnknownSpi),
    ];
    for (datagram, kind) in expected {
        pair.b.notices.clear();
        pair.b.gateway.handle_datagram(pair.now, at(B, 500), at(A, 500), &datagram);
        pair.run(Duration::from_millis(100));
        assert_eq!(kinds(&pair.b.notices), [kind]);
        assert_eq!(pair.b.notices[0].remote, at(A, 500));
    }
    pair.run(Duration::from_secs(3600));
    pair.b.notices.clear();
    for _ in 0..10_000 {
        pair.b.gateway.handle_datagram(pair.now, at(B, 500), at(A, 500), b"garbage");
    }
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.b.notices.len(), 5, "at once");
    // Another address has its own.
    pair.b.gateway.handle_datagram(pair.now, at(B, 500), at("192.0.2.77", 500), b"garbage");
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.b.notices.len(), 6);
}

/// RFC 2408 3.1 and 5.4: Main Mode is exchange 2, its first message has no cookie of the responder.
#[test]
fn who_speaks_ikev1_is_named() {
    let mut pair = Pair::established(sides());
    let mut first = vec![0x11; 8];
    first.extend([0; 8]);
    first.extend([1, 0x10, 2, 0, 0, 0, 0, 0, 0, 0, 0, 40]);
    first.extend([0; 12]);
    pair.b.gateway.handle_datagram(pair.now, at(B, 500), at(A, 500), &first);
    pair.run(Duration::from_millis(100));
    let record = pair.b.failure();
    assert_eq!((record.code, record.connection.as_deref()), (OutcomeCode::OtherVersion, None));
    assert!(record.cause().contains("192.0.2.1 speaks IKEv1"), "{}", record.cause());
    assert!(record.step().contains("`version = 2`"), "{}", record.step());
}
