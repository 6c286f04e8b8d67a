//! CREATE_CHILD_SA for a child, both roles: one more (RFC 7296 1.3.1), or the successor of another (1.3.3, 2.8).
//!
//! Where both sides replace the same child at once, four nonces decide whose successor stays (RFC 7296 2.8.1); each
//! side knows them when its own response has arrived, and until then both successors exist.

use adit_crypto::{KeyExchangeSecret, Prf, Secret};
use adit_wire::ikev2::{KeId, KeyExchange, Nonce, Notify, NotifyType, Payload, ProtocolId, Spi};

use super::child::{self, Agreed, Install, Nonces, Offer, Phase};
use super::established::{Established, Handled};
use super::init::NONCE_LEN;
use super::secured::Secured;
use super::{ChildSa, Contents, Core, Wanted};
use crate::output::{Blame, ChildHandle, ChildSaView, DownReason, OutcomeCode, RequestId};
use crate::proposal::{ke_name, methods};
use crate::record::Outcome;
use crate::shared::Shared;

/// Children of one IKE SA: more than any configuration has, fewer than a hostile peer could ask for.
const MOST_CHILDREN: usize = 256;

/// Children of one IKE SA that still take what is on its way: a peer that replaces children faster has to wait.
const MOST_DRAINING: usize = 256;

/// New starts because of INVALID_KE_PAYLOAD.
const MOST_RESTARTS: u32 = 3;

/// Our request for a child.
pub(super) struct CreateChild {
    offer: Offer,
    nonce: Vec<u8>,
    secret: Option<KeyExchangeSecret>,
    restarts: u32,
    pub(super) replaces: Option<Replaces>,
}

/// The child whose successor is asked for.
#[derive(Debug)]
pub(super) struct Replaces {
    pub(super) handle: ChildHandle,
    /// Its inbound SPI.
    spi: Spi,
    /// The peer deleted it meanwhile.
    pub(super) gone: Option<(ChildSaView, DownReason)>,
    /// The peer asked for its successor meanwhile.
    pub(super) collision: Option<Collision>,
}

/// An exchange of the peer that replaces the same SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Collision {
    /// The lower of its two nonces.
    pub(super) lowest_nonce: Vec<u8>,
    /// What it made.
    pub(super) child: Option<ChildHandle>,
}

/// The lower of two nonces: octet by octet, and of one that begins with the other the shorter (RFC 7296 2.8.1).
pub(super) fn lowest<'a>(a: &'a [u8], b: &'a [u8]) -> &'a [u8] {
    a.min(b)
}

/// What came of it.
pub(super) enum Answer {
    Child {
        child: ChildSa,
        replaces: Option<Replaces>,
        /// The collision is lost: this successor is one too many.
        lost: bool,
    },
    Again(Box<CreateChild>),
    /// Once more, but later: the peer is busy with the same SA, or with the IKE SA (RFC 7296 2.25).
    Later(Wanted, Option<Replaces>),
    Failed {
        wanted: Wanted,
        /// The child the peer believes in.
        discard: Option<Spi>,
        replaces: Option<Replaces>,
        notify: Option<NotifyType>,
    },
}

impl CreateChild {
    /// A request for one more child; `None`, with a record, if the key exchange cannot be started.
    pub(super) fn new(core: &Core, cx: &mut Shared, wanted: Wanted) -> Option<Self> {
        let offer = Offer::new(core, cx, wanted, true);
        Self::start(core, cx, offer, None, None)
    }

    /// A request for the successor of a child. The key exchange method that served it comes first.
    pub(super) fn successor(core: &Core, cx: &mut Shared, wanted: Wanted, old: &ChildSa) -> Option<Self> {
        let offer = Offer::successor(cx, wanted, old);
        let replaces = Replaces { handle: old.handle, spi: old.inbound_spi, gone: None, collision: None };
        Self::start(core, cx, offer, old.ke, Some(replaces))
    }

