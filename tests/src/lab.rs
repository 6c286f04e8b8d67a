//! Two private networks, two gateways and the network between them, in namespaces of their own.
//!
//! ```text
//! hostA 10.1.0.10 -- 10.1.0.1 gwA 198.51.100.2 -- .1 net .1 -- 203.0.113.2 gwB 10.2.0.1 -- 10.2.0.10 hostB
//!       fd00:1::10   fd00:1::1    2001:db8:a::2               2001:db8:b::2    fd00:2::1    fd00:2::10
//! ```
//!
//! Owns the namespaces, the links and the files of one test. Never touches the machine's own network.

use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

use crate::process::{Process, eventually, read_lossy, run, run_unchecked, tail};

/// One of the two private networks with its gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// 10.1.0.0/24 and fd00:1::/64 behind 198.51.100.2 and 2001:db8:a::2.
    A,
    /// 10.2.0.0/24 and fd00:2::/64 behind 203.0.113.2 and 2001:db8:b::2.
    B,
}

impl Side {
    /// The opposite side.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The gateway's outer address.
    pub fn outer(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::A, Family::V4) => "198.51.100.2",
            (Self::A, Family::V6) => "2001:db8:a::2",
            (Self::B, Family::V4) => "203.0.113.2",
            (Self::B, Family::V6) => "2001:db8:b::2",
        }
    }

    /// The address of the host behind the gateway.
    pub fn host(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::A, Family::V4) => "10.1.0.10",
            (Self::A, Family::V6) => "fd00:1::10",
            (Self::B, Family::V4) => "10.2.0.10",
            (Self::B, Family::V6) => "fd00:2::10",
        }
    }

    /// The private network behind the gateway.
    pub fn network(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::A, Family::V4) => "10.1.0.0/24",
            (Self::A, Family::V6) => "fd00:1::/64",
            (Self::B, Family::V4) => "10.2.0.0/24",
            (Self::B, Family::V6) => "fd00:2::/64",
        }
    }

    /// Both private networks: address and length of each.
    ///
    /// # Errors
    /// None that a test could do anything about.
    pub fn prefixes(self) -> Result<Vec<(IpAddr, u8)>> {
        let parse = |family| {
            let (address, width) = self.network(family).split_once('/').context("a network")?;
            Ok((address.parse()?, width.parse()?))
        };
        FAMILIES.into_iter().map(parse).collect()
    }

    /// Both private networks as a `swanctl.conf` list.
    pub fn networks(self) -> String {
        format!("{},{}", self.network(Family::V4), self.network(Family::V6))
    }

    /// The gateway's IKE identity.
    pub fn id(self) -> &'static str {
        match self {
            Self::A => "a.lab.example",
            Self::B => "b.lab.example",
        }
    }

    /// The gateway's namespace.
    pub fn gateway(self) -> Node {
        match self {
            Self::A => Node::GatewayA,
            Self::B => Node::GatewayB,
        }
    }

    /// The namespace of the host behind the gateway.
    pub fn host_node(self) -> Node {
        match self {
            Self::A => Node::HostA,
            Self::B => Node::HostB,
        }
    }

    /// The router's interface towards the gateway.
    pub fn router_interface(self) -> &'static str {
        match self {
            Self::A => "a0",
            Self::B => "b0",
        }
    }

    fn letter(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// Both sides.
pub const SIDES: [Side; 2] = [Side::A, Side::B];

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Both families.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A namespace of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// The host behind gateway A.
    HostA,
    /// Gateway A.
    GatewayA,
    /// The router between the gateways: what an observer on the internet sees.
    Net,
    /// Gateway B.
    GatewayB,
    /// The host behind gateway B.
    HostB,
}

const NODES: [Node; 5] = [Node::HostA, Node::GatewayA, Node::Net, Node::GatewayB, Node::HostB];

impl Node {
    fn suffix(self) -> &'static str {
        match self {
            Self::HostA => "hostA",
            Self::GatewayA => "gwA",
            Self::Net => "net",
            Self::GatewayB => "gwB",
            Self::HostB => "hostB",
        }
    }
}

/// What differs between labs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Topology {
    /// This side's IPv4 packets leave the router with the router's own address (nftables masquerade).
    pub nat: Option<Side>,
    /// For measuring: the gateways on one link without the router, every offload as the kernel has it, buffers of
    /// ordinary size, and an MTU of 1,420 inside, which every tunnel has room for.
    pub direct: bool,
}

/// The namespaces and the working directory of one test; both are gone when it is dropped. The directory stays
/// if the test failed.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    dir: Option<TempDir>,
    path: PathBuf,
}

