//! Snapshots: everything that there is to see, put together by the event loop when somebody asks.
//!
//! It owns how a snapshot is made and decides nothing. Nobody waits for whoever looks: a snapshot is made bit by bit,
//! between two bits the loop does everything else, and whoever has it renders it on a thread of its own. A small gateway's
//! is made in one bit, so of one moment; of a large one each IKE SA and each child is told as it is when its turn comes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use adit_crypto::is_aead;
use adit_ike::config::Connection;
use adit_ike::{ChildSaState, ChildSaView, IkeSaHandle, IkeSaView, NegotiationRecord};
use adit_net::ChildCounters;
use adit_wire::esp::Mode;
use adit_wire::ikev2::{EncrId, IntegId, KeId};
use tokio::sync::{mpsc, oneshot};

use super::Daemon;
use super::explain::Sas;
use super::observer::{Clock, add_drops, drops, traffic};
use super::reconciler::ChildName;
use crate::control::report::{self, kebab};
use crate::http::{self, Ask};
use crate::snapshot::{
    self, Child, ChildSa, Control, Count, DataPlane, Explanation, Failure, Failures, IkeSa, Interface,
    Latency, Shunt, Snapshot, Sum,
};

/// How old the snapshot may be that is shown.
const FRESH: Duration = Duration::from_millis(250);

/// While there are so many connections that a snapshot takes long, it is made no oftener than that it costs this part
/// of the loop's time.
const MOST_OF_THE_LOOP: u32 = 10;

/// Who asks, and what they are shown.
pub(super) struct Looks {
    asked: mpsc::Receiver<Ask>,
    /// Those who wait for the snapshot that is being made.
    waiting: Vec<oneshot::Sender<Arc<Snapshot>>>,
    /// When it was begun.
    last: Option<(Instant, Arc<Snapshot>)>,
    /// Is what was seen last no longer so?
    stale: bool,
    making: Option<Look>,
}

/// A snapshot that is being made.
struct Look {
    begun: Instant,
    clock: Clock,
    /// The place in the configuration of the connection whose turn is next.
    at: usize,
    /// With another configuration places are others, and those that are done are skipped by their names.
    skip: Option<HashSet<String>>,
    /// Connections that have outlived the configuration, when it is done.
    strays: Option<std::vec::IntoIter<String>>,
    /// The one whose turn it is.
    part: Option<Part>,
    #[expect(clippy::vec_box, reason = "they go into a snapshot")]
    done: Vec<Box<snapshot::Connection>>,
    sum: Sum,
    /// Connections with IKE SAs among those that are done.
    with_sas: usize,
    /// An earlier snapshot, to be given back bit by bit as well.
    #[expect(clippy::vec_box, reason = "they come from a snapshot")]
    old: Vec<Box<snapshot::Connection>>,
    cost: Duration,
}

/// A connection whose turn it is.
struct Part {
    shown: snapshot::Connection,
    handles: std::vec::IntoIter<IkeSaHandle>,
    sas: Sas,
    /// The children with their SAs, by their names.
    up: HashMap<String, Child>,
    /// Where it probably is in the configuration, and the next of its children there.
    at: usize,
    child: usize,
}

impl Looks {
    pub(super) fn new() -> Self {
        // Until somebody may ask nobody does.
        let (_, asked) = mpsc::channel(1);
        Self { asked, waiting: Vec::new(), last: None, stale: false, making: None }
    }

    /// Where snapshots are asked for from now on.
    pub(super) fn listen(&mut self, asked: mpsc::Receiver<Ask>) {
        self.asked = asked;
    }

    /// The configuration is another one: so is the next snapshot.
    pub(super) fn configured(&mut self) {
        self.stale = true;
        if let Some(look) = &mut self.making {
            let done = || look.done.iter().map(|one| one.name.clone()).collect();
            look.skip.get_or_insert_with(done);
            look.at = 0;
        }
    }

    /// The last snapshot, if it is not too old.
    fn fresh(&self, now: Instant) -> Option<&Arc<Snapshot>> {
        let (at, last) = self.last.as_ref().filter(|_| !self.stale)?;
        let enough = FRESH.max(last.cost * MOST_OF_THE_LOOP);
        (now.saturating_duration_since(*at) < enough).then_some(last)
    }

    /// Somebody asks.
    pub(super) async fn asked(&mut self) -> Ask {
        match self.asked.recv().await {
            Some(ask) => ask,
            None => std::future::pending().await,
        }
    }

    /// Is a snapshot being made?
    pub(super) fn are_made(&self) -> bool {
        self.making.is_some()
    }
}

impl Daemon {
    /// Answers at once if the last snapshot is not too old, else as soon as there is a new one.
    pub(super) fn show(&mut self, now: Instant, ask: Ask) {
        match ask {
            // Whoever asked may have gone.
            Ask::Pulse(answer) => {
                let _ = answer.send(());
            }
            Ask::Snapshot(answer) => {
                if let Some(last) = self.looks.fresh(now) {
                    let _ = answer.send(Arc::clone(last));
                    return;
                }
                self.looks.waiting.retain(|other| !other.is_closed());
                self.looks.waiting.push(answer);
                if self.looks.making.is_none() {
                    self.count(now);
                }
            }
        }
    }

