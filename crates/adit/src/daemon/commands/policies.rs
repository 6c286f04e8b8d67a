//! `list-policies`.

use std::collections::HashMap;
use std::time::Instant;

use adit_esp::Action;
use adit_wire::esp::Mode;

use super::{Daemon, name};
use crate::control::report;
use crate::control::server::Reply;
use crate::control::vici::Message;

/// As strongSwan does, but for one thing: what is protected is listed whether it waits for packets or not.
pub(super) fn list_policies(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let (ike, child) = (name(arguments, "ike"), name(arguments, "child"));
    let modes = daemon.connections.iter().flat_map(|connection| {
        connection.children.iter().map(|child| ((connection.name.as_str(), child.name.as_str()), child.mode))
    });
    let modes: HashMap<(&str, &str), Mode> = modes.collect();
    let mut found = Vec::new();
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
            let mode = modes.get(&(name.connection.as_str(), name.child.as_str())).copied();
            found.push((name.clone(), policy.clone(), mode));
        }
    }
    daemon.list(now, reply, found, |_, reply, (name, policy, mode), _| {
        let mut message = Message::new();
        let section = report::policy(&name.connection, &name.child, policy, *mode);
        message.put_section(&format!("{}/{}", name.connection, name.child), section);
        reply.event("list-policy", message);
    });
}
