//! What becomes of packets on their way through a tunnel: networks, sizes, marks, errors, garbage.

use super::*;

#[test]
fn networks_reach_each_other_through_every_kind_of_tunnel() -> Result<()> {
    for (v6, encap, offload) in [
        (false, false, true),
        (false, true, true),
        (false, true, false),
        (true, false, false),
        (true, true, true),
        (true, true, false),
    ] {
        let net = Net { offload, ..Net::new()? };
        let (a, b) = tunnel(&net, v6, encap)?;
        let mut capture = net.capture(A)?;
        for inner_v6 in [false, true] {
            for from in [A, B] {
                let arguments = [&["-c", "20", "-s", "500", "-W", "5"], &PATTERN[..]].concat();
                answered(&net.ping(from, inner_v6, &arguments)?).with_context(|| {
                    format!(
                        "outer v6 {v6} encap {encap} inner v6 {inner_v6} from {from:?}: {:?}",
                        a.plane.stats()
                    )
                })?;
            }
        }
        let all = passed(&mut capture)?;
        nothing_inner(&all)?;
        let (protocol, ours) = if encap { (17, [17, 148, 17, 148]) } else { (50, [0xad, 0xad, 1, 0]) };
        let carried = all
            .iter()
            .filter(|one| one.protocol == protocol && one.source.is_ipv6() == v6)
            .filter(|one| one.payload[..3] == ours[..3] || one.payload[..4] == ours)
            .count();
        // Several packets that leave together in UDP are one frame here; the network card divides it.
        let expected = if encap && offload { 1..=160 } else { 160..=160 };
        ensure!(
            expected.contains(&carried),
            "{carried} ESP packets of the expected kind on the wire, not 160"
        );
        a.carries(1, (80, 80))?;
        b.carries(1, (80, 80))?;
        let (a, b) = (a.plane.counters(ChildId(1)).context("a")?, b.plane.counters(ChildId(1)).context("b")?);
        ensure!((a.packets_out, a.bytes_out) == (b.packets_in, b.bytes_in), "{a:?} {b:?}");
        ensure!((b.packets_out, b.bytes_out) == (a.packets_in, a.bytes_in), "{a:?} {b:?}");
        ensure!(a.last_in.is_some() && a.last_out.is_some() && a.drops.iter().all(|(_, count)| *count == 0));
    }
    Ok(())
}

#[test]
fn the_gateways_themselves_are_protected_and_ike_still_passes() -> Result<()> {
    for (v6, encap) in [(false, false), (false, true), (true, false), (true, true)] {
        let net = Net::new()?;
        let host = |side: Side| vec![TrafficSelector::subnet(side.outer(v6), if v6 { 128 } else { 32 })];
        let mut planes = Vec::new();
        for side in [A, B] {
            let mut plane = net.plane(side)?;
            plane.plane.set_policies(vec![policy(side, host(side), host(side.other()))])?;
            // The way of outer packets is past the tunnel, even though the peer is protected.
            let sender = plane.plane.ike_sender();
            let source = net.gateway(side).run(|| sender.source_address(side.other().outer(v6)))??;
            ensure!(source == side.outer(v6), "{source}");
            planes.push(plane);
        }
        // IKE passes before there is an SA, both ports, and knows its addresses.
        for (from, to, port) in [(0, 1, 500), (1, 0, 4500)] {
            let side = |index: usize| if index == 0 { A } else { B };
            let local = SocketAddr::new(side(from).outer(v6), port);
            let remote = SocketAddr::new(side(to).outer(v6), port);
            planes[from].plane.ike_sender().send(local, remote, b"an IKE message")?;
            let event = planes[to].event()?;
            let expected =
                NetEvent::Ike { local: remote, remote: local, datagram: b"an IKE message".to_vec() };
            ensure!(event == expected, "{event:?}");
        }
        for (plane, side) in planes.iter_mut().zip([A, B]) {
            plane.plane.install(child(side, 1, v6, encap, &policy(side, host(side), host(side.other()))))?;
        }
        let mut capture = net.capture(A)?;
        let arguments = [&["-c", "5", "-W", "5"], &PATTERN[..]].concat();
        answered(&ping(net.gateway(A), B.outer(v6), &arguments)?)?;
        let all = passed(&mut capture)?;
        nothing_inner(&all)?;
        planes[0].carries(1, (5, 5))?;
    }
    Ok(())
}

#[test]
fn errors_about_outer_packets_are_heard() -> Result<()> {
    for v6 in [false, true] {
        let net = Net::new()?;
        let host = |side: Side| vec![TrafficSelector::subnet(side.outer(v6), if v6 { 128 } else { 32 })];
        let mut a = net.plane(A)?;
        a.plane.set_policies(vec![policy(A, host(A), host(B))])?;
        let mut capture = net.capture(A)?;
        // Nobody listens at the other side, and it says so.
        let (local, remote) = (SocketAddr::new(A.outer(v6), 500), SocketAddr::new(B.outer(v6), 500));
        a.plane.ike_sender().send(local, remote, b"an IKE message")?;
        let (protocol, unreachable) = if v6 { (58, 1) } else { (1, 3) };
        let deadline = Instant::now() + PATIENCE;
        let is_error = |one: &Seen| one.protocol == protocol && one.payload.first() == Some(&unreachable);
        while !passed(&mut capture)?.iter().any(is_error) {
            ensure!(Instant::now() < deadline, "no error came");
        }
        // What asks in the clear comes after it, and is dropped alone.
        unanswered(&ping(net.gateway(B), A.outer(v6), &["-c", "1", "-W", "1"])?)?;
        ensure!(a.plane.stats().fenced_in == 1, "{:?}", a.plane.stats());
    }
    Ok(())
}

