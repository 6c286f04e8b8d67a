//! What policies say about packets in the clear, as rules of the packet filter that are few, however many policies there
//! are. It owns what a rule tests and what a set holds; it does not decide in which chains they stand.
//!
//! Entries that look at the same bits of the same fields, and do the same, are one rule: it looks the values up in a set, so what a
//! packet costs does not depend on their number. Among entries with one verdict the order does not matter, and only
//! those are joined between which there is no other.

use std::collections::HashMap;
use std::net::IpAddr;

use adit_esp::Action;
use adit_wire::ikev2::TrafficSelector;

use crate::backend::PolicySpec;
use crate::nft::{Base, Compare, Meta, Part, Rule, Set};

/// What is to become of packets in the clear that fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// They are dropped: they belong on an SA.
    Protected,
    /// They are dropped, and so are those that an SA has delivered.
    Discarded,
    /// They pass.
    Open,
    /// They pass if they really are from one network of ours to another.
    Ours,
}

/// What a pair of selectors is about beside addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// 0 is any.
    pub(crate) protocol: u8,
    /// First and last; `None` is any, or a protocol without ports.
    pub(crate) local_ports: Option<(u16, u16)>,
    pub(crate) remote_ports: Option<(u16, u16)>,
}

impl Flow {
    /// `None` if no packet fits both selectors.
    pub(crate) fn of(local: &TrafficSelector, remote: &TrafficSelector) -> Option<Self> {
        let protocol = match (local.protocol, remote.protocol) {
            (0, protocol) | (protocol, 0) => protocol,
            (one, other) if one == other => one,
            _ => return None,
        };
        let (local_ports, remote_ports) = (ports(protocol, local), ports(protocol, remote));
        Some(Self { protocol, local_ports, remote_ports })
    }
}

/// The ports that a selector is about, if it is about some: TCP, UDP, DCCP, SCTP and UDP-Lite have them.
fn ports(protocol: u8, selector: &TrafficSelector) -> Option<(u16, u16)> {
    let some = matches!(protocol, 6 | 17 | 33 | 132 | 136)
        && (selector.start_port, selector.end_port) != (0, u16::MAX)
        && selector.start_port <= selector.end_port;
    some.then_some((selector.start_port, selector.end_port))
}

/// Entries that one rule tests.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) kind: Kind,
    shape: Shape,
    /// The name of the set, if there are several values.
    set: String,
    /// Of each entry, those of the fields of which prefixes are tested. Sorted, none twice.
    values: Vec<[u128; FIELDS.len()]>,
}

/// What is tested.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Shape {
    v6: bool,
    /// 0 is any.
    protocol: u8,
    tests: [Test; FIELDS.len()],
    /// Only fragments that show no ports.
    later: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Test {
    Any,
    /// So many bits, which are in the values.
    Prefix(u32),
    Range(u128, u128),
}

#[derive(Clone, Copy)]
enum Field {
    LocalAddress,
    RemoteAddress,
    LocalPort,
    RemotePort,
}

const FIELDS: [Field; 4] = [Field::LocalAddress, Field::RemoteAddress, Field::LocalPort, Field::RemotePort];

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    In,
    Out,
}

/// What the policies say, in the order in which it decides.
pub(super) fn groups(policies: &[PolicySpec]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut places: HashMap<Shape, usize> = HashMap::new();
    for entry in PolicySpec::ordered(policies) {
        let Some((shape, values)) = Shape::of(&entry.local, &entry.remote) else { continue };
        let kind = match (entry.action, entry.implied) {
            (Action::Protect, _) => Kind::Protected,
            (Action::Discard, _) => Kind::Discarded,
            (Action::Bypass, false) => Kind::Open,
            (Action::Bypass, true) => Kind::Ours,
        };
        if groups.last().is_some_and(|last| last.kind != kind) {
            places.clear();
        }
        let later = (kind.is_closed() && shape.looks_at_ports()).then(|| shape.later());
        for shape in [Some(shape), later].into_iter().flatten() {
            let values = shape.tested(values);
            let place = *places.entry(shape.clone()).or_insert(groups.len());
            match groups.get_mut(place) {
                Some(group) => group.values.push(values),
                None => {
                    let set = format!("values-{place}");
                    groups.push(Group { kind, shape, set, values: vec![values] });
                }
            }
        }
    }
    for group in &mut groups {
        group.values.sort_unstable();
        group.values.dedup();
    }
    groups
}

