//! Addresses that change in mid traffic: ours, the peer's, and what a NAT makes of either; with strongSwan in either
//! place, and between two Adits. The tunnel goes on with the SAs it has.
//!
//! strongSwan cannot move SAs of its ESP in userspace. It rekeys the child itself then, and nothing but that is allowed
//! to it; between two Adits the SPIs stay.

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

/// Who is Adit; the other side is strongSwan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adits {
    A,
    B,
    Both,
}

#[test]
fn adit_moves_as_initiator() -> Result<()> {
    moves("adit-moves", Adits::A)
}

#[test]
fn strongswan_moves_as_initiator() -> Result<()> {
    moves("strongswan-moves", Adits::B)
}

#[test]
fn adit_follows_adit() -> Result<()> {
    moves("adits-move", Adits::Both)
}

/// Side A gets another address; A initiates.
fn moves(name: &str, adits: Adits) -> Result<()> {
    with_lab(name, Topology::default(), |lab| {
        let mover = Connection {
            local_addrs: "%any".to_owned(),
            extra: "mobike = yes\n dpd_delay = 2s".to_owned(),
            ..Connection::new(Side::A, Family::V4, IKE, ESP)
        };
        let (a, b) = gateways(lab, adits, &mover, &stays("mobike = yes"))?;
        let before = up(lab, &*a, &*b)?;
        let stream = Stream::start(lab, Family::V4, 100, 200)?;
        progress(&stream, Duration::from_secs(10))?;
        readdress(lab)?;
        let paused = progress(&stream, Duration::from_secs(30)).context("after the move")?;
        tell(&format!("{name}: goes on after {paused:?}"));
        same_sas(adits, &*a, &*b, &before)?;
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
    maps_anew("nat-adit", Adits::A, "mobike = yes")
}

#[test]
fn the_nat_before_strongswan_maps_anew() -> Result<()> {
    maps_anew("nat-strongswan", Adits::B, "mobike = yes")
}

#[test]
fn the_nat_before_strongswan_maps_anew_without_mobike() -> Result<()> {
    maps_anew("nat-no-mobike", Adits::B, "mobike = no")
}

#[test]
fn the_nat_between_two_adits_maps_anew() -> Result<()> {
    maps_anew("nat-adits", Adits::Both, "mobike = yes")
}

#[test]
fn the_nat_between_two_adits_maps_anew_without_mobike() -> Result<()> {
    maps_anew("nat-adits-no-mobike", Adits::Both, "mobike = no")
}

/// Side A is behind a NAT that forgets its mapping and makes another; A initiates.
fn maps_anew(name: &str, adits: Adits, mobike: &str) -> Result<()> {
    with_lab(name, Topology::default(), |lab| {
        let inside = Connection {
            extra: format!("{mobike}\n dpd_delay = 2s"),
            ..Connection::new(Side::A, Family::V4, IKE, ESP)
        };
        map(lab, 61_000)?;
        let (a, b) = gateways(lab, adits, &inside, &stays(mobike))?;
        let before = up(lab, &*a, &*b)?;
        if adits == Adits::B {
            // strongSwan learns what the NAT makes of it when it checks its peer's liveness, and not under traffic.
            a.wait_for_log(&["parsed INFORMATIONAL response"])?;
        }
        let stream = Stream::start(lab, Family::V4, 100, 200)?;
        progress(&stream, Duration::from_secs(10))?;
        ensure!(host(&*b, "remote")?.contains("203.0.113.1"), "{:?}", b.sas()?);

        map(lab, 62_000)?;
        let paused = progress(&stream, Duration::from_secs(30)).context("after the new mapping")?;
        tell(&format!("{name}: goes on after {paused:?}"));
        same_sas(adits, &*a, &*b, &before)?;
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

/// Side A and side B.
fn gateways(
    lab: &Lab,
    adits: Adits,
    a: &Connection,
    b: &Connection,
) -> Result<(Box<dyn Peer>, Box<dyn Peer>)> {
    let settings = Settings { extra: "nat_keepalive = 2s".to_owned(), ..Settings::default() };
    let start = |side, connection, adit| -> Result<Box<dyn Peer>> {
        Ok(if adit {
            Box::new(Adit::start_with(lab, side, connection, &settings)?)
        } else {
            Box::new(StrongSwan::start(lab, side, connection)?)
        })
    };
    Ok((start(Side::A, a, adits != Adits::B)?, start(Side::B, b, adits != Adits::A)?))
}

/// Brings the tunnel up from side A.
fn up(lab: &Lab, a: &dyn Peer, b: &dyn Peer) -> Result<Tunnel> {
    a.initiate()?;
    b.wait_for_child()?;
    lab.ping(Side::A, Family::V4, 2)?;
    tunnel(a, ["spi-in", "spi-out"])?.context("one SA")
}

/// Nothing was made anew, nor rekeyed but by strongSwan.
fn same_sas(adits: Adits, a: &dyn Peer, b: &dyn Peer, before: &Tunnel) -> Result<()> {
    let now = eventually("the same SAs at both sides", Duration::from_secs(10), || {
        let (one, two) = (tunnel(a, ["spi-in", "spi-out"])?, tunnel(b, ["spi-out", "spi-in"])?);
        Ok((one == two).then_some(one).flatten())
    })
    .with_context(|| format!("{:?}\n{:?}", a.facts(), b.facts()))?;
    ensure!(now.ike == before.ike, "another IKE SA: {before:?}, {now:?}");
    match adits {
        Adits::Both => ensure!(now == *before, "another child: {before:?}, {now:?}"),
        Adits::A | Adits::B => {
            let strongswan = if adits == Adits::A { b } else { a };
            let asked = strongswan.count_log(&["parsed CREATE_CHILD_SA request"]);
            ensure!(asked == 0, "Adit asked for {asked} other SAs");
        }
    }
    Ok(())
}

/// The SPIs of an IKE SA and its child.
#[derive(Debug, PartialEq, Eq)]
struct Tunnel {
    ike: Option<String>,
    child: [Option<String>; 2],
}

fn tunnel(peer: &dyn Peer, spis: [&str; 2]) -> Result<Option<Tunnel>> {
    Ok(peer.only()?.map(|(sa, child)| Tunnel {
        ike: sa.values.get("initiator-spi").cloned(),
        child: spis.map(|name| child.values.get(name).cloned()),
    }))
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
