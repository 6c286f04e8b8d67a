//! Addresses that change in mid traffic, with strongSwan: ours, the peer's, and what a NAT makes of either. The tunnel
//! goes on with the SAs it has.

use adit_lab::adit::{Adit, Settings};
use adit_lab::lab::{Family, Lab, Node, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer};
use adit_lab::process::{eventually, tell};
use adit_lab::strongswan::StrongSwan;
use adit_lab::traffic::Stream;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16";
/// Side A's address once it has moved.
const MOVED: &str = "198.51.100.77";

#[test]
fn adit_moves_as_initiator() -> Result<()> {
    moves("adit-moves", Side::A)
}

#[test]
fn strongswan_moves_as_initiator() -> Result<()> {
    moves("strongswan-moves", Side::B)
}

/// Side A gets another address; Adit is side `adit`, and A initiates.
fn moves(name: &str, adit: Side) -> Result<()> {
    with_lab(name, Topology::default(), |lab| {
        let mover = Connection {
            local_addrs: "%any".to_owned(),
            extra: "mobike = yes\n dpd_delay = 2s".to_owned(),
            ..Connection::new(Side::A, Family::V4, IKE, ESP)
        };
        let (a, b) = gateways(lab, adit, &mover, &stays("mobike = yes"))?;
        let before = up(lab, &*a, &*b)?;
        let stream = Stream::start(lab, Family::V4, 100, 200)?;
        progress(&stream, Duration::from_secs(10))?;
        readdress(lab)?;
        let paused = progress(&stream, Duration::from_secs(30)).context("after the move")?;
        tell(&format!("{name}: goes on after {paused:?}"));
        same_sas(&*a, &*b, &before)?;
        for (peer, key) in [(&a, "local"), (&b, "remote")] {
            ensure!(host(&**peer, key)?.contains(MOVED), "{:?}", peer.sas()?);
        }
        stream.stop()?;
        lab.ping(Side::A, Family::V6, 2)?;
        lab.ping(Side::B, Family::V4, 2)?;
        b.terminate()?;
        a.wait_for_nothing()
    })
}

#[test]
fn the_nat_before_adit_maps_anew() -> Result<()> {
    maps_anew("nat-adit", Side::A, "mobike = yes")
}

#[test]
fn the_nat_before_strongswan_maps_anew() -> Result<()> {
    maps_anew("nat-strongswan", Side::B, "mobike = yes")
}

#[test]
fn the_nat_before_strongswan_maps_anew_without_mobike() -> Result<()> {
    maps_anew("nat-no-mobike", Side::B, "mobike = no")
}

/// Side A is behind a NAT that forgets its mapping and makes another; Adit is side `adit`, and A initiates.
fn maps_anew(name: &str, adit: Side, mobike: &str) -> Result<()> {
    with_lab(name, Topology::default(), |lab| {
        let inside = Connection {
            extra: format!("{mobike}\n dpd_delay = 2s"),
            ..Connection::new(Side::A, Family::V4, IKE, ESP)
        };
        map(lab, 61_000)?;
        let (a, b) = gateways(lab, adit, &inside, &stays(mobike))?;
        let before = up(lab, &*a, &*b)?;
        let stream = Stream::start(lab, Family::V4, 100, 200)?;
        progress(&stream, Duration::from_secs(10))?;
        ensure!(host(&*b, "remote")?.contains("203.0.113.1"), "{:?}", b.sas()?);

        map(lab, 62_000)?;
        let paused = progress(&stream, Duration::from_secs(30)).context("after the new mapping")?;
        tell(&format!("{name}: goes on after {paused:?}"));
        same_sas(&*a, &*b, &before)?;
        eventually("the new port", Duration::from_secs(10), || {
            Ok(host(&*b, "remote")?.contains("62001").then_some(()))
        })
        .with_context(|| format!("{:?}", b.sas()))?;
        stream.stop()?;
        lab.ping(Side::A, Family::V6, 2)?;
        lab.ping(Side::B, Family::V4, 2)?;
        b.terminate()?;
        a.wait_for_nothing()
    })
}

/// The side that keeps its address and takes its peer from anywhere.
fn stays(extra: &str) -> Connection {
    Connection {
        remote_addrs: "%any".to_owned(),
        extra: extra.to_owned(),
        ..Connection::new(Side::B, Family::V4, IKE, ESP)
    }
}

