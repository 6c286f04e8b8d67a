//! The corpora of the fuzz targets `esp_open` and `iptfs`, every file of them and their near neighbours.

use std::path::Path;

use adit_esp::fuzzing::{iptfs_any, open_any};
use proptest::prelude::*;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = std::fs::read_dir(directory).expect("the corpus is committed");
    files.map(|file| std::fs::read(file.expect("readable").path()).expect("readable")).collect()
}

#[test]
fn the_corpus_and_everything_cut_from_it() {
    let corpus = corpus("esp_open");
    assert!(corpus.len() >= 50, "{} files", corpus.len());
    for data in corpus {
        for len in 0..=data.len() {
            open_any(&data[..len]);
        }
    }
}

#[test]
fn the_corpus_with_any_byte_changed() {
    for mut data in corpus("esp_open") {
        for at in 0..data.len() {
            let was = data[at];
            for now in [0, 1, 4, 41, 59, 0x7f, 0xff, was ^ 1, was ^ 0x80, was.wrapping_add(1)] {
                data[at] = now;
                open_any(&data);
            }
            data[at] = was;
        }
    }
}

#[test]
fn the_corpus_of_ip_tfs() {
    let corpus = corpus("iptfs");
    assert!(corpus.len() >= 20, "{} files", corpus.len());
    for mut data in corpus {
        for len in 0..=data.len() {
            iptfs_any(&data[..len]);
        }
        for at in 0..data.len() {
            let was = data[at];
            for now in [0, 1, 0x40, 0x45, 0x60, 0x80, 0xff, was ^ 1, was.wrapping_add(1)] {
                data[at] = now;
                iptfs_any(&data);
            }
            data[at] = was;
        }
    }
}

proptest! {
    #[test]
    fn anything(data in prop::collection::vec(any::<u8>(), 0..200)) {
        open_any(&data);
        iptfs_any(&data);
    }
}
