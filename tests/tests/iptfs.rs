//! IP-TFS between two Adits (RFC 9347), and what an observer between them can tell about the load inside: at a constant rate
//! nothing, from ordinary tunnel mode everything.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use adit_lab::adit::Adit;
use adit_lab::capture::{Capture, dissect, only_protected};
use adit_lab::lab::{FAMILIES, Family, Lab, Node, SIDES, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer, Rekey, rekey_and_wait};
use adit_lab::process::{eventually, tell};
use adit_lab::traffic::{Stream, transfer};
use anyhow::{Context, Result, bail, ensure};

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16";
const PATIENCE: Duration = Duration::from_secs(30);

/// Payloads in a second.
const RATE: u64 = 250;
/// Octets of each outer packet: 20 of IPv4, 8 of UDP, 8 of ESP, 8 of IV, 16 of ICV leave 1,240, a multiple of 4.
const SIZE: usize = 1300;
const CONSTANT: &str = "mode = iptfs\n iptfs_rate = 250\n iptfs_packet_size = 1300";
const ROUNDS: usize = 5;
const PHASE: Duration = Duration::from_secs(2);

/// The greatest distance of two distributions that is put down to chance. With at least 2,000 gaps on each side two samples of one
/// distribution are further apart than 1.95 * sqrt(2 / 2000) = 0.06 once in 1,000 times (Kolmogorov and Smirnov). The rest
/// is for a machine that also makes the load, captures and runs other programs.
const CHANCE: f64 = 0.12;

fn pair(lab: &Lab, child: &str) -> Result<[Adit; 2]> {
    let start = |side| {
        let mut connection = Connection::new(side, Family::V4, IKE, ESP);
        connection.child_extra = child.to_owned();
        connection.encap = true;
        Adit::start(lab, side, &connection)
    };
    let pair = [start(Side::A)?, start(Side::B)?];
    pair[0].initiate()?;
    for peer in &pair {
        peer.wait_for_child()?;
    }
    Ok(pair)
}

/// What goes on inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Idle,
    Interactive,
    Bulk,
}

const LOADS: [Load; 3] = [Load::Idle, Load::Interactive, Load::Bulk];

/// What an observer notes of one load.
#[derive(Debug, Default)]
struct Notes {
    /// Octets of each packet.
    sizes: Vec<f64>,
    /// Milliseconds from one packet to the next.
    gaps: Vec<f64>,
    /// Packets in each tenth of a second.
    counts: Vec<f64>,
}

/// Lets the loads take turns, so that what else the machine does disturbs all alike.
fn observe(lab: &Lab) -> Result<Vec<Notes>> {
    let capture = Capture::start(lab, Node::Net, "a0", "udp port 4500 and src host 198.51.100.2 or esp")?;
    let mut phases = Vec::new();
    for _ in 0..ROUNDS {
        for load in LOADS {
            let start = SystemTime::now();
            match load {
                Load::Idle => std::thread::sleep(PHASE),
                Load::Interactive => {
                    let count = (PHASE.as_millis() / 50).to_string();
                    lab.run(
                        Node::HostA,
                        "ping",
                        &["-q", "-n", "-i", "0.05", "-c", &count, Side::B.host(Family::V4)],
                    )?;
                }
                Load::Bulk => {
                    // The hash of each is compared.
                    while start.elapsed()? < PHASE {
                        transfer(lab, Side::A, Family::V4, 250_000)?;
                    }
                }
            }
            phases.push((load, start, SystemTime::now()));
        }
    }
    let file = capture.stop()?;
    only_protected(&file)?;
    let packets = packets_from(&file, Side::A)?;
    LOADS.into_iter().map(|load| notes(&packets, phases.iter().filter(|(of, ..)| *of == load))).collect()
}

/// When each ESP packet of a gateway passed, in seconds, and its octets from the IP header on.
fn packets_from(file: &Path, side: Side) -> Result<Vec<(f64, f64)>> {
    let filter = format!("esp and ip.src == {}", side.outer(Family::V4));
    let rows = dissect(file, None, &filter, &["frame.time_epoch", "ip.len"])?;
    rows.iter()
        .map(|row| {
            let value = |at: usize| row.get(at).and_then(|values| values.first()).context("no value");
            Ok((value(0)?.parse()?, value(1)?.parse()?))
        })
        .collect()
}

