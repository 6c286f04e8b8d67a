//! Two gateways, a model data plane each, the link between them, and a stream of numbered packets both ways, one per
//! virtual millisecond. What the standards forbid at any instant is found here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use adit_crypto::Entropy;
use adit_crypto::testing::SeededEntropy;
use adit_ike::config::Configuration;
use adit_ike::{
    ChildHandle, ChildSaState, Event, Gateway, IkeKeyLog, IkeSaState, IkeSaView, Kept, Output, RequestId,
    Target, TerminateTarget, Transmit,
};
use adit_wire::ikev2::{
    Delete, ExchangeType, Header, Message, NotifyType, Payload, ProtocolId, SkLayout, Spi,
};

use super::chart::{Chart, Opened};
use super::choices::Choices;
use super::plane::{EspPacket, Outbound, Plane};
use crate::pair::{self, A, Packet, Side};

/// Virtual time between two deliveries of IKE messages.
const STEP: Duration = Duration::from_millis(7);

/// How long a delayed message is held back: longer than two repetitions take.
const LATE: Duration = Duration::from_millis(350);

/// The stream stops when nothing has happened for so long.
const STREAM_AFTER: Duration = Duration::from_millis(700);

/// Everything must be at rest after this.
const REST: Duration = Duration::from_secs(30 * 60);

/// A timer later than this is no work left over.
const HORIZON: Duration = Duration::from_secs(15 * 60);

