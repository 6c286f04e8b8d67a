//! Child SAs: what we offer, what we choose, and putting the result into the data plane (RFC 7296 1.3.1, 2.9, 2.17).
//!
//! Shared by IKE_AUTH and CREATE_CHILD_SA, which own the messages.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use adit_crypto::{EspTransforms, Secret, child_keys};
use adit_wire::esp::Mode;
use adit_wire::ikev2::{
    KeId, Notify, NotifyType, Payload, Proposal, SecurityAssociation, Spi, TrafficSelectors,
};

use super::established::retry_at;
use super::mobike::EspPath;
use super::mode;
use super::resources::{self, Beside, Role};
use super::secured::Secured;
use super::{Contents, Core};
use crate::config::Child;
use crate::output::{
    Blame, ChildHandle, ChildSaState, ChildSaView, DownReason, Event, IkeSaState, InstallChild, OutcomeCode,
    Output, RequestId, Stage, UsageLimits,
};
use crate::proposal::{
    NotationList, additional_kes, answers, choose, esp_transforms, without_esn, without_ke,
};
use crate::record::Outcome;
use crate::selector::{Selectors, resolve};
use crate::shared::{Effect, Shared};
use crate::spis::Lane;

/// A child somebody wants up.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) child: Arc<Child>,
    pub(crate) requests: Vec<RequestId>,
    /// How often the peer has put it off.
    pub(crate) put_off: u32,
}

impl Wanted {
    pub(crate) fn new(child: Arc<Child>, requests: Vec<RequestId>) -> Self {
        Self { child, requests, put_off: 0 }
    }

    /// Tells everyone who waits for it that it will not come.
    pub(crate) fn fail(mut self, cx: &mut Shared, failure: &str) {
        self.tell_failure(cx, failure);
    }

    /// The same, where it may be tried again later for nobody in particular.
    pub(crate) fn tell_failure(&mut self, cx: &mut Shared, failure: &str) {
        for request in std::mem::take(&mut self.requests) {
            cx.finish_part(request, Err(failure));
        }
    }
}

/// One pair of ESP SAs.
pub(crate) struct ChildSa {
    pub(crate) handle: ChildHandle,
    pub(crate) config: Arc<Child>,
    pub(crate) inbound_spi: Spi,
    pub(crate) outbound_spi: Spi,
    pub(super) mode: Mode,
    pub(super) transforms: EspTransforms,
    pub(super) ke: Option<KeId>,
    pub(super) additional_kes: Vec<KeId>,
    /// What it is among the SAs of its child.
    pub(super) role: Role,
    /// Where its packets go.
    pub(super) path: EspPath,
    pub(super) selectors: Selectors,
    pub(super) installed: Instant,
    pub(super) phase: Phase,
    /// What the peer has made to replace it; it takes over with its first packet, or when the peer deletes this one.
    pub(super) successor: Option<ChildHandle>,
    /// It lost a collision of rekeyings.
    pub(super) redundant: bool,
    /// Was anybody told of it? Of what stands by only once it takes over.
    pub(super) told: bool,
    /// Does the peer know of it? Of the successor that we made by a response only once the peer shows that it has that.
    pub(super) settled: bool,
    /// It sends nothing any more.
    pub(super) retired: bool,
    pub(super) rekey_at: Option<Instant>,
    pub(super) expires_at: Option<Instant>,
    /// The requests it was made for.
    pub(crate) requests: Vec<RequestId>,
}

/// Where a Child SA stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Installed,
    /// Our request for its successor is out, or out again.
    Rekeying,
    /// Its successor is in use, and our request to delete it is about to go out.
    Rekeyed,
    /// Our request to delete it is out.
    Deleting,
}

impl ChildSa {
    pub(crate) fn view(&self) -> ChildSaView {
        ChildSaView {
            handle: self.handle,
            name: self.config.name.clone(),
            state: match self.phase {
                Phase::Installed if self.successor.is_some() => ChildSaState::Rekeyed,
                Phase::Installed => ChildSaState::Installed,
                Phase::Rekeying => ChildSaState::Rekeying,
                Phase::Rekeyed => ChildSaState::Rekeyed,
                Phase::Deleting => ChildSaState::Deleting,
            },
            inbound_spi: self.inbound_spi,
            outbound_spi: self.outbound_spi,
            mode: self.mode,
            transforms: self.transforms,
            ke: self.ke,
            additional_kes: self.additional_kes.clone(),
            resource: self.role.own,
            encap: self.path.encap.is_some(),
            local_ts: self.selectors.local.clone(),
            remote_ts: self.selectors.remote.clone(),
            installed: self.installed,
            rekey_at: self.rekey_at,
            expires_at: self.expires_at,
        }
    }

