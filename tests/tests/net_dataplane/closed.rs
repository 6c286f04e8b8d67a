//! What is protected stays closed: nothing in the clear, whatever happens to the daemon, and nothing else in the way.

use super::*;
use adit_esp::Action;

#[test]
fn adversarial_58_nothing_leaves_or_enters_in_the_clear() -> Result<()> {
    let net = Net::new()?;
    net.route_in_the_clear(A)?;
    net.route_in_the_clear(B)?;
    let once = [&["-c", "1", "-W", "5"], &PATTERN[..]].concat();
    let hopeless = [&["-c", "3", "-W", "1"], &PATTERN[..]].concat();
    for v6 in [false, true] {
        answered(&net.ping(A, v6, &once)?)
            .context("without a data plane the networks are joined in the clear")?;
    }

    let mut a = net.plane(A)?;
    a.plane.set_policies(vec![networks_policy(A)])?;
    let mut capture = net.capture(A)?;
    for v6 in [false, true] {
        unanswered(&net.ping(A, v6, &hopeless)?)?;
    }
    nothing_inner(&passed(&mut capture)?)?;
    ensure!(a.drops(DropCause::NoSa) == 6, "{:?}", a.plane.stats());

    // The other gateway knows nothing of a tunnel and sends in the clear: that is not let in.
    let mut lan = net.host(A).run(|| Capture::open("lan"))??;
    for v6 in [false, true] {
        unanswered(&net.ping(B, v6, &hopeless)?)?;
        unanswered(&ping(net.host(B), A.inner(v6, 1), &hopeless)?).context("to the gateway itself")?;
    }
    let stats = a.plane.stats();
    ensure!(stats.fenced_in == 12, "{stats:?}");
    let let_in =
        passed(&mut lan)?.iter().filter(|one| one.source == B.inner(one.source.is_ipv6(), 10)).count();
    ensure!(let_in == 0, "{let_in} packets in the clear were let in");

    // Even if someone routes around the tunnel.
    for family in ["-4", "-6"] {
        let rule = [family, "rule", "add", "priority", "100", "lookup", "main"];
        answered(&run(net.gateway(A), "ip", &rule)?)?;
    }
    for v6 in [false, true] {
        unanswered(&net.ping(A, v6, &hopeless)?)?;
        unanswered(&ping(
            net.gateway(A),
            B.inner(v6, 10),
            &["-c", "2", "-W", "1", "-I", &A.inner(v6, 1).to_string()],
        )?)?;
    }
    let stats = a.plane.stats();
    ensure!(stats.fenced_out == 10, "{stats:?}");
    let out: Vec<_> = passed(&mut capture)?
        .into_iter()
        .filter(|one| one.source == A.inner(one.source.is_ipv6(), 10))
        .collect();
    ensure!(out.is_empty(), "in the clear: {out:?}");
    Ok(())
}

/// RFC 4301 5.2: what a policy discards is so as well where a peer sends it on an SA that may carry more; whole or in fragments, to
/// hosts or to the gateway.
#[test]
fn what_is_discarded_does_not_arrive_on_an_sa() -> Result<()> {
    let net = Net::new()?;
    let (mut a, b) = tunnel(&net, false, true)?;
    let port = |all: TrafficSelector| TrafficSelector { protocol: 17, start_port: 701, end_port: 701, ..all };
    let discarded = PolicySpec {
        id: PolicyId(8),
        action: Action::Discard,
        ..policy(A, A.networks().into_iter().map(port).collect(), B.networks())
    };
    a.plane.set_policies(vec![networks_policy(A), discarded])?;
    let mut fenced = 0;
    for v6 in [false, true] {
        for (namespace, host) in [(net.host(A), 10), (net.gateway(A), 1)] {
            let bind = |namespace: &Namespace, address, port| -> Result<UdpSocket> {
                let socket = namespace.run(|| UdpSocket::bind((address, port)))??;
                socket.set_read_timeout(Some(PATIENCE))?;
                Ok(socket)
            };
            let open = bind(namespace, A.inner(v6, host), 700)?;
            let closed = bind(namespace, A.inner(v6, host), 701)?;
            let sender = bind(net.host(B), B.inner(v6, 10), 0)?;
            // So that it knows how long fragments may be.
            arrives(&sender, &open, &[0; 3000])?;
            open.set_read_timeout(Some(PATIENCE))?;
            for len in [10, 3000] {
                sender.send_to(&vec![1; len], closed.local_addr()?)?;
                sender.send_to(&vec![2; len], open.local_addr()?)?;
                // They keep their order.
                let mut buffer = [0; 4000];
                ensure!(open.recv(&mut buffer)? == len);
                fenced += 1;
                ensure!(a.plane.stats().fenced_in == fenced, "{:?}", a.plane.stats());
            }
            closed.set_nonblocking(true)?;
            ensure!(closed.recv(&mut [0; 10]).is_err(), "v6 {v6} {host}: delivered");
        }
    }
    drop(b);
    Ok(())
}