impl Kind {
    /// Is what is in the clear dropped?
    pub(super) fn is_closed(self) -> bool {
        matches!(self, Self::Protected | Self::Discarded)
    }
}

impl Group {
    /// Does it tell packets apart by ports?
    pub(super) fn looks_at_ports(&self) -> bool {
        self.shape.looks_at_ports()
    }

    /// What its rules look values up in.
    pub(super) fn set(&self) -> Option<Set<'_>> {
        let key = self.key(Direction::Out);
        let element = |values: &[u128; FIELDS.len()]| {
            let parts = self.shape.fields().zip(values);
            let parts = parts.filter(|((_, test), _)| matches!(test, Test::Prefix(_)));
            let mut element = Vec::new();
            for ((field, _), value) in parts {
                element.extend(octets(*value, field.len(self.shape.v6)));
                element.resize(element.len().next_multiple_of(4), 0);
            }
            element
        };
        (self.values.len() > 1).then(|| {
            let elements = self.values.iter().map(element).collect();
            Set { name: &self.set, key, elements }
        })
    }

    /// The tests for packets that go this way.
    pub(super) fn rule(&self, direction: Direction) -> Rule {
        let Shape { v6, protocol, later, .. } = self.shape;
        let alone = if let [values] = self.values.as_slice() { Some(values) } else { None };
        let mut rule = family(v6);
        for (number, (field, test)) in self.shape.fields().enumerate() {
            if number == 2 && protocol != 0 {
                rule = rule.meta(Meta::Protocol, Compare::Equal, &[protocol]);
            }
            let (base, offset) = field.place(v6, direction);
            let len = field.len(v6);
            let (first, last) = match (test, alone.and_then(|values| values.get(number))) {
                (Test::Range(first, last), _) => (first, last),
                (Test::Prefix(bits), Some(first)) => (*first, *first | !mask(bits, len)),
                _ => continue,
            };
            rule = rule.range(base, offset, &octets(first, len), &octets(last, len));
        }
        if later {
            rule =
                if v6 { rule.later_ipv6_fragment() } else { rule.any_bit(Base::Network, 6, &[0x1f, 0xff]) };
        }
        if alone.is_some() { rule } else { rule.in_set(&self.set, &self.key(direction)) }
    }

    fn key(&self, direction: Direction) -> Vec<Part> {
        let v6 = self.shape.v6;
        let part = |(field, test): (Field, Test)| {
            let Test::Prefix(bits) = test else { return None };
            let ((base, offset), len) = (field.place(v6, direction), field.len(v6));
            Some(Part { base, offset, mask: octets(mask(bits, len), len), kind: field.kind(v6) })
        };
        self.shape.fields().filter_map(part).collect()
    }
}

impl Shape {
    /// And the first value of each field. `None` if no packet fits both selectors.
    fn of(local: &TrafficSelector, remote: &TrafficSelector) -> Option<(Self, [u128; FIELDS.len()])> {
        let Flow { protocol, local_ports, remote_ports } = Flow::of(local, remote)?;
        let v6 = remote.start.is_ipv6();
        let ports = |ports: Option<(u16, u16)>| {
            let (first, last) = ports.unwrap_or((0, u16::MAX));
            (first.into(), last.into())
        };
        let spans: [(u128, u128); FIELDS.len()] = [
            (bits(local.start), bits(local.end)),
            (bits(remote.start), bits(remote.end)),
            ports(local_ports),
            ports(remote_ports),
        ];
        let mut tests = [Test::Any; FIELDS.len()];
        for ((test, field), span) in tests.iter_mut().zip(FIELDS).zip(spans) {
            *test = Test::of(span, field.len(v6));
        }
        Some((Self { v6, protocol, tests, later: false }, spans.map(|(first, _)| first)))
    }

    fn looks_at_ports(&self) -> bool {
        matches!(self.tests, [_, _, local, remote] if local != Test::Any || remote != Test::Any)
    }

    /// The same for fragments that show no ports: they could be any's.
    fn later(&self) -> Self {
        let [local, remote, ..] = self.tests;
        Self { tests: [local, remote, Test::Any, Test::Any], later: true, ..self.clone() }
    }

