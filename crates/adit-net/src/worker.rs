//! The thread that moves packets. A worker owns a queue of each TUN device, the sockets' incoming packets and an [`Engine`] with the SAs it
//! serves; nobody else touches them, so no lock is taken. Policies are a snapshot that is replaced as a whole, SA
//! changes arrive as commands and are answered, counters have one writer. It does the input and output, and nothing else: what
//! becomes of a packet is the engine's business. It never negotiates and never changes routes.
//!
//! Packets move in rounds, each bounded, so that neither direction waits for the other and commands for both: packets and
//! super-packets are read from the TUN devices, sealed one after another into one buffer and sent as trains; trains are
//! received, opened in place and written to the TUN devices joined. What the kernel does not cut or take joined goes packet by
//! packet. In between the worker looks for more for a moment, and then sleeps in `poll`.
//!
//! Where ESP comes from does not matter: whatever carries an SPI of ours and verifies is the peer's. The address
//! that ESP is sent to changes only when the control plane says so.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use adit_wire::ip::Ipv4Header;
use arc_swap::ArcSwap;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::backend::{ChildId, NetConfig, NetEvent};
use crate::counters::{Clock, DropCause, WorkerCounts};
use crate::devices::Devices;
use crate::engine::{
    Arrival, Delivery, Device, Engine, Head, INTERVAL, MAX_TCP, NewChild, Offload, Outbound, Policies,
    ROUND_PACKETS, Train, Trains, Transport, Whose, WorkerPlace,
};
use crate::handoff::{Errand, Handoff};
use crate::path::Path;
use crate::sockets::{Kind, Outer, Sockets};
use crate::sys::{BATCH, Datagram, RecvBatch};
use crate::tap::Tap;
use crate::tun::{LONGEST, Offloads, Tun};
use crate::xdp::{self, Xdp};

/// Room for a received packet: the longest there is, and more, or the packets of a batch would all lie at places that the
/// processor's caches take for one.
const SLOT_LEN: usize = (1 << 16) + 17 * 64;

/// Rounds before the kernel is asked again who has packets: what had some last time is read at once, which takes one system
/// call less for each round of a stream. So long do orders wait.
const ROUNDS: u32 = 8;

/// Messages of a round, where each can be a whole train.
const ROUND_TRAINS: usize = 16;

/// What a worker is told to do.
pub(crate) enum Command {
    /// Answered when packets on the new SAs are served.
    Install(Box<NewChild>, SyncSender<()>),
    Switch(ChildId, SyncSender<()>),
    /// Answered when the last packet has left.
    Retire(ChildId, SyncSender<()>),
    Relocate(ChildId, Transport, SyncSender<()>),
    /// Outer packets to this address may have so many octets, whatever the kernel believes.
    LimitPath(IpAddr, Option<u16>, SyncSender<()>),
    /// Answered when the SAs are gone.
    Remove(ChildId, SyncSender<()>),
    /// Serves one more TUN device. Answered when it does, with what the kernel has against it.
    Attach(Device, Arc<Tun>, SyncSender<io::Result<()>>),
    /// Answered when the device is closed.
    Detach(Device, SyncSender<()>),
    /// Shows packets from now on.
    Tap(Box<Tap>, SyncSender<()>),
    Stop,
}

/// Where a worker takes its orders from, and where those are sent that are for others.
pub(crate) struct Orders {
    pub(crate) place: WorkerPlace,
    pub(crate) commands: Receiver<Command>,
    pub(crate) wake: Wake,
    /// The other workers.
    pub(crate) others: Vec<(Sender<Command>, Wake)>,
    /// Packets for them and from them.
    pub(crate) handoff: Handoff,
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

