//! Every configuration that the manual and the README show is one.

#![cfg(test)]

use std::path::{Path, PathBuf};

/// A block of code: the word behind its fence, and its lines.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(word) = line.strip_prefix("```") {
            let body: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            blocks.push((word.to_owned(), body.join("\n") + "\n"));
        }
    }
    blocks
}

fn pages() -> Vec<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![repository.join("README.md")];
    for entry in std::fs::read_dir(repository.join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    pages
}

/// A block that is a configuration, whatever is written behind its fence.
fn is_configuration((word, body): &(String, String)) -> bool {
    let begins = |section: &str| body.trim_start().starts_with(&format!("{section} {{"));
    word.starts_with("conf") || ["connections", "gateway", "secrets"].into_iter().any(begins)
}

#[test]
fn configurations_of_the_manual_have_no_mistakes() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("swanctl.conf");
    let mut checked = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for (_, body) in blocks(&text).iter().filter(|block| is_configuration(block)) {
            std::fs::write(&file, body).unwrap();
            if let Err(errors) = adit::config::load(&file) {
                panic!("{}:\n{body}\n{}", page.display(), errors.render(false));
            }
            checked += 1;
        }
    }
    // README, the quick start's two, the page about the configuration.
    assert!(checked >= 6, "{checked}");
}

#[test]
fn the_example_of_migrating_becomes_what_the_manual_says() {
    let page = pages().into_iter().find(|page| page.ends_with("migrating.md")).unwrap();
    let blocks = blocks(&std::fs::read_to_string(page).unwrap());
    let at = blocks.iter().position(|(_, body)| body.starts_with("config setup")).expect("an ipsec.conf");
    let (Some((_, from)), Some((_, to))) = (blocks.get(at), blocks.get(at + 1)) else { panic!("two blocks") };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ipsec.conf");
    std::fs::write(&file, from).unwrap();
    let imported = adit::import::import(&file, None, None, &|_| false).unwrap();
    assert_eq!(imported.connections, *to);
    assert!(imported.reports.is_empty(), "{:?}", imported.reports);
}
