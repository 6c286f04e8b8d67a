//! The measurements of one run, in a file that grows: rounds may be made one at a time, and the report is made of all.
//!
//! A line is `subject measure value`, with blanks between. `# name: text` is a fact about the run.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use adit_lab::process::tell;
use anyhow::{Context, Result};

use crate::quantile;

/// Where results are unless told otherwise.
pub(crate) const DEFAULT: &str = "target/bench/results";

/// What measurements in turns are asked for with.
#[derive(clap::Args)]
pub(crate) struct Turns {
    /// Rounds; in each, every subject has one turn.
    #[arg(long, default_value_t = 4)]
    pub(crate) rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2)]
    pub(crate) seconds: u32,
    /// The file that the results are added to.
    #[arg(long, default_value = DEFAULT)]
    pub(crate) results: PathBuf,
}

/// Adds to a file.
#[derive(Debug)]
pub(crate) struct Recorder(PathBuf);

impl Recorder {
    pub(crate) fn new(path: &Path) -> Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        Ok(Self(path.to_owned()))
    }

    /// Tells a value too.
    pub(crate) fn value(&self, subject: &str, measure: &str, value: f64) -> Result<()> {
        tell(&format!("{subject} {measure} {value:.3}"));
        self.add(subject, measure, value)
    }

    pub(crate) fn add(&self, subject: &str, measure: &str, value: f64) -> Result<()> {
        self.line(&format!("{subject} {measure} {value:.5}"))
    }

    pub(crate) fn fact(&self, name: &str, text: &str) -> Result<()> {
        self.line(&format!("# {name}: {text}"))
    }

    fn line(&self, line: &str) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(&self.0)?;
        Ok(writeln!(file, "{line}")?)
    }
}

/// All that is in a file.
#[derive(Debug, Default)]
pub(crate) struct Results {
    values: BTreeMap<(String, String), Vec<f64>>,
    facts: BTreeMap<String, String>,
}

impl Results {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        text.parse()
    }

    pub(crate) fn fact(&self, name: &str) -> Option<&str> {
        self.facts.get(name).map(String::as_str)
    }

    /// What was measured of a subject; `None` if it was not.
    pub(crate) fn spread(&self, subject: &str, measure: &str) -> Option<Spread> {
        let mut values = self.values.get(&(subject.to_owned(), measure.to_owned()))?.clone();
        Some(Spread {
            least: quantile(&mut values, 0.0),
            median: quantile(&mut values, 0.5),
            most: quantile(&mut values, 1.0),
            count: values.len(),
        })
    }

    /// The median of one subject divided by that of another.
    pub(crate) fn ratio(&self, measure: &str, subject: &str, by: &str) -> Option<f64> {
        Some(self.spread(subject, measure)?.median / self.spread(by, measure)?.median)
    }
}

impl std::str::FromStr for Results {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut results = Self::default();
        for line in text.lines() {
            if let Some(fact) = line.strip_prefix("# ") {
                let (name, text) = fact.split_once(": ").with_context(|| format!("no fact: {line}"))?;
                results.facts.insert(name.to_owned(), text.to_owned());
                continue;
            }
            let mut words = line.split(' ');
            let (Some(subject), Some(measure), Some(value)) = (words.next(), words.next(), words.next())
            else {
                anyhow::bail!("no measurement: {line}");
            };
            let value = value.parse().with_context(|| format!("no number: {line}"))?;
            results.values.entry((subject.to_owned(), measure.to_owned())).or_default().push(value);
        }
        Ok(results)
    }
}

/// The measurements of one thing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
    pub(crate) count: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_of_medians() {
        let results: Results =
            "# kernel: 6.1\na tcp1 9\na tcp1 1\nb tcp1 2\na tcp1 4\na tcp1 6\nb rtt 7".parse().unwrap();
        assert_eq!(results.fact("kernel"), Some("6.1"));
        assert_eq!(
            results.spread("a", "tcp1"),
            Some(Spread { least: 1.0, median: 5.0, most: 9.0, count: 4 })
        );
        assert_eq!(results.ratio("tcp1", "a", "b"), Some(2.5));
        assert_eq!(results.ratio("rtt", "a", "b"), None);
        assert!("a tcp1".parse::<Results>().is_err());
    }
}
