//! `list-negotiations`, `explain`.

use std::net::IpAddr;
use std::time::Instant;

use super::{Daemon, name};
use crate::control::negotiation::negotiation;
use crate::control::server::Reply;
use crate::control::vici::Message;

/// Adit's own: what failed or gave less than was wanted, the oldest first; `resolved` is what has succeeded since.
pub(super) fn list_negotiations(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let wanted = name(arguments, "ike");
    for entry in daemon.negotiations.all() {
        if wanted.is_none() || wanted == entry.record.connection {
            let mut message =
                negotiation(&daemon.negotiations.informed(&entry.record), (entry.count, entry.first), now);
            message.put_flag("resolved", entry.resolved);
            reply.event("list-negotiation", message);
        }
    }
    reply.respond(Message::new());
}

/// Adit's own: why something is not up, or that it is. `ike` with or without `child`, or `remote-host`.
pub(super) fn explain(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let explanations =
        match (name(arguments, "ike"), name(arguments, "remote-host").map(|text| text.parse::<IpAddr>())) {
            (Some(connection), None) => daemon.explain(now, &connection, name(arguments, "child").as_deref()),
            (None, Some(Ok(address))) => daemon.explain_peer(now, address),
            _ => {
                return reply
                    .failure("give `ike`, and `child` if it is about one, or an address as `remote-host`");
            }
        };
    for explanation in explanations {
        reply.event("explanation", explanation.message());
    }
    reply.respond(Message::new());
}
