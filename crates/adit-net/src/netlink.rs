//! A small blocking netlink client: links, addresses, routes and rules of the network namespace it was
//! opened in. It owns its socket and nothing else; it never decides what should be there.

mod socket;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{self, RuleAttribute, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::Error;

pub(crate) use self::socket::{Framed, HEADER_LEN, NetlinkSocket};

/// A connection to the kernel's routing netlink.
#[derive(Debug)]
pub struct Netlink {
    socket: NetlinkSocket,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MTU in octets.
    pub mtu: u32,
    /// Is it up?
    pub up: bool,
    /// Is it the loopback interface?
    pub loopback: bool,
    /// What it is for, in its maker's words; empty if nobody has said.
    pub alias: String,
    /// Packets that it was to send and dropped.
    pub dropped: u64,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Index of the interface.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its network prefix in bits.
    pub prefix_len: u8,
    /// May it be the source of packets? Not while its uniqueness is being checked, nor if it failed the check.
    pub usable: bool,
    /// Who gave it (`IFAPROT_*`); 0 if that is not known, as before Linux 5.18.
    pub protocol: u8,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Destination prefix: address with all host bits zero, and length in bits.
    pub destination: (IpAddr, u8),
    /// Routing table.
    pub table: u32,
    /// What happens to packets.
    pub kind: RouteKind,
    /// Output interface of a [`RouteKind::Unicast`] route.
    pub interface: Option<u32>,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Preferred source address of our own packets.
    pub source: Option<IpAddr>,
    /// Metric: of several routes to one prefix the lowest wins.
    pub metric: u32,
    /// Who made the route (`RTPROT_*`).
    pub protocol: u8,
}

/// What a route does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// Sends them.
    Unicast,
    /// Refuses them with an ICMP error.
    Unreachable,
    /// Leaves them to the next rule.
    Throw,
    /// Anything else; never created here.
    Other(u8),
}

/// The next hop of packets, as the link layer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    /// Where they leave.
    pub(crate) interface: u32,
    /// The interface's address, if the link is Ethernet.
    pub(crate) address: Option<[u8; 6]>,
    /// The next hop's address, if the kernel holds it for good. One that may be stale is not.
    pub(crate) neighbour: Option<[u8; 6]>,
}

/// A routing rule. What is `None` is not tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Address family: IPv6 or IPv4.
    pub v6: bool,
    /// Priority; lower comes first.
    pub priority: u32,
    /// What happens to packets that pass all tests.
    pub action: RuleAction,
    /// Firewall mark, and which of its bits.
    pub mark: Option<(u32, u32)>,
    /// Prefix of the source. IPv4 packets whose source is not chosen yet have 0.0.0.0; IPv6 packets pass no such test.
    pub source: Option<(IpAddr, u8)>,
    /// Prefix of the destination.
    pub destination: Option<(IpAddr, u8)>,
    /// IP protocol of the payload.
    pub ip_protocol: Option<u8>,
    /// Source ports, first and last.
    pub source_ports: Option<(u16, u16)>,
    /// Destination ports, first and last.
    pub destination_ports: Option<(u16, u16)>,
    /// Who made the rule (`RTPROT_*`).
    pub protocol: u8,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuleAction {
    /// Looks the destination up in a table; if it is not there, the next rule is tried.
    Lookup(u32),
    /// Goes on at the first rule of a priority, which has to come later.
    Goto(u32),
    /// Nothing: something to go to.
    Nop,
}

/// `RTPROT_STATIC`: routes made by an administrator.
pub const PROTOCOL_STATIC: u8 = 4;

/// The main routing table.
pub const TABLE_MAIN: u32 = 254;

