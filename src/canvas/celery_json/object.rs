//! The values of a JSON text, read one level at a time.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::canvas::freeze::CanvasError;

pub(super) type Read<T> = Result<T, CanvasError>;

/// Reads the signatures in a list, each with the path `path[i]`.
pub(super) fn parts_at<T>(
    raw: &RawValue,
    key: &str,
    path: &str,
    each: impl Fn(&RawValue) -> Read<T>,
) -> Read<Vec<T>> {
    let at = |(i, raw)| each(raw).map_err(|error| error.within(&format!("{path}[{i}]")));
    list(raw, key)?.into_iter().enumerate().map(at).collect()
}

pub(super) fn list<'a>(raw: &'a RawValue, key: &str) -> Read<Vec<&'a RawValue>> {
    parse(raw, key, "a list")
}

pub(super) fn text(raw: &RawValue, key: &str) -> Read<String> {
    parse(raw, key, "a text")
}

/// Reads a value of a known type.
pub(super) fn parse<'a, T: Deserialize<'a>>(
    raw: &'a RawValue,
    key: &str,
    expected: &str,
) -> Read<T> {
    serde_json::from_str(raw.get()).map_err(|_| {
        CanvasError::at_top(&format!(
            "`{key}` must be {expected}, but is {}",
            shown(raw)
        ))
    })
}

/// Describes a value for an error: a short value itself, or the kind of a longer one.
pub(super) fn shown(raw: &RawValue) -> String {
    match raw.get() {
        text if text.starts_with('{') => "an object".to_owned(),
        text if text.starts_with('[') => "a list".to_owned(),
        text if text.len() <= 40 => text.to_owned(),
        text if text.starts_with('"') => "a text".to_owned(),
        _ => "a long number".to_owned(),
    }
}

/// The unread entries of a JSON object.
#[derive(Default)]
pub(super) struct Object<'a>(pub(super) BTreeMap<String, &'a RawValue>);

impl<'a> Object<'a> {
    pub(super) fn read(raw: &'a RawValue, object_name: &str) -> Read<Self> {
        if !raw.get().starts_with('{') {
            let actual = shown(raw);
            return Err(CanvasError::at_top(&format!(
                "{object_name} must be an object, but is {actual}"
            )));
        }
        serde_json::from_str(raw.get())
            .map_err(|error| CanvasError::at_top(&format!("{object_name} cannot be read: {error}")))
    }

    /// Takes an entry out; a null entry counts as absent.
    pub(super) fn take(&mut self, key: &str) -> Option<&'a RawValue> {
        self.0.remove(key).filter(|raw| raw.get() != "null")
    }

    pub(super) fn take_object(&mut self, key: &str) -> Read<Self> {
        self.take(key).map_or_else(
            || Ok(Self::default()),
            |raw| Self::read(raw, &format!("`{key}`")),
        )
    }

    /// Refuses unknown keys.
    pub(super) fn only(&self, object_name: &str, known: &[&str]) -> Read<()> {
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => Err(CanvasError::at_top(&format!(
                "unknown key `{name}` in {object_name}; there can be {}",
                known.join(", ")
            ))),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((name, raw)) = map.next_entry::<String, &RawValue>()? {
                    if entries.contains_key(&name) {
                        return Err(serde::de::Error::custom(format!("`{name}` is given twice")));
                    }
                    entries.insert(name, raw);
                }
                Ok(Object(entries))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}
