//! Why something is not up, or that it is: the facts behind `adit explain`.
//!
//! It owns the order in which causes are looked for and reads what the others know; it changes nothing.

use std::net::IpAddr;
use std::time::Instant;

use adit_ike::config::{Child, Connection, SelectorSpec};
use adit_ike::identity::Identity;
use adit_ike::proposal::Notation;
use adit_ike::{Difference, IkeSaState, IkeSaView, NegotiationRecord, OutcomeCode, Stage};
use adit_wire::ikev2::TrafficSelector;

use super::Daemon;
use super::health::ChildHealth;
use super::negotiations::Entry;
use super::reconciler::{ChildName, Outlook};
use crate::config::Host;
use crate::control::vici::Message;

/// Proposals and selectors of a side that are shown.
const SHOWN: usize = 8;

/// What is to be said about one child, connection or peer.
#[derive(Debug)]
pub(super) struct Explanation {
    subject: String,
    state: State,
    /// As the manual lists it.
    code: &'static str,
    /// One sentence.
    cause: String,
    step: Option<String>,
    difference: Option<Difference>,
    /// What is told of the peer is what it asked us for itself.
    inferred: bool,
    /// How often, since when, when again.
    notes: Vec<String>,
    /// What both sides have: ours, the peer's.
    rows: Vec<(&'static str, String, String)>,
}

/// How much of it is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    /// Up, but not all of it or not for long.
    Degraded,
    Down,
}

impl Explanation {
    fn new(subject: impl Into<String>, state: State, code: &'static str, cause: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            state,
            code,
            cause: cause.into(),
            step: None,
            difference: None,
            inferred: false,
            notes: Vec::new(),
            rows: Vec::new(),
        }
    }

    fn step(mut self, step: impl Into<String>) -> Self {
        self.step = Some(step.into());
        self
    }

    fn of_record(
        subject: String,
        state: State,
        entry: &Entry,
        record: &NegotiationRecord,
        now: Instant,
    ) -> Self {
        let lead = if state == State::Down { "" } else { "up, but " };
        let mut new = Self::new(subject, state, record.code.name(), format!("{lead}{}", record.cause()))
            .step(record.step());
        new.difference = record.difference();
        new.inferred = record.inferred;
        new.rows = rows(record);
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

    /// For a vici client.
    pub(super) fn message(&self) -> Message {
        let mut message = Message::new();
        message.put("subject", &self.subject).put(
            "state",
            match self.state {
                State::Up => "up",
                State::Degraded => "degraded",
                State::Down => "down",
            },
        );
        message.put("code", self.code).put("cause", &self.cause);
        if let Some(difference) = &self.difference {
            message.put("difference", difference.name()).put_display("difference-text", difference);
            message.put_flag("inferred", self.inferred);
        }
        if let Some(step) = &self.step {
            message.put("step", step);
        }
        message.put_list("notes", &self.notes);
        let mut rows = Message::new();
        for (label, ours, theirs) in &self.rows {
            let mut row = Message::new();
            row.put("ours", ours).put("theirs", theirs);
            rows.put_section(label, row);
        }
        message.put_section("sides", rows);
        message
    }
}

impl Daemon {
    /// Explains a connection, or one child of it.
    pub(super) fn explain(
        &mut self,
        now: Instant,
        connection: &str,
        child: Option<&str>,
    ) -> Vec<Explanation> {
        let mut explanations = self.negotiated_so(now, connection, child);
        // What is up as it should be may carry nothing.
        let up = |explanation: &&mut Explanation| explanation.code == "up";
        for explanation in explanations.iter_mut().filter(up) {
            let health = self.health(now, |name| name.connection == connection);
            let of = |name: &ChildName| format!("{}/{}", name.connection, name.child) == explanation.subject;
            let failing = health.into_iter().find(|one| of(&one.name) && one.verdict.code.is_failing());
            if let Some(ChildHealth { verdict, .. }) = failing {
                explanation.state = State::Degraded;
                explanation.code = verdict.code.as_str();
                explanation.cause = format!("up, but {}", verdict.message);
                explanation.step = Some(verdict.step);
            }
        }
        explanations
    }

