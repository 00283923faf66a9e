//! The length of names, which become parts of store keys.

use crate::canvas::freeze::{SizeExceeded, name_excess};
use crate::error::{Error, Result, StartError};

/// Refuses a name that is too long. `of`: `queue` or `task`. `task`: the task that is registered
/// with a queue's name.
pub(crate) fn refuse_long_name(of: &'static str, name: &str, task: &str) -> Result<()> {
    let Some(SizeExceeded { bytes, limit }) = name_excess(name) else {
        return Ok(());
    };
    Err(Error::Start(StartError::NameTooLong {
        of,
        task: task.to_owned(),
        bytes,
        limit,
    }))
}
