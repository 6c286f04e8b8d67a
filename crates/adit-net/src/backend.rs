//! What a data plane is to the rest of the program: the orders it takes and the events it reports. It owns the
//! vocabulary and no behaviour.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_esp::translate::Translation;
use adit_esp::tunnel::{OuterPolicy, Tfc};
use adit_esp::{Action, Entry, Mss, Policy, SaParameters};
use adit_wire::ikev2::{Spi, TrafficSelector};

use crate::path::DEFAULT_MARK;
use crate::{Error, Stats, TapFilter, TapReader};

/// A data plane. It has two ends: [`Backend::shutdown`] restores the system, while dropping it only stops it, as a
/// kill does: what is protected stays closed, until a later one takes over and ends in order.
pub trait Backend: Send {
    /// Puts both halves of a Child SA in place. When this returns, packets that arrive on the inbound half are
    /// accepted, and, if it is active, packets of its policy that fit its selectors leave on the outbound half: of
    /// several active SAs of one policy that fit, the one that became active last.
    ///
    /// # Errors
    /// A suite that cannot be made, an inbound SPI or an id that is in use, or a data plane that has stopped. Then
    /// nothing is installed.
    fn install(&mut self, child: ChildSaInstall) -> Result<(), Error>;

    /// Makes the outbound half active. One that is stays where it is in the order; one that is retired stays retired.
    fn switch(&mut self, id: ChildId);

    /// Sends nothing more on the outbound half, and never again; the inbound half goes on. When this returns, the last
    /// packet has left.
    fn retire(&mut self, id: ChildId);

    /// Sends from and to other addresses from now on; sequence numbers, keys and counters stay.
    ///
    /// # Errors
    /// An address or port that cannot be sent from. Then nothing has changed.
    fn relocate(
        &mut self,
        id: ChildId,
        local: IpAddr,
        remote: IpAddr,
        encap: Option<UdpEncap>,
    ) -> Result<(), Error>;

    /// Sends no outer packets to this address that are larger than so many octets with their IP header, though the kernel believes
    /// that they pass: inner packets are divided, their senders told, and their connections' segments made to fit. `None`: what
    /// the kernel believes.
    fn set_path_limit(&mut self, remote: IpAddr, limit: Option<u16>);

    /// Takes both halves of a Child SA out. Its policy stays, and with it the protection.
    fn remove(&mut self, id: ChildId);

    /// Replaces what is protected. Traffic of a policy without an SA is dropped, outbound and inbound.
    ///
    /// # Errors
    /// The kernel refused routes or packet filter rules. The rest of what is asked for is then in place beside the
    /// earlier protection, nothing of which is lifted.
    fn set_policies(&mut self, policies: Vec<PolicySpec>) -> Result<(), Error>;

    /// Makes the interfaces these, in place of those of before. One that stays keeps its routes and its SAs; one that is gone is
    /// deleted. Called in the network namespace that the data plane was started in.
    ///
    /// # Errors
    /// Something else has such a name, or the kernel refused. Then some of the new ones may be there, and none of the old
    /// ones is gone.
    fn set_interfaces(&mut self, interfaces: Vec<InterfaceSpec>) -> Result<(), Error>;

    /// What a Child SA has carried; `None` if there is no such SA.
    fn counters(&self, id: ChildId) -> Option<ChildCounters>;

    /// What the data plane has done outside any one SA. The kernel is asked for some of it, which may take its time: see
    /// [`Backend::count`].
    fn stats(&self) -> Stats {
        self.count()()
    }

    /// Finds out what [`Backend::stats`] tells, on any thread: nobody else waits for it.
    fn count(&self) -> Box<dyn FnOnce() -> Stats + Send>;

    /// Shows copies of packets to whoever reads them, until the reader is dropped.
    ///
    /// # Errors
    /// Somebody else looks already, or the data plane has stopped.
    fn tap(&mut self, filter: &TapFilter) -> Result<TapReader, Error>;

    /// The orderly end: stops, and restores the system to what it was. Protected traffic is no longer held back. After
    /// [`NetEvent::Failed`] it is the same as dropping.
    fn shutdown(self: Box<Self>);
}

/// Names a Child SA for the life of the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildId(pub u64);

