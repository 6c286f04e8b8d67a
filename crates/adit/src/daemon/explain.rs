//! Why something is not up, or that it is: the facts behind `adit explain`.
//!
//! It owns the order in which causes are looked for and reads what the others know; it changes nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_ike::config::{AddressSpec, Child, Connection};
use adit_ike::identity::Identity;
use adit_ike::proposal::Notation;
use adit_ike::{ChildSaState, DownReason, IkeSaState, IkeSaView, NegotiationRecord, OutcomeCode, Stage};
use adit_wire::ikev2::TrafficSelector;

use super::Daemon;
use super::health::ChildHealth;
use super::negotiations::Entry;
use super::reconciler::{ChildName, Outlook};
use crate::config::Host;
use crate::control::vici::Message;
use crate::snapshot::{self, Explanation, Health, Sides};

/// For so long a stranger's failure may be what keeps a connection down.
const LATELY: Duration = Duration::from_secs(600);

/// Proposals and selectors of a side that are shown.
const SHOWN: usize = 8;

/// What is said about something, which has a name.
pub(super) type Explained = (String, Explanation);

/// What is known of the SAs of a connection, for whoever explains its children.
#[derive(Debug, Default)]
pub(super) struct Sas {
    /// Is there an IKE SA?
    any: bool,
    /// Who was asked for one and has not answered.
    asked: Option<IpAddr>,
    children: HashMap<String, Up>,
}

/// A child that is up.
#[derive(Debug)]
struct Up {
    /// Since when.
    installed: Instant,
    /// Whether it carries traffic: of several IKE SAs the one that fails.
    health: Option<ChildHealth>,
}

impl Sas {
    /// One more IKE SA, and how its children do.
    pub(super) fn add(&mut self, sa: &IkeSaView, health: Vec<ChildHealth>) {
        self.any = true;
        if sa.state == IkeSaState::Connecting && sa.initiator {
            self.asked.get_or_insert_with(|| sa.remote.ip());
        }
        for child in &sa.children {
            if matches!(child.state, ChildSaState::Installed | ChildSaState::Rekeying) {
                let up = self
                    .children
                    .entry(child.name.clone())
                    .or_insert(Up { installed: child.installed, health: None });
                up.installed = up.installed.min(child.installed);
            }
        }
        for new in health {
            let Some(up) = self.children.get_mut(&new.name.child) else { continue };
            let fails = |health: &ChildHealth| health.verdict.code.is_failing();
            if up.health.as_ref().is_none_or(|known| !fails(known) && fails(&new)) {
                up.health = Some(new);
            }
        }
    }

    /// Whether a child carries traffic, if it is up.
    pub(super) fn health(&self, child: &str) -> Option<&ChildHealth> {
        self.children.get(child)?.health.as_ref()
    }
}

impl Explanation {
    fn new(state: Health, code: &'static str, cause: impl Into<String>) -> Self {
        Self { state, code, cause: cause.into(), ..Self::default() }
    }

    fn step(mut self, step: impl Into<String>) -> Self {
        self.step = Some(step.into());
        self
    }

    fn of_record(state: Health, entry: &Entry, record: &NegotiationRecord, now: Instant) -> Self {
        let lead = if state == Health::Down { "" } else { "up, but " };
        let mut new =
            Self::new(state, record.code.name(), format!("{lead}{}", record.cause())).step(record.step());
        new.difference = record.difference().map(|difference| snapshot::Difference {
            code: difference.name(),
            text: difference.to_string(),
            inferred: record.inferred,
        });
        new.sides = sides(record);
        let (first, last) = (ago(now, entry.first), ago(now, entry.record.at));
        new.notes.push(match entry.count {
            1 => format!("once, {last} ago, in {}", record.stage.name()),
            count => format!("{count} times, first {first} ago, last {last} ago, in {}", record.stage.name()),
        });
        if entry.resolved {
            new.notes.push("it has succeeded since".to_owned());
        }
        if record.inferred {
            new.notes.push("what the peer has is inferred from what it asked us for itself".to_owned());
        }
        new
    }

    /// What is not in force, whether SAs are left of it or not.
    pub(super) fn not_configured(up: bool) -> Self {
        let (state, cause) = match up {
            true => (Health::Degraded, "up, but it is no longer configured"),
            false => (Health::Down, "it is not configured"),
        };
        Self::new(state, "not-configured", cause)
    }

