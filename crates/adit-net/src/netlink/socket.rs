//! A netlink socket of any protocol, and the framing of what it receives. It knows what belongs to a request, and of no message
//! what it means.

use std::io::{self, Read, Write};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::Error;

/// A netlink socket of any protocol, and the framing of what it receives.
#[derive(Debug)]
pub(crate) struct NetlinkSocket {
    socket: Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl NetlinkSocket {
    /// Opens a socket for the calling thread's network namespace.
    pub(crate) fn open(protocol: i32) -> Result<Self, Error> {
        let socket = Self::bound(protocol, 0)?;
        // The kernel answers before the request returns; the limit is for a kernel that does not.
        socket
            .socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .map_err(|error| Error::system("open a netlink socket", error))?;
        Ok(socket)
    }

    /// Opens a socket that receives the notifications of the multicast `groups`, a set of bits, but not those of what
    /// sockets with the ports `own` change: those can be more than fit.
    pub(crate) fn subscribe(protocol: i32, groups: u32, own: &[u32]) -> Result<Self, Error> {
        let socket = Self::bound(protocol, groups)?;
        let ready = socket.socket.set_nonblocking(true).and_then(|()| socket.refuse_from(own));
        ready.map_err(|error| Error::system("listen to netlink notifications", error))?;
        Ok(socket)
    }

    /// The kernel asks this program (classic BPF) before it puts a message into the buffer.
    fn refuse_from(&self, ports: &[u32]) -> io::Result<()> {
        let step = |code: u32, skip, k| SockFilter::new(code as u16, skip, 0, k);
        let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, PORT_AT)];
        for (port, left) in ports.iter().zip((1..=ports.len() as u8).rev()) {
            // The program reads numbers in network order.
            let port = u32::from_be_bytes(port.to_ne_bytes());
            program.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, left, port));
        }
        program.extend([u32::MAX, 0].map(|len| step(libc::BPF_RET | libc::BPF_K, 0, len)));
        self.socket.attach_filter(&program)
    }

    fn bound(protocol: i32, groups: u32) -> Result<Self, Error> {
        let open = || {
            let socket =
                Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(protocol)))?;
            rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
            let address = SocketAddrNetlink::try_from(rustix::net::getsockname(&socket)?)?;
            // The kernel cuts dumps into pieces of at most 32 KiB.
            Ok(Self { socket, port: address.pid(), sequence: 0, buffer: vec![0; 1 << 16] })
        };
        open().map_err(|error| Error::system("open a netlink socket", error))
    }

    /// The number by which the kernel knows the socket, and which notifications of its changes carry.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Hands what notifications are there to `each`, those of `most` datagrams at most.
    pub(crate) fn notifications(&mut self, most: usize, mut each: impl FnMut(&Framed<'_>)) -> io::Result<()> {
        for _ in 0..most {
            let len = match self.socket.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            let mut octets = self.buffer.get(..len).unwrap_or_default();
            while let Some((message, rest)) = next_message(octets) {
                octets = rest;
                each(&message);
            }
        }
        Ok(())
    }

    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Says that requests were sent with numbers below this one.
    pub(crate) fn skip_to(&mut self, sequence: u32) {
        self.sequence = sequence;
    }

    pub(crate) fn send(&mut self, octets: &[u8]) -> io::Result<()> {
        if self.socket.send_buffer_size()? < octets.len() * 2 {
            rustix::net::sockopt::set_socket_send_buffer_size_force(&self.socket, octets.len() * 2)?;
        }
        self.socket.write_all(octets)
    }

    /// Waits until the last message of a request is acknowledged.
    pub(crate) fn acknowledged(&mut self, request: RangeInclusive<u32>) -> io::Result<()> {
        self.collect(request, |_| ())
    }

    /// Hands every answer to the request of these numbers to `each`, until the last of them is complete or any of
    /// them failed: in a batch that is the reason why the whole was refused. Other answers are to earlier requests,
    /// which nobody waits for any more.
    pub(crate) fn collect(
        &mut self,
        request: RangeInclusive<u32>,
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.answers(request, |answer| match answer {
            Answer::Message(message) => {
                each(message);
                Ok(())
            }
            Answer::Failed(_, error) => Err(error),
        })
    }

    /// Which of several requests that were sent as one failed; the last of them asked for an acknowledgement.
    pub(crate) fn failures(&mut self, requests: RangeInclusive<u32>) -> io::Result<Vec<u32>> {
        let mut failed = Vec::new();
        self.answers(requests, |answer| {
            if let Answer::Failed(sequence, _) = answer {
                failed.push(sequence);
            }
            Ok(())
        })?;
        Ok(failed)
    }

    fn answers(
        &mut self,
        request: RangeInclusive<u32>,
        mut each: impl FnMut(Answer<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            let len = match self.socket.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            let mut octets = self.buffer.get(..len).unwrap_or_default();
            while let Some((message, rest)) = next_message(octets) {
                octets = rest;
                if !request.contains(&message.sequence) {
                    continue;
                }
                let last = message.sequence == *request.end();
                match message.kind {
                    NLMSG_ERROR => {
                        let code =
                            message.payload.first_chunk().map_or(-libc::EPROTO, |c| i32::from_ne_bytes(*c));
                        if code != 0 {
                            each(Answer::Failed(message.sequence, io::Error::from_raw_os_error(-code)))?;
                        }
                        if last {
                            return Ok(());
                        }
                    }
                    NLMSG_DONE if last => {
                        let code = message.payload.first_chunk().map_or(0, |c| i32::from_ne_bytes(*c));
                        return if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(()) };
                    }
                    _ => each(Answer::Message(message.octets))?,
                }
            }
        }
    }
}

