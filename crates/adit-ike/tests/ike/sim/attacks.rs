//! Rekeying while somebody on the path repeats old messages, changes them, and forges Deletes.

use std::time::Duration;

use super::choices::Choices;
use super::quick_sides;
use super::world::{Command, World};

/// A thousand and more rekeyings of a child, begun by both sides at any time, in ten schedules.
#[test]
fn adversarial_63_rekeying_under_attack() {
    let rekeys = [Command::RekeyChild("net"); 300];
    let mut rekeyed = 0;
    for seed in 0..10 {
        let mut world = World::new(quick_sides(), Choices::random(seed), false);
        world.attacker = Some(seed + 1);
        world.establish(Command::Up);
        world.explore([&rekeys, &rekeys], 0, None, Duration::from_millis(5), true);
        world.check(Some(1), Some(1), None);
        rekeyed += world.creations.values().filter(|c| c.agreed.is_some()).count();
        world.tear_down();
        assert_eq!(world.wrong, None, "seed {seed}");
    }
    println!("{rekeyed} rekeyings");
    assert!(rekeyed >= 1000, "{rekeyed}");
}
