//! CREATE_CHILD_SA that replaces the IKE SA, both roles (RFC 7296 1.3.2, 2.8, 2.18).
//!
//! The Child SAs do not notice: they stay where they are, and only the IKE SA under them changes. Where both sides
//! replace it at once, four nonces decide as for children (RFC 7296 2.8.2).

use std::time::{Duration, Instant};

use adit_crypto::{IkeTransforms, KeyExchangeSecret, Prf, Secret, rekey_ike_keys};
use adit_wire::ikev2::{
    Delete, ExchangeType, IkeSpi, KeId, KeyExchange, Nonce, Notify, NotifyType, Payload, Proposal,
    ProtocolId, SecurityAssociation,
};
use tracing::debug;

use super::create_child::lowest;
use super::established::{Established, Exchange, Handled, Ike, Task, retry_at};
use super::followup::{Awaited, Followup, Half, Pending, Step};
use super::init::{NONCE_LEN, secure};
use super::secured::Secured;
use super::window::Outstanding;
use super::{Contents, Core};
use crate::output::{Blame, Event, IkeSaState, OutcomeCode, RequestId, Stage};
use crate::proposal::{NotationList, additional_kes, answers, choose, ike_transforms, ke_name, methods};
use crate::record::Outcome;
use crate::shared::Shared;

/// New starts because of INVALID_KE_PAYLOAD.
const MOST_RESTARTS: u32 = 3;

/// IKE SAs kept beside the current one; a peer that replaces it faster has to wait.
const MOST_OTHERS: usize = 16;

/// How long an IKE SA is kept that the peer should delete.
const LINGER: Duration = Duration::from_secs(30);

/// Our request for a successor of the IKE SA.
pub(super) struct CreateIke {
    /// Our SPI of it.
    spi: IkeSpi,
    proposals: Vec<Proposal>,
    nonce: Vec<u8>,
    secret: KeyExchangeSecret,
    restarts: u32,
    requests: Vec<RequestId>,
    /// The IKE SA to be replaced, by our SPI.
    replaces: IkeSpi,
    /// When its successor was asked for.
    asked: Instant,
    /// The lower nonce of the peer's exchange that replaces the same IKE SA.
    collision: Option<Vec<u8>>,
    /// CREATE_CHILD_SA is answered, and key exchanges are to follow.
    following: Option<Following>,
}

/// An IKE SA that comes to be with the last additional key exchange (RFC 9370 2.2.4).
struct Following {
    followup: Followup,
    chosen: Chosen,
    nonce: Vec<u8>,
}

/// The peer's SPI, the algorithms, and the key exchanges that follow.
type Chosen = (IkeSpi, IkeTransforms, Vec<KeId>);

/// An IKE SA beside the current one, until it is gone.
pub(super) struct Other {
    pub(super) ike: Ike,
    pub(super) role: Role,
    /// It is dropped then, whatever the peer does.
    pub(super) until: Instant,
}

/// What an IKE SA beside the current one is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The peer made it while our own request for a successor is out: one of both will be one too many.
    Candidate,
    /// It is being deleted: it has been replaced, or it is one too many.
    Leaving,
    /// It is deleted; only repetitions are still answered.
    Gone,
}

impl CreateIke {
    pub(super) fn new(
        core: &mut Core,
        cx: &mut Shared,
        replaces: IkeSpi,
        requests: Vec<RequestId>,
    ) -> Option<Self> {
        let mut proposals = core.connection.proposals.clone();
        // The method of the IKE SA has served; it comes first.
        let ours = methods(&proposals);
        let current = core.transforms.map(|t| t.ke).filter(|method| ours.contains(method));
        let secret = current
            .or_else(|| ours.first().copied())
            .and_then(|method| KeyExchangeSecret::generate(method, &mut *cx.entropy).ok());
        let Some(secret) = secret else {
            for request in requests {
                cx.finish_part(request, Err("no key exchange method can be used"));
            }
            return None;
        };
        let spi = core.take_spi(cx);
        for proposal in &mut proposals {
            proposal.spi = spi.0.to_be_bytes().to_vec();
        }
        let nonce = cx.random::<NONCE_LEN>().to_vec();
        cx.progress(&requests, "sending CREATE_CHILD_SA request for a new IKE_SA");
        Some(Self {
            spi,
            proposals,
            nonce,
            secret,
            restarts: 0,
            requests,
            replaces,
            asked: cx.now,
            collision: None,
            following: None,
        })
    }

