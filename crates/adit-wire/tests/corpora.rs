//! Replays what fuzzing found worth keeping.

#![cfg(test)]

mod checks;

use std::path::Path;

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

#[test]
fn ikev2_message() {
    replay("ikev2_message", checks::ikev2_message);
}

#[test]
fn ikev2_inner() {
    replay("ikev2_inner", checks::ikev2_inner);
}

#[test]
fn ip_flow() {
    replay("ip_flow", checks::ip_flow);
}

#[test]
fn esp_and_natt() {
    replay("esp_and_natt", checks::esp_and_natt);
}
