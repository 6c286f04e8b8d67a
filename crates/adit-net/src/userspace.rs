//! The data plane in this process: puts TUN device, sockets, routes, fence and worker together, and takes orders.
//! It does not touch packets.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Sender, SyncSender};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use adit_crypto::EspTransforms;
use adit_esp::tunnel::Encapsulation;
use adit_esp::{InboundSa, Layout, PolicyTable};
use adit_wire::ikev2::{EncrId, IntegId};
use arc_swap::ArcSwap;
use rustix::event::EventfdFlags;

use crate::backend::{
    Backend, ChildCounters, ChildId, ChildSaInstall, InterfaceSpec, NetConfig, NetEvent, PolicyId,
    PolicySpec, UdpEncap,
};
use crate::counters::{Clock, DropCause, SaCounts, Stats, WorkerCounts};
use crate::counting::{Counting, Known};
use crate::engine::{Device, Inbound, NewChild, Outbound, Policies, Table, Transport, WorkerPlace};
use crate::fence::{Claim, Fence};
use crate::interfaces::{self, Change, Interfaces};
use crate::netlink::Netlink;
use crate::protection::{Monitor, Protection, lock};
use crate::routes::Routes;
use crate::sockets::{IkeSender, Sockets};
use crate::tun::Tun;
use crate::worker::{Command, Orders, Wake, Worker};
use crate::{Error, TapFilter, TapReader, handoff, path, steering, tap};

/// The userspace data plane.
pub struct Userspace {
    config: NetConfig,
    sockets: Arc<Sockets>,
    /// Of all workers.
    all_sockets: Vec<Arc<Sockets>>,
    counting: Arc<Counting>,
    policies: Arc<ArcSwap<Policies>>,
    workers: Vec<WorkerHandle>,
    children: HashMap<ChildId, Child>,
    /// The inbound SPIs of the children.
    spis: HashSet<u32>,
    /// The interfaces of policies that have one.
    interfaces: HashMap<PolicyId, String>,
    protection: Arc<Mutex<Protection>>,
    monitor: Monitor,
    clock: Clock,
    /// Alive while somebody looks at packets.
    tap: Weak<()>,
    _claim: Claim,
}

struct Child {
    spi: u32,
    device: Device,
    /// The workers that have its halves.
    workers: [usize; 2],
    counts: Arc<SaCounts>,
}

impl Userspace {
    /// Takes the sockets, makes the TUN device and starts moving packets. What a killed predecessor left to keep
    /// protected traffic in stays in force until [`Backend::set_policies`] replaces it.
    ///
    /// Everything happens in the network namespace of the calling thread. `events` is called from the threads that
    /// move packets: it has to be quick and must not wait.
    ///
    /// # Errors
    /// Something is in use by someone else, or the kernel refused. Then nothing is left behind that was not there, and
    /// what a killed predecessor left stays.
    pub fn start(mut config: NetConfig, events: Box<dyn Fn(NetEvent) + Send + Sync>) -> Result<Self, Error> {
        let count = config.workers;
        if count == 0 || count > steering::MAX_WORKERS {
            let most = steering::MAX_WORKERS;
            return Err(Error::Configuration(format!("{count} worker threads: there can be 1 to {most}")));
        }
        if config.xdp && count > 1 {
            return Err(Error::Configuration("AF_XDP and several worker threads do not go together".into()));
        }
        let claim = Claim::take()?;
        let sockets: Vec<Arc<Sockets>> =
            (0..count).map(|index| Sockets::open(&config, index).map(Arc::new)).collect::<Result<_, _>>()?;
        let tuns: Vec<Tun> = (0..count)
            .map(|_| Tun::open(&config.tun_name, count > 1, config.offload))
            .collect::<Result<_, _>>()?;
        let mut netlink = Netlink::open()?;
        let interface = netlink.link(&config.tun_name)?.index;
        let mtu = config.tun_mtu.map_or_else(|| tun_mtu(path::default_mtu(config.mark)), Ok)?;
        netlink.set_mtu(interface, mtu.into())?;
        config.tun_mtu = Some(mtu);
        interfaces::prepare(&mut netlink, &config.tun_name, interface, 5000)?;
        netlink.set_up(interface)?;
        let routes = Routes::new(&config, interface)?;
        let known = Arc::new(Known::default());
        let interfaces = Interfaces::new(&config, mtu, Arc::clone(&known))?;
        let fence = Fence::known(&config, Arc::clone(&known));
        let counting = Arc::new(Counting::open(known, interface)?);
        let protection = Protection::new(fence, routes, interfaces);
        let protection = Arc::new(Mutex::new(protection));
        let events: Arc<dyn Fn(NetEvent) + Send + Sync> = Arc::from(events);
        let monitor = Monitor::spawn(Arc::clone(&protection), interface, Arc::clone(&events))?;
        let policies = Arc::new(ArcSwap::from_pointee(Policies::default()));
        let clock = Clock::new(Instant::now());
        let workers = spawn(&config, tuns, &sockets, &policies, clock, &events)?;
        let all_sockets = sockets.clone();
        // All IKE messages leave by the first worker's sockets, which receive all of them.
        let sockets = sockets.into_iter().next().ok_or(Error::Stopped)?;
        Ok(Self {
            config,
            sockets,
            all_sockets,
            counting,
            policies,
            workers,
            children: HashMap::new(),
            spis: HashSet::new(),
            interfaces: HashMap::new(),
            protection,
            monitor,
            clock,
            tap: Weak::new(),
            _claim: claim,
        })
    }

