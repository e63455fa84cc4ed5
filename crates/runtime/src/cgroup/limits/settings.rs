//! What is written where, for all limits but `cpuset`: the plan alone, made from what the files say now.

use std::fs;
use std::path::{Path, PathBuf};

use model::spec::Limits;

use super::{CgroupSet, LimitError, Setting};

/// Microseconds over which a quota of CPU time is given out: the kernel's default.
const PERIOD: u64 = 100_000;

/// A controller's directory of a group, by the version it speaks.
enum Home {
    V1(PathBuf),
    V2(PathBuf),
    Nowhere,
}

/// The lines that make a group's files say what the limits say, in the order they have to be written.
pub(super) fn settings(set: &CgroupSet, limits: &Limits) -> Result<Vec<Setting>, LimitError> {
    let mut plan = Plan { settings: Vec::new() };
    match home(set, "memory") {
        Home::V1(dir) => plan.memory_v1(&dir, limits)?,
        Home::V2(dir) => plan.memory_v2(&dir, limits)?,
        Home::Nowhere => {
            Plan::nowhere("memory", "memory", limits.memory.is_some())?;
            Plan::nowhere("memory_swap", "memory", limits.memory_swap.is_some())?;
            Plan::nowhere(
                "memory_reservation",
                "memory",
                limits.memory_reservation.is_some(),
            )?;
        }
    }
    match home(set, "cpu") {
        Home::V1(dir) => plan.cpu_v1(&dir, limits)?,
        Home::V2(dir) => plan.cpu_v2(&dir, limits)?,
        Home::Nowhere => {
            Plan::nowhere("cpus", "cpu", limits.cpus_milli.is_some())?;
            Plan::nowhere("cpu_shares", "cpu", limits.cpu_shares.is_some())?;
        }
    }
    match home(set, "pids") {
        Home::V1(dir) | Home::V2(dir) => {
            let pids = limits.pids.map(|n| n.to_string());
            plan.put(&PIDS, &dir, "pids.max", pids, "max")?;
        }
        Home::Nowhere => Plan::nowhere("pids", "pids", limits.pids.is_some())?,
    }
    match home(set, "blkio") {
        Home::V1(dir) => plan.weight_v1(&dir, limits.blkio_weight)?,
        Home::V2(dir) => plan.weight_v2(&dir, limits.blkio_weight)?,
        Home::Nowhere => Plan::nowhere("blkio_weight", "blkio", limits.blkio_weight.is_some())?,
    }
    Ok(plan.settings)
}

/// By its v1 name. A controller that is not on v1 is, if anywhere, on v2.
fn home(set: &CgroupSet, controller: &str) -> Home {
    match (set.v1_dir(controller), set.v2_dir()) {
        (Some(dir), _) => Home::V1(dir),
        (None, Some(dir)) => Home::V2(dir),
        (None, None) => Home::Nowhere,
    }
}

/// A limit's key and what it needs.
struct Kind {
    limit: &'static str,
    controller: &'static str,
    remedy: &'static str,
}

const fn kind(limit: &'static str, controller: &'static str, remedy: &'static str) -> Kind {
    Kind {
        limit,
        controller,
        remedy,
    }
}

const SWITCH_ON: &str = "switch the controller on (on cgroup v2 in cgroup.subtree_control of every group above; `Delegate=yes` in a systemd unit; some kernels want `cgroup_enable=memory` at boot)";
const SWAP: &str = "boot with `swapaccount=1` on the kernel's command line";
const WEIGHT: &str = "use a kernel with BFQ or the io cost model (CONFIG_BFQ_GROUP_IOSCHED, CONFIG_BLK_CGROUP_IOCOST) and its module loaded";

