//! Negotiation of IP-TFS (RFC 9347 5.1).

use std::time::Duration;

use adit_ike::config::Lifetime;
use adit_ike::{OutcomeCode, proposal};
use adit_wire::esp::Mode;
use adit_wire::ikev2::{ExchangeType, NotifyType, Payload};

use crate::pair::{Pair, Peer, Side, sides};

const WHOLE: Mode = Mode::Iptfs { fragments: false };
const ANY: Mode = Mode::Iptfs { fragments: true };

fn with(a: (Mode, bool), b: (Mode, bool)) -> (Side, Side) {
    let (mut side_a, mut side_b) = sides();
    for (side, (mode, strict)) in [(&mut side_a, a), (&mut side_b, b)] {
        let child = &mut side.connection().children[0];
        (child.mode, child.strict_mode) = (mode, strict);
    }
    (side_a, side_b)
}

fn modes(peer: &Peer) -> Vec<Mode> {
    peer.installed.values().map(|child| child.mode).collect()
}

/// The data of USE_AGGFRAG in the last request or response of an exchange.
fn said(pair: &Pair, exchange: ExchangeType, response: bool) -> Vec<Vec<u8>> {
    let packet = pair.sent.iter().rfind(|packet| packet.is(exchange, response)).unwrap();
    let data = |payload: Payload| match payload {
        Payload::Notify(notify) if notify.notify_type == NotifyType::USE_AGGFRAG => Some(notify.data),
        _ => None,
    };
    pair.open(packet).into_iter().filter_map(data).collect()
}

/// Each side learns whether the other takes parts of packets: flag D is 0x01 (RFC 9347 5.1).
#[test]
fn agreed_with_the_flags_of_each_side() {
    for (a, b) in [(ANY, ANY), (WHOLE, ANY), (ANY, WHOLE), (WHOLE, WHOLE)] {
        let pair = Pair::established(with((a, true), (b, true)));
        assert_eq!((modes(&pair.a), modes(&pair.b)), (vec![b], vec![a]));
        let flags = |mode| vec![vec![u8::from(mode == WHOLE)]];
        assert_eq!(said(&pair, ExchangeType::IKE_AUTH, false), flags(a));
        assert_eq!(said(&pair, ExchangeType::IKE_AUTH, true), flags(b));
    }
}

/// RFC 9347 5.1 with RFC 7296 1.3.3: the rekeying asks for it anew, whichever side begins, also with a key exchange to follow,
/// and on another IKE SA.
#[test]
fn agreed_again_at_every_rekeying() {
    for (initiator, esp) in [
        (true, "aes256gcm16-noesn"),
        (false, "aes256gcm16-noesn"),
        (true, "aes256gcm16-x25519-ke1_mlkem768-noesn"),
    ] {
        let (mut a, mut b) = with((ANY, true), (WHOLE, true));
        let side = if initiator { &mut a } else { &mut b };
        let soft = Duration::from_secs(60);
        side.connection().children[0].limits.time = Lifetime { soft, hard: soft * 2, jitter: Duration::ZERO };
        a.connection().rekey = Lifetime { soft: soft * 2 + soft / 2, hard: soft * 4, jitter: Duration::ZERO };
        for side in [&mut a, &mut b] {
            side.connection().children[0].proposals = proposal::parse_esp(esp).unwrap();
        }
        let mut pair = Pair::established((a, b));
        for _ in 0..4 {
            let before: Vec<_> = pair.a.installed.keys().copied().collect();
            pair.run(soft + Duration::from_secs(6));
            assert!(!before.contains(pair.a.installed.keys().next().unwrap()));
            pair.assert_children(1);
            assert_eq!((modes(&pair.a), modes(&pair.b)), (vec![WHOLE], vec![ANY]));
        }
    }
}

#[test]
fn who_does_without_gets_tunnel_mode() {
    for (a, b) in [((ANY, false), (Mode::Tunnel, false)), ((Mode::Tunnel, true), (ANY, false))] {
        let mut pair = Pair::established(with(a, b));
        assert_eq!((modes(&pair.a), modes(&pair.b)), (vec![Mode::Tunnel], vec![Mode::Tunnel]));
        assert_eq!(said(&pair, ExchangeType::IKE_AUTH, true), Vec::<Vec<u8>>::new());
        pair.run(Duration::from_secs(1));
        pair.assert_children(1);
    }
}

/// Traffic that is to be hidden is not sent without: the initiator deletes the child (RFC 9347 5.1), the responder refuses it.
#[test]
fn who_insists_gets_nothing_else() {
    let mut pair = Pair::new(with((ANY, true), (Mode::Tunnel, false)));
    let request = pair.up();
    pair.run(Duration::from_secs(2));
    assert!(pair.a.done[&request].as_ref().unwrap_err().contains("mode"), "{:?}", pair.a.done);
    assert!(pair.a.installed.is_empty(), "it was never in the data plane");
    assert!(pair.b.installed.is_empty(), "and the peer was told");

    let mut pair = Pair::new(with((Mode::Tunnel, false), (ANY, true)));
    let request = pair.up();
    pair.run(Duration::from_secs(2));
    assert!(pair.a.done[&request].is_err());
    assert_eq!(pair.b.failure().code, OutcomeCode::NoProposalChosen);
    assert!(pair.b.failure().message.contains("mode"), "{}", pair.b.failure().message);
    assert!(pair.a.installed.is_empty() && pair.b.installed.is_empty());
}

/// Of two children for the same traffic the one in the mode that is asked for serves.
#[test]
fn the_child_in_the_mode_that_is_asked_for_serves() {
    for mode in [Mode::Tunnel, ANY] {
        for first in [Mode::Tunnel, ANY] {
            let (a, mut b) = with((mode, true), (first, false));
            let children = &mut b.connection().children;
            let mut other = children[0].clone();
            other.mode = if first == ANY { Mode::Tunnel } else { ANY };
            other.name = "other".to_owned();
            children.push(other);
            let pair = Pair::established((a, b));
            assert_eq!((modes(&pair.a), modes(&pair.b)), (vec![mode], vec![mode]));
        }
    }
}
