//! What the commands of `adit` say and do with a running daemon, what it logs, and what it tells the service manager.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use adit_lab::adit::{Adit, Settings, program};
use adit_lab::lab::{FAMILIES, Family, Lab, Node, SIDES, Side, Topology, with_lab};
use adit_lab::peer::{Connection, Peer};
use adit_lab::process::{Process, Signal, eventually, read_lossy, run, run_unchecked};
use adit_lab::scapy::script;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

const SOON: Duration = Duration::from_secs(15);

/// Runs a command of the daemon's; its exit status, and what it writes to both outputs.
fn adit(daemon: &Adit, arguments: &[&str]) -> Result<(i32, String)> {
    let output = run_unchecked(daemon.command().args(arguments))?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code().context("an end by a signal")?, String::from_utf8_lossy(&text).into_owned()))
}

/// The same, which has to end with this status.
fn ends_with(daemon: &Adit, status: i32, arguments: &[&str]) -> Result<String> {
    let (code, text) = adit(daemon, arguments)?;
    ensure!(code == status, "adit {arguments:?} ended with {code}: {text}");
    ensure!(
        arguments.contains(&"--json") || text.lines().all(|line| line.chars().count() <= 100),
        "too wide: {text}"
    );
    Ok(text)
}

/// Lines of JSON, each of which says first which form it has.
fn objects(text: &str) -> Result<Vec<Value>> {
    text.lines()
        .map(|line| {
            ensure!(line.starts_with("{\"schema\":1,"), "{line}");
            Ok(serde_json::from_str(line)?)
        })
        .collect()
}

#[test]
fn a_tunnel_as_the_commands_show_it() -> Result<()> {
    with_lab("commands", Topology::default(), |lab| {
        let connection = |side| Connection {
            extra: "dpd_delay = 1s".into(),
            ..Connection::new(side, Family::V4, "aes256gcm16-prfsha384-x25519", "aes256gcm16")
        };
        let b = Adit::start(lab, Side::B, &connection(Side::B))?;
        let settings = Settings { key_log: true, extra: "log = debug".into(), ..Settings::default() };
        let a = Adit::start_with(lab, Side::A, &connection(Side::A), &settings)?;

        // Exit statuses: down, a mistake, up.
        ends_with(&a, 1, &["status"])?;
        ends_with(&a, 3, &["up", "nothing"])?;
        ends_with(&a, 3, &["top", "--nonsense"])?;
        let events = Process::spawn("events", a.command().args(["events", "--follow", "--json"]), lab.dir())?;
        let log = Process::spawn("log", a.command().args(["log", "--json"]), lab.dir())?;
        a.initiate()?;
        for family in FAMILIES {
            lab.ping(Side::A, family, 2)?;
        }
        ends_with(&a, 0, &["status"])?;
        let told = |what: &str| {
            Ok((events.output().contains(what) && log.output().contains("rekeyed")).then_some(()))
        };
        eventually("events and log to tell of a rekeying", SOON, || {
            run(a.command().args(["rekey", "net"]))?;
            told("\"event\":\"child-rekey\"")
        })?;
        objects(&events.output())?;
        ensure!(objects(&log.output())?.iter().all(|line| line["level"] == "info"), "{}", log.output());

        let past = ends_with(&a, 0, &["events"])?;
        ensure!(past.trim() == "no negotiation has failed, and none was narrowed", "{past}");
        let top = ends_with(&a, 0, &["top"])?;
        ensure!(top.lines().any(|line| line.starts_with("gw/net ") && line.contains(" up ")), "{top}");
        let top = objects(&ends_with(&a, 0, &["top", "--json"])?)?;
        let tunnel = &top[0]["tunnels"][0];
        ensure!(tunnel["name"] == "gw/net" && tunnel["state"] == "up", "{top:?}");

        let mut terminal = script(lab, Side::A.gateway(), "terminal.py")?;
        let terminal = run(terminal.arg("gw/net").arg(program()?).args(["--control", a.control(), "top"]))?;
        let lines: Vec<&str> = terminal.lines().collect();
        ensure!(lines.first() == Some(&"same") && lines.get(1) == Some(&"0"), "{terminal}");
        ensure!(lines.get(2).is_some_and(|end| end.contains("\\x1b[?25h\\x1b[?1049l")), "{terminal}");

        applied(lab, &a)?;
        let mut manual = Manual::read()?;
        for (command, lines) in [("events", events.output()), ("log", log.output())] {
            objects(&lines)?.iter().try_for_each(|line| manual.compare(command, line))?;
        }
        every_command_says_how_it_ended(lab, &a, manual)?;
        nothing_secret_is_told(lab, &a)?;
        ends_with(&a, 0, &["down", "gw"])?;
        ends_with(&a, 1, &["status"])?;
        a.terminate_daemon()?;
        b.terminate_daemon()
    })
}

