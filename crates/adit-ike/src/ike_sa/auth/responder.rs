//! IKE_AUTH as responder: who it is, which connection is meant, and the answer.

use std::sync::Arc;
use std::time::Instant;

use adit_wire::ikev2::{AuthMethod, Authentication, ExchangeType, Notify, NotifyType, Payload};

use super::{Handshake, Proof, check, outcome, own_identity, own_window, peer_window, record_established};
use crate::config::{Childless, Connection, RemoteAuth, Unique};
use crate::credentials;
use crate::identity::{Identity, IdentityPattern};
use crate::ike_sa::child::{self, Install};
use crate::ike_sa::established::Established;
use crate::ike_sa::intermediate::Last;
use crate::ike_sa::secured::{Opened, Secured};
use crate::ike_sa::window::Answered;
use crate::ike_sa::{AwaitRepetition, ChildSa, Contents, Core, Incoming, Refused, State, mobike, ppk};
use crate::output::{Blame, DownReason, OutcomeCode};
use crate::proposal::choose;
use crate::record::Outcome;
use crate::shared::{Effect, Shared};

/// Responder: IKE_SA_INIT is answered, its keys are there, and nobody is known yet.
pub(crate) struct AwaitAuthRequest {
    secured: Secured,
    handshake: Handshake,
    last: Option<Last>,
    until: Instant,
}

impl AwaitAuthRequest {
    pub(in crate::ike_sa) fn new(
        secured: Secured,
        handshake: Handshake,
        last: Option<Last>,
        until: Instant,
    ) -> Self {
        Self { secured, handshake, last, until }
    }

    /// The stored IKE_SA_INIT response, while the initiator may not have it.
    pub(in crate::ike_sa) fn init_response(&self) -> Option<&[u8]> {
        self.last.is_none().then_some(self.handshake.init_response.as_slice())
    }

    pub(in crate::ike_sa) fn deadline(&self) -> Instant {
        self.until
    }

    pub(in crate::ike_sa) fn handle_timeout(self: Box<Self>, core: &mut Core, cx: &mut Shared) -> State {
        let message = format!(
            "answered by us, it sent no IKE_AUTH request that we could decrypt within {} s: check that UDP port \
             4500 is open both ways",
            cx.settings.half_open_timeout.as_secs(),
        );
        let outcome = outcome(core, &self.handshake, OutcomeCode::Timeout, Blame::Network, message);
        core.record(cx, outcome);
        core.close(cx, Vec::new(), DownReason::Failed, "half-open for too long")
    }

    pub(in crate::ike_sa) fn handle_message(
        mut self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        m: &Incoming<'_>,
    ) -> State {
        if self.last.as_ref().is_some_and(|last| last.repeat(core, cx, m)) {
            return State::AwaitAuthRequest(self);
        }
        if !m.is(ExchangeType::IKE_AUTH, false, self.handshake.intermediate.message_id()) {
            cx.counters.ignored += 1;
            return State::AwaitAuthRequest(self);
        }
        let Some(Opened { payloads, datagram, .. }) = self.secured.open(core, cx, m) else {
            return State::AwaitAuthRequest(self);
        };
        // The initiator may have floated to the NAT traversal ports (RFC 7296 2.23).
        core.local = m.local;
        core.remote = m.remote;
        let malformed = |core: &Core, h: &Handshake, why: &str| {
            let message = format!("its IKE_AUTH request is invalid: {why}");
            outcome(core, h, OutcomeCode::InvalidSyntax, Blame::PeerMalformed, message)
        };
        let invalid_syntax = || Notify::new(NotifyType::INVALID_SYNTAX, Vec::new());
        let payloads = match payloads {
            Ok(payloads) => payloads,
            Err(error) => {
                let outcome = malformed(core, &self.handshake, &error.to_string());
                return self.refuse(core, cx, (m, datagram), invalid_syntax(), outcome);
            }
        };
        let contents = match Contents::read(&payloads) {
            Ok(contents) => contents,
            Err(refused) => {
                let mut outcome = malformed(core, &self.handshake, &format!("{refused:?}"));
                if let Refused::Critical(_) = refused {
                    outcome.code = OutcomeCode::UnsupportedCriticalPayload;
                }
                return self.refuse(core, cx, (m, datagram), refused.notify(), outcome);
            }
        };
        let child = [contents.sa.is_some(), contents.ts_initiator.is_some(), contents.ts_responder.is_some()];
        // RFC 6023 3: what we announced is what counts, whichever connection it turns out to be.
        let childless = child == [false; 3] && self.handshake.childless;
        if child != [true; 3] && !childless {
            let outcome = malformed(core, &self.handshake, "it lacks SA, TSi or TSr");
            return self.refuse(core, cx, (m, datagram), invalid_syntax(), outcome);
        }
        let proved = self.verify(core, cx, &contents).and_then(|()| self.prove(core, cx, &contents));
        match proved {
            Ok(proof) => self.established(core, cx, (m, datagram), &contents, proof),
            Err(outcome) => {
                let notify = Notify::new(NotifyType::AUTHENTICATION_FAILED, Vec::new());
                self.refuse(core, cx, (m, datagram), notify, outcome)
            }
        }
    }

