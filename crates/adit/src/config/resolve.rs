//! Inheritance: which sections stand behind one name when references are followed.
//!
//! A *view* is a list of sections of the tree that act as one: a section, then what it refers to, in order. Looking
//! a key up means taking it from the first of them that has it. References are followed when they are needed, so
//! they may point forward, and a section reached through a reference brings its own references along.

use std::collections::HashMap;
use std::rc::Rc;

use super::diagnostic::Problem;
use super::syntax::{ROOT, Reference, Section, SectionId, Setting, Tree};

/// Most sections that may act as one.
const MAX_LAYERS: usize = 64;

/// Sections that act as one, the section's own first.
pub(super) type View = Rc<[SectionId]>;

/// Follows references, each once.
pub(super) struct Resolver<'t> {
    tree: &'t Tree,
    expanded: HashMap<SectionId, View>,
    /// Sections whose references are being followed, to find circles.
    active: Vec<SectionId>,
    pub(super) problems: Vec<Problem>,
}

impl<'t> Resolver<'t> {
    pub(super) fn new(tree: &'t Tree) -> Self {
        Self { tree, expanded: HashMap::new(), active: Vec::new(), problems: Vec::new() }
    }

    pub(super) fn tree(&self) -> &'t Tree {
        self.tree
    }

    /// The sections of a view themselves.
    pub(super) fn layers<'v>(
        &self,
        view: &'v [SectionId],
    ) -> impl Iterator<Item = &'t Section> + use<'t, 'v> {
        let tree = self.tree;
        view.iter().filter_map(move |&id| tree.section(id))
    }

    /// The view of one section: itself and everything it inherits.
    pub(super) fn expand(&mut self, id: SectionId) -> View {
        if let Some(view) = self.expanded.get(&id) {
            return Rc::clone(view);
        }
        let tree = self.tree;
        let mut layers = vec![id];
        self.active.push(id);
        for reference in tree.section(id).map(|section| section.references.as_slice()).unwrap_or_default() {
            for layer in self.follow(id, reference) {
                if !layers.contains(&layer) {
                    layers.push(layer);
                }
            }
            if layers.len() > MAX_LAYERS {
                layers.truncate(MAX_LAYERS);
                self.problem(id, reference, format!("more than {MAX_LAYERS} sections are inherited"));
                break;
            }
        }
        self.active.pop();
        let view: View = layers.into();
        self.expanded.insert(id, Rc::clone(&view));
        view
    }

    /// The view of the subsection `name` of a view; empty if no layer has it.
    pub(super) fn child(&mut self, view: &[SectionId], name: &str) -> Vec<SectionId> {
        let mut layers = Vec::new();
        for &layer in view {
            let Some(id) = self.tree.section(layer).and_then(|section| section.subsection(name)) else {
                continue;
            };
            for &layer in self.expand(id).iter() {
                if !layers.contains(&layer) && layers.len() < MAX_LAYERS {
                    layers.push(layer);
                }
            }
        }
        layers
    }

    /// The settings of a view: each key once, from the first layer that has it.
    pub(super) fn settings(&self, view: &[SectionId]) -> Vec<&'t Setting> {
        let mut settings: Vec<&'t Setting> = Vec::new();
        for (index, section) in self.layers(view).enumerate() {
            let before: Vec<&Section> = self.layers(view).take(index).collect();
            settings.extend(
                section
                    .settings
                    .iter()
                    .filter(|setting| before.iter().all(|layer| layer.setting(&setting.key).is_none())),
            );
        }
        settings
    }

    /// The names of all subsections of a view with the section that is first to have it.
    pub(super) fn subsections(&self, view: &[SectionId]) -> Vec<(&'t str, SectionId)> {
        let mut names: Vec<(&'t str, SectionId)> = Vec::new();
        for (index, section) in self.layers(view).enumerate() {
            let before: Vec<&Section> = self.layers(view).take(index).collect();
            for &id in &section.sections {
                if let Some(subsection) = self.tree.section(id)
                    && before.iter().all(|layer| layer.subsection(&subsection.name).is_none())
                {
                    names.push((subsection.name.as_str(), id));
                }
            }
        }
        names
    }

    fn follow(&mut self, from: SectionId, reference: &Reference) -> Vec<SectionId> {
        let mut view = vec![ROOT];
        for (index, name) in reference.path.iter().enumerate() {
            // Following a section whose references are being followed would never end.
            for &layer in &view {
                if let Some(id) = self.tree.section(layer).and_then(|section| section.subsection(name))
                    && self.active.contains(&id)
                {
                    let circle = self.tree.path(id);
                    self.problem(from, reference, format!("section `{circle}` inherits from itself"));
                    return Vec::new();
                }
            }
            if self.active.len() >= MAX_LAYERS {
                self.problem(from, reference, format!("references follow on more than {MAX_LAYERS} others"));
                return Vec::new();
            }
            let next = self.child(&view, name);
            if next.is_empty() {
                let names: Vec<&str> = self.subsections(&view).into_iter().map(|(name, _)| name).collect();
                let above =
                    reference.path.iter().take(index).map(String::as_str).collect::<Vec<_>>().join(".");
                let message = if above.is_empty() {
                    format!("there is no section `{name}` to inherit from")
                } else {
                    format!("there is no section `{name}` in `{above}` to inherit from")
                };
                let problem = Problem::new(reference.span, self.tree.path(from), message)
                    .expected("the full name of a section")
                    .nearest(name, names);
                self.problems.push(problem);
                return Vec::new();
            }
            view = next;
        }
        view
    }

    fn problem(&mut self, from: SectionId, reference: &Reference, message: String) {
        self.problems.push(Problem::new(reference.span, self.tree.path(from), message));
    }
}
