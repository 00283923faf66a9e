//! What a running task reports of itself, and when that goes on record.

use serde::{Deserialize, Serialize};

use super::payload::Payload;
use super::state::State;

/// Between two records of one task, on the steady scale.
pub(crate) const INTERVAL_MS: u64 = 1_000;

/// The longest name of a state, and the largest value with it, in bytes: both are in one record.
const MAX_STATE: usize = 64;
const MAX_META: usize = 4_096;

/// The state of [`TaskContext::progress`](crate::TaskContext::progress), with Celery's name.
pub(crate) const PROGRESS: &str = "PROGRESS";

/// A state that a running task gives itself, and a value that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskUpdate {
    pub(crate) state: String,
    pub(crate) meta: Payload,
}

impl TaskUpdate {
    /// Creates an update, or says why it cannot be one.
    pub(crate) fn new<T: Serialize + ?Sized>(state: &str, meta: &T) -> Result<Self, String> {
        const OWN: [State; 7] = [
            State::Pending,
            State::Started,
            State::Retry,
            State::Quarantined,
            State::Success,
            State::Failure,
            State::Revoked,
        ];
        if state.is_empty() || state.len() > MAX_STATE {
            return Err(format!("the name of a state has 1 to {MAX_STATE} bytes"));
        }
        if OWN.iter().any(|own| own.to_string() == state) {
            return Err("the engine itself sets this state".to_owned());
        }
        let meta = Payload::encode(meta).map_err(|why| format!("its value: {why}"))?;
        match meta.bytes().len() {
            size if size > MAX_META => Err(format!(
                "its value takes {size} bytes, and at most {MAX_META} are kept"
            )),
            _ => Ok(Self {
                state: state.to_owned(),
                meta,
            }),
        }
    }
}

/// How far a task says that it has got; see [`TaskContext::progress`](crate::TaskContext::progress).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskProgress {
    /// The number of units that are done. The unit is the task's own.
    pub done: u64,
    /// The number of units in all.
    pub total: u64,
}

/// The latest update of one task, and its way into the store.
///
/// Invariant: between two updates that go on record there is at least [`INTERVAL_MS`].
#[derive(Debug, Default)]
pub(crate) struct UpdatePacer {
    latest: Option<TaskUpdate>,
    /// The latest update is not on record.
    is_due: bool,
    /// When an update last went on record.
    recorded_ms: Option<u64>,
}

impl UpdatePacer {
    /// Restores the pacer of a task whose update is on record, since when is not known.
    pub(crate) fn recovered(update: TaskUpdate, now_ms: u64) -> Self {
        Self {
            latest: Some(update),
            is_due: false,
            recorded_ms: Some(now_ms),
        }
    }

    pub(crate) fn latest(&self) -> Option<&TaskUpdate> {
        self.latest.as_ref()
    }

    /// Returns whether the store may have a record of the task.
    pub(crate) fn is_on_record(&self) -> bool {
        self.recorded_ms.is_some()
    }

    /// Handles an update.
    pub(crate) fn update(&mut self, update: TaskUpdate) {
        self.is_due |= self.latest.as_ref() != Some(&update);
        self.latest = Some(update);
    }

    /// Takes over the place of the pacer of an earlier attempt: what that one has on record may be
    /// replaced only later.
    pub(crate) fn follow(&mut self, earlier: &Self) {
        self.recorded_ms = self.recorded_ms.max(earlier.recorded_ms);
    }

    /// Returns the earliest time at which the latest update may go on record, if it is to.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        let next = self
            .recorded_ms
            .map_or(0, |ms| ms.saturating_add(INTERVAL_MS));
        self.is_due.then_some(next)
    }

    /// Returns the update that goes on record with the batch that is written now, if one does.
    pub(crate) fn record(&mut self, now_ms: u64) -> Option<TaskUpdate> {
        if self.due_ms().is_none_or(|due_ms| due_ms > now_ms) {
            return None;
        }
        self.is_due = false;
        self.recorded_ms = Some(now_ms);
        self.latest.clone()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn update(n: u64) -> TaskUpdate {
        TaskUpdate::new("COUNTING", &n).unwrap()
    }

    #[test]
    fn an_update_has_a_name_of_its_own_and_a_value_of_some_size() {
        for name in ["", "SUCCESS", "RETRY", "PENDING", &"x".repeat(65)] {
            assert!(TaskUpdate::new(name, &()).is_err(), "{name}");
        }
        let fits = "x".repeat(MAX_META - 3);
        assert!(TaskUpdate::new(PROGRESS, &fits).is_ok());
        let why = TaskUpdate::new("LARGE", &format!("{fits}x")).unwrap_err();
        assert!(why.contains("4097 bytes"), "{why}");
    }

    proptest! {
        /// Updates and batches at any times, and restarts between them: no two records within a
        /// second, never an older update after a newer one, and in the end the latest one.
        #[test]
        fn at_most_one_record_a_second_and_in_the_end_the_latest(
            steps in proptest::collection::vec((0..700_u64, 0..4_u8), 1..80)
        ) {
            let mut pacer = UpdatePacer::default();
            let (mut now_ms, mut latest, mut stored) = (0, None, None);
            let mut recorded: Vec<(u64, TaskUpdate)> = Vec::new();
            for (n, (wait_ms, what)) in (0..).zip(steps) {
                now_ms += wait_ms;
                match what {
                    0 | 1 => {
                        pacer.update(update(n));
                        latest = Some(update(n));
                    }
                    // A batch is written.
                    2 => if let Some(update) = pacer.record(now_ms) {
                        stored = Some(update.clone());
                        recorded.push((now_ms, update));
                    },
                    // The process dies, or the next attempt begins.
                    _ => if let Some(update) = &stored {
                        pacer = UpdatePacer::recovered(update.clone(), now_ms);
                        latest = stored.clone();
                        let mut next = UpdatePacer::default();
                        next.follow(&pacer);
                        prop_assert_eq!(next.due_ms(), None);
                        next.update(latest.clone().unwrap());
                        prop_assert_eq!(next.due_ms(), Some(now_ms + INTERVAL_MS));
                    },
                }
                prop_assert_eq!(pacer.latest(), latest.as_ref());
                prop_assert_eq!(pacer.is_on_record(), stored.is_some());
            }
            for pair in recorded.windows(2) {
                prop_assert!(pair[0].0 + INTERVAL_MS <= pair[1].0);
            }
            if let Some(latest) = latest {
                let due_ms = pacer.due_ms();
                let last = pacer.record(now_ms + INTERVAL_MS);
                prop_assert_eq!(last.is_some(), due_ms.is_some());
                prop_assert_eq!(last.or(stored), Some(latest));
            }
        }
    }
}
