//! AF_XDP sockets and the small program that leads ESP to them: rings and frames shared with the kernel, behind safe
//! functions. It knows frames as octets; what is in them is the business of the module `xdp`.
//!
//! A frame of the shared memory belongs either to the kernel or to us, and changes hands only by the rings: we read and
//! write only frames whose number we have taken from a ring (or never given away), and forget the number when we give
//! it back. Everything that lies in shared memory is checked before it is used as an index.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use libc::c_void;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING,
    XDP_UMEM_PGOFF_FILL_RING, XdpDesc, XdpDescOptions, XdpMmapOffsets, XdpRingOffset, XdpUmemReg,
    XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// Entries of each ring. The shared memory has a frame for each entry of the rings for receiving and for sending.
const RING: u32 = 1024;
const FRAMES: u32 = 2 * RING;

/// Octets of a frame. The kernel keeps 256 of them for itself when it receives.
const FRAME_LEN: usize = 4096;

/// The longest link-layer frame that can be received and sent.
pub(crate) const MAX_FRAME: usize = FRAME_LEN - 256;

/// Frames per call.
const BATCH: usize = super::BATCH;

/// An AF_XDP socket on one queue of one interface.
pub(crate) struct XdpSocket {
    fill: Ring<u64>,
    completion: Ring<u64>,
    rx: Ring<XdpDesc>,
    tx: Ring<XdpDesc>,
    memory: Mapping,
    /// Frames for sending that are ours.
    free: Vec<u64>,
    /// Received frames that are ours for now: offset and length.
    received: Vec<(u64, usize)>,
    fd: OwnedFd,
}

