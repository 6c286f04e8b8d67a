//! The ports of fragments, which only the first fragment of a packet shows, for selectors that look at ports (RFC 4301
//! 7.4: stateful fragment checking).
//!
//! This module owns a bounded table of what first fragments have shown. It never keeps a packet: a fragment that comes
//! before its first stays without ports, and is refused where they matter. A flood of fragments displaces entries,
//! and with them later fragments of packets on their way; whole packets never notice.
//!
//! Fragments that rewrite a header which has passed (RFC 3128, RFC 5722) gain nothing here: ports lie in the first 8
//! octets, and whatever overwrites those is a first fragment itself and is checked by its own ports.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_wire::ip::{Flow, PROTOCOL_TCP};

use crate::Drop;
use crate::headers::{Fragment, Upper};

/// What the first fragments of recent packets have shown.
pub struct FragmentPorts {
    /// Empty until there is a fragment.
    sets: Vec<[Option<Entry>; WAYS]>,
    secret: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    key: Key,
    ports: (Option<u16>, Option<u16>),
    since: Instant,
}

/// Tells packets apart that are fragmented at the same time (RFC 791 3.2, RFC 8200 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    /// Fragments of one packet come by one SA.
    scope: u32,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    identification: u32,
}

const SETS: usize = 256;
const WAYS: usize = 4;

/// How long a receiver waits for the rest of a packet; the longest time that hosts use (RFC 8200 4.5).
const LIFETIME: Duration = Duration::from_secs(60);

impl FragmentPorts {
    /// `secret` decides what displaces what, so that nobody outside can aim.
    #[must_use]
    pub fn new(secret: u64) -> Self {
        Self { sets: Vec::new(), secret }
    }

    /// Gives `flow`, read from `packet`, the ports that its first fragment has shown, or remembers them. `scope` is the SPI
    /// of the SA that it came by, 0 for one of our side. Does nothing for what is no fragment, and costs next to nothing.
    ///
    /// # Errors
    /// [`Drop::InnerHeader`] for fragments that no host makes: they only serve to deceive whoever looks at ports.
    pub fn complete(&mut self, scope: u32, packet: &[u8], flow: &mut Flow, now: Instant) -> Result<(), Drop> {
        let Some(Upper { offset: at, fragment: Some(fragment), .. }) = Upper::of(packet) else {
            return Ok(());
        };
        let Fragment { identification, offset, more } = fragment;
        let payload = flow.total_len.saturating_sub(at);
        if is_odd(flow.protocol, usize::from(offset), more, payload) {
            return Err(Drop::InnerHeader);
        }
        let key = Key {
            scope,
            source: flow.source,
            destination: flow.destination,
            protocol: flow.protocol,
            identification,
        };
        if offset > 0 {
            if let Some(ports) = self.find(&key, now) {
                (flow.source_port, flow.destination_port) = ports;
            }
        } else if more {
            self.remember(Entry { key, ports: (flow.source_port, flow.destination_port), since: now });
        }
        Ok(())
    }

    fn find(&mut self, key: &Key, now: Instant) -> Option<(Option<u16>, Option<u16>)> {
        let set = self.set(key)?;
        let fresh = |entry: &&Entry| entry.key == *key && now.duration_since(entry.since) < LIFETIME;
        set.iter().flatten().find(fresh).map(|entry| entry.ports)
    }

    /// In place of what it had before, else of nothing, else of the oldest.
    fn remember(&mut self, entry: Entry) {
        if self.sets.is_empty() {
            self.sets.resize(SETS, [None; WAYS]);
        }
        let Some(set) = self.set(&entry.key) else { return };
        let same = |old: &Option<Entry>| old.is_some_and(|old| old.key == entry.key);
        let age = |old: &Option<Entry>| old.map(|old| old.since);
        if let Some(place) = set.iter_mut().min_by_key(|old| (!same(old), age(old))) {
            *place = Some(entry);
        }
    }

    fn set(&mut self, key: &Key) -> Option<&mut [Option<Entry>; WAYS]> {
        let mut hasher = DefaultHasher::new();
        (self.secret, key).hash(&mut hasher);
        self.sets.get_mut(hasher.finish() as usize % SETS)
    }
}

