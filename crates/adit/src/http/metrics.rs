//! `/metrics`: the snapshot in the text formats of Prometheus and OpenMetrics.
//!
//! It owns the table of what is exported, under which name and with which labels; `docs/monitoring.md` has the same
//! table, which a test compares. Values of labels come from the configuration, from fixed lists, or are small numbers:
//! never from a peer, so their number is bounded.

use std::fmt::{self, Write as _};
use std::sync::atomic::Ordering;

use hyper::header::HeaderValue;

use super::Counters;
use super::process::Process;
use crate::snapshot::{Child, Connection, Latency, Snapshot};

/// Children that have metrics of their own; those that ought to be up and are not, and those with which something is wrong,
/// come first where there are more.
const MOST_CHILDREN: usize = 5000;

/// The text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus text, version 0.0.4.
    Prometheus,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What a client asks for by `Accept`: OpenMetrics if it names it.
    pub(super) fn wanted(accept: Option<&HeaderValue>) -> Self {
        let names = accept.and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        let named = names.split(',').any(|one| {
            let mut parts = one.split(';').map(str::trim);
            parts.next() == Some("application/openmetrics-text")
                && !parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0)))
        });
        if named { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// All that there is to tell.
struct View<'a> {
    snapshot: &'a Snapshot,
    /// Those that have metrics of their own.
    children: Vec<(&'a Connection, &'a Child)>,
    process: &'a Process,
    http: &'a Counters,
}

/// Metrics of one name.
struct Family {
    /// Counters have `_total` behind it.
    name: &'static str,
    kind: Kind,
    help: &'static str,
    labels: &'static [&'static str],
    samples: fn(&View<'_>, &mut Samples<'_>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Gauge,
    Counter,
    Histogram,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        })
    }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    samples: fn(&View<'_>, &mut Samples<'_>),
) -> Family {
    Family { name, kind: Kind::Gauge, help, labels, samples }
}

const fn counter(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    samples: fn(&View<'_>, &mut Samples<'_>),
) -> Family {
    Family { name, kind: Kind::Counter, help, labels, samples }
}

const fn histogram(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    samples: fn(&View<'_>, &mut Samples<'_>),
) -> Family {
    Family { name, kind: Kind::Histogram, help, labels, samples }
}

const CHILD: &[&str] = &["connection", "child"];

