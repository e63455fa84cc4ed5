//! Replicas: which service a container is an instance of.

use serde::{Deserialize, Serialize};

use crate::name::Name;

/// An instance's place in its service. One that stands alone is instance 1 of the service of its own name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The name of the table.
    pub service: Name,
    /// Counted from 1.
    pub number: u32,
}

impl Place {
    /// The first, or only, instance of a service.
    pub fn first(service: &Name) -> Self {
        Self {
            service: service.clone(),
            number: 1,
        }
    }

    /// What the container is called: the service's name for the first one, `NAME-2` and so on for the others.
    ///
    /// None where that is no name, being too long.
    pub fn name(&self) -> Option<Name> {
        if self.number == 1 {
            return Some(self.service.clone());
        }
        self.numbered().parse().ok()
    }

    /// `NAME-1`, `NAME-2`: what every instance of a replicated service is called, whatever else.
    pub fn numbered(&self) -> String {
        format!("{}-{}", self.service, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_one_has_the_name_of_its_service() {
        let service: Name = "web".parse().unwrap();
        let place = |number| Place {
            service: service.clone(),
            number,
        };
        assert_eq!(Place::first(&service), place(1));
        assert_eq!(place(1).name().unwrap().as_str(), "web");
        assert_eq!(place(1).numbered(), "web-1");
        assert_eq!(place(12).name().unwrap().as_str(), "web-12");
    }

    #[test]
    fn a_name_that_would_be_too_long_is_none() {
        let service: Name = "n".repeat(62).parse().unwrap();
        assert_eq!(Place { service, number: 2 }.name(), None);
    }
}
