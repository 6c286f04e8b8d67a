//! An initiator made by hand, from the formulas of the RFCs and the prf alone, so that nothing of the machine under test
//! vouches for itself. It can say what no gateway says.

use adit_crypto::testing::SeededEntropy;
use adit_crypto::{IkeTransforms, KeyExchangeSecret, Prf};
use adit_ike::{IkeKeyLog, proposal};
use adit_wire::ikev2::{
    AuthMethod, Authentication, ExchangeType, Header, IkeSpi, KeId, KeyExchange, Message, Nonce, Notify,
    NotifyType, Payload, PayloadType, PrfId, SecurityAssociation, TrafficSelectors,
};

use crate::pair::{A, B, KEY, Packet, Pair, Side, at, net, open, seal, sides};

const NI: [u8; 32] = [0x11; 32];
const SPI_I: IkeSpi = IkeSpi(0x0123_4567_89ab_cdef);
/// Octets of a key of PRF_HMAC_SHA2_384, and of AES-GCM with 256 bits and its salt.
const PRF_LEN: usize = 48;
const ENCR_LEN: usize = 36;

pub(crate) fn prf(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    Prf::new(PrfId::HMAC_SHA2_384).unwrap().compute(key, parts).expose().to_vec()
}

/// prf+ (RFC 7296 2.13).
fn prf_plus(key: &[u8], seed: &[u8], len: usize) -> Vec<u8> {
    let (mut stream, mut block) = (Vec::new(), Vec::new());
    for counter in 1..=u8::MAX {
        block = prf(key, &[&block, seed, &[counter]]);
        stream.extend_from_slice(&block);
        if stream.len() >= len {
            break;
        }
    }
    stream.truncate(len);
    stream
}

/// The initiator against gateway `b` of a [`Pair`]. Proposals have to begin with `aes256gcm16-prfsha384-x25519`.
pub(crate) struct Hand {
    pub(crate) pair: Pair,
    /// Whole IKE_SA_INIT messages.
    init: [Vec<u8>; 2],
    /// We said that we sign both.
    full_transcript: bool,
    pub(crate) init_response: Vec<Payload>,
    nr: Vec<u8>,
    pub(crate) sk_d: Vec<u8>,
    /// SK_pi, SK_pr.
    sk_p: [Vec<u8>; 2],
    keys: IkeKeyLog,
    /// IntAuth of our messages and of the peer's.
    int_auth: [Vec<u8>; 2],
    pub(crate) next_id: u32,
    iv: u64,
    pub(crate) entropy: SeededEntropy,
}

impl Hand {
    /// Sends IKE_SA_INIT. If it is not accepted the pair says what was answered.
    pub(crate) fn new(b: Side, proposals: &str, notifies: &[NotifyType]) -> Result<Self, Box<Pair>> {
        let notifies: Vec<Notify> = notifies.iter().map(|n| Notify::new(*n, Vec::new())).collect();
        Self::with(b, proposals, &notifies)
    }

    /// The same with notifies that say something.
    pub(crate) fn with(b: Side, proposals: &str, notifies: &[Notify]) -> Result<Self, Box<Pair>> {
        let (mut a, _) = sides();
        a.connections.clear();
        let mut pair = Pair::new((a, b));
        let mut entropy = SeededEntropy::new(99);
        let secret = KeyExchangeSecret::generate(KeId::CURVE_25519, &mut entropy).unwrap();
        let mut payloads = vec![
            Payload::SecurityAssociation(SecurityAssociation {
                proposals: proposal::parse_ike(proposals).unwrap(),
            }),
            Payload::KeyExchange(KeyExchange { method: KeId::CURVE_25519, data: secret.public().to_vec() }),
            Payload::Nonce(Nonce(NI.to_vec())),
        ];
        payloads.extend(notifies.iter().cloned().map(Payload::Notify));
        let transforms = IkeTransforms {
            encr: adit_wire::ikev2::EncrId::AES_GCM_16,
            key_bits: Some(256),
            integ: None,
            prf: PrfId::HMAC_SHA2_384,
            ke: KeId::CURVE_25519,
        };
        let mut keys = IkeKeyLog {
            initiator_spi: SPI_I,
            responder_spi: IkeSpi::ZERO,
            transforms,
            sk_ei: Vec::new(),
            sk_er: Vec::new(),
            sk_ai: Vec::new(),
            sk_ar: Vec::new(),
        };
        let request = Message::encode(&header(&keys, ExchangeType::IKE_SA_INIT, 0), &payloads);
        let before = pair.sent.len();
        pair.deliver(&packet(request.clone()));
        let Some(response) = pair.sent.get(before).cloned() else { return Err(Box::new(pair)) };
        let message = Message::decode(&response.datagram).unwrap();
        let (mut ke, mut nonce) = (None, None);
        for payload in &message.payloads {
            match payload {
                Payload::KeyExchange(p) => ke = Some(p.clone()),
                Payload::Nonce(p) => nonce = Some(p.0.clone()),
                _ => {}
            }
        }
        let (Some(ke), Some(nr)) = (ke, nonce) else { return Err(Box::new(pair)) };
        let shared = secret.agree(&ke.data).unwrap();
        keys.responder_spi = message.header.responder_spi;
        let mut hand = Self {
            pair,
            init: [request, response.datagram],
            full_transcript: notifies
                .iter()
                .any(|n| n.notify_type == NotifyType::IKE_SA_INIT_FULL_TRANSCRIPT_AUTH),
            init_response: message.payloads,
            nr,
            sk_d: Vec::new(),
            sk_p: [Vec::new(), Vec::new()],
            keys,
            int_auth: [Vec::new(), Vec::new()],
            next_id: 1,
            iv: 0,
            entropy,
        };
        // RFC 7296 2.14: SKEYSEED = prf(Ni | Nr, g^ir)
        let skeyseed = prf(&[&NI[..], &hand.nr].concat(), &[shared.expose()]);
        hand.expand(&skeyseed);
        Ok(hand)
    }

