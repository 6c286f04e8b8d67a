//! Lookups against their plain definitions, on configurations at random, and what they cost.

use std::sync::Arc;

use adit_crypto::Secret;
use proptest::prelude::*;

use super::*;
use crate::proposal::{choose, parse_ike};

const PROPOSALS: [&str; 3] =
    ["aes256gcm16-prfsha384-x25519", "aes128gcm16-prfsha256-x25519", "aes256gcm16-prfsha384-ecp256"];

/// Few addresses and names, so that they meet.
fn an_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0_u32..16).prop_map(|n| IpAddr::V4((0xc000_0200 + n).into())),
        (0_u128..16).prop_map(|n| IpAddr::V6(((0x2001_0db8 << 96) + n).into())),
    ]
}

fn a_range() -> impl Strategy<Value = AddressSpec> {
    prop_oneof![
        an_address().prop_map(|a| AddressSpec { first: a, last: a }),
        (an_address(), an_address()).prop_map(|(a, b)| {
            let last = if a.is_ipv4() == b.is_ipv4() { b } else { a };
            AddressSpec { first: a.min(last), last: a.max(last) }
        }),
        Just(AddressSpec { first: [0; 4].into(), last: [255; 4].into() }),
        Just(AddressSpec { first: [0; 16].into(), last: [255; 16].into() }),
    ]
}

fn an_identity() -> impl Strategy<Value = Identity> {
    prop_oneof![
        "[ab]\\.(x|y)".prop_map(|name| Identity::fqdn(&name)),
        an_address().prop_map(Identity::address),
    ]
}

fn a_pattern() -> impl Strategy<Value = IdentityPattern> {
    prop_oneof![
        3 => an_identity().prop_map(IdentityPattern::Exact),
        1 => Just(IdentityPattern::Any),
        1 => "\\*\\.(x|y)".prop_map(|text| text.parse().unwrap()),
        1 => a_range().prop_map(|r| IdentityPattern::Addresses(r.first, r.last)),
    ]
}

prop_compose! {
    fn a_connection()(
        local_addrs in prop::collection::vec(a_range(), 0..2),
        remote_addrs in prop::collection::vec(a_range(), 0..3),
        proposals in prop::sample::subsequence(&PROPOSALS, 1..3),
        local_id in prop::option::of(an_identity()),
        remote_id in a_pattern(),
    ) -> Connection {
        let proposals = parse_ike(&proposals.join(",")).unwrap();
        Connection { local_addrs, remote_addrs, proposals, local_id, remote_id, ..Connection::default() }
    }
}

prop_compose! {
    fn a_secret()(owners in prop::collection::vec(a_pattern(), 0..4)) -> SharedSecret {
        SharedSecret { name: String::new(), owners, secret: Arc::new(Secret::new(Vec::new())) }
    }
}

fn named(mut connections: Vec<Connection>) -> Vec<Connection> {
    for (place, connection) in connections.iter_mut().enumerate() {
        connection.name = place.to_string();
    }
    connections
}

