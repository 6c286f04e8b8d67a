//! The thread that moves packets. A worker owns one TUN queue, the SAs it serves (the module `sas`) and all state that changes
//! with a packet; nobody else touches them, so no lock is taken. Policies are a snapshot that is replaced as a whole, SA
//! changes arrive as commands and are answered, counters have one writer. It never negotiates and never changes
//! routes.
//!
//! Packets move in batches: up to [`BATCH`] are read from the TUN device, sealed one after another into one
//! buffer and sent with one system call per run that takes the same socket; up to [`BATCH`] are received with one
//! system call, opened in place and written to the TUN device. In between the worker sleeps in `poll`.
//!
//! Where ESP comes from does not matter: whatever carries an SPI of ours and verifies is the peer's. The address
//! that ESP is sent to changes only when the control plane says so.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use adit_esp::PolicyTable;
use adit_wire::ikev2::Spi;
use adit_wire::natt::{self, Datagram4500};
use adit_wire::{icmp, ip};
use arc_swap::ArcSwap;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::backend::{ChildId, NetEvent, PolicyId};
use crate::counters::{Clock, DropCause, SaCounts, WorkerCounts};
use crate::held::{self, Held};
use crate::sas::{NewChild, Refusal, Sas, Sealed, Transport};
use crate::sockets::{Kind, Outer, Sockets};
use crate::sys::{BATCH, Datagram, Received, RecvBatch};
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

/// The policies, as workers see them.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    pub(crate) table: PolicyTable,
    /// The name of each policy, by its index in the table.
    pub(crate) ids: Vec<PolicyId>,
    /// Those whose packets wait for an SA.
    pub(crate) traps: HashSet<PolicyId>,
}

impl Policies {
    /// The policies that protect a packet: the first, and those that describe it equally well.
    pub(crate) fn of(&self, flow: &ip::Flow) -> impl Iterator<Item = PolicyId> {
        self.table.candidates_outbound(flow).filter_map(|index| self.ids.get(index.0).copied())
    }
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
    sas: Sas,
    held: Held,
    received: RecvBatch,
    sending: SendBatch,
    limiter: Limiter,
    report: Report,
    mark: u32,
}

