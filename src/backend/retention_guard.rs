//! Retention guards: a workflow that has a handle is not swept, and one that is being swept gets no
//! new handle.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::canvas::id::Id;

/// The number of handles of each workflow, and the workflows that are being swept.
///
/// Both are decided under one lock, so that a lookup and a sweep cannot miss each other: the later
/// one sees the earlier one.
#[derive(Debug, Default)]
pub(crate) struct RetentionGuards(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    handles: HashMap<Id, usize>,
    /// Workflows whose deletion is decided, while the store may still show them.
    leaving: HashSet<Id>,
}

impl RetentionGuards {
    /// Keeps a workflow from being swept as long as the guard lives.
    pub(crate) fn pin(self: &Arc<Self>, root: Id) -> RetentionGuard {
        self.0.lock().pin(root);
        RetentionGuard {
            guards: self.clone(),
            root,
        }
    }

    /// Keeps a workflow from being swept, unless its deletion is decided already.
    pub(crate) fn pin_unless_leaving(self: &Arc<Self>, root: Id) -> Option<RetentionGuard> {
        let mut state = self.0.lock();
        if state.leaving.contains(&root) {
            return None;
        }
        state.pin(root);
        drop(state);
        Some(RetentionGuard {
            guards: self.clone(),
            root,
        })
    }

    /// Notes that a workflow is being swept. Returns false if it has a handle.
    pub(crate) fn start_leaving(&self, root: Id) -> bool {
        let mut state = self.0.lock();
        let is_free = !state.handles.contains_key(&root);
        if is_free {
            state.leaving.insert(root);
        }
        is_free
    }

    pub(crate) fn is_leaving(&self, root: Id) -> bool {
        self.0.lock().leaving.contains(&root)
    }

    /// Forgets the workflows being swept: the store does not show them any more.
    pub(crate) fn clear_leaving(&self) {
        self.0.lock().leaving.clear();
    }
}

impl State {
    fn pin(&mut self, root: Id) {
        *self.handles.entry(root).or_default() += 1;
    }
}

/// Keeps a workflow from being swept; see [`RetentionGuards::pin`].
#[derive(Debug)]
pub(crate) struct RetentionGuard {
    guards: Arc<RetentionGuards>,
    root: Id,
}

impl RetentionGuard {
    /// Returns the workflow that the guard keeps.
    pub(crate) fn root(&self) -> Id {
        self.root
    }
}

impl Clone for RetentionGuard {
    fn clone(&self) -> Self {
        self.guards.pin(self.root)
    }
}

impl Drop for RetentionGuard {
    fn drop(&mut self) {
        let mut state = self.guards.0.lock();
        if let Some(count) = state.handles.get_mut(&self.root) {
            *count -= 1;
            if *count == 0 {
                state.handles.remove(&self.root);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workflow_with_a_handle_is_not_swept_and_one_being_swept_gets_no_handle() {
        let guards = Arc::new(RetentionGuards::default());
        let root = Id::next(None, 1, 0);
        let guard = guards.pin_unless_leaving(root).unwrap();
        let second = guard.clone();
        drop(guard);
        assert!(!guards.start_leaving(root) && !guards.is_leaving(root));
        drop(second);
        assert!(guards.start_leaving(root) && guards.is_leaving(root));
        assert!(guards.pin_unless_leaving(root).is_none());
        guards.clear_leaving();
        assert!(guards.pin_unless_leaving(root).is_some());
    }
}
