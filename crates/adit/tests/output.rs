//! What cannot be written is an error, whichever command it is.

#![cfg(test)]

use std::fs::File;
use std::process::{Command, Stdio};

#[test]
fn a_full_disk_is_no_success_and_a_reader_that_leaves_no_failure() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("swanctl.conf"), "gateway { log = info }").unwrap();
    std::fs::write(
        path("ipsec.conf"),
        "conn a\n left=192.0.2.1\n right=192.0.2.2\n authby=secret\n auto=add\n",
    )
    .unwrap();
    let nobody = format!("unix://{}", path("nobody.vici"));
    for (well, arguments) in [
        (0, &["--help"][..]),
        (0, &["--version"]),
        (0, &["status", "--help"]),
        (0, &["check", &path("swanctl.conf")]),
        (0, &["check", "--json", &path("swanctl.conf")]),
        (0, &["import", &path("ipsec.conf")]),
        (1, &["status", "--json", "--control", &nobody]),
    ] {
        let run = |out: Stdio| {
            let mut adit = Command::new(env!("CARGO_BIN_EXE_adit"));
            let output = adit.args(arguments).stdout(out).stderr(Stdio::piped()).output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        let (code, why) = run(File::options().write(true).open("/dev/full").unwrap().into());
        // ENOSPC, as the C library says it.
        assert_eq!(code, Some(1), "{arguments:?}: {why}");
        assert!(why.contains("cannot write to stdout: No space left on device"), "{arguments:?}: {why}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(run(writer.into()).0, Some(well), "{arguments:?}");
        assert_eq!(run(Stdio::null()).0, Some(well), "{arguments:?}");
    }
}
