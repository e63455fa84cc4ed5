//! Names of network devices on the host: at most 15 characters (IFNAMSIZ), `wh-` first.

use model::name::{ContainerId, Name};
use model::plan::fingerprint;

/// Names of a container's host ends start so; the rest tells its interfaces apart.
pub fn host_device_prefix(id: &ContainerId) -> String {
    format!("wh-{}.", &id.as_str()[..10])
}

/// The host end of a container's interface `index` (eth0 is 0).
pub fn host_device(id: &ContainerId, index: usize) -> String {
    let digit = u32::try_from(index).ok().and_then(|i| char::from_digit(i, 36));
    // More than 36 interfaces are refused before: see `plan::accept`.
    format!("{}{}", host_device_prefix(id), digit.unwrap_or('_'))
}

/// The bridge of a network that names none: `wh-NAME` where that fits, else part of the name and a hash.
///
/// A name with a dot is hashed as well: dots set the host ends of containers apart from bridges.
pub fn bridge(network: &Name, taken: impl Fn(&str) -> bool) -> String {
    let plain = format!("wh-{network}");
    if plain.len() <= 15 && !network.as_str().contains('.') && !taken(&plain) {
        return plain;
    }
    let start: String = network.as_str().chars().filter(|c| *c != '.').take(4).collect();
    let hashed = |salt: u32| format!("wh-{start}-{}", &fingerprint(&(network, salt))[..7]);
    let free = (0..64).map(hashed).find(|name| !taken(name));
    free.unwrap_or_else(|| hashed(64))
}

/// The tunnel of an overlay. No bridge has a dot in its name, and host ends are longer.
pub fn tunnel(network: &Name) -> String {
    format!("wh-{}.vx", &fingerprint(&("tunnel", network))[..8])
}

/// What encrypts that.
pub fn wireguard(network: &Name) -> String {
    format!("wh-{}.wg", &fingerprint(&("tunnel", network))[..8])
}
