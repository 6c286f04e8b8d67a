//! Handshakes that succeed.

use std::time::Duration;

use adit_ike::{IkeSaState, OutcomeCode, TerminateTarget, proposal};
use adit_wire::ikev2::{ExchangeType, NotifyType};

use crate::pair::{A, B, Fate, Packet, Pair, at, child, ip, sides};

#[test]
fn a_tunnel_comes_up_in_four_messages() {
    let pair = Pair::established(sides());
    assert_eq!(pair.trace(), ["IKE_SA_INIT -> 0", "IKE_SA_INIT <- 0", "IKE_AUTH -> 1", "IKE_AUTH <- 1"]);
    assert!(pair.sent.iter().all(|p| p.source.port() == 500 && p.destination.port() == 500));
    for peer in [&pair.a, &pair.b] {
        let sas: Vec<_> = peer.gateway.ike_sas().collect();
        assert_eq!(sas.len(), 1);
        assert_eq!(sas[0].state, IkeSaState::Established);
        assert_eq!(sas[0].children.len(), 1);
        assert!(!sas[0].nat_local && !sas[0].nat_remote && !sas[0].nat_fake);
        assert_eq!(peer.codes(), [OutcomeCode::Success, OutcomeCode::Success]);
        let install = peer.installed.values().next().unwrap();
        assert_eq!((install.encap, install.replay_window), (None, 1024));
    }
    let a = pair.a.gateway.ike_sas().next().unwrap();
    assert_eq!(a.remote_id.unwrap().to_string(), "b.example");
    assert_eq!(a.connection, "to-b");
    assert!(a.initiator);
    // The order in which a daemon must act: nothing is reported before it is installed.
    let events: Vec<&str> =
        pair.a.events.iter().filter(|e| !e.starts_with("progress")).map(String::as_str).collect();
    assert_eq!(events, ["ike-up to-b", "child-up net", "done Ok(())"]);
}

#[test]
fn every_suite_works() {
    for (ike, esp) in [
        ("aes256gcm16-prfsha384-x25519", "aes256gcm16"),
        ("aes128gcm16-prfsha256-ecp256", "aes128gcm16"),
        ("aes192gcm16-prfsha512-ecp521", "aes192gcm16-esn"),
        ("chacha20poly1305-prfsha256-ecp384", "chacha20poly1305"),
        ("aes256-sha256-modp2048", "aes256-sha256"),
        ("aes128-sha384-ecp384", "aes128-sha384-esn"),
        ("aes192-sha512-x25519", "aes192-sha512"),
        ("default", "default"),
    ] {
        let (mut a, mut b) = sides();
        for side in [&mut a, &mut b] {
            side.connection().proposals = proposal::parse_ike(ike).unwrap();
            side.connection().children[0].proposals = proposal::parse_esp(esp).unwrap();
        }
        let pair = Pair::established((a, b));
        let install = pair.a.installed.values().next().unwrap();
        assert_eq!(install.transforms.esn, esp.contains("esn") || esp == "default", "{esp}");
    }
}

#[test]
fn ipv6_between_the_gateways() {
    let (mut a, mut b) = sides();
    for (side, local, remote) in
        [(&mut a, "2001:db8::1", "2001:db8::2"), (&mut b, "2001:db8::2", "2001:db8::1")]
    {
        let spec = |text| adit_ike::config::AddressSpec { first: ip(text), last: ip(text) };
        side.connection().local_addrs = vec![spec(local)];
        side.connection().remote_addrs = vec![spec(remote)];
    }
    let pair = Pair::established((a, b));
    assert!(pair.sent.iter().all(|p| p.source.is_ipv6()));
    assert!(!pair.a.gateway.ike_sas().next().unwrap().nat_local);
}

#[test]
fn several_children_come_up_one_exchange_each() {
    let (mut a, mut b) = sides();
    a.connection().children.push(child("six", "fd01::/64", "fd02::/64"));
    a.connection().children.push(child("third", "10.11.0.0/16", "10.12.0.0/16"));
    b.connection().children.push(child("sechs", "fd02::/64", "fd01::/64"));
    b.connection().children.push(child("dritte", "10.12.0.0/16", "10.11.0.0/16"));
    let mut pair = Pair::new((a, b));
    let request = pair.up();
    pair.settle();
    assert_eq!(pair.a.done[&request], Ok(()));
    pair.assert_children(3);
    assert_eq!(
        pair.trace()[4..],
        ["CREATE_CHILD_SA -> 2", "CREATE_CHILD_SA <- 2", "CREATE_CHILD_SA -> 3", "CREATE_CHILD_SA <- 3"]
    );
    let mut names: Vec<&str> = pair.b.installed.values().map(|i| i.child.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["dritte", "net", "sechs"]);
    // What is up stays as it is.
    let again = pair.up_child("six");
    pair.settle();
    assert_eq!(pair.a.done[&again], Ok(()));
    pair.assert_children(3);
}

