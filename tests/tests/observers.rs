//! Other people's eyes: Wireshark's dissector reads a capture with Adit's key log and reads nothing without it, and
//! scapy's IPsec layer speaks ESP with a live Adit.

use adit_lab::adit::{Adit, Settings};
use adit_lab::capture::{Capture, count, dissect, only_protected};
use adit_lab::lab::{Family, Lab, Node, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer};
use adit_lab::process::run;
use adit_lab::scapy;
use adit_lab::strongswan::StrongSwan;
use anyhow::{Context, Result, ensure};

const KEY_LOG: Settings =
    Settings { key_log: true, extra: String::new(), after: String::new(), environment: Vec::new() };

/// What a ping's payload repeats, so that it can be searched for on the wire.
const PATTERN: &str = "c0ffee42";
const PATTERN_ON_THE_WIRE: &str = "c0:ff:ee:42:c0:ff:ee:42";

#[test]
fn tshark_reads_raw_esp_with_the_key_log_and_nothing_without() -> Result<()> {
    with_lab("tshark-raw", Topology::default(), |lab| {
        let (ike, esp) = ("aes256gcm16-prfsha384-x25519", "aes256gcm16-noesn");
        let a = Adit::start_with(lab, Side::A, &Connection::new(Side::A, Family::V4, ike, esp), &KEY_LOG)?;
        let b = Adit::start(lab, Side::B, &Connection::new(Side::B, Family::V4, ike, esp))?;
        read_with_and_without_keys(lab, &a, &b)
    })
}

#[test]
fn tshark_reads_strongswans_tunnel_with_the_key_log_and_nothing_without() -> Result<()> {
    with_lab("tshark-udp", Topology::default(), |lab| {
        let (ike, esp) = ("aes256-sha256-modp2048", "aes256-sha256-noesn");
        let a = Adit::start_with(lab, Side::A, &Connection::new(Side::A, Family::V6, ike, esp), &KEY_LOG)?;
        let b = StrongSwan::start(lab, Side::B, &Connection::new(Side::B, Family::V6, ike, "aes256-sha256"))?;
        read_with_and_without_keys(lab, &a, &b)
    })
}

fn read_with_and_without_keys(lab: &Lab, a: &Adit, b: &dyn Peer) -> Result<()> {
    let between = Capture::start(lab, Node::Net, "a0", "")?;
    let inside = Capture::start(lab, Node::HostA, "lan0", "icmp or icmp6")?;
    a.initiate()?;
    b.wait_for_child()?;
    for (to, size) in [(Side::B, "56"), (Side::B, "1"), (Side::B, "1200")] {
        for family in [Family::V4, Family::V6] {
            let from = to.other().host_node();
            lab.run(
                from,
                "ping",
                &["-n", "-c", "2", "-i", "0.2", "-p", PATTERN, "-s", size, to.host(family)],
            )?;
        }
    }
    a.terminate()?;
    let (between, inside) = (between.stop()?, inside.stop()?);

    ensure!(only_protected(&between)? >= 24, "12 pings are 24 ESP packets");
    ensure!(
        count(&inside, &format!("frame contains {PATTERN_ON_THE_WIRE}"))? > 0,
        "the pattern is not in the pings"
    );
    ensure!(
        count(&between, &format!("frame contains {PATTERN_ON_THE_WIRE}"))? == 0,
        "the pattern is on the wire"
    );
    let identities = dissect(&between, None, "isakmp", &["isakmp.id.data.fqdn"])?;
    ensure!(identities.iter().flatten().all(Vec::is_empty), "identities in the clear: {identities:?}");

    // With the keys: exactly the inner packets. Hop limits and checksums of IPv4 change on the way, all else stays.
    let echo = "(icmp.type == 8 or icmp.type == 0 or icmpv6.type == 128 or icmpv6.type == 129)";
    let fields =
        ["icmp.type", "icmp.ident", "icmp.seq", "icmpv6.type", "icmpv6.echo.identifier", "data.data"];
    let mut sent = dissect(&inside, None, echo, &fields)?;
    let mut read = dissect(&between, Some(a.keys()), &format!("esp and {echo}"), &fields)?;
    sent.sort();
    read.sort();
    ensure!(sent.len() == 24, "12 pings and their answers are 24 packets, not {}", sent.len());
    ensure!(
        sent == read,
        "with the keys tshark reads {} inner packets: {read:#?}\nsent: {sent:#?}",
        read.len()
    );
    let other = format!("esp and not {echo}");
    let others = dissect(&between, Some(a.keys()), &other, &["frame.number", "_ws.col.Info"])?;
    ensure!(others.is_empty(), "ESP packets that are none of the pings: {others:?}");
    let inner = dissect(&between, Some(a.keys()), "esp and icmp.type == 8", &["ip.src", "ip.dst"])?;
    for packet in &inner {
        let text = format!("{packet:?}");
        ensure!(text.contains(Side::A.host(Family::V4)) && text.contains(Side::B.host(Family::V4)), "{text}");
    }
    ensure!(inner.len() == 6, "6 inner IPv4 requests, not {}", inner.len());
    let bad = count_with_keys(&between, a, "esp.icv_bad == 1 or esp.icv_good == 0")?;
    ensure!(bad == 0, "{bad} ICVs do not verify");

    // The IKE side of the key log.
    let identities =
        dissect(&between, Some(a.keys()), "isakmp.exchangetype == 35", &["isakmp.id.data.fqdn"])?;
    let text = format!("{identities:?}");
    for side in [Side::A, Side::B] {
        ensure!(
            text.contains(side.id()),
            "the identity {} is not in the decrypted IKE_AUTH: {text}",
            side.id()
        );
    }
    let log = a.log();
    ensure!(
        log.lines().any(|line| line.contains("WARN") && line.contains("key")),
        "a key log must be loud: {log}"
    );
    Ok(())
}

