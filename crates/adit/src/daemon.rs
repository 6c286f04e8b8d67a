//! The daemon: one event loop around the IKE machine, the data plane and the control interface.
//!
//! It owns the composition and the process: start, signals, shutdown. It never parses a packet and decides nothing that
//! IKE or ESP has a rule for. Everything here runs on one thread; nothing in the loop blocks, except the data plane's
//! acknowledgement that a Child SA is in place.

mod apply;
mod capture;
mod commands;
mod configuration;
mod counts;
mod credentials;
mod deeds;
mod echo;
mod events;
mod explain;
pub(crate) mod fuzzing;
mod health;
mod idle;
mod interfaces;
mod listings;
pub mod logging;
mod look;
mod names;
mod negotiations;
mod observer;
mod overlaps;
mod paths;
mod policies;
mod pushed;
mod reconciler;
mod reload;
mod supervisor;
#[cfg(test)]
mod tests;
mod trials;
mod turns;
mod verdicts;
mod wire;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use adit_crypto::SystemEntropy;
use adit_esp::SaParameters;
use adit_esp::tunnel::Tfc;
use adit_ike::config::{AddressSpec, Connection, Settings};
use adit_ike::{
    ChildHandle, CommandError, Gateway, IkeSaView, InstallChild, Output, RequestId, Target, TerminateTarget,
    Transmit,
};
use adit_net::{Backend, ChildId, ChildSaInstall, NetConfig, NetEvent, PolicyId, Stats, UdpEncap, Userspace};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use self::apply::{Load, Unconfirmed};
pub(crate) use self::capture::COUNTS as CAPTURE_COUNTS;
use self::counts::Counts;
use self::events::Again;
use self::health::Forwarding;
use self::idle::Idle;
use self::listings::Listings;
use self::logging::LogLimit;
use self::look::Looks;
use self::names::{Answer, Names, Resolver, SystemResolver};
use self::negotiations::Negotiations;
use self::observer::Observer;
use self::overlaps::Overlaps;
use self::paths::Paths;
use self::policies::Policies;
use self::pushed::Pushed;
use self::reconciler::{ChildName, Reconciler};
use self::reload::Loader;
use self::supervisor::Supervisor;
use self::trials::Trials;
use self::verdicts::Verdicts;
use self::wire::{SystemWire, Wire};
use crate::config::{ControlUri, GatewaySettings, Hosts, Interfaces, Parts, Shunt, Treatments};
use crate::control::report::ChildFacts;
use crate::control::server::{ClaimError, Hub, Listener, Reply, Request, Server};
use crate::http::{self, Service};
use crate::key_log::KeyLog;

/// At most this many octets of IKE messages wait for the event loop; what comes beyond is dropped and counted.
const INBOX_OCTETS: usize = 4 * 1024 * 1024;

/// How long a stopping daemon waits for the answers to its deletes.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// Changes of addresses, links and routes come in bursts: all of them are looked at once, so long after the first.
const PATHS_SETTLE: Duration = Duration::from_millis(200);

/// What the daemon is started with.
#[derive(Debug)]
pub struct Setup {
    /// Where the control interface listens.
    pub control: ControlUri,
    /// Settings of the IKE machine.
    pub settings: Settings,
    /// Settings of the data plane.
    pub net: NetConfig,
    /// Directory of the debug key log.
    pub key_log: Option<PathBuf>,
    /// The file of the configuration, to be read again.
    pub file: PathBuf,
    /// It need not be there: then there is nothing in it.
    pub optional: bool,
    /// Its section `gateway`.
    pub section: GatewaySettings,
    /// All else that it says.
    pub parts: Parts,
}

