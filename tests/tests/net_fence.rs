//! The packet filter rules, as `nft` reads them and as packets meet them.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use adit_lab::process::tell;
use adit_net::fence::Fence;
use adit_net::netlink::{PROTOCOL_STATIC, Route, RouteKind, TABLE_MAIN};
use adit_net::netns::Namespace;
use adit_net::{Backend, NetConfig, NetEvent, PolicyId, PolicySpec, Userspace};
use adit_wire::ikev2::TrafficSelector;
use anyhow::{Context, Result, ensure};

fn namespace() -> Result<Namespace> {
    ensure!(rustix::process::geteuid().is_root(), "this test makes network namespaces: run it as root");
    Ok(Namespace::unnamed()?)
}

fn fence(namespace: &Namespace) -> Result<Fence> {
    Ok(namespace.run(|| Fence::new(&NetConfig { mark: 0x1234, ..NetConfig::default() }))?)
}

fn listed(namespace: &Namespace) -> Result<String> {
    let output = namespace.run(|| Command::new("nft").args(["list", "ruleset"]).output())??;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn selector(protocol: u8, ports: (u16, u16), first: &str, last: &str) -> Result<TrafficSelector> {
    let (start_port, end_port) = ports;
    Ok(TrafficSelector { protocol, start_port, end_port, start: first.parse()?, end: last.parse()? })
}

fn policy(local_ts: Vec<TrafficSelector>, remote_ts: Vec<TrafficSelector>) -> PolicySpec {
    PolicySpec::new(PolicyId(1), "net", local_ts, remote_ts)
}

const ALL_PORTS: (u16, u16) = (0, 65_535);

#[test]
fn nft_reads_what_was_meant() -> Result<()> {
    let namespace = namespace()?;
    let mut fence = fence(&namespace)?;
    fence.replace(&[
        policy(
            vec![
                selector(0, ALL_PORTS, "10.1.0.3", "10.1.0.9")?,
                selector(0, ALL_PORTS, "fd00:1::", "fd00:1::ffff")?,
            ],
            vec![
                selector(0, ALL_PORTS, "0.0.0.0", "255.255.255.255")?,
                selector(0, ALL_PORTS, "fd00:2::", "fd00:2::")?,
            ],
        ),
        policy(
            vec![selector(6, (22, 22), "10.3.0.0", "10.3.0.0")?],
            vec![selector(6, (1024, 65_535), "10.4.0.0", "10.4.0.0")?],
        ),
        policy(
            vec![selector(0, ALL_PORTS, "fd00:3::", "fd00:3::")?],
            vec![selector(17, (53, 53), "fd00:4::", "fd00:4::")?],
        ),
    ])?;
    let expected = r#"table inet adit {
	chain dropped-in {
		counter packets 0 bytes 0 drop
	}

	chain dropped-out {
		meta mark 0x00001234 accept
		oifname "lo" accept
		icmpv6 type 133-137 ip6 hoplimit 255 accept
		counter packets 0 bytes 0 drop
	}

	chain fragments {
		tproxy to :1 return
	}

	chain inbound {
		ip6 daddr fd00:3:: ip6 saddr fd00:4:: udp sport 53 goto dropped-in
		ip6 daddr fd00:3:: ip6 saddr fd00:4:: meta l4proto udp frag frag-off != 0 goto dropped-in
		ip6 daddr fd00:1::-fd00:1::ffff ip6 saddr fd00:2:: goto dropped-in
		ip daddr 10.3.0.0 ip saddr 10.4.0.0 tcp dport 22 tcp sport 1024-65535 goto dropped-in
		ip daddr 10.3.0.0 ip saddr 10.4.0.0 meta l4proto tcp ip frag-off & 8191 != 0 goto dropped-in
		ip daddr 10.1.0.3-10.1.0.9 ip saddr 10.1.0.3-10.1.0.9 fib saddr . iif oif != missing return
		ip daddr 10.1.0.3-10.1.0.9 goto dropped-in
	}

	chain input {
		type filter hook input priority filter; policy accept;
		iifname "adit0" accept
		meta l4proto esp accept
		udp dport 4500 accept
		udp dport 500 accept
		iifname "lo" accept
		icmpv6 type 133-137 ip6 hoplimit 255 accept
		icmp type destination-unreachable accept
		icmp type 11-12 accept
		icmpv6 type 1-4 accept
		goto inbound
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname "adit0" accept
		goto inbound
	}

	chain outbound {
		type filter hook postrouting priority filter; policy accept;
		oifname "adit0" accept
		ip6 saddr fd00:3:: ip6 daddr fd00:4:: udp dport 53 goto dropped-out
		ip6 saddr fd00:3:: ip6 daddr fd00:4:: meta l4proto udp frag frag-off != 0 goto dropped-out
		ip6 saddr fd00:1::-fd00:1::ffff ip6 daddr fd00:2:: goto dropped-out
		ip saddr 10.3.0.0 ip daddr 10.4.0.0 tcp sport 22 tcp dport 1024-65535 goto dropped-out
		ip saddr 10.3.0.0 ip daddr 10.4.0.0 meta l4proto tcp ip frag-off & 8191 != 0 goto dropped-out
		ip saddr 10.1.0.3-10.1.0.9 ip daddr 10.1.0.3-10.1.0.9 return
		ip saddr 10.1.0.3-10.1.0.9 goto dropped-out
	}
}
"#;
    let found = listed(&namespace)?;
    ensure!(found == expected, "nft lists:\n{found}");

    fence.replace(&[])?;
    ensure!(listed(&namespace)?.is_empty());
    fence.remove().context("what is not there can be removed")?;
    ensure!(fence.dropped()? == (0, 0));
    Ok(())
}