    pub(crate) fn clear(&self) {
        let _ = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One worker.
pub(crate) struct Worker {
    devices: Devices,
    sockets: Arc<Sockets>,
    orders: Orders,
    policies: Arc<ArcSwap<Policies>>,
    engine: Engine,
    /// The fast way of ESP without UDP, if it is asked for.
    xdp: Option<Xdp>,
    received: RecvBatch,
    /// What was just read from a TUN device.
    inner: Vec<u8>,
    spin: Spin,
    events: Arc<dyn Fn(NetEvent) + Send + Sync>,
    counts: Arc<WorkerCounts>,
    mark: u32,
    /// What gets through to some peers, where that is less than the kernel believes.
    limits: HashMap<IpAddr, u16>,
}

impl Worker {
    pub(crate) fn new(
        tun: Tun,
        sockets: Arc<Sockets>,
        policies: Arc<ArcSwap<Policies>>,
        orders: Orders,
        (clock, counts): (Clock, Arc<WorkerCounts>),
        config: &NetConfig,
        events: Arc<dyn Fn(NetEvent) + Send + Sync>,
    ) -> Self {
        let Offloads { tcp, udp } = tun.offloads();
        let xdp = config.xdp.then(|| Xdp::new(config.mark)).transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, "AF_XDP cannot be had: ESP without UDP takes raw sockets");
            None
        });
        Self {
            xdp,
            devices: Devices::new(tun, orders.place),
            sockets,
            policies,
            engine: Engine::new(orders.place, Arc::clone(&counts), clock, tcp, udp),
            orders,
            received: RecvBatch::new(SLOT_LEN),
            inner: vec![0; LONGEST],
            spin: Spin::new(config.spin),
            limits: HashMap::new(),
            events,
            counts,
            mark: config.mark,
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
        let mut again = None;
        let mut rounds = 0;
        loop {
            let mut ready = match again.take() {
                Some(ready) => ready,
                None => {
                    rounds = 0;
                    self.wait(sockets).map_err(|error| format!("cannot wait for packets: {error}"))?
                }
            };
            let now = Instant::now();
            if ready.wake {
                self.orders.wake.clear();
                if !self.obey(now) {
                    return Ok(());
                }
                self.bursts(now);
            }
            self.engine.sweep(now);
            self.orders.handoff.flush();
            self.on_time(now);
            for (outer, ready) in sockets.iter().zip(&mut ready.sockets).filter(|(_, ready)| **ready) {
                *ready = self.inbound_batch(outer, now);
            }
            if ready.xdp {
                self.inbound_frames(now);
            }
            if ready.tun {
                ready.tun = self
                    .outbound_batch(Device::SHARED, now)
                    .map_err(|error| format!("cannot read from the TUN device: {error}"))?;
            }
            if ready.interfaces {
                self.outbound_of_interfaces(now);
            }
            rounds += 1;
            let streams = ready.tun || ready.sockets.contains(&true);
            if streams && rounds < ROUNDS && !self.orders.handoff.has_come() {
                again = Some(Ready { wake: false, xdp: false, interfaces: false, ..ready });
            }
        }
    }

