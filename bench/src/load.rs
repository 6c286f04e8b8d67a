//! Load on UDP, run in the hosts' namespaces: who sends in batches, who counts what arrives, who echoes
//! and who waits for the echo. TCP is left to iperf3.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use adit_lab::process::tell;
use anyhow::{Context, Result, bail};
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrIn, SockaddrStorage, recvmmsg, sendmmsg, setsockopt,
    sockopt::UdpGsoSegment,
};
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};
use rustix::net::{self, AddressFamily, SendFlags, SocketType, ipproto};

use crate::{quantile, random};

/// Datagrams of one call, of sender and receiver.
const BATCH: usize = 32;
/// Nobody waits longer than so for a datagram that may be lost.
const PATIENCE: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
pub(crate) struct Load {
    /// What to do.
    #[arg(value_enum)]
    role: Role,
    /// Where to listen, or whom to send to.
    address: SocketAddr,
    /// For how long.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Octets of a datagram.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// To how many addresses, the first among them.
    #[arg(long, default_value_t = 1)]
    destinations: u32,
    /// From one of these addresses to the next.
    #[arg(long, default_value_t = 1)]
    step: u32,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Role {
    /// Sends as fast as it can, many datagrams in one call (`UDP_SEGMENT`).
    Blast,
    /// Sends as fast as it can, each datagram to any of many addresses.
    Scatter,
    /// Counts datagrams; prints how many came in a second.
    Sink,
    /// Returns every datagram.
    Echo,
    /// Sends packets of protocol 50 as fast as it can through a raw socket: what the kernel alone allows.
    Raw,
    /// Sends a datagram and waits for it to return; prints the median and the 99th percentile, in microseconds.
    RoundTrip,
}

pub(crate) fn run(load: &Load) -> Result<()> {
    let duration = Duration::from_secs_f64(load.seconds);
    match load.role {
        Role::Blast => blast(&talking(load)?, load.size, duration),
        Role::Scatter => scatter(load, duration),
        Role::Raw => raw(load.address, load.size, duration),
        Role::Sink => sink(&listening(load)?, duration),
        Role::Echo => echo(&listening(load)?, duration),
        Role::RoundTrip => round_trip(&talking(load)?, load.size, duration),
    }
}

fn talking(load: &Load) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(load.address)?;
    settled(socket)
}

fn listening(load: &Load) -> Result<UdpSocket> {
    let socket = settled(UdpSocket::bind(load.address)?)?;
    tell("ready");
    Ok(socket)
}

fn settled(socket: UdpSocket) -> Result<UdpSocket> {
    set_socket_recv_buffer_size_force(&socket, 16 << 20)?;
    set_socket_send_buffer_size_force(&socket, 16 << 20)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn blast(socket: &UdpSocket, size: usize, duration: Duration) -> Result<()> {
    setsockopt(socket, UdpGsoSegment, &i32::try_from(size)?)?;
    // 64 KiB is the most that one call may hold.
    let (datagrams, start) = (vec![0; size * BATCH.min(65_000 / size)], Instant::now());
    while start.elapsed() < duration {
        // A full queue or a refusal of the network is part of the overload.
        let _ = socket.send(&datagrams);
    }
    Ok(())
}

fn scatter(load: &Load, duration: Duration) -> Result<()> {
    let SocketAddr::V4(first) = load.address else { bail!("IPv4 only") };
    let socket = settled(UdpSocket::bind("0.0.0.0:0")?)?;
    let address = |random: u64| {
        let number = (random % u64::from(load.destinations.max(1))) as u32;
        let ip = Ipv4Addr::from_bits(first.ip().to_bits().wrapping_add(number.wrapping_mul(load.step)));
        Some(SockaddrIn::from(SocketAddrV4::new(ip, first.port())))
    };
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let datagram = vec![0; load.size];
    let slices = [[IoSlice::new(&datagram)]; BATCH];
    let (mut random, start) = (random(), Instant::now());
    while start.elapsed() < duration {
        let addresses: [_; BATCH] = std::array::from_fn(|_| random.next().and_then(address));
        let _ = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, addresses, [], MsgFlags::empty());
    }
    Ok(())
}

fn raw(address: SocketAddr, size: usize, duration: Duration) -> Result<()> {
    let socket = net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ESP))?;
    set_socket_send_buffer_size_force(&socket, 16 << 20)?;
    net::connect(&socket, &address)?;
    let (packet, start) = (vec![0; size], Instant::now());
    while start.elapsed() < duration {
        let _ = net::send(&socket, &packet, SendFlags::empty());
    }
    Ok(())
}

fn sink(socket: &UdpSocket, duration: Duration) -> Result<()> {
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let mut buffers = vec![[0; 2048]; BATCH];
    let (start, mut count, mut first, mut last) = (Instant::now(), 0_usize, None, Instant::now());
    while start.elapsed() < duration {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let flags = MsgFlags::MSG_WAITFORONE;
        if let Ok(received) = recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None) {
            count += received.count();
            last = Instant::now();
            first.get_or_insert(last);
        }
    }
    let seconds = first.map_or(0.0, |first| (last - first).as_secs_f64());
    tell(&format!("{:.0}", if seconds > 0.0 { count as f64 / seconds } else { 0.0 }));
    Ok(())
}

fn echo(socket: &UdpSocket, duration: Duration) -> Result<()> {
    let (mut buffer, start) = ([0; 2048], Instant::now());
    while start.elapsed() < duration {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(buffer.get(..length).unwrap_or_default(), from)?;
        }
    }
    Ok(())
}

fn round_trip(socket: &UdpSocket, size: usize, duration: Duration) -> Result<()> {
    let (mut times, mut buffer, begin) = (Vec::new(), [0; 2048], Instant::now());
    while begin.elapsed() < duration {
        let start = Instant::now();
        socket.send(buffer.get(..size).context("a size up to 2048")?)?;
        if socket.recv(&mut buffer).is_ok() {
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    tell(&format!("{:.2} {:.2}", quantile(&mut times, 0.5), quantile(&mut times, 0.99)));
    Ok(())
}
