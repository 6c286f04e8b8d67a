//! What the operating system knows about this process, from `/proc`. It owns the reading and never waits for a disk.

use std::fs;

/// Ticks of `/proc` in a second: the same on every Linux, whatever its own clock (proc(5), USER_HZ).
const TICKS: f64 = 100.0;

/// Octets in a page of `statm`.
fn page_size() -> u64 {
    u64::try_from(rustix::param::page_size()).unwrap_or(4096)
}

/// This process now; what cannot be read is absent.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) open_files: Option<u64>,
    /// By worker, in the order in which they began.
    pub(super) worker_seconds: Vec<f64>,
}

impl Process {
    pub(super) fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        let resident = read("/proc/self/statm")
            .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok())
            .map(|pages| pages * page_size());
        let files = fs::read_dir("/proc/self/fd").ok().and_then(|all| u64::try_from(all.count()).ok());
        let mut workers: Vec<(u32, f64)> = fs::read_dir("/proc/self/task")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|task| {
                let number = task.file_name().to_str()?.parse().ok()?;
                let text = fs::read_to_string(task.path().join("stat")).ok()?;
                let (name, seconds) = seconds(&text)?;
                (name == "adit-worker").then_some((number, seconds))
            })
            .collect();
        workers.sort_by_key(|(number, _)| *number);
        Self {
            cpu_seconds: read("/proc/self/stat").and_then(|text| Some(seconds(&text)?.1)),
            resident_bytes: resident,
            open_files: files,
            worker_seconds: workers.into_iter().map(|(_, seconds)| seconds).collect(),
        }
    }
}

/// The name, and the time in user and system mode, of a `stat` (proc(5)): fields 2, 14 and 15. The name may hold anything.
fn seconds(stat: &str) -> Option<(&str, f64)> {
    let (before, after) = stat.rsplit_once(") ")?;
    let (_, name) = before.split_once('(')?;
    let mut fields = after.split(' ').skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((name, (f64::from(user) + f64::from(system)) / TICKS))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line as proc(5) describes it, with user time 250 and system time 50 ticks.
    #[test]
    fn times_of_a_stat_line() {
        let line =
            "17 (a b) c) S 1 17 17 0 -1 4194560 10 0 0 0 250 50 0 0 20 0 1 0 99 1000 20 18446744073709551615";
        assert_eq!(seconds(line), Some(("a b) c", 3.0)));
        assert_eq!(seconds("17 (a) S 1"), None);
        assert_eq!(seconds(""), None);
    }

    #[test]
    fn of_this_process() {
        let process = Process::read();
        assert!(process.resident_bytes.unwrap() > 100_000);
        assert!(process.open_files.unwrap() >= 3);
        assert!(process.cpu_seconds.is_some());
    }
}
