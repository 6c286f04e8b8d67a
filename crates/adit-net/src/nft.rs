//! The few messages and expressions of nf_tables that the fence needs, as netlink attributes
//! (`linux/netfilter/nf_tables.h`). It owns the encoding; what the rules are is decided in [`crate::fence`].

use std::io;
use std::ops::RangeInclusive;

use crate::netlink::{HEADER_LEN, NetlinkSocket};

/// A transaction: all of it takes effect at once, or nothing does.
pub(crate) struct Batch {
    octets: Vec<u8>,
    /// Where the last message begins.
    last: usize,
    first_sequence: u32,
    sequence: u32,
    sets: u32,
}

/// A set of values that fields of a packet can have.
pub(crate) struct Set<'a> {
    pub(crate) name: &'a str,
    pub(crate) key: Vec<Part>,
    /// Each is as long as the key.
    pub(crate) elements: Vec<Vec<u8>>,
}

/// A field of a packet in the key of a set, and which of its bits count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) base: Base,
    pub(crate) offset: u32,
    pub(crate) mask: Vec<u8>,
    /// How `nft` calls such a field: 7, 8 and 13 are IPv4 and IPv6 addresses and ports.
    pub(crate) kind: u32,
}

impl Part {
    /// In the key, where fields take whole registers.
    pub(crate) fn width(&self) -> u32 {
        self.mask.len().next_multiple_of(4) as u32
    }
}

/// The last part of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    Accept,
    Drop,
    Return,
    Goto(&'a str),
}

/// The packet filter hooks of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Postrouting = 4,
}

/// What a rule tests: each test narrows it.
#[derive(Debug, Default)]
pub(crate) struct Rule {
    expressions: Attributes,
}

/// Where a field of a packet begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Network = 1,
    Transport = 2,
}

/// What is known about a packet beside its octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meta {
    Mark = 3,
    InputName = 6,
    OutputName = 7,
    Family = 15,
    Protocol = 16,
}

/// How a field compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Equal = 0,
    NotEqual = 1,
    AtMost = 3,
    AtLeast = 5,
}

const SUBSYSTEM: u16 = 10;
const FAMILY_INET: u8 = 1;

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const GET_RULE: u16 = SUBSYSTEM << 8 | 7;
const NEW_SET: u16 = SUBSYSTEM << 8 | 9;
const NEW_ELEMENTS: u16 = SUBSYSTEM << 8 | 12;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// NFT_TABLE_F_OWNER, since Linux 5.12.
const OWNER: u32 = 0x2;

const NESTED: u16 = 0x8000;
/// The register that tests work in.
const REGISTER: u32 = 1;
/// The first of the registers of four octets. They are the same memory.
const KEY_REGISTER: u32 = 8;

/// The elements of a set that one message carries: an attribute is shorter than 64 KiB.
const ELEMENTS: usize = 48 << 10;

impl Batch {
    /// Begins a transaction; its messages are numbered from `sequence` on.
    pub(crate) fn new(sequence: u32) -> Self {
        let mut batch = Self { octets: Vec::new(), last: 0, first_sequence: sequence, sequence, sets: 0 };
        batch.message(BATCH_BEGIN, 0, 0, SUBSYSTEM, |_| ());
        batch
    }

    pub(crate) fn create_table(&mut self, table: &str) {
        self.message(NEW_TABLE, CREATE, FAMILY_INET, 0, |a| {
            a.text(1, table);
            a.number(2, 0);
        });
    }

    /// A table that nobody else can change and that goes with the socket that made it. An error if it is there.
    pub(crate) fn create_owned_table(&mut self, table: &str) {
        self.message(NEW_TABLE, CREATE | EXCLUSIVE, FAMILY_INET, 0, |a| {
            a.text(1, table);
            a.number(2, OWNER);
        });
    }

    pub(crate) fn delete_table(&mut self, table: &str) {
        self.message(DELETE_TABLE, 0, FAMILY_INET, 0, |a| a.text(1, table));
    }

    /// A chain that others jump to.
    pub(crate) fn create_chain(&mut self, table: &str, chain: &str) {
        self.message(NEW_CHAIN, CREATE, FAMILY_INET, 0, |a| {
            a.text(1, table);
            a.text(3, chain);
        });
    }

