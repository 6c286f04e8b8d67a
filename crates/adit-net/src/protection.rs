//! What keeps protected traffic in, as one: the fence and the routes of the policies. It puts them back when someone
//! takes them away, and reports when ways to peers may have changed, by listening to the kernel on a thread of its own.
//! It decides nothing about packets, and what it listens to costs nothing per SA.
//!
//! The kernel takes routes away with a device that goes down, and gives none back; administrators flush tables of routes
//! and of rules that are not all theirs. Of our own changes, known by the port of the socket that made them, it hears nothing.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

use crate::Error;
use crate::backend::{NetEvent, PolicySpec};
use crate::fence::Fence;
use crate::interfaces::{self, Interfaces};
use crate::netlink::{Framed, NetlinkSocket};
use crate::nft;
use crate::routes::{self, Routes};

/// Fence and routes, and what they are for.
#[derive(Debug)]
pub(crate) struct Protection {
    pub(crate) fence: Fence,
    pub(crate) routes: Routes,
    pub(crate) interfaces: Interfaces,
    /// `None` until they are first told: what a killed predecessor left stays till then.
    policies: Option<Vec<PolicySpec>>,
}

impl Protection {
    pub(crate) fn new(fence: Fence, routes: Routes, interfaces: Interfaces) -> Self {
        Self { fence, routes, interfaces, policies: None }
    }

    /// Protects the traffic of these policies from now on. `publish` is called when the fence stands, and before anything
    /// is led into the tunnel.
    ///
    /// # Errors
    /// As [`Fence::replace`] and [`Routes::replace`]; one that fails does not keep the other back.
    pub(crate) fn replace(
        &mut self,
        mut policies: Vec<PolicySpec>,
        publish: impl FnOnce(),
    ) -> Result<(), Error> {
        // What is routed to an interface is all that its policies are about.
        policies.retain(|policy| policy.interface.is_none());
        let fenced = self.fence.replace(&policies);
        publish();
        let routed = self.routes.replace(&policies);
        self.policies = Some(policies);
        fenced.and(routed)
    }

    fn repair(&mut self, found: Found) -> Result<(), Error> {
        let Some(policies) = &self.policies else { return Ok(()) };
        let fenced = if found.fence { self.fence.replace(policies) } else { Ok(()) };
        let routed = if found.routes { self.routes.repair(policies) } else { Ok(()) };
        let arranged = if found.interfaces { self.interfaces.arrange() } else { Ok(()) };
        fenced.and(routed).and(arranged)
    }
}

