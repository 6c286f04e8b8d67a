//! Two Adits: raw ESP and ESP in UDP, all four combinations of families inside and outside, extended sequence numbers
//! on and off.

use adit_lab::adit::Adit;
use adit_lab::capture::{Capture, count, only_protected};
use adit_lab::lab::{FAMILIES, Family, Node, SIDES, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer, equal_counters};
use adit_lab::traffic::transfer;
use anyhow::{Context, Result, ensure};

const IKE: &str = "aes256gcm16-prfsha384-x25519";

#[test]
fn raw_esp_over_ipv4() -> Result<()> {
    pair("raw4", Family::V4, false)
}

#[test]
fn raw_esp_over_ipv6() -> Result<()> {
    pair("raw6", Family::V6, false)
}

#[test]
fn esp_in_udp_over_ipv4() -> Result<()> {
    pair("udp4", Family::V4, true)
}

#[test]
fn esp_in_udp_over_ipv6() -> Result<()> {
    pair("udp6", Family::V6, true)
}

/// Both kinds of sequence numbers in turn, with both families inside.
fn pair(name: &str, outer: Family, encap: bool) -> Result<()> {
    for (esn, esp) in [(true, "aes128gcm16-esn"), (false, "aes256-sha256-noesn")] {
        with_lab(name, Topology::default(), |lab| {
            let mut ours = Connection::new(Side::A, outer, IKE, esp);
            ours.encap = encap;
            let theirs = Connection::new(Side::B, outer, IKE, esp);
            let a = Adit::start(lab, Side::A, &ours)?;
            let b = Adit::start(lab, Side::B, &theirs)?;
            let capture = Capture::start(lab, Node::Net, "a0", "")?;
            a.initiate()?;
            for peer in [&a, &b] {
                let child = peer.wait_for_child()?;
                ensure!(child.encap() == encap, "encapsulation is {} and should be {encap}", child.encap());
                let reported = child.values.get("esn").is_some_and(|value| value == "1");
                ensure!(reported == esn, "ESN is {reported} and should be {esn}");
            }
            for family in FAMILIES {
                SIDES.into_iter().try_for_each(|side| lab.ping(side, family, 3))?;
            }
            let file = capture.stop()?;
            ensure!(only_protected(&file)? >= 24, "12 pings are 24 ESP packets");
            let (with, without) = (count(&file, "esp and udp")?, count(&file, "esp and not udp")?);
            ensure!(
                (with > 0) == encap && (without > 0) != encap,
                "{with} ESP packets in UDP, {without} without"
            );
            for family in FAMILIES {
                for side in SIDES {
                    transfer(lab, side, family, 20_000_000)?;
                }
            }
            equal_counters(&a, &b)?;
            b.terminate()?;
            a.wait_for_nothing()?;
            b.wait_for_nothing()
        })
        .with_context(|| format!("ESP proposal {esp}"))?;
    }
    Ok(())
}