/// Is it a fragment that no host makes: one whose end is not where another can begin, that reaches beyond the longest
/// packet, or that divides a TCP header (RFC 1858 3, RFC 3128)?
fn is_odd(protocol: u8, offset: usize, more: bool, payload: usize) -> bool {
    (more && (payload == 0 || !payload.is_multiple_of(8)))
        || offset + payload > usize::from(u16::MAX)
        || (protocol == PROTOCOL_TCP && (offset == 8 || (offset == 0 && more && payload < 16)))
}

#[cfg(test)]
mod tests {
    use adit_wire::ip::{Ipv4Header, PROTOCOL_UDP, flow};

    use super::*;
    use crate::Selectors;
    use crate::policy::tests::ts;

    fn ipv4(id: u16, protocol: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
        let header = Ipv4Header {
            identification: id,
            dont_fragment: false,
            more_fragments: more,
            fragment_offset: offset,
            ..Ipv4Header::new([10, 2, 0, 1].into(), [10, 1, 0, 1].into(), protocol, 64, payload.len())
        };
        [&header.encode(), payload].concat()
    }

    fn ipv6(id: u32, protocol: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, 44, 64];
        packet.extend([0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([protocol, 0]);
        packet.extend((offset | u16::from(more)).to_be_bytes());
        packet.extend(id.to_be_bytes());
        packet.extend(payload);
        let len = (packet.len() - 40) as u16;
        packet[4..6].copy_from_slice(&len.to_be_bytes());
        packet
    }

    /// From port 5000 to port 53.
    const UDP: [u8; 16] = [0x13, 0x88, 0, 53, 0, 40, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

    fn ports(
        table: &mut FragmentPorts,
        scope: u32,
        packet: &[u8],
        now: Instant,
    ) -> Result<(Option<u16>, Option<u16>), Drop> {
        let mut flow = flow(packet).unwrap();
        table.complete(scope, packet, &mut flow, now)?;
        Ok((flow.source_port, flow.destination_port))
    }

    #[test]
    fn later_fragments_have_the_ports_of_their_first_for_a_minute() {
        for v6 in [false, true] {
            let one = |id: u16, protocol, offset, more, payload: &[u8]| {
                if v6 {
                    ipv6(id.into(), protocol, offset, more, payload)
                } else {
                    ipv4(id, protocol, offset, more, payload)
                }
            };
            let (first, second, last) = (
                one(7, PROTOCOL_UDP, 0, true, &UDP),
                one(7, PROTOCOL_UDP, 16, true, &[0; 16]),
                one(7, PROTOCOL_UDP, 32, false, &[0; 5]),
            );
            let mut table = FragmentPorts::new(1);
            let start = Instant::now();
            let (known, unknown) = (Ok((Some(5000), Some(53))), Ok((None, None)));
            assert_eq!(ports(&mut table, 9, &last, start), unknown, "before its first");
            assert_eq!(ports(&mut table, 9, &first, start), known);
            let later = start + LIFETIME - Duration::from_millis(1);
            assert_eq!(ports(&mut table, 9, &last, later), known, "in any order");
            assert_eq!(ports(&mut table, 9, &second, later), known);
            assert_eq!(ports(&mut table, 8, &second, later), unknown, "by another SA");
            assert_eq!(ports(&mut table, 9, &one(8, PROTOCOL_UDP, 16, true, &[0; 8]), later), unknown);
            assert_eq!(ports(&mut table, 9, &one(7, 132, 16, true, &[0; 8]), later), unknown);
            assert_eq!(ports(&mut table, 9, &last, start + LIFETIME), unknown, "too late");
        }
    }

    /// RFC 4301 7: with port selectors, all fragments of what fits pass, and none of what does not.
    #[test]
    fn selectors_see_the_ports() {
        let selectors = |port| {
            Selectors::new(
                &[ts("10.1.0.1", "10.1.0.1", 17, port..=port)],
                &[ts("10.2.0.1", "10.2.0.1", 17, 0..=65535)],
            )
        };
        let mut table = FragmentPorts::new(1);
        for (port, admitted) in [(53, true), (54, false)] {
            for packet in [ipv4(7, PROTOCOL_UDP, 0, true, &UDP), ipv4(7, PROTOCOL_UDP, 16, false, &[0; 9])] {
                let mut flow = flow(&packet).unwrap();
                table.complete(9, &packet, &mut flow, Instant::now()).unwrap();
                assert_eq!(selectors(port).admit_inbound(&flow), admitted);
            }
        }
    }

    /// A first fragment that comes again with other ports is judged by those; what follows it, too.
    #[test]
    fn the_latest_first_fragment_counts() {
        let mut table = FragmentPorts::new(1);
        let (now, mut other) = (Instant::now(), UDP);
        other[3] = 99;
        ports(&mut table, 9, &ipv4(7, PROTOCOL_UDP, 0, true, &UDP), now).unwrap();
        let again = ipv4(7, PROTOCOL_UDP, 0, true, &other);
        assert_eq!(ports(&mut table, 9, &again, now), Ok((Some(5000), Some(99))));
        let later = ipv4(7, PROTOCOL_UDP, 16, false, &[0; 9]);
        assert_eq!(ports(&mut table, 9, &later, now), Ok((Some(5000), Some(99))));
    }

    #[test]
    fn fragments_that_no_host_makes_are_refused() {
        let mut table = FragmentPorts::new(1);
        let mut refused = |packet: &[u8]| {
            let result = ports(&mut table, 9, packet, Instant::now());
            assert!(matches!(result, Ok(_) | Err(Drop::InnerHeader)));
            result.is_err()
        };
        // RFC 1858 3.2.2: a first fragment too short for the flags, and one in their place.
        assert!(refused(&ipv4(7, PROTOCOL_TCP, 0, true, &[0; 8])));
        assert!(refused(&ipv4(7, PROTOCOL_TCP, 8, false, &[0; 8])));
        assert!(!refused(&ipv4(7, PROTOCOL_TCP, 0, true, &[0; 16])));
        assert!(!refused(&ipv4(7, PROTOCOL_TCP, 16, false, &[0; 8])));
        assert!(!refused(&ipv4(7, PROTOCOL_UDP, 0, true, &[0; 8])));
        assert!(!refused(&ipv4(7, PROTOCOL_UDP, 8, false, &[0; 3])));
        // Not a multiple of 8 with more to come, nothing with more to come, beyond the longest packet.
        assert!(refused(&ipv4(7, PROTOCOL_UDP, 0, true, &[0; 9])));
        assert!(refused(&ipv4(7, PROTOCOL_UDP, 64, true, &[])));
        assert!(refused(&ipv4(7, PROTOCOL_UDP, 65_528, false, &[0; 8])));
        assert!(!refused(&ipv4(7, PROTOCOL_UDP, 65_528, false, &[0; 7])));
        assert!(refused(&ipv6(7, PROTOCOL_TCP, 8, false, &[0; 8])));
        assert!(refused(&ipv6(7, PROTOCOL_UDP, 65_528, true, &[0; 8])));
        // An atomic fragment (RFC 6946) is whole.
        assert!(!refused(&ipv6(7, PROTOCOL_TCP, 0, false, &[0; 8])));
    }

    /// A flood leaves the table as large as it is, and what it does not displace stays right.
    #[test]
    fn floods_are_bounded() {
        let mut table = FragmentPorts::new(1);
        assert!(table.sets.is_empty(), "no memory before there are fragments");
        let now = Instant::now();
        for id in 0..100_000_u32 {
            let mut payload = UDP;
            payload[..4].copy_from_slice(&id.to_be_bytes());
            ports(
                &mut table,
                9,
                &ipv6(id, PROTOCOL_UDP, 0, true, &payload),
                now + Duration::from_micros(id.into()),
            )
            .unwrap();
        }
        assert_eq!((table.sets.len(), table.sets.capacity()), (SETS, SETS));
        let end = now + Duration::from_secs(1);
        let mut known = 0;
        for id in 0..100_000_u32 {
            match ports(&mut table, 9, &ipv6(id, PROTOCOL_UDP, 16, false, &[0; 9]), end).unwrap() {
                (None, None) => {}
                found => {
                    known += 1;
                    assert_eq!(found, (Some((id >> 16) as u16), Some(id as u16)));
                    assert!(id > 90_000, "the oldest go first: {id}");
                }
            }
        }
        assert_eq!(known, SETS * WAYS);
    }
}
