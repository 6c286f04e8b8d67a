//! What whoever looks at packets is shown, beside what passes the links.

use super::*;
use adit_net::{Direction, Layer, TapFilter, TapReader};
use adit_wire::ip::{Ipv4Header, PROTOCOL_TCP, flow, transport_checksum};

const ALL: TapFilter = TapFilter { inner: true, outer: true, name: None, snaplen: usize::MAX };

/// A packet of a tap.
#[derive(Clone, Debug)]
struct Shown {
    layer: Layer,
    direction: Direction,
    name: String,
    spi: Option<u32>,
    dropped: Option<&'static str>,
    len: usize,
    octets: Vec<u8>,
}

/// All that is shown until there are `count`, and what there is beside them.
fn shown(reader: &mut TapReader, count: usize) -> Result<Vec<Shown>> {
    let (mut all, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    while all.len() < count {
        ensure!(Instant::now() < deadline, "{} of {count}: {all:?}", all.len());
        more(reader, Duration::from_millis(100), &mut all)?;
    }
    more(reader, Duration::ZERO, &mut all)?;
    Ok(all)
}

fn more(reader: &mut TapReader, patience: Duration, all: &mut Vec<Shown>) -> Result<usize> {
    Ok(reader.read(patience, |packet| {
        if is_chatter(packet.dropped) {
            return;
        }
        all.push(Shown {
            layer: packet.layer,
            direction: packet.direction,
            name: packet.name.to_owned(),
            spi: packet.spi,
            dropped: packet.dropped,
            len: packet.len,
            octets: packet.octets.to_vec(),
        });
    })?)
}

/// The kernel of the gateway greets multicast routers through every device, at times of its own, with an address or without.
const CHATTER: [DropCause; 2] = [DropCause::NoPolicy, DropCause::NoSource];

fn is_chatter(dropped: Option<&str>) -> bool {
    CHATTER.iter().any(|cause| dropped == Some(cause.as_str()))
}

/// A packet as it is on every link of its way: routers count the hop limit down, which changes IPv4's checksum.
fn anywhere(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let v4 = packet.first().is_some_and(|first| first >> 4 == 4);
    for at in if v4 { &[8, 10, 11][..] } else { &[7] } {
        packet.get_mut(*at).into_iter().for_each(|octet| *octet = 0);
    }
    packet
}

/// ICMP and ICMPv6 echoes among the frames of a link, with the way that they go.
fn echoes(capture: &mut Capture, inbound: bool) -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    while capture.read(Duration::ZERO, |frame| {
        let packet = frame.octets.get(14..).unwrap_or_default();
        let octet = |at: usize| packet.get(at).copied().unwrap_or(0);
        let is_echo = match octet(0) >> 4 {
            4 => octet(9) == 1,
            6 => octet(6) == 58 && [128, 129].contains(&octet(40)),
            _ => false,
        };
        if is_echo && frame.outgoing != inbound {
            all.push(anywhere(packet));
        }
    })? > 0
    {}
    Ok(all)
}

/// Inner packets are those of the host's link, and outer ones those of the link between the gateways, octet for octet.
#[test]
fn a_tap_shows_what_passes_inside_and_outside() -> Result<()> {
    for (v6, encap) in [(false, true), (false, false), (true, true), (true, false)] {
        let net = Net::new()?;
        let (mut a, b) = tunnel(&net, v6, encap)?;
        let mut reader = a.plane.tap(&ALL)?;
        let lan = || net.host(A).run(|| Capture::open("lan"));
        let [mut sent, mut received] = [lan()??, lan()??];
        let mut wan = net.capture(A)?;
        for inner_v6 in [false, true] {
            for from in [A, B] {
                answered(&net.ping(from, inner_v6, &["-c", "3", "-W", "5", "-s", "1000"])?)?;
            }
        }
        let all = shown(&mut reader, 48)?;
        ensure!(all.len() == 48, "12 pings and their answers, inside and outside: {}", all.len());
        for (direction, lan) in [(Direction::Outbound, &mut sent), (Direction::Inbound, &mut received)] {
            let spi = if direction == Direction::Outbound { 0xadad_0101 } else { 0xadad_0102 };
            let of = |layer| all.iter().filter(move |one| (one.layer, one.direction) == (layer, direction));
            for one in of(Layer::Inner).chain(of(Layer::Outer)) {
                ensure!((one.spi, one.dropped, one.name.as_str()) == (Some(spi), None, "gw/net"), "{one:?}");
                ensure!(one.len == one.octets.len(), "{one:?}");
            }
            let inner: Vec<Vec<u8>> = of(Layer::Inner).map(|one| anywhere(&one.octets)).collect();
            ensure!(
                inner == echoes(lan, direction == Direction::Inbound)?,
                "{direction:?}: not as on the link"
            );
        }
        let on_link: Vec<Seen> =
            passed(&mut wan)?.into_iter().filter(|one| [17, 50].contains(&one.protocol)).collect();
        let outer: Vec<&Shown> = all.iter().filter(|one| one.layer == Layer::Outer).collect();
        ensure!(outer.len() == on_link.len(), "{} of {}", outer.len(), on_link.len());
        for (one, there) in outer.into_iter().zip(on_link) {
            let mut frame = vec![0; 14];
            frame.extend(&one.octets);
            let mut here = seen(&frame).context("an IP packet")?;
            if encap {
                if v6 {
                    let (source, destination) = (here.source, here.destination);
                    ensure!(transport_checksum(source, destination, 17, &here.payload) == 0, "checksum");
                }
                // The device makes the checksum.
                here.payload[6..8].copy_from_slice(&there.payload[6..8]);
            }
            ensure!(here == there, "{here:?} is on the link {there:?}");
        }
        drop(b);
    }
    Ok(())
}

