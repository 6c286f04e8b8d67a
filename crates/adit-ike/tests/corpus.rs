//! The corpus of the fuzz target `ike_gateway`, every file of it, and what can be made of it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop there"
)]

use std::path::Path;

use adit_ike::fuzzing::talk;
use proptest::prelude::*;

fn corpus() -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/ike_gateway");
    std::fs::read_dir(directory).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
}

#[test]
fn the_corpus() {
    let corpus = corpus();
    assert!(corpus.len() >= 20, "{} files", corpus.len());
    for data in corpus {
        talk(&data);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// A real input with a few octets changed, at any stage of the handshake.
    #[test]
    fn near_the_corpus(
        file in any::<prop::sample::Index>(),
        stage in any::<u8>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let corpus = corpus();
        let mut data = corpus[file.index(corpus.len())].clone();
        for (at, octet) in changes {
            if !data.is_empty() {
                let at = at.index(data.len());
                data[at] = octet;
            }
        }
        if let Some(first) = data.first_mut() {
            *first = stage;
        }
        talk(&data);
    }

    #[test]
    fn anything(data in prop::collection::vec(any::<u8>(), 0..300)) {
        talk(&data);
    }
}
