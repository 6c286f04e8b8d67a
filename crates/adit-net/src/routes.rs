//! The way into the tunnel: a routing table of our own and the rules that lead to it.
//!
//! ```text
//! rule   220  from all fwmark MARK goto 224           outer packets of ours never see the table
//!             from LOCAL to REMOTE goto 224           what bypasses, see below
//! rule   221  from LOCAL lookup 220                   with protocol and ports, if the selectors have some
//! rule   222  from ::/1 goto 224, from 8000::/1 ..    IPv6 only: leaves packets without a source
//! rule   223  from 0.0.0.0/32 lookup 220              our own packets whose source is not chosen yet
//! rule   224  from all nop
//! table  220  REMOTE dev TUN src LOCAL metric 100     protected destinations go into the tunnel
//!             throw LOCAL metric 200                  ours stay reachable if REMOTE covers them too
//!             unreachable REMOTE metric 4000          what remains when the TUN device dies: nothing leaks
//! ```
//!
//! The source decides with the destination, because no policy protects the rest: an administrator's connection to
//! our outer address stays where it is even if all destinations are protected for the network behind us. It also
//! keeps the kernel's reverse path check (`rp_filter`) content with outer packets. There are as many rules as there
//! are networks on our side; those for packets without a source exist where a route can give them one within the
//! selectors.
//!
//! What is discarded is led into the tunnel as what is protected, and ends there. What bypasses inside of that is led past it by
//! rules of its own, each with a priority of its own after the first, and the others come so much later; where a policy
//! that decides sooner overlaps one that lets bypass, a rule that looks the table up comes before. Bypass rules with ports
//! do not lead later fragments past the tunnel, where they end.
//!
//! This module owns every rule and route of its protocol number and touches no other. What a killed predecessor
//! left is turned into what is wanted without a gap.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;

use adit_esp::{Action, Entry};
use adit_wire::ikev2::TrafficSelector;

use crate::Error;
use crate::backend::{NetConfig, PolicySpec};
use crate::fence::Flow;
use crate::netlink::{InterfaceAddress, Netlink, Route, RouteKind, Rule, RuleAction};
use crate::path::{rp_filter, strict_check};

/// Marks routes and rules as ours (`RTPROT_*`, a number without a known owner).
pub(crate) const PROTOCOL: u8 = 0x41;

/// The last priority before the rule of the main table.
const LAST_PRIORITY: u32 = 32_765;

const METRIC_TUNNEL: u32 = 100;
const METRIC_THROW: u32 = 200;
const METRIC_CLOSED: u32 = 4000;

/// Our routes and rules in one network namespace.
#[derive(Debug)]
pub(crate) struct Routes {
    netlink: Netlink,
    interface: u32,
    table: u32,
    priority: u32,
    mark: u32,
    v6: bool,
}

impl Routes {
    /// For the calling thread's network namespace; `interface` is the index of the TUN device. Nothing changes yet.
    pub(crate) fn new(config: &NetConfig, interface: u32) -> Result<Self, Error> {
        let mut routes = Self {
            netlink: Netlink::open()?,
            interface,
            table: config.routing_table,
            priority: config.rule_priority,
            mark: config.mark,
            v6: Path::new("/proc/thread-self/net/if_inet6").exists(),
        };
        let table = routes.table;
        let foreign = routes.netlink.routes(|route| route.table == table && route.protocol != PROTOCOL)?;
        if let Some(first) = foreign.first() {
            tracing::warn!(
                "routing table {table} is used by someone else too ({} routes, among them {first}): they stay and may \
                 lead protected packets astray; choose another table in the configuration",
                foreign.len()
            );
        }
        Ok(routes)
    }

    /// Makes the rules and routes those of these policies; without policies there are none.
    ///
    /// # Errors
    /// The first of what the kernel refused. All else is in place, and nothing of before has been removed.
    pub(crate) fn replace(&mut self, policies: &[PolicySpec]) -> Result<(), Error> {
        let addresses = self.netlink.addresses()?;
        let links = self.netlink.links()?;
        let names = links.iter().map(|link| &*link.name).chain(["all"]);
        if names.filter_map(rp_filter).any(|setting| setting == 1) {
            let strict = |policy| strict_check(policy, &addresses, &links, self.mark, rp_filter);
            for warning in policies.iter().filter(|policy| policy.action != Action::Bypass).filter_map(strict)
            {
                tracing::warn!("{warning}");
            }
        }
        self.repair(policies)
    }

