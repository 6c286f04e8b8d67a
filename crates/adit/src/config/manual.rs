//! The part of the manual that comes from the table.

use super::schema::{Key, ROOT, Schema, Status};

/// The tables of `docs/configuration.md`, in Markdown: every key that is done, then every one that is not yet.
#[must_use]
pub fn manual() -> String {
    let mut schemas = Vec::new();
    walk(&ROOT, true, &mut schemas);
    let mut text = String::new();
    for &(schema, done) in &schemas {
        let keys: Vec<&Key> = schema.keys.iter().filter(|key| done && key.status == Status::Done).collect();
        if keys.is_empty() {
            continue;
        }
        text.push_str(&format!(
            "### `{}`\n\n| Key | Value | Default | Meaning |\n|---|---|---|---|\n",
            schema.path
        ));
        for key in keys {
            let default = if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) };
            text.push_str(&format!(
                "| `{}` | {} | {default} | {} |\n",
                key.name,
                key.kind.notation().replace('|', r"\|"),
                key.help
            ));
        }
        text.push('\n');
    }
    text.push_str(
        "### Not yet\n\n\
         Adit knows these keys and refuses them, save for the value given here, which asks for what happens anyway.\n\n\
         | Key | Accepted | About |\n|---|---|---|\n",
    );
    for &(schema, done) in &schemas {
        for key in schema.keys.iter().filter(|key| !done || key.status != Status::Done) {
            let accepted = if done && key.status != Status::NotYet && !key.default.is_empty() {
                format!("`{}`", key.default)
            } else {
                String::new()
            };
            text.push_str(&format!("| `{}.{}` | {accepted} | {} |\n", schema.path, key.name, key.help));
        }
    }
    text
}

/// Every schema below `schema`, each once, with whether Adit does sections of that kind.
fn walk(schema: &'static Schema, done: bool, into: &mut Vec<(&'static Schema, bool)>) {
    if !into.iter().any(|(known, _)| std::ptr::eq(*known, schema)) {
        into.push((schema, done));
        for section in schema.sections {
            walk(section.schema, done && section.done, into);
        }
    }
}
