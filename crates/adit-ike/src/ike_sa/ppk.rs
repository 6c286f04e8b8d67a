//! Post-quantum pre-shared keys, both roles (RFC 8784), and the policy that a peer must be safe from a quantum
//! computer. Owns the notifies and when a key is mixed in; IKE_AUTH owns the messages.

use adit_crypto::Error;
use adit_wire::ikev2::{Authentication, Notify, NotifyType, Payload};

use super::secured::{Secured, Unmixed};
use super::{Contents, Core};
use crate::config::Connection;
use crate::output::{Blame, OutcomeCode};
use crate::shared::Shared;

/// PPK_ID_FIXED: a configured string follows (RFC 8784 5.1).
const FIXED: u8 = 2;

/// USE_PPK of an initiator that has a key for the connection (RFC 8784 3).
pub(super) fn offer(cx: &Shared, connection: &Connection) -> Option<Payload> {
    let id = connection.ppk.id.as_deref()?;
    cx.secrets.post_quantum(id).map(|_| payload(NotifyType::USE_PPK, Vec::new()))
}

/// USE_PPK of a responder that has any key.
pub(super) fn consent(cx: &Shared, request: &Contents<'_>) -> Option<Payload> {
    (!cx.secrets.all_post_quantum().is_empty() && request.has(NotifyType::USE_PPK))
        .then(|| payload(NotifyType::USE_PPK, Vec::new()))
}

fn payload(notify_type: NotifyType, data: Vec<u8>) -> Payload {
    Payload::Notify(Notify::new(notify_type, data))
}

/// Does nothing but such a key make this IKE SA what its connection wants?
pub(super) fn is_required(core: &Core) -> bool {
    core.connection.ppk.required || (core.connection.require_post_quantum && !core.has_post_quantum_ke())
}

/// What went wrong, and whose fault it is.
pub(super) type Failure = (OutcomeCode, Blame, String);

/// No post-quantum pre-shared key came to be, for this reason.
pub(super) fn missing(core: &Core, why: &str) -> Failure {
    let policy = if core.connection.ppk.required {
        "`ppk_required` is set here".to_owned()
    } else {
        "`post_quantum = required` here, and no ML-KEM is agreed".to_owned()
    };
    let message = format!("{why}, and {policy}: configure the same post-quantum preshared key on both sides");
    (OutcomeCode::NotPostQuantum, Blame::PeerIncompatible, message)
}

/// Initiator: mixes the connection's key in. What it was before comes back, for a responder that has no such key may go
/// on without, and PPK_IDENTITY for the request.
pub(super) fn propose(
    core: &Core,
    cx: &Shared,
    secured: &mut Secured,
) -> Option<Result<(Unmixed, Payload), Error>> {
    let id = core.connection.ppk.id.as_deref()?;
    let key = cx.secrets.post_quantum(id)?;
    let identity = payload(NotifyType::PPK_IDENTITY, [&[FIXED], id].concat());
    Some(secured.mix(&key.secret).map(|unmixed| (unmixed, identity)))
}

/// NO_PPK_AUTH: what the AUTH payload would hold without the key.
pub(super) fn fallback(auth: &[u8]) -> Payload {
    payload(NotifyType::NO_PPK_AUTH, auth.to_vec())
}

/// Responder: that the key is in use.
pub(super) fn confirmation() -> Payload {
    payload(NotifyType::PPK_IDENTITY, Vec::new())
}

/// Responder: mixes the key in that the request names, and says what authenticates the initiator (RFC 8784 3,
/// table 1). `agreed` tells whether both sides sent USE_PPK.
pub(super) fn respond(
    core: &mut Core,
    cx: &Shared,
    secured: &mut Secured,
    c: &Contents<'_>,
    (agreed, auth): (bool, &Authentication),
) -> Result<Authentication, Failure> {
    if !agreed {
        return if is_required(core) {
            Err(missing(core, "it offers no post-quantum preshared key (AUTHENTICATION_FAILED sent)"))
        } else {
            Ok(auth.clone())
        };
    }
    let Some(identity) = c.notify(NotifyType::PPK_IDENTITY) else {
        let message = "it agreed on a post-quantum preshared key and names none (AUTHENTICATION_FAILED sent)";
        return Err((OutcomeCode::InvalidSyntax, Blame::PeerMisbehaved, message.to_owned()));
    };
    let key = match identity.data.split_first() {
        Some((&FIXED, id)) => cx.secrets.post_quantum(id),
        _ => None,
    };
    let why = "we have no post-quantum preshared key of the name it gives (AUTHENTICATION_FAILED sent)";
    match (key, c.notify(NotifyType::NO_PPK_AUTH)) {
        (Some(key), _) => {
            let mixed = secured.mix(&key.secret);
            mixed.map_err(|error| (OutcomeCode::NotPostQuantum, Blame::OurBug, error.to_string()))?;
            core.ppk = true;
            Ok(auth.clone())
        }
        (None, Some(_)) if is_required(core) => Err(missing(core, why)),
        (None, Some(fallback)) => Ok(Authentication { method: auth.method, data: fallback.data.clone() }),
        (None, None) => {
            let message = format!("{why}, and it does not go on without: add it to `secrets.ppk...` here");
            Err((OutcomeCode::NotPostQuantum, Blame::PeerIncompatible, message))
        }
    }
}
