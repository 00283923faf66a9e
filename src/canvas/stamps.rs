//! Stamps: names with values that a canvas carries to all work in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The stamps of a canvas or task (Celery's `stamp`): names, and a value for each.
///
/// All tasks of a large group share theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamps(Option<Arc<BTreeMap<String, String>>>);

/// How many bytes the names and values of a task's stamps may have together: every task stores its
/// own.
const MAX_BYTES: usize = 1_024;

impl Stamps {
    pub(crate) const NONE: &'static Self = &Self(None);

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn set(&mut self, name: String, value: String) {
        Arc::make_mut(self.0.get_or_insert_default()).insert(name, value);
    }

    pub(crate) fn as_map(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.0.as_deref().unwrap_or(&NONE)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.as_map().get(name).map(String::as_str)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.as_map().iter();
        all.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns these stamps, and those of `outer` with other names.
    pub(crate) fn over(&self, outer: &Self) -> Self {
        let (Some(own), Some(_)) = (&self.0, &outer.0) else {
            return if self.is_empty() { outer } else { self }.clone();
        };
        if outer.iter().all(|(name, _)| own.contains_key(name)) {
            return self.clone();
        }
        let mut all = self.clone();
        for (name, value) in outer.iter().filter(|(name, _)| !own.contains_key(*name)) {
            all.set(name.to_owned(), value.to_owned());
        }
        all
    }

    /// Returns the stamps that have the same value in both.
    pub(crate) fn shared_with(&self, other: &Self) -> Self {
        if self == other {
            return self.clone();
        }
        let mut shared = Self::default();
        for (name, value) in self.iter() {
            if other.get(name) == Some(value) {
                shared.set(name.to_owned(), value.to_owned());
            }
        }
        shared
    }

    /// Returns why a task cannot have these stamps.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.get("").is_some() {
            return Err("a stamp needs a name".to_owned());
        }
        let bytes: usize = self
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if bytes > MAX_BYTES {
            return Err(format!(
                "the stamps of a task have at most {MAX_BYTES} bytes together, and not {bytes}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamps(all: &[(&str, &str)]) -> Stamps {
        let mut stamps = Stamps::default();
        for (name, value) in all {
            stamps.set((*name).to_owned(), (*value).to_owned());
        }
        stamps
    }

    #[test]
    fn the_inner_value_of_a_stamp_counts() {
        let (inner, outer) = (
            stamps(&[("a", "1"), ("b", "2")]),
            stamps(&[("b", "3"), ("c", "4")]),
        );
        let both = stamps(&[("a", "1"), ("b", "2"), ("c", "4")]);
        assert_eq!(inner.over(&outer), both);
        assert_eq!(inner.over(&Stamps::default()), inner);
        assert_eq!(Stamps::default().over(&outer), outer);
        assert_eq!(both.shared_with(&outer), stamps(&[("c", "4")]));
        assert_eq!(stamps(&[]), Stamps::default());
        assert!(inner.shared_with(&stamps(&[("a", "2")])).is_empty());
    }

    #[test]
    fn stamps_have_names_and_are_small() {
        assert!(stamps(&[("", "1")]).check().is_err());
        let value = "x".repeat(MAX_BYTES - 2);
        assert_eq!(stamps(&[("a", &value), ("b", "")]).check(), Ok(()));
        let error = stamps(&[("a", &value), ("b", "2")]).check().unwrap_err();
        assert!(
            error.ends_with("at most 1024 bytes together, and not 1025"),
            "{error}"
        );
    }
}
