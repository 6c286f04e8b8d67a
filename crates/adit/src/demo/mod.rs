//! `adit demo`: the main job, shown to a person. Makes two private networks with a gateway each, starts two real
//! daemons, sends real traffic both ways, and tells what the hosts and an observer between the gateways saw.
//!
//! Everything lives in network namespaces of its own and is gone afterwards; nothing outside is touched.

mod network;
mod observer;
mod traffic;

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use adit_net::netns::Namespace;
use anyhow::Context as _;

use self::network::{GATEWAY_A, GATEWAY_B, HOST_A, HOST_B, Network, OUTER};
use self::observer::{Observer, Sightings};
use crate::config::ControlUri;
use crate::control::client::Client;
use crate::control::vici::Message;

const MESSAGE: &str = "Meet me at the adit at noon.";
const PINGS: u16 = 5;
const SMALL: usize = 4 << 20;
const LARGE: usize = 256 << 20;

/// Runs the demonstration and tells it to `out`. With `keep`, waits for Enter before it takes everything down.
///
/// # Errors
///
/// If anything that it shows did not come out as it should: then it is a defect, or a kernel without namespaces or
/// TUN.
pub fn run(out: &mut impl Write, keep: bool) -> anyhow::Result<()> {
    become_root()?;
    writeln!(
        out,
        "Two private networks, joined by an IPsec tunnel across a network that is not to be trusted.\n"
    )?;
    writeln!(
        out,
        "  host-a {HOST_A} -- gateway a {GATEWAY_A} ==(observer)== {GATEWAY_B} gateway b -- {HOST_B} host-b\n"
    )?;

    let network = Network::new(keep)?;
    let directory = Directory::new()?;
    let a = Gateway::start(&network.gateway_a, &directory, &Side::A)?;
    let b = Gateway::start(&network.gateway_b, &directory, &Side::B)?;
    writeln!(out, "1. Four network namespaces, and `adit run` in each gateway.  done")?;

    let observer = observe(&network)?;
    let lost = traffic::ping(&network.host_a, HOST_A, HOST_B, 1, Duration::from_millis(300))?;
    anyhow::ensure!(
        lost.is_empty(),
        "host-a reached host-b without a tunnel: the demonstration would prove nothing"
    );
    let before = observer.stop()?;
    anyhow::ensure!(
        before.inner_addresses == 0 && before.other == 0,
        "a packet for the protected network left gateway a in the clear"
    );
    writeln!(
        out,
        "2. No tunnel yet: host-a pings host-b.  no answer, and nothing left the gateway in the clear"
    )?;

    let observer = observe(&network)?;
    let started = Instant::now();
    let told = a.adit(&["up", "net"])?;
    writeln!(out, "3. `adit up net` on gateway a.  up in {}", milliseconds(started.elapsed()))?;
    indent(out, &told)?;

    writeln!(out, "4. What the hosts see")?;
    let there = traffic::ping(&network.host_a, HOST_A, HOST_B, PINGS, Duration::from_secs(1))?;
    let back = traffic::ping(&network.host_b, HOST_B, HOST_A, PINGS, Duration::from_secs(1))?;
    for (from, to, round_trips) in [("host-a", "host-b", &there), ("host-b", "host-a", &back)] {
        let answered = round_trips.len();
        anyhow::ensure!(answered == usize::from(PINGS), "{from} pings {to}: {answered} of {PINGS} answered");
        let best = round_trips.iter().min().copied().unwrap_or_default();
        writeln!(out, "     {from} pings {to}: {answered} of {PINGS} answered, best {}", milliseconds(best))?;
    }
    let (from, text) = traffic::message(&network.host_a, (&network.host_b, HOST_B), MESSAGE)?;
    anyhow::ensure!(from == HOST_A && text == MESSAGE, "host-b got {text:?} from {from}");
    writeln!(out, "     host-b receives from {from}: {text:?}")?;
    traffic::stream(&network.host_a, (&network.host_b, HOST_B), SMALL)?;
    traffic::stream(&network.host_b, (&network.host_a, HOST_A), SMALL)?;
    writeln!(out, "     {} over TCP each way, every octet as it was sent", mebibytes(SMALL))?;

    report(out, &observer.stop()?)?;

    writeln!(out, "6. How fast (both hosts and both gateways share this machine's processors)")?;
    for (label, sender, receiver) in [
        ("host-a to host-b", &network.host_a, (&network.host_b, HOST_B)),
        ("host-b to host-a", &network.host_b, (&network.host_a, HOST_A)),
    ] {
        let took = traffic::stream(sender, receiver, LARGE)?;
        let rate = LARGE as f64 * 8.0 / took.as_secs_f64() / 1e9;
        writeln!(out, "     {label}: {} in {:.2} s, {rate:.2} Gbit/s", mebibytes(LARGE), took.as_secs_f64())?;
    }

    writeln!(out, "7. `adit status` on gateway a")?;
    indent(out, &a.adit(&["status"])?)?;

    if keep {
        writeln!(
            out,
            "   Look around: ip netns exec adit-demo-host-a ping {HOST_B}\n   \
             {} status\n   Enter ends the demonstration.",
            a.command_line()
        )?;
        out.flush()?;
        io::stdin().read_line(&mut String::new())?;
    }

    let told = a.adit(&["down", "net"])?;
    writeln!(out, "8. `adit down net` on gateway a")?;
    indent(out, &told)?;
    a.stop()?;
    b.stop()?;
    drop(network);
    writeln!(out, "   Both daemons stopped, the namespaces are gone.\n")?;
    write!(out, "{}", two_machines())?;
    Ok(())
}