#[test]
fn a_thousand_policies_fit_one_transaction() -> Result<()> {
    let namespace = namespace()?;
    let mut fence = fence(&namespace)?;
    let many: Vec<PolicySpec> = (0..1000_u16)
        .map(|i| {
            let [high, low] = i.to_be_bytes();
            let remote = TrafficSelector::subnet(IpAddr::from([10, 128 | high, low, 0]), 24);
            policy(vec![TrafficSelector::subnet(IpAddr::from([10, 1, 0, 0]), 16)], vec![remote])
        })
        .collect();
    fence.replace(&many)?;
    let found = listed(&namespace)?;
    // A rule each way, and one list for both.
    for rule in ["goto dropped-in", "goto dropped-out", "set values-0"] {
        ensure!(found.matches(rule).count() == 1, "{rule}:\n{found}");
    }
    ensure!(found.matches("10.1.0.0 . 10.").count() == 1000);
    fence.remove()?;
    Ok(())
}

#[test]
fn ports_decide_and_fragments_alone_are_not_trusted() -> Result<()> {
    let (near, router, far) = line()?;
    let open = far.run(|| UdpSocket::bind("192.0.2.2:7000"))??;
    let guarded = far.run(|| UdpSocket::bind("192.0.2.2:7001"))??;
    let sender = near.run(|| UdpSocket::bind("10.1.0.10:0"))??;
    // Packets keep their order: what arrives shows that all before it would have arrived.
    let send = |datagram: &[u8], to: &UdpSocket| sender.send_to(datagram, to.local_addr()?);
    let mut buffer = [0; 4000];
    open.set_read_timeout(Some(Duration::from_secs(10)))?;
    guarded.set_read_timeout(Some(Duration::from_secs(10)))?;
    // Two fragments, as long as there is no fence.
    send(&[1; 2000], &guarded)?;
    ensure!(guarded.recv(&mut buffer)? == 2000);

    let mut fence = fence(&router)?;
    let policies = [policy(
        vec![selector(0, ALL_PORTS, "10.1.0.10", "10.1.0.10")?],
        vec![selector(17, (7001, 7001), "192.0.2.2", "192.0.2.2")?],
    )];
    fence.replace(&policies)?;
    send(b"protected", &guarded)?;
    send(b"open", &open)?;
    ensure!(open.recv(&mut buffer)? == 4);
    ensure!(fence.dropped()? == (0, 1));
    // Put together, fragments have the ports of the first.
    send(&[2; 2000], &guarded)?;
    send(&[2; 2000], &open)?;
    ensure!(open.recv(&mut buffer)? == 2000, "divided again as it was");
    ensure!(fence.dropped()? == (0, 2));
    // Where nothing puts them together, the later of two could belong to anything.
    let apart = "table ip apart { chain c { type filter hook prerouting priority -450; notrack;\n}\n}";
    let output = router.run(|| Command::new("nft").arg(apart).output())??;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    send(&[2; 2000], &open)?;
    send(b"end", &open)?;
    ensure!(open.recv(&mut buffer)? == 3, "a later fragment got out");
    ensure!(fence.dropped()? == (0, 3));
    guarded.set_nonblocking(true)?;
    ensure!(guarded.recv(&mut buffer).is_err(), "a protected packet got out");
    // Another fence goes on counting.
    fence.replace(&policies)?;
    send(b"protected", &guarded)?;
    send(b"end", &open)?;
    ensure!(open.recv(&mut buffer)? == 3);
    ensure!(fence.dropped()? == (0, 4), "{:?}", fence.dropped());
    fence.remove()?;
    ensure!(fence.dropped()? == (0, 4), "{:?}", fence.dropped());
    Ok(())
}

