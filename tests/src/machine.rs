//! A Debian machine with systemd, in the network of a gateway: as a newcomer has it before Adit is there.
//!
//! Owns its start, commands in it, and its end. The root directory (`./test setup` makes it) is never changed: what is written
//! goes into memory, and is gone with the machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use rustix::process::{Pid, kill_process};

use crate::lab::{Lab, Node, need};
use crate::process::{Process, Signal, eventually, run, run_unchecked};

/// A machine that is up.
#[derive(Debug)]
pub struct Machine {
    process: Process,
    /// systemd, as it is numbered outside.
    init: String,
    namespace: String,
}

impl Machine {
    /// Starts one.
    ///
    /// # Errors
    /// There is no such root directory, or systemd does not come up in it.
    pub fn boot(lab: &Lab, node: Node) -> Result<Self> {
        need("systemd-nspawn", "systemd-container")?;
        let (namespace, root) = (lab.namespace(node), root()?);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", BOOT, "sh", &namespace]).arg(&root).arg(lab.dir());
        let name = format!("machine-{}", namespace.rsplit('-').next().unwrap_or_default());
        let mut process = Process::spawn(&name, &mut command, lab.dir())?;
        let init = eventually("systemd", Duration::from_secs(20), || {
            ensure!(!process.ended()?, "{}", process.output());
            let pids = run(Command::new("ip").args(["netns", "pids", &namespace]))?;
            let is_init = |pid: &&str| {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                // Its number inside is the last.
                status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
            };
            Ok(pids.lines().find(is_init).map(str::to_owned))
        })?;
        let machine = Self { process, init, namespace };
        eventually("the machine to be up", Duration::from_secs(40), || {
            let output = run_unchecked(machine.command("systemctl").arg("is-system-running"))?;
            Ok((output.stdout == b"running\n").then_some(()))
        })
        .with_context(|| {
            format!("{:?} {:?}", machine.shell("systemctl --failed"), machine.process.output())
        })?;
        Ok(machine)
    }

    /// A command that will run in it, as root in root's home.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init, "--all", "--wdns=/root", "env", "--ignore-environment"]);
        command.args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", program]);
        command
    }

    /// What a shell in it makes of a line.
    ///
    /// # Errors
    /// It cannot be run at all.
    pub fn try_shell(&self, line: &str) -> Result<Output> {
        run_unchecked(self.command("sh").args(["-ec", line]))
    }

    /// The same, which has to succeed.
    ///
    /// # Errors
    /// It fails, with what it said.
    pub fn shell(&self, line: &str) -> Result<String> {
        run(self.command("sh").args(["-ec", line]))
    }

    /// Where a file of it is, seen from outside.
    pub fn path(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(&self.init).join("root").join(file.trim_start_matches('/'))
    }

    /// Shuts it down.
    ///
    /// # Errors
    /// It does not end.
    pub fn shut_down(mut self) -> Result<()> {
        self.process.stop(Signal::TERM).map(drop)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // There is nobody to tell; what is left over is an empty control group. The machine ends with its first process.
        let init = self.init.parse().ok().and_then(Pid::from_raw);
        let _ = init.map(|init| kill_process(init, Signal::KILL));
        let _ = self.process.wait(Duration::from_secs(5));
        let _ = run(Command::new("unshare").args(["--mount", "sh", "-ec", SWEEP, "sh", &self.namespace]));
    }
}

/// Arguments: the network namespace, the root directory, the lab's directory. An overlay of its own, so that several machines
/// share one root; a control group of its own, so that each systemd has its tree; no trace of either outside.
const BOOT: &str = r#"
mount --make-rprivate /
[ -e /sys/fs/cgroup/cgroup.procs ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$1"
echo $$ >"/sys/fs/cgroup/$1/cgroup.procs"
mkdir -p "$3/$1"
mount -t tmpfs tmpfs "$3/$1"
mkdir "$3/$1/upper" "$3/$1/work" "$3/$1/root"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$3/$1/upper,workdir=$3/$1/work" "$3/$1/root"
export SYSTEMD_NSPAWN_API_VFS_WRITABLE=network
exec systemd-nspawn --quiet --register=no --keep-unit --console=pipe --settings=no --link-journal=no \
    --machine="$(basename "$1" | tr -c 'a-zA-Z0-9\n' -)" --directory="$3/$1/root" --network-namespace-path="/run/netns/$1" \
    --capability=CAP_NET_ADMIN --boot
"#;

const SWEEP: &str = r#"
mount --make-rprivate /
[ -e /sys/fs/cgroup/cgroup.procs ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup
find "/sys/fs/cgroup/$1" -depth -type d -exec rmdir {} ';'
"#;

/// A Debian without anything of ours: `ADIT_LAB_DEBIAN`, or `target/debian`.
fn root() -> Result<PathBuf> {
    let root = match std::env::var_os("ADIT_LAB_DEBIAN") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debian"),
    };
    ensure!(
        root.join(".complete").exists(),
        "no Debian in {}: run `./test setup`, which unpacks it, or set ADIT_LAB_DEBIAN",
        root.display()
    );
    Ok(root.canonicalize()?)
}
