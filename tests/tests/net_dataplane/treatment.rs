//! What SAs do to the packets that they carry: sizes, marks, fragments, addresses. And what happens to those who would
//! abuse it.

use super::*;
use adit_esp::translate::{Renumbering, Translation};
use adit_esp::tunnel::{DontFragment, Dscp, OuterPolicy, Tfc};
use adit_wire::{icmp, ip};
use std::sync::Arc;

/// As [`tunnel`], over IPv4 in UDP, with each side's packets treated so.
fn treated(net: &Net, treatment: impl Fn(Side) -> Treatment) -> Result<(Plane, Plane)> {
    between(net, networks_policy, |install, side| ChildSaInstall { treatment: treatment(side), ..install })
}

fn between(
    net: &Net,
    policy: impl Fn(Side) -> PolicySpec,
    change: impl Fn(ChildSaInstall, Side) -> ChildSaInstall,
) -> Result<(Plane, Plane)> {
    let one = |side: Side| -> Result<Plane> {
        let mut plane = net.plane(side)?;
        let policy = policy(side);
        plane.plane.install(change(child(side, 1, false, true, &policy), side))?;
        plane.plane.set_policies(vec![policy])?;
        Ok(plane)
    };
    Ok((one(A)?, one(B)?))
}

fn nft(namespace: &Namespace, rules: &str) -> Result<()> {
    answered(&run(namespace, "nft", &[rules])?)
}

/// One connection with `len` octets in each direction at once.
pub(crate) fn exchange(net: &Net, from: Side, v6: bool, len: usize) -> Result<()> {
    let listener = net.host(from.other()).run(|| TcpListener::bind((from.other().inner(v6, 10), 7)))??;
    let near = net.host(from).run(|| TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE))??;
    let (far, _) = listener.accept()?;
    std::thread::scope(|scope| -> Result<()> {
        let ends = [near, far].map(|stream| {
            scope.spawn(move || -> Result<()> {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                std::thread::scope(|scope| -> Result<()> {
                    let writer = scope.spawn(|| -> Result<()> {
                        (&stream).write_all(&vec![0x5a; len])?;
                        Ok(stream.shutdown(std::net::Shutdown::Write)?)
                    });
                    let mut all = Vec::new();
                    (&stream).read_to_end(&mut all)?;
                    ensure!(all == vec![0x5a; len], "{} octets of {len}", all.len());
                    writer.join().map_err(|_| anyhow!("panicked"))?
                })
            })
        });
        ends.into_iter().try_for_each(|end| end.join().map_err(|_| anyhow!("panicked"))?)
    })
}

/// Messages that would tell hosts the MTU are filtered at the hosts, as so often. The way is known to be narrow: with their
/// segment size clamped, connections both ways never need to be told.
#[test]
fn connections_fit_the_path_though_nobody_hears_its_mtu() -> Result<()> {
    for mtu in [1500, 1400, 1280] {
        let net = Net::new()?;
        for side in [A, B] {
            let mut netlink = net.gateway(side).netlink()?;
            let wan = netlink.link("wan")?.index;
            netlink.set_mtu(wan, mtu)?;
            nft(
                net.host(side),
                "table inet deaf { chain c { type filter hook input priority 0; \
                 icmp type destination-unreachable drop; icmpv6 type packet-too-big drop;\n}\n}",
            )?;
        }
        let (a, b) = treated(&net, |_| Treatment::default())?;
        for v6 in [false, true] {
            for from in [A, B] {
                exchange(&net, from, v6, 300_000)
                    .with_context(|| format!("MTU {mtu} v6 {v6} from {from:?}"))?;
            }
        }
        for plane in [a, b] {
            ensure!(plane.drops(DropCause::TooBig) == 0, "MTU {mtu}: {:?}", plane.plane.stats());
        }
    }
    Ok(())
}

