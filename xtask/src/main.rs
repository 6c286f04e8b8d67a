#![forbid(unsafe_code)]
//! `cargo run -p xtask -- dist DIRECTORY`: the man pages and completions that packages bring along.
//! `cargo run -p xtask -- deb PROGRAM DIRECTORY`: a Debian package of them and of a program that is built.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["dist", directory] => xtask::dist(Path::new(directory)),
        ["deb", program, directory] => {
            let package = xtask::deb(Path::new(program), Path::new(directory))?;
            Ok(writeln!(std::io::stdout(), "{}", package.display())?)
        }
        _ => bail!("usage: cargo run -p xtask -- dist DIRECTORY | deb PROGRAM DIRECTORY"),
    }
}
