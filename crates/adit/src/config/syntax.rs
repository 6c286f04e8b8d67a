//! The grammar of strongSwan's configuration files: sections, settings, references, comments, quoting, includes.
//!
//! This module turns files into one tree of sections whose every node knows where it was written. It knows no key
//! and no meaning, except which values are secrets and must never be shown. Whatever a file holds, it costs time and
//! memory in proportion to its size.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::diagnostic::{Problem, Severity};
use super::schema;
use super::source::{Sources, Span};

/// Largest file, and largest sum of all files read, in bytes.
pub(super) const MAX_BYTES: usize = 16 << 20;
/// Deepest nesting of sections.
const MAX_DEPTH: usize = 32;
/// Deepest nesting of includes.
const MAX_INCLUDE_DEPTH: usize = 16;
/// Most files read for one configuration, counting a file once per include.
const MAX_FILES: usize = 10_000;
/// Longest name of a section or key, in bytes.
const MAX_NAME: usize = 256;
/// After this many syntax errors reading stops.
const MAX_PROBLEMS: usize = 200;

/// Where files come from: the disk, or nowhere for a test or fuzzer.
pub(crate) trait Files {
    /// The files a pattern names, sorted. An empty answer is fine for a pattern with wildcards only.
    fn expand(&self, pattern: &Path) -> Result<Vec<PathBuf>, String>;
    /// The content of a file of at most `limit` bytes.
    fn read(&self, path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, String>;
}

/// All sections of a configuration. The root is number 0.
pub(super) struct Tree {
    sections: Vec<Section>,
}

/// Number of a section in its [`Tree`].
pub(super) type SectionId = usize;

/// The root section.
pub(super) const ROOT: SectionId = 0;

/// A section, merged from every place that opens it.
pub(super) struct Section {
    pub(super) name: String,
    pub(super) parent: Option<SectionId>,
    /// The name, at each place that opens the section.
    pub(super) opened: Vec<Span>,
    pub(super) references: Vec<Reference>,
    /// In the order they first appear.
    pub(super) settings: Vec<Setting>,
    /// In the order they first appear.
    pub(super) sections: Vec<SectionId>,
    setting_index: HashMap<String, usize>,
    section_index: HashMap<String, SectionId>,
}

/// `: a.b` behind a section's name.
pub(super) struct Reference {
    pub(super) path: Vec<String>,
    pub(super) span: Span,
}

/// `key = value`; the last one written.
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) key_span: Span,
    /// `None`: cleared, as if the key was never there.
    pub(super) value: Option<Text>,
}

/// A value with quotes and escapes undone.
pub(super) struct Text {
    pub(super) text: Zeroizing<String>,
    pub(super) span: Span,
    /// The value is the text of its span byte for byte, so places inside it are known.
    verbatim: bool,
    /// A secret, or a value that may have swallowed one: never shown.
    pub(super) hidden: bool,
}

impl Text {
    /// A value that was not read from a file.
    pub(super) fn constant(text: &str, span: Span) -> Self {
        Self { text: Zeroizing::new(text.to_owned()), span, verbatim: false, hidden: false }
    }

    /// The part of the value from byte `start` to byte `end`, with its own place if that is known.
    pub(super) fn part(&self, start: usize, end: usize) -> Self {
        let span = if self.verbatim {
            Span { file: self.span.file, start: self.span.start + start, end: self.span.start + end }
        } else {
            self.span
        };
        let text = self.text.get(start..end).unwrap_or_default().to_owned();
        Self { text: Zeroizing::new(text), span, verbatim: self.verbatim, hidden: self.hidden }
    }
}

impl Tree {
    /// With nothing but the root.
    pub(super) fn new() -> Self {
        Self { sections: vec![Section::new("", None)] }
    }

