//! `adit status`: what is configured, what of it is up, and why the rest is not.
//!
//! It asks the daemon, sorts the answers, and prints them for people (at most [`WIDTH`](super::text::WIDTH) columns) or programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::Exit;
use super::failure::Failure;
use super::text::{SCHEMA, Text, duration, octets, tell};
use crate::config::ControlUri;
use crate::control::client::{Client, ClientError};
use crate::control::vici::Message;

/// What `adit status` prints; its JSON form is this structure.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    schema: u32,
    /// Of all that ought to be up.
    state: State,
    connections: Vec<Connection>,
    shunts: Vec<Shunt>,
}

/// How much is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Up,
    Degraded,
    Down,
}

/// One connection, and everything of its name.
#[derive(Debug, Default, Serialize)]
struct Connection {
    name: String,
    /// `false` if an SA outlived it.
    configured: bool,
    /// Its own, if it has one.
    interface: Option<String>,
    local_addrs: Vec<String>,
    remote_addrs: Vec<String>,
    local_id: String,
    remote_id: String,
    ike_sas: Vec<IkeSa>,
    children: Vec<Child>,
    /// The last negotiation that did not succeed, if none has succeeded since.
    last_failure: Option<LastFailure>,
}

/// A child that needs no SA.
#[derive(Debug, Serialize)]
struct Shunt {
    /// With its connection's.
    name: String,
    /// `pass` or `drop`.
    mode: String,
    local_ts: Vec<String>,
    remote_ts: Vec<String>,
}

#[derive(Debug, Serialize)]
struct IkeSa {
    id: u64,
    state: String,
    initiator: bool,
    local: String,
    remote: String,
    local_id: String,
    remote_id: String,
    nat_local: bool,
    nat_remote: bool,
    suite: String,
    established_seconds: Option<u64>,
    rekey_in_seconds: Option<u64>,
    reauth_in_seconds: Option<u64>,
    /// Is a quantum computer of no use against it: ML-KEM (RFC 9370), or a key mixed in (RFC 8784)?
    post_quantum: bool,
    ppk: bool,
    mobike: bool,
}

/// One child: its configuration and its SAs.
#[derive(Debug, Default, Serialize)]
struct Child {
    name: String,
    configured: bool,
    /// Has it `start_action = start`?
    start: bool,
    up: bool,
    /// Why it is not up, or that it is, as `adit explain` says it.
    explained: Option<Explained>,
    /// Whether it carries traffic, if it is up.
    health: Option<Health>,
    local_ts: Vec<String>,
    remote_ts: Vec<String>,
    sas: Vec<ChildSa>,
}

/// What the daemon says of a child.
#[derive(Debug, Serialize)]
struct Explained {
    state: State,
    code: String,
    cause: String,
    /// What to do, if there is anything.
    step: Option<String>,
}

/// What the daemon makes of a child's counters.
#[derive(Debug, Serialize)]
struct Health {
    /// `flowing`, `idle`, or what is wrong.
    code: String,
    failing: bool,
    /// What is wrong is with what comes `in` from the peer, or goes `out` to it.
    direction: Option<String>,
    message: String,
    /// What to do; empty if nothing is wrong.
    step: String,
    /// The largest packet that gets through to the peer, where that is less than the system believes, and heeded.
    path_limit: Option<u16>,
}

#[derive(Debug, Serialize)]
struct ChildSa {
    id: u64,
    ike_sa: u64,
    state: String,
    /// As vici has it, in small letters.
    mode: String,
    /// The packet worker whose own it is (RFC 9611).
    worker: Option<u64>,
    spi_in: String,
    spi_out: String,
    suite: String,
    udp_encapsulation: bool,
    local_ts: Vec<String>,
    remote_ts: Vec<String>,
    packets_in: u64,
    bytes_in: u64,
    packets_out: u64,
    bytes_out: u64,
    installed_seconds: u64,
    rekey_in_seconds: Option<u64>,
    ends_in_seconds: Option<u64>,
}

#[derive(Debug, Serialize)]
struct LastFailure {
    seconds_ago: u64,
    code: String,
    blame: String,
    child: Option<String>,
    remote: String,
    message: String,
    step: String,
}

