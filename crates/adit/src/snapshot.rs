//! Everything an operator sees of a gateway, at one moment, as plain data.
//!
//! The daemon's event loop makes it when it is asked to (`daemon/observer.rs`); the HTTP service renders it. It owns
//! what is shown and under which name, and never looks at a machine, a lock or a clock. Its JSON form is what
//! `/api/snapshot` answers.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

/// Version of the JSON form. It grows when a field changes or goes, not when one comes.
pub const SCHEMA: u32 = 1;

/// A gateway at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// The version of the program.
    pub version: &'static str,
    /// When this was.
    #[serde(skip)]
    pub now: Moment,
    /// When the daemon started.
    pub started: Moment,
    /// Is there a configuration that the system took?
    pub configured: bool,
    /// Is the daemon on its way down?
    pub stopping: bool,
    /// Of all that ought to be up.
    pub state: Health,
    /// How many of what there are.
    pub totals: Totals,
    /// In the order of the configuration; those that are no longer configured and still have SAs come last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    // Boxed: of 100,000 one piece of memory would take long to move and to give back.
    pub connections: Vec<Box<Connection>>,
    /// Children that need no SA.
    pub shunts: Vec<Shunt>,
    /// Interfaces for tunnels.
    pub interfaces: Vec<Interface>,
    /// The IKE machine.
    pub ike: Ike,
    /// The data plane.
    pub data_plane: DataPlane,
    /// Clients of the control interface.
    pub control: Control,
    /// How long the event loop took to make this.
    #[serde(skip)]
    pub cost: Duration,
}

impl Snapshot {
    /// A connection by its name.
    #[must_use]
    pub fn connection(&self, name: &str) -> Option<&Connection> {
        self.connections.iter().find(|connection| connection.name == name).map(|boxed| &**boxed)
    }

    /// Every child with its connection.
    pub fn children(&self) -> impl Iterator<Item = (&Connection, &Child)> {
        self.connections.iter().flat_map(|one| one.children.iter().map(move |child| (&**one, child)))
    }

    /// Counts what is there, and judges it.
    pub fn sum_up(&mut self) {
        let mut sum = Sum::default();
        self.connections.iter().for_each(|connection| sum.add(connection));
        self.take(sum);
    }

    /// Takes over what was counted.
    pub(crate) fn take(&mut self, sum: Sum) {
        self.state = sum.state();
        self.totals = Totals { shunts: self.shunts.len(), ..sum.totals };
    }
}

/// Counts connections one after the other, and judges them as `adit status` does: what ought to be up is what is started
/// by itself; where nothing is, everything.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    totals: Totals,
    started: usize,
    started_up: usize,
    started_degraded: usize,
}

impl Sum {
    pub(crate) fn add(&mut self, connection: &Connection) {
        let totals = &mut self.totals;
        totals.connections += usize::from(connection.configured);
        totals.ike_sas += connection.ike_sas.len();
        for child in &connection.children {
            totals.child_sas += child.sas.len();
            if !child.configured {
                continue;
            }
            totals.children += 1;
            totals.up += usize::from(child.up);
            totals.wanted += usize::from(child.wanted);
            totals.missing += usize::from(child.wanted && !child.up);
            totals.degraded += usize::from(child.is_degraded());
            if child.start {
                self.started += 1;
                self.started_up += usize::from(child.up);
                self.started_degraded += usize::from(child.is_degraded());
            }
        }
    }

    fn state(&self) -> Health {
        let (ought, up, degraded) = if self.started > 0 {
            (self.started, self.started_up, self.started_degraded)
        } else {
            (self.totals.children, self.totals.up, self.totals.degraded)
        };
        match up {
            _ if up == ought && degraded == 0 => Health::Up,
            0 => Health::Down,
            _ => Health::Degraded,
        }
    }
}

/// A moment by the clock on the wall: seconds since 1970 in JSON, to the millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// Seconds since 1970.
    #[must_use]
    pub fn seconds(self) -> f64 {
        Duration::from_millis(self.0).as_secs_f64()
    }
}

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.seconds())
    }
}

