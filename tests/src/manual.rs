//! The README and the manual, as far as tests are about them: their blocks of code, each with a word behind its fence that
//! says what it is.
//!
//! `conf` is a configuration, `ipsec.conf` one to import, `sh` are commands, `ini` goes into a unit, `yaml` to Prometheus, and
//! `text NAME` is what something prints. `crates/adit/tests/manual.rs` lists which test looks at which. Runs nothing itself.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// A block of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its page, from the root of the repository: `docs/vici.md`.
    pub page: String,
    /// What it is.
    pub kind: String,
    /// Which one, if that is said.
    pub name: String,
    /// Its lines.
    pub body: String,
}

/// All blocks, page by page, in their order.
///
/// # Errors
/// A page that cannot be read, and code that is indented instead of fenced: nobody could say what it is.
pub fn blocks() -> Result<Vec<Block>> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec![PathBuf::from("README.md")];
    for entry in std::fs::read_dir(repository.join("docs"))? {
        pages.push(Path::new("docs").join(entry?.file_name()));
    }
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages.sort();
    let mut blocks = Vec::new();
    for page in pages {
        let text = std::fs::read_to_string(repository.join(&page))?;
        let page = page.display().to_string();
        blocks.extend(of_page(&page, &text).with_context(|| page.clone())?);
    }
    Ok(blocks)
}

fn of_page(page: &str, text: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    let mut paragraph = false;
    while let Some(line) = lines.next() {
        if let Some(word) = line.strip_prefix("```") {
            let (kind, name) = word.split_once(' ').unwrap_or((word, ""));
            let mut body = String::new();
            loop {
                match lines.next().context("a block without an end")? {
                    "```" => break,
                    line => body = body + line + "\n",
                }
            }
            let (page, kind, name) = (page.to_owned(), kind.to_owned(), name.to_owned());
            blocks.push(Block { page, kind, name, body });
        }
        ensure!(paragraph || !line.starts_with("    "), "indented code: {line:?}");
        ensure!(!line.trim_start().starts_with("~~~"), "another fence: {line:?}");
        ensure!(
            !line.starts_with([' ', '>', '-']) || !line.contains("```"),
            "a fence within something: {line:?}"
        );
        // In a paragraph or a list it is the rest of a sentence.
        paragraph = !line.trim().is_empty() && !line.starts_with('#');
    }
    Ok(blocks)
}

/// The only block of this kind and name.
///
/// # Errors
/// None, or several.
pub fn block(kind: &str, name: &str) -> Result<Block> {
    let mut found = blocks()?.into_iter().filter(|block| block.kind == kind && block.name == name);
    let block = found.next().with_context(|| format!("the manual has no {kind} {name}"))?;
    ensure!(found.next().is_none(), "the manual has several {kind} {name}");
    Ok(block)
}

/// Is this what the manual's `text NAME` shows? Numbers and where lines break are left out of account; `...` in the manual
/// stands for anything.
///
/// # Errors
/// There is no such text, or it is another one.
pub fn shows(name: &str, output: &str) -> Result<()> {
    let Block { page, body, .. } = block("text", name)?;
    ensure!(fits(&body, output), "{page} shows for {name}:\n{body}\nand it is:\n{output}");
    Ok(())
}

fn fits(example: &str, output: &str) -> bool {
    // The words, each between blanks.
    let plain = |text: &str| {
        let word = |word: &str| if word.parse::<f64>().is_ok() { "N".to_owned() } else { word.to_owned() };
        format!(" {} ", text.split_whitespace().map(word).collect::<Vec<_>>().join(" "))
    };
    let (example, output) = (plain(example), plain(output));
    let mut parts = example.split(" ... ");
    let Some(mut rest) = parts.next().and_then(|start| output.strip_prefix(start.trim_end())) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        let part = part.trim();
        let Some((_, after)) = rest.split_once(part) else { return false };
        (rest, last) = (after, Some(part));
    }
    rest.trim().is_empty() || last == Some("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_fit_what_they_show() {
        let output = "net: up, but esp-filtered: 7 packets left, and nothing\n    has come [x]\n";
        for example in [
            output,
            "net: up, but esp-filtered: 14 packets left, and nothing has come [x]",
            "net: up, but esp-filtered: ... has come [x]",
            "net: up, but ...",
            "net: ... packets left, ... come ...",
        ] {
            assert!(fits(example, output), "{example}");
        }
        for example in [
            "net: up",
            "up, but ...",
            "net: up, but ... left",
            "net: down ...",
            "net: ... come ... packets ...",
        ] {
            assert!(!fits(example, output), "{example}");
        }
    }

    #[test]
    fn blocks_say_what_they_are() {
        let text = "# A\n\ntext\n    goes on\n\n```sh\none\ntwo\n```\n\n- item\n    goes on\n\n```text x\n    y\n```\n";
        let blocks = of_page("p", text).unwrap();
        let block = |kind: &str, name: &str, body: &str| {
            let [page, kind, name, body] = ["p", kind, name, body].map(str::to_owned);
            Block { page, kind, name, body }
        };
        assert_eq!(blocks, [block("sh", "", "one\ntwo\n"), block("text", "x", "    y\n")]);
        for wrong in [
            "a\n\n    code\n",
            "# A\n    code\n",
            "~~~\na\n~~~\n",
            "- a\n\n  ```\n  b\n  ```\n",
            "```sh\na\n",
        ] {
            assert!(of_page("p", wrong).is_err(), "{wrong}");
        }
    }
}
