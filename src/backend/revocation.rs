//! Revokes a node, and finds out what that came to.

use super::Backend;
use crate::canvas::id::Id;
use crate::canvas::revocation::answer;
use crate::canvas::revoke_outcome::RevokeOutcome;
use crate::error::Result;
use crate::persistence::records::reader::{Progress, Resolution};

/// Revokes a node with everything below it.
pub(crate) async fn revoke(backend: &dyn Backend, id: Id) -> Result<RevokeOutcome> {
    let view = backend.view();
    // The guard keeps the workflow from being swept between the reads.
    let _guard = view.pin(id);
    let Progress {
        node_key: node,
        resolution,
        ..
    } = view.progress(id).await?;
    if resolution.is_some() {
        return Ok(RevokeOutcome::AlreadyDone);
    }
    loop {
        let is_settled = backend.mark_revoked(id, node).await?;
        let Progress {
            resolution,
            has_begun,
            ..
        } = view.progress(id).await?;
        let answer = match &resolution {
            Some(Resolution::Never) => Some(RevokeOutcome::AlreadyDone),
            Some(Resolution::Ended(outcome)) => answer(Some(outcome), has_begun, is_settled),
            None => answer(None, has_begun, is_settled),
        };
        if let Some(answer) = answer {
            return Ok(answer);
        }
    }
}
