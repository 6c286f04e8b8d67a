//! CREATE_CHILD_SA for one more child, both roles (RFC 7296 1.3.1).
//!
//! Requests that rekey are declined with NO_ADDITIONAL_SAS, as an endpoint that does not rekey does (RFC 7296 1.3).

use adit_crypto::{KeyExchangeSecret, Prf, Secret};
use adit_wire::ikev2::{KeId, KeyExchange, Nonce, Notify, NotifyType, Payload, ProtocolId, Spi};

use super::child::{self, Nonces, Offer};
use super::established::{Established, Handled};
use super::init::NONCE_LEN;
use super::secured::Secured;
use super::{ChildSa, Contents, Core, Wanted};
use crate::output::{Blame, OutcomeCode, RequestId};
use crate::proposal::{ke_name, methods};
use crate::record::Outcome;
use crate::shared::Shared;

/// Children of one IKE SA: more than any configuration has, fewer than a hostile peer could ask for.
const MOST_CHILDREN: usize = 256;

/// New starts because of INVALID_KE_PAYLOAD.
const MOST_RESTARTS: u32 = 3;

/// Our request for a child.
pub(super) struct CreateChild {
    offer: Offer,
    nonce: Vec<u8>,
    secret: Option<KeyExchangeSecret>,
    restarts: u32,
}

/// What came of it.
pub(super) enum Answer {
    Child(ChildSa),
    Again(Box<CreateChild>),
    Failed {
        /// The child the peer believes in.
        discard: Option<Spi>,
    },
}

