//! strongSwan as a gateway, Debian's or the newest: its own daemon, its own userspace ESP, its own `swanctl`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::lab::{Lab, Side, need};
use crate::peer::{CHILD, CONNECTION, Connection, IkeSa, Peer, Rekey, raw_events, sas_from_json};
use crate::process::{Process, Signal, eventually, read_lossy, run, run_unchecked};

/// Which strongSwan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Release {
    /// Debian 12's 5.9.8, as installed: in userspace it carries ESP in UDP only, and it knows no ML-KEM.
    #[default]
    Debian,
    /// The newest of Debian's suites, in a directory of its own that `./test setup` makes.
    Newest,
}

/// What differs between charons.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which strongSwan.
    pub release: Release,
    /// More lines for the `charon` section of strongswan.conf.
    pub charon: String,
    /// More lines for its `plugins.kernel-libipsec` section.
    pub libipsec: String,
    /// More sections of strongswan.conf; they win over the others.
    pub more: String,
}

impl Options {
    /// The given release, otherwise as usual.
    pub fn of(release: Release) -> Self {
        Self { release, ..Self::default() }
    }
}

/// A running charon.
#[derive(Debug)]
pub struct StrongSwan {
    side: Side,
    namespace: String,
    dir: PathBuf,
    log: PathBuf,
    programs: Programs,
    process: Process,
}

/// How its programs are run, and where they see the directory that is theirs.
#[derive(Clone, Debug)]
enum Programs {
    /// Copies in the directory: Debian's AppArmor profiles know the programs by their paths and would keep them out.
    Copied(PathBuf),
    /// In a root of their own, where the directory is `/lab`.
    Rooted { root: PathBuf, dir: PathBuf },
}

impl Programs {
    fn new(release: Release, dir: &Path) -> Result<Self> {
        Ok(match release {
            Release::Debian => {
                copy_of("charon-systemd", "charon-systemd", dir)?;
                copy_of("swanctl", "strongswan-swanctl", dir)?;
                Self::Copied(dir.to_owned())
            }
            Release::Newest => Self::Rooted { root: newest()?, dir: dir.to_owned() },
        })
    }

    /// The directory as the programs see it.
    fn dir(&self) -> &Path {
        match self {
            Self::Copied(dir) => dir,
            Self::Rooted { .. } => Path::new("/lab"),
        }
    }

    /// A command in a namespace; `ip netns exec` gives it mounts of its own.
    fn command(&self, namespace: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]);
        match self {
            Self::Copied(dir) => command.arg(dir.join(program)),
            Self::Rooted { root, dir } => command
                .args(["sh", "-ec", ENTER_ROOT, "sh"])
                .args([root, dir])
                .arg(Path::new("/usr/sbin").join(program)),
        };
        command.env("STRONGSWAN_CONF", self.dir().join("strongswan.conf")).env("SWANCTL_DIR", self.dir());
        command
    }
}

const ENTER_ROOT: &str = "root=$1 lab=$2; shift 2; mount --rbind /dev \"$root/dev\"; mount -t proc proc \"$root/proc\"; \
     mount --bind \"$lab\" \"$root/lab\"; exec chroot \"$root\" \"$@\"";

impl StrongSwan {
    /// Starts Debian's charon in the gateway's namespace and loads the connection.
    pub fn start(lab: &Lab, side: Side, connection: &Connection) -> Result<Self> {
        Self::start_with(lab, side, connection, &Options::default())
    }

    /// Starts a charon with options of its own.
    pub fn start_with(lab: &Lab, side: Side, connection: &Connection, options: &Options) -> Result<Self> {
        let dir = lab.dir().join(format!("strongswan-{side}"));
        for part in ["x509", "x509ca", "private"] {
            std::fs::create_dir_all(dir.join(part))?;
        }
        let programs = Programs::new(options.release, &dir)?;
        std::fs::write(dir.join("strongswan.conf"), settings(programs.dir(), options))?;
        std::fs::write(dir.join("swanctl.conf"), format!("{}\n", connection.render()))?;
        // Inside the lab's directory for whoever reads the logs of a failed test.
        let log = lab.dir().join(format!("strongswan-{side}.log"));
        std::fs::File::options().create(true).append(true).open(&log)?;
        if !dir.join("charon.log").exists() {
            std::fs::hard_link(&log, dir.join("charon.log"))?;
        }
        let namespace = lab.namespace(side.gateway());
        let mut command = programs.command(&namespace, "charon-systemd");
        let process = Process::spawn(&format!("charon-{side}"), &mut command, &dir)?;
        let peer = Self { side, namespace, dir, log, programs, process };
        eventually("charon's control socket", Duration::from_secs(20), || {
            Ok(run_unchecked(&mut peer.swanctl_command(&["--version", "--daemon"]))?
                .status
                .success()
                .then_some(()))
        })?;
        peer.swanctl(&["--load-all", "--noprompt"])?;
        Ok(peer)
    }

