//! The data plane without a daemon around it: two of them with keys set by hand, in namespaces, under real traffic.
//!
//! ```text
//! hostA 10.1.0.10 -- 10.1.0.1 gwA 192.0.2.1 ------ 192.0.2.2 gwB 10.2.0.1 -- 10.2.0.10 hostB
//!       fd00:1::10   fd00:1::1    2001:db8::1      2001:db8::2   fd00:2::1   fd00:2::10
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use adit_crypto::{EspKeys, EspTransforms, Secret};
use adit_esp::SaParameters;
use adit_net::capture::Capture;
use adit_net::netlink::{PROTOCOL_STATIC, Route, RouteKind, TABLE_MAIN};
use adit_net::netns::Namespace;
use adit_net::{
    Backend, ChildId, ChildSaInstall, DropCause, Limits, NetConfig, NetEvent, PolicyId, PolicySpec, UdpEncap,
    Userspace,
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
}

impl Net {
    fn new() -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "this test makes network namespaces: run it as root");
        let net = Self {
            gateways: [Namespace::unnamed()?, Namespace::unnamed()?],
            hosts: [Namespace::unnamed()?, Namespace::unnamed()?],
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
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_plane(side, NetConfig::default()) {
                Err(error) if is_in_use(&error) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => return result,
            }
        }
    }

    fn try_plane(&self, side: Side, config: NetConfig) -> Result<Plane> {
        let (sender, events) = mpsc::channel();
        let report = move |event| {
            let _ = sender.send(event);
        };
        let plane = self.gateway(side).run(|| Userspace::start(config, Box::new(report)))??;
        Ok(Plane { plane: Box::new(plane), events })
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
    events: Receiver<NetEvent>,
}

