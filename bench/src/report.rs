//! The results of a run as the tables of `docs/performance.md`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use adit_lab::process::tell;
use anyhow::{Context, Result};

use crate::contenders::Contender;
use crate::results::{self, Results, Spread};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The file with the results.
    #[arg(long, default_value = results::DEFAULT)]
    results: PathBuf,
    /// Put the tables into this document too.
    #[arg(long)]
    write: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let results = Results::read(&options.results)?;
    let text = format!("{}\n{}\n{}", facts(&results), claims_table(&results), contenders_table(&results));
    tell(&text);
    options.write.as_ref().map_or(Ok(()), |document| replace(document, "measured", &text))
}

/// Puts text into a document, between the lines that name its place.
pub(crate) fn replace(document: &Path, place: &str, text: &str) -> Result<()> {
    let old = std::fs::read_to_string(document)?;
    let (start, end) = (format!("<!-- {place}: start -->\n"), format!("<!-- {place}: end -->"));
    let (before, rest) = old.split_once(&start).context("no place for it in the document")?;
    let (_, after) = rest.split_once(&end).context("no end of its place in the document")?;
    Ok(std::fs::write(document, format!("{before}{start}\n{text}\n{end}{after}"))?)
}

fn facts(results: &Results) -> String {
    let fact = |name: &str| results.fact(name).unwrap_or("unknown");
    let rounds = results.spread("adit", "tcp1").map_or(0, |spread| spread.count);
    format!(
        "{}, {} rounds, commit {}, on {}, Linux {}.\n",
        fact("date"),
        rounds,
        fact("commit"),
        fact("machine"),
        fact("kernel")
    )
}

/// A share above this says that something else ran on the machine.
const NOISE: f64 = 1.05;

/// What one row of the table of twelve claims.
struct Claim {
    row: &'static str,
    what: String,
    measured: Option<f64>,
    must: f64,
    goal: f64,
    unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Unit {
    /// The more the better.
    Times,
    Percent,
    Megapackets,
    /// The less the better.
    Microseconds,
    Octets,
    Load,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Times => format!("{value:.2}x"),
            Self::Percent => format!("{:.0} %", value * 100.0),
            Self::Megapackets => format!("{value:.2} Mpps"),
            Self::Microseconds => format!("{value:.0} µs"),
            Self::Octets => format!("{value:.0} octets"),
            Self::Load => format!("{:.2} %", value * 100.0),
        }
    }

    fn reached(self, value: f64, aim: f64) -> bool {
        match self {
            Self::Times | Self::Percent | Self::Megapackets => value >= aim,
            Self::Microseconds | Self::Octets | Self::Load => value <= aim,
        }
    }
}

impl Claim {
    fn outcome(&self) -> &'static str {
        match self.measured {
            None => "not measured",
            // What is more can only cost more. These are shares of what is less.
            Some(value) if self.unit == Unit::Percent && value > NOISE => "**noise: run again**",
            Some(value) if self.unit.reached(value, self.goal) => "goal",
            Some(value) if self.unit.reached(value, self.must) => "must",
            Some(_) => "**missed**",
        }
    }
}

fn claims(results: &Results) -> Vec<Claim> {
    let median = |subject: &str, measure: &str| results.spread(subject, measure).map(|spread| spread.median);
    let mut claims = Vec::new();
    let mut claim = |row, what: &str, measured, must, goal, unit| {
        claims.push(Claim { row, what: what.to_owned(), measured, must, goal, unit });
    };
    let tcp1 = |by| results.ratio("tcp1", "adit", by);
    claim("1", "TCP, one stream, against plain routing", tcp1("plain"), 0.50, 0.65, Unit::Percent);
    for (by, must, goal) in [
        ("wireguard-go", 2.5, 3.3),
        ("gotatun", 8.0, 11.0),
        ("openvpn", 10.0, 13.0),
        ("strongswan", 14.0, 20.0),
        ("strongswan-debian", 14.0, 20.0),
    ] {
        claim("2", &format!("the same, against {by}"), tcp1(by), must, goal, Unit::Times);
    }
    let tcp8 = results.ratio("tcp8", "adit", "wireguard-go");
    claim("3", "TCP, eight streams, against wireguard-go", tcp8, 3.0, 4.0, Unit::Times);
    let chacha = results.ratio("tcp1", "adit-chacha", "wireguard-go");
    claim("4", "ChaCha20-Poly1305, one stream, against wireguard-go", chacha, 1.5, 2.0, Unit::Times);
    for (by, must, goal) in [("wireguard-go", 2.0, 2.8), ("gotatun", 8.0, 11.0)] {
        let ratio = results.ratio("udp64", "adit", by);
        let what = format!("UDP of 64 octets from a batching sender, against {by}");
        claim("5", &what, ratio, must, goal, Unit::Times);
    }
    let added = |subject: &str| Some(median(subject, "rtt")? - median("plain", "rtt")?);
    let best = PEERS.iter().filter_map(|peer| added(peer.name())).min_by(f64::total_cmp).unwrap_or(f64::NAN);
    claim(
        "6",
        "round trip of 64 octets, added to plain routing",
        added("adit"),
        best,
        10.0,
        Unit::Microseconds,
    );
    let of = |measure: &str| median("memory", measure);
    let what = "seal + open in memory, 1,420 octets, against the library";
    claim("7", what, of("share-1420"), 0.90, 0.97, Unit::Percent);
    claim("7", "the same, 64 octets", of("share-64"), 0.70, 0.80, Unit::Percent);
    for (count, what, must, goal) in [
        (10_000, "10,000 SAs hit at random, 64 octets, against one SA", 0.80, 0.92),
        (100_000, "100,000 SAs", 0.40, 0.60),
    ] {
        let share = results.ratio(&format!("any-{count}"), &format!("sas-{count}"), "sas-1");
        claim("8", what, share, must, goal, Unit::Percent);
        let alone = format!("{what}: the engine alone, in memory");
        claim("8", &alone, of(&format!("sas-{count}")), must, goal, Unit::Percent);
    }
    for (flows, what) in [(16, "1,000 policies against one, 16 steady flows"), (256, "256 steady flows")] {
        let share = results.ratio(&format!("flows-{flows}"), "sas-1000", "sas-1");
        claim("9", what, share, 0.90, 0.95, Unit::Percent);
        let alone = format!("{what}: the engine alone, in memory");
        claim("9", &alone, of(&format!("policies-{flows}")), 0.90, 0.95, Unit::Percent);
    }
    claim("10", "memory of an SA pair in use", of("pair"), 2048.0, 1331.0, Unit::Octets);
    for (subject, how) in [("adit-xdp", "AF_XDP"), ("adit-raw", "raw sockets")] {
        let rate = |measure| median(subject, measure).map(|rate| rate / 1e6);
        let what = format!("raw ESP, 1,400 octets, {how}: sent by one worker");
        claim("11", &what, rate("sent"), 0.35, 0.5, Unit::Megapackets);
        let what = "the same, received through both gateways on the two cores";
        claim("11", what, rate("received"), 0.35, 0.5, Unit::Megapackets);
    }
    for role in ["initiator", "responder"] {
        let what = format!("1,000 idle tunnels, share of a core, {role}");
        claim("12", &what, median(role, "idle"), 0.01, 0.003, Unit::Load);
        let what = format!("the same, liveness asked every 30 s, {role}");
        claim("12", &what, median(role, "idle-dpd"), 0.01, 0.003, Unit::Load);
    }
    claims
}

