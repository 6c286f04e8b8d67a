//! IKE_FOLLOWUP_KE, both roles: the additional key exchanges of an SA that CREATE_CHILD_SA makes (RFC 9370 2.2.4).
//!
//! The SA comes to be with the last of them; until then it is half-done. As responder an IKE SA keeps one such half, and
//! that for a short time.

use std::collections::VecDeque;
use std::time::Instant;

use adit_crypto::{IkeTransforms, KeyExchangeSecret, Secret, constant_time_eq};
use adit_wire::ikev2::{IkeSpi, KeId, Notify, NotifyType, Payload};
use tracing::debug;

use super::additional;
use super::child::{Agreed, Install, Nonces};
use super::create_child::lowest;
use super::established::{Established, Handled};
use super::{Contents, Core};
use crate::output::{Blame, ChildHandle, OutcomeCode, Stage};
use crate::record::Outcome;
use crate::shared::Shared;

/// Octets by which we know our half of a series again: a peer cannot guess those of another one.
const LINK_LEN: usize = 16;

/// Initiator: what is still to be exchanged.
pub(super) struct Followup {
    left: VecDeque<KeId>,
    /// SK(0) and those that followed.
    shared: Vec<Secret>,
    /// By which the responder knows its half again.
    link: Vec<u8>,
    secret: KeyExchangeSecret,
}

/// Where a series stands after one exchange more: it goes on, or these are all its secrets.
pub(super) enum Step<T> {
    Next(T),
    Done(Vec<Secret>),
}

impl Followup {
    /// After a CREATE_CHILD_SA that gave `first`, and whose response `c` is. `Err` says what is wrong with that.
    pub(super) fn start(
        cx: &mut Shared,
        methods: Vec<KeId>,
        first: Secret,
        c: &Contents<'_>,
    ) -> Result<Self, String> {
        match Self::step(cx, methods.into(), vec![first], c)? {
            Step::Next(followup) => Ok(followup),
            Step::Done(_) => Err("it has no additional key exchange".to_owned()),
        }
    }

    fn step(
        cx: &mut Shared,
        mut left: VecDeque<KeId>,
        shared: Vec<Secret>,
        c: &Contents<'_>,
    ) -> Result<Step<Self>, String> {
        match (left.pop_front(), c.notify(NotifyType::ADDITIONAL_KEY_EXCHANGE)) {
            (None, None) => Ok(Step::Done(shared)),
            (None, Some(_)) => Err("it wants more key exchanges than it chose".to_owned()),
            (Some(_), None) => Err("it wants fewer key exchanges than it chose".to_owned()),
            (Some(method), Some(link)) => {
                let secret = KeyExchangeSecret::generate(method, &mut *cx.entropy);
                let secret = secret.map_err(|error| error.to_string())?;
                Ok(Step::Next(Self { left, shared, link: link.data.clone(), secret }))
            }
        }
    }

    pub(super) fn payloads(&self) -> Vec<Payload> {
        vec![additional::offer(&self.secret), link_payload(&self.link)]
    }

    /// The response to [`Self::payloads`]; `Err` says what is wrong with it.
    pub(super) fn answered(self, cx: &mut Shared, c: &Contents<'_>) -> Result<Step<Self>, String> {
        let Self { left, mut shared, secret, .. } = self;
        shared.push(additional::agree(secret, c.ke)?);
        Self::step(cx, left, shared, c)
    }
}

fn link_payload(link: &[u8]) -> Payload {
    Payload::Notify(Notify::new(NotifyType::ADDITIONAL_KEY_EXCHANGE, link.to_vec()))
}

/// Responder: what is still to be exchanged.
pub(super) struct Awaited {
    next: KeId,
    left: VecDeque<KeId>,
    shared: Vec<Secret>,
    link: [u8; LINK_LEN],
}

impl Awaited {
    /// After a CREATE_CHILD_SA that gave `first`; `None` if nothing follows it.
    pub(super) fn start(cx: &mut Shared, methods: Vec<KeId>, first: Secret) -> Option<Self> {
        match Self::step(cx, methods.into(), vec![first]) {
            Step::Next(awaited) => Some(awaited),
            Step::Done(_) => None,
        }
    }

    fn step(cx: &mut Shared, mut left: VecDeque<KeId>, shared: Vec<Secret>) -> Step<Self> {
        match left.pop_front() {
            Some(next) => Step::Next(Self { next, left, shared, link: cx.random() }),
            None => Step::Done(shared),
        }
    }

    /// The notify of our response after which this is awaited.
    pub(super) fn link(&self) -> Payload {
        link_payload(&self.link)
    }

    /// Is this request the one that is awaited?
    fn is_meant(&self, c: &Contents<'_>) -> bool {
        c.notify(NotifyType::ADDITIONAL_KEY_EXCHANGE).is_some_and(|n| constant_time_eq(&n.data, &self.link))
    }

    /// Our response, but for the link; `Err` says what is wrong with the request.
    fn respond(self, cx: &mut Shared, c: &Contents<'_>) -> Result<(Payload, Step<Self>), String> {
        let Self { next, left, mut shared, .. } = self;
        let (payload, secret) = additional::respond(cx, next, c.ke)?;
        shared.push(secret);
        Ok((payload, Self::step(cx, left, shared)))
    }
}

/// Responder: an SA that is half-done.
pub(super) struct Pending {
    awaited: Awaited,
    half: Half,
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
    until: Instant,
}

