//! The laboratory's tests: what is seen of Adit from outside, with real peers and independent oracles. One program, so
//! that those that wait and those that work are spread over the machine together.

mod adit_to_adit;
mod capture;
mod certificates;
mod chaos;
mod commands;
mod demo;
mod explain;
mod flood;
mod fragments;
mod garbage;
mod health;
mod iptfs;
mod kernel_esp;
mod laboratory;
mod lifecycle;
mod links;
mod loss;
mod mobike;
mod monitoring;
mod net_dataplane;
mod net_fence;
mod net_namespaces;
mod never_clear;
mod newcomer;
mod observers;
mod per_cpu;
mod post_quantum;
mod reconcile;
mod recovery;
mod refusals;
mod rekey_strongswan;
mod route_based;
mod strongswan;
mod swanctl;
mod transport;
mod vici;

#[test]
fn every_file_here_is_part_of_it() -> anyhow::Result<()> {
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let declared = include_str!("main.rs").lines().any(|line| line == format!("mod {name};"));
        anyhow::ensure!(declared || name == "main", "{}: no test in it runs", path.display());
    }
    Ok(())
}