/// The thread that listens. It ends with this.
#[derive(Debug)]
pub(crate) struct Monitor {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// Between two looks at what has changed.
const INTERVAL: Duration = Duration::from_millis(100);

/// Notifications read in one go.
const AT_ONCE: usize = 4096;

impl Monitor {
    /// Listens in the network namespace of the calling thread; `interface` is the index of the TUN device.
    pub(crate) fn spawn(
        protection: Arc<Mutex<Protection>>,
        interface: u32,
        events: Arc<dyn Fn(NetEvent) + Send + Sync>,
    ) -> Result<Self, Error> {
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Error::system("make an eventfd", error.into()))?;
        let stop = Arc::new(stop);
        let groups = libc::RTMGRP_LINK
            | libc::RTMGRP_IPV4_IFADDR
            | libc::RTMGRP_IPV6_IFADDR
            | libc::RTMGRP_IPV4_ROUTE
            | libc::RTMGRP_IPV6_ROUTE
            | libc::RTMGRP_IPV4_RULE
            | 1 << (libc::RTNLGRP_IPV6_RULE - 1);
        let (own, filters) = {
            let protection = lock(&protection);
            let filters: Vec<u32> = [protection.fence.port(), protection.interfaces.filter_port()]
                .into_iter()
                .flatten()
                .collect();
            ([protection.routes.port(), protection.interfaces.port()], filters)
        };
        let mut sockets = vec![NetlinkSocket::subscribe(libc::NETLINK_ROUTE, groups as u32, &own)?];
        if !filters.is_empty() {
            let group = 1 << (libc::NFNLGRP_NFTABLES - 1);
            let filter = NetlinkSocket::subscribe(libc::NETLINK_NETFILTER, group, &filters);
            sockets.extend(filter.inspect_err(|error| {
                tracing::warn!(%error, "packet filter rules that someone removes stay away");
            }));
        }
        let listener = Listener { stop: Arc::clone(&stop), sockets, interface, protection, events };
        let thread = thread::Builder::new()
            .name("adit-monitor".into())
            .spawn(|| listener.run())
            .map_err(|error| Error::system("start a thread", error))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends the thread: nothing is put back any more.
    pub(crate) fn stop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell but that it panicked, and that has been printed.
            let _ = thread.join();
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Both parts are netlink sockets and what was asked of them: a panic elsewhere cannot have left them half changed.
pub(crate) fn lock(protection: &Mutex<Protection>) -> MutexGuard<'_, Protection> {
    protection.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Listener {
    stop: Arc<OwnedFd>,
    sockets: Vec<NetlinkSocket>,
    interface: u32,
    protection: Arc<Mutex<Protection>>,
    events: Arc<dyn Fn(NetEvent) + Send + Sync>,
}

/// What someone else has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    fence: bool,
    routes: bool,
    interfaces: bool,
    paths: bool,
}

impl Listener {
    fn run(mut self) {
        // What cannot be put back is told once, however often the system changes.
        let mut told = String::new();
        loop {
            match self.wait(None) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "changes of the system go unnoticed from now on");
                    return;
                }
            }
            let found = self.read();
            if found == Found::default() {
                continue;
            }
            if found.fence || found.routes || found.interfaces {
                match lock(&self.protection).repair(found) {
                    Ok(()) => {
                        told.clear();
                        tracing::debug!(?found, "someone changed the system; protection is in place");
                    }
                    // A device that is down has no routes; when it comes up again, it is told.
                    Err(error) if matches!(error.raw_os_error(), Some(libc::ENETDOWN | libc::ENODEV)) => {
                        tracing::debug!(%error, "the TUN device is down: what is protected stays closed");
                    }
                    Err(error) => {
                        let error = error.to_string();
                        if error != told {
                            tracing::warn!(error, "cannot put back what someone removed");
                        }
                        told = error;
                    }
                }
            }
            if found.paths {
                (self.events)(NetEvent::PathsChanged);
            }
            if !self.wait(Some(INTERVAL)).unwrap_or(false) {
                return;
            }
        }
    }

    /// Waits for notifications, or only so long for the order to stop. `false`: stop.
    fn wait(&self, pause: Option<Duration>) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(&*self.stop, PollFlags::IN)];
        if pause.is_none() {
            fds.extend(self.sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)));
        }
        let end = pause.map(|pause| Instant::now() + pause);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match rustix::event::poll(&mut fds, left.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                result => {
                    result?;
                    return Ok(fds.first().is_some_and(|stop| stop.revents().is_empty()));
                }
            }
        }
    }

    fn read(&mut self) -> Found {
        let mut found = Found::default();
        let protection = lock(&self.protection);
        for socket in &mut self.sockets {
            let all = socket.notifications(AT_ONCE, |message| {
                found.note(message, self.interface, &protection.interfaces);
            });
            if let Err(error) = all {
                // More came than the socket holds (ENOBUFS): anything may have changed.
                tracing::debug!(%error, "notifications of the kernel are lost");
                found = Found { fence: true, routes: true, interfaces: true, paths: true };
            }
        }
        found
    }
}

impl Found {
    fn note(&mut self, message: &Framed<'_>, shared: u32, interfaces: &Interfaces) {
        // Both begin with four octets and the index of the interface.
        let index = message.payload.get(4..).and_then(|rest| rest.first_chunk()).copied();
        let index = index.map(u32::from_ne_bytes);
        let ours = || index == Some(shared);
        match message.kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK | libc::RTM_NEWADDR | libc::RTM_DELADDR
                if index.is_some_and(|index| interfaces.has(index)) =>
            {
                // Routes into the tunnel prefer a source among all addresses.
                (self.interfaces, self.routes) = (true, true);
            }
            libc::RTM_NEWLINK | libc::RTM_DELLINK | libc::RTM_NEWADDR | libc::RTM_DELADDR if ours() => {
                self.routes = true;
            }
            libc::RTM_NEWLINK | libc::RTM_DELLINK => self.paths = true,
            // Routes prefer a source among the addresses.
            libc::RTM_NEWADDR | libc::RTM_DELADDR => (self.paths, self.routes) = (true, true),
            // rtmsg: family, two lengths, TOS, table, protocol
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE if message.payload.get(5) == Some(&routes::PROTOCOL) => {
                self.routes = true;
            }
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE
                if message.payload.get(5) == Some(&interfaces::PROTOCOL) =>
            {
                self.interfaces = true;
            }
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => self.paths = true,
            libc::RTM_NEWRULE | libc::RTM_DELRULE => {
                (self.paths, self.routes, self.interfaces) = (true, true, true);
            }
            _ if nft::is_about(message.kind, message.payload, crate::fence::TABLE) => self.fence = true,
            _ if nft::is_about(message.kind, message.payload, interfaces::MARKS) => self.interfaces = true,
            _ => {}
        }
    }
}