    /// It sends nothing any more; what arrives is still taken.
    pub(super) fn retire(&mut self, cx: &mut Shared) {
        cx.waiting.remove(&self.handle);
        if !std::mem::replace(&mut self.retired, true) {
            cx.outputs.push_back(Output::RetireChild(self.handle));
        }
    }

    /// It is about to end: what does the same on another IKE SA is used from now on.
    pub(super) fn hand_over(&self, cx: &mut Shared) {
        let Some(ike_sa) = cx.child_owners.get(&self.handle) else { return };
        for (name, heir) in cx.standby.get(ike_sa).into_iter().flatten() {
            if *name == self.config.name && cx.waiting.remove(heir) {
                cx.outputs.push_back(Output::SwitchChild(*heir));
            }
        }
    }

    /// Does it carry traffic, and will it?
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Installed | Phase::Rekeying) && !self.redundant && !self.retired
    }

    /// It is gone by agreement, or against it; without a reason something else carries its traffic, and nobody is
    /// told.
    pub(super) fn leave(mut self, core: &Core, cx: &mut Shared, reason: Option<DownReason>) {
        if reason.is_some() && !self.retired {
            self.hand_over(cx);
        }
        cx.child_owners.remove(&self.handle);
        match reason {
            // What the peer still sends is on no way that we have agreed on.
            Some(DownReason::PeerDead | DownReason::Failed | DownReason::DataPlane | DownReason::Expired) => {
                cx.waiting.remove(&self.handle);
                cx.outputs.push_back(Output::RemoveChild(self.handle));
                cx.release_inbound_spi(self.inbound_spi);
            }
            _ => {
                self.retire(cx);
                cx.drain(core.handle, self.handle, self.inbound_spi);
            }
        }
        if let Some(reason) = reason.filter(|_| self.told && !self.redundant) {
            let ike_sa = core.view(IkeSaState::Established, &[]);
            cx.event(Event::ChildDown(ike_sa, self.view(), reason));
        }
    }

    /// Is it the successor of `old`, and fit to take over?
    pub(super) fn succeeds(&self, old: &Self) -> bool {
        old.successor == Some(self.handle) && !self.redundant && !self.retired
    }

    /// What was to replace it is gone without having taken over.
    pub(super) fn go_on(&mut self, cx: &mut Shared) {
        self.successor = None;
        self.rekey_at = Some(retry_at(cx)).filter(|_| !self.config.limits.time.soft.is_zero());
    }

    /// May its successor be negotiated?
    pub(super) fn may_be_rekeyed(&self) -> bool {
        self.phase == Phase::Installed && self.successor.is_none() && !self.redundant
    }
}

/// How a new Child SA comes into use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Install {
    /// At once, and everybody is told.
    New,
    /// At once, in the place of another.
    Successor,
    /// When the peer uses it, in the place of another (RFC 7296 2.8).
    Standby,
}

/// What we offer in a request.
pub(super) struct Offer {
    pub(super) wanted: Wanted,
    pub(super) spi: Spi,
    proposals: Vec<Proposal>,
    mode: Mode,
    selectors: Selectors,
    /// Beside which it is one more.
    pub(super) beside: Option<Beside>,
    /// What it replaces has this role.
    role: Option<Role>,
}

/// The ESP proposals of a child as they can be used now.
fn usable_proposals(child: &Child, with_ke: bool) -> Vec<Proposal> {
    let mut proposals = if with_ke { child.proposals.clone() } else { without_ke(&child.proposals) };
    if child.replay_window == 0 {
        proposals = without_esn(&proposals);
    }
    proposals
}

fn selectors_of(child: &Child, core: &Core) -> Selectors {
    Selectors {
        local: resolve(&child.local_ts, core.local.ip()),
        remote: resolve(&child.remote_ts, core.remote.ip()),
    }
}

