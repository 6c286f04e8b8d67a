//! What a failing schedule shows: every message with what is in it, in the order of virtual time. SPIs have short
//! names: `a1` is the first that A chose for a Child SA, `S1` the first IKE SA.

use std::collections::BTreeMap;
use std::time::Duration;

use adit_ike::IkeKeyLog;
use adit_wire::ikev2::{Header, Message, Payload, ProtocolId, SecurityAssociation, Spi};

use crate::pair::{Packet, try_open};

/// A message as an observer with all keys sees it.
pub(crate) struct Opened {
    pub(crate) header: Header,
    pub(crate) payloads: Option<Vec<Payload>>,
}

impl Opened {
    pub(crate) fn new(keys: &[IkeKeyLog], packet: &Packet) -> Self {
        let header = packet.header();
        let message = Message::decode(&packet.datagram).unwrap();
        if message.encrypted.is_none() {
            return Self { header, payloads: Some(message.payloads) };
        }
        let fits = |k: &&IkeKeyLog| {
            k.initiator_spi == header.initiator_spi && k.responder_spi == header.responder_spi
        };
        let payloads = keys.iter().rev().filter(fits).find_map(|keys| try_open(keys, packet));
        Self { header, payloads }
    }
}

#[derive(Default)]
pub(crate) struct Chart {
    enabled: bool,
    lines: Vec<String>,
    names: BTreeMap<Spi, String>,
    ike_names: BTreeMap<(u64, u64), String>,
    counts: [usize; 2],
}

impl Chart {
    pub(crate) fn new(enabled: bool) -> Self {
        Self { enabled, ..Self::default() }
    }

    pub(crate) fn line(&mut self, at: Duration, line: impl FnOnce(&mut Self) -> String) {
        if self.enabled {
            let line = line(self);
            if line.is_empty() {
                return;
            }
            self.lines.push(format!("{:>7} ms  {line}", at.as_millis()));
        }
    }

    pub(crate) fn text(&self) -> String {
        self.lines.join("\n")
    }

    pub(crate) fn spi(&self, spi: Spi) -> String {
        self.names.get(&spi).cloned().unwrap_or_else(|| format!("{spi}"))
    }

    /// `end` chose this SPI.
    pub(crate) fn name(&mut self, end: usize, spi: Spi) -> String {
        let counts = &mut self.counts;
        let name = self.names.entry(spi).or_insert_with(|| {
            counts[end] += 1;
            format!("{}{}", ["a", "b"][end], counts[end])
        });
        name.clone()
    }

    pub(crate) fn ike(&mut self, spis: (u64, u64)) -> String {
        let next = self.ike_names.len() + 1;
        self.ike_names.entry(spis).or_insert_with(|| format!("S{next}")).clone()
    }

    /// One message that `end` sends.
    pub(crate) fn message(&mut self, end: usize, opened: &Opened) -> String {
        let h = &opened.header;
        let ike = self.ike((h.initiator_spi.0, h.responder_spi.0));
        let kind = if h.flags.response { "response" } else { "request" };
        let inside = match &opened.payloads {
            None => "?".to_owned(),
            Some(payloads) if payloads.is_empty() => "(empty)".to_owned(),
            Some(payloads) => payloads.iter().map(|p| self.payload(end, p)).collect::<Vec<_>>().join(" "),
        };
        format!("{ike} {} {kind} {}: {inside}", h.exchange, h.message_id)
    }

    fn payload(&mut self, end: usize, payload: &Payload) -> String {
        match payload {
            Payload::SecurityAssociation(sa) => format!("SA({})", self.spis_of(end, sa)),
            Payload::Nonce(nonce) => format!("Nonce({}..)", hex(&nonce.0[..4])),
            Payload::Notify(n) => match <[u8; 4]>::try_from(n.spi.as_slice()) {
                Ok(spi) => format!("N({} {})", n.notify_type, self.spi(Spi(u32::from_be_bytes(spi)))),
                Err(_) => format!("N({})", n.notify_type),
            },
            Payload::Delete(d) if d.protocol == ProtocolId::IKE => "D(IKE)".to_owned(),
            Payload::Delete(d) => {
                format!("D({})", d.spis.iter().map(|s| self.spi(*s)).collect::<Vec<_>>().join(" "))
            }
            other => format!("{}", other.payload_type()),
        }
    }

    fn spis_of(&mut self, end: usize, sa: &SecurityAssociation) -> String {
        let Some(proposal) = sa.proposals.first() else { return "none".to_owned() };
        match <[u8; 4]>::try_from(proposal.spi.as_slice()) {
            Ok(spi) => self.name(end, Spi(u32::from_be_bytes(spi))),
            Err(_) => format!("IKE {}", hex(&proposal.spi)),
        }
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|o| format!("{o:02x}")).collect()
}
