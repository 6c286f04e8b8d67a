//! ESP without UDP past most of the kernel's network stack: AF_XDP, where an interface can do it.
//!
//! This module owns the sockets and programs on the interfaces that lead to peers, the link-layer way to each peer, and
//! the outer headers that it writes itself. It never opens a packet. What it cannot do, it leaves to the raw
//! sockets, packet by packet: peers behind interfaces without AF_XDP, next hops that the kernel does not hold for
//! reachable, packets that would have to be fragmented, and fragments that arrive.
//!
//! It has a price: what goes this way is seen neither by the packet filter nor by traffic shaping, nor by most captures on
//! this machine. So it has to be asked for (`gateway.xdp`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use adit_wire::ip::{Ipv4Header, Ipv6Header, PROTOCOL_ESP, checksum};

use rustix::event::epoll;

use crate::Error;
use crate::backend::ChildId;
use crate::netlink::{Hop, Netlink};
use crate::path::Path;
use crate::sys::xdp::{MAX_FRAME, Redirect, XdpSocket};
use crate::sys::{Datagram, Received};

/// How long the way to a peer is believed, while packets are sent.
const WAY_LIFETIME: Duration = Duration::from_secs(1);

/// Queues of one interface that are served. What arrives on others takes the raw socket.
const MAX_QUEUES: u32 = 64;

const ETHERNET_LEN: usize = 14;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// The hop limit of the outer header, which takes nothing from the inner one (RFC 4301 5.1.2).
const TTL: u8 = 64;

/// All that one worker has to do with AF_XDP.
pub(crate) struct Xdp {
    netlink: Netlink,
    mark: u32,
    /// By index.
    interfaces: HashMap<u32, Interface>,
    /// Where it could not be had.
    refusals: HashMap<u32, Refusal>,
    /// Local and remote address of each SA.
    ends: HashMap<ChildId, (IpAddr, IpAddr)>,
    /// Local addresses, with how many SAs have each.
    addresses: HashMap<IpAddr, usize>,
    /// By local and remote address.
    ways: HashMap<(IpAddr, IpAddr), Way>,
    /// That of the packet before.
    latest: Option<((IpAddr, IpAddr), Way)>,
    /// Of the latest packet without DF.
    identification: u16,
    /// Ready when one of the sockets is.
    ready: OwnedFd,
}

/// What is open on one interface.
struct Interface {
    index: u32,
    sockets: Vec<XdpSocket>,
    redirect: Redirect,
}

/// Of an interface on which AF_XDP could not be had lately, because it was down, or another program had it, say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refusal {
    /// When it is tried again, if it is used then.
    until: Instant,
    pause: Duration,
}

impl Refusal {
    /// The pause after the first, and the longest.
    const SHORTEST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(64);

    fn after(before: Option<Self>, now: Instant) -> Self {
        let pause = before.map_or(Self::SHORTEST, |before| Self::LONGEST.min(before.pause * 2));
        Self { until: now + pause, pause }
    }
}

/// How to reach a peer.
#[derive(Clone, Copy)]
struct Way {
    learnt: Instant,
    /// Interface and link-layer header; `None`: by the raw socket.
    to: Option<(u32, [u8; ETHERNET_LEN])>,
    /// The longest IP packet.
    mtu: usize,
}

