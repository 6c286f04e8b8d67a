//! Namespaces made without `ip`, seen by `ip`; the observer; and what the data plane says without rights.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use adit_net::capture::Capture;
use adit_net::netlink::{PROTOCOL_STATIC, Route, RouteKind, Rule, RuleAction};
use adit_net::netns::Namespace;
use adit_net::{NetConfig, Userspace};
use anyhow::{Context, Result, bail, ensure};

fn ip(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(arguments).output()?;
    ensure!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn named_namespaces_are_those_of_ip() -> Result<()> {
    let name = format!("adit-test-{}", std::process::id());
    let namespace = Namespace::named(&name)?;
    ensure!(Namespace::named(&name).is_err(), "the name is taken");
    ensure!(ip(&["netns", "list"])?.contains(&name));
    namespace.loopback_up()?;
    ensure!(ip(&["-n", &name, "-o", "link"])?.contains("lo: <LOOPBACK,UP"));
    namespace.set_forwarding()?;
    for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        ensure!(ip(&["netns", "exec", &name, "sysctl", "-n", key])?.trim() == "1");
    }
    drop(namespace);
    ensure!(!ip(&["netns", "list"])?.contains(&name));

    // What `ip` made, or an interrupted run left, can be deleted; what is not there, too.
    ip(&["netns", "add", &name])?;
    Namespace::delete(&name)?;
    Namespace::delete(&name)?;
    ensure!(!ip(&["netns", "list"])?.contains(&name));
    ensure!(Namespace::named("../evil").is_err() && Namespace::named("").is_err());
    Ok(())
}

#[test]
fn an_observer_sees_both_directions_with_the_time() -> Result<()> {
    let (near, far) = (Namespace::unnamed()?, Namespace::unnamed()?);
    near.netlink()?.create_veth("eth", "eth", Some(far.as_fd()))?;
    for (namespace, host) in [(&near, 1), (&far, 2)] {
        let mut netlink = namespace.netlink()?;
        let index = netlink.link("eth")?.index;
        netlink.set_no_link_local(index)?;
        netlink.set_up(index)?;
        netlink.add_address(index, IpAddr::from([192, 0, 2, host]), 24)?;
    }
    let mut capture = near.run(|| Capture::open("eth"))??;
    let before = SystemTime::now();
    let here = near.run(|| UdpSocket::bind("192.0.2.1:7"))??;
    let there = far.run(|| UdpSocket::bind("192.0.2.2:7"))??;
    here.set_read_timeout(Some(Duration::from_secs(10)))?;
    there.set_read_timeout(Some(Duration::from_secs(10)))?;
    here.send_to(b"question", there.local_addr()?)?;
    there.recv(&mut [0; 100])?;
    there.send_to(b"answer", here.local_addr()?)?;
    here.recv(&mut [0; 100])?;

    let (mut found, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(10));
    while found.len() < 2 {
        ensure!(Instant::now() < deadline, "only {found:?}");
        capture.read(Duration::from_secs(1), |frame| {
            for text in ["question", "answer"] {
                if frame.octets.ends_with(text.as_bytes()) {
                    found.push((text, frame.outgoing, frame.at));
                }
            }
        })?;
    }
    let (first, second) = (found.first().context("first")?, found.get(1).context("second")?);
    ensure!(
        (first.0, first.1) == ("question", true) && (second.0, second.1) == ("answer", false),
        "{found:?}"
    );
    ensure!(before <= first.2 && first.2 <= second.2 && second.2 <= SystemTime::now(), "{found:?}");
    Ok(())
}

#[test]
fn what_is_gone_already_can_be_removed() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "this test makes network namespaces: run it as root");
    let mut netlink = Namespace::unnamed()?.netlink()?;
    for destination in [IpAddr::from([10, 2, 0, 0]), IpAddr::from([0xfd00, 2, 0, 0, 0, 0, 0, 0])] {
        let v6 = destination.is_ipv6();
        netlink.delete_route(&Route {
            destination: (destination, 16),
            table: 220,
            kind: RouteKind::Unreachable,
            interface: None,
            gateway: None,
            source: None,
            metric: 4000,
            protocol: PROTOCOL_STATIC,
        })?;
        netlink.delete_rule(&Rule {
            v6,
            priority: 221,
            action: RuleAction::Lookup(220),
            mark: None,
            source: Some((destination, 16)),
            destination: None,
            ip_protocol: None,
            source_ports: None,
            destination_ports: None,
            protocol: PROTOCOL_STATIC,
        })?;
    }
    Ok(())
}

#[test]
fn without_rights_it_says_which_are_missing() -> Result<()> {
    // The other half of this test, in a process without rights.
    if !rustix::process::geteuid().is_root() {
        match Userspace::start(
            NetConfig { ike_port: 40_500, nat_t_port: 44_500, ..NetConfig::default() },
            Box::new(|_| ()),
        ) {
            Ok(_) => bail!("it started"),
            Err(error) => {
                println!("{error}");
                return Ok(());
            }
        }
    }
    // Copied to where anyone may read it.
    let directory = tempfile::tempdir()?;
    let program = directory.path().join("test");
    std::fs::copy(std::env::current_exe()?, &program)?;
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let output = Command::new(program)
        .args(["--exact", "net_namespaces::without_rights_it_says_which_are_missing", "--nocapture"])
        .current_dir("/")
        .uid(65_534)
        .gid(65_534)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && said.contains("CAP_NET_ADMIN"), "{said}");
    Ok(())
}
