//! What the daemon remembers for whoever looks at it, and the snapshot that it shows.
//!
//! It owns what no machine keeps: what a child carried in SAs that are gone, why it is down, what happened to a
//! connection lately. It decides nothing, and nobody waits for whoever looks: snapshots are made by the event loop
//! when they are asked for, and shared.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use adit_crypto::is_aead;
use adit_ike::config::Connection;
use adit_ike::{
    ChildHandle, ChildSaState, ChildSaView, Event, IkeSaState, IkeSaView, NegotiationRecord,
};
use adit_net::ChildCounters;
use adit_wire::esp::Mode;
use adit_wire::ikev2::{EncrId, IntegId, KeId};
use tokio::sync::{mpsc, oneshot};

use super::Daemon;
use super::reconciler::ChildName;
use crate::control::report::{self, ChildFacts, kebab};
use crate::snapshot::{
    Child, ChildSa, Control, Count, DataPlane, Event as Happening, EventKind, Failure, Failures, IkeSa,
    Interface, Latency, Moment, Shunt, Snapshot, Traffic,
};
use crate::{http, snapshot};

/// How old the snapshot may be that is shown.
const FRESH: Duration = Duration::from_millis(250);

/// While there are so many connections that a snapshot takes long, it is made no oftener than that it costs this part
/// of the loop's time.
const MOST_OF_THE_LOOP: u32 = 10;

/// Events kept of one connection; fewer where there are many.
const MOST_EVENTS: usize = 32;

/// Events kept of all connections together, but for [`LEAST_EVENTS`] of each.
const MOST_EVENTS_IN_ALL: usize = 65_536;

/// Events kept of one connection however many there are.
const LEAST_EVENTS: usize = 4;

/// Characters of an event that are kept.
const MOST_DETAIL: usize = 400;

/// Somebody who wants to see a snapshot.
pub(crate) type Ask = oneshot::Sender<Arc<Snapshot>>;

/// Remembers.
pub(super) struct Observer {
    asked: mpsc::Receiver<Ask>,
    last: Option<(Instant, Arc<Snapshot>)>,
    clock: Clock,
    /// The names of the Child SAs that are or were up, while they are in the data plane.
    names: HashMap<ChildHandle, ChildName>,
    children: HashMap<ChildName, Past>,
    connections: HashMap<String, Lately>,
    /// May something be remembered that is gone?
    outdated: bool,
}

/// What a child has behind it.
#[derive(Debug, Default)]
struct Past {
    /// Carried by SAs that are gone.
    traffic: Traffic,
    /// Dropped by SAs that are gone.
    drops: Vec<Count>,
    rekeys: u64,
    ups: u64,
    /// The SAs that are up.
    up: usize,
    since: Option<Instant>,
    /// Why it is down.
    reason: Option<String>,
}

/// What happened to a connection lately.
#[derive(Debug, Default)]
struct Lately {
    events: VecDeque<(Instant, Happening)>,
}

/// The clock on the wall, read once, so that a moment has the same name in every snapshot; read again when it was set.
#[derive(Clone, Copy, Debug)]
struct Clock {
    at: Instant,
    wall: SystemTime,
}

impl Clock {
    fn moment(self, instant: Instant) -> Moment {
        let wall = match instant.checked_duration_since(self.at) {
            Some(later) => self.wall.checked_add(later),
            None => self.wall.checked_sub(self.at.saturating_duration_since(instant)),
        };
        wall.unwrap_or(self.wall).into()
    }

    fn check(&mut self, now: Instant) {
        let (wall, counted) = (SystemTime::now(), self.wall + now.saturating_duration_since(self.at));
        let off = wall.duration_since(counted).unwrap_or_else(|behind| behind.duration());
        if off > Duration::from_secs(1) {
            *self = Self { at: now, wall };
        }
    }
}

impl Observer {
    pub(super) fn new(now: Instant, wall: SystemTime) -> Self {
        // Until somebody may ask nobody does.
        let (_, asked) = mpsc::channel(1);
        Self {
            asked,
            last: None,
            clock: Clock { at: now, wall },
            names: HashMap::new(),
            children: HashMap::new(),
            connections: HashMap::new(),
            outdated: false,
        }
    }

