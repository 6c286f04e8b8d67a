//! Sequence numbers: how wide the windows are, and where the numbers of 32 bits end.

use adit_esp::OutboundSa;

use super::*;

/// Held on the router, to be delivered in any order and as often as one likes.
pub(super) struct Held {
    from: Side,
    /// ESP packets, as their gateway sent them.
    pub(super) outer: Vec<Vec<u8>>,
    /// What was in each, as the far host is to see it.
    inner: Vec<Vec<u8>>,
}

impl Held {
    /// Lets the host of `from` send so many packets, and takes them off the wire between the gateways.
    pub(super) fn new(scene: &mut Scene<'_>, from: Side, count: usize) -> Result<Self> {
        scene.forget()?;
        scene.lab.nft(
            Node::Net,
            "table inet hold { chain c { type filter hook forward priority 0; drop;\n}\n}\n",
        )?;
        let mut held = Self { from, outer: Vec::new(), inner: Vec::new() };
        // No more at a time than the kernel's card holds.
        while held.inner.len() < count {
            let chunk = (count - held.inner.len()).min(CHUNK);
            for _ in 0..chunk {
                let packet = small(from, &mut scene.noise)?;
                scene.ends[from as usize].send(&packet)?;
                held.inner.push(forwarded(&packet));
            }
            let caught = scene.between[from as usize].catch(chunk, is_esp)?;
            ensure!(caught.len() == chunk, "{} of {chunk} packets left {from:?}", caught.len());
            held.outer.extend(caught);
        }
        scene.lab.nft(Node::Net, "delete table inet hold\n")?;
        Ok(held)
    }

    /// Delivers these, each of which has to arrive.
    pub(super) fn pass(&self, scene: &mut Scene<'_>, which: &[usize]) -> Result<()> {
        for chunk in which.chunks(CHUNK) {
            self.throw(scene, chunk)?;
            let expected: Vec<_> = chunk.iter().map(|&index| self.inner[index].clone()).collect();
            scene.ends[self.from.other() as usize].expect(&expected, is_ours)?;
        }
        Ok(())
    }

    /// Delivers these, of which none may arrive: the next that does has to be `last`.
    pub(super) fn stay_out(&self, scene: &mut Scene<'_>, which: &[usize], last: usize) -> Result<()> {
        for chunk in which.chunks(CHUNK) {
            let receiver = self.from.other();
            let refused = scene.refused(receiver)? + chunk.len() as u64;
            self.throw(scene, chunk)?;
            let deadline = Instant::now() + PATIENCE;
            while scene.refused(receiver)? < refused {
                ensure!(Instant::now() < deadline, "not all of {} were refused", chunk.len());
            }
        }
        self.pass(scene, &[last])
    }

    fn throw(&self, scene: &Scene<'_>, which: &[usize]) -> Result<()> {
        for &index in which {
            scene.between[0].send(&self.outer[index])?;
        }
        Ok(())
    }
}

/// Few enough that no buffer of a socket overflows.
const CHUNK: usize = 64;

pub(super) fn small(from: Side, noise: &mut Noise) -> Result<Vec<u8>> {
    let number = noise.below(1 << 30) as u32;
    let payload = noise.octets(20);
    Inner { family: Family::V4, from, number, traffic_class: 0, dont_fragment: false, payload }.octets()
}

pub(super) fn windows_are_as_wide_as_they_say(scene: &mut Scene<'_>) -> Result<()> {
    for (window, esn) in [(32, false), (64, true), (128, false), (512, true), (1024, false), (4096, true)] {
        let sas = Sas { window, esn, ..Sas::usual() };
        let id = scene.install(sas)?;
        for from in SIDES {
            window_of(scene, from, window as usize, esn).with_context(|| format!("{sas} from {from:?}"))?;
        }
        let drops = scene.plane.counters(id).context("counters")?.drops;
        let count = |cause| drops.iter().find(|(c, _)| *c == cause).map_or(0, |(_, count)| *count);
        // RFC 4303 A2.2: with extended numbers, what is too old is taken for what is to come, and its ICV says no.
        let too_old = if esn { adit_esp::Drop::Authentication } else { adit_esp::Drop::TooOld };
        let seen = (count(adit_esp::Drop::Replayed), count(too_old));
        ensure!(seen == (u64::from(window), 2), "{sas}: {drops:?}");
    }
    Ok(())
}

