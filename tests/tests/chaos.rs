//! Two Adits that rekey all the time over a bad link, with restarts of either side, outages and changes of address.
//! Afterwards both have the same SAs, hold no more memory and descriptors than at first, and have warned of nothing.
//!
//! `ADIT_LAB_CHAOS` says how many rekeys there are to be (10000 is the full form, about half an hour), `ADIT_LAB_SEED`
//! what goes wrong and when.

use adit_lab::adit::{Adit, Settings};
use adit_lab::lab::{Family, Lab, Node, Side, Topology, with_lab};
use adit_lab::peer::Peer;
use adit_lab::process::{Process, eventually, tell};
use adit_lab::scapy;
use adit_lab::traffic::Stream;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// IKE SAs between the two, each between other identities, and Child SAs of each.
const CONNECTIONS: usize = 6;
const CHILDREN: usize = 4;
/// The longest that everything may take to be up again after a disturbance: the dead peer is noticed, and what has been
/// tried in vain meanwhile is tried again.
const PATIENCE: Duration = Duration::from_secs(90);
const MIB: u64 = 1 << 20;

#[test]
fn rekeys_over_a_bad_link_with_restarts_and_moves() -> Result<()> {
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text.parse::<u64>().with_context(|| format!("{name} is a number")),
        Err(_) => Ok(default),
    };
    let (rekeys, seed) = (usize::try_from(number("ADIT_LAB_CHAOS", 300)?)?, number("ADIT_LAB_SEED", 1)?);
    with_lab("chaos", Topology::default(), |lab| {
        chaos(lab, rekeys, seed).with_context(|| format!("seed {seed}"))
    })
}

fn chaos(lab: &Lab, rekeys: usize, seed: u64) -> Result<()> {
    let mut noise = Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let start = Instant::now();
    let link = bad_link(lab, seed)?;
    let mut a = Some(Adit::start_text(lab, Side::A, &configuration(Side::A), &Settings::default())?);
    let mut b = Some(Adit::start_text(lab, Side::B, &configuration(Side::B), &Settings::default())?);
    all_up(&a, &b)?;
    let stream = Stream::start(lab, Family::V4, 50, 200)?;

    // Restarts of side A first, which lives undisturbed from then on; those of side B never end.
    for _ in 0..3 {
        let which = if noise.below(2) == 0 { (&mut a, Side::A) } else { (&mut b, Side::B) };
        restart(lab, which.0, which.1, &mut noise)?;
        all_up(&a, &b)?;
    }
    let before = settled(&a, &b)?;
    let (mut restarts, mut moves, mut outages) = (0, 0, 0);
    // However few rekeys there are to be, each kind of event happens.
    let mut first = [0, 1, 2].into_iter();
    loop {
        let done = rekeyed(&a);
        let event = match first.next() {
            Some(event) => event,
            None if done >= rekeys => break,
            None => noise.below(8),
        };
        match event {
            0 => {
                restarts += 1;
                restart(lab, &mut b, Side::B, &mut noise)?;
            }
            1 | 3 => {
                moves += 1;
                readdress(lab, moves % 2 == 1)?;
            }
            2 => {
                outages += 1;
                outage(lab, Duration::from_secs(1 + noise.below(4)))?;
            }
            _ => std::thread::sleep(Duration::from_secs(1 + noise.below(8))),
        }
        all_up(&a, &b)
            .with_context(|| format!("event {event} after {done} rekeys and {:?}", start.elapsed()))?;
    }
    let after = settled(&a, &b)?;
    tell(&format!(
        "{} rekeys in {:?}, seed {seed}; after three restarts of either side {restarts} of B, {moves} changes of A's \
         address, {outages} outages; (memory, descriptors) of A then {before:?}, now {after:?}",
        rekeyed(&a),
        start.elapsed()
    ));
    let received = stream.received();
    eventually("traffic both ways", Duration::from_secs(10), || {
        Ok(stream.received().iter().zip(received).all(|(now, then)| *now > then + 20).then_some(()))
    })?;
    for passage in stream.stop()? {
        tell(&format!("{passage:?}"));
    }
    drop(link);
    ensure!(after.1 <= before.1, "descriptors grew from {} to {}", before.1, after.1);
    ensure!(after.0 < before.0 + 4 * MIB, "memory grew from {} to {} octets", before.0, after.0);
    for peer in [&a, &b].into_iter().flatten() {
        let log = peer.log();
        let strange: Vec<&str> =
            log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).collect();
        ensure!(
            strange.is_empty(),
            "{} warnings: {:#?}",
            strange.len(),
            strange.iter().take(5).collect::<Vec<_>>()
        );
    }
    Ok(())
}

