//! The system calls for which neither the standard library, rustix nor socket2 has a safe wrapper, each
//! behind a safe function. Every `unsafe` block of the workspace is in this module. Addresses and control
//! messages are read and written as plain octets, so that only the calls themselves need trust.

pub(crate) mod xdp;

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use libc::{c_int, c_void};

/// Messages per system call, at most.
pub(crate) const BATCH: usize = 64;

/// Room for one socket address of any family used here.
const NAME_LEN: usize = size_of::<libc::sockaddr_storage>();

/// Room for the control messages of one packet: addresses (40 octets), TOS (24), TTL (24) and segment size (24), or a time
/// stamp (32).
const CONTROL_LEN: usize = 128;

const CMSG_HEADER_LEN: usize = size_of::<libc::cmsghdr>();

/// Packets received by one system call, with what the kernel says about each.
pub(crate) struct RecvBatch {
    buffers: Vec<u8>,
    slot_len: usize,
    names: Vec<Name>,
    controls: Vec<Control>,
    received: Vec<Received>,
}

/// What the kernel says about one received packet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Received {
    len: usize,
    /// The packet was longer than the slot.
    pub(crate) truncated: bool,
    /// Who sent it; `None` for packet sockets.
    pub(crate) source: Option<SocketAddr>,
    /// The local address it was sent to, if the socket asks for it.
    pub(crate) destination: Option<IpAddr>,
    /// The interface it arrived on, 0 if unknown.
    pub(crate) interface: u32,
    /// TOS or traffic class octet of the outer header.
    pub(crate) tos: u8,
    /// TTL or hop limit of the outer header, if the socket asks for it.
    pub(crate) hop_limit: Option<u8>,
    /// 0, or these are several datagrams one after another, each of so many octets; the last may be shorter.
    pub(crate) segment: usize,
    /// Packet sockets: did this machine send it?
    pub(crate) outgoing: bool,
    /// Arrival since the Unix epoch, if the socket asks for it.
    pub(crate) timestamp: Option<Duration>,
}

/// One packet to send.
#[derive(Clone, Copy)]
pub(crate) struct Datagram<'a> {
    pub(crate) destination: SocketAddr,
    /// Local address to send from; `None` lets the kernel choose.
    pub(crate) source: Option<IpAddr>,
    /// TOS or traffic class octet; `None` for the socket's own.
    pub(crate) tos: Option<u8>,
    /// TTL or hop limit; `None` for the socket's own.
    pub(crate) hop_limit: Option<u8>,
    pub(crate) payload: &'a [u8],
    /// The kernel is to make datagrams of so many octets of it; the last may be shorter.
    pub(crate) segment: Option<u16>,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Name([u8; NAME_LEN]);

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_LEN]);

impl RecvBatch {
    /// A batch of [`BATCH`] slots of `slot_len` octets. Memory is touched only as packets need it.
    pub(crate) fn new(slot_len: usize) -> Self {
        Self {
            buffers: vec![0; slot_len * BATCH],
            slot_len,
            names: vec![Name([0; NAME_LEN]); BATCH],
            controls: vec![Control([0; CONTROL_LEN]); BATCH],
            received: Vec::with_capacity(BATCH),
        }
    }

