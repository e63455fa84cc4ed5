//! A value that many places hold at the same time: a definition is in what the files say, in the ledger as it was and as
//! it will be, in the plan and in its actions.
//!
//! To copy it is to count it once more; two that are the same value are found equal without a look inside. Whoever changes
//! one changes a copy of his own, as with any other value.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A `T`, held together with others.
#[derive(Default)]
pub struct Shared<T>(Arc<T>);

impl<T> Shared<T> {
    pub fn new(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

// By hand: `T` is not copied, whether it could be or not.
impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl<'a, T> IntoIterator for &'a Shared<T>
where
    &'a T: IntoIterator,
{
    type Item = <&'a T as IntoIterator>::Item;
    type IntoIter = <&'a T as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        (**self).into_iter()
    }
}

impl<T: Eq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        // What is equal to itself need not be compared.
        Arc::ptr_eq(&self.0, &other.0) || *self.0 == *other.0
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<T: Serialize> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::new)
    }
}

/// For serde: a text that many hold together, written as any other.
pub mod text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(deserializer).map(Arc::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_changes_one_changes_a_copy_of_his_own() {
        let first = Shared::new(vec![1]);
        let mut second = first.clone();
        assert_eq!(first, second);
        second.push(2);
        assert_eq!(
            (first.as_slice(), second.as_slice()),
            ([1].as_slice(), [1, 2].as_slice())
        );
        assert_ne!(first, second);
        assert_eq!(first, Shared::new(vec![1]));
    }

    #[test]
    fn it_is_written_and_read_as_the_value_itself() {
        let shared = Shared::new("a".to_owned());
        let text = serde_json::to_string(&shared).unwrap();
        assert_eq!(text, "\"a\"");
        assert_eq!(serde_json::from_str::<Shared<String>>(&text).unwrap(), shared);
        assert_eq!(format!("{shared:?}"), "\"a\"");
    }
}