impl Plane {
    fn event(&self) -> Result<NetEvent> {
        self.events.recv_timeout(PATIENCE).context("no event")
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
    PolicySpec {
        id: PolicyId(7),
        name: format!("from-{side:?}"),
        local_ts,
        remote_ts,
        priority: 0,
        trap: false,
    }
}

fn networks_policy(side: Side) -> PolicySpec {
    policy(side, side.networks(), side.other().networks())
}

/// One side of an SA pair whose keys both sides know. `generation` tells several pairs apart.
fn child(side: Side, generation: u8, v6: bool, encap: bool, policy: &PolicySpec) -> ChildSaInstall {
    let half = |from: Side| SaParameters {
        spi: Spi(0xadad_0000 | u32::from(generation) << 8 | u32::from(from.number())),
        transforms: EspTransforms { encr: EncrId::AES_GCM_16, key_bits: Some(128), integ: None, esn: false },
        keys: EspKeys {
            encr: Secret::new(vec![from.number() << 4 | generation; 20]),
            integ: Secret::new(Vec::new()),
        },
        replay_window: 1024,
        local_ts: policy.local_ts.clone(),
        remote_ts: policy.remote_ts.clone(),
    };
    ChildSaInstall {
        id: ChildId(generation.into()),
        policy: policy.id,
        inbound: half(side.other()),
        outbound: half(side),
        local: side.outer(v6),
        remote: side.other().outer(v6),
        encap: encap.then_some(UdpEncap { local_port: 4500, remote_port: 4500 }),
        active: true,
        limits: Limits::default(),
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

#[test]
fn networks_reach_each_other_through_every_kind_of_tunnel() -> Result<()> {
    for (v6, encap) in [(false, false), (false, true), (true, false), (true, true)] {
        let net = Net::new()?;
        let (a, b) = tunnel(&net, v6, encap)?;
        let mut capture = net.capture(A)?;
        for inner_v6 in [false, true] {
            for from in [A, B] {
                let arguments = [&["-c", "20", "-s", "500", "-W", "5"], &PATTERN[..]].concat();
                answered(&net.ping(from, inner_v6, &arguments)?).with_context(|| {
                    format!(
                        "outer v6 {v6} encap {encap} inner v6 {inner_v6} from {from:?}: {:?}",
                        a.plane.stats()
                    )
                })?;
            }
        }
        let all = passed(&mut capture)?;
        nothing_inner(&all)?;
        let (protocol, ours) = if encap { (17, [17, 148, 17, 148]) } else { (50, [0xad, 0xad, 1, 0]) };
        let carried = all
            .iter()
            .filter(|one| one.protocol == protocol && one.source.is_ipv6() == v6)
            .filter(|one| one.payload[..3] == ours[..3] || one.payload[..4] == ours)
            .count();
        ensure!(carried == 160, "{carried} ESP packets of the expected kind on the wire, not 160");
        let (a, b) = (a.plane.counters(ChildId(1)).context("a")?, b.plane.counters(ChildId(1)).context("b")?);
        ensure!(a.packets_out == 80 && a.packets_in == 80, "{a:?}");
        ensure!((a.packets_out, a.bytes_out) == (b.packets_in, b.bytes_in), "{a:?} {b:?}");
        ensure!((b.packets_out, b.bytes_out) == (a.packets_in, a.bytes_in), "{a:?} {b:?}");
        ensure!(a.last_in.is_some() && a.last_out.is_some() && a.drops.iter().all(|(_, count)| *count == 0));
    }
    Ok(())
}

#[test]
fn nothing_leaves_or_enters_in_the_clear() -> Result<()> {
    let net = Net::new()?;
    net.route_in_the_clear(A)?;
    net.route_in_the_clear(B)?;
    let once = [&["-c", "1", "-W", "5"], &PATTERN[..]].concat();
    let hopeless = [&["-c", "3", "-W", "1"], &PATTERN[..]].concat();
    for v6 in [false, true] {
        answered(&net.ping(A, v6, &once)?)
            .context("without a data plane the networks are joined in the clear")?;
    }

    let mut a = net.plane(A)?;
    a.plane.set_policies(vec![networks_policy(A)])?;
    let mut capture = net.capture(A)?;
    for v6 in [false, true] {
        unanswered(&net.ping(A, v6, &hopeless)?)?;
    }
    nothing_inner(&passed(&mut capture)?)?;
    ensure!(a.drops(DropCause::NoSa) == 6, "{:?}", a.plane.stats());

    // The other gateway knows nothing of a tunnel and sends in the clear: that is not let in.
    let mut lan = net.host(A).run(|| Capture::open("lan"))??;
    for v6 in [false, true] {
        unanswered(&net.ping(B, v6, &hopeless)?)?;
        unanswered(&ping(net.host(B), A.inner(v6, 1), &hopeless)?).context("to the gateway itself")?;
    }
    let stats = a.plane.stats();
    ensure!(stats.fenced_in == 12, "{stats:?}");
    let let_in =
        passed(&mut lan)?.iter().filter(|one| one.source == B.inner(one.source.is_ipv6(), 10)).count();
    ensure!(let_in == 0, "{let_in} packets in the clear were let in");

    // Even if someone routes around the tunnel.
    for family in ["-4", "-6"] {
        let rule = [family, "rule", "add", "priority", "100", "lookup", "main"];
        answered(&run(net.gateway(A), "ip", &rule)?)?;
    }
    for v6 in [false, true] {
        unanswered(&net.ping(A, v6, &hopeless)?)?;
        unanswered(&ping(
            net.gateway(A),
            B.inner(v6, 10),
            &["-c", "2", "-W", "1", "-I", &A.inner(v6, 1).to_string()],
        )?)?;
    }
    let stats = a.plane.stats();
    ensure!(stats.fenced_out == 10, "{stats:?}");
    let out: Vec<_> = passed(&mut capture)?
        .into_iter()
        .filter(|one| one.source == A.inner(one.source.is_ipv6(), 10))
        .collect();
    ensure!(out.is_empty(), "in the clear: {out:?}");
    Ok(())
}

#[test]
fn an_orderly_end_restores_the_system() -> Result<()> {
    let net = Net::new()?;
    let before = system(net.gateway(A))?;
    let (a, b) = tunnel(&net, false, false)?;
    let during = system(net.gateway(A))?;
    for part in [
        "from all fwmark 0xdc goto 224",
        "from 10.1.0.0/16 lookup 220",
        "from fd00:1::/64 lookup 220",
        "lookup 220",
        "10.2.0.0/16 dev adit0",
        "fd00:2::/64 dev adit0",
        "table inet adit",
    ] {
        ensure!(during.contains(part), "{part} is missing:\n{during}");
    }
    ensure!(during.contains("10.2.0.0/16 dev adit0 table 220 proto 65 scope link src 10.1.0.1"), "{during}");
    a.plane.shutdown();
    drop(b);
    restored(&net, &before)?;
    Ok(())
}

#[test]
fn a_killed_daemon_leaves_the_networks_closed_and_the_next_one_takes_over() -> Result<()> {
    let net = Net::new()?;
    net.route_in_the_clear(A)?;
    net.route_in_the_clear(B)?;
    let before = system(net.gateway(A))?;
    let hopeless = [&["-c", "3", "-W", "1"], &PATTERN[..]].concat();
    let mut capture = net.capture(A)?;

    let mut victim = net.gateway(A).run(|| {
        Command::new(std::env::current_exe()?)
            .args(["--exact", "victim", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
    })??;
    let mut lines = BufReader::new(victim.stdout.take().context("stdout")?).lines();
    loop {
        match lines.next().context("the victim ended early")?? {
            line if line.ends_with(READY) => break,
            _ => {}
        }
    }
    victim.kill()?;
    victim.wait()?;

    let left = system(net.gateway(A))?;
    ensure!(!left.contains("adit0:"), "the TUN device is still there:\n{left}");
    ensure!(left.contains("unreachable 10.2.0.0/16 table 220") && left.contains("table inet adit"), "{left}");
    for v6 in [false, true] {
        unanswered(&net.ping(A, v6, &hopeless)?)?;
        unanswered(&net.ping(B, v6, &hopeless)?)?;
    }
    let out: Vec<_> = passed(&mut capture)?
        .into_iter()
        .filter(|one| one.source == A.inner(one.source.is_ipv6(), 10))
        .collect();
    ensure!(out.is_empty(), "in the clear while the daemon was dead: {out:?}");

    let (a, b) = tunnel(&net, true, true)?;
    for v6 in [false, true] {
        answered(&net.ping(A, v6, &["-c", "3", "-W", "5"])?)?;
    }
    drop(b);
    a.plane.shutdown();
    restored(&net, &before)?;
    Ok(())
}

const READY: &str = "victim is ready";

/// Not a test: the process that [`a_killed_daemon_leaves_the_networks_closed_and_the_next_one_takes_over`] kills.
#[test]
#[ignore = "another test runs it"]
fn victim() -> Result<()> {
    let mut plane = Userspace::start(NetConfig::default(), Box::new(|_| ()))?;
    let stale = policy(
        A,
        vec![TrafficSelector::any_v4()],
        vec![TrafficSelector::subnet(IpAddr::from([10, 77, 0, 0]), 16)],
    );
    plane.set_policies(vec![networks_policy(A), PolicySpec { id: PolicyId(8), ..stale }])?;
    println!("{READY}");
    std::io::stdout().flush()?;
    // Until it is killed; or until whoever should have done so is gone.
    std::io::stdin().lines().for_each(drop);
    bail!("nobody killed the victim")
}

#[test]
fn the_gateways_themselves_are_protected_and_ike_still_passes() -> Result<()> {
    for (v6, encap) in [(false, false), (false, true), (true, false), (true, true)] {
        let net = Net::new()?;
        let host = |side: Side| vec![TrafficSelector::subnet(side.outer(v6), if v6 { 128 } else { 32 })];
        let mut planes = Vec::new();
        for side in [A, B] {
            let mut plane = net.plane(side)?;
            plane.plane.set_policies(vec![policy(side, host(side), host(side.other()))])?;
            // The way of outer packets is past the tunnel, even though the peer is protected.
            let sender = plane.plane.ike_sender();
            let source = net.gateway(side).run(|| sender.source_address(side.other().outer(v6)))??;
            ensure!(source == side.outer(v6), "{source}");
            planes.push(plane);
        }
        // IKE passes before there is an SA, both ports, and knows its addresses.
        for (from, to, port) in [(0, 1, 500), (1, 0, 4500)] {
            let side = |index: usize| if index == 0 { A } else { B };
            let local = SocketAddr::new(side(from).outer(v6), port);
            let remote = SocketAddr::new(side(to).outer(v6), port);
            planes[from].plane.ike_sender().send(local, remote, b"an IKE message")?;
            let event = planes[to].event()?;
            let expected =
                NetEvent::Ike { local: remote, remote: local, datagram: b"an IKE message".to_vec() };
            ensure!(event == expected, "{event:?}");
        }
        for (plane, side) in planes.iter_mut().zip([A, B]) {
            plane.plane.install(child(side, 1, v6, encap, &policy(side, host(side), host(side.other()))))?;
        }
        let mut capture = net.capture(A)?;
        let arguments = [&["-c", "5", "-W", "5"], &PATTERN[..]].concat();
        answered(&ping(net.gateway(A), B.outer(v6), &arguments)?)?;
        let all = passed(&mut capture)?;
        nothing_inner(&all)?;
        let counters = planes[0].plane.counters(ChildId(1)).context("counters")?;
        ensure!((counters.packets_out, counters.packets_in) == (5, 5), "{counters:?}");
    }
    Ok(())
}

#[test]
fn errors_about_outer_packets_are_heard() -> Result<()> {
    for v6 in [false, true] {
        let net = Net::new()?;
        let host = |side: Side| vec![TrafficSelector::subnet(side.outer(v6), if v6 { 128 } else { 32 })];
        let mut a = net.plane(A)?;
        a.plane.set_policies(vec![policy(A, host(A), host(B))])?;
        let mut capture = net.capture(A)?;
        // Nobody listens at the other side, and it says so.
        let (local, remote) = (SocketAddr::new(A.outer(v6), 500), SocketAddr::new(B.outer(v6), 500));
        a.plane.ike_sender().send(local, remote, b"an IKE message")?;
        let (protocol, unreachable) = if v6 { (58, 1) } else { (1, 3) };
        let deadline = Instant::now() + PATIENCE;
        let is_error = |one: &Seen| one.protocol == protocol && one.payload.first() == Some(&unreachable);
        while !passed(&mut capture)?.iter().any(is_error) {
            ensure!(Instant::now() < deadline, "no error came");
        }
        // What asks in the clear comes after it, and is dropped alone.
        unanswered(&ping(net.gateway(B), A.outer(v6), &["-c", "1", "-W", "1"])?)?;
        ensure!(a.plane.stats().fenced_in == 1, "{:?}", a.plane.stats());
    }
    Ok(())
}

#[test]
fn everything_can_be_protected_without_losing_the_own_network() -> Result<()> {
    let net = Net::new()?;
    let any = || vec![TrafficSelector::any_v4(), TrafficSelector::any_v6()];
    let (mut a, mut b) = (net.plane(A)?, net.plane(B)?);
    let (from_a, from_b) = (policy(A, A.networks(), any()), policy(B, any(), A.networks()));
    a.plane.set_policies(vec![from_a.clone()])?;
    b.plane.set_policies(vec![from_b.clone()])?;
    a.plane.install(child(A, 1, false, false, &from_a))?;
    b.plane.install(child(B, 1, false, false, &from_b))?;
    for v6 in [false, true] {
        answered(&net.ping(A, v6, &["-c", "2", "-W", "5"])?).context("through the tunnel")?;
        answered(&net.ping(B, v6, &["-c", "2", "-W", "5"])?).context("through the tunnel, back")?;
        answered(&ping(net.host(A), A.inner(v6, 1), &["-c", "2", "-W", "5"])?)
            .context("host to its gateway")?;
        answered(&ping(net.gateway(A), A.inner(v6, 10), &["-c", "2", "-W", "5"])?)
            .context("gateway to its host")?;
        answered(&ping(net.gateway(A), A.inner(v6, 1), &["-c", "2", "-W", "5"])?)
            .context("gateway to itself")?;
        answered(&ping(net.gateway(A), B.inner(v6, 10), &["-c", "2", "-W", "5"])?)
            .context("gateway, tunnel")?;
    }
    Ok(())
}

/// One TCP connection, opened and answered.
fn connects(net: &Net, from: Side, (to, port): (IpAddr, u16)) -> Result<()> {
    let listener = net.gateway(from.other()).run(|| TcpListener::bind((to, port)))??;
    net.gateway(from).run(|| TcpStream::connect_timeout(&(to, port).into(), PATIENCE))??;
    listener.accept()?;
    Ok(())
}

#[test]
fn nobody_outside_passes_for_a_host_of_ours() -> Result<()> {
    let net = Net::new()?;
    let mut a = net.plane(A)?;
    a.plane.set_policies(vec![policy(
        A,
        A.networks(),
        vec![TrafficSelector::any_v4(), TrafficSelector::any_v6()],
    )])?;
    let mut lan = net.host(A).run(|| Capture::open("lan"))??;
    let mut outside = net.gateway(B).netlink()?;
    let wan = outside.link("wan")?.index;
    for v6 in [false, true] {
        let (claimed, host) = (A.inner(v6, 7), A.inner(v6, 10));
        let (width, all) = if v6 { (64, 128) } else { (16, 32) };
        outside.add_address(wan, claimed, all)?;
        outside.add_route(&route(v6, Some((A.inner(v6, 0), width)), wan, A.outer(v6)))?;
        for to in [host, A.inner(v6, 1)] {
            unanswered(&ping(net.gateway(B), to, &["-c", "1", "-W", "1", "-I", &claimed.to_string()])?)?;
        }
        let let_in = passed(&mut lan)?.iter().filter(|one| one.source == claimed).count();
        ensure!(let_in == 0, "a spoofed packet was let in");
        answered(&ping(net.host(A), A.inner(v6, 1), &["-c", "1", "-W", "5"])?).context("a real one")?;
    }
    ensure!(a.plane.stats().fenced_in == 4, "{:?}", a.plane.stats());
    Ok(())
}

#[test]
fn what_no_policy_protects_keeps_its_way() -> Result<()> {
    let net = Net::new()?;
    for side in [A, B] {
        net.gateway(side).sysctl("net/ipv4/conf/all/rp_filter", "1")?;
    }
    let any = || vec![TrafficSelector::any_v4(), TrafficSelector::any_v6()];
    let (mut a, mut b) = (net.plane(A)?, net.plane(B)?);
    let (from_a, from_b) = (policy(A, A.networks(), any()), policy(B, any(), A.networks()));
    a.plane.set_policies(vec![from_a.clone()])?;
    b.plane.set_policies(vec![from_b.clone()])?;
    for v6 in [false, true] {
        // Someone administers the gateway from outside, whether the tunnel is up or not.
        connects(&net, B, (A.outer(v6), 22)).context("to the outer address")?;
    }
    a.plane.install(child(A, 1, false, false, &from_a))?;
    b.plane.install(child(B, 1, false, false, &from_b))?;
    for v6 in [false, true] {
        connects(&net, B, (A.outer(v6), 22)).context("to the outer address, with a tunnel")?;
        answered(&net.ping(A, v6, &["-c", "2", "-W", "5"])?).context("through the tunnel")?;
        answered(&net.ping(B, v6, &["-c", "2", "-W", "5"])?).context("through the tunnel, back")?;
        // Its source is chosen so that the tunnel takes it.
        answered(&ping(net.gateway(A), B.inner(v6, 10), &["-c", "2", "-W", "5"])?).context("gateway")?;
    }
    Ok(())
}

#[test]
fn a_policy_for_one_protocol_leaves_the_others_alone() -> Result<()> {
    let net = Net::new()?;
    net.route_in_the_clear(A)?;
    net.route_in_the_clear(B)?;
    let mut a = net.plane(A)?;
    let port_22 =
        |selector: TrafficSelector| TrafficSelector { protocol: 6, start_port: 22, end_port: 22, ..selector };
    let remote = B.networks().into_iter().map(port_22).collect();
    a.plane.set_policies(vec![policy(A, A.networks(), remote)])?;
    for v6 in [false, true] {
        answered(&net.ping(A, v6, &["-c", "2", "-W", "5"])?).context("not TCP")?;
        answered(&ping(net.gateway(A), B.inner(v6, 10), &["-c", "2", "-W", "5"])?).context("gateway")?;
        connects(&net, A, (B.inner(v6, 1), 80)).context("another port")?;
        let dropped = a.drops(DropCause::NoSa);
        let protected = (B.inner(v6, 1), 22).into();
        let connected =
            net.host(A).run(|| TcpStream::connect_timeout(&protected, Duration::from_millis(500)))?;
        ensure!(connected.is_err() && a.drops(DropCause::NoSa) > dropped, "{:?}", a.plane.stats());
    }
    Ok(())
}

#[test]
fn senders_learn_the_mtu_of_the_tunnel() -> Result<()> {
    for (v6, encap) in [(false, true), (true, false)] {
        let net = Net::new()?;
        for side in [A, B] {
            let mut netlink = net.gateway(side).netlink()?;
            let wan = netlink.link("wan")?.index;
            netlink.set_mtu(wan, 1300)?;
        }
        let (a, _b) = tunnel(&net, v6, encap)?;
        // AES-GCM: ESP header 8, IV 8, pad length and next header 2, ICV 16; the trailer ends on 4 octets.
        let outer = if v6 { 40 } else { 20 } + if encap { 8 } else { 0 };
        let mtu = (1300 - outer - 8 - 8 - 16) / 4 * 4 - 2;
        let exact = (mtu - 28).to_string();
        let above = (mtu - 27).to_string();
        answered(&net.ping(A, false, &["-c", "2", "-W", "5", "-M", "do", "-s", &exact])?)?;
        let refused = net.ping(A, false, &["-c", "2", "-W", "5", "-M", "do", "-s", &above])?;
        unanswered(&refused)?;
        ensure!(stdout(&refused).contains(&format!("mtu = {mtu}")), "{}", stdout(&refused));
        ensure!(a.drops(DropCause::TooBig) >= 1, "{:?}", a.plane.stats());
        // What may be cut is cut; what cannot be refused is carried in fragments, even if 1280 octets do not fit.
        answered(&net.ping(A, false, &["-c", "2", "-W", "5", "-M", "dont", "-s", "4000"])?)?;
        // The first ones teach the sender: the MTU of the TUN device, then that of the path.
        net.ping(A, true, &["-c", "4", "-W", "1", "-s", "4000"])?;
        answered(&net.ping(A, true, &["-c", "2", "-W", "5", "-s", "4000"])?)?;
    }
    Ok(())
}

#[test]
fn tcp_arrives_whole_in_both_directions_at_once() -> Result<()> {
    const OCTETS: usize = 20 << 20;
    let text =
        |from: Side| (0..OCTETS).map(move |i| (i >> 8) as u8 ^ (i as u8).wrapping_mul(from.number() + 2));
    let send = |from: Side, mut stream: &TcpStream| -> Result<()> {
        stream.write_all(&text(from).collect::<Vec<_>>())?;
        Ok(stream.shutdown(std::net::Shutdown::Write)?)
    };
    let check = |from: Side, mut stream: &TcpStream| -> Result<()> {
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        ensure!(
            all.len() == OCTETS && all.into_iter().eq(text(from)),
            "what {from:?} sent has changed on the way"
        );
        Ok(())
    };
    for (v6, encap, inner_v6) in [(false, true, false), (true, false, true)] {
        let net = Net::new()?;
        let (a, b) = tunnel(&net, v6, encap)?;
        let listener = net.host(B).run(|| TcpListener::bind((B.inner(inner_v6, 10), 7)))??;
        let near = net.host(A).run(|| TcpStream::connect(listener.local_addr()?))??;
        let (far, _) = listener.accept()?;
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
        }
        std::thread::scope(|scope| -> Result<()> {
            let sends = [scope.spawn(|| send(A, &near)), scope.spawn(|| send(B, &far))];
            let checks = [scope.spawn(|| check(A, &far)), scope.spawn(|| check(B, &near))];
            for done in checks.into_iter().chain(sends) {
                let result = done.join().map_err(|_| anyhow!("panicked"))?;
                result.with_context(|| format!("{:?}", a.plane.stats()))?;
            }
            Ok(())
        })?;
        let (a, b) = (a.plane.counters(ChildId(1)).context("a")?, b.plane.counters(ChildId(1)).context("b")?);
        ensure!(a.bytes_out > OCTETS as u64 && b.bytes_out > OCTETS as u64, "{a:?} {b:?}");
    }
    Ok(())
}

#[test]
fn traffic_class_goes_out_and_congestion_comes_back_in() -> Result<()> {
    for (v6, encap) in [(false, false), (false, true), (true, false), (true, true)] {
        let net = Net::new()?;
        let (_a, _b) = tunnel(&net, v6, encap)?;
        let mut outer = net.capture(A)?;
        let mut lan = net.host(B).run(|| Capture::open("lan"))??;
        // A router between the gateways that meets congestion: ECT(0), 2, becomes CE, 3.
        let rules = "table inet router { chain c { type filter hook prerouting priority -300; \
                     iifname wan ip ecn set ce; iifname wan ip6 ecn set ce;\n}\n}";
        answered(&run(net.gateway(B), "nft", &[rules])?)?;
        for inner_v6 in [false, true] {
            // Expedited forwarding and ECT(0): 46 << 2 | 2 = 186.
            answered(&net.ping(A, inner_v6, &["-c", "1", "-W", "5", "-Q", "186"])?)?;
        }
        let marked = |all: Vec<Seen>, class: u8| all.iter().filter(|one| one.traffic_class == class).count();
        ensure!(marked(passed(&mut outer)?, 186) >= 2, "DSCP and ECN are not copied to the outer header");
        ensure!(marked(passed(&mut lan)?, 187) >= 2, "congestion met on the way is not told");
    }
    Ok(())
}

#[test]
fn garbage_is_counted_and_the_tunnel_goes_on() -> Result<()> {
    let net = Net::new()?;
    let (a, _b) = tunnel(&net, false, true)?;
    let socket = net.gateway(B).run(|| UdpSocket::bind((B.outer(false), 40_000)))??;
    let to = SocketAddr::new(A.outer(false), 4500);
    let from = SocketAddr::new(B.outer(false), 40_000);
    let send = |datagram: &[u8]| socket.send_to(datagram, to);
    send(&[0xff])?;
    send(&[])?;
    send(&[1, 2, 3])?;
    // An SPI of nobody; then one that exists, with everything from nothing to noise behind it.
    send(&[9, 9, 9, 9, 0, 0, 0, 1])?;
    for len in 4..200 {
        let mut datagram = vec![0xa5; len];
        datagram.splice(..4, 0xadad_0102_u32.to_be_bytes());
        send(&datagram)?;
    }
    send(&[0, 0, 0, 0, b'I', b'K', b'E'])?;
    let local = to;
    ensure!(a.event()? == NetEvent::UnknownSpi { spi: Spi(0x0909_0909), remote: from });
    // Datagrams of one socket arrive in order: after this one all others have been dealt with.
    ensure!(a.event()? == NetEvent::Ike { local, remote: from, datagram: b"IKE".to_vec() });
    ensure!(
        a.drops(DropCause::UnknownSpi) == 1 && a.drops(DropCause::OuterMalformed) >= 1,
        "{:?}",
        a.plane.stats()
    );
    ensure!(a.drops(DropCause::Refused) == 196, "{:?}", a.plane.stats());
    ensure!(a.plane.stats().keepalives_received == 1);
    answered(&net.ping(A, false, &["-c", "1", "-W", "5"])?)
}

#[test]
fn devices_are_born_without_ipv6_in_containers() -> Result<()> {
    let net = Net::new()?;
    net.gateway(A).sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
    let (_a, _b) = tunnel(&net, false, false)?;
    answered(&net.ping(A, true, &["-c", "1", "-W", "5"])?)?;
    // With IPv6 off everywhere there is nothing to protect it with, and it says so.
    net.gateway(B).sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
    drop(_b);
    let mut b = net.plane(B)?;
    net.gateway(B).sysctl("net/ipv6/conf/adit0/disable_ipv6", "1")?;
    match b.plane.set_policies(vec![networks_policy(B)]) {
        Ok(()) => bail!("routes without IPv6"),
        Err(error) => ensure!(error.to_string().contains("IPv6 is switched off"), "{error}"),
    }
    Ok(())
}

#[test]
fn a_deleted_device_is_a_failure_that_stays_closed() -> Result<()> {
    let net = Net::new()?;
    let before = system(net.gateway(A))?;
    let (a, b) = tunnel(&net, false, false)?;
    answered(&run(net.gateway(A), "ip", &["link", "delete", "adit0"])?)?;
    let event = a.event()?;
    ensure!(matches!(&event, NetEvent::Failed { reason } if reason.contains("TUN device")), "{event:?}");
    drop(a);
    let left = system(net.gateway(A))?;
    ensure!(left.contains("unreachable 10.2.0.0/16 table 220") && left.contains("table inet adit"), "{left}");
    unanswered(&net.ping(A, false, &["-c", "1", "-W", "1"])?)?;
    drop(b);
    let (a, _b) = tunnel(&net, false, false)?;
    answered(&net.ping(A, false, &["-c", "1", "-W", "5"])?)?;
    a.plane.shutdown();
    restored(&net, &before)?;
    Ok(())
}

#[test]
fn only_an_orderly_end_opens_what_was_closed() -> Result<()> {
    let net = Net::new()?;
    net.route_in_the_clear(A)?;
    let before = system(net.gateway(A))?;
    let hopeless = ["-c", "1", "-W", "1"];
    let mut first = net.plane(A)?;
    first.plane.set_policies(vec![networks_policy(A)])?;
    let closed = |when: &str| -> Result<()> {
        let state = system(net.gateway(A))?;
        for part in ["unreachable 10.2.0.0/16", "unreachable fd00:2::/64", "lookup 220", "table inet adit"] {
            ensure!(state.contains(part), "{when}, {part} is missing:\n{state}");
        }
        for v6 in [false, true] {
            unanswered(&net.ping(A, v6, &hopeless)?).with_context(|| when.to_owned())?;
        }
        Ok(())
    };
    drop(first);
    closed("dropped")?;

    // Someone else's route is in the way of one of ours: the others have to be there nevertheless.
    let foreign = ["route", "add", "10.2.0.0/16", "dev", "wan", "table", "220", "metric", "100"];
    answered(&run(net.gateway(A), "ip", &foreign)?)?;
    let mut second = net.plane(A)?;
    let wider = policy(
        A,
        A.networks(),
        [B.networks(), vec![TrafficSelector::subnet(IpAddr::from([10, 3, 0, 0]), 16)]].concat(),
    );
    let refused = second.plane.set_policies(vec![wider]).map_err(|error| error.to_string());
    ensure!(refused.as_ref().is_err_and(|error| error.contains("10.2.0.0/16")), "{refused:?}");
    closed("refused in part")?;
    let state = system(net.gateway(A))?;
    for part in ["10.3.0.0/16 dev adit0", "fd00:2::/64 dev adit0"] {
        ensure!(state.contains(part), "{part} is missing:\n{state}");
    }
    drop(second);
    closed("after a start that failed")?;

    let removal = ["route", "del", "10.2.0.0/16", "dev", "wan", "table", "220", "metric", "100"];
    answered(&run(net.gateway(A), "ip", &removal)?)?;
    let mut third = net.plane(A)?;
    third.plane.set_policies(vec![networks_policy(A)])?;
    third.plane.shutdown();
    restored(&net, &before)
}

#[test]
fn a_second_data_plane_says_what_is_in_its_way() -> Result<()> {
    let net = Net::new()?;
    let before = system(net.gateway(A))?;
    let refusal = |config: NetConfig| match net.try_plane(A, config) {
        Ok(_) => bail!("it started"),
        Err(error) => Ok(format!("{error:#}")),
    };
    let other = net.gateway(A).run(|| UdpSocket::bind("0.0.0.0:500"))??;
    let ports = refusal(NetConfig::default())?;
    ensure!(ports.contains("UDP port 500 belongs to another process"), "{ports}");
    drop(other);
    let mut first = net.plane(A)?;
    first.plane.set_policies(vec![networks_policy(A)])?;
    let protected = system(net.gateway(A))?;
    // One with nothing in common but the namespace would take away the first one's fence and routes.
    let second = refusal(NetConfig {
        tun_name: "adit1".into(),
        routing_table: 230,
        rule_priority: 230,
        ike_port: 501,
        nat_t_port: 4501,
        raw_esp: false,
        ..NetConfig::default()
    })?;
    ensure!(second.contains("another Adit protects this network namespace"), "{second}");
    ensure!(system(net.gateway(A))? == protected);
    first.plane.shutdown();
    restored(&net, &before)?;
    Ok(())
}

#[test]
fn the_newest_sa_carries_and_removal_closes() -> Result<()> {
    let net = Net::new()?;
    let (mut a, mut b) = tunnel(&net, false, true)?;
    let once = ["-c", "1", "-W", "5"];
    // The responder's new SA is there before the initiator uses it.
    b.plane.install(child(B, 2, false, true, &networks_policy(B)))?;
    a.plane.install(child(A, 2, false, true, &networks_policy(A)))?;
    answered(&net.ping(A, false, &once)?)?;
    let counts = |plane: &Plane, id| plane.plane.counters(ChildId(id)).map(|c| (c.packets_out, c.packets_in));
    ensure!((counts(&a, 1), counts(&a, 2)) == (Some((0, 0)), Some((1, 1))));
    // One that is narrower than its policy carries what it may, and leaves the rest to the others.
    for (side, plane) in [(A, &mut a), (B, &mut b)] {
        let v6_only =
            |networks: Vec<TrafficSelector>| networks.into_iter().filter(|n| n.start.is_ipv6()).collect();
        let narrow = policy(side, v6_only(side.networks()), v6_only(side.other().networks()));
        plane.plane.install(child(side, 3, false, true, &narrow))?;
    }
    answered(&net.ping(A, false, &once)?)?;
    answered(&net.ping(A, true, &once)?)?;
    ensure!((counts(&a, 2), counts(&a, 3)) == (Some((2, 2)), Some((1, 1))));

    ensure!(a.plane.install(child(A, 3, false, true, &networks_policy(A))).is_err(), "the id is in use");
    let twice = ChildSaInstall { id: ChildId(9), ..child(A, 3, false, true, &networks_policy(A)) };
    ensure!(a.plane.install(twice).is_err(), "the SPI is in use");

    a.plane.remove(ChildId(3));
    a.plane.remove(ChildId(2));
    ensure!(counts(&a, 1) == Some((0, 0)) && counts(&a, 2).is_none());
    unanswered(&net.ping(A, false, &["-c", "1", "-W", "1"])?)?;
    ensure!(counts(&a, 1) == Some((1, 0)), "the question left on what remains");
    let answer =
        NetEvent::UnknownSpi { spi: Spi(0xadad_0202), remote: SocketAddr::new(B.outer(false), 4500) };
    ensure!(a.event()? == answer, "the answer came on an SA that is gone");
    b.plane.remove(ChildId(2));
    answered(&net.ping(A, false, &once)?)?;
    Ok(())
}

#[test]
fn what_the_kernel_does_not_send_does_not_count_as_sent() -> Result<()> {
    let net = Net::new()?;
    let mut a = net.plane(A)?;
    let policy = networks_policy(A);
    // An address that this machine has lost.
    let lost = IpAddr::from([192, 0, 2, 77]);
    a.plane.install(ChildSaInstall { local: lost, ..child(A, 1, false, true, &policy) })?;
    a.plane.set_policies(vec![policy])?;
    unanswered(&net.ping(A, false, &["-c", "3", "-W", "1"])?)?;
    let counters = a.plane.counters(ChildId(1)).context("counters")?;
    ensure!(a.drops(DropCause::Send) == 3, "{:?}", a.plane.stats());
    ensure!((counters.packets_out, counters.bytes_out, counters.last_out) == (0, 0, None), "{counters:?}");
    Ok(())
}
