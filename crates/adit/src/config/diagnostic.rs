//! What is wrong with a configuration, said so that an operator can put it right.
//!
//! This module owns the forms a diagnostic takes: one line for logs, an excerpt with a caret for a terminal, and
//! JSON. It never holds a secret: excerpts are masked before they get here.

use std::fmt;

use annotate_snippets::{AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;
use serde::ser::SerializeStruct;

use super::source::{Place, Sources, Span};
use crate::wrap::{WIDTH, wrap};

/// After this many errors the rest is only counted.
pub const MAX_ERRORS: usize = 50;

/// Everything wrong with a configuration that cannot be used.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Diagnostics {
    /// Why it cannot be used, in the order it was found; never empty, at most [`MAX_ERRORS`].
    pub errors: Vec<Diagnostic>,
    /// What is suspicious besides.
    pub warnings: Vec<Diagnostic>,
    /// Errors beyond [`MAX_ERRORS`], not kept.
    pub more: usize,
}

/// One error or warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Does it make the configuration unusable?
    pub severity: Severity,
    /// Where the offending value, name or character was written. `None` if no file could be read.
    pub place: Option<Place>,
    /// The setting or section in dot notation (`connections.a.version`), empty outside of any.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What would be right at this place.
    pub expected: Option<String>,
    /// The valid name or value that is spelled most like the one written.
    pub nearest: Option<String>,
    /// More to know, perhaps elsewhere in the files.
    pub notes: Vec<Note>,
}

/// What is said of a key that is in no table.
pub(super) const UNKNOWN_KEY: &str = "unknown key";

/// What is said of a section that is in no table.
pub(super) const UNKNOWN_SECTION: &str = "unknown section";

impl Diagnostic {
    /// What somebody else has found out and says in one line.
    pub(crate) fn told(severity: Severity, line: &str) -> Self {
        Self {
            severity,
            place: None,
            key: String::new(),
            message: line.to_owned(),
            expected: None,
            nearest: None,
            notes: Vec::new(),
        }
    }

    /// Is it about a name that is in no table?
    pub(super) fn is_unknown(&self) -> bool {
        [UNKNOWN_KEY, UNKNOWN_SECTION].contains(&self.message.as_str())
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is not used.
    Error,
    /// The configuration is used.
    Warning,
}

/// A remark that belongs to a diagnostic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The remark.
    pub message: String,
    /// What it points to.
    pub place: Option<Place>,
}

impl Diagnostics {
    /// All diagnostics with excerpts, for a terminal (`color`) or a file.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let mut text = String::new();
        for diagnostic in self.errors.iter().chain(&self.warnings) {
            text.push_str(&diagnostic.render(color));
            text.push_str("\n\n");
        }
        if self.more > 0 {
            text.push_str(&format!("and {} more errors\n", self.more));
        }
        text
    }
}

impl fmt::Display for Diagnostics {
    /// One line for each error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            write!(f, "{}{error}", if index == 0 { "" } else { "\n" })?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more errors", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl Diagnostic {
    /// The diagnostic with its line, a caret, and its notes; nothing but a file's name is wider than 100 columns.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = if self.key.is_empty() {
            self.message.clone()
        } else {
            format!("{}: {}", self.key, self.message)
        };
        let mut group = Group::with_title(level.primary_title(folded(&title)));
        let mut expected = self.expected.as_ref().map(|expected| format!("expected {expected}"));
        if let Some(place) = &self.place {
            let label = expected.take_if(|label| place.has_room_for(label));
            group = group.elements(place.elements(label));
        }
        group = group.elements(expected.map(|expected| Level::NOTE.message(folded(&expected))));
        if let Some(nearest) = &self.nearest {
            group = group.element(Level::HELP.message(folded(&format!("did you mean `{nearest}`?"))));
        }
        let mut report = Vec::new();
        for note in &self.notes {
            match &note.place {
                None => group = group.element(Level::NOTE.message(folded(&note.message))),
                Some(place) => report
                    .push(Level::NOTE.secondary_title(folded(&note.message)).elements(place.elements(None))),
            }
        }
        report.insert(0, group);
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&report)
    }
}

/// Columns that stand before what a diagnostic has to say: a line's number, `= note: ` or `warning: `.
const MARGIN: usize = 16;

/// In lines that fit beside what stands before them.
fn folded(text: &str) -> String {
    wrap(text, WIDTH - MARGIN, WIDTH - MARGIN).join("\n")
}

impl Place {
    fn has_room_for(&self, label: &str) -> bool {
        let (line, range) = &self.excerpt;
        let end = line.get(..range.end).unwrap_or(line).chars().count();
        end + label.chars().count() <= WIDTH - MARGIN
    }

