//! What is answered to which request. It owns the paths and the headers, and reads nothing of a request but its method,
//! path, `Host`, `Accept` and `If-None-Match`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use super::metrics::{self, Format};
use super::process::Process;
use super::{Site, Unwell};
use crate::snapshot::{Child, Connection, Moment, SCHEMA, Snapshot, Traffic};

type Answer = Response<Full<Bytes>>;

/// Connections that one answer lists; those that need somebody's attention come first where there are more.
const MOST_LISTED: usize = 5000;

/// What a browser may do with the page: nothing but to ask this service.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The files of the status page.
const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("page/page.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

/// Answers one request.
pub(super) async fn answer<B>(site: &Site, request: Request<B>) -> Answer {
    let mut answer = if !is_meant_for_us(site, &request) {
        error(StatusCode::MISDIRECTED_REQUEST, "this is not a name of this service")
    } else if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "this service only shows: GET and HEAD");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        answer
    } else {
        page(site, &request).await
    };
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        // `no-cache` lets a browser ask whether what it has is still right.
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

async fn page<B>(site: &Site, request: &Request<B>) -> Answer {
    let path = request.uri().path();
    if let Some((_, kind, text)) = FILES.iter().find(|(name, _, _)| *name == path) {
        return tagged(request.headers(), kind, "", text.as_bytes());
    }
    match path {
        "/metrics" => match site.source.snapshot().await {
            Ok(snapshot) => {
                let format = Format::wanted(request.headers().get(header::ACCEPT));
                let text = metrics::render(&snapshot, &Process::read(), &site.counters, format);
                ok(format.content_type(), text.into())
            }
            Err(Unwell) => unwell(),
        },
        "/healthz" => match site.source.pulse().await {
            Ok(()) => json_answer(StatusCode::OK, &json!({"status": "ok"})),
            Err(Unwell) => unwell(),
        },
        "/readyz" => match site.source.snapshot().await {
            Ok(snapshot) => {
                let (ready, body) = readiness(&snapshot);
                json_answer(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
            }
            Err(Unwell) => unwell(),
        },
        "/api/snapshot" => match site.source.snapshot().await {
            Ok(snapshot) => {
                let (connections, omitted) = listed(&snapshot);
                let rest = without_connections(&snapshot);
                api(request.headers(), snapshot.now, &Whole { omitted, connections, rest: &rest })
            }
            Err(Unwell) => unwell(),
        },
        "/api/overview" => match site.source.snapshot().await {
            Ok(snapshot) => api(request.headers(), snapshot.now, &Overview::of(&snapshot)),
            Err(Unwell) => unwell(),
        },
        "/api/connection" => match site.source.snapshot().await {
            Ok(snapshot) => match name(request.uri().query()).and_then(|name| snapshot.connection(&name)) {
                Some(connection) => api(request.headers(), snapshot.now, &One { connection }),
                None => error(StatusCode::NOT_FOUND, "no connection of this name: /api/connection?name=NAME"),
            },
            Err(Unwell) => unwell(),
        },
        _ => error(StatusCode::NOT_FOUND, "there are /, /metrics, /healthz, /readyz and /api/snapshot"),
    }
}

/// A page of the world may make a browser ask us under a name of its own (DNS rebinding). On a loopback address the name
/// has to be one that can only be ours.
fn is_meant_for_us<B>(site: &Site, request: &Request<B>) -> bool {
    if !site.local.is_some_and(|local| local.ip().is_loopback()) {
        return true;
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    // An absolute URI takes precedence over the header (RFC 9112 3.2.2).
    let authority = match request.uri().authority() {
        Some(authority) => Some(authority.clone()),
        None => host.to_str().ok().and_then(|host| host.parse::<hyper::http::uri::Authority>().ok()),
    };
    let Some(authority) = authority else { return false };
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Ready is what is configured, and has tried: what ought to be up is up, or there is a reason why it is not. That a peer
/// cannot be reached makes a gateway no less ready for the others.
fn readiness(snapshot: &Snapshot) -> (bool, Value) {
    let missing = || snapshot.children().filter(|(_, child)| child.wanted && !child.up);
    let untried = missing()
        .filter(|(_, child)| {
            child.reason.is_none_or(|reason| matches!(reason, "next-attempt" | "connecting"))
        })
        .count();
    let ready = snapshot.configured && !snapshot.stopping && untried == 0;
    let why = match () {
        () if snapshot.stopping => Some("the daemon is stopping"),
        () if !snapshot.configured => Some("there is no configuration yet"),
        () if untried > 0 => Some("what ought to be up is being brought up"),
        () => None,
    };
    let down: Vec<Value> = missing()
        .take(100)
        .map(|(connection, child)| {
            json!({"connection": connection.name, "child": child.name, "reason": child.reason})
        })
        .collect();
    let totals = &snapshot.totals;
    let body = json!({
        "ready": ready,
        "why": why,
        "state": snapshot.state,
        "configured": totals.children,
        "wanted": totals.wanted,
        "up": totals.up,
        "missing": totals.missing,
        "down": down,
    });
    (ready, body)
}

/// The whole snapshot.
#[derive(Serialize)]
struct Whole<'a> {
    /// Connections that are left out.
    omitted: usize,
    connections: Vec<&'a Connection>,
    #[serde(flatten)]
    rest: &'a Snapshot,
}

/// Everything about one connection.
#[derive(Serialize)]
struct One<'a> {
    connection: &'a Connection,
}

/// What a list of all tunnels needs.
#[derive(Serialize)]
struct Overview<'a> {
    version: &'a str,
    started: Moment,
    state: crate::snapshot::Health,
    totals: crate::snapshot::Totals,
    omitted: usize,
    connections: Vec<Line<'a>>,
}