    /// Waits until there is something to do: first awake, for as long as packets are likely to follow, then asleep.
    fn wait(&mut self, sockets: &Sockets) -> io::Result<Ready> {
        let wake = || PollFd::new(&self.orders.wake.0, PollFlags::IN);
        let mut fds: [PollFd<'_>; Ready::ALL] = std::array::from_fn(|_| wake());
        // What there is none of, its place is taken by something that is waited for already.
        let xdp = self.xdp.as_ref().map_or_else(|| self.orders.wake.0.as_fd(), AsFd::as_fd);
        let tun = self.devices.get(Device::SHARED).map_or_else(|| self.orders.wake.0.as_fd(), AsFd::as_fd);
        let interfaces = self.devices.waiting().unwrap_or_else(|| self.orders.wake.0.as_fd());
        let others = [tun, xdp, interfaces].into_iter().chain(sockets.iter().map(AsFd::as_fd));
        let mut count = 1;
        for (place, fd) in fds.iter_mut().skip(1).zip(others) {
            *place = PollFd::from_borrowed_fd(fd, PollFlags::IN);
            count += 1;
        }
        let polled = fds.get_mut(..count).unwrap_or_default();
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let second = Timespec { tv_sec: INTERVAL.as_secs() as _, tv_nsec: 0 };
        let soon = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        let tick = if self.orders.handoff.has_waiting() || self.engine.flush_tap() {
            Some(soon)
        } else {
            self.engine.has_waiting().then_some(second)
        };
        let deadline = self.engine.deadline();
        self.spin.begin(Instant::now());
        loop {
            let now = Instant::now();
            let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
            let is_late = left.is_some_and(|left| left.is_zero());
            let patience = match left {
                _ if is_late || self.spin.goes_on(now) => Some(at_once),
                Some(left) if left < INTERVAL => {
                    let left = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
                    Some(tick.map_or(left, |tick| tick.min(left)))
                }
                _ => tick.or_else(|| deadline.map(|_| second)),
            };
            match rustix::event::poll(polled, patience.as_ref()) {
                Ok(0) if self.spin.is_spinning() && !is_late => rustix::thread::sched_yield(),
                Ok(_) | Err(rustix::io::Errno::INTR) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let [wake, tun, xdp, interfaces, sockets @ ..] = fds.map(|fd| !fd.revents().is_empty());
        let xdp = xdp && self.xdp.is_some();
        let interfaces = interfaces && self.devices.waiting().is_some();
        self.spin.end(tun || xdp || interfaces || sockets.contains(&true));
        Ok(Ready { wake, tun, xdp, interfaces, sockets })
    }

    /// Does what time alone demands. It comes before all else, so that it is as punctual whatever else there is to do.
    fn on_time(&mut self, now: Instant) {
        if self.engine.deadline().is_some_and(|deadline| deadline <= now) {
            self.engine.on_time(now);
            self.finish(now);
        }
    }

    /// Carries out what is asked for. `false`: stop.
    fn obey(&mut self, now: Instant) -> bool {
        self.engine.follow(&self.policies.load());
        loop {
            let done = match self.orders.commands.try_recv() {
                Ok(Command::Install(child, done)) => {
                    let transport = child.outbound.as_ref().map(Outbound::transport);
                    self.use_xdp(child.id, transport, now);
                    let mtu = transport.and_then(|transport| self.path_mtu(transport.destination.ip()));
                    self.engine.install(*child, mtu, now);
                    done
                }
                Ok(Command::Switch(id, done)) => {
                    self.engine.switch(id, now);
                    done
                }
                Ok(Command::Retire(id, done)) => {
                    // No packet is under way: batches are sent whole.
                    self.engine.retire(id, now);
                    done
                }
                Ok(Command::Relocate(id, transport, done)) => {
                    self.use_xdp(id, Some(transport), now);
                    let mtu = self.path_mtu(transport.destination.ip());
                    self.engine.relocate(id, transport, mtu);
                    done
                }
                Ok(Command::LimitPath(remote, limit, done)) => {
                    match limit {
                        Some(limit) => self.limits.insert(remote, limit),
                        None => self.limits.remove(&remote),
                    };
                    if let Some(mtu) = self.path_mtu(remote) {
                        for id in self.engine.towards(remote) {
                            self.engine.learn_path(id, mtu);
                        }
                    }
                    done
                }
                Ok(Command::Remove(id, done)) => {
                    self.use_xdp(id, None, now);
                    self.engine.remove(id, now);
                    done
                }
                Ok(Command::Attach(device, tun, done)) => {
                    let _ = done.send(self.devices.attach(device, tun));
                    continue;
                }
                Ok(Command::Detach(device, done)) => {
                    self.devices.detach(device);
                    done
                }
                Ok(Command::Tap(tap, done)) => {
                    self.engine.set_tap(tap);
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

    /// As [`outbound_batch`](Self::outbound_batch), from the devices beside the shared one.
    fn outbound_of_interfaces(&mut self, now: Instant) {
        for device in self.devices.ready() {
            if let Err(error) = self.outbound_batch(device, now) {
                tracing::warn!(%error, "cannot read from an interface: did someone delete it?");
                self.devices.detach(device);
                (self.events)(NetEvent::InterfaceLost);
            }
        }
    }

    /// Reads a round of packets from a TUN device, and sends them sealed. `false`: there were none.
    fn outbound_batch(&mut self, device: Device, now: Instant) -> io::Result<bool> {
        let Some(tun) = self.devices.get(device) else { return Ok(false) };
        self.engine.follow(&self.policies.load());
        let mut result = Ok(());
        let mut any = false;
        // Payloads that leave by the time do not wait for a round to end.
        let deadline = self.engine.deadline();
        let is_late = || deadline.is_some_and(|deadline| deadline <= Instant::now());
        for _ in 0..ROUND_PACKETS {
            result = match tun.read(&mut self.inner) {
                Ok((packet, offload)) => {
                    any = true;
                    match self.engine.whose(device, packet, None, now) {
                        Whose::Ours => self.engine.outbound(device, packet, &offload, None, now),
                        Whose::Theirs(to, known) => {
                            let errand = Errand::Seal(device, offload, known);
                            hand_over(&mut self.orders.handoff, &mut self.engine, (to, packet, errand), now);
                        }
                    }
                    Ok(())
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                Err(error) => Err(error),
            };
            if self.engine.trains.is_full() || result.is_err() || is_late() {
                break;
            }
        }
        self.orders.handoff.flush();
        self.engine.on_time(now);
        self.finish(now);
        match result {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(any),
        }
    }

    /// Seals and sends a round of what other workers have read, and opens what they have received.
    fn bursts(&mut self, now: Instant) {
        self.engine.follow(&self.policies.load());
        let mut taken = 0;
        while let Some(mut burst) = self.orders.handoff.take(&mut taken) {
            let Self { engine, orders, sockets, .. } = self;
            engine.expect_flows(burst.flows());
            burst.packets(|octets, place, errand| match *errand {
                Errand::Seal(device, offload, known) => {
                    let packet = octets.get_mut(place).unwrap_or_default();
                    match engine.whose(device, packet, Some(&known), now) {
                        Whose::Ours => engine.outbound(device, packet, &offload, Some(&known), now),
                        Whose::Theirs(to, known) => {
                            let errand = Errand::Seal(device, offload, known);
                            hand_over(&mut orders.handoff, engine, (to, packet, errand), now);
                        }
                    }
                }
                Errand::Open(about) => {
                    let v6 = about.source.is_some_and(|source| source.is_ipv6());
                    let Some(outer) = sockets.find(Kind::NatT, v6) else { return };
                    engine.inbound(octets, place, 0, &outer.arrival(&about), now);
                }
            });
            self.deliver(Some(burst.octets()), now);
            self.orders.handoff.give_back(burst);
            self.engine.on_time(now);
            self.finish(now);
        }
        self.orders.handoff.flush();
        if self.orders.handoff.has_come() {
            self.orders.wake.wake();
        }
    }

    /// Receives a round of packets from a socket, and hands them to the TUN device opened. `false`: there were none.
    fn inbound_batch(&mut self, outer: &Outer, now: Instant) -> bool {
        let limit = if outer.joined { ROUND_TRAINS } else { BATCH };
        let received = self.received.receive(outer.as_fd(), limit);
        if received.is_err() {
            outer.forget_errors();
        }
        match received {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return false;
            }
            Err(error) => {
                // Errors of sending can surface here; the next packet is received as if nothing had happened.
                tracing::debug!(%error, "receive on {:?}", outer.kind);
                return false;
            }
        }
        self.engine.follow(&self.policies.load());
        let (buffer, messages) = self.received.messages();
        let octets = &*buffer;
        // Raw sockets show the outer header over IPv4.
        let header = if outer.kind == Kind::Esp && !outer.v6 { Ipv4Header::LEN } else { 0 };
        let esp = messages.clone().map(|(_, place)| octets.get(place.start + header..place.end));
        self.engine.expect(esp.map(Option::unwrap_or_default));
        for (about, place) in messages {
            if about.truncated {
                self.counts.dropped(DropCause::OuterMalformed, 1);
                continue;
            }
            self.engine.inbound(buffer, place, about.segment, &outer.arrival(&about), now);
            for (to, place) in std::mem::take(&mut self.engine.report.elsewhere) {
                let datagram = buffer.get(place).unwrap_or_default();
                let errand = Errand::Open(about);
                hand_over(&mut self.orders.handoff, &mut self.engine, (to, datagram, errand), now);
            }
        }
        self.orders.handoff.flush();
        self.finish(now);
        true
    }

    /// The ESP of an SA takes AF_XDP where it can, if it travels without UDP.
    fn use_xdp(&mut self, id: ChildId, transport: Option<Transport>, now: Instant) {
        let Some(xdp) = &mut self.xdp else { return };
        let ends = transport.filter(|transport| transport.kind == Kind::Esp);
        xdp.serve(id, ends.map(|ends| (ends.source, ends.destination.ip())), now);
    }

    /// As [`inbound_batch`](Self::inbound_batch), from AF_XDP.
    fn inbound_frames(&mut self, now: Instant) {
        let Some(mut xdp) = self.xdp.take() else { return };
        self.engine.follow(&self.policies.load());
        for (interface, socket) in xdp.sockets() {
            if socket.receive() == 0 {
                continue;
            }
            self.received.clear();
            for frame in socket.frames() {
                self.counts.frames_received.add(1);
                match xdp::esp(interface, frame) {
                    Some((about, packet)) => self.received.take(about, packet),
                    None => self.counts.dropped(DropCause::OuterMalformed, 1),
                }
            }
            let (buffer, messages) = self.received.messages();
            let octets = &*buffer;
            // As a raw socket shows it: over IPv4 behind the outer header.
            let esp = messages.clone().map(|(about, place)| {
                let header =
                    if about.destination.is_some_and(|to| to.is_ipv4()) { Ipv4Header::LEN } else { 0 };
                octets.get(place).and_then(|packet| packet.get(header..)).unwrap_or_default()
            });
            self.engine.expect(esp);
            for (about, place) in messages {
                let Some(destination) = about.destination else { continue };
                let arrival = Arrival {
                    kind: Kind::Esp,
                    v6: destination.is_ipv6(),
                    local: Some(SocketAddr::new(destination, 0)),
                    remote: about.source,
                    tos: about.tos,
                    hop_limit: about.hop_limit,
                };
                self.engine.inbound(buffer, place, about.segment, &arrival, now);
            }
            self.deliver(None, now);
        }
        self.xdp = Some(xdp);
        self.finish(now);
    }

    /// Carries away what the engine has ready.
    fn finish(&mut self, now: Instant) {
        self.deliver(None, now);
        self.transmit(now);
        for (id, remote) in std::mem::take(&mut self.engine.report.paths) {
            if let Some(mtu) = self.path_mtu(remote) {
                self.engine.learn_path(id, mtu);
            }
        }
        for id in std::mem::take(&mut self.engine.report.ready) {
            for (commands, wake) in &self.orders.others {
                // Nobody waits for the answer.
                let (done, _) = mpsc::sync_channel(1);
                if commands.send(Command::Switch(id, done)).is_ok() {
                    wake.wake();
                }
            }
        }
        for (to, device, packet, known) in std::mem::take(&mut self.engine.report.astray) {
            let errand = Errand::Seal(device, Offload::default(), known);
            hand_over(&mut self.orders.handoff, &mut self.engine, (to, &packet, errand), now);
        }
        self.engine.report.events.drain(..).for_each(|event| (self.events)(event));
    }

    /// Hands to the kernel what was opened, in `burst` or else where this worker receives.
    fn deliver(&mut self, burst: Option<&[u8]>, now: Instant) {
        let deliveries = &self.engine.deliveries;
        let received = burst.unwrap_or_else(|| self.received.buffer());
        let (tapped, mut lost) = (self.engine.is_tapped(), Vec::new());
        for delivery in deliveries.all() {
            let Some(tun) = self.devices.get(delivery.device()) else {
                self.counts.dropped(DropCause::Deliver, deliveries.packets(delivery, received).count());
                continue;
            };
            let head = deliveries.head(delivery, received);
            if head.is_some_and(|head| self.deliver_joined(tun, delivery, &head, received)) {
                continue;
            }
            for packet in deliveries.packets(delivery, received) {
                if let Err(error) = tun.write(packet) {
                    tracing::debug!(%error, "the kernel does not take a packet from the tunnel");
                    self.counts.dropped(DropCause::Deliver, 1);
                    if tapped {
                        lost.push((delivery.device(), packet.to_vec()));
                    }
                }
            }
        }
        for (device, packet) in lost {
            self.engine.show_lost(device, &packet, DropCause::Deliver, now);
        }
        self.engine.deliveries.clear();
    }

    /// Hands a super-packet to the kernel. `false`: it does not take it as one.
    fn deliver_joined(&self, tun: &Tun, delivery: &Delivery, head: &Head, received: &[u8]) -> bool {
        let packets = self.engine.deliveries.packets(delivery, received);
        let octets = std::iter::once(head.octets()).chain(packets.map(|packet| head.payload(packet)));
        let mut parts = [IoSlice::new(&[]); 1 + MAX_TCP];
        let mut len = 0;
        for (part, octets) in parts.iter_mut().zip(octets) {
            *part = IoSlice::new(octets);
            len += 1;
        }
        let written = tun.write_parts(parts.get(..len).unwrap_or_default());
        if let Err(error) = &written {
            tracing::debug!(%error, "the kernel does not take packets as one");
            self.counts.unjoined.add(1);
        }
        written.is_ok()
    }

    /// Sends all trains, in order, runs that take the same socket together.
    fn transmit(&mut self, now: Instant) {
        let Self { engine, sockets, counts, xdp, .. } = self;
        let trains = std::mem::take(&mut engine.trains);
        let mut messages = Messages::new(&trains);
        let (mut waited, mut forgot) = (false, false);
        let tapped = engine.is_tapped();
        let port = sockets.nat_t_port();
        while let Some(train) = messages.train() {
            let Some(outer) = sockets.find(train.transport.kind, train.transport.destination.is_ipv6())
            else {
                counts.dropped(DropCause::Send, messages.skip_train());
                continue;
            };
            if let (Kind::Esp, Some(xdp)) = (train.transport.kind, xdp.as_mut()) {
                let message = messages.clone().next();
                let dont_fragment = train.dont_fragment;
                let sent = message.filter(|message| xdp.send(&message.datagram(&trains), dont_fragment, now));
                if let Some(Message { train, packets }) = sent {
                    engine.sent(&trains, train, packets.clone(), now);
                    if tapped {
                        engine.show_sent((&trains, train, port), packets, None, now);
                    }
                    counts.frames_sent.add(1);
                    messages.next();
                    continue;
                }
                // What is sent by the socket must not overtake.
                xdp.flush();
            }
            messages.whole = outer.takes_trains();
            outer.set_dont_fragment(train.dont_fragment);
            let run = messages.clone().take_while(|message| message.train.takes_same_socket(train));
            match outer.send(run.map(|message| message.datagram(&trains))) {
                Ok(sent) if sent > 0 => {
                    for Message { train, packets } in messages.by_ref().take(sent) {
                        if packets.len() > 1 {
                            outer.took_train();
                        }
                        engine.sent(&trains, train, packets.clone(), now);
                        if tapped {
                            engine.show_sent((&trains, train, port), packets, None, now);
                        }
                    }
                }
                // The device is slower than the tunnel: wait for it once, so that the TUN device's queue fills up and
                // its senders notice.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !waited => {
                    waited = true;
                    wait_writable(outer.as_fd());
                }
                // It may be about an earlier packet, or about none of ours.
                Err(_) if outer.hears_errors() && !forgot => {
                    forgot = true;
                    outer.forget_errors();
                }
                Err(error) if messages.is_whole() && is_refusal(&error) => {
                    tracing::debug!(%error, "the kernel does not cut a train");
                    outer.refused_train(error.raw_os_error() == Some(libc::EIO));
                    messages.cut_train();
                }
                result => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "cannot send an outer packet");
                    }
                    let Some(Message { train, packets }) = messages.next() else { continue };
                    counts.dropped(DropCause::Send, packets.len());
                    if tapped {
                        engine.show_sent((&trains, train, port), packets, Some(DropCause::Send), now);
                    }
                }
            }
        }
        if let Some(xdp) = xdp {
            xdp.flush();
        }
        engine.trains = trains;
        engine.all_sent();
    }

    fn path_mtu(&self, remote: IpAddr) -> Option<usize> {
        match Path::to(remote, self.mark).and_then(|path| path.mtu()) {
            Ok(mtu) => Some(self.limits.get(&remote).map_or(mtu, |limit| mtu.min(usize::from(*limit)))),
            // Without a route nothing can be sent, whatever its size.
            Err(error) => {
                tracing::debug!(%error, %remote, "no path MTU");
                None
            }
        }
    }
}

/// Gives a packet to another worker. If that does not keep up, it is lost, which is counted and shown.
fn hand_over(
    handoff: &mut Handoff,
    engine: &mut Engine,
    (to, packet, errand): (usize, &[u8], Errand),
    now: Instant,
) {
    let lost = handoff.add(to, packet, errand);
    engine.report.counts.dropped(DropCause::Overload, lost);
    if let (1.., Errand::Seal(device, ..)) = (lost, errand) {
        engine.show_lost(device, packet, DropCause::Overload, now);
    }
}

struct Ready {
    wake: bool,
    tun: bool,
    xdp: bool,
    interfaces: bool,
    /// In the order of [`Sockets::iter`].
    sockets: [bool; Self::ALL - 4],
}

impl Ready {
    /// All that is waited for: commands, the shared TUN device, AF_XDP, the other TUN devices, three sockets for each family.
    const ALL: usize = 4 + 6;
}

/// What remains to be sent, cut as the kernel takes it: a train at once, or packet by packet.
#[derive(Clone)]
struct Messages<'t> {
    trains: &'t [Train],
    /// Of the first train, how many packets are gone.
    packet: usize,
    whole: bool,
    /// The first train is cut, whatever is done to others.
    cut: bool,
}

/// Packets of a train that are sent as one.
struct Message<'t> {
    train: &'t Train,
    packets: Range<usize>,
}

impl<'t> Messages<'t> {
    fn new(trains: &'t Trains) -> Self {
        Self { trains: trains.all(), packet: 0, whole: false, cut: false }
    }

