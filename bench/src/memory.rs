//! Sealing and opening in memory: what ESP adds to the bare cipher; and what many SAs and many policies cost the whole engine, and
//! how much memory an SA takes in it.
//!
//! There are no sockets and no kernel in it. Whatever is compared takes turns within one run, and a ratio is the middle one of
//! the ratios of the turns. Time is the thread's own, so that others only take caches away from it.

use std::path::PathBuf;
use std::time::Duration;

use adit_crypto::{EspKeys, EspTransforms, Secret, encr_key_len, integ_key_len};
use adit_esp::{InboundSa, Mode, Opened, OutboundSa, ReplayWindow, SaParameters};
use adit_lab::process::tell;
use adit_net::bench::Loopback;
use adit_wire::ikev2::{EncrId, IntegId, Spi, TrafficSelector};
use adit_wire::ip;
use anyhow::{Context, Result, ensure};
use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::results::{self, Recorder};
use crate::{median, random};

/// Packets that are sealed, and then opened, before the next ones: what a worker takes in at once.
const BURST: usize = 32;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Turns of each subject.
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// Packets of each turn.
    #[arg(long, default_value_t = 20_000)]
    packets: usize,
    /// How many SAs there are, from few to many.
    #[arg(long, value_delimiter = ',', default_value = "1,1000,10000,100000")]
    sas: Vec<u32>,
    /// The file that the results are added to.
    #[arg(long, default_value = results::DEFAULT)]
    results: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let recorder = Recorder::new(&options.results)?;
    // First, as the memory that others have used is not given back.
    memory(&recorder)?;
    suites(options, &recorder)?;
    many_sas(options, &recorder)?;
    policies(options, &recorder)
}

/// The suites, with what the library has of the same name.
fn all_suites() -> [(&'static str, EspTransforms, Option<&'static aead::Algorithm>); 4] {
    let aead = |encr, key_bits| EspTransforms { encr, key_bits, integ: None, esn: true };
    let cbc = EspTransforms {
        encr: EncrId::AES_CBC,
        key_bits: Some(256),
        integ: Some(IntegId::HMAC_SHA2_256_128),
        esn: true,
    };
    [
        ("AES-256-GCM", aead(EncrId::AES_GCM_16, Some(256)), Some(&aead::AES_256_GCM)),
        ("AES-128-GCM", aead(EncrId::AES_GCM_16, Some(128)), Some(&aead::AES_128_GCM)),
        ("ChaCha20-Poly1305", aead(EncrId::CHACHA20_POLY1305, None), Some(&aead::CHACHA20_POLY1305)),
        ("AES-256-CBC, HMAC-SHA-256", cbc, None),
    ]
}

/// Row 7: the same packets, by the library's calls alone and as ESP.
fn suites(options: &Options, recorder: &Recorder) -> Result<()> {
    tell(
        "| suite | octets | library, seal + open | ESP, seal + open | share of the library's rate | with padding and trailer |",
    );
    tell("|---|---|---|---|---|---|");
    for (name, transforms, algorithm) in all_suites() {
        for len in [64, 1420] {
            let mut pair = Pair::new(transforms, len)?;
            let mut bare = algorithm.map(|algorithm| Bare::new(algorithm, len)).transpose()?;
            // What ESP gives the library: with padding and trailer.
            let body = (len + 2).next_multiple_of(4);
            let mut same = algorithm.map(|algorithm| Bare::new(algorithm, body)).transpose()?;
            let (mut library, mut esp, mut shares) = (Vec::new(), Vec::new(), Vec::new());
            let mut of_same = Vec::new();
            for _ in 0..options.rounds {
                let ours = pair.pass(options.packets)?;
                esp.push(ours);
                if let Some(bare) = &mut bare {
                    let theirs = bare.pass(options.packets)?;
                    library.push(theirs);
                    shares.push(theirs / ours);
                }
                if let Some(same) = &mut same {
                    of_same.push(same.pass(options.packets)? / ours);
                }
            }
            let ns = |values: Vec<f64>| {
                if values.is_empty() { "".to_owned() } else { format!("{:.0} ns", median(values)) }
            };
            if name == "AES-256-GCM" {
                recorder.add("memory", &format!("share-{len}"), median(shares.clone()))?;
            }
            let percent = |shares: Vec<f64>| {
                if shares.is_empty() { String::new() } else { format!("{:.1} %", 100.0 * median(shares)) }
            };
            let (library, esp, share, of_same) = (ns(library), ns(esp), percent(shares), percent(of_same));
            tell(&format!("| {name} | {len} | {library} | {esp} | {share} | {of_same} |"));
        }
    }
    Ok(())
}

