//! Connections with interfaces of their own: everything is selected, and routes decide what takes which tunnel. Watched from
//! the network between the gateways, where nothing may pass in the clear, whatever is up or down.

use adit_lab::adit::{Adit, Settings, program};
use adit_lab::capture::{Capture, only_protected};
use adit_lab::lab::{FAMILIES, Family, Lab, Node, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer, Rekey, SECRET};
use adit_lab::process::{Process, Signal, eventually, run, run_unchecked};
use adit_lab::strongswan::StrongSwan;
use adit_lab::traffic::{SteadyPing, transfer};
use anyhow::{Context, Result, ensure};
use std::time::Duration;

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16";

/// How long a tunnel may take that comes up by itself: an attempt, a wait and another attempt.
const SOON: Duration = Duration::from_secs(15);

/// All of both families through `vpn0`, which has an address of each and leads to the other private network.
fn connection(side: Side, child: &str) -> Connection {
    let (own, remote) = match side {
        Side::A => (1, Side::B),
        Side::B => (2, Side::A),
    };
    Connection {
        local_ts: "0.0.0.0/0, ::/0".into(),
        remote_ts: "0.0.0.0/0, ::/0".into(),
        extra: format!(
            "interface = vpn0
    interface_addrs = 169.254.10.{own}/30, fd00:ff::{own}/64
    interface_routes = {}
    dpd_delay = 1s
    retransmit_wait = 200ms
    retransmit_give_up = 2s",
            remote.networks()
        ),
        child_extra: child.into(),
        ..Connection::new(side, Family::V4, IKE, ESP)
    }
}

/// A third gateway, in the network between the others: 10.3.0.1 behind 198.51.100.1.
struct Third(Process);

/// The connection between gateway A and the third, as a section.
fn to_third(own: &str, peer: &str, number: u8, routes: &str, child: &str) -> String {
    let (id, peer_id) = if number == 1 { ("a", "c") } else { ("c", "a") };
    format!(
        "connections {{
  third {{
    local_addrs = {own}
    remote_addrs = {peer}
    proposals = {IKE}
    interface = vpn1
    interface_addrs = 169.254.20.{number}/30
    interface_mtu = 1300
    interface_routes = {routes}
    local {{
      auth = psk
      id = {id}.third.example
    }}
    remote {{
      auth = psk
      id = {peer_id}.third.example
    }}
    children {{
      all {{
        local_ts = 0.0.0.0/0
        remote_ts = 0.0.0.0/0
        esp_proposals = {ESP}
        {child}
      }}
    }}
  }}
}}
secrets {{
  ike-third {{
    id-a = a.third.example
    id-c = c.third.example
    secret = \"{SECRET}\"
  }}
}}
"
    )
}

impl Third {
    fn start(lab: &Lab) -> Result<Self> {
        let config = lab.dir().join("adit-third.conf");
        let control = format!("unix://{}", lab.dir().join("adit-third.vici").display());
        let text = to_third("198.51.100.1", Side::A.outer(Family::V4), 2, Side::A.network(Family::V4), "");
        std::fs::write(&config, format!("{text}gateway {{\n  control = {control}\n}}\n"))?;
        lab.run(Node::Net, "ip", &["address", "add", "10.3.0.1/24", "dev", "lo"])?;
        let mut command = lab.command(Node::Net, program()?);
        command.arg("run").arg("--config").arg(&config);
        let process = Process::spawn("adit-third", &mut command, lab.dir())?;
        eventually("the third gateway to listen", SOON, || {
            Ok(process.output().contains("serves unix").then_some(()))
        })?;
        Ok(Self(process))
    }

    fn end(mut self) -> Result<()> {
        let code = self.0.stop(Signal::TERM)?;
        ensure!(code == Some(0), "the third gateway ended with {code:?}: {}", self.0.output());
        Ok(())
    }
}

fn ping(lab: &Lab, from: Node, to: &str) -> Result<()> {
    let output = lab.run(from, "ping", &["-n", "-c", "3", "-i", "0.2", "-W", "3", to])?;
    ensure!(output.contains(" 0% packet loss"), "{output}");
    Ok(())
}

