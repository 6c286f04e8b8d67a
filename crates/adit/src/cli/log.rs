//! `adit log`: what the daemon logs from now on, without its log file or journal.

use std::time::SystemTime;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::Exit;
use super::failure::Failure;
use super::text::{SCHEMA, Text, json, tell, utc};
use crate::config::ControlUri;
use crate::control::client::Client;
use crate::control::vici::Message;

/// What is to be shown.
#[derive(Debug, Args)]
pub(super) struct Log {
    /// The least severe lines to show
    #[arg(long, value_enum, default_value_t)]
    level: Level,
    /// In JSON, an object on each line
    #[arg(long)]
    pub(super) json: bool,
}

/// What the control socket has; DEBUG and TRACE are for `gateway.log` and the daemon's own output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Level {
    /// Something failed
    Error,
    /// Something that would wake someone, and worse
    Warn,
    /// What an operator feels, and worse
    #[default]
    Info,
}

impl Level {
    fn of(line: &Message) -> Self {
        match line.text("severity").as_deref() {
            Some("ERROR") => Self::Error,
            Some("WARN") => Self::Warn,
            _ => Self::Info,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
        }
    }
}

/// One line.
#[derive(Serialize)]
struct Line<'a> {
    schema: u32,
    time: &'a str,
    level: &'a str,
    group: &'a str,
    message: &'a str,
}

pub(super) fn run(uri: &ControlUri, arguments: &Log) -> Result<Exit, Failure> {
    let mut client = Client::connect(uri)?;
    client.follow("log")?;
    loop {
        let (_, line) = client.event()?;
        let level = Level::of(&line);
        if level <= arguments.level && !tell(&show(&utc(SystemTime::now()), level, &line, arguments.json)) {
            return Ok(Exit::Ok);
        }
    }
}

fn show(time: &str, level: Level, line: &Message, as_json: bool) -> String {
    let group = line.text("group").unwrap_or_default();
    let message = line.text("msg").unwrap_or_default();
    let level = level.name();
    if as_json {
        return json(&Line { schema: SCHEMA, time, level, group: &group, message: &message });
    }
    let mut text = Text::default();
    text.line(0, &format!("{time} {level} {group} {message}"));
    text.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_people_and_for_programs() {
        let mut line = Message::new();
        line.put("group", "IKE")
            .put("severity", "WARN")
            .put("msg", format!("a \"b\" {}", "word ".repeat(30)));
        assert_eq!(Level::of(&line), Level::Warn);
        assert_eq!(Level::of(&Message::new()), Level::Info);
        let text = show("2026-01-01T00:00:00Z", Level::Warn, &line, false);
        assert!(text.starts_with("2026-01-01T00:00:00Z warn IKE a \"b\" word "), "{text}");
        assert!(text.lines().count() == 2 && text.lines().all(|line| line.len() <= 100), "{text}");
        let json: serde_json::Value =
            serde_json::from_str(&show("2026-01-01T00:00:00Z", Level::Warn, &line, true)).unwrap();
        assert_eq!((&json["schema"], &json["level"]), (&1.into(), &"warn".into()));
    }
}
