//! The README and the manual, followed to the letter by somebody who has just installed a Debian: the package, the unit under
//! systemd, and every command in the order of the pages.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use adit_lab::adit::program;
use adit_lab::lab::{Lab, Node, Topology, with_lab};
use adit_lab::machine::Machine;
use adit_lab::manual::{Block, block, blocks};
use adit_lab::process::{eventually, run, run_unchecked, tell};
use anyhow::{Context, Result, ensure};

const SOON: Duration = Duration::from_secs(20);

/// What becomes of a command of the manual that is not simply run on the gateway, to its successful end.
enum How {
    /// It is not run, and this is why.
    Not(&'static str),
    /// It goes on until it is interrupted.
    Interrupted,
    /// It is run by a host behind the gateway.
    Host,
    /// It is run where Wireshark is, with the gateway's files.
    Wireshark,
    /// It serves while the next line is run.
    Serves,
}

/// The only place for exceptions. A line that is not here is run, so a new example has its test by being written.
const LINES: &[(&str, How)] = &[
    ("cargo run --release -- demo", How::Not("demo.rs runs `adit demo`")),
    ("./test", How::Not("this is a part of it")),
    (
        "cargo build --release && sudo install target/release/adit /usr/sbin/",
        How::Not("no compiler on a gateway"),
    ),
    (
        "cargo build --release -p adit",
        How::Not("no compiler on a gateway: the program under test is what it makes"),
    ),
    ("cargo run -p xtask -- deb target/release/adit target", How::Not("`package` calls what it calls")),
    ("adit run", How::Serves),
    ("adit run --control unix:///run/charon.vici", How::Serves),
    ("adit events --follow", How::Interrupted),
    ("ping -c 3 10.2.0.10", How::Host),
    ("adit capture --write tunnel.pcapng --connection branch", How::Interrupted),
    (
        "adit capture | wireshark -k -i -",
        How::Not("needs a display; capture.rs has tshark behind the same pipe"),
    ),
    (
        "ssh gateway adit capture --inner | tshark -r - -Y dns",
        How::Not("needs an account; capture.rs has the pipe"),
    ),
    (
        "tshark -r tunnel.pcapng -Y 'frame.comment contains \"dropped\"' -T fields -e ip.dst -e frame.comment",
        How::Wireshark,
    ),
    ("podman build -t adit -f dist/Containerfile .", How::Not("pulls images from a registry")),
    (
        "podman run --network host --cap-add NET_ADMIN,NET_RAW --device /dev/net/tun -v /etc/adit:/etc/adit:ro adit",
        How::Not("what the line before makes"),
    ),
];

/// The lines of a block that are commands, without what is said behind them.
fn commands(block: &Block) -> impl Iterator<Item = &str> {
    let lines = block.body.lines().map(|line| line.split_once(" #").map_or(line, |(line, _)| line).trim());
    lines.filter(|line| !line.is_empty())
}

fn how(line: &str) -> Option<&'static How> {
    LINES.iter().find(|(known, _)| *known == line).map(|(_, how)| how)
}

/// The package of the program under test, as the manual makes it.
fn package(lab: &Lab) -> Result<std::path::PathBuf> {
    xtask::deb(&program()?, lab.dir())
}

/// A machine with this package where the manual has made it.
fn machine(lab: &Lab, node: Node, package: &Path) -> Result<Machine> {
    let machine = Machine::boot(lab, node)?;
    let target = machine.path("/root/target");
    std::fs::create_dir(&target)?;
    std::fs::copy(package, target.join(package.file_name().context("a name")?))?;
    Ok(machine)
}

/// A gateway, and the host behind it.
struct Site<'l> {
    lab: &'l Lab,
    machine: &'l Machine,
    host: Node,
}

