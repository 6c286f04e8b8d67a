//! Adit's data plane against the ESP of a real Linux kernel, with keys set by hand: no IKE, nothing of ours at the other
//! end. The kernel is the guest that takes gateway B's place.
//!
//! ```text
//! hostA 10.1.0.77 -- gwA: Adit ------ net ------ guest: Linux XFRM -- hostB 10.2.0.77
//!       fd00:1::77                     |                                    fd00:2::77
//!                        holds, orders, marks and damages
//! ```
//!
//! Packets enter as they are through raw sockets of the hosts and are caught at packet level on the other host's link.
//! Each has to be there once, in order, and octet for octet what was sent; but for the TTL or hop limit, which is two
//! less, since each gateway forwards, and with it the header checksum of IPv4; and, where the test marks outer headers,
//! the ECN field.

#![expect(clippy::indexing_slicing, reason = "helpers of a test fail as the test does")]

mod dummies;
mod marks;
mod numbers;
mod refused;
mod scapy;
mod sizes;
mod suites;
mod transport;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use adit_crypto::{EspKeys, EspTransforms, Secret};
use adit_esp::{Mode, SaParameters};
use adit_lab::guest::Guest;
use adit_lab::lab::{FAMILIES, Family, Lab, Node, SIDES, Side, Topology, with_lab};
use adit_lab::process::tell;
use adit_net::capture::Capture;
use adit_net::{
    Backend, ChildCounters, ChildId, ChildSaInstall, DropCause, Limits, NetConfig, NetEvent, PolicyId,
    PolicySpec, Treatment, UdpEncap, Userspace,
};
use adit_wire::ikev2::{Spi, TrafficSelector};
use anyhow::{Context, Result, bail, ensure};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
use suites::Suite;

/// However slow the machine: what has not arrived by then will not.
const PATIENCE: Duration = Duration::from_secs(20);

/// One boot for all: the order of the parts is the order of the questions one would ask. `ADIT_LAB_KERNEL` names one to
/// do alone.
#[test]
fn a_linux_kernel_and_adit_understand_each_other() -> Result<()> {
    with_lab("kernel", Topology::default(), |lab| {
        let start = Instant::now();
        let mut scene = Scene::new(lab)?;
        tell(&format!("booted: {:?}", start.elapsed()));
        type Part = fn(&mut Scene<'_>) -> Result<()>;
        let parts: [(&str, Part); 9] = [
            ("every suite both ways", suites::every_suite_both_ways),
            ("transport mode", transport::the_gateways_talk_to_each_other),
            ("marks of outer and inner headers", marks::congestion_and_classes_pass_the_tunnel),
            ("don't fragment", marks::the_dont_fragment_bit_is_copied),
            ("sizes", sizes::a_narrow_link_is_told_to_the_senders),
            ("replay windows", numbers::windows_are_as_wide_as_they_say),
            ("2^32", numbers::extended_numbers_pass_the_edge),
            ("what is refused", refused::what_is_damaged_or_repeated_is_counted_and_dropped),
            ("dummies", dummies::they_are_dropped_in_silence),
        ];
        let mut failures = Vec::new();
        let chosen = std::env::var("ADIT_LAB_KERNEL").unwrap_or_default();
        for (name, part) in parts.into_iter().filter(|(name, _)| name.contains(&chosen)) {
            let start = Instant::now();
            if let Err(error) = part(&mut scene) {
                failures.push(format!("{name}: {error:#}\n{}", scene.drop_counts()?));
                // Of what it has left in the air nothing must reach the next part.
                scene.silence()?;
            }
            tell(&format!("{name}: {:?}", start.elapsed()));
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
        Ok(())
    })
}

struct Scene<'l> {
    lab: &'l Lab,
    guest: Guest,
    plane: Box<Userspace>,
    events: Receiver<NetEvent>,
    /// The hosts behind A and B.
    ends: [End; 2],
    /// The router between the gateways: what leaves gateway A and gateway B.
    between: [End; 2],
    noise: Noise,
    /// Counts installations, and gives their SAs new SPIs.
    generation: u32,
    /// The largest inner packet that the data plane's device takes whatever the SA.
    mtu: usize,
}

/// A place where packets are caught and sent.
struct End {
    v4: OwnedFd,
    v6: OwnedFd,
    link: Capture,
    /// Octets in front of the IP packet.
    link_header: usize,
}

/// An SA pair between Adit and the kernel.
#[derive(Clone, Copy)]
struct Sas<'s> {
    suite: &'s Suite,
    /// Transport mode instead of tunnel mode.
    transport: bool,
    outer: Family,
    encap: bool,
    esn: bool,
    window: u32,
    /// The kernel's sequence number so far, for what it sends.
    kernel_sent: u64,
}

