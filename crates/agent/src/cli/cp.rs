//! `wharf cp`: files between a container and the host, as `docker cp` has it.
//!
//! What goes where depends on whether the destination is there and on how both paths end; the table is Docker's:
//!
//! | source | destination | becomes |
//! | --- | --- | --- |
//! | anything | a directory | `DEST/NAME`; of `SRC/.` what is in it |
//! | file | a file, or nothing | `DEST` |
//! | directory | nothing | `DEST` |
//! | file | nothing, written with a slash at its end | an error |
//! | directory | a file | an error |

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use storage::files::{Extract, Owners, PackOptions, PathStat, Target, extract, pack};

use super::client::{Client, escaped};
use super::{CpArgs, DONE};

const STAT: &str = "x-docker-container-path-stat";

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    /// A file of the host, or `-`.
    Local(String),
    Container {
        name: String,
        path: String,
    },
}

/// Copies, and says nothing where it went well.
pub async fn cp(client: &Client, args: &CpArgs) -> anyhow::Result<u8> {
    match (side(&args.source), side(&args.dest)) {
        (Side::Container { name, path }, Side::Local(dest)) => {
            from_container(client, args, &name, path, dest).await?;
        }
        (Side::Local(source), Side::Container { name, path }) => {
            to_container(client, args, source, &name, path).await?;
        }
        (Side::Container { .. }, Side::Container { .. }) => bail!(
            "copying between containers is not supported: use a pipe, `wharf cp A:/file - | wharf cp - B:/directory`"
        ),
        (Side::Local(_), Side::Local(_)) => bail!("one of the two has to be CONTAINER:PATH"),
    }
    Ok(DONE)
}

/// `NAME:PATH` is a container's; what begins with a slash or a dot, and what has no colon, is the host's.
fn side(text: &str) -> Side {
    match text.split_once(':') {
        Some((name, path)) if !text.starts_with('/') && !name.starts_with('.') => Side::Container {
            name: name.to_owned(),
            path: path.to_owned(),
        },
        _ => Side::Local(text.to_owned()),
    }
}

fn route(name: &str, path: &str) -> String {
    format!("/containers/{}/archive?path={}", escaped(name), escaped(path))
}

async fn stat(client: &Client, name: &str, path: &str) -> anyhow::Result<Option<PathStat>> {
    let header = client.head(&route(name, path), STAT).await?;
    header.map(|text| parsed(&text)).transpose()
}

fn parsed(header: &str) -> anyhow::Result<PathStat> {
    let text = STANDARD
        .decode(header)
        .context("the agent's description of the file is no base64")?;
    serde_json::from_slice(&text).context("the agent's description of the file is none this wharf knows")
}

/// The last part of a path, as the archive of it begins: `.` and `/` stand for what is in a directory.
fn base(path: &str) -> String {
    let dot = path == "." || path.ends_with("/.");
    match Path::new(path).file_name() {
        Some(name) if !dot => name.to_string_lossy().into_owned(),
        _ => ".".to_owned(),
    }
}

fn asserts_directory(path: &str) -> bool {
    path.ends_with('/') || path.ends_with("/.") || path == "."
}

async fn from_container(
    client: &Client,
    args: &CpArgs,
    name: &str,
    mut path: String,
    dest: String,
) -> anyhow::Result<()> {
    // What its files are called here: by the path that was written, also where a link is followed.
    let mut called = base(&path);
    if args.follow_link
        && let Some(stat) = stat(client, name, &path).await?.filter(PathStat::is_link)
    {
        path = stat.link_target;
    }
    if dest == "-" {
        let mut out = io::stdout();
        if out.is_terminal() {
            bail!("an archive is nothing for a terminal: send it into a pipe or a file");
        }
        client
            .stream(&route(name, &path), |piece| Ok(out.write_all(piece)?))
            .await?;
        return Ok(out.flush()?);
    }
    let owners = match args.archive {
        true => Owners::Archive,
        false => Owners::Own,
    };
    if path.trim_matches('/').is_empty() {
        called = ".".to_owned();
    }
    let begins = base(&path);
    let work = move |header: &str, archive: super::client::transfers::Pieces| {
        let stat = parsed(header)?;
        let (directory, to) = place(&dest, stat.is_dir(), &called)?;
        unpack(archive, &directory, &begins, &to, owners)
    };
    client.download(&route(name, &path), STAT, work).await
}

