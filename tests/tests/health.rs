//! Up, and no traffic: each cause is made for real, and `adit status` and `adit test` name it and what to do. And a path that
//! swallows large packets, which `probe_path` finds and heeds.

use adit_lab::adit::Adit;
use adit_lab::lab::{Family, Lab, Node, Side, Topology, with_lab};
use adit_lab::manual;
use adit_lab::peer::{CHILD, Connection, Peer};
use adit_lab::process::{Process, eventually, run, run_unchecked};
use adit_lab::strongswan::StrongSwan;
use adit_lab::traffic::{SteadyPing, own_program};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16";
const PATIENCE: Duration = Duration::from_secs(15);

fn connection(side: Side) -> Connection {
    Connection::new(side, Family::V4, IKE, ESP)
}

/// What `adit test` ends with, and its steps.
fn try_it(gateway: &Adit, arguments: &[&str]) -> Result<(Option<i32>, Vec<Value>)> {
    let output = run_unchecked(gateway.command().args(["test", CHILD, "--json"]).args(arguments))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text)
        .with_context(|| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))?;
    ensure!(report.get("schema") == Some(&Value::from(1)), "{report}");
    let steps = report.get("steps").and_then(Value::as_array).cloned().context("steps")?;
    Ok((output.status.code(), steps))
}

fn word<'v>(step: &'v Value, key: &str) -> &'v str {
    step.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The step of a name, as result and code.
fn of<'s>(steps: &'s [Value], name: &str) -> Result<(&'s str, &'s str)> {
    let step = steps.iter().find(|step| word(step, "step") == name);
    step.map(|step| (word(step, "result"), word(step, "code"))).with_context(|| format!("{name}: {steps:?}"))
}

/// `adit status` of the child, once it has this verdict.
fn comes_to(gateway: &Adit, code: &str) -> Result<Value> {
    let mut last = Value::Null;
    eventually(&format!("the verdict {code}"), PATIENCE, || {
        let status = gateway.status()?;
        let health = status.pointer("/connections/0/children/0/health").cloned().unwrap_or_default();
        last.clone_from(&health);
        Ok((word(&health, "code") == code).then_some(health))
    })
    .with_context(|| format!("it is {last}"))
}

/// A new IKE SA and a new Child SA.
fn anew(gateway: &Adit) -> Result<()> {
    gateway.terminate()?;
    gateway.initiate().map(drop)
}

fn net(lab: &Lab, rule: &str) -> Result<()> {
    lab.nft(
        Node::Net,
        &format!(
            "table inet evil {{\n chain forward {{\n type filter hook forward priority 0\n {rule}\n }}\n }}\n"
        ),
    )
}

fn no_longer(lab: &Lab) -> Result<()> {
    lab.nft(Node::Net, "delete table inet evil\n")
}

