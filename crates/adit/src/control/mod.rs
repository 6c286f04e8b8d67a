//! The control interface: how `adit` commands, `swanctl` and other programs talk to the daemon.
//!
//! It speaks vici, strongSwan's control protocol, on a Unix socket or a loopback TCP port.

pub mod client;
pub mod negotiation;
pub mod report;
pub mod server;
pub mod vici;