    /// The train that comes next.
    fn train(&self) -> Option<&'t Train> {
        self.trains.first()
    }

    /// Does a train of several packets come next, as a whole?
    fn is_whole(&self) -> bool {
        self.clone().next().is_some_and(|message| message.packets.len() > 1)
    }

    /// Sends the next train packet by packet.
    fn cut_train(&mut self) {
        self.cut = true;
    }

    /// Leaves the next train out. Returns how many packets those are.
    fn skip_train(&mut self) -> usize {
        let packets = self.train().map_or(0, Train::len) - self.packet;
        self.advance();
        packets
    }

    fn advance(&mut self) {
        self.trains = self.trains.get(1..).unwrap_or_default();
        self.packet = 0;
        self.cut = false;
    }
}

impl<'t> Iterator for Messages<'t> {
    type Item = Message<'t>;

    fn next(&mut self) -> Option<Message<'t>> {
        let train = self.train()?;
        let start = self.packet;
        let end = if self.whole && !self.cut { train.len() } else { start + 1 };
        self.packet = end;
        if end >= train.len() {
            self.advance();
        }
        Some(Message { train, packets: start..end })
    }
}

impl Message<'_> {
    fn datagram<'t>(&self, trains: &'t Trains) -> Datagram<'t> {
        let Train { transport, tos, hop_limit, segment, .. } = self.train;
        let octets = trains.octets(self.train);
        let (start, end) = (self.packets.start * segment, self.packets.end * segment);
        Datagram {
            destination: transport.destination,
            source: Some(transport.source),
            tos: Some(*tos),
            hop_limit: *hop_limit,
            payload: octets.get(start..end.min(octets.len())).unwrap_or_default(),
            segment: (self.packets.len() > 1).then_some(*segment as u16),
        }
    }
}

