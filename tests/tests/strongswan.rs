//! Adit against Debian's strongSwan: every suite, both roles, both families inside and outside, encapsulation forced
//! and needed. strongSwan 5.9.8 in userspace speaks ESP in UDP only, so every tunnel here is encapsulated.

use adit_lab::adit::Adit;
use adit_lab::capture::{Capture, count};
use adit_lab::lab::{FAMILIES, Family, Lab, Node, SIDES, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer, equal_counters};
use adit_lab::process::{eventually, run};
use adit_lab::strongswan::StrongSwan;
use adit_lab::traffic::{TRANSFER_BYTES, transfer};
use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// IKE and ESP proposals that both sides are given, alone.
type Suite = (&'static str, &'static str);

const AES256_GCM: Suite = ("aes256gcm16-prfsha384-x25519", "aes256gcm16");
const AES128_GCM: Suite = ("aes128gcm16-prfsha256-ecp256", "aes128gcm16");
const CHACHA20: Suite = ("chacha20poly1305-prfsha384-ecp384", "chacha20poly1305");
const AES256_CBC: Suite = ("aes256-sha256-modp2048", "aes256-sha256");

#[derive(Clone, Copy, PartialEq, Eq)]
enum Initiator {
    Adit,
    StrongSwan,
}

#[test]
fn aes256gcm_x25519_adit_initiates() -> Result<()> {
    direct("aes256gcm-i", AES256_GCM, Initiator::Adit, Family::V4, false)
}

#[test]
fn aes256gcm_x25519_strongswan_initiates() -> Result<()> {
    direct("aes256gcm-r", AES256_GCM, Initiator::StrongSwan, Family::V4, false)
}

#[test]
fn aes128gcm_ecp256_adit_initiates() -> Result<()> {
    direct("aes128gcm-i", AES128_GCM, Initiator::Adit, Family::V4, false)
}

#[test]
fn aes128gcm_ecp256_strongswan_initiates() -> Result<()> {
    direct("aes128gcm-r", AES128_GCM, Initiator::StrongSwan, Family::V4, false)
}

#[test]
fn chacha20poly1305_ecp384_adit_initiates() -> Result<()> {
    direct("chacha20-i", CHACHA20, Initiator::Adit, Family::V4, false)
}

#[test]
fn chacha20poly1305_ecp384_strongswan_initiates() -> Result<()> {
    direct("chacha20-r", CHACHA20, Initiator::StrongSwan, Family::V4, false)
}

#[test]
fn aes256cbc_sha256_modp2048_adit_initiates() -> Result<()> {
    direct("aes256cbc-i", AES256_CBC, Initiator::Adit, Family::V4, false)
}

#[test]
fn aes256cbc_sha256_modp2048_strongswan_initiates() -> Result<()> {
    direct("aes256cbc-r", AES256_CBC, Initiator::StrongSwan, Family::V4, false)
}

#[test]
fn outer_ipv6_adit_initiates() -> Result<()> {
    direct("outer6-i", AES256_GCM, Initiator::Adit, Family::V6, false)
}

#[test]
fn outer_ipv6_strongswan_initiates() -> Result<()> {
    direct("outer6-r", AES128_GCM, Initiator::StrongSwan, Family::V6, false)
}

#[test]
fn forced_encapsulation_adit_initiates() -> Result<()> {
    direct("encap-i", AES128_GCM, Initiator::Adit, Family::V4, true)
}

#[test]
fn forced_encapsulation_strongswan_initiates() -> Result<()> {
    direct("encap-r", AES256_GCM, Initiator::StrongSwan, Family::V4, true)
}

#[test]
fn adit_initiates_from_behind_a_nat() -> Result<()> {
    behind_nat("nat-i", AES256_GCM, Initiator::Adit)
}

#[test]
fn strongswan_initiates_from_behind_a_nat() -> Result<()> {
    behind_nat("nat-r", AES128_GCM, Initiator::StrongSwan)
}

