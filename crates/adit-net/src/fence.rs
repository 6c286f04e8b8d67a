//! The fence: packet filter rules that drop what a policy protects or discards and what nevertheless travels in the clear.
//! It owns the nf_tables table `inet adit` and replaces it as a whole, in one transaction. It stays when the
//! process dies, so that nothing leaks until the next start, and is removed by an orderly end. It needs no `nft`
//! binary.
//!
//! ```text
//! inbound    packets from a peer's selectors to ours that did not come out of the TUN device
//! delivered  packets that did, if policies discard: what an SA may carry is not all that may arrive
//! outbound   packets from our selectors to a peer's that are not going into the TUN device
//! ```
//!
//! Never dropped: what the loopback interface carries; our own outer packets, which have a mark when they leave,
//! and are ESP or go to the IKE ports of this machine when they arrive, even if the outer addresses lie within
//! the selectors; ICMP errors to this machine, which may be about them; IPv6 neighbour discovery, without which a peer
//! on the same link could not be reached.
//!
//! Selectors that overlap are decided in the order of [`adit_esp::ordered`], as the workers do: the first entry that fits a
//! packet. What a policy lets bypass is let pass, in both directions. So is what goes from one of our networks to
//! another where a wide policy would protect it; but what comes from outside with a source of ours is not taken for theirs.
//!
//! Of protocols with ports the ports count. So where a policy looks at ports, the kernel is made to put fragments together before
//! it decides their way, and divides them again behind. Where it cannot, later fragments do not show their ports: where a
//! policy would protect or discard some ports, they are dropped, and where it lets some bypass, they do not (RFC 4301 7:
//! what cannot be told apart must not pass). Of ICMP, type and code do not count: the protocol as a whole is fenced.

mod groups;

use std::sync::Arc;

use crate::Error;
use crate::backend::{NetConfig, PolicySpec};
use crate::counting::Known;
use crate::netlink::NetlinkSocket;
use crate::nft::{self, Base, Batch, Compare, Hook, Meta, Rule, Verdict};

pub(crate) use groups::Flow;
use groups::{Direction, Group, Kind, family, groups};

/// Name of the table, in the family `inet`.
pub const TABLE: &str = "adit";

const INBOUND: &str = "inbound";
const DELIVERED: &str = "delivered";
const FRAGMENTS: &str = "fragments";
pub(crate) const DROPPED_IN: &str = "dropped-in";
pub(crate) const DROPPED_OUT: &str = "dropped-out";

/// The table `inet adit` of one network namespace.
#[derive(Debug)]
pub struct Fence {
    /// `None` if the kernel has no nf_tables.
    socket: Option<NetlinkSocket>,
    tun_name: String,
    mark: u32,
    ports: [u16; 2],
    abilities: Abilities,
    /// What earlier ones have dropped, for others who count too.
    known: Arc<Known>,
}

impl Fence {
    /// A fence for the calling thread's network namespace. Nothing changes yet.
    pub fn new(config: &NetConfig) -> Self {
        Self::known(config, Arc::default())
    }

    /// The same, and what has to be known of it for others to count what it drops.
    pub(crate) fn known(config: &NetConfig, known: Arc<Known>) -> Self {
        let socket = NetlinkSocket::open(libc::NETLINK_NETFILTER).inspect_err(lost).ok();
        let ports = [config.ike_port, config.nat_t_port];
        let abilities = Abilities { asks_routes: true, joins_fragments: true };
        let tun_name = config.tun_name.clone();
        Self { socket, tun_name, mark: config.mark, ports, abilities, known }
    }

    /// The netlink port that its changes come from; `None` without nf_tables.
    pub(crate) fn port(&self) -> Option<u32> {
        self.socket.as_ref().map(NetlinkSocket::port)
    }

