//! A queue of the TUN device: whole IP packets, one per read and write. The device is not persistent: it is
//! gone, and the routes through it with it, when the last queue is closed, however the process ends.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::Error;
use crate::sys;

/// One queue of a TUN device.
#[derive(Debug)]
pub(crate) struct Tun {
    fd: OwnedFd,
}

impl Tun {
    /// Opens a queue of the device `name`, creating the device if it is the first. With `multi_queue` others
    /// may be opened beside it.
    pub(crate) fn open(name: &str, multi_queue: bool) -> Result<Self, Error> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty())
            .map_err(|error| Error::system("open /dev/net/tun", error.into()))?;
        let mut flags = libc::IFF_TUN | libc::IFF_NO_PI;
        if multi_queue {
            flags |= libc::IFF_MULTI_QUEUE;
        }
        match sys::attach_tun(fd.as_fd(), name, flags) {
            Ok(()) => Ok(Self { fd }),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(Error::InUse(format!(
                "the TUN device {name} belongs to a running process; is another daemon running here?"
            ))),
            Err(error) => Err(Error::system(format!("create the TUN device {name}"), error)),
        }
    }

    /// Reads one packet; `WouldBlock` if there is none.
    pub(crate) fn read(&self, packet: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.fd, packet)?)
    }

    /// Hands one packet to the kernel as received.
    pub(crate) fn write(&self, packet: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.fd, packet)?;
        Ok(())
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
