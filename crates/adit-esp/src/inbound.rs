//! Opening: from ESP packets to inner IP packets on one SA (RFC 4303 3.4, RFC 4301 5.2).
//!
//! This module owns the order of the checks and the cause of every drop. It never finds the SA, which is the caller's by SPI,
//! and never answers a bad packet.

use adit_wire::esp::{NEXT_HEADER_IPV4, NEXT_HEADER_IPV6, NEXT_HEADER_NONE};
use adit_wire::ikev2::Spi;

use crate::packet::PacketProtection;
use crate::tunnel::{Ecn, decapsulate_ecn};
use crate::{Error, ReplayWindow, SaParameters, Selectors};

/// The receiving half of a Child SA, in tunnel mode.
pub struct InboundSa {
    spi: Spi,
    protection: PacketProtection,
    window: ReplayWindow,
    selectors: Selectors,
    counters: InboundCounters,
}

/// What was in an ESP packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'p> {
    /// An inner IP packet: verified, fresh, whole, and from and to where this SA may carry.
    Packet(&'p [u8]),
    /// Nothing: the packet was sent to hide traffic (RFC 4303 2.6).
    Dummy,
}

/// Why a packet was dropped, one variant per cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Drop {
    /// Too short for its fields, or not whole cipher blocks.
    Malformed,
    /// Its sequence number has been seen.
    Replayed,
    /// Its sequence number lies below the replay window.
    TooOld,
    /// Its ICV is wrong.
    Authentication,
    /// Its padding does not fit or does not read 1, 2, 3 ..
    Padding,
    /// It carries something that is neither an IP packet nor a dummy, or not the IP version it says.
    NextHeader,
    /// The inner packet says that it is longer than what arrived, or shorter than its own header.
    InnerLength,
    /// The inner packet's headers make no sense.
    InnerHeader,
    /// The inner packet is not of the traffic that the SA is for.
    Selector,
    /// Congestion met on the way cannot be told to the inner packet's transport (RFC 6040 4.2).
    Congestion,
}

impl Drop {
    /// Every cause.
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::Replayed,
        Self::TooOld,
        Self::Authentication,
        Self::Padding,
        Self::NextHeader,
        Self::InnerLength,
        Self::InnerHeader,
        Self::Selector,
        Self::Congestion,
    ];

    /// A stable name for counters and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Replayed => "replayed",
            Self::TooOld => "too-old",
            Self::Authentication => "authentication",
            Self::Padding => "padding",
            Self::NextHeader => "next-header",
            Self::InnerLength => "inner-length",
            Self::InnerHeader => "inner-header",
            Self::Selector => "selector",
            Self::Congestion => "congestion",
        }
    }
}

impl std::fmt::Display for Drop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Dropped packets, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropCounters([u64; Drop::ALL.len()]);

impl DropCounters {
    /// Counts one.
    pub fn record(&mut self, cause: Drop) {
        if let Some(count) = self.0.get_mut(cause as usize) {
            *count += 1;
        }
    }

    /// How many for this cause.
    #[must_use]
    pub fn count(&self, cause: Drop) -> u64 {
        self.0.get(cause as usize).copied().unwrap_or(0)
    }

    /// Every cause with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Drop, u64)> + '_ {
        Drop::ALL.into_iter().map(|cause| (cause, self.count(cause)))
    }

    /// How many in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl std::ops::AddAssign for DropCounters {
    fn add_assign(&mut self, other: Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }
}

/// What an [`InboundSa`] has received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InboundCounters {
    /// Inner packets that passed every check.
    pub packets: u64,
    /// Their bytes, as inner IP packets.
    pub bytes: u64,
    /// Dummy packets.
    pub dummies: u64,
    /// Packets dropped.
    pub drops: DropCounters,
}

impl InboundSa {
    /// An SA that has received nothing yet.
    ///
    /// # Errors
    /// [`Error::Crypto`] if the suite is not implemented or does not fit the keys; [`Error::EsnWithoutWindow`] and
    /// [`Error::WindowTooLarge`] for the replay window.
    pub fn new(parameters: SaParameters) -> Result<Self, Error> {
        Self::with_window(ReplayWindow::new(parameters.replay_window, parameters.transforms.esn)?, parameters)
    }

