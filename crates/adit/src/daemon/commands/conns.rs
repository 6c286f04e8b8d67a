//! Commands about connections as they are configured.

use std::time::Instant;

use super::{Daemon, name};
use crate::control::report;
use crate::control::server::Reply;
use crate::control::vici::Message;

pub(super) fn list_conns(daemon: &mut Daemon, _: Instant, arguments: &Message, reply: Reply) {
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

pub(super) fn get_conns(daemon: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    let mut answer = Message::new();
    answer.put_list("conns", daemon.connections.iter().map(|connection| &connection.name));
    reply.respond(answer);
}
