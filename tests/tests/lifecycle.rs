//! The daemon's own life: what it leaves on the system when it ends well, when it is killed, and when there are two.

use adit_lab::adit::{Adit, program};
use adit_lab::capture::{Capture, dissect, only_protected};
use adit_lab::lab::{FAMILIES, Family, Node, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer};
use adit_lab::process::{Process, Signal, eventually, run_unchecked};
use adit_lab::traffic::SteadyPing;
use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::time::Duration;

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16";

fn connection(side: Side) -> Connection {
    Connection::new(side, Family::V4, IKE, ESP)
}

#[test]
fn sigterm_restores_the_system() -> Result<()> {
    with_lab("sigterm", Topology::default(), |lab| {
        let before = lab.network_state(Node::GatewayA)?;
        let a = Adit::start(lab, Side::A, &connection(Side::A))?;
        let b = Adit::start(lab, Side::B, &connection(Side::B))?;
        a.initiate()?;
        b.wait_for_child()?;
        lab.ping(Side::A, Family::V4, 2)?;
        let during = lab.network_state(Node::GatewayA)?;
        ensure!(before != during, "a running gateway leaves no trace: what is compared?");
        a.terminate_daemon()?;
        b.wait_for_nothing().context("SIGTERM deletes the SAs at the peer too")?;
        let after = lab.network_state(Node::GatewayA)?;
        ensure!(before == after, "before:\n{before}\nafter:\n{after}");
        Ok(())
    })
}

#[test]
fn killed_while_established_nothing_leaks_and_the_next_start_works() -> Result<()> {
    killed("kill-established", |a, _| a.initiate().map(drop))
}

#[test]
fn killed_before_any_tunnel_nothing_leaks_and_the_next_start_works() -> Result<()> {
    killed("kill-idle", |_, _| Ok(()))
}

#[test]
fn killed_during_the_handshake_nothing_leaks_and_the_next_start_works() -> Result<()> {
    // One after the other: before the first message is answered, and at several moments of the exchange.
    for delay in [0, 2, 5, 10, 20] {
        killed(&format!("kill-handshake-{delay}"), |a, _| {
            let mut up = a.command();
            let mut up = up.args(["up", "net"]).stdout(std::process::Stdio::null()).spawn()?;
            std::thread::sleep(Duration::from_millis(delay));
            // The daemon dies first; the command sees the end of its connection.
            a.process().signal(Signal::KILL)?;
            up.wait()?;
            Ok(())
        })?;
    }
    Ok(())
}

/// Kills the daemon of side A after `prepare` while the host behind it keeps talking, and starts it again.
fn killed(name: &str, prepare: impl FnOnce(&Adit, &Adit) -> Result<()>) -> Result<()> {
    with_lab(name, Topology::default(), |lab| {
        let clean = lab.network_state(Node::GatewayA)?;
        let a = Adit::start(lab, Side::A, &connection(Side::A))?;
        let b = Adit::start(lab, Side::B, &connection(Side::B))?;
        let capture = Capture::start(lab, Node::Net, "a0", "")?;
        let pings = FAMILIES
            .into_iter()
            .map(|family| SteadyPing::start(lab, Side::A, family))
            .collect::<Result<Vec<_>>>()?;
        let inside = Capture::start(lab, Node::HostA, "lan0", "icmp or icmp6")?;
        prepare(&a, &b)?;
        a.kill()?;
        // Dead, and the host goes on for a while.
        let sent = |pings: &[SteadyPing]| pings.iter().map(SteadyPing::answers).collect::<Vec<_>>();
        let at_death = sent(&pings);
        std::thread::sleep(Duration::from_millis(700));
        ensure!(sent(&pings) == at_death, "answers though the gateway is dead");

        let again = Adit::restart(lab, Side::A)?;
        again.initiate().context("the first `up` after a crash")?;
        eventually("answers after the restart", Duration::from_secs(10), || {
            let now = sent(&pings);
            Ok(now.iter().zip(&at_death).all(|(now, then)| now > then).then_some(()))
        })?;
        let requests =
            dissect(&inside.stop()?, None, "icmp.type == 8 or icmpv6.type == 128", &["frame.number"])?;
        ensure!(requests.len() > 20, "only {} requests: what should have leaked?", requests.len());
        for ping in pings {
            ping.stop()?;
        }
        only_protected(&capture.stop()?)?;
        again.terminate_daemon()?;
        let end = lab.network_state(Node::GatewayA)?;
        ensure!(clean == end, "the second daemon's end does not restore the system:\n{clean}\n{end}");
        Ok(())
    })
}

