//! `adit import`: an `ipsec.conf` becomes a `swanctl.conf`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::text::Text;
use super::{Exit, complain, count, explain, mistake, say};
use crate::import::{Dialect, Imported, import};

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
}

pub(super) fn run(arguments: &Import) -> Exit {
    let beside = arguments.file.with_file_name("ipsec.secrets");
    let secrets = arguments.secrets.clone().or_else(|| beside.exists().then_some(beside));
    let imported = match import(&arguments.file, secrets.as_deref(), arguments.dialect, &is_ours) {
        Ok(imported) => imported,
        Err(error) => return mistake(error),
    };
    let mut told = Text::default();
    imported.reports.iter().for_each(|report| told.line(0, &report.to_string()));
    if !imported.reports.is_empty() {
        explain(&told.0);
    }
    let [connections, children, secrets] = imported.counts;
    let summary = format!(
        "{}, {}, {}; {} not taken over",
        count(connections as u64, "connection", "connections"),
        count(children as u64, "child", "children"),
        count(secrets as u64, "secret", "secrets"),
        count(imported.reports.len() as u64, "line", "lines"),
    );
    match &arguments.output {
        None => {
            say(imported.connections.trim_end());
            if secrets > 0 {
                say("# The secrets are only written to a file: adit import --output FILE");
            }
            explain(&summary);
        }
        Some(path) => {
            if let Err(error) = write(path, &imported) {
                complain(format_args!("{}: {error}", path.display()));
                return Exit::Down;
            }
            say(format_args!("{}: {summary}", path.display()));
        }
    }
    if imported.reports.is_empty() { Exit::Ok } else { Exit::Degraded }
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
