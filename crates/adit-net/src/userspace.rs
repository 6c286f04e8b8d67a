//! The data plane in this process: puts TUN device, sockets, routes, fence and worker together, and takes orders.
//! It does not touch packets.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Sender, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use std::{fmt, fs};

use adit_crypto::EspTransforms;
use adit_esp::tunnel::Encapsulation;
use adit_esp::{InboundSa, Layout, PolicyTable};
use adit_wire::ikev2::{EncrId, IntegId};
use arc_swap::ArcSwap;
use rustix::event::EventfdFlags;

use crate::backend::{
    Backend, ChildCounters, ChildId, ChildSaInstall, NetConfig, NetEvent, PolicySpec, UdpEncap,
};
use crate::counters::{Clock, SaCounts, Stats, WorkerCounts};
use crate::engine::{Inbound, NewChild, Outbound, Policies, Transport};
use crate::fence::{Claim, Fence};
use crate::netlink::Netlink;
use crate::protection::{Monitor, Protection, lock};
use crate::routes::Routes;
use crate::sockets::{IkeSender, Sockets};
use crate::tun::Tun;
use crate::worker::{Command, Wake, Worker};
use crate::{Error, path};

/// The userspace data plane.
pub struct Userspace {
    config: NetConfig,
    sockets: Arc<Sockets>,
    policies: Arc<ArcSwap<Policies>>,
    worker: WorkerHandle,
    children: HashMap<ChildId, Child>,
    /// The inbound SPIs of the children.
    spis: HashSet<u32>,
    protection: Arc<Mutex<Protection>>,
    monitor: Monitor,
    clock: Clock,
    _claim: Claim,
}

struct Child {
    spi: u32,
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
        if config.workers != 1 {
            let workers = config.workers;
            return Err(Error::Configuration(format!(
                "{workers} worker threads: only 1 is supported so far"
            )));
        }
        let claim = Claim::take()?;
        let sockets = Arc::new(Sockets::open(&config)?);
        let tun = Tun::open(&config.tun_name, false, config.offload)?;
        let mut netlink = Netlink::open()?;
        let interface = netlink.link(&config.tun_name)?.index;
        let mtu =
            config.tun_mtu.map_or_else(|| tun_mtu(path::default_mtu(config.mark)), |mtu| Ok(mtu.into()))?;
        netlink.set_mtu(interface, mtu)?;
        config.tun_mtu = u16::try_from(mtu).ok();
        // Room for the bursts of a TCP sender while the worker is busy.
        netlink.set_queue_length(interface, 5000)?;
        // In containers IPv6 is often off for new devices. If it has to stay off, IPv6 policies will say so.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", config.tun_name), "0");
        if let Err(error) = netlink.set_no_link_local(interface) {
            tracing::debug!(%error, "the kernel may send router solicitations into the tunnel; they are dropped");
        }
        netlink.set_up(interface)?;
        let routes = Routes::new(&config, interface)?;
        let protection = Arc::new(Mutex::new(Protection::new(Fence::new(&config), routes)));
        let events: Arc<dyn Fn(NetEvent) + Send + Sync> = Arc::from(events);
        let monitor = Monitor::spawn(Arc::clone(&protection), interface, Arc::clone(&events))?;
        let policies = Arc::new(ArcSwap::from_pointee(Policies::default()));
        let clock = Clock::new(Instant::now());
        let worker = WorkerHandle::spawn(tun, &sockets, &policies, clock, &config, events)?;
        Ok(Self {
            config,
            sockets,
            policies,
            worker,
            children: HashMap::new(),
            spis: HashSet::new(),
            protection,
            monitor,
            clock,
            _claim: claim,
        })
    }

    /// The way out for IKE messages.
    #[must_use]
    pub fn ike_sender(&self) -> IkeSender {
        IkeSender::new(Arc::clone(&self.sockets))
    }

    /// Gives an order about a Child SA that only a worker at its end refuses.
    fn order(&self, id: ChildId, what: &str, command: impl FnOnce(SyncSender<()>) -> Command) {
        if let Err(error) = self.worker.order(command) {
            tracing::warn!(%error, id = id.0, "cannot {what} a Child SA");
        }
    }
}

impl Backend for Userspace {
    fn install(&mut self, child: ChildSaInstall) -> Result<(), Error> {
        let ChildSaInstall { id, policy, inbound, outbound, local, remote, encap, active, limits, treatment } =
            child;
        let spi = inbound.spi.0;
        if self.children.contains_key(&id) {
            return Err(Error::Configuration(format!("Child SA {} is installed already", id.0)));
        }
        if self.spis.contains(&spi) {
            return Err(Error::Configuration(format!("inbound SPI {} is in use", inbound.spi)));
        }
        let transport = Transport::new(&self.config, &self.sockets, local, remote, encap)?;
        let tun_mtu = self.config.tun_mtu.map_or(usize::MAX, usize::from);
        let counts = Arc::new(SaCounts::default());
        let inbound = InboundSa::new(inbound)?;
        let child = Box::new(NewChild {
            id,
            policy,
            active,
            inbound: Inbound::new(
                id,
                inbound,
                active,
                limits,
                transport,
                (&treatment, tun_mtu),
                Arc::clone(&counts),
            ),
            outbound: Outbound::new(
                id,
                outbound,
                limits,
                transport,
                (treatment, tun_mtu),
                Arc::clone(&counts),
            )?,
        });
        self.worker.order(|done| Command::Install(child, done))?;
        self.spis.insert(spi);
        self.children.insert(id, Child { spi, counts });
        Ok(())
    }