impl CreateChild {
    /// `None`, with a record, if the key exchange cannot be started.
    pub(super) fn new(core: &Core, cx: &mut Shared, wanted: Wanted) -> Option<Self> {
        let offer = Offer::new(core, cx, wanted, true);
        let method = methods(offer.proposals()).first().copied();
        let secret = method.map(|m| KeyExchangeSecret::generate(m, &mut *cx.entropy)).transpose();
        match secret {
            Ok(secret) => {
                cx.progress(&offer.wanted.requests, "sending CREATE_CHILD_SA request");
                Some(Self { offer, nonce: cx.random::<NONCE_LEN>().to_vec(), secret, restarts: 0 })
            }
            Err(error) => {
                let outcome = offer.outcome(OutcomeCode::InvalidKe, Blame::OurBug, error.to_string());
                let failure = core.record(cx, outcome);
                offer.abandon(cx, &failure);
                None
            }
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.offer.wanted.child.name
    }

    pub(super) fn requests(&mut self) -> &mut Vec<RequestId> {
        &mut self.offer.wanted.requests
    }

    pub(super) fn payloads(&self) -> Vec<Payload> {
        let [sa, ts_i, ts_r] = self.offer.payloads();
        let mut payloads = vec![sa, Payload::Nonce(Nonce(self.nonce.clone()))];
        payloads.extend(self.secret.as_ref().map(|secret| {
            Payload::KeyExchange(KeyExchange { method: secret.method(), data: secret.public().to_vec() })
        }));
        payloads.extend([ts_i, ts_r]);
        payloads
    }

    pub(super) fn abandon(self, cx: &mut Shared, failure: &str) {
        self.offer.abandon(cx, failure);
    }

    pub(super) fn timeout(&self, message: &str) -> Box<Outcome> {
        self.offer.outcome(OutcomeCode::Timeout, Blame::Network, message)
    }

    fn fail(self, core: &Core, cx: &mut Shared, outcome: Box<Outcome>, peer_has_it: bool) -> Answer {
        let failure = core.record(cx, outcome);
        let spi = self.offer.spi;
        self.offer.abandon(cx, &failure);
        Answer::Failed { discard: peer_has_it.then_some(spi) }
    }

    pub(super) fn answered(
        mut self,
        core: &Core,
        cx: &mut Shared,
        secured: &Secured,
        c: &Contents<'_>,
    ) -> Answer {
        if let Some(notify) = c.notify(NotifyType::INVALID_KE_PAYLOAD) {
            return self.with_method(core, cx, notify);
        }
        let agreed = match self.offer.answered(c) {
            Ok(agreed) => agreed,
            Err((outcome, peer_has_it)) => return self.fail(core, cx, outcome, peer_has_it),
        };
        let invalid = |offer: &Offer, why: &str| {
            let message = format!("its CREATE_CHILD_SA response is invalid: {why}");
            offer.outcome(OutcomeCode::InvalidSyntax, Blame::PeerMisbehaved, message)
        };
        let Some(nonce) = c.nonce.filter(|n| !short_nonce(secured, n)) else {
            let outcome = invalid(&self.offer, "its nonce is missing or too short");
            return self.fail(core, cx, outcome, true);
        };
        let shared = match (agreed.ke, c.ke, self.secret.take()) {
            (None, _, _) => Vec::new(),
            (Some(method), Some(ke), Some(secret)) if ke.method == method && secret.method() == method => {
                match secret.agree(&ke.data) {
                    Ok(shared) => vec![shared],
                    Err(error) => {
                        let outcome = invalid(&self.offer, &error.to_string());
                        return self.fail(core, cx, outcome, true);
                    }
                }
            }
            _ => {
                let outcome = invalid(&self.offer, "its key exchange is not the one it chose");
                return self.fail(core, cx, outcome, true);
            }
        };
        let nonces = Nonces { initiator: &self.nonce, responder: &nonce.0 };
        match agreed.install(core, cx, secured, &shared, nonces, true) {
            Ok(child) => {
                self.offer.succeed(cx);
                Answer::Child(child)
            }
            Err(error) => {
                let outcome =
                    self.offer.outcome(OutcomeCode::NoProposalChosen, Blame::OurBug, error.to_string());
                self.fail(core, cx, outcome, true)
            }
        }
    }

    /// INVALID_KE_PAYLOAD: once more with the method the peer wants, if it is one of ours.
    fn with_method(mut self, core: &Core, cx: &mut Shared, notify: &Notify) -> Answer {
        let method = <[u8; 2]>::try_from(notify.data.as_slice()).ok().map(|b| KeId(u16::from_be_bytes(b)));
        let ours = methods(self.offer.proposals());
        let secret = method
            .filter(|m| ours.contains(m) && self.restarts < MOST_RESTARTS)
            .and_then(|m| KeyExchangeSecret::generate(m, &mut *cx.entropy).ok());
        let Some(secret) = secret else {
            let wish = method.map_or_else(|| "no method it names".to_owned(), ke_name);
            let have: Vec<String> = ours.iter().map(|m| ke_name(*m)).collect();
            let message = format!(
                "it wants the key exchange method {wish} for the child (INVALID_KE_PAYLOAD), our esp_proposals have \
                 {}: make `esp_proposals` overlap on one side",
                have.join(", "),
            );
            let outcome = self.offer.outcome(OutcomeCode::InvalidKe, Blame::PeerIncompatible, message);
            return self.fail(core, cx, outcome.notify(NotifyType::INVALID_KE_PAYLOAD), false);
        };
        self.secret = Some(secret);
        self.nonce = cx.random::<NONCE_LEN>().to_vec();
        self.restarts += 1;
        Answer::Again(Box::new(self))
    }
}

fn short_nonce(secured: &Secured, nonce: &Nonce) -> bool {
    Prf::new(secured.transforms.prf).is_ok_and(|prf| nonce.0.len() * 2 < prf.key_len())
}

impl Established {
    /// A peer asks for one more child.
    pub(super) fn respond_to_create_child(
        &mut self,
        core: &Core,
        cx: &mut Shared,
        c: &Contents<'_>,
    ) -> Handled {
        if self.is_closing() {
            return Handled::refuse(NotifyType::TEMPORARY_FAILURE);
        }
        let (Some(sa), Some(nonce)) = (c.sa, c.nonce) else { return Handled::invalid_syntax() };
        let rekeys_ike = sa.proposals.iter().any(|p| p.protocol == ProtocolId::IKE);
        if c.has(NotifyType::REKEY_SA) || rekeys_ike || self.children.len() >= MOST_CHILDREN {
            return Handled::refuse(NotifyType::NO_ADDITIONAL_SAS);
        }
        let (Some(ts_i), Some(ts_r)) = (c.ts_initiator, c.ts_responder) else {
            return Handled::invalid_syntax();
        };
        if short_nonce(&self.secured, nonce) {
            return Handled::invalid_syntax();
        }
        let agreed = match child::respond(core, cx, &sa.proposals, ts_i, ts_r, true) {
            Ok(agreed) => agreed,
            Err((notify, outcome)) => {
                core.record(cx, outcome.notify(notify.notify_type));
                return Handled::Respond(vec![Payload::Notify(notify)]);
            }
        };
        let exchange = match (agreed.ke, c.ke) {
            (None, _) => None,
            (Some(method), Some(ke)) if ke.method == method => {
                match adit_crypto::respond(method, &ke.data, &mut *cx.entropy) {
                    Ok((public, shared)) => Some((KeyExchange { method, data: public }, shared)),
                    Err(error) => {
                        let message = format!("its public value for the child is refused: {error}");
                        let outcome =
                            agreed.outcome(OutcomeCode::InvalidSyntax, Blame::PeerMisbehaved, message);
                        agreed.abandon(cx);
                        core.record(cx, outcome.notify(NotifyType::INVALID_SYNTAX));
                        return Handled::invalid_syntax();
                    }
                }
            }
            (Some(method), _) => {
                agreed.abandon(cx);
                let wish = Notify::new(NotifyType::INVALID_KE_PAYLOAD, method.0.to_be_bytes().to_vec());
                return Handled::Respond(vec![Payload::Notify(wish)]);
            }
        };
        self.create(core, cx, agreed, nonce, exchange)
    }

    fn create(
        &mut self,
        core: &Core,
        cx: &mut Shared,
        agreed: child::Agreed,
        peer_nonce: &Nonce,
        exchange: Option<(KeyExchange, Secret)>,
    ) -> Handled {
        let nonce = cx.random::<NONCE_LEN>().to_vec();
        let [sa, ts_i, ts_r] = agreed.payloads();
        let (ke, shared): (Vec<KeyExchange>, Vec<Secret>) = exchange.into_iter().unzip();
        let nonces = Nonces { initiator: &peer_nonce.0, responder: &nonce };
        match agreed.install(core, cx, &self.secured, &shared, nonces, false) {
            Ok(child) => self.children.push(child),
            Err(_) => return Handled::refuse(NotifyType::NO_PROPOSAL_CHOSEN),
        }
        let mut payloads = vec![sa, Payload::Nonce(Nonce(nonce))];
        payloads.extend(ke.into_iter().map(Payload::KeyExchange));
        payloads.extend([ts_i, ts_r]);
        Handled::Respond(payloads)
    }
}
