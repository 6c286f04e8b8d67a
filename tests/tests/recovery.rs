//! What is lost comes back: dead peers are noticed in the time that the configuration says, what ought to be up is
//! brought up again by itself, and a handshake passes a responder that demands cookies.

use adit_lab::adit::Adit;
use adit_lab::lab::{Family, Lab, Node, SIDES, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer};
use adit_lab::process::{Process, eventually, run, tell};
use adit_lab::strongswan::{Options, Release, StrongSwan};
use adit_lab::traffic::own_program;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16";
/// A silent peer is asked after one second and given up three seconds later.
const QUICK: &str = "dpd_delay = 1s\n retransmit_wait = 500ms\n retransmit_give_up = 3s";

/// Side A keeps the tunnel up and finds out soon that its peer is dead.
fn keeper() -> Connection {
    Connection {
        extra: QUICK.to_owned(),
        child_extra: "start_action = start\n close_action = start\n dpd_action = restart".to_owned(),
        ..Connection::new(Side::A, Family::V4, IKE, ESP)
    }
}

fn plain(side: Side) -> Connection {
    Connection::new(side, Family::V4, IKE, ESP)
}

#[test]
fn a_peer_that_is_killed_and_started_again_gets_its_tunnel_back() -> Result<()> {
    with_lab("peer-killed", Topology::default(), |lab| {
        let strongswan = StrongSwan::start(lab, Side::B, &plain(Side::B))?;
        let adit = Adit::start(lab, Side::A, &keeper())?;
        let first = adit.wait_for_child().context("nobody had to ask for it")?;
        lab.ping(Side::A, Family::V4, 2)?;
        strongswan.kill()?;
        // Without an answer the SA goes, and without a peer none comes.
        let start = Instant::now();
        eventually("the dead SA to go", Duration::from_secs(15), || {
            Ok(adit.child()?.is_none().then_some(()))
        })?;
        let noticed = start.elapsed();
        tell(&format!("noticed after {noticed:?}"));
        ensure!(noticed > Duration::from_secs(2), "given up after {noticed:?}: before its time");
        ensure!(!lab.reaches(Side::A, Family::V4)?);

        let strongswan = StrongSwan::start(lab, Side::B, &plain(Side::B))?;
        let start = Instant::now();
        let second = eventually("the tunnel to come back", Duration::from_secs(40), || adit.child())?;
        tell(&format!("back after {:?}", start.elapsed()));
        ensure!(second.value("spi-in")? != first.value("spi-in")?);
        strongswan.wait_for_child()?;
        lab.ping(Side::A, Family::V4, 2)?;
        lab.ping(Side::B, Family::V6, 2)
    })
}

#[test]
fn a_tunnel_that_the_peer_takes_down_comes_back() -> Result<()> {
    with_lab("peer-deletes", Topology::default(), |lab| {
        let strongswan = StrongSwan::start(lab, Side::B, &plain(Side::B))?;
        let adit = Adit::start(lab, Side::A, &keeper())?;
        for round in 0..4 {
            let old = adit.wait_for_child()?;
            // The child alone, and the whole IKE SA.
            if round % 2 == 0 {
                strongswan.terminate_child()?
            } else {
                strongswan.terminate()?
            };
            eventually("another child", Duration::from_secs(30), || {
                let other = |peer: &dyn Peer, key: &str| -> Result<bool> {
                    Ok(peer.child()?.is_some_and(|child| child.values.get(key) != old.values.get("spi-in")))
                };
                Ok((other(&adit, "spi-in")? && other(&strongswan, "spi-out")?).then_some(()))
            })?;
            lab.ping(Side::A, Family::V4, 2)?;
        }
        Ok(())
    })
}

#[test]
fn a_tunnel_that_the_operator_takes_down_stays_down() -> Result<()> {
    with_lab("operator-deletes", Topology::default(), |lab| {
        let strongswan = StrongSwan::start(lab, Side::B, &plain(Side::B))?;
        let adit = Adit::start(lab, Side::A, &keeper())?;
        adit.wait_for_child()?;
        adit.terminate()?;
        strongswan.wait_for_nothing()?;
        // There is no event to wait for when nothing happens: some of the time that coming back took above.
        std::thread::sleep(Duration::from_secs(5));
        ensure!(adit.sas()?.is_empty() && strongswan.sas()?.is_empty(), "{:?}", adit.sas()?);
        adit.initiate()?;
        lab.ping(Side::A, Family::V4, 2)
    })
}

#[test]
fn a_responder_forgets_a_dead_peer_in_time_and_takes_it_back() -> Result<()> {
    with_lab("dead-initiator", Topology::default(), |lab| {
        let ours = Connection { extra: QUICK.to_owned(), ..plain(Side::A) };
        let adit = Adit::start(lab, Side::A, &ours)?;
        let strongswan = StrongSwan::start(lab, Side::B, &plain(Side::B))?;
        strongswan.initiate()?;
        adit.wait_for_child()?;
        // Silence by itself is no death: the peer answers when it is asked.
        std::thread::sleep(Duration::from_secs(6));
        ensure!(adit.child()?.is_some(), "given up though the peer is well");
        strongswan.kill()?;
        let start = Instant::now();
        eventually("no SA", Duration::from_secs(15), || Ok(adit.sas()?.is_empty().then_some(())))?;
        ensure!(start.elapsed() > Duration::from_secs(2), "given up after {:?}", start.elapsed());
        let strongswan = StrongSwan::start(lab, Side::B, &plain(Side::B))?;
        strongswan.initiate()?;
        lab.ping(Side::A, Family::V4, 2)
    })
}

