//! The corpus of the fuzz target `certificates`, every file of it and near neighbours.

use std::path::Path;

use adit_cert::fuzzing::certificates;

#[test]
fn the_corpus_and_what_is_near_it() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/certificates");
    let mut files = 0;
    for file in std::fs::read_dir(directory).unwrap() {
        let mut data = std::fs::read(file.unwrap().path()).unwrap();
        files += 1;
        certificates(&data);
        for at in 0..data.len() {
            let was = data[at];
            data[at] = [0, 0xff, was ^ 1, was.wrapping_add(1)][at % 4];
            certificates(&data);
            data[at] = was;
            if at % 16 == 0 {
                certificates(&data[..at]);
            }
        }
    }
    assert!(files >= 8, "{files} files");
}
