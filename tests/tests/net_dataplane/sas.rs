//! The life of SAs: which one carries a packet, and what it may still carry.

use super::*;

#[test]
fn the_newest_sa_carries_and_removal_closes() -> Result<()> {
    let net = Net::new()?;
    let (mut a, mut b) = tunnel(&net, false, true)?;
    let once = ["-c", "1", "-W", "5"];
    // The responder's new SA is there before the initiator uses it.
    b.plane.install(child(B, 2, false, true, &networks_policy(B)))?;
    a.plane.install(child(A, 2, false, true, &networks_policy(A)))?;
    answered(&net.ping(A, false, &once)?)?;
    a.carries(1, (0, 0))?;
    a.carries(2, (1, 1))?;
    // One that is narrower than its policy carries what it may, and leaves the rest to the others.
    for (side, plane) in [(A, &mut a), (B, &mut b)] {
        let v6_only =
            |networks: Vec<TrafficSelector>| networks.into_iter().filter(|n| n.start.is_ipv6()).collect();
        let narrow = policy(side, v6_only(side.networks()), v6_only(side.other().networks()));
        plane.plane.install(child(side, 3, false, true, &narrow))?;
    }
    answered(&net.ping(A, false, &once)?)?;
    answered(&net.ping(A, true, &once)?)?;
    a.carries(2, (2, 2))?;
    a.carries(3, (1, 1))?;

    ensure!(a.plane.install(child(A, 3, false, true, &networks_policy(A))).is_err(), "the id is in use");
    let twice = ChildSaInstall { id: ChildId(9), ..child(A, 3, false, true, &networks_policy(A)) };
    ensure!(a.plane.install(twice).is_err(), "the SPI is in use");

    a.plane.remove(ChildId(3));
    a.plane.remove(ChildId(2));
    a.carries(1, (0, 0))?;
    ensure!(a.carried(2).is_none());
    unanswered(&net.ping(A, false, &["-c", "1", "-W", "1"])?)?;
    a.carries(1, (1, 0)).context("the question left on what remains")?;
    let answer =
        NetEvent::UnknownSpi { spi: Spi(0xadad_0202), remote: SocketAddr::new(B.outer(false), 4500) };
    ensure!(a.event()? == answer, "the answer came on an SA that is gone");
    b.plane.remove(ChildId(2));
    answered(&net.ping(A, false, &once)?)?;
    Ok(())
}

const ONCE: [&str; 4] = ["-c", "1", "-W", "5"];
const HOPELESS: [&str; 4] = ["-c", "1", "-W", "1"];

fn standby(install: ChildSaInstall) -> ChildSaInstall {
    ChildSaInstall { active: false, ..install }
}

#[test]
fn a_standby_sa_waits_for_an_order_or_for_the_peer() -> Result<()> {
    let net = Net::new()?;
    let (mut a, mut b) = tunnel(&net, false, true)?;
    b.plane.install(standby(child(B, 2, false, true, &networks_policy(B))))?;
    // What is not authentic shows nothing.
    let socket = net.gateway(A).run(|| UdpSocket::bind((A.outer(false), 40_000)))??;
    let mut forged = vec![0xa5; 100];
    forged.splice(..8, [0xad, 0xad, 2, 1, 0, 0, 0, 1]);
    socket.send_to(&forged, (B.outer(false), 4500))?;
    answered(&net.ping(B, false, &ONCE)?)?;
    ensure!(b.drops(DropCause::Refused) == 1, "{:?}", b.plane.stats());
    b.carries(1, (1, 1)).context("on the old SA")?;
    b.carries(2, (0, 0)).context("on the old SA")?;

    a.plane.install(child(A, 2, false, true, &networks_policy(A)))?;
    answered(&net.ping(A, false, &ONCE)?)?;
    answered(&net.ping(B, false, &ONCE)?)?;
    b.carries(1, (1, 1)).context("the peer's first packet decides")?;
    b.carries(2, (2, 2)).context("the peer's first packet decides")?;

    // By order; of several the one that became active last, and asking twice changes nothing.
    for side in [B, A] {
        let plane = if side == A { &mut a } else { &mut b };
        plane.plane.install(standby(child(side, 3, false, true, &networks_policy(side))))?;
    }
    answered(&net.ping(A, false, &ONCE)?)?;
    a.carries(2, (3, 3)).context("nobody has begun")?;
    a.carries(3, (0, 0)).context("nobody has begun")?;
    a.plane.switch(ChildId(3));
    a.plane.switch(ChildId(2));
    answered(&net.ping(A, false, &ONCE)?)?;
    a.carries(2, (3, 3))?;
    a.carries(3, (1, 1))?;
    Ok(())
}