#[test]
fn a_wrong_guess_of_the_key_exchange_costs_one_more_round() -> Result<()> {
    with_lab("invalid-ke", Topology::default(), |lab| {
        let both = "aes128gcm16-prfsha256-x25519,aes128gcm16-prfsha256-ecp256";
        let ours = Connection::new(Side::A, Family::V4, both, "aes128gcm16");
        let theirs = Connection::new(Side::B, Family::V4, "aes128gcm16-prfsha256-ecp256", "aes128gcm16");
        let adit = Adit::start(lab, Side::A, &ours)?;
        let strongswan = StrongSwan::start(lab, Side::B, &theirs)?;
        adit.initiate()?;
        strongswan.wait_for_log(&["generating IKE_SA_INIT response", "N(INVAL_KE)"])?;
        lab.ping(Side::A, Family::V4, 2)?;
        adit.terminate()?;
        strongswan.wait_for_nothing()?;
        adit.wait_for_nothing()?;

        // And the other way round: strongSwan guesses first, Adit asks for another.
        adit.terminate_daemon()?;
        let adit =
            Adit::start(lab, Side::A, &Connection { proposals: theirs.proposals.clone(), ..ours.clone() })?;
        strongswan.reload(&Connection { proposals: ours.proposals.clone(), ..theirs.clone() })?;
        strongswan.initiate()?;
        strongswan.wait_for_log(&["parsed IKE_SA_INIT response", "N(INVAL_KE)"])?;
        adit.wait_for_child()?;
        lab.ping(Side::A, Family::V4, 2)
    })
}

#[test]
fn an_idle_tunnel_is_probed() -> Result<()> {
    liveness("probing", Side::A, "parsed INFORMATIONAL request")
}

#[test]
fn probes_of_an_idle_tunnel_are_answered() -> Result<()> {
    liveness("probed", Side::B, "parsed INFORMATIONAL response")
}

/// One side probes. If both did, their requests would cross with equal message IDs, and charon 5.9.8 takes the
/// response for a copy of the request that it is working on.
fn liveness(name: &str, prober: Side, sign: &str) -> Result<()> {
    with_lab(name, Topology::default(), |lab| {
        let connection = |side| Connection {
            extra: if side == prober { "dpd_delay = 1s".to_owned() } else { String::new() },
            ..Connection::new(side, Family::V4, AES128_GCM.0, AES128_GCM.1)
        };
        let adit = Adit::start(lab, Side::A, &connection(Side::A))?;
        let strongswan = StrongSwan::start(lab, Side::B, &connection(Side::B))?;
        adit.initiate()?;
        let child = strongswan.wait_for_child()?;
        eventually("three probes", Duration::from_secs(20), || {
            Ok((strongswan.log().matches(sign).count() >= 3).then_some(()))
        })?;
        ensure!(
            strongswan.wait_for_child()?.value("spi-in")? == child.value("spi-in")?,
            "the tunnel changed"
        );
        ensure!(!strongswan.log().contains("retransmit "), "strongSwan had to repeat a message");
        lab.ping(Side::A, Family::V4, 2)
    })
}

