#![forbid(unsafe_code)]
//! The `adit` program.

fn main() -> std::process::ExitCode {
    adit::cli::main().into()
}