#[test]
fn a_child_with_forward_secrecy() {
    let (mut a, mut b) = sides();
    a.connection().children.push(child("pfs", "10.11.0.0/16", "10.12.0.0/16"));
    b.connection().children.push(child("pfs", "10.12.0.0/16", "10.11.0.0/16"));
    a.connection().children[1].proposals = proposal::parse_esp("aes256gcm16-ecp256-x25519").unwrap();
    b.connection().children[1].proposals = proposal::parse_esp("aes256gcm16-x25519").unwrap();
    let mut pair = Pair::new((a, b));
    let request = pair.up();
    pair.settle();
    assert_eq!(pair.a.done[&request], Ok(()));
    pair.assert_children(2);
    // The first method was not the responder's: it asked for the other one.
    let asked: Vec<_> = pair
        .sent
        .iter()
        .filter(|p| p.is(ExchangeType::CREATE_CHILD_SA, true))
        .map(|p| pair.open(p))
        .collect();
    assert_eq!(crate::pair::notifies(&asked[0]), [NotifyType::INVALID_KE_PAYLOAD]);
    assert_eq!(asked.len(), 2);
    let view = pair.a.gateway.ike_sas().next().unwrap();
    assert_eq!(
        view.children.iter().find(|c| c.name == "pfs").unwrap().ke.unwrap().to_string(),
        "CURVE_25519"
    );
    assert_eq!(view.children.iter().find(|c| c.name == "net").unwrap().ke, None);
}

#[test]
fn the_responder_can_ask_for_children_too() {
    let (mut a, mut b) = sides();
    a.connection().children.push(child("more", "10.11.0.0/16", "10.12.0.0/16"));
    b.connection().children.push(child("more", "10.12.0.0/16", "10.11.0.0/16"));
    let mut pair = Pair::new((a, b));
    pair.up_child("net");
    pair.settle();
    pair.assert_children(1);
    let request = pair.b.next_request();
    let target = adit_ike::Target { child: Some("more".to_owned()), ..Default::default() };
    pair.b.gateway.initiate(pair.now, &target, request).unwrap();
    pair.settle();
    assert_eq!(pair.b.done[&request], Ok(()));
    pair.assert_children(2);
    assert_eq!(pair.trace()[4..], ["CREATE_CHILD_SA -> 0", "CREATE_CHILD_SA <- 0"], "on the same IKE SA");
}

#[test]
fn another_method_is_asked_for_and_given() {
    let (mut a, mut b) = sides();
    a.connection().proposals = proposal::parse_ike("aes256gcm16-prfsha384-x25519-ecp384").unwrap();
    b.connection().proposals = proposal::parse_ike("aes256gcm16-prfsha384-ecp384").unwrap();
    let pair = Pair::established((a, b));
    assert_eq!(pair.sent[1].clear_notifies(), [NotifyType::INVALID_KE_PAYLOAD]);
    assert_eq!(pair.sent[1].header().responder_spi.0, 0, "no state for a refusal");
    let (first, second) = (pair.sent[0].header(), pair.sent[2].header());
    assert_eq!(first.initiator_spi, second.initiator_spi);
}

#[test]
fn cookies_are_demanded_and_brought() {
    let (mut a, mut b) = sides();
    a.connection().proposals = proposal::parse_ike("aes256gcm16-prfsha384-x25519-ecp384").unwrap();
    b.connection().proposals = proposal::parse_ike("aes256gcm16-prfsha384-ecp384").unwrap();
    b.settings.cookie_threshold = 0;
    let pair = Pair::established((a, b));
    // COOKIE, then INVALID_KE_PAYLOAD for the request with cookie, then the answer (RFC 7296 2.6.1).
    assert_eq!(pair.sent[1].clear_notifies(), [NotifyType::COOKIE]);
    assert_eq!(pair.sent[2].clear_notifies()[0], NotifyType::COOKIE, "the cookie comes first");
    assert_eq!(pair.sent[3].clear_notifies(), [NotifyType::INVALID_KE_PAYLOAD]);
    assert_eq!(pair.sent[4].clear_notifies()[0], NotifyType::COOKIE, "and stays");
    assert_eq!(pair.b.gateway.counters().cookies_demanded, 1);
}

