//! How commands write: lines of bounded width for people, numbers in fitting units, vici messages in JSON for programs.
//!
//! It knows no command and no daemon.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::SystemTime;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::control::report::civil;
use crate::control::vici::{Message, Value};
pub(super) use crate::wrap::WIDTH;
use crate::wrap::wrap;

/// Version of what commands print in JSON. It grows when a field changes or goes, not when one comes.
pub(super) const SCHEMA: u32 = 1;

/// Lines of bounded width. What a peer or a configuration chose is printed without control characters.
#[derive(Debug, Default)]
pub(super) struct Text(pub(super) String);

impl Text {
    /// Adds a line with an indent; what does not fit goes to more lines, indented further.
    pub(super) fn line(&mut self, indent: usize, content: &str) {
        let room = WIDTH.saturating_sub(indent);
        let lines = wrap(&printable(content), room, room.saturating_sub(4));
        for (place, line) in lines.iter().enumerate() {
            let indent = if place > 0 && !line.is_empty() { indent + 4 } else { indent };
            self.0.push_str(&" ".repeat(indent));
            self.0.push_str(line);
            self.0.push('\n');
        }
    }
}

/// Text in lines of bounded width.
pub(super) fn wrapped(content: &str) -> String {
    let mut text = Text::default();
    content.lines().for_each(|line| text.line(0, line));
    text.0
}

/// The text with `?` in place of what a terminal could take for an order.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

/// At most `width` columns of the text, with a mark where it is cut.
pub(super) fn cut(text: &str, width: usize) -> String {
    let text = printable(text);
    if text.chars().count() <= width {
        return text;
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{}\u{2026}", kept.trim_end())
}

/// A duration in its two largest units.
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if days > 0 => format!("{days} d {} h", hours % 24),
        () if hours > 0 => format!("{hours} h {} min", minutes % 60),
        () if minutes > 0 => format!("{minutes} min {} s", seconds % 60),
        () => format!("{seconds} s"),
    }
}

/// Octets in the unit that leaves at most four digits before the point.
pub(super) fn octets(octets: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if octets < 10_000 {
        return format!("{octets} B");
    }
    let (mut tenths, mut unit) = (octets / 100, 0);
    while tenths >= 100_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS.get(unit).copied().unwrap_or_default())
}

/// A time in UTC: `2026-01-31T12:00:00Z`.
pub(super) fn utc(time: SystemTime) -> String {
    let (year, month, day, second) = civil(time);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// May this be coloured?
pub(super) fn color(output: &impl IsTerminal) -> bool {
    output.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Why something could not be told, the first time. A reader that has had enough is not meant.
static UNTOLD: OnceLock<io::Error> = OnceLock::new();

/// A line on stdout. `false`: nobody reads it.
pub(super) fn tell(line: &str) -> bool {
    let mut out = io::stdout().lock();
    is_told(writeln!(out, "{}", line.trim_end()).and_then(|()| out.flush()))
}

/// `false`: nobody reads it. What else went wrong is remembered for [`untold`].
pub(super) fn is_told(written: io::Result<()>) -> bool {
    match written {
        Ok(()) => true,
        Err(error) => {
            if error.kind() != io::ErrorKind::BrokenPipe {
                let _ = UNTOLD.set(error);
            }
            false
        }
    }
}

/// Why something that was to be told was not: a full disk, for example.
pub(super) fn untold() -> Option<&'static io::Error> {
    UNTOLD.get()
}

/// A value in JSON on one line.
pub(super) fn json(value: &impl Serialize) -> String {
    // Fails for maps with odd keys and for writers that fail; here is neither.
    serde_json::to_string(value).unwrap_or_default()
}

/// A vici message as an object: every value a text, as vici has it.
pub(super) struct Json<'a>(pub(super) &'a Message);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.0.entries() {
            match value {
                Value::Bytes(bytes) => map.serialize_entry(name, &String::from_utf8_lossy(bytes))?,
                Value::List(items) => {
                    let items: Vec<_> = items.iter().map(|item| String::from_utf8_lossy(item)).collect();
                    map.serialize_entry(name, &items)?;
                }
                Value::Section(section) => map.serialize_entry(name, &Json(section))?,
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lines_stay_within_the_width() {
        let mut text = Text::default();
        text.line(2, &format!("{} {} end", "word ".repeat(60), "z".repeat(250)));
        text.line(6, "\u{1b}[31mred\nnext");
        assert!(text.0.lines().all(|line| line.chars().count() <= WIDTH), "{}", text.0);
        assert_eq!(text.0.matches('z').count(), 250);
        assert!(text.0.ends_with("      ?[31mred?next\n"));
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("long \u{1b}er", 6), "long\u{2026}");
    }

    #[test]
    fn numbers_for_people() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (3599, "59 min 59 s"),
            (7260, "2 h 1 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
        for (count, text) in [
            (0, "0 B"),
            (9999, "9999 B"),
            (10_000, "10.0 kB"),
            (9_999_999, "9999.9 kB"),
            (10_000_000, "10.0 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(octets(count), text);
        }
    }

    /// From `date -u -d @SECONDS`.
    #[test]
    fn times_are_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_825_599, "2000-02-29T11:59:59Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
        ] {
            assert_eq!(utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn messages_are_objects() {
        let mut inner = Message::new();
        inner.put_list("l", ["a", "b"]);
        let mut message = Message::new();
        message.put("up", "yes").put_section("gw", inner);
        assert_eq!(json(&Json(&message)), r#"{"up":"yes","gw":{"l":["a","b"]}}"#);
    }
}
