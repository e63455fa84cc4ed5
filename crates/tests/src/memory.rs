//! How much memory a process takes, counted by the kernel (proc(5)).

use std::fs;

/// Bytes that were resident at most since the start, or since [`forget_peak`] (`VmHWM`).
#[track_caller]
pub fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.unwrap().trim().trim_end_matches(" kB").trim();
    kilobytes.parse::<u64>().unwrap() * 1024
}

/// From now on the peak is of what follows (`clear_refs`, 5).
#[track_caller]
pub fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}
