//! Checks of the options that a canvas sets.

use std::time::Duration;

use super::error::{CanvasError, Reason, SizeExceeded};
use crate::canvas::form::Extras;
use crate::canvas::options::{MAX_NAME, Options};

/// Returns the sizes if the name is too long.
pub(crate) fn name_excess(name: &str) -> Option<SizeExceeded> {
    (name.len() > MAX_NAME).then_some(SizeExceeded {
        bytes: name.len() as u64,
        limit: MAX_NAME as u64,
    })
}

/// Refuses options that no task and no nested canvas can have.
pub(super) fn check(options: &Options, extras: &Extras) -> Result<(), CanvasError> {
    if options.priority.is_some_and(|priority| priority > 9) {
        return Err(CanvasError::at_top("a priority is 0 to 9"));
    }
    if let Some(excess) = options.queue.as_deref().and_then(name_excess) {
        return Err(CanvasError {
            path: String::new(),
            reason: Reason::QueueName(excess),
        });
    }
    let limits = [options.time_limit, options.soft_time_limit];
    if limits.iter().flatten().any(Duration::is_zero) {
        return Err(CanvasError::at_top("a time limit of zero lets nothing run"));
    }
    if let Some(rate) = options.rate_limit {
        rate.check()
            .map_err(|reason| CanvasError::at_top(&reason))?;
    }
    let stamps = options.stamps.check();
    stamps.map_err(|reason| CanvasError::at_top(&reason))?;
    if extras.idempotency_key.is_some() {
        return Err(CanvasError::at_top(
            "an idempotency key belongs on the canvas that is submitted, not inside it",
        ));
    }
    if extras.task_id.is_some() {
        return Err(CanvasError::at_top(
            "a task id belongs on the canvas that is submitted, not inside it",
        ));
    }
    Ok(())
}