impl Offer {
    /// An offer for a child; in IKE_AUTH without key exchange (RFC 7296 1.2).
    pub(super) fn new(core: &Core, cx: &mut Shared, wanted: Wanted, with_ke: bool) -> Self {
        let selectors = selectors_of(&wanted.child, core);
        let mode = wanted.child.mode;
        let spi = cx.take_inbound_spi(Lane::Any);
        Self::with_selectors(core, wanted, with_ke, (mode, selectors), spi)
    }

    /// An offer for the successor of a child: what it protects stays the same (RFC 7296 2.9.2), and its mode.
    pub(super) fn successor(core: &Core, cx: &mut Shared, wanted: Wanted, old: &ChildSa) -> Self {
        let spi = cx.take_inbound_spi(old.role.lane(Some(old.inbound_spi)));
        Self { role: Some(old.role), ..Self::like(core, wanted, old, spi) }
    }

    /// An offer for one more of these (RFC 9611).
    pub(super) fn beside(core: &Core, cx: &mut Shared, first: &ChildSa, beside: Beside) -> Self {
        let wanted = Wanted::new(Arc::clone(&first.config), Vec::new());
        let spi = cx.take_inbound_spi(beside.role().lane(None));
        Self { beside: Some(beside), ..Self::like(core, wanted, first, spi) }
    }

    fn like(core: &Core, wanted: Wanted, old: &ChildSa, spi: Spi) -> Self {
        let mode = match old.mode {
            // With our own flags, not the peer's.
            Mode::Iptfs { .. } => wanted.child.mode,
            mode => mode,
        };
        Self::with_selectors(core, wanted, true, (mode, old.selectors.clone()), spi)
    }

    fn with_selectors(
        core: &Core,
        wanted: Wanted,
        with_ke: bool,
        (mode, selectors): (Mode, Selectors),
        spi: Spi,
    ) -> Self {
        let mut proposals = usable_proposals(&wanted.child, with_ke);
        for proposal in &mut proposals {
            proposal.spi = spi.0.to_be_bytes().to_vec();
        }
        let mode = match mode {
            Mode::Transport if !core.is_between_hosts(&selectors) => Mode::Tunnel,
            mode => mode,
        };
        Self { wanted, spi, proposals, mode, selectors, beside: None, role: None }
    }

    pub(super) fn proposals(&self) -> &[Proposal] {
        &self.proposals
    }

    /// SA, TSi and TSr of the request.
    pub(super) fn payloads(&self) -> [Payload; 3] {
        let ts = |selectors: &[_]| TrafficSelectors::new(selectors.to_vec());
        [
            Payload::SecurityAssociation(SecurityAssociation { proposals: self.proposals.clone() }),
            Payload::TrafficSelectorsInitiator(ts(&self.selectors.local)),
            Payload::TrafficSelectorsResponder(ts(&self.selectors.remote)),
        ]
    }

    /// What the request says beside them: its mode, and that there may be several.
    pub(super) fn notifies(&self) -> impl Iterator<Item = Payload> {
        mode::notify(self.mode).into_iter().chain(resources::notify(&self.wanted.child, self.spi))
    }

    /// The child is up.
    pub(super) fn succeed(self, cx: &mut Shared) {
        for request in self.wanted.requests {
            cx.finish_part(request, Ok(()));
        }
    }

    /// Nothing came of it; returns what is still wanted.
    pub(super) fn abandon(self, cx: &mut Shared) -> Wanted {
        cx.release_inbound_spi(self.spi);
        self.wanted
    }

    /// An outcome about this offer.
    pub(super) fn outcome(
        &self,
        code: OutcomeCode,
        blame: Blame,
        message: impl Into<String>,
    ) -> Box<Outcome> {
        Outcome::new(code, Stage::ChildSa, blame, message)
            .child(&self.wanted.child.name)
            .proposals(&self.proposals, &[])
            .selectors(&self.selectors, &Selectors::default())
    }

