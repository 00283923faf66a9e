//! Groups, chords and folds that are revoked at any point of their lives; the marks; the answers.

use super::*;
use crate::canvas::Order;
use crate::canvas::machine::fold::{Fold, Intake};
use crate::canvas::machine::fold_run::run_index;
use crate::canvas::revocation::{Revocations, answer, node_key};
use crate::canvas::revoke_outcome::RevokeOutcome;

/// A group or chord that is revoked when some of its members have arrived.
struct Revoked {
    barrier: Barrier,
    supervisor: Box<dyn Supervise>,
    alive: BTreeSet<Index>,
    revoked: bool,
    /// How often it has finished as revoked.
    ends: u32,
}

impl Revoked {
    fn open(spec: &Spec) -> Self {
        let none = IndexSet::new(spec.size);
        let (supervisor, effects) = match spec.chord {
            true => {
                let (chord, effects) = Chord::recover(none, spec.window);
                (Box::new(chord) as Box<dyn Supervise>, effects)
            }
            false => {
                let (group, effects) = Group::recover(none, spec.window);
                (Box::new(group) as Box<dyn Supervise>, effects)
            }
        };
        let mut group = Self {
            barrier: Barrier::new(spec.size, all_or_settled(spec.settled)),
            supervisor,
            alive: BTreeSet::new(),
            revoked: false,
            ends: 0,
        };
        group.perform(effects);
        group
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start(ChildStart::Member(index)) => {
                    assert!(!self.revoked, "{index} starts");
                    self.alive.insert(index);
                }
                Effect::Finish(finish) if *finish == Finish::Revoked => {
                    assert!(self.revoked && self.alive.is_empty(), "{:?}", self.alive);
                    self.ends += 1;
                }
                // An effect from before it was revoked has been carried out already.
                _ => assert!(!self.revoked, "{effect:?}"),
            }
        }
    }

    fn revoke(&mut self) {
        self.revoked = true;
        let effects = self.supervisor.revoked();
        self.perform(effects);
    }

    fn decided(&mut self, verdict: Verdict) {
        let effects = self.supervisor.decided(Decision::Complete(verdict));
        self.perform(effects);
    }

    /// A member ends; the supervisor is notified of it, and of the verdict only if `is_notified`.
    fn arrive(&mut self, index: Index, outcome: Outcome, is_notified: bool) {
        self.alive.remove(&index);
        let commands = self.barrier.arrive(index, outcome.into());
        let verdict = commands.into_iter().find_map(|command| match command {
            barrier::Command::Notify(Decision::Complete(verdict)) => Some(verdict),
            _ => None,
        });
        for _ in 0..2 {
            let effects = self.supervisor.child_exited(index, false);
            self.perform(effects);
        }
        if let Some(verdict) = verdict.filter(|_| is_notified) {
            self.decided(verdict);
        }
    }
}

#[test]
fn a_group_revoked_at_any_point_starts_no_other_member_and_ends_when_the_last_has() {
    let mut trials = 0;
    for spec in Spec::all(4).filter(|spec| spec.size > 0) {
        for after in 0..spec.size {
            for is_notified in [true, false] {
                let mut group = Revoked::open(&spec);
                for _ in 0..after {
                    let next = spec.order.iter().find(|index| group.alive.contains(index));
                    let next = *next.expect("one is alive until all have ended");
                    group.arrive(next, spec.outcome(next), true);
                }
                for _ in 0..2 {
                    group.revoke();
                }
                assert_eq!(group.ends, 0, "{after} of {spec:?}");
                for index in spec.order.iter().rev() {
                    if group.alive.contains(index) {
                        let outcome = Outcome::Revoked(failure(*index));
                        group.arrive(*index, outcome, is_notified);
                        group.revoke();
                    }
                }
                assert_eq!(group.ends, 1, "{after} of {spec:?}");
                trials += 1;
            }
        }
    }
    assert!(trials > 10_000, "{trials}");
}

#[test]
fn a_group_whose_verdict_is_on_its_way_is_revoked_with_it() {
    for chord in [false, true] {
        let spec = Spec {
            size: 0,
            window: 1,
            settled: false,
            fails: 0,
            chord,
            order: Vec::new(),
            exits_first: false,
        };
        let mut group = Revoked::open(&spec);
        group.revoke();
        group.revoke();
        assert_eq!(group.ends, 1);
        group.revoked = false;
        group.decided(Verdict::Released);
        assert_eq!(group.ends, 1);
    }
}