/// Does a ping arrive, within a second?
fn reaches(lab: &Lab, from: Node, to: &str) -> Result<bool> {
    let mut command = lab.command(from, "ping");
    Ok(run_unchecked(command.args(["-n", "-c", "2", "-i", "0.2", "-W", "1", to]))?.status.success())
}

fn ip(lab: &Lab, arguments: &str) -> Result<String> {
    lab.run(Node::GatewayA, "ip", &arguments.split(' ').collect::<Vec<_>>())
}

fn has(text: &str, part: &str) -> Result<()> {
    ensure!(text.contains(part), "no `{part}` in:\n{text}");
    Ok(())
}

/// Gateway A has its interface to B with all that belongs to it.
fn has_interface(lab: &Lab) -> Result<()> {
    has(&ip(lab, "link show dev vpn0")?, "mtu 1390")?;
    has(&ip(lab, "link show dev vpn0")?, "alias adit: gw")?;
    let addresses = ip(lab, "address show dev vpn0")?;
    has(&addresses, "inet 169.254.10.1/30")?;
    has(&addresses, "inet6 fd00:ff::1/64")?;
    has(&ip(lab, "route show table main")?, "10.2.0.0/24 dev vpn0")?;
    has(&ip(lab, "route show table main")?, "unreachable 10.2.0.0/24")?;
    has(&ip(lab, "-6 route show table main")?, "fd00:2::/64 dev vpn0")?;
    has(&ip(lab, "-6 route show table main")?, "unreachable fd00:2::/64")
}

fn spi(adit: &Adit, child: &str) -> Result<Option<String>> {
    let all = adit.sas()?.into_iter().flat_map(|sa| sa.children);
    let mut up = all.filter(|sa| sa.name == child && sa.state == "INSTALLED");
    up.next().map(|sa| sa.value("spi-in").map(str::to_owned)).transpose()
}

fn wait_for(adit: &Adit, child: &str) -> Result<String> {
    eventually(&format!("child {child} to be up"), SOON, || spi(adit, child))
}

fn reload(adit: &Adit) -> Result<String> {
    run(adit.command().arg("reload"))
}

#[test]
fn two_peers_side_by_side_with_everything_selected() -> Result<()> {
    two_peers("")
}

#[test]
fn the_same_with_several_workers() -> Result<()> {
    two_peers("workers = 3")
}