    /// What a peer's refusal means for the operator.
    pub(super) fn refusal(&self, notify: NotifyType) -> Box<Outcome> {
        if notify == NotifyType::TS_MAX_QUEUE && self.beside.is_some() {
            let message = "the peer takes no more SAs (TS_MAX_QUEUE): those that there are carry the traffic";
            return self.outcome(OutcomeCode::Success, Blame::Nobody, message).notify(notify);
        }
        let (code, message) = match notify {
            NotifyType::NO_PROPOSAL_CHOSEN => (
                OutcomeCode::NoProposalChosen,
                format!(
                    "refused our ESP proposals (NO_PROPOSAL_CHOSEN): we offered {}; make `esp_proposals` overlap \
                     on one side",
                    NotationList(&self.proposals),
                ),
            ),
            NotifyType::TS_UNACCEPTABLE => (
                OutcomeCode::TsUnacceptable,
                format!(
                    "refused our traffic selectors (TS_UNACCEPTABLE): we offered {}; its remote_ts must cover some \
                     of our local_ts, and its local_ts some of our remote_ts",
                    self.selectors,
                ),
            ),
            other => {
                (OutcomeCode::RefusedByPeer, format!("refused the child with {other}: its log says why"))
            }
        };
        self.outcome(code, Blame::PeerIncompatible, message).notify(notify)
    }

    /// Checks the peer's answer; `Err` says why it cannot be used and whether the peer believes the child exists.
    pub(super) fn answered(&self, core: &Core, c: &Contents<'_>) -> Result<Agreed, (Box<Outcome>, bool)> {
        let invalid = |why: &str| {
            let message = format!("its answer for the child is invalid: {why}");
            (self.outcome(OutcomeCode::InvalidSyntax, Blame::PeerMisbehaved, message), c.sa.is_some())
        };
        if c.sa.is_none()
            && let Some(error) = c.error()
        {
            return Err((self.refusal(error.notify_type), false));
        }
        let (Some(sa), Some(ts_i), Some(ts_r)) = (c.sa, c.ts_initiator, c.ts_responder) else {
            return Err(invalid("it lacks SA, TSi or TSr"));
        };
        let (Some(proposal), 1) = (sa.proposals.first(), sa.proposals.len()) else {
            return Err(invalid("it does not choose one proposal"));
        };
        let chosen = esp_transforms(proposal).filter(|_| answers(&self.proposals, proposal));
        let (Some((transforms, ke)), Some(outbound_spi)) = (chosen, esp_spi(proposal)) else {
            return Err(invalid("it chooses what we did not offer"));
        };
        let answered = Selectors { local: ts_i.selectors.clone(), remote: ts_r.selectors.clone() };
        // RFC 7296 1.3.1: a peer that does not repeat our wish makes it a tunnel, which protects the same.
        let mode = mode::agreed(self.mode, c);
        if mode == Mode::Tunnel && self.mode != mode && self.wanted.child.strict_mode {
            // RFC 9347 5.1: an initiator that cannot do without it deletes the child.
            let message = "does not agree to the child's `mode`: set the same there";
            let outcome = self.outcome(OutcomeCode::NoProposalChosen, Blame::PeerIncompatible, message);
            return Err((outcome, true));
        }
        let (selectors, original) = match mode {
            Mode::Tunnel | Mode::Iptfs { .. } => (answered.clone(), None),
            Mode::Transport => {
                core.seen_from_here(&answered).ok_or_else(|| invalid("it is for more than one address"))?
            }
        };
        if selectors.local.is_empty() || selectors.remote.is_empty() || !self.selectors.covers(&selectors) {
            return Err(invalid("its traffic selectors are not within ours"));
        }
        let role = match (&self.beside, self.role) {
            (Some(beside), _) => {
                if !beside.is_met_by(&transforms, mode) || selectors != self.selectors {
                    return Err(invalid("it is not like the first one of them (RFC 9611)"));
                }
                beside.role()
            }
            (None, Some(role)) => role,
            (None, None) => Role::of_first(&self.wanted.child, c),
        };
        Ok(Agreed {
            child: Arc::clone(&self.wanted.child),
            requests: self.wanted.requests.clone(),
            role,
            proposal: proposal.clone(),
            mode,
            pads: takes_padding(c),
            original,
            transforms,
            ke,
            inbound_spi: self.spi,
            outbound_spi,
            narrowed: !selectors.covers(&self.selectors),
            offered: self.selectors.clone(),
            our_proposals: self.proposals.clone(),
            peer_proposals: Vec::new(),
            peer_selectors: answered,
            selectors,
        })
    }
}

