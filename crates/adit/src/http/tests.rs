use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::snapshot::{Child, Connection, Count, Failures, Latency, Moment, Traffic};

/// One child up, one down for a reason, with names that mean something to every format.
fn shown() -> Snapshot {
    let hostile = "<img src=x onerror=alert(1)>\"\\\n";
    let up = Child {
        name: "lan".into(),
        configured: true,
        start: true,
        wanted: true,
        up: true,
        traffic: Traffic { packets_in: 3, bytes_in: 252, packets_out: 2, bytes_out: 168 },
        drops: vec![Count { cause: "replay", count: 5 }],
        ..Child::default()
    };
    let down = Child {
        name: "lan".into(),
        configured: true,
        start: true,
        wanted: true,
        reason: Some("no-proposal-chosen"),
        ..Child::default()
    };
    let connection = |name: &str, child| {
        Box::new(Connection {
            name: name.into(),
            configured: true,
            remote_id: hostile.into(),
            children: vec![child],
            ..Connection::default()
        })
    };
    let mut snapshot = Snapshot {
        version: "0",
        now: Moment::from(std::time::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250)),
        configured: true,
        connections: vec![connection("branch", up), connection(hostile, down)],
        ..Snapshot::default()
    };
    snapshot.ike.negotiation_failures =
        vec![Failures { stage: "IKE_SA_INIT", code: "no-proposal-chosen", count: 7 }];
    let mut histogram = adit_ike::Histogram::default();
    [1, 3, 100_000].into_iter().for_each(|ms| histogram.add(Duration::from_millis(ms)));
    snapshot.ike.handshakes_begun_by_us = Latency::from(&histogram);
    snapshot.sum_up();
    snapshot
}

fn site(local: Option<&str>) -> Site {
    let source = Source::Fixed(Arc::new(shown()));
    Site { source, local: local.map(|local| local.parse().unwrap()), counters: Counters::default() }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// What a client gets that sends this and then nothing more.
fn conversation(site: &Site, sent: &str) -> String {
    runtime().block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(sent.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        converse(site, server).await;
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        String::from_utf8(got).unwrap()
    })
}

fn get(path: &str, more: &str) -> String {
    conversation(&site(None), &format!("GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n"))
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[test]
fn only_reading_is_answered_and_every_answer_is_locked_down() {
    for (request, status) in [
        ("GET / HTTP/1.1", "200 OK"),
        ("HEAD /metrics HTTP/1.1", "200 OK"),
        ("GET /nothing HTTP/1.1", "404 Not Found"),
        ("GET /api/connection?name=none HTTP/1.1", "404 Not Found"),
        ("POST / HTTP/1.1", "405 Method Not Allowed"),
        ("DELETE /api/snapshot HTTP/1.1", "405 Method Not Allowed"),
        ("OPTIONS * HTTP/1.1", "405 Method Not Allowed"),
        ("GET /page.js HTTP/1.1", "200 OK"),
    ] {
        let answer = conversation(&site(None), &format!("{request}\r\nHost: x\r\n\r\n"));
        let lower = answer.to_lowercase();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request}: {answer}");
        for header in ["content-security-policy: default-src 'none';", "x-content-type-options: nosniff"] {
            assert!(lower.contains(header), "{request}: {answer}");
        }
        assert!(!lower.contains("access-control"), "{request}: {answer}");
        assert_eq!(request.starts_with("HEAD"), body(&answer).is_empty(), "{request}: {answer}");
    }
    assert!(conversation(&site(None), "BREW\r\n\r\n").starts_with("HTTP/1.1 400"));
    let big = format!("GET / HTTP/1.1\r\nHost: x\r\nCookie: {}\r\n\r\n", "a".repeat(MOST_HEAD));
    assert!(conversation(&site(None), &big).starts_with("HTTP/1.1 431"));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(MOST_HEADERS));
    assert!(conversation(&site(None), &many).starts_with("HTTP/1.1 431"));
}

/// DNS rebinding: a page of the world has a name that leads to the loopback address.
#[test]
fn on_loopback_only_names_of_this_machine_are_answered() {
    for (local, request, answered) in [
        (Some("127.0.0.1:9511"), "GET / HTTP/1.1\r\nHost: 127.0.0.1:9511", true),
        (Some("127.0.0.1:9511"), "GET / HTTP/1.1\r\nHost: localhost", true),
        (Some("127.0.0.1:9511"), "GET / HTTP/1.1\r\nHost: LOCALHOST:80", true),
        (Some("[::1]:9511"), "GET / HTTP/1.1\r\nHost: [::1]:9511", true),
        (Some("127.0.0.1:9511"), "GET / HTTP/1.1\r\nHost: evil.example:9511", false),
        (Some("127.0.0.1:9511"), "GET / HTTP/1.1\r\nHost: localhost.evil.example", false),
        (Some("127.0.0.1:9511"), "GET / HTTP/1.1\r\nHost: 127.0.0.1.evil.example", false),
        (Some("127.0.0.1:9511"), "GET / HTTP/1.1\r\nHost: evil@127.0.0.1", true),
        (Some("127.0.0.1:9511"), "GET / HTTP/1.1\r\nHost: 192.0.2.1", false),
        (Some("127.0.0.1:9511"), "GET / HTTP/1.1\r\nHost: ", false),
        (Some("127.0.0.1:9511"), "GET / HTTP/1.1\r\nX: y", false),
        (Some("127.0.0.1:9511"), "GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example", false),
        (Some("127.0.0.1:9511"), "GET http://evil.example/ HTTP/1.1\r\nHost: localhost", false),
        (Some("192.0.2.1:9511"), "GET / HTTP/1.1\r\nHost: gateway.example", true),
        (None, "GET / HTTP/1.1\r\nHost: anything", true),
    ] {
        let answer = conversation(&site(local), &format!("{request}\r\n\r\n"));
        let status = if answered { "HTTP/1.1 200" } else { "HTTP/1.1 421" };
        assert!(answer.starts_with(status), "{request}: {answer}");
    }
}

