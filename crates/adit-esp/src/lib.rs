//! ESP (RFC 4303) in tunnel and transport mode as a pure machine: packets and keys in, packets out.
//!
//! This crate owns what happens to one packet between the inner and the outer network: sealing and opening, sequence
//! numbers, the anti-replay window, the check of opened packets against the SA's selectors, the choice of a policy for a
//! packet, and what the outer header takes from the inner one. It never does I/O, never reads a clock or a random source,
//! and never writes an outer IP or UDP header: those belong to `adit-net`.
//!
//! ```text
//! inner packet -> PolicyTable::lookup_outbound -> OutboundSa::seal -> SPI | sequence | IV | ciphertext | ICV
//! SPI .. ICV   -> InboundSa::open (replay, ICV, padding, inner length, selectors, ECN) -> inner packet
//! ```
#![forbid(unsafe_code)]

pub mod fragment;
#[doc(hidden)]
pub mod fuzzing;
mod headers;
mod inbound;
pub mod iptfs;
mod mss;
mod outbound;
mod packet;
mod policy;
mod ports;
mod replay;
mod selector;
pub mod translate;
pub mod transport;
pub mod tunnel;
#[cfg(test)]
mod vectors;

use std::net::IpAddr;

use adit_crypto::{EspKeys, EspTransforms};
use adit_wire::ikev2::{Spi, TrafficSelector};

pub use adit_wire::esp::Mode;
pub use headers::Checksum;
pub use inbound::{Drop, DropCounters, InboundCounters, InboundSa, Opened};
pub use mss::Mss;
pub use outbound::{OutboundCounters, OutboundSa, SealError};
pub use packet::Layout;
pub use policy::{Action, Entry, Policy, PolicyIndex, PolicyTable, ordered};
pub use ports::FragmentPorts;
pub use replay::ReplayWindow;
pub use selector::Selectors;

/// What IKE negotiated for one direction of a Child SA.
#[derive(Debug)]
pub struct SaParameters {
    /// The SPI that every packet of this direction carries.
    pub spi: Spi,
    /// What its packets carry.
    pub mode: Mode,
    /// Encryption, integrity, and whether sequence numbers have 64 bits.
    pub transforms: EspTransforms,
    /// The keys of this direction.
    pub keys: EspKeys,
    /// Size of the anti-replay window in packets, for the inbound direction only. 0 switches the check off, which is
    /// refused together with extended sequence numbers (RFC 4303 3.3.3). See [`ReplayWindow::DEFAULT_SIZE`].
    pub replay_window: u32,
    /// Traffic on our side of the tunnel.
    pub local_ts: Vec<TrafficSelector>,
    /// Traffic on the peer's side of the tunnel.
    pub remote_ts: Vec<TrafficSelector>,
    /// In transport mode and for the inbound direction only: source and destination of the packets in the eyes of the
    /// peer that made their checksums, where a NAT changed them on the way (RFC 3948 3.1.2).
    pub original: Option<(IpAddr, IpAddr)>,
}

/// Why an SA cannot be made from its parameters.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The suite is not implemented or does not fit its keys.
    #[error("ESP suite: {0}")]
    Crypto(#[from] adit_crypto::Error),
    /// Extended sequence numbers need an anti-replay window to tell their high half (RFC 4303 3.3.3).
    #[error("extended sequence numbers need an anti-replay window, and its size is 0")]
    EsnWithoutWindow,
    /// The window is wider than [`ReplayWindow::MAX_SIZE`].
    #[error("an anti-replay window of {0} packets is above the most that is supported, {max}", max = ReplayWindow::MAX_SIZE)]
    WindowTooLarge(u32),
}
