//! Nothing that a policy protects or discards leaves in the clear, and nothing in the clear arrives in its place: random policies,
//! states of SAs, reloads, kills and restarts, while packets of all flows are sent from the network, from the gateway itself and
//! from outside. Observers outside the gateway check what passes against a plain reading of the policies.
//!
//! One opening is documented: an orderly end lifts the protection. What bypasses passes all the time, with the daemon dead too.
//!
//! `ADIT_LAB_NEVER_CLEAR` says how many events there are to be (400 is the full form, some three minutes), `ADIT_LAB_SEED` which.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "addresses and lists written in this file, and locks whose holders do not panic"
)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use adit_lab::adit::{Adit, Settings};
use adit_lab::capture::Capture;
use adit_lab::lab::{Family, Lab, Node, Side, Topology, with_lab};
use adit_lab::process::{run, run_unchecked, tell};
use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Our hosts; the last is the gateway itself.
const OURS: [&str; 8] = [
    "10.1.0.10",
    "10.1.0.11",
    "10.1.0.12",
    "fd00:1::10",
    "fd00:1::11",
    "fd00:1::12",
    "10.1.0.1",
    "fd00:1::1",
];
const HOSTS: usize = 6;
const THEIRS: [&str; 8] = [
    "10.2.0.10",
    "10.2.0.11",
    "10.2.0.12",
    "10.2.0.40",
    "fd00:2::10",
    "fd00:2::11",
    "fd00:2::12",
    "fd00:2::40",
];
/// The other side's UDP ports, and a protocol without ports.
const PORTS: [u16; 2] = [7001, 7002];
const OUR_PORT: u16 = 6000;
const UDP: u8 = 17;
const EXPERIMENT: u8 = 253;

const LOCALS: [&[&str]; 2] = [
    &["10.1.0.0/24", "10.1.0.8/29", "10.1.0.10/31", "10.1.0.12/32", "10.1.0.1/32", "0.0.0.0/0"],
    &["fd00:1::/64", "fd00:1::10/124", "fd00:1::10/127", "fd00:1::12/128", "fd00:1::1/128", "::/0"],
];
const REMOTES: [&[&str]; 2] = [
    &["10.2.0.0/24", "10.2.0.8/29", "10.2.0.10/31", "10.2.0.12/32", "0.0.0.0/0"],
    &["fd00:2::/64", "fd00:2::10/124", "fd00:2::10/127", "fd00:2::12/128", "::/0"],
];

/// Between two packets of a flow.
const PACE: Duration = Duration::from_millis(20);
/// So many packets of a flow are enough for one to arrive, if any may.
const ENOUGH: u32 = 8;
/// Marks our packets; then a direction, and the number of the stage.
const MAGIC: &[u8] = b"adit-nc:";
const OUTWARD: u8 = b'>';
const INWARD: u8 = b'<';

#[test]
fn adversarial_58_nothing_protected_is_seen_in_the_clear() -> Result<()> {
    let number = |name: &str, default: u32| match std::env::var(name) {
        Ok(text) => text.parse::<u32>().with_context(|| format!("{name} is a number")),
        Err(_) => Ok(default),
    };
    let (events, seed) = (number("ADIT_LAB_NEVER_CLEAR", 30)?, number("ADIT_LAB_SEED", 1)?);
    with_lab("never-clear", Topology::default(), |lab| {
        let seen = story(lab, events, seed).with_context(|| format!("seed {seed}"))?;
        let leaks = seen.leaks();
        ensure!(
            leaks.is_empty(),
            "seed {seed}: in the clear: {:#?}",
            leaks.iter().take(5).collect::<Vec<_>>()
        );
        let held: Vec<_> =
            seen.held_back().into_iter().map(|held| (held, &seen.stages[held.stage as usize])).collect();
        ensure!(
            held.is_empty(),
            "seed {seed}: {} not passed: {:?}",
            held.len(),
            held.iter().take(3).collect::<Vec<_>>()
        );
        tell(&format!(
            "{events} events, {} stages, {} kinds of packets in the clear, {} protected packets, seed {seed}",
            seen.stages.len(),
            seen.clear.len(),
            seen.protected
        ));
        ensure!(seen.protected > 100, "{} protected packets", seen.protected);
        Ok(())
    })
}