    /// The way out for IKE messages.
    #[must_use]
    pub fn ike_sender(&self) -> IkeSender {
        IkeSender::new(Arc::clone(&self.sockets))
    }

    /// Gives an order about a Child SA to the workers that have its halves.
    fn order(&self, workers: [usize; 2], command: impl Fn(SyncSender<()>) -> Command) -> Result<(), Error> {
        let [inbound, outbound] = workers;
        let second = (outbound != inbound).then_some(outbound);
        for worker in std::iter::once(inbound).chain(second) {
            self.workers.get(worker).ok_or(Error::Stopped)?.order(&command)?;
        }
        Ok(())
    }

    /// Gives an order that only a worker at its end refuses.
    fn tell(&self, id: ChildId, what: &str, command: impl Fn(SyncSender<()>) -> Command) {
        let Some(child) = self.children.get(&id) else { return };
        if let Err(error) = self.order(child.workers, command) {
            tracing::warn!(%error, id = id.0, "cannot {what} a Child SA");
        }
    }

    /// The device of an interface, and its MTU.
    fn device(&self, name: &str) -> Result<(Device, u16), Error> {
        let found = lock(&self.protection).interfaces.find(name);
        found.ok_or_else(|| Error::Configuration(format!("there is no interface {name}")))
    }

    /// Ends all workers. `false`: one had failed before.
    fn stop(&mut self) -> bool {
        self.workers.iter_mut().map(WorkerHandle::stop).fold(true, |all, one| all & one)
    }
}

impl Backend for Userspace {
    fn install(&mut self, child: ChildSaInstall) -> Result<(), Error> {
        let ChildSaInstall {
            id,
            name,
            policy,
            inbound,
            outbound,
            local,
            remote,
            encap,
            active,
            limits,
            treatment,
            worker,
        } = child;
        let spi = inbound.spi.0;
        if self.children.contains_key(&id) {
            return Err(Error::Configuration(format!("Child SA {} is installed already", id.0)));
        }
        if self.spis.contains(&spi) {
            return Err(Error::Configuration(format!("inbound SPI {} is in use", inbound.spi)));
        }
        let transport = Transport::new(&self.config, &self.sockets, local, remote, encap)?;
        let (device, tun_mtu) = match self.interfaces.get(&policy) {
            None => (Device::SHARED, self.config.tun_mtu.map_or(usize::MAX, usize::from)),
            Some(name) => {
                let (device, mtu) = self.device(name)?;
                (device, mtu.into())
            }
        };
        let counts = Arc::new(SaCounts::of(name));
        let inbound = InboundSa::new(inbound)?;
        let inbound = Inbound::new(
            id,
            inbound,
            active,
            limits,
            transport,
            (&treatment, device, tun_mtu),
            Arc::clone(&counts),
        );
        let outbound = Outbound::new(
            id,
            outbound,
            limits,
            transport,
            (treatment, device, tun_mtu),
            Arc::clone(&counts),
        )?;
        let all = self.workers.len();
        let home = steering::worker_of_policy(device, policy, all);
        let sealer = worker.map_or(home, |own| own % all.max(1));
        let workers = [steering::worker_of(spi, all), sealer];
        let own = worker.is_some();
        let halves =
            |inbound, outbound| Box::new(NewChild { id, policy, spi, own, active, inbound, outbound });
        let install = |worker: usize, child| {
            let worker = self.workers.get(worker).ok_or(Error::Stopped)?;
            worker.order(|done| Command::Install(child, done))
        };
        if workers[0] == workers[1] {
            install(workers[0], halves(Some(inbound), Some(outbound)))?;
        } else {
            // The peer may send as soon as it sees our first packet.
            install(workers[0], halves(Some(inbound), None))?;
            install(workers[1], halves(None, Some(outbound)))?;
        }
        self.spis.insert(spi);
        self.children.insert(id, Child { spi, device, workers, counts });
        Ok(())
    }

