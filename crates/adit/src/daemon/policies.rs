//! What is done with which traffic: one policy for each configured child, from the start and whether an SA exists or not.
//! Children with the same selectors share one, so that the newest SA of any of them carries the traffic.
//!
//! It owns the numbering of policies (`reqid` in vici) and never talks to the data plane. A policy only ever grows: what
//! was protected once stays closed until the daemon ends in order.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_esp as esp;
use adit_ike::config::{Action, AddressSpec, Child, Connection, SelectorSpec};
use adit_ike::{ChildHandle, InstallChild};
use adit_net::{PolicyId, PolicySpec};
use adit_wire::ikev2::TrafficSelector;

use super::reconciler::ChildName;
use crate::config::{Interfaces, Shunt, Treatments};

/// At most this many selectors that only an SA made known stay protected after it, the latest ones: a peer that comes
/// from ever new addresses must not fill the memory.
const REMEMBERED: usize = 1024;

/// All policies.
#[derive(Clone, Debug, Default)]
pub(super) struct Policies {
    policies: BTreeMap<PolicyId, PolicySpec>,
    /// By what is done, and the selectors that the configuration tells.
    by_selectors: HashMap<Key, PolicyId>,
    by_name: HashMap<ChildName, PolicyId>,
    /// The interfaces of connections that have, or had, one of their own: what an SA that comes late protects is theirs alone.
    interfaces: HashMap<String, String>,
    /// The configured children of a policy.
    children: HashMap<PolicyId, Vec<ChildName>>,
    /// What SAs added, in order: the addresses behind `dynamic` that only an SA knows.
    learned: Vec<Learned>,
    last_id: u64,
}

/// What makes two policies the same: what is done, the selectors of both sides, and the interface.
type Key = (esp::Action, [Vec<TrafficSelector>; 2], Option<String>);

/// A selector of the peer's side that the configuration does not tell.
#[derive(Clone, Debug)]
struct Learned {
    policy: PolicyId,
    selector: TrafficSelector,
    /// The SAs that are up and have it.
    sas: Vec<ChildHandle>,
}

impl Policies {
    /// Takes over a configuration. A policy with the same selectors is the same policy; what no child has any more stays
    /// until [`Policies::forget_obsolete`].
    pub(super) fn configure(
        &mut self,
        connections: &[Connection],
        shunts: &[Shunt],
        interfaces: &Interfaces,
    ) {
        self.by_name.clear();
        self.children.clear();
        for connection in connections {
            match interfaces.get(&connection.name) {
                Some(spec) => self.interfaces.insert(connection.name.clone(), spec.name.clone()),
                None => self.interfaces.remove(&connection.name),
            };
            for child in &connection.children {
                let name = ChildName::new(&connection.name, &child.name);
                let trap = child.trap || [child.on_close, child.on_dead_peer].contains(&Action::Trap);
                let action = esp::Action::Protect;
                let wish = (child.priority, trap, child.resources.is_some());
                self.configure_child(name, action, selectors(connection, child), wish);
            }
        }
        for shunt in shunts {
            let name = ChildName::new(&shunt.connection, &shunt.name);
            let selectors = (shunt.local_ts.clone(), shunt.remote_ts.clone());
            self.configure_child(name, shunt.action, selectors, (shunt.priority, false, false));
        }
    }

    fn configure_child(
        &mut self,
        name: ChildName,
        action: esp::Action,
        (local_ts, remote_ts): (Vec<TrafficSelector>, Vec<TrafficSelector>),
        (priority, trap, spread): (u32, bool, bool),
    ) {
        let interface = match action {
            esp::Action::Protect => self.interfaces.get(&name.connection).cloned(),
            esp::Action::Bypass | esp::Action::Discard => None,
        };
        let key = (action, [sorted(&local_ts), sorted(&remote_ts)], interface.clone());
        let id = match self.by_selectors.get(&key) {
            Some(id) => *id,
            None => {
                let id = self.add(&name, local_ts, remote_ts);
                self.by_selectors.insert(key, id);
                id
            }
        };
        let first = !self.children.contains_key(&id);
        if let Some(policy) = self.policies.get_mut(&id) {
            policy.action = action;
            policy.interface = interface;
            policy.trap = trap || (policy.trap && !first);
            policy.spread = spread || (policy.spread && !first);
            // 0 comes last.
            let sooner = priority.wrapping_sub(1) < policy.priority.wrapping_sub(1);
            if first || sooner {
                policy.priority = priority;
            }
            if first {
                policy.name = format!("{}/{}", name.connection, name.child);
            }
        }
        self.children.entry(id).or_default().push(name.clone());
        self.by_name.insert(name, id);
    }

