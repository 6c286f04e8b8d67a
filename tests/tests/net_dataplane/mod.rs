//! The data plane without a daemon around it: two of them with keys set by hand, in namespaces, under real traffic.
//!
//! ```text
//! hostA 10.1.0.10 -- 10.1.0.1 gwA 192.0.2.1 ------ 192.0.2.2 gwB 10.2.0.1 -- 10.2.0.10 hostB
//!       fd00:1::10   fd00:1::1    2001:db8::1      2001:db8::2   fd00:2::1   fd00:2::10
//! ```

mod closed;
mod frames;
mod packets;
mod sas;
mod tap;
mod treatment;
mod workers;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use adit_crypto::{EspKeys, EspTransforms, Secret};
use adit_esp::{Mode, OutboundSa, SaParameters};
use adit_net::capture::Capture;
use adit_net::netlink::{PROTOCOL_STATIC, Route, RouteKind, Rule, TABLE_MAIN};
use adit_net::netns::Namespace;
use adit_net::{
    Backend, ChildId, ChildSaInstall, DropCause, InterfaceSpec, Limits, NetConfig, NetEvent, PolicyId,
    PolicySpec, Treatment, UdpEncap, Userspace,
};
use adit_wire::ikev2::{EncrId, Spi, TrafficSelector};
use anyhow::{Context, Result, anyhow, bail, ensure};

/// However slow the machine: what has not happened by then will not.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    A,
    B,
}
use Side::{A, B};

impl Side {
    fn number(self) -> u8 {
        match self {
            A => 1,
            B => 2,
        }
    }

    fn other(self) -> Self {
        match self {
            A => B,
            B => A,
        }
    }

    fn outer(self, v6: bool) -> IpAddr {
        let n = self.number();
        if v6 {
            IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)])
        } else {
            IpAddr::from([192, 0, 2, n])
        }
    }

    fn inner(self, v6: bool, host: u8) -> IpAddr {
        let n = self.number();
        if v6 {
            // Written as in IPv4, so that host 10 ends in ::10.
            let host = if host == 10 { 0x10 } else { u16::from(host) };
            IpAddr::from([0xfd00, u16::from(n), 0, 0, 0, 0, 0, host])
        } else {
            IpAddr::from([10, n, 0, host])
        }
    }

    fn networks(self) -> Vec<TrafficSelector> {
        vec![
            TrafficSelector::subnet(self.inner(false, 0), 16),
            TrafficSelector::subnet(self.inner(true, 0), 64),
        ]
    }
}

struct Net {
    gateways: [Namespace; 2],
    hosts: [Namespace; 2],
    /// Do the data planes join and cut packets? `ADIT_LAB_OFFLOAD=no` turns it off for every test that does not say.
    offload: bool,
    /// How many workers do they have? `ADIT_LAB_WORKERS` says it for every test that does not.
    workers: usize,
}

