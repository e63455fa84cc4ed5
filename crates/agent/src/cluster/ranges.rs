//! How a subnet is cut into parts that hosts lease, and which of them this host takes.

use ipnet::Ipv4Net;

/// The longest prefix of a part: room for a container at least.
const LONGEST: u8 = 30;

/// Why no part of a subnet can be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRange {
    #[error(
        "subnet {0} is too small to be cut into parts for hosts; write this host's `range` into its table"
    )]
    TooSmall(Ipv4Net),
    #[error(
        "all {count} parts of subnet {subnet} are leased to other hosts; use a larger subnet, or write ranges"
    )]
    AllTaken { subnet: Ipv4Net, count: usize },
}

/// The prefix of the parts: /24, or sixteenths of the subnet where those are smaller.
fn cut(subnet: Ipv4Net) -> Option<u8> {
    let prefix = (subnet.prefix_len() + 4).max(24);
    (prefix <= LONGEST).then_some(prefix)
}

/// The part that this host had before, where nobody else has some of it; else the first that is free.
///
/// # Errors
/// There is none.
pub fn choose(subnet: Ipv4Net, before: Option<Ipv4Net>, taken: &[Ipv4Net]) -> Result<Ipv4Net, NoRange> {
    let free = |range: &Ipv4Net| !taken.iter().any(|other| overlap(*other, *range));
    if let Some(kept) = before.filter(|range| subnet.contains(range) && free(range)) {
        return Ok(kept);
    }
    let prefix = cut(subnet).ok_or(NoRange::TooSmall(subnet))?;
    let parts = || subnet.subnets(prefix).into_iter().flatten();
    parts().find(free).ok_or_else(|| NoRange::AllTaken {
        subnet,
        count: parts().count(),
    })
}

/// They share an address.
pub fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn chosen(subnet: &str, before: Option<&str>, taken: &[&str]) -> Result<String, NoRange> {
        let taken: Vec<Ipv4Net> = taken.iter().map(|text| net(text)).collect();
        choose(net(subnet), before.map(net), &taken).map(|range| range.to_string())
    }

    #[test]
    fn parts_are_24s_or_sixteenths() {
        for (subnet, first) in [
            ("10.0.0.0/8", "10.0.0.0/24"),
            ("10.81.0.0/16", "10.81.0.0/24"),
            ("10.81.0.0/20", "10.81.0.0/24"),
            ("10.81.0.0/21", "10.81.0.0/25"),
            ("10.81.0.0/24", "10.81.0.0/28"),
            ("10.81.0.0/26", "10.81.0.0/30"),
        ] {
            assert_eq!(chosen(subnet, None, &[]).unwrap(), first, "{subnet}");
        }
        assert_eq!(
            chosen("10.81.0.0/27", None, &[]),
            Err(NoRange::TooSmall(net("10.81.0.0/27")))
        );
        // What is written once stays possible.
        assert_eq!(
            chosen("10.81.0.0/27", Some("10.81.0.8/29"), &[]).unwrap(),
            "10.81.0.8/29"
        );
    }

    #[test]
    fn the_part_before_is_kept_while_it_is_free() {
        let subnet = "10.81.0.0/16";
        assert_eq!(
            chosen(subnet, Some("10.81.7.0/24"), &["10.81.0.0/24"]).unwrap(),
            "10.81.7.0/24"
        );
        assert_eq!(
            chosen(subnet, Some("10.81.7.0/24"), &["10.81.7.128/25"]).unwrap(),
            "10.81.0.0/24"
        );
        assert_eq!(
            chosen(subnet, Some("10.82.7.0/24"), &["10.81.0.0/23"]).unwrap(),
            "10.81.2.0/24"
        );
        let all: Vec<String> = (0..16).map(|n| format!("10.81.0.{}/28", n * 16)).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let none = chosen("10.81.0.0/24", None, &all).unwrap_err();
        assert!(
            none.to_string()
                .starts_with("all 16 parts of subnet 10.81.0.0/24 are leased"),
            "{none}"
        );
        assert_eq!(
            chosen("10.81.0.0/24", None, &all[..15]).unwrap(),
            "10.81.0.240/28"
        );
    }
}
