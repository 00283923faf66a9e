//! Calls into an engine that may panic on what it finds on the disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::StoreError;
use super::files::damaged;

/// Runs a call into an engine: a panic comes back as [`StoreError::Corrupt`] (H10).
pub(super) fn caught<T>(
    place: &Path,
    engine: &str,
    doing: &str,
    work: impl FnOnce() -> T,
) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        // Longer panic messages of sled print whole nodes, which hold users' data.
        let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
            (Some(text), _) => (*text).to_owned(),
            (None, Some(text)) => text.chars().take(80).collect(),
            (None, None) => "no message".to_owned(),
        };
        damaged(place, format!("{engine} panicked at {doing}: {text}"))
    })
}