/// The observers see a leak where there is one: behind a killed daemon whose fence and routes someone has removed.
#[test]
fn a_gateway_without_its_fence_is_found_out() -> Result<()> {
    with_lab("found-out", Topology::default(), |lab| {
        let policies = vec![Policy::of(Action::Protect, "10.1.0.0/24", "10.2.0.0/24")?];
        let watch = Watch::start(lab)?;
        let adit = start(lab, &policies)?;
        watch.stage(policies.clone())?;
        adit.kill()?;
        watch.stage(policies.clone())?;
        let closed = watch.number();
        lab.run(Node::GatewayA, "nft", &["delete", "table", "inet", "adit"])?;
        lab.run(Node::GatewayA, "ip", &["route", "flush", "table", "220"])?;
        watch.stage(policies)?;
        let seen = watch.end()?;
        // What someone does takes effect while packets still have the number of the stage before.
        for outward in [true, false] {
            let of = |wanted: &dyn Fn(u32) -> bool| {
                seen.leaks().iter().filter(|leak| leak.outward == outward && wanted(leak.stage)).count()
            };
            ensure!(
                of(&|stage| stage < closed) == 0 && of(&|stage| stage > closed) > 0,
                "outward {outward}: {:?}",
                seen.leaks()
            );
        }
        Ok(())
    })
}

/// Lives through so many events.
fn story(lab: &Lab, events: u32, seed: u32) -> Result<Seen> {
    let mut noise = Noise((u64::from(seed) << 20 | 0x9e37_79b9).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut policies = noise.policies()?;
    let watch = Watch::start(lab)?;
    let mut a = start(lab, &policies)?;
    let mut b = Some(start_peer(lab)?);
    watch.stage(policies.clone())?;
    for _ in 0..events {
        match noise.below(9) {
            0 | 1 => {
                policies = noise.policies()?;
                configure(a.config(), &policies)?;
                run(a.command().arg("reload"))?;
            }
            2 | 3 => {
                a.kill()?;
                watch.stage(policies.clone())?;
                if noise.below(2) == 0 {
                    policies = noise.policies()?;
                }
                a = start(lab, &policies)?;
            }
            4 => {
                a.terminate_daemon()?;
                // An orderly end is an opening.
                watch.stage(Vec::new())?;
                policies = noise.policies()?;
                a = start(lab, &policies)?;
            }
            5 | 6 => match b.take() {
                Some(peer) => peer.kill()?,
                None => b = Some(start_peer(lab)?),
            },
            7 => drop(run_unchecked(a.command().args(["down", "gw"]))?),
            _ => drop(a.swanctl(&["--rekey", "--ike", "gw"])),
        }
        watch.stage(policies.clone())?;
    }
    watch.end()
}

fn start(lab: &Lab, policies: &[Policy]) -> Result<Adit> {
    Adit::start_text(lab, Side::A, &render(policies)?, &Settings::default())
}

/// Puts other policies into a configuration.
fn configure(file: &Path, policies: &[Policy]) -> Result<()> {
    let text = std::fs::read_to_string(file)?;
    let rest = text.find("gateway {").context("the gateway's section")?;
    Ok(std::fs::write(file, format!("{}{}", render(policies)?, &text[rest..]))?)
}

fn start_peer(lab: &Lab) -> Result<Adit> {
    let (ours, theirs) = (Side::B.networks(), Side::A.networks());
    let child = format!("all {{\nlocal_ts = {ours}\nremote_ts = {theirs}\n}}\n");
    Adit::start_text(lab, Side::B, &connection(Side::B, &child), &Settings::default())
}

fn connection(side: Side, children: &str) -> String {
    let [ours, theirs] = [side, side.other()].map(|side| side.outer(Family::V4));
    let [our_id, their_id] = [side, side.other()].map(Side::id);
    format!(
        "connections {{ gw {{
          local_addrs = {ours}
          remote_addrs = {theirs}
          dpd_delay = 1s
          retransmit_wait = 100ms
          retransmit_give_up = 1s
          unique = replace
          local {{ auth = psk
            id = {our_id} }}
          remote {{ auth = psk
            id = {their_id} }}
          children {{ {children} }}
        }} }}
        secrets {{ ike-1 {{ secret = \"never-in-the-clear\" }} }}\n"
    )
}

fn render(policies: &[Policy]) -> Result<String> {
    let (mut protected, mut shunts) = (String::new(), String::new());
    for (number, policy) in policies.iter().enumerate() {
        let flow = match (policy.protocol, policy.port) {
            (0, _) => String::new(),
            (UDP, Some(port)) => format!("[udp/{port}]"),
            (UDP, None) => "[udp]".to_owned(),
            (other, _) => format!("[{other}]"),
        };
        let (into, mode) = match policy.action {
            Action::Protect => (&mut protected, "tunnel"),
            Action::Bypass => (&mut shunts, "pass"),
            Action::Discard => (&mut shunts, "drop"),
        };
        let start = if policy.action == Action::Protect && number % 2 == 0 { "start" } else { "trap" };
        write!(
            into,
            "p{number} {{\nmode = {mode}\nstart_action = {start}\npriority = {}\nlocal_ts = {}\nremote_ts = {}{flow}\n}}\n",
            policy.priority, policy.local, policy.remote
        )?;
    }
    if !shunts.is_empty() {
        shunts = format!("connections {{ shunts {{ children {{\n{shunts}}} }} }}\n");
    }
    Ok(format!("{}{shunts}", connection(Side::A, &protected)))
}

// The plain reading of policies.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Protect,
    Bypass,
    Discard,
}

#[derive(Clone, Debug)]
struct Policy {
    action: Action,
    priority: u32,
    local: &'static str,
    remote: &'static str,
    /// 0 is any.
    protocol: u8,
    /// Of the other side.
    port: Option<u16>,
}

/// Packets that a policy cannot tell apart, seen from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flow {
    ours: IpAddr,
    theirs: IpAddr,
    protocol: u8,
    /// The other side's, of UDP.
    port: u16,
}