/// Is it the train that the kernel does not take, rather than each of its packets? It says EIO if the device makes no checksums,
/// EINVAL if it does not know trains, this or EMSGSIZE if the packets do not fit the path.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
}

/// Decides when to look for packets without sleeping: for a moment after the last one, unless that has been in vain
/// lately. Waking up takes longer than a round trip in a local network; looking takes a processor.
struct Spin {
    duration: Duration,
    /// Have packets come since the last sleep?
    busy: bool,
    until: Option<Instant>,
    /// How many times in a row it was in vain, and how many sleeps it is left out for that.
    in_vain: u32,
    pause: u32,
}

impl Spin {
    const IN_VAIN: u32 = 8;
    const PAUSE: u32 = 64;

    fn new(duration: Duration) -> Self {
        Self { duration, busy: false, until: None, in_vain: 0, pause: 0 }
    }

    fn begin(&mut self, now: Instant) {
        self.until = None;
        if !self.busy || self.duration.is_zero() {
            return;
        }
        match self.pause.checked_sub(1) {
            Some(less) => self.pause = less,
            None => self.until = Some(now + self.duration),
        }
    }

    fn is_spinning(&self) -> bool {
        self.until.is_some()
    }

    /// Is it worth another look? If not, it was in vain.
    fn goes_on(&mut self, now: Instant) -> bool {
        let Some(until) = self.until else { return false };
        if now < until {
            return true;
        }
        self.until = None;
        self.in_vain += 1;
        if self.in_vain >= Self::IN_VAIN {
            (self.in_vain, self.pause) = (0, Self::PAUSE);
        }
        false
    }