#[test]
fn an_orderly_end_restores_the_system() -> Result<()> {
    let net = Net::new()?;
    let before = system(net.gateway(A))?;
    let (a, b) = tunnel(&net, false, false)?;
    let during = system(net.gateway(A))?;
    for part in [
        "from all fwmark 0xdc goto 224",
        "from 10.1.0.0/16 lookup 220",
        "from fd00:1::/64 lookup 220",
        "lookup 220",
        "10.2.0.0/16 dev adit0",
        "fd00:2::/64 dev adit0",
        "table inet adit",
    ] {
        ensure!(during.contains(part), "{part} is missing:\n{during}");
    }
    ensure!(during.contains("10.2.0.0/16 dev adit0 table 220 proto 65 scope link src 10.1.0.1"), "{during}");
    a.plane.shutdown();
    drop(b);
    restored(&net, &before)?;
    Ok(())
}

#[test]
fn a_killed_daemon_leaves_the_networks_closed_and_the_next_one_takes_over() -> Result<()> {
    let net = Net::new()?;
    net.route_in_the_clear(A)?;
    net.route_in_the_clear(B)?;
    let before = system(net.gateway(A))?;
    let hopeless = [&["-c", "3", "-W", "1"], &PATTERN[..]].concat();
    let mut capture = net.capture(A)?;

    let mut victim = net.gateway(A).run(|| {
        Command::new(std::env::current_exe()?)
            .args(["--exact", "net_dataplane::closed::victim", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
    })??;
    let mut lines = BufReader::new(victim.stdout.take().context("stdout")?).lines();
    loop {
        match lines.next().context("the victim ended early")?? {
            line if line.ends_with(READY) => break,
            _ => {}
        }
    }
    victim.kill()?;
    victim.wait()?;

    let left = system(net.gateway(A))?;
    ensure!(!left.contains("adit0:"), "the TUN device is still there:\n{left}");
    ensure!(left.contains("unreachable 10.2.0.0/16 table 220") && left.contains("table inet adit"), "{left}");
    for v6 in [false, true] {
        unanswered(&net.ping(A, v6, &hopeless)?)?;
        unanswered(&net.ping(B, v6, &hopeless)?)?;
    }
    let out: Vec<_> = passed(&mut capture)?
        .into_iter()
        .filter(|one| one.source == A.inner(one.source.is_ipv6(), 10))
        .collect();
    ensure!(out.is_empty(), "in the clear while the daemon was dead: {out:?}");

    let (a, b) = tunnel(&net, true, true)?;
    for v6 in [false, true] {
        answered(&net.ping(A, v6, &["-c", "3", "-W", "5"])?)?;
    }
    drop(b);
    a.plane.shutdown();
    restored(&net, &before)?;
    Ok(())
}

const READY: &str = "victim is ready";

/// Not a test: the process that [`a_killed_daemon_leaves_the_networks_closed_and_the_next_one_takes_over`] kills.
#[test]
#[ignore = "another test runs it"]
fn victim() -> Result<()> {
    let mut plane = Userspace::start(NetConfig::default(), Box::new(|_| ()))?;
    let stale = policy(
        A,
        vec![TrafficSelector::any_v4()],
        vec![TrafficSelector::subnet(IpAddr::from([10, 77, 0, 0]), 16)],
    );
    plane.set_policies(vec![networks_policy(A), PolicySpec { id: PolicyId(8), ..stale }])?;
    println!("{READY}");
    std::io::stdout().flush()?;
    // Until it is killed; or until whoever should have done so is gone.
    std::io::stdin().lines().for_each(drop);
    bail!("nobody killed the victim")
}

#[test]
fn everything_can_be_protected_without_losing_the_own_network() -> Result<()> {
    let net = Net::new()?;
    let any = || vec![TrafficSelector::any_v4(), TrafficSelector::any_v6()];
    let (mut a, mut b) = (net.plane(A)?, net.plane(B)?);
    let (from_a, from_b) = (policy(A, A.networks(), any()), policy(B, any(), A.networks()));
    a.plane.set_policies(vec![from_a.clone()])?;
    b.plane.set_policies(vec![from_b.clone()])?;
    a.plane.install(child(A, 1, false, false, &from_a))?;
    b.plane.install(child(B, 1, false, false, &from_b))?;
    for v6 in [false, true] {
        answered(&net.ping(A, v6, &["-c", "2", "-W", "5"])?).context("through the tunnel")?;
        answered(&net.ping(B, v6, &["-c", "2", "-W", "5"])?).context("through the tunnel, back")?;
        answered(&ping(net.host(A), A.inner(v6, 1), &["-c", "2", "-W", "5"])?)
            .context("host to its gateway")?;
        answered(&ping(net.gateway(A), A.inner(v6, 10), &["-c", "2", "-W", "5"])?)
            .context("gateway to its host")?;
        answered(&ping(net.gateway(A), A.inner(v6, 1), &["-c", "2", "-W", "5"])?)
            .context("gateway to itself")?;
        answered(&ping(net.gateway(A), B.inner(v6, 10), &["-c", "2", "-W", "5"])?)
            .context("gateway, tunnel")?;
    }
    Ok(())
}

/// One TCP connection, opened and answered.
fn connects(net: &Net, from: Side, (to, port): (IpAddr, u16)) -> Result<()> {
    let listener = net.gateway(from.other()).run(|| TcpListener::bind((to, port)))??;
    net.gateway(from).run(|| TcpStream::connect_timeout(&(to, port).into(), PATIENCE))??;
    listener.accept()?;
    Ok(())
}

#[test]
fn adversarial_58_nobody_outside_passes_for_a_host_of_ours() -> Result<()> {
    let net = Net::new()?;
    let mut a = net.plane(A)?;
    a.plane.set_policies(vec![policy(
        A,
        A.networks(),
        vec![TrafficSelector::any_v4(), TrafficSelector::any_v6()],
    )])?;
    let mut lan = net.host(A).run(|| Capture::open("lan"))??;
    let mut outside = net.gateway(B).netlink()?;
    let wan = outside.link("wan")?.index;
    for v6 in [false, true] {
        let (claimed, host) = (A.inner(v6, 7), A.inner(v6, 10));
        let (width, all) = if v6 { (64, 128) } else { (16, 32) };
        outside.add_address(wan, claimed, all)?;
        outside.add_route(&route(v6, Some((A.inner(v6, 0), width)), wan, A.outer(v6)))?;
        for to in [host, A.inner(v6, 1)] {
            unanswered(&ping(net.gateway(B), to, &["-c", "1", "-W", "1", "-I", &claimed.to_string()])?)?;
        }
        let let_in = passed(&mut lan)?.iter().filter(|one| one.source == claimed).count();
        ensure!(let_in == 0, "a spoofed packet was let in");
        answered(&ping(net.host(A), A.inner(v6, 1), &["-c", "1", "-W", "5"])?).context("a real one")?;
    }
    ensure!(a.plane.stats().fenced_in == 4, "{:?}", a.plane.stats());
    Ok(())
}

#[test]
fn what_no_policy_protects_keeps_its_way() -> Result<()> {
    let net = Net::new()?;
    for side in [A, B] {
        net.gateway(side).sysctl("net/ipv4/conf/all/rp_filter", "1")?;
    }
    let any = || vec![TrafficSelector::any_v4(), TrafficSelector::any_v6()];
    let (mut a, mut b) = (net.plane(A)?, net.plane(B)?);
    let (from_a, from_b) = (policy(A, A.networks(), any()), policy(B, any(), A.networks()));
    a.plane.set_policies(vec![from_a.clone()])?;
    b.plane.set_policies(vec![from_b.clone()])?;
    for v6 in [false, true] {
        // Someone administers the gateway from outside, whether the tunnel is up or not.
        connects(&net, B, (A.outer(v6), 22)).context("to the outer address")?;
    }
    a.plane.install(child(A, 1, false, false, &from_a))?;
    b.plane.install(child(B, 1, false, false, &from_b))?;
    for v6 in [false, true] {
        connects(&net, B, (A.outer(v6), 22)).context("to the outer address, with a tunnel")?;
        answered(&net.ping(A, v6, &["-c", "2", "-W", "5"])?).context("through the tunnel")?;
        answered(&net.ping(B, v6, &["-c", "2", "-W", "5"])?).context("through the tunnel, back")?;
        // Its source is chosen so that the tunnel takes it.
        answered(&ping(net.gateway(A), B.inner(v6, 10), &["-c", "2", "-W", "5"])?).context("gateway")?;
    }
    Ok(())
}

#[test]
fn a_policy_for_one_protocol_leaves_the_others_alone() -> Result<()> {
    let net = Net::new()?;
    net.route_in_the_clear(A)?;
    net.route_in_the_clear(B)?;
    let mut a = net.plane(A)?;
    let port_22 =
        |selector: TrafficSelector| TrafficSelector { protocol: 6, start_port: 22, end_port: 22, ..selector };
    let remote = B.networks().into_iter().map(port_22).collect();
    a.plane.set_policies(vec![policy(A, A.networks(), remote)])?;
    for v6 in [false, true] {
        answered(&net.ping(A, v6, &["-c", "2", "-W", "5"])?).context("not TCP")?;
        answered(&ping(net.gateway(A), B.inner(v6, 10), &["-c", "2", "-W", "5"])?).context("gateway")?;
        connects(&net, A, (B.inner(v6, 1), 80)).context("another port")?;
        let dropped = a.drops(DropCause::NoSa);
        let protected = (B.inner(v6, 1), 22).into();
        let connected =
            net.host(A).run(|| TcpStream::connect_timeout(&protected, Duration::from_millis(500)))?;
        ensure!(connected.is_err() && a.drops(DropCause::NoSa) > dropped, "{:?}", a.plane.stats());
    }
    Ok(())
}

#[test]
fn a_deleted_device_is_a_failure_that_stays_closed() -> Result<()> {
    let net = Net::new()?;
    let before = system(net.gateway(A))?;
    let (a, b) = tunnel(&net, false, false)?;
    answered(&run(net.gateway(A), "ip", &["link", "delete", "adit0"])?)?;
    let event = a.event()?;
    ensure!(matches!(&event, NetEvent::Failed { reason } if reason.contains("TUN device")), "{event:?}");
    drop(a);
    let left = system(net.gateway(A))?;
    ensure!(left.contains("unreachable 10.2.0.0/16 table 220") && left.contains("table inet adit"), "{left}");
    unanswered(&net.ping(A, false, &["-c", "1", "-W", "1"])?)?;
    drop(b);
    let (a, _b) = tunnel(&net, false, false)?;
    answered(&net.ping(A, false, &["-c", "1", "-W", "5"])?)?;
    a.plane.shutdown();
    restored(&net, &before)?;
    Ok(())
}

#[test]
fn what_someone_takes_away_is_put_back() -> Result<()> {
    let net = Net::new()?;
    let (a, _b) = tunnel(&net, false, true)?;
    let whole = system(net.gateway(A))?;
    let losses: [&[&str]; 6] = [
        &["ip link set adit0 down", "ip link set adit0 up"],
        &["ip route flush table 220"],
        &["ip -6 route flush table 220"],
        &["ip rule del priority 221", "ip -6 rule del priority 220"],
        &["nft flush ruleset"],
        &["nft flush chain inet adit outbound"],
    ];
    for loss in losses {
        for command in loss {
            let mut words = command.split(' ');
            let program = words.next().context("a program")?;
            answered(&run(net.gateway(A), program, &words.collect::<Vec<_>>())?)?;
        }
        restored(&net, &whole).with_context(|| format!("{loss:?}"))?;
    }
    for v6 in [false, true] {
        answered(&net.ping(A, v6, &["-c", "3", "-W", "5"])?)?;
    }
    a.plane.shutdown();
    // Who is gone puts nothing back.
    ensure!(!system(net.gateway(A))?.contains("lookup 220"));
    Ok(())
}

#[test]
fn changes_of_the_ways_out_are_told_and_our_own_are_not() -> Result<()> {
    const QUIET: Duration = Duration::from_millis(300);
    let net = Net::new()?;
    let mut a = net.plane(A)?;
    while a.paths.recv_timeout(QUIET).is_ok() {}
    a.plane.set_policies(vec![networks_policy(A)])?;
    a.plane.set_policies(vec![policy(A, A.networks(), vec![TrafficSelector::any_v4()])])?;
    ensure!(a.paths.recv_timeout(QUIET).is_err(), "our own routes and rules");
    for change in [
        "address add 192.0.2.77/24 dev wan",
        "address add 2001:db8::77/64 dev wan nodad",
        "route add 198.51.100.0/24 via 192.0.2.2",
        "-6 route add 2001:db8:1::/48 via 2001:db8::2",
        "link set wan down",
    ] {
        answered(&run(net.gateway(A), "ip", &change.split(' ').collect::<Vec<_>>())?)?;
        a.paths.recv_timeout(PATIENCE).with_context(|| change.to_owned())?;
        while a.paths.recv_timeout(QUIET).is_ok() {}
    }
    // A thousand changes are some events.
    answered(&run(net.gateway(A), "ip", &["link", "set", "wan", "up"])?)?;
    let mut many: String = (0..1000_u16)
        .map(|n| format!("route add 203.{}.{}.0/24 via 192.0.2.2\n", n / 256, n % 256))
        .collect();
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), std::mem::take(&mut many))?;
    let start = Instant::now();
    answered(&run(net.gateway(A), "ip", &["-batch", &file.path().to_string_lossy()])?)?;
    let mut events = 0;
    while a.paths.recv_timeout(QUIET).is_ok() {
        events += 1;
    }
    let most = start.elapsed().as_millis() / 100 + 1;
    ensure!((1..=most).contains(&events), "{events} events in {:?}", start.elapsed());
    Ok(())
}