    /// Puts up the fence for these policies, in place of what was there; takes it down if there are none.
    ///
    /// A kernel without nf_tables is no error: it is logged once, and routes alone keep protected packets in.
    ///
    /// # Errors
    /// The kernel refused. What was there stays.
    pub fn replace(&mut self, policies: &[PolicySpec]) -> Result<(), Error> {
        if policies.is_empty() {
            return self.remove();
        }
        let groups = groups(policies);
        let all = Abilities { asks_routes: true, joins_fragments: true };
        let less = [
            all,
            Abilities { joins_fragments: false, ..all },
            Abilities { asks_routes: false, ..all },
            Abilities { asks_routes: false, joins_fragments: false },
        ];
        let most = self.abilities;
        let fewer = |one: &Abilities| {
            one.asks_routes <= most.asks_routes && one.joins_fragments <= most.joins_fragments
        };
        let mut result = Ok(());
        for abilities in less.into_iter().filter(fewer) {
            result = self.put_up(&groups, abilities);
            match &result {
                Err(error) if is_unknown(error) => {}
                _ => {
                    self.note(abilities, &groups);
                    break;
                }
            }
        }
        result.or_else(|error| self.unless_unsupported(error))
    }

    /// What the kernel has turned out not to have is not asked for again, and told once where it matters.
    fn note(&mut self, abilities: Abilities, groups: &[Group]) {
        if self.abilities.asks_routes
            && !abilities.asks_routes
            && groups.iter().any(|group| group.kind == Kind::Ours)
        {
            self.abilities.asks_routes = false;
            tracing::warn!(
                "this kernel's nf_tables has no `fib`: a packet that claims to come from a network of ours is \
                 believed whatever interface it came in by; switch net.ipv4.conf.*.rp_filter on"
            );
        }
        if self.abilities.joins_fragments
            && !abilities.joins_fragments
            && groups.iter().any(Group::looks_at_ports)
        {
            self.abilities.joins_fragments = false;
            tracing::warn!(
                "this kernel's nf_tables has no `tproxy`, and does not put fragments together: where policies name \
                 ports, packets that arrive in fragments are dropped"
            );
        }
    }

    fn put_up(&mut self, groups: &[Group], abilities: Abilities) -> Result<(), Error> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        let mut batch = Batch::new(socket.next_sequence());
        // Deleting needs the table to exist, and creating one that exists does nothing.
        batch.create_table(TABLE);
        batch.delete_table(TABLE);
        batch.create_table(TABLE);
        self.write(&mut batch, groups, abilities);
        self.commit(batch, "put up the packet filter rules")
    }

    /// Takes the fence down.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove(&mut self) -> Result<(), Error> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        let mut batch = Batch::new(socket.next_sequence());
        batch.create_table(TABLE);
        batch.delete_table(TABLE);
        self.commit(batch, "remove the packet filter rules").or_else(|error| self.unless_unsupported(error))
    }

    /// How many packets it and those before it have dropped: inbound, outbound.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn dropped(&mut self) -> Result<(u64, u64), Error> {
        // What a predecessor has counted is none of ours.
        let Some((inbound, outbound)) = self.known.before() else { return Ok((0, 0)) };
        let Some(socket) = &mut self.socket else { return Ok((inbound, outbound)) };
        Ok((inbound + counted(socket, DROPPED_IN)?, outbound + counted(socket, DROPPED_OUT)?))
    }

    fn commit(&mut self, batch: Batch, action: &str) -> Result<(), Error> {
        // The counters go with the table.
        let before = self.known.before();
        let dropped = self.dropped().ok().or(before);
        let Some(socket) = &mut self.socket else { return Ok(()) };
        self.known.fence_changes();
        let done = batch.commit(socket).map_err(|error| Error::system(action, error));
        self.known.fence_stands(if done.is_ok() { dropped } else { before });
        done
    }

    fn unless_unsupported(&mut self, error: Error) -> Result<(), Error> {
        if !nft::is_unsupported(error.raw_os_error()) {
            return Err(error);
        }
        lost(&error);
        self.socket = None;
        Ok(())
    }
}

/// The right to be the only data plane of the network namespace: there is one fence, and routes and rules are ours by one
/// number, so two would take each other's away. It is a table without rules that belongs to a socket: only root can
/// make one, nobody can remove it, and the kernel forgets it however the process ends.
#[derive(Debug)]
pub(crate) struct Claim {
    _socket: Option<NetlinkSocket>,
}

