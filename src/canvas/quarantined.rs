//! What is known of a task in quarantine.

use std::time::SystemTime;

use super::id::Id;

/// A task that has ended the process too often: it waits until somebody decides what becomes of it.
/// Listed by [`App::quarantined`](crate::App::quarantined).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quarantined {
    /// The task.
    pub id: Id,
    /// The name that it is registered under.
    pub name: String,
    /// How often the process ended while it was running.
    pub crashes: u32,
    /// When the last of these was found out.
    pub since: SystemTime,
}
