//! The answer to a revocation.

use serde::{Deserialize, Serialize};

/// How far a task or workflow had got when [`AsyncResult::revoke`](crate::AsyncResult::revoke) or
/// [`App::revoke`](crate::App::revoke) was called. The answer is durable when the call returns, and
/// holds across any crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RevokeOutcome {
    /// No function of it has been called, and none ever will be.
    BeforeStart,
    /// Some of it had begun. Running attempts are cancelled, nothing else of it starts, no retry
    /// follows, and it ends as [`Revoked`](crate::State::Revoked).
    Cancelling,
    /// It had ended: its outcome is recorded and does not change.
    AlreadyDone,
}