/// Inner packets that may be fragmented are, before they are encrypted: no outer packet is a fragment.
#[test]
fn what_may_be_divided_is_divided_inside() -> Result<()> {
    let net = Net::new()?;
    let one = |side: Side| -> Result<Plane> {
        // So that the kernel does not divide them before.
        let mut plane = net.try_plane(side, NetConfig { tun_mtu: Some(1500), ..NetConfig::default() })?;
        let policy = networks_policy(side);
        plane.plane.install(child(side, 1, false, true, &policy))?;
        plane.plane.set_policies(vec![policy])?;
        Ok(plane)
    };
    let (a, b) = (one(A)?, one(B)?);
    for side in [A, B] {
        answered(&run(net.gateway(side), "ip", &["link", "set", "wan", "gso_max_segs", "1"])?)?;
    }
    let (mut outer, mut fragments, mut longest) = (net.capture(A)?, 0, 0);
    let mut lan = net.host(B).run(|| Capture::open("lan"))??;
    for from in [A, B] {
        answered(&net.ping(from, false, &["-c", "3", "-W", "5", "-M", "dont", "-s", "4000"])?)?;
    }
    let mut packets = 0;
    let look = |frame: &[u8]| ip::Ipv4Header::decode(frame.get(14..).unwrap_or_default()).ok();
    while outer.read(Duration::ZERO, |frame| {
        let Some(header) = look(frame.octets).filter(|header| header.protocol == 17) else { return };
        packets += 1;
        longest = longest.max(header.total_len);
        fragments += usize::from(header.more_fragments || header.fragment_offset > 0);
    })? > 0
    {}
    ensure!(packets == 60 && fragments == 0, "{packets} outer packets, {fragments} of them fragments");
    // 1436 octets inside, and 2 and 2 to a multiple of 4; 20 + 8 + 8 + 8 + 16 around them.
    ensure!(longest == 1500, "the longest has {longest}");
    let mut inner = Vec::new();
    while lan.read(Duration::ZERO, |frame| {
        inner.extend(look(frame.octets).filter(|header| !frame.outgoing && header.protocol == 1));
    })? > 0
    {}
    // 4008 octets of ICMP in each. The host sends 1480, 1480, 1048; 1438 octets fit with a header, 1416 in whole eights.
    let expected =
        [(0, 1436, true), (1416, 84, true), (1480, 1436, true), (2896, 84, true), (2960, 1068, false)];
    let seen: Vec<_> = inner.iter().map(|h| (h.fragment_offset, h.total_len, h.more_fragments)).collect();
    ensure!(seen.chunks(5).all(|one| one == expected) && seen.len() == 30, "{seen:?}");
    a.carries(1, (30, 30))?;
    b.carries(1, (30, 30))
}

/// RFC 4301 7.4: an SA for one port carries all fragments of what is for it, and none of anything else, which travels as if there were
/// no SA: in both directions, through the gateways and between themselves.
#[test]
fn fragments_pass_by_the_ports_of_their_first() -> Result<()> {
    let net = Net::new()?;
    net.route_in_the_clear(A)?;
    net.route_in_the_clear(B)?;
    let port = |side: Side, own: bool| -> Vec<TrafficSelector> {
        let (start_port, end_port) = if own { (700, 700) } else { (0, u16::MAX) };
        side.networks()
            .into_iter()
            .map(|all| TrafficSelector { protocol: 17, start_port, end_port, ..all })
            .collect()
    };
    // For port 700 of B.
    let for_port = |side: Side| policy(side, port(side, side == B), port(side.other(), side == A));
    let one = |side: Side| -> Result<Plane> {
        // Less than between hosts and gateways, so that fragments are divided again.
        let config = NetConfig { tun_mtu: Some(1390), offload: net.offload, ..NetConfig::default() };
        let mut plane = net.plane_with(side, &config)?;
        plane.plane.install(child(side, 1, false, true, &for_port(side)))?;
        plane.plane.set_policies(vec![for_port(side)])?;
        Ok(plane)
    };
    let (a, b) = (one(A)?, one(B)?);
    let mut capture = net.capture(A)?;
    let (inside, open) = (SECRET.repeat(6000 / SECRET.len()), vec![b'o'; 6000]);
    for v6 in [false, true] {
        for (near, far) in [(10, 10), (1, 10), (10, 1), (1, 1)] {
            let bind = |side: Side, host: u8, port| -> Result<UdpSocket> {
                let namespace = if host == 1 { net.gateway(side) } else { net.host(side) };
                let socket = namespace.run(|| UdpSocket::bind((side.inner(v6, host), port)))??;
                if !v6 {
                    use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
                    set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT)?;
                }
                Ok(socket)
            };
            let sockets = (bind(A, near, 5000)?, bind(B, far, 700)?, bind(B, far, 701)?);
            for (from, to, datagram) in [
                (&sockets.0, &sockets.1, &inside),
                (&sockets.1, &sockets.0, &inside),
                (&sockets.0, &sockets.2, &open),
                (&sockets.2, &sockets.0, &open),
            ] {
                arrives(from, to, datagram).with_context(|| {
                    format!("v6 {v6} {near} {far} {:?} {:?}", a.plane.stats(), b.plane.stats())
                })?;
            }
        }
    }
    let is_open = |one: &Seen| one.payload.windows(64).any(|part| part == [b'o'; 64]);
    let (open, all): (Vec<_>, Vec<_>) = passed(&mut capture)?.into_iter().partition(is_open);
    // Six thousand octets take five fragments; two datagrams for each pair.
    ensure!(open.len() >= 2 * 4 * 2 * 5, "{} in the clear", open.len());
    ensure!(
        !all.iter().any(|one| one.payload.windows(SECRET.len()).any(|part| part == SECRET)),
        "in the clear"
    );
    for plane in [a, b] {
        let (sent, received) = plane.carried(1).context("SA")?;
        ensure!(sent >= 4 * 2 * 5 && received >= 4 * 2 * 5, "{sent} {received}");
    }
    Ok(())
}

