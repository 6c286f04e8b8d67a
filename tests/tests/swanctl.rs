//! Debian's unmodified `swanctl` against an Adit without a file of its own, and against strongSwan's own daemon: the same
//! configuration, the same peer, the same commands; what they print is compared field by field.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use adit_lab::adit::Adit;
use adit_lab::lab::{Family, Lab, Side, Topology, with_lab};
use adit_lab::peer::{Connection, raw_events};
use adit_lab::process::{Process, eventually, run};
use adit_lab::strongswan::{StrongSwan, copy_of};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

const PROPOSALS: (&str, &str) = ("aes256-sha256-prfsha256-ecp256", "aes128-sha256");

fn connection(side: Side) -> Connection {
    // strongSwan's userspace ESP is always in UDP.
    Connection { encap: true, ..Connection::new(side, Family::V4, PROPOSALS.0, PROPOSALS.1) }
}

/// `swanctl` at side A.
type Swanctl<'a> = &'a dyn Fn(&[&str]) -> Command;

/// A whole life, command by command; what each has printed.
fn life(lab: &Lab, who: &str, swanctl: Swanctl<'_>) -> Result<BTreeMap<&'static str, String>> {
    let mut printed = BTreeMap::new();
    let say =
        |arguments: &[&str]| run(&mut swanctl(arguments)).with_context(|| format!("{who}: {arguments:?}"));
    // Clean, again, and with credentials that go and come back.
    for more in [None, None, Some("--clear")] {
        let mut arguments = vec!["--load-all", "--noprompt"];
        arguments.extend(more);
        let text = say(&arguments)?;
        ensure!(text.contains("successfully loaded 1 connections, 0 unloaded"), "{who}: {text}");
    }
    printed.insert("list-conns", say(&["--list-conns", "--raw"])?);
    say(&["--install", "--ike", "gw", "--child", "net"])?;
    printed.insert("list-pols", say(&["--list-pols", "--raw"])?);
    say(&["--uninstall", "--ike", "gw", "--child", "net"])?;

    let watch = |name: &str, argument: &str| {
        Process::spawn(&format!("{who}-{name}"), &mut by_line(&swanctl(&[argument])), lab.dir())
    };
    let (log, monitor) = (watch("log", "--log")?, watch("monitor", "--monitor-sa")?);
    eventually("both to watch", Duration::from_secs(10), || {
        // Whoever has registered hears of an attempt that fails at once.
        let failed = swanctl(&["--initiate", "--child", "none"]).output()?;
        ensure!(!failed.status.success(), "{who}: a child that does not exist was initiated");
        say(&["--initiate", "--ike", "gw", "--child", "net", "--timeout", "20"])?;
        let heard = monitor.output().contains("gw") && !log.output().trim().is_empty();
        if !heard {
            say(&["--terminate", "--ike", "gw"])?;
        }
        Ok(heard.then_some(()))
    })?;
    lab.ping(Side::A, Family::V4, 2)?;
    for (name, arguments) in [
        ("list-sas", &["--list-sas", "--raw"][..]),
        ("list-certs", &["--list-certs"]),
        ("list-pools", &["--list-pools"]),
        ("list-authorities", &["--list-authorities"]),
        ("stats", &["--stats"]),
        ("list-algs", &["--list-algs"]),
        ("counters", &["--counters"]),
        ("pretty", &["--list-sas", "--pretty"]),
        ("sas", &["--list-sas"]),
    ] {
        printed.insert(name, say(arguments)?);
    }
    say(&["--flush-certs"])?;
    say(&["--counters", "--reset"])?;
    say(&["--rekey", "--child", "net"])?;
    say(&["--rekey", "--ike", "gw"])?;
    eventually("both to be rekeyed", Duration::from_secs(15), || {
        let counters = say(&["--counters"])?;
        let some = |name: &str| {
            let line = counters.lines().find(|line| counter(line) == name);
            line.and_then(|line| line.split_whitespace().last()?.parse().ok())
                .is_some_and(|count: u64| count > 0)
        };
        Ok((some("ike-rekey-init") && some("child-rekey")).then_some(()))
    })?;
    say(&["--terminate", "--ike", "gw", "--timeout", "10"])?;
    let rest = say(&["--list-sas"])?;
    ensure!(rest.trim().is_empty(), "{who}: {rest}");
    Ok(printed)
}

/// The same command, which does not wait with what it prints until it is much.
fn by_line(command: &Command) -> Command {
    let mut line_buffered = Command::new("stdbuf");
    line_buffered.arg("-oL").arg(command.get_program()).args(command.get_args());
    line_buffered.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    line_buffered
}

/// The name at the begin of a line of `--counters`.
fn counter(line: &str) -> &str {
    let line = line.trim();
    line.split(|c: char| c != '-' && !c.is_ascii_lowercase()).next().unwrap_or(line)
}

/// `path = value` of all events of a raw output.
fn fields(raw: &str) -> Result<BTreeMap<String, String>> {
    fn walk(path: &str, value: &Value, into: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(section) => {
                for (name, value) in section {
                    // A number behind the name is the SA's own.
                    let name = name.trim_end_matches(|c: char| c.is_ascii_digit());
                    walk(&format!("{path}/{name}"), value, into);
                }
            }
            other => drop(into.insert(path.to_owned(), other.to_string())),
        }
    }
    let mut all = BTreeMap::new();
    for event in raw_events(raw)? {
        walk("", &event, &mut all);
    }
    Ok(all)
}

