//! CREATE_CHILD_SA for a child, both roles: one more (RFC 7296 1.3.1), or the successor of another (1.3.3, 2.8).
//!
//! Where both sides replace the same child at once, four nonces decide whose successor stays (RFC 7296 2.8.1); each
//! side knows them when its own response has arrived, and until then both successors exist.

use std::time::Instant;

use adit_crypto::{KeyExchangeSecret, Prf, Secret};
use adit_wire::ikev2::{
    ExchangeType, KeId, KeyExchange, Nonce, Notify, NotifyType, Payload, ProtocolId, Spi,
};

use super::child::{self, Agreed, Install, Nonces, Offer};
use super::established::{Established, Handled};
use super::followup::{Awaited, Followup, Half, Step};
use super::informational::Deletion;
use super::init::NONCE_LEN;
use super::resources::Beside;
use super::secured::Secured;
use super::{ChildSa, Contents, Core, Wanted};
use crate::output::{Blame, ChildHandle, ChildSaView, DownReason, OutcomeCode, RequestId};
use crate::proposal::{additional_kes, ke_name, methods};
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
    /// CREATE_CHILD_SA is answered, and key exchanges are to follow.
    following: Option<Following>,
}

/// A child that comes to be with the last additional key exchange (RFC 9370 2.2.4).
struct Following {
    followup: Followup,
    agreed: Agreed,
    nonce: Nonce,
}

/// The child whose successor is asked for.
#[derive(Debug)]
pub(super) struct Replaces {
    pub(super) handle: ChildHandle,
    /// Its inbound SPI.
    spi: Spi,
    /// When its successor was asked for.
    pub(super) asked: Instant,
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
        child: Box<ChildSa>,
        replaces: Option<Replaces>,
        /// The collision is lost: this successor is one too many.
        lost: bool,
    },
    Again(Box<CreateChild>),
    /// Once more, but later: the peer is busy with the same SA, or with the IKE SA (RFC 7296 2.25).
    Later(Wanted, Option<Replaces>),
    /// The collision is lost before there is anything to delete (RFC 9370 2.2.4).
    Lost(Wanted, Option<Replaces>),
    Failed {
        wanted: Wanted,
        /// The child the peer believes in.
        discard: Option<Spi>,
        replaces: Option<Replaces>,
        notify: Option<NotifyType>,
        /// The IKE SA must go, too.
        fatal: bool,
    },
}

impl CreateChild {
    /// A request for one more child; `None`, with a record, if the key exchange cannot be started.
    pub(super) fn new(core: &Core, cx: &mut Shared, wanted: Wanted) -> Option<Self> {
        let offer = Offer::new(core, cx, wanted, true);
        Self::start(core, cx, offer, None, None)
    }

    /// A request for one more of these (RFC 9611).
    pub(super) fn beside(core: &Core, cx: &mut Shared, first: &ChildSa, beside: Beside) -> Option<Self> {
        let offer = Offer::beside(core, cx, first, beside);
        Self::start(core, cx, offer, first.ke, None)
    }

