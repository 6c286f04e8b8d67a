//! The vici commands the daemon knows: a table of names and functions, which lie in files by subject.
//!
//! A function answers at once or leaves the reply with the daemon, which answers when the gateway reports the end.

mod conns;
mod control;
mod negotiations;
mod policies;
mod process;
mod sas;

use std::time::Instant;

use super::{Daemon, capture};
use crate::control::server::{Reply, Request};
use crate::control::vici::Message;

struct Command {
    name: &'static str,
    run: fn(&mut Daemon, Instant, &Message, Reply),
}

const COMMANDS: &[Command] = &[
    Command { name: "version", run: process::version },
    Command { name: "stats", run: process::stats },
    Command { name: "initiate", run: control::initiate },
    Command { name: "terminate", run: control::terminate },
    Command { name: "rekey", run: control::rekey },
    Command { name: "list-sas", run: sas::list_sas },
    Command { name: "list-conns", run: conns::list_conns },
    Command { name: "get-conns", run: conns::get_conns },
    Command { name: "list-policies", run: policies::list_policies },
    Command { name: "list-negotiations", run: negotiations::list_negotiations },
    Command { name: "capture", run: capture::capture },
    Command { name: "reload", run: process::reload },
    Command { name: "reload-settings", run: process::reload },
];

/// Runs a command of a client.
pub(super) fn run(daemon: &mut Daemon, now: Instant, request: Request) {
    match COMMANDS.iter().find(|command| command.name == request.command) {
        Some(command) => (command.run)(daemon, now, &request.arguments, request.reply),
        None => request.reply.unknown_command(),
    }
}

pub(super) fn name(arguments: &Message, key: &str) -> Option<String> {
    arguments.text(key).map(std::borrow::Cow::into_owned)
}

fn number(arguments: &Message, key: &str) -> Result<Option<u64>, std::num::ParseIntError> {
    arguments.text(key).map(|text| text.parse()).transpose()
}
