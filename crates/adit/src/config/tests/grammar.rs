//! The grammar. Expected values are what strongSwan's own parser (libstrongswan 5.9.8, `settings_create_string`)
//! answers for the same text.

use std::path::Path;

use proptest::prelude::*;

use super::{Memory, errors, errors_of, good};
use crate::config::diagnostic::Severity;
use crate::config::resolve::Resolver;
use crate::config::syntax::{ROOT, parse};

/// The value at a path in dot notation, as `get_str` of strongSwan's settings finds it.
fn value(files: &[(&str, &str)], path: &str) -> Option<String> {
    let parsed = parse(Path::new(files[0].0), &Memory(files));
    for (severity, _) in &parsed.problems {
        assert!(*severity != Severity::Error, "{:?} does not parse", files[0].1);
    }
    let mut resolver = Resolver::new(&parsed.tree);
    let (sections, key) = path.rsplit_once('.').unwrap_or(("", path));
    let mut view = vec![ROOT];
    for name in sections.split('.').filter(|name| !name.is_empty()) {
        view = resolver.child(&view, name);
    }
    let setting = resolver.settings(&view).into_iter().find(|setting| setting.key == key)?;
    setting.value.as_ref().map(|text| text.text.to_string())
}

#[track_caller]
fn reads(text: &str, expected: &[(&str, Option<&str>)]) {
    for (path, expected) in expected {
        assert_eq!(value(&[("a.conf", text)], path).as_deref(), *expected, "{path} of {text:?}");
    }
}

#[test]
fn values_end_with_the_line_a_comment_or_a_brace() {
    reads("a = b c   d # x\n", &[("a", Some("b c d"))]);
    reads("a\t=\tx\t\ty\n", &[("a", Some("x y"))]);
    reads("a = foo#bar\n", &[("a", Some("foo"))]);
    reads("a = foo{bar\n", &[("a", Some("foo{bar"))]);
    reads("a = 'x y'\n", &[("a", Some("'x y'"))]);
    reads("s { a = foo}\n", &[("s.a", Some("foo"))]);
    reads("s { a = foo } b = 5\n", &[("s.a", Some("foo")), ("b", Some("5"))]);
    reads("s { a = b = c }\n", &[("s.a", Some("b = c"))]);
    reads("s { a = 1; b = 2 }", &[("s.a", Some("1; b = 2")), ("s.b", None)]);
    reads("s { a = 1 # c\n }", &[("s.a", Some("1"))]);
    reads("a = b\r\nc = d\r\n", &[("a", Some("b")), ("c", Some("d"))]);
}

#[test]
fn quotes_keep_everything_and_know_escapes() {
    reads("a = \"b\nc\"\n", &[("a", Some("b\nc"))]);
    reads("a = \"b\\\n   c\"\n", &[("a", Some("b   c"))]);
    reads("a = \"b\\nx\\ty\\qz\\r\\x\"\n", &[("a", Some("b\nx\tyqz\rx"))]);
    reads("a = \"q\\\"q\\\\\"\n", &[("a", Some("q\"q\\"))]);
    reads("a = x\"b\"y\n", &[("a", Some("x b y"))]);
    reads("a=  \"x\" \"y\"z\n", &[("a", Some("x y z"))]);
    reads("a = \"x\" # c\n", &[("a", Some("x"))]);
    reads("a = \"}#\"\n", &[("a", Some("}#"))]);
}

#[test]
fn an_empty_assignment_clears_and_an_empty_string_does_not() {
    reads("a =\nb=1", &[("a", None), ("b", Some("1"))]);
    reads("a = \"\"\nb=1", &[("a", Some("")), ("b", Some("1"))]);
    reads("s : t { a = \n}\nt { a = d }", &[("s.a", None)]);
}

#[test]
fn sections_merge_and_later_values_replace() {
    reads("s\n{ a = b\n}\n", &[("s.a", Some("b"))]);
    reads("s\n# comment\n{ a = b\n}\n", &[("s.a", Some("b"))]);
    reads("s { a = 1 }\ns { b = 2 }\ns { a = 3 }", &[("s.a", Some("3")), ("s.b", Some("2"))]);
    reads("s { a = 1\n } t { b = 2 }", &[("s.a", Some("1")), ("t.b", Some("2"))]);
    reads("include = 3\n", &[("include", Some("3"))]);
}

