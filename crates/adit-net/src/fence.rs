//! The fence: packet filter rules that drop what a policy protects or discards and what nevertheless travels in the clear.
//! It owns the nf_tables table `inet adit` and replaces it as a whole, in one transaction. It stays when the
//! process dies, so that nothing leaks until the next start, and is removed by an orderly end. It needs no `nft`
//! binary.
//!
//! ```text
//! inbound   packets from a peer's selectors to ours that did not come out of the TUN device
//! outbound  packets from our selectors to a peer's that are not going into the TUN device
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
//! Of protocols with ports the ports count. Later fragments do not show them: where a policy would protect or discard some
//! ports, they are dropped, and where it lets some bypass, they do not (RFC 4301 7: what cannot be told apart must not
//! pass). Of ICMP, type and code do not count: the protocol as a whole is fenced.

use std::net::IpAddr;

use adit_esp::Action;
use adit_wire::ikev2::TrafficSelector;

use crate::Error;
use crate::backend::{NetConfig, PolicySpec};
use crate::netlink::NetlinkSocket;
use crate::nft::{self, Base, Batch, Compare, Hook, Meta, Rule, Verdict};

/// Name of the table, in the family `inet`.
pub const TABLE: &str = "adit";

const INBOUND: &str = "inbound";
const DROPPED_IN: &str = "dropped-in";
const DROPPED_OUT: &str = "dropped-out";

/// The table `inet adit` of one network namespace.
#[derive(Debug)]
pub struct Fence {
    /// `None` if the kernel has no nf_tables.
    socket: Option<NetlinkSocket>,
    tun_name: String,
    mark: u32,
    ports: [u16; 2],
    /// Can the kernel ask its routes in a rule?
    asks_routes: bool,
}

impl Fence {
    /// A fence for the calling thread's network namespace. Nothing changes yet.
    pub fn new(config: &NetConfig) -> Self {
        let socket = NetlinkSocket::open(libc::NETLINK_NETFILTER).inspect_err(lost).ok();
        let ports = [config.ike_port, config.nat_t_port];
        Self { socket, tun_name: config.tun_name.clone(), mark: config.mark, ports, asks_routes: true }
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
        let entries = entries(policies);
        match self.put_up(&entries) {
            Err(error) if self.asks_routes && error.raw_os_error() == Some(libc::ENOENT) => {
                self.asks_routes = false;
                self.put_up(&entries)?;
                if entries.iter().any(|entry| entry.kind == Kind::Ours) {
                    tracing::warn!(
                        "this kernel's nf_tables has no `fib`: a packet that claims to come from a network of ours is \
                         believed whatever interface it came in by; switch net.ipv4.conf.*.rp_filter on"
                    );
                }
                Ok(())
            }
            result => result,
        }
    }

    fn put_up(&mut self, entries: &[Entry]) -> Result<(), Error> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        let mut batch = Batch::new(socket.next_sequence());
        // Deleting needs the table to exist, and creating one that exists does nothing.
        batch.create_table(TABLE);
        batch.delete_table(TABLE);
        batch.create_table(TABLE);
        write_rules(&mut batch, &self.tun_name, self.mark, self.ports, entries, self.asks_routes);
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
        self.commit(batch, "remove the packet filter rules")
    }

    /// How many packets it has dropped since the last [`Fence::replace`]: inbound, outbound.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn dropped(&mut self) -> Result<(u64, u64), Error> {
        Ok((self.counted(DROPPED_IN)?, self.counted(DROPPED_OUT)?))
    }

    fn counted(&mut self, chain: &str) -> Result<u64, Error> {
        let Some(socket) = &mut self.socket else { return Ok(0) };
        let sequence = socket.next_sequence();
        let mut packets = 0;
        let mut count = || {
            socket.send(&nft::list_rules(sequence, TABLE, chain))?;
            socket
                .collect(sequence..=sequence, |message| packets += nft::counted_packets(message).unwrap_or(0))
        };
        match count() {
            // There is no fence.
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                Err(Error::system("read the packet filter's counters", error))
            }
            _ => Ok(packets),
        }
    }

    fn commit(&mut self, batch: Batch, action: &str) -> Result<(), Error> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        let (octets, numbers) = batch.finish();
        let last = *numbers.end();
        match socket.send(&octets).and_then(|()| socket.acknowledged(numbers)) {
            Err(error) if nft::is_unsupported(&error) => {
                lost(&Error::system(action, error));
                self.socket = None;
                Ok(())
            }
            result => {
                // Messages of the batch took numbers up to this one.
                socket.skip_to(last.wrapping_add(2));
                result.map_err(|error| Error::system(action, error))
            }
        }
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
        let (octets, numbers) = batch.finish();
        let sequence = numbers.end().wrapping_add(2);
        let error = match socket.send(&octets).and_then(|()| socket.acknowledged(numbers)) {
            Ok(()) => return Ok(Self { _socket: Some(socket) }),
            Err(error) => error,
        };
        // The same answer is given to who may not ask at all; and who may, is told what is in the table.
        let mut may_ask = || {
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
        let old = error.raw_os_error() == Some(libc::EINVAL) || nft::is_unsupported(&error);
        let error = Error::system("claim the network namespace", error);
        if old { unsupported(&error) } else { Err(error) }
    }
}