    /// Those of the values that entries of this shape do not have in common.
    fn tested(&self, mut values: [u128; FIELDS.len()]) -> [u128; FIELDS.len()] {
        for (value, test) in values.iter_mut().zip(self.tests) {
            if !matches!(test, Test::Prefix(_)) {
                *value = 0;
            }
        }
        values
    }

    fn fields(&self) -> impl Iterator<Item = (Field, Test)> {
        FIELDS.into_iter().zip(self.tests)
    }
}

impl Test {
    fn of((first, last): (u128, u128), len: usize) -> Self {
        let varying = first ^ last;
        let is_prefix = varying & varying.wrapping_add(1) == 0 && first & varying == 0;
        let bits = (len * 8) as u32 - varying.count_ones();
        match (is_prefix, bits) {
            (true, 0) => Self::Any,
            (true, bits) => Self::Prefix(bits),
            (false, _) => Self::Range(first, last),
        }
    }
}

impl Field {
    /// Octets in a packet.
    fn len(self, v6: bool) -> usize {
        match (self, v6) {
            (Self::LocalPort | Self::RemotePort, _) => 2,
            (_, false) => 4,
            (_, true) => 16,
        }
    }

    fn place(self, v6: bool, direction: Direction) -> (Base, u32) {
        let is_source = matches!(self, Self::LocalAddress | Self::LocalPort) == (direction == Direction::Out);
        match (self, v6, is_source) {
            (Self::LocalPort | Self::RemotePort, _, true) => (Base::Transport, 0),
            (Self::LocalPort | Self::RemotePort, _, false) => (Base::Transport, 2),
            (_, false, true) => (Base::Network, 12),
            (_, false, false) => (Base::Network, 16),
            (_, true, true) => (Base::Network, 8),
            (_, true, false) => (Base::Network, 24),
        }
    }

    fn kind(self, v6: bool) -> u32 {
        match (self, v6) {
            (Self::LocalPort | Self::RemotePort, _) => 13,
            (_, false) => 7,
            (_, true) => 8,
        }
    }
}