/// Super-packets are shown as the packets that they stand for.
#[test]
fn connections_are_shown_in_packets() -> Result<()> {
    const LEN: usize = 200_000;
    let net = Net::new()?;
    let (mut a, _b) = tunnel(&net, false, true)?;
    let mut reader = a.plane.tap(&TapFilter { outer: false, ..ALL })?;
    treatment::exchange(&net, A, false, LEN)?;
    let mut all = Vec::new();
    while more(&mut reader, Duration::from_millis(100), &mut all)? > 0 {}
    ensure!(reader.lost() == [0, 0], "{:?}", reader.lost());
    for direction in [Direction::Outbound, Direction::Inbound] {
        let mut stream = vec![false; LEN];
        let mut first = None;
        for one in all.iter().filter(|one| one.direction == direction) {
            let header = Ipv4Header::decode(&one.octets)?;
            let tcp = &one.octets[header.header_len..];
            ensure!(
                one.octets.len() <= 1500 && header.protocol == PROTOCOL_TCP,
                "{} octets",
                one.octets.len()
            );
            let sum = transport_checksum(header.source.into(), header.destination.into(), PROTOCOL_TCP, tcp);
            ensure!(sum == 0, "checksum of {:?}", flow(&one.octets)?);
            let sequence = u32::from_be_bytes(tcp[4..8].try_into()?);
            let start = *first.get_or_insert_with(|| sequence.wrapping_add(1));
            let payload = &tcp[usize::from(tcp[12] >> 4) * 4..];
            ensure!(payload.iter().all(|octet| *octet == 0x5a), "not what was sent");
            let offset = sequence.wrapping_sub(start) as usize;
            if !payload.is_empty() {
                stream[offset..offset + payload.len()].fill(true);
            }
        }
        ensure!(stream.iter().all(|seen| *seen), "{direction:?}: a part of the stream is not shown");
    }
    Ok(())
}

/// Whatever vanishes is shown, with the cause.
#[test]
fn what_is_dropped_is_shown_with_the_cause() -> Result<()> {
    let net = Net::new()?;
    let (mut a, _b) = tunnel(&net, false, true)?;
    let mut reader = a.plane.tap(&ALL)?;
    answered(&net.ping(B, false, &["-c", "1", "-W", "5"])?)?;
    let arrived = shown(&mut reader, 4)?;
    let esp = &arrived.iter().find(|one| (one.layer, one.direction) == (Layer::Outer, Direction::Inbound));
    let esp = esp.context("the request")?.octets.get(28..).context("behind IP and UDP")?.to_vec();
    // Sent again; with an SPI that nobody has; with another ICV.
    let mut unknown = esp.clone();
    unknown[3] ^= 0xff;
    let mut forged = esp.clone();
    forged[7] += 1;
    *forged.last_mut().context("an ICV")? ^= 1;
    let socket = net.gateway(B).run(|| UdpSocket::bind((B.outer(false), 0)))??;
    for datagram in [&esp, &unknown, &forged] {
        socket.send_to(datagram, (A.outer(false), 4500))?;
    }
    let dropped = shown(&mut reader, 3)?;
    let seen: Vec<_> = dropped
        .iter()
        .map(|one| (one.layer, one.direction, one.name.as_str(), one.spi, one.dropped, &one.octets[28..]))
        .collect();
    let outer =
        |name, spi, cause, octets| (Layer::Outer, Direction::Inbound, name, Some(spi), Some(cause), octets);
    let expected = [
        outer("gw/net", 0xadad_0102, "replayed", &esp[..]),
        outer("", 0xadad_01fd, "unknown-spi", &unknown[..]),
        outer("gw/net", 0xadad_0102, "authentication", &forged[..]),
    ];
    ensure!(seen == expected, "{seen:?}");
    // Without an SA.
    a.plane.remove(ChildId(1));
    unanswered(&net.ping(A, false, &["-c", "1", "-W", "1"])?)?;
    let dropped = shown(&mut reader, 1)?;
    let [one] = &dropped[..] else { bail!("{dropped:?}") };
    ensure!((one.layer, one.direction) == (Layer::Inner, Direction::Outbound), "{one:?}");
    ensure!((one.name.as_str(), one.spi, one.dropped) == ("from-A", None, Some("no-sa")), "{one:?}");
    Ok(())
}

