//! Commands that bring SAs up, renew them and take them down, and their clients that wait for the end.

use std::time::{Duration, Instant};

use adit_ike::{ChildHandle, CommandError, IkeSaHandle, RequestId, TerminateTarget};

use super::{Daemon, name, number};
use crate::control::server::Reply;
use crate::control::vici::Message;
use crate::daemon::Pending;

pub(super) fn initiate(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let Ok(waiting) = Waiting::read(arguments, now) else {
        return reply.failure("`timeout` or `loglevel` is no number");
    };
    let child = name(arguments, "child");
    let connection = name(arguments, "ike").or_else(|| daemon.connection_of(child.as_deref()?));
    let request = daemon.request_id();
    match daemon.initiate(now, connection.as_deref(), child.as_deref(), request) {
        Ok(()) => {
            daemon.reconciler.ordered(connection.as_deref(), child.as_deref(), request);
            waiting.wait(daemon, request, reply, None, false);
        }
        Err(error) => reply.failure(error),
    }
}

pub(super) fn terminate(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let Ok(waiting) = Waiting::read(arguments, now) else {
        return reply.failure("`timeout` or `loglevel` is no number");
    };
    let target = match existing(arguments) {
        Ok(target) => target,
        Err(why) => return reply.failure(why),
    };
    daemon.hold(&target);
    let request = daemon.request_id();
    let begun = if arguments.flag("force") {
        daemon.gateway.terminate_at_once(now, &target, request)
    } else {
        daemon.gateway.terminate(now, &target, request)
    };
    match begun {
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
pub(super) fn rekey(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
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

/// RFC 5685. Nobody is told to go away who is not really sent.
pub(super) fn redirect(_: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    reply.failure("redirection (RFC 5685) is not done");
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
