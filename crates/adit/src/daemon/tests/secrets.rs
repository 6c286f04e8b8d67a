//! Secrets go in and never come out: whatever is asked, however wrong, and whatever is logged.

use std::io::Write;
use std::sync::Mutex;

use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::control::vici::Value;

/// In the file, and by a client.
const SECRETS: [&str; 2] = ["Marked-5ecret-of-the-file", "Marked-5ecret-of-a-client"];

/// All that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The ways in which octets may stand in a text.
fn written(secret: &[u8]) -> [Vec<u8>; 5] {
    use base64::Engine as _;
    let hex: String = secret.iter().map(|octet| format!("{octet:02x}")).collect();
    let list: Vec<String> = secret.iter().map(u8::to_string).collect();
    [
        secret.to_vec(),
        hex.to_uppercase().into(),
        hex.into(),
        base64::engine::general_purpose::STANDARD_NO_PAD.encode(secret).into(),
        list.join(", ").into(),
    ]
}

fn section(entries: &[(&str, &str)]) -> Message {
    let mut message = Message::new();
    for (key, value) in entries {
        message.put(key, value);
    }
    message
}

/// Commands that start a thread which reads a file.
const READERS: [&str; 4] = ["reload", "reload-settings", "apply", "diff"];

#[test]
fn no_secret_is_told_to_anybody() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let mut told = Vec::new();
    let mut keys = Vec::new();
    tracing::subscriber::with_default(subscriber, || {
        let now = Instant::now();
        let secret = format!("\"{}\"", SECRETS[0]);
        let (mut a, mut b) = (
            Side::new(now, "1", "2", &secret, "start_action = start"),
            Side::new(now, "2", "1", &secret, ""),
        );
        talk(now, &mut a, &mut b);
        assert_eq!(a.installs().len(), 1);
        for (kind, id, owner) in [
            ("ike", "psk", "gw2.example"),
            ("PPK", "ppk", "name"),
            ("eap", "e", "x"),
            ("none", "n", "x"),
            ("ike", "w", "@#zz"),
        ] {
            let mut shared = section(&[("type", kind), ("id", id), ("data", SECRETS[1])]);
            shared.put_list("owners", [owner]);
            told.extend(a.request(now, "load-shared", shared).packets());
        }
        // What looks like a secret where none belongs, and a connection whose secret is no secret.
        let mut lost = section(&[("secret", SECRETS[1]), ("remote_addrs", "192.0.2.9")]);
        lost.put_section(
            "remote",
            section(&[("auth", "psk"), ("secret", SECRETS[1]), ("id", "gw9.example")]),
        );
        lost.push("local", Value::Section(section(&[("auth", "psk"), ("id", "gw1.example")])));
        let mut load = Message::new();
        load.put_section("lost", lost);
        told.extend(a.request(now, "load-conn", load).packets());
        let arguments = [
            &[][..],
            &[("ike", "gw")],
            &[("ike", "gw"), ("child", "net")],
            &[("child", "net")],
            &[("name", "gw")],
            &[("id", "psk")],
            &[("all", "yes"), ("trap", "yes"), ("pass", "yes"), ("drop", "yes"), ("type", "any")],
            &[("remote-host", "192.0.2.2")],
            &[("ike", "gw"), ("commission", "yes")],
            &[("ike", "gw"), ("force", "yes"), ("loglevel", "4")],
        ];
        for command in commands::names().filter(|name| !READERS.contains(name)) {
            for arguments in arguments {
                let mut captured = a.command(now, command, arguments);
                talk(now, &mut a, &mut b);
                told.extend(captured.packets());
            }
        }
        let snapshot = a.snapshot(now);
        let mut seen = Message::new();
        seen.put("debug", format!("{snapshot:?}"));
        told.push(Packet::Response(seen));
        keys = a.deeds.world().keys.clone();
    });
    let told: Vec<u8> = told.iter().flat_map(|packet| packet.encode().unwrap()).collect();
    let logged = log.0.lock().unwrap().clone();
    assert!(told.len() > 10_000 && logged.len() > 10_000, "{} {}", told.len(), logged.len());
    assert!(keys.len() >= 2 && keys.iter().all(|key| key.len() >= 16), "{} keys", keys.len());
    let secrets = SECRETS.iter().map(|secret| secret.as_bytes().to_vec()).chain(keys);
    for secret in secrets.flat_map(|secret| written(&secret)) {
        for (what, text) in [("told", &told), ("logged", &logged)] {
            let found = text.windows(secret.len()).position(|octets| octets == secret);
            let around =
                found.map(|at| String::from_utf8_lossy(&text[at.saturating_sub(200)..at]).into_owned());
            assert_eq!(around, None, "{what}: {}", String::from_utf8_lossy(&secret));
        }
    }
}