fn lost(error: &Error) {
    tracing::warn!(
        %error,
        "this kernel has no nf_tables: only routes keep protected packets from leaving in the clear, and nothing \
         drops those that arrive in the clear"
    );
}

/// One line of the fence, seen from this machine.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    local: Side,
    remote: Side,
    /// 0 is any.
    protocol: u8,
    kind: Kind,
}

/// What an entry does to packets in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// They are dropped.
    Closed,
    /// They pass.
    Open,
    /// They pass if they really are from one network of ours to another.
    Ours,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Side {
    first: IpAddr,
    last: IpAddr,
    ports: Option<(u16, u16)>,
}

/// What a pair of selectors is about beside addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// 0 is any.
    pub(crate) protocol: u8,
    /// First and last; `None` is any, or a protocol without ports.
    pub(crate) local_ports: Option<(u16, u16)>,
    pub(crate) remote_ports: Option<(u16, u16)>,
}

impl Flow {
    /// `None` if no packet fits both selectors.
    pub(crate) fn of(local: &TrafficSelector, remote: &TrafficSelector) -> Option<Self> {
        let protocol = match (local.protocol, remote.protocol) {
            (0, protocol) | (protocol, 0) => protocol,
            (one, other) if one == other => one,
            _ => return None,
        };
        let (local_ports, remote_ports) = (ports(protocol, local), ports(protocol, remote));
        Some(Self { protocol, local_ports, remote_ports })
    }
}

/// What the policies say, in the order in which they decide.
fn entries(policies: &[PolicySpec]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = PolicySpec::ordered(policies).iter().filter_map(Entry::of).collect();
    entries.dedup();
    entries
}

impl Entry {
    /// `None` if no packet fits both selectors.
    fn of(entry: &adit_esp::Entry) -> Option<Self> {
        let Flow { protocol, local_ports, remote_ports } = Flow::of(&entry.local, &entry.remote)?;
        let side =
            |selector: &TrafficSelector, ports| Side { first: selector.start, last: selector.end, ports };
        let kind = match (entry.action, entry.implied) {
            (Action::Protect | Action::Discard, _) => Kind::Closed,
            (Action::Bypass, false) => Kind::Open,
            (Action::Bypass, true) => Kind::Ours,
        };
        let (local, remote) = (side(&entry.local, local_ports), side(&entry.remote, remote_ports));
        Some(Self { local, remote, protocol, kind })
    }
}

/// The ports that a selector is about, if it is about some: TCP, UDP, DCCP, SCTP and UDP-Lite have them.
fn ports(protocol: u8, selector: &TrafficSelector) -> Option<(u16, u16)> {
    let some = matches!(protocol, 6 | 17 | 33 | 132 | 136)
        && (selector.start_port, selector.end_port) != (0, u16::MAX)
        && selector.start_port <= selector.end_port;
    some.then_some((selector.start_port, selector.end_port))
}

