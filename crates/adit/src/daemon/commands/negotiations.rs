//! `list-negotiations`, `explain`.

use std::net::IpAddr;
use std::time::Instant;

use super::super::negotiations::{Entry, Key};
use super::{Daemon, name};
use crate::control::negotiation::negotiation;
use crate::control::server::Reply;
use crate::control::vici::Message;

/// Adit's own: what failed or gave less than was wanted, the oldest first; `resolved` is what has succeeded since.
pub(super) fn list_negotiations(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let wanted = name(arguments, "ike");
    let all = daemon.negotiations.all().into_iter();
    let fits = |entry: &&Entry| wanted.is_none() || wanted == entry.record.connection;
    let keys: Vec<Key> = all.filter(fits).map(Entry::key).collect();
    daemon.list(now, reply, keys, |daemon, reply, key, now| {
        // It may have been pushed out meanwhile.
        let Some(entry) = daemon.negotiations.entry(key) else { return };
        let record = daemon.negotiations.informed(&entry.record);
        let mut message = negotiation(&record, (entry.count, entry.first), now);
        message.put_flag("resolved", entry.resolved);
        reply.event("list-negotiation", message);
    });
}

/// Adit's own: why something is not up, or that it is. `ike` with or without `child`, or `remote-host`; without either
/// of them, every child.
pub(super) fn explain(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let explanations =
        match (name(arguments, "ike"), name(arguments, "remote-host").map(|text| text.parse::<IpAddr>())) {
            (Some(connection), None) => daemon.explain(now, &connection, name(arguments, "child").as_deref()),
            (None, Some(Ok(address))) => daemon.explain_peer(now, address),
            (None, None) if name(arguments, "child").is_none() => return explain_all(daemon, now, reply),
            _ => {
                return reply
                    .failure("give `ike`, and `child` if it is about one, or an address as `remote-host`");
            }
        };
    for (subject, explanation) in explanations {
        reply.event("explanation", explanation.message(&subject));
    }
    reply.respond(Message::new());
}

fn explain_all(daemon: &mut Daemon, now: Instant, reply: Reply) {
    let connections: Vec<String> = daemon.connections.iter().map(|one| one.name.clone()).collect();
    daemon.list(now, reply, connections, |daemon, reply, connection, now| {
        for (name, explanation) in daemon.explain_children(now, connection) {
            let subject = format!("{}/{}", name.connection, name.child);
            let mut message = explanation.message(&subject);
            message.put("ike", &name.connection).put("child", &name.child);
            reply.event("explanation", message);
        }
    });
}