impl XdpSocket {
    /// Binds to a queue of an interface. Without `zero_copy` the kernel copies, which every driver can.
    pub(crate) fn open(interface: u32, queue: u32, zero_copy: bool) -> io::Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::XDP,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        let memory = Mapping::anonymous(FRAMES as usize * FRAME_LEN)?;
        sockopt::set_xdp_umem_reg(
            &fd,
            XdpUmemReg {
                addr: memory.start.addr() as u64,
                len: memory.len as u64,
                chunk_size: FRAME_LEN as u32,
                headroom: 0,
                flags: XdpUmemRegFlags::empty(),
                tx_metadata_len: 0,
            },
        )?;
        sockopt::set_xdp_umem_fill_ring_size(&fd, RING)?;
        sockopt::set_xdp_umem_completion_ring_size(&fd, RING)?;
        sockopt::set_xdp_rx_ring_size(&fd, RING)?;
        sockopt::set_xdp_tx_ring_size(&fd, RING)?;
        let XdpMmapOffsets { rx, tx, fr, cr } = sockopt::xdp_mmap_offsets(&fd)?;
        let mut socket = Self {
            fill: Ring::map(&fd, XDP_UMEM_PGOFF_FILL_RING, fr)?,
            completion: Ring::map(&fd, XDP_UMEM_PGOFF_COMPLETION_RING, cr)?,
            rx: Ring::map(&fd, XDP_PGOFF_RX_RING, rx)?,
            tx: Ring::map(&fd, XDP_PGOFF_TX_RING, tx)?,
            memory,
            free: (RING..FRAMES).map(|frame| u64::from(frame) * FRAME_LEN as u64).collect(),
            received: Vec::with_capacity(BATCH),
            fd,
        };
        for frame in 0..RING {
            socket.fill.push(u64::from(frame) * FRAME_LEN as u64);
        }
        socket.fill.publish();
        let mode = if zero_copy { SocketAddrXdpFlags::XDP_ZEROCOPY } else { SocketAddrXdpFlags::XDP_COPY };
        let address = SocketAddrXdp::new(mode | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP, interface, queue);
        rustix::net::bind(&socket.fd, &address)?;
        Ok(socket)
    }

    /// Takes what has arrived, at most a batch; never waits. What the last call brought is given back.
    pub(crate) fn receive(&mut self) -> usize {
        for (offset, _) in self.received.drain(..) {
            // The frame goes back whole, wherever in it the packet began.
            self.fill.push(offset - offset % FRAME_LEN as u64);
        }
        self.fill.publish();
        while self.received.len() < BATCH {
            let Some(XdpDesc { addr, len, .. }) = self.rx.pop() else { break };
            let len = len as usize;
            if addr.checked_add(len as u64).is_some_and(|end| end <= self.memory.len as u64) {
                self.received.push((addr, len));
            }
        }
        self.rx.release();
        if self.fill.needs_wakeup() {
            // It fails only if there is nothing to be done.
            let _ = rustix::net::recv(&self.fd, &mut [0_u8; 0][..], rustix::net::RecvFlags::DONTWAIT);
        }
        self.received.len()
    }

    /// The frames that the last [`receive`](Self::receive) brought.
    pub(crate) fn frames(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let memory = &mut self.memory;
        self.received.iter().map(|(offset, len)| {
            // SAFETY: `receive` has seen that the range lies within the mapping, which lives as long as `self`, and
            // which `self` stays borrowed for as long as the slices live. The frame is ours until the next `receive`; the
            // kernel hands each frame out once, so no two ranges overlap.
            unsafe { std::slice::from_raw_parts_mut(memory.start.add(*offset as usize), *len) }
        })
    }

    /// Puts a frame made of `parts` in line. `false`: there is no room, or it is longer than [`MAX_FRAME`].
    pub(crate) fn push(&mut self, parts: &[&[u8]]) -> bool {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > MAX_FRAME || self.tx.is_full() {
            return false;
        }
        if self.free.is_empty() {
            self.reclaim();
        }
        let Some(offset) = self.free.pop() else { return false };
        // SAFETY: offsets in `free` are those of whole frames within the mapping that the kernel does not hold, and
        // `len` is below the length of a frame. Nothing else refers to a free frame.
        let frame = unsafe { std::slice::from_raw_parts_mut(self.memory.start.add(offset as usize), len) };
        let mut rest = frame;
        for part in parts {
            let Some((place, after)) = rest.split_at_mut_checked(part.len()) else { break };
            place.copy_from_slice(part);
            rest = after;
        }
        self.tx.push(XdpDesc { addr: offset, len: len as u32, options: XdpDescOptions::empty() });
        true
    }

    /// Sends what is in line.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.tx.publish();
        // The kernel sends a bounded number of frames per call.
        for _ in 0..RING {
            if self.tx.is_empty() {
                break;
            }
            match rustix::net::send(&self.fd, &[], rustix::net::SendFlags::DONTWAIT) {
                Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
                // The device's queue is full, or no completion is free: what is in line waits.
                Err(rustix::io::Errno::BUSY | rustix::io::Errno::NOBUFS) => break,
                Err(error) => return Err(error.into()),
            }
            self.reclaim();
        }
        self.reclaim();
        Ok(())
    }

    fn reclaim(&mut self) {
        while let Some(offset) = self.completion.pop() {
            if offset < self.memory.len as u64 {
                self.free.push(offset - offset % FRAME_LEN as u64);
            }
        }
        self.completion.release();
    }
}

impl AsFd for XdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One ring, shared with the kernel, of which we are either the producer or the consumer.
struct Ring<T> {
    mapping: Mapping,
    producer: usize,
    consumer: usize,
    flags: Option<usize>,
    entries: usize,
    /// Our own index, ahead of what the kernel has been told.
    ours: u32,
    /// The kernel's index as last read.
    theirs: u32,
    kind: std::marker::PhantomData<T>,
}

