//! Every file in `tests/bad/` is refused, and what users read about it is in `tests/snapshots/`.

use std::fs;
use std::path::Path;

use model::diagnostic::Diagnostic;
use model::file::{Outcome, Source, parse, parse_settings, render};

fn diagnostics(name: &str, source: &Source) -> Vec<Diagnostic> {
    if name.starts_with("settings") {
        return parse_settings(source).expect_err("settings that are wrong");
    }
    match parse(source, &[]) {
        Outcome::Broken { diagnostics, .. } => diagnostics,
        Outcome::Parsed(parsed) => panic!("{name} was accepted: {parsed:#?}"),
    }
}

#[test]
fn every_bad_input_gets_its_errors_with_their_places() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    assert!(names.len() >= 45, "only {} bad inputs", names.len());
    for path in names {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let source = Source::new(format!("{name}.toml"), fs::read_to_string(&path).unwrap());
        let found = diagnostics(&name, &source);
        assert!(!found.is_empty(), "{name} is broken without a reason");
        for diagnostic in &found {
            let (line, column) = (diagnostic.at.line.unwrap(), diagnostic.at.column.unwrap());
            assert!(line >= 1 && column >= 1, "{diagnostic:?}");
        }
        insta::assert_snapshot!(name, render(&found, &[source], false));
    }
}