/// Other people's.
const PEERS: [Contender; 6] = [
    Contender::WireguardGo,
    Contender::Gotatun,
    Contender::Boringtun,
    Contender::Openvpn,
    Contender::Strongswan,
    Contender::StrongswanDebian,
];

fn claims_table(results: &Results) -> String {
    let mut text = "| # | | measured | must | goal | reached |\n|---|---|---|---|---|---|\n".to_owned();
    for claim in claims(results) {
        let measured = claim.measured.map_or_else(String::new, |value| claim.unit.show(value));
        let (must, goal) = (claim.unit.show(claim.must), claim.unit.show(claim.goal));
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {} | {} | {measured} | {must} | {goal} | {} |",
            claim.row,
            claim.what,
            claim.outcome()
        );
    }
    text
}

fn contenders_table(results: &Results) -> String {
    let mut text = "| | TCP, 1 stream, Gbit/s | its share of plain | Adit by it | TCP, 8 streams | TCP, reverse | round \
                    trip, µs | 99 % | UDP of 64 octets, kpps |\n|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    let show = |spread: Option<Spread>, scale: f64, digits: usize| {
        spread.map_or_else(String::new, |spread| {
            let Spread { least, median, most, .. } = spread;
            let [least, median, most] = [least, median, most].map(|value| value / scale);
            format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
        })
    };
    for contender in Contender::ALL {
        let name = contender.name();
        let of = |measure: &str| results.spread(name, measure);
        let version = results.fact(&format!("version of {name}")).unwrap_or_default();
        let who = match contender {
            Contender::Plain | Contender::Adit | Contender::AditChacha => contender.describe().to_owned(),
            _ => format!("{version}, {}", contender.describe()),
        };
        let share = results
            .ratio("tcp1", name, "plain")
            .map_or_else(String::new, |ratio| format!("{:.1} %", ratio * 100.0));
        let by = results.ratio("tcp1", "adit", name).map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {who} | {} | {share} | {by} | {} | {} | {} | {} | {} |",
            show(of("tcp1"), 1.0, 2),
            show(of("tcp8"), 1.0, 2),
            show(of("tcp1r"), 1.0, 2),
            show(of("rtt"), 1.0, 0),
            show(of("rtt99"), 1.0, 0),
            show(of("udp64"), 1e3, 0),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reached_is_told() {
        let results: Results =
            "plain tcp1 10\nadit tcp1 6\nplain rtt 30\nadit rtt 38\ngotatun rtt 70\nopenvpn rtt 60\n\
                                adit-xdp sent 300000\nsas-1000 flows-16 169\nsas-1 flows-16 100"
                .parse()
                .unwrap();
        let claims = claims(&results);
        let of = |row: &str| claims.iter().find(|claim| claim.row == row).unwrap();
        assert_eq!(of("1").outcome(), "must");
        assert_eq!((of("6").outcome(), of("6").must, of("6").measured), ("goal", 30.0, Some(8.0)));
        assert_eq!(of("11").outcome(), "**missed**");
        assert_eq!(of("9").outcome(), "**noise: run again**");
        assert_eq!(of("12").outcome(), "not measured");
    }
}