    /// What the kernel has counted is known: whoever waits for a snapshot gets one.
    pub(super) fn look_now(&mut self, now: Instant) {
        if self.looks.making.is_none() && !self.looks.waiting.is_empty() {
            self.looks.making = Some(self.begin_look(now));
            self.look_on(now);
        }
    }

    fn begin_look(&mut self, now: Instant) -> Look {
        self.looks.stale = false;
        let old = self.looks.last.take().and_then(|(_, last)| Arc::into_inner(last));
        Look {
            begun: now,
            clock: self.observer.clock(now),
            at: 0,
            skip: None,
            strays: None,
            part: None,
            done: Vec::new(),
            sum: Sum::default(),
            with_sas: 0,
            old: old.map(|old| old.connections).unwrap_or_default(),
            cost: Duration::ZERO,
        }
    }

    /// Makes a bit of a snapshot.
    pub(super) fn look_on(&mut self, now: Instant) {
        let Some(mut look) = self.looks.making.take() else { return };
        let begun = Instant::now();
        let mut more = true;
        while more && begun.elapsed() < self.bit {
            more = self.look_at_one(now, &mut look);
        }
        look.cost += begun.elapsed();
        if more {
            self.looks.making = Some(look);
            return;
        }
        let begun = look.begun;
        let snapshot = Arc::new(self.looked(look));
        for waiting in self.looks.waiting.drain(..) {
            let _ = waiting.send(Arc::clone(&snapshot));
        }
        self.looks.last = Some((begun, snapshot));
    }

    /// Looks at one thing more; `false` if there is none.
    fn look_at_one(&mut self, now: Instant, look: &mut Look) -> bool {
        look.old.truncate(look.old.len().saturating_sub(2));
        let (reconciler, gateway) = (&self.reconciler, &self.gateway);
        let is_connection = |name: &str| reconciler.knows_any(name) || !gateway.handles_of(name).is_empty();
        if self.observer.forget_on(|name| reconciler.knows(name), is_connection) || self.learn_overlaps() {
            return true;
        }
        match look.part.take() {
            None => self.next_part(look),
            Some(mut part) => {
                if let Some(handle) = part.handles.next() {
                    self.look_at_sa(now, look.clock, &mut part, handle);
                    look.part = Some(part);
                } else if self.look_at_child(now, look.clock, &mut part) {
                    look.part = Some(part);
                } else {
                    self.end_part(look, part.shown);
                }
                true
            }
        }
    }

    /// Whose turn is next; `false` if that is nobody.
    fn next_part(&self, look: &mut Look) -> bool {
        let name = match &mut look.strays {
            Some(strays) => strays.next(),
            None => {
                let next = self.connections.get(look.at).map(|connection| connection.name.clone());
                look.at += 1;
                if next.is_none() {
                    let more = self.gateway.connections_with_sas().len() > look.with_sas;
                    look.strays = Some(if more { self.strays() } else { Vec::new() }.into_iter());
                    return true;
                }
                next
            }
        };
        let Some(name) = name else { return !look.old.is_empty() };
        if look.skip.as_ref().is_none_or(|done| !done.contains(&name)) {
            let part = self.begin_part(name, look.at.saturating_sub(1));
            look.with_sas += usize::from(part.handles.len() > 0);
            look.part = Some(part);
        }
        true
    }

    fn end_part(&self, look: &mut Look, mut shown: snapshot::Connection) {
        if let Some(done) = &mut look.skip {
            done.insert(shown.name.clone());
        }
        // It has gone meanwhile.
        if !shown.configured && shown.ike_sas.is_empty() {
            return;
        }
        shown.events = self.observer.happenings(&shown.name);
        let failure = self.negotiations.open(&shown.name).find(|entry| entry.is_failure());
        shown.last_failure = failure.map(|entry| self.failure(look.clock, &entry.record));
        look.sum.add(&shown);
        look.done.push(Box::new(shown));
    }

    /// Connections that are not configured and have IKE SAs still, by name.
    fn strays(&self) -> Vec<String> {
        let configured: HashSet<&str> = self.connections.iter().map(|one| one.name.as_str()).collect();
        let others = self.gateway.connections_with_sas().filter(|name| !configured.contains(name));
        let mut strays: Vec<String> = others.map(str::to_owned).collect();
        strays.sort_unstable();
        strays
    }

    /// A connection by its name, and where it is.
    fn configured_at(&self, at: &mut usize, name: &str) -> Option<&Connection> {
        if self.connections.get(*at).is_none_or(|there| there.name != name) {
            *at = self.connections.iter().position(|one| one.name == name)?;
        }
        self.connections.get(*at)
    }