/// Both sides have 192.168.1.0/24. Gateway A shows its own as 10.11.0.0/24, and shows the other's to its hosts as
/// 10.12.0.0/24. B knows nothing of it.
#[test]
fn overlapping_networks_reach_each_other_by_other_addresses() -> Result<()> {
    let net = Net::new()?;
    let address = |third: [u8; 3], host: u8| IpAddr::from([third[0], third[1], third[2], host]);
    let (real, as_a, as_b) = ([192, 168, 1], [10, 11, 0], [10, 12, 0]);
    for side in [A, B] {
        for (namespace, host) in [(net.gateway(side), 1), (net.host(side), 10)] {
            let mut netlink = namespace.netlink()?;
            let lan = netlink.link("lan")?.index;
            netlink.add_address(lan, address(real, host), 24)?;
        }
        // From the new addresses.
        let way = ["route", "add", "default", "via", "192.168.1.1"];
        answered(&run(net.host(side), "ip", &way)?)?;
    }
    let subnet = |third| vec![TrafficSelector::subnet(address(third, 0), 24)];
    let inside = |side: Side| match side {
        A => policy(side, subnet(real), subnet(as_b)),
        B => policy(side, subnet(real), subnet(as_a)),
    };
    let translation = Arc::new(Translation {
        local: vec![Renumbering::new(address(real, 0), address(as_a, 0), 24).context("prefix")?],
        remote: vec![Renumbering::new(address(as_b, 0), address(real, 0), 24).context("prefix")?],
    });
    let (a, b) = between(&net, inside, |mut install, side| {
        if side == A {
            install.inbound.local_ts = subnet(as_a);
            install.inbound.remote_ts = subnet(real);
            install.treatment.translation = Some(Arc::clone(&translation));
        }
        install
    })?;
    let from = [address(real, 10).to_string()];
    let reaches = |side: Side, to: IpAddr| {
        answered(&ping(net.host(side), to, &["-c", "3", "-W", "5", "-I", &from[0], "-s", "600"])?)
    };
    reaches(A, address(as_b, 10))?;
    reaches(B, address(as_a, 10))?;
    // TCP, both ways.
    for (side, to) in [(A, address(as_b, 10)), (B, address(as_a, 10))] {
        let listener = net.host(side.other()).run(|| TcpListener::bind((address(real, 10), 7)))??;
        let near = net.host(side).run(|| TcpStream::connect_timeout(&SocketAddr::new(to, 7), PATIENCE))??;
        let (mut far, peer) = listener.accept()?;
        // Towards B hosts of A have their other addresses, and the other way round.
        ensure!(peer.ip() == if side == A { address(as_a, 10) } else { address(as_b, 10) }, "{peer}");
        (&near).write_all(&[7; 100_000])?;
        near.shutdown(std::net::Shutdown::Write)?;
        let mut all = Vec::new();
        far.read_to_end(&mut all)?;
        ensure!(all == [7; 100_000]);
    }
    // An error about UDP is understood by whom it is about: its quote names what that host has sent.
    for (side, to) in [(A, address(as_b, 10)), (B, address(as_a, 10))] {
        let socket = net.host(side).run(|| UdpSocket::bind((address(real, 10), 0)))??;
        socket.connect((to, 9))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(b"nobody is there")?;
        let error = socket.recv(&mut [0; 10]).err().context("no error")?;
        ensure!(error.kind() == std::io::ErrorKind::ConnectionRefused, "{side:?}: {error}");
    }
    for plane in [&a, &b] {
        ensure!(plane.plane.counters(ChildId(1)).context("SA")?.drops.iter().all(|(_, count)| *count == 0));
    }
    Ok(())
}

