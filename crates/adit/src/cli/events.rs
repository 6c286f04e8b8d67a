//! `adit events`: the negotiations the daemon remembers, and what happens from now on, one line each.

use std::time::{Duration, SystemTime};

use clap::Args;
use serde::Serialize;

use super::Exit;
use super::failure::Failure;
use super::text::{Json, SCHEMA, WIDTH, cut, json, tell, utc};
use crate::config::ControlUri;
use crate::control::client::Client;
use crate::control::server::EVENTS;
use crate::control::vici::Message;

/// What is to be told.
#[derive(Debug, Args)]
pub(super) struct Events {
    /// Go on with what happens, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// In JSON, an object on each line, with all that is known
    #[arg(long)]
    pub(super) json: bool,
}

/// One line.
#[derive(Serialize)]
struct Line<'a> {
    schema: u32,
    time: &'a str,
    event: &'a str,
    data: Json<'a>,
}

pub(super) fn run(uri: &ControlUri, arguments: &Events) -> Result<Exit, Failure> {
    let mut client = Client::connect(uri)?;
    if arguments.follow {
        // Before the past is asked for, so that nothing falls between.
        for event in followed() {
            client.follow(event)?;
        }
    }
    let mut past = Vec::new();
    let mut asking = Client::connect(uri)?;
    asking.set_timeout(Some(Duration::from_secs(10)))?;
    asking.streamed("list-negotiations", Message::new(), "list-negotiation", |negotiation| {
        past.push(negotiation)
    })?;
    let show = |time: SystemTime, event: &str, data: &Message| {
        let time = utc(time);
        tell(&if arguments.json {
            json(&Line { schema: SCHEMA, time: &time, event, data: Json(data) })
        } else {
            cut(&format!("{time} {}", describe(event, data)), WIDTH)
        })
    };
    for negotiation in &past {
        let ago = Duration::from_secs(negotiation.number("ago").unwrap_or(0));
        let time = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
        if !show(time, "negotiation", negotiation) {
            return Ok(Exit::Ok);
        }
    }
    if !arguments.follow {
        if past.is_empty() && !arguments.json {
            tell("no negotiation has failed, and none was narrowed");
        }
        return Ok(Exit::Ok);
    }
    loop {
        let (event, data) = client.event()?;
        if !show(SystemTime::now(), &event, &data) {
            return Ok(Exit::Ok);
        }
    }
}

/// The events that tell of something that happened: neither answers to a command nor the log.
fn followed() -> impl Iterator<Item = &'static str> {
    let answer = |event: &str| {
        event.starts_with("list-") || ["log", "control-log", "capture", "health", "test"].contains(&event)
    };
    EVENTS.iter().copied().filter(move |event| !answer(event))
}

/// An event for people: what, whose, and what tells it from others of the kind.
fn describe(event: &str, data: &Message) -> String {
    let up = if data.flag("up") { "up" } else { "down" };
    let (name, ike) = data.sections().next().map_or(("", None), |(name, ike)| (name, Some(ike)));
    let child = || ike?.section("child-sas")?.sections().next();
    match (event, ike, child()) {
        ("negotiation", ..) => {
            let code = data.text("code").unwrap_or_default();
            let message = data.text("message").unwrap_or_default();
            if message.is_empty() { format!("negotiation {code}") } else { format!("negotiation {message}") }
        }
        ("ike-updown", Some(ike), _) => format!("ike-{up} {name}[{}] {}", id(ike), ends(ike)),
        ("child-updown", Some(_), Some((_, child))) => format!(
            "child-{up} {name}/{}{{{}}} {} <-> {}, SPIs {} in, {} out",
            child.text("name").unwrap_or_default(),
            id(child),
            child.list("local-ts").collect::<Vec<_>>().join(","),
            child.list("remote-ts").collect::<Vec<_>>().join(","),
            child.text("spi-in").unwrap_or_default(),
            child.text("spi-out").unwrap_or_default(),
        ),
        ("ike-rekey", Some(both), _) => {
            let (old, new) = (both.section("old"), both.section("new"));
            let ends = new.map(ends).unwrap_or_default();
            format!("{event} {name}[{}] replaces [{}], {ends}", id_of(new), id_of(old))
        }
        ("child-rekey", Some(_), Some((child, both))) => {
            let (old, new) = (both.section("old"), both.section("new"));
            format!("{event} {name}/{child}{{{}}} replaces {{{}}}", id_of(new), id_of(old))
        }
        _ => {
            let mut line = event.to_owned();
            flatten(data, "", &mut line);
            line
        }
    }
}