/// Does the peer accept padding against traffic analysis (RFC 7296 1.3.1)? We always do.
fn takes_padding(c: &Contents<'_>) -> bool {
    !c.has(NotifyType::ESP_TFC_PADDING_NOT_SUPPORTED)
}

impl Core {
    /// Are these the selectors of the two hosts themselves, as transport mode needs them (RFC 7296 2.23.1)?
    fn is_between_hosts(&self, selectors: &Selectors) -> bool {
        selectors.hosts() == Some((self.local.ip(), self.remote.ip()))
    }

    /// The peer's selectors for transport mode with the addresses that they have here, if NATs changed those, and then
    /// the peer's address and ours as it sees them (RFC 7296 2.23.1). `None` if there is more than one on a side.
    fn seen_from_here(&self, theirs: &Selectors) -> Option<(Selectors, Option<(IpAddr, IpAddr)>)> {
        let (local, remote) = theirs.hosts()?;
        let here = (
            if self.nat.local { self.local.ip() } else { local },
            if self.nat.remote { self.remote.ip() } else { remote },
        );
        let original = ((local, remote) != here).then_some((remote, local));
        Some((theirs.between(here.0, here.1), original))
    }
}

fn esp_spi(proposal: &Proposal) -> Option<Spi> {
    <[u8; 4]>::try_from(proposal.spi.as_slice()).ok().map(|spi| Spi(u32::from_be_bytes(spi)))
}

/// A child both sides agree on.
pub(super) struct Agreed {
    pub(super) child: Arc<Child>,
    /// Who waits for it.
    requests: Vec<RequestId>,
    role: Role,
    /// As the responder answers it.
    pub(super) proposal: Proposal,
    mode: Mode,
    pads: bool,
    original: Option<(IpAddr, IpAddr)>,
    transforms: EspTransforms,
    pub(super) ke: Option<KeId>,
    inbound_spi: Spi,
    pub(super) outbound_spi: Spi,
    selectors: Selectors,
    narrowed: bool,
    /// What our configuration says.
    offered: Selectors,
    our_proposals: Vec<Proposal>,
    peer_proposals: Vec<Proposal>,
    peer_selectors: Selectors,
}

/// The nonces of the exchange that makes a child: `Ni` and `Nr` (RFC 7296 2.17).
#[derive(Clone, Copy)]
pub(super) struct Nonces<'a> {
    pub(super) initiator: &'a [u8],
    pub(super) responder: &'a [u8],
}

impl Agreed {
    /// SA, TSi and TSr of our response.
    pub(super) fn payloads(&self) -> [Payload; 3] {
        let ts = |selectors: &[_]| TrafficSelectors::new(selectors.to_vec());
        let mut proposal = self.proposal.clone();
        proposal.spi = self.inbound_spi.0.to_be_bytes().to_vec();
        [
            Payload::SecurityAssociation(SecurityAssociation { proposals: vec![proposal] }),
            Payload::TrafficSelectorsInitiator(ts(&self.selectors.remote)),
            Payload::TrafficSelectorsResponder(ts(&self.selectors.local)),
        ]
    }

    /// What our response says beside them.
    pub(super) fn notifies(&self) -> impl Iterator<Item = Payload> + use<> {
        let ours = if self.mode == Mode::Tunnel { self.mode } else { self.child.mode };
        let resource = resources::notify(&self.child, self.inbound_spi).filter(|_| self.role.spreads);
        mode::notify(ours).into_iter().chain(resource)
    }