pub(super) fn run(uri: &ControlUri, as_json: bool) -> Result<Exit, Failure> {
    let mut client = Client::connect(uri)?;
    client.set_timeout(Some(Duration::from_secs(10)))?;
    let status = Status::ask(&mut client)?;
    tell(&if as_json { status.to_json() } else { status.to_text() });
    Ok(status.exit())
}

impl Status {
    /// Asks a daemon.
    pub(super) fn ask(client: &mut Client) -> Result<Self, ClientError> {
        let mut facts = Facts::default();
        client.streamed("list-conns", Message::new(), "list-conn", |event| facts.configured(&event))?;
        let mut shunts = Message::new();
        shunts.put("pass", "yes").put("drop", "yes");
        client.streamed("list-policies", shunts, "list-policy", |event| facts.shunted(&event))?;
        client.streamed("list-sas", Message::new(), "list-sa", |event| facts.established(&event))?;
        client.streamed("health", Message::new(), "health", |event| facts.judged(&event))?;
        client.streamed("list-negotiations", Message::new(), "list-negotiation", |event| {
            facts.negotiated(&event)
        })?;
        client.streamed("explain", Message::new(), "explanation", |event| facts.explained(&event))?;
        Ok(facts.status())
    }

    /// As the exit status tells it.
    pub(super) fn exit(&self) -> Exit {
        match self.state {
            State::Up => Exit::Ok,
            State::Degraded => Exit::Degraded,
            State::Down => Exit::Down,
        }
    }

    /// For programs.
    pub(super) fn to_json(&self) -> String {
        // Fails for maps with odd keys and for writers that fail; here is neither.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// For people.
    pub(super) fn to_text(&self) -> String {
        let mut text = Text::default();
        if self.connections.is_empty() && self.shunts.is_empty() {
            text.line(0, "no connections are configured");
        }
        for connection in &self.connections {
            connection.print(&mut text);
        }
        for shunt in &self.shunts {
            shunt.print(&mut text);
        }
        text.0
    }
}

/// What the daemon answered.
#[derive(Default)]
struct Facts {
    connections: Vec<Connection>,
    shunts: Vec<Shunt>,
}

impl Facts {
    fn connection(&mut self, name: &str) -> &mut Connection {
        let new = || Connection { name: name.to_owned(), ..Connection::default() };
        find_or_add(&mut self.connections, |known| known.name == name, new)
    }

    fn shunted(&mut self, event: &Message) {
        self.shunts.extend(event.sections().map(|(name, section)| Shunt {
            name: name.to_owned(),
            mode: text(section, "mode").to_lowercase(),
            local_ts: texts(section, "local-ts"),
            remote_ts: texts(section, "remote-ts"),
        }));
    }

    fn configured(&mut self, event: &Message) {
        for (name, section) in event.sections() {
            let connection = self.connection(name);
            connection.configured = true;
            connection.interface = section.text("interface").map(Into::into);
            connection.local_addrs = texts(section, "local_addrs");
            connection.remote_addrs = texts(section, "remote_addrs");
            connection.local_id = section.section("local-1").map(|side| text(side, "id")).unwrap_or_default();
            connection.remote_id =
                section.section("remote-1").map(|side| text(side, "id")).unwrap_or_default();
            for (name, section) in section.section("children").into_iter().flat_map(Message::sections) {
                connection.children.push(Child {
                    name: name.to_owned(),
                    configured: true,
                    start: section.text("start_action").is_some_and(|action| action.contains("start")),
                    local_ts: texts(section, "local-ts"),
                    remote_ts: texts(section, "remote-ts"),
                    ..Child::default()
                });
            }
        }
    }