    fn switch(&mut self, id: ChildId) {
        self.order(id, "switch to", |done| Command::Switch(id, done));
    }

    fn retire(&mut self, id: ChildId) {
        self.order(id, "retire", |done| Command::Retire(id, done));
    }

    fn relocate(
        &mut self,
        id: ChildId,
        local: IpAddr,
        remote: IpAddr,
        encap: Option<UdpEncap>,
    ) -> Result<(), Error> {
        let transport = Transport::new(&self.config, &self.sockets, local, remote, encap)?;
        self.worker.order(|done| Command::Relocate(id, transport, done))
    }

    fn remove(&mut self, id: ChildId) {
        if let Some(child) = self.children.remove(&id) {
            self.spis.remove(&child.spi);
            self.order(id, "remove", |done| Command::Remove(id, done));
        }
    }

    fn set_policies(&mut self, policies: Vec<PolicySpec>) -> Result<(), Error> {
        let mut ids = HashSet::new();
        if let Some(twice) = policies.iter().find(|policy| !ids.insert(policy.id)) {
            return Err(Error::Configuration(format!("two policies have the id {}", twice.id.0)));
        }
        let table: Vec<adit_esp::Policy> = policies.iter().map(PolicySpec::selectors).collect();
        let ids = policies.iter().map(|policy| policy.id).collect();
        let traps = policies.iter().filter(|policy| policy.trap).map(|policy| policy.id).collect();
        let published = Arc::new(Policies { table: PolicyTable::new(&table), ids, traps });
        // Closed before open: the fence, then the table that the worker reads, then the way into the tunnel.
        lock(&self.protection).replace(policies, || self.policies.store(published))
    }

    fn counters(&self, id: ChildId) -> Option<ChildCounters> {
        self.children.get(&id).map(|child| child.counts.read(self.clock))
    }

    fn stats(&self) -> Stats {
        let (fenced_in, fenced_out) = lock(&self.protection).fence.dropped().unwrap_or_else(|error| {
            tracing::debug!(%error, "no packet filter counters");
            (0, 0)
        });
        let counts = &self.worker.counts;
        Stats {
            drops: counts.drops().collect(),
            ike_received: counts.ike_received.read(),
            keepalives_received: counts.keepalives_received.read(),
            frames_received: counts.frames_received.read(),
            frames_sent: counts.frames_sent.read(),
            fenced_in,
            fenced_out,
        }
    }

    fn shutdown(mut self: Box<Self>) {
        if !self.worker.stop() {
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
        if let Err(error) = protection.fence.remove() {
            tracing::warn!(%error, "cannot remove the packet filter rules");
        }
    }
}

impl Drop for Userspace {
    /// Stops, and leaves rules, routes and fence as they are.
    fn drop(&mut self) {
        self.worker.stop();
    }
}

impl fmt::Debug for Userspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Userspace").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The largest inner packet that fits `outer_mtu` whatever the suite and the encapsulation, but never less than
/// every IPv6 link has to carry (RFC 8200 5): below that, the kernel would take IPv6 off the device.
fn tun_mtu(outer_mtu: usize) -> Result<u32, Error> {
    let widest = EspTransforms {
        encr: EncrId::AES_CBC,
        key_bits: Some(256),
        integ: Some(IntegId::HMAC_SHA2_512_256),
        esn: true,
    };
    let inner = Encapsulation { ipv6: true, udp: true }.max_inner(Layout::of(&widest)?, outer_mtu);
    Ok(inner.clamp(1280, 65_535) as u32)
}

/// A worker thread, seen from outside.
struct WorkerHandle {
    commands: Sender<Command>,
    wake: Wake,
    /// Its result: did it end because it was told to?
    thread: Option<JoinHandle<bool>>,
    counts: Arc<WorkerCounts>,
}

impl WorkerHandle {
    fn spawn(
        tun: Tun,
        sockets: &Arc<Sockets>,
        policies: &Arc<ArcSwap<Policies>>,
        clock: Clock,
        config: &NetConfig,
        events: Arc<dyn Fn(NetEvent) + Send + Sync>,
    ) -> Result<Self, Error> {
        let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Error::system("make an eventfd", error.into()))?;
        let wake = Wake::new(eventfd);
        let counts = Arc::new(WorkerCounts::default());
        let (commands, receiver) = mpsc::channel();
        let obituary = Arc::clone(&events);
        let worker = Worker::new(
            tun,
            Arc::clone(sockets),
            Arc::clone(policies),
            (receiver, wake.clone()),
            (clock, Arc::clone(&counts)),
            config,
            events,
        );
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
