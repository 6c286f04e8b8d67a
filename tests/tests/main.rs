//! The laboratory's tests: what is seen of Adit from outside, with real peers and independent oracles. One program, so
//! that those that wait and those that work are spread over the machine together.

mod adit_to_adit;
mod capture;
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
