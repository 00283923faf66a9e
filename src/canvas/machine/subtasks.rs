//! A task's own children: what it calls, adds to its chord, or is replaced by.

use super::group::MAX_RESTARTS;
use super::{ChildProgress, Index, PendingCallback, Purpose, Record, Report};
use crate::canvas::freeze::Node;
use crate::canvas::outcome::Outcome;

/// Invariant: a key of one purpose stands for one child, however often the task names it: an
/// attempt after a crash finds what the one before it had started.
#[derive(Debug, Default)]
pub(crate) struct Subtasks {
    /// By index.
    children: Vec<Subtask>,
    /// How many have not ended; a replacement is not among them.
    open: usize,
}

#[derive(Debug)]
struct Subtask {
    purpose: Purpose,
    key: String,
    outcome: Option<Outcome>,
    restarts: u32,
}

/// A canvas that becomes a child: frozen, and numbered from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubtaskPlan {
    pub(crate) node: Box<Node>,
    /// How many numbers it takes.
    pub(crate) span: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Number it, record it, start it.
    Start {
        index: Index,
        purpose: Purpose,
        key: String,
        graft: SubtaskPlan,
    },
    Record(Record),
    /// Record these and run them.
    Launch(Vec<PendingCallback>),
    /// Start a child that is on record.
    Spawn(Index),
    /// Start this child's lost actor again, once all it recorded is durable.
    Restart(Index),
    /// Its actor dies each time.
    Abandon(Index),
    /// Tell the call that waits for this child, once its outcome is durable.
    Answer(Index, Outcome),
}

impl Subtasks {
    /// The children as the task's stream left them: those that have not ended go on.
    pub(crate) fn recover<'a>(
        records: impl IntoIterator<Item = &'a Record>,
    ) -> (Self, Vec<Command>) {
        let mut offspring = Self::default();
        for record in records {
            match record {
                Record::Offspring { purpose, key, .. } => {
                    offspring.push(*purpose, key.clone());
                }
                Record::Child {
                    index,
                    change: ChildProgress::Done(outcome),
                } => {
                    if let Some(child) = offspring.children.get_mut(*index as usize)
                        && child.outcome.is_none()
                    {
                        child.outcome = Some(outcome.clone());
                        offspring.open -= 1;
                    }
                }
                _ => {}
            }
        }
        let open = |(index, child): (usize, &Subtask)| {
            let unended = child.outcome.is_none();
            unended.then_some(Command::Spawn(index as Index))
        };
        let commands = offspring.children.iter().enumerate().filter_map(open);
        let commands = commands.collect();
        (offspring, commands)
    }

    /// The task names a child; returns its index.
    pub(crate) fn name(
        &mut self,
        purpose: Purpose,
        key: &str,
        graft: SubtaskPlan,
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
        let adopt = Command::Start {
            index,
            purpose,
            key: key.to_owned(),
            graft,
        };
        (index, vec![adopt])
    }

    /// Child `index`, which is no replacement, has ended.
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

    /// The actor of child `index` is gone; `lost`: before it had reported.
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

    /// Says whether a call or an addition has not ended.
    pub(crate) fn is_open(&self) -> bool {
        self.open > 0
    }

    /// How the additions ended, in order.
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
