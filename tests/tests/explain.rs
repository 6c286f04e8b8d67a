//! Broken set-ups against strongSwan, one after another in the same namespaces: `adit explain` names the true cause, and what
//! it says is to be done brings the tunnel up. What its first line is, is in `docs/troubleshooting.md`.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use adit_lab::adit::{Adit, Settings};
use adit_lab::broken::{BROKEN, Begins, Broken, Carries, Mend, Order, PLAIN, Told, changes};
use adit_lab::lab::{Family, Lab, Node, Side, Topology, with_lab};
use adit_lab::manual;
use adit_lab::peer::{CONNECTION, Connection, Peer, Rekey};
use adit_lab::process::{Process, eventually, run, run_unchecked};
use adit_lab::strongswan::{Options, Release, StrongSwan};
use adit_lab::traffic::SteadyPing;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(15);

/// Set to write the table into the manual instead of comparing it.
const WRITE: &str = "ADIT_WRITE_DOCS";

#[test]
fn every_broken_set_up_is_explained() -> Result<()> {
    let mut table = String::from(
        "| what is wrong | who begins | the first line that tells it | what mends it |\n|---|---|---|---|\n",
    );
    with_lab("explain", Topology::default(), |lab| {
        let mut gateways = None;
        let mut events = None;
        for broken in BROKEN {
            let row = explained(lab, &mut gateways, &mut events, broken)
                .with_context(|| format!("the set-up \"{}\": {}", broken.name, broken.what))?;
            table.push_str(&row);
        }
        let (adit, strongswan) = gateways.context("gateways")?;
        table.push_str(&stranger(lab, &adit, &strongswan)?);
        strays(lab)?;
        adit.terminate_daemon()?;
        alert(lab, "the end", |alert| word(alert, "type") == "shutdown-signal")?;
        table.push_str(&clock(lab, &strongswan)?);
        Ok(())
    })?;
    in_the_manual(&table)
}

/// Sets it up, sees what is said about it, and does what is said is to be done. Returns the row for the manual.
fn explained(
    lab: &Lab,
    gateways: &mut Option<(Adit, StrongSwan)>,
    events: &mut Option<Process>,
    broken: &Broken,
) -> Result<String> {
    let (mut ours, mut theirs) = broken.connections();
    if let Some((adit, strongswan)) = gateways {
        apply(adit, strongswan, broken, &ours, &theirs)?;
    } else {
        let settings = Settings { extra: "half_open_timeout = 3s".to_owned(), ..Settings::default() };
        let adit = Adit::start_text(lab, Side::A, &text(broken, &ours), &settings)?;
        let mut follow = adit.command();
        *events = Some(Process::spawn(EVENTS, follow.args(["events", "--follow", "--json"]), lab.dir())?);
        // The newest, since Debian's carries ESP in UDP only.
        let options = Options { libipsec: "raw_esp = yes".to_owned(), ..Options::of(Release::Newest) };
        *gateways = Some((adit, StrongSwan::start_with(lab, Side::B, &theirs, &options)?));
    }
    let (adit, strongswan) = gateways.as_ref().context("gateways")?;
    let [obstacle, away] = broken.obstacle;
    order(lab, obstacle)?;
    // What comes of it is told by what is explained: some of them come up.
    let begin = |side: &dyn Peer| drop(side.initiate());
    match broken.begins {
        Begins::Adit => begin(adit),
        // It may be left without an answer.
        Begins::Peer => {
            let child = ["--initiate", "--child", "net", "--timeout", "3"];
            run_unchecked(&mut strongswan.swanctl_command(&child))?;
        }
        Begins::Both => {
            begin(strongswan);
            begin(adit);
        }
        Begins::Nobody => {}
    }
    let line = match broken.told {
        Told::Explain => {
            let explanation = told_by_explain(adit, strongswan, broken)?;
            told_elsewhere(lab, adit, broken, &explanation)?;
            first_line(&explanation)
        }
        Told::ExplainTraffic(side) => {
            let ping = SteadyPing::start(lab, side, Family::V4)?;
            let explanation = told_by_explain(adit, strongswan, broken)?;
            ping.stop()?;
            first_line(&explanation)
        }
        Told::Test(arguments) => told_by_test(adit, broken, arguments)?,
    };
    let mended = mend(lab, (adit, strongswan), broken, (&mut ours, &mut theirs))?;
    if !away.is_empty() {
        // While the peer can still be told.
        run(adit.command().args(["down", broken.name]))?;
        order(lab, away)?;
    }
    let begins = match broken.begins {
        Begins::Adit => "this side",
        Begins::Peer => "the peer",
        Begins::Both => "both",
        Begins::Nobody => "nobody",
    };
    Ok(format!("| {} | {begins} | {line} | {mended} |\n", broken.what))
}