static COUNTER: AtomicU32 = AtomicU32::new(0);
const PREFIX: &str = "aditlab-";

/// Builds a lab, runs the test in it, and takes it down. If the test fails, the error says where the logs are
/// and shows their ends.
pub fn with_lab(name: &str, topology: Topology, test: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let mut lab = Lab::new(name, topology)?;
    let outcome = test(&lab);
    outcome.map_err(|error| {
        lab.keep();
        anyhow!("{error:#}\n\nlogs are in {}\n{}", lab.path.display(), lab.log_tails())
    })
}

impl Lab {
    fn new(name: &str, topology: Topology) -> Result<Self> {
        static PREPARED: OnceLock<Result<(), String>> = OnceLock::new();
        PREPARED
            .get_or_init(|| prepare().map_err(|error| format!("{error:#}")))
            .clone()
            .map_err(|error| anyhow!(error))?;
        let dir = tempfile::Builder::new().prefix(&format!("adit-lab-{name}-")).tempdir()?;
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let lab = Self {
            prefix: format!("{PREFIX}{}-{number}-", std::process::id()),
            path: dir.path().to_owned(),
            dir: Some(dir),
        };
        lab.build(topology).context("building the lab's network")?;
        Ok(lab)
    }

    /// Where logs, sockets and captures of this test are.
    pub fn dir(&self) -> &Path {
        &self.path
    }

    /// The name of a namespace.
    pub fn namespace(&self, node: Node) -> String {
        format!("{}{}", self.prefix, node.suffix())
    }