impl Site<'_> {
    /// Runs a line as its reader does, with names in the place of those that stand for any.
    fn follow(&self, line: &str, names: &[(&str, &str)]) -> Result<()> {
        let mut typed = line.to_owned();
        for (any, name) in names {
            typed = typed.replace(any, name);
        }
        let done = match how(line) {
            Some(How::Not(why)) => {
                tell(&format!("not run: {line}: {why}"));
                Ok(())
            }
            Some(How::Host) => run(self.lab.command(self.host, "sh").args(["-ec", &typed])).map(drop),
            Some(How::Wireshark) => {
                run(Command::new("sh").args(["-ec", &typed]).current_dir(self.machine.path("/root")))
                    .map(drop)
            }
            Some(How::Interrupted) => self.interrupted(&typed),
            Some(How::Serves) => self.serves(&typed),
            None => self.machine.shell(&typed).map(drop),
        };
        done.with_context(|| format!("{typed}\n{}", self.journal()))
    }

    /// In the background, until [`Self::no_longer`].
    fn serves(&self, line: &str) -> Result<()> {
        self.machine.shell(&format!("systemd-run --unit=serves {line}"))?;
        eventually(&format!("{line} to serve"), SOON, || {
            let said = self.machine.shell("journalctl --unit=serves --output=cat --no-pager")?;
            Ok(said.contains(" serves unix://").then_some(()))
        })
    }

    fn no_longer(&self) -> Result<()> {
        self.machine.shell("systemctl stop serves").map(drop)
    }

    /// Until it has said or written something, for which there is traffic and a new key, and then Ctrl-C.
    fn interrupted(&self, line: &str) -> Result<()> {
        self.machine.shell(&format!("systemd-run --unit=interrupted --working-directory=/root {line}"))?;
        let seen = "journalctl --quiet --unit=interrupted --identifier=adit --output=cat --no-pager; test -s tunnel.pcapng && echo written";
        eventually(&format!("something of {line}"), SOON, || {
            let _ = run_unchecked(self.lab.command(self.host, "ping").args(["-c1", "-W1", "10.2.0.10"]))?;
            let _ = self.machine.try_shell("adit rekey net || adit rekey lan")?;
            Ok((!self.machine.try_shell(seen)?.stdout.is_empty()).then_some(()))
        })?;
        self.machine.shell("systemctl kill --signal=INT interrupted")?;
        eventually(&format!("the end of {line}"), SOON, || {
            let state = self.machine.try_shell("systemctl is-active interrupted")?.stdout;
            ensure!(state != b"failed\n", "{}", self.journal());
            Ok((state == b"inactive\n").then_some(()))
        })
    }

    fn journal(&self) -> String {
        self.machine.shell("journalctl --no-pager --lines=30 --output=cat").unwrap_or_default()
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.machine.path(file);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(())
    }

    fn is_up(&self) -> Result<()> {
        eventually("exit status 0 of adit status", SOON, || {
            Ok(self.machine.try_shell("adit status")?.status.success().then_some(()))
        })
        .with_context(|| format!("{:?}\n{}", self.machine.try_shell("adit status"), self.journal()))
    }
}

/// The outer network of the manual in the place of the lab's: 192.0.2.1 here, this address there.
fn renumber(lab: &Lab, there: &str) -> Result<()> {
    let sh = |node, script: &str| lab.run(node, "sh", &["-ec", script]).map(drop);
    sh(
        Node::Net,
        "ip addr flush dev a0; ip addr flush dev b0; ip addr add 203.0.113.254/32 dev a0; ip addr add 203.0.113.254/32 dev b0",
    )?;
    for (node, link, address) in [(Node::GatewayA, "a0", "192.0.2.1"), (Node::GatewayB, "b0", there)] {
        sh(Node::Net, &format!("ip route add {address}/32 dev {link}"))?;
        sh(
            node,
            &format!(
                "ip addr flush dev wan0; ip addr add {address}/32 dev wan0; ip route add 203.0.113.254/32 dev wan0; \
                 ip route add default via 203.0.113.254; echo 0 >/proc/sys/net/ipv4/ip_forward"
            ),
        )?;
    }
    Ok(())
}

