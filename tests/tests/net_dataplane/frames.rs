//! ESP without UDP by AF_XDP: that it is used where it can be, and that everything else still goes by the sockets.

use socket2::{Domain, Protocol, Socket, Type};

use super::*;

/// Both planes with one SA pair without UDP, and AF_XDP.
fn framed(net: &Net, v6: bool) -> Result<(Plane, Plane)> {
    let mut planes = Vec::new();
    for side in [A, B] {
        let mut plane = net.plane_with(side, &NetConfig { xdp: true, ..NetConfig::default() })?;
        let policy = networks_policy(side);
        plane.plane.install(child(side, 1, v6, false, &policy))?;
        plane.plane.set_policies(vec![policy])?;
        planes.push(plane);
    }
    let b = planes.pop().context("two")?;
    Ok((planes.pop().context("two")?, b))
}

fn frames(plane: &Plane) -> (u64, u64) {
    let stats = plane.plane.stats();
    (stats.frames_sent, stats.frames_received)
}

/// Sends pings until both gateways use AF_XDP both ways: the first packets go by the sockets, until the kernel knows
/// the neighbours.
fn until_framed(net: &Net, a: &Plane, b: &Plane) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let before = [frames(a), frames(b)];
    loop {
        answered(&net.ping(A, false, &["-c", "1", "-W", "5"])?)?;
        let more = |plane, before: (u64, u64)| {
            let (sent, received) = frames(plane);
            sent > before.0 && received > before.1
        };
        if more(a, before[0]) && more(b, before[1]) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "AF_XDP is not used: {:?} {:?}", frames(a), frames(b));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until the first has sent and received so many packets.
fn until_carried(a: &Plane, b: &Plane, least: (u64, u64)) -> Result<()> {
    let enough = || a.carried(1).is_some_and(|(out, back)| out >= least.0 && back >= least.1);
    until("packets to arrive", enough).with_context(|| {
        format!("{least:?}: {:?}", [a, b].map(|plane| (plane.carried(1), plane.plane.stats())))
    })
}

#[test]
fn esp_takes_af_xdp_where_it_can() -> Result<()> {
    for v6 in [false, true] {
        let net = Net::new()?;
        let (a, b) = framed(&net, v6)?;
        until_framed(&net, &a, &b)?;
        // Hosts and gateways find each other.
        answered(&net.ping(A, true, &["-c", "1", "-W", "5"])?)?;
        let (before, at) = (frames(&a), a.carried(1).context("an SA")?);
        for inner_v6 in [false, true] {
            for size in ["0", "56", "1000", "1300"] {
                let arguments = ["-c", "50", "-i", "0.002", "-W", "5", "-s", size];
                let output = net.ping(A, inner_v6, &arguments)?;
                // ping waits for the last answer no longer than twice the time that others took: counters tell of that.
                let said = stdout(&output);
                ensure!(said.contains(" 50 received") || said.contains(" 49 received"), "{size}: {said}");
            }
        }
        until_carried(&a, &b, (at.0 + 400, at.1 + 400))?;
        ensure!(a.carried(1) == Some((at.0 + 400, at.1 + 400)), "{at:?} {:?}", a.carried(1));
        // A neighbour's entry that ages meanwhile costs a second at most, by the sockets.
        let (sent, received) = frames(&a);
        ensure!(sent - before.0 >= 200 && received - before.1 >= 200, "{before:?} {:?}", (sent, received));
        ensure!(a.drops(DropCause::Refused) + b.drops(DropCause::Refused) == 0);
        ensure!(a.drops(DropCause::OuterMalformed) + b.drops(DropCause::OuterMalformed) == 0);
    }
    Ok(())
}

#[test]
fn what_is_too_long_for_the_path_and_fragments_go_by_the_sockets() -> Result<()> {
    let net = Net::new()?;
    let (a, b) = framed(&net, false)?;
    until_framed(&net, &a, &b)?;
    // Without DF, and longer than the link carries: the outer packets are fragments, whoever made them.
    let before = a.carried(1).context("an SA")?;
    answered(&net.ping(A, false, &["-c", "20", "-W", "5", "-M", "dont", "-s", "1440"])?)?;
    until_carried(&a, &b, (before.0 + 20, before.1 + 20))
}

#[test]
fn a_neighbour_that_is_not_known_any_more_is_found_again() -> Result<()> {
    let net = Net::new()?;
    let (a, b) = framed(&net, false)?;
    until_framed(&net, &a, &b)?;
    for _ in 0..3 {
        for side in [A, B] {
            run(net.gateway(side), "ip", &["neighbour", "flush", "all"])?;
        }
        answered(&net.ping(A, false, &["-c", "20", "-W", "5"])?)?;
        until_framed(&net, &a, &b)?;
    }
    Ok(())
}

#[test]
fn an_interface_that_goes_down_and_comes_back_is_used_again() -> Result<()> {
    let net = Net::new()?;
    let (a, b) = framed(&net, false)?;
    until_framed(&net, &a, &b)?;
    run(net.gateway(A), "ip", &["link", "set", "wan", "down"])?;
    unanswered(&net.ping(A, false, &["-c", "3", "-W", "1"])?)?;
    run(net.gateway(A), "ip", &["link", "set", "wan", "up"])?;
    until_framed(&net, &a, &b)
}

#[test]
fn the_program_goes_with_its_data_plane() -> Result<()> {
    let net = Net::new()?;
    let links =
        || Ok::<_, anyhow::Error>(stdout(&run(net.gateway(A), "ip", &["-d", "link", "show", "wan"])?));
    let (a, b) = framed(&net, false)?;
    until_framed(&net, &a, &b)?;
    ensure!(links()?.contains("prog/xdp"), "{}", links()?);
    drop((a, b));
    let deadline = Instant::now() + PATIENCE;
    while links()?.contains("prog/xdp") {
        ensure!(Instant::now() < deadline, "{}", links()?);
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[test]
fn esp_for_others_is_forwarded() -> Result<()> {
    let net = Net::new()?;
    let (a, b) = framed(&net, false)?;
    until_framed(&net, &a, &b)?;
    // Host A sends ESP of its own to an address of host B that no policy covers.
    let stranger = IpAddr::from([198, 51, 100, 7]);
    let path = [(net.gateway(A), "wan", B.outer(false)), (net.gateway(B), "lan", B.inner(false, 10))];
    for (gateway, interface, next) in path {
        let mut netlink = gateway.netlink()?;
        let interface = netlink.link(interface)?.index;
        netlink.add_route(&route(false, Some((stranger, 32)), interface, next))?;
    }
    let mut outside = net.host(B).netlink()?;
    let lan = outside.link("lan")?.index;
    outside.add_address(lan, stranger, 32)?;
    let esp = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(50)));
    let mut receiver = net.host(B).run(esp)??;
    receiver.set_read_timeout(Some(PATIENCE))?;
    let payload = b"an SPI, a sequence number, and more";
    let sender = net.host(A).run(esp)??;
    sender.send_to(payload, &SocketAddr::new(stranger, 0).into())?;
    let mut packet = [0; 100];
    let len = receiver.read(&mut packet)?;
    ensure!(packet[20..len] == *payload, "{:?}", &packet[..len]);
    ensure!(b.drops(DropCause::UnknownSpi) == 0);
    Ok(())
}
