//! Garbage against a live gateway: the established tunnel does not notice, memory stays bounded.

use adit_lab::adit::Adit;
use adit_lab::capture::Capture;
use adit_lab::lab::{Family, Node, SIDES, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer, equal_counters};
use adit_lab::process::run;
use adit_lab::scapy;
use adit_lab::traffic::SteadyPing;
use anyhow::{Context, Result, ensure};

const MIB: u64 = 1 << 20;

#[test]
fn garbage_does_not_disturb_a_responder() -> Result<()> {
    disturbed("garbage-r", false, Side::B)
}

#[test]
fn garbage_does_not_disturb_an_initiator_that_encapsulates() -> Result<()> {
    disturbed("garbage-i", true, Side::A)
}

/// Side A is the target. Whatever is sent comes from side B's address, as far as A can tell.
fn disturbed(name: &str, encap: bool, initiator: Side) -> Result<()> {
    with_lab(name, Topology::default(), |lab| {
        let (ike, esp) = ("aes256gcm16-prfsha384-x25519", "aes256gcm16");
        let mut ours = Connection::new(Side::A, Family::V4, ike, esp);
        ours.encap = encap;
        let a = Adit::start(lab, Side::A, &ours)?;
        let b = Adit::start(lab, Side::B, &Connection::new(Side::B, Family::V4, ike, esp))?;
        let capture = Capture::start(lab, Node::Net, "a0", "")?;
        let (first, second) = if initiator == Side::A { (&a, &b) } else { (&b, &a) };
        first.initiate()?;
        second.wait_for_child()?;
        // Messages of the exchanges after IKE_AUTH are worth spoiling too.
        lab.ping(Side::B, Family::V4, 3)?;
        second.terminate_child()?;
        second.terminate()?;
        first.wait_for_nothing()?;
        first.initiate()?;
        let child = second.wait_for_child()?;
        lab.ping(Side::B, Family::V4, 3)?;
        let capture = capture.stop()?;

        let memory = a.process().resident_memory()?;
        let pings = SIDES
            .into_iter()
            .map(|side| SteadyPing::start(lab, side, Family::V4))
            .collect::<Result<Vec<_>>>()?;
        let mut script = scapy::script(lab, Node::Net, "garbage.py")?;
        script.arg(&capture).args([Side::B.outer(Family::V4), Side::A.outer(Family::V4), "40000", "1"]);
        let report = run(&mut script).context("garbage.py")?;
        ensure!(report.contains("sent "), "{report}");
        for ping in pings {
            let result = ping.stop()?;
            ensure!(
                result.sent > 50 && result.sent == result.received,
                "{result:?} under garbage ({report})"
            );
        }
        let grown = a.process().resident_memory()?.saturating_sub(memory);
        ensure!(grown < 64 * MIB, "resident memory grew by {} MiB", grown / MIB);
        ensure!(
            second.wait_for_child()?.value("spi-in")? == child.value("spi-in")?,
            "another Child SA than before"
        );
        equal_counters(&a, &b)?;
        // And it still takes orders.
        a.terminate()?;
        b.wait_for_nothing()?;
        b.initiate().context("a new tunnel after the garbage")?;
        lab.ping(Side::A, Family::V6, 2)
    })
}