fn window_of(scene: &mut Scene<'_>, from: Side, window: usize, esn: bool) -> Result<()> {
    const COUNTERS: [&str; 2] = ["XfrmInStateSeqError", "XfrmInStateProtoError"];
    // Packet 0 is one too far behind the one with index `window`; the last one is for the end.
    let held = Held::new(scene, from, window + 2)?;
    let before = scene.kernel_counts(COUNTERS)?;
    held.pass(scene, &[window])?;
    let mut inside: Vec<usize> = (1..window).collect();
    scene.noise.shuffle(&mut inside);
    inside.retain(|&index| index != 1);
    held.pass(scene, &[1]).context("the oldest that the window has room for")?;
    held.throw(scene, &[0])?;
    held.pass(scene, &inside)?;
    let mut again: Vec<usize> = (0..=window).collect();
    scene.noise.shuffle(&mut again);
    held.stay_out(scene, &again, window + 1).context("a second time")?;
    if from == Side::A {
        let refused = scene.kernel_counts(COUNTERS)?;
        let refused = [refused[0] - before[0], refused[1] - before[1]];
        let expected = if esn { [window as u64, 2] } else { [window as u64 + 2, 0] };
        ensure!(refused == expected, "the kernel has refused {refused:?}, not {expected:?}");
    }
    Ok(())
}

pub(super) fn extended_numbers_pass_the_edge(scene: &mut Scene<'_>) -> Result<()> {
    for (name, window) in
        [("aes128gcm16", 64), ("chacha20poly1305", 512), ("aes128-sha256", 128), ("null-sha512", 32)]
    {
        let suite = suites::SUITES.iter().find(|suite| suite.name == name).context("a suite")?;
        // A receiver that has seen nothing takes what is up to a window below 2^32 for what is before the first.
        let sas =
            Sas { suite, esn: true, window, kernel_sent: (1 << 32) - 2 * u64::from(window), ..Sas::usual() };
        from_the_kernel(scene, sas).with_context(|| format!("{sas}: from the kernel"))?;
        to_the_kernel(scene, sas).with_context(|| format!("{sas}: to the kernel"))?;
    }
    the_last_number(scene)
}

/// Up to half a window before 2^32 in order, then a whole window around it in any order, none of it twice.
fn from_the_kernel(scene: &mut Scene<'_>, sas: Sas<'_>) -> Result<()> {
    let id = scene.install(sas)?;
    let window = sas.window as usize;
    let before = Held::new(scene, Side::B, 3 * window / 2)?;
    before.pass(scene, &(0..3 * window / 2).collect::<Vec<_>>())?;
    let around = Held::new(scene, Side::B, window + 1)?;
    let mut order: Vec<usize> = (0..window).collect();
    scene.noise.shuffle(&mut order);
    around.pass(scene, &order)?;
    around.stay_out(scene, &order, window)?;
    let after = Held::new(scene, Side::B, 10)?;
    after.pass(scene, &(0..10).collect::<Vec<_>>())?;
    let drops = scene.plane.counters(id).context("counters")?.drops;
    let count: u64 = drops.iter().map(|(_, count)| count).sum();
    ensure!(count == u64::from(sas.window), "{drops:?}");
    Ok(())
}

/// The data plane cannot be told to begin elsewhere than with 1; the machine below it can.
fn to_the_kernel(scene: &mut Scene<'_>, sas: Sas<'_>) -> Result<()> {
    let half = scene.install_halves(sas)?.1;
    let mut sa = OutboundSa::resume(half.parameters(sas)?, sas.kernel_sent)?;
    let window = sas.window as usize;
    let mut held = Held { from: Side::A, outer: Vec::new(), inner: Vec::new() };
    for _ in 0..3 * window {
        let mut packet = small(Side::A, &mut scene.noise)?;
        held.inner.push(forwarded(&packet));
        // As if gateway A had forwarded it.
        packet[8] -= 1;
        let mut esp = Vec::new();
        sa.seal(&with_checksum(packet), &mut esp)?;
        held.outer.push(outer_packet(sas, Side::A, &esp)?);
    }
    let refused = scene.kernel_count("XfrmInStateSeqError")?;
    held.pass(scene, &(0..3 * window / 2).collect::<Vec<_>>())?;
    let mut order: Vec<usize> = (3 * window / 2..5 * window / 2).collect();
    scene.noise.shuffle(&mut order);
    held.pass(scene, &order)?;
    held.stay_out(scene, &order, 5 * window / 2)?;
    held.pass(scene, &(5 * window / 2 + 1..3 * window).collect::<Vec<_>>())?;
    let refused = scene.kernel_count("XfrmInStateSeqError")? - refused;
    ensure!(refused == u64::from(sas.window), "the kernel has refused {refused}");
    Ok(())
}

/// Without extended numbers 2^32 - 1 is the last (RFC 4303 3.3.3): it arrives, and the kernel sends no more.
fn the_last_number(scene: &mut Scene<'_>) -> Result<()> {
    let sas = Sas { kernel_sent: u64::from(u32::MAX) - 3, ..Sas::usual() };
    scene.install(sas)?;
    let last = Held::new(scene, Side::B, 3)?;
    last.pass(scene, &[0, 1, 2])?;
    let refused = scene.kernel_count("XfrmOutStateSeqError")?;
    let packet = small(Side::B, &mut scene.noise)?;
    scene.ends[1].send(&packet)?;
    let deadline = Instant::now() + PATIENCE;
    while scene.kernel_count("XfrmOutStateSeqError")? == refused {
        ensure!(Instant::now() < deadline, "the kernel goes on");
    }
    Ok(())
}
