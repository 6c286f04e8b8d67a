//! A configuration without its secrets, to be shown to others.
//!
//! It is written anew from what was read: comments and misread text, which could hold a secret, are not in it.

use std::path::Path;

use zeroize::Zeroizing;

use super::load::Disk;
use super::schema::{is_public_in_secrets, may_be_secret};
use super::source::MASK;
use super::syntax::{self, Files, Parsed, ROOT, Section, SectionId, Tree};

/// A configuration that can be shown, and what must not be.
pub struct Redacted {
    /// Sections, settings and references of all files together, every secret replaced; or what is wrong with their grammar.
    pub text: String,
    /// The secrets, as they are written.
    pub secrets: Vec<Zeroizing<String>>,
}

/// Reads `path` and everything it includes.
#[must_use]
pub fn redacted(path: &Path) -> Redacted {
    redact(path, &Disk)
}

fn redact(path: &Path, files: &dyn Files) -> Redacted {
    let Parsed { tree, sources, problems } = syntax::parse(path, files);
    let mut redacted = Redacted { text: String::new(), secrets: Vec::new() };
    if problems.is_empty() {
        for path in sources.paths() {
            redacted.text.push_str(&format!("# {}\n", path.display()));
        }
        redacted.section(&tree, ROOT, 0, false);
    } else {
        // Text that could not be read could be anything.
        redacted.text = "its grammar is wrong; see `adit check`\n".to_owned();
    }
    redacted
}

impl Redacted {
    fn section(&mut self, tree: &Tree, id: SectionId, depth: usize, secret: bool) {
        let Some(section) = tree.section(id) else { return };
        let indent = "    ".repeat(depth);
        for setting in &section.settings {
            let key = &setting.key;
            let value = match &setting.value {
                None => String::new(),
                Some(text) => {
                    let public = !secret || is_public_in_secrets(key);
                    if text.hidden || !public || may_be_secret(key) {
                        self.secrets.push(Zeroizing::new(text.text.as_str().to_owned()));
                        MASK.to_owned()
                    } else {
                        format!("{:?}", text.text.as_str())
                    }
                }
            };
            self.text.push_str(&format!("{indent}{key} = {value}\n"));
        }
        for &id in &section.sections {
            let Some(Section { name, references, .. }) = tree.section(id) else { continue };
            let references: Vec<String> =
                references.iter().map(|reference| reference.path.join(".")).collect();
            let inherits =
                if references.is_empty() { String::new() } else { format!(" : {}", references.join(", ")) };
            self.text.push_str(&format!("{indent}{name}{inherits} {{\n"));
            self.section(tree, id, depth + 1, secret || (depth == 0 && name == "secrets"));
            self.text.push_str(&format!("{indent}}}\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    struct One(&'static str);

    impl Files for One {
        fn expand(&self, _: &Path) -> Result<Vec<PathBuf>, String> {
            Ok(Vec::new())
        }

        fn read(&self, _: &Path, _: usize) -> Result<Zeroizing<Vec<u8>>, String> {
            Ok(Zeroizing::new(self.0.as_bytes().to_vec()))
        }
    }

    #[test]
    fn only_what_is_no_secret_is_shown() {
        let redacted = redact(
            Path::new("x.conf"),
            &One(
                "# old: hunter1\nconnections {\n a : d {\n encap = yes # not hunter2\n}\n}\nd {\n}\nsecrets {\n ike-a {\n id = \"b c\"\n secret = hunter3\n}\n eap {\n pasword = hunter4\n}\n}\nother {\n psk = hunter5\n}\n",
            ),
        );
        assert_eq!(
            redacted.text,
            "# x.conf\nconnections {\n    a : d {\n        encap = \"yes\"\n    }\n}\nd {\n}\nsecrets {\n    ike-a {\n        id = \"b c\"\n        secret = ***\n    }\n    eap {\n        pasword = ***\n    }\n}\nother {\n    psk = ***\n}\n"
        );
        let secrets: Vec<&str> = redacted.secrets.iter().map(|secret| secret.as_str()).collect();
        assert_eq!(secrets, ["hunter3", "hunter4", "hunter5"]);
        let broken = redact(Path::new("x.conf"), &One("secrets {\n ike {\n secret = \"hunter\n}\n"));
        assert!(!broken.text.contains("hunter"), "{}", broken.text);
    }
}
