//! The language as a whole: files in, configurations and diagnostics out.

mod certificates;
mod grammar;
mod meaning;
mod mistakes;

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::diagnostic::Diagnostics;
use super::load::{Configuration, load_from};
use super::manual;
use super::syntax::Files;

/// Files in memory. A pattern with a star names every file that starts with what is before the star.
struct Memory<'a>(&'a [(&'a str, &'a str)]);

impl Files for Memory<'_> {
    fn expand(&self, pattern: &Path) -> Result<Vec<PathBuf>, String> {
        match pattern.to_str().unwrap().split_once('*') {
            None => Ok(vec![pattern.to_owned()]),
            Some((prefix, _)) => {
                let names = self.0.iter().map(|(name, _)| *name).filter(|name| name.starts_with(prefix));
                Ok(names.map(PathBuf::from).collect())
            }
        }
    }

    fn read(&self, path: &Path, _: usize) -> Result<Zeroizing<Vec<u8>>, String> {
        let file = self.0.iter().find(|(name, _)| Path::new(name) == path).ok_or("no such file")?;
        Ok(Zeroizing::new(file.1.as_bytes().to_vec()))
    }
}

/// Loads the first file.
fn load(files: &[(&str, &str)]) -> Result<Configuration, Diagnostics> {
    load_from(Path::new(files[0].0), &Memory(files), |_| false)
}

/// Loads one file that must be good.
fn good(text: &str) -> Configuration {
    load(&[("a.conf", text)]).unwrap_or_else(|diagnostics| panic!("{diagnostics}"))
}

/// The errors of one file, a line each.
fn errors(text: &str) -> Vec<String> {
    errors_of(&[("a.conf", text)])
}

fn errors_of(files: &[(&str, &str)]) -> Vec<String> {
    match load(files) {
        Ok(_) => Vec::new(),
        Err(diagnostics) => diagnostics.errors.iter().map(ToString::to_string).collect(),
    }
}

/// A connection of two named gateways with more lines for it, for its child, and for the top.
fn connection(lines: &str, child: &str, top: &str) -> String {
    format!(
        "connections {{
  c {{
    remote_addrs = 192.0.2.2
    local {{ auth = psk
      id = a.example }}
    remote {{ auth = psk
      id = b.example }}
    {lines}
    children {{ n {{
      {child}
    }} }}
  }}
}}
secrets {{ ike-1 {{ secret = hunter2
}} }}
{top}
"
    )
}

#[test]
fn the_example_is_a_configuration() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/swanctl.conf.example");
    let configuration = super::load(&path).unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
    assert_eq!(configuration.ike.connections.len(), 1);
    assert_eq!(configuration.ike.connections[0].children.len(), 2);
    assert_eq!(configuration.ike.secrets.len(), 1);
}

#[test]
fn the_manual_has_the_tables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (start, end) = ("<!-- tables: start -->\n", "<!-- tables: end -->\n");
    let (before, rest) = text.split_once(start).unwrap();
    let (tables, after) = rest.split_once(end).unwrap();
    if std::env::var_os("ADIT_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{start}\n{}\n{end}{after}", manual())).unwrap();
    } else {
        assert_eq!(
            tables.trim(),
            manual().trim(),
            "run this test with ADIT_BLESS=1 to write the tables anew"
        );
    }
}

#[test]
fn the_examples_of_the_manual_are_configurations() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let examples: Vec<&str> =
        text.split("```conf\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 2);
    for example in examples {
        good(example);
    }
}
