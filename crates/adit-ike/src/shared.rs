//! What all IKE SAs of a gateway share: the time of the current input, entropy, configuration, and what comes out.
//!
//! IKE SAs write here; only the gateway reads it. Nothing here decides about an SA.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_crypto::Entropy;
use adit_wire::ikev2::{IkeSpi, Spi};
use tracing::{info, trace};

use crate::config::{Connection, Lifetime, Settings, Volume};
use crate::credentials::Credentials;
use crate::identity::Identity;
use crate::ike_sa::{Core, Wanted};
use crate::lookup::{Connections, Secrets};
use crate::output::{
    ChildHandle, Event, IkeSaHandle, NegotiationRecord, Notice, Output, RequestId, Transmit,
};
use crate::rate::RateLimit;
use crate::spis::{Lane, Spis};
use crate::statistics::Statistics;
use crate::tally::Tallies;

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Datagrams handed in.
    pub received: u64,
    /// Datagrams that changed nothing: malformed, not authentic, repeated, unexpected.
    pub ignored: u64,
    /// Datagrams with an Encrypted payload whose integrity check failed.
    pub not_authentic: u64,
    /// Requests answered with the stored response.
    pub repeated_requests: u64,
    /// Requests of ours sent again.
    pub retransmissions: u64,
    /// Cookies demanded.
    pub cookies_demanded: u64,
    /// IKE_SA_INIT requests dropped because too many IKE SAs were half-open, in all or with the sender's network, or
    /// taken instead of one of those.
    pub half_open_refused: u64,
    /// Transitions of IKE SAs between states.
    pub transitions: u64,
    /// Negotiations that succeeded.
    pub negotiations_succeeded: u64,
    /// Negotiations that failed.
    pub negotiations_failed: u64,
    /// Records and log lines left out because their peer caused too many.
    pub records_suppressed: u64,
}

/// How much a gateway keeps.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub ike_sas: usize,
    pub first_requests: usize,
    pub unanswered: usize,
    pub half_open: usize,
    pub inbound_spis: usize,
    pub children: usize,
    pub requests: usize,
    pub peers: usize,
}

/// Something that concerns other IKE SAs than the one that found it out.
#[derive(Debug)]
pub(crate) enum Effect {
    /// The peer of this new one says it had no other IKE SA with us (RFC 7296 2.4).
    InitialContact(IkeSaHandle),
    /// An IKE SA that failed is begun once more, by another one.
    DialAgain {
        connection: Arc<Connection>,
        path: (SocketAddr, SocketAddr),
        wanted: Vec<Wanted>,
        requests: Vec<RequestId>,
        /// The IKE SA that it was to take the place of.
        replaces: Option<IkeSaHandle>,
    },
    /// It is one IKE SA more between two identities.
    Established(IkeSaHandle),
    /// It is time for another one to take its place.
    Reauthenticate(IkeSaHandle),
    /// It may be one too many.
    Redundant(IkeSaHandle),
    /// The children of one that was dialled to take the place of another are up, or never will be.
    Settled(IkeSaHandle),
    /// This child is on standby because its peer may have it on another IKE SA.
    StoodBy(ChildHandle),
}

pub(crate) struct Shared {
    pub(crate) now: Instant,
    pub(crate) settings: Settings,
    pub(crate) entropy: Box<dyn Entropy>,
    pub(crate) connections: Connections,
    pub(crate) secrets: Secrets,
    pub(crate) credentials: Credentials,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) counters: Counters,
    pub(crate) statistics: Statistics,
    pub(crate) tallies: Tallies,
    /// IKE SAs that a stranger could have made us keep.
    pub(crate) half_open: HalfOpen,
    record_limit: RateLimit,
    failure_limit: RateLimit<IkeSaHandle>,
    answer_limit: RateLimit,
    notice_limit: RateLimit,
    requests: HashMap<RequestId, Request>,
    /// Every IKE SPI of ours, and the IKE SA that it belongs to.
    ike_spis: HashMap<IkeSpi, IkeSaHandle>,
    inbound_spis: Spis,
    /// Child SAs that are gone by agreement and still take what is on its way, until then.
    draining: BTreeMap<(Instant, ChildHandle), (IkeSaHandle, Spi)>,
    draining_of: HashMap<IkeSaHandle, usize>,
    pub(crate) child_owners: HashMap<ChildHandle, IkeSaHandle>,
    /// Children of other IKE SAs that take over from those of the same name of this one when it ends.
    pub(crate) standby: HashMap<IkeSaHandle, Vec<(String, ChildHandle)>>,
    /// Those of them that are not used yet.
    pub(crate) waiting: HashSet<ChildHandle>,
    /// Established IKE SAs by identities, ours and the peer's.
    peers: HashMap<(Identity, Identity), Vec<Peer>>,
    last_ike_sa: u64,
    last_child: u64,
}

