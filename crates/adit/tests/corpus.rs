//! Replays what fuzzing found worth keeping.

#![cfg(test)]

use std::path::Path;

#[test]
fn vici() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/vici");
    let mut replayed = 0;
    for entry in std::fs::read_dir(&directory).expect("the corpus is committed") {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        adit::fuzzing::vici(&std::fs::read(path).unwrap());
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty", directory.display());
}
