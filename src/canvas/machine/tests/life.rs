//! The task's machine with all its events: waits, retries, expiry, calls, additions, replacement.
//! All interleavings of a few events, each event repeated and a crash after any.

use super::*;
use crate::canvas::freeze::SubtaskPlan;
use crate::canvas::machine::{Purpose, subtasks};
use crate::canvas::options::When;
use crate::canvas::time::{Moment, Scale, Time};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Granted,
    Woken,
    /// Three milliseconds pass.
    Tick,
    Succeeds,
    Fails,
    /// The task asks for another attempt, with other arguments.
    Asks,
    Becomes,
    Calls,
    Adds,
    ChildEnds(Index),
    ChildFails(Index),
    ChildIsLost(Index),
    /// The task is marked as revoked, and the machine is notified.
    Revoke,
    Crash,
    /// A crash that loses the last event's records.
    LosingCrash,
}
use Event::*;

const ETA_MS: u64 = 2;
const EXPIRES_MS: u64 = 5;

#[derive(Clone, Copy, Debug)]
struct Rules {
    timed: bool,
    /// The clock scale of its start and deadline; the other scale is far from it.
    scale: Scale,
    ticks: usize,
    crashes: usize,
    revoked: bool,
    depth: usize,
}

impl Rules {
    /// Returns the time `ms` after the start.
    fn time(self, ms: u64) -> Time {
        const FAR: u64 = 1_000_000;
        match self.scale {
            Scale::Steady => Time {
                steady_ms: ms,
                wall_ms: ms + FAR,
            },
            Scale::Wall => Time {
                steady_ms: ms + FAR,
                wall_ms: ms,
            },
        }
    }
}

/// One task over all sessions: its records, and the state of this session.
#[derive(Debug)]
struct TaskWorld {
    rules: Rules,
    now_ms: u64,
    machine: Task,
    changes: Vec<ChildProgress>,
    own: Vec<Record>,
    /// The lengths of `changes` and `own` before the last event.
    before: (usize, usize),
    /// Whether the record says that the task is revoked, now and before the last event.
    marked: (bool, bool),
    /// Whether no actor has the machine any more.
    gone: bool,
    requested: bool,
    waits: Option<Moment>,
    runs: Option<u32>,
    /// How many additions the running attempt has made.
    added: u32,
    /// The attempts whose function was really called.
    ran: Vec<u32>,
    alive: BTreeSet<Index>,
    ended: Option<Outcome>,
}

fn plan() -> SubtaskPlan {
    SubtaskPlan {
        node: Box::new(due(0).node),
        span: 1,
    }
}

fn expired() -> Outcome {
    Outcome::Revoked(failure(99))
}

fn revoked() -> Outcome {
    let id = Id::from(uuid::Uuid::nil());
    Outcome::Revoked(TaskFailure::revoked(id, "t"))
}

impl TaskWorld {
    fn new(rules: Rules, history: &[Event]) -> Self {
        let schedule = match rules.timed {
            true => Schedule {
                eta: Some(Moment {
                    scale: rules.scale,
                    ms: ETA_MS,
                }),
                expires: Some(Moment {
                    scale: rules.scale,
                    ms: EXPIRES_MS,
                }),
            },
            false => Schedule::default(),
        };
        let (machine, commands) = Task::open(7, policy(), schedule, rules.time(0));
        let mut world = Self {
            rules,
            now_ms: 0,
            machine,
            changes: Vec::new(),
            own: Vec::new(),
            before: (0, 0),
            marked: (false, false),
            gone: false,
            requested: false,
            waits: None,
            runs: None,
            added: 0,
            ran: Vec::new(),
            alive: BTreeSet::new(),
            ended: None,
        };
        world.perform(commands);
        for event in history {
            world.apply(*event);
            world.repeat_events();
        }
        world
    }

    fn time(&self) -> Time {
        self.rules.time(self.now_ms)
    }

