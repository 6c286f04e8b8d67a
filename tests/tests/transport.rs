//! Transport mode: the two gateways as hosts that talk to each other. Applications notice nothing, an observer sees ESP and
//! IKE only, over IPv4, IPv6, raw, in UDP, and through a NAT; and what strongSwan makes of our wish for it.

use adit_lab::adit::Adit;
use adit_lab::capture::{Capture, count, dissect};
use adit_lab::lab::{FAMILIES, Family, Lab, Node, SIDES, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer, Rekey, equal_counters, rekey_and_wait};
use adit_lab::process::{Process, eventually, run_unchecked};
use adit_lab::strongswan::StrongSwan;
use adit_lab::traffic::own_program;
use anyhow::{Context, Result, ensure};
use std::time::Duration;

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16";
/// The router's address at side B, which a NAT shows instead of gateway A's.
const NAT: &str = "203.0.113.1";

/// The host at one side, which wants transport mode for all that it sends the other.
fn host(side: Side, family: Family) -> Connection {
    Connection {
        local_ts: "dynamic".to_owned(),
        remote_ts: "dynamic".to_owned(),
        child_extra: "mode = transport".to_owned(),
        ..Connection::new(side, family, IKE, ESP)
    }
}

#[test]
fn between_two_hosts_over_ipv4() -> Result<()> {
    between_two_hosts("transport-v4", Family::V4, false)
}

#[test]
fn between_two_hosts_over_ipv6() -> Result<()> {
    between_two_hosts("transport-v6", Family::V6, false)
}

#[test]
fn between_two_hosts_over_ipv4_in_udp() -> Result<()> {
    between_two_hosts("transport-v4-udp", Family::V4, true)
}

#[test]
fn between_two_hosts_over_ipv6_in_udp() -> Result<()> {
    between_two_hosts("transport-v6-udp", Family::V6, true)
}

fn between_two_hosts(name: &str, family: Family, encap: bool) -> Result<()> {
    with_lab(name, Topology::default(), |lab| {
        let start = |side| Adit::start(lab, side, &Connection { encap, ..host(side, family) });
        let (a, b) = (start(Side::A)?, start(Side::B)?);
        ensure!(!echoes(lab, Side::A, Side::B.outer(family), &[])?, "in the clear, without an SA");
        let capture = Capture::start(lab, Node::Net, "a0", "")?;
        a.initiate()?;
        in_transport_mode(&a, &b)?;
        let addresses = SIDES.map(|side| side.outer(family));
        applications_notice_nothing(lab, addresses)?;
        for by in [&a, &b] {
            rekey_and_wait(
                by,
                if by.side() == Side::A { &b } else { &a },
                Rekey::Child,
                Duration::from_secs(10),
            )?;
        }
        in_transport_mode(&a, &b)?;
        applications_notice_nothing(lab, addresses)?;
        let (there, back) = equal_counters(&a, &b)?;
        ensure!(there > 20 && back > 20, "{there} {back}");
        observer_sees_nothing(capture, family, encap)?;
        // The mark of the peer's own header, and how far it has come.
        header_is_the_packets_own(lab, family)?;
        // What is protected does not leave without an SA.
        a.terminate()?;
        b.wait_for_nothing()?;
        ensure!(!echoes(lab, Side::A, Side::B.outer(family), &[])?, "in the clear after the SA");
        ensure!(!echoes(lab, Side::B, Side::A.outer(family), &[])?, "in the clear after the SA");
        Ok(())
    })
}

/// RFC 7296 2.23.1: the host behind the NAT knows nothing of its other address, and checksums are right nevertheless.
#[test]
fn through_a_nat() -> Result<()> {
    with_lab("transport-nat", Topology { nat: Some(Side::A), ..Topology::default() }, |lab| {
        let a = Adit::start(lab, Side::A, &host(Side::A, Family::V4))?;
        let outside = Connection { remote_addrs: "%any".to_owned(), ..host(Side::B, Family::V4) };
        let b = Adit::start(lab, Side::B, &outside)?;
        let capture = Capture::start(lab, Node::Net, "b0", "")?;
        a.initiate()?;
        in_transport_mode(&a, &b)?;
        ensure!(b.wait_for_child()?.value("remote-ts")?.starts_with(NAT), "{:?}", b.sas()?);
        // Only the host inside can be the first to speak; what it makes is summed up with its own address.
        let [inside, outside] = SIDES.map(|side| side.outer(Family::V4));
        tcp(lab, (Side::A, inside), (Side::B, outside))?;
        udp(lab, [inside, outside], [outside, NAT])?;
        ensure!(echoes(lab, Side::A, outside, &[])?, "ping");
        ensure!(echoes(lab, Side::B, NAT, &[])?, "ping back");
        rekey_and_wait(&a, &b, Rekey::Child, Duration::from_secs(10))?;
        rekey_and_wait(&b, &a, Rekey::Child, Duration::from_secs(10))?;
        in_transport_mode(&a, &b)?;
        udp(lab, [inside, outside], [outside, NAT])?;
        equal_counters(&a, &b)?;
        observer_sees_nothing(capture, Family::V4, true)
    })
}