impl Net {
    fn new() -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "this test makes network namespaces: run it as root");
        let net = Self {
            gateways: [Namespace::unnamed()?, Namespace::unnamed()?],
            hosts: [Namespace::unnamed()?, Namespace::unnamed()?],
            offload: std::env::var("ADIT_LAB_OFFLOAD").as_deref() != Ok("no"),
            workers: std::env::var("ADIT_LAB_WORKERS").map_or(Ok(1), |number| number.parse())?,
        };
        let mut wan = net.gateways[0].netlink()?;
        wan.create_veth("wan", "wan", Some(std::os::fd::AsFd::as_fd(&net.gateways[1])))?;
        for side in [A, B] {
            let (gateway, host) = (net.gateway(side), net.host(side));
            let (mut inside, mut outside) = (gateway.netlink()?, host.netlink()?);
            inside.create_veth("lan", "lan", Some(std::os::fd::AsFd::as_fd(host)))?;
            gateway.loopback_up()?;
            host.loopback_up()?;
            let (wan, lan, far) =
                (inside.link("wan")?.index, inside.link("lan")?.index, outside.link("lan")?.index);
            // Link-local addresses of the kernel would come at a time of their own, and disturb comparisons.
            for index in [wan, lan] {
                inside.set_no_link_local(index)?;
                inside.set_up(index)?;
                inside.add_address(index, link_local(side.number()), 64)?;
            }
            outside.set_no_link_local(far)?;
            outside.set_up(far)?;
            outside.add_address(far, link_local(10), 64)?;
            for v6 in [false, true] {
                let (wide, narrow) = if v6 { (64, 64) } else { (24, 16) };
                inside.add_address(wan, side.outer(v6), wide)?;
                inside.add_address(lan, side.inner(v6, 1), narrow)?;
                outside.add_address(far, side.inner(v6, 10), narrow)?;
                outside.add_route(&route(v6, None, far, side.inner(v6, 1)))?;
            }
            gateway.set_forwarding()?;
            // The kernel makes the routes of IPv6 addresses in its own time: those of two on each link.
            const TABLE_LOCAL: u32 = 255;
            let own = |route: &Route| {
                let address = route.destination.0;
                let known =
                    [side.outer(true), side.inner(true, 1), link_local(side.number())].contains(&address);
                known && route.table == TABLE_LOCAL
            };
            let deadline = Instant::now() + PATIENCE;
            while inside.routes(own)?.len() < 4 {
                ensure!(Instant::now() < deadline, "IPv6 addresses are not ready");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(net)
    }

    fn gateway(&self, side: Side) -> &Namespace {
        let [a, b] = &self.gateways;
        if side == A { a } else { b }
    }

    fn host(&self, side: Side) -> &Namespace {
        let [a, b] = &self.hosts;
        if side == A { a } else { b }
    }

    /// Leads the private network of the other side to the other gateway, as a router without a tunnel would.
    fn route_in_the_clear(&self, side: Side) -> Result<()> {
        let mut netlink = self.gateway(side).netlink()?;
        let wan = netlink.link("wan")?.index;
        for v6 in [false, true] {
            let other = side.other();
            let destination = (other.inner(v6, 0), if v6 { 64 } else { 16 });
            netlink.add_route(&route(v6, Some(destination), wan, other.outer(v6)))?;
        }
        Ok(())
    }

    /// A data plane. Other tests of this process start programs, which for a moment have copies of all sockets and
    /// devices, those that were just closed included: then it is tried again.
    fn plane(&self, side: Side) -> Result<Plane> {
        let (offload, workers) = (self.offload, self.workers);
        self.plane_with(side, &NetConfig { offload, workers, ..NetConfig::default() })
    }

    fn plane_with(&self, side: Side, config: &NetConfig) -> Result<Plane> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_plane(side, config.clone()) {
                Err(error) if is_in_use(&error) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => return result,
            }
        }
    }

    fn try_plane(&self, side: Side, config: NetConfig) -> Result<Plane> {
        let ((sender, events), (changed, paths)) = (mpsc::channel(), mpsc::channel());
        let report = move |event| {
            let _ = if event == NetEvent::PathsChanged { changed.send(event) } else { sender.send(event) };
        };
        let plane = self.gateway(side).run(|| Userspace::start(config, Box::new(report)))??;
        Ok(Plane { plane: Box::new(plane), events, paths })
    }

    fn ping(&self, from: Side, v6: bool, arguments: &[&str]) -> Result<Output> {
        ping(self.host(from), from.other().inner(v6, 10), arguments)
    }

    fn capture(&self, side: Side) -> Result<Capture> {
        Ok(self.gateway(side).run(|| Capture::open("wan"))??)
    }
}

struct Plane {
    plane: Box<Userspace>,
    /// All but those that paths have changed, which any test can cause at any time.
    events: Receiver<NetEvent>,
    paths: Receiver<NetEvent>,
}

impl Plane {
    fn event(&self) -> Result<NetEvent> {
        self.events.recv_timeout(PATIENCE).context("no event")
    }

    /// Packets that left and arrived on a Child SA.
    fn carried(&self, id: u64) -> Option<(u64, u64)> {
        self.plane.counters(ChildId(id)).map(|counters| (counters.packets_out, counters.packets_in))
    }

