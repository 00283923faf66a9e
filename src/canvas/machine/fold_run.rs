//! The runs of a fold's function, each with an index among the children of the fold.

use serde::{Deserialize, Serialize};

use super::{BODY, Index};
use crate::canvas::outcome::{Outcome, Value};
use crate::canvas::payload::Payload;

/// One run of the function: the outcomes that it takes in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// How many outcomes the accumulator holds before the run.
    pub(crate) first: u64,
    pub(crate) acc: Value,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) settled: bool,
}

/// Returns the index of the run that follows after `folded` outcomes. Each run has an index of its
/// own, so that a late event of one run is not taken for one of the next.
pub(crate) fn run_index(folded: u64) -> Index {
    LAST_RUN - folded
}

/// Says whether this child of a fold is a run of its function.
pub(crate) fn is_run(index: Index) -> bool {
    (LAST_RUN - MAX_MEMBERS..=LAST_RUN).contains(&index)
}

/// Below the indices of the body and the barrier.
const LAST_RUN: Index = BODY - 2;
/// An upper bound of the node numbers in a workflow.
const MAX_MEMBERS: u64 = 1 << 40;

impl Run {
    /// Returns the index of this run among the children of the fold.
    pub(crate) fn index(&self) -> Index {
        run_index(self.first)
    }

    /// Returns the accumulator and the values, if none of them must be read from the store.
    pub(crate) fn at_hand(&self) -> Option<(Payload, Vec<Payload>)> {
        let here = |value: &Value| match value {
            Value::Inline(payload) => Some(payload.clone()),
            _ => None,
        };
        let values = self.outcomes.iter().map(|outcome| match outcome {
            Outcome::Success(value) if !self.settled => here(value),
            _ => None,
        });
        Some((here(&self.acc)?, values.collect::<Option<_>>()?))
    }
}
