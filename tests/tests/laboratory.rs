//! The laboratory proves itself: with strongSwan on both sides everything that is asked of Adit holds, and what
//! the tests call a leak is seen when it happens.

use adit_lab::capture::{Capture, dissect, only_protected};
use adit_lab::lab::{FAMILIES, Family, Node, SIDES, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer, equal_counters};
use adit_lab::process::eventually;
use adit_lab::strongswan::{Options, Release, StrongSwan};
use adit_lab::traffic::{Stream, TRANSFER_BYTES, transfer};
use anyhow::{Result, ensure};
use std::time::Duration;

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
    with_lab("strongswans-nat", Topology { nat: Some(Side::A), ..Topology::default() }, |lab| {
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
fn the_newest_strongswan_speaks_raw_esp_and_ml_kem() -> Result<()> {
    with_lab("strongswan-newest", Topology::default(), |lab| {
        let options = Options { libipsec: "raw_esp = yes".to_owned(), ..Options::of(Release::Newest) };
        let suite = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";
        let start = |side| {
            let connection = Connection::new(side, Family::V4, suite, "aes256gcm16");
            StrongSwan::start_with(lab, side, &connection, &options)
        };
        let (a, b) = (start(Side::A)?, start(Side::B)?);
        a.initiate()?;
        let child = b.wait_for_child()?;
        ensure!(!child.encap(), "raw ESP was asked for: {child:?}");
        let used = a.sas()?.first().and_then(|sa| sa.values.get("ake1").cloned());
        ensure!(used.as_deref() == Some("ML_KEM_768"), "{used:?}");
        lab.ping(Side::A, Family::V4, 3)
    })
}

#[test]
fn a_stream_loses_and_repeats_nothing_by_itself_and_sees_what_the_link_does() -> Result<()> {
    with_lab("stream", Topology::default(), |lab| {
        // No gateways: the router knows the way to both private networks.
        for (side, via) in [(Side::A, "198.51.100.2"), (Side::B, "203.0.113.2")] {
            lab.run(Node::Net, "ip", &["route", "add", side.network(Family::V4), "via", via])?;
        }
        let stream = Stream::start(lab, Family::V4, 1000, 200)?;
        eventually("3,000 packets each way", Duration::from_secs(20), || {
            Ok(stream.received().iter().all(|count| *count >= 3000).then_some(()))
        })?;
        for passage in stream.stop()? {
            passage.ensure_perfect()?;
            ensure!(passage.reordered == 0, "{passage:?}");
        }

        // Every tenth packet of side A is dropped.
        lab.nft(
            Node::Net,
            "table ip lab {\n chain forward {\n type filter hook forward priority 0\n \
             iifname a0 numgen inc mod 10 == 0 drop\n }\n }\n",
        )?;
        let stream = Stream::start(lab, Family::V4, 1000, 200)?;
        eventually("1,000 packets", Duration::from_secs(20), || {
            Ok(stream.received().iter().all(|count| *count >= 1000).then_some(()))
        })?;
        let [a, b] = stream.stop()?;
        let tenth = a.sent.div_ceil(10);
        ensure!((tenth - 1..=tenth + 1).contains(&a.lost()), "{a:?}");
        b.ensure_perfect()?;
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
