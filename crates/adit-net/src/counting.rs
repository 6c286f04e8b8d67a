//! What only the kernel counts: packets that the fence dropped, and those that nobody read in time. It asks by sockets of its
//! own and holds no lock that anybody else waits for: whoever asks is all that waits for the kernel.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Error;
use crate::fence::{self, DROPPED_IN, DROPPED_OUT};
use crate::netlink::{Netlink, NetlinkSocket};

/// What the kernel's counts have to be seen with. Nobody holds it for longer than it takes to copy.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// How often the fence has changed, and [`Self::before`].
    fences: Mutex<(u64, Option<(u64, u64)>)>,
    /// What the kernel had dropped of each device before it was ours to read.
    devices: Mutex<HashMap<u32, u64>>,
}

impl Known {
    /// What fences before the one that stands have dropped, in and out; `None` if there was none of ours.
    pub(crate) fn before(&self) -> Option<(u64, u64)> {
        lock(&self.fences).1
    }

    /// The fence is about to become another one: who counts meanwhile counts again.
    pub(crate) fn fence_changes(&self) {
        lock(&self.fences).0 += 1;
    }

    /// The fence is another one from now on.
    pub(crate) fn fence_stands(&self, before: Option<(u64, u64)>) {
        let mut fences = lock(&self.fences);
        *fences = (fences.0 + 1, before);
    }

    pub(crate) fn devices_are(&self, devices: HashMap<u32, u64>) {
        *lock(&self.devices) = devices;
    }
}

/// Asks the kernel.
#[derive(Debug)]
pub(crate) struct Counting {
    known: Arc<Known>,
    sockets: Mutex<Sockets>,
    /// Index of the shared TUN device.
    shared: u32,
}

#[derive(Debug)]
struct Sockets {
    links: Netlink,
    /// `None` if the kernel has no nf_tables.
    filter: Option<NetlinkSocket>,
}

impl Counting {
    /// In the network namespace of the calling thread.
    pub(crate) fn open(known: Arc<Known>, shared: u32) -> Result<Self, Error> {
        let filter = NetlinkSocket::open(libc::NETLINK_NETFILTER).ok();
        Ok(Self { known, sockets: Mutex::new(Sockets { links: Netlink::open()?, filter }), shared })
    }

    /// What this fence and those before it have dropped, inbound and outbound.
    pub(crate) fn fenced(&self) -> (u64, u64) {
        let mut sockets = lock(&self.sockets);
        let Some(socket) = &mut sockets.filter else { return (0, 0) };
        // A fence that is put up meanwhile counts from the beginning.
        for _ in 0..8 {
            let (before, fences) = *lock(&self.known.fences);
            let Some((inbound, outbound)) = fences else { return (0, 0) };
            let counted = (|| {
                Ok::<_, Error>((fence::counted(socket, DROPPED_IN)?, fence::counted(socket, DROPPED_OUT)?))
            })();
            match counted {
                Ok(counted) if lock(&self.known.fences).0 == before => {
                    return (inbound + counted.0, outbound + counted.1);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "no packet filter counters");
                    return (0, 0);
                }
            }
        }
        (0, 0)
    }

    /// Packets that the kernel dropped because a worker did not read them in time, from all TUN devices.
    pub(crate) fn unread(&self) -> u64 {
        let devices = lock(&self.known.devices).clone();
        let mut sockets = lock(&self.sockets);
        let counted = if devices.is_empty() {
            sockets.links.dropped(self.shared)
        } else {
            sockets.links.links().map(|links| {
                let before =
                    |index: u32| if index == self.shared { Some(0) } else { devices.get(&index).copied() };
                links.iter().filter_map(|link| Some(link.dropped.saturating_sub(before(link.index)?))).sum()
            })
        };
        counted.unwrap_or_else(|error| {
            tracing::debug!(%error, "no counters of TUN devices");
            0
        })
    }
}

/// What these protect is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
