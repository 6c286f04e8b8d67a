//! What the operator asked for, as the machine needs it: connections, their children, and credentials.
//!
//! This module owns the meaning of a configuration, never its text: files, references and diagnostics live in the `adit` crate.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_cert::Store;
use adit_crypto::{Secret, Signer};
use adit_wire::esp::Mode;
use adit_wire::ikev2::{Proposal, TrafficSelector};

pub use crate::authentication::{LocalAuth, RemoteAuth, SendCert};
pub use crate::constraints::{Constraints, ConstraintsError};
use crate::identity::{Fit, Identity, IdentityPattern};

/// Everything an operator configures about IKE.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    /// The connections, in the order of the file.
    pub connections: Vec<Connection>,
    /// Pre-shared keys for authentication.
    pub secrets: Vec<SharedSecret>,
    /// Post-quantum pre-shared keys (RFC 8784).
    pub ppks: Vec<PostQuantumKey>,
    /// Private keys; each belongs to the certificates with its public key.
    pub keys: Vec<Arc<dyn Signer>>,
    /// Authorities, intermediates and CRLs.
    pub trust: Store,
}

impl Configuration {
    /// The same without connections.
    #[must_use]
    pub fn credentials(&self) -> Self {
        let Self { connections: _, secrets, ppks, keys, trust } = self;
        let (secrets, ppks, keys, trust) = (secrets.clone(), ppks.clone(), keys.clone(), trust.clone());
        Self { connections: Vec::new(), secrets, ppks, keys, trust }
    }
}

/// Settings of the whole gateway.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Half-open IKE SAs (as responder), or first requests within a second, above which a cookie is demanded
    /// (RFC 7296 2.6).
    pub cookie_threshold: usize,
    /// Hard cap on half-open IKE SAs. Beyond it a request with a fitting cookie takes the place of the oldest of the
    /// address (of IPv6, the /64) with the most, unless that is its own. One address gets a tenth of it, at least 64.
    pub half_open_limit: usize,
    /// How long an IKE SA may stay half-open as responder.
    pub half_open_timeout: Duration,
    /// The UDP port of IKE without NAT traversal.
    pub ike_port: u16,
    /// The UDP port of IKE and ESP with NAT traversal (RFC 3948).
    pub nat_t_port: u16,
    /// Interval of NAT keepalives while we are behind a NAT and otherwise silent.
    pub nat_keepalive: Duration,
    /// How long the inbound half of a Child SA that is gone by agreement still takes what was on its way.
    pub drain: Duration,
    /// How long a responder waits for the next IKE_FOLLOWUP_KE (RFC 9370 2.2.4).
    pub followup_timeout: Duration,
    /// How many requests a peer may have outstanding with us (RFC 7296 2.3).
    pub window: u32,
    /// Largest IP datagram of an IKE fragment of ours (RFC 7383 2.5.1).
    pub fragment_size: u16,
    /// How many parts a data plane divides what arrives into, by the low six bits of SPIs: 64 at most. Packets whose SPIs have
    /// these bits in common may be sent together, so there should be no more parts than are of use.
    pub lanes: usize,
    /// Emit [`crate::Output::KeyLog`]: every key in the clear, for debugging only.
    pub key_log: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cookie_threshold: 30,
            half_open_limit: 10_000,
            half_open_timeout: Duration::from_secs(30),
            ike_port: 500,
            nat_t_port: 4500,
            nat_keepalive: Duration::from_secs(20),
            drain: Duration::from_secs(5),
            followup_timeout: Duration::from_secs(15),
            window: 1,
            fragment_size: 1280,
            lanes: 1,
            key_log: false,
        }
    }
}

