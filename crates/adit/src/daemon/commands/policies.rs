//! `list-policies`.

use std::time::Instant;

use adit_esp::Action;

use super::{Daemon, name};
use crate::control::report;
use crate::control::server::Reply;
use crate::control::vici::Message;

/// As strongSwan does, but for one thing: what is protected is listed whether it waits for packets or not.
pub(super) fn list_policies(daemon: &mut Daemon, _: Instant, arguments: &Message, reply: Reply) {
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
