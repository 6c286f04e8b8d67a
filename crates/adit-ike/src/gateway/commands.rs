//! An operator's commands, and which SAs they name. What they begin is done by the IKE SAs.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Gateway;
use crate::config::{AddressSpec, Child, Connection};
use crate::ike_sa::{AwaitInitResponse, IkeSa, Wanted};
use crate::output::{ChildHandle, DownReason, IkeSaHandle, RequestId};

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
    /// [`Gateway::reauthenticate`]: nothing that fits can be dialled anew.
    #[error(
        "no IKE SA that fits was dialled by us and has children, or it is being re-authenticated already"
    )]
    NothingToReauthenticate,
    /// [`Gateway::probe`]: a lost probe could not be repeated in smaller pieces.
    #[error("the peer takes no IKE fragments (RFC 7383), without which the way to it cannot be probed")]
    NoFragments,
    /// The gateway is being shut down.
    #[error("the gateway is shutting down")]
    ShuttingDown,
}

impl Gateway {
    /// The peer that [`Self::initiate`] would talk to, if it needs [`Target::local`] for it.
    #[must_use]
    pub fn route_needed(&self, target: &Target) -> Option<IpAddr> {
        let (connection, _) = self.find(target).ok()?;
        if self.serving(&connection.name).is_some() {
            return None;
        }
        let remote = remote_address(&connection).ok()?;
        local_address(&connection, remote, None).is_none().then_some(remote)
    }

    /// Brings children up; [`Event::RequestDone`](crate::Event::RequestDone) tells when and whether it succeeded.
    ///
    /// # Errors
    ///
    /// [`CommandError`] if there is nothing to start.
    pub fn initiate(
        &mut self,
        now: Instant,
        target: &Target,
        request: RequestId,
    ) -> Result<(), CommandError> {
        self.shared.now = now;
        if self.shutting_down {
            return Err(CommandError::ShuttingDown);
        }
        let (connection, children) = self.find(target)?;
        let serving = self.serving(&connection.name);
        let addresses = if serving.is_none() {
            let remote = remote_address(&connection)?;
            let local = local_address(&connection, remote, target.local)
                .ok_or_else(|| CommandError::NoLocalAddress(connection.name.clone(), remote))?;
            Some((local, remote))
        } else {
            None
        };
        self.shared.begin_request(request, children.len().max(1));
        // Without children it is the IKE SA itself that is wanted (RFC 6023).
        let whole = if children.is_empty() { vec![request] } else { Vec::new() };
        let wanted: Vec<Wanted> = children
            .into_iter()
            .map(|child| Wanted::new(self.shared.connections.child(&connection, &child), vec![request]))
            .collect();
        match (serving, addresses) {
            (Some(handle), _) => {
                self.with(handle, |sa, cx| sa.core.await_up(cx, whole));
                for wanted in wanted {
                    self.with(handle, |sa, cx| sa.bring_up(cx, wanted));
                }
            }
            (None, Some((local, remote))) => {
                self.dial(connection, local, remote, (wanted, whole));
            }
            (None, None) => {}
        }
        self.apply_effects();
        Ok(())
    }

    pub(super) fn dial(
        &mut self,
        connection: Arc<Connection>,
        local: IpAddr,
        remote: IpAddr,
        wanted: (Vec<Wanted>, Vec<RequestId>),
    ) -> Option<IkeSaHandle> {
        let settings = &self.shared.settings;
        // A peer that listens elsewhere than on 500 does so for IKE with NAT traversal, where ESP can come too.
        let local_port = if connection.remote_port != 500 || connection.local_port == settings.nat_t_port {
            settings.nat_t_port
        } else {
            settings.ike_port
        };
        let path = (SocketAddr::new(local, local_port), SocketAddr::new(remote, connection.remote_port));
        self.start(connection, path, wanted, false)
    }

    pub(super) fn start(
        &mut self,
        connection: Arc<Connection>,
        path: (SocketAddr, SocketAddr),
        (wanted, requests): (Vec<Wanted>, Vec<RequestId>),
        wary: bool,
    ) -> Option<IkeSaHandle> {
        let name = connection.name.clone();
        match AwaitInitResponse::start(&mut self.shared, connection, path, wanted, wary) {
            Ok(mut sa) => {
                let handle = sa.core.handle;
                sa.core.await_up(&mut self.shared, requests);
                self.insert(sa);
                Some(handle)
            }
            Err(wanted) => {
                let failure =
                    format!("connection \"{name}\": its proposals have no usable key exchange method");
                for wanted in wanted {
                    wanted.fail(&mut self.shared, &failure);
                }
                for request in requests {
                    self.shared.finish_part(request, Err(&failure));
                }
                None
            }
        }
    }

