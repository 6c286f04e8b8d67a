//! Who carries the packets: one tunnel between the two gateways of a laboratory, or none.
//!
//! Each is set up to do well, and as its makers say: every WireGuard as it comes, OpenVPN with large socket buffers,
//! strongSwan without logs. Nothing here measures.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use adit_lab::adit::{self, Adit};
use adit_lab::lab::{Family, Lab, Node, SIDES, Side};
use adit_lab::peer::{Connection, Peer as _};
use adit_lab::process::{Process, eventually, run, run_unchecked, tail};
use adit_lab::strongswan::{self, Options, Release, StrongSwan};
use anyhow::{Context, Result, ensure};

use crate::gateways::{CLASSICAL, ESP};
use crate::peers::QUIET;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Contender {
    /// No tunnel: the gateways route.
    Plain,
    /// AES-256-GCM, ESP in UDP.
    Adit,
    /// ChaCha20-Poly1305, ESP in UDP: what every WireGuard does.
    AditChacha,
    WireguardGo,
    Gotatun,
    Boringtun,
    Openvpn,
    /// The newest of Debian's suites, with its userspace ESP.
    Strongswan,
    /// Debian 12's, with its userspace ESP.
    StrongswanDebian,
    /// AES-256-GCM, protocol 50. Not beside the others: see `raw`.
    #[value(skip)]
    AditRaw,
    /// The same, past the kernel's IP (AF_XDP).
    #[value(skip)]
    AditXdp,
}

/// Two of them are a tunnel.
pub(crate) enum Daemon {
    Adit(Adit),
    StrongSwan { _charon: StrongSwan },
    Other { _process: Process },
}

impl Contender {
    /// All that take turns.
    pub(crate) const ALL: [Self; 9] = [
        Self::Plain,
        Self::Adit,
        Self::AditChacha,
        Self::WireguardGo,
        Self::Gotatun,
        Self::Boringtun,
        Self::Openvpn,
        Self::Strongswan,
        Self::StrongswanDebian,
    ];

