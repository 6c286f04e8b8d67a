//! Two data planes over good links and bad ones, with keys set by hand: every path keeps the order of a flow, a link that
//! reorders and repeats costs nothing up to the replay window, and loss slows TCP down as it does without a tunnel.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use adit_crypto::{EspKeys, EspTransforms, Secret};
use adit_esp::{Mode, SaParameters};
use adit_lab::lab::{Family, Lab, Node, SIDES, Side, Topology, with_lab};
use adit_lab::process::{Process, eventually, tell};
use adit_lab::scapy;
use adit_lab::traffic::{Passage, Stream, transfer};
use adit_net::{
    Backend, ChildId, ChildSaInstall, Limits, NetConfig, PolicyId, PolicySpec, Treatment, UdpEncap, Userspace,
};
use adit_wire::ikev2::{EncrId, Spi, TrafficSelector};
use anyhow::{Context, Result, ensure};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn every_path_keeps_the_order_of_a_flow() -> Result<()> {
    with_lab("order", Topology::default(), |lab| {
        for (offloads, outer, encap) in [
            ("off", Family::V4, true),
            ("off", Family::V6, false),
            ("on", Family::V4, false),
            ("on", Family::V4, true),
            ("on", Family::V6, false),
            ("on", Family::V6, true),
        ] {
            set_offloads(lab, offloads)?;
            let planes = planes(lab, outer, encap, 1024)?;
            in_order(lab).with_context(|| {
                let drops = planes.each_ref().map(|plane| plane.stats().drops);
                format!("offloads {offloads}, outer {outer:?}, in UDP {encap}; dropped: {drops:?}")
            })?;
            planes.into_iter().for_each(Backend::shutdown);
        }
        Ok(())
    })
}

/// Numbered packets of both families both ways, while TCP fills the tunnel with segments of all sizes.
fn in_order(lab: &Lab) -> Result<()> {
    let streams = [Stream::start(lab, Family::V4, 2000, 700)?, Stream::start(lab, Family::V6, 500, 1200)?];
    for (from, family) in [(Side::A, Family::V4), (Side::B, Family::V6)] {
        transfer(lab, from, family, 20 << 20)?;
    }
    for stream in streams {
        for passage in stream.stop()? {
            passage.ensure_perfect()?;
            ensure!(passage.reordered == 0 && passage.sent > 500, "{passage:?}");
        }
    }
    Ok(())
}

#[test]
fn disorder_within_the_window_loses_nothing_and_no_copy_arrives() -> Result<()> {
    with_lab("disorder", Topology::default(), |lab| {
        set_offloads(lab, "on")?;
        for encap in [false, true] {
            // Up to 20 ms late at 1,000 a second: far less than 1,024 behind.
            let (passages, drops) = disturbed(lab, encap, 1024, "5", "20", 1000)?;
            for (passage, drops) in passages.iter().zip(drops) {
                passage.ensure_perfect()?;
                ensure!(passage.reordered > 100, "the link is too good: {passage:?}");
                ensure!(drops.replayed > 50 && drops.too_old == 0, "{drops:?} {passage:?}");
            }
            // Up to 30 ms late at 3,000 a second: up to 90 behind, of which the window has room for 32.
            let (passages, drops) = disturbed(lab, encap, 32, "0", "30", 3000)?;
            for (passage, drops) in passages.iter().zip(drops) {
                ensure!(passage.duplicated == 0 && drops.replayed == 0, "{drops:?} {passage:?}");
                ensure!(drops.too_old > 50 && passage.lost() == drops.too_old, "{drops:?} {passage:?}");
            }
        }
        Ok(())
    })
}

/// What an SA has dropped.
#[derive(Clone, Copy, Debug)]
struct Drops {
    replayed: u64,
    too_old: u64,
}

/// What becomes of numbered packets both ways over a link that holds each for a while, and what their receivers drop.
fn disturbed(
    lab: &Lab,
    encap: bool,
    window: u32,
    repeated: &str,
    slowest: &str,
    rate: u32,
) -> Result<([Passage; 2], [Drops; 2])> {
    let planes = planes(lab, Family::V4, encap, window)?;
    let link = bad_link(lab, ["0", repeated, slowest])?;
    let stream = Stream::start(lab, Family::V4, rate, 500)?;
    eventually("some seconds of traffic", PATIENCE, || {
        Ok(stream.received().iter().all(|&count| count > 2 * u64::from(rate)).then_some(()))
    })?;
    let passages = stream.stop()?;
    drop(link);
    let mut drops = planes.each_ref().map(|plane| {
        let drops = plane.counters(ChildId(1)).unwrap_or_default().drops;
        let count = |cause| drops.iter().find(|(c, _)| *c == cause).map_or(0, |(_, count)| *count);
        Drops { replayed: count(adit_esp::Drop::Replayed), too_old: count(adit_esp::Drop::TooOld) }
    });
    // What A has sent B has received.
    drops.reverse();
    planes.into_iter().for_each(Backend::shutdown);
    Ok((passages, drops))
}