/// `diff` touches nothing, `apply` what it says, and without `confirm` all of it is undone.
fn applied(lab: &Lab, a: &Adit) -> Result<()> {
    let before = std::fs::read_to_string(a.config())?;
    let other = lab.dir().join("other.conf");
    let more = "net { replay_window = 64\n";
    let second = "second {\n local_ts = 10.77.0.0/16\n remote_ts = 10.78.0.0/16\n }\n";
    ensure!(before.contains(" net {"), "{before}");
    std::fs::write(&other, before.replacen(" net {", &format!(" {second} {more}"), 1))?;
    let other = other.to_str().context("a path")?;
    let number = || -> Result<String> {
        let sas = a.sas()?;
        let child = sas.iter().flat_map(|sa| &sa.children).next().context("a child")?;
        Ok(child.value("uniqueid")?.to_owned())
    };
    let before_diff = number()?;

    ensure!(ends_with(a, 0, &["diff"])?.trim() == "nothing would change", "the file is in force");
    let text = ends_with(a, 0, &["diff", other])?;
    let expected = format!("added gw/second\nchanged gw/net\nwould end gw/net{{{before_diff}}}");
    ensure!(text.trim() == expected, "{text}");
    let json = objects(&ends_with(a, 0, &["diff", "--json", other])?)?;
    let added = json.first().and_then(|object| object.pointer("/added/0"));
    ensure!(added == Some(&Value::from("gw/second")), "{json:?}");
    ensure!(number()? == before_diff, "diff touched it");

    let has_second = || Ok::<_, anyhow::Error>(adit(a, &["status", "--json"])?.1.contains("\"second\""));
    ends_with(a, 0, &["apply", "--confirm", "2", other])?;
    ensure!(has_second()?, "nothing was applied");
    // Neither another configuration nor a reload comes between, and the file does not matter for the way back.
    std::fs::write(a.config(), "connections {")?;
    ends_with(a, 1, &["apply", other])?;
    ends_with(a, 1, &["reload"])?;
    eventually("the configuration before", SOON, || Ok((!has_second()?).then_some(())))?;
    ends_with(a, 1, &["confirm"])?;
    std::fs::write(a.config(), &before)?;
    ensure!(ends_with(a, 0, &["diff"])?.trim() == "nothing would change", "not all of it is undone");

    ends_with(a, 0, &["apply", "--confirm", "600", other])?;
    ends_with(a, 0, &["confirm"])?;
    ensure!(has_second()?, "what is confirmed stays");
    ends_with(a, 0, &["apply"])?;
    ensure!(!has_second()?, "the daemon's own file is in force again");
    ends_with(a, 3, &["apply", "/nonexistent.conf"])?;
    ends_with(a, 3, &["diff", "/nonexistent.conf"])?;
    a.initiate().map(drop)
}