/// Runs the daemon until a signal or a failure ends it.
///
/// # Errors
///
/// [`RunError`]; then no protection is lifted, neither what this daemon put in place nor what one that was killed left
/// behind. Only an orderly end restores the system.
pub fn run(setup: Setup, hub: &Hub) -> Result<(), RunError> {
    // First of all, so that a second daemon changes nothing before it finds out that it is one.
    let listener = Listener::claim(&setup.control)?;
    let uri = listener.uri();
    if matches!(uri, ControlUri::Tcp(_)) {
        tracing::warn!(
            "{uri}: every user of this machine can control the gateway; nobody is authenticated there"
        );
    }
    let key_log = setup.key_log.as_deref().map(open_key_log).transpose()?;
    let (source, asked) = look::channel();
    let watched = setup.section.http.as_ref().map(|address| Service::start(address, source)).transpose()?;
    let inbox = Inbox::default();
    let (events, received) = mpsc::unbounded_channel();
    let deliver = {
        let inbox = inbox.clone();
        Box::new(move |event| inbox.deliver(event, &events))
    };
    let network = Userspace::start(setup.net, deliver)?;
    let wire = Box::new(SystemWire(network.ike_sender()));
    let settings = Settings { key_log: key_log.is_some(), ..setup.settings };
    let gateway = Gateway::new(settings, Box::new(SystemEntropy), Instant::now());
    let (loaded, loads) = mpsc::unbounded_channel();
    let loader = Loader::new(setup.file, setup.optional, loaded);
    let (answers, answered) = mpsc::unbounded_channel();
    let (counts, counted) = mpsc::unbounded_channel();
    let resolver = Box::new(SystemResolver);
    let outside = Outside { backend: Box::new(network), wire, loader, resolver, answers, counts };
    let mut daemon = Daemon::new(gateway, outside, hub.clone(), inbox, key_log);
    daemon.section = Some(setup.section);
    daemon.looks.listen(asked);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        // From here on a signal is an order to stop and not the end: nothing stays half done.
        let signals = Signals::register()?;
        // What is protected is protected before anybody can ask for anything.
        daemon.configure(Instant::now(), setup.parts)?;
        let server = listener.serve(hub)?;
        tracing::info!("adit {} serves {uri}", env!("CARGO_PKG_VERSION"));
        daemon.supervisor.ready();
        daemon.serve(server, received, loads, answered, counted, signals).await
    });
    drop(watched);
    let result = daemon.end(result);
    // A name server that does not answer must not keep the daemon from ending.
    runtime.shutdown_background();
    result
}

fn open_key_log(directory: &Path) -> Result<KeyLog, RunError> {
    let log = KeyLog::open(directory)
        .map_err(|error| RunError::KeyLog { directory: directory.to_owned(), error })?;
    tracing::warn!(
        "EVERY KEY IS WRITTEN IN THE CLEAR to {}: whoever reads that can read all traffic. Remove `key_log` from the configuration's `gateway` section to stop this",
        directory.display()
    );
    Ok(log)
}

