//! A new configuration under SAs that are up.

use std::time::Duration;

use adit_ike::config::{Configuration, Lifetime};
use adit_ike::{Target, proposal};
use adit_wire::ikev2::ExchangeType;

use crate::pair::*;

fn configure(peer: &mut Peer, side: Side) {
    let Side { connections, secrets, ppks, .. } = side;
    peer.gateway.set_configuration(Configuration { connections, secrets, ppks, ..Configuration::default() });
}

fn requests(pair: &Pair, exchange: ExchangeType) -> usize {
    pair.sent.iter().filter(|p| p.is(exchange, false)).count()
}

/// What does not concern what is agreed on takes effect on IKE SAs that are up.
#[test]
fn a_change_that_needs_no_new_sa_needs_none() {
    let mut pair = Pair::established(sides());
    let (mut a, mut b) = sides();
    a.connection().dpd_delay = Duration::from_secs(30);
    a.connection().children[0].limits.time =
        Lifetime { soft: Duration::from_secs(60), hard: Duration::from_secs(90), jitter: Duration::ZERO };
    a.connection().children.push(child("more", "10.3.0.0/16", "10.4.0.0/16"));
    b.connection().children.push(child("more", "10.4.0.0/16", "10.3.0.0/16"));
    configure(&mut pair.a, a);
    configure(&mut pair.b, b);
    pair.settle();
    assert_eq!(pair.sent.len(), 4, "nothing is said about it");
    pair.run(Duration::from_secs(31));
    assert_eq!(requests(&pair, ExchangeType::INFORMATIONAL), 1, "liveness is checked");
    // A child that is new comes up on the IKE SA that is there, as responder and as initiator.
    let request = pair.b.next_request();
    let target = Target { child: Some("more".into()), ..Target::default() };
    pair.b.gateway.initiate(pair.now, &target, request).unwrap();
    pair.settle();
    assert_eq!(pair.b.done.get(&request), Some(&Ok(())));
    pair.assert_children(2);
    assert_eq!((pair.a.gateway.ike_sas().count(), requests(&pair, ExchangeType::IKE_SA_INIT)), (1, 1));
    // The next Child SA has the new limits.
    let request = pair.a.next_request();
    let target = adit_ike::TerminateTarget { child: Some("net".into()), ..Default::default() };
    pair.a.gateway.rekey(pair.now, &target, request).unwrap();
    pair.settle();
    let sa = pair.a.gateway.ike_sas().next().unwrap();
    let net = sa.children.iter().rfind(|c| c.name == "net").unwrap();
    assert_eq!(net.rekey_at, Some(net.installed + Duration::from_secs(60)));
}

/// An operator who cannot wait for a peer does not.
#[test]
fn an_ike_sa_is_ended_at_once_and_told_once() {
    let mut pair = Pair::established(sides());
    pair.link = Box::new(|_, _| Fate::Lose);
    let target = adit_ike::TerminateTarget { connection: Some("to-b".into()), ..Default::default() };
    let request = pair.a.next_request();
    assert_eq!(pair.a.gateway.terminate_at_once(pair.now, &target, request), Ok(1));
    pair.collect();
    assert_eq!(pair.a.done.get(&request), Some(&Ok(())));
    assert_eq!((pair.a.gateway.ike_sas().count(), pair.a.installed.len()), (0, 0));
    assert_eq!(requests(&pair, ExchangeType::INFORMATIONAL), 1, "the Delete");
    pair.run(Duration::from_secs(300));
    assert_eq!(requests(&pair, ExchangeType::INFORMATIONAL), 1);
    assert!(pair.a.gateway.terminate_at_once(pair.now, &target, request).is_err());
}

/// What was agreed on stays as it is until an operator, or the daemon for one, ends it.
#[test]
fn a_change_that_needs_a_new_sa_does_not_touch_the_old_one() {
    let mut pair = Pair::established(sides());
    let (mut a, _) = sides();
    a.connection().dpd_delay = Duration::from_secs(30);
    a.connection().proposals = proposal::parse_ike("aes128gcm16-prfsha256-x25519").unwrap();
    configure(&mut pair.a, a);
    pair.run(Duration::from_secs(300));
    assert_eq!(pair.sent.len(), 4);
    pair.assert_children(1);
}
