//! `adit up`, `adit down` and `adit rekey`: what a daemon is told to do with a connection or a child.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::names::{Named, Names};
use super::text::{SCHEMA, json, tell};
use super::{Exit, complain, say};
use crate::config::ControlUri;
use crate::control::client::{Client, ClientError};
use crate::control::vici::Message;

/// What is to go up or down.
#[derive(Debug, Args)]
pub(super) struct Order {
    /// A connection, a child, or CONNECTION/CHILD
    name: String,
    /// Wait at most this long
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
    /// In JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// What is to get new keys.
#[derive(Debug, Args)]
pub(super) struct Rekey {
    /// A connection, a child, or CONNECTION/CHILD
    name: String,
    /// Authenticate anew as well: a new IKE SA with new Child SAs takes the place of the old one
    #[arg(long)]
    reauth: bool,
    /// In JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// What became of it; the JSON form.
#[derive(Debug, Serialize)]
struct Outcome {
    schema: u32,
    success: bool,
    name: String,
    connection: String,
    child: Option<String>,
    message: String,
    /// What the daemon said meanwhile.
    progress: Vec<String>,
}

pub(super) fn up(uri: &ControlUri, order: &Order) -> Result<Exit, Failure> {
    let mut client = Client::connect(uri)?;
    let named = Names::configured(&mut client)?.find(&order.name)?;
    let mut request = named.arguments();
    put_timeout(&mut request, order.timeout);
    let (answer, progress) = give(&mut client, "initiate", request, order.json)?;
    let success = answer.flag("success");
    let message =
        if success { format!("{named} is up") } else { format!("{named} is not up: {}", error(&answer)) };
    Ok(Outcome::new(&named, success, message, progress).tell(order.json))
}

pub(super) fn down(uri: &ControlUri, order: &Order) -> Result<Exit, Failure> {
    let mut client = Client::connect(uri)?;
    let named = existing(&mut client)?.find(&order.name)?;
    let mut request = named.arguments();
    put_timeout(&mut request, order.timeout);
    let (answer, progress) = give(&mut client, "terminate", request, order.json)?;
    let (success, message) = if answer.flag("success") {
        (true, format!("{named} is down"))
    } else if answer.number("matches") == Some(0) {
        (true, format!("{named} was not up"))
    } else {
        (false, format!("{named} is not down: {}", error(&answer)))
    };
    Ok(Outcome::new(&named, success, message, progress).tell(order.json))
}

pub(super) fn rekey(uri: &ControlUri, order: &Rekey) -> Result<Exit, Failure> {
    let mut client = Client::connect(uri)?;
    let named = existing(&mut client)?.find(&order.name)?;
    let mut request = named.arguments();
    // Zero is no limit; without any, the answer would not wait for the end.
    request.put("timeout", "0").put_flag("reauth", order.reauth);
    let (answer, progress) = give(&mut client, "rekey", request, order.json)?;
    let success = answer.flag("success");
    let message = if success {
        format!("{named} has new keys")
    } else if answer.number("matches") == Some(0) {
        format!("{named} is not up: there are no keys to renew")
    } else {
        format!("{named} has no new keys: {}", error(&answer))
    };
    Ok(Outcome::new(&named, success, message, progress).tell(order.json))
}

/// Gives an order and waits for its end. What the daemon says meanwhile is shown to people at once, and kept for programs.
fn give(
    client: &mut Client,
    command: &str,
    request: Message,
    as_json: bool,
) -> Result<(Message, Vec<String>), ClientError> {
    let mut progress = Vec::new();
    let answer = client.streamed(command, request, "control-log", |line| {
        let Some(text) = line.text("msg") else { return };
        if as_json {
            progress.push(text.into_owned());
        } else {
            say(text);
        }
    })?;
    Ok((answer, progress))
}

/// What is configured or up: an SA can outlive its configuration.
fn existing(client: &mut Client) -> Result<Names, ClientError> {
    let mut names = Names::configured(client)?;
    names.add_established(client)?;
    Ok(names)
}

fn error(answer: &Message) -> String {
    answer.text("errmsg").unwrap_or_default().into_owned()
}

fn put_timeout(request: &mut Message, seconds: Option<u32>) {
    if let Some(seconds) = seconds {
        request.put_display("timeout", Duration::from_secs(seconds.into()).as_millis());
    }
}

impl Outcome {
    fn new(named: &Named, success: bool, message: String, progress: Vec<String>) -> Self {
        let (connection, child) = match named {
            Named::Connection(connection) => (connection.clone(), None),
            Named::Child { connection, child } => (connection.clone(), Some(child.clone())),
        };
        Self { schema: SCHEMA, success, name: named.to_string(), connection, child, message, progress }
    }

    fn tell(&self, as_json: bool) -> Exit {
        match (as_json, self.success) {
            (true, _) => {
                tell(&json(self));
            }
            (false, true) => say(&self.message),
            (false, false) => complain(&self.message),
        }
        if self.success { Exit::Ok } else { Exit::Down }
    }
}
