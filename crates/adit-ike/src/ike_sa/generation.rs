//! One IKE SA of those that replace each other by rekeying: its SPIs, its keys, and both request windows
//! (RFC 7296 2.2, 2.3). It knows nothing of what is asked in them.

use std::collections::VecDeque;
use std::time::Instant;

use adit_wire::ikev2::{ExchangeType, Flags, Header, IkeSpi, KeId, PayloadType, Version};

use super::secured::Secured;
use super::window::{Answered, Outstanding};
use super::{Core, Incoming};
use crate::shared::Shared;

/// Requests that a peer may let us have outstanding at once; what it allows beyond is not used.
const MOST_OUTSTANDING: usize = 16;

/// An IKE SA with keys, and its exchanges `X`.
pub(crate) struct Generation<X> {
    pub(super) spi_i: IkeSpi,
    pub(super) spi_r: IkeSpi,
    /// Are we the initiator of this one?
    pub(super) initiator: bool,
    pub(super) secured: Secured,
    /// Key exchanges after the first one that made it (RFC 9370).
    pub(super) additional_kes: Vec<KeId>,
    next_request: u32,
    /// How many requests the peer lets us have outstanding.
    window: usize,
    outstanding: Vec<(Outstanding, X)>,
    /// The lowest Message ID of the peer that is not answered.
    expected_request: u32,
    /// How many requests we let the peer have outstanding.
    own_window: u32,
    answered: VecDeque<Answered>,
}

impl<X> Generation<X> {
    /// Message IDs: that of our next request, and that of the peer's.
    pub(super) fn new(
        (spi_i, spi_r): (IkeSpi, IkeSpi),
        initiator: bool,
        secured: Secured,
        (next_request, expected_request): (u32, u32),
    ) -> Self {
        Self {
            spi_i,
            spi_r,
            initiator,
            secured,
            additional_kes: Vec::new(),
            next_request,
            window: 1,
            outstanding: Vec::new(),
            expected_request,
            own_window: 1,
            answered: VecDeque::new(),
        }
    }

    pub(super) fn our_spi(&self) -> IkeSpi {
        if self.initiator { self.spi_i } else { self.spi_r }
    }

    pub(super) fn header(&self, exchange: ExchangeType, response: bool, message_id: u32) -> Header {
        Header {
            initiator_spi: self.spi_i,
            responder_spi: self.spi_r,
            next_payload: PayloadType::NONE,
            version: Version::IKEV2,
            exchange,
            flags: Flags { initiator: self.initiator, version: false, response },
            message_id,
            length: 0,
        }
    }

    /// SET_WINDOW_SIZE, the peer's and ours (RFC 7296 2.3).
    pub(super) fn set_windows(&mut self, peers: Option<u32>, ours: u32) {
        let peers = peers.and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
        self.window = peers.clamp(1, MOST_OUTSTANDING);
        self.own_window = ours.max(1);
    }

    /// May one more request go out?
    pub(super) fn has_room(&self) -> bool {
        // The peer counts from the oldest request that it has not answered.
        let oldest = self.outstanding.iter().map(|(o, _)| o.message_id).min().unwrap_or(self.next_request);
        usize::try_from(self.next_request.saturating_sub(oldest)).is_ok_and(|used| used < self.window)
    }

    /// The Message ID of our next request; `None` once they are used up: they never wrap (RFC 7296 2.2).
    pub(super) fn next_request(&self) -> Option<u32> {
        (self.next_request < u32::MAX).then_some(self.next_request)
    }

    /// A request is out.
    pub(super) fn sent(&mut self, outstanding: Outstanding, exchange: X) {
        self.next_request = self.next_request.saturating_add(1);
        self.outstanding.push((outstanding, exchange));
    }

    pub(super) fn exchanges(&self) -> impl Iterator<Item = &X> {
        self.outstanding.iter().map(|(_, exchange)| exchange)
    }

    pub(super) fn exchanges_mut(&mut self) -> impl Iterator<Item = &mut X> {
        self.outstanding.iter_mut().map(|(_, exchange)| exchange)
    }

    pub(super) fn outstanding_mut(&mut self) -> impl Iterator<Item = &mut Outstanding> {
        self.outstanding.iter_mut().map(|(outstanding, _)| outstanding)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// The request that a response with this Message ID answers.
    pub(super) fn awaited(&self, message_id: u32) -> Option<&X> {
        self.outstanding.iter().find(|(o, _)| o.message_id == message_id).map(|(_, exchange)| exchange)
    }

    /// How often that request was sent, and whether in its first form only.
    pub(super) fn trouble_with(&self, message_id: u32) -> (u32, bool) {
        let found = self.outstanding.iter().find(|(o, _)| o.message_id == message_id);
        found.map_or((0, true), |(o, _)| (o.times_sent(), o.is_first_form()))
    }

    /// It is answered.
    pub(super) fn take_awaited(&mut self, message_id: u32) -> Option<X> {
        let at = self.outstanding.iter().position(|(o, _)| o.message_id == message_id)?;
        Some(self.outstanding.remove(at).1)
    }

    /// None of them will be answered.
    pub(super) fn take_all(&mut self) -> Vec<X> {
        std::mem::take(&mut self.outstanding).into_iter().map(|(_, exchange)| exchange).collect()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.outstanding.iter().map(|(o, _)| o.deadline()).min()
    }

    /// Answers a request that was answered before with the stored response.
    pub(super) fn repeat(&self, core: &mut Core, cx: &mut Shared, m: &Incoming<'_>) -> bool {
        self.answered.iter().any(|answered| answered.repeat(core, cx, Some(&self.secured), m))
    }

    /// Is this Message ID one of the window that the peer has not used?
    pub(super) fn is_new(&self, message_id: u32) -> bool {
        message_id >= self.expected_request
            && message_id - self.expected_request < self.own_window
            && message_id < u32::MAX
            && self.answered.iter().all(|a| a.message_id != message_id)
    }

    /// The response of a request of the peer is out; it is kept for repetitions, as many as the window holds.
    pub(super) fn answer(&mut self, answered: Answered) {
        self.answered.push_back(answered);
        while self.answered.iter().any(|a| a.message_id == self.expected_request) {
            self.expected_request += 1;
        }
        let oldest = self.expected_request.saturating_sub(self.own_window);
        self.answered.retain(|a| a.message_id >= oldest);
    }

    /// What the end of the IKE SA needs of it: keys, both Message IDs, the last response.
    pub(super) fn into_parts(mut self) -> (Secured, (u32, u32), Option<Answered>) {
        (self.secured, (self.next_request, self.expected_request), self.answered.pop_back())
    }
}