impl Netlink {
    /// Opens a client for the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: NetlinkSocket::open(libc::NETLINK_ROUTE)? })
    }

    /// All interfaces.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let found = self.dump("list interfaces", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(message) => Some(link(&message)),
                _ => None,
            })
            .collect())
    }

    /// The interface of this name.
    pub fn link(&mut self, name: &str) -> Result<Link, Error> {
        self.links()?.into_iter().find(|link| link.name == name).ok_or_else(|| {
            Error::system(format!("find the interface {name}"), io::ErrorKind::NotFound.into())
        })
    }

    /// Packets that the interface of this index was to send and dropped.
    pub(crate) fn dropped(&mut self, index: u32) -> Result<u64, Error> {
        let message = RouteNetlinkMessage::GetLink(link_message(index));
        let found = self.query("look at an interface", message, NLM_F_ACK)?;
        Ok(found
            .iter()
            .map(
                |message| {
                    if let RouteNetlinkMessage::NewLink(message) = message {
                        link(message).dropped
                    } else {
                        0
                    }
                },
            )
            .sum())
    }

    /// Creates a veth pair; the peer is born in the namespace `peer_namespace` if one is given.
    pub fn create_veth(
        &mut self,
        name: &str,
        peer: &str,
        peer_namespace: Option<BorrowedFd<'_>>,
    ) -> Result<(), Error> {
        let mut other = LinkMessage::default();
        other.attributes.push(LinkAttribute::IfName(peer.into()));
        if let Some(namespace) = peer_namespace {
            other.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        }
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
        ]));
        self.create(format!("create the veth pair {name}-{peer}"), RouteNetlinkMessage::NewLink(message))
    }

    /// Removes an interface.
    pub fn delete_link(&mut self, index: u32) -> Result<(), Error> {
        let message = link_message(index);
        self.request(format!("delete interface {index}"), RouteNetlinkMessage::DelLink(message), 0)
    }

    /// Brings an interface up.
    pub fn set_up(&mut self, index: u32) -> Result<(), Error> {
        let mut message = link_message(index);
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request(format!("bring interface {index} up"), RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Sets the MTU of an interface, in octets.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), Error> {
        let mut message = link_message(index);
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.request(
            format!("set the MTU of interface {index} to {mtu}"),
            RouteNetlinkMessage::SetLink(message),
            0,
        )
    }

    /// Says what an interface is for.
    pub(crate) fn set_alias(&mut self, index: u32, alias: &str) -> Result<(), Error> {
        let mut message = link_message(index);
        message.attributes.push(LinkAttribute::IfAlias(alias.into()));
        self.request(format!("describe interface {index}"), RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Sets how many packets an interface queues.
    pub fn set_queue_length(&mut self, index: u32, packets: u32) -> Result<(), Error> {
        let mut message = link_message(index);
        message.attributes.push(LinkAttribute::TxQueueLen(packets));
        self.request(format!("set the queue of interface {index}"), RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Keeps the kernel from giving an interface an IPv6 link-local address of its own accord.
    pub fn set_no_link_local(&mut self, index: u32) -> Result<(), Error> {
        let mut message = link_message(index);
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
            AfSpecInet6::AddrGenMode(In6AddrGenMode::None),
        ])]));
        self.request(
            format!("set interface {index} up without addresses"),
            RouteNetlinkMessage::SetLink(message),
            0,
        )
    }

    /// Moves an interface into another namespace.
    pub fn set_namespace(&mut self, index: u32, namespace: BorrowedFd<'_>) -> Result<(), Error> {
        let mut message = link_message(index);
        message.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        self.request(format!("move interface {index}"), RouteNetlinkMessage::SetLink(message), 0)
    }

    /// All addresses of all interfaces.
    pub fn addresses(&mut self) -> Result<Vec<InterfaceAddress>, Error> {
        let found =
            self.dump("list addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(message) => interface_address(&message),
                _ => None,
            })
            .collect())
    }

    /// Gives an interface an address. IPv6 addresses are usable at once, without a check for duplicates.
    pub fn add_address(&mut self, index: u32, address: IpAddr, prefix_len: u8) -> Result<(), Error> {
        self.add_address_as(index, (address, prefix_len), 0)
    }

    /// The same, by whom (`IFAPROT_*`).
    pub(crate) fn add_address_as(
        &mut self,
        index: u32,
        (address, prefix_len): (IpAddr, u8),
        protocol: u8,
    ) -> Result<(), Error> {
        let mut message = address_message(index, (address, prefix_len));
        if address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        if protocol != 0 {
            message.attributes.push(AddressAttribute::Protocol(protocol.into()));
        }
        self.create(format!("add address {address}/{prefix_len}"), RouteNetlinkMessage::NewAddress(message))
    }

    /// Takes an address from an interface, if it is still there.
    pub(crate) fn delete_address(&mut self, index: u32, address: (IpAddr, u8)) -> Result<(), Error> {
        let message = RouteNetlinkMessage::DelAddress(address_message(index, address));
        match self.request(format!("delete address {}/{}", address.0, address.1), message, 0) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            result => result,
        }
    }

    /// The routes that `wanted` asks for, of all tables and both families.
    pub fn routes(&mut self, wanted: impl Fn(&Route) -> bool) -> Result<Vec<Route>, Error> {
        let found = self.dump("list routes", RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
        let routes = found.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewRoute(message) => route(&message),
            _ => None,
        });
        Ok(routes.filter(wanted).collect())
    }

    /// Adds a route.
    pub fn add_route(&mut self, route: &Route) -> Result<(), Error> {
        self.create(format!("add the route {route}"), RouteNetlinkMessage::NewRoute(route_message(route)))
    }

    /// Puts a route in place of the one with the same destination, table and metric.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), Error> {
        let message = RouteNetlinkMessage::NewRoute(route_message(route));
        self.request(format!("replace the route {route}"), message, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Adds routes, or removes them, many at once. Returns those that failed: to be tried one by one.
    pub(crate) fn many_routes<'a>(
        &mut self,
        add: bool,
        routes: &[&'a Route],
    ) -> Result<Vec<&'a Route>, Error> {
        let mut failed = Vec::new();
        // Every failure is answered, and all answers have to fit the socket's buffer.
        for some in routes.chunks(128) {
            let mut octets = Vec::new();
            let mut sequences = 0..=0;
            for (number, route) in some.iter().enumerate() {
                let message = route_message(route);
                let (message, flags) = if add {
                    (RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
                } else {
                    (RouteNetlinkMessage::DelRoute(message), 0)
                };
                let ack = if number + 1 == some.len() { NLM_F_ACK } else { 0 };
                let (sequence, message) = self.encoded(message, flags | ack);
                let first = if number == 0 { sequence } else { *sequences.start() };
                sequences = first..=sequence;
                octets.extend(message);
            }
            let first = *sequences.start();
            let found = self.socket.send(&octets).and_then(|()| self.socket.failures(sequences));
            let found = found.map_err(|error| Error::system("change routes", error))?;
            failed
                .extend(found.iter().filter_map(|sequence| some.get(sequence.wrapping_sub(first) as usize)));
        }
        Ok(failed)
    }

    /// Removes a route, if it is still there.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), Error> {
        unless_gone(self.request(
            format!("delete the route {route}"),
            RouteNetlinkMessage::DelRoute(route_message(route)),
            0,
        ))
    }

    /// The rules that do what a [`Rule`] can, both families.
    pub fn rules(&mut self) -> Result<Vec<Rule>, Error> {
        let found = self.dump("list routing rules", RouteNetlinkMessage::GetRule(RuleMessage::default()))?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRule(message) => rule(&message),
                _ => None,
            })
            .collect())
    }

    /// Adds a rule behind those of its priority, even if there is one that tests and does the same.
    pub fn add_rule(&mut self, rule: &Rule) -> Result<(), Error> {
        // The kernel takes rules that lead to different places for the same one, and would refuse it (NLM_F_EXCL).
        let message = RouteNetlinkMessage::NewRule(rule_message(rule));
        self.request(format!("add the routing rule {rule}"), message, NLM_F_CREATE)
    }

    /// Removes the first rule that tests and does what this one does. What it does not test counts as the same, so
    /// that rules with more tests have to come later. If there is none, nothing happens.
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<(), Error> {
        unless_gone(self.request(
            format!("delete the routing rule {rule}"),
            RouteNetlinkMessage::DelRule(rule_message(rule)),
            0,
        ))
    }

    /// The next hop of packets with a mark from `source` to `destination`; `None` if they stay on this machine or
    /// cannot be sent.
    pub(crate) fn next_hop(
        &mut self,
        destination: IpAddr,
        source: IpAddr,
        mark: u32,
    ) -> Result<Option<Hop>, Error> {
        let prefix_len = if destination.is_ipv6() { 128 } else { 32 };
        let mut message = RouteMessage::default();
        message.header.address_family = family(destination.is_ipv6());
        message.header.destination_prefix_length = prefix_len;
        message.header.source_prefix_length = prefix_len;
        message.attributes.push(RouteAttribute::Destination(destination.into()));
        message.attributes.push(RouteAttribute::Source(source.into()));
        message.attributes.push(RouteAttribute::Mark(mark));
        let found = self.query("look up a route", RouteNetlinkMessage::GetRoute(message), NLM_F_ACK)?;
        let route = found.iter().find_map(|message| match message {
            RouteNetlinkMessage::NewRoute(message) => route(message),
            _ => None,
        });
        let Some(Route { kind: RouteKind::Unicast, interface: Some(interface), gateway, .. }) = route else {
            return Ok(None);
        };
        let link = RouteNetlinkMessage::GetLink(link_message(interface));
        let address =
            self.query("look up an interface", link, NLM_F_ACK)?.iter().find_map(|message| match message {
                RouteNetlinkMessage::NewLink(message) => ethernet_address(message),
                _ => None,
            });
        let neighbour = self.neighbour(interface, gateway.unwrap_or(destination))?;
        Ok(Some(Hop { interface, address, neighbour }))
    }

    /// The link-layer address of a neighbour, if the kernel has one and holds it for good.
    fn neighbour(&mut self, interface: u32, address: IpAddr) -> Result<Option<[u8; 6]>, Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address.is_ipv6());
        message.header.ifindex = interface;
        message.attributes.push(NeighbourAttribute::Destination(address.into()));
        let message = RouteNetlinkMessage::GetNeighbour(message);
        let found = match self.query("look up a neighbour", message, NLM_F_ACK) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            result => result?,
        };
        Ok(found.iter().find_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(message) => neighbour_address(message),
            _ => None,
        }))
    }

    /// How many queues an interface can receive on; not all of them need be in use.
    pub(crate) fn receive_queues(&mut self, interface: u32) -> Result<u32, Error> {
        let message = RouteNetlinkMessage::GetLink(link_message(interface));
        let found = self.query("look up an interface", message, NLM_F_ACK)?;
        Ok(found
            .iter()
            .find_map(|message| match message {
                RouteNetlinkMessage::NewLink(message) => {
                    message.attributes.iter().find_map(|attribute| match attribute {
                        LinkAttribute::NumRxQueues(queues) => Some(*queues),
                        _ => None,
                    })
                }
                _ => None,
            })
            .unwrap_or(1))
    }

    pub(crate) fn port(&self) -> u32 {
        self.socket.port()
    }

    fn create(&mut self, action: String, message: RouteNetlinkMessage) -> Result<(), Error> {
        self.request(action, message, NLM_F_CREATE | NLM_F_EXCL)
    }

    fn request(&mut self, action: String, message: RouteNetlinkMessage, flags: u16) -> Result<(), Error> {
        let sequence =
            self.send(message, flags | NLM_F_ACK).map_err(|error| Error::system(action.clone(), error))?;
        self.socket.acknowledged(sequence..=sequence).map_err(|error| Error::system(action, error))
    }

    fn dump(
        &mut self,
        action: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        self.query(action, message, NLM_F_DUMP)
    }

    /// What the kernel answers, up to the end of a dump or the acknowledgement.
    fn query(
        &mut self,
        action: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let sequence = self.send(message, flags).map_err(|error| Error::system(action, error))?;
        let mut found = Vec::new();
        self.socket
            .collect(sequence..=sequence, |message| {
                // A message of a newer kernel that the codec cannot read is about something not made here.
                if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message)
                    && let NetlinkPayload::InnerMessage(inner) = message.payload
                {
                    found.push(inner);
                }
            })
            .map_err(|error| Error::system(action, error))?;
        Ok(found)
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<u32> {
        let (sequence, octets) = self.encoded(message, flags);
        self.socket.send(&octets)?;
        Ok(sequence)
    }

    /// A request and its number.
    fn encoded(&mut self, message: RouteNetlinkMessage, flags: u16) -> (u32, Vec<u8>) {
        let sequence = self.socket.next_sequence();
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = sequence;
        message.finalize();
        let mut octets = vec![0; message.buffer_len().next_multiple_of(4)];
        message.serialize(&mut octets);
        (sequence, octets)
    }
}