const CLAIM: &str = "adit-claim";

impl Claim {
    /// For the calling thread's network namespace. On kernels without such tables (before Linux 5.12) it says nothing,
    /// and two data planes are kept apart by the ports and the TUN device that both want.
    pub(crate) fn take() -> Result<Self, Error> {
        let unsupported = |error: &Error| {
            tracing::debug!(%error, "nothing keeps a second data plane from this network namespace");
            Ok(Self { _socket: None })
        };
        let mut socket = match NetlinkSocket::open(libc::NETLINK_NETFILTER) {
            Ok(socket) => socket,
            Err(error) => return unsupported(&error),
        };
        let mut batch = Batch::new(socket.next_sequence());
        batch.create_owned_table(CLAIM);
        let error = match batch.commit(&mut socket) {
            Ok(()) => return Ok(Self { _socket: Some(socket) }),
            Err(error) => error,
        };
        // The same answer is given to who may not ask at all; and who may, is told what is in the table.
        let mut may_ask = || {
            let sequence = socket.next_sequence();
            socket.send(&nft::list_rules(sequence, CLAIM, CLAIM))?;
            socket.acknowledged(sequence..=sequence)
        };
        let held = match error.raw_os_error() {
            Some(libc::EPERM) => !matches!(may_ask(), Err(no) if no.raw_os_error() == Some(libc::EPERM)),
            number => number == Some(libc::EEXIST),
        };
        if held {
            return Err(Error::InUse(
                "another Adit protects this network namespace; two of them need two namespaces".to_owned(),
            ));
        }
        let old = error.raw_os_error() == Some(libc::EINVAL) || nft::is_unsupported(error.raw_os_error());
        let error = Error::system("claim the network namespace", error);
        if old { unsupported(&error) } else { Err(error) }
    }
}

/// Packets that a chain of the fence that stands has dropped.
pub(crate) fn counted(socket: &mut NetlinkSocket, chain: &str) -> Result<u64, Error> {
    let sequence = socket.next_sequence();
    let mut packets = 0;
    let mut count = || {
        socket.send(&nft::list_rules(sequence, TABLE, chain))?;
        socket.collect(sequence..=sequence, |message| packets += nft::counted_packets(message).unwrap_or(0))
    };
    match count() {
        // There is no fence.
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
            Err(Error::system("read the packet filter's counters", error))
        }
        _ => Ok(packets),
    }
}

/// Does the kernel not know a part of a rule?
fn is_unknown(error: &Error) -> bool {
    let number = error.raw_os_error();
    number == Some(libc::ENOENT) || nft::is_unsupported(number)
}

fn lost(error: &Error) {
    tracing::warn!(
        %error,
        "this kernel has no nf_tables: only routes keep protected packets from leaving in the clear, and nothing \
         drops those that arrive in the clear"
    );
}

/// What this kernel can do, beyond what every nf_tables can.
#[derive(Clone, Copy, Debug)]
struct Abilities {
    /// Ask its routes in a rule.
    asks_routes: bool,
    /// Put fragments together before it decides their way.
    joins_fragments: bool,
}