#[test]
fn a_retired_sa_sends_nothing_and_goes_on_receiving() -> Result<()> {
    let net = Net::new()?;
    let (mut a, mut b) = tunnel(&net, false, false)?;
    b.plane.install(standby(child(B, 2, false, false, &networks_policy(B))))?;
    a.plane.install(child(A, 2, false, false, &networks_policy(A)))?;
    a.plane.retire(ChildId(1));
    // The other side still sends on the old one.
    let question = net.host(B).run(|| UdpSocket::bind((B.inner(false, 10), 7)))??;
    let answer = net.host(A).run(|| UdpSocket::bind((A.inner(false, 10), 7)))??;
    for socket in [&question, &answer] {
        socket.set_read_timeout(Some(PATIENCE))?;
    }
    question.send_to(b"old", (A.inner(false, 10), 7))?;
    let mut text = [0; 9];
    ensure!(answer.recv(&mut text)? == 3);
    a.carries(1, (0, 1))?;
    a.carries(2, (0, 0))?;
    answer.send_to(b"new", (B.inner(false, 10), 7))?;
    ensure!(question.recv(&mut text)? == 3);
    a.carries(1, (0, 1))?;
    a.carries(2, (1, 0))?;

    // One that was in use gives way to the next that is active; retired is for ever.
    a.plane.install(child(A, 3, false, false, &networks_policy(A)))?;
    a.plane.retire(ChildId(3));
    a.plane.switch(ChildId(3));
    answered(&net.ping(A, false, &ONCE)?)?;
    a.carries(3, (0, 0))?;
    a.carries(2, (2, 1))?;
    a.plane.retire(ChildId(2));
    let dropped = a.drops(DropCause::NoSa);
    unanswered(&net.ping(A, false, &HOPELESS)?)?;
    ensure!(a.drops(DropCause::NoSa) == dropped + 1, "{:?}", a.plane.stats());
    // Standby ones never begin either.
    b.plane.install(standby(child(B, 3, false, false, &networks_policy(B))))?;
    b.plane.retire(ChildId(3));
    a.plane.install(child(A, 4, false, false, &networks_policy(A)))?;
    b.plane.install(child(B, 4, false, false, &networks_policy(B)))?;
    answered(&net.ping(A, false, &ONCE)?)?;
    b.carries(3, (0, 0))?;
    b.carries(4, (1, 1))?;
    Ok(())
}

