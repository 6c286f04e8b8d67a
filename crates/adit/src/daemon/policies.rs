//! Which traffic is protected: one policy for each configured child, from the start and whether an SA exists or not.
//!
//! It owns the numbering of policies (`reqid` in vici) and never talks to the data plane.

use std::collections::{BTreeMap, HashMap};

use adit_ike::config::{AddressSpec, Child, Connection, SelectorSpec};
use adit_ike::{ChildHandle, InstallChild};
use adit_net::{PolicyId, PolicySpec};
use adit_wire::ikev2::TrafficSelector;

/// All policies.
#[derive(Debug, Default)]
pub(super) struct Policies {
    policies: BTreeMap<PolicyId, PolicySpec>,
    /// Policies of children whose selectors the configuration fixes. The others are of SAs whose child says `dynamic`
    /// and whose addresses only the SA knows.
    by_name: HashMap<(String, String), PolicyId>,
    of_sas: HashMap<ChildHandle, PolicyId>,
    last_id: u64,
}

impl Policies {
    /// The policies of a configuration.
    pub(super) fn new(connections: &[Connection]) -> Self {
        let mut policies = Self::default();
        for connection in connections {
            for child in &connection.children {
                if let Some((local_ts, remote_ts)) = selectors(connection, child) {
                    let id = policies.add(&connection.name, &child.name, local_ts, remote_ts);
                    policies.by_name.insert((connection.name.clone(), child.name.clone()), id);
                }
            }
        }
        policies
    }

    /// All that is to be protected now.
    pub(super) fn all(&self) -> Vec<PolicySpec> {
        self.policies.values().cloned().collect()
    }

    /// The policy of a new SA, and whether it is new itself and has to be put in force.
    pub(super) fn of(&mut self, sa: &InstallChild) -> (PolicyId, bool) {
        if let Some(id) = self.by_name.get(&(sa.connection.clone(), sa.child.clone())) {
            return (*id, false);
        }
        // A repeated SA of the same traffic shares the policy.
        let same = |id: &&PolicyId| {
            let policy = self.policies.get(id);
            policy.is_some_and(|policy| policy.local_ts == sa.local_ts && policy.remote_ts == sa.remote_ts)
        };
        let shared = self.of_sas.values().find(same).copied();
        let id = shared.unwrap_or_else(|| {
            self.add(&sa.connection, &sa.child, sa.local_ts.clone(), sa.remote_ts.clone())
        });
        self.of_sas.insert(sa.handle, id);
        (id, shared.is_none())
    }

    /// Forgets the policy that came with an SA; `true` if that ends it.
    pub(super) fn forget(&mut self, sa: ChildHandle) -> bool {
        let Some(id) = self.of_sas.remove(&sa) else { return false };
        !self.of_sas.values().any(|other| *other == id) && self.policies.remove(&id).is_some()
    }

    fn add(
        &mut self,
        connection: &str,
        child: &str,
        local_ts: Vec<TrafficSelector>,
        remote_ts: Vec<TrafficSelector>,
    ) -> PolicyId {
        self.last_id += 1;
        let id = PolicyId(self.last_id);
        let name = format!("{connection}/{child}");
        self.policies.insert(id, PolicySpec { id, name, local_ts, remote_ts, priority: 0 });
        id
    }
}

/// The selectors of a child, if they are known before any SA is: `dynamic` is, where the connection has exactly one
/// address on that side.
fn selectors(connection: &Connection, child: &Child) -> Option<(Vec<TrafficSelector>, Vec<TrafficSelector>)> {
    let resolve = |specs: &[SelectorSpec], addresses: &[AddressSpec]| {
        let own = match addresses {
            [address] => address.single(),
            _ => None,
        };
        specs
            .iter()
            .map(|spec| match *spec {
                SelectorSpec::Fixed(selector) => Some(selector),
                SelectorSpec::Dynamic { protocol, start_port, end_port } => own.map(|address| {
                    TrafficSelector { protocol, start_port, end_port, start: address, end: address }
                }),
            })
            .collect::<Option<Vec<_>>>()
    };
    let local = resolve(&child.local_ts, &connection.local_addrs)?;
    let remote = resolve(&child.remote_ts, &connection.remote_addrs)?;
    Some((local, remote))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use adit_crypto::{EspKeys, EspTransforms, Secret};
    use adit_ike::IkeSaHandle;
    use adit_ike::config::Retransmission;
    use adit_ike::identity::IdentityPattern;
    use adit_wire::ikev2::{EncrId, Spi};

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
            local_port: 500,
            remote_port: 500,
            proposals: Vec::new(),
            local_id: None,
            remote_id: IdentityPattern::Any,
            encap: false,
            dpd_delay: Duration::ZERO,
            retransmission: Retransmission::default(),
            children: vec![Child {
                name: "net".into(),
                proposals: Vec::new(),
                local_ts: vec![local_ts],
                remote_ts: vec![remote_ts],
                replay_window: 1024,
                start: false,
            }],
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
            local: "192.0.2.1".parse().unwrap(),
            remote: "192.0.2.2".parse().unwrap(),
            encap: None,
        }
    }

    #[test]
    fn what_the_configuration_fixes_is_protected_before_any_sa() {
        let fixed = SelectorSpec::Fixed(subnet("10.1.0.0/16"));
        let mut policies = Policies::new(&[connection(&["192.0.2.1"], &["192.0.2.2"], fixed, DYNAMIC)]);
        let all = policies.all();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].name, "gw/net");
        assert_eq!(all[0].local_ts, [subnet("10.1.0.0/16")]);
        assert_eq!(all[0].remote_ts, [subnet("192.0.2.2/32")], "dynamic with one address");
        // SAs of that child, narrowed or not, belong to it and change nothing.
        assert_eq!(policies.of(&sa(1, "net", "192.0.2.2/32")), (all[0].id, false));
        assert!(!policies.forget(ChildHandle(1)));
        assert_eq!(policies.all(), all);
    }

    #[test]
    fn what_only_an_sa_knows_is_protected_while_it_lives() {
        let fixed = SelectorSpec::Fixed(subnet("10.1.0.0/16"));
        for remotes in [&[][..], &["192.0.2.2", "192.0.2.3"]] {
            let mut policies = Policies::new(&[connection(&["192.0.2.1"], remotes, fixed.clone(), DYNAMIC)]);
            assert!(policies.all().is_empty());
            let (first, is_new) = policies.of(&sa(1, "net", "192.0.2.2/32"));
            assert!(is_new);
            let (second, is_new) = policies.of(&sa(2, "net", "192.0.2.3/32"));
            assert!(is_new && second != first);
            assert_eq!(policies.of(&sa(3, "net", "192.0.2.2/32")), (first, false), "the same traffic again");
            assert_eq!(policies.all().iter().filter(|policy| policy.id == first).count(), 1);
            assert!(!policies.forget(ChildHandle(1)));
            assert!(policies.forget(ChildHandle(3)));
            assert_eq!(policies.all().len(), 1);
            assert!(policies.forget(ChildHandle(2)));
            assert!(policies.all().is_empty());
        }
    }
}
