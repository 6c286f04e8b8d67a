//! The daemon's end of the control interface: the socket, its clients, their registrations and queues.
//!
//! It takes commands off the wire and hands them, one at a time per client, to whoever holds the other end of
//! [`Server::request`]; it knows none of them. No client can delay anybody else: what is queued for one is bounded, and
//! who does not read is disconnected.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, oneshot};

use super::vici::{DecodeError, MAX_FRAME, Message, Packet};
use crate::config::ControlUri;

/// At most this many clients at a time.
const MAX_CLIENTS: usize = 256;

/// What is listed is told so far ahead of a client's reading, in octets.
const AHEAD: usize = 64 * 1024;

/// At most this many octets of events wait for one client.
const MAX_QUEUED_EVENTS: usize = 1024 * 1024;

/// A client that does not take one frame in this time is disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The name of every event a client can register for.
pub const EVENTS: &[&str] = &[
    "log",
    "control-log",
    "list-sa",
    "list-conn",
    "list-policy",
    "list-cert",
    "list-authority",
    "list-negotiation",
    "health",
    "test",
    "explanation",
    "alert",
    "ike-updown",
    "child-updown",
    "ike-rekey",
    "child-rekey",
    "ike-update",
    "capture",
];

/// The claim on a control address: while it lives, no second daemon can have it.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    uri: ControlUri,
    files: Option<Files>,
}

#[derive(Debug)]
enum Socket {
    Unix(std::os::unix::net::UnixListener),
    Tcp(std::net::TcpListener),
}

impl Listener {
    /// Takes the control address, replacing what a killed daemon left there.
    ///
    /// # Errors
    ///
    /// [`ClaimError::Running`] if a daemon has it, else what the operating system says.
    pub fn claim(uri: &ControlUri) -> Result<Self, ClaimError> {
        match uri {
            ControlUri::Unix(path) => {
                let (listener, files) = claim_unix(path)?;
                Ok(Self { socket: Socket::Unix(listener), uri: uri.clone(), files: Some(files) })
            }
            ControlUri::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address).map_err(|error| match error.kind() {
                    io::ErrorKind::AddrInUse => ClaimError::Running(uri.clone()),
                    _ => ClaimError::Io { what: uri.to_string(), error },
                })?;
                listener
                    .set_nonblocking(true)
                    .map_err(|error| ClaimError::Io { what: uri.to_string(), error })?;
                Ok(Self { socket: Socket::Tcp(listener), uri: uri.clone(), files: None })
            }
        }
    }

    /// The address that is claimed; a TCP port of 0 is replaced by the one the kernel chose.
    #[must_use]
    pub fn uri(&self) -> ControlUri {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().map_or_else(|_| self.uri.clone(), ControlUri::Tcp),
            Socket::Unix(_) => self.uri.clone(),
        }
    }

    /// Starts to serve clients on the tokio runtime that calls it.
    ///
    /// # Errors
    ///
    /// If the runtime does not take the socket.
    pub fn serve(self, hub: &Hub) -> io::Result<Server> {
        let (requests_in, requests) = mpsc::channel(MAX_CLIENTS);
        let hub = hub.clone();
        let task = match self.socket {
            Socket::Unix(listener) => {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                tokio::spawn(async move {
                    loop {
                        match listener.accept().await {
                            Ok((stream, _)) => hub.admit(stream.into_split(), true, &requests_in),
                            Err(error) => accept_failed(&error).await,
                        }
                    }
                })
            }
            Socket::Tcp(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                tokio::spawn(async move {
                    loop {
                        match listener.accept().await {
                            Ok((stream, _)) => hub.admit(stream.into_split(), false, &requests_in),
                            Err(error) => accept_failed(&error).await,
                        }
                    }
                })
            }
        };
        Ok(Server { requests, task, _files: self.files })
    }
}

/// Out of descriptors or memory: wait for clients to leave rather than spin.
async fn accept_failed(error: &io::Error) {
    tracing::warn!("control socket: cannot accept a client: {error}");
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// The socket and lock files; removed when the daemon is done, while the lock is still held.
#[derive(Debug)]
pub(crate) struct Files {
    socket: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in [&self.socket, &self.lock_path] {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::debug!("cannot remove {}: {error}", path.display());
            }
        }
    }
}

