//! Network namespaces: making them, by name as `ip netns` does or nameless, running code inside them, and the
//! forwarding switches of each. Used by the demonstration and by the tests, never by the gateway itself.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::LinkNameSpaceType;

use crate::Error;
use crate::netlink::Netlink;
use crate::sys;

/// Where `ip netns` keeps its names.
const DIRECTORY: &str = "/run/netns";

/// A network namespace. A named one is deleted when this is dropped; a nameless one ends when neither this nor
/// a thread, process or socket refers to it.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
    name: Option<PathBuf>,
}

impl Namespace {
    /// Makes a namespace that only this value refers to.
    pub fn unnamed() -> Result<Self, Error> {
        Ok(Self { fd: on_new_namespace(|| Ok(OwnedFd::from(File::open(OWN_NAMESPACE)?)))?, name: None })
    }

    /// Makes a namespace that `ip netns exec NAME` finds. It is an error if the name is taken.
    pub fn named(name: &str) -> Result<Self, Error> {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(Error::Configuration(format!("\"{name}\" is no name for a network namespace")));
        }
        let path = Path::new(DIRECTORY).join(name);
        share_directory().map_err(|error| Error::system(format!("prepare {DIRECTORY}"), error))?;
        OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .mode(0o444)
            .open(&path)
            .map_err(|error| Error::system(format!("create the network namespace {name}"), error))?;
        let fd = on_new_namespace(|| {
            rustix::mount::mount_bind(OWN_NAMESPACE, &path)?;
            Ok(OwnedFd::from(File::open(OWN_NAMESPACE)?))
        });
        match fd {
            Ok(fd) => Ok(Self { fd, name: Some(path) }),
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// Deletes the named namespace if there is one: what an interrupted run left behind.
    pub fn delete(name: &str) -> Result<(), Error> {
        unname(&Path::new(DIRECTORY).join(name))
            .map_err(|error| Error::system(format!("delete the network namespace {name}"), error))
    }

    /// Runs `body` on a thread inside the namespace and returns its result. Sockets it opens and processes it
    /// starts stay inside.
    pub fn run<R: Send>(&self, body: impl FnOnce() -> R + Send) -> Result<R, Error> {
        thread::scope(|scope| {
            let joined = scope.spawn(|| self.enter().map(|()| body())).join();
            joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) -> Result<(), Error> {
        rustix::thread::move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| Error::system("enter a network namespace", error.into()))
    }

    /// A netlink client that works on the namespace, from any thread.
    pub fn netlink(&self) -> Result<Netlink, Error> {
        self.run(Netlink::open)?
    }

    /// Brings the loopback interface up.
    pub fn loopback_up(&self) -> Result<(), Error> {
        let mut netlink = self.netlink()?;
        let index = netlink.link("lo")?.index;
        netlink.set_up(index)
    }

    /// Lets the namespace forward packets, IPv4 and IPv6.
    pub fn set_forwarding(&self) -> Result<(), Error> {
        self.sysctl("net/ipv4/ip_forward", "1")?;
        self.sysctl("net/ipv6/conf/all/forwarding", "1")
    }

    /// Writes one of the namespace's switches below `/proc/sys`, such as `net/ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), Error> {
        let path = Path::new("/proc/sys").join(key);
        self.run(|| fs::write(&path, value))?
            .map_err(|error| Error::system(format!("set {key} to {value}"), error))
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(path) = &self.name
            && let Err(error) = unname(path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot delete the network namespace");
        }
    }
}

/// The namespace of whatever thread opens it.
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

fn on_new_namespace<R: Send>(body: impl FnOnce() -> io::Result<R> + Send) -> Result<R, Error> {
    thread::scope(|scope| {
        let joined = scope.spawn(|| sys::new_network_namespace().and_then(|()| body())).join();
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
    .map_err(|error| Error::system("create a network namespace", error))
}

/// As `ip netns add` does: names made in one mount namespace are to be seen in the others.
fn share_directory() -> io::Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    let share =
        || rustix::mount::mount_change(DIRECTORY, MountPropagationFlags::SHARED | MountPropagationFlags::REC);
    match share() {
        // Not a mount point yet.
        Err(rustix::io::Errno::INVAL) => {
            rustix::mount::mount_bind_recursive(DIRECTORY, DIRECTORY)?;
            share()?;
            Ok(())
        }
        result => Ok(result?),
    }
}

fn unname(path: &Path) -> io::Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH) {
        // Not mounted: made by a run that ended between the two steps, or not there at all.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
