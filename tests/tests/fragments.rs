//! IKE fragmentation (RFC 7383) with strongSwan over a path that carries no fragment of IP: messages too large for one
//! packet pass in both directions, in both roles.

use adit_lab::adit::{Adit, Settings};
use adit_lab::capture::{Capture, count};
use adit_lab::lab::{FAMILIES, Family, Lab, Node, SIDES, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer};
use adit_lab::strongswan::{Options, Release, StrongSwan};
use anyhow::{Context, Result, ensure};

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16";
/// Wireshark's number for a message with an Encrypted Fragment payload first.
const FRAGMENT: &str = "isakmp.nextpayload == 53";

#[test]
fn many_selectors_pass_in_fragments() -> Result<()> {
    for initiator in SIDES {
        for family in FAMILIES {
            large(&format!("fragments-{initiator}"), family, initiator, Release::Debian, |_| {})
                .with_context(|| format!("side {initiator} initiates over {family:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn many_small_fragments_pass_a_small_link() -> Result<()> {
    for initiator in SIDES {
        with_lab(&format!("fragments-small-{initiator}"), Topology::default(), |lab| {
            let settings =
                Settings { extra: "fragment_size = 576\n mtu = 1280".to_owned(), ..Settings::default() };
            let options = Options { charon: "fragment_size = 576".to_owned(), ..Options::default() };
            for (node, link) in [(Node::GatewayA, "wan0"), (Node::Net, "a0")] {
                lab.run(node, "ip", &["link", "set", link, "mtu", "1280"])?;
            }
            tunnel(lab, Family::V4, initiator, &settings, &options, |_| {})
        })?;
    }
    Ok(())
}

#[test]
fn keys_larger_than_a_packet_pass_in_fragments() -> Result<()> {
    for initiator in SIDES {
        large(&format!("fragments-key-{initiator}"), Family::V6, initiator, Release::Newest, |connection| {
            connection.proposals = format!("{IKE}-ke1_mlkem1024");
        })?;
    }
    Ok(())
}

#[test]
fn whoever_only_accepts_fragments_still_gets_them() -> Result<()> {
    with_lab("fragments-accept", Topology::default(), |lab| {
        no_ip_fragments(lab)?;
        let mut ours = Connection::new(Side::A, Family::V4, IKE, ESP);
        ours.extra = "fragmentation = accept".to_owned();
        let adit = Adit::start(lab, Side::A, &ours)?;
        let theirs = many_selectors(Connection::new(Side::B, Family::V4, IKE, ESP));
        let strongswan = StrongSwan::start(lab, Side::B, &theirs)?;
        // The request is large, the answer is narrowed and small.
        strongswan.initiate()?;
        strongswan.wait_for_log(&["splitting IKE message"])?;
        adit.wait_for_child()?;
        lab.ping(Side::A, Family::V4, 2)
    })
}

fn large(
    name: &str,
    outer: Family,
    initiator: Side,
    release: Release,
    more: impl Fn(&mut Connection),
) -> Result<()> {
    with_lab(name, Topology::default(), |lab| {
        tunnel(lab, outer, initiator, &Settings::default(), &Options::of(release), more)
    })
}

fn tunnel(
    lab: &Lab,
    outer: Family,
    initiator: Side,
    settings: &Settings,
    options: &Options,
    more: impl Fn(&mut Connection),
) -> Result<()> {
    no_ip_fragments(lab)?;
    let connection = |side| {
        let mut connection = many_selectors(Connection::new(side, outer, IKE, ESP));
        more(&mut connection);
        connection
    };
    let capture = Capture::start(lab, Node::Net, "a0", "udp port 500 or udp port 4500")?;
    let adit = Adit::start_with(lab, Side::A, &connection(Side::A), settings)?;
    let strongswan = StrongSwan::start_with(lab, Side::B, &connection(Side::B), options)?;
    let [first, second]: [&dyn Peer; 2] =
        if initiator == Side::A { [&adit, &strongswan] } else { [&strongswan, &adit] };
    first.initiate()?;
    second.wait_for_child()?;
    for family in FAMILIES {
        SIDES.into_iter().try_for_each(|side| lab.ping(side, family, 2))?;
    }
    // With all that was asked for: a message that was cut short would have fewer.
    let selectors = adit.wait_for_child()?.value("local-ts")?.split_whitespace().count();
    ensure!(selectors >= SELECTORS, "{selectors} selectors");
    first.terminate()?;
    second.wait_for_nothing()?;
    let file = capture.stop()?;
    for side in SIDES {
        let field = if outer == Family::V4 { "ip.src" } else { "ipv6.src" };
        let from = count(&file, &format!("{FRAGMENT} and {field} == {}", side.outer(outer)))?;
        ensure!(from >= 2, "{from} fragments of side {side}");
    }
    let whole = count(&file, "isakmp and frame.len > 1400")?;
    ensure!(whole == 0, "{whole} IKE messages too large for the path");
    ensure!(!strongswan.log().contains("retransmit "), "strongSwan had to repeat a message");
    Ok(())
}

const SELECTORS: usize = 60;

/// So many networks behind gateway A that the selectors alone fill more than a packet, in the answer too.
fn many_selectors(mut connection: Connection) -> Connection {
    let ts = if connection.local_id == Side::A.id() {
        &mut connection.local_ts
    } else {
        &mut connection.remote_ts
    };
    for number in 0..SELECTORS {
        ts.push_str(&format!(",fd00:101:0:{number:x}::/64"));
    }
    connection
}

/// The router drops fragments of IP, as many a firewall does.
fn no_ip_fragments(lab: &Lab) -> Result<()> {
    lab.nft(
        Node::Net,
        "table inet lab {\n chain early {\n type filter hook prerouting priority -450\n \
         ip frag-off & 0x3fff != 0 drop\n exthdr frag exists drop\n }\n }\n",
    )
}
