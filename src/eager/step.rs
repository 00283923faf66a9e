//! The next step of a frame.

use futures_util::future::BoxFuture;

use crate::canvas::machine::Report;
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::machine::task::AttemptOutcome;

/// The next step of a frame.
pub(super) enum Step {
    /// A child starts.
    Start(ChildSpec),
    /// The function of the task is called.
    Call(Call),
    /// The node has ended.
    Ended(Report),
}

/// A call of a task's function; returns the number of the attempt and its outcome.
pub(super) type Call = BoxFuture<'static, (u32, AttemptOutcome)>;