impl Sas<'static> {
    /// What a part changes only where it is about it.
    fn usual() -> Self {
        let [suite, ..] = &suites::SUITES;
        let outer = Family::V4;
        Self { suite, transport: false, outer, encap: false, esn: false, window: 1024, kernel_sent: 0 }
    }
}

impl Sas<'_> {
    /// What passes it on this side: both networks in tunnel mode, the gateway alone in transport mode.
    fn traffic(&self, side: Side) -> Result<Vec<TrafficSelector>> {
        if self.transport { host(side, self.outer) } else { networks(side) }
    }
}

impl fmt::Display for Sas<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encap = if self.encap { " in UDP" } else { "" };
        let mode = if self.transport { "transport" } else { "tunnel" };
        let esn = if self.esn { " esn" } else { "" };
        write!(f, "{} {mode}{esn} over {:?}{encap}, window {}", self.suite.name, self.outer, self.window)
    }
}

impl<'l> Scene<'l> {
    fn new(lab: &'l Lab) -> Result<Self> {
        let mut guest = Guest::start(lab, Side::B)?;
        // A socket that takes ESP out of UDP (RFC 3948): IKE daemons have one.
        let holder = lab.dir().join("udp_encap.py");
        std::fs::write(&holder, UDP_ENCAP)?;
        guest.run(&format!(
            "python3 {} </dev/null >/mnt/encap 2>&1 &\n\
             for i in $(seq 200); do grep -q ready /mnt/encap && exit 0; sleep 0.05; done; cat /mnt/encap; exit 1",
            holder.display()
        ))?;
        let (sender, events) = mpsc::channel();
        let report = move |event| {
            // The test has ended.
            let _ = sender.send(event);
        };
        let mut plane =
            lab.inside(Node::GatewayA, || Userspace::start(NetConfig::default(), Box::new(report)))??;
        plane.set_policies(vec![networks_policy()?])?;
        let mtu = lab.run(Node::GatewayA, "cat", &["/sys/class/net/adit0/mtu"])?.trim().parse()?;
        for side in SIDES {
            // Somebody who is there and answers nothing: caught on the link, of no interest to the host.
            for family in FAMILIES {
                let neighbour =
                    format!("neigh replace {} lladdr 02:00:00:00:00:77 dev lan0", endpoint(side, family)?);
                match side {
                    Side::A => {
                        let words: Vec<&str> = neighbour.split(' ').collect();
                        lab.run(Node::GatewayA, "ip", &words).map(drop)?;
                    }
                    Side::B => guest.ip(&neighbour).map(drop)?,
                }
            }
        }
        Ok(Self {
            lab,
            guest,
            plane: Box::new(plane),
            events,
            ends: [End::open(lab, Node::HostA, "lan0", 14)?, End::open(lab, Node::HostB, "lan0", 14)?],
            between: [End::open(lab, Node::Net, "a0", 14)?, End::open(lab, Node::Net, "b0", 14)?],
            noise: Noise(0x9e37_79b9_7f4a_7c15),
            generation: 0,
            mtu,
        })
    }

    /// Replaces the SAs of both ends by a new pair with new keys, both inner families on one.
    fn install(&mut self, sas: Sas<'_>) -> Result<ChildId> {
        Ok(self.install_halves(sas)?.0)
    }

    /// The same, for those who want to seal packets of the half that leaves Adit themselves.
    fn install_halves(&mut self, sas: Sas<'_>) -> Result<(ChildId, Half)> {
        self.install_treated(sas, Treatment::default())
    }

