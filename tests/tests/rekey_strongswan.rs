//! Rekeying against strongSwan, by both sides at once, under numbered traffic in both directions: nothing is lost and
//! nothing arrives twice.
//!
//! `ADIT_LAB_REKEYS=CHILD,IKE` says how many rekeys each test makes at least; without it a few. The full form is
//! `ADIT_LAB_REKEYS=1000,200`.

use adit_lab::adit::Adit;
use adit_lab::lab::{Family, Lab, Node, SIDES, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer, Rekey, equal_counters};
use adit_lab::process::{eventually, tell};
use adit_lab::strongswan::{Options, Release, StrongSwan};
use adit_lab::traffic::Stream;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16";

#[test]
fn adit_initiates_to_debians() -> Result<()> {
    rekeys("rekey-i", Release::Debian, Side::A, IKE, ESP)
}

#[test]
fn debians_initiates() -> Result<()> {
    rekeys("rekey-r", Release::Debian, Side::B, IKE, ESP)
}

#[test]
fn adit_initiates_to_the_newest_with_ml_kem_and_forward_secrecy() -> Result<()> {
    rekeys("rekey-new-i", Release::Newest, Side::A, ML_KEM_IKE, ML_KEM_ESP)
}

#[test]
fn the_newest_initiates_with_ml_kem_and_forward_secrecy() -> Result<()> {
    rekeys("rekey-new-r", Release::Newest, Side::B, ML_KEM_IKE, ML_KEM_ESP)
}

const ML_KEM_IKE: &str = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";
const ML_KEM_ESP: &str = "aes256gcm16-x25519-ke1_mlkem768";

/// How many rekeys of the child and of the IKE SA there are to be.
fn wanted() -> Result<(usize, usize)> {
    let Ok(text) = std::env::var("ADIT_LAB_REKEYS") else { return Ok((30, 8)) };
    let (child, ike) = text.split_once(',').context("ADIT_LAB_REKEYS is CHILD,IKE, such as 1000,200")?;
    Ok((child.trim().parse()?, ike.trim().parse()?))
}

/// strongSwan's limits are as short as it takes them. It counts in seconds, Adit in any unit.
fn theirs(side: Side, ike: &str, esp: &str) -> Connection {
    let mut connection = Connection::new(side, Family::V4, ike, esp);
    connection.extra = "rekey_time = 6s\n rand_time = 3s\n over_time = 60s\n mobike = no".to_owned();
    connection.child_extra = "rekey_time = 1s\n rand_time = 0s\n life_time = 60s".to_owned();
    connection
}

/// Ours are so short that both rekey all the time, and often at the same time.
fn ours(ike: &str, esp: &str) -> Connection {
    let mut connection = theirs(Side::A, ike, esp);
    connection.extra = connection.extra.replace("rekey_time = 6s", "rekey_time = 4s");
    connection.child_extra = "rekey_time = 500ms\n rand_time = 400ms\n life_time = 60s".to_owned();
    connection
}

fn rekeys(name: &str, release: Release, initiator: Side, ike: &str, esp: &str) -> Result<()> {
    with_lab(name, Topology::default(), |lab| {
        let adit = Adit::start(lab, Side::A, &ours(ike, esp))?;
        let strongswan =
            StrongSwan::start_with(lab, Side::B, &theirs(Side::B, ike, esp), &Options::of(release))?;
        let first: &dyn Peer = if initiator == Side::A { &adit } else { &strongswan };
        first.initiate()?;
        run(lab, &adit, &strongswan)?;
        let requests =
            ["parsed", "generating"].map(|whose| strongswan.count_log(&[whose, "CREATE_CHILD_SA request"]));
        tell(&format!("requests of ours and of strongSwan's: {requests:?}"));
        let few = requests.iter().sum::<usize>() / 10;
        ensure!(requests.iter().all(|count| *count > few), "not by both sides: {requests:?}");
        let warnings: Vec<String> =
            adit.log().lines().filter(|line| line.contains(" WARN ")).map(str::to_owned).collect();
        ensure!(warnings.is_empty(), "{warnings:#?}");
        Ok(())
    })
}

/// Rekeys until there were as many as wanted, at least.
fn run(lab: &Lab, ours: &dyn Peer, strongswan: &StrongSwan) -> Result<()> {
    for peer in [ours, strongswan] {
        peer.wait_for_child()?;
    }
    SIDES.into_iter().try_for_each(|side| lab.ping(side, Family::V4, 2))?;
    let (children, ikes) = wanted()?;
    let stream = Stream::start(lab, Family::V4, 250, 200)?;
    let start = Instant::now();
    // The limits make a rekey of the child every half second or so; orders from outside make more, at odd moments.
    let limit = Duration::from_secs(120 + u64::try_from(4 * children + 20 * ikes)?);
    let mut turn = 0_u32;
    let (mut done, mut arrived) = ((0, 0), [0, 0]);
    let outcome =
        eventually(&format!("{children} rekeys of the child and {ikes} of the IKE SA"), limit, || {
            turn += 1;
            // It finds nothing to rekey in the moment in which an IKE SA takes the place of another.
            let _ =
                strongswan.rekey(if turn.is_multiple_of(6) && ikes > 0 { Rekey::Ike } else { Rekey::Child });
            std::thread::sleep(Duration::from_millis(u64::from(turn * 37 % 400)));
            done = rekeyed(strongswan);
            let now = stream.received();
            if turn.is_multiple_of(20) {
                ensure!(now != arrived, "nothing arrives any more after {done:?} rekeys");
                arrived = now;
            }
            Ok((done.0 >= children && done.1 >= ikes).then_some(()))
        });
    outcome.with_context(|| format!("{done:?} rekeys of child and IKE SA after {:?}", start.elapsed()))?;
    let report = format!("{done:?} rekeys of child and IKE SA in {:?}", start.elapsed());
    tell(&report);
    // What is under way comes to its end, and the two agree in what there is.
    let passages = stream.stop()?;
    let overflows = [lab.overflows(Node::GatewayA)?, lab.overflows(Node::GatewayB)?];
    tell(&format!(
        "full socket buffers have dropped {overflows:?}: anything but 0 means that the machine is too busy"
    ));
    for passage in passages {
        tell(&format!("{passage:?}"));
        passage.ensure_perfect().with_context(|| {
            format!("{report}; {overflows:?} were dropped by full buffers of the gateways")
        })?;
    }
    eventually("one child and the same at both sides", Duration::from_secs(20), || {
        Ok(equal_counters(ours, strongswan).ok())
    })?;
    Ok(())
}

/// How often strongSwan has replaced the child and the IKE SA. The loser of a collision has no outbound half.
fn rekeyed(strongswan: &StrongSwan) -> (usize, usize) {
    (
        strongswan.count_log(&["outbound CHILD_SA net{", "established"]),
        strongswan.count_log(&["IKE_SA gw[", "rekeyed between"]),
    )
}

/// The measure proves itself: the same load between two strongSwans.
#[test]
fn between_two_strongswans() -> Result<()> {
    with_lab("rekey-control", Topology::default(), |lab| {
        let start =
            |side| StrongSwan::start_with(lab, side, &theirs(side, IKE, ESP), &Options::of(Release::Debian));
        let (a, b) = (start(Side::A)?, start(Side::B)?);
        a.initiate()?;
        run(lab, &a, &b)
    })
}