/// The library's own calls on buffers of the length of the inner packet.
struct Bare {
    key: LessSafeKey,
    buffers: Vec<Vec<u8>>,
    counter: u64,
}

impl Bare {
    fn new(algorithm: &'static aead::Algorithm, len: usize) -> Result<Self> {
        let key = UnboundKey::new(algorithm, &vec![7; algorithm.key_len()]).ok().context("key")?;
        Ok(Self { key: LessSafeKey::new(key), buffers: vec![vec![0; len]; BURST], counter: 0 })
    }

    /// Nanoseconds for sealing and opening one.
    fn pass(&mut self, packets: usize) -> Result<f64> {
        let start = cpu_time();
        for _ in 0..packets / BURST {
            let first = self.counter;
            let mut tags = [const { None }; BURST];
            for (buffer, tag) in self.buffers.iter_mut().zip(&mut tags) {
                self.counter += 1;
                let aad = Aad::from(associated(self.counter));
                *tag = self.key.seal_in_place_separate_tag(nonce(self.counter), aad, buffer).ok();
            }
            self.counter = first;
            for (buffer, tag) in self.buffers.iter_mut().zip(&tags) {
                self.counter += 1;
                let aad = Aad::from(associated(self.counter));
                let tag = tag.as_ref().context("sealing")?.as_ref();
                let opened = self.key.open_in_place_separate_tag(nonce(self.counter), aad, tag, buffer);
                ensure!(opened.is_ok(), "the library does not open what it sealed");
            }
        }
        Ok(per_packet(start, packets))
    }
}