fn two_peers(gateway: &str) -> Result<()> {
    with_lab("two-peers", Topology::default(), |lab| {
        let third = Third::start(lab)?;
        let settings = |after: String| Settings { extra: gateway.into(), after, ..Settings::default() };
        let b = Adit::start_with(lab, Side::B, &connection(Side::B, ""), &settings(String::new()))?;
        let start = "start_action = start";
        let section = to_third(Side::A.outer(Family::V4), "198.51.100.1", 1, "10.3.0.0/24", start);
        let seen = Capture::start(lab, Node::Net, "a0", "")?;
        let a = Adit::start_with(lab, Side::A, &connection(Side::A, start), &settings(section.clone()))?;
        // There before there is an SA. Nobody's packets are led anywhere by rules.
        has_interface(lab)?;
        has(&ip(lab, "link show dev vpn1")?, "mtu 1300")?;
        for family in ["", "-6 "] {
            let rules = ip(lab, &format!("{family}rule show"))?;
            ensure!(!rules.contains("220"), "what is selected captures what is not routed:\n{rules}");
        }
        let (first, other) = (wait_for(&a, "net")?, wait_for(&a, "all")?);
        for family in FAMILIES {
            lab.ping(Side::A, family, 3)?;
            lab.ping(Side::B, family, 3)?;
        }
        ping(lab, Node::HostA, "10.3.0.1")?;
        ping(lab, Node::GatewayA, "169.254.10.2")?;
        ping(lab, Node::GatewayA, "fd00:ff::2")?;
        ping(lab, Node::GatewayA, "169.254.20.2")?;
        // The gateway's own traffic stays where it is.
        has(&ip(lab, &format!("route get {}", Side::B.outer(Family::V4)))?, "dev wan0")?;
        for sa in a.facts()?.into_iter().flat_map(|sa| sa.children) {
            ensure!(sa.value("interface")? == if sa.name == "all" { "vpn1" } else { "vpn0" }, "{sa:?}");
        }
        let sent = transfer(lab, Side::A, Family::V4, 5_000_000)?;
        ensure!(sent.bits_per_second > 0.0, "nothing arrived");

        // What one interface says does not reach the other's peer: the routes decide.
        let before = a.child_counter("all", "packets-out")?;
        lab.ping(Side::A, Family::V4, 5)?;
        ensure!(a.child_counter("all", "packets-out")? == before, "a packet took the wrong tunnel");

        let pings =
            [SteadyPing::start(lab, Side::A, Family::V4)?, SteadyPing::start(lab, Side::B, Family::V6)?];
        a.rekey(Rekey::Child)?;
        let second = eventually("another SA", SOON, || Ok(spi(&a, "net")?.filter(|spi| *spi != first)))?;
        a.rekey(Rekey::Ike)?;
        ensure!(reload(&a)?.trim() == "nothing has changed", "{}", a.log());
        // Addresses and routes change without a new SA, and another connection goes without touching this one.
        let text = std::fs::read_to_string(a.config())?;
        ensure!(text.contains(&section), "{text}");
        let text =
            text.replace(&section, "").replace("169.254.10.1/30, ", "169.254.10.1/30, 192.0.2.77/32, ");
        std::fs::write(a.config(), text)?;
        has(&reload(&a)?, "1 changed (gw)")?;
        has(&ip(lab, "address show dev vpn0")?, "inet 192.0.2.77/32")?;
        ensure!(!ip(lab, "link show")?.contains("vpn1"), "the interface of a connection that is gone");
        ensure!(!ip(lab, "route show table main")?.contains("10.3.0.0/24"), "the routes of one");
        has_interface(lab)?;
        ensure!(spi(&a, "net")? == Some(second), "an SA was touched that need not be");
        for ping in pings {
            eventually("twenty answers", SOON, || Ok((ping.answers() > 20).then_some(())))?;
            let result = ping.stop()?;
            ensure!(result.sent == result.received, "packets were lost: {result:?}");
        }
        ensure!(other != first, "two SAs with one SPI");

        // Down: the way stays, and nothing takes another.
        a.terminate()?;
        has_interface(lab)?;
        for family in FAMILIES {
            ensure!(!lab.reaches(Side::A, family)?, "a way without a tunnel");
        }
        a.initiate()?;
        lab.ping(Side::A, Family::V4, 2)?;
        let esp = only_protected(&seen.stop()?)?;
        ensure!(esp > 50, "{esp} packets of ESP");
        a.terminate_daemon()?;
        b.terminate_daemon()?;
        third.end()
    })
}

