//! Sealing and opening in memory: what ESP adds to the bare cipher, what many SAs and many policies cost, and how much
//! memory an SA takes.
//!
//! There are no sockets and no kernel in it. Whatever is compared takes turns within one run, and a ratio is the middle one of
//! the ratios of the turns.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use adit_crypto::{EspKeys, EspTransforms, Secret, encr_key_len, integ_key_len};
use adit_esp::{
    Action, InboundSa, Mode, Opened, OutboundSa, Policy, PolicyTable, ReplayWindow, SaParameters,
};
use adit_lab::process::tell;
use adit_wire::ikev2::{EncrId, IntegId, Spi, TrafficSelector};
use adit_wire::ip;
use anyhow::{Context, Result, ensure};
use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::median;
use crate::results::{self, Recorder};

/// Packets that are sealed, and then opened, before the next ones: what a worker takes in at once.
const BURST: usize = 32;

/// So many SAs keep their keys expanded, as in the data plane.
const AWAKE: usize = 16 << 10;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Turns of each subject.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Packets of each turn.
    #[arg(long, default_value_t = 200_000)]
    packets: usize,
    /// How many SAs there are, from few to many.
    #[arg(long, value_delimiter = ',', default_value = "1,1000,10000,100000")]
    sas: Vec<usize>,
    /// The file that the results are added to.
    #[arg(long, default_value = results::DEFAULT)]
    results: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let recorder = Recorder::new(&options.results)?;
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
            let mut pair = Pairs::new(1, transforms, len)?;
            let mut bare = algorithm.map(|algorithm| Bare::new(algorithm, len)).transpose()?;
            // What ESP gives the library: with padding and trailer.
            let body = (len + 2).next_multiple_of(4);
            let mut same = algorithm.map(|algorithm| Bare::new(algorithm, body)).transpose()?;
            let (mut library, mut esp, mut shares) = (Vec::new(), Vec::new(), Vec::new());
            let mut of_same = Vec::new();
            for _ in 0..=options.rounds {
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
        let start = Instant::now();
        for _ in 0..packets / BURST {
            let first = self.counter;
            let mut tags = [const { None }; BURST];
            for (buffer, tag) in self.buffers.iter_mut().zip(&mut tags) {
                self.counter += 1;
                let aad = Aad::from(self.counter.to_be_bytes());
                *tag = self.key.seal_in_place_separate_tag(nonce(self.counter), aad, buffer).ok();
            }
            self.counter = first;
            for (buffer, tag) in self.buffers.iter_mut().zip(&tags) {
                self.counter += 1;
                let aad = Aad::from(self.counter.to_be_bytes());
                let tag = tag.as_ref().context("sealing")?.as_ref();
                let opened = self.key.open_in_place_separate_tag(nonce(self.counter), aad, tag, buffer);
                ensure!(opened.is_ok(), "the library does not open what it sealed");
            }
        }
        Ok(per_packet(start, packets))
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Both ends of so many SAs, and packets on them.
struct Pairs {
    sealing: Vec<OutboundSa>,
    opening: Vec<InboundSa>,
    slots: Vec<Vec<u8>>,
    inner_len: usize,
    /// Which SA carries which packet, over and over.
    order: Vec<usize>,
    next: usize,
}

impl Pairs {
    fn new(count: usize, transforms: EspTransforms, len: usize) -> Result<Self> {
        let (mut sealing, mut opening) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for number in 0..count {
            let mut outbound = OutboundSa::new(parameters(number, transforms, true))?;
            let mut inbound = InboundSa::new(parameters(number, transforms, false))?;
            if number >= AWAKE {
                outbound.keys_mut().rest();
                inbound.keys_mut().rest();
            }
            sealing.push(outbound);
            opening.push(inbound);
        }
        let layout = sealing.first().context("no SA")?.layout();
        let inner = ip::packet([10, 1, 0, 1].into(), [10, 2, 0, 1].into(), 17, 64, &vec![0; len - 20])
            .context("too long")?;
        let mut slot = vec![0; layout.packet_len(len)];
        slot.get_mut(layout.payload_offset()..)
            .context("slot")?
            .iter_mut()
            .zip(inner)
            .for_each(|(to, from)| *to = from);
        Ok(Self { sealing, opening, slots: vec![slot; BURST], inner_len: len, order: order(count), next: 0 })
    }

    /// Nanoseconds for sealing and opening one, each on an SA of its own.
    fn pass(&mut self, packets: usize) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..packets / BURST {
            let chosen = self.order.get(self.next..).and_then(|order| order.first_chunk::<BURST>());
            let chosen = chosen.context("order")?;
            self.next = (self.next + BURST) % self.order.len();
            if self.sealing.len() > 1 {
                for number in chosen {
                    self.sealing.get(*number).context("no such SA")?.touch();
                    self.opening.get(*number).context("no such SA")?.touch();
                }
            }
            for (slot, number) in self.slots.iter_mut().zip(chosen) {
                let sa = self.sealing.get_mut(*number).context("no such SA")?;
                sa.seal_at(slot, self.inner_len, 4)?;
            }
            for (slot, number) in self.slots.iter_mut().zip(chosen) {
                let sa = self.opening.get_mut(*number).context("no such SA")?;
                ensure!(matches!(sa.open(slot), Ok(Opened::Packet(_))), "a packet was refused");
            }
        }
        Ok(per_packet(start, packets))
    }
}

