//! A third opinion: scapy's IPsec layer opens what Adit seals and Adit opens what scapy seals, in every suite, both modes and
//! both families, with 32-bit numbers and with extended ones before and after 2^32.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use adit_esp::transport::OuterHeader;
use adit_esp::{InboundSa, Opened, OutboundSa};
use serde_json::{Value, json};

use super::*;

/// One question to scapy: an ESP packet of ours, and a packet that it is to seal for us.
struct Question<'s> {
    sas: Sas<'s>,
    half: Half,
    number: u64,
    /// What is in the packet that Adit has sealed.
    ours: Vec<u8>,
    theirs: Vec<u8>,
}

#[test]
fn scapy_and_adit_understand_each_other() -> Result<()> {
    let mut noise = Noise(0x5ca9_5ca9);
    let (mut questions, mut text) = (Vec::new(), Vec::new());
    for suite in &suites::SUITES {
        for (transport, outer) in FAMILIES.into_iter().flat_map(|family| [(false, family), (true, family)]) {
            for high in [None, Some(0), Some(1), Some(u32::MAX)] {
                for size in [1 + noise.below(16), 17 + noise.below(1200)] {
                    let sas = Sas { suite, transport, outer, esn: high.is_some(), ..Sas::usual() };
                    let question = Question::new(sas, high, size, &mut noise)?;
                    text.push(question.text(high)?);
                    questions.push(question);
                }
            }
        }
    }
    let answers = ask(&Value::from(text))?;
    let answers = answers.as_array().context("a list")?;
    ensure!(answers.len() == questions.len(), "{} answers to {}", answers.len(), questions.len());
    for (question, answer) in questions.into_iter().zip(answers) {
        let description = format!("{}, number {:#x}", question.sas, question.number);
        question.judge(answer).with_context(|| description)?;
    }
    Ok(())
}

impl<'s> Question<'s> {
    fn new(sas: Sas<'s>, high: Option<u32>, size: usize, noise: &mut Noise) -> Result<Self> {
        let half = Half::new(sas, Side::A, 1, noise);
        let number = u64::from(high.unwrap_or(0)) << 32 | (1 + noise.below(1 << 30)) as u64;
        let mut packet = |from: Side| -> Result<Vec<u8>> {
            let ends = [from, from.other()].map(|side| match sas.transport {
                true => side.outer(sas.outer).parse().context("an address"),
                false => endpoint(side, sas.outer),
            });
            let [source, destination] = ends;
            Ok(ip_packet(
                source?,
                destination?,
                PROTOCOL,
                [1, 0],
                noise.below(1 << 16) as u32,
                &noise.octets(size),
            ))
        };
        let (ours, theirs) = (packet(Side::A)?, packet(Side::B)?);
        Ok(Self { sas, half, number, ours, theirs })
    }

    fn text(&self, high: Option<u32>) -> Result<Value> {
        let mut esp = Vec::new();
        OutboundSa::resume(self.half.parameters(self.sas)?, self.number - 1)?.seal(&self.ours, &mut esp)?;
        let packet = outer_packet(self.sas, Side::A, &esp)?;
        let header = packet.len() - esp.len();
        // In transport mode the header of the packet itself goes in front.
        let outer = match self.sas.transport {
            false => packet[..header].to_vec(),
            true => {
                let mut own = self.ours[..header].to_vec();
                let (len_at, len, protocol_at) =
                    if self.sas.outer == Family::V4 { (2, packet.len(), 9) } else { (4, esp.len(), 6) };
                own[len_at..len_at + 2].copy_from_slice(&(len as u16).to_be_bytes());
                own[protocol_at] = 50;
                with_checksum(own)
            }
        };
        let (cipher, auth) = self.sas.suite.scapy();
        Ok(json!({
            "cipher": cipher, "auth": auth, "key": hex(&self.half.encr), "auth_key": hex(&self.half.integ),
            "spi": self.half.spi, "seq": self.number as u32, "esn": high, "tunnel": !self.sas.transport,
            "outer": hex(&outer), "esp": hex(&esp), "inner": hex(&self.theirs),
        }))
    }

    fn judge(&self, answer: &Value) -> Result<()> {
        let text = |name: &str| answer.get(name).and_then(Value::as_str).context("octets");
        ensure!(
            text("opened")? == hex(&self.ours),
            "scapy opens {}, not {}",
            text("opened")?,
            hex(&self.ours)
        );
        let mut sealed = unhex(text("sealed")?)?;
        let mut sa = InboundSa::resume(self.half.parameters(self.sas)?, self.number - 1)?;
        let addresses =
            Some((Side::B.outer(self.sas.outer).parse()?, Side::A.outer(self.sas.outer).parse()?));
        let outer = OuterHeader { addresses, ..OuterHeader::UNKNOWN };
        let header = self.theirs.len() - self.payload_len();
        match sa.open_from(&mut sealed, &outer).map_err(|cause| anyhow::anyhow!("scapy's packet: {cause}"))? {
            Opened::Packet(inner) if !self.sas.transport => ensure!(*inner == *self.theirs, "{}", hex(inner)),
            // Of the header the addresses are what is certain.
            Opened::Payload(own, payload) if self.sas.transport => {
                let addresses = if header == 20 { 12..20 } else { 8..40 };
                let whole = [own.as_bytes(), payload].concat();
                ensure!(whole[addresses.clone()] == self.theirs[addresses], "{}", hex(&whole));
                ensure!(whole[header..] == self.theirs[header..], "{}", hex(&whole));
            }
            other => bail!("{other:?}"),
        }
        Ok(())
    }

    fn payload_len(&self) -> usize {
        self.theirs.len() - if self.sas.outer == Family::V4 { 20 } else { 40 }
    }
}

fn ask(questions: &Value) -> Result<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/esp_oracle.py");
    let mut scapy = Command::new(adit_lab::scapy::python()?)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // It answers once it has read everything.
    scapy.stdin.take().context("standard input")?.write_all(questions.to_string().as_bytes())?;
    let output = scapy.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    text.as_bytes().chunks(2).map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}