    fn negotiated_so(&self, now: Instant, connection: &str, child: Option<&str>) -> Vec<Explanation> {
        let Some(configured) = self.connections.iter().find(|c| c.name == connection) else {
            let cause = "it is not configured";
            return vec![Explanation::new(connection, State::Down, "not-configured", cause)];
        };
        if let Some(child) = child {
            let found = configured.children.iter().find(|c| c.name == child);
            let none = || {
                Explanation::new(
                    format!("{connection}/{child}"),
                    State::Down,
                    "not-configured",
                    "it is not configured",
                )
            };
            return vec![found.map_or_else(none, |child| self.explain_child(now, configured, child))];
        }
        let explained: Vec<Explanation> =
            configured.children.iter().map(|child| self.explain_child(now, configured, child)).collect();
        // What keeps the IKE SA from coming up keeps all children: once is enough.
        match explained.split_first() {
            None => {
                let cause = "it has no children: nothing is to be up";
                vec![Explanation::new(connection, State::Down, "no-children", cause)]
            }
            Some((first, rest))
                if !rest.is_empty()
                    && rest.iter().all(|other| (other.code, &other.cause) == (first.code, &first.cause)) =>
            {
                explained
                    .into_iter()
                    .take(1)
                    .map(|one| Explanation { subject: connection.to_owned(), ..one })
                    .collect()
            }
            Some(_) => explained,
        }
    }

    /// Explains what is known of a peer by its address.
    pub(super) fn explain_peer(&self, now: Instant, address: IpAddr) -> Vec<Explanation> {
        let mut found = Vec::new();
        for entry in self.negotiations.from(address) {
            let record = self.negotiations.informed(&entry.record);
            let subject = match (&record.connection, &record.child) {
                (Some(connection), Some(child)) => format!("{address}, {connection}/{child}"),
                (Some(connection), None) => format!("{address}, {connection}"),
                (None, _) => address.to_string(),
            };
            let state = if entry.resolved { State::Up } else { State::Down };
            let mut new = Explanation::of_record(subject, state, entry, &record, now);
            new.cause = record.cause();
            found.push(new);
        }
        let up: Vec<String> = self
            .gateway
            .ike_sas()
            .filter(|sa| sa.remote.ip() == address && sa.established.is_some())
            .map(|sa| sa.connection)
            .collect();
        if found.is_empty() {
            found.push(if let Some(connection) = up.first() {
                let cause = format!("up with connection \"{connection}\": nothing to explain");
                Explanation::new(address.to_string(), State::Up, "up", cause)
            } else {
                let cause = "nothing is known of it: it has sent nothing that arrived, and nothing was tried with it";
                Explanation::new(address.to_string(), State::Down, "unknown", cause).step(
                    "if it says that it sends: let UDP ports 500 and 4500 of this gateway through, and see with \
                     `adit capture --outer` whether anything arrives",
                )
            });
        }
        found
    }

    fn explain_child(&self, now: Instant, connection: &Connection, child: &Child) -> Explanation {
        let name = ChildName::new(&connection.name, &child.name);
        let subject = format!("{}/{}", connection.name, child.name);
        let sas: Vec<IkeSaView> =
            self.gateway.ike_sas().filter(|sa| sa.connection == connection.name).collect();
        let installed = sas
            .iter()
            .flat_map(|sa| &sa.children)
            .filter(|sa| sa.name == child.name)
            .map(|sa| sa.installed)
            .min();
        let mut failures = self.negotiations.open_of_child(&connection.name, &child.name);
        if let Some(installed) = installed {
            return self.explain_up(now, (connection, child), subject, installed, failures);
        }
        let outlook = self.reconciler.outlook(&name);
        let failed = failures.find(|entry| entry.is_failure());
        if let Some(explanation) = self.unresolved(connection, &subject) {
            return with_outlook(explanation, outlook, now);
        }
        if outlook == Outlook::Held {
            let cause = "an operator took it down";
            return Explanation::new(subject, State::Down, "held", cause)
                .step(format!("bring it up: `adit up {}/{}`", connection.name, child.name));
        }
        if let Some(entry) = failed {
            let record = self.negotiations.informed(&entry.record);
            let explanation = Explanation::of_record(subject, State::Down, entry, &record, now);
            return with_outlook(explanation, outlook, now);
        }
        let explanation = match outlook {
            Outlook::UnderWay => {
                let handshake = sas.iter().find(|sa| sa.state == IkeSaState::Connecting && sa.initiator);
                let with = handshake.map_or_else(
                    || "its IKE SA is up".to_owned(),
                    |sa| format!("waiting for an answer of {}", sa.remote.ip()),
                );
                Explanation::new(
                    subject,
                    State::Down,
                    "connecting",
                    format!("it is being brought up: {with}"),
                )
                .step("ask again in some seconds")
            }
            Outlook::Traffic(_) => Explanation::new(
                subject,
                State::Down,
                "waits-for-traffic",
                "it comes up with the first packet for it (start_action = trap), and there was none",
            )
            .step("send something from the local network to the remote one, or bring it up: `adit up`"),
            Outlook::Attempt(_) => {
                Explanation::new(subject, State::Down, "next-attempt", "it is about to be brought up")
            }
            Outlook::Nothing | Outlook::Held | Outlook::GivenUp if !sas.is_empty() => Explanation::new(
                subject,
                State::Down,
                "child-not-started",
                "its IKE SA is up, and nobody has asked for this child",
            )
            .step(format!(
                "bring it up: `adit up {}/{}`, or `start_action = start`",
                connection.name, child.name
            )),
            Outlook::Nothing | Outlook::Held | Outlook::GivenUp => {
                let cause = "nothing starts it here (start_action = none), and the peer has not";
                Explanation::new(subject, State::Down, "not-started", cause).step(format!(
                    "bring it up: `adit up {}/{}`, or `start_action = start`",
                    connection.name, child.name
                ))
            }
        };
        with_outlook(explanation, outlook, now)
    }

