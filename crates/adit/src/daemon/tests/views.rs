//! Whoever looks at a daemon, by whichever way, is told the same.

use serde_json::Value;
use tokio::sync::oneshot;

use super::*;
use crate::http::Ask;
use crate::snapshot::Snapshot;

/// As `text`, with a second child that the other side has not, or that nothing starts.
fn two_children(own: &str, peer: &str, net: &str, lab: &str) -> String {
    let lab = format!(
        "children {{ lab {{ local_ts = 10.1{own}.0.0/16\n remote_ts = 10.1{peer}.0.0/16\n {lab} }}\n"
    );
    text(own, peer, SECRET, net).replace("children {", &lab)
}

impl Side {
    /// A new snapshot.
    pub(super) fn snapshot(&mut self, now: Instant) -> Arc<Snapshot> {
        self.daemon.looks.configured();
        let (ask, mut answer) = oneshot::channel();
        self.daemon.show(now, Ask::Snapshot(ask));
        self.count(now);
        loop {
            if let Ok(snapshot) = answer.try_recv() {
                return snapshot;
            }
            self.daemon.look_on(now);
        }
    }

    /// The same, as a program gets it.
    fn shown(&mut self, now: Instant) -> Value {
        serde_json::to_value(&*self.snapshot(now)).unwrap()
    }
}

#[test]
fn a_failure_stays_until_its_own_child_succeeds() {
    let now = Instant::now();
    let mut a = Side::new(now, "1", "2", SECRET, "");
    let mut b = Side::new(now, "2", "1", SECRET, "");
    reload(&mut a, now, &two_children("1", "2", "", ""));
    a.command(now, "initiate", &[("ike", "gw"), ("child", "lab")]);
    talk(now, &mut a, &mut b);
    a.command(now, "initiate", &[("ike", "gw"), ("child", "net")]);
    talk(now, &mut a, &mut b);

    let shown = a.shown(now);
    let connection = &shown["connections"][0];
    let children = connection["children"].as_array().unwrap();
    let child = |name: &str| children.iter().find(|child| child["name"] == name).unwrap();
    assert_eq!((&child("net")["up"], &child("lab")["up"]), (&Value::from(true), &Value::from(false)));
    assert_eq!(child("lab")["reason"], "ts-unacceptable");
    let (explained, _) = answer(&mut a.command(now, "explain", &[("ike", "gw"), ("child", "lab")]));
    for (ours, theirs) in [("code", "code"), ("message", "cause"), ("step", "step")] {
        let told = explained[0].text(theirs).unwrap();
        assert_eq!(connection["last_failure"][ours].as_str(), Some(&*told), "{ours}: {shown}");
    }

    // Once the peer has it as well, all is well.
    reload(&mut b, now, &two_children("2", "1", "", ""));
    a.command(now, "initiate", &[("ike", "gw"), ("child", "lab")]);
    talk(now, &mut a, &mut b);
    assert!(a.shown(now)["connections"][0]["last_failure"].is_null());
}

/// What ended the last SA is why it is down, though nothing brings it up again and nothing was tried.
#[test]
fn a_dead_peer_is_told_by_every_view() {
    let begin = Instant::now();
    let mut a = Side::new(begin, "1", "2", SECRET, "dpd_action = none");
    let mut b = Side::new(begin, "2", "1", SECRET, "");
    a.command(begin, "initiate", &[("ike", "gw"), ("child", "net")]);
    talk(begin, &mut a, &mut b);
    // The peer is silent from now on.
    let mut now = begin;
    while a.removed().is_empty() && now < begin + Duration::from_secs(3600) {
        now = a.daemon.poll_timeout().unwrap().max(now);
        a.turn(now);
    }
    let down = now;
    now += Duration::from_secs(30);
    a.turn(now);
    agree(&mut a, now);
    let snapshot = a.snapshot(now);
    let child = &snapshot.connections[0].children[0];
    assert_eq!((child.up, child.reason), (false, Some("peer-dead")), "{child:?}");
    assert!(child.explained.cause.contains("30 s ago"), "{child:?}");
    assert!(child.explained.step.as_ref().unwrap().contains("dpd_action"), "{child:?}");
    assert!(down > begin + Duration::from_secs(10));
}

