//! Finding the program and saying beforehand, in words, why it will not run.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, OFlags};

use super::path;
use crate::launch::LaunchError;

/// Looks a command up as execvpe(3) would, inside a root, and checks that it and what it needs (a script's
/// interpreter, a dynamic program's loader) are there and executable.
pub fn find(root: BorrowedFd<'_>, command: &str, path: &str, cwd: &Path) -> Result<PathBuf, LaunchError> {
    let mut denied = None;
    for candidate in candidates(command, path, cwd) {
        match executable(root, &candidate) {
            Ok(()) => {
                needs(root, &candidate, &candidate, 0)?;
                return Ok(candidate);
            }
            Err(Why::Absent) => {}
            Err(Why::Denied(why)) => denied = denied.or(Some((candidate, why))),
        }
    }
    if let Some((candidate, why)) = denied {
        let text = format!("the program {} cannot be run: {why}", candidate.display());
        return Err(LaunchError::NotExecutable(text));
    }
    Err(LaunchError::NotFound(if command.contains('/') {
        format!("the command {command:?} was not found in the image")
    } else {
        format!("the command {command:?} was not found in the image's PATH ({path})")
    }))
}

fn candidates(command: &str, path: &str, cwd: &Path) -> Vec<PathBuf> {
    if command.contains('/') {
        return vec![cwd.join(command)];
    }
    path.split(':').map(|dir| cwd.join(dir).join(command)).collect()
}

enum Why {
    Absent,
    Denied(String),
}

fn executable(root: BorrowedFd<'_>, file: &Path) -> Result<(), Why> {
    let denied = |text: &str| Err(Why::Denied(text.to_owned()));
    let fd = match path::open(root, file, OFlags::PATH) {
        Ok(fd) => fd,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Err(Why::Absent);
        }
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
            return denied("it leads through a loop of links or a link of /proc");
        }
        Err(e) => return denied(&e.to_string()),
    };
    let stat = rustix::fs::statat(&fd, c"", AtFlags::EMPTY_PATH).map_err(|e| Why::Denied(e.to_string()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => denied("it is a directory"),
        FileType::RegularFile if stat.st_mode & 0o111 == 0 => {
            denied("it is not executable (chmod +x it in the image)")
        }
        FileType::RegularFile => Ok(()),
        _ => denied("it is not a regular file"),
    }
}

/// Checks what the kernel will load besides; depth is the nesting of scripts, of which the kernel takes five.
fn needs(root: BorrowedFd<'_>, program: &Path, file: &Path, depth: u32) -> Result<(), LaunchError> {
    // A file that may be run but not read keeps its secret: execve is the judge.
    let Ok(head) = read_head(root, file) else {
        return Ok(());
    };
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
        let word = line.split(|b| b" \t\r".contains(b)).find(|w| !w.is_empty());
        let interpreter = Path::new(OsStr::from_bytes(word.unwrap_or_default()));
        wanted(root, program, "script", "interpreter", interpreter)?;
        if depth < 4 && interpreter.is_absolute() {
            return needs(root, interpreter, interpreter, depth + 1);
        }
        return Ok(());
    }
    match elf(&head) {
        Elf::Foreign(machine) => Err(LaunchError::NotExecutable(format!(
            "the program {} is built for {machine}, this machine is {}",
            program.display(),
            std::env::consts::ARCH
        ))),
        Elf::Loader(loader) => wanted(root, program, "program", "loader", &loader),
        Elf::Fine => Ok(()),
    }
}

fn wanted(
    root: BorrowedFd<'_>,
    program: &Path,
    kind: &str,
    what: &str,
    file: &Path,
) -> Result<(), LaunchError> {
    let (program, shown) = (program.display(), file.display());
    match executable(root, file) {
        Ok(()) => Ok(()),
        Err(Why::Absent) => Err(LaunchError::NotFound(format!(
            "{kind} {program} wants {what} {shown}, which the image does not have"
        ))),
        Err(Why::Denied(why)) => Err(LaunchError::NotExecutable(format!(
            "{kind} {program} wants {what} {shown}, which cannot be run: {why}"
        ))),
    }
}

