//! In which order containers end at a shutdown: who depends on others goes first. The agent is gone by then, so it
//! leaves the order in the run dir for `wharf hold`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use model::ledger::Ledger;
use model::name::Name;
use runtime::shim::start::group_name;

use crate::whole_file::{self, Outlives};

/// Names of control groups (`NAME-ID12`), those that end together in one wave; the first wave goes first.
pub type Waves = Vec<Vec<String>>;

/// The order by what was accepted.
pub fn of(ledger: &Ledger) -> Waves {
    let needs = ledger
        .containers
        .iter()
        .map(|(name, entry)| (name, model::links::relied_on(&entry.current.spec).collect()))
        .collect();
    let depths = depths(&needs);
    let deepest = depths.values().copied().max().unwrap_or_default();
    let mut waves = vec![Vec::new(); deepest + 1];
    for (name, entry) in &ledger.containers {
        let wave = &mut waves[deepest - depths.get(name).copied().unwrap_or_default()];
        wave.push(group_name(name, &entry.current.id));
        // A replacement under way is there beside the one it replaces.
        wave.extend(entry.next.iter().map(|next| group_name(name, &next.accepted.id)));
    }
    waves
}

/// How long the longest chain of dependencies below each container is.
fn depths<'a>(needs: &BTreeMap<&'a Name, Vec<&'a Name>>) -> BTreeMap<&'a Name, usize> {
    let mut depths: BTreeMap<&Name, usize> = needs.keys().map(|name| (*name, 0)).collect();
    // Each round settles one more link; a cycle, which validation refuses, would only end in some order.
    for _ in 0..needs.len() {
        let mut settled = true;
        for (name, on) in needs {
            let below = on.iter().filter_map(|on| depths.get(on));
            let depth = below.map(|d| d + 1).max().unwrap_or_default();
            settled &= depths.insert(name, depth) == Some(depth);
        }
        if settled {
            break;
        }
    }
    depths
}

/// Where it is.
pub fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("stop_order")
}

/// Leaves it for a process that may read it at any time: a line a wave.
pub fn write(run_dir: &Path, waves: &Waves) -> io::Result<()> {
    let text: String = waves.iter().map(|wave| wave.join(" ") + "\n").collect();
    whole_file::write(&path(run_dir), text.as_bytes(), Outlives::Agent).map(drop)
}

/// Reads it; empty where no agent has written one.
pub fn read(run_dir: &Path) -> io::Result<Waves> {
    match std::fs::read_to_string(path(run_dir)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Waves::new()),
        text => Ok(text?
            .lines()
            .map(|line| {
                line.split(' ')
                    .filter(|g| !g.is_empty())
                    .map(str::to_owned)
                    .collect()
            })
            .collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_depends_on_others_is_deeper() {
        let names: Vec<Name> = ["db", "app", "web", "alone", "gone"]
            .map(|n| n.parse().unwrap())
            .into();
        let [db, app, web, alone, gone] = [0, 1, 2, 3, 4].map(|n| &names[n]);
        let needs = [
            (app, vec![db, gone]),
            (web, vec![app, db]),
            (db, vec![]),
            (alone, vec![]),
        ];
        let expected = [(app, 1), (web, 2), (db, 0), (alone, 0)];
        assert_eq!(depths(&needs.into()), expected.into());
    }

    #[test]
    fn a_cycle_comes_to_an_end() {
        let (a, b): (Name, Name) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert_eq!(depths(&[(&a, vec![&b]), (&b, vec![&a])].into()).len(), 2);
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), Waves::new());
        let waves = vec![
            vec!["web-1".to_owned(), "x-2".to_owned()],
            vec![],
            vec!["db-3".to_owned()],
        ];
        write(dir.path(), &waves).unwrap();
        assert_eq!(read(dir.path()).unwrap(), waves);
    }
}