/// What an operator, a configuration or a data plane wants of one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Bring up everything.
    Up,
    /// Bring up one child.
    UpChild(&'static str),
    /// Rekey the child that carries what is sent.
    RekeyChild(&'static str),
    /// Rekey the IKE SA.
    RekeyIke,
    /// Authenticate anew, and replace the IKE SA by that.
    Reauthenticate,
    /// The child that carries what is sent may carry no more.
    ExpireChild(&'static str),
    /// Delete the children of a name.
    DownChild(&'static str),
    /// Delete all IKE SAs.
    Down,
}

/// One gateway and what belongs to it.
pub(crate) struct End {
    pub(crate) name: char,
    connection: String,
    pub(crate) gateway: Gateway,
    pub(crate) plane: Plane,
    pub(crate) commands: VecDeque<Command>,
    pub(crate) done: BTreeMap<RequestId, Result<(), String>>,
    pub(crate) events: Vec<String>,
    nonce: Arc<AtomicU32>,
    requests: u64,
    drain: Duration,
}

/// First octets of the nonces of this end: as initiator, as responder.
pub(crate) type Nonces = (u8, u8);

/// The seeded stream, with the first octet of everything as long as a nonce replaced.
struct ChosenNonces {
    inner: SeededEntropy,
    first: Arc<AtomicU32>,
}

const NOT_CHOSEN: u32 = u32::MAX;

impl Entropy for ChosenNonces {
    fn fill(&mut self, out: &mut [u8]) {
        self.inner.fill(out);
        if let (32, Ok(first)) = (out.len(), u8::try_from(self.first.load(Ordering::Relaxed))) {
            out[0] = first;
        }
    }
}

impl End {
    fn new(name: char, side: Side, seed: u64, now: Instant) -> Self {
        let nonce = Arc::new(AtomicU32::new(NOT_CHOSEN));
        let entropy = ChosenNonces { inner: SeededEntropy::new(seed), first: Arc::clone(&nonce) };
        let drain = side.settings.drain;
        let mut gateway = Gateway::new(side.settings, Box::new(entropy), now);
        let connection = side.connections[0].name.clone();
        gateway.set_configuration(Configuration {
            connections: side.connections,
            secrets: side.secrets,
            ppks: side.ppks,
            ..Configuration::default()
        });
        Self {
            name,
            connection,
            gateway,
            plane: Plane::default(),
            commands: VecDeque::new(),
            done: BTreeMap::new(),
            events: Vec::new(),
            nonce,
            requests: 0,
            drain,
        }
    }

    fn next_request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }

    /// The Child SA that carries what is sent, if its IKE SA still knows it.
    fn sending(&self, child: &str) -> Option<ChildHandle> {
        let handle = self.plane.active(child)?.install.handle;
        self.gateway.ike_sas().any(|sa| sa.children.iter().any(|c| c.handle == handle)).then_some(handle)
    }

    fn command(&mut self, now: Instant, command: Command) {
        let connection = Some(self.connection.clone());
        match command {
            Command::Up => {
                let request = self.next_request();
                self.gateway.initiate(now, &Target { connection, ..Target::default() }, request).unwrap();
            }
            Command::UpChild(name) => {
                let request = self.next_request();
                let target = Target { connection, child: Some(name.to_owned()), local: None };
                self.gateway.initiate(now, &target, request).unwrap();
            }
            Command::RekeyChild(name) => {
                if let Some(handle) = self.sending(name) {
                    self.gateway.child_expiring(now, handle);
                }
            }
            Command::RekeyIke | Command::Reauthenticate => {
                let request = self.next_request();
                let target = TerminateTarget { connection, ..Default::default() };
                let begun = if command == Command::RekeyIke {
                    self.gateway.rekey(now, &target, request)
                } else {
                    self.gateway.reauthenticate(now, &target, request)
                };
                if begun.is_err() {
                    self.requests -= 1;
                }
            }
            Command::ExpireChild(name) => {
                if let Some(handle) = self.sending(name) {
                    self.plane.retire(handle, now).unwrap();
                    self.gateway.child_expired(now, handle);
                }
            }
            Command::DownChild(name) => {
                self.terminate(now, &TerminateTarget { child: Some(name.to_owned()), ..Default::default() });
            }
            Command::Down => {
                self.terminate(now, &TerminateTarget { connection, ..Default::default() });
            }
        }
    }

    /// Nothing to terminate is as good.
    fn terminate(&mut self, now: Instant, target: &TerminateTarget) {
        let request = self.next_request();
        if self.gateway.terminate(now, target, request).is_err() {
            self.requests -= 1;
        }
    }
}

/// An IKE message on its way.
struct Flying {
    packet: Packet,
    number: usize,
    /// Not before.
    held: Option<Instant>,
}

/// One exchange that makes SAs, as an observer with the keys saw it.
#[derive(Clone, Debug)]
pub(crate) struct Creation {
    /// Which end asked.
    pub(crate) end: usize,
    /// Its inbound SPI of the Child SA that is rekeyed.
    pub(crate) rekeys: Option<Spi>,
    /// For an IKE SA, not a Child SA.
    pub(crate) ike: bool,
    pub(crate) nonce_i: Vec<u8>,
    pub(crate) spi_i: Vec<u8>,
    /// Nonce and SPI of a response that agrees.
    pub(crate) agreed: Option<(Vec<u8>, Vec<u8>)>,
}

/// The SPIs of the IKE SA, the end that asked, and the Message ID.
type CreationKey = (u64, u64, usize, u32);

pub(crate) struct World {
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) ends: [End; 2],
    pub(crate) choices: Choices,
    pub(crate) chart: Chart,
    pub(crate) creations: BTreeMap<CreationKey, Creation>,
    pub(crate) messages: usize,
    /// How many pairs of exchanges both rekeyed the same SA.
    pub(crate) collided: usize,
    keys: Vec<IkeKeyLog>,
    flying: Vec<Flying>,
    esp: [VecDeque<EspPacket>; 2],
    esp_latency: Duration,
    faults_left: usize,
    nonces: Option<[Nonces; 2]>,
    /// Is there a link with faults and orders, or one that delivers at once?
    exploring: bool,
    streaming: bool,
    /// The child whose stream must not break.
    child: &'static str,
    pub(crate) lossless: bool,
    last_event: Instant,
    /// Somebody on the path who repeats, changes and forges, by a generator of its own (xorshift64).
    pub(crate) attacker: Option<u64>,
    recorded: Vec<Packet>,
    pub(crate) wrong: Option<String>,
}

impl World {
    pub(crate) fn new((a, b): (Side, Side), choices: Choices, chart: bool) -> Self {
        let now = Instant::now();
        Self {
            start: now,
            now,
            ends: [End::new('A', a, 2, now), End::new('B', b, 3, now)],
            choices,
            chart: Chart::new(chart),
            creations: BTreeMap::new(),
            messages: 0,
            collided: 0,
            keys: Vec::new(),
            flying: Vec::new(),
            esp: [VecDeque::new(), VecDeque::new()],
            esp_latency: Duration::from_millis(3),
            faults_left: 0,
            nonces: None,
            exploring: false,
            streaming: false,
            child: "net",
            lossless: false,
            last_event: now,
            attacker: None,
            recorded: Vec::new(),
            wrong: None,
        }
    }

    pub(crate) fn bad(&mut self, why: impl Into<String>) {
        let why = why.into();
        self.chart.line(self.now - self.start, |_| format!("!!! {why}"));
        self.wrong.get_or_insert(why);
    }

    /// Brings the tunnel up over a link that loses nothing.
    pub(crate) fn establish(&mut self, command: Command) {
        self.ends[0].command(self.now, command);
        self.drain(0);
        while !self.flying.is_empty() {
            self.now += Duration::from_millis(1);
            self.deliver(0);
        }
        if self.ends.iter().any(|end| end.plane.sas.is_empty()) {
            self.bad("the tunnel does not come up");
        }
    }

    /// From here on the choices decide.
    pub(crate) fn explore(
        &mut self,
        commands: [&[Command]; 2],
        faults: usize,
        nonces: Option<[Nonces; 2]>,
        esp_latency: Duration,
        lossless: bool,
    ) {
        for (end, commands) in self.ends.iter_mut().zip(commands) {
            end.commands = commands.iter().copied().collect();
        }
        self.faults_left = faults;
        self.nonces = nonces;
        self.esp_latency = esp_latency;
        self.lossless = lossless;
        self.exploring = true;
        self.streaming = true;
        self.last_event = self.now;
        self.run();
        self.streaming = false;
        self.exploring = false;
    }

    /// Both ends at rest: their tables agree with each other and with the data planes, and nothing is left over.
    pub(crate) fn check(&mut self, ike_sas: Option<usize>, children: Option<usize>, loses: Option<usize>) {
        if self.wrong.is_none()
            && let Err(why) = self.agreement(ike_sas, children).and_then(|()| self.collisions(loses))
        {
            self.bad(why);
        }
    }

    fn agreement(&self, ike_sas: Option<usize>, children: Option<usize>) -> Result<(), String> {
        let views = self.ends.each_ref().map(|end| end.gateway.ike_sas().collect::<Vec<IkeSaView>>());
        let mut pairs = [Vec::new(), Vec::new()];
        for (e, end) in self.ends.iter().enumerate() {
            let mut inbound = Vec::new();
            for view in &views[e] {
                if view.state != IkeSaState::Established {
                    return Err(format!("{}: an IKE SA is left {}", end.name, view.state));
                }
                let spis = (view.initiator_spi.0, view.responder_spi.0);
                for child in &view.children {
                    if child.state != ChildSaState::Installed {
                        return Err(format!("{}: a Child SA is left {}", end.name, child.state));
                    }
                    let (ours, theirs) = (child.inbound_spi, child.outbound_spi);
                    pairs[e].push((spis, if e == 0 { (ours, theirs) } else { (theirs, ours) }));
                    inbound.push((child.handle, ours));
                }
            }
            inbound.sort();
            let installed: Vec<_> =
                end.plane.sas.iter().map(|(h, sa)| (*h, sa.install.inbound_spi)).collect();
            if inbound != installed {
                return Err(format!(
                    "{}: the IKE SAs have {inbound:?}, the data plane {installed:?}",
                    end.name
                ));
            }
            if self.lossless {
                let sa = end.plane.active(self.child).ok_or("no Child SA is active")?;
                if end.plane.sas.values().any(|other| {
                    other.install.child == sa.install.child && !matches!(other.outbound, Outbound::Active(_))
                }) {
                    return Err(format!("{}: a Child SA is left that is not used", end.name));
                }
            }
            if u64::try_from(end.done.len()) != Ok(end.requests) {
                return Err(format!("{}: {} commands, {:?}", end.name, end.requests, end.done));
            }
            let kept = end.gateway.kept();
            if (kept.inbound_spis, kept.children, kept.requests) != (inbound.len(), inbound.len(), 0) {
                return Err(format!("{}: {} Child SAs and {kept:?}", end.name, inbound.len()));
            }
        }
        let [a, b] = &mut pairs;
        a.sort();
        b.sort();
        if a != b {
            return Err(format!("the tables differ: A {a:?}, B {b:?}"));
        }
        if let Some(wanted) = ike_sas.filter(|wanted| views.iter().any(|v| v.len() != *wanted)) {
            return Err(format!("{} and {} IKE SAs, not {wanted}", views[0].len(), views[1].len()));
        }
        if let Some(wanted) = children.filter(|wanted| a.len() != *wanted) {
            return Err(format!("{} Child SAs, not {wanted}", a.len()));
        }
        Ok(())
    }

    /// Of two exchanges that both rekeyed one SA, that with the lowest of the four nonces has lost (RFC 7296 2.8.1,
    /// 2.8.2): its SA is gone, and if it is a Child SA nobody was ever to send on it.
    fn collisions(&mut self, loses: Option<usize>) -> Result<(), String> {
        let mut count = 0;
        for (one, key) in self.creations.iter().map(|(key, one)| (one, key)) {
            for (two, other) in self.creations.iter().map(|(key, two)| (two, key)) {
                let crossing = one.end == 0 && two.end == 1 && self.same_old(one, key, two, other);
                let (true, Some((nonce_1, spi_1)), Some((nonce_2, spi_2))) =
                    (crossing, &one.agreed, &two.agreed)
                else {
                    continue;
                };
                let lowest_of =
                    |creation: &Creation, nonce: &Vec<u8>| creation.nonce_i.clone().min(nonce.clone());
                let (loser, spi) = if lowest_of(one, nonce_1) < lowest_of(two, nonce_2) {
                    (one, spi_1)
                } else {
                    (two, spi_2)
                };
                count += 1;
                if loses.is_some_and(|e| e != loser.end) {
                    return Err(format!("the nonces say that {} loses", self.ends[loser.end].name));
                }
                let chosen = [(loser.end, &loser.spi_i), (1 - loser.end, spi)];
                for (e, spi) in chosen {
                    self.has_lost(e, loser.ike, spi)?;
                }
            }
        }
        self.collided = count;
        Ok(())
    }

    fn same_old(&self, one: &Creation, key: &CreationKey, two: &Creation, other: &CreationKey) -> bool {
        if one.ike || two.ike {
            return one.ike && two.ike && (key.0, key.1) == (other.0, other.1);
        }
        let (Some(a), Some(b)) = (one.rekeys, two.rekeys) else { return false };
        self.ends[0].plane.ever.iter().any(|ever| (ever.inbound_spi, ever.outbound_spi) == (a, b))
    }

    fn has_lost(&self, e: usize, ike: bool, spi: &[u8]) -> Result<(), String> {
        let end = &self.ends[e];
        if ike {
            let has =
                |v: IkeSaView| [v.initiator_spi.0, v.responder_spi.0].iter().any(|s| s.to_be_bytes() == *spi);
            return match end.gateway.ike_sas().any(has) {
                true => Err(format!("{} keeps the IKE SA that lost", end.name)),
                false => Ok(()),
            };
        }
        let lost = end.plane.ever.iter().find(|ever| ever.inbound_spi.0.to_be_bytes() == *spi);
        match lost {
            // Where all children go, the order of the Deletes decides.
            Some(ever) if ever.active && self.lossless => {
                Err(format!("{} switched to the Child SA that lost", end.name))
            }
            Some(ever) if end.plane.sas.contains_key(&ever.handle) => {
                Err(format!("{} keeps the Child SA that lost", end.name))
            }
            _ => Ok(()),
        }
    }

    /// Takes everything down; nothing may be left then.
    pub(crate) fn tear_down(&mut self) {
        if self.wrong.is_some() {
            return;
        }
        self.lossless = false;
        self.ends[0].commands.push_back(Command::Down);
        self.ends[1].commands.push_back(Command::Down);
        self.run();
        for e in 0..2 {
            let (name, kept) = (self.ends[e].name, self.ends[e].gateway.kept());
            if kept != Kept::default() || !self.ends[e].plane.sas.is_empty() {
                self.bad(format!("{name}: all is down and left are {kept:?}"));
            }
        }
    }

    fn run(&mut self) {
        let end_of_time = self.now + REST;
        while self.wrong.is_none() {
            let ready: Vec<usize> = (0..self.flying.len())
                .filter(|i| self.flying[*i].held.is_none_or(|until| until <= self.now))
                .collect();
            let commanded: Vec<usize> = (0..2).filter(|e| !self.ends[*e].commands.is_empty()).collect();
            let count = ready.len() + commanded.len();
            if count > 0 {
                let choice = if self.exploring { self.choices.choose(count) } else { 0 };
                // What is sent meanwhile comes behind what is on its way.
                self.advance(self.now + STEP);
                if let Some(i) = ready.get(choice) {
                    self.deliver(*i);
                } else {
                    self.obey(commanded[choice - ready.len()]);
                }
                if self.attacker.is_some() {
                    self.attack();
                }
                self.last_event = self.now;
                continue;
            }
            let held = self.flying.iter().filter_map(|f| f.held).min();
            let timer = self.ends.iter().filter_map(|e| e.gateway.poll_timeout()).min();
            let next = [held, timer].into_iter().flatten().min();
            let stream_until = self.last_event + STREAM_AFTER;
            if self.now < stream_until {
                self.advance(
                    next.unwrap_or(stream_until).min(stream_until).max(self.now + Duration::from_millis(1)),
                );
                continue;
            }
            match next {
                Some(at) if at < self.now + HORIZON => {
                    if at > end_of_time {
                        return self.bad("there is no rest: timers and messages go on and on");
                    }
                    let jump = at.max(self.now);
                    // Whole milliseconds, so that the same schedule is the same run.
                    let millis = u64::try_from((jump - self.start).as_millis()).unwrap();
                    self.now = self.now.max(self.start + Duration::from_millis(millis));
                    let before = self.messages;
                    self.advance_quietly();
                    if self.messages != before {
                        self.last_event = self.now;
                    }
                }
                _ => return,
            }
        }
    }

    /// One millisecond without a stream.
    fn advance_quietly(&mut self) {
        let streaming = std::mem::replace(&mut self.streaming, false);
        self.advance(self.now + Duration::from_millis(1));
        self.streaming = streaming;
    }

    /// Lets time pass, millisecond by millisecond.
    fn advance(&mut self, to: Instant) {
        while self.now < to && self.wrong.is_none() {
            self.now += Duration::from_millis(1);
            for e in 0..2 {
                self.arrive(e);
            }
            if self.streaming {
                for e in 0..2 {
                    self.stream(e);
                }
            }
            for e in 0..2 {
                if self.ends[e].gateway.poll_timeout().is_some_and(|at| at <= self.now) {
                    self.choose_nonce(e, true);
                    self.ends[e].gateway.handle_timeout(self.now);
                    self.drain(e);
                }
            }
        }
    }

    /// ESP that is due arrives.
    fn arrive(&mut self, e: usize) {
        while self.esp[e].front().is_some_and(|p| p.due <= self.now) {
            let Some(packet) = self.esp[e].pop_front() else { break };
            match self.ends[e].plane.receive(&packet) {
                Ok(true) => {}
                Ok(false) if self.lossless => {
                    let (name, number, spi) = (self.ends[e].name, packet.number, self.chart.spi(packet.spi));
                    self.bad(format!("{name} loses packet {number} on {spi}: it has no such SA"));
                }
                Ok(false) => {}
                Err(why) => self.bad(format!("{}: {why}", self.ends[e].name)),
            }
        }
    }

    /// One packet of the stream leaves.
    fn stream(&mut self, e: usize) {
        let due = self.now + self.esp_latency;
        match self.ends[e].plane.send(self.child, due) {
            Ok(Some(packet)) => self.esp[1 - e].push_back(packet),
            Ok(None) if self.lossless => {
                self.bad(format!("I1: {} has no active outbound SA", self.ends[e].name));
            }
            Ok(None) => {}
            Err(why) => self.bad(format!("I3: {}: {why}", self.ends[e].name)),
        }
    }

    /// The nonces drawn next are those of a request, or of a response.
    fn choose_nonce(&self, e: usize, request: bool) {
        let first = match self.nonces.filter(|_| self.exploring) {
            Some(nonces) => u32::from(if request { nonces[e].0 } else { nonces[e].1 }),
            None => NOT_CHOSEN,
        };
        self.ends[e].nonce.store(first, Ordering::Relaxed);
    }

    fn obey(&mut self, e: usize) {
        let Some(command) = self.ends[e].commands.pop_front() else { return };
        let name = self.ends[e].name;
        self.chart.line(self.now - self.start, |_| format!("{name}: {command:?}"));
        self.choose_nonce(e, true);
        self.ends[e].command(self.now, command);
        self.drain(e);
    }

    fn deliver(&mut self, i: usize) {
        let Flying { packet, number, .. } = self.flying.remove(i);
        let e = usize::from(packet.destination.ip() != pair::ip(A));
        let name = self.ends[e].name;
        self.chart.line(self.now - self.start, |_| format!("{name} gets #{number}"));
        self.choose_nonce(e, false);
        self.ends[e].gateway.handle_datagram(self.now, packet.destination, packet.source, &packet.datagram);
        self.drain(e);
    }

    /// Messages of long ago once more, changed ones, and Deletes of everything from somebody without keys.
    fn attack(&mut self) {
        let Some(state) = &mut self.attacker else { return };
        let mut random = || {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            usize::try_from(*state >> 16).unwrap()
        };
        let old = self.recorded[random() % self.recorded.len()].clone();
        let mut changed = self.recorded[random() % self.recorded.len()].clone();
        let octet = random() % changed.datagram.len();
        changed.datagram[octet] ^= u8::try_from(random() % 255 + 1).unwrap();
        let last = self.recorded.last().unwrap();
        let header = Header { exchange: ExchangeType::INFORMATIONAL, ..last.header() };
        let header = Header { message_id: header.message_id.wrapping_add(1), ..header };
        let spis =
            self.ends.iter().flat_map(|e| e.plane.sas.values()).map(|sa| sa.install.inbound_spi).collect();
        let deletes = [
            Payload::Delete(Delete { protocol: ProtocolId::IKE, spis: Vec::new() }),
            Payload::Delete(Delete { protocol: ProtocolId::ESP, spis }),
        ];
        let clear = Packet { datagram: Message::encode(&header, &deletes), ..last.clone() };
        let layout = SkLayout { iv_len: 8, block_len: 1, icv_len: 16 };
        let sealed = Message::encode_encrypted(&header, &deletes, layout).datagram;
        let sealed = Packet { datagram: sealed, ..last.clone() };
        for packet in [old, changed, clear, sealed] {
            let e = usize::from(packet.destination.ip() != pair::ip(A));
            let (local, remote) = (packet.destination, packet.source);
            self.ends[e].gateway.handle_datagram(self.now, local, remote, &packet.datagram);
            self.drain(e);
        }
    }

    /// Obeys the outputs of one end, in their order.
    fn drain(&mut self, e: usize) {
        for count in 0.. {
            let Some(output) = self.ends[e].gateway.poll_output() else { break };
            if count > 10_000 {
                return self.bad("one input, no end of outputs");
            }
            self.show(e, &output);
            let (now, drain) = (self.now, self.ends[e].drain);
            let plane = &mut self.ends[e].plane;
            let result = match output {
                Output::Transmit(transmit) => self.transmit(e, transmit),
                Output::InstallChild(install) => plane.install(*install, drain, now),
                Output::SwitchChild(handle) => plane.switch(handle),
                Output::RetireChild(handle) => plane.retire(handle, now),
                Output::RemoveChild(handle) => plane.remove(handle, now).map(drop),
                Output::Event(event) => self.ends[e].event(event),
                Output::KeyLog(log) => {
                    self.keys.push(log);
                    Ok(())
                }
                Output::NatKeepalive { .. }
                | Output::MoveChild { .. }
                | Output::PathProbed(_)
                | Output::Record(_) => Ok(()),
            };
            if let Err(why) = result {
                self.bad(format!("{}: {why}", self.ends[e].name));
            }
        }
    }

    fn show(&mut self, e: usize, output: &Output) {
        let spi = |handle: &ChildHandle, chart: &Chart| {
            let sa = self.ends[e].plane.sas.get(handle);
            sa.map_or_else(|| format!("{handle:?}"), |sa| chart.spi(sa.install.inbound_spi))
        };
        let name = self.ends[e].name;
        self.chart.line(self.now - self.start, |chart| match output {
            Output::InstallChild(i) => {
                let (inbound, outbound) = (chart.name(e, i.inbound_spi), chart.name(1 - e, i.outbound_spi));
                let state = if i.active { "active" } else { "standby" };
                format!("{name}: install in {inbound} out {outbound} {state}")
            }
            Output::SwitchChild(handle) => format!("{name}: switch {}", spi(handle, chart)),
            Output::RetireChild(handle) => format!("{name}: retire {}", spi(handle, chart)),
            Output::RemoveChild(handle) => format!("{name}: remove {}", spi(handle, chart)),
            Output::Event(Event::RequestDone { result, .. }) => format!("{name}: done {result:?}"),
            Output::Event(Event::IkeUp(sa)) => format!("{name}: IKE SA up [{}]", sa.handle.0),
            Output::Event(Event::IkeDown(sa, why)) => {
                format!("{name}: IKE SA down [{}] {why:?}", sa.handle.0)
            }
            Output::Event(Event::IkeRekeyed { old, new }) => {
                format!("{name}: IKE SA rekeyed [{}] to [{}]", old.handle.0, new.handle.0)
            }
            Output::Event(Event::ChildRekeyed { old, new, .. }) => {
                format!(
                    "{name}: child rekeyed {} to {}",
                    chart.spi(old.inbound_spi),
                    chart.spi(new.inbound_spi)
                )
            }
            Output::Record(record) if !record.is_success() => format!("{name}: record {}", record.message),
            _ => String::new(),
        });
    }

    /// A message leaves: it keeps the rules of the data plane, and the link does with it what it is told to.
    fn transmit(&mut self, e: usize, transmit: Transmit) -> Result<(), String> {
        let Transmit { local, remote, datagram } = transmit;
        let packet = Packet { source: local, destination: remote, datagram };
        let number = self.messages;
        self.messages += 1;
        if self.attacker.is_some() {
            self.recorded.push(packet.clone());
        }
        let opened = Opened::new(&self.keys, &packet);
        self.observe(e, &opened)?;
        let fate = if self.exploring && self.faults_left > 0 { self.choices.choose(4) } else { 0 };
        self.faults_left -= usize::from(fate > 0);
        let name = self.ends[e].name;
        self.chart.line(self.now - self.start, |chart| {
            let fate = ["", "   ** LOST **", "   ** TWICE **", "   ** LATE **"][fate];
            format!("{name} sends #{number}: {}{fate}", chart.message(e, &opened))
        });
        let flying = |held| Flying { packet: packet.clone(), number, held };
        match fate {
            0 => self.flying.push(flying(None)),
            1 => {}
            2 => self.flying.extend([flying(None), flying(None)]),
            _ => self.flying.push(flying(Some(self.now + LATE))),
        }
        Ok(())
    }

    /// What the observer remembers of a message that `e` sends, and what it finds wrong with its time.
    fn observe(&mut self, e: usize, opened: &Opened) -> Result<(), String> {
        let h = &opened.header;
        let Some(payloads) = &opened.payloads else {
            return Err("a message that no logged key opens".to_owned());
        };
        for payload in payloads {
            if let Payload::Delete(delete) = payload
                && delete.protocol == ProtocolId::ESP
            {
                let sas = self.ends[e].plane.sas.values_mut();
                for sa in sas.filter(|sa| delete.spis.contains(&sa.install.inbound_spi)) {
                    sa.announced = true;
                }
            }
        }
        if h.exchange != ExchangeType::CREATE_CHILD_SA {
            return Ok(());
        }
        let sa = payloads
            .iter()
            .find_map(|p| if let Payload::SecurityAssociation(sa) = p { Some(sa) } else { None });
        let nonce =
            payloads.iter().find_map(|p| if let Payload::Nonce(n) = p { Some(n.0.clone()) } else { None });
        let (Some(proposal), Some(nonce)) = (sa.and_then(|sa| sa.proposals.first()), nonce) else {
            return Ok(());
        };
        let more = payloads
            .iter()
            .any(|p| matches!(p, Payload::Notify(n) if n.notify_type == NotifyType::ADDITIONAL_KEY_EXCHANGE));
        let old_ike = (h.initiator_spi.0, h.responder_spi.0);
        let spi = proposal.spi.clone();
        if h.flags.response {
            let child = <[u8; 4]>::try_from(spi.as_slice()).map(|spi| Spi(u32::from_be_bytes(spi)));
            let creation = self.creations.get_mut(&(old_ike.0, old_ike.1, 1 - e, h.message_id));
            let Some(creation) = creation.filter(|creation| creation.agreed.is_none()) else { return Ok(()) };
            creation.agreed = Some((nonce, spi));
            if let (Ok(inbound), false) = (child, more)
                && !self.ends[e].plane.sas.values().any(|sa| sa.install.inbound_spi == inbound)
            {
                return Err(format!(
                    "I2: a response lets the peer send on {inbound}, which is not installed"
                ));
            }
        } else {
            let rekeys = payloads.iter().find_map(|p| match p {
                Payload::Notify(n) if n.notify_type == NotifyType::REKEY_SA => {
                    <[u8; 4]>::try_from(n.spi.as_slice()).ok().map(|spi| Spi(u32::from_be_bytes(spi)))
                }
                _ => None,
            });
            let ike = proposal.protocol == ProtocolId::IKE;
            let creation = Creation { end: e, rekeys, ike, nonce_i: nonce, spi_i: spi, agreed: None };
            self.creations.entry((old_ike.0, old_ike.1, e, h.message_id)).or_insert(creation);
        }
        Ok(())
    }
}

impl End {
    fn event(&mut self, event: Event) -> Result<(), String> {
        let line = match event {
            Event::IkeUp(sa) => format!("ike-up {}", sa.handle.0),
            Event::IkeDown(sa, _) => format!("ike-down {}", sa.handle.0),
            Event::ChildUp(_, child) => format!("child-up {}", child.handle.0),
            Event::ChildDown(_, child, _) => format!("child-down {}", child.handle.0),
            Event::IkeRekeyed { old, new } => format!("ike-rekeyed {} {}", old.handle.0, new.handle.0),
            Event::IkeMoved { sa, .. } => format!("ike-moved {} {}", sa.local, sa.remote),
            Event::ChildRekeyed { old, new, .. } => {
                format!("child-rekeyed {} {}", old.handle.0, new.handle.0)
            }
            Event::RequestDone { request, result } => {
                return match self.done.insert(request, result) {
                    None => Ok(()),
                    Some(_) => Err(format!("{request:?} is done twice")),
                };
            }
            Event::Progress { .. } | Event::Notice(_) => return Ok(()),
        };
        self.events.push(line);
        Ok(())
    }
}
