//! What there is of each family of addresses, where there has to be something of one of them at least.

use std::iter::Chain;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::option;

use serde::{Deserialize, Serialize};

/// Something of IPv4, something of IPv6, or something of each; never nothing.
///
/// Written as the fields of what is of IPv4 with a field `v6` among them: as it was when nothing could do without IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(
    try_from = "Fields<A, B>",
    into = "Fields<A, B>",
    bound(
        serialize = "A: Clone + Serialize, B: Clone + Serialize",
        deserialize = "A: Deserialize<'de>, B: Deserialize<'de>"
    )
)]
pub enum Families<A, B> {
    V4(A),
    V6(B),
    Both(A, B),
}

/// The text has nothing of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has neither IPv4 nor IPv6")]
pub struct NoFamily;

impl<A, B> Families<A, B> {
    /// None where there is nothing of either.
    pub fn new(v4: Option<A>, v6: Option<B>) -> Option<Self> {
        Some(match (v4, v6) {
            (Some(v4), None) => Self::V4(v4),
            (None, Some(v6)) => Self::V6(v6),
            (Some(v4), Some(v6)) => Self::Both(v4, v6),
            (None, None) => return None,
        })
    }

    pub fn v4(&self) -> Option<&A> {
        match self {
            Self::V4(v4) | Self::Both(v4, _) => Some(v4),
            Self::V6(_) => None,
        }
    }

    pub fn v6(&self) -> Option<&B> {
        match self {
            Self::V6(v6) | Self::Both(_, v6) => Some(v6),
            Self::V4(_) => None,
        }
    }

    pub fn v4_mut(&mut self) -> Option<&mut A> {
        match self {
            Self::V4(v4) | Self::Both(v4, _) => Some(v4),
            Self::V6(_) => None,
        }
    }

    pub fn v6_mut(&mut self) -> Option<&mut B> {
        match self {
            Self::V6(v6) | Self::Both(_, v6) => Some(v6),
            Self::V4(_) => None,
        }
    }

    /// With this beside what there is of IPv4.
    #[must_use]
    pub fn with_v6(self, v6: B) -> Self {
        match self {
            Self::V4(v4) | Self::Both(v4, _) => Self::Both(v4, v6),
            Self::V6(_) => Self::V6(v6),
        }
    }

    /// None where there is nothing else.
    #[must_use]
    pub fn without_v6(self) -> Option<Self> {
        match self {
            Self::V4(v4) | Self::Both(v4, _) => Some(Self::V4(v4)),
            Self::V6(_) => None,
        }
    }

    /// What both have in common, IPv4 first.
    pub fn each<T>(
        &self,
        v4: impl FnOnce(&A) -> T,
        v6: impl FnOnce(&B) -> T,
    ) -> Chain<option::IntoIter<T>, option::IntoIter<T>> {
        let (v4, v6) = (self.v4().map(v4), self.v6().map(v6));
        v4.into_iter().chain(v6)
    }

    /// Something else of each.
    pub fn map<X, Y>(&self, v4: impl FnOnce(&A) -> X, v6: impl FnOnce(&B) -> Y) -> Families<X, Y> {
        match self {
            Self::V4(own) => Families::V4(v4(own)),
            Self::V6(own) => Families::V6(v6(own)),
            Self::Both(own, own6) => Families::Both(v4(own), v6(own6)),
        }
    }

    /// What both have in common of one of them: of IPv4 where there is some.
    pub fn first<T>(&self, v4: impl FnOnce(&A) -> T, v6: impl FnOnce(&B) -> T) -> T {
        match self {
            Self::V4(own) | Self::Both(own, _) => v4(own),
            Self::V6(own) => v6(own),
        }
    }
}

impl Families<Ipv4Addr, Ipv6Addr> {
    /// The IPv4 address where there is one.
    pub fn ip(self) -> IpAddr {
        self.first(|v4| IpAddr::V4(*v4), |v6| IpAddr::V6(*v6))
    }
}

/// As it is written.
#[derive(Serialize, Deserialize)]
struct Fields<A, B> {
    #[serde(flatten)]
    v4: Option<A>,
    v6: Option<B>,
}

impl<A, B> TryFrom<Fields<A, B>> for Families<A, B> {
    type Error = NoFamily;

    fn try_from(fields: Fields<A, B>) -> Result<Self, NoFamily> {
        Self::new(fields.v4, fields.v6).ok_or(NoFamily)
    }
}

impl<A, B> From<Families<A, B>> for Fields<A, B> {
    fn from(families: Families<A, B>) -> Self {
        let (v4, v6) = match families {
            Families::V4(v4) => (Some(v4), None),
            Families::V6(v6) => (None, Some(v6)),
            Families::Both(v4, v6) => (Some(v4), Some(v6)),
        };
        Self { v4, v6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Address4, Address6};

    type Of = Families<Address4, Address6>;

    fn read(text: &str) -> Result<Of, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn what_was_written_before_is_read_and_what_is_of_both_is_written_likewise() {
        let four = r#"{"ip":"10.80.0.2","prefix":24,"gateway":"10.80.0.1","v6":null}"#;
        assert_eq!(serde_json::to_string(&read(four).unwrap()).unwrap(), four);
        assert_eq!(read(r#"{"ip":"10.80.0.2","prefix":24}"#).unwrap().v6(), None);
        let both = r#"{"ip":"10.80.0.2","prefix":24,"gateway":null,"v6":{"ip":"fd00::2","prefix":64,"gateway":null}}"#;
        let read = read(both).unwrap();
        assert!(matches!(read, Families::Both(..)), "{read:?}");
        assert_eq!(serde_json::to_string(&read).unwrap(), both);
    }

    #[test]
    fn one_family_alone_is_read_back_and_none_is_refused() {
        let six = r#"{"v6":{"ip":"fd00::2","prefix":64,"gateway":"fd00::1"}}"#;
        let alone = read(six).unwrap();
        assert_eq!((alone.v4(), alone.v6().is_some()), (None, true));
        assert_eq!(read(&serde_json::to_string(&alone).unwrap()).unwrap(), alone);
        assert!(
            read("{}")
                .unwrap_err()
                .to_string()
                .contains("neither IPv4 nor IPv6")
        );
    }

    #[test]
    fn what_both_have_in_common_is_that_of_ipv4_first() {
        let (four, six) = (Ipv4Addr::new(10, 0, 0, 2), Ipv6Addr::LOCALHOST);
        let all = |of: Families<Ipv4Addr, Ipv6Addr>| -> Vec<IpAddr> {
            of.each(|ip| (*ip).into(), |ip| (*ip).into()).collect()
        };
        let both = Families::V4(four).with_v6(six);
        assert_eq!(all(both), [IpAddr::from(four), six.into()]);
        assert_eq!((both.ip(), Families::V6(six).ip()), (four.into(), six.into()));
        assert_eq!(both.without_v6(), Some(Families::V4(four)));
        assert_eq!(Families::<Ipv4Addr, _>::V6(six).without_v6(), None);
        assert_eq!(all(Families::V6(six)), [IpAddr::from(six)]);
    }
}
