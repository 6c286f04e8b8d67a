//! `get-algorithms`: what is built in, asked of the room that has it.

use std::fmt::Display;
use std::time::Instant;

use adit_crypto::{is_aead, supports_encr, supports_integ, supports_ke, supports_prf};
use adit_wire::ikev2::{EncrId, IntegId, KeId, PrfId};

use super::Daemon;
use crate::control::server::Reply;
use crate::control::vici::Message;

/// Key Length attributes there are.
const LENGTHS: [Option<u16>; 4] = [None, Some(128), Some(192), Some(256)];

/// Where strongSwan names a plugin.
const LIBRARY: &str = "aws-lc";

pub(super) fn get_algorithms(_: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    // The registries have not come further.
    let numbers = || 1..=64_u16;
    let encrypts = |id: &EncrId| LENGTHS.iter().any(|length| supports_encr(*id, *length));
    let (aead, plain): (Vec<EncrId>, Vec<EncrId>) =
        numbers().map(EncrId).filter(encrypts).partition(|id| is_aead(*id));
    let mut answer = Message::new();
    put(&mut answer, "encryption", plain);
    put(&mut answer, "integrity", numbers().map(IntegId).filter(|id| supports_integ(*id)));
    put(&mut answer, "aead", aead);
    put(&mut answer, "prf", numbers().map(PrfId).filter(|id| supports_prf(*id)));
    put(&mut answer, "ke", numbers().map(KeId).filter(|id| supports_ke(*id)));
    reply.respond(answer);
}

fn put<T: Display>(answer: &mut Message, kind: &str, algorithms: impl IntoIterator<Item = T>) {
    let mut section = Message::new();
    for algorithm in algorithms {
        section.put(&algorithm.to_string(), LIBRARY);
    }
    answer.put_section(kind, section);
}