    /// So many packets left and arrived on a Child SA. What has left is counted a moment later.
    fn carries(&self, id: u64, expected: (u64, u64)) -> Result<()> {
        until("the counters of an SA", || self.carried(id) == Some(expected))
            .with_context(|| format!("SA {id}: {:?}, not {expected:?}", self.carried(id)))
    }

    fn no_event(&self) -> Result<()> {
        match self.events.try_recv() {
            Ok(event) => bail!("{event:?}"),
            Err(_) => Ok(()),
        }
    }

    fn drops(&self, cause: DropCause) -> u64 {
        self.plane.stats().drops.iter().find(|(c, _)| *c == cause).map_or(0, |(_, count)| *count)
    }
}

fn is_in_use(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(adit_net::Error::InUse(_)))
}

fn link_local(host: u8) -> IpAddr {
    IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, u16::from(host)])
}

fn route(v6: bool, destination: Option<(IpAddr, u8)>, interface: u32, gateway: IpAddr) -> Route {
    let any = if v6 { IpAddr::from([0; 16]) } else { IpAddr::from([0; 4]) };
    Route {
        destination: destination.unwrap_or((any, 0)),
        table: TABLE_MAIN,
        kind: RouteKind::Unicast,
        interface: Some(interface),
        gateway: Some(gateway),
        source: None,
        metric: 1024,
        protocol: PROTOCOL_STATIC,
    }
}

fn run(namespace: &Namespace, program: &str, arguments: &[&str]) -> Result<Output> {
    let output = namespace.run(|| Command::new(program).args(arguments).stdin(Stdio::null()).output())?;
    output.with_context(|| format!("run {program}"))
}

fn ping(namespace: &Namespace, to: IpAddr, arguments: &[&str]) -> Result<Output> {
    let to = to.to_string();
    let mut all = vec!["-n", "-i", "0.01"];
    all.extend_from_slice(arguments);
    all.push(&to);
    run(namespace, "ping", &all)
}