/// Takes a path for a Unix socket of this daemon's.
pub(crate) fn claim_unix(path: &Path) -> Result<(std::os::unix::net::UnixListener, Files), ClaimError> {
    let uri = &ControlUri::Unix(path.to_owned());
    let failed = |what: &Path| {
        let what = what.display().to_string();
        move |error| ClaimError::Io { what, error }
    };
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o750).create(directory).map_err(failed(directory))?;
    }
    let suffixed = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    // The lock decides between two daemons that start at the same time; the kernel releases it however one ends.
    let lock_path = suffixed(".lock");
    let lock = lock_file(&lock_path, uri)?;
    // The lock is ours, so no Adit serves here. Another program might, and then its socket is not ours to replace.
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(ClaimError::Running(uri.clone()));
            }
        }
        Ok(_) => return Err(ClaimError::NotASocket(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(path)(error)),
    }
    // Made beside and moved over a stale one: at its final name the socket has its permissions from the first moment.
    let fresh = suffixed(".new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&fresh)(error)),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(&fresh).map_err(failed(&fresh))?;
    std::fs::set_permissions(&fresh, Permissions::from_mode(0o660)).map_err(failed(&fresh))?;
    std::fs::rename(&fresh, path).map_err(failed(path))?;
    listener.set_nonblocking(true).map_err(failed(path))?;
    Ok((listener, Files { socket: path.to_owned(), lock_path, _lock: lock }))
}

/// Locks the file at `path`, and makes sure that what is locked is still what is there: a daemon that ends
/// removes its lock file.
fn lock_file(path: &Path, uri: &ControlUri) -> Result<File, ClaimError> {
    let failed = |error| ClaimError::Io { what: path.display().to_string(), error };
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ClaimError::Running(uri.clone())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let locked = file.metadata().map_err(failed)?;
        match std::fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (locked.dev(), locked.ino()) => return Ok(file),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Why the control address cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another daemon serves there.
    #[error(
        "another daemon already serves {0}; stop it first, or choose another address with --control or `control` in the configuration's `gateway` section"
    )]
    Running(ControlUri),
    /// Something that is not a socket has the name.
    #[error("{} exists and is not a socket; it is left alone", .0.display())]
    NotASocket(PathBuf),
    /// The operating system refused.
    #[error("control socket {what}: {error}")]
    Io {
        /// The file or address.
        what: String,
        /// What the operating system said.
        error: io::Error,
    },
}

/// A running control interface. Dropping it closes the socket and removes its files; clients that are being
/// served stay until the runtime ends.
#[derive(Debug)]
pub struct Server {
    requests: mpsc::Receiver<Request>,
    task: tokio::task::JoinHandle<()>,
    _files: Option<Files>,
}

impl Server {
    /// The next command; waits for it.
    pub async fn request(&mut self) -> Option<Request> {
        self.requests.recv().await
    }

    /// The next command, if one waits.
    pub fn try_request(&mut self) -> Option<Request> {
        self.requests.try_recv().ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One command of one client.
#[derive(Debug)]
pub struct Request {
    /// Name of the command, which may be anything.
    pub command: String,
    /// Its arguments.
    pub arguments: Message,
    /// The way back.
    pub reply: Reply,
}

/// The way back to the client of one command. Whatever happens to it, the client gets exactly one answer.
#[derive(Debug)]
pub struct Reply {
    client: Arc<Client>,
    written: Option<oneshot::Sender<()>>,
}

impl Reply {
    /// Streams one event to this client, before the answer; as everywhere in vici, only if it registered for it.
    pub fn event(&self, name: &str, message: Message) {
        if self.client.wants(name) {
            match (Packet::Event { name: name.to_owned(), message }).encode() {
                Ok(frame) => {
                    self.client.enqueue(Outgoing { frame: Arc::new(frame), event: false, written: None })
                }
                Err(error) => tracing::warn!("control socket: one `{name}` is left out: {error}"),
            }
        }
    }

    /// The same, and waits until the client has taken it. `false`: it has gone, or does not want it. Not for the thread
    /// that serves clients.
    #[must_use]
    pub fn stream(&self, name: &str, message: Message) -> bool {
        if !self.client.wants(name) {
            return false;
        }
        let Ok(frame) = (Packet::Event { name: name.to_owned(), message }).encode() else { return false };
        let (written, done) = oneshot::channel();
        self.client.enqueue(Outgoing { frame: Arc::new(frame), event: false, written: Some(written) });
        done.blocking_recv().is_ok()
    }

    /// Has the client enough to read for now? [`Hub::read_on`] tells when some client has read.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.client.queued_answers.load(Ordering::Relaxed) > AHEAD
    }

    /// Has the client shown by its way in that it may see what others must not?
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.client.private
    }

