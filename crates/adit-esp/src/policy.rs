//! Which policy protects an outbound packet (RFC 4301 4.4.1, 5.1).
//!
//! This module owns the ordered table of what is to be protected. It never decides what happens to a packet that no policy
//! matches, and knows no SA: a policy exists whether or not an SA serves it.

use std::cmp::Reverse;

use adit_wire::ikev2::TrafficSelector;
use adit_wire::ip::Flow;

use crate::selector::{Endpoint, Rule};

/// All policies, compiled for lookup and never changed: publish a new table instead, behind an `Arc`.
#[derive(Clone, Debug, Default)]
pub struct PolicyTable {
    v4: Family,
    v6: Family,
}

/// Traffic to be protected.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The smaller, the sooner it is considered; 0 means none is given, and comes after all that are.
    pub priority: u32,
    /// Our side: where its packets come from.
    pub local_ts: Vec<TrafficSelector>,
    /// The peer's side: where its packets go.
    pub remote_ts: Vec<TrafficSelector>,
}

/// A policy's place in the list that the table was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyIndex(pub usize);

impl PolicyTable {
    /// Orders and compiles `policies`: by priority, then the most specific addresses, protocol and ports first, then as
    /// they are listed.
    #[must_use]
    pub fn new(policies: &[Policy]) -> Self {
        let mut entries = Vec::new();
        for (index, policy) in policies.iter().enumerate() {
            for remote in policy.remote_ts.iter().map(Rule::from) {
                for local in policy.local_ts.iter().map(Rule::from).filter(|local| local.v6 == remote.v6) {
                    let rank = rank(policy.priority, &local, &remote);
                    entries.push(Entry { rank, local, remote, policy: PolicyIndex(index) });
                }
            }
        }
        // Stable, so equal ranks keep the order of the list.
        entries.sort_by_key(|entry| entry.rank);
        let (v6, v4) = entries.into_iter().partition(|entry: &Entry| entry.remote.v6);
        Self { v4: Family::new(v4), v6: Family::new(v6) }
    }

    /// The policy that an outbound packet falls under: source on our side, destination on the peer's. `None` if nothing
    /// protects it.
    #[must_use]
    pub fn lookup_outbound(&self, flow: &Flow) -> Option<PolicyIndex> {
        self.candidates_outbound(flow).next()
    }

    /// The policies that an outbound packet can fall under: the one of [`lookup_outbound`](Self::lookup_outbound), then those
    /// that describe the packet exactly as closely with the same priority. A policy with several selectors can come twice.
    pub fn candidates_outbound(&self, flow: &Flow) -> impl Iterator<Item = PolicyIndex> {
        let (source, destination) = Endpoint::of(flow);
        let family = if destination.address.v6 { &self.v6 } else { &self.v4 };
        let mut rank = None;
        family
            .matches(source, destination)
            .take_while(move |entry| *rank.get_or_insert(entry.rank) == entry.rank)
            .map(|entry| entry.policy)
    }
}

type Rank = (bool, u32, Reverse<(u32, u32, u32)>);

fn rank(priority: u32, local: &Rule, remote: &Rule) -> Rank {
    let ((l_bits, l_protocol, l_ports), (r_bits, r_protocol, r_ports)) =
        (local.specificity(), remote.specificity());
    let specificity = (l_bits + r_bits, u32::from(l_protocol) + u32::from(r_protocol), l_ports + r_ports);
    (priority == 0, priority, Reverse(specificity))
}

#[derive(Clone, Debug)]
struct Entry {
    rank: Rank,
    local: Rule,
    remote: Rule,
    policy: PolicyIndex,
}

/// The entries of one address family. The destination addresses are cut where any remote selector begins or ends; each
/// piece lists the entries whose remote side holds it, so a lookup is one binary search and a walk of a short list.
#[derive(Clone, Debug, Default)]
struct Family {
    /// In rank order.
    entries: Vec<Entry>,
    /// First address of each piece, ascending; a piece ends where the next begins.
    starts: Vec<u128>,
    /// For each piece, indices into `entries`, ascending.
    candidates: Vec<Vec<usize>>,
}

impl Family {
    fn new(entries: Vec<Entry>) -> Self {
        let mut starts: Vec<u128> = entries
            .iter()
            .flat_map(|e| [Some(e.remote.first), e.remote.last.checked_add(1)])
            .flatten()
            .collect();
        starts.sort_unstable();
        starts.dedup();
        let mut candidates = vec![Vec::new(); starts.len()];
        for (index, entry) in entries.iter().enumerate() {
            let from = starts.partition_point(|start| *start < entry.remote.first);
            let to = starts.partition_point(|start| *start <= entry.remote.last);
            for piece in candidates.get_mut(from..to).into_iter().flatten() {
                piece.push(index);
            }
        }
        Self { entries, starts, candidates }
    }

    fn matches(&self, source: Endpoint, destination: Endpoint) -> impl Iterator<Item = &Entry> {
        let piece = self.starts.partition_point(|start| *start <= destination.address.value).checked_sub(1);
        piece
            .and_then(|piece| self.candidates.get(piece))
            .into_iter()
            .flatten()
            .filter_map(|index| self.entries.get(*index))
            .filter(move |entry| entry.local.admits(&source) && entry.remote.admits(&destination))
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
        Policy { priority, local_ts: local.to_vec(), remote_ts: remote.to_vec() }
    }

    fn found(table: &PolicyTable, source: &str, destination: &str) -> Option<usize> {
        table.lookup_outbound(&flow(source, destination, 6, Some((1000, 80)))).map(|p| p.0)
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
        assert_eq!(table.lookup_outbound(&dns), Some(PolicyIndex(2)));
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

    proptest! {
        /// Against reading the whole list: a policy matches exactly when an SA with its selectors would admit the packet, and
        /// none that matches has a smaller priority or (alone) a closer pair of selectors.
        #[test]
        fn agrees_with_reading_the_whole_list(
            policies in prop::collection::vec((0_u32..3, selectors(), selectors()), 0..8),
            flows in prop::collection::vec((0_u8..14, 0_u8..14, prop::sample::select(vec![6_u8, 17, 47]), 0_u16..4, 0_u16..4), 20),
        ) {
            let policies: Vec<_> = policies.iter().map(|(priority, l, r)| policy(*priority, l, r)).collect();
            let table = PolicyTable::new(&policies);
            for (source, destination, protocol, p, q) in flows {
                let ports = (protocol != 47).then_some((p, q));
                let flow = flow(&format!("10.0.0.{source}"), &format!("10.0.0.{destination}"), protocol, ports);
                let best = policies
                    .iter()
                    .enumerate()
                    .filter(|(_, p)| Selectors::new(&p.local_ts, &p.remote_ts).admit_outbound(&flow))
                    .min_by_key(|(index, p)| (p.priority.wrapping_sub(1), closest(p, &flow), *index));
                prop_assert_eq!(table.lookup_outbound(&flow).map(|i| i.0), best.map(|(index, _)| index));
            }
        }
    }

    /// The closest pair of selectors of `policy` that admits `flow`, smallest first.
    fn closest(policy: &Policy, flow: &Flow) -> Option<Reverse<(u32, u32, u32)>> {
        let pairs = policy.local_ts.iter().flat_map(|l| policy.remote_ts.iter().map(move |r| (l, r)));
        pairs
            .filter(|(l, r)| Selectors::new(&[**l], &[**r]).admit_outbound(flow))
            .map(|(l, r)| rank(0, &Rule::from(l), &Rule::from(r)).2)
            .min()
    }
}
