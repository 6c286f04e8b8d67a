//! The vici commands the daemon knows: a table of names and functions.
//!
//! A function answers at once or leaves the reply with the daemon, which answers when the gateway reports the end.

use std::time::{Duration, Instant};

use adit_esp::Action;
use adit_ike::{ChildHandle, CommandError, IkeSaHandle, IkeSaState, RequestId, TerminateTarget};

use super::{Daemon, Pending, capture};
use crate::control::report;
use crate::control::server::{Reply, Request};
use crate::control::vici::Message;

struct Command {
    name: &'static str,
    run: fn(&mut Daemon, Instant, &Message, Reply),
}

const COMMANDS: &[Command] = &[
    Command { name: "version", run: version },
    Command { name: "stats", run: stats },
    Command { name: "initiate", run: initiate },
    Command { name: "terminate", run: terminate },
    Command { name: "rekey", run: rekey },
    Command { name: "list-sas", run: list_sas },
    Command { name: "list-conns", run: list_conns },
    Command { name: "get-conns", run: get_conns },
    Command { name: "list-policies", run: list_policies },
    Command { name: "list-negotiations", run: list_negotiations },
    Command { name: "capture", run: capture::capture },
    Command { name: "reload", run: reload },
    Command { name: "reload-settings", run: reload },
];

/// Runs a command of a client.
pub(super) fn run(daemon: &mut Daemon, now: Instant, request: Request) {
    match COMMANDS.iter().find(|command| command.name == request.command) {
        Some(command) => (command.run)(daemon, now, &request.arguments, request.reply),
        None => request.reply.unknown_command(),
    }
}

fn version(_: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    let system = rustix::system::uname();
    let mut answer = Message::new();
    answer.put("daemon", "adit").put("version", env!("CARGO_PKG_VERSION"));
    answer.put("sysname", system.sysname().to_bytes());
    answer.put("release", system.release().to_bytes());
    answer.put("machine", system.machine().to_bytes());
    reply.respond(answer);
}

/// In the shape `swanctl --stats` prints, whose workers and queues Adit does not have; then Adit's own counters.
fn stats(daemon: &mut Daemon, now: Instant, _: &Message, reply: Reply) {
    let none = |classes: &[&str]| {
        let mut section = Message::new();
        for class in classes {
            section.put(class, "0");
        }
        section
    };
    let classes = ["critical", "high", "medium", "low"];
    let mut workers = none(&["total", "idle"]);
    workers.put_section("active", none(&classes));
    let (mut total, mut half_open) = (0_u64, 0_u64);
    for sa in daemon.gateway.ike_sas() {
        total += 1;
        half_open += u64::from(sa.state == IkeSaState::Connecting && !sa.initiator);
    }
    let mut ike_sas = Message::new();
    ike_sas.put_display("total", total).put_display("half-open", half_open);

    let mut answer = Message::new();
    answer.put_section(
        "uptime",
        report::uptime(now.saturating_duration_since(daemon.started), daemon.started_at),
    );
    answer.put_section("workers", workers);
    answer.put_section("queues", none(&classes));
    answer.put("scheduled", "0");
    answer.put_section("ikesas", ike_sas);
    answer.put_list::<&str>("plugins", []);

    let clients = daemon.hub.counters();
    let mut control = Message::new();
    control.put_display("connected", clients.connected).put_display("accepted", clients.accepted);
    control.put_display("refused", clients.refused).put_display("stuck", clients.stuck);
    answer.put_section("control", control);
    let plane = daemon.backend.stats();
    let mut data_plane = Message::new();
    data_plane.put_display("ike-received", plane.ike_received);
    let overflow = daemon.inbox.0.dropped.load(std::sync::atomic::Ordering::Relaxed);
    data_plane.put_display("ike-overflow", overflow);
    data_plane.put_display("keepalives-received", plane.keepalives_received);
    data_plane.put_display("fenced-in", plane.fenced_in).put_display("fenced-out", plane.fenced_out);
    let mut drops = Message::new();
    for (cause, count) in &plane.drops {
        drops.put_display(cause.as_str(), count);
    }
    data_plane.put_section("drops", drops);
    answer.put_section("data-plane", data_plane);
    reply.respond(answer);
}

