//! What a caller is told who has revoked something.

/// How far it had got, what [`AsyncResult::revoke`](crate::AsyncResult::revoke) or
/// [`App::revoke`](crate::App::revoke) was asked to end. The answer is durable when it is given, and
/// stays true over any crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RevokeOutcome {
    /// No function of it has been called, and none ever will be.
    BeforeStart,
    /// Some of it had begun. What runs is told so, nothing more of it starts, no retry follows, and it
    /// ends [`Revoked`](crate::State::Revoked).
    Cancelling,
    /// It had ended: its outcome is on record and stays as it is.
    AlreadyDone,
}