/// Everything that is told of everything, by whichever way.
fn agree(side: &mut Side, now: Instant) {
    let snapshot = side.snapshot(now);
    let shown = serde_json::to_value(&*snapshot).unwrap();
    let metrics = http::metrics_of(&snapshot);
    let mut told = |command: &str| answer(&mut side.command(now, command, &[])).0;
    let (conns, sas, health) = (told("list-conns"), told("list-sas"), told("health"));
    let (explained, negotiations) = (told("explain"), told("list-negotiations"));

    // Connections and their children, in their order.
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let texts = |value: &Value| value.as_array().unwrap().iter().filter_map(text).collect::<Vec<_>>();
    let list =
        |message: &Message, key: &str| message.list(key).map(|one| one.into_owned()).collect::<Vec<_>>();
    let none = Vec::new();
    let connections = shown["connections"].as_array().unwrap_or(&none);
    let configured = connections.iter().filter(|one| one["configured"] == true);
    assert_eq!(configured.clone().count(), conns.len());
    for (connection, told) in configured.zip(&conns) {
        let (name, told) = told.sections().next().unwrap();
        assert_eq!(text(&connection["name"]).as_deref(), Some(name));
        for key in ["local_addrs", "remote_addrs"] {
            assert_eq!(texts(&connection[key]), list(told, key), "{key}");
        }
        let children =
            connection["children"].as_array().unwrap().iter().filter(|one| one["configured"] == true);
        let told: Vec<_> = told.section("children").unwrap().sections().collect();
        assert_eq!(children.clone().count(), told.len());
        for (child, (name, told)) in children.zip(told) {
            assert_eq!(text(&child["name"]).as_deref(), Some(name));
            assert_eq!(
                (texts(&child["local_ts"]), texts(&child["remote_ts"])),
                (list(told, "local-ts"), list(told, "remote-ts"))
            );
            assert_eq!(child["start"] == true, told.text("start_action").unwrap().contains("start"));
        }
    }

    // SAs.
    let of_connections: Vec<_> =
        sas.iter().flat_map(Message::sections).filter(|(name, _)| *name != "(unnamed)").collect();
    let ike_sas = || connections.iter().flat_map(|one| one["ike_sas"].as_array().unwrap());
    let ids = |all: &mut dyn Iterator<Item = String>| all.collect::<std::collections::BTreeSet<_>>();
    assert_eq!(
        ids(&mut ike_sas().map(|sa| format!("{} {}", sa["id"], sa["state"].as_str().unwrap()))),
        ids(&mut of_connections.iter().map(|(_, sa)| format!(
            "{} {}",
            sa.text("uniqueid").unwrap(),
            sa.text("state").unwrap()
        )))
    );
    let children = || {
        connections
            .iter()
            .flat_map(|one| one["children"].as_array().unwrap().iter().map(move |child| (one, child)))
    };
    let by_vici = of_connections.iter().flat_map(|(_, sa)| sa.section("child-sas").unwrap().sections());
    assert_eq!(
        ids(&mut children().flat_map(|(_, child)| child["sas"].as_array().unwrap().iter().map(
            |sa| format!(
                "{} {} {} {} {}",
                child["name"].as_str().unwrap(),
                sa["id"],
                sa["state"].as_str().unwrap(),
                sa["spi_in"].as_str().unwrap(),
                sa["bytes_in"]
            )
        ))),
        ids(&mut by_vici.map(|(_, sa)| ["name", "uniqueid", "state", "spi-in", "bytes-in"]
            .map(|key| sa.text(key).unwrap().into_owned())
            .join(" ")))
    );

    // What is said of each child.
    let said = |message: &Message| {
        ["code", "cause", "step"].map(|key| message.text(key).unwrap_or_default().into_owned())
    };
    let mut degraded = 0;
    for (connection, child) in children() {
        let (ike, name) = (text(&connection["name"]).unwrap(), text(&child["name"]).unwrap());
        let labels = format!("connection=\"{ike}\",child=\"{name}\"");
        let up = child["up"] == true;
        assert!(metrics.contains(&format!("\nadit_child_up{{{labels}}} {}\n", u8::from(up))), "{labels}");
        let ours = &child["explained"];
        let ours_said = ["code", "cause", "step"].map(|key| text(&ours[key]).unwrap_or_default());
        if child["configured"] == true {
            let theirs = explained
                .iter()
                .find(|one| {
                    one.text("ike").as_deref() == Some(&ike) && one.text("child").as_deref() == Some(&name)
                })
                .unwrap();
            assert_eq!(ours_said, said(theirs), "{labels}");
            assert_eq!(text(&ours["state"]).as_deref(), theirs.text("state").as_deref());
        }
        let (one, _) = answer(&mut side.command(now, "explain", &[("ike", &ike), ("child", &name)]));
        assert_eq!(ours_said, said(&one[0]), "{labels}");
        assert_eq!(ours["state"] == "down", !up, "{labels}: {ours}");
        let code = &ours_said[0];
        let reason = |family: &str| {
            metrics.contains(&format!("\nadit_child_{family}_reason{{{labels},reason=\"{code}\"}} 1\n"))
        };
        assert_eq!(
            (reason("down"), reason("degraded")),
            (!up, up && ours["state"] == "degraded"),
            "{labels}: {ours}"
        );
        degraded += usize::from(child["configured"] == true && up && ours["state"] == "degraded");
        let verdict = health
            .iter()
            .flat_map(Message::sections)
            .find(|(section, _)| *section == format!("{ike}/{name}"));
        assert_eq!(child["health"].is_null(), verdict.is_none(), "{labels}");
        if let Some((_, verdict)) = verdict {
            for key in ["code", "message", "direction"] {
                assert_eq!(
                    text(&child["health"][key]).as_deref(),
                    verdict.text(key).as_deref(),
                    "{labels}: {key}"
                );
            }
            let code = verdict.text("code").unwrap();
            assert!(
                metrics.contains(&format!("\nadit_child_traffic_verdict{{{labels},code=\"{code}\",")),
                "{labels}"
            );
        }
        // A failure that is told of a child is one that is remembered.
        let told = |entry: &&Message| {
            !entry.flag("resolved")
                && said(entry)[0] == *code
                && entry.text("connection").is_none_or(|connection| connection == ike)
        };
        let outcome = adit_ike::OutcomeCode::ALL.iter().any(|one| one.name() == code) && code != "data-plane";
        assert_eq!(outcome, negotiations.iter().any(|entry| told(&entry)), "{labels}: {ours}");
    }
    // The last failure of a connection is the newest that stands.
    for connection in connections {
        let ike = text(&connection["name"]).unwrap();
        let stands = negotiations.iter().rev().find(|entry| {
            entry.text("connection").as_deref() == Some(&ike)
                && !entry.flag("resolved")
                && !["narrowed", "cancelled"].contains(&&*entry.text("code").unwrap())
        });
        let ours = &connection["last_failure"];
        assert_eq!(ours.is_null(), stands.is_none(), "{ike}");
        if let Some(stands) = stands {
            let ours = ["code", "message", "step"].map(|key| text(&ours[key]).unwrap());
            assert_eq!(ours, said(stands), "{ike}");
        }
    }
    // And how many.
    let totals = &snapshot.totals;
    let up = children().filter(|(_, child)| child["configured"] == true && child["up"] == true).count();
    assert_eq!((totals.up, totals.degraded), (up, degraded));
    for (name, value) in [
        ("adit_children_up", totals.up),
        ("adit_children_configured", totals.children),
        ("adit_children_missing", totals.missing),
        ("adit_children_degraded", totals.degraded),
        ("adit_ike_sas", totals.ike_sas),
        ("adit_sas", totals.child_sas),
    ] {
        assert!(metrics.contains(&format!("\n{name} {value}\n")), "{name} {value}");
    }
    assert_eq!(totals.ike_sas, of_connections.len());
}