impl<T: Copy> Ring<T> {
    fn map(fd: &OwnedFd, page: u64, offsets: XdpRingOffset) -> io::Result<Self> {
        let len = offsets.desc as usize + RING as usize * size_of::<T>();
        let mapping = Mapping::shared(fd, page, len)?;
        let ring = Self {
            mapping,
            producer: offsets.producer as usize,
            consumer: offsets.consumer as usize,
            flags: offsets.flags.map(|flags| flags as usize),
            entries: offsets.desc as usize,
            ours: 0,
            theirs: 0,
            kind: std::marker::PhantomData,
        };
        let inside = |at: usize| at.is_multiple_of(4) && at + 4 <= ring.entries;
        let well_formed = inside(ring.producer)
            && inside(ring.consumer)
            && ring.flags.is_none_or(inside)
            && ring.entries.is_multiple_of(align_of::<T>());
        if well_formed { Ok(ring) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// One of the shared indices.
    fn shared(&self, at: usize) -> &AtomicU32 {
        // SAFETY: `map` has seen that the four octets at `at` are aligned and lie within the mapping, which lives as long
        // as `self`. Kernel and we access them atomically only.
        unsafe { AtomicU32::from_ptr(self.mapping.start.add(at).cast::<u32>()) }
    }

    fn entry(&self, index: u32) -> *mut T {
        let place = (index % RING) as usize;
        // SAFETY: there are RING entries from `entries` on, within the mapping.
        unsafe { self.mapping.start.add(self.entries).cast::<T>().add(place) }
    }

    /// As producer: is there no room?
    fn is_full(&mut self) -> bool {
        if self.ours.wrapping_sub(self.theirs) >= RING {
            self.theirs = self.shared(self.consumer).load(Ordering::Acquire);
        }
        self.ours.wrapping_sub(self.theirs) >= RING
    }

    /// As producer: has the consumer taken everything that was published?
    fn is_empty(&mut self) -> bool {
        self.theirs = self.shared(self.consumer).load(Ordering::Acquire);
        self.theirs == self.shared(self.producer).load(Ordering::Relaxed)
    }

    /// As producer: puts an entry in line, if there is room.
    fn push(&mut self, entry: T) {
        if !self.is_full() {
            // SAFETY: the pointer is valid and aligned; the kernel does not read the entry before it is published.
            unsafe { self.entry(self.ours).write(entry) };
            self.ours = self.ours.wrapping_add(1);
        }
    }

    /// As producer: shows what was pushed.
    fn publish(&self) {
        self.shared(self.producer).store(self.ours, Ordering::Release);
    }

    /// As consumer: takes the next entry.
    fn pop(&mut self) -> Option<T> {
        if self.ours == self.theirs {
            self.theirs = self.shared(self.producer).load(Ordering::Acquire);
        }
        if self.ours == self.theirs {
            return None;
        }
        // SAFETY: the pointer is valid and aligned; the kernel wrote the entry before it moved its index, and every
        // pattern of bits is a valid entry.
        let entry = unsafe { self.entry(self.ours).read() };
        self.ours = self.ours.wrapping_add(1);
        Some(entry)
    }

    /// As consumer: gives the entries that were popped back.
    fn release(&self) {
        self.shared(self.consumer).store(self.ours, Ordering::Release);
    }

    fn needs_wakeup(&self) -> bool {
        self.flags.is_some_and(|flags| self.shared(flags).load(Ordering::Relaxed) & 1 != 0)
    }
}

/// A mapping of memory that is unmapped with its owner.
struct Mapping {
    start: *mut u8,
    len: usize,
}

// SAFETY: the memory belongs to the mapping alone, and access to it needs a borrow of the owner.
unsafe impl Send for Mapping {}

impl Mapping {
    fn anonymous(len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice changes no other memory.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        Ok(Self { start: start.cast(), len })
    }

    fn shared(fd: &OwnedFd, offset: u64, len: usize) -> io::Result<Self> {
        // SAFETY: as above.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                fd,
                offset,
            )
        }?;
        Ok(Self { start: start.cast(), len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and length, and no reference into it outlives its owner.
        let _ = unsafe { rustix::mm::munmap(self.start.cast::<c_void>(), self.len) };
    }
}

/// Leads ESP for some local addresses to AF_XDP sockets, and leaves everything else to the kernel. It ends with the process.
pub(crate) struct Redirect {
    sockets: OwnedFd,
    addresses: OwnedFd,
    program: OwnedFd,
    link: Option<OwnedFd>,
}

/// Local addresses that a [`Redirect`] can know.
const MAX_ADDRESSES: u32 = 4096;

impl Redirect {
    /// Loads the program for `queues` queues. Nothing happens before it is attached.
    pub(crate) fn load(queues: u32) -> io::Result<Self> {
        let sockets = create_map(libc_bpf::MAP_TYPE_XSKMAP, 4, queues)?;
        let addresses = create_map(libc_bpf::MAP_TYPE_HASH, 16, MAX_ADDRESSES)?;
        let instructions = program(addresses.as_fd(), sockets.as_fd());
        let license = c"Apache-2.0";
        let mut attributes = Attributes::default();
        attributes.u32(0, libc_bpf::PROG_TYPE_XDP);
        attributes.u32(4, instructions.len() as u32);
        attributes.u64(8, instructions.as_ptr().addr() as u64);
        attributes.u64(16, license.as_ptr().addr() as u64);
        let program = bpf(libc_bpf::PROG_LOAD, &attributes)?;
        // The kernel has read them.
        drop(instructions);
        Ok(Self { sockets, addresses, program, link: None })
    }

    /// Lets the program see what an interface receives: in its driver, or where that cannot be, after it. Fails if
    /// the interface has another program.
    pub(crate) fn attach(&mut self, interface: u32, in_driver: bool) -> io::Result<()> {
        let mut attributes = Attributes::default();
        attributes.u32(0, self.program.as_raw_fd() as u32);
        attributes.u32(4, interface);
        attributes.u32(8, libc_bpf::ATTACH_XDP);
        attributes
            .u32(12, if in_driver { libc_bpf::XDP_FLAGS_DRV_MODE } else { libc_bpf::XDP_FLAGS_SKB_MODE });
        self.link = Some(bpf(libc_bpf::LINK_CREATE, &attributes)?);
        Ok(())
    }

    /// Leads what arrives on a queue to a socket.
    pub(crate) fn lead(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let value = socket.as_raw_fd() as u32;
        update(
            self.sockets.as_fd(),
            libc_bpf::MAP_UPDATE_ELEM,
            &queue.to_ne_bytes(),
            Some(&value.to_ne_bytes()),
        )
    }

    /// Takes ESP that is sent to `address`.
    pub(crate) fn take(&self, address: IpAddr) -> io::Result<()> {
        update(self.addresses.as_fd(), libc_bpf::MAP_UPDATE_ELEM, &key(address), Some(&1_u32.to_ne_bytes()))
    }

    /// Leaves ESP that is sent to `address` to the kernel again.
    pub(crate) fn leave(&self, address: IpAddr) {
        // It fails only if it is not there.
        let _ = update(self.addresses.as_fd(), libc_bpf::MAP_DELETE_ELEM, &key(address), None);
    }
}

/// An IPv6 address, or an IPv4 address in IPv6 clothes (RFC 4291 2.5.5.2).
fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The numbers of bpf(2) that the libc crate does not have.
mod libc_bpf {
    pub(super) const MAP_CREATE: i64 = 0;
    pub(super) const MAP_UPDATE_ELEM: i64 = 2;
    pub(super) const MAP_DELETE_ELEM: i64 = 3;
    pub(super) const PROG_LOAD: i64 = 5;
    pub(super) const LINK_CREATE: i64 = 28;
    pub(super) const MAP_TYPE_HASH: u32 = 1;
    pub(super) const MAP_TYPE_XSKMAP: u32 = 17;
    pub(super) const PROG_TYPE_XDP: u32 = 6;
    pub(super) const ATTACH_XDP: u32 = 37;
    pub(super) const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
    pub(super) const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
}

/// `union bpf_attr`: fields at fixed places, zero where nothing is said.
#[repr(C, align(8))]
#[derive(Default)]
struct Attributes([u64; 16]);

impl Attributes {
    fn u32(&mut self, at: usize, value: u32) {
        let shift = if cfg!(target_endian = "little") { at % 8 * 8 } else { 32 - at % 8 * 8 };
        if let Some(word) = self.0.get_mut(at / 8) {
            *word |= u64::from(value) << shift;
        }
    }

    fn u64(&mut self, at: usize, value: u64) {
        if let Some(word) = self.0.get_mut(at / 8) {
            *word = value;
        }
    }
}

/// bpf(2) for the commands whose result is a descriptor.
fn bpf(command: i64, attributes: &Attributes) -> io::Result<OwnedFd> {
    let fd = bpf_call(command, attributes)?;
    // SAFETY: the commands this is used for return a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf_call(command: i64, attributes: &Attributes) -> io::Result<i32> {
    // SAFETY: the attributes outlive the call and are longer than any that these commands read; the pointers in them
    // are to memory that the callers keep until this returns. The kernel checks them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            (&raw const *attributes).cast::<c_void>(),
            size_of::<Attributes>(),
        )
    };
    i32::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(io::Error::last_os_error)
}

