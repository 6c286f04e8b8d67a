//! The sockets of the outer network: IKE and ESP in UDP on the two IKE ports, and ESP as IP protocol 50, each over
//! IPv4 and IPv6, bound to every local address. The kernel says where each packet was sent to, and each packet is
//! sent from a given address.
//!
//! All of them carry the mark that keeps outer packets out of the tunnel. None asks the kernel to take ESP out of
//! UDP (`UDP_ENCAP`): a kernel without ESP would swallow it.
//!
//! Fragments: the sockets send with DF as long as a packet fits the path MTU that the kernel knows, and let the
//! kernel fragment what does not; but without DF what carries a packet that has none (RFC 4301 8.1). For IKE that is what has to happen. For ESP the worker keeps packets within the
//! path MTU by telling their senders, and fragments of outer packets are the last resort for inner packets that
//! may not be refused.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use adit_wire::natt;
use rustix::net::RecvFlags;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Error;
use crate::backend::NetConfig;
use crate::engine::Arrival;
use crate::path::Path;
use crate::steering;
use crate::sys::{self, BATCH, Datagram, Received};

/// Sends IKE messages. Cheap to clone; usable from any thread.
#[derive(Clone, Debug)]
pub struct IkeSender {
    sockets: Arc<Sockets>,
}

impl IkeSender {
    pub(crate) fn new(sockets: Arc<Sockets>) -> Self {
        Self { sockets }
    }

    /// Sends one IKE message from `local`, whose port chooses the socket. From the NAT traversal port the non-ESP
    /// marker (RFC 3948 2.2) is put in front.
    ///
    /// # Errors
    /// The kernel's, among them that `local` is no address of this machine; `InvalidInput` if the port is neither of
    /// the two; `Unsupported` if this machine lacks the address family.
    pub fn send(&self, local: SocketAddr, remote: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        if local.port() == self.sockets.nat_t_port {
            let mut marked = natt::NON_ESP_MARKER.to_vec();
            marked.extend_from_slice(datagram);
            self.sockets.send(Kind::NatT, local, remote, &marked)
        } else if local.port() == self.sockets.ike_port {
            self.sockets.send(Kind::Ike, local, remote, datagram)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("no socket on UDP port {}", local.port()),
            ))
        }
    }

    /// The address the kernel would send from to reach `remote`, past the tunnel, in the network namespace of the
    /// calling thread.
    ///
    /// # Errors
    /// There is no route.
    pub fn source_address(&self, remote: IpAddr) -> io::Result<IpAddr> {
        Path::to(remote, self.sockets.mark)?.source()
    }

    /// How many octets an IP packet to `remote` may have, as far as the kernel knows, in the network namespace of the
    /// calling thread.
    ///
    /// # Errors
    /// There is no route.
    pub fn path_mtu(&self, remote: IpAddr) -> io::Result<usize> {
        Path::to(remote, self.sockets.mark)?.mtu()
    }

    /// Sends one NAT keepalive (RFC 3948 2.3) from the NAT traversal port.
    ///
    /// # Errors
    /// As [`IkeSender::send`].
    pub fn send_keepalive(&self, local: SocketAddr, remote: SocketAddr) -> io::Result<()> {
        self.sockets.send(Kind::NatT, local, remote, &natt::KEEPALIVE)
    }
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// UDP, IKE's port.
    Ike,
    /// UDP, the port of IKE and ESP with NAT traversal.
    NatT,
    /// IP protocol 50.
    Esp,
}

/// One socket.
#[derive(Debug)]
pub(crate) struct Outer {
    pub(crate) kind: Kind,
    pub(crate) v6: bool,
    /// Its UDP port; 0 for IP protocol 50.
    pub(crate) port: u16,
    socket: Socket,
    /// Do datagrams come as trains?
    pub(crate) joined: bool,
    /// How many trains in a row the kernel has refused to cut.
    refused: AtomicU8,
    /// Are packets sent with DF, as far as they fit the path?
    dont_fragment: AtomicBool,
}

/// A kernel that refuses so many trains in a row does not know them, or its device cannot make checksums.
const REFUSALS: u8 = 16;