/// A connection in a list.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    configured: bool,
    local: &'a str,
    remote: &'a str,
    address: &'a str,
    children: usize,
    wanted: usize,
    up: usize,
    missing: usize,
    degraded: usize,
    /// What is wrong, as a code: with a child that is wanted and not up, or else with one that is up, or why one is not.
    reason: Option<&'a str>,
    since: Option<Moment>,
    heard: Option<Moment>,
    next_attempt: Option<Moment>,
    traffic: Traffic,
}

impl<'a> Overview<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let (chosen, omitted) = listed(snapshot);
        Self {
            version: snapshot.version,
            started: snapshot.started,
            state: snapshot.state,
            totals: snapshot.totals,
            omitted,
            connections: chosen.into_iter().map(Line::of).collect(),
        }
    }
}

impl<'a> Line<'a> {
    fn of(connection: &'a Connection) -> Self {
        let children = &connection.children;
        let count = |of: fn(&Child) -> bool| children.iter().filter(|child| of(child)).count();
        let mut traffic = Traffic::default();
        children.iter().for_each(|child| traffic.add(&child.traffic));
        let sa = connection.ike_sas.first();
        let known = |id: &&str| !id.is_empty() && *id != "%any";
        let remote = sa.map(|sa| sa.remote_id.as_str()).filter(known).unwrap_or(&connection.remote_id);
        let address = sa.map(|sa| sa.remote.as_str());
        let address = address.or_else(|| connection.remote_addrs.first().map(String::as_str));
        let poor = children.iter().filter(|child| !child.up || child.is_degraded());
        let poor = poor.min_by_key(|child| (child.up || !child.wanted, !child.up));
        Self {
            name: &connection.name,
            configured: connection.configured,
            local: sa.map(|sa| sa.local_id.as_str()).filter(known).unwrap_or(&connection.local_id),
            remote,
            address: address.unwrap_or_default(),
            children: children.len(),
            wanted: count(|child| child.wanted),
            up: count(|child| child.up),
            missing: count(|child| child.wanted && !child.up),
            degraded: count(|child| child.is_degraded()),
            reason: poor.map(|child| child.explained.code),
            since: children.iter().filter_map(|child| child.since).max(),
            heard: children.iter().flat_map(|child| &child.sas).filter_map(|sa| sa.heard).max(),
            next_attempt: children.iter().filter_map(|child| child.next_attempt).min(),
            traffic,
        }
    }
}