    fn possible(&self, history: &[Event]) -> Vec<Event> {
        let times = |of: &[Event]| history.iter().filter(|h| of.contains(h)).count();
        let mut all = Vec::new();
        if self.ended.is_some() {
            return all;
        }
        if self.requested {
            all.push(Granted);
        }
        if self.waits.is_some_and(|at| self.time().has_reached(at)) {
            all.push(Woken);
        }
        if times(&[Tick]) < self.rules.ticks {
            all.push(Tick);
        }
        if self.runs.is_some() {
            all.extend([Succeeds, Fails, Asks, Becomes]);
        }
        if self.runs.is_some() && !self.marked.0 {
            if times(&[Calls]) < 2 {
                all.push(Calls);
            }
            if times(&[Adds]) < 2 {
                all.push(Adds);
            }
        }
        let none_lost = !history.iter().any(|h| matches!(h, ChildIsLost(_)));
        for index in &self.alive {
            all.extend([ChildEnds(*index), ChildFails(*index)]);
            all.extend(none_lost.then_some(ChildIsLost(*index)));
        }
        if self.rules.revoked && !self.marked.0 {
            all.push(Revoke);
        }
        if times(&[Crash, LosingCrash]) < self.rules.crashes {
            all.extend([Crash, LosingCrash]);
        }
        all
    }

    fn apply(&mut self, event: Event) {
        let now = Now {
            time: self.time(),
            random: 0,
        };
        let attempt = self.runs.unwrap_or(0);
        let failing = |retry| AttemptOutcome::Failure {
            counts: false,
            failure: failure(1),
            retry,
        };
        let before = (self.changes.len(), self.own.len());
        let was_marked = self.marked.0;
        let commands = match event {
            Revoke => {
                self.marked.0 = true;
                self.machine.revoked()
            }
            Granted => {
                self.requested = false;
                self.machine.granted(self.time())
            }
            Woken => {
                self.waits = None;
                self.machine.due(self.time())
            }
            Tick => {
                self.now_ms += 3;
                return;
            }
            Succeeds | Fails | Asks | Becomes => {
                self.runs = None;
                let outcome = match event {
                    Succeeds => AttemptOutcome::Value(value(1)),
                    Fails => failing(Retry::Auto),
                    Becomes => AttemptOutcome::Replaced(plan()),
                    _ => failing(Retry::Asked {
                        when: Some(When::In(Duration::ZERO)),
                        args: Some(value(5)),
                        max_retries: None,
                        is_free: false,
                    }),
                };
                self.machine.finished(attempt, outcome, now)
            }
            Calls => self.start_subtask(Purpose::Call, "a"),
            Adds => {
                // Every attempt counts its additions from zero.
                let key = self.added.to_string();
                self.added += 1;
                self.start_subtask(Purpose::Addition, &key)
            }
            ChildEnds(index) => self.child_ends(index, Outcome::Success(value(index))),
            ChildFails(index) => self.child_ends(index, Outcome::Failure(failure(index))),
            ChildIsLost(index) => {
                self.alive.remove(&index);
                let commands = self.machine.child_stopped(index, true);
                let again = task::Command::Child(subtasks::Command::Restart(index));
                assert_eq!(commands, [again], "a lost child is started again");
                self.alive.insert(index);
                return;
            }
            Crash | LosingCrash => {
                if event == LosingCrash {
                    self.changes.truncate(self.before.0);
                    self.own.truncate(self.before.1);
                    self.marked.0 = self.marked.1;
                }
                self.recover();
                return;
            }
        };
        self.before = before;
        self.marked.1 = was_marked;
        self.perform(commands);
    }

    fn start_subtask(&mut self, purpose: Purpose, key: &str) -> Vec<task::Command> {
        let attempt = self.runs.expect("it runs");
        for stale in [attempt - 1, attempt + 1] {
            assert!(
                self.machine
                    .start_subtask(stale, purpose, key, plan())
                    .is_none()
            );
        }
        let (index, commands) = self
            .machine
            .start_subtask(attempt, purpose, key, plan())
            .expect("the attempt runs");
        assert_eq!(self.machine.purpose(index), Some(purpose));
        commands
    }

    fn child_ends(&mut self, index: Index, outcome: Outcome) -> Vec<task::Command> {
        self.alive.remove(&index);
        let mut commands = self.machine.child_ended(index, outcome.into());
        commands.extend(self.machine.child_stopped(index, false));
        commands
    }