    /// For a vici client.
    pub(super) fn message(&self, subject: &str) -> Message {
        let mut message = Message::new();
        message.put("subject", subject).put("state", self.state.as_str());
        message.put("code", self.code).put("cause", &self.cause);
        if let Some(difference) = &self.difference {
            message.put("difference", difference.code).put("difference-text", &difference.text);
            message.put_flag("inferred", difference.inferred);
        }
        if let Some(step) = &self.step {
            message.put("step", step);
        }
        message.put_list("notes", &self.notes);
        let mut rows = Message::new();
        for Sides { label, ours, theirs } in &self.sides {
            let mut row = Message::new();
            row.put("ours", ours).put("theirs", theirs);
            rows.put_section(label, row);
        }
        message.put_section("sides", rows);
        message
    }
}

impl Daemon {
    /// What is known of the SAs of a connection.
    fn sas_of(&mut self, now: Instant, connection: &str) -> Sas {
        while self.learn_overlaps() {}
        let mut sas = Sas::default();
        for handle in self.gateway.handles_of(connection) {
            if let Some(sa) = self.gateway.ike_sa(handle) {
                let health = self.health_on(now, &sa);
                sas.add(&sa, health);
            }
        }
        sas
    }

    /// Explains a connection, or one child of it.
    pub(super) fn explain(&mut self, now: Instant, connection: &str, child: Option<&str>) -> Vec<Explained> {
        let of_child = |child: &str| format!("{connection}/{child}");
        let subject = child.map_or_else(|| connection.to_owned(), of_child);
        let sas = self.sas_of(now, connection);
        let Some(configured) = self.connections.iter().find(|c| c.name == connection) else {
            let up = child.map_or(!sas.children.is_empty(), |child| sas.children.contains_key(child));
            return vec![(subject, Explanation::not_configured(up))];
        };
        if let Some(child) = child {
            let found = configured.children.iter().find(|c| c.name == child);
            let explained = found.map(|found| self.explain_child(now, configured, found, &sas));
            let gone = || Explanation::not_configured(sas.children.contains_key(child));
            return vec![(subject, explained.unwrap_or_else(gone))];
        }
        let explained: Vec<Explained> = configured
            .children
            .iter()
            .map(|child| (of_child(&child.name), self.explain_child(now, configured, child, &sas)))
            .collect();
        // What keeps the IKE SA from coming up keeps all children: once is enough.
        match explained.split_first() {
            None => {
                let cause = "it has no children: nothing is to be up";
                vec![(subject, Explanation::new(Health::Down, "no-children", cause))]
            }
            Some(((_, first), rest))
                if !rest.is_empty()
                    && rest
                        .iter()
                        .all(|(_, other)| (other.code, &other.cause) == (first.code, &first.cause)) =>
            {
                vec![(subject, first.clone())]
            }
            Some(_) => explained,
        }
    }

    /// Explains every child of a connection.
    pub(super) fn explain_children(
        &mut self,
        now: Instant,
        connection: &str,
    ) -> Vec<(ChildName, Explanation)> {
        let sas = self.sas_of(now, connection);
        let configured = self.connections.iter().find(|c| c.name == connection);
        let children =
            configured.into_iter().flat_map(|one| one.children.iter().map(move |child| (one, child)));
        let explained = children.map(|(connection, child)| {
            let name = ChildName::new(&connection.name, &child.name);
            (name, self.explain_child(now, connection, child, &sas))
        });
        explained.collect()
    }

    /// Explains what is known of a peer by its address.
    pub(super) fn explain_peer(&self, now: Instant, address: IpAddr) -> Vec<Explained> {
        let mut found = Vec::new();
        for entry in self.negotiations.from(address) {
            let record = self.negotiations.informed(&entry.record);
            let subject = match (&record.connection, &record.child) {
                (Some(connection), Some(child)) => format!("{address}, {connection}/{child}"),
                (Some(connection), None) => format!("{address}, {connection}"),
                (None, _) => address.to_string(),
            };
            let state = if entry.resolved { Health::Up } else { Health::Down };
            let mut new = Explanation::of_record(state, entry, &record, now);
            new.cause = record.cause();
            found.push((subject, new));
        }
        let up: Vec<String> = self
            .gateway
            .ike_sas()
            .filter(|sa| sa.remote.ip() == address && sa.established.is_some())
            .map(|sa| sa.connection)
            .collect();
        if found.is_empty() {
            let new = if let Some(connection) = up.first() {
                let cause = format!("up with connection \"{connection}\": nothing to explain");
                Explanation::new(Health::Up, "up", cause)
            } else {
                let cause =
                    "nothing is known of it: it has sent nothing that arrived, and nothing was tried with it";
                Explanation::new(Health::Down, "unknown", cause).step(
                    "if it says that it sends: let UDP ports 500 and 4500 of this gateway through, and see with \
                     `adit capture --outer` whether anything arrives",
                )
            };
            found.push((address.to_string(), new));
        }
        found
    }

