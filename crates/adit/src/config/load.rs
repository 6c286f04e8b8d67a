//! Loading: the disk, and the order of things.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_esp::Action;
use adit_ike::config;
use adit_net::{InterfaceSpec, Treatment};
use adit_wire::ikev2::TrafficSelector;
use zeroize::Zeroizing;

use super::build::Builder;
use super::check::Checker;
use super::diagnostic::{Diagnostic, Diagnostics, Problem, Severity};
use super::hosts::Hosts;
use super::resolve::Resolver;
use super::shelf::Shelf;
use super::source::Sources;
use super::syntax::{self, Files, Parsed};
use super::values::ControlUri;
use crate::http::HttpAddress;

/// What the data plane does to the packets of a child, by the names of its connection and its own.
pub type Treatments = HashMap<(String, String), Treatment>;

/// The interfaces of connections that have one of their own, by the names of the connections.
pub type Interfaces = BTreeMap<String, InterfaceSpec>;

/// A configuration that can be used.
#[derive(Debug)]
pub struct Configuration {
    /// The `gateway` section.
    pub gateway: GatewaySettings,
    /// The `connections` and `secrets` sections, in order. A list of addresses with host names in it is empty here.
    pub ike: config::Configuration,
    /// By the name of the connection, the lists that hold host names.
    pub hosts: HashMap<String, Hosts>,
    /// Children that need no SA, in order.
    pub shunts: Vec<Shunt>,
    /// By the names of connection and child, those that are not treated as by default.
    pub treatments: Treatments,
    /// By the name of the connection. What several say about one interface adds up.
    pub interfaces: Interfaces,
    /// What is suspicious, though usable.
    pub warnings: Vec<Diagnostic>,
    /// Every file that was read.
    pub files: Vec<PathBuf>,
}

/// What is put in force of a configuration, wherever it comes from: all but the section `gateway`.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Connections and secrets, in order.
    pub ike: config::Configuration,
    /// By the name of the connection, the lists that hold host names.
    pub hosts: HashMap<String, Hosts>,
    /// Children that need no SA, in order.
    pub shunts: Vec<Shunt>,
    /// By the names of connection and child, those that are not treated as by default.
    pub treatments: Treatments,
    /// By the name of the connection.
    pub interfaces: Interfaces,
}

impl From<Configuration> for Parts {
    fn from(configuration: Configuration) -> Self {
        let Configuration { ike, hosts, shunts, treatments, interfaces, .. } = configuration;
        Self { ike, hosts, shunts, treatments, interfaces }
    }
}

/// A child whose traffic travels in the clear or not at all: `mode = pass` or `mode = drop`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shunt {
    /// Name of the connection's section.
    pub connection: String,
    /// Name of the section.
    pub name: String,
    /// Does its traffic bypass, or is it discarded?
    pub action: Action,
    /// Our side.
    pub local_ts: Vec<TrafficSelector>,
    /// The other side.
    pub remote_ts: Vec<TrafficSelector>,
    /// The smaller, the sooner it decides; 0 comes after all others.
    pub priority: u32,
}

/// Adit's own section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySettings {
    /// Where the control socket listens.
    pub control: ControlUri,
    /// Where the HTTP service listens, if it does.
    pub http: Option<HttpAddress>,
    /// Name of the TUN interface.
    pub tun: String,
    /// Its MTU in octets; `None` leaves the choice to the data plane.
    pub mtu: Option<u16>,
    /// Number of the routing table for routes into tunnels.
    pub routing_table: u32,
    /// Priority of the rule that looks the table up.
    pub rule_priority: u32,
    /// Mark on packets of the gateway itself.
    pub mark: u32,
    /// Directory for keys in the clear; `None` writes none.
    pub key_log: Option<PathBuf>,
    /// Half-open IKE SAs above which cookies are demanded.
    pub cookie_threshold: usize,
    /// Half-open IKE SAs above which requests are dropped.
    pub half_open_limit: usize,
    /// How long an IKE SA may stay half-open as responder.
    pub half_open_timeout: Duration,
    /// Interval of NAT keepalives.
    pub nat_keepalive: Duration,
    /// Largest IP packet of a fragmented IKE message.
    pub fragment_size: u16,
    /// UDP port of IKE.
    pub ike_port: u16,
    /// UDP port of IKE and ESP with NAT traversal.
    pub nat_t_port: u16,
    /// ESP without UDP takes AF_XDP where it can.
    pub xdp: bool,
    /// Packet workers.
    pub workers: usize,
    /// How long a worker looks for packets before it sleeps.
    pub spin: Duration,
    /// Are packets joined and cut by the kernel?
    pub offload: bool,
    /// Least severe events to log: `error`, `warn`, `info`, `debug` or `trace`.
    pub log: &'static str,
}

/// Reads `path` and everything it includes.
///
/// # Errors
///
/// Everything that is wrong. Mistakes of the grammar hide mistakes of inheritance, and these mistakes of meaning: the
/// next kind is looked for when there are none of the one before.
pub fn load(path: &Path) -> Result<Configuration, Diagnostics> {
    load_from(path, &Disk, |path| {
        path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
    })
}