/// How much is up of what ought to be, or of one child.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// All.
    #[default]
    Up,
    /// Some.
    Degraded,
    /// Nothing.
    Down,
}

impl Health {
    /// As programs see it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// How many of what there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Configured connections.
    pub connections: usize,
    /// Configured children.
    pub children: usize,
    /// Of these, what ought to be up now.
    pub wanted: usize,
    /// Of these children, what is up.
    pub up: usize,
    /// What ought to be up and is not.
    pub missing: usize,
    /// What is up, but not all of it, or not for long, or without traffic.
    pub degraded: usize,
    /// Children that need no SA.
    pub shunts: usize,
    /// IKE SAs of connections.
    pub ike_sas: usize,
    /// Child SAs.
    pub child_sas: usize,
}

/// A connection and everything of its name.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Connection {
    /// Its name.
    pub name: String,
    /// `false` if an SA outlived it.
    pub configured: bool,
    /// Its own interface, if it has one.
    pub interface: Option<String>,
    /// Our addresses, as configured.
    pub local_addrs: Vec<String>,
    /// The peer's addresses, as configured.
    pub remote_addrs: Vec<String>,
    /// Our identity, as configured.
    pub local_id: String,
    /// The peer's identity, as configured.
    pub remote_id: String,
    /// Its IKE SAs.
    pub ike_sas: Vec<IkeSa>,
    /// Its children.
    pub children: Vec<Child>,
    /// The last negotiation that did not succeed, if none has succeeded since.
    pub last_failure: Option<Failure>,
    /// What happened lately, the oldest first.
    pub events: Vec<Event>,
}

/// A child: its configuration, what is wanted of it, and its SAs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Child {
    /// Its name.
    pub name: String,
    /// `false` if an SA outlived it.
    pub configured: bool,
    /// Has it `start_action = start`?
    pub start: bool,
    /// Ought it to be up now?
    pub wanted: bool,
    /// Has it an SA that is in use?
    pub up: bool,
    /// Why it is not up, as a code: that of `explained`.
    pub reason: Option<&'static str>,
    /// Why it is not up, or that it is, as `adit explain` says it.
    pub explained: Explanation,
    /// Whether it carries traffic, if it is up.
    pub health: Option<Verdict>,
    /// Since when it is up, or down.
    pub since: Option<Moment>,
    /// When it is tried again.
    pub next_attempt: Option<Moment>,
    /// Attempts that failed in a row.
    pub failures: u32,
    /// Configured traffic of our side.
    pub local_ts: Vec<String>,
    /// Configured traffic of the peer's side.
    pub remote_ts: Vec<String>,
    /// What it carried since the daemon started, in all its SAs.
    pub traffic: Traffic,
    /// ESP packets that were dropped, in all its SAs, by cause: only causes that occurred.
    pub drops: Vec<Count>,
    /// How often it has been given new keys.
    pub rekeys: u64,
    /// How often it has come up.
    pub ups: u64,
    /// Its SAs.
    pub sas: Vec<ChildSa>,
}

impl Child {
    /// Is it up, but not all of it, or not for long, or without traffic?
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.up && self.explained.state == Health::Degraded
    }
}

/// Why something is not up, or that it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Explanation {
    /// How much of it is up.
    pub state: Health,
    /// As the manual lists it.
    pub code: &'static str,
    /// One sentence.
    pub cause: String,
    /// What to do next.
    pub step: Option<String>,
    /// What differs first between both sides.
    pub difference: Option<Difference>,
    /// How often, since when, when again.
    pub notes: Vec<String>,
    /// What both sides have.
    pub sides: Vec<Sides>,
}

/// What differs first between what both sides have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What it is about, as a code.
    pub code: &'static str,
    /// Both sides of it.
    pub text: String,
    /// What is told of the peer is what it asked us for itself.
    pub inferred: bool,
}

/// What both sides have of something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sides {
    /// Of what.
    pub label: &'static str,
    /// We.
    pub ours: String,
    /// The peer.
    pub theirs: String,
}