/// Why the daemon ended other than by a signal, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The control address cannot be had.
    #[error(transparent)]
    Control(#[from] ClaimError),
    /// The configuration cannot be put in force.
    #[error("{0}")]
    Configuration(String),
    /// The address of the HTTP service cannot be had.
    #[error(transparent)]
    Http(#[from] http::ClaimError),
    /// The operating system refused what the data plane needs.
    #[error(transparent)]
    Network(#[from] adit_net::Error),
    /// The key log cannot be written.
    #[error("key log {}: {error}", directory.display())]
    KeyLog {
        /// Its directory.
        directory: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// The data plane failed while it ran.
    #[error("the data plane failed: {0}")]
    DataPlane(String),
    /// The event loop could not be set up.
    #[error("event loop: {0}")]
    Runtime(#[from] io::Error),
}

/// The signals that are orders. What arrives between registration and the loop waits for the loop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn register() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// What arrives from the data plane's threads and waits for the loop: bounded by its size.
#[derive(Clone, Debug, Default)]
struct Inbox(Arc<InboxState>);

#[derive(Debug, Default)]
struct InboxState {
    queued: AtomicUsize,
    dropped: AtomicU64,
}

impl Inbox {
    /// Called from the threads that move packets.
    fn deliver(&self, event: NetEvent, queue: &mpsc::UnboundedSender<NetEvent>) {
        let cost = Self::cost(&event);
        if self.0.queued.fetch_add(cost, Ordering::Relaxed) + cost > INBOX_OCTETS {
            self.0.queued.fetch_sub(cost, Ordering::Relaxed);
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // Nobody takes it once the daemon is stopping.
        let _ = queue.send(event);
    }

    fn taken(&self, event: &NetEvent) {
        self.0.queued.fetch_sub(Self::cost(event), Ordering::Relaxed);
    }

    /// Octets of memory, roughly. What is not an IKE message is rare and never dropped.
    fn cost(event: &NetEvent) -> usize {
        match event {
            NetEvent::Ike { datagram, .. } => datagram.len() + 128,
            _ => 0,
        }
    }
}

/// What the daemon does things with.
struct Outside {
    backend: Box<dyn Backend>,
    wire: Box<dyn Wire>,
    loader: Loader,
    resolver: Box<dyn Resolver>,
    /// Where the resolver's answers go.
    answers: mpsc::UnboundedSender<Answer>,
    /// Where what the kernel has counted goes.
    counts: mpsc::UnboundedSender<Stats>,
}

struct Daemon {
    gateway: Gateway,
    backend: Box<dyn Backend>,
    wire: Box<dyn Wire>,
    hub: Hub,
    inbox: Inbox,
    key_log: Option<KeyLog>,
    /// Has there been a configuration that the system took?
    configured: bool,
    /// What the file says.
    file: Parts,
    /// What clients have loaded beside it.
    pushed: Pushed,
    /// All that are in force, as they are written: where there are host names, without addresses.
    connections: Vec<Connection>,
    hosts: HashMap<String, Hosts>,
    shunts: Vec<Shunt>,
    treatments: Treatments,
    interfaces: Interfaces,
    names: Names,
    resolver: Box<dyn Resolver>,
    answers: mpsc::UnboundedSender<Answer>,
    /// What is to be brought up once its host names are known.
    deferred: Vec<Deferred>,
    policies: Policies,
    /// The policy of every Child SA in the data plane.
    installed: HashMap<ChildHandle, PolicyId>,
    /// What Child SAs carried that have left the data plane and are about to be reported as down.
    departed: HashMap<ChildHandle, ChildFacts>,
    reconciler: Reconciler,
    idle: Idle,
    observer: Observer,
    looks: Looks,
    overlaps: Overlaps,
    counts: Counts,
    verdicts: Verdicts,
    forwarding: Forwarding,
    paths: Paths,
    trials: Trials,
    negotiations: Negotiations,
    /// Commands whose end the gateway will report.
    pending: HashMap<RequestId, Pending>,
    next_request: u64,
    /// Lists that clients are being told.
    listings: Listings,
    /// How long one bit of them, or of a snapshot, may take.
    bit: Duration,
    limit: LogLimit,
    activity_reported: Instant,
    /// When to look for the ways to the peers again, because something changed.
    paths_due: Option<Instant>,
    /// When to try again to put back an interface that someone deleted.
    interfaces_due: Option<Instant>,
    loader: Loader,
    /// What to go back to, while nobody has confirmed what was applied.
    unconfirmed: Option<Unconfirmed>,
    supervisor: Supervisor,
    /// The section `gateway` that the daemon was started with.
    section: Option<GatewaySettings>,
    started: Instant,
    started_at: SystemTime,
    stopping: Option<Stopping>,
}

/// An `initiate` that waits for the host names of a connection.
struct Deferred {
    of: String,
    connection: Option<String>,
    child: Option<String>,
    request: RequestId,
}

/// A command under way.
struct Pending {
    reply: Reply,
    /// Least important `control-log` line its client wants: -1 is none.
    log_level: i32,
    deadline: Option<Instant>,
    /// SAs a `terminate` or `rekey` found.
    matches: Option<usize>,
    terminates: bool,
}

/// The daemon is on its way down.
struct Stopping {
    deadline: Instant,
    failure: Option<String>,
}

impl Daemon {
    fn new(gateway: Gateway, outside: Outside, hub: Hub, inbox: Inbox, key_log: Option<KeyLog>) -> Self {
        let Outside { backend, wire, loader, resolver, answers, counts } = outside;
        let now = Instant::now();
        Self {
            gateway,
            backend,
            wire,
            hub,
            inbox,
            key_log,
            configured: false,
            file: Parts::default(),
            pushed: Pushed::default(),
            connections: Vec::new(),
            hosts: HashMap::new(),
            shunts: Vec::new(),
            treatments: Treatments::new(),
            interfaces: Interfaces::new(),
            names: Names::default(),
            resolver,
            answers,
            deferred: Vec::new(),
            policies: Policies::default(),
            installed: HashMap::new(),
            departed: HashMap::new(),
            reconciler: Reconciler::new(Box::new(SystemEntropy)),
            idle: Idle::default(),
            observer: Observer::new(now, SystemTime::now()),
            looks: Looks::new(),
            overlaps: Overlaps::default(),
            counts: Counts::new(counts),
            verdicts: Verdicts::default(),
            forwarding: Forwarding::default(),
            paths: Paths::default(),
            trials: Trials::default(),
            negotiations: Negotiations::default(),
            pending: HashMap::new(),
            next_request: 0,
            listings: Listings::default(),
            bit: turns::BIT,
            limit: LogLimit::default(),
            activity_reported: now,
            paths_due: None,
            interfaces_due: None,
            loader,
            unconfirmed: None,
            supervisor: Supervisor::new(now),
            section: None,
            started: now,
            started_at: SystemTime::now(),
            stopping: None,
        }
    }

    /// The event loop.
    async fn serve(
        &mut self,
        mut server: Server,
        mut events: mpsc::UnboundedReceiver<NetEvent>,
        mut loads: mpsc::UnboundedReceiver<Load>,
        mut answers: mpsc::UnboundedReceiver<Answer>,
        mut counted: mpsc::UnboundedReceiver<Stats>,
        mut signals: Signals,
    ) -> Result<(), RunError> {
        loop {
            self.handle_timeout(Instant::now());
            self.drain(Instant::now());
            if let Some(stopping) = &mut self.stopping
                && (stopping.deadline <= Instant::now() || self.gateway.ike_sas().next().is_none())
            {
                let failure = stopping.failure.take();
                // Whoever waits for a command learns that it will not end, and gets a moment to read it.
                self.pending.clear();
                tokio::time::sleep(Duration::from_millis(10)).await;
                return failure.map_or(Ok(()), |reason| Err(RunError::DataPlane(reason)));
            }
            let more = self.take_turns(&mut events, || server.try_request(), Instant::now);
            if more {
                // Else a full inbox would keep the runtime from the sockets of clients.
                tokio::task::yield_now().await;
            }
            let timeout = self.poll_timeout().map(tokio::time::Instant::from_std);
            let due = async {
                match timeout {
                    Some(timeout) => tokio::time::sleep_until(timeout).await,
                    None => std::future::pending().await,
                }
            };
            // What is rare first, and then whatever would go on: nobody who has much to do can keep others from theirs.
            tokio::select! {
                biased;
                _ = signals.terminate.recv() => self.stop(Instant::now(), None),
                _ = signals.interrupt.recv() => self.stop(Instant::now(), None),
                _ = signals.hangup.recv() => self.loader.read(None),
                Some(answer) = answers.recv() => self.answered(Instant::now(), answer),
                Some(stats) = counted.recv() => self.counted(Instant::now(), stats),
                Some(load) = loads.recv() => self.load(Instant::now(), load),
                ask = self.looks.asked() => self.show(Instant::now(), ask),
                () = std::future::ready(()), if more => {}
                Some(event) = events.recv() => self.net_event(Instant::now(), event),
                Some(request) = server.request() => self.command(Instant::now(), request),
                () = self.listings.ready(&self.hub) => {}
                () = due => {}
            }
        }
    }

    /// Deletes all SAs and leaves the loop when the peers have answered. The second time it no longer waits.
    fn stop(&mut self, now: Instant, failure: Option<String>) {
        if let Some(stopping) = &mut self.stopping {
            stopping.deadline = now;
            stopping.failure = stopping.failure.take().or(failure);
            return;
        }
        tracing::info!("stopping: deleting all SAs");
        self.alert("shutdown-signal", failure.as_deref().unwrap_or("the daemon was told to stop"), None);
        self.supervisor.stopping();
        self.reconciler.stop();
        self.gateway.shutdown(now);
        // With a failed data plane nobody hears the answers.
        let grace = if failure.is_some() { Duration::ZERO } else { SHUTDOWN_GRACE };
        self.stopping = Some(Stopping { deadline: now + grace, failure });
    }

    /// Restores the system after an orderly end. After a failure, a failed start included, what is protected stays
    /// closed, also that of an earlier daemon.
    fn end(self, result: Result<(), RunError>) -> Result<(), RunError> {
        match &result {
            Ok(()) => {
                self.backend.shutdown();
                tracing::info!("stopped");
            }
            Err(_) => tracing::warn!(
                "what is protected stays blocked until the next start; an orderly stop after that lifts it"
            ),
        }
        result
    }

    fn net_event(&mut self, now: Instant, event: NetEvent) {
        self.inbox.taken(&event);
        match event {
            NetEvent::Ike { local, remote, datagram } => {
                self.gateway.handle_datagram(now, local, remote, &datagram);
            }
            NetEvent::UnknownSpi { spi, remote } => {
                tracing::debug!(
                    "ESP from {remote} with SPI {spi}, which no SA has; a peer may have outlived a restart"
                );
            }
            NetEvent::LimitSoon { id } => self.gateway.child_expiring(now, ChildHandle(id.0)),
            NetEvent::LimitReached { id } => self.gateway.child_expired(now, ChildHandle(id.0)),
            NetEvent::PeerMoved { id, local, remote } => {
                self.gateway.child_moved(now, ChildHandle(id.0), local, remote);
            }
            NetEvent::PathsChanged => {
                self.paths_due.get_or_insert(now + PATHS_SETTLE);
            }
            NetEvent::Acquire { policy } => {
                let reconciler = &mut self.reconciler;
                if let Some(name) =
                    self.policies.children(policy).iter().find(|name| reconciler.acquire(now, name))
                {
                    tracing::info!("{name}: there is traffic for it");
                }
            }
            NetEvent::InterfaceLost => self.restore_interfaces(now),
            NetEvent::Failed { reason } => self.stop(now, Some(reason)),
            other => tracing::info!("data plane: {other:?}"),
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let commands = self.pending.values().filter_map(|pending| pending.deadline);
        let stopping = self.stopping.as_ref().map(|stopping| stopping.deadline);
        commands
            .chain(self.gateway.poll_timeout())
            .chain(self.reconciler.poll_timeout())
            .chain(stopping)
            .chain(self.paths_due)
            .chain(self.interfaces_due)
            .chain(self.names.poll_timeout())
            .chain(self.idle.poll_timeout())
            .chain(self.paths.poll_timeout())
            .chain(self.trials.poll_timeout())
            .chain(self.unconfirmed.as_ref().map(|unconfirmed| unconfirmed.deadline))
            .chain(self.supervisor.poll_timeout())
            .chain(self.pushed.poll_timeout())
            .chain(self.counts.due)
            .min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        // It may have been set.
        self.gateway.set_wall_clock(now, SystemTime::now());
        if self.gateway.poll_timeout().is_some_and(|timeout| timeout <= now) {
            self.report_activity(now);
            self.gateway.handle_timeout(now);
        }
        if self.paths_due.is_some_and(|due| due <= now) {
            self.paths_due = None;
            self.paths_changed(now);
        }
        if self.interfaces_due.is_some_and(|due| due <= now) {
            self.restore_interfaces(now);
        }
        let traffic = |child: ChildHandle| {
            // Where workers have SAs of their own, the one for all may have nothing to do.
            let names = self.installed.get(&child).map(|policy| self.policies.children(*policy));
            let mut all = names.into_iter().flatten().map(|name| self.reconciler.sas(name));
            let all = all.find(|all| all.contains(&child)).unwrap_or_default().iter().chain([&child]);
            let counters = all.filter_map(|one| self.backend.counters(ChildId(one.0)));
            counters.filter_map(|counters| counters.last_in.max(counters.last_out)).max()
        };
        for child in self.idle.expired(now, traffic) {
            self.end_child(now, child);
        }
        self.look_at_paths(now);
        self.try_on(now);
        self.roll_back(now);
        self.catch_up_in_time(now);
        self.tell_counts_in_time(now);
        self.supervisor.handle_timeout(now);
        while let Some(name) = self.reconciler.due(now) {
            self.start(now, &name);
        }
        while let Some(name) = self.names.due(now) {
            self.resolver.ask(&name, &self.answers);
        }
        let late = |pending: &mut Pending| pending.deadline.is_some_and(|deadline| deadline <= now);
        let late: Vec<Pending> =
            self.pending.extract_if(|_, pending| late(pending)).map(|(_, pending)| pending).collect();
        for pending in late {
            pending.reply.failure("not done in the time given; it goes on in the background");
        }
    }

    /// Tells the gateway which peers proved to live by what the data plane opened (RFC 7296 2.4), at most once a
    /// second.
    fn report_activity(&mut self, now: Instant) {
        if now.saturating_duration_since(self.activity_reported) < Duration::from_secs(1) {
            return;
        }
        self.activity_reported = now;
        for handle in self.installed.keys() {
            if let Some(heard) = self.backend.counters(ChildId(handle.0)).and_then(|counters| counters.heard)
            {
                self.gateway.child_activity(now, *handle, heard);
            }
        }
    }

    /// Tells the gateway from which address each peer is reached now (RFC 4555 3.5), and tries soon what has failed.
    fn paths_changed(&mut self, now: Instant) {
        let allowed: HashMap<&str, &[AddressSpec]> = self
            .connections
            .iter()
            .map(|connection| (connection.name.as_str(), connection.local_addrs.as_slice()))
            .collect();
        let mut paths = Vec::new();
        for sa in self.gateway.ike_sas() {
            let source = self.wire.source_address(sa.remote.ip()).ok();
            let allowed = allowed.get(sa.connection.as_str()).copied().unwrap_or_default();
            let fits =
                |address: IpAddr| allowed.is_empty() || allowed.iter().any(|spec| spec.contains(address));
            // What the file does not allow is not taken: while there is a way at all, the address stays.
            paths.push((sa.handle, source.map(|source| if fits(source) { source } else { sa.local.ip() })));
        }
        for (handle, local) in paths {
            self.gateway.path_changed(now, handle, local);
        }
        self.reconciler.hurry(now);
    }

    fn request_id(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    /// Brings up a child that ought to be up.
    fn start(&mut self, now: Instant, name: &ChildName) {
        let request = self.request_id();
        match self.initiate(now, Some(&name.connection), Some(&name.child), request) {
            Ok(()) => self.reconciler.begun(now, name, request),
            Err(error) => {
                let wait = self.reconciler.failed(now, name);
                tracing::info!("{name} cannot be brought up: {error}{}", Again(wait));
            }
        }
    }

    /// What an operator takes down stays down.
    fn hold(&mut self, target: &TerminateTarget) {
        if target.ike_sa.is_none() && target.child_handle.is_none() {
            return self.reconciler.hold(target.connection.as_deref(), target.child.as_deref());
        }
        let fits = |sa: &IkeSaView| {
            target.ike_sa.is_none_or(|wanted| wanted == sa.handle)
                && target.connection.as_ref().is_none_or(|wanted| *wanted == sa.connection)
        };
        for sa in self.gateway.ike_sas().filter(fits) {
            for child in sa.children {
                if target.child_handle.is_none_or(|wanted| wanted == child.handle)
                    && target.child.as_ref().is_none_or(|wanted| *wanted == child.name)
                {
                    self.reconciler.hold(Some(&sa.connection), Some(&child.name));
                }
            }
        }
    }

    /// The connection that is meant where only a child is named: the first that has it.
    fn connection_of(&self, child: &str) -> Option<String> {
        let has_it = |c: &&Connection| c.children.iter().any(|other| other.name == child);
        Some(self.connections.iter().find(has_it)?.name.clone())
    }

    /// Brings children up, as soon as the host names of their connection are known.
    fn initiate(
        &mut self,
        now: Instant,
        connection: Option<&str>,
        child: Option<&str>,
        request: RequestId,
    ) -> Result<(), CommandError> {
        if let Some(of) = connection
            && let Some(hosts) = self.hosts.get(of)
        {
            // All of them, not only until the first that is.
            let awaited = hosts.names().filter(|name| self.names.need(now, name)).count();
            if awaited > 0 {
                self.deferred.push(Deferred {
                    of: of.to_owned(),
                    connection: connection.map(str::to_owned),
                    child: child.map(str::to_owned),
                    request,
                });
                return Ok(());
            }
        }
        self.initiate_now(now, connection, child, request)
    }

    fn initiate_now(
        &mut self,
        now: Instant,
        connection: Option<&str>,
        child: Option<&str>,
        request: RequestId,
    ) -> Result<(), CommandError> {
        let target = self.target(connection.map(str::to_owned), child.map(str::to_owned));
        self.gateway.initiate(now, &target, request)
    }

    /// A host name was looked up: connections that use it are dialled at, and accepted from, where it is now.
    fn answered(&mut self, now: Instant, answer: Answer) {
        let name = answer.name.clone();
        if self.names.answered(now, answer) {
            for connection in &self.connections {
                if let Some(hosts) = self.hosts.get(&connection.name)
                    && hosts.names().any(|other| other == name)
                {
                    let resolved = hosts.resolve(connection, |name| self.names.addresses(name));
                    self.gateway.replace_connection(resolved);
                }
            }
        }
        if let Some(why) = self.names.failure(&name) {
            let cause = format!("host name {name:?} cannot be resolved: {why}");
            let named = |hosts: &Hosts| hosts.names().any(|other| other == name);
            for (connection, _) in self.hosts.iter().filter(|(_, hosts)| named(hosts)) {
                self.alert("peer-addr-failed", &cause, Some(connection));
            }
        }
        let (hosts, names) = (&self.hosts, &self.names);
        let awaits = |deferred: &Deferred| {
            hosts.get(&deferred.of).is_some_and(|hosts| hosts.names().any(|name| names.is_awaited(now, name)))
        };
        let settled: Vec<Deferred> = self.deferred.extract_if(.., |deferred| !awaits(deferred)).collect();
        for Deferred { connection, child, request, .. } in settled {
            if let Err(error) = self.initiate_now(now, connection.as_deref(), child.as_deref(), request) {
                self.request_done(now, request, Err(error.to_string()));
            }
        }
    }

    /// A target with the address to dial from, where the configuration leaves that to the routing table.
    fn target(&self, connection: Option<String>, child: Option<String>) -> Target {
        let mut target = Target { connection, child, local: None };
        if let Some(remote) = self.gateway.route_needed(&target) {
            target.local = match self.wire.source_address(remote) {
                Ok(address) => Some(address),
                Err(error) => {
                    tracing::debug!("no route to {remote}: {error}");
                    None
                }
            };
        }
        target
    }

    /// Does what the gateway wants done, in its order.
    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.gateway.poll_output() {
            match output {
                Output::Transmit(Transmit { local, remote, datagram }) => {
                    if let Err(error) = self.wire.send(local, remote, &datagram) {
                        self.send_failed(now, local, remote, &error);
                    }
                }
                Output::NatKeepalive { local, remote } => {
                    if let Err(error) = self.wire.send_keepalive(local, remote) {
                        self.send_failed(now, local, remote, &error);
                    }
                }
                Output::InstallChild(child) => self.install(now, *child),
                Output::SwitchChild(handle) => self.backend.switch(ChildId(handle.0)),
                Output::RetireChild(handle) => self.backend.retire(ChildId(handle.0)),
                Output::RemoveChild(handle) => self.remove(handle),
                Output::MoveChild { handle, local, remote, encap } => {
                    self.observer.moved(now, handle, format_args!("{local} to {remote}"));
                    let encap = encap.map(|(local_port, remote_port)| UdpEncap { local_port, remote_port });
                    if let Err(error) = self.backend.relocate(ChildId(handle.0), local, remote, encap) {
                        self.gateway.child_failed(now, handle, &error.to_string());
                    }
                    self.path_has_moved(now, handle, remote);
                }
                Output::PathProbed(probe) => self.path_probed(now, probe),
                Output::Event(event) => self.event(now, event),
                Output::Record(record) => self.negotiated(now, *record),
                Output::KeyLog(keys) => {
                    if let Some(log) = &mut self.key_log
                        && let Err(error) = log.ike_sa(&keys)
                    {
                        tracing::warn!("key log: {error}");
                    }
                }
            }
        }
        // Whatever went down has been reported.
        self.departed.clear();
    }

    fn send_failed(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, error: &io::Error) {
        if let Some(more) = self.limit.allow(remote.ip(), now) {
            tracing::info!("cannot send from {local} to {remote}: {error}{more}");
        }
    }

    fn install(&mut self, now: Instant, child: InstallChild) {
        if let Some(log) = &mut self.key_log
            && let Err(error) = log.child_sa(&child)
        {
            tracing::warn!("key log: {error}");
        }
        let handle = child.handle;
        if let Err(error) = self.try_install(child) {
            tracing::error!("a Child SA cannot be installed: {error}");
            self.remove(handle);
            self.gateway.child_failed(now, handle, &error.to_string());
        }
    }

    fn try_install(&mut self, mut child: InstallChild) -> Result<(), adit_net::Error> {
        let handle = child.handle;
        let name = (child.connection.clone(), child.child.clone());
        let mut treatment = self.treatments.get(&name).cloned().unwrap_or_default();
        if !child.tfc_padding && treatment.tfc != Tfc::Off {
            tracing::info!("{}/{}: the peer takes no padding (`tfc_padding`)", name.0, name.1);
            treatment.tfc = Tfc::Off;
        }
        // What is negotiated is what arrives; what our side sends, and the policy, has the addresses of our side.
        let negotiated = (child.local_ts.clone(), child.remote_ts.clone());
        if let Some(translation) = &treatment.translation {
            let (Some(local), Some(remote)) =
                (translation.local_inside(&negotiated.0), translation.remote_inside(&negotiated.1))
            else {
                let message = "selectors that lie partly in `local_net` or `remote_net`".to_owned();
                return Err(adit_net::Error::Configuration(message));
            };
            (child.local_ts, child.remote_ts) = (local, remote);
        }
        let (policy, grown) = self.policies.of(&child);
        if grown {
            self.backend.set_policies(self.policies.all())?;
        }
        let half = |spi, keys, local_ts, remote_ts| SaParameters {
            spi,
            mode: child.mode,
            transforms: child.transforms,
            keys,
            replay_window: child.replay_window,
            local_ts,
            remote_ts,
            original: child.original,
        };
        self.backend.install(ChildSaInstall {
            id: ChildId(handle.0),
            name: format!("{}/{}", name.0, name.1),
            policy,
            inbound: half(child.inbound_spi, child.inbound_keys, negotiated.0, negotiated.1),
            outbound: half(child.outbound_spi, child.outbound_keys, child.local_ts, child.remote_ts),
            local: child.local,
            remote: child.remote,
            encap: child.encap.map(|(local_port, remote_port)| UdpEncap { local_port, remote_port }),
            active: child.active,
            limits: adit_net::Limits {
                soft_bytes: child.limits.soft_bytes,
                hard_bytes: child.limits.hard_bytes,
                soft_packets: child.limits.soft_packets,
                hard_packets: child.limits.hard_packets,
            },
            treatment,
            worker: child.resource.map(usize::from),
        })?;
        self.installed.insert(handle, policy);
        Ok(())
    }

    fn remove(&mut self, handle: ChildHandle) {
        if self.installed.contains_key(&handle) {
            let facts = self.child_facts(handle);
            self.observer.removed(handle, &facts);
            self.departed.insert(handle, facts);
            self.backend.remove(ChildId(handle.0));
            self.installed.remove(&handle);
        }
        if self.policies.release(handle)
            && let Err(error) = self.backend.set_policies(self.policies.all())
        {
            tracing::warn!("policies of removed SAs stay in force: {error}");
        }
    }

    /// What is known about a Child SA outside of IKE.
    fn child_facts(&self, handle: ChildHandle) -> ChildFacts {
        if let Some(facts) = self.departed.get(&handle) {
            return facts.clone();
        }
        ChildFacts {
            reqid: self.installed.get(&handle).map_or(0, |policy| policy.0),
            interface: self
                .installed
                .get(&handle)
                .and_then(|policy| self.policies.interface(*policy))
                .map(Into::into),
            counters: self.backend.counters(ChildId(handle.0)).unwrap_or_default(),
        }
    }

    /// Takes one Child SA down.
    fn end_child(&mut self, now: Instant, child: ChildHandle) {
        let target = TerminateTarget { child_handle: Some(child), ..TerminateTarget::default() };
        let request = self.request_id();
        // It is gone already if this finds nothing.
        let _ = self.gateway.terminate(now, &target, request);
    }

    fn command(&mut self, now: Instant, request: Request) {
        tracing::debug!("control: {}", request.command.escape_debug());
        commands::run(self, now, request);
    }
}
