//! What an operator sees by HTTP: it agrees with `adit status` and vici, a real Prometheus takes it, rules and dashboard
//! find their data, and the status page is looked at with a real browser.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use adit_lab::adit::{Adit, Settings};
use adit_lab::lab::{Family, Lab, Node, Side, Topology, need, with_lab};
use adit_lab::manual;
use adit_lab::peer::Peer;
use adit_lab::process::{Process, eventually, run, tell};
use adit_lab::web::{HTTP, get, json, look, metric, until};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A peer whose identity would be a program if anything took it for HTML.
const HOSTILE: &str = "<img src=x onerror=document.body.remove()>";

/// What stands for it: an identity with such characters is shown in hexadecimal digits, these are those of `<img `.
const SHOWN: &str = "fqdn:#3c696d6720";

/// A connection whose name would be an element if anything took it for HTML. It is shown as it is.
const NAME: &str = "<img>site";

fn http() -> Settings {
    Settings { extra: format!("http = {HTTP}"), ..Settings::default() }
}

/// A site behind B, as A or B has it.
struct Site<'a> {
    name: &'a str,
    /// Of the remote gateway.
    id: &'a str,
    network: String,
    start: bool,
}

fn configuration(side: Side, sites: &[Site<'_>]) -> String {
    let mut text = "connections {\n".to_owned();
    let (outer, other) = (side.outer(Family::V4), side.other().outer(Family::V4));
    for Site { name, id, network, start } in sites {
        let hq = "hq.lab.example";
        let (local, remote) = if side == Side::A { (hq, *id) } else { (*id, hq) };
        let (ours, theirs) = if side == Side::A {
            (Side::A.network(Family::V4), network.as_str())
        } else {
            (network.as_str(), Side::A.network(Family::V4))
        };
        let start = if *start && side == Side::A { "start_action = start" } else { "" };
        let _ = writeln!(
            text,
            "{name} {{\n local_addrs = {outer}\n remote_addrs = {other}\n \
             proposals = aes128gcm16-prfsha256-x25519\n \
             local {{\n auth = psk\n id = \"fqdn:{local}\"\n }}\n remote {{\n auth = psk\n id = \"fqdn:{remote}\"\n }}\n \
             children {{\n lan {{\n esp_proposals = aes128gcm16\n local_ts = {ours}\n remote_ts = {theirs}\n {start}\n }}\n }}\n}}"
        );
    }
    text.push_str("}\nsecrets {\n ike {\n secret = \"lab-secret-0123456789-not-for-use\"\n }\n}\n");
    text
}

#[test]
fn all_views_agree_and_prometheus_and_a_browser_take_them() -> Result<()> {
    with_lab("monitor", Topology::default(), |lab| {
        let site = |name, id, network: &str| Site { name, id, network: network.into(), start: true };
        let network = Side::B.network(Family::V4);
        let one = [site(NAME, HOSTILE, network)];
        let _b = Adit::start_text(lab, Side::B, &configuration(Side::B, &one), &Settings::default())?;
        let a = Adit::start_text(lab, Side::A, &configuration(Side::A, &one), &http())?;
        let up = |value: &Value| value.pointer("/totals/up") == Some(&Value::from(1));
        until(lab, Node::GatewayA, "/api/snapshot", "the tunnel", up)?;
        lab.ping(Side::A, Family::V4, 3)?;
        lab.ping(Side::B, Family::V4, 2)?;
        agree(lab, &a)?;
        let (ready, body) = get(lab, Node::GatewayA, HTTP, "/readyz")?;
        ensure!(ready == 200 && body.contains("\"up\":1"), "{ready} {body}");
        ensure!(get(lab, Node::GatewayA, HTTP, "/healthz")?.0 == 200);
        ensure!(!a.log().contains("WARN"), "{}", a.log());
        page_of_one(lab)?;

        // A second one that cannot come up: there is no such peer.
        let two = [site(NAME, HOSTILE, network), site("lost", "nobody.lab.example", "10.77.0.0/24")];
        let gateway = std::fs::read_to_string(a.config())?;
        let gateway = gateway.split_once("gateway {").context("a section")?.1;
        std::fs::write(a.config(), format!("{}gateway {{{gateway}", configuration(Side::A, &two)))?;
        run(a.command().arg("reload"))?;
        let lost = |value: &Value| value.pointer("/down/0/connection") == Some(&Value::from("lost"));
        until(lab, Node::GatewayA, "/readyz", "the lost one", |value| {
            lost(value) && value.get("ready") == Some(&Value::from(true))
        })?;
        agree(lab, &a)?;
        prometheus(lab)
    })
}

/// `adit status`, vici, `/metrics` and `/api/snapshot` say the same of every child.
fn agree(lab: &Lab, a: &Adit) -> Result<()> {
    let raw = get(lab, Node::GatewayA, HTTP, "/metrics")?.1;
    let snapshot = json(lab, Node::GatewayA, HTTP, "/api/snapshot")?;
    let status = a.status()?;
    let sas = a.facts()?;
    ensure!(snapshot.get("state") == status.get("state"), "{snapshot}\n{status}");
    let listed =
        |value: &Value| value.get("connections").and_then(Value::as_array).cloned().context("connections");
    let mut theirs = BTreeMap::new();
    for connection in listed(&status)? {
        theirs.insert(connection.get("name").map(Value::to_string), connection);
    }
    ensure!(theirs.len() == listed(&snapshot)?.len());
    for ours in listed(&snapshot)? {
        let told = theirs.get(&ours.get("name").map(Value::to_string)).context("a connection")?;
        for same in [
            "configured",
            "local_addrs",
            "remote_addrs",
            "local_id",
            "remote_id",
            "/children/0/name",
            "/children/0/up",
            "/children/0/start",
            "/children/0/local_ts",
            "/children/0/remote_ts",
            "/children/0/sas/0/id",
            "/children/0/sas/0/state",
            "/children/0/sas/0/spi_in",
            "/children/0/sas/0/spi_out",
            "/children/0/sas/0/suite",
            "/children/0/sas/0/packets_in",
            "/children/0/sas/0/bytes_in",
            "/children/0/sas/0/packets_out",
            "/children/0/sas/0/bytes_out",
            "/children/0/sas/0/local_ts",
            "/children/0/sas/0/remote_ts",
            "/ike_sas/0/id",
            "/ike_sas/0/suite",
            "/ike_sas/0/local",
            "/ike_sas/0/remote",
            "/ike_sas/0/remote_id",
            "/last_failure/code",
            "/last_failure/step",
            "/children/0/explained/state",
            "/children/0/explained/code",
            "/children/0/explained/step",
            "/children/0/health/code",
            "/children/0/health/direction",
        ] {
            let path = if same.starts_with('/') { same.to_owned() } else { format!("/{same}") };
            // One that is being tried has an IKE SA now and then.
            if told.pointer("/children/0/up") == Some(&Value::from(false)) && same.contains("sas") {
                continue;
            }
            ensure!(ours.pointer(&path) == told.pointer(&path), "{same}: {ours}\n{told}");
        }
        let name = ours.get("name").and_then(Value::as_str).context("a name")?;
        let labels = format!("{{connection=\"{name}\",child=\"lan\"}}");
        let number = |path: &str| ours.pointer(path).and_then(Value::as_f64).context(path.to_owned());
        let up = ours.pointer("/children/0/up") == Some(&Value::from(true));
        // With 1 it is down, which is an answer as well.
        let explained = a.command().args(["explain", "--json", name]).output()?;
        let explained: Value = serde_json::from_slice(&explained.stdout)?;
        for key in ["state", "code"] {
            let told = explained.pointer(&format!("/explanations/0/{key}"));
            ensure!(
                told == ours.pointer(&format!("/children/0/explained/{key}")),
                "{key}: {explained}\n{ours}"
            );
        }
        ensure!(metric(&raw, &format!("adit_child_up{labels}"))? == f64::from(u8::from(up)));
        if !up {
            let reason = ours.pointer("/children/0/reason").and_then(Value::as_str).context("a reason")?;
            let series =
                format!("adit_child_down_reason{{connection=\"{name}\",child=\"lan\",reason=\"{reason}\"}}");
            ensure!(metric(&raw, &series)? == 1.0);
            continue;
        }
        let sa = sas.iter().find(|sa| sa.connection == name).context("an SA by vici")?;
        let child = sa.children.first().context("a child by vici")?;
        for (key, series) in [
            ("packets-in", "adit_child_received_packets_total"),
            ("bytes-in", "adit_child_received_bytes_total"),
            ("packets-out", "adit_child_sent_packets_total"),
            ("bytes-out", "adit_child_sent_bytes_total"),
        ] {
            let ours = number(&format!("/children/0/traffic/{}", key.replace('-', "_")))?;
            ensure!(
                ours > 0.0 && metric(&raw, &format!("{series}{labels}"))? == ours,
                "{key}: {ours}\n{raw}"
            );
            ensure!(child.value(key)?.parse::<f64>()? == ours, "{key} by vici: {child:?}, not {ours}");
        }
        ensure!(
            Some(child.value("spi-in")?) == ours.pointer("/children/0/sas/0/spi_in").and_then(Value::as_str)
        );
    }
    Ok(())
}

fn page_of_one(lab: &Lab) -> Result<()> {
    let found = look(lab, Node::GatewayA, "1", NAME)?;
    let text =
        |path: &str| found.pointer(path).and_then(Value::as_str).map(str::to_owned).context(path.to_owned());
    ensure!(text("/rows/0/0")?.ends_with("up") && text("/rows/0/1")? == NAME, "{found}");
    ensure!(text("/rows/0/2")?.starts_with(SHOWN), "{found}");
    ensure!(found.get("images") == Some(&Value::from(0)), "a name is HTML: {found}");
    ensure!(text("/sum")?.contains("1 of 1 wanted up") && text("/live")? == "live", "{found}");
    let order: Vec<String> = serde_json::from_value(found.get("order").cloned().context("an order")?)?;
    ensure!(order == ["skip", "home", "words", "all", "row", "A"], "the focus goes {order:?}");
    ensure!(text("/slash")? == "words" && text("/arrow")? == "row", "{found}");
    let tunnel = text("/tunnel")?;
    for part in [
        NAME,
        SHOWN,
        "AES_GCM_16_128",
        "10.1.0.0/24",
        "10.2.0.0/24",
        "5 packets",
        "What happened",
        "up",
        // Whether packets pass, and what is said of it.
        "packets leave, and packets arrive [flowing]",
        "nothing to explain [up]",
    ] {
        ensure!(tunnel.contains(part), "no {part:?} in: {tunnel}");
    }
    Ok(())
}

/// The root of the workspace.
fn workspace() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Debian's Prometheus scrapes the gateway and judges it by the rules; every query of the dashboard has an answer.
fn prometheus(lab: &Lab) -> Result<()> {
    let (promtool, prometheus) = (need("promtool", "prometheus")?, need("prometheus", "prometheus")?);
    let dist = workspace().join("dist").canonicalize()?;
    run(Command::new(&promtool).args(["test", "rules"]).arg(dist.join("prometheus/adit.test.yml")))?;
    let metrics = lab.dir().join("metrics.txt");
    std::fs::write(&metrics, get(lab, Node::GatewayA, HTTP, "/metrics")?.1)?;
    run(Command::new("sh").args(["-c", "exec \"$0\" check metrics <\"$1\""]).arg(&promtool).arg(&metrics))?;

    let config = lab.dir().join("prometheus.yml");
    std::fs::copy(dist.join("prometheus/adit.rules.yml"), lab.dir().join("adit.rules.yml"))?;
    // The manual's, in more of a hurry.
    let page = manual::block("yaml", "")?.body;
    ensure!(page.contains(HTTP), "{page}");
    std::fs::write(&config, format!("global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n{page}"))?;
    let mut command = lab.command(Node::GatewayA, prometheus);
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", lab.dir().join("tsdb").display()));
    command.arg(format!("--web.listen-address={PROMETHEUS}"));
    let server = Process::spawn("prometheus", &mut command, lab.dir())?;
    let answered = |query: &str| -> Result<Option<Value>> {
        let encoded: String = query.bytes().map(|octet| format!("%{octet:02X}")).collect();
        let Ok((_, body)) = get(lab, Node::GatewayA, PROMETHEUS, &format!("/api/v1/query?query={encoded}"))
        else {
            return Ok(None);
        };
        let Ok(body) = serde_json::from_str::<Value>(&body) else { return Ok(None) };
        ensure!(body.get("status") != Some(&Value::from("error")), "{query}: {body}");
        let some = body.pointer("/data/result").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
        Ok(some.then_some(body))
    };
    eventually("five scrapes", Duration::from_secs(30), || {
        answered("count_over_time(up{job=\"adit\"}[1m]) >= 5 and up == 1")
    })
    .with_context(|| server.output())?;
    let dashboard: Value = serde_json::from_slice(&std::fs::read(dist.join("grafana/adit.json"))?)?;
    let mut queries = 0;
    for panel in dashboard.get("panels").and_then(Value::as_array).context("panels")? {
        for target in panel.get("targets").and_then(Value::as_array).context("targets")? {
            let query = target.get("expr").and_then(Value::as_str).context("a query")?;
            let query = query
                .replace("$__rate_interval", "10s")
                .replace("$instance", ".*")
                .replace("$connection", ".*");
            eventually(&format!("an answer to {query}"), Duration::from_secs(15), || answered(&query))?;
            queries += 1;
        }
    }
    ensure!(queries >= 20, "only {queries} queries");
    let judged = |value: &Value| {
        let rules =
            value.pointer("/data/groups/0/rules").and_then(Value::as_array).cloned().unwrap_or_default();
        let well = rules.iter().all(|rule| rule.get("health") == Some(&Value::from("ok")));
        let down = rules.iter().find(|rule| rule.get("name") == Some(&Value::from("AditTunnelDown")));
        let alert = down.and_then(|rule| rule.pointer("/alerts/0/labels/connection"));
        rules.len() == 9 && well && alert == Some(&Value::from("lost"))
    };
    eventually("the alert of the lost tunnel, and rules that are well", Duration::from_secs(15), || {
        let (_, body) = get(lab, Node::GatewayA, PROMETHEUS, "/api/v1/rules")?;
        Ok(serde_json::from_str(&body).ok().filter(judged))
    })?;
    Ok(())
}

const PROMETHEUS: &str = "127.0.0.1:9090";

/// Real tunnels between two gateways: of each ten, one is refused by the peer and one is not asked for.
#[test]
fn the_page_of_50_and_of_1000_tunnels() -> Result<()> {
    with_lab("many", Topology::default(), |lab| {
        for number in [50, 1000] {
            many(lab, number).with_context(|| format!("{number} tunnels"))?;
        }
        Ok(())
    })
}

fn many(lab: &Lab, number: usize) -> Result<()> {
    let names: Vec<(String, String)> =
        (0..number).map(|n| (format!("site-{n}"), format!("site-{n}.lab.example"))).collect();
    let sites = |wanted: fn(usize) -> bool| -> Vec<Site<'_>> {
        let chosen = names.iter().enumerate().filter(|(n, _)| wanted(*n));
        chosen
            .map(|(n, (name, id))| {
                let network = format!("10.{}.{}.0/24", 100 + n / 256, n % 256);
                Site { name, id, network, start: n % 10 != 7 }
            })
            .collect()
    };
    let (ours, theirs) = (sites(|_| true), sites(|n| n % 10 != 3));
    let (up, refused) = (number / 10 * 8, number / 10);
    let b = Adit::start_text(lab, Side::B, &configuration(Side::B, &theirs), &Settings::default())?;
    let a = Adit::start_text(lab, Side::A, &configuration(Side::A, &ours), &http())?;
    let settled = |value: &Value| {
        let total = |name: &str| value.pointer(&format!("/totals/{name}")).and_then(Value::as_u64);
        total("up") == Some(up as u64) && total("missing") == Some(refused as u64)
    };
    until(lab, Node::GatewayA, "/api/overview", "all tunnels", settled)?;
    let found = look(lab, Node::GatewayA, &number.to_string(), "site-3")?;
    let rows: Vec<[String; 5]> = serde_json::from_value(found.get("rows").cloned().context("rows")?)?;
    ensure!(rows.len() == number.min(200), "{} rows", rows.len());
    for [state, name, ..] in &rows {
        let n: usize = name.strip_prefix("site-").context("a name")?.parse()?;
        let expected = match n % 10 {
            3 => "down",
            7 => "not asked for",
            _ => "up",
        };
        ensure!(state.ends_with(expected), "{name} is {state}, not {expected}");
    }
    ensure!(found.get("drawn") == Some(&Value::from(number)), "{:?} sites are drawn", found.get("drawn"));
    let described = found.get("described").and_then(Value::as_str).context("a description")?;
    ensure!(described.contains(&format!("{up} up, {refused} down, {refused} not asked for")), "{described}");
    let search = found.get("search").and_then(Value::as_f64).context("a time")?;
    ensure!(search < 500.0, "a key in the search takes {search} ms");
    let tunnel = found.get("tunnel").and_then(Value::as_str).context("a tunnel")?;
    for part in [
        "Why it is not up",
        "refused-by-peer",
        "refused our authentication",
        "To do: compare on the peer",
        "this gateway",
    ] {
        ensure!(tunnel.contains(part), "no {part:?} in: {tunnel}");
    }
    let metrics = get(lab, Node::GatewayA, HTTP, "/metrics")?.1;
    let (cost, octets) = (metric(&metrics, "adit_snapshot_seconds")?, metrics.len());
    tell(&format!(
        "{number} tunnels: a snapshot costs {cost:.4} s, /metrics has {octets} octets, a search {search:.1} ms"
    ));
    a.terminate_daemon()?;
    b.terminate_daemon()
}