/// All of them. Counts of children are of configured ones; what they carried, whatever SAs it was that carried it.
static FAMILIES: &[Family] = &[
    gauge(
        "adit_build_info",
        "The version of the program, as a label of the value 1.",
        &["version"],
        |v, s| {
            s.put(&[v.snapshot.version], 1_u8);
        },
    ),
    gauge("adit_start_time_seconds", "When the daemon started, in seconds since 1970.", &[], |v, s| {
        s.put(&[], v.snapshot.started.seconds());
    }),
    gauge("adit_configured", "1 if there is a configuration that the system took.", &[], |v, s| {
        s.put(&[], u8::from(v.snapshot.configured));
    }),
    gauge("adit_connections", "Connections that are configured.", &[], |v, s| {
        s.put(&[], v.snapshot.totals.connections);
    }),
    gauge("adit_children_configured", "Children that are configured.", &[], |v, s| {
        s.put(&[], v.snapshot.totals.children);
    }),
    gauge("adit_children_wanted", "Children that ought to be up now.", &[], |v, s| {
        s.put(&[], v.snapshot.totals.wanted);
    }),
    gauge("adit_children_up", "Children that are up, wanted or not.", &[], |v, s| {
        s.put(&[], v.snapshot.totals.up);
    }),
    gauge("adit_children_missing", "Children that ought to be up and are not.", &[], |v, s| {
        s.put(&[], v.snapshot.totals.missing);
    }),
    gauge(
        "adit_children_degraded",
        "Children that are up, but not all of them, not for long, or without traffic.",
        &[],
        |v, s| {
            s.put(&[], v.snapshot.totals.degraded);
        },
    ),
    gauge(
        "adit_children_not_listed",
        "Children without metrics of their own, because there are too many.",
        &[],
        |v, s| {
            s.put(&[], v.snapshot.children().count() - v.children.len());
        },
    ),
    gauge(
        "adit_child_configured",
        "1 if this child is configured, 0 if only its SAs are left.",
        CHILD,
        |v, s| {
            v.each(s, |child| u8::from(child.configured));
        },
    ),
    gauge("adit_child_wanted", "1 if this child ought to be up now.", CHILD, |v, s| {
        v.each(s, |child| u8::from(child.wanted));
    }),
    gauge("adit_child_up", "1 if this child is up, 0 if it is down.", CHILD, |v, s| {
        v.each(s, |child| u8::from(child.up));
    }),
    gauge(
        "adit_child_down_reason",
        "Why this child is not up, as a label of the value 1: the code that `adit explain` gives.",
        &["connection", "child", "reason"],
        |v, s| {
            for (connection, child) in &v.children {
                if let Some(reason) = child.reason {
                    s.put(&[&connection.name, &child.name, reason], 1_u8);
                }
            }
        },
    ),
    gauge(
        "adit_child_degraded_reason",
        "What is wrong with this child though it is up, as a label of the value 1: the code that `adit explain` gives.",
        &["connection", "child", "reason"],
        |v, s| {
            for (connection, child) in v.children.iter().filter(|(_, child)| child.is_degraded()) {
                s.put(&[&connection.name, &child.name, child.explained.code], 1_u8);
            }
        },
    ),
    gauge(
        "adit_child_traffic_verdict",
        "Whether this child carries traffic, as labels of the value 1: the code, and in which direction something is wrong.",
        &["connection", "child", "code", "direction"],
        |v, s| {
            for (connection, child) in &v.children {
                if let Some(health) = &child.health {
                    let direction = health.direction.unwrap_or_default();
                    s.put(&[&connection.name, &child.name, health.code, direction], 1_u8);
                }
            }
        },
    ),
    gauge(
        "adit_child_changed_timestamp_seconds",
        "When this child last came up or went down, in seconds since 1970.",
        CHILD,
        |v, s| {
            v.each_some(s, |child| child.since.map(|at| at.seconds()));
        },
    ),
    gauge(
        "adit_child_next_attempt_timestamp_seconds",
        "When this child is tried next, in seconds since 1970.",
        CHILD,
        |v, s| {
            v.each_some(s, |child| child.next_attempt.map(|at| at.seconds()));
        },
    ),
    gauge(
        "adit_child_failed_attempts",
        "Attempts to bring this child up that failed in a row.",
        CHILD,
        |v, s| {
            v.each(s, |child| child.failures);
        },
    ),
    gauge("adit_child_sas", "SAs of this child.", CHILD, |v, s| {
        v.each(s, |child| child.sas.len());
    }),
    gauge(
        "adit_child_heard_timestamp_seconds",
        "When the peer's last authentic ESP packet arrived on this child, in seconds since 1970.",
        CHILD,
        |v, s| {
            v.each_some(s, |child| child.sas.iter().filter_map(|sa| sa.heard).max().map(|at| at.seconds()));
        },
    ),
    counter("adit_child_ups", "How often this child has come up.", CHILD, |v, s| {
        v.each(s, |child| child.ups);
    }),
    counter("adit_child_rekeys", "How often this child has been given new keys.", CHILD, |v, s| {
        v.each(s, |child| child.rekeys);
    }),
    counter("adit_child_received_bytes", "Octets of inner packets from the peer.", CHILD, |v, s| {
        v.each(s, |child| child.traffic.bytes_in);
    }),
    counter("adit_child_received_packets", "Inner packets from the peer.", CHILD, |v, s| {
        v.each(s, |child| child.traffic.packets_in);
    }),
    counter("adit_child_sent_bytes", "Octets of inner packets to the peer.", CHILD, |v, s| {
        v.each(s, |child| child.traffic.bytes_out);
    }),
    counter("adit_child_sent_packets", "Inner packets to the peer.", CHILD, |v, s| {
        v.each(s, |child| child.traffic.packets_out);
    }),
    counter(
        "adit_child_drops",
        "ESP packets of this child that were dropped; only causes that occurred.",
        &["connection", "child", "cause"],
        |v, s| {
            for (connection, child) in &v.children {
                for drop in &child.drops {
                    s.put(&[&connection.name, &child.name, drop.cause], drop.count);
                }
            }
        },
    ),
    gauge("adit_ike_sas", "IKE SAs that belong to a connection.", &[], |v, s| {
        s.put(&[], v.snapshot.totals.ike_sas);
    }),
    gauge("adit_sas", "Child SAs.", &[], |v, s| {
        s.put(&[], v.snapshot.totals.child_sas);
    }),
    gauge("adit_ike_half_open", "IKE SAs that a peer has begun and not authenticated.", &[], |v, s| {
        s.put(&[], v.snapshot.ike.half_open);
    }),
    counter("adit_ike_messages", "IKE messages handed to the IKE machine.", &[], |v, s| {
        s.put(&[], v.snapshot.ike.received);
    }),
    counter(
        "adit_ike_messages_ignored",
        "IKE messages that changed nothing: malformed, not authentic, repeated or unexpected.",
        &[],
        |v, s| {
            s.put(&[], v.snapshot.ike.ignored);
        },
    ),
    counter("adit_ike_messages_not_authentic", "IKE messages whose integrity check failed.", &[], |v, s| {
        s.put(&[], v.snapshot.ike.not_authentic);
    }),
    counter("adit_ike_retransmissions", "Our requests that were sent once more.", &[], |v, s| {
        s.put(&[], v.snapshot.ike.retransmissions);
    }),
    counter(
        "adit_ike_repeated_requests",
        "Requests of peers that arrived once more and got the same answer.",
        &[],
        |v, s| {
            s.put(&[], v.snapshot.ike.repeated_requests);
        },
    ),
    counter(
        "adit_ike_cookies_demanded",
        "First messages of peers that were answered with a cookie.",
        &[],
        |v, s| {
            s.put(&[], v.snapshot.ike.cookies_demanded);
        },
    ),
    counter(
        "adit_ike_half_open_refused",
        "First messages of peers that were dropped because too much was half-open.",
        &[],
        |v, s| {
            s.put(&[], v.snapshot.ike.half_open_refused);
        },
    ),
    counter("adit_negotiations_succeeded", "Negotiations that succeeded.", &[], |v, s| {
        s.put(&[], v.snapshot.ike.negotiations_succeeded);
    }),
    counter(
        "adit_negotiation_failures",
        "Negotiations that failed, by where and why; only what occurred.",
        &["stage", "code"],
        |v, s| {
            for failures in &v.snapshot.ike.negotiation_failures {
                s.put(&[failures.stage, failures.code], failures.count);
            }
        },
    ),
    counter(
        "adit_negotiation_records_suppressed",
        "Records of negotiations left out because their peer caused too many.",
        &[],
        |v, s| {
            s.put(&[], v.snapshot.ike.records_suppressed);
        },
    ),
    histogram(
        "adit_handshake_duration_seconds",
        "From the first request to the end of IKE_AUTH, by who began.",
        &["role"],
        |v, s| {
            s.histogram(&["initiator"], &v.snapshot.ike.handshakes_begun_by_us);
            s.histogram(&["responder"], &v.snapshot.ike.handshakes_begun_by_peers);
        },
    ),
    histogram(
        "adit_rekey_duration_seconds",
        "From our request for new keys until they are in use, by what was rekeyed.",
        &["sa"],
        |v, s| {
            s.histogram(&["child"], &v.snapshot.ike.child_rekeys);
            s.histogram(&["ike"], &v.snapshot.ike.ike_rekeys);
        },
    ),
    gauge(
        "adit_inbox_bytes",
        "IKE messages that wait for the event loop, in octets of memory; beyond 4 MiB they are dropped.",
        &[],
        |v, s| {
            s.put(&[], v.snapshot.ike.inbox_octets);
        },
    ),
    counter(
        "adit_inbox_dropped",
        "IKE messages dropped because too many waited for the event loop.",
        &[],
        |v, s| {
            s.put(&[], v.snapshot.ike.inbox_dropped);
        },
    ),
    gauge("adit_commands_pending", "Commands of operators that are under way.", &[], |v, s| {
        s.put(&[], v.snapshot.ike.commands_pending);
    }),
    gauge("adit_workers", "Packet workers.", &[], |v, s| {
        s.put(&[], v.snapshot.data_plane.workers);
    }),
    counter("adit_worker_cpu_seconds", "Processor time of a packet worker.", &["worker"], |v, s| {
        for (number, seconds) in v.process.worker_seconds.iter().enumerate() {
            s.put(&[&number.to_string()], *seconds);
        }
    }),
    counter(
        "adit_drops",
        "Packets dropped outside any one SA, by cause; `overload` and `queue-full` are full queues.",
        &["cause"],
        |v, s| {
            for drop in &v.snapshot.data_plane.drops {
                s.put(&[drop.cause], drop.count);
            }
        },
    ),
    counter(
        "adit_fenced_packets",
        "Packets that were stopped because they were in the clear and a policy protects them.",
        &["direction"],
        |v, s| {
            s.put(&["in"], v.snapshot.data_plane.fenced_in);
            s.put(&["out"], v.snapshot.data_plane.fenced_out);
        },
    ),
    counter("adit_ike_datagrams_received", "IKE messages that the packet workers received.", &[], |v, s| {
        s.put(&[], v.snapshot.data_plane.ike_received);
    }),
    counter("adit_nat_keepalives_received", "NAT keepalives of peers.", &[], |v, s| {
        s.put(&[], v.snapshot.data_plane.keepalives_received);
    }),
    counter("adit_xdp_frames", "ESP packets that went by AF_XDP.", &["direction"], |v, s| {
        s.put(&["in"], v.snapshot.data_plane.frames_received);
        s.put(&["out"], v.snapshot.data_plane.frames_sent);
    }),
    gauge("adit_control_clients", "Clients of the control interface.", &[], |v, s| {
        s.put(&[], v.snapshot.control.connected);
    }),
    counter(
        "adit_control_clients_refused",
        "Clients of the control interface that were one too many.",
        &[],
        |v, s| {
            s.put(&[], v.snapshot.control.refused);
        },
    ),
    counter(
        "adit_control_clients_stuck",
        "Clients of the control interface that were let go because they did not read.",
        &[],
        |v, s| {
            s.put(&[], v.snapshot.control.stuck);
        },
    ),
    gauge("adit_http_clients", "Clients of this HTTP service.", &[], |v, s| {
        s.put(&[], v.http.connected.load(Ordering::Relaxed));
    }),
    counter("adit_http_requests", "Requests to this HTTP service.", &[], |v, s| {
        s.put(&[], v.http.requests.load(Ordering::Relaxed));
    }),
    counter(
        "adit_http_clients_refused",
        "Clients of this HTTP service that were one too many.",
        &[],
        |v, s| {
            s.put(&[], v.http.refused.load(Ordering::Relaxed));
        },
    ),
    counter(
        "adit_http_clients_stuck",
        "Clients of this HTTP service that were let go because they did not read.",
        &[],
        |v, s| {
            s.put(&[], v.http.stuck.load(Ordering::Relaxed));
        },
    ),
    gauge(
        "adit_snapshot_seconds",
        "What the snapshot behind these metrics cost the event loop.",
        &[],
        |v, s| {
            s.put(&[], v.snapshot.cost.as_secs_f64());
        },
    ),
    counter("process_cpu_seconds", "Processor time of the whole process.", &[], |v, s| {
        v.process.cpu_seconds.into_iter().for_each(|seconds| s.put(&[], seconds));
    }),
    gauge("process_resident_memory_bytes", "Memory of the process that is resident.", &[], |v, s| {
        v.process.resident_bytes.into_iter().for_each(|octets| s.put(&[], octets));
    }),
    gauge("process_open_fds", "Files, sockets and pipes that the process holds open.", &[], |v, s| {
        v.process.open_files.into_iter().for_each(|files| s.put(&[], files));
    }),
];

