//! Splitting a command line into words as a shell does, without running one.

/// What a command line lacks at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SplitError {
    #[error("has a {0} that is not closed")]
    Quote(char),
    #[error("ends with a backslash")]
    Backslash,
}

/// POSIX quoting (Shell Command Language, 2.2): blanks separate, '…' is literal, in "…" a backslash escapes
/// $ ` " \ and a line's end, elsewhere the character after it. Nothing is expanded.
pub(super) fn split(text: &str) -> Result<Vec<String>, SplitError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => single(&mut chars, word.get_or_insert_default())?,
            '"' => double(&mut chars, word.get_or_insert_default())?,
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(escaped) => word.get_or_insert_default().push(escaped),
                None => return Err(SplitError::Backslash),
            },
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

fn single(chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), SplitError> {
    for c in chars {
        if c == '\'' {
            return Ok(());
        }
        word.push(c);
    }
    Err(SplitError::Quote('\''))
}

fn double(chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), SplitError> {
    while let Some(c) = chars.next() {
        match c {
            '"' => return Ok(()),
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(escaped @ ('$' | '`' | '"' | '\\')) => word.push(escaped),
                Some(other) => word.extend(['\\', other]),
                None => return Err(SplitError::Quote('"')),
            },
            other => word.push(other),
        }
    }
    Err(SplitError::Quote('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_does() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("  ", &[]),
            ("nginx -g 'daemon off;'", &["nginx", "-g", "daemon off;"]),
            ("a\tb\nc", &["a", "b", "c"]),
            (r#"a "b \"c\" \d" e"#, &["a", r#"b "c" \d"#, "e"]),
            (r"a\ b c", &["a b", "c"]),
            ("a'b'\"c\"d", &["abcd"]),
            ("a '' \"\"", &["a", "", ""]),
            ("a \\\n b", &["a", "b"]),
            ("$HOME | x", &["$HOME", "|", "x"]),
        ];
        for (text, words) in cases {
            assert_eq!(split(text).unwrap(), *words, "{text:?}");
        }
    }

    #[test]
    fn what_is_open_is_an_error() {
        assert_eq!(split("a 'b"), Err(SplitError::Quote('\'')));
        assert_eq!(split("a \"b"), Err(SplitError::Quote('"')));
        assert_eq!(split("a \"b\\"), Err(SplitError::Quote('"')));
        assert_eq!(split("a \\"), Err(SplitError::Backslash));
    }
}
