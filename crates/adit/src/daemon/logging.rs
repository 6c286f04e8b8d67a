//! The daemon's log: to stderr for the service manager, and to vici clients that registered for `log`.

use std::collections::HashMap;
use std::fmt;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::control::server::Hub;
use crate::control::vici::Message;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line of text per event.
    #[default]
    Text,
    /// One JSON object per event.
    Json,
    /// Entries of systemd's journal, with the fields of each event; text where there is no journal
    Journald,
}

/// Starts to log. `RUST_LOG`, where set, says what; else everything from `level` on.
pub fn start(format: LogFormat, level: &str, hub: &Hub) {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => EnvFilter::new(directives),
        _ => EnvFilter::new(level),
    };
    let stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let mut no_journal = None;
    let output = match (format, journal(format)) {
        (LogFormat::Journald, Ok(journal)) => journal.boxed(),
        (LogFormat::Json, _) => stderr.json().flatten_event(true).boxed(),
        (_, journal) => {
            no_journal = journal.err().filter(|_| format == LogFormat::Journald);
            use std::io::IsTerminal as _;
            let color = std::io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            stderr.with_ansi(color).boxed()
        }
    };
    let subscriber = tracing_subscriber::registry()
        .with(ViciLog(hub.clone()).with_filter(LevelFilter::INFO))
        .with(output.with_filter(filter));
    // Fails if a subscriber is set already, as in a process that runs several daemons; then that one is kept.
    let _ = subscriber.try_init();
    if let Some(error) = no_journal {
        tracing::warn!("no journal to log to: {error}");
    }
}

/// The way to the journal: a field `F` of an event is `ADIT_F` there.
fn journal(format: LogFormat) -> std::io::Result<tracing_journald::Layer> {
    if format != LogFormat::Journald {
        return Err(std::io::ErrorKind::Unsupported.into());
    }
    let layer = tracing_journald::layer()?;
    Ok(layer.with_field_prefix(Some("ADIT".to_owned())).with_syslog_identifier("adit".to_owned()))
}

/// Tells clients what is logged at INFO and above: vici's levels 0 and 1.
struct ViciLog(Hub);

impl<S: Subscriber> Layer<S> for ViciLog {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if !self.0.wants_log() {
            return;
        }
        self.0.publish("log", || {
            let mut line = Line::default();
            event.record(&mut line);
            let mut message = Message::new();
            message.put("group", group(event.metadata().target()));
            message.put("level", if *event.metadata().level() < Level::INFO { "0" } else { "1" });
            message.put_display("thread", "00");
            message.put("msg", line.0);
            // Adit's own, behind the keys that programs know.
            message.put_display("severity", event.metadata().level());
            message
        });
    }
}

/// The group of charon's log that readers of `log` know.
fn group(target: &str) -> &'static str {
    match target.split("::").next() {
        Some("adit_ike") => "IKE",
        Some("adit_esp") => "ESP",
        Some("adit_net") => "NET",
        _ => "DMN",
    }
}

/// The text of an event: the message, then its fields.
#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = if field.name() == "message" {
            let fields = std::mem::take(&mut self.0);
            write!(self.0, "{value:?}{fields}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}

/// Keeps peers from filling the log: a burst of lines for each address, then one every few seconds.
#[derive(Debug, Default)]
pub(super) struct LogLimit(HashMap<IpAddr, Bucket>);

#[derive(Debug)]
struct Bucket {
    used: u32,
    since: Instant,
    suppressed: u64,
}

impl LogLimit {
    /// Lines of one peer that are logged at once.
    const BURST: u32 = 20;
    /// Time after which one more is.
    const REFILL: Duration = Duration::from_secs(3);
    /// Peers that are told apart.
    const PEERS: usize = 1024;

    /// May a line about `peer` be logged now? Then it ends in what this returns.
    pub(super) fn allow(&mut self, peer: IpAddr, now: Instant) -> Option<Suppressed> {
        if self.0.len() >= Self::PEERS && !self.0.contains_key(&peer) {
            let full = Self::REFILL * Self::BURST;
            self.0.retain(|_, bucket| now.saturating_duration_since(bucket.since) < full);
            if self.0.len() >= Self::PEERS {
                return None;
            }
        }
        let bucket = self.0.entry(peer).or_insert(Bucket { used: 0, since: now, suppressed: 0 });
        let elapsed = now.saturating_duration_since(bucket.since).as_millis() / Self::REFILL.as_millis();
        let refilled = u32::try_from(elapsed).unwrap_or(u32::MAX);
        if refilled >= bucket.used {
            (bucket.used, bucket.since) = (0, now);
        } else {
            bucket.used -= refilled;
            bucket.since += Self::REFILL * refilled;
        }
        if bucket.used >= Self::BURST {
            bucket.suppressed += 1;
            return None;
        }
        bucket.used += 1;
        Some(Suppressed(std::mem::take(&mut bucket.suppressed)))
    }
}

/// How many lines about a peer were left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Suppressed(u64);

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            lines => write!(f, " ({lines} earlier lines about this peer were left out)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_cannot_fill_the_log() {
        let mut limit = LogLimit::default();
        let start = Instant::now();
        let noisy: IpAddr = "192.0.2.1".parse().unwrap();
        let allowed = (0..1000).filter(|_| limit.allow(noisy, start).is_some()).count();
        assert_eq!(allowed, 20);
        assert_eq!(
            limit.allow("192.0.2.2".parse().unwrap(), start),
            Some(Suppressed(0)),
            "others are not affected"
        );
        assert_eq!(limit.allow(noisy, start + Duration::from_millis(2999)), None);
        assert_eq!(limit.allow(noisy, start + Duration::from_secs(3)), Some(Suppressed(981)));
        assert_eq!(limit.allow(noisy, start + Duration::from_secs(3)), None);
        let later = start + Duration::from_secs(3600);
        let allowed = (0..1000).filter(|_| limit.allow(noisy, later).is_some()).count();
        assert_eq!(allowed, 20);
    }

    #[test]
    fn many_peers_cost_bounded_memory() {
        let mut limit = LogLimit::default();
        let start = Instant::now();
        let allowed =
            (0..5000_u32).filter(|n| limit.allow(IpAddr::from(n.to_be_bytes()), start).is_some()).count();
        assert_eq!(allowed, LogLimit::PEERS);
        let later = start + Duration::from_secs(61);
        assert!(limit.allow("192.0.2.1".parse().unwrap(), later).is_some());
        assert_eq!(limit.0.len(), 1);
    }
}
