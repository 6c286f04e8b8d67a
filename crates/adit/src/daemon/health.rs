//! Whether what is up carries traffic: brings together what a verdict is made of. It judges nothing itself.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::time::Instant;

use adit_ike::{ChildSaState, ChildSaView, IkeSaState};
use adit_net::netlink::Netlink;
use adit_net::{ChildCounters, ChildId};
use adit_wire::esp::Mode;

use super::Daemon;
use super::reconciler::ChildName;
use super::verdicts::{Facts, Sample, Verdict, Whose};

/// A child that is up, and how it does.
#[derive(Clone, Debug)]
pub(super) struct ChildHealth {
    pub(super) name: ChildName,
    pub(super) verdict: Verdict,
    /// Has anything ever arrived on an SA of its IKE SA?
    pub(super) heard: bool,
    /// Does ESP travel in UDP?
    pub(super) encap: bool,
    /// No larger outer packets are sent: none would get through.
    pub(super) path_limit: Option<u16>,
}

impl Daemon {
    /// The verdicts on all children that are up and that `wanted` lets pass, by IKE SA.
    pub(super) fn health(&mut self, now: Instant, wanted: impl Fn(&ChildName) -> bool) -> Vec<ChildHealth> {
        let mut forwarding = Forwarding::default();
        let mut found = Vec::new();
        let mut up = HashSet::new();
        for sa in self.gateway.ike_sas() {
            if !matches!(sa.state, IkeSaState::Established | IkeSaState::Rekeying) {
                continue;
            }
            // The SAs of a child, and what they have carried.
            let mut children: HashMap<Whose, Vec<(&ChildSaView, ChildCounters)>> = HashMap::new();
            for child in &sa.children {
                if matches!(child.state, ChildSaState::Installed | ChildSaState::Rekeying) {
                    let name = ChildName::new(&sa.connection, &child.name);
                    let counters = self.backend.counters(ChildId(child.handle.0)).unwrap_or_default();
                    children.entry((sa.handle, name)).or_default().push((child, counters));
                }
            }
            let heard = children.iter().any(|(whose, sas)| {
                self.verdicts.has_heard(whose) || sas.iter().any(|(_, counters)| counters.heard.is_some())
            });
            for (whose, sas) in children {
                up.insert(whose.clone());
                let Some(installed) = sas.iter().map(|(child, _)| child.installed).min() else { continue };
                if !wanted(&whose.1) {
                    continue;
                }
                let facts = Facts {
                    installed,
                    encap: sas.iter().any(|(child, _)| child.encap),
                    heard,
                    forwards_not: sas.iter().find_map(|(child, _)| forwarding.lacks(child)),
                    hole: self.paths.hole(now, sa.handle),
                };
                let sample = Sample::of(now, sas.iter().map(|(_, counters)| counters));
                let verdict = self.verdicts.look(&whose, sample, &facts);
                let (encap, path_limit) = (facts.encap, self.paths.limit(sa.remote.ip()));
                found.push(ChildHealth { name: whose.1, verdict, heard, encap, path_limit });
            }
        }
        self.verdicts.retain(|whose| up.contains(whose));
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found
    }
}

/// What the system forwards, asked once, and only if somebody wants to know.
#[derive(Default)]
struct Forwarding {
    v4: Option<bool>,
    v6: Option<bool>,
    own: Option<HashSet<IpAddr>>,
}

impl Forwarding {
    /// The IP version that a child needs to be forwarded and is not. For the machine's own addresses there is no need.
    fn lacks(&mut self, child: &ChildSaView) -> Option<u8> {
        if child.mode == Mode::Transport {
            return None;
        }
        let selector = child.local_ts.iter().find(|selector| {
            let on = match selector.start {
                IpAddr::V4(_) => *self.v4.get_or_insert_with(|| is_on("ipv4")),
                IpAddr::V6(_) => *self.v6.get_or_insert_with(|| is_on("ipv6")),
            };
            if on || selector.start != selector.end {
                return !on;
            }
            let own = self.own.get_or_insert_with(|| own_addresses().into_iter().collect());
            !own.contains(&selector.start)
        })?;
        Some(if selector.start.is_ipv4() { 4 } else { 6 })
    }
}

/// Does any interface forward? Where nothing can be read, nothing is known to be wrong.
fn is_on(version: &str) -> bool {
    let directory = format!("/proc/sys/net/{version}/conf");
    let read = |name: &str| fs::read_to_string(format!("{directory}/{name}/forwarding"));
    let Ok(all) = read("all") else { return true };
    if all.trim() != "0" {
        return true;
    }
    let interfaces = fs::read_dir(&directory).into_iter().flatten().flatten();
    interfaces.filter(|entry| entry.file_name() != "default").any(|entry| {
        entry.file_name().to_str().is_some_and(|name| read(name).is_ok_and(|on| on.trim() == "1"))
    })
}

/// The addresses of this machine.
pub(super) fn own_addresses() -> Vec<IpAddr> {
    let addresses = Netlink::open().and_then(|mut netlink| netlink.addresses());
    addresses.map(|all| all.into_iter().map(|one| one.address).collect()).unwrap_or_default()
}
