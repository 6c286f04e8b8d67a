//! What traffic selectors mean.

#![cfg(test)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_wire::ikev2::TrafficSelector;
use proptest::prelude::*;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn subnet(text: &str, prefix: u8) -> TrafficSelector {
    TrafficSelector::subnet(address(text), prefix)
}

fn range(start: &str, end: &str) -> TrafficSelector {
    TrafficSelector::range(address(start), address(end))
}

fn with_ports(selector: TrafficSelector, protocol: u8, start_port: u16, end_port: u16) -> TrafficSelector {
    TrafficSelector { protocol, start_port, end_port, ..selector }
}

#[test]
fn subnets() {
    for (selector, start, end) in [
        (subnet("10.1.2.3", 16), "10.1.0.0", "10.1.255.255"),
        (subnet("10.1.2.3", 32), "10.1.2.3", "10.1.2.3"),
        (subnet("10.1.2.3", 33), "10.1.2.3", "10.1.2.3"),
        (subnet("10.1.2.3", 0), "0.0.0.0", "255.255.255.255"),
        (subnet("2001:db8::1", 64), "2001:db8::", "2001:db8::ffff:ffff:ffff:ffff"),
        (subnet("2001:db8::1", 128), "2001:db8::1", "2001:db8::1"),
        (subnet("2001:db8::1", 200), "2001:db8::1", "2001:db8::1"),
        (TrafficSelector::any_v6(), "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ] {
        assert_eq!((selector.start, selector.end), (address(start), address(end)));
    }
}

#[test]
fn display() {
    for (selector, text) in [
        (subnet("10.1.0.0", 16), "10.1.0.0/16"),
        (TrafficSelector::any_v4(), "0.0.0.0/0"),
        (TrafficSelector::any_v6(), "::/0"),
        (range("10.0.0.1", "10.0.0.9"), "10.0.0.1..10.0.0.9"),
        (range("10.0.0.8", "10.0.0.15"), "10.0.0.8/29"),
        (with_ports(subnet("10.0.0.1", 32), 6, 22, 22), "10.0.0.1/32[tcp/22]"),
        (with_ports(subnet("10.0.0.1", 32), 17, 0, 65535), "10.0.0.1/32[udp]"),
        (with_ports(subnet("10.0.0.1", 32), 17, 1000, 2000), "10.0.0.1/32[udp/1000-2000]"),
        (with_ports(subnet("10.0.0.1", 32), 200, 0, 65535), "10.0.0.1/32[200]"),
        (with_ports(subnet("10.0.0.1", 32), 0, 53, 53), "10.0.0.1/32[0/53]"),
        (with_ports(TrafficSelector::any_v4(), 1, 0x0800, 0x0800), "0.0.0.0/0[icmp/8(0)]"),
        (with_ports(TrafficSelector::any_v4(), 1, 0x0800, 0x08ff), "0.0.0.0/0[icmp/8]"),
        (with_ports(TrafficSelector::any_v4(), 1, 0x0304, 0x0305), "0.0.0.0/0[icmp/3(4)-3(5)]"),
        (with_ports(TrafficSelector::any_v6(), 58, 0x8000, 0x81ff), "::/0[ipv6-icmp/128-129]"),
        (with_ports(TrafficSelector::any_v6(), 17, 65535, 0), "::/0[udp/OPAQUE]"),
    ] {
        assert_eq!(selector.to_string(), text);
    }
}

#[test]
fn intersections() {
    let both = |a: TrafficSelector, b: TrafficSelector, expected: Option<TrafficSelector>| {
        assert_eq!(a.intersection(&b), expected);
        assert_eq!(b.intersection(&a), expected);
    };
    both(subnet("10.0.0.0", 8), subnet("10.1.0.0", 16), Some(subnet("10.1.0.0", 16)));
    both(range("10.0.0.1", "10.0.0.9"), range("10.0.0.5", "10.0.0.20"), Some(range("10.0.0.5", "10.0.0.9")));
    both(subnet("10.1.0.0", 16), subnet("10.2.0.0", 16), None);
    both(TrafficSelector::any_v4(), TrafficSelector::any_v6(), None);
    let net = subnet("10.0.0.0", 8);
    let tcp = with_ports(net, 6, 0, 65535);
    both(net, tcp, Some(tcp));
    both(tcp, with_ports(net, 17, 0, 65535), None);
    both(with_ports(net, 6, 0, 1023), with_ports(net, 6, 80, 8080), Some(with_ports(net, 6, 80, 1023)));
    both(with_ports(net, 6, 0, 79), with_ports(net, 6, 80, 8080), None);
    // RFC 7296 3.13.1: ANY includes OPAQUE, nothing else does.
    let opaque = with_ports(net, 6, 65535, 0);
    both(tcp, opaque, Some(opaque));
    both(opaque, opaque, Some(opaque));
    both(with_ports(net, 6, 1, 65535), opaque, None);
}

#[test]
fn covers() {
    let net = subnet("10.0.0.0", 8);
    let ssh = with_ports(subnet("10.1.0.0", 16), 6, 22, 22);
    assert!(net.covers(&ssh) && !ssh.covers(&net));
    assert!(with_ports(net, 6, 0, 65535).covers(&with_ports(net, 6, 65535, 0)));
    assert!(!with_ports(net, 6, 65535, 0).covers(&with_ports(net, 6, 0, 65535)));
    assert!(!ssh.covers(&with_ports(subnet("10.1.0.0", 16), 0, 22, 22)));
}

#[test]
fn matches() {
    let ssh = with_ports(subnet("10.1.0.0", 16), 6, 22, 23);
    assert!(
        ssh.matches(address("10.1.0.0"), 6, Some(22)) && ssh.matches(address("10.1.255.255"), 6, Some(23))
    );
    assert!(
        !ssh.matches(address("10.0.255.255"), 6, Some(22)) && !ssh.matches(address("10.2.0.0"), 6, Some(22))
    );
    assert!(!ssh.matches(address("10.1.0.1"), 17, Some(22)));
    assert!(!ssh.matches(address("10.1.0.1"), 6, Some(21)) && !ssh.matches(address("10.1.0.1"), 6, Some(24)));
    // A packet whose port cannot be seen: only where any or no port will do (RFC 4301 4.4.1.1).
    assert!(!ssh.matches(address("10.1.0.1"), 6, None));
    assert!(with_ports(ssh, 6, 0, 65535).matches(address("10.1.0.1"), 6, None));
    let opaque = with_ports(ssh, 6, 65535, 0);
    assert!(opaque.matches(address("10.1.0.1"), 6, None) && !opaque.matches(address("10.1.0.1"), 6, Some(0)));
    // Families do not mix, not even mapped.
    assert!(!TrafficSelector::any_v6().matches(address("10.1.0.1"), 6, Some(22)));
    assert!(!TrafficSelector::any_v4().matches(address("::ffff:10.1.0.1"), 6, Some(22)));
}

#[test]
fn prefixes() {
    let cover = |selector: TrafficSelector| {
        selector.prefixes().iter().map(|(address, len)| format!("{address}/{len}")).collect::<Vec<_>>()
    };
    assert_eq!(cover(subnet("10.1.0.0", 16)), ["10.1.0.0/16"]);
    assert_eq!(cover(TrafficSelector::any_v4()), ["0.0.0.0/0"]);
    assert_eq!(cover(TrafficSelector::any_v6()), ["::/0"]);
    assert_eq!(
        cover(range("10.0.0.1", "10.0.0.9")),
        ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/30", "10.0.0.8/31"]
    );
    assert_eq!(cover(range("255.255.255.254", "255.255.255.255")), ["255.255.255.254/31"]);
    // The longest there are.
    assert_eq!(range("0.0.0.1", "255.255.255.254").prefixes().len(), 62);
    assert_eq!(range("::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe").prefixes().len(), 254);
    // What no decoder lets through.
    assert_eq!(range("10.0.0.9", "10.0.0.1").prefixes(), []);
    assert_eq!(range("10.0.0.9", "::1").prefixes(), []);
}

proptest! {
    /// Counted one by one in a small space: the cover is exact, in order and minimal.
    #[test]
    fn prefixes_are_the_least_cover(start in 0u32..512, length in 0u32..512, v6: bool) {
        let end = start + length;
        let address = |n: u32| -> IpAddr {
            if v6 { Ipv6Addr::from_bits(n.into()).into() } else { Ipv4Addr::from_bits(n).into() }
        };
        let width = if v6 { 128 } else { 32 };
        let prefixes = TrafficSelector::range(address(start), address(end)).prefixes();
        let mut next = start;
        for (first, len) in &prefixes {
            prop_assert_eq!(*first, address(next));
            next += 1 << (width - len);
        }
        prop_assert_eq!(next, end + 1);
        // Least by dynamic programming over every aligned block.
        let mut least = vec![0usize; usize::try_from(length).unwrap() + 2];
        for at in (start..=end).rev() {
            let mut best = usize::MAX;
            for bits in 0..11 {
                let size = 1u32 << bits;
                if at % size != 0 || at + size > end + 1 { break; }
                best = best.min(1 + least[usize::try_from(at - start + size).unwrap()]);
            }
            least[usize::try_from(at - start).unwrap()] = best;
        }
        prop_assert_eq!(prefixes.len(), least[0]);
    }

    /// The intersection selects exactly what both select.
    #[test]
    fn intersection_is_conjunction(
        a in small_selector(), b in small_selector(), at in 0u8..8, protocol in 0u8..3, port in prop::option::of(0u16..8),
    ) {
        let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, at));
        let both = a.matches(address, protocol, port) && b.matches(address, protocol, port);
        let common = a.intersection(&b);
        prop_assert_eq!(common, b.intersection(&a));
        prop_assert_eq!(common.is_some_and(|common| common.matches(address, protocol, port)), both);
        if a.covers(&b) && b.matches(address, protocol, port) {
            prop_assert!(a.matches(address, protocol, port));
        }
    }
}

fn small_selector() -> impl Strategy<Value = TrafficSelector> {
    let ports = prop_oneof![
        Just((0, 65535)),
        Just((65535, 0)),
        (0u16..8, 0u16..8).prop_map(|(a, b)| (a.min(b), a.max(b))),
    ];
    (0u8..8, 0u8..8, 0u8..3, ports).prop_map(|(a, b, protocol, (start_port, end_port))| TrafficSelector {
        protocol,
        start_port,
        end_port,
        start: Ipv4Addr::new(10, 0, 0, a.min(b)).into(),
        end: Ipv4Addr::new(10, 0, 0, a.max(b)).into(),
    })
}
