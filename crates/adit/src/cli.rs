//! The command line: arguments, what each command prints, and exit statuses.
//!
//! Everything but `run` and `check` is a vici client of a running daemon. What a command has to say goes to stdout, what
//! went wrong to stderr.

mod apply;
mod capture;
mod diff;
mod events;
mod explain;
mod import;
mod log;
mod names;
mod status;
mod support;
mod test;
mod text;
mod top;

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use adit_ike::config::Settings;
use adit_net::NetConfig;
use clap::{Parser, Subcommand};

use self::apply::Apply;
use self::capture::Capture;
use self::diff::Diff;
use self::events::Events;
use self::explain::Explain;
use self::import::Import;
use self::log::Log;
use self::names::{Named, Names};
use self::status::Status;
use self::support::Support;
use self::test::Test;
use self::top::Top;
use crate::config::{Configuration, ControlUri, Diagnostics};
use crate::control::client::{Client, ClientError};
use crate::control::server::Hub;
use crate::control::vici::Message;
use crate::daemon::logging::{self, LogFormat};
use crate::daemon::{self, Setup};

/// Read where no file is named, if it is there.
const USUAL_FILE: &str = "/etc/adit/swanctl.conf";

/// The arguments of `adit`.
#[derive(Debug, Parser)]
#[command(
    name = "adit",
    version,
    max_term_width = 100,
    about = "An IPsec gateway: IKEv2 and ESP in userspace, configured by swanctl.conf",
    after_help = "Exit status: 0 done, or up; 1 failed, or down; 2 partly up; 3 a mistake in the arguments or the configuration."
)]
pub struct Cli {
    /// The daemon's control address, unix:///path or tcp://127.0.0.1:port; for `run` it overrides the configuration
    #[arg(long, global = true, value_name = "URI")]
    control: Option<ControlUri>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway in the foreground
    Run {
        /// The configuration [default: /etc/adit/swanctl.conf, which need not be there: clients may bring one over vici]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// How log lines look
        #[arg(long, value_enum, default_value_t)]
        log_format: LogFormat,
    },
    /// Check a configuration and say all that is wrong with it
    Check {
        /// The configuration
        file: PathBuf,
    },
    /// Translate an ipsec.conf of strongSwan or Libreswan; exit status 2 if a line could not be
    Import(Import),
    /// Bring up a child, or all children of a connection
    Up {
        /// A connection, a child, or CONNECTION/CHILD
        name: String,
        /// Wait at most this long
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u32>,
    },
    /// Take down a child, or a connection with all its children
    Down {
        /// A connection, a child, or CONNECTION/CHILD
        name: String,
        /// Wait at most this long
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u32>,
    },
    /// Give a child, or a connection's IKE SA, new keys without an interruption
    Rekey {
        /// A connection, a child, or CONNECTION/CHILD
        name: String,
        /// Authenticate anew as well: a new IKE SA with new Child SAs takes the place of the old one
        #[arg(long)]
        reauth: bool,
    },
    /// Read the configuration again and apply what changed; nothing else is touched
    Reload,
    /// Tell what a configuration would touch, and touch nothing
    Diff(Diff),
    /// Put a configuration in force and touch only what is different; back to the one before unless confirmed in time
    Apply(Apply),
    /// What was applied stays
    Confirm,
    /// Show what is up, what is not, and why
    Status {
        /// In JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Try a tunnel that is up: the peer, the path, traffic, and on request what will happen in hours; says what to do
    Test(Test),
    /// Tell what was negotiated, and what happens from now on, one line each
    Events(Events),
    /// Show what the daemon logs from now on
    Log(Log),
    /// Show all tunnels and what they carry, again every second
    Top(Top),
    /// Collect what somebody who is to help needs to know, without secrets
    Support(Support),
    /// Say why something is not up: the cause, what each side has, and what to do
    Explain(Explain),
    /// Write packets, inside of the tunnel and outside, in the form of Wireshark: `adit capture | wireshark -k -i -`
    Capture(Capture),
    /// Show what Adit is for: two private networks, two gateways, real traffic, all inside this machine
    Demo {
        /// Leave everything up until Enter is pressed, in namespaces that `ip netns` lists
        #[arg(long)]
        keep: bool,
    },
}

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; everything is up.
    Ok,
    /// It failed; everything is down.
    Down,
    /// Something is up and something is down.
    Degraded,
    /// A mistake in the arguments or the configuration.
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Down => 1,
            Exit::Degraded => 2,
            Exit::Usage => 3,
        })
    }
}

