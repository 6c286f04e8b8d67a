//! Transport mode: the gateway and the kernel as two hosts that talk to each other (RFC 4303 3.1.1).

use super::*;

/// Octets of payload in a ping: odd, even, usual, large. Shorter ones would be lost over IPv6: Linux takes ESP in UDP for
/// too short there if it has less than 40 octets (`xfrm6_udp_encap_rcv`).
const SIZES: [&str; 4] = ["7", "8", "56", "1300"];

pub(super) fn two_hosts_talk(scene: &mut Scene<'_>) -> Result<()> {
    let between = |family| -> Result<PolicySpec> {
        Ok(PolicySpec::new(policy_of(true, family), "hosts", host(Side::A, family)?, host(Side::B, family)?))
    };
    scene.plane.set_policies(vec![networks_policy()?, between(Family::V4)?, between(Family::V6)?])?;
    scene.forget()?;
    for (number, suite) in suites::SUITES.iter().enumerate() {
        for outer in FAMILIES {
            for encap in [false, true] {
                let sas = Sas { suite, transport: true, outer, encap, esn: number % 2 == 1, ..Sas::usual() };
                talk(scene, sas).with_context(|| sas.to_string())?;
            }
        }
    }
    scene.plane.set_policies(vec![networks_policy()?])?;
    Ok(())
}

/// Both hosts ask, and the kernel of the other answers what it was asked. Nothing of that is seen between them.
fn talk(scene: &mut Scene<'_>, sas: Sas<'_>) -> Result<()> {
    let id = scene.install(sas)?;
    let (ours, theirs) = (Side::A.outer(sas.outer), Side::B.outer(sas.outer));
    let whole = |said: &str| {
        ensure!(said.contains(" 0% packet loss") && !said.contains("wrong data"), "{said}");
        Ok(())
    };
    for size in SIZES {
        // One at a time: ping waits for several only as long as the first has taken.
        let words = ["-n", "-c", "1", "-W", "10", "-s", size];
        let said = scene.lab.run(Node::GatewayA, "ping", &[&words[..], &[theirs]].concat());
        whole(&said?).context("from Adit")?;
        let said = scene.guest.run(&format!("ping {} {ours} || true", words.join(" ")))?;
        whole(&said).context("from the kernel")?;
    }
    // Questions and answers, both ways.
    let sent = 2 * SIZES.len() as u64;
    let counters = scene.counters(id, sent)?;
    ensure!((counters.packets_out, counters.packets_in) == (sent, sent), "{counters:?}");
    for end in &mut scene.between {
        let clear = end.catch(0, is_ping)?;
        ensure!(clear.is_empty(), "{} pings in the clear", clear.len());
    }
    Ok(())
}

fn is_ping(packet: &[u8]) -> bool {
    match packet.first().map(|first| first >> 4) {
        Some(4) => packet.get(9) == Some(&1),
        Some(6) => packet.get(6) == Some(&58) && matches!(packet.get(40), Some(128 | 129)),
        _ => false,
    }
}