    /// What is up may not stay so, or be less than is wanted.
    fn explain_up<'a>(
        &self,
        now: Instant,
        (connection, child): (&Connection, &Child),
        subject: String,
        installed: Instant,
        mut failures: impl Iterator<Item = &'a Entry>,
    ) -> Explanation {
        let relevant = |entry: &&Entry| match entry.record.code {
            OutcomeCode::Narrowed => entry.record.difference().is_some(),
            // Somebody may try in vain what we have already.
            _ => entry.record.known && matches!(entry.record.stage, Stage::ChildSa | Stage::IkeRekey),
        };
        if let Some(entry) = failures.find(relevant) {
            let record = self.negotiations.informed(&entry.record);
            let state = if record.code == OutcomeCode::Narrowed { State::Up } else { State::Degraded };
            return Explanation::of_record(subject, state, entry, &record, now);
        }
        if let Some((what, step)) = self.overlap(connection, child) {
            return Explanation::new(subject, State::Degraded, "overlap", format!("up, but {what}"))
                .step(step);
        }
        let since = ago(now, installed);
        Explanation::new(subject, State::Up, "up", format!("up for {since}: nothing to explain"))
    }

    /// Networks that are in two places: packets for them find one way at most.
    fn overlap(&self, connection: &Connection, child: &Child) -> Option<(String, String)> {
        let key = (connection.name.clone(), child.name.clone());
        if self.treatments.get(&key).is_some_and(|treatment| treatment.translation.is_some()) {
            return None;
        }
        let (local, remote) = (fixed(&child.local_ts), fixed(&child.remote_ts));
        let both =
            remote.iter().find(|r| local.iter().any(|l| l.covers(r) && l.is_any_port() && l.protocol == 0));
        if let Some(network) = both {
            return Some((
                format!("{network} is on both sides: packets for it stay here"),
                "give one side other addresses in the tunnel: `local_net` and `remote_net` translate them one to one"
                    .to_owned(),
            ));
        }
        if self.interfaces.contains_key(&connection.name) {
            return None;
        }
        for other in self.connections.iter().filter(|other| !self.interfaces.contains_key(&other.name)) {
            for sibling in &other.children {
                if other.name == connection.name && sibling.name == child.name {
                    continue;
                }
                let (theirs, ours) = (fixed(&sibling.remote_ts), fixed(&sibling.local_ts));
                let meet = ours.iter().any(|o| local.iter().any(|l| l.intersection(o).is_some()));
                if let Some(network) = remote.iter().find(|r| theirs.contains(r)).filter(|_| meet) {
                    return Some((
                        format!("{network} is also behind {}/{}: packets for it go one way only", other.name, sibling.name),
                        "let one of the two be another network: `remote_net` translates it one to one, or give each \
                         connection an `interface`"
                            .to_owned(),
                    ));
                }
            }
        }
        None
    }

    /// A host name of the connection that means nothing yet.
    fn unresolved(&self, connection: &Connection, subject: &str) -> Option<Explanation> {
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
            Explanation::new(subject, State::Down, "name-unresolved", format!("{whose} {name} {why}")).step(format!(
                "correct the name in `{key}` or put an address there; `getent ahosts {name}` on this host shows what \
                 its resolver says"
            )),
        )
    }
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

/// The configured selectors that are the same on every IKE SA.
fn fixed(specs: &[SelectorSpec]) -> Vec<TrafficSelector> {
    let fixed = specs.iter().filter_map(|spec| match spec {
        SelectorSpec::Fixed(selector) => Some(*selector),
        SelectorSpec::Dynamic { .. } => None,
    });
    fixed.collect()
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
fn rows(record: &NegotiationRecord) -> Vec<(&'static str, String, String)> {
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
    rows
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
