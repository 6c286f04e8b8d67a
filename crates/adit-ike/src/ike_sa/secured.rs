//! The keys of one IKE SA at work: sealing and opening messages, whole or in fragments (RFC 7296 3.14, RFC 5282,
//! RFC 7383).

use std::time::Instant;

use adit_crypto::{Error, IkeKeys, IkeTransforms, Protection, Secret, mix_ppk};
use adit_wire::DecodeError;
use adit_wire::ikev2::{Encrypted, Fragment, Header, Message, Payload, SkDraft, SkLayout};

use super::fragment::{self, Partial};
use super::{Core, Incoming};
use crate::shared::Shared;
use crate::tally::Way;

/// Keys and algorithms of an IKE SA, from IKE_SA_INIT to its end.
pub(crate) struct Secured {
    pub(crate) transforms: IkeTransforms,
    pub(crate) sk_d: Secret,
    pub(crate) sk_pi: Secret,
    pub(crate) sk_pr: Secret,
    outbound: Protection,
    inbound: Protection,
    /// Messages sealed so far: the counter that makes every IV a new one.
    sealed: u64,
    /// Fragments are agreed on, and messages of ours larger than this are sent as such (RFC 7383). A successor of the
    /// IKE SA inherits it.
    pub(crate) largest: Option<usize>,
    /// The peer's request of which not all fragments are there.
    request: Option<Partial>,
    /// The same of its response.
    response: Option<Partial>,
}

/// The keys that a post-quantum pre-shared key changes, without it.
pub(crate) struct Unmixed {
    sk_d: Secret,
    sk_pi: Secret,
    sk_pr: Secret,
}

/// A message of the peer, whether it came whole or in fragments.
pub(crate) struct Opened {
    /// What was inside. Malformed means INVALID_SYNTAX: it is from the peer.
    pub(crate) payloads: Result<Vec<Payload>, DecodeError>,
    /// The message without encryption, `A | P` of RFC 9242 3.3.2: from the IKE header to the generic header of the
    /// Encrypted payload, lengths adjusted, then the payloads. Fragments make no difference to it. For a message of ours
    /// [`Encrypted::without_encryption`] makes it of its first datagram and [`Message::encode_inner`].
    pub(crate) octets: Vec<u8>,
    /// The datagram that makes a repetition known: the message, or its first fragment (RFC 7383 2.6.1).
    pub(crate) datagram: Vec<u8>,
}

impl Secured {
    /// Fails if the algorithms do not exist or do not fit together, which those of a chosen proposal always do.
    pub(crate) fn new(transforms: IkeTransforms, keys: IkeKeys, initiator: bool) -> Result<Self, Error> {
        let t = &transforms;
        let protection = |encr: &Secret, integ: &Secret| {
            Protection::new(t.encr, t.key_bits, t.integ, encr.expose(), integ.expose())
        };
        let from_initiator = protection(&keys.sk_ei, &keys.sk_ai)?;
        let from_responder = protection(&keys.sk_er, &keys.sk_ar)?;
        let (outbound, inbound) =
            if initiator { (from_initiator, from_responder) } else { (from_responder, from_initiator) };
        let IkeKeys { sk_d, sk_pi, sk_pr, .. } = keys;
        Ok(Self {
            transforms,
            sk_d,
            sk_pi,
            sk_pr,
            outbound,
            inbound,
            sealed: 0,
            largest: None,
            request: None,
            response: None,
        })
    }

    /// Mixes a post-quantum pre-shared key into SK_d, SK_pi and SK_pr (RFC 8784 3); returns what they were.
    pub(crate) fn mix(&mut self, ppk: &Secret) -> Result<Unmixed, Error> {
        let mixed = |sk: &Secret| mix_ppk(self.transforms.prf, ppk, sk);
        let mixed =
            Unmixed { sk_d: mixed(&self.sk_d)?, sk_pi: mixed(&self.sk_pi)?, sk_pr: mixed(&self.sk_pr)? };
        Ok(self.exchange(mixed))
    }

    /// Takes these keys in the place of its own, which it returns.
    pub(crate) fn exchange(&mut self, keys: Unmixed) -> Unmixed {
        Unmixed {
            sk_d: std::mem::replace(&mut self.sk_d, keys.sk_d),
            sk_pi: std::mem::replace(&mut self.sk_pi, keys.sk_pi),
            sk_pr: std::mem::replace(&mut self.sk_pr, keys.sk_pr),
        }
    }

    /// Encodes and encrypts a message: one datagram, or its fragments.
    pub(crate) fn seal(&mut self, header: &Header, payloads: &[Payload]) -> Result<Vec<Vec<u8>>, Error> {
        let whole = Message::encode_encrypted(header, payloads, self.layout());
        match self.largest.filter(|most| whole.datagram.len() > *most) {
            Some(most) => self.seal_pieces(header, payloads, most),
            None => Ok(vec![self.protect(whole)?]),
        }
    }

    /// The same in one datagram, however large.
    pub(crate) fn seal_whole(&mut self, header: &Header, payloads: &[Payload]) -> Result<Vec<u8>, Error> {
        self.protect(Message::encode_encrypted(header, payloads, self.layout()))
    }