/// Six connections with four children each, of other ports, that are rekeyed every second or so.
fn configuration(side: Side) -> String {
    let (local, remote) = match side {
        Side::A => ("%any", Side::B.outer(Family::V4)),
        Side::B => (Side::B.outer(Family::V4), "%any"),
    };
    let action = if side == Side::A { "start_action = start" } else { "" };
    let mut text = String::from("connections {\n");
    for connection in 0..CONNECTIONS {
        text.push_str(&format!(
            "gw{connection} {{
              local_addrs = {local}
              remote_addrs = {remote}
              proposals = aes256gcm16-prfsha384-x25519
              mobike = yes
              rekey_time = 5s
              rand_time = 2s
              dpd_delay = 2s
              retransmit_wait = 300ms
              retransmit_give_up = 12s
              local {{
                auth = psk
                id = {connection}.{}
              }}
              remote {{
                auth = psk
                id = {connection}.{}
              }}
              children {{\n",
            side.id(),
            side.other().id()
        ));
        for child in 0..CHILDREN {
            let port = 7001 + CHILDREN * connection + child;
            text.push_str(&format!(
                "net{child} {{
                  local_ts = {}[udp/{port}]
                  remote_ts = {}[udp/{port}]
                  esp_proposals = aes256gcm16
                  rekey_time = 1200ms
                  rand_time = 600ms
                  life_time = 120s
                  {action}
                }}\n",
                side.network(Family::V4),
                side.other().network(Family::V4)
            ));
        }
        text.push_str("}\n}\n");
    }
    text.push_str("}\nsecrets {\n");
    for connection in 0..CONNECTIONS {
        text.push_str(&format!(
            "ike-{connection} {{\n id-a = {connection}.{}\n id-b = {connection}.{}\n secret = \"chaos-{connection}-not-for-use\"\n }}\n",
            Side::A.id(),
            Side::B.id()
        ));
    }
    text.push_str("}\n");
    text
}

/// Waits until every child is up once, and both sides have the same.
fn all_up(a: &Option<Adit>, b: &Option<Adit>) -> Result<()> {
    let (a, b) = (a.as_ref().context("A")?, b.as_ref().context("B")?);
    let mut seen = String::new();
    eventually("the same SAs at both sides, one of each", PATIENCE, || {
        let (one, two) = (table(a, ["spi-in", "spi-out"])?, table(b, ["spi-out", "spi-in"])?);
        seen = format!("{one:?}\n{two:?}");
        // Between the two questions a rekey may have come; the next look will be a better one.
        let complete = |table: &Table| table.0 == CONNECTIONS && table.1.len() == CONNECTIONS * CHILDREN;
        Ok((complete(&one) && complete(&two) && one.1 == two.1).then_some(()))
    })
    .with_context(|| seen.clone())
}

/// How many IKE SAs there are, and the names and SPIs of the Child SAs that carry traffic.
type Table = (usize, BTreeSet<String>);

fn table(peer: &Adit, spis: [&str; 2]) -> Result<Table> {
    let sas = peer.sas()?;
    let children = sas.iter().flat_map(|sa| {
        let live = |state: &str| ["INSTALLED", "REKEYING"].contains(&state);
        let installed = sa.children.iter().filter(move |child| live(&child.state));
        installed.map(|child| {
            format!("{} {} {:?}", sa.connection, child.name, spis.map(|spi| child.values.get(spi)))
        })
    });
    let live = sas.iter().filter(|sa| ["ESTABLISHED", "REKEYING"].contains(&sa.state.as_str()));
    Ok((live.count(), children.collect()))
}

/// Memory and descriptors of side A when nothing but the usual goes on.
fn settled(a: &Option<Adit>, b: &Option<Adit>) -> Result<(u64, usize)> {
    // What was replaced before has drained by then.
    std::thread::sleep(Duration::from_secs(7));
    all_up(a, b)?;
    let process = a.as_ref().context("A")?.process();
    Ok((process.resident_memory()?, process.open_files()?))
}

fn rekeyed(a: &Option<Adit>) -> usize {
    let log = a.as_ref().map(Peer::log).unwrap_or_default();
    log.lines().filter(|line| line.contains("Child SA rekeyed") || line.contains("] replaces [")).count()
}

/// Ends one side, politely or not, and starts it again after a while.
fn restart(lab: &Lab, which: &mut Option<Adit>, side: Side, noise: &mut Noise) -> Result<()> {
    let daemon = which.take().context("a running daemon")?;
    if noise.below(2) == 0 {
        daemon.terminate_daemon()?
    } else {
        daemon.kill()?
    }
    std::thread::sleep(Duration::from_millis(noise.below(3000)));
    *which = Some(Adit::restart(lab, side)?);
    Ok(())
}

/// Side A's other address.
fn readdress(lab: &Lab, moved: bool) -> Result<()> {
    let address = if moved { "198.51.100.77" } else { Side::A.outer(Family::V4) };
    let script = format!(
        "ip -4 addr flush dev wan0; ip addr add {address}/24 dev wan0; ip route replace default via 198.51.100.1"
    );
    lab.run(Node::GatewayA, "sh", &["-ec", &script]).map(drop)
}

/// Nothing passes the router for a while.
fn outage(lab: &Lab, length: Duration) -> Result<()> {
    lab.nft(
        Node::Net,
        "table ip outage {\n chain forward {\n type filter hook forward priority 0\n drop\n }\n }\n",
    )?;
    std::thread::sleep(length);
    lab.nft(Node::Net, "delete table ip outage\n")
}

/// 3 % lost, 2 % repeated, up to 15 ms late and so in any order.
fn bad_link(lab: &Lab, seed: u64) -> Result<Process> {
    let mut script = scapy::script(lab, Node::Net, "bad_link.py")?;
    script.args([seed.to_string().as_str(), "3", "2", "15"]).stdin(Stdio::null());
    let process = Process::spawn("bad_link", &mut script, lab.dir())?;
    eventually("the bad link", Duration::from_secs(10), || {
        Ok(process.own_output().contains("ready").then_some(()))
    })?;
    Ok(process)
}

/// xorshift64*.
struct Noise(u64);

impl Noise {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % limit
    }
}
