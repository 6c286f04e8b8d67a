//! Replays what fuzzing found worth keeping.

#![cfg(test)]

use std::path::Path;

#[test]
fn vici() {
    replay("vici", adit::fuzzing::vici);
}

#[test]
fn http() {
    replay("http", adit::fuzzing::http);
}

#[test]
fn swanctl_conf() {
    replay("swanctl_conf", adit::config::fuzzing::load);
}

/// Whole, and cut off everywhere.
#[test]
fn ipsec_conf() {
    replay("ipsec_conf", |content| {
        for end in 0..=content.len() {
            adit::import::fuzzing::import(&content[..end]);
        }
    });
}

fn replay(target: &str, check: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut replayed = 0;
    for entry in std::fs::read_dir(&directory).expect("the corpus is committed") {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        check(&std::fs::read(path).unwrap());
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty", directory.display());
}
