//! `adit apply` and `adit confirm`: a configuration in force, for a time or for good.

use std::path::PathBuf;

use clap::Args;

use super::diff::{Difference, request};
use super::{Exit, complain, explain, say};
use crate::config::ControlUri;
use crate::control::client::{Client, ClientError};
use crate::control::vici::Message;

/// What is to be put in force.
#[derive(Debug, Args)]
pub(super) struct Apply {
    /// The configuration; unless given, the daemon's own file. A reload and the next start read that again
    file: Option<PathBuf>,
    /// Go back to the one before unless `adit confirm` comes within this time
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    confirm: Option<u32>,
}

pub(super) fn run(uri: &ControlUri, arguments: &Apply) -> Result<Exit, ClientError> {
    let mut client = Client::connect(uri)?;
    let mut request = match request(arguments.file.as_deref()) {
        Ok(request) => request,
        Err(exit) => return Ok(exit),
    };
    if let Some(seconds) = arguments.confirm {
        request.put_display("confirm", seconds);
    }
    let answer = client.request("apply", request)?;
    if let Err(exit) = Difference::read(&answer) {
        return Ok(exit);
    }
    answer.list("warnings").for_each(|warning| explain(&format!("warning: {warning}")));
    say(answer.text("summary").unwrap_or_default());
    if let Some(seconds) = answer.text("confirm") {
        say(format_args!("`adit confirm` within {seconds} s, or all of it is undone"));
    }
    Ok(Exit::Ok)
}

pub(super) fn confirm(uri: &ControlUri) -> Result<Exit, ClientError> {
    let answer = Client::connect(uri)?.request("confirm", Message::new())?;
    if answer.flag("success") {
        say("confirmed");
        return Ok(Exit::Ok);
    }
    complain(answer.text("errmsg").unwrap_or_default());
    Ok(Exit::Down)
}