/// Also what the kernel does not take from the tunnel, beside what came out of it.
#[test]
fn what_the_kernel_does_not_take_is_shown() -> Result<()> {
    let net = Net::new()?;
    let (mut a, _b) = tunnel(&net, false, true)?;
    let mut reader = a.plane.tap(&TapFilter { outer: false, ..ALL })?;
    answered(&run(net.gateway(A), "ip", &["link", "set", "adit0", "down"])?)?;
    unanswered(&net.ping(B, false, &["-c", "1", "-W", "1"])?)?;
    let all = shown(&mut reader, 2)?;
    let [passed, dropped] = &all[..] else { bail!("{all:?}") };
    ensure!((passed.dropped, passed.direction) == (None, Direction::Inbound), "{all:?}");
    ensure!((dropped.dropped, dropped.name.as_str()) == (Some("deliver"), "from-A"), "{all:?}");
    ensure!(dropped.direction == Direction::Inbound && dropped.octets == passed.octets, "{all:?}");
    ensure!(a.drops(DropCause::Deliver) == 1, "counted otherwise");
    Ok(())
}

/// Only what was asked for, as much of it as was asked for, and to one at a time.
#[test]
fn a_tap_shows_what_was_asked_for_and_ends_with_its_reader() -> Result<()> {
    let net = Net::new()?;
    let (mut a, _b) = tunnel(&net, false, true)?;
    let named = |name: &str| Some(name.to_owned());
    for (filter, expected) in [
        (TapFilter { name: named("gw"), ..ALL }, 4),
        (TapFilter { name: named("gw/net"), snaplen: 40, ..ALL }, 4),
        (TapFilter { outer: false, ..ALL }, 2),
        (TapFilter { inner: false, snaplen: 7, ..ALL }, 2),
        (TapFilter { name: named("g"), ..ALL }, 0),
        (TapFilter { name: named("gw/other"), ..ALL }, 0),
    ] {
        let mut reader = a.plane.tap(&filter)?;
        let other = a.plane.tap(&ALL);
        ensure!(matches!(other, Err(adit_net::Error::InUse(_))), "{other:?}");
        answered(&net.ping(A, false, &["-c", "1", "-W", "5"])?)?;
        let mut all = shown(&mut reader, expected)?;
        more(&mut reader, Duration::from_millis(20), &mut all)?;
        ensure!(all.len() == expected, "{filter:?}: {all:?}");
        for one in all {
            ensure!(one.octets.len() == one.len.min(filter.snaplen), "{filter:?}: {one:?}");
            ensure!(if one.layer == Layer::Inner { filter.inner } else { filter.outer }, "{one:?}");
        }
    }
    // The data plane does not wait for one who does not read, and says how much that one has missed.
    let mut reader = a.plane.tap(&ALL)?;
    let chatter = |plane: &Plane| CHATTER.map(|cause| plane.drops(cause)).iter().sum::<u64>();
    let before = (a.carried(1).context("the SA")?, chatter(&a));
    treatment::exchange(&net, A, false, 30_000_000)?;
    let mut all = 0;
    while reader.read(Duration::from_millis(100), |_| all += 1)? > 0 {}
    let after = (a.carried(1).context("the SA")?, chatter(&a));
    let [inner, outer] = reader.lost();
    ensure!(inner > 0 && outer > 0, "nothing is missing: {all}");
    let ((sent, received), chatter) = (after.0, after.1 - before.1);
    let carried = (sent - before.0.0) + (received - before.0.1);
    ensure!(
        all + inner + outer == 2 * carried + chatter,
        "{all} + {inner} + {outer} of 2 * {carried} + {chatter}"
    );
    drop(a);
    ensure!(matches!(reader.read(Duration::ZERO, |_| ()), Err(adit_net::Error::Stopped)), "it goes on");
    Ok(())
}
