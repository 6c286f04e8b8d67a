//! What ought to be up is up: brought up by packets, brought back after a failure, and left alone by a reload that is
//! about something else.

use adit_lab::adit::{Adit, Settings};
use adit_lab::lab::{Family, Lab, Node, Side, Topology, with_lab};
use adit_lab::peer::{Connection, IkeSa, Peer};
use adit_lab::process::{Signal, eventually, run, run_unchecked};
use adit_lab::traffic::SteadyPing;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16";

/// How long a tunnel may take that comes up by itself: an attempt, a wait and another attempt.
const SOON: Duration = Duration::from_secs(15);

/// A connection of the IPv4 networks, with lines for the child.
fn connection(side: Side, child: &str) -> Connection {
    Connection {
        local_ts: side.network(Family::V4).into(),
        remote_ts: side.other().network(Family::V4).into(),
        extra: "dpd_delay = 1s\n retransmit_wait = 200ms\n retransmit_give_up = 2s".into(),
        child_extra: child.into(),
        ..Connection::new(side, Family::V4, IKE, ESP)
    }
}

/// A second connection, of the IPv6 networks between the IPv6 addresses.
fn second(side: Side, child: &str) -> Settings {
    let sixth = Connection {
        local_ts: side.network(Family::V6).into(),
        remote_ts: side.other().network(Family::V6).into(),
        child_extra: child.into(),
        ..Connection::new(side, Family::V6, IKE, ESP)
    };
    let text = sixth.render();
    let text = text
        .split("secrets {")
        .next()
        .unwrap_or_default()
        .replace("  gw {", "  sixth {")
        .replace(" net {", " net6 {");
    Settings { after: text, ..Settings::default() }
}

/// The SPI of what arrives for a child.
fn spi(adit: &Adit, child: &str) -> Result<Option<String>> {
    let found = adit
        .sas()?
        .into_iter()
        .flat_map(|sa| sa.children)
        .find(|sa| sa.name == child && sa.state == "INSTALLED");
    found.map(|child| child.value("spi-in").map(str::to_owned)).transpose()
}

fn wait_for(adit: &Adit, child: &str) -> Result<String> {
    eventually(&format!("child {child} to be up"), SOON, || spi(adit, child))
}

fn change(adit: &Adit, from: &str, to: &str) -> Result<()> {
    let text = std::fs::read_to_string(adit.config())?;
    ensure!(text.contains(from), "no `{from}` in {text}");
    Ok(std::fs::write(adit.config(), text.replacen(from, to, 1))?)
}

fn reload(adit: &Adit) -> Result<String> {
    run(adit.command().arg("reload"))
}

#[test]
fn a_reload_loses_no_packet_of_what_it_does_not_change() -> Result<()> {
    with_lab("reload", Topology::default(), |lab| {
        let start = "start_action = start";
        let b = Adit::start_with(lab, Side::B, &connection(Side::B, ""), &second(Side::B, ""))?;
        let a = Adit::start_with(lab, Side::A, &connection(Side::A, start), &second(Side::A, start))?;
        let (fourth, sixth) = (wait_for(&a, "net")?, wait_for(&a, "net6")?);
        lab.ping(Side::A, Family::V4, 2)?;
        lab.ping(Side::A, Family::V6, 2)?;
        let pings =
            [SteadyPing::start(lab, Side::A, Family::V6)?, SteadyPing::start(lab, Side::B, Family::V6)?];

        ensure!(reload(&a)?.trim() == "nothing has changed", "{}", a.log());
        change(&a, start, "start_action = start\n replay_window = 64")?;
        ensure!(reload(&a)?.contains("1 changed (gw/net)"), "{}", a.log());
        let again = eventually("another SA of the first child", SOON, || {
            Ok(spi(&a, "net")?.filter(|spi| *spi != fourth))
        })?;
        lab.ping(Side::A, Family::V4, 2)?;

        // A bad file changes nothing, and every error is told.
        change(&a, "replay_window = 64", "replay_window = x\n mode = y")?;
        let bad = run_unchecked(a.command().arg("reload"))?;
        let told = String::from_utf8_lossy(&bad.stderr).into_owned();
        ensure!(bad.status.code() == Some(3) && told.matches("error: ").count() == 2, "{told}");
        ensure!(spi(&a, "net")? == Some(again.clone()), "a bad file changed something");

        // What takes effect without a new SA touches none.
        change(&a, "replay_window = x\n mode = y", "replay_window = 64")?;
        change(&a, "dpd_delay = 1s", "dpd_delay = 2s")?;
        ensure!(reload(&a)?.contains("1 changed (gw)"), "{}", a.log());
        ensure!(spi(&a, "net")? == Some(again.clone()), "liveness checks need no new SA");

        // The same by a signal: the whole first connection.
        change(&a, "dpd_delay = 2s", "childless = never")?;
        a.process().signal(Signal::HUP)?;
        eventually(
            "a third SA of the first child",
            SOON,
            || Ok(spi(&a, "net")?.filter(|spi| *spi != again)),
        )?;
        lab.ping(Side::B, Family::V4, 2)?;

        for ping in pings {
            eventually("twenty answers", SOON, || Ok((ping.answers() > 20).then_some(())))?;
            let result = ping.stop()?;
            ensure!(result.sent == result.received, "the other tunnel lost packets: {result:?}");
        }
        ensure!(spi(&a, "net6")? == Some(sixth), "the other tunnel was touched");
        a.terminate_daemon()?;
        b.terminate_daemon()
    })
}

