//! Transport mode: what goes in comes out, but for what a header may lose on its way, and what cannot be carried is refused.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]

use std::net::IpAddr;

use adit_crypto::EspTransforms;
use adit_esp::fuzzing::{parameters, suites};
use adit_esp::transport::OuterHeader;
use adit_esp::{Drop, InboundSa, Mode, Opened, OutboundSa, SaParameters, SealError};
use adit_wire::ikev2::TrafficSelector;
use adit_wire::ip::{self, transport_checksum};
use proptest::prelude::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex.replace(char::is_whitespace, "")).unwrap()
}

/// What one side knows: its own address and the peer's, and the traffic between them.
#[derive(Clone, Copy)]
struct Host {
    own: IpAddr,
    peer: IpAddr,
    protocol: u8,
}

impl Host {
    fn new(own: &str, peer: &str) -> Self {
        Self { own: ip(own), peer: ip(peer), protocol: 0 }
    }

    fn other(self) -> Self {
        Self { own: self.peer, peer: self.own, ..self }
    }

    fn parameters(self, suite: EspTransforms) -> SaParameters {
        let host = |address: IpAddr| {
            let whole = TrafficSelector::subnet(address, if address.is_ipv4() { 32 } else { 128 });
            vec![TrafficSelector { protocol: self.protocol, ..whole }]
        };
        let (local_ts, remote_ts) = (host(self.own), host(self.peer));
        SaParameters { mode: Mode::Transport, local_ts, remote_ts, ..parameters(suite) }
    }

    fn seals(self, suite: EspTransforms, packet: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut out = Vec::new();
        OutboundSa::new(self.parameters(suite)).unwrap().seal(packet, &mut out)?;
        Ok(out)
    }

    /// What becomes of a packet that arrives with this outer header; `original` as in the parameters.
    fn opens(
        self,
        suite: EspTransforms,
        esp: &[u8],
        outer: OuterHeader,
        original: Option<(IpAddr, IpAddr)>,
    ) -> Result<Vec<u8>, Drop> {
        let parameters = SaParameters { original, ..self.parameters(suite) };
        match InboundSa::new(parameters).unwrap().open_from(&mut esp.to_vec(), &outer)? {
            Opened::Payload(header, payload) => Ok([header.as_bytes(), payload].concat()),
            other => panic!("{other:?}"),
        }
    }

    /// The header that what it sends arrives behind, if nothing changes it.
    fn outer(self, traffic_class: u8, hop_limit: u8) -> OuterHeader {
        OuterHeader { addresses: Some((self.own, self.peer)), traffic_class, hop_limit }
    }
}

/// AES-GCM with 128 bits.
fn gcm() -> EspTransforms {
    suites().next().unwrap().1
}

/// The echo request of RFC 7634 appendix A.
const ECHO: &str = "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec100007362708090a0b0c0d0e0f1011\
    12131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637";

/// Worked by hand. Instead of the identification a6f2 the header has 0 and DF (4000), so of its checksum e778 comes
/// !(!e778 + !a6f2 + 4000) = !(1887 + 590d + 4000) = 4e6b (RFC 1624).
#[test]
fn an_ipv4_packet_gets_the_header_it_travelled_behind() {
    let sender = Host::new("198.51.100.5", "192.0.2.5");
    let esp = sender.seals(gcm(), &bytes(ECHO)).unwrap();
    // ESP and IV, the 64 octets after the header, trailer to a multiple of 4, ICV.
    assert_eq!(esp.len(), 8 + 8 + 64 + 4 + 16);
    let opened = sender.other().opens(gcm(), &esp, sender.outer(0, 64), None).unwrap();
    let header = bytes("45000054 00004000 40014e6b c6336405 c0000205");
    assert_eq!(opened, [header, bytes(ECHO)[20..].to_vec()].concat());

    // Seven hops and congestion later, TTL 57 and CE with DSCP 46 (bb): 4e6b + 0700 - 00bb = 54b0.
    let opened = sender.other().opens(gcm(), &esp, sender.outer(0xbb, 57), None).unwrap();
    assert_eq!(opened[..12], bytes("45bb0054 00004000 390154b0"));
}

#[test]
fn an_ipv6_packet_gets_the_header_it_travelled_behind() {
    let sender = Host::new("2001:db8::1", "2001:db8::2");
    let tcp = bytes("c0010050 00000001 00000000 5002ffff abcd0000");
    let addresses = bytes("20010db8000000000000000000000001 20010db8000000000000000000000002");
    let packet = [bytes("6bb12345 0014 06 40"), addresses.clone(), tcp.clone()].concat();
    let esp = sender.seals(gcm(), &packet).unwrap();
    let opened = sender.other().opens(gcm(), &esp, sender.outer(0xbb, 63), None).unwrap();
    assert_eq!(opened, [bytes("6bb00000 0014 06 3f"), addresses, tcp].concat());
}

