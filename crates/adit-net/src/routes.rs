//! The way into the tunnel: a routing table of our own and the rules that lead to it.
//!
//! ```text
//! rule   220: not from all fwmark MARK lookup 220        outer packets of ours never see the table
//! table  220: REMOTE dev TUN src LOCAL metric 100        protected destinations go into the tunnel
//!             throw LOCAL metric 200                     ours stay reachable if REMOTE covers them too
//!             unreachable REMOTE metric 4000             what remains when the TUN device dies: nothing leaks
//! ```
//!
//! This module owns every rule and route of its protocol number and touches no other. What a killed predecessor
//! left is turned into what is wanted without a gap.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;

use adit_wire::ikev2::TrafficSelector;

use crate::Error;
use crate::backend::{NetConfig, PolicySpec};
use crate::fence::lies_within;
use crate::netlink::{InterfaceAddress, Netlink, Route, RouteKind, Rule};

/// Marks routes and rules as ours (`RTPROT_*`, a number without a known owner).
const PROTOCOL: u8 = 0x41;

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
    pub(crate) fn replace(&mut self, policies: &[PolicySpec]) -> Result<(), Error> {
        let addresses = self.netlink.addresses()?;
        let wanted = wanted(policies, &addresses, self.table, self.interface);
        let present = self.netlink.routes(|route| route.protocol == PROTOCOL)?;
        let key = |route: &Route| (route.table, route.destination, route.metric);
        let replaceable: HashMap<_, _> = present.iter().map(|route| (key(route), route)).collect();
        // First what closes, so that nothing is open before it is led into the tunnel.
        for kind in [RouteKind::Unreachable, RouteKind::Unicast, RouteKind::Throw] {
            for route in wanted.iter().filter(|route| route.kind == kind) {
                match replaceable.get(&key(route)) {
                    Some(same) if *same == route => {}
                    Some(_) => self.place(route, Netlink::replace_route)?,
                    None => self.place(route, Netlink::add_route)?,
                }
            }
            if kind == RouteKind::Unreachable {
                self.replace_rules(policies)?;
            }
        }
        let wanted: HashSet<_> = wanted.iter().map(key).collect();
        for route in present.iter().filter(|route| !wanted.contains(&key(route))) {
            self.netlink.delete_route(route)?;
        }
        Ok(())
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

    fn replace_rules(&mut self, policies: &[PolicySpec]) -> Result<(), Error> {
        let wanted: Vec<Rule> = [false, true]
            .into_iter()
            .filter(|v6| !policies.is_empty() && (!v6 || self.v6))
            .map(|v6| Rule {
                v6,
                priority: self.priority,
                table: self.table,
                except_mark: self.mark,
                protocol: PROTOCOL,
            })
            .collect();
        let present: Vec<Rule> =
            self.netlink.rules()?.into_iter().filter(|rule| rule.protocol == PROTOCOL).collect();
        for rule in wanted.iter().filter(|rule| !present.contains(rule)) {
            self.netlink.add_rule(rule)?;
        }
        for rule in present.iter().filter(|rule| !wanted.contains(rule)) {
            self.netlink.delete_rule(rule)?;
        }
        Ok(())
    }
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
    for policy in policies {
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
    for policy in policies {
        for local in &policy.local_ts {
            if policy.remote_ts.iter().any(|remote| lies_within(local, remote)) {
                // A prefix that is protected as a destination stays so.
                let open = local.prefixes().into_iter().filter(|destination| seen.insert(*destination));
                routes.extend(open.map(|destination| base(destination, RouteKind::Throw, METRIC_THROW)));
            }
        }
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