/// Every command in words and in JSON: at most 100 columns wide, or as the manual says; and its exit status.
fn every_command_says_how_it_ended(lab: &Lab, a: &Adit, mut manual: Manual) -> Result<()> {
    let path = |name: &str| lab.dir().join(name).display().to_string();
    let (file, other, broken) = (a.config().display().to_string(), path("more.conf"), path("broken.conf"));
    let before = std::fs::read_to_string(a.config())?;
    let more = "second {\n local_ts = 10.77.0.0/16\n remote_ts = 10.78.0.0/16\n }\n \
                clear {\n mode = pass\n start_action = trap\n local_ts = 10.91.0.0/16\n remote_ts = 10.92.0.0/16\n }\n";
    // A secret that everybody may read is worth a warning.
    std::fs::write(&other, before.replacen(" net {", &format!(" {more} net {{"), 1))?;
    let long = "a-name-that-nobody-reads-".repeat(10);
    std::fs::write(&broken, format!("connections {{\n {long} {{\n remote_adrs = {long}\n }}\n}}\n"))?;
    let (old, odd) = (path("ipsec.conf"), path("odd.conf"));
    let conn = "conn a\n left=192.0.2.1\n right=192.0.2.2\n authby=secret\n auto=add\n";
    std::fs::write(&old, conn)?;
    std::fs::write(&odd, format!("{conn} oddity=yes\n"))?;
    let nobody = format!("unix://{}", path("nobody.vici"));

    let rows: &[(i32, &[&str])] = &[
        // Down.
        (0, &["down", "gw"]),
        (1, &["status"]),
        (1, &["explain", "gw"]),
        (1, &["rekey", "net"]),
        (1, &["test", "net"]),
        // Up.
        (0, &["up", "net"]),
        (0, &["status"]),
        (0, &["explain", "gw/net"]),
        (0, &["rekey", "gw"]),
        (0, &["test", "net"]),
        (0, &["top"]),
        (0, &["reload"]),
        (0, &["check", &file]),
        (0, &["import", &old]),
        (1, &["confirm"]),
        // Partly, and with mistakes.
        (0, &["check", &other]),
        (0, &["diff", &other]),
        (0, &["apply", &other]),
        (1, &["up", "gw/second"]),
        (0, &["events"]),
        (2, &["status"]),
        (2, &["explain", "gw"]),
        (2, &["import", &odd]),
        (3, &["check", &broken]),
        (3, &["diff", &broken]),
        (3, &["apply", &broken]),
        (3, &["import", "/nonexistent/ipsec.conf"]),
        (3, &["up", &long]),
        (3, &["down", &long]),
        (3, &["rekey", &long]),
        (3, &["test", &long]),
        (3, &["explain", &long]),
        (0, &["apply", "--confirm", "600", &file]),
        (1, &["reload"]),
        (1, &["apply", &other]),
        (0, &["confirm"]),
        (0, &["reload"]),
        // Nobody to ask.
        (1, &["up", "net", "--control", &nobody]),
        (1, &["down", "net", "--control", &nobody]),
        (1, &["rekey", "net", "--control", &nobody]),
        (1, &["reload", "--control", &nobody]),
        (1, &["diff", "--control", &nobody]),
        (1, &["apply", "--control", &nobody]),
        (1, &["confirm", "--control", &nobody]),
        (1, &["status", "--control", &nobody]),
        (1, &["test", "net", "--control", &nobody]),
        (1, &["events", "--control", &nobody]),
        (1, &["log", "--control", &nobody]),
        (1, &["top", "--control", &nobody]),
        (1, &["explain", "net", "--control", &nobody]),
    ];
    let mut confirmed = 0;
    for (status, arguments) in rows {
        let (name, mut words) = (*arguments.first().context("a command")?, arguments.to_vec());
        // What is confirmed, or awaits it, is so once.
        let once = arguments.contains(&"--confirm") || (*status == 0 && name == "confirm");
        confirmed += usize::from(once);
        if !once {
            ends_with(a, *status, &words)?;
        }
        words.push("--json");
        let text = ends_with(a, *status, &words)?;
        manual.compare(name, &serde_json::from_str(&text).with_context(|| format!("{words:?}: {text}"))?)?;
    }
    ensure!(confirmed == 2, "{confirmed}");
    ends_with(a, 3, &["run", "--config", &broken])?;
    ends_with(a, 1, &["capture", "--write", "/dev/null", "--control", &nobody])?;
    ends_with(a, 3, &["capture", "--write", "/dev/null", "--connection", &long])?;
    let archive = path("archive.tar.gz");
    for status in [0, 1] {
        // The second time it is there already.
        let text = ends_with(a, status, &["support", "--json", "--output", &archive, "--config", &file])?;
        manual.compare("support", &serde_json::from_str(&text)?)?;
    }

    let help = ends_with(a, 0, &["--help"])?;
    let (_, commands) = help.split_once("Commands:\n").context("commands")?;
    let commands: Vec<&str> = commands
        .lines()
        .map_while(|line| line.strip_prefix("  "))
        .filter_map(|line| line.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "help")
        .collect();
    ensure!(commands.contains(&"run") && commands.contains(&"support"), "{help}");
    let without = ["run", "capture", "demo"];
    for command in commands {
        ends_with(a, 3, &[command, "--nonsense"])?;
        ends_with(a, 0, &[command, "--help"])?;
        ensure!(without.contains(&command) != manual.keys.contains_key(command), "{command} in docs/json.md");
    }
    manual.is_complete()
}

