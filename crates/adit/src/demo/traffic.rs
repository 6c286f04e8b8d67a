//! What the demonstration's hosts send each other: pings, one message, and a stream whose every octet the
//! receiver checks. It never touches a gateway.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use adit_net::netns::Namespace;
use adit_wire::icmp::Echo;
use adit_wire::ip::{self, PROTOCOL_ICMP};
use anyhow::Context as _;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, sockopt};

const PATIENCE: Duration = Duration::from_secs(5);

/// Pings `to` from the host in `namespace`; the round-trip time of each echo that came back.
pub(super) fn ping(
    namespace: &Namespace,
    from: Ipv4Addr,
    to: Ipv4Addr,
    count: u16,
    patience: Duration,
) -> anyhow::Result<Vec<Duration>> {
    namespace.run(|| {
        // One to send whole packets with, one to receive what comes back.
        let outgoing = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))?;
        let incoming = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))?;
        let mut round_trips = Vec::new();
        for sequence in 1..=count {
            let echo =
                Echo { request: true, identifier: 0xad17, sequence, data: b"ping through Adit".to_vec() };
            let packet = echo.packet(from.into(), to.into(), 64).context("an echo request")?;
            let sent = Instant::now();
            rustix::net::sendto(&outgoing, &packet, SendFlags::empty(), &SocketAddr::from((to, 0)))?;
            if let Some(round_trip) = await_reply(&incoming, to, &echo, sent, patience)? {
                round_trips.push(round_trip);
            }
        }
        Ok(round_trips)
    })?
}

fn await_reply(
    socket: &impl std::os::fd::AsFd,
    from: Ipv4Addr,
    request: &Echo,
    sent: Instant,
    patience: Duration,
) -> anyhow::Result<Option<Duration>> {
    let mut buffer = [0; 2048];
    loop {
        let left = patience.saturating_sub(sent.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, Some(left))?;
        let octets = match rustix::net::recv(socket, &mut buffer, RecvFlags::empty()) {
            Ok((_, length)) => buffer.get(..length).unwrap_or_default(),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let Ok(header) = ip::Ipv4Header::decode(octets) else { continue };
        let message = octets.get(header.header_len..).unwrap_or_default();
        if let Ok(Some(echo)) = Echo::decode(PROTOCOL_ICMP, message)
            && header.source == from
            && !echo.request
            && (echo.identifier, echo.sequence) == (request.identifier, request.sequence)
            && echo.data == request.data
        {
            return Ok(Some(sent.elapsed()));
        }
    }
}

/// Sends one UDP datagram from host to host; who the receiver saw as its sender, and what arrived.
pub(super) fn message(
    sender: &Namespace,
    receiver: (&Namespace, Ipv4Addr),
    text: &str,
) -> anyhow::Result<(IpAddr, String)> {
    let (namespace, address) = receiver;
    let socket = namespace.run(|| UdpSocket::bind((address, 0)))??;
    socket.set_read_timeout(Some(PATIENCE))?;
    let to = socket.local_addr()?;
    sender.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(text.as_bytes(), to))??;
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).context("the message did not arrive")?;
    Ok((from.ip(), String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned()))
}

/// Sends `total` octets over TCP and checks each at the other end; how long it took.
pub(super) fn stream(
    sender: &Namespace,
    receiver: (&Namespace, Ipv4Addr),
    total: usize,
) -> anyhow::Result<Duration> {
    let (namespace, address) = receiver;
    let listener = namespace.run(|| TcpListener::bind((address, 0)))??;
    let to = listener.local_addr()?;
    let mut outgoing = sender.run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
    let (mut incoming, _) = listener.accept()?;
    outgoing.set_write_timeout(Some(PATIENCE))?;
    incoming.set_read_timeout(Some(PATIENCE))?;
    let started = Instant::now();
    std::thread::scope(|scope| {
        let receiving = scope.spawn(move || receive(&mut incoming, total));
        let mut pattern = Pattern::default();
        let mut left = total;
        let mut sending = Ok(());
        while left > 0 && sending.is_ok() {
            let chunk = pattern.chunk(left);
            left -= chunk.len();
            sending = outgoing.write_all(chunk);
        }
        drop(outgoing);
        let received = receiving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        sending.context("the stream stalled")?;
        received
    })?;
    Ok(started.elapsed())
}

fn receive(stream: &mut TcpStream, total: usize) -> anyhow::Result<()> {
    let mut pattern = Pattern::default();
    let mut buffer = vec![0; CHUNK];
    let mut left = total;
    while left > 0 {
        let expected = pattern.chunk(left);
        let arrived = buffer.get_mut(..expected.len()).context("a chunk")?;
        stream.read_exact(arrived).context("the stream ended early")?;
        anyhow::ensure!(arrived == expected, "the stream arrived changed, {left} octets before its end");
        left -= expected.len();
    }
    Ok(())
}

const CHUNK: usize = 1 << 16;

/// What the stream consists of: no two chunks are alike, so nothing lost, doubled or swapped goes unnoticed.
struct Pattern {
    chunk: Vec<u8>,
    number: u64,
}

impl Default for Pattern {
    fn default() -> Self {
        Self { chunk: (0..CHUNK).map(|i| (i % 251) as u8).collect(), number: 0 }
    }
}

impl Pattern {
    fn chunk(&mut self, most: usize) -> &[u8] {
        for place in self.chunk.chunks_exact_mut(1024) {
            if let Some(head) = place.first_chunk_mut() {
                *head = self.number.to_be_bytes();
            }
            self.number += 1;
        }
        self.chunk.get(..most.min(CHUNK)).unwrap_or_default()
    }
}