/// The sockets of one worker.
#[derive(Debug)]
pub(crate) struct Sockets {
    all: Vec<Outer>,
    ike_port: u16,
    nat_t_port: u16,
    mark: u32,
}

impl Sockets {
    /// Those of the worker `index`. The first has the ports of IKE; ESP reaches each worker that it is for.
    pub(crate) fn open(config: &NetConfig, index: usize) -> Result<Self, Error> {
        let NetConfig { ike_port, nat_t_port, mark, .. } = *config;
        let mut sockets = Self { all: Vec::new(), ike_port, nat_t_port, mark };
        for v6 in [false, true] {
            for (kind, port) in
                [(Kind::Ike, config.ike_port), (Kind::NatT, config.nat_t_port), (Kind::Esp, 0)]
            {
                if kind == Kind::Esp && !config.raw_esp || kind == Kind::Ike && index > 0 {
                    continue;
                }
                match Outer::open(kind, v6, port, config, index) {
                    Ok(outer) => sockets.all.push(outer),
                    Err(error) if v6 && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                        tracing::info!("this kernel has no IPv6: gateways can be reached over IPv4 only");
                        return Ok(sockets);
                    }
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        return Err(Error::InUse(format!(
                            "UDP port {port} belongs to another process; is another IKE daemon running here?"
                        )));
                    }
                    Err(error) => {
                        let family = if v6 { "IPv6" } else { "IPv4" };
                        let what = if kind == Kind::Esp {
                            "IP protocol 50".into()
                        } else {
                            format!("UDP port {port}")
                        };
                        return Err(Error::system(format!("open a socket for {what} over {family}"), error));
                    }
                }
            }
        }
        Ok(sockets)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Outer> {
        self.all.iter()
    }

    /// Packets that came when a buffer was full.
    pub(crate) fn unreceived(&self) -> u64 {
        self.all.iter().map(|outer| u64::from(sys::dropped(outer.as_fd()).unwrap_or(0))).sum()
    }

    pub(crate) fn nat_t_port(&self) -> u16 {
        self.nat_t_port
    }

    pub(crate) fn find(&self, kind: Kind, v6: bool) -> Option<&Outer> {
        self.all.iter().find(|outer| outer.kind == kind && outer.v6 == v6)
    }

    fn send(&self, kind: Kind, local: SocketAddr, remote: SocketAddr, payload: &[u8]) -> io::Result<()> {
        let outer = self.find(kind, remote.is_ipv6()).ok_or(io::ErrorKind::Unsupported)?;
        let source = Some(local.ip()).filter(|address| !address.is_unspecified());
        let datagram =
            Datagram { destination: remote, source, tos: None, hop_limit: None, payload, segment: None };
        sys::send_batch::<1>(outer.as_fd(), std::iter::once(datagram))?;
        Ok(())
    }
}