pub(super) fn name(arguments: &Message, key: &str) -> Option<String> {
    arguments.text(key).map(std::borrow::Cow::into_owned)
}

fn initiate(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let Ok(waiting) = Waiting::read(arguments, now) else {
        return reply.failure("`timeout` or `loglevel` is no number");
    };
    let (connection, child) = (name(arguments, "ike"), name(arguments, "child"));
    let request = daemon.request_id();
    match daemon.initiate(now, connection.as_deref(), child.as_deref(), request) {
        Ok(()) => {
            daemon.reconciler.ordered(connection.as_deref(), child.as_deref(), request);
            waiting.wait(daemon, request, reply, None, false);
        }
        Err(error) => reply.failure(error),
    }
}

fn terminate(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let Ok(waiting) = Waiting::read(arguments, now) else {
        return reply.failure("`timeout` or `loglevel` is no number");
    };
    if arguments.flag("force") {
        return reply.failure("`force` is not done yet");
    }
    let target = match existing(arguments) {
        Ok(target) => target,
        Err(why) => return reply.failure(why),
    };
    daemon.hold(&target);
    let request = daemon.request_id();
    match daemon.gateway.terminate(now, &target, request) {
        Ok(matches) => waiting.wait(daemon, request, reply, Some(matches), true),
        Err(error) => {
            let mut answer = Message::new();
            answer.put("success", "no").put("matches", "0").put("terminated", "0");
            match error {
                // The sentence programs look for.
                CommandError::NoSuchSa => answer.put("errmsg", "no matching SAs to terminate found"),
                other => answer.put_display("errmsg", other),
            };
            reply.respond(answer);
        }
    }
}

/// Unlike the other commands this does not wait for the end unless a time is given.
fn rekey(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let Ok(mut waiting) = Waiting::read(arguments, now) else {
        return reply.failure("`timeout` or `loglevel` is no number");
    };
    waiting.at_all &= arguments.text("timeout").is_some();
    let target = match existing(arguments) {
        Ok(target) => target,
        Err(why) => return reply.failure(why),
    };
    let request = daemon.request_id();
    let begun = if arguments.flag("reauth") {
        daemon.gateway.reauthenticate(now, &target, request)
    } else {
        daemon.gateway.rekey(now, &target, request)
    };
    match begun {
        Ok(matches) => waiting.wait(daemon, request, reply, Some(matches), false),
        Err(error) => {
            let mut answer = Message::new();
            answer.put("success", "no").put("matches", "0");
            match error {
                CommandError::NoSuchSa => answer.put("errmsg", "no matching SAs to rekey found"),
                other => answer.put_display("errmsg", other),
            };
            reply.respond(answer);
        }
    }
}

/// The SAs that the arguments name.
fn existing(arguments: &Message) -> Result<TerminateTarget, &'static str> {
    let (Ok(ike_sa), Ok(child_sa)) = (number(arguments, "ike-id"), number(arguments, "child-id")) else {
        return Err("`ike-id` or `child-id` is no number");
    };
    let target = TerminateTarget {
        connection: name(arguments, "ike"),
        child: name(arguments, "child"),
        ike_sa: ike_sa.map(IkeSaHandle),
        child_handle: child_sa.map(ChildHandle),
    };
    if target == TerminateTarget::default() {
        return Err("missing: `ike`, `ike-id`, `child` or `child-id`");
    }
    Ok(target)
}

fn number(arguments: &Message, key: &str) -> Result<Option<u64>, std::num::ParseIntError> {
    arguments.text(key).map(|text| text.parse()).transpose()
}

/// How long a client waits for the end of what it asked for, and what it wants to hear meanwhile.
struct Waiting {
    at_all: bool,
    deadline: Option<Instant>,
    log_level: i32,
}

impl Waiting {
    fn read(arguments: &Message, now: Instant) -> Result<Self, std::num::ParseIntError> {
        let read = |key: &str, default| arguments.text(key).map_or(Ok(default), |text| text.parse::<i32>());
        let timeout = read("timeout", 0)?;
        Ok(Self {
            at_all: timeout >= 0,
            deadline: u64::try_from(timeout)
                .ok()
                .filter(|ms| *ms > 0)
                .map(|ms| now + Duration::from_millis(ms)),
            log_level: read("loglevel", 1)?,
        })
    }