    /// The same, when it was done before: puts back what is no longer there.
    ///
    /// # Errors
    /// As [`Routes::replace`].
    pub(crate) fn repair(&mut self, policies: &[PolicySpec]) -> Result<(), Error> {
        let addresses = self.netlink.addresses()?;
        let wanted = wanted(policies, &addresses, self.table, self.interface);
        let mut wanted_rules = Vec::new();
        for v6 in [false, true].into_iter().filter(|v6| !v6 || self.v6) {
            let place = (self.priority, self.table, self.mark);
            wanted_rules.extend(rules(policies, &wanted, &addresses, v6, place));
        }
        if wanted_rules.iter().any(|rule| rule.priority > LAST_PRIORITY) {
            return Err(Error::Configuration(format!(
                "what bypasses takes more routing rules than there are priorities from {} to {LAST_PRIORITY}",
                self.priority
            )));
        }
        let present = self.netlink.routes(|route| route.protocol == PROTOCOL)?;
        let mut present_rules = self.netlink.rules()?;
        present_rules.retain(|rule| rule.protocol == PROTOCOL);
        let key = |route: &Route| (route.table, route.destination, route.metric);
        let replaceable: HashMap<_, _> = present.iter().map(|route| (key(route), route)).collect();
        let mut result = Ok(());
        // First what closes, so that nothing is open before it is led into the tunnel.
        for kind in [RouteKind::Unreachable, RouteKind::Unicast, RouteKind::Throw] {
            let mut missing = Vec::new();
            for route in wanted.iter().filter(|route| route.kind == kind) {
                match replaceable.get(&key(route)) {
                    Some(same) if *same == route => {}
                    Some(_) => {
                        let placed = self.place(route, Netlink::replace_route);
                        result = result.and(placed);
                    }
                    None => missing.push(route),
                }
            }
            for route in self.netlink.many_routes(true, &missing)? {
                let placed = self.place(route, Netlink::add_route);
                result = result.and(placed);
            }
            if kind == RouteKind::Unreachable {
                let added = self.add_rules(&wanted_rules, &present_rules);
                result = result.and(added);
            }
        }
        result?;
        // Lookups go before what keeps outer packets away from them.
        present_rules.sort_by_key(|rule| match rule.action {
            RuleAction::Lookup(_) => 0,
            RuleAction::Goto(_) => 1 + u8::from(rule.mark.is_some()),
            RuleAction::Nop => 3,
        });
        let wanted_rules: HashSet<_> = wanted_rules.into_iter().collect();
        for rule in present_rules.iter().filter(|rule| !wanted_rules.contains(rule)) {
            self.netlink.delete_rule(rule)?;
        }
        let wanted: HashSet<_> = wanted.iter().map(key).collect();
        let other: Vec<&Route> = present.iter().filter(|route| !wanted.contains(&key(route))).collect();
        for route in self.netlink.many_routes(false, &other)? {
            self.netlink.delete_route(route)?;
        }
        Ok(())
    }

    /// Adds the rules that are not there. Those that keep outer packets away from lookups come first; where lookups are going to
    /// be behind the end of the old ones, an old rule that leads there has to go before.
    fn add_rules(&mut self, wanted: &[Rule], present: &[Rule]) -> Result<(), Error> {
        let mut result = Ok(());
        let known: HashSet<&Rule> = present.iter().collect();
        let is_missing = |rule: &&Rule| !known.contains(rule);
        let (first, others): (Vec<&Rule>, Vec<&Rule>) = wanted
            .iter()
            .filter(is_missing)
            .partition(|rule| rule.mark.is_some() || rule.action == RuleAction::Nop);
        for rule in &first {
            let added = self.netlink.add_rule(rule);
            result = result.and(added);
        }
        for rule in first.iter().filter(|rule| rule.action == RuleAction::Nop) {
            let old = present.iter().filter(|old| old.v6 == rule.v6 && old.mark.is_some());
            for old in old.filter(|old| matches!(old.action, RuleAction::Goto(end) if end < rule.priority)) {
                let deleted = self.netlink.delete_rule(old);
                result = result.and(deleted);
            }
        }
        for rule in others {
            let added = self.netlink.add_rule(rule);
            result = result.and(added);
        }
        result
    }