fn observe(network: &Network) -> anyhow::Result<Observer> {
    Observer::start(&network.gateway_a, OUTER, [GATEWAY_A, GATEWAY_B], [HOST_A, HOST_B], MESSAGE)
}

fn report(out: &mut impl Write, seen: &Sightings) -> anyhow::Result<()> {
    writeln!(out, "5. What the observer between the gateways sees of all this")?;
    writeln!(
        out,
        "     {} IKE messages, {} ESP packets, {} others; {} octets",
        seen.ike, seen.esp, seen.other, seen.octets
    )?;
    writeln!(out, "     packets not between {GATEWAY_A} and {GATEWAY_B}: {}", seen.strangers)?;
    writeln!(out, "     packets that show {HOST_A} and {HOST_B}: {}", seen.inner_addresses)?;
    writeln!(out, "     packets that show the message: {}", seen.message)?;
    if let Some(example) = &seen.example {
        writeln!(out, "     one of them, {} octets:", example.len())?;
        for (line, octets) in example.chunks(16).take(4).enumerate() {
            let hex = octets.iter().fold(String::new(), |mut hex, octet| {
                let _ = write!(hex, "{octet:02x} ");
                hex
            });
            let what = match line {
                0 => "outer IP header: the gateways' addresses,",
                1 => "then SPI, sequence number, IV,",
                2 => "then ciphertext to the end",
                _ => "...",
            };
            writeln!(out, "       {hex:<48} {what}")?;
        }
    }
    anyhow::ensure!(seen.learned_nothing(), "the observer learned something: this is a defect of Adit");
    Ok(())
}

/// One of the two gateways.
struct Side {
    name: &'static str,
    id: &'static str,
    address: Ipv4Addr,
    network: &'static str,
}

impl Side {
    const A: Self = Self { name: "a", id: "a.example", address: GATEWAY_A, network: "10.1.0.0/24" };
    const B: Self = Self { name: "b", id: "b.example", address: GATEWAY_B, network: "10.2.0.0/24" };

    fn peer(&self) -> &'static Self {
        if self.name == Self::A.name { &Self::B } else { &Self::A }
    }

    fn configuration(&self, secret: &str) -> String {
        let peer = self.peer();
        format!(
            "connections {{
  to-{peer_name} {{
    local_addrs  = {address}
    remote_addrs = {peer_address}
    local {{
      auth = psk
      id = {id}
    }}
    remote {{
      auth = psk
      id = {peer_id}
    }}
    children {{
      net {{
        local_ts  = {network}
        remote_ts = {peer_network}
      }}
    }}
  }}
}}
secrets {{
  ike-to-{peer_name} {{
    id-1 = {id}
    id-2 = {peer_id}
    secret = {secret}
  }}
}}
",
            peer_name = peer.name,
            address = self.address,
            peer_address = peer.address,
            id = self.id,
            peer_id = peer.id,
            network = self.network,
            peer_network = peer.network,
        )
    }
}

/// A running daemon in a namespace.
struct Gateway {
    daemon: Option<Child>,
    control: ControlUri,
    program: PathBuf,
    log: PathBuf,
}

