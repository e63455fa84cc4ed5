//! Whatever the text: parsing ends with a result, and every place it names is inside of the text.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows tests by their attribute, not their helpers"
)]

use model::diagnostic::Diagnostic;
use model::file::{Outcome, Source, parse, parse_settings, render};
use proptest::prelude::*;

const GOOD: [&str; 4] = [
    include_str!("good/container.toml"),
    include_str!("good/network.toml"),
    include_str!("good/image.toml"),
    include_str!("good/settings.toml"),
];

fn check(text: &str, over: &str) {
    let sources = [Source::new("a.toml", text), Source::new("a.toml.d/b.toml", over)];
    if let Outcome::Broken { diagnostics, .. } = parse(&sources[0], &sources[1..]) {
        assert!(!diagnostics.is_empty(), "broken without a reason");
        places(&diagnostics, &sources);
        render(&diagnostics, &sources, true);
    }
    if let Err(diagnostics) = parse_settings(&sources[0]) {
        places(&diagnostics, &sources);
        render(&diagnostics, &sources, false);
    }
}

fn places(diagnostics: &[Diagnostic], sources: &[Source]) {
    for diagnostic in diagnostics {
        let source = sources.iter().find(|s| s.file == diagnostic.at.file).unwrap();
        let (start, end) = diagnostic.span.unwrap();
        assert!(start <= end && end <= source.text.len(), "{diagnostic:?}");
        assert_eq!(source.location(start), diagnostic.at);
    }
}

/// Words that lead deeper into the readers than arbitrary text does.
fn word() -> impl Strategy<Value = String> {
    let keys: Vec<String> = model::file::keys::DESIRED
        .iter()
        .flat_map(|key| [key.path.replace('*', "a"), key.name().to_owned()])
        .filter(|word| word != "*")
        .collect();
    let values = [
        "5",
        "-1",
        "true",
        "1.5",
        "\"\"",
        "\"a\"",
        "\"/a:/b:ro\"",
        "\"80:80\"",
        "\"[::1]:1:1\"",
        "[]",
        "{}",
        "nan",
        "[\"a\"]",
        "{ a = 1 }",
        "\"10s\"",
        "\"é:ü\"",
        "\"oci:/a:b\"",
        "9999999999999999999999",
        "1979-05-27",
    ];
    let values: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
    let marks = [
        "[",
        "]",
        "=",
        "\n",
        ".",
        "{",
        "}",
        ",",
        "\"",
        "'",
        "#",
        " = ",
        "[container.a]\n",
    ];
    let marks: Vec<String> = marks.iter().map(|m| (*m).to_owned()).collect();
    prop_oneof![
        prop::sample::select(keys),
        prop::sample::select(values),
        prop::sample::select(marks),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_arbitrary_text(text in any::<String>(), over in any::<String>()) {
        check(&text, &over);
    }

    #[test]
    fn on_words_of_the_format(words in prop::collection::vec(word(), 0..40)) {
        check(&words.concat(), "");
    }

    #[test]
    fn on_lines_of_the_format(lines in prop::collection::vec((word(), word()), 0..12), over in word()) {
        let text: String = lines.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        check(&format!("[container.a]\n{text}"), &format!("container.a.{over} = 1"));
        check(&text, &format!("[container]\na = {over}"));
    }

    #[test]
    fn on_valid_files_that_were_mutated(
        which in 0..GOOD.len(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..6, ".{0,3}"), 1..6),
    ) {
        let mut chars: Vec<char> = GOOD[which].chars().collect();
        for (at, length, insert) in cuts {
            let at = at.index(chars.len());
            let end = (at + length).min(chars.len());
            chars.splice(at..end, insert.chars());
        }
        let text: String = chars.into_iter().collect();
        check(&text, GOOD[0]);
    }

    #[test]
    fn on_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Err(diagnostic) = Source::from_bytes("a.toml", &bytes) {
            prop_assert!(diagnostic.at.line.is_some());
        }
    }
}
