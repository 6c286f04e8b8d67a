//! `adit capture`: what Wireshark reads of it, live and from a file, and who may look.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use adit_lab::adit::{Adit, program};
use adit_lab::capture::{Capture, count, dissect};
use adit_lab::lab::{Family, Lab, Node, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer};
use adit_lab::process::{Process, Signal, eventually, run_unchecked};
use adit_lab::traffic::transfer;
use anyhow::{Context, Result, ensure};

fn pair(lab: &Lab) -> Result<(Adit, Adit)> {
    let connection = |side| Connection::new(side, Family::V4, "aes256gcm16-prfsha384-x25519", "aes256gcm16");
    let a = Adit::start(lab, Side::A, &connection(Side::A))?;
    let b = Adit::start(lab, Side::B, &connection(Side::B))?;
    a.initiate()?;
    b.wait_for_child()?;
    Ok((a, b))
}

/// A capture into `file`, once it has begun; as a shell starts it in the background, which has it ignore interrupts.
fn started(lab: &Lab, adit: &Adit, file: &Path, arguments: &[&str]) -> Result<Process> {
    let adit = adit.command();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' INT; exec \"$0\" \"$@\""]).arg(adit.get_program()).args(adit.get_args());
    let process =
        Process::spawn("capture", command.arg("capture").args(arguments).arg("-w").arg(file), lab.dir())?;
    eventually("the capture to begin", Duration::from_secs(10), || {
        Ok(std::fs::metadata(file).is_ok_and(|file| file.len() > 0).then_some(()))
    })
    .with_context(|| process.output())?;
    Ok(process)
}

/// Until Ctrl-C, while connections are made and packets dropped; all of it is there, and right.
#[test]
fn wireshark_reads_both_sides_of_the_tunnel() -> Result<()> {
    with_lab("capture", Topology::default(), |lab| {
        let (a, _b) = pair(lab)?;
        let file = lab.dir().join("both.pcapng");
        let mut capture = started(lab, &a, &file, &[])?;
        let mode = std::fs::metadata(&file)?.permissions().mode();
        ensure!(mode & 0o777 == 0o600, "{mode:o}: what is inside is for its owner alone");
        // A second one is refused, and leaves what is there as it is.
        let before = std::fs::read(&file)?;
        let refused = run_unchecked(a.command().args(["capture", "--count", "1", "-w"]).arg(&file))?;
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && why.contains("already"), "{why}");
        ensure!(std::fs::read(&file)?.starts_with(&before), "the first one's file is cut");

        let inside = Capture::start(lab, Node::HostA, "lan0", "icmp or icmp6")?;
        for family in [Family::V4, Family::V6] {
            lab.ping(Side::A, family, 3)?;
            lab.ping(Side::B, family, 3)?;
        }
        let inside = inside.stop()?;
        transfer(lab, Side::A, Family::V4, 300_000)?;
        a.terminate_child()?;
        let _ = lab.reaches(Side::A, Family::V4)?;
        // The capture is told of a packet before its sender can be.
        eventually("what was dropped", Duration::from_secs(10), || {
            Ok((count(&file, "frame.comment contains \"dropped\"")? > 0).then_some(()))
        })?;
        capture.stop(Signal::INT)?;
        // All that it has, as it says, and as the file says.
        let all = count(&file, "")?;
        let told = capture.output();
        ensure!(told.contains(&format!("{all} packets, ")), "{all}: {told}");

        let fields = [
            "icmp.type",
            "icmpv6.type",
            "icmp.ident",
            "icmp.seq",
            "icmpv6.echo.sequence_number",
            "data.data",
        ];
        let echo = "(icmp.type == 8 or icmp.type == 0 or icmpv6.type == 128 or icmpv6.type == 129)";
        let in_tunnel = format!(
            "{echo} and frame.interface_name == \"inner\" and not frame.comment contains \"dropped\""
        );
        let mut sent = dissect(&inside, None, echo, &fields)?;
        let mut seen = dissect(&file, None, &in_tunnel, &fields)?;
        sent.sort();
        seen.sort();
        ensure!(sent.len() == 24 && seen == sent, "{} of {}: {seen:?}", seen.len(), sent.len());

        let count = |filter: &str| count(&file, filter);
        // What TCP carries here is random, and taken for one protocol or another.
        ensure!(count("(_ws.malformed and not tcp) or ip.checksum.status == 0")? == 0, "malformed");
        // Each packet inside has one outside, the same way, and says whose it is.
        for way in ["Inbound", "Outbound"] {
            let number = if way == "Inbound" { 1 } else { 2 };
            let of = |interface: &str| {
                format!(
                    "frame.interface_name == \"{interface}\" and frame.packet_flags_direction == {number} and not frame.comment contains \"dropped\""
                )
            };
            let (inner, outer) = (count(&of("inner"))?, count(&of("outer"))?);
            ensure!(inner == outer && inner > 24, "{way}: {inner} inside, {outer} outside");
            ensure!(
                count(&format!("{} and not frame.comment contains \"gw/net, SPI \"", of("inner")))? == 0,
                "{way}"
            );
            ensure!(count(&format!("{} and not esp", of("outer")))? == 0, "{way}");
        }
        let tcp = "frame.interface_name == \"inner\" and tcp";
        ensure!(count(&format!("{tcp} and frame.len > 1500"))? == 0, "super-packets");
        ensure!(count(&format!("{tcp} and tcp.srcport and tcp.len > 0"))? >= 300_000 / 1460, "the transfer");
        let dropped = "frame.comment contains \"dropped: no-sa\" and icmp and ip.dst == 10.2.0.10";
        ensure!(count(dropped)? > 0, "no cause for what was dropped");
        Ok(())
    })
}