    /// A request for the successor of a child. The key exchange method that served it comes first.
    pub(super) fn successor(core: &Core, cx: &mut Shared, wanted: Wanted, old: &ChildSa) -> Option<Self> {
        let offer = Offer::successor(core, cx, wanted, old);
        let replaces =
            Replaces { handle: old.handle, spi: old.inbound_spi, asked: cx.now, gone: None, collision: None };
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
                Some(Self { offer, nonce, secret, restarts: 0, replaces, following: None })
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

    /// What it is to be one more of.
    pub(super) fn is_beside(&self) -> Option<Beside> {
        self.offer.beside
    }

    /// Does its outcome matter to whoever deletes this child?
    pub(super) fn concerns(&self, deletion: &Deletion) -> bool {
        let old = self.replaced().or_else(|| self.offer.beside.map(|beside| beside.first));
        old.is_some_and(|old| deletion.concerns(old))
    }

    /// Are there additional key exchanges to come, CREATE_CHILD_SA being answered?
    pub(super) fn is_following_up(&self) -> bool {
        self.following.is_some()
    }

    pub(super) fn exchange_type(&self) -> ExchangeType {
        if self.is_following_up() { ExchangeType::IKE_FOLLOWUP_KE } else { ExchangeType::CREATE_CHILD_SA }
    }

    pub(super) fn payloads(&self) -> Vec<Payload> {
        if let Some(following) = &self.following {
            return following.followup.payloads();
        }
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
        payloads.extend(self.offer.notifies());
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
        Answer::Failed { wanted, discard: peer_has_it.then_some(spi), replaces, notify, fatal: false }
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
        if let Some(following) = self.following.take() {
            return self.followed_up(core, cx, secured, c, (deleted_early, taken), following);
        }
        if let Some(notify) = c.notify(NotifyType::INVALID_KE_PAYLOAD) {
            return self.with_method(core, cx, notify);
        }
        if c.sa.is_none() && c.has(NotifyType::TEMPORARY_FAILURE) {
            let replaces = self.replaces;
            return Answer::Later(self.offer.abandon(cx), replaces);
        }
        let agreed = match self.offer.answered(core, c) {
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
        let mut shared = shared;
        let methods = additional_kes(&agreed.proposal).unwrap_or_default();
        if methods.is_empty() {
            return self.finish(core, cx, secured, agreed, nonce, &shared);
        }
        if self.has_lost(nonce) {
            let replaces = self.replaces;
            return Answer::Lost(self.offer.abandon(cx), replaces);
        }
        let started = shared.pop().ok_or_else(|| "it has no key exchange of its own".to_owned());
        match started.and_then(|first| Followup::start(cx, methods, first, c)) {
            Ok(followup) => {
                self.following = Some(Following { followup, agreed, nonce: nonce.clone() });
                Answer::Again(Box::new(self))
            }
            Err(why) => {
                let outcome = invalid(&self.offer, &why);
                self.fail(core, cx, outcome, true)
            }
        }
    }

    /// The response of an IKE_FOLLOWUP_KE (RFC 9370 2.2.4).
    fn followed_up(
        mut self,
        core: &Core,
        cx: &mut Shared,
        secured: &Secured,
        c: &Contents<'_>,
        (deleted_early, taken): (&[Spi], &[Spi]),
        Following { followup, agreed, nonce }: Following,
    ) -> Answer {
        if let Some(error) = c.error() {
            // The peer waits no longer, or not now: all from the beginning.
            if matches!(error.notify_type, NotifyType::STATE_NOT_FOUND | NotifyType::TEMPORARY_FAILURE) {
                let replaces = self.replaces;
                return Answer::Later(self.offer.abandon(cx), replaces);
            }
            let outcome = self.offer.refusal(error.notify_type);
            return self.fail(core, cx, outcome, false);
        }
        match followup.answered(cx, c) {
            Ok(Step::Next(followup)) => {
                self.following = Some(Following { followup, agreed, nonce });
                Answer::Again(Box::new(self))
            }
            Ok(Step::Done(_)) if deleted_early.contains(&agreed.outbound_spi) => {
                let message = "deleted the child before its response that creates it arrived";
                let outcome =
                    self.offer.outcome(OutcomeCode::RefusedByPeer, Blame::PeerIncompatible, message);
                self.fail(core, cx, outcome, false)
            }
            Ok(Step::Done(_)) if taken.contains(&agreed.outbound_spi) => {
                let message = "its SPI is that of another child of it";
                let outcome = self.offer.outcome(OutcomeCode::InvalidSyntax, Blame::PeerMisbehaved, message);
                self.fail(core, cx, outcome, true)
            }
            Ok(Step::Done(shared)) => self.finish(core, cx, secured, agreed, &nonce, &shared),
            Err(why) => {
                let message = format!("its IKE_FOLLOWUP_KE response is invalid: {why}");
                let outcome = self.offer.outcome(OutcomeCode::InvalidSyntax, Blame::PeerMisbehaved, message);
                let mut answer = self.fail(core, cx, outcome, true);
                // draft-ietf-ipsecme-ikev2-mlkem: after a ciphertext that is refused the IKE SA is deleted.
                if let Answer::Failed { fatal, .. } = &mut answer {
                    *fatal = true;
                }
                answer
            }
        }
    }

    /// Has the peer's exchange that replaces the same child the higher nonces? `nonce` is the peer's in ours.
    fn has_lost(&self, nonce: &Nonce) -> bool {
        let collision = self.replaces.as_ref().and_then(|r| r.collision.as_ref());
        collision.is_some_and(|theirs| lowest(&self.nonce, &nonce.0) < theirs.lowest_nonce.as_slice())
    }

    /// All secrets are there.
    fn finish(
        self,
        core: &Core,
        cx: &mut Shared,
        secured: &Secured,
        agreed: Agreed,
        nonce: &Nonce,
        shared: &[Secret],
    ) -> Answer {
        let nonces = Nonces { initiator: &self.nonce, responder: &nonce.0 };
        let lost = self.has_lost(nonce);
        let install = match (&self.replaces, lost) {
            (None, _) => Install::New,
            (Some(_), false) => Install::Successor,
            (Some(_), true) => Install::Standby,
        };
        match agreed.install(core, cx, secured, shared, nonces, true, install) {
            Ok(child) => {
                self.offer.succeed(cx);
                Answer::Child { child: Box::new(child), replaces: self.replaces, lost }
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
        core: &mut Core,
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
                // RFC 9611 3: of several SAs one more is refused as such.
                let one_more = c.has(NotifyType::SA_RESOURCE_INFO) && !self.children.is_empty();
                return Handled::refuse(match one_more {
                    true => NotifyType::TS_MAX_QUEUE,
                    false => NotifyType::NO_ADDITIONAL_SAS,
                });
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
                // RFC 9370 2.2.4: nor while the additional key exchanges of our own successor are under way.
                if !old.is_live() || old.successor.is_some() || self.follows_up(old.handle) {
                    return Handled::refuse(NotifyType::TEMPORARY_FAILURE);
                }
                Some(old)
            }
        };
        let agreed = match child::respond(core, cx, c, (sa, ts_i, ts_r), true, (old, &self.children)) {
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
        core: &mut Core,
        cx: &mut Shared,
        agreed: Agreed,
        peer_nonce: &Nonce,
        exchange: Option<(KeyExchange, Secret)>,
        old: Option<ChildHandle>,
    ) -> Handled {
        let nonce = cx.random::<NONCE_LEN>().to_vec();
        let [sa, ts_i, ts_r] = agreed.payloads();
        let (ke, shared): (Vec<KeyExchange>, Vec<Secret>) = exchange.into_iter().unzip();
        let mut answer: Vec<Payload> = agreed.notifies().collect();
        answer.extend([sa, Payload::Nonce(Nonce(nonce.clone()))]);
        answer.extend(ke.into_iter().map(Payload::KeyExchange));
        answer.extend([ts_i, ts_r]);
        let methods = additional_kes(&agreed.proposal).unwrap_or_default();
        let mut shared = shared;
        if !methods.is_empty()
            && let Some(awaited) = shared.pop().and_then(|first| Awaited::start(cx, methods, first))
        {
            answer.push(awaited.link());
            self.await_followup(
                core,
                cx,
                awaited,
                Half::Child(Box::new(agreed), old),
                (&peer_nonce.0, &nonce),
            );
            return Handled::Respond(answer);
        }
        let nonces = Nonces { initiator: &peer_nonce.0, responder: &nonce };
        let install = if old.is_some() { Install::Standby } else { Install::New };
        match agreed.install(core, cx, &self.ike.secured, &shared, nonces, false, install) {
            Ok(child) => {
                if let Some(old) = old {
                    self.replaced_by_peer(old, child.handle, lowest(&peer_nonce.0, &nonce));
                }
                self.add_child(cx, child, false);
            }
            Err(_) => return Handled::refuse(NotifyType::NO_PROPOSAL_CHOSEN),
        }
        Handled::Respond(answer)
    }
}