/// One `connections.<name>` section.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    /// Name of the section.
    pub name: String,
    /// Local addresses it may use; empty means any.
    pub local_addrs: Vec<AddressSpec>,
    /// Peers it may talk to; empty means any (then it can only respond).
    pub remote_addrs: Vec<AddressSpec>,
    /// Local IKE port to start from.
    pub local_port: u16,
    /// Peer's IKE port to start from.
    pub remote_port: u16,
    /// IKE proposals in order of preference (protocol IKE, no SPI, numbered from 1).
    pub proposals: Vec<Proposal>,
    /// Who we are; `None` means our address of the IKE SA.
    pub local_id: Option<Identity>,
    /// Whom we accept.
    pub remote_id: IdentityPattern,
    /// How we prove who we are.
    pub local_auth: LocalAuth,
    /// What the peer has to prove.
    pub remote_auth: RemoteAuth,
    /// `send_cert`: when we send certificates.
    pub send_cert: SendCert,
    /// `send_certreq`: tell the peer which authorities we trust, and so ask for its certificate.
    pub send_certreq: bool,
    /// Force UDP encapsulation by faking NAT detection.
    pub encap: bool,
    /// Idle time after which the peer's liveness is checked; zero means never.
    pub dpd_delay: Duration,
    /// How requests are repeated.
    pub retransmission: Retransmission,
    /// IKE fragmentation (RFC 7383).
    pub fragmentation: Fragmentation,
    /// IKE SAs without a child (RFC 6023).
    pub childless: Childless,
    /// MOBIKE (RFC 4555).
    pub mobike: bool,
    /// What becomes of other IKE SAs with the same peer.
    pub unique: Unique,
    /// When the IKE SA is rekeyed, and when it is not used any more.
    pub rekey: Lifetime,
    /// When the peers authenticate anew (make-before-break).
    pub reauth: Lifetime,
    /// Post-quantum pre-shared key (RFC 8784).
    pub ppk: PpkPolicy,
    /// Refuse a peer with which no post-quantum key exchange or key is agreed.
    pub require_post_quantum: bool,
    /// `keyingtries`: attempts in a row to bring a child up before it stays down; zero never gives up.
    pub tries: u32,
    /// `probe_path`: find out by probes how large packets get through to the peer.
    pub probe_path: bool,
    /// The children in the order of the file.
    pub children: Vec<Child>,
}

impl Connection {
    /// May IKE SAs made of the one be the other's? What they differ in comes into play only later.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let Self {
            name,
            local_addrs,
            remote_addrs,
            local_port,
            remote_port,
            proposals,
            local_id,
            remote_id,
            local_auth,
            remote_auth,
            send_cert: _,
            send_certreq: _,
            encap,
            dpd_delay: _,
            retransmission: _,
            fragmentation,
            childless,
            mobike,
            unique: _,
            rekey: _,
            reauth: _,
            ppk,
            require_post_quantum,
            tries: _,
            probe_path: _,
            children: _,
        } = self;
        *name == other.name
            && *local_addrs == other.local_addrs
            && *remote_addrs == other.remote_addrs
            && (*local_port, *remote_port) == (other.local_port, other.remote_port)
            && *proposals == other.proposals
            && *local_id == other.local_id
            && *remote_id == other.remote_id
            && local_auth.is_like(&other.local_auth)
            && *remote_auth == other.remote_auth
            && (*encap, *fragmentation) == (other.encap, other.fragmentation)
            && (*childless, *mobike) == (other.childless, other.mobike)
            && *ppk == other.ppk
            && *require_post_quantum == other.require_post_quantum
    }

    /// Does either side authenticate with a signature?
    pub(crate) fn has_public_keys(&self) -> bool {
        self.local_auth != LocalAuth::Psk || self.remote_auth != RemoteAuth::Psk
    }

    /// As initiator, does it want IKE SAs without a child?
    #[must_use]
    pub fn starts_childless(&self) -> bool {
        matches!(self.childless, Childless::Prefer | Childless::Force)
    }

    /// As initiator, is a peer of no use that cannot do without?
    pub(crate) fn needs_childless(&self) -> bool {
        self.childless == Childless::Force || self.children.is_empty()
    }
}

/// `fragmentation`: IKE fragmentation (RFC 7383).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragmentation {
    /// Sent and understood.
    #[default]
    Yes,
    /// Understood, not sent.
    Accept,
    /// Not announced.
    No,
}

/// `childless`: IKE SAs without a child (RFC 6023).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Childless {
    /// As responder; as initiator the first child comes with IKE_AUTH.
    #[default]
    Allow,
    /// As initiator too if the peer can.
    Prefer,
    /// Always; a peer that cannot is refused.
    Force,
    /// Never.
    Never,
}

/// `unique`: what becomes of other IKE SAs with the same peer once a new one is up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unique {
    /// They stay, whatever the peer says; INITIAL_CONTACT is neither sent nor obeyed.
    Never,
    /// They go if the peer says INITIAL_CONTACT.
    #[default]
    No,
    /// They stay and the new one is refused.
    Keep,
    /// They go.
    Replace,
}

