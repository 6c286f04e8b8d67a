//! The demonstration's observer: reads every packet between the gateways and looks for anything that should not
//! be there. It never sends.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use adit_net::capture::Capture;
use adit_net::netns::Namespace;
use adit_wire::ip;

const ETHERNET_HEADER: usize = 14;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ESP: u8 = 50;

/// A running observer.
pub(super) struct Observer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Sightings>>,
}

/// What it saw.
#[derive(Default)]
pub(super) struct Sightings {
    /// IKE messages, on UDP port 500 or 4500.
    pub(super) ike: u64,
    /// ESP packets, IP protocol 50.
    pub(super) esp: u64,
    /// IP packets that are neither.
    pub(super) other: u64,
    /// Octets of all of them.
    pub(super) octets: u64,
    /// Packets that show the inner addresses, next to each other as in an IP header.
    pub(super) inner_addresses: u64,
    /// Packets that show the message.
    pub(super) message: u64,
    /// IP packets that are not between the two gateways.
    pub(super) strangers: u64,
    /// One ESP packet, as it passed.
    pub(super) example: Option<Vec<u8>>,
}

impl Observer {
    /// Listens on `interface` for packets that are not between `gateways`, that name `hosts`, or that hold
    /// `message`.
    pub(super) fn start(
        namespace: &Namespace,
        interface: &str,
        gateways: [Ipv4Addr; 2],
        hosts: [Ipv4Addr; 2],
        message: &str,
    ) -> anyhow::Result<Self> {
        let mut capture = namespace.run(|| Capture::open(interface))??;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let [a, b] = hosts.map(|host| host.octets());
        let addresses = [[a, b].concat(), [b, a].concat()];
        let message = message.as_bytes().to_vec();
        let thread = std::thread::spawn(move || {
            let mut sightings = Sightings::default();
            loop {
                // What is under way when the observer is stopped still counts: it leaves on the first silence.
                let ending = stopped.load(Ordering::Relaxed);
                let seen = capture.read(Duration::from_millis(50), |frame| {
                    if frame.octets.get(12..ETHERNET_HEADER) == Some(&ETHERTYPE_IPV4) {
                        let packet = frame.octets.get(ETHERNET_HEADER..).unwrap_or_default();
                        sightings.look(packet, gateways, &addresses, &message);
                    }
                })?;
                if ending && seen == 0 {
                    return Ok(sightings);
                }
            }
        });
        Ok(Self { stop, thread })
    }

    /// Stops listening.
    pub(super) fn stop(self) -> anyhow::Result<Sightings> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Sightings {
    fn look(&mut self, packet: &[u8], gateways: [Ipv4Addr; 2], addresses: &[Vec<u8>], message: &[u8]) {
        self.octets += packet.len() as u64;
        match ip::flow(packet) {
            Ok(flow) => {
                let ends = [flow.source, flow.destination];
                let [a, b] = gateways.map(IpAddr::V4);
                if ends != [a, b] && ends != [b, a] {
                    self.strangers += 1;
                }
                match (flow.protocol, flow.destination_port) {
                    (PROTOCOL_UDP, Some(500 | 4500)) => self.ike += 1,
                    (PROTOCOL_ESP, _) => {
                        self.esp += 1;
                        // A full-sized one makes the better picture.
                        if self.example.as_ref().is_none_or(|example| example.len() < packet.len()) {
                            self.example = Some(packet.to_vec());
                        }
                    }
                    _ => self.other += 1,
                }
            }
            Err(_) => self.other += 1,
        }
        self.inner_addresses += u64::from(addresses.iter().any(|pair| contains(packet, pair)));
        self.message += u64::from(contains(packet, message));
    }

    /// Did it learn nothing that it should not?
    pub(super) fn learned_nothing(&self) -> bool {
        self.esp > 0
            && self.other == 0
            && self.strangers == 0
            && self.inner_addresses == 0
            && self.message == 0
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return true };
    let mut rest = haystack;
    while let Some(at) = rest.iter().position(|octet| octet == first) {
        rest = rest.get(at..).unwrap_or_default();
        if rest.starts_with(needle) {
            return true;
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    fn seen(protocol: u8, payload: &[u8]) -> Sightings {
        let packet = ip::packet(A.into(), B.into(), protocol, 64, payload).unwrap();
        let mut sightings = Sightings::default();
        sightings.look(&packet, [A, B], &[vec![10, 1, 0, 10, 10, 2, 0, 10]], b"secret");
        sightings
    }

    #[test]
    fn an_esp_packet_tells_nothing() {
        assert!(seen(PROTOCOL_ESP, &[0x5a; 100]).learned_nothing());
    }

    #[test]
    fn whatever_shows_is_noticed() {
        assert!(!seen(PROTOCOL_ESP, b"....secret....").learned_nothing());
        assert!(!seen(PROTOCOL_ESP, &[1, 2, 10, 1, 0, 10, 10, 2, 0, 10, 3]).learned_nothing());
        assert!(!seen(1, &[0; 8]).learned_nothing());
        assert!(!Sightings::default().learned_nothing(), "nothing seen proves nothing");
    }
}
