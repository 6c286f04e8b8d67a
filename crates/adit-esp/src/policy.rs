//! What becomes of an outbound packet (RFC 4301 4.4.1, 5.1): the security policy database.
//!
//! This module owns the order of policies, for everybody who has to agree about it: the first entry that fits a packet decides.
//! It never decides what happens to a packet that no policy matches, and knows no SA: a policy exists whether or not an SA
//! serves it.

use std::cmp::Reverse;

use adit_wire::ikev2::TrafficSelector;
use adit_wire::ip::Flow;

use crate::selector::{Endpoint, Rule};

/// What is done with the traffic of a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Action {
    /// It travels on an SA or not at all.
    #[default]
    Protect,
    /// It travels in the clear.
    Bypass,
    /// It does not travel.
    Discard,
}

/// All policies, compiled for lookup and never changed: publish a new table instead, behind an `Arc`.
#[derive(Clone, Debug, Default)]
pub struct PolicyTable {
    v4: Family,
    v6: Family,
}

/// Traffic, and what is done with it.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The smaller, the sooner it is considered; 0 means none is given, and comes after all that are.
    pub priority: u32,
    /// What is done with it.
    pub action: Action,
    /// Our side: where its packets come from.
    pub local_ts: Vec<TrafficSelector>,
    /// The peer's side: where its packets go.
    pub remote_ts: Vec<TrafficSelector>,
}

/// A policy's place in the list that the table was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyIndex(pub usize);

/// A pair of selectors of a policy, in the order that [`ordered`] gives it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Whose it is.
    pub policy: PolicyIndex,
    /// What is done with its packets.
    pub action: Action,
    /// Is it the exception from a wider entry that nobody wrote down (see [`ordered`])?
    pub implied: bool,
    /// Our side.
    pub local: TrafficSelector,
    /// The peer's side, of the same address family.
    pub remote: TrafficSelector,
    rank: Rank,
}

/// The policies as the list that is read from its beginning until an entry fits: by priority, then the most specific addresses,
/// protocol and ports first, then as they are listed.
///
/// What bypasses does so in both directions, and a gateway forwards it: what comes from the other side leaves towards ours. So
/// there is an entry for either way round.
///
/// Where the peer's side of a policy that protects holds a network of our side, traffic between networks of ours is not meant:
/// an implied entry before it lets that bypass. So `10.1.0.0/16 <-> 0.0.0.0/0` leaves hosts of `10.1.0.0/16` free to reach
/// each other.
#[must_use]
pub fn ordered(policies: &[Policy]) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (index, Policy { priority, action, local_ts, remote_ts }) in policies.iter().enumerate() {
        let (policy, action) = (PolicyIndex(index), *action);
        for remote in remote_ts {
            for local in local_ts.iter().filter(|local| local.start.is_ipv4() == remote.start.is_ipv4()) {
                let rank = rank(*priority, &Rule::from(local), &Rule::from(remote));
                entries.push(Entry { policy, action, implied: false, local: *local, remote: *remote, rank });
                if action == Action::Bypass {
                    let (local, remote) = (*remote, *local);
                    entries.push(Entry { policy, action, implied: false, local, remote, rank });
                }
                if action != Action::Protect {
                    continue;
                }
                for inner in local_ts.iter().filter(|inner| lies_within(inner, remote)) {
                    // Of any port, so that later fragments bypass as well.
                    let remote = TrafficSelector { protocol: remote.protocol, ..whole(inner) };
                    let local = TrafficSelector { protocol: local.protocol, ..whole(local) };
                    entries.push(Entry {
                        policy,
                        action: Action::Bypass,
                        implied: true,
                        local,
                        remote,
                        rank,
                    });
                }
            }
        }
    }
    // Stable, so equal ranks keep the order of the list.
    entries.sort_by_key(|entry| (entry.rank, !entry.implied));
    entries
}

fn whole(selector: &TrafficSelector) -> TrafficSelector {
    TrafficSelector::range(selector.start, selector.end)
}

/// Are the addresses of `inner` some of those of `outer`, but not all?
fn lies_within(inner: &TrafficSelector, outer: &TrafficSelector) -> bool {
    inner.start.is_ipv4() == outer.start.is_ipv4()
        && outer.start <= inner.start
        && inner.end <= outer.end
        && (outer.start, outer.end) != (inner.start, inner.end)
}

impl PolicyTable {
    /// Compiles `policies` in the order of [`ordered`].
    #[must_use]
    pub fn new(policies: &[Policy]) -> Self {
        let (v4, v6) = ordered(policies).iter().map(Line::from).partition(|line: &Line| !line.remote.v6);
        Self { v4: Family::new(v4), v6: Family::new(v6) }
    }

