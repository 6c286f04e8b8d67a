//! Commands about secrets, certificates, pools and authorities.
//!
//! What cannot take effect is refused: whoever loads it would rely on it.

use std::time::Instant;

use super::{Daemon, name};
use crate::control::server::Reply;
use crate::control::vici::{Message, Value};

pub(super) fn load_shared(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let Some(Value::Bytes(data)) = arguments.value("data") else {
        return reply.failure("shared secret data missing");
    };
    let Some(kind) = name(arguments, "type") else { return reply.failure("shared secret type missing") };
    let owners: Vec<String> = arguments.list("owners").map(std::borrow::Cow::into_owned).collect();
    match daemon.load_shared(now, name(arguments, "id").as_deref(), &kind, data, &owners) {
        Ok(()) => reply.success(),
        Err(why) => reply.failure(why),
    }
}

pub(super) fn unload_shared(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let Some(id) = name(arguments, "id") else { return reply.failure("unload: missing unique identifier") };
    if daemon.unload_shared(now, &id) {
        reply.success();
    } else {
        reply.failure(format_args!("no shared secret is loaded as '{id}'"));
    }
}

/// Those that clients have loaded, by what they can be unloaded by.
pub(super) fn get_shared(daemon: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    let mut answer = Message::new();
    answer.put_list("keys", daemon.pushed.secret_ids());
    reply.respond(answer);
}

pub(super) fn clear_creds(daemon: &mut Daemon, now: Instant, _: &Message, reply: Reply) {
    daemon.clear_secrets(now);
    reply.success();
}

/// There is no certificate in any cache.
pub(super) fn flush_certs(_: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    reply.success();
}

pub(super) fn get_keys(_: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    let mut answer = Message::new();
    answer.put_list::<&str>("keys", []);
    reply.respond(answer);
}

pub(super) fn get_authorities(_: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    let mut answer = Message::new();
    answer.put_list::<&str>("authorities", []);
    reply.respond(answer);
}

pub(super) fn get_pools(_: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    reply.respond(Message::new());
}

/// There is none of what is asked for.
pub(super) fn list_nothing(_: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    reply.respond(Message::new());
}

pub(super) fn no_certificates(_: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    reply.failure("certificates, their keys and authorities are not done yet: nothing would use it");
}

pub(super) fn no_pools(_: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    reply.failure("pools are not done yet: no address would be given from it");
}

pub(super) fn not_loaded(_: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    reply.failure("no such thing is loaded");
}