    fn established(&mut self, event: &Message) {
        for (name, section) in event.sections() {
            let connection = self.connection(name);
            let id = number(section, "uniqueid");
            connection.ike_sas.push(IkeSa {
                id,
                state: text(section, "state"),
                initiator: section.flag("initiator"),
                local: endpoint(section, "local"),
                remote: endpoint(section, "remote"),
                local_id: text(section, "local-id"),
                remote_id: text(section, "remote-id"),
                nat_local: section.flag("nat-local"),
                nat_remote: section.flag("nat-remote"),
                suite: suite(section),
                established_seconds: section.number("established"),
                rekey_in_seconds: section.number("rekey-time"),
                reauth_in_seconds: section.number("reauth-time"),
                post_quantum: section.flag("ppk") || suite(section).contains("ML_KEM"),
                ppk: section.flag("ppk"),
                mobike: section.flag("mobike"),
            });
            for (_, section) in section.section("child-sas").into_iter().flat_map(Message::sections) {
                connection.child(&text(section, "name")).add(id, section);
            }
        }
    }

    fn judged(&mut self, event: &Message) {
        for (_, section) in event.sections() {
            let child = self.connection(&text(section, "ike")).child(&text(section, "child"));
            // Of a child of several IKE SAs the one that fails says more.
            if child.health.as_ref().is_some_and(|known| known.failing || !section.flag("failing")) {
                continue;
            }
            child.health = Some(Health {
                code: text(section, "code"),
                failing: section.flag("failing"),
                direction: section.text("direction").map(Into::into),
                message: text(section, "message"),
                step: text(section, "step"),
                path_limit: section.number("path-limit"),
            });
        }
    }

    fn explained(&mut self, event: &Message) {
        let child = self.connection(&text(event, "ike")).child(&text(event, "child"));
        child.explained = Some(Explained {
            state: match event.text("state").as_deref() {
                Some("up") => State::Up,
                Some("degraded") => State::Degraded,
                _ => State::Down,
            },
            code: text(event, "code"),
            cause: text(event, "cause"),
            step: event.text("step").map(Into::into),
        });
    }

    fn negotiated(&mut self, event: &Message) {
        let Some(name) = event.text("connection") else { return };
        let connection = self.connection(&name);
        let code = text(event, "code");
        if ["narrowed", "cancelled"].contains(&code.as_str()) || event.flag("resolved") {
            return;
        }
        connection.last_failure = Some(LastFailure {
            seconds_ago: number(event, "ago"),
            code,
            blame: text(event, "blame"),
            child: event.text("child").map(Into::into),
            remote: endpoint(event, "remote"),
            message: text(event, "cause"),
            step: text(event, "step"),
        });
    }

    /// What ought to be up is what has `start_action = start`; where nothing has, everything.
    fn status(self) -> Status {
        // A failure of a connection that is gone is of no use to anybody.
        let connections: Vec<_> = self
            .connections
            .into_iter()
            .filter(|known| known.configured || !known.ike_sas.is_empty())
            .collect();
        let configured = || {
            connections.iter().flat_map(|connection| &connection.children).filter(|child| child.configured)
        };
        let any_start = configured().any(|child| child.start);
        let wanted = || configured().filter(|child| child.start || !any_start);
        let up = wanted().filter(|child| child.up).count();
        let degraded = wanted().any(|child| child.up && child.is_degraded());
        let state = match (up, wanted().count()) {
            (up, wanted) if up == wanted && !degraded => State::Up,
            (0, _) => State::Down,
            _ => State::Degraded,
        };
        Status { schema: SCHEMA, state, connections, shunts: self.shunts }
    }
}

impl Connection {
    fn child(&mut self, name: &str) -> &mut Child {
        let new = || Child { name: name.to_owned(), ..Child::default() };
        find_or_add(&mut self.children, |known| known.name == name, new)
    }

    fn state(&self) -> &'static str {
        let up = self.children.iter().filter(|child| child.up).count();
        let established =
            self.ike_sas.iter().any(|sa| ["ESTABLISHED", "REKEYING"].contains(&sa.state.as_str()));
        match (up, self.children.len()) {
            (up, all) if up == all && established => "up",
            (0, _) if established => "up, no child",
            (0, _) if self.ike_sas.is_empty() => "down",
            (0, _) => "connecting",
            _ => "partly up",
        }
    }

