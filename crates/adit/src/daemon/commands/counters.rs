//! `get-counters` and `reset-counters`: the numbers and names of strongSwan's plugin `counters`.

use std::time::Instant;

use adit_ike::Tally;

use super::{Daemon, name};
use crate::control::server::Reply;
use crate::control::vici::Message;

/// Those of the connection in `name`, of each with `all`, or in all.
pub(super) fn get_counters(daemon: &mut Daemon, _: Instant, arguments: &Message, reply: Reply) {
    let tallies = daemon.gateway.tallies();
    let mut counters = Message::new();
    match name(arguments, "name") {
        Some(name) => match tallies.of(&name) {
            Some(tally) => drop(counters.put_section(&name, section(tally))),
            None => return reply.failure(format_args!("no counters found for '{name}'")),
        },
        None if arguments.flag("all") => {
            let mut each: Vec<(&str, &Tally)> = tallies.by_connection().collect();
            each.sort_unstable_by_key(|(name, _)| *name);
            for (name, tally) in each {
                counters.put_section(name, section(tally));
            }
        }
        None => drop(counters.put_section("", section(tallies.all()))),
    }
    let mut answer = Message::new();
    answer.put_section("counters", counters).put("success", "yes");
    reply.respond(answer);
}

pub(super) fn reset_counters(daemon: &mut Daemon, _: Instant, arguments: &Message, reply: Reply) {
    let tallies = daemon.gateway.tallies_mut();
    match name(arguments, "name") {
        Some(name) if !tallies.reset(Some(&name)) => {
            return reply.failure(format_args!("no counters found for '{name}'"));
        }
        Some(_) => {}
        None if arguments.flag("all") => tallies.reset_connections(),
        None => drop(tallies.reset(None)),
    }
    reply.success();
}

fn section(tally: &Tally) -> Message {
    let mut section = Message::new();
    section.put_display("ike-rekey-init", tally.ike_rekeys_by_us);
    section.put_display("ike-rekey-resp", tally.ike_rekeys_by_peer);
    section.put_display("child-rekey", tally.child_rekeys);
    section.put_display("invalid", tally.malformed);
    section.put_display("invalid-spi", tally.unknown_spi);
    for (exchange, counts) in [
        ("ike-init", tally.ike_sa_init),
        ("ike-auth", tally.ike_auth),
        ("create-child", tally.create_child_sa),
        ("info", tally.informational),
    ] {
        section.put_display(&format!("{exchange}-in-req"), counts.requests_in);
        section.put_display(&format!("{exchange}-in-resp"), counts.responses_in);
        section.put_display(&format!("{exchange}-out-req"), counts.requests_out);
        section.put_display(&format!("{exchange}-out-resp"), counts.responses_out);
    }
    section
}
