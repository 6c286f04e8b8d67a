//! What an observer sees: captures by `dumpcap`, read back by `tshark`, with or without keys.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::{Lab, Node};
use crate::process::{Process, Signal, eventually, run};

/// A running capture on one interface.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Starts capturing; returns once packets are being caught. `filter` is in the language of pcap, empty for all.
    pub fn start(lab: &Lab, node: Node, interface: &str, filter: &str) -> Result<Self> {
        let mut number = 0;
        let file = loop {
            let file = lab.dir().join(format!("{interface}-{number}.pcap"));
            if !file.exists() {
                break file;
            }
            number += 1;
        };
        let mut command = lab.command(node, "dumpcap");
        // A large kernel buffer: the capture must not be the one that loses packets.
        command.args(["-q", "-P", "-B", "64", "-i", interface, "-w"]).arg(&file);
        if !filter.is_empty() {
            command.args(["-f", filter]);
        }
        let process = Process::spawn(&format!("dumpcap-{interface}-{number}"), &mut command, lab.dir())?;
        eventually("the capture to start", Duration::from_secs(10), || {
            Ok((process.output().contains("File: ") && file.exists()).then_some(()))
        })
        .with_context(|| process.output())?;
        Ok(Self { process, file })
    }

    /// Stops and returns the file (pcap).
    pub fn stop(mut self) -> Result<PathBuf> {
        // dumpcap reads its kernel buffer four times a second; what has passed the wire must be in it by now.
        std::thread::sleep(Duration::from_millis(600));
        self.process.stop(Signal::INT)?;
        let output = self.process.output();
        ensure!(self.file.exists(), "no capture file: {output}");
        Ok(self.file.clone())
    }
}

/// One packet as `tshark` dissects it: the values of the fields asked for. A field that occurs several times, as
/// the addresses of an outer and an inner header do, has several values.
pub type Fields = Vec<Vec<String>>;

/// Lets `tshark` read a capture. `keys` is a directory with Wireshark's `esp_sa` and `ikev2_decryption_table`.
/// Returns one row for each packet that matches `filter`.
pub fn dissect(file: &Path, keys: Option<&Path>, filter: &str, fields: &[&str]) -> Result<Vec<Fields>> {
    // Preferences of the user who runs the test must not matter.
    let empty = tempfile::tempdir()?;
    let mut command = Command::new("tshark");
    command.env("WIRESHARK_CONFIG_DIR", keys.unwrap_or_else(|| empty.path()));
    command.arg("-n").arg("-r").arg(file).args(["-T", "fields", "-E", "separator=/t", "-E", "aggregator=;"]);
    if keys.is_some() {
        command.args([
            "-o",
            "esp.enable_encryption_decode:TRUE",
            "-o",
            "esp.enable_authentication_check:TRUE",
        ]);
    }
    if !filter.is_empty() {
        command.args(["-Y", filter]);
    }
    for field in fields {
        command.args(["-e", field]);
    }
    let output = run(&mut command)?;
    Ok(output
        .lines()
        .map(|line| {
            line.split('\t')
                .map(|values| {
                    values.split(';').filter(|value| !value.is_empty()).map(str::to_owned).collect()
                })
                .collect()
        })
        .collect())
}

/// How many packets match.
pub fn count(file: &Path, filter: &str) -> Result<usize> {
    Ok(dissect(file, None, filter, &["frame.number"])?.len())
}

/// Fails if anything but IKE and ESP between gateways (and what their links need: neighbour discovery, path MTU
/// errors, ARP) is in the capture, or anything at all with an inner address. Returns how many packets were ESP.
pub fn only_protected(file: &Path) -> Result<usize> {
    let inner = "ip.addr == 10.0.0.0/8 or ipv6.addr == fd00::/16";
    let leaked = dissect(file, None, inner, &["frame.number", "_ws.col.Protocol", "_ws.col.Info"])?;
    ensure!(
        leaked.is_empty(),
        "inner addresses between the gateways: {:?}",
        leaked.iter().take(5).collect::<Vec<_>>()
    );
    // Whatever the dissector makes of it: the octets of an inner address next to each other.
    for (what, octets) in [
        ("10.1.0.10", "0a:01:00:0a"),
        ("10.2.0.10", "0a:02:00:0a"),
        ("fd00:1::", "fd:00:00:01:00:00:00:00"),
        ("fd00:2::", "fd:00:00:02:00:00:00:00"),
    ] {
        let found = count(file, &format!("(ip or ipv6) and frame contains {octets}"))?;
        // By chance, four given octets occur once in 4 GB of ciphertext. The captures of tests are smaller.
        ensure!(found == 0, "{found} packets between the gateways contain {what}");
    }
    let other = "(ip or ipv6) and not icmpv6 and not (udp.port == 500 or udp.port == 4500 or esp \
                 or ip.flags.mf == 1 or ip.frag_offset > 0 or ipv6.fraghdr or (icmp.type == 3 and icmp.code == 4))";
    let strange = dissect(file, None, other, &["frame.number", "_ws.col.Protocol", "_ws.col.Info"])?;
    ensure!(strange.is_empty(), "neither IKE nor ESP: {:?}", strange.iter().take(5).collect::<Vec<_>>());
    count(file, "esp")
}
