//! `docs/changes.md` says what the table of classes says.
//!
//! `WHARF_WRITE_DOCS=1 cargo nextest run -p reconciler --test changes` writes its tables anew.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where its world is not as it was made"
)]

use std::path::Path;

use reconciler::diff::docs;

/// Tables of which something works, in the order of the page.
const KINDS: [&str; 6] = [
    "container.*",
    "network.*",
    "volume.*",
    "image.*",
    "config.*",
    "secret.*",
];

#[test]
fn the_docs_have_the_classes_of_the_table() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/changes.md");
    let written = std::fs::read_to_string(&page).unwrap();
    let mut wanted = String::new();
    let mut inside = false;
    for line in written.lines() {
        inside &= line != "<!-- end -->";
        if !inside {
            wanted += line;
            wanted.push('\n');
        }
        let kind = line.strip_prefix("<!-- classes: ");
        if let Some(kind) = kind.and_then(|rest| rest.strip_suffix(" -->")) {
            wanted += &docs::table(kind);
            inside = true;
        }
    }
    for kind in KINDS.iter().filter(|kind| !docs::table(kind).is_empty()) {
        let mark = format!("<!-- classes: {kind} -->");
        assert!(
            written.contains(&mark),
            "the page has no place for {kind}: {mark}"
        );
    }
    if std::env::var_os("WHARF_WRITE_DOCS").is_some() {
        std::fs::write(page, wanted).unwrap();
    } else {
        assert_eq!(
            written, wanted,
            "docs/changes.md differs: run this test with WHARF_WRITE_DOCS=1"
        );
    }
}
