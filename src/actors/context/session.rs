//! The session of this process with the store: when it began, how it ends, the clock readings
//! beside delays, and the pending load.

use std::cell::{Cell, RefCell};

use super::EngineContext;
use crate::actors::child::Child;
use crate::actors::commit::journal::Journal;
use crate::actors::scheduler;
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::freeze::FormatAddition;
use crate::canvas::id::Id;
use crate::canvas::time::Time;
use crate::persistence::Pair;
use crate::persistence::records::codec::{self, Kind};
use crate::persistence::records::keys;
use crate::persistence::records::meta::{self, Additions, Session};
use crate::persistence::store::fs::aborts::AbortNote;

/// A reading of the clocks is recorded beside delays, but at most this often, in milliseconds. A
/// delay may be longer by as much if the machine goes down and its clock is behind when it comes
/// up.
const CLOCK_RECORD_MIN_MS: u64 = 1_000;
/// A reading is also recorded when the engine is woken and the last one is this old, in
/// milliseconds.
const CLOCK_RECORD_MAX_MS: u64 = 60_000;

/// This process's session with the store.
#[derive(Debug)]
pub(super) struct SessionState {
    session: Session,
    _abort_note: Option<AbortNote>,
    /// The latest workflow of earlier sessions.
    last_root: Option<Id>,
    /// The pending load, and the load that the store shows.
    pending: Cell<(Load, Load)>,
    /// The time of the last recorded clock reading.
    recorded: Cell<Time>,
    additions: RefCell<Additions>,
}

impl SessionState {
    pub(super) fn new(
        session: Session,
        additions: Additions,
        abort_note: Option<AbortNote>,
        last_root: Option<Id>,
        pending: Load,
        now: Time,
    ) -> Self {
        Self {
            session,
            _abort_note: abort_note,
            last_root,
            pending: Cell::new((pending, pending)),
            recorded: Cell::new(now),
            additions: RefCell::new(additions),
        }
    }
}

impl EngineContext {
    /// Returns whether a workflow was submitted in this session, and so to this build.
    pub(crate) fn is_of_this_session(&self, root: Id) -> bool {
        Some(root) > self.0.session.last_root
    }

    /// Notes that the store uses an addition to the format. Returns the record of that for the same
    /// batch, unless the store has it already.
    pub(super) fn add_addition(&self, addition: &str) -> Option<Pair> {
        self.0.session.additions.borrow_mut().add(addition)
    }

    /// As [`add_addition`](Self::add_addition), for the batch that is being filled.
    pub(crate) fn use_addition(&self, addition: &str) {
        if let Some((key, record)) = self.add_addition(addition) {
            self.put(key, record);
        }
    }

    /// Notes which additions to the format the canvases of this session need, in the first batch that
    /// may have such a canvas. (Pages that are staged before are no workflow yet.)
    pub(super) fn note_additions(&self, journal: &mut Journal<Box<Child>>) {
        for of_canvas in FormatAddition::ALL {
            if !self.handle().registry.is_used(of_canvas) {
                continue;
            }
            let addition = match of_canvas {
                FormatAddition::SignatureOptions => meta::SIGNATURE_OPTIONS,
                FormatAddition::GroupPolicies => meta::GROUP_POLICIES,
            };
            if let Some((key, record)) = self.add_addition(addition) {
                journal.put(key, record);
            }
        }
    }

    /// Adds to the pending load. The caller adds the workflow's record to the same batch.
    pub(crate) fn add_pending(&self, load: Load) {
        let (mut pending, stored) = self.0.session.pending.get();
        pending.add(load);
        self.0.session.pending.set((pending, stored));
    }

    /// Subtracts from the pending load, like [`add_pending`](Self::add_pending).
    pub(crate) fn remove_pending(&self, load: Load) {
        let (mut pending, stored) = self.0.session.pending.get();
        pending.remove(load);
        self.0.session.pending.set((pending, stored));
        self.view().admission.remove(load);
    }

    /// Records the pending load once for each batch, however many workflows it starts and ends.
    pub(super) fn count_pending(&self, journal: &mut Journal<Box<Child>>) {
        let (pending, stored) = self.0.session.pending.get();
        if pending != stored {
            self.0.session.pending.set((pending, pending));
            let record = codec::encode(Kind::Pending, &pending);
            journal.put(keys::PENDING.to_vec(), record);
        }
    }

    /// Records that this session ends cleanly: tasks that still run are not blamed for its end.
    pub(crate) fn end_session(&self) {
        let (key, record) = self.0.session.session.clone().ended();
        self.put(key, record);
        self.record_clock();
    }

    /// Records a clock reading beside a delay that is being recorded: its start must be known after
    /// the machine has been off.
    pub(crate) fn note_delay(&self) {
        let passed_ms = self
            .steady_ms()
            .abs_diff(self.0.session.recorded.get().steady_ms);
        if passed_ms >= CLOCK_RECORD_MIN_MS {
            self.record_clock();
        }
    }

    /// Records a clock reading if the wall clock was set or the last reading is old.
    pub(crate) fn note_clock(&self) {
        let (now, recorded) = (self.time(), self.0.session.recorded.get());
        let is_set = now.ahead_ms().abs_diff(recorded.ahead_ms()) > scheduler::DRIFT_MS;
        if is_set || now.steady_ms.abs_diff(recorded.steady_ms) >= CLOCK_RECORD_MAX_MS {
            self.record_clock();
        }
    }

    pub(super) fn record_clock(&self) {
        self.0.session.recorded.set(self.time());
        let (key, record) = self.clock().reading().record();
        self.put(key, record);
    }
}