    /// Where snapshots are asked for from now on.
    pub(super) fn listen(&mut self, asked: mpsc::Receiver<Ask>) {
        self.asked = asked;
    }

    /// Somebody asks. Never, if nobody can.
    pub(super) async fn asked(&mut self) -> Ask {
        match self.asked.recv().await {
            Some(ask) => ask,
            None => std::future::pending().await,
        }
    }

    /// The configuration is another one: the next snapshot is new, and what is gone is forgotten with it.
    pub(super) fn configured(&mut self) {
        self.last = None;
        self.outdated = true;
    }

    /// Forgets what is neither configured nor there. It looks at everything, so not at each of many changes.
    fn forget(&mut self, connections: &[Connection]) {
        let names: HashSet<&str> = connections.iter().map(|one| one.name.as_str()).collect();
        let children: HashSet<(&str, &str)> = connections
            .iter()
            .flat_map(|one| one.children.iter().map(|child| (one.name.as_str(), child.name.as_str())))
            .collect();
        let there: HashSet<&ChildName> = self.names.values().collect();
        self.children.retain(|name, _| {
            children.contains(&(name.connection.as_str(), name.child.as_str())) || there.contains(name)
        });
        let there: HashSet<&str> = there.iter().map(|child| child.connection.as_str()).collect();
        self.connections.retain(|name, _| names.contains(name.as_str()) || there.contains(name.as_str()));
    }

    /// What the gateway reports.
    pub(super) fn event(&mut self, now: Instant, event: &Event) {
        match event {
            Event::ChildUp(sa, child) => {
                let name = ChildName::new(&sa.connection, &child.name);
                let past = self.child(&name);
                past.up += 1;
                past.ups += u64::from(past.up == 1);
                if past.up == 1 {
                    past.since = Some(now);
                }
                past.reason = None;
                self.names.insert(child.handle, name);
                self.happened(now, sa, Some(child), EventKind::Up, None, peer(sa));
            }
            Event::ChildDown(sa, child, reason) => {
                let past = self.child(&ChildName::new(&sa.connection, &child.name));
                past.up = past.up.saturating_sub(1);
                let code = kebab(reason);
                if past.up == 0 {
                    past.since = Some(now);
                    past.reason = Some(code.clone());
                }
                self.happened(now, sa, Some(child), EventKind::Down, Some(code), peer(sa));
            }
            Event::ChildRekeyed { ike_sa, new, .. } => {
                let name = ChildName::new(&ike_sa.connection, &new.name);
                self.child(&name).rekeys += 1;
                self.names.insert(new.handle, name);
                let spis = format!("{} in, {} out", new.inbound_spi, new.outbound_spi);
                self.happened(now, ike_sa, Some(new), EventKind::Rekeyed, None, spis);
            }
            Event::IkeUp(sa) => self.happened(now, sa, None, EventKind::Up, None, peer(sa)),
            Event::IkeDown(sa, reason) => {
                self.happened(now, sa, None, EventKind::Down, Some(kebab(reason)), peer(sa));
            }
            Event::IkeRekeyed { new, .. } => {
                let spis = format!("{}_i {}_r", new.initiator_spi, new.responder_spi);
                self.happened(now, new, None, EventKind::Rekeyed, None, spis);
            }
            Event::IkeMoved { .. } | Event::Progress { .. } | Event::RequestDone { .. } => {}
        }
    }

    /// A negotiation ended.
    pub(super) fn record(&mut self, record: &NegotiationRecord) {
        let Some(connection) = record.connection.as_ref().filter(|_| !record.is_success()) else { return };
        let happening = Happening {
            kind: EventKind::Failed,
            child: record.child.clone(),
            code: Some(record.code.name().to_owned()),
            times: 1,
            detail: record.message.chars().take(MOST_DETAIL).collect(),
            ..Happening::default()
        };
        self.tell(record.at, connection, happening);
    }

    /// A Child SA has other addresses.
    pub(super) fn moved(&mut self, now: Instant, handle: ChildHandle, ways: std::fmt::Arguments<'_>) {
        let Some(name) = self.names.get(&handle).cloned() else { return };
        let child = Some(name.child);
        let happening = Happening {
            kind: EventKind::Moved,
            child,
            times: 1,
            detail: ways.to_string(),
            ..Happening::default()
        };
        self.tell(now, &name.connection, happening);
    }

