//! Clients that send anything and read nothing.

use super::*;
use crate::control::vici::Value;
use crate::http::Ask;

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
    assert!((50..100).contains(&told), "{told} items of a thousand octets, 64 KiB");
    assert!(!a.daemon.listings.is_empty(), "it goes on when its client reads");
}

/// A kernel that does not say what it has counted is waited for by those who want to know it, and for no longer than a moment.
#[test]
fn nobody_else_waits_for_a_slow_kernel() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now, SECRET);
    let (answer_now, slow) = std::sync::mpsc::channel();
    a.deeds.world().slow_kernel = Some(slow);
    let mut stats = a.command(now, "stats", &[]);
    let (ask, mut shown) = tokio::sync::oneshot::channel();
    a.daemon.show(now, Ask::Snapshot(ask));
    assert!(stats.packets().is_empty() && shown.try_recv().is_err(), "it is not known yet");

    // Meanwhile a tunnel comes up, and is told of.
    talk(now, &mut a, &mut b);
    assert_eq!(a.installs().len(), 1);
    let (reply, mut sas) = Captured::reply();
    a.daemon.command(now, Request { command: "list-sas".into(), arguments: Message::new(), reply });
    assert_eq!(answer(&mut sas).0.len(), 1);

    // It takes too long: what is known is told.
    let due = a.daemon.poll_timeout().unwrap();
    assert!(due <= now + Duration::from_secs(1));
    a.turn(due);
    let (_, told) = answer(&mut stats);
    assert_eq!(told.section("ikesas").unwrap().number("total"), Some(1));
    let snapshot = loop {
        if let Ok(snapshot) = shown.try_recv() {
            break snapshot;
        }
        a.daemon.look_on(due);
    };
    assert_eq!(snapshot.data_plane.fenced_in, 0);

    // It is asked once at a time, and its answer is what everybody is told who waits.
    let (reply, mut stats) = Captured::reply();
    a.daemon.command(due, Request { command: "stats".into(), arguments: Message::new(), reply });
    a.deeds.world().fenced_in = 7;
    answer_now.send(()).unwrap();
    let counted = a.counted.blocking_recv().unwrap();
    a.daemon.counted(due, counted);
    let (_, told) = answer(&mut stats);
    assert_eq!(told.section("data-plane").unwrap().number("fenced-in"), Some(7));
    assert!(a.counted.try_recv().is_err());
}

/// However many lists wait for clients that do not read, each has what is told ahead and no more, and one who reads is told at once
/// and to the end.
#[test]
fn a_hundred_that_do_not_read_hold_up_nobody() {
    const CLIENTS: usize = 100;
    const ITEMS: usize = 2000;
    let now = Instant::now();
    let (mut a, mut b) = pair(now, SECRET);
    let list = |a: &mut Side| {
        let (reply, captured) = Captured::reply();
        a.daemon.list(now, reply, (0..ITEMS).collect(), |_, reply, item: &usize, _| {
            let mut message = Message::new();
            message.put("item", format!("{item:0>1000}"));
            reply.event("list-sa", message);
        });
        captured
    };
    let stuck: Vec<Captured> = (0..CLIENTS).map(|_| list(&mut a)).collect();
    // Each bit takes half a millisecond at most, and tells one item at least.
    for _ in 0..CLIENTS * ITEMS {
        a.daemon.list_on(now);
    }
    let ahead: Vec<usize> = stuck.iter().map(Captured::queued).collect();
    assert!(ahead.iter().all(|octets| (64 << 10..68 << 10).contains(octets)), "{ahead:?}");

    let mut reader = list(&mut a);
    let mut told = reader.packets().len();
    assert!(told > 0, "it begins before anything else is done");
    // Its turn comes each time, as nobody else can be told anything.
    for _ in 0..2 * ITEMS {
        reader.has_read();
        a.daemon.list_on(now);
        let packets = reader.packets();
        told += packets.len();
        if matches!(packets.last(), Some(Packet::Response(_))) {
            break;
        }
    }
    assert_eq!(told, ITEMS + 1);
    assert_eq!(stuck.iter().map(Captured::queued).collect::<Vec<_>>(), ahead);
    talk(now, &mut a, &mut b);
    assert_eq!(a.installs().len(), 1, "a handshake goes on");
    // Whoever goes leaves nothing behind.
    drop(stuck);
    for _ in 0..CLIENTS {
        a.daemon.list_on(now);
    }
    assert!(a.daemon.listings.is_empty());
}
