//! Groups, chords and folds with policies: all orders of arrival, each event again and late, a crash
//! after every step. The verdict is compared with one that is counted anew from the records.

use super::*;
use crate::canvas::Order;
use crate::canvas::machine::fold::{Fold, Intake};
use crate::canvas::machine::fold_run::Run;
use crate::canvas::revocation::{Revocations, node_key};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Group,
    Chord,
    Fold,
}

#[derive(Clone, Debug)]
struct Spec {
    size: u64,
    window: u64,
    policy: GroupPolicy,
    form: Form,
    /// Bit `i`: member `i` fails.
    fails: u64,
    /// The order in which members arrive, of those that are alive.
    order: Vec<Index>,
    /// The supervisor is notified of a member's exit before it receives the barrier's decision.
    exits_first: bool,
}

impl Spec {
    /// All of them, for groups of up to `max` members.
    fn all(max: u64) -> impl Iterator<Item = Self> {
        let forms = [Form::Group, Form::Chord, Form::Fold];
        let each = forms.into_iter().flat_map(move |form| {
            (0..=max).flat_map(move |size| {
                let policies = policies(size, form);
                policies.into_iter().map(move |policy| (form, size, policy))
            })
        });
        each.flat_map(|(form, size, policy)| {
            permutations(size).into_iter().flat_map(move |order| {
                (0..1u64 << size).flat_map(move |fails| {
                    let order = order.clone();
                    let windows: BTreeSet<u64> = [1, 2, size.max(1)].into();
                    windows.into_iter().flat_map(move |window| {
                        let order = order.clone();
                        [false, true].map(|exits_first| Self {
                            size,
                            window,
                            policy,
                            form,
                            fails,
                            order: order.clone(),
                            exits_first,
                        })
                    })
                })
            })
        })
    }

    fn has_failed(&self, index: Index) -> bool {
        self.fails & (1 << index) != 0
    }

    fn outcome(&self, index: Index) -> Outcome {
        match self.has_failed(index) {
            true => Outcome::Failure(failure(index)),
            false => Outcome::Success(value(index)),
        }
    }

    /// Returns the verdict once these members have arrived, if there is one by then.
    fn verdict(&self, arrived: &[Index]) -> Option<Verdict> {
        let failed: Vec<_> = arrived.iter().filter(|i| self.has_failed(**i)).collect();
        let succeeded = (arrived.len() - failed.len()) as u64;
        let are_all = arrived.len() as u64 == self.size;
        let is_released = match self.policy {
            GroupPolicy::FailFast => match (failed.is_empty(), are_all) {
                (true, false) => return None,
                (is_released, _) => is_released,
            },
            GroupPolicy::First(k) => {
                let can_succeed = self.size - failed.len() as u64;
                match (succeeded == k, can_succeed < k) {
                    (false, false) => return None,
                    (is_released, _) => is_released,
                }
            }
            GroupPolicy::AtLeast(_) if !are_all => return None,
            GroupPolicy::AtLeast(k) => succeeded >= k,
            GroupPolicy::All | GroupPolicy::Settled => unreachable!("no policy of these tests"),
        };
        Some(match (is_released, failed.into_iter().min()) {
            (false, Some(index)) => Verdict::Broken {
                index: *index,
                failure: failure(*index),
            },
            _ => Verdict::Released,
        })
    }
}

/// The policies of a group with so many members.
fn policies(size: u64, form: Form) -> Vec<GroupPolicy> {
    let mut all = vec![GroupPolicy::FailFast];
    if form != Form::Fold {
        all.extend((1..=size).flat_map(|k| [GroupPolicy::First(k), GroupPolicy::AtLeast(k)]));
    }
    all
}

/// One life, over the records of earlier lives.
#[derive(Debug)]
struct World<'a> {
    spec: &'a Spec,
    barrier: Barrier,
    supervisor: Box<dyn Supervise>,
    /// What each event recorded: one batch at least, so never cut.
    batches: Vec<Vec<Record>>,
    alive: BTreeSet<Index>,
    /// The verdict was on record before this life.
    was_decided: bool,
    revoked_rest: bool,
    bodies: u32,
    run: Option<Run>,
    finishes: Vec<Finish>,
}