#[test]
fn references_inherit_behind_ones_own_from_left_to_right() {
    reads("s : t { a = b\n}\nt { c = d }", &[("s.c", Some("d"))]);
    reads("s : t\n{ a = b\n}\nt { c = d }", &[("s.c", Some("d"))]);
    reads("s:t { a = 1\n}\nt {b=2}", &[("s.a", Some("1")), ("s.b", Some("2"))]);
    reads("s : t,\n t2 { a = b\n}\nt { c = d }\nt2 {e=f}", &[("s.c", Some("d")), ("s.e", Some("f"))]);
    reads("a : b, c { }\nb { x = 1 }\nc { x = 2\n y = 3 }", &[("a.x", Some("1")), ("a.y", Some("3"))]);
    reads("s { x = 1 }\ns : v { a = 1\n}\nv { x = 3\n c = 4 }", &[("s.x", Some("1")), ("s.c", Some("4"))]);
}

#[test]
fn references_reach_subsections_and_through_other_references() {
    reads("s : x.y { a = b\n}\nx : z {}\nz { y { c = 1} }", &[("s.c", Some("1"))]);
    reads(
        "a : b { s { x = 1\n } }\nb { s { x = 2\n y = 3\n } }",
        &[("a.s.x", Some("1")), ("a.s.y", Some("3"))],
    );
    reads("a : b { }\nb : c { }\nc { x = 1\n }", &[("a.x", Some("1"))]);
    reads("a : b.s { }\nb { s : c { } }\nc { x = 1\n }", &[("a.x", Some("1"))]);
    // A subsection's own references come before what its parent's reference brings.
    let text = "a : b { s : d { x = 1\n } }\nb { s { x = 2\n y = 3\n } }\nd { y = 4\n }";
    reads(text, &[("a.s.x", Some("1")), ("a.s.y", Some("4"))]);
    let text = "a : b { s { x = 1\n } }\nb { s : d { x = 2\n } }\nd { y = 4\n }";
    reads(text, &[("a.s.x", Some("1")), ("a.s.y", Some("4"))]);
}

/// The example of strongswan.conf(5), with its result as the manual page gives it.
#[test]
fn includes_add_to_the_section_they_are_in() {
    let files = [
        (
            "d/a.conf",
            "a = b\nsection-one {\n somevalue = before include\n include include.conf\n}\ninclude other.conf\n",
        ),
        ("d/include.conf", "somevalue = asdf\nsubsection {\n othervalue = yyy\n}\nyetanother = zz\n"),
        (
            "d/other.conf",
            "section-one {\n subsection {\n  othervalue = xxx\n }\n}\nsection-two {\n x = 12\n}\n",
        ),
    ];
    for (path, expected) in [
        ("a", "b"),
        ("section-one.somevalue", "asdf"),
        ("section-one.subsection.othervalue", "xxx"),
        ("section-one.yetanother", "zz"),
        ("section-two.x", "12"),
    ] {
        assert_eq!(value(&files, path).as_deref(), Some(expected), "{path}");
    }
}

#[test]
fn includes_on_disk_are_relative_sorted_and_may_match_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    std::fs::create_dir(dir.path().join("conf.d")).unwrap();
    write("main.conf", "include conf.d/*.conf\ninclude none.d/*.conf\ninclude \"with space.conf\"\n");
    write("conf.d/10-first.conf", "gateway { tun = first }\n");
    write("conf.d/20-second.conf", "gateway { include ../mtu.inc }\ngateway { tun = second }\n");
    write("conf.d/.hidden.conf", "nonsense");
    write("conf.d/notes.txt", "nonsense");
    write("mtu.inc", "mtu = 1400\n");
    write("with space.conf", "gateway { workers = 3 }\n");
    let configuration = crate::config::load(&dir.path().join("main.conf")).unwrap();
    assert_eq!(configuration.gateway.tun, "second");
    assert_eq!(configuration.gateway.mtu, Some(1400));
    assert_eq!(configuration.gateway.workers, 3);
    assert_eq!(configuration.files.len(), 5);
    // Whether a name fits is to be found out in time, also by whom it was sent to.
    write("stars.conf", "include *a*b*c*.conf\n");
    let refused = crate::config::load(&dir.path().join("stars.conf")).unwrap_err();
    assert!(refused.to_string().contains("more than 3 `*`"), "{refused}");
}

