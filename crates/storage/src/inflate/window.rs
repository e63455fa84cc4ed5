//! How much memory a stream of zstd asks for before the first byte comes out: what its first frame says (RFC 8878, 3.1.1.1).

/// Most bytes that a frame's header has, with its magic number.
pub const HEADER: usize = 18;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Bytes of the window of what begins like this; none where it is no frame of zstd, or less than its header.
pub fn wanted(head: &[u8]) -> Option<u64> {
    let header = head.strip_prefix(&MAGIC)?;
    let (descriptor, rest) = header.split_first()?;
    let single_segment = descriptor & 0x20 != 0;
    if !single_segment {
        let window = rest.first()?;
        let base = 1_u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    // All of its content at once.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = rest.get(dictionary..)?;
    let bytes = |count: usize| {
        let mut number = [0; 8];
        number[..count].copy_from_slice(size.get(..count)?);
        Some(u64::from_le_bytes(number))
    };
    match descriptor >> 6 {
        0 => bytes(1),
        1 => Some(bytes(2)? + 256),
        2 => bytes(4),
        _ => bytes(8),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{HEADER, wanted};

    /// As the library itself writes it.
    fn packed(content: &[u8], window_log: u32, size_known: bool) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        if size_known {
            encoder.set_pledged_src_size(Some(content.len() as u64)).unwrap();
        }
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_window_is_told_by_the_frames_header() {
        for log in [10, 17, 23, 25, 27] {
            let frame = packed(&vec![7; 5000], log, false);
            assert_eq!(wanted(&frame[..HEADER]), Some(1 << log));
        }
    }

    #[test]
    fn a_frame_of_one_segment_wants_all_it_holds() {
        for size in [0, 1, 255, 256, 300, 65_535, 66_000, 1 << 20] {
            let frame = packed(&vec![7; size], 27, true);
            let head = &frame[..HEADER.min(frame.len())];
            assert_eq!(head[4] & 0x20, 0x20, "{size}: not one segment");
            assert_eq!(wanted(head), Some(size as u64), "{size}");
        }
    }

    #[test]
    fn sizes_of_eight_bytes_and_windows_between_powers_of_two_are_read() {
        let huge = [0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 1, 0, 0, 0];
        assert_eq!(wanted(&huge), Some(1 << 32));
        let between = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (3 << 3) | 5];
        assert_eq!(wanted(&between), Some((1 << 13) + 5 * (1 << 10)));
    }

    #[test]
    fn what_is_no_frame_or_cut_off_says_nothing() {
        assert_eq!(wanted(b""), None);
        assert_eq!(wanted(b"\x1f\x8b\x08 of gzip"), None);
        assert_eq!(wanted(&[0x28, 0xb5, 0x2f, 0xfd]), None);
        assert_eq!(wanted(&[0x28, 0xb5, 0x2f, 0xfd, 0xa0, 1, 2]), None);
    }
}
