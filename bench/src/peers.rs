//! Responders in turn, over UDP between namespaces: handshakes per second, CPU time, and memory.
//!
//! Every responder is a process in a laboratory of its own, filled with tunnels by the same initiators. All of them
//! stay up while they take their turns, so that what else the machine does meets all alike.

use std::time::{Duration, Instant};

use adit_lab::adit::{self, Adit};
use adit_lab::lab::{Family, Lab, Side, Topology, with_lab};
use adit_lab::peer::Connection;
use adit_lab::process::{Process, run as run_command, tell};
use adit_lab::strongswan::{Options, Release, StrongSwan};
use anyhow::{Context, Result};

use crate::gateways::{CLASSICAL, ESP, HYBRID, NETWORKS};
use crate::{Extent, median};

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Responder {
    /// `adit run`.
    Adit,
    /// Adit's machine around a socket.
    Machine,
    /// strongSwan.
    StrongSwan(Release),
}

impl Responder {
    fn describe(self) -> &'static str {
        match self {
            Self::Adit => "Adit",
            Self::Machine => "Adit, no data plane",
            Self::StrongSwan(Release::Debian) => "strongSwan 5.9.8",
            Self::StrongSwan(Release::Newest) => "strongSwan, newest",
        }
    }
}

pub(crate) fn run(extent: &Extent) -> Result<()> {
    let newest = Responder::StrongSwan(Release::Newest);
    let debian = Responder::StrongSwan(Release::Debian);
    // Debian's knows no ML-KEM.
    for (hybrid, responders) in [
        (false, &[Responder::Adit, newest, Responder::Machine, debian][..]),
        (true, &[Responder::Adit, newest, Responder::Machine]),
    ] {
        for child in [false, true] {
            let with = |labs: &[&Lab]| Comparison { extent, hybrid, child }.run(labs, responders);
            in_labs(responders.len(), &[], &with)?;
        }
    }
    Ok(())
}

/// Runs `f` in so many laboratories.
fn in_labs(more: usize, labs: &[&Lab], f: &dyn Fn(&[&Lab]) -> Result<()>) -> Result<()> {
    if more == 0 {
        return f(labs);
    }
    with_lab("bench", Topology::default(), |lab| in_labs(more - 1, &[labs, &[lab]].concat(), f))
}

pub(crate) struct Comparison<'a> {
    pub(crate) extent: &'a Extent,
    pub(crate) hybrid: bool,
    pub(crate) child: bool,
}

impl Comparison<'_> {
    fn run(&self, labs: &[&Lab], responders: &[Responder]) -> Result<()> {
        let keys = if self.hybrid { "X25519 + ML-KEM-768" } else { "X25519" };
        tell(&format!("\n{keys}, {}\n", if self.child { "IKE SA and Child SA" } else { "IKE SA only" }));
        tell(
            "| tunnels | responder | handshakes/s | Adit's rate by its | CPU time of a handshake | its by Adit's |",
        );
        tell("|---|---|---|---|---|---|");
        let (mut subjects, mut growth) = (Vec::new(), Vec::new());
        for (lab, responder) in labs.iter().zip(responders) {
            subjects.push(Subject::start(lab, *responder, self)?);
        }
        for level in &self.extent.levels {
            for subject in &mut subjects {
                if !subject.fill(self, *level)? {
                    let (name, up) = (subject.responder.describe(), subject.up);
                    tell(&format!("| {level} | {name} | given up with {up} | | | |"));
                }
            }
            let (there, gone): (Vec<_>, Vec<_>) =
                subjects.into_iter().partition(|subject| subject.up == *level);
            subjects = there;
            growth.extend(gone.iter().flat_map(Subject::growth));
            for subject in &mut subjects {
                subject.measured.clear();
            }
            for _ in 0..self.extent.rounds {
                for subject in &mut subjects {
                    subject.measure(self)?;
                }
            }
            let Some(adit) = subjects.first().map(|subject| subject.measured.clone()) else { break };
            for Subject { responder, measured, .. } in &subjects {
                let of = |f: fn(&Measured) -> f64| median(measured.iter().map(f).collect());
                // Each by its neighbour in time, and the middle one of those.
                let by = |f: fn(&Measured, &Measured) -> f64| {
                    median(adit.iter().zip(measured).map(|(adit, other)| f(adit, other)).collect())
                };
                tell(&format!(
                    "| {level} | {} | {:.0} | {:.2} | {:.0} µs | {:.2} |",
                    responder.describe(),
                    of(|m| m.rate),
                    by(|adit, other| adit.rate / other.rate),
                    of(|m| m.cpu) * 1e6,
                    by(|adit, other| other.cpu / adit.cpu),
                ));
            }
        }
        growth.extend(subjects.iter().flat_map(Subject::growth));
        tell("\n| responder | tunnels | memory by which it grew, for each |\n|---|---|---|");
        growth.iter().for_each(|line| tell(line));
        Ok(())
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Handshakes per second.
    pub(crate) rate: f64,
    /// Seconds of CPU time of the responder for one.
    pub(crate) cpu: f64,
}

/// A responder with what was found out about it.
pub(crate) struct Subject<'a> {
    responder: Responder,
    lab: &'a Lab,
    pub(crate) running: Running,
    up: usize,
    started: usize,
    pub(crate) measured: Vec<Measured>,
    /// So many tunnels more, and octets of resident memory for each.
    growth: Vec<(usize, f64)>,
}