/// Routes go by themselves, for example with their device: whoever removes one may come too late.
fn unless_gone(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => Ok(()),
        result => result,
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (address, len) = self.destination;
        match self.kind {
            RouteKind::Unicast => {}
            RouteKind::Unreachable => f.write_str("unreachable ")?,
            RouteKind::Throw => f.write_str("throw ")?,
            RouteKind::Other(kind) => write!(f, "type {kind} ")?,
        }
        write!(f, "{address}/{len} table {} metric {}", self.table, self.metric)
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:", self.priority)?;
        if let Some((address, len)) = self.source {
            write!(f, " from {address}/{len}")?;
        }
        if let Some((address, len)) = self.destination {
            write!(f, " to {address}/{len}")?;
        }
        match self.action {
            RuleAction::Lookup(table) => write!(f, " lookup {table}"),
            RuleAction::Goto(priority) => write!(f, " goto {priority}"),
            RuleAction::Nop => f.write_str(" nop"),
        }
    }
}

fn family(v6: bool) -> AddressFamily {
    if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

fn link_message(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        alias: String::new(),
        dropped: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::Stats64(counts) => link.dropped = counts.tx_dropped,
            _ => {}
        }
    }
    link
}

fn ethernet_address(message: &LinkMessage) -> Option<[u8; 6]> {
    if message.header.link_layer_type != LinkLayerType::Ether {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(octets) => octets.as_slice().try_into().ok(),
        _ => None,
    })
}