    /// Where it is, in the file and not in what is shown of the line; and the line.
    fn elements<'a>(&self, label: Option<String>) -> Vec<Element<'a>> {
        let (line, range) = self.excerpt.clone();
        let file = self.file.display().to_string();
        let is_whole =
            line.get(..range.start).is_some_and(|before| before.chars().count() + 1 == self.column);
        let annotation = AnnotationKind::Primary.span(range).label(label);
        let snippet = Snippet::source(line).line_start(self.line).annotation(annotation);
        if is_whole {
            return vec![snippet.path(file).into()];
        }
        vec![Origin::path(file).line(self.line).char_column(self.column).into(), snippet.into()]
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

impl fmt::Display for Diagnostic {
    /// `file:line:column: key: message; expected ...; did you mean ...?`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if let Some(expected) = &self.expected {
            write!(f, "; expected {expected}")?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, "; did you mean `{nearest}`?")?;
        }
        for note in &self.notes {
            write!(f, "; {}", note.message)?;
            if let Some(place) = &note.place {
                write!(f, " ({place})")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Diagnostic {
    /// Flat: `severity file line column key message expected nearest notes text`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Diagnostic", 10)?;
        out.serialize_field("severity", &self.severity)?;
        out.serialize_field("file", &self.place.as_ref().map(|place| place.file.display().to_string()))?;
        out.serialize_field("line", &self.place.as_ref().map(|place| place.line))?;
        out.serialize_field("column", &self.place.as_ref().map(|place| place.column))?;
        out.serialize_field("key", &self.key)?;
        out.serialize_field("message", &self.message)?;
        out.serialize_field("expected", &self.expected)?;
        out.serialize_field("nearest", &self.nearest)?;
        let notes: Vec<&str> = self.notes.iter().map(|note| note.message.as_str()).collect();
        out.serialize_field("notes", &notes)?;
        out.serialize_field("text", &self.to_string())?;
        out.end()
    }
}

/// A diagnostic in the making: a span instead of a place.
pub(super) struct Problem {
    span: Option<Span>,
    key: String,
    message: String,
    expected: Option<String>,
    nearest: Option<String>,
    notes: Vec<(String, Option<Span>)>,
}

impl Problem {
    pub(super) fn new(span: Span, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { span: Some(span), ..Self::nowhere(key, message) }
    }

    /// A problem before there is any text to point to.
    pub(super) fn nowhere(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            span: None,
            key: key.into(),
            message: message.into(),
            expected: None,
            nearest: None,
            notes: Vec::new(),
        }
    }

    pub(super) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// Suggests the candidate spelled most like `written`, if one is near enough.
    pub(super) fn nearest<'n>(mut self, written: &str, names: impl IntoIterator<Item = &'n str>) -> Self {
        self.nearest = nearest(written, names).map(ToOwned::to_owned);
        self
    }

    pub(super) fn has_nearest(&self) -> bool {
        self.nearest.is_some()
    }

    pub(super) fn note(mut self, message: impl Into<String>, span: Option<Span>) -> Self {
        self.notes.push((message.into(), span));
        self
    }

    fn resolve(self, severity: Severity, sources: &Sources) -> Diagnostic {
        let notes = self.notes.into_iter();
        Diagnostic {
            severity,
            place: self.span.filter(|span| *span != Span::NOWHERE).map(|span| sources.place(span)),
            key: self.key,
            message: self.message,
            expected: self.expected,
            nearest: self.nearest,
            notes: notes
                .map(|(message, span)| Note {
                    message,
                    place: span.filter(|span| *span != Span::NOWHERE).map(|span| sources.place(span)),
                })
                .collect(),
        }
    }
}

impl Diagnostics {
    pub(super) fn error(&mut self, sources: &Sources, problem: Problem) {
        if self.is_full() {
            self.more += 1;
            return;
        }
        let error = problem.resolve(Severity::Error, sources);
        // A section that is inherited by many shows the same mistake once.
        if !self.errors.iter().any(|known| known.place == error.place && known.message == error.message) {
            self.errors.push(error);
        }
    }

    pub(super) fn warning(&mut self, sources: &Sources, problem: Problem) {
        if self.warnings.len() < MAX_ERRORS {
            let warning = problem.resolve(Severity::Warning, sources);
            let same = |known: &Diagnostic| {
                known.place == warning.place && (known.place.is_some() || known.key == warning.key)
            };
            if !self.warnings.iter().any(same) {
                self.warnings.push(warning);
            }
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.errors.len() >= MAX_ERRORS
    }
}

/// The name spelled most like `written`: at most a third of its characters differ, and at most three.
pub(super) fn nearest<'n>(written: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    if written.chars().count() > 64 {
        return None;
    }
    let allowed = written.chars().count().div_ceil(3).clamp(1, 3);
    names
        .into_iter()
        .map(|name| (distance(&written.to_lowercase(), name), name))
        .filter(|&(distance, _)| distance <= allowed)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| name)
}

/// Edit distance with transpositions of neighbours (optimal string alignment).
pub(super) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut two_back: Vec<usize> = Vec::new();
    let mut back: Vec<usize> = (0..=b.len()).collect();
    let mut last_a = None;
    for (row, a) in a.chars().enumerate() {
        let mut now = Vec::with_capacity(b.len() + 1);
        now.push(row + 1);
        let mut last_b = None;
        for (column, &b) in b.iter().enumerate() {
            let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX - 1);
            let mut cost = (at(&back, column) + usize::from(a != b))
                .min(at(&back, column + 1) + 1)
                .min(at(&now, column) + 1);
            if last_a == Some(b) && last_b == Some(a) && column > 0 {
                cost = cost.min(at(&two_back, column - 1).saturating_add(1));
            }
            now.push(cost);
            last_b = Some(b);
        }
        two_back = std::mem::replace(&mut back, now);
        last_a = Some(a);
    }
    back.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_by_edit_distance() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("rekye_time", "rekey_time"), 1);
        let names = ["version", "encap", "local_addrs", "remote_addrs"];
        assert_eq!(nearest("verison", names), Some("version"));
        assert_eq!(nearest("Version", names), Some("version"));
        assert_eq!(nearest("remote_adrs", names), Some("remote_addrs"));
        assert_eq!(nearest("zebra", names), None);
    }
}