enum Answer<'a> {
    Message(&'a [u8]),
    /// The request of this number.
    Failed(u32, io::Error),
}

impl AsFd for NetlinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Where a netlink message's header has the port of whoever asked.
const PORT_AT: u32 = 12;

/// Length of a netlink message's header.
pub(crate) const HEADER_LEN: usize = 16;

/// One netlink message.
pub(crate) struct Framed<'a> {
    pub(crate) kind: u16,
    sequence: u32,
    octets: &'a [u8],
    /// What follows the header.
    pub(crate) payload: &'a [u8],
}

fn next_message(octets: &[u8]) -> Option<(Framed<'_>, &[u8])> {
    let (&[l0, l1, l2, l3, t0, t1, _, _, s0, s1, s2, s3, ..], _) =
        octets.split_first_chunk::<HEADER_LEN>()?;
    let len = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
    let message = octets.get(..len)?;
    let framed = Framed {
        kind: u16::from_ne_bytes([t0, t1]),
        sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
        octets: message,
        payload: message.get(HEADER_LEN..)?,
    };
    Some((framed, octets.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client whose kernel is the other end.
    fn pair() -> (NetlinkSocket, Socket) {
        let (socket, kernel) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        (NetlinkSocket { socket, port: 0, sequence: 0, buffer: vec![0; 1 << 16] }, kernel)
    }

    fn answer(sequence: u32, code: i32) -> Vec<u8> {
        let mut octets = 36_u32.to_ne_bytes().to_vec();
        octets.extend(NLMSG_ERROR.to_ne_bytes());
        octets.extend([0; 2]);
        octets.extend(sequence.to_ne_bytes());
        octets.extend([0; 4]);
        octets.extend(code.to_ne_bytes());
        octets.resize(36, 0);
        octets
    }

    #[test]
    fn what_is_left_of_a_failed_batch_is_not_blamed_on_the_next() {
        let (mut client, mut kernel) = pair();
        for sequence in 5..9 {
            kernel.write_all(&answer(sequence, -libc::EPERM)).unwrap();
        }
        kernel.write_all(&answer(10, 0)).unwrap();
        kernel.write_all(&answer(11, 0)).unwrap();
        assert_eq!(client.acknowledged(5..=8).unwrap_err().raw_os_error(), Some(libc::EPERM));
        client.acknowledged(10..=11).unwrap();
    }
}