#[test]
fn killed_under_traffic_nothing_leaks_and_the_next_start_works() -> Result<()> {
    with_lab("kill-traffic", Topology::default(), |lab| {
        let a = Adit::start(lab, Side::A, &connection(Side::A))?;
        let b = Adit::start(lab, Side::B, &connection(Side::B))?;
        a.initiate()?;
        b.wait_for_child()?;
        // Everything that is not protected; the rest would fill the disk.
        let filter = "not arp and not ip6 multicast and not (icmp6 and not net fd00::/16) and not udp port 500 and not udp port 4500 \
                      and not ip proto 50";
        let capture = Capture::start(lab, Node::Net, "a0", filter)?;
        // UDP does not stop when nobody answers.
        let flood = ["-n", "-f", "-q", "-s", "1000", Side::B.host(Family::V4)];
        let mut flood = lab.spawn(Node::HostA, "flood", "ping", &flood)?;
        let packets = a.wait_for_child()?.counter("packets-out")?;
        eventually("traffic", Duration::from_secs(10), || {
            Ok(a.child()?
                .is_some_and(|child| child.counter("packets-out").is_ok_and(|now| now > packets + 500))
                .then_some(()))
        })?;
        a.kill()?;
        std::thread::sleep(Duration::from_millis(500));
        let again = Adit::restart(lab, Side::A)?;
        again.initiate()?;
        flood.stop(Signal::INT)?;
        lab.ping(Side::A, Family::V4, 3)?;
        let leaked = dissect(&capture.stop()?, None, "", &["frame.number", "_ws.col.Info"])?;
        ensure!(leaked.is_empty(), "{} packets in the clear: {:?}", leaked.len(), leaked.first());
        Ok(())
    })
}

#[test]
fn killed_and_then_unable_to_start_nothing_leaks() -> Result<()> {
    with_lab("kill-fail", Topology::default(), |lab| {
        let clean = lab.network_state(Node::GatewayA)?;
        // The router knows the way to both private networks: only the gateways can stop a packet in the clear.
        for (side, via) in [(Side::A, "198.51.100.2"), (Side::B, "203.0.113.2")] {
            lab.run(Node::Net, "ip", &["route", "add", side.network(Family::V4), "via", via])?;
        }
        let a = Adit::start(lab, Side::A, &connection(Side::A))?;
        let b = Adit::start(lab, Side::B, &connection(Side::B))?;
        a.initiate()?;
        b.wait_for_child()?;
        let capture = Capture::start(lab, Node::Net, "a0", "")?;
        let ping = SteadyPing::start(lab, Side::A, Family::V4)?;
        let inside = Capture::start(lab, Node::HostA, "lan0", "icmp")?;
        let config = a.config().to_owned();
        let good = std::fs::read_to_string(&config)?;
        a.kill()?;
        // One that cannot be read, and two that cannot be carried out: the name of a device is taken.
        for bad in [
            good.replace("version = 2", "version = zwei"),
            good.replace("gateway {", "gateway {\n tun = lan0"),
            good.replace("version = 2", "version = 2\n interface = lan0"),
        ] {
            ensure!(bad != good, "the test's own text");
            std::fs::write(&config, bad)?;
            let mut command = lab.command(Node::GatewayA, program()?);
            let mut start =
                Process::spawn("failing", command.arg("run").arg("--config").arg(&config), lab.dir())?;
            let code = start.wait(Duration::from_secs(10))?;
            ensure!(code.is_some_and(|code| code != 0), "exit code {code:?}: {}", start.output());
            ensure!(!lab.reaches(Side::A, Family::V4)?, "answered after a start that failed");
            ensure!(!lab.reaches(Side::B, Family::V4)?, "answered after a start that failed");
        }
        std::fs::write(&config, good)?;
        let again = Adit::restart(lab, Side::A)?;
        again.initiate()?;
        let before = ping.answers();
        eventually("answers", Duration::from_secs(10), || Ok((ping.answers() > before).then_some(())))?;
        ping.stop()?;
        let requests = dissect(&inside.stop()?, None, "icmp.type == 8", &["frame.number"])?;
        ensure!(requests.len() > 40, "only {} requests: what should have leaked?", requests.len());
        only_protected(&capture.stop()?)?;
        again.terminate_daemon()?;
        let end = lab.network_state(Node::GatewayA)?;
        ensure!(clean == end, "the daemon's end does not restore the system:\n{clean}\n{end}");
        Ok(())
    })
}