    /// The connection and the children that a target names.
    fn find(&self, target: &Target) -> Result<(Arc<Connection>, Vec<Child>), CommandError> {
        let connections = &self.shared.connections;
        match (&target.connection, &target.child) {
            (None, None) => Err(CommandError::NothingNamed),
            (Some(name), None) => {
                let connection =
                    connections.named(name).ok_or_else(|| CommandError::NoSuchConnection(name.clone()))?;
                if connection.children.is_empty() && !connection.starts_childless() {
                    return Err(CommandError::NoChildren(name.clone()));
                }
                Ok((Arc::clone(connection), connection.children.clone()))
            }
            (name, Some(child)) => {
                let connection = match name {
                    Some(name) => {
                        connections.named(name).ok_or_else(|| CommandError::NoSuchConnection(name.clone()))?
                    }
                    None => connections
                        .with_child(child)
                        .ok_or_else(|| CommandError::NoSuchChild(child.clone()))?,
                };
                let found = connection.children.iter().find(|c| c.name == *child);
                let found = found.ok_or_else(|| CommandError::NoSuchChild(child.clone()))?;
                Ok((Arc::clone(connection), vec![found.clone()]))
            }
        }
    }

    /// The IKE SA that can bring children of a connection up; of several the oldest. One that is to take the place of
    /// another may yet fail.
    fn serving(&self, connection: &str) -> Option<IkeSaHandle> {
        let serves = |handle: &&IkeSaHandle| {
            self.ike_sas.get(handle).is_some_and(|sa| sa.serves() && sa.core.succession.replaces.is_none())
        };
        self.by_connection.get(connection)?.iter().find(serves).copied()
    }