/// The same, but without such a file there is nothing in the configuration.
///
/// # Errors
///
/// As [`load`].
pub fn load_if_there(path: &Path) -> Result<Configuration, Diagnostics> {
    match path.try_exists() {
        Ok(false) => load_from(path, &Nothing, |_| false),
        _ => load(path),
    }
}

/// [`load`] with files from anywhere; `exposed` tells whether anybody may read a file.
pub(crate) fn load_from(
    path: &Path,
    files: &dyn Files,
    exposed: impl Fn(&Path) -> bool,
) -> Result<Configuration, Diagnostics> {
    let Parsed { tree, mut sources, problems } = syntax::parse(path, files);
    let mut diagnostics = Diagnostics::default();
    // Only now are all secrets known that an excerpt must not show.
    for (severity, problem) in problems {
        match severity {
            Severity::Error => diagnostics.error(&sources, problem),
            Severity::Warning => diagnostics.warning(&sources, problem),
        }
    }
    if !diagnostics.errors.is_empty() {
        return Err(diagnostics);
    }
    let Some(checked) = Checker::new(Resolver::new(&tree), &mut sources, &mut diagnostics).root() else {
        return Err(diagnostics);
    };
    let mut builder = Builder::new(&sources, &mut diagnostics, Shelf::beside(path, files));
    let (gateway, ike, hosts, shunts) = builder.build(checked);
    let (treatments, interfaces) = (builder.treatments, builder.interfaces);
    let Shelf { read, secret, .. } = builder.shelf;
    warn_about_exposed_secrets(&sources, &mut diagnostics, &exposed);
    for path in secret.iter().filter(|path| exposed(path)) {
        let message = "this file holds a private key and everybody may read it";
        let problem = Problem::nowhere(path.display().to_string(), message);
        diagnostics.warning(&sources, problem.expected("a file that others may not read (`chmod o-r`)"));
    }
    if diagnostics.errors.is_empty() {
        let (warnings, files) = (diagnostics.warnings, sources.paths().into_iter().chain(read).collect());
        Ok(Configuration { gateway, ike, hosts, shunts, treatments, interfaces, warnings, files })
    } else {
        Err(diagnostics)
    }
}

fn warn_about_exposed_secrets(
    sources: &Sources,
    diagnostics: &mut Diagnostics,
    exposed: impl Fn(&Path) -> bool,
) {
    for (path, secret) in sources.first_secrets() {
        if exposed(path) {
            let problem = Problem::new(secret, "", "this file holds a secret and everybody may read it")
                .expected("a file that others may not read (`chmod o-r`)");
            diagnostics.warning(sources, problem);
        }
    }
}

/// A file that is not there.
struct Nothing;

impl Files for Nothing {
    fn expand(&self, _: &Path) -> Result<Vec<PathBuf>, String> {
        Ok(Vec::new())
    }

    fn read(&self, _: &Path, _: usize) -> Result<Zeroizing<Vec<u8>>, String> {
        Ok(Zeroizing::default())
    }
}

/// As a shell does it: wildcards match neither `/` nor a dot at the start, so editors' files stay out.
pub(crate) const WILDCARDS: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// Most `*` of a pattern: with each, the time that it takes to find out that a long name does not fit grows by a power.
const MOST_STARS: usize = 3;

/// The pattern's text if it has wildcards, `None` if it is just a file's name.
///
/// # Errors
///
/// The name is not UTF-8, or has too many of them.
pub(crate) fn wildcards(pattern: &Path) -> Result<Option<&str>, String> {
    let text = pattern.to_str().ok_or("the name is not UTF-8")?;
    if text.matches('*').count() > MOST_STARS {
        return Err(format!("more than {MOST_STARS} `*` in the name of a file"));
    }
    Ok(text.contains(['*', '?', '[']).then_some(text))
}

/// The file system.
pub(crate) struct Disk;

impl Files for Disk {
    fn expand(&self, pattern: &Path) -> Result<Vec<PathBuf>, String> {
        let Some(text) = wildcards(pattern)? else {
            return Ok(vec![pattern.to_owned()]);
        };
        let paths = glob::glob_with(text, WILDCARDS).map_err(|error| format!("bad pattern: {error}"))?;
        let mut files = Vec::new();
        for path in paths {
            files.push(path.map_err(|error| error.to_string())?);
        }
        Ok(files)
    }

    fn read(&self, path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let metadata = file.metadata().map_err(|error| error.to_string())?;
        if metadata.is_dir() {
            return Err("it is a directory".to_owned());
        }
        let too_long = format!("it holds more than {limit} bytes");
        let length = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
        if length > limit {
            return Err(too_long);
        }
        // Room for all at once: a vector that grows leaves copies of secrets behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(length + 1));
        let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        file.take(most).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        if bytes.len() > limit { Err(too_long) } else { Ok(bytes) }
    }
}