fn notes<'p>(
    packets: &[(f64, f64)],
    phases: impl Iterator<Item = &'p (Load, SystemTime, SystemTime)>,
) -> Result<Notes> {
    let mut notes = Notes::default();
    for (_, start, end) in phases {
        let since = |time: &SystemTime| -> Result<f64> {
            Ok(time.duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64())
        };
        // What begins and ends a load is not looked at.
        let (start, end) = (since(start)? + 0.2, since(end)? - 0.2);
        let inside: Vec<_> = packets.iter().filter(|(at, _)| (start..end).contains(at)).collect();
        notes.sizes.extend(inside.iter().map(|(_, size)| *size));
        let next = inside.iter().skip(1);
        notes.gaps.extend(inside.iter().zip(next).map(|((one, _), (next, _))| (next - one) * 1000.0));
        let windows = ((end - start) / 0.1) as usize;
        notes.counts.extend((0..windows).map(|window| {
            let from = start + window as f64 * 0.1;
            inside.iter().filter(|(at, _)| (from..from + 0.1).contains(at)).count() as f64
        }));
    }
    Ok(notes)
}

/// The distance of two samples' distributions (Kolmogorov and Smirnov): 0 if they are equal, 1 if one lies below the other. A
/// sample without anything in it is as far as can be from one with something.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    if a.is_empty() || b.is_empty() {
        return if a.is_empty() && b.is_empty() { 0.0 } else { 1.0 };
    }
    let (mut a, mut b) = (a.to_vec(), b.to_vec());
    a.sort_by(f64::total_cmp);
    b.sort_by(f64::total_cmp);
    let share =
        |sample: &[f64], at: f64| sample.partition_point(|value| *value <= at) as f64 / sample.len() as f64;
    a.iter().chain(&b).map(|at| (share(&a, *at) - share(&b, *at)).abs()).fold(0.0, f64::max)
}

#[test]
fn the_distance_of_distributions() {
    assert_eq!(distance(&[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 3.0, 4.0]), 0.0);
    assert_eq!(distance(&[1.0, 2.0], &[3.0, 4.0]), 1.0);
    // Up to 2 all of the first, and half of the second.
    assert_eq!(distance(&[1.0, 2.0], &[1.0, 2.0, 3.0, 4.0]), 0.5);
    assert_eq!(distance(&[], &[1.0]), 1.0);
}

/// How far apart two loads look.
struct Apart {
    loads: [Load; 2],
    sizes: f64,
    gaps: f64,
    counts: f64,
}

impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { loads: [one, two], sizes, gaps, counts } = self;
        write!(f, "{one:?} and {two:?}: sizes {sizes:.3}, gaps {gaps:.3}, counts {counts:.3}")
    }
}

fn compare(notes: &[Notes]) -> Vec<Apart> {
    let all: Vec<(Load, &Notes)> = LOADS.into_iter().zip(notes).collect();
    let pairs =
        all.iter().enumerate().flat_map(|(at, one)| all.iter().skip(at + 1).map(move |two| (one, two)));
    pairs
        .map(|((one, a), (two, b))| {
            let apart = Apart {
                loads: [*one, *two],
                sizes: distance(&a.sizes, &b.sizes),
                gaps: distance(&a.gaps, &b.gaps),
                counts: distance(&a.counts, &b.counts),
            };
            tell(&apart.to_string());
            apart
        })
        .collect()
}