    /// Gives up what no child of the configuration has. Was there something?
    pub(super) fn forget_obsolete(&mut self) -> bool {
        let before = self.policies.len();
        self.policies.retain(|id, _| self.children.contains_key(id));
        self.by_selectors.retain(|_, id| self.policies.contains_key(id));
        self.learned.retain(|learned| self.policies.contains_key(&learned.policy));
        self.policies.len() != before
    }

    /// Every configured child, in the order of the policies, as a policy and the place of the child in it: for whoever looks at
    /// them one by one, by [`Self::child`].
    pub(super) fn numbers(&self) -> Vec<(PolicyId, usize)> {
        self.policies.keys().flat_map(|id| (0..self.children(*id).len()).map(move |at| (*id, at))).collect()
    }

    /// One of them, if it is still there.
    pub(super) fn child(&self, (id, at): (PolicyId, usize)) -> Option<(&ChildName, &PolicySpec)> {
        Some((self.children(id).get(at)?, self.policies.get(&id)?))
    }

    /// All that is in force now.
    pub(super) fn all(&self) -> Vec<PolicySpec> {
        self.policies.values().filter(|policy| !policy.remote_ts.is_empty()).cloned().collect()
    }

    /// The interface of a policy that has one of its own.
    pub(super) fn interface(&self, id: PolicyId) -> Option<&str> {
        self.policies.get(&id)?.interface.as_deref()
    }

    /// What a policy is for: the addresses of our side, and of the peer's.
    pub(super) fn of_id(&self, id: PolicyId) -> Option<(Vec<TrafficSelector>, Vec<TrafficSelector>)> {
        self.policies.get(&id).map(|policy| (policy.local_ts.clone(), policy.remote_ts.clone()))
    }

    /// The configured children whose traffic a policy is.
    pub(super) fn children(&self, id: PolicyId) -> &[ChildName] {
        self.children.get(&id).map_or(&[], Vec::as_slice)
    }

    /// The policy of a new SA, and whether it has grown and has to be put in force anew.
    pub(super) fn of(&mut self, sa: &InstallChild) -> (PolicyId, bool) {
        let name = ChildName::new(&sa.connection, &sa.child);
        let id = match self.by_name.get(&name) {
            Some(id) => *id,
            None => {
                let id = self.add(&name, sa.local_ts.clone(), Vec::new());
                self.by_name.insert(name, id);
                id
            }
        };
        let Some(policy) = self.policies.get_mut(&id) else { return (id, false) };
        let mut grown = false;
        for selector in &sa.remote_ts {
            let learned = self.learned.iter_mut().find(|old| old.policy == id && old.selector == *selector);
            if let Some(learned) = learned {
                learned.sas.push(sa.handle);
            } else if !policy.remote_ts.iter().any(|wide| wide.covers(selector)) {
                policy.remote_ts.push(*selector);
                self.learned.push(Learned { policy: id, selector: *selector, sas: vec![sa.handle] });
                grown = true;
            }
        }
        (id, grown)
    }

    /// An SA is gone. What it added stays protected, unless too much does: `true` if something was given up.
    pub(super) fn release(&mut self, sa: ChildHandle) -> bool {
        for learned in &mut self.learned {
            learned.sas.retain(|handle| *handle != sa);
        }
        let idle = self.learned.iter().filter(|learned| learned.sas.is_empty()).count();
        let mut surplus = idle.saturating_sub(REMEMBERED);
        let given_up: Vec<Learned> = self
            .learned
            .extract_if(.., |learned| {
                let oldest = surplus > 0 && learned.sas.is_empty();
                surplus -= usize::from(oldest);
                oldest
            })
            .collect();
        for learned in &given_up {
            if let Some(policy) = self.policies.get_mut(&learned.policy) {
                policy.remote_ts.retain(|selector| *selector != learned.selector);
            }
        }
        !given_up.is_empty()
    }