    /// A chain that packets meet at `hook`, and leave accepted.
    pub(crate) fn create_base_chain(&mut self, table: &str, chain: &str, hook: Hook, priority: i32) {
        self.message(NEW_CHAIN, CREATE, FAMILY_INET, 0, |a| {
            a.text(1, table);
            a.text(3, chain);
            a.text(7, "filter");
            a.number(5, 1);
            a.nested(4, |a| {
                a.number(1, hook as u32);
                a.octets(2, &priority.to_be_bytes());
            });
        });
    }

    pub(crate) fn append_rule(&mut self, table: &str, chain: &str, rule: Rule, verdict: Verdict<'_>) {
        let expressions = rule.verdict(verdict).0;
        self.message(NEW_RULE, CREATE | APPEND, FAMILY_INET, 0, |a| {
            a.text(1, table);
            a.text(2, chain);
            a.octets(NESTED | 4, &expressions);
        });
    }

    /// No rule changes it: see [`Rule::in_set`].
    pub(crate) fn create_set(&mut self, table: &str, Set { name: set, key, elements }: &Set<'_>) {
        let key_len: u32 = key.iter().map(|part| part.width()).sum();
        // How the fields are written for people.
        let types = key.iter().fold(0, |types, part| types << 6 | part.kind);
        self.sets += 1;
        let number = self.sets;
        self.message(NEW_SET, CREATE, FAMILY_INET, 0, |a| {
            a.text(1, table);
            a.text(2, set);
            a.number(3, 0);
            a.number(4, types);
            a.number(5, key_len);
            a.number(10, number);
            // With its size known, it has its place at once.
            a.nested(9, |a| a.number(1, elements.len() as u32));
        });
        // Attributes around the key take 12 octets.
        for some in elements.chunks(ELEMENTS / (key_len as usize + 12)) {
            self.message(NEW_ELEMENTS, CREATE, FAMILY_INET, 0, |a| {
                a.text(1, table);
                a.text(2, set);
                a.nested(3, |a| {
                    for element in some {
                        a.nested(1, |a| a.nested(1, |a| a.octets(1, element)));
                    }
                });
            });
        }
    }

    /// Has the kernel carry it out.
    pub(crate) fn commit(self, socket: &mut NetlinkSocket) -> io::Result<()> {
        let (octets, numbers) = self.finish();
        let last = *numbers.end();
        let result = socket.send(&octets).and_then(|()| socket.acknowledged(numbers));
        // Messages of the batch took numbers up to this one.
        socket.skip_to(last.wrapping_add(2));
        result
    }

    /// Ends the transaction: its octets, and the numbers of its messages. The last of them is acknowledged if all goes
    /// well.
    fn finish(mut self) -> (Vec<u8>, RangeInclusive<u32>) {
        let acknowledged = self.sequence.wrapping_sub(1);
        if let Some(flags) = self.octets.get_mut(self.last + 6..).and_then(|rest| rest.first_chunk_mut()) {
            *flags = (u16::from_ne_bytes(*flags) | ACK).to_ne_bytes();
        }
        self.message(BATCH_END, 0, 0, SUBSYSTEM, |_| ());
        (self.octets, self.first_sequence..=acknowledged)
    }

    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        build: impl FnOnce(&mut Attributes),
    ) {
        self.last = self.octets.len();
        message(&mut self.octets, kind, flags, self.sequence, family, resource, build);
        self.sequence = self.sequence.wrapping_add(1);
    }
}

fn message(
    octets: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
    build: impl FnOnce(&mut Attributes),
) {
    let mut attributes = Attributes::default();
    build(&mut attributes);
    let len = HEADER_LEN + 4 + attributes.0.len();
    octets.extend_from_slice(&(len as u32).to_ne_bytes());
    octets.extend_from_slice(&kind.to_ne_bytes());
    octets.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
    octets.extend_from_slice(&sequence.to_ne_bytes());
    octets.extend_from_slice(&[0; 4]);
    octets.extend_from_slice(&[family, 0]);
    octets.extend_from_slice(&resource.to_be_bytes());
    octets.extend_from_slice(&attributes.0);
}

