//! Debian's strongSwan as a gateway: its own daemon, its own userspace ESP, its own `swanctl`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::lab::{Lab, Side, need};
use crate::peer::{CHILD, CONNECTION, Connection, IkeSa, Peer, raw_events, sas_from_json};
use crate::process::{Process, eventually, read_lossy, run, run_unchecked};

/// A running charon.
#[derive(Debug)]
pub struct StrongSwan {
    side: Side,
    dir: PathBuf,
    swanctl: PathBuf,
    _process: Process,
}

impl StrongSwan {
    /// Starts charon in the gateway's namespace and loads the connection.
    pub fn start(lab: &Lab, side: Side, connection: &Connection) -> Result<Self> {
        let dir = lab.dir().join(format!("strongswan-{side}"));
        for part in ["x509", "x509ca", "private"] {
            std::fs::create_dir_all(dir.join(part))?;
        }
        // Debian's AppArmor profiles know the programs by their paths and would keep them out of our directory.
        let charon = copy_of("charon-systemd", "charon-systemd", &dir)?;
        let swanctl = copy_of("swanctl", "strongswan-swanctl", &dir)?;
        std::fs::write(dir.join("strongswan.conf"), settings(&dir, &log_path(lab, side)))?;
        std::fs::write(dir.join("swanctl.conf"), format!("{}\n", connection.render()))?;
        let mut command = lab.command(side.gateway(), &charon);
        command.env("STRONGSWAN_CONF", dir.join("strongswan.conf"));
        let process = Process::spawn(&format!("charon-{side}"), &mut command, &dir)?;
        let peer = Self { side, dir, swanctl, _process: process };
        eventually("charon's control socket", Duration::from_secs(20), || {
            Ok(run_unchecked(&mut peer.swanctl_command(&["--version"]))?.status.success().then_some(()))
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

    fn swanctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.swanctl);
        command
            .env("SWANCTL_DIR", &self.dir)
            .env("STRONGSWAN_CONF", self.dir.join("strongswan.conf"))
            .args(arguments)
            .args(["--uri", &format!("unix://{}", self.dir.join("charon.vici").display())]);
        command
    }

    fn log_path(&self) -> PathBuf {
        // The directory is inside the lab's.
        self.dir.with_extension("log")
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

    fn sas(&self) -> Result<Vec<IkeSa>> {
        sas_from_json(&Value::Array(raw_events(&self.swanctl(&["--list-sas", "--raw"])?)?))
    }

    fn log(&self) -> String {
        read_lossy(&self.log_path())
    }
}

/// A private copy of an installed program.
pub fn copy_of(program: &str, package: &str, dir: &Path) -> Result<PathBuf> {
    let installed = need(program, package)?;
    let copy = dir.join(program);
    std::fs::copy(&installed, &copy)?;
    ensure!(copy.exists(), "no copy of {}", installed.display());
    Ok(copy)
}

fn log_path(lab: &Lab, side: Side) -> PathBuf {
    lab.dir().join(format!("strongswan-{side}.log"))
}

fn settings(dir: &Path, log: &Path) -> String {
    format!(
        "charon {{
  load_modular = no
  load = random nonce aesni aes sha1 sha2 hmac openssl gcm chapoly curve25519 gmp kdf drbg pem pkcs1 x509 pubkey \
         constraints revocation kernel-libipsec kernel-netlink socket-default vici updown counters
  retransmit_timeout = 1.0
  retransmit_tries = 4
  dos_protection = no
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
    }}
  }}
}}
",
        log.display(),
        dir.join("charon.vici").display()
    )
}
