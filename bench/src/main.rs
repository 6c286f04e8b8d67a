//! `adit-bench`: what a handshake, an SA and a packet cost, beside others, and whether that grows with what is there
//! already. See `bench/README.md`.

#![forbid(unsafe_code)]

mod contenders;
mod control;
mod dataplane;
mod gateways;
mod idle;
mod load;
mod loading;
mod machine;
mod memory;
mod peers;
mod profile;
mod raw;
mod report;
mod results;
mod scale;
mod wire;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::wire::LoadOptions;

#[derive(Parser)]
#[command(about = "What a handshake, an SA and a packet cost")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The machine alone, in this process: CPU time of a handshake with 1, 1,000 and 50,000 tunnels and connections.
    Machine(Extent),
    /// Sealing and opening in memory: beside the bare cipher, with many SAs, with many policies. No root.
    Memory(memory::Options),
    /// Over UDP in namespaces, Adit and strongSwan in turn: handshakes per second, CPU time, memory. Needs root.
    Peers(Extent),
    /// The control socket with 10,000 SAs, and with 100 clients that ask and never read, in turns. Needs root.
    Control(control::Options),
    /// What it takes to load a connection and a secret beside 1, 1,000 and 10,000 others. Needs root.
    Loading(loading::Options),
    /// Side by side with its peers: what the hosts behind two gateways get through them. Needs root.
    Dataplane(dataplane::Options),
    /// Raw ESP: what one worker sends, and what arrives. Needs root.
    Raw(results::Turns),
    /// Packets through many SAs and under many policies, through both gateways. Needs root.
    Scale(scale::Options),
    /// What 1,000 tunnels cost while nothing is sent through them. Needs root.
    Idle(idle::Options),
    /// Where the time goes while a TCP stream passes both gateways. Needs root and perf.
    Profile(profile::Options),
    /// The results as tables, and into the document.
    Report(report::Options),
    /// Load on UDP (started by `dataplane`, `raw` and `scale`).
    #[command(hide = true)]
    Udp(load::Load),
    /// A responder without a data plane (started by `peers`).
    #[command(hide = true)]
    Respond,
    /// An initiator that brings up many tunnels (started by `peers`).
    #[command(hide = true)]
    Load(LoadOptions),
}

#[derive(clap::Args)]
struct Extent {
    /// How many tunnels and connections there are, from few to many.
    #[arg(long, value_delimiter = ',', default_value = "1,1000,50000")]
    levels: Vec<usize>,
    /// Handshakes of one measurement. `machine` takes each tunnel down at once, `peers` all of them after it.
    #[arg(long, default_value_t = 300)]
    handshakes: usize,
    /// Measurements of each subject, in turns.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Give a peer up that takes longer than so many seconds to fill (`peers` only).
    #[arg(long, default_value_t = 600)]
    patience: u64,
}

fn main() -> Result<()> {
    match Cli::parse().what {
        What::Machine(extent) => machine::run(&extent),
        What::Memory(options) => memory::run(&options),
        What::Peers(extent) => peers::run(&extent),
        What::Control(options) => control::run(&options),
        What::Loading(options) => loading::run(&options),
        What::Dataplane(options) => dataplane::run_rounds(&options),
        What::Raw(options) => raw::run(&options),
        What::Scale(options) => scale::run(&options),
        What::Idle(options) => idle::run(&options),
        What::Profile(options) => profile::run(&options),
        What::Report(options) => report::run(&options),
        What::Udp(load) => load::run(&load),
        What::Respond => wire::respond(),
        What::Load(options) => wire::load(&options),
    }
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    quantile(&mut values, 0.5)
}

/// The value that so large a part of the others is below; between two of them their mean, weighted by nearness. Sorts.
fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = part * values.len().saturating_sub(1) as f64;
    let at = |place: f64| values.get(place as usize).copied().unwrap_or(f64::NAN);
    let (below, above) = (at(place.floor()), at(place.ceil()));
    below + (above - below) * place.fract()
}

/// Numbers that look random, the same each time.
fn random() -> impl Iterator<Item = u64> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    })
}
