//! A pipe's or terminal's end among the async tasks.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

/// An end that can wait.
#[derive(Debug)]
pub struct FdStream(AsyncFd<OwnedFd>);

impl FdStream {
    /// Makes it non-blocking: nobody else may have it open for use.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)? | rustix::fs::OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(&fd, flags)?;
        Ok(Self(crate::engine::sys::both_ways(fd)?))
    }

    /// What is there, at least a byte of it; 0 at the end. A terminal whose other side was closed for good ends too
    /// (pty(7) gives EIO there).
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut *buffer)?)) {
                Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => return Ok(0),
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// All of it.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                Ok(Ok(n)) => bytes = &bytes[n..],
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(e)) => return Err(e),
                Err(_would_block) => {}
            }
        }
        Ok(())
    }
}

/// Returns when the other side is gone, or neither reads nor writes any more: unlike a read, which ends already where
/// it only has nothing more to say. Not to be asked about a socket that this side has shut down.
pub fn hung_up(stream: &UnixStream) -> io::Result<impl Future<Output = ()> + use<>> {
    let watched = crate::engine::sys::hangup(stream.as_fd().try_clone_to_owned()?)?;
    Ok(async move {
        // Fails only when the runtime ends, and everything with it.
        drop(watched.ready(Interest::PRIORITY).await);
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_side_that_listens_is_not_gone() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut gone = std::pin::pin!(hung_up(&ours).unwrap());
        let (mut reader, mut writer) = ours.into_split();
        theirs.write_all(b"last").await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut said = Vec::new();
        reader.read_to_end(&mut said).await.unwrap();
        writer.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        tokio::select! {
            biased;
            () = &mut gone => panic!("it listens"),
            read = theirs.read_exact(&mut answer) => assert_eq!(read.unwrap(), 6),
        }
        drop(theirs);
        gone.await;
    }

    #[tokio::test]
    async fn a_pipe_carries_more_than_it_holds_and_ends() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let (reader, writer) = (FdStream::new(reader).unwrap(), FdStream::new(writer).unwrap());
        let sent = vec![7_u8; 300_000];
        let copy = sent.clone();
        let writing = tokio::spawn(async move { writer.write_all(&copy).await });
        let mut got = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let n = reader.read(&mut buffer).await.unwrap();
            if n == 0 {
                break;
            }
            got.extend_from_slice(&buffer[..n]);
        }
        writing.await.unwrap().unwrap();
        assert_eq!(got, sent);
    }
}
