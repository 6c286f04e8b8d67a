//! The control socket as others use it: Debian's `swanctl` and PyPI's vici library, unmodified.

use adit_lab::adit::{Adit, Settings};
use adit_lab::lab::{Family, Lab, Node, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer, SECRET, raw_events, sas_from_json};
use adit_lab::process::{eventually, run, run_unchecked};
use adit_lab::scapy;
use adit_lab::strongswan::copy_of;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

fn pair(lab: &Lab) -> Result<(Adit, Adit)> {
    let connection = |side| Connection::new(side, Family::V4, "aes256gcm16-prfsha384-x25519", "aes256gcm16");
    Ok((Adit::start(lab, Side::A, &connection(Side::A))?, Adit::start(lab, Side::B, &connection(Side::B))?))
}

#[test]
fn swanctl_works_unmodified() -> Result<()> {
    with_lab("swanctl", Topology::default(), |lab| {
        let (a, b) = pair(lab)?;
        let program = copy_of("swanctl", "strongswan-swanctl", lab.dir())?;
        // No strongswan.conf of the machine may matter.
        let empty = lab.dir().join("empty.conf");
        std::fs::write(&empty, "")?;
        let swanctl = |arguments: &[&str]| -> Command {
            let mut command = Command::new(&program);
            command.env("STRONGSWAN_CONF", &empty).args(arguments).args(["--uri", a.control()]);
            command
        };

        let version = run(&mut swanctl(&["--version", "--daemon"]))?;
        ensure!(version.to_lowercase().contains("adit"), "{version}");
        let connections = run(&mut swanctl(&["--list-conns"]))?;
        for part in
            ["gw: IKEv2", "203.0.113.2", "pre-shared key", "a.lab.example", "net: TUNNEL", "10.1.0.0/24"]
        {
            ensure!(connections.contains(part), "no {part:?} in\n{connections}");
        }
        ensure!(run(&mut swanctl(&["--list-sas"]))?.trim().is_empty(), "SAs before any was made");

        let initiated = run(&mut swanctl(&["--initiate", "--ike", "gw", "--child", "net"]))?;
        ensure!(initiated.contains("initiate completed successfully"), "{initiated}");
        b.wait_for_child()?;
        lab.ping(Side::A, Family::V4, 2)?;
        let listed = run(&mut swanctl(&["--list-sas"]))?;
        for part in [
            "gw: #",
            "ESTABLISHED, IKEv2",
            "a.lab.example' @ 198.51.100.2",
            "b.lab.example' @ 203.0.113.2",
            "AES_GCM_16-256",
            "CURVE_25519",
            "net: #",
            "INSTALLED, TUNNEL",
            "ESP:AES_GCM_16-256",
            "2 packets",
            "fd00:2::/64",
        ] {
            ensure!(listed.contains(part), "no {part:?} in\n{listed}");
        }
        // What swanctl sees is what `adit status --json` says.
        let raw = raw_events(&run(&mut swanctl(&["--list-sas", "--raw"]))?)?;
        let (seen, told) = (sas_from_json(&Value::Array(raw))?, a.sas()?);
        ensure!(seen.len() == 1 && told.len() == 1, "{seen:?} {told:?}");
        let (seen, told) = (seen.first().context("SA")?, told.first().context("SA")?);
        for name in ["uniqueid", "local-id", "remote-id"] {
            let same = seen.values.contains_key(name) && seen.values.get(name) == told.values.get(name);
            ensure!(same, "{name}: {seen:?} {told:?}");
        }
        let (seen, told) = (seen.children.first().context("child")?, told.children.first().context("child")?);
        for name in ["uniqueid", "spi-in", "spi-out", "packets-in", "packets-out", "local-ts", "remote-ts"] {
            ensure!(seen.value(name)? == told.value(name)?, "{name}: {seen:?} {told:?}");
        }

        let refused = run_unchecked(&mut swanctl(&["--initiate", "--child", "no-such-child"]))?;
        ensure!(!refused.status.success(), "swanctl initiated a child that does not exist");
        let terminated = run(&mut swanctl(&["--terminate", "--ike", "gw"]))?;
        ensure!(terminated.contains("terminate completed successfully"), "{terminated}");
        a.wait_for_nothing()?;
        b.wait_for_nothing()?;
        let nothing = run_unchecked(&mut swanctl(&["--terminate", "--ike", "gw"]))?;
        ensure!(!nothing.status.success(), "swanctl terminated nothing, successfully");
        Ok(())
    })
}

