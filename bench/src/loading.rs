//! What it takes to load a connection over the control socket, and to give it up, beside many others.

use std::time::{Duration, Instant};

use adit::config::ControlUri;
use adit::control::client::Client;
use adit::control::vici::Message;
use adit_lab::adit::{Adit, Settings};
use adit_lab::lab::{Family, Side, Topology, with_lab};
use adit_lab::process::tell;
use anyhow::{Result, ensure};

use crate::gateways::own_address;
use crate::idle::initiators;
use crate::quantile;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Beside how many connections, from few to many.
    #[arg(long, value_delimiter = ',', default_value = "1,1000,9999")]
    levels: Vec<usize>,
    /// How often one more is loaded and given up at each of them.
    #[arg(long, default_value_t = 50)]
    tries: usize,
    /// Load them from a file instead, and start and reload the daemon with it.
    #[arg(long)]
    file: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    with_lab("loading", Topology::default(), |lab| {
        if options.file {
            return from_file(options, lab);
        }
        let daemon = Adit::start_bare(lab, Side::B)?;
        let uri: ControlUri = daemon.control().parse()?;
        let mut client = Client::connect(&uri)?;
        client.set_timeout(Some(Duration::from_secs(60)))?;
        tell("\nMilliseconds, median and most\n");
        tell(
            "| connections | | `load-conn` | again | `unload-conn` | `load-shared` | `unload-shared` | filled in |",
        );
        tell("|---|---|---|---|---|---|---|---|");
        let mut loaded = 0;
        for level in &options.levels {
            let begun = Instant::now();
            while loaded < *level {
                timed(&mut client, "load-shared", shared(loaded))?;
                timed(&mut client, "load-conn", connection(loaded)?)?;
                loaded += 1;
            }
            let filled = begun.elapsed().as_secs_f64();
            for alone in [true, false] {
                let mut times: [Vec<f64>; 5] = Default::default();
                for _ in 0..if alone { options.tries.min(5) } else { options.tries } {
                    let more = 10_001;
                    let named = |key: &str, value: String| {
                        let mut message = Message::new();
                        message.put(key, value);
                        message
                    };
                    let steps = [
                        ("load-conn", connection(more)?),
                        ("load-conn", connection(more)?),
                        ("unload-conn", named("name", format!("gw{more}"))),
                        ("load-shared", shared(more)),
                        ("unload-shared", named("id", format!("ike{more}"))),
                    ];
                    for (times, (command, arguments)) in times.iter_mut().zip(steps) {
                        if alone {
                            // Whatever was put in force is forgotten.
                            std::thread::sleep(Duration::from_millis(100 + *level as u64 / 5));
                        }
                        times.push(timed(&mut client, command, arguments)?);
                    }
                }
                let cells: Vec<String> = times
                    .iter_mut()
                    .map(|times| {
                        format!("{:.2} ({:.2})", quantile(times, 0.5) * 1e3, quantile(times, 1.0) * 1e3)
                    })
                    .collect();
                let how = if alone { "alone" } else { "in a row" };
                tell(&format!("| {level} | {how} | {} | {filled:.1} s |", cells.join(" | ")));
            }
        }
        Ok(())
    })
}

/// Seconds until a command is answered with success.
fn timed(client: &mut Client, command: &str, arguments: Message) -> Result<f64> {
    let begun = Instant::now();
    let answer = client.request(command, arguments)?;
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(answer.flag("success"), "{command}: {:?}", answer.text("errmsg"));
    Ok(seconds)
}

/// The connection of one tunnel, as `swanctl` sends it.
fn connection(number: usize) -> Result<Message> {
    let section = |entries: &[(&str, &str)]| {
        let mut message = Message::new();
        for (key, value) in entries {
            message.put(key, value);
        }
        message
    };
    let mut connection = section(&[("proposals", crate::gateways::CLASSICAL), ("mobike", "no")]);
    connection.put_list("local_addrs", [Side::B.outer(Family::V4)]);
    connection.put_list("remote_addrs", [Side::A.outer(Family::V4)]);
    connection.put_section("local-1", section(&[("auth", "psk"), ("id", Side::B.id())]));
    let id = format!("c{number}.bench.example");
    connection.put_section("remote-1", section(&[("auth", "psk"), ("id", &id)]));
    let mut net = Message::new();
    net.put_list("local_ts", ["10.2.0.0/24"]);
    net.put_list("remote_ts", [format!("{}/32", own_address(number))]);
    let (mut children, mut message) = (Message::new(), Message::new());
    children.put_section("net", net);
    connection.put_section("children", children);
    message.put_section(&format!("gw{number}"), connection);
    Ok(message)
}

fn shared(number: usize) -> Message {
    let mut message = Message::new();
    message.put("id", format!("ike{number}")).put("type", "IKE").put("data", format!("secret of {number}"));
    message.put_list("owners", [format!("c{number}.bench.example")]);
    message
}

/// Start and reload with a file of so many.
fn from_file(options: &Options, lab: &adit_lab::lab::Lab) -> Result<()> {
    tell(
        "\nSeconds\n\n| connections in the file | until the daemon answers | reload of the same | reload with one changed |",
    );
    tell("|---|---|---|---|");
    let settings = Settings::default();
    for level in &options.levels {
        let text = initiators(*level, 0).replace("start_action = start", "start_action = none");
        let begun = Instant::now();
        let daemon = Adit::start_text(lab, Side::A, &text, &settings)?;
        let started = begun.elapsed().as_secs_f64();
        let uri: ControlUri = daemon.control().parse()?;
        let mut client = Client::connect(&uri)?;
        let same = timed(&mut client, "reload", Message::new())?;
        let changed = std::fs::read_to_string(daemon.config())?.replacen("encap = yes", "encap = no", 1);
        std::fs::write(daemon.config(), changed)?;
        let other = timed(&mut client, "reload", Message::new())?;
        tell(&format!("| {level} | {started:.2} | {same:.2} | {other:.2} |"));
        daemon.terminate_daemon()?;
    }
    Ok(())
}