    /// Receives what is there, at most `limit` messages and [`BATCH`]; blocks only if the socket does and nothing is there.
    pub(crate) fn receive(&mut self, fd: BorrowedFd<'_>, limit: usize) -> io::Result<usize> {
        self.received.clear();
        // SAFETY: all-zero is a valid value of these plain C structures.
        let mut parts: [libc::iovec; BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        let slots = self.buffers.chunks_exact_mut(self.slot_len);
        for ((((header, part), slot), name), control) in headers
            .iter_mut()
            .zip(&mut parts)
            .zip(slots)
            .zip(&mut self.names)
            .zip(&mut self.controls)
            .take(limit)
        {
            part.iov_base = slot.as_mut_ptr().cast::<c_void>();
            part.iov_len = slot.len();
            let message = &mut header.msg_hdr;
            message.msg_name = name.0.as_mut_ptr().cast::<c_void>();
            message.msg_namelen = NAME_LEN as libc::socklen_t;
            message.msg_iov = part;
            message.msg_iovlen = 1;
            message.msg_control = control.0.as_mut_ptr().cast::<c_void>();
            message.msg_controllen = CONTROL_LEN as _;
        }
        // SAFETY: every header points to buffers of the lengths given, which live in `self` or in this frame
        // for the whole call, and which nothing else refers to meanwhile. The kernel keeps no pointer.
        let count = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                headers.as_mut_ptr(),
                limit.min(BATCH) as libc::c_uint,
                libc::MSG_WAITFORONE as _,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for ((header, name), control) in headers.iter().zip(&self.names).zip(&self.controls).take(count) {
            let message = &header.msg_hdr;
            let mut received = Received {
                len: (header.msg_len as usize).min(self.slot_len),
                truncated: message.msg_flags & libc::MSG_TRUNC != 0,
                ..Received::default()
            };
            received.read_name(name.0.get(..message.msg_namelen as usize).unwrap_or_default());
            #[expect(clippy::unnecessary_cast, reason = "not everywhere is it a usize")]
            let control_len = message.msg_controllen as usize;
            received.read_control(control.0.get(..control_len).unwrap_or_default());
            self.received.push(received);
        }
        Ok(count)
    }

    /// Forgets what was received.
    pub(crate) fn clear(&mut self) {
        self.received.clear();
    }

    /// Adds a packet that was received elsewhere, if there is room for it.
    pub(crate) fn take(&mut self, about: Received, packet: &[u8]) {
        let slot = self.buffers.chunks_exact_mut(self.slot_len).nth(self.received.len());
        if let Some(place) = slot.and_then(|slot| slot.get_mut(..packet.len())) {
            place.copy_from_slice(packet);
            self.received.push(Received { len: packet.len(), ..about });
        }
    }

    /// What the last [`Self::receive`] brought: the buffer, and each packet's place in it.
    pub(crate) fn messages(&mut self) -> (&mut [u8], impl Iterator<Item = (Received, Range<usize>)> + Clone) {
        let starts = (0..).step_by(self.slot_len);
        let places =
            self.received.iter().zip(starts).map(|(about, start)| (*about, start..start + about.len));
        (&mut self.buffers, places)
    }

    /// Where packets are received.
    pub(crate) fn buffer(&self) -> &[u8] {
        &self.buffers
    }
}

impl Received {
    /// What is known of a packet that did not come by a socket with control messages.
    pub(crate) fn of(
        source: IpAddr,
        destination: IpAddr,
        interface: u32,
        (tos, hop_limit): (u8, u8),
    ) -> Self {
        let source = Some(SocketAddr::new(source, 0));
        let hop_limit = Some(hop_limit);
        Self { source, destination: Some(destination), interface, tos, hop_limit, ..Self::default() }
    }

    fn read_name(&mut self, name: &[u8]) {
        match name {
            [f0, f1, p0, p1, a, b, c, d, ..] if is_family([*f0, *f1], libc::AF_INET) => {
                let port = u16::from_be_bytes([*p0, *p1]);
                self.source = Some(SocketAddrV4::new(Ipv4Addr::new(*a, *b, *c, *d), port).into());
            }
            [f0, f1, p0, p1, _, _, _, _, rest @ ..] if is_family([*f0, *f1], libc::AF_INET6) => {
                let Some((address, rest)) = rest.split_first_chunk::<16>() else { return };
                let Some(scope) = rest.first_chunk::<4>() else { return };
                let port = u16::from_be_bytes([*p0, *p1]);
                let scope = u32::from_ne_bytes(*scope);
                self.source = Some(SocketAddrV6::new(Ipv6Addr::from(*address), port, 0, scope).into());
            }
            // sockaddr_ll: family, protocol, interface, hardware type, packet type
            [f0, f1, _, _, i0, i1, i2, i3, _, _, kind, ..] if is_family([*f0, *f1], libc::AF_PACKET) => {
                self.interface = u32::from_ne_bytes([*i0, *i1, *i2, *i3]);
                self.outgoing = *kind == libc::PACKET_OUTGOING;
            }
            _ => {}
        }
    }

    fn read_control(&mut self, mut control: &[u8]) {
        while let Some((level, kind, data, rest)) = next_control(control) {
            match (level, kind) {
                // in_pktinfo: interface, local address used for routing, destination address of the header
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    if let [i0, i1, i2, i3, _, _, _, _, a, b, c, d, ..] = *data {
                        self.interface = u32::from_ne_bytes([i0, i1, i2, i3]);
                        self.destination = Some(Ipv4Addr::new(a, b, c, d).into());
                    }
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    if let Some((address, rest)) = data.split_first_chunk::<16>() {
                        self.destination = Some(Ipv6Addr::from(*address).into());
                        self.interface = rest.first_chunk().map_or(0, |i| u32::from_ne_bytes(*i));
                    }
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => self.tos = data.first().copied().unwrap_or_default(),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    self.tos = data.first_chunk().map_or(0, |t| u32::from_ne_bytes(*t) as u8);
                }
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    self.hop_limit = data.first_chunk().map(|limit| u32::from_ne_bytes(*limit) as u8);
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let segment = data.first_chunk().map_or(0, |segment| c_int::from_ne_bytes(*segment));
                    self.segment = usize::try_from(segment).unwrap_or(0);
                }
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    if let Some((seconds, rest)) = data.split_first_chunk::<8>()
                        && let Some(nanoseconds) = rest.first_chunk::<8>()
                    {
                        let seconds = u64::from_ne_bytes(*seconds);
                        self.timestamp =
                            Some(Duration::new(seconds, u64::from_ne_bytes(*nanoseconds) as u32));
                    }
                }
                _ => {}
            }
            control = rest;
        }
    }
}