fn summary(load: Load, notes: &Notes) -> String {
    let mut gaps = notes.gaps.clone();
    gaps.sort_by(f64::total_cmp);
    let at = |share: f64| gaps.get((gaps.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    format!(
        "{load:?}: {} packets; gaps in ms 1 %: {:.3}, 25 %: {:.3}, median {:.3}, 75 %: {:.3}, 99 %: {:.3}",
        notes.sizes.len(),
        at(0.01),
        at(0.25),
        at(0.5),
        at(0.75),
        at(0.99)
    )
}

#[test]
fn at_a_constant_rate_nothing_shows_what_is_inside() -> Result<()> {
    with_lab("iptfs-constant", Topology::default(), |lab| {
        let _pair = pair(lab, CONSTANT)?;
        // What depends on the load shows every time. What other tests do to this machine meanwhile does not.
        const TRIES: usize = 3;
        let mut seen = String::new();
        for _ in 0..TRIES {
            let notes = observe(lab)?;
            let mut regular = true;
            for (load, notes) in LOADS.into_iter().zip(&notes) {
                tell(&summary(load, notes));
                let other: Vec<_> = notes.sizes.iter().filter(|size| **size != SIZE as f64).collect();
                ensure!(other.is_empty(), "{load:?}: sizes other than {SIZE}: {other:?}");
                // What the machine is too late for is left out; it must be little.
                let expected = notes.counts.len() as f64 / 10.0 * RATE as f64;
                regular &= notes.sizes.len() as f64 > 0.95 * expected;
                seen += &format!("{}; ", summary(load, notes));
            }
            for apart in compare(&notes) {
                ensure!(apart.sizes == 0.0, "{apart}");
                regular &= apart.gaps < CHANCE && apart.counts < 3.0 * CHANCE;
                seen += &format!("{apart}; ");
            }
            if regular {
                return Ok(());
            }
        }
        bail!("told apart {TRIES} times: {seen}")
    })
}

/// The same test, of the same loads, tells them apart where nothing is hidden.
#[test]
fn the_same_observer_tells_the_loads_apart_in_tunnel_mode() -> Result<()> {
    with_lab("iptfs-tunnel", Topology::default(), |lab| {
        let _pair = pair(lab, "")?;
        let notes = observe(lab)?;
        for apart in compare(&notes) {
            ensure!(apart.gaps > 0.5 && apart.counts > 0.5 && apart.sizes > 0.5, "{apart}");
        }
        Ok(())
    })
}

/// Everything arrives whole and once, of both families and in both directions, also while the SAs are rekeyed.
#[test]
fn what_is_inside_arrives_whole_and_over_rekeyings() -> Result<()> {
    for mode in [CONSTANT, "mode = iptfs\n iptfs_init_delay = 2ms"] {
        with_lab("iptfs-whole", Topology::default(), |lab| {
            let [a, b] = pair(lab, mode)?;
            for peer in [&a, &b] {
                ensure!(peer.log().contains(", IP-TFS, for "), "{}", peer.log());
            }
            for family in FAMILIES {
                for side in SIDES {
                    transfer(lab, side, family, 1_000_000)?;
                }
            }
            let stream = Stream::start(lab, Family::V4, 100, 500)?;
            for turn in 0..4 {
                let [by, other]: [&dyn Peer; 2] = if turn % 2 == 0 { [&a, &b] } else { [&b, &a] };
                rekey_and_wait(by, other, Rekey::Child, PATIENCE)?;
            }
            for passage in stream.stop()? {
                passage.ensure_perfect()?;
            }
            Ok(())
        })
        .with_context(|| mode.to_owned())?;
    }
    Ok(())
}

/// RFC 4303 2.6: dummies are sent in tunnel mode as well. They keep nobody's SA: what is idle ends in its time, on both sides.
#[test]
fn dummies_are_no_traffic() -> Result<()> {
    with_lab("dummies", Topology::default(), |lab| {
        let capture = Capture::start(lab, Node::Net, "a0", "")?;
        let start = Instant::now();
        let [a, b] = pair(lab, "dummies = 200ms\n tfc_padding = mtu\n inactivity = 4s")?;
        for peer in [&a, &b] {
            eventually("the idle child to end", PATIENCE, || {
                let sas = peer.sas()?;
                Ok(sas.iter().all(|sa| sa.children.is_empty()).then_some(()))
            })?;
        }
        ensure!(start.elapsed() >= Duration::from_secs(4));
        let file = capture.stop()?;
        only_protected(&file)?;
        for side in SIDES {
            let packets = packets_from(&file, side)?;
            ensure!(packets.len() >= 20 && packets.iter().all(|(_, len)| *len == 1500.0), "{packets:?}");
        }
        Ok(())
    })
}

/// Small packets travel together: fewer packets outside than inside.
#[test]
fn small_packets_travel_together() -> Result<()> {
    with_lab("iptfs-together", Topology::default(), |lab| {
        let _pair = pair(lab, "mode = iptfs\n iptfs_init_delay = 5ms")?;
        let capture = Capture::start(lab, Node::Net, "a0", "")?;
        let stream = Stream::start(lab, Family::V4, 2000, 36)?;
        eventually("4,000 packets", PATIENCE, || {
            Ok(stream.received().iter().all(|received| *received > 4000).then_some(()))
        })?;
        let passages = stream.stop()?;
        let file = capture.stop()?;
        for passage in &passages {
            passage.ensure_perfect()?;
            let outer = packets_from(&file, passage.from)?.len() as u64;
            tell(&format!("from {}: {} packets of 64 octets in {outer}", passage.from, passage.sent));
            // 2,000 in a second are 10 in 5 ms, and 20 fit into 1,400 octets.
            ensure!(outer > 0 && outer * 5 < passage.sent, "{outer} packets for {}", passage.sent);
        }
        Ok(())
    })
}