    /// In one word, for the results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Adit => "adit",
            Self::AditChacha => "adit-chacha",
            Self::AditRaw => "adit-raw",
            Self::AditXdp => "adit-xdp",
            Self::WireguardGo => "wireguard-go",
            Self::Gotatun => "gotatun",
            Self::Boringtun => "boringtun",
            Self::Openvpn => "openvpn",
            Self::Strongswan => "strongswan",
            Self::StrongswanDebian => "strongswan-debian",
        }
    }

    /// For readers.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Plain => "plain routing, no tunnel",
            Self::Adit => "**Adit**, AES-256-GCM",
            Self::AditChacha => "**Adit**, ChaCha20-Poly1305",
            Self::AditRaw => "**Adit**, AES-256-GCM, protocol 50",
            Self::AditXdp => "**Adit**, AES-256-GCM, protocol 50 by AF_XDP",
            // With their versions before it.
            Self::WireguardGo | Self::Gotatun | Self::Boringtun => "ChaCha20-Poly1305",
            Self::Openvpn => "AES-256-GCM",
            Self::Strongswan | Self::StrongswanDebian => "userspace ESP, AES-256-GCM",
        }
    }

    /// What it says of its version.
    pub(crate) fn version(self) -> Result<String> {
        // The line that has this word in it, up to another word.
        let line = |command: &mut Command, word: &str, end: &str| -> Result<String> {
            let output = run_unchecked(command)?;
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            let line = text.lines().find(|line| line.contains(word)).context("no version")?;
            Ok(line.split(end).next().unwrap_or_default().trim().to_owned())
        };
        match self {
            Self::Plain => Ok(String::new()),
            Self::Adit | Self::AditChacha | Self::AditRaw | Self::AditXdp => {
                line(Command::new(adit::program()?).arg("--version"), "adit", "\n")
            }
            Self::WireguardGo | Self::Gotatun | Self::Boringtun => {
                // What a program says of itself may be older than it is: bench/setup notes the package's version.
                let program = self.program()?;
                match std::fs::read_to_string(program.with_extension("version")) {
                    Ok(version) => Ok(version.trim().to_owned()),
                    Err(_) => line(Command::new(program).arg("--version"), self.name(), "\n"),
                }
            }
            Self::Openvpn => line(Command::new("openvpn").arg("--version"), "OpenVPN", "x86_64"),
            Self::StrongswanDebian => line(Command::new("swanctl").arg("--version"), "strongSwan", "swanctl"),
            Self::Strongswan => {
                let mut command = Command::new("chroot");
                command.arg(strongswan::newest()?).args(["/usr/sbin/swanctl", "--version"]);
                line(&mut command, "strongSwan", "swanctl")
            }
        }
    }

    fn program(self) -> Result<PathBuf> {
        let name = match self {
            Self::Boringtun => "boringtun-cli",
            _ => self.name(),
        };
        let path = Path::new("target/peers/bin").join(name);
        let path = std::env::var_os("ADIT_BENCH_PEERS").map_or(path, |peers| Path::new(&peers).join(name));
        ensure!(path.is_file(), "no {}: run bench/setup, or set ADIT_BENCH_PEERS", path.display());
        Ok(path)
    }

    /// Brings the tunnel up, and waits until the hosts reach each other.
    pub(crate) fn start(self, lab: &Lab) -> Result<Vec<Daemon>> {
        let daemons = match self {
            Self::Plain => {
                for side in SIDES {
                    let (to, via) = (side.other().network(Family::V4), side.other().outer(Family::V4));
                    lab.run(
                        side.gateway(),
                        "ip",
                        &["route", "add", to, "via", via, "dev", "wan0", "onlink"],
                    )?;
                }
                Vec::new()
            }
            Self::Adit => adits(lab, ESP, true, "")?,
            Self::AditChacha => adits(lab, "chacha20poly1305", true, "")?,
            Self::AditRaw => adits(lab, ESP, false, RAW)?,
            Self::AditXdp => adits(lab, ESP, false, &format!("{RAW}\n xdp = yes"))?,
            Self::WireguardGo | Self::Gotatun | Self::Boringtun => self.wireguards(lab)?,
            Self::Openvpn => openvpns(lab)?,
            Self::Strongswan => strongswans(lab, Release::Newest)?,
            Self::StrongswanDebian => strongswans(lab, Release::Debian)?,
        };
        eventually("the hosts to reach each other", Duration::from_secs(20), || {
            Ok(lab.reaches(Side::A, Family::V4)?.then_some(()))
        })?;
        Ok(daemons)
    }

    /// WireGuard in userspace, whoever made it.
    fn wireguards(self, lab: &Lab) -> Result<Vec<Daemon>> {
        let key = |side: Side| -> Result<(PathBuf, String)> {
            let path = lab.dir().join(format!("key-{side}"));
            std::fs::write(&path, run(Command::new("wg").arg("genkey"))?)?;
            let public = run(Command::new("sh").args(["-c", "wg pubkey <\"$0\""]).arg(&path))?;
            Ok((path, public.trim().to_owned()))
        };
        let keys = [key(Side::A)?, key(Side::B)?];
        let mut daemons = Vec::new();
        for (side, [(own, _), (_, other)]) in
            SIDES.into_iter().zip([[&keys[0], &keys[1]], [&keys[1], &keys[0]]])
        {
            // The control sockets are in a directory that all namespaces share.
            let interface = format!("wg{}{side}", std::process::id());
            let mut command = lab.command(side.gateway(), self.program()?);
            command.env("LOG_LEVEL", "error").env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1");
            command.arg("-f");
            if self != Self::WireguardGo {
                command.arg("--disable-drop-privileges");
            }
            let mut process = Process::spawn(&interface, command.arg(&interface), lab.dir())?;
            interface_of(lab, side, &interface, &mut process)?;
            let set = ["set", &interface, "listen-port", "51820", "private-key"];
            let endpoint = format!("{}:51820", side.other().outer(Family::V4));
            let mut wg = lab.command(side.gateway(), "wg");
            wg.args(set).arg(own).args(["peer", other, "allowed-ips", "10.0.0.0/8", "endpoint", &endpoint]);
            eventually("the daemon to take its configuration", Duration::from_secs(5), || {
                Ok(run_unchecked(&mut wg)?.status.success().then_some(()))
            })?;
            route_into(lab, side, &interface)?;
            daemons.push(Daemon::Other { _process: process });
        }
        Ok(daemons)
    }
}

/// The packets that are measured fit whole, as those of every other contender do.
const RAW: &str = "mtu = 1420";