    /// The policy that an outbound packet falls under, and what it does: source on our side, destination on the peer's.
    /// `None` if there is none.
    #[must_use]
    pub fn lookup_outbound(&self, flow: &Flow) -> Option<(PolicyIndex, Action)> {
        let (source, destination) = Endpoint::of(flow);
        self.matches(source, destination).next().map(|line| (line.policy, line.action))
    }

    /// The same for a packet of the peer's: source on the peer's side, destination on ours.
    #[must_use]
    pub fn lookup_inbound(&self, flow: &Flow) -> Option<(PolicyIndex, Action)> {
        let (source, destination) = Endpoint::of(flow);
        self.matches(destination, source).next().map(|line| (line.policy, line.action))
    }

    /// The policies that protect an outbound packet: the one of [`lookup_outbound`](Self::lookup_outbound), then those
    /// that describe the packet exactly as closely with the same priority. A policy with several selectors can come twice.
    pub fn candidates_outbound(&self, flow: &Flow) -> impl Iterator<Item = PolicyIndex> {
        let (source, destination) = Endpoint::of(flow);
        let mut rank = None;
        self.matches(source, destination)
            .take_while(move |line| {
                *rank.get_or_insert(line.rank) == line.rank && line.action == Action::Protect
            })
            .map(|line| line.policy)
    }

    fn matches(&self, local: Endpoint, remote: Endpoint) -> impl Iterator<Item = &Line> {
        let family = if remote.address.v6 { &self.v6 } else { &self.v4 };
        family.matches(local, remote)
    }
}

type Rank = (bool, u32, Reverse<(u32, u32, u32)>);

fn rank(priority: u32, local: &Rule, remote: &Rule) -> Rank {
    let ((l_bits, l_protocol, l_ports), (r_bits, r_protocol, r_ports)) =
        (local.specificity(), remote.specificity());
    let specificity = (l_bits + r_bits, u32::from(l_protocol) + u32::from(r_protocol), l_ports + r_ports);
    (priority == 0, priority, Reverse(specificity))
}

/// An [`Entry`], compiled.
#[derive(Clone, Debug)]
struct Line {
    rank: Rank,
    local: Rule,
    remote: Rule,
    policy: PolicyIndex,
    action: Action,
}

impl From<&Entry> for Line {
    fn from(entry: &Entry) -> Self {
        let (local, remote) = (Rule::from(&entry.local), Rule::from(&entry.remote));
        Self { rank: entry.rank, local, remote, policy: entry.policy, action: entry.action }
    }
}

/// The lines of one address family. The destination addresses are cut where any remote selector begins or ends; each
/// piece lists the lines whose remote side holds it, so a lookup is one binary search and a walk of a short list.
#[derive(Clone, Debug, Default)]
struct Family {
    /// In rank order.
    lines: Vec<Line>,
    /// First address of each piece, ascending; a piece ends where the next begins.
    starts: Vec<u128>,
    /// For each piece, where its candidates begin; they end where the next begin, and those of the last at the end.
    firsts: Vec<u32>,
    /// Indices into `lines`, ascending for each piece.
    candidates: Vec<u32>,
}

impl Family {
    fn new(lines: Vec<Line>) -> Self {
        let mut starts: Vec<u128> = lines
            .iter()
            .flat_map(|e| [Some(e.remote.first), e.remote.last.checked_add(1)])
            .flatten()
            .collect();
        starts.sort_unstable();
        starts.dedup();
        let mut lists = vec![Vec::new(); starts.len()];
        for (index, line) in (0_u32..).zip(&lines) {
            let from = starts.partition_point(|start| *start < line.remote.first);
            let to = starts.partition_point(|start| *start <= line.remote.last);
            for piece in lists.get_mut(from..to).into_iter().flatten() {
                piece.push(index);
            }
        }
        let (mut firsts, mut candidates) = (Vec::with_capacity(lists.len()), Vec::new());
        for list in &lists {
            firsts.push(candidates.len() as u32);
            candidates.extend_from_slice(list);
        }
        Self { lines, starts, firsts, candidates }
    }