#[test]
fn each_cause_of_silence_is_named() -> Result<()> {
    with_lab("silence", Topology::default(), |lab| {
        let a = Adit::start(lab, Side::A, &connection(Side::A))?;
        let _b = Adit::start(lab, Side::B, &connection(Side::B))?;
        a.initiate()?;
        lab.ping(Side::A, Family::V4, 3)?;
        let health = comes_to(&a, "flowing")?;
        ensure!(health.get("failing") == Some(&Value::from(false)), "{health}");
        let (exit, steps) = try_it(&a, &[])?;
        ensure!(
            exit == Some(0) && steps.iter().all(|step| word(step, "result") == "pass"),
            "{exit:?} {steps:?}"
        );

        // Something on the way drops protocol 50 and lets IKE pass.
        net(lab, "ip protocol esp drop")?;
        anew(&a)?;
        let ping = SteadyPing::start(lab, Side::A, Family::V4)?;
        let health = comes_to(&a, "esp-filtered")?;
        ensure!(word(&health, "step").contains("encap = yes"), "{health}");
        let status = run_unchecked(a.command().arg("status"))?;
        let text = String::from_utf8_lossy(&status.stdout);
        ensure!(status.status.code() == Some(2), "{text}");
        manual::shows("esp-filtered", &text[text.find("net: up, but").context("a verdict")?..])?;
        let (exit, steps) = try_it(&a, &[])?;
        ensure!(exit == Some(2) && of(&steps, "traffic")? == ("fail", "esp-filtered"), "{steps:?}");
        ensure!(of(&steps, "liveness")?.0 == "pass", "{steps:?}");
        no_longer(lab)?;
        comes_to(&a, "flowing").context("the rule is gone")?;

        // The hosts behind the peer know no way back.
        lab.run(Node::HostB, "ip", &["route", "add", "blackhole", "10.1.0.0/24"])?;
        comes_to(&a, "nothing-returns")?;
        let (exit, steps) = try_it(&a, &["--ping", Side::B.host(Family::V4)])?;
        ensure!(exit == Some(2) && of(&steps, "traffic")? == ("fail", "nothing-returns"), "{steps:?}");
        lab.run(Node::HostB, "ip", &["route", "del", "blackhole", "10.1.0.0/24"])?;
        comes_to(&a, "flowing").context("there is a way back")?;
        ping.stop()?;

        // Our own side does not forward.
        lab.run(Node::GatewayA, "sysctl", &["-w", "net.ipv4.ip_forward=0"])?;
        anew(&a)?;
        let health = comes_to(&a, "nothing-enters")?;
        ensure!(word(&health, "step").contains("net.ipv4.ip_forward=1"), "{health}");
        lab.run(Node::GatewayA, "sysctl", &["-w", "net.ipv4.ip_forward=1"])?;
        lab.ping(Side::A, Family::V4, 2)?;
        comes_to(&a, "flowing").context("as the step says").map(drop)
    })
}

/// The probes are ordinary liveness checks to it.
#[test]
fn commissioning_with_strongswan_shows_now_what_would_fail_in_hours() -> Result<()> {
    with_lab("commission", Topology::default(), |lab| {
        let a = Adit::start(
            lab,
            Side::A,
            &Connection { encap: true, esp_proposals: format!("{ESP}-x25519"), ..connection(Side::A) },
        )?;
        let of_b = |esp: &str| Connection { esp_proposals: esp.to_owned(), ..connection(Side::B) };
        // The first SA of a child needs no key exchange of its own, so this comes up.
        let b = StrongSwan::start(lab, Side::B, &of_b(ESP))?;
        a.initiate()?;
        lab.ping(Side::A, Family::V4, 2)?;
        let commission = ["--commission", "--yes"];
        let shown = run_unchecked(a.command().args(["test", CHILD]).args(commission))?.stdout;
        manual::shows("commission", &String::from_utf8(shown)?)?;
        let (exit, steps) = try_it(&a, &commission)?;
        ensure!(exit == Some(2), "{exit:?} {steps:?}");
        for passed in ["liveness", "path", "traffic", "rekey-ike"] {
            ensure!(of(&steps, passed)? == ("pass", "ok"), "{passed}: {steps:?}");
        }
        ensure!(of(&steps, "rekey-child")? == ("fail", "no-proposal-chosen"), "{steps:?}");
        let failed = steps.iter().find(|step| word(step, "step") == "rekey-child").context("there it is")?;
        ensure!(word(failed, "message").contains("NO_PROPOSAL_CHOSEN"), "{failed}");
        ensure!(word(failed, "next").contains("esp_proposals"), "{failed}");
        // What would not have come up again is not taken down.
        ensure!(of(&steps, "delete").is_err(), "{steps:?}");
        lab.ping(Side::A, Family::V4, 2)?;

        b.reload(&of_b(&format!("{ESP}-x25519")))?;
        anew(&a)?;
        let (exit, steps) = try_it(&a, &["--commission", "--yes"])?;
        ensure!(exit == Some(0) && of(&steps, "establish")? == ("pass", "ok"), "{exit:?} {steps:?}");
        lab.ping(Side::A, Family::V4, 2)
    })
}

