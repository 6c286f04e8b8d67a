//! The thread that moves packets. A worker owns one TUN queue, the sockets' incoming packets and an [`Engine`] with the SAs it
//! serves; nobody else touches them, so no lock is taken. Policies are a snapshot that is replaced as a whole, SA
//! changes arrive as commands and are answered, counters have one writer. It does the input and output, and nothing else: what
//! becomes of a packet is the engine's business. It never negotiates and never changes routes.
//!
//! Packets move in batches: up to [`BATCH`] are read from the TUN device, sealed one after another into one
//! buffer and sent with one system call per run that takes the same socket; up to [`BATCH`] are received with one
//! system call, opened in place and written to the TUN device. In between the worker sleeps in `poll`.
//!
//! Where ESP comes from does not matter: whatever carries an SPI of ours and verifies is the peer's. The address
//! that ESP is sent to changes only when the control plane says so.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::Instant;

use arc_swap::ArcSwap;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::backend::{ChildId, NetEvent};
use crate::counters::{Clock, DropCause, WorkerCounts};
use crate::engine::{Arrival, Engine, INTERVAL, NewChild, Policies, Train, Transport};
use crate::path::Path;
use crate::sockets::{Outer, Sockets};
use crate::sys::{BATCH, Datagram, RecvBatch};
use crate::tun::Tun;

/// What a worker is told to do.
pub(crate) enum Command {
    /// Answered when packets on the new SAs are served.
    Install(Box<NewChild>, SyncSender<()>),
    Switch(ChildId, SyncSender<()>),
    /// Answered when the last packet has left.
    Retire(ChildId, SyncSender<()>),
    Relocate(ChildId, Transport, SyncSender<()>),
    /// Answered when the SAs are gone.
    Remove(ChildId, SyncSender<()>),
    Stop,
}

/// Interrupts a worker's sleep.
#[derive(Clone, Debug)]
pub(crate) struct Wake(Arc<OwnedFd>);

impl Wake {
    pub(crate) fn new(eventfd: OwnedFd) -> Self {
        Self(Arc::new(eventfd))
    }