    /// The wait is over; have packets come?
    fn end(&mut self, packets: bool) {
        self.busy = packets;
        if packets && self.is_spinning() {
            self.in_vain = 0;
        }
    }
}

fn wait_writable(fd: BorrowedFd<'_>) {
    let patience = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    let _ = rustix::event::poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], Some(&patience));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the worker does: packets come `after` the last ones.
    fn wait(spin: &mut Spin, start: &mut Instant, after: Duration) -> bool {
        spin.begin(*start);
        *start += after;
        let spun = spin.goes_on(*start);
        spin.end(true);
        spun
    }

    #[test]
    fn looking_ends_with_the_moment_and_pauses_when_it_is_in_vain() {
        let (soon, late) = (Duration::from_micros(49), Duration::from_micros(51));
        let mut now = Instant::now();
        let mut spin = Spin::new(Duration::from_micros(50));
        // Asleep until the first packets.
        spin.begin(now);
        assert!(!spin.goes_on(now));
        spin.end(true);
        for _ in 0..1000 {
            assert!(wait(&mut spin, &mut now, soon));
        }
        for _ in 0..7 {
            assert!(!wait(&mut spin, &mut now, late));
        }
        assert!(wait(&mut spin, &mut now, soon), "one that is not in vain counts for all");
        for _ in 0..8 {
            assert!(!wait(&mut spin, &mut now, late));
        }
        for _ in 0..64 {
            assert!(!wait(&mut spin, &mut now, soon), "a pause");
        }
        assert!(wait(&mut spin, &mut now, soon));
        // What wakes it up without packets, an order for one, is no reason to look for any.
        spin.begin(now);
        spin.end(false);
        spin.begin(now);
        assert!(!spin.goes_on(now));
        let mut never = Spin::new(Duration::ZERO);
        never.end(true);
        assert!(!wait(&mut never, &mut now, Duration::ZERO));
    }
}
