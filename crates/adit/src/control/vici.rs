//! The vici protocol's bytes: frames, packets and messages.
//!
//! This module owns the wire format of strongSwan's control protocol and an order-preserving message type.
//! It never touches a socket and knows no command. What arrives is hostile: decoding never panics, never
//! recurses, and allocates no more than a small multiple of what it was given.

use std::borrow::Cow;
use std::fmt;

/// Longest payload of one frame in octets, in both directions.
pub const MAX_FRAME: usize = 512 * 1024;

/// Sections may nest this deep. Everything vici defines stays below ten.
const MAX_DEPTH: usize = 64;

/// One packet: the payload of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A client's command.
    Request {
        /// Name of the command.
        name: String,
        /// Its arguments.
        message: Message,
    },
    /// The answer to a command.
    Response(Message),
    /// The answer to a command that does not exist.
    CommandUnknown,
    /// A client wants to receive an event.
    EventRegister(String),
    /// A client no longer wants to receive an event.
    EventUnregister(String),
    /// The answer to a registration or its removal.
    EventConfirm,
    /// The answer to a registration of an event that does not exist, or to the removal of one that was not made.
    EventUnknown,
    /// Something happened.
    Event {
        /// Name of the event.
        name: String,
        /// What happened.
        message: Message,
    },
}

const CMD_REQUEST: u8 = 0;
const CMD_RESPONSE: u8 = 1;
const CMD_UNKNOWN: u8 = 2;
const EVENT_REGISTER: u8 = 3;
const EVENT_UNREGISTER: u8 = 4;
const EVENT_CONFIRM: u8 = 5;
const EVENT_UNKNOWN: u8 = 6;
const EVENT: u8 = 7;

impl Packet {
    /// Decodes the payload of one frame.
    ///
    /// # Errors
    ///
    /// [`DecodeError::UnknownPacket`] for an operation of another version of the protocol, which a peer is
    /// expected to ignore; everything else means that the stream is not vici.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(payload);
        let packet = match reader.u8()? {
            CMD_REQUEST => Self::Request { name: reader.name()?, message: reader.message()? },
            CMD_RESPONSE => Self::Response(reader.message()?),
            CMD_UNKNOWN => Self::CommandUnknown,
            EVENT_REGISTER => Self::EventRegister(reader.name()?),
            EVENT_UNREGISTER => Self::EventUnregister(reader.name()?),
            EVENT_CONFIRM => Self::EventConfirm,
            EVENT_UNKNOWN => Self::EventUnknown,
            EVENT => Self::Event { name: reader.name()?, message: reader.message()? },
            other => return Err(DecodeError::UnknownPacket(other)),
        };
        if reader.0.is_empty() { Ok(packet) } else { Err(DecodeError::TrailingOctets) }
    }

    /// Encodes the packet as a whole frame, length included.
    ///
    /// # Errors
    ///
    /// If a name, a value or the whole is longer than the format can hold.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        match self {
            Self::Request { name, message } => encode_frame(CMD_REQUEST, Some(name), Some(message)),
            Self::Response(message) => encode_frame(CMD_RESPONSE, None, Some(message)),
            Self::CommandUnknown => encode_frame(CMD_UNKNOWN, None, None),
            Self::EventRegister(name) => encode_frame(EVENT_REGISTER, Some(name), None),
            Self::EventUnregister(name) => encode_frame(EVENT_UNREGISTER, Some(name), None),
            Self::EventConfirm => encode_frame(EVENT_CONFIRM, None, None),
            Self::EventUnknown => encode_frame(EVENT_UNKNOWN, None, None),
            Self::Event { name, message } => encode_frame(EVENT, Some(name), Some(message)),
        }
    }
}

fn encode_frame(
    packet_type: u8,
    name: Option<&str>,
    message: Option<&Message>,
) -> Result<Vec<u8>, EncodeError> {
    let mut payload = vec![packet_type];
    if let Some(name) = name {
        put_name(&mut payload, name)?;
    }
    if let Some(message) = message {
        message.encode(&mut payload)?;
    }
    if payload.len() > MAX_FRAME {
        return Err(EncodeError::FrameTooLong(payload.len()));
    }
    let length = u32::try_from(payload.len()).map_err(|_| EncodeError::FrameTooLong(payload.len()))?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.append(&mut payload);
    Ok(frame)
}

/// A message or a section of one: named entries in the order they were put in.
///
/// The protocol wants names to be unique within a section. A peer that repeats one is not refused here; lookups
/// find the first.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Message {
    entries: Vec<(String, Value)>,
}

/// The value of one entry.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// Text without terminator, or octets for certificates and keys.
    Bytes(Vec<u8>),
    /// Values without names.
    List(Vec<Vec<u8>>),
    /// Entries of its own.
    Section(Message),
}