#[test]
fn a_file_that_includes_itself_or_is_missing_is_an_error_at_the_include() {
    let files = [("a.conf", "gateway {\n  include b.conf\n}\n"), ("b.conf", "include a.conf # again\n")];
    assert_eq!(errors_of(&files), ["b.conf:1:9: gateway: a.conf includes itself"]);
    assert_eq!(
        errors("gateway { }\ninclude b.conf\n"),
        ["a.conf:2:9: include: cannot read b.conf: no such file"]
    );
    let missing = crate::config::load(Path::new("/nonexistent/adit.conf")).unwrap_err();
    assert!(missing.to_string().starts_with("cannot read /nonexistent/adit.conf: No such file"), "{missing}");
    assert!(missing.render(false).contains("/nonexistent/adit.conf"));
}

#[test]
fn includes_nest_to_a_limit() {
    let names: Vec<String> = (0..40).map(|n| format!("{n}.conf")).collect();
    let texts: Vec<String> = (0..40).map(|n| format!("include {}.conf\n", n + 1)).collect();
    let files: Vec<(&str, &str)> =
        names.iter().map(String::as_str).zip(texts.iter().map(String::as_str)).collect();
    assert_eq!(errors_of(&files), ["15.conf:1:9: includes nest deeper than 16"]);
}

#[test]
fn mistakes_of_the_grammar_are_found_where_they_are() {
    for (text, expected) in [
        (
            "gateway {\n  mtu 1400\n}\n",
            "a.conf:2:7: gateway: unexpected word; expected `=`, `{` or `:` behind the name",
        ),
        (
            "gateway\n",
            "a.conf:1:1: neither a setting nor a section; expected `=`, `{` or `:` behind the name",
        ),
        (
            "gateway { mtu = 1400\n",
            "a.conf:1:1: gateway: section `gateway` is not closed; expected a `}` before the file ends",
        ),
        ("gateway { mtu = 1400 } }\n", "a.conf:1:24: unexpected `}`: no section is open in this file"),
        ("\"gateway\" { }\n", "a.conf:1:1: unexpected `\"`; expected a name, `include` or `}`"),
        ("a.b = c\n", "a.conf:1:2: unexpected `.`; expected a name without dots"),
        (
            "gateway {\n tun = \"adit0\n}\n",
            "a.conf:2:8: gateway: the string has no end; expected a closing `\"`",
        ),
        (
            "gateway : { }\n",
            "a.conf:1:11: unexpected `{`; expected the full name of a section (`a` or `a.b`)",
        ),
        ("gateway : a b { }\n", "a.conf:1:13: unexpected word; expected `,` or `{` behind the reference"),
        (
            "gateway : a\n",
            "a.conf:1:12: unexpected end of the line; expected `,` or `{` behind the reference",
        ),
        (
            "include a b\n",
            "a.conf:1:11: unexpected word; expected the end of the line behind the file name (quote names with spaces)",
        ),
        (
            "include\n",
            "a.conf:1:1: neither a setting nor a section; expected `=`, `{` or `:` behind the name",
        ),
        ("\u{e4} \u{1}\n", "a.conf:1:3: unexpected `\\u{1}`; expected `=`, `{` or `:` behind the name"),
    ] {
        assert_eq!(errors(text), [expected], "{text:?}");
    }
}

#[test]
fn every_mistake_of_the_grammar_is_reported() {
    let found = errors("a b\nc = d\n}\ne f\n");
    let places: Vec<&str> = found.iter().map(|error| error.split(": ").next().unwrap()).collect();
    assert_eq!(places, ["a.conf:1:3", "a.conf:3:1", "a.conf:4:3"]);
}

#[test]
fn limits_hold() {
    let deep = "s {\n".repeat(10_000);
    assert_eq!(
        errors(&deep),
        [
            "a.conf:33:1: s.s.s.s.s.s.s.s.s.s.s.s.s.s.s.s.s.s.s.s.s.s.s.s.s.s.s.s.s.s.s.s: sections nest deeper than 32"
        ]
    );
    let long = format!("{} = 1\n", "n".repeat(257));
    assert_eq!(errors(&long), ["a.conf:1:1: a name of more than 256 bytes"]);
    let many = "x y\n".repeat(10_000);
    assert_eq!(errors(&many).len(), 50);
    // A chain of references, each section inheriting from the next.
    let chain: String = (0..30_000).map(|n| format!("s{n} : s{} {{ }}\n", n + 1)).collect();
    let found = errors(&format!("gateway : s0 {{ }}\n{chain}"));
    assert!(
        found.iter().any(|error| error.contains("references follow on more than 64 others")),
        "{found:?}"
    );
}