#[test]
fn the_manual_is_followed_to_the_letter() -> Result<()> {
    with_lab("newcomer", Topology::default(), |lab| {
        renumber(lab, "198.51.100.1")?;
        let package = package(lab)?;
        let office = machine(lab, Node::GatewayA, &package)?;
        let branch = machine(lab, Node::GatewayB, &package)?;
        let sites = [
            Site { lab, machine: &office, host: Node::HostA },
            Site { lab, machine: &branch, host: Node::HostB },
        ];
        let [here, there] = &sites;
        for block in blocks()?.iter().filter(|block| block.page == "docs/quickstart.md") {
            match (block.kind.as_str(), block.name.as_str()) {
                ("conf", "head-office") => here.write("/etc/adit/swanctl.conf", &block.body)?,
                ("conf", "branch") => there.write("/etc/adit/swanctl.conf", &block.body)?,
                ("sh", "") => {
                    for line in commands(block) {
                        if line == "adit status" {
                            sites.iter().try_for_each(Site::is_up)?;
                        }
                        let all = if matches!(how(line), Some(How::Host)) { &sites[..1] } else { &sites };
                        all.iter().try_for_each(|site| site.follow(line, &[]))?;
                    }
                }
                other => anyhow::bail!("what is {other:?} for?"),
            }
        }
        for page in ["docs/troubleshooting.md", "docs/capture.md", "docs/service.md"] {
            follow_page(page, here)?;
        }
        the_package_is_whole(&package, &office)?;
        the_unit_is_what_the_manual_says(here)?;
        office.shell("systemctl stop adit")?;
        follow_page("docs/vici.md", here)?;
        office.shell(
            "swanctl --stats --uri unix:///run/charon.vici && systemctl stop serves && systemctl start adit",
        )?;
        the_secret_can_be_a_credential(here)?;
        sites.iter().try_for_each(Site::is_up)?;
        it_stops_and_goes(here)?;
        office.shut_down()?;
        branch.shut_down()
    })
}

/// The commands of a page, one after the other.
fn follow_page(page: &str, site: &Site<'_>) -> Result<()> {
    for block in blocks()?.iter().filter(|block| block.page == page && block.kind == "sh") {
        commands(block)
            .try_for_each(|line| site.follow(line, &[("NAME", "branch/lan"), ("ADDRESS", "198.51.100.1")]))?;
    }
    Ok(())
}

/// The package itself: nothing that Debian's own checker minds, and all that it is to bring is where it is looked for.
fn the_package_is_whole(package: &Path, machine: &Machine) -> Result<()> {
    let lintian = run(Command::new("lintian").args(["--fail-on=warning,error"]).arg(package))?;
    ensure!(lintian.is_empty(), "{lintian}");
    let counts = machine.shell("adit check /etc/adit/swanctl.conf.example")?;
    ensure!(counts.trim() == "ok: 1 connection, 2 children, 1 secret", "{counts}");
    for line in [
        "man adit.conf | grep -q remote_addrs",
        "man adit-capture | grep -q snaplen",
        ". /usr/share/bash-completion/completions/adit && complete -p adit | grep -q _adit",
        "test -s /usr/share/zsh/vendor-completions/_adit && test -s /usr/share/fish/vendor_completions.d/adit.fish",
        "test -s /usr/share/doc/adit/examples/grafana/adit.json",
        "test -s /usr/share/doc/adit/examples/prometheus/adit.rules.yml",
        "test -s /usr/share/doc/adit/docs/quickstart.md && test -s /usr/share/doc/adit/copyright",
    ] {
        run(machine.command("bash").args(["-ec", line]))?;
    }
    Ok(())
}

