//! What the known-answer tests share: reading vectors, and entropy that hands out a given private key.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::Read;
use std::path::PathBuf;

use adit_crypto::Entropy;
use flate2::read::GzDecoder;
use serde::de::DeserializeOwned;

/// Octets written in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hex(pub(crate) Vec<u8>);

impl<'de> serde::Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl std::ops::Deref for Hex {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

/// Reads a JSON file, compressed or not.
pub(crate) fn read<T: DeserializeOwned>(name: &str) -> T {
    let bytes = std::fs::read(path(name)).unwrap();
    if name.ends_with(".gz") {
        let mut text = Vec::new();
        GzDecoder::new(&bytes[..]).read_to_end(&mut text).unwrap();
        serde_json::from_slice(&text).unwrap()
    } else {
        serde_json::from_slice(&bytes).unwrap()
    }
}

/// One section of `rfc.json`.
pub(crate) fn rfc<T: DeserializeOwned>(section: &str) -> T {
    let mut sections: serde_json::Map<String, serde_json::Value> = read("rfc.json");
    serde_json::from_value(sections.remove(section).unwrap()).unwrap()
}

/// A Wycheproof file: groups of tests with common parameters.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Wycheproof<G> {
    pub(crate) number_of_tests: usize,
    pub(crate) test_groups: Vec<G>,
}

/// What Wycheproof expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Valid,
    Invalid,
    Acceptable,
}

/// Reads `wycheproof/NAME_test.json.gz`.
pub(crate) fn wycheproof<G: DeserializeOwned>(name: &str) -> Wycheproof<G> {
    read(&format!("wycheproof/{name}_test.json.gz"))
}

/// Entropy that consists of one private key.
pub(crate) struct Fixed<'a>(pub(crate) &'a [u8]);

impl Entropy for Fixed<'_> {
    fn fill(&mut self, out: &mut [u8]) {
        out.copy_from_slice(self.0);
    }
}