/// The request for all rules of one chain.
pub(crate) fn list_rules(sequence: u32, table: &str, chain: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    message(&mut octets, GET_RULE, DUMP, sequence, FAMILY_INET, 0, |a| {
        a.text(1, table);
        a.text(2, chain);
    });
    octets
}

/// The packets counted by the `counter` of a rule, from an answer to [`list_rules`].
pub(crate) fn counted_packets(message: &[u8]) -> Option<u64> {
    let attributes = message.get(HEADER_LEN + 4..)?;
    let expressions = find(attributes, 4)?;
    walk(expressions).find_map(|(_, expression)| {
        if find(expression, 1)? != b"counter\0" {
            return None;
        }
        // NFTA_COUNTER_PACKETS
        find(find(expression, 2)?, 2)?.first_chunk().map(|count| u64::from_be_bytes(*count))
    })
}

fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    walk(attributes).find(|(k, _)| *k == kind).map(|(_, data)| data)
}

/// The attributes of a list: type and data. Ends at the first that does not fit.
fn walk(mut attributes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (&[l0, l1, k0, k1], _) = attributes.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let data = attributes.get(4..len)?;
        attributes = attributes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & !(NESTED | 0x4000), data))
    })
}

impl Rule {
    /// Compares a fact about the packet.
    pub(crate) fn meta(mut self, key: Meta, compare: Compare, value: &[u8]) -> Self {
        self.expressions.expression("meta", |a| {
            a.number(2, key as u32);
            a.number(1, REGISTER);
        });
        self.compare(compare, value)
    }

    /// Compares an interface name.
    pub(crate) fn interface(self, key: Meta, name: &str) -> Self {
        let mut value = [0; 16];
        for (place, octet) in value.iter_mut().zip(name.bytes().take(15)) {
            *place = octet;
        }
        self.meta(key, Compare::Equal, &value)
    }

    /// Tests that a field of the packet lies between two values of equal length, both included.
    pub(crate) fn range(self, base: Base, offset: u32, first: &[u8], last: &[u8]) -> Self {
        let rule = self.load(REGISTER, base, offset, first.len() as u32);
        if first == last {
            rule.compare(Compare::Equal, first)
        } else {
            rule.compare(Compare::AtLeast, first).compare(Compare::AtMost, last)
        }
    }

    /// Tests that a field of the packet has one of the bits of `mask`.
    pub(crate) fn any_bit(self, base: Base, offset: u32, mask: &[u8]) -> Self {
        self.load(REGISTER, base, offset, mask.len() as u32).not_zero(mask)
    }

    /// Tests that the packet is an IPv6 fragment other than the first.
    pub(crate) fn later_ipv6_fragment(mut self) -> Self {
        self.expressions.expression("exthdr", |a| {
            a.number(1, REGISTER);
            // The fragment header, and in it the offset.
            a.octets(2, &[44]);
            a.number(3, 2);
            a.number(4, 2);
            a.number(6, 0);
            a.number(5, 0);
        });
        self.not_zero(&[0xff, 0xf8])
    }

    /// Tests that the way back to the packet's source is the interface it came in by (`fib saddr . iif oif != missing`).
    pub(crate) fn came_by_the_way_back(mut self) -> Self {
        self.expressions.expression("fib", |a| {
            a.number(1, REGISTER);
            // NFT_FIB_RESULT_OIF; NFTA_FIB_F_SADDR, _IIF and _PRESENT.
            a.number(2, 1);
            a.number(3, 0x1 | 0x8 | 0x20);
        });
        self.compare(Compare::NotEqual, &[0; 4])
    }

    /// Tests that the fields have values that are one of the elements of a set.
    pub(crate) fn in_set(mut self, set: &str, key: &[Part]) -> Self {
        let mut register = KEY_REGISTER;
        for Part { base, offset, mask, .. } in key {
            let len = mask.len() as u32;
            self = self.load(register, *base, *offset, len);
            if mask.iter().any(|octet| *octet != 0xff) {
                self = self.masked(register, mask);
            }
            register += len.div_ceil(4);
        }
        self.expressions.expression("lookup", |a| {
            a.text(1, set);
            a.number(2, KEY_REGISTER);
        });
        self
    }

