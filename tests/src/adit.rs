//! Adit as a gateway: the program, started and asked as its users do.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::lab::{Lab, Side};
use crate::peer::{CHILD, CONNECTION, ChildSa, Connection, IkeSa, Peer, Rekey, raw_events, sas_from_json};
use crate::process::{Process, Signal, eventually, read_lossy, run, run_unchecked};
use crate::strongswan::copy_of;

/// A running `adit run`.
#[derive(Debug)]
pub struct Adit {
    side: Side,
    namespace: String,
    config: PathBuf,
    control: String,
    keys: PathBuf,
    log: PathBuf,
    process: Process,
}

/// The part of a configuration that is about the gateway itself.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Write Wireshark's key tables.
    pub key_log: bool,
    /// More lines for the `gateway` section.
    pub extra: String,
    /// More sections.
    pub after: String,
    /// The environment of the daemon beside what it inherits.
    pub environment: Vec<(&'static str, PathBuf)>,
}

impl Adit {
    /// Starts the daemon in the gateway's namespace and waits until it answers.
    pub fn start(lab: &Lab, side: Side, connection: &Connection) -> Result<Self> {
        Self::start_with(lab, side, connection, &Settings::default())
    }

    /// Starts the daemon with settings of its own.
    pub fn start_with(lab: &Lab, side: Side, connection: &Connection, settings: &Settings) -> Result<Self> {
        Self::start_text(lab, side, &connection.render(), settings)
    }

    /// Starts the daemon with any `connections` and `secrets`.
    pub fn start_text(lab: &Lab, side: Side, connections: &str, settings: &Settings) -> Result<Self> {
        let config = lab.dir().join(format!("adit-{side}.conf"));
        let keys = lab.dir().join(format!("keys-{side}"));
        let control = format!("unix://{}", lab.dir().join(format!("adit-{side}.vici")).display());
        let key_log = if settings.key_log { format!("key_log = {}", keys.display()) } else { String::new() };
        let text = format!(
            "{connections}gateway {{
  control = {control}
  {key_log}
  {}
}}
{}",
            settings.extra, settings.after
        );
        std::fs::create_dir_all(&keys)?;
        std::fs::write(&config, text)?;
        // It holds a secret.
        std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600))?;
        Self::launch(lab, side, Some(&config), &control, &settings.environment)
    }

    /// Starts the daemon without any file: it is configured by its control socket alone.
    pub fn start_bare(lab: &Lab, side: Side) -> Result<Self> {
        let control = format!("unix://{}", lab.dir().join(format!("adit-{side}.vici")).display());
        Self::launch(lab, side, None, &control, &[])
    }

    /// Starts the daemon again with the configuration of an earlier start.
    pub fn restart(lab: &Lab, side: Side) -> Result<Self> {
        let control = format!("unix://{}", lab.dir().join(format!("adit-{side}.vici")).display());
        Self::launch(lab, side, Some(&lab.dir().join(format!("adit-{side}.conf"))), &control, &[])
    }

    fn launch(
        lab: &Lab,
        side: Side,
        config: Option<&Path>,
        control: &str,
        environment: &[(&'static str, PathBuf)],
    ) -> Result<Self> {
        let name = format!("adit-{side}");
        let mut command = lab.command(side.gateway(), program()?);
        command.arg("run").arg("--control").arg(control).envs(environment.iter().cloned());
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        let process = Process::spawn(&name, &mut command, lab.dir())?;
        let mut peer = Self {
            side,
            namespace: lab.namespace(side.gateway()),
            config: config.map_or_else(|| lab.dir().join("no.conf"), Path::to_owned),
            control: control.to_owned(),
            keys: lab.dir().join(format!("keys-{side}")),
            log: lab.dir().join(format!("{name}.log")),
            process,
        };
        eventually("adit to answer on its control socket", Duration::from_secs(15), || {
            ensure!(!peer.process.ended()?, "adit ended: {}", peer.log());
            Ok(peer.status().is_ok().then_some(()))
        })?;
        Ok(peer)
    }

    /// The daemon's process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The control socket as a URI.
    pub fn control(&self) -> &str {
        &self.control
    }

    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The directory of the key log.
    pub fn keys(&self) -> &Path {
        &self.keys
    }

    /// A command of `adit` that talks to this daemon.
    pub fn command(&self) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]);
        // `program` has answered before, when the daemon started.
        command.arg(program().unwrap_or_default()).args(["--control", &self.control]);
        command
    }

    /// Runs Debian's `swanctl` against this daemon, to its successful end.
    pub fn swanctl(&self, arguments: &[&str]) -> Result<String> {
        let directory = self.config.parent().context("the lab's directory")?;
        // No strongswan.conf of the machine may matter.
        let (program, empty) = (directory.join("swanctl"), directory.join("empty.conf"));
        if !program.exists() {
            copy_of("swanctl", "strongswan-swanctl", directory)?;
            std::fs::write(&empty, "")?;
        }
        let mut command = Command::new(program);
        command.env("STRONGSWAN_CONF", empty).env("SWANCTL_DIR", directory);
        run(command.args(arguments).args(["--uri", &self.control]))
    }

    /// What `adit status --json` prints.
    pub fn status(&self) -> Result<Value> {
        // Its exit status says how much is up; only an error leaves nothing to read.
        let output = run_unchecked(self.command().args(["status", "--json"]))?;
        let status: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("status --json: {}", String::from_utf8_lossy(&output.stderr)))?;
        ensure!(status.get("success") != Some(&Value::from(false)), "no status: {status}");
        ensure!(
            status.get("schema") == Some(&Value::from(1)),
            "another form of status than this test reads: {status}"
        );
        Ok(status)
    }

    /// Ends the daemon as an operator does, and waits for its end.
    pub fn terminate_daemon(mut self) -> Result<()> {
        let code = self.process.stop(Signal::TERM)?;
        ensure!(code == Some(0), "adit ended with {code:?} after SIGTERM: {}", self.log());
        Ok(())
    }

    /// Ends the daemon at once.
    pub fn kill(mut self) -> Result<()> {
        self.process.stop(Signal::KILL).map(drop)
    }
}