/// Through a pipe, as `adit capture | wireshark -k -i -` does; only what is asked for.
#[test]
fn packets_are_seen_while_they_pass() -> Result<()> {
    with_lab("capture-live", Topology::default(), |lab| {
        let (a, _b) = pair(lab)?;
        let mut command = a.command();
        command.args(["capture", "--connection", "gw", "--inner", "--snaplen", "60", "--count", "4"]);
        let mut capture = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut pipe = capture.stdout.take().context("a pipe")?;
        // The section header comes at once: then the capture has begun.
        let mut head = [0; 4];
        pipe.read_exact(&mut head)?;
        lab.ping(Side::A, Family::V4, 2)?;
        let start = Instant::now();
        let mut rest = Vec::new();
        pipe.read_to_end(&mut rest)?;
        ensure!(start.elapsed() < Duration::from_secs(5), "it came after {:?}", start.elapsed());
        let output = capture.wait_with_output()?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success() && told.contains("4 packets, 0 left out"), "{told}");
        let file = lab.dir().join("piped.pcapng");
        std::fs::write(&file, [&head[..], &rest].concat())?;
        let rows =
            dissect(&file, None, "", &["frame.interface_name", "frame.len", "frame.cap_len", "icmp.type"])?;
        let all: Vec<Vec<String>> = rows.into_iter().map(|row| row.concat()).collect();
        let row = |kind: &str| ["inner", "84", "60", kind].map(str::to_owned).to_vec();
        ensure!(all == [row("8"), row("0"), row("8"), row("0")], "{all:?}");

        let unknown = run_unchecked(a.command().args(["capture", "--connection", "nobody"]))?;
        let why = String::from_utf8_lossy(&unknown.stderr).into_owned();
        ensure!(unknown.status.code() == Some(3) && why.contains("nobody"), "{why}");
        Ok(())
    })
}

/// Whoever can reach a TCP port of the machine is not to see what is in the tunnel.
#[test]
fn nobody_sees_packets_by_tcp() -> Result<()> {
    with_lab("capture-tcp", Topology::default(), |lab| {
        let connection = Connection::new(Side::A, Family::V4, "aes256gcm16-prfsha384-x25519", "aes256gcm16");
        let first = Adit::start(lab, Side::A, &connection)?;
        let config = first.config().to_owned();
        first.terminate_daemon()?;
        let control = ["--control", "tcp://127.0.0.1:4502"];
        let adit = || -> Result<Command> {
            let mut command = lab.command(Side::A.gateway(), program()?);
            command.args(control);
            Ok(command)
        };
        let daemon = Process::spawn("daemon", adit()?.arg("run").arg("--config").arg(config), lab.dir())?;
        eventually("the daemon", Duration::from_secs(10), || {
            let status = run_unchecked(adit()?.args(["status", "--json"]))?;
            Ok((!status.stdout.is_empty()).then_some(()))
        })
        .with_context(|| daemon.output())?;
        let refused = run_unchecked(adit()?.args(["capture", "--count", "1"]).stdout(Stdio::null()))?;
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && why.contains("Unix socket"), "{why}");
        Ok(())
    })
}
