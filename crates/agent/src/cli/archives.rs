//! Archives on their way to a file or the standard output, and from a file or the standard input.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::client::Client;

/// Writes the archive that is the answer to a GET to `-`, the standard output, or into a file: whole or not at all, and
/// for its owner alone, since anything may be in it. What is no regular file (a FIFO, `/dev/null`) is written to as it is.
pub async fn download(client: &Client, path: &str, output: &Path) -> anyhow::Result<()> {
    if output == Path::new("-") {
        let mut out = io::stdout();
        if out.is_terminal() {
            bail!("an archive is nothing for a terminal: write it to a file with -o, or into a pipe");
        }
        client.stream(path, |piece| Ok(out.write_all(piece)?)).await?;
        return Ok(out.flush()?);
    }
    let there = std::fs::metadata(output);
    let written = match there.is_ok_and(|there| !there.is_file()) {
        true => write_to(client, path, output).await,
        false => write_whole(client, path, output).await,
    };
    written.with_context(|| format!("cannot write {}", output.display()))
}

async fn write_to(client: &Client, path: &str, output: &Path) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().write(true).open(output)?;
    client.stream(path, |piece| Ok(file.write_all(piece)?)).await
}

/// An archive that broke off is not left behind as if it were one.
async fn write_whole(client: &Client, path: &str, output: &Path) -> anyhow::Result<()> {
    let mut beside = output.as_os_str().to_owned();
    beside.push(".part");
    let beside = PathBuf::from(beside);
    let mut open = OpenOptions::new();
    let mut file = open
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    let written = client.stream(path, |piece| Ok(file.write_all(piece)?)).await;
    let written =
        written.and_then(|()| Ok(file.sync_all().and_then(|()| std::fs::rename(&beside, output))?));
    if written.is_err() {
        // The first error is the one that tells.
        drop(std::fs::remove_file(&beside));
    }
    written
}

/// The archive in a file, or on the standard input.
pub fn input(input: &Path) -> anyhow::Result<Box<dyn Read + Send>> {
    Ok(match input == Path::new("-") {
        true if io::stdin().is_terminal() => bail!("name the archive's file, or send it in by a pipe"),
        true => Box::new(io::stdin()),
        false => Box::new(File::open(input).with_context(|| format!("cannot read {}", input.display()))?),
    })
}