#[test]
fn only_an_orderly_end_opens_what_was_closed() -> Result<()> {
    let net = Net::new()?;
    net.route_in_the_clear(A)?;
    let before = system(net.gateway(A))?;
    let hopeless = ["-c", "1", "-W", "1"];
    let mut first = net.plane(A)?;
    first.plane.set_policies(vec![networks_policy(A)])?;
    let closed = |when: &str| -> Result<()> {
        let state = system(net.gateway(A))?;
        for part in ["unreachable 10.2.0.0/16", "unreachable fd00:2::/64", "lookup 220", "table inet adit"] {
            ensure!(state.contains(part), "{when}, {part} is missing:\n{state}");
        }
        for v6 in [false, true] {
            unanswered(&net.ping(A, v6, &hopeless)?).with_context(|| when.to_owned())?;
        }
        Ok(())
    };
    drop(first);
    closed("dropped")?;

    // Someone else's route is in the way of one of ours: the others have to be there nevertheless.
    let foreign = ["route", "add", "10.2.0.0/16", "dev", "wan", "table", "220", "metric", "100"];
    answered(&run(net.gateway(A), "ip", &foreign)?)?;
    let mut second = net.plane(A)?;
    let wider = policy(
        A,
        A.networks(),
        [B.networks(), vec![TrafficSelector::subnet(IpAddr::from([10, 3, 0, 0]), 16)]].concat(),
    );
    let refused = second.plane.set_policies(vec![wider]).map_err(|error| error.to_string());
    ensure!(refused.as_ref().is_err_and(|error| error.contains("10.2.0.0/16")), "{refused:?}");
    closed("refused in part")?;
    let state = system(net.gateway(A))?;
    for part in ["10.3.0.0/16 dev adit0", "fd00:2::/64 dev adit0"] {
        ensure!(state.contains(part), "{part} is missing:\n{state}");
    }
    drop(second);
    closed("after a start that failed")?;

    let removal = ["route", "del", "10.2.0.0/16", "dev", "wan", "table", "220", "metric", "100"];
    answered(&run(net.gateway(A), "ip", &removal)?)?;
    let mut third = net.plane(A)?;
    third.plane.set_policies(vec![networks_policy(A)])?;
    third.plane.shutdown();
    restored(&net, &before)
}