/// Sends up to `N` packets with one system call; returns how many the kernel took. An error is about
/// the first packet: the call stops before a packet that cannot be sent.
pub(crate) fn send_batch<'a, const N: usize>(
    fd: BorrowedFd<'_>,
    packets: impl Iterator<Item = Datagram<'a>>,
) -> io::Result<usize> {
    let mut names = [Name([0; NAME_LEN]); N];
    let mut controls = [Control([0; CONTROL_LEN]); N];
    // SAFETY: all-zero is a valid value of these plain C structures.
    let mut parts: [libc::iovec; N] = unsafe { zeroed() };
    // SAFETY: as above.
    let mut headers: [libc::mmsghdr; N] = unsafe { zeroed() };
    let mut count = 0;
    for ((((header, part), name), control), packet) in
        headers.iter_mut().zip(&mut parts).zip(&mut names).zip(&mut controls).zip(packets)
    {
        part.iov_base = packet.payload.as_ptr().cast_mut().cast::<c_void>();
        part.iov_len = packet.payload.len();
        let message = &mut header.msg_hdr;
        message.msg_namelen = name.write(packet.destination) as libc::socklen_t;
        message.msg_name = name.0.as_mut_ptr().cast::<c_void>();
        message.msg_iov = part;
        message.msg_iovlen = 1;
        let control_len = control.write(&packet);
        if control_len > 0 {
            message.msg_control = control.0.as_mut_ptr().cast::<c_void>();
            message.msg_controllen = control_len as _;
        }
        count += 1;
    }
    // SAFETY: the first `count` headers point to names, control messages and payloads of the lengths given,
    // which outlive the call. The kernel only reads through `iov_base` when sending.
    let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), count, 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

impl Name {
    /// Writes a socket address and returns its length.
    fn write(&mut self, address: SocketAddr) -> usize {
        let (family, rest) = self.0.split_at_mut(2);
        let mut rest = rest.iter_mut();
        let mut put = |octets: &[u8]| {
            for octet in octets {
                if let Some(place) = rest.next() {
                    *place = *octet;
                }
            }
        };
        match address {
            SocketAddr::V4(v4) => {
                family.copy_from_slice(&(libc::AF_INET as libc::sa_family_t).to_ne_bytes());
                put(&v4.port().to_be_bytes());
                put(&v4.ip().octets());
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                family.copy_from_slice(&(libc::AF_INET6 as libc::sa_family_t).to_ne_bytes());
                put(&v6.port().to_be_bytes());
                put(&[0; 4]);
                put(&v6.ip().octets());
                put(&v6.scope_id().to_ne_bytes());
                size_of::<libc::sockaddr_in6>()
            }
        }
    }
}

