//! The command line: arguments, what each command prints, and exit statuses.
//!
//! Everything but `run` and `check` is a vici client of a running daemon. What a command has to say goes to stdout, what
//! went wrong to stderr.

mod apply;
mod capture;
mod check;
mod diff;
mod events;
mod explain;
mod failure;
mod import;
mod log;
mod names;
mod orders;
mod status;
mod support;
mod test;
mod text;
mod top;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use adit_ike::config::Settings;
use adit_net::NetConfig;
use clap::{Args, Parser, Subcommand};

use self::apply::Apply;
use self::capture::Capture;
use self::check::Check;
use self::diff::Diff;
use self::events::Events;
use self::explain::Explain;
use self::failure::Failure;
use self::import::Import;
use self::log::Log;
use self::orders::{Order, Rekey};
use self::support::Support;
use self::test::Test;
use self::text::{is_told, tell, untold, wrapped};
use self::top::Top;
use crate::config::ControlUri;
use crate::control::server::Hub;
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
    Check(Check),
    /// Translate an ipsec.conf of strongSwan or Libreswan; exit status 2 if a line could not be
    Import(Import),
    /// Bring up a child, or all children of a connection
    Up(Order),
    /// Take down a child, or a connection with all its children
    Down(Order),
    /// Give a child, or a connection's IKE SA, new keys without an interruption
    Rekey(Rekey),
    /// Read the configuration again and apply what changed; nothing else is touched
    Reload(Form),
    /// Tell what a configuration would touch, and touch nothing
    Diff(Diff),
    /// Put a configuration in force and touch only what is different; back to the one before unless confirmed in time
    Apply(Apply),
    /// What was applied stays
    Confirm(Form),
    /// Show what is up, what is not, and why
    Status(Form),
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

/// How it is told.
#[derive(Clone, Copy, Debug, Args)]
struct Form {
    /// In JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Command {
    /// Is it told in JSON? Then its failure is, too.
    fn json(&self) -> bool {
        match self {
            Self::Run { .. } | Self::Capture(_) | Self::Demo { .. } => false,
            Self::Reload(form) | Self::Confirm(form) | Self::Status(form) => form.json,
            Self::Up(order) | Self::Down(order) => order.json,
            Self::Rekey(order) => order.json,
            Self::Check(arguments) => arguments.json,
            Self::Import(arguments) => arguments.json,
            Self::Diff(arguments) => arguments.json,
            Self::Apply(arguments) => arguments.json,
            Self::Test(arguments) => arguments.json,
            Self::Events(arguments) => arguments.json,
            Self::Log(arguments) => arguments.json,
            Self::Top(arguments) => arguments.json,
            Self::Support(arguments) => arguments.json,
            Self::Explain(arguments) => arguments.json,
        }
    }
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
    let exit = match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(mistake) if mistake.use_stderr() => {
            // Nothing is left to do if it cannot be printed.
            let _ = mistake.print();
            Exit::Usage
        }
        // Help and version come here too, and are no mistake.
        Err(help) => {
            is_told(help.print().and_then(|()| io::stdout().flush()));
            Exit::Ok
        }
    };
    match untold() {
        Some(error) => {
            complain(format_args!("cannot write to stdout: {error}"));
            Exit::Down
        }
        None => exit,
    }
}

fn run(cli: Cli) -> Exit {
    let uri = cli.control.clone().unwrap_or_default();
    let as_json = cli.command.json();
    let result = match cli.command {
        Command::Run { config, log_format } => serve(config, cli.control, log_format),
        Command::Demo { keep } => demonstrate(keep),
        Command::Check(arguments) => check::run(&arguments),
        Command::Import(arguments) => import::run(&arguments),
        Command::Support(arguments) => support::run(&uri, &arguments),
        Command::Up(order) => orders::up(&uri, &order),
        Command::Down(order) => orders::down(&uri, &order),
        Command::Rekey(order) => orders::rekey(&uri, &order),
        Command::Reload(Form { json }) => apply::reload(&uri, json),
        Command::Diff(arguments) => diff::run(&uri, &arguments),
        Command::Apply(arguments) => apply::run(&uri, &arguments),
        Command::Confirm(Form { json }) => apply::confirm(&uri, json),
        Command::Status(Form { json }) => status::run(&uri, json),
        Command::Test(arguments) => test::run(&uri, &arguments),
        Command::Events(arguments) => events::run(&uri, &arguments),
        Command::Log(arguments) => log::run(&uri, &arguments),
        Command::Top(arguments) => top::run(&uri, &arguments),
        Command::Explain(arguments) => explain::run(&uri, &arguments),
        Command::Capture(arguments) => capture::run(&uri, &arguments),
    };
    result.unwrap_or_else(|failure| failure.tell(as_json))
}

fn serve(
    named: Option<PathBuf>,
    control: Option<ControlUri>,
    log_format: LogFormat,
) -> Result<Exit, Failure> {
    let optional = named.is_none();
    let path = named.unwrap_or_else(|| PathBuf::from(USUAL_FILE));
    let loaded = if optional { crate::config::load_if_there(&path) } else { crate::config::load(&path) };
    let configuration = loaded.map_err(|diagnostics| Failure::configuration(&path, diagnostics))?;
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
    Ok(match daemon::run(setup, &hub) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            tracing::error!("{error}");
            Exit::Down
        }
    })
}

fn demonstrate(keep: bool) -> Result<Exit, Failure> {
    let shown = crate::demo::run(&mut io::stdout().lock(), keep);
    shown.map(|()| Exit::Ok).map_err(|error| Failure::down(format_args!("{error:#}")))
}

fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// For whoever called.
fn say(text: impl fmt::Display) {
    tell(&wrapped(&text.to_string()));
}

/// What went wrong, in one sentence.
fn complain(text: impl fmt::Display) {
    explain(&wrapped(&format!("adit: {text}")));
}

/// What is wrong, at length.
fn explain(text: &str) {
    if !text.is_empty() {
        let _ = writeln!(io::stderr().lock(), "{}", text.trim_end());
    }
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
