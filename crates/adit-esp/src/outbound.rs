//! Sealing: from inner IP packets to ESP packets on one SA (RFC 4303 3.3).
//!
//! This module owns the sequence counter of an outbound SA, and stops before it could repeat. It never chooses which packet
//! takes the SA, and never writes outer headers.

use adit_crypto::Protection;
use adit_wire::esp::{NEXT_HEADER_AGGFRAG, NEXT_HEADER_IPV4, NEXT_HEADER_IPV6, NEXT_HEADER_NONE};
use adit_wire::ikev2::Spi;

use crate::iptfs::{Filled, Sender};
use crate::packet::PacketProtection;
use crate::tunnel::Encapsulation;
use crate::{Error, Layout, Mode, SaParameters, Selectors, transport};

/// The sending half of a Child SA.
///
/// It is not `Clone`: two copies would use the same sequence numbers, and with them the same nonces.
pub struct OutboundSa {
    spi: Spi,
    protection: PacketProtection,
    selectors: Selectors,
    /// Octets of each packet that stay outside: in transport mode those of its header.
    header_len: usize,
    /// Sequence number of the last packet; 0 before the first.
    last: u64,
    /// The last sequence number there is.
    limit: u64,
    counters: OutboundCounters,
}

/// What an [`OutboundSa`] has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboundCounters {
    /// Inner packets sealed, and dummies.
    pub packets: u64,
    /// Their bytes, as inner IP packets.
    pub bytes: u64,
}

/// Why a packet was not sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Every sequence number has been used; the SA can send nothing more (RFC 4303 3.3.3).
    #[error("every sequence number of the SA has been used")]
    SequenceExhausted,
    /// The inner packet is neither IPv4 nor IPv6.
    #[error("not an IP packet")]
    NotIp,
    /// The inner packet is longer than an IP packet can be.
    #[error("a packet of {0} bytes is longer than IP allows")]
    TooLong(usize),
    /// Transport mode protects whole packets without IPv4 options and IPv6 extension headers only.
    #[error("transport mode does not carry fragments, IPv4 options and IPv6 extension headers")]
    NotPlain,
    /// The crypto library refused.
    #[error("cannot seal: {0}")]
    Crypto(#[from] adit_crypto::Error),
}

impl OutboundSa {
    /// An SA that has sent nothing yet. The replay window of `parameters` is for the other direction and not looked at.
    ///
    /// # Errors
    /// [`Error::Crypto`] if the suite is not implemented or does not fit the keys.
    pub fn new(parameters: SaParameters) -> Result<Self, Error> {
        Self::resume(parameters, 0)
    }