fn answered(output: &Output) -> Result<()> {
    ensure!(output.status.success(), "{}{}", stdout(output), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn unanswered(output: &Output) -> Result<()> {
    ensure!(!output.status.success(), "an answer came: {}", stdout(output));
    Ok(())
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn policy(side: Side, local_ts: Vec<TrafficSelector>, remote_ts: Vec<TrafficSelector>) -> PolicySpec {
    PolicySpec::new(PolicyId(7), format!("from-{side:?}"), local_ts, remote_ts)
}

fn networks_policy(side: Side) -> PolicySpec {
    policy(side, side.networks(), side.other().networks())
}

/// One side of an SA pair whose keys both sides know. `generation` tells several pairs apart.
fn child(side: Side, generation: u8, v6: bool, encap: bool, policy: &PolicySpec) -> ChildSaInstall {
    let half = |from: Side| SaParameters {
        spi: Spi(0xadad_0000 | u32::from(generation) << 8 | u32::from(from.number())),
        mode: Mode::Tunnel,
        transforms: EspTransforms { encr: EncrId::AES_GCM_16, key_bits: Some(128), integ: None, esn: false },
        keys: EspKeys {
            encr: Secret::new([[from.number(); 10], [generation; 10]].concat()),
            integ: Secret::new(Vec::new()),
        },
        replay_window: 1024,
        local_ts: policy.local_ts.clone(),
        remote_ts: policy.remote_ts.clone(),
        original: None,
    };
    ChildSaInstall {
        id: ChildId(generation.into()),
        name: "gw/net".into(),
        policy: policy.id,
        inbound: half(side.other()),
        outbound: half(side),
        local: side.outer(v6),
        remote: side.other().outer(v6),
        encap: encap.then_some(UdpEncap { local_port: 4500, remote_port: 4500 }),
        active: true,
        limits: Limits::default(),
        treatment: Treatment::default(),
        worker: None,
    }
}

/// Both planes with one SA pair between the networks.
fn tunnel(net: &Net, v6: bool, encap: bool) -> Result<(Plane, Plane)> {
    let mut planes = Vec::new();
    for side in [A, B] {
        let mut plane = net.plane(side)?;
        let policy = networks_policy(side);
        plane.plane.install(child(side, 1, v6, encap, &policy))?;
        plane.plane.set_policies(vec![policy])?;
        planes.push(plane);
    }
    let b = planes.pop().context("two")?;
    Ok((planes.pop().context("two")?, b))
}

/// A datagram arrives whole; not perhaps the first, of which a sender learns how long fragments may be.
fn arrives(from: &UdpSocket, to: &UdpSocket, datagram: &[u8]) -> Result<()> {
    to.set_read_timeout(Some(Duration::from_millis(300)))?;
    let (deadline, mut received) = (Instant::now() + PATIENCE, vec![0; 10_000]);
    loop {
        from.send_to(datagram, to.local_addr()?)?;
        match to.recv_from(&mut received) {
            Ok((len, sender)) if received.get(..len) == Some(datagram) => {
                ensure!(sender == from.local_addr()?, "{sender}");
                return Ok(());
            }
            // One of before, that came late.
            Ok(_) => {}
            Err(error) => ensure!(Instant::now() < deadline, "{error}"),
        }
    }
}

/// An outer packet, as far as the tests look at it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    traffic_class: u8,
    /// From the IP header's payload on.
    payload: Vec<u8>,
}

fn seen(frame: &[u8]) -> Option<Seen> {
    let ip = frame.get(14..)?;
    let flow = adit_wire::ip::flow(ip).ok()?;
    let first = ip.first()?;
    let second = ip.get(1)?;
    let (header_len, traffic_class) =
        if first >> 4 == 4 { (usize::from(first & 15) * 4, *second) } else { (40, first << 4 | second >> 4) };
    Some(Seen {
        source: flow.source,
        destination: flow.destination,
        protocol: flow.protocol,
        traffic_class,
        payload: ip.get(header_len..)?.to_vec(),
    })
}

/// All that has passed by now. Whoever asks has waited for the answers of what it sent.
fn passed(capture: &mut Capture) -> Result<Vec<Seen>> {
    let mut all = Vec::new();
    while capture.read(Duration::ZERO, |frame| all.extend(seen(frame.octets)))? > 0 {}
    Ok(all)
}

/// No frame has an address of a private network in its outer header, nor the text of a ping in it.
fn nothing_inner(all: &[Seen]) -> Result<()> {
    let private = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets()[0] == 10,
        IpAddr::V6(v6) => v6.segments()[0] == 0xfd00,
    };
    for one in all {
        ensure!(!private(one.source) && !private(one.destination), "in the clear: {one:?}");
        ensure!(!one.payload.windows(8).any(|part| part == SECRET), "the text is readable: {one:?}");
    }
    Ok(())
}

/// The pattern of the pings, and what they repeat in their bodies.
const PATTERN: [&str; 2] = ["-p", "5ec4e75ec4e75ec45ec4e75ec4e75ec4"];
const SECRET: &[u8] = &[0x5e, 0xc4, 0xe7, 0x5e, 0xc4, 0xe7, 0x5e, 0xc4];

/// What the kernel shows of rules, routes, and packet filter rules.
fn system(namespace: &Namespace) -> Result<String> {
    let mut text = String::new();
    for (program, arguments) in [
        ("ip", "-4 rule"),
        ("ip", "-6 rule"),
        ("ip", "-4 route show table all"),
        ("ip", "-6 route show table all"),
        ("ip", "-o link"),
        ("nft", "list ruleset"),
    ] {
        let output = run(namespace, program, &arguments.split(' ').collect::<Vec<_>>())?;
        text += &format!("# {program} {arguments}\n{}", stdout(&output));
    }
    Ok(text)
}

/// The system of gateway A is again what it was; as soon as no other program has copies of what was closed.
fn restored(net: &Net, before: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let after = system(net.gateway(A))?;
        if after == before {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "before:\n{before}\nafter:\n{after}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Counters and the kernel's state tell nobody when they change.
fn until(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        ensure!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