    fn switch(&mut self, id: ChildId) {
        self.tell(id, "switch to", |done| Command::Switch(id, done));
    }

    fn retire(&mut self, id: ChildId) {
        self.tell(id, "retire", |done| Command::Retire(id, done));
    }

    fn relocate(
        &mut self,
        id: ChildId,
        local: IpAddr,
        remote: IpAddr,
        encap: Option<UdpEncap>,
    ) -> Result<(), Error> {
        let transport = Transport::new(&self.config, &self.sockets, local, remote, encap)?;
        let Some(child) = self.children.get(&id) else { return Ok(()) };
        self.order(child.workers, |done| Command::Relocate(id, transport, done))
    }

    fn set_path_limit(&mut self, remote: IpAddr, limit: Option<u16>) {
        for worker in &self.workers {
            if let Err(error) = worker.order(|done| Command::LimitPath(remote, limit, done)) {
                tracing::warn!(%error, %remote, "cannot limit packets");
            }
        }
    }

    fn remove(&mut self, id: ChildId) {
        self.tell(id, "remove", |done| Command::Remove(id, done));
        if let Some(child) = self.children.remove(&id) {
            self.spis.remove(&child.spi);
        }
    }

    fn set_policies(&mut self, policies: Vec<PolicySpec>) -> Result<(), Error> {
        let mut ids = HashSet::new();
        if let Some(twice) = policies.iter().find(|policy| !ids.insert(policy.id)) {
            return Err(Error::Configuration(format!("two policies have the id {}", twice.id.0)));
        }
        let mut by_device: Vec<Vec<&PolicySpec>> = vec![Vec::new()];
        for policy in &policies {
            let device = match &policy.interface {
                None => Device::SHARED,
                Some(name) => match self.device(name) {
                    Ok((device, _)) => device,
                    // It is gone, and with it all that was routed to it.
                    Err(_) => continue,
                },
            };
            if device.0 >= by_device.len() {
                by_device.resize_with(device.0 + 1, Vec::new);
            }
            if let Some(of_device) = by_device.get_mut(device.0) {
                of_device.push(policy);
            }
        }
        let tables = by_device.into_iter().map(|policies| Table {
            table: PolicyTable::new(&policies.iter().map(|policy| policy.selectors()).collect::<Vec<_>>()),
            ids: policies.iter().map(|policy| policy.id).collect(),
        });
        let tables = tables.collect();
        let named = policies.iter().filter_map(|policy| Some((policy.id, policy.interface.clone()?)));
        self.interfaces = named.collect();
        let traps = policies.iter().filter(|policy| policy.trap).map(|policy| policy.id).collect();
        let ports = policies.iter().any(PolicySpec::looks_at_ports);
        let spread = policies.iter().filter(|policy| policy.spread).map(|policy| policy.id).collect();
        let names = policies.iter().map(|policy| (policy.id, policy.name.clone())).collect();
        let published = Arc::new(Policies { tables, ports, names, traps, spread });
        // Closed before open: the fence, then the table that the worker reads, then the way into the tunnel.
        lock(&self.protection).replace(policies, || self.policies.store(published))
    }

