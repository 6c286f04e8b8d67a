//! `adit check`: all that is wrong with a configuration, without a daemon.

use std::io;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::text::{SCHEMA, color, json, tell};
use super::{Exit, count, explain, say};
use crate::config::{Configuration, Diagnostic};

/// What is to be checked.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The configuration
    file: PathBuf,
    /// In JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// A configuration without errors; the JSON form.
#[derive(Debug, Serialize)]
struct Sound<'a> {
    schema: u32,
    success: bool,
    message: String,
    connections: usize,
    children: usize,
    secrets: usize,
    warnings: &'a [Diagnostic],
}

pub(super) fn run(arguments: &Check) -> Result<Exit, Failure> {
    let file = &arguments.file;
    let Configuration { ike, shunts, warnings, .. } =
        crate::config::load(file).map_err(|diagnostics| Failure::configuration(file, diagnostics))?;
    let connections = ike.connections.len();
    let children: usize = ike.connections.iter().map(|connection| connection.children.len()).sum();
    let children = children + shunts.len();
    let secrets = ike.secrets.len() + ike.ppks.len();
    let message = format!(
        "ok: {}, {}, {}",
        count(connections as u64, "connection", "connections"),
        count(children as u64, "child", "children"),
        count(secrets as u64, "secret", "secrets"),
    );
    if arguments.json {
        let warnings = &warnings;
        tell(&json(&Sound {
            schema: SCHEMA,
            success: true,
            message,
            connections,
            children,
            secrets,
            warnings,
        }));
    } else {
        for warning in &warnings {
            explain(&warning.render(color(&io::stderr())));
        }
        say(message);
    }
    Ok(Exit::Ok)
}
