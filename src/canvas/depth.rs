//! What may stand in itself is decoded no deeper than it is ever made: bytes that say otherwise would
//! overflow the stack.

use std::cell::Cell;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::freeze::{MAX_DEPTH, too_deep};

thread_local! {
    /// How many are being decoded around the next one.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Ends with the value it was begun for, also if that fails.
struct Level;

impl Level {
    fn begin() -> Option<Self> {
        // (The function of a fold is one below what a canvas may have.)
        DEPTH.with(|depth| {
            (depth.get() <= MAX_DEPTH).then(|| {
                depth.set(depth.get() + 1);
                Self
            })
        })
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(depth.get() - 1));
    }
}

/// For `#[serde(deserialize_with)]`, on each field by which a type stands in itself.
pub(crate) fn nested<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let _level = Level::begin().ok_or_else(|| D::Error::custom(too_deep()))?;
    T::deserialize(deserializer)
}