impl Policy {
    fn of(action: Action, local: &'static str, remote: &'static str) -> Result<Self> {
        Ok(Self { action, priority: 0, local, remote, protocol: 0, port: None })
    }

    fn fits(&self, flow: &Flow) -> bool {
        within(flow.ours, self.local)
            && within(flow.theirs, self.remote)
            && (self.protocol == 0 || self.protocol == flow.protocol)
            && self.port.is_none_or(|port| port == flow.port)
    }

    /// The least comes first: a priority before none, then more bits, then a protocol, then a port.
    fn order(&self) -> (u32, Reverse<(u32, bool, bool)>) {
        let bits = bits(self.local) + bits(self.remote);
        (self.priority.wrapping_sub(1), Reverse((bits, self.protocol != 0, self.port.is_some())))
    }
}

fn bits(prefix: &str) -> u32 {
    prefix.split_once('/').map_or(0, |(_, bits)| bits.parse().unwrap())
}

fn within(address: IpAddr, prefix: &str) -> bool {
    let network: IpAddr = prefix.split_once('/').unwrap().0.parse().unwrap();
    let number = |address| match address {
        IpAddr::V4(v4) => (32, u128::from(v4.to_bits())),
        IpAddr::V6(v6) => (128, v6.to_bits()),
    };
    let ((width, address), (other, network)) = (number(address), number(network));
    width == other && (address ^ network).checked_shr(width - bits(prefix)).unwrap_or(0) == 0
}

fn decides(policies: &[Policy], flow: &Flow) -> Option<Action> {
    policies
        .iter()
        .filter(|policy| policy.fits(flow))
        .min_by_key(|policy| policy.order())
        .map(|policy| policy.action)
}

fn flows() -> impl Iterator<Item = (usize, Flow)> {
    let addresses = |list: [&str; 8]| list.map(|text| text.parse::<IpAddr>().unwrap());
    addresses(OURS).into_iter().enumerate().flat_map(move |(index, ours)| {
        let theirs = addresses(THEIRS).into_iter().filter(move |theirs| theirs.is_ipv4() == ours.is_ipv4());
        theirs.flat_map(move |theirs| {
            let udp = PORTS.map(|port| Flow { ours, theirs, protocol: UDP, port });
            udp.into_iter()
                .chain([Flow { ours, theirs, protocol: EXPERIMENT, port: 0 }])
                .map(move |flow| (index, flow))
        })
    })
}

// Who sends, and who watches.