/// What `adit explain` says of it.
fn told_by_explain(adit: &Adit, strongswan: &StrongSwan, broken: &Broken) -> Result<Value> {
    let subject = format!("{}/net", broken.name);
    if broken.name == "forward-secrecy" {
        ensure!(explain(adit, &subject)?.1 == Some(0), "IKE_AUTH has no key exchange of the child");
        strongswan.rekey(Rekey::Child)?;
    }
    let (explanation, status) = eventually(&format!("code {}", broken.code), SOON, || {
        let (explanation, status) = explain(adit, &subject)?;
        let found = word(&explanation, "code") == broken.code;
        Ok(found.then_some((explanation, status)))
    })
    .with_context(|| format!("last: {:?}", explain(adit, &subject)))?;
    let expected = match word(&explanation, "state").as_str() {
        "up" => 0,
        "down" => 1,
        _ => 2,
    };
    ensure!(status == Some(expected), "exit status {status:?}: {explanation}");
    for (key, parts) in [("cause", broken.cause), ("step", broken.step)] {
        let said = word(&explanation, key);
        ensure!(parts.iter().all(|part| said.contains(part)), "{key}: {said:?} lacks one of {parts:?}");
    }
    let inferred = explanation.get("inferred").is_some();
    ensure!(inferred == (broken.begins == Begins::Both), "{explanation}");
    let shown = String::from_utf8(run_unchecked(adit.command().args(["explain", &subject]))?.stdout)?;
    ensure!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
    ensure!(shown.contains("To do: "), "{shown}");
    if broken.name == "ike-encryption" {
        manual::shows(broken.name, &shown)?;
    }
    Ok(explanation)
}

/// The event `alert`, the list of negotiations and the log say the same.
fn told_elsewhere(lab: &Lab, adit: &Adit, broken: &Broken, explanation: &Value) -> Result<()> {
    let cause = word(explanation, "cause").trim_start_matches("up, but ").to_owned();
    // strongSwan's names.
    let kind = match broken.code {
        "no-proposal-chosen" if cause.contains("ESP proposal") => "proposal-mismatch-child",
        "no-proposal-chosen" => "proposal-mismatch-ike",
        "ts-unacceptable" => "ts-mismatch",
        "narrowed" => "ts-narrowed",
        "identity-mismatch" | "authentication-failed" => "peer-auth-failed",
        "refused-by-peer" | "no-shared-secret" => "local-auth-failed",
        "timeout" if cause.contains("IKE_SA_INIT") => "peer-init-unreachable",
        "timeout" if cause.contains("began to connect") => "half-open-timeout",
        "timeout" => "retransmit-send-timeout",
        "name-unresolved" => "peer-addr-failed",
        // Nothing has failed.
        _ => return Ok(()),
    };
    let of_this = |alert: &Value| {
        word(alert, "type") == kind && [broken.name, ""].contains(&word(alert, "connection").as_str())
    };
    if kind == "peer-addr-failed" {
        let told = alert(lab, kind, of_this)?;
        ensure!(word(&told, "cause").contains("nowhere.invalid"), "{told}");
        return Ok(());
    }
    let step = word(explanation, "step");
    let same = |other: &Value| {
        let keys = [("cause", cause.as_str()), ("code", broken.code), ("step", step.as_str())];
        keys.into_iter().all(|(key, value)| word(other, key) == value)
    };
    let told = alert(lab, kind, |alert| of_this(alert) && same(alert))?;
    ensure!(!word(&told, "remote-host").is_empty() && !word(&told, "stage").is_empty(), "{told}");
    if kind == "peer-init-unreachable" {
        let again = alert(lab, "retransmit-send", |alert| {
            word(alert, "type") == "retransmit-send" && word(alert, "connection") == broken.name
        })?;
        ensure!(word(&again, "exchange") == "IKE_SA_INIT", "{again}");
        let sa = again.pointer(&format!("/ike-sa/{}", broken.name)).context("no section `ike-sa`")?;
        ensure!(word(sa, "remote-host") == "203.0.113.77" && word(sa, "state") == "CONNECTING", "{again}");
    }
    let past = run(adit.command().args(["events", "--json"]))?;
    let negotiations = past.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    // What another attempt of the peer tells is told of what is explained, not of what is listed.
    let inferred = broken.begins == Begins::Both;
    let listed = negotiations
        .filter_map(|line| line.get("data").cloned())
        .find(|one| inferred && word(one, "code") == broken.code || same(one))
        .with_context(|| format!("no such negotiation: {past}"))?;
    ensure!(adit.log().contains(&word(&listed, "message")), "not in the log: {listed}");
    Ok(())
}