fn neighbour_address(message: &NeighbourMessage) -> Option<[u8; 6]> {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable};
    if !matches!(message.header.state, Reachable | Delay | Probe | Permanent | Noarp) {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(octets) => octets.as_slice().try_into().ok(),
        _ => None,
    })
}

fn address_message(index: u32, (address, prefix_len): (IpAddr, u8)) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = prefix_len;
    message.header.family = family(address.is_ipv6());
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    message
}

fn interface_address(message: &AddressMessage) -> Option<InterfaceAddress> {
    let (mut address, mut protocol) = (None, 0);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            // On point-to-point links `Address` is the peer's.
            AddressAttribute::Local(local) => address = Some(*local),
            AddressAttribute::Address(other) => address = address.or(Some(*other)),
            AddressAttribute::Flags(more) => flags |= *more,
            AddressAttribute::Protocol(number) => protocol = (*number).into(),
            _ => {}
        }
    }
    Some(InterfaceAddress {
        interface: message.header.index,
        address: address?,
        prefix_len: message.header.prefix_len,
        usable: !flags
            .intersects(AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated),
        protocol,
    })
}

fn route_message(route: &Route) -> RouteMessage {
    let (destination, prefix_len) = route.destination;
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(destination.is_ipv6()),
        destination_prefix_length: prefix_len,
        protocol: RouteProtocol::from(route.protocol),
        kind: match route.kind {
            RouteKind::Unicast => RouteType::Unicast,
            RouteKind::Unreachable => RouteType::Unreachable,
            RouteKind::Throw => RouteType::Throw,
            RouteKind::Other(kind) => RouteType::from(kind),
        },
        scope: if route.kind == RouteKind::Unicast && route.gateway.is_none() && destination.is_ipv4() {
            RouteScope::Link
        } else {
            RouteScope::Universe
        },
        ..RouteHeader::default()
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Destination(RouteAddress::from(destination)));
    attributes.push(RouteAttribute::Table(route.table));
    attributes.push(RouteAttribute::Priority(route.metric));
    attributes.extend(route.interface.map(RouteAttribute::Oif));
    attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
    attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message
}