    /// The netlink port that its changes come from.
    pub(crate) fn port(&self) -> u32 {
        self.netlink.port()
    }

    fn place(
        &mut self,
        route: &Route,
        how: fn(&mut Netlink, &Route) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match how(&mut self.netlink, route) {
            // The address is not, or no longer, fit to be a source. The tunnel works without for everyone else.
            Err(error) if route.source.is_some() && error.raw_os_error() == Some(libc::EINVAL) => {
                how(&mut self.netlink, &Route { source: None, ..route.clone() })
            }
            Err(error) if route.destination.0.is_ipv6() && error.raw_os_error() == Some(libc::EACCES) => {
                Err(Error::Configuration(format!(
                    "cannot add the route {route}: IPv6 is switched off (net.ipv6.conf.*.disable_ipv6)"
                )))
            }
            result => result,
        }
    }
}

/// The rules of one family, in the order in which they are to be made.
fn rules(
    policies: &[PolicySpec],
    routes: &[Route],
    addresses: &[InterfaceAddress],
    v6: bool,
    (priority, table, mark): (u32, u32, u32),
) -> Vec<Rule> {
    let (mut past, mut past_unchosen) = exceptions(policies, addresses, v6, table);
    let count = |rules: &[Rule]| u32::try_from(rules.len()).unwrap_or(u32::MAX);
    let (ours, first) = (priority, priority.saturating_add(1));
    let sources = first.saturating_add(count(&past));
    let (chosen, second) = (sources.saturating_add(1), sources.saturating_add(2));
    let unchosen = second.saturating_add(count(&past_unchosen));
    let end = unchosen.saturating_add(1);
    for (number, rule) in (first..).zip(&mut past).chain((second..).zip(&mut past_unchosen)) {
        rule.priority = number;
        if rule.action == RuleAction::Nop {
            rule.action = RuleAction::Goto(end);
        }
    }
    let rule = |priority, action| Rule { priority, action, ..anything(v6) };
    let into_tunnel: HashMap<_, _> = routes
        .iter()
        .filter(|route| route.kind == RouteKind::Unicast && route.destination.0.is_ipv6() == v6)
        .map(|route| (route.destination, route.source.is_some()))
        .collect();
    let all_give_sources = into_tunnel.values().all(|gives| *gives);
    let mut lookups = Vec::new();
    for policy in policies.iter().filter(|policy| policy.action != Action::Bypass) {
        for remote in policy.remote_ts.iter().filter(|remote| remote.start.is_ipv6() == v6) {
            for local in policy.local_ts.iter().filter(|local| local.start.is_ipv6() == v6) {
                let Some(flow) = Flow::of(local, remote) else { continue };
                let lookup = |priority| Rule {
                    ip_protocol: (flow.protocol != 0).then_some(flow.protocol),
                    source_ports: flow.local_ports,
                    destination_ports: flow.remote_ports,
                    ..rule(priority, RuleAction::Lookup(table))
                };
                for prefix in local.prefixes() {
                    lookups.push(Rule { source: tested(prefix), ..lookup(sources) });
                }
                let unspecified = (!v6).then_some((IpAddr::from([0; 4]), 32));
                for prefix in remote.prefixes() {
                    if into_tunnel.get(&prefix) == Some(&true) {
                        let destination = tested(prefix).filter(|_| !all_give_sources);
                        lookups.push(Rule { source: unspecified, destination, ..lookup(unchosen) });
                    }
                }
            }
        }
    }
    if lookups.is_empty() {
        return lookups;
    }
    let pass = rule(ours, RuleAction::Goto(end));
    let mut rules = vec![rule(end, RuleAction::Nop), Rule { mark: Some((mark, u32::MAX)), ..pass }];
    if v6 {
        // A packet whose source is not chosen is in neither half.
        for half in [0, 0x8000] {
            let source = Some((IpAddr::from([half, 0, 0, 0, 0, 0, 0, 0]), 1));
            rules.push(Rule { priority: chosen, source, ..pass });
        }
    }
    rules.extend(past);
    rules.extend(widest(lookups));
    rules.extend(past_unchosen);
    rules
}