/// What policies cost by their number: to put them up, to change them, and what a packet costs that is none of their business.
/// `ADIT_LAB_POLICIES` says how many; the figures are for people. Whatever the number, nobody takes our own changes for someone else's.
#[test]
fn policies_at_scale() -> Result<()> {
    let levels = std::env::var("ADIT_LAB_POLICIES").unwrap_or_else(|_| "1,1000".into());
    for level in levels.split(',') {
        let count: u32 = level.parse()?;
        let (near, router, far) = line()?;
        let (report, events) = mpsc::channel();
        let report = move |event| drop(report.send(event));
        let mut plane = router.run(|| Userspace::start(NetConfig::default(), Box::new(report)))??;
        let remote = |number: u32| {
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(100, 64, 0, 0).to_bits() + number * 16);
            vec![TrafficSelector::subnet(address.into(), 28)]
        };
        let local = vec![TrafficSelector::subnet(IpAddr::from([10, 1, 0, 0]), 24)];
        let named =
            |number: u32, remote| PolicySpec::new(PolicyId(number.into()), "net", local.clone(), remote);
        let mut policies: Vec<PolicySpec> = (0..count).map(|number| named(number, remote(number))).collect();
        let bare = packet(&near, &far)?;
        let memory = slab()?;
        let first = timed(|| Ok(plane.set_policies(policies.clone())?))?;
        let memory = slab()?.saturating_sub(memory);
        policies.pop();
        policies.push(named(count, remote(count)));
        let change = timed(|| Ok(plane.set_policies(policies.clone())?))?;
        let handle = || -> Result<String> {
            let output = router.run(|| Command::new("nft").args(["-a", "list", "tables"]).output())??;
            Ok(String::from_utf8(output.stdout)?)
        };
        let before = handle()?;
        let forwarded = packet(&near, &far)?;
        ensure!(before.contains("table inet adit") && before == handle()?, "it was put up again");
        let routes = router.netlink()?.routes(|route| route.table == 220)?;
        ensure!(routes.len() == 2 * count as usize, "{} routes", routes.len());
        let dropped: Vec<_> = events.try_iter().filter(|event| *event != NetEvent::PathsChanged).collect();
        ensure!(dropped.is_empty(), "{dropped:?}");
        let end = timed(|| {
            Box::new(plane).shutdown();
            Ok(())
        })?;
        tell(&format!(
            "{count} policies: put up in {first:.0?}, one changed in {change:.0?}, removed in {end:.0?}, {memory} KiB of \
             the kernel's memory; a forwarded packet takes {} ns (without policies {})",
            forwarded.as_nanos(),
            bare.as_nanos()
        ));
    }
    Ok(())
}

/// What a packet takes from host to host; the least of many measurements, as everything else only adds to it.
fn packet(near: &Namespace, far: &Namespace) -> Result<Duration> {
    const BATCH: u32 = 2000;
    // Nobody reads from it, so the receiver's part is soon little.
    let receiver = far.run(|| UdpSocket::bind("192.0.2.2:9"))??;
    let sender = near.run(|| UdpSocket::bind("10.1.0.10:0"))??;
    sender.connect(receiver.local_addr()?)?;
    let batch = || timed(|| (0..BATCH).try_for_each(|_| Ok(sender.send(&[0; 64]).map(drop)?)));
    let all: Vec<Duration> = (0..100).map(|_| batch()).collect::<Result<_>>()?;
    Ok(all.into_iter().min().context("none")? / BATCH)
}

fn timed(what: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    what()?;
    Ok(start.elapsed())
}

/// The kernel's memory for small things, in KiB, of the whole machine.
fn slab() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Slab:")).context("Slab")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// A host, a router that has the fence, and a host behind it.
///
/// ```text
/// near 10.1.0.10 -- 10.1.0.1 router 192.0.2.1 -- 192.0.2.2 far
/// ```
fn line() -> Result<(Namespace, Namespace, Namespace)> {
    let (near, router, far) = (namespace()?, namespace()?, namespace()?);
    router.set_forwarding()?;
    let mut netlink = router.netlink()?;
    let any = IpAddr::from([0; 4]);
    for (name, host, addresses) in
        [("lan", &near, [[10, 1, 0, 1], [10, 1, 0, 10]]), ("wan", &far, [[192, 0, 2, 1], [192, 0, 2, 2]])]
    {
        let [ours, theirs] = addresses.map(IpAddr::from);
        netlink.create_veth(name, "eth", Some(host.as_fd()))?;
        let index = netlink.link(name)?.index;
        netlink.set_up(index)?;
        netlink.add_address(index, ours, 24)?;
        let mut netlink = host.netlink()?;
        let index = netlink.link("eth")?.index;
        netlink.set_up(index)?;
        netlink.add_address(index, theirs, 24)?;
        netlink.add_route(&Route {
            destination: (any, 0),
            table: TABLE_MAIN,
            kind: RouteKind::Unicast,
            interface: Some(index),
            gateway: Some(ours),
            source: None,
            metric: 0,
            protocol: PROTOCOL_STATIC,
        })?;
    }
    Ok((near, router, far))
}