/// Names a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId(pub u64);

/// Both halves of a Child SA.
pub struct ChildSaInstall {
    /// Its name in later orders and events.
    pub id: ChildId,
    /// Its name for people, as `connection/child`.
    pub name: String,
    /// The policy whose traffic it carries.
    pub policy: PolicyId,
    /// What arrives.
    pub inbound: SaParameters,
    /// What leaves.
    pub outbound: SaParameters,
    /// Our outer address.
    pub local: IpAddr,
    /// The peer's outer address.
    pub remote: IpAddr,
    /// Ports if ESP travels in UDP (RFC 3948), `None` for IP protocol 50.
    pub encap: Option<UdpEncap>,
    /// Is the outbound half used at once? If not, [`Backend::switch`] makes it active, or the first authentic packet
    /// that is not a replay on the inbound half does.
    pub active: bool,
    /// What it may carry.
    pub limits: Limits,
    /// What happens to packets beside encryption.
    pub treatment: Treatment,
    /// The worker, counted beyond the last one from the first again, that sends its packets on it (RFC 9611). `None`: it is
    /// for all workers of the policy that have no own one.
    pub worker: Option<usize>,
}

/// What an SA does to the packets it carries, beside protecting them. Nothing of it is negotiated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Treatment {
    /// What outer headers take from inner packets.
    pub outer: OuterPolicy,
    /// Inner packets that arrive take the DSCP of the outer ones.
    pub dscp_inwards: bool,
    /// How long inner packets look from outside.
    pub tfc: Tfc,
    /// After no longer a silence of the outbound half than this, a packet leaves that means nothing (RFC 4303 2.6); not in
    /// IP-TFS mode, which sends its own.
    pub dummies: Option<Duration>,
    /// The segments of TCP connections, both ways.
    pub mss: Mss,
    /// Networks that have other addresses on our side than those that are negotiated. The inbound half has the selectors
    /// that are negotiated; the outbound half, and the policy, those of our side.
    pub translation: Option<Arc<Translation>>,
    /// For SAs in IP-TFS mode.
    pub iptfs: Iptfs,
}

/// How an SA in IP-TFS mode fills, sends and receives its payloads (RFC 9347).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Iptfs {
    /// Octets of outer packets with their IP header; 0, and the most: what the path takes.
    pub packet_size: u16,
    /// From one payload to the next, whatever there is to send. `None`: payloads leave when there is something in them.
    pub interval: Option<Duration>,
    /// How long the first packet waits for others, where payloads leave on demand.
    pub init_delay: Duration,
    /// Octets of packets that wait, at the most.
    pub queue: usize,
    /// How many payloads that arrive wait for one that is missing.
    pub reorder_window: u16,
    /// And for how long.
    pub drop_time: Duration,
}

impl Default for Iptfs {
    fn default() -> Self {
        Self {
            packet_size: 0,
            interval: None,
            init_delay: Duration::ZERO,
            queue: 1 << 20,
            reorder_window: adit_esp::iptfs::Receiver::DEFAULT_WINDOW,
            drop_time: Duration::from_secs(1),
        }
    }
}

/// How much a Child SA may carry, the larger of both directions; `None`: as much as its sequence numbers allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Octets of inner packets until [`NetEvent::LimitSoon`].
    pub soft_bytes: Option<u64>,
    /// Octets of inner packets until [`NetEvent::LimitReached`].
    pub hard_bytes: Option<u64>,
    /// The same in packets.
    pub soft_packets: Option<u64>,
    /// The same in packets.
    pub hard_packets: Option<u64>,
}

/// UDP ports of encapsulated ESP (RFC 3948).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpEncap {
    /// Ours. It has to be the NAT traversal port of [`NetConfig`].
    pub local_port: u16,
    /// The peer's.
    pub remote_port: u16,
}

