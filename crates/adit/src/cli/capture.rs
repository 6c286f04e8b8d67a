//! `adit capture`: what the daemon streams goes to a file, or to the program behind a pipe.

use std::fs::{OpenOptions, Permissions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use clap::Args;

use super::failure::Failure;
use super::names::Names;
use super::{Exit, count, explain};
use crate::config::ControlUri;
use crate::control::client::Client;
use crate::control::vici::{Message, Value};
use crate::daemon::CAPTURE_COUNTS;
use crate::pcapng::Blocks;

/// How long an interrupt waits for a reader that has stopped reading.
const PATIENCE: Duration = Duration::from_secs(1);

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

pub(super) fn run(uri: &ControlUri, arguments: &Capture) -> Result<Exit, Failure> {
    let mut client = Client::connect(uri)?;
    let mut request = Message::new();
    if let Some(name) = &arguments.connection {
        let mut names = Names::configured(&mut client)?;
        names.add_established(&mut client)?;
        request = names.find(name)?.arguments();
    }
    if let Some(layer) = arguments.inner.then_some("inner").or_else(|| arguments.outer.then_some("outer")) {
        request.put("layer", layer);
    }
    for (key, number) in [("count", arguments.count), ("snaplen", arguments.snaplen)] {
        if let Some(number) = number {
            request.put_display(key, number);
        }
    }
    let output = Output::new(&arguments.write).map_err(Failure::mistake)?;
    let output = Arc::new(Mutex::new(output));
    // Without it, Ctrl-C does what whoever started this has set.
    let _ = end_with_interrupt(Arc::clone(&output));
    let mut written = Ok(());
    let answer = client.streamed_while("capture", request, "capture", |event| {
        written = lock(&output).write(&event);
        written.is_ok()
    })?;
    match (answer, written) {
        (Some(answer), _) if answer.flag("success") => {
            lock(&output).counts.tell();
            Ok(Exit::Ok)
        }
        (Some(answer), _) => {
            let output = lock(&output);
            let what = if output.file.is_some() { "the capture has ended" } else { "no capture" };
            Err(Failure::down(format_args!("{what}: {}", answer.text("errmsg").unwrap_or_default())))
        }
        // A reader that has had enough is no failure.
        (None, Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Ok),
        (None, written) => {
            let why = written.err().map_or_else(String::new, |error| error.to_string());
            Err(Failure::down(format_args!("cannot write to {}: {why}", arguments.write.display())))
        }
    }
}

/// Ctrl-C and `kill -INT` are the usual end. A shell that starts a program in the background has it ignore them.
fn end_with_interrupt(output: Arc<Mutex<Output>>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    std::thread::spawn(move || {
        if runtime.block_on(tokio::signal::ctrl_c()).is_err() {
            return;
        }
        // What is being written is written to its end, unless its reader does not read.
        std::thread::spawn(|| {
            std::thread::sleep(PATIENCE);
            std::process::exit(0);
        });
        lock(&output).end();
        std::process::exit(0);
    });
    Ok(())
}

/// Where packets go, and how many there have been.
struct Output {
    path: PathBuf,
    /// There is none before there is something to write: whoever may not look leaves an old file as it is.
    file: Option<Box<dyn Write + Send>>,
    counts: Counts,
}

/// Inner and outer packets: all that were shown, and those that were left out.
#[derive(Default)]
struct Counts {
    shown: [u64; 2],
    lost: [u64; 2],
}

impl Output {
    /// What people would see on a terminal is not for people.
    fn new(path: &Path) -> Result<Self, &'static str> {
        if path == Path::new("-") && io::stdout().is_terminal() {
            return Err(
                "packets are no text: use --write FILE, or a pipe as in `adit capture | tshark -i -`",
            );
        }
        Ok(Self { path: path.to_owned(), file: None, counts: Counts::default() })
    }

    fn write(&mut self, event: &Message) -> io::Result<()> {
        let Self { path, file, counts } = self;
        let file = match file {
            Some(file) => file,
            None => file.insert(open(path)?),
        };
        for (key, place) in CAPTURE_COUNTS.into_iter().zip(counts.shown.iter_mut().chain(&mut counts.lost)) {
            *place = event.number(key).unwrap_or(*place);
        }
        if let Some(Value::List(items)) = event.value("pcapng") {
            items.iter().try_for_each(|item| file.write_all(item))?;
        }
        file.flush()
    }

    /// The last words, to the file and to whoever has interrupted.
    fn end(&mut self) {
        let Some(file) = &mut self.file else { return };
        let mut blocks = Blocks::default();
        blocks.statistics(SystemTime::now(), self.counts.shown, self.counts.lost);
        // Nothing more can be done if they cannot be written.
        let _ = file.write_all(&blocks.take()).and_then(|()| file.flush());
        self.counts.tell();
    }
}

impl Counts {
    fn tell(&self) {
        let [shown, lost]: [u64; 2] = [self.shown, self.lost].map(|both| both.iter().sum());
        explain(&format!(
            "{}, {lost} left out because nobody took them in time",
            count(shown, "packet", "packets")
        ));
    }
}

fn lock(output: &Mutex<Output>) -> MutexGuard<'_, Output> {
    output.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(path: &Path) -> io::Result<Box<dyn Write + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdout()));
    }
    // What is inside of the tunnel is in the clear here.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    if file.metadata()?.is_file() {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(Box::new(file))
}