#[test]
fn loss_slows_tcp_down_as_it_does_without_a_tunnel() -> Result<()> {
    with_lab("slow", Topology::default(), |lab| {
        let planes = planes(lab, Family::V4, true, 1024)?;
        // Hosts like any: what the laboratory lets them have in flight would be what sets the pace.
        for node in [Node::HostA, Node::HostB] {
            for buffers in ["net.ipv4.tcp_rmem=4096 131072 6291456", "net.ipv4.tcp_wmem=4096 16384 4194304"] {
                lab.run(node, "sysctl", &["-qw", buffers])?;
            }
        }
        // 1 % lost, and up to 10 ms on the way: so slow that the machine does not set it either.
        let _link = bad_link(lab, ["1", "0", "10"])?;
        let (mut plain, mut tunnel) = (0, 0);
        for _ in 0..3 {
            plain += received(lab, [Node::GatewayA, Node::GatewayB], Side::B.outer(Family::V4))?;
            tunnel += received(lab, [Node::HostA, Node::HostB], Side::B.host(Family::V4))?;
        }
        let ratio = tunnel as f64 / plain as f64;
        let drops = planes.each_ref().map(|plane| plane.stats().drops);
        let account = format!("{plain} octets plain, {tunnel} through the tunnel, {ratio:.2}; {drops:?}");
        tell(&account);
        // Loss comes by chance: three short runs of either differ by a third without any tunnel.
        ensure!(ratio > 0.5, "{account}");
        planes.into_iter().for_each(Backend::shutdown);
        Ok(())
    })
}

/// How many octets a TCP connection carries in two seconds.
fn received(lab: &Lab, [from, to]: [Node; 2], address: &str) -> Result<u64> {
    let at = SocketAddr::new(address.parse()?, 7002);
    let listener = lab.inside(to, || TcpListener::bind(at))??;
    let mut near = lab.inside(from, || TcpStream::connect_timeout(&at, PATIENCE))??;
    let (mut far, _) = listener.accept()?;
    near.set_write_timeout(Some(Duration::from_millis(200)))?;
    far.set_read_timeout(Some(Duration::from_millis(200)))?;
    let end = Instant::now() + Duration::from_secs(2);
    let late = |error: &std::io::Error| [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind());
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || -> Result<()> {
            while Instant::now() < end {
                match near.write(&[0x5a; 1 << 14]) {
                    Err(error) if !late(&error) => return Err(error.into()),
                    _ => {}
                }
            }
            Ok(())
        });
        let (mut count, mut buffer) = (0, vec![0; 1 << 16]);
        while Instant::now() < end {
            match far.read(&mut buffer) {
                Ok(more) => count += more as u64,
                Err(error) if late(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        sender.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        Ok(count)
    })
}

/// All links of both sides, but not the router's: it passes on what arrives as it is.
fn set_offloads(lab: &Lab, state: &str) -> Result<()> {
    for (node, link) in [
        (Node::HostA, "lan0"),
        (Node::GatewayA, "lan0"),
        (Node::GatewayA, "wan0"),
        (Node::Net, "a0"),
        (Node::Net, "b0"),
        (Node::GatewayB, "wan0"),
        (Node::GatewayB, "lan0"),
        (Node::HostB, "lan0"),
    ] {
        let mut arguments = vec!["-K", link];
        for offload in ["rx", "tx", "sg", "tso", "gso", "gro"] {
            arguments.extend([offload, state]);
        }
        lab.run(node, "ethtool", &arguments)?;
    }
    Ok(())
}

/// `bad_link.py` on the router: per cent lost, per cent repeated, and the longest delay in milliseconds.
fn bad_link(lab: &Lab, [lost, repeated, slowest]: [&str; 3]) -> Result<Process> {
    let mut script = scapy::script(lab, Node::Net, "bad_link.py")?;
    script.args(["1", lost, repeated, slowest]).stdin(Stdio::null());
    let process = Process::spawn("bad_link", &mut script, lab.dir())?;
    eventually("the bad link", Duration::from_secs(10), || {
        Ok(process.own_output().contains("ready").then_some(()))
    })?;
    Ok(process)
}

/// A data plane on either gateway, and between them one pair of SAs for both networks.
fn planes(lab: &Lab, outer: Family, encap: bool, window: u32) -> Result<[Box<Userspace>; 2]> {
    let plane = |side: Side| -> Result<Box<Userspace>> {
        let mut plane =
            lab.inside(side.gateway(), || Userspace::start(NetConfig::default(), Box::new(drop)))??;
        let (near, far) = (networks(side)?, networks(side.other())?);
        plane.set_policies(vec![PolicySpec::new(PolicyId(1), "networks", near.clone(), far.clone())])?;
        let half = |from: Side| SaParameters {
            spi: Spi(0xad00_0001 + from as u32),
            mode: Mode::Tunnel,
            original: None,
            transforms: EspTransforms {
                encr: EncrId::AES_GCM_16,
                key_bits: Some(128),
                integ: None,
                esn: false,
            },
            keys: EspKeys { encr: Secret::new(vec![0x5a + from as u8; 20]), integ: Secret::new(Vec::new()) },
            replay_window: window,
            local_ts: near.clone(),
            remote_ts: far.clone(),
        };
        plane.install(ChildSaInstall {
            id: ChildId(1),
            name: String::new(),
            policy: PolicyId(1),
            inbound: half(side.other()),
            outbound: half(side),
            local: side.outer(outer).parse()?,
            remote: side.other().outer(outer).parse()?,
            encap: encap.then_some(UdpEncap { local_port: 4500, remote_port: 4500 }),
            active: true,
            limits: Limits::default(),
            treatment: Treatment::default(),
            worker: None,
        })?;
        Ok(Box::new(plane))
    };
    let [a, b] = SIDES;
    Ok([plane(a)?, plane(b)?])
}

fn networks(side: Side) -> Result<Vec<TrafficSelector>> {
    let all = side.prefixes()?.into_iter();
    Ok(all.map(|(address, width)| TrafficSelector::subnet(address, width)).collect())
}
