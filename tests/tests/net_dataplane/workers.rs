//! Several workers: whichever reads a packet, the one that owns its SA opens or seals it, and no flow loses its order.

use super::*;

/// Both planes, each with its number of workers, and a policy and an SA for each of eight hosts of each side, so that every worker has
/// halves of its own, and halves whose other half is another's.
fn shared(net: &Net, v6: bool, encap: bool, configs: [NetConfig; 2]) -> Result<[Plane; 2]> {
    let mut planes = Vec::new();
    for (side, config) in [A, B].into_iter().zip(configs) {
        let mut plane = net.plane_with(side, &config)?;
        let (mut policies, mut children) = (Vec::new(), Vec::new());
        for host in 0..HOSTS {
            // Each host of ours to all of theirs from there, and from all of ours to each of theirs, would overlap.
            let pair = |side: Side| vec![TrafficSelector::subnet(side.inner(false, 10 + host), 32)];
            let spec = PolicySpec {
                id: PolicyId(100 + u64::from(host)),
                ..policy(side, pair(side), pair(side.other()))
            };
            children.push(spread(child(side, host + 1, v6, encap, &spec), side, host + 1));
            policies.push(spec);
        }
        plane.plane.set_policies(policies)?;
        for one in children {
            plane.plane.install(one)?;
        }
        more_hosts(net, side)?;
        planes.push(plane);
    }
    planes.try_into().map_err(|_| anyhow!("two"))
}

/// The host of a side has the addresses of all.
fn more_hosts(net: &Net, side: Side) -> Result<()> {
    for host in 1..HOSTS {
        let mut netlink = net.host(side).netlink()?;
        let lan = netlink.link("lan")?.index;
        netlink.add_address(lan, side.inner(false, 10 + host), 32)?;
        let mut inside = net.gateway(side).netlink()?;
        let lan = inside.link("lan")?.index;
        let to = Some((side.inner(false, 10 + host), 32));
        inside.add_route(&route(false, to, lan, side.inner(false, 10)))?;
    }
    Ok(())
}

const HOSTS: u8 = 8;

/// SPIs that belong to different workers from one generation to the next.
fn spread(mut install: ChildSaInstall, side: Side, generation: u8) -> ChildSaInstall {
    let spi = |from: Side| Spi(0x5000_0000 + 5 * u32::from(generation) + 2 * u32::from(from.number()));
    (install.inbound.spi, install.outbound.spi) = (spi(side.other()), spi(side));
    install
}

/// Sends numbered datagrams by eight flows for each of the pairs of hosts, and looks at what arrives. However slow the workers are, no
/// more are under way than they have room for.
fn numbered(net: &Net) -> Result<()> {
    const FLOWS: u16 = 8;
    const EACH: u32 = 200;
    const AT_ONCE: u64 = 256;
    let receivers = net.host(B).run(|| {
        let bind = |host| {
            let socket = UdpSocket::bind((B.inner(false, 10 + host), 7000))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20)?;
            Ok::<_, std::io::Error>(socket)
        };
        (0..HOSTS).map(bind).collect::<Result<Vec<_>, _>>()
    })??;
    let senders = net.host(A).run(|| {
        let bind = |(host, flow)| UdpSocket::bind((A.inner(false, 10 + host), 20_000 + flow));
        let all = (0..HOSTS).flat_map(|host| (0..FLOWS).map(move |flow| (host, flow)));
        all.map(bind).collect::<Result<Vec<_>, _>>()
    })??;
    let arrived = AtomicU64::new(0);
    let receive = |host: u16, receiver: UdpSocket| -> Result<()> {
        let mut next = [0; FLOWS as usize];
        for _ in 0..EACH * u32::from(FLOWS) {
            let mut datagram = [0; 1500];
            let (len, from) = receiver.recv_from(&mut datagram).context("a packet is missing")?;
            arrived.fetch_add(1, Ordering::Relaxed);
            let flow = from.port() - 20_000;
            let number = datagram.first_chunk().copied().map(u32::from_be_bytes).context("4 octets")?;
            let next = next.get_mut(usize::from(flow)).context("a stranger")?;
            ensure!(number == *next, "host {host} flow {flow}: {number} instead of {next}");
            ensure!(len == 20 + (number as usize * 37 + usize::from(host * FLOWS + flow)) % 1200, "{len}");
            *next += 1;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let receive = &receive;
        let receiving: Vec<_> = (0..)
            .zip(receivers)
            .map(|(host, receiver)| scope.spawn(move || receive(host, receiver)))
            .collect();
        let mut sent = 0;
        for number in 0..EACH {
            for (index, sender) in senders.iter().enumerate() {
                let host = index as u8 / FLOWS as u8;
                let padding = vec![0; 16 + (number as usize * 37 + index) % 1200];
                let datagram = [&number.to_be_bytes()[..], &padding].concat();
                sender.send_to(&datagram, (B.inner(false, 10 + host), 7000))?;
                sent += 1;
            }
            until("what is under way to arrive", || sent - arrived.load(Ordering::Relaxed) <= AT_ONCE)?;
        }
        receiving.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow!("a panic"))?)
    })
    .with_context(|| format!("{arrived:?} arrived"))
}