    /// A Child SA has left the data plane.
    pub(super) fn removed(&mut self, handle: ChildHandle, facts: &ChildFacts) {
        let Some(name) = self.names.remove(&handle) else { return };
        let past = self.child(&name);
        past.traffic.add(&traffic(&facts.counters));
        add_drops(&mut past.drops, &drops(&facts.counters));
    }

    fn child(&mut self, name: &ChildName) -> &mut Past {
        self.children.entry(name.clone()).or_default()
    }

    fn happened(
        &mut self,
        now: Instant,
        sa: &IkeSaView,
        child: Option<&ChildSaView>,
        kind: EventKind,
        code: Option<String>,
        detail: String,
    ) {
        let child = child.map(|child| child.name.clone());
        self.tell(
            now,
            &sa.connection,
            Happening { at: Moment::default(), kind, child, code, times: 1, detail },
        );
    }

    fn tell(&mut self, now: Instant, connection: &str, happening: Happening) {
        let most = (MOST_EVENTS_IN_ALL / self.connections.len().max(1)).clamp(LEAST_EVENTS, MOST_EVENTS);
        let lately = self.connections.entry(connection.to_owned()).or_default();
        if let Some((at, last)) = lately.events.back_mut()
            && happening.kind == EventKind::Failed
            && (last.kind, &last.child, &last.code) == (EventKind::Failed, &happening.child, &happening.code)
        {
            (*at, last.times, last.detail) = (now, last.times + 1, happening.detail);
            return;
        }
        while lately.events.len() >= most {
            lately.events.pop_front();
        }
        lately.events.push_back((now, happening));
    }
}

impl Daemon {
    /// Answers with the last snapshot, or a new one if that is too old.
    pub(super) fn show(&mut self, now: Instant, ask: Ask) {
        // Whoever asked may have gone.
        let _ = ask.send(self.snapshot(now));
    }

    fn snapshot(&mut self, now: Instant) -> Arc<Snapshot> {
        if let Some((at, last)) = &self.observer.last
            && now.saturating_duration_since(*at) < FRESH.max(last.cost * MOST_OF_THE_LOOP)
        {
            return Arc::clone(last);
        }
        let snapshot = Arc::new(self.look(now));
        self.observer.last = Some((now, Arc::clone(&snapshot)));
        snapshot
    }

    /// Everything that there is to see.
    pub(super) fn look(&mut self, now: Instant) -> Snapshot {
        let begun = Instant::now();
        self.observer.clock.check(now);
        if std::mem::take(&mut self.observer.outdated) {
            self.observer.forget(&self.connections);
        }
        let clock = self.observer.clock;
        let mut sas: HashMap<String, Vec<IkeSaView>> = HashMap::new();
        let mut half_open = 0;
        for sa in self.gateway.ike_sas() {
            half_open += usize::from(sa.state == IkeSaState::Connecting && !sa.initiator);
            // Nobody knows yet whose it is.
            if !sa.connection.is_empty() {
                sas.entry(sa.connection.clone()).or_default().push(sa);
            }
        }
        let mut connections: Vec<snapshot::Connection> = self
            .connections
            .iter()
            .map(|one| self.configured_connection(one, sas.remove(&one.name)))
            .collect();
        connections.sort_by(|a, b| a.name.cmp(&b.name));
        let mut others: Vec<_> = sas.into_iter().collect();
        others.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (name, sas) in others {
            let mut connection = snapshot::Connection { name, ..snapshot::Connection::default() };
            self.put_sas(&mut connection, sas);
            self.put_past(&mut connection);
            connections.push(connection);
        }
        let shunts = self.shunts.iter().map(|shunt| Shunt {
            name: format!("{}/{}", shunt.connection, shunt.name),
            mode: match shunt.action {
                adit_esp::Action::Bypass => "pass",
                adit_esp::Action::Protect | adit_esp::Action::Discard => "drop",
            },
            local_ts: texts(&shunt.local_ts),
            remote_ts: texts(&shunt.remote_ts),
        });
        let mut snapshot = Snapshot {
            version: env!("CARGO_PKG_VERSION"),
            now: clock.moment(now),
            started: clock.moment(self.started),
            configured: self.configured,
            stopping: self.stopping.is_some(),
            connections,
            shunts: shunts.collect(),
            interfaces: self.tunnel_interfaces(),
            ike: self.machine(half_open),
            data_plane: self.plane(),
            control: self.clients(),
            ..Snapshot::default()
        };
        snapshot.sum_up();
        snapshot.cost = begun.elapsed();
        snapshot
    }