/// Whether a child carries traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// As the manual lists it.
    pub code: &'static str,
    /// Is something wrong?
    pub failing: bool,
    /// What is wrong is with what comes `in` from the peer, or goes `out` to it.
    pub direction: Option<&'static str>,
    /// What is seen.
    pub message: String,
    /// What to do; empty if nothing is wrong.
    pub step: String,
    /// No larger outer packets are sent: none would get through.
    pub path_limit: Option<u16>,
}

/// Inner packets and their octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// From the peer.
    pub packets_in: u64,
    /// From the peer.
    pub bytes_in: u64,
    /// To the peer.
    pub packets_out: u64,
    /// To the peer.
    pub bytes_out: u64,
}

impl Traffic {
    /// Adds what another one carried.
    pub fn add(&mut self, more: &Self) {
        self.packets_in += more.packets_in;
        self.bytes_in += more.bytes_in;
        self.packets_out += more.packets_out;
        self.bytes_out += more.bytes_out;
    }
}

/// How often something happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// What.
    pub cause: &'static str,
    /// How often.
    pub count: u64,
}

/// An IKE SA.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct IkeSa {
    /// Its number, `uniqueid` of vici.
    pub id: u64,
    /// Its state in vici's words.
    pub state: String,
    /// Are we the original initiator?
    pub initiator: bool,
    /// Our address and port.
    pub local: String,
    /// The peer's address and port.
    pub remote: String,
    /// Our identity.
    pub local_id: String,
    /// The peer's identity, once authenticated.
    pub remote_id: String,
    /// Are we behind a NAT?
    pub nat_local: bool,
    /// Is the peer behind a NAT?
    pub nat_remote: bool,
    /// The algorithms.
    pub suite: String,
    /// Is a quantum computer of no use against it?
    pub post_quantum: bool,
    /// Do both sides support MOBIKE?
    pub mobike: bool,
    /// When it was established.
    pub established: Option<Moment>,
    /// When it is rekeyed.
    pub rekey_at: Option<Moment>,
    /// When the peers authenticate anew.
    pub reauth_at: Option<Moment>,
}

/// A Child SA.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChildSa {
    /// Its number, `uniqueid` of vici.
    pub id: u64,
    /// The number of its IKE SA.
    pub ike_sa: u64,
    /// Its state in vici's words.
    pub state: String,
    /// `tunnel`, `transport` or `iptfs`.
    pub mode: String,
    /// The packet worker whose own it is (RFC 9611).
    pub worker: Option<u16>,
    /// SPI of what arrives.
    pub spi_in: String,
    /// SPI of what we send.
    pub spi_out: String,
    /// The algorithms.
    pub suite: String,
    /// ESP in UDP?
    pub udp_encapsulation: bool,
    /// Negotiated traffic of our side.
    pub local_ts: Vec<String>,
    /// Negotiated traffic of the peer's side.
    pub remote_ts: Vec<String>,
    /// What it carried.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// ESP packets that were dropped, by cause: only causes that occurred.
    pub drops: Vec<Count>,
    /// When the last authentic packet arrived, whatever was in it.
    pub heard: Option<Moment>,
    /// When the last inner packet arrived.
    pub last_in: Option<Moment>,
    /// When the last inner packet left.
    pub last_out: Option<Moment>,
    /// When it was installed.
    pub installed: Moment,
    /// When it is rekeyed.
    pub rekey_at: Option<Moment>,
    /// When it ends if it is not.
    pub expires_at: Option<Moment>,
}

/// A negotiation that failed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Failure {
    /// When.
    pub at: Moment,
    /// How, as a code.
    pub code: &'static str,
    /// Where, in vici's words.
    pub stage: &'static str,
    /// Who has to act.
    pub blame: String,
    /// The child, if it was about one.
    pub child: Option<String>,
    /// The peer's address and port.
    pub remote: String,
    /// Were we the initiator of the exchange?
    pub initiator: bool,
    /// What happened.
    pub message: String,
    /// What to do next.
    pub step: String,
}