/// RFC 4303 3.1.1: not what would have to stay in front of ESP, and no fragments.
#[test]
fn what_is_not_plain_is_refused() {
    let (v4, v6) = (Host::new("198.51.100.5", "192.0.2.5"), Host::new("2001:db8::1", "2001:db8::2"));
    let refused = |host: Host, packet: &[u8]| matches!(host.seals(gcm(), packet), Err(SealError::NotPlain));
    let echo = bytes(ECHO);
    assert!(!refused(v4, &echo));
    for (flags, offset) in [(0x20, 0), (0x20, 5), (0, 5)] {
        let mut fragment = echo.clone();
        (fragment[6], fragment[7]) = (flags, offset);
        assert!(refused(v4, &fragment), "{flags:x} {offset}");
    }
    let mut options = echo;
    options[0] = 0x46;
    assert!(refused(v4, &options));
    for next_header in 0..=255 {
        let mut packet = ip::packet(v6.own, v6.peer, next_header, 64, &[0; 16]).unwrap();
        assert_eq!(refused(v6, &packet), [0, 43, 44, 59, 60, 144].contains(&next_header), "{next_header}");
        packet[6] = 17;
        assert!(!refused(v6, &packet));
    }
    for nothing in [&[][..], &[0x45; 19], &[0x60; 39], &[0x50; 40]] {
        assert!(matches!(v4.seals(gcm(), nothing), Err(SealError::NotIp)));
    }
}

/// A peer with the right key may put anything inside, but only from and to where the SA leads.
#[test]
fn the_rebuilt_packet_has_to_fit_the_selectors() {
    let tcp_only = Host { protocol: 6, ..Host::new("192.0.2.1", "192.0.2.2") };
    let packet = |protocol| ip::packet(tcp_only.own, tcp_only.peer, protocol, 64, &[0; 20]).unwrap();
    let opens = |protocol, outer| {
        let esp = tcp_only.seals(gcm(), &packet(protocol)).unwrap();
        tcp_only.other().opens(gcm(), &esp, outer, None).map(|_| ())
    };
    assert_eq!(opens(6, tcp_only.outer(0, 64)), Ok(()));
    assert_eq!(opens(17, tcp_only.outer(0, 64)), Err(Drop::Selector));
    let elsewhere = Host { own: ip("192.0.2.3"), ..tcp_only };
    assert_eq!(opens(6, elsewhere.outer(0, 64)), Err(Drop::Selector));
    assert_eq!(opens(6, tcp_only.other().outer(0, 64)), Err(Drop::Selector), "reflected");
    assert_eq!(opens(6, OuterHeader::UNKNOWN), Err(Drop::Selector));
    let mixed = OuterHeader { addresses: Some((tcp_only.own, ip("::1"))), ..OuterHeader::UNKNOWN };
    assert_eq!(opens(6, mixed), Err(Drop::Selector));
}

/// In tunnel mode 4 and 41 say that a whole packet follows; here they are protocols as others.
#[test]
fn a_protocol_is_a_protocol() {
    for sender in [Host::new("192.0.2.1", "192.0.2.2"), Host::new("2001:db8::1", "2001:db8::2")] {
        for protocol in (0..=255)
            .filter(|p| ![59, 144].contains(p) && (sender.own.is_ipv4() || ![0, 43, 44, 60].contains(p)))
        {
            let packet = ip::packet(sender.own, sender.peer, protocol, 64, &[7; 33]).unwrap();
            let esp = sender.seals(gcm(), &packet).unwrap();
            let opened = sender.other().opens(gcm(), &esp, sender.outer(0, 64), None);
            assert_eq!(opened, Ok(packet), "{protocol}");
        }
    }
    // Extension headers do not come out either: nobody has looked behind them.
    let (four, six) = (Host::new("192.0.2.1", "192.0.2.2"), Host::new("2001:db8::1", "2001:db8::2"));
    for extension in [0, 43, 44, 60] {
        let esp =
            four.seals(gcm(), &ip::packet(four.own, four.peer, extension, 64, &[0; 16]).unwrap()).unwrap();
        assert_eq!(six.other().opens(gcm(), &esp, six.outer(0, 64), None), Err(Drop::NextHeader));
    }
}

#[test]
fn what_would_be_longer_than_a_packet_can_be() {
    let (four, six) = (Host::new("192.0.2.1", "192.0.2.2"), Host::new("2001:db8::1", "2001:db8::2"));
    let packet = ip::packet(six.own, six.peer, 17, 64, &[0; 65_516]).unwrap();
    let esp = six.seals(gcm(), &packet).unwrap();
    assert_eq!(six.other().opens(gcm(), &esp, six.outer(0, 64), None), Ok(packet));
    assert_eq!(four.other().opens(gcm(), &esp, four.outer(0, 64), None), Err(Drop::InnerLength));
}