#[test]
fn every_flow_arrives_whole_and_in_order_whoever_reads_it() -> Result<()> {
    for (v6, encap, workers) in
        [(false, true, 2), (false, true, 5), (true, true, 3), (false, false, 3), (true, false, 2)]
    {
        let net = Net::new()?;
        let config = NetConfig { workers, offload: net.offload, ..NetConfig::default() };
        let [a, b] = shared(&net, v6, encap, [config.clone(), config])?;
        numbered(&net).with_context(|| {
            format!("v6 {v6} encap {encap} workers {workers}: {:?} {:?}", a.plane.stats(), b.plane.stats())
        })?;
        for host in 0..HOSTS {
            a.carries(u64::from(host) + 1, (1600, 0))?;
            b.carries(u64::from(host) + 1, (0, 1600))?;
        }
        let nothing = |plane: &Plane| {
            let kernels = |cause: &DropCause| matches!(cause, DropCause::NoPolicy | DropCause::NoSource);
            DropCause::ALL.iter().all(|cause| kernels(cause) || plane.drops(*cause) == 0)
        };
        ensure!(nothing(&a) && nothing(&b), "{:?} {:?}", a.plane.stats(), b.plane.stats());
    }
    Ok(())
}

/// A card joins datagrams of equal length between two ports, and asks nobody for their SPIs: those of several SAs, which belong to
/// several workers, come to one.
#[test]
fn datagrams_of_several_sas_that_were_joined_on_the_way_reach_their_workers() -> Result<()> {
    const ROUNDS: u64 = 400;
    let net = Net::new()?;
    // What comes waits for others, as it does behind a card. It does not from a device that would have joined it itself.
    const WAIT: &str = "ethtool -K wan gro on && mount -t sysfs none /sys \
        && echo 1000000 >/sys/class/net/wan/gro_flush_timeout";
    for (side, set) in [(A, "ethtool -K wan tso off"), (B, WAIT)] {
        let set = || Command::new("unshare").args(["-m", "sh", "-c", set]).output();
        let set = net.gateway(side).run(set)??;
        ensure!(set.status.success(), "{set:?}");
    }
    let config = |workers, offload| NetConfig { workers, offload, ..NetConfig::default() };
    let [a, b] = shared(&net, false, true, [config(1, false), config(3, true)])?;
    let receivers = net.host(B).run(|| {
        let bind = |host| UdpSocket::bind((B.inner(false, 10 + host), 7000));
        (0..HOSTS).map(bind).collect::<Result<Vec<_>, _>>()
    })??;
    let senders = net.host(A).run(|| {
        let bind = |host| UdpSocket::bind((A.inner(false, 10 + host), 20_000));
        (0..HOSTS).map(bind).collect::<Result<Vec<_>, _>>()
    })??;
    for round in 0..ROUNDS {
        for (host, sender) in (0..).zip(&senders) {
            sender.send_to(&[host; 300], (B.inner(false, 10 + host), 7000))?;
        }
        if round % 8 == 7 {
            for receiver in &receivers {
                receiver.set_read_timeout(Some(Duration::from_secs(2)))?;
                for _ in 0..8 {
                    receiver.recv(&mut [0; 400]).with_context(|| format!("{:?}", b.plane.stats()))?;
                }
            }
        }
    }
    for host in 0..HOSTS {
        a.carries(u64::from(host) + 1, (ROUNDS, 0))?;
        b.carries(u64::from(host) + 1, (0, ROUNDS))?;
    }
    Ok(())
}