/// The name of the process that follows the events, and of its log.
const EVENTS: &str = "events";

/// Waits for an alert.
fn alert(lab: &Lab, what: &str, which: impl Fn(&Value) -> bool) -> Result<Value> {
    eventually(&format!("the alert {what}"), SOON, || Ok(alerts(lab)?.into_iter().rfind(&which)))
        .with_context(|| format!("{:?}", alerts(lab)))
}

/// All alerts so far.
fn alerts(lab: &Lab) -> Result<Vec<Value>> {
    let told = std::fs::read_to_string(lab.dir().join(EVENTS).with_extension("log"))?;
    let lines = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let alerts = lines.filter(|line| word(line, "event") == "alert");
    Ok(alerts.filter_map(|line| line.get("data").cloned()).collect())
}

/// Messages of nobody: each kind is told, and nobody can make it told without end.
fn strays(lab: &Lab) -> Result<()> {
    let send = |octets: &str| {
        let command = format!("printf '{octets}' >/dev/udp/198.51.100.2/500");
        lab.run(Node::Net, "bash", &["-c", &command]).map(drop)
    };
    let of = |kind: &'static str| {
        move |alert: &Value| word(alert, "type") == kind && word(alert, "remote-host") == "198.51.100.1"
    };
    send("garbage")?;
    let told = alert(lab, "of no header", of("parse-error-header"))?;
    ensure!(word(&told, "cause").contains("7 octets"), "{told}");
    // IKE_SA_INIT with a payload SA that is said to be longer than the message.
    let spi = "\\x11".repeat(8);
    send(&format!(
        "{spi}{}\\x21\\x20\\x22\\x08{}\\x28{}",
        "\\0".repeat(8),
        "\\0".repeat(7),
        "\\0\\0\\xff\\xff".repeat(3)
    ))?;
    let told = alert(lab, "of a body", of("parse-error-body"))?;
    ensure!(word(&told, "exchange") == "IKE_SA_INIT", "{told}");
    // INFORMATIONAL with an Encrypted payload for an IKE SA that there is not.
    let body = format!("\\0\\0\\0\\x2c{}", "\\xaa".repeat(40));
    send(&format!("{spi}{spi}\\x2e\\x20\\x25\\x08{}\\x48{body}", "\\0".repeat(7)))?;
    let told = alert(lab, "of an unknown SPI", of("invalid-ike-spi"))?;
    ensure!(word(&told, "exchange") == "INFORMATIONAL", "{told}");
    for _ in 0..50 {
        send("garbage")?;
    }
    // The last of these is in the counters when the limit has done its work.
    let all = alerts(lab)?.iter().filter(|alert| of("parse-error-header")(alert)).count();
    ensure!(all <= 6, "{all} alerts of one address");
    Ok(())
}