/// Sends packets of all flows, and observes both sides of gateway A.
struct Watch<'l> {
    lab: &'l Lab,
    shared: Arc<Shared>,
    sender: JoinHandle<Result<()>>,
    outside: Capture,
    inside: Capture,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    stage: AtomicU32,
    /// Packets of each flow sent in this stage.
    rounds: AtomicU32,
    /// What was in force at the end of each stage.
    stages: Mutex<Vec<Vec<Policy>>>,
    /// What the gateway itself received in the clear.
    received: Mutex<HashSet<Clear>>,
}

/// A packet in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Clear {
    outward: bool,
    stage: u32,
    flow: Flow,
}

/// All that was seen.
struct Seen {
    stages: Vec<Vec<Policy>>,
    clear: HashSet<Clear>,
    protected: usize,
}

impl<'l> Watch<'l> {
    fn start(lab: &'l Lab) -> Result<Self> {
        let text = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
        let mut batch =
            vec![(Node::Net, text(&["route", "add", "10.1.0.0/24", "via", Side::A.outer(Family::V4)]))];
        batch.push((
            Node::Net,
            text(&["-6", "route", "add", "fd00:1::/64", "via", Side::A.outer(Family::V6)]),
        ));
        for host in ["10.1.0.11/24", "10.1.0.12/24", "fd00:1::11/64", "fd00:1::12/64"] {
            batch.push((Node::HostA, text(&["address", "add", host, "dev", "lan0"])));
        }
        // In the clear the other side's hosts are at the router.
        for host in THEIRS {
            batch.push((Node::Net, text(&["address", "add", host, "dev", "lo"])));
        }
        for (node, arguments) in batch {
            lab.run(node, "ip", &arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        let shared = Arc::new(Shared { stages: Mutex::new(vec![Vec::new()]), ..Shared::default() });
        let sender = Sender::new(lab, Arc::clone(&shared))?;
        let outside = Capture::start(lab, Node::Net, "a0", "")?;
        let inside = Capture::start(lab, Node::HostA, "lan0", "")?;
        let sender = std::thread::spawn(move || sender.run());
        Ok(Self { lab, shared, sender, outside, inside })
    }

    fn number(&self) -> u32 {
        self.shared.stage.load(Ordering::SeqCst)
    }

    /// An event is over, and this is in force now: watches it for a while.
    fn stage(&self, policies: Vec<Policy>) -> Result<()> {
        self.shared.stages.lock().unwrap().push(policies);
        self.shared.stage.fetch_add(1, Ordering::SeqCst);
        self.shared.rounds.store(0, Ordering::SeqCst);
        // One more: the first may have begun in the stage before.
        while self.shared.rounds.load(Ordering::SeqCst) <= ENOUGH {
            ensure!(!self.sender.is_finished(), "the sender has ended");
            std::thread::sleep(PACE);
        }
        Ok(())
    }

    fn end(self) -> Result<Seen> {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.sender.join().map_err(|_| anyhow::anyhow!("the sender has panicked"))??;
        let mut clear = std::mem::take(&mut *self.shared.received.lock().unwrap());
        let mut protected = 0;
        for (capture, interface, outward) in [(self.outside, "wan0", true), (self.inside, "lan0", false)] {
            let mac =
                self.lab.run(Node::GatewayA, "cat", &[&format!("/sys/class/net/{interface}/address")])?;
            let mac = mac
                .trim()
                .split(':')
                .map(|octet| u8::from_str_radix(octet, 16))
                .collect::<Result<Vec<u8>, _>>()?;
            let file = std::fs::read(capture.stop()?)?;
            for frame in frames(&file).filter(|frame| frame.get(6..12) == Some(&mac)) {
                let Some(ip) = Ip::read(frame.get(12..).context("a frame")?) else { continue };
                protected += usize::from(outward && ip.is_protected());
                let direction = if outward { None } else { Some(INWARD) };
                if let Some((way, stage)) = mark(frame)
                    && direction.is_none_or(|wanted| wanted == way)
                {
                    clear.insert(Clear { outward, stage, flow: ip.flow(outward) });
                }
            }
        }
        let stages = std::mem::take(&mut *self.shared.stages.lock().unwrap());
        Ok(Seen { stages, clear, protected })
    }
}

impl Seen {
    /// What neither the policies of its stage nor those of the next let pass: the gateway may have taken it at the very
    /// moment of the change.
    fn leaks(&self) -> Vec<Clear> {
        let allowed = |clear: &Clear| {
            let stage = clear.stage as usize;
            let (now, next) = (self.stages.get(stage), self.stages.get(stage + 1));
            [now, next].into_iter().flatten().any(|policies| {
                !matches!(decides(policies, &clear.flow), Some(Action::Protect | Action::Discard))
            })
        };
        self.clear.iter().filter(|clear| !allowed(clear)).copied().collect()
    }

    /// What bypasses and was not seen to.
    fn held_back(&self) -> Vec<Clear> {
        let mut missing = Vec::new();
        for (stage, policies) in (0..).zip(&self.stages).skip(1) {
            for (index, flow) in flows().filter(|(_, flow)| decides(policies, flow) == Some(Action::Bypass)) {
                for outward in [true, false] {
                    let clear = Clear { outward, stage, flow };
                    let shows = outward || index < HOSTS || flow.protocol == UDP;
                    if shows && !self.clear.contains(&clear) {
                        missing.push(clear);
                    }
                }
            }
        }
        missing
    }
}

/// All sockets, and the loop that uses them.
struct Sender {
    shared: Arc<Shared>,
    ours: BTreeMap<(usize, u8), OwnedFd>,
    theirs: BTreeMap<(IpAddr, u8, u16), OwnedFd>,
}

impl Sender {
    fn new(lab: &Lab, shared: Arc<Shared>) -> Result<Self> {
        let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
        for (index, address) in OURS.iter().enumerate() {
            let node = if index < HOSTS { Node::HostA } else { Node::GatewayA };
            let address: IpAddr = address.parse()?;
            for (protocol, port) in [(UDP, OUR_PORT), (EXPERIMENT, 0)] {
                ours.insert((index, protocol), socket(lab, node, SocketAddr::new(address, port), protocol)?);
            }
        }
        for address in THEIRS {
            let address: IpAddr = address.parse()?;
            for (protocol, port) in [(UDP, PORTS[0]), (UDP, PORTS[1]), (EXPERIMENT, 0)] {
                let socket = socket(lab, Node::Net, SocketAddr::new(address, port), protocol)?;
                theirs.insert((address, protocol, port), socket);
            }
        }
        Ok(Self { shared, ours, theirs })
    }

    fn run(self) -> Result<()> {
        while !self.shared.stop.load(Ordering::SeqCst) {
            let stage = self.shared.stage.load(Ordering::SeqCst);
            for (index, flow) in flows() {
                let [ours, theirs] = match flow.protocol {
                    UDP => [OUR_PORT, flow.port],
                    _ => [0, 0],
                };
                let (ours, theirs) = (SocketAddr::new(flow.ours, ours), SocketAddr::new(flow.theirs, theirs));
                let ends = [
                    (self.ours.get(&(index, flow.protocol)), theirs, OUTWARD),
                    (self.theirs.get(&(flow.theirs, flow.protocol, flow.port)), ours, INWARD),
                ];
                for (socket, to, way) in ends {
                    let payload = [MAGIC, &[way], &stage.to_be_bytes()].concat();
                    // What the gateway refuses is as good as dropped.
                    let _ =
                        rustix::net::sendto(socket.context("a socket")?, &payload, SendFlags::DONTWAIT, &to);
                }
            }
            for ((index, protocol), socket) in &self.ours {
                if *index >= HOSTS && *protocol == UDP {
                    self.receive(socket, OURS[*index].parse()?)?;
                }
            }
            self.shared.rounds.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(PACE);
        }
        Ok(())
    }

    /// Notes what has come for the gateway itself.
    fn receive(&self, socket: &OwnedFd, ours: IpAddr) -> Result<()> {
        let mut buffer = [0; 256];
        while let Ok((len, _, from)) = rustix::net::recvfrom(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            let from = SocketAddr::try_from(from.context("a source")?)?;
            if let Some((INWARD, stage)) = mark(&buffer[..len]) {
                let flow = Flow { ours, theirs: from.ip(), protocol: UDP, port: from.port() };
                self.shared.received.lock().unwrap().insert(Clear { outward: false, stage, flow });
            }
        }
        Ok(())
    }
}

fn socket(lab: &Lab, node: Node, address: SocketAddr, protocol: u8) -> Result<OwnedFd> {
    let namespace = File::open(Path::new("/run/netns").join(lab.namespace(node)))?;
    let make = move || {
        let network = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(namespace.as_fd(), network)?;
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let kind = if protocol == UDP { SocketType::DGRAM } else { SocketType::RAW };
        let protocol = NonZeroU32::new(protocol.into()).map(rustix::net::Protocol::from_raw);
        let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?;
        rustix::net::bind(&socket, &address)?;
        Ok::<OwnedFd, rustix::io::Errno>(socket)
    };
    let made = std::thread::spawn(make).join().map_err(|_| anyhow::anyhow!("a thread has panicked"))?;
    made.with_context(|| format!("a socket at {address}"))
}

/// The direction and the stage of a packet of ours, wherever in the octets it is.
fn mark(octets: &[u8]) -> Option<(u8, u32)> {
    let place = octets.windows(MAGIC.len()).position(|window| window == MAGIC)?;
    let rest = octets.get(place + MAGIC.len()..)?;
    Some((*rest.first()?, u32::from_be_bytes(*rest.get(1..)?.first_chunk()?)))
}

/// The frames of a pcap file.
fn frames(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = file.get(24..).unwrap_or_default();
    std::iter::from_fn(move || {
        let len = u32::from_le_bytes(*rest.get(8..)?.first_chunk()?) as usize;
        let frame = rest.get(16..16 + len)?;
        rest = &rest[16 + len..];
        Some(frame)
    })
}

/// What an observer reads from an IP header.
struct Ip {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ports: [u16; 2],
}

impl Ip {
    /// From the EtherType on.
    fn read(frame: &[u8]) -> Option<Self> {
        let (source, destination, protocol, payload) = match frame {
            [0x08, 0x00, ip @ ..] => {
                let address = |at: usize| Some(IpAddr::from(*ip.get(at..)?.first_chunk::<4>()?));
                (address(12)?, address(16)?, *ip.get(9)?, ip.get(usize::from(ip.first()? & 15) * 4..)?)
            }
            [0x86, 0xdd, ip @ ..] => {
                let address = |at: usize| Some(IpAddr::from(*ip.get(at..)?.first_chunk::<16>()?));
                (address(8)?, address(24)?, *ip.get(6)?, ip.get(40..)?)
            }
            _ => return None,
        };
        let port =
            |at: usize| payload.get(at..).and_then(|p| p.first_chunk()).map_or(0, |p| u16::from_be_bytes(*p));
        Some(Self { source, destination, protocol, ports: [port(0), port(2)] })
    }

    fn is_protected(&self) -> bool {
        self.protocol == 50 || (self.protocol == UDP && self.ports == [4500, 4500])
    }

    fn flow(&self, outward: bool) -> Flow {
        let Self { source, destination, protocol, ports: [from, to] } = *self;
        let port = match (protocol, outward) {
            (UDP, true) => to,
            (UDP, false) => from,
            _ => 0,
        };
        let (ours, theirs) = if outward { (source, destination) } else { (destination, source) };
        Flow { ours, theirs, protocol, port }
    }
}

struct Noise(u64);

impl Noise {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % limit as u64) as usize
    }

    /// Some policies, none of which decides as soon as another one.
    fn policies(&mut self) -> Result<Vec<Policy>> {
        let mut policies: Vec<Policy> = Vec::new();
        let prioritized = self.below(3) == 0;
        for number in 0..2 + self.below(6) {
            let family = self.below(2);
            let action = [Action::Protect, Action::Protect, Action::Bypass, Action::Discard][self.below(4)];
            let local = LOCALS[family][self.below(LOCALS[family].len())];
            let remote = REMOTES[family][self.below(REMOTES[family].len())];
            let protocol = [0, 0, UDP, EXPERIMENT][self.below(4)];
            let port = (protocol == UDP && self.below(2) == 0).then(|| PORTS[self.below(2)]);
            let priority = if prioritized { number as u32 % 5 } else { 0 };
            let policy = Policy { priority, protocol, port, ..Policy::of(action, local, remote)? };
            if policies.iter().all(|other| other.order() != policy.order()) {
                policies.push(policy);
            }
        }
        Ok(policies)
    }
}
