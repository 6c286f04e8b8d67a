//! Traffic between the hosts: a TCP transfer whose hash both ends take, a ping that never stops, and numbered packets
//! both ways that tell what was lost.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

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
    let program = own_program("lab-transfer")?;
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

/// The laboratory's own programs are built beside the test binary.
pub fn own_program(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let directory = test.parent().and_then(|deps| deps.parent()).context("where is the test binary?")?;
    let program = directory.join(name);
    ensure!(program.exists(), "{} is missing: `cargo build -p adit-lab`", program.display());
    Ok(program)
}

/// Numbered UDP packets in both directions at a steady rate, until it is asked for its result.
#[derive(Debug)]
pub struct Stream {
    ends: [Process; 2],
    /// It goes on as long as this file is there.
    file: PathBuf,
}

/// What became of the packets of one direction of a [`Stream`].
#[derive(Clone, Debug)]
pub struct Passage {
    /// Whose packets they were.
    pub from: Side,
    /// How many left the host.
    pub sent: u64,
    /// How many did not: the host's kernel knew that there was no way.
    pub refused: u64,
    /// How many arrived.
    pub received: u64,
    /// How many arrived again.
    pub duplicated: u64,
    /// How many were overtaken by a later one.
    pub reordered: u64,
    /// The longest way in milliseconds.
    pub slowest_ms: f64,
    /// The rest of the receiver's account, for people.
    pub account: String,
}

impl Passage {
    /// How many left and never arrived.
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }

    /// Fails unless every packet arrived exactly once.
    pub fn ensure_perfect(&self) -> Result<()> {
        ensure!(
            self.sent > 0 && self.lost() == 0 && self.refused == 0 && self.duplicated == 0,
            "{} of {} packets lost, {} refused, {} duplicated: {self:?}",
            self.lost(),
            self.sent,
            self.refused,
            self.duplicated
        );
        Ok(())
    }
}

impl Stream {
    /// Starts sending `rate` packets a second with `size` octets of payload from either host to the other.
    pub fn start(lab: &Lab, family: Family, rate: u32, size: usize) -> Result<Self> {
        let program = own_program("lab-stream")?;
        let file = lab.dir().join(format!("stream-{family:?}.on"));
        let at = |side: Side| match family {
            Family::V4 => format!("{}:7001", side.host(family)),
            Family::V6 => format!("[{}]:7001", side.host(family)),
        };
        let end = |side: Side| -> Result<Process> {
            let mut command = lab.command(side.host_node(), &program);
            command.args([at(side), at(side.other()), rate.to_string(), size.to_string()]).arg(&file);
            Process::spawn(&format!("stream-{side}-{family:?}"), &mut command, lab.dir())
        };
        let ends = [end(Side::A)?, end(Side::B)?];
        for end in &ends {
            eventually("the stream to be ready", Duration::from_secs(10), || {
                Ok(end.own_output().contains("ready").then_some(()))
            })?;
        }
        std::fs::write(&file, "")?;
        Ok(Self { ends, file })
    }

    /// How many packets have arrived so far at side A and at side B.
    pub fn received(&self) -> [u64; 2] {
        self.ends.each_ref().map(|process| {
            let output = process.own_output();
            let line = output.lines().rev().find(|line| line.starts_with("sent "));
            line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
        })
    }

    /// Ends it and returns what became of the packets of side A and of side B.
    pub fn stop(mut self) -> Result<[Passage; 2]> {
        std::fs::remove_file(&self.file)?;
        let mut accounts = Vec::new();
        for process in &mut self.ends {
            let code = process.wait(Duration::from_secs(20))?;
            let output = process.own_output();
            ensure!(code == Some(0), "lab-stream failed: {output}");
            let line = output.lines().last().context("no account")?;
            accounts.push((serde_json::from_str::<Value>(line).context("account")?, line.to_owned()));
        }
        let [(a, a_line), (b, b_line)] =
            <[_; 2]>::try_from(accounts).ok().context("two ends have two accounts")?;
        let passage = |from: Side, sender: &Value, receiver: &Value, line: &str| -> Result<Passage> {
            let number =
                |value: &Value, name: &str| value.get(name).and_then(Value::as_u64).context("number");
            ensure!(number(receiver, "strange")? == 0, "strange packets: {line}");
            Ok(Passage {
                from,
                sent: number(sender, "sent")?,
                refused: number(sender, "refused")?,
                received: number(receiver, "received")?,
                duplicated: number(receiver, "duplicated")?,
                reordered: number(receiver, "reordered")?,
                slowest_ms: receiver.get("slowest_ms").and_then(Value::as_f64).context("slowest_ms")?,
                account: line.to_owned(),
            })
        };
        Ok([passage(Side::A, &a, &b, &b_line)?, passage(Side::B, &b, &a, &a_line)?])
    }
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
