//! Packets that mean nothing (RFC 4303 2.6): the kernel takes them for what they are, and goes on.

use std::collections::BTreeSet;

use super::numbers::small;
use super::*;

pub(super) fn they_are_dropped_in_silence(scene: &mut Scene<'_>) -> Result<()> {
    for (transport, encap) in [(false, false), (false, true), (true, false), (true, true)] {
        let sas = Sas { transport, encap, ..Sas::usual() };
        // What Linux counts of packets whose next header says that there is nothing, and of others that are not as they should be.
        let names = ["XfrmInStateProtoError", "XfrmInStateSeqError", "XfrmInStateModeError", "XfrmInError"];
        let before = scene.kernel_counts(names)?;
        scene.forget()?;
        let dummies = Some(Duration::from_millis(20));
        let (id, _) = scene.install_treated(sas, Treatment { dummies, ..Treatment::default() })?;
        let caught = scene.between[0].catch(30, is_esp)?;
        let lens: BTreeSet<usize> = caught.iter().map(Vec::len).collect();
        ensure!(caught.len() >= 30, "{sas}: {}", caught.len());
        ensure!(lens.len() > 10 && lens.last() <= Some(&1500), "{sas}: {lens:?}");
        if !transport {
            // What means something passes among them.
            for _ in 0..5 {
                let (from_a, from_b) = (small(Side::A, &mut scene.noise)?, small(Side::B, &mut scene.noise)?);
                let expected = [vec![forwarded(&from_a)], vec![forwarded(&from_b)]];
                scene.exchange([&[from_a], &[from_b]], [&expected[0], &expected[1]])?;
                scene.between[0].catch(3, is_esp)?;
            }
        }
        let counters = scene.plane.counters(id).context("SA")?;
        ensure!(counters.packets_out == if transport { 0 } else { 5 }, "{sas}: {counters:?}");
        let after = scene.kernel_counts(names)?;
        let [dropped, others @ ..] = [0, 1, 2, 3].map(|at| after[at] - before[at]);
        ensure!(dropped >= 30 && others == [0; 3], "{sas}: {dropped} dummies, and {others:?}");
        for end in &mut scene.ends {
            ensure!(end.catch(0, is_ours)?.is_empty(), "{sas}");
        }
        // Nothing more of this SA.
        scene.plane.remove(id);
        scene.silence()?;
    }
    Ok(())
}
