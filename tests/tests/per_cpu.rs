//! Child SAs for workers (RFC 9611) end to end: two Adits, and Adit with the newest strongSwan.

use std::collections::BTreeSet;
use std::time::Duration;

use adit_lab::adit::{Adit, Settings};
use adit_lab::lab::{Family, Lab, SIDES, Side, Topology, with_lab};
use adit_lab::peer::{ChildSa, Connection, Peer, Rekey};
use adit_lab::process::eventually;
use adit_lab::strongswan::{Options, Release, StrongSwan};
use adit_lab::traffic::transfer;
use anyhow::{Context, Result, ensure};

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16";

fn connection(side: Side, child: &str) -> Connection {
    let mut connection = Connection::new(side, Family::V4, IKE, ESP);
    connection.child_extra = child.to_owned();
    connection
}

fn adit(lab: &Lab, side: Side, workers: usize) -> Result<Adit> {
    let settings = Settings { extra: format!("workers = {workers}"), ..Settings::default() };
    Adit::start_with(lab, side, &connection(side, "per_cpu_sas = yes"), &settings)
}

/// So many Child SAs, all of them in use.
fn all(peer: &dyn Peer, count: usize) -> Result<Vec<ChildSa>> {
    eventually(&format!("{count} SAs at side {}", peer.side()), Duration::from_secs(30), || {
        let children: Vec<ChildSa> = peer.facts()?.into_iter().flat_map(|sa| sa.children).collect();
        let up = children.iter().all(|child| child.state == "INSTALLED");
        Ok((up && children.len() == count).then_some(children))
    })
    .with_context(|| format!("{:?}", peer.facts()))
}

/// The workers that have an SA of their own, as a gateway tells it.
fn workers(children: &[ChildSa]) -> BTreeSet<String> {
    children.iter().filter_map(|child| child.values.get("cpu").cloned()).collect()
}

fn two() -> BTreeSet<String> {
    ["0", "1"].map(str::to_owned).into()
}

/// Flows of several ports in both directions, whole.
fn flows(lab: &Lab) -> Result<()> {
    for _ in 0..8 {
        SIDES.into_iter().try_for_each(|side| transfer(lab, side, Family::V4, 300_000).map(drop))?;
    }
    Ok(())
}

/// What has left on the SA for all, and on those of workers.
fn carried(peer: &dyn Peer, count: usize) -> Result<(u64, Vec<u64>)> {
    let (mut first, mut own) = (0, Vec::new());
    for child in all(peer, count)? {
        let packets = child.counter("packets-out")?;
        if child.values.contains_key("cpu") { own.push(packets) } else { first += packets }
    }
    Ok((first, own))
}

/// Has all SAs replaced by `by`, and waits until `peer` has the successors of its own.
fn replaced(by: &dyn Peer, peer: &dyn Peer) -> Result<()> {
    let spis = || -> Result<BTreeSet<String>> {
        all(peer, 3)?.iter().map(|child| Ok(child.value("spi-in")?.to_owned())).collect()
    };
    let before = spis()?;
    by.rekey(Rekey::Child)?;
    eventually("successors", Duration::from_secs(30), || Ok(before.is_disjoint(&spis()?).then_some(())))
}

#[test]
fn every_worker_of_both_sides_sends_on_its_own() -> Result<()> {
    with_lab("per-cpu", Topology::default(), |lab| {
        let (a, b) = (adit(lab, Side::A, 2)?, adit(lab, Side::B, 2)?);
        a.initiate()?;
        for peer in [&a, &b] {
            ensure!(workers(&all(peer, 3)?) == two());
        }
        flows(lab)?;
        for peer in [&a, &b] {
            let (first, own) = carried(peer, 3)?;
            ensure!(own.iter().all(|packets| *packets > 50), "{own:?} beside {first}");
            ensure!(first == 0, "{first} on the one for all, which nobody needs");
        }
        // Each is replaced, by either side, and its successor is the same worker's.
        for (by, other) in [(&a, &b), (&b, &a)] {
            replaced(by, by)?;
            ensure!((workers(&all(by, 3)?), workers(&all(other, 3)?)) == (two(), two()));
            flows(lab)?;
            let (first, own) = carried(by, 3)?;
            ensure!(own.iter().all(|packets| *packets > 50) && first == 0, "{own:?} beside {first}");
        }
        b.terminate_child()?;
        for peer in [&a, &b] {
            all(peer, 0)?;
        }
        Ok(())
    })
}

/// A gateway with one worker takes what the other asks for. What it sends on one of them the kernel of the other side answers
/// by the queue of one worker.
#[test]
fn a_side_with_one_worker_takes_part() -> Result<()> {
    with_lab("per-cpu-one", Topology::default(), |lab| {
        let (a, b) = (adit(lab, Side::A, 1)?, adit(lab, Side::B, 2)?);
        a.initiate()?;
        // B waits for A to ask, which it does not.
        ensure!(workers(&all(&b, 3)?) == two());
        flows(lab)?;
        let (_, own) = carried(&b, 3)?;
        ensure!(own.iter().sum::<u64>() > 100, "{own:?}");
        ensure!(workers(&all(&a, 3)?).len() == 1);
        Ok(())
    })
}

/// strongSwan's userspace ESP knows nothing of processors, but its IKE numbers them, answers the notify, and takes as many SAs
/// as it is asked for.
#[test]
fn strongswan_takes_what_adit_asks_for() -> Result<()> {
    with_lab("per-cpu-strongswan", Topology::default(), |lab| {
        let theirs = connection(Side::B, "per_cpu_sas = yes\nstart_action = trap");
        let strongswan = StrongSwan::start_with(lab, Side::B, &theirs, &Options::of(Release::Newest))?;
        let adit = adit(lab, Side::A, 2)?;
        adit.initiate()?;
        ensure!(workers(&all(&adit, 3)?) == two());
        ensure!(all(&strongswan, 3)?.iter().filter(|child| child.values.contains_key("cpu")).count() == 2);
        flows(lab)?;
        let (first, own) = carried(&adit, 3)?;
        ensure!(own.iter().sum::<u64>() > 100, "{own:?} beside {first}");
        for by in [&strongswan as &dyn Peer, &adit] {
            replaced(by, &adit)?;
            ensure!(workers(&all(&adit, 3)?) == two());
            flows(lab)?;
        }
        Ok(())
    })
}