#[test]
fn a_black_hole_is_found_and_heeded() -> Result<()> {
    with_lab("hole", Topology::default(), |lab| {
        let a = Adit::start(lab, Side::A, &connection(Side::A))?;
        let _b = Adit::start(lab, Side::B, &connection(Side::B))?;
        a.initiate()?;
        lab.ping(Side::A, Family::V4, 2)?;
        // Those who would tell of it are silent.
        net(lab, "iifname \"a0\" meta length > 1300 drop")?;
        let (exit, steps) = try_it(&a, &[])?;
        ensure!(exit == Some(2) && of(&steps, "path")? == ("fail", "path-mtu"), "{exit:?} {steps:?}");
        let path = steps.iter().find(|step| word(step, "step") == "path").context("there it is")?;
        ensure!(word(path, "message").contains("1500") && word(path, "message").contains("1300"), "{path}");
        ensure!(word(&comes_to(&a, "path-mtu")?, "step").contains("probe_path = yes"), "the step");

        let mut transfer = Transfer::start(lab)?;
        let large = ["-n", "-c", "2", "-W", "1", "-M", "dont", "-s", "1372", Side::B.host(Family::V4)];
        let reaches = || -> Result<bool> {
            Ok(run_unchecked(lab.command(Node::HostA, "ping").args(large))?.status.success())
        };
        ensure!(!reaches()? && !transfer.is_done()?, "there is no hole");
        let text = std::fs::read_to_string(a.config())?;
        std::fs::write(a.config(), text.replace("version = 2", "version = 2\n    probe_path = yes"))?;
        run(a.command().arg("reload"))?;
        eventually("the limit", PATIENCE, || {
            let status = a.status()?;
            let health = status.pointer("/connections/0/children/0/health").cloned().unwrap_or_default();
            Ok((health.get("path_limit") == Some(&Value::from(1300))).then_some(()))
        })?;
        ensure!(reaches()?, "divided, it passes");
        transfer.ends()?;
        let (exit, steps) = try_it(&a, &[])?;
        ensure!(exit == Some(0) && of(&steps, "path")? == ("pass", "ok"), "{exit:?} {steps:?}");
        let status = run_unchecked(a.command().arg("status"))?;
        let text = String::from_utf8_lossy(&status.stdout);
        ensure!(status.status.success() && text.contains("at most 1300 octets"), "{text}");
        // The way is wide again, and nothing is held against it.
        no_longer(lab)?;
        let text = std::fs::read_to_string(a.config())?;
        std::fs::write(a.config(), text.replace("probe_path = yes", "probe_path = no"))?;
        run(a.command().arg("reload"))?;
        let (exit, steps) = try_it(&a, &[])?;
        ensure!(exit == Some(0), "{steps:?}");
        comes_to(&a, "flowing").map(drop)
    })
}

/// A megabyte by TCP from host A to host B.
struct Transfer([Process; 2]);

impl Transfer {
    fn start(lab: &Lab) -> Result<Self> {
        let program = own_program("lab-transfer")?;
        let target = format!("{}:7000", Side::B.host(Family::V4));
        let mut receive = lab.command(Node::HostB, &program);
        let receiver = Process::spawn("receive", receive.args(["receive", &target]), lab.dir())?;
        eventually("the receiver to listen", PATIENCE, || {
            Ok(receiver.own_output().contains("listening").then_some(()))
        })?;
        let mut send = lab.command(Node::HostA, &program);
        let sender = Process::spawn("send", send.args(["send", &target, "1000000"]), lab.dir())?;
        Ok(Self([receiver, sender]))
    }

    fn is_done(&mut self) -> Result<bool> {
        self.0[0].ended()
    }

    fn ends(mut self) -> Result<()> {
        for process in &mut self.0 {
            let code = process.wait(Duration::from_secs(30))?;
            ensure!(code == Some(0), "{}", process.output());
        }
        Ok(())
    }
}
