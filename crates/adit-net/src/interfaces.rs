//! The interfaces of connections that have one of their own (route-based VPN): what the kernel knows of them.
//!
//! An interface is there for as long as it is configured. It is a TUN device that outlives the process, so that what others
//! route to it stays: while nobody serves it, the kernel drops what comes. The next start takes over what a predecessor has
//! left, and deletes what is no longer asked for. Behind each configured route stands an unreachable one, which decides if
//! the interface vanishes.
//!
//! This module owns the devices whose alias says that they are ours, the addresses and routes of its protocol number, and
//! nothing else: addresses and routes of others on our devices stay. It never sees a packet, and knows no SA.
//!
//! ```text
//! table main       ROUTE dev NAME metric 100            and unreachable ROUTE metric 4000
//! rule 220         from all fwmark MARK lookup TABLE    if marked packets are to be routed to it
//! table TABLE      NETWORK dev NAME metric 100          and unreachable NETWORK metric 4000
//! nft adit-marks   iifname NAME meta mark set MARK      if what comes from it is to be marked
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit};

use crate::Error;
use crate::backend::{InterfaceSpec, NetConfig};
use crate::counting::Known;
use crate::engine::Device;
use crate::netlink::{
    InterfaceAddress, Link, Netlink, NetlinkSocket, Route, RouteKind, Rule, RuleAction, TABLE_MAIN,
};
use crate::nft::{self, Batch, Hook, Meta, Verdict};
use crate::routes::anything;
use crate::tun::Tun;

/// Marks addresses and routes as ours (`IFAPROT_*`, `RTPROT_*`); not the number of what leads to the shared device.
pub(crate) const PROTOCOL: u8 = 0x42;

/// How the alias of a device of ours begins.
const ALIAS: &str = "adit: ";

/// The longest alias that the kernel takes.
const MAX_ALIAS: usize = 255;

/// The table of a device that marked packets are routed to is this and the kernel's number of the device, which stays as long as the
/// device does: where marks lead does not depend on who comes first after the next start.
const TABLES: u32 = 0x4144_0000;

/// The nf_tables table that marks what comes from interfaces.
pub(crate) const MARKS: &str = "adit-marks";

/// Before anybody who filters looks at marks (`mangle`).
const PRIORITY: i32 = -150;

/// Packets, or super-packets, that wait for a worker: the kernel takes memory for them beforehand.
const QUEUE: u32 = 1000;

const METRIC_TUNNEL: u32 = 100;
const METRIC_CLOSED: u32 = 4000;

/// Our interfaces in one network namespace.
#[derive(Debug)]
pub(crate) struct Interfaces {
    netlink: Netlink,
    present: BTreeMap<String, Interface>,
    /// How devices are opened, and the MTU of those that ask for none.
    offload: bool,
    mtu: u16,
    rule_priority: u32,
    filter: Option<NetlinkSocket>,
    /// There is no table of marks, not even an old one.
    unmarked: bool,
    /// Who counts what the kernel drops.
    known: Arc<Known>,
}

#[derive(Debug)]
struct Interface {
    device: Device,
    /// The kernel's number.
    index: u32,
    spec: InterfaceSpec,
    /// What the kernel had dropped of it before it was ours to read.
    dropped_before: u64,
}

/// What the workers have to be told after a change.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Devices that are new.
    pub(crate) attach: Vec<(Device, Tun)>,
    /// Devices that are gone, or going to be: [`Interfaces::delete`] comes after the workers.
    pub(crate) detach: Vec<(Device, String)>,
}

impl Interfaces {
    /// For the calling thread's network namespace. Nothing changes yet. `mtu` is that of devices that ask for none.
    pub(crate) fn new(config: &NetConfig, mtu: u16, known: Arc<Known>) -> Result<Self, Error> {
        Ok(Self {
            netlink: Netlink::open()?,
            present: BTreeMap::new(),
            offload: config.offload,
            mtu,
            rule_priority: config.rule_priority,
            filter: NetlinkSocket::open(libc::NETLINK_NETFILTER).ok(),
            unmarked: false,
            known,
        })
    }

    /// The device of a name, and its MTU.
    pub(crate) fn find(&self, name: &str) -> Option<(Device, u16)> {
        let interface = self.present.get(name)?;
        Some((interface.device, interface.spec.mtu.unwrap_or(self.mtu)))
    }

