//! Clients that send anything and read nothing.

use super::*;
use crate::control::vici::Value;

/// A reproducible sequence.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % below
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len())]
    }
}

const KEYS: &[&str] = &[
    "child",
    "ike",
    "name",
    "child-id",
    "ike-id",
    "force",
    "reauth",
    "timeout",
    "loglevel",
    "id",
    "type",
    "data",
    "owners",
    "all",
    "trap",
    "pass",
    "drop",
    "gw",
    "local",
    "remote",
    "children",
    "net",
    "local_ts",
    "remote_ts",
    "auth",
    "remote_addrs",
    "local_addrs",
    "start_action",
    "mode",
    "proposals",
    "interface",
    "secret",
    "peer",
    "address",
    "count",
    "layer",
    "",
    "a\u{1b}b",
];

const VALUES: &[&str] = &[
    "gw",
    "net",
    "none",
    "yes",
    "no",
    "-1",
    "0",
    "1",
    "18446744073709551615",
    "psk",
    "ike",
    "ppk",
    "trap",
    "start",
    "tunnel",
    "10.0.0.0/8",
    "192.0.2.1",
    "%any",
    "",
    "\u{0}",
    "0x",
    "\u{1f600}",
    "::/0",
    "aes256gcm16",
    "default",
    "dynamic",
    "1h",
    "a,b,,c",
];

fn message(dice: &mut Dice, depth: usize) -> Message {
    let mut message = Message::new();
    for _ in 0..dice.roll(6) {
        let key = dice.one(KEYS);
        let value = match dice.roll(if depth < 4 { 8 } else { 6 }) {
            0 => Value::List((0..dice.roll(4)).map(|_| dice.one(VALUES).into()).collect()),
            1 => Value::Bytes(vec![u8::try_from(dice.roll(256)).unwrap(); dice.roll(300)]),
            2..6 => Value::Bytes(dice.one(VALUES).into()),
            _ => Value::Section(self::message(dice, depth + 1)),
        };
        message.push(key, value);
    }
    message
}

/// Whatever is asked, nothing panics, everything gets an answer at last, and what is configured stays in force.
#[test]
fn any_request_is_answered_once() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now, SECRET);
    talk(now, &mut a, &mut b);
    let commands: Vec<&str> = commands::names().collect();
    let mut dice = Dice(0x005e_ed0f_ad17);
    let mut replies = Vec::new();
    for _ in 0..6000 {
        let command = dice.one(&commands);
        if ["reload", "reload-settings", "apply", "diff", "confirm"].contains(&command) {
            // Each would start a thread that reads a file.
            continue;
        }
        let arguments = message(&mut dice, 0);
        replies.push((command, a.request(now, command, arguments)));
        a.turn(now);
    }
    // Whoever waits for the end of something does not wait for ever.
    a.daemon.pending.clear();
    for (command, mut captured) in replies {
        let packets = captured.packets();
        let answers = packets.iter().filter(|packet| !matches!(packet, Packet::Event { .. })).count();
        assert!(answers <= 1 && (answers == 1 || WAITS.contains(&command)), "{command}: {answers} answers");
    }
    assert_eq!(a.daemon.file.ike.connections.len(), 1);
    assert!(a.daemon.connections.iter().any(|connection| connection.name == "gw"));
}

/// Commands that others than the table answer.
const WAITS: &[&str] = &["capture", "test"];

/// A long list for one who does not read costs nobody more than what is told ahead.
#[test]
fn a_list_waits_for_its_reader_and_nobody_for_the_list() {
    let now = Instant::now();
    let mut a = Side::new(now, "1", "2", SECRET, "");
    let (reply, mut captured) = Captured::reply();
    let items: Vec<usize> = (0..10_000).collect();
    a.daemon.list(now, reply, items, |_, reply, item, _| {
        let mut message = Message::new();
        message.put("item", format!("{item:0>1000}"));
        reply.event("list-sa", message);
    });
    let mut told = 0;
    for _ in 0..10_000 {
        a.daemon.list_on(now);
        let (_, version) = answer(&mut a.command(now, "version", &[]));
        assert!(version.text("daemon").is_some(), "others are answered between two bits");
        let more = captured.packets().len();
        told += more;
        if more == 0 {
            break;
        }
    }
    assert!((100..1000).contains(&told), "{told} items of a thousand octets, a quarter of a mebibyte");
    assert!(!a.daemon.listings.is_empty(), "it goes on when its client reads");
}
