//! The ends over UDP, each a process of its own: a responder around the machine alone, and the initiators.
//!
//! Both speak on port 4500 from the first message on, with the non-ESP marker. Neither has a data plane.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use adit_ike::identity::IdentityPattern;
use adit_ike::{Event, Gateway, Output, RequestId, Target};
use adit_lab::lab::{Family, Side};
use adit_lab::process::tell;
use anyhow::{Context, Result, bail};

use crate::gateways::{self, CLASSICAL, HYBRID, NAT_T_PORT};

/// What the initiators are to do.
#[derive(clap::Args)]
pub(crate) struct LoadOptions {
    /// The number of the first tunnel.
    #[arg(long)]
    pub(crate) from: usize,
    /// How many tunnels.
    #[arg(long)]
    pub(crate) count: usize,
    /// How many handshakes at once.
    #[arg(long, default_value_t = 32)]
    pub(crate) at_once: usize,
    /// With ML-KEM-768.
    #[arg(long)]
    pub(crate) hybrid: bool,
    /// With a Child SA.
    #[arg(long)]
    pub(crate) child: bool,
    /// Take the tunnels down afterwards.
    #[arg(long)]
    pub(crate) delete: bool,
    /// Whose CPU time is told.
    #[arg(long)]
    pub(crate) responder: u32,
    /// Stop after so many seconds.
    #[arg(long)]
    pub(crate) limit: u64,
}

/// Answers for ever, whoever comes.
pub(crate) fn respond() -> Result<()> {
    let socket = Marked::bind(Side::B)?;
    let mut gateway = gateways::gateway(Instant::now());
    // One connection for all, with either proposal.
    let connection = gateways::center_connection(
        "gw".to_owned(),
        Vec::new(),
        IdentityPattern::Any,
        &format!("{HYBRID},{CLASSICAL}"),
    )?;
    gateway.set_configuration(gateways::configuration(vec![connection], vec![gateways::secret(Vec::new())]));
    loop {
        let now = Instant::now();
        if gateway.poll_timeout().is_some_and(|at| at <= now) {
            gateway.handle_timeout(now);
        }
        if let Some((remote, datagram)) = socket.receive()? {
            gateway.handle_datagram(Instant::now(), socket.local, remote, &datagram);
        }
        while let Some(output) = gateway.poll_output() {
            if let Output::Transmit(transmit) = output {
                socket.send(transmit.remote, &transmit.datagram)?;
            }
        }
    }
}

/// Brings tunnels up, and prints how many there were, in how many seconds, and the seconds of CPU time they took the
/// responder.
pub(crate) fn load(options: &LoadOptions) -> Result<()> {
    let mut load = Load {
        options,
        socket: Marked::bind(Side::A)?,
        peers: Vec::new(),
        by_spi: HashMap::new(),
        running: 0,
        up: 0,
    };
    let (start, cpu) = (Instant::now(), cpu_seconds(options.responder)?);
    let limit = Duration::from_secs(options.limit);
    while load.up < options.count && start.elapsed() < limit {
        while load.running < options.at_once && load.peers.len() < options.count {
            load.start()?;
        }
        load.turn()?;
    }
    let (elapsed, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds(options.responder)? - cpu);
    tell(&format!("{} {elapsed} {cpu}", load.up));
    if options.delete {
        load.delete()?;
    }
    Ok(())
}

/// Gateways with one tunnel each: what an initiator costs is then the same however many there are.
struct Load<'a> {
    options: &'a LoadOptions,
    socket: Marked,
    /// `None` once it is done with and its tunnel stays.
    peers: Vec<Option<Gateway>>,
    /// Whose an IKE SA of this initiator's SPI is.
    by_spi: HashMap<[u8; 8], usize>,
    running: usize,
    up: usize,
}