fn adits(lab: &Lab, esp: &str, encap: bool, gateway: &str) -> Result<Vec<Daemon>> {
    let settings = adit::Settings { extra: format!("log = warn\n {gateway}"), ..adit::Settings::default() };
    let [a, b] = SIDES.map(|side| Adit::start_with(lab, side, &connection(side, esp, encap), &settings));
    let (a, b) = (a?, b?);
    a.initiate()?;
    Ok(vec![Daemon::Adit(a), Daemon::Adit(b)])
}

fn strongswans(lab: &Lab, release: Release) -> Result<Vec<Daemon>> {
    let options = Options { more: QUIET.to_owned(), ..Options::of(release) };
    let [a, b] = SIDES.map(|side| StrongSwan::start_with(lab, side, &connection(side, ESP, true), &options));
    let (a, b) = (a?, b?);
    a.initiate()?;
    Ok([a, b].map(|charon| Daemon::StrongSwan { _charon: charon }).into())
}

fn connection(side: Side, esp: &str, encap: bool) -> Connection {
    let mut connection = Connection::new(side, Family::V4, CLASSICAL, esp);
    connection.encap = encap;
    connection.extra = "mobike = no".to_owned();
    connection
}

/// Point to point over TLS, each knowing the other's certificate by its fingerprint.
fn openvpns(lab: &Lab) -> Result<Vec<Daemon>> {
    let path = |what: &str, side: Side| lab.dir().join(format!("openvpn-{what}-{side}"));
    let mut fingerprints = Vec::new();
    for side in SIDES {
        run(Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2", "-subj", &format!("/CN={side}"), "-keyout"])
            .arg(path("key", side))
            .arg("-out")
            .arg(path("cert", side)))?;
        let text = run(Command::new("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(path("cert", side)))?;
        fingerprints.push(text.split_once('=').context("no fingerprint")?.1.trim().to_owned());
    }
    fingerprints.reverse();
    let mut daemons = Vec::new();
    for (side, fingerprint) in SIDES.into_iter().zip(&fingerprints) {
        let mut command = lab.command(side.gateway(), "openvpn");
        command.args("--dev tun0 --dev-type tun --proto udp --port 1194 --disable-dco --verb 1".split(' '));
        command.args("--data-ciphers AES-256-GCM --cipher AES-256-GCM --script-security 0".split(' '));
        command
            .args("--sndbuf 4000000 --rcvbuf 4000000 --txqueuelen 1000 --tun-mtu 1420 --fast-io".split(' '));
        command.arg("--cert").arg(path("cert", side)).arg("--key").arg(path("key", side));
        command.args(["--peer-fingerprint", fingerprint]);
        match side {
            Side::A => command.args(["--tls-server", "--dh", "none", "--ifconfig", "10.9.0.1", "10.9.0.2"]),
            Side::B => command.args([
                "--tls-client",
                "--remote",
                side.other().outer(Family::V4),
                "--ifconfig",
                "10.9.0.2",
                "10.9.0.1",
            ]),
        };
        let process = Process::spawn(&format!("openvpn-{side}"), &mut command, lab.dir())?;
        daemons.push((side, process));
    }
    for (side, process) in &mut daemons {
        interface_of(lab, *side, "tun0", process)?;
        route_into(lab, *side, "tun0")?;
    }
    Ok(daemons.into_iter().map(|(_, process)| Daemon::Other { _process: process }).collect())
}

/// Waits until the daemon has made its interface.
fn interface_of(lab: &Lab, side: Side, interface: &str, process: &mut Process) -> Result<()> {
    eventually(&format!("interface {interface}"), Duration::from_secs(15), || {
        ensure!(!process.ended()?, "the daemon ended: {}", tail(&process.output(), 10));
        let mut command = lab.command(side.gateway(), "ip");
        Ok(run_unchecked(command.args(["link", "show", interface]))?.status.success().then_some(()))
    })
}

fn route_into(lab: &Lab, side: Side, interface: &str) -> Result<()> {
    let gateway: Node = side.gateway();
    lab.run(gateway, "ip", &["link", "set", interface, "mtu", "1420", "up"])?;
    lab.run(gateway, "ip", &["route", "replace", side.other().network(Family::V4), "dev", interface])?;
    Ok(())
}