fn route(message: &RouteMessage) -> Option<Route> {
    let v6 = match message.header.address_family {
        AddressFamily::Inet => false,
        AddressFamily::Inet6 => true,
        _ => return None,
    };
    let any: IpAddr =
        if v6 { std::net::Ipv6Addr::UNSPECIFIED.into() } else { std::net::Ipv4Addr::UNSPECIFIED.into() };
    let mut route = Route {
        destination: (any, message.header.destination_prefix_length),
        table: message.header.table.into(),
        kind: match message.header.kind {
            RouteType::Unicast => RouteKind::Unicast,
            RouteType::Unreachable => RouteKind::Unreachable,
            RouteType::Throw => RouteKind::Throw,
            other => RouteKind::Other(other.into()),
        },
        interface: None,
        gateway: None,
        source: None,
        metric: 0,
        protocol: message.header.protocol.into(),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => route.destination.0 = ip(address)?,
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Gateway(gateway) => route.gateway = ip(gateway),
            RouteAttribute::PrefSource(source) => route.source = ip(source),
            // IPv6 shows the loopback interface for routes that lead nowhere.
            RouteAttribute::Oif(index) if route.kind == RouteKind::Unicast => route.interface = Some(*index),
            _ => {}
        }
    }
    Some(route)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(rule.v6);
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority));
    attributes.push(RuleAttribute::Protocol(RouteProtocol::from(rule.protocol)));
    message.header.action = match rule.action {
        RuleAction::Lookup(table) => {
            attributes.push(RuleAttribute::Table(table));
            rule::RuleAction::ToTable
        }
        RuleAction::Goto(priority) => {
            attributes.push(RuleAttribute::Goto(priority));
            rule::RuleAction::Goto
        }
        RuleAction::Nop => rule::RuleAction::Nop,
    };
    if let Some((mark, mask)) = rule.mark {
        attributes.extend([RuleAttribute::FwMark(mark), RuleAttribute::FwMask(mask)]);
    }
    if let Some((address, len)) = rule.source {
        message.header.src_len = len;
        attributes.push(RuleAttribute::Source(address));
    }
    if let Some((address, len)) = rule.destination {
        message.header.dst_len = len;
        attributes.push(RuleAttribute::Destination(address));
    }
    let range = |(start, end)| RulePortRange { start, end };
    attributes.extend(rule.ip_protocol.map(|number| RuleAttribute::IpProtocol(number.into())));
    attributes.extend(rule.source_ports.map(|ports| RuleAttribute::SourcePortRange(range(ports))));
    attributes.extend(rule.destination_ports.map(|ports| RuleAttribute::DestinationPortRange(range(ports))));
    message
}