    /// Explains a child by what is known of the SAs of its connection. Whoever shows a child shows this.
    pub(super) fn explain_child(
        &self,
        now: Instant,
        connection: &Connection,
        child: &Child,
        sas: &Sas,
    ) -> Explanation {
        let name = ChildName::new(&connection.name, &child.name);
        if let Some(up) = sas.children.get(&child.name) {
            return self.explain_up(now, connection, child, up);
        }
        let outlook = self.reconciler.outlook(&name);
        let explanation = self.explain_down(now, connection, child, outlook, sas);
        with_outlook(explanation, outlook, now)
    }

    fn explain_down(
        &self,
        now: Instant,
        connection: &Connection,
        child: &Child,
        outlook: Outlook,
        sas: &Sas,
    ) -> Explanation {
        let name = ChildName::new(&connection.name, &child.name);
        let bring_up = format!("`adit up {}/{}`", connection.name, child.name);
        if let Some(explanation) = self.unresolved(connection) {
            return explanation;
        }
        if outlook == Outlook::Held {
            return Explanation::new(Health::Down, "held", "an operator took it down")
                .step(format!("bring it up: {bring_up}"));
        }
        // What happened last says why.
        let went_down = self.observer.went_down(&name);
        let mut failures = self.negotiations.open_of_child(&connection.name, &child.name);
        let failed = failures
            .find(|entry| entry.is_failure() && went_down.is_none_or(|(down, _)| down <= entry.record.at));
        if let Some(entry) = failed {
            let record = self.negotiations.informed(&entry.record);
            return Explanation::of_record(Health::Down, entry, &record, now);
        }
        // Who does not come so far as to say who it is has an address.
        if matches!(outlook, Outlook::Nothing | Outlook::Traffic(_))
            && !sas.any
            && let Some(entry) = self.stranded(now, connection)
            && went_down.is_none_or(|(down, _)| down <= entry.record.at)
        {
            let record = self.negotiations.informed(&entry.record);
            return Explanation::of_record(Health::Down, entry, &record, now);
        }
        if let Some((at, reason)) = went_down {
            // What was let go because it was idle comes back with the next packet.
            if !(reason == DownReason::DeletedByUs && matches!(outlook, Outlook::Traffic(_))) {
                return ended(reason, &ago(now, at), &bring_up);
            }
        }
        match outlook {
            Outlook::UnderWay => {
                let with = sas.asked.map_or_else(
                    || "its IKE SA is up".to_owned(),
                    |remote| format!("waiting for an answer of {remote}"),
                );
                Explanation::new(Health::Down, "connecting", format!("it is being brought up: {with}"))
                    .step("ask again in some seconds")
            }
            Outlook::Traffic(_) => Explanation::new(
                Health::Down,
                "waits-for-traffic",
                "it comes up with the first packet for it (start_action = trap), and there was none",
            )
            .step("send something from the local network to the remote one, or bring it up: `adit up`"),
            Outlook::Attempt(_) => {
                Explanation::new(Health::Down, "next-attempt", "it is about to be brought up")
            }
            Outlook::Nothing | Outlook::Held | Outlook::GivenUp if sas.any => {
                let cause = "its IKE SA is up, and nobody has asked for this child";
                Explanation::new(Health::Down, "child-not-started", cause)
                    .step(format!("bring it up: {bring_up}, or `start_action = start`"))
            }
            Outlook::Nothing | Outlook::Held | Outlook::GivenUp => {
                let cause = "nothing starts it here (start_action = none), and the peer has not";
                Explanation::new(Health::Down, "not-started", cause)
                    .step(format!("bring it up: {bring_up}, or `start_action = start`"))
            }
        }
    }

    /// An attempt of the peer of a connection that failed lately, before it was known whose it is.
    fn stranded(&self, now: Instant, connection: &Connection) -> Option<&Entry> {
        let mut addresses = connection.remote_addrs.iter().filter_map(AddressSpec::single);
        let entry = addresses.find_map(|address| self.negotiations.of_stranger(address))?;
        let lately = now.saturating_duration_since(entry.record.at) < LATELY;
        // From before this connection was configured.
        let ours = &connection.local_addrs;
        let at_ours = ours.is_empty() || ours.iter().any(|address| address.contains(entry.record.local.ip()));
        let is_known = entry.record.code == OutcomeCode::UnknownPeer && at_ours;
        (lately && !is_known && !entry.resolved).then_some(entry)
    }