/// RFC 4303 2.7: whatever is inside, all packets look alike.
#[test]
fn padded_packets_look_alike() -> Result<()> {
    // 1000 octets inside: 20 + 8 + 8 + 8 + 1000 + 2 and 2 to a multiple of 4, 16. And what fills the path.
    for (tfc, expected) in [(Tfc::AtLeast(1000), 20 + 8 + 8 + 8 + 1004 + 16), (Tfc::Path, 1500)] {
        let mut net = Net::new()?;
        // Packets of a train would be captured as one.
        net.offload = false;
        let (a, _b) = treated(&net, |_| Treatment { tfc, ..Treatment::default() })?;
        let mut capture = net.capture(A)?;
        for size in ["0", "1", "56", "500", "950"] {
            for v6 in [false, true] {
                answered(&net.ping(A, v6, &["-c", "2", "-W", "5", "-s", size])?)?;
            }
        }
        a.carries(1, (20, 20))?;
        let mut lengths = Vec::new();
        while capture.read(Duration::ZERO, |frame| {
            let header = ip::Ipv4Header::decode(frame.octets.get(14..).unwrap_or_default());
            lengths.extend(header.ok().filter(|header| header.protocol == 17).map(|header| header.total_len));
        })? > 0
        {}
        ensure!(lengths.len() == 40 && lengths.iter().all(|len| *len == expected), "{tfc:?}: {lengths:?}");
    }
    Ok(())
}

/// RFC 4303 2.6: dummies are verified, and nothing comes of them.
#[test]
fn dummies_leave_no_trace_inside() -> Result<()> {
    let net = Net::new()?;
    let (a, _b) = treated(&net, |_| Treatment::default())?;
    let mut lan = net.host(A).run(|| Capture::open("lan"))??;
    let mut sa = OutboundSa::new(child(B, 1, false, true, &networks_policy(B)).outbound)?;
    let socket = net.gateway(B).run(|| UdpSocket::bind((B.outer(false), 40_000)))??;
    for len in [0, 1, 100, 1400] {
        let mut dummy = Vec::new();
        sa.seal_dummy(len, &mut dummy)?;
        socket.send_to(&dummy, (A.outer(false), 4500))?;
    }
    // They move the window, which shows: the peer seems to be elsewhere.
    ensure!(matches!(a.event()?, NetEvent::PeerMoved { .. }));
    until("something to arrive", || {
        a.plane.counters(ChildId(1)).is_some_and(|counters| counters.heard.is_some())
    })?;
    let counters = a.plane.counters(ChildId(1)).context("SA")?;
    ensure!(counters.packets_in == 0 && counters.drops.iter().all(|(_, count)| *count == 0), "{counters:?}");
    // The kernels look for their neighbours whenever they like.
    let neighbours = |one: &Seen| matches!(one.source, IpAddr::V6(v6) if v6.is_unicast_link_local());
    ensure!(passed(&mut lan)?.iter().all(neighbours));
    Ok(())
}

