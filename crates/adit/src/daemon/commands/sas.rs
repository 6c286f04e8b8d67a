//! `list-sas`.

use std::time::Instant;

use super::{Daemon, name, number};
use crate::control::report;
use crate::control::server::Reply;
use crate::control::vici::Message;

pub(super) fn list_sas(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let (Ok(ike_id), Ok(child_id)) = (number(arguments, "ike-id"), number(arguments, "child-id")) else {
        return reply.failure("`ike-id` or `child-id` is no number");
    };
    let (ike, child_name) = (name(arguments, "ike"), name(arguments, "child"));
    let all_children = child_name.is_none() && child_id.is_none();
    for sa in daemon.gateway.ike_sas() {
        if ike.as_ref().is_some_and(|name| *name != sa.connection)
            || ike_id.is_some_and(|id| id != sa.handle.0)
        {
            continue;
        }
        let mut children = Message::new();
        for child in &sa.children {
            if child_name.as_ref().is_none_or(|name| *name == child.name)
                && child_id.is_none_or(|id| id == child.handle.0)
            {
                let facts = daemon.child_facts(child.handle);
                children.put_section(&report::child_sa_name(child), report::child_sa(child, &facts, now));
            }
        }
        if children.is_empty() && !all_children {
            continue;
        }
        let mut section = report::ike_sa(&sa, now);
        section.put_section("child-sas", children);
        let mut message = Message::new();
        message.put_section(report::ike_sa_name(&sa), section);
        reply.event("list-sa", message);
    }
    reply.respond(Message::new());
}
