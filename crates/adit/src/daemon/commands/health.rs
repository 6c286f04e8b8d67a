//! `health`.

use std::time::Instant;

use super::{Daemon, name};
use crate::control::server::Reply;
use crate::control::vici::Message;

/// Adit's own: for each child that is up, whether it carries traffic, and what to do if it does not.
pub(super) fn health(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let (ike, child) = (name(arguments, "ike"), name(arguments, "child"));
    let handles = ike.map_or_else(|| daemon.gateway.handles(), |ike| daemon.gateway.handles_of(&ike));
    daemon.list(now, reply, handles, move |daemon, reply, handle, now| {
        let Some(sa) = daemon.gateway.ike_sa(*handle) else { return };
        for health in daemon.health_on(now, &sa) {
            if child.as_ref().is_some_and(|child| *child != health.name.child) {
                continue;
            }
            let verdict = health.shown();
            let mut section = Message::new();
            section.put("ike", &health.name.connection).put("child", &health.name.child);
            section.put("code", verdict.code);
            section.put("failing", if verdict.failing { "yes" } else { "no" });
            if let Some(direction) = verdict.direction {
                section.put("direction", direction);
            }
            section.put("message", &verdict.message);
            if !verdict.step.is_empty() {
                section.put("step", &verdict.step);
            }
            if let Some(limit) = verdict.path_limit {
                section.put_display("path-limit", limit);
            }
            let mut message = Message::new();
            message.put_section(&format!("{}/{}", health.name.connection, health.name.child), section);
            reply.event("health", message);
        }
    });
}