/// The MTU of the tunnel comes from the way out, also where the address that stands for all others is the gateway's own.
#[test]
fn the_way_to_oneself_is_no_way_out() -> Result<()> {
    let net = Net::new()?;
    // It is 192.0.2.1.
    let (_a, _b) = tunnel(&net, false, true)?;
    let mtu = |side| {
        let link = stdout(&run(net.gateway(side), "ip", &["-o", "link", "show", "adit0"])?);
        let mut words = link.split(' ').skip_while(|word| *word != "mtu");
        words.nth(1).map(str::to_owned).context("an MTU")
    };
    ensure!(mtu(A)? == mtu(B)?, "{} here, {} there", mtu(A)?, mtu(B)?);
    Ok(())
}

#[test]
fn senders_learn_the_mtu_of_the_tunnel() -> Result<()> {
    for (v6, encap) in [(false, true), (true, false)] {
        let net = Net::new()?;
        for side in [A, B] {
            let mut netlink = net.gateway(side).netlink()?;
            let wan = netlink.link("wan")?.index;
            netlink.set_mtu(wan, 1300)?;
        }
        let (a, _b) = tunnel(&net, v6, encap)?;
        // AES-GCM: ESP header 8, IV 8, pad length and next header 2, ICV 16; the trailer ends on 4 octets.
        let outer = if v6 { 40 } else { 20 } + if encap { 8 } else { 0 };
        let mtu = (1300 - outer - 8 - 8 - 16) / 4 * 4 - 2;
        let exact = (mtu - 28).to_string();
        let above = (mtu - 27).to_string();
        answered(&net.ping(A, false, &["-c", "2", "-W", "5", "-M", "do", "-s", &exact])?)?;
        let refused = net.ping(A, false, &["-c", "2", "-W", "5", "-M", "do", "-s", &above])?;
        unanswered(&refused)?;
        ensure!(stdout(&refused).contains(&format!("mtu = {mtu}")), "{}", stdout(&refused));
        ensure!(a.drops(DropCause::TooBig) >= 1, "{:?}", a.plane.stats());
        // What may be cut is cut; what cannot be refused is carried in fragments, even if 1280 octets do not fit.
        answered(&net.ping(A, false, &["-c", "2", "-W", "5", "-M", "dont", "-s", "4000"])?)?;
        // The first ones teach the sender: the MTU of the TUN device, then that of the path.
        net.ping(A, true, &["-c", "4", "-W", "1", "-s", "4000"])?;
        answered(&net.ping(A, true, &["-c", "2", "-W", "5", "-s", "4000"])?)?;
    }
    Ok(())
}

#[test]
fn tcp_arrives_whole_in_both_directions_at_once() -> Result<()> {
    const OCTETS: usize = 20 << 20;
    let text =
        |from: Side| (0..OCTETS).map(move |i| (i >> 8) as u8 ^ (i as u8).wrapping_mul(from.number() + 2));
    let send = |from: Side, mut stream: &TcpStream| -> Result<()> {
        stream.write_all(&text(from).collect::<Vec<_>>())?;
        Ok(stream.shutdown(std::net::Shutdown::Write)?)
    };
    let check = |from: Side, mut stream: &TcpStream| -> Result<()> {
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        ensure!(
            all.len() == OCTETS && all.into_iter().eq(text(from)),
            "what {from:?} sent has changed on the way"
        );
        Ok(())
    };
    for (v6, encap, inner_v6, offload) in [
        (false, true, false, true),
        (false, true, true, false),
        (true, true, true, true),
        (true, true, false, false),
        (true, false, true, true),
        (false, false, false, false),
    ] {
        let net = Net { offload, ..Net::new()? };
        let (a, b) = tunnel(&net, v6, encap)?;
        let listener = net.host(B).run(|| TcpListener::bind((B.inner(inner_v6, 10), 7)))??;
        let near = net.host(A).run(|| TcpStream::connect(listener.local_addr()?))??;
        let (far, _) = listener.accept()?;
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
        }
        std::thread::scope(|scope| -> Result<()> {
            let sends = [scope.spawn(|| send(A, &near)), scope.spawn(|| send(B, &far))];
            let checks = [scope.spawn(|| check(A, &far)), scope.spawn(|| check(B, &near))];
            for done in checks.into_iter().chain(sends) {
                let result = done.join().map_err(|_| anyhow!("panicked"))?;
                result.with_context(|| format!("{:?}", a.plane.stats()))?;
            }
            Ok(())
        })?;
        let (a, b) = (a.plane.counters(ChildId(1)).context("a")?, b.plane.counters(ChildId(1)).context("b")?);
        ensure!(a.bytes_out > OCTETS as u64 && b.bytes_out > OCTETS as u64, "{a:?} {b:?}");
    }
    Ok(())
}

