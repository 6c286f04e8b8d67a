//! The traffic that an SA or a policy is for, compiled from IKE's traffic selectors (RFC 4301 4.4.1, RFC 7296 3.13).
//!
//! This module owns the answer to "does this packet belong": it never negotiates and never narrows.

use std::net::IpAddr;

use adit_wire::ikev2::TrafficSelector;
use adit_wire::ip::{Flow, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_MOBILITY};

/// The selectors of one SA, both sides.
#[derive(Clone, Debug)]
pub struct Selectors(Sides);

#[derive(Clone, Debug)]
enum Sides {
    /// One range of IPv4 addresses on each side, whatever the protocol and ports: what nearly all SAs have, kept where
    /// they are.
    Ipv4 {
        local: (u32, u32),
        remote: (u32, u32),
    },
    Any(Box<Lists>),
}

#[derive(Clone, Debug)]
struct Lists {
    local: Vec<Rule>,
    remote: Vec<Rule>,
}

impl Selectors {
    /// Compiles the negotiated selectors. An empty side admits nothing.
    #[must_use]
    pub fn new(local_ts: &[TrafficSelector], remote_ts: &[TrafficSelector]) -> Self {
        if let ([local], [remote]) = (local_ts, remote_ts)
            && let (Some(local), Some(remote)) = (plain(local), plain(remote))
        {
            return Self(Sides::Ipv4 { local, remote });
        }
        Self(Sides::Any(Box::new(Lists {
            local: local_ts.iter().map(Rule::from).collect(),
            remote: remote_ts.iter().map(Rule::from).collect(),
        })))
    }

    /// May a packet of ours take this SA: from one of our selectors to one of the peer's?
    #[must_use]
    pub fn admit_outbound(&self, flow: &Flow) -> bool {
        match &self.0 {
            Sides::Ipv4 { local, remote } => within(local, flow.source) && within(remote, flow.destination),
            Sides::Any(lists) => {
                let (source, destination) = Endpoint::of(flow);
                admit(&lists.local, &source) && admit(&lists.remote, &destination)
            }
        }
    }

    /// May a packet of the peer have come by this SA: from one of its selectors to one of ours?
    #[must_use]
    #[inline]
    pub fn admit_inbound(&self, flow: &Flow) -> bool {
        match &self.0 {
            Sides::Ipv4 { local, remote } => within(remote, flow.source) && within(local, flow.destination),
            Sides::Any(lists) => {
                let (source, destination) = Endpoint::of(flow);
                admit(&lists.remote, &source) && admit(&lists.local, &destination)
            }
        }
    }

    /// As [`admit_inbound`](Self::admit_inbound), for a packet of that length whose flow nobody has looked at. `None`: more of it has
    /// to be read than the addresses, because it is not IPv4 without options and whole, or the selectors are not that plain.
    #[inline]
    pub(crate) fn admit_plain(&self, packet: &[u8]) -> Option<bool> {
        let Sides::Ipv4 { local, remote } = &self.0 else { return None };
        let [0x45, _, l0, l1, _, _, flags, offset, _, _, _, _, s0, s1, s2, s3, d0, d1, d2, d3] =
            packet.first_chunk()?
        else {
            return None;
        };
        let is_whole = flags & 0x3f == 0 && *offset == 0;
        if !is_whole || usize::from(u16::from_be_bytes([*l0, *l1])) != packet.len() {
            return None;
        }
        let (source, destination) =
            (u32::from_be_bytes([*s0, *s1, *s2, *s3]), u32::from_be_bytes([*d0, *d1, *d2, *d3]));
        let within = |(start, end): &(u32, u32), address| (*start..=*end).contains(&address);
        Some(within(remote, source) && within(local, destination))
    }
}

/// The addresses of a selector that has nothing else to say.
fn plain(ts: &TrafficSelector) -> Option<(u32, u32)> {
    match (ts.start, ts.end) {
        (IpAddr::V4(start), IpAddr::V4(end)) => (ts.protocol == 0
            && (ts.start_port, ts.end_port) == (0, u16::MAX))
            .then_some((start.to_bits(), end.to_bits())),
        _ => None,
    }
}