    /// Makes the devices that are not there, and finds those that are not wanted any more. A number that is `taken` by SAs is
    /// not given to a new device: what they deliver must come out nowhere else.
    ///
    /// # Errors
    /// What has such a name is not ours, or in use by another process, or the kernel refused. Those made before the error are
    /// in the change.
    pub(crate) fn change(
        &mut self,
        wanted: &[InterfaceSpec],
        taken: &HashSet<Device>,
        change: &mut Change,
    ) -> Result<(), Error> {
        let made = self.make(wanted, taken, change);
        self.told();
        made
    }

    fn make(
        &mut self,
        wanted: &[InterfaceSpec],
        taken: &HashSet<Device>,
        change: &mut Change,
    ) -> Result<(), Error> {
        room_for_descriptors();
        let links = self.netlink.links()?;
        let by_name: HashMap<&str, &Link> = links.iter().map(|link| (link.name.as_str(), link)).collect();
        let used: HashSet<Device> =
            self.present.values().map(|interface| interface.device).chain(taken.iter().copied()).collect();
        let mut free = (1..).map(Device).filter(|device| !used.contains(device));
        let mut opened = Vec::new();
        for spec in wanted {
            let link = by_name.get(spec.name.as_str()).copied();
            let (device, tun) = match (self.present.get(&spec.name), link) {
                // Still the one that we have open.
                (Some(Interface { device, index, dropped_before, .. }), Some(link))
                    if link.index == *index =>
                {
                    let (device, index, dropped_before) = (*device, *index, *dropped_before);
                    let interface = Interface { device, index, spec: spec.clone(), dropped_before };
                    self.present.insert(spec.name.clone(), interface);
                    self.describe(spec, link)?;
                    continue;
                }
                (Some(Interface { device, .. }), _) => (*device, self.open(&spec.name, link)?),
                (None, _) => (free.next().unwrap_or_default(), self.open(&spec.name, link)?),
            };
            opened.push((spec, device, tun));
        }
        let links = if opened.is_empty() { links } else { self.netlink.links()? };
        let by_name: HashMap<&str, &Link> = links.iter().map(|link| (link.name.as_str(), link)).collect();
        for (spec, device, tun) in opened {
            let link = by_name.get(spec.name.as_str()).copied();
            let link =
                link.ok_or_else(|| Error::InUse(format!("someone deletes the interface {}", spec.name)))?;
            self.describe(spec, link)?;
            // It says that it is ours before it stays.
            tun.keep()?;
            let (index, dropped_before) = (link.index, link.dropped);
            let interface = Interface { device, index, spec: spec.clone(), dropped_before };
            self.present.insert(spec.name.clone(), interface);
            change.attach.push((device, tun));
            prepare(&mut self.netlink, &spec.name, link.index, QUEUE)?;
            self.netlink.set_up(link.index)?;
        }
        self.arrange()?;
        let names: HashSet<&str> = wanted.iter().map(|spec| spec.name.as_str()).collect();
        let gone = self.present.iter().filter(|(name, _)| !names.contains(name.as_str()));
        change.detach = gone.map(|(name, interface)| (interface.device, name.clone())).collect();
        // What a killed predecessor has left and nobody asks for.
        for link in links.iter().filter(|link| link.alias.starts_with(ALIAS)) {
            if !names.contains(link.name.as_str()) && !self.present.contains_key(&link.name) {
                self.netlink.delete_link(link.index)?;
            }
        }
        Ok(())
    }

    /// Tells who counts what the kernel has dropped which devices are ours.
    fn told(&self) {
        let before = |interface: &Interface| (interface.index, interface.dropped_before);
        self.known.devices_are(self.present.values().map(before).collect());
    }