/// `docs/service.md`: three capabilities, one device, no new privileges; the watchdog; a reload.
fn the_unit_is_what_the_manual_says(site: &Site<'_>) -> Result<()> {
    let machine = site.machine;
    let unit = "/usr/lib/systemd/system/adit.service";
    machine.shell(&format!("systemd-analyze verify {unit}"))?;
    machine.shell(&format!("systemd-analyze security --offline=true --threshold=30 {unit}"))?;
    let shown =
        machine.shell("systemctl show adit --property=MainPID,NRestarts,Type,WatchdogUSec,StatusText")?;
    let of = |key: &str| {
        let mut lines = shown.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        lines.next().map(str::to_owned).with_context(|| format!("{key} of {shown}"))
    };
    ensure!((of("Type")?, of("WatchdogUSec")?) == ("notify".to_owned(), "30s".to_owned()), "{shown}");
    ensure!(of("NRestarts")? == "0", "{shown}");
    let pid = of("MainPID")?;
    let status = machine.shell(&format!("cat /proc/{pid}/status"))?;
    // Bits 10 (NET_BIND_SERVICE), 12 (NET_ADMIN) and 13 (NET_RAW) of linux/capability.h.
    let capabilities = format!("{:016x}", 1 << 10 | 1 << 12 | 1 << 13);
    for line in ["CapEff", "CapPrm", "CapBnd", "CapAmb"] {
        ensure!(status.contains(&format!("{line}:\t{capabilities}\n")), "{line}: {status}");
    }
    ensure!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{status}");
    let inside = format!("nsenter --target {pid} --mount");
    ensure!(!machine.try_shell(&format!("{inside} touch /etc/adit/x"))?.status.success(), "it can write");
    machine.shell(&format!("{inside} touch /run/adit/x && rm /run/adit/x"))?;
    let modes =
        machine.shell("stat -c '%a %n' /run/adit /run/adit/adit.vici /etc/adit /etc/adit/swanctl.conf*")?;
    let expected = "750 /run/adit\n660 /run/adit/adit.vici\n755 /etc/adit\n600 /etc/adit/swanctl.conf\n600 /etc/adit/swanctl.conf.example\n";
    ensure!(modes == expected, "{modes}");
    // A loop that stands: what systemd would do after 30 seconds, by a shorter watch.
    let drop_in = "mkdir -p /run/systemd/system/adit.service.d; printf '[Service]\\nWatchdogSec=1\\n' >/run/systemd/system/adit.service.d/w.conf";
    machine.shell(&format!("{drop_in}; systemctl daemon-reload; systemctl restart adit"))?;
    let pid = machine.shell("systemctl show adit --property=MainPID --value")?;
    machine.shell(&format!("kill -STOP {}", pid.trim()))?;
    eventually("the watchdog to start it again", SOON, || {
        let now = machine.shell("systemctl show adit --property=NRestarts --value")?;
        Ok((now.trim() != "0").then_some(()))
    })
    .with_context(|| site.journal())?;
    ensure!(site.journal().contains("Watchdog timeout"), "{}", site.journal());
    machine.shell("rm -r /run/systemd/system/adit.service.d; systemctl daemon-reload").map(drop)
}

/// `docs/service.md`: the secret, encrypted, from the drop-in.
fn the_secret_can_be_a_credential(site: &Site<'_>) -> Result<()> {
    let file = std::fs::read_to_string(site.machine.path("/etc/adit/swanctl.conf"))?;
    let (connections, secrets) = file.split_once("secrets {").context("secrets")?;
    let blocks = blocks()?;
    let include = blocks.iter().find(|block| block.page == "docs/service.md" && block.kind == "conf");
    site.write("/etc/adit/swanctl.conf", &format!("{connections}{}", include.context("a conf")?.body))?;
    site.write("/root/secrets.conf", &format!("secrets {{{secrets}"))?;
    site.machine.shell("mkdir -p /etc/systemd/system/adit.service.d")?;
    let drop_in = &block("ini", "")?.body;
    site.write("/etc/systemd/system/adit.service.d/override.conf", drop_in)?;
    for line in [
        "systemd-creds encrypt --name=secrets.conf secrets.conf /etc/adit/secrets.conf.cred",
        "rm secrets.conf",
        "systemctl daemon-reload",
        "systemctl restart adit",
    ] {
        site.machine.shell(line).with_context(|| format!("{line}\n{}", site.journal()))?;
    }
    Ok(())
}

