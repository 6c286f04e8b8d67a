//! Child processes of a test: their output goes to a file, their end is certain.
//!
//! Owns starting, signalling and waiting. Never kills anything that it did not start.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// A running process with its output in a file. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Length of the log when it started.
    start: u64,
}

impl Process {
    /// Starts `command` with standard output and error in `dir/name.log` (appended to).
    pub fn spawn(name: &str, command: &mut Command, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let start = file.metadata()?.len();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log, start })
    }

    /// What it has written so far, without what others of its name wrote before it.
    pub fn own_output(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let start = usize::try_from(self.start).unwrap_or(usize::MAX);
        String::from_utf8_lossy(log.get(start..).unwrap_or_default()).into_owned()
    }

    /// What is in its log.
    pub fn output(&self) -> String {
        read_lossy(&self.log)
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal. `ip netns exec` becomes the program it runs, so the program gets it.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("process number")?;
        kill_process(pid, signal).with_context(|| format!("signal {signal:?} to {}", self.name))
    }

    /// Has it ended?
    pub fn ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for its end and returns its exit code, `None` if a signal ended it.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<i32>> {
        let name = self.name.clone();
        let status = eventually(&format!("end of {name}"), limit, || Ok(self.child.try_wait()?))
            .with_context(|| format!("output of {name}:\n{}", tail(&self.output(), 30)))?;
        Ok(status.code())
    }

    /// Sends a signal and waits for the end.
    pub fn stop(&mut self, signal: Signal) -> Result<Option<i32>> {
        if !self.ended()? {
            self.signal(signal)?;
        }
        self.wait(Duration::from_secs(20))
    }

    /// Resident memory in bytes.
    pub fn resident_memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().strip_suffix("kB"))
            .context("no VmRSS: has the process ended?")?;
        Ok(kib.trim().parse::<u64>()? * 1024)
    }

    /// How many files, sockets and pipes it holds open.
    pub fn open_files(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Polls `probe` until it returns something, or fails with `what` once `limit` has passed.
pub fn eventually<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        ensure!(start.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs a command to its end; fails with its output unless it succeeds.
pub fn run(command: &mut Command) -> Result<String> {
    let output = run_unchecked(command)?;
    if !output.status.success() {
        bail!(
            "{command:?} ended with {}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, whatever that is.
pub fn run_unchecked(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))
}

/// A figure for whoever runs the test with `--nocapture`, or reads of its failure.
#[expect(clippy::print_stdout, reason = "what a test prints is its own, not a program's")]
pub fn tell(line: &str) {
    println!("{line}");
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    all.get(from..).unwrap_or_default().join("\n")
}

/// A file's text; empty if there is none.
pub fn read_lossy(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