/// Where on the host a copy goes: a directory that is there, and what it is called in there.
fn place(dest: &str, is_dir: bool, called: &str) -> anyhow::Result<(PathBuf, OsString)> {
    let (there, path) = look(dest)?;
    match there {
        Some(true) => return Ok((path, called.into())),
        Some(false) if is_dir => bail!("{dest} is a file: a directory cannot be copied there"),
        None if asserts_directory(dest) && !is_dir => bail!("{dest}: there is no such directory"),
        Some(false) | None => {}
    }
    let name = path
        .file_name()
        .with_context(|| format!("{dest} cannot be made"))?
        .to_owned();
    let above = match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above.to_owned(),
        _ => PathBuf::from("."),
    };
    match std::fs::metadata(&above) {
        Ok(meta) if meta.is_dir() => Ok((above, name)),
        Ok(_) => bail!("{} is not a directory", above.display()),
        Err(e) => bail!("{}: {e}", above.display()),
    }
}

/// Whether something is there, and a directory; with the path, links at its end followed: also one that leads nowhere,
/// as what it leads to is what is made.
fn look(dest: &str) -> anyhow::Result<(Option<bool>, PathBuf)> {
    let mut path = PathBuf::from(dest);
    for _ in 0..10 {
        match std::fs::symlink_metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((None, path)),
            Err(e) => bail!("{}: {e}", path.display()),
            Ok(meta) if !meta.is_symlink() => return Ok((Some(meta.is_dir()), path)),
            Ok(_) => {
                let target = std::fs::read_link(&path).with_context(|| path.display().to_string())?;
                path = path.parent().unwrap_or(Path::new("/")).join(target);
            }
        }
    }
    bail!("{dest}: too many links")
}

fn unpack(
    archive: impl Read,
    directory: &Path,
    begins: &str,
    to: &OsString,
    owners: Owners,
) -> anyhow::Result<()> {
    let shown = directory.display();
    let root: OwnedFd = File::open(directory)
        .with_context(|| format!("cannot open {shown}"))?
        .into();
    let how = Extract {
        rename: Some((begins.as_bytes().to_vec(), to.as_bytes().to_vec())),
        ..Extract::careful(&root, owners)
    };
    let left_out = extract(archive, &how).with_context(|| format!("copying to {shown}"))?;
    for (path, why) in left_out {
        eprintln!("{}: {why}, and was left out; --archive copies it", path.display());
    }
    Ok(())
}

async fn to_container(
    client: &Client,
    args: &CpArgs,
    source: String,
    name: &str,
    mut path: String,
) -> anyhow::Result<()> {
    let shown = format!("{name}:{path}");
    let mut there = stat(client, name, &path).await?;
    if let Some(link) = there.as_ref().filter(|stat| stat.is_link()) {
        path = link.link_target.clone();
        there = stat(client, name, &path).await?;
    }
    if there.as_ref().is_some_and(PathStat::is_special) {
        bail!("{shown} is neither a directory nor a regular file");
    }
    let there = there.map(|stat| stat.is_dir());
    if source == "-" {
        if there != Some(true) {
            bail!("{shown} is not a directory: an archive is unpacked into one");
        }
        if io::stdin().is_terminal() {
            bail!("send the archive in by a pipe or from a file");
        }
        return put(client, name, &path, |out| {
            io::copy(&mut io::stdin().lock(), out).context("reading the archive")?;
            Ok(())
        })
        .await;
    }
    let source = local(&source, args.follow_link)?;
    let (directory, called) = inside(&path, there, &source, &shown)?;
    let owner = match args.archive {
        true => None,
        false => Some((0, 0)),
    };
    put(client, name, &directory, move |out| {
        let options = PackOptions {
            owner,
            ..PackOptions::default()
        };
        Ok(pack(&source.target, &called, out, options)?)
    })
    .await
}

async fn put(
    client: &Client,
    name: &str,
    directory: &str,
    work: impl FnOnce(&mut dyn Write) -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    let route = route(name, directory) + "&noOverwriteDirNonDir=true";
    client.put(&route, work).await
}

