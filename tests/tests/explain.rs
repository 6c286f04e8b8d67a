//! Broken set-ups against strongSwan, one after another in the same namespaces: `adit explain` names the true cause, and what
//! it says is to be done brings the tunnel up. What its first line is, is in `docs/troubleshooting.md`.

use std::path::Path;
use std::time::Duration;

use adit_lab::adit::{Adit, Settings};
use adit_lab::broken::{BROKEN, Begins, Broken};
use adit_lab::lab::{Lab, Side, Topology, with_lab};
use adit_lab::peer::{CONNECTION, Connection, Peer, Rekey};
use adit_lab::process::{eventually, run, run_unchecked};
use adit_lab::strongswan::StrongSwan;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(15);

/// Set to write the table into the manual instead of comparing it.
const WRITE: &str = "ADIT_WRITE_DOCS";

#[test]
fn every_broken_set_up_is_explained() -> Result<()> {
    let mut table =
        String::from("| what is wrong | who begins | first line of `adit explain` |\n|---|---|---|\n");
    with_lab("explain", Topology::default(), |lab| {
        let mut gateways = None;
        for broken in BROKEN {
            let line = explained(lab, &mut gateways, broken)
                .with_context(|| format!("the set-up \"{}\": {}", broken.name, broken.what))?;
            let begins = match broken.begins {
                Begins::Adit => "this side",
                Begins::Peer => "the peer",
                Begins::Both => "both",
                Begins::Nobody => "nobody",
            };
            table.push_str(&format!("| {} | {begins} | {line} |\n", broken.what));
        }
        let (adit, strongswan) = gateways.context("gateways")?;
        let line = stranger(&adit, &strongswan)?;
        table.push_str(&format!("| no connection for the peer's address | the peer | {line} |\n"));
        Ok(())
    })?;
    in_the_manual(&table)
}

/// Sets it up, sees what is said about it, and does what is said is to be done. Returns the first line for the manual.
fn explained(lab: &Lab, gateways: &mut Option<(Adit, StrongSwan)>, broken: &Broken) -> Result<String> {
    let (mut ours, mut theirs) = broken.connections();
    if let Some((adit, strongswan)) = gateways {
        apply(adit, strongswan, broken, &ours, &theirs)?;
    } else {
        let adit = Adit::start_text(lab, Side::A, &text(broken, &ours), &Settings::default())?;
        *gateways = Some((adit, StrongSwan::start(lab, Side::B, &theirs)?));
    }
    let (adit, strongswan) = gateways.as_ref().context("gateways")?;
    // What comes of it is told by what is explained: some of them come up.
    let begin = |side: &dyn Peer| drop(side.initiate());
    match broken.begins {
        Begins::Adit => begin(adit),
        Begins::Peer => begin(strongswan),
        Begins::Both => {
            begin(strongswan);
            begin(adit);
        }
        Begins::Nobody => {}
    }
    let subject = format!("{}/net", broken.name);
    if broken.name == "forward-secrecy" {
        ensure!(explain(adit, &subject)?.1 == Some(0), "IKE_AUTH has no key exchange of the child");
        strongswan.rekey(Rekey::Child)?;
    }
    let explanation = eventually(&format!("code {}", broken.code), SOON, || {
        let (explanation, status) = explain(adit, &subject)?;
        let found = word(&explanation, "code") == broken.code;
        Ok(found.then_some((explanation, status)))
    })
    .with_context(|| format!("last: {:?}", explain(adit, &subject)))?;
    let (explanation, status) = explanation;
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
    let line = first_line(&explanation);

    if let Some(mend) = broken.mend {
        mend(&mut ours, &mut theirs);
        apply(adit, strongswan, broken, &ours, &theirs)?;
        if broken.begins == Begins::Peer {
            strongswan.initiate()?
        } else {
            adit.initiate()?
        };
        if broken.name == "forward-secrecy" {
            strongswan.rekey(Rekey::Child)?;
        }
        eventually("nothing to explain any more", SOON, || {
            let (explanation, status) = explain(adit, &subject)?;
            Ok((word(&explanation, "code") == "up" && status == Some(0)).then_some(()))
        })
        .with_context(|| format!("last: {:?}", explain(adit, &subject)))?;
    }
    Ok(line)
}

/// A peer whose address no connection has: it is known by its address only.
fn stranger(adit: &Adit, strongswan: &StrongSwan) -> Result<String> {
    let (mut ours, theirs) = BROKEN.first().context("a set-up")?.connections();
    ours.remote_addrs = "192.0.2.77".to_owned();
    let welcome = Broken { name: "welcome", ..template() };
    apply(adit, strongswan, &welcome, &ours, &theirs)?;
    ensure!(strongswan.initiate().is_err(), "it is welcome");
    let output = run_unchecked(adit.command().args([
        "explain",
        "--from",
        Side::B.outer(adit_lab::lab::Family::V4),
        "--json",
    ]))?;
    let document: Value = serde_json::from_slice(&output.stdout)?;
    let explanations = document.get("explanations").and_then(Value::as_array).context("explanations")?;
    let unknown =
        explanations.iter().find(|one| word(one, "code") == "unknown-peer").context("no unknown-peer")?;
    ensure!(word(unknown, "cause").contains("no connection is for a peer at 203.0.113.2"), "{unknown}");
    ensure!(word(unknown, "step").contains("add 203.0.113.2 to `remote_addrs`"), "{unknown}");
    let nobody = run_unchecked(adit.command().args(["explain", "--from", "192.0.2.99"]))?;
    ensure!(nobody.status.code() == Some(1), "{nobody:?}");
    ensure!(String::from_utf8_lossy(&nobody.stdout).contains("nothing is known of it"), "{nobody:?}");
    Ok(first_line(unknown))
}

fn template() -> Broken {
    Broken {
        name: "",
        what: "",
        begins: Begins::Peer,
        spoil: |_, _| {},
        code: "",
        cause: &[],
        step: &[],
        mend: None,
    }
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