fn within((start, end): &(u32, u32), address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if (*start..=*end).contains(&address.to_bits()))
}

fn admit(rules: &[Rule], endpoint: &Endpoint) -> bool {
    rules.iter().any(|rule| rule.admits(endpoint))
}

/// One end of a packet's flow, as a [`Rule`] sees it.
pub(crate) struct Endpoint {
    pub(crate) address: Address,
    protocol: u8,
    port: Port,
}

impl Endpoint {
    /// Source and destination of `flow`.
    pub(crate) fn of(flow: &Flow) -> (Self, Self) {
        let known = |port: Option<u16>| port.map_or(Port::Unknown, Port::Known);
        // RFC 4301 4.4.1.3: what ICMP and Mobility have in place of ports (type and code) stands for the sender's side alone. It is
        // the sender's selector that says whether it may send it.
        let one_sided = matches!(flow.protocol, PROTOCOL_ICMP | PROTOCOL_ICMPV6 | PROTOCOL_MOBILITY);
        let destination = match flow.source_port {
            Some(_) if one_sided => Port::None,
            _ => known(flow.destination_port),
        };
        let end = |address, port| Self { address: Address::from(address), protocol: flow.protocol, port };
        (end(flow.source, known(flow.source_port)), end(flow.destination, destination))
    }
}

enum Port {
    Known(u16),
    /// The packet does not show it: a later fragment, or a protocol without ports.
    Unknown,
    /// There is none on this side, and none is asked for.
    None,
}

/// An address of either family as a number, so that ranges compare alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) v6: bool,
    pub(crate) value: u128,
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => Self { v6: false, value: u32::from(a).into() },
            IpAddr::V6(a) => Self { v6: true, value: a.into() },
        }
    }
}

/// One traffic selector, compiled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub(crate) v6: bool,
    pub(crate) first: u128,
    pub(crate) last: u128,
    /// 0 is any.
    protocol: u8,
    /// `None` is any, also what has no ports. OPAQUE (65535 to 0) is an empty range: it admits no packet here, because
    /// SAs for later fragments alone (RFC 4301 7.2) are not supported.
    ports: Option<(u16, u16)>,
}

impl Rule {
    pub(crate) fn admits(&self, endpoint: &Endpoint) -> bool {
        self.v6 == endpoint.address.v6
            && (self.first..=self.last).contains(&endpoint.address.value)
            && (self.protocol == 0 || self.protocol == endpoint.protocol)
            && match (self.ports, &endpoint.port) {
                (None, _) | (Some(_), Port::None) => true,
                // RFC 4301 7.3: a fragment that does not show its ports is refused where ports matter.
                (Some(_), Port::Unknown) => false,
                (Some((start, end)), Port::Known(port)) => (start..=end).contains(port),
            }
    }

    /// How closely it describes a packet; the greater, the closer: fixed address bits, then protocol, then port bits.
    pub(crate) fn specificity(&self) -> (u32, bool, u32) {
        let width = if self.v6 { 128 } else { 32 };
        let free = 128 - self.last.saturating_sub(self.first).leading_zeros();
        let ports = self.ports.map_or(0, |(start, end)| 1 + end.saturating_sub(start).leading_zeros());
        (width - free.min(width), self.protocol != 0, ports)
    }
}