    /// The same in fragments that are no larger than `most`.
    pub(crate) fn seal_pieces(
        &mut self,
        header: &Header,
        payloads: &[Payload],
        most: usize,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let layout = self.layout();
        let (first_inner, content) = Message::encode_inner(payloads);
        let pieces = content.chunks(fragment::piece_len(most, layout));
        let Ok(total) = u16::try_from(pieces.len()) else {
            return Ok(vec![self.seal_whole(header, payloads)?]);
        };
        (1..=total)
            .zip(pieces)
            .map(|(number, piece)| {
                let fragment = Fragment { number, total };
                self.protect(Message::encode_fragment(header, first_inner, fragment, piece, layout))
            })
            .collect()
    }

    /// The sizes of our Encrypted payloads.
    pub(crate) fn layout(&self) -> SkLayout {
        SkLayout {
            iv_len: self.outbound.iv_len(),
            block_len: self.outbound.block_len(),
            icv_len: self.outbound.icv_len(),
        }
    }

    fn protect(&mut self, draft: SkDraft) -> Result<Vec<u8>, Error> {
        let mut datagram = draft.datagram;
        let (associated, rest) = datagram.split_at_mut(draft.iv.start);
        let (iv, rest) = rest.split_at_mut(draft.iv.len());
        let (text, icv) = rest.split_at_mut(draft.plaintext.len());
        self.outbound.next_iv(self.sealed, iv);
        self.sealed += 1;
        self.outbound.seal(iv, associated, &[], text, icv)?;
        Ok(datagram)
    }

    /// Checks, decrypts and, if need be, puts together a message that is awaited. `None`, counted, if it is not from the
    /// peer, or not all of it is there.
    pub(crate) fn open(&mut self, core: &Core, cx: &mut Shared, m: &Incoming<'_>) -> Option<Opened> {
        let opened = self.open_whole(core, cx, m)?;
        let header = m.header();
        cx.tallies.message(&core.connection.name, header.exchange, Way::In, header.flags.response);
        Some(opened)
    }

    fn open_whole(&mut self, core: &Core, cx: &mut Shared, m: &Incoming<'_>) -> Option<Opened> {
        let Some(encrypted) = m.message.encrypted else {
            cx.counters.ignored += 1;
            return None;
        };
        let agreed = self.largest.is_some();
        let partial = if m.header().flags.response { &mut self.response } else { &mut self.request };
        if let Some(fragment) = encrypted.fragment
            && !(agreed && Partial::is_new(partial.as_ref(), m.header(), fragment))
        {
            cx.counters.ignored += 1;
            return None;
        }
        let Some(content) = decrypt(&self.inbound, m.datagram, &encrypted) else {
            cx.counters.not_authentic += 1;
            return None;
        };
        let Some(fragment) = encrypted.fragment else {
            *partial = None;
            return Some(Opened::new(m.datagram.to_vec(), &encrypted, &content));
        };
        let mut gathering = partial
            .take()
            .filter(|p| p.takes(m.header(), fragment))
            .unwrap_or_else(|| Partial::new(m.header(), fragment, cx.now));
        let state = (core.established.is_some(), cx.now);
        if !gathering.add((m.datagram, &encrypted), fragment, content, state) {
            cx.counters.ignored += 1;
            return None;
        }
        if !gathering.is_complete() {
            *partial = Some(gathering);
            return None;
        }
        let whole = gathering.gather()?;
        Some(Opened::new(whole.first, &whole.encrypted, &whole.content))
    }

    /// Is it from the peer? Says nothing about its being new.
    pub(crate) fn is_authentic(&self, m: &Incoming<'_>) -> bool {
        m.message.encrypted.is_some_and(|e| decrypt(&self.inbound, m.datagram, &e).is_some())
    }

    /// When an incomplete message is given up.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        [&self.request, &self.response].into_iter().flatten().map(Partial::deadline).min()
    }

    /// Gives incomplete messages up at their time (RFC 7383 2.6).
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for partial in [&mut self.request, &mut self.response] {
            partial.take_if(|p| now >= p.deadline());
        }
    }
}

/// The content of an Encrypted payload without padding, if its integrity check passes.
fn decrypt(inbound: &Protection, datagram: &[u8], encrypted: &Encrypted) -> Option<Vec<u8>> {
    let (associated, body) = datagram.split_at_checked(encrypted.associated_data_len)?;
    let (iv, rest) = body.split_at_checked(inbound.iv_len())?;
    let (text, icv) = rest.split_at_checked(rest.len().checked_sub(inbound.icv_len())?)?;
    let mut text = text.to_vec();
    inbound.open(iv, associated, &[], &mut text, icv).ok()?;
    // RFC 7296 3.14: padding of any content, its length in the last octet.
    let padding = usize::from(*text.last()?) + 1;
    text.truncate(text.len().checked_sub(padding)?);
    Some(text)
}

impl Opened {
    fn new(datagram: Vec<u8>, encrypted: &Encrypted, content: &[u8]) -> Self {
        Self {
            payloads: Message::decode_inner(encrypted.first_inner, content),
            octets: encrypted.without_encryption(&datagram, content),
            datagram,
        }
    }
}