    fn set_interfaces(&mut self, interfaces: Vec<InterfaceSpec>) -> Result<(), Error> {
        let taken = self.children.values().map(|child| child.device).collect();
        let mut change = Change::default();
        let changed = lock(&self.protection).interfaces.change(&interfaces, &taken, &mut change);
        for (device, tun) in change.attach {
            let tun = Arc::new(tun);
            for worker in &self.workers {
                let attached = worker.order(|done| Command::Attach(device, Arc::clone(&tun), done))?;
                attached.map_err(|error| Error::system("wait for packets of an interface", error))?;
            }
        }
        changed?;
        for (device, _) in &change.detach {
            for worker in &self.workers {
                worker.order(|done| Command::Detach(*device, done))?;
            }
        }
        let gone = change.detach.iter().map(|(_, name)| name.as_str());
        lock(&self.protection).interfaces.delete(gone)
    }

    fn counters(&self, id: ChildId) -> Option<ChildCounters> {
        self.children.get(&id).map(|child| child.counts.read(self.clock))
    }

    fn count(&self) -> Box<dyn FnOnce() -> Stats + Send> {
        let (counting, sockets) = (Arc::clone(&self.counting), self.all_sockets.clone());
        let workers: Vec<Arc<WorkerCounts>> =
            self.workers.iter().map(|worker| Arc::clone(&worker.counts)).collect();
        Box::new(move || {
            let (fenced_in, fenced_out) = counting.fenced();
            let not_read = counting.unread();
            let not_received = sockets.iter().map(|sockets| sockets.unreceived()).sum();
            let sum =
                |count: fn(&WorkerCounts) -> u64| -> u64 { workers.iter().map(|counts| count(counts)).sum() };
            let drops = DropCause::ALL.into_iter().map(|cause| {
                let count = match cause {
                    DropCause::NotRead => not_read,
                    DropCause::NotReceived => not_received,
                    _ => workers.iter().map(|counts| counts.drops_for(cause)).sum(),
                };
                (cause, count)
            });
            Stats {
                drops: drops.collect(),
                ike_received: sum(|counts| counts.ike_received.read()),
                keepalives_received: sum(|counts| counts.keepalives_received.read()),
                frames_received: sum(|counts| counts.frames_received.read()),
                frames_sent: sum(|counts| counts.frames_sent.read()),
                fenced_in,
                fenced_out,
            }
        })
    }

    fn tap(&mut self, filter: &TapFilter) -> Result<TapReader, Error> {
        if self.tap.strong_count() > 0 {
            return Err(Error::InUse("somebody else is looking at packets already".into()));
        }
        let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Error::system("make an eventfd", error.into()))?;
        let (reader, taps, alive) = tap::open(filter, self.workers.len(), Wake::new(eventfd));
        for (worker, tap) in self.workers.iter().zip(taps) {
            worker.order(|done| Command::Tap(Box::new(tap), done))?;
        }
        self.tap = alive;
        Ok(reader)
    }

    fn shutdown(mut self: Box<Self>) {
        if !self.stop() {
            tracing::error!(
                "the data plane had failed: what is protected stays closed until the next orderly end"
            );
            return;
        }
        self.monitor.stop();
        let mut protection = lock(&self.protection);
        if let Err(error) = protection.routes.replace(&[]) {
            tracing::warn!(%error, "cannot remove all routes");
        }
        if let Err(error) = protection.interfaces.leave() {
            tracing::warn!(%error, "cannot remove all routes to interfaces");
        }
        if let Err(error) = protection.fence.remove() {
            tracing::warn!(%error, "cannot remove the packet filter rules");
        }
    }
}

