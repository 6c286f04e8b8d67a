//! A vici client, as the `adit` commands use it: blocking, one command at a time.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::vici::{DecodeError, EncodeError, MAX_FRAME, Message, Packet};
use crate::config::ControlUri;

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    uri: ControlUri,
}

impl Client {
    /// Connects to the daemon at `uri`.
    ///
    /// # Errors
    ///
    /// [`ClientError`] with a text that says what to do.
    pub fn connect(uri: &ControlUri) -> Result<Self, ClientError> {
        let stream = match uri {
            ControlUri::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
            ControlUri::Tcp(address) => {
                TcpStream::connect_timeout(address, Duration::from_secs(5)).map(Stream::Tcp)
            }
        };
        let stream = stream.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(uri.clone())
            }
            io::ErrorKind::PermissionDenied => ClientError::Permission(uri.clone()),
            _ => ClientError::Connect { uri: uri.clone(), error },
        })?;
        Ok(Self { stream, uri: uri.clone() })
    }

    /// How long to wait for each packet; `None` is forever.
    ///
    /// # Errors
    ///
    /// If the operating system does not take it.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) -> Result<(), ClientError> {
        let result = match &self.stream {
            Stream::Unix(stream) => stream.set_read_timeout(timeout),
            Stream::Tcp(stream) => stream.set_read_timeout(timeout),
        };
        result.map_err(|error| self.lost(error))
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    ///
    /// If the connection fails, the daemon does not know the command, or what it sends is not vici.
    pub fn request(&mut self, command: &str, arguments: Message) -> Result<Message, ClientError> {
        self.send(&Packet::Request { name: command.to_owned(), message: arguments })?;
        let answer = self.answer(command, |_, _| true)?;
        answer.ok_or_else(|| ClientError::Unexpected(self.uri.clone()))
    }

    /// Sends a command and hands every event called `event` to `on_event` until the answer comes.
    ///
    /// # Errors
    ///
    /// As [`Client::request`].
    pub fn streamed(
        &mut self,
        command: &str,
        arguments: Message,
        event: &str,
        mut on_event: impl FnMut(Message),
    ) -> Result<Message, ClientError> {
        let answer = self.streamed_while(command, arguments, event, |message| {
            on_event(message);
            true
        })?;
        answer.ok_or_else(|| ClientError::Unexpected(self.uri.clone()))
    }

    /// The same for as long as `on_event` wants more; `None` if it had enough before the answer came. Then the connection is
    /// of no more use.
    ///
    /// # Errors
    ///
    /// As [`Client::request`].
    pub fn streamed_while(
        &mut self,
        command: &str,
        arguments: Message,
        event: &str,
        mut on_event: impl FnMut(Message) -> bool,
    ) -> Result<Option<Message>, ClientError> {
        self.registration(Packet::EventRegister(event.to_owned()), event)?;
        self.send(&Packet::Request { name: command.to_owned(), message: arguments })?;
        let answer = self.answer(command, |name, message| name != event || on_event(message))?;
        if answer.is_some() {
            self.registration(Packet::EventUnregister(event.to_owned()), event)?;
        }
        Ok(answer)
    }

    /// Registers for an event, for [`Client::event`].
    ///
    /// # Errors
    ///
    /// As [`Client::request`]; also if the daemon does not know the event.
    pub fn follow(&mut self, event: &str) -> Result<(), ClientError> {
        self.registration(Packet::EventRegister(event.to_owned()), event)
    }

    /// The next event of those that [`Client::follow`] has named; waits for it.
    ///
    /// # Errors
    ///
    /// As [`Client::request`].
    pub fn event(&mut self) -> Result<(String, Message), ClientError> {
        match self.receive()? {
            Packet::Event { name, message } => Ok((name, message)),
            _ => Err(ClientError::Unexpected(self.uri.clone())),
        }
    }

    fn registration(&mut self, packet: Packet, event: &str) -> Result<(), ClientError> {
        self.send(&packet)?;
        loop {
            match self.receive()? {
                Packet::EventConfirm => return Ok(()),
                Packet::EventUnknown => return Err(ClientError::UnknownEvent(event.to_owned())),
                Packet::Event { .. } => {}
                _ => return Err(ClientError::Unexpected(self.uri.clone())),
            }
        }
    }

    fn answer(
        &mut self,
        command: &str,
        mut on_event: impl FnMut(&str, Message) -> bool,
    ) -> Result<Option<Message>, ClientError> {
        loop {
            match self.receive()? {
                Packet::Response(message) => return Ok(Some(message)),
                Packet::CommandUnknown => return Err(ClientError::UnknownCommand(command.to_owned())),
                Packet::Event { name, message } => {
                    if !on_event(&name, message) {
                        return Ok(None);
                    }
                }
                _ => return Err(ClientError::Unexpected(self.uri.clone())),
            }
        }
    }

    fn send(&mut self, packet: &Packet) -> Result<(), ClientError> {
        let frame = packet.encode()?;
        self.stream.write_all(&frame).map_err(|error| self.lost(error))
    }

    fn receive(&mut self) -> Result<Packet, ClientError> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).map_err(|error| self.lost(error))?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_FRAME {
            return Err(ClientError::Unexpected(self.uri.clone()));
        }
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).map_err(|error| self.lost(error))?;
        Packet::decode(&payload).map_err(|error| ClientError::NotVici { uri: self.uri.clone(), error })
    }

    fn lost(&self, error: io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::NoAnswer(self.uri.clone()),
            _ => ClientError::Lost { uri: self.uri.clone(), error },
        }
    }
}

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(buffer),
            Self::Tcp(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.flush(),
            Self::Tcp(stream) => stream.flush(),
        }
    }
}

/// Why a command did not reach the daemon or its answer did not come back.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no daemon answers at {0}. Is it running (`adit run`, or `systemctl status adit`)? Another address is chosen with --control"
    )]
    NotRunning(ControlUri),
    /// The socket's permissions forbid it.
    #[error(
        "permission denied at {0}: the control socket belongs to root; use sudo, or give your group access to the socket"
    )]
    Permission(ControlUri),
    /// Any other reason not to connect.
    #[error("cannot connect to {uri}: {error}")]
    Connect {
        /// Where.
        uri: ControlUri,
        /// What the operating system said.
        error: io::Error,
    },
    /// The connection ended before the answer.
    #[error("the daemon at {uri} closed the connection before it answered ({error}); see its log")]
    Lost {
        /// Where.
        uri: ControlUri,
        /// What the operating system said.
        error: io::Error,
    },
    /// The daemon is silent.
    #[error("the daemon at {0} does not answer")]
    NoAnswer(ControlUri),
    /// Something else listens there.
    #[error("what listens at {uri} does not speak vici: {error}")]
    NotVici {
        /// Where.
        uri: ControlUri,
        /// What is wrong with its answer.
        error: DecodeError,
    },
    /// Something else listens there.
    #[error("what listens at {0} does not answer as a vici daemon would")]
    Unexpected(ControlUri),
    /// Another daemon, or an older one.
    #[error("the daemon does not know the command `{0}`; is it Adit, and of this version?")]
    UnknownCommand(String),
    /// Another daemon, or an older one.
    #[error("the daemon does not know the event `{0}`; is it Adit, and of this version?")]
    UnknownEvent(String),
    /// An argument is too long for the protocol.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}
