//! `list-sas`.

use std::time::Instant;

use adit_ike::IkeSaView;

use super::{Daemon, name, number};
use crate::control::report;
use crate::control::server::Reply;
use crate::control::vici::Message;

/// Nothing here ever blocks, so `noblock` changes nothing.
pub(super) fn list_sas(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let (Ok(ike_id), Ok(child_id)) = (number(arguments, "ike-id"), number(arguments, "child-id")) else {
        return reply.failure("`ike-id` or `child-id` is no number");
    };
    let wanted = Wanted { ike: name(arguments, "ike"), ike_id, child: name(arguments, "child"), child_id };
    daemon.list(now, reply, daemon.gateway.handles(), move |daemon, reply, handle, now| {
        if wanted.ike_id.is_none_or(|id| id == handle.0)
            && let Some(sa) = daemon.gateway.ike_sa(*handle)
            && let Some(message) = wanted.tell(daemon, &sa, now)
        {
            reply.event("list-sa", message);
        }
    });
}

/// What is asked for.
struct Wanted {
    ike: Option<String>,
    ike_id: Option<u64>,
    child: Option<String>,
    child_id: Option<u64>,
}

impl Wanted {
    fn tell(&self, daemon: &Daemon, sa: &IkeSaView, now: Instant) -> Option<Message> {
        if self.ike.as_ref().is_some_and(|name| *name != sa.connection) {
            return None;
        }
        let mut children = Message::new();
        for child in &sa.children {
            if self.child.as_ref().is_none_or(|name| *name == child.name)
                && self.child_id.is_none_or(|id| id == child.handle.0)
            {
                let facts = daemon.child_facts(child.handle);
                children.put_section(&report::child_sa_name(child), report::child_sa(child, &facts, now));
            }
        }
        if children.is_empty() && (self.child.is_some() || self.child_id.is_some()) {
            return None;
        }
        let mut section = report::ike_sa(sa, now);
        section.put_section("child-sas", children);
        let mut message = Message::new();
        message.put_section(report::ike_sa_name(sa), section);
        Some(message)
    }
}