/// Stopped, killed, removed: what is left of it each time.
fn it_stops_and_goes(site: &Site<'_>) -> Result<()> {
    let machine = site.machine;
    let protected = || machine.shell("ip rule; ip route show table all; ip -brief link");
    let running = protected()?;
    machine.shell("systemctl kill --signal=KILL adit; systemctl start adit")?;
    site.is_up()?;
    machine.shell("systemctl stop adit")?;
    let stopped = protected()?;
    ensure!(running.contains("adit0") && !stopped.contains("adit"), "{stopped}");
    let files = "find / -xdev ! -path '/proc/*' ! -path '/sys/*' ! -path '/run/*' ! -path '/tmp/*' ! -path '/var/tmp/*' ! -path '/root/*' \
         ! -path '/var/lib/dpkg/*' ! -path '/var/lib/apt/*' ! -path '/var/cache/*' ! -path '/var/log/*' ! -path '/var/lib/systemd/*'";
    machine.shell("apt-get install --yes --reinstall ./target/adit_*.deb")?;
    let kept = std::fs::read_to_string(machine.path("/etc/adit/swanctl.conf"))?;
    ensure!(kept.contains("include /run/credentials"), "{kept}");
    machine.shell("apt-get remove --yes adit")?;
    ensure!(machine.path("/etc/adit/swanctl.conf").exists(), "a removal is no purge");
    ensure!(!machine.path("/usr/sbin/adit").exists(), "it is still there");
    machine.shell("apt-get purge --yes adit; rm -r /etc/systemd/system/adit.service.d")?;
    let left = machine.shell(&format!("{files} -iname '*adit*' ! -path '/usr/share/zoneinfo/*'"))?;
    ensure!(left.is_empty(), "left over: {left}");
    Ok(())
}

/// From strongSwan, as Debian has it, with a tunnel that is up, to Adit and back.
#[test]
fn a_gateway_migrates_and_goes_back() -> Result<()> {
    with_lab("migrant", Topology::default(), |lab| {
        renumber(lab, "198.51.100.1")?;
        let package = package(lab)?;
        let (office, branch) =
            (machine(lab, Node::GatewayA, &package)?, machine(lab, Node::GatewayB, &package)?);
        let [here, there] = [(&office, Node::HostA), (&branch, Node::HostB)].map(|(machine, host)| Site {
            lab,
            machine,
            host,
        });
        for site in [&here, &there] {
            site.machine
                .shell("sysctl --write net.ipv4.ip_forward=1; apt-get install --yes ./target/adit_*.deb")?;
        }
        there.write("/etc/adit/swanctl.conf", &block("conf", "branch")?.body)?;
        branch.shell("systemctl enable --now adit")?;
        // This kernel may have no ESP.
        here.write("/etc/strongswan.d/charon/kernel-libipsec.conf", "kernel-libipsec {\n load = 10\n}\n")?;
        here.write("/etc/swanctl/swanctl.conf", &block("conf", "head-office")?.body)?;
        let passes = |what: &str| {
            eventually(&format!("traffic through {what}"), SOON, || {
                let ping = run_unchecked(lab.command(Node::HostA, "ping").args(["-c1", "-W1", "10.2.0.10"]))?;
                Ok(ping.status.success().then_some(()))
            })
            .with_context(|| format!("{}\n{}", here.journal(), there.journal()))
        };
        office.shell("systemctl enable --now strongswan")?;
        passes("strongSwan")?;

        let blocks = blocks()?;
        let page: Vec<&Block> = blocks.iter().filter(|block| block.page == "docs/migrating.md").collect();
        let commands: Vec<&str> =
            page.iter().filter(|block| block.kind == "sh").flat_map(|block| commands(block)).collect();
        for line in &commands {
            match *line {
                "adit import /etc/ipsec.conf --output /etc/adit/swanctl.conf" => {
                    here.write("/etc/ipsec.conf", &block("ipsec.conf", "")?.body)?;
                    here.write(
                        "/etc/ipsec.secrets",
                        "@hq.example.com @branch.example.com : PSK \"of the test\"\n",
                    )?;
                    here.follow(line, &[])?;
                    let made = std::fs::read_to_string(office.path("/etc/adit/swanctl.conf"))?;
                    ensure!(page.iter().any(|block| made.starts_with(&block.body)), "{made}");
                    office.shell("adit check /etc/adit/swanctl.conf && rm /etc/adit/swanctl.conf")?;
                }
                "systemctl disable --now strongswan" => {
                    // "can be moved"; with the page's control address.
                    office.shell("mv /etc/swanctl/swanctl.conf /etc/adit/")?;
                    here.follow(line, &[])?;
                }
                "adit status" => here.is_up()?,
                line => here.follow(line, &[])?,
            }
        }
        passes("Adit")?;
        let listed = office.shell("swanctl --list-sas --uri unix:///run/adit/adit.vici")?;
        ensure!(listed.contains("ESTABLISHED"), "{listed}");
        // As it was asked before: by its own settings, and at the old place.
        let asks = |how: &str| -> Result<()> {
            let listed =
                office.shell("swanctl --list-sas").with_context(|| format!("{how}\n{}", here.journal()))?;
            ensure!(listed.contains("ESTABLISHED"), "{how}: {listed}");
            Ok(())
        };
        office.shell("echo 'swanctl { socket = unix:///run/adit/adit.vici }' >>/etc/strongswan.conf")?;
        asks("settings of swanctl")?;
        office
            .shell("sed -i '/^swanctl/d' /etc/strongswan.conf; mkdir /etc/systemd/system/adit.service.d")?;
        here.write("/etc/systemd/system/adit.service.d/run.conf", "[Service]\nReadWritePaths=/run\n")?;
        let control =
            page.iter().find(|block| block.body.contains("control =")).context("a control address")?;
        let file = std::fs::read_to_string(office.path("/etc/adit/swanctl.conf"))?;
        here.write("/etc/adit/swanctl.conf", &format!("{file}{}", control.body))?;
        office.shell("systemctl daemon-reload; systemctl restart adit")?;
        passes("Adit in the old place")?;
        asks("the old place")?;
        here.write("/etc/adit/swanctl.conf", &file)?;
        // "Back is the same the other way round."
        office.shell("systemctl disable --now adit && mv /etc/adit/swanctl.conf /etc/swanctl/ && systemctl enable --now strongswan")?;
        passes("strongSwan again")?;
        office.shut_down()?;
        branch.shut_down()
    })
}

