//! A session's streams, as Docker carries them: a terminal's bytes as they are, pipes in frames of an eight-byte header
//! (stream, length) and data.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use runtime::exec::ExecIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::fd_stream::{FdStream, hung_up};

/// Bytes read at a time.
const CHUNK: usize = 32 << 10;

/// Chunks on their way to the client.
pub const QUEUED: usize = 8;

/// How long after its end the command's output is waited for: what it put into the background may hold that open for
/// ever. dockerd's.
const LEFTOVER: Duration = Duration::from_secs(2);

/// How long a client that was told the end may take to go.
const PARTING: Duration = Duration::from_secs(2);

/// Docker's numbers of the streams.
const STDOUT: u8 = 1;
const STDERR: u8 = 2;

/// Which streams the client has to do with.
#[derive(Clone, Copy, Debug)]
pub struct Attached {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// Our ends of a command's streams.
#[derive(Debug)]
pub struct Streams {
    stdin: Option<Arc<FdStream>>,
    outputs: Vec<Output>,
    terminal: bool,
}

#[derive(Debug)]
struct Output {
    from: Arc<FdStream>,
    /// None: not in frames.
    number: Option<u8>,
    /// Otherwise it is read and forgotten.
    wanted: bool,
}

impl Streams {
    /// To be called in the async runtime, which waits on them.
    pub fn new(io: ExecIo, attached: Attached) -> io::Result<Self> {
        let output = |from: Arc<FdStream>, number, wanted| Output { from, number, wanted };
        let own = |fd| FdStream::new(fd).map(Arc::new);
        Ok(match io {
            ExecIo::Terminal(master) => {
                let master = own(master)?;
                Self {
                    stdin: attached.stdin.then(|| Arc::clone(&master)),
                    outputs: vec![output(master, None, attached.stdout)],
                    terminal: true,
                }
            }
            ExecIo::Pipes {
                stdin,
                stdout,
                stderr,
            } => Self {
                stdin: stdin.map(own).transpose()?,
                outputs: vec![
                    output(own(stdout)?, Some(STDOUT), attached.stdout),
                    output(own(stderr)?, Some(STDERR), attached.stderr),
                ],
                terminal: false,
            },
        })
    }

    /// Reads and forgets what a detached command writes, so that it is never held up.
    pub async fn drain(self) {
        drop(self.stdin);
        let (queue, _) = channel(1);
        let (_never, ended) = watch::channel(false);
        let mut relays = JoinSet::new();
        for mut output in self.outputs {
            output.wanted = false;
            relays.spawn(relay(output, queue.clone(), ended.clone()));
        }
        while relays.join_next().await.is_some() {}
    }

    /// Sends what the command writes until it has ended and all of it was sent, then what `ended` gives.
    pub async fn tell(self, queue: Sender<Vec<u8>>, ended: impl Future<Output = Option<String>>) {
        drop(self.stdin);
        let (over, is_over) = watch::channel(false);
        let mut relays = JoinSet::new();
        for output in self.outputs {
            relays.spawn(relay(output, queue.clone(), is_over.clone()));
        }
        let why = ended.await;
        over.send_replace(true);
        while relays.join_next().await.is_some() {}
        if let Some(why) = why {
            let text = match self.terminal {
                true => format!("{why}\r\n").into_bytes(),
                false => frame(STDERR, format!("{why}\n").as_bytes()),
            };
            // Whoever receives has gone away: nobody is left to be told.
            drop(queue.send(text).await);
        }
    }
}

/// Carries both ways until the command has ended and all it wrote was sent; what `ended` gives goes to the client's
/// stderr.
///
/// # Errors
/// The client went away before.
pub async fn carry(
    stream: Upgraded,
    mut streams: Streams,
    ended: impl Future<Output = Option<String>>,
) -> io::Result<()> {
    let parts = stream
        .downcast::<TokioIo<UnixStream>>()
        .map_err(|_| io::Error::other("it is not a connection of the API socket"))?;
    let stream = parts.io.into_inner();
    let mut gone = pin!(hung_up(&stream)?);
    let (reader, writer) = stream.into_split();
    let (queue, chunks) = channel(QUEUED);
    let mut input = pin!(feed(parts.read_buf.chain(reader), streams.stdin.take()));
    let output = async {
        let told = async {
            streams.tell(queue, ended).await;
            Ok(())
        };
        tokio::try_join!(told, send(chunks, writer)).map(drop)
    };
    tokio::select! {
        sent = output => sent?,
        broken = &mut input => return Err(broken),
        // Seen also while the command reads nothing of what the client has sent, or writes nothing.
        () = &mut gone => return Err(io::ErrorKind::ConnectionReset.into()),
    }
    // A socket that is closed with something unread in it breaks the connection: a client that is still sending would
    // see that in the place of the end.
    let parting = async {
        tokio::select! {
            _ = input => {}
            () = gone => {}
        }
    };
    drop(tokio::time::timeout(PARTING, parting).await);
    Ok(())
}

/// Hands on what the client sends. Comes back only when the connection breaks.
async fn feed(mut reader: impl AsyncRead + Unpin, mut stdin: Option<Arc<FdStream>>) -> io::Error {
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) => {
                // The client's end of input is the command's. It may still listen.
                drop(stdin);
                return std::future::pending().await;
            }
            Ok(n) => {
                // A command that reads no more is no error.
                if let Some(to) = &stdin
                    && to.write_all(&buffer[..n]).await.is_err()
                {
                    stdin = None;
                }
            }
            Err(e) => return e,
        }
    }
}

async fn send(mut chunks: Receiver<Vec<u8>>, mut writer: impl AsyncWrite + Unpin) -> io::Result<()> {
    while let Some(chunk) = chunks.recv().await {
        writer.write_all(&chunk).await?;
    }
    writer.shutdown().await
}

/// Sends what comes from one stream until its end, or until the command has ended and no more comes.
async fn relay(output: Output, queue: Sender<Vec<u8>>, ended: watch::Receiver<bool>) {
    let mut buffer = vec![0; CHUNK];
    let mut late = pin!(left_over(ended));
    loop {
        let read = tokio::select! {
            // What is there is taken, however long that takes.
            biased;
            read = output.from.read(&mut buffer) => read,
            () = &mut late => return,
        };
        let Ok(n @ 1..) = read else { return };
        if output.wanted && queue.send(output.chunk(&buffer[..n])).await.is_err() {
            return;
        }
    }
}

/// Returns a while after the command has ended.
async fn left_over(mut ended: watch::Receiver<bool>) {
    if ended.wait_for(|ended| *ended).await.is_ok() {
        tokio::time::sleep(LEFTOVER).await;
    }
}

impl Output {
    fn chunk(&self, data: &[u8]) -> Vec<u8> {
        self.number
            .map_or_else(|| data.to_vec(), |number| frame(number, data))
    }
}

fn frame(number: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number, 0, 0, 0];
    // A chunk has at most CHUNK bytes.
    bytes.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_dockers() {
        assert_eq!(frame(STDERR, b"no"), [2, 0, 0, 0, 0, 0, 0, 2, b'n', b'o']);
    }
}