    fn add(
        &mut self,
        ChildName { connection, child }: &ChildName,
        local_ts: Vec<TrafficSelector>,
        remote_ts: Vec<TrafficSelector>,
    ) -> PolicyId {
        self.last_id += 1;
        let id = PolicyId(self.last_id);
        let name = format!("{connection}/{child}");
        let interface = self.interfaces.get(connection).cloned();
        self.policies.insert(id, PolicySpec { interface, ..PolicySpec::new(id, name, local_ts, remote_ts) });
        id
    }
}

/// Selectors in an order that does not depend on how they were listed.
fn sorted(selectors: &[TrafficSelector]) -> Vec<TrafficSelector> {
    let mut sorted = selectors.to_vec();
    sorted.sort_unstable_by_key(|s| (s.start, s.end, s.protocol, s.start_port, s.end_port));
    sorted.dedup();
    sorted
}

/// Connections whose children have the selectors that they have on our side.
pub(super) fn inside<'c>(connections: &'c [Connection], treatments: &Treatments) -> Cow<'c, [Connection]> {
    if treatments.values().all(|treatment| treatment.translation.is_none()) {
        return Cow::Borrowed(connections);
    }
    let places = connections.iter().enumerate().map(|(place, connection)| (connection.name.as_str(), place));
    let places: HashMap<&str, usize> = places.collect();
    let mut connections = Cow::Borrowed(connections);
    for ((connection, child), treatment) in treatments {
        let Some(translation) = &treatment.translation else { continue };
        let place = places.get(connection.as_str()).copied();
        let connection = place.and_then(|place| connections.to_mut().get_mut(place));
        let child = connection.and_then(|one| one.children.iter_mut().find(|one| one.name == *child));
        let Some(child) = child else { continue };
        let fixed = |specs: &[SelectorSpec]| {
            let one = |spec: &SelectorSpec| match spec {
                SelectorSpec::Fixed(selector) => Some(*selector),
                SelectorSpec::Dynamic { .. } => None,
            };
            specs.iter().map(one).collect::<Option<Vec<_>>>()
        };
        let specs =
            |selectors: Vec<TrafficSelector>| selectors.into_iter().map(SelectorSpec::Fixed).collect();
        if let Some(local) = fixed(&child.local_ts).and_then(|all| translation.local_inside(&all)) {
            child.local_ts = specs(local);
        }
        if let Some(remote) = fixed(&child.remote_ts).and_then(|all| translation.remote_inside(&all)) {
            child.remote_ts = specs(remote);
        }
    }
    connections
}

/// The selectors of a child as far as the configuration tells them. Our `dynamic` is all that it may become, which is
/// every address if `local_addrs` names none; the peer's is left out where `remote_addrs` does not name it: to close the
/// way to everybody would close it to the peer as well.
fn selectors(connection: &Connection, child: &Child) -> (Vec<TrafficSelector>, Vec<TrafficSelector>) {
    let everything = [
        AddressSpec { first: Ipv4Addr::UNSPECIFIED.into(), last: Ipv4Addr::BROADCAST.into() },
        AddressSpec { first: Ipv6Addr::UNSPECIFIED.into(), last: IpAddr::V6(u128::MAX.into()) },
    ];
    let local = match &connection.local_addrs[..] {
        [] => &everything[..],
        addresses => addresses,
    };
    let remote = &connection.remote_addrs[..];
    let remote = if remote.iter().all(|address| address.single().is_some()) { remote } else { &[] };
    (resolve(&child.local_ts, local), resolve(&child.remote_ts, remote))
}

fn resolve(specs: &[SelectorSpec], own: &[AddressSpec]) -> Vec<TrafficSelector> {
    let mut selectors = Vec::new();
    for spec in specs {
        match *spec {
            SelectorSpec::Fixed(selector) => selectors.push(selector),
            SelectorSpec::Dynamic { protocol, start_port, end_port } => {
                selectors.extend(own.iter().map(|address| TrafficSelector {
                    protocol,
                    start_port,
                    end_port,
                    start: address.first,
                    end: address.last,
                }));
            }
        }
    }
    selectors
}

#[cfg(test)]
mod tests {

    use adit_crypto::{EspKeys, EspTransforms, Secret};
    use adit_ike::IkeSaHandle;
    use adit_wire::esp::Mode;
    use adit_wire::ikev2::{EncrId, Spi};

