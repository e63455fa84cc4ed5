//! Which of an index's manifests is for this machine (OCI image-spec, image-index.md).

use super::listed;
use super::spec::{Descriptor, Platform};
use crate::error::LoadError;

/// The best of one image's manifests for this machine.
pub fn for_this_machine<'a>(all: &[&'a Descriptor]) -> Result<&'a Descriptor, LoadError> {
    if let [one] = all
        && one.platform.is_none()
    {
        return Ok(one);
    }
    let variants = variants();
    let best = all
        .iter()
        .filter_map(|d| Some((rank(d.platform.as_ref()?, &variants)?, d)))
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, d)| d);
    best.copied().ok_or_else(|| LoadError::Platform {
        wanted: format!("linux/{}", architecture()),
        available: listed(all.iter().filter_map(|d| d.platform.as_ref()).map(shown)),
    })
}

/// How well it fits, the lowest being best; none where this machine cannot run it.
fn rank(platform: &Platform, variants: &[&str]) -> Option<usize> {
    if platform.os != "linux" || platform.architecture != architecture() {
        return None;
    }
    let variant = platform.variant.as_deref().unwrap_or_default();
    variants.iter().position(|known| *known == variant)
}

/// The variants of its architecture that this machine runs (image-index.md, "Platform Variants"), in order of liking.
/// The plain one comes first, which a disk moved to an older machine runs too; of 32-bit ARM the newest, since a plain
/// one says nothing there.
fn variants() -> Vec<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => [vec!["", "v1"], x86_levels()].concat(),
        "aarch64" => vec!["", "v8"],
        "arm" => {
            let name = rustix::system::uname();
            let known = ["v8", "v7", "v6", "v5", ""];
            let skipped = match name.machine().to_bytes() {
                [b'a', b'r', b'm', b'v', b'7', ..] => 1,
                [b'a', b'r', b'm', b'v', b'6', ..] => 2,
                [b'a', b'r', b'm', b'v', b'5', ..] => 3,
                _ => 0,
            };
            known[skipped..].to_vec()
        }
        _ => vec![""],
    }
}

/// Of the x86-64 psABI's levels above the first those that this processor has.
#[cfg(target_arch = "x86_64")]
fn x86_levels() -> Vec<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("sse4.2") && has!("ssse3") && has!("popcnt") && has!("cmpxchg16b");
    let v3 =
        v2 && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("fma") && has!("f16c") && has!("movbe");
    let v4 =
        v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    let levels = [("v2", v2), ("v3", v3), ("v4", v4)];
    levels
        .into_iter()
        .filter(|(_, has)| *has)
        .map(|(level, _)| level)
        .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_levels() -> Vec<&'static str> {
    Vec::new()
}

fn shown(platform: &Platform) -> String {
    format!("{}/{}", platform.os, platform.architecture)
}

/// This machine's architecture as Go, and so OCI, calls it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loong64",
        other => other,
    }
}