    fn install_treated(&mut self, sas: Sas<'_>, treatment: Treatment) -> Result<(ChildId, Half)> {
        let previous = ChildId(self.generation.into());
        self.generation += 1;
        let id = ChildId(self.generation.into());
        let halves = SIDES.map(|from| Half::new(sas, from, self.generation, &mut self.noise));
        let mut batch = String::from("xfrm state flush\nxfrm policy flush\n");
        batch.push_str(&policies(sas));
        for (half, from) in halves.iter().zip(SIDES) {
            let (source, destination) = (from.outer(sas.outer), from.other().outer(sas.outer));
            let sent = if from == Side::B { sas.kernel_sent } else { 0 };
            batch.push_str(&half.state(sas, source, destination, sent));
        }
        self.guest.ip(&batch).with_context(|| batch.clone())?;
        let [outbound, inbound] = halves;
        self.plane.install(ChildSaInstall {
            name: String::new(),
            id,
            policy: policy_of(sas.transport, sas.outer),
            inbound: inbound.parameters(sas)?,
            outbound: outbound.parameters(sas)?,
            local: Side::A.outer(sas.outer).parse()?,
            remote: Side::B.outer(sas.outer).parse()?,
            encap: sas.encap.then_some(UdpEncap { local_port: 4500, remote_port: 4500 }),
            active: true,
            limits: Limits::default(),
            treatment,
            worker: None,
        })?;
        self.plane.remove(previous);
        Ok((id, outbound))
    }

    /// Sends packets from both hosts at once and expects of each what the other host is to receive, which is usually
    /// [`forwarded`].
    fn exchange(&mut self, sent: [&[Vec<u8>]; 2], expected: [&[Vec<u8>]; 2]) -> Result<()> {
        for (packets, end) in sent.into_iter().zip(&self.ends) {
            for packet in packets {
                end.send(packet)?;
            }
        }
        let [end_a, end_b] = &mut self.ends;
        for (from, expected, end) in [(Side::A, expected[0], end_b), (Side::B, expected[1], end_a)] {
            end.expect(expected, is_ours).with_context(|| format!("from {from:?} to {:?}", from.other()))?;
        }
        Ok(())
    }

    /// What the data plane counts on an SA, once it has sent so much: what has left is counted a moment later.
    fn counters(&self, id: ChildId, sent: u64) -> Result<ChildCounters> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let counters = self.plane.counters(id).context("no such SA")?;
            if counters.packets_out == sent || Instant::now() > deadline {
                return Ok(counters);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many packets the data plane has dropped for this reason.
    fn drops(&self, cause: DropCause) -> u64 {
        self.plane.stats().drops.iter().find(|(c, _)| *c == cause).map_or(0, |(_, count)| *count)
    }

    /// What both ends have dropped so far, and why, for whoever reads of a failure.
    fn drop_counts(&mut self) -> Result<String> {
        let kernel = self.guest.run("grep -v '\t0$' /proc/net/xfrm_stat || true")?;
        let drops: Vec<_> = self.plane.stats().drops.into_iter().filter(|(_, count)| *count > 0).collect();
        let child = self.plane.counters(ChildId(self.generation.into()));
        Ok(format!("the kernel: {kernel}\nAdit: {drops:?}\nthe last SA: {child:?}"))
    }

    /// How often these things have happened to the kernel's IPsec.
    fn kernel_counts<const N: usize>(&mut self, names: [&str; N]) -> Result<[u64; N]> {
        let said = self.guest.run("cat /proc/net/xfrm_stat")?;
        let mut counts = [0; N];
        for (count, name) in counts.iter_mut().zip(names) {
            let value = said.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
            *count = value.with_context(|| format!("no {name}: {said}"))?;
        }
        Ok(counts)
    }

    fn kernel_count(&mut self, name: &str) -> Result<u64> {
        self.kernel_counts([name]).map(|[count]| count)
    }

    /// How many packets this gateway has dropped, for whatever reason, of the SA pair that is there now.
    fn refused(&mut self, gateway: Side) -> Result<u64> {
        if gateway == Side::A {
            let counters = self.plane.counters(ChildId(self.generation.into())).context("counters")?;
            return Ok(counters.drops.iter().map(|(_, count)| count).sum());
        }
        let said = self.guest.run("cat /proc/net/xfrm_stat")?;
        said.split_whitespace().skip(1).step_by(2).map(|count| Ok(count.parse::<u64>()?)).sum()
    }

    /// Forgets all that has been caught so far.
    fn forget(&mut self) -> Result<()> {
        for end in self.ends.iter_mut().chain(&mut self.between) {
            while end.link.read(Duration::ZERO, |_| {})? > 0 {}
        }
        Ok(())
    }

    /// Waits until nothing moves, and forgets it.
    fn silence(&mut self) -> Result<()> {
        let _ = self.lab.run(Node::Net, "nft", &["flush", "ruleset"]);
        for end in self.ends.iter_mut().chain(&mut self.between) {
            while end.link.read(Duration::from_millis(300), |_| {})? > 0 {}
        }
        Ok(())
    }
}

impl End {
    fn open(lab: &Lab, node: Node, link: &str, link_header: usize) -> Result<Self> {
        lab.inside(node, || {
            // Of the protocol that means whole packets, with their headers.
            let raw = |family| socket(family, SocketType::RAW, Some(ipproto::RAW));
            let (v4, v6) = (raw(AddressFamily::INET)?, raw(AddressFamily::INET6)?);
            Ok(Self { v4, v6, link: Capture::open(link)?, link_header })
        })?
    }

