//! Files that name the other hosts of an overlay: one address a line, `#` begins a comment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use model::observed::Look;

use crate::contents;

/// What each says. One that cannot be read, or not to its end, says nothing.
pub fn look(files: &BTreeSet<PathBuf>) -> BTreeMap<PathBuf, Look<Vec<IpAddr>>> {
    let one = |file: &PathBuf| {
        let seen = read(file).map_or_else(Look::Unknown, Look::Known);
        (file.clone(), seen)
    };
    files.iter().map(one).collect()
}

fn read(file: &Path) -> Result<Vec<IpAddr>, String> {
    let bytes = contents::read_file(file)?;
    let text = String::from_utf8_lossy(&bytes);
    parse(&text).map_err(|why| format!("{} {why}", file.display()))
}

/// A file without a byte is one that somebody is about to write: it does not take all peers away.
fn parse(text: &str) -> Result<Vec<IpAddr>, String> {
    if text.is_empty() {
        return Err("is empty; if there are to be no peers, have a comment say so".to_owned());
    }
    let mut peers = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let written = line.split('#').next().unwrap_or_default().trim();
        if written.is_empty() {
            continue;
        }
        let peer = written
            .parse()
            .map_err(|_| format!("has {written:?} in line {number}, which is no IP address"))?;
        peers.push(peer);
    }
    Ok(peers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_a_line_with_comments() {
        let text = "# hosts\n192.0.2.2\n\n  192.0.2.3 # db\n2001:db8::1\n";
        let peers: Vec<String> = parse(text).unwrap().iter().map(IpAddr::to_string).collect();
        assert_eq!(peers, ["192.0.2.2", "192.0.2.3", "2001:db8::1"]);
        assert_eq!(parse("# nobody\n"), Ok(Vec::new()));
        assert!(parse("").is_err());
    }

    #[test]
    fn what_is_no_address_is_told_with_its_line() {
        let why = parse("192.0.2.2\nhost-b\n").unwrap_err();
        assert_eq!(why, "has \"host-b\" in line 2, which is no IP address");
    }
}
