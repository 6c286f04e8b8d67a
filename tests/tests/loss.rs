//! A link that loses every fifth packet in either direction: tunnels come up, are rekeyed and deleted, and what the
//! hosts miss is exactly what the link has dropped.

use adit_lab::adit::{Adit, Settings};
use adit_lab::lab::{Family, Lab, Node, SIDES, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer, Rekey, rekey_and_wait};
use adit_lab::process::{eventually, tell};
use adit_lab::strongswan::{Options, StrongSwan};
use adit_lab::traffic::Stream;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16";
const REKEYS: usize = 5;
/// Each message is repeated until it is answered; this is enough for ten in a row to be lost.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn adit_and_strongswan_over_a_link_that_drops_a_fifth() -> Result<()> {
    for initiator in SIDES {
        with_lab(&format!("loss-{initiator}"), Topology::default(), |lab| {
            let settings = Settings { extra: "log = debug".to_owned(), ..Settings::default() };
            let adit = Adit::start_with(lab, Side::A, &connection(Side::A), &settings)?;
            let options = Options {
                charon: "retransmit_timeout = 0.5\n retransmit_tries = 12\n retransmit_base = 1.3".to_owned(),
                ..Options::default()
            };
            let strongswan = StrongSwan::start_with(lab, Side::B, &connection(Side::B), &options)?;
            drops(lab)?;
            let [first, second]: [&dyn Peer; 2] =
                if initiator == Side::A { [&adit, &strongswan] } else { [&strongswan, &adit] };
            lossy(lab, first, second)
        })?;
    }
    Ok(())
}

#[test]
fn two_adits_over_a_link_that_drops_a_fifth() -> Result<()> {
    with_lab("loss-adits", Topology::default(), |lab| {
        let mut encapsulated = connection(Side::A);
        encapsulated.encap = true;
        let a = Adit::start(lab, Side::A, &encapsulated)?;
        let b = Adit::start(lab, Side::B, &connection(Side::B))?;
        drops(lab)?;
        lossy(lab, &a, &b)
    })
}

#[test]
fn a_delete_that_is_lost_is_repeated_and_so_is_its_answer() -> Result<()> {
    for lost in ["a0", "b0"] {
        with_lab("loss-delete", Topology::default(), |lab| {
            let adit = Adit::start(lab, Side::A, &connection(Side::A))?;
            let strongswan = StrongSwan::start(lab, Side::B, &connection(Side::B))?;
            adit.initiate()?;
            strongswan.wait_for_child()?;
            // Whatever comes from this side is lost.
            lab.nft(
                Node::Net,
                &format!(
                    "table ip silence {{\n chain forward {{\n type filter hook forward priority 0\n iifname {lost} drop\n }}\n }}\n"
                ),
            )?;
            let mut down = adit.command().args(["down", "gw"]).stdout(Stdio::null()).spawn()?;
            std::thread::sleep(Duration::from_millis(1200));
            lab.nft(Node::Net, "delete table ip silence\n")?;
            strongswan.wait_for_nothing()?;
            adit.wait_for_nothing()?;
            ensure!(down.wait()?.success(), "`adit down` failed");
            Ok(())
        })
        .with_context(|| format!("what comes from {lost} is lost"))?;
    }
    Ok(())
}

fn connection(side: Side) -> Connection {
    Connection::new(side, Family::V4, IKE, ESP)
}

fn lossy(lab: &Lab, first: &dyn Peer, second: &dyn Peer) -> Result<()> {
    first.initiate()?;
    for peer in [first, second] {
        peer.wait_for_child()?;
    }
    let stream = Stream::start(lab, Family::V4, 200, 200)?;
    for turn in 0..2 * REKEYS {
        let [by, other] = if turn % 2 == 0 { [first, second] } else { [second, first] };
        let what = if turn % 4 < 2 { Rekey::Child } else { Rekey::Ike };
        rekey_and_wait(by, other, what, PATIENCE)?;
    }
    let passages = stream.stop()?;
    let lost: u64 = passages.iter().map(|passage| passage.lost()).sum();
    let sent: u64 = passages.iter().map(|passage| passage.sent).sum();
    let dropped = dropped(lab)?;
    tell(&format!("{sent} packets sent, {lost} lost, {dropped} dropped by the link"));
    for passage in &passages {
        ensure!(passage.duplicated == 0 && passage.refused == 0, "{passage:?}");
    }
    ensure!(lost == dropped, "{lost} lost, {dropped} dropped by the link: {passages:?}");
    // A fifth, or it was another test than this.
    ensure!(lost * 100 > sent * 15 && lost * 100 < sent * 25, "{lost} of {sent} lost");
    first.terminate()?;
    for peer in [first, second] {
        eventually(&format!("no SA at side {}", peer.side()), PATIENCE, || {
            Ok(peer.sas()?.is_empty().then_some(()))
        })?;
    }
    Ok(())
}

/// Every fifth packet is dropped at random; those of ESP (no non-ESP marker behind the UDP header, more than a
/// keepalive) are counted apart.
fn drops(lab: &Lab) -> Result<()> {
    lab.nft(
        Node::Net,
        "table inet lab {\n counter data { }\n chain forward {\n type filter hook forward priority 0\n \
         udp dport 4500 udp length > 12 @th,64,32 != 0 numgen random mod 100 < 20 counter name data drop\n \
         udp dport 4500 @th,64,32 == 0 numgen random mod 100 < 20 drop\n \
         udp dport 500 numgen random mod 100 < 20 drop\n }\n }\n",
    )
}

fn dropped(lab: &Lab) -> Result<u64> {
    let text = lab.run(Node::Net, "nft", &["-j", "list", "counter", "inet", "lab", "data"])?;
    let json: Value = serde_json::from_str(&text)?;
    let objects = json.get("nftables").and_then(Value::as_array).context("nftables")?;
    objects
        .iter()
        .find_map(|object| object.get("counter")?.get("packets")?.as_u64())
        .with_context(|| format!("no counter in {text}"))
}