impl Drop for Userspace {
    /// Stops, and leaves rules, routes and fence as they are.
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Userspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Userspace").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The largest inner packet that fits `outer_mtu` whatever the suite and the encapsulation, but never less than
/// every IPv6 link has to carry (RFC 8200 5): below that, the kernel would take IPv6 off the device.
fn tun_mtu(outer_mtu: usize) -> Result<u16, Error> {
    let widest = EspTransforms {
        encr: EncrId::AES_CBC,
        key_bits: Some(256),
        integ: Some(IntegId::HMAC_SHA2_512_256),
        esn: true,
    };
    let inner = Encapsulation { ipv6: true, udp: true }.max_inner(Layout::of(&widest)?, outer_mtu);
    Ok(inner.clamp(1280, 65_535) as u16)
}

/// A worker thread, seen from outside.
struct WorkerHandle {
    commands: Sender<Command>,
    wake: Wake,
    /// Its result: did it end because it was told to?
    thread: Option<JoinHandle<bool>>,
    counts: Arc<WorkerCounts>,
}

/// Starts a worker for each queue of the TUN device.
fn spawn(
    config: &NetConfig,
    tuns: Vec<Tun>,
    sockets: &[Arc<Sockets>],
    policies: &Arc<ArcSwap<Policies>>,
    clock: Clock,
    events: &Arc<dyn Fn(NetEvent) + Send + Sync>,
) -> Result<Vec<WorkerHandle>, Error> {
    let wakes = tuns.iter().map(|_| {
        let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Error::system("make an eventfd", error.into()))?;
        Ok(Wake::new(eventfd))
    });
    let wakes: Vec<Wake> = wakes.collect::<Result<_, Error>>()?;
    let (senders, receivers): (Vec<_>, Vec<_>) = tuns.iter().map(|_| mpsc::channel()).unzip();
    let workers = tuns.len();
    let mut ends = tuns.into_iter().zip(sockets).zip(receivers).zip(handoff::lines(&wakes));
    let mut all = Vec::new();
    for (index, (commands, wake)) in senders.iter().zip(&wakes).enumerate() {
        let Some((((tun, sockets), receiver), handoff)) = ends.next() else { break };
        let counts = Arc::new(WorkerCounts::default());
        let others = senders.iter().cloned().zip(wakes.iter().cloned()).enumerate();
        let orders = Orders {
            place: WorkerPlace { index, workers },
            commands: receiver,
            wake: wake.clone(),
            others: others.filter(|(other, _)| *other != index).map(|(_, other)| other).collect(),
            handoff,
        };
        let worker = Worker::new(
            tun,
            Arc::clone(sockets),
            Arc::clone(policies),
            orders,
            (clock, Arc::clone(&counts)),
            config,
            Arc::clone(events),
        );
        all.push(WorkerHandle::spawn(worker, commands.clone(), wake.clone(), counts, Arc::clone(events))?);
    }
    Ok(all)
}

impl WorkerHandle {
    fn spawn(
        worker: Worker,
        commands: Sender<Command>,
        wake: Wake,
        counts: Arc<WorkerCounts>,
        obituary: Arc<dyn Fn(NetEvent) + Send + Sync>,
    ) -> Result<Self, Error> {
        let thread = thread::Builder::new()
            .name("adit-worker".into())
            .spawn(move || {
                // A bug in one packet's handling must not go unnoticed by the rest of the program.
                panic::catch_unwind(AssertUnwindSafe(|| worker.run())).unwrap_or_else(|_| {
                    obituary(NetEvent::Failed { reason: "the worker thread panicked".into() });
                    false
                })
            })
            .map_err(|error| Error::system("start a worker thread", error))?;
        Ok(Self { commands, wake, thread: Some(thread), counts })
    }

    /// Gives an order and waits until it is carried out.
    fn order<R>(&self, command: impl FnOnce(SyncSender<R>) -> Command) -> Result<R, Error> {
        let (done, answer) = mpsc::sync_channel(1);
        self.commands.send(command(done)).map_err(|_| Error::Stopped)?;
        self.wake.wake();
        answer.recv().map_err(|_| Error::Stopped)
    }

    /// Ends the thread. `false`: it had failed before.
    fn stop(&mut self) -> bool {
        let Some(thread) = self.thread.take() else { return true };
        if self.commands.send(Command::Stop).is_ok() {
            self.wake.wake();
        }
        thread.join().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tun_mtu_leaves_room_for_the_widest_suite() {
        // 1500 - IPv6 40 - UDP 8 - ESP header 8 - IV 16 - ICV 32 = 1396, in blocks of 16: 1392, minus the trailer's 2.
        assert_eq!(tun_mtu(1500).unwrap(), 1390);
        assert_eq!(tun_mtu(600).unwrap(), 1280);
        assert_eq!(tun_mtu(1 << 20).unwrap(), 65_535);
    }
}
