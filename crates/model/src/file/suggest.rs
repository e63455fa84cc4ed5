//! "did you mean": the nearest known word.

use super::keys::Key;

/// Words of other tools' files, and what they are called here.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("args", "command"),
    ("build", "[image.NAME] build"),
    ("capabilities", "cap_add"),
    ("cmd", "command"),
    ("container_name", "the table's name: [container.NAME]"),
    ("environment", "env"),
    ("mounts", "volumes"),
    ("net", "network_mode"),
    ("network", "networks"),
    ("publish", "ports"),
    ("restart_policy", "restart"),
    ("security_opt", "seccomp, no_new_privileges"),
    ("service", "container"),
    ("services", "container"),
    ("volume", "volumes"),
    ("workdir", "working_dir"),
];

/// What to say about an unknown key: the nearest one here, the table it belongs in, or what there is.
pub(super) fn key(keys: &'static [Key], parent: &str, name: &str, known: &[&str]) -> String {
    if let Some(near) = nearest(name, known) {
        return format!("did you mean `{near}`?");
    }
    let other = OTHER_NAMES.iter().find(|(foreign, here)| {
        *foreign == name && known.iter().any(|k| here.split([',', ' ']).any(|w| w == *k))
    });
    if let Some((_, here)) = other {
        return format!("here it is called `{here}`");
    }
    let root = parent.split('.').next().unwrap_or("");
    let elsewhere = keys
        .iter()
        .find(|k| k.name() == name && k.parent() != parent && !root.is_empty() && k.path.starts_with(root));
    if let Some(found) = elsewhere {
        return format!("`{name}` belongs in [{}]", found.parent().replace('*', "NAME"));
    }
    if known.len() <= 12 {
        format!("known here: {}", known.join(", "))
    } else {
        "`wharf schema` lists every key".to_owned()
    }
}

/// The known word that is a slip of the finger away, if there is one.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    known
        .iter()
        .map(|k| (distance(word, k), *k))
        .filter(|(d, k)| *d <= allowed && *d < k.chars().count())
        .min()
        .map(|(_, k)| k)
}

/// Edit distance with transpositions (optimal string alignment). Long words are not compared.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1)
                .min(row[j - 1] + 1)
                .min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_other_words_are_not() {
        let known = ["image", "ports", "env", "env_file", "read_only"];
        for (word, want) in [
            ("imgae", Some("image")),
            ("port", Some("ports")),
            ("envfile", Some("env_file")),
            ("readonly", Some("read_only")),
            ("x", None),
            ("banana", None),
        ] {
            assert_eq!(nearest(word, &known), want, "{word}");
        }
    }

    #[test]
    fn distances_are_edits() {
        for (a, b, d) in [
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("abcd", "abdc", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), d, "{a} {b}");
        }
    }
}