impl<'a> World<'a> {
    fn open(spec: &'a Spec, batches: Vec<Vec<Record>>) -> Self {
        let mut barrier = Barrier::new(spec.size, spec.policy);
        let mut intake = Intake::new(Order::Members, false, spec.size, value(0));
        let mut was_decided = false;
        for record in batches.iter().flatten() {
            barrier.replay(record);
            intake.replay(record.clone());
            was_decided |= matches!(record, Record::Verdict(_));
        }
        let taken = barrier.taken();
        let (supervisor, effects) = match spec.form {
            Form::Group => boxed(Group::recover(taken, spec.window)),
            Form::Chord => boxed(Chord::recover(taken, spec.window)),
            Form::Fold => boxed(Fold::recover(intake, spec.window)),
        };
        let mut world = Self {
            spec,
            barrier,
            supervisor,
            batches,
            alive: BTreeSet::new(),
            was_decided,
            revoked_rest: false,
            bodies: 0,
            run: None,
            finishes: Vec::new(),
        };
        world.supervise(effects);
        let commands = world.barrier.start();
        let decision = world.record(commands);
        world.decided(decision);
        world
    }

    fn is_decided(&self) -> bool {
        let mut records = self.batches.iter().flatten();
        records.any(|record| matches!(record, Record::Verdict(_)))
    }

    /// Members arrive in the order of the spec; after each, all earlier events come again. Those that
    /// run at an early verdict report that they are revoked, in the reverse order.
    fn run(&mut self) {
        loop {
            self.end_run();
            let order = self.spec.order.iter();
            let next = match self.is_decided() {
                false => order.copied().find(|index| self.alive.contains(index)),
                true => self.alive.last().copied(),
            };
            let Some(index) = next else { break };
            if self.is_decided() {
                assert!(self.revoked_rest, "{index} runs on: {:?}", self.spec);
                assert_eq!((self.bodies, self.finishes.len()), (0, 0), "{index} runs");
                let revoked = report(Outcome::Revoked(failure(index)));
                assert_eq!(self.barrier.arrive(index, revoked), []);
                self.alive.remove(&index);
                self.exited(index, index.is_multiple_of(2));
            } else {
                self.arrive(index);
            }
            self.repeat();
        }
        if self.bodies > 0 {
            let end = report(Outcome::Success(value(99)));
            let effects = self.supervisor.child_ended(BODY, end);
            self.supervise(effects);
        }
    }

    fn arrive(&mut self, index: Index) {
        let outcome = self.spec.outcome(index);
        let commands = self.barrier.arrive(index, report(outcome.clone()));
        let decision = self.record(commands);
        self.alive.remove(&index);
        if self.spec.form == Form::Fold {
            let effects = self.supervisor.member_arrived(index, outcome);
            self.supervise(effects);
        }
        if self.spec.exits_first {
            self.exited(index, false);
        }
        self.decided(decision);
        if !self.spec.exits_first {
            self.exited(index, false);
        }
    }

    /// The function of the fold returns.
    fn end_run(&mut self) {
        while let Some(run) = self.run.take() {
            let end = report(Outcome::Success(value(0)));
            let effects = self.supervisor.child_ended(run.index(), end);
            self.supervise(effects);
        }
    }

    fn repeat(&mut self) {
        let before = (self.bodies, self.finishes.len());
        for index in 0..self.spec.size + 2 {
            if !self.alive.contains(&index) && self.barrier.arrived().contains(index) {
                let again = report(Outcome::Failure(failure(77)));
                assert_eq!(
                    self.barrier.arrive(index, again),
                    [],
                    "{index} arrived twice"
                );
                self.exited(index, false);
            }
        }
        if self.is_decided() {
            for verdict in [Verdict::Released, self.verdict()] {
                self.decided(Some(Decision::Early(verdict.clone())));
                self.decided(Some(Decision::Complete(verdict)));
            }
        }
        assert_eq!(
            (self.bodies, self.finishes.len()),
            before,
            "{:?}",
            self.spec
        );
    }

    fn exited(&mut self, index: Index, lost: bool) {
        let effects = self.supervisor.child_exited(index, lost);
        self.supervise(effects);
    }

    fn decided(&mut self, decision: Option<Decision>) {
        let effects = decision.map(|decision| self.supervisor.decided(decision));
        self.supervise(effects.unwrap_or_default());
    }

