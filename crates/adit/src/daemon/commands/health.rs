//! `health`.

use std::time::Instant;

use super::super::health::ChildHealth;
use super::super::reconciler::ChildName;
use super::{Daemon, name};
use crate::control::server::Reply;
use crate::control::vici::Message;

/// Adit's own: for each child that is up, whether it carries traffic, and what to do if it does not.
pub(super) fn health(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let (ike, child) = (name(arguments, "ike"), name(arguments, "child"));
    let wanted = |name: &ChildName| {
        ike.as_ref().is_none_or(|ike| *ike == name.connection)
            && child.as_ref().is_none_or(|child| *child == name.child)
    };
    for health in daemon.health(now, wanted) {
        let ChildHealth { name, verdict, path_limit, .. } = health;
        let mut section = Message::new();
        section.put("ike", &name.connection).put("child", &name.child);
        section.put("code", verdict.code.as_str());
        section.put("failing", if verdict.code.is_failing() { "yes" } else { "no" });
        section.put("message", &verdict.message);
        if !verdict.step.is_empty() {
            section.put("step", &verdict.step);
        }
        if let Some(limit) = path_limit {
            section.put_display("path-limit", limit);
        }
        let mut message = Message::new();
        message.put_section(&format!("{}/{}", name.connection, name.child), section);
        reply.event("health", message);
    }
    reply.respond(Message::new());
}