/// What is led past the tunnel, or into it before that: in the order in which it decides, not numbered yet, and with `Nop` for
/// where the way past leads. First by source and destination; then for packets of our own whose source is not chosen yet.
fn exceptions(
    policies: &[PolicySpec],
    addresses: &[InterfaceAddress],
    v6: bool,
    table: u32,
) -> (Vec<Rule>, Vec<Rule>) {
    let mut entries = PolicySpec::ordered(policies);
    entries.retain(|entry| !entry.implied && entry.remote.start.is_ipv6() == v6);
    let opens = |entry: &Entry| entry.action == Action::Bypass;
    // A rule leads into the tunnel by the one, and a route by the other, whatever they belong to.
    let closed = || entries.iter().filter(|entry| !opens(entry));
    let locals = Spans::of(closed().map(|entry| &entry.local));
    let remotes = Spans::of(closed().map(|entry| &entry.remote));
    let is_led = |entry: &Entry| opens(entry) && locals.meet(&entry.local) && remotes.meet(&entry.remote);
    let led: Vec<(usize, &Entry)> = entries.iter().enumerate().filter(|(_, entry)| is_led(entry)).collect();
    let (mut chosen, mut unchosen) = (Exceptions::default(), Exceptions::default());
    for (index, entry) in entries.iter().enumerate() {
        let is_needed = led.iter().any(|(later, open)| *later >= index && overlap(entry, open));
        if !is_needed || (opens(entry) && !is_led(entry)) {
            continue;
        }
        let Some(flow) = Flow::of(&entry.local, &entry.remote) else { continue };
        let rule = Rule {
            action: if opens(entry) { RuleAction::Nop } else { RuleAction::Lookup(table) },
            ip_protocol: (flow.protocol != 0).then_some(flow.protocol),
            source_ports: flow.local_ports,
            destination_ports: flow.remote_ports,
            ..anything(v6)
        };
        let is_ours = source_within([entry.local].iter(), addresses).is_some();
        for destination in entry.remote.prefixes().into_iter().map(tested) {
            for source in entry.local.prefixes().into_iter().map(tested) {
                chosen.decide(Rule { source, destination, ..rule });
            }
            if is_ours {
                let source = (!v6).then_some((IpAddr::from([0; 4]), 32));
                unchosen.decide(Rule { source, destination, ..rule });
            }
        }
    }
    (chosen.rules, unchosen.rules)
}

/// Is there a packet that fits both?
fn overlap(one: &Entry, other: &Entry) -> bool {
    let (local, remote) = (one.local.intersection(&other.local), one.remote.intersection(&other.remote));
    matches!((local, remote), (Some(local), Some(remote)) if Flow::of(&local, &remote).is_some())
}

/// Addresses of one family: ranges in order, none of which touches another.
struct Spans(Vec<(IpAddr, IpAddr)>);

impl Spans {
    fn of<'a>(selectors: impl Iterator<Item = &'a TrafficSelector>) -> Self {
        let mut ranges: Vec<_> = selectors.map(|selector| (selector.start, selector.end)).collect();
        ranges.sort_unstable();
        let mut spans: Vec<(IpAddr, IpAddr)> = Vec::new();
        for (start, end) in ranges {
            match spans.last_mut() {
                Some((_, last)) if start <= *last => *last = end.max(*last),
                _ => spans.push((start, end)),
            }
        }
        Self(spans)
    }

    /// Is one of them in the selector?
    fn meet(&self, selector: &TrafficSelector) -> bool {
        let next = self.0.partition_point(|(_, end)| *end < selector.start);
        self.0.get(next).is_some_and(|(start, _)| *start <= selector.end)
    }
}

/// Rules that decide in their order.
#[derive(Default)]
struct Exceptions {
    rules: Vec<Rule>,
    /// What they test.
    tests: HashSet<Rule>,
}

impl Exceptions {
    /// Adds a rule, unless one before it decides about all that fits it.
    fn decide(&mut self, rule: Rule) {
        let test = Rule { action: RuleAction::Nop, ..rule };
        if !self.tests.contains(&test) && !wider(test).any(|wider| self.tests.contains(&wider)) {
            self.tests.insert(test);
            self.rules.push(rule);
        }
    }
}