#[test]
fn several_children_live_and_die_on_their_own() -> Result<()> {
    with_lab("children", Topology::default(), |lab| {
        // One child for each family; the second one's name is used below.
        let connection = |side: Side| Connection {
            local_ts: side.network(Family::V4).to_owned(),
            remote_ts: side.other().network(Family::V4).to_owned(),
            more_children: format!(
                "net6 {{\n local_ts = {}\n remote_ts = {}\n esp_proposals = {}\n }}",
                side.network(Family::V6),
                side.other().network(Family::V6),
                AES256_CBC.1
            ),
            ..Connection::new(side, Family::V4, AES256_GCM.0, AES256_GCM.1)
        };
        let adit = Adit::start(lab, Side::A, &connection(Side::A))?;
        let strongswan = StrongSwan::start(lab, Side::B, &connection(Side::B))?;
        let children = |names: &[&str]| -> Result<()> {
            for peer in [&adit as &dyn Peer, &strongswan] {
                eventually(&format!("children {names:?} on one IKE SA"), Duration::from_secs(10), || {
                    let [sa] = &*peer.sas()? else { return Ok(None) };
                    let mut found: Vec<&str> = sa.children.iter().map(|child| child.name.as_str()).collect();
                    found.sort_unstable();
                    Ok((found == names).then_some(()))
                })?;
            }
            Ok(())
        };
        let reached = |expected: [bool; 2]| -> Result<()> {
            for (family, expected) in FAMILIES.into_iter().zip(expected) {
                for side in SIDES {
                    ensure!(
                        lab.reaches(side, family)? == expected,
                        "{family:?} from {side:?}: not {expected}"
                    );
                }
            }
            Ok(())
        };

        // The first in IKE_AUTH, the second in CREATE_CHILD_SA, from either side; deleted one by one.
        run(adit.command().args(["up", "gw"]))?;
        children(&["net", "net6"])?;
        reached([true, true])?;
        strongswan.terminate_child()?;
        children(&["net6"])?;
        reached([false, true])?;
        run(adit.command().args(["down", "net6"]))?;
        children(&[])?;
        strongswan.swanctl(&["--initiate", "--child", "net6", "--timeout", "20"])?;
        children(&["net6"])?;
        reached([false, true])?;
        strongswan.initiate()?;
        children(&["net", "net6"])?;
        reached([true, true])?;
        adit.terminate()?;
        adit.wait_for_nothing()?;
        strongswan.wait_for_nothing()
    })
}

#[test]
fn selectors_are_narrowed_to_what_both_want() -> Result<()> {
    with_lab("narrowing", Topology::default(), |lab| {
        let suite = AES128_GCM;
        let wide = |side: Side| Connection {
            local_ts: "0.0.0.0/0".to_owned(),
            remote_ts: "0.0.0.0/0".to_owned(),
            ..Connection::new(side, Family::V4, suite.0, suite.1)
        };
        let narrow = |side: Side| Connection {
            local_ts: side.network(Family::V4).to_owned(),
            remote_ts: side.other().network(Family::V4).to_owned(),
            ..wide(side)
        };
        let adit = Adit::start(lab, Side::A, &narrow(Side::A))?;
        let strongswan = StrongSwan::start(lab, Side::B, &wide(Side::B))?;
        for initiator in [&adit as &dyn Peer, &strongswan] {
            initiator.initiate()?;
            for peer in [&adit as &dyn Peer, &strongswan] {
                let child = peer.wait_for_child()?;
                let side = peer.side();
                ensure!(child.value("local-ts")? == side.network(Family::V4), "{child:?}");
                ensure!(child.value("remote-ts")? == side.other().network(Family::V4), "{child:?}");
            }
            lab.ping(Side::A, Family::V4, 2)?;
            initiator.terminate()?;
            adit.wait_for_nothing()?;
            strongswan.wait_for_nothing()?;
        }
        Ok(())
    })
}

/// Adit is gateway A and strongSwan gateway B, with nothing between them but a router.
fn direct(name: &str, suite: Suite, initiator: Initiator, outer: Family, encap: bool) -> Result<()> {
    with_lab(name, Topology::default(), |lab| {
        let mut ours = Connection::new(Side::A, outer, suite.0, suite.1);
        ours.encap = encap;
        let theirs = Connection::new(Side::B, outer, suite.0, suite.1);
        let observer = unprotected(lab, Side::A)?;
        let adit = Adit::start(lab, Side::A, &ours)?;
        let strongswan = StrongSwan::start(lab, Side::B, &theirs)?;
        exercise(lab, &adit, &strongswan, initiator)?;
        nothing_unprotected(observer)
    })
}