    /// Repeats every event late or for another attempt, which must have no effect.
    fn repeat_events(&mut self) {
        if self.gone {
            return;
        }
        let now = Now {
            time: self.time(),
            random: 0,
        };
        if self.marked.0 && self.ended.is_none() {
            assert_eq!(self.machine.revoked(), []);
            let attempt = self.runs.unwrap_or(1);
            let subtask = self
                .machine
                .start_subtask(attempt, Purpose::Call, "late", plan());
            assert!(subtask.is_none(), "it starts something");
        }
        if !self.requested {
            assert_eq!(self.machine.granted(self.time()), []);
        }
        if self.waits.is_none() {
            assert_eq!(self.machine.due(self.time()), []);
        }
        for attempt in 0..9 {
            if self.runs != Some(attempt) {
                for outcome in [
                    AttemptOutcome::Value(value(77)),
                    AttemptOutcome::Replaced(plan()),
                ] {
                    assert_eq!(self.machine.finished(attempt, outcome, now), []);
                }
            }
        }
        for index in 0..9 {
            if !self.alive.contains(&index) {
                let outcome = Outcome::Success(value(77));
                assert_eq!(self.machine.child_ended(index, outcome.into()), []);
                assert_eq!(self.machine.child_stopped(index, false), []);
            }
        }
    }

    fn recover(&mut self) {
        self.alive.clear();
        self.marked.1 = self.marked.0;
        (self.requested, self.waits, self.runs) = (false, None, None);
        if self.marked.0 {
            // The supervisor does not start it.
            self.gone = true;
            return self.end(revoked());
        }
        let (machine, commands) = match self.changes.last() {
            Some(last) => {
                let (last, now) = (last.clone(), self.time());
                Task::recover(7, policy(), self.rules.scale, last, &self.own, now)
            }
            None => {
                let fresh = Self::new(self.rules, &[]);
                self.own.clear();
                self.changes.clone_from(&fresh.changes);
                self.before = (self.changes.len(), 0);
                self.requested = fresh.requested;
                self.waits = fresh.waits;
                (fresh.machine, Vec::new())
            }
        };
        self.machine = machine;
        self.before = (self.changes.len(), self.own.len());
        self.perform(commands);
    }

    /// Returns the task's children and their outcomes.
    fn children(&self) -> impl Iterator<Item = (Purpose, &str, Option<&Outcome>)> {
        self.own.iter().filter_map(|record| match record {
            Record::Offspring {
                index,
                purpose,
                key,
                ..
            } => Some((*purpose, &**key, self.outcome(*index))),
            _ => None,
        })
    }

    fn outcome(&self, of: Index) -> Option<&Outcome> {
        self.own.iter().find_map(|record| match record {
            Record::Child {
                index,
                change: ChildProgress::Done(outcome),
            } if *index == of => Some(outcome),
            _ => None,
        })
    }

    fn has_replacement(&self) -> bool {
        self.children().any(|child| child.0 == Purpose::Replacement)
    }

    fn perform(&mut self, commands: Vec<task::Command>) {
        for command in commands {
            match command {
                task::Command::Request => {
                    assert!(!self.requested, "one slot is enough");
                    self.requested = true;
                }
                task::Command::Record(change) => {
                    let history = match &change {
                        ChildProgress::Started(history) => Some(history),
                        change => change.awaited().map(|(history, _)| history),
                    };
                    if let Some(history) = history {
                        let deadline = self.rules.timed.then_some(EXPIRES_MS);
                        assert_eq!(history.expires_ms, deadline, "the deadline moved");
                    }
                    self.changes.push(change);
                }
                task::Command::Run { attempt, args } => self.run(attempt, args),
                task::Command::WakeAt(at) => self.waits = Some(at),
                task::Command::Park(_) => unreachable!("its arguments decode"),
                task::Command::Report(report) => self.end(report.outcome),
                task::Command::Expire => {
                    assert!(self.rules.timed && self.now_ms >= EXPIRES_MS);
                    self.end(expired());
                }
                task::Command::Cancel { attempt } => {
                    assert!(self.marked.0 && self.runs == Some(attempt));
                }
                task::Command::Revoke => {
                    assert!(self.runs.is_none(), "its function still runs");
                    self.end(revoked());
                }
                task::Command::Child(command) => self.child(command),
            }
        }
    }

    fn run(&mut self, attempt: u32, args: Option<Value>) {
        assert!(!self.marked.0, "it was called though it is revoked");
        assert!(!self.has_replacement(), "a replaced task was called again");
        if self.rules.timed {
            assert!((ETA_MS..EXPIRES_MS).contains(&self.now_ms));
        }
        let Some(ChildProgress::Started(history)) = self.changes.last() else {
            panic!("it runs before that is on record");
        };
        assert_eq!((history.attempt, &history.args), (attempt, &args));
        assert!(history.retries < history.attempt && history.retries <= MAX_RETRIES);
        self.runs = Some(attempt);
        self.added = 0;
        self.ran.push(attempt);
    }