impl Message {
    /// A message of keys and values, for tests to compare with.
    #[cfg(test)]
    pub(crate) fn of(entries: &[(&str, &str)]) -> Self {
        let mut message = Self::new();
        for (key, value) in entries {
            message.put(key, value);
        }
        message
    }

    /// An empty message.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a key with its value.
    pub fn put(&mut self, key: &str, value: impl AsRef<[u8]>) -> &mut Self {
        self.push(key, Value::Bytes(value.as_ref().to_vec()))
    }

    /// Appends a key with the decimal or otherwise displayed form of its value.
    pub fn put_display(&mut self, key: &str, value: impl fmt::Display) -> &mut Self {
        self.put(key, value.to_string())
    }

    /// Appends `key=yes`, or nothing: vici has no `no` outside `success`.
    pub fn put_flag(&mut self, key: &str, set: bool) -> &mut Self {
        if set { self.put(key, "yes") } else { self }
    }

    /// Appends a list.
    pub fn put_list<T: fmt::Display>(&mut self, key: &str, items: impl IntoIterator<Item = T>) -> &mut Self {
        self.push(key, Value::List(items.into_iter().map(|item| item.to_string().into_bytes()).collect()))
    }

    /// Appends a section.
    pub fn put_section(&mut self, name: &str, section: Self) -> &mut Self {
        self.push(name, Value::Section(section))
    }

    /// Appends any entry.
    pub fn push(&mut self, name: &str, value: Value) -> &mut Self {
        self.entries.push((name.to_owned(), value));
        self
    }

    /// The entries in order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Holds it nothing?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The first entry of that name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.entries().find_map(|(entry, value)| (entry == name).then_some(value))
    }

    /// The value of a key as text; octets that are not UTF-8 are replaced.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<Cow<'_, str>> {
        match self.value(key)? {
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes)),
            Value::List(_) | Value::Section(_) => None,
        }
    }

    /// The value of a key as a number of whatever type.
    #[must_use]
    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.text(key)?.parse().ok()
    }

    /// Is the key there with the value `yes`?
    #[must_use]
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.value(key), Some(Value::Bytes(bytes)) if bytes == b"yes")
    }

    /// The items of a list as text; empty if there is no such list.
    pub fn list(&self, name: &str) -> impl Iterator<Item = Cow<'_, str>> {
        let items = match self.value(name) {
            Some(Value::List(items)) => items.as_slice(),
            _ => &[],
        };
        items.iter().map(|item| String::from_utf8_lossy(item))
    }

    /// A section.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Self> {
        match self.value(name)? {
            Value::Section(section) => Some(section),
            Value::Bytes(_) | Value::List(_) => None,
        }
    }

    /// The sections in order.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.entries().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((name, section)),
            Value::Bytes(_) | Value::List(_) => None,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        for (name, value) in &self.entries {
            match value {
                Value::Bytes(bytes) => {
                    out.push(KEY_VALUE);
                    put_name(out, name)?;
                    put_value(out, bytes)?;
                }
                Value::List(items) => {
                    out.push(LIST_START);
                    put_name(out, name)?;
                    for item in items {
                        out.push(LIST_ITEM);
                        put_value(out, item)?;
                    }
                    out.push(LIST_END);
                }
                Value::Section(section) => {
                    out.push(SECTION_START);
                    put_name(out, name)?;
                    section.encode(out)?;
                    out.push(SECTION_END);
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.entries.iter().map(|(name, value)| (name, value))).finish()
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes).fmt(f),
            Self::List(items) => {
                f.debug_list().entries(items.iter().map(|item| String::from_utf8_lossy(item))).finish()
            }
            Self::Section(section) => section.fmt(f),
        }
    }
}

const SECTION_START: u8 = 1;
const SECTION_END: u8 = 2;
const KEY_VALUE: u8 = 3;
const LIST_START: u8 = 4;
const LIST_ITEM: u8 = 5;
const LIST_END: u8 = 6;

fn put_name(out: &mut Vec<u8>, name: &str) -> Result<(), EncodeError> {
    out.push(u8::try_from(name.len()).map_err(|_| EncodeError::NameTooLong(name.len()))?);
    out.extend_from_slice(name.as_bytes());
    Ok(())
}

