//! One additional key exchange (RFC 9370), whichever exchange carries it. Owns what a KE payload must be there; never
//! looks at keys of an SA.

use adit_crypto::{KeyExchangeSecret, Secret};
use adit_wire::ikev2::{KeId, KeyExchange, Payload};

use crate::proposal::ke_name;
use crate::shared::Shared;

/// Our KE payload as initiator.
pub(super) fn offer(secret: &KeyExchangeSecret) -> Payload {
    Payload::KeyExchange(KeyExchange { method: secret.method(), data: secret.public().to_vec() })
}

/// Initiator: the secret that the responder's KE payload gives; `Err` says what is wrong with it.
pub(super) fn agree(secret: KeyExchangeSecret, theirs: Option<&KeyExchange>) -> Result<Secret, String> {
    let ke = of_method(secret.method(), theirs)?;
    secret.agree(&ke.data).map_err(|error| error.to_string())
}

/// Responder: our KE payload, and the secret.
pub(super) fn respond(
    cx: &mut Shared,
    method: KeId,
    theirs: Option<&KeyExchange>,
) -> Result<(Payload, Secret), String> {
    let ke = of_method(method, theirs)?;
    let (public, shared) =
        adit_crypto::respond(method, &ke.data, &mut *cx.entropy).map_err(|error| error.to_string())?;
    Ok((Payload::KeyExchange(KeyExchange { method, data: public }), shared))
}

fn of_method(method: KeId, theirs: Option<&KeyExchange>) -> Result<&KeyExchange, String> {
    match theirs {
        Some(ke) if ke.method == method => Ok(ke),
        Some(ke) => Err(format!("it does {} where {} is next", ke_name(ke.method), ke_name(method))),
        None => Err(format!("it lacks the KE payload for {}", ke_name(method))),
    }
}
