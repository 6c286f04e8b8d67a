//! The way to a peer as the kernel sees it: which source address it would use and what MTU it knows. Nothing is
//! sent; a connected UDP socket asks the routing table, the learnt path MTUs included.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::{fs, io};

use adit_wire::ikev2::TrafficSelector;
use rustix::net::sockopt;
use socket2::{Domain, Socket, Type};

use crate::backend::PolicySpec;
use crate::netlink::{InterfaceAddress, Link};

/// Firewall mark of outer packets unless configured otherwise.
pub const DEFAULT_MARK: u32 = 220;

/// The way of packets with a mark to one address.
pub(crate) struct Path {
    socket: Socket,
}

impl Path {
    pub(crate) fn to(remote: IpAddr, mark: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(SocketAddr::new(remote, 0)), Type::DGRAM, None)?;
        match socket.set_mark(mark) {
            // Without the privilege there are no routes of ours to avoid either.
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
        // Any port but 0 will do.
        socket.connect(&SocketAddr::new(remote, 500).into())?;
        Ok(Self { socket })
    }

    pub(crate) fn source(&self) -> io::Result<IpAddr> {
        let address = self.socket.local_addr()?.as_socket();
        address.map(|address| address.ip()).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// In octets, of a whole IP packet.
    pub(crate) fn mtu(&self) -> io::Result<usize> {
        let mtu = match self.socket.domain()? {
            Domain::IPV4 => sockopt::ip_mtu(&self.socket)?,
            _ => sockopt::ipv6_mtu(&self.socket)?,
        };
        usize::try_from(mtu).map_err(|_| io::ErrorKind::InvalidData.into())
    }
}

/// What Linux says of the way to an address of its own: the most that an IPv4 packet has.
const LOOPBACK_MTU: usize = 65_535;

/// The smallest MTU of the default ways out; 1500 if there is none. Documentation addresses stand for "anywhere".
pub(crate) fn default_mtu(mark: u32) -> usize {
    let anywhere: [IpAddr; 2] =
        [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
    let mtus =
        anywhere.into_iter().filter_map(|address| Path::to(address, mark).and_then(|path| path.mtu()).ok());
    // Where one of them is our own, what there is leads nowhere.
    mtus.filter(|mtu| *mtu < LOOPBACK_MTU).min().unwrap_or(1500)
}

/// A line for the operator if a policy protects the gateway itself, and the kernel's strict reverse path check
/// (`rp_filter` 1) then refuses the peer's outer packets, IKE included: the way back to the peer is the tunnel, and
/// that is not where they come from. Asks in the network namespace of the calling thread.
pub(crate) fn strict_check(
    policy: &PolicySpec,
    addresses: &[InterfaceAddress],
    links: &[Link],
    mark: u32,
    setting: impl Fn(&str) -> Option<u8>,
) -> Option<String> {
    let within = |selectors: &[TrafficSelector], address: IpAddr| {
        selectors.iter().any(|selector| (selector.start..=selector.end).contains(&address))
    };
    // IPv6 has no such check.
    let remote = policy.remote_ts.iter().find(|remote| remote.start.is_ipv4())?;
    let peer = if remote.start.is_unspecified() { Ipv4Addr::new(192, 0, 2, 1).into() } else { remote.start };
    let ours = Path::to(peer, mark).and_then(|path| path.source()).ok()?;
    let interface = addresses.iter().find(|candidate| candidate.address == ours)?.interface;
    let name = &links.iter().find(|link| link.index == interface)?.name;
    // The larger of the two counts.
    let strict = setting("all").max(setting(name)) == Some(1);
    (strict && within(&policy.local_ts, ours)).then(|| format!(
        "policy {} protects our own address {ours}: peers whose address it protects too are not heard, because the \
         kernel checks the way back to them strictly; set net.ipv4.conf.{name}.rp_filter=2 (and of `all`, if it is 1)",
        policy.name
    ))
}

/// `rp_filter` of an interface, or of `all`, in the network namespace of the calling thread.
pub(crate) fn rp_filter(interface: &str) -> Option<u8> {
    let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter")).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_reached_from_loopback() {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(Path::to(loopback, DEFAULT_MARK).unwrap().source().unwrap(), loopback);
        assert!(Path::to(loopback, DEFAULT_MARK).unwrap().mtu().unwrap() >= 1500);
    }

    #[test]
    fn a_strict_check_matters_where_the_gateway_itself_is_protected() {
        let mut netlink = crate::netlink::Netlink::open().unwrap();
        let (addresses, links) = (netlink.addresses().unwrap(), netlink.links().unwrap());
        let line = |local: [u8; 4], setting: fn(&str) -> u8| {
            let host = |address: [u8; 4]| vec![TrafficSelector::subnet(address.into(), 32)];
            let policy = PolicySpec::new(crate::PolicyId(1), "net", host(local), host([127, 0, 0, 2]));
            strict_check(&policy, &addresses, &links, DEFAULT_MARK, |name| Some(setting(name)))
        };
        let own = line([127, 0, 0, 1], |name| u8::from(name == "lo")).unwrap();
        assert!(own.contains("net.ipv4.conf.lo.rp_filter=2"), "{own}");
        assert_eq!(line([127, 0, 0, 1], |name| if name == "lo" { 1 } else { 2 }), None, "loose");
        assert_eq!(line([127, 0, 0, 9], |_| 1), None, "not our outer address");
    }
}