    /// Takes SAs down; returns how many. [`Event::RequestDone`](crate::Event::RequestDone) tells when.
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
        self.shared.now = now;
        let (whole, found) = self.fitting(target)?;
        let count = if whole { found.len() } else { found.iter().map(|(_, children)| children.len()).sum() };
        self.shared.begin_request(request, found.len());
        let handles: Vec<IkeSaHandle> = found.iter().map(|(handle, _)| *handle).collect();
        self.cancel_successors(&handles);
        for (handle, children) in found {
            if !self.ike_sas.contains_key(&handle) {
                self.shared.finish_part(request, Ok(()));
            }
            self.with(handle, |sa, cx| {
                if whole {
                    sa.delete(cx, vec![request]);
                } else {
                    sa.delete_children(cx, &children, vec![request], DownReason::DeletedByUs);
                }
            });
        }
        self.apply_effects();
        Ok(count)
    }

    /// The same, but IKE SAs are gone at once: the peer is told if nothing else is asked of it, and not waited for. Child SAs
    /// end as ever.
    ///
    /// # Errors
    ///
    /// As [`Self::terminate`].
    pub fn terminate_at_once(
        &mut self,
        now: Instant,
        target: &TerminateTarget,
        request: RequestId,
    ) -> Result<usize, CommandError> {
        let (whole, found) = self.fitting(target)?;
        let count = self.terminate(now, target, request)?;
        for (handle, _) in found.into_iter().filter(|_| whole) {
            self.with(handle, |sa, cx| sa.end(cx));
        }
        self.apply_effects();
        Ok(count)
    }

    /// Rekeys IKE SAs or Child SAs (RFC 7296 2.8); returns how many. [`Event::RequestDone`](crate::Event::RequestDone) tells when.
    ///
    /// # Errors
    ///
    /// [`CommandError`] if nothing fits.
    pub fn rekey(
        &mut self,
        now: Instant,
        target: &TerminateTarget,
        request: RequestId,
    ) -> Result<usize, CommandError> {
        self.shared.now = now;
        let (whole, found) = self.fitting(target)?;
        let count = if whole { found.len() } else { found.iter().map(|(_, children)| children.len()).sum() };
        self.shared.begin_request(request, count);
        for (handle, children) in found {
            self.with(handle, |sa, cx| {
                if whole {
                    sa.rekey(cx, vec![request]);
                } else {
                    sa.rekey_children(cx, &children, &[request]);
                }
            });
        }
        self.apply_effects();
        Ok(count)
    }

    /// Asks the peer of an IKE SA whether it is there (RFC 7296 2.4), by an IP packet of so many octets, less what whole cipher
    /// blocks ask for: 0 for an ordinary, small one. It goes out three times, `pace` apart, and then in fragments.
    /// [`Output::PathProbed`](crate::Output::PathProbed) tells what came of it. A peer that never answers is dead, as after any request.
    ///
    /// # Errors
    ///
    /// [`CommandError`] if there is no such IKE SA, or, for a large one, if its peer takes no fragments (RFC 7383).
    pub fn probe(
        &mut self,
        now: Instant,
        ike_sa: IkeSaHandle,
        size: u16,
        pace: Duration,
    ) -> Result<(), CommandError> {
        self.shared.now = now;
        match self.may_probe(ike_sa) {
            Err(CommandError::NoFragments) if size == 0 => {}
            other => other?,
        }
        self.with(ike_sa, |sa, cx| sa.probe(cx, size, pace));
        self.apply_effects();
        Ok(())
    }

    /// Could the path of this IKE SA be probed by large packets now?
    ///
    /// # Errors
    ///
    /// As [`Self::probe`].
    pub fn may_probe(&self, ike_sa: IkeSaHandle) -> Result<(), CommandError> {
        match self.ike_sas.get(&ike_sa).map(IkeSa::may_probe) {
            None | Some((false, _)) => Err(CommandError::NoSuchSa),
            Some((true, false)) => Err(CommandError::NoFragments),
            Some((true, true)) => Ok(()),
        }
    }

    /// The SAs that a target names, and whether it names whole IKE SAs.
    #[expect(clippy::type_complexity, reason = "two plain lists")]
    pub(super) fn fitting(
        &self,
        target: &TerminateTarget,
    ) -> Result<(bool, Vec<(IkeSaHandle, Vec<ChildHandle>)>), CommandError> {
        if *target == TerminateTarget::default() {
            return Err(CommandError::NothingNamed);
        }
        let whole = target.child.is_none() && target.child_handle.is_none();
        let mut found: Vec<(IkeSaHandle, Vec<ChildHandle>)> = Vec::new();
        // By the narrowest of what is named; a child's name alone may be anywhere.
        let owner = target.child_handle.map(|child| self.ike_sa_of(child));
        let candidates: Vec<IkeSaHandle> = match (target.ike_sa.map(Some).or(owner), &target.connection) {
            (Some(handle), _) => handle.into_iter().collect(),
            (None, Some(name)) => self.by_connection.get(name).into_iter().flatten().copied().collect(),
            (None, None) => self.ike_sas.keys().copied().collect(),
        };
        for sa in candidates.iter().filter_map(|handle| self.ike_sas.get(handle)) {
            let fits = !sa.is_gone()
                && target.connection.as_ref().is_none_or(|name| sa.core.connection.name == *name)
                && target.ike_sa.is_none_or(|handle| sa.core.handle == handle);
            let children: Vec<ChildHandle> = sa
                .children()
                .iter()
                .filter(|c| target.child.as_ref().is_none_or(|name| c.config.name == *name))
                .map(|c| c.handle)
                .filter(|handle| target.child_handle.is_none_or(|wanted| wanted == *handle))
                .collect();
            if fits && (whole || !children.is_empty()) {
                found.push((sa.core.handle, children));
            }
        }
        found.sort_by_key(|(handle, ..)| *handle);
        if found.is_empty() { Err(CommandError::NoSuchSa) } else { Ok((whole, found)) }
    }
}

/// The peer to dial: the first single address.
fn remote_address(connection: &Connection) -> Result<IpAddr, CommandError> {
    connection
        .remote_addrs
        .iter()
        .find_map(AddressSpec::single)
        .ok_or_else(|| CommandError::NoRemoteAddress(connection.name.clone()))
}

/// The address to dial from: the first single one of the peer's family, or what the caller found if that is allowed.
fn local_address(connection: &Connection, remote: IpAddr, found: Option<IpAddr>) -> Option<IpAddr> {
    let configured = connection
        .local_addrs
        .iter()
        .filter_map(AddressSpec::single)
        .find(|a| a.is_ipv4() == remote.is_ipv4());
    let allowed = |a: &IpAddr| {
        a.is_ipv4() == remote.is_ipv4()
            && (connection.local_addrs.is_empty() || connection.local_addrs.iter().any(|s| s.contains(*a)))
    };
    configured.or_else(|| found.filter(allowed))
}
