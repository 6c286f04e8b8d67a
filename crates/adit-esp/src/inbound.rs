//! Opening: from ESP packets to inner IP packets on one SA (RFC 4303 3.4, RFC 4301 5.2).
//!
//! This module owns the order of the checks and the cause of every drop. It never finds the SA, which is the caller's by SPI,
//! and never answers a bad packet.

use std::net::IpAddr;
use std::time::Instant;

use adit_crypto::Protection;
use adit_wire::esp::{NEXT_HEADER_AGGFRAG, NEXT_HEADER_IPV4, NEXT_HEADER_IPV6, NEXT_HEADER_NONE};
use adit_wire::ikev2::Spi;

use crate::packet::PacketProtection;
use crate::transport::{Header, OuterHeader, rebuild};
use crate::tunnel::{Ecn, decapsulate_ecn};
use crate::{Error, FragmentPorts, Mode, ReplayWindow, SaParameters, Selectors};

/// The receiving half of a Child SA.
pub struct InboundSa {
    spi: Spi,
    mode: Mode,
    /// What few SAs have, and what no packet that passes needs, is elsewhere: there may be very many SAs.
    original: Option<Box<(IpAddr, IpAddr)>>,
    protection: PacketProtection,
    window: ReplayWindow,
    selectors: Selectors,
    packets: u64,
    bytes: u64,
    dummies: u64,
    drops: Option<Box<DropCounters>>,
}