#[test]
fn a_second_data_plane_says_what_is_in_its_way() -> Result<()> {
    let net = Net::new()?;
    let before = system(net.gateway(A))?;
    let refusal = |config: NetConfig| match net.try_plane(A, config) {
        Ok(_) => bail!("it started"),
        Err(error) => Ok(format!("{error:#}")),
    };
    let other = net.gateway(A).run(|| UdpSocket::bind("0.0.0.0:500"))??;
    let ports = refusal(NetConfig::default())?;
    ensure!(ports.contains("UDP port 500 belongs to another process"), "{ports}");
    drop(other);
    // Nobody but root can stand in its way.
    let nobody = "--reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --bounding-set=-all";
    let claim: Vec<_> = nobody.split(' ').chain("nft add table inet adit-claim".split(' ')).collect();
    let refused = run(net.gateway(A), "setpriv", &claim)?;
    unanswered(&refused)?;
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.contains("Operation not permitted"), "{refused}");
    let mut first = net.plane(A)?;
    first.plane.set_policies(vec![networks_policy(A)])?;
    let protected = system(net.gateway(A))?;
    // One with nothing in common but the namespace would take away the first one's fence and routes.
    let second = refusal(NetConfig {
        tun_name: "adit1".into(),
        routing_table: 230,
        rule_priority: 230,
        ike_port: 501,
        nat_t_port: 4501,
        raw_esp: false,
        ..NetConfig::default()
    })?;
    ensure!(second.contains("another Adit protects this network namespace"), "{second}");
    ensure!(system(net.gateway(A))? == protected);
    // Not even who may do everything can take the claim away from it.
    for what in ["delete table inet adit-claim", "flush ruleset"] {
        run(net.gateway(A), "nft", &what.split(' ').collect::<Vec<_>>())?;
    }
    let second = refusal(NetConfig { tun_name: "adit1".into(), ..NetConfig::default() })?;
    ensure!(second.contains("another Adit protects this network namespace"), "{second}");
    first.plane.shutdown();
    restored(&net, &before)?;
    Ok(())
}

