//! `adit top`: all tunnels and what they carry, again every second.
//!
//! It owns the terminal while it runs and leaves it as it was, however it ends. Without a terminal it measures for one second
//! and prints that.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::Exit;
use super::failure::Failure;
use super::text::{SCHEMA, WIDTH, color, cut, json, octets, tell};
use crate::config::ControlUri;
use crate::control::client::{Client, ClientError};
use crate::control::vici::Message;

/// From one look at the daemon to the next.
const INTERVAL: Duration = Duration::from_secs(1);

/// How it is shown.
#[derive(Debug, Args)]
pub(super) struct Top {
    /// In JSON, once: what was carried in one second
    #[arg(long)]
    pub(super) json: bool,
}

/// What is shown.
#[derive(Debug, Serialize)]
struct Picture {
    schema: u32,
    tunnels: Vec<Tunnel>,
    /// Of all packets, since the daemon was started, by cause.
    drops: BTreeMap<String, u64>,
}

/// One child of one connection.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Tunnel {
    name: String,
    state: String,
    peer: String,
    bits_in_per_second: u64,
    bits_out_per_second: u64,
    packets_in_per_second: u64,
    packets_out_per_second: u64,
    bytes_in: u64,
    bytes_out: u64,
    /// ESP of its SAs that was refused.
    drops: u64,
}

pub(super) fn run(uri: &ControlUri, arguments: &Top) -> Result<Exit, Failure> {
    let mut client = Client::connect(uri)?;
    client.set_timeout(Some(Duration::from_secs(10)))?;
    let mut before = Sample::ask(&mut client)?;
    if arguments.json || !io::stdout().is_terminal() {
        std::thread::sleep(INTERVAL);
        let picture = Sample::ask(&mut client)?.since(&before);
        tell(&if arguments.json { json(&picture) } else { picture.lines(usize::MAX, false).join("\n") });
        return Ok(Exit::Ok);
    }
    let cannot = |error| Failure::down(format_args!("cannot use the terminal: {error}"));
    let screen = Screen::enter().map_err(cannot)?;
    loop {
        if screen.pause(INTERVAL) {
            return Ok(Exit::Ok);
        }
        let now = Sample::ask(&mut client)?;
        screen.draw(&now.since(&before));
        before = now;
    }
}

/// What the daemon says at one moment.
#[derive(Debug, Default)]
struct Sample {
    at: Option<Instant>,
    /// By the names of connection and child.
    tunnels: BTreeMap<(String, String), Carried>,
    drops: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct Carried {
    state: String,
    peer: String,
    /// By the number of the SA.
    sas: BTreeMap<u64, Counters>,
}

/// Octets and packets in and out, and what was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters([u64; 5]);

impl Sample {
    fn ask(client: &mut Client) -> Result<Self, ClientError> {
        let mut sample = Self { at: Some(Instant::now()), ..Self::default() };
        client.streamed("list-conns", Message::new(), "list-conn", |event| sample.configured(&event))?;
        client.streamed("list-sas", Message::new(), "list-sa", |event| sample.established(&event))?;
        let stats = client.request("stats", Message::new())?;
        let drops = stats.section("data-plane").and_then(|plane| plane.section("drops"));
        sample.drops = drops.map(named_numbers).unwrap_or_default();
        Ok(sample)
    }

    fn tunnel(&mut self, connection: &str, child: &str) -> &mut Carried {
        self.tunnels.entry((connection.to_owned(), child.to_owned())).or_default()
    }

    fn configured(&mut self, event: &Message) {
        for (connection, section) in event.sections() {
            let peer = section.list("remote_addrs").collect::<Vec<_>>().join(",");
            for (child, _) in section.section("children").into_iter().flat_map(Message::sections) {
                *self.tunnel(connection, child) =
                    Carried { state: "down".into(), peer: peer.clone(), sas: BTreeMap::new() };
            }
        }
    }

