//! Connections that have an interface of their own: what they say about it, and whether they agree about it.

use std::collections::HashMap;
use std::net::IpAddr;

use adit_ike::config::{AddressSpec, Connection, SelectorSpec};
use adit_net::{InterfaceSpec, Mark};
use adit_wire::ikev2::TrafficSelector;

use super::{Builder, Checked, Problem, Value};
use crate::config::load::{GatewaySettings, Interfaces};
use crate::config::source::Span;

/// What is left to be compared when all connections are known.
#[derive(Debug)]
pub(super) struct Mention {
    connection: String,
    interface: String,
    /// Where it is named, and where its routes are.
    span: Span,
    routes: Option<Span>,
}

/// A connection that has an interface.
#[derive(Clone, Copy)]
struct User<'u> {
    mention: &'u Mention,
    spec: &'u InterfaceSpec,
    own: &'u Connection,
}

const MARKS: [&str; 2] = ["mark_out", "set_mark_in"];

const BESIDE: [&str; 3] = ["interface_addrs", "interface_mtu", "interface_routes"];

impl Builder<'_> {
    /// The interface of a connection, if it has one. `children` are those that need an SA.
    pub(super) fn interface(
        &mut self,
        section: &mut Checked,
        children: &[Checked],
        gateway: &GatewaySettings,
    ) {
        let path = section.path.clone();
        let Some(named) = section.span_of("interface") else {
            for key in BESIDE {
                if let Some(span) = section.span_of(key) {
                    let problem =
                        Problem::new(span, format!("{path}.{key}"), "this connection has no interface");
                    self.error(problem.expected("`interface = <name>` beside it"));
                }
            }
            for (child, key) in children.iter().flat_map(|child| MARKS.map(|key| (child, key))) {
                if let Some(span) = child.span_of(key).filter(|_| child.mark_of(key).is_some()) {
                    let message =
                        "marks are told apart by routes to an interface, and this connection has none";
                    let problem = Problem::new(span, format!("{}.{key}", child.path), message);
                    self.error(problem.expected("`interface = <name>` in the connection"));
                }
            }
            return;
        };
        let name = section.text("interface");
        if name == gateway.tun {
            let message = "this interface takes the traffic of connections without one of their own";
            let problem = Problem::new(named, format!("{path}.interface"), message);
            self.error(problem.expected("another name than `gateway.tun`"));
        }
        let (mtu_span, routes_span) = (section.span_of("interface_mtu"), section.span_of("interface_routes"));
        let (mtu, addresses) = (section.small("interface_mtu"), section.networks("interface_addrs"));
        let routes = section.networks("interface_routes");
        if let (Some(span), Some(..1280)) = (mtu_span, mtu)
            && addresses.iter().chain(&routes).any(|(address, _)| address.is_ipv6())
        {
            let problem = Problem::new(span, format!("{path}.interface_mtu"), "too small for IPv6");
            self.error(problem.expected("at least `1280`, or no IPv6 on this interface"));
        }
        for (address, len) in &routes {
            let TrafficSelector { start, .. } = TrafficSelector::subnet(*address, *len);
            if let Some(span) = routes_span.filter(|_| start != *address) {
                let message = format!("`{address}/{len}` is an address in a network, not a network");
                let problem = Problem::new(span, format!("{path}.interface_routes"), message);
                self.error(problem.expected(format!("`{start}/{len}`")));
            }
        }
        let [marked, marks] = MARKS.map(|key| self.mark(key, children));
        // What had the gateway's own mark would go past all that protects.
        for (span, (value, mask)) in [marked, marks].into_iter().flatten() {
            if gateway.mark & mask == value & mask {
                let own = gateway.mark;
                let message =
                    format!("packets of the gateway itself have such a mark (`gateway.mark`, {own})");
                let problem = Problem::new(span, format!("{path}.children"), message);
                self.error(problem.expected("a mark that they do not have"));
            }
        }
        let networks = children.iter().filter(|child| child.mark_of("mark_out").is_some());
        let networks: Vec<(IpAddr, u8)> = networks.flat_map(|child| child.destinations()).collect();
        for child in children {
            if let (Some("transport"), Some(span)) = (child.word_of("mode"), child.span_of("mode")) {
                let message = "what two hosts send each other in transport mode takes no interface";
                let problem = Problem::new(span, format!("{}.mode", child.path), message);
                self.error(
                    problem.expected("`tunnel` or `iptfs`, or no `interface`").note("interface", Some(named)),
                );
            }
        }
        self.mentions.push(Mention {
            connection: section.name.clone(),
            interface: name.clone(),
            span: named,
            routes: routes_span,
        });
        let (marked, marks) = (marked.map(|(_, mark)| (mark, networks)), marks.map(|(_, mark)| mark));
        let spec = InterfaceSpec { name, owner: section.name.clone(), mtu, addresses, routes, marked, marks };
        self.interfaces.insert(section.name.clone(), spec);
    }

    /// The mark that children give their interface, and where. It can have one.
    fn mark(&mut self, key: &'static str, children: &[Checked]) -> Option<(Span, Mark)> {
        let given = |child: &Checked| Some((child.span_of(key)?, child.mark_of(key)?));
        let mut all = children.iter().filter_map(|child| Some((child, given(child)?)));
        let (_, first) = all.next()?;
        if let Some((child, (span, _))) = all.find(|(_, (_, mark))| *mark != first.1) {
            let problem = Problem::new(span, format!("{}.{key}", child.path), "an interface has one mark");
            self.error(
                problem
                    .expected("the mark of the other child, or another connection")
                    .note("it", Some(first.0)),
            );
        }
        Some(first)
    }

    /// A child that passes or drops has no place in a connection with an interface.
    pub(super) fn no_shunt_beside_an_interface(&mut self, connection: &Checked, child: &Checked) {
        if let Some(interface) = connection.span_of("interface") {
            let at = child.span_of("mode").unwrap_or(child.span);
            let message = "what is routed to an interface is protected by its connection, or dropped";
            let problem = Problem::new(at, format!("{}.mode", child.path), message);
            let problem = problem.expected("this child in a connection without `interface`");
            self.error(problem.note("interface", Some(interface)));
        }
    }

    /// Looks at all connections with interfaces together that come from several places.
    pub(in crate::config) fn compare_anew(&mut self, connections: &[Connection], interfaces: &Interfaces) {
        let mention = |(connection, spec): (&String, &InterfaceSpec)| Mention {
            connection: connection.clone(),
            interface: spec.name.clone(),
            span: Span::NOWHERE,
            routes: None,
        };
        self.mentions = interfaces.iter().map(mention).collect();
        self.interfaces.clone_from(interfaces);
        self.compare_interfaces(connections);
    }

    /// Looks at all connections with interfaces together.
    pub(super) fn compare_interfaces(&mut self, connections: &[Connection]) {
        let interfaces = std::mem::take(&mut self.interfaces);
        let by_name: HashMap<&str, &Connection> =
            connections.iter().map(|connection| (connection.name.as_str(), connection)).collect();
        let mut users: HashMap<&str, Vec<User<'_>>> = HashMap::new();
        let mut routed: HashMap<(Option<Mark>, (IpAddr, u8)), &Mention> = HashMap::new();
        let mentions = std::mem::take(&mut self.mentions);
        for mention in &mentions {
            let name = mention.connection.as_str();
            let (Some(spec), Some(own)) = (interfaces.get(name), by_name.get(name)) else { continue };
            let user = User { mention, spec, own };
            self.look_at_selectors(user);
            self.look_at_the_way_to_the_peer(user);
            let others = users.entry(&spec.name).or_default();
            for other in &*others {
                self.look_at_sharing(user, *other);
            }
            others.push(user);
            let marked = spec.marked.iter().flat_map(|(mark, to)| to.iter().map(|to| (Some(*mark), *to)));
            for way in spec.routes.iter().map(|route| (None, *route)).chain(marked) {
                let first = *routed.entry(way).or_insert(mention);
                if first.interface == mention.interface {
                    continue;
                }
                let (mark, (address, len)) = way;
                let what = if mark.is_some() { " with this mark" } else { "" };
                let message = format!("`{address}/{len}`{what} is routed to another interface already");
                let span = mention.routes.unwrap_or(mention.span);
                let problem = Problem::new(span, format!("connections.{name}.interface_routes"), message);
                let other = first.routes.unwrap_or(first.span);
                self.error(
                    problem.expected("one interface for each route").note("the other one", Some(other)),
                );
            }
        }
        self.interfaces = interfaces;
    }

    /// With `dynamic` on a side an interface carries next to nothing: easily forgotten.
    fn look_at_selectors(&mut self, User { mention, own, .. }: User<'_>) {
        let is_dynamic =
            |all: &[SelectorSpec]| all.iter().all(|one| matches!(one, SelectorSpec::Dynamic { .. }));
        for child in &own.children {
            if is_dynamic(&child.local_ts) || is_dynamic(&child.remote_ts) {
                let key = format!("connections.{}.children.{}", own.name, child.name);
                let message = "only what goes from or to the gateways themselves may pass the interface";
                let problem = Problem::new(mention.span, key, message);
                let problem = problem.expected("`local_ts` and `remote_ts`, often `0.0.0.0/0, ::/0` both");
                self.diagnostics.warning(self.sources, problem);
            }
        }
    }

    fn look_at_the_way_to_the_peer(&mut self, User { mention, spec, own }: User<'_>) {
        let peers = own.remote_addrs.iter().filter_map(AddressSpec::single);
        let leads = |peer: IpAddr| {
            let within = |(address, len): &&(IpAddr, u8)| {
                let TrafficSelector { start, end, .. } = TrafficSelector::subnet(*address, *len);
                start.is_ipv4() == peer.is_ipv4() && start <= peer && peer <= end
            };
            spec.routes.iter().find(within).map(|route| (peer, *route))
        };
        if let (Some((peer, (address, len))), Some(span)) =
            (peers.into_iter().find_map(leads), mention.routes)
        {
            let message =
                format!("the way to the peer {peer} itself would lead into the tunnel by `{address}/{len}`");
            let key = format!("connections.{}.interface_routes", own.name);
            let problem = Problem::new(span, key, message);
            let problem = problem.expected(format!("a route of yours to `{peer}` that is more specific"));
            self.diagnostics.warning(self.sources, problem);
        }
    }

    /// Two connections may share an interface if it is clear which of them carries a packet.
    fn look_at_sharing(
        &mut self,
        User { mention, spec, own }: User<'_>,
        User { mention: earlier, spec: other, own: peer }: User<'_>,
    ) {
        let key = format!("connections.{}.interface", mention.connection);
        if spec.mtu.is_some() && other.mtu.is_some() && spec.mtu != other.mtu {
            let problem =
                Problem::new(mention.span, key.clone(), "two connections give this interface different MTUs");
            self.error(problem.expected("one `interface_mtu`").note("the other one", Some(earlier.span)));
        }
        let differ = |one: Option<Mark>, two: Option<Mark>| one.is_some() && two.is_some() && one != two;
        let marked = |spec: &InterfaceSpec| spec.marked.as_ref().map(|(mark, _)| *mark);
        if differ(marked(spec), marked(other)) || differ(spec.marks, other.marks) {
            let message = format!("the connection `{}` gives this interface another mark", peer.name);
            let problem = Problem::new(mention.span, key.clone(), message);
            self.error(
                problem.expected("one mark for an interface").note("the other one", Some(earlier.span)),
            );
        }
        let ambiguous = own.children.iter().any(|child| {
            peer.children.iter().any(|other| {
                meet(&child.local_ts, &other.local_ts) && meet(&child.remote_ts, &other.remote_ts)
            })
        });
        if ambiguous {
            let message =
                format!("the connection `{}` has the same interface, and selectors that overlap", peer.name);
            let problem = Problem::new(mention.span, key, message);
            let problem = problem.expected("an interface of its own, or selectors that do not overlap");
            self.error(problem.note("the other one", Some(earlier.span)));
        }
    }
}

