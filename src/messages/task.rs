//! To a task.

use actix::Message;

use super::dispatcher::Permit;
use crate::canvas::machine::task::End;

/// A slot is free for it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Granted(pub(crate) Permit);

/// An attempt has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Finished {
    pub(crate) attempt: u32,
    pub(crate) end: End,
    /// Given back when the message has been heard; a blocking body that overran its limit keeps it.
    pub(crate) permit: Option<Permit>,
}
