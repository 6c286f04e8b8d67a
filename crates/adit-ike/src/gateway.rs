//! The gateway: all IKE SAs.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use adit_crypto::Entropy;

use crate::config::{Connection, Settings, SharedSecret};
use crate::output::{ChildHandle, IkeSaHandle, IkeSaView, NegotiationRecord, Output, RequestId};

/// What to bring up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Name of the connection; without it the first one that has the child.
    pub connection: Option<String>,
    /// Name of the child; without it all children of the connection.
    pub child: Option<String>,
    /// The address to send from where the connection leaves it open: what the route to
    /// [`Gateway::route_needed`] prefers.
    pub local: Option<IpAddr>,
}

/// What to take down. All that is given must fit; nothing given fits nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TerminateTarget {
    /// IKE SAs of this connection.
    pub connection: Option<String>,
    /// Child SAs of this name. Without this and `child_handle`, whole IKE SAs go.
    pub child: Option<String>,
    /// This IKE SA.
    pub ike_sa: Option<IkeSaHandle>,
    /// This Child SA.
    pub child_handle: Option<ChildHandle>,
}

/// Why a command cannot even be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No such connection.
    #[error("no connection is named \"{0}\"")]
    NoSuchConnection(String),
    /// No such child.
    #[error("no child is named \"{0}\"")]
    NoSuchChild(String),
    /// A target that names nothing.
    #[error("neither a connection nor a child is named")]
    NothingNamed,
    /// The connection has nothing to bring up.
    #[error("connection \"{0}\" has no children")]
    NoChildren(String),
    /// The connection can only respond.
    #[error("connection \"{0}\" has no single address in remote_addrs, it can only respond")]
    NoRemoteAddress(String),
    /// Neither configuration nor caller gave a local address of the peer's family.
    #[error("no local address is known to reach {1} for connection \"{0}\"; set local_addrs")]
    NoLocalAddress(String, IpAddr),
    /// Nothing fits the target.
    #[error("no SA fits")]
    NoSuchSa,
    /// The gateway is being shut down.
    #[error("the gateway is shutting down")]
    ShuttingDown,
}

/// All IKE SAs of one gateway.
pub struct Gateway {
    settings: Settings,
    entropy: Box<dyn Entropy>,
    connections: Vec<Arc<Connection>>,
    secrets: Vec<SharedSecret>,
    outputs: VecDeque<Output>,
    records: VecDeque<NegotiationRecord>,
}

impl Gateway {
    /// A gateway without connections.
    #[must_use]
    pub fn new(settings: Settings, entropy: Box<dyn Entropy>, now: Instant) -> Self {
        let _ = now;
        Self {
            settings,
            entropy,
            connections: Vec::new(),
            secrets: Vec::new(),
            outputs: VecDeque::new(),
            records: VecDeque::new(),
        }
    }

    /// Replaces connections and secrets. IKE SAs keep the connection they were made with.
    pub fn set_configuration(&mut self, connections: Vec<Connection>, secrets: Vec<SharedSecret>) {
        self.connections = connections.into_iter().map(Arc::new).collect();
        self.secrets = secrets;
    }

    /// Takes one datagram, without non-ESP marker.
    pub fn handle_datagram(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, datagram: &[u8]) {
        let _ = (now, local, remote, datagram, &self.settings, &mut self.entropy);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// The peer that [`Self::initiate`] would talk to, if it needs [`Target::local`] for it.
    #[must_use]
    pub fn route_needed(&self, target: &Target) -> Option<IpAddr> {
        let _ = target;
        None
    }

    /// Brings children up; [`crate::Event::RequestDone`] tells when and whether it succeeded.
    ///
    /// # Errors
    ///
    /// [`CommandError`] if there is nothing to start.
    pub fn initiate(&mut self, now: Instant, target: &Target, request: RequestId) -> Result<(), CommandError> {
        let _ = (now, target, request);
        Err(CommandError::NothingNamed)
    }

    /// Takes SAs down; returns how many. [`crate::Event::RequestDone`] tells when.
    ///
    /// # Errors
    ///
    /// [`CommandError`] if nothing fits.
    pub fn terminate(
        &mut self,
        now: Instant,
        target: &TerminateTarget,
        request: RequestId,
    ) -> Result<usize, CommandError> {
        let _ = (now, target, request);
        Err(CommandError::NoSuchSa)
    }

    /// Authenticated ESP arrived on a child: its peer lives (RFC 7296 2.4).
    pub fn child_activity(&mut self, now: Instant, child: ChildHandle, last_inbound: Instant) {
        let _ = (now, child, last_inbound);
    }

    /// The data plane could not install a child or cannot go on with it: it is deleted.
    pub fn child_failed(&mut self, now: Instant, child: ChildHandle, reason: &str) {
        let _ = (now, child, reason);
    }

    /// Deletes every IKE SA. Done when [`Self::ike_sas`] is empty.
    pub fn shutdown(&mut self, now: Instant) {
        let _ = now;
    }

    /// When [`Self::handle_timeout`] must be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Snapshots of all IKE SAs, by number.
    pub fn ike_sas(&self) -> impl Iterator<Item = IkeSaView> {
        std::iter::empty()
    }

    /// The last negotiations, oldest first.
    pub fn records(&self) -> impl Iterator<Item = &NegotiationRecord> {
        self.records.iter()
    }
}