impl Fence {
    fn write(&self, batch: &mut Batch, groups: &[Group], abilities: Abilities) {
        let came_by = |name: &str| Rule::default().interface(Meta::InputName, name);
        let goes_by = |name: &str| Rule::default().interface(Meta::OutputName, name);
        for chain in [DROPPED_IN, DROPPED_OUT] {
            batch.create_chain(TABLE, chain);
        }
        // Asked last, as most packets that fit no policy are none of these either.
        let marked = Rule::default().meta(Meta::Mark, Compare::Equal, &self.mark.to_ne_bytes());
        for rule in [marked, goes_by("lo"), neighbour_discovery()] {
            batch.append_rule(TABLE, DROPPED_OUT, rule, Verdict::Accept);
        }
        for chain in [DROPPED_IN, DROPPED_OUT] {
            batch.append_rule(TABLE, chain, Rule::default().counter(), Verdict::Drop);
        }
        if abilities.joins_fragments && groups.iter().any(Group::looks_at_ports) {
            batch.create_chain(TABLE, FRAGMENTS);
            batch.append_rule(TABLE, FRAGMENTS, Rule::default().joins_fragments(), Verdict::Return);
        }
        for set in groups.iter().filter_map(Group::set) {
            batch.create_set(TABLE, &set);
        }
        // Up to the last entry that is about what SAs deliver.
        let discards = groups.iter().rposition(|group| group.kind == Kind::Discarded);
        let delivered = discards.and_then(|last| groups.get(..=last)).unwrap_or_default();
        let verdict = |closed: bool, drop| if closed { Verdict::Goto(drop) } else { Verdict::Return };
        if !delivered.is_empty() {
            batch.create_chain(TABLE, DELIVERED);
        }
        for group in delivered {
            let verdict = verdict(group.kind == Kind::Discarded, DROPPED_IN);
            batch.append_rule(TABLE, DELIVERED, group.rule(Direction::In), verdict);
        }
        batch.create_chain(TABLE, INBOUND);
        for group in groups {
            let mut rule = group.rule(Direction::In);
            if group.kind == Kind::Ours && abilities.asks_routes {
                rule = rule.came_by_the_way_back();
            }
            batch.append_rule(TABLE, INBOUND, rule, verdict(group.kind.is_closed(), DROPPED_IN));
        }

        let from_tunnel = if delivered.is_empty() { Verdict::Accept } else { Verdict::Goto(DELIVERED) };
        batch.create_base_chain(TABLE, "input", Hook::Input, 0);
        batch.append_rule(TABLE, "input", came_by(&self.tun_name), from_tunnel);
        let protocol = |number: u8| Rule::default().meta(Meta::Protocol, Compare::Equal, &[number]);
        batch.append_rule(TABLE, "input", protocol(50), Verdict::Accept);
        let [ike, nat_t] = self.ports;
        for port in [nat_t, ike].map(u16::to_be_bytes) {
            let rule = protocol(17).range(Base::Transport, 2, &port, &port);
            batch.append_rule(TABLE, "input", rule, Verdict::Accept);
        }
        for rule in [came_by("lo"), neighbour_discovery()] {
            batch.append_rule(TABLE, "input", rule, Verdict::Accept);
        }
        // Routers tell us about our outer packets, path MTUs among it, from addresses that a peer may protect.
        for (v6, number, first, last) in [(false, 1, 3, 3), (false, 1, 11, 12), (true, 58, 1, 4)] {
            let rule = family(v6).meta(Meta::Protocol, Compare::Equal, &[number]);
            let rule = rule.range(Base::Transport, 0, &[first], &[last]);
            batch.append_rule(TABLE, "input", rule, Verdict::Accept);
        }
        batch.append_rule(TABLE, "input", Rule::default(), Verdict::Goto(INBOUND));
        batch.create_base_chain(TABLE, "forward", Hook::Forward, 0);
        batch.append_rule(TABLE, "forward", came_by(&self.tun_name), from_tunnel);
        batch.append_rule(TABLE, "forward", Rule::default(), Verdict::Goto(INBOUND));

        // Before source NAT (100), which could move a packet out of its selectors.
        batch.create_base_chain(TABLE, "outbound", Hook::Postrouting, 0);
        batch.append_rule(TABLE, "outbound", goes_by(&self.tun_name), Verdict::Accept);
        for group in groups {
            let verdict = verdict(group.kind.is_closed(), DROPPED_OUT);
            batch.append_rule(TABLE, "outbound", group.rule(Direction::Out), verdict);
        }
    }
}

/// ICMPv6 133 to 137 that no router has forwarded (RFC 4861 11.2: hop limit 255).
fn neighbour_discovery() -> Rule {
    family(true).meta(Meta::Protocol, Compare::Equal, &[58]).range(Base::Transport, 0, &[133], &[137]).range(
        Base::Network,
        7,
        &[255],
        &[255],
    )
}