/// Where in the container a copy goes: a directory, and what it is called in there.
fn inside(
    path: &str,
    there: Option<bool>,
    source: &Source,
    shown: &str,
) -> anyhow::Result<(String, Vec<u8>)> {
    match there {
        Some(true) => return Ok((path.to_owned(), source.called.clone())),
        Some(false) if source.is_dir => bail!("{shown} is a file: a directory cannot be copied there"),
        None if asserts_directory(path) && !source.is_dir => bail!("{shown}: there is no such directory"),
        Some(false) | None => {}
    }
    let bare = path.strip_suffix("/.").unwrap_or(path).trim_end_matches('/');
    let (above, name) = bare.rsplit_once('/').unwrap_or(("", bare));
    if name.is_empty() || name == ".." {
        bail!("{shown} cannot be made");
    }
    Ok((format!("{above}/"), name.as_bytes().to_vec()))
}

/// A file of the host that is to be copied.
struct Source {
    target: Target,
    is_dir: bool,
    /// The name it has in a directory it is copied into; `.` is for what is in it.
    called: Vec<u8>,
}

/// Its last part is followed with `--follow-link`, and where a slash comes after it.
fn local(source: &str, follow: bool) -> anyhow::Result<Source> {
    let mut called = base(source);
    let whole = called == "." || source.ends_with('/');
    if source == ".." || source.ends_with("/..") {
        let real = std::fs::canonicalize(source).with_context(|| source.to_owned())?;
        called = real
            .file_name()
            .map_or(".".into(), |name| name.to_string_lossy().into_owned());
    }
    let mut path = PathBuf::from(source);
    if follow {
        path = std::fs::canonicalize(&path).with_context(|| source.to_owned())?;
    }
    let (above, name) = match (path.parent(), path.file_name()) {
        (Some(above), Some(name)) if !whole => (above.to_owned(), name.to_owned()),
        _ => (path.clone(), ".".into()),
    };
    let above = match above.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => above,
    };
    let parent: OwnedFd = File::open(&above)
        .with_context(|| above.display().to_string())?
        .into();
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    let stat = rustix::fs::statat(&parent, &name, flags).with_context(|| source.to_owned())?;
    let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
    Ok(Source {
        target: Target {
            parent,
            name,
            stat,
            shown: path,
        },
        is_dir,
        called: OsString::from(called).into_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart_as_docker_does() {
        let container = |name: &str, path: &str| Side::Container {
            name: name.to_owned(),
            path: path.to_owned(),
        };
        assert_eq!(side("web:/etc"), container("web", "/etc"));
        assert_eq!(side("web:etc:x"), container("web", "etc:x"));
        for local in ["/a:b", "./a:b", "../a:b", "file", "-"] {
            assert_eq!(side(local), Side::Local(local.to_owned()));
        }
    }

    #[test]
    fn the_last_part_is_what_the_archive_begins_with() {
        for (path, is) in [
            ("/etc/passwd", "passwd"),
            ("/etc/", "etc"),
            ("/etc/.", "."),
            ("/", "."),
            (".", "."),
            ("a/..", "."),
        ] {
            assert_eq!(base(path), is, "{path}");
        }
    }

    #[test]
    fn where_a_copy_goes_is_dockers_table() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::fs::create_dir(at("dir")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink("new", at("link")).unwrap();
        let placed = |dest: &str, is_dir| {
            let (directory, name) = place(&at(dest), is_dir, "src").unwrap();
            (directory, name.to_string_lossy().into_owned())
        };
        let top = dir.path().to_owned();
        assert_eq!(placed("dir", true), (top.join("dir"), "src".to_owned()));
        assert_eq!(placed("file", false), (top.clone(), "file".to_owned()));
        assert_eq!(placed("none", true), (top.clone(), "none".to_owned()));
        assert_eq!(placed("none/", true), (top.clone(), "none".to_owned()));
        assert_eq!(placed("link", false), (top, "new".to_owned()));
        for (dest, is_dir, why) in [
            ("file", true, "is a file"),
            ("none/", false, "no such directory"),
            ("no/ne", false, "No such file"),
            ("file/x", false, "ot a directory"),
        ] {
            let error = place(&at(dest), is_dir, "src").unwrap_err().to_string();
            assert!(error.contains(why), "{dest}: {error}");
        }
    }
}