#[test]
fn an_interface_outlives_the_daemon_with_the_routes_of_others() -> Result<()> {
    with_lab("outlives", Topology::default(), |lab| {
        let b = Adit::start(lab, Side::B, &connection(Side::B, ""))?;
        let seen = Capture::start(lab, Node::Net, "a0", "")?;
        let a = Adit::start(lab, Side::A, &connection(Side::A, "start_action = start"))?;
        wait_for(&a, "net")?;
        ensure!(a.status()?["connections"][0]["interface"] == "vpn0", "{}", a.status()?);
        let foreign = || has(&ip(lab, "route show table main")?, "10.9.0.0/16 via 169.254.10.2 dev vpn0");
        ip(lab, "route add 10.9.0.0/16 via 169.254.10.2 dev vpn0")?;
        let index = |lab: &Lab| {
            Ok::<_, anyhow::Error>(ip(lab, "-o link show dev vpn0")?.split(':').next().map(str::to_owned))
        };
        let number = index(lab)?;

        // Killed: what is routed there goes nowhere.
        a.kill()?;
        foreign()?;
        has_interface(lab)?;
        ensure!(
            !lab.reaches(Side::A, Family::V4)? && !reaches(lab, Node::HostA, "10.9.0.1")?,
            "without a daemon"
        );
        let a = Adit::restart(lab, Side::A)?;
        wait_for(&a, "net")?;
        foreign()?;
        has_interface(lab)?;
        lab.ping(Side::A, Family::V4, 2)?;
        lab.ping(Side::B, Family::V6, 2)?;

        // Ended in order: the same, but for the routes that the configuration asks for.
        a.terminate_daemon()?;
        foreign()?;
        let routes = ip(lab, "route show table main")?;
        ensure!(!routes.contains("10.2.0.0/24"), "an orderly end leaves our routes: {routes}");
        ensure!(!reaches(lab, Node::HostA, "10.9.0.1")?, "without a daemon");
        let a = Adit::restart(lab, Side::A)?;
        wait_for(&a, "net")?;
        foreign()?;
        has_interface(lab)?;
        ensure!(index(lab)? == number, "it is another interface");
        lab.ping(Side::A, Family::V4, 2)?;
        ensure!(only_protected(&seen.stop()?)? > 5, "no ESP");

        // Someone deletes it: it is there again, and the SA goes on.
        let up = spi(&a, "net")?;
        ip(lab, "link delete dev vpn0")?;
        eventually("the interface to be there again", SOON, || Ok(has_interface(lab).ok()))?;
        lab.ping(Side::A, Family::V4, 2)?;
        ensure!(spi(&a, "net")? == up, "another SA");

        // The configuration names another while nobody runs.
        a.kill()?;
        let config = lab.dir().join("adit-a.conf");
        std::fs::write(&config, std::fs::read_to_string(&config)?.replace("vpn0", "vpn7"))?;
        let a = Adit::restart(lab, Side::A)?;
        wait_for(&a, "net")?;
        let links = ip(lab, "link show")?;
        ensure!(!links.contains("vpn0") && links.contains("vpn7"), "{links}");
        lab.ping(Side::A, Family::V4, 2)?;

        // One that is not ours is left alone.
        ip(lab, "tuntap add mode tun name other0")?;
        std::fs::write(&config, std::fs::read_to_string(&config)?.replace("vpn7", "other0"))?;
        let refused = run_unchecked(a.command().arg("reload"))?;
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && told.contains("is not Adit's"), "{told}");
        lab.ping(Side::A, Family::V4, 2)?;
        a.terminate_daemon()?;
        b.terminate_daemon()
    })
}

#[test]
fn a_packet_for_the_interface_springs_the_trap() -> Result<()> {
    with_lab("route-trap", Topology::default(), |lab| {
        let b = Adit::start(lab, Side::B, &connection(Side::B, ""))?;
        let seen = Capture::start(lab, Node::Net, "a0", "")?;
        let a = Adit::start(lab, Side::A, &connection(Side::A, "start_action = trap"))?;
        // The kernel itself sends to an interface that comes up (multicast listener reports): nobody's packets ask for nothing.
        eventually("the kernel's reports to be dropped", SOON, || {
            let stats = a.swanctl(&["--stats", "--raw"])?;
            has(&stats, "no-source=")?;
            Ok((!stats.contains("no-source=0")).then_some(()))
        })?;
        ensure!(spi(&a, "net")?.is_none(), "nobody has asked");
        ping(lab, Node::HostA, Side::B.host(Family::V4))?;
        ensure!(spi(&a, "net")?.is_some(), "who has answered?");
        ensure!(only_protected(&seen.stop()?)? > 5, "no ESP");
        a.terminate_daemon()?;
        b.terminate_daemon()
    })
}

#[test]
fn only_what_the_selectors_admit_leaves_the_interface() -> Result<()> {
    with_lab("route-narrow", Topology::default(), |lab| {
        let narrow = |side: Side, child: &str| Connection {
            local_ts: side.network(Family::V4).into(),
            remote_ts: side.other().network(Family::V4).into(),
            ..connection(side, child)
        };
        let b = Adit::start(lab, Side::B, &narrow(Side::B, ""))?;
        let seen = Capture::start(lab, Node::Net, "a0", "")?;
        let a = Adit::start(lab, Side::A, &narrow(Side::A, "start_action = start"))?;
        wait_for(&a, "net")?;
        lab.ping(Side::A, Family::V4, 2)?;
        // Routed to it, and not selected: it ends there, and the sender is told (RFC 4301 6). The gateway's own address on
        // the interface is not selected either.
        for (from, family, told) in [
            (Node::HostA, Family::V6, "Administratively prohibited"),
            (Node::GatewayA, Family::V4, "Packet filtered"),
        ] {
            let mut command = lab.command(from, "ping");
            let output =
                run_unchecked(command.args(["-n", "-c", "2", "-i", "0.2", "-W", "1", Side::B.host(family)]))?;
            ensure!(!output.status.success(), "{family:?} is not selected");
            has(&String::from_utf8_lossy(&output.stdout), told)?;
        }
        ensure!(only_protected(&seen.stop()?)? > 3, "no ESP");
        a.terminate_daemon()?;
        b.terminate_daemon()
    })
}