    fn configured_connection(
        &self,
        connection: &Connection,
        sas: Option<Vec<IkeSaView>>,
    ) -> snapshot::Connection {
        let hosts = self.hosts.get(&connection.name);
        let interface = self.interfaces.get(&connection.name).map(|spec| spec.name.as_str());
        let told = report::connection(connection, hosts, interface);
        let list = |key: &str| told.list(key).map(std::borrow::Cow::into_owned).collect();
        let side = |key: &str| {
            told.section(key)
                .and_then(|side| side.text("id"))
                .map(std::borrow::Cow::into_owned)
                .unwrap_or_default()
        };
        let unknown = |name: &str| self.names.addresses(name).is_empty();
        let nowhere = hosts.is_some_and(|hosts| hosts.names().any(unknown));
        let children = connection.children.iter().map(|child| {
            let name = ChildName::new(&connection.name, &child.name);
            let wanted = self.reconciler.wanted(&name);
            let told = told.section("children").and_then(|all| all.section(&child.name));
            let list = |key: &str| {
                told.into_iter().flat_map(|told| told.list(key)).map(std::borrow::Cow::into_owned).collect()
            };
            Child {
                name: child.name.clone(),
                configured: true,
                start: child.start,
                wanted: wanted.up,
                reason: Some(if nowhere && wanted.up { "name-unresolved" } else { wanted.state }.to_owned()),
                next_attempt: wanted.next.map(|at| self.observer.clock.moment(at)),
                failures: wanted.failures,
                local_ts: list("local-ts"),
                remote_ts: list("remote-ts"),
                ..Child::default()
            }
        });
        let mut shown = snapshot::Connection {
            name: connection.name.clone(),
            configured: true,
            interface: interface.map(Into::into),
            local_addrs: list("local_addrs"),
            remote_addrs: list("remote_addrs"),
            local_id: side("local-1"),
            remote_id: side("remote-1"),
            children: children.collect(),
            ..snapshot::Connection::default()
        };
        self.put_sas(&mut shown, sas.unwrap_or_default());
        self.put_past(&mut shown);
        shown
    }

    fn put_sas(&self, connection: &mut snapshot::Connection, sas: Vec<IkeSaView>) {
        let clock = self.observer.clock;
        for sa in sas {
            for view in &sa.children {
                let facts = self.child_facts(view.handle);
                let shown = child_sa(clock, sa.handle.0, view, &facts.counters);
                let known = connection.children.iter().position(|child| child.name == view.name);
                let at = known.unwrap_or_else(|| {
                    let child = Child { name: view.name.clone(), ..Child::default() };
                    connection.children.push(child);
                    connection.children.len() - 1
                });
                let Some(child) = connection.children.get_mut(at) else { continue };
                child.up |= matches!(view.state, ChildSaState::Installed | ChildSaState::Rekeying);
                child.traffic.add(&shown.traffic);
                add_drops(&mut child.drops, &shown.drops);
                child.sas.push(shown);
            }
            connection.ike_sas.push(ike_sa(clock, &sa));
        }
    }

    /// What is remembered: to be called when the SAs are there.
    fn put_past(&self, connection: &mut snapshot::Connection) {
        let clock = self.observer.clock;
        for child in &mut connection.children {
            let past = self.observer.children.get(&ChildName::new(&connection.name, &child.name));
            if let Some(past) = past {
                child.traffic.add(&past.traffic);
                add_drops(&mut child.drops, &past.drops);
                (child.rekeys, child.ups) = (past.rekeys, past.ups);
                child.since = past.since.map(|at| clock.moment(at));
            }
            // What happened last says why it is not up, unless an operator took it down.
            let went_down = past.and_then(|past| past.since.zip(past.reason.as_ref()));
            let mut failures = self.negotiations.open_of_child(&connection.name, &child.name);
            let failed = failures.find(|entry| {
                entry.is_failure() && went_down.is_none_or(|(down, _)| down <= entry.record.at)
            });
            let failed = failed.map(|entry| self.negotiations.informed(&entry.record).code.name().to_owned());
            let why = failed.or_else(|| went_down.map(|(_, reason)| reason.clone()));
            if child.up {
                child.reason = None;
            } else if why.is_some() && child.reason.as_deref() != Some("taken-down") {
                child.reason = why;
            }
        }
        let failure = self.negotiations.open(&connection.name).find(|entry| entry.is_failure());
        connection.last_failure = failure.map(|entry| self.failure(&entry.record));
        if let Some(lately) = self.observer.connections.get(&connection.name) {
            let at =
                |(at, event): &(Instant, Happening)| Happening { at: clock.moment(*at), ..event.clone() };
            connection.events = lately.events.iter().map(at).collect();
        }
    }