    use adit_ike::UsageLimits;

    use super::*;

    const DYNAMIC: SelectorSpec = SelectorSpec::Dynamic { protocol: 0, start_port: 0, end_port: 65_535 };

    fn subnet(text: &str) -> TrafficSelector {
        let (address, prefix) = text.split_once('/').unwrap();
        TrafficSelector::subnet(address.parse().unwrap(), prefix.parse().unwrap())
    }

    fn connection(
        local: &[&str],
        remote: &[&str],
        local_ts: SelectorSpec,
        remote_ts: SelectorSpec,
    ) -> Connection {
        let addresses = |list: &[&str]| {
            let single =
                |text: &&str| AddressSpec { first: text.parse().unwrap(), last: text.parse().unwrap() };
            list.iter().map(single).collect()
        };
        Connection {
            name: "gw".into(),
            local_addrs: addresses(local),
            remote_addrs: addresses(remote),
            children: vec![Child {
                name: "net".into(),
                local_ts: vec![local_ts],
                remote_ts: vec![remote_ts],
                ..Child::default()
            }],
            ..Connection::default()
        }
    }

    fn sa(handle: u64, child: &str, remote_ts: &str) -> InstallChild {
        let keys = || EspKeys { encr: Secret::new(Vec::new()), integ: Secret::new(Vec::new()) };
        InstallChild {
            handle: ChildHandle(handle),
            ike_sa: IkeSaHandle(1),
            connection: "gw".into(),
            child: child.into(),
            inbound_spi: Spi(1),
            outbound_spi: Spi(2),
            mode: Mode::Tunnel,
            transforms: EspTransforms {
                encr: EncrId::AES_GCM_16,
                key_bits: Some(128),
                integ: None,
                esn: false,
            },
            inbound_keys: keys(),
            outbound_keys: keys(),
            replay_window: 1024,
            local_ts: vec![subnet("10.1.0.0/16")],
            remote_ts: vec![subnet(remote_ts)],
            tfc_padding: true,
            resource: None,
            original: None,
            local: "192.0.2.1".parse().unwrap(),
            remote: "192.0.2.2".parse().unwrap(),
            encap: None,
            active: true,
            limits: UsageLimits::default(),
        }
    }

    fn configured(connections: &[Connection]) -> Policies {
        let mut policies = Policies::default();
        policies.configure(connections, &[], &Interfaces::new());
        policies
    }