    /// Is it still the current IKE SA that is to be replaced?
    pub(super) fn concerns(&self, ike: &Ike) -> bool {
        ike.our_spi() == self.replaces
    }

    /// Are there additional key exchanges to come, CREATE_CHILD_SA being answered?
    fn is_following_up(&self) -> bool {
        self.following.is_some()
    }

    pub(super) fn exchange_type(&self) -> ExchangeType {
        if self.is_following_up() { ExchangeType::IKE_FOLLOWUP_KE } else { ExchangeType::CREATE_CHILD_SA }
    }

    pub(super) fn payloads(&self) -> Vec<Payload> {
        if let Some(following) = &self.following {
            return following.followup.payloads();
        }
        payloads(self.proposals.clone(), &self.nonce, self.secret.method(), self.secret.public())
    }

    /// Something else came of it.
    fn done(self, core: &mut Core, cx: &mut Shared) {
        core.release_spi(cx, self.spi);
        for request in self.requests {
            cx.finish_part(request, Ok(()));
        }
    }

    /// Nothing came of it.
    pub(super) fn abandon(self, core: &mut Core, cx: &mut Shared, failure: &str) {
        core.release_spi(cx, self.spi);
        for request in self.requests {
            cx.finish_part(request, Err(failure));
        }
    }

    /// The peer's choice, if it is one of what we offered: its SPI and the algorithms.
    fn chosen(&self, c: &Contents<'_>) -> Option<Chosen> {
        let [answer] = c.sa?.proposals.as_slice() else { return None };
        let (spi, answer) = without_spi(answer)?;
        let offered: Vec<Proposal> =
            self.proposals.iter().map(|p| Proposal { spi: Vec::new(), ..p.clone() }).collect();
        let transforms = ike_transforms(&answer).filter(|_| answers(&offered, &answer))?;
        (spi != self.spi).then_some((spi, transforms, additional_kes(&answer)?))
    }

    /// Has the peer's exchange that replaces the same IKE SA the higher nonces? `nonce` is the peer's in ours
    /// (RFC 7296 2.8.2).
    fn has_lost(&self, nonce: &[u8], current: &Ike) -> bool {
        let ours = lowest(&self.nonce, nonce);
        self.collision.as_ref().is_some_and(|theirs| ours < theirs.as_slice()) || !self.concerns(current)
    }
}

fn payloads(proposals: Vec<Proposal>, nonce: &[u8], method: KeId, public: &[u8]) -> Vec<Payload> {
    vec![
        Payload::SecurityAssociation(SecurityAssociation { proposals }),
        Payload::Nonce(Nonce(nonce.to_vec())),
        Payload::KeyExchange(KeyExchange { method, data: public.to_vec() }),
    ]
}

/// The SPI of an IKE SA to be is eight octets, and not zero (RFC 7296 3.3.1).
fn without_spi(proposal: &Proposal) -> Option<(IkeSpi, Proposal)> {
    let spi = IkeSpi(u64::from_be_bytes(<[u8; 8]>::try_from(proposal.spi.as_slice()).ok()?));
    (spi != IkeSpi::ZERO).then(|| (spi, Proposal { spi: Vec::new(), ..proposal.clone() }))
}

fn short_nonce(transforms: &IkeTransforms, nonce: &[u8]) -> bool {
    Prf::new(transforms.prf).is_ok_and(|prf| nonce.len() * 2 < prf.key_len())
}

/// A new IKE SA, its keys made of those of the old one (RFC 7296 2.18). Its Message IDs begin at 0, its window is 1.
pub(super) fn successor(
    cx: &mut Shared,
    old: &Secured,
    spis: (IkeSpi, IkeSpi),
    initiator: bool,
    (transforms, additional_kes): (IkeTransforms, Vec<KeId>),
    shared: &[Secret],
    (ni, nr): (&[u8], &[u8]),
) -> Result<Ike, adit_crypto::Error> {
    let (spi_i, spi_r) = (spis.0.0, spis.1.0);
    let keys = rekey_ike_keys(old.transforms.prf, &old.sk_d, &transforms, shared, ni, nr, spi_i, spi_r)?;
    let mut secured = secure(cx, spis, initiator, transforms, keys)?;
    secured.largest = old.largest;
    let mut ike = Ike::new(spis, initiator, secured, (0, 0));
    ike.additional_kes = additional_kes;
    Ok(ike)
}