#[test]
fn a_fold_revoked_at_any_point_ends_when_its_members_and_its_run_have() {
    for size in 1..=4 {
        for window in 1..=size {
            for after in 0..size {
                for run_ends_first in [true, false] {
                    let intake = Intake::new(Order::Members, false, size, value(0));
                    let (mut machine, mut effects) = Fold::recover(intake, window);
                    let mut alive = BTreeSet::new();
                    let mut runs: Option<u64> = None;
                    let perform = |effects: &mut Vec<Effect>,
                                   alive: &mut BTreeSet<Index>,
                                   runs: &mut Option<u64>| {
                        for effect in effects.drain(..) {
                            match effect {
                                Effect::Start(ChildStart::Member(index)) => {
                                    alive.insert(index);
                                }
                                Effect::Start(ChildStart::Run(run, _)) => *runs = Some(run.first),
                                other => panic!("unexpected {other:?}"),
                            }
                        }
                    };
                    perform(&mut effects, &mut alive, &mut runs);
                    // The first run runs all the time.
                    for _ in 0..after {
                        let index = alive.pop_first().expect("one is alive");
                        effects = machine.member_arrived(index, Outcome::Success(value(index)));
                        effects.extend(machine.child_exited(index, false));
                        perform(&mut effects, &mut alive, &mut runs);
                    }
                    assert_eq!(machine.revoked(), []);
                    assert_eq!(machine.revoked(), []);
                    let end = || Outcome::Revoked(failure(9)).into();
                    let revoked = || Effect::finish(Finish::Revoked);
                    let mut effects_after = Vec::new();
                    if let Some(first) = runs.filter(|_| run_ends_first) {
                        effects_after.extend(machine.child_ended(run_index(first), end()));
                    }
                    for index in alive {
                        effects_after.extend(machine.child_exited(index, false));
                        effects_after.extend(machine.child_exited(index, false));
                    }
                    if let Some(first) = runs.filter(|_| !run_ends_first) {
                        assert!(!effects_after.contains(&revoked()), "its run has not ended");
                        effects_after.extend(machine.child_ended(run_index(first), end()));
                        effects_after.extend(machine.child_ended(run_index(first), end()));
                    }
                    effects_after.retain(|effect| !matches!(effect, Effect::Record(_)));
                    assert_eq!(effects_after, [revoked()]);
                    assert_eq!(machine.decided(Decision::Complete(Verdict::Released)), []);
                }
            }
        }
    }
}

#[test]
fn a_mark_applies_to_its_node_and_all_below_it_until_its_workflow_has_ended() {
    let root = Id::from(uuid::Uuid::nil());
    let other = Id::next(Some(root), 1, 0);
    let path = |length: u64| (0..length).rev().map(|at| node_key(root.node(at), at));
    for marked in 0..5 {
        let mut revocations = Revocations::default();
        assert!(revocations.is_empty());
        let at = node_key(root.node(marked), marked);
        assert!(revocations.mark(root, at) && !revocations.mark(root, at));
        for length in 0..=marked {
            assert!(!revocations.observe(root, path(length)));
        }
        assert!(!revocations.observe(other, path(5)));
        assert!(!revocations.has_met(root, at));
        assert!(revocations.observe(root, path(marked + 1)));
        assert!(revocations.has_met(root, at));
        assert_eq!(revocations.of(root), [at]);
        assert!(revocations.forget(root) && !revocations.forget(root));
        assert!(revocations.is_empty() && !revocations.observe(root, path(5)));
    }
    assert_eq!(node_key(root, run_index(7)), node_key(root, BODY));
}

#[test]
fn the_answer_follows_the_record() {
    let by_revocation = Outcome::Revoked(TaskFailure::revoked(Id::from(uuid::Uuid::nil()), "t"));
    let own = [
        Outcome::Success(value(1)),
        Outcome::Failure(failure(1)),
        Outcome::Revoked(failure(1)),
    ];
    for is_settled in [false, true] {
        for has_begun in [false, true] {
            for outcome in &own {
                let answered = answer(Some(outcome), has_begun, is_settled);
                assert_eq!(answered, Some(RevokeOutcome::AlreadyDone));
            }
        }
        for outcome in [None, Some(&by_revocation)] {
            assert_eq!(
                answer(outcome, false, is_settled),
                Some(RevokeOutcome::BeforeStart)
            );
            let answered = answer(outcome, true, is_settled);
            assert_eq!(answered, is_settled.then_some(RevokeOutcome::Cancelling));
        }
    }
}
