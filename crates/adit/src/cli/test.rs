//! `adit test`: asks the daemon to try a tunnel, and shows each step as it ends.

use std::io::{self, BufRead, IsTerminal, Write};
use std::net::IpAddr;

use clap::Args;
use serde::Serialize;

use super::Exit;
use super::failure::Failure;
use super::names::{Named, Names};
use super::text::{SCHEMA, Text, color, tell};
use crate::config::ControlUri;
use crate::control::client::Client;
use crate::control::vici::Message;

/// What is to be tried.
#[derive(Debug, Args)]
pub(super) struct Test {
    /// A connection, a child, or CONNECTION/CHILD; it has to be up
    name: String,
    /// Ask this address on the peer's side for an echo; by default the first of its network
    #[arg(long, value_name = "ADDRESS")]
    ping: Option<IpAddr>,
    /// Renew all keys now, and take the child down and up again: what would fail in hours fails now
    #[arg(long)]
    commission: bool,
    /// Do not ask whether --commission may interrupt traffic for a moment
    #[arg(long, requires = "commission")]
    yes: bool,
    /// In JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// The JSON form.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    passed: bool,
    steps: Vec<Step>,
}

/// One step, as it ended.
#[derive(Debug, Serialize)]
struct Step {
    step: String,
    connection: String,
    child: Option<String>,
    /// `pass`, `fail`, or `note` for what could not be found out.
    result: String,
    code: String,
    message: String,
    /// What to do.
    next: Option<String>,
    milliseconds: u64,
}

impl Step {
    fn read(event: &Message) -> Self {
        let text = |key| event.text(key).map(Into::into);
        let or_empty = |key| text(key).unwrap_or_default();
        Self {
            step: or_empty("step"),
            connection: or_empty("ike"),
            child: text("child"),
            result: or_empty("result"),
            code: or_empty("code"),
            message: or_empty("message"),
            next: text("next"),
            milliseconds: event.number("ms").unwrap_or(0),
        }
    }

    /// What it tries, for people.
    fn title(&self) -> String {
        let child = self.child.as_deref().unwrap_or_default();
        match self.step.as_str() {
            "liveness" => "the peer answers".to_owned(),
            "path" => "large packets get through".to_owned(),
            "traffic" => format!("{child} carries traffic"),
            "rekey-child" => format!("{child} gets new keys"),
            "rekey-ike" => "the IKE SA gets new keys".to_owned(),
            "delete" => format!("{child} goes down"),
            "establish" => format!("{child} comes up"),
            other => other.to_owned(),
        }
    }

    fn to_text(&self, coloured: bool) -> String {
        let mut text = Text::default();
        let code = if self.result == "pass" { String::new() } else { format!("{}: ", self.code) };
        text.line(0, &format!("{} {}: {code}{}", self.result, self.title(), self.message));
        if let Some(next) = &self.next {
            text.line(4, &format!("-> {next}"));
        }
        let colour = match self.result.as_str() {
            "pass" => "32",
            "fail" => "31",
            _ => "33",
        };
        match text.0.strip_prefix(&self.result).filter(|_| coloured) {
            Some(rest) => format!("\u{1b}[{colour}m{}\u{1b}[0m{rest}", self.result),
            None => text.0,
        }
    }
}

pub(super) fn run(uri: &ControlUri, arguments: &Test) -> Result<Exit, Failure> {
    let mut client = Client::connect(uri)?;
    let mut names = Names::configured(&mut client)?;
    names.add_established(&mut client)?;
    let named = names.find(&arguments.name)?;
    if arguments.commission && !arguments.yes && !is_allowed(&named) {
        return Err(Failure::mistake("nothing is tried; --yes goes on without a question"));
    }
    let mut request = named.arguments();
    request.put_flag("commission", arguments.commission);
    if let Some(address) = arguments.ping {
        request.put_display("ping", address);
    }
    let coloured = color(&io::stdout());
    let mut report = Report { schema: SCHEMA, passed: false, steps: Vec::new() };
    let answer = client.streamed("test", request, "test", |event| {
        let step = Step::read(&event);
        if !arguments.json {
            tell(&step.to_text(coloured));
        }
        report.steps.push(step);
    })?;
    Failure::unless_done(&answer)?;
    report.passed = answer.flag("passed");
    if arguments.json {
        tell(&serde_json::to_string_pretty(&report).unwrap_or_default());
    }
    Ok(report.exit())
}

impl Report {
    /// A peer that does not answer is down; all else is up, and not as it should be.
    fn exit(&self) -> Exit {
        let silent = |step: &Step| step.step == "liveness" && step.result == "fail";
        match self.passed {
            true => Exit::Ok,
            false if self.steps.iter().any(silent) => Exit::Down,
            false => Exit::Degraded,
        }
    }
}

/// Asks whoever sits there.
fn is_allowed(named: &Named) -> bool {
    if !io::stdin().is_terminal() {
        return false;
    }
    let question = format!(
        "This renews all keys of {named} and takes it down and up again: traffic stops for a moment. Go on? [y/N] "
    );
    let mut answer = String::new();
    let asked =
        write!(io::stderr().lock(), "{question}").and_then(|()| io::stdin().lock().read_line(&mut answer));
    asked.is_ok() && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, result: &str) -> Step {
        let mut event = Message::new();
        event.put("step", name).put("ike", "gw").put("child", "net").put("result", result);
        event.put("code", "path-mtu").put("message", "a sentence").put("ms", "12");
        if result == "fail" {
            event.put("next", "a step");
        }
        Step::read(&event)
    }

    #[test]
    fn lines_for_people() {
        assert_eq!(step("path", "pass").to_text(false), "pass large packets get through: a sentence\n");
        let failed = step("path", "fail").to_text(false);
        assert_eq!(failed, "fail large packets get through: path-mtu: a sentence\n    -> a step\n");
        assert!(
            step("rekey-child", "fail")
                .to_text(true)
                .starts_with("\u{1b}[31mfail\u{1b}[0m net gets new keys")
        );
    }

    #[test]
    fn what_the_exit_says() {
        let report = |passed, steps| Report { schema: SCHEMA, passed, steps };
        assert_eq!(report(true, vec![step("path", "pass")]).exit(), Exit::Ok);
        assert_eq!(report(false, vec![step("path", "fail")]).exit(), Exit::Degraded);
        assert_eq!(report(false, vec![step("liveness", "fail")]).exit(), Exit::Down);
    }
}