    fn end(&mut self, outcome: Outcome) {
        assert!(self.ended.is_none(), "it ended twice");
        assert_eq!(self.marked.0, outcome == revoked(), "{outcome:?}");
        if self.marked.0 {
            self.ended = Some(outcome);
            return;
        }
        let additions: Vec<_> = self
            .children()
            .filter(|child| child.0 == Purpose::Addition)
            .map(|child| child.2.cloned())
            .collect();
        for addition in &additions {
            assert!(addition.is_some(), "it ended before an addition");
        }
        let failed = additions.iter().flatten().any(|o| o.failure().is_some());
        match &outcome {
            Outcome::Success(value) => {
                assert!(!failed, "an addition failed");
                let extended = matches!(value, Value::Extended { .. });
                assert_eq!(extended, !additions.is_empty());
            }
            Outcome::Failure(_) => {}
            Outcome::Revoked(_) => assert_eq!(outcome, expired()),
        }
        self.ended = Some(outcome);
    }

    fn child(&mut self, command: subtasks::Command) {
        match command {
            subtasks::Command::Start {
                index,
                purpose,
                key,
                ..
            } => {
                assert!(
                    !self.children().any(|c| (c.0, c.1) == (purpose, &*key)),
                    "{purpose:?} {key} was started twice"
                );
                assert_eq!(index as usize, self.children().count());
                self.own.push(Record::Offspring {
                    index,
                    purpose,
                    key,
                    node: None,
                });
                self.alive.insert(index);
            }
            subtasks::Command::Record(record) => self.own.push(record),
            subtasks::Command::Spawn(index) => {
                assert!(self.outcome(index).is_none(), "{index} had ended");
                assert!(self.alive.insert(index), "{index} is alive");
            }
            subtasks::Command::Answer(index, outcome) => {
                assert_eq!(self.outcome(index), Some(&outcome));
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Checks that the task ends if everything that can continue does.
    fn expect_end(&mut self, history: &[Event]) {
        for _ in 0..40 {
            if self.ended.is_some() {
                return;
            }
            let next = if self.requested {
                Granted
            } else if self.waits.is_some_and(|at| self.time().has_reached(at)) {
                Woken
            } else if self.runs.is_some() {
                Succeeds
            } else if let Some(index) = self.alive.first() {
                ChildEnds(*index)
            } else {
                self.now_ms += 1_000;
                continue;
            };
            self.apply(next);
        }
        panic!("it does not end: {history:?}");
    }

    /// Returns the number of different event sequences.
    fn explore(rules: Rules, history: &mut Vec<Event>) -> u64 {
        let mut world = Self::new(rules, history);
        let possible = match history.len() < rules.depth {
            true => world.possible(history),
            false => Vec::new(),
        };
        world.expect_end(history);
        let mut stories = 1;
        for event in possible {
            history.push(event);
            stories += Self::explore(rules, history);
            history.pop();
        }
        stories
    }
}

#[test]
fn a_task_and_its_subtasks_end_once_in_any_interleaving_over_any_crash() {
    let rules = Rules {
        timed: false,
        scale: Scale::Steady,
        ticks: 0,
        crashes: 2,
        revoked: false,
        depth: 6,
    };
    assert!(TaskWorld::explore(rules, &mut Vec::new()) > 10_000);
}

#[test]
fn a_timed_task_runs_only_between_its_time_and_its_deadline_over_any_crash() {
    for scale in [Scale::Steady, Scale::Wall] {
        let rules = Rules {
            timed: true,
            scale,
            ticks: 2,
            crashes: 1,
            revoked: false,
            depth: 7,
        };
        assert!(TaskWorld::explore(rules, &mut Vec::new()) > 1_000);
    }
}

#[test]
fn a_revoked_task_starts_nothing_more_and_ends_revoked_in_any_interleaving_over_any_crash() {
    let rules = Rules {
        timed: false,
        scale: Scale::Steady,
        ticks: 0,
        crashes: 1,
        revoked: true,
        depth: 6,
    };
    let stories = TaskWorld::explore(rules, &mut Vec::new());
    assert!(stories > 10_000, "{stories}");
    let rules = Rules {
        timed: true,
        ticks: 2,
        depth: 7,
        ..rules
    };
    let stories = TaskWorld::explore(rules, &mut Vec::new());
    assert!(stories > 1_000, "{stories}");
}