    /// Derives the keys and puts it into the data plane. `initiator` tells whether the exchange was ours.
    #[expect(
        clippy::too_many_arguments,
        reason = "they are the inputs of RFC 7296 2.17, each of its own kind"
    )]
    pub(super) fn install(
        self,
        core: &Core,
        cx: &mut Shared,
        secured: &Secured,
        shared: &[Secret],
        nonces: Nonces<'_>,
        initiator: bool,
        install: Install,
    ) -> Result<ChildSa, adit_crypto::Error> {
        let keys = child_keys(
            secured.transforms.prf,
            &secured.sk_d,
            shared,
            nonces.initiator,
            nonces.responder,
            &self.transforms,
        );
        let (from_initiator, from_responder) = match keys {
            Ok(keys) => keys,
            Err(error) => {
                cx.release_inbound_spi(self.inbound_spi);
                return Err(error);
            }
        };
        let (inbound_keys, outbound_keys) =
            if initiator { (from_responder, from_initiator) } else { (from_initiator, from_responder) };
        let path = core.esp_path(cx);
        let limits = self.child.limits;
        let (rekey_at, expires_at) = cx.lifetime(limits.time);
        let usage = UsageLimits {
            soft_bytes: cx.soft_volume(limits.bytes),
            hard_bytes: Some(limits.bytes.hard).filter(|n| *n > 0),
            soft_packets: cx.soft_volume(limits.packets),
            hard_packets: Some(limits.packets.hard).filter(|n| *n > 0),
        };
        let child = ChildSa {
            handle: cx.next_child(),
            config: self.child,
            inbound_spi: self.inbound_spi,
            outbound_spi: self.outbound_spi,
            mode: self.mode,
            transforms: self.transforms,
            ke: self.ke,
            additional_kes: additional_kes(&self.proposal).unwrap_or_default(),
            role: self.role,
            path,
            selectors: self.selectors,
            installed: cx.now,
            phase: Phase::Installed,
            successor: None,
            redundant: false,
            told: install != Install::Standby,
            settled: install != Install::Standby || initiator,
            retired: false,
            rekey_at,
            expires_at,
            requests: self.requests,
        };
        cx.child_owners.insert(child.handle, core.handle);
        // The peer has it elsewhere, perhaps, and cannot take packets here before it has our response.
        let waits = install == Install::New && !initiator && cx.has_others(core);
        if waits {
            cx.effects.push(Effect::StoodBy(child.handle));
        }
        cx.outputs.push_back(Output::InstallChild(Box::new(InstallChild {
            handle: child.handle,
            ike_sa: core.handle,
            connection: core.connection.name.clone(),
            child: child.config.name.clone(),
            inbound_spi: child.inbound_spi,
            outbound_spi: child.outbound_spi,
            mode: child.mode,
            transforms: child.transforms,
            inbound_keys,
            outbound_keys,
            replay_window: child.config.replay_window,
            local_ts: child.selectors.local.clone(),
            remote_ts: child.selectors.remote.clone(),
            tfc_padding: self.pads,
            original: self.original,
            local: path.local,
            remote: path.remote,
            encap: path.encap,
            resource: self.role.own,
            active: install != Install::Standby && !waits,
            limits: usage,
        })));
        let line = format!(
            "CHILD_SA {}{{{}}} established with SPIs {}_i {}_o and TS {}",
            child.config.name, child.handle.0, child.inbound_spi, child.outbound_spi, child.selectors,
        );
        cx.progress(&child.requests, &line);
        if install != Install::New {
            return Ok(child);
        }
        cx.event(Event::ChildUp(core.view(IkeSaState::Established, &[]), child.view()));
        let (code, note) = if self.narrowed {
            let note = format!(" (narrowed: the configuration here says {})", self.offered);
            (OutcomeCode::Narrowed, note)
        } else {
            (OutcomeCode::Success, String::new())
        };
        let mode = match (child.config.mode, child.mode) {
            (_, Mode::Transport) => ", transport mode",
            (Mode::Transport, Mode::Tunnel) => {
                ", tunnel mode (transport mode is for the addresses of the two hosts, and both sides have to want it)"
            }
            (_, Mode::Iptfs { .. }) => ", IP-TFS",
            (Mode::Iptfs { .. }, Mode::Tunnel) => ", tunnel mode (the peer does not agree to IP-TFS)",
            (Mode::Tunnel, Mode::Tunnel) => "",
        };
        let own = self.role.own.map_or_else(String::new, |own| format!(", own SA of worker {own}"));
        let message = format!(
            "Child SA up, {} in {} out, {}{mode}{own}, for {}{note}",
            child.inbound_spi,
            child.outbound_spi,
            NotationList(std::slice::from_ref(&self.proposal)),
            child.selectors,
        );
        let outcome = Outcome::new(code, Stage::ChildSa, Blame::Nobody, message)
            .child(&child.config.name)
            .proposals(&self.our_proposals, &self.peer_proposals)
            .chosen(&self.proposal)
            .selectors(&self.offered, &self.peer_selectors);
        core.record(cx, outcome);
        Ok(child)
    }

    /// Nothing came of it.
    pub(super) fn abandon(self, cx: &mut Shared) {
        cx.release_inbound_spi(self.inbound_spi);
    }

    /// Does it protect all that was offered?
    pub(super) fn covers(&self, offer: &Offer) -> bool {
        self.selectors.covers(&offer.selectors)
    }

    /// An outcome about this agreement.
    pub(super) fn outcome(
        &self,
        code: OutcomeCode,
        blame: Blame,
        message: impl Into<String>,
    ) -> Box<Outcome> {
        Outcome::new(code, Stage::ChildSa, blame, message)
            .child(&self.child.name)
            .proposals(&self.our_proposals, &self.peer_proposals)
            .chosen(&self.proposal)
            .selectors(&self.offered, &self.peer_selectors)
    }
}

