//! The whole engine against a plain model of it: packets of hosts and of peers, good, altered and random, and orders in
//! between, with the same given to both; after each step all that has left the engine is compared, and all that is counted.
//!
//! A game is one engine with its SAs, told by its seed. `ADIT_ENGINE=50000000` plays until so many packets have gone in on
//! each side, `ADIT_ENGINE_SEED` chooses the first game. What fails is played again with fewer and fewer steps, and those
//! that are left are printed with what was compared.

mod keys;
mod memory;
mod model;
mod packet;
mod policies;
mod sites;
mod stream;
mod traffic;
mod world;

use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use adit_esp::Drop;
use world::World;

use crate::counters::DropCause;

/// Steps of a game.
const STEPS: u32 = 1500;

/// What games have had.
#[derive(Clone, Copy, Debug, Default)]
struct Played {
    games: u64,
    from_tun: u64,
    /// Packets that super-packets stood for, too.
    from_tun_cut: u64,
    from_peers: u64,
    sealed: u64,
    delivered: u64,
    orders: u64,
    /// By cause: in all, and by SAs.
    drops: [u64; DropCause::ALL.len()],
    refused: [u64; Drop::ALL.len()],
}

impl AddAssign for Played {
    fn add_assign(&mut self, other: Self) {
        self.games += other.games;
        self.from_tun += other.from_tun;
        self.from_tun_cut += other.from_tun_cut;
        self.from_peers += other.from_peers;
        self.sealed += other.sealed;
        self.delivered += other.delivered;
        self.orders += other.orders;
        self.drops.iter_mut().zip(other.drops).for_each(|(all, more)| *all += more);
        self.refused.iter_mut().zip(other.refused).for_each(|(all, more)| *all += more);
    }
}

/// Plays these steps of a game. What differs is told, and in which step.
fn play(seed: u64, steps: &[u32]) -> Result<Played, (u32, String)> {
    let mut world = World::new(seed);
    for step in steps {
        let played = catch_unwind(AssertUnwindSafe(|| world.step(*step)));
        match played {
            Ok(Ok(())) => {}
            Ok(Err(difference)) => return Err((*step, difference)),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                return Err((*step, format!("panic: {}", text.unwrap_or_default())));
            }
        }
    }
    match (world.compare_drops(), steps.last()) {
        (Err(difference), Some(last)) => Err((*last, difference)),
        _ => Ok(world.played()),
    }
}

/// Leaves steps out as long as the last one still fails.
fn shrink(seed: u64, mut steps: Vec<u32>) -> Vec<u32> {
    let mut run = steps.len() / 2;
    let until = Instant::now() + Duration::from_secs(60);
    while run > 0 && Instant::now() < until {
        let mut from = 0;
        while from + run < steps.len() {
            let fewer: Vec<u32> = [&steps[..from], &steps[from + run..]].concat();
            if play(seed, &fewer).is_err_and(|(step, _)| Some(&step) == fewer.last()) {
                steps = fewer;
            } else {
                from += run;
            }
        }
        run /= 2;
    }
    steps
}

/// Plays a game.
///
/// # Panics
/// With what differs, and how to see it again.
fn game(seed: u64) -> Played {
    let all: Vec<u32> = (0..STEPS).collect();
    play(seed, &all).unwrap_or_else(|(step, difference)| {
        let steps = shrink(seed, (0..=step).collect());
        if let Err((_, difference)) = play(seed, &steps) {
            eprintln!("with these steps alone: {difference}");
        }
        panic!("ADIT_ENGINE_SEED={seed}, step {step}: {difference}\nsteps that it takes: {steps:?}")
    })
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: not a number")))
}

/// The short form: games that are always the same, and one that never is.
#[test]
fn the_engine_does_what_the_model_does() {
    let packets = from_environment("ADIT_ENGINE").unwrap_or(100_000);
    let first = from_environment("ADIT_ENGINE_SEED");
    let mut all = Played::default();
    let begun = Instant::now();
    if first.is_none() {
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) >> 16;
        eprintln!("a game of chance: ADIT_ENGINE_SEED={seed}");
        all += game(seed);
    }
    let mut seed = first.unwrap_or(1);
    while all.from_tun.min(all.from_peers) < packets {
        all += game(seed);
        if all.games % 256 == 0 {
            eprintln!("{} s, next seed {}: {all:?}", begun.elapsed().as_secs(), seed + 1);
        }
        seed += 1;
    }
    eprintln!("{} s, seeds to {}: {all:?}", begun.elapsed().as_secs(), seed - 1);
    // Most of what goes in comes out: games in which nothing passes would show nothing.
    assert!(all.sealed * 3 > all.from_tun && all.delivered * 4 > all.from_peers, "{all:?}");
}