    /// Has the client gone?
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.queue.is_closed()
    }

    /// Answers with a message.
    pub fn respond(self, message: Message) {
        self.finish(&Packet::Response(message));
    }

    /// Answers `success=yes`.
    pub fn success(self) {
        let mut message = Message::new();
        message.put("success", "yes");
        self.respond(message);
    }

    /// Answers `success=no` with a sentence that says why.
    pub fn failure(self, why: impl std::fmt::Display) {
        self.respond(failure_message(why));
    }

    /// Answers that there is no such command.
    pub fn unknown_command(self) {
        self.finish(&Packet::CommandUnknown);
    }

    fn finish(mut self, packet: &Packet) {
        self.send(packet);
    }

    fn send(&mut self, packet: &Packet) {
        if let Some(written) = self.written.take() {
            self.client.answer(packet, written);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.send(&Packet::Response(failure_message("the daemon is shutting down")));
    }
}

fn failure_message(why: impl std::fmt::Display) -> Message {
    let mut message = Message::new();
    message.put("success", "no").put_display("errmsg", why);
    message
}

/// The clients and what they registered for: where events are published.
#[derive(Clone, Debug, Default)]
pub struct Hub(Arc<HubState>);

#[derive(Debug, Default)]
struct HubState {
    clients: Mutex<HashMap<u64, Arc<Client>>>,
    next_id: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    stuck: AtomicU64,
    /// A client has taken a frame.
    read: Notify,
    /// Clients registered for `log`, which is asked for every line the daemon logs.
    log_listeners: AtomicUsize,
}

/// What happened to clients since the daemon started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubCounters {
    /// Connected now.
    pub connected: usize,
    /// Ever admitted.
    pub accepted: u64,
    /// Turned away because too many were connected.
    pub refused: u64,
    /// Disconnected because they did not read.
    pub stuck: u64,
}

impl Hub {
    /// Sends an event to every client that registered for it. The message is only made if there is one.
    pub fn publish(&self, name: &str, message: impl FnOnce() -> Message) {
        let bit = bit(name);
        let wants = |client: &&Arc<Client>| client.registered.load(Ordering::Relaxed) & bit != 0;
        let clients: Vec<Arc<Client>> = lock(&self.0.clients).values().filter(wants).cloned().collect();
        if clients.is_empty() {
            return;
        }
        // An event that does not fit into a frame cannot be told; `log` passes here, so this cannot be logged.
        let Ok(frame) = (Packet::Event { name: name.to_owned(), message: message() }).encode() else {
            return;
        };
        let frame = Arc::new(frame);
        for client in clients {
            client.enqueue(Outgoing { frame: Arc::clone(&frame), event: true, written: None });
        }
    }

    /// Waits until some client has read on, or gone.
    pub async fn read_on(&self) {
        self.0.read.notified().await;
    }

    /// Is anybody registered for `log`?
    #[must_use]
    pub fn wants_log(&self) -> bool {
        self.0.log_listeners.load(Ordering::Relaxed) != 0
    }

    /// What happened to clients.
    #[must_use]
    pub fn counters(&self) -> HubCounters {
        HubCounters {
            connected: lock(&self.0.clients).len(),
            accepted: self.0.accepted.load(Ordering::Relaxed),
            refused: self.0.refused.load(Ordering::Relaxed),
            stuck: self.0.stuck.load(Ordering::Relaxed),
        }
    }

