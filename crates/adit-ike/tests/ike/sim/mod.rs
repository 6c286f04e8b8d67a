//! A deterministic simulator (standards 5.9): two gateways over a link that loses, repeats, delays and reorders each
//! message; all orders, and all orders with one fault, one after the other; pairs of faults as many as there is time
//! for.
//!
//! `cargo test -p adit-ike --test ike sim:: -- --show-output` prints how many schedules each test ran.
//! `ADIT_SIM=100000` runs all of them, up to so many per scenario and number of faults. A failing schedule is shown
//! as a message chart, with the setting of `ADIT_SIM_REPLAY` that repeats it.

mod attacks;
mod chart;
mod choices;
mod collisions;
mod plane;
mod world;

use std::time::Duration;

use choices::Choices;
use world::{Command, Nonces, World};

use crate::pair::{Side, sides};

/// Schedules of one scenario with no, one and two faults.
const SHORT: [usize; 3] = [300, 400, 150];

/// What happens, and what must come of it.
struct Scenario {
    name: String,
    sides: fn() -> (Side, Side),
    /// What each end is told to do, at any time before, between and after the messages.
    commands: [Vec<Command>; 2],
    nonces: Option<[Nonces; 2]>,
    esp_latency: Duration,
    /// Which end has to lose where both rekey at once, if the nonces are chosen so that one does.
    loses: Option<usize>,
    /// How the tunnel came up before.
    before: Option<Command>,
    /// No packet may be lost.
    lossless: bool,
    /// How many there are afterwards, if the order of events does not decide that.
    ike_sas: Option<usize>,
    children: Option<usize>,
    /// The most faults of one schedule.
    faults: usize,
}

impl Scenario {
    /// One tunnel with one child, which nothing may disturb.
    fn new(name: impl Into<String>, a: &[Command], b: &[Command]) -> Self {
        Self {
            name: name.into(),
            sides: quick_sides,
            commands: [a.to_vec(), b.to_vec()],
            nonces: None,
            esp_latency: Duration::from_millis(3),
            loses: None,
            before: Some(Command::Up),
            lossless: true,
            ike_sas: Some(1),
            children: Some(1),
            faults: 2,
        }
    }

    /// So many Child SAs are left.
    fn children(mut self, children: impl Into<Option<usize>>) -> Self {
        self.children = children.into();
        self
    }

    /// The child may go, or go and come back.
    fn lossy(mut self, ike_sas: impl Into<Option<usize>>, children: impl Into<Option<usize>>) -> Self {
        self.lossless = false;
        self.ike_sas = ike_sas.into();
        self.children = children.into();
        self
    }

    fn run(&self, faults: usize, choices: Choices, chart: bool) -> World {
        let mut world = World::new((self.sides)(), choices, chart);
        if let Some(command) = self.before {
            world.establish(command);
        }
        let commands = self.commands.each_ref().map(Vec::as_slice);
        world.explore(commands, faults, self.nonces, self.esp_latency, self.lossless);
        let anew = commands.concat().contains(&Command::Reauthenticate);
        for (command, ike) in [(Command::RekeyChild("net"), false), (Command::RekeyIke, true)] {
            let agreed =
                |c: &world::Creation| c.agreed.is_some() && (c.ike || c.rekeys.is_some()) && c.ike == ike;
            if self.lossless
                && !anew
                && commands.concat().contains(&command)
                && !world.creations.values().any(agreed)
            {
                world.bad(format!("{command:?} does nothing"));
            }
        }
        world.check(self.ike_sas, self.children, self.loses);
        world.tear_down();
        world
    }

    /// Runs the schedules with so many faults.
    fn explore(&self, faults: usize) -> Result<Tally, String> {
        let limit = std::env::var("ADIT_SIM").ok().and_then(|n| n.parse().ok()).unwrap_or(SHORT[faults]);
        let mut tally = Tally::default();
        let mut next = Some(Choices::given(Vec::new()));
        while let Some(choices) = next {
            if tally.schedules == limit {
                // Those so far differ in what comes last; these in everything.
                for seed in 0..limit {
                    self.attempt(faults, Choices::random(seed as u64), &mut tally)?;
                }
                return Ok(tally);
            }
            next = self.attempt(faults, choices, &mut tally)?.next();
        }
        tally.all = true;
        Ok(tally)
    }

    fn attempt(&self, faults: usize, choices: Choices, tally: &mut Tally) -> Result<Choices, String> {
        let world = self.run(faults, choices, false);
        tally.schedules += 1;
        tally.collisions += usize::from(world.collided > 0);
        match world.wrong {
            None => Ok(world.choices),
            Some(_) => Err(self.failure(faults, world.choices.taken())),
        }
    }

    fn failure(&self, faults: usize, choices: Vec<usize>) -> String {
        let list = choices.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let world = self.run(faults, Choices::given(choices), true);
        let why = world.wrong.as_deref().unwrap_or("nothing, this time");
        let name = &self.name;
        format!("{name}: {why}\nADIT_SIM_REPLAY='{name}/{faults}/{list}'\n{}\n", world.chart.text())
    }

    /// The schedule that `ADIT_SIM_REPLAY` names, if it is one of this scenario.
    fn replay(&self) -> Option<String> {
        let wanted = std::env::var("ADIT_SIM_REPLAY").ok()?;
        let (faults, list) = wanted.strip_prefix(&self.name)?.strip_prefix('/')?.split_once('/')?;
        let choices = list.split(',').filter_map(|choice| choice.parse().ok()).collect();
        Some(self.failure(faults.parse().ok()?, choices))
    }
}

/// What was run.
#[derive(Default)]
struct Tally {
    schedules: usize,
    /// Those in which both ends made a successor of the same SA.
    collisions: usize,
    /// Are there no others?
    all: bool,
}

/// Runs scenarios, all of them even if one fails.
fn run(scenarios: Vec<Scenario>) {
    let mut failures = Vec::new();
    for scenario in scenarios {
        if let Some(chart) = scenario.replay() {
            println!("{chart}");
            continue;
        }
        for faults in 0..=scenario.faults {
            match scenario.explore(faults) {
                Ok(Tally { schedules, collisions, all }) => {
                    let all = if all { "all there are" } else { "a sample" };
                    let name = &scenario.name;
                    println!(
                        "{name}: {schedules} schedules with {faults} faults ({all}), {collisions} collisions"
                    );
                    if scenario.loses.is_some() {
                        assert!(collisions > 0, "{name}: the SAs never collide");
                    }
                }
                Err(failure) => {
                    failures.push(failure);
                    break;
                }
            }
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// The usual tunnel, with everything that takes time made quick.
fn quick_sides() -> (Side, Side) {
    let (mut a, mut b) = sides();
    for side in [&mut a, &mut b] {
        side.settings.drain = Duration::from_millis(300);
        side.settings.half_open_timeout = Duration::from_secs(8);
        side.settings.followup_timeout = Duration::from_secs(2);
        let retransmission = &mut side.connection().retransmission;
        retransmission.first = Duration::from_millis(100);
        retransmission.most = Duration::from_millis(400);
        retransmission.give_up = Duration::from_secs(6);
    }
    (a, b)
}
