//! `list-negotiations`.

use std::time::Instant;

use super::{Daemon, name};
use crate::control::report;
use crate::control::server::Reply;
use crate::control::vici::Message;

/// Adit's own: the last negotiations, oldest first, and why each ended as it did.
pub(super) fn list_negotiations(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let wanted = name(arguments, "ike");
    for record in daemon.gateway.records() {
        if wanted.is_none() || wanted == record.connection {
            reply.event("list-negotiation", report::negotiation(record, now));
        }
    }
    reply.respond(Message::new());
}