/// Side A and side B, of which `adit` is Adit.
fn gateways(lab: &Lab, adit: Side, a: &Connection, b: &Connection) -> Result<(Box<dyn Peer>, Box<dyn Peer>)> {
    let settings = Settings { extra: "nat_keepalive = 2s".to_owned(), ..Settings::default() };
    Ok(match adit {
        Side::A => (
            Box::new(Adit::start_with(lab, Side::A, a, &settings)?),
            Box::new(StrongSwan::start(lab, Side::B, b)?),
        ),
        Side::B => (
            Box::new(StrongSwan::start(lab, Side::A, a)?),
            Box::new(Adit::start_with(lab, Side::B, b, &settings)?),
        ),
    })
}

/// Brings the tunnel up from side A and returns the SPIs.
fn up(lab: &Lab, a: &dyn Peer, b: &dyn Peer) -> Result<[String; 2]> {
    a.initiate()?;
    b.wait_for_child()?;
    lab.ping(Side::A, Family::V4, 2)?;
    spis(a)
}

fn spis(peer: &dyn Peer) -> Result<[String; 2]> {
    let child = peer.wait_for_child()?;
    Ok([child.value("spi-in")?.to_owned(), child.value("spi-out")?.to_owned()])
}

/// Neither rekeyed nor made anew.
fn same_sas(a: &dyn Peer, b: &dyn Peer, before: &[String; 2]) -> Result<()> {
    let [inbound, outbound] = spis(b)?;
    ensure!(spis(a)? == *before && [outbound, inbound] == *before, "other SAs than {before:?}");
    ensure!(a.sas()?.len() == 1 && b.sas()?.len() == 1, "{:?}\n{:?}", a.sas()?, b.sas()?);
    Ok(())
}

/// Waits until a quarter of a second's packets more have arrived at both sides; returns how long that took.
fn progress(stream: &Stream, limit: Duration) -> Result<Duration> {
    let (start, before) = (Instant::now(), stream.received());
    let goal = before.map(|count| count + 50);
    let mut now = before;
    eventually("packets both ways", limit, || {
        now = stream.received();
        Ok(now.iter().zip(goal).all(|(now, goal)| *now >= goal).then_some(()))
    })
    .with_context(|| format!("{before:?} packets at first, {now:?} at last"))?;
    Ok(start.elapsed())
}

/// The IKE SA's address and port of one end, as the gateway tells it.
fn host(peer: &dyn Peer, end: &str) -> Result<String> {
    let sas = peer.sas()?;
    let values = &sas.first().context("an IKE SA")?.values;
    let value = |name: &str| values.get(name).cloned().unwrap_or_default();
    // `adit status` has both in one.
    Ok(format!("{} {} {}", value(end), value(&format!("{end}-host")), value(&format!("{end}-port"))))
}

/// Gateway A loses its address and gets another one in the same network, as with a new DHCP lease.
fn readdress(lab: &Lab) -> Result<()> {
    let script = format!(
        "ip -4 addr flush dev wan0; ip addr add {MOVED}/24 dev wan0; \
         ip route replace default via 198.51.100.1"
    );
    lab.run(Node::GatewayA, "sh", &["-ec", &script]).map(drop)
}

/// What comes from side A leaves the router with its own address and ports from `base` on: 500 is `base`, 4500 is
/// `base + 1`. Without memory, so that another call changes the mapping at once.
fn map(lab: &Lab, base: u16) -> Result<()> {
    let mut rules = String::from("table ip lab { }\ndelete table ip lab\ntable ip lab {\n");
    let ports = [(500, base), (4500, base + 1)];
    rules.push_str("chain out {\n type filter hook postrouting priority 0\n");
    for (inside, outside) in ports {
        rules.push_str(&format!(
            "oifname b0 ip saddr 198.51.100.2 udp sport {inside} udp sport set {outside} ip saddr set 203.0.113.1\n"
        ));
    }
    rules.push_str("}\nchain in {\n type filter hook prerouting priority -300\n");
    for (inside, outside) in ports {
        rules.push_str(&format!(
            "iifname b0 ip daddr 203.0.113.1 udp dport {outside} udp dport set {inside} ip daddr set 198.51.100.2\n"
        ));
    }
    rules.push_str("}\n}\n");
    lab.nft(Node::Net, &rules)
}