    fn wait(
        self,
        daemon: &mut Daemon,
        request: RequestId,
        reply: Reply,
        matches: Option<usize>,
        terminates: bool,
    ) {
        if self.at_all {
            let Self { log_level, deadline, .. } = self;
            let pending = Pending { reply, log_level, deadline, matches, terminates };
            daemon.pending.insert(request, pending);
        } else {
            let mut answer = Message::new();
            answer.put("success", "yes");
            if let Some(matches) = matches {
                answer.put_display("matches", matches);
                if terminates {
                    answer.put("terminated", "0");
                }
            }
            reply.respond(answer);
        }
    }
}

fn list_sas(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let (Ok(ike_id), Ok(child_id)) = (number(arguments, "ike-id"), number(arguments, "child-id")) else {
        return reply.failure("`ike-id` or `child-id` is no number");
    };
    let (ike, child_name) = (name(arguments, "ike"), name(arguments, "child"));
    let all_children = child_name.is_none() && child_id.is_none();
    for sa in daemon.gateway.ike_sas() {
        if ike.as_ref().is_some_and(|name| *name != sa.connection)
            || ike_id.is_some_and(|id| id != sa.handle.0)
        {
            continue;
        }
        let mut children = Message::new();
        for child in &sa.children {
            if child_name.as_ref().is_none_or(|name| *name == child.name)
                && child_id.is_none_or(|id| id == child.handle.0)
            {
                let facts = daemon.child_facts(child.handle);
                children.put_section(&report::child_sa_name(child), report::child_sa(child, &facts, now));
            }
        }
        if children.is_empty() && !all_children {
            continue;
        }
        let mut section = report::ike_sa(&sa, now);
        section.put_section("child-sas", children);
        let mut message = Message::new();
        message.put_section(report::ike_sa_name(&sa), section);
        reply.event("list-sa", message);
    }
    reply.respond(Message::new());
}

fn list_conns(daemon: &mut Daemon, _: Instant, arguments: &Message, reply: Reply) {
    let wanted = name(arguments, "ike");
    for connection in &daemon.connections {
        if wanted.as_ref().is_none_or(|name| *name == connection.name) {
            let name = &connection.name;
            let interface = daemon.interfaces.get(name).map(|spec| spec.name.as_str());
            let mut message = Message::new();
            message.put_section(name, report::connection(connection, daemon.hosts.get(name), interface));
            reply.event("list-conn", message);
        }
    }
    reply.respond(Message::new());
}

/// As strongSwan does, but for one thing: what is protected is listed whether it waits for packets or not.
fn list_policies(daemon: &mut Daemon, _: Instant, arguments: &Message, reply: Reply) {
    let (ike, child) = (name(arguments, "ike"), name(arguments, "child"));
    for (name, policy) in daemon.policies.by_child() {
        let kind = match policy.action {
            Action::Protect => "trap",
            Action::Bypass => "pass",
            Action::Discard => "drop",
        };
        if arguments.flag(kind)
            && ike.as_ref().is_none_or(|ike| *ike == name.connection)
            && child.as_ref().is_none_or(|child| *child == name.child)
        {
            let mode = daemon.connections.iter().find(|connection| connection.name == name.connection);
            let mode = mode.and_then(|connection| connection.children.iter().find(|c| c.name == name.child));
            let mut message = Message::new();
            let section = report::policy(&name.connection, &name.child, policy, mode.map(|child| child.mode));
            message.put_section(&format!("{}/{}", name.connection, name.child), section);
            reply.event("list-policy", message);
        }
    }
    reply.respond(Message::new());
}

fn get_conns(daemon: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    let mut answer = Message::new();
    answer.put_list("conns", daemon.connections.iter().map(|connection| &connection.name));
    reply.respond(answer);
}

/// Adit's own: the last negotiations, oldest first, and why each ended as it did.
fn list_negotiations(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let wanted = name(arguments, "ike");
    for record in daemon.gateway.records() {
        if wanted.is_none() || wanted == record.connection {
            reply.event("list-negotiation", report::negotiation(record, now));
        }
    }
    reply.respond(Message::new());
}

/// Adit's own, and what `swanctl --reload-settings` asks for: reads the configuration again.
fn reload(daemon: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    daemon.loader.read(Some(reply));
}