impl View<'_> {
    fn each<N: Number>(&self, samples: &mut Samples<'_>, value: fn(&Child) -> N) {
        for (connection, child) in &self.children {
            samples.put(&[&connection.name, &child.name], value(child));
        }
    }

    fn each_some(&self, samples: &mut Samples<'_>, value: fn(&Child) -> Option<f64>) {
        for (connection, child) in &self.children {
            if let Some(value) = value(child) {
                samples.put(&[&connection.name, &child.name], value);
            }
        }
    }
}

/// A snapshot in a format.
pub(super) fn render(snapshot: &Snapshot, process: &Process, http: &Counters, format: Format) -> String {
    let place = |child: &Child| (!child.wanted || child.up, !child.is_degraded());
    let mut children: Vec<_> = snapshot.children().collect();
    if children.len() > MOST_CHILDREN {
        children.sort_by_key(|(_, child)| place(child));
        children.truncate(MOST_CHILDREN);
    }
    let view = View { snapshot, children, process, http };
    let mut text = String::new();
    for family in FAMILIES {
        let Family { name, kind, help, .. } = family;
        // The older format knows the samples of a counter by their whole name.
        let suffix = match (kind, format) {
            (Kind::Counter, Format::Prometheus) => "_total",
            _ => "",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "# HELP {name}{suffix} {}",
            Escaped { text: help, quotes: format == Format::OpenMetrics }
        );
        let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        if let (Format::OpenMetrics, Some(unit)) = (format, unit(name)) {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
        (family.samples)(&view, &mut Samples { family, text: &mut text });
    }
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

/// The unit that a name ends in.
fn unit(name: &str) -> Option<&'static str> {
    ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(&format!("_{unit}")))
}