#[test]
fn what_a_client_has_already_is_not_sent_again() {
    for path in ["/api/snapshot", "/api/overview", "/api/connection?name=branch", "/page.js"] {
        let first = get(path, "");
        let tag = first.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
        let again = get(path, &format!("If-None-Match: \"x\", W/{tag}\r\n"));
        assert!(again.starts_with("HTTP/1.1 304"), "{again}");
        assert_eq!(body(&again), "");
        assert!(get(path, "If-None-Match: \"other\"\r\n").starts_with("HTTP/1.1 200"));
    }
}

#[test]
fn json_begins_with_its_schema_and_keeps_hostile_names_as_text() {
    for path in ["/api/snapshot", "/api/overview", "/api/connection?name=branch", "/healthz", "/readyz"] {
        let answer = get(path, "");
        assert!(body(&answer).starts_with("{\"schema\":1,"), "{path}: {answer}");
        let value: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
        assert_eq!(value["schema"], 1);
    }
    let whole: serde_json::Value = serde_json::from_str(body(&get("/api/snapshot", ""))).unwrap();
    assert_eq!(whole["now"], 1_700_000_000.25);
    assert_eq!(whole["state"], "degraded");
    assert_eq!(whole["totals"]["missing"], 1);
    // By name.
    assert_eq!(whole["connections"][0]["name"], "<img src=x onerror=alert(1)>\"\\\n");
    assert_eq!(whole["connections"][1]["children"][0]["traffic"]["bytes_in"], 252);
    // A secret has no way into a snapshot: nothing in it is of a kind that could hold one.
    assert!(!body(&get("/api/snapshot", "")).contains("secret"));
}

