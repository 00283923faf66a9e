//! Group commit: the journal of the actors' decisions, and the actor that writes it to the store.

pub(crate) mod committer;
pub(crate) mod journal;