/// strongSwan agrees to transport mode and asks for it; that its ESP in userspace then has no such mode ends the child.
#[test]
fn strongswan_agrees_and_asks() -> Result<()> {
    for first in SIDES {
        with_lab(&format!("transport-strongswan-{first}"), Topology::default(), |lab| {
            let a = Adit::start(lab, Side::A, &host(Side::A, Family::V4))?;
            let b = StrongSwan::start(lab, Side::B, &host(Side::B, Family::V4))?;
            let (peer, exchange): (&dyn Peer, _) = match first {
                Side::A => (&a, "parsed IKE_AUTH request"),
                Side::B => (&b, "parsed IKE_AUTH response"),
            };
            ensure!(peer.initiate().is_err(), "it has learnt transport mode: test more of it");
            b.wait_for_log(&[exchange, "N(USE_TRANSP)"])?;
            b.wait_for_log(&["IPsec SA: unsupported mode"])?;
            Ok(())
        })?;
    }
    Ok(())
}

/// Both sides have the one SA, in transport mode.
fn in_transport_mode(a: &Adit, b: &Adit) -> Result<()> {
    for peer in [a, b] {
        peer.wait_for_child()?;
        let (_, child) = eventually("one child", Duration::from_secs(10), || peer.only())?;
        ensure!(child.value("mode")? == "TRANSPORT", "{child:?}");
    }
    Ok(())
}

/// Is one ping answered within a second?
fn echoes(lab: &Lab, from: Side, to: &str, options: &[&str]) -> Result<bool> {
    let mut command = lab.command(from.gateway(), "ping");
    command.args(["-n", "-c", "1", "-W", "1"]).args(options).arg(to);
    Ok(run_unchecked(&mut command)?.status.success())
}

fn applications_notice_nothing(lab: &Lab, [a, b]: [&str; 2]) -> Result<()> {
    for (side, to) in [(Side::A, b), (Side::B, a)] {
        ensure!(echoes(lab, side, to, &[])?, "ping from {side}");
        ensure!(echoes(lab, side, to, &["-s", "1300"])?, "large ping from {side}");
    }
    tcp(lab, (Side::A, a), (Side::B, b))?;
    tcp(lab, (Side::B, b), (Side::A, a))?;
    udp(lab, [a, b], [b, a])
}