/// The README's configuration and its mirror image, and its commands in their order.
#[test]
fn the_readme_is_followed_to_the_letter() -> Result<()> {
    with_lab("readme", Topology::default(), |lab| {
        renumber(lab, "192.0.2.2")?;
        let package = package(lab)?;
        let (first, second) =
            (machine(lab, Node::GatewayA, &package)?, machine(lab, Node::GatewayB, &package)?);
        let [here, there] = [(&first, Node::HostA), (&second, Node::HostB)].map(|(machine, host)| Site {
            lab,
            machine,
            host,
        });
        for site in [&here, &there] {
            site.machine.shell("sysctl net.ipv4.ip_forward=1; apt-get install --yes ./target/adit_*.deb")?;
        }
        let blocks = blocks()?;
        let conf = blocks
            .iter()
            .find(|block| block.page == "README.md" && block.kind == "conf")
            .context("a conf")?;
        let mirrored = [("192.0.2.1", "192.0.2.2"), ("a.example", "b.example"), ("10.1.", "10.2.")]
            .into_iter()
            .fold(conf.body.clone(), |text, (one, other)| {
                text.replace(one, "@").replace(other, one).replace('@', other)
            });
        here.write("/etc/adit/swanctl.conf", &conf.body)?;
        there.write("/etc/adit/swanctl.conf", &mirrored)?;
        here.write("/etc/ipsec.conf", &block("ipsec.conf", "")?.body)?;
        there.serves("adit run")?;
        for block in blocks.iter().filter(|block| block.page == "README.md" && block.kind == "sh") {
            for line in commands(block) {
                if line == "adit status" {
                    here.is_up()?;
                }
                here.follow(line, &[("NAME", "net")])?;
            }
        }
        first.shell("adit confirm")?;
        for site in [&here, &there] {
            site.no_longer()?;
        }
        first.shut_down()?;
        second.shut_down()
    })
}

/// Nothing here is an exception for a line that is no longer there.
#[test]
fn exceptions_are_about_lines_of_the_manual() -> Result<()> {
    let blocks = blocks()?;
    let lines: Vec<&str> = blocks.iter().filter(|block| block.kind == "sh").flat_map(commands).collect();
    for (line, _) in LINES {
        ensure!(lines.contains(line), "the manual has no line {line:?}");
    }
    // Each page with commands is followed by one of the tests here.
    let pages = [
        "README.md",
        "docs/capture.md",
        "docs/migrating.md",
        "docs/quickstart.md",
        "docs/service.md",
        "docs/troubleshooting.md",
        "docs/vici.md",
    ];
    let with: BTreeSet<&str> =
        blocks.iter().filter(|block| block.kind == "sh").map(|block| block.page.as_str()).collect();
    ensure!(with.iter().copied().eq(pages), "{with:?}");
    Ok(())
}