impl Checked {
    /// The mark that `key` was given, if it says anything.
    fn mark_of(&self, key: &str) -> Option<Mark> {
        match self.given(key)? {
            Value::Mark(value, mask) if *mask != 0 => Some((*value & mask, *mask)),
            _ => None,
        }
    }

    /// The prefixes of the peer's side. What is `dynamic` may be any.
    fn destinations(&self) -> Vec<(IpAddr, u8)> {
        let any = [TrafficSelector::any_v4(), TrafficSelector::any_v6()];
        let Some(Value::Selectors(specs)) = self.given("remote_ts") else { return prefixes(&any) };
        let prefixes = specs.iter().flat_map(|spec| match spec {
            SelectorSpec::Fixed(selector) => selector.prefixes(),
            SelectorSpec::Dynamic { .. } => prefixes(&any),
        });
        prefixes.collect()
    }
}

fn prefixes(selectors: &[TrafficSelector]) -> Vec<(IpAddr, u8)> {
    selectors.iter().flat_map(TrafficSelector::prefixes).collect()
}

/// Could a packet fit one of each?
fn meet(one: &[SelectorSpec], other: &[SelectorSpec]) -> bool {
    let overlap = |pair: (&SelectorSpec, &SelectorSpec)| match pair {
        (SelectorSpec::Fixed(one), SelectorSpec::Fixed(other)) => one.intersection(other).is_some(),
        _ => true,
    };
    one.iter().any(|one| other.iter().any(|other| overlap((one, other))))
}
