//! OpenSSL's command line, as a second opinion and as an authority.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A directory in which `openssl` runs.
pub(crate) struct OpenSsl(TempDir);

impl OpenSsl {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path().join(name), content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path().join(name)).unwrap()
    }

    /// Runs a command line without quoting, which must succeed; returns what it prints.
    pub(crate) fn run(&self, line: &str) -> String {
        let (ok, output) = self.try_run(line);
        assert!(ok, "openssl {line}: {output}");
        output
    }

    /// Did it succeed, and what did it print?
    pub(crate) fn try_run(&self, line: &str) -> (bool, String) {
        let output = Command::new("openssl")
            .args(line.split_whitespace())
            .current_dir(self.path())
            .output()
            .unwrap_or_else(|e| panic!("openssl must be installed (./test setup): {e}"));
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }
}