#[test]
fn a_mark_leads_to_the_interface_and_another_comes_from_it() -> Result<()> {
    with_lab("route-mark", Topology::default(), |lab| {
        let b = Adit::start(lab, Side::B, &connection(Side::B, ""))?;
        let marks = "start_action = start\n mark_out = 0x17/0xff\n set_mark_in = 0x2a00/0xff00";
        let routed = connection(Side::A, marks);
        let extra = routed.extra.lines().filter(|line| !line.contains("interface_routes"));
        let a =
            Adit::start(lab, Side::A, &Connection { extra: extra.collect::<Vec<_>>().join("\n"), ..routed })?;
        wait_for(&a, "net")?;
        let counted = |packets: u32| {
            let rules = lab.run(Node::GatewayA, "nft", &["list", "table", "inet", "test"])?;
            has(&rules, &format!("meta mark 0x00002a00 counter packets {packets} "))
        };
        lab.nft(
            Node::GatewayA,
            "table inet test {
                chain marked { type filter hook prerouting priority -200; iifname \"lan0\" meta mark set 0x1117; }
                chain seen { type filter hook forward priority 0; iifname \"vpn0\" meta mark 0x2a00 counter; }
            }",
        )?;
        let seen = Capture::start(lab, Node::Net, "a0", "")?;
        for family in FAMILIES {
            lab.ping(Side::A, family, 3)?;
        }
        counted(6)?;
        ensure!(only_protected(&seen.stop()?)? >= 12, "no ESP");
        let out = |lab: &Lab| {
            Ok::<_, anyhow::Error>((
                ip(lab, "route get 10.2.0.10 mark 0x17")?,
                ip(lab, "route get 10.2.0.10 mark 0x18")?,
            ))
        };
        let (with, without) = out(lab)?;
        has(&with, "dev vpn0")?;
        has(&without, "dev wan0")?;
        // A killed daemon leaves it closed, an orderly end lifts it.
        a.kill()?;
        has(&out(lab)?.0, "dev vpn0")?;
        let a = Adit::restart(lab, Side::A)?;
        wait_for(&a, "net")?;
        lab.ping(Side::A, Family::V4, 3)?;
        counted(9)?;
        a.terminate_daemon()?;
        has(&out(lab)?.0, "dev wan0")?;
        ensure!(!lab.run(Node::GatewayA, "nft", &["list", "tables"])?.contains("adit"), "a table is left");
        b.terminate_daemon()
    })
}

#[test]
fn strongswan_is_the_peer() -> Result<()> {
    with_lab("route-swan", Topology::default(), |lab| {
        let swan = Connection { extra: String::new(), encap: true, ..connection(Side::B, "") };
        let b = StrongSwan::start(lab, Side::B, &swan)?;
        // It leads all that is selected into its interface, the network behind it as well, unless its table knows that.
        lab.run(Node::GatewayB, "ip", &["route", "add", "10.2.0.0/24", "dev", "lan0", "table", "220"])?;
        let seen = Capture::start(lab, Node::Net, "a0", "")?;
        let a = Adit::start(lab, Side::A, &connection(Side::A, ""))?;
        a.initiate()?;
        lab.ping(Side::A, Family::V4, 3)?;
        lab.ping(Side::B, Family::V4, 3)?;
        let first = wait_for(&a, "net")?;
        b.rekey(Rekey::Child)?;
        eventually("another SA", SOON, || Ok(spi(&a, "net")?.filter(|spi| *spi != first)))?;
        lab.ping(Side::A, Family::V4, 3)?;
        has_interface(lab)?;
        ensure!(only_protected(&seen.stop()?)? > 10, "no ESP");
        a.terminate_daemon()
    })
}

trait Counters {
    fn child_counter(&self, child: &str, name: &str) -> Result<u64>;
}

impl Counters for Adit {
    fn child_counter(&self, child: &str, name: &str) -> Result<u64> {
        let mut all = self.facts()?.into_iter().flat_map(|sa| sa.children);
        all.find(|sa| sa.name == child).context("no such child")?.counter(name)
    }
}