#[test]
fn the_first_packet_springs_the_trap_and_arrives() -> Result<()> {
    with_lab("trap", Topology::default(), |lab| {
        let b = Adit::start(lab, Side::B, &connection(Side::B, ""))?;
        let a = Adit::start(lab, Side::A, &connection(Side::A, "start_action = trap"))?;
        ensure!(a.sas()?.is_empty(), "a trap is not sprung by itself");
        lab.ping(Side::A, Family::V4, 1).context("the packet that springs the trap")?;
        wait_for(&a, "net")?;
        // It is a trap again once it is down, by whomever.
        b.terminate()?;
        a.wait_for_nothing()?;
        answered(lab).context("the packets that spring the trap again")?;
        // What an operator takes down stays down.
        a.terminate()?;
        ensure!(!lab.reaches(Side::A, Family::V4)?, "nothing protects what was taken down");
        ensure!(a.sas()?.is_empty(), "a packet brought up what an operator took down");
        a.initiate()?;
        lab.ping(Side::A, Family::V4, 1)
    })
}

#[test]
fn a_tunnel_comes_back_after_its_peer() -> Result<()> {
    with_lab("comes-back", Topology::default(), |lab| {
        let a = Adit::start(lab, Side::A, &connection(Side::A, "start_action = start"))?;
        // Nobody is there yet: it is tried until somebody is.
        let b = Adit::start(lab, Side::B, &connection(Side::B, ""))?;
        let first = wait_for(&a, "net")?;
        lab.ping(Side::A, Family::V4, 2)?;
        // The peer takes it down in order.
        b.terminate()?;
        let second = eventually("another SA", SOON, || Ok(spi(&a, "net")?.filter(|spi| *spi != first)))?;
        lab.ping(Side::A, Family::V4, 2)?;
        // The peer dies and comes back without a word.
        b.kill()?;
        let b = Adit::restart(lab, Side::B)?;
        eventually("a third SA", Duration::from_secs(30), || {
            Ok(spi(&a, "net")?.filter(|spi| *spi != second))
        })?;
        answered(lab)?;
        // The way is cut for longer than the peer may be silent.
        lab.run(Node::Net, "ip", &["link", "set", "a0", "down"])?;
        eventually("the SA to be given up", SOON, || Ok(spi(&a, "net")?.is_none().then_some(())))?;
        lab.run(Node::Net, "ip", &["link", "set", "a0", "up"])?;
        wait_for(&a, "net")?;
        answered(lab)?;
        ensure!(b.child()?.is_some(), "the peer has one SA and no remains: {:?}", b.sas()?);
        Ok(())
    })
}

fn answered(lab: &Lab) -> Result<()> {
    eventually("traffic", SOON, || Ok(lab.reaches(Side::A, Family::V4)?.then_some(())))
}

/// `/etc/hosts` of a namespace, as `ip netns exec` puts it there.
struct Hosts(PathBuf);

impl Hosts {
    fn new(lab: &Lab, node: Node) -> Result<Self> {
        let hosts = Self(Path::new("/etc/netns").join(lab.namespace(node)));
        std::fs::create_dir_all(&hosts.0)?;
        hosts.set("")?;
        Ok(hosts)
    }

    fn set(&self, text: &str) -> Result<()> {
        Ok(std::fs::write(self.0.join("hosts"), text)?)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_peer_whose_name_moves_is_dialled_where_it_is_now() -> Result<()> {
    with_lab("names", Topology::default(), |lab| {
        let hosts = Hosts::new(lab, Node::GatewayA)?;
        let anywhere = |side, child| Connection {
            extra: "mobike = no\n dpd_delay = 1s\n retransmit_wait = 200ms\n retransmit_give_up = 2s".into(),
            ..connection(side, child)
        };
        let of_b = Connection { local_addrs: "%any".into(), ..anywhere(Side::B, "") };
        let b = Adit::start(lab, Side::B, &of_b)?;
        let of_a = Connection {
            remote_addrs: "peer.lab.example".into(),
            ..anywhere(Side::A, "start_action = start")
        };
        // Nobody knows the name yet: the daemon runs, and says so.
        let a = Adit::start(lab, Side::A, &of_a)?;
        eventually("a word about the name", SOON, || {
            Ok(a.log().contains("host name \"peer.lab.example\" cannot be resolved").then_some(()))
        })?;
        ensure!(a.sas()?.is_empty(), "dialled an unknown peer");
        hosts.set("203.0.113.2 peer.lab.example\n")?;
        eventually("the name to be known", Duration::from_secs(40), || spi(&a, "net"))?;
        answered(lab)?;
        // The peer moves, and its name with it.
        for command in [
            "addr del 203.0.113.2/24 dev wan0",
            "addr add 203.0.113.3/24 dev wan0",
            "route replace default via 203.0.113.1",
        ] {
            let words: Vec<&str> = command.split(' ').collect();
            lab.run(Node::GatewayB, "ip", &words)?;
        }
        hosts.set("203.0.113.3 peer.lab.example\n")?;
        eventually("the tunnel to the new address", Duration::from_secs(40), || {
            let there =
                |sa: &IkeSa| sa.values.get("remote").is_some_and(|remote| remote.starts_with("203.0.113.3:"));
            Ok(a.sas()?.iter().any(there).then_some(()))
        })?;
        answered(lab)?;
        a.terminate_daemon()?;
        b.terminate_daemon()
    })
}