impl Established {
    /// Does our request to replace this IKE SA wait for its answer?
    pub(super) fn rekeys_ike(&self) -> bool {
        self.ike.exchanges().any(|e| matches!(e, Exchange::RekeyIke(_)))
    }

    /// The peer wants to replace the IKE SA.
    pub(super) fn respond_to_rekey_ike(
        &mut self,
        core: &mut Core,
        cx: &mut Shared,
        c: &Contents<'_>,
    ) -> Handled {
        let (Some(sa), Some(nonce), Some(ke)) = (c.sa, c.nonce, c.ke) else {
            return Handled::invalid_syntax();
        };
        // RFC 7296 2.25.2: not while something about children is under way, nor twice.
        let children =
            self.ike.exchanges().any(|e| matches!(e, Exchange::CreateChild(_) | Exchange::Delete(_)));
        let candidate = self.others.iter().any(|o| o.role == Role::Candidate);
        if self.others.len() >= MOST_OTHERS {
            let oldest = self.others.iter().filter(|o| o.role == Role::Gone).map(|o| o.until).min();
            self.drop_others(core, cx, |o| o.role == Role::Gone && Some(o.until) == oldest);
        }
        // RFC 9370 2.2.4: nor while the additional key exchanges of our own successor are under way.
        let following =
            self.ike.exchanges().any(|e| matches!(e, Exchange::RekeyIke(create) if create.is_following_up()));
        if self.is_closing() || children || candidate || following || self.others.len() >= MOST_OTHERS {
            return Handled::refuse(NotifyType::TEMPORARY_FAILURE);
        }
        let theirs: Vec<(IkeSpi, Proposal)> = sa.proposals.iter().filter_map(without_spi).collect();
        let (spis, offered): (Vec<IkeSpi>, Vec<Proposal>) = theirs.into_iter().unzip();
        let ours = core.connection.proposals.clone();
        let choice = choose(&ours, &offered).and_then(|choice| {
            let at = offered.iter().position(|p| p.number == choice.proposal.number)?;
            Some((*spis.get(at)?, ike_transforms(&choice.proposal)?, choice.proposal))
        });
        let Some((their_spi, transforms, mut proposal)) = choice else {
            let message = format!(
                "no common IKE proposal for the rekeying of the IKE SA (NO_PROPOSAL_CHOSEN sent): it offers {}, we \
                 accept {}; make `proposals` overlap on one side",
                NotationList(&offered),
                NotationList(&ours),
            );
            let code = OutcomeCode::NoProposalChosen;
            let outcome = Outcome::new(code, Stage::IkeRekey, Blame::PeerIncompatible, message);
            core.record(cx, outcome.proposals(&ours, &offered).notify(NotifyType::NO_PROPOSAL_CHOSEN));
            return Handled::refuse(NotifyType::NO_PROPOSAL_CHOSEN);
        };
        if short_nonce(&transforms, &nonce.0) {
            return Handled::invalid_syntax();
        }
        if ke.method != transforms.ke {
            let wish = transforms.ke.0.to_be_bytes().to_vec();
            return Handled::Respond(vec![Payload::Notify(Notify::new(
                NotifyType::INVALID_KE_PAYLOAD,
                wish,
            ))]);
        }
        let (public, shared) = match adit_crypto::respond(ke.method, &ke.data, &mut *cx.entropy) {
            Ok(both) => both,
            Err(error) => {
                debug!(handle = core.handle.0, %error, "public value refused");
                return Handled::invalid_syntax();
            }
        };
        let spi = core.take_spi(cx);
        let own_nonce = cx.random::<NONCE_LEN>().to_vec();
        let nonces = (nonce.0.as_slice(), own_nonce.as_slice());
        let lowest_nonce = lowest(nonces.0, nonces.1);
        for exchange in self.ike.exchanges_mut() {
            if let Exchange::RekeyIke(create) = exchange {
                create.collision = Some(lowest_nonce.to_vec());
            }
        }
        let methods = additional_kes(&proposal).unwrap_or_default();
        let spis = (their_spi, spi);
        proposal.spi = spi.0.to_be_bytes().to_vec();
        let mut answer = payloads(vec![proposal], &own_nonce, transforms.ke, &public);
        if methods.is_empty() {
            if self.make_candidate(core, cx, spis, (transforms, methods), &[shared], nonces).is_err() {
                return Handled::refuse(NotifyType::NO_PROPOSAL_CHOSEN);
            }
        } else if let Some(awaited) = Awaited::start(cx, methods.clone(), shared) {
            answer.push(awaited.link());
            self.await_followup(core, cx, awaited, Half::Ike(spis, transforms, methods), nonces);
        }
        Handled::Respond(answer)
    }

