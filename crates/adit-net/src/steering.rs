//! Which worker an ESP packet is for: told by its SPI, by the kernel, before anybody looks at the packet.
//!
//! The low bits of an SPI are its lane, and a lane belongs to one worker. IKE messages behind a non-ESP marker, keepalives
//! and whatever is too short for an SPI are lane 0's. This module owns the arithmetic and the small programs (classic BPF)
//! that do it in the kernel; the sockets are the module `sockets`'s.

use std::io;
use std::os::fd::AsFd;

use socket2::{SockFilter, Socket};

use crate::backend::PolicyId;
use crate::engine::Device;
use crate::sys;

/// Lanes; a power of two.
pub(crate) const LANES: u32 = 64;

/// With more, some would have no lane.
pub(crate) const MAX_WORKERS: usize = LANES as usize;

/// Are packets with these SPIs for the same worker, however many the receiver has, if it is one of us? Others do not mind.
pub(crate) fn go_together(one: u32, other: u32) -> bool {
    one % LANES == other % LANES
}

/// The worker, of so many, that an SPI belongs to.
pub(crate) fn worker_of(spi: u32, workers: usize) -> usize {
    (spi % LANES) as usize % workers.max(1)
}

/// The worker, of so many, that seals the packets of a policy. Those of a device of their own are sealed by who reads them.
pub(crate) fn worker_of_policy(device: Device, policy: PolicyId, workers: usize) -> usize {
    match device {
        Device::SHARED => (policy.0 % workers.max(1) as u64) as usize,
        _ => reader_of(device, workers),
    }
}

/// The worker, of so many, that reads what comes from a device that is not the shared one.
pub(crate) fn reader_of(device: Device, workers: usize) -> usize {
    device.0 % workers.max(1)
}

/// Spreads what arrives on a UDP port over the sockets bound to it, one for each of `workers`, in their order. It is enough to
/// tell one of them.
pub(crate) fn spread(socket: &Socket, workers: usize) -> io::Result<()> {
    let [take, lane, worker] = [load(0), and_lanes(), modulo(workers)];
    sys::choose_socket_by(socket.as_fd(), &[take, lane, worker, return_accumulator()])
}

/// Lets a raw socket of ESP see only what is for the worker `index` of `workers`: raw sockets get a copy each.
pub(crate) fn keep_own(socket: &Socket, v6: bool, index: usize, workers: usize) -> io::Result<()> {
    let verdict = |own: bool| if own { accept() } else { refuse() };
    // Over IPv4 the header is in front. What is too short for an SPI is the first worker's.
    let mut program = if v6 { vec![len()] } else { vec![header_len(), len(), minus_header()] };
    program.extend([skip_unless_below(4, 1), verdict(index == 0)]);
    program.push(if v6 { load(0) } else { load_behind_header() });
    program.extend([and_lanes(), modulo(workers), skip_if(index, 1), refuse(), accept()]);
    let program: Vec<SockFilter> =
        program.iter().map(|step| SockFilter::new(step.code, step.jt, step.jf, step.k)).collect();
    socket.attach_filter(&program)
}

fn instruction(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// A = the four octets at `at`; a packet that is too short ends the program with 0.
fn load(at: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at)
}

/// X = length of the IPv4 header.
fn header_len() -> libc::sock_filter {
    instruction(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0)
}

/// A = the four octets at X.
fn load_behind_header() -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_IND, 0)
}

fn and_lanes() -> libc::sock_filter {
    instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, LANES - 1)
}

fn modulo(workers: usize) -> libc::sock_filter {
    instruction(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, u32::try_from(workers.max(1)).unwrap_or(1))
}

/// A = length of the packet.
fn len() -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0)
}

/// A = A - X
fn minus_header() -> libc::sock_filter {
    instruction(libc::BPF_ALU | libc::BPF_SUB | libc::BPF_X, 0)
}

/// Skips as many instructions unless A is below the number.
fn skip_unless_below(number: u32, skip: u8) -> libc::sock_filter {
    libc::sock_filter { jt: skip, ..instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, number) }
}

/// Skips as many instructions if A is the number.
fn skip_if(number: usize, skip: u8) -> libc::sock_filter {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    libc::sock_filter { jt: skip, ..instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number) }
}

fn return_accumulator() -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_A, 0)
}

fn accept() -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, u32::MAX)
}

fn refuse() -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};

    use socket2::{Domain, Type};

    use super::*;

    #[test]
    fn the_kernel_agrees_on_whose_an_spi_is() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        for workers in [1, 2, 3, 7, 64] {
            let mut port = any;
            let sockets: Vec<UdpSocket> = (0..workers)
                .map(|_| {
                    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
                    socket.set_reuse_port(true).unwrap();
                    socket.bind(&port.into()).unwrap();
                    port = socket.local_addr().unwrap().as_socket().unwrap();
                    socket.set_nonblocking(true).unwrap();
                    spread(&socket, workers).unwrap();
                    socket.into()
                })
                .collect();
            let sender = UdpSocket::bind(any).unwrap();
            let expect = |octets: &[u8], worker: usize| {
                sender.send_to(octets, port).unwrap();
                let got: Vec<usize> =
                    (0..workers).filter(|at| sockets[*at].recv(&mut [0; 100]).is_ok()).collect();
                assert_eq!(got, [worker], "{octets:x?} of {workers}");
            };
            for spi in (256..700).chain([0xc0ff_ee01, 0xffff_ffff, 0x8000_0000]) {
                let mut packet = u32::to_be_bytes(spi).to_vec();
                packet.extend([0; 30]);
                expect(&packet, worker_of(spi, workers));
            }
            // IKE, a keepalive, next to nothing
            expect(&[0; 32], 0);
            expect(&[0xff], 0);
            expect(&[], 0);
        }
    }
}