/// Numbers, whatever they are, and hexadecimal ones.
fn form(value: &str) -> String {
    let hexadecimal = value.trim_matches('"').chars().all(|c| c.is_ascii_hexdigit());
    if hexadecimal { "a number".to_owned() } else { value.to_owned() }
}

/// Values that differ from SA to SA, and need not differ in form.
const BY_FORM: &[&str] = &[
    "uniqueid",
    "reqid",
    "initiator-spi",
    "responder-spi",
    "spi-in",
    "spi-out",
    "established",
    "rekey-time",
    "life-time",
    "install-time",
    "bytes-in",
    "bytes-out",
    "packets-in",
    "packets-out",
    "use-in",
    "use-out",
];

/// What only Adit tells, and what depends on who fakes a NAT.
const OWN: &[&str] = &[
    "mobike",
    "life-time",
    "start_action",
    "interface",
    "local_port",
    "remote_port",
    "nat-local",
    "nat-remote",
    "nat-fake",
    "nat-any",
];

fn compare(what: &str, ours: &str, theirs: &str) -> Result<()> {
    let (ours, theirs) = (fields(ours)?, fields(theirs)?);
    ensure!(!theirs.is_empty(), "{what}: strongSwan says nothing");
    let mut differences = Vec::new();
    let key = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    for path in ours.keys().chain(theirs.keys()) {
        let name = key(path);
        let differ = match (ours.get(path), theirs.get(path)) {
            (Some(one), Some(other)) if BY_FORM.contains(&name.as_str()) => form(one) != form(other),
            (Some(one), Some(other)) => one != other && !OWN.contains(&name.as_str()),
            _ => !OWN.contains(&name.as_str()),
        };
        if differ {
            differences.push(format!("{path}: ours {:?}, theirs {:?}", ours.get(path), theirs.get(path)));
        }
    }
    ensure!(
        differences.is_empty(),
        "{what} differs:\n{}\nours {ours:#?}\ntheirs {theirs:#?}",
        differences.join("\n")
    );
    Ok(())
}

/// The first words of lines.
fn heads(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

#[test]
fn swanctl_does_with_adit_what_it_does_with_strongswan() -> Result<()> {
    with_lab("swanctl-all", Topology::default(), |lab| {
        let _peer = StrongSwan::start(lab, Side::B, &connection(Side::B))?;
        let ours = {
            let adit = Adit::start_bare(lab, Side::A)?;
            let dir = lab.dir().join("swanctl-a");
            std::fs::create_dir_all(&dir)?;
            let program = copy_of("swanctl", "strongswan-swanctl", &dir)?;
            std::fs::write(dir.join("empty.conf"), "")?;
            std::fs::write(dir.join("swanctl.conf"), connection(Side::A).render())?;
            let swanctl = |arguments: &[&str]| {
                let mut command = Command::new(&program);
                command.env("STRONGSWAN_CONF", dir.join("empty.conf")).env("SWANCTL_DIR", &dir);
                command.args(arguments).args(["--uri", adit.control()]);
                command
            };
            let printed = life(lab, "adit", &swanctl)?;
            // An empty file unloads what was loaded.
            std::fs::write(dir.join("swanctl.conf"), "")?;
            run(&mut swanctl(&["--load-all", "--noprompt"]))?;
            let left = run(&mut swanctl(&["--list-conns"]))?;
            ensure!(left.trim().is_empty(), "{left}");
            adit.terminate_daemon()?;
            printed
        };
        let strongswan = StrongSwan::start(lab, Side::A, &connection(Side::A))?;
        let theirs = life(lab, "strongswan", &|arguments| strongswan.swanctl_command(arguments))?;
        let both = |name: &str| -> Result<(&String, &String)> {
            Ok((ours.get(name).context("ours")?, theirs.get(name).context("theirs")?))
        };
        for name in ["list-conns", "list-sas", "list-pols"] {
            let (ours, theirs) = both(name)?;
            compare(name, ours, theirs)?;
        }
        for name in ["list-certs", "list-pools", "list-authorities"] {
            let (ours, theirs) = both(name)?;
            ensure!(ours.trim() == theirs.trim(), "{name}: {ours:?} {theirs:?}");
        }
        // One tunnel more or less while the watchers register changes how often, not what is counted.
        let names =
            |text: &str| -> Vec<String> { text.lines().map(|line| counter(line).to_owned()).collect() };
        let (ours, theirs) = both("counters")?;
        ensure!(names(ours) == names(theirs) && names(ours).len() >= 21, "{ours}\n{theirs}");
        let (ours, theirs) = both("stats")?;
        let theirs: Vec<String> = heads(theirs).into_iter().filter(|head| head != "mallinfo").collect();
        ensure!(heads(ours) == theirs, "{ours}\n{theirs:?}");
        let (ours, theirs) = both("list-algs")?;
        for algorithm in
            ["AES_CBC", "AES_GCM_16", "HMAC_SHA2_256_128", "PRF_HMAC_SHA2_256", "ECP_256", "CURVE_25519"]
        {
            ensure!(ours.contains(algorithm) && theirs.contains(algorithm), "{algorithm}: {ours}\n{theirs}");
        }
        Ok(())
    })
}
