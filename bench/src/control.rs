//! Who looks on costs nobody anything: `adit run` with many SAs answers and shakes hands, without and with clients that
//! registered for everything, asked for all SAs, and never read.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use adit::config::ControlUri;
use adit::control::client::Client;
use adit::control::vici::{Message, Packet};
use adit_lab::lab::{Topology, with_lab};
use adit_lab::process::{eventually, tell};
use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::peers::{Comparison, Responder, Running, Subject};
use crate::{Extent, median, quantile};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many IKE SAs are established, each with a Child SA.
    #[arg(long, default_value_t = 10_000)]
    sas: usize,
    /// How many clients do not read.
    #[arg(long, default_value_t = 100)]
    clients: usize,
    /// Turns without and with them.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Handshakes in one turn.
    #[arg(long, default_value_t = 1000)]
    handshakes: usize,
    /// How often a client that reads asks in one turn, once while there is nothing else and once during handshakes.
    #[arg(long, default_value_t = 100)]
    tries: usize,
    /// Give up that takes longer than so many seconds to fill.
    #[arg(long, default_value_t = 200)]
    patience: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let extent = Extent {
        levels: vec![options.sas],
        handshakes: options.handshakes,
        rounds: options.rounds,
        patience: options.patience,
    };
    let comparison = Comparison { extent: &extent, hybrid: false, child: true };
    with_lab("control", Topology::default(), |lab| {
        let mut gateway = Subject::start(lab, Responder::Adit, &comparison)?;
        ensure!(gateway.fill(&comparison, options.sas)?, "not all SAs were established in time");
        let uri = match &gateway.running {
            Running::Adit(adit) => adit.control().parse::<ControlUri>()?,
            _ => bail!("not Adit"),
        };
        let mut turns = [Turns::default(), Turns::default()];
        for round in 0..=options.rounds {
            for (turns, clients) in turns.iter_mut().zip([0, options.clients]) {
                Turn { options, uri: &uri, clients, counts: round > 0 }.take(
                    &comparison,
                    &mut gateway,
                    turns,
                )?;
            }
        }
        report(options, &mut turns);
        Ok(())
    })
}

/// What was measured without, or with, clients that do not read.
#[derive(Default)]
struct Turns {
    /// Handshakes per second.
    rates: Vec<f64>,
    /// Seconds of the daemon's CPU time for a handshake.
    cpu: Vec<f64>,
    /// Seconds from the question for all SAs to the first of them.
    quiet: Vec<f64>,
    /// The same while tunnels come and go.
    busy: Vec<f64>,
    /// Octets of resident memory.
    memory: Vec<f64>,
    /// Clients that the daemon let go.
    lost: u64,
}

struct Turn<'a> {
    options: &'a Options,
    uri: &'a ControlUri,
    clients: usize,
    /// The first is for getting warm.
    counts: bool,
}