impl From<&TrafficSelector> for Rule {
    fn from(ts: &TrafficSelector) -> Self {
        let (first, last) = (Address::from(ts.start), Address::from(ts.end));
        let ports = (ts.start_port, ts.end_port);
        Self {
            v6: first.v6,
            first: first.value,
            last: last.value,
            protocol: ts.protocol,
            ports: (ports != (0, u16::MAX)).then_some(ports),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::tests::{flow, ts};

    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const ICMP: u8 = 1;

    fn ping(source: &str, destination: &str, kind: u8) -> Flow {
        Flow {
            source_port: Some(u16::from(kind) << 8),
            destination_port: None,
            ..flow(source, destination, ICMP, None)
        }
    }

    #[test]
    fn both_ends_must_fit_and_the_direction_counts() {
        let s = Selectors::new(
            &[ts("10.1.0.0", "10.1.255.255", 0, 0..=65535)],
            &[ts("10.2.0.0", "10.2.0.9", 0, 0..=65535)],
        );
        let out = flow("10.1.2.3", "10.2.0.9", TCP, Some((1, 2)));
        assert!(s.admit_outbound(&out));
        assert!(!s.admit_inbound(&out));
        assert!(s.admit_inbound(&flow("10.2.0.0", "10.1.0.0", TCP, Some((1, 2)))));
        for (source, destination) in [
            ("10.2.0.10", "10.1.0.0"),
            ("10.1.255.255", "10.1.0.0"),
            ("10.2.0.1", "10.2.0.1"),
            ("10.2.0.1", "10.0.255.255"),
            ("::ffff:10.2.0.1", "::ffff:10.1.0.0"),
        ] {
            assert!(
                !s.admit_inbound(&flow(source, destination, TCP, Some((1, 2)))),
                "{source} {destination}"
            );
        }
    }

    #[test]
    fn any_of_several_selectors_is_enough() {
        let s = Selectors::new(
            &[ts("10.1.0.0", "10.1.0.255", 0, 0..=65535), ts("fd01::", "fd01::ffff", 0, 0..=65535)],
            &[ts("10.2.0.0", "10.2.0.255", 0, 0..=65535), ts("fd02::", "fd02::ffff", 0, 0..=65535)],
        );
        assert!(s.admit_inbound(&flow("fd02::1", "fd01::1", UDP, Some((1, 2)))));
        assert!(s.admit_inbound(&flow("10.2.0.1", "10.1.0.1", UDP, Some((1, 2)))));
        assert!(!s.admit_inbound(&flow("fd02::1", "fd01::1:0", UDP, Some((1, 2)))));
        assert!(!Selectors::new(&[], &[]).admit_inbound(&flow("10.2.0.1", "10.1.0.1", UDP, Some((1, 2)))));
    }

    #[test]
    fn protocol_and_ports() {
        let s = Selectors::new(
            &[ts("10.1.0.1", "10.1.0.1", TCP, 80..=89)],
            &[ts("10.2.0.1", "10.2.0.1", TCP, 0..=65535)],
        );
        let admits = |protocol, ports| s.admit_inbound(&flow("10.2.0.1", "10.1.0.1", protocol, ports));
        assert!(admits(TCP, Some((5, 80))));
        assert!(admits(TCP, Some((5, 89))));
        assert!(!admits(TCP, Some((5, 79))));
        assert!(!admits(TCP, Some((5, 90))));
        assert!(!admits(TCP, Some((80, 5))));
        assert!(!admits(UDP, Some((5, 80))));
        // A later fragment does not show its ports, and one cut short only the first.
        assert!(!admits(TCP, None));
        let cut = Flow { source_port: Some(5), ..flow("10.2.0.1", "10.1.0.1", TCP, None) };
        assert!(!s.admit_inbound(&cut));
    }

    #[test]
    fn a_later_fragment_passes_where_any_port_does() {
        let s = Selectors::new(
            &[ts("10.1.0.1", "10.1.0.1", TCP, 0..=65535)],
            &[ts("10.2.0.1", "10.2.0.1", 0, 0..=65535)],
        );
        assert!(s.admit_inbound(&Flow { fragment: true, ..flow("10.2.0.1", "10.1.0.1", TCP, None) }));
        assert!(!s.admit_inbound(&Flow { fragment: true, ..flow("10.2.0.1", "10.1.0.1", UDP, None) }));
    }

    #[test]
    fn opaque_ports_admit_nothing_that_has_ports() {
        let opaque =
            TrafficSelector { start_port: 65535, end_port: 0, ..ts("10.2.0.1", "10.2.0.1", TCP, 0..=0) };
        let s = Selectors::new(&[ts("10.1.0.1", "10.1.0.1", TCP, 0..=65535)], &[opaque]);
        assert!(!s.admit_inbound(&flow("10.2.0.1", "10.1.0.1", TCP, Some((65535, 5)))));
        assert!(!s.admit_inbound(&flow("10.2.0.1", "10.1.0.1", TCP, Some((0, 5)))));
        assert!(!s.admit_inbound(&flow("10.2.0.1", "10.1.0.1", TCP, None)));
    }

    proptest! {
        /// However they are kept: by the words of RFC 7296 3.13.1, and as a list of the same selector twice.
        #[test]
        fn one_range_on_each_side_admits_what_lies_in_it(
            (local, remote) in (any::<(u32, u32)>(), any::<(u32, u32)>()),
            (source, destination) in (any::<u32>(), any::<u32>()),
            (near, protocol, ports) in (0_usize..9, prop::sample::select(vec![TCP, ICMP, 47]), any::<Option<(u16, u16)>>()),
        ) {
            let ts = |(start, end): (u32, u32)| TrafficSelector {
                start: Ipv4Addr::from(start).into(),
                end: Ipv4Addr::from(end).into(),
                ..TrafficSelector::any_v4()
            };
            // Often just at an edge.
            let edges = [source, local.0, local.1, local.0.wrapping_sub(1), local.1.wrapping_add(1)];
            let source = *edges.get(near).unwrap_or(&source);
            let packet = flow(
                &Ipv4Addr::from(source).to_string(),
                &Ipv4Addr::from(destination).to_string(),
                protocol,
                ports,
            );
            let within = |(start, end): (u32, u32), address| start <= address && address <= end;
            let expected = within(local, source) && within(remote, destination);
            let (short, back) = (Selectors::new(&[ts(local)], &[ts(remote)]), Selectors::new(&[ts(remote)], &[ts(local)]));
            let lists = Selectors::new(&[ts(local); 2], &[ts(remote)]);
            prop_assert_eq!(short.admit_outbound(&packet), expected);
            prop_assert_eq!(back.admit_inbound(&packet), expected);
            prop_assert_eq!(lists.admit_outbound(&packet), expected);
            let v6 = flow("fd00::1", "fd00::2", protocol, ports);
            prop_assert!(!short.admit_outbound(&v6) && !short.admit_inbound(&v6));
        }
    }

    /// RFC 4301 4.4.1.3, examples C and D: the sender's side says which types it may send.
    #[test]
    fn icmp_type_is_the_senders() {
        let (echo, reply) = (8_u8, 0_u8);
        let only_echo = u16::from(echo) << 8;
        let opaque =
            TrafficSelector { start_port: 65535, end_port: 0, ..ts("10.2.0.1", "10.2.0.1", ICMP, 0..=0) };
        let s = Selectors::new(&[ts("10.1.0.1", "10.1.0.1", ICMP, only_echo..=only_echo)], &[opaque]);
        assert!(s.admit_outbound(&ping("10.1.0.1", "10.2.0.1", echo)));
        assert!(!s.admit_outbound(&ping("10.1.0.1", "10.2.0.1", reply)));
        assert!(!s.admit_inbound(&ping("10.2.0.1", "10.1.0.1", echo)));
        // A later fragment of it shows no type.
        assert!(!s.admit_outbound(&flow("10.1.0.1", "10.2.0.1", ICMP, None)));
    }

    #[test]
    fn specificity_grows_as_the_selector_narrows() {
        let order = [
            ts("0.0.0.0", "255.255.255.255", 0, 0..=65535),
            ts("10.0.0.0", "10.255.255.255", 0, 0..=65535),
            ts("10.0.0.0", "10.0.0.255", 0, 0..=65535),
            ts("10.0.0.0", "10.0.0.255", TCP, 0..=65535),
            ts("10.0.0.0", "10.0.0.255", TCP, 1024..=65535),
            ts("10.0.0.0", "10.0.0.255", TCP, 80..=80),
            ts("10.0.0.7", "10.0.0.7", 0, 0..=65535),
        ];
        let specificity: Vec<_> = order.iter().map(|t| Rule::from(t).specificity()).collect();
        assert!(specificity.is_sorted_by(|a, b| a < b), "{specificity:?}");
        assert_eq!(
            Rule::from(&ts("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 0, 0..=65535)).specificity(),
            (0, false, 0)
        );
        assert_eq!(Rule::from(&ts("fd00::7", "fd00::7", 0, 0..=65535)).specificity(), (128, false, 0));
    }
}
