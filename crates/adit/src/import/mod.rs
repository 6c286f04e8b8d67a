//! `ipsec.conf` of strongSwan and Libreswan, with its `ipsec.secrets`, becomes a `swanctl.conf` that [`crate::config::load`]
//! accepts.
//!
//! Nothing is lost on the way: a line that is not understood, or that asks for what is not done, is reported with its place
//! and stands as a comment in the result. This module reads files and writes none.

mod connections;
#[doc(hidden)]
pub mod fuzzing;
mod grammar;
mod proposals;
mod secrets;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use self::connections::Translator;
use crate::config::{Diagnostics, Files, load_from};

/// Which program a file was written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Dialect {
    /// strongSwan's `ipsec` (starter)
    Strongswan,
    /// Libreswan, and Openswan before it
    Libreswan,
}

/// A line, or a section, that is not in the result as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The file as it was named.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// What stands there; never a secret.
    pub text: String,
    /// Why it is not taken over.
    pub why: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file.display(), self.line, self.text, self.why)
    }
}

/// What became of a file.
#[derive(Debug, Default)]
pub struct Imported {
    /// The sections `connections`, as text.
    pub connections: String,
    /// The section `secrets`, as text: not for everybody's eyes.
    pub secrets: Zeroizing<String>,
    /// How many connections, children and secrets there are in it.
    pub counts: [usize; 3],
    /// What is not in it, in the order of the lines.
    pub reports: Vec<Report>,
}

/// Translates a file, and the secrets beside it if there are any.
///
/// # Errors
///
/// If `file` cannot be read; what is wrong in it is in the reports.
pub fn import(
    file: &Path,
    secrets: Option<&Path>,
    dialect: Option<Dialect>,
    is_ours: &dyn Fn(IpAddr) -> bool,
) -> Result<Imported, String> {
    import_from(file, secrets, dialect, is_ours, &crate::config::Disk)
}

fn import_from(
    file: &Path,
    secrets: Option<&Path>,
    dialect: Option<Dialect>,
    is_ours: &dyn Fn(IpAddr) -> bool,
    files: &dyn Files,
) -> Result<Imported, String> {
    let mut parsed = grammar::parse(file, files)?;
    let dialect = dialect.unwrap_or_else(|| parsed.dialect());
    let mut reports = std::mem::take(&mut parsed.reports);
    let mut connections = Translator::new(dialect, is_ours, &mut reports).translate(&parsed);
    let mut secrets = match secrets {
        Some(path) => secrets::read(path, files, &mut reports)?,
        None => secrets::Secrets::default(),
    };
    // What the parts say is right each by itself; where the whole is not, the connection that is to blame goes.
    loop {
        let first_part = connections.render();
        let Err(errors) = check(&format!("{first_part}{}", *secrets.render())) else { break };
        let first = errors.errors.first();
        let line = first.and_then(|error| error.place.as_ref()).map_or(0, |place| place.line);
        let why = first.map_or_else(String::new, |error| error.message.clone());
        let behind = line.saturating_sub(first_part.lines().count());
        if !connections.remove_at(line, &why, &mut reports) && !secrets.remove_at(behind, &why, &mut reports)
        {
            break;
        }
    }
    reports.sort_by(|one, other| (&one.file, one.line).cmp(&(&other.file, other.line)));
    reports.dedup();
    let [number, children] = connections.counts();
    Ok(Imported {
        connections: connections.render(),
        counts: [number, children, secrets.len()],
        secrets: secrets.render(),
        reports,
    })
}

/// Does the configuration language take this text?
fn check(text: &str) -> Result<(), Diagnostics> {
    struct One<'a>(&'a str);
    impl Files for One<'_> {
        fn expand(&self, _: &Path) -> Result<Vec<PathBuf>, String> {
            Ok(Vec::new())
        }
        fn read(&self, _: &Path, _: usize) -> Result<Zeroizing<Vec<u8>>, String> {
            Ok(Zeroizing::new(self.0.as_bytes().to_vec()))
        }
    }
    load_from(Path::new("swanctl.conf"), &One(text), |_| false).map(drop)
}

/// A value as `swanctl.conf` has it.
fn quote(value: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || " _.,:/@%+*[]|-".contains(character);
    if !value.is_empty() && value.chars().all(plain) && value.trim() == value && !value.contains("  ") {
        return value.to_owned();
    }
    let mut quoted = String::from("\"");
    for character in value.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => quoted.push(' '),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// A text that can stand in a comment.
fn comment(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}