    fn print(&self, text: &mut Text) {
        let gone = if self.configured { "" } else { ", no longer configured" };
        let interface =
            self.interface.as_ref().map_or_else(String::new, |name| format!(", interface {name}"));
        text.line(0, &format!("{}: {}{interface}{gone}", self.name, self.state()));
        for sa in &self.ike_sas {
            sa.print(text);
        }
        if self.ike_sas.is_empty() {
            let side = |id: &str, addresses: &[String]| {
                let addresses = addresses.join(",");
                if id.is_empty() || id == addresses { addresses } else { format!("{id} at {addresses}") }
            };
            let local = side(&self.local_id, &self.local_addrs);
            text.line(2, &format!("{local} <-> {}", side(&self.remote_id, &self.remote_addrs)));
        }
        for child in &self.children {
            child.print(text);
        }
        // What keeps a child down is told with it.
        let told = |failure: &&LastFailure| {
            let mut all = self.children.iter().filter_map(|child| child.explained.as_ref());
            !all.any(|explained| explained.code == failure.code)
        };
        if let Some(failure) = self.last_failure.as_ref().filter(told) {
            let ago = duration(failure.seconds_ago);
            text.line(2, &format!("last failure, {ago} ago, {}: {}", failure.code, failure.message));
            text.line(6, &format!("To do: {}", failure.step));
        }
        if self.last_failure.is_some() {
            text.line(2, &format!("what each side has: adit explain {}", self.name));
        }
    }
}

impl Shunt {
    fn print(&self, text: &mut Text) {
        let what = if self.mode == "pass" { "in the clear" } else { "dropped" };
        let (local, remote) = (self.local_ts.join(","), self.remote_ts.join(","));
        text.line(0, &format!("{}: {what}, {local} <-> {remote}", self.name));
    }
}

impl IkeSa {
    fn print(&self, text: &mut Text) {
        text.line(
            2,
            &format!("{} at {} <-> {} at {}", self.local_id, self.local, self.remote_id, self.remote),
        );
        let role = if self.initiator { "initiator" } else { "responder" };
        let mut line = format!("IKE SA {}, {role}, {}", self.id, self.state.to_lowercase());
        if let Some(seconds) = self.established_seconds {
            let _ = write!(line, " {} ago", duration(seconds));
        }
        if !self.suite.is_empty() {
            let _ = write!(line, ", {}", self.suite);
        }
        match (self.nat_local, self.nat_remote) {
            (false, false) => {}
            (true, false) => line.push_str(", we are behind a NAT"),
            (false, true) => line.push_str(", the peer is behind a NAT"),
            (true, true) => line.push_str(", both are behind NATs"),
        }
        if self.ppk {
            line.push_str(", post-quantum preshared key");
        }
        if self.mobike {
            line.push_str(", MOBIKE");
        }
        for (what, seconds) in
            [("rekeying", self.rekey_in_seconds), ("reauthentication", self.reauth_in_seconds)]
        {
            if let Some(seconds) = seconds {
                let _ = write!(line, ", {what} in {}", duration(seconds));
            }
        }
        text.line(2, &line);
    }
}

impl Child {
    fn add(&mut self, ike_sa: u64, section: &Message) {
        let state = text(section, "state");
        self.up |= ["INSTALLED", "REKEYING"].contains(&state.as_str());
        self.sas.push(ChildSa {
            id: number(section, "uniqueid"),
            ike_sa,
            state,
            mode: text(section, "mode").to_lowercase(),
            worker: section.number("cpu"),
            spi_in: text(section, "spi-in"),
            spi_out: text(section, "spi-out"),
            suite: suite(section),
            udp_encapsulation: section.flag("encap"),
            local_ts: texts(section, "local-ts"),
            remote_ts: texts(section, "remote-ts"),
            packets_in: number(section, "packets-in"),
            bytes_in: number(section, "bytes-in"),
            packets_out: number(section, "packets-out"),
            bytes_out: number(section, "bytes-out"),
            installed_seconds: number(section, "install-time"),
            rekey_in_seconds: section.number("rekey-time"),
            ends_in_seconds: section.number("life-time"),
        });
    }

    /// Is it up, but not all of it, not for long, or without traffic?
    fn is_degraded(&self) -> bool {
        self.explained.as_ref().is_some_and(|explained| explained.state == State::Degraded)
    }

