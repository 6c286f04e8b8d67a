//! Lines for people: how wide they are, and where they break.

/// Columns a line for people has at most.
pub(crate) const WIDTH: usize = 100;

/// Breaks a text between words, and within one that is longer than a line: a first line of at most `first` columns, others of
/// at most `rest`. There is always a line, if only an empty one.
pub(crate) fn wrap(content: &str, first: usize, rest: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut line, mut room) = (String::new(), first.max(1));
    for mut word in content.split_whitespace() {
        loop {
            let gap = usize::from(!line.is_empty());
            if line.chars().count() + gap + word.chars().count() <= room {
                line.extend((gap > 0).then_some(' '));
                line.push_str(word);
                break;
            }
            if line.is_empty() {
                let at = word.char_indices().nth(room).map_or(word.len(), |(at, _)| at);
                let (head, tail) = word.split_at(at);
                line.push_str(head);
                word = tail;
            }
            lines.push(std::mem::take(&mut line));
            room = rest.max(1);
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words_and_within_long_ones() {
        for (content, lines) in [
            ("", &[""][..]),
            ("one two", &["one two"]),
            ("one  two three", &["one two", "three"]),
            ("abcdefghijklmnop q", &["abcdefgh", "ijklm", "nop q"]),
            (
                "\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4} \u{e4}",
                &["\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}", "\u{e4}"],
            ),
        ] {
            assert_eq!(wrap(content, 8, 5), lines);
        }
        assert_eq!(wrap("ab", 0, 0), ["a", "b"]);
    }
}
