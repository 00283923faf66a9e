//! The hooks of the engine's tests and of its simulation: production code calls them, and each does
//! nothing in a build without tests and without the feature `__simulation`.

use std::collections::VecDeque;

use crate::messages::supervisor::ChildEvent;
use crate::messages::task::{AttemptMessage, TaskKey};

/// Kills the actor if a test or a simulation asks for that. Each kind of actor calls this at one of
/// its events, because no user action kills an actor.
#[inline]
pub(crate) fn fault(_kind: &'static str) {
    #[cfg(test)]
    super::faults::fault(_kind);
    #[cfg(feature = "__simulation")]
    super::simulation::fault(_kind);
}

/// Returns whether a small batch may be written inline.
#[inline]
pub(crate) fn writes_at_once() -> bool {
    #[cfg(feature = "__simulation")]
    return super::simulation::writes_at_once();
    #[cfg(not(feature = "__simulation"))]
    true
}

/// Waits until a simulation has a thread for a blocking job.
pub(crate) async fn free_thread() {
    #[cfg(feature = "__simulation")]
    super::simulation::free_thread().await;
}

/// Returns the events of children; a simulation repeats some of them.
#[inline]
pub(crate) fn events(events: VecDeque<ChildEvent>) -> VecDeque<ChildEvent> {
    #[cfg(feature = "__simulation")]
    let events = super::simulation::events(events);
    events
}

/// Returns the messages of attempts; a simulation repeats some earlier ones.
#[inline]
pub(crate) fn attempt_messages(
    messages: Vec<(TaskKey, AttemptMessage)>,
) -> Vec<(TaskKey, AttemptMessage)> {
    #[cfg(feature = "__simulation")]
    let messages = super::simulation::messages(messages);
    messages
}