/// `docs/json.md`: the keys of every command's object, and which of them were seen.
struct Manual {
    keys: BTreeMap<String, BTreeSet<String>>,
    seen: BTreeSet<(String, String)>,
}

impl Manual {
    const FAILED: &str = "Any command that fails";
    const RARE: [&str; 4] =
        ["drops.*", "explanations[].difference", "explanations[].difference-text", "explanations[].inferred"];

    fn read() -> Result<Self> {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json.md");
        let mut keys = BTreeMap::<String, BTreeSet<String>>::new();
        let mut commands = Vec::new();
        for line in std::fs::read_to_string(page)?.lines() {
            if let Some(heading) = line.strip_prefix("## ") {
                commands = heading.split(", ").map(|name| name.trim_matches('`').to_owned()).collect();
            } else if let Some((key, _)) = line.strip_prefix("| `").and_then(|rest| rest.split_once('`')) {
                for command in &commands {
                    keys.entry(command.clone()).or_default().insert(key.to_owned());
                }
            }
        }
        Ok(Self { keys, seen: BTreeSet::new() })
    }

    /// Has the object no key that is not in the manual?
    fn compare(&mut self, command: &str, object: &Value) -> Result<()> {
        let mut fields = object.as_object().context("an object")?.clone();
        ensure!(fields.remove("schema") == Some(Value::from(1)), "{command}: schema: {object}");
        let failed = fields.contains_key("errors");
        let section = if failed { Self::FAILED } else { command };
        let known = self.keys.get(section).with_context(|| format!("{section} in docs/json.md"))?;
        let mut found = BTreeSet::new();
        collect(&fields, "", &mut found);
        for key in found {
            // Errors are like the warnings of `check`.
            let like = key.starts_with("errors[].") || (command != "check" && key.starts_with("warnings[]."));
            let within = |known: &&String| {
                known
                    .strip_suffix('*')
                    .is_some_and(|start| key.starts_with(start) || format!("{key}.") == start)
            };
            let known = known.get(&key).or_else(|| known.iter().find(within));
            ensure!(like || known.is_some(), "docs/json.md does not tell {key} of {section}: {object}");
            self.seen.extend(known.map(|known| (section.to_owned(), known.clone())));
        }
        Ok(())
    }

    /// Was all that it tells seen, but for what not every network has?
    fn is_complete(&self) -> Result<()> {
        for (section, keys) in &self.keys {
            for key in keys.iter().filter(|key| !Self::RARE.contains(&key.as_str())) {
                let seen = self.seen.contains(&(section.clone(), key.clone()));
                ensure!(seen, "docs/json.md tells {key} of {section}, and nothing prints it");
            }
        }
        Ok(())
    }
}

/// The keys of an object, as the manual writes them.
fn collect(object: &Map<String, Value>, within: &str, found: &mut BTreeSet<String>) {
    for (key, value) in object {
        let key = format!("{within}{key}");
        match value {
            Value::Array(items) => {
                for item in items.iter().filter_map(Value::as_object) {
                    collect(item, &format!("{key}[]."), found);
                }
                found.insert(format!("{key}[]"));
            }
            Value::Object(inner) => {
                collect(inner, &format!("{key}."), found);
                found.insert(key);
            }
            _ => drop(found.insert(key)),
        }
    }
}