    /// What is up may not stay so, be less than is wanted, or carry nothing.
    fn explain_up(&self, now: Instant, connection: &Connection, child: &Child, up: &Up) -> Explanation {
        let mut narrowed = None;
        for entry in self.negotiations.open_of_child(&connection.name, &child.name) {
            // Somebody may try in vain what we have already.
            let threatens = entry.is_failure()
                && entry.record.known
                && matches!(entry.record.stage, Stage::ChildSa | Stage::IkeRekey);
            if threatens {
                let record = self.negotiations.informed(&entry.record);
                return Explanation::of_record(Health::Degraded, entry, &record, now);
            }
            if !entry.is_failure() && entry.record.difference().is_some() {
                narrowed = narrowed.or(Some(entry));
            }
        }
        if let Some((what, step)) = self.overlap(connection, child) {
            return Explanation::new(Health::Degraded, "overlap", format!("up, but {what}")).step(step);
        }
        if let Some(ChildHealth { verdict, .. }) = &up.health
            && verdict.code.is_failing()
        {
            let cause = format!("up, but {}", verdict.message);
            return Explanation::new(Health::Degraded, verdict.code.as_str(), cause).step(&verdict.step);
        }
        if let Some(entry) = narrowed {
            let record = self.negotiations.informed(&entry.record);
            return Explanation::of_record(Health::Up, entry, &record, now);
        }
        let name = ChildName::new(&connection.name, &child.name);
        let since = ago(now, self.observer.up_since(&name).unwrap_or(up.installed));
        Explanation::new(Health::Up, "up", format!("up for {since}: nothing to explain"))
    }

    /// A host name of the connection that means nothing yet.
    fn unresolved(&self, connection: &Connection) -> Option<Explanation> {
        let hosts = self.hosts.get(&connection.name)?;
        let (name, local) =
            [(&hosts.remote, false), (&hosts.local, true)].into_iter().find_map(|(side, local)| {
                let nothing = |host: &Host| match host {
                    Host::Name(name) => self.names.addresses(name).is_empty(),
                    Host::Addresses(_) => false,
                };
                let first = side.iter().find(|host| nothing(host)).filter(|_| side.iter().all(nothing))?;
                match first {
                    Host::Name(name) => Some((name, local)),
                    Host::Addresses(_) => None,
                }
            })?;
        let key = if local { "local_addrs" } else { "remote_addrs" };
        // Nothing yet while it is looked up for the first time.
        let why = format!("does not resolve: {}", self.names.failure(name)?);
        let whose = if local { "our host name" } else { "the peer's host name" };
        Some(
            Explanation::new(Health::Down, "name-unresolved", format!("{whose} {name} {why}")).step(format!(
                "correct the name in `{key}` or put an address there; `getent ahosts {name}` on this host shows what \
                 its resolver says"
            )),
        )
    }
}

/// What ended the last SA, a while ago.
fn ended(reason: DownReason, ago: &str, bring_up: &str) -> Explanation {
    let (code, cause, step) = match reason {
        DownReason::PeerDead => (
            "peer-dead",
            "the peer stopped answering, and its SAs were ended",
            format!(
                "see that the peer runs and can be reached; then {bring_up}, or `dpd_action = restart` for the next time"
            ),
        ),
        DownReason::DeletedByPeer => (
            "deleted-by-peer",
            "the peer ended it",
            format!("the peer's log says why; {bring_up}, or `close_action = start` for the next time"),
        ),
        DownReason::DeletedByUs => ("deleted-by-us", "it was ended here", format!("bring it up: {bring_up}")),
        DownReason::Failed => {
            ("failed", "its IKE SA failed", format!("the log of that moment says why; {bring_up}"))
        }
        DownReason::DataPlane => (
            "data-plane",
            "the data plane could not go on with it",
            format!("the log of that moment tells which limit or setting; {bring_up}"),
        ),
        DownReason::Expired => (
            "expired",
            "its hard limit was reached before it had new keys",
            format!("the log before that moment says why it was not rekeyed; {bring_up}"),
        ),
        DownReason::Replaced => (
            "replaced",
            "a new IKE SA with the same peer took its place, without this child",
            format!("see that no two peers have one identity (`unique`); {bring_up}"),
        ),
        DownReason::Reauthenticated => (
            "reauthenticated",
            "the peers authenticated anew, and it has not come back",
            format!("bring it up: {bring_up}"),
        ),
    };
    Explanation::new(Health::Down, code, format!("{cause}, {ago} ago")).step(step)
}