fn write_rules(
    batch: &mut Batch,
    tun_name: &str,
    mark: u32,
    ports: [u16; 2],
    entries: &[Entry],
    asks_routes: bool,
) {
    for (chain, drop) in [(DROPPED_IN, true), (DROPPED_OUT, true), (INBOUND, false)] {
        batch.create_chain(TABLE, chain);
        if drop {
            batch.append_rule(TABLE, chain, Rule::default().counter(), Verdict::Drop);
        }
    }

    batch.create_base_chain(TABLE, "input", Hook::Input, 0);
    let protocol = |number: u8| Rule::default().meta(Meta::Protocol, Compare::Equal, &[number]);
    batch.append_rule(TABLE, "input", protocol(50), Verdict::Accept);
    for port in ports.map(u16::to_be_bytes) {
        batch.append_rule(
            TABLE,
            "input",
            protocol(17).range(Base::Transport, 2, &port, &port),
            Verdict::Accept,
        );
    }
    batch.append_rule(TABLE, "input", neighbour_discovery(), Verdict::Accept);
    // Routers tell us about our outer packets, path MTUs among it, from addresses that a peer may protect.
    for (v6, number, first, last) in [(false, 1, 3, 3), (false, 1, 11, 12), (true, 58, 1, 4)] {
        let rule = family(v6).meta(Meta::Protocol, Compare::Equal, &[number]);
        batch.append_rule(TABLE, "input", rule.range(Base::Transport, 0, &[first], &[last]), Verdict::Accept);
    }
    batch.append_rule(TABLE, "input", Rule::default(), Verdict::Jump(INBOUND));
    batch.create_base_chain(TABLE, "forward", Hook::Forward, 0);
    batch.append_rule(TABLE, "forward", Rule::default(), Verdict::Jump(INBOUND));
    for name in ["lo", tun_name] {
        batch.append_rule(TABLE, INBOUND, Rule::default().interface(Meta::InputName, name), Verdict::Return);
    }
    for entry in entries {
        entry.write(batch, INBOUND, Direction::In { asks_routes });
    }

    // Before source NAT (100), which could move a packet out of its selectors.
    batch.create_base_chain(TABLE, "outbound", Hook::Postrouting, 0);
    for name in ["lo", tun_name] {
        batch.append_rule(
            TABLE,
            "outbound",
            Rule::default().interface(Meta::OutputName, name),
            Verdict::Accept,
        );
    }
    let marked = Rule::default().meta(Meta::Mark, Compare::Equal, &mark.to_ne_bytes());
    batch.append_rule(TABLE, "outbound", marked, Verdict::Accept);
    batch.append_rule(TABLE, "outbound", neighbour_discovery(), Verdict::Accept);
    for entry in entries {
        entry.write(batch, "outbound", Direction::Out);
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

fn family(v6: bool) -> Rule {
    let number = if v6 { libc::NFPROTO_IPV6 } else { libc::NFPROTO_IPV4 };
    Rule::default().meta(Meta::Family, Compare::Equal, &[number as u8])
}

#[derive(Clone, Copy)]
enum Direction {
    In { asks_routes: bool },
    Out,
}

impl Entry {
    fn write(&self, batch: &mut Batch, chain: &str, direction: Direction) {
        let (source, destination, dropped) = match direction {
            Direction::In { .. } => (&self.remote, &self.local, DROPPED_IN),
            Direction::Out => (&self.local, &self.remote, DROPPED_OUT),
        };
        let verdict = if self.kind == Kind::Closed { Verdict::Goto(dropped) } else { Verdict::Return };
        let addresses = || {
            let rule = family(source.first.is_ipv6());
            let rule = source.test_addresses(rule, if source.first.is_ipv6() { 8 } else { 12 });
            let rule = destination.test_addresses(rule, if source.first.is_ipv6() { 24 } else { 16 });
            if self.protocol == 0 {
                rule
            } else {
                rule.meta(Meta::Protocol, Compare::Equal, &[self.protocol])
            }
        };
        let mut rule = addresses();
        for (side, offset) in [(source, 0), (destination, 2)] {
            if let Some((first, last)) = side.ports {
                rule = rule.range(Base::Transport, offset, &first.to_be_bytes(), &last.to_be_bytes());
            }
        }
        if self.kind == Kind::Ours && matches!(direction, Direction::In { asks_routes: true }) {
            rule = rule.came_by_the_way_back();
        }
        batch.append_rule(TABLE, chain, rule, verdict);
        if self.kind == Kind::Closed && (source.ports.is_some() || destination.ports.is_some()) {
            let later = if source.first.is_ipv6() {
                addresses().later_ipv6_fragment()
            } else {
                addresses().any_bit(Base::Network, 6, &[0x1f, 0xff])
            };
            batch.append_rule(TABLE, chain, later, verdict);
        }
    }
}

impl Side {
    fn test_addresses(&self, rule: Rule, offset: u32) -> Rule {
        let (first, last) = (octets(self.first), octets(self.last));
        let everything = first.iter().all(|octet| *octet == 0) && last.iter().all(|octet| *octet == 0xff);
        if everything { rule } else { rule.range(Base::Network, offset, &first, &last) }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::PolicyId;

    fn net(text: &str) -> TrafficSelector {
        let (address, len) = text.split_once('/').unwrap();
        TrafficSelector::subnet(address.parse().unwrap(), len.parse().unwrap())
    }

    fn policy(local: &[TrafficSelector], remote: &[TrafficSelector]) -> PolicySpec {
        PolicySpec::new(PolicyId(1), "net", local.to_vec(), remote.to_vec())
    }

    /// (first local address, first remote address, is it closed?)
    fn lines(policies: &[PolicySpec]) -> Vec<(String, String, bool)> {
        let line = |entry: &Entry| {
            (entry.local.first.to_string(), entry.remote.first.to_string(), entry.kind == Kind::Closed)
        };
        entries(policies).iter().map(line).collect()
    }

    fn line(local: &str, remote: &str, closed: bool) -> (String, String, bool) {
        (local.into(), remote.into(), closed)
    }

    #[test]
    fn the_most_specific_decides() {
        let all = lines(&[
            policy(&[net("10.1.0.0/16")], &[net("0.0.0.0/0"), net("10.1.9.0/24")]),
            policy(&[net("10.0.0.0/8")], &[net("10.2.0.0/16")]),
        ]);
        assert_eq!(
            all,
            [
                line("10.1.0.0", "10.1.9.0", true),
                line("10.0.0.0", "10.2.0.0", true),
                line("10.1.0.0", "10.1.0.0", false),
                line("10.1.0.0", "0.0.0.0", true),
            ]
        );
    }

    #[test]
    fn only_what_can_be_one_packet_is_fenced() {
        let with = |selector: TrafficSelector, protocol| TrafficSelector { protocol, ..selector };
        let (v4, v6) = (net("10.1.0.0/16"), net("fd00::/16"));
        assert!(lines(&[policy(&[v4], &[v6])]).is_empty(), "two families");
        let remote = net("10.2.0.0/16");
        assert!(lines(&[policy(&[with(v4, 6)], &[with(remote, 17)])]).is_empty(), "two protocols");
        let one = entries(&[policy(&[with(v4, 6)], &[remote])]);
        assert_eq!(one.iter().map(|entry| entry.protocol).collect::<Vec<_>>(), [6]);
        assert_eq!(entries(&[policy(&[v4], &[remote])]).len(), 1);
    }

    #[test]
    fn ports_count_where_there_are_ports() {
        let with = |protocol, start_port, end_port| TrafficSelector {
            protocol,
            start_port,
            end_port,
            ..net("10.2.0.0/16")
        };
        assert_eq!(ports(6, &with(6, 80, 80)), Some((80, 80)));
        assert_eq!(ports(17, &with(0, 0, 1023)), Some((0, 1023)), "the other side names the protocol");
        assert_eq!(ports(6, &with(6, 0, 65_535)), None);
        assert_eq!(ports(6, &with(6, 65_535, 0)), None, "OPAQUE: the ports may be hidden, so none may pass");
        assert_eq!(ports(1, &with(1, 0x0800, 0x0800)), None);
        assert_eq!(ports(0, &with(0, 80, 80)), None);
    }
}
