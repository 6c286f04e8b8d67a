//! What the daemon asks of the network for IKE: datagrams that leave, and the way they would take.
//!
//! It decides nothing.

use std::io;
use std::net::{IpAddr, SocketAddr};

use adit_net::IkeSender;

/// The way out for IKE, apart from the system for tests.
pub(super) trait Wire {
    fn send(&self, local: SocketAddr, remote: SocketAddr, datagram: &[u8]) -> io::Result<()>;
    fn send_keepalive(&self, local: SocketAddr, remote: SocketAddr) -> io::Result<()>;
    fn source_address(&self, remote: IpAddr) -> io::Result<IpAddr>;
    fn path_mtu(&self, remote: IpAddr) -> io::Result<usize>;
}

/// The kernel's sockets and routes.
pub(super) struct SystemWire(pub(super) IkeSender);

impl Wire for SystemWire {
    fn send(&self, local: SocketAddr, remote: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        self.0.send(local, remote, datagram)
    }

    fn send_keepalive(&self, local: SocketAddr, remote: SocketAddr) -> io::Result<()> {
        self.0.send_keepalive(local, remote)
    }

    fn source_address(&self, remote: IpAddr) -> io::Result<IpAddr> {
        self.0.source_address(remote)
    }

    fn path_mtu(&self, remote: IpAddr) -> io::Result<usize> {
        self.0.path_mtu(remote)
    }
}