fn id(sa: &Message) -> String {
    sa.text("uniqueid").unwrap_or_default().into_owned()
}

fn id_of(sa: Option<&Message>) -> String {
    sa.map(id).unwrap_or_default()
}

/// Both ends of an IKE SA.
fn ends(ike: &Message) -> String {
    let end = |side: &str| {
        let text = |what: &str| ike.text(&format!("{side}-{what}")).unwrap_or_default().into_owned();
        format!("{} at {}", text("id"), text("host"))
    };
    format!("{} <-> {}", end("local"), end("remote"))
}

/// Anything else, as keys and values.
fn flatten(message: &Message, within: &str, line: &mut String) {
    for (key, _) in message.entries() {
        if let Some(text) = message.text(key) {
            line.push_str(&format!(" {within}{key}={text}"));
        } else if let Some(section) = message.section(key) {
            flatten(section, &format!("{within}{key}."), line);
        } else {
            let items: Vec<_> = message.list(key).collect();
            line.push_str(&format!(" {within}{key}={}", items.join(",")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(mut message: Message, name: &str, content: Message) -> Message {
        message.put_section(name, content);
        message
    }

    #[test]
    fn one_line_for_people() {
        let ike = || {
            Message::of(&[
                ("uniqueid", "3"),
                ("local-host", "192.0.2.1"),
                ("local-id", "a.example"),
                ("remote-host", "192.0.2.2"),
                ("remote-id", "b.example"),
            ])
        };
        let mut child =
            Message::of(&[("name", "net"), ("uniqueid", "7"), ("spi-in", "c0de"), ("spi-out", "beef")]);
        child.put_list("local-ts", ["10.1.0.0/16"]).put_list("remote-ts", ["10.2.0.0/16"]);
        let children = |child: Message| with(ike(), "child-sas", child);
        let both = |old: &str, new: &str| {
            let old = with(Message::new(), "old", Message::of(&[("uniqueid", old)]));
            with(old, "new", with(Message::of(&[("uniqueid", new)]), "x", Message::new()))
        };
        for (event, data, line) in [
            (
                "ike-updown",
                with(Message::of(&[("up", "yes")]), "gw", ike()),
                "ike-up gw[3] a.example at 192.0.2.1 <-> b.example at 192.0.2.2",
            ),
            (
                "child-updown",
                with(Message::new(), "gw", children(with(Message::new(), "net-7", child))),
                "child-down gw/net{7} 10.1.0.0/16 <-> 10.2.0.0/16, SPIs c0de in, beef out",
            ),
            (
                "child-rekey",
                with(Message::new(), "gw", children(with(Message::new(), "net", both("7", "8")))),
                "child-rekey gw/net{8} replaces {7}",
            ),
            ("negotiation", Message::of(&[("code", "success"), ("message", "")]), "negotiation success"),
            ("other", with(Message::of(&[("a", "1")]), "s", Message::of(&[("b", "2")])), "other a=1 s.b=2"),
        ] {
            assert_eq!(describe(event, &data), line);
        }
    }

    #[test]
    fn answers_and_log_lines_are_no_events() {
        let followed: Vec<_> = followed().collect();
        assert!(
            ["ike-updown", "child-updown", "ike-rekey", "child-rekey"]
                .iter()
                .all(|event| followed.contains(event))
        );
        assert!(!followed.contains(&"log") && !followed.contains(&"list-sa"));
    }
}