/// An established IKE SA, as the others with the same peer see it.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) handle: IkeSaHandle,
    pub(crate) connection: Arc<Connection>,
    pub(crate) remote: SocketAddr,
}

/// Half-open IKE SAs, in all and by network: an IPv4 address, or the 64 bits of IPv6 that one host can fill.
#[derive(Default)]
pub(crate) struct HalfOpen {
    total: usize,
    /// The oldest first.
    by_network: HashMap<IpAddr, VecDeque<IkeSaHandle>>,
    by_count: BTreeSet<(usize, IpAddr)>,
}

impl HalfOpen {
    /// Counts one more; returns what to give back for it.
    pub(crate) fn add(&mut self, address: IpAddr, ike_sa: IkeSaHandle) -> IpAddr {
        let network = Self::network(address);
        self.change(network, |here| here.push_back(ike_sa));
        network
    }

    pub(crate) fn remove(&mut self, network: IpAddr, ike_sa: IkeSaHandle) {
        self.change(network, |here| here.retain(|other| *other != ike_sa));
    }

    fn change(&mut self, network: IpAddr, change: impl FnOnce(&mut VecDeque<IkeSaHandle>)) {
        let here = self.by_network.entry(network).or_default();
        let before = here.len();
        change(here);
        let after = here.len();
        self.total = (self.total + after).saturating_sub(before);
        self.by_count.remove(&(before, network));
        if after == 0 {
            self.by_network.remove(&network);
        } else {
            self.by_count.insert((after, network));
        }
    }

    pub(crate) fn total(&self) -> usize {
        self.total
    }

    fn here(&self, address: IpAddr) -> usize {
        self.by_network.get(&Self::network(address)).map_or(0, VecDeque::len)
    }

    /// Has this network all that one may have? That is a tenth, but enough for many peers behind one NAT.
    pub(crate) fn is_full(&self, limit: usize, address: IpAddr) -> bool {
        self.here(address) >= (limit / 10).max(64)
    }

    /// Which one makes room for somebody who has proved its address: the oldest of the network with the most, if that
    /// has more than the newcomer's. However many addresses a crowd has, it pushes out its own.
    pub(crate) fn in_the_way(&self, address: IpAddr) -> Option<IkeSaHandle> {
        let (count, network) = self.by_count.last()?;
        let oldest = self.by_network.get(network)?.front().copied();
        oldest.filter(|_| *count > self.here(address))
    }

    fn network(address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(a) => IpAddr::from((a.to_bits() & !u128::from(u64::MAX)).to_be_bytes()),
        }
    }
}

/// An `initiate` or `terminate` that is not done.
struct Request {
    /// How many of its parts are not done.
    left: usize,
    failures: Vec<String>,
}

impl Shared {
    pub(crate) fn new(settings: Settings, entropy: Box<dyn Entropy>, now: Instant) -> Self {
        Self {
            now,
            inbound_spis: Spis::new(settings.lanes),
            settings,
            entropy,
            connections: Connections::default(),
            secrets: Secrets::default(),
            credentials: Credentials::default(),
            outputs: VecDeque::new(),
            effects: Vec::new(),
            counters: Counters::default(),
            statistics: Statistics::default(),
            tallies: Tallies::default(),
            half_open: HalfOpen::default(),
            record_limit: RateLimit::new(10, Duration::from_secs(2)),
            failure_limit: RateLimit::new(30, Duration::from_secs(10)),
            answer_limit: RateLimit::new(10, Duration::from_secs(1)),
            notice_limit: RateLimit::new(5, Duration::from_secs(10)),
            requests: HashMap::new(),
            ike_spis: HashMap::new(),
            draining: BTreeMap::new(),
            draining_of: HashMap::new(),
            child_owners: HashMap::new(),
            standby: HashMap::new(),
            waiting: HashSet::new(),
            peers: HashMap::new(),
            last_ike_sa: 0,
            last_child: 0,
        }
    }

    pub(crate) fn transmit(&mut self, local: SocketAddr, remote: SocketAddr, datagram: Vec<u8>) {
        trace!(%local, %remote, octets = datagram.len(), "sending");
        self.outputs.push_back(Output::Transmit(Transmit { local, remote, datagram }));
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.tallies.event(&event);
        self.outputs.push_back(Output::Event(event));
    }

    /// Tells of something on the wire, as long as its peer has not caused too much of it.
    pub(crate) fn notice(&mut self, peer: IpAddr, notice: impl FnOnce() -> Notice) {
        if self.notice_limit.allow(self.now, peer) {
            self.event(Event::Notice(Box::new(notice())));
        }
    }