    fn admit<R, W>(&self, (reader, writer): (R, W), private: bool, requests: &mpsc::Sender<Request>)
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let (queue, outgoing) = mpsc::unbounded_channel();
        let client = Arc::new(Client {
            private,
            registered: AtomicU32::new(0),
            queue,
            queued_events: AtomicUsize::new(0),
            queued_answers: AtomicUsize::new(0),
            overflow: Notify::new(),
        });
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        {
            let mut clients = lock(&self.0.clients);
            if clients.len() >= MAX_CLIENTS {
                self.0.refused.fetch_add(1, Ordering::Relaxed);
                return;
            }
            clients.insert(id, Arc::clone(&client));
        }
        self.0.accepted.fetch_add(1, Ordering::Relaxed);
        let hub = self.clone();
        let requests = requests.clone();
        tokio::spawn(async move {
            let stuck = tokio::select! {
                result = hub.read(reader, &client, requests) => {
                    if let Err(error) = result {
                        tracing::info!("control socket: a client is disconnected: {error}");
                    }
                    false
                }
                stuck = write(writer, &client, outgoing, &hub.0.read) => stuck,
                () = client.overflow.notified() => true,
            };
            if stuck {
                hub.0.stuck.fetch_add(1, Ordering::Relaxed);
                tracing::info!(
                    "control socket: a client is disconnected: it does not read what it asked for"
                );
            }
            lock(&hub.0.clients).remove(&id);
            hub.0.read.notify_one();
            if client.wants("log") {
                hub.0.log_listeners.fetch_sub(1, Ordering::Relaxed);
            }
        });
    }

    /// Takes packets of one client, each only when the one before is answered.
    async fn read<R: AsyncRead + Unpin>(
        &self,
        reader: R,
        client: &Arc<Client>,
        requests: mpsc::Sender<Request>,
    ) -> Result<(), ReadError> {
        let mut frames = Frames { reader, buffer: Vec::new() };
        while let Some(payload) = frames.next().await? {
            let (written, done) = oneshot::channel();
            match Packet::decode(&payload) {
                Ok(Packet::Request { name, message }) => {
                    let reply = Reply { client: Arc::clone(client), written: Some(written) };
                    // If nobody takes commands any more, the dropped reply says so.
                    drop(requests.send(Request { command: name, arguments: message, reply }).await);
                }
                Ok(Packet::EventRegister(name)) => client.answer(&self.register(client, &name), written),
                Ok(Packet::EventUnregister(name)) => client.answer(&self.unregister(client, &name), written),
                Ok(
                    Packet::Response(_)
                    | Packet::CommandUnknown
                    | Packet::EventConfirm
                    | Packet::EventUnknown
                    | Packet::Event { .. },
                ) => {
                    tracing::debug!("control socket: a client sent what only a daemon sends; ignored");
                    continue;
                }
                Err(DecodeError::UnknownPacket(packet_type)) => {
                    tracing::debug!(
                        "control socket: a client sent a packet of unknown type {packet_type}; ignored"
                    );
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                _ = done => {}
                closed = frames.closed() => return Ok(closed?),
            }
        }
        Ok(())
    }

    fn register(&self, client: &Client, name: &str) -> Packet {
        let bit = bit(name);
        if bit == 0 {
            return Packet::EventUnknown;
        }
        if client.registered.fetch_or(bit, Ordering::Relaxed) & bit == 0 && name == "log" {
            self.0.log_listeners.fetch_add(1, Ordering::Relaxed);
        }
        Packet::EventConfirm
    }

    fn unregister(&self, client: &Client, name: &str) -> Packet {
        let bit = bit(name);
        if client.registered.fetch_and(!bit, Ordering::Relaxed) & bit == 0 {
            return Packet::EventUnknown;
        }
        if name == "log" {
            self.0.log_listeners.fetch_sub(1, Ordering::Relaxed);
        }
        Packet::EventConfirm
    }
}

/// The bit of an event in a client's registrations; 0 if there is no such event.
fn bit(name: &str) -> u32 {
    const { assert!(EVENTS.len() <= u32::BITS as usize) };
    EVENTS.iter().position(|event| *event == name).map_or(0, |place| 1 << place)
}

/// Cuts what arrives into frames, reading at most one frame ahead.
struct Frames<R> {
    reader: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    /// The payload of the next frame; `None` when the client has gone.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        loop {
            if let Some((length, _)) = self.buffer.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if length > MAX_FRAME {
                    return Err(ReadError::FrameTooLong(length));
                }
                if self.buffer.len() >= 4 + length {
                    let rest = self.buffer.split_off(4 + length);
                    let mut payload = std::mem::replace(&mut self.buffer, rest);
                    payload.drain(..4);
                    return Ok(Some(payload));
                }
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// Returns when the client has gone, while one of its commands is under way.
    async fn closed(&mut self) -> io::Result<()> {
        while self.buffer.len() < 4 + MAX_FRAME {
            if !self.more().await? {
                return Ok(());
            }
        }
        std::future::pending().await
    }

    /// Reads what is there; `false` at the end. Nothing is lost if this is cancelled.
    async fn more(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 4096];
        let length = self.reader.read(&mut chunk).await?;
        self.buffer.extend(chunk.iter().take(length));
        Ok(length != 0)
    }
}