    fn send(&self, packet: &[u8]) -> Result<()> {
        let flow = adit_wire::ip::flow(packet).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let to = SocketAddr::new(flow.destination, 0);
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        sendto(socket, packet, SendFlags::empty(), &to).context("send a packet as it is")?;
        Ok(())
    }

    /// Catches exactly these packets, of those that `matches` is interested in, in this order.
    fn expect(&mut self, expected: &[Vec<u8>], matches: fn(&[u8]) -> bool) -> Result<()> {
        let caught = self.catch(expected.len(), matches)?;
        for (number, (caught, expected)) in caught.iter().zip(expected).enumerate() {
            ensure!(
                caught == expected,
                "packet {number} of {} octets is not what was sent\nexpected {}\ncaught   {}",
                expected.len(),
                hex(expected),
                hex(caught)
            );
        }
        ensure!(caught.len() == expected.len(), "{} of {} packets arrived", caught.len(), expected.len());
        Ok(())
    }

    /// Catches so many incoming packets, or what has come in time, and whatever has come with them.
    fn catch(&mut self, count: usize, matches: fn(&[u8]) -> bool) -> Result<Vec<Vec<u8>>> {
        let mut caught = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let wait = if caught.len() < count { Duration::from_millis(100) } else { Duration::ZERO };
            let read = self.link.read(wait, |frame| match frame.octets.get(self.link_header..) {
                Some(packet) if !frame.outgoing && matches(packet) => caught.push(packet.to_vec()),
                _ => {}
            })?;
            if read == 0 && (caught.len() >= count || Instant::now() > deadline) {
                return Ok(caught);
            }
        }
    }
}

/// One direction of an SA pair.
struct Half {
    spi: u32,
    encr: Vec<u8>,
    integ: Vec<u8>,
}

impl Half {
    fn new(sas: Sas<'_>, from: Side, generation: u32, noise: &mut Noise) -> Self {
        let spi = 0xad00_0000 | generation << 4 | from as u32;
        Self {
            spi,
            encr: noise.octets(sas.suite.encr_key_len()),
            integ: noise.octets(sas.suite.integ_key_len()),
        }
    }

    fn parameters(&self, sas: Sas<'_>) -> Result<SaParameters> {
        let Suite { encr, key_bits, integ, .. } = *sas.suite;
        Ok(SaParameters {
            spi: Spi(self.spi),
            mode: if sas.transport { Mode::Transport } else { Mode::Tunnel },
            original: None,
            transforms: EspTransforms { encr, key_bits, integ, esn: sas.esn },
            keys: EspKeys { encr: Secret::new(self.encr.clone()), integ: Secret::new(self.integ.clone()) },
            replay_window: sas.window,
            local_ts: sas.traffic(Side::A)?,
            remote_ts: sas.traffic(Side::B)?,
        })
    }

