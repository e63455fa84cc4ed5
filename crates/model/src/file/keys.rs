//! The one table of keys: what each key of the files is called, what it takes, what it means, and whether it works.
//!
//! Unknown-key errors, "not supported yet" refusals, the JSON Schema and the key tables of the docs all come from
//! here. Making a key work means changing its status in [`table`], nothing else.

mod docs;
mod table;

pub use docs::{key_tables, refused_list};
pub use table::{DESIRED, SETTINGS};

/// Whether a key or a word does anything yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Works,
    /// Known and checked, but refused until it is built; with the area it is planned with.
    Later(&'static str),
}

impl Status {
    /// `is not supported yet`, with the plan; none for what works.
    pub fn refusal(self) -> Option<String> {
        match self {
            Self::Works => None,
            Self::Later(area) => Some(format!("is not supported yet (planned: {area})")),
        }
    }

    /// It does what the docs say.
    pub fn works(self) -> bool {
        self == Self::Works
    }
}

/// A word of a fixed list. A last `:` means that a name follows (`container:NAME`).
pub type Word = (&'static str, Status);

/// What a key takes.
#[derive(Clone, Copy, Debug)]
pub enum Type {
    /// A table with fixed keys: those one level below its path.
    Table,
    /// Tables by name: the keys are below `PATH.*`.
    Named,
    Boolean,
    Integer(i64, i64),
    /// Cores, as a fraction.
    Number,
    /// Any string.
    Text,
    /// A string of a known form: its regular expression and its name.
    Pattern(&'static str, &'static str),
    Words(&'static [Word]),
    /// `false`.
    Off,
    Duration,
    Size,
    /// An absolute path.
    Path,
    List(&'static Type),
    Map(&'static Type),
    OneOf(&'static [Type]),
    /// Image references, of which some forms may not work yet.
    Image,
    /// Entries of `ports`.
    Port,
    /// Entries of `volumes`.
    Volume,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted, `*` for a name: `container.*.restart.policy`. What is inside a list has the list's path.
    pub path: &'static str,
    pub ty: Type,
    /// As shown in the docs; empty where there is none.
    pub default: &'static str,
    pub status: Status,
    pub doc: &'static str,
}

impl Key {
    /// The last part of the path.
    pub fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }

    /// All but the last part; empty for a top-level key.
    pub fn parent(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(parent, _)| parent)
    }
}

/// The keys one level below `parent`.
pub fn below<'a>(keys: &'static [Key], parent: &'a str) -> impl Iterator<Item = &'static Key> + 'a {
    keys.iter().filter(move |key| key.parent() == parent)
}

/// The row of a path.
pub fn find(keys: &'static [Key], path: &str) -> Option<&'static Key> {
    keys.iter().find(|key| key.path == path)
}
