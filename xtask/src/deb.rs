//! The Debian package, by Debian's `dpkg-deb`, from the same list that `cargo deb` reads.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// What `cargo metadata` says of a package.
#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    description: String,
    manifest_path: PathBuf,
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Metadata {
    deb: Deb,
}

/// `[package.metadata.deb]`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Deb {
    maintainer: String,
    extended_description: String,
    section: String,
    priority: String,
    depends: String,
    conf_files: Vec<String>,
    maintainer_scripts: PathBuf,
    /// Where from, where to, mode.
    assets: Vec<(String, PathBuf, String)>,
}

/// Makes the package of `program` in `directory` from what lies in `dist`, and says where it is.
pub(crate) fn package(program: &Path, dist: &Path, directory: &Path) -> Result<PathBuf> {
    let Package { name, version, description, manifest_path, metadata } = adit()?;
    let Metadata { deb } = metadata.context("[package.metadata.deb]")?;
    let from = manifest_path.parent().context("the manifest's directory")?;
    let root = directory.join("root");
    match fs::remove_dir_all(&root) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    for (source, target, mode) in &deb.assets {
        let sources = if source == "target/release/adit" {
            vec![program.to_owned()]
        } else if let Some(made) = source.strip_prefix("../../target/dist/") {
            expand(&dist.join(made))?
        } else {
            expand(&from.join(source))?
        };
        ensure!(!sources.is_empty(), "{source}: nothing is there");
        let into = target.to_str().is_some_and(|target| target.ends_with('/'));
        for source in sources {
            let mut path = root.join(target);
            if into {
                // The program has the name of the list, whatever it is called where it was built.
                let named = if source == program { Path::new("adit") } else { source.as_path() };
                path.push(named.file_name().context("a file's name")?);
            }
            fs::create_dir_all(path.parent().context("a file's directory")?)?;
            fs::copy(&source, &path).with_context(|| source.display().to_string())?;
            if source == program {
                // The names of functions, for whoever debugs, are three quarters of it.
                text(
                    Command::new("strip").args(["--strip-unneeded", "--remove-section=.comment"]).arg(&path),
                )?;
            }
            fs::set_permissions(&path, Permissions::from_mode(u32::from_str_radix(mode, 8)?))?;
        }
    }
    let version = format!("{version}-1");
    documents(
        &root,
        &from.join("../../CHANGELOG.md"),
        &format!("{name} ({version}) unstable; urgency=medium"),
        &deb,
    )?;
    let size = text(Command::new("du").args(["-sk", "--apparent-size"]).arg(&root))?;
    let size = size.split_whitespace().next().context("a size")?.to_owned();
    let control = root.join("DEBIAN");
    fs::create_dir_all(&control)?;
    let sums =
        "find . -type f -not -path './DEBIAN/*' -printf '%P\\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums";
    text(Command::new("sh").args(["-ec", sums]).current_dir(&root))?;
    let architecture = text(Command::new("dpkg").arg("--print-architecture"))?;
    let architecture = architecture.trim();
    let Deb { maintainer, extended_description, section, priority, depends, .. } = &deb;
    fs::write(
        control.join("control"),
        format!(
            "Package: {name}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: {maintainer}\nInstalled-Size: {size}\nSection: {section}\nPriority: {priority}\nDepends: {depends}\nDescription: {description}\n {}\n",
            extended_description.trim_end().replace('\n', "\n ")
        ),
    )?;
    fs::write(control.join("conffiles"), deb.conf_files.join("\n") + "\n")?;
    for script in expand(&from.join(&deb.maintainer_scripts).join("*"))? {
        let path = control.join(script.file_name().context("a script's name")?);
        fs::copy(&script, &path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    }
    // Directories as everybody has them, whatever the umask.
    text(Command::new("find").arg(&root).args(["-type", "d", "-exec", "chmod", "755", "{}", "+"]))?;
    let package = directory.join(format!("{name}_{version}_{architecture}.deb"));
    text(
        Command::new("dpkg-deb").args(["--root-owner-group", "-Zgzip", "--build"]).arg(&root).arg(&package),
    )?;
    fs::remove_dir_all(&root)?;
    Ok(package)
}

/// What Debian wants to have compressed, and its own changelog.
fn documents(root: &Path, changes: &Path, entry: &str, deb: &Deb) -> Result<()> {
    let date = text(Command::new("date").args(["-R", "-r"]).arg(changes))?;
    let changelog = format!(
        "{entry}\n\n  * What is new in the program is in changelog.gz.\n\n -- {}  {date}",
        deb.maintainer
    );
    let of_package = root.join("usr/share/doc/adit");
    fs::write(of_package.join("changelog.Debian"), changelog)?;
    fs::rename(of_package.join("CHANGELOG.md"), of_package.join("changelog"))?;
    let compressed =
        "gzip -9n usr/share/man/man*/* usr/share/doc/adit/changelog usr/share/doc/adit/changelog.Debian";
    text(Command::new("sh").args(["-ec", compressed]).current_dir(root))?;
    // What was written now is readable for everybody, whatever the umask.
    fs::set_permissions(of_package.join("changelog.Debian.gz"), Permissions::from_mode(0o644))?;
    Ok(())
}

fn adit() -> Result<Package> {
    #[derive(Deserialize)]
    struct Workspace {
        packages: Vec<serde_json::Value>,
    }
    let manifest = crate::repository().join("Cargo.toml");
    let all = text(
        Command::new("cargo")
            .args(["metadata", "--no-deps", "--format-version=1", "--manifest-path"])
            .arg(manifest),
    )?;
    let Workspace { packages } = serde_json::from_str(&all)?;
    let adit = packages.into_iter().find(|package| package.get("name").is_some_and(|name| name == "adit"));
    Ok(serde_json::from_value(adit.context("the package adit")?)?)
}

/// The files that a pattern names; one with a star in its last part.
fn expand(pattern: &Path) -> Result<Vec<PathBuf>> {
    let name = pattern.file_name().and_then(|name| name.to_str()).context("a pattern")?;
    let Some((start, end)) = name.split_once('*') else { return Ok(vec![pattern.to_owned()]) };
    let mut found = Vec::new();
    let directory = pattern.parent().context("a pattern's directory")?;
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        let fits = |name: &str| name.starts_with(start) && name.ends_with(end);
        if path.is_file() && path.file_name().and_then(|name| name.to_str()).is_some_and(fits) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn text(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