    /// The line that gives it to the kernel; `sent` is the number of the last packet sent on it.
    fn state(&self, sas: Sas<'_>, source: &str, destination: &str, sent: u64) -> String {
        // In tunnel mode both inner families pass one SA.
        let (mode, flags) = match (sas.transport, sas.esn) {
            (false, false) => ("tunnel", "flag af-unspec"),
            (false, true) => ("tunnel", "flag af-unspec esn"),
            (true, false) => ("transport", ""),
            (true, true) => ("transport", "flag esn"),
        };
        let encap = if sas.encap { " encap espinudp 4500 4500 0.0.0.0" } else { "" };
        let (high, low) = (sent >> 32, sent & 0xffff_ffff);
        let numbers = match (sent, sas.esn) {
            (0, _) => String::new(),
            (_, true) => format!(" replay-seq 0 replay-oseq {low} replay-seq-hi 0 replay-oseq-hi {high}"),
            (_, false) => format!(" replay-seq 0 replay-oseq {low}"),
        };
        format!(
            "xfrm state add src {source} dst {destination} proto esp spi {} reqid 1 mode {mode} replay-window {} \
             {flags}{numbers} {}{encap}\n",
            self.spi,
            sas.window,
            sas.suite.linux(&self.encr, &self.integ),
        )
    }
}

/// What the kernel protects.
fn policies(sas: Sas<'_>) -> String {
    let (own, peer) = (Side::B.outer(sas.outer), Side::A.outer(sas.outer));
    let (mode, traffic) = match sas.transport {
        false => ("tunnel", FAMILIES.map(|inner| (Side::B.network(inner), Side::A.network(inner))).to_vec()),
        true => ("transport", vec![(own, peer)]),
    };
    let mut lines = String::new();
    for (near, far) in traffic {
        for (source, destination, from, to, direction) in
            [(near, far, own, peer, "out"), (far, near, peer, own, "fwd"), (far, near, peer, own, "in")]
        {
            lines.push_str(&format!(
                "xfrm policy add src {source} dst {destination} dir {direction} priority 9 tmpl src {from} dst {to} \
                 proto esp reqid 1 mode {mode}\n"
            ));
        }
    }
    // ESP in UDP is traffic between the hosts, too: until it is opened nothing protects it.
    lines
        + &format!("xfrm policy add src {peer} dst {own} proto udp sport 4500 dport 4500 dir in priority 1\n")
}

/// The policy of Adit that an SA belongs to.
fn policy_of(transport: bool, outer: Family) -> PolicyId {
    match (transport, outer) {
        (false, _) => PolicyId(1),
        (true, Family::V4) => PolicyId(4),
        (true, Family::V6) => PolicyId(6),
    }
}

fn networks_policy() -> Result<PolicySpec> {
    let id = policy_of(false, Family::V4);
    Ok(PolicySpec::new(id, "networks", networks(Side::A)?, networks(Side::B)?))
}

fn host(side: Side, family: Family) -> Result<Vec<TrafficSelector>> {
    let width = if family == Family::V4 { 32 } else { 128 };
    Ok(vec![TrafficSelector::subnet(side.outer(family).parse()?, width)])
}

fn networks(side: Side) -> Result<Vec<TrafficSelector>> {
    let all = side.prefixes()?.into_iter();
    Ok(all.map(|(address, width)| TrafficSelector::subnet(address, width)).collect())
}

/// Where the test's packets come from and go to.
fn endpoint(side: Side, family: Family) -> Result<IpAddr> {
    let (address, _) = side.network(family).split_once('/').context("a network")?;
    let address = if family == Family::V4 {
        address.trim_end_matches('0').to_owned() + "77"
    } else {
        format!("{address}77")
    };
    Ok(address.parse()?)
}

/// An inner packet of the test: of a protocol that nobody speaks, so that nobody answers or joins.
struct Inner {
    family: Family,
    from: Side,
    /// Makes it unlike any other.
    number: u32,
    traffic_class: u8,
    dont_fragment: bool,
    payload: Vec<u8>,
}

/// For experiments and testing (RFC 3692).
const PROTOCOL: u8 = 253;

