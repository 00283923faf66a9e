//! The group: materialises its members in a window and ends with the barrier's verdict.

use std::collections::HashMap;

use super::{Index, IndexSet, Verdict};
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
    /// Where to look for the next member.
    next: Index,
    /// Members below it may start.
    limit: Index,
    /// Who is materialised now: a set, because an end may be told twice.
    alive: IndexSet,
    /// Who was lost, and how often: nearly always empty.
    restarts: HashMap<Index, u32>,
    /// Nobody starts any more, and who is materialised is about to end.
    revoked: bool,
    ended: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Materialise this member.
    Spawn(Index),
    /// Start this member's lost actor again, once all it recorded is durable.
    Restart(Index),
    /// Its actor dies each time: count it as failed.
    Abandon(Index),
    /// The group has ended.
    Report(Verdict),
    /// The group is revoked, and nothing of it runs any more.
    Revoke,
}

impl Group {
    /// The group some of whose members have `arrived`.
    pub(crate) fn recover(arrived: IndexSet, window: u64) -> (Self, Vec<Command>) {
        Self::recover_below(arrived, window, Index::MAX)
    }

    /// As [`recover`](Self::recover), of which only members below `limit` start before it is
    /// [raised](Self::raise).
    pub(crate) fn recover_below(
        arrived: IndexSet,
        window: u64,
        limit: Index,
    ) -> (Self, Vec<Command>) {
        assert!(window > 0, "a window of none would never move");
        let mut group = Self {
            window,
            alive: IndexSet::new(arrived.size),
            taken: arrived,
            next: 0,
            limit,
            restarts: HashMap::new(),
            revoked: false,
            ended: false,
        };
        let commands = group.fill();
        (group, commands)
    }

    /// The actor of member `index` is gone; `lost`: before it had reported.
    pub(crate) fn stopped(&mut self, index: Index, lost: bool) -> Vec<Command> {
        if self.ended || !self.alive.contains(index) {
            return Vec::new();
        }
        if lost && !self.revoked {
            let restarts = self.restarts.entry(index).or_default();
            *restarts += 1;
            if *restarts <= MAX_RESTARTS {
                return vec![Command::Restart(index)];
            }
            self.alive.remove(index);
            let mut commands = vec![Command::Abandon(index)];
            commands.extend(self.fill());
            return commands;
        }
        self.alive.remove(index);
        self.fill()
    }

    /// How many members may be materialised from now on.
    pub(crate) fn resize(&mut self, window: u64) {
        self.window = window;
    }

    /// Members below `limit` may start.
    pub(crate) fn raise(&mut self, limit: Index) -> Vec<Command> {
        if limit <= self.limit {
            return Vec::new();
        }
        self.limit = limit;
        self.fill()
    }

    /// The barrier has decided.
    pub(crate) fn decided(&mut self, verdict: Verdict) -> Vec<Command> {
        if std::mem::replace(&mut self.ended, true) {
            return Vec::new();
        }
        match self.revoked {
            true => vec![Command::Revoke],
            false => vec![Command::Report(verdict)],
        }
    }

    /// The group is revoked, or what it is a part of: it does not wait for those that have not
    /// started, a million perhaps.
    pub(crate) fn revoked(&mut self) -> Vec<Command> {
        self.revoked = true;
        self.fill()
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked
    }

    fn fill(&mut self) -> Vec<Command> {
        if self.revoked {
            let is_last = self.alive.len == 0 && !std::mem::replace(&mut self.ended, true);
            return is_last.then_some(Command::Revoke).into_iter().collect();
        }
        let mut commands = Vec::new();
        while self.alive.len < self.window
            && let Some(index) = self.taken.next_missing(self.next)
            && index < self.limit
        {
            self.taken.insert(index);
            self.next = index + 1;
            self.alive.insert(index);
            commands.push(Command::Spawn(index));
        }
        commands
    }
}

/// What group `id` gives: the list of its members' values, or the failure the verdict names, as a
/// chord's if something needs the list.
pub(crate) fn outcome(id: Id, followed: bool, verdict: Verdict, list: Value) -> Outcome {
    match verdict {
        Verdict::Released => Outcome::Success(list),
        Verdict::Broken { failure, .. } if followed => {
            Outcome::Failure(TaskFailure::chord(id, failure))
        }
        Verdict::Broken { failure, .. } => Outcome::Failure(failure),
    }
}