    /// May we answer this stranger once more (RFC 7296 2.21.4)?
    pub(crate) fn may_answer(&mut self, stranger: IpAddr) -> bool {
        self.answer_limit.allow(self.now, stranger)
    }

    /// May we log what this peer can cause at will?
    pub(crate) fn may_log(&mut self, peer: IpAddr) -> bool {
        let allowed = self.record_limit.allow(self.now, peer);
        self.counters.records_suppressed += u64::from(!allowed);
        allowed
    }

    /// Hands a record out, and tells the operator in one line. `peer` is the IKE SA of a peer that is authentic; anybody
    /// else can cause records at will, and it can failures.
    pub(crate) fn record(&mut self, record: NegotiationRecord, peer: Option<IkeSaHandle>) {
        if record.is_success() {
            self.counters.negotiations_succeeded += 1;
        } else {
            self.counters.negotiations_failed += 1;
            self.statistics.failed(record.stage, record.code);
        }
        let allowed = match peer {
            None => self.may_log(record.remote.ip()),
            Some(_) if record.is_success() => true,
            Some(ike_sa) => {
                let allowed = self.failure_limit.allow(self.now, ike_sa);
                self.counters.records_suppressed += u64::from(!allowed);
                allowed
            }
        };
        if !allowed {
            return;
        }
        if record.is_success() {
            info!("{}", record.message);
        } else {
            info!(code = ?record.code, stage = ?record.stage, blame = ?record.blame, "{}", record.message);
        }
        self.outputs.push_back(Output::Record(Box::new(record)));
    }

    /// Announces a request of so many parts.
    pub(crate) fn begin_request(&mut self, request: RequestId, parts: usize) {
        self.requests.insert(request, Request { left: parts, failures: Vec::new() });
        if parts == 0 {
            self.finish_part(request, Ok(()));
        }
    }

    /// One part of a request is done; the last one reports it.
    pub(crate) fn finish_part(&mut self, request: RequestId, result: Result<(), &str>) {
        let Some(pending) = self.requests.get_mut(&request) else { return };
        pending.left = pending.left.saturating_sub(1);
        if let Err(failure) = result
            && !pending.failures.iter().any(|f| f == failure)
        {
            pending.failures.push(failure.to_owned());
        }
        if pending.left > 0 {
            return;
        }
        let result = if pending.failures.is_empty() { Ok(()) } else { Err(pending.failures.join("; ")) };
        self.requests.remove(&request);
        self.event(Event::RequestDone { request, result });
    }

    /// Tells whoever waits for these requests how far they are.
    pub(crate) fn progress(&mut self, requests: &[RequestId], message: &str) {
        for request in requests {
            self.event(Event::Progress { request: *request, message: message.to_owned() });
        }
    }

    pub(crate) fn kept(&self) -> Kept {
        Kept {
            half_open: self.half_open.total(),
            inbound_spis: self.inbound_spis.len(),
            children: self.child_owners.len(),
            requests: self.requests.len(),
            peers: self.peers.len(),
            ..Kept::default()
        }
    }

    /// When an SA made now is renewed, and when it ends.
    pub(crate) fn lifetime(&mut self, lifetime: Lifetime) -> (Option<Instant>, Option<Instant>) {
        let early = lifetime.jitter.min(lifetime.soft).mul_f64(self.fraction());
        let soft = self.now.checked_add(lifetime.soft - early).filter(|_| !lifetime.soft.is_zero());
        let hard = self.now.checked_add(lifetime.hard).filter(|_| !lifetime.hard.is_zero());
        (soft, hard)
    }

    /// After how much an SA is renewed.
    pub(crate) fn soft_volume(&mut self, volume: Volume) -> Option<u64> {
        let early = (volume.jitter.min(volume.soft) as f64 * self.fraction()) as u64;
        Some(volume.soft.saturating_sub(early)).filter(|n| *n > 0)
    }