    /// A command that will run inside a namespace.
    pub fn command(&self, node: Node, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(node)]).arg(program);
        command
    }

    /// Runs `body` on a thread inside a namespace; sockets that it opens stay there.
    pub fn inside<R: Send>(&self, node: Node, body: impl FnOnce() -> R + Send) -> Result<R> {
        let file = std::fs::File::open(Path::new("/run/netns").join(self.namespace(node)))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map(|()| body())
            });
            Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?)
        })
    }

    /// Runs a program to its successful end inside a namespace.
    pub fn run(&self, node: Node, program: &str, arguments: &[&str]) -> Result<String> {
        run(self.command(node, program).args(arguments))
    }

    /// Starts a program inside a namespace; its output is in `name.log`.
    pub fn spawn(&self, node: Node, name: &str, program: &str, arguments: &[&str]) -> Result<Process> {
        Process::spawn(name, self.command(node, program).args(arguments), self.dir())
    }

    /// Loads nftables rules into a namespace.
    pub fn nft(&self, node: Node, rules: &str) -> Result<()> {
        feed(self.command(node, "nft").args(["-f", "-"]), rules)
    }

    /// Everything of a namespace's network that a daemon could change, as text to compare.
    pub fn network_state(&self, node: Node) -> Result<String> {
        let mut state = String::new();
        for (program, arguments) in [
            ("ip", &["rule", "show"][..]),
            ("ip", &["-6", "rule", "show"]),
            ("ip", &["route", "show", "table", "all"]),
            ("ip", &["-6", "route", "show", "table", "all"]),
            ("ip", &["-br", "link", "show"]),
            ("ip", &["-br", "address", "show"]),
            ("nft", &["list", "ruleset"]),
            ("sysctl", &["-a", "-r", "^net\\.(ipv4|ipv6)\\.(conf|ip_forward)"]),
        ] {
            state.push_str(&format!(
                "# {program} {}\n{}\n",
                arguments.join(" "),
                self.run(node, program, arguments)?
            ));
        }
        Ok(state)
    }

    /// How many datagrams a namespace has dropped because whoever should have read them was not scheduled in time and
    /// the socket's buffer was full.
    pub fn overflows(&self, node: Node) -> Result<u64> {
        let text = self.run(node, "cat", &["/proc/net/snmp"])?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
        let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
        let value = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "RcvbufErrors");
        Ok(value.context("no RcvbufErrors")?.1.parse()?)
    }

    /// Pings the host of the other side, `count` times, five a second; fails unless every answer comes.
    pub fn ping(&self, from: Side, family: Family, count: u32) -> Result<()> {
        let count = count.to_string();
        let to = from.other().host(family);
        self.run(from.host_node(), "ping", &["-n", "-c", &count, "-i", "0.2", "-W", "3", to])
            .and_then(|output| {
                ensure!(output.contains(" 0% packet loss"), "{output}");
                Ok(())
            })
            .with_context(|| format!("ping from the host of side {from:?} to {to}"))
    }

    /// Can the host of `from` reach the other host at all? One ping, one second.
    pub fn reaches(&self, from: Side, family: Family) -> Result<bool> {
        let mut command = self.command(from.host_node(), "ping");
        command.args(["-n", "-c", "1", "-W", "1", from.other().host(family)]);
        Ok(run_unchecked(&mut command)?.status.success())
    }

    fn build(&self, topology: Topology) -> Result<()> {
        for node in NODES {
            if topology.direct && node == Node::Net {
                continue;
            }
            let namespace = self.namespace(node);
            run(Command::new("ip").args(["netns", "add", &namespace]))?;
            self.run(node, "sh", &["-c", NAMESPACE_SETTINGS])?;
            self.ip(node, "link set lo up\n")?;
        }
        for side in SIDES {
            let (gateway, host) = (side.gateway(), side.host_node());
            self.veth(gateway, "lan0", host, "lan0", topology)?;
            let (wan4, wan6, lan4, lan6) = match side {
                Side::A => ("198.51.100", "2001:db8:a:", "10.1.0", "fd00:1:"),
                Side::B => ("203.0.113", "2001:db8:b:", "10.2.0", "fd00:2:"),
            };
            let default = if topology.direct {
                if side == Side::A {
                    self.veth(gateway, "wan0", side.other().gateway(), "wan0", topology)?;
                }
                "route add default dev wan0\nroute add ::/0 dev wan0\n".to_owned()
            } else {
                let router = side.router_interface();
                self.veth(Node::Net, router, gateway, "wan0", topology)?;
                self.ip(
                    Node::Net,
                    &format!("addr add {wan4}.1/24 dev {router}\naddr add {wan6}:1/64 dev {router} nodad\n"),
                )?;
                format!("route add default via {wan4}.1\nroute add default via {wan6}:1\n")
            };
            self.ip(
                gateway,
                &format!(
                    "addr add {wan4}.2/24 dev wan0\naddr add {wan6}:2/64 dev wan0 nodad\n\
                     addr add {lan4}.1/24 dev lan0\naddr add {lan6}:1/64 dev lan0 nodad\n{default}"
                ),
            )?;
            self.ip(
                host,
                &format!(
                    "addr add {lan4}.10/24 dev lan0\naddr add {lan6}:10/64 dev lan0 nodad\n\
                     route add default via {lan4}.1\nroute add default via {lan6}:1\n"
                ),
            )?;
            if topology.direct {
                self.ip(host, "link set lan0 mtu 1420\n")?;
                self.ip(gateway, "link set lan0 mtu 1420\n")?;
            } else {
                self.run(host, "sh", &["-c", HOST_SETTINGS])?;
            }
        }
        if let Some(side) = topology.nat {
            let (out, outer) = (side.other().router_interface(), side.outer(Family::V4));
            self.nft(
                Node::Net,
                &format!(
                    "table ip lab {{\n chain post {{\n type nat hook postrouting priority srcnat\n \
                     oifname \"{out}\" ip saddr {outer} masquerade\n }}\n }}\n"
                ),
            )?;
        }
        // IPv6 links need a moment before they carry anything.
        for family in FAMILIES {
            let to = Side::B.outer(family);
            eventually("the outer network", Duration::from_secs(10), || {
                let mut ping = self.command(Node::GatewayA, "ping");
                Ok(run_unchecked(ping.args(["-n", "-c", "1", "-W", "1", to]))?.status.success().then_some(()))
            })?;
        }
        Ok(())
    }

    /// A link between two namespaces. For tests, offloads are off at both ends: a capture then shows the packets as they are,
    /// and nobody who reads below the IP layer meets a partial checksum.
    fn veth(&self, one: Node, one_name: &str, two: Node, two_name: &str, topology: Topology) -> Result<()> {
        let (one_ns, two_ns) = (self.namespace(one), self.namespace(two));
        run(Command::new("ip")
            .args(["link", "add", one_name, "netns", &one_ns, "type", "veth", "peer", "name"])
            .args([two_name, "netns", &two_ns]))?;
        for (node, name) in [(one, one_name), (two, two_name)] {
            if !topology.direct {
                self.run(
                    node,
                    "ethtool",
                    &["-K", name, "tx", "off", "rx", "off", "tso", "off", "gso", "off", "gro", "off"],
                )?;
            }
            self.ip(node, &format!("link set {name} up\n"))?;
        }
        Ok(())
    }

    fn ip(&self, node: Node, batch: &str) -> Result<()> {
        feed(Command::new("ip").args(["-n", &self.namespace(node), "-batch", "-"]), batch)
    }

    fn keep(&mut self) {
        if let Some(dir) = self.dir.take() {
            self.path = dir.keep();
        }
    }

    fn log_tails(&self) -> String {
        let mut logs: Vec<PathBuf> = std::fs::read_dir(&self.path)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        logs.sort();
        let mut text = String::new();
        for log in logs {
            let name = log.file_name().unwrap_or_default().to_string_lossy();
            text.push_str(&format!("--- {name}\n{}\n", tail(&read_lossy(&log), 25)));
        }
        text
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep();
        }
        remove_namespaces(&self.prefix);
    }
}