/// What was in an ESP packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'p> {
    /// An inner IP packet: verified, fresh, whole, and from and to where this SA may carry.
    Packet(&'p mut [u8]),
    /// The same in transport mode: its header, made anew from the outer one, and what follows it.
    Payload(Header, &'p [u8]),
    /// The payload of a packet in IP-TFS mode, for an [`iptfs::Receiver`](crate::iptfs::Receiver). What that gives out is to be
    /// shown to [`InboundSa::admit`].
    Aggfrag {
        /// The packet's number.
        sequence: u64,
        /// Its payload, of which nothing is known.
        payload: &'p mut [u8],
    },
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
            mode: parameters.mode,
            original: parameters.original.map(Box::new),
            protection: PacketProtection::new(&parameters)?,
            window,
            selectors: Selectors::new(&parameters.local_ts, &parameters.remote_ts),
            packets: 0,
            bytes: 0,
            dummies: 0,
            drops: None,
        })
    }

    /// Opens the ESP packet `packet`, SPI to ICV, in place. Its SPI is this SA's, the caller has seen to that.
    ///
    /// For when nothing is known of the outer header, and the SA is in tunnel mode: its ECN field counts as Not-ECT.
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
        self.open_from(packet, &OuterHeader { traffic_class: outer as u8, ..OuterHeader::UNKNOWN })
    }

    /// As [`open`](Self::open), with the header that the packet came behind: in tunnel mode its congestion mark is passed
    /// on (RFC 6040 4.2), in transport mode it is the packet's own.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_from<'p>(&mut self, packet: &'p mut [u8], outer: &OuterHeader) -> Result<Opened<'p>, Drop> {
        self.open_among(packet, outer, None)
    }

    /// As [`open_from`](Self::open_from), with the ports of inner fragments as their first fragments have shown them.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_among<'p>(
        &mut self,
        packet: &'p mut [u8],
        outer: &OuterHeader,
        fragments: Option<(&mut FragmentPorts, Instant)>,
    ) -> Result<Opened<'p>, Drop> {
        let opened = self.process(packet, outer, fragments);
        match &opened {
            Ok(Opened::Packet(inner)) => {
                self.packets += 1;
                self.bytes += inner.len() as u64;
            }
            Ok(Opened::Payload(header, payload)) => {
                self.packets += 1;
                self.bytes += (header.len() + payload.len()) as u64;
            }
            // Its packets are counted one by one.
            Ok(Opened::Aggfrag { .. }) => {}
            Ok(Opened::Dummy) => self.dummies += 1,
            Err(cause) => self.drops.get_or_insert_default().record(*cause),
        }
        opened
    }

    fn process<'p>(
        &mut self,
        packet: &'p mut [u8],
        outer: &OuterHeader,
        fragments: Option<(&mut FragmentPorts, Instant)>,
    ) -> Result<Opened<'p>, Drop> {
        // RFC 4303 3.4.3: the window is asked first, because that is cheap, and moves only once the ICV has proved right.
        let Some([_, _, _, _, s0, s1, s2, s3]) = packet.first_chunk() else { return Err(Drop::Malformed) };
        let sequence = self.window.check(u32::from_be_bytes([*s0, *s1, *s2, *s3]))?;
        let plaintext = self.protection.open(sequence, packet)?;
        self.window.record(sequence);

        let (payload, next_header) = strip_trailer(plaintext)?;
        if let Mode::Iptfs { .. } = self.mode {
            // RFC 9347 2.3: such an SA carries nothing else, no dummies either.
            return match next_header {
                NEXT_HEADER_AGGFRAG => Ok(Opened::Aggfrag { sequence, payload }),
                _ => Err(Drop::NextHeader),
            };
        }
        if next_header == NEXT_HEADER_NONE {
            return Ok(Opened::Dummy);
        }
        if self.mode == Mode::Transport {
            let (header, flow) = rebuild(outer, self.original.as_deref().copied(), next_header, payload)?;
            if !self.selectors.admit_inbound(&flow) {
                return Err(Drop::Selector);
            }
            return Ok(Opened::Payload(header, payload));
        }
        let inner = strip_tfc_padding(payload, next_header)?;
        // RFC 4301 5.2, step 4: a peer may send only from and to what was negotiated.
        let admitted = match self.selectors.admit_plain(inner) {
            Some(admitted) => admitted,
            None => {
                let mut flow = adit_wire::ip::flow(inner).map_err(|_| Drop::InnerHeader)?;
                if let Some((fragments, now)) = fragments {
                    fragments.complete(self.spi.0, inner, &mut flow, now)?;
                }
                self.selectors.admit_inbound(&flow)
            }
        };
        if !admitted {
            return Err(Drop::Selector);
        }
        decapsulate_ecn(Ecn::from_traffic_class(outer.traffic_class), inner)?;
        Ok(Opened::Packet(inner))
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

    /// Takes a packet that came in IP-TFS payloads: it has to be whole, and from and to where this SA may carry. A congestion
    /// mark of the payloads is none of a packet of which parts came in several (RFC 9347 2.2.5).
    ///
    /// # Errors
    /// The cause of the drop.
    pub fn admit(&mut self, inner: &[u8]) -> Result<(), Drop> {
        let admitted = match adit_wire::ip::flow(inner) {
            Ok(flow) if flow.total_len != inner.len() => Err(Drop::InnerLength),
            // RFC 4301 5.2, step 4.
            Ok(flow) if !self.selectors.admit_inbound(&flow) => Err(Drop::Selector),
            Ok(_) => Ok(()),
            Err(_) => Err(Drop::InnerHeader),
        };
        match admitted {
            Ok(()) => {
                self.packets += 1;
                self.bytes += inner.len() as u64;
            }
            Err(cause) => self.drops.get_or_insert_default().record(cause),
        }
        admitted
    }

    /// The SPI that its packets carry.
    #[must_use]
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// What its packets carry.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
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
        let Self { packets, bytes, dummies, .. } = *self;
        InboundCounters { packets, bytes, dummies, drops: self.drops.as_deref().copied().unwrap_or_default() }
    }
}

