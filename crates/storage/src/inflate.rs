//! Decompressing what may be compressed, by what its first bytes say: names and media types are not always right.

mod window;

use std::io::{self, BufRead, Cursor, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use crate::error::LayerError;
use crate::tar::TarError;

/// Memory that a stream may ask for.
struct Limits {
    /// Of zstd's window: bytes, as a power of two.
    window: u32,
    /// Of all that xz takes: KiB.
    xz: u32,
}

/// Of the user's own archives: what the zstd program accepts by default, and enough for `xz -9`, whose dictionary has 64 MiB.
const OWN: Limits = Limits {
    window: 27,
    xz: 72 << 10,
};
/// Of what a registry sends, whatever it says: one such stream at a time. More than any of the usual builders asks for, and
/// enough for `xz -8`.
const FETCHED: Limits = Limits {
    window: 25,
    xz: 36 << 10,
};
/// What any number of streams may ask for, and nearly all do (RFC 8878, 3.1.1.1.2: the least that decoders are to support).
/// Of xz it is seen late what a block takes.
const COMMON: Limits = Limits { window: 23, xz: 0 };
/// How often it is looked whether a stream may begin that has to wait for another one.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Held by the one that may take much memory.
static LARGE: Mutex<()> = Mutex::new(());

/// The plain bytes of what is gzip, zstd, xz, or plain already.
pub fn inflate<'a>(compressed: impl BufRead + 'a) -> Result<Box<dyn Read + 'a>, LayerError> {
    decoder(compressed, &OWN)
}

/// The same of what a stranger sent, so that many such streams together cannot fill the memory. Waits where another one
/// may take much of it too, and ends with an error once it is cancelled.
pub fn inflate_fetched<'a>(
    mut compressed: impl BufRead + 'a,
    cancel: &AtomicBool,
) -> Result<Box<dyn Read + 'a>, LayerError> {
    let mut head = Vec::new();
    let mut first = compressed.by_ref().take(window::HEADER as u64);
    first.read_to_end(&mut head).map_err(TarError::from)?;
    let wanted = window::wanted(&head).unwrap_or(0);
    let is_xz = crate::source::compression(&head) == Some("xz");
    let whole = Cursor::new(head).chain(compressed);
    if wanted <= 1 << COMMON.window && !is_xz {
        return decoder(whole, &COMMON);
    }
    if wanted > 1 << FETCHED.window {
        return Err(LayerError::Window {
            wanted,
            allowed: 1 << FETCHED.window,
        });
    }
    let turn = turn(cancel)?;
    Ok(Box::new(Alone {
        plain: decoder(whole, &FETCHED)?,
        _turn: turn,
    }))
}

fn decoder<'a>(mut compressed: impl BufRead + 'a, limits: &Limits) -> Result<Box<dyn Read + 'a>, LayerError> {
    let magic = compressed.fill_buf().map_err(TarError::from)?;
    match crate::source::compression(magic) {
        None => Ok(Box::new(compressed)),
        Some("gzip") => Ok(Box::new(MultiGzDecoder::new(compressed))),
        Some("xz") => Ok(Box::new(XzReader::new_mem_limit(compressed, true, limits.xz))),
        Some("zstd") => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed).map_err(TarError::Io)?;
            decoder.window_log_max(limits.window).map_err(TarError::Io)?;
            Ok(Box::new(decoder))
        }
        Some(other) => Err(LayerError::Compression(other)),
    }
}

fn turn(cancel: &AtomicBool) -> Result<MutexGuard<'static, ()>, TarError> {
    loop {
        match LARGE.try_lock() {
            Ok(turn) => return Ok(turn),
            Err(TryLockError::Poisoned(turn)) => return Ok(turn.into_inner()),
            Err(TryLockError::WouldBlock) if cancel.load(Ordering::Relaxed) => {
                return Err(io::Error::other("cancelled").into());
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// A stream that no other one is beside that may take as much memory.
struct Alone<'a> {
    plain: Box<dyn Read + 'a>,
    _turn: MutexGuard<'static, ()>,
}

impl Read for Alone<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.plain.read(buffer)
    }
}
