//! Side by side: what the hosts behind two gateways get through them, with every contender in turn.
//!
//! Every turn has a laboratory of its own: both hosts and both gateways on one machine, 1,500 octets between the gateways
//! and 1,420 inside. One that fails loses its turn and holds nobody up.

use std::process::Command;
use std::time::Duration;

use adit_lab::lab::{Family, Lab, Node, Side, Topology, with_lab};
use adit_lab::process::{Process, eventually, run, tell};
use anyhow::{Context, Result};
use serde_json::Value;

use crate::contenders::Contender;
use crate::results::{Recorder, Turns};

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    turns: Turns,
    /// Only these.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Contender>,
    /// Only these measurements.
    #[arg(long, value_delimiter = ',')]
    tests: Vec<Test>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Test {
    /// TCP, one stream.
    Tcp1,
    /// TCP, eight streams.
    Tcp8,
    /// TCP, one stream the other way.
    Tcp1r,
    /// A datagram of 64 octets there and back.
    Rtt,
    /// Datagrams of 64 octets from a sender that batches them, more than anybody can carry.
    Udp64,
}

const TESTS: [Test; 5] = [Test::Tcp1, Test::Tcp8, Test::Tcp1r, Test::Rtt, Test::Udp64];

pub(crate) fn run_rounds(options: &Options) -> Result<()> {
    let recorder = Recorder::new(&options.turns.results)?;
    let contenders = if options.only.is_empty() { &Contender::ALL[..] } else { &options.only };
    let tests = if options.tests.is_empty() { &TESTS[..] } else { &options.tests };
    record_machine(&recorder)?;
    for round in 0..options.turns.rounds {
        for place in 0..contenders.len() {
            // Nobody always follows the same one.
            let Some(&contender) = contenders.get((place + round) % contenders.len()) else { continue };
            if let Err(error) = turn(contender, tests, options.turns.seconds, &recorder) {
                tell(&format!("{} failed: {error:#}", contender.name()));
            }
        }
    }
    Ok(())
}

fn turn(contender: Contender, tests: &[Test], seconds: u32, recorder: &Recorder) -> Result<()> {
    let name = contender.name();
    recorder.fact(&format!("version of {name}"), &contender.version()?)?;
    with_lab("bench", Topology { direct: true, ..Topology::default() }, |lab| {
        let _daemons = contender.start(lab)?;
        for test in tests {
            match test {
                Test::Tcp1 => recorder.value(name, "tcp1", iperf3(lab, seconds, &["-P", "1"])?)?,
                Test::Tcp8 => recorder.value(name, "tcp8", iperf3(lab, seconds, &["-P", "8"])?)?,
                Test::Tcp1r => recorder.value(name, "tcp1r", iperf3(lab, seconds, &["-R"])?)?,
                Test::Rtt => {
                    let [median, most] = round_trip(lab, seconds)?;
                    recorder.value(name, "rtt", median)?;
                    recorder.value(name, "rtt99", most)?;
                }
                Test::Udp64 => recorder.value(name, "udp64", overload(lab, seconds, 64)?)?,
            }
        }
        Ok(())
    })
}

/// What the figures were taken on.
pub(crate) fn record_machine(recorder: &Recorder) -> Result<()> {
    let info = std::fs::read_to_string("/proc/cpuinfo")?;
    let mut models = info.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = models.next().map_or("an unnamed processor", |(_, model)| model);
    recorder.fact("machine", &format!("{} cores, {model}", models.count() + 1))?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    recorder.fact("kernel", kernel.trim())?;
    let commit = run(Command::new("git").args(["rev-parse", "--short", "HEAD"]));
    recorder.fact("commit", commit.as_deref().unwrap_or("unknown").trim())?;
    recorder.fact("date", run(Command::new("date").args(["-u", "+%Y-%m-%d"]))?.trim())
}

/// Gigabits per second that arrive, after a second to get going.
pub(crate) fn iperf3(lab: &Lab, seconds: u32, arguments: &[&str]) -> Result<f64> {
    let server = lab.spawn(Node::HostB, "iperf3-server", "iperf3", &["-s", "-1", "--forceflush"])?;
    eventually("iperf3 to listen", Duration::from_secs(5), || {
        Ok(server.own_output().contains("Server listening").then_some(()))
    })?;
    let mut command = lab.command(Node::HostA, "iperf3");
    command.args(["-c", Side::B.host(Family::V4), "-O", "1", "-t", &seconds.to_string(), "-J"]);
    let mut client = Process::spawn("iperf3-client", command.args(arguments), lab.dir())?;
    client.wait(Duration::from_secs(u64::from(seconds) + 8))?;
    let report: Value = serde_json::from_str(&client.own_output())?;
    let rate = report.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64);
    Ok(rate.with_context(|| format!("iperf3 says {report}"))? / 1e9)
}

/// Median and 99th percentile, in microseconds.
fn round_trip(lab: &Lab, seconds: u32) -> Result<[f64; 2]> {
    let _echo = listener(lab, "echo", seconds + 4)?;
    let words = talker(lab, seconds, &["round-trip", &to_host()])?;
    let mut numbers = words.split_whitespace().map(str::parse);
    let mut next = || numbers.next().context("no round trips")?.context("not a number");
    Ok([next()?, next()?])
}

/// Datagrams of this size that arrive per second when more are sent.
pub(crate) fn overload(lab: &Lab, seconds: u32, size: usize) -> Result<f64> {
    received(lab, seconds, &["blast", &to_host(), "--size", &size.to_string()])
}

/// Datagrams that arrive per second of those that such a talker sends.
pub(crate) fn received(lab: &Lab, seconds: u32, arguments: &[&str]) -> Result<f64> {
    let mut sink = listener(lab, "sink", seconds + 1)?;
    talker(lab, seconds, arguments)?;
    sink.wait(Duration::from_secs(u64::from(seconds) + 8))?;
    Ok(sink.own_output().lines().last().context("no count")?.parse()?)
}

fn listener(lab: &Lab, role: &str, seconds: u32) -> Result<Process> {
    let mut command = lab.command(Node::HostB, std::env::current_exe()?);
    command.args(["udp", role, "0.0.0.0:6000", "--seconds", &seconds.to_string()]);
    let process = Process::spawn(role, &mut command, lab.dir())?;
    eventually("the other host to listen", Duration::from_secs(5), || {
        Ok(process.own_output().contains("ready").then_some(()))
    })?;
    Ok(process)
}

fn to_host() -> String {
    format!("{}:6000", Side::B.host(Family::V4))
}

/// Returns what it printed.
fn talker(lab: &Lab, seconds: u32, arguments: &[&str]) -> Result<String> {
    let mut command = lab.command(Node::HostA, std::env::current_exe()?);
    command.arg("udp").args(arguments).args(["--seconds", &seconds.to_string()]);
    let mut process = Process::spawn("talker", &mut command, lab.dir())?;
    process.wait(Duration::from_secs(u64::from(seconds) + 8))?;
    Ok(process.own_output())
}