/// Tests the address family.
pub(super) fn family(v6: bool) -> Rule {
    let number = if v6 { libc::NFPROTO_IPV6 } else { libc::NFPROTO_IPV4 };
    Rule::default().meta(Meta::Family, Compare::Equal, &[number as u8])
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The first `bits` of a number of `len` octets.
fn mask(bits: u32, len: usize) -> u128 {
    let all = u128::MAX.checked_shr(128 - (len * 8) as u32).unwrap_or_default();
    all & !all.checked_shr(bits).unwrap_or_default()
}

/// The last `len` octets of a number.
fn octets(number: u128, len: usize) -> Vec<u8> {
    let all = number.to_be_bytes();
    all.get(all.len() - len..).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::backend::PolicyId;

    fn net(text: &str) -> TrafficSelector {
        let (address, len) = text.split_once('/').unwrap();
        TrafficSelector::subnet(address.parse().unwrap(), len.parse().unwrap())
    }

    fn policy(local: &[TrafficSelector], remote: &[TrafficSelector]) -> PolicySpec {
        PolicySpec::new(PolicyId(1), "net", local.to_vec(), remote.to_vec())
    }

    fn with(action: Action, policy: PolicySpec) -> PolicySpec {
        PolicySpec { action, ..policy }
    }

    /// What each rule is about: first local address, first remote address, is it closed?
    fn lines(policies: &[PolicySpec]) -> Vec<Vec<(String, String, bool)>> {
        let all = groups(policies);
        let address = |v6, value: u128| -> String {
            if v6 {
                Ipv6Addr::from_bits(value).to_string()
            } else {
                Ipv4Addr::from_bits(value as u32).to_string()
            }
        };
        all.iter()
            .map(|group| {
                let line = |values: &[u128; 4]| {
                    let v6 = group.shape.v6;
                    (address(v6, values[0]), address(v6, values[1]), group.kind.is_closed())
                };
                group.values.iter().map(line).collect()
            })
            .collect()
    }

    fn line(local: &str, remote: &str, closed: bool) -> (String, String, bool) {
        (local.into(), remote.into(), closed)
    }

    #[test]
    fn the_most_specific_decides() {
        let all = lines(&[
            policy(&[net("10.1.0.0/16")], &[net("0.0.0.0/0"), net("10.1.9.0/24")]),
            policy(&[net("10.0.0.0/8")], &[net("10.2.0.0/16")]),
        ]);
        assert_eq!(
            all,
            [
                [line("10.1.0.0", "10.1.9.0", true)],
                [line("10.0.0.0", "10.2.0.0", true)],
                [line("10.1.0.0", "10.1.0.0", false)],
                [line("10.1.0.0", "0.0.0.0", true)],
            ]
        );
    }

    #[test]
    fn entries_alike_are_one_rule_unless_another_verdict_stands_between() {
        let local = [net("10.1.0.0/16")];
        let many: Vec<PolicySpec> =
            (0..=255_u8).map(|i| policy(&local, &[net(&format!("10.2.{i}.0/24"))])).collect();
        let found = lines(&many);
        assert_eq!((found.len(), found[0].len()), (1, 256));
        let first = |priority, policy: PolicySpec| PolicySpec { priority, ..policy };
        let all = [
            first(1, policy(&local, &[net("10.2.0.0/24")])),
            first(2, policy(&local, &[net("10.2.0.0/16")])),
            first(3, policy(&local, &[net("10.3.0.0/24")])),
            first(4, with(Action::Bypass, policy(&local, &[net("10.4.0.0/16")]))),
            first(5, policy(&local, &[net("10.4.1.0/24")])),
        ];
        let sizes: Vec<usize> = lines(&all).iter().map(Vec::len).collect();
        // Two of /24, one of /16, one that bypasses in both directions, and what it comes before.
        assert_eq!(sizes, [2, 1, 2, 1]);
    }

    #[test]
    fn only_what_can_be_one_packet_is_fenced() {
        let with = |selector: TrafficSelector, protocol| TrafficSelector { protocol, ..selector };
        let (v4, v6) = (net("10.1.0.0/16"), net("fd00::/16"));
        assert!(groups(&[policy(&[v4], &[v6])]).is_empty(), "two families");
        let remote = net("10.2.0.0/16");
        assert!(groups(&[policy(&[with(v4, 6)], &[with(remote, 17)])]).is_empty(), "two protocols");
        let one = groups(&[policy(&[with(v4, 6)], &[remote])]);
        assert_eq!(one.iter().map(|group| group.shape.protocol).collect::<Vec<_>>(), [6]);
        assert_eq!(groups(&[policy(&[v4], &[remote])]).len(), 1);
    }

    #[test]
    fn ports_count_where_there_are_ports() {
        let with = |protocol, start_port, end_port| TrafficSelector {
            protocol,
            start_port,
            end_port,
            ..net("10.2.0.0/16")
        };
        assert_eq!(ports(6, &with(6, 80, 80)), Some((80, 80)));
        assert_eq!(ports(17, &with(0, 0, 1023)), Some((0, 1023)), "the other side names the protocol");
        assert_eq!(ports(6, &with(6, 0, 65_535)), None);
        assert_eq!(ports(6, &with(6, 65_535, 0)), None, "OPAQUE: the ports may be hidden, so none may pass");
        assert_eq!(ports(1, &with(1, 0x0800, 0x0800)), None);
        assert_eq!(ports(0, &with(0, 80, 80)), None);
    }

    #[test]
    fn prefixes_are_told_from_other_ranges() {
        assert_eq!(Test::of((0, u32::MAX.into()), 4), Test::Any);
        assert_eq!(Test::of((0, u128::MAX), 16), Test::Any);
        assert_eq!(Test::of((0x0a01_0000, 0x0a01_ffff), 4), Test::Prefix(16));
        assert_eq!(Test::of((80, 80), 2), Test::Prefix(16));
        assert_eq!(Test::of((0, 1023), 2), Test::Prefix(6));
        assert_eq!(Test::of((1024, 65_535), 2), Test::Range(1024, 65_535));
        assert_eq!(Test::of((3, 9), 4), Test::Range(3, 9));
        assert_eq!((mask(16, 4), mask(128, 16), mask(6, 2)), (0xffff_0000, u128::MAX, 0xfc00));
    }
}