/// `ppk_id` and `ppk_required` (RFC 8784).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PpkPolicy {
    /// As initiator, the key to propose; as responder any key of the configuration will do.
    pub id: Option<Vec<u8>>,
    /// Never go on without one.
    pub required: bool,
}

/// Limits in time, counted from when an SA is installed. Zero means never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// It is renewed then, less a random part of `jitter`.
    pub soft: Duration,
    /// It is no longer used from then on.
    pub hard: Duration,
    /// The most by which the renewal comes early.
    pub jitter: Duration,
}

/// Limits in octets or packets. Zero means never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// It is renewed then, less a random part of `jitter`.
    pub soft: u64,
    /// It is no longer used from then on.
    pub hard: u64,
    /// The most by which the renewal comes early.
    pub jitter: u64,
}

/// Limits of one Child SA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChildLimits {
    /// In time.
    pub time: Lifetime,
    /// In octets of inner packets, either direction.
    pub bytes: Volume,
    /// In packets, either direction.
    pub packets: Volume,
}

/// What a child has SAs of their own for (RFC 9611): worker threads, for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// How many we have, up to 64. With a single one, none is asked for.
    pub own: u16,
    /// So many SAs beside the first there may be; the peer may have more resources than we have.
    pub most: u16,
}

/// What is done about a child that is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    #[default]
    None,
    /// It is brought up by the first packet for it.
    Trap,
    /// It is brought up.
    Start,
}

/// One `connections.<conn>.children.<name>` section.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// Name of the section.
    pub name: String,
    /// ESP proposals in order of preference (protocol ESP, no SPI; may hold KE transforms for PFS).
    pub proposals: Vec<Proposal>,
    /// Local side of the traffic to protect.
    pub local_ts: Vec<SelectorSpec>,
    /// Remote side of the traffic to protect.
    pub remote_ts: Vec<SelectorSpec>,
    /// `mode`: what its packets carry.
    pub mode: Mode,
    /// The smaller, the sooner its selectors decide about a packet; 0 comes after all others.
    pub priority: u32,
    /// No other mode will do. If not, a peer that does not agree to the mode gets tunnel mode.
    pub strict_mode: bool,
    /// Anti-replay window in packets (RFC 4303 3.4.3); 0 switches the check off.
    pub replay_window: u32,
    /// `per_cpu_sas`: more SAs beside the first, one for each resource (RFC 9611). `None`: none.
    pub resources: Option<Resources>,
    /// When its SAs are rekeyed, and when they are not used any more.
    pub limits: ChildLimits,
    /// It is deleted after this long without traffic; zero means never.
    pub inactivity: Duration,
    /// `start_action`: bring the child up when the configuration is loaded.
    pub start: bool,
    /// `start_action`: bring the child up when there is a packet for it.
    pub trap: bool,
    /// `close_action`: what follows when the peer deletes it.
    pub on_close: Action,
    /// `dpd_action`: what follows when the peer is dead.
    pub on_dead_peer: Action,
}

impl Child {
    /// May SAs made of the one be the other's? What they differ in comes into play only later.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let Self {
            name,
            proposals,
            local_ts,
            remote_ts,
            mode,
            priority: _,
            strict_mode,
            replay_window,
            resources: _,
            limits: _,
            inactivity: _,
            start: _,
            trap: _,
            on_close: _,
            on_dead_peer: _,
        } = self;
        *name == other.name
            && *proposals == other.proposals
            && *local_ts == other.local_ts
            && *remote_ts == other.remote_ts
            && *mode == other.mode
            && *strict_mode == other.strict_mode
            && *replay_window == other.replay_window
    }
}

impl Default for Connection {
    /// Responds to anybody, offers nothing.
    fn default() -> Self {
        Self {
            name: String::new(),
            local_addrs: Vec::new(),
            remote_addrs: Vec::new(),
            local_port: 500,
            remote_port: 500,
            proposals: Vec::new(),
            local_id: None,
            remote_id: IdentityPattern::Any,
            local_auth: LocalAuth::default(),
            remote_auth: RemoteAuth::default(),
            send_cert: SendCert::default(),
            send_certreq: true,
            encap: false,
            dpd_delay: Duration::ZERO,
            retransmission: Retransmission::default(),
            fragmentation: Fragmentation::default(),
            childless: Childless::default(),
            mobike: true,
            unique: Unique::default(),
            rekey: Lifetime::default(),
            reauth: Lifetime::default(),
            ppk: PpkPolicy::default(),
            require_post_quantum: false,
            tries: 0,
            probe_path: false,
            children: Vec::new(),
        }
    }
}

