//! What many tunnels cost while nothing is sent through them: one `adit run` as initiator of all, another as responder.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use adit_lab::adit::{Adit, Settings};
use adit_lab::lab::{Family, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer as _, SECRET};
use adit_lab::process::eventually;
use anyhow::{Result, ensure};

use crate::gateways::{CLASSICAL, ESP, NETWORKS, own_address};
use crate::results::{self, Recorder};
use crate::wire::cpu_seconds;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many tunnels.
    #[arg(long, default_value_t = 1000)]
    tunnels: usize,
    /// For how long their CPU time is counted.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// The file that the results are added to.
    #[arg(long, default_value = results::DEFAULT)]
    results: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let recorder = Recorder::new(&options.results)?;
    // As it comes, and asking every peer every half a minute whether it is there.
    for (measure, dpd_delay) in [("idle", 0), ("idle-dpd", 30)] {
        with_lab("idle", Topology { direct: true, ..Topology::default() }, |lab| {
            let settings = Settings {
                extra: "cookie_threshold = 1000000\n half_open_limit = 1000000\n log = warn".to_owned(),
                ..Settings::default()
            };
            let mut connection = Connection::new(Side::B, Family::V4, CLASSICAL, ESP);
            (connection.remote_addrs, connection.remote_id) = ("%any".to_owned(), "%any".to_owned());
            connection.secret_id = "%any".to_owned();
            (connection.local_ts, connection.remote_ts) = (NETWORKS.0.to_owned(), NETWORKS.1.to_owned());
            connection.extra = format!("mobike = no\n unique = never\n dpd_delay = {dpd_delay}s");
            connection.encap = true;
            let responder = Adit::start_with(lab, Side::B, &connection, &settings)?;
            let initiator =
                Adit::start_text(lab, Side::A, &initiators(options.tunnels, dpd_delay), &settings)?;
            let up = |adit: &Adit| -> Result<usize> {
                Ok(adit.sas()?.iter().map(|sa| usize::from(!sa.children.is_empty())).sum())
            };
            eventually("the tunnels", Duration::from_secs(60), || {
                Ok((up(&initiator)? == options.tunnels).then_some(()))
            })?;
            // What is left to do after the last handshake.
            std::thread::sleep(Duration::from_secs(2));
            let daemons = [("initiator", &initiator), ("responder", &responder)];
            let spent = || daemons.map(|(_, adit)| cpu_seconds(adit.process().id()));
            let before = spent();
            std::thread::sleep(Duration::from_secs(options.seconds));
            for (((role, adit), before), after) in daemons.into_iter().zip(before).zip(spent()) {
                let share = (after? - before?) / options.seconds as f64;
                recorder.value(role, measure, share)?;
                ensure!(up(adit)? == options.tunnels, "not all tunnels stayed up");
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// A connection for each tunnel, with an identity and a network of its own.
pub(crate) fn initiators(tunnels: usize, dpd_delay: u32) -> String {
    let mut text = "connections {\n".to_owned();
    let (local, remote) = (Side::A.outer(Family::V4), Side::B.outer(Family::V4));
    for number in 0..tunnels {
        let address = own_address(number);
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "  gw{number} {{
    local_addrs = {local}
    remote_addrs = {remote}
    proposals = {CLASSICAL}
    encap = yes
    mobike = no
    unique = never
    dpd_delay = {dpd_delay}s
    local {{
      auth = psk
      id = c{number}.bench.example
    }}
    remote {{
      auth = psk
      id = {}
    }}
    children {{
      net {{
        local_ts = {address}/32
        remote_ts = {}
        esp_proposals = {ESP}
        start_action = start
      }}
    }}
  }}",
            Side::B.id(),
            NETWORKS.0,
        );
    }
    text + &format!("}}\nsecrets {{\n  ike {{\n    secret = \"{SECRET}\"\n  }}\n}}\n")
}