    pub(super) fn section(&self, id: SectionId) -> Option<&Section> {
        self.sections.get(id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = SectionId> {
        0..self.sections.len()
    }

    /// The section in dot notation, empty for the root.
    pub(super) fn path(&self, mut id: SectionId) -> String {
        let mut names = Vec::new();
        while let Some(section) = self.section(id)
            && let Some(parent) = section.parent
        {
            names.push(section.name.as_str());
            id = parent;
        }
        names.reverse();
        // Nothing is nested in a secret. What looks as if it were is a secret that lost its `=`.
        let below_a_secret =
            names.iter().position(|name| *name == "secrets").map_or(names.len(), |at| at + 2);
        for name in names.iter_mut().skip(below_a_secret) {
            *name = "...";
        }
        names.join(".")
    }

    /// Is a section called `name`, or inside one that is?
    fn is_within(&self, mut id: SectionId, name: &str) -> bool {
        while let Some(section) = self.section(id)
            && let Some(parent) = section.parent
        {
            if section.name == name {
                return true;
            }
            id = parent;
        }
        false
    }

    /// Sets a key of a section.
    pub(super) fn set(&mut self, id: SectionId, setting: Setting) {
        if let Some(section) = self.sections.get_mut(id) {
            section.set(setting);
        }
    }

    /// Opens a section, the first time or again.
    pub(super) fn open(&mut self, parent: SectionId, name: &str, span: Span) -> SectionId {
        let new = self.sections.len();
        let Some(section) = self.sections.get_mut(parent) else { return parent };
        let id = *section.section_index.entry(name.to_owned()).or_insert(new);
        if id == new {
            section.sections.push(new);
            self.sections.push(Section::new(name, Some(parent)));
        }
        if let Some(section) = self.sections.get_mut(id) {
            section.opened.push(span);
        }
        id
    }
}

impl Section {
    fn new(name: &str, parent: Option<SectionId>) -> Self {
        Self {
            name: name.to_owned(),
            parent,
            opened: Vec::new(),
            references: Vec::new(),
            settings: Vec::new(),
            sections: Vec::new(),
            setting_index: HashMap::new(),
            section_index: HashMap::new(),
        }
    }

    pub(super) fn setting(&self, key: &str) -> Option<&Setting> {
        self.settings.get(*self.setting_index.get(key)?)
    }

    pub(super) fn subsection(&self, name: &str) -> Option<SectionId> {
        self.section_index.get(name).copied()
    }

    fn set(&mut self, setting: Setting) {
        match self.setting_index.get(&setting.key).and_then(|&at| self.settings.get_mut(at)) {
            Some(known) => *known = setting,
            None => {
                self.setting_index.insert(setting.key.clone(), self.settings.len());
                self.settings.push(setting);
            }
        }
    }
}

/// What reading found: a tree, the text it points into, and what is wrong.
pub(super) struct Parsed {
    pub(super) tree: Tree,
    pub(super) sources: Sources,
    pub(super) problems: Vec<(Severity, Problem)>,
}

/// Reads `path` and everything it includes.
pub(super) fn parse(path: &Path, files: &dyn Files) -> Parsed {
    let mut reader = Reader {
        files,
        tree: Tree::new(),
        sources: Sources::default(),
        problems: Vec::new(),
        bytes: 0,
        including: Vec::new(),
        opened_files: 0,
        unknown_keys: 0,
        after_secret: false,
    };
    reader.file(path, ROOT, 0, None);
    Parsed { tree: reader.tree, sources: reader.sources, problems: reader.problems }
}

struct Reader<'f> {
    files: &'f dyn Files,
    tree: Tree,
    sources: Sources,
    problems: Vec<(Severity, Problem)>,
    /// Sum of the sizes of the files read.
    bytes: usize,
    /// Files that are being read, outermost first.
    including: Vec<PathBuf>,
    opened_files: usize,
    /// Keys so far that are in no table.
    unknown_keys: usize,
    /// The last setting was a secret: what follows it may be its misplaced rest.
    after_secret: bool,
}

impl Reader<'_> {
    fn error(&mut self, problem: Problem) {
        self.problems.push((Severity::Error, problem));
    }

    /// Reads one file into the section `base`, which is `depth` sections deep.
    fn file(&mut self, path: &Path, base: SectionId, depth: usize, from: Option<Span>) {
        let problem = |message: String| match from {
            Some(span) => Problem::new(span, "include", message),
            None => Problem::nowhere("", message),
        };
        self.opened_files += 1;
        if self.opened_files > MAX_FILES {
            if self.opened_files == MAX_FILES + 1 {
                self.error(problem(format!("more than {MAX_FILES} files are included")));
            }
            return;
        }
        let file = match self.sources.find(path) {
            Some(file) => {
                self.bytes = self.bytes.saturating_add(self.sources.text(file).len());
                file
            }
            None => match self.read(path) {
                Ok(file) => file,
                Err(message) => {
                    self.error(problem(format!("cannot read {}: {message}", path.display())));
                    return;
                }
            },
        };
        if self.bytes > MAX_BYTES {
            self.error(problem(format!("the files hold more than {} MiB together", MAX_BYTES >> 20)));
            return;
        }
        // The text leaves the sources while it is read: problems and secrets are recorded meanwhile.
        let text = Zeroizing::new(self.sources.text(file).to_owned());
        self.including.push(path.to_owned());
        Parser { reader: self, text: &text, file, at: 0, stack: vec![base], base_depth: depth }.settings();
        self.including.pop();
    }

