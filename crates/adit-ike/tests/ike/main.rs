//! Two gateways in one process with virtual time and a link that loses, repeats and alters what they say.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop there, and one that runs many schedules says how many"
)]

mod adversarial;
mod aggfrag;
mod certificates;
mod childless;
mod crossing;
mod differences;
mod exploration;
mod followup;
mod forgery;
mod fragments;
mod garbage;
mod hand;
mod handshake;
mod mobike;
mod nat;
mod notices;
mod pair;
mod pki;
mod post_quantum;
mod ppk;
mod probe;
mod reauth;
mod refusals;
mod rekey;
mod reload;
mod repetition;
mod resources;
mod sim;
mod states;
mod strangers;
mod tally;
mod transport;
mod unique;
