//! Checking a tree against the table: every name known, every value readable, nothing asked for that is not done.
//!
//! What passes is handed on as typed values by key. This module knows no key by name; the table does.

use std::collections::HashMap;

use super::diagnostic::{Diagnostics, Problem, UNKNOWN_KEY, UNKNOWN_SECTION};
use super::resolve::Resolver;
use super::schema::{self, Key, Schema, Status, Subsection, stem};
use super::source::{Sources, Span};
use super::syntax::{ROOT, SectionId, Setting, Text};
use super::values::{Kind, Value};

/// Most settings looked at for one configuration, counting an inherited one wherever it is inherited.
const MAX_SETTINGS: usize = 4_000_000;

/// A section whose settings are what the table says.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) name: String,
    /// In dot notation.
    pub(super) path: String,
    /// Where its name is written first.
    pub(super) span: Span,
    schema: &'static Schema,
    /// By the key's name in the table; several only for names that end in `*`.
    values: HashMap<&'static str, Vec<(Value, Span)>>,
    /// By the subsection's name in the table, in order.
    sections: Vec<(&'static str, Self)>,
}

impl Checked {
    /// Where `key` was given a value.
    pub(super) fn span_of(&self, key: &str) -> Option<Span> {
        self.values.get(key)?.first().map(|(_, span)| *span)
    }

    /// The value that `key` was given.
    pub(super) fn given(&self, key: &str) -> Option<&Value> {
        self.values.get(key)?.first().map(|(value, _)| value)
    }

    /// The word that `key` was given.
    pub(super) fn word_of(&self, key: &str) -> Option<&'static str> {
        match self.values.get(key)?.first()? {
            (Value::Word(word), _) => Some(word),
            _ => None,
        }
    }

    /// The values of `key` as they were given; the default if there is none.
    pub(super) fn take(&mut self, key: &str) -> Vec<(Value, Span)> {
        self.values.remove(key).filter(|values| !values.is_empty()).unwrap_or_else(|| {
            let default = self.schema.keys.iter().find(|known| known.name == key);
            default.filter(|key| !key.default.is_empty()).map_or_else(Vec::new, |key| {
                let read = key.kind.read(&Text::constant(key.default, self.span));
                read.into_iter().map(|value| (value, self.span)).collect()
            })
        })
    }

    /// The one value of `key`, given or by default.
    pub(super) fn one(&mut self, key: &str) -> Option<Value> {
        self.take(key).into_iter().next().map(|(value, _)| value)
    }

    /// The `gateway` section of a configuration without one.
    pub(super) fn empty_gateway() -> Self {
        Self {
            name: "gateway".to_owned(),
            path: "gateway".to_owned(),
            span: Span { file: 0, start: 0, end: 0 },
            schema: &schema::GATEWAY,
            values: HashMap::new(),
            sections: Vec::new(),
        }
    }

    /// Takes the subsections the table calls `name`.
    pub(super) fn take_sections(&mut self, name: &str) -> Vec<Self> {
        let taken = self.sections.extract_if(.., |(kind, _)| *kind == name);
        taken.map(|(_, section)| section).collect()
    }
}

/// Checks one configuration.
pub(super) struct Checker<'t, 'd> {
    pub(super) resolver: Resolver<'t>,
    pub(super) sources: &'d mut Sources,
    pub(super) diagnostics: &'d mut Diagnostics,
    /// Sections that were looked at, by number.
    used: Vec<bool>,
    looked_at: usize,
}

impl<'t, 'd> Checker<'t, 'd> {
    pub(super) fn new(
        resolver: Resolver<'t>,
        sources: &'d mut Sources,
        diagnostics: &'d mut Diagnostics,
    ) -> Self {
        let used = vec![false; resolver.tree().ids().count()];
        Self { resolver, sources, diagnostics, used, looked_at: 0 }
    }

