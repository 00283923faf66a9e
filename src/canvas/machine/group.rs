//! The group: materialises its members in a window and ends with the barrier's verdict.

use std::collections::HashMap;

use super::effect::{ChildStart, Effect, Finish, Supervise};
use super::{Decision, Index, IndexSet, Report, Verdict};
use crate::canvas::id::Id;
use crate::canvas::outcome::{Outcome, TaskFailure, Value};

/// How often a child actor that dies is started again before its member counts as failed.
pub(crate) const MAX_RESTARTS: u32 = 3;

/// Invariant: no more than `window` members are materialised at once, none at or above `limit`.
#[derive(Debug)]
pub(crate) struct Group {
    window: u64,
    /// Members that need no materialising any more: spawned, or recorded as ended.
    taken: IndexSet,
    /// The index from which the next member is looked for.
    next: Index,
    /// Only members below this index may start.
    limit: Index,
    /// The members that are materialised now: a set, because an end may be reported twice.
    alive: IndexSet,
    /// How often the actor of each member was lost: nearly always empty.
    restarts: HashMap<Index, u32>,
    /// No member starts any more, and the materialised members are about to end.
    revoked: bool,
    /// An early verdict: the other members are revoked, and the group ends with it when those that
    /// are materialised have ended.
    verdict: Option<Verdict>,
    ended: bool,
}

impl Group {
    /// Returns the group of which these members need no materialising.
    pub(crate) fn recover(arrived: IndexSet, window: u64) -> (Self, Vec<Effect>) {
        Self::recover_below(arrived, window, Index::MAX)
    }

    /// As [`recover`](Self::recover), but only members below `limit` start until it is
    /// [raised](Self::raise).
    pub(crate) fn recover_below(
        arrived: IndexSet,
        window: u64,
        limit: Index,
    ) -> (Self, Vec<Effect>) {
        assert!(window > 0, "a window of none would never move");
        let mut group = Self {
            window,
            alive: IndexSet::new(arrived.size),
            taken: arrived,
            next: 0,
            limit,
            restarts: HashMap::new(),
            revoked: false,
            verdict: None,
            ended: false,
        };
        let commands = group.fill();
        (group, commands)
    }

    /// Returns whether no other member starts and the group ends with its last materialised one.
    fn is_ending(&self) -> bool {
        self.revoked || self.verdict.is_some()
    }

    fn fill(&mut self) -> Vec<Effect> {
        if self.is_ending() {
            let is_last = self.alive.len == 0 && !std::mem::replace(&mut self.ended, true);
            let end = is_last.then(|| {
                Effect::finish(match self.verdict.take().filter(|_| !self.revoked) {
                    Some(verdict) => Finish::AsBarrier(verdict),
                    None => Finish::Revoked,
                })
            });
            return end.into_iter().collect();
        }
        let mut effects = Vec::new();
        while self.alive.len < self.window
            && let Some(index) = self.taken.next_missing(self.next)
            && index < self.limit
        {
            self.taken.insert(index);
            self.next = index + 1;
            self.alive.insert(index);
            effects.push(Effect::member(index));
        }
        effects
    }

    /// Lets members below `limit` start.
    pub(crate) fn raise(&mut self, limit: Index) -> Vec<Effect> {
        if limit <= self.limit || self.is_ending() {
            return Vec::new();
        }
        self.limit = limit;
        self.fill()
    }
}

impl Supervise for Group {
    /// Does nothing: members report to the barrier, and a group has no other children.
    fn child_ended(&mut self, _: Index, _: Report) -> Vec<Effect> {
        Vec::new()
    }

    fn child_exited(&mut self, index: Index, lost: bool) -> Vec<Effect> {
        if self.ended || !self.alive.contains(index) {
            return Vec::new();
        }
        if lost && !self.is_ending() {
            let restarts = self.restarts.entry(index).or_default();
            *restarts += 1;
            if *restarts <= MAX_RESTARTS {
                return vec![Effect::Restart(index)];
            }
            self.alive.remove(index);
            let mut effects = vec![Effect::Abandon(index)];
            effects.extend(self.fill());
            return effects;
        }
        self.alive.remove(index);
        self.fill()
    }

    fn resize(&mut self, window: u64) {
        self.window = window;
    }

    fn decided(&mut self, decision: Decision) -> Vec<Effect> {
        if self.verdict.is_some() || self.ended {
            return Vec::new();
        }
        match decision {
            Decision::Early(verdict) => {
                self.verdict = Some(verdict);
                self.fill()
            }
            Decision::Complete(verdict) => {
                self.ended = true;
                match self.revoked {
                    true => vec![Effect::finish(Finish::Revoked)],
                    false => vec![Effect::finish(Finish::AsBarrier(verdict))],
                }
            }
        }
    }

    /// Does not wait for members that have not started: there may be a million.
    fn revoked(&mut self) -> Vec<Effect> {
        self.revoked = true;
        self.fill()
    }

    fn running_child(&self, index: Index) -> Option<ChildStart> {
        Some(ChildStart::Member(index))
    }
}

/// Returns the outcome of group `id`: the list of its members' values, or the failure that the
/// verdict names; as a chord's failure if another node needs the list.
pub(crate) fn outcome(id: Id, followed: bool, verdict: Verdict, list: Value) -> Outcome {
    match verdict {
        Verdict::Released => Outcome::Success(list),
        Verdict::Broken { failure, .. } if followed => {
            Outcome::Failure(TaskFailure::chord(id, failure))
        }
        Verdict::Broken { failure, .. } => Outcome::Failure(failure),
    }
}
