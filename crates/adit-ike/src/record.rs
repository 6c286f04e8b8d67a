//! Records of negotiations: what was offered, what came of it, and the one sentence that tells an operator what to
//! change on which side.

use std::net::{IpAddr, SocketAddr};

use adit_wire::ikev2::{NotifyType, Proposal};

use crate::identity::{Identity, IdentityPattern};
use crate::nat::Nat;
use crate::output::{Blame, NegotiationRecord, OutcomeCode, Stage};
use crate::selector::Selectors;

impl NegotiationRecord {
    /// Did the negotiation give what it was for?
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self.code, OutcomeCode::Success | OutcomeCode::Narrowed)
    }
}

/// What a negotiation is about, gathered while it goes on. [`crate::ike_sa::Core::record`] adds who and where.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) code: OutcomeCode,
    pub(crate) stage: Stage,
    pub(crate) blame: Blame,
    pub(crate) child: Option<String>,
    pub(crate) our_proposals: Vec<Proposal>,
    pub(crate) peer_proposals: Vec<Proposal>,
    pub(crate) chosen: Option<Proposal>,
    pub(crate) our_selectors: Selectors,
    pub(crate) peer_selectors: Selectors,
    pub(crate) notify: Option<NotifyType>,
    pub(crate) asked_id: Option<Identity>,
    pub(crate) own_ids: Vec<Identity>,
    pub(crate) accepted_ids: Vec<IdentityPattern>,
    pub(crate) secret: Option<String>,
    pub(crate) sent: u32,
    /// The sentence without the connection and the peer, which every sentence starts with.
    pub(crate) message: String,
}

impl Outcome {
    pub(crate) fn new(
        code: OutcomeCode,
        stage: Stage,
        blame: Blame,
        message: impl Into<String>,
    ) -> Box<Self> {
        Box::new(Self {
            code,
            stage,
            blame,
            child: None,
            our_proposals: Vec::new(),
            peer_proposals: Vec::new(),
            chosen: None,
            our_selectors: Selectors::default(),
            peer_selectors: Selectors::default(),
            notify: None,
            asked_id: None,
            own_ids: Vec::new(),
            accepted_ids: Vec::new(),
            secret: None,
            sent: 0,
            message: message.into(),
        })
    }

    pub(crate) fn child(mut self: Box<Self>, name: &str) -> Box<Self> {
        self.child = Some(name.to_owned());
        self
    }

    pub(crate) fn proposals(mut self: Box<Self>, ours: &[Proposal], peers: &[Proposal]) -> Box<Self> {
        self.our_proposals = ours.to_vec();
        self.peer_proposals = bounded(peers);
        self
    }

    pub(crate) fn chosen(mut self: Box<Self>, proposal: &Proposal) -> Box<Self> {
        self.chosen = Some(proposal.clone());
        self
    }

    pub(crate) fn selectors(mut self: Box<Self>, ours: &Selectors, peers: &Selectors) -> Box<Self> {
        self.our_selectors = ours.clone();
        self.peer_selectors = peers.clone();
        self
    }

    pub(crate) fn notify(mut self: Box<Self>, notify: NotifyType) -> Box<Self> {
        self.notify = Some(notify);
        self
    }

    /// The peers that come into question.
    pub(crate) fn accepted(mut self: Box<Self>, patterns: Vec<IdentityPattern>) -> Box<Self> {
        self.accepted_ids = patterns;
        self
    }

    /// The identity that the peer asked for, and those that we have.
    pub(crate) fn asked(mut self: Box<Self>, asked: Option<Identity>, own: Vec<Identity>) -> Box<Self> {
        (self.asked_id, self.own_ids) = (asked, own);
        self
    }

    pub(crate) fn secret(mut self: Box<Self>, name: &str) -> Box<Self> {
        self.secret = Some(name.to_owned());
        self
    }

    pub(crate) fn sent(mut self: Box<Self>, times: u32) -> Box<Self> {
        self.sent = times;
        self
    }

    /// Turns it into a record.
    pub(crate) fn into_record(self: Box<Self>, facts: Facts<'_>) -> NegotiationRecord {
        let peer = shown_peer(facts.remote);
        let mut message = match facts.connection {
            Some(name) => {
                format!("connection \"{name}\"{}: peer {peer}: ", shown_child(self.child.as_deref()))
            }
            None => format!("peer {peer}: "),
        };
        message.push_str(&self.message);
        NegotiationRecord {
            at: facts.at,
            code: self.code,
            stage: self.stage,
            blame: self.blame,
            connection: facts.connection.map(str::to_owned),
            child: self.child,
            initiator: facts.initiator,
            local: facts.local,
            remote: facts.remote,
            nat_local: facts.nat.local,
            nat_remote: facts.nat.remote,
            local_id: facts.local_id.cloned(),
            remote_id: facts.remote_id.cloned(),
            known: facts.known,
            asked_id: self.asked_id,
            own_ids: self.own_ids,
            accepted_ids: self.accepted_ids,
            secret: self.secret,
            sent: self.sent,
            inferred: false,
            our_proposals: self.our_proposals,
            peer_proposals: self.peer_proposals,
            chosen: self.chosen,
            our_selectors: (self.our_selectors.local, self.our_selectors.remote),
            peer_selectors: (self.peer_selectors.local, self.peer_selectors.remote),
            notify: self.notify,
            message,
        }
    }
}

/// As much of a peer's proposals as is worth keeping: 16, of 64 transforms each.
pub(crate) fn bounded(proposals: &[Proposal]) -> Vec<Proposal> {
    let mut kept: Vec<Proposal> = proposals.iter().take(16).cloned().collect();
    for proposal in &mut kept {
        proposal.transforms.truncate(64);
    }
    kept
}

/// Who negotiated, where and when.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) at: std::time::Instant,
    pub(crate) connection: Option<&'a str>,
    pub(crate) initiator: bool,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) nat: Nat,
    pub(crate) local_id: Option<&'a Identity>,
    pub(crate) remote_id: Option<&'a Identity>,
    pub(crate) known: bool,
}

fn shown_child(child: Option<&str>) -> String {
    child.map(|name| format!(", child \"{name}\"")).unwrap_or_default()
}

/// The address alone where the port says nothing.
pub(crate) fn shown_peer(remote: SocketAddr) -> String {
    match (remote.ip(), remote.port()) {
        (ip, 500 | 4500) => ip.to_string(),
        (IpAddr::V4(ip), port) => format!("{ip}:{port}"),
        (IpAddr::V6(ip), port) => format!("[{ip}]:{port}"),
    }
}