    /// Answers with nothing but an error; the IKE SA is gone (RFC 7296 2.21.2).
    fn refuse(
        mut self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        (m, datagram): (&Incoming<'_>, Vec<u8>),
        notify: Notify,
        outcome: Box<Outcome>,
    ) -> State {
        let failure = core.record(cx, outcome.notify(notify.notify_type));
        let id = self.handshake.intermediate.message_id();
        let header = core.header(ExchangeType::IKE_AUTH, true, id);
        let response = self.secured.seal(&header, &[Payload::Notify(notify)]);
        let closed = core.close(cx, Vec::new(), DownReason::Failed, &failure);
        match response {
            Ok(response) => {
                core.reply(cx, m, &response);
                AwaitRepetition::start(cx, Answered::new(id, datagram, response))
            }
            Err(_) => closed,
        }
    }

    /// Finds the connection that is meant, and verifies that the peer is who it says.
    fn verify(&mut self, core: &mut Core, cx: &Shared, c: &Contents<'_>) -> Result<(), Box<Outcome>> {
        let fail = |core: &Core, code, blame, message: String| {
            Err(outcome(core, &self.handshake, code, blame, message))
        };
        let Some(id) = c.id_initiator else {
            let message = "its IKE_AUTH request lacks IDi (AUTHENTICATION_FAILED sent)".to_owned();
            return fail(core, OutcomeCode::InvalidSyntax, Blame::PeerMalformed, message);
        };
        let identities = Identity::from_wire(id)
            .and_then(|peer| Ok((peer, c.id_responder.map(Identity::from_wire).transpose()?)));
        let (peer, asked_for) = match identities {
            Ok(both) => both,
            Err(error) => {
                return fail(core, OutcomeCode::InvalidSyntax, Blame::PeerMalformed, error.to_string());
            }
        };
        core.remote_id = Some(peer.clone());
        let Some(connection) = self.connection_for(core, cx, &peer, asked_for.as_ref(), c.auth) else {
            return Err(self.no_connection(core, cx, &peer, asked_for));
        };
        core.connection = connection;
        let own = own_identity(core, &core.connection);
        core.local_id = Some(own.clone());
        if peer == own {
            let message = format!(
                "it claims our own identity \"{own}\" (AUTHENTICATION_FAILED sent): messages are reflected to us, or \
                 both sides have the same `local.id`"
            );
            return fail(core, OutcomeCode::IdentityMismatch, Blame::PeerMisbehaved, message);
        }
        let Some(auth) = c.auth else {
            // No AUTH payload asks for EAP (RFC 7296 2.16), which no connection has.
            let message = format!(
                "\"{peer}\" wants EAP, we accept a pre-shared key or a certificate only (AUTHENTICATION_FAILED sent): set \
                 `auth = psk` or `auth = pubkey` there"
            );
            return fail(core, OutcomeCode::AuthMethodRefused, Blame::PeerIncompatible, message);
        };
        match ppk::respond(core, cx, &mut self.secured, c, (self.handshake.ppk, auth)) {
            Ok(auth) => check(core, cx, (&self.secured, &self.handshake), c, (&auth, id), (&own, &peer))?,
            Err((code, blame, message)) => return fail(core, code, blame, message),
        }
        let others = core.connection.unique == Unique::Keep && !c.has(NotifyType::INITIAL_CONTACT);
        if others && cx.is_kept_out(&own, &peer, &core.connection.name, core.remote) {
            let message = format!(
                "\"{peer}\" has an IKE SA from another address already, and `unique = keep` here lets it have no \
                 other (AUTHENTICATION_FAILED sent)"
            );
            return fail(core, OutcomeCode::NotUnique, Blame::PeerIncompatible, message);
        }
        Ok(())
    }

    /// Our side of it: IDr, certificates and AUTH. Only who has proved who it is learns of it.
    fn prove(&mut self, core: &Core, cx: &Shared, c: &Contents<'_>) -> Result<Vec<Payload>, Box<Outcome>> {
        let own = own_identity(core, &core.connection);
        self.handshake.requested = credentials::requested(&c.certificate_requests);
        let proof = Proof::find(core, cx, &self.handshake, &own, core.remote_id.as_ref())?;
        let id = own.to_wire();
        let auth = proof.make(core, &self.handshake, &self.secured, &id)?;
        let mut payloads = vec![Payload::IdResponder(id)];
        payloads.extend(proof.certificates(core, cx, &self.handshake));
        payloads.push(Payload::Authentication(auth));
        Ok(payloads)
    }

    /// Does it fit the IKE proposal?
    fn suits(&self, connection: &Connection) -> bool {
        choose(&connection.proposals, std::slice::from_ref(&self.handshake.chosen)).is_some()
    }

    /// Of those that fit addresses and IKE proposal, the one that fits the identities best; of one that wants another
    /// kind of proof than there is, it is said that it does.
    fn connection_for(
        &self,
        core: &Core,
        cx: &Shared,
        peer: &Identity,
        asked_for: Option<&Identity>,
        auth: Option<&Authentication>,
    ) -> Option<Arc<Connection>> {
        let suits = |connection: &Connection| {
            self.suits(connection) && asked_for.is_none_or(|id| *id == own_identity(core, connection))
        };
        let by_psk = auth.map(|auth| auth.method == AuthMethod::SHARED_KEY);
        let verifies = |connection: &Connection| {
            by_psk.is_none_or(|by_psk| by_psk == (connection.remote_auth == RemoteAuth::Psk))
        };
        let (local, remote) = (core.local.ip(), core.remote.ip());
        let best = cx.connections.of_peer(local, remote, peer, |c| suits(c) && verifies(c));
        best.or_else(|| cx.connections.of_peer(local, remote, peer, suits))
    }

    fn no_connection(
        &self,
        core: &Core,
        cx: &Shared,
        peer: &Identity,
        asked_for: Option<Identity>,
    ) -> Box<Outcome> {
        let mut candidates = cx.connections.examples(core.local.ip(), core.remote.ip());
        candidates.retain(|c| self.suits(c));
        let own: Vec<Identity> = candidates.iter().map(|c| own_identity(core, c)).collect();
        let accepted = candidates.iter().map(|c| c.remote_id.clone()).collect();
        let message = match &asked_for {
            Some(wish) if !own.contains(wish) => {
                let ours: Vec<String> = candidates
                    .iter()
                    .zip(&own)
                    .map(|(c, own)| format!("\"{}\" is \"{own}\"", c.name))
                    .collect();
                format!(
                    "\"{peer}\" wants to talk to \"{wish}\", which is no identity of ours (AUTHENTICATION_FAILED \
                     sent): connection {}; correct `remote.id` there or `local.id` here",
                    ours.join(", "),
                )
            }
            _ => {
                let accepts: Vec<String> = candidates
                    .iter()
                    .map(|c| format!("\"{}\" wants {}", c.name, pattern(&c.remote_id)))
                    .collect();
                format!(
                    "it says it is \"{peer}\", which no connection accepts (AUTHENTICATION_FAILED sent): connection \
                     {}; correct `remote.id` here or `local.id` there",
                    accepts.join(", "),
                )
            }
        };
        outcome(core, &self.handshake, OutcomeCode::IdentityMismatch, Blame::PeerIncompatible, message)
            .accepted(accepted)
            .asked(asked_for, own)
    }

    fn established(
        mut self: Box<Self>,
        core: &mut Core,
        cx: &mut Shared,
        (m, datagram): (&Incoming<'_>, Vec<u8>),
        c: &Contents<'_>,
        mut payloads: Vec<Payload>,
    ) -> State {
        core.authenticated(cx, (&self.handshake.nonce_i, &self.handshake.nonce_r));
        core.establish(cx);
        record_established(core, cx, &self.handshake);
        if c.has(NotifyType::INITIAL_CONTACT) && core.connection.unique != Unique::Never {
            cx.effects.push(Effect::InitialContact(core.handle));
        }
        payloads.extend(core.ppk.then(ppk::confirmation));
        let child = match c.sa.map(|_| self.child(core, cx, c)) {
            None => None,
            Some(Ok((child, agreed))) => {
                payloads.extend(agreed);
                Some(child)
            }
            Some(Err((notify, outcome))) => {
                core.record(cx, outcome.notify(notify.notify_type));
                payloads.push(Payload::Notify(notify));
                None
            }
        };
        payloads.extend(core.auth_lifetime());
        mobike::agree(core, c);
        payloads.extend(mobike::supported(core).filter(|_| core.mobility.mobike));
        payloads.extend(own_window(cx));
        let children: Vec<ChildSa> = child.into_iter().collect();
        let id = self.handshake.intermediate.message_id();
        let header = core.header(ExchangeType::IKE_AUTH, true, id);
        let Ok(response) = self.secured.seal(&header, &payloads) else {
            return core.close(cx, children, DownReason::Failed, "the response cannot be encrypted");
        };
        core.reply(cx, m, &response);
        let answered = Answered::new(id, datagram, response);
        let mut established = Established::new(core, self.secured, (0, id + 1), Some(answered));
        established.ike.set_windows(peer_window(c), cx.settings.window);
        for child in children {
            established.add_child(cx, child, false);
        }
        State::Established(Box::new(established))
    }

    /// The child of IKE_AUTH: it is in the data plane before the peer hears of it.
    fn child(
        &self,
        core: &Core,
        cx: &mut Shared,
        c: &Contents<'_>,
    ) -> Result<(ChildSa, Vec<Payload>), (Notify, Box<Outcome>)> {
        let missing = || {
            let message = "its request for a child lacks SA, TSi or TSr";
            let notify = Notify::new(NotifyType::INVALID_SYNTAX, Vec::new());
            (
                notify,
                outcome(core, &self.handshake, OutcomeCode::InvalidSyntax, Blame::PeerMalformed, message),
            )
        };
        let (sa, ts_i, ts_r) = (
            c.sa.ok_or_else(missing)?,
            c.ts_initiator.ok_or_else(missing)?,
            c.ts_responder.ok_or_else(missing)?,
        );
        if core.connection.childless == Childless::Force {
            let message = "it wants a child in IKE_AUTH, which `childless = force` forbids here: set `childless = \
                           force` or `prefer` there as well, or another value here";
            let notify = Notify::new(NotifyType::NO_ADDITIONAL_SAS, Vec::new());
            let code = OutcomeCode::NoProposalChosen;
            return Err((notify, outcome(core, &self.handshake, code, Blame::PeerIncompatible, message)));
        }
        let agreed = child::respond(core, cx, c, (sa, ts_i, ts_r), false, (None, &[]))?;
        let payloads = agreed.payloads().into_iter().chain(agreed.notifies()).collect();
        let failed = agreed.outcome(
            OutcomeCode::NoProposalChosen,
            Blame::OurBug,
            "the child's keys cannot be derived",
        );
        let nonces = self.handshake.nonces();
        match agreed.install(core, cx, &self.secured, &[], nonces, false, Install::New) {
            Ok(child) => Ok((child, payloads)),
            Err(_) => Err((Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new()), failed)),
        }
    }
}

fn pattern(pattern: &IdentityPattern) -> String {
    match pattern {
        IdentityPattern::Any => "anyone".to_owned(),
        other => format!("\"{other}\""),
    }
}