/// A peer that cannot be reached does not make the gateway unready; what nobody knows the end of does.
#[test]
fn readiness() {
    let ready = |change: fn(&mut Snapshot)| {
        let mut snapshot = shown();
        change(&mut snapshot);
        let site =
            Site { source: Source::Fixed(Arc::new(snapshot)), local: None, counters: Counters::default() };
        let answer = conversation(&site, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n");
        let value: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
        assert_eq!(value["ready"] == true, answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(value["ready"] == true, value["why"].is_null(), "{answer}");
        (value["ready"] == true, value["down"].as_array().unwrap().len())
    };
    assert_eq!(ready(|_| {}), (true, 1));
    assert_eq!(ready(|s| s.connections[1].children[0].reason = Some("connecting")), (false, 1));
    assert_eq!(ready(|s| s.connections[1].children[0].reason = None), (false, 1));
    assert_eq!(ready(|s| s.connections[1].children[0].wanted = false), (true, 0));
    assert_eq!(ready(|s| s.configured = false), (false, 1));
    assert_eq!(ready(|s| s.stopping = true), (false, 1));
}

#[test]
fn metrics_in_both_formats() {
    let old = get("/metrics", "Accept: text/plain\r\n");
    assert!(old.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    let new = get("/metrics", "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n");
    assert!(new.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    assert!(get("/metrics", "Accept: application/openmetrics-text;q=0\r\n").contains("text/plain"));
    for line in [
        "adit_child_up{connection=\"branch\",child=\"lan\"} 1",
        // The escapes of the formats: backslash, quote, line end.
        "adit_child_down_reason{connection=\"<img src=x onerror=alert(1)>\\\"\\\\\\n\",child=\"lan\",reason=\"no-proposal-chosen\"} 1",
        "adit_child_received_bytes_total{connection=\"branch\",child=\"lan\"} 252",
        "adit_child_drops_total{connection=\"branch\",child=\"lan\",cause=\"replay\"} 5",
        "adit_negotiation_failures_total{stage=\"IKE_SA_INIT\",code=\"no-proposal-chosen\"} 7",
        "adit_children_missing 1",
        // 1 ms is in the first class, 3 ms in the third, 100 s beyond the last.
        "adit_handshake_duration_seconds_bucket{role=\"initiator\",le=\"0.001\"} 1",
        "adit_handshake_duration_seconds_bucket{role=\"initiator\",le=\"0.002\"} 1",
        "adit_handshake_duration_seconds_bucket{role=\"initiator\",le=\"0.004\"} 2",
        "adit_handshake_duration_seconds_bucket{role=\"initiator\",le=\"65.536\"} 2",
        "adit_handshake_duration_seconds_bucket{role=\"initiator\",le=\"+Inf\"} 3",
        "adit_handshake_duration_seconds_sum{role=\"initiator\"} 100.004",
        "adit_handshake_duration_seconds_count{role=\"initiator\"} 3",
    ] {
        assert!(body(&old).lines().any(|other| other == line), "{line}\n{old}");
        assert!(body(&new).lines().any(|other| other == line), "{line}\n{new}");
    }
    assert!(old.contains("# TYPE adit_child_ups_total counter\n") && !old.contains("# EOF"));
    assert!(new.contains("# TYPE adit_child_ups counter\n") && new.ends_with("# EOF\n"));
    assert!(new.contains("# UNIT adit_child_sent_bytes bytes\n"));
}

#[test]
fn the_manual_has_every_metric() {
    let docs = include_str!("../../../../docs/monitoring.md");
    assert!(docs.contains(&manual()), "docs/monitoring.md lacks this table:\n{}", manual());
}

/// What comes from a peer or a file is set as text: nothing in the page turns text into HTML or code, and nothing comes
/// from elsewhere.
#[test]
fn the_page_makes_no_html_of_texts() {
    let (html, css, js) =
        (include_str!("page/page.html"), include_str!("page/page.css"), include_str!("page/page.js"));
    for way in
        ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc"]
    {
        assert!(!js.contains(way), "{way}");
    }
    for text in [html, css, &js.replace("http://www.w3.org/2000/svg", "")] {
        assert!(!text.contains("http:") && !text.contains("https:") && !text.contains("url("));
    }
    for inline in ["style=", "onclick=", "onload=", "onerror=", "<style"] {
        assert!(!html.contains(inline), "the policy of the page forbids it: {inline}");
    }
}

/// Slow clients on a virtual clock: one that never ends its head, one that never reads.
#[test]
fn slow_clients_are_let_go() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let site = site(None);
        let start = tokio::time::Instant::now();
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-").await.unwrap();
        converse(&site, server).await;
        assert!(start.elapsed() <= 2 * HEAD_TIMEOUT, "{:?}", start.elapsed());

        let start = tokio::time::Instant::now();
        // Has room for less than the answer.
        let (mut client, server) = tokio::io::duplex(256);
        client.write_all(b"GET /page.js HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        converse(&site, server).await;
        assert!(start.elapsed() <= 2 * (ANSWER_TIMEOUT + HEAD_TIMEOUT), "{:?}", start.elapsed());
        assert_eq!(site.counters.stuck.load(Ordering::Relaxed), 1);
    });
}

/// On a real socket: only its owner and group may use it, clients beyond the limit are turned away while the others are
/// served, an event loop that hangs is told, and the file goes with the service.
#[test]
fn on_a_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("http");
    let (ask, asked) = mpsc::channel(1);
    let service = Service::start(&HttpAddress::Unix(path.clone()), Source::Daemon(ask)).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
    let busy = Service::start(&HttpAddress::Unix(path.clone()), Source::Fixed(Arc::default()));
    assert!(matches!(busy, Err(ClaimError::Unix(_))));

    let connect = || {
        let stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    };
    let talk = |stream: &mut UnixStream, path: &str| {
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    // Nobody takes `asked`: the loop hangs. The page itself needs no loop.
    let mut waiting = connect();
    write!(waiting, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert!(talk(&mut connect(), "/").starts_with("HTTP/1.1 200"));
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");

    // Idle clients up to the limit, and one that is served among them; then one is too many.
    let idle: Vec<UnixStream> = (1..MOST_CLIENTS).map(|_| connect()).collect();
    assert!(talk(&mut connect(), "/page.css").starts_with("HTTP/1.1 200"));
    let mut one_more = connect();
    write!(one_more, "GET /").unwrap();
    let mut too_many = connect();
    let mut octet = [0];
    assert!(matches!(too_many.read(&mut octet), Ok(0) | Err(_)), "it is turned away");
    drop((idle, asked, service));
    assert!(!path.exists());
}

#[test]
fn addresses() {
    for (text, local) in [
        ("127.0.0.1:9511", Some(true)),
        ("[::1]:9511", Some(true)),
        ("unix:///run/adit/http", Some(true)),
        ("0.0.0.0:9511", Some(false)),
        ("192.0.2.1:80", Some(false)),
        ("127.0.0.1", None),
        ("127.0.0.1:0", None),
        ("localhost:9511", None),
        ("unix://http", None),
        ("http://127.0.0.1:9511", None),
        ("", None),
    ] {
        assert_eq!(text.parse::<HttpAddress>().ok().map(|address| address.is_local()), local, "{text}");
    }
}
