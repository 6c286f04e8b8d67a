//! `adit-bench`: what a handshake and an SA cost, and whether that grows with what is there already. See
//! `bench/README.md`.

#![forbid(unsafe_code)]

mod gateways;
mod machine;
mod memory;
mod peers;
mod wire;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::wire::LoadOptions;

#[derive(Parser)]
#[command(about = "What a handshake and an SA cost")]
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
        What::Respond => wire::respond(),
        What::Load(options) => wire::load(&options),
    }
}

/// The middle one; of an even number the upper.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