    /// The peer has made an IKE SA to replace the current one.
    pub(super) fn make_candidate(
        &mut self,
        core: &mut Core,
        cx: &mut Shared,
        spis: (IkeSpi, IkeSpi),
        transforms: (IkeTransforms, Vec<KeId>),
        shared: &[Secret],
        nonces: (&[u8], &[u8]),
    ) -> Result<(), adit_crypto::Error> {
        let made = successor(cx, &self.ike.secured, spis, false, transforms, shared, nonces);
        let ike = made.inspect_err(|_| core.release_spi(cx, spis.1))?;
        self.others.push(Other { ike, role: Role::Candidate, until: cx.now + core.schedule().give_up });
        Ok(())
    }

    /// Our response is out: unless our own request for a successor is out too, what the peer has made is the IKE SA
    /// from now on. The peer can take nothing on it before it has our response (RFC 7296 2.8).
    pub(super) fn adopt_candidate(&mut self, core: &mut Core, cx: &mut Shared) {
        if self.rekeys_ike() {
            return;
        }
        let Some(at) = self.others.iter().position(|o| o.role == Role::Candidate) else { return };
        let candidate = self.others.remove(at);
        self.promote(core, cx, candidate.ike, Some(candidate.until));
    }

    /// The IKE SA is replaced. Returns where the old one is now.
    fn promote(&mut self, core: &mut Core, cx: &mut Shared, ike: Ike, held: Option<Instant>) {
        // A child that is half-done would have got its keys from the old one.
        self.drop_pending(core, cx, |_| true);
        let before = core.view(IkeSaState::Rekeyed, &[]);
        let old = std::mem::replace(&mut self.ike, ike);
        self.held = held;
        // The peer may ask for what it has made until it gives up (RFC 7296 2.1).
        let until = held.unwrap_or(cx.now).max(cx.now + LINGER);
        self.others.push(Other { ike: old, role: Role::Leaving, until });
        core.rekeyed(cx, &self.ike);
        let new = core.view(IkeSaState::Established, &self.children);
        cx.event(Event::IkeRekeyed { old: before, new });
    }

    /// Our request is answered.
    pub(super) fn ike_answered(
        &mut self,
        core: &mut Core,
        cx: &mut Shared,
        mut create: CreateIke,
        c: &Contents<'_>,
    ) {
        self.count_forgotten(cx, c);
        if let Some(following) = create.following.take() {
            return self.ike_followed_up(core, cx, create, c, following);
        }
        if let Some(notify) = c.notify(NotifyType::INVALID_KE_PAYLOAD) {
            let method =
                <[u8; 2]>::try_from(notify.data.as_slice()).ok().map(|b| KeId(u16::from_be_bytes(b)));
            let ours = methods(&create.proposals);
            let secret = method
                .filter(|m| ours.contains(m) && create.restarts < MOST_RESTARTS)
                .and_then(|m| KeyExchangeSecret::generate(m, &mut *cx.entropy).ok());
            if let Some(secret) = secret {
                create.secret = secret;
                create.nonce = cx.random::<NONCE_LEN>().to_vec();
                create.restarts += 1;
                // What the peer has made meanwhile needs no second one.
                if self.others.iter().any(|o| o.role == Role::Candidate) || !create.concerns(&self.ike) {
                    create.abandon(core, cx, "the peer has replaced the IKE SA");
                    return self.adopt_candidate(core, cx);
                }
                return self.queue.push_front(Task::RekeyIkeAgain(Box::new(create)));
            }
            let wish = method.map_or_else(|| "no method it names".to_owned(), ke_name);
            let message = format!(
                "it wants the key exchange method {wish} for the rekeying of the IKE SA (INVALID_KE_PAYLOAD), which is \
                 not one of ours: make `proposals` overlap on one side"
            );
            let refused = (OutcomeCode::InvalidKe, Some(NotifyType::INVALID_KE_PAYLOAD));
            return self.ike_refused(core, cx, create, refused, message, true);
        }
        if c.sa.is_none() {
            let notify = c.error().map(|n| n.notify_type);
            let temporary = notify == Some(NotifyType::TEMPORARY_FAILURE);
            let shown = notify.map_or_else(|| "nothing".to_owned(), |n| n.to_string());
            let message = format!("refused the rekeying of the IKE SA with {shown}: its log says why");
            let code = match notify {
                Some(NotifyType::NO_PROPOSAL_CHOSEN) => OutcomeCode::NoProposalChosen,
                _ => OutcomeCode::RefusedByPeer,
            };
            return self.ike_refused(core, cx, create, (code, notify), message, !temporary);
        }
        let agreed = create.chosen(c).zip(c.ke).zip(c.nonce);
        let agreed = agreed.filter(|(((_, transforms, _), ke), nonce)| {
            ke.method == transforms.ke
                && ke.method == create.secret.method()
                && !short_nonce(transforms, &nonce.0)
        });
        let Some(((chosen, ke), nonce)) = agreed else {
            let message = "its answer to the rekeying of the IKE SA is invalid".to_owned();
            return self.ike_refused(core, cx, create, (OutcomeCode::InvalidSyntax, None), message, true);
        };
        let shared = match create.secret.agree(&ke.data) {
            Ok(shared) => shared,
            Err(error) => return self.ike_broken(core, cx, create, &error.to_string()),
        };
        if chosen.2.is_empty() {
            return self.ike_agreed(core, cx, create, chosen, &[shared], &nonce.0);
        }
        // RFC 9370 2.2.4: who loses just stops, and nothing is there to delete.
        if create.has_lost(&nonce.0, &self.ike) {
            debug!(handle = core.handle.0, "lost a collision of rekeyings of the IKE SA");
            create.done(core, cx);
            return self.adopt_candidate(core, cx);
        }
        self.drop_pending(core, cx, Pending::is_ike);
        match Followup::start(cx, chosen.2.clone(), shared, c) {
            Ok(followup) => {
                create.following = Some(Following { followup, chosen, nonce: nonce.0.clone() });
                self.queue.push_front(Task::RekeyIkeAgain(Box::new(create)));
            }
            Err(why) => self.ike_broken(core, cx, create, &why),
        }
    }

