//! `adit explain`: why something is not up, what each side has, and what to do.
//!
//! The daemon finds the cause; this prints it.

use std::net::IpAddr;

use clap::Args;
use serde::Serialize;

use super::Exit;
use super::failure::Failure;
use super::names::Names;
use super::text::{Json, SCHEMA, Text, WIDTH, json, printable, tell};
use crate::config::ControlUri;
use crate::control::client::Client;
use crate::control::vici::Message;

/// Columns of what precedes the two sides, and of each side.
const LABEL: usize = 16;
const SIDE: usize = (WIDTH - LABEL - 4) / 2;

/// What is explained.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// A connection, a child, or CONNECTION/CHILD
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    name: Option<String>,
    /// A peer, known or not, by its address
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// In JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    explanations: Vec<Json<'a>>,
}

pub(super) fn run(uri: &ControlUri, explain: &Explain) -> Result<Exit, Failure> {
    let mut client = Client::connect(uri)?;
    let mut arguments = Message::new();
    if let Some(address) = explain.from {
        arguments.put_display("remote-host", address);
    } else if let Some(name) = &explain.name {
        arguments = Names::configured(&mut client)?.find(name)?.arguments();
    }
    let mut events = Vec::new();
    client.streamed("explain", arguments, "explanation", |event| events.push(event))?;
    if explain.json {
        tell(&json(&Document { schema: SCHEMA, explanations: events.iter().map(Json).collect() }));
    } else {
        let mut text = Text::default();
        for (place, event) in events.iter().enumerate() {
            if place > 0 {
                text.line(0, "");
            }
            print(&mut text, event);
        }
        tell(&text.0);
    }
    Ok(exit(&events))
}

/// As the rest of the program ends: for all that is explained.
fn exit(events: &[Message]) -> Exit {
    let states: Vec<String> =
        events.iter().filter_map(|event| Some(event.text("state")?.into_owned())).collect();
    match (states.iter().all(|state| state == "up"), states.iter().all(|state| state == "down")) {
        (true, _) => Exit::Ok,
        (_, true) => Exit::Down,
        _ => Exit::Degraded,
    }
}

fn print(text: &mut Text, event: &Message) {
    let get = |key| event.text(key).unwrap_or_default();
    let lead = if get("state") == "down" { "down: " } else { "" };
    text.line(0, &format!("{}: {lead}{} [{}]", get("subject"), get("cause"), get("code")));
    let sides = event.section("sides").filter(|sides| !sides.is_empty());
    if let Some(sides) = sides {
        columns(text, "", "this gateway", "the peer");
        for (label, row) in sides.sections() {
            columns(
                text,
                label,
                &row.text("ours").unwrap_or_default(),
                &row.text("theirs").unwrap_or_default(),
            );
        }
    }
    if let Some(difference) = event.text("difference-text") {
        let how = if event.flag("inferred") { "first difference, inferred" } else { "first difference" };
        text.line(2, &format!("{how}: {difference}"));
    }
    for note in event.list("notes") {
        text.line(2, &note);
    }
    if let Some(step) = event.text("step") {
        text.line(2, &format!("To do: {step}"));
    }
}

/// One row of the two sides; what does not fit into a column goes below.
fn columns(text: &mut Text, label: &str, ours: &str, theirs: &str) {
    let (left, right) = (wrap(ours), wrap(theirs));
    for row in 0..left.len().max(right.len()).max(1) {
        let label = if row == 0 { label } else { "" };
        let cell = |side: &[String]| side.get(row).cloned().unwrap_or_default();
        let line = format!("  {label:<LABEL$}{:<SIDE$}  {}", cell(&left), cell(&right));
        text.0.push_str(line.trim_end());
        text.0.push('\n');
    }
}

/// Pieces that fit into a column, cut at commas and hyphens where there are any.
fn wrap(content: &str) -> Vec<String> {
    let content = printable(content);
    let mut pieces = Vec::new();
    let mut rest = content.as_str();
    while rest.chars().count() > SIDE {
        let end = rest.char_indices().nth(SIDE).map_or(rest.len(), |(at, _)| at);
        let (head, _) = rest.split_at(end);
        let cut = head.rfind([',', ' ', '-']).map_or(end, |at| at + 1);
        let (head, tail) = rest.split_at(cut);
        pieces.push(head.trim().to_owned());
        rest = tail;
    }
    pieces.push(rest.trim().to_owned());
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explanation(state: &str) -> Message {
        let mut sides = Message::new();
        let mut row = Message::new();
        row.put("ours", "198.51.100.2:500").put("theirs", "203.0.113.2:500");
        sides.put_section("address", row);
        let mut row = Message::new();
        row.put("ours", "aes128gcm16-prfsha256-ecp256");
        row.put("theirs", "aes256-aes128-sha256-sha384-prfsha256-prfsha384-modp3072-modp4096-modp2048");
        sides.put_section("IKE proposals", row);
        let mut message = Message::new();
        message.put("subject", "gw/net").put("state", state).put("code", "no-proposal-chosen");
        message.put("cause", "no common IKE proposal with 203.0.113.2");
        message
            .put("difference", "encryption")
            .put("difference-text", "encryption (here aes128gcm16, peer aes256)");
        message.put("step", "on the peer add aes128gcm16-prfsha256-ecp256 to its IKE proposals\u{1b}[31m");
        message.put_list("notes", ["3 times, first 12 s ago, last 1 s ago, in IKE_SA_INIT"]);
        message.put_section("sides", sides);
        message
    }

    #[test]
    fn for_people() {
        let mut text = Text::default();
        print(&mut text, &explanation("down"));
        assert_eq!(
            text.0,
            "\
gw/net: down: no common IKE proposal with 203.0.113.2 [no-proposal-chosen]
                  this gateway                              the peer
  address         198.51.100.2:500                          203.0.113.2:500
  IKE proposals   aes128gcm16-prfsha256-ecp256              aes256-aes128-sha256-sha384-prfsha256-
                                                            prfsha384-modp3072-modp4096-modp2048
  first difference: encryption (here aes128gcm16, peer aes256)
  3 times, first 12 s ago, last 1 s ago, in IKE_SA_INIT
  To do: on the peer add aes128gcm16-prfsha256-ecp256 to its IKE proposals?[31m
"
        );
        assert!(text.0.lines().all(|line| line.chars().count() <= WIDTH));
    }

    #[test]
    fn the_exit_status_is_that_of_all() {
        let of = |states: &[&str]| exit(&states.iter().map(|state| explanation(state)).collect::<Vec<_>>());
        assert_eq!(of(&["up", "up"]), Exit::Ok);
        assert_eq!(of(&["down", "down"]), Exit::Down);
        assert_eq!(of(&["up", "down"]), Exit::Degraded);
        assert_eq!(of(&["degraded"]), Exit::Degraded);
    }

    #[test]
    fn long_words_are_cut() {
        assert!(wrap(&"z".repeat(300)).iter().all(|piece| piece.chars().count() <= SIDE));
        assert_eq!(wrap(""), [""]);
    }
}
