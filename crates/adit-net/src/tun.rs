//! A queue of a TUN device: whole IP packets, or super-packets that stand for many, one per read and write. The device is not
//! persistent: it is gone, and the routes through it with it, when the last queue is closed, however the process ends. One that
//! is to stay is told so.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libc::{TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6};
use rustix::fs::{Mode, OFlags};

use crate::Error;
use crate::engine::Offload;
use crate::sys;

/// One queue of a TUN device.
#[derive(Debug)]
pub(crate) struct Tun {
    fd: OwnedFd,
    offloads: Offloads,
}

/// What super-packets the device takes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offloads {
    /// TCP. A header is in front of every packet then.
    pub(crate) tcp: bool,
    /// UDP.
    pub(crate) udp: bool,
}

/// Octets of the longest super-packet, with the header in front of it.
pub(crate) const LONGEST: usize = Offload::LEN + 65_535;

impl Tun {
    /// Opens a queue of the device `name`, creating the device if it is the first. With `multi_queue` others
    /// may be opened beside it. With `offload` it hands out and takes super-packets, as far as the kernel can.
    pub(crate) fn open(name: &str, multi_queue: bool, offload: bool) -> Result<Self, Error> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty())
            .map_err(|error| Error::system("open /dev/net/tun", error.into()))?;
        let mut flags = libc::IFF_TUN | libc::IFF_NO_PI;
        if multi_queue {
            flags |= libc::IFF_MULTI_QUEUE;
        }
        if offload {
            flags |= libc::IFF_VNET_HDR;
        }
        match sys::attach_tun(fd.as_fd(), name, flags) {
            Ok(()) => {
                let offloads = if offload { take_offloads(fd.as_fd()) } else { Offloads::default() };
                Ok(Self { fd, offloads })
            }
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(Error::InUse(format!(
                "the TUN device {name} belongs to a running process; is another daemon running here?"
            ))),
            Err(error) => Err(Error::system(format!("create the TUN device {name}"), error)),
        }
    }

    /// Lets the device outlive its queues, and the process.
    pub(crate) fn keep(&self) -> Result<(), Error> {
        sys::keep_tun(self.as_fd()).map_err(|error| Error::system("make the TUN device persistent", error))
    }

    pub(crate) fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Reads one packet, and what the kernel says about it; `WouldBlock` if there is none.
    pub(crate) fn read<'b>(&self, buffer: &'b mut [u8]) -> io::Result<(&'b mut [u8], Offload)> {
        let len = rustix::io::read(&self.fd, &mut *buffer)?;
        let read = buffer.get_mut(..len).unwrap_or_default();
        if !self.offloads.tcp {
            return Ok((read, Offload::default()));
        }
        let (header, packet) = read.split_first_chunk_mut().ok_or(io::ErrorKind::InvalidData)?;
        Ok((packet, Offload::decode(header)))
    }

    /// Hands one packet to the kernel as received.
    pub(crate) fn write(&self, packet: &[u8]) -> io::Result<()> {
        if self.offloads.tcp {
            self.write_parts(&[IoSlice::new(&[0; Offload::LEN]), IoSlice::new(packet)])
        } else {
            rustix::io::write(&self.fd, packet)?;
            Ok(())
        }
    }

    /// Hands a super-packet to the kernel: a header, and all octets in several parts.
    pub(crate) fn write_parts(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        rustix::io::writev(&self.fd, parts)?;
        Ok(())
    }
}

/// Asks for the most that the kernel knows.
fn take_offloads(fd: BorrowedFd<'_>) -> Offloads {
    let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    for (features, udp) in [
        (tcp | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6, true),
        (tcp | TUN_F_TSO_ECN, false),
        (tcp, false),
        (TUN_F_CSUM, false),
    ] {
        match sys::set_tun_offload(fd, features) {
            Ok(()) => return Offloads { tcp: true, udp },
            Err(error) => tracing::debug!(%error, features, "the TUN device refuses offloads"),
        }
    }
    // Packets come one by one and complete, and still with the header.
    Offloads { tcp: true, udp: false }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