fn create_map(kind: u32, key_len: u32, entries: u32) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    attributes.u32(0, kind);
    attributes.u32(4, key_len);
    attributes.u32(8, 4);
    attributes.u32(12, entries);
    bpf(libc_bpf::MAP_CREATE, &attributes)
}

fn update(map: BorrowedFd<'_>, command: i64, key: &[u8], value: Option<&[u8; 4]>) -> io::Result<()> {
    let mut attributes = Attributes::default();
    attributes.u32(0, map.as_raw_fd() as u32);
    attributes.u64(8, key.as_ptr().addr() as u64);
    attributes.u64(16, value.map_or(0, |value| value.as_ptr().addr() as u64));
    bpf_call(command, &attributes).map(drop)
}

/// The program, written for the kernel's virtual machine (RFC 9669): leads whole IPv4 and IPv6 packets of protocol 50
/// that are sent to one of `addresses` to the socket of the queue they arrived on; passes on fragments, tagged frames and
/// everything else.
fn program(addresses: BorrowedFd<'_>, sockets: BorrowedFd<'_>) -> Vec<Instruction> {
    // Where the fields of a frame lie (IEEE 802.3, RFC 791 3.1, RFC 8200 3).
    const ETHERTYPE: i16 = 12;
    const IP: i16 = 14;
    let esp = libc::IPPROTO_ESP;
    let network = |octets: [u8; 2]| i32::from(u16::from_ne_bytes(octets));
    let mapped = u32::from_ne_bytes([0, 0, 0xff, 0xff]) as i32;

    let mut code = Assembler::default();
    code.push([
        move_register(6, 1),
        load(WORD, 2, 1, 0),
        load(WORD, 3, 1, 4),
        // r2: first octet of the frame, r3: the octet after its last
        move_register(4, 2),
        add(4, i32::from(IP) + 20),
    ]);
    code.jump(JUMP_ABOVE_REGISTER, 4, 3, 0, Label::Pass);
    code.push([load(HALF, 5, 2, ETHERTYPE)]);
    code.jump(JUMP_EQUAL, 5, 0, network([0x86, 0xdd]), Label::V6);
    code.jump(JUMP_NOT_EQUAL, 5, 0, network([0x08, 0x00]), Label::Pass);

    code.push([load(BYTE, 5, 2, IP + 9)]);
    code.jump(JUMP_NOT_EQUAL, 5, 0, esp, Label::Pass);
    code.push([load(HALF, 5, 2, IP + 6), and(5, network([0x3f, 0xff]))]);
    code.jump(JUMP_NOT_EQUAL, 5, 0, 0, Label::Pass);
    code.push([
        store_immediate(WORD, 10, -16, 0),
        store_immediate(WORD, 10, -12, 0),
        store_immediate(WORD, 10, -8, mapped),
        load(WORD, 5, 2, IP + 16),
        store(WORD, 10, 5, -4),
    ]);
    code.jump(JUMP, 0, 0, 0, Label::Lookup);

    code.place(Label::V6);
    code.push([move_register(4, 2), add(4, i32::from(IP) + 40)]);
    code.jump(JUMP_ABOVE_REGISTER, 4, 3, 0, Label::Pass);
    code.push([load(BYTE, 5, 2, IP + 6)]);
    code.jump(JUMP_NOT_EQUAL, 5, 0, esp, Label::Pass);
    for word in 0..4 {
        code.push([load(WORD, 5, 2, IP + 24 + 4 * word), store(WORD, 10, 5, -16 + 4 * word)]);
    }

    code.place(Label::Lookup);
    code.push(map_address(1, addresses));
    code.push([move_register(2, 10), add(2, -16), call(MAP_LOOKUP_ELEM)]);
    code.jump(JUMP_EQUAL, 0, 0, 0, Label::Pass);
    code.push([load(WORD, 2, 6, 16)]);
    code.push(map_address(1, sockets));
    // Without a socket for the queue: pass.
    code.push([move_immediate(3, XDP_PASS), call(REDIRECT_MAP), exit()]);

    code.place(Label::Pass);
    code.push([move_immediate(0, XDP_PASS), exit()]);
    code.finish()
}