impl Control {
    /// Writes the control messages a packet asks for and returns their length.
    fn write(&mut self, packet: &Datagram<'_>) -> usize {
        let mut len = 0;
        match packet.source {
            Some(IpAddr::V4(source)) => {
                // interface 0, source address, unused
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&source.octets());
                len += self.append(len, libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some(IpAddr::V6(source)) => {
                // A link-local source is meaningful on one interface only: the destination's.
                let scope = match packet.destination {
                    SocketAddr::V6(v6) => v6.scope_id(),
                    SocketAddr::V4(_) => 0,
                };
                let mut info = [0; 20];
                info[..16].copy_from_slice(&source.octets());
                info[16..].copy_from_slice(&scope.to_ne_bytes());
                len += self.append(len, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        if let Some(tos) = packet.tos {
            let (level, kind) = match packet.destination {
                SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
                SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
            };
            len += self.append(len, level, kind, &c_int::from(tos).to_ne_bytes());
        }
        if let Some(limit) = packet.hop_limit {
            let (level, kind) = match packet.destination {
                SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TTL),
                SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT),
            };
            len += self.append(len, level, kind, &c_int::from(limit).to_ne_bytes());
        }
        if let Some(segment) = packet.segment {
            len += self.append(len, libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        len
    }

    fn append(&mut self, at: usize, level: c_int, kind: c_int, data: &[u8]) -> usize {
        let len = CMSG_HEADER_LEN + data.len();
        let header = len
            .to_ne_bytes()
            .into_iter()
            .chain(level.to_ne_bytes())
            .chain(kind.to_ne_bytes())
            .chain(data.iter().copied());
        for (place, octet) in self.0.iter_mut().skip(at).zip(header) {
            *place = octet;
        }
        control_align(len)
    }
}

/// Splits the first control message off: level, type, data, what follows.
fn next_control(control: &[u8]) -> Option<(c_int, c_int, &[u8], &[u8])> {
    let (len, rest) = control.split_first_chunk::<{ size_of::<usize>() }>()?;
    let (level, rest) = rest.split_first_chunk::<4>()?;
    let (kind, rest) = rest.split_first_chunk::<4>()?;
    let len = usize::from_ne_bytes(*len);
    let data = rest.get(..len.checked_sub(CMSG_HEADER_LEN)?)?;
    let next = control.get(control_align(len)..).unwrap_or_default();
    Some((c_int::from_ne_bytes(*level), c_int::from_ne_bytes(*kind), data, next))
}

fn control_align(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

fn is_family(field: [u8; 2], family: c_int) -> bool {
    c_int::from(libc::sa_family_t::from_ne_bytes(field)) == family
}

/// The sum of the 16-bit words of `octets` as they are stored, up to multiples of 65,535; what is missing in the last is 0. The
/// order of octets within words does not matter to it (RFC 1071 2 B). Long ones take the widest registers that there are.
pub(crate) fn sum(octets: &[u8]) -> u64 {
    let (blocks, rest) = octets.as_chunks::<64>();
    (if blocks.len() > 1 { sum_of_blocks(blocks) } else { words(blocks.as_flattened()) }) + words(rest)
}

fn sum_of_blocks(blocks: &[[u8; 64]]) -> u64 {
    #[inline(always)]
    fn lanes(blocks: &[[u8; 64]]) -> u64 {
        let mut lanes = [0_u64; 16];
        for block in blocks {
            for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        lanes.iter().sum()
    }
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn wide(blocks: &[[u8; 64]]) -> u64 {
            lanes(blocks)
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has what the function asks for.
            return unsafe { wide(blocks) };
        }
    }
    lanes(blocks)
}

fn words(octets: &[u8]) -> u64 {
    let (words, rest) = octets.as_chunks::<4>();
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    last.iter_mut().zip(rest).for_each(|(place, octet)| *place = *octet);
    sum + u64::from(u32::from_ne_bytes(last))
}

/// Sets a socket option whose value is an `int`.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast::<c_void>(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Packets that the kernel dropped instead of putting them into the socket's buffer, modulo 2^32.
pub(crate) fn dropped(fd: BorrowedFd<'_>) -> io::Result<u32> {
    /// `SK_MEMINFO_DROPS`, the last of what the kernel tells.
    const DROPS: usize = 8;
    let mut told = [0_u32; DROPS + 1];
    let mut len = size_of_val(&told) as libc::socklen_t;
    // SAFETY: the pointer and the length describe `told`, all of whose bit patterns are valid; the kernel writes no more than `len`.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            told.as_mut_ptr().cast::<c_void>(),
            &raw mut len,
        )
    };
    if result == 0 { Ok(told[DROPS]) } else { Err(io::Error::last_os_error()) }
}

/// Attaches a classic BPF program that chooses, for each datagram, one of the sockets bound to a port together
/// (`SO_REUSEPORT`), by their order of binding.
pub(crate) fn choose_socket_by(fd: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the pointer and the length describe `program`, whose own describe the instructions; both outlive the
    // call, which copies and checks them.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast::<c_void>(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Binds a packet socket to one interface (0: all of them) and all protocols.
pub(crate) fn bind_packet(fd: BorrowedFd<'_>, interface: u32) -> io::Result<()> {
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as _;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = interface as _;
    // SAFETY: the pointer and the length describe `address`, which outlives the call; the kernel only reads it.
    let result = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast::<libc::sockaddr>(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Attaches an open `/dev/net/tun` to the TUN device `name`, creating it if there is none.
pub(crate) fn attach_tun(fd: BorrowedFd<'_>, name: &str, flags: c_int) -> io::Result<()> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.bytes().any(|octet| octet == 0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface name has 1 to 15 characters"));
    }
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (place, octet) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = octet as _;
    }
    request.ifr_ifru.ifru_flags = flags as _;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets a TUN device outlive whoever has it open.
pub(crate) fn keep_tun(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETPERSIST as _, 1 as libc::c_ulong) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `TUNSETOFFLOAD`, which libc does not have: `_IOW('T', 208, unsigned int)`.
const TUNSETOFFLOAD: u32 = 1 << 30 | (size_of::<libc::c_uint>() as u32) << 16 | (b'T' as u32) << 8 | 208;

/// Says what packets the owner of a TUN device can do with: `TUN_F_CSUM` and its like.
pub(crate) fn set_tun_offload(fd: BorrowedFd<'_>, features: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD as _, libc::c_ulong::from(features)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Moves the calling thread into a new network namespace.
pub(crate) fn new_network_namespace() -> io::Result<()> {
    // SAFETY: the hazard of this call is `FILES`, which gives the thread a descriptor table of its own;
    // `NEWNET` leaves the table shared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.map_err(io::Error::from)
}

/// Asks the processor to fetch memory that is soon to be read, wherever that is. It changes nothing.
pub(crate) fn fetch(start: *const u8, octets: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..octets).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every processor of this kind has the instruction, and for no address does it read or fail.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, octets);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn what_finds_no_room_in_a_socket_is_counted() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&receiver, 4096).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            sender.send_to(&[7; 500], receiver.local_addr().unwrap()).unwrap();
        }
        let lost = dropped(receiver.as_fd()).unwrap();
        receiver.set_nonblocking(true).unwrap();
        let there = (0..100).take_while(|_| receiver.recv(&mut [0; 500]).is_ok()).count();
        assert!(lost > 0 && there > 0);
        assert_eq!(lost as usize + there, 100);
    }

    #[test]
    fn batch_over_loopback_carries_addresses_tos_and_hop_limit() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(receiver) = UdpSocket::bind(any) else { continue };
            let to = receiver.local_addr().unwrap();
            let (level, info, tos, limit) = if to.is_ipv4() {
                (libc::IPPROTO_IP, libc::IP_PKTINFO, libc::IP_RECVTOS, libc::IP_RECVTTL)
            } else {
                (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, libc::IPV6_RECVTCLASS, libc::IPV6_RECVHOPLIMIT)
            };
            set_option(receiver.as_fd(), level, limit, 1).unwrap();
            set_option(receiver.as_fd(), level, info, 1).unwrap();
            set_option(receiver.as_fd(), level, tos, 1).unwrap();
            set_option(receiver.as_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1).unwrap();
            let sender = UdpSocket::bind(any).unwrap();
            let from = sender.local_addr().unwrap();
            let payloads: Vec<Vec<u8>> = (0..5u8).map(|i| vec![i; 10 + usize::from(i)]).collect();
            let packets: Vec<Datagram<'_>> = payloads
                .iter()
                .map(|payload| Datagram {
                    destination: to,
                    source: Some(from.ip()),
                    tos: Some(0x2e << 2 | 1),
                    hop_limit: Some(77),
                    payload,
                    segment: None,
                })
                .collect();
            assert_eq!(send_batch::<8>(sender.as_fd(), packets.into_iter()).unwrap(), 5);
            let mut batch = RecvBatch::new(12);
            let mut seen = 0;
            while seen < 5 {
                batch.receive(receiver.as_fd(), 2).unwrap();
                let (buffer, messages) = batch.messages();
                for (received, place) in messages {
                    let payload = &buffer[place];
                    assert_eq!(received.source, Some(from));
                    assert_eq!(received.destination, Some(to.ip()));
                    assert_eq!((received.tos, received.hop_limit), (0xb9, Some(77)));
                    assert!(received.timestamp.is_some());
                    assert_eq!(received.truncated, seen > 2);
                    assert_eq!(payload, &payloads[seen][..payloads[seen].len().min(12)]);
                    seen += 1;
                }
            }
        }
    }

    #[test]
    fn control_messages_with_lying_lengths_end_the_walk() {
        let mut control = Control([0; CONTROL_LEN]);
        let len = control.append(0, libc::IPPROTO_IP, libc::IP_TOS, &[3, 0, 0, 0]);
        for lie in [0, 1, CMSG_HEADER_LEN - 1, 1000, usize::MAX] {
            let mut octets = control.0[..len].to_vec();
            octets[..size_of::<usize>()].copy_from_slice(&lie.to_ne_bytes());
            assert!(next_control(&octets).is_none());
        }
        assert!(next_control(&control.0[..len]).is_some());
    }

    #[test]
    fn interface_names_that_do_not_fit_are_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        for name in ["", "sixteen-letters-", "a\0b"] {
            assert_eq!(attach_tun(file.as_fd(), name, 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