    /// Stores the records of the barrier as one batch; returns what it has decided.
    fn record(&mut self, commands: Vec<barrier::Command>) -> Option<Decision> {
        let mut batch = Vec::new();
        let mut decided = None;
        for command in commands {
            match command {
                barrier::Command::Record(record) => batch.push(record),
                barrier::Command::Launch(_) => unreachable!("no callbacks here"),
                barrier::Command::RevokeRest => self.revoked_rest = true,
                barrier::Command::Notify(decision) => decided = Some(decision),
            }
        }
        if !batch.is_empty() {
            self.batches.push(batch);
        }
        let is_early = matches!(decided, Some(Decision::Early(_)));
        assert_eq!(
            is_early, self.revoked_rest,
            "the rest is revoked with the decision"
        );
        decided
    }

    fn supervise(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            assert!(self.finishes.is_empty(), "{effect:?} after the end");
            match effect {
                Effect::Start(ChildStart::Member(index)) => {
                    assert!(!self.was_decided, "{index} starts after the verdict");
                    // (Until the supervisor is told, one more may start: it finds out that it is revoked.)
                    assert!(
                        self.spec.exits_first || !self.is_decided(),
                        "{index} starts"
                    );
                    assert!(!self.barrier.arrived().contains(index));
                    assert!(self.alive.insert(index), "{index} twice");
                }
                Effect::Start(ChildStart::Body) => {
                    assert!(
                        self.alive.is_empty(),
                        "{:?} run beside the body",
                        self.alive
                    );
                    assert!(self.is_decided(), "the body came too early");
                    self.bodies += 1;
                }
                Effect::Start(ChildStart::Run(run, _)) => self.run = Some(*run),
                Effect::KeepAccumulator { folded, acc } => {
                    self.supervisor.set_accumulator(acc.clone());
                    self.batches.push(vec![Record::Folded { folded, acc }]);
                }
                Effect::Finish(finish) => {
                    assert!(self.alive.is_empty(), "{:?} run after the end", self.alive);
                    self.finishes.push(*finish);
                }
                other => panic!("unexpected {other:?}"),
            }
            let alive = self.alive.len() as u64;
            assert!(
                alive <= self.spec.window,
                "{alive} alive in {:?}",
                self.spec
            );
        }
    }

    /// The verdict on record.
    fn verdict(&self) -> Verdict {
        let verdicts = self
            .batches
            .iter()
            .flatten()
            .filter_map(|record| match record {
                Record::Verdict(verdict) => Some(verdict),
                _ => None,
            });
        let verdicts: Vec<_> = verdicts.collect();
        assert_eq!(verdicts.len(), 1, "{:?}", self.spec);
        verdicts[0].clone()
    }

    fn check(&self) {
        let spec = self.spec;
        let verdict = self.verdict();
        let mut arrived = Vec::new();
        for batch in &self.batches {
            let decides = batch
                .iter()
                .any(|record| matches!(record, Record::Verdict(_)));
            for record in batch {
                if let Record::Child { index, change } = record {
                    assert_eq!(
                        spec.verdict(&arrived),
                        None,
                        "{index} came after the verdict"
                    );
                    assert_eq!(*change, ChildProgress::Done(spec.outcome(*index)));
                    assert!(!arrived.contains(index));
                    arrived.push(*index);
                }
            }
            if decides {
                let is_alone = spec.size == 0 && batch.len() == 1;
                assert!(
                    batch.len() == 2 || is_alone,
                    "the last arrival and the verdict"
                );
                assert_eq!(spec.verdict(&arrived), Some(verdict.clone()), "{spec:?}");
            }
        }
        let is_released = verdict == Verdict::Released;
        let bodies = spec.form == Form::Chord && is_released;
        assert_eq!(self.bodies, u32::from(bodies), "{spec:?}");
        let [finish] = &self.finishes[..] else {
            panic!("{:?} of {spec:?}", self.finishes)
        };
        let is_right = match (spec.form, verdict, finish) {
            (Form::Group, verdict, Finish::AsBarrier(told)) => verdict == *told,
            (Form::Chord, Verdict::Released, Finish::AsLastChild(_))
            | (Form::Fold, Verdict::Released, Finish::WithAccumulator) => true,
            (
                Form::Chord | Form::Fold,
                Verdict::Broken { failure, .. },
                Finish::BrokenHeader(told),
            ) => failure == *told,
            _ => false,
        };
        assert!(is_right, "{finish:?} of {spec:?}");
    }
}