/// Traffic, and what is done with it from the moment it is known. What is protected is so whether an SA exists or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySpec {
    /// Its name in [`ChildSaInstall`].
    pub id: PolicyId,
    /// Its name for people.
    pub name: String,
    /// What is done with it.
    pub action: Action,
    /// Traffic on our side.
    pub local_ts: Vec<TrafficSelector>,
    /// Traffic on the peer's side.
    pub remote_ts: Vec<TrafficSelector>,
    /// The smaller, the sooner it is considered; 0 comes last, the most specific first.
    pub priority: u32,
    /// Report a packet that finds no SA as [`NetEvent::Acquire`], and keep it, and a few more, for the SA to come.
    pub trap: bool,
    /// Workers may have SAs of their own ([`ChildSaInstall::worker`]).
    pub spread: bool,
    /// The interface that its traffic takes, one of [`Backend::set_interfaces`]: neither routes nor fence know it then, and
    /// only what is routed to the interface is its traffic. `None`: the one of all such policies.
    pub interface: Option<String>,
}

/// An interface for the traffic of some policies alone. What is routed to it travels by these, or not at all, and what
/// their SAs deliver comes from it. It outlives SAs, and the process: whoever starts next takes it over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceSpec {
    /// Its name.
    pub name: String,
    /// Whose it is, for people.
    pub owner: String,
    /// Its MTU in octets; `None` derives it as [`NetConfig::tun_mtu`] does.
    pub mtu: Option<u16>,
    /// Its addresses, with the lengths of their prefixes.
    pub addresses: Vec<(IpAddr, u8)>,
    /// What is routed to it in the main table: addresses with all host bits zero, and lengths.
    pub routes: Vec<(IpAddr, u8)>,
    /// What is routed to it if it has the mark, wherever others go.
    pub marked: Option<(Mark, Vec<(IpAddr, u8)>)>,
    /// What comes from it gets this mark.
    pub marks: Option<Mark>,
}

/// A firewall mark: a value, and the bits that count.
pub type Mark = (u32, u32);

impl PolicySpec {
    pub(crate) fn looks_at_ports(&self) -> bool {
        let all = |selector: &TrafficSelector| (selector.start_port, selector.end_port) == (0, u16::MAX);
        !self.local_ts.iter().chain(&self.remote_ts).all(all)
    }

    /// Protects this traffic, and does not wait for an SA to come.
    pub fn new(
        id: PolicyId,
        name: impl Into<String>,
        local_ts: Vec<TrafficSelector>,
        remote_ts: Vec<TrafficSelector>,
    ) -> Self {
        let (name, action) = (name.into(), Action::Protect);
        let (priority, trap, spread, interface) = (0, false, false, None);
        Self { id, name, action, local_ts, remote_ts, priority, trap, spread, interface }
    }

    /// What decides about packets.
    pub(crate) fn selectors(&self) -> Policy {
        let Self { priority, action, local_ts, remote_ts, .. } = self;
        let (local_ts, remote_ts) = (local_ts.clone(), remote_ts.clone());
        Policy { priority: *priority, action: *action, local_ts, remote_ts }
    }

    /// The entries of all policies in the order in which they decide, and whose they are.
    pub(crate) fn ordered(policies: &[Self]) -> Vec<Entry> {
        adit_esp::ordered(&policies.iter().map(Self::selectors).collect::<Vec<_>>())
    }
}

/// What a Child SA has carried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChildCounters {
    /// Inner packets opened, dummies not counted.
    pub packets_in: u64,
    /// Their octets, as inner IP packets.
    pub bytes_in: u64,
    /// Inner packets sealed and handed to the kernel, dummies not counted.
    pub packets_out: u64,
    /// Their octets, as inner IP packets.
    pub bytes_out: u64,
    /// When the last authentic packet arrived, whatever was in it, to the accuracy of one batch: then the peer was there.
    pub heard: Option<Instant>,
    /// When the last inner packet arrived.
    pub last_in: Option<Instant>,
    /// When the last inner packet left.
    pub last_out: Option<Instant>,
    /// ESP packets of this SA that were dropped, by cause.
    pub drops: Vec<(adit_esp::Drop, u64)>,
}