    /// The response of an IKE_FOLLOWUP_KE (RFC 9370 2.2.4).
    fn ike_followed_up(
        &mut self,
        core: &mut Core,
        cx: &mut Shared,
        mut create: CreateIke,
        c: &Contents<'_>,
        Following { followup, chosen, nonce }: Following,
    ) {
        if let Some(error) = c.error() {
            let message =
                format!("refused the rekeying of the IKE SA with {}: its log says why", error.notify_type);
            // The peer waits no longer, or not now: all from the beginning.
            let again =
                matches!(error.notify_type, NotifyType::STATE_NOT_FOUND | NotifyType::TEMPORARY_FAILURE);
            let refused = (OutcomeCode::RefusedByPeer, Some(error.notify_type));
            return self.ike_refused(core, cx, create, refused, message, !again);
        }
        match followup.answered(cx, c) {
            Ok(Step::Next(followup)) => {
                create.following = Some(Following { followup, chosen, nonce });
                self.queue.push_front(Task::RekeyIkeAgain(Box::new(create)));
            }
            Ok(Step::Done(shared)) => self.ike_agreed(core, cx, create, chosen, &shared, &nonce),
            Err(why) => self.ike_broken(core, cx, create, &why),
        }
    }

    /// A public value of the peer cannot be used: it may believe in keys that nobody else has, so the IKE SA goes
    /// (draft-ietf-ipsecme-ikev2-mlkem).
    fn ike_broken(&mut self, core: &mut Core, cx: &mut Shared, create: CreateIke, why: &str) {
        let message = format!("its answer to the rekeying of the IKE SA is invalid: {why}");
        let outcome =
            Outcome::new(OutcomeCode::InvalidSyntax, Stage::IkeRekey, Blame::PeerMisbehaved, message.clone());
        core.record(cx, outcome.proposals(&create.proposals, &[]));
        create.abandon(core, cx, &message);
        self.end(cx);
    }