/// Whoever initiates is gateway A, hidden behind the router's own address; the other one does not know where the
/// peer will come from.
fn behind_nat(name: &str, suite: Suite, initiator: Initiator) -> Result<()> {
    with_lab(name, Topology { nat: Some(Side::A), ..Topology::default() }, |lab| {
        let inside = Connection::new(Side::A, Family::V4, suite.0, suite.1);
        let mut outside = Connection::new(Side::B, Family::V4, suite.0, suite.1);
        outside.remote_addrs = "%any".to_owned();
        let observer = unprotected(lab, Side::B)?;
        let (adit, strongswan) = match initiator {
            Initiator::Adit => {
                (Adit::start(lab, Side::A, &inside)?, StrongSwan::start(lab, Side::B, &outside)?)
            }
            Initiator::StrongSwan => {
                (Adit::start(lab, Side::B, &outside)?, StrongSwan::start(lab, Side::A, &inside)?)
            }
        };
        exercise(lab, &adit, &strongswan, initiator)?;
        nothing_unprotected(observer)
    })
}

/// All that the main job is: pings and transfers in both directions and families, counters that agree, and deletes
/// of the child and of the whole SA from both sides.
fn exercise(lab: &Lab, adit: &Adit, strongswan: &StrongSwan, initiator: Initiator) -> Result<()> {
    let (first, second): (&dyn Peer, &dyn Peer) = match initiator {
        Initiator::Adit => (adit, strongswan),
        Initiator::StrongSwan => (strongswan, adit),
    };

    first.initiate().context("first tunnel")?;
    for peer in [first, second] {
        ensure!(peer.wait_for_child()?.encap(), "not encapsulated in UDP");
    }
    for family in FAMILIES {
        for side in SIDES {
            lab.ping(side, family, 3)?;
            transfer(lab, side, family, TRANSFER_BYTES)?;
        }
    }
    let (there, back) = equal_counters(adit, strongswan)?;
    // At 1400 bytes a packet at most.
    let least = 2 * TRANSFER_BYTES / 1400;
    ensure!(
        there > least && back > least,
        "{there} and {back} packets cannot have carried two transfers each way"
    );
    first.terminate().context("the initiator deletes the IKE SA")?;
    gone(lab, first, second)?;

    first.initiate().context("second tunnel")?;
    second.wait_for_child()?;
    SIDES.into_iter().try_for_each(|side| lab.ping(side, Family::V6, 2))?;
    equal_counters(adit, strongswan)?;
    second.terminate_child().context("the responder deletes the child")?;
    for peer in [first, second] {
        eventually("the child to go, the IKE SA to stay", Duration::from_secs(10), || {
            let sas = peer.sas()?;
            let established = sas.iter().all(|sa| sa.state == "ESTABLISHED") && sas.len() == 1;
            Ok((established && sas.iter().all(|sa| sa.children.is_empty())).then_some(()))
        })?;
    }
    second.terminate().context("the responder deletes the IKE SA")?;
    gone(lab, first, second)?;

    first.initiate().context("third tunnel")?;
    second.wait_for_child()?;
    lab.ping(Side::A, Family::V4, 2)?;
    first.terminate_child().context("the initiator deletes the child")?;
    eventually("the child to go", Duration::from_secs(10), || Ok(second.child()?.is_none().then_some(())))?;
    second.terminate().context("the responder deletes the IKE SA without a child")?;
    gone(lab, first, second)?;
    ensure!(!strongswan.log().contains("retransmit "), "strongSwan had to repeat a message");
    Ok(())
}

fn gone(lab: &Lab, first: &dyn Peer, second: &dyn Peer) -> Result<()> {
    first.wait_for_nothing()?;
    second.wait_for_nothing()?;
    ensure!(!lab.reaches(Side::A, Family::V4)?, "the hosts still reach each other");
    Ok(())
}

/// Captures what would be neither IKE nor ESP nor a link's own business.
fn unprotected(lab: &Lab, side: Side) -> Result<Capture> {
    let filter = "not arp and not ip6 multicast and not (icmp6 and not net fd00::/16) and not udp port 500 and not udp port 4500 \
                  and not ip proto 50 and not ip6 proto 50";
    Capture::start(lab, Node::Net, side.router_interface(), filter)
}

fn nothing_unprotected(observer: Capture) -> Result<()> {
    let file = observer.stop()?;
    let leaked = count(&file, "")?;
    ensure!(leaked == 0, "{leaked} packets between the gateways were neither IKE nor ESP");
    Ok(())
}