fn read_head(root: BorrowedFd<'_>, file: &Path) -> io::Result<Vec<u8>> {
    let fd = path::open(root, file, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let mut head = Vec::new();
    std::fs::File::from(fd).take(4096).read_to_end(&mut head)?;
    Ok(head)
}

#[derive(Debug, PartialEq, Eq)]
enum Elf {
    /// Not ELF, or nothing stands against it.
    Fine,
    /// Another machine's.
    Foreign(&'static str),
    /// PT_INTERP.
    Loader(PathBuf),
}

/// Reads an ELF header (elf(5)) as far as it lies in the first page.
fn elf(head: &[u8]) -> Elf {
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return Elf::Fine;
    }
    let number = |at: u64, size: usize| -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        let bytes = head.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    };
    let machine = match number(18, 2) {
        Some(62) => "x86_64",
        Some(183) => "aarch64",
        Some(243) => "riscv64",
        Some(21) => "powerpc64",
        Some(22) => "s390x",
        _ => return Elf::Fine,
    };
    if machine != std::env::consts::ARCH {
        return Elf::Foreign(machine);
    }
    let loader = || -> Option<PathBuf> {
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let entry = (0..count)
            .map(|i| table.saturating_add(i * size))
            .find(|&e| number(e, 4) == Some(3))?;
        let (at, length) = (number(entry + 8, 8)?, number(entry + 32, 8)?);
        let at = usize::try_from(at).ok()?;
        let text = head.get(at..at.checked_add(usize::try_from(length).ok()?)?)?;
        let text = text.split(|b| *b == 0).next()?;
        Some(PathBuf::from(OsStr::from_bytes(text)))
    };
    loader().map_or(Elf::Fine, Elf::Loader)
}

/// Says why execve failed, as far as a second look can tell.
pub fn explain(root: BorrowedFd<'_>, program: &Path, error: &io::Error) -> LaunchError {
    if let Err(found) = needs(root, program, program, 0) {
        return found;
    }
    let name = program.display();
    match error.raw_os_error() {
        Some(libc::ENOENT) => LaunchError::NotFound(format!("the program {name} is not there any more")),
        Some(libc::ENOEXEC) => LaunchError::NotExecutable(format!(
            "{name} is not a program: it has no #! line and no format this machine knows"
        )),
        _ => LaunchError::NotExecutable(format!("running {name}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn look(files: &[(&str, &str, u32)], command: &str) -> Result<PathBuf, LaunchError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text, mode) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        symlink("/proc/self/exe", dir.path().join("magic")).unwrap();
        let root = fs::File::open(dir.path()).unwrap();
        find(root.as_fd(), command, "/bin:/usr/bin", Path::new("/srv"))
    }

    #[test]
    fn a_command_is_looked_for_as_execvp_does() {
        let files = [
            ("bin/plain", "text", 0o644),
            ("usr/bin/plain", "text", 0o755),
            ("srv/own", "", 0o755),
        ];
        assert_eq!(look(&files, "plain"), Ok("/usr/bin/plain".into()));
        assert_eq!(look(&files, "./own"), Ok("/srv/./own".into()));
        assert_eq!(look(&files, "foo").unwrap_err().exit_code(), 127);
        assert_eq!(look(&files, "/bin/plain").unwrap_err().exit_code(), 126);
        assert_eq!(look(&files, "/bin").unwrap_err().exit_code(), 126);
    }

    #[test]
    fn what_a_script_needs_is_named() {
        let script = [("bin/run", "#! /bin/bash -e\n", 0o755)];
        let error = look(&script, "run").unwrap_err();
        assert_eq!(error.exit_code(), 127);
        assert_eq!(
            error.to_string(),
            "script /bin/run wants interpreter /bin/bash, which the image does not have"
        );
        let nested = [
            ("bin/run", "#!/bin/other\n", 0o755),
            ("bin/other", "#!/no\n", 0o755),
        ];
        assert!(
            look(&nested, "run")
                .unwrap_err()
                .to_string()
                .contains("/bin/other wants interpreter /no")
        );
    }

    #[test]
    fn our_own_binary_is_never_what_is_run() {
        let error = look(&[("bin/run", "#!/magic\n", 0o755)], "/magic").unwrap_err();
        assert_ne!(error.exit_code(), 125);
        let script = [
            ("bin/run", "#!/proc/self/exe\n", 0o755),
            ("proc/self/x", "", 0o644),
        ];
        assert!(look(&script, "run").is_err());
    }

    #[test]
    fn an_elf_file_names_its_loader_and_machine() {
        let own = fs::read("/proc/self/exe").unwrap();
        assert!(matches!(elf(&own[..4096]), Elf::Loader(_)));
        let mut foreign = own[..4096].to_vec();
        foreign[18] = if std::env::consts::ARCH == "x86_64" {
            183
        } else {
            62
        };
        assert!(matches!(elf(&foreign), Elf::Foreign(_)));
    }
}