/// In the log at DEBUG and in `adit support`: no secret, no key, no address of a packet inside.
fn nothing_secret_is_told(lab: &Lab, a: &Adit) -> Result<()> {
    let archive = lab.dir().join("support.tar.gz");
    let (archive, config) = (archive.to_str().context("a path")?, a.config().to_str().context("a path")?);
    let log = lab.dir().join(format!("adit-{}.log", Side::A));
    let log = log.to_str().context("a path")?;
    for family in FAMILIES {
        lab.ping(Side::A, family, 1)?;
    }
    ends_with(a, 0, &["support", "--output", archive, "--config", config, "--log", log])?;
    let content = run(Command::new("tar").args(["-xzOf", archive]))?;
    for what in ["\"schema\":1", "secret = ***", "ESTABLISHED", "table inet adit", "serves unix:"] {
        ensure!(content.contains(what), "no {what} in the archive");
    }
    let secret = Connection::new(Side::A, Family::V4, "", "").secret;
    let mut secrets = vec![secret];
    for entry in std::fs::read_dir(a.keys())? {
        let table = std::fs::read_to_string(entry?.path())?;
        // Keys are the long words of hexadecimal digits; SPIs are the short ones.
        let words = table.split([',', '"', '\n']).map(|word| word.trim_start_matches("0x"));
        let is_key = |word: &&str| word.len() >= 32 && word.bytes().all(|octet| octet.is_ascii_hexdigit());
        secrets.extend(words.filter(is_key).map(str::to_lowercase));
    }
    ensure!(secrets.len() > 4, "the key log holds keys");
    let (archive, log) = (content.to_lowercase(), read_lossy(Path::new(log)).to_lowercase());
    ensure!(log.contains("debug"), "the log is not at DEBUG: {log}");
    for secret in &secrets {
        for (name, text) in [("the archive", &archive), ("the log", &log)] {
            ensure!(!text.contains(&secret.to_lowercase()), "a secret is in {name}");
        }
    }
    for side in SIDES {
        for family in FAMILIES {
            let address = side.host(family);
            ensure!(!log.contains(address), "{address} is logged above TRACE: {log}");
        }
    }
    Ok(())
}

/// The service manager's socket, and the journal's: the same kind of thing.
struct Told(UnixDatagram);

impl Told {
    fn bind(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path)?;
        socket.set_read_timeout(Some(SOON))?;
        Ok(Self(socket))
    }

    /// The next message that has this in it; others are skipped.
    fn wait_for(&self, what: &str) -> Result<String> {
        let mut buffer = vec![0; 65_536];
        for _ in 0..1000 {
            let length = self.0.recv(&mut buffer).with_context(|| format!("no {what}"))?;
            let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
            if text.contains(what) {
                return Ok(text);
            }
        }
        bail!("no {what} among a thousand messages")
    }
}

#[test]
fn the_service_manager_and_the_journal_are_told() -> Result<()> {
    with_lab("service", Topology::default(), |lab| {
        let journal = lab.dir().join("journal");
        std::fs::create_dir(&journal)?;
        let entries = Told::bind(&journal.join("socket"))?;
        let manager = Told::bind(&lab.dir().join("notify"))?;
        let config = lab.dir().join("service.conf");
        let control = format!("unix://{}", lab.dir().join("service.vici").display());
        std::fs::write(&config, format!("gateway {{\n control = {control}\n}}\n"))?;
        let mut command = lab.command(Node::GatewayA, "unshare");
        let shell = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && mount --bind \"$1\" /run/systemd/journal \
                     && exec \"$2\" run --config \"$3\" --log-format journald";
        command.args(["--mount", "sh", "-c", shell, "sh"]).arg(&journal).arg(program()?).arg(&config);
        command.env("NOTIFY_SOCKET", lab.dir().join("notify")).env("WATCHDOG_USEC", "400000");
        let mut daemon = Process::spawn("service", &mut command, lab.dir())?;

        manager.wait_for("READY=1")?;
        // A field is its name, and then its length and what it says.
        let entry = entries.wait_for("SYSLOG_IDENTIFIER\n")?;
        ensure!(entry.contains("PRIORITY\n") && entry.contains("adit"), "{entry}");
        for _ in 0..3 {
            manager.wait_for("WATCHDOG=1")?;
        }
        let mut reload = lab.command(Node::GatewayA, program()?);
        run(reload.args(["--control", &control, "reload"]))?;
        manager.wait_for("RELOADING=1")?;
        manager.wait_for("READY=1")?;
        ensure!(daemon.stop(Signal::TERM)? == Some(0), "{}", daemon.output());
        manager.wait_for("STOPPING=1")?;
        entries.wait_for("stopped").map(drop)
    })
}