#[test]
fn what_arrives_in_the_clear_for_a_protected_network_is_dropped() -> Result<()> {
    with_lab("clear-in", Topology::default(), |lab| {
        // The router knows the way to both private networks: only the gateways can stop a packet in the clear.
        for (side, via) in [(Side::A, "198.51.100.2"), (Side::B, "203.0.113.2")] {
            lab.run(Node::Net, "ip", &["route", "add", side.network(Family::V4), "via", via])?;
        }
        ensure!(
            lab.reaches(Side::B, Family::V4)?,
            "without a gateway the hosts reach each other in the clear"
        );
        let a = Adit::start(lab, Side::A, &connection(Side::A))?;
        ensure!(
            !lab.reaches(Side::B, Family::V4)?,
            "no tunnel is up, and a packet in the clear was answered"
        );
        let inside = Capture::start(lab, Node::HostA, "lan0", "icmp")?;
        ensure!(!lab.reaches(Side::B, Family::V4)?);
        let seen = dissect(&inside.stop()?, None, "icmp", &["ip.src"])?;
        ensure!(seen.is_empty(), "a packet in the clear reached the protected host: {seen:?}");
        a.kill()?;
        ensure!(!lab.reaches(Side::B, Family::V4)?, "a packet in the clear was answered after SIGKILL");
        Ok(())
    })
}

#[test]
fn a_second_daemon_on_the_same_socket_says_so_and_stops() -> Result<()> {
    with_lab("second", Topology::default(), |lab| {
        let first = Adit::start(lab, Side::A, &connection(Side::A))?;
        let state = lab.network_state(Node::GatewayA)?;
        let mut command = lab.command(Node::GatewayA, program()?);
        command.arg("run").arg("--config").arg(first.config()).args(["--control", first.control()]);
        let mut second = Process::spawn("second", &mut command, lab.dir())?;
        let code = second.wait(Duration::from_secs(10))?;
        ensure!(code.is_some_and(|code| code != 0), "exit code {code:?}");
        let said = second.output();
        let socket = first.control().trim_start_matches("unix://");
        ensure!(
            said.contains(socket) && said.contains("another daemon"),
            "it does not say what is wrong: {said}"
        );
        ensure!(
            state == lab.network_state(Node::GatewayA)?,
            "the second daemon changed the first one's system"
        );
        ensure!(first.sas()?.is_empty(), "the first daemon no longer answers");
        Ok(())
    })
}

#[test]
fn commands_without_a_daemon_say_so() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let uri = format!("unix://{}/nobody.vici", directory.path().display());
    for arguments in [&["status"][..], &["up", "net"], &["down", "net"]] {
        let output = run_unchecked(Command::new(program()?).args(["--control", &uri]).args(arguments))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{arguments:?} succeeded without a daemon");
        ensure!(said.contains("nobody.vici") && said.contains("adit run"), "{arguments:?} said {said:?}");
    }
    Ok(())
}

#[test]
fn check_judges_a_file_without_a_daemon() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("swanctl.conf");
    let check = |text: &str| -> Result<(bool, String)> {
        std::fs::write(&file, text)?;
        let output = run_unchecked(Command::new(program()?).arg("check").arg(&file))?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let good = connection(Side::A).render();
    let (accepted, said) = check(&good)?;
    ensure!(accepted, "refused a good file: {said}");
    // Line 6 is `proposals = ..`, as `Connection::render` writes it.
    for (from, to, needed) in [
        ("proposals = aes", "proposls = aes", &["swanctl.conf:6:", "proposls", "proposals"][..]),
        ("proposals = aes256gcm16-prf", "proposals = aes255gcm16-prf", &["swanctl.conf:6:", "aes255gcm16"]),
        ("version = 2", "version = zwei", &["swanctl.conf:3:", "zwei", "2"]),
        ("auth = psk", "auth = pubkey", &["auth", "pubkey"]),
        ("secrets {", "secrets {{", &["swanctl.conf:"]),
    ] {
        ensure!(good.contains(from), "the test's own text: {from}");
        let (accepted, said) = check(&good.replacen(from, to, 1))?;
        ensure!(!accepted, "accepted {to:?}");
        for part in needed {
            ensure!(said.contains(part), "{to:?}: no {part:?} in {said}");
        }
    }
    let output =
        run_unchecked(Command::new(program()?).arg("check").arg(directory.path().join("none.conf")))?;
    ensure!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("none.conf"));
    Ok(())
}
