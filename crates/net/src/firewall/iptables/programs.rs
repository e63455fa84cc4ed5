//! The programs: which there are, what they print, what they are given.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::NetError;
use crate::firewall::family::Family;

/// Seconds that another program may hold the lock of iptables.
const PATIENCE: &str = "--wait=10";

/// In which part of the kernel the rules are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Variant {
    /// In nf_tables: iptables-nft.
    Nft,
    /// In tables of its own: iptables-legacy, and all before 1.8.
    Legacy,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "iptables-nft",
            Self::Legacy => "iptables-legacy",
        })
    }
}

/// What `iptables-restore --version` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub variant: Variant,
    /// `v1.8.9`.
    pub number: String,
}

/// Where they are looked for.
#[derive(Debug)]
pub struct Programs {
    /// As PATH has it.
    path: OsString,
    /// By the file it was said by.
    said: Mutex<Option<(PathBuf, Version)>>,
}

/// Where they are on every host, whatever PATH somebody was started with.
const USUAL: [&str; 2] = ["/usr/sbin", "/sbin"];

impl Programs {
    pub fn new(path: OsString) -> Self {
        let said = Mutex::default();
        Self { path, said }
    }

    fn find(&self, name: &str) -> Option<PathBuf> {
        let usual = USUAL.into_iter().map(PathBuf::from);
        let mut dirs = std::env::split_paths(&self.path).chain(usual);
        dirs.find_map(|dir| Some(dir.join(name)).filter(|file| file.is_absolute() && file.is_file()))
    }

    /// That of the family is there.
    pub fn has(&self, f: Family) -> bool {
        self.find(&format!("{}-restore", program(f))).is_some()
    }

    /// Which one `iptables` is.
    pub fn version(&self) -> Result<Version, NetError> {
        let file = self
            .find("iptables-restore")
            .ok_or_else(|| missing("iptables-restore"))?;
        let real = file.canonicalize().unwrap_or_else(|_| file.clone());
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, version)) = said.as_ref()
            && *of == real
        {
            return Ok(version.clone());
        }
        let version = read_version(&run(&file, &["--version"], "")?);
        *said = Some((real, version.clone()));
        Ok(version)
    }

    /// What is there, as printed.
    pub fn save(&self, f: Family, variant: Variant) -> Result<String, NetError> {
        run(&self.of(f, variant, "save")?, &[], "")
    }

    /// Table by table; a table is changed wholly or not at all.
    pub fn restore(&self, f: Family, variant: Variant, input: &str) -> Result<(), NetError> {
        run(&self.of(f, variant, "restore")?, &[PATIENCE, "--noflush"], input).map(drop)
    }

    /// By its plain name where that is this variant's.
    fn of(&self, f: Family, variant: Variant, verb: &str) -> Result<PathBuf, NetError> {
        let plain = format!("{}-{verb}", program(f));
        let named = match variant {
            Variant::Nft => format!("{}-nft-{verb}", program(f)),
            Variant::Legacy => format!("{}-legacy-{verb}", program(f)),
        };
        let is = self.version().is_ok_and(|version| version.variant == variant);
        let file = if is { self.find(&plain) } else { self.find(&named) };
        file.ok_or_else(|| missing(if is { &plain } else { &named }))
    }
}

fn program(f: Family) -> &'static str {
    match f {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

fn missing(program: &str) -> NetError {
    NetError::NoIptables {
        program: program.to_owned(),
    }
}

/// `iptables-restore v1.8.9 (nf_tables)`; before there were two, without the brackets.
fn read_version(text: &str) -> Version {
    let variant = match text.contains("nf_tables") {
        true => Variant::Nft,
        false => Variant::Legacy,
    };
    let number = text.split_whitespace().nth(1).unwrap_or("?").to_owned();
    Version { variant, number }
}

fn run(file: &Path, args: &[&str], input: &str) -> Result<String, NetError> {
    let failed = |said: String| NetError::Iptables {
        program: file.display().to_string(),
        said,
    };
    let out = feed(file, args, input).map_err(|e| failed(e.to_string()))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    let line = offending(&said, input)
        .map(|line| format!(" (of: {line})"))
        .unwrap_or_default();
    Err(failed(match said.is_empty() {
        true => out.status.to_string(),
        false => format!("{}{line}", said.replace('\n', "; ")),
    }))
}

/// The latest of our own: what they change is not somebody else's doing.
static RAN: Mutex<VecDeque<u32>> = Mutex::new(VecDeque::new());
const REMEMBERED: usize = 32;

/// It was run from here, lately.
pub(crate) fn was_run(pid: u32) -> bool {
    RAN.lock().unwrap_or_else(PoisonError::into_inner).contains(&pid)
}

fn remember(pid: u32) {
    let mut ran = RAN.lock().unwrap_or_else(PoisonError::into_inner);
    ran.truncate(REMEMBERED - 1);
    ran.push_front(pid);
}

fn feed(file: &Path, args: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(file)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    remember(child.id());
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends before it has read all says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

/// The line that the program says it failed at.
fn offending<'a>(said: &str, input: &'a str) -> Option<&'a str> {
    let (_, rest) = said.split_once("line")?;
    let digits = rest.trim_start_matches([' ', ':']);
    let number: usize = digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    input
        .lines()
        .nth(number.checked_sub(1)?)
        .filter(|line| *line != "COMMIT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_tell_where_the_rules_are_kept() {
        for (text, variant, number) in [
            ("iptables-restore v1.8.9 (nf_tables)", Variant::Nft, "v1.8.9"),
            ("iptables-restore v1.8.9 (legacy)\n", Variant::Legacy, "v1.8.9"),
            ("iptables-restore v1.6.1", Variant::Legacy, "v1.6.1"),
        ] {
            let number = number.to_owned();
            assert_eq!(read_version(text), Version { variant, number });
        }
    }

    #[test]
    fn the_line_that_failed_is_shown() {
        let input = "*nat\n-A X -j Y\nCOMMIT\n";
        assert_eq!(
            offending("iptables-restore: line 2 failed", input),
            Some("-A X -j Y")
        );
        assert_eq!(offending("Error occurred at line: 2", input), Some("-A X -j Y"));
        assert_eq!(offending("iptables-restore: line 3 failed", input), None);
        assert_eq!(offending("no such thing", input), None);
    }
}