/// As many octets as ESP authenticates beside: the SPI and all of an extended sequence number (RFC 4106 5).
fn associated(counter: u64) -> [u8; 12] {
    let mut octets = [0; 12];
    octets[4..].copy_from_slice(&counter.to_be_bytes());
    octets
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Both ends of an SA, and packets on it.
struct Pair {
    sealing: OutboundSa,
    opening: InboundSa,
    slots: Vec<Vec<u8>>,
    inner_len: usize,
}

impl Pair {
    fn new(transforms: EspTransforms, len: usize) -> Result<Self> {
        let sealing = OutboundSa::new(parameters(transforms, true))?;
        let opening = InboundSa::new(parameters(transforms, false))?;
        let layout = sealing.layout();
        let inner = ip::packet([10, 1, 0, 1].into(), [10, 2, 0, 1].into(), 17, 64, &vec![0; len - 20])
            .context("too long")?;
        let mut slot = vec![0; layout.packet_len(len)];
        slot.get_mut(layout.payload_offset()..)
            .context("slot")?
            .iter_mut()
            .zip(inner)
            .for_each(|(to, from)| *to = from);
        Ok(Self { sealing, opening, slots: vec![slot; BURST], inner_len: len })
    }

    /// Nanoseconds for sealing and opening one.
    fn pass(&mut self, packets: usize) -> Result<f64> {
        let start = cpu_time();
        for _ in 0..packets / BURST {
            for slot in &mut self.slots {
                self.sealing.seal_at(slot, self.inner_len, 4)?;
            }
            for slot in &mut self.slots {
                ensure!(matches!(self.opening.open(slot), Ok(Opened::Packet(_))), "a packet was refused");
            }
        }
        Ok(per_packet(start, packets))
    }
}

fn parameters(transforms: EspTransforms, outbound: bool) -> SaParameters {
    let secret = |len: Option<usize>| Secret::new(vec![7; len.unwrap_or(0)]);
    let network = |second: u8| vec![TrafficSelector::subnet([10, second, 0, 0].into(), 16)];
    let (local, remote) = if outbound { (1, 2) } else { (2, 1) };
    SaParameters {
        mode: Mode::Tunnel,
        spi: Spi(0x1000_0000),
        transforms,
        keys: EspKeys {
            encr: secret(encr_key_len(transforms.encr, transforms.key_bits)),
            integ: secret(transforms.integ.and_then(integ_key_len)),
        },
        replay_window: ReplayWindow::DEFAULT_SIZE,
        local_ts: network(local),
        remote_ts: network(remote),
        original: None,
    }
}

/// An engine, and the flows whose packets it seals and opens: in bursts, over and over.
struct Subject {
    engine: Loopback,
    /// Policy and port.
    flows: Vec<(u32, u16)>,
    next: usize,
    times: Vec<f64>,
}

impl Subject {
    fn new(engine: Loopback, flows: Vec<(u32, u16)>) -> Self {
        Self { engine, flows, next: 0, times: Vec::new() }
    }

    /// Nanoseconds for sealing and opening one.
    fn pass(&mut self, packets: usize) -> Result<f64> {
        let (start, mut through) = (cpu_time(), 0);
        for _ in 0..packets / BURST {
            let burst = self.flows.get(self.next..self.next + BURST).context("flows")?;
            self.engine.seal(burst);
            through += self.engine.open();
            self.next = (self.next + BURST) % self.flows.len();
        }
        ensure!(through == packets - packets % BURST, "a packet was refused");
        Ok(per_packet(start, packets))
    }

    fn turn(&mut self, packets: usize) -> Result<()> {
        let time = self.pass(packets)?;
        self.times.push(time);
        Ok(())
    }

    /// The share of the rate of another that it has.
    fn share_of(&self, other: &Self) -> f64 {
        median(other.times.iter().zip(&self.times).map(|(theirs, ours)| theirs / ours).collect())
    }
}

/// Row 10: what the engine takes for each SA pair.
fn memory(recorder: &Recorder) -> Result<()> {
    const PAIRS: u32 = 10_000;
    let mut engine = Loopback::new(PAIRS, 64);
    let before = resident()?;
    engine.install(0..PAIRS)?;
    // All it ever takes: each has carried a packet.
    let flows = (0..PAIRS).map(|number| (number, 1)).collect();
    let mut subject = Subject::new(engine, flows);
    subject.pass(PAIRS as usize)?;
    let each = (resident()? - before) / f64::from(PAIRS);
    tell(&format!("{each:.0} octets of resident memory for each of {PAIRS} SA pairs in use\n"));
    recorder.add("memory", "pair", each)
}

/// Row 8: packets on SAs chosen at random, each with a policy of its own.
fn many_sas(options: &Options, recorder: &Recorder) -> Result<()> {
    tell("");
    tell(
        "| SAs, each packet on any of them | octets | engine, seal + open | share of the rate with the fewest |",
    );
    tell("|---|---|---|---|");
    for len in [64, 1420] {
        let mut subjects = Vec::new();
        for count in &options.sas {
            let mut engine = Loopback::new(*count, len);
            engine.install(0..*count)?;
            let flows = random().take(BURST << 14).map(|random| ((random % u64::from(*count)) as u32, 1));
            subjects.push((*count, Subject::new(engine, flows.collect())));
        }
        for _ in 0..options.rounds {
            for (count, subject) in &mut subjects {
                // The caches hold what has been used lately: of this subject, not of the one before.
                subject.pass(BURST + *count as usize)?;
                subject.turn(options.packets)?;
            }
        }
        let Some((_, fewest)) = subjects.first() else { continue };
        for (count, subject) in &subjects {
            let share = subject.share_of(fewest);
            if len == 64 {
                recorder.add("memory", &format!("sas-{count}"), share)?;
            }
            tell(&format!(
                "| {count} | {len} | {:.0} ns | {:.0} % |",
                median(subject.times.clone()),
                100.0 * share
            ));
        }
    }
    Ok(())
}

/// Row 9: the packets of steady flows in turn, under as many of the policies.
fn policies(options: &Options, recorder: &Recorder) -> Result<()> {
    tell("");
    tell(
        "| flows | engine, seal + open, 64 octets, one policy | 1,000 policies | share of the rate with one |",
    );
    tell("|---|---|---|---|");
    let mut pairs = Vec::new();
    for flows in [1, 16, 256_u32] {
        let subject = |policies: u32| -> Result<Subject> {
            let mut engine = Loopback::new(policies, 64);
            engine.install(0..policies)?;
            let flow = |number: u32| (number * 61 % policies, number as u16 + 1);
            Ok(Subject::new(engine, (0..flows.max(BURST as u32)).map(|index| flow(index % flows)).collect()))
        };
        pairs.push((flows, subject(1)?, subject(1000)?));
    }
    for _ in 0..options.rounds {
        for (_, one, many) in &mut pairs {
            one.turn(options.packets)?;
            many.turn(options.packets)?;
        }
    }
    for (flows, one, many) in pairs {
        let share = many.share_of(&one);
        recorder.add("memory", &format!("policies-{flows}"), share)?;
        let [one, many] = [one, many].map(|subject| median(subject.times));
        tell(&format!("| {flows} | {one:.0} ns | {many:.0} ns | {:.0} % |", 100.0 * share));
    }
    Ok(())
}

/// What this thread has computed for.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn per_packet(start: Duration, packets: usize) -> f64 {
    (cpu_time() - start).as_nanos() as f64 / (packets - packets % BURST) as f64
}

/// Octets of resident memory.
fn resident() -> Result<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = statm.split_whitespace().nth(1).context("statm")?.parse()?;
    Ok(pages * rustix::param::page_size() as f64)
}