/// Where the samples of a family go.
struct Samples<'a> {
    family: &'static Family,
    text: &'a mut String,
}

impl Samples<'_> {
    fn put(&mut self, values: &[&str], value: impl Number) {
        let suffix = if self.family.kind == Kind::Counter { "_total" } else { "" };
        self.line(suffix, values, None, value);
    }

    fn histogram(&mut self, values: &[&str], latency: &Latency) {
        let mut total = 0;
        for (class, count) in latency.classes.iter().enumerate() {
            total += count;
            let bound = if class < adit_ike::Histogram::CLASSES {
                adit_ike::Histogram::bound(class).as_secs_f64().text()
            } else {
                "+Inf".to_owned()
            };
            self.line("_bucket", values, Some(&bound), total);
        }
        self.line("_sum", values, None, latency.sum_seconds);
        self.line("_count", values, None, total);
    }

    fn line(&mut self, suffix: &str, values: &[&str], bound: Option<&str>, value: impl Number) {
        self.text.push_str(self.family.name);
        self.text.push_str(suffix);
        let labels = self.family.labels.iter().zip(values).map(|(name, value)| (*name, *value));
        let mut before = '{';
        for (name, value) in labels.chain(bound.map(|bound| ("le", bound))) {
            let _ = write!(self.text, "{before}{name}=\"{}\"", Escaped { text: value, quotes: true });
            before = ',';
        }
        if before == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {}", value.text());
    }
}

