//! A real Linux kernel in place of one gateway: User Mode Linux, a kernel that is a process, with the kernel's own ESP.
//!
//! Owns the kernel's start, its network cards and its commands. Its root is the machine's own file system, read-only,
//! so that it has the machine's programs and needs no image. It takes over the addresses of a gateway's namespace:
//! its cards read and write at packet level what reaches that namespace's links.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::lab::{FAMILIES, Family, Lab, Node, Side, need};
use crate::process::{Signal, eventually, read_lossy, run_unchecked, tail};

/// The longest that one command may take; a kernel that is a process is slow, and shares the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running kernel. Dropping it ends it.
#[derive(Debug)]
pub struct Guest {
    kernel: std::process::Child,
    commands: ChildStdin,
    lines: Receiver<String>,
    dir: PathBuf,
    count: usize,
}

impl Guest {
    /// Boots a kernel that is the gateway of `side`: `wan0` and `lan0` with that gateway's addresses, forwarding, the
    /// modules of ESP loaded, no SA and no policy. The gateway's own namespace is from now on a mere wire.
    pub fn start(lab: &Lab, side: Side) -> Result<Self> {
        let linux = need("linux.uml", "user-mode-linux")?;
        need("modprobe", "kmod")?;
        let node = side.gateway();
        for link in ["wan0", "lan0"] {
            // Whoever has no address answers nothing, and leaves all to the card of the guest.
            lab.run(node, "ip", &["addr", "flush", "dev", link])?;
            lab.run(node, "sysctl", &["-qw", &format!("net.ipv6.conf.{link}.disable_ipv6=1")])?;
        }
        // Its neighbours have met the namespace's own cards.
        lab.run(Node::Net, "ip", &["neigh", "flush", "dev", side.router_interface()])?;
        lab.run(side.host_node(), "ip", &["neigh", "flush", "dev", "lan0"])?;
        let dir = lab.dir().join("guest");
        std::fs::create_dir(&dir)?;
        let init = dir.join("init");
        std::fs::write(&init, init_script(side))?;
        std::fs::set_permissions(&init, PermissionsExt::from_mode(0o755))?;
        let console = std::fs::File::create(lab.dir().join("guest.log"))?;
        let mut command = lab.command(node, linux);
        command.env_clear().env("HOME", &dir).env("TMPDIR", &dir).env("PATH", std::env::var("PATH")?);
        command.args(["mem=128M", "quiet", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"]);
        command.args([format!("uml_dir={}/", dir.display()), format!("init={}", init.display())]);
        for (card, link) in ["wan0", "lan0"].into_iter().enumerate() {
            command.arg(format!(
                "vec{card}:transport=raw,ifname={link},depth=64,gro=0,mac=02:00:00:00:00:0{card}"
            ));
        }
        // What the kernel says goes to the log, commands and their answers through the second console.
        command.args(["con=null", "con0=null,fd:2", "con1=fd:0,fd:1"]);
        let mut kernel = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(console)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let commands = kernel.stdin.take().context("standard input")?;
        let output = BufReader::new(kernel.stdout.take().context("standard output")?);
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // Nobody listens any more: the guest is being dropped.
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut guest = Self { kernel, commands, lines, dir, count: 0 };
        guest
            .answer("ready")
            .and_then(|said| {
                ensure!(said.is_empty(), "its init said {said:?}");
                Ok(())
            })
            .with_context(|| {
                format!(
                    "the guest kernel does not come up; its console:\n{}",
                    tail(&read_lossy(&lab.dir().join("guest.log")), 30)
                )
            })?;
        for family in FAMILIES {
            // Neighbours know each other, so that no first packet waits and is overtaken.
            let inside = gateway_inside(side, family);
            for (node, to) in [(Node::Net, side.outer(family)), (side.host_node(), inside.as_str())] {
                eventually("the guest to answer", PATIENCE, || {
                    let mut ping = lab.command(node, "ping");
                    Ok(run_unchecked(ping.args(["-n", "-c", "1", "-W", "1", to]))?
                        .status
                        .success()
                        .then_some(()))
                })?;
            }
        }
        Ok(guest)
    }

    /// Runs a shell script in the guest; fails with what it said unless it ends with 0.
    pub fn run(&mut self, script: &str) -> Result<String> {
        let (status, said) = self.run_unchecked(script)?;
        ensure!(status == "0", "in the guest ended with {status}:\n{script}\nsaid:\n{said}");
        Ok(said)
    }

    /// Gives `ip` a batch of commands in the guest, one a line.
    pub fn ip(&mut self, batch: &str) -> Result<String> {
        self.run(&format!("exec ip -batch - <<'END'\n{batch}\nEND\n"))
    }

    /// Runs a shell script in the guest to its end, whatever that is: its exit status and what it said.
    pub fn run_unchecked(&mut self, script: &str) -> Result<(String, String)> {
        self.count += 1;
        // The guest sees the file as soon as it is there: its root is the machine's.
        let file = self.dir.join(format!("{}.sh", self.count));
        std::fs::write(&file, script)?;
        writeln!(self.commands, "{}", file.display())?;
        self.commands.flush()?;
        let mut said = self.answer(&format!("status {} ", file.display()))?;
        let status = said.pop().context("no exit status")?;
        Ok((status, said.join("\n")))
    }

    /// The lines up to the one that starts with `mark`, of which the rest comes last unless it is empty.
    fn answer(&mut self, mark: &str) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let start = Instant::now();
        loop {
            match self.lines.recv_timeout(Duration::from_secs(1)) {
                Ok(line) => match line.trim_end().strip_prefix(mark) {
                    Some("") => return Ok(lines),
                    Some(rest) => {
                        lines.push(rest.to_owned());
                        return Ok(lines);
                    }
                    None => lines.push(line.trim_end().to_owned()),
                },
                Err(RecvTimeoutError::Disconnected) => bail!("the guest kernel has ended; it said {lines:?}"),
                Err(RecvTimeoutError::Timeout) if start.elapsed() > PATIENCE => {
                    bail!("no answer in {PATIENCE:?}; so far: {lines:?}")
                }
                // The console of a busy machine sometimes misses that there is something to read, until there is more.
                Err(RecvTimeoutError::Timeout) => {
                    writeln!(self.commands)?;
                    self.commands.flush()?;
                }
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It has no disk that could be left in disorder. Its helper processes end with it.
        let pid = i32::try_from(self.kernel.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        let _ = self.kernel.wait();
    }
}

/// The gateway's address in its private network: .1 or ::1.
fn gateway_inside(side: Side, family: Family) -> String {
    let (network, _) = side.network(family).split_once('/').unwrap_or_default();
    format!("{}1", network.strip_suffix('0').unwrap_or(network))
}

/// PID 1: mounts what programs need, loads what ESP needs, makes the network, and runs the scripts that it is told of.
fn init_script(side: Side) -> String {
    let mut addresses = String::new();
    for family in FAMILIES {
        let outer = side.outer(family);
        // The router is .1 or ::1 of the outer network.
        let inside = gateway_inside(side, family);
        let (_, width) = side.network(family).split_once('/').unwrap_or_default();
        let outer_width = if family == Family::V4 { 24 } else { 64 };
        let router = format!("{}1", outer.trim_end_matches('2'));
        let nodad = if family == Family::V6 { "nodad" } else { "" };
        addresses.push_str(&format!(
            "addr add {outer}/{outer_width} dev wan0 {nodad}\naddr add {inside}/{width} dev lan0 {nodad}\n\
             route add default via {router}\n"
        ));
    }
    format!(
        r#"#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec </dev/tty1 >/dev/tty1 2>&1
stty raw -echo
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t tmpfs run /run && mount -t tmpfs tmp /mnt
mkdir -p /run/lib/modules && ln -s /usr/lib/uml/modules/$(uname -r) /run/lib/modules/
for module in esp4 esp6 xfrm_user drbg seqiv echainiv gcm ctr ghash-generic authenc authencesn cbc hmac sha512_generic \
    chacha20poly1305 chacha_generic poly1305_generic; do
  modprobe -d /run $module
done
# All there is to load is loaded; without it each new suite would search for more.
echo >/proc/sys/kernel/modprobe
for family in all default; do
  echo 0 >/proc/sys/net/ipv4/conf/$family/rp_filter
  echo 0 >/proc/sys/net/ipv4/conf/$family/send_redirects
  echo 0 >/proc/sys/net/ipv6/conf/$family/accept_dad
  echo 0 >/proc/sys/net/ipv6/conf/$family/accept_ra
  echo 1 >/proc/sys/net/ipv6/conf/$family/forwarding
done
echo 1 >/proc/sys/net/ipv4/ip_forward
ip -batch - <<END
link set lo up
link set vec0 name wan0
link set vec1 name lan0
link set wan0 up
link set lan0 up
{addresses}
END
# These cards' driver garbles the super-packets of forwarded TCP.
for card in wan0 lan0; do ethtool -K $card gro off >/dev/null; done
echo ready
while read -r script; do
  [ -n "$script" ] || continue
  sh $script </dev/null
  echo "status $script $?"
done
"#
    )
}
