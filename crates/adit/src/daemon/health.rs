//! Whether what is up carries traffic: brings together what a verdict is made of. It judges nothing itself.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_ike::{ChildSaState, ChildSaView, IkeSaState, IkeSaView};
use adit_net::netlink::Netlink;
use adit_net::{ChildCounters, ChildId};
use adit_wire::esp::Mode;

use super::Daemon;
use super::reconciler::ChildName;
use super::verdicts::{Facts, Sample, Verdict};
use crate::snapshot;

/// How long the system's answers hold.
const FRESH: Duration = Duration::from_millis(250);

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

impl ChildHealth {
    /// For whoever looks.
    pub(super) fn shown(&self) -> snapshot::Verdict {
        let code = self.verdict.code;
        snapshot::Verdict {
            code: code.as_str(),
            failing: code.is_failing(),
            direction: code.direction(),
            message: self.verdict.message.clone(),
            step: self.verdict.step.clone(),
            path_limit: self.path_limit,
        }
    }
}

impl Daemon {
    /// The verdicts on the children of a connection that are up; a child of several IKE SAs has several.
    pub(super) fn health(&mut self, now: Instant, connection: &str) -> Vec<ChildHealth> {
        let handles = self.gateway.handles_of(connection);
        let views: Vec<IkeSaView> =
            handles.into_iter().filter_map(|handle| self.gateway.ike_sa(handle)).collect();
        views.iter().flat_map(|sa| self.health_on(now, sa)).collect()
    }

    /// The verdicts on the children that are up on an IKE SA, by their names.
    pub(super) fn health_on(&mut self, now: Instant, sa: &IkeSaView) -> Vec<ChildHealth> {
        if !matches!(sa.state, IkeSaState::Established | IkeSaState::Rekeying) {
            return Vec::new();
        }
        self.forwarding.renew(now);
        // The SAs of a child, and what they have carried.
        let mut children: BTreeMap<ChildName, Vec<(&ChildSaView, ChildCounters)>> = BTreeMap::new();
        for child in &sa.children {
            if matches!(child.state, ChildSaState::Installed | ChildSaState::Rekeying) {
                let name = ChildName::new(&sa.connection, &child.name);
                let counters = self.backend.counters(ChildId(child.handle.0)).unwrap_or_default();
                children.entry(name).or_default().push((child, counters));
            }
        }
        let heard = children.iter().any(|(name, sas)| {
            self.verdicts.has_heard(sa.handle, name)
                || sas.iter().any(|(_, counters)| counters.heard.is_some())
        });
        let mut found = Vec::new();
        for (name, sas) in children {
            let Some(installed) = sas.iter().map(|(child, _)| child.installed).min() else { continue };
            let facts = Facts {
                installed,
                encap: sas.iter().any(|(child, _)| child.encap),
                heard,
                forwards_not: sas.iter().find_map(|(child, _)| self.forwarding.lacks(child)),
                hole: self.paths.hole(now, sa.handle),
            };
            let sample = Sample::of(now, sas.iter().map(|(_, counters)| counters));
            let verdict = self.verdicts.look((sa.handle, &name), sample, &facts);
            let (encap, path_limit) = (facts.encap, self.paths.limit(sa.remote.ip()));
            found.push(ChildHealth { name, verdict, heard, encap, path_limit });
        }
        found
    }
}

/// What the system forwards, asked for only if somebody wants to know, and not often.
#[derive(Debug, Default)]
pub(super) struct Forwarding {
    asked: Option<Instant>,
    v4: Option<bool>,
    v6: Option<bool>,
    own: Option<HashSet<IpAddr>>,
}

impl Forwarding {
    /// What was found out a while ago may be otherwise now.
    fn renew(&mut self, now: Instant) {
        if self.asked.is_none_or(|at| now.saturating_duration_since(at) >= FRESH) {
            *self = Self { asked: Some(now), ..Self::default() };
        }
    }

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