/// RFC 9611: one policy, an SA for all workers, and one for each of those with their own. Who has none hands over; without the SA
/// for all whichever there is serves.
#[test]
fn workers_with_sas_of_their_own_keep_every_flow_in_order() -> Result<()> {
    const FIRST: u8 = 100;
    for (workers, owners, with_first) in
        [(2, 0..2, true), (5, 0..5, true), (4, 1..3, true), (1, 0..3, true), (3, 1..2, false)]
    {
        let net = Net::new()?;
        let mut planes = Vec::new();
        for side in [A, B] {
            let offload = net.offload;
            let mut plane = net.plane_with(side, &NetConfig { workers, offload, ..NetConfig::default() })?;
            let policy = PolicySpec { spread: true, ..networks_policy(side) };
            plane.plane.set_policies(vec![policy.clone()])?;
            for own in owners.clone() {
                let one = spread(child(side, own, false, true, &policy), side, own);
                plane.plane.install(ChildSaInstall {
                    worker: Some(own.into()),
                    id: ChildId(own.into()),
                    ..one
                })?;
            }
            plane.plane.install(child(side, FIRST, false, true, &policy))?;
            if !with_first {
                plane.plane.remove(ChildId(FIRST.into()));
            }
            more_hosts(&net, side)?;
            planes.push(plane);
        }
        let [a, b] = &planes[..] else { bail!("two") };
        let carried = |plane: &Plane| -> Vec<_> {
            owners.clone().chain([FIRST]).map(|id| plane.carried(id.into())).collect()
        };
        let about = || {
            format!(
                "{workers} workers, {owners:?}: {:?} {:?} {:?} {:?}",
                carried(a),
                carried(b),
                a.plane.stats(),
                b.plane.stats()
            )
        };
        numbered(&net).with_context(about)?;
        let first = || a.carried(FIRST.into()).map_or(0, |(out, _)| out);
        let own =
            || -> Vec<u64> { owners.clone().filter_map(|own| Some(a.carried(own.into())?.0)).collect() };
        until("all that has left to be counted", || own().iter().sum::<u64>() + first() == 8 * 1600)
            .with_context(about)?;
        let (own, first) = (own(), first());
        let all_have = owners.len() >= workers;
        ensure!((first == 0) == (all_have || !with_first), "{own:?} {first} {}", about());
        if workers > 1 {
            ensure!(own.iter().all(|packets| *packets > 0), "{own:?} {first} {}", about());
        }
        let nothing = |plane: &Plane| {
            let kernels = |cause: &DropCause| matches!(cause, DropCause::NoPolicy | DropCause::NoSource);
            DropCause::ALL.iter().all(|cause| kernels(cause) || plane.drops(*cause) == 0)
        };
        ensure!(nothing(a) && nothing(b), "{}", about());
    }
    Ok(())
}

#[test]
fn the_peers_first_packet_switches_an_outbound_half_that_another_worker_has() -> Result<()> {
    for workers in [2, 3, 4] {
        let net = Net::new()?;
        let mut planes = Vec::new();
        for side in [A, B] {
            let mut plane = net.plane_with(side, &NetConfig { workers, ..NetConfig::default() })?;
            let policy = networks_policy(side);
            plane.plane.set_policies(vec![policy.clone()])?;
            // Over several generations the SPIs lead to every worker, while the policy stays with one.
            for generation in 1..=6 {
                let active = side == A || generation == 1;
                let one = spread(child(side, generation, false, true, &policy), side, generation);
                plane.plane.install(ChildSaInstall { active, ..one })?;
            }
            planes.push(plane);
        }
        let ping = || answered(&net.ping(A, false, &["-c", "1", "-W", "5"])?);
        for generation in (1..=6).rev() {
            // A sends on its newest. B answers there as soon as it has seen that.
            ping()?;
            ping()?;
            let (out, _) = planes[1].carried(generation).context("an SA")?;
            ensure!(out >= 1, "{workers} workers, generation {generation}: B did not switch");
            for plane in &mut planes {
                plane.plane.remove(ChildId(generation));
            }
        }
    }
    Ok(())
}

#[test]
fn fragments_find_their_policy_by_the_ports_of_the_first() -> Result<()> {
    let net = Net::new()?;
    let mut planes = Vec::new();
    for side in [A, B] {
        let mut plane = net.plane_with(side, &NetConfig { workers: 3, ..NetConfig::default() })?;
        let port = |side: Side| {
            let mut selector = TrafficSelector::subnet(side.inner(false, 10), 32);
            selector.protocol = 17;
            (selector.start_port, selector.end_port) = if side == B { (7000, 7000) } else { (0, u16::MAX) };
            vec![selector]
        };
        let mut policies = Vec::new();
        for (number, local, remote) in
            [(1, port(side), port(side.other())), (2, side.networks(), side.other().networks())]
        {
            let spec = PolicySpec { id: PolicyId(number), ..policy(side, local, remote) };
            plane.plane.install(spread(child(side, number as u8, false, true, &spec), side, number as u8))?;
            policies.push(spec);
        }
        plane.plane.set_policies(policies)?;
        planes.push(plane);
    }
    let receiver = net.host(B).run(|| UdpSocket::bind((B.inner(false, 10), 7000)))??;
    receiver.set_read_timeout(Some(PATIENCE))?;
    let text: Vec<u8> = (0..6000_u32).map(|i| (i % 251) as u8).collect();
    for flow in 0..30 {
        let sender = net.host(A).run(|| UdpSocket::bind((A.inner(false, 10), 30_000 + flow)))??;
        sender.send_to(&text, (B.inner(false, 10), 7000))?;
        let mut all = vec![0; 7000];
        let len = receiver.recv(&mut all)?;
        ensure!(all[..len] == text, "flow {flow}: {len} octets");
    }
    // All of it by the first, which is for that port alone. What has left is counted a moment later.
    let carried = |id| planes[0].carried(id).map(|(out, _)| out);
    until("all fragments to be counted", || carried(1).is_some_and(|out| out >= 150))?;
    ensure!(carried(2) == Some(0), "{:?}", carried(2));
    Ok(())
}