/// Writes what is queued until the client leaves or no longer reads; `true` means the latter.
async fn write<W: AsyncWrite + Unpin>(
    mut writer: W,
    client: &Client,
    mut outgoing: mpsc::UnboundedReceiver<Outgoing>,
    read: &Notify,
) -> bool {
    while let Some(Outgoing { frame, event, written }) = outgoing.recv().await {
        match tokio::time::timeout(WRITE_TIMEOUT, writer.write_all(&frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return false,
            Err(_elapsed) => return true,
        }
        if event {
            client.queued_events.fetch_sub(frame.len(), Ordering::Relaxed);
        } else {
            client.queued_answers.fetch_sub(frame.len(), Ordering::Relaxed);
            read.notify_one();
        }
        if let Some(written) = written {
            let _ = written.send(());
        }
    }
    false
}

#[derive(Debug)]
struct Client {
    /// It has come by the socket file, which has an owner and permissions.
    private: bool,
    /// One bit for each of [`EVENTS`].
    registered: AtomicU32,
    queue: mpsc::UnboundedSender<Outgoing>,
    /// Octets of events in the queue.
    queued_events: AtomicUsize,
    /// Octets of answers in the queue. A client has one command at a time, and the next is not read before the answer is
    /// written; whoever lists much waits for it ([`Reply::is_busy`]).
    queued_answers: AtomicUsize,
    overflow: Notify,
}

#[derive(Debug)]
struct Outgoing {
    frame: Arc<Vec<u8>>,
    event: bool,
    written: Option<oneshot::Sender<()>>,
}

impl Client {
    fn wants(&self, event: &str) -> bool {
        self.registered.load(Ordering::Relaxed) & bit(event) != 0
    }

    fn enqueue(&self, outgoing: Outgoing) {
        if outgoing.event {
            let length = outgoing.frame.len();
            if self.queued_events.fetch_add(length, Ordering::Relaxed) + length > MAX_QUEUED_EVENTS {
                self.queued_events.fetch_sub(length, Ordering::Relaxed);
                self.overflow.notify_one();
                return;
            }
        } else {
            self.queued_answers.fetch_add(outgoing.frame.len(), Ordering::Relaxed);
        }
        // The client has gone if this fails.
        let _ = self.queue.send(outgoing);
    }

    fn answer(&self, packet: &Packet, written: oneshot::Sender<()>) {
        // A failure message that cannot be encoded does not exist; if it did, the client would be let go.
        let frame = packet.encode().or_else(|error| Packet::Response(failure_message(error)).encode());
        if let Ok(frame) = frame {
            self.enqueue(Outgoing { frame: Arc::new(frame), event: false, written: Some(written) });
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("a frame of {0} octets is longer than {MAX_FRAME}; is it a vici client?")]
    FrameTooLong(usize),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A client that is a test, or a fuzzer, and has registered for everything.
pub(crate) struct Captured {
    client: Arc<Client>,
    outgoing: mpsc::UnboundedReceiver<Outgoing>,
}

impl Captured {
    pub(crate) fn reply() -> (Reply, Self) {
        let captured = Self::client();
        (Reply { client: Arc::clone(&captured.client), written: Some(oneshot::channel().0) }, captured)
    }

    #[cfg(test)]
    pub(crate) fn listener(hub: &Hub) -> Self {
        let captured = Self::client();
        lock(&hub.0.clients).insert(u64::MAX, Arc::clone(&captured.client));
        captured
    }

    fn client() -> Self {
        let (queue, outgoing) = mpsc::unbounded_channel();
        let client = Client {
            private: true,
            registered: AtomicU32::new(u32::MAX),
            queue,
            queued_events: AtomicUsize::new(0),
            queued_answers: AtomicUsize::new(0),
            overflow: Notify::new(),
        };
        Self { client: Arc::new(client), outgoing }
    }

    /// Octets that wait to be read.
    pub(crate) fn queued(&self) -> usize {
        self.client.queued_answers.load(Ordering::Relaxed)
    }

    /// What was sent has reached somebody who reads.
    #[cfg(test)]
    pub(crate) fn has_read(&self) {
        self.client.queued_answers.store(0, Ordering::Relaxed);
    }

    /// What was sent since the last call.
    pub(crate) fn packets(&mut self) -> Vec<Packet> {
        let frames = std::iter::from_fn(|| self.outgoing.try_recv().ok());
        frames.filter_map(|outgoing| Packet::decode(outgoing.frame.get(4..)?).ok()).collect()
    }
}

/// What these locks protect stays whole whatever panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
