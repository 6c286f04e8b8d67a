//! The control interface over real sockets, with a daemon that is made up.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "this whole file is a test, helper functions included"
)]

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use adit::config::ControlUri;
use adit::control::client::{Client, ClientError};
use adit::control::server::{ClaimError, Hub, Listener, Request};
use adit::control::vici::{MAX_FRAME, Message, Packet};

/// A daemon that serves until it is dropped, and hands every request to a function.
struct Daemon {
    uri: ControlUri,
    hub: Hub,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Daemon {
    fn start(uri: &ControlUri, mut handle: impl FnMut(Request) + Send + 'static) -> Self {
        let listener = Listener::claim(uri).unwrap();
        let uri = listener.uri();
        let hub = Hub::default();
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let served = hub.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let mut server = listener.serve(&served).unwrap();
                ready.send(()).unwrap();
                loop {
                    tokio::select! {
                        request = server.request() => handle(request.unwrap()),
                        _ = &mut stopped => return,
                    }
                }
            });
        });
        is_ready.recv().unwrap();
        Self { uri, hub, stop: Some(stop), thread: Some(thread) }
    }

    fn path(&self) -> &Path {
        match &self.uri {
            ControlUri::Unix(path) => path,
            ControlUri::Tcp(_) => panic!("not a Unix socket"),
        }
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Waits until `condition` holds for the clients.
    fn wait(&self, what: &str, condition: impl Fn(&Hub) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition(&self.hub) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.hub.counters());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn unix_uri(directory: &tempfile::TempDir) -> ControlUri {
    ControlUri::Unix(directory.path().join("run/adit.vici"))
}

/// Answers `echo` with its arguments and `stream` with as many events as asked for; everything else is unknown.
fn echo(request: Request) {
    match request.command.as_str() {
        "echo" => request.reply.respond(request.arguments),
        "stream" => {
            for number in 0..request.arguments.number("count").unwrap_or(0_u32) {
                let mut message = Message::new();
                message.put_display("number", number).put("padding", vec![b'x'; 1000]);
                request.reply.event("list-sa", message);
            }
            request.reply.success();
        }
        "forget" => drop(request.reply),
        _ => request.reply.unknown_command(),
    }
}

fn argument(key: &str, value: &str) -> Message {
    let mut message = Message::new();
    message.put(key, value);
    message
}

fn send(stream: &mut UnixStream, packet: &Packet) {
    stream.write_all(&packet.encode().unwrap()).unwrap();
}

fn receive(stream: &mut UnixStream) -> Option<Packet> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut payload = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut payload).ok()?;
    Some(Packet::decode(&payload).unwrap())
}

#[test]
fn commands_over_unix_and_tcp() {
    let directory = tempfile::tempdir().unwrap();
    for uri in [unix_uri(&directory), ControlUri::Tcp("127.0.0.1:0".parse().unwrap())] {
        let daemon = Daemon::start(&uri, echo);
        let mut client = Client::connect(&daemon.uri).unwrap();
        let arguments = argument("key", "value");
        assert_eq!(client.request("echo", arguments.clone()).unwrap(), arguments);
        assert!(
            matches!(client.request("brew", Message::new()), Err(ClientError::UnknownCommand(name)) if name == "brew")
        );
        assert_eq!(client.request("echo", arguments.clone()).unwrap(), arguments, "after an unknown command");
        let mut numbers = Vec::new();
        let answer = client
            .streamed("stream", argument("count", "3"), "list-sa", |event| {
                numbers.push(event.number::<u32>("number").unwrap())
            })
            .unwrap();
        assert!(answer.flag("success"));
        assert_eq!(numbers, [0, 1, 2]);
        assert!(matches!(
            client.streamed("stream", Message::new(), "no-such-event", |_| ()),
            Err(ClientError::UnknownEvent(_))
        ));
        let forgotten = client.request("forget", Message::new()).unwrap();
        assert!(!forgotten.flag("success") && forgotten.text("errmsg").is_some());
    }
}