#[test]
fn references_to_nothing_and_to_oneself_are_errors() {
    assert_eq!(
        errors("gateway : defualts { }\ndefaults { mtu = 1400\n}\n")[0],
        "a.conf:1:11: gateway: there is no section `defualts` to inherit from; expected the full name of a section; did you mean `defaults`?"
    );
    assert_eq!(
        errors("gateway : defaults.b { }\ndefaults { a { mtu = 1400\n} }\n")[0],
        "a.conf:1:11: gateway: there is no section `b` in `defaults` to inherit from; expected the full name of a section; did you mean `a`?"
    );
    assert_eq!(
        errors("gateway : gateway { }\n"),
        ["a.conf:1:11: gateway: section `gateway` inherits from itself"]
    );
    assert_eq!(
        errors("gateway : b { }\nb : c { }\nc : b { mtu = 1400\n}\n"),
        ["a.conf:3:5: c: section `b` inherits from itself"]
    );
}

#[test]
fn suspicious_values_are_pointed_out() {
    let configuration = good("gateway {\n  tun = adit1#2\n}\n");
    let warnings: Vec<String> = configuration.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "a.conf:2:14: tun: `#` starts a comment even behind a word; expected quotes around the value if that is meant; \
          value of this key (a.conf:2:3)"
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a file holds, it is read without a panic and every place is inside it.
    #[test]
    fn any_text_is_read(parts in proptest::collection::vec(part(), 0..80)) {
        let text = parts.concat();
        let lines: Vec<&str> = text.split('\n').collect();
        let result = super::load(&[("a.conf", &text)]);
        let (errors, warnings) = match &result {
            Ok(configuration) => (&[][..], &configuration.warnings[..]),
            Err(diagnostics) => (&diagnostics.errors[..], &diagnostics.warnings[..]),
        };
        prop_assert!(result.is_ok() || !errors.is_empty());
        for diagnostic in errors.iter().chain(warnings) {
            if let Some(place) = &diagnostic.place {
                let line = lines.get(place.line - 1);
                prop_assert!(line.is_some_and(|line| place.column <= line.chars().count() + 1), "{diagnostic}");
            }
            prop_assert!(!diagnostic.render(false).is_empty());
        }
    }
}

/// Pieces of which configurations, good and bad, are made.
fn part() -> impl Strategy<Value = String> {
    let pieces = [
        "{",
        "}",
        "=",
        ":",
        ",",
        ".",
        "#",
        "\"",
        "\\",
        "\n",
        " ",
        "\t",
        "\r\n",
        "include ",
        "a.conf",
        "gateway",
        "connections",
        "secrets",
        "ike-1",
        "secret",
        "children",
        "local",
        "remote",
        "auth = psk\n",
        "id = a.example\n",
        "c",
        "c {\n",
        "}\n",
        "local_ts = 10.0.0.0/8[tcp/80-90]\n",
        "esp_proposals = aes256gcm16-esn, default\n",
        "replay_window = 0\n",
        "start_action = start\n",
        "remote_addrs = 192.0.2.1-192.0.2.9, %any\n",
        "dpd_delay = 5m\n",
        "mobike = yes\n",
        " : c ",
        "connections { c { children { n {",
        "secrets { ike { secret = 0x00ff\n",
        "\u{e4}",
        "\u{0}",
        "9",
    ];
    prop_oneof![
        9 => proptest::sample::select(pieces.to_vec()).prop_map(ToOwned::to_owned),
        1 => any::<char>().prop_map(String::from),
    ]
}

/// Files that are made to be expensive cost no more than a moment for each megabyte.
#[test]
fn hostile_files_are_read_in_time() {
    let many = |pieces: &str, count: usize| {
        (0..count).map(|n| pieces.replace('@', &n.to_string())).collect::<String>()
    };
    for text in [
        "a{}".repeat(300_000),
        many("s@ : s0, s1, s2, s3 { }\n", 40_000),
        many("k@ = v\n", 30_000),
        format!("gateway {{ {} }}", many("k@ = v\n", 30_000)),
        format!("gateway : {} {{ }}\na {{ }}", vec!["a"; 300_000].join(",")),
        format!("connections {{ {} }}", many("c@ : connections.c0 { }\n", 20_000)),
        format!("a = {}", "\"x\" ".repeat(200_000)),
        "\"".repeat(1_000_000),
        "s {\n secret =".repeat(30_000),
        format!("x : {} {{ }}\na {{ }}", "a.".repeat(300_000)),
    ] {
        let started = std::time::Instant::now();
        crate::config::fuzzing::load(text.as_bytes());
        let start: String = text.chars().take(40).collect();
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "{start}: {:?}", started.elapsed());
    }
}