    fn print(&self, text: &mut Text) {
        let explained = self.explained.as_ref().filter(|explained| explained.code != "up");
        let explain = |text: &mut Text| {
            let Some(Explained { code, cause, step, .. }) = explained else { return };
            match cause.strip_prefix("up, but ") {
                Some(rest) => text.line(4, &format!("{}: up, but {code}: {rest}", self.name)),
                None => text.line(6, &format!("{code}: {cause}")),
            }
            if let Some(step) = step {
                text.line(6, &format!("To do: {step}"));
            }
        };
        if self.up {
            explain(text);
        }
        let state = if self.up { "up" } else { "down" };
        if self.sas.is_empty() {
            text.line(4, &format!("{}: {state}, {}", self.name, selectors(&self.local_ts, &self.remote_ts)));
        }
        if !self.up {
            explain(text);
        }
        for sa in &self.sas {
            let state = if sa.state == "INSTALLED" { "up".to_owned() } else { sa.state.to_lowercase() };
            let own = sa.worker.map_or_else(String::new, |worker| format!(" for worker {worker}"));
            let selectors = selectors(&sa.local_ts, &sa.remote_ts);
            text.line(4, &format!("{}: {state}{own}, {selectors}", self.name));
            let mode = match sa.mode.as_str() {
                "transport" => "transport mode, ",
                "iptfs" => "IP-TFS, ",
                _ => "",
            };
            let encapsulation = if sa.udp_encapsulation { "ESP in UDP" } else { "ESP" };
            let since = duration(sa.installed_seconds);
            let mut line = format!(
                "{mode}{encapsulation}, {}, for {since}, SPIs {} in, {} out",
                sa.suite, sa.spi_in, sa.spi_out
            );
            if let Some(limit) = self.health.as_ref().and_then(|health| health.path_limit) {
                let _ = write!(line, ", packets of at most {limit} octets (probed)");
            }
            if let Some(seconds) = sa.rekey_in_seconds {
                let _ = write!(line, ", rekeying in {}", duration(seconds));
            }
            text.line(6, &line);
            text.line(
                6,
                &format!(
                    "in {}, {}; out {}, {}",
                    super::count(sa.packets_in, "packet", "packets"),
                    octets(sa.bytes_in),
                    super::count(sa.packets_out, "packet", "packets"),
                    octets(sa.bytes_out)
                ),
            );
        }
    }
}

