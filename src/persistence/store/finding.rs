//! The defects of a store, as an audit or a salvage reports them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::StoreError;

/// One defect of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// The file, the key, or the workflow.
    pub place: String,
    /// What is wrong there.
    pub what: String,
}

impl Finding {
    pub(crate) fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            what: what.into(),
        }
    }
}

/// The error that reading a store returned.
impl From<&StoreError> for Finding {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Corrupt {
                path_or_place,
                what,
            } => Self::new(path_or_place, what),
            StoreError::RolledBack { path, .. } | StoreError::WrongStore { path, .. } => {
                Self::new(path.display().to_string(), error.to_string())
            }
            StoreError::UnsupportedVersion { path_or_place, .. }
            | StoreError::UnsupportedFeature { path_or_place, .. } => {
                Self::new(path_or_place, error.to_string())
            }
            other => Self::new("the store", other.to_string()),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// The state of an engine's log, apart from the records in it.
#[derive(Debug, Default)]
pub(crate) struct LogReport {
    /// Segments of the log that are in use.
    pub(crate) segments: u64,
    /// Complete frames in these segments.
    pub(crate) frames: u64,
    pub(crate) findings: Vec<Finding>,
}

/// Returns a key as messages show it: the first 32 bytes in hexadecimal digits.
pub(crate) fn shown(key: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for byte in key.iter().take(32) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
