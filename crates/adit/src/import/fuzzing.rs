//! Entry point of the fuzzer: not part of the interface.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{check, import_from};
use crate::config::Files;

/// One file of connections, and one of secrets; what is included is one of them again.
struct Two<'a>(&'a [u8], &'a [u8]);

impl Files for Two<'_> {
    fn expand(&self, pattern: &Path) -> Result<Vec<PathBuf>, String> {
        Ok(vec![pattern.to_owned()])
    }

    fn read(&self, path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, String> {
        let content = if path.ends_with("ipsec.secrets") { self.1 } else { self.0 };
        content
            .get(..limit.min(content.len()))
            .map_or_else(|| Err(String::new()), |all| Ok(Zeroizing::new(all.to_vec())))
    }
}

/// Translates hostile files, with an octet 0 between them: the configuration language takes what comes of it.
pub fn import(content: &[u8]) {
    let mut files = content.splitn(2, |octet| *octet == 0);
    let files = Two(files.next().unwrap_or_default(), files.next().unwrap_or_default());
    let secrets = Path::new("ipsec.secrets");
    if let Ok(imported) = import_from(Path::new("ipsec.conf"), Some(secrets), None, &|_| false, &files) {
        let text = format!("{}{}", imported.connections, *imported.secrets);
        assert!(check(&text).is_ok(), "{text}");
    }
}