/// The whole program.
#[must_use]
pub fn main() -> Exit {
    match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(error) => {
            // Help and version come here too, and are no mistake. Nothing is left to do if they cannot be printed.
            let _ = error.print();
            if error.use_stderr() { Exit::Usage } else { Exit::Ok }
        }
    }
}

fn run(cli: Cli) -> Exit {
    let uri = cli.control.clone().unwrap_or_default();
    let result = match cli.command {
        Command::Run { config, log_format } => return serve(config, cli.control, log_format),
        Command::Check { file } => return check(&file),
        Command::Support(arguments) => return support::run(&uri, &arguments),
        Command::Import(arguments) => return import::run(&arguments),
        Command::Demo { keep } => return demonstrate(keep),
        Command::Up { name, timeout } => up(&uri, &name, timeout),
        Command::Down { name, timeout } => down(&uri, &name, timeout),
        Command::Rekey { name, reauth } => rekey(&uri, &name, reauth),
        Command::Reload => reload(&uri),
        Command::Status { json } => show_status(&uri, json),
        Command::Test(arguments) => test::run(&uri, &arguments),
        Command::Diff(arguments) => diff::run(&uri, &arguments),
        Command::Apply(arguments) => apply::run(&uri, &arguments),
        Command::Confirm => apply::confirm(&uri),
        Command::Events(arguments) => events::run(&uri, &arguments),
        Command::Log(arguments) => log::run(&uri, &arguments),
        Command::Top(arguments) => top::run(&uri, &arguments),
        Command::Explain(arguments) => explain::run(&uri, &arguments),
        Command::Capture(arguments) => capture::run(&uri, &arguments),
    };
    result.unwrap_or_else(|error| {
        complain(&error);
        Exit::Down
    })
}

fn reload(uri: &ControlUri) -> Result<Exit, ClientError> {
    let answer = Client::connect(uri)?.request("reload", Message::new())?;
    answer.list("warnings").for_each(|warning| explain(&format!("warning: {warning}")));
    answer.list("errors").for_each(|error| explain(&format!("error: {error}")));
    if answer.flag("success") {
        say(answer.text("summary").unwrap_or_default());
        return Ok(Exit::Ok);
    }
    Ok(mistake(answer.text("errmsg").unwrap_or_default()))
}

fn serve(named: Option<PathBuf>, control: Option<ControlUri>, log_format: LogFormat) -> Exit {
    let optional = named.is_none();
    let path = named.unwrap_or_else(|| PathBuf::from(USUAL_FILE));
    let loaded = if optional { crate::config::load_if_there(&path) } else { crate::config::load(&path) };
    let Some(configuration) = shown(loaded) else { return Exit::Usage };
    let hub = Hub::default();
    logging::start(log_format, configuration.gateway.log, &hub);
    for warning in &configuration.warnings {
        tracing::warn!("{warning}");
    }
    let gateway = configuration.gateway.clone();
    let setup = Setup {
        file: path,
        optional,
        section: gateway.clone(),
        control: control.unwrap_or(gateway.control),
        settings: Settings {
            cookie_threshold: gateway.cookie_threshold,
            half_open_limit: gateway.half_open_limit,
            half_open_timeout: gateway.half_open_timeout,
            nat_keepalive: gateway.nat_keepalive,
            fragment_size: gateway.fragment_size,
            ike_port: gateway.ike_port,
            nat_t_port: gateway.nat_t_port,
            lanes: gateway.workers,
            ..Settings::default()
        },
        net: NetConfig {
            tun_name: gateway.tun,
            tun_mtu: gateway.mtu,
            routing_table: gateway.routing_table,
            rule_priority: gateway.rule_priority,
            mark: gateway.mark,
            ike_port: gateway.ike_port,
            nat_t_port: gateway.nat_t_port,
            workers: gateway.workers,
            spin: gateway.spin,
            offload: gateway.offload,
            xdp: gateway.xdp,
            ..NetConfig::default()
        },
        key_log: gateway.key_log,
        parts: configuration.into(),
    };
    match daemon::run(setup, &hub) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            tracing::error!("{error}");
            Exit::Down
        }
    }
}

