//! The machine alone: the CPU time that one gateway spends on a handshake, however much it has already.
//!
//! Both gateways run in this thread and only the one is timed. There are no sockets, no other program, and no data
//! plane.

use std::net::SocketAddr;
use std::time::Instant;

use adit_ike::identity::IdentityPattern;
use adit_ike::{Gateway, Output, RequestId, Target};
use adit_lab::process::tell;
use anyhow::{Result, ensure};
use rustix::time::{ClockId, clock_gettime};

use crate::gateways::{self, CLASSICAL, HYBRID};
use crate::{Extent, median};

/// Which lookups a gateway has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// As responder, one connection and one secret for all.
    One,
    /// As responder, a connection and a secret for each peer, known by its address.
    Addresses,
    /// As responder, a connection and a secret for each peer, which may come from anywhere.
    Identities,
    /// As initiator, a connection and a secret for each peer.
    Initiator,
}

impl Kind {
    fn describe(self) -> &'static str {
        match self {
            Self::One => "responder, one connection for all",
            Self::Addresses => "responder, a connection for each, by address",
            Self::Identities => "responder, a connection for each, by identity",
            Self::Initiator => "initiator, a connection for each",
        }
    }
}

pub(crate) fn run(extent: &Extent) -> Result<()> {
    tell("| gateway | keys | tunnels | CPU time of a handshake | times that of the fewest |");
    tell("|---|---|---|---|---|");
    for (kind, suite) in [
        (Kind::One, CLASSICAL),
        (Kind::One, HYBRID),
        (Kind::Addresses, CLASSICAL),
        (Kind::Identities, CLASSICAL),
        (Kind::Initiator, CLASSICAL),
    ] {
        let mut subjects = Vec::new();
        for level in &extent.levels {
            subjects.push(Subject::new(kind, suite, *level)?);
        }
        for _ in 0..extent.rounds {
            for subject in &mut subjects {
                subject.measure(extent.handshakes)?;
            }
        }
        let keys = if suite == HYBRID { "X25519 + ML-KEM-768" } else { "X25519" };
        let mut fewest = None;
        for subject in subjects {
            let seconds = median(subject.seconds);
            let ratio = seconds / *fewest.get_or_insert(seconds);
            let (kind, level, microseconds) = (kind.describe(), subject.level, seconds * 1e6);
            tell(&format!("| {kind} | {keys} | {level} | {microseconds:.1} µs | {ratio:.2} |"));
        }
    }
    Ok(())
}

/// A gateway with so many tunnels.
struct Subject {
    kind: Kind,
    suite: &'static str,
    level: usize,
    gateway: Gateway,
    /// Of one handshake, on average, in each measurement.
    seconds: Vec<f64>,
}

impl Subject {
    /// Fills it.
    fn new(kind: Kind, suite: &'static str, level: usize) -> Result<Self> {
        let mut gateway = gateways::gateway(Instant::now());
        let (mut connections, mut secrets) = (Vec::new(), Vec::new());
        if kind == Kind::One {
            let any = IdentityPattern::Any;
            connections.push(gateways::center_connection(name(0), Vec::new(), any, suite)?);
            secrets.push(gateways::secret(Vec::new()));
        } else {
            for number in 0..=level {
                let identity = IdentityPattern::Exact(gateways::own_identity(number));
                let address = gateways::single(gateways::own_address(number).into());
                let addresses = if kind == Kind::Identities { Vec::new() } else { vec![address] };
                let connection =
                    gateways::center_connection(name(number), addresses, identity.clone(), suite)?;
                connections.push(connection);
                secrets.push(gateways::secret(vec![identity]));
            }
        }
        gateway.set_configuration(gateways::configuration(connections, secrets));
        let mut subject = Self { kind, suite, level, gateway, seconds: Vec::new() };
        for number in 0..level {
            subject.handshake(number)?;
        }
        Ok(subject)
    }

    /// Makes one tunnel more and takes it down, so many times.
    fn measure(&mut self, count: usize) -> Result<()> {
        let mut spent = 0.0;
        for _ in 0..count {
            let (mut peer, seconds) = self.handshake(self.level)?;
            spent += seconds;
            let now = Instant::now();
            peer.shutdown(now);
            exchange(&mut self.gateway, &mut peer, now);
        }
        ensure!(self.gateway.ike_sas().count() == self.level, "an IKE SA is left over");
        self.seconds.push(spent / count as f64);
        Ok(())
    }

    /// A tunnel with a new peer. Returns the peer, and the time that this gateway took.
    fn handshake(&mut self, number: usize) -> Result<(Gateway, f64)> {
        let now = Instant::now();
        let address = gateways::own_address(number).into();
        let mut peer = gateways::gateway(now);
        peer.set_configuration(gateways::configuration(
            vec![gateways::peer(number, address, self.suite, true)?],
            vec![gateways::secret(Vec::new())],
        ));
        let target = |name| Target { connection: Some(name), ..Target::default() };
        let mut seconds = timed(|| {
            if self.gateway.poll_timeout().is_some_and(|at| at <= now) {
                self.gateway.handle_timeout(now);
            }
        })
        .1;
        if self.kind == Kind::Initiator {
            let (begun, spent) = timed(|| self.gateway.initiate(now, &target(name(number)), RequestId(0)));
            begun?;
            seconds += spent;
        } else {
            peer.initiate(now, &target("gw".to_owned()), RequestId(0))?;
        }
        seconds += exchange(&mut self.gateway, &mut peer, now);
        ensure!(peer.ike_sas().any(|sa| !sa.children.is_empty()), "tunnel {number} did not come up");
        Ok((peer, seconds))
    }
}

fn name(number: usize) -> String {
    format!("gw{number}")
}

/// Carries datagrams until both are silent. Returns the time that the subject took.
fn exchange(subject: &mut Gateway, peer: &mut Gateway, now: Instant) -> f64 {
    let mut seconds = 0.0;
    loop {
        let (to_peer, spent) = timed(|| drain(subject));
        let to_subject = drain(peer);
        seconds += spent;
        if to_peer.is_empty() && to_subject.is_empty() {
            return seconds;
        }
        for (local, remote, datagram) in to_peer {
            peer.handle_datagram(now, remote, local, &datagram);
        }
        for (local, remote, datagram) in to_subject {
            seconds += timed(|| subject.handle_datagram(now, remote, local, &datagram)).1;
        }
    }
}

fn drain(gateway: &mut Gateway) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
    std::iter::from_fn(|| gateway.poll_output())
        .filter_map(|output| match output {
            Output::Transmit(t) => Some((t.local, t.remote, t.datagram)),
            _ => None,
        })
        .collect()
}

/// The seconds of CPU time that it took this thread.
fn timed<T>(f: impl FnOnce() -> T) -> (T, f64) {
    let clock = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let start = clock();
    let result = f();
    (result, clock() - start)
}
