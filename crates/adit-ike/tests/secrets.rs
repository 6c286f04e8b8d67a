//! Adversarial test 65: keys are gone from memory when their SA is, and are in no log. Alone in its process, because it
//! reads all of its own memory.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    dead_code,
    reason = "a test that cannot go on should stop there; the harness has more than one test needs"
)]
#![cfg(target_os = "linux")]

#[path = "ike/pair.rs"]
mod pair;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_ike::TerminateTarget;

use pair::{Pair, sides};

/// What a key is hidden with, so that looking for it is not having it.
const MASK: u8 = 0xa5;

/// Octets of a key that are looked for.
const LEN: usize = 16;

type Hidden = [u8; LEN];

fn hide(key: &[u8]) -> Option<Hidden> {
    key.first_chunk::<LEN>().map(|key| key.map(|octet| octet ^ MASK))
}

/// A tunnel that is rekeyed once.
fn tunnel(key_log: bool) -> Pair {
    let (mut a, mut b) = sides();
    a.settings.key_log = key_log;
    b.settings.key_log = key_log;
    let mut pair = Pair::new((a, b));
    pair.up();
    pair.settle();
    pair.assert_children(1);
    pair
}

fn rekey(pair: &mut Pair) {
    let handle = *pair.a.installed.keys().next().unwrap();
    pair.a.gateway.child_expiring(pair.now, handle);
    pair.settle();
    pair.assert_children(1);
}

fn esp_keys(pair: &Pair) -> Vec<Hidden> {
    let keys = pair.a.installed.values().flat_map(|c| [&c.inbound_keys.encr, &c.outbound_keys.encr]);
    keys.filter_map(|key| hide(key.expose())).collect()
}

/// Run in a process of its own: what the same tunnel has for keys. They leave it hidden.
#[test]
#[ignore = "run by the test below"]
fn print_keys() {
    let mut pair = tunnel(true);
    let mut keys = esp_keys(&pair);
    rekey(&mut pair);
    keys.extend(esp_keys(&pair));
    for log in &pair.a.keys {
        keys.extend([&log.sk_ei, &log.sk_er].into_iter().filter_map(|key| hide(key)));
    }
    for key in keys {
        println!("KEY {}", key.map(|octet| format!("{octet:02x}")).concat());
    }
}

fn keys_of_the_same_tunnel() -> Vec<Hidden> {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "print_keys", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let parse = |line: &str| -> Hidden {
        std::array::from_fn(|i| u8::from_str_radix(&line[2 * i..2 * i + 2], 16).unwrap())
    };
    text.lines().filter_map(|line| line.split_once("KEY ")).map(|(_, key)| parse(key)).collect()
}

/// How often each key is in the memory of this process.
fn occurrences(keys: &[Hidden]) -> Vec<usize> {
    let mut found = vec![0; keys.len()];
    let mut firsts = [false; 256];
    for key in keys {
        firsts[usize::from(key[0] ^ MASK)] = true;
    }
    let mut buffer = vec![0; 1 << 20];
    let own = buffer.as_ptr() as u64..buffer.as_ptr() as u64 + buffer.len() as u64;
    let mut memory = File::open("/proc/self/mem").unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        let (from, to) = range.split_once('-').unwrap();
        let (mut at, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        if !rights.starts_with("rw") || memory.seek(SeekFrom::Start(at)).is_err() {
            continue;
        }
        while at < to {
            let wanted = buffer.len().min(usize::try_from(to - at).unwrap());
            let Ok(read @ 1..) = memory.read(&mut buffer[..wanted]) else { break };
            for (offset, octets) in buffer[..read].windows(LEN).enumerate() {
                if !firsts[usize::from(octets[0])] || own.contains(&(at + offset as u64)) {
                    continue;
                }
                for (key, found) in keys.iter().zip(&mut found) {
                    *found += usize::from(octets.iter().zip(key).all(|(octet, key)| octet ^ MASK == *key));
                }
            }
            at += read as u64;
        }
    }
    buffer.fill(0);
    std::hint::black_box(&buffer);
    found
}

/// Everything that is logged, at every level.
struct Log(Arc<Mutex<String>>);

struct Fields<'a>(&'a mut String);

impl tracing::field::Visit for Fields<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        span.record(&mut Fields(&mut self.0.lock().unwrap()));
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        values.record(&mut Fields(&mut self.0.lock().unwrap()));
    }

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut Fields(&mut self.0.lock().unwrap()));
    }

    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn adversarial_65_keys_are_gone_with_their_sa() {
    let keys = keys_of_the_same_tunnel();
    assert_eq!(keys.len(), 6, "two of each Child SA, two of the IKE SA");
    let log = Arc::new(Mutex::new(String::new()));
    let subscriber = Log(Arc::clone(&log));
    tracing::subscriber::with_default(subscriber, || {
        let mut pair = tunnel(false);
        let there = occurrences(&keys);
        assert!(
            there[0] > 0 && there[1] > 0 && there[4] > 0 && there[5] > 0,
            "keys in use are found: {there:?}"
        );
        rekey(&mut pair);
        pair.run(Duration::from_secs(6));
        let there = occurrences(&keys);
        assert_eq!(there[..2], [0, 0], "the rekeyed child's, after its inbound half has drained");
        assert!(there[2] > 0 && there[3] > 0);
        pair.down(&TerminateTarget { connection: Some("to-b".to_owned()), ..Default::default() });
        pair.run(Duration::from_secs(60));
        pair.assert_nothing();
        assert_eq!(occurrences(&keys), [0; 6], "after the end of the IKE SA");
    });
    let log = log.lock().unwrap();
    assert!(log.contains("CREATE_CHILD_SA"), "it was logged");
    for key in &keys {
        let octets = key.map(|octet| octet ^ MASK);
        let hex = octets[..6].iter().map(|o| format!("{o:02x}")).collect::<String>();
        let list = octets[..6].iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        assert!(!log.to_lowercase().contains(&hex) && !log.contains(&list), "a key is logged");
    }
}