    /// An SA that accepts only packets after sequence number `top`. For taking over an SA from another gateway, and for
    /// tests.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn resume(parameters: SaParameters, top: u64) -> Result<Self, Error> {
        let window = ReplayWindow::new(parameters.replay_window, parameters.transforms.esn)?;
        Self::with_window(window.resume(top), parameters)
    }

    fn with_window(window: ReplayWindow, parameters: SaParameters) -> Result<Self, Error> {
        Ok(Self {
            spi: parameters.spi,
            protection: PacketProtection::new(&parameters)?,
            window,
            selectors: Selectors::new(&parameters.local_ts, &parameters.remote_ts),
            counters: InboundCounters::default(),
        })
    }

    /// Opens the ESP packet `packet`, SPI to ICV, in place. Its SPI is this SA's, the caller has seen to that.
    ///
    /// For when the outer header's ECN field is not known; it counts as Not-ECT.
    ///
    /// # Errors
    /// The cause of the drop; what is left in `packet` is then of no use.
    pub fn open<'p>(&mut self, packet: &'p mut [u8]) -> Result<Opened<'p>, Drop> {
        self.open_marked(packet, Ecn::NotEct)
    }

    /// As [`open`](Self::open), and passes on the congestion mark of the outer header (RFC 6040 4.2).
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_marked<'p>(&mut self, packet: &'p mut [u8], outer: Ecn) -> Result<Opened<'p>, Drop> {
        let opened = self.process(packet, outer);
        match &opened {
            Ok(Opened::Packet(inner)) => {
                self.counters.packets += 1;
                self.counters.bytes += inner.len() as u64;
            }
            Ok(Opened::Dummy) => self.counters.dummies += 1,
            Err(cause) => self.counters.drops.record(*cause),
        }
        opened
    }

    fn process<'p>(&mut self, packet: &'p mut [u8], outer: Ecn) -> Result<Opened<'p>, Drop> {
        // RFC 4303 3.4.3: the window is asked first, because that is cheap, and moves only once the ICV has proved right.
        let Some([_, _, _, _, s0, s1, s2, s3]) = packet.first_chunk() else { return Err(Drop::Malformed) };
        let sequence = self.window.check(u32::from_be_bytes([*s0, *s1, *s2, *s3]))?;
        let plaintext = self.protection.open(sequence, packet)?;
        self.window.record(sequence);

        let (payload, next_header) = strip_trailer(plaintext)?;
        if next_header == NEXT_HEADER_NONE {
            return Ok(Opened::Dummy);
        }
        let inner = strip_tfc_padding(payload, next_header)?;
        // RFC 4301 5.2, step 4: a peer may send only from and to what was negotiated.
        let flow = adit_wire::ip::flow(inner).map_err(|_| Drop::InnerHeader)?;
        if !self.selectors.admit_inbound(&flow) {
            return Err(Drop::Selector);
        }
        decapsulate_ecn(outer, inner)?;
        Ok(Opened::Packet(inner))
    }

    /// The SPI that its packets carry.
    #[must_use]
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// The traffic it is for.
    #[must_use]
    pub fn selectors(&self) -> &Selectors {
        &self.selectors
    }

    /// The sequence numbers it has seen.
    #[must_use]
    pub fn window(&self) -> &ReplayWindow {
        &self.window
    }

    /// What it has received.
    #[must_use]
    pub fn counters(&self) -> InboundCounters {
        self.counters
    }
}

/// Takes padding, pad length and next header off (RFC 4303 2.4 to 2.6).
fn strip_trailer(plaintext: &mut [u8]) -> Result<(&mut [u8], u8), Drop> {
    let (rest, [pad_len, next_header]) = plaintext.split_last_chunk_mut().ok_or(Drop::Padding)?;
    let payload_len = rest.len().checked_sub((*pad_len).into()).ok_or(Drop::Padding)?;
    let (payload, padding) = rest.split_at_mut_checked(payload_len).ok_or(Drop::Padding)?;
    // RFC 4303 2.4: the receiver should inspect what the sender must fill in.
    if !padding.iter().copied().eq(1..=*pad_len) {
        return Err(Drop::Padding);
    }
    Ok((payload, *next_header))
}

/// The inner IP packet by its own length; what follows it was added to hide that (RFC 4303 2.7).
fn strip_tfc_padding(payload: &mut [u8], next_header: u8) -> Result<&mut [u8], Drop> {
    let (version, header_len) = match next_header {
        NEXT_HEADER_IPV4 => (4, 20),
        NEXT_HEADER_IPV6 => (6, 40),
        _ => return Err(Drop::NextHeader),
    };
    let Some([first, _, v4_high, v4_low, v6_high, v6_low]) = payload.first_chunk() else {
        return Err(Drop::InnerLength);
    };
    if first >> 4 != version {
        return Err(Drop::NextHeader);
    }
    let total = match version {
        4 => u16::from_be_bytes([*v4_high, *v4_low]).into(),
        _ => header_len + usize::from(u16::from_be_bytes([*v6_high, *v6_low])),
    };
    if total < header_len {
        return Err(Drop::InnerLength);
    }
    payload.get_mut(..total).ok_or(Drop::InnerLength)
}
