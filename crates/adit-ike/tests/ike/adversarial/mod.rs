//! The adversarial tests of the project's standards (3.3), by their numbers: what comes in, and what must come of it.
//! Which test has which number: see the table in README.md here; those that stand elsewhere carry the number in their
//! name, too.

mod first_messages;
mod floods;
mod machine;
mod peers;

use adit_wire::ikev2::{ExchangeType, Message, NotifyType, Payload, PayloadType, UnknownPayload};

use crate::pair::{A, B, Packet, Pair, at, header, notifies, open, seal, sides};

/// Sends a first request, changed, to a responder that has nothing yet; returns it and what it answered.
fn first_request(change: impl FnOnce(&mut Message)) -> (Pair, Vec<Packet>) {
    let mut pair = Pair::new(sides());
    pair.up();
    pair.collect();
    let first = pair.sent[0].clone();
    let mut message = Message::decode(&first.datagram).unwrap();
    change(&mut message);
    let datagram = Message::encode(&message.header, &message.payloads);
    pair.deliver(&Packet { datagram, ..first });
    let answers = pair.sent.split_off(1);
    (pair, answers)
}

/// Does an answer agree to a proposal?
fn agrees(answers: &[Packet]) -> bool {
    answers.iter().any(|answer| {
        Message::decode(&answer.datagram)
            .unwrap()
            .payloads
            .iter()
            .any(|p| p.payload_type() == PayloadType::SA)
    })
}

/// Sends an IKE_AUTH request, changed, to a half-open responder; returns it and the payloads of its answer.
fn auth_request(change: impl FnOnce(&mut Vec<Payload>)) -> (Pair, Vec<Payload>) {
    let (mut a, mut b) = sides();
    for side in [&mut a, &mut b] {
        side.connection().fragmentation = adit_ike::config::Fragmentation::No;
    }
    let mut pair = Pair::new((a, b));
    pair.up();
    pair.link = Box::new(|i, _| if i >= 2 { crate::pair::Fate::Lose } else { crate::pair::Fate::Deliver });
    pair.settle();
    let mut payloads = pair.open(&pair.sent[2]);
    change(&mut payloads);
    let keys = pair.b.keys.pop().unwrap();
    let h = header(&keys, ExchangeType::IKE_AUTH, true, false, 1);
    let datagram = seal(&keys, &h, &payloads, 1 << 40);
    pair.deliver(&Packet { source: at(A, 500), destination: at(B, 500), datagram });
    let answer = pair.sent.get(3).map(|p| open(&keys, p)).unwrap_or_default();
    (pair, answer)
}

/// An authenticated peer that says what it likes.
struct Insider {
    pair: Pair,
    keys: adit_ike::IkeKeyLog,
    message_id: u32,
}

impl Insider {
    fn new() -> Self {
        let mut pair = Pair::established(sides());
        let keys = pair.a.keys.pop().unwrap();
        Self { pair, keys, message_id: 2 }
    }

    /// Asks `b`; returns what it answers.
    fn ask(&mut self, exchange: ExchangeType, payloads: &[Payload]) -> Vec<Payload> {
        let h = header(&self.keys, exchange, true, false, self.message_id);
        self.message_id += 1;
        let datagram = seal(&self.keys, &h, payloads, (1 << 40) + u64::from(self.message_id));
        self.pair.deliver(&Packet { source: at(A, 500), destination: at(B, 500), datagram });
        open(&self.keys, self.pair.sent.last().unwrap())
    }

    fn ask_notifies(&mut self, exchange: ExchangeType, payloads: &[Payload]) -> Vec<NotifyType> {
        notifies(&self.ask(exchange, payloads))
    }

    /// The payloads that ask for one more child, with an SPI of its own.
    fn child_request(&self) -> Vec<Payload> {
        let mut request = open(&self.keys, &self.pair.sent[2]);
        request.retain(|p| matches!(p.payload_type(), PayloadType::SA | PayloadType::TSI | PayloadType::TSR));
        request.push(Payload::Nonce(adit_wire::ikev2::Nonce(vec![5; 32])));
        for payload in &mut request {
            if let Payload::SecurityAssociation(sa) = payload {
                sa.proposals[0].spi = (0x7000_0000 + self.message_id).to_be_bytes().to_vec();
            }
        }
        request
    }
}

fn unknown(payload_type: u8, critical: bool, body: Vec<u8>) -> Payload {
    Payload::Unknown(UnknownPayload { payload_type: PayloadType(payload_type), critical, body })
}