impl Outer {
    fn open(kind: Kind, v6: bool, port: u16, config: &NetConfig, index: usize) -> io::Result<Self> {
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = match kind {
            Kind::Ike | Kind::NatT => Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?,
            Kind::Esp => Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_ESP)))?,
        };
        socket.set_nonblocking(true)?;
        socket.set_mark(config.mark)?;
        let fd = socket.as_fd();
        if v6 {
            if kind != Kind::Esp {
                // Raw sockets cannot be asked, and are so anyway.
                socket.set_only_v6(true)?;
            }
            if kind == Kind::Esp {
                // Linux believes a packet-too-big about a raw IPv6 socket's packets only if the socket asks for errors.
                sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
            }
            sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
            sockopt::set_ipv6_recvtclass(fd, true)?;
            sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1)?;
            sockopt::set_ipv6_mtu_discover(fd, Ipv6PathMtuDiscovery::WANT)?;
        } else {
            sys::set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
            sockopt::set_ip_recvtos(fd, true)?;
            sys::set_option(fd, libc::IPPROTO_IP, libc::IP_RECVTTL, 1)?;
            sockopt::set_ip_mtu_discover(fd, Ipv4PathMtuDiscovery::WANT)?;
        }
        // Bursts of full-sized packets have to find room while the worker is busy.
        for set in [sockopt::set_socket_recv_buffer_size_force, sockopt::set_socket_send_buffer_size_force] {
            if let Err(error) = set(fd, 8 << 20) {
                tracing::debug!(%error, "socket buffers keep their default size");
            }
        }
        let workers = config.workers;
        if workers > 1 {
            match kind {
                Kind::NatT => socket.set_reuse_port(true)?,
                Kind::Esp => steering::keep_own(&socket, v6, index, workers)?,
                Kind::Ike => {}
            }
        }
        if kind != Kind::Esp {
            let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            socket.bind(&SocketAddr::new(any, port).into())?;
        }
        if workers > 1 && kind == Kind::NatT {
            steering::spread(&socket, workers)?;
        }
        let trains = kind == Kind::NatT && config.offload;
        let joined = trains
            && sys::set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1)
                .inspect_err(|error| tracing::debug!(%error, "datagrams are received one by one"))
                .is_ok();
        let refused = AtomicU8::new(if trains { 0 } else { REFUSALS });
        Ok(Self { kind, v6, port, socket, joined, refused, dont_fragment: AtomicBool::new(true) })
    }

    /// Where a packet arrived.
    pub(crate) fn local(&self, about: &Received) -> Option<SocketAddr> {
        Some(match about.destination? {
            // A link-local address means nothing without its interface.
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                SocketAddrV6::new(v6, self.port, 0, about.interface).into()
            }
            other => SocketAddr::new(other, self.port),
        })
    }

    /// What is known of a packet that arrived.
    pub(crate) fn arrival(&self, about: &Received) -> Arrival {
        Arrival {
            kind: self.kind,
            v6: self.v6,
            local: self.local(about),
            remote: about.source,
            tos: about.tos,
            hop_limit: about.hop_limit,
        }
    }

    /// Is it told of errors that routers send?
    pub(crate) fn hears_errors(&self) -> bool {
        self.kind == Kind::Esp && self.v6
    }

    /// Lets go of the errors that routers have sent. The kernel has learnt from them what there was to learn; only as long as
    /// some wait does the socket count as ready.
    pub(crate) fn forget_errors(&self) {
        if !self.hears_errors() {
            return;
        }
        let flags = RecvFlags::ERRQUEUE | RecvFlags::DONTWAIT;
        for _ in 0..BATCH {
            if rustix::net::recv(&self.socket, &mut [0_u8; 0][..], flags).is_err() {
                break;
            }
        }
    }

    /// Sends what follows with or without DF. IKE takes it either way: it has to arrive, whole or not.
    pub(crate) fn set_dont_fragment(&self, set: bool) {
        // The worker alone writes it.
        if self.v6 || self.dont_fragment.load(Ordering::Relaxed) == set {
            return;
        }
        let discovery = if set { Ipv4PathMtuDiscovery::WANT } else { Ipv4PathMtuDiscovery::DONT };
        match sockopt::set_ip_mtu_discover(self, discovery) {
            Ok(()) => self.dont_fragment.store(set, Ordering::Relaxed),
            Err(error) => tracing::debug!(%error, "DF stays as it is"),
        }
    }

    /// Sends packets; returns how many the kernel took. An error is about the first.
    pub(crate) fn send<'a>(&self, packets: impl Iterator<Item = Datagram<'a>>) -> io::Result<usize> {
        // Trains are few, and each is long.
        if self.takes_trains() {
            sys::send_batch::<8>(self.as_fd(), packets)
        } else {
            sys::send_batch::<BATCH>(self.as_fd(), packets)
        }
    }

    /// Does the kernel cut trains for this socket?
    pub(crate) fn takes_trains(&self) -> bool {
        self.refused.load(Ordering::Relaxed) < REFUSALS
    }

    /// The kernel took a train.
    pub(crate) fn took_train(&self) {
        self.refused.store(0, Ordering::Relaxed);
    }

    /// The kernel refused a train; for good if it is not about this one.
    pub(crate) fn refused_train(&self, for_good: bool) {
        // The worker alone writes it.
        let refused = self.refused.load(Ordering::Relaxed).saturating_add(1);
        self.refused.store(if for_good { REFUSALS } else { refused }, Ordering::Relaxed);
    }
}

impl AsFd for Outer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