    /// Evenly from 0 to 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        f64::from(u32::from_be_bytes(self.random())) / f64::from(u32::MAX)
    }

    pub(crate) fn next_ike_sa(&mut self) -> IkeSaHandle {
        self.last_ike_sa += 1;
        IkeSaHandle(self.last_ike_sa)
    }

    pub(crate) fn next_child(&mut self) -> ChildHandle {
        self.last_child += 1;
        ChildHandle(self.last_child)
    }

    pub(crate) fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut octets = [0; N];
        self.entropy.fill(&mut octets);
        octets
    }

    /// An IKE SPI that no other IKE SA of ours has.
    pub(crate) fn take_ike_spi(&mut self, owner: IkeSaHandle) -> IkeSpi {
        loop {
            let spi = IkeSpi(u64::from_be_bytes(self.random()));
            // RFC 7296 3.1: zero means "not known".
            if spi != IkeSpi::ZERO && !self.ike_spis.contains_key(&spi) {
                self.ike_spis.insert(spi, owner);
                return spi;
            }
        }
    }

    pub(crate) fn release_ike_spi(&mut self, spi: IkeSpi) {
        self.ike_spis.remove(&spi);
    }

    pub(crate) fn owner_of(&self, spi: IkeSpi) -> Option<IkeSaHandle> {
        self.ike_spis.get(&spi).copied()
    }

    /// Its inbound half takes what is on its way for a while; the SPI stays taken (RFC 7296 1.4.1).
    pub(crate) fn drain(&mut self, ike_sa: IkeSaHandle, child: ChildHandle, spi: Spi) {
        self.draining.insert((self.now + self.settings.drain, child), (ike_sa, spi));
        *self.draining_of.entry(ike_sa).or_default() += 1;
    }

    /// Child SAs of an IKE SA that are draining.
    pub(crate) fn draining_of(&self, ike_sa: IkeSaHandle) -> usize {
        self.draining_of.get(&ike_sa).copied().unwrap_or(0)
    }

    pub(crate) fn drained_at(&self) -> Option<Instant> {
        self.draining.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes out of the data plane what has drained.
    pub(crate) fn finish_draining(&mut self) {
        while let Some(first) = self.draining.first_entry() {
            let (at, child) = *first.key();
            if at > self.now {
                break;
            }
            let (ike_sa, spi) = first.remove();
            if let Some(count) = self.draining_of.get_mut(&ike_sa) {
                *count -= 1;
                if *count == 0 {
                    self.draining_of.remove(&ike_sa);
                }
            }
            self.outputs.push_back(Output::RemoveChild(child));
            self.release_inbound_spi(spi);
        }
    }

    /// An inbound ESP SPI that nobody else has.
    pub(crate) fn take_inbound_spi(&mut self, lane: Lane) -> Spi {
        let Self { inbound_spis, entropy, .. } = self;
        inbound_spis.take(lane, || {
            let mut number = [0; 4];
            entropy.fill(&mut number);
            u32::from_be_bytes(number)
        })
    }

    pub(crate) fn release_inbound_spi(&mut self, spi: Spi) {
        self.inbound_spis.release(spi);
    }

    pub(crate) fn established_with(&self, local: &Identity, remote: &Identity) -> &[Peer] {
        self.peers.get(&(local.clone(), remote.clone())).map_or(&[], Vec::as_slice)
    }

    /// Are there other IKE SAs with the same peer?
    pub(crate) fn has_others(&self, core: &Core) -> bool {
        let (Some(local), Some(remote)) = (&core.local_id, &core.remote_id) else { return false };
        self.established_with(local, remote).iter().any(|other| other.handle != core.handle)
    }

    /// With `unique = keep`: does an IKE SA stand in the way of a new one? One from the same place is about to be
    /// replaced by it.
    pub(crate) fn is_kept_out(
        &self,
        local: &Identity,
        remote: &Identity,
        connection: &str,
        from: SocketAddr,
    ) -> bool {
        self.established_with(local, remote)
            .iter()
            .any(|other| other.connection.name == connection && other.remote != from)
    }

    /// Has another IKE SA children that take over from this one's?
    pub(crate) fn is_superseded(&self, handle: IkeSaHandle) -> bool {
        self.standby
            .get(&handle)
            .is_some_and(|heirs| heirs.iter().any(|(_, heir)| self.child_owners.contains_key(heir)))
    }

    pub(crate) fn add_peer(
        &mut self,
        local: &Identity,
        remote: &Identity,
        handle: IkeSaHandle,
        connection: &Arc<Connection>,
        from: SocketAddr,
    ) {
        let peers = self.peers.entry((local.clone(), remote.clone())).or_default();
        peers.push(Peer { handle, connection: Arc::clone(connection), remote: from });
    }

    /// What the others see of it has changed.
    pub(crate) fn update_peer(&mut self, core: &Core) {
        let (Some(local), Some(remote)) = (&core.local_id, &core.remote_id) else { return };
        let peers = self.peers.get_mut(&(local.clone(), remote.clone()));
        if let Some(peer) = peers.and_then(|peers| peers.iter_mut().find(|p| p.handle == core.handle)) {
            (peer.connection, peer.remote) = (Arc::clone(&core.connection), core.remote);
        }
    }

    pub(crate) fn remove_peer(&mut self, local: &Identity, remote: &Identity, handle: IkeSaHandle) {
        let key = (local.clone(), remote.clone());
        if let Some(handles) = self.peers.get_mut(&key) {
            handles.retain(|peer| peer.handle != handle);
            if handles.is_empty() {
                self.peers.remove(&key);
            }
        }
    }
}