impl Inner {
    fn octets(&self) -> Result<Vec<u8>> {
        let (source, destination) =
            (endpoint(self.from, self.family)?, endpoint(self.from.other(), self.family)?);
        let marks = [self.dont_fragment.into(), self.traffic_class];
        Ok(ip_packet(source, destination, PROTOCOL, marks, self.number, &self.payload))
    }
}

/// The packet after two routers.
fn forwarded(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let ttl = if packet[0] >> 4 == 4 { 8 } else { 7 };
    packet[ttl] -= 2;
    with_checksum(packet)
}

/// The packet with an IPv4 header checksum that is right (RFC 791 3.1).
fn with_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        packet[10..12].fill(0);
        let sum = checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The Internet checksum (RFC 1071).
fn checksum(octets: &[u8]) -> u16 {
    let words = octets.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Is it one of the test's inner packets?
fn is_ours(packet: &[u8]) -> bool {
    match packet.first().map(|first| first >> 4) {
        Some(4) => packet.get(9) == Some(&PROTOCOL),
        Some(6) => packet.get(6) == Some(&PROTOCOL),
        _ => false,
    }
}

/// Is it ESP, or in UDP between the ports of ESP?
fn is_esp(packet: &[u8]) -> bool {
    let (protocol, ports) = match packet.first().map(|first| first >> 4) {
        Some(4) => (packet.get(9), packet.get(20..24)),
        Some(6) => (packet.get(6), packet.get(40..44)),
        _ => return false,
    };
    protocol == Some(&50) || protocol == Some(&17) && ports == Some(&[0x11, 0x94, 0x11, 0x94])
}

/// An ESP packet with the headers that the gateway of `from` would give it.
fn outer_packet(sas: Sas<'_>, from: Side, esp: &[u8]) -> Result<Vec<u8>> {
    let (source, destination) = (from.outer(sas.outer).parse()?, from.other().outer(sas.outer).parse()?);
    if !sas.encap {
        return Ok(ip_packet(source, destination, 50, [1, 0], 0, esp));
    }
    let len = (8 + esp.len()) as u16;
    let mut udp = [4500_u16, 4500, len, 0].iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
    udp.extend(esp);
    if let (IpAddr::V6(source), IpAddr::V6(destination)) = (source, destination) {
        // RFC 8200 8.1: over IPv6 a UDP checksum is a must.
        let pseudo = [
            &source.octets()[..],
            &destination.octets(),
            &u32::from(len).to_be_bytes(),
            &[0, 0, 0, 17],
            &udp,
        ];
        let sum = checksum(&pseudo.concat());
        udp[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
    }
    Ok(ip_packet(source, destination, 17, [1, 0], 0, &udp))
}

/// An IP packet that has come through no router yet. Of `number` IPv4 takes the identification and IPv6 the flow label.
fn ip_packet(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    [df, class]: [u8; 2],
    number: u32,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = Vec::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            // An identification of 0 would be replaced by the kernel.
            let id = (number % 0xffff + 1) as u16;
            packet.extend([0x45, class]);
            packet.extend((20 + payload.len() as u16).to_be_bytes());
            packet.extend(id.to_be_bytes());
            packet.extend([df << 6, 0, 64, protocol, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
        }
        (source, destination) => {
            packet.extend((6 << 28 | u32::from(class) << 20 | number & 0xf_ffff).to_be_bytes());
            packet.extend((payload.len() as u16).to_be_bytes());
            packet.extend([protocol, 64]);
            for address in [source, destination] {
                packet.extend(match address {
                    IpAddr::V6(v6) => v6.octets(),
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                });
            }
        }
    }
    packet.extend(payload);
    with_checksum(packet)
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// xorshift64*: what a run does follows from its seed.
struct Noise(u64);

impl Noise {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as usize % limit
    }

    fn octets(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// UDP_ENCAP (100) with UDP_ENCAP_ESPINUDP (2) is what makes a socket's port one of ESP in UDP.
const UDP_ENCAP: &str = "
import socket, time
held = []
for family, address in ((socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, 4500))
    s.setsockopt(socket.IPPROTO_UDP, 100, 2)
    held.append(s)
print('ready', flush=True)
time.sleep(1e6)
";