    /// Checks everything from the root on. `None` if an inheritance is broken: what is missing then says nothing.
    pub(super) fn root(&mut self) -> Option<Checked> {
        for id in self.resolver.tree().ids() {
            self.resolver.expand(id);
        }
        for problem in std::mem::take(&mut self.resolver.problems) {
            self.diagnostics.error(self.sources, problem);
        }
        if !self.diagnostics.errors.is_empty() {
            return None;
        }
        let span = Span { file: 0, start: 0, end: 0 };
        let checked = self.section(&[ROOT], &schema::ROOT, String::new(), String::new(), span);
        if !self.diagnostics.is_full() {
            self.unused();
        }
        Some(checked)
    }

    fn error(&mut self, problem: Problem) {
        self.diagnostics.error(self.sources, problem);
    }

    fn section(
        &mut self,
        view: &[SectionId],
        schema: &'static Schema,
        name: String,
        path: String,
        span: Span,
    ) -> Checked {
        let mut checked = Checked { name, path, span, schema, values: HashMap::new(), sections: Vec::new() };
        for &layer in view {
            if let Some(used) = self.used.get_mut(layer) {
                *used = true;
            }
        }
        for setting in self.resolver.settings(view) {
            if self.exhausted(span) {
                return checked;
            }
            let path = join(&checked.path, &setting.key);
            match schema.key(&setting.key) {
                Some(key) => {
                    if let Some(text) = &setting.value
                        && let Some(value) = self.value(key, text, setting, &path)
                    {
                        checked.values.entry(key.name).or_default().push((value, text.span));
                    }
                }
                None => self.unknown_key(schema, setting, path),
            }
        }
        for (name, id) in self.resolver.subsections(view) {
            if self.exhausted(span) {
                return checked;
            }
            let path = join(&checked.path, name);
            let span = self.opened(id);
            let Some(kind) = schema.section(name).filter(|_| schema.key(name).is_none()) else {
                // Other sections at the top are there to be inherited; the unused ones are found later.
                if view != [ROOT] {
                    self.unknown_section(schema, name, id, path);
                }
                continue;
            };
            let layers = self.resolver.child(view, name);
            if kind.done {
                let section = self.section(&layers, kind.schema, name.to_owned(), path, span);
                checked.sections.push((kind.name, section));
            } else {
                layers.iter().for_each(|&layer| self.use_all(layer));
                let known: Vec<&str> =
                    schema.sections.iter().filter(|known| known.done).map(|known| known.name).collect();
                let expected = match known.as_slice() {
                    [] => "nothing here".to_owned(),
                    names => format!("`{}`", names.join("` or `")),
                };
                self.error(
                    Problem::new(span, path, "sections of this kind are not done yet").expected(expected),
                );
            }
        }
        checked
    }

    fn value(&mut self, key: &'static Key, text: &Text, setting: &Setting, path: &str) -> Option<Value> {
        // Nothing to do, nothing to say: an empty list of what is not done yet.
        if key.status == Status::NotYet {
            if !text.text.is_empty() {
                self.error(Problem::new(setting.key_span, path, "not done yet").expected("no such key"));
            }
            return None;
        }
        let value = match key.kind.read(text) {
            Ok(value) => value,
            Err(wrong) => {
                let mut problem = Problem::new(wrong.span, path, wrong.message).expected(wrong.expected);
                if let Some(nearest) = &wrong.nearest {
                    problem = problem.nearest(nearest, [nearest.as_str()]);
                }
                self.error(problem);
                return None;
            }
        };
        if matches!(key.status, Status::Only | Status::Instead(_)) && !matches!(key.kind, Kind::Choice(_)) {
            let default = key.kind.read(&Text::constant(key.default, text.span)).ok();
            if !default.is_some_and(|default| value.same(&default)) {
                let message = format!("{} is not done yet", super::values::quoted(text));
                let expected = match key.status {
                    Status::Instead(instead) => instead.to_owned(),
                    _ => format!("`{}`, or no such key", key.default),
                };
                self.error(Problem::new(text.span, path, message).expected(expected));
            }
        }
        Some(value)
    }