fn boxed<M: Supervise + 'static>(
    (machine, effects): (M, Vec<Effect>),
) -> (Box<dyn Supervise>, Vec<Effect>) {
    (Box::new(machine), effects)
}

#[test]
fn every_order_of_arrival_and_a_crash_after_any_step_ends_in_the_verdict_of_the_policy() {
    let mut worlds = 0;
    for spec in Spec::all(4) {
        let mut whole = World::open(&spec, Vec::new());
        whole.run();
        whole.check();
        for kept in 0..=whole.batches.len() {
            let mut again = World::open(&spec, whole.batches[..kept].to_vec());
            again.run();
            again.check();
            worlds += 1;
        }
    }
    assert!(worlds > 50_000, "{worlds}");
}

#[test]
fn a_verdict_on_record_is_the_same_in_every_later_life() {
    for spec in Spec::all(3) {
        let mut first = World::open(&spec, Vec::new());
        first.run();
        // In the second life members arrive in the reverse order.
        let mut turned = spec.clone();
        turned.order.reverse();
        for kept in 0..=first.batches.len() {
            let mut second = World::open(&turned, first.batches[..kept].to_vec());
            second.run();
            second.check();
            for kept in kept..=second.batches.len() {
                let mut third = World::open(&spec, second.batches[..kept].to_vec());
                let was_decided = third.was_decided;
                third.run();
                third.check();
                if was_decided {
                    assert_eq!(third.verdict(), second.verdict());
                }
            }
        }
    }
}

#[test]
fn a_group_that_is_revoked_after_an_early_verdict_ends_as_revoked() {
    for form in [Form::Group, Form::Chord, Form::Fold] {
        let spec = Spec {
            size: 3,
            window: 3,
            policy: GroupPolicy::FailFast,
            form,
            fails: 1,
            order: vec![0, 1, 2],
            exits_first: true,
        };
        let mut world = World::open(&spec, Vec::new());
        world.arrive(0);
        let effects = world.supervisor.revoked();
        world.supervise(effects);
        for index in [1, 2] {
            assert_eq!(world.finishes, [], "{index} runs");
            world.alive.remove(&index);
            world.exited(index, false);
        }
        assert_eq!(world.finishes, [Finish::Revoked]);
    }
}

#[test]
fn members_that_are_left_out_are_revoked_with_all_below_them_and_nothing_else_is() {
    let root = Id::from(uuid::Uuid::nil());
    let other = Id::next(Some(root), 1, 0);
    let above = node_key(root, 0);
    let member = node_key(root.node(3), 7);
    let below = node_key(root.node(11), 0);
    let body = node_key(root.node(3), BODY);
    let mut revocations = Revocations::default();
    revocations.leave_out_rest(root, 3);
    assert!(!revocations.is_empty());
    assert!(revocations.observe(root, [member, above]));
    assert!(revocations.observe(root, [below, member, above]));
    assert!(
        !revocations.observe(root, [below, body, above]),
        "the body runs"
    );
    assert!(!revocations.observe(root, [above]));
    assert!(!revocations.observe(other, [member, above]));
    assert!(revocations.of(root).is_empty(), "no node is marked");
    revocations.mark(root, above);
    assert!(revocations.observe(root, [body, above]));
    revocations.forget_left_out(root, 4);
    revocations.forget_left_out(root, 3);
    assert!(revocations.forget(root) && revocations.is_empty());
    revocations.leave_out_rest(root, 3);
    revocations.forget_left_out(root, 3);
    assert!(
        revocations.is_empty(),
        "nothing is kept of a group that has ended"
    );
}

#[test]
fn a_set_of_all_indices_is_as_if_each_was_added() {
    for size in [0, 1, 63, 64, 65, 200] {
        let mut each = IndexSet::new(size);
        (0..size).for_each(|index| assert!(each.insert(index)));
        assert_eq!(each, IndexSet::full(size));
        assert_eq!((each.missing(), IndexSet::new(size).missing()), (0, size));
        assert_eq!(each.next_missing(0), None);
    }
}