#[test]
fn twelve_rekeyings_lose_nothing_and_repeat_nothing() -> Result<()> {
    let net = Net::new()?;
    let (mut a, mut b) = tunnel(&net, false, true)?;
    let sockets = |side: Side| -> Result<UdpSocket> {
        let socket = net.host(side).run(|| UdpSocket::bind((side.inner(false, 10), 7)))??;
        socket.connect((side.other().inner(false, 10), 7))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(socket)
    };
    let (near, far) = (sockets(A)?, sockets(B)?);
    let (sending, done) = (AtomicBool::new(true), AtomicBool::new(false));
    let received = [AtomicU64::new(0), AtomicU64::new(0)];
    let send = |socket: &UdpSocket| -> Result<u64> {
        for number in 0_u64.. {
            if !sending.load(Ordering::Relaxed) {
                return Ok(number);
            }
            socket.send(&number.to_be_bytes())?;
            std::thread::sleep(Duration::from_micros(500));
        }
        bail!("endless")
    };
    let receive = |socket: &UdpSocket, count: &AtomicU64| -> Result<Vec<u64>> {
        let mut numbers = Vec::new();
        let mut octets = [0; 9];
        loop {
            match socket.recv(&mut octets) {
                Ok(len) => {
                    ensure!(len == 8);
                    numbers.push(u64::from_be_bytes(*octets.first_chunk().context("8")?));
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) if done.load(Ordering::Relaxed) => return Ok(numbers),
                Err(_) => {}
            }
        }
    };
    std::thread::scope(|scope| -> Result<()> {
        let sends = [scope.spawn(|| send(&near)), scope.spawn(|| send(&far))];
        let receives =
            [scope.spawn(|| receive(&far, &received[0])), scope.spawn(|| receive(&near, &received[1]))];
        let rekeyed = (|| -> Result<()> {
            for new in 2..=13 {
                rekey(&mut a, &mut b, new)?;
                // Some packets on each.
                let before = b.carried(new.into()).context("counters")?;
                until("packets flow", || {
                    b.carried(new.into()).is_some_and(|now| now.0 > before.0 + 20 && now.1 > before.1 + 20)
                })?;
            }
            Ok(())
        })();
        sending.store(false, Ordering::Relaxed);
        let sent = sends.map(|thread| thread.join().map_err(|_| anyhow!("panicked")));
        let sent = sent.into_iter().map(|sent| sent?).collect::<Result<Vec<u64>>>();
        if let Ok(sent) = &sent {
            let arrived = || (0..2).all(|way| received[way].load(Ordering::Relaxed) >= sent[way]);
            // What is missing then is told below.
            let _ = until("all arrive", arrived);
        }
        done.store(true, Ordering::Relaxed);
        let received = receives.map(|thread| thread.join().map_err(|_| anyhow!("panicked")));
        rekeyed?;
        let sent = sent?;
        for (way, received) in received.into_iter().enumerate() {
            let mut received = received??;
            ensure!(sent[way] > 12 * 20, "{} packets are not enough to tell", sent[way]);
            received.sort_unstable();
            ensure!(
                received.iter().copied().eq(0..sent[way]),
                "way {way}: {} sent, {} received; A {:?} B {:?}",
                sent[way],
                received.len(),
                a.plane.stats(),
                b.plane.stats()
            );
        }
        Ok(())
    })
}

/// As IKE does when A rekeys (RFC 7296 2.8): the responder makes its half ready, the initiator begins, and the old SA
/// goes when it has drained.
fn rekey(a: &mut Plane, b: &mut Plane, new: u8) -> Result<()> {
    let old = u64::from(new - 1);
    b.plane.install(standby(child(B, new, false, true, &networks_policy(B))))?;
    // The response is on its way, and traffic is not waiting for it.
    let before = b.carried(old).context("counters")?.0;
    until("the old SA goes on", || b.carried(old).is_some_and(|(out, _)| out > before + 3))?;
    a.plane.install(child(A, new, false, true, &networks_policy(A)))?;
    a.plane.retire(ChildId(old));
    until("the responder changes over", || b.carried(new.into()).is_some_and(|(out, _)| out > 0))?;
    b.plane.retire(ChildId(old));
    let drained = || {
        let (a, b) = (a.carried(old), b.carried(old));
        a == b.map(|(out, arrived)| (arrived, out))
    };
    until("the old SA drains", drained)?;
    a.plane.remove(ChildId(old));
    b.plane.remove(ChildId(old));
    Ok(())
}

