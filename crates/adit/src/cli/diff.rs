//! `adit diff`: what a configuration would touch.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::text::{SCHEMA, Text, json};
use super::{Exit, complain, explain, mistake, say, shown};
use crate::config::ControlUri;
use crate::control::client::{Client, ClientError};
use crate::control::vici::{MAX_FRAME, Message, Value};

/// Octets of one item of a list, and of all that is sent along.
const CHUNK: usize = 65_535;
const MOST: usize = MAX_FRAME - 65_536;

/// What is to be compared with what is in force.
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// The configuration; unless given, the daemon's own file
    file: Option<PathBuf>,
    /// In JSON, for programs
    #[arg(long)]
    json: bool,
}

/// What is different.
#[derive(Debug, Serialize)]
pub(super) struct Difference {
    schema: u32,
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
    /// SAs that end.
    ends: Vec<String>,
    warnings: Vec<String>,
}

pub(super) fn run(uri: &ControlUri, arguments: &Diff) -> Result<Exit, ClientError> {
    let mut client = Client::connect(uri)?;
    let request = match request(arguments.file.as_deref()) {
        Ok(request) => request,
        Err(exit) => return Ok(exit),
    };
    let answer = client.request("diff", request)?;
    let difference = match Difference::read(&answer) {
        Ok(difference) => difference,
        Err(exit) => return Ok(exit),
    };
    say(if arguments.json { json(&difference) } else { difference.to_text() });
    Ok(Exit::Ok)
}

/// A request with a file and all it includes. What is wrong with it is said here, with excerpts.
pub(super) fn request(file: Option<&Path>) -> Result<Message, Exit> {
    let mut request = Message::new();
    let Some(file) = file else { return Ok(request) };
    let configuration = shown(crate::config::load(file)).ok_or(Exit::Usage)?;
    let mut files = Message::new();
    let mut size = 0;
    for path in &configuration.files {
        let content = match std::fs::read(path) {
            Ok(content) => zeroize::Zeroizing::new(content),
            Err(error) => return Err(mistake(format_args!("{}: {error}", path.display()))),
        };
        let name = path.to_str().ok_or(Exit::Usage)?;
        size += content.len() + name.len() + 64;
        if size > MOST {
            return Err(mistake(
                "more than the control socket takes at once: put it in the place of the daemon's file, and leave FILE away",
            ));
        }
        files.push(name, Value::List(content.chunks(CHUNK).map(<[u8]>::to_vec).collect()));
    }
    request.put("file", file.to_str().ok_or(Exit::Usage)?).put_section("files", files);
    Ok(request)
}

impl Difference {
    /// Of an answer; what went wrong is said.
    pub(super) fn read(answer: &Message) -> Result<Self, Exit> {
        if !answer.flag("success") {
            answer.list("errors").for_each(|error| explain(&format!("error: {error}")));
            complain(answer.text("errmsg").unwrap_or_default());
            return Err(if answer.list("errors").next().is_some() { Exit::Usage } else { Exit::Down });
        }
        let list = |key: &str| answer.list(key).map(Into::into).collect();
        Ok(Self {
            schema: SCHEMA,
            added: list("added"),
            changed: list("changed"),
            removed: list("removed"),
            ends: list("ends"),
            warnings: list("warnings"),
        })
    }

    pub(super) fn to_text(&self) -> String {
        let mut text = Text::default();
        for (what, names) in [
            ("added", &self.added),
            ("changed", &self.changed),
            ("removed", &self.removed),
            ("would end", &self.ends),
            ("warning:", &self.warnings),
        ] {
            for name in names {
                text.line(0, &format!("{what} {name}"));
            }
        }
        if [&self.added, &self.changed, &self.removed].iter().all(|names| names.is_empty()) {
            text.line(0, "nothing would change");
        }
        text.0.trim_end().to_owned()
    }
}