/// A rule that tests nothing and does nothing.
pub(crate) fn anything(v6: bool) -> Rule {
    Rule {
        v6,
        priority: 0,
        action: RuleAction::Nop,
        mark: None,
        source: None,
        destination: None,
        ip_protocol: None,
        source_ports: None,
        destination_ports: None,
        protocol: PROTOCOL,
    }
}

/// The test for a prefix; everything needs none.
fn tested(prefix: (IpAddr, u8)) -> Option<(IpAddr, u8)> {
    (prefix.1 > 0).then_some(prefix)
}

/// Those whose work no other one does: no two of a set can be mistaken for each other when one is deleted.
fn widest(mut rules: Vec<Rule>) -> Vec<Rule> {
    let all: HashSet<Rule> = rules.iter().copied().collect();
    let mut seen = HashSet::new();
    rules.retain(|rule| seen.insert(*rule) && !wider(*rule).any(|wider| all.contains(&wider)));
    rules
}

/// The rules that test less, and do the same.
fn wider(rule: Rule) -> impl Iterator<Item = Rule> {
    let without = move |tests: u8| {
        let mut wide = rule;
        if tests & 1 > 0 {
            wide.source = None;
        }
        if tests & 2 > 0 {
            wide.destination = None;
        }
        if tests & 4 > 0 {
            wide.ip_protocol = None;
        }
        if tests & 8 > 0 {
            wide.source_ports = None;
        }
        if tests & 16 > 0 {
            wide.destination_ports = None;
        }
        wide
    };
    (1..32).map(without).filter(move |wide| *wide != rule)
}

fn wanted(policies: &[PolicySpec], addresses: &[InterfaceAddress], table: u32, interface: u32) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    let mut seen = HashSet::new();
    let base = |destination, kind, metric| Route {
        destination,
        table,
        kind,
        interface: None,
        gateway: None,
        source: None,
        metric,
        protocol: PROTOCOL,
    };
    for policy in policies.iter().filter(|policy| policy.action != Action::Bypass) {
        for remote in &policy.remote_ts {
            let local =
                policy.local_ts.iter().filter(|local| local.start.is_ipv4() == remote.start.is_ipv4());
            let source = source_within(local, addresses);
            for destination in remote.prefixes() {
                if seen.insert(destination) {
                    let unicast = base(destination, RouteKind::Unicast, METRIC_TUNNEL);
                    routes.push(Route { interface: Some(interface), source, ..unicast });
                    routes.push(base(destination, RouteKind::Unreachable, METRIC_CLOSED));
                }
            }
        }
    }
    for entry in PolicySpec::ordered(policies).iter().filter(|entry| entry.implied) {
        // A prefix that is protected as a destination stays so.
        let open = entry.remote.prefixes().into_iter().filter(|destination| seen.insert(*destination));
        routes.extend(open.map(|destination| base(destination, RouteKind::Throw, METRIC_THROW)));
    }
    routes
}