    /// {SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+ (SKEYSEED, Ni | Nr | SPIi | SPIr); with an AEAD
    /// cipher without SK_a.
    fn expand(&mut self, skeyseed: &[u8]) {
        let nr = self.nr.clone();
        self.expand_with(skeyseed, &NI, &nr);
    }

    fn expand_with(&mut self, skeyseed: &[u8], ni: &[u8], nr: &[u8]) {
        let (spi_i, spi_r) = (self.keys.initiator_spi.0, self.keys.responder_spi.0);
        let seed = [ni, nr, &spi_i.to_be_bytes(), &spi_r.to_be_bytes()].concat();
        let stream = prf_plus(skeyseed, &seed, 3 * PRF_LEN + 2 * ENCR_LEN);
        let mut rest = &stream[..];
        let mut take = |len| {
            let (key, after) = rest.split_at(len);
            rest = after;
            key.to_vec()
        };
        self.sk_d = take(PRF_LEN);
        (self.keys.sk_ei, self.keys.sk_er) = (take(ENCR_LEN), take(ENCR_LEN));
        self.sk_p = [take(PRF_LEN), take(PRF_LEN)];
    }

    /// Goes on with a new IKE SA, whose Message IDs begin at 0 (RFC 7296 2.18).
    pub(crate) fn replace(
        &mut self,
        skeyseed: &[u8],
        (spi_i, spi_r): (IkeSpi, Vec<u8>),
        (ni, nr): (&[u8], &[u8]),
    ) {
        self.keys.initiator_spi = spi_i;
        self.keys.responder_spi = IkeSpi(u64::from_be_bytes(spi_r.try_into().unwrap()));
        self.expand_with(skeyseed, ni, nr);
        self.next_id = 0;
    }

    /// One exchange; `None` if nothing is answered. Only an IKE_INTERMEDIATE enters IntAuth.
    pub(crate) fn exchange(&mut self, exchange: ExchangeType, payloads: &[Payload]) -> Option<Vec<Payload>> {
        self.iv += 1;
        let header = header(&self.keys, exchange, self.next_id);
        let datagram = seal(&self.keys, &header, payloads, self.iv);
        self.deliver(datagram, payloads)
    }

    /// The same, already sealed.
    fn deliver(&mut self, datagram: Vec<u8>, payloads: &[Payload]) -> Option<Vec<Payload>> {
        let header = Header::decode(&datagram).unwrap();
        let before = self.pair.sent.len();
        self.pair.deliver(&packet(datagram));
        let response = self.pair.sent.get(before).cloned()?;
        let answer = open(&self.keys, &response);
        if header.exchange == ExchangeType::IKE_INTERMEDIATE {
            // RFC 9242 3.3.2: IntAuth_i(n) = prf(SK_pi(n), IntAuth_i(n-1) | A | P), with the keys so far.
            for (n, (header, payloads)) in
                [(header, payloads), (response.header(), &answer[..])].into_iter().enumerate()
            {
                let message = without_encryption(&header, payloads);
                self.int_auth[n] = prf(&self.sk_p[n], &[&self.int_auth[n], &message]);
            }
        }
        self.next_id += 1;
        Some(answer)
    }

    /// An additional key exchange (RFC 9370 2.2.2): SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr).
    pub(crate) fn additional(&mut self, method: KeId) {
        let secret = KeyExchangeSecret::generate(method, &mut self.entropy).unwrap();
        let ke = Payload::KeyExchange(KeyExchange { method, data: secret.public().to_vec() });
        let answer = self.exchange(ExchangeType::IKE_INTERMEDIATE, &[ke]).expect("answered");
        let [Payload::KeyExchange(ke)] = &answer[..] else { panic!("{answer:?}") };
        assert_eq!(ke.method, method);
        let shared = secret.agree(&ke.data).unwrap();
        let skeyseed = prf(&self.sk_d, &[shared.expose(), &NI, &self.nr]);
        self.expand(&skeyseed);
    }

    /// What an AUTH payload must hold (RFC 7296 2.15), of us (0) or of the peer (1).
    pub(crate) fn auth(&self, side: usize, id: &[u8]) -> Vec<u8> {
        prf(&prf(KEY, &[b"Key Pad for IKEv2"]), &[&self.octets(side, id)])
    }