/// A text inside a line: of a label, where quotes are escaped as well, or of a help.
struct Escaped<'a> {
    text: &'a str,
    quotes: bool,
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.chars().try_for_each(|character| match character {
            '\\' => f.write_str("\\\\"),
            '\n' => f.write_str("\\n"),
            '"' if self.quotes => f.write_str("\\\""),
            other => f.write_char(other),
        })
    }
}

/// The value of a sample.
trait Number {
    fn text(&self) -> String;
}

macro_rules! whole {
    ($($kind:ty),*) => {
        $(impl Number for $kind {
            fn text(&self) -> String {
                self.to_string()
            }
        })*
    };
}

whole!(u8, u32, u64, usize);

impl Number for f64 {
    /// With a point, as the bounds of histograms must have one.
    fn text(&self) -> String {
        format!("{self:?}")
    }
}

/// The table of `docs/monitoring.md`, in Markdown.
#[must_use]
pub fn manual() -> String {
    let mut text = "| Metric | Kind | Labels | Meaning |\n|---|---|---|---|\n".to_owned();
    for Family { name, kind, help, labels, .. } in FAMILIES {
        let suffix = if *kind == Kind::Counter { "_total" } else { "" };
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(text, "| `{name}{suffix}` | {kind} | {} | {help} |", labels.join(", "));
    }
    text
}
