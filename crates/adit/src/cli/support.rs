//! `adit support`: what somebody who is to help needs to know, in one archive without secrets.
//!
//! Everything goes through one sieve: whatever the configuration keeps secret is replaced wherever it stands.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::status::Status;
use super::text::{Json, SCHEMA, json, tell, utc};
use super::{Exit, say};
use crate::config::{ControlUri, Redacted, redacted};
use crate::control::client::{Client, ClientError};
use crate::control::vici::Message;

/// The end of a log that goes into the archive, in octets.
const LOG_TAIL: u64 = 512 * 1024;

/// The most that is taken of what a program prints.
const MOST_OUTPUT: u64 = 4 * 1024 * 1024;

/// Secrets shorter than this stand in ordinary words: they are only taken out where they are written as secrets.
const SHORTEST: usize = 4;

/// What belongs into it.
#[derive(Debug, Args)]
pub(super) struct Support {
    /// Where to: a new file that only its owner can read
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/adit/swanctl.conf")]
    config: PathBuf,
    /// The daemon's log, if it is not in the journal
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// In JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// The JSON form.
#[derive(serde::Serialize)]
struct Written {
    schema: u32,
    success: bool,
    message: &'static str,
    file: String,
}

pub(super) fn run(uri: &ControlUri, arguments: &Support) -> Result<Exit, Failure> {
    let now = utc(SystemTime::now());
    let path = arguments
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("adit-support-{}.tar.gz", now.replace([':', '-'], ""))));
    let failed = |error| Failure::down(format_args!("{}: {error}", path.display()));
    collect(uri, arguments, &path, &now).map_err(failed)?;
    let message = "no secrets are in it, but addresses, names and identities are";
    let written = Written { schema: SCHEMA, success: true, message, file: path.display().to_string() };
    if arguments.json {
        tell(&json(&written));
    } else {
        tell(&written.file);
        say(message);
    }
    Ok(Exit::Ok)
}

fn collect(uri: &ControlUri, arguments: &Support, path: &Path, now: &str) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let Redacted { text: configuration, secrets } = redacted(&arguments.config);
    let mut archive = Archive::new(file, secrets);
    archive.add("about.json", &json(&about(now)))?;
    archive.add("configuration.conf", &configuration)?;
    let wrong = crate::config::load(&arguments.config).err().map(|errors| errors.to_string());
    archive.add("configuration-errors.txt", &wrong.unwrap_or_default())?;
    match daemon(uri) {
        Ok(answers) => {
            for (name, text) in answers {
                archive.add(name, &text)?;
            }
        }
        Err(error) => archive.add("daemon.txt", &error.to_string())?,
    }
    for (name, program, words) in [
        ("links.txt", "ip", &["-details", "-statistics", "link"][..]),
        ("addresses.txt", "ip", &["address"]),
        ("rules.txt", "ip", &["rule"]),
        ("rules6.txt", "ip", &["-6", "rule"]),
        ("routes.txt", "ip", &["route", "show", "table", "all"]),
        ("routes6.txt", "ip", &["-6", "route", "show", "table", "all"]),
        ("fence.txt", "nft", &["list", "table", "inet", adit_net::fence::TABLE]),
    ] {
        archive.add(name, &output(program, words))?;
    }
    let mut parameters = String::new();
    for name in [
        "ipv4/ip_forward",
        "ipv6/conf/all/forwarding",
        "ipv4/conf/all/rp_filter",
        "core/rmem_max",
        "core/wmem_max",
    ] {
        let value = std::fs::read_to_string(format!("/proc/sys/net/{name}"))
            .unwrap_or_else(|error| error.to_string());
        parameters.push_str(&format!("net/{name} = {}\n", value.trim()));
    }
    archive.add("parameters.txt", &parameters)?;
    let log = match &arguments.log {
        Some(path) => tail(path).unwrap_or_else(|error| error.to_string()),
        None => output("journalctl", &["--unit=adit", "--lines=2000", "--no-pager", "--output=short-iso"]),
    };
    archive.add("log.txt", &log)?;
    archive.end()
}

#[derive(serde::Serialize)]
struct About {
    schema: u32,
    version: &'static str,
    time: String,
    system: String,
    kernel: String,
    machine: String,
    processors: usize,
    memory: String,
}

fn about(now: &str) -> About {
    let system = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let first = |path: &str, start: &str| {
        let content = std::fs::read_to_string(path).unwrap_or_default();
        content
            .lines()
            .find_map(|line| line.strip_prefix(start))
            .unwrap_or_default()
            .trim_matches(['"', ' '])
            .to_owned()
    };
    About {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        time: now.to_owned(),
        system: first("/etc/os-release", "PRETTY_NAME="),
        kernel: text(system.release()),
        machine: text(system.machine()),
        processors: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        memory: first("/proc/meminfo", "MemTotal:"),
    }
}

