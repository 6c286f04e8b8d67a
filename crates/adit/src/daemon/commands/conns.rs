//! Commands about connections as they are configured: by the file, and by clients beside it.

use std::time::Instant;

use super::{Daemon, name};
use crate::control::report;
use crate::control::server::Reply;
use crate::control::vici::Message;

pub(super) fn list_conns(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let wanted = name(arguments, "ike");
    let fits = |(_, name): &(usize, String)| wanted.as_ref().is_none_or(|wanted| wanted == name);
    let connections = daemon.connections.iter().map(|connection| connection.name.clone());
    let connections: Vec<(usize, String)> = connections.enumerate().filter(fits).collect();
    daemon.list(now, reply, connections, |daemon, reply, (at, name), _| {
        // It may have been unloaded meanwhile, and others moved up.
        let there = daemon.connections.get(*at).filter(|connection| connection.name == *name);
        let by_name = || daemon.connections.iter().find(|connection| connection.name == *name);
        let Some(connection) = there.or_else(by_name) else { return };
        let interface = daemon.interfaces.get(name).map(|spec| spec.name.as_str());
        let mut message = Message::new();
        message.put_section(name, report::connection(connection, daemon.hosts.get(name), interface));
        reply.event("list-conn", message);
    });
}

/// Those that clients have loaded: what `swanctl --load-conns` does not find in its file it unloads.
pub(super) fn get_conns(daemon: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    let mut answer = Message::new();
    answer.put_list("conns", daemon.pushed.connection_names());
    reply.respond(answer);
}

pub(super) fn load_conn(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let mut sections = arguments.sections();
    let done = match (sections.next(), sections.next()) {
        (None, _) => Err("load-conn needs a connection".to_owned()),
        (_, Some(_)) => Err("load-conn takes one connection at a time".to_owned()),
        (Some((name, section)), None) => daemon.load_connection(now, name, section),
    };
    match done {
        Ok(()) => reply.success(),
        Err(why) => {
            tracing::info!("control: load-conn: {why}");
            reply.failure(why);
        }
    }
}

pub(super) fn unload_conn(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let Some(name) = name(arguments, "name") else { return reply.failure("unload: missing connection name") };
    match daemon.unload_connection(now, &name) {
        Ok(()) => reply.success(),
        Err(why) => reply.failure(why),
    }
}