    /// Deletes devices, which no worker serves any more.
    pub(crate) fn delete<'n>(&mut self, names: impl Iterator<Item = &'n str>) -> Result<(), Error> {
        let gone: Vec<Interface> = names.filter_map(|name| self.present.remove(name)).collect();
        self.told();
        if gone.is_empty() {
            return Ok(());
        }
        self.arrange()?;
        for interface in gone {
            match self.netlink.delete_link(interface.index) {
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Gives the interfaces the addresses and routes that they ought to have, and takes away those of ours that they ought not.
    ///
    /// # Errors
    /// The first of what the kernel refused. All else is in place, and nothing is taken away.
    pub(crate) fn arrange(&mut self) -> Result<(), Error> {
        let addresses = self.netlink.addresses()?;
        let present: HashSet<Route> =
            self.netlink.routes(|route| route.protocol == PROTOCOL)?.into_iter().collect();
        let mut result = self.mark();
        let of = |found: &InterfaceAddress| (found.interface, found.address, found.prefix_len);
        let present_addresses: HashSet<_> = addresses.iter().map(of).collect();
        let mut wanted_addresses = HashSet::new();
        for Interface { index, spec, .. } in self.present.values() {
            for (address, len) in &spec.addresses {
                wanted_addresses.insert((*index, *address, *len));
                if !present_addresses.contains(&(*index, *address, *len)) {
                    let added = self.netlink.add_address_as(*index, (*address, *len), PROTOCOL);
                    result = result.and(added);
                }
            }
        }
        let all: Vec<Route> = self.present.values().flat_map(routes).collect();
        let wanted: HashSet<&Route> = all.iter().collect();
        let key = |route: &Route| (route.table, route.destination, route.metric);
        let replaceable: HashSet<_> = present.iter().map(key).collect();
        let closed_first = |kind: RouteKind| all.iter().filter(move |route| route.kind == kind);
        for route in closed_first(RouteKind::Unreachable).chain(closed_first(RouteKind::Unicast)) {
            if present.contains(route) {
                continue;
            }
            let placed = if replaceable.contains(&key(route)) {
                self.netlink.replace_route(route)
            } else {
                self.netlink.add_route(route)
            };
            result = result.and(placed);
        }
        let present_rules: Vec<Rule> =
            self.netlink.rules()?.into_iter().filter(|rule| rule.protocol == PROTOCOL).collect();
        let wanted_rules: Vec<Rule> =
            self.present.values().flat_map(|interface| rules(interface, self.rule_priority)).collect();
        for rule in wanted_rules.iter().filter(|rule| !present_rules.contains(rule)) {
            let added = self.netlink.add_rule(rule);
            result = result.and(added);
        }
        result?;
        for rule in present_rules.iter().filter(|rule| !wanted_rules.contains(rule)) {
            self.netlink.delete_rule(rule)?;
        }
        for found in addresses.iter().filter(|found| found.protocol == PROTOCOL) {
            if self.has(found.interface) && !wanted_addresses.contains(&of(found)) {
                self.netlink.delete_address(found.interface, (found.address, found.prefix_len))?;
            }
        }
        for route in present.iter().filter(|route| !wanted.contains(route)) {
            self.netlink.delete_route(route)?;
        }
        Ok(())
    }

    /// Has what comes from the interfaces marked as they say, and nothing else.
    fn mark(&mut self) -> Result<(), Error> {
        let wanted = || self.present.values().filter_map(|one| Some((&one.spec.name, one.spec.marks?)));
        let Some(socket) = &mut self.filter else {
            return match wanted().next() {
                Some((name, _)) => Err(Error::Configuration(format!(
                    "this kernel has no nf_tables, which are needed to mark what comes from {name} (`set_mark_in`)"
                ))),
                None => Ok(()),
            };
        };
        let unmarked = wanted().next().is_none();
        if unmarked && self.unmarked {
            return Ok(());
        }
        let mut batch = Batch::new(socket.next_sequence());
        batch.create_table(MARKS);
        batch.delete_table(MARKS);
        if !unmarked {
            batch.create_table(MARKS);
            batch.create_base_chain(MARKS, "prerouting", Hook::Prerouting, PRIORITY);
        }
        for (name, mark) in wanted() {
            let rule = nft::Rule::default().interface(Meta::InputName, name).set_mark(mark);
            batch.append_rule(MARKS, "prerouting", rule, Verdict::Accept);
        }
        match batch.commit(socket) {
            Err(error) if nft::is_unsupported(error.raw_os_error()) => {
                self.filter = None;
                self.mark()
            }
            result => {
                self.unmarked = unmarked && result.is_ok();
                result.map_err(|error| Error::system("mark what comes from interfaces", error))
            }
        }
    }

    /// The orderly end: takes our routes away. The devices stay with their addresses, and what others route to them.
    pub(crate) fn leave(&mut self) -> Result<(), Error> {
        for route in self.netlink.routes(|route| route.protocol == PROTOCOL)? {
            self.netlink.delete_route(&route)?;
        }
        for rule in self.netlink.rules()?.iter().filter(|rule| rule.protocol == PROTOCOL) {
            self.netlink.delete_rule(rule)?;
        }
        self.present.clear();
        self.mark()
    }

    /// The netlink port that our changes come from.
    pub(crate) fn port(&self) -> u32 {
        self.netlink.port()
    }

    /// The same of the packet filter; `None` without nf_tables.
    pub(crate) fn filter_port(&self) -> Option<u32> {
        self.filter.as_ref().map(NetlinkSocket::port)
    }

    /// Is this one of our devices?
    pub(crate) fn has(&self, index: u32) -> bool {
        self.present.values().any(|interface| interface.index == index)
    }

    /// Opens a device of ours, new or left by a predecessor.
    fn open(&self, name: &str, link: Option<&Link>) -> Result<Tun, Error> {
        if link.is_some_and(|link| !link.alias.starts_with(ALIAS)) {
            return Err(Error::InUse(format!(
                "there is an interface {name} already, and it is not Adit's: choose another name, or delete it"
            )));
        }
        Tun::open(name, false, self.offload)
    }

    /// Alias and MTU, which may change while it is there.
    fn describe(&mut self, spec: &InterfaceSpec, link: &Link) -> Result<(), Error> {
        let alias: String = ALIAS.chars().chain(spec.owner.chars().filter(|c| !c.is_control())).collect();
        let alias = alias.get(..alias.floor_char_boundary(MAX_ALIAS)).unwrap_or(ALIAS);
        if link.alias != alias {
            self.netlink.set_alias(link.index, alias)?;
        }
        let mtu = spec.mtu.unwrap_or(self.mtu).into();
        if link.mtu == mtu { Ok(()) } else { self.netlink.set_mtu(link.index, mtu) }
    }
}

/// Each interface takes a descriptor: as many as this process may have.
fn room_for_descriptors() {
    let limits = rustix::process::getrlimit(Resource::Nofile);
    if limits.current < limits.maximum
        && let Err(error) =
            rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits })
    {
        tracing::debug!(%error, "no more descriptors for interfaces");
    }
}