fn count_with_keys(file: &std::path::Path, adit: &Adit, filter: &str) -> Result<usize> {
    Ok(dissect(file, Some(adit.keys()), filter, &["frame.number"])?.len())
}

#[test]
fn keys_are_logged_only_on_request() -> Result<()> {
    with_lab("no-keys", Topology::default(), |lab| {
        let (ike, esp) = ("aes256gcm16-prfsha384-x25519", "aes256gcm16");
        let a = Adit::start(lab, Side::A, &Connection::new(Side::A, Family::V4, ike, esp))?;
        let b = Adit::start(lab, Side::B, &Connection::new(Side::B, Family::V4, ike, esp))?;
        a.initiate()?;
        b.wait_for_child()?;
        let written = std::fs::read_dir(a.keys())?.count();
        ensure!(written == 0, "{written} files in the key directory though no key log was asked for");
        Ok(())
    })
}

#[test]
fn scapy_speaks_raw_aes_gcm() -> Result<()> {
    with_lab("scapy-gcm", Topology::default(), |lab| {
        let (ike, esp) = ("aes256gcm16-prfsha384-x25519", "aes256gcm16-noesn");
        let a = Adit::start_with(lab, Side::A, &Connection::new(Side::A, Family::V4, ike, esp), &KEY_LOG)?;
        let b = Adit::start(lab, Side::B, &Connection::new(Side::B, Family::V4, ike, esp))?;
        scapy_takes_the_place(lab, &a, &b)
    })
}

#[test]
fn scapy_speaks_raw_aes_cbc_with_sha512() -> Result<()> {
    with_lab("scapy-cbc", Topology::default(), |lab| {
        let (ike, esp) = ("aes256-sha512-ecp521", "aes128-sha512-noesn");
        let a = Adit::start_with(lab, Side::A, &Connection::new(Side::A, Family::V4, ike, esp), &KEY_LOG)?;
        let b = Adit::start(lab, Side::B, &Connection::new(Side::B, Family::V4, ike, esp))?;
        scapy_takes_the_place(lab, &a, &b)
    })
}

#[test]
fn scapy_speaks_chacha20_in_udp() -> Result<()> {
    with_lab("scapy-chacha", Topology::default(), |lab| {
        let (ike, esp) = ("chacha20poly1305-prfsha256-x25519", "chacha20poly1305");
        let a = Adit::start_with(lab, Side::A, &Connection::new(Side::A, Family::V4, ike, esp), &KEY_LOG)?;
        let b = StrongSwan::start(lab, Side::B, &Connection::new(Side::B, Family::V4, ike, esp))?;
        scapy_takes_the_place(lab, &a, &b)
    })
}

fn scapy_takes_the_place(lab: &Lab, a: &Adit, b: &dyn Peer) -> Result<()> {
    a.initiate()?;
    let child = b.wait_for_child()?;
    lab.ping(Side::A, Family::V4, 2)?;
    let mut script = scapy::script(lab, Node::Net, "esp_peer.py")?;
    script.arg(a.keys().join("esp_sa"));
    script.args([Side::B.outer(Family::V4), Side::A.outer(Family::V4)]);
    script.args([Side::B.host(Family::V4), Side::A.host(Family::V4)]);
    script.args([
        child.value("spi-out")?,
        child.value("spi-in")?,
        "a0",
        if child.encap() { "yes" } else { "no" },
    ]);
    let report = run(&mut script).context("scapy as the peer")?;
    ensure!(report.lines().filter(|line| line.starts_with("ok")).count() >= 15, "{report}");
    Ok(())
}