    fn read(&mut self, path: &Path) -> Result<usize, String> {
        let bytes = self.files.read(path, MAX_BYTES - self.bytes.min(MAX_BYTES))?;
        self.bytes += bytes.len();
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(self.sources.add(path.to_owned(), Zeroizing::new(text.to_owned()))),
            Err(error) => {
                let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
                let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
                Err(format!("line {line} is not UTF-8 text (write other bytes as 0x... or 0s...)"))
            }
        }
    }
}

/// Reads the text of one file.
struct Parser<'r, 'f, 't> {
    reader: &'r mut Reader<'f>,
    text: &'t str,
    file: usize,
    at: usize,
    /// Open sections; the first is the one the file is read into.
    stack: Vec<SectionId>,
    base_depth: usize,
}

impl Parser<'_, '_, '_> {
    /// `settings := (section | keyvalue | include)*`
    fn settings(&mut self) {
        loop {
            if self.reader.problems.len() >= MAX_PROBLEMS {
                return;
            }
            self.skip_blank_lines();
            let start = self.at;
            match self.peek() {
                None => break,
                Some('}') => {
                    self.at += 1;
                    if self.stack.len() > 1 {
                        self.stack.pop();
                    } else {
                        self.fail(self.span(start), "unexpected `}`: no section is open in this file", None);
                    }
                }
                Some(character) if is_name(character) => self.statement(),
                Some(_) => self.unexpected("a name, `include` or `}`"),
            }
        }
        if self.stack.len() > 1
            && let Some(&id) = self.stack.last()
            && let Some(section) = self.reader.tree.section(id)
            && let Some(&span) = section.opened.last()
        {
            let name = section.name.clone();
            self.fail(span, format!("section `{name}` is not closed"), Some("a `}` before the file ends"));
        }
    }

    fn statement(&mut self) {
        let name_span = self.name();
        let name = self.slice(name_span).to_owned();
        if name.len() > MAX_NAME {
            self.fail(name_span, format!("a name of more than {MAX_NAME} bytes"), None);
            self.skip_line();
            return;
        }
        let blank = matches!(self.peek(), Some(' ' | '\t'));
        self.skip_blanks();
        if name == "include" && blank && !matches!(self.peek(), Some('=' | ':' | '{')) {
            self.include(name_span);
            return;
        }
        match self.peek() {
            Some('=') => {
                self.at += 1;
                let value = self.value(name_span, &name);
                let setting = Setting { key: name, key_span: name_span, value };
                if let Some(&id) = self.stack.last() {
                    self.reader.tree.set(id, setting);
                }
            }
            Some('{' | ':' | '\n' | '\r' | '#') => self.section(&name, name_span),
            other => {
                self.hide_fragment(name_span);
                let expected = if other == Some('.') {
                    "a name without dots"
                } else {
                    "`=`, `{` or `:` behind the name"
                };
                self.unexpected(expected);
            }
        }
    }

    /// `section := name [":" references] "{" settings "}"`, here up to the opening brace.
    fn section(&mut self, name: &str, name_span: Span) {
        if schema::may_be_secret(name) {
            // No section is called so: the sign behind the name is wrong, and what follows is the secret.
            self.reader.after_secret = true;
            let (start, end) = (self.at, self.line_end());
            self.reader.sources.hide(Span { file: self.file, start, end });
        }
        let mut references = Vec::new();
        if self.peek() == Some(':') {
            self.at += 1;
            match self.references() {
                Some(found) => references = found,
                None => return self.hide_fragment(name_span),
            }
        }
        let before = self.at;
        self.skip_blank_lines();
        if self.peek() != Some('{') {
            self.at = before;
            self.hide_fragment(name_span);
            self.fail(name_span, "neither a setting nor a section", Some("`=`, `{` or `:` behind the name"));
            self.skip_line();
            return;
        }
        self.at += 1;
        let parent = self.stack.last().copied().unwrap_or(ROOT);
        if self.base_depth + self.stack.len() > MAX_DEPTH {
            self.fail(name_span, format!("sections nest deeper than {MAX_DEPTH}"), None);
            // What is inside would be attributed wrongly.
            self.at = self.text.len();
            self.stack.truncate(1);
            return;
        }
        if let Some(known) = self.reader.tree.section(parent).and_then(|section| section.subsection(name))
            && let Some(&first) = self
                .reader
                .tree
                .section(known)
                .and_then(|section| section.opened.iter().find(|span| span.file == self.file))
            && first != name_span
            && self.base_depth + self.stack.len() > 1
        {
            let problem = Problem::new(
                name_span,
                self.reader.tree.path(known),
                format!("section `{name}` is opened a second time in this file; both are merged"),
            );
            let problem = problem.note("first opened here", Some(first));
            self.reader.problems.push((Severity::Warning, problem));
        }
        let id = self.reader.tree.open(parent, name, name_span);
        if let Some(section) = self.reader.tree.sections.get_mut(id) {
            section.references.extend(references);
        }
        self.stack.push(id);
    }

    /// `references := absname ("," absname)*`, `absname := name ("." name)*`
    fn references(&mut self) -> Option<Vec<Reference>> {
        let mut references = Vec::new();
        loop {
            self.skip_blank_lines();
            let start = self.at;
            let mut path = Vec::new();
            loop {
                if !self.peek().is_some_and(is_name) {
                    self.unexpected("the full name of a section (`a` or `a.b`)");
                    return None;
                }
                let span = self.name();
                path.push(self.slice(span).to_owned());
                if self.peek() != Some('.') {
                    break;
                }
                self.at += 1;
            }
            references.push(Reference { path, span: self.span(start) });
            let before = self.at;
            self.skip_blank_lines();
            match self.peek() {
                Some(',') => self.at += 1,
                Some('{') => return Some(references),
                _ => {
                    self.at = before;
                    self.skip_blanks();
                    self.unexpected("`,` or `{` behind the reference");
                    return None;
                }
            }
        }
    }

    /// The value behind `=`: words and quoted strings, joined by one space, until the end of the line, `#` or `}`.
    fn value(&mut self, name_span: Span, name: &str) -> Option<Text> {
        let mut text = Zeroizing::new(String::new());
        let mut whole: Option<Span> = None;
        let (mut parts, mut verbatim, mut stray) = (0, false, None);
        loop {
            self.skip_blanks();
            let start = self.at;
            let word_before =
                parts > 0 && start > 0 && !matches!(self.before(start), '"' | ' ' | '\t' | '\r' | '\n');
            match self.peek() {
                None | Some('\n' | '}') => break,
                Some('#') => {
                    if word_before {
                        stray = Some((start, "`#` starts a comment even behind a word"));
                    }
                    break;
                }
                Some(_) => {}
            }
            if parts > 0 {
                text.push(' ');
            }
            parts += 1;
            if self.peek() == Some('"') {
                verbatim = false;
                if !self.quoted(&mut text) {
                    let hidden = whole.map_or(start, |whole| whole.start);
                    self.reader.sources.hide(Span { end: self.text.len(), ..self.span(hidden) });
                    self.fail(
                        Span { end: start + 1, ..self.span(start) },
                        "the string has no end",
                        Some("a closing `\"`"),
                    );
                    // What is still open stays so because the quote swallowed the rest.
                    self.stack.truncate(1);
                    return None;
                }
            } else {
                let rest = self.text.get(start..).unwrap_or_default();
                let len = rest.find(['#', '}', '"', '\n', '\r', '\t', ' ']).unwrap_or(rest.len());
                let word = rest.get(..len).unwrap_or_default();
                if word == "=" {
                    stray = Some((start, "a value ends with its line: this `=` belongs to the value"));
                }
                text.push_str(word);
                self.at += len;
                verbatim = parts == 1;
            }
            let start = whole.map_or(start, |whole| whole.start);
            whole = Some(self.span(start));
        }
        self.reader.after_secret = self.is_secret(name);
        let span = whole?;
        // Several words are verbatim too where exactly one space stands between them.
        verbatim |= self.slice(span) == text.as_str();
        // A forgotten quote or line end makes one value of several settings, and one of them may be a secret.
        let mut words = text.split([' ', '\n', '=']);
        let hidden = self.reader.after_secret
            || stray.is_some()
            || text.contains('\n')
            || words.any(|word| word != "psk" && schema::may_be_secret(word));
        if hidden {
            // What follows on the line is a comment, or was meant to be a part of the value.
            let end = if stray.is_some() || self.peek() == Some('#') { self.line_end() } else { span.end };
            self.reader.sources.hide(Span { end, ..span });
        }
        if schema::may_be_secret(name) {
            self.reader.sources.secret(span);
        }
        if let Some((at, message)) = stray {
            let problem = Problem::new(Span { file: self.file, start: at, end: at + 1 }, name, message)
                .expected("quotes around the value if that is meant")
                .note("value of this key", Some(name_span));
            self.reader.problems.push((Severity::Warning, problem));
        }
        Some(Text { text, span, verbatim, hidden })
    }

    /// A string up to its closing quote. False if there is none.
    fn quoted(&mut self, out: &mut String) -> bool {
        self.at += 1;
        while let Some(character) = self.bump() {
            match character {
                '"' => return true,
                '\\' => match self.bump() {
                    Some('n') => out.push('\n'),
                    Some('r') => out.push('\r'),
                    Some('t') => out.push('\t'),
                    Some('b') => out.push('\u{8}'),
                    Some('f') => out.push('\u{c}'),
                    // A backslash at the end of a line joins it with the next.
                    Some('\n') => {}
                    Some('\r') if self.peek() == Some('\n') => self.at += 1,
                    Some(other) => out.push(other),
                    None => return false,
                },
                other => out.push(other),
            }
        }
        false
    }

    /// `include pattern`, quotes and backslashes allowed; relative to the including file.
    fn include(&mut self, name_span: Span) {
        let start = self.at;
        let mut pattern = Zeroizing::new(String::new());
        while let Some(character) = self.peek() {
            match character {
                ' ' | '\t' | '\r' | '\n' | '#' | '}' => break,
                '"' => {
                    if !self.quoted(&mut pattern) {
                        self.fail(self.span(start), "the string has no end", Some("a closing `\"`"));
                        return;
                    }
                }
                '\\' if self
                    .text
                    .get(self.at + 1..)
                    .is_some_and(|rest| rest.starts_with(['"', '#', '}', ' '])) =>
                {
                    self.at += 1;
                    pattern.extend(self.bump());
                }
                other => {
                    pattern.push(other);
                    self.at += other.len_utf8();
                }
            }
        }
        let span = self.span(start);
        self.skip_blanks();
        if !matches!(self.peek(), None | Some('\n' | '#' | '}')) {
            self.unexpected("the end of the line behind the file name (quote names with spaces)");
            return;
        }
        if pattern.is_empty() {
            self.fail(name_span, "include names no file", Some("a file name or pattern"));
            return;
        }
        let base = self.reader.sources.path(self.file).parent().unwrap_or_else(|| Path::new("")).to_owned();
        let pattern = base.join(pattern.as_str());
        let paths = match self.reader.files.expand(&pattern) {
            Ok(paths) => paths,
            Err(message) => {
                self.fail(span, format!("cannot include {}: {message}", pattern.display()), None);
                return;
            }
        };
        let parent = self.stack.last().copied().unwrap_or(ROOT);
        let depth = self.base_depth + self.stack.len() - 1;
        for path in paths {
            if self.reader.problems.len() >= MAX_PROBLEMS {
                return;
            }
            if self.reader.including.contains(&path) {
                self.fail(span, format!("{} includes itself", path.display()), None);
            } else if self.reader.including.len() >= MAX_INCLUDE_DEPTH {
                self.fail(span, format!("includes nest deeper than {MAX_INCLUDE_DEPTH}"), None);
            } else {
                self.reader.file(&path, parent, depth, Some(span));
            }
        }
    }

    // Characters.

    fn peek(&self) -> Option<char> {
        self.text.get(self.at..)?.chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.at += character.len_utf8();
        Some(character)
    }

    fn before(&self, at: usize) -> char {
        self.text.get(..at).and_then(|text| text.chars().next_back()).unwrap_or(' ')
    }

    fn span(&self, start: usize) -> Span {
        Span { file: self.file, start, end: self.at }
    }

    fn slice(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or_default()
    }

    fn name(&mut self) -> Span {
        let start = self.at;
        while self.peek().is_some_and(is_name) {
            self.bump();
        }
        self.span(start)
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\r')) {
            self.at += 1;
        }
    }

    /// Blanks, line ends and comments.
    fn skip_blank_lines(&mut self) {
        loop {
            self.skip_blanks();
            match self.peek() {
                Some('\n') => self.at += 1,
                Some('#') => {
                    let (start, end) = (self.at, self.line_end());
                    self.at = end;
                    let comment = self.slice(Span { file: self.file, start, end });
                    // Settings that were commented out are secrets still.
                    if self.reader.after_secret
                        || self.in_secrets()
                        || comment.split([' ', '=']).any(schema::may_be_secret)
                    {
                        self.reader.sources.hide(Span { file: self.file, start, end });
                    }
                }
                _ => return,
            }
        }
    }

    fn line_end(&self) -> usize {
        let rest = self.text.get(self.at..).unwrap_or_default();
        self.at + rest.find('\n').unwrap_or(rest.len())
    }

    // Errors.

    fn fail(&mut self, span: Span, message: impl Into<String>, expected: Option<&str>) {
        let key = self.stack.last().map(|&id| self.reader.tree.path(id)).unwrap_or_default();
        let mut problem = Problem::new(span, key, message);
        if let Some(expected) = expected {
            problem = problem.expected(expected);
        }
        self.reader.error(problem);
    }

    /// An error at the next character; the rest of the line is skipped.
    fn unexpected(&mut self, expected: &str) {
        let (start, found) = (self.at, self.bump());
        let message = match found {
            None => "unexpected end of the file".to_owned(),
            Some('\n') => "unexpected end of the line".to_owned(),
            Some(character) if is_name(character) => "unexpected word".to_owned(),
            Some(character) if character.is_control() => {
                format!("unexpected `{}`", character.escape_default())
            }
            Some(character) => format!("unexpected `{character}`"),
        };
        let span =
            if found == Some('\n') { Span { end: start, ..self.span(start) } } else { self.span(start) };
        self.at = start;
        self.fail(span, message, Some(expected));
        self.skip_line();
    }

    /// Skips to the end of the line. What is skipped may hold a secret that nothing marks as one.
    fn skip_line(&mut self) {
        let end = self.line_end();
        let rest = self.text.get(self.at..end).unwrap_or_default();
        let mut at = self.at;
        for word in rest.split_inclusive(|character| !is_name(character)) {
            let name = word.trim_end_matches(|character| !is_name(character));
            if !name.is_empty() && !schema::is_public_name(name) {
                self.reader.sources.hide(Span { file: self.file, start: at, end });
                self.reader.after_secret = true;
                break;
            }
            at += word.len();
        }
        self.at = end;
    }

    /// A lone word behind a secret may be the rest of it.
    fn hide_fragment(&mut self, span: Span) {
        if (self.reader.after_secret || self.in_secrets()) && !schema::is_public_name(self.slice(span)) {
            self.reader.sources.hide(span);
        }
    }

    fn in_secrets(&self) -> bool {
        self.stack.last().is_some_and(|&id| self.reader.tree.is_within(id, "secrets"))
    }

    /// Must the value of this key never be shown? Decided by name and place. The value of a key that neither is nor
    /// resembles a known one is better not shown either: its name may be what a slip of the finger left of `secret`.
    fn is_secret(&mut self, key: &str) -> bool {
        if self.in_secrets() {
            return !schema::is_public_in_secrets(key);
        }
        if schema::is_public_name(key) {
            return false;
        }
        self.reader.unknown_keys += 1;
        schema::may_be_secret(key)
            || self.reader.unknown_keys > MAX_PROBLEMS
            || !schema::resembles_public_name(key)
    }
}

/// Names hold any printable character except `. , : { } = " #`.
fn is_name(character: char) -> bool {
    !matches!(character, '.' | ',' | ':' | '{' | '}' | '=' | '"' | '#')
        && !character.is_whitespace()
        && !character.is_control()
}
