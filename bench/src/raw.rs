//! ESP as protocol 50, packets of 1,400 octets from a sender that batches them: what one worker sends, and what arrives
//! behind the other gateway.

use adit_lab::lab::{Family, Lab, Node, Side, Topology, with_lab};
use adit_lab::process::{Signal, run as run_command};
use anyhow::Result;

use crate::contenders::{Contender, Daemon};
use crate::dataplane::overload;
use crate::results::{Recorder, Turns};

/// Of an inner packet; the sender's datagrams are shorter by the headers.
const PACKET: usize = 1400;
/// By ESP with AES-GCM: header, IV, two octets of padding, trailer, ICV.
const ADDED: usize = 8 + 8 + 2 + 2 + 16;

pub(crate) fn run(options: &Turns) -> Result<()> {
    let recorder = Recorder::new(&options.results)?;
    for _ in 0..options.rounds {
        for contender in [Contender::AditRaw, Contender::AditXdp] {
            with_lab("raw", Topology { direct: true, ..Topology::default() }, |lab| {
                let daemons = contender.start(lab)?;
                let received = overload(lab, options.seconds, PACKET - 28)?;
                recorder.value(contender.name(), "received", received)?;
                // With the other gateway stopped, this one has a core to itself beside the sender.
                for daemon in daemons.iter().skip(1) {
                    if let Daemon::Adit(adit) = daemon {
                        adit.process().signal(Signal::STOP)?;
                    }
                }
                let before = sent(lab)?;
                overload(lab, options.seconds, PACKET - 28)?;
                let rate = (sent(lab)? - before) / f64::from(options.seconds);
                recorder.value(contender.name(), "sent", rate)
            })?;
        }
        // The same without a tunnel: so many packets of that length the kernel takes from a program that does nothing else.
        with_lab("raw", Topology { direct: true, ..Topology::default() }, |lab| {
            let before = sent(lab)?;
            let mut command = lab.command(Node::GatewayA, std::env::current_exe()?);
            command.args(["udp", "raw", &format!("{}:0", Side::B.outer(Family::V4))]);
            command.args([
                "--size",
                &(PACKET + ADDED).to_string(),
                "--seconds",
                &options.seconds.to_string(),
            ]);
            run_command(&mut command)?;
            recorder.value("raw-socket", "sent", (sent(lab)? - before) / f64::from(options.seconds))
        })?;
    }
    Ok(())
}

/// Packets that have left the first gateway.
fn sent(lab: &Lab) -> Result<f64> {
    let text = lab.run(Node::GatewayA, "cat", &["/sys/class/net/wan0/statistics/tx_packets"])?;
    Ok(text.trim().parse()?)
}