    /// Not for packets: while there is such a rule, the kernel puts fragments together before it decides their way, and
    /// divides them again as they were. That is so for whoever redirects packets (`tproxy`), and needs no connection tracking.
    pub(crate) fn joins_fragments(mut self) -> Self {
        self.expressions.expression("immediate", |a| {
            a.number(1, REGISTER);
            a.nested(2, |a| a.octets(1, &1_u16.to_be_bytes()));
        });
        self.expressions.expression("tproxy", |a| {
            // Any family, to a port.
            a.number(1, 0);
            a.number(3, REGISTER);
        });
        self
    }

    /// Gives the packet a mark: `mark` in the bits of `mask`.
    pub(crate) fn set_mark(mut self, (mark, mask): (u32, u32)) -> Self {
        self.expressions.expression("meta", |a| {
            a.number(2, Meta::Mark as u32);
            a.number(1, REGISTER);
        });
        self.expressions.expression("bitwise", |a| {
            a.number(1, REGISTER);
            a.number(2, REGISTER);
            a.number(6, 0);
            a.number(3, 4);
            a.nested(4, |a| a.octets(1, &(!mask).to_ne_bytes()));
            a.nested(5, |a| a.octets(1, &(mark & mask).to_ne_bytes()));
        });
        self.expressions.expression("meta", |a| {
            a.number(2, Meta::Mark as u32);
            a.number(3, REGISTER);
        });
        self
    }

    /// Counts what got so far.
    pub(crate) fn counter(mut self) -> Self {
        self.expressions.expression("counter", |_| ());
        self
    }

    fn load(mut self, register: u32, base: Base, offset: u32, len: u32) -> Self {
        self.expressions.expression("payload", |a| {
            a.number(1, register);
            a.number(2, base as u32);
            a.number(3, offset);
            a.number(4, len);
        });
        self
    }

    fn masked(mut self, register: u32, mask: &[u8]) -> Self {
        let zero = vec![0; mask.len()];
        self.expressions.expression("bitwise", |a| {
            a.number(1, register);
            a.number(2, register);
            a.number(6, 0);
            a.number(3, mask.len() as u32);
            a.nested(4, |a| a.octets(1, mask));
            a.nested(5, |a| a.octets(1, &zero));
        });
        self
    }

    fn not_zero(self, mask: &[u8]) -> Self {
        self.masked(REGISTER, mask).compare(Compare::NotEqual, &vec![0; mask.len()])
    }

    fn compare(mut self, compare: Compare, value: &[u8]) -> Self {
        self.expressions.expression("cmp", |a| {
            a.number(1, REGISTER);
            a.number(2, compare as u32);
            a.nested(3, |a| a.octets(1, value));
        });
        self
    }

    fn verdict(mut self, verdict: Verdict<'_>) -> Attributes {
        let (code, chain) = match verdict {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5_i32, None),
        };
        self.expressions.expression("immediate", |a| {
            a.number(1, 0);
            a.nested(2, |a| {
                a.nested(2, |a| {
                    a.octets(1, &code.to_be_bytes());
                    if let Some(chain) = chain {
                        a.text(2, chain);
                    }
                });
            });
        });
        self.expressions
    }
}

#[derive(Debug, Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn octets(&mut self, kind: u16, data: &[u8]) {
        let len = 4 + data.len();
        self.0.extend_from_slice(&(len as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.octets(kind, &value.to_be_bytes());
    }

    fn text(&mut self, kind: u16, text: &str) {
        let mut data = text.as_bytes().to_vec();
        data.push(0);
        self.octets(kind, &data);
    }

    fn nested(&mut self, kind: u16, build: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        build(&mut inner);
        self.octets(kind | NESTED, &inner.0);
    }

    fn expression(&mut self, name: &str, build: impl FnOnce(&mut Self)) {
        self.nested(1, |a| {
            a.text(1, name);
            a.nested(2, build);
        });
    }
}

/// Is this notification about a table of ours, or something in it?
pub(crate) fn is_about(kind: u16, payload: &[u8], table: &str) -> bool {
    // Tables, chains and rules name their table first.
    kind >> 8 == SUBSYSTEM
        && payload.first() == Some(&FAMILY_INET)
        && payload
            .get(4..)
            .and_then(|attributes| find(attributes, 1))
            .and_then(|name| name.strip_suffix(b"\0"))
            == Some(table.as_bytes())
}

