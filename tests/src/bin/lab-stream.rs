//! `lab-stream LOCAL:PORT REMOTE:PORT RATE SIZE FILE`: numbered UDP packets to the other end, RATE a second with SIZE
//! octets of payload each, and an account of those that come from there, as long as FILE exists. It waits for FILE, so
//! that no end sends before the other one listens.
//!
//! Prints `ready` first, `sent N received N` every half second, and at the end one line of JSON. Who compares what one
//! end sent with what the other received knows exactly what was lost, repeated and overtaken.
#![forbid(unsafe_code)]

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size};

/// What a packet starts with: its number, and when it was sent, in nanoseconds since 1970.
const HEADER: usize = 16;
/// How long after the last packet was sent one may still arrive.
const STRAGGLERS: Duration = Duration::from_millis(1500);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [local, remote, rate, size, file] = *words else {
        bail!("usage: lab-stream LOCAL:PORT REMOTE:PORT RATE SIZE FILE");
    };
    let socket = UdpSocket::bind(local.parse::<SocketAddr>()?)?;
    // Zero lost has to mean zero: a second of packets must fit in here.
    set_socket_recv_buffer_size_force(&socket, 32 << 20)?;
    set_socket_send_buffer_size(&socket, 1 << 20)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let stopped = Arc::new(AtomicBool::new(false));
    let received = Arc::new(AtomicU64::new(0));
    say("ready")?;
    let receiver = std::thread::spawn({
        let (socket, stopped, received) = (socket.try_clone()?, Arc::clone(&stopped), Arc::clone(&received));
        move || receive(&socket, &stopped, &received)
    });
    while !Path::new(file).exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let (sent, refused) =
        send(&socket, remote.parse()?, rate.parse()?, size.parse()?, Path::new(file), &received)?;
    std::thread::sleep(STRAGGLERS);
    stopped.store(true, Ordering::Relaxed);
    let account = receiver.join().ok().context("the receiver panicked")??;
    say(&format!("{{\"sent\": {sent}, \"refused\": {refused}, {}}}", account.json()))
}

/// Returns how many packets left, and how many the kernel refused because there was no way for them.
fn send(
    socket: &UdpSocket,
    to: SocketAddr,
    rate: u32,
    size: usize,
    file: &Path,
    received: &AtomicU64,
) -> Result<(u64, u64)> {
    let mut packet = vec![0x5a; size.max(HEADER)];
    let interval = Duration::from_secs(1) / rate.max(1);
    let (mut number, mut refused) = (0_u64, 0);
    let (mut due, mut look, mut report) = (Instant::now(), Instant::now(), Instant::now());
    loop {
        let now = Instant::now();
        if now >= look {
            if !file.exists() {
                return Ok((number, refused));
            }
            look = now + Duration::from_millis(20);
        }
        if now >= report {
            say(&format!("sent {number} received {}", received.load(Ordering::Relaxed)))?;
            report = now + Duration::from_millis(500);
        }
        if now < due {
            std::thread::sleep(due - now);
            continue;
        }
        due += interval;
        let time = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
        for (to, from) in packet.iter_mut().zip(number.to_be_bytes().into_iter().chain(time.to_be_bytes())) {
            *to = from;
        }
        match socket.send_to(&packet, to) {
            Ok(_) => number += 1,
            // Fail closed looks like this to a sender, and an ICMP error of an earlier packet too.
            Err(error) if is_unreachable(&error) => refused += 1,
            Err(error) => return Err(error).context("send"),
        }
    }
}

fn is_unreachable(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::PermissionDenied
    )
}

/// What has arrived.
#[derive(Default)]
struct Account {
    received: u64,
    duplicated: u64,
    reordered: u64,
    /// One bit for each number.
    seen: Vec<u64>,
    /// The next number if all goes well.
    next: u64,
    /// The longest way, in nanoseconds.
    slowest: u64,
    /// The longest time between two arrivals.
    gap: Duration,
    /// Any other datagram.
    strange: u64,
}

impl Account {
    fn note(&mut self, number: u64, sent: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        self.slowest = self.slowest.max(u64::try_from(now).unwrap_or(u64::MAX).saturating_sub(sent));
        let (index, bit) = (usize::try_from(number / 64).unwrap_or(usize::MAX), 1_u64 << (number % 64));
        // The sender is ours and counts from zero; a number of tomorrow is none of its.
        if number > self.next + (1 << 24) {
            self.strange += 1;
            return;
        }
        if self.seen.len() <= index {
            self.seen.resize(index + 1, 0);
        }
        let Some(word) = self.seen.get_mut(index) else { return };
        if *word & bit != 0 {
            self.duplicated += 1;
            return;
        }
        *word |= bit;
        self.received += 1;
        self.reordered += u64::from(number < self.next);
        self.next = self.next.max(number + 1);
    }

    /// The first twenty runs of missing numbers up to the last that arrived, as `[first, how many]`.
    fn holes(&self) -> Vec<(u64, u64)> {
        let mut holes: Vec<(u64, u64)> = Vec::new();
        for number in 0..self.next {
            let word = usize::try_from(number / 64).ok().and_then(|index| self.seen.get(index));
            if word.is_some_and(|word| word & (1 << (number % 64)) != 0) {
                continue;
            }
            match holes.last_mut() {
                Some((first, count)) if *first + *count == number => *count += 1,
                _ => holes.push((number, 1)),
            }
            if holes.len() > 20 {
                break;
            }
        }
        holes
    }

    fn json(&self) -> String {
        let holes: Vec<String> =
            self.holes().iter().map(|(first, count)| format!("[{first}, {count}]")).collect();
        format!(
            "\"received\": {}, \"duplicated\": {}, \"reordered\": {}, \"strange\": {}, \"slowest_ms\": {:.1}, \
             \"gap_ms\": {}, \"holes\": [{}]",
            self.received,
            self.duplicated,
            self.reordered,
            self.strange,
            self.slowest as f64 / 1e6,
            self.gap.as_millis(),
            holes.join(", ")
        )
    }
}

fn receive(socket: &UdpSocket, stopped: &AtomicBool, received: &AtomicU64) -> Result<Account> {
    let mut account = Account::default();
    let mut buffer = [0; 4096];
    let mut last = None;
    while !stopped.load(Ordering::Relaxed) {
        let length = match socket.recv_from(&mut buffer) {
            Ok((length, _)) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(error) if is_unreachable(&error) => continue,
            Err(error) => return Err(error).context("receive"),
        };
        let packet = buffer.get(..length).unwrap_or_default();
        let Some((number, rest)) = packet.split_first_chunk::<8>() else {
            account.strange += 1;
            continue;
        };
        let Some(time) = rest.first_chunk::<8>() else {
            account.strange += 1;
            continue;
        };
        let now = Instant::now();
        if let Some(last) = last.replace(now) {
            account.gap = account.gap.max(now.duration_since(last));
        }
        account.note(u64::from_be_bytes(*number), u64::from_be_bytes(*time));
        received.store(account.received, Ordering::Relaxed);
    }
    Ok(account)
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_overtaken_and_missing_packets_are_told_apart() {
        let mut account = Account::default();
        for number in [0, 1, 4, 2, 2, 70, 1 << 40] {
            account.note(number, 0);
        }
        assert_eq!((account.received, account.duplicated, account.reordered), (5, 1, 1));
        assert_eq!(account.holes(), [(3, 1), (5, 65)]);
        assert_eq!(account.strange, 1);
    }
}