/// Takes padding, pad length and next header off (RFC 4303 2.4 to 2.6).
fn strip_trailer(plaintext: &mut [u8]) -> Result<(&mut [u8], u8), Drop> {
    let (rest, [pad_len, next_header]) = plaintext.split_last_chunk_mut().ok_or(Drop::Padding)?;
    let payload_len = rest.len().checked_sub((*pad_len).into()).ok_or(Drop::Padding)?;
    let (payload, padding) = rest.split_at_mut_checked(payload_len).ok_or(Drop::Padding)?;
    // RFC 4303 2.4: the receiver should inspect what the sender must fill in.
    if !padding.iter().zip(1_u16..).all(|(byte, number)| u16::from(*byte) == number) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::{parameters, suites};

    /// What a peer with the right key can put inside: payload, padding and trailer together.
    struct Peer {
        protection: PacketProtection,
        sa: InboundSa,
        sequence: u64,
    }

    impl Peer {
        /// One per suite. They differ in the size of blocks.
        fn all() -> impl Iterator<Item = (&'static str, Self)> {
            suites().map(|(name, transforms)| {
                let protection = PacketProtection::new(&parameters(transforms)).unwrap();
                (name, Self { protection, sa: InboundSa::new(parameters(transforms)).unwrap(), sequence: 0 })
            })
        }

        /// What becomes of `payload` with this padding and trailer. Where that is not whole blocks, `filler` goes in front of
        /// the padding.
        fn opens(
            &mut self,
            payload: &[u8],
            padding: &[u8],
            pad_len: u8,
            next_header: u8,
        ) -> Result<Option<Vec<u8>>, Drop> {
            self.sequence += 1;
            let plaintext = [payload, padding, &[pad_len, next_header]].concat();
            let mut packet = self.protection.seal_plaintext(self.sa.spi, self.sequence, &plaintext).unwrap();
            assert_eq!(
                packet.len(),
                8 + self.layout_overhead() + plaintext.len(),
                "the test's plaintext is not whole blocks"
            );
            let opened = self.sa.open(&mut packet);
            let opened =
                opened.map(|o| if let Opened::Packet(inner) = o { Some(inner.to_vec()) } else { None });
            assert_eq!(self.sa.window.top(), self.sequence, "genuine, so its number is used up");
            opened
        }

        fn layout_overhead(&self) -> usize {
            self.protection.layout().iv_len() + self.protection.layout().icv_len()
        }
    }

    /// UDP from 10.2.0.7 to 10.1.0.9 that says it has `total` bytes, in `len` bytes.
    fn v4(len: usize, total: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 10, 2, 0, 7, 10, 1, 0, 9];
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet.resize(len, 0xaa);
        packet
    }

    /// UDP from fd02::7 to fd01::9 that says it has `payload` bytes after its header, in `len` bytes.
    fn v6(len: usize, payload: u16) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, 17, 64]);
        packet[4..6].copy_from_slice(&payload.to_be_bytes());
        for (at, net, host) in [(8, 2, 7), (24, 1, 9)] {
            packet[at] = 0xfd;
            packet[at + 1] = net;
            packet[at + 15] = host;
        }
        packet.resize(len, 0xaa);
        packet
    }

    #[test]
    fn padding_of_any_length_that_counts_up() {
        for (name, mut peer) in Peer::all() {
            for pad_len in 0..=255_u8 {
                let padding: Vec<u8> = (1..=pad_len).collect();
                // An inner packet that makes it whole blocks.
                let len = 30 + (16 - (30 + usize::from(pad_len) + 2) % 16);
                let inner = v4(len, len as u16);
                assert_eq!(peer.opens(&inner, &padding, pad_len, 4), Ok(Some(inner)), "{name}: {pad_len}");
            }
        }
    }

    #[test]
    fn padding_that_does_not_count_up_or_does_not_fit() {
        for (name, mut peer) in Peer::all() {
            let inner = v4(24, 24);
            assert!(peer.opens(&inner, &[1, 2, 3, 4, 5, 6], 6, 4).is_ok(), "{name}");
            for padding in
                [[0; 6], [1, 2, 3, 4, 5, 7], [0, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5], [1, 2, 3, 3, 5, 6]]
            {
                assert_eq!(peer.opens(&inner, &padding, 6, 4), Err(Drop::Padding), "{name}: {padding:?}");
            }
            assert_eq!(
                peer.opens(&[], &(1..=14).collect::<Vec<_>>(), 15, 4),
                Err(Drop::Padding),
                "{name}: one too long"
            );
            assert_eq!(peer.opens(&[], &(1..=14).collect::<Vec<_>>(), 255, 4), Err(Drop::Padding), "{name}");
            assert_eq!(
                peer.opens(&[], &(1..=14).collect::<Vec<_>>(), 14, 4),
                Err(Drop::InnerLength),
                "{name}: empty"
            );
        }
    }

    #[test]
    fn only_ip_of_the_version_it_says() {
        for (name, mut peer) in Peer::all() {
            let (four, six) = (v4(30, 30), v6(46, 6));
            for next_header in (0..=255).filter(|n| ![4, 59].contains(n)) {
                assert_eq!(
                    peer.opens(&four, &[], 0, next_header),
                    Err(Drop::NextHeader),
                    "{name}: {next_header}"
                );
            }
            assert_eq!(peer.opens(&six, &[], 0, 4), Err(Drop::NextHeader), "{name}");
            assert_eq!(peer.opens(&six, &[], 0, 41), Ok(Some(six)), "{name}");
            assert_eq!(peer.opens(&four, &[], 0, 59), Ok(None), "{name}");
            assert_eq!(peer.opens(&[], &(1..=14).collect::<Vec<_>>(), 14, 59), Ok(None), "{name}");
            let mut five = four;
            five[0] = 0x55;
            assert_eq!(peer.opens(&five, &[], 0, 4), Err(Drop::NextHeader), "{name}");
        }
    }

    /// RFC 4303 2.7: what follows the inner packet's own end was added to hide its length.
    #[test]
    fn traffic_flow_confidentiality_padding_is_taken_off() {
        for (name, mut peer) in Peer::all() {
            assert_eq!(peer.opens(&v4(62, 33), &[], 0, 4), Ok(Some(v4(33, 33))), "{name}");
            assert_eq!(peer.opens(&v4(1406, 20), &[], 0, 4), Ok(Some(v4(20, 20))), "{name}");
            assert_eq!(peer.opens(&v6(62, 9), &[], 0, 41), Ok(Some(v6(49, 9))), "{name}");
            assert_eq!(peer.opens(&v6(62, 0), &[], 0, 41), Ok(Some(v6(40, 0))), "{name}");
        }
    }

    #[test]
    fn an_inner_length_that_cannot_be() {
        for (name, mut peer) in Peer::all() {
            for total in [0, 1, 19, 47, 65535] {
                assert_eq!(peer.opens(&v4(46, total), &[], 0, 4), Err(Drop::InnerLength), "{name}: {total}");
            }
            for payload in [23, 65535] {
                assert_eq!(
                    peer.opens(&v6(62, payload), &[], 0, 41),
                    Err(Drop::InnerLength),
                    "{name}: {payload}"
                );
            }
            for (len, next_header) in [(0, 4), (1, 4), (5, 41), (14, 4), (14, 41)] {
                let padding: Vec<u8> = (1..=14 - len as u8).collect();
                let start = if next_header == 4 { v4(14, 14) } else { v6(40, 0) };
                let opened = peer.opens(&start[..len], &padding, 14 - len as u8, next_header);
                assert_eq!(opened, Err(Drop::InnerLength), "{name}: {len} bytes");
            }
        }
    }

    #[test]
    fn inner_headers_that_make_no_sense() {
        for (name, mut peer) in Peer::all() {
            let mut header_too_short = v4(46, 46);
            header_too_short[0] = 0x44;
            assert_eq!(peer.opens(&header_too_short, &[], 0, 4), Err(Drop::InnerHeader), "{name}");
            let mut header_too_long = v4(46, 46);
            header_too_long[0] = 0x4f;
            assert_eq!(peer.opens(&header_too_long, &[], 0, 4), Err(Drop::InnerHeader), "{name}");
            let mut extension_cut = v6(46, 6);
            extension_cut[6] = 0;
            assert_eq!(peer.opens(&extension_cut, &[], 0, 41), Err(Drop::InnerHeader), "{name}");
            assert_eq!(peer.sa.counters().drops.count(Drop::InnerHeader), 3);
            assert_eq!(peer.sa.counters().drops.total(), 3);
        }
    }

    #[test]
    fn names_are_stable_and_counts_add_up() {
        let names = Drop::ALL.map(Drop::as_str);
        assert_eq!(
            names,
            [
                "malformed",
                "replayed",
                "too-old",
                "authentication",
                "padding",
                "next-header",
                "inner-length",
                "inner-header",
                "selector",
                "congestion"
            ]
        );
        let mut sum = DropCounters::default();
        for (n, cause) in Drop::ALL.into_iter().enumerate() {
            let mut one = DropCounters::default();
            (0..=n).for_each(|_| one.record(cause));
            assert_eq!(
                one.iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>(),
                [(cause, n as u64 + 1)]
            );
            sum += one;
        }
        assert_eq!(sum.total(), 55);
        assert_eq!(sum.count(Drop::Congestion), 10);
    }
}
