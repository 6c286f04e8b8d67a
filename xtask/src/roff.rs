//! The manual's page about the configuration, from Markdown to `man`'s language.
//!
//! It knows as much of Markdown as that page uses: headings, paragraphs, lists, tables, code, links.

/// `docs/configuration.md` as `adit.conf(5)`.
pub(crate) fn page(markdown: &str) -> String {
    let mut page = Page::default();
    page.text.push_str(
        ".TH ADIT.CONF 5 \"\" Adit Adit\n.SH NAME\nadit.conf \\- configuration of the Adit IPsec gateway, in the language of swanctl.conf\n.SH DESCRIPTION\n",
    );
    let mut lines = markdown.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(fence) = line.strip_prefix("```") {
            let _language = fence;
            page.end();
            page.text.push_str(".PP\n.RS 4\n.nf\n");
            for code in lines.by_ref().take_while(|line| !line.starts_with("```")) {
                page.raw(code);
            }
            page.text.push_str(".fi\n.RE\n");
        } else if let Some(heading) = line.strip_prefix("### ") {
            page.heading("SS", heading);
        } else if let Some(heading) = line.strip_prefix("## ") {
            page.heading("SH", &heading.to_uppercase());
        } else if line.starts_with("# ") || line.starts_with("<!--") {
            page.end();
        } else if line.starts_with("|---") {
            // What stands before it is the heading of a table.
            page.paragraph.clear();
        } else if let Some(row) = line.strip_prefix('|') {
            let next_is_rule = lines.peek().is_some_and(|next| next.starts_with("|---"));
            page.end();
            if !next_is_rule {
                page.row(row);
            }
        } else if let Some(item) = line.strip_prefix("- ") {
            page.end();
            page.text.push_str(".IP \\(bu 2\n");
            page.item = true;
            page.paragraph.push_str(item);
        } else if line.trim().is_empty() {
            page.end();
        } else {
            if !page.paragraph.is_empty() {
                page.paragraph.push(' ');
            }
            page.paragraph.push_str(line.trim());
        }
    }
    page.end();
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
    /// What is being collected.
    paragraph: String,
    /// Is it one of a list?
    item: bool,
}

impl Page {
    fn end(&mut self) {
        let paragraph = std::mem::take(&mut self.paragraph);
        let item = std::mem::take(&mut self.item);
        if paragraph.is_empty() {
            return;
        }
        if !item {
            self.text.push_str(".PP\n");
        }
        self.raw_line(&inline(&paragraph));
    }

    fn heading(&mut self, kind: &str, heading: &str) {
        self.end();
        self.text.push_str(&format!(".{kind} \"{}\"\n", escape(&heading.replace(['`', '"'], ""))));
    }

    /// The first cell of a row is what it is about.
    fn row(&mut self, row: &str) {
        // `\|` is no end of a cell.
        let row = row.trim().trim_end_matches('|').replace("\\|", "\u{1}");
        let mut cells = row.split('|').map(|cell| cell.trim().replace('\u{1}', "|"));
        let Some(name) = cells.next() else { return };
        let rest: Vec<String> = cells.filter(|cell| !cell.is_empty()).collect();
        self.text.push_str(".TP\n");
        self.raw_line(&inline(&name));
        self.raw_line(&if rest.is_empty() { "\\&".to_owned() } else { inline(&rest.join(". ")) });
    }

    fn raw(&mut self, line: &str) {
        self.raw_line(&escape(line));
    }

    /// A line that cannot be taken for a request.
    fn raw_line(&mut self, line: &str) {
        if line.starts_with(['.', '\'']) {
            self.text.push_str("\\&");
        }
        self.text.push_str(line);
        self.text.push('\n');
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            '`' => escaped.push_str("\\(ga"),
            '^' => escaped.push_str("\\(ha"),
            '~' => escaped.push_str("\\(ti"),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// Code in bold, links as their text.
fn inline(text: &str) -> String {
    let mut out = String::new();
    for (index, part) in text.split('`').enumerate() {
        if index % 2 == 1 {
            out.push_str(&format!("\\fB{}\\fR", escape(part)));
        } else {
            out.push_str(&escape(&without_links(part)));
        }
    }
    out
}

fn without_links(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        match after.split_once("](").and_then(|(label, after)| Some((label, after.split_once(')')?.1))) {
            Some((label, after)) if !label.contains('[') => {
                out.push_str(before);
                out.push_str(label);
                rest = after;
            }
            _ => {
                out.push_str(before);
                out.push('[');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_page_is_made_of() {
        let markdown = "# T\n\nOne `a-b`\ntwo [three](x.md).\n\n## Head\n\n- item\n  more\n\n| K | V |\n|---|---|\n| `x` | `a\\|b` | |\n\n```conf\n.dot \\n\n```\n";
        let page = page(markdown);
        let (_, body) = page.split_once(".SH DESCRIPTION\n").unwrap();
        assert_eq!(
            body,
            ".PP\nOne \\fBa\\-b\\fR two three.\n.SH \"HEAD\"\n.IP \\(bu 2\nitem more\n.TP\n\\fBx\\fR\n\\fBa|b\\fR\n.PP\n.RS 4\n.nf\n\\&.dot \\en\n.fi\n.RE\n"
        );
    }
}