const XDP_PASS: i32 = 2;
/// Numbers of helper functions.
const MAP_LOOKUP_ELEM: i32 = 1;
const REDIRECT_MAP: i32 = 51;
/// Sizes (RFC 9669 5).
const WORD: u8 = 0x00;
const HALF: u8 = 0x08;
const BYTE: u8 = 0x10;
/// Jumps (RFC 9669 4.3), by comparison with a number unless the name says otherwise.
const JUMP: u8 = 0x05;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_ABOVE_REGISTER: u8 = 0x2d;

/// One instruction (RFC 9669 3.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    let registers =
        if cfg!(target_endian = "little") { source << 4 | destination } else { destination << 4 | source };
    Instruction { code, registers, offset, immediate }
}

const fn load(size: u8, destination: u8, source: u8, offset: i16) -> Instruction {
    instruction(0x61 | size, destination, source, offset, 0)
}

const fn store(size: u8, destination: u8, source: u8, offset: i16) -> Instruction {
    instruction(0x63 | size, destination, source, offset, 0)
}

const fn store_immediate(size: u8, destination: u8, offset: i16, value: i32) -> Instruction {
    instruction(0x62 | size, destination, 0, offset, value)
}

const fn move_register(destination: u8, source: u8) -> Instruction {
    instruction(0xbf, destination, source, 0, 0)
}

