//! A link between the gateways that is narrower than theirs: its error reaches both senders, and TCP gets through.

use adit_lab::process::{eventually, run_unchecked};
use adit_lab::traffic::transfer;

use super::*;

/// What the narrow link carries: so much that the least MTU of IPv6, 1280, fits through the tunnel. Below that Linux refuses
/// what no sender of IPv6 makes smaller.
const NARROW: usize = 1400;

pub(super) fn a_narrow_link_is_told_to_the_senders(scene: &mut Scene<'_>) -> Result<()> {
    let routes = [
        ("-4", "198.51.100.0/24", "a0"),
        ("-4", "203.0.113.0/24", "b0"),
        ("-6", "2001:db8:a::/64", "a0"),
        ("-6", "2001:db8:b::/64", "b0"),
    ];
    let lab = scene.lab;
    let set = |mtu: &[&str]| -> Result<()> {
        for (family, network, link) in routes {
            // The kernel's own routes to a link's networks, where they are.
            let metric = if family == "-6" { "256" } else { "0" };
            let route = [family, "route", "replace", network, "dev", link, "metric", metric];
            lab.run(Node::Net, "ip", &[&route, mtu].concat())?;
        }
        Ok(())
    };
    // The router refuses what is longer, or cuts it where that is allowed, as if the link were narrow; what arrives may
    // still be of any size.
    set(&["mtu", "lock", &NARROW.to_string()])?;
    let result = every_way(scene);
    set(&[])?;
    result
}

fn every_way(scene: &mut Scene<'_>) -> Result<()> {
    for (outer, encap) in [(Family::V4, false), (Family::V4, true), (Family::V6, false), (Family::V6, true)] {
        let sas = Sas { outer, encap, ..Sas::usual() };
        forget_paths(scene)?;
        scene.install(sas)?;
        // AES-GCM: ESP header 8, IV 8, pad length and next header 2, ICV 16; the trailer ends on 4 octets.
        let header = if outer == Family::V6 { 40 } else { 20 } + if encap { 8 } else { 0 };
        let mtu = (NARROW - header - 8 - 8 - 16) / 4 * 4 - 2;
        for from in SIDES {
            told(scene, from, mtu).with_context(|| format!("{sas} from {from:?}"))?;
            for family in FAMILIES {
                transfer(scene.lab, from, family, 1 << 20)
                    .with_context(|| format!("TCP over {sas} from {from:?}, inner {family:?}"))?;
            }
        }
    }
    scene.silence()
}

/// The host learns from an error how much passes, and exactly that does.
fn told(scene: &Scene<'_>, from: Side, mtu: usize) -> Result<()> {
    // 20 octets of IPv4 and 8 of ICMP before the data.
    let ping = |size: usize| -> Result<(bool, String)> {
        let mut command = scene.lab.command(from.host_node(), "ping");
        command.args(["-n", "-M", "do", "-W", "0.3", "-c", "1", "-s", &(size - 28).to_string()]);
        let output = run_unchecked(command.arg(from.other().host(Family::V4)))?;
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        Ok((output.status.success(), said.concat()))
    };
    // An error for the gateway first, then from the gateway for the host. Meanwhile the kernel may cut outer packets.
    let mut said = String::new();
    eventually("the host to be told", PATIENCE, || {
        said = ping(mtu + 1)?.1;
        // By an error that arrives, or by the host's own kernel, which has seen one.
        let told = [format!("mtu = {mtu})"), format!("mtu: {mtu}\n"), format!("mtu={mtu}\n")];
        Ok(told.iter().any(|told| said.contains(told)).then_some(()))
    })
    .with_context(|| format!("of {mtu}; it was told {said}"))?;
    // The answer is as long as the question, and the other host has to learn it, too.
    eventually("the largest packet to pass", PATIENCE, || Ok(ping(mtu)?.0.then_some(())))?;
    ensure!(!ping(mtu + 1)?.0, "more than {mtu} octets pass as well");
    Ok(())
}

/// Nobody knows any more what passes where.
fn forget_paths(scene: &mut Scene<'_>) -> Result<()> {
    for node in [Node::HostA, Node::GatewayA, Node::HostB] {
        for family in ["-4", "-6"] {
            scene.lab.run(node, "ip", &[family, "route", "flush", "cache"])?;
        }
    }
    scene.guest.run("ip -4 route flush cache; ip -6 route flush cache").map(drop)
}
