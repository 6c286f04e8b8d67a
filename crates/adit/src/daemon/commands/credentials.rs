//! Commands about secrets, certificates, pools and authorities.
//!
//! What cannot take effect is refused: whoever loads it would rely on it.

use std::collections::HashSet;
use std::time::Instant;

use adit_cert::Certificate;

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

pub(super) fn get_keys(daemon: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    let mut answer = Message::new();
    answer.put_list("keys", daemon.pushed.material.key_ids());
    reply.respond(answer);
}

pub(super) fn load_key(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let Some(Value::Bytes(data)) = arguments.value("data") else { return reply.failure("key data missing") };
    match daemon.load_key(now, data) {
        Ok(id) => {
            let mut answer = Message::new();
            answer.put("success", "yes").put("id", id);
            reply.respond(answer);
        }
        Err(why) => reply.failure(why),
    }
}

pub(super) fn unload_key(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let Some(id) = name(arguments, "id") else { return reply.failure("key ID missing") };
    if daemon.unload_key(now, &id) {
        reply.success();
    } else {
        reply.failure(format_args!("no key is loaded as '{id}'"));
    }
}

pub(super) fn load_cert(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let Some(Value::Bytes(data)) = arguments.value("data") else {
        return reply.failure("certificate data missing");
    };
    let Some(kind) = name(arguments, "type") else { return reply.failure("certificate type missing") };
    let flag = name(arguments, "flag").unwrap_or_default();
    match daemon.load_certificate(now, &kind, &flag, data) {
        Ok(()) => reply.success(),
        Err(why) => reply.failure(why),
    }
}

/// Those of the files and those that clients have loaded.
pub(super) fn list_certs(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let wanted = |key: &str| name(arguments, key).filter(|word| !word.eq_ignore_ascii_case("any"));
    let (kind, flag, subject) = (wanted("type"), wanted("flag"), name(arguments, "subject"));
    if kind.is_some_and(|kind| !kind.to_ascii_uppercase().starts_with("X509")) {
        return reply.respond(Message::new());
    }
    let mut configuration = daemon.file.ike.credentials();
    daemon.pushed.add_credentials(&mut configuration);
    let keys: HashSet<&[u8]> = configuration.keys.iter().map(|key| key.public_key()).collect();
    let mut found: Vec<(&'static str, Certificate, bool)> = Vec::new();
    for (kind, certificates) in [
        ("NONE", configuration.trust.intermediates().cloned().collect::<Vec<_>>()),
        ("CA", configuration.trust.authorities().cloned().collect()),
    ] {
        if flag.as_ref().is_some_and(|flag| !flag.eq_ignore_ascii_case(kind)) {
            continue;
        }
        for certificate in certificates {
            if subject.as_ref().is_none_or(|subject| *subject == certificate.subject_text()) {
                let has_key = keys.contains(certificate.spki());
                found.push((kind, certificate, has_key));
            }
        }
    }
    found.sort_by(|(kind, one, _), (other_kind, other, _)| {
        (kind == &"CA", one.der()).cmp(&(other_kind == &"CA", other.der()))
    });
    daemon.list(now, reply, found, |_, reply, (flag, certificate, has_key), _| {
        let mut message = Message::new();
        message.put("type", "X509").put("flag", *flag);
        message.put_flag("has_privkey", *has_key).put("data", certificate.der());
        reply.event("list-cert", message);
    });
}

pub(super) fn get_authorities(daemon: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    let mut answer = Message::new();
    answer.put_list("authorities", daemon.pushed.material.authorities().map(|(name, _)| name));
    reply.respond(answer);
}

pub(super) fn load_authority(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let mut sections = arguments.sections();
    let (Some((name, section)), None) = (sections.next(), sections.next()) else {
        return reply.failure("load-authority takes one authority at a time");
    };
    let other = section.entries().find(|(key, _)| *key != "cacert").map(|(key, _)| key.to_owned());
    let done = match (section.value("cacert"), other) {
        (_, Some(key)) => Err(format!("invalid value for: {key}, config discarded: not done yet")),
        (Some(Value::Bytes(data)), None) => daemon.load_authority(now, name, data),
        _ => Err("CA certificate missing".to_owned()),
    };
    match done {
        Ok(()) => reply.success(),
        Err(why) => reply.failure(why),
    }
}

pub(super) fn unload_authority(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let Some(name) = name(arguments, "name") else { return reply.failure("unload: missing authority name") };
    if daemon.unload_authority(now, &name) {
        reply.success();
    } else {
        reply.failure(format_args!("unload: authority '{name}' not found for unloading"));
    }
}

/// Those that clients have loaded.
pub(super) fn list_authorities(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let wanted = name(arguments, "name");
    let all = daemon.pushed.material.authorities();
    let fits = all.filter(|(name, _)| wanted.as_ref().is_none_or(|wanted| wanted == name));
    let found: Vec<(String, String)> =
        fits.map(|(name, certificate)| (name.to_owned(), certificate.subject_text())).collect();
    daemon.list(now, reply, found, |_, reply, (name, subject), _| {
        let mut authority = Message::new();
        authority.put("cacert", subject).put_list::<&str>("crl_uris", []).put_list::<&str>("ocsp_uris", []);
        let mut message = Message::new();
        message.put_section(name, authority);
        reply.event("list-authority", message);
    });
}

pub(super) fn get_pools(_: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    reply.respond(Message::new());
}

pub(super) fn no_tokens(_: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    reply.failure("keys on tokens are not done yet: nothing would use it");
}

pub(super) fn no_pools(_: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    reply.failure("pools are not done yet: no address would be given from it");
}

pub(super) fn not_loaded(_: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    reply.failure("no such thing is loaded");
}