/// Settings of the data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// Name of the TUN device.
    pub tun_name: String,
    /// Its MTU in octets; `None` derives it from the MTU of the way out.
    pub tun_mtu: Option<u16>,
    /// Number of the routing table that leads into the tunnel.
    pub routing_table: u32,
    /// Priority of the first rule that leads to the table; it and the four after it are used.
    pub rule_priority: u32,
    /// Firewall mark of our own outer packets, which keeps them out of the tunnel.
    pub mark: u32,
    /// UDP port of IKE.
    pub ike_port: u16,
    /// UDP port of IKE and ESP with NAT traversal.
    pub nat_t_port: u16,
    /// Worker threads, 1 to 64. What the peer sends on an SA is the work of one, told by the SPI, and what is sent by a policy is
    /// the work of one, so that no flow is ever spread; unless workers have SAs of their own.
    pub workers: usize,
    /// Open sockets for IP protocol 50 as well; without them all ESP has to travel in UDP.
    pub raw_esp: bool,
    /// Let the kernel join packets of a flow to super-packets, and cut them, as far as it can.
    pub offload: bool,
    /// Send and receive ESP without UDP by AF_XDP where the interface can do it. It then passes neither the packet filter nor
    /// traffic shaping of this machine.
    pub xdp: bool,
    /// How long to look for further packets after the last one before sleeping. It shortens the time that packets take, and
    /// costs processor time while there are some; 0 for never.
    pub spin: Duration,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            tun_name: "adit0".into(),
            tun_mtu: None,
            routing_table: 220,
            rule_priority: 220,
            mark: DEFAULT_MARK,
            ike_port: 500,
            nat_t_port: 4500,
            workers: 1,
            raw_esp: true,
            offload: true,
            xdp: false,
            spin: Duration::from_micros(50),
        }
    }
}

/// What the data plane has to tell.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetEvent {
    /// An IKE message arrived.
    Ike {
        /// The address it was sent to, and the port of the socket: this tells 500 from 4500.
        local: SocketAddr,
        /// Who sent it.
        remote: SocketAddr,
        /// The message without the non-ESP marker.
        datagram: Vec<u8>,
    },
    /// ESP with an SPI that no SA has. Reported for a few packets per second at most, and not authentic.
    UnknownSpi {
        /// The SPI.
        spi: Spi,
        /// The outer source; port 0 for IP protocol 50.
        remote: SocketAddr,
    },
    /// Most sequence numbers of the outbound half are used, or a soft limit is passed: time to rekey. Reported once.
    LimitSoon {
        /// The SA.
        id: ChildId,
    },
    /// All sequence numbers of the outbound half are used, or one of the halves has reached a hard limit: it carries
    /// nothing more. Reported once.
    LimitReached {
        /// The SA.
        id: ChildId,
    },
    /// The newest authentic packet of an SA came from, or to, another address than we send to, or from. Reported once
    /// for each new place, and a few times per second at most.
    PeerMoved {
        /// The SA.
        id: ChildId,
        /// Where it arrived; port 0 for IP protocol 50.
        local: SocketAddr,
        /// Where it came from; port 0 for IP protocol 50.
        remote: SocketAddr,
    },
    /// A packet of a policy with [`PolicySpec::trap`] found no SA. Reported once a second at most for each policy.
    Acquire {
        /// The policy.
        policy: PolicyId,
    },
    /// Someone deleted an interface of [`Backend::set_interfaces`], which makes it again if it is called again.
    InterfaceLost,
    /// Addresses, links or routes of the system changed: the way to a peer may be another one.
    PathsChanged,
    /// The data plane can no longer work, for example because someone deleted the TUN device.
    Failed {
        /// Why, for the operator.
        reason: String,
    },
}

impl fmt::Debug for NetEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ike { local, remote, datagram } => {
                write!(f, "Ike({remote} -> {local}, {} octets)", datagram.len())
            }
            Self::UnknownSpi { spi, remote } => write!(f, "UnknownSpi({spi} from {remote})"),
            Self::LimitSoon { id } => write!(f, "LimitSoon({})", id.0),
            Self::LimitReached { id } => write!(f, "LimitReached({})", id.0),
            Self::PeerMoved { id, local, remote } => write!(f, "PeerMoved({}, {remote} -> {local})", id.0),
            Self::Acquire { policy } => write!(f, "Acquire({})", policy.0),
            Self::InterfaceLost => f.write_str("InterfaceLost"),
            Self::PathsChanged => f.write_str("PathsChanged"),
            Self::Failed { reason } => write!(f, "Failed({reason})"),
        }
    }
}
