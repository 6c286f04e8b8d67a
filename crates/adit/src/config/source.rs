//! The text of configuration files and places in it.
//!
//! This module owns the text, what of it may be shown (secrets never are), and the way from a place to file, line
//! and column. It never interprets the text.

use std::ops::Range;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// What stands in an excerpt instead of a secret: the same for every secret, so not even its length shows.
pub(super) const MASK: &str = "***";

/// Longest excerpt of a line, in bytes; longer lines are cut around the place.
const EXCERPT_MAX: usize = 84;

/// A range of bytes of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Span {
    pub(super) file: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Span {
    /// Of what was not read from a file.
    pub(super) const NOWHERE: Self = Self { file: usize::MAX, start: 0, end: 0 };
}

/// A span as a person reads it, with the line it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as it was named: on the command line, or by the include statement.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The line's text with every secret replaced, and the bytes of it the place covers.
    pub(super) excerpt: (String, Range<usize>),
}

/// Every file read so far.
#[derive(Default)]
pub(super) struct Sources {
    files: Vec<Source>,
}

struct Source {
    path: PathBuf,
    /// Wiped when the configuration is loaded: it holds the secrets.
    text: Zeroizing<String>,
    line_starts: Vec<usize>,
    /// Ranges that are never shown, in ascending order.
    hidden: Vec<Range<usize>>,
    /// The first that certainly is a secret.
    secret: Option<Range<usize>>,
}

impl Sources {
    pub(super) fn add(&mut self, path: PathBuf, text: Zeroizing<String>) -> usize {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        self.files.push(Source { path, text, line_starts, hidden: Vec::new(), secret: None });
        self.files.len() - 1
    }

    pub(super) fn find(&self, path: &Path) -> Option<usize> {
        self.files.iter().position(|file| file.path == path)
    }

    pub(super) fn text(&self, file: usize) -> &str {
        self.files.get(file).map_or("", |file| file.text.as_str())
    }

    pub(super) fn path(&self, file: usize) -> &Path {
        self.files.get(file).map_or_else(|| Path::new(""), |file| file.path.as_path())
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| file.path.clone()).collect()
    }

    /// The files that hold secrets, each with its first one.
    pub(super) fn first_secrets(&self) -> impl Iterator<Item = (&Path, Span)> {
        self.files.iter().enumerate().filter_map(|(index, file)| {
            let secret = file.secret.as_ref()?;
            Some((file.path.as_path(), Span { file: index, start: secret.start, end: secret.end }))
        })
    }

    /// The text of `span` is a secret, and not only hidden to be sure.
    pub(super) fn secret(&mut self, span: Span) {
        if let Some(file) = self.files.get_mut(span.file) {
            file.secret.get_or_insert(span.start..span.end);
        }
    }

    /// The text of `span` must never be shown.
    pub(super) fn hide(&mut self, span: Span) {
        if let Some(file) = self.files.get_mut(span.file) {
            let at = file.hidden.partition_point(|hidden| hidden.start < span.start);
            if file.hidden.get(at) != Some(&(span.start..span.end)) {
                file.hidden.insert(at, span.start..span.end);
            }
        }
    }

    /// Resolves a span for a person.
    pub(super) fn place(&self, span: Span) -> Place {
        let Some(file) = self.files.get(span.file) else {
            return Place { file: PathBuf::new(), line: 1, column: 1, excerpt: (String::new(), 0..0) };
        };
        let index = file.line_starts.partition_point(|&start| start <= span.start).saturating_sub(1);
        let line_start = file.line_starts.get(index).copied().unwrap_or(0);
        let line_end = file.line_starts.get(index + 1).map_or(file.text.len(), |next| next - 1);
        let column = file.text.get(line_start..span.start).map_or(0, |before| before.chars().count()) + 1;
        Place {
            file: file.path.clone(),
            line: index + 1,
            column,
            excerpt: file.excerpt(line_start..line_end, span.start..span.end.max(span.start)),
        }
    }
}