    fn begin_part(&self, name: String, mut at: usize) -> Part {
        let handles = self.gateway.handles_of(&name).into_iter();
        let shown = match self.configured_at(&mut at, &name) {
            Some(connection) => {
                let (local_addrs, remote_addrs) = report::addresses(connection, self.hosts.get(&name));
                let (local_id, remote_id) = report::identities(connection);
                snapshot::Connection {
                    configured: true,
                    interface: self.interfaces.get(&name).map(|spec| spec.name.clone()),
                    local_addrs,
                    remote_addrs,
                    local_id,
                    remote_id,
                    children: Vec::with_capacity(connection.children.len()),
                    name,
                    ..snapshot::Connection::default()
                }
            }
            None => snapshot::Connection { name, ..snapshot::Connection::default() },
        };
        Part { shown, handles, sas: Sas::default(), up: HashMap::new(), at, child: 0 }
    }

    fn look_at_sa(&mut self, now: Instant, clock: Clock, part: &mut Part, handle: IkeSaHandle) {
        let Some(sa) = self.gateway.ike_sa(handle) else { return };
        let health = self.health_on(now, &sa);
        part.sas.add(&sa, health);
        for view in &sa.children {
            let facts = self.child_facts(view.handle);
            let shown = child_sa(clock, sa.handle.0, view, &facts.counters);
            let new = || Child { name: view.name.clone(), ..Child::default() };
            let child = part.up.entry(view.name.clone()).or_insert_with(new);
            child.up |= matches!(view.state, ChildSaState::Installed | ChildSaState::Rekeying);
            child.traffic.add(&shown.traffic);
            add_drops(&mut child.drops, &shown.drops);
            child.sas.push(shown);
        }
        part.shown.ike_sas.push(ike_sa(clock, &sa));
    }

    /// Looks at one child more, the configured ones first; `false` if there is none.
    fn look_at_child(&self, now: Instant, clock: Clock, part: &mut Part) -> bool {
        let Part { shown, sas, up, at, child: next, .. } = part;
        let connection = if shown.configured { self.configured_at(at, &shown.name) } else { None };
        let mut child = match connection.and_then(|one| Some((one, one.children.get(*next)?))) {
            Some((connection, configured)) => {
                let name = ChildName::new(&connection.name, &configured.name);
                let wanted = self.reconciler.wanted(&name);
                Child {
                    name: name.child,
                    configured: true,
                    start: configured.start,
                    wanted: wanted.up,
                    next_attempt: wanted.next.map(|at| clock.moment(at)),
                    failures: wanted.failures,
                    local_ts: report::selectors(&configured.local_ts),
                    remote_ts: report::selectors(&configured.remote_ts),
                    explained: self.explain_child(now, connection, configured, sas),
                    ..up.remove(&configured.name).unwrap_or_default()
                }
            }
            None => {
                let Some(name) = up.keys().min().cloned() else { return false };
                let gone = up.remove(&name).unwrap_or_default();
                Child { explained: Explanation::not_configured(gone.up), ..gone }
            }
        };
        *next += 1;
        child.health = sas.health(&child.name).map(super::health::ChildHealth::shown);
        child.reason = (!child.up).then_some(child.explained.code);
        self.observer.put_past(&shown.name, &mut child);
        shown.children.push(child);
        true
    }

    /// Everything, once all connections have been looked at.
    fn looked(&self, look: Look) -> Snapshot {
        let Look { begun, clock, done, sum, cost, .. } = look;
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
            now: clock.moment(begun),
            started: clock.moment(self.started),
            configured: self.configured,
            stopping: self.stopping.is_some(),
            connections: done,
            shunts: shunts.collect(),
            interfaces: self.tunnel_interfaces(),
            ike: self.machine(),
            data_plane: self.plane(),
            control: self.clients(),
            cost,
            ..Snapshot::default()
        };
        snapshot.take(sum);
        snapshot
    }

    /// As `explain` and `list-negotiations` tell it.
    fn failure(&self, clock: Clock, record: &NegotiationRecord) -> Failure {
        let record = self.negotiations.informed(record);
        Failure {
            at: clock.moment(record.at),
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

    fn machine(&self) -> snapshot::Ike {
        let (counters, statistics) = (self.gateway.counters(), self.gateway.statistics());
        let failures = statistics.failures().map(|(at, code, count)| Failures {
            stage: at.name(),
            code: code.name(),
            count,
        });
        snapshot::Ike {
            half_open: self.gateway.half_open(),
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
        let stats = &self.counts.last;
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

fn texts(items: &[impl ToString]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

/// The way to ask for snapshots, and where the daemon hears it.
pub(super) fn channel() -> (http::Source, mpsc::Receiver<Ask>) {
    // Whoever asks waits for the answer; that only so many do is the service's business.
    let (ask, asked) = mpsc::channel(http::MOST_CLIENTS);
    (http::Source::Daemon(ask), asked)
}