    /// An SA of which packets up to sequence number `last` have been sent: the next one carries `last + 1`. For taking over
    /// an SA from another gateway, and for tests.
    ///
    /// Too low a number repeats nonces, and with a combined-mode cipher that gives its secrets away: leave a wide gap.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn resume(parameters: SaParameters, last: u64) -> Result<Self, Error> {
        let header_len = match parameters.mode {
            Mode::Tunnel | Mode::Iptfs { .. } => 0,
            Mode::Transport => transport::header_len(&parameters.remote_ts),
        };
        Ok(Self {
            spi: parameters.spi,
            protection: PacketProtection::new(&parameters)?,
            selectors: Selectors::new(&parameters.local_ts, &parameters.remote_ts),
            header_len,
            last,
            limit: if parameters.transforms.esn { u64::MAX } else { u32::MAX.into() },
            counters: OutboundCounters::default(),
        })
    }

    /// Seals the packet in `slot` in place. Its payload of `payload_len` bytes stands there already, at
    /// [`Layout::payload_offset`]; everything else is written, SPI to ICV, whatever was there before.
    ///
    /// `slot` is as long as [`Layout::packet_len`] says. For a longer packet than `payload_len` needs, let it be as long as one
    /// with a longer payload: what is free is filled with zeros behind the payload, which the receiver takes off (RFC 4303
    /// 2.7). That is for tunnel mode alone, where the payload says how long it is.
    ///
    /// Counted as a packet is what `next_header` does not call an AGGFRAG payload.
    ///
    /// # Errors
    /// See [`SealError`]. After [`SealError::SequenceExhausted`] the SA never seals again.
    pub fn seal_at(&mut self, slot: &mut [u8], payload_len: usize, next_header: u8) -> Result<(), SealError> {
        self.number(payload_len)?;
        self.protection.seal(self.spi, self.last, slot, payload_len, next_header)?;
        self.count(payload_len, next_header);
        Ok(())
    }

    /// As [`seal_at`](Self::seal_at), of a payload that lies elsewhere, and is not copied where the cipher can do without.
    ///
    /// # Errors
    /// As [`seal_at`](Self::seal_at).
    pub fn seal_from(&mut self, slot: &mut [u8], payload: &[u8], next_header: u8) -> Result<(), SealError> {
        self.number(payload.len())?;
        self.protection.seal_from(self.spi, self.last, slot, payload, next_header)?;
        self.count(payload.len(), next_header);
        Ok(())
    }

    /// The next number.
    fn number(&mut self, payload_len: usize) -> Result<(), SealError> {
        if payload_len > usize::from(u16::MAX) {
            return Err(SealError::TooLong(payload_len));
        }
        // RFC 4303 3.3.3: the counter must not cycle. It counts before the packet is made, so that a failure
        // then costs a number and never uses one twice.
        if self.last >= self.limit {
            return Err(SealError::SequenceExhausted);
        }
        self.last += 1;
        Ok(())
    }

    fn count(&mut self, payload_len: usize, next_header: u8) {
        if next_header != NEXT_HEADER_AGGFRAG {
            self.counters.packets += 1;
            self.counters.bytes += (self.header_len + payload_len) as u64;
        }
    }

    /// Fills an AGGFRAG payload of `payload_len` bytes with what waits in `sender`, and seals it in `slot` as
    /// [`seal_at`](Self::seal_at) does.
    ///
    /// # Errors
    /// See [`SealError`]. After [`SealError::SequenceExhausted`], which leaves the sender as it was, the SA never seals again.
    pub fn seal_aggfrag(
        &mut self,
        slot: &mut [u8],
        payload_len: usize,
        sender: &mut Sender,
    ) -> Result<Filled, SealError> {
        if self.remaining() == 0 {
            return Err(SealError::SequenceExhausted);
        }
        let start = self.layout().payload_offset();
        let filled = sender.fill(slot.get_mut(start..start + payload_len).unwrap_or_default());
        self.seal_at(slot, payload_len, NEXT_HEADER_AGGFRAG)?;
        self.counters.packets += filled.packets;
        self.counters.bytes += filled.octets;
        Ok(filled)
    }

    /// Seals the IP packet `inner` and appends the ESP packet, SPI to ICV, to `out`; on an error `out` is as it was.
    ///
    /// Packets of a batch can follow one another in one buffer, and outer headers can be put in front of each; a buffer
    /// that is cleared and used again is not allocated again.
    ///
    /// # Errors
    /// As [`seal_at`](Self::seal_at) and [`payload_of`](Self::payload_of).
    pub fn seal(&mut self, inner: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        self.seal_padded(inner, 0, out)
    }

    /// As [`seal`](Self::seal), and in tunnel mode the packet is no shorter than one with an inner packet of `at_least`
    /// bytes (RFC 4303 2.7).
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub fn seal_padded(&mut self, inner: &[u8], at_least: usize, out: &mut Vec<u8>) -> Result<(), SealError> {
        let (next_header, payload) = self.payload_of(inner)?;
        let at_least = if self.header_len > 0 { 0 } else { at_least };
        self.append(payload.len(), at_least, next_header, out, |place| place.copy_from_slice(payload))
    }

    /// What of the IP packet `inner` travels inside, and the next header that says what it is: all of it, or in transport
    /// mode what follows its header.
    ///
    /// # Errors
    /// [`SealError::NotIp`], and in transport mode [`SealError::NotPlain`].
    pub fn payload_of<'i>(&self, inner: &'i [u8]) -> Result<(u8, &'i [u8]), SealError> {
        match inner.first().map(|first| first >> 4) {
            Some(4 | 6) if self.header_len > 0 => transport::payload(inner),
            Some(4) => Ok((NEXT_HEADER_IPV4, inner)),
            Some(6) => Ok((NEXT_HEADER_IPV6, inner)),
            _ => Err(SealError::NotIp),
        }
    }

    /// Appends a dummy packet with `len` bytes of zeros inside, which the receiver discards once it has verified it (RFC
    /// 4303 2.6). It hides traffic, or shows the peer that a new SA is in use.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub fn seal_dummy(&mut self, len: u16, out: &mut Vec<u8>) -> Result<(), SealError> {
        self.append(len.into(), 0, NEXT_HEADER_NONE, out, |_| ())
    }

    fn append(
        &mut self,
        payload_len: usize,
        at_least: usize,
        next_header: u8,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<(), SealError> {
        let (start, layout) = (out.len(), self.layout());
        out.resize(start + layout.packet_len(payload_len.max(at_least)), 0);
        let slot = out.get_mut(start..).unwrap_or_default();
        let payload = layout.payload_offset()..layout.payload_offset() + payload_len;
        write(slot.get_mut(payload).unwrap_or_default());
        self.seal_at(slot, payload_len, next_header).inspect_err(|_| out.truncate(start))
    }

    /// Its keys, which can [`rest`](Protection::rest) where there are very many SAs.
    #[must_use]
    pub fn keys(&self) -> &Protection {
        self.protection.keys()
    }

    /// As [`keys`](Self::keys).
    pub fn keys_mut(&mut self) -> &mut Protection {
        self.protection.keys_mut()
    }

    /// How many packets can still be sent.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.limit.saturating_sub(self.last)
    }

    /// Is it time to replace the SA, because seven eighths of its sequence numbers are used? With 32-bit numbers this leaves
    /// 2^29 packets for it.
    #[must_use]
    pub fn rekey_due(&self) -> bool {
        self.remaining() <= self.limit / 8
    }

    /// Sequence number of the last packet; 0 before the first.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.last
    }

    /// The SPI that its packets carry.
    #[must_use]
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// The traffic it is for. [`seal`](Self::seal) does not look at it: the caller has chosen the SA by it, and with
    /// narrowed selectors a policy match alone is not enough.
    #[must_use]
    pub fn selectors(&self) -> &Selectors {
        &self.selectors
    }

    /// Sizes of its packets.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.protection.layout()
    }

    /// The longest inner packet whose outer packet has at most `outer_mtu` bytes, in UDP or not, over IPv6 or IPv4.
    #[must_use]
    pub fn max_inner(&self, outer_mtu: usize, encap: bool, outer_v6: bool) -> usize {
        let payload = Encapsulation { ipv6: outer_v6, udp: encap }.max_inner(self.layout(), outer_mtu);
        if payload == 0 { 0 } else { self.header_len + payload }
    }

    /// What the SA adds to an inner packet of `inner` bytes: outer headers, ESP and padding.
    #[must_use]
    pub fn overhead(&self, inner: usize, encap: bool, outer_v6: bool) -> usize {
        let payload = inner.saturating_sub(self.header_len);
        Encapsulation { ipv6: outer_v6, udp: encap }.outer_len(self.layout(), payload).saturating_sub(inner)
    }

    /// What it has sent.
    #[must_use]
    pub fn counters(&self) -> OutboundCounters {
        self.counters
    }
}