impl Peer for Adit {
    fn side(&self) -> Side {
        self.side
    }

    fn initiate(&self) -> Result<String> {
        run(self.command().args(["up", CHILD]))
    }

    fn terminate_child(&self) -> Result<String> {
        run(self.command().args(["down", CHILD]))
    }

    fn terminate(&self) -> Result<String> {
        run(self.command().args(["down", CONNECTION]))
    }

    fn rekey(&self, what: Rekey) -> Result<()> {
        self.swanctl(&what.arguments()).map(drop)
    }

    fn sas(&self) -> Result<Vec<IkeSa>> {
        sas_from_status(&self.status()?)
    }

    fn log(&self) -> String {
        read_lossy(&self.log)
    }

    fn facts(&self) -> Result<Vec<IkeSa>> {
        sas_from_json(&Value::Array(raw_events(&self.swanctl(&["--list-sas", "--raw"])?)?))
    }
}

/// The SAs of a status, in vici's words.
fn sas_from_status(status: &Value) -> Result<Vec<IkeSa>> {
    let list = |value: &Value, name: &str| {
        value.get(name).and_then(Value::as_array).cloned().with_context(|| format!("no {name}: {value}"))
    };
    let mut found = Vec::new();
    for connection in list(status, "connections")? {
        for sa in list(&connection, "ike_sas")? {
            let mut children = Vec::new();
            for child in list(&connection, "children")? {
                for half in list(&child, "sas")?.iter().filter(|half| half.get("ike_sa") == sa.get("id")) {
                    children.push(ChildSa {
                        name: word(&child, "name"),
                        state: word(half, "state"),
                        values: words(half),
                    });
                }
            }
            found.push(IkeSa {
                connection: word(&connection, "name"),
                state: word(&sa, "state"),
                values: words(&sa),
                children,
            });
        }
    }
    Ok(found)
}

/// The values of a section under their vici names.
fn words(section: &Value) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for name in section.as_object().into_iter().flat_map(|object| object.keys()) {
        let value = word(section, name);
        match name.as_str() {
            "id" => values.insert("uniqueid".to_owned(), value),
            "udp_encapsulation" if value == "true" => values.insert("encap".to_owned(), "yes".to_owned()),
            _ => values.insert(name.replace('_', "-"), value),
        };
    }
    if word(section, "suite").ends_with("/EXT_SEQ") {
        values.insert("esn".to_owned(), "1".to_owned());
    }
    values
}

fn word(section: &Value, name: &str) -> String {
    match section.get(name).unwrap_or(&Value::Null) {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// The program under test: `ADIT_BIN`, or the release build of this workspace.
pub fn program() -> Result<PathBuf> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PROGRAM
        .get_or_init(|| find().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|error| anyhow!(error))
}

fn find() -> Result<PathBuf> {
    if let Some(program) = std::env::var_os("ADIT_BIN").map(PathBuf::from) {
        ensure!(program.is_file(), "ADIT_BIN names {}, which is not a file", program.display());
        return Ok(program);
    }
    // .../target/debug/deps/test -> .../target
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(3).context("where is the target directory?")?;
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "-p", "adit", "--manifest-path"]).arg(manifest);
    run(build.env("CARGO_TARGET_DIR", target))?;
    Ok(target.join("release/adit"))
}