#[test]
fn the_socket_is_for_root_and_its_group() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&unix_uri(&directory), echo);
    let socket = std::fs::metadata(daemon.path()).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o777, 0o660);
    let parent = std::fs::metadata(daemon.path().parent().unwrap()).unwrap();
    assert_eq!(parent.permissions().mode() & 0o777 & !0o750, 0);
    let lock = std::fs::metadata(daemon.path().with_extension("vici.lock")).unwrap();
    assert_eq!(lock.permissions().mode() & 0o777 & !0o600, 0, "nobody else can keep a daemon from starting");
    let parent = daemon.path().parent().unwrap().to_owned();
    drop(daemon);
    assert_eq!(std::fs::read_dir(parent).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_second_daemon_is_refused_and_a_dead_one_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let uri = unix_uri(&directory);
    let daemon = Daemon::start(&uri, echo);
    assert!(matches!(Listener::claim(&uri), Err(ClaimError::Running(there)) if there == uri));
    assert!(Client::connect(&uri).unwrap().request("echo", Message::new()).is_ok(), "the first goes on");
    let path = daemon.path().to_owned();
    drop(daemon);
    assert!(matches!(Client::connect(&uri), Err(ClientError::NotRunning(_))));

    // What a killed daemon leaves: a socket nobody listens on, and lock and new files nobody holds.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    std::fs::write(path.with_extension("vici.lock"), "").unwrap();
    drop(std::os::unix::net::UnixListener::bind(path.with_extension("vici.new")).unwrap());
    assert!(matches!(Client::connect(&uri), Err(ClientError::NotRunning(_))));
    let daemon = Daemon::start(&uri, echo);
    assert!(Client::connect(&uri).unwrap().request("echo", Message::new()).is_ok());
    drop(daemon);

    // Another program's socket, and a file that is none.
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(matches!(Listener::claim(&uri), Err(ClaimError::Running(_))));
    drop(other);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Listener::claim(&uri), Err(ClaimError::NotASocket(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");

    let tcp = Daemon::start(&ControlUri::Tcp("127.0.0.1:0".parse().unwrap()), echo);
    assert!(matches!(Listener::claim(&tcp.uri), Err(ClaimError::Running(_))));
}

#[test]
fn of_many_daemons_that_start_together_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let uri = unix_uri(&directory);
    for _ in 0..20 {
        let barrier = std::sync::Arc::new(std::sync::Barrier::new(4));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (uri, barrier) = (uri.clone(), barrier.clone());
                std::thread::spawn(move || {
                    barrier.wait();
                    let claim = Listener::claim(&uri);
                    barrier.wait();
                    match claim {
                        Ok(_) => true,
                        Err(ClaimError::Running(_)) => false,
                        Err(other) => panic!("{other}"),
                    }
                })
            })
            .collect();
        let winners = threads.into_iter().map(|thread| thread.join().unwrap()).filter(|won| *won).count();
        assert_eq!(winners, 1);
    }
}

#[test]
fn registrations() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&unix_uri(&directory), echo);
    let mut stream = daemon.raw();
    for (packet, answer) in [
        (Packet::EventRegister("ike-updown".into()), Packet::EventConfirm),
        (Packet::EventRegister("child-updown".into()), Packet::EventConfirm),
        (Packet::EventRegister("nonsense".into()), Packet::EventUnknown),
        (Packet::EventUnregister("log".into()), Packet::EventUnknown),
        (Packet::EventUnregister("child-updown".into()), Packet::EventConfirm),
        (Packet::EventUnregister("child-updown".into()), Packet::EventUnknown),
    ] {
        send(&mut stream, &packet);
        assert_eq!(receive(&mut stream), Some(answer), "{packet:?}");
    }
    daemon.hub.publish("child-updown", || panic!("nobody is registered"));
    daemon.hub.publish("ike-updown", || argument("up", "yes"));
    let event = Packet::Event { name: "ike-updown".into(), message: argument("up", "yes") };
    assert_eq!(receive(&mut stream), Some(event));

    assert!(!daemon.hub.wants_log());
    send(&mut stream, &Packet::EventRegister("log".into()));
    assert_eq!(receive(&mut stream), Some(Packet::EventConfirm));
    assert!(daemon.hub.wants_log());
    drop(stream);
    daemon.wait("the client's registrations go with it", |hub| {
        !hub.wants_log() && hub.counters().connected == 0
    });
}