    fn start(
        core: &Core,
        cx: &mut Shared,
        offer: Offer,
        preferred: Option<KeId>,
        replaces: Option<Replaces>,
    ) -> Option<Self> {
        let ours = methods(offer.proposals());
        let method = preferred.filter(|m| ours.contains(m)).or_else(|| ours.first().copied());
        let secret = method.map(|m| KeyExchangeSecret::generate(m, &mut *cx.entropy)).transpose();
        match secret {
            Ok(secret) => {
                cx.progress(&offer.wanted.requests, "sending CREATE_CHILD_SA request");
                let nonce = cx.random::<NONCE_LEN>().to_vec();
                Some(Self { offer, nonce, secret, restarts: 0, replaces })
            }
            Err(error) => {
                let outcome = offer.outcome(OutcomeCode::InvalidKe, Blame::OurBug, error.to_string());
                let failure = core.record(cx, outcome);
                offer.abandon(cx).fail(cx, &failure);
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

    /// The handle of the child that it replaces.
    pub(super) fn replaced(&self) -> Option<ChildHandle> {
        self.replaces.as_ref().map(|r| r.handle)
    }

    pub(super) fn payloads(&self) -> Vec<Payload> {
        let [sa, ts_i, ts_r] = self.offer.payloads();
        let mut payloads = Vec::new();
        // RFC 7296 1.3.3: the SPI that the sender of this notify expects in what arrives.
        payloads.extend(self.replaces.as_ref().map(|old| {
            Payload::Notify(Notify {
                protocol: ProtocolId::ESP,
                spi: old.spi.0.to_be_bytes().to_vec(),
                ..Notify::new(NotifyType::REKEY_SA, Vec::new())
            })
        }));
        payloads.extend([sa, Payload::Nonce(Nonce(self.nonce.clone()))]);
        payloads.extend(self.secret.as_ref().map(|secret| {
            Payload::KeyExchange(KeyExchange { method: secret.method(), data: secret.public().to_vec() })
        }));
        payloads.extend([ts_i, ts_r]);
        payloads
    }

    pub(super) fn abandon(self, cx: &mut Shared, failure: &str) {
        self.offer.abandon(cx).fail(cx, failure);
    }

    pub(super) fn timeout(&self, message: &str) -> Box<Outcome> {
        self.offer.outcome(OutcomeCode::Timeout, Blame::Network, message)
    }

    fn fail(self, core: &Core, cx: &mut Shared, outcome: Box<Outcome>, peer_has_it: bool) -> Answer {
        let notify = outcome.notify;
        // Where the peer has replaced it already, nothing is lost.
        let collision = self.replaces.as_ref().is_some_and(|r| r.collision.is_some());
        let failure = if collision { outcome.message.clone() } else { core.record(cx, outcome) };
        let spi = self.offer.spi;
        let mut wanted = self.offer.abandon(cx);
        wanted.tell_failure(cx, &failure);
        let replaces = self.replaces;
        Answer::Failed { wanted, discard: peer_has_it.then_some(spi), replaces, notify }
    }

    /// `deleted_early` holds what the peer has deleted before its response came, `taken` the SPIs of its other children.
    pub(super) fn answered(
        mut self,
        core: &Core,
        cx: &mut Shared,
        secured: &Secured,
        c: &Contents<'_>,
        (deleted_early, taken): (&[Spi], &[Spi]),
    ) -> Answer {
        if let Some(notify) = c.notify(NotifyType::INVALID_KE_PAYLOAD) {
            return self.with_method(core, cx, notify);
        }
        if c.sa.is_none() && c.has(NotifyType::TEMPORARY_FAILURE) {
            let replaces = self.replaces;
            return Answer::Later(self.offer.abandon(cx), replaces);
        }
        let agreed = match self.offer.answered(c) {
            Ok(agreed) => agreed,
            Err((outcome, peer_has_it)) => return self.fail(core, cx, outcome, peer_has_it),
        };
        let invalid = |offer: &Offer, why: &str| {
            let message = format!("its CREATE_CHILD_SA response is invalid: {why}");
            offer.outcome(OutcomeCode::InvalidSyntax, Blame::PeerMisbehaved, message)
        };
        if deleted_early.contains(&agreed.outbound_spi) {
            let message = "deleted the child before its response that creates it arrived";
            let outcome = self.offer.outcome(OutcomeCode::RefusedByPeer, Blame::PeerIncompatible, message);
            return self.fail(core, cx, outcome, false);
        }
        if taken.contains(&agreed.outbound_spi) {
            let outcome = invalid(&self.offer, "its SPI is that of another child of it");
            return self.fail(core, cx, outcome, true);
        }
        if let Some(old) = &self.replaces
            && !agreed.covers(&self.offer)
            && old.gone.is_none()
        {
            let outcome = invalid(&self.offer, "the successor protects less than the child it replaces");
            return self.fail(core, cx, outcome, true);
        }
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
        let ours = lowest(&self.nonce, &nonce.0);
        let collision = self.replaces.as_ref().and_then(|r| r.collision.as_ref());
        let lost = collision.is_some_and(|theirs| ours < theirs.lowest_nonce.as_slice());
        let install = match (&self.replaces, lost) {
            (None, _) => Install::New,
            (Some(_), false) => Install::Successor,
            (Some(_), true) => Install::Standby,
        };
        match agreed.install(core, cx, secured, &shared, nonces, true, install) {
            Ok(child) => {
                self.offer.succeed(cx);
                Answer::Child { child, replaces: self.replaces, lost }
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
    /// A peer asks for one more child, or for the successor of one.
    pub(super) fn respond_to_create_child(
        &mut self,
        core: &Core,
        cx: &mut Shared,
        c: &Contents<'_>,
    ) -> Handled {
        let (Some(sa), Some(nonce)) = (c.sa, c.nonce) else { return Handled::invalid_syntax() };
        let (Some(ts_i), Some(ts_r)) = (c.ts_initiator, c.ts_responder) else {
            return Handled::invalid_syntax();
        };
        if short_nonce(&self.ike.secured, nonce) {
            return Handled::invalid_syntax();
        }
        // RFC 7296 2.25.2: not while the IKE SA is about to be replaced.
        if self.is_closing() || self.rekeys_ike() || cx.draining_of(core.handle) >= MOST_DRAINING {
            return Handled::refuse(NotifyType::TEMPORARY_FAILURE);
        }
        let old = match c.notify(NotifyType::REKEY_SA) {
            None if self.children.len() >= MOST_CHILDREN => {
                return Handled::refuse(NotifyType::NO_ADDITIONAL_SAS);
            }
            None => None,
            Some(notify) => {
                let known = self.children.iter().find(|child| {
                    notify.protocol == ProtocolId::ESP && child.outbound_spi.0.to_be_bytes() == *notify.spi
                });
                let Some(old) = known else {
                    let unknown = Notify { notify_type: NotifyType::CHILD_SA_NOT_FOUND, ..notify.clone() };
                    return Handled::Respond(vec![Payload::Notify(unknown)]);
                };
                if matches!(old.phase, Phase::Rekeyed | Phase::Deleting) || old.successor.is_some() {
                    return Handled::refuse(NotifyType::TEMPORARY_FAILURE);
                }
                Some(old)
            }
        };
        let agreed = match child::respond(core, cx, &sa.proposals, (ts_i, ts_r), true, old) {
            // Two children with one SPI could not be told apart, neither in packets nor in Deletes.
            Ok(agreed) if self.children.iter().any(|c| c.outbound_spi == agreed.outbound_spi) => {
                agreed.abandon(cx);
                return Handled::refuse(NotifyType::NO_PROPOSAL_CHOSEN);
            }
            Ok(agreed) => agreed,
            Err((notify, outcome)) => {
                core.record(cx, outcome.notify(notify.notify_type));
                return Handled::Respond(vec![Payload::Notify(notify)]);
            }
        };
        let old = old.map(|old| old.handle);
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
        self.create(core, cx, agreed, nonce, exchange, old)
    }

    fn create(
        &mut self,
        core: &Core,
        cx: &mut Shared,
        agreed: Agreed,
        peer_nonce: &Nonce,
        exchange: Option<(KeyExchange, Secret)>,
        old: Option<ChildHandle>,
    ) -> Handled {
        let nonce = cx.random::<NONCE_LEN>().to_vec();
        let [sa, ts_i, ts_r] = agreed.payloads();
        let (ke, shared): (Vec<KeyExchange>, Vec<Secret>) = exchange.into_iter().unzip();
        let nonces = Nonces { initiator: &peer_nonce.0, responder: &nonce };
        let install = if old.is_some() { Install::Standby } else { Install::New };
        match agreed.install(core, cx, &self.ike.secured, &shared, nonces, false, install) {
            Ok(child) => {
                if let Some(old) = old {
                    self.replaced_by_peer(old, child.handle, lowest(&peer_nonce.0, &nonce));
                }
                self.children.push(child);
            }
            Err(_) => return Handled::refuse(NotifyType::NO_PROPOSAL_CHOSEN),
        }
        let mut payloads = vec![sa, Payload::Nonce(Nonce(nonce))];
        payloads.extend(ke.into_iter().map(Payload::KeyExchange));
        payloads.extend([ts_i, ts_r]);
        Handled::Respond(payloads)
    }
}
