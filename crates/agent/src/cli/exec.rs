//! `wharf exec`: a command inside a container, with our own streams as its.

use std::io::{Read, Write};

use anyhow::{Context, bail};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Receiver, channel};

use super::client::{Client, escaped};
use super::listing::Frames;
use super::{DONE, ExecArgs, terminal};

/// Docker's exit code for a failure that is not the command's.
const OWN_FAILURE: u8 = 125;

/// Bytes read at a time.
const CHUNK: usize = 32 << 10;

/// Runs it; gives the command's exit code, or 125 and a message on stderr.
pub async fn run(client: &Client, args: &ExecArgs) -> u8 {
    match session(client, args).await {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            OWN_FAILURE
        }
    }
}

async fn session(client: &Client, args: &ExecArgs) -> anyhow::Result<u8> {
    if args.tty && args.interactive && !terminal::is_terminal() {
        bail!("the standard input is not a terminal: leave out -t");
    }
    let size = if args.tty { terminal::size() } else { None };
    let body = json!({
        "AttachStdin": args.interactive, "AttachStdout": true, "AttachStderr": true,
        "Tty": args.tty, "Cmd": args.command, "Env": environment(&args.env),
        "User": args.user.clone().unwrap_or_default(), "WorkingDir": args.workdir.clone().unwrap_or_default(),
        "Privileged": args.privileged,
    });
    let made: Value = client
        .post_json(&format!("/containers/{}/exec", escaped(&args.name)), &body)
        .await?;
    let id = made["Id"].as_str().context("the agent gave the session no id")?;
    let start = json!({
        "Detach": args.detach, "Tty": args.tty, "ConsoleSize": size.map(|(rows, columns)| [rows, columns]),
    });
    let path = format!("/exec/{id}/start");
    if args.detach {
        return detached(client, id, client.command_json(&path, &start).await).await;
    }
    let stream = client.hijack(&path, &start).await?;
    let raw = if args.tty && args.interactive {
        Some(terminal::Raw::enter().context("cannot set the terminal to raw mode")?)
    } else {
        None
    };
    let session = Session {
        client,
        id,
        args,
        size,
    };
    match session.carry(stream, raw).await? {
        Shown::All => exit_code(client, id).await,
        Shown::Until(signal) => Ok(128 + signal),
    }
}

/// What could not be started has an exit code all the same.
async fn detached(client: &Client, id: &str, started: anyhow::Result<()>) -> anyhow::Result<u8> {
    let Err(e) = started else { return Ok(DONE) };
    eprintln!("error: {e:#}");
    // A session that cannot be asked about is one more failure of our own.
    Ok(exit_code(client, id).await.unwrap_or(OWN_FAILURE))
}

/// `NAME` alone takes the value it has here; one that is not set here is left out, as docker does.
fn environment(given: &[String]) -> Vec<String> {
    let one = |text: &String| match text.contains('=') {
        true => Some(text.clone()),
        false => Some(format!("{text}={}", std::env::var(text).ok()?)),
    };
    given.iter().filter_map(one).collect()
}

async fn exit_code(client: &Client, id: &str) -> anyhow::Result<u8> {
    let seen: Value = client.get(&format!("/exec/{id}/json")).await?;
    let code = seen["ExitCode"]
        .as_i64()
        .context("the session broke off before its command ended")?;
    Ok(u8::try_from(code & 0xff).unwrap_or(OWN_FAILURE))
}

/// How far a session's output was shown.
enum Shown {
    All,
    /// A signal asked this process to end.
    Until(u8),
}

/// A session that runs, and our own streams with it.
struct Session<'a> {
    client: &'a Client,
    id: &'a str,
    args: &'a ExecArgs,
    /// That its terminal was given.
    size: Option<(u16, u16)>,
}

impl Session<'_> {
    async fn carry(&self, stream: Upgraded, raw: Option<terminal::Raw>) -> anyhow::Result<Shown> {
        let (reader, writer) = tokio::io::split(TokioIo::new(stream));
        let told_to_end = async {
            match raw {
                Some(mut raw) => raw.told_to_end().await,
                // Signals do what they do.
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            shown = self.output(reader) => shown.map(|()| Shown::All),
            broken = self.input(writer) => Err(broken),
            broken = self.follow_size() => Err(broken),
            signal = told_to_end => Ok(Shown::Until(signal)),
        }
    }

    async fn output(&self, mut reader: impl AsyncRead + Unpin) -> anyhow::Result<()> {
        let mut frames = Frames::default();
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = reader.read(&mut buffer).await.context("the session broke off")?;
            if n == 0 {
                return Ok(());
            }
            show(self.args.tty, &mut frames, &buffer[..n])?;
        }
    }

    /// Comes back only with an error.
    async fn input(&self, mut writer: impl AsyncWrite + Unpin) -> anyhow::Error {
        if self.args.interactive {
            let mut keys = match keys() {
                Ok(keys) => keys,
                Err(e) => return e,
            };
            while let Some(bytes) = keys.recv().await {
                // A session that is over reads no more; its end is seen by its output's.
                if writer.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            drop(writer.shutdown().await); // likewise
        }
        std::future::pending().await
    }

    /// The session's terminal gets the size of ours whenever that changes. Comes back only with an error.
    async fn follow_size(&self) -> anyhow::Error {
        if !self.args.tty {
            return std::future::pending().await;
        }
        let mut changes = match signal(SignalKind::window_change()) {
            Ok(changes) => changes,
            Err(e) => return anyhow::Error::new(e).context("cannot watch the terminal's size"),
        };
        let mut known = self.size;
        loop {
            // It may have changed before it was watched.
            let size = terminal::size();
            if let Some((rows, columns)) = size
                && size != known
            {
                let path = format!("/exec/{}/resize?h={rows}&w={columns}", self.id);
                // One that ended meanwhile has no size any more.
                drop(self.client.command(&path).await);
                known = size;
            }
            if changes.recv().await.is_none() {
                return std::future::pending().await;
            }
        }
    }
}

fn show(tty: bool, frames: &mut Frames, bytes: &[u8]) -> anyhow::Result<()> {
    let written = if tty {
        std::io::stdout().write_all(bytes)
    } else {
        frames.feed(bytes, |stderr, data| match stderr {
            true => std::io::stderr().write_all(data),
            false => std::io::stdout().write_all(data),
        })
    };
    written
        .and_then(|()| std::io::stdout().flush())
        .context("cannot write the output")
}

/// What is typed or piped in. A thread reads it, which may be stuck in the read when we end: that ends it.
fn keys() -> anyhow::Result<Receiver<Vec<u8>>> {
    let (sender, receiver) = channel(4);
    let read = move || {
        let mut buffer = vec![0; CHUNK];
        let mut stdin = std::io::stdin().lock();
        while let Ok(n @ 1..) = stdin.read(&mut buffer) {
            if sender.blocking_send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(read)
        .context("cannot start the thread that reads the input")?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_without_a_value_are_those_of_here() {
        let given = ["A=1".to_owned(), "PATH".to_owned(), "WHARF_NOT_SET".to_owned()];
        let path = std::env::var("PATH").unwrap();
        assert_eq!(environment(&given), ["A=1".to_owned(), format!("PATH={path}")]);
    }
}
