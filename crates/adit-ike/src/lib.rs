//! IKEv2 (RFC 7296) as a machine without I/O.
//!
//! [`Gateway`] takes datagrams and the time and returns what to do as [`Output`]s: datagrams to send, Child SAs to
//! install or remove, events, and a record of every negotiation. It owns no socket, thread, clock, file or random
//! source: `now` and entropy are handed in.
//!
//! Where to find what: [`Gateway`] finds the SA of a datagram and looks up connections; `ike_sa` holds the states of
//! one IKE SA and a file per exchange; [`proposal`] and [`identity`] are the operator's notation; [`config`] is what
//! an operator asked for and `output` what comes out.

#![forbid(unsafe_code)]

mod authentication;
pub mod config;
mod constraints;
mod cookie;
mod credentials;
mod difference;
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
pub mod identity;
mod ike_sa;
mod lookup;
mod nat;
mod output;
pub mod proposal;
mod rate;
mod record;
mod selector;
mod shared;
mod spis;
mod statistics;
mod tally;

pub use difference::{Difference, SelectorPart};
pub use gateway::{CommandError, Gateway, Target, TerminateTarget};
pub use output::*;
pub use shared::Counters;
#[doc(hidden)]
pub use shared::Kept;
pub use statistics::{Histogram, Statistics};
pub use tally::{Exchanged, Tallies, Tally};
