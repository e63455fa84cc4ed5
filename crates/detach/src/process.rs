//! Telling a process from a later one with the same pid.

use std::io;

/// When the process that has this pid now began, in clock ticks after boot (proc_pid_stat(5), field 22); none where
/// there is none, or only one that has ended and waits to be reaped.
///
/// # Errors
/// Where /proc cannot be read or says something else.
pub fn start_time(pid: u32) -> io::Result<Option<u64>> {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => of_stat(&text),
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(e) => Err(e),
    }
}

fn of_stat(text: &str) -> io::Result<Option<u64>> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "no start time in its stat");
    // The name in parentheses may hold anything; what follows its last one is plain. Field 3 comes first.
    let (_, rest) = text.rsplit_once(')').ok_or_else(odd)?;
    let mut fields = rest.split_ascii_whitespace();
    match fields.next() {
        Some("Z" | "X") => Ok(None),
        _ => fields
            .nth(18)
            .and_then(|f| f.parse().ok())
            .map(Some)
            .ok_or_else(odd),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_begun_once() {
        let own = start_time(std::process::id()).unwrap();
        assert!(own.is_some());
        assert_eq!(start_time(std::process::id()).unwrap(), own);
        assert_eq!(start_time(u32::MAX).unwrap(), None);
    }

    #[test]
    fn a_name_may_hold_anything_and_the_ended_do_not_count() {
        let rest = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(of_stat(&format!("7 (a) Z (b)) S {rest}\n")).unwrap(), Some(4711));
        assert_eq!(of_stat(&format!("7 (a) Z {rest}\n")).unwrap(), None);
        assert!(of_stat("7 (a) S 1 2").is_err());
        assert!(of_stat("").is_err());
    }
}