#[test]
fn narrowing_is_told() {
    let (a, mut b) = sides();
    b.connection().children = vec![child("part", "10.2.7.0/24", "10.1.0.0/16")];
    let pair = Pair::established((a, b));
    let install = pair.a.installed.values().next().unwrap();
    assert_eq!(install.remote_ts[0].to_string(), "10.2.7.0/24");
    assert_eq!(pair.a.codes(), [OutcomeCode::Success, OutcomeCode::Narrowed]);
    assert!(pair.a.records[1].message.contains("10.2.0.0/16"), "{}", pair.a.records[1].message);
}

#[test]
fn forced_encapsulation_floats_to_4500() {
    let (mut a, b) = sides();
    a.connection().encap = true;
    let pair = Pair::established((a, b));
    let ports: Vec<u16> = pair.sent.iter().map(|p| p.source.port()).collect();
    assert_eq!(ports, [500, 500, 4500, 4500]);
    assert_eq!(pair.a.installed.values().next().unwrap().encap, Some((4500, 4500)));
    let view = pair.a.gateway.ike_sas().next().unwrap();
    assert_eq!((view.nat_local, view.nat_remote, view.nat_fake), (false, false, true));
    assert!(pair.b.gateway.ike_sas().next().unwrap().nat_remote);
}

/// `a` behind a NAT that gives it 198.51.100.7 and a port of its own per port.
fn through_nat() -> Pair {
    let (a, mut b) = sides();
    b.connection().remote_addrs = Vec::new();
    let mut pair = Pair::new((a, b));
    let outside = |port: u16| at("198.51.100.7", if port == 500 { 10_500 } else { 14_500 });
    pair.link = Box::new(move |_, p| {
        let mut packet = p.clone();
        if p.source.ip() == ip(A) {
            packet.source = outside(p.source.port());
        } else {
            assert_eq!(p.destination.ip(), ip("198.51.100.7"), "answers go to where requests come from");
            packet.destination = at(A, if p.destination.port() == 10_500 { 500 } else { 4500 });
        }
        Fate::Replace(vec![packet])
    });
    pair
}

#[test]
fn a_nat_is_found_and_crossed() {
    let mut pair = through_nat();
    let request = pair.up();
    pair.settle();
    assert_eq!(pair.a.done[&request], Ok(()), "{:?}", pair.b.events);
    let (a, b) = (pair.a.gateway.ike_sas().next().unwrap(), pair.b.gateway.ike_sas().next().unwrap());
    assert_eq!((a.nat_local, a.nat_remote), (true, false));
    assert_eq!((b.nat_local, b.nat_remote), (false, true));
    assert_eq!(b.remote, at("198.51.100.7", 14_500));
    assert_eq!(pair.a.installed.values().next().unwrap().encap, Some((4500, 4500)));
    let install = pair.b.installed.values().next().unwrap();
    assert_eq!((install.encap, install.remote), (Some((4500, 14_500)), ip("198.51.100.7")));
}

#[test]
fn behind_a_nat_keepalives_are_sent() {
    let mut pair = through_nat();
    pair.up();
    pair.run(Duration::from_secs(65));
    assert_eq!(pair.a.keepalives, [(at(A, 4500), at(B, 4500)); 3], "every 20 s of silence");
    assert!(pair.b.keepalives.is_empty(), "only who is behind it");
}

/// The NAT forgets `a` and gives it another port: `b` follows what is authentic and new, and nothing else.
#[test]
fn a_nat_that_moves_is_followed() {
    let mut pair = through_nat();
    pair.up();
    pair.settle();
    let stale = pair.sent[2].clone();
    let elsewhere = at("198.51.100.7", 20_000);
    pair.deliver(&Packet { source: elsewhere, ..stale });
    assert_eq!(
        pair.b.gateway.ike_sas().next().unwrap().remote,
        at("198.51.100.7", 14_500),
        "a repetition moves nothing"
    );
    pair.link = Box::new(move |_, p| {
        let mut packet = p.clone();
        if p.source.ip() == ip(A) {
            packet.source = elsewhere;
        } else {
            packet.destination = at(A, 4500);
        }
        Fate::Replace(vec![packet])
    });
    let down = pair.down(&TerminateTarget { child: Some("net".to_owned()), ..Default::default() });
    pair.settle();
    assert_eq!(pair.a.done[&down], Ok(()));
    assert_eq!(pair.b.gateway.ike_sas().next().unwrap().remote, elsewhere);
}

