//! `lab-transfer receive ADDR:PORT` and `lab-transfer send ADDR:PORT BYTES`: one TCP transfer, hashed at both ends.
//!
//! Each end pipes what it sends or receives through coreutils' `sha256sum` and prints `done BYTES SHA256 SECONDS`.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *words {
        ["receive", address] => receive(address),
        ["send", address, bytes] => send(address, bytes.parse()?),
        _ => bail!("usage: lab-transfer receive ADDR:PORT | lab-transfer send ADDR:PORT BYTES"),
    }
}

fn receive(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    say("listening")?;
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let start = Instant::now();
    let mut hash = Hash::start()?;
    let mut buffer = vec![0; 1 << 16];
    let mut bytes = 0;
    loop {
        let count = stream.read(&mut buffer)?;
        let Some(chunk) = buffer.get(..count).filter(|chunk| !chunk.is_empty()) else { break };
        hash.update(chunk)?;
        bytes += count;
    }
    let seconds = start.elapsed().as_secs_f64();
    // The sender waits for this: only then does it know that everything has arrived.
    stream.write_all(b"!")?;
    say(&format!("done {bytes} {} {seconds:.3}", hash.finish()?))
}

fn send(address: &str, bytes: u64) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let start = Instant::now();
    let mut hash = Hash::start()?;
    let mut noise = Noise::new()?;
    let mut buffer = vec![0; 1 << 16];
    let mut left = bytes;
    while left > 0 {
        noise.fill(&mut buffer);
        let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let chunk = buffer.get(..count).context("chunk")?;
        hash.update(chunk)?;
        stream.write_all(chunk)?;
        left -= count as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut confirmation = [0];
    stream.read_exact(&mut confirmation).context("no confirmation from the receiver")?;
    say(&format!("done {bytes} {} {:.3}", hash.finish()?, start.elapsed().as_secs_f64()))
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

struct Hash(Child);

impl Hash {
    fn start() -> Result<Self> {
        Ok(Self(Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?))
    }

    fn update(&mut self, chunk: &[u8]) -> Result<()> {
        Ok(self.0.stdin.as_mut().context("sha256sum")?.write_all(chunk)?)
    }

    fn finish(mut self) -> Result<String> {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output()?;
        ensure!(output.status.success(), "sha256sum failed");
        let text = String::from_utf8(output.stdout)?;
        Ok(text.split_whitespace().next().context("sha256sum printed nothing")?.to_owned())
    }
}

/// Bytes that no gateway could compress or guess (xorshift64*), different in every run.
struct Noise(u64);

impl Noise {
    fn new() -> Result<Self> {
        let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        Ok(Self(u64::try_from(nanoseconds & u128::from(u64::MAX))? | 1))
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            for (to, from) in chunk.iter_mut().zip(word) {
                *to = from;
            }
        }
    }
}