    fn established(&mut self, event: &Message) {
        for (connection, ike) in event.sections() {
            let host = ike.text("remote-host").unwrap_or_default().into_owned();
            let connecting = ike.text("state").is_some_and(|state| state == "CONNECTING");
            for (_, tunnel) in self.tunnels.iter_mut().filter(|((name, _), _)| name == connection) {
                tunnel.peer.clone_from(&host);
                if connecting && tunnel.sas.is_empty() {
                    tunnel.state = "connecting".to_owned();
                }
            }
            for (_, sa) in ike.section("child-sas").into_iter().flat_map(Message::sections) {
                let number = |key: &str| sa.number(key).unwrap_or(0);
                let drops = sa.section("drops").map(named_numbers).unwrap_or_default();
                let tunnel = self.tunnel(connection, &sa.text("name").unwrap_or_default());
                tunnel.peer.clone_from(&host);
                let state = sa.text("state").unwrap_or_default().to_lowercase();
                if state == "installed" {
                    tunnel.state = "up".to_owned();
                } else if tunnel.state != "up" {
                    tunnel.state = state;
                }
                let counters = Counters([
                    number("bytes-in"),
                    number("bytes-out"),
                    number("packets-in"),
                    number("packets-out"),
                    drops.values().sum(),
                ]);
                tunnel.sas.insert(number("uniqueid"), counters);
            }
        }
    }

    /// What was carried between two samples. An SA that is new has carried all of it since; one that is gone counts no more.
    fn since(&self, before: &Self) -> Picture {
        let seconds = match (self.at, before.at) {
            (Some(now), Some(then)) => now.saturating_duration_since(then).as_secs_f64().max(0.001),
            _ => 1.0,
        };
        let tunnels = self.tunnels.iter().map(|(name, tunnel)| {
            let known = before.tunnels.get(name);
            let (mut total, mut carried) = ([0_u64; 5], [0_u64; 5]);
            for (id, counters) in &tunnel.sas {
                let then = known.and_then(|known| known.sas.get(id)).copied().unwrap_or_default();
                for (((total, carried), now), then) in
                    total.iter_mut().zip(&mut carried).zip(counters.0).zip(then.0)
                {
                    *total += now;
                    *carried += now.saturating_sub(then);
                }
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a rate to be read by people: saturates, and is never negative"
            )]
            let [bytes_in, bytes_out, packets_in, packets_out, _] =
                carried.map(|count| (count as f64 / seconds).round() as u64);
            Tunnel {
                name: format!("{}/{}", name.0, name.1),
                state: tunnel.state.clone(),
                peer: tunnel.peer.clone(),
                bits_in_per_second: bytes_in.saturating_mul(8),
                bits_out_per_second: bytes_out.saturating_mul(8),
                packets_in_per_second: packets_in,
                packets_out_per_second: packets_out,
                bytes_in: total[0],
                bytes_out: total[1],
                drops: total[4],
            }
        });
        Picture { schema: SCHEMA, tunnels: tunnels.collect(), drops: self.drops.clone() }
    }
}

fn named_numbers(section: &Message) -> BTreeMap<String, u64> {
    let numbers = section.entries().filter_map(|(name, _)| Some((name.to_owned(), section.number(name)?)));
    numbers.filter(|(_, count)| *count > 0).collect()
}

impl Picture {
    /// The table in at most so many lines: what carries most is on top.
    fn lines(&self, most: usize, bold: bool) -> Vec<String> {
        let up = self.tunnels.iter().filter(|tunnel| tunnel.state == "up").count();
        let drops: Vec<String> = self.drops.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
        let drops = if drops.is_empty() { "none".to_owned() } else { drops.join(", ") };
        let mut lines = vec![
            cut(
                &format!(
                    "{} of {} up. Dropped: {drops}",
                    up,
                    super::count(self.tunnels.len() as u64, "tunnel", "tunnels")
                ),
                WIDTH,
            ),
            String::new(),
        ];
        let head = row(["TUNNEL", "STATE", "PEER", "IN", "OUT", "IN ALL", "OUT ALL", "DROPS"]);
        lines.push(if bold { format!("\x1b[1m{head}\x1b[0m") } else { head });
        let mut tunnels: Vec<&Tunnel> = self.tunnels.iter().collect();
        tunnels.sort_by_key(|tunnel| {
            std::cmp::Reverse(tunnel.bits_in_per_second.saturating_add(tunnel.bits_out_per_second))
        });
        let room = most.saturating_sub(lines.len());
        let shown = if tunnels.len() > room { room.saturating_sub(1) } else { tunnels.len() };
        for tunnel in tunnels.iter().take(shown) {
            lines.push(row([
                &tunnel.name,
                &tunnel.state,
                &tunnel.peer,
                &rate(tunnel.bits_in_per_second),
                &rate(tunnel.bits_out_per_second),
                &octets(tunnel.bytes_in),
                &octets(tunnel.bytes_out),
                &tunnel.drops.to_string(),
            ]));
        }
        if shown < tunnels.len() {
            lines.push(format!("and {} more", tunnels.len() - shown));
        }
        lines
    }
}

