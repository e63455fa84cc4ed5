//! Decompressing what may be compressed, by what its first bytes say: names and media types are not always right.

use std::io::{BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use crate::error::LayerError;
use crate::tar::TarError;

/// Largest zstd window, as a power of two (RFC 8878, 3.1.1.1.2); what the zstd program accepts by default.
const ZSTD_WINDOW: u32 = 27;
/// KiB that a decoder of xz may take: enough for `xz -9`, whose dictionary has 64 MiB.
const XZ_MEMORY: u32 = 72 << 10;

/// The plain bytes of what is gzip, zstd, xz, or plain already.
pub fn inflate<'a>(mut compressed: impl BufRead + 'a) -> Result<Box<dyn Read + 'a>, LayerError> {
    let magic = compressed.fill_buf().map_err(TarError::from)?;
    match crate::source::compression(magic) {
        None => Ok(Box::new(compressed)),
        Some("gzip") => Ok(Box::new(MultiGzDecoder::new(compressed))),
        Some("xz") => Ok(Box::new(XzReader::new_mem_limit(compressed, true, XZ_MEMORY))),
        Some("zstd") => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed).map_err(TarError::Io)?;
            decoder.window_log_max(ZSTD_WINDOW).map_err(TarError::Io)?;
            Ok(Box::new(decoder))
        }
        Some(other) => Err(LayerError::Compression(other)),
    }
}
