//! Reading the directory again: files of which nothing changed are not opened, and where nothing changed at all what was
//! read before is what is there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use model::file::Source;
use stamp::Stamp;

use super::{Contents, Listing, list, parse, read_one};

/// A file's text, and those of its drop-ins.
type Whole = (Source, Vec<Source>);

/// Remembers what was read.
#[derive(Debug, Default)]
pub struct Reader {
    /// Regular files without drop-ins, in the directory itself, by their names.
    known: BTreeMap<String, (Stamp, Source)>,
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    contents: Arc<Contents>,
    search: Vec<String>,
    /// Every file that was listed could be read: what could not is in no list of texts.
    whole: bool,
}

impl Reader {
    /// As [`super::read`]; the very same as before where nothing changed.
    pub fn read(&mut self, dir: &Path, search: &[String]) -> Arc<Contents> {
        if let Some(same) = self.unchanged(dir, search) {
            return same;
        }
        let (mut contents, whole) = self.texts(dir);
        if let Some(same) = self.as_before(&contents, &whole, search) {
            return same;
        }
        let all_read = contents.broken.is_empty() && contents.unreadable.is_none();
        parse(whole, search, &mut contents);
        let contents = Arc::new(contents);
        self.last = Some(Last {
            whole: all_read,
            contents: Arc::clone(&contents),
            search: search.to_owned(),
        });
        contents
    }

    /// What was read before, if these are the same texts, and the way there is the same.
    fn as_before(&self, read: &Contents, whole: &[Whole], search: &[String]) -> Option<Arc<Contents>> {
        let last = self.last.as_ref().filter(|last| last.whole)?;
        let Last {
            contents, search: by, ..
        } = last;
        let texts = whole
            .iter()
            .flat_map(|(main, drop_ins)| [main].into_iter().chain(drop_ins));
        let same = by == search
            && read.unreadable.is_none()
            && read.broken.is_empty()
            && read.seen == contents.seen
            && read.watched == contents.watched
            && texts.eq(&contents.sources);
        same.then(|| Arc::clone(contents))
    }

    /// What was read before, if every file is known and as it was, and the way there as well.
    fn unchanged(&self, dir: &Path, search: &[String]) -> Option<Arc<Contents>> {
        let last = self.last.as_ref().filter(|last| last.whole)?;
        let Last {
            contents, search: by, ..
        } = last;
        let listing = list(dir).ok()?;
        let same = by == search
            && listing.names.len() == self.known.len()
            // One that was too young to be known may be gone.
            && listing.names.len() == contents.sources.len()
            && listing.drop_ins.is_empty()
            && contents.seen == Some((listing.identity.clone(), !listing.names.is_empty()))
            && listing.names.iter().all(|name| self.is_as_it_was(&listing, name));
        (same && way_to(dir).watched == contents.watched).then(|| Arc::clone(contents))
    }

    fn is_as_it_was(&self, listing: &Listing, name: &str) -> bool {
        self.known
            .get(name)
            .is_some_and(|(stamp, _)| Stamp::of_entry(&listing.handle, name) == Some(*stamp))
    }

    /// Reads and parses all of it.
    pub fn read_anew(&mut self, dir: &Path, search: &[String]) -> Contents {
        let (mut contents, whole) = self.texts(dir);
        parse(whole, search, &mut contents);
        contents
    }

    /// Reads all of it, but for the texts of files that did not change.
    fn texts(&mut self, dir: &Path) -> (Contents, Vec<Whole>) {
        let (mut contents, mut whole) = (way_to(dir), Vec::new());
        let before = std::mem::take(&mut self.known);
        match list(dir) {
            Err(problem) => {
                contents.unreadable = Some(problem);
                contents.missing = matches!(dir.try_exists(), Ok(false));
            }
            Ok(listing) => {
                contents.seen = Some((listing.identity.clone(), !listing.names.is_empty()));
                let one = |name| self.one(dir, &listing, name, &before, &mut contents);
                whole = listing.names.iter().filter_map(one).collect();
            }
        }
        (contents, whole)
    }

    fn one(
        &mut self,
        dir: &Path,
        listing: &Listing,
        name: &String,
        before: &BTreeMap<String, (Stamp, Source)>,
        contents: &mut Contents,
    ) -> Option<Whole> {
        let taken = SystemTime::now();
        let stamp = Stamp::of_entry(&listing.handle, name.as_str());
        let has_drop_ins = listing.drop_ins.contains(&format!("{name}.d"));
        // A link may lead elsewhere without a change of its own.
        let plain = stamp.filter(|stamp| listing.local && stamp.is_regular_file() && !has_drop_ins);
        if let (Some(stamp), Some((known, source))) = (plain, before.get(name))
            && stamp == *known
        {
            self.known.insert(name.clone(), (stamp, source.clone()));
            return Some((source.clone(), Vec::new()));
        }
        if plain.is_none() {
            // Of all that is in the directory itself its own watch tells.
            return read_one(dir, name, has_drop_ins, contents);
        }
        let mut way = Contents::default();
        let read = read_one(dir, name, false, &mut way);
        contents.broken.append(&mut way.broken);
        if let (Some((source, _)), Some(stamp)) = (&read, plain.filter(|stamp| stamp.is_settled(taken))) {
            self.known.insert(name.clone(), (stamp, source.clone()));
        }
        read
    }
}

/// Nothing but what leads to the directory.
fn way_to(dir: &Path) -> Contents {
    let mut contents = Contents::default();
    contents.watched.directory(dir);
    contents
}