    fn unknown_key(&mut self, schema: &'static Schema, setting: &Setting, path: String) {
        let keys = schema.keys.iter().map(|key| stem(key.name));
        let is_section = |section: &&Subsection| {
            // `local_adrs` is a misspelt key rather than a round called so.
            stem(section.name) == setting.key || super::diagnostic::nearest(&setting.key, keys).is_none()
        };
        let problem = if let Some(section) = schema.section(&setting.key).filter(is_section) {
            let name = stem(section.name);
            let name = if name.is_empty() { setting.key.as_str() } else { name };
            Problem::new(setting.key_span, path, "this is a section, not a key")
                .expected(format!("`{name} {{ ... }}`"))
        } else {
            // An unknown key that resembles no known one may be the strayed half of a secret.
            let problem = Problem::new(setting.key_span, "", "").nearest(&setting.key, schema.names());
            if path.starts_with("secrets") && !problem.has_nearest() {
                self.sources.hide(setting.key_span);
                let above = path.rsplit_once('.').map(|(above, _)| above.to_owned()).unwrap_or_default();
                Problem::new(setting.key_span, above, UNKNOWN_KEY).expected(self.expected(schema))
            } else {
                Problem::new(setting.key_span, path, UNKNOWN_KEY)
                    .expected(self.expected(schema))
                    .nearest(&setting.key, schema.names())
            }
        };
        self.error(problem);
    }

    /// The names that may stand in a section, if they fit on a line.
    fn expected(&self, schema: &'static Schema) -> String {
        let names: Vec<&str> = schema.names().collect();
        let place = if schema.path.is_empty() { "the file" } else { schema.path };
        match names.len() {
            0 if schema.sections.is_empty() => format!("nothing in `{place}`"),
            0 => format!("sections with names of your choice in `{place}`"),
            1..=6 => format!("`{}` in `{place}`", names.join("`, `")),
            _ => format!("a key of `{place}`"),
        }
    }

    fn unknown_section(&mut self, schema: &'static Schema, name: &str, id: SectionId, path: String) {
        self.use_all(id);
        let span = self.opened(id);
        let problem = match schema.key(name) {
            Some(_) => {
                Problem::new(span, path, "this is a key, not a section").expected(format!("`{name} = ...`"))
            }
            None => Problem::new(span, path, UNKNOWN_SECTION)
                .expected(self.expected(schema))
                .nearest(name, schema.names()),
        };
        self.error(problem);
    }

    /// Where a section is opened first.
    fn opened(&self, id: SectionId) -> Span {
        let opened = self.resolver.tree().section(id).and_then(|section| section.opened.first());
        opened.copied().unwrap_or(Span { file: 0, start: 0, end: 0 })
    }

    /// Marks a section and everything in it as looked at.
    fn use_all(&mut self, id: SectionId) {
        // Sections nest as deep as the grammar allows, which is little.
        if let Some(used) = self.used.get_mut(id)
            && !std::mem::replace(used, true)
            && let Some(section) = self.resolver.tree().section(id)
        {
            section.sections.iter().for_each(|&id| self.use_all(id));
        }
    }

    /// Finds sections that nothing reads: a misspelt top-level name, or a forgotten template.
    fn unused(&mut self) {
        let tree = self.resolver.tree();
        for id in tree.ids() {
            let Some(section) = tree.section(id) else { continue };
            // A section that only holds others is judged by them.
            if self.used.get(id) == Some(&true)
                || (section.settings.is_empty() && !section.sections.is_empty())
            {
                continue;
            }
            let path = tree.path(id);
            let name = path.split('.').next().unwrap_or_default().to_owned();
            let mut problem = Problem::new(self.opened(id), path, "nothing reads this section")
                .expected("a section that Adit knows, or one that another inherits from");
            if section.parent == Some(ROOT) {
                problem = problem.nearest(&name, schema::ROOT.names());
            } else if schema::ROOT.section(&name).is_none()
                && let Some(nearest) = super::diagnostic::nearest(&name, schema::ROOT.names())
            {
                problem = problem.note(format!("is `{name}` meant to be `{nearest}`?"), None);
            }
            self.error(problem);
            self.use_all(id);
        }
    }

    /// Is it time to stop?
    fn exhausted(&mut self, span: Span) -> bool {
        self.looked_at += 1;
        if self.looked_at == MAX_SETTINGS {
            let message = format!("more than {MAX_SETTINGS} settings, counting inherited ones");
            self.error(Problem::new(span, "", message));
        }
        self.looked_at >= MAX_SETTINGS || self.diagnostics.is_full()
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