    /// Replaces the connection.
    pub fn reload(&self, connection: &Connection) -> Result<()> {
        std::fs::write(self.dir.join("swanctl.conf"), connection.render())?;
        self.swanctl(&["--load-all", "--noprompt"]).map(drop)
    }

    /// Runs `swanctl` against this charon, to its successful end.
    pub fn swanctl(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.swanctl_command(arguments))
    }

    /// `swanctl` for this charon, to be run.
    pub fn swanctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.programs.command(&self.namespace, "swanctl");
        let socket = self.programs.dir().join("charon.vici");
        command.args(arguments).args(["--uri", &format!("unix://{}", socket.display())]);
        command
    }

    /// The daemon's process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Ends the daemon at once.
    pub fn kill(mut self) -> Result<()> {
        self.process.stop(Signal::KILL).map(drop)
    }
}

impl Peer for StrongSwan {
    fn side(&self) -> Side {
        self.side
    }

    fn initiate(&self) -> Result<String> {
        self.swanctl(&["--initiate", "--ike", CONNECTION, "--child", CHILD, "--timeout", "30"])
    }

    fn terminate_child(&self) -> Result<String> {
        self.swanctl(&["--terminate", "--child", CHILD, "--timeout", "20"])
    }

    fn terminate(&self) -> Result<String> {
        self.swanctl(&["--terminate", "--ike", CONNECTION, "--timeout", "20"])
    }

    fn rekey(&self, what: Rekey) -> Result<()> {
        self.swanctl(&what.arguments()).map(drop)
    }

    fn sas(&self) -> Result<Vec<IkeSa>> {
        sas_from_json(&Value::Array(raw_events(&self.swanctl(&["--list-sas", "--raw"])?)?))
    }

    fn log(&self) -> String {
        read_lossy(&self.log)
    }
}

/// A private copy of an installed program.
pub fn copy_of(program: &str, package: &str, dir: &Path) -> Result<PathBuf> {
    let installed = need(program, package)?;
    let copy = dir.join(program);
    // By another process: while this one had the copy open for writing, a child that it starts just then would inherit that,
    // and nobody could run the copy ("text file busy").
    run(Command::new("cp").arg(&installed).arg(&copy))?;
    Ok(copy)
}

/// The root directory of the newest strongSwan: `ADIT_LAB_STRONGSWAN`, or `target/strongswan`.
pub fn newest() -> Result<PathBuf> {
    let root = match std::env::var_os("ADIT_LAB_STRONGSWAN") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/strongswan"),
    };
    ensure!(
        root.join("usr/sbin/charon-systemd").exists() && root.join("lab").exists(),
        "no strongSwan in {}: run `./test setup`, which unpacks it, or set ADIT_LAB_STRONGSWAN",
        root.display()
    );
    Ok(root)
}

fn settings(dir: &Path, options: &Options) -> String {
    format!(
        "charon {{
  load_modular = no
  load = random nonce aesni aes sha1 sha2 hmac openssl gcm chapoly curve25519 gmp kdf drbg pem pkcs1 x509 pubkey \
         constraints revocation kernel-libipsec kernel-netlink socket-default vici updown counters
  retransmit_timeout = 1.0
  retransmit_tries = 4
  dos_protection = no
  {}
  filelog {{
    main {{
      path = {}
      time_format = %H:%M:%S
      time_add_ms = yes
      flush_line = yes
      default = 1
      cfg = 2
      knl = 2
      ike = 2
      chd = 2
    }}
  }}
  plugins {{
    vici {{
      socket = unix://{}
    }}
    kernel-libipsec {{
      load = yes
      {}
    }}
  }}
}}
{}
",
        options.charon,
        dir.join("charon.log").display(),
        dir.join("charon.vici").display(),
        options.libipsec,
        options.more
    )
}