/// The address without its brackets and prefix length, for comparing.
pub fn address(text: &str) -> Result<IpAddr> {
    text.parse().with_context(|| format!("{text:?} is not an address"))
}

// No reverse path filter (packets come out of a TUN device), no duplicate address detection (it takes a second),
// nothing learned from the neighbours.
const NAMESPACE_SETTINGS: &str = "
for f in all default; do
  echo 0 >/proc/sys/net/ipv4/conf/$f/rp_filter
  echo 0 >/proc/sys/net/ipv4/conf/$f/send_redirects
  echo 0 >/proc/sys/net/ipv4/conf/$f/accept_redirects
  echo 0 >/proc/sys/net/ipv6/conf/$f/accept_dad
  echo 0 >/proc/sys/net/ipv6/conf/$f/accept_ra
  echo 1 >/proc/sys/net/ipv6/conf/$f/forwarding
done
echo 1 >/proc/sys/net/ipv4/ip_forward";

// A TCP connection keeps at most this much in flight, so that no socket buffer of a userspace gateway overflows:
// what one gateway counts as sent the other counts as received, or a packet was lost inside a gateway.
const HOST_SETTINGS: &str = "echo 4096 131072 131072 >/proc/sys/net/ipv4/tcp_rmem
echo 4096 131072 131072 >/proc/sys/net/ipv4/tcp_wmem";

/// Checks once per process that the machine can run a lab, and removes what a killed run left behind.
fn prepare() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the tests in tests/ make network namespaces and need root: run ./test, or `sudo -E cargo test -p adit-lab`"
    );
    for (tool, package) in [
        ("ip", "iproute2"),
        ("ethtool", "ethtool"),
        ("nft", "nftables"),
        ("ping", "iputils-ping"),
        ("sysctl", "procps"),
        ("sha256sum", "coreutils"),
        ("dumpcap", "wireshark-common"),
        ("tshark", "tshark"),
        ("swanctl", "strongswan-swanctl"),
        ("charon-systemd", "charon-systemd"),
        ("/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so", "libcharon-extra-plugins"),
    ] {
        need(tool, package)?;
    }
    let namespaces = run(Command::new("ip").args(["netns", "list"]))?;
    for namespace in namespaces.lines().filter_map(|line| line.split_whitespace().next()) {
        let Some(rest) = namespace.strip_prefix(PREFIX) else { continue };
        let Some((owner, _)) = rest.split_once('-') else { continue };
        if !Path::new("/proc").join(owner).exists() {
            remove_namespaces(&format!("{PREFIX}{owner}-"));
        }
    }
    Ok(())
}

/// Fails with the package's name if a tool is missing.
pub fn need(tool: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    // The directories of system programs are missing in some users' PATH.
    let directories = path.split(':').chain(["/usr/sbin", "/sbin", "/usr/bin"]);
    let found = directories.map(|directory| Path::new(directory).join(tool)).find(|file| file.exists());
    found.with_context(|| {
        format!("{tool} is not installed: `apt-get install {package}`, or run ./test, which installs all that the tests need")
    })
}

/// Kills what still runs in the namespaces that start with `prefix`, and removes them.
fn remove_namespaces(prefix: &str) {
    // Runs from Drop: there is nobody to tell about an error, and the next run tries again.
    let Ok(list) = run(Command::new("ip").args(["netns", "list"])) else { return };
    for namespace in list.lines().filter_map(|line| line.split_whitespace().next()) {
        if !namespace.starts_with(prefix) {
            continue;
        }
        if let Ok(pids) = run(Command::new("ip").args(["netns", "pids", namespace])) {
            for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
        let _ = run(Command::new("ip").args(["netns", "delete", namespace]));
    }
}

/// Runs a command with `input` on its standard input.
fn feed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    child.stdin.take().context("standard input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\ninput:\n{input}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.letter())
    }
}