#[test]
fn the_vici_library_works_unmodified() -> Result<()> {
    with_lab("vici", Topology::default(), |lab| {
        let connection =
            |side| Connection::new(side, Family::V4, "aes256gcm16-prfsha384-x25519", "aes256gcm16");
        let http = lab.dir().join("http.sock").display().to_string();
        let settings = Settings { extra: format!("http = unix://{http}"), ..Settings::default() };
        let a = Adit::start_with(lab, Side::A, &connection(Side::A), &settings)?;
        let _b = Adit::start(lab, Side::B, &connection(Side::B))?;
        let mut script = scapy::script(lab, Node::GatewayA, "vici_client.py")?;
        script.arg(a.control().trim_start_matches("unix://"));
        let report = run(&mut script)?;
        ensure!(report.contains("all good"), "{report}");
        nobody_else_gets_in(lab, &http)
    })
}

/// Load, initiate, listen, rekey, terminate, unload: with a daemon that no file has told anything.
#[test]
fn the_vici_library_drives_a_whole_life() -> Result<()> {
    with_lab("vici-life", Topology::default(), |lab| {
        let a = Adit::start_bare(lab, Side::A)?;
        let connection = Connection::new(Side::B, Family::V4, "aes256gcm16-prfsha384-x25519", "aes256gcm16");
        let _b = Adit::start(lab, Side::B, &connection)?;
        let path = a.control().trim_start_matches("unix://");
        let mut script = scapy::script(lab, Node::GatewayA, "vici_life.py")?;
        let (one, two) = (Side::A, Side::B);
        script.args([path, one.outer(Family::V4), two.outer(Family::V4)]);
        script.args([one.network(Family::V4), two.network(Family::V4), SECRET]);
        let report = run(&mut script)?;
        ensure!(report.contains("all good"), "{report}");
        nobody_else_gets_in(lab, path)
    })
}

/// By the socket's own permissions: the directory is open.
fn nobody_else_gets_in(lab: &Lab, path: &str) -> Result<()> {
    std::fs::set_permissions(lab.dir(), std::fs::Permissions::from_mode(0o755))?;
    let others = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let knock = format!("import socket; socket.socket(socket.AF_UNIX).connect({path:?})");
    let knocked =
        run_unchecked(Command::new("setpriv").args(others).arg("/usr/bin/python3").args(["-c", &knock]))?;
    ensure!(!knocked.status.success(), "another user was let in by {path}");
    let why = String::from_utf8_lossy(&knocked.stderr).into_owned();
    ensure!(why.contains("Permission denied"), "{why}");
    run(Command::new(scapy::python()?).args(["-c", &knock])).map(drop)
}

#[test]
fn a_client_that_stays_or_talks_nonsense_blocks_nobody() -> Result<()> {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    with_lab("nonsense", Topology::default(), |lab| {
        let (a, b) = pair(lab)?;
        let path = a.control().trim_start_matches("unix://").to_owned();
        let silent = UnixStream::connect(&path)?;
        let mut greedy = UnixStream::connect(&path)?;
        greedy.write_all(&[0xff, 0xff, 0xff, 0xff, 0])?;
        let mut broken = UnixStream::connect(&path)?;
        // A request whose message has a section that never ends.
        broken.write_all(b"\x00\x00\x00\x0f\x00\x08list-sas\x01\x03abc")?;
        let mut half = UnixStream::connect(&path)?;
        half.write_all(&[0, 0, 0, 9, 0, 7])?;
        a.initiate().context("while others misbehave")?;
        b.wait_for_child()?;
        drop((silent, greedy, broken, half));
        lab.ping(Side::A, Family::V4, 2)?;
        eventually("the daemon to answer", Duration::from_secs(5), || Ok((a.sas()?.len() == 1).then_some(())))
    })
}
