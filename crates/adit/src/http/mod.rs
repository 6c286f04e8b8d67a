//! The HTTP service: metrics, health and the status page, for whoever may reach its address. It only shows.
//!
//! It runs on a thread of its own and asks the event loop for a snapshot, so that no client, however slow, delays
//! anything but itself. It owns the listener, its limits and what is answered to which path; it never changes anything,
//! and what it shows is in [`crate::snapshot`].

mod address;
mod answer;
pub(crate) mod fuzzing;
mod metrics;
mod process;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

pub use self::address::{BadHttpAddress, HttpAddress};
pub use self::metrics::manual;
use crate::control::server::{self, Files};
use crate::snapshot::Snapshot;

/// At most this many clients at a time; who comes beyond is turned away.
pub(crate) const MOST_CLIENTS: usize = 64;

/// A client that does not send the head of its next request in this time is disconnected.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// After this time a client is let go at the end of its request: it may come back.
const STAY: Duration = Duration::from_secs(300);

/// A client that does not take its answer in this time is disconnected.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The head of a request has at most so many octets.
const MOST_HEAD: usize = 16 * 1024;

/// And so many lines.
const MOST_HEADERS: usize = 64;

/// The event loop answers in this time, or it is not well.
const PATIENCE: Duration = Duration::from_secs(2);

/// A snapshot of very many tunnels takes its time: it is made between everything else.
const PATIENCE_TO_SEE: Duration = Duration::from_secs(9);

/// The service; dropping it ends it.
#[derive(Debug)]
pub struct Service {
    /// Dropped, it tells the thread to end.
    end: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    _files: Option<Files>,
}

impl Service {
    /// Takes the address and serves it from now on.
    ///
    /// # Errors
    /// The address cannot be had, or the system has no thread left.
    pub(crate) fn start(address: &HttpAddress, source: Source) -> Result<Self, ClaimError> {
        let failed = |error| ClaimError::Io { address: address.clone(), error };
        let (socket, files) = match address {
            HttpAddress::Tcp(local) => {
                let listener = std::net::TcpListener::bind(local).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                (Socket::Tcp(listener), None)
            }
            HttpAddress::Unix(path) => {
                let (listener, files) = server::claim_unix(path)?;
                (Socket::Unix(listener), Some(files))
            }
        };
        let local = match address {
            HttpAddress::Tcp(local) => Some(*local),
            HttpAddress::Unix(_) => None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let site = Arc::new(Site { source, local, counters: Counters::default() });
        let (end, ended) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("adit-http".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = serve(socket, &site) => {}
                        // It is never sent, only dropped.
                        _ = ended => {}
                    }
                });
                // Clients that are still there are let go with the runtime.
            })
            .map_err(failed)?;
        tracing::info!("metrics, health and the status page at {address}");
        Ok(Self { end: Some(end), thread: Some(thread), _files: files })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.end.take());
        // Nothing on that thread blocks, so this is soon; if it panicked, that is in the log.
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// Why the service did not start.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The operating system refused.
    #[error(
        "HTTP service at {address}: {error}; choose another address with `http` in the configuration's `gateway` section"
    )]
    Io {
        /// The address that was asked for.
        address: HttpAddress,
        /// What the operating system said.
        error: io::Error,
    },
    /// The file of the socket cannot be had.
    #[error("HTTP service: {0}")]
    Unix(#[from] server::ClaimError),
}

enum Socket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// What is asked of the event loop, and where the answer goes.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Everything that there is to see.
    Snapshot(oneshot::Sender<Arc<Snapshot>>),
    /// Whether it goes round.
    Pulse(oneshot::Sender<()>),
}

/// Where snapshots come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// The event loop.
    Daemon(mpsc::Sender<Ask>),
    /// One that never changes, for tests.
    Fixed(Arc<Snapshot>),
}

/// The daemon's event loop does not answer.
struct Unwell;

impl Source {
    async fn snapshot(&self) -> Result<Arc<Snapshot>, Unwell> {
        match self {
            Self::Fixed(snapshot) => Ok(Arc::clone(snapshot)),
            Self::Daemon(daemon) => asked(daemon, Ask::Snapshot, PATIENCE_TO_SEE).await,
        }
    }

