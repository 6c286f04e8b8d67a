#![forbid(unsafe_code)]
//! What is made from the program and its documents: man pages, completions, and the Debian package that brings them along.
//!
//! The pages of the commands and the completions come from the program's own arguments, `adit.conf(5)` from
//! `docs/configuration.md`: each has one truth.

mod deb;
mod roff;

use std::fs;
use std::path::{Path, PathBuf};

use adit::cli::Cli;
use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;

/// Makes a Debian package of a program that is built, with all that goes with it, and says where it is.
///
/// # Errors
///
/// What cannot be read or written, and what `dpkg-deb` says.
pub fn deb(program: &Path, directory: &Path) -> Result<PathBuf> {
    let made = directory.join("dist");
    dist(&made)?;
    deb::package(program, &made, directory)
}

/// Writes `man/` and `completions/`.
///
/// # Errors
///
/// What cannot be read or written.
pub fn dist(directory: &Path) -> Result<()> {
    man_pages(&directory.join("man"))?;
    completions(&directory.join("completions"))
}

fn man_pages(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    for page in std::iter::once(&command).chain(command.get_subcommands()) {
        let name = format!("{}.8", page.get_display_name().unwrap_or_else(|| page.get_name()));
        let mut text = Vec::new();
        clap_mangen::Man::new(page.clone()).section("8").manual("Adit").render(&mut text)?;
        fs::write(directory.join(name), text)?;
    }
    let source = repository().join("docs/configuration.md");
    let markdown = fs::read_to_string(&source).with_context(|| source.display().to_string())?;
    fs::write(directory.join("adit.conf.5"), roff::page(&markdown))?;
    Ok(())
}

fn completions(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "adit", directory)?;
    }
    Ok(())
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Every page has no warning of `man`'s, and says what it is about; every shell reads its completions.
    #[test]
    fn pages_are_clean_and_completions_are_read() {
        let directory = tempfile::tempdir().unwrap();
        dist(directory.path()).unwrap();
        let mut pages = 0;
        for entry in fs::read_dir(directory.path().join("man")).unwrap() {
            let path = entry.unwrap().path();
            let output = Command::new("man")
                .args(["--warnings", "--local-file"])
                .arg(&path)
                .env("LC_ALL", "C.UTF-8")
                .env("MANWIDTH", "100")
                .env("MANROFFSEQ", "")
                .output()
                .expect("man is there");
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && errors.is_empty(), "{}: {errors}", path.display());
            assert!(String::from_utf8_lossy(&output.stdout).contains("NAME"), "{}", path.display());
            pages += 1;
        }
        // At least these: adit, run, check, status, up, down, and adit.conf.
        assert!(pages >= 7, "{pages}");
        let bash = directory.path().join("completions/adit.bash");
        let script = format!(
            "source {}; COMP_WORDS=(adit stat); COMP_CWORD=1; _adit adit stat adit; echo \"${{COMPREPLY[@]}}\"",
            bash.display()
        );
        let output = Command::new("bash").args(["--norc", "-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "status");
        for name in ["_adit", "adit.fish"] {
            let text = fs::read_to_string(directory.path().join("completions").join(name)).unwrap();
            assert!(text.contains("rekey"), "{name}");
        }
    }
}
