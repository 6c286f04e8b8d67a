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
    /// Of children whose selectors the configuration fixes.
    fixed: Vec<PolicySpec>,
    by_name: HashMap<(String, String), PolicyId>,
    /// Of SAs whose child says `dynamic` and whose addresses only the SA knows.
    of_sas: BTreeMap<ChildHandle, PolicySpec>,
    last_id: u64,
}

impl Policies {
    /// The policies of a configuration.
    pub(super) fn new(connections: &[Connection]) -> Self {
        let mut policies = Self::default();
        for connection in connections {
            for child in &connection.children {
                if let Some((local_ts, remote_ts)) = selectors(connection, child) {
                    let id = policies.next_id();
                    policies.by_name.insert((connection.name.clone(), child.name.clone()), id);
                    let name = format!("{}/{}", connection.name, child.name);
                    policies.fixed.push(PolicySpec { id, name, local_ts, remote_ts, priority: 0 });
                }
            }
        }
        policies
    }

    /// All that is to be protected now.
    pub(super) fn all(&self) -> Vec<PolicySpec> {
        self.fixed.iter().chain(self.of_sas.values()).cloned().collect()
    }

    /// The policy of a new SA, and whether it is new itself and has to be put in force.
    pub(super) fn of(&mut self, sa: &InstallChild) -> (PolicyId, bool) {
        let key = (sa.connection.clone(), sa.child.clone());
        if let Some(id) = self.by_name.get(&key) {
            return (*id, false);
        }
        // A rekeyed or repeated SA of the same traffic shares the policy.
        let same = |policy: &&PolicySpec| policy.local_ts == sa.local_ts && policy.remote_ts == sa.remote_ts;
        let shared = self.of_sas.values().find(same).cloned();
        let is_new = shared.is_none();
        let policy = shared.unwrap_or_else(|| PolicySpec {
            id: self.next_id(),
            name: format!("{}/{}", sa.connection, sa.child),
            local_ts: sa.local_ts.clone(),
            remote_ts: sa.remote_ts.clone(),
            priority: 0,
        });
        let id = policy.id;
        self.of_sas.insert(sa.handle, policy);
        (id, is_new)
    }

    /// Forgets the policy that came with an SA; `true` if it was the last one of that policy.
    pub(super) fn forget(&mut self, sa: ChildHandle) -> bool {
        let Some(policy) = self.of_sas.remove(&sa) else { return false };
        !self.of_sas.values().any(|other| other.id == policy.id)
    }

    fn next_id(&mut self) -> PolicyId {
        self.last_id += 1;
        PolicyId(self.last_id)
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
