//! The way to a peer as the kernel sees it: which source address it would use and what MTU it knows. Nothing is
//! sent; a connected UDP socket asks the routing table, the learnt path MTUs included.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::net::sockopt;
use socket2::{Domain, Socket, Type};

/// Firewall mark of outer packets unless configured otherwise.
pub const DEFAULT_MARK: u32 = 220;

/// The address the kernel would send from to reach `remote` by the way of packets with [`DEFAULT_MARK`], past the
/// tunnel. With another mark configured, see [`crate::IkeSender::source_address`].
///
/// # Errors
/// There is no route.
pub fn source_address(remote: IpAddr) -> io::Result<IpAddr> {
    Path::to(remote, DEFAULT_MARK)?.source()
}

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

/// The smallest MTU of the default ways out; 1500 if there is none. Documentation addresses stand for "anywhere".
pub(crate) fn default_mtu(mark: u32) -> usize {
    let anywhere: [IpAddr; 2] =
        [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
    let mtus =
        anywhere.into_iter().filter_map(|address| Path::to(address, mark).and_then(|path| path.mtu()).ok());
    mtus.min().unwrap_or(1500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_reached_from_loopback() {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(source_address(loopback).unwrap(), loopback);
        assert!(Path::to(loopback, DEFAULT_MARK).unwrap().mtu().unwrap() >= 1500);
    }
}