fn put_value(out: &mut Vec<u8>, value: &[u8]) -> Result<(), EncodeError> {
    let length = u16::try_from(value.len()).map_err(|_| EncodeError::ValueTooLong(value.len()))?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
    Ok(())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        let (first, rest) = self.0.split_first().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(*first)
    }

    fn name(&mut self) -> Result<String, DecodeError> {
        let length = self.u8()?;
        let name = self.take(usize::from(length))?;
        Ok(std::str::from_utf8(name).map_err(|_| DecodeError::Name)?.to_owned())
    }

    fn value(&mut self) -> Result<Vec<u8>, DecodeError> {
        let (length, rest) = self.0.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(self.take(usize::from(u16::from_be_bytes(*length)))?.to_vec())
    }

    /// Reads elements to the end. Open sections wait on a stack of their own, so depth costs no call stack.
    fn message(&mut self) -> Result<Message, DecodeError> {
        let mut open: Vec<(String, Message)> = Vec::new();
        let mut current = Message::new();
        while !self.0.is_empty() {
            match self.u8()? {
                SECTION_START => {
                    if open.len() == MAX_DEPTH {
                        return Err(DecodeError::TooDeep);
                    }
                    let name = self.name()?;
                    open.push((name, std::mem::take(&mut current)));
                }
                SECTION_END => {
                    let (name, outer) = open.pop().ok_or(DecodeError::Unbalanced)?;
                    let section = std::mem::replace(&mut current, outer);
                    current.entries.push((name, Value::Section(section)));
                }
                KEY_VALUE => {
                    let name = self.name()?;
                    let value = self.value()?;
                    current.entries.push((name, Value::Bytes(value)));
                }
                LIST_START => {
                    let name = self.name()?;
                    let items = self.list_items()?;
                    current.entries.push((name, Value::List(items)));
                }
                LIST_ITEM | LIST_END => return Err(DecodeError::Unbalanced),
                other => return Err(DecodeError::UnknownElement(other)),
            }
        }
        if open.is_empty() { Ok(current) } else { Err(DecodeError::Unbalanced) }
    }

    fn list_items(&mut self) -> Result<Vec<Vec<u8>>, DecodeError> {
        let mut items = Vec::new();
        loop {
            match self.u8()? {
                LIST_ITEM => items.push(self.value()?),
                LIST_END => return Ok(items),
                SECTION_START | SECTION_END | KEY_VALUE | LIST_START => return Err(DecodeError::Unbalanced),
                other => return Err(DecodeError::UnknownElement(other)),
            }
        }
    }
}

/// Why a packet cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The frame ends within an element.
    #[error("vici packet: ends within an element")]
    Truncated,
    /// A packet type that vici does not define.
    #[error("vici packet: unknown type {0}")]
    UnknownPacket(u8),
    /// An element type that vici does not define.
    #[error("vici message: unknown element type {0}")]
    UnknownElement(u8),
    /// A name is not text.
    #[error("vici message: a name is not UTF-8")]
    Name,
    /// Something follows a packet that holds no message.
    #[error("vici packet: octets follow its end")]
    TrailingOctets,
    /// Sections and lists do not open and close as they must.
    #[error("vici message: sections or lists are not balanced")]
    Unbalanced,
    /// Sections nest deeper than anybody needs.
    #[error("vici message: sections nest deeper than {MAX_DEPTH}")]
    TooDeep,
}