#[test]
fn an_sa_moves_to_other_addresses_in_place() -> Result<()> {
    let net = Net::new()?;
    let (mut a, mut b) = tunnel(&net, false, true)?;
    let nat_t = Some(UdpEncap { local_port: 4500, remote_port: 4500 });
    let mut carried = 0;
    let mut capture = net.capture(A)?;
    for (v6, encap) in [(false, None), (true, nat_t), (true, None), (false, nat_t)] {
        for side in [A, B] {
            let plane = if side == A { &mut a } else { &mut b };
            plane.plane.relocate(ChildId(1), side.outer(v6), side.other().outer(v6), encap)?;
        }
        passed(&mut capture)?;
        answered(&net.ping(A, true, &["-c", "3", "-W", "5"])?)?;
        carried += 3;
        let protocol = if encap.is_some() { 17 } else { 50 };
        let moved = passed(&mut capture)?;
        let count = moved.iter().filter(|one| (one.protocol, one.source.is_ipv6()) == (protocol, v6)).count();
        ensure!(count == 6, "v6 {v6} encap {encap:?}: {moved:?}");
        a.carries(1, (carried, carried)).context("counters go on")?;
    }
    a.no_event()?;
    // What cannot be sent from changes nothing.
    let wrong_port = Some(UdpEncap { local_port: 4501, remote_port: 4500 });
    ensure!(a.plane.relocate(ChildId(1), A.outer(false), B.outer(false), wrong_port).is_err());
    ensure!(a.plane.relocate(ChildId(1), A.outer(false), B.outer(true), nat_t).is_err());
    answered(&net.ping(A, true, &ONCE)?)?;
    // A standby one moves as well.
    b.plane.install(standby(child(B, 2, false, true, &networks_policy(B))))?;
    b.plane.relocate(ChildId(2), B.outer(true), A.outer(true), None)?;
    a.plane.install(child(A, 2, true, false, &networks_policy(A)))?;
    answered(&net.ping(A, true, &ONCE)?)?;
    b.carries(2, (1, 1))?;
    b.no_event()
}

#[test]
fn limits_are_told_once_and_end_the_sa_exactly() -> Result<()> {
    // A ping of 56 octets is 84 with its headers.
    let packets = Limits { soft_packets: Some(3), hard_packets: Some(5), ..Limits::default() };
    let bytes = Limits { soft_bytes: Some(3 * 84), hard_bytes: Some(6 * 84 - 1), ..Limits::default() };
    for limits in [packets, bytes] {
        for limited in [A, B] {
            let net = Net::new()?;
            let mut planes = Vec::new();
            for side in [A, B] {
                let mut plane = net.plane(side)?;
                let policy = networks_policy(side);
                let limits = if side == limited { limits } else { Limits::default() };
                plane.plane.install(ChildSaInstall { limits, ..child(side, 1, false, true, &policy) })?;
                plane.plane.set_policies(vec![policy])?;
                planes.push(plane);
            }
            let plane = &planes[usize::from(limited == B)];
            for number in 1..=5 {
                answered(&net.ping(A, false, &ONCE)?).with_context(|| format!("ping {number}"))?;
                if number == 3 {
                    ensure!(plane.event()? == NetEvent::LimitSoon { id: ChildId(1) });
                }
                if number < 5 {
                    plane.no_event()?;
                }
            }
            unanswered(&net.ping(A, false, &["-c", "3", "-W", "1"])?)?;
            ensure!(plane.event()? == NetEvent::LimitReached { id: ChildId(1) }, "{limits:?}");
            plane.no_event()?;
            plane.carries(1, (5, 5)).with_context(|| format!("{limits:?}"))?;
            // Of the sender the packets find no SA any more; the receiver opens none.
            let cause = if limited == A { DropCause::NoSa } else { DropCause::Limit };
            ensure!(plane.drops(cause) == 3, "{limited:?} {:?}", plane.plane.stats());
        }
    }
    Ok(())
}