/// Numbers below `count` that look random.
fn order(count: usize) -> Vec<usize> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % count as u64) as usize
    };
    std::iter::repeat_with(next).take(BURST << 14).collect()
}

fn parameters(number: usize, transforms: EspTransforms, outbound: bool) -> SaParameters {
    let secret = |len: Option<usize>| {
        Secret::new((0..len.unwrap_or(0)).map(|at| (number >> (8 * (at % 4))) as u8).collect())
    };
    let network = |second: u8| vec![TrafficSelector::subnet([10, second, 0, 0].into(), 16)];
    let (local, remote) = if outbound { (1, 2) } else { (2, 1) };
    SaParameters {
        mode: Mode::Tunnel,
        spi: Spi(0x1000_0000 | number as u32),
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

/// Rows 8 and 10: packets on SAs chosen at random, and the memory that each takes.
fn many_sas(options: &Options, recorder: &Recorder) -> Result<()> {
    let [(_, transforms, _), ..] = all_suites();
    tell("");
    tell(
        "| SAs, each packet on any of them | octets | seal + open | share of the rate with the fewest | resident, for each pair |",
    );
    tell("|---|---|---|---|---|");
    for len in [64, 1420] {
        let mut subjects = Vec::new();
        for count in &options.sas {
            let before = resident()?;
            let pairs = Pairs::new(*count, transforms, len)?;
            let each = (resident()? - before) / *count as f64;
            subjects.push((*count, each, pairs, Vec::new()));
        }
        for _ in 0..=options.rounds {
            for (count, _, pairs, times) in &mut subjects {
                // The caches hold what has been used lately: of this subject, not of the one before.
                pairs.pass(2 * *count)?;
                times.push(pairs.pass(options.packets)?);
            }
        }
        let fewest = subjects.first().map(|(.., times)| times.clone()).unwrap_or_default();
        for (count, each, _, times) in subjects {
            let shares: Vec<_> = fewest.iter().zip(&times).map(|(few, many)| few / many).collect();
            if len == 64 {
                recorder.add("memory", &format!("sas-{count}"), median(shares.clone()))?;
                if count == 10_000 {
                    recorder.add("memory", "pair", each)?;
                }
            }
            let memory = if count < 1000 { String::new() } else { format!("{each:.0} octets") };
            tell(&format!(
                "| {count} | {len} | {:.0} ns | {:.0} % | {memory} |",
                median(times),
                100.0 * median(shares)
            ));
        }
    }
    Ok(())
}

/// Row 9: finding the policy of a few steady flows, and sealing their packets.
fn policies(options: &Options, recorder: &Recorder) -> Result<()> {
    tell("");
    tell("| policies | flow, policy and seal, 64 octets | share of the rate with one |");
    tell("|---|---|---|");
    let [(_, transforms, _), ..] = all_suites();
    let mut subjects = Vec::new();
    for count in [1_usize, 1000] {
        let policies: Vec<_> = (0..count)
            .map(|number| Policy {
                priority: 0,
                action: Action::Protect,
                local_ts: vec![TrafficSelector::subnet([10, 1, 0, 0].into(), 16)],
                remote_ts: vec![TrafficSelector::subnet(
                    [10, 2 + (number >> 8) as u8, number as u8, 0].into(),
                    24,
                )],
            })
            .collect();
        let flows: Vec<Vec<u8>> = (0..16)
            .map(|number| {
                let remote = number * 61 % count;
                let to = [10, 2 + (remote >> 8) as u8, remote as u8, 9];
                ip::packet([10, 1, 0, 1].into(), to.into(), 17, 64, &[0; 44])
            })
            .collect::<Option<_>>()
            .context("too long")?;
        let sa = OutboundSa::new(parameters(0, transforms, true))?;
        subjects.push((count, PolicyTable::new(&policies), flows, sa, Vec::new()));
    }
    for _ in 0..=options.rounds {
        for (_, table, flows, sa, times) in &mut subjects {
            let layout = sa.layout();
            let mut slot = vec![0; layout.packet_len(64)];
            let start = Instant::now();
            for inner in flows.iter().cycle().take(options.packets) {
                let flow = ip::flow(inner)?;
                ensure!(black_box(table.lookup_outbound(&flow)).is_some(), "no policy");
                sa.seal_at(&mut slot, inner.len(), 4)?;
            }
            times.push(per_packet(start, options.packets));
        }
    }
    let one = subjects.first().map(|(.., times)| times.clone()).unwrap_or_default();
    for (count, .., times) in subjects {
        let shares: Vec<_> = one.iter().zip(&times).map(|(one, many)| one / many).collect();
        recorder.add("memory", &format!("policies-{count}"), median(shares.clone()))?;
        tell(&format!("| {count} | {:.0} ns | {:.0} % |", median(times), 100.0 * median(shares)));
    }
    Ok(())
}

fn per_packet(start: Instant, packets: usize) -> f64 {
    start.elapsed().as_nanos() as f64 / (packets - packets % BURST) as f64
}

/// Octets of resident memory.
fn resident() -> Result<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = statm.split_whitespace().nth(1).context("statm")?.parse()?;
    Ok(pages * rustix::param::page_size() as f64)
}