/// Every connection that allows these addresses, the most specific first: what is meant.
fn plainly_at(all: &[Connection], local: IpAddr, remote: IpAddr) -> Vec<&Connection> {
    let narrowest = |ranges: &[AddressSpec], address: IpAddr| {
        let holding = ranges.iter().filter(|range| range.contains(address));
        let size = |range: &AddressSpec| match (range.first, range.last) {
            (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(b.to_bits() - a.to_bits()),
            (IpAddr::V6(a), IpAddr::V6(b)) => b.to_bits() - a.to_bits(),
            _ => unreachable!("families never mix"),
        };
        if ranges.is_empty() { Some(u128::MAX) } else { holding.map(size).min() }
    };
    let mut fitting: Vec<_> = all
        .iter()
        .filter_map(|c| Some((narrowest(&c.remote_addrs, remote)?, narrowest(&c.local_addrs, local)?, c)))
        .collect();
    fitting.sort_by_key(|(remote, local, _)| (*remote, *local));
    fitting.into_iter().map(|(.., c)| c).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_connection_of_a_first_request(
        all in prop::collection::vec(a_connection(), 0..12),
        (local, remote) in (an_address(), an_address()),
        offered in prop::sample::select(&PROPOSALS),
    ) {
        let all = named(all);
        let offered = parse_ike(offered).unwrap();
        let plainly = plainly_at(&all, local, remote);
        let connections = Connections::new(all.clone());
        let found = connections.at(local, remote);
        // The nearest one, and the first one that takes what is offered.
        let takes = |c: &Connection| choose(&c.proposals, &offered).is_some();
        prop_assert_eq!(found.first().map(|c| &c.name), plainly.first().map(|c| &c.name));
        let name = found.iter().find(|c| takes(c)).map(|c| &c.name);
        prop_assert_eq!(name, plainly.iter().find(|c| takes(c)).map(|c| &c.name));
    }

    #[test]
    fn the_connection_of_a_peer(
        all in prop::collection::vec(a_connection(), 0..12),
        (local, remote) in (an_address(), an_address()),
        (peer, asked_for) in (an_identity(), prop::option::of(an_identity())),
        offered in prop::sample::select(&PROPOSALS),
        (moved, before) in (any::<bool>(), prop::collection::vec(a_range(), 0..2)),
    ) {
        let all = named(all);
        let offered = parse_ike(offered).unwrap();
        let suits = |c: &Connection| {
            choose(&c.proposals, &offered).is_some()
                && asked_for.as_ref().is_none_or(|id| c.local_id.as_ref().is_some_and(|own| own == id))
        };
        let mut plainly: Option<(Fit, &Connection)> = None;
        for connection in plainly_at(&all, local, remote) {
            let Some(fit) = connection.remote_id.fit(&peer).filter(|_| suits(connection)) else { continue };
            if plainly.is_none_or(|(other, _)| fit > other) {
                plainly = Some((fit, connection));
            }
        }
        // Made at once, or by moving every other one from elsewhere.
        let mut connections = Connections::new(all.clone());
        if moved {
            let elsewhere = |(place, c): (usize, Connection)| {
                if place % 2 == 0 { Connection { remote_addrs: before.clone(), ..c } } else { c }
            };
            connections = Connections::new(all.iter().cloned().enumerate().map(elsewhere).collect());
            all.iter().step_by(2).for_each(|c| connections.replace(c.clone()));
        }
        let found = connections.of_peer(local, remote, &peer, suits);
        prop_assert_eq!(found.map(|c| c.name.clone()), plainly.map(|(_, c)| c.name.clone()));
    }

    #[test]
    fn the_secret_of_a_peer(
        mut all in prop::collection::vec(a_secret(), 0..8),
        (local, peer, accepted) in (an_identity(), an_identity(), a_pattern()),
    ) {
        for (place, secret) in all.iter_mut().enumerate() {
            secret.name = place.to_string();
        }
        let plainly = |fits: &dyn Fn(&IdentityPattern) -> Option<Fit>| {
            let mut best: Option<(_, String)> = None;
            for secret in &all {
                let Some(fit) = secret.fit(&local, fits) else { continue };
                if best.as_ref().is_none_or(|(other, _)| fit > *other) {
                    best = Some((fit, secret.name.clone()));
                }
            }
            best.map(|(_, name)| name)
        };
        let known = plainly(&|owner| owner.fit(&peer));
        let open = plainly(&|owner| {
            owner.fit(&peer).or_else(|| owner.meets(&accepted).filter(|_| owner.fit(&local).is_none()))
        });
        let secrets = Secrets::new(all, Vec::new());
        prop_assert_eq!(secrets.between(&local, &peer).map(|s| s.name.clone()), known);
        if accepted.exact().is_none() {
            prop_assert_eq!(secrets.with_any(&local, &accepted, &peer).map(|s| s.name.clone()), open);
        }
    }

    #[test]
    fn prefixes_make_up_their_range(range in a_range(), address in an_address()) {
        let (v4, bits, value) = number(address);
        let holding = prefixes(&range)
            .into_iter()
            .filter(|(family, length, network)| *family == v4 && value & mask(bits, *length) == *network);
        prop_assert_eq!(holding.count(), usize::from(range.contains(address)));
    }
}

/// How many connections and secrets are looked at must not depend on how many there are. They are laid out as badly as a
/// real configuration could be: all with one gateway as owner, at addresses, in networks, or anywhere.
#[test]
fn costs() {
    let gateway = Identity::fqdn("gw.example");
    let mut looked_at = Vec::new();
    for count in [1_u32, 1_000, 100_000] {
        let spoke = |n: u32| Identity::fqdn(&format!("spoke{n}.example"));
        let proposals = parse_ike(PROPOSALS[0]).unwrap();
        let connections = (0..count).map(|n| {
            let first = 0x0a00_0000 + n * 16;
            let range = |size: u32| AddressSpec {
                first: IpAddr::V4(first.into()),
                last: IpAddr::V4((first + size).into()),
            };
            Connection {
                name: n.to_string(),
                remote_addrs: [vec![range(0)], vec![range(7)], vec![]][n as usize % 3].clone(),
                remote_id: if n % 2 == 0 { IdentityPattern::Exact(spoke(n)) } else { IdentityPattern::Any },
                local_id: Some(gateway.clone()),
                proposals: proposals.clone(),
                ..Connection::default()
            }
        });
        let connections = Connections::new(connections.collect());
        let secrets = (0..count).map(|n| {
            let owners = [gateway.clone(), spoke(n)].map(IdentityPattern::Exact).to_vec();
            SharedSecret { name: n.to_string(), owners, secret: Arc::new(Secret::new(Vec::new())) }
        });
        let secrets = Secrets::new(secrets.collect(), Vec::new());
        let mut most = 0;
        for n in [0, count / 2, count - 1] {
            let remote = IpAddr::V4((0x0a00_0000 + n * 16).into());
            let counter = std::cell::Cell::new(connections.at(remote, remote).len());
            let found = connections.of_peer(remote, remote, &spoke(n), |_| {
                counter.set(counter.get() + 1);
                true
            });
            if n % 2 == 0 {
                assert_eq!(found.unwrap().name, n.to_string());
            }
            assert_eq!(secrets.between(&gateway, &spoke(n)).unwrap().name, n.to_string());
            let owned = secrets.by_owner[&spoke(n)].len() + secrets.open.len();
            most = most.max(counter.get() + owned + connections.lengths.len());
        }
        looked_at.push(most);
    }
    println!("{looked_at:?}");
    assert!(looked_at.iter().all(|n| *n <= 12), "{looked_at:?}");
}
