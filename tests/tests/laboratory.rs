//! The laboratory proves itself: with strongSwan on both sides everything that is asked of Adit holds, and what
//! the tests call a leak is seen when it happens.

use adit_lab::capture::{Capture, dissect, only_protected};
use adit_lab::lab::{FAMILIES, Family, Node, SIDES, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer, equal_counters};
use adit_lab::strongswan::StrongSwan;
use adit_lab::traffic::{TRANSFER_BYTES, transfer};
use anyhow::{Result, ensure};

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16";

#[test]
fn two_strongswans_agree_in_everything_that_is_measured() -> Result<()> {
    with_lab("strongswans", Topology::default(), |lab| {
        let capture = Capture::start(lab, Node::Net, "a0", "")?;
        let a = StrongSwan::start(lab, Side::A, &Connection::new(Side::A, Family::V4, IKE, ESP))?;
        let b = StrongSwan::start(lab, Side::B, &Connection::new(Side::B, Family::V4, IKE, ESP))?;
        for peer in [&a, &b] {
            peer.initiate()?;
            let (child, _) = (a.wait_for_child()?, b.wait_for_child()?);
            ensure!(child.encap(), "kernel-libipsec of Debian 12 always encapsulates in UDP");
            for family in FAMILIES {
                SIDES.into_iter().try_for_each(|side| lab.ping(side, family, 3))?;
            }
            equal_counters(&a, &b)?;
            peer.terminate()?;
            a.wait_for_nothing()?;
            b.wait_for_nothing()?;
        }
        ensure!(only_protected(&capture.stop()?)? > 40, "the pings are missing in the capture");
        Ok(())
    })
}

#[test]
fn two_strongswans_move_100_megabytes_through_a_nat() -> Result<()> {
    with_lab("strongswans-nat", Topology { nat: Some(Side::A) }, |lab| {
        let mut behind = Connection::new(Side::B, Family::V4, IKE, ESP);
        behind.remote_addrs = "%any".to_owned();
        let a = StrongSwan::start(lab, Side::A, &Connection::new(Side::A, Family::V4, IKE, ESP))?;
        let b = StrongSwan::start(lab, Side::B, &behind)?;
        a.initiate()?;
        b.wait_for_child()?;
        for family in FAMILIES {
            for side in SIDES {
                transfer(lab, side, family, TRANSFER_BYTES)?;
            }
        }
        let (to_b, to_a) = equal_counters(&a, &b)?;
        ensure!(to_b > 140_000 && to_a > 140_000, "{to_b} and {to_a} packets cannot hold 200 MB each way");
        Ok(())
    })
}

#[test]
fn a_leak_would_be_seen() -> Result<()> {
    with_lab("leak", Topology::default(), |lab| {
        let capture = Capture::start(lab, Node::Net, "a0", "")?;
        for family in FAMILIES {
            ensure!(!lab.reaches(Side::A, family)?, "the router knows a way to a private network");
        }
        let file = capture.stop()?;
        let leaked = dissect(&file, None, "icmp.type == 8 or icmpv6.type == 128", &["ip.dst", "ipv6.dst"])?;
        ensure!(leaked.len() >= 2, "{leaked:?}");
        ensure!(only_protected(&file).is_err(), "a leak went unnoticed");
        Ok(())
    })
}