    /// Does the event loop go round?
    async fn pulse(&self) -> Result<(), Unwell> {
        match self {
            Self::Fixed(_) => Ok(()),
            Self::Daemon(daemon) => asked(daemon, Ask::Pulse, PATIENCE).await,
        }
    }
}

async fn asked<T>(
    daemon: &mpsc::Sender<Ask>,
    what: fn(oneshot::Sender<T>) -> Ask,
    patience: Duration,
) -> Result<T, Unwell> {
    let (ask, answer) = oneshot::channel();
    let asked = async {
        daemon.send(what(ask)).await.map_err(|_| Unwell)?;
        answer.await.map_err(|_| Unwell)
    };
    tokio::time::timeout(patience, asked).await.unwrap_or(Err(Unwell))
}

/// What is served, and to how many.
#[derive(Debug)]
pub(crate) struct Site {
    source: Source,
    /// The address of a TCP listener.
    local: Option<SocketAddr>,
    counters: Counters,
}

/// What happened to clients since the service started.
#[derive(Debug, Default)]
struct Counters {
    connected: AtomicUsize,
    refused: AtomicU64,
    requests: AtomicU64,
    stuck: AtomicU64,
}

async fn serve(socket: Socket, site: &Arc<Site>) {
    let result = match socket {
        Socket::Tcp(listener) => match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => loop {
                match listener.accept().await {
                    Ok((stream, _)) => admit(site, stream),
                    Err(error) => accept_failed(&error).await,
                }
            },
            Err(error) => error,
        },
        Socket::Unix(listener) => match tokio::net::UnixListener::from_std(listener) {
            Ok(listener) => loop {
                match listener.accept().await {
                    Ok((stream, _)) => admit(site, stream),
                    Err(error) => accept_failed(&error).await,
                }
            },
            Err(error) => error,
        },
    };
    tracing::error!("HTTP service: {result}");
}

/// Out of descriptors or memory: wait for clients to leave rather than spin.
async fn accept_failed(error: &io::Error) {
    tracing::warn!("HTTP service: cannot accept a client: {error}");
    tokio::time::sleep(Duration::from_secs(1)).await;
}

fn admit<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(site: &Arc<Site>, stream: S) {
    let counters = &site.counters;
    if counters.connected.fetch_add(1, Ordering::Relaxed) >= MOST_CLIENTS {
        counters.connected.fetch_sub(1, Ordering::Relaxed);
        counters.refused.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let site = Arc::clone(site);
    tokio::spawn(async move {
        converse(&site, stream).await;
        site.counters.connected.fetch_sub(1, Ordering::Relaxed);
    });
}

/// Serves one client until it goes, is told to, or is too slow.
pub(crate) async fn converse<S: AsyncRead + AsyncWrite + Unpin>(site: &Site, stream: S) {
    // How many answers were made.
    let answers = AtomicU64::new(0);
    let service = service_fn(|request| {
        let answers = &answers;
        async move {
            site.counters.requests.fetch_add(1, Ordering::Relaxed);
            let answer = answer::answer(site, request).await;
            answers.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MOST_HEAD)
        .max_headers(MOST_HEADERS)
        // Who has said all may close that half and still wants the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let leave = Instant::now() + STAY;
    let mut leaving = false;
    loop {
        // hyper limits how long a head takes, and so how long a client is idle, but not how long it takes its answer.
        // Nothing at all for longer than both is that.
        let before = answers.load(Ordering::Relaxed);
        if tokio::time::timeout(ANSWER_TIMEOUT + HEAD_TIMEOUT, connection.as_mut()).await.is_ok() {
            // It has gone. If it broke the protocol that is nobody's concern but its own.
            return;
        }
        if leaving || answers.load(Ordering::Relaxed) == before {
            site.counters.stuck.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if Instant::now() >= leave {
            leaving = true;
            connection.as_mut().graceful_shutdown();
        }
    }
}

/// `/metrics` of a snapshot.
#[cfg(test)]
pub(crate) fn metrics_of(snapshot: &Snapshot) -> String {
    let (process, counters) = (process::Process::read(), Counters::default());
    metrics::render(snapshot, &process, &counters, metrics::Format::Prometheus)
}

#[cfg(test)]
mod tests;