#[test]
fn only_the_newest_authentic_packet_tells_where_the_peer_is() -> Result<()> {
    for v6 in [false, true] {
        let net = Net::new()?;
        let mut a = net.plane(A)?;
        a.plane.set_policies(vec![networks_policy(A)])?;
        a.plane.install(child(A, 1, v6, true, &networks_policy(A)))?;
        // The other side is made of bare sockets, so that it can do what no data plane would.
        let mut sa = OutboundSa::new(child(B, 1, v6, true, &networks_policy(B)).outbound)?;
        let mut seal = || -> Result<Vec<u8>> {
            let mut esp = Vec::new();
            sa.seal_dummy(20, &mut esp)?;
            Ok(esp)
        };
        let socket = |port| net.gateway(B).run(move || UdpSocket::bind((B.outer(v6), port)));
        let (home, away, further) = (socket(4500)??, socket(40_000)??, socket(40_001)??);
        let to = SocketAddr::new(A.outer(v6), 4500);
        let moved = |port| NetEvent::PeerMoved {
            id: ChildId(1),
            local: to,
            remote: SocketAddr::new(B.outer(v6), port),
        };
        let marker = |a: &Plane| -> Result<()> {
            home.send_to(&[9, 9, 9, 9, 0, 0, 0, 1], to)?;
            let event = a.event()?;
            ensure!(matches!(event, NetEvent::UnknownSpi { .. }), "{event:?}");
            Ok(())
        };
        let (first, late, newest) = (seal()?, seal()?, seal()?);
        home.send_to(&first, to)?;
        home.send_to(&newest, to)?;
        // Replayed, late, and forged.
        away.send_to(&newest, to)?;
        away.send_to(&late, to)?;
        let mut forged = seal()?;
        if let Some(last) = forged.last_mut() {
            *last ^= 1;
        }
        away.send_to(&forged, to)?;
        marker(&a)?;
        let counters = a.plane.counters(ChildId(1)).context("counters")?;
        let drops: Vec<_> = counters.drops.into_iter().filter(|(_, count)| *count > 0).collect();
        ensure!(drops == [(adit_esp::Drop::Replayed, 1), (adit_esp::Drop::Authentication, 1)], "{drops:?}");

        away.send_to(&seal()?, to)?;
        ensure!(a.event()? == moved(40_000));
        away.send_to(&seal()?, to)?;
        marker(&a)?;
        // A new place again, once it is not too soon.
        let deadline = Instant::now() + PATIENCE;
        while a.events.try_recv().ok() != Some(moved(40_001)) {
            ensure!(Instant::now() < deadline, "no event");
            further.send_to(&seal()?, to)?;
            std::thread::sleep(Duration::from_millis(5));
        }
        // Once we send there it is home.
        let encap = Some(UdpEncap { local_port: 4500, remote_port: 40_001 });
        a.plane.relocate(ChildId(1), A.outer(v6), B.outer(v6), encap)?;
        further.send_to(&seal()?, to)?;
        marker(&a)?;
    }
    Ok(())
}