    /// What it proves, by whatever means.
    pub(crate) fn octets(&self, side: usize, id: &[u8]) -> Vec<u8> {
        let nonce = if side == 0 { &self.nr[..] } else { &NI };
        let maced_id = prf(&self.sk_p[side], &[id]);
        let mut octets = Vec::new();
        if self.full_transcript {
            // draft-ietf-ipsecme-ikev2-downgrade-prevention: ZeroPrefix, the message received, the message sent.
            octets.extend_from_slice(&[0; 8]);
            octets.extend_from_slice(&self.init[1 - side]);
        }
        octets.extend_from_slice(&self.init[side]);
        octets.extend_from_slice(nonce);
        octets.extend_from_slice(&maced_id);
        if !self.int_auth[0].is_empty() {
            octets.extend_from_slice(&self.int_auth[0]);
            octets.extend_from_slice(&self.int_auth[1]);
            octets.extend_from_slice(&self.next_id.to_be_bytes());
        }
        octets
    }

    /// The payloads of an IKE_AUTH request as `a.example`.
    pub(crate) fn auth_request(&self) -> Vec<Payload> {
        let id = "a.example".parse::<adit_ike::identity::Identity>().unwrap().to_wire();
        let data = self.auth(0, &id.body());
        let mut proposals = proposal::parse_esp("aes256gcm16-noesn").unwrap();
        proposals[0].spi = vec![0xc0, 0xff, 0xee, 1];
        vec![
            Payload::IdInitiator(id),
            Payload::Authentication(Authentication { method: AuthMethod::SHARED_KEY, data }),
            Payload::SecurityAssociation(SecurityAssociation { proposals }),
            Payload::TrafficSelectorsInitiator(TrafficSelectors::new(vec![net("10.1.0.0/16")])),
            Payload::TrafficSelectorsResponder(TrafficSelectors::new(vec![net("10.2.0.0/16")])),
        ]
    }

    /// IKE_AUTH, and whether the answer proves that `b.example` knows the same keys.
    pub(crate) fn authenticate(&mut self, request: &[Payload]) -> bool {
        let id = "b.example".parse::<adit_ike::identity::Identity>().unwrap().to_wire();
        let expected = self.auth(1, &id.body());
        let answer = self.exchange(ExchangeType::IKE_AUTH, request).expect("answered");
        let auth = answer.iter().find_map(|p| match p {
            Payload::Authentication(auth) => Some(auth.data.clone()),
            _ => None,
        });
        auth.is_some_and(|auth| auth == expected)
    }

    /// RFC 8784 3: SK' = prf+ (PPK, SK).
    pub(crate) fn mix(&mut self, ppk: &[u8]) {
        self.sk_d = prf_plus(ppk, &self.sk_d, PRF_LEN);
        self.sk_p = [0, 1].map(|side| prf_plus(ppk, &self.sk_p[side], PRF_LEN));
    }

    /// KEYMAT (RFC 7296 2.17), from a seed that begins with the secrets and nonces: the keys of what we send, then of
    /// what we receive.
    pub(crate) fn keymat(&self, seed: &[u8]) -> [Vec<u8>; 2] {
        let keymat = prf_plus(&self.sk_d, seed, 2 * ENCR_LEN);
        let (ours, theirs) = keymat.split_at(ENCR_LEN);
        [ours.to_vec(), theirs.to_vec()]
    }

    /// The peer has one child, with these keys.
    pub(crate) fn assert_child(&self) {
        let [ours, theirs] = self.keymat(&[&NI[..], &self.nr].concat());
        assert_eq!(self.pair.b.installed.len(), 1, "{:?}", self.pair.b.records);
        let child = self.pair.b.installed.values().next().unwrap();
        assert!(child.inbound_keys.encr.ct_eq(&ours));
        assert!(child.outbound_keys.encr.ct_eq(&theirs));
    }
}

fn header(keys: &IkeKeyLog, exchange: ExchangeType, message_id: u32) -> Header {
    crate::pair::header(keys, exchange, true, false, message_id)
}

fn packet(datagram: Vec<u8>) -> Packet {
    Packet { source: at(A, 500), destination: at(B, 500), datagram }
}

/// `A | P` of RFC 9242 3.3.2, octet by octet.
fn without_encryption(header: &Header, payloads: &[Payload]) -> Vec<u8> {
    let (first, content) = Message::encode_inner(payloads);
    let total = u32::try_from(28 + 4 + content.len()).unwrap();
    let inner = u16::try_from(4 + content.len()).unwrap();
    let flags = if header.flags.response { 0x20 } else { 0x08 };
    let mut octets = Vec::new();
    octets.extend(header.initiator_spi.0.to_be_bytes());
    octets.extend(header.responder_spi.0.to_be_bytes());
    octets.extend([PayloadType::SK.0, 0x20, header.exchange.0, flags]);
    octets.extend(header.message_id.to_be_bytes());
    octets.extend(total.to_be_bytes());
    octets.extend([first.0, 0]);
    octets.extend(inner.to_be_bytes());
    octets.extend(content);
    octets
}
