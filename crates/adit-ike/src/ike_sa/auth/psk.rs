//! AUTH payloads made with a pre-shared key (RFC 7296 2.15).

use std::sync::Arc;

use adit_crypto::{Secret, psk_auth};
use adit_wire::ikev2::{AuthMethod, Authentication, Identification};

use super::{Handshake, outcome};
use crate::config::SharedSecret;
use crate::identity::Identity;
use crate::ike_sa::Core;
use crate::ike_sa::secured::Secured;
use crate::output::{Blame, OutcomeCode};
use crate::record::Outcome;
use crate::shared::Shared;

/// The key that is meant. RFC 7296 2.15 leaves open which it is before the peer says who it is: whoever we accept may own
/// it, most likely its address, least likely we.
pub(super) fn key<'a>(
    core: &Core,
    cx: &'a Shared,
    own: &Identity,
    peer: Option<&Identity>,
) -> Option<&'a SharedSecret> {
    match peer {
        Some(peer) => cx.secrets.between(own, peer),
        None => {
            let guess = Identity::address(core.remote.ip());
            cx.secrets.with_any(own, &core.connection.remote_id, &guess)
        }
    }
}

/// The AUTH payload of one side.
pub(super) fn make(
    handshake: &Handshake,
    secured: &Secured,
    by_initiator: bool,
    id: &Identification,
    key: &Arc<Secret>,
) -> Option<Authentication> {
    let data = mac(handshake, secured, by_initiator, id, key)?;
    Some(Authentication { method: AuthMethod::SHARED_KEY, data: data.expose().to_vec() })
}

fn mac(
    handshake: &Handshake,
    secured: &Secured,
    by_initiator: bool,
    id: &Identification,
    key: &Secret,
) -> Option<Secret> {
    let octets = handshake.octets(secured, by_initiator, id)?;
    psk_auth(secured.transforms.prf, key.expose(), &[&octets]).ok()
}

/// Verifies the peer's AUTH payload, in constant time.
pub(super) fn check(
    core: &Core,
    cx: &Shared,
    secured: &Secured,
    handshake: &Handshake,
    auth: &Authentication,
    id: &Identification,
    (own, peer): (&Identity, &Identity),
) -> Result<(), Box<Outcome>> {
    let fail = |code, blame, message| Err(outcome(core, handshake, code, blame, message));
    if auth.method != AuthMethod::SHARED_KEY {
        let message = format!(
            "\"{peer}\" authenticates with {}, we accept a pre-shared key only (AUTHENTICATION_FAILED sent): set `auth = \
             psk` there, or `remote.auth = pubkey` here",
            auth.method
        );
        return fail(OutcomeCode::AuthMethodRefused, Blame::PeerIncompatible, message);
    }
    let Some(secret) = cx.secrets.between(own, peer) else {
        return Err(missing(core, handshake, own, peer));
    };
    let expected = mac(handshake, secured, !core.initiator, id, &secret.secret);
    if expected.is_some_and(|expected| expected.ct_eq(&auth.data)) {
        return Ok(());
    }
    let message = format!(
        "\"{peer}\" does not know our pre-shared key (AUTHENTICATION_FAILED sent): the key in `secrets.{}` here \
         differs from the one it has for \"{own}\" and \"{peer}\", make them equal{}",
        secret.name,
        if core.ppk { "; the same is true of the post-quantum preshared key" } else { "" },
    );
    fail(OutcomeCode::AuthenticationFailed, Blame::PeerIncompatible, message)
        .map_err(|outcome: Box<Outcome>| outcome.secret(&secret.name))
}

/// There is no key for the two.
pub(super) fn missing(core: &Core, handshake: &Handshake, own: &Identity, peer: &Identity) -> Box<Outcome> {
    let message = format!(
        "no pre-shared key for us, \"{own}\", and it, \"{peer}\": add a `secrets.ike` section with its identity here",
    );
    outcome(core, handshake, OutcomeCode::NoSharedSecret, Blame::OurConfiguration, message)
        .accepted(vec![core.connection.remote_id.clone()])
}
