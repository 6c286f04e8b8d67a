//! The first command of the README, as a newcomer runs it.

use adit_lab::adit::program;
use adit_lab::manual::block;
use adit_lab::process::run;
use anyhow::{Result, ensure};
use std::process::Command;

#[test]
fn the_demonstration_shows_a_tunnel_and_leaves_nothing_behind() -> Result<()> {
    let before = foreign_namespaces()?;
    let shown = run(Command::new(program()?).arg("demo"))?;
    // What the observer between the gateways found, all three times none.
    for found in ["packets not between", "packets that show 10.1.0.10", "packets that show the message"] {
        let line = shown.lines().find(|line| line.contains(found));
        ensure!(line.is_some_and(|line| line.trim_end().ends_with(": 0")), "{found}: {line:?} in\n{shown}");
    }
    let drawing = block("text", "network")?.body;
    ensure!(shown.contains(&drawing), "no {drawing:?} in\n{shown}");
    for part in ["Gbit/s", "up net", "swanctl.conf"] {
        ensure!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    let after = foreign_namespaces()?;
    ensure!(before == after, "namespaces before: {before:?}, after: {after:?}");
    Ok(())
}

/// Named namespaces that no laboratory has made: those come and go while this test runs.
fn foreign_namespaces() -> Result<Vec<String>> {
    let list = run(Command::new("ip").args(["netns", "list"]))?;
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    Ok(names.filter(|name| !name.starts_with("aditlab-")).map(str::to_owned).collect())
}