    /// As `explain` and `list-negotiations` tell it.
    fn failure(&self, record: &NegotiationRecord) -> Failure {
        let record = self.negotiations.informed(record);
        Failure {
            at: self.observer.clock.moment(record.at),
            code: record.code.name(),
            stage: record.stage.name(),
            blame: kebab(&record.blame),
            child: record.child.clone(),
            remote: record.remote.to_string(),
            initiator: record.initiator,
            message: record.cause(),
            step: record.step(),
        }
    }

    fn tunnel_interfaces(&self) -> Vec<Interface> {
        let mut interfaces: Vec<Interface> = self
            .section
            .iter()
            .map(|section| Interface { name: section.tun.clone(), connections: Vec::new() })
            .collect();
        for (connection, spec) in &self.interfaces {
            match interfaces.iter_mut().find(|interface| interface.name == spec.name) {
                Some(interface) => interface.connections.push(connection.clone()),
                None => {
                    interfaces
                        .push(Interface { name: spec.name.clone(), connections: vec![connection.clone()] });
                }
            }
        }
        interfaces
    }

    fn machine(&self, half_open: usize) -> snapshot::Ike {
        let (counters, statistics) = (self.gateway.counters(), self.gateway.statistics());
        let failures = statistics.failures().map(|(at, code, count)| Failures {
            stage: at.name(),
            code: code.name(),
            count,
        });
        snapshot::Ike {
            half_open,
            received: counters.received,
            ignored: counters.ignored,
            not_authentic: counters.not_authentic,
            repeated_requests: counters.repeated_requests,
            retransmissions: counters.retransmissions,
            cookies_demanded: counters.cookies_demanded,
            half_open_refused: counters.half_open_refused,
            negotiations_succeeded: counters.negotiations_succeeded,
            negotiation_failures: failures.collect(),
            records_suppressed: counters.records_suppressed,
            handshakes_begun_by_us: Latency::from(&statistics.handshakes_begun_by_us),
            handshakes_begun_by_peers: Latency::from(&statistics.handshakes_begun_by_peers),
            child_rekeys: Latency::from(&statistics.child_rekeys),
            ike_rekeys: Latency::from(&statistics.ike_rekeys),
            inbox_octets: self.inbox.0.queued.load(Ordering::Relaxed),
            inbox_dropped: self.inbox.0.dropped.load(Ordering::Relaxed),
            commands_pending: self.pending.len(),
        }
    }

    fn plane(&self) -> DataPlane {
        let stats = self.backend.stats();
        let drops = stats.drops.iter().map(|(cause, count)| Count { cause: cause.as_str(), count: *count });
        DataPlane {
            workers: self.section.as_ref().map_or(0, |section| section.workers),
            drops: drops.collect(),
            ike_received: stats.ike_received,
            keepalives_received: stats.keepalives_received,
            frames_received: stats.frames_received,
            frames_sent: stats.frames_sent,
            fenced_in: stats.fenced_in,
            fenced_out: stats.fenced_out,
        }
    }

    fn clients(&self) -> Control {
        let clients = self.hub.counters();
        Control {
            connected: clients.connected,
            accepted: clients.accepted,
            refused: clients.refused,
            stuck: clients.stuck,
        }
    }
}

