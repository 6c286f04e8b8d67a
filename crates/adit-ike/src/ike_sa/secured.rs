//! The keys of one IKE SA at work: sealing and opening Encrypted payloads (RFC 7296 3.14, RFC 5282).

use adit_crypto::{Error, IkeKeys, IkeTransforms, Protection, Secret};
use adit_wire::DecodeError;
use adit_wire::ikev2::{Encrypted, Header, Message, Payload, SkLayout};

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
}

/// Why an Encrypted payload gave nothing.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// Not from the peer, or damaged on the way: as if it had never come.
    NotAuthentic,
    /// From the peer, and malformed: INVALID_SYNTAX.
    Malformed(DecodeError),
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
        Ok(Self { transforms, sk_d, sk_pi, sk_pr, outbound, inbound, sealed: 0 })
    }

    /// Encodes and encrypts a message.
    pub(crate) fn seal(&mut self, header: &Header, payloads: &[Payload]) -> Result<Vec<u8>, Error> {
        let layout = SkLayout {
            iv_len: self.outbound.iv_len(),
            block_len: self.outbound.block_len(),
            icv_len: self.outbound.icv_len(),
        };
        let draft = Message::encode_encrypted(header, payloads, layout);
        let mut datagram = draft.datagram;
        let (associated, rest) = datagram.split_at_mut(draft.iv.start);
        let (iv, rest) = rest.split_at_mut(draft.iv.len());
        let (text, icv) = rest.split_at_mut(draft.plaintext.len());
        self.outbound.next_iv(self.sealed, iv);
        self.sealed += 1;
        self.outbound.seal(iv, associated, &[], text, icv)?;
        Ok(datagram)
    }

    /// Checks and decrypts the Encrypted payload of a message.
    pub(crate) fn open(&self, datagram: &[u8], encrypted: &Encrypted) -> Result<Vec<Payload>, OpenError> {
        let (associated, body) =
            datagram.split_at_checked(encrypted.associated_data_len).ok_or(OpenError::NotAuthentic)?;
        let (iv, rest) = body.split_at_checked(self.inbound.iv_len()).ok_or(OpenError::NotAuthentic)?;
        let text_len = rest.len().checked_sub(self.inbound.icv_len()).ok_or(OpenError::NotAuthentic)?;
        let (text, icv) = rest.split_at_checked(text_len).ok_or(OpenError::NotAuthentic)?;
        let mut text = text.to_vec();
        self.inbound.open(iv, associated, &[], &mut text, icv).map_err(|_| OpenError::NotAuthentic)?;
        // RFC 7296 3.14: padding of any content, its length in the last octet.
        let padding = usize::from(*text.last().ok_or(OpenError::NotAuthentic)?) + 1;
        let content =
            text.len().checked_sub(padding).and_then(|n| text.get(..n)).ok_or(OpenError::NotAuthentic)?;
        Message::decode_inner(encrypted.first_inner, content).map_err(OpenError::Malformed)
    }
}