#[test]
fn after_a_crash_adit_brings_up_what_it_keeps_up() -> Result<()> {
    with_lab("adit-killed", Topology::default(), |lab| {
        let strongswan = StrongSwan::start(lab, Side::B, &plain(Side::B))?;
        let adit = Adit::start(lab, Side::A, &keeper())?;
        let old = adit.wait_for_child()?;
        strongswan.wait_for_child()?;
        adit.kill()?;
        let adit = Adit::restart(lab, Side::A)?;
        let new = adit.wait_for_child()?;
        ensure!(new.value("spi-in")? != old.value("spi-in")?);
        lab.ping(Side::A, Family::V4, 2)?;
        // INITIAL_CONTACT has told the peer that the old one is of no use.
        strongswan.wait_for_child().map(drop)
    })
}

#[test]
fn both_sides_keep_the_tunnel_up_and_there_is_one() -> Result<()> {
    with_lab("both-start", Topology::default(), |lab| {
        let both = |side| Connection {
            extra: format!("{QUICK}\n unique = replace"),
            child_extra: keeper().child_extra,
            ..plain(side)
        };
        // The first one's first message finds nobody, and its repetition a tunnel that the second one has made.
        let a = Adit::start(lab, Side::A, &both(Side::A))?;
        let b = Adit::start(lab, Side::B, &both(Side::B))?;
        for peer in [&a, &b] {
            eventually("one child", Duration::from_secs(30), || peer.child())?;
        }
        lab.ping(Side::A, Family::V4, 5)?;
        for peer in [&a, &b] {
            eventually("one IKE SA and one child", Duration::from_secs(20), || {
                Ok((peer.sas()?.len() == 1 && peer.child()?.is_some()).then_some(()))
            })
            .with_context(|| format!("{:?}", peer.sas()))?;
        }
        lab.ping(Side::B, Family::V6, 2)
    })
}

#[test]
fn strongswan_demands_a_cookie_and_gets_it() -> Result<()> {
    for release in [Release::Debian, Release::Newest] {
        with_lab("cookie-theirs", Topology::default(), |lab| {
            // Later words in a section win over earlier ones: protection is on again.
            let options = Options {
                charon: "dos_protection = yes\n cookie_threshold = 10\n cookie_threshold_ip = 1\n block_threshold = 100"
                    .to_owned(),
                ..Options::of(release)
            };
            let theirs = Connection { remote_addrs: "%any".to_owned(), ..plain(Side::B) };
            let strongswan = StrongSwan::start_with(lab, Side::B, &theirs, &options)?;
            let adit = Adit::start(lab, Side::A, &plain(Side::A))?;
            flood(lab, Side::B, 100, 1)?.wait(Duration::from_secs(10))?;
            adit.initiate()?;
            let answer = strongswan.wait_for_log(&["generating IKE_SA_INIT response", "N(COOKIE)"]);
            answer.context("it never asked for a cookie")?;
            lab.ping(Side::A, Family::V4, 2)
        })
        .with_context(|| format!("{release:?}"))?;
    }
    Ok(())
}

#[test]
fn adit_demands_a_cookie_and_takes_strongswans() -> Result<()> {
    for release in [Release::Debian, Release::Newest] {
        with_lab("cookie-ours", Topology::default(), |lab| {
            let adit = Adit::start(lab, Side::A, &plain(Side::A))?;
            let strongswan = StrongSwan::start_with(lab, Side::B, &plain(Side::B), &Options::of(release))?;
            let mut flood = flood(lab, Side::A, 200, 4)?;
            std::thread::sleep(Duration::from_millis(1500));
            strongswan.initiate()?;
            strongswan.wait_for_log(&["parsed IKE_SA_INIT response", "N(COOKIE)"])?;
            adit.wait_for_child()?;
            flood.wait(Duration::from_secs(10))?;
            SIDES.into_iter().try_for_each(|side| lab.ping(side, Family::V4, 2))
        })
        .with_context(|| format!("{release:?}"))?;
    }
    Ok(())
}

/// First messages from everywhere for the gateway of `side`; what it answers to them is nobody's.
fn flood(lab: &Lab, side: Side, rate: u32, seconds: u32) -> Result<Process> {
    run(lab.command(Node::Net, "ip").args(["route", "replace", "blackhole", "100.64.0.0/10"]))?;
    let program = own_program("lab-flood")?;
    let mut command = lab.command(Node::Net, program);
    command.args([side.outer(Family::V4).to_owned(), rate.to_string(), seconds.to_string()]);
    Process::spawn("flood", &mut command, lab.dir())
}
