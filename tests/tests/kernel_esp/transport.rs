//! Transport mode: the gateway itself talks to the kernel. Whatever the kernel is asked it repeats, octet for octet: what
//! comes back has been right in both directions.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use super::*;

pub(super) fn the_gateways_talk_to_each_other(scene: &mut Scene<'_>) -> Result<()> {
    let mut policies = vec![networks_policy()?];
    for family in FAMILIES {
        let id = policy_of(true, family);
        policies.push(PolicySpec::new(id, "hosts", host(Side::A, family)?, host(Side::B, family)?));
    }
    scene.plane.set_policies(policies)?;
    scene.forget()?;
    let result = every_suite(scene);
    // Nobody protects the gateways in the parts that follow.
    scene.plane.set_policies(vec![networks_policy()?])?;
    result
}

fn every_suite(scene: &mut Scene<'_>) -> Result<()> {
    let server = scene.lab.dir().join("repeat.py");
    std::fs::write(&server, REPEAT)?;
    scene.guest.run(&format!(
        "python3 {} </dev/null >/mnt/repeat 2>&1 &\n\
         for i in $(seq 200); do grep -q ready /mnt/repeat && exit 0; sleep 0.05; done; cat /mnt/repeat; exit 1",
        server.display()
    ))?;
    // What comes out of the tunnel; the device has no link-layer header.
    let mut device = End::open(scene.lab, Node::GatewayA, "adit0", 0)?;
    for suite in &suites::SUITES {
        for (outer, encap, esn) in [
            (Family::V4, false, true),
            (Family::V4, true, false),
            (Family::V6, false, false),
            (Family::V6, true, true),
        ] {
            let sas = Sas { suite, transport: true, outer, encap, esn, ..Sas::usual() };
            let id = scene.install(sas)?;
            let asked = echoes(scene, sas, &mut device).with_context(|| sas.to_string())?;
            let count = asked + answers(scene, sas).with_context(|| sas.to_string())?;
            let counters = scene.counters(id, count)?;
            let each = (counters.packets_in, counters.packets_out);
            ensure!(each == (count, count), "{sas}: {each:?} of {count} packets counted");
            if suite.name == Sas::usual().suite.name {
                tcp(scene, sas).with_context(|| format!("TCP over {sas}"))?;
            }
        }
    }
    Ok(())
}

/// Echo requests (RFC 792, RFC 4443 4.1) of every residue of a cipher's block, random ones, and the longest that fit.
fn echoes(scene: &mut Scene<'_>, sas: Sas<'_>, device: &mut End) -> Result<u64> {
    let [near, far]: [IpAddr; 2] = [Side::A.outer(sas.outer).parse()?, Side::B.outer(sas.outer).parse()?];
    let (protocol, request, reply, header) =
        if sas.outer == Family::V4 { (1, 8, 0, 20) } else { (58, 128, 129, 40) };
    let most = scene.mtu - header - 8;
    // Linux takes ESP in UDP over IPv6 for too short if it has less than 40 octets (`xfrm6_udp_encap_rcv`).
    let least = if sas.outer == Family::V6 && sas.encap { 7 } else { 0 };
    let mut sizes: Vec<usize> = (least..least + 16).collect();
    sizes.extend((0..5).map(|_| least + scene.noise.below(most - least)));
    sizes.extend(most - 2..=most);
    scene.noise.shuffle(&mut sizes);
    while device.link.read(Duration::ZERO, |_| {})? > 0 {}
    let mut expected = Vec::new();
    for (number, size) in sizes.into_iter().enumerate() {
        let mut echo = vec![request, 0, 0, 0, 0x77, 0x77, 0, number as u8];
        echo.extend(scene.noise.octets(size));
        device.send(&ip_packet(
            near,
            far,
            protocol,
            [1, 0],
            number as u32,
            &with_icmp_checksum(near, far, echo.clone()),
        ))?;
        echo[0] = reply;
        expected.push(with_icmp_checksum(far, near, echo));
    }
    let is_reply = if sas.outer == Family::V4 { is_echo_reply_v4 } else { is_echo_reply_v6 };
    let caught = device.catch(expected.len(), is_reply)?;
    for (packet, expected) in caught.iter().zip(&expected) {
        ensure!(packet[header..] == *expected, "expected {}\ncaught   {}", hex(expected), hex(packet));
        let flow = adit_wire::ip::flow(packet).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        ensure!((flow.source, flow.destination) == (far, near), "{}", hex(packet));
        // What its own header is made of has come through one router.
        ensure!(packet[if header == 20 { 8 } else { 7 }] == 63, "{}", hex(packet));
        ensure!(with_checksum(packet.clone()) == *packet, "{}", hex(packet));
    }
    ensure!(caught.len() == expected.len(), "{} of {} echoes", caught.len(), expected.len());
    Ok(expected.len() as u64)
}

/// The kernel asks, and whoever has the gateway's address answers. Returns how many there were.
fn answers(scene: &mut Scene<'_>, sas: Sas<'_>) -> Result<u64> {
    const SIZES: [&str; 3] = ["8", "57", "1300"];
    for size in SIZES {
        let said =
            scene.guest.run(&format!("ping -n -c 1 -W 10 -s {size} {} || true", Side::A.outer(sas.outer)))?;
        ensure!(said.contains(" 0% packet loss") && !said.contains("wrong data"), "{said}");
    }
    for end in &mut scene.between {
        let clear = end.catch(0, is_echo)?;
        ensure!(clear.is_empty(), "{} echoes in the clear", clear.len());
    }
    Ok(SIZES.len() as u64)
}

/// A request or a reply of either family.
fn is_echo(packet: &[u8]) -> bool {
    match packet.first().map(|first| first >> 4) {
        Some(4) => packet.get(9) == Some(&1) && matches!(packet.get(20), Some(0 | 8)),
        Some(6) => packet.get(6) == Some(&58) && matches!(packet.get(40), Some(128 | 129)),
        _ => false,
    }
}

fn is_echo_reply_v4(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4 && packet[9] == 1 && packet[20] == 0
}

fn is_echo_reply_v6(packet: &[u8]) -> bool {
    packet[0] >> 4 == 6 && packet[6] == 58 && packet[40] == 129
}

/// ICMPv6 covers a pseudo-header, too (RFC 4443 2.3).
fn with_icmp_checksum(source: IpAddr, destination: IpAddr, mut message: Vec<u8>) -> Vec<u8> {
    let sum = match (source, destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let len = (message.len() as u32).to_be_bytes();
            checksum(&[&source.octets()[..], &destination.octets(), &len, &[0, 0, 0, 58], &message].concat())
        }
        _ => checksum(&message),
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// A connection to the kernel that returns what it is given.
fn tcp(scene: &mut Scene<'_>, sas: Sas<'_>) -> Result<()> {
    let text = scene.noise.octets(1 << 20);
    let to = SocketAddr::new(Side::B.outer(sas.outer).parse()?, 7);
    let mut stream = scene.lab.inside(Node::GatewayA, || TcpStream::connect_timeout(&to, PATIENCE))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&text)?;
    stream.shutdown(Shutdown::Write)?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    ensure!(back == text, "{} octets came back for {}, or others", back.len(), text.len());
    Ok(())
}

/// The echo service (RFC 862) of both families, which answers once all is there.
const REPEAT: &str = "
import socket
server = socket.create_server(('::', 7), family=socket.AF_INET6, dualstack_ipv6=True)
print('ready', flush=True)
while True:
    connection, _ = server.accept()
    text = b''
    while more := connection.recv(65536):
        text += more
    connection.sendall(text)
    connection.close()
";