/// One line of the table: names to the left, numbers to the right.
fn row([name, state, peer, ins, outs, all_in, all_out, drops]: [&str; 8]) -> String {
    let (name, state, peer) = (cut(name, 22), cut(state, 10), cut(peer, 15));
    let line =
        format!("{name:<22} {state:<10} {peer:<15} {ins:>9} {outs:>9} {all_in:>9} {all_out:>9} {drops:>8}");
    line.trim_end().to_owned()
}

/// Bits per second, in a unit that leaves at most four digits.
fn rate(bits: u64) -> String {
    const UNITS: [&str; 7] = ["b", "kb", "Mb", "Gb", "Tb", "Pb", "Eb"];
    let (mut value, mut unit) = (bits, 0);
    while value >= 10_000 && unit + 1 < UNITS.len() {
        value /= 1000;
        unit += 1;
    }
    format!("{value} {}/s", UNITS.get(unit).copied().unwrap_or_default())
}

/// The terminal while it is ours: a screen of its own, no cursor, and no echo of keys.
struct Screen(Arc<Mutex<Option<Termios>>>);

impl Screen {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin()).ok();
        let screen = Self(Arc::new(Mutex::new(before.clone())));
        // Registered before anything changes: from here on a signal is an order to restore it.
        screen.end_with_signals()?;
        if let Some(mut raw) = before {
            raw.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
            tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        }
        let mut out = io::stdout().lock();
        write!(out, "\x1b[?1049h\x1b[?25l\x1b[H")?;
        out.flush()?;
        Ok(screen)
    }

    fn end_with_signals(&self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let guard = runtime.enter();
        let (mut interrupt, mut terminate, mut hangup) = (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        );
        drop(guard);
        let terminal = Arc::clone(&self.0);
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
            });
            restore(&terminal);
            std::process::exit(0);
        });
        Ok(())
    }

    /// Waits; `true` if whoever watches has had enough.
    fn pause(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(timeout) = Timespec::try_from(left) else { return false };
            let stdin = io::stdin();
            let mut events = [PollFd::new(&stdin, PollFlags::IN)];
            match poll(&mut events, Some(&timeout)) {
                Ok(0) => return false,
                Ok(_) => {
                    let mut keys = [0; 16];
                    match rustix::io::read(&stdin, &mut keys) {
                        Ok(0) | Err(_) => {
                            // Nobody will ever press a key.
                            std::thread::sleep(until.saturating_duration_since(Instant::now()));
                            return false;
                        }
                        Ok(read) if keys.iter().take(read).any(|key| *key == b'q') => return true,
                        Ok(_) => {}
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return true,
            }
        }
    }

    fn draw(&self, picture: &Picture) {
        // While it is held nobody restores the terminal under the picture.
        let _ours = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let size = tcgetwinsize(io::stdout()).map_or((24, 80), |size| (size.ws_row, size.ws_col));
        let (rows, columns) = match size {
            (0, _) | (_, 0) => (24, 80),
            (rows, columns) => (usize::from(rows), usize::from(columns)),
        };
        let mut out = io::stdout().lock();
        let bold = color(&io::stdout());
        let mut text = String::from("\x1b[H");
        let lines = picture.lines(rows.saturating_sub(1), bold && columns >= WIDTH);
        for line in lines {
            let line = if columns < WIDTH { cut(&line, columns) } else { line };
            text.push_str(&line);
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[J");
        // A terminal that is gone is told by its signal.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore(&self.0);
    }
}

/// Once; nothing more can be done if it fails.
fn restore(terminal: &Mutex<Option<Termios>>) {
    let mut before = terminal.lock().unwrap_or_else(PoisonError::into_inner);
    let mut out = io::stdout().lock();
    let _ = write!(out, "\x1b[?25h\x1b[?1049l").and_then(|()| out.flush());
    if let Some(before) = before.take() {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: Instant, sas: &[(u64, [u64; 5])]) -> Sample {
        let mut sample = Sample { at: Some(at), ..Sample::default() };
        let mut children = Message::new();
        children.put_section("net", Message::new()).put_section("lab", Message::new());
        let mut connection = Message::new();
        connection.put_list("remote_addrs", ["192.0.2.2"]).put_section("children", children);
        let mut event = Message::new();
        event.put_section("gw", connection);
        sample.configured(&event);
        let mut children = Message::new();
        for (id, [bytes_in, bytes_out, packets_in, packets_out, drops]) in sas {
            let mut sa = Message::new();
            sa.put("name", "net").put_display("uniqueid", id).put("state", "INSTALLED");
            sa.put_display("bytes-in", bytes_in).put_display("bytes-out", bytes_out);
            sa.put_display("packets-in", packets_in).put_display("packets-out", packets_out);
            let mut causes = Message::new();
            causes.put_display("replayed", drops);
            sa.put_section("drops", causes);
            children.put_section(&format!("net-{id}"), sa);
        }
        let mut ike = Message::new();
        ike.put("state", "ESTABLISHED").put("remote-host", "192.0.2.9").put_section("child-sas", children);
        let mut event = Message::new();
        event.put_section("gw", ike);
        sample.established(&event);
        sample
    }

    #[test]
    fn rates_survive_a_rekeying() {
        let start = Instant::now();
        let before = sample(start, &[(1, [1000, 500, 10, 5, 0])]);
        let after =
            sample(start + Duration::from_secs(2), &[(1, [3000, 500, 30, 5, 1]), (2, [2000, 100, 20, 1, 2])]);
        let picture = after.since(&before);
        let [lab, net] = picture.tunnels.as_slice() else { panic!("{picture:?}") };
        assert_eq!(
            (lab.name.as_str(), lab.state.as_str(), lab.peer.as_str()),
            ("gw/lab", "down", "192.0.2.9")
        );
        // (3000 - 1000 + 2000) octets in 2 s are 16,000 bit/s; 100 octets are 400.
        let expected = Tunnel {
            name: "gw/net".into(),
            state: "up".into(),
            peer: "192.0.2.9".into(),
            bits_in_per_second: 16_000,
            bits_out_per_second: 400,
            packets_in_per_second: 20,
            packets_out_per_second: 1,
            bytes_in: 5000,
            bytes_out: 600,
            drops: 3,
        };
        assert_eq!(*net, expected);
    }

    #[test]
    fn the_table_keeps_to_its_room() {
        let tunnel = |n: u64| Tunnel {
            name: format!("connection-{n}/{}", "child".repeat(9)),
            state: "installing-and-more".into(),
            peer: "2001:db8:1111:2222:3333:4444:5555:6666".into(),
            bits_in_per_second: u64::MAX,
            bits_out_per_second: n,
            packets_in_per_second: 0,
            packets_out_per_second: 0,
            bytes_in: u64::MAX,
            bytes_out: 0,
            drops: 99_999_999,
        };
        let picture = Picture {
            schema: SCHEMA,
            tunnels: (0..50).map(tunnel).collect(),
            drops: (0..40).map(|n| (format!("cause-{n}"), n)).collect(),
        };
        let lines = picture.lines(20, false);
        assert_eq!(lines.len(), 20);
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH), "{lines:#?}");
        assert_eq!(lines.last().map(String::as_str), Some("and 34 more"));
        assert_eq!(picture.lines(usize::MAX, false).len(), 53);
        assert_eq!(
            (rate(0), rate(9999), rate(10_000)),
            ("0 b/s".into(), "9999 b/s".into(), "10 kb/s".into())
        );
    }
}
