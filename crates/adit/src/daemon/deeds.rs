//! What a daemon has instead of an operating system in tests and for fuzzing: a wire made of a list, and a data plane that
//! writes down its orders. Never part of what runs.

#![cfg_attr(not(test), expect(dead_code, reason = "for fuzzing nobody looks at what was done"))]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use adit_net::{
    Backend, ChildCounters, ChildId, ChildSaInstall, InterfaceSpec, PolicySpec, Stats, TapFilter, TapReader,
    UdpEncap,
};
use tokio::sync::mpsc::UnboundedSender;

use super::names::{Answer, Resolver};
use super::wire::Wire;

/// From where, to where, and what.
pub(super) type Datagram = (SocketAddr, SocketAddr, Vec<u8>);

/// What a daemon did, in order.
#[derive(Clone, Debug)]
pub(super) enum Deed {
    Policies(Vec<String>),
    Interfaces(Vec<String>),
    Install { id: u64, inbound: u32, outbound: u32 },
    Switch,
    Retire,
    Relocate,
    LimitPath(IpAddr, Option<u16>),
    Remove(u64),
    Send { local: SocketAddr, remote: SocketAddr, datagram: Vec<u8> },
    Shutdown,
    Ask(String),
}

#[derive(Clone, Default)]
pub(super) struct Deeds(Arc<Mutex<World>>);

#[derive(Default)]
pub(super) struct World {
    pub(super) deeds: Vec<Deed>,
    /// Deeds before this have been looked at by the wire.
    pub(super) delivered: usize,
    pub(super) refuse_installs: bool,
    pub(super) refuse_policies: bool,
    /// The one of this name.
    pub(super) refuse_policy: Option<String>,
    pub(super) refuse_interfaces: bool,
    pub(super) last_in: Option<Instant>,
    pub(super) fenced_in: u64,
    /// The kernel does not answer the next question before this says so.
    pub(super) slow_kernel: Option<std::sync::mpsc::Receiver<()>>,
    /// The keys of all SAs.
    pub(super) keys: Vec<Vec<u8>>,
}

impl Deeds {
    /// The world, whoever has panicked meanwhile.
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, deed: Deed) {
        self.world().deeds.push(deed);
    }

    /// Datagrams since the last call.
    pub(super) fn sent(&self) -> Vec<Datagram> {
        let mut world = self.world();
        let all = world.deeds.len();
        let delivered = std::mem::replace(&mut world.delivered, all);
        let sent = world.deeds.iter().skip(delivered).filter_map(|deed| match deed {
            Deed::Send { local, remote, datagram } => Some((*local, *remote, datagram.clone())),
            _ => None,
        });
        sent.collect()
    }

    pub(super) fn all(&self) -> Vec<Deed> {
        self.world().deeds.clone()
    }
}

impl Backend for Deeds {
    fn install(&mut self, child: ChildSaInstall) -> Result<(), adit_net::Error> {
        if self.world().refuse_installs {
            return Err(adit_net::Error::Stopped);
        }
        let (inbound, outbound) = (child.inbound.spi.0, child.outbound.spi.0);
        self.push(Deed::Install { id: child.id.0, inbound, outbound });
        for keys in [&child.inbound.keys, &child.outbound.keys] {
            self.world().keys.push(keys.encr.expose().to_vec());
        }
        Ok(())
    }

    fn switch(&mut self, _: ChildId) {
        self.push(Deed::Switch);
    }

    fn retire(&mut self, _: ChildId) {
        self.push(Deed::Retire);
    }

    fn relocate(
        &mut self,
        _: ChildId,
        _: IpAddr,
        _: IpAddr,
        _: Option<UdpEncap>,
    ) -> Result<(), adit_net::Error> {
        self.push(Deed::Relocate);
        Ok(())
    }

    fn set_path_limit(&mut self, remote: IpAddr, limit: Option<u16>) {
        self.push(Deed::LimitPath(remote, limit));
    }

    fn remove(&mut self, id: ChildId) {
        self.push(Deed::Remove(id.0));
    }

    fn set_policies(&mut self, policies: Vec<PolicySpec>) -> Result<(), adit_net::Error> {
        let refused = self.world().refuse_policy.clone();
        let refused = refused.is_some_and(|name| policies.iter().any(|policy| policy.name == name));
        if refused || self.world().refuse_policies && !policies.is_empty() {
            return Err(adit_net::Error::Stopped);
        }
        self.push(Deed::Policies(policies.into_iter().map(|policy| policy.name).collect()));
        Ok(())
    }

    fn set_interfaces(&mut self, interfaces: Vec<InterfaceSpec>) -> Result<(), adit_net::Error> {
        if self.world().refuse_interfaces {
            return Err(adit_net::Error::Stopped);
        }
        if !interfaces.is_empty() {
            self.push(Deed::Interfaces(interfaces.into_iter().map(|interface| interface.name).collect()));
        }
        Ok(())
    }

    fn counters(&self, id: ChildId) -> Option<ChildCounters> {
        let World { deeds, last_in, .. } = &*self.world();
        let last_in = *last_in;
        let gone = deeds.iter().any(|deed| matches!(deed, Deed::Remove(removed) if *removed == id.0));
        let (packets_in, bytes_in, heard) = (3, 252, last_in);
        (!gone).then(|| ChildCounters { packets_in, bytes_in, heard, last_in, ..ChildCounters::default() })
    }

    fn count(&self) -> Box<dyn FnOnce() -> Stats + Send> {
        let (kernel, lent) = (self.clone(), self.world().slow_kernel.take());
        Box::new(move || {
            if let Some(slow) = lent {
                let _ = slow.recv();
            }
            Stats { fenced_in: kernel.world().fenced_in, ..Stats::default() }
        })
    }

    fn tap(&mut self, _: &TapFilter) -> Result<TapReader, adit_net::Error> {
        Err(adit_net::Error::Stopped)
    }

    fn shutdown(self: Box<Self>) {
        self.push(Deed::Shutdown);
    }
}

impl Wire for Deeds {
    fn send(&self, local: SocketAddr, remote: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        self.push(Deed::Send { local, remote, datagram: datagram.to_vec() });
        Ok(())
    }

    fn send_keepalive(&self, _: SocketAddr, _: SocketAddr) -> io::Result<()> {
        Ok(())
    }

    fn source_address(&self, _: IpAddr) -> io::Result<IpAddr> {
        Err(io::ErrorKind::NetworkUnreachable.into())
    }

    fn path_mtu(&self, _: IpAddr) -> io::Result<usize> {
        Ok(1500)
    }
}

impl Resolver for Deeds {
    fn ask(&mut self, name: &str, _: &UnboundedSender<Answer>) {
        self.push(Deed::Ask(name.to_owned()));
    }
}