/// Does this error number mean that the kernel has no nf_tables?
pub(crate) fn is_unsupported(error: Option<i32>) -> bool {
    matches!(error, Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The octets of a message behind its netlink header.
    fn body(batch: Batch) -> Vec<u8> {
        batch.octets[HEADER_LEN + 4 + HEADER_LEN..].to_vec()
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
        digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    /// What `nft` 1.0.6 sends for `table inet adit { chain inbound { type filter hook input priority 0; policy
    /// accept; iifname "lo" accept } }`, by `nft --debug=mnl`.
    #[test]
    fn messages_are_those_of_nft() {
        let mut batch = Batch::new(1);
        batch.create_table("adit");
        assert_eq!(body(batch), hex("01000000 09000100 61646974 00000000 08000200 00000000"));

        let mut batch = Batch::new(1);
        batch.create_base_chain("adit", "inbound", Hook::Input, 0);
        let chain =
            "01000000 09000100 61646974 00000000 0c000300 696e626f 756e6400 0b000700 66696c74 65720000
                     08000500 00000001 14000480 08000100 00000001 08000200 00000000";
        assert_eq!(body(batch), hex(chain));

        let mut batch = Batch::new(1);
        batch.append_rule(
            "adit",
            "inbound",
            Rule::default().interface(Meta::InputName, "lo"),
            Verdict::Accept,
        );
        let rule = "01000000 09000100 61646974 00000000 0c000200 696e626f 756e6400 90000480
                    24000180 09000100 6d657461 00000000 14000280 08000200 00000006 08000100 00000001
                    38000180 08000100 636d7000 2c000280 08000100 00000001 08000200 00000000
                    18000380 14000100 6c6f0000 00000000 00000000 00000000
                    30000180 0e000100 696d6d65 64696174 65000000 1c000280 08000100 00000000
                    10000280 0c000280 08000100 00000001";
        assert_eq!(body(batch), hex(rule));
    }

    /// What `nft` 1.0.6 sends for `frag frag-off != 0`.
    #[test]
    fn later_fragments_are_told_as_nft_does() {
        let expected = "44000180 0b000100 65787468 64720000 34000280 08000100 00000001 05000200 2c000000
                        08000300 00000002 08000400 00000002 08000600 00000000 08000500 00000000
                        4c000180 0c000100 62697477 69736500 3c000280 08000100 00000001 08000200 00000001
                        08000600 00000000 08000300 00000002 0c000480 06000100 fff80000 0c000580 06000100 00000000
                        2c000180 08000100 636d7000 20000280 08000100 00000001 08000200 00000001
                        0c000380 06000100 00000000";
        assert_eq!(Rule::default().later_ipv6_fragment().expressions.0, hex(expected));
    }

    #[test]
    fn the_last_message_is_acknowledged() {
        let mut batch = Batch::new(40);
        batch.create_table("adit");
        batch.delete_table("adit");
        let (octets, acknowledged) = batch.finish();
        assert_eq!(acknowledged, 40..=42);
        let mut flags = Vec::new();
        let mut rest = &octets[..];
        while !rest.is_empty() {
            let len = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            flags.push((u32::from_ne_bytes(rest[8..12].try_into().unwrap()), rest[6] & 4 != 0));
            rest = &rest[len..];
        }
        assert_eq!(flags, [(40, false), (41, false), (42, true), (43, false)]);
    }

    #[test]
    fn counts_are_found_and_truncated_answers_have_none() {
        let mut message = vec![0; HEADER_LEN + 4];
        let mut attributes = Attributes::default();
        attributes.text(1, "adit");
        attributes.nested(4, |a| {
            a.expression("cmp", |a| a.number(2, 9));
            a.expression("counter", |a| {
                a.octets(1, &77_u64.to_be_bytes());
                a.octets(2, &5_u64.to_be_bytes());
            });
        });
        message.extend(attributes.0);
        assert_eq!(counted_packets(&message), Some(5));
        for len in 0..message.len() {
            assert_eq!(counted_packets(&message[..len]), None);
        }
    }
}
