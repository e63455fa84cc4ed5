//! The table of classes as `docs/changes.md` has it. A test compares.

use model::file::keys::DESIRED;

use super::classes::{self, CLASSES};

/// What a class alone does not say.
const NOTES: &[(&str, &str)] = &[
    (
        "container.*.image",
        "another reference; and another content behind the same one, once it was loaded",
    ),
    ("container.*.env_file", "the list; and another content of a file"),
    (
        "container.*.enabled",
        "`false`: stopped and removed; `true`: created",
    ),
    ("container.*.networks", "joining, leaving, order, addresses, MAC"),
    (
        "container.*.restart",
        "a job that has finished is judged anew by another `policy`",
    ),
    ("container.*.schedule", "a run under way is left alone"),
    ("network.*.range", "addresses that were given stay"),
    (
        "network.*.internal",
        "`false` again: who has no default route is started again to get one",
    ),
    (
        "network.*.dns",
        "who has no `dns` of its own is started again: the server stands in its resolv.conf",
    ),
    (
        "network.*.subnet6",
        "the device stays, and the IPv4 addresses do; containers are started again to have the new ones from the beginning",
    ),
    ("network.*.range6", "addresses that were given stay"),
    ("network.*.ipv6", "as `subnet6`"),
    (
        "volume.*.driver",
        "what is there is not moved: an error says what to do, the data stays",
    ),
    ("volume.*.device", "as `driver`"),
    (
        "volume.*.options",
        "the export is mounted anew; who runs keeps the mount it has until it is started again",
    ),
    (
        "image.*.pull",
        "containers that name the table are replaced, as by another `image`",
    ),
];

/// A Markdown table of the keys of one kind of table (`container.*`) that work, with what a change of each does.
pub fn table(kind: &str) -> String {
    let mut text = "| key | a change of it | |\n| --- | --- | --- |\n".to_owned();
    let below = |path: &&str| path.strip_prefix(kind).is_some_and(|rest| rest.starts_with('.'));
    let works = |path: &&str| DESIRED.iter().any(|key| key.path == *path && key.status.works());
    for path in CLASSES.iter().map(|(path, _)| *path).filter(below).filter(works) {
        let note = NOTES
            .iter()
            .find(|(of, _)| *of == path)
            .map_or("", |(_, note)| *note);
        let key = path[kind.len() + 1..].replace('*', "NAME");
        let class = classes::of(path).map_or("", |class| class.word());
        text += &format!("| `{key}` | {class} | {note} |\n");
    }
    if text.lines().count() > 2 {
        text
    } else {
        String::new()
    }
}