const fn move_immediate(destination: u8, value: i32) -> Instruction {
    instruction(0xb7, destination, 0, 0, value)
}

const fn add(destination: u8, value: i32) -> Instruction {
    instruction(0x07, destination, 0, 0, value)
}

const fn and(destination: u8, value: i32) -> Instruction {
    instruction(0x57, destination, 0, 0, value)
}

const fn call(helper: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, helper)
}

const fn exit() -> Instruction {
    instruction(0x95, 0, 0, 0, 0)
}

/// The address of a map: a 64-bit immediate, of which the kernel makes one out of the descriptor.
fn map_address(destination: u8, map: BorrowedFd<'_>) -> [Instruction; 2] {
    [instruction(0x18, destination, 1, 0, map.as_raw_fd()), instruction(0, 0, 0, 0, 0)]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Label {
    V6,
    Lookup,
    Pass,
}

/// Instructions with jumps to labels. All jumps lead forward.
#[derive(Default)]
struct Assembler {
    code: Vec<Instruction>,
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    fn push<const N: usize>(&mut self, instructions: [Instruction; N]) {
        self.code.extend(instructions);
    }

    fn jump(&mut self, code: u8, destination: u8, source: u8, value: i32, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.code.push(instruction(code, destination, source, 0, value));
    }

    /// The label is here.
    fn place(&mut self, label: Label) {
        let here = self.code.len();
        self.jumps.retain(|(at, wanted)| {
            if *wanted != label {
                return true;
            }
            if let Some(jump) = self.code.get_mut(*at) {
                jump.offset = (here - at - 1) as i16;
            }
            false
        });
    }

    fn finish(self) -> Vec<Instruction> {
        debug_assert!(self.jumps.is_empty(), "a label was never placed");
        self.code
    }
}