#[test]
fn the_first_packets_wait_for_the_sa_they_ask_for() -> Result<()> {
    let net = Net::new()?;
    let trap = |side| PolicySpec { trap: true, ..networks_policy(side) };
    let (mut a, mut b) = (net.plane(A)?, net.plane(B)?);
    a.plane.set_policies(vec![trap(A)])?;
    b.plane.set_policies(vec![trap(B)])?;
    let socket = |side: Side, v6| -> Result<UdpSocket> {
        let socket = net.host(side).run(|| UdpSocket::bind((side.inner(v6, 10), 7)))??;
        socket.connect((side.other().inner(v6, 10), 7))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    };
    let (near, far) = (socket(A, false)?, socket(B, false)?);
    let (near6, far6) = (socket(A, true)?, socket(B, true)?);
    let arrive = |socket: &UdpSocket, expected: std::ops::Range<u8>| -> Result<()> {
        for number in expected {
            let mut octets = [0; 2];
            ensure!(socket.recv(&mut octets).with_context(|| format!("{number}"))? == 1);
            ensure!(octets[0] == number, "{} came when it was {number}'s turn", octets[0]);
        }
        Ok(())
    };
    // More than may wait; one of another family before them.
    near6.send(&[0])?;
    ensure!(a.event()? == NetEvent::Acquire { policy: PolicyId(7) });
    for number in 0..100 {
        near.send(&[number])?;
    }
    until("surplus is dropped", || a.drops(DropCause::NoSa) == 37)?;
    b.plane.install(child(B, 1, false, true, &networks_policy(B)))?;
    let v4_only =
        |networks: Vec<TrafficSelector>| networks.into_iter().filter(|n| n.start.is_ipv4()).collect();
    let narrow = policy(A, v4_only(A.networks()), v4_only(B.networks()));
    a.plane.install(standby(child(A, 1, false, true, &narrow)))?;
    a.carries(1, (0, 0)).context("not yet")?;
    a.plane.switch(ChildId(1));
    near.send(&[63])?;
    arrive(&far, 0..64)?;
    // What the narrow one does not carry waits on.
    b.plane.install(child(B, 2, false, true, &networks_policy(B)))?;
    a.plane.install(child(A, 2, false, true, &networks_policy(A)))?;
    arrive(&far6, 0..1)?;
    ensure!(a.drops(DropCause::NoSa) == 37, "{:?}", a.plane.stats());

    // The peer's first packet makes an SA active, and what waited goes at once.
    for id in [1, 2] {
        b.plane.retire(ChildId(id));
    }
    far.send(&[0])?;
    ensure!(b.event()? == NetEvent::Acquire { policy: PolicyId(7) });
    b.plane.install(standby(child(B, 3, false, true, &networks_policy(B))))?;
    a.plane.install(child(A, 3, false, true, &networks_policy(A)))?;
    near.send(&[0])?;
    arrive(&far, 0..1)?;
    arrive(&near, 0..1)?;
    b.carries(3, (1, 1))?;

    // It asks again, but not for every packet.
    a.events.try_iter().for_each(drop);
    for id in 1..=3 {
        a.plane.retire(ChildId(id));
    }
    let start = Instant::now();
    let mut asked = 0;
    while asked < 3 {
        ensure!(start.elapsed() < PATIENCE, "it does not ask again");
        near.send(&[0])?;
        asked += a.events.try_iter().filter(|event| matches!(event, NetEvent::Acquire { .. })).count();
        std::thread::sleep(Duration::from_millis(5));
    }
    ensure!(start.elapsed() >= Duration::from_secs(2), "{:?} for three", start.elapsed());
    Ok(())
}

#[test]
fn policies_that_overlap_do_not_hide_each_others_sas() -> Result<()> {
    let net = Net::new()?;
    let mut planes = Vec::new();
    for side in [A, B] {
        let mut plane = net.plane(side)?;
        // Two children that share a network, and have another each.
        let other = |n: u8| TrafficSelector::subnet(IpAddr::from([10, 77, n, 0]), 24);
        let mut specs = Vec::new();
        for n in [1, 2] {
            let both = policy(side, side.networks(), side.other().networks());
            let mut spec = PolicySpec { id: PolicyId(n.into()), ..both };
            if side == A { &mut spec.remote_ts } else { &mut spec.local_ts }.push(other(n));
            specs.push(spec);
        }
        plane.plane.set_policies(specs.clone())?;
        plane.plane.install(child(side, 2, false, true, &specs[1]))?;
        planes.push(plane);
    }
    answered(&net.ping(A, false, &ONCE)?).context("the second child's SA carries what both share")?;
    answered(&net.ping(B, true, &ONCE)?)?;
    planes[0].carries(2, (2, 2))?;
    Ok(())
}

#[test]
fn what_the_kernel_drops_in_front_of_the_worker_is_counted() -> Result<()> {
    let net = Net::new()?;
    let (a, _b) = tunnel(&net, false, true)?;
    let mut netlink = net.gateway(A).netlink()?;
    let tun = netlink.link(&NetConfig::default().tun_name)?.index;
    netlink.set_queue_length(tun, 1)?;
    let sender = net.gateway(A).run(|| UdpSocket::bind((A.inner(false, 1), 0)))??;
    let mut sent = 0;
    until("the queue to be full", || {
        for _ in 0..1000 {
            sent += u64::from(sender.send_to(&[7; 100], (B.inner(false, 10), 7000)).is_ok());
        }
        a.drops(DropCause::NotRead) > 0
    })?;
    let accounted = || a.carried(1).map_or(0, |(out, _)| out) + a.drops(DropCause::NotRead);
    until("every packet to be carried or counted", || accounted() == sent)
}