/// With pre-shared keys no time of day matters, neither a wrong one nor one that jumps.
fn clock(lab: &Lab, strongswan: &StrongSwan) -> Result<String> {
    let broken = Broken {
        name: "clock",
        what: "the clock of this gateway is a day slow, then jumps two ahead",
        ..PLAIN
    };
    let (ours, theirs) = broken.connections();
    let (time, library) = (lab.dir().join("time"), faketime()?);
    std::fs::write(&time, "-1d\n")?;
    let environment = [
        ("LD_PRELOAD", library.as_path()),
        ("FAKETIME_TIMESTAMP_FILE", time.as_path()),
        ("FAKETIME_NO_CACHE", Path::new("1")),
        // As in life: only the time of day can be set.
        ("FAKETIME_DONT_FAKE_MONOTONIC", Path::new("1")),
        ("DONT_FAKE_MONOTONIC", Path::new("1")),
    ];
    let environment = environment.map(|(name, value)| (name, value.to_owned())).to_vec();
    let settings = Settings { environment, ..Settings::default() };
    let adit = Adit::start_text(lab, Side::A, &text(&broken, &ours), &settings)?;
    let before = adit.log().len();
    apply(&adit, strongswan, &broken, &ours, &theirs)?;
    adit.initiate()?;
    std::fs::write(&time, "+1d\n")?;
    // New keys, the end and a new beginning, a day late.
    let output = try_it(&adit, &broken, &["--commission", "--yes"])?;
    ensure!(output.status.code() == Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    eventually("traffic", SOON, || Ok(passes(lab, broken.carries)?.then_some(())))?;
    let (explanation, status) = explain(&adit, "clock/net")?;
    ensure!(status == Some(0) && word(&explanation, "code") == "up", "{explanation}");
    // It did believe in these days.
    let log = adit.log();
    let days: std::collections::BTreeSet<&str> =
        log.get(before..).unwrap_or_default().lines().filter_map(|line| line.get(..10)).collect();
    ensure!(days.len() >= 2, "{days:?}");
    Ok(format!(
        "| {} | this side | {} | nothing is to be mended: with pre-shared keys no time of day matters, and what lasts \
         is measured by a clock that nobody can set. With certificates it will matter |\n",
        broken.what,
        first_line(&explanation)
    ))
}

/// The library that gives a program another time of day.
fn faketime() -> Result<PathBuf> {
    let library = |entry: std::fs::DirEntry| entry.path().join("faketime/libfaketimeMT.so.1");
    let mut found = std::fs::read_dir("/usr/lib")?.flatten().map(library);
    found.find(|path| path.exists()).context("no libfaketime: `apt-get install libfaketime`, or run ./test")
}

/// What fails in `adit test`, and what is to be done about it.
fn told_by_test(adit: &Adit, broken: &Broken, arguments: &[&str]) -> Result<String> {
    let output = try_it(adit, broken, arguments)?;
    let shown = String::from_utf8(output.stdout)?;
    ensure!(output.status.code() == Some(2), "{shown}");
    ensure!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
    let failing = shown.lines().skip_while(|line| !line.starts_with("fail "));
    let mut lines = failing.enumerate().take_while(|(n, line)| *n == 0 || line.starts_with(' '));
    let mut said = lines.next().context("nothing fails")?.1.to_owned();
    for (_, line) in lines {
        said = format!("{said} {}", line.trim());
    }
    let (line, step) = said.split_once(" -> ").with_context(|| format!("no step: {said:?}"))?;
    ensure!(line.contains(&format!(": {}: ", broken.code)), "{line}");
    for (said, parts) in [(line, broken.cause), (step, broken.step)] {
        ensure!(parts.iter().all(|part| said.contains(part)), "{said:?} lacks one of {parts:?}");
    }
    let arguments: String =
        arguments.iter().filter(|one| **one != "--yes").map(|one| format!(" {one}")).collect();
    Ok(format!("`adit test {}/net{arguments}`: `{line}`", broken.name))
}

fn try_it(adit: &Adit, broken: &Broken, arguments: &[&str]) -> Result<Output> {
    run_unchecked(adit.command().args(["test", &format!("{}/net", broken.name)]).args(arguments))
}

/// Does what was said is to be done: then there is nothing to explain any more, and traffic passes. Returns what was done.
fn mend(
    lab: &Lab,
    (adit, strongswan): (&Adit, &StrongSwan),
    broken: &Broken,
    (ours, theirs): (&mut Connection, &mut Connection),
) -> Result<String> {
    let mut done = Vec::new();
    match broken.mend {
        Mend::Configure(mend) => {
            let (was_ours, was_theirs) = (ours.clone(), theirs.clone());
            mend(ours, theirs);
            let code = |who: &str, keys: Vec<String>| {
                let keys = keys.into_iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
                (!keys.is_empty()).then(|| format!("{who} {keys}"))
            };
            done.extend(code("here", changes(&was_ours, ours)));
            done.extend(code("on the peer", changes(&was_theirs, theirs)));
            apply(adit, strongswan, broken, ours, theirs)?;
        }
        Mend::Up => done.push(format!("`adit up {}/net`", broken.name)),
        Mend::Orders(orders) => {
            order(lab, orders)?;
            done.extend(orders.iter().map(|(node, command)| {
                let place = match node {
                    Node::HostA => "on the hosts here",
                    Node::GatewayA => "here",
                    Node::Net => "on the way",
                    Node::GatewayB => "on the peer",
                    Node::HostB => "on the peer's hosts",
                };
                format!("{place} `{command}`")
            }));
        }
    }
    if adit.child()?.is_none() {
        if broken.begins == Begins::Peer {
            // What it has begun leads to nothing any more.
            let _ = strongswan.terminate();
            strongswan.initiate()?
        } else {
            adit.initiate()?
        };
    }
    if broken.name == "forward-secrecy" {
        strongswan.rekey(Rekey::Child)?;
    }
    eventually("traffic", SOON, || Ok(passes(lab, broken.carries)?.then_some(())))?;
    if let Told::Test(arguments) = broken.told {
        let output = try_it(adit, broken, arguments)?;
        ensure!(output.status.code() == Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let subject = format!("{}/net", broken.name);
    eventually("nothing to explain any more", SOON, || {
        let (explanation, status) = explain(adit, &subject)?;
        Ok((word(&explanation, "code") == "up" && status == Some(0)).then_some(()))
    })
    .with_context(|| format!("last: {:?}", explain(adit, &subject)))?;
    Ok(done.join("; ").replace('|', "\\|"))
}

/// Does the host of side A get an answer?
fn passes(lab: &Lab, what: Carries) -> Result<bool> {
    let ping = ["-n", "-c", "1", "-W", "1"];
    let output = match what {
        Carries::Ping(to) => run_unchecked(lab.command(Node::HostA, "ping").args(ping).arg(to))?,
        Carries::LargePing => {
            let large = ["-M", "dont", "-s", "1372", "10.2.0.10"];
            run_unchecked(lab.command(Node::HostA, "ping").args(ping).args(large))?
        }
        Carries::Tcp(port) => {
            let connect = format!("exec 3<>/dev/tcp/10.2.0.10/{port}");
            let mut timeout = lab.command(Node::HostA, "timeout");
            let output = run_unchecked(timeout.args(["2", "bash", "-c", &connect]))?;
            return Ok(String::from_utf8_lossy(&output.stderr).contains("Connection refused"));
        }
    };
    Ok(output.status.success())
}

fn order(lab: &Lab, orders: &[Order]) -> Result<()> {
    orders.iter().try_for_each(|(node, command)| lab.run(*node, "sh", &["-ec", command]).map(drop))
}

/// A peer whose address no connection has: it is known by its address only.
fn stranger(lab: &Lab, adit: &Adit, strongswan: &StrongSwan) -> Result<String> {
    let welcome = Broken {
        name: "welcome",
        what: "no connection for the peer's address",
        begins: Begins::Peer,
        spoil: |ours, _| ours.remote_addrs = "192.0.2.77".to_owned(),
        mend: Mend::Configure(|ours, _| ours.remote_addrs += ", 203.0.113.2"),
        ..PLAIN
    };
    let (mut ours, mut theirs) = welcome.connections();
    apply(adit, strongswan, &welcome, &ours, &theirs)?;
    ensure!(strongswan.initiate().is_err(), "it is welcome");
    let output =
        run_unchecked(adit.command().args(["explain", "--from", Side::B.outer(Family::V4), "--json"]))?;
    let document: Value = serde_json::from_slice(&output.stdout)?;
    let explanations = document.get("explanations").and_then(Value::as_array).context("explanations")?;
    let unknown =
        explanations.iter().find(|one| word(one, "code") == "unknown-peer").context("no unknown-peer")?;
    ensure!(word(unknown, "cause").contains("no connection is for a peer at 203.0.113.2"), "{unknown}");
    ensure!(word(unknown, "step").contains("add 203.0.113.2 to `remote_addrs`"), "{unknown}");
    let nobody = run_unchecked(adit.command().args(["explain", "--from", "192.0.2.99"]))?;
    ensure!(nobody.status.code() == Some(1), "{nobody:?}");
    ensure!(String::from_utf8_lossy(&nobody.stdout).contains("nothing is known of it"), "{nobody:?}");
    let mended = mend(lab, (adit, strongswan), &welcome, (&mut ours, &mut theirs))?;
    Ok(format!("| {} | the peer | {} | {mended} |\n", welcome.what, first_line(unknown)))
}

/// Adit's configuration: the connection has the name of the set-up.
fn text(broken: &Broken, ours: &Connection) -> String {
    ours.render().replacen(&format!("  {CONNECTION} {{"), &format!("  {} {{", broken.name), 1)
}

/// Gives both gateways their configurations, with nothing up before.
fn apply(
    adit: &Adit,
    strongswan: &StrongSwan,
    broken: &Broken,
    ours: &Connection,
    theirs: &Connection,
) -> Result<()> {
    // There need not be anything to take down.
    let _ = strongswan.terminate();
    let old = std::fs::read_to_string(adit.config())?;
    let (_, gateway) = old.split_once("gateway {").context("a section `gateway`")?;
    std::fs::write(adit.config(), format!("{}gateway {{{gateway}", text(broken, ours)))?;
    run(adit.command().arg("reload"))?;
    strongswan.reload(theirs)?;
    eventually("nothing is up", SOON, || {
        // What never came to be waits there for its time to run out.
        let none = strongswan.sas()?.iter().all(|sa| sa.state != "ESTABLISHED");
        Ok((none && adit.sas()?.is_empty()).then_some(()))
    })
    .with_context(|| format!("{:?} {:?}", adit.sas(), strongswan.sas()))
}

/// The one explanation of a child, and the exit status.
fn explain(adit: &Adit, subject: &str) -> Result<(Value, Option<i32>)> {
    let output = run_unchecked(adit.command().args(["explain", subject, "--json"]))?;
    let document: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    ensure!(document.get("schema") == Some(&Value::from(1)), "{document}");
    match document.get("explanations").and_then(Value::as_array).map(Vec::as_slice) {
        Some([one]) => Ok((one.clone(), output.status.code())),
        _ => bail!("not one explanation: {document}"),
    }
}

fn word(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// As it is printed, without what depends on the moment and the machine.
fn first_line(explanation: &Value) -> String {
    let lead = if word(explanation, "state") == "down" { "down: " } else { "" };
    let cause = word(explanation, "cause");
    let cause = match cause.split_once("does not resolve: ") {
        Some((before, _)) => format!("{before}does not resolve: ..."),
        None => cause,
    };
    let cause = match cause.split_once(", sent ") {
        Some((before, _)) => format!("{before}, sent N times"),
        None => cause,
    };
    let cause =
        if word(explanation, "code") == "up" { "up for N s: nothing to explain".to_owned() } else { cause };
    // So many it were by then.
    let cause = match cause
        .split_once(" packets left, ")
        .map(|(before, after)| (before.trim_end_matches(|c: char| c.is_ascii_digit()), after))
    {
        Some((before, after)) => format!("{before}N packets left, {after}"),
        None => cause,
    };
    format!("`{}: {lead}{cause} [{}]`", word(explanation, "subject"), word(explanation, "code"))
        .replace('|', "\\|")
}

/// The table stands in the manual as it is.
fn in_the_manual(table: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/troubleshooting.md");
    let manual = std::fs::read_to_string(&path)?;
    let (before, rest) = manual.split_once("<!-- broken set-ups -->\n").context("the table's begin")?;
    let (old, after) = rest.split_once("<!-- end of broken set-ups -->").context("the table's end")?;
    if std::env::var_os(WRITE).is_some() {
        let new = format!("{before}<!-- broken set-ups -->\n{table}<!-- end of broken set-ups -->{after}");
        return Ok(std::fs::write(path, new)?);
    }
    ensure!(
        old == table,
        "the table in docs/troubleshooting.md differs: run this test with {WRITE}=1\n{table}"
    );
    Ok(())
}