/// RFC 4303 2.6: an SA that has nothing to send sends packets that look like any of its own, over both outer families, in UDP or
/// not. The other side hears them, and has no traffic.
#[test]
fn silence_is_filled_with_dummies() -> Result<()> {
    let interval = Duration::from_millis(100);
    for (v6, encap, port) in [(false, true, 17), (false, false, 50), (true, true, 17), (true, false, 50)] {
        let net = Net::new()?;
        let (a, b) = between(&net, networks_policy, |_, side| {
            let dummies = (side == A).then_some(interval);
            let treatment = Treatment { tfc: Tfc::Path, dummies, ..Treatment::default() };
            ChildSaInstall { treatment, ..child(side, 1, v6, encap, &networks_policy(side)) }
        })?;
        let mut outer = net.capture(A)?;
        let mut lan = net.host(B).run(|| Capture::open("lan"))??;
        let (mut dummies, mut longest) = (Vec::new(), Duration::ZERO);
        let (deadline, mut last) = (Instant::now() + PATIENCE, Instant::now());
        while dummies.len() < 20 {
            ensure!(Instant::now() < deadline, "only {dummies:?}");
            let before = dummies.len();
            outer.read(Duration::from_millis(20), |frame| {
                if let Some(one) = seen(frame.octets).filter(|one| one.protocol == port) {
                    dummies.push((one.source, one.traffic_class, frame.octets.len() - 14));
                }
            })?;
            if dummies.len() > before {
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
        }
        // AES-GCM fills an MTU of 1,500 up to a multiple of 4.
        let looks = (A.outer(v6), 0, 1500);
        ensure!(dummies.iter().all(|dummy| *dummy == looks), "{dummies:?}");
        ensure!(longest < 10 * interval, "silent for {longest:?}");
        let (sent, heard) = (a.plane.counters(ChildId(1)), b.plane.counters(ChildId(1)));
        let (sent, heard) = (sent.context("SA")?, heard.context("SA")?);
        ensure!((sent.packets_out, sent.bytes_out, sent.last_out) == (0, 0, None), "{sent:?}");
        ensure!((heard.packets_in, heard.bytes_in, heard.last_in) == (0, 0, None), "{heard:?}");
        ensure!(heard.heard.is_some() && heard.drops.iter().all(|(_, count)| *count == 0), "{heard:?}");
        ensure!(sent.heard.is_none(), "{sent:?}");
        let neighbours = |one: &Seen| matches!(one.source, IpAddr::V6(v6) if v6.is_unicast_link_local());
        ensure!(passed(&mut lan)?.iter().all(neighbours));
        // What is meant is carried as ever.
        answered(&net.ping(A, v6, &["-c", "3", "-W", "5"])?)?;
        a.carries(1, (3, 3))?;
        b.carries(1, (3, 3))?;
    }
    Ok(())
}

/// One side marks its outer packets, the other gives the mark to what is inside; ECN is not touched by it.
#[test]
fn the_class_outside_is_copied_inwards_on_request() -> Result<()> {
    let net = Net::new()?;
    let class = 46_u8;
    let (_a, _b) = treated(&net, |side| Treatment {
        outer: OuterPolicy {
            dscp: if side == A { Dscp::Set(class) } else { Dscp::Copy },
            ..OuterPolicy::default()
        },
        dscp_inwards: side == B,
        ..Treatment::default()
    })?;
    let mut lan = net.host(B).run(|| Capture::open("lan"))??;
    for (v6, protocol) in [(false, 1), (true, 58)] {
        // AF11 and ECT(0). What comes back to A keeps what B's host has copied from the request.
        answered(&net.ping(A, v6, &["-c", "2", "-W", "5", "-Q", "0x2a"])?)?;
        let mut arrived = Vec::new();
        while lan.read(Duration::ZERO, |frame| {
            let echo = if v6 { 128 } else { 8 };
            arrived.extend(seen(frame.octets).filter(|one| {
                !frame.outgoing && one.protocol == protocol && one.payload.first() == Some(&echo)
            }));
        })? > 0
        {}
        let classes: Vec<u8> = arrived.iter().map(|one| one.traffic_class).collect();
        ensure!(classes == [class << 2 | 2; 2], "v6 {v6}: {classes:?}");
    }
    Ok(())
}

/// Without DF outside, or where the path is narrower than what is believed, outer packets arrive in parts all the same.
#[test]
fn outer_packets_may_be_divided_if_those_inside_may() -> Result<()> {
    for (encap, df, inner, expected) in [
        (true, DontFragment::Copy, "dont", false),
        (true, DontFragment::Copy, "do", true),
        (true, DontFragment::Clear, "do", false),
        (true, DontFragment::Set, "dont", true),
        (false, DontFragment::Copy, "dont", false),
        (false, DontFragment::Copy, "do", true),
        (false, DontFragment::Clear, "do", false),
    ] {
        let net = Net::new()?;
        let outer = OuterPolicy { df, ..OuterPolicy::default() };
        let (_a, _b) = between(&net, networks_policy, |install, _| ChildSaInstall {
            encap: install.encap.filter(|_| encap),
            treatment: Treatment { outer, ..Treatment::default() },
            ..install
        })?;
        let mut wan = net.capture(A)?;
        answered(&net.ping(A, false, &["-c", "3", "-W", "5", "-M", inner])?)?;
        let mut fragile = Vec::new();
        while wan.read(Duration::ZERO, |frame| {
            let header = ip::Ipv4Header::decode(frame.octets.get(14..).unwrap_or_default()).ok();
            let ours = header.filter(|header| frame.outgoing && [17, 50].contains(&header.protocol));
            fragile.extend(ours.map(|header| header.dont_fragment));
        })? > 0
        {}
        ensure!(fragile == [expected; 3], "UDP {encap} {df:?} inside {inner}: {fragile:?}");
        if expected {
            continue;
        }
        // No path is believed to be that narrow.
        for side in [A, B] {
            let mut netlink = net.gateway(side).netlink()?;
            let link = netlink.link("wan")?.index;
            netlink.set_mtu(link, 500)?;
        }
        answered(&net.ping(A, false, &["-c", "3", "-W", "5", "-M", inner, "-s", "440"])?)?;
        let mut parts = 0;
        while wan.read(Duration::ZERO, |frame| {
            let header = ip::Ipv4Header::decode(frame.octets.get(14..).unwrap_or_default()).ok();
            parts += usize::from(header.is_some_and(|header| header.more_fragments));
        })? > 0
        {}
        ensure!(parts == 6, "UDP {encap} {df:?}: {parts} first parts of 3 requests and 3 answers");
    }
    Ok(())
}

/// RFC 6040, Figure 4, on the wire: each mark inside under each mark that a router between the gateways may have made of it.
#[test]
fn adversarial_60_all_sixteen_cells_on_the_wire() -> Result<()> {
    const NAMES: [&str; 4] = ["not-ect", "ect1", "ect0", "ce"];
    let net = Net::new()?;
    let (_a, b) = treated(&net, |_| Treatment::default())?;
    let mut lan = net.host(B).run(|| Capture::open("lan"))??;
    for (outer, name) in NAMES.iter().enumerate() {
        nft(
            net.gateway(B),
            &format!(
                "table inet router {{ chain c {{ type filter hook prerouting priority -300; iifname wan ip ecn set {name};\n}}\n}}"
            ),
        )?;
        for inner in 0..4_usize {
            // Not-ECT 0, ECT(1) 1, ECT(0) 2, CE 3; what RFC 6040 says of (inner, outer).
            let expected = match (inner, outer) {
                (0, 3) => None,
                (0, _) => Some(0),
                (3, _) | (_, 3) => Some(3),
                (_, 1) => Some(1),
                (inner, _) => Some(inner),
            };
            for v6 in [false, true] {
                let class = (0xb8 | inner).to_string();
                let output = net.ping(A, v6, &["-c", "1", "-W", "1", "-Q", &class])?;
                let echo = if v6 { (58, 128) } else { (1, 8) };
                let all = passed(&mut lan)?;
                let marks: Vec<usize> = all
                    .iter()
                    .filter(|one| (one.protocol, one.payload.first().copied()) == (echo.0, Some(echo.1)))
                    .map(|one| usize::from(one.traffic_class & 3))
                    .collect();
                let expected: Vec<usize> = expected.into_iter().collect();
                ensure!(
                    marks == expected,
                    "inner {inner} outer {outer} v6 {v6}: {marks:?}, not {expected:?}"
                );
                ensure!(output.status.success() == !expected.is_empty());
            }
        }
        nft(net.gateway(B), "delete table inet router")?;
    }
    let drops = b.plane.counters(ChildId(1)).context("SA")?.drops;
    ensure!(
        drops.iter().all(|(cause, count)| *count == if *cause == adit_esp::Drop::Congestion { 2 } else { 0 })
    );
    Ok(())
}

/// RFC 4301 5.1.2.1: a gateway is a hop. What has none left does not enter the tunnel, and its sender is told.
#[test]
fn each_gateway_takes_a_hop() -> Result<()> {
    let net = Net::new()?;
    let (a, _b) = treated(&net, |_| Treatment::default())?;
    for v6 in [false, true] {
        let refused = net.ping(A, v6, &["-c", "1", "-W", "5", "-t", "1"])?;
        unanswered(&refused)?;
        let text = stdout(&refused);
        ensure!(text.contains("Time to live exceeded") || text.contains("Hop limit"), "{text}");
        ensure!(a.carried(1).is_some_and(|(sent, _)| sent == u64::from(v6)), "it has entered the tunnel");
        let text = stdout(&net.ping(A, v6, &["-c", "1", "-W", "5"])?);
        ensure!(text.contains("ttl=62"), "64, less two gateways: {text}");
    }
    Ok(())
}

/// Anybody can claim that the way to the peer is narrow: the addresses and ports are no secret. Whatever is claimed, with
/// an SPI that exists or not, everything still arrives, and hosts are not told less than the floor.
#[test]
fn adversarial_60_forged_path_mtus_make_no_black_hole() -> Result<()> {
    for v6 in [false, true] {
        for mtu in [0, 68, 576, 1279] {
            let net = Net::new()?;
            let (a, _b) = tunnel(&net, v6, true)?;
            for spi in [0xadad_0102_u32, 0x1234_5678, 0] {
                forge(&net, v6, mtu, spi)?;
            }
            // What has been claimed is believed in part, at the next packet that is long.
            net.ping(A, false, &["-c", "1", "-W", "1", "-M", "do", "-s", "1300"])?;
            // AES-GCM in UDP takes 8 + 8 + 8 + 16 and 2 of the outer packet; 552 and 1280 are the floors.
            let floor = if v6 { 1280 - 40 } else { 552 - 20 } - 8 - 8 - 8 - 16;
            let floor = floor / 4 * 4 - 2;
            let fits = (floor - 28).to_string();
            answered(&net.ping(A, false, &["-c", "2", "-W", "5", "-M", "do", "-s", &fits])?)
                .with_context(|| format!("v6 {v6} MTU {mtu}: the floor"))?;
            let refused = net.ping(A, false, &["-c", "2", "-W", "1", "-M", "do", "-s", "1400"])?;
            let told = stdout(&refused);
            let told =
                told.split("mtu = ").nth(1).and_then(|rest| rest.split(')').next()?.parse::<usize>().ok());
            ensure!(told.is_none_or(|told| told >= floor), "v6 {v6} MTU {mtu}: {told:?} below {floor}");
            // Senders that may not be cut for learn it from the first.
            net.ping(A, true, &["-c", "4", "-W", "1", "-s", "3000"])?;
            for inner_v6 in [false, true] {
                answered(&net.ping(A, inner_v6, &["-c", "2", "-W", "5", "-M", "dont", "-s", "3000"])?)
                    .with_context(|| {
                        format!("v6 {v6} MTU {mtu} inner v6 {inner_v6}: {:?}", a.plane.stats())
                    })?;
                exchange(&net, A, inner_v6, 200_000).with_context(|| {
                    format!("v6 {v6} MTU {mtu} inner v6 {inner_v6}: {:?}", a.plane.stats())
                })?;
            }
        }
    }
    Ok(())
}

/// Tells gateway A, in the name of a router, that a packet of its SA with this SPI was too big.
fn forge(net: &Net, v6: bool, mtu: u32, spi: u32) -> Result<()> {
    let (a, b) = (A.outer(v6), B.outer(v6));
    let mut udp =
        [&4500_u16.to_be_bytes()[..], &4500_u16.to_be_bytes(), &1000_u16.to_be_bytes(), &[0, 0]].concat();
    udp.extend(spi.to_be_bytes());
    udp.extend([0, 0, 0, 9]);
    udp.resize(1000, 0);
    let original = ip::packet(a, b, 17, 60, &udp).context("packet")?;
    let message = icmp::packet_too_big(&original, b, mtu).context("message")?;
    use rustix::net::{AddressFamily, SocketType, ipproto, sendto, socket};
    net.gateway(B).run(|| -> Result<()> {
        let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
        let raw = socket(family, SocketType::RAW, Some(ipproto::RAW))?;
        sendto(&raw, &message, rustix::net::SendFlags::empty(), &SocketAddr::new(a, 0))?;
        Ok(())
    })?
}
