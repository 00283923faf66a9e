//! Pins: a workflow that has a handle is not swept, and one that is being swept gets no new handle.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::canvas::id::Id;

/// How many handles each workflow has, and which workflows are being swept.
///
/// Both are decided under one lock, so that a lookup and a sweep never miss each other: whichever is first,
/// the other sees it.
#[derive(Debug, Default)]
pub(crate) struct RetentionGuards(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    handles: HashMap<Id, usize>,
    /// Their deletion is decided, and the store may still show them.
    leaving: HashSet<Id>,
}

impl RetentionGuards {
    /// Keeps a workflow from being swept for as long as the pin lives.
    pub(crate) fn pin(self: &Arc<Self>, root: Id) -> RetentionGuard {
        self.0.lock().pin(root);
        RetentionGuard {
            pins: self.clone(),
            root,
        }
    }

    /// Pins a workflow, unless it is being swept: then it is as good as gone.
    pub(crate) fn pin_unless_leaving(self: &Arc<Self>, root: Id) -> Option<RetentionGuard> {
        let mut state = self.0.lock();
        if state.leaving.contains(&root) {
            return None;
        }
        state.pin(root);
        drop(state);
        Some(RetentionGuard {
            pins: self.clone(),
            root,
        })
    }

    /// Notes that a workflow is being swept; refuses if it has a handle.
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

    /// The store shows none of those any more that were being swept.
    pub(crate) fn have_left(&self) {
        self.0.lock().leaving.clear();
    }
}

impl State {
    fn pin(&mut self, root: Id) {
        *self.handles.entry(root).or_default() += 1;
    }
}

/// See [`Pins::pin`].
#[derive(Debug)]
pub(crate) struct RetentionGuard {
    pins: Arc<RetentionGuards>,
    root: Id,
}

impl RetentionGuard {
    /// The workflow that it keeps.
    pub(crate) fn root(&self) -> Id {
        self.root
    }
}

impl Clone for RetentionGuard {
    fn clone(&self) -> Self {
        self.pins.pin(self.root)
    }
}

impl Drop for RetentionGuard {
    fn drop(&mut self) {
        let mut state = self.pins.0.lock();
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
    fn what_has_a_handle_is_not_swept_and_what_is_swept_gets_no_handle() {
        let pins = Arc::new(RetentionGuards::default());
        let root = Id::next(None, 1, 0);
        let pin = pins.pin_unless_leaving(root).unwrap();
        let second = pin.clone();
        drop(pin);
        assert!(!pins.start_leaving(root) && !pins.is_leaving(root));
        drop(second);
        assert!(pins.start_leaving(root) && pins.is_leaving(root));
        assert!(pins.pin_unless_leaving(root).is_none());
        pins.have_left();
        assert!(pins.pin_unless_leaving(root).is_some());
    }
}
