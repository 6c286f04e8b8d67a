//! IKE fragments (RFC 7383): cutting what we send, and gathering what the peer sends.
//!
//! Only fragments whose integrity was checked are handed in here; states never see one, they get whole messages.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use adit_wire::ikev2::{Encrypted, ExchangeType, Fragment, Header, Notify, NotifyType, Payload, SkLayout};

use super::Contents;
use crate::config::{Connection, Fragmentation, Settings};

/// Fragments of one message; with 576 octet datagrams enough for the largest.
const MOST_FRAGMENTS: u16 = 128;

/// Octets gathered of one message, before and after the peer is authenticated.
const MOST_OCTETS: (usize, usize) = (32 * 1024, 64 * 1024);

/// How long an incomplete message waits for its next fragment.
const PATIENCE: Duration = Duration::from_secs(30);

/// IPv6 and UDP headers and the non-ESP marker: what can come before an IKE message wherever it goes.
const OUTER: usize = 40 + 8 + 4;

/// IKE header, generic header, fragment numbers.
const HEADERS: usize = Header::LEN + 4 + 4;

/// The notify that we understand fragments (RFC 7383 2.3).
pub(super) fn notify(connection: &Connection) -> Option<Payload> {
    (connection.fragmentation != Fragmentation::No)
        .then(|| Payload::Notify(Notify::new(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED, Vec::new())))
}

/// Both sides said so: the size of our messages above which they are cut, or `None` if one side did not. What was not
/// asked for means nothing.
pub(super) fn agree(connection: &Connection, settings: &Settings, peer: &Contents<'_>) -> Option<usize> {
    if !peer.has(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED) {
        return None;
    }
    match connection.fragmentation {
        Fragmentation::Yes => Some(usize::from(settings.fragment_size).saturating_sub(OUTER)),
        Fragmentation::Accept => Some(usize::MAX),
        Fragmentation::No => None,
    }
}

/// Octets of content in each fragment of at most `most` octets.
pub(super) fn piece_len(most: usize, layout: SkLayout) -> usize {
    let block = layout.block_len.max(1);
    let room = most.saturating_sub(HEADERS + layout.iv_len + layout.icv_len) / block * block;
    // One octet is the pad length. However small the datagrams should be, a fragment takes some content along.
    room.saturating_sub(1).max(64)
}

/// The fragments of one message that have come so far.
pub(super) struct Partial {
    message_id: u32,
    exchange: ExchangeType,
    total: u16,
    /// The first fragment as it came: it stands for the message.
    first: Option<(Vec<u8>, Encrypted)>,
    pieces: BTreeMap<u16, Vec<u8>>,
    octets: usize,
    until: Instant,
}

/// A message put together.
pub(super) struct Gathered {
    pub(super) first: Vec<u8>,
    pub(super) encrypted: Encrypted,
    pub(super) content: Vec<u8>,
}

impl Partial {
    pub(super) fn new(header: &Header, fragment: Fragment, now: Instant) -> Self {
        Self {
            message_id: header.message_id,
            exchange: header.exchange,
            total: fragment.total,
            first: None,
            pieces: BTreeMap::new(),
            octets: 0,
            until: now + PATIENCE,
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.until
    }

    /// Is it worth decrypting, with `partial` gathered so far? (RFC 7383 2.6)
    pub(super) fn is_new(partial: Option<&Self>, header: &Header, fragment: Fragment) -> bool {
        let so_far = partial.filter(|p| p.is_of(header));
        fragment.total <= MOST_FRAGMENTS
            && so_far.is_none_or(|p| {
                fragment.total > p.total
                    || fragment.total == p.total && !p.pieces.contains_key(&fragment.number)
            })
    }

    fn is_of(&self, header: &Header) -> bool {
        self.message_id == header.message_id && self.exchange == header.exchange
    }

    /// Does a fragment that is authentic belong to it? One cut into more pieces replaces it (RFC 7383 2.5.2).
    pub(super) fn takes(&self, header: &Header, fragment: Fragment) -> bool {
        self.is_of(header) && self.total == fragment.total
    }

    /// Adds a piece that [`Self::takes`] and [`Self::is_new`] let pass; `false` if the message becomes too large.
    #[must_use]
    pub(super) fn add(
        &mut self,
        (datagram, encrypted): (&[u8], &Encrypted),
        fragment: Fragment,
        piece: Vec<u8>,
        (authenticated, now): (bool, Instant),
    ) -> bool {
        if fragment.number == 1 {
            self.octets += datagram.len();
            self.first = Some((datagram.to_vec(), *encrypted));
        }
        self.octets += piece.len();
        self.pieces.insert(fragment.number, piece);
        self.until = now + PATIENCE;
        self.octets <= if authenticated { MOST_OCTETS.1 } else { MOST_OCTETS.0 }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.pieces.len() == usize::from(self.total)
    }

    /// The whole message, once it is complete.
    pub(super) fn gather(self) -> Option<Gathered> {
        let (first, encrypted) = self.first?;
        Some(Gathered { first, encrypted, content: self.pieces.into_values().flatten().collect() })
    }
}
