//! A few ICMP echo requests from an address of ours, and their answers, without waiting for any.
//!
//! It owns a socket for as long as it lasts, and knows nothing of tunnels: the routing table decides where the requests go.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_crypto::{Entropy, SystemEntropy};
use adit_wire::icmp::Echo;
use adit_wire::ip::{Ipv4Header, Ipv6Header, PROTOCOL_ICMP, PROTOCOL_ICMPV6};
use socket2::{Domain, Protocol, Socket, Type};

/// How many, and how long after one another.
const COUNT: u16 = 5;
const INTERVAL: Duration = Duration::from_millis(200);

/// How often answers are fetched.
const TICK: Duration = Duration::from_millis(10);

/// So many answers are enough.
const ENOUGH: u16 = 3;

/// Octets that come back.
const DATA: usize = 56;

/// Messages taken from the socket at a time: everybody's echoes arrive there.
const BATCH: usize = 64;

/// Echo requests under way.
pub(super) struct Echoes {
    socket: Socket,
    from: IpAddr,
    target: IpAddr,
    identifier: u16,
    /// When each was sent.
    sent: Vec<Instant>,
    answered: Vec<u16>,
    best: Option<Duration>,
    next: Instant,
    looked: Instant,
}

impl Echoes {
    /// Sends the first.
    pub(super) fn new(now: Instant, from: IpAddr, target: IpAddr) -> io::Result<Self> {
        let (domain, protocol) = match target {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        // What others send answers nothing, and fills no buffer.
        socket.connect(&SocketAddr::new(target, 0).into())?;
        let mut identifier = [0; 2];
        SystemEntropy.fill(&mut identifier);
        let mut echoes = Self {
            socket,
            from,
            target,
            identifier: u16::from_be_bytes(identifier),
            sent: Vec::new(),
            answered: Vec::new(),
            best: None,
            next: now,
            looked: now,
        };
        echoes.go_on(now);
        Ok(echoes)
    }

    pub(super) fn target(&self) -> IpAddr {
        self.target
    }

    /// How many were sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent.len() as u64
    }

    /// How many were answered, of how many, and after what time at best; `None` if none was.
    pub(super) fn answered(&self) -> Option<(usize, usize, Duration)> {
        Some((self.answered.len(), self.sent.len(), self.best?))
    }

    /// When to look for answers next.
    pub(super) fn due(&self) -> Instant {
        self.looked + TICK
    }

    /// Is there nothing to wait for?
    pub(super) fn is_done(&self) -> bool {
        self.answered.len() >= usize::from(ENOUGH)
    }

    /// Takes what has arrived, and sends what is due.
    pub(super) fn go_on(&mut self, now: Instant) {
        self.receive(now);
        self.looked = now;
        let number = u16::try_from(self.sent.len()).unwrap_or(u16::MAX);
        if number >= COUNT || now < self.next {
            return;
        }
        let echo =
            Echo { request: true, identifier: self.identifier, sequence: number, data: vec![0x5a; DATA] };
        let Some(packet) = echo.packet(self.from, self.target, 64) else { return };
        // The kernel makes the IP header.
        let header = if self.target.is_ipv4() { Ipv4Header::LEN } else { Ipv6Header::LEN };
        let message = packet.get(header..).unwrap_or_default();
        if let Err(error) = self.socket.send(message) {
            tracing::debug!(%error, to = %self.target, "an echo request is not sent");
        }
        self.sent.push(now);
        self.next = now + INTERVAL;
    }

    fn receive(&mut self, now: Instant) {
        let mut buffer = [0; 512];
        for _ in 0..BATCH {
            // Longer messages are cut, and are none of ours.
            let Ok(len) = (&self.socket).read(&mut buffer) else { return };
            let packet = buffer.get(..len).unwrap_or_default();
            let (protocol, message) = if self.target.is_ipv4() {
                (PROTOCOL_ICMP, packet.get(Ipv4Header::LEN..).unwrap_or_default())
            } else {
                (PROTOCOL_ICMPV6, packet)
            };
            let Ok(Some(echo)) = Echo::decode(protocol, message) else { continue };
            let is_ours = !echo.request && echo.identifier == self.identifier && echo.data == [0x5a; DATA];
            let Some(sent) = self.sent.get(usize::from(echo.sequence)).filter(|_| is_ours) else { continue };
            if !self.answered.contains(&echo.sequence) {
                self.answered.push(echo.sequence);
                let time = now.saturating_duration_since(*sent);
                self.best = Some(self.best.map_or(time, |best| best.min(time)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Linux kernel answers on the loopback interface. Who may not open such a socket is told so.
    #[test]
    fn loopback_answers() {
        for address in [IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)] {
            let start = Instant::now();
            let mut echoes = match Echoes::new(start, address, address) {
                Ok(echoes) => echoes,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
                    return;
                }
            };
            while !echoes.is_done() {
                assert!(start.elapsed() < Duration::from_secs(10), "{:?}", echoes.answered());
                echoes.go_on(Instant::now());
                std::thread::yield_now();
            }
            let (answered, sent, best) = echoes.answered().unwrap();
            assert!(answered <= sent && sent <= usize::from(COUNT) && best < Duration::from_secs(1));
        }
    }
}