impl Source {
    /// One line with secrets masked, and where `place` is in the masked line.
    fn excerpt(&self, line: Range<usize>, place: Range<usize>) -> (String, Range<usize>) {
        let mut shown = String::new();
        // Byte of the file -> byte of the excerpt, for the two ends of the place.
        let (mut start, mut end) = (None, None);
        let mut at = line.start;
        let mut hidden =
            self.hidden.iter().filter(|hidden| hidden.start < line.end && hidden.end > line.start).peekable();
        while at < line.end {
            if start.is_none() && at >= place.start {
                start = Some(shown.len());
            }
            if end.is_none() && at >= place.end {
                end = Some(shown.len());
            }
            while hidden.next_if(|hidden| hidden.end <= at).is_some() {}
            if let Some(range) = hidden.peek()
                && range.start <= at
            {
                // A place inside a secret covers the whole mask.
                if start.is_none() && place.start < range.end {
                    start = Some(shown.len());
                }
                shown.push_str(MASK);
                if end.is_none() && place.end <= range.end {
                    end = Some(shown.len());
                }
                at = range.end;
                continue;
            }
            let Some(character) = self.text.get(at..).and_then(|rest| rest.chars().next()) else { break };
            // Control characters must not reach a terminal or a log; a tab is one column wide like the rest.
            shown.push(if character.is_control() { ' ' } else { character });
            at += character.len_utf8();
        }
        let start = start.unwrap_or(shown.len());
        let end = end.unwrap_or(shown.len()).max(start);
        cut(&shown, start..end)
    }
}

/// Cuts a long line to the part around `place`.
fn cut(line: &str, place: Range<usize>) -> (String, Range<usize>) {
    if line.len() <= EXCERPT_MAX {
        return (line.to_owned(), place);
    }
    let from = floor(line, place.start.saturating_sub(EXCERPT_MAX / 4));
    let to = floor(line, (from + EXCERPT_MAX).min(line.len()));
    let shown = line.get(from..to).unwrap_or_default().to_owned();
    let end = place.end.min(to).saturating_sub(from);
    (shown, place.start - from..end.max(place.start - from))
}

/// The nearest character boundary at or before `at`.
pub(super) fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> Sources {
        let mut sources = Sources::default();
        sources.add("a.conf".into(), Zeroizing::new(text.to_owned()));
        sources
    }

    #[test]
    fn lines_and_columns_count_from_one_and_in_characters() {
        let sources = sources("a = b\n\u{e4}\u{f6} = c\n");
        let place = sources.place(Span { file: 0, start: 13, end: 14 });
        assert_eq!((place.line, place.column), (2, 6));
        assert_eq!(place.excerpt, ("\u{e4}\u{f6} = c".to_owned(), 7..8));
        let end = sources.place(Span { file: 0, start: 15, end: 15 });
        assert_eq!((end.line, end.column), (3, 1));
    }

    #[test]
    fn a_secret_is_masked_on_its_line_and_before_and_behind_it() {
        let text = "x = 1 secret = hunter2 } more\n";
        let mut sources = sources(text);
        sources.hide(Span { file: 0, start: 15, end: 22 });
        let behind = sources.place(Span { file: 0, start: 25, end: 29 });
        assert_eq!(behind.excerpt, ("x = 1 secret = *** } more".to_owned(), 21..25));
        let inside = sources.place(Span { file: 0, start: 17, end: 19 });
        assert_eq!(inside.excerpt, ("x = 1 secret = *** } more".to_owned(), 15..18));
        let before = sources.place(Span { file: 0, start: 0, end: 1 });
        assert_eq!(before.excerpt.1, 0..1);
    }

    #[test]
    fn a_secret_over_several_lines_is_masked_on_each() {
        let text = "secret = \"one\ntwo\" x\n";
        let mut sources = sources(text);
        sources.hide(Span { file: 0, start: 9, end: 18 });
        assert_eq!(sources.place(Span { file: 0, start: 0, end: 6 }).excerpt.0, "secret = ***");
        assert_eq!(sources.place(Span { file: 0, start: 19, end: 20 }).excerpt, ("*** x".to_owned(), 4..5));
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("{}HERE{}", "\u{e4}".repeat(5000), "b".repeat(5000));
        let (shown, range) = sources(&text).place(Span { file: 0, start: 10_000, end: 10_004 }).excerpt;
        assert!(shown.len() <= EXCERPT_MAX);
        assert_eq!(&shown[range], "HERE");
    }
}
