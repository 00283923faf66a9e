//! Limits the depth of decoding: types that contain themselves are decoded no deeper than they are
//! ever built, because corrupt bytes could otherwise overflow the stack.

use std::cell::Cell;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// The maximum depth of a canvas. Each level is a level of recursion here and in the codec, on a
/// caller's thread of perhaps 2 MB, which an unoptimised build fills at about 230 levels.
pub(crate) const MAX_DEPTH: usize = 128;

/// Returns the reason for refusing a deeper canvas.
pub(crate) fn too_deep() -> String {
    format!("canvases nest at most {MAX_DEPTH} deep")
}

thread_local! {
    /// The number of values being decoded around the next one.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// One level of decoding; ends when it is dropped, even if decoding fails.
struct Level;

impl Level {
    fn begin() -> Option<Self> {
        // (A fold's function is one level below the deepest canvas.)
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

/// For `#[serde(deserialize_with)]` on each field through which a type contains itself.
pub(crate) fn nested<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let _level = Level::begin().ok_or_else(|| D::Error::custom(too_deep()))?;
    T::deserialize(deserializer)
}