pub(crate) enum Running {
    Adit(Adit),
    Machine(Process),
    StrongSwan(StrongSwan),
}

impl Running {
    pub(crate) fn process(&self) -> &Process {
        match self {
            Self::Adit(adit) => adit.process(),
            Self::Machine(process) => process,
            Self::StrongSwan(charon) => charon.process(),
        }
    }
}

impl<'a> Subject<'a> {
    pub(crate) fn start(lab: &'a Lab, responder: Responder, comparison: &Comparison<'_>) -> Result<Self> {
        let suite = if comparison.hybrid { HYBRID } else { CLASSICAL };
        let mut connection = Connection::new(Side::B, Family::V4, suite, ESP);
        connection.remote_addrs = "%any".to_owned();
        connection.remote_id = "%any".to_owned();
        connection.secret_id = "%any".to_owned();
        (connection.local_ts, connection.remote_ts) = (NETWORKS.0.to_owned(), NETWORKS.1.to_owned());
        connection.extra = "mobike = no\n unique = never".to_owned();
        // Debian's strongSwan carries ESP in UDP only.
        connection.encap = true;
        let running = match responder {
            Responder::Adit => {
                let settings = adit::Settings {
                    extra: "cookie_threshold = 1000000\n half_open_limit = 1000000\n log = warn".to_owned(),
                    ..adit::Settings::default()
                };
                Running::Adit(Adit::start_with(lab, Side::B, &connection, &settings)?)
            }
            Responder::Machine => {
                let mut command = lab.command(Side::B.gateway(), std::env::current_exe()?);
                Running::Machine(Process::spawn("machine", command.arg("respond"), lab.dir())?)
            }
            Responder::StrongSwan(release) => {
                let options =
                    Options { charon: STRONGSWAN.to_owned(), more: QUIET.to_owned(), ..Options::of(release) };
                Running::StrongSwan(StrongSwan::start_with(lab, Side::B, &connection, &options)?)
            }
        };
        Ok(Self { responder, lab, running, up: 0, started: 0, measured: Vec::new(), growth: Vec::new() })
    }

    /// Brings tunnels up until there are so many; `false` if that took too long.
    pub(crate) fn fill(&mut self, comparison: &Comparison<'_>, level: usize) -> Result<bool> {
        let (count, before) = (level - self.up, self.running.process().resident_memory()?);
        let end = Instant::now() + Duration::from_secs(comparison.extent.patience);
        // In parts: what an initiator keeps of a tunnel that is up grows with their number.
        while self.up < level && Instant::now() < end {
            let part = (level - self.up).min(5000);
            let left = end.saturating_duration_since(Instant::now()).as_secs().max(1);
            let (up, _) = self.load(comparison, part, left, false)?;
            self.up += up;
        }
        let after = self.running.process().resident_memory()?;
        if count >= 500 && self.up == level {
            self.growth.push((count, (after as f64 - before as f64) / count as f64));
        }
        Ok(self.up == level)
    }

    pub(crate) fn measure(&mut self, comparison: &Comparison<'_>) -> Result<()> {
        let count = comparison.extent.handshakes;
        let (up, measured) = self.load(comparison, count, comparison.extent.patience, true)?;
        anyhow::ensure!(up == count, "{}: {up} of {count} tunnels came up", self.responder.describe());
        self.measured.push(measured);
        Ok(())
    }

    /// Rows of the table of memory.
    fn growth(&self) -> impl Iterator<Item = String> {
        let name = self.responder.describe();
        self.growth
            .iter()
            .map(move |(count, octets)| format!("| {name} | {count} more | {octets:.0} octets |"))
    }

    fn load(
        &mut self,
        comparison: &Comparison<'_>,
        count: usize,
        limit: u64,
        delete: bool,
    ) -> Result<(usize, Measured)> {
        let mut command = self.lab.command(Side::A.gateway(), std::env::current_exe()?);
        command.arg("load");
        for (name, value) in [
            ("--from", self.started as u64),
            ("--count", count as u64),
            ("--responder", self.running.process().id().into()),
            ("--limit", limit),
        ] {
            command.arg(name).arg(value.to_string());
        }
        for (flag, set) in
            [("--hybrid", comparison.hybrid), ("--child", comparison.child), ("--delete", delete)]
        {
            command.args(set.then_some(flag));
        }
        self.started += count;
        let text = run_command(&mut command).with_context(|| self.responder.describe())?;
        let mut words = text.split_whitespace();
        let mut next = || words.next().with_context(|| format!("the initiators say {text:?}"));
        let (up, seconds, cpu) =
            (next()?.parse::<usize>()?, next()?.parse::<f64>()?, next()?.parse::<f64>()?);
        Ok((up, Measured { rate: up as f64 / seconds, cpu: cpu / up as f64 }))
    }
}

/// Room for many: its table of IKE SAs has one row otherwise.
const STRONGSWAN: &str = "ikesa_table_size = 65536
  ikesa_table_segments = 16
  init_limit_half_open = 0
  half_open_timeout = 600
  keep_alive = 0
  install_routes = no";

/// No log.
pub(crate) const QUIET: &str = "charon {
  filelog {
    main {
      default = -1
      cfg = -1
      knl = -1
      ike = -1
      chd = -1
    }
  }
}
charon-systemd {
  journal {
    default = -1
  }
}";