/// Says what happens next of itself.
fn with_outlook(mut explanation: Explanation, outlook: Outlook, now: Instant) -> Explanation {
    explanation.notes.extend(match outlook {
        Outlook::Attempt(at) => Some(format!("next attempt in {}", ago(at, now))),
        Outlook::UnderWay => Some("an attempt is under way".to_owned()),
        Outlook::GivenUp => Some("no further attempt of itself: `keyingtries` is reached".to_owned()),
        Outlook::Traffic(_) => Some("next attempt with the next packet for it".to_owned()),
        Outlook::Nothing => Some("no further attempt of itself".to_owned()),
        Outlook::Held => None,
    });
    explanation
}

/// From one time to a later one.
fn ago(now: Instant, then: Instant) -> String {
    let seconds = now.saturating_duration_since(then).as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Both sides, as far as the negotiation came.
fn sides(record: &NegotiationRecord) -> Vec<Sides> {
    let unknown = || "(not shown by the peer)".to_owned();
    let typed = |id: &Identity| format!("{id} ({})", id.id_type());
    let mut rows = vec![("address", record.local.to_string(), record.remote.to_string())];
    let accepted = || {
        let accepted: Vec<String> = record.accepted_ids.iter().take(SHOWN).map(ToString::to_string).collect();
        if accepted.is_empty() { unknown() } else { format!("(we accept {})", accepted.join(", ")) }
    };
    if record.local_id.is_some() || record.remote_id.is_some() {
        let own = record.local_id.as_ref().map(typed).or_else(|| record.own_ids.first().map(typed));
        let theirs = record.remote_id.as_ref().map(typed);
        rows.push(("identity", own.unwrap_or_default(), theirs.unwrap_or_else(accepted)));
    }
    let proposals = |list: &[_]| {
        let shown: Vec<String> = list.iter().take(SHOWN).map(|p| Notation(p).to_string()).collect();
        if shown.is_empty() { unknown() } else { shown.join(", ") }
    };
    if !record.our_proposals.is_empty() || !record.peer_proposals.is_empty() {
        let label = if record.stage == Stage::ChildSa { "ESP proposals" } else { "IKE proposals" };
        let ours =
            if record.our_proposals.is_empty() { String::new() } else { proposals(&record.our_proposals) };
        rows.push((label, ours, proposals(&record.peer_proposals)));
    }
    let list = |list: &[TrafficSelector]| {
        let shown: Vec<String> = list.iter().take(SHOWN).map(ToString::to_string).collect();
        if shown.is_empty() { unknown() } else { shown.join(", ") }
    };
    let (ours, theirs) = (&record.our_selectors, &record.peer_selectors);
    if !ours.0.is_empty() || !theirs.0.is_empty() {
        rows.push(("network here", list(&ours.0), list(&theirs.0)));
        rows.push(("network there", list(&ours.1), list(&theirs.1)));
    }
    if let Some(notify) = record.notify {
        // Who refuses sends it.
        let (ours, theirs) = if record.initiator { ("", "sent") } else { ("sent", "") };
        let show = |side: &str| if side.is_empty() { String::new() } else { notify.to_string() };
        rows.push(("answered with", show(ours), show(theirs)));
    }
    rows.into_iter().map(|(label, ours, theirs)| Sides { label, ours, theirs }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever reads a code finds it in the manual, once.
    #[test]
    fn the_manual_has_every_code() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/troubleshooting.md");
        let manual = std::fs::read_to_string(path).unwrap();
        let states = [
            "up",
            "not-started",
            "child-not-started",
            "waits-for-traffic",
            "held",
            "connecting",
            "next-attempt",
            "name-unresolved",
            "overlap",
            "no-children",
            "not-configured",
            "unknown",
            "peer-dead",
            "deleted-by-peer",
            "deleted-by-us",
            "failed",
            "expired",
            "replaced",
            "reauthenticated",
        ];
        for code in OutcomeCode::ALL.iter().map(|code| code.name()).chain(states) {
            let row = format!("| `{code}` |");
            assert_eq!(manual.lines().filter(|line| line.starts_with(&row)).count(), 1, "{code}");
        }
    }

    #[test]
    fn times() {
        let now = Instant::now();
        assert_eq!(ago(now + Duration::from_secs(59), now), "59 s");
        assert_eq!(ago(now + Duration::from_secs(61), now), "1 min 1 s");
        assert_eq!(ago(now + Duration::from_secs(7260), now), "2 h 1 min");
        assert_eq!(ago(now, now + Duration::from_secs(1)), "0 s");
    }
}
