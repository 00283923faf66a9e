//! A task's subtasks: what the task calls, adds to its chord, or is replaced by.

use super::group::MAX_RESTARTS;
use super::{ChildProgress, Index, PendingCallback, Purpose, Record, Report};
use crate::canvas::freeze::SubtaskPlan;
use crate::canvas::outcome::Outcome;

/// Invariant: within one purpose, a key identifies one child, however often the task uses it: an
/// attempt after a crash reuses the children of the attempt before it.
#[derive(Debug, Default)]
pub(crate) struct Subtasks {
    /// By index.
    children: Vec<Subtask>,
    /// How many children have not ended, not counting a replacement.
    open: usize,
}

#[derive(Debug)]
struct Subtask {
    purpose: Purpose,
    key: String,
    outcome: Option<Outcome>,
    restarts: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Number the child, record it, start it.
    Start {
        index: Index,
        purpose: Purpose,
        key: String,
        plan: SubtaskPlan,
    },
    Record(Record),
    /// Record these callbacks and run them.
    Launch(Vec<PendingCallback>),
    /// Start a recorded child.
    Spawn(Index),
    /// Restart the lost actor of this child, once everything it recorded is durable.
    Restart(Index),
    /// Give this child up: its actor has died too often.
    Abandon(Index),
    /// Answer the call that waits for this child, once the child's outcome is durable.
    Answer(Index, Outcome),
}

impl Subtasks {
    /// Restores the children from the task's stream; the ones that have not ended are to be
    /// started.
    pub(crate) fn recover<'a>(
        records: impl IntoIterator<Item = &'a Record>,
    ) -> (Self, Vec<Command>) {
        let mut subtasks = Self::default();
        for record in records {
            match record {
                Record::Offspring { purpose, key, .. } => {
                    subtasks.push(*purpose, key.clone());
                }
                Record::Child {
                    index,
                    change: ChildProgress::Done(outcome),
                } => {
                    if let Some(child) = subtasks.children.get_mut(*index as usize)
                        && child.outcome.is_none()
                    {
                        child.outcome = Some(outcome.clone());
                        subtasks.open -= 1;
                    }
                }
                _ => {}
            }
        }
        let open = |(index, child): (usize, &Subtask)| {
            let is_open = child.outcome.is_none();
            is_open.then_some(Command::Spawn(index as Index))
        };
        let commands = subtasks.children.iter().enumerate().filter_map(open);
        let commands = commands.collect();
        (subtasks, commands)
    }

    /// Finds or adds the child with this purpose and key; returns its index.
    pub(crate) fn name(
        &mut self,
        purpose: Purpose,
        key: &str,
        plan: SubtaskPlan,
    ) -> (Index, Vec<Command>) {
        let known = self
            .children
            .iter()
            .position(|child| child.purpose == purpose && child.key == key);
        if let Some(index) = known {
            let ended = self.children[index].outcome.clone();
            let index = index as Index;
            let answer = ended.map(|outcome| Command::Answer(index, outcome));
            return (index, answer.into_iter().collect());
        }
        let index = self.children.len() as Index;
        self.push(purpose, key.to_owned());
        let start = Command::Start {
            index,
            purpose,
            key: key.to_owned(),
            plan,
        };
        (index, vec![start])
    }

    /// Handles the end of child `index`, which is not a replacement.
    pub(crate) fn ended(&mut self, index: Index, report: Report) -> Vec<Command> {
        let Some(child) = self.children.get_mut(index as usize) else {
            return Vec::new();
        };
        if child.outcome.is_some() {
            return Vec::new();
        }
        child.outcome = Some(report.outcome.clone());
        self.open -= 1;
        let mut commands = vec![Command::Record(Record::Child {
            index,
            change: ChildProgress::Done(report.outcome.clone()),
        })];
        if !report.due.is_empty() {
            commands.push(Command::Launch(report.due));
        }
        commands.push(Command::Answer(index, report.outcome));
        commands
    }

    /// Handles the exit of the actor of child `index`. `lost`: the actor exited before it reported.
    pub(crate) fn stopped(&mut self, index: Index, lost: bool) -> Vec<Command> {
        match self.children.get_mut(index as usize) {
            Some(child) if lost && child.outcome.is_none() => {
                child.restarts += 1;
                if child.restarts <= MAX_RESTARTS {
                    vec![Command::Restart(index)]
                } else {
                    vec![Command::Abandon(index)]
                }
            }
            _ => Vec::new(),
        }
    }

    pub(crate) fn purpose(&self, index: Index) -> Option<Purpose> {
        self.children.get(index as usize).map(|child| child.purpose)
    }

    pub(crate) fn has_replacement(&self) -> bool {
        let mut purposes = self.children.iter().map(|child| child.purpose);
        purposes.any(|purpose| purpose == Purpose::Replacement)
    }

    /// Returns whether a call or an addition has not ended.
    pub(crate) fn is_open(&self) -> bool {
        self.open > 0
    }

    /// Returns the outcomes of the additions, in order.
    pub(crate) fn additions(&self) -> impl Iterator<Item = &Outcome> {
        self.children
            .iter()
            .filter(|child| child.purpose == Purpose::Addition)
            .filter_map(|child| child.outcome.as_ref())
    }

    fn push(&mut self, purpose: Purpose, key: String) {
        self.open += usize::from(purpose != Purpose::Replacement);
        self.children.push(Subtask {
            purpose,
            key,
            outcome: None,
            restarts: 0,
        });
    }
}