    fn matches(&self, local: Endpoint, remote: Endpoint) -> impl Iterator<Item = &Line> {
        let piece = self.starts.partition_point(|start| *start <= remote.address.value).checked_sub(1);
        let candidates = piece.and_then(|piece| {
            let first = *self.firsts.get(piece)? as usize;
            let end = self.firsts.get(piece + 1).map_or(self.candidates.len(), |end| *end as usize);
            self.candidates.get(first..end)
        });
        let candidates = candidates.unwrap_or_default();
        candidates
            .iter()
            .filter_map(|index| self.lines.get(*index as usize))
            .filter(move |line| line.local.admits(&local) && line.remote.admits(&remote))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::ops::RangeInclusive;

    use proptest::prelude::*;

    use super::*;
    use crate::Selectors;

    pub(crate) fn ts(start: &str, end: &str, protocol: u8, ports: RangeInclusive<u16>) -> TrafficSelector {
        TrafficSelector {
            protocol,
            start_port: *ports.start(),
            end_port: *ports.end(),
            start: start.parse().unwrap(),
            end: end.parse().unwrap(),
        }
    }

    pub(crate) fn flow(source: &str, destination: &str, protocol: u8, ports: Option<(u16, u16)>) -> Flow {
        Flow {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
            source_port: ports.map(|p| p.0),
            destination_port: ports.map(|p| p.1),
            fragment: false,
            total_len: 0,
        }
    }

    fn policy(priority: u32, local: &[TrafficSelector], remote: &[TrafficSelector]) -> Policy {
        Policy { priority, action: Action::Protect, local_ts: local.to_vec(), remote_ts: remote.to_vec() }
    }

    fn found(table: &PolicyTable, source: &str, destination: &str) -> Option<usize> {
        table.lookup_outbound(&flow(source, destination, 6, Some((1000, 80)))).map(|(p, _)| p.0)
    }

    #[test]
    fn the_most_specific_wins_whatever_the_order_of_the_list() {
        let any = ts("0.0.0.0", "255.255.255.255", 0, 0..=65535);
        let net = ts("10.2.0.0", "10.2.255.255", 0, 0..=65535);
        let host = ts("10.2.0.7", "10.2.0.7", 0, 0..=65535);
        let web = ts("10.2.0.7", "10.2.0.7", 6, 80..=80);
        let all = [any, net, host, web]
            .map(|remote| policy(0, &[ts("10.1.0.0", "10.1.255.255", 0, 0..=65535)], &[remote]));
        let reversed: Vec<_> = all.iter().rev().cloned().collect();
        let (table, reversed) = (PolicyTable::new(&all), PolicyTable::new(&reversed));
        for (destination, index) in [("8.8.8.8", 0), ("10.2.9.9", 1), ("10.2.0.7", 3)] {
            assert_eq!(found(&table, "10.1.0.1", destination), Some(index), "{destination}");
            assert_eq!(found(&reversed, "10.1.0.1", destination), Some(3 - index), "{destination}");
        }
        let dns = flow("10.1.0.1", "10.2.0.7", 17, Some((5, 53)));
        assert_eq!(table.lookup_outbound(&dns), Some((PolicyIndex(2), Action::Protect)));
    }

    #[test]
    fn a_given_priority_comes_before_specificity() {
        let local = [ts("10.1.0.0", "10.1.255.255", 0, 0..=65535)];
        let table = PolicyTable::new(&[
            policy(0, &local, &[ts("10.2.0.7", "10.2.0.7", 0, 0..=65535)]),
            policy(9, &local, &[ts("10.2.0.0", "10.2.0.255", 0, 0..=65535)]),
            policy(8, &local, &[ts("10.2.0.0", "10.2.0.127", 0, 0..=65535)]),
            policy(9, &local, &[ts("10.2.0.0", "10.2.0.255", 0, 0..=65535)]),
        ]);
        assert_eq!(found(&table, "10.1.0.1", "10.2.0.7"), Some(2));
        assert_eq!(found(&table, "10.1.0.1", "10.2.0.200"), Some(1), "equal ones as they are listed");
    }

    #[test]
    fn equals_stand_in_for_each_other_and_others_do_not() {
        let local = [ts("10.1.0.0", "10.1.255.255", 0, 0..=65535)];
        let net = |second: u8| ts(&format!("10.{second}.0.0"), &format!("10.{second}.255.255"), 0, 0..=65535);
        let table = PolicyTable::new(&[
            policy(0, &local, &[ts("10.0.0.0", "10.255.255.255", 0, 0..=65535)]),
            policy(0, &local, &[net(2), net(3)]),
            policy(0, &local, &[net(3), net(4)]),
            policy(5, &local, &[net(4)]),
        ]);
        let all = |destination: &str| -> Vec<usize> {
            let flow = flow("10.1.0.1", destination, 6, Some((1000, 80)));
            table.candidates_outbound(&flow).map(|index| index.0).collect()
        };
        assert_eq!(all("10.2.0.1"), [1], "not the wider one");
        assert_eq!(all("10.3.0.1"), [1, 2]);
        assert_eq!(all("10.4.0.1"), [3], "not the one without priority");
        assert_eq!(all("10.5.0.1"), [0]);
        assert!(all("11.0.0.1").is_empty());
    }

    #[test]
    fn what_no_policy_matches_is_none() {
        let table = PolicyTable::new(&[policy(
            0,
            &[ts("10.1.0.0", "10.1.255.255", 0, 0..=65535)],
            &[ts("10.2.0.0", "10.2.255.255", 6, 0..=65535)],
        )]);
        assert_eq!(found(&table, "10.1.0.1", "10.2.0.0"), Some(0));
        assert_eq!(found(&table, "10.1.0.1", "10.2.255.255"), Some(0));
        assert_eq!(found(&table, "10.1.0.1", "10.1.255.255"), None);
        assert_eq!(found(&table, "10.1.0.1", "10.3.0.0"), None);
        assert_eq!(found(&table, "10.9.0.1", "10.2.0.1"), None, "source outside");
        assert_eq!(found(&table, "10.2.0.1", "10.1.0.1"), None, "the other direction");
        assert_eq!(found(&table, "fd00::1", "fd00::2"), None);
        assert_eq!(table.lookup_outbound(&flow("10.1.0.1", "10.2.0.1", 17, Some((1, 2)))), None);
        assert_eq!(found(&PolicyTable::default(), "10.1.0.1", "10.2.0.1"), None);
    }

    #[test]
    fn ipv6_and_the_last_address_of_all() {
        let table = PolicyTable::new(&[policy(
            0,
            &[ts("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 0, 0..=65535)],
            &[ts("fd02::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 0, 0..=65535)],
        )]);
        assert_eq!(found(&table, "fd01::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), Some(0));
        assert_eq!(found(&table, "fd01::1", "fd02::"), Some(0));
        assert_eq!(found(&table, "fd01::1", "fd01:ffff::"), None);
    }

    fn selectors() -> impl Strategy<Value = Vec<TrafficSelector>> {
        let address = |host: u8| IpAddr::V4(Ipv4Addr::new(10, 0, 0, host));
        let one = (0_u8..12, 0_u8..12, prop::sample::select(vec![0_u8, 6, 17]), 0_u16..3, 0_u16..4).prop_map(
            move |(a, b, protocol, p, q)| TrafficSelector {
                protocol,
                start_port: if q == 3 { 0 } else { p.min(q) },
                end_port: if q == 3 { u16::MAX } else { p.max(q) },
                start: address(a.min(b)),
                end: address(a.max(b)),
            },
        );
        prop::collection::vec(one, 1..4)
    }

    #[test]
    fn the_first_that_fits_decides_whatever_it_does() {
        let local = [ts("10.1.0.0", "10.1.255.255", 0, 0..=65535)];
        let with = |action, policy: Policy| Policy { action, ..policy };
        let net = |end: &str| [ts("10.2.0.0", end, 0, 0..=65535)];
        let table = PolicyTable::new(&[
            policy(0, &local, &net("10.2.255.255")),
            with(Action::Bypass, policy(0, &local, &net("10.2.0.255"))),
            with(Action::Discard, policy(0, &local, &net("10.2.0.15"))),
            with(Action::Discard, policy(0, &local, &net("10.2.255.255"))),
            with(Action::Bypass, policy(7, &local, &net("10.2.0.1"))),
        ]);
        for (destination, expected) in [
            ("10.2.7.7", (0, Action::Protect)),
            ("10.2.0.77", (1, Action::Bypass)),
            ("10.2.0.7", (2, Action::Discard)),
            ("10.2.0.1", (4, Action::Bypass)),
        ] {
            let out = flow("10.1.0.1", destination, 6, Some((1000, 80)));
            let back = flow(destination, "10.1.0.1", 6, Some((80, 1000)));
            for found in [table.lookup_outbound(&out), table.lookup_inbound(&back)] {
                assert_eq!(found.map(|(policy, action)| (policy.0, action)), Some(expected), "{destination}");
            }
            let candidates: Vec<_> = table.candidates_outbound(&out).map(|policy| policy.0).collect();
            assert_eq!(candidates, if expected.0 == 0 { vec![0] } else { vec![] }, "{destination}");
        }
    }

    #[test]
    fn between_networks_of_ours_a_wide_policy_does_not_stand() {
        let net = |second: u8| ts(&format!("10.{second}.0.0"), &format!("10.{second}.255.255"), 0, 0..=65535);
        let all = ts("0.0.0.0", "255.255.255.255", 0, 0..=65535);
        let table = PolicyTable::new(&[
            policy(0, &[net(1), net(2)], &[all]),
            policy(0, &[net(1)], &[ts("10.2.9.0", "10.2.9.255", 0, 0..=65535)]),
        ]);
        let action = |destination: &str| {
            table.lookup_outbound(&flow("10.1.0.1", destination, 6, Some((1, 2)))).map(|(_, action)| action)
        };
        assert_eq!(action("10.1.0.2"), Some(Action::Bypass));
        assert_eq!(action("10.2.0.2"), Some(Action::Bypass));
        assert_eq!(action("10.2.9.2"), Some(Action::Protect), "somebody said so");
        assert_eq!(action("10.3.0.1"), Some(Action::Protect));
        let discard = Policy { action: Action::Discard, ..policy(0, &[net(1)], &[all]) };
        assert_eq!(ordered(&[discard]).len(), 1, "who discards says what it means");
    }

    proptest! {
        /// Against reading the whole list: of the pairs of selectors by which an SA would admit the packet, the one with the
        /// smallest priority, then the closest, then the first decides; a policy that protects leaves out what is ours.
        #[test]
        fn agrees_with_reading_the_whole_list(
            policies in prop::collection::vec((0_u32..3, 0_usize..5, selectors(), selectors()), 0..8),
            flows in prop::collection::vec((0_u8..14, 0_u8..14, prop::sample::select(vec![6_u8, 17, 47]), 0_u16..4, 0_u16..4), 20),
        ) {
            let actions = [Action::Protect, Action::Protect, Action::Protect, Action::Bypass, Action::Discard];
            let policies: Vec<_> = policies
                .iter()
                .map(|(priority, action, l, r)| Policy { action: actions[*action], ..policy(*priority, l, r) })
                .collect();
            let table = PolicyTable::new(&policies);
            for (source, destination, protocol, p, q) in flows {
                let ports = (protocol != 47).then_some((p, q));
                let flow = flow(&format!("10.0.0.{source}"), &format!("10.0.0.{destination}"), protocol, ports);
                let expected = decides(&policies, &flow);
                prop_assert_eq!(table.lookup_outbound(&flow).map(|(policy, action)| (policy.0, action)), expected);
                let protects = expected.filter(|(_, action)| *action == Action::Protect).map(|(policy, _)| policy);
                prop_assert_eq!(table.candidates_outbound(&flow).next().map(|policy| policy.0), protects);
                let reply = Flow {
                    source: flow.destination,
                    destination: flow.source,
                    source_port: flow.destination_port,
                    destination_port: flow.source_port,
                    ..flow
                };
                prop_assert_eq!(table.lookup_inbound(&reply), table.lookup_outbound(&flow));
            }
        }
    }

    /// The policy that decides about `flow`, and how.
    fn decides(policies: &[Policy], flow: &Flow) -> Option<(usize, Action)> {
        let admits = |l, r| Selectors::new(&[l], &[r]).admit_outbound(flow);
        let mut fits = Vec::new();
        for (index, policy) in policies.iter().enumerate() {
            for (l, r) in policy.local_ts.iter().flat_map(|l| policy.remote_ts.iter().map(move |r| (*l, *r)))
            {
                let Reverse(closeness) = rank(0, &Rule::from(&l), &Rule::from(&r)).2;
                let back = policy.action == Action::Bypass && admits(r, l);
                let mut fit = |implied, action| {
                    fits.push(((policy.priority.wrapping_sub(1), Reverse(closeness), implied, index), action))
                };
                let any_port = |ts| TrafficSelector { start_port: 0, end_port: u16::MAX, ..ts };
                let ours = policy.local_ts.iter().any(|inner| {
                    let within = r.start <= inner.start && inner.end <= r.end;
                    within
                        && (r.start < inner.start || inner.end < r.end)
                        && admits(
                            any_port(l),
                            any_port(TrafficSelector { start: inner.start, end: inner.end, ..r }),
                        )
                });
                if policy.action == Action::Protect && ours {
                    fit(true, Action::Bypass);
                }
                if admits(l, r) || back {
                    fit(false, policy.action);
                }
            }
        }
        fits.into_iter()
            .min_by_key(|((priority, closeness, implied, index), _)| {
                (*priority, *closeness, !implied, *index)
            })
            .map(|((.., index), action)| (index, action))
    }
}