#[test]
fn events_come_between_a_request_and_its_answer() {
    let directory = tempfile::tempdir().unwrap();
    let (held, requests) = mpsc::channel::<Request>();
    let daemon = Daemon::start(&unix_uri(&directory), move |request| held.send(request).unwrap());
    let mut stream = daemon.raw();
    send(&mut stream, &Packet::EventRegister("ike-updown".into()));
    assert_eq!(receive(&mut stream), Some(Packet::EventConfirm));
    // Two commands at once: the second is not taken before the first is answered.
    for number in ["1", "2"] {
        send(&mut stream, &Packet::Request { name: "echo".into(), message: argument("n", number) });
    }
    let first = requests.recv().unwrap();
    assert_eq!(first.arguments, argument("n", "1"));
    daemon.hub.publish("ike-updown", Message::new);
    assert_eq!(
        receive(&mut stream),
        Some(Packet::Event { name: "ike-updown".into(), message: Message::new() })
    );
    assert!(requests.recv_timeout(Duration::from_millis(50)).is_err());
    first.reply.event("control-log", argument("msg", "not registered for, so not sent"));
    first.reply.respond(argument("answer", "1"));
    assert_eq!(receive(&mut stream), Some(Packet::Response(argument("answer", "1"))));
    let second = requests.recv().unwrap();
    assert_eq!(second.arguments, argument("n", "2"));
    assert!(!second.reply.is_closed());
    drop(stream);
    daemon.wait("the client leaves", |hub| hub.counters().connected == 0);
    assert!(second.reply.is_closed());
    second.reply.success();
}

#[test]
fn a_stuck_client_delays_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&unix_uri(&directory), echo);
    // One does not read the events it registered for, another not the long answer it asked for.
    let mut deaf = daemon.raw();
    send(&mut deaf, &Packet::EventRegister("child-updown".into()));
    assert_eq!(receive(&mut deaf), Some(Packet::EventConfirm));
    let mut asleep = daemon.raw();
    send(&mut asleep, &Packet::EventRegister("list-sa".into()));
    send(&mut asleep, &Packet::Request { name: "stream".into(), message: argument("count", "5000") });
    // A third stops in the middle of a frame.
    let mut halfway = daemon.raw();
    halfway.write_all(&[0, 0, 1, 0, 0]).unwrap();

    let mut client = Client::connect(&daemon.uri).unwrap();
    client.set_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut padding = Message::new();
    padding.put("padding", vec![b'x'; 10_000]);
    for _ in 0..400 {
        daemon.hub.publish("child-updown", || padding.clone());
        client.request("echo", Message::new()).unwrap();
    }
    daemon.wait("who does not read is let go", |hub| hub.counters().stuck == 1);
    while receive(&mut deaf).is_some() {}
    // Who reads late but reads gets everything.
    let mut events = 0;
    while let Some(Packet::Event { .. } | Packet::EventConfirm) = receive(&mut asleep) {
        events += 1;
    }
    assert_eq!(events, 5001);
}

#[test]
fn garbage_ends_only_the_client_that_sent_it() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&unix_uri(&directory), echo);
    let mut good = Client::connect(&daemon.uri).unwrap();
    let too_long = u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes();
    for garbage in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        &too_long,
        &[0, 0, 0, 0],
        &[0, 0, 0, 2, 0, 9],
        &[0, 0, 0, 3, 0, 0, 7],
    ] {
        let mut stream = daemon.raw();
        stream.write_all(garbage).unwrap();
        assert_eq!(receive(&mut stream), None, "{garbage:02x?}");
        good.request("echo", Message::new()).unwrap();
    }
    // A packet type of some later version is ignored, as is what only a daemon sends.
    let mut stream = daemon.raw();
    stream.write_all(&[0, 0, 0, 1, 99]).unwrap();
    send(&mut stream, &Packet::Response(Message::new()));
    send(&mut stream, &Packet::Request { name: "echo".into(), message: Message::new() });
    assert_eq!(receive(&mut stream), Some(Packet::Response(Message::new())));
    daemon.wait("they are gone", |hub| hub.counters().connected == 2);
}

#[test]
fn clients_are_limited() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&unix_uri(&directory), echo);
    let mut clients: Vec<_> = (0..256).map(|_| daemon.raw()).collect();
    daemon.wait("they are admitted", |hub| hub.counters().accepted == 256);
    assert_eq!(receive(&mut daemon.raw()), None, "one too many");
    assert_eq!(daemon.hub.counters().refused, 1);
    clients.pop();
    daemon.wait("one leaves", |hub| hub.counters().connected == 255);
    assert!(Client::connect(&daemon.uri).unwrap().request("echo", Message::new()).is_ok());
}