/// Worked by hand: 1500 - 20 (IP) - 8 (UDP) - 8 (ESP) - 8 (IV) - 16 (ICV) = 1440, less the trailer of 2, and the header of 20
/// is the packet's own.
#[test]
fn a_header_is_not_carried_twice() {
    let sa = |host: Host| OutboundSa::new(host.parameters(gcm())).unwrap();
    let four = sa(Host::new("192.0.2.1", "192.0.2.2"));
    assert_eq!(four.max_inner(1500, true, false), 1458);
    assert_eq!(four.overhead(1458, true, false), 42);
    let six = sa(Host::new("2001:db8::1", "2001:db8::2"));
    assert_eq!(six.max_inner(1500, false, true), 1466);
    assert_eq!(six.max_inner(50, false, true), 0);
    let mut counting = sa(Host::new("198.51.100.5", "192.0.2.5"));
    counting.seal(&bytes(ECHO), &mut Vec::new()).unwrap();
    assert_eq!(counting.counters().bytes, 84);
}

/// With a right checksum for these addresses where the protocol has one.
fn message(protocol: u8, (source, destination): (IpAddr, IpAddr), data: &[u8]) -> Vec<u8> {
    let (len, place) = match protocol {
        6 => (20, 16),
        17 | 136 => (8, 6),
        33 => (16, 6),
        58 => (8, 2),
        _ => return data.to_vec(),
    };
    let mut message = [vec![0; len], data.to_vec()].concat();
    let sum = transport_checksum(source, destination, protocol, &message);
    message[place..place + 2].copy_from_slice(&sum.to_be_bytes());
    message
}

/// RFC 768: nothing was summed up, and nothing is to be.
#[test]
fn a_udp_sender_that_does_without_a_checksum_goes_on_without() {
    let sender = Host::new("10.0.0.5", "192.0.2.5");
    let packet = ip::packet(sender.own, sender.peer, 17, 64, &[0; 12]).unwrap();
    let esp = sender.seals(gcm(), &packet).unwrap();
    let seen = Host { own: ip("203.0.113.9"), ..sender };
    let opened = seen.other().opens(gcm(), &esp, seen.outer(0, 64), Some((sender.own, sender.peer))).unwrap();
    assert_eq!(opened[20..], [0; 12]);
}

fn address(v6: bool) -> impl Strategy<Value = IpAddr> {
    any::<[u8; 16]>().prop_map(move |octets| {
        if v6 { octets.into() } else { IpAddr::from(*octets.first_chunk::<4>().unwrap()) }
    })
}

fn ends(v6: bool) -> impl Strategy<Value = [IpAddr; 4]> {
    [address(v6), address(v6), address(v6), address(v6)]
}

proptest! {
    /// What comes out is what went in, but for the fields that the outer header gives; through NATs on both sides a
    /// checksum that was right is right.
    #[test]
    fn what_goes_in_comes_out(
        suite in 0..suites().count(),
        [own, peer, seen_own, seen_peer] in any::<bool>().prop_flat_map(ends),
        nat in any::<bool>(),
        protocol in prop::sample::select(vec![1_u8, 4, 6, 17, 33, 41, 47, 58, 132, 136, 253]),
        data in prop::collection::vec(any::<u8>(), 0..600),
        (class, hops) in any::<(u8, u8)>(),
    ) {
        let suite = suites().nth(suite).unwrap().1;
        let sender = Host { own, peer, protocol: 0 };
        let sent = message(protocol, (own, peer), &data);
        let packet = ip::packet(own, peer, protocol, 64, &sent).unwrap();
        let esp = sender.seals(suite, &packet).unwrap();
        let seen = if nat { Host { own: seen_own, peer: seen_peer, protocol: 0 } } else { sender };
        let opened = seen.other().opens(suite, &esp, seen.outer(class, hops), nat.then_some((own, peer)));
        let opened = opened.unwrap();
        let header = opened.len() - sent.len();
        if own.is_ipv4() {
            prop_assert_eq!((opened[1], opened[8]), (class, hops));
            prop_assert_eq!(ip::checksum(&[&opened[..header]]), 0);
        } else {
            prop_assert_eq!((opened[0] << 4 | opened[1] >> 4, opened[7]), (class, hops));
        }
        let flow = ip::flow(&opened).unwrap();
        prop_assert_eq!((flow.source, flow.destination), (seen.own, seen.peer));
        prop_assert_eq!((flow.protocol, flow.total_len), (protocol, opened.len()));
        let payload = &opened[header..];
        if nat && [6, 17, 33, 58, 136].contains(&protocol) {
            prop_assert_eq!(transport_checksum(seen.own, seen.peer, protocol, payload), 0);
            prop_assert!(protocol != 17 || payload[6..8] != [0, 0]);
        } else {
            prop_assert_eq!(payload, &sent[..]);
        }
    }
}