/// An address of this machine that lies in one of our selectors: packets of its own then fit the policy.
fn source_within<'a>(
    mut local: impl Iterator<Item = &'a TrafficSelector>,
    addresses: &[InterfaceAddress],
) -> Option<IpAddr> {
    local.find_map(|selector| {
        let fits = |address: IpAddr| {
            address.is_ipv4() == selector.start.is_ipv4()
                && !address.is_loopback()
                && !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
                && (selector.start..=selector.end).contains(&address)
        };
        addresses
            .iter()
            .find(|candidate| candidate.usable && fits(candidate.address))
            .map(|found| found.address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PolicyId;

    fn net(text: &str) -> TrafficSelector {
        let (address, len) = text.split_once('/').unwrap();
        TrafficSelector::subnet(address.parse().unwrap(), len.parse().unwrap())
    }

    fn policy(local: &str, remote: TrafficSelector) -> PolicySpec {
        PolicySpec::new(PolicyId(1), "net", vec![net(local)], vec![remote])
    }

    fn lines(policies: &[PolicySpec]) -> Vec<String> {
        let ours = InterfaceAddress {
            interface: 1,
            address: IpAddr::from([10, 1, 0, 1]),
            prefix_len: 16,
            usable: true,
            protocol: 0,
        };
        let routes = wanted(policies, &[ours], 220, 7);
        rules(policies, &routes, &[ours], false, (220, 220, 1)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_are_as_many_as_our_networks() {
        let many: Vec<PolicySpec> =
            (0..200_u8).map(|i| policy("10.1.0.0/16", net(&format!("10.200.{i}.0/24")))).collect();
        assert_eq!(
            lines(&many),
            [
                "224: nop",
                "220: goto 224",
                "221: from 10.1.0.0/16 lookup 220",
                "223: from 0.0.0.0/32 lookup 220"
            ]
        );
        assert!(lines(&[]).is_empty());
    }

    #[test]
    fn a_wide_rule_does_the_work_of_narrow_ones() {
        let tcp = TrafficSelector { protocol: 6, ..net("10.2.0.0/16") };
        let all = [
            policy("10.1.0.0/16", tcp),
            policy("10.1.0.0/16", net("10.3.0.0/16")),
            policy("10.1.0.0/16", tcp),
        ];
        let found: Vec<_> = lines(&all).into_iter().filter(|rule| rule.contains("221")).collect();
        assert_eq!(found, ["221: from 10.1.0.0/16 lookup 220"]);
        // Without one of our addresses in the selectors, packets without a source go elsewhere.
        let mixed = [policy("10.1.0.0/16", net("10.2.0.0/16")), policy("10.9.0.0/16", net("10.3.0.0/16"))];
        let found: Vec<_> = lines(&mixed).into_iter().filter(|rule| rule.contains("223")).collect();
        assert_eq!(found, ["223: from 0.0.0.0/32 to 10.2.0.0/16 lookup 220"]);
    }

    #[test]
    fn what_bypasses_is_led_past_the_tunnel_in_the_order_of_the_policies() {
        let with = |action, policy: PolicySpec| PolicySpec { action, ..policy };
        let web = TrafficSelector { protocol: 6, start_port: 80, end_port: 80, ..net("10.2.9.0/24") };
        let all = [
            policy("10.1.0.0/16", net("10.2.0.0/16")),
            with(Action::Bypass, policy("10.1.0.0/16", net("10.2.9.0/24"))),
            policy("10.1.0.0/16", web),
            with(Action::Discard, policy("10.1.0.0/16", net("10.2.8.0/24"))),
            with(Action::Bypass, policy("10.9.0.0/24", net("10.2.9.7/32"))),
            with(Action::Bypass, policy("10.1.0.0/16", net("10.2.9.8/32"))),
        ];
        // Nothing leads packets from 10.9.0.0/24 into the tunnel.
        let expected = [
            "230: nop",
            "220: goto 230",
            "221: from 10.1.0.0/16 to 10.2.9.8/32 goto 230",
            "222: from 10.1.0.0/16 to 10.2.9.0/24 lookup 220",
            "223: from 10.1.0.0/16 to 10.2.9.0/24 goto 230",
            "224: from 10.1.0.0/16 lookup 220",
            "229: from 0.0.0.0/32 lookup 220",
            "226: from 0.0.0.0/32 to 10.2.9.8/32 goto 230",
            "227: from 0.0.0.0/32 to 10.2.9.0/24 lookup 220",
            "228: from 0.0.0.0/32 to 10.2.9.0/24 goto 230",
        ];
        assert_eq!(lines(&all), expected);
        assert_eq!(lines(&all.iter().rev().cloned().collect::<Vec<_>>()), expected);
        assert_eq!(lines(&all[1..2]), [""; 0], "nothing is led into the tunnel");
        // What bypasses comes back, and everything else is closed.
        let wide = with(Action::Discard, policy("0.0.0.0/0", net("0.0.0.0/0")));
        let found = lines(&[wide, with(Action::Bypass, policy("10.1.0.0/16", net("10.2.0.0/16")))]);
        assert_eq!(
            found[2..4],
            [
                "221: from 10.1.0.0/16 to 10.2.0.0/16 goto 227",
                "222: from 10.2.0.0/16 to 10.1.0.0/16 goto 227"
            ],
            "{found:#?}"
        );
    }
}
