//! What outer headers take from inner ones and give back: ECN (RFC 6040), DSCP and DF (RFC 4301 5.1.2.1).

use super::*;

/// The ECN field that a packet leaves a tunnel with, by its own, and by the outer one: Not-ECT, ECT(1), ECT(0), CE.
/// `None`: it is dropped.
type Decapsulation = [[Option<u8>; 4]; 4];

/// RFC 6040 4.2, Figure 4.
const RFC_6040: Decapsulation = [
    [Some(0), Some(0), Some(0), None],
    [Some(1), Some(1), Some(1), Some(3)],
    [Some(2), Some(1), Some(2), Some(3)],
    [Some(3), Some(3), Some(3), Some(3)],
];

/// Linux keeps to RFC 4301 5.1.2.1: CE is set if both ends of the transport know it, and else nothing changes.
const LINUX: Decapsulation = [
    [Some(0), Some(0), Some(0), Some(0)],
    [Some(1), Some(1), Some(1), Some(3)],
    [Some(2), Some(2), Some(2), Some(3)],
    [Some(3), Some(3), Some(3), Some(3)],
];

const CODEPOINTS: [&str; 4] = ["not-ect", "ect1", "ect0", "ce"];

/// Best effort, expedited forwarding, and all six bits.
const CLASSES: [u8; 3] = [0, 46, 63];

pub(super) fn congestion_and_classes_pass_the_tunnel(scene: &mut Scene<'_>) -> Result<()> {
    for (outer, encap) in [(Family::V4, false), (Family::V4, true), (Family::V6, false), (Family::V6, true)] {
        let sas = Sas { outer, encap, ..Sas::usual() };
        scene.install(sas)?;
        for (mark, name) in CODEPOINTS.iter().enumerate() {
            // A router that marks what it forwards.
            scene.lab.nft(
                Node::Net,
                &format!(
                    "table inet marks {{ chain c {{ type filter hook forward priority 0; ip ecn set {name}; ip6 ecn set {name};\n}}\n}}\n"
                ),
            )?;
            for inner in FAMILIES {
                marked(scene, inner, mark)
                    .with_context(|| format!("{sas}, inner {inner:?}, outer {name}"))?;
            }
            scene.lab.nft(Node::Net, "delete table inet marks\n")?;
        }
    }
    Ok(())
}

/// Every inner codepoint in every class, both ways, through a router that sets the outer one to `mark`.
fn marked(scene: &mut Scene<'_>, family: Family, mark: usize) -> Result<()> {
    scene.forget()?;
    let mut sent = [Vec::new(), Vec::new()];
    let mut expected = [Vec::new(), Vec::new()];
    let mut outer = [Vec::new(), Vec::new()];
    for (side, from) in SIDES.into_iter().enumerate() {
        for dscp in CLASSES {
            for ecn in 0..4_u8 {
                let number = scene.noise.below(1 << 30) as u32;
                let payload = scene.noise.octets(50);
                let traffic_class = dscp << 2 | ecn;
                let mut inner = Inner { family, from, number, traffic_class, dont_fragment: false, payload };
                sent[side].push(inner.octets()?);
                let table = if from == Side::A { LINUX } else { RFC_6040 };
                if let Some(ecn) = table[usize::from(ecn)][mark] {
                    inner.traffic_class = dscp << 2 | ecn;
                    expected[side].push(forwarded(&inner.octets()?));
                }
                // RFC 6040 4.1 copies it. Linux keeps to RFC 3168 9.1.1: of CE the outer header starts again with ECT(0).
                let ecn = if from == Side::B && ecn == 3 { 2 } else { ecn };
                outer[side].push(dscp << 2 | ecn);
            }
        }
    }
    let [a, b] = &sent;
    scene.exchange([a, b], [&expected[0], &expected[1]])?;
    for ((end, outer), from) in scene.between.iter_mut().zip(&outer).zip(SIDES) {
        let caught = end.catch(outer.len(), is_esp)?;
        let classes: Vec<u8> = caught.iter().map(|packet| traffic_class(packet)).collect();
        ensure!(classes == *outer, "outer headers from {from:?} have {classes:?}, not {outer:?}");
    }
    Ok(())
}

fn traffic_class(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 4 { packet[1] } else { packet[0] << 4 | packet[1] >> 4 }
}

pub(super) fn the_dont_fragment_bit_is_copied(scene: &mut Scene<'_>) -> Result<()> {
    for encap in [false, true] {
        let sas = Sas { encap, ..Sas::usual() };
        scene.install(sas)?;
        scene.forget()?;
        // No router may fragment IPv6 (RFC 8200 5): whatever carries it says so.
        for (family, dont_fragment, outer) in
            [(Family::V4, true, true), (Family::V4, false, false), (Family::V6, true, true)]
        {
            let mut sent = [Vec::new(), Vec::new()];
            for (packets, from) in sent.iter_mut().zip(SIDES) {
                let number = scene.noise.below(1 << 30) as u32;
                let payload = scene.noise.octets(100);
                packets
                    .push(Inner { family, from, number, traffic_class: 0, dont_fragment, payload }.octets()?);
            }
            let [a, b] = &sent;
            scene.exchange([a, b], [&[forwarded(&a[0])], &[forwarded(&b[0])]])?;
            for (end, from) in scene.between.iter_mut().zip(SIDES) {
                for packet in end.catch(1, is_esp)? {
                    let set = packet[6] & 0x40 != 0;
                    ensure!(
                        set == outer,
                        "{sas} from {from:?}: DF {set} outside, inside {family:?} {dont_fragment}"
                    );
                }
            }
        }
    }
    Ok(())
}