/// What leaves a worker beside packets.
pub(crate) struct Report {
    pub(crate) counts: Arc<WorkerCounts>,
    pub(crate) events: Arc<dyn Fn(NetEvent) + Send + Sync>,
    pub(crate) clock: Clock,
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
            sas: Sas::default(),
            held: Held::default(),
            received: RecvBatch::new(1 << 16),
            sending: SendBatch::new(),
            limiter: Limiter::new(),
            report: Report { counts, events, clock },
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
            (self.report.events)(NetEvent::Failed { reason: reason.clone() });
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
            let expired = self.held.sweep(now);
            (0..expired).for_each(|_| self.report.counts.dropped(DropCause::NoSa));
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
        let tick = Timespec { tv_sec: held::INTERVAL.as_secs() as _, tv_nsec: 0 };
        match rustix::event::poll(&mut fds, (!self.held.is_empty()).then_some(&tick)) {
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
        loop {
            match self.commands.try_recv() {
                Ok(Command::Install(child, done)) => {
                    let policy = self.sas.install(*child, self.mark);
                    self.release(policy, now);
                    // Whoever asked may have given up waiting.
                    let _ = done.send(());
                }
                Ok(Command::Switch(id, done)) => {
                    let policy = self.sas.switch(id);
                    self.release(policy, now);
                    let _ = done.send(());
                }
                Ok(Command::Retire(id, done)) => {
                    // No packet is under way: batches are sent whole.
                    self.sas.retire(id);
                    let _ = done.send(());
                }
                Ok(Command::Relocate(id, transport, done)) => {
                    self.sas.relocate(id, transport, self.mark);
                    let _ = done.send(());
                }
                Ok(Command::Remove(id, done)) => {
                    self.sas.remove(id);
                    let _ = done.send(());
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn outbound_batch(&mut self, now: Instant) -> io::Result<()> {
        let policies = self.policies.load();
        let mut inner = std::mem::take(&mut self.sending.inner);
        let result = (0..BATCH).try_for_each(|_| match self.tun.read(&mut inner) {
            Ok(len) => {
                self.outbound(&policies, inner.get(..len).unwrap_or_default(), now, now);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        });
        self.sending.inner = inner;
        self.sending.flush(&self.sockets, now, &self.report);
        match result {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    /// Seals one packet into the batch, or does what is to be done instead. It came at `since`.
    fn outbound(&mut self, policies: &Policies, inner: &[u8], since: Instant, now: Instant) {
        let Self { tun, sas, held, sending, limiter, report, mark, .. } = self;
        match sas.seal(policies, inner, &mut sending.sealed, (now, *mark), report) {
            Ok(packet) => sending.packets.push(packet),
            Err(Refusal::Drop(cause)) => report.counts.dropped(cause),
            Err(Refusal::Wait(policy)) => {
                if held.asks(policy, now) {
                    (report.events)(NetEvent::Acquire { policy });
                }
                if !held.keep(policy, inner, since) {
                    report.counts.dropped(DropCause::NoSa);
                }
            }
            Err(Refusal::TooBig { mtu }) => {
                report.counts.dropped(DropCause::TooBig);
                if limiter.allow(now) {
                    send_too_big(tun, inner, mtu);
                }
            }
        }
    }

    /// Sends what has waited for the SA that became active, before anything else. What the SA does not carry, because it
    /// is narrower than its policy, waits on.
    fn release(&mut self, policy: Option<PolicyId>, now: Instant) {
        let waiting = policy.map(|policy| self.held.take(policy)).unwrap_or_default();
        let policies = self.policies.load();
        for (since, inner) in waiting {
            self.outbound(&policies, &inner, since, now);
        }
        self.sending.flush(&self.sockets, now, &self.report);
    }

    fn inbound_batch(&mut self, outer: &Outer, now: Instant) {
        let Self { tun, sas, received, limiter, report, .. } = self;
        match received.receive(outer.as_fd()) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return;
            }
            Err(error) => {
                // Errors of sending can surface here; the next packet is received as if nothing had happened.
                tracing::debug!(%error, ?outer, "cannot receive");
                return;
            }
        }
        let mut active = Vec::new();
        for (about, datagram) in received.messages() {
            if about.truncated {
                report.counts.dropped(DropCause::OuterMalformed);
                continue;
            }
            let esp = match outer.kind {
                Kind::Esp => without_ip_header(outer.v6, datagram),
                Kind::Ike => {
                    report.ike(outer, &about, datagram);
                    continue;
                }
                Kind::NatT => match natt::classify(datagram) {
                    Ok(Datagram4500::Esp(_)) => Some(datagram),
                    Ok(Datagram4500::Ike(message)) => {
                        report.ike(outer, &about, message);
                        continue;
                    }
                    Ok(Datagram4500::Keepalive) => {
                        report.counts.keepalives_received.add(1);
                        continue;
                    }
                    Err(_) => None,
                },
            };
            let Some((esp, spi)) = esp.and_then(|esp| {
                let spi = u32::from_be_bytes(*esp.first_chunk()?);
                Some((esp, spi))
            }) else {
                report.counts.dropped(DropCause::OuterMalformed);
                continue;
            };
            match sas.inbound(spi) {
                Some(sa) => {
                    // RFC 7296 2.8: what the peer sends on a new SA shows that it is ready for it.
                    if let Some(id) = sa.open(esp, (outer, &about), now, tun, report) {
                        active.push(sas.switch(id));
                    }
                }
                None => {
                    report.counts.dropped(DropCause::UnknownSpi);
                    if let Some(remote) = about.source.filter(|_| limiter.allow(now)) {
                        (report.events)(NetEvent::UnknownSpi { spi: Spi(spi), remote });
                    }
                }
            }
        }
        active.into_iter().for_each(|policy| self.release(policy, now));
    }
}

struct Ready {
    wake: bool,
    tun: bool,
    /// In the order of [`Sockets::iter`].
    sockets: [bool; 6],
}

/// ESP as a raw socket receives it: IPv4 sockets show the outer header, IPv6 sockets do not.
fn without_ip_header(v6: bool, datagram: &mut [u8]) -> Option<&mut [u8]> {
    if v6 {
        return Some(datagram);
    }
    let header_len = usize::from(datagram.first()? & 0x0f) * 4;
    datagram.get_mut(header_len..)
}

impl Report {
    fn ike(&self, outer: &Outer, about: &Received, message: &[u8]) {
        self.counts.ike_received.add(1);
        let (Some(remote), Some(local)) = (about.source, outer.local(about)) else { return };
        (self.events)(NetEvent::Ike { local, remote, datagram: message.to_vec() });
    }

    pub(crate) fn limit_soon(&self, id: ChildId, counts: &SaCounts) {
        if counts.soon.is_first() {
            (self.events)(NetEvent::LimitSoon { id });
        }
    }

    pub(crate) fn limit_reached(&self, id: ChildId, counts: &SaCounts) {
        if counts.reached.is_first() {
            (self.events)(NetEvent::LimitReached { id });
        }
    }
}

/// Tells the sender of an inner packet how big it may be (RFC 4301 8.2.1). The message comes in by the TUN device
/// as if the packet's destination had sent it: no address of this machine would be let in there.
fn send_too_big(tun: &Tun, inner: &[u8], mtu: usize) {
    let Ok(flow) = ip::flow(inner) else { return };
    let message = icmp::packet_too_big(inner, flow.destination, u32::try_from(mtu).unwrap_or(u32::MAX));
    if let Some(Err(error)) = message.map(|message| tun.write(&message)) {
        tracing::debug!(%error, "cannot tell a sender the MTU");
    }
}

/// Packets on their way out.
struct SendBatch {
    /// The packet just read.
    inner: Vec<u8>,
    /// Sealed packets, one after another.
    sealed: Vec<u8>,
    packets: Vec<Sealed>,
}

impl SendBatch {
    fn new() -> Self {
        Self { inner: vec![0; 1 << 16], sealed: Vec::new(), packets: Vec::with_capacity(BATCH) }
    }

    /// Sends all of it, in order, runs that take the same socket together.
    fn flush(&mut self, sockets: &Sockets, now: Instant, report: &Report) {
        let socket = |sealed: &Sealed| (sealed.transport.kind, sealed.transport.destination.is_ipv6());
        for run in self.packets.chunk_by(|one, next| socket(one) == socket(next)) {
            let datagrams: Vec<Datagram<'_>> = run
                .iter()
                .map(|sealed| Datagram {
                    destination: sealed.transport.destination,
                    source: Some(sealed.transport.source),
                    tos: Some(sealed.tos),
                    // It is there: the buffer is only ever emptied together with the packets.
                    payload: self.sealed.get(sealed.octets.clone()).unwrap_or_default(),
                })
                .collect();
            let outer = run.first().map(socket).and_then(|(kind, v6)| sockets.find(kind, v6));
            match outer {
                Some(outer) => send_run(outer, run, &datagrams, now, report),
                None => datagrams.iter().for_each(|_| report.counts.dropped(DropCause::Send)),
            }
        }
        self.packets.clear();
        self.sealed.clear();
    }
}

/// Sends the datagrams of a run, and counts those that the kernel takes.
fn send_run(
    outer: &Outer,
    mut run: &[Sealed],
    mut datagrams: &[Datagram<'_>],
    now: Instant,
    report: &Report,
) {
    let mut waited = false;
    while !datagrams.is_empty() {
        match outer.send(datagrams) {
            Ok(sent) if sent > 0 => {
                for Sealed { inner_len, counts, .. } in run.iter().take(sent) {
                    counts.packets_out.add(1);
                    counts.bytes_out.add(*inner_len as u64);
                    counts.last_out.set(report.clock.number(now));
                }
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
                report.counts.dropped(DropCause::Send);
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

/// Lets a few things per second happen that anyone outside can cause.
struct Limiter {
    second: Option<Instant>,
    left: u32,
}

impl Limiter {
    const PER_SECOND: u32 = 100;

    fn new() -> Self {
        Self { second: None, left: 0 }
    }

    fn allow(&mut self, now: Instant) -> bool {
        if self.second.is_none_or(|second| now.duration_since(second) >= Duration::from_secs(1)) {
            self.second = Some(now);
            self.left = Self::PER_SECOND;
        }
        self.left.checked_sub(1).inspect(|left| self.left = *left).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_for_a_second() {
        let mut limiter = Limiter::new();
        let start = Instant::now();
        let allowed = |limiter: &mut Limiter, at: Instant| (0..1000).filter(|_| limiter.allow(at)).count();
        assert_eq!(allowed(&mut limiter, start), 100);
        assert_eq!(allowed(&mut limiter, start + Duration::from_millis(999)), 0);
        assert_eq!(allowed(&mut limiter, start + Duration::from_secs(1)), 100);
    }

    #[test]
    fn raw_ipv4_packets_lose_their_header_whatever_its_length() {
        let mut packet = vec![0; 30];
        packet[0] = 0x45;
        packet[20] = 7;
        assert_eq!(without_ip_header(false, &mut packet).unwrap()[0], 7);
        packet[0] = 0x46;
        assert_eq!(without_ip_header(false, &mut packet).unwrap().len(), 6);
        packet[0] = 0x4f;
        assert!(without_ip_header(false, &mut packet).is_none());
        assert!(without_ip_header(false, &mut []).is_none());
        assert_eq!(without_ip_header(true, &mut [1, 2, 3]).unwrap(), [1, 2, 3]);
    }
}
