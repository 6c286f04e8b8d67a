//! A flood of first messages from everywhere: whoever means it still gets in, memory stays bounded, and a tunnel that is
//! up carries what it carried before.
//!
//! `ADIT_LAB_FLOOD=RATE,SECONDS` says how much; the full form is `ADIT_LAB_FLOOD=50000,60` with a release build on a machine
//! that is otherwise idle. Only the full form judges the throughput.

use adit_lab::adit::{Adit, Settings};
use adit_lab::lab::{Family, Lab, Node, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer};
use adit_lab::process::{Process, eventually, run, run_unchecked, tell};
use adit_lab::traffic::{Passage, Stream, own_program};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16";
const MIB: u64 = 1 << 20;
/// What may be held for strangers: half-open IKE SAs up to the threshold of cookies, one queue of datagrams.
const BOUND: u64 = 32 * MIB;
/// The load of the tunnel that is up: packets a second of so many octets, each way.
const LOAD: (u32, usize) = (2000, 1000);

#[test]
fn a_flood_of_first_messages_keeps_nobody_out() -> Result<()> {
    let full = std::env::var("ADIT_LAB_FLOOD").ok();
    let (rate, seconds) = match &full {
        Some(text) => {
            let (rate, seconds) =
                text.split_once(',').context("ADIT_LAB_FLOOD is RATE,SECONDS, such as 50000,60")?;
            (rate.trim().parse()?, seconds.trim().parse()?)
        }
        None => (5_000, 5),
    };
    with_lab("flood", Topology::default(), |lab| flood(lab, rate, seconds, full.is_some()))
}

fn flood(lab: &Lab, rate: u64, seconds: u64, judge: bool) -> Result<()> {
    let a = Adit::start_text(lab, Side::A, &configuration(Side::A), &Settings::default())?;
    let b = Adit::start_text(lab, Side::B, &configuration(Side::B), &Settings::default())?;
    run(b.command().args(["up", "steady"]))?;
    // The same without the flood, to compare with.
    let calm = measure(lab, &b, Duration::from_secs(seconds.div_ceil(4)))?;

    lab.run(Node::Net, "ip", &["route", "add", "blackhole", "100.64.0.0/10"])?;
    let memory = a.process().resident_memory()?;
    let program = own_program("lab-flood")?;
    let mut command = lab.command(Node::Net, program);
    // A little longer, so that there is no calm at the end.
    command.args([Side::A.outer(Family::V4).to_owned(), rate.to_string(), (seconds + 3).to_string()]);
    let mut flood = Process::spawn("flood", &mut command, lab.dir())?;
    std::thread::sleep(Duration::from_secs(1));
    let under = measure(lab, &b, Duration::from_secs(seconds))?;
    let grown = a.process().resident_memory()?.saturating_sub(memory);
    flood.wait(Duration::from_secs(seconds + 30))?;
    tell(&format!("flood: {}", flood.own_output().trim()));
    tell(&format!("calm: {calm}\nflood: {under}\nmemory: {} KiB more", grown / 1024));

    let sent = flood.own_output().split_whitespace().nth(1).and_then(|count| count.parse::<u64>().ok());
    let sent = sent.with_context(|| flood.own_output())?;
    ensure!(grown < BOUND, "memory grew by {} MiB", grown / MIB);
    ensure!(under.handshakes.0 * 100 >= under.handshakes.1 * 99, "{under}");
    ensure!(under.handshakes.1 > seconds, "{under}: too few to say anything");
    if judge {
        ensure!(
            sent >= rate * seconds * 95 / 100,
            "only {sent} messages were sent: the machine is too slow or busy"
        );
        let least = calm.delivered() * 95 / 100;
        ensure!(
            under.delivered() >= least,
            "{} packets a second in the flood, {} before",
            under.delivered(),
            calm.delivered()
        );
    }
    // And the half-open ones go by themselves.
    eventually("nothing but the steady tunnel", Duration::from_secs(60), || {
        Ok((a.sas()?.len() == 1).then_some(()))
    })?;
    ensure!(a.wait_for_child()?.name == "steady", "{:?}", a.sas()?);
    Ok(())
}

/// What went through in a while.
struct Measure {
    /// How many handshakes were completed, of how many.
    handshakes: (u64, u64),
    passages: [Passage; 2],
    length: Duration,
}

impl Measure {
    /// Packets a second through the steady tunnel, both ways together.
    fn delivered(&self) -> u64 {
        let received: u64 = self.passages.iter().map(|passage| passage.received).sum();
        (received as f64 / self.length.as_secs_f64()) as u64
    }
}

impl std::fmt::Display for Measure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (done, all) = self.handshakes;
        let lost: u64 = self.passages.iter().map(Passage::lost).sum();
        let rate = self.delivered();
        write!(
            f,
            "{done} of {all} handshakes in {:?}, {rate} packets/s through the tunnel, {lost} lost",
            self.length
        )
    }
}

/// Handshakes one after the other, with traffic through the steady tunnel all the time.
fn measure(lab: &Lab, b: &Adit, length: Duration) -> Result<Measure> {
    let stream = Stream::start(lab, Family::V4, LOAD.0, LOAD.1)?;
    let (start, mut handshakes) = (Instant::now(), (0, 0));
    while start.elapsed() < length {
        handshakes.1 += 1;
        let answer = run_unchecked(b.command().args(["up", "gw"]))?;
        if answer.status.success() {
            handshakes.0 += 1;
            run_unchecked(b.command().args(["down", "gw"]))?;
        } else {
            tell(&format!("handshake {}: {}", handshakes.1, String::from_utf8_lossy(&answer.stderr)));
        }
    }
    let length = start.elapsed();
    Ok(Measure { handshakes, length, passages: stream.stop()? })
}

/// A connection that stays up, for UDP, and one that comes and goes.
fn configuration(side: Side) -> String {
    let connection = |name: &str, protocol: &str| {
        let id = |side: Side| format!("{name}.{}", side.id());
        Connection {
            local_id: id(side),
            remote_id: id(side.other()),
            secret_id: id(side.other()),
            local_ts: format!("{}[{protocol}]", side.network(Family::V4)),
            remote_ts: format!("{}[{protocol}]", side.other().network(Family::V4)),
            extra: "retransmit_give_up = 10s".to_owned(),
            ..Connection::new(side, Family::V4, IKE, ESP)
        }
        .render()
        .replace("  gw {", &format!("  {name} {{"))
        .replace("net {", &format!("{name} {{"))
        .replace("ike-1", &format!("ike-{name}"))
    };
    format!("{}{}", connection("steady", "udp"), connection("gw", "tcp"))
}