fn rule(message: &RuleMessage) -> Option<Rule> {
    let mut rule = Rule {
        v6: message.header.family == AddressFamily::Inet6,
        priority: 0,
        action: match message.header.action {
            rule::RuleAction::ToTable => RuleAction::Lookup(message.header.table.into()),
            rule::RuleAction::Goto => RuleAction::Goto(0),
            rule::RuleAction::Nop => RuleAction::Nop,
            _ => return None,
        },
        mark: None,
        source: None,
        destination: None,
        ip_protocol: None,
        source_ports: None,
        destination_ports: None,
        protocol: 0,
    };
    for attribute in &message.attributes {
        match (attribute, &mut rule.action) {
            (RuleAttribute::Priority(priority), _) => rule.priority = *priority,
            (RuleAttribute::Table(number), RuleAction::Lookup(table)) => *table = *number,
            (RuleAttribute::Goto(target), RuleAction::Goto(priority)) => *priority = *target,
            (RuleAttribute::FwMark(mark), _) => {
                rule.mark = Some((*mark, rule.mark.map_or(u32::MAX, |known| known.1)))
            }
            (RuleAttribute::FwMask(mask), _) => {
                rule.mark = Some((rule.mark.map_or(0, |known| known.0), *mask))
            }
            (RuleAttribute::Source(address), _) => rule.source = Some((*address, message.header.src_len)),
            (RuleAttribute::Destination(address), _) => {
                rule.destination = Some((*address, message.header.dst_len));
            }
            (RuleAttribute::IpProtocol(number), _) => {
                rule.ip_protocol = Some((*number).into());
            }
            (RuleAttribute::SourcePortRange(range), _) => rule.source_ports = Some((range.start, range.end)),
            (RuleAttribute::DestinationPortRange(range), _) => {
                rule.destination_ports = Some((range.start, range.end));
            }
            (RuleAttribute::Protocol(protocol), _) => rule.protocol = (*protocol).into(),
            _ => {}
        }
    }
    Some(rule)
}