/// Why a packet cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A name has more than 255 octets.
    #[error("a name of {0} octets does not fit into a vici message (at most 255)")]
    NameTooLong(usize),
    /// A value has more than 65,535 octets.
    #[error("a value of {0} octets does not fit into a vici message (at most 65535)")]
    ValueTooLong(usize),
    /// The whole has more than [`MAX_FRAME`] octets.
    #[error("a vici packet of {0} octets is longer than {MAX_FRAME}")]
    FrameTooLong(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(frame: &[u8]) -> &[u8] {
        let (length, payload) = frame.split_first_chunk::<4>().unwrap();
        assert_eq!(u32::from_be_bytes(*length) as usize, payload.len());
        payload
    }

    /// Laid out by hand from the protocol's description.
    #[test]
    fn literal_request() {
        let mut message = Message::new();
        message.put("child", "net");
        let mut inner = Message::new();
        inner.put_list("l", ["a", ""]);
        message.put_section("s", inner);
        let packet = Packet::Request { name: "initiate".into(), message };
        let mut expected: Vec<u8> = vec![0, 0, 0, 37];
        expected.extend_from_slice(b"\x00\x08initiate");
        expected.extend_from_slice(b"\x03\x05child\x00\x03net");
        expected.extend_from_slice(b"\x01\x01s");
        expected.extend_from_slice(b"\x04\x01l\x05\x00\x01a\x05\x00\x00\x06");
        expected.extend_from_slice(b"\x02");
        assert_eq!(packet.encode().unwrap(), expected);
        assert_eq!(Packet::decode(payload(&expected)).unwrap(), packet);
    }

    #[test]
    fn literal_packets_without_message() {
        for (octets, packet) in [
            (&b"\x02"[..], Packet::CommandUnknown),
            (b"\x03\x03log", Packet::EventRegister("log".into())),
            (b"\x04\x03log", Packet::EventUnregister("log".into())),
            (b"\x05", Packet::EventConfirm),
            (b"\x06", Packet::EventUnknown),
            (b"\x01", Packet::Response(Message::new())),
            (b"\x07\x03log", Packet::Event { name: "log".into(), message: Message::new() }),
        ] {
            assert_eq!(Packet::decode(octets).unwrap(), packet);
            assert_eq!(payload(&packet.encode().unwrap()), octets);
        }
    }

    #[test]
    fn hostile_packets_are_refused() {
        for (octets, error) in [
            (&b""[..], DecodeError::Truncated),
            (b"\x08", DecodeError::UnknownPacket(8)),
            (b"\x00", DecodeError::Truncated),
            (b"\x00\x05vers", DecodeError::Truncated),
            (b"\x00\x01\xff", DecodeError::Name),
            (b"\x05\x00", DecodeError::TrailingOctets),
            (b"\x03\x01a\x00", DecodeError::TrailingOctets),
            (b"\x01\x00", DecodeError::UnknownElement(0)),
            (b"\x01\x07", DecodeError::UnknownElement(7)),
            (b"\x01\x02", DecodeError::Unbalanced),
            (b"\x01\x05\x00\x00", DecodeError::Unbalanced),
            (b"\x01\x06", DecodeError::Unbalanced),
            (b"\x01\x01\x01s", DecodeError::Unbalanced),
            (b"\x01\x04\x01l", DecodeError::Truncated),
            (b"\x01\x04\x01l\x01\x01s\x02\x06", DecodeError::Unbalanced),
            (b"\x01\x04\x01l\x04\x01m\x06\x06", DecodeError::Unbalanced),
            (b"\x01\x04\x01l\x09", DecodeError::UnknownElement(9)),
            (b"\x01\x03\x01k\x00\x02v", DecodeError::Truncated),
            (b"\x01\x03\x01k\xff\xff", DecodeError::Truncated),
        ] {
            assert_eq!(Packet::decode(octets), Err(error), "{octets:02x?}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| {
            let mut octets = vec![CMD_RESPONSE];
            octets.extend(b"\x01\x00".repeat(depth));
            octets.extend(b"\x02".repeat(depth));
            octets
        };
        assert!(Packet::decode(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(Packet::decode(&nested(MAX_DEPTH + 1)), Err(DecodeError::TooDeep));
        assert_eq!(Packet::decode(&nested(100_000)), Err(DecodeError::TooDeep));
    }

    #[test]
    fn every_truncation_and_change_decodes_or_fails_cleanly() {
        let mut message = Message::new();
        message.put("success", "yes").put_list("conns", ["a", "b"]);
        let mut section = Message::new();
        section.put("state", "ESTABLISHED").put_section("child-sas", Message::new());
        message.put_section("net", section);
        let frame = Packet::Event { name: "list-sa".into(), message }.encode().unwrap();
        let whole = payload(&frame);
        for end in 0..whole.len() {
            crate::fuzzing::vici(&whole[..end]);
        }
        for position in 0..whole.len() {
            for value in 0..=255 {
                let mut changed = whole.to_vec();
                changed[position] = value;
                crate::fuzzing::vici(&changed);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut long_value = Message::new();
        long_value.put("k", vec![b'x'; 65_536]);
        assert_eq!(Packet::Response(long_value).encode(), Err(EncodeError::ValueTooLong(65_536)));
        let mut long_name = Message::new();
        long_name.put(&"n".repeat(256), "");
        assert_eq!(Packet::Response(long_name).encode(), Err(EncodeError::NameTooLong(256)));
        let mut long_frame = Message::new();
        for _ in 0..9 {
            long_frame.put("k", vec![b'x'; 65_535]);
        }
        assert!(matches!(Packet::Response(long_frame).encode(), Err(EncodeError::FrameTooLong(_))));
    }

    #[test]
    fn lookups() {
        let mut message = Message::new();
        message.put("a", "1").put("a", "2").put_flag("yes", true).put_flag("no", false).put_display("n", 42);
        message.put_list("l", ["x", "y"]);
        assert_eq!(message.text("a").as_deref(), Some("1"));
        assert!(message.flag("yes") && !message.flag("no") && message.value("no").is_none());
        assert_eq!(message.number::<u64>("n"), Some(42));
        assert_eq!(message.number::<u8>("l"), None);
        assert_eq!(message.list("l").collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(message.list("a").count(), 0);
    }
}