impl Gateway {
    fn start(namespace: &Namespace, directory: &Directory, side: &Side) -> anyhow::Result<Self> {
        let file = |extension: &str| directory.0.join(format!("{}.{extension}", side.name));
        let (configuration, socket, log) = (file("conf"), file("vici"), file("log"));
        fs::write(&configuration, side.configuration(&directory.secret()))?;
        fs::set_permissions(&configuration, fs::Permissions::from_mode(0o600))?;
        let program = std::env::current_exe()?;
        let control = ControlUri::Unix(socket);
        let mut command = Command::new(&program);
        command
            .args(["--control", &control.to_string(), "run", "--config"])
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?);
        let daemon = namespace.run(|| command.spawn())??;
        let mut gateway = Self { daemon: Some(daemon), control, program, log };
        gateway.await_ready().with_context(|| format!("gateway {} did not start", side.name))?;
        Ok(gateway)
    }

    fn await_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        // It answers once its policies are in force; before that the socket only takes connections.
        while !self.answers() {
            let ended = self.daemon.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || Instant::now() > deadline {
                anyhow::bail!("its log says:\n{}", fs::read_to_string(&self.log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn answers(&self) -> bool {
        Client::connect(&self.control)
            .and_then(|mut client| {
                client.set_timeout(Some(Duration::from_secs(5)))?;
                client.request("version", Message::new())
            })
            .is_ok()
    }

    /// Runs an `adit` command against this daemon and returns what it printed.
    fn adit(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(&self.program)
            .args(["--control", &self.control.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .output()?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(
            output.status.success(),
            "`adit {}` failed:\n{told}{}\nthe daemon's log says:\n{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr),
            fs::read_to_string(&self.log).unwrap_or_default()
        );
        Ok(told)
    }

    fn command_line(&self) -> String {
        format!("{} --control {}", self.program.display(), self.control)
    }

    /// Ends the daemon as an operator would.
    fn stop(mut self) -> anyhow::Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&daemon),
            rustix::process::Signal::TERM,
        )?;
        let status = daemon.wait()?;
        anyhow::ensure!(status.success(), "a daemon ended with {status}");
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// Where configurations, sockets and logs are, for nobody else to read.
struct Directory(PathBuf);

impl Directory {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("adit-demo-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    /// A secret that lives as long as the demonstration.
    fn secret(&self) -> String {
        let shared: &Path = &self.0;
        let file = shared.join("secret");
        fs::read_to_string(&file).unwrap_or_else(|_| {
            let mut octets = [0; 32];
            adit_crypto::Entropy::fill(&mut adit_crypto::SystemEntropy, &mut octets);
            let secret = octets.iter().fold("0x".to_owned(), |mut secret, octet| {
                let _ = write!(secret, "{octet:02x}");
                secret
            });
            let _ = fs::write(&file, &secret);
            secret
        })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Namespaces need root. Whoever may `sudo` should not have to know.
fn become_root() -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let error =
        Command::new("sudo").arg("--").arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).exec();
    Err(error).context("the demonstration makes network namespaces and needs root; sudo could not be run")
}

fn two_machines() -> String {
    let mut text = format!(
        "The same on two real machines. This is /etc/adit/swanctl.conf of the first (mode 0600; its own addresses instead\n\
         of {GATEWAY_A}, {GATEWAY_B}, 10.1.0.0/24 and 10.2.0.0/24):\n\n",
    );
    for line in Side::A.configuration("\"the same 32 or more random characters on both\"").lines() {
        let _ = writeln!(text, "    {line}");
    }
    text.push_str(
        "\nThe second has the mirror image. On both: sysctl net.ipv4.ip_forward=1, let UDP 500 and 4500 and IP protocol 50\n\
         in, then `adit check /etc/adit/swanctl.conf`, `adit run`, and `adit up net` on one of them.\n",
    );
    text
}

fn indent(out: &mut impl Write, text: &str) -> io::Result<()> {
    text.lines().try_for_each(|line| writeln!(out, "     {line}"))
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

fn mebibytes(octets: usize) -> String {
    format!("{} MiB", octets >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it tells people to copy must be right.
    #[test]
    fn both_configurations_load() {
        for side in [&Side::A, &Side::B] {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("swanctl.conf");
            fs::write(&file, side.configuration("0x0123456789abcdef0123456789abcdef")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            let configuration = crate::config::load(&file).unwrap();
            assert_eq!(configuration.ike.connections.len(), 1);
            assert_eq!(configuration.ike.secrets.len(), 1);
            assert!(configuration.warnings.is_empty(), "{:?}", configuration.warnings);
        }
    }
}