impl Load<'_> {
    fn start(&mut self) -> Result<()> {
        let (index, now) = (self.peers.len(), Instant::now());
        let suite = if self.options.hybrid { HYBRID } else { CLASSICAL };
        let address = self.socket.local.ip();
        let connection = gateways::peer(self.options.from + index, address, suite, self.options.child)?;
        let mut gateway = gateways::gateway(now);
        gateway
            .set_configuration(gateways::configuration(vec![connection], vec![gateways::secret(Vec::new())]));
        let target = Target { connection: Some("gw".to_owned()), ..Target::default() };
        gateway.initiate(now, &target, RequestId(0))?;
        self.peers.push(Some(gateway));
        self.running += 1;
        self.flush(index)
    }

    /// Handles a datagram if one comes soon, and what is late if none does.
    fn turn(&mut self) -> Result<()> {
        let received = self.socket.receive()?;
        let now = Instant::now();
        if let Some((remote, datagram)) = received {
            let spi = datagram.first_chunk::<8>();
            let Some(index) = spi.and_then(|spi| self.by_spi.get(spi)).copied() else { return Ok(()) };
            if let Some(Some(gateway)) = self.peers.get_mut(index) {
                gateway.handle_datagram(now, self.socket.local, remote, &datagram);
            }
            return self.flush(index);
        }
        for index in 0..self.peers.len() {
            if let Some(Some(gateway)) = self.peers.get_mut(index)
                && gateway.poll_timeout().is_some_and(|at| at <= now)
            {
                gateway.handle_timeout(now);
                self.flush(index)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, index: usize) -> Result<()> {
        let mut done = false;
        while let Some(output) =
            self.peers.get_mut(index).and_then(Option::as_mut).and_then(Gateway::poll_output)
        {
            match output {
                Output::Transmit(transmit) => {
                    if let Some(spi) = transmit.datagram.first_chunk() {
                        self.by_spi.insert(*spi, index);
                    }
                    self.socket.send(transmit.remote, &transmit.datagram)?;
                }
                Output::Event(Event::RequestDone { result: Ok(()), .. }) => done = true,
                Output::Event(Event::RequestDone { result: Err(reason), .. }) => {
                    bail!("tunnel {index}: {reason}")
                }
                _ => {}
            }
        }
        if done {
            self.up += 1;
            self.running -= 1;
            if !self.options.delete {
                self.peers.get_mut(index).context("a peer")?.take();
            }
        }
        Ok(())
    }

    /// Takes them down, a few at a time.
    fn delete(&mut self) -> Result<()> {
        for first in (0..self.peers.len()).step_by(self.options.at_once) {
            let some = first..(first + self.options.at_once).min(self.peers.len());
            for index in some.clone() {
                if let Some(Some(gateway)) = self.peers.get_mut(index) {
                    gateway.shutdown(Instant::now());
                    self.flush(index)?;
                }
            }
            let left = |peers: &[Option<Gateway>]| {
                let some = peers.get(some.clone()).unwrap_or_default();
                some.iter().flatten().any(|gateway| gateway.ike_sas().next().is_some())
            };
            while left(&self.peers) {
                self.turn()?;
            }
        }
        Ok(())
    }
}

/// A socket whose messages carry the non-ESP marker (RFC 3948 2.2).
struct Marked {
    socket: UdpSocket,
    local: SocketAddr,
}

impl Marked {
    fn bind(side: Side) -> Result<Self> {
        let local = SocketAddr::new(side.outer(Family::V4).parse()?, NAT_T_PORT);
        let socket = UdpSocket::bind(local)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok(Self { socket, local })
    }

    fn send(&self, remote: SocketAddr, message: &[u8]) -> Result<()> {
        self.socket.send_to(&[&[0; 4], message].concat(), remote)?;
        Ok(())
    }

    /// The next message, if it comes soon.
    fn receive(&self) -> Result<Option<(SocketAddr, Vec<u8>)>> {
        let mut buffer = [0; 65_536];
        match self.socket.recv_from(&mut buffer) {
            Ok((length, remote)) => {
                let message = buffer.get(..length).and_then(|datagram| datagram.strip_prefix(&[0; 4]));
                Ok(message.map(|message| (remote, message.to_vec())))
            }
            // A peer that is not there yet.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// CPU time of a process, all its threads.
pub(crate) fn cpu_seconds(process: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let times = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        nanoseconds += times.split_whitespace().next().context("no schedstat")?.parse::<f64>()?;
    }
    Ok(nanoseconds / 1e9)
}
