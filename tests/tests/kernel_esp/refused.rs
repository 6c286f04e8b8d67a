//! What must not arrive, at either end: damaged, repeated, of nobody's SA, or of addresses that the SA is not for. Each is
//! counted for what it is, and the SA goes on.

use super::numbers::Held;
use super::*;

pub(super) fn what_is_damaged_or_repeated_is_counted_and_dropped(scene: &mut Scene<'_>) -> Result<()> {
    for name in ["aes256gcm16", "chacha20poly1305", "aes256-sha256", "null-sha384"] {
        let suite = suites::SUITES.iter().find(|suite| suite.name == name).context("a suite")?;
        for (outer, encap) in
            [(Family::V4, false), (Family::V4, true), (Family::V6, false), (Family::V6, true)]
        {
            let sas = Sas { suite, outer, encap, ..Sas::usual() };
            let id = scene.install(sas)?;
            by_the_kernel(scene, sas).with_context(|| format!("{sas}: by the kernel"))?;
            by_adit(scene, sas, id).with_context(|| format!("{sas}: by Adit"))?;
        }
    }
    Ok(())
}

/// Packets made of good ones, none of which is good.
struct Bad {
    /// The ICV or what it protects is not what was sealed.
    changed: Vec<Vec<u8>>,
    unknown_spi: Vec<u8>,
}

impl Bad {
    fn of(sas: Sas<'_>, from: Side, good: &[u8]) -> Result<Self> {
        let header = if sas.outer == Family::V4 { 20 } else { 40 } + if sas.encap { 8 } else { 0 };
        let esp = good.get(header..).context("an ESP packet")?;
        let with_bit = |at: usize| -> Result<Vec<u8>> {
            let mut esp = esp.to_vec();
            *esp.get_mut(at).context("an octet of it")? ^= 0x10;
            outer_packet(sas, from, &esp)
        };
        // A sequence number further on, within the window; IV or payload; the last octet of payload and of ICV.
        let mut changed = vec![
            with_bit(7)?,
            with_bit(8)?,
            with_bit(30)?,
            with_bit(esp.len() - 33)?,
            with_bit(esp.len() - 1)?,
        ];
        // Whole blocks of it cut off at the end.
        changed.push(outer_packet(sas, from, &esp[..esp.len() - 16])?);
        Ok(Self { changed, unknown_spi: with_bit(1)? })
    }

    fn throw(&self, scene: &Scene<'_>) -> Result<()> {
        for packet in self.changed.iter().chain([&self.unknown_spi]) {
            scene.between[0].send(packet)?;
        }
        Ok(())
    }
}

fn by_the_kernel(scene: &mut Scene<'_>, sas: Sas<'_>) -> Result<()> {
    const COUNTERS: [&str; 3] = ["XfrmInStateProtoError", "XfrmInStateSeqError", "XfrmInNoStates"];
    let held = Held::new(scene, Side::A, 4)?;
    let before = scene.kernel_counts(COUNTERS)?;
    held.pass(scene, &[0])?;
    let bad = Bad::of(sas, Side::A, &held.outer[1])?;
    bad.throw(scene)?;
    // The one that was abused is still good.
    held.stay_out(scene, &[0], 1)?;
    held.stay_out(scene, &[1, 0, 1], 2)?;
    held.pass(scene, &[3])?;
    let after = scene.kernel_counts(COUNTERS)?;
    let more: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    ensure!(more == [bad.changed.len() as u64, 4, 1], "{COUNTERS:?}: {more:?}");
    Ok(())
}

fn by_adit(scene: &mut Scene<'_>, sas: Sas<'_>, id: ChildId) -> Result<()> {
    // Another host behind the kernel, which the kernel lets into the SA, and its selectors do not.
    let (own, peer) = (Side::B.outer(sas.outer), Side::A.outer(sas.outer));
    scene.guest.ip(&format!(
        "xfrm policy add src 10.99.0.0/24 dst 10.1.0.0/24 dir out tmpl src {own} dst {peer} proto esp reqid 1 mode tunnel"
    ))?;
    let foreign = ip_packet(
        IpAddr::from([10, 99, 0, 77]),
        endpoint(Side::A, Family::V4)?,
        PROTOCOL,
        [0, 0],
        1,
        b"foreign",
    );
    scene.ends[1].send(&foreign)?;
    use adit_esp::Drop::{Authentication, Malformed, Replayed, Selector};
    let deadline = Instant::now() + PATIENCE;
    while !scene.plane.counters(id).context("counters")?.drops.contains(&(Selector, 1)) {
        ensure!(Instant::now() < deadline, "what is not for the SA has not come to its end");
    }
    let held = Held::new(scene, Side::B, 4)?;
    let unknown = scene.drops(DropCause::UnknownSpi);
    held.pass(scene, &[0])?;
    let bad = Bad::of(sas, Side::B, &held.outer[1])?;
    bad.throw(scene)?;
    held.stay_out(scene, &[0], 1)?;
    held.stay_out(scene, &[1, 0, 1], 2)?;
    held.pass(scene, &[3])?;
    let counters = scene.plane.counters(id).context("counters")?;
    let drops: Vec<_> = counters.drops.into_iter().filter(|(_, count)| *count > 0).collect();
    let count = |cause| drops.iter().find(|(c, _)| *c == cause).map_or(0, |(_, count)| *count);
    // What was cut may be no whole number of blocks any more, or too short.
    let changed = count(Authentication) + count(Malformed);
    let seen = (changed, count(Replayed), count(Selector), drops.iter().map(|(_, count)| count).sum::<u64>());
    let expected = bad.changed.len() as u64;
    ensure!(seen == (expected, 4, 1, expected + 5), "{drops:?}");
    ensure!(count(Authentication) >= 5, "{drops:?}");
    let unknown = scene.drops(DropCause::UnknownSpi) - unknown;
    ensure!(unknown == 1, "{unknown} packets of an unknown SPI");
    Ok(())
}