/// What the daemon says of itself.
fn daemon(uri: &ControlUri) -> Result<Vec<(&'static str, String)>, ClientError> {
    let mut client = Client::connect(uri)?;
    client.set_timeout(Some(Duration::from_secs(10)))?;
    let status = Status::ask(&mut client)?;
    let mut answers = vec![("status.txt", status.to_text()), ("status.json", status.to_json())];
    for (name, command) in [("version.json", "version"), ("stats.json", "stats")] {
        answers.push((name, json(&Json(&client.request(command, Message::new())?))));
    }
    let mut every = Message::new();
    every.put("trap", "yes").put("pass", "yes").put("drop", "yes");
    for (name, command, event, request) in [
        ("connections.json", "list-conns", "list-conn", Message::new()),
        ("sas.json", "list-sas", "list-sa", Message::new()),
        ("policies.json", "list-policies", "list-policy", every),
        ("negotiations.json", "list-negotiations", "list-negotiation", Message::new()),
    ] {
        let mut lines = String::new();
        client.streamed(command, request, event, |item| {
            lines.push_str(&json(&Json(&item)));
            lines.push('\n');
        })?;
        answers.push((name, lines));
    }
    Ok(answers)
}

/// What a program prints, or why it did not.
fn output(program: &str, words: &[&str]) -> String {
    let run = || -> io::Result<String> {
        let mut child = Command::new(program)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut bytes = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MOST_OUTPUT).read_to_end(&mut bytes)?;
        }
        // Who has more to say is not waited for.
        let _ = child.kill();
        child.wait()?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    run().unwrap_or_else(|error| format!("{program}: {error}\n"))
}

/// The end of a file, from the beginning of a line.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(if length > LOG_TAIL {
        text.split_once('\n').map_or_else(String::new, |(_, rest)| rest.to_owned())
    } else {
        text
    })
}

/// A `.tar.gz` in which no secret is.
struct Archive {
    tar: tar::Builder<GzEncoder<File>>,
    secrets: Vec<Zeroizing<String>>,
}

impl Archive {
    fn new(file: File, mut secrets: Vec<Zeroizing<String>>) -> Self {
        secrets.retain(|secret| secret.len() >= SHORTEST);
        // One may be a part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self { tar: tar::Builder::new(GzEncoder::new(file, Compression::default())), secrets }
    }

    fn add(&mut self, name: &str, text: &str) -> io::Result<()> {
        let text = self.sift(text);
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_cksum();
        self.tar.append_data(&mut header, Path::new("adit-support").join(name), text.as_bytes())
    }

    fn sift(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            // What stands behind the mark of a form is the secret as well.
            let bare = secret.strip_prefix("0x").or_else(|| secret.strip_prefix("0s")).unwrap_or(secret);
            for form in [secret.as_str(), bare] {
                if form.len() >= SHORTEST && text.contains(form) {
                    text = text.replace(form, "***");
                }
            }
        }
        text
    }

    fn end(self) -> io::Result<()> {
        let mut file = self.tar.into_inner()?.finish()?;
        file.flush()?;
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a secret in the configuration, in the log and in what is wrong with the configuration.
    #[test]
    fn no_octet_of_a_secret_is_in_the_archive() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(
            path("swanctl.conf"),
            "# was opensesame-0\nsecrets {\n ike {\n secret = \"opensesame-1\"\n}\n ike-2 {\n secret = 0x0123456789abcdef\n}\n private {\n passwrod = opensesame-2 # opensesame-3\n}\n}\n",
        )
        .unwrap();
        std::fs::write(path("log"), "somebody wrote opensesame-1 and 0123456789ABCDEF 0123456789abcdef\n")
            .unwrap();
        let arguments =
            Support { output: None, config: path("swanctl.conf"), log: Some(path("log")), json: false };
        let uri = format!("unix://{}", path("none").display()).parse().unwrap();
        collect(&uri, &arguments, &path("out.tar.gz"), "2026-01-01T00:00:00Z").unwrap();
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&path("out.tar.gz").metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let mut all = String::new();
        let mut names = Vec::new();
        let archive = flate2::read::GzDecoder::new(File::open(path("out.tar.gz")).unwrap());
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            names.push(entry.path().unwrap().display().to_string());
            entry.read_to_string(&mut all).unwrap();
        }
        for name in ["about.json", "configuration.conf", "daemon.txt", "routes.txt", "fence.txt", "log.txt"] {
            assert!(names.contains(&format!("adit-support/{name}")), "{name}: {names:?}");
        }
        assert!(all.contains("secret = ***") && all.contains("somebody wrote ***"), "{all}");
        for secret in ["opensesame", "0123456789abcdef"] {
            assert!(!all.contains(secret), "{secret}: {all}");
        }
        // Nothing that is there is written over.
        assert!(collect(&uri, &arguments, &path("out.tar.gz"), "").is_err());
    }
}