    /// All secrets are there.
    fn ike_agreed(
        &mut self,
        core: &mut Core,
        cx: &mut Shared,
        create: CreateIke,
        (their_spi, transforms, additional): Chosen,
        shared: &[Secret],
        nonce: &[u8],
    ) {
        let lost = create.has_lost(nonce, &self.ike);
        let CreateIke { spi, nonce: own_nonce, requests, replaces, asked, .. } = create;
        let Some(old) = self.on(replaces) else { return core.release_spi(cx, spi) };
        let (spis, nonces) = ((spi, their_spi), (own_nonce.as_slice(), nonce));
        let made = successor(cx, &old.secured, spis, true, (transforms, additional), shared, nonces);
        let ike = match made {
            Ok(ike) => ike,
            Err(error) => {
                debug!(handle = core.handle.0, %error, "no successor of the IKE SA");
                core.release_spi(cx, spi);
                for request in requests {
                    cx.finish_part(request, Err("the keys of the new IKE SA cannot be derived"));
                }
                return self.retry_rekey_ike(cx);
            }
        };
        for request in requests {
            cx.finish_part(request, Ok(()));
        }
        // RFC 7296 2.8.2: who made what is one too many deletes it; the other deletes the old one.
        if lost {
            debug!(handle = core.handle.0, "lost a collision of rekeyings of the IKE SA");
            self.leave(core, cx, ike);
            return self.adopt_candidate(core, cx);
        }
        for other in self.others.iter_mut().filter(|o| o.role == Role::Candidate) {
            other.role = Role::Leaving;
            other.until = cx.now + LINGER;
        }
        cx.statistics.ike_rekeys.add(cx.now.saturating_duration_since(asked));
        self.promote(core, cx, ike, None);
        if let Some(old) = self.others.pop() {
            self.leave(core, cx, old.ike);
        }
    }

    /// Deletes an IKE SA of ours beside the current one.
    fn leave(&mut self, core: &mut Core, cx: &mut Shared, mut ike: Ike) {
        let delete = Payload::Delete(Delete { protocol: ProtocolId::IKE, spis: Vec::new() });
        let until = cx.now + LINGER;
        if let Some(id) = ike.next_request() {
            let header = ike.header(ExchangeType::INFORMATIONAL, false, id);
            if let Ok(datagrams) = ike.secured.seal(&header, &[delete]) {
                let outstanding = Outstanding::send(core, cx, id, datagrams, core.schedule());
                ike.sent(outstanding, Exchange::DeleteIke);
            }
        }
        self.others.push(Other { ike, role: Role::Leaving, until });
    }

    fn ike_refused(
        &mut self,
        core: &mut Core,
        cx: &mut Shared,
        create: CreateIke,
        (code, notify): (OutcomeCode, Option<NotifyType>),
        message: String,
        tell: bool,
    ) {
        let collision = create.collision.is_some();
        if tell && !collision {
            let mut outcome = Outcome::new(code, Stage::IkeRekey, Blame::PeerIncompatible, message.clone());
            outcome.notify = notify;
            core.record(cx, outcome.proposals(&create.proposals, &[]));
            core.replace_before(cx, core.expires_at);
        }
        create.abandon(core, cx, &message);
        if collision {
            self.adopt_candidate(core, cx);
        } else {
            self.retry_rekey_ike(cx);
        }
    }

    fn retry_rekey_ike(&mut self, cx: &mut Shared) {
        let at = retry_at(cx);
        self.later.push((at, Task::RekeyIke(Vec::new())));
    }

    /// The peer uses what it has made, so it knows that this stays.
    pub(super) fn candidate_in_use(&mut self, core: &mut Core, cx: &mut Shared, on: IkeSpi) {
        let fits = |o: &Other| o.role == Role::Candidate && o.ike.our_spi() == on;
        if let Some(at) = self.others.iter().position(fits) {
            let candidate = self.others.remove(at);
            self.promote(core, cx, candidate.ike, None);
        }
    }

    /// The peer deletes the IKE SA with this SPI of ours: is there another one that goes on?
    pub(super) fn ike_deleted(&mut self, core: &mut Core, cx: &mut Shared, on: IkeSpi) -> bool {
        if self.ike.our_spi() != on {
            // What it has replaced, or one too many. Now the peer can take what we send on the one that stays.
            let replaced = self.others.iter_mut().find(|o| o.ike.our_spi() == on);
            if let Some(other) = replaced {
                if other.role == Role::Leaving {
                    self.held = None;
                }
                other.role = Role::Gone;
                other.until = cx.now + LINGER;
            }
            return true;
        }
        // RFC 7296 2.25.2: our own request is void; what the peer has made stays.
        let Some(at) = self.others.iter().position(|o| o.role == Role::Candidate) else { return false };
        let candidate = self.others.remove(at);
        for exchange in self.ike.take_all() {
            self.abandon(core, cx, exchange, "the peer has replaced the IKE SA");
        }
        self.promote(core, cx, candidate.ike, None);
        if let Some(old) = self.others.last_mut() {
            old.role = Role::Gone;
        }
        true
    }
}
