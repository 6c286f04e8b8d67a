//! The Python side: scapy's IPsec layer and the vici library, from a virtual environment that `./test` makes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::lab::{Lab, Node};
use crate::process::run;

/// The interpreter with scapy, cryptography and vici: `ADIT_LAB_PYTHON`, or the one in `target/venv`.
pub fn python() -> Result<PathBuf> {
    let python = match std::env::var_os("ADIT_LAB_PYTHON") {
        Some(python) => PathBuf::from(python),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv/bin/python"),
    };
    ensure!(
        python.exists(),
        "no Python environment at {}: run ./test, which makes it, or set ADIT_LAB_PYTHON to an interpreter that \
         can import scapy, cryptography and vici",
        python.display()
    );
    run(Command::new(&python).args(["-c", "import scapy, cryptography, vici"])).context(
        "the Python environment lacks scapy, cryptography or vici: remove target/venv and run ./test",
    )?;
    Ok(python)
}

/// A command that runs one of `tests/python` inside a namespace.
pub fn script(lab: &Lab, node: Node, name: &str) -> Result<Command> {
    let mut command = lab.command(node, python()?);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name));
    Ok(command)
}