fn check(path: &Path) -> Exit {
    let Some(configuration) = shown(crate::config::load(path)) else { return Exit::Usage };
    for warning in &configuration.warnings {
        explain(&warning.render(text::color(&io::stderr())));
    }
    let Configuration { ike, shunts, .. } = configuration;
    let children: usize = ike.connections.iter().map(|connection| connection.children.len()).sum();
    let children = children + shunts.len();
    say(format_args!(
        "ok: {}, {}, {}",
        count(ike.connections.len() as u64, "connection", "connections"),
        count(children as u64, "child", "children"),
        count((ike.secrets.len() + ike.ppks.len()) as u64, "secret", "secrets"),
    ));
    Exit::Ok
}

fn demonstrate(keep: bool) -> Exit {
    match crate::demo::run(&mut io::stdout().lock(), keep) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            complain(format_args!("{error:#}"));
            Exit::Down
        }
    }
}

/// The configuration, or nothing after all that is wrong with it is printed.
fn shown(loaded: Result<Configuration, Diagnostics>) -> Option<Configuration> {
    match loaded {
        Ok(configuration) => Some(configuration),
        Err(diagnostics) => {
            explain(&diagnostics.render(text::color(&io::stderr())));
            None
        }
    }
}

fn up(uri: &ControlUri, name: &str, timeout: Option<u32>) -> Result<Exit, ClientError> {
    let mut client = Client::connect(uri)?;
    let names = Names::configured(&mut client)?;
    let named = match names.find(name) {
        Ok(named) => named,
        Err(error) => return Ok(mistake(error)),
    };
    let mut arguments = named.arguments();
    put_timeout(&mut arguments, timeout);
    let answer = client.streamed("initiate", arguments, "control-log", progress)?;
    if answer.flag("success") {
        say(format_args!("{named} is up"));
        return Ok(Exit::Ok);
    }
    complain(format_args!("{named} is not up: {}", answer.text("errmsg").unwrap_or_default()));
    Ok(Exit::Down)
}

fn down(uri: &ControlUri, name: &str, timeout: Option<u32>) -> Result<Exit, ClientError> {
    let mut client = Client::connect(uri)?;
    let mut names = Names::configured(&mut client)?;
    names.add_established(&mut client)?;
    let named = match names.find(name) {
        Ok(named) => named,
        Err(error) => return Ok(mistake(error)),
    };
    let mut arguments = named.arguments();
    put_timeout(&mut arguments, timeout);
    let answer = client.streamed("terminate", arguments, "control-log", progress)?;
    if answer.flag("success") {
        say(format_args!("{named} is down"));
        Ok(Exit::Ok)
    } else if answer.number("matches") == Some(0) {
        say(format_args!("{named} was not up"));
        Ok(Exit::Ok)
    } else {
        complain(format_args!("{named} is not down: {}", answer.text("errmsg").unwrap_or_default()));
        Ok(Exit::Down)
    }
}

fn rekey(uri: &ControlUri, name: &str, reauth: bool) -> Result<Exit, ClientError> {
    let mut client = Client::connect(uri)?;
    let mut names = Names::configured(&mut client)?;
    names.add_established(&mut client)?;
    let named = match names.find(name) {
        Ok(named) => named,
        Err(error) => return Ok(mistake(error)),
    };
    let mut arguments = named.arguments();
    // Zero is no limit; without any, the answer would not wait for the end.
    arguments.put("timeout", "0").put_flag("reauth", reauth);
    let answer = client.streamed("rekey", arguments, "control-log", progress)?;
    if answer.flag("success") {
        say(format_args!("{named} has new keys"));
        return Ok(Exit::Ok);
    }
    if answer.number("matches") == Some(0) {
        complain(format_args!("{named} is not up: there are no keys to renew"));
        return Ok(Exit::Down);
    }
    complain(format_args!("{named} has no new keys: {}", answer.text("errmsg").unwrap_or_default()));
    Ok(Exit::Down)
}

