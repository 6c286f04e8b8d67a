//! Entry point of the fuzzer: not part of the interface.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Diagnostics;
use super::load::{Configuration, load_from};
use super::syntax::Files;

/// One file that includes nothing.
struct One<'a>(&'a [u8]);

impl Files for One<'_> {
    fn expand(&self, _: &Path) -> Result<Vec<PathBuf>, String> {
        Ok(Vec::new())
    }

    fn read(&self, _: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, String> {
        let content = self.0.get(..limit.min(self.0.len())).unwrap_or_default();
        Ok(Zeroizing::new(content.to_vec()))
    }
}

/// Reads, checks and builds a configuration from hostile text, and renders what is wrong with it.
pub fn load(content: &[u8]) {
    match read(content) {
        Ok(configuration) => configuration.warnings.iter().for_each(|warning| drop(warning.render(false))),
        Err(diagnostics) => drop((diagnostics.render(true), diagnostics.to_string())),
    }
}

pub(crate) fn read(content: &[u8]) -> Result<Configuration, Diagnostics> {
    load_from(Path::new("fuzz.conf"), &One(content), |_| true)
}