/// What a child and a request have in common.
struct Fit {
    mode: Mode,
    /// What is asked for, with the addresses that it has here in this mode.
    asked: Selectors,
    selectors: Selectors,
    original: Option<(IpAddr, IpAddr)>,
}

/// Chooses a child of the connection for what a peer asks for; `Err` is the notify to answer with, and why. For the
/// successor of a child there is no choice, and it must protect all that the old one does (RFC 7296 2.9.2). `others` are
/// the SAs of the same IKE SA.
pub(super) fn respond(
    core: &Core,
    cx: &mut Shared,
    c: &Contents<'_>,
    (sa, ts_i, ts_r): (&SecurityAssociation, &TrafficSelectors, &TrafficSelectors),
    with_ke: bool,
    (old, others): (Option<&ChildSa>, &[ChildSa]),
) -> Result<Agreed, (Notify, Box<Outcome>)> {
    let asked = Selectors { local: ts_r.selectors.clone(), remote: ts_i.selectors.clone() };
    // RFC 7296 2.23.1: transport mode with the addresses as they are here, else tunnel mode with those of the peer.
    let seen = core.seen_from_here(&asked).filter(|_| c.has(NotifyType::USE_TRANSPORT_MODE));
    // Best first: what is as wished, of that the same selectors, then those that allow all that is asked for, then
    // those that allow the packet it is asked for (RFC 7296 2.9), then any that allow something.
    let mut fitting: Vec<((bool, u8), &Child, Selectors, Fit)> = Vec::new();
    let children = match old {
        Some(old) => std::slice::from_ref(&*old.config),
        None => &core.connection.children,
    };
    for child in children {
        let mut own = selectors_of(child, core);
        if let Some(old) = old.filter(|old| !own.covers(&old.selectors)) {
            own = old.selectors.clone();
        }
        let configured = old.map_or(child.mode, |old| old.mode);
        let fit = |mode, asked: &Selectors, original| {
            let selectors = own.narrow(asked)?;
            let keeps = old.is_none_or(|old| selectors.covers(&old.selectors));
            let fits = keeps && (mode != Mode::Transport || core.is_between_hosts(&selectors));
            fits.then(|| Fit { mode, asked: asked.clone(), selectors, original })
        };
        let transport = seen.as_ref().filter(|_| configured == Mode::Transport);
        let transport = transport.and_then(|(asked, original)| fit(Mode::Transport, asked, *original));
        let whole = match configured {
            Mode::Iptfs { .. } => mode::agreed(configured, c),
            Mode::Tunnel | Mode::Transport => Mode::Tunnel,
        };
        let Some(fit) = transport.or_else(|| fit(whole, &asked, None)) else { continue };
        let rank = match (fit.selectors.covers(&fit.asked), fit.selectors.covers(&own)) {
            (true, true) => 0,
            (true, false) => 1,
            _ if fit.selectors.covers(&fit.asked.first()) => 2,
            _ => 3,
        };
        let as_asked = mode::is_asked_for(configured, c) && mode::is_asked_for(fit.mode, c);
        fitting.push(((!as_asked, rank), child, own, fit));
    }
    fitting.sort_by_key(|(rank, ..)| *rank);
    let theirs: Vec<Proposal> = if with_ke { sa.proposals.clone() } else { without_ke(&sa.proposals) };
    // What was agreed to for the one that is replaced is not given up.
    let is_refused = |child: &Child, fit: &Fit| {
        let configured = old.map_or(child.mode, |old| old.mode);
        fit.mode == Mode::Tunnel
            && configured != fit.mode
            && (child.strict_mode || old.is_some_and(|old| matches!(old.mode, Mode::Iptfs { .. })))
    };
    for (_, child, own, fit) in fitting.iter().filter(|(_, child, _, fit)| !is_refused(child, fit)) {
        let ours = usable_proposals(child, with_ke);
        let Some(choice) = choose(&ours, &theirs) else { continue };
        let (Some((transforms, ke)), Some(outbound_spi)) =
            (esp_transforms(&choice.proposal), esp_spi(&choice.proposal))
        else {
            continue;
        };
        let role = match old {
            Some(old) => old.role,
            None if !c.has(NotifyType::SA_RESOURCE_INFO) => Role::default(),
            None => match resources::place(others, child, (&fit.selectors, &transforms, fit.mode)) {
                Ok(role) => role,
                Err(refused) => {
                    let outcome = refused.outcome().child(&child.name).proposals(&ours, &theirs);
                    return Err((refused.notify(), outcome.selectors(own, &asked)));
                }
            },
        };
        let lane = role.lane(old.map(|old| old.inbound_spi));
        return Ok(Agreed {
            child: old
                .map_or_else(|| cx.connections.child(&core.connection, child), |old| Arc::clone(&old.config)),
            requests: Vec::new(),
            role,
            proposal: choice.proposal,
            mode: fit.mode,
            pads: takes_padding(c),
            original: fit.original,
            transforms,
            ke,
            inbound_spi: cx.take_inbound_spi(lane),
            outbound_spi,
            narrowed: !fit.selectors.covers(&fit.asked) || !fit.selectors.covers(own),
            selectors: fit.selectors.clone(),
            offered: own.clone(),
            our_proposals: ours,
            peer_proposals: theirs,
            peer_selectors: asked,
        });
    }
    Err(match fitting.first() {
        Some((_, child, own, fit)) => {
            let ours = usable_proposals(child, with_ke);
            let message = if is_refused(child, fit) {
                "it does not ask for the child's `mode` (NO_PROPOSAL_CHOSEN sent): set the same there"
                    .to_owned()
            } else {
                format!(
                    "no common ESP proposal (NO_PROPOSAL_CHOSEN sent): it offers {}, we accept {}; make \
                     `esp_proposals` overlap on one side",
                    NotationList(&theirs),
                    NotationList(&ours),
                )
            };
            let outcome =
                Outcome::new(OutcomeCode::NoProposalChosen, Stage::ChildSa, Blame::PeerIncompatible, message)
                    .child(&child.name)
                    .proposals(&ours, &theirs)
                    .selectors(own, &asked);
            (Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new()), outcome)
        }
        None => {
            let own: Vec<String> =
                children.iter().map(|c| format!("\"{}\" {}", c.name, selectors_of(c, core))).collect();
            let own = if own.is_empty() { "no children".to_owned() } else { own.join("; ") };
            let message = format!(
                "its traffic selectors fit no child (TS_UNACCEPTABLE sent): seen from here it asks for {asked}, we \
                 have {own}; make local_ts here overlap its remote_ts and remote_ts here its local_ts",
            );
            let outcome =
                Outcome::new(OutcomeCode::TsUnacceptable, Stage::ChildSa, Blame::PeerIncompatible, message)
                    .proposals(&[], &theirs);
            // The one that was probably meant.
            let nearest = children.iter().min_by_key(|child| selectors_of(child, core).apart(&asked));
            let outcome = match nearest {
                Some(child) => outcome.child(&child.name).selectors(&selectors_of(child, core), &asked),
                None => outcome.selectors(&Selectors::default(), &asked),
            };
            (Notify::new(NotifyType::TS_UNACCEPTABLE, Vec::new()), outcome)
        }
    })
}