impl Named {
    fn arguments(&self) -> Message {
        let mut arguments = Message::new();
        match self {
            Self::Connection(connection) => arguments.put("ike", connection),
            Self::Child { connection, child } => arguments.put("child", child).put("ike", connection),
        };
        arguments
    }
}

fn put_timeout(arguments: &mut Message, seconds: Option<u32>) {
    if let Some(seconds) = seconds {
        arguments.put_display("timeout", Duration::from_secs(seconds.into()).as_millis());
    }
}

fn progress(line: Message) {
    if let Some(text) = line.text("msg") {
        say(text);
    }
}

fn show_status(uri: &ControlUri, json: bool) -> Result<Exit, ClientError> {
    let mut client = Client::connect(uri)?;
    client.set_timeout(Some(Duration::from_secs(10)))?;
    let status = Status::ask(&mut client)?;
    if json {
        say(status.to_json());
    } else {
        say(status.to_text().trim_end());
    }
    Ok(status.exit())
}

fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// One or more lines for whoever called. A reader that has had enough is no failure.
fn say(text: impl fmt::Display) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// What went wrong, in one sentence.
fn complain(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "adit: {text}");
}

/// A mistake of whoever called.
fn mistake(text: impl fmt::Display) -> Exit {
    complain(text);
    Exit::Usage
}

/// What is wrong, at length.
fn explain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", text.trim_end());
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("adit").chain(arguments.iter().copied()))
    }

    #[test]
    fn arguments() {
        Cli::command().debug_assert();
        for good in [
            &["run"][..],
            &["run", "--config", "/x", "--log-format", "json"],
            &["--control", "unix:///tmp/s", "run"],
            &["check", "/x"],
            &["up", "net", "--timeout", "5"],
            &["down", "gw/net"],
            &["reload"],
            &["rekey", "net", "--reauth"],
            &["test", "net", "--ping", "10.2.0.1"],
            &["test", "net", "--commission", "--yes", "--json"],
            &["capture"],
            &[
                "capture",
                "--write",
                "/x",
                "--connection",
                "gw/net",
                "--count",
                "5",
                "--inner",
                "--snaplen",
                "96",
            ],
            &["status", "--json", "--control", "tcp://127.0.0.1:4502"],
            &["events", "--follow", "--json"],
            &["explain", "gw/net", "--json"],
            &["explain", "--from", "2001:db8::1"],
            &["log", "--level", "warn"],
            &["top"],
        ] {
            assert!(parse(good).is_ok(), "{good:?}");
        }
        for bad in [
            &[][..],
            &["check"],
            &["up"],
            &["down", "a", "b"],
            &["capture", "--inner", "--outer"],
            &["explain"],
            &["explain", "gw", "--from", "192.0.2.1"],
            &["explain", "--from", "gw"],
            &["capture", "--count", "-1"],
            &["test", "net", "--yes"],
            &["test", "net", "--ping", "host.example"],
            &["status", "--control", "tcp://192.0.2.1:4502"],
            &["status", "--control", "/run/adit"],
            &["nonsense"],
        ] {
            let error = parse(bad).expect_err("a mistake");
            assert!(error.use_stderr(), "{bad:?}");
        }
        assert!(!parse(&["--help"]).expect_err("help").use_stderr());
    }

    #[test]
    fn check_says_what_is_there_and_what_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("swanctl.conf");
        std::fs::write(&file, "gateway { control = unix:///tmp/x }").unwrap();
        assert_eq!(run(parse(&["check", file.to_str().unwrap()]).unwrap()), Exit::Ok);
        std::fs::write(&file, "gateway { contrl = unix:///tmp/x }").unwrap();
        assert_eq!(run(parse(&["check", file.to_str().unwrap()]).unwrap()), Exit::Usage);
        assert_eq!(run(parse(&["check", "/nonexistent/swanctl.conf"]).unwrap()), Exit::Usage);
    }

    #[test]
    fn without_a_daemon_commands_fail() {
        let directory = tempfile::tempdir().unwrap();
        let uri = format!("unix://{}/none", directory.path().display());
        for command in
            [&["up", "x"][..], &["down", "x"], &["reload"], &["status"], &["events"], &["log"], &["top"]]
        {
            let mut arguments = vec!["--control", &uri];
            arguments.extend(command);
            assert_eq!(run(parse(&arguments).unwrap()), Exit::Down);
        }
    }
}
