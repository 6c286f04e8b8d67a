//! `adit capture`: what the daemon streams goes to a file, or to the program behind a pipe.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::names::Names;
use super::{Exit, complain, count, explain, mistake};
use crate::config::ControlUri;
use crate::control::client::{Client, ClientError};
use crate::control::vici::{Message, Value};

/// What is to be captured.
#[derive(Debug, Args)]
pub(super) struct Capture {
    /// Where to: a file that only its owner can read, or `-` for the program behind a pipe
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    write: PathBuf,
    /// Only packets of this: a connection, a child, or CONNECTION/CHILD
    #[arg(long, value_name = "NAME")]
    connection: Option<String>,
    /// End after so many packets
    #[arg(long, short, value_name = "N")]
    count: Option<u64>,
    /// Only what is inside of the tunnel
    #[arg(long, conflicts_with = "outer")]
    inner: bool,
    /// Only what is outside
    #[arg(long)]
    outer: bool,
    /// Only so many octets of each packet
    #[arg(long, short, value_name = "OCTETS", value_parser = clap::value_parser!(u64).range(1..))]
    snaplen: Option<u64>,
}

pub(super) fn run(uri: &ControlUri, arguments: &Capture) -> Result<Exit, ClientError> {
    let mut client = Client::connect(uri)?;
    let mut request = Message::new();
    if let Some(name) = &arguments.connection {
        let mut names = Names::configured(&mut client)?;
        names.add_established(&mut client)?;
        match names.find(name) {
            Ok(named) => request = named.arguments(),
            Err(error) => return Ok(mistake(error)),
        }
    }
    if let Some(layer) = arguments.inner.then_some("inner").or_else(|| arguments.outer.then_some("outer")) {
        request.put("layer", layer);
    }
    for (key, number) in [("count", arguments.count), ("snaplen", arguments.snaplen)] {
        if let Some(number) = number {
            request.put_display(key, number);
        }
    }
    let mut file = match open(&arguments.write) {
        Ok(file) => file,
        Err(why) => return Ok(mistake(why)),
    };
    // Without it, Ctrl-C does what whoever started this has set.
    let _ = end_with_interrupt();
    let mut written = Ok(());
    let answer = client.streamed_while("capture", request, "capture", |event| {
        written = write(&mut *file, &event);
        written.is_ok()
    })?;
    match (answer, written) {
        (Some(answer), _) if answer.flag("success") => {
            let packets = answer.number("packets").unwrap_or(0);
            let lost: u64 = answer.number("lost").unwrap_or(0);
            explain(&format!(
                "{}, {lost} left out because nobody took them in time",
                count(packets, "packet", "packets")
            ));
            Ok(Exit::Ok)
        }
        (Some(answer), _) => {
            complain(format_args!("no capture: {}", answer.text("errmsg").unwrap_or_default()));
            Ok(Exit::Down)
        }
        // A reader that has had enough is no failure.
        (None, Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Ok),
        (None, written) => {
            let why = written.err().map_or_else(String::new, |error| error.to_string());
            complain(format_args!("cannot write to {}: {why}", arguments.write.display()));
            Ok(Exit::Down)
        }
    }
}

/// Ctrl-C and `kill -INT` are the usual end. A shell that starts a program in the background has it ignore them.
fn end_with_interrupt() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    std::thread::spawn(move || {
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            std::process::exit(0);
        }
    });
    Ok(())
}

/// What people would see on a terminal is not for people.
fn open(path: &Path) -> Result<Box<dyn Write>, String> {
    if path != Path::new("-") {
        // What is inside of the tunnel is in the clear here.
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        let file: File = opened.map_err(|error| format!("cannot write to {}: {error}", path.display()))?;
        return Ok(Box::new(file));
    }
    let stdout = io::stdout();
    if stdout.is_terminal() {
        return Err(
            "packets are no text: use --write FILE, or a pipe as in `adit capture | tshark -i -`".to_owned()
        );
    }
    Ok(Box::new(stdout.lock()))
}

fn write(file: &mut dyn Write, event: &Message) -> io::Result<()> {
    if let Some(Value::List(items)) = event.value("pcapng") {
        items.iter().try_for_each(|item| file.write_all(item))?;
    }
    file.flush()
}
