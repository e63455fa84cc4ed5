//! Device names: `wh-…`, at most 15 characters (IFNAMSIZ), so that tools can be told to leave them alone by one pattern.

use crate::error::NetError;

const LONGEST: usize = 15;
const ROOM: usize = LONGEST - "wh-".len();

/// The bridge of a network: `wh-NAME`; a name too long for that is cut and told apart by a checksum.
pub fn bridge_name(network: &str) -> String {
    if network.len() <= ROOM && !like_a_host_device(network) {
        return format!("wh-{network}");
    }
    let head: String = network.chars().take(ROOM - 6).collect();
    format!("wh-{head}-{:05x}", fnv1a(network) & 0xf_ffff)
}

/// The host end of a container's interface: `wh-` and eight digits of its id, then the interface's number.
pub fn host_device_name(id_short: &str, index: usize) -> String {
    let id: String = id_short.chars().take(8).collect();
    format!("wh-{id}-{index}")
}

/// Eight hexadecimal digits, a dash, a number: the pattern of [`host_device_name`].
fn like_a_host_device(network: &str) -> bool {
    network.split_once('-').is_some_and(|(id, index)| {
        id.len() == 8
            && id.bytes().all(|b| b.is_ascii_hexdigit())
            && !index.is_empty()
            && index.bytes().all(|b| b.is_ascii_digit())
    })
}

/// FNV-1a, 32 bits: short, and the same for ever.
pub(crate) fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// What the kernel takes for a device's name (dev_valid_name), and no control characters.
pub(crate) fn check_device(what: &str, device: &str) -> Result<(), NetError> {
    let why = match device {
        "" => "a device needs a name".to_owned(),
        "." | ".." | "all" | "default" | "lo" => format!("a device cannot be named {device:?}"),
        d if d.len() > LONGEST => format!(
            "the device name {d:?} has {} characters, {LONGEST} are possible",
            d.len()
        ),
        d if d
            .chars()
            .any(|c| matches!(c, '/' | ':' | '%') || !c.is_ascii_graphic()) =>
        {
            format!("the device name {d:?} has characters other than letters, digits, '-', '_' and '.'")
        }
        _ => return Ok(()),
    };
    Err(NetError::invalid(what, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_do_not_meet() {
        assert_eq!(bridge_name("default"), "wh-default");
        assert_eq!(host_device_name("0123456789ab", 0), "wh-01234567-0");
        let long = [
            "a".repeat(63),
            format!("{}b", "a".repeat(62)),
            "abcdef-ghijkl".to_owned(),
        ];
        let names: std::collections::BTreeSet<String> = long.iter().map(|n| bridge_name(n)).collect();
        assert_eq!(names.len(), long.len(), "{names:?}");
        assert!(names.iter().all(|n| n.len() <= LONGEST), "{names:?}");
        assert_ne!(bridge_name("01234567-0"), host_device_name("01234567", 0));
        assert!(host_device_name("0123456789ab", 999).len() <= LONGEST);
    }

    #[test]
    fn impossible_device_names_are_refused() {
        for bad in [
            "",
            ".",
            "all",
            "a/b",
            "a b",
            "0123456789abcdef",
            "a:b",
            "br%d",
            "é",
        ] {
            assert!(check_device("network x", bad).is_err(), "{bad:?}");
        }
        check_device("network x", "br-front.1").unwrap();
    }
}
