//! A daemon with one tunnel up, and a client that may ask for anything: the way of a request behind the decoder, for
//! fuzzing. It is no part of the interface.

use std::path::PathBuf;
use std::time::Instant;

use adit_crypto::SystemEntropy;
use adit_ike::Gateway;
use adit_ike::config::Settings;
use adit_net::Stats;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::deeds::Deeds;
use super::reload::Loader;
use super::{Daemon, Inbox, Outside};
use crate::config;
use crate::control::server::{Captured, Hub, Request};
use crate::control::vici::{Message, Packet};

/// What must not be read back: the secret of the file, and that of a client.
const SECRETS: [&str; 2] = ["the secret of the file", "the secret of a client"];

/// At most so many requests of one input are made.
const MOST: usize = 24;

/// Commands that start a thread which reads files.
const READERS: [&str; 4] = ["reload", "reload-settings", "apply", "diff"];

/// Makes these requests, one after the other, of a daemon with a tunnel. Each is answered once; nothing that is told has a
/// secret in it; the connection of the file stays.
pub(crate) fn ask(requests: impl IntoIterator<Item = (String, Message)>) {
    let now = Instant::now();
    let (Some(mut a), Some(mut b)) = (End::new(now, 1, 2), End::new(now, 2, 1)) else { return };
    a.talk(&mut b, now);
    let mut load = Message::new();
    load.put("id", "pushed").put("type", "ike").put("data", SECRETS[1]);
    load.put_list("owners", ["gw9.example"]);
    let mut asked = vec![a.request(now, "load-shared", load)];
    for (command, arguments) in requests.into_iter().take(MOST) {
        if !READERS.contains(&command.as_str()) {
            asked.push(a.request(now, &command, arguments));
            a.talk(&mut b, now);
        }
    }
    assert_eq!(a.daemon.file.ike.connections.len(), 1);
    assert!(a.daemon.connections.iter().any(|connection| connection.name == "gw"));
    assert!(a.daemon.hub.counters().connected <= 1);
    // Whoever still waits is told at the end.
    drop(a);
    for client in &mut asked {
        let (mut answers, mut told) = (0, Vec::new());
        for packet in client.packets() {
            answers += usize::from(!matches!(packet, Packet::Event { .. }));
            told.extend(packet.encode().unwrap_or_default());
        }
        assert_eq!(answers, 1);
        for secret in SECRETS {
            let secret = secret.as_bytes();
            assert!(!told.windows(secret.len()).any(|octets| octets == secret));
        }
    }
}

/// One of two gateways.
struct End {
    daemon: Daemon,
    deeds: Deeds,
    counted: UnboundedReceiver<Stats>,
}

impl End {
    fn new(now: Instant, own: u8, peer: u8) -> Option<Self> {
        let text = format!(
            "connections {{ gw {{
               local_addrs = 192.0.2.{own}
               remote_addrs = 192.0.2.{peer}
               local {{ auth = psk
                 id = gw{own}.example }}
               remote {{ auth = psk
                 id = gw{peer}.example }}
               children {{ net {{
                 local_ts = 10.{own}.0.0/16
                 remote_ts = 10.{peer}.0.0/16
                 start_action = {} }} }} }} }}
             secrets {{ ike-1 {{ secret = \"{}\" }} }}",
            if own == 1 { "start" } else { "none" },
            SECRETS[0]
        );
        let configuration = config::fuzzing::read(text.as_bytes()).ok()?;
        let (loaded, _) = unbounded_channel();
        let (answers, _) = unbounded_channel();
        let (counts, counted) = unbounded_channel();
        let deeds = Deeds::default();
        let outside = Outside {
            backend: Box::new(deeds.clone()),
            wire: Box::new(deeds.clone()),
            loader: Loader::new(PathBuf::from("/nonexistent/swanctl.conf"), false, loaded),
            resolver: Box::new(deeds.clone()),
            answers,
            counts,
        };
        let gateway = Gateway::new(Settings::default(), Box::new(SystemEntropy), now);
        let mut daemon = Daemon::new(gateway, outside, Hub::default(), Inbox::default(), None);
        daemon.section = Some(configuration.gateway.clone());
        daemon.configure(now, configuration.into()).ok()?;
        Some(Self { daemon, deeds, counted })
    }

    fn request(&mut self, now: Instant, command: &str, arguments: Message) -> Captured {
        let (reply, captured) = Captured::reply();
        self.daemon.command(now, Request { command: command.to_owned(), arguments, reply });
        if self.daemon.counts.due.is_some()
            && let Some(stats) = self.counted.blocking_recv()
        {
            self.daemon.counted(now, stats);
        }
        while !self.daemon.listings.is_empty() {
            // Whoever does not read is not waited for.
            let before = captured.queued();
            self.daemon.list_on(now);
            if captured.queued() == before {
                break;
            }
        }
        captured
    }

    fn talk(&mut self, other: &mut Self, now: Instant) {
        // Two gateways that make each other begin anew do not end by themselves.
        for _ in 0..32 {
            for end in [&mut *self, &mut *other] {
                end.daemon.handle_timeout(now);
                end.daemon.drain(now);
            }
            let both = [self.deeds.sent(), other.deeds.sent()];
            if both.iter().all(Vec::is_empty) {
                return;
            }
            let [from, to] = both;
            for (end, datagrams) in [(&mut *other, from), (&mut *self, to)] {
                for (local, remote, datagram) in datagrams {
                    end.daemon.gateway.handle_datagram(now, remote, local, &datagram);
                }
            }
        }
    }
}