/// What is there of it.
pub(super) enum Half {
    /// A child, and the one that it is to replace.
    Child(Box<Agreed>, Option<ChildHandle>),
    /// A successor of the IKE SA: both SPIs, the peer's and ours, and algorithms.
    Ike((IkeSpi, IkeSpi), IkeTransforms, Vec<KeId>),
}

impl Pending {
    pub(super) fn deadline(&self) -> Instant {
        self.until
    }

    /// Is it the successor of this child?
    pub(super) fn replaces(&self, old: Option<ChildHandle>) -> bool {
        matches!(&self.half, Half::Child(_, replaced) if old.is_some() && *replaced == old)
    }

    /// Is it the successor of the IKE SA?
    pub(super) fn is_ike(&self) -> bool {
        matches!(self.half, Half::Ike(..))
    }
}

impl Half {
    /// Nothing came of it, which is nobody's fault: whoever loses a collision just stops (RFC 9370 2.2.4).
    fn abandon(self, core: &mut Core, cx: &mut Shared) {
        match self {
            Self::Child(agreed, _) => agreed.abandon(cx),
            Self::Ike((_, own), ..) => core.release_spi(cx, own),
        }
    }
}

impl Established {
    /// A CREATE_CHILD_SA of the peer is answered, and its SA comes to be with the exchanges that follow.
    pub(super) fn await_followup(
        &mut self,
        core: &mut Core,
        cx: &mut Shared,
        awaited: Awaited,
        half: Half,
        (nonce_i, nonce_r): (&[u8], &[u8]),
    ) {
        if let Half::Child(_, Some(old)) = half {
            self.collides_with_peer(old, None, lowest(nonce_i, nonce_r));
        }
        self.drop_pending(core, cx, |_| true);
        let (nonce_i, nonce_r) = (nonce_i.to_vec(), nonce_r.to_vec());
        let until = cx.now + cx.settings.followup_timeout;
        self.pending = Some(Pending { awaited, half, nonce_i, nonce_r, until });
    }

    /// Forgets a half-done SA of the peer.
    pub(super) fn drop_pending(
        &mut self,
        core: &mut Core,
        cx: &mut Shared,
        which: impl FnOnce(&Pending) -> bool,
    ) {
        if let Some(pending) = self.pending.take_if(|pending| which(pending)) {
            debug!(handle = core.handle.0, "a half-done SA of the peer is forgotten");
            pending.half.abandon(core, cx);
        }
    }

    /// May what is half-done still come to be?
    fn is_wanted(&self, half: &Half) -> bool {
        match half {
            Half::Child(agreed, old) => {
                old.is_none_or(|old| self.children.iter().any(|c| c.handle == old && c.is_live()))
                    && self.children.iter().all(|c| c.outbound_spi != agreed.outbound_spi)
            }
            Half::Ike(..) => true,
        }
    }

    /// IKE_FOLLOWUP_KE of the peer.
    pub(super) fn respond_to_followup(
        &mut self,
        core: &mut Core,
        cx: &mut Shared,
        c: &Contents<'_>,
    ) -> Handled {
        // RFC 9370 2.2.4: a series that we do not know, or no longer, and an answer that harms nobody.
        let Some(pending) = self.pending.take_if(|pending| pending.awaited.is_meant(c)) else {
            return Handled::refuse(NotifyType::STATE_NOT_FOUND);
        };
        if self.is_closing() || !self.is_wanted(&pending.half) {
            pending.half.abandon(core, cx);
            return Handled::refuse(NotifyType::TEMPORARY_FAILURE);
        }
        let Pending { awaited, half, nonce_i, nonce_r, .. } = pending;
        let (payload, step) = match awaited.respond(cx, c) {
            Ok(answer) => answer,
            Err(why) => {
                let message = format!("its IKE_FOLLOWUP_KE request is invalid: {why}");
                let (code, blame) = (OutcomeCode::InvalidSyntax, Blame::PeerMisbehaved);
                let outcome = match &half {
                    Half::Child(agreed, _) => agreed.outcome(code, blame, message),
                    Half::Ike(..) => Outcome::new(code, Stage::IkeRekey, blame, message),
                };
                half.abandon(core, cx);
                core.record(cx, outcome.notify(NotifyType::INVALID_SYNTAX));
                return Handled::invalid_syntax();
            }
        };
        let shared = match step {
            Step::Next(awaited) => {
                let link = awaited.link();
                let until = cx.now + cx.settings.followup_timeout;
                self.pending = Some(Pending { awaited, half, nonce_i, nonce_r, until });
                return Handled::Respond(vec![payload, link]);
            }
            Step::Done(shared) => shared,
        };
        let made = match half {
            Half::Child(agreed, old) => {
                let nonces = Nonces { initiator: &nonce_i, responder: &nonce_r };
                let install = if old.is_some() { Install::Standby } else { Install::New };
                let child = agreed.install(core, cx, &self.ike.secured, &shared, nonces, false, install);
                child.map(|child| {
                    if let Some(old) = old {
                        self.replaced_by_peer(old, child.handle, lowest(&nonce_i, &nonce_r));
                    }
                    self.add_child(cx, child, false);
                })
            }
            Half::Ike(spis, transforms, additional) => {
                let nonces = (nonce_i.as_slice(), nonce_r.as_slice());
                self.make_candidate(core, cx, spis, (transforms, additional), &shared, nonces)
            }
        };
        match made {
            Ok(()) => Handled::Respond(vec![payload]),
            Err(_) => Handled::refuse(NotifyType::NO_PROPOSAL_CHOSEN),
        }
    }
}