#[test]
fn a_peer_on_another_port_is_reached_there() {
    let (mut a, b) = sides();
    a.connection().remote_port = 4500;
    let pair = Pair::established((a, b));
    assert!(pair.sent.iter().all(|p: &Packet| p.source.port() == 4500 && p.destination.port() == 4500));
}

#[test]
fn the_better_connection_is_found_by_identity() {
    let (a, mut b) = sides();
    let mut other = b.connections[0].clone();
    other.name = "somebody".to_owned();
    other.remote_id = "c.example".parse().unwrap();
    let mut anyone = b.connections[0].clone();
    anyone.name = "anyone".to_owned();
    anyone.remote_id = "%any".parse().unwrap();
    b.connections = vec![other, anyone, b.connections[0].clone()];
    let pair = Pair::established((a, b));
    assert_eq!(pair.b.gateway.ike_sas().next().unwrap().connection, "to-a");
}

#[test]
fn the_more_specific_address_is_asked_first() {
    let (a, mut b) = sides();
    let mut open = b.connections[0].clone();
    open.name = "open".to_owned();
    open.remote_addrs = Vec::new();
    open.proposals =
        proposal::parse_ike("aes128gcm16-prfsha256-x25519, aes256gcm16-prfsha384-x25519").unwrap();
    b.connections.insert(0, open);
    let pair = Pair::established((a, b));
    assert_eq!(pair.b.gateway.ike_sas().next().unwrap().connection, "to-a");
}

#[test]
fn addresses_are_identities_by_default() {
    let (mut a, mut b) = sides();
    for side in [&mut a, &mut b] {
        side.connection().local_id = None;
        side.connection().remote_id = "%any".parse().unwrap();
    }
    a.secrets = vec![crate::pair::secret(&[B], crate::pair::KEY)];
    b.secrets = vec![crate::pair::secret(&[], crate::pair::KEY)];
    let pair = Pair::established((a, b));
    let view = pair.b.gateway.ike_sas().next().unwrap();
    assert_eq!(
        (view.local_id.unwrap().to_string(), view.remote_id.unwrap().to_string()),
        (B.into(), A.into())
    );
}

/// The initiator does not know yet which of the accepted peers will answer, but who may own the secret.
#[test]
fn the_secret_of_a_peer_known_by_pattern() {
    let (mut a, b) = sides();
    a.connection().remote_id = "*.example".parse().unwrap();
    a.secrets = vec![
        crate::pair::secret(&["a.example", "b.elsewhere"], b"another secret"),
        crate::pair::secret(&["a.example", "b.example"], crate::pair::KEY),
    ];
    Pair::established((a, b)).assert_children(1);
}

#[test]
fn both_sides_can_take_it_down() {
    for by_initiator in [true, false] {
        for whole in [true, false] {
            let mut pair = Pair::established(sides());
            let name = if by_initiator { "to-b" } else { "to-a" };
            let target = if whole {
                TerminateTarget { connection: Some(name.to_owned()), ..Default::default() }
            } else {
                TerminateTarget { child: Some("net".to_owned()), ..Default::default() }
            };
            let peer = if by_initiator { &mut pair.a } else { &mut pair.b };
            let request = peer.next_request();
            assert_eq!(peer.gateway.terminate(pair.now, &target, request), Ok(1));
            pair.settle();
            let peer = if by_initiator { &pair.a } else { &pair.b };
            assert_eq!(peer.done[&request], Ok(()));
            pair.assert_children(0);
            assert_eq!((pair.a.removed, pair.b.removed), (1, 1));
            let left = if whole { 0 } else { 1 };
            assert_eq!(pair.a.gateway.ike_sas().count(), left);
            assert_eq!(pair.b.gateway.ike_sas().count(), left);
            assert_eq!(pair.trace().len(), 6, "one INFORMATIONAL exchange");
            pair.run(Duration::from_secs(60));
            assert_eq!(pair.a.gateway.poll_timeout(), None, "nothing is left to be done");
            assert_eq!(pair.b.gateway.poll_timeout(), None);
        }
    }
}

#[test]
fn shutting_down_says_goodbye() {
    let mut pair = Pair::established(sides());
    pair.a.gateway.shutdown(pair.now);
    pair.settle();
    pair.assert_nothing();
    let request = pair.a.next_request();
    let target = adit_ike::Target { connection: Some("to-b".to_owned()), ..Default::default() };
    assert_eq!(
        pair.a.gateway.initiate(pair.now, &target, request),
        Err(adit_ike::CommandError::ShuttingDown)
    );
}