/// Numbers that look like chance, the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        // Knuth's generator (MMIX); the upper bits are the better ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// Whatever happens, and whenever somebody looks.
#[test]
fn all_views_agree_at_every_moment() {
    for seed in 0..4 {
        let mut chance = Chance(seed);
        let mut now = Instant::now();
        let mut a = Side::new(now, "1", "2", SECRET, "");
        let mut b = Side::new(now, "2", "1", SECRET, "");
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..60 {
            let child = chance.of(&["net", "lab"]);
            let named: &[(&str, &str)] = &[("ike", "gw"), ("child", child)];
            let (one, other) = if chance.below(2) == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
            match chance.below(9) {
                0 | 1 => drop(one.command(now, "initiate", named)),
                2 => drop(one.command(
                    now,
                    "terminate",
                    if chance.below(2) == 0 { named } else { &named[..1] },
                )),
                3 => drop(one.command(now, "rekey", named)),
                4 => drop(one.command(now, "rekey", &named[..1])),
                // Somebody gives it another configuration.
                5 | 6 => {
                    let start = chance.of(&["", "start_action = start", "start_action = trap"]);
                    let secret = chance.of(&[SECRET, SECRET, "another"]);
                    let more = chance.of(&["", "", "\n inactivity = 20s", "\n esp_proposals = aes128gcm16"]);
                    let both = two_children("1", "2", &format!("{start}{more}"), start);
                    let text = match chance.below(5) {
                        0 => text("1", "2", secret, start),
                        1 => String::new(),
                        // Both sides have one network.
                        2 => both
                            .replace(SECRET, secret)
                            .replace("10.11.0.0", "10.1.0.0")
                            .replace("10.12.0.0", "10.2.0.0"),
                        _ => both.replace(SECRET, secret),
                    };
                    reload(&mut a, now, &text);
                }
                7 => {
                    reload(&mut b, now, &two_children("2", "1", "", chance.of(&["", "dpd_action = none"])));
                }
                // The way is cut for a while: of two who talk, one only hears itself.
                _ => {
                    other.sent();
                    for _ in 0..chance.below(12) {
                        now = one.daemon.poll_timeout().unwrap_or(now).max(now);
                        one.turn(now);
                        one.sent();
                        agree(one, now);
                    }
                }
            }
            agree(&mut a, now);
            let carries = chance.of(&[None, Some(now)]);
            a.deeds.world().last_in = carries;
            talk(now, &mut a, &mut b);
            for side in [&mut a, &mut b] {
                agree(side, now);
            }
            let snapshot = a.snapshot(now);
            seen.extend(snapshot.children().map(|(_, child)| child.explained.code));
            now += Duration::from_millis(chance.of(&[0, 100, 3_000, 40_000]));
            talk(now, &mut a, &mut b);
            agree(&mut a, now);
        }
        assert!(seen.len() >= 5, "too little has happened: {seen:?}");
    }
}

