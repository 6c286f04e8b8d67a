//! `adit apply`, `adit confirm` and `adit reload`: a configuration in force, for a time or for good.

use std::io;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::diff::{Changes, request};
use super::failure::{Failure, warnings};
use super::text::{SCHEMA, color, json, tell};
use super::{Exit, explain, say};
use crate::config::{ControlUri, Diagnostic};
use crate::control::client::Client;
use crate::control::vici::Message;

/// What is to be put in force.
#[derive(Debug, Args)]
pub(super) struct Apply {
    /// The configuration; unless given, the daemon's own file. A reload and the next start read that again
    file: Option<PathBuf>,
    /// Go back to the one before unless `adit confirm` comes within this time
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    confirm: Option<u32>,
    /// In JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// What was changed; the JSON form.
#[derive(Debug, Serialize)]
struct Applied {
    schema: u32,
    success: bool,
    message: String,
    #[serde(flatten)]
    changes: Changes,
    /// All of it is undone after this time.
    confirm_within_seconds: Option<u64>,
    warnings: Vec<Diagnostic>,
}

#[derive(Debug, Serialize)]
struct Confirmed {
    schema: u32,
    success: bool,
    message: &'static str,
}

pub(super) fn run(uri: &ControlUri, arguments: &Apply) -> Result<Exit, Failure> {
    let mut client = Client::connect(uri)?;
    let mut request = request(arguments.file.as_deref())?;
    if let Some(seconds) = arguments.confirm {
        request.put_display("confirm", seconds);
    }
    Applied::read(&client.request("apply", request)?).map(|applied| applied.tell(arguments.json))
}

pub(super) fn reload(uri: &ControlUri, as_json: bool) -> Result<Exit, Failure> {
    let answer = Client::connect(uri)?.request("reload", Message::new())?;
    Applied::read(&answer).map(|applied| applied.tell(as_json))
}

pub(super) fn confirm(uri: &ControlUri, as_json: bool) -> Result<Exit, Failure> {
    let answer = Client::connect(uri)?.request("confirm", Message::new())?;
    Failure::unless_done(&answer)?;
    let confirmed = Confirmed { schema: SCHEMA, success: true, message: "confirmed" };
    tell(&if as_json { json(&confirmed) } else { confirmed.message.to_owned() });
    Ok(Exit::Ok)
}

impl Applied {
    fn read(answer: &Message) -> Result<Self, Failure> {
        Failure::unless_done(answer)?;
        Ok(Self {
            schema: SCHEMA,
            success: true,
            message: answer.text("summary").unwrap_or_default().into_owned(),
            changes: Changes::read(answer),
            confirm_within_seconds: answer.number("confirm"),
            warnings: warnings(answer),
        })
    }

    fn tell(&self, as_json: bool) -> Exit {
        if as_json {
            tell(&json(self));
            return Exit::Ok;
        }
        for warning in &self.warnings {
            explain(&warning.render(color(&io::stderr())));
        }
        say(&self.message);
        if let Some(seconds) = self.confirm_within_seconds {
            say(format_args!("`adit confirm` within {seconds} s, or all of it is undone"));
        }
        Exit::Ok
    }
}
