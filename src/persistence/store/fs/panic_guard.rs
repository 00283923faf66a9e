//! Calls into an engine that may panic on a damaged file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::files::damaged;
use crate::persistence::store::StoreError;

/// Runs a call into an engine and returns a panic as [`StoreError::Corrupt`] (H10).
pub(crate) fn catch_panics<T>(
    place: &Path,
    engine: &str,
    doing: &str,
    work: impl FnOnce() -> T,
) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        // sled's longer panic messages print whole nodes, which hold users' data.
        let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
            (Some(text), _) => (*text).to_owned(),
            (None, Some(text)) => text.chars().take(80).collect(),
            (None, None) => "no message".to_owned(),
        };
        damaged(place, format!("{engine} panicked at {doing}: {text}"))
    })
}