/// What every TUN device needs before it is brought up.
pub(crate) fn prepare(netlink: &mut Netlink, name: &str, index: u32, queue: u32) -> Result<(), Error> {
    // Room for the bursts of a TCP sender while the worker is busy.
    netlink.set_queue_length(index, queue)?;
    // In containers IPv6 is often off for new devices. If it has to stay off, IPv6 policies will say so.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "0");
    if let Err(error) = netlink.set_no_link_local(index) {
        tracing::debug!(%error, "the kernel may send router solicitations into the tunnel; they are dropped");
    }
    Ok(())
}

/// The routes of an interface, and those behind them.
fn routes(Interface { index, spec, .. }: &Interface) -> impl Iterator<Item = Route> {
    let route = |table, destination: (IpAddr, u8), kind, interface, metric| Route {
        destination,
        table,
        kind,
        interface,
        gateway: None,
        source: None,
        metric,
        protocol: PROTOCOL,
    };
    let marked = spec.marked.iter().flat_map(|(_, networks)| networks);
    let all = spec.routes.iter().map(|route| (TABLE_MAIN, route));
    all.chain(marked.map(|network| (table_of(*index), network))).flat_map(move |(table, destination)| {
        let tunnel = route(table, *destination, RouteKind::Unicast, Some(*index), METRIC_TUNNEL);
        [tunnel, route(table, *destination, RouteKind::Unreachable, None, METRIC_CLOSED)]
    })
}

/// Where routes for marked packets are.
fn table_of(index: u32) -> u32 {
    TABLES.saturating_add(index)
}

/// The rules that lead marked packets there.
fn rules(Interface { spec, index, .. }: &Interface, priority: u32) -> impl Iterator<Item = Rule> {
    let action = RuleAction::Lookup(table_of(*index));
    spec.marked.iter().flat_map(move |(mark, networks)| {
        let families =
            [false, true].into_iter().filter(|v6| networks.iter().any(|net| net.0.is_ipv6() == *v6));
        families.map(move |v6| Rule {
            priority,
            action,
            mark: Some(*mark),
            protocol: PROTOCOL,
            ..anything(v6)
        })
    })
}