    pub(crate) fn wake(&self) {
        // It fails only if the counter is full, and then the worker is about to wake anyway.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }

    fn clear(&self) {
        let _ = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

/// One worker.
pub(crate) struct Worker {
    tun: Tun,
    sockets: Arc<Sockets>,
    commands: Receiver<Command>,
    wake: Wake,
    policies: Arc<ArcSwap<Policies>>,
    engine: Engine,
    received: RecvBatch,
    /// The packet just read.
    inner: Vec<u8>,
    events: Arc<dyn Fn(NetEvent) + Send + Sync>,
    counts: Arc<WorkerCounts>,
    mark: u32,
}

impl Worker {
    pub(crate) fn new(
        tun: Tun,
        sockets: Arc<Sockets>,
        policies: Arc<ArcSwap<Policies>>,
        (commands, wake): (Receiver<Command>, Wake),
        (clock, counts): (Clock, Arc<WorkerCounts>),
        mark: u32,
        events: Arc<dyn Fn(NetEvent) + Send + Sync>,
    ) -> Self {
        Self {
            tun,
            sockets,
            commands,
            wake,
            policies,
            engine: Engine::new(Arc::clone(&counts), clock),
            received: RecvBatch::new(1 << 16),
            inner: vec![0; 1 << 16],
            events,
            counts,
            mark,
        }
    }

    /// Works until it is told to stop (`true`) or can no longer.
    pub(crate) fn run(mut self) -> bool {
        // A clone, so that what is polled does not borrow what works on it.
        let sockets = Arc::clone(&self.sockets);
        let result = self.work(&sockets);
        if let Err(reason) = &result {
            tracing::error!(%reason, "the data plane has stopped");
            (self.events)(NetEvent::Failed { reason: reason.clone() });
        }
        result.is_ok()
    }

    fn work(&mut self, sockets: &Sockets) -> Result<(), String> {
        loop {
            let ready = self.wait(sockets).map_err(|error| format!("cannot wait for packets: {error}"))?;
            let now = Instant::now();
            if ready.wake {
                self.wake.clear();
                if !self.obey(now) {
                    return Ok(());
                }
            }
            self.engine.sweep(now);
            for (outer, _) in sockets.iter().zip(ready.sockets).filter(|(_, ready)| *ready) {
                self.inbound_batch(outer, now);
            }
            if ready.tun {
                self.outbound_batch(now)
                    .map_err(|error| format!("cannot read from the TUN device: {error}"))?;
            }
        }
    }

    fn wait(&self, sockets: &Sockets) -> io::Result<Ready> {
        let mut fds = vec![PollFd::new(&self.wake.0, PollFlags::IN), PollFd::new(&self.tun, PollFlags::IN)];
        fds.extend(sockets.iter().map(|outer| PollFd::new(outer, PollFlags::IN)));
        let tick = Timespec { tv_sec: INTERVAL.as_secs() as _, tv_nsec: 0 };
        match rustix::event::poll(&mut fds, self.engine.has_waiting().then_some(&tick)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let (wake, tun) = (ready.next().unwrap_or_default(), ready.next().unwrap_or_default());
        let mut all = [false; 6];
        for (place, ready) in all.iter_mut().zip(ready) {
            *place = ready;
        }
        Ok(Ready { wake, tun, sockets: all })
    }

    /// Carries out what is asked for. `false`: stop.
    fn obey(&mut self, now: Instant) -> bool {
        self.engine.follow(&self.policies.load());
        loop {
            let done = match self.commands.try_recv() {
                Ok(Command::Install(child, done)) => {
                    let mtu = self.path_mtu(child.outbound.remote());
                    self.engine.install(*child, mtu, now);
                    done
                }
                Ok(Command::Switch(id, done)) => {
                    self.engine.switch(id, now);
                    done
                }
                Ok(Command::Retire(id, done)) => {
                    // No packet is under way: batches are sent whole.
                    self.engine.retire(id);
                    done
                }
                Ok(Command::Relocate(id, transport, done)) => {
                    let mtu = self.path_mtu(transport.destination.ip());
                    self.engine.relocate(id, transport, mtu);
                    done
                }
                Ok(Command::Remove(id, done)) => {
                    self.engine.remove(id);
                    done
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            };
            self.finish(now);
            // Whoever asked may have given up waiting.
            let _ = done.send(());
        }
    }

    fn outbound_batch(&mut self, now: Instant) -> io::Result<()> {
        self.engine.follow(&self.policies.load());
        let result = (0..BATCH).try_for_each(|_| match self.tun.read(&mut self.inner) {
            Ok(len) => {
                self.engine.outbound(self.inner.get_mut(..len).unwrap_or_default(), now);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        });
        self.finish(now);
        match result {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    fn inbound_batch(&mut self, outer: &Outer, now: Instant) {
        match self.received.receive(outer.as_fd()) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return;
            }
            Err(error) => {
                // Errors of sending can surface here; the next packet is received as if nothing had happened.
                tracing::debug!(%error, "receive on {:?}", outer.kind);
                return;
            }
        }
        self.engine.follow(&self.policies.load());
        let (buffer, messages) = self.received.messages();
        for (about, place) in messages {
            if about.truncated {
                self.counts.dropped(DropCause::OuterMalformed);
                continue;
            }
            let (local, remote) = (outer.local(&about), about.source);
            let arrival = Arrival { kind: outer.kind, v6: outer.v6, local, remote, tos: about.tos };
            self.engine.inbound(buffer, place, &arrival, now);
        }
        self.finish(now);
    }

    /// Carries away what the engine has ready.
    fn finish(&mut self, now: Instant) {
        self.deliver();
        self.transmit(now);
        for (id, remote) in std::mem::take(&mut self.engine.report.paths) {
            if let Some(mtu) = self.path_mtu(remote) {
                self.engine.learn_path(id, mtu);
            }
        }
        self.engine.report.events.drain(..).for_each(|event| (self.events)(event));
    }

    fn deliver(&mut self) {
        for packet in self.engine.deliveries.all(self.received.buffer()) {
            if let Err(error) = self.tun.write(packet) {
                tracing::debug!(%error, "the kernel does not take a packet from the tunnel");
                self.counts.dropped(DropCause::Deliver);
            }
        }
        self.engine.deliveries.clear();
    }

    /// Sends all trains, in order, runs that take the same socket together.
    fn transmit(&mut self, now: Instant) {
        let trains = std::mem::take(&mut self.engine.trains);
        let socket = |train: &Train| (train.transport.kind, train.transport.destination.is_ipv6());
        for run in trains.all().chunk_by(|one, next| socket(one) == socket(next)) {
            let datagrams: Vec<Datagram<'_>> = run
                .iter()
                .map(|train| Datagram {
                    destination: train.transport.destination,
                    source: Some(train.transport.source),
                    tos: Some(train.tos),
                    payload: trains.octets(train),
                })
                .collect();
            let outer = run.first().map(socket).and_then(|(kind, v6)| self.sockets.find(kind, v6));
            match outer {
                Some(outer) => send_run(outer, run, &datagrams, &mut self.engine, now),
                None => datagrams.iter().for_each(|_| self.counts.dropped(DropCause::Send)),
            }
        }
        self.engine.trains = trains;
        self.engine.all_sent();
    }

    fn path_mtu(&self, remote: IpAddr) -> Option<usize> {
        match Path::to(remote, self.mark).and_then(|path| path.mtu()) {
            Ok(mtu) => Some(mtu),
            // Without a route nothing can be sent, whatever its size.
            Err(error) => {
                tracing::debug!(%error, %remote, "no path MTU");
                None
            }
        }
    }
}

struct Ready {
    wake: bool,
    tun: bool,
    /// In the order of [`Sockets::iter`].
    sockets: [bool; 6],
}

/// Sends the datagrams of a run, and counts those that the kernel takes.
fn send_run(
    outer: &Outer,
    mut run: &[Train],
    mut datagrams: &[Datagram<'_>],
    engine: &mut Engine,
    now: Instant,
) {
    let mut waited = false;
    while !datagrams.is_empty() {
        match outer.send(datagrams) {
            Ok(sent) if sent > 0 => {
                run.iter().take(sent).for_each(|train| engine.sent(train, 1, now));
                run = run.get(sent..).unwrap_or_default();
                datagrams = datagrams.get(sent..).unwrap_or_default();
            }
            // The device is slower than the tunnel: wait for it once, so that the TUN device's queue fills up and
            // its senders notice.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !waited => {
                waited = true;
                wait_writable(outer.as_fd());
            }
            result => {
                if let Err(error) = result {
                    tracing::debug!(%error, "cannot send an outer packet");
                }
                engine.report.counts.dropped(DropCause::Send);
                run = run.get(1..).unwrap_or_default();
                datagrams = datagrams.get(1..).unwrap_or_default();
            }
        }
    }
}

fn wait_writable(fd: BorrowedFd<'_>) {
    let patience = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    let _ = rustix::event::poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], Some(&patience));
}
