//! The vici commands the daemon knows: a table of names and functions, which lie in files by subject.
//!
//! A function answers at once or leaves the reply with the daemon, which answers when the gateway reports the end.

mod algorithms;
mod conns;
mod control;
mod counters;
mod credentials;
mod health;
mod negotiations;
mod policies;
mod process;
mod sas;
mod traps;

use std::time::Instant;

pub(super) use self::process::answer_stats;

use super::reconciler::ChildName;
use super::{Daemon, apply, capture, trials};
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
    Command { name: "load-conn", run: conns::load_conn },
    Command { name: "unload-conn", run: conns::unload_conn },
    Command { name: "load-shared", run: credentials::load_shared },
    Command { name: "unload-shared", run: credentials::unload_shared },
    Command { name: "get-shared", run: credentials::get_shared },
    Command { name: "clear-creds", run: credentials::clear_creds },
    Command { name: "flush-certs", run: credentials::flush_certs },
    Command { name: "get-keys", run: credentials::get_keys },
    Command { name: "get-pools", run: credentials::get_pools },
    Command { name: "get-authorities", run: credentials::get_authorities },
    Command { name: "list-certs", run: credentials::list_certs },
    Command { name: "list-authorities", run: credentials::list_authorities },
    Command { name: "load-cert", run: credentials::load_cert },
    Command { name: "load-key", run: credentials::load_key },
    Command { name: "load-token", run: credentials::no_tokens },
    Command { name: "load-authority", run: credentials::load_authority },
    Command { name: "load-pool", run: credentials::no_pools },
    Command { name: "unload-key", run: credentials::unload_key },
    Command { name: "unload-authority", run: credentials::unload_authority },
    Command { name: "unload-pool", run: credentials::not_loaded },
    Command { name: "install", run: traps::install },
    Command { name: "uninstall", run: traps::uninstall },
    Command { name: "get-algorithms", run: algorithms::get_algorithms },
    Command { name: "get-counters", run: counters::get_counters },
    Command { name: "reset-counters", run: counters::reset_counters },
    Command { name: "redirect", run: control::redirect },
    Command { name: "list-policies", run: policies::list_policies },
    Command { name: "list-negotiations", run: negotiations::list_negotiations },
    Command { name: "health", run: health::health },
    Command { name: "test", run: trials::test },
    Command { name: "explain", run: negotiations::explain },
    Command { name: "capture", run: capture::capture },
    Command { name: "diff", run: apply::diff },
    Command { name: "apply", run: apply::apply },
    Command { name: "confirm", run: apply::confirm },
    Command { name: "reload", run: process::reload },
    Command { name: "reload-settings", run: process::reload },
];

/// Commands that do not rest on what was just loaded: it need not be in force before them.
const AT_ONCE: &[&str] = &[
    "version",
    "stats",
    "list-sas",
    "load-conn",
    "unload-conn",
    "get-conns",
    "load-shared",
    "unload-shared",
    "get-shared",
    "clear-creds",
    "flush-certs",
    "get-keys",
    "load-cert",
    "load-key",
    "load-authority",
    "get-pools",
    "get-authorities",
    "get-counters",
];

/// Every command.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().map(|command| command.name)
}

/// Runs a command of a client.
pub(super) fn run(daemon: &mut Daemon, now: Instant, request: Request) {
    match COMMANDS.iter().find(|command| command.name == request.command) {
        Some(command) => {
            if !AT_ONCE.contains(&command.name) {
                daemon.catch_up(now);
            }
            (command.run)(daemon, now, &request.arguments, request.reply);
        }
        None => request.reply.unknown_command(),
    }
}

pub(super) fn name(arguments: &Message, key: &str) -> Option<String> {
    arguments.text(key).map(std::borrow::Cow::into_owned)
}

fn number(arguments: &Message, key: &str) -> Result<Option<u64>, std::num::ParseIntError> {
    arguments.text(key).map(|text| text.parse()).transpose()
}