/// `number` connections that nothing starts.
fn many(number: usize) -> crate::config::Configuration {
    let mut text = "connections {\n".to_owned();
    for n in 0..number {
        let (high, low) = (n / 250, n % 250);
        text.push_str(&format!(
            "gw{n:06} {{ remote_addrs = 192.0.2.2\n local {{ auth = psk }}\n remote {{ auth = psk\n id = gw{n} }}\n \
             children {{ net {{ local_ts = 10.1.0.0/16\n remote_ts = 172.{}.{}.{low}/32 }} }} }}\n",
            high / 250,
            high % 250
        ));
    }
    text.push_str("}\nsecrets { ike-1 { secret = abc } }");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("swanctl.conf");
    std::fs::write(&file, text).unwrap();
    crate::config::load(&file).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_snapshot_of_many_is_made_between_everything_else() {
    let now = Instant::now();
    let mut a = Side::unconfigured(now);
    a.configure(now, many(3000)).unwrap();
    let (ask, mut answered) = oneshot::channel();
    a.daemon.show(now, Ask::Snapshot(ask));
    a.count(now);
    let mut bits = 0;
    let mut pulses = 0;
    let snapshot = loop {
        if let Ok(snapshot) = answered.try_recv() {
            break snapshot;
        }
        bits += 1;
        // Who asks whether the loop goes round need not wait for it; nor need a command, not even one that moves everything.
        let (ask, mut pulse) = oneshot::channel();
        a.daemon.show(now, Ask::Pulse(ask));
        pulses += usize::from(pulse.try_recv().is_ok());
        a.daemon.look_on(now);
        if bits == 1 {
            let mut fewer = many(3000);
            fewer.ike.connections.drain(..1000);
            a.configure(now, fewer).unwrap();
        }
    };
    assert!(bits > 1 && pulses == bits, "{bits} bits, {pulses} pulses");
    let names: std::collections::BTreeSet<&str> =
        snapshot.connections.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names.len(), snapshot.connections.len(), "each is there once");
    assert!(snapshot.connections.len() >= 2000);
    assert_eq!(a.snapshot(now).connections.len(), 2000, "the next one knows");
}