impl Turn<'_> {
    fn take(&self, comparison: &Comparison<'_>, gateway: &mut Subject<'_>, turns: &mut Turns) -> Result<()> {
        let (end, lost) = (AtomicBool::new(false), AtomicU64::new(0));
        let ready = AtomicU64::new(0);
        let mut taken = Turns::default();
        thread::scope(|scope| -> Result<()> {
            let crowd = scope.spawn(|| self.crowd(&end, &ready, &lost));
            let measure = || -> Result<()> {
                eventually("the clients", Duration::from_secs(30), || {
                    Ok((ready.load(Ordering::Relaxed) >= self.clients as u64).then_some(()))
                })?;
                for _ in 0..self.options.tries {
                    taken.quiet.push(self.first_answer()?);
                }
                gateway.measured.clear();
                gateway.measure(comparison)?;
                let measured = gateway.measured.pop().context("a measurement")?;
                (taken.rates, taken.cpu) = (vec![measured.rate], vec![measured.cpu]);
                let stop = AtomicBool::new(false);
                let reader = thread::scope(|scope| -> Result<Vec<f64>> {
                    let reader = scope.spawn(|| {
                        let mut times = Vec::new();
                        while times.len() < self.options.tries && !stop.load(Ordering::Relaxed) {
                            times.push(self.first_answer()?);
                        }
                        Ok::<_, anyhow::Error>(times)
                    });
                    let measured = gateway.measure(comparison);
                    stop.store(true, Ordering::Relaxed);
                    measured?;
                    reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?
                })?;
                taken.busy = reader;
                taken.memory.push(gateway.running.process().resident_memory()? as f64);
                Ok(())
            };
            let measured = { measure }();
            end.store(true, Ordering::Relaxed);
            let crowd = crowd.join().map_err(|_| anyhow::anyhow!("the crowd panicked"))?;
            measured.and(crowd)
        })?;
        if self.counts {
            turns.rates.append(&mut taken.rates);
            turns.cpu.append(&mut taken.cpu);
            turns.quiet.append(&mut taken.quiet);
            turns.busy.append(&mut taken.busy);
            turns.memory.append(&mut taken.memory);
            turns.lost += lost.load(Ordering::Relaxed);
        }
        Ok(())
    }

    /// Seconds until a client that comes and asks for all SAs is told of the first.
    fn first_answer(&self) -> Result<f64> {
        let begun = Instant::now();
        let mut client = Client::connect(self.uri)?;
        let mut first = None;
        client.streamed_while("list-sas", Message::new(), "list-sa", |_| {
            first = Some(begun.elapsed());
            false
        })?;
        Ok(first.context("there is no SA")?.as_secs_f64())
    }

    /// Clients that ask and do not read, for as long as it takes. Whom the daemon lets go comes again.
    fn crowd(&self, end: &AtomicBool, ready: &AtomicU64, lost: &AtomicU64) -> Result<()> {
        let ControlUri::Unix(path) = self.uri else { bail!("no Unix socket") };
        let mut clients: Vec<UnixStream> = (0..self.clients).map(|_| stuck(path)).collect::<Result<_>>()?;
        ready.store(clients.len() as u64, Ordering::Relaxed);
        while !end.load(Ordering::Relaxed) {
            let mut polled: Vec<PollFd<'_>> =
                clients.iter().map(|client| PollFd::new(client, PollFlags::empty())).collect();
            let pause = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            if polled.is_empty() {
                thread::sleep(Duration::from_millis(50));
                continue;
            }
            rustix::event::poll(&mut polled, Some(&pause))?;
            let gone: Vec<bool> =
                polled.iter().map(|client| client.revents().contains(PollFlags::HUP)).collect();
            for (client, _) in clients.iter_mut().zip(gone).filter(|(_, gone)| *gone) {
                // Until the daemon has seen that others have gone, there may be too many.
                if let Ok(again) = stuck(path) {
                    *client = again;
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }
}

/// A client that has registered for what it can, asked for all SAs, and reads nothing of what comes.
fn stuck(path: &PathBuf) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    for event in ["ike-updown", "child-updown", "ike-rekey", "child-rekey", "alert", "log", "list-sa"] {
        stream.write_all(&Packet::EventRegister(event.to_owned()).encode()?)?;
        // A length of four octets, and the confirmation; events may come between.
        loop {
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let mut payload = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut payload)?;
            if matches!(Packet::decode(&payload)?, Packet::EventConfirm) {
                break;
            }
        }
    }
    let request = Packet::Request { name: "list-sas".to_owned(), message: Message::new() };
    stream.write_all(&request.encode()?)?;
    Ok(stream)
}

fn report(options: &Options, turns: &mut [Turns; 2]) {
    tell(&format!(
        "\n{} SAs; {} turns of {} handshakes; milliseconds until `list-sas` begins, median, 99th percentile and most\n",
        options.sas, options.rounds, options.handshakes
    ));
    tell(
        "| clients that never read | let go | handshakes/s | CPU time of a handshake | `list-sas` begins | during handshakes | resident |",
    );
    tell("|---|---|---|---|---|---|---|");
    for (turns, clients) in turns.iter_mut().zip([0, options.clients]) {
        let times = |values: &mut Vec<f64>| {
            let count = values.len();
            let mut at = |part| quantile(values, part) * 1e3;
            format!("{:.2}, {:.2}, {:.2} ({count} times)", at(0.5), at(0.99), at(1.0))
        };
        tell(&format!(
            "| {clients} | {} | {:.0} | {:.0} µs | {} | {} | {:.0} MiB |",
            turns.lost,
            median(turns.rates.clone()),
            median(turns.cpu.clone()) * 1e6,
            times(&mut turns.quiet),
            times(&mut turns.busy),
            quantile(&mut turns.memory, 1.0) / 1024.0 / 1024.0,
        ));
    }
    let [without, with] = turns;
    let ratio = |f: fn(&Turns) -> &Vec<f64>| {
        let each: Vec<f64> = f(with).iter().zip(f(without)).map(|(with, without)| with / without).collect();
        let mut sorted = each.clone();
        format!(
            "{:.2} ({:.2} to {:.2})",
            median(each),
            quantile(&mut sorted, 0.0),
            quantile(&mut sorted, 1.0)
        )
    };
    tell(&format!(
        "\nWith them by without, each by its neighbour in time, the middle one (least to most): handshakes/s {}, CPU time {}.",
        ratio(|turns| &turns.rates),
        ratio(|turns| &turns.cpu)
    ));
}
