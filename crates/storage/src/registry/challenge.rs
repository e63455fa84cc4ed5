//! `WWW-Authenticate` (RFC 9110 §11.6.1, RFC 6750 §3, distribution's token specification): what a registry wants to see.

/// How the registry wants to know who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

/// The challenge to answer among all those of an answer's headers: bearer before basic. None where none is understood.
pub fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut best = None;
    for (scheme, parameters) in headers.flat_map(challenges) {
        let find = |name: &str| {
            let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone())
        };
        if scheme.eq_ignore_ascii_case("bearer") {
            if let Some(realm) = find("realm") {
                let service = find("service");
                return Some(Challenge::Bearer { realm, service });
            }
        } else if scheme.eq_ignore_ascii_case("basic") {
            best = Some(Challenge::Basic);
        }
    }
    best
}

type Parameters = Vec<(String, String)>;

/// Splits one header into schemes and their parameters. Several may share a header, with commas between everything.
fn challenges(header: &str) -> Vec<(String, Parameters)> {
    let mut found: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([',', ' ', '\t']);
        let end = rest.find(['=', ',', ' ', '\t']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            return found;
        }
        let after = after.trim_start_matches([' ', '\t']);
        match (after.strip_prefix('='), found.last_mut()) {
            (Some(after), Some((_, parameters))) => {
                let (value, after) = value(after.trim_start_matches([' ', '\t']));
                parameters.push((word.to_owned(), value));
                rest = after;
            }
            (Some(_), None) => return found,
            (None, _) => {
                found.push((word.to_owned(), Vec::new()));
                rest = after;
            }
        }
    }
}

/// A token, or a string in quotes where a backslash hides the next character; and what follows.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
        })
    }

    #[test]
    fn challenges_as_they_are_met() {
        for (headers, expected) in [
            (&["Basic realm=\"x\""][..], Some(Challenge::Basic)),
            (
                &[
                    "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:a:pull\"",
                ],
                bearer("https://auth.docker.io/token", Some("registry.docker.io")),
            ),
            (
                &["bearer  REALM = https://x/t , error=\"invalid\""],
                bearer("https://x/t", None),
            ),
            (
                &["Basic realm=\"a, Bearer realm=b\", Bearer realm=\"c\\\"d\""],
                bearer("c\"d", None),
            ),
            (
                &["Negotiate", "Basic realm=x", "Bearer realm=y"],
                bearer("y", None),
            ),
            (&["Bearer service=\"x\""], None),
            (&["Digest realm=\"x\""], None),
            (
                &["", ",,", "=", "\"", "Bearer realm=\"unended"],
                bearer("unended", None),
            ),
        ] {
            assert_eq!(choose(headers.iter().copied()), expected, "{headers:?}");
        }
    }
}