impl Default for Child {
    /// Protects nothing, offers nothing, lives for ever.
    fn default() -> Self {
        Self {
            name: String::new(),
            proposals: Vec::new(),
            local_ts: Vec::new(),
            remote_ts: Vec::new(),
            mode: Mode::Tunnel,
            priority: 0,
            strict_mode: false,
            replay_window: 1024,
            resources: None,
            limits: ChildLimits::default(),
            inactivity: Duration::ZERO,
            start: false,
            trap: false,
            on_close: Action::None,
            on_dead_peer: Action::None,
        }
    }
}

/// One address, prefix or range of `local_addrs` / `remote_addrs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressSpec {
    /// First address.
    pub first: IpAddr,
    /// Last address (equal to `first` for a single address).
    pub last: IpAddr,
}

impl AddressSpec {
    /// The single address, if it is one: what an initiator can dial.
    #[must_use]
    pub fn single(&self) -> Option<IpAddr> {
        (self.first == self.last).then_some(self.first)
    }

    /// Does it hold `address`? Families never mix.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.first <= address && address <= self.last
    }
}

/// A configured traffic selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelectorSpec {
    /// Addresses from the configuration.
    Fixed(TrafficSelector),
    /// `dynamic`: the IKE SA's own address on that side, with protocol and ports.
    Dynamic {
        /// IP protocol, 0 for any.
        protocol: u8,
        /// First port.
        start_port: u16,
        /// Last port.
        end_port: u16,
    },
}

/// Retransmission of requests (RFC 7296 2.1, 2.4): bit-identical, exponential, bounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retransmission {
    /// Wait before the first repetition.
    pub first: Duration,
    /// Longest wait between two repetitions.
    pub most: Duration,
    /// The request is given up this long after it was first sent.
    pub give_up: Duration,
}

impl Default for Retransmission {
    /// 0.5 s, 1, 2, 4, 8, 16, 30, 30 ... until 165 s: quick on a lossy link, patient on a dead one.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            most: Duration::from_secs(30),
            give_up: Duration::from_secs(165),
        }
    }
}

/// One `secrets.ppk*` section (RFC 8784).
#[derive(Clone, Debug)]
pub struct PostQuantumKey {
    /// Name of the section, for messages.
    pub name: String,
    /// The PPK_IDs it goes by; empty fits every one.
    pub ids: Vec<Vec<u8>>,
    /// The key, whose octets exist once.
    pub secret: Arc<Secret>,
}

/// One `secrets.ike*` section.
#[derive(Clone, Debug)]
pub struct SharedSecret {
    /// Name of the section, for messages.
    pub name: String,
    /// Whose secret it is; empty means anybody's.
    pub owners: Vec<IdentityPattern>,
    /// The secret, whose octets exist once.
    pub secret: Arc<Secret>,
}

impl SharedSecret {
    /// May this secret be the one between us, `local`, and a peer, `remote`? The second owner of a pair is whom it is
    /// shared with: that we are the first one makes it nobody else's.
    #[must_use]
    pub fn is_between(&self, local: &Identity, remote: &Identity) -> bool {
        self.fit(local, |owner| owner.fit(remote)).is_some()
    }

    /// How well it fits the peer, then us; `None` if it is somebody else's. Without owners it is everybody's, and if
    /// we are all of its owners it is that of all our peers; both as a last resort.
    pub(crate) fn fit(
        &self,
        local: &Identity,
        remote: impl Fn(&IdentityPattern) -> Option<Fit>,
    ) -> Option<(Option<Fit>, Option<Fit>)> {
        let remote = self.owners.iter().filter_map(remote).max();
        let ours = remote.is_none() && self.owners.iter().all(|owner| owner.fit(local).is_some());
        (remote.is_some() || ours)
            .then(|| (remote, self.owners.iter().filter_map(|owner| owner.fit(local)).max()))
    }
}