fn socket(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// 2 MB, hashed at both ends.
fn tcp(lab: &Lab, (from, _): (Side, &str), (to, address): (Side, &str)) -> Result<()> {
    let (program, target) = (own_program("lab-transfer")?, socket(address, 7000));
    let mut receive = lab.command(to.gateway(), &program);
    let mut receiver = Process::spawn("tcp-receive", receive.args(["receive", &target]), lab.dir())?;
    eventually("the receiver to listen", Duration::from_secs(10), || {
        Ok(receiver.own_output().contains("listening").then_some(()))
    })?;
    let mut send = lab.command(from.gateway(), &program);
    let mut sender = Process::spawn("tcp-send", send.args(["send", &target, "2000000"]), lab.dir())?;
    let mut sums = Vec::new();
    for process in [&mut sender, &mut receiver] {
        let code = process.wait(Duration::from_secs(30)).with_context(|| format!("TCP from {from}"))?;
        ensure!(code == Some(0), "TCP from {from}: {}", process.output());
        let output = process.own_output();
        let done = output.lines().rev().find(|line| line.starts_with("done 2000000 ")).context("no end")?;
        sums.push(done.split(' ').nth(2).map(str::to_owned));
    }
    ensure!(sums.first() == sums.last(), "{sums:?}");
    Ok(())
}

/// Numbered packets of two sizes both ways for a moment: each side binds its `own` address and sends to that which it knows of
/// the other. All arrive.
fn udp(lab: &Lab, own: [&str; 2], other: [&str; 2]) -> Result<()> {
    let program = own_program("lab-stream")?;
    for size in ["64", "1300"] {
        let file = lab.dir().join("udp.on");
        let mut ends = Vec::new();
        for (side, (own, other)) in SIDES.into_iter().zip(own.into_iter().zip(other)) {
            let mut command = lab.command(side.gateway(), &program);
            command.args([socket(own, 7001), socket(other, 7001), "200".into(), size.into()]).arg(&file);
            ends.push(Process::spawn(&format!("udp-{side}"), &mut command, lab.dir())?);
        }
        for end in &ends {
            eventually("the stream to be ready", Duration::from_secs(10), || {
                Ok(end.own_output().contains("ready").then_some(()))
            })?;
        }
        std::fs::write(&file, "")?;
        let received = |end: &Process| -> u64 {
            let output = end.own_output();
            let line = output.lines().rev().find(|line| line.starts_with("sent "));
            line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
        };
        eventually("a hundred packets each way", Duration::from_secs(10), || {
            Ok(ends.iter().all(|end| received(end) >= 100).then_some(()))
        })?;
        std::fs::remove_file(&file)?;
        let mut counts = Vec::new();
        for end in &mut ends {
            ensure!(end.wait(Duration::from_secs(20))? == Some(0), "{}", end.output());
            let output = end.own_output();
            let account: serde_json::Value =
                serde_json::from_str(output.lines().last().context("no account")?)?;
            let number = |name: &str| account.get(name).and_then(serde_json::Value::as_u64).context("number");
            ensure!(number("strange")? == 0, "{account}");
            counts.push((number("sent")?, number("received")?));
        }
        let [(sent_a, got_a), (sent_b, got_b)] = *counts else { anyhow::bail!("two ends") };
        ensure!(got_a == sent_b && got_b == sent_a, "{size} octets: {counts:?}");
    }
    Ok(())
}

/// ESP, raw or in UDP, IKE, and what finds the neighbours; nothing else.
fn observer_sees_nothing(capture: Capture, family: Family, encap: bool) -> Result<()> {
    let file = capture.stop()?;
    let of_family = if family == Family::V4 { "ip" } else { "ipv6" };
    let esp = if encap { "udp.port == 4500 and esp" } else { "esp and not udp" };
    ensure!(count(&file, esp)? > 100, "hardly any ESP");
    let quiet = "esp or isakmp or udpencap or icmpv6.type >= 133 or arp";
    let clear = count(&file, &format!("{of_family} and not ({quiet})"))?;
    ensure!(clear == 0, "{clear} packets in the clear");
    Ok(())
}

/// RFC 4303 3.1.1: the outer header is the packet's own, so its DSCP arrives, and its TTL counts the routers between.
fn header_is_the_packets_own(lab: &Lab, family: Family) -> Result<()> {
    let capture = Capture::start(lab, Node::GatewayB, "adit0", "")?;
    ensure!(echoes(lab, Side::A, Side::B.outer(family), &["-t", "9", "-Q", "0xb8"])?, "ping");
    let file = capture.stop()?;
    let (request, class, limit) = match family {
        Family::V4 => ("icmp.type == 8", "ip.dsfield", "ip.ttl"),
        Family::V6 => ("icmpv6.type == 128", "ipv6.tclass", "ipv6.hlim"),
    };
    let seen = dissect(&file, None, request, &[class, limit])?;
    let [packet] = &*seen else { anyhow::bail!("{seen:?}") };
    let fields: Vec<&str> = packet.iter().flatten().map(String::as_str).collect();
    ensure!(matches!(*fields, ["0xb8" | "0x000000b8", "8"]), "{fields:?}");
    Ok(())
}

/// What transport mode cannot carry is dropped and counted, and does not leave in the clear.
#[test]
fn fragments_stay_here() -> Result<()> {
    with_lab("transport-fragments", Topology::default(), |lab| {
        let family = Family::V4;
        let (a, b) = (
            Adit::start(lab, Side::A, &host(Side::A, family))?,
            Adit::start(lab, Side::B, &host(Side::B, family))?,
        );
        a.initiate()?;
        in_transport_mode(&a, &b)?;
        let capture = Capture::start(lab, Node::Net, "a0", "")?;
        ensure!(!echoes(lab, Side::A, Side::B.outer(family), &["-s", "3000"])?, "carried");
        ensure!(echoes(lab, Side::A, Side::B.outer(family), &[])?, "goes on");
        let file = capture.stop()?;
        ensure!(count(&file, "icmp or ip.flags.mf == 1 or ip.frag_offset > 0")? == 0, "in the clear");
        Ok(())
    })
}

/// All families are there, and each test uses one.
#[test]
fn the_other_family_is_nobodys_business() -> Result<()> {
    with_lab("transport-other", Topology::default(), |lab| {
        let a = Adit::start(lab, Side::A, &host(Side::A, Family::V4))?;
        let b = Adit::start(lab, Side::B, &host(Side::B, Family::V4))?;
        a.initiate()?;
        in_transport_mode(&a, &b)?;
        for family in FAMILIES {
            ensure!(echoes(lab, Side::A, Side::B.outer(family), &[])?, "{family:?}");
        }
        ensure!(a.wait_for_child()?.counter("packets-out")? == 1, "one of the two");
        Ok(())
    })
}
