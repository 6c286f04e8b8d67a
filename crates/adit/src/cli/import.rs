//! `adit import`: an `ipsec.conf` becomes a `swanctl.conf`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::text::{SCHEMA, Text, json, tell};
use super::{Exit, count, explain, say};
use crate::import::{Dialect, Imported, Report, import};

/// What is to be translated.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// An ipsec.conf of strongSwan or Libreswan
    file: PathBuf,
    /// Where to: a new file that only its owner can read. Without it, to stdout and without the secrets
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The ipsec.secrets; unless given, the one beside FILE if there is one
    #[arg(long, value_name = "FILE")]
    secrets: Option<PathBuf>,
    /// Whose file it is; unless given, found out by what only Libreswan has
    #[arg(long, value_enum)]
    dialect: Option<Dialect>,
    /// In JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// What became of it; the JSON form.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    schema: u32,
    success: bool,
    message: &'a str,
    connections: usize,
    children: usize,
    secrets: usize,
    /// Where it was written.
    output: Option<String>,
    /// The result, without the secrets, if it was not written.
    configuration: Option<&'a str>,
    /// What was not taken over.
    reports: Vec<Left<'a>>,
}

#[derive(Debug, Serialize)]
struct Left<'a> {
    file: String,
    line: usize,
    text: &'a str,
    why: &'a str,
}

impl<'a> From<&'a Report> for Left<'a> {
    fn from(report: &'a Report) -> Self {
        let file = report.file.display().to_string();
        Self { file, line: report.line, text: &report.text, why: &report.why }
    }
}

pub(super) fn run(arguments: &Import) -> Result<Exit, Failure> {
    let beside = arguments.file.with_file_name("ipsec.secrets");
    let secrets = arguments.secrets.clone().or_else(|| beside.exists().then_some(beside));
    let imported =
        import(&arguments.file, secrets.as_deref(), arguments.dialect, &is_ours).map_err(Failure::mistake)?;
    if let Some(path) = &arguments.output {
        write(path, &imported).map_err(|error| Failure::down(format_args!("{}: {error}", path.display())))?;
    }
    let Imported { connections: configuration, counts: [connections, children, secrets], reports, .. } =
        &imported;
    let message = format!(
        "{}, {}, {}; {} not taken over",
        count(*connections as u64, "connection", "connections"),
        count(*children as u64, "child", "children"),
        count(*secrets as u64, "secret", "secrets"),
        count(reports.len() as u64, "line", "lines"),
    );
    let output = arguments.output.as_ref().map(|path| path.display().to_string());
    if arguments.json {
        tell(&json(&Outcome {
            schema: SCHEMA,
            success: reports.is_empty(),
            message: &message,
            connections: *connections,
            children: *children,
            secrets: *secrets,
            configuration: output.is_none().then_some(configuration),
            output,
            reports: reports.iter().map(Left::from).collect(),
        }));
    } else {
        let mut told = Text::default();
        reports.iter().for_each(|report| told.line(0, &report.to_string()));
        explain(&told.0);
        match output {
            None => {
                tell(configuration);
                if *secrets > 0 {
                    tell("# The secrets are only written to a file: adit import --output FILE");
                }
                explain(&message);
            }
            Some(path) => say(format_args!("{path}: {message}")),
        }
    }
    Ok(if reports.is_empty() { Exit::Ok } else { Exit::Degraded })
}

/// Nothing that is there is written over, and nobody else can read it at any moment.
fn write(path: &Path, imported: &Imported) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(imported.connections.as_bytes())?;
    file.write_all(imported.secrets.as_bytes())?;
    file.sync_all()
}

/// Has this machine the address?
fn is_ours(address: IpAddr) -> bool {
    !address.is_unspecified() && UdpSocket::bind((address, 0)).is_ok()
}