const MEMORY: Kind = kind("memory", "memory", SWITCH_ON);
const MEMORY_SWAP: Kind = kind("memory_swap", "memory", SWAP);
const MEMORY_RESERVATION: Kind = kind("memory_reservation", "memory", SWITCH_ON);
const CPUS: Kind = kind("cpus", "cpu", SWITCH_ON);
const CPU_SHARES: Kind = kind("cpu_shares", "cpu", SWITCH_ON);
const PIDS: Kind = kind("pids", "pids", SWITCH_ON);
const BLKIO_WEIGHT: Kind = kind("blkio_weight", "io", WEIGHT);

struct Plan {
    settings: Vec<Setting>,
}

impl Plan {
    /// A limit whose controller is mounted nowhere: an error only where it is asked for.
    fn nowhere(limit: &'static str, controller: &'static str, asked: bool) -> Result<(), LimitError> {
        if !asked {
            return Ok(());
        }
        Err(LimitError::Unsupported {
            limit,
            controller,
            file: None,
            remedy: SWITCH_ON,
        })
    }

    /// One file: the limit, or `none` where there is no limit (any more). A file that is missing has no limit.
    fn put(
        &mut self,
        kind: &Kind,
        dir: &Path,
        name: &str,
        value: Option<String>,
        none: &str,
    ) -> Result<(), LimitError> {
        let file = dir.join(name);
        let Some(now) = read(&file) else {
            return match value {
                None => Ok(()),
                Some(_) => Err(LimitError::Unsupported {
                    limit: kind.limit,
                    controller: kind.controller,
                    file: Some(file),
                    remedy: kind.remedy,
                }),
            };
        };
        let value = value.unwrap_or_else(|| none.to_owned());
        if !same(&now, &value) {
            self.settings.push(Setting {
                limit: kind.limit,
                file,
                value,
            });
        }
        Ok(())
    }

    /// Memory, and memory with swap: the second is never below the first, so what is raised is raised before, and what
    /// is lowered is lowered after the other.
    fn memory_v1(&mut self, dir: &Path, limits: &Limits) -> Result<(), LimitError> {
        let text = |n: Option<u64>| n.map(|n| n.to_string());
        // Both together at most X: then the memory is at most X.
        let memory = limits.memory.or(limits.memory_swap);
        let both_now = read(&dir.join("memory.memsw.limit_in_bytes")).and_then(|now| bytes(&now));
        let raise = limits.memory_swap.unwrap_or(u64::MAX) >= both_now.unwrap_or(u64::MAX);
        let swap_file = "memory.memsw.limit_in_bytes";
        if raise {
            self.put(&MEMORY_SWAP, dir, swap_file, text(limits.memory_swap), "-1")?;
        }
        self.put(&MEMORY, dir, "memory.limit_in_bytes", text(memory), "-1")?;
        if !raise {
            self.put(&MEMORY_SWAP, dir, swap_file, text(limits.memory_swap), "-1")?;
        }
        let kept = text(limits.memory_reservation);
        self.put(&MEMORY_RESERVATION, dir, "memory.soft_limit_in_bytes", kept, "-1")
    }

    fn memory_v2(&mut self, dir: &Path, limits: &Limits) -> Result<(), LimitError> {
        let text = |n: Option<u64>| n.map(|n| n.to_string());
        let swap = match (limits.memory_swap, limits.memory) {
            (Some(both), Some(memory)) => Some(both.saturating_sub(memory)),
            (Some(_), None) => return Err(LimitError::SwapAlone),
            (None, _) => None,
        };
        self.put(&MEMORY, dir, "memory.max", text(limits.memory), "max")?;
        self.put(&MEMORY_SWAP, dir, "memory.swap.max", text(swap), "max")?;
        let kept = text(limits.memory_reservation);
        self.put(&MEMORY_RESERVATION, dir, "memory.low", kept, "0")
    }

    fn cpu_v1(&mut self, dir: &Path, limits: &Limits) -> Result<(), LimitError> {
        let quota = limits.cpus_milli.map(quota);
        if quota.is_some() {
            let period = Some(PERIOD.to_string());
            self.put(&CPUS, dir, "cpu.cfs_period_us", period, "")?;
        }
        let quota = quota.map(|q| q.to_string());
        self.put(&CPUS, dir, "cpu.cfs_quota_us", quota, "-1")?;
        let shares = limits.cpu_shares.map(|n| n.to_string());
        self.put(&CPU_SHARES, dir, "cpu.shares", shares, "1024")
    }