fn ike_sa(clock: Clock, sa: &IkeSaView) -> IkeSa {
    let identity = |id: &Option<_>| id.as_ref().map_or_else(|| "%any".to_owned(), ToString::to_string);
    let moment = |at: Option<Instant>| at.map(|at| clock.moment(at));
    let suite = sa.transforms.map(|transforms| {
        let mut suite = encryption(transforms.encr, transforms.key_bits, transforms.integ);
        suite.push(transforms.prf.to_string());
        suite.extend(methods(Some(transforms.ke), &sa.additional_kes));
        suite.join("/")
    });
    let suite = suite.unwrap_or_default();
    IkeSa {
        id: sa.handle.0,
        state: sa.state.to_string(),
        initiator: sa.initiator,
        local: sa.local.to_string(),
        remote: sa.remote.to_string(),
        local_id: identity(&sa.local_id),
        remote_id: identity(&sa.remote_id),
        nat_local: sa.nat_local,
        nat_remote: sa.nat_remote,
        post_quantum: sa.ppk || suite.contains("ML_KEM"),
        suite,
        mobike: sa.mobike,
        established: moment(sa.established),
        rekey_at: moment(sa.rekey_at),
        reauth_at: moment(sa.reauth_at),
    }
}

fn child_sa(clock: Clock, ike_sa: u64, view: &ChildSaView, counters: &ChildCounters) -> ChildSa {
    let moment = |at: Option<Instant>| at.map(|at| clock.moment(at));
    let mut suite = encryption(view.transforms.encr, view.transforms.key_bits, view.transforms.integ);
    suite.extend(methods(view.ke, &view.additional_kes));
    if view.transforms.esn {
        suite.push("EXT_SEQ".to_owned());
    }
    ChildSa {
        id: view.handle.0,
        ike_sa,
        state: view.state.to_string(),
        mode: match view.mode {
            Mode::Tunnel => "tunnel",
            Mode::Transport => "transport",
            Mode::Iptfs { .. } => "iptfs",
        }
        .to_owned(),
        worker: view.resource,
        spi_in: view.inbound_spi.to_string(),
        spi_out: view.outbound_spi.to_string(),
        suite: suite.join("/"),
        udp_encapsulation: view.encap,
        local_ts: texts(&view.local_ts),
        remote_ts: texts(&view.remote_ts),
        traffic: traffic(counters),
        drops: drops(counters),
        heard: moment(counters.heard),
        last_in: moment(counters.last_in),
        last_out: moment(counters.last_out),
        installed: clock.moment(view.installed),
        rekey_at: moment(view.rekey_at),
        expires_at: moment(view.expires_at),
    }
}

fn encryption(encr: EncrId, key_bits: Option<u16>, integ: Option<IntegId>) -> Vec<String> {
    let name = key_bits.map_or_else(|| encr.to_string(), |bits| format!("{encr}_{bits}"));
    let integ = integ.filter(|integ| !is_aead(encr) && *integ != IntegId::NONE);
    [Some(name), integ.map(|integ| integ.to_string())].into_iter().flatten().collect()
}

fn methods(first: Option<KeId>, more: &[KeId]) -> impl Iterator<Item = String> {
    first.into_iter().chain(more.iter().copied()).map(|method| method.to_string())
}

fn traffic(counters: &ChildCounters) -> Traffic {
    Traffic {
        packets_in: counters.packets_in,
        bytes_in: counters.bytes_in,
        packets_out: counters.packets_out,
        bytes_out: counters.bytes_out,
    }
}

fn drops(counters: &ChildCounters) -> Vec<Count> {
    let occurred = counters.drops.iter().filter(|(_, count)| *count > 0);
    occurred.map(|(cause, count)| Count { cause: cause.as_str(), count: *count }).collect()
}

fn add_drops(into: &mut Vec<Count>, more: &[Count]) {
    for Count { cause, count } in more {
        match into.iter_mut().find(|known| known.cause == *cause) {
            Some(known) => known.count += count,
            None => into.push(Count { cause, count: *count }),
        }
    }
}

fn texts(items: &[impl ToString]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn peer(sa: &IkeSaView) -> String {
    let id = sa.remote_id.as_ref().map_or_else(|| "%any".to_owned(), ToString::to_string);
    format!("{id} at {}", sa.remote)
}

/// The way to ask for snapshots, and where the daemon hears it.
pub(super) fn channel() -> (http::Source, mpsc::Receiver<Ask>) {
    // Whoever asks waits for the answer; that only so many do is the service's business.
    let (ask, asked) = mpsc::channel(http::MOST_CLIENTS);
    (http::Source::Daemon(ask), asked)
}
