//! The TUN devices of one worker. The shared one is always there, with a queue for each worker. Those of connections with an
//! interface of their own come and go. Each has one queue, as the kernel's memory for many is a hundred times that for one: one
//! worker reads from it, and all write to it. They are waited for together: idle ones cost no time, however many there are. It
//! reads no packet.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::engine::{Device, WorkerPlace};
use crate::steering;
use crate::tun::Tun;

/// A worker's queues.
#[derive(Debug)]
pub(crate) struct Devices {
    /// By the device's number.
    all: Vec<Option<Arc<Tun>>>,
    place: WorkerPlace,
    /// What tells which of them has packets, the shared one apart. There is none until it is needed.
    waiting: Option<OwnedFd>,
}

/// Devices that get their turn between two looks at everything else.
const AT_ONCE: usize = 8;

impl Devices {
    pub(crate) fn new(shared: Tun, place: WorkerPlace) -> Self {
        Self { all: vec![Some(Arc::new(shared))], place, waiting: None }
    }

    pub(crate) fn get(&self, device: Device) -> Option<&Tun> {
        self.all.get(device.0)?.as_deref()
    }

    /// Adds one that is not the shared one.
    pub(crate) fn attach(&mut self, device: Device, tun: Arc<Tun>) -> io::Result<()> {
        self.detach(device);
        if steering::reader_of(device, self.place.workers) == self.place.index {
            let waiting = match self.waiting.take() {
                Some(waiting) => waiting,
                None => epoll::create(CreateFlags::CLOEXEC)?,
            };
            let waiting = self.waiting.insert(waiting);
            epoll::add(waiting, &*tun, EventData::new_u64(device.0 as u64), EventFlags::IN)?;
        }
        if device.0 >= self.all.len() {
            self.all.resize_with(device.0 + 1, || None);
        }
        if let Some(place) = self.all.get_mut(device.0) {
            *place = Some(tun);
        }
        Ok(())
    }

    /// Lets go of one. When all workers have, it is closed, and what it has not handed out is lost.
    pub(crate) fn detach(&mut self, device: Device) {
        let Some(tun) = self.all.get_mut(device.0).and_then(Option::take) else { return };
        if let Some(waiting) = &self.waiting {
            // It is not there if another worker reads from it.
            let _ = epoll::delete(waiting, &*tun);
        }
    }

    /// What can be waited for: one of those beside the shared one has packets. `None` if there are none.
    pub(crate) fn waiting(&self) -> Option<BorrowedFd<'_>> {
        self.waiting.as_ref().map(AsFd::as_fd)
    }

    /// Some of those that have packets; all get their turn.
    pub(crate) fn ready(&self) -> impl Iterator<Item = Device> + use<> {
        let mut found = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; AT_ONCE];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count =
            self.waiting.as_ref().and_then(|waiting| epoll::wait(waiting, &mut found, Some(&at_once)).ok());
        found.into_iter().take(count.unwrap_or(0)).map(|event| Device(event.data.u64() as usize))
    }
}
