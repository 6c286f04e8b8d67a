//! IP traffic flow security (RFC 9347): inner packets travel as one stream of octets, in ESP payloads whose size and time say
//! nothing about them.
//!
//! This module owns the AGGFRAG payload: how a [`Sender`] fills payloads of any size from a queue of inner packets, how a
//! [`Receiver`] puts them together again whatever the network lost or mixed up, and when a [`Schedule`] says that the next
//! payload leaves. It never seals or opens, never reads a clock, and never decides where an inner packet may go.
//!
//! ```text
//! sub-type 0 | reserved | BlockOffset 2 | the rest of a packet | packet | packet | .. | the first part of a packet
//!                         octets of that rest, as far as this or later payloads hold it
//! ```

mod payload;
mod receiver;
mod schedule;
mod sender;

pub use payload::{Congestion, Header, HeaderError};
pub use receiver::{Receiver, ReceiverCounters};
pub use schedule::Schedule;
pub use sender::{Filled, Refused, Sender};