fn find_or_add<T>(list: &mut Vec<T>, is_it: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> &mut T {
    let position = list.iter().position(is_it).unwrap_or_else(|| {
        list.push(new());
        list.len() - 1
    });
    #[expect(clippy::indexing_slicing, reason = "it was found there or has been put there")]
    &mut list[position]
}

fn text(message: &Message, key: &str) -> String {
    message.text(key).map(Into::into).unwrap_or_default()
}

fn texts(message: &Message, key: &str) -> Vec<String> {
    message.list(key).map(Into::into).collect()
}

fn number(message: &Message, key: &str) -> u64 {
    message.number(key).unwrap_or(0)
}

/// Address and port of one side.
fn endpoint(message: &Message, side: &str) -> String {
    let (host, port) = (text(message, &format!("{side}-host")), text(message, &format!("{side}-port")));
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The algorithms of an SA.
fn suite(message: &Message) -> String {
    let mut suite = text(message, "encr-alg");
    if let Some(bits) = message.text("encr-keysize") {
        let _ = write!(suite, "_{bits}");
    }
    let additional = (1..=7).map(|number| format!("ake{number}"));
    for key in ["integ-alg", "prf-alg", "dh-group"].map(str::to_owned).into_iter().chain(additional) {
        if let Some(name) = message.text(&key) {
            let _ = write!(suite, "/{name}");
        }
    }
    if message.text("esn").is_some() {
        suite.push_str("/EXT_SEQ");
    }
    suite
}

fn selectors(local: &[String], remote: &[String]) -> String {
    format!("{} <-> {}", local.join(","), remote.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(name: &str, content: Message) -> Message {
        let mut message = Message::new();
        message.put_section(name, content);
        message
    }

    fn configured(name: &str, children: &[(&str, &str)]) -> Message {
        let mut connection = Message::new();
        connection.put_list("local_addrs", ["192.0.2.1"]).put_list("remote_addrs", ["192.0.2.2"]);
        if name == "branch" {
            connection.put("interface", "vpn0");
        }
        connection.put_section("local-1", Message::of(&[("id", "a.example")]));
        connection.put_section("remote-1", Message::of(&[("id", "%any")]));
        let mut sections = Message::new();
        for (name, start) in children {
            let mut child = Message::of(&[("start_action", start)]);
            child.put_list("local-ts", ["10.1.0.0/16"]).put_list("remote-ts", ["10.2.0.0/16"]);
            sections.put_section(name, child);
        }
        connection.put_section("children", sections);
        section(name, connection)
    }

    fn established(name: &str, children: &[&str]) -> Message {
        let mut sa = Message::of(&[
            ("uniqueid", "1"),
            ("state", "ESTABLISHED"),
            ("local-host", "192.0.2.1"),
            ("local-port", "4500"),
            ("local-id", "a.example"),
            ("remote-host", "2001:db8::2"),
            ("remote-port", "4500"),
            ("remote-id", "b.example"),
            ("initiator", "yes"),
            ("nat-local", "yes"),
            ("encr-alg", "AES_GCM_16"),
            ("encr-keysize", "256"),
            ("prf-alg", "PRF_HMAC_SHA2_256"),
            ("dh-group", "CURVE_25519"),
            ("established", "3725"),
        ]);
        let mut sections = Message::new();
        for name in children {
            let mut child = Message::of(&[
                ("name", name),
                ("uniqueid", "7"),
                ("state", "INSTALLED"),
                ("mode", "IPTFS"),
                ("encap", "yes"),
                ("cpu", "3"),
                ("spi-in", "0000c0de"),
                ("spi-out", "beef0001"),
                ("encr-alg", "AES_CBC"),
                ("encr-keysize", "256"),
                ("integ-alg", "HMAC_SHA2_256_128"),
                ("esn", "1"),
                ("bytes-in", "84"),
                ("packets-in", "1"),
                ("bytes-out", "123456789"),
                ("packets-out", "98765"),
                ("install-time", "59"),
            ]);
            child.put_list("local-ts", ["10.1.0.0/16"]).put_list("remote-ts", ["10.2.0.0/24"]);
            sections.put_section(&format!("{name}-7"), child);
        }
        sa.put_section("child-sas", sections);
        section(name, sa)
    }

    fn failure(name: &str, code: &str, sentence: &str) -> Message {
        Message::of(&[
            ("ago", "90"),
            ("code", code),
            ("blame", "peer-incompatible"),
            ("connection", name),
            ("child", "net"),
            ("remote-host", "192.0.2.2"),
            ("remote-port", "500"),
            ("cause", sentence),
            ("step", "let it answer"),
        ])
    }

    fn explained(ike: &str, child: &str, state: &str, code: &str, cause: &str, step: &str) -> Message {
        let mut told =
            vec![("ike", ike), ("child", child), ("state", state), ("code", code), ("cause", cause)];
        told.extend(Some(("step", step)).filter(|_| !step.is_empty()));
        Message::of(&told)
    }

    #[test]
    fn for_people() {
        let mut facts = Facts::default();
        facts.configured(&configured("gw", &[("net", "start"), ("lab", "none")]));
        facts.configured(&configured("branch", &[("net", "start")]));
        facts.established(&established("gw", &["net"]));
        let mut overcome = failure("gw", "timeout", "old");
        overcome.put_flag("resolved", true);
        facts.negotiated(&overcome);
        facts.negotiated(&failure("gw", "unknown-peer", "who is that"));
        facts.negotiated(&failure("gw", "narrowed", ""));
        facts.negotiated(&failure("gw", "cancelled", ""));
        let cause = "no common ESP proposal with 192.0.2.2: they differ in the encryption";
        let step =
            "on the peer add aes256gcm16 to its ESP proposals, or here one of its own to `esp_proposals`";
        facts.negotiated(&failure("branch", "no-proposal-chosen", cause));
        facts.negotiated(&Message::of(&[("code", "unknown-peer")]));
        let filtered = "up, but IKE answers, 14 packets left, and no ESP packet has ever arrived";
        facts.explained(&explained("gw", "net", "degraded", "esp-filtered", filtered, "let it through"));
        facts.explained(&explained("gw", "lab", "down", "child-not-started", "nobody has asked for it", ""));
        facts.explained(&explained("branch", "net", "down", "no-proposal-chosen", cause, step));
        let status = facts.status();
        assert_eq!(status.exit(), Exit::Degraded);
        assert_eq!(
            status.to_text(),
            "\
gw: partly up
  a.example at 192.0.2.1:4500 <-> b.example at [2001:db8::2]:4500
  IKE SA 1, initiator, established 1 h 2 min ago, AES_GCM_16_256/PRF_HMAC_SHA2_256/CURVE_25519, we
      are behind a NAT
    net: up, but esp-filtered: IKE answers, 14 packets left, and no ESP packet has ever arrived
      To do: let it through
    net: up for worker 3, 10.1.0.0/16 <-> 10.2.0.0/24
      IP-TFS, ESP in UDP, AES_CBC_256/HMAC_SHA2_256_128/EXT_SEQ, for 59 s, SPIs 0000c0de in,
          beef0001 out
      in 1 packet, 84 B; out 98765 packets, 123.4 MB
    lab: down, 10.1.0.0/16 <-> 10.2.0.0/16
      child-not-started: nobody has asked for it
  last failure, 1 min 30 s ago, unknown-peer: who is that
      To do: let it answer
  what each side has: adit explain gw
branch: down, interface vpn0
  a.example at 192.0.2.1 <-> %any at 192.0.2.2
    net: down, 10.1.0.0/16 <-> 10.2.0.0/16
      no-proposal-chosen: no common ESP proposal with 192.0.2.2: they differ in the encryption
      To do: on the peer add aes256gcm16 to its ESP proposals, or here one of its own to
          `esp_proposals`
  what each side has: adit explain branch
"
        );
    }

    /// What carries nothing is not well, though it is up.
    #[test]
    fn what_is_degraded_is_told_by_the_exit_status() {
        let exit = |state: &str| {
            let mut facts = Facts::default();
            facts.configured(&configured("gw", &[("net", "start")]));
            facts.established(&established("gw", &["net"]));
            facts.explained(&explained("gw", "net", state, "esp-filtered", "up, but", ""));
            facts.status().exit()
        };
        assert_eq!((exit("up"), exit("degraded")), (Exit::Ok, Exit::Degraded));
    }

    #[test]
    fn for_programs() {
        let mut facts = Facts::default();
        facts.configured(&configured("gw", &[("net", "none")]));
        facts.established(&established("gw", &["net"]));
        let json: serde_json::Value = serde_json::from_str(&facts.status().to_json()).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["state"], "up");
        let connection = &json["connections"][0];
        assert_eq!(connection["name"], "gw");
        assert_eq!(connection["ike_sas"][0]["remote"], "[2001:db8::2]:4500");
        assert_eq!(connection["children"][0]["up"], true);
        assert_eq!(connection["children"][0]["sas"][0]["bytes_out"], 123_456_789);
        assert!(connection["last_failure"].is_null());
    }

    #[test]
    fn what_ought_to_be_up_decides_the_exit_status() {
        let exit = |children: &[(&str, &str)], up: &[&str]| {
            let mut facts = Facts::default();
            facts.configured(&configured("gw", children));
            if !up.is_empty() {
                facts.established(&established("gw", up));
            }
            facts.status().exit()
        };
        assert_eq!(Facts::default().status().exit(), Exit::Ok);
        assert_eq!(exit(&[("a", "start"), ("b", "start")], &["a", "b"]), Exit::Ok);
        assert_eq!(exit(&[("a", "start"), ("b", "start")], &["b"]), Exit::Degraded);
        assert_eq!(exit(&[("a", "start"), ("b", "start")], &[]), Exit::Down);
        assert_eq!(exit(&[("a", "start"), ("b", "none")], &["a"]), Exit::Ok);
        assert_eq!(exit(&[("a", "start"), ("b", "none")], &["b"]), Exit::Down);
        assert_eq!(exit(&[("a", "none"), ("b", "none")], &["a"]), Exit::Degraded);
        assert_eq!(exit(&[("a", "none")], &[]), Exit::Down);
    }
}