#[test]
fn a_mark_leads_to_the_same_interface_whoever_comes_first_after_a_kill() -> Result<()> {
    let net = Net::new()?;
    let marked = |name: &str, mark: u32| InterfaceSpec {
        name: name.into(),
        owner: name.into(),
        marked: Some(((mark, u32::MAX), vec![(B.inner(false, 0), 16)])),
        ..InterfaceSpec::default()
    };
    let led = |mark: u32| -> Result<Vec<Rule>> {
        let mut rules = net.gateway(A).netlink()?.rules()?;
        rules.retain(|rule| rule.mark == Some((mark, u32::MAX)));
        Ok(rules)
    };
    let mut plane = net.plane(A)?;
    let gateway = net.gateway(A);
    gateway.run(|| plane.plane.set_interfaces(vec![marked("vpn0", 1), marked("vpn1", 2)]))??;
    let before = led(2)?;
    ensure!(before.len() == 1 && led(1)?.len() == 1, "{before:?}");
    // As if it were killed: everything stays.
    drop(plane);
    ensure!(led(2)? == before, "{:?}", led(2)?);
    let mut plane = net.plane(A)?;
    gateway.run(|| plane.plane.set_interfaces(vec![marked("vpn1", 2)]))??;
    ensure!(led(2)? == before && led(1)?.is_empty(), "{:?}", led(2)?);
    plane.plane.shutdown();
    Ok(())
}