impl Xdp {
    /// # Errors
    /// No netlink, no epoll.
    pub(crate) fn new(mark: u32) -> Result<Self, Error> {
        let ready = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| Error::system("make an epoll descriptor", error.into()))?;
        Ok(Self {
            netlink: Netlink::open()?,
            mark,
            interfaces: HashMap::new(),
            refusals: HashMap::new(),
            ends: HashMap::new(),
            addresses: HashMap::new(),
            ways: HashMap::new(),
            latest: None,
            identification: 0,
            ready,
        })
    }

    /// An SA sends from the first address to the second, and receives the other way; `None`: no longer.
    pub(crate) fn serve(&mut self, id: ChildId, ends: Option<(IpAddr, IpAddr)>, now: Instant) {
        let before = match ends {
            Some(ends) => self.ends.insert(id, ends),
            None => self.ends.remove(&id),
        };
        if before == ends {
            return;
        }
        if let Some((local, remote)) = ends {
            self.take(local);
            self.learn(local, remote, now);
        }
        if let Some((local, remote)) = before {
            self.ways.remove(&(local, remote));
            self.latest = None;
            self.leave(local);
        }
    }

    fn take(&mut self, local: IpAddr) {
        let count = self.addresses.entry(local).or_default();
        *count += 1;
        if *count == 1 {
            self.interfaces.values().for_each(|interface| interface.take(local));
        }
    }

    fn leave(&mut self, local: IpAddr) {
        let Entry::Occupied(mut count) = self.addresses.entry(local) else { return };
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
            self.interfaces.values().for_each(|interface| interface.redirect.leave(local));
        }
    }

    /// The sockets, each with its interface.
    pub(crate) fn sockets(&mut self) -> impl Iterator<Item = (u32, &mut XdpSocket)> {
        let open = self.interfaces.values_mut();
        open.flat_map(|interface| interface.sockets.iter_mut().map(|socket| (interface.index, socket)))
    }

    /// Puts an ESP packet in line. `false`: it has to go by the raw socket, and [`flush`](Self::flush) before it, so
    /// that the order is kept.
    pub(crate) fn send(&mut self, packet: &Datagram<'_>, dont_fragment: bool, now: Instant) -> bool {
        let Datagram { source: Some(local), tos, hop_limit, payload: esp, .. } = *packet else {
            return false;
        };
        let remote = packet.destination.ip();
        let Way { to: Some((interface, ethernet)), mtu, .. } = self.way((local, remote), now) else {
            return false;
        };
        let Some(interface) = self.interfaces.get_mut(&interface) else { return false };
        let Some(socket) = interface.sockets.first_mut() else { return false };
        let mut header = [0; Ipv6Header::LEN];
        let fields = (tos.unwrap_or(0), hop_limit.unwrap_or(TTL));
        // RFC 6864 4.3: what may be fragmented has an identification of its own, at least for a while.
        let identification = (!dont_fragment).then(|| {
            self.identification = self.identification.wrapping_add(1);
            self.identification
        });
        let Some(header) = outer_header((local, remote), fields, identification, esp.len(), &mut header)
        else {
            return false;
        };
        let frame = [&ethernet[..], header, esp];
        // A full line is sent on its way first.
        header.len() + esp.len() <= mtu
            && (socket.push(&frame) || (socket.flush().is_ok() && socket.push(&frame)))
    }

    /// Sends what is in line.
    pub(crate) fn flush(&mut self) {
        self.interfaces.retain(|index, interface| {
            let flushed = interface.sockets.first_mut().map_or(Ok(()), XdpSocket::flush);
            // The interface has gone, or gone down: its peers are reached another way, or by it again once it is up.
            flushed
                .inspect_err(|error| tracing::debug!(%error, interface = index, "no more AF_XDP here"))
                .is_ok()
        });
    }

    /// The way between two addresses, looked up again if it was too long ago.
    fn way(&mut self, ends: (IpAddr, IpAddr), now: Instant) -> Way {
        let fresh = |way: &Way| now.duration_since(way.learnt) < WAY_LIFETIME;
        if let Some((_, way)) = self.latest.filter(|(latest, way)| *latest == ends && fresh(way)) {
            return way;
        }
        let known = self.ways.get(&ends).copied().filter(fresh);
        let way = known.unwrap_or_else(|| self.learn(ends.0, ends.1, now));
        self.latest = Some((ends, way));
        way
    }

    fn learn(&mut self, local: IpAddr, remote: IpAddr, now: Instant) -> Way {
        let to = self.hop(local, remote).and_then(|hop| {
            let header = hop.ethernet_header(remote.is_ipv6())?;
            self.open(hop.interface, now).then_some((hop.interface, header))
        });
        let mtu = Path::to(remote, self.mark).and_then(|path| path.mtu()).unwrap_or(0);
        let way = Way { learnt: now, to, mtu };
        self.ways.insert((local, remote), way);
        way
    }

    fn hop(&mut self, local: IpAddr, remote: IpAddr) -> Option<Hop> {
        match self.netlink.next_hop(remote, local, self.mark) {
            Ok(hop) => hop,
            Err(error) => {
                tracing::debug!(%error, %remote, "no next hop");
                None
            }
        }
    }

    /// Makes sure that the interface is served, if it can be.
    fn open(&mut self, index: u32, now: Instant) -> bool {
        if self.interfaces.contains_key(&index) {
            return true;
        }
        let before = self.refusals.get(&index).copied();
        if before.is_some_and(|refusal| now < refusal.until) {
            return false;
        }
        match Interface::open(index, &mut self.netlink, self.ready.as_fd()) {
            Ok(interface) => {
                self.addresses.keys().for_each(|address| interface.take(*address));
                self.interfaces.insert(index, interface);
                self.refusals.remove(&index);
                true
            }
            Err(error) => {
                // Once is enough for whoever reads the log.
                match before {
                    None => {
                        tracing::info!(%error, interface = index, "no AF_XDP here: ESP takes raw sockets")
                    }
                    Some(_) => tracing::debug!(%error, interface = index, "still no AF_XDP here"),
                }
                self.refusals.insert(index, Refusal::after(before, now));
                false
            }
        }
    }
}