    fn cpu_v2(&mut self, dir: &Path, limits: &Limits) -> Result<(), LimitError> {
        let max = limits
            .cpus_milli
            .map(|milli| format!("{} {PERIOD}", quota(milli)));
        self.put(&CPUS, dir, "cpu.max", max, &format!("max {PERIOD}"))?;
        let weight = limits.cpu_shares.map(|n| weight_of_shares(n).to_string());
        self.put(&CPU_SHARES, dir, "cpu.weight", weight, "100")
    }

    /// CFQ's file is gone since Linux 5.0; BFQ's takes the same numbers.
    fn weight_v1(&mut self, dir: &Path, weight: Option<u16>) -> Result<(), LimitError> {
        let weight = weight.map(|n| n.to_string());
        self.put(&BLKIO_WEIGHT, dir, "blkio.bfq.weight", weight, "100")
    }

    /// BFQ's own where it is, else the io cost model's, whose scale is another one.
    fn weight_v2(&mut self, dir: &Path, weight: Option<u16>) -> Result<(), LimitError> {
        if read(&dir.join("io.bfq.weight")).is_some() {
            let weight = weight.map(|n| n.to_string());
            return self.put(&BLKIO_WEIGHT, dir, "io.bfq.weight", weight, "100");
        }
        let weight = weight.map(|n| io_weight(n).to_string());
        self.put(&BLKIO_WEIGHT, dir, "io.weight", weight, "100")
    }
}

/// What a file says; none where it cannot be read, which is so where the kernel does not have it.
fn read(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    Some(text.trim().to_owned())
}

/// Bytes; none is no limit, which v1 writes as the highest number of whole pages.
fn bytes(text: &str) -> Option<u64> {
    text.parse().ok().filter(|&n: &u64| n < 1 << 62)
}

/// Whether a file already says what would be written.
fn same(now: &str, value: &str) -> bool {
    // io.weight and io.bfq.weight name the devices it is the default of.
    let now = now
        .lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("default ");
    now == value || (value == "-1" && now.parse().is_ok_and(|n: u64| n >= 1 << 62))
}

/// Thousandths of a core as microseconds a [`PERIOD`]; the kernel takes no less than a millisecond.
fn quota(milli: u64) -> u64 {
    (milli.saturating_mul(PERIOD) / 1000).max(1000)
}

/// v1's shares (2 to 262,144, default 1024) as v2's weight (1 to 10,000, default 100): the curve that runc 1.3.2 and
/// crun 1.23 draw through the two ends and the default, so that a container with 1024 has what one without has.
fn weight_of_shares(shares: u64) -> u64 {
    #[expect(clippy::cast_precision_loss, reason = "at most 262,144")]
    let log = (shares.clamp(2, 262_144) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // The three points the curve is made for are whole numbers; rounding errors are not to lift them to the next.
    let weight = (10f64.powf(exponent) - 1e-6).ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within 1 and 10,000"
    )]
    let weight = weight as u64;
    weight.clamp(1, 10_000)
}

/// 10 to 1000 as 1 to 10,000, straight.
fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.clamp(10, 1000) - 10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights_at_both_ends_and_the_default() {
        for (shares, weight) in [(2, 1), (1024, 100), (262_144, 10_000), (512, 59), (2048, 174)] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        assert!((2..1000).all(|n| weight_of_shares(n) <= weight_of_shares(n + 1)));
    }

    #[test]
    fn quotas_and_weights_are_in_the_kernels_units() {
        assert_eq!([quota(500), quota(2000), quota(1)], [50_000, 200_000, 1000]);
        assert_eq!([io_weight(10), io_weight(100), io_weight(1000)], [1, 910, 10_000]);
    }
}