    #[test]
    fn what_the_configuration_fixes_is_protected_before_any_sa() {
        let fixed = SelectorSpec::Fixed(subnet("10.1.0.0/16"));
        let mut policies = configured(&[connection(&["192.0.2.1"], &["192.0.2.2"], fixed, DYNAMIC)]);
        let all = policies.all();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].name, "gw/net");
        assert_eq!(all[0].local_ts, [subnet("10.1.0.0/16")]);
        assert_eq!(all[0].remote_ts, [subnet("192.0.2.2/32")], "dynamic with one address");
        // SAs of that child, narrowed or not, belong to it and change nothing.
        assert_eq!(policies.of(&sa(1, "net", "192.0.2.2/32")), (all[0].id, false));
        assert!(!policies.release(ChildHandle(1)));
        assert_eq!(policies.all(), all);
    }

    #[test]
    fn an_address_of_ours_that_is_not_known_yet_is_any_that_it_may_become() {
        let remote = || SelectorSpec::Fixed(subnet("10.2.0.0/16"));
        let protected = |own: &[&str]| {
            let mut connection = connection(own, &["192.0.2.2"], DYNAMIC, remote());
            connection.children[0].local_ts.insert(0, SelectorSpec::Fixed(subnet("10.1.0.0/24")));
            let policies = configured(&[connection]).all();
            assert_eq!(policies[0].remote_ts, [subnet("10.2.0.0/16")]);
            policies[0].local_ts.clone()
        };
        let (net, any) = (subnet("10.1.0.0/24"), [subnet("0.0.0.0/0"), subnet("::/0")]);
        assert_eq!(protected(&[]), [net, any[0], any[1]]);
        assert_eq!(protected(&["192.0.2.1"]), [net, subnet("192.0.2.1/32")]);
        let two = [net, subnet("192.0.2.1/32"), subnet("192.0.2.9/32")];
        assert_eq!(protected(&["192.0.2.1", "192.0.2.9"]), two);
    }

    #[test]
    fn what_only_an_sa_knows_stays_protected_after_it() {
        let fixed = SelectorSpec::Fixed(subnet("10.1.0.0/16"));
        let mut connection = connection(&["192.0.2.1"], &[], fixed, DYNAMIC);
        let mut policies = configured(&[connection.clone()]);
        assert!(policies.all().is_empty());
        let (id, grown) = policies.of(&sa(1, "net", "192.0.2.2/32"));
        assert!(grown);
        assert_eq!(policies.of(&sa(2, "net", "192.0.2.3/32")), (id, true));
        assert_eq!(policies.of(&sa(3, "net", "192.0.2.2/32")), (id, false), "the same traffic again");
        for handle in 1..=3 {
            assert!(!policies.release(ChildHandle(handle)));
        }
        assert_eq!(policies.all()[0].remote_ts, [subnet("192.0.2.2/32"), subnet("192.0.2.3/32")]);

        // What is fixed beside it is protected from the start.
        connection.children[0].remote_ts.push(SelectorSpec::Fixed(subnet("10.2.0.0/16")));
        let mut policies = configured(&[connection]);
        assert_eq!(policies.all()[0].remote_ts, [subnet("10.2.0.0/16")]);
        assert!(!policies.of(&sa(1, "net", "10.2.3.0/24")).1);
        assert!(policies.of(&sa(2, "net", "192.0.2.2/32")).1);
        assert_eq!(policies.all()[0].remote_ts, [subnet("10.2.0.0/16"), subnet("192.0.2.2/32")]);
    }

    #[test]
    fn children_with_the_same_selectors_share_a_policy() {
        let net = |text| SelectorSpec::Fixed(subnet(text));
        let mut first = connection(&["192.0.2.1"], &["192.0.2.2"], net("10.1.0.0/16"), net("10.2.0.0/16"));
        first.children[0].remote_ts.push(net("10.4.0.0/16"));
        let mut second = connection(&["192.0.2.1"], &["192.0.2.3"], net("10.1.0.0/16"), net("10.4.0.0/16"));
        second.name = "backup".into();
        second.children[0].remote_ts.push(net("10.2.0.0/16"));
        let mut third = second.clone();
        third.name = "other".into();
        third.children[0].remote_ts.pop();
        let mut policies = configured(&[first, second, third]);
        assert_eq!(policies.all().len(), 2);
        let mut of = |handle, connection: &str| {
            policies.of(&InstallChild { connection: connection.into(), ..sa(handle, "net", "10.4.0.0/16") })
        };
        let (shared, _) = of(1, "gw");
        assert_eq!(of(2, "backup"), (shared, false));
        assert_ne!(of(3, "other").0, shared);
    }

    #[test]
    fn a_reload_keeps_what_stays_and_adds_before_it_removes() {
        let net = |text: &str| SelectorSpec::Fixed(subnet(text));
        let one = |name: &str, remote: &str, trap| {
            let mut connection = connection(&["192.0.2.1"], &["192.0.2.2"], net("10.1.0.0/16"), net(remote));
            connection.name = name.into();
            connection.children[0].trap = trap;
            connection
        };
        let mut policies = configured(&[
            one("a", "10.2.0.0/16", false),
            one("b", "10.3.0.0/16", true),
            one("c", "10.3.0.0/16", false),
        ]);
        let before = policies.all();
        assert_eq!(before.iter().map(|policy| policy.trap).collect::<Vec<_>>(), [false, true]);
        let (of_a, _) = policies.of(&InstallChild { connection: "a".into(), ..sa(1, "net", "10.2.0.0/16") });
        // `a` has become another, `b` is gone and leaves its selectors to `c`, `d` is new.
        policies.configure(
            &[one("a", "10.4.0.0/16", true), one("c", "10.3.0.0/16", false), one("d", "10.5.0.0/16", false)],
            &[],
            &Interfaces::new(),
        );
        assert_eq!(policies.all().len(), 4, "the old one of `a` is still there");
        assert!(policies.children(of_a).is_empty());
        policies.forget_obsolete();
        let names: Vec<(String, bool, bool)> = policies
            .all()
            .into_iter()
            .map(|policy| (policy.name, policy.trap, before.iter().any(|old| old.id == policy.id)))
            .collect();
        let expected = [("c/net", false, true), ("a/net", true, false), ("d/net", false, false)];
        assert_eq!(names, expected.map(|(name, trap, same)| (name.to_owned(), trap, same)));
        assert!(!policies.release(ChildHandle(1)));
    }

    #[test]
    fn workers_share_a_policy_for_as_long_as_the_file_says() {
        let net = |text: &str| SelectorSpec::Fixed(subnet(text));
        let mut one = connection(&[], &[], net("10.1.0.0/16"), net("10.2.0.0/16"));
        let spread = |policies: &Policies| policies.all()[0].spread;
        one.children[0].resources = Some(adit_ike::config::Resources { own: 2, most: 16 });
        let mut policies = configured(&[one.clone()]);
        assert!(spread(&policies));
        one.children[0].resources = None;
        policies.configure(&[one], &[], &Interfaces::new());
        assert!(!spread(&policies));
    }

    #[test]
    fn shunts_are_policies_that_no_sa_has() {
        let net = |text: &str| SelectorSpec::Fixed(subnet(text));
        let connections =
            [connection(&["192.0.2.1"], &["192.0.2.2"], net("10.1.0.0/16"), net("10.2.0.0/16"))];
        let shunt = |name: &str, action, priority| Shunt {
            connection: "lan".into(),
            name: name.into(),
            action,
            local_ts: vec![subnet("10.1.0.0/16")],
            remote_ts: vec![subnet("10.2.0.0/16")],
            priority,
        };
        let (bypass, discard) = (esp::Action::Bypass, esp::Action::Discard);
        let mut policies = Policies::default();
        policies.configure(
            &connections,
            &[shunt("open", bypass, 0), shunt("shut", discard, 9), shunt("also", discard, 7)],
            &Interfaces::new(),
        );
        let listed = |policies: &Policies| -> Vec<_> {
            policies
                .all()
                .into_iter()
                .map(|policy| (policy.id.0, policy.name, policy.action, policy.priority))
                .collect()
        };
        let expected = [
            (1, "gw/net".to_owned(), esp::Action::Protect, 0),
            (2, "lan/open".to_owned(), bypass, 0),
            (3, "lan/shut".to_owned(), discard, 7),
        ];
        assert_eq!(listed(&policies), expected, "the same traffic, and not the same policy");
        let names: Vec<_> =
            policies.numbers().into_iter().filter_map(|number| policies.child(number)).collect();
        let names: Vec<_> = names.iter().map(|(name, policy)| (name.child.as_str(), policy.id.0)).collect();
        assert_eq!(names, [("net", 1), ("open", 2), ("shut", 3), ("also", 3)]);
        assert_eq!(policies.of(&sa(1, "net", "10.2.0.0/16")), (PolicyId(1), false));
        // A reload that keeps one keeps it as it is.
        policies.configure(&connections, &[shunt("shut", discard, 0)], &Interfaces::new());
        policies.forget_obsolete();
        assert_eq!(listed(&policies)[1], (3, "lan/shut".to_owned(), discard, 0));
        policies.configure(&connections, &[], &Interfaces::new());
        policies.forget_obsolete();
        assert_eq!(listed(&policies).len(), 1);
    }

    #[test]
    fn a_wandering_peer_does_not_fill_the_memory() {
        let fixed = SelectorSpec::Fixed(subnet("10.1.0.0/16"));
        let mut policies = configured(&[connection(&["192.0.2.1"], &[], fixed, DYNAMIC)]);
        policies.of(&sa(0, "net", "198.51.100.1/32"));
        for step in 1..=REMEMBERED as u64 + 5 {
            policies.of(&sa(step, "net", &format!("203.0.{}.{}/32", step / 256, step % 256)));
            assert_eq!(policies.release(ChildHandle(step)), step > REMEMBERED as u64);
        }
        let remote_ts = &policies.all()[0].remote_ts;
        assert_eq!(remote_ts.len(), REMEMBERED + 1);
        assert_eq!(
            remote_ts[..2],
            [subnet("198.51.100.1/32"), subnet("203.0.0.6/32")],
            "the one in use stays"
        );
    }
}