/// Something that happened to a connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Event {
    /// When; the last time if it happened several times.
    pub at: Moment,
    /// What.
    pub kind: EventKind,
    /// The child, if it was about one.
    pub child: Option<String>,
    /// The code of a failure, or of why it went down.
    pub code: Option<String>,
    /// How often, if that is all that happened meanwhile.
    pub times: u32,
    /// More about it.
    pub detail: String,
}

/// What happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// It is up.
    #[default]
    Up,
    /// It is down.
    Down,
    /// It has new keys.
    Rekeyed,
    /// A negotiation failed.
    Failed,
    /// It goes another way.
    Moved,
}

/// A child that needs no SA.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Shunt {
    /// With its connection's.
    pub name: String,
    /// `pass` or `drop`.
    pub mode: &'static str,
    /// Traffic of our side.
    pub local_ts: Vec<String>,
    /// Traffic of the other side.
    pub remote_ts: Vec<String>,
}

/// An interface for tunnels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The connections that have it to themselves; none for the one of all others.
    pub connections: Vec<String>,
}

/// The IKE machine since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Ike {
    /// IKE SAs that a peer has begun and not authenticated.
    pub half_open: usize,
    /// Messages handed in.
    pub received: u64,
    /// Messages that changed nothing.
    pub ignored: u64,
    /// Messages whose integrity check failed.
    pub not_authentic: u64,
    /// Requests of peers that were repeated.
    pub repeated_requests: u64,
    /// Requests of ours that were repeated.
    pub retransmissions: u64,
    /// Cookies demanded.
    pub cookies_demanded: u64,
    /// First messages dropped because too much was half-open.
    pub half_open_refused: u64,
    /// Negotiations that succeeded.
    pub negotiations_succeeded: u64,
    /// Negotiations that failed, by stage and code.
    pub negotiation_failures: Vec<Failures>,
    /// Records and log lines left out because their peer caused too many.
    pub records_suppressed: u64,
    /// From the first request of ours to the end of IKE_AUTH.
    pub handshakes_begun_by_us: Latency,
    /// From the first request of a peer to the end of IKE_AUTH.
    pub handshakes_begun_by_peers: Latency,
    /// From our request for the successor of a Child SA until it is in use.
    pub child_rekeys: Latency,
    /// From our request for the successor of an IKE SA until it is in use.
    pub ike_rekeys: Latency,
    /// Messages for the event loop that wait, in octets of memory.
    pub inbox_octets: usize,
    /// Messages that were dropped because too many waited.
    pub inbox_dropped: u64,
    /// Commands of operators that are under way.
    pub commands_pending: usize,
}

/// Negotiations that failed in one way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Failures {
    /// Where, in vici's words.
    pub stage: &'static str,
    /// How, as a code.
    pub code: &'static str,
    /// How many.
    pub count: u64,
}

/// How long something took, by classes that double from 1 ms on.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// All together.
    pub sum_seconds: f64,
    /// How many took up to 1 ms, 2 ms, 4 ms, ... 65.536 s, and longer.
    pub classes: Vec<u64>,
}

impl From<&adit_ike::Histogram> for Latency {
    fn from(histogram: &adit_ike::Histogram) -> Self {
        let (count, sum_seconds) = (histogram.count(), histogram.sum().as_secs_f64());
        Self { count, sum_seconds, classes: histogram.classes().to_vec() }
    }
}

/// The data plane since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DataPlane {
    /// Packet workers.
    pub workers: usize,
    /// Packets dropped outside any one SA, by cause.
    pub drops: Vec<Count>,
    /// IKE messages received.
    pub ike_received: u64,
    /// NAT keepalives received.
    pub keepalives_received: u64,
    /// ESP packets received by AF_XDP.
    pub frames_received: u64,
    /// ESP packets sent by AF_XDP.
    pub frames_sent: u64,
    /// Packets that arrived in the clear though a policy protects them.
    pub fenced_in: u64,
    /// Packets that would have left in the clear though a policy protects them.
    pub fenced_out: u64,
}

/// Clients of the control interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Control {
    /// Connected now.
    pub connected: usize,
    /// Ever admitted.
    pub accepted: u64,
    /// Turned away because too many were connected.
    pub refused: u64,
    /// Disconnected because they did not read.
    pub stuck: u64,
}