/// What one answer lists of the connections, by name, and how many it leaves out.
fn listed(snapshot: &Snapshot) -> (Vec<&Connection>, usize) {
    let mut chosen: Vec<&Connection> = snapshot.connections.iter().map(|boxed| &**boxed).collect();
    let omitted = chosen.len().saturating_sub(MOST_LISTED);
    if omitted > 0 {
        chosen.sort_by_cached_key(|one| {
            let missing = one.children.iter().any(|child| child.wanted && !child.up);
            (!missing, !one.children.iter().any(Child::is_degraded))
        });
        chosen.truncate(MOST_LISTED);
    }
    chosen.sort_by(|a, b| (!a.configured, &a.name).cmp(&(!b.configured, &b.name)));
    (chosen, omitted)
}

fn without_connections(snapshot: &Snapshot) -> Snapshot {
    Snapshot {
        connections: Vec::new(),
        shunts: snapshot.shunts.clone(),
        interfaces: snapshot.interfaces.clone(),
        ike: snapshot.ike.clone(),
        data_plane: snapshot.data_plane.clone(),
        ..*snapshot
    }
}

/// The value of `name` in a query, with its percent encoding (RFC 3986 2.1) taken off.
fn name(query: Option<&str>) -> Option<String> {
    let value = query?.split('&').find_map(|pair| pair.strip_prefix("name="))?;
    let mut octets = Vec::new();
    let mut rest = value.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'%' => {
                let digit = |octet: Option<u8>| char::from(octet?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(octets).ok()
}

/// JSON whose tag leaves out the time, which always changes.
fn api(asked: &HeaderMap, now: Moment, body: &impl Serialize) -> Answer {
    // Fails for maps with odd keys and for writers that fail; here is neither.
    let rest = serde_json::to_string(body).unwrap_or_else(|_| "{}".to_owned());
    let head = format!("{{\"schema\":{SCHEMA},\"now\":{},", now.seconds());
    tagged(asked, "application/json", &head, rest.strip_prefix('{').unwrap_or("}").as_bytes())
}

/// An answer, or that it is what the client has already (RFC 9110 13.1.2). `head` comes first and does not count.
fn tagged(asked: &HeaderMap, kind: &'static str, head: &str, rest: &[u8]) -> Answer {
    let mut hasher = DefaultHasher::new();
    rest.hash(&mut hasher);
    let tag = format!("\"{:016x}\"", hasher.finish());
    let known = asked.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(|tags| {
        tags.split(',')
            .map(|one| one.trim())
            .any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
    });
    let mut answer = if known {
        let mut answer = Answer::default();
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer
    } else {
        ok(kind, [head.as_bytes(), rest].concat())
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        answer.headers_mut().insert(header::ETAG, tag);
    }
    answer
}

fn ok(kind: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Answer::new(Full::new(body.into()));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    // The version comes first, as everywhere.
    let body = body.to_string();
    let body = format!("{{\"schema\":{SCHEMA},{}\n", body.strip_prefix('{').unwrap_or("}"));
    let mut answer = ok("application/json", body.into_bytes());
    *answer.status_mut() = status;
    answer
}

fn error(status: StatusCode, why: &str) -> Answer {
    json_answer(status, &json!({"error": why}))
}

fn unwell() -> Answer {
    error(StatusCode::SERVICE_UNAVAILABLE, "the daemon's event loop does not answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_queries() {
        for (query, expected) in [
            ("name=a", Some("a")),
            ("x=1&name=a%20b%2Fc", Some("a b/c")),
            ("name=%C3%A4", Some("ä")),
            ("name=", Some("")),
            ("name=%", None),
            ("name=%2", None),
            ("name=%zz", None),
            ("name=%ff", None),
            ("named=a", None),
        ] {
            assert_eq!(name(Some(query)).as_deref(), expected, "{query}");
        }
        assert_eq!(name(None), None);
    }
}
