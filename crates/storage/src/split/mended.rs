//! Content that a later entry of the same layer replaced: nothing in the tree has it, so the record has to.
//!
//! Rare, so it may cost: the record is gone through once more. The unpacker has put what it replaced into the trash,
//! files by their inode's number; those in directories that went whole are brought up to them first.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt};
use std::path::Path;

use super::frames::{Content, Frame, Reader, Writer};
use super::read::open;
use crate::unpack::{TRASHED_DIRECTORY, TRASHED_FILE};

/// Rewrites `record`, of the tree `root`, with everything in it that only `trash` has any more.
pub fn mend(record: &Path, root: &OwnedFd, trash: &Path) -> io::Result<()> {
    flatten(trash)?;
    let aside = record.with_extension("mended");
    let mut from = Reader::open(record)?;
    let mut into = Writer::create(&aside)?;
    loop {
        match from.next()? {
            Frame::Literal(bytes) => into.literal(&bytes)?,
            Frame::File(content) if is_in_place(root, &content) => into.file(&content)?,
            Frame::File(content) => embed(&mut into, &content, trash)?,
            Frame::End => break,
        }
    }
    into.finish(from.size)?;
    std::fs::rename(&aside, record)
}

fn is_in_place(root: &OwnedFd, content: &Content) -> bool {
    let meta = open(root, &content.path).and_then(|file| file.metadata());
    meta.is_ok_and(|meta| meta.ino() == content.inode)
}

fn embed(into: &mut Writer, content: &Content, trash: &Path) -> io::Result<()> {
    let file = File::open(trash.join(format!("{TRASHED_FILE}{}", content.inode)))?;
    for part in content.parts() {
        let mut rest = At {
            file: &file,
            position: part.offset,
        }
        .take(part.length);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match rest.read(&mut buffer)? {
                0 if rest.limit() > 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                0 => break,
                read => into.literal(&buffer[..read])?,
            }
        }
    }
    Ok(())
}

struct At<'a> {
    file: &'a File,
    position: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

/// Brings every file that is in a directory of the trash up into the trash itself, however deep it is.
fn flatten(trash: &Path) -> io::Result<()> {
    let mut number = 0_u64;
    loop {
        let mut any = false;
        for entry in std::fs::read_dir(trash)? {
            let entry = entry?;
            let name = entry.file_name();
            if !name.to_string_lossy().starts_with(TRASHED_DIRECTORY) {
                continue;
            }
            any = true;
            empty(&entry.path(), trash, &mut number)?;
            std::fs::remove_dir_all(entry.path())?;
        }
        if !any {
            return Ok(());
        }
    }
}

/// Moves what is in `directory` up: files by their inode's number, directories to be emptied in their turn. What has no
/// content stays behind.
fn empty(directory: &Path, trash: &Path, number: &mut u64) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = if kind.is_dir() {
            *number += 1;
            format!("{TRASHED_DIRECTORY}-{number}")
        } else if kind.is_file() {
            format!("{TRASHED_FILE}{}", entry.ino())
        } else {
            continue;
        };
        // A second name of the same file stays where it is (rename(2)).
        std::fs::rename(entry.path(), trash.join(name))?;
    }
    Ok(())
}
