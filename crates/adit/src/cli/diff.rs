//! `adit diff`: what a configuration would touch.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::Exit;
use super::failure::{Failure, warnings};
use super::text::{SCHEMA, Text, json, tell};
use crate::config::{ControlUri, Diagnostic};
use crate::control::client::Client;
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
    pub(super) json: bool,
}

/// Which of what is configured differs, by name.
#[derive(Debug, Serialize)]
pub(super) struct Changes {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
}

impl Changes {
    pub(super) fn read(answer: &Message) -> Self {
        let list = |key: &str| answer.list(key).map(Into::into).collect();
        Self { added: list("added"), changed: list("changed"), removed: list("removed") }
    }
}

/// What is different.
#[derive(Debug, Serialize)]
struct Difference {
    schema: u32,
    success: bool,
    #[serde(flatten)]
    changes: Changes,
    /// SAs that end.
    ends: Vec<String>,
    warnings: Vec<Diagnostic>,
}

pub(super) fn run(uri: &ControlUri, arguments: &Diff) -> Result<Exit, Failure> {
    let mut client = Client::connect(uri)?;
    let request = request(arguments.file.as_deref())?;
    let difference = Difference::read(&client.request("diff", request)?)?;
    tell(&if arguments.json { json(&difference) } else { difference.to_text() });
    Ok(Exit::Ok)
}

/// A request with a file and all it includes. What is wrong with it is found here, with excerpts.
pub(super) fn request(file: Option<&Path>) -> Result<Message, Failure> {
    let mut request = Message::new();
    let Some(file) = file else { return Ok(request) };
    let configuration =
        crate::config::load(file).map_err(|diagnostics| Failure::configuration(file, diagnostics))?;
    let mut files = Message::new();
    let mut size = 0;
    for path in &configuration.files {
        let content = match std::fs::read(path) {
            Ok(content) => zeroize::Zeroizing::new(content),
            Err(error) => return Err(Failure::mistake(format_args!("{}: {error}", path.display()))),
        };
        let name = utf8(path)?;
        size += content.len() + name.len() + 64;
        if size > MOST {
            return Err(Failure::mistake(
                "more than the control socket takes at once: put it in the place of the daemon's file, and leave FILE away",
            ));
        }
        files.push(name, Value::List(content.chunks(CHUNK).map(<[u8]>::to_vec).collect()));
    }
    request.put("file", utf8(file)?).put_section("files", files);
    Ok(request)
}

/// The protocol names files in text.
fn utf8(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| Failure::mistake(format_args!("{}: the name is not UTF-8", path.display())))
}

impl Difference {
    fn read(answer: &Message) -> Result<Self, Failure> {
        Failure::unless_done(answer)?;
        Ok(Self {
            schema: SCHEMA,
            success: true,
            changes: Changes::read(answer),
            ends: answer.list("ends").map(Into::into).collect(),
            warnings: warnings(answer),
        })
    }

    fn to_text(&self) -> String {
        let Self { changes: Changes { added, changed, removed }, ends, .. } = self;
        let mut text = Text::default();
        for (what, names) in
            [("added", added), ("changed", changed), ("removed", removed), ("would end", ends)]
        {
            for name in names {
                text.line(0, &format!("{what} {name}"));
            }
        }
        for warning in &self.warnings {
            text.line(0, &format!("warning: {warning}"));
        }
        if [added, changed, removed].iter().all(|names| names.is_empty()) {
            text.line(0, "nothing would change");
        }
        text.0.trim_end().to_owned()
    }
}
