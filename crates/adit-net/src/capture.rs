//! An observer: reads every frame that passes an interface, in both directions, with the kernel's time stamps.
//! It only listens.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Error;
use crate::sys::{self, BATCH, RecvBatch};

/// A packet socket on one interface.
pub struct Capture {
    socket: Socket,
    batch: RecvBatch,
}

/// One frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// When the kernel saw it.
    pub at: SystemTime,
    /// Did this namespace send it?
    pub outgoing: bool,
    /// The frame from its link-layer header on.
    pub octets: &'a [u8],
}

impl Capture {
    /// Listens on the interface `name` of the calling thread's network namespace. Reading may go on from any
    /// thread.
    pub fn open(name: &str) -> Result<Self, Error> {
        let index = crate::netlink::Netlink::open()?.link(name)?.index;
        let open = || {
            // Protocol 0 receives nothing until the socket is bound to the interface.
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
            socket.set_nonblocking(true)?;
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20)?;
            sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
            sys::bind_packet(socket.as_fd(), index)?;
            Ok(socket)
        };
        let socket = open().map_err(|error: io::Error| Error::system(format!("observe {name}"), error))?;
        Ok(Self { socket, batch: RecvBatch::new(1 << 16) })
    }

    /// Hands what has arrived to `each`, waiting at most `patience` for the first frame. Returns how many.
    pub fn read(&mut self, patience: Duration, mut each: impl FnMut(Frame<'_>)) -> io::Result<usize> {
        let timeout = Timespec::try_from(patience).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(0),
            result => result?,
        };
        let count = match self.batch.receive(self.socket.as_fd(), BATCH) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            result => result?,
        };
        let (buffer, messages) = self.batch.messages();
        for (received, place) in messages {
            let octets = buffer.get(place).unwrap_or_default();
            let at = received.timestamp.map_or_else(SystemTime::now, |since| SystemTime::UNIX_EPOCH + since);
            each(Frame { at, outgoing: received.outgoing, octets });
        }
        Ok(count)
    }
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture").field("socket", &self.socket).finish_non_exhaustive()
    }
}