#[test]
fn traffic_class_goes_out_and_congestion_comes_back_in() -> Result<()> {
    for (v6, encap) in [(false, false), (false, true), (true, false), (true, true)] {
        let net = Net::new()?;
        let (_a, _b) = tunnel(&net, v6, encap)?;
        let mut outer = net.capture(A)?;
        let mut lan = net.host(B).run(|| Capture::open("lan"))??;
        // A router between the gateways that meets congestion: ECT(0), 2, becomes CE, 3.
        let rules = "table inet router { chain c { type filter hook prerouting priority -300; \
                     iifname wan ip ecn set ce; iifname wan ip6 ecn set ce;\n}\n}";
        answered(&run(net.gateway(B), "nft", &[rules])?)?;
        for inner_v6 in [false, true] {
            // Expedited forwarding and ECT(0): 46 << 2 | 2 = 186.
            answered(&net.ping(A, inner_v6, &["-c", "1", "-W", "5", "-Q", "186"])?)?;
        }
        let marked = |all: Vec<Seen>, class: u8| all.iter().filter(|one| one.traffic_class == class).count();
        ensure!(marked(passed(&mut outer)?, 186) >= 2, "DSCP and ECN are not copied to the outer header");
        ensure!(marked(passed(&mut lan)?, 187) >= 2, "congestion met on the way is not told");
    }
    Ok(())
}

#[test]
fn garbage_is_counted_and_the_tunnel_goes_on() -> Result<()> {
    let net = Net::new()?;
    let (a, _b) = tunnel(&net, false, true)?;
    let socket = net.gateway(B).run(|| UdpSocket::bind((B.outer(false), 40_000)))??;
    let to = SocketAddr::new(A.outer(false), 4500);
    let from = SocketAddr::new(B.outer(false), 40_000);
    let send = |datagram: &[u8]| socket.send_to(datagram, to);
    send(&[0xff])?;
    send(&[])?;
    send(&[1, 2, 3])?;
    // An SPI of nobody; then one that exists, with everything from nothing to noise behind it.
    send(&[9, 9, 9, 9, 0, 0, 0, 1])?;
    for len in 4..200 {
        let mut datagram = vec![0xa5; len];
        datagram.splice(..4, 0xadad_0102_u32.to_be_bytes());
        send(&datagram)?;
    }
    send(&[0, 0, 0, 0, b'I', b'K', b'E'])?;
    let local = to;
    ensure!(a.event()? == NetEvent::UnknownSpi { spi: Spi(0x0909_0909), remote: from });
    // Datagrams of one socket arrive in order: after this one all others have been dealt with.
    ensure!(a.event()? == NetEvent::Ike { local, remote: from, datagram: b"IKE".to_vec() });
    ensure!(
        a.drops(DropCause::UnknownSpi) == 1 && a.drops(DropCause::OuterMalformed) >= 1,
        "{:?}",
        a.plane.stats()
    );
    ensure!(a.drops(DropCause::Refused) == 196, "{:?}", a.plane.stats());
    ensure!(a.plane.stats().keepalives_received == 1);
    answered(&net.ping(A, false, &["-c", "1", "-W", "5"])?)
}

#[test]
fn devices_are_born_without_ipv6_in_containers() -> Result<()> {
    let net = Net::new()?;
    net.gateway(A).sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
    let (_a, _b) = tunnel(&net, false, false)?;
    answered(&net.ping(A, true, &["-c", "1", "-W", "5"])?)?;
    // With IPv6 off everywhere there is nothing to protect it with, and it says so.
    net.gateway(B).sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
    drop(_b);
    let mut b = net.plane(B)?;
    net.gateway(B).sysctl("net/ipv6/conf/adit0/disable_ipv6", "1")?;
    match b.plane.set_policies(vec![networks_policy(B)]) {
        Ok(()) => bail!("routes without IPv6"),
        Err(error) => ensure!(error.to_string().contains("IPv6 is switched off"), "{error}"),
    }
    Ok(())
}

#[test]
fn what_the_kernel_does_not_send_does_not_count_as_sent() -> Result<()> {
    let net = Net::new()?;
    let mut a = net.plane(A)?;
    let policy = networks_policy(A);
    // An address that this machine has lost.
    let lost = IpAddr::from([192, 0, 2, 77]);
    a.plane.install(ChildSaInstall { local: lost, ..child(A, 1, false, true, &policy) })?;
    a.plane.set_policies(vec![policy])?;
    unanswered(&net.ping(A, false, &["-c", "3", "-W", "1"])?)?;
    let counters = a.plane.counters(ChildId(1)).context("counters")?;
    ensure!(a.drops(DropCause::Send) == 3, "{:?}", a.plane.stats());
    ensure!((counters.packets_out, counters.bytes_out, counters.last_out) == (0, 0, None), "{counters:?}");
    Ok(())
}
