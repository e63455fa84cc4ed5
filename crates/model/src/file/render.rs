//! Diagnostics as people read them: place and message, the line with a caret, what to do.

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::diagnostic::Diagnostic;

use super::source::Source;

/// One block a diagnostic; a blank line between two. Lines are drawn where the file is among `sources`.
pub fn render(diagnostics: &[Diagnostic], sources: &[Source], colour: bool) -> String {
    let blocks: Vec<String> = diagnostics.iter().map(|d| one(d, sources, colour)).collect();
    blocks.join("\n")
}

fn one(diagnostic: &Diagnostic, sources: &[Source], colour: bool) -> String {
    let (bold, cyan, reset) = if colour {
        ("\x1b[1m", "\x1b[36m", "\x1b[0m")
    } else {
        ("", "", "")
    };
    let message = printable(&diagnostic.message);
    let mut text = format!(
        "{bold}{}: {message}{reset}\n",
        printable(&diagnostic.at.to_string())
    );
    let source = sources.iter().find(|s| s.file == diagnostic.at.file);
    if let Some((source, (start, end))) = source.zip(diagnostic.span) {
        text += &snippet(source, start, end, colour);
    }
    for also in &diagnostic.also {
        text += &format!("  {cyan}also{reset} {}\n", printable(&also.to_string()));
    }
    if let Some(hint) = &diagnostic.hint {
        text += &format!("  {cyan}hint:{reset} {}\n", printable(hint));
    }
    text
}

/// The first line of the range with carets under it.
fn snippet(source: &Source, start: usize, end: usize, colour: bool) -> String {
    let text = &source.text;
    let Some(before) = text.get(..start) else {
        return String::new();
    };
    let line = before.rfind('\n').map_or(0, |i| i + 1);
    let stop = text[start..].find('\n').map_or(text.len(), |i| start + i);
    let (start, end) = (start - line, end.clamp(start, stop) - line);
    let number = usize::try_from(source.position(line).0).unwrap_or(1);
    let shown = text[line..stop].trim_end_matches('\r');
    let (start, end) = (start.min(shown.len()), end.min(shown.len()));
    let group = Group::with_level(Level::ERROR).element(
        Snippet::source(shown)
            .line_start(number)
            .annotation(AnnotationKind::Primary.span(start..end)),
    );
    let renderer = if colour {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let mut drawn = renderer.decor_style(DecorStyle::Ascii).render(&[group]);
    if !drawn.ends_with('\n') {
        drawn.push('\n');
    }
    drawn
}

/// Without control characters, which would reach the terminal.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| -> Box<dyn Iterator<Item = char>> {
            if c.is_control() {
                Box::new(c.escape_default())
            } else {
                Box::new(std::iter::once(c))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Location;

    #[test]
    fn a_block_has_place_line_other_places_and_hint() {
        let source = Source::new("a.toml", "x = 1\r\ny = 2\r\n");
        let mut diagnostic = source
            .diagnostic(7..8, "`y` is \u{1b}[31mwrong")
            .hint("take it out");
        diagnostic.also.push(Location::file("b.toml"));
        let lines: Vec<String> = render(&[diagnostic], &[source], false)
            .lines()
            .map(|l| l.trim_end().to_owned())
            .collect();
        let wanted = [
            "a.toml:2:1: `y` is \\u{1b}[31mwrong",
            "  |",
            "2 | y = 2",
            "  | ^",
            "  also b.toml",
            "  hint: take it out",
        ];
        assert_eq!(lines, wanted);
    }

    #[test]
    fn colours_and_missing_sources_are_no_trouble() {
        let source = Source::new("a.toml", "x = 1\n");
        let diagnostic = source.diagnostic(0..1, "wrong");
        assert!(render(std::slice::from_ref(&diagnostic), &[source], true).contains("\x1b["));
        assert_eq!(render(&[diagnostic], &[], false), "a.toml:1:1: wrong\n");
    }
}