impl AsFd for Xdp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl Interface {
    /// The fastest form that the interface can do: without copies, in the driver, after the driver.
    fn open(index: u32, netlink: &mut Netlink, ready: BorrowedFd<'_>) -> io::Result<Self> {
        let queues = netlink.receive_queues(index).map_err(io::Error::other)?.clamp(1, MAX_QUEUES);
        let open = |zero_copy: bool, in_driver: bool| {
            let mut redirect = Redirect::load(queues)?;
            let mut sockets = vec![XdpSocket::open(index, 0, zero_copy)?];
            // Not all queues need be in use: the first that is not ends the list.
            sockets.extend((1..queues).map_while(|queue| XdpSocket::open(index, queue, zero_copy).ok()));
            for (queue, socket) in (0..queues).zip(&sockets) {
                redirect.lead(queue, socket.as_fd())?;
                epoll::add(ready, socket, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
            }
            redirect.attach(index, in_driver)?;
            tracing::info!(interface = index, queues, zero_copy, in_driver, "ESP takes AF_XDP");
            Ok(Self { index, sockets, redirect })
        };
        open(true, true).or_else(|_| open(false, true)).or_else(|_| open(false, false))
    }

    fn take(&self, address: IpAddr) {
        if let Err(error) = self.redirect.take(address) {
            tracing::debug!(%error, %address, "ESP to this address takes the raw socket");
        }
    }
}

impl Hop {
    /// The header of frames to the next hop, if the link is Ethernet and the kernel holds the next hop for reachable. To one
    /// that it does not, packets have to go by the kernel, which then finds out.
    fn ethernet_header(&self, v6: bool) -> Option<[u8; ETHERNET_LEN]> {
        let mut header = [0; ETHERNET_LEN];
        let octets = self.neighbour?.into_iter().chain(self.address?);
        let kind = if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
        for (place, octet) in header.iter_mut().zip(octets.chain(kind)) {
            *place = octet;
        }
        Some(header)
    }
}

/// The IP header in front of an ESP packet, with DF unless it has an identification. What does not fit the path goes another way.
fn outer_header(
    (local, remote): (IpAddr, IpAddr),
    (tos, hop_limit): (u8, u8),
    identification: Option<u16>,
    len: usize,
    place: &mut [u8; Ipv6Header::LEN],
) -> Option<&[u8]> {
    match (local, remote) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            // RFC 6864 4.1: what is never fragmented may have any identification.
            let header = Ipv4Header {
                traffic_class: tos,
                dont_fragment: identification.is_none(),
                identification: identification.unwrap_or(0),
                ..Ipv4Header::new(source, destination, PROTOCOL_ESP, hop_limit, len)
            };
            let (place, _) = place.split_first_chunk_mut::<{ Ipv4Header::LEN }>()?;
            *place = header.encode();
            Some(place)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                traffic_class: tos,
                flow_label: 0,
                payload_len: u16::try_from(len).ok()?,
                next_header: PROTOCOL_ESP,
                hop_limit,
                source,
                destination,
            };
            *place = header.encode();
            Some(place)
        }
        _ => None,
    }
}

/// The ESP packet in a frame, as a raw socket would show it (over IPv4 with its outer header), and what that header says. The
/// program has seen that there is one, but takes no responsibility for lengths.
pub(crate) fn esp(interface: u32, frame: &mut [u8]) -> Option<(Received, &mut [u8])> {
    let packet = frame.get_mut(ETHERNET_LEN..)?;
    let (source, destination, fields, range): (IpAddr, IpAddr, _, _) = match packet.first()? >> 4 {
        4 => {
            let header = Ipv4Header::decode(packet).ok()?;
            // RFC 1122 3.2.1.2: nobody has looked at the checksum yet.
            let whole = !header.more_fragments && header.fragment_offset == 0;
            let octets = packet.get(..header.header_len)?;
            if !whole || header.protocol != PROTOCOL_ESP || checksum(&[octets]) != 0 {
                return None;
            }
            let range = 0..header.total_len;
            (header.source.into(), header.destination.into(), (header.traffic_class, header.ttl), range)
        }
        _ => {
            let header = Ipv6Header::decode(packet).ok()?;
            if header.next_header != PROTOCOL_ESP {
                return None;
            }
            let range = Ipv6Header::LEN..header.total_len();
            (header.source.into(), header.destination.into(), (header.traffic_class, header.hop_limit), range)
        }
    };
    Some((Received::of(source, destination, interface, fields), packet.get_mut(range)?))
}

const _: () = assert!(MAX_FRAME > 1500 + ETHERNET_LEN, "an ordinary packet has to fit");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_tried_again_after_pauses_that_grow() {
        let (mut now, mut refusal, mut pauses) = (Instant::now(), None, Vec::new());
        for _ in 0..9 {
            let next = Refusal::after(refusal, now);
            pauses.push(next.until.duration_since(now).as_secs());
            (now, refusal) = (next.until, Some(next));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
    }
}
