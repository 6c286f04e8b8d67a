//! Traffic between the hosts: a TCP transfer whose hash both ends take, and a ping that never stops.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::{Family, Lab, Side};
use crate::process::{Process, Signal, eventually};

/// How much every transfer moves at least: 100 MB.
pub const TRANSFER_BYTES: u64 = 100_000_000;

/// What a transfer did.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// The SHA-256 that the two ends agree on.
    pub sha256: String,
    /// Payload bits per second at the receiver.
    pub bits_per_second: f64,
}

/// Sends `bytes` from the host of `from` to the other host; fails unless both ends saw the same bytes.
pub fn transfer(lab: &Lab, from: Side, family: Family, bytes: u64) -> Result<Transfer> {
    let program = transfer_program()?;
    let to = from.other();
    let label = format!("transfer-{from}-{family:?}");
    let target = match family {
        Family::V4 => format!("{}:7000", to.host(family)),
        Family::V6 => format!("[{}]:7000", to.host(family)),
    };
    let mut receive = lab.command(to.host_node(), &program);
    let mut receiver =
        Process::spawn(&format!("{label}-receive"), receive.args(["receive", &target]), lab.dir())?;
    eventually("the receiver to listen", Duration::from_secs(10), || {
        Ok(receiver.own_output().contains("listening").then_some(()))
    })?;
    let mut send = lab.command(from.host_node(), &program);
    let mut sender = Process::spawn(
        &format!("{label}-send"),
        send.args(["send", &target, &bytes.to_string()]),
        lab.dir(),
    )?;
    // A tenth of what the slowest peer does on an idle machine.
    let limit = Duration::from_secs(20 + bytes / 2_000_000);
    for process in [&mut sender, &mut receiver] {
        let code = process.wait(limit).with_context(|| format!("{label} of {bytes} bytes"))?;
        ensure!(code == Some(0), "{label} failed: {}", process.output());
    }
    let sent = report(&sender.output())?;
    let received = report(&receiver.output())?;
    ensure!(
        sent.0 == bytes && received.0 == bytes,
        "{label}: sent {} of {bytes}, received {}",
        sent.0,
        received.0
    );
    ensure!(sent.1 == received.1, "{label}: SHA-256 differs: sent {}, received {}", sent.1, received.1);
    Ok(Transfer { sha256: received.1, bits_per_second: bytes as f64 * 8.0 / received.2 })
}

/// The last `bytes sha256 seconds` line of the helper's output.
fn report(output: &str) -> Result<(u64, String, f64)> {
    let line = output.lines().rev().find(|line| line.starts_with("done ")).context("no report")?;
    let mut words = line.split_whitespace().skip(1);
    let mut word = || words.next().context("short report");
    Ok((word()?.parse()?, word()?.to_owned(), word()?.parse()?))
}

/// `lab-transfer` is built beside the test binary.
fn transfer_program() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let directory = test.parent().and_then(|deps| deps.parent()).context("where is the test binary?")?;
    let program = directory.join("lab-transfer");
    ensure!(program.exists(), "{} is missing: `cargo build -p adit-lab`", program.display());
    Ok(program)
}

/// A ping that goes on until it is asked for its result.
#[derive(Debug)]
pub struct SteadyPing(Process);

/// What became of a [`SteadyPing`].
#[derive(Clone, Copy, Debug)]
pub struct PingResult {
    /// Requests sent.
    pub sent: u64,
    /// Answers received.
    pub received: u64,
}

impl SteadyPing {
    /// Starts pinging the other host twenty times a second.
    pub fn start(lab: &Lab, from: Side, family: Family) -> Result<Self> {
        let to = from.other().host(family);
        let name = format!("ping-{from}-{family:?}");
        Ok(Self(lab.spawn(from.host_node(), &name, "ping", &["-n", "-i", "0.05", "-W", "3", to])?))
    }

    /// How many answers there were so far.
    pub fn answers(&self) -> usize {
        self.0.output().lines().filter(|line| line.contains(" bytes from ")).count()
    }

    /// Ends it. A request that is under way at that moment does not count as lost.
    pub fn stop(mut self) -> Result<PingResult> {
        self.0.stop(Signal::INT)?;
        let output = self.0.output();
        let line = output
            .lines()
            .rev()
            .find(|line| line.contains("packets transmitted"))
            .context("no ping summary")?;
        let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        let sent = numbers.next().context("transmitted")?;
        let received = numbers.next().context("received")?;
        // ping may be interrupted between a request and its answer.
        let under_way = u64::from(sent == received + 1 && !output.contains(&format!("icmp_seq={sent} ")));
        Ok(PingResult { sent: sent - under_way, received })
    }
}
