//! The circuit of one breaker: decides whether an attempt may start, by how earlier ones ended.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::canvas::breaker::{Breaker, BreakerState};

/// The circuit of one breaker.
///
/// It is *closed* until so many failures are not older than the breaker says; then it is *open*. When
/// that time is over it is *half-open*: the next attempt *probes*, alone. If the probe succeeds, the
/// circuit is closed; if it fails, it is open again; if it says nothing about the service, another
/// attempt probes.
///
/// A start is *granted* to a task with its slot, and its attempt *begins* once its actor has the
/// slot. What was granted before the circuit opened may not begin any more.
///
/// Invariants: at most one attempt probes; none begins while the circuit is open or probed. An
/// attempt that began before the last change of the state decides nothing.
#[derive(Debug)]
pub(crate) struct Circuit {
    breaker: Breaker,
    state: State,
    /// Granted to tasks whose attempts have not begun yet.
    granted: u32,
    /// The number of changes of the state.
    epoch: u64,
}

#[derive(Debug)]
enum State {
    /// The times of the failures that count, oldest first, on the steady scale.
    Closed(VecDeque<u64>),
    /// Open until this time, and half-open from then on.
    Open { until_ms: u64 },
    /// Half-open, and an attempt probes.
    Probed { until_ms: u64 },
}

/// A running attempt: when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttemptEpoch(u64);

/// What the end of an attempt says about the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// It works.
    Success,
    /// It does not.
    Failure,
    /// Nothing: the attempt was revoked or lost, or its function was not called.
    Nothing,
}

/// A circuit as it is stored: times on the steady scale.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredCircuit {
    /// The failures that count, oldest first.
    pub(crate) failures: Vec<u64>,
    /// It is not closed: until when it is open.
    pub(crate) open_until_ms: Option<u64>,
}

impl StoredCircuit {
    /// Returns the state, and how many failures count.
    pub(crate) fn state(&self, breaker: Breaker, now_ms: u64) -> (BreakerState, u32) {
        match self.open_until_ms {
            Some(until_ms) if until_ms > now_ms => (BreakerState::Open, 0),
            Some(_) => (BreakerState::HalfOpen, 0),
            None => {
                let counted = self.failures.iter();
                let counted = counted.filter(|at_ms| counts(**at_ms, breaker, now_ms));
                let count = u32::try_from(counted.count()).unwrap_or(u32::MAX);
                (BreakerState::Closed, count)
            }
        }
    }
}

/// Returns whether a failure is still counted.
fn counts(at_ms: u64, breaker: Breaker, now_ms: u64) -> bool {
    at_ms.saturating_add(breaker.within_ms()) > now_ms
}

impl Circuit {
    pub(crate) fn new(breaker: Breaker) -> Self {
        Self {
            breaker,
            state: State::Closed(VecDeque::new()),
            granted: 0,
            epoch: 0,
        }
    }

    /// Restores a circuit. The attempt that probed is gone with its process, so another one does.
    pub(crate) fn restore(breaker: Breaker, stored: &StoredCircuit, now_ms: u64) -> Self {
        let state = match stored.open_until_ms {
            // (The breaker may have been set to open for a shorter time.)
            Some(until_ms) => State::Open {
                until_ms: until_ms.min(now_ms.saturating_add(breaker.open_for_ms())),
            },
            None => State::Closed(stored.failures.iter().copied().collect()),
        };
        let mut circuit = Self {
            state,
            ..Self::new(breaker)
        };
        // (It may have been set to open at fewer failures: the next one opens it.)
        circuit.forget_old(now_ms);
        circuit
    }

    /// Returns what is to be stored: nothing of a closed circuit without failures.
    pub(crate) fn to_stored(&self) -> Option<StoredCircuit> {
        match &self.state {
            State::Closed(failures) if failures.is_empty() => None,
            State::Closed(failures) => Some(StoredCircuit {
                failures: failures.iter().copied().collect(),
                open_until_ms: None,
            }),
            State::Open { until_ms } | State::Probed { until_ms } => Some(StoredCircuit {
                failures: Vec::new(),
                open_until_ms: Some(*until_ms),
            }),
        }
    }

    /// Returns the earliest time at which a start may be granted, from `now_ms` on, if that depends
    /// on the time alone.
    pub(crate) fn allowed_at(&self, now_ms: u64) -> Option<u64> {
        match self.state {
            State::Closed(_) => Some(now_ms),
            State::Open { until_ms } if until_ms > now_ms => Some(until_ms),
            State::Open { .. } => (self.granted == 0).then_some(now_ms),
            State::Probed { .. } => None,
        }
    }

    /// Grants a start.
    pub(crate) fn grant(&mut self) {
        self.granted += 1;
    }

    /// Notes that a granted start has become an attempt, or will not become one.
    pub(crate) fn settle_grant(&mut self) {
        self.granted -= 1;
    }

    /// Returns whether an attempt may begin now.
    pub(crate) fn may_begin(&self, now_ms: u64) -> bool {
        match self.state {
            State::Closed(_) => true,
            State::Open { until_ms } => until_ms <= now_ms,
            State::Probed { .. } => false,
        }
    }

    /// Begins an attempt, which must [end](Self::end); `None` if it begins although it
    /// [may not](Self::may_begin), so that its end decides nothing.
    pub(crate) fn begin(&mut self, now_ms: u64) -> Option<AttemptEpoch> {
        if !self.may_begin(now_ms) {
            return None;
        }
        if let State::Open { until_ms } = self.state {
            self.change(State::Probed { until_ms });
        }
        Some(AttemptEpoch(self.epoch))
    }

    /// Ends an attempt. Returns whether what is stored changes.
    pub(crate) fn end(&mut self, attempt: AttemptEpoch, evidence: Evidence, now_ms: u64) -> bool {
        if attempt.0 != self.epoch {
            return false;
        }
        let open_until_ms = now_ms.saturating_add(self.breaker.open_for_ms());
        match (&mut self.state, evidence) {
            (State::Closed(failures), Evidence::Failure) => {
                failures.push_back(now_ms);
                self.forget_old(now_ms);
                if let State::Closed(failures) = &self.state
                    && failures.len() >= self.breaker.threshold()
                {
                    self.change(State::Open {
                        until_ms: open_until_ms,
                    });
                }
                true
            }
            (State::Probed { .. }, Evidence::Failure) => {
                self.change(State::Open {
                    until_ms: open_until_ms,
                });
                true
            }
            (State::Probed { .. }, Evidence::Success) => {
                self.change(State::Closed(VecDeque::new()));
                true
            }
            (State::Probed { until_ms }, Evidence::Nothing) => {
                let until_ms = *until_ms;
                self.change(State::Open { until_ms });
                false
            }
            // No attempt begins while it is open.
            (State::Closed(_) | State::Open { .. }, _) => false,
        }
    }

    fn change(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
    }

    fn forget_old(&mut self, now_ms: u64) {
        let breaker = self.breaker;
        if let State::Closed(failures) = &mut self.state {
            failures.retain(|at_ms| counts(*at_ms, breaker, now_ms));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// Opens at the third failure within 100 ms, for 50 ms.
    fn breaker() -> Breaker {
        Breaker::failures(3)
            .within(Duration::from_millis(100))
            .open_for(Duration::from_millis(50))
    }

    /// Runs an attempt that ends at once.
    fn attempt(circuit: &mut Circuit, evidence: Evidence, now_ms: u64) -> bool {
        circuit.grant();
        let attempt = circuit.begin(now_ms).unwrap();
        circuit.settle_grant();
        circuit.end(attempt, evidence, now_ms)
    }

    /// Returns a circuit that opened at 20.
    fn opened() -> Circuit {
        let mut circuit = Circuit::new(breaker());
        for at_ms in [0, 10, 20] {
            assert!(attempt(&mut circuit, Evidence::Failure, at_ms));
        }
        circuit
    }

    fn open_until(circuit: &Circuit) -> Option<u64> {
        circuit.to_stored().and_then(|stored| stored.open_until_ms)
    }

    #[test]
    fn it_opens_at_the_last_failure_of_those_in_the_window() {
        let mut circuit = Circuit::new(breaker());
        assert_eq!(circuit.to_stored(), None);
        for at_ms in [0, 99, 100] {
            attempt(&mut circuit, Evidence::Failure, at_ms);
            // A success between two failures changes nothing.
            assert!(!attempt(&mut circuit, Evidence::Success, at_ms));
        }
        // The first was a window old.
        assert_eq!(circuit.to_stored().unwrap().failures, [99, 100]);
        assert_eq!(circuit.allowed_at(101), Some(101));
        attempt(&mut circuit, Evidence::Failure, 198);
        assert_eq!(open_until(&circuit), Some(248));
        assert!(!circuit.may_begin(247));
        assert_eq!(circuit.allowed_at(247), Some(248));
    }

    #[test]
    fn what_says_nothing_is_no_failure() {
        let mut circuit = Circuit::new(breaker());
        for _ in 0..9 {
            assert!(!attempt(&mut circuit, Evidence::Nothing, 0));
        }
        assert_eq!(circuit.to_stored(), None);
    }

    #[test]
    fn one_attempt_probes_and_a_success_closes() {
        let mut circuit = opened();
        assert_eq!(circuit.begin(69), None);
        assert_eq!(circuit.allowed_at(70), Some(70));
        circuit.grant();
        // Another grant waits for what becomes of this one.
        assert_eq!(circuit.allowed_at(70), None);
        let probe = circuit.begin(70).unwrap();
        circuit.settle_grant();
        assert_eq!((circuit.allowed_at(71), circuit.begin(71)), (None, None));
        assert!(circuit.end(probe, Evidence::Success, 80));
        assert_eq!(circuit.to_stored(), None);
        assert_eq!(circuit.allowed_at(80), Some(80));
        // The failures before the opening are forgotten.
        attempt(&mut circuit, Evidence::Failure, 81);
        assert!(circuit.may_begin(81));
    }

    #[test]
    fn a_probe_that_fails_opens_again() {
        let mut circuit = opened();
        let probe = circuit.begin(75).unwrap();
        assert!(circuit.end(probe, Evidence::Failure, 90));
        assert_eq!(open_until(&circuit), Some(140));
        assert!(!circuit.may_begin(139) && circuit.may_begin(140));
    }

    #[test]
    fn a_probe_that_says_nothing_leaves_the_probe_to_another() {
        let mut circuit = opened();
        let probe = circuit.begin(70).unwrap();
        assert!(!circuit.end(probe, Evidence::Nothing, 71));
        assert_eq!(circuit.allowed_at(71), Some(71));
        let second = circuit.begin(72).unwrap();
        // The first one's end comes twice.
        assert!(!circuit.end(probe, Evidence::Success, 73));
        assert_eq!(circuit.begin(73), None);
        assert!(circuit.end(second, Evidence::Success, 74));
    }

    #[test]
    fn a_grant_that_is_withdrawn_leaves_the_probe_to_another() {
        let mut circuit = opened();
        circuit.grant();
        assert_eq!(circuit.allowed_at(70), None);
        circuit.settle_grant();
        assert_eq!(circuit.allowed_at(70), Some(70));
    }

    #[test]
    fn attempts_that_began_before_a_change_decide_nothing() {
        let mut circuit = Circuit::new(breaker());
        let slow: Vec<_> = (0..5).map(|_| circuit.begin(0).unwrap()).collect();
        for at_ms in [0, 10, 20] {
            attempt(&mut circuit, Evidence::Failure, at_ms);
        }
        assert!(!circuit.end(slow[0], Evidence::Success, 30));
        assert!(!circuit.end(slow[1], Evidence::Failure, 30));
        let probe = circuit.begin(70).unwrap();
        assert!(!circuit.end(slow[2], Evidence::Success, 71));
        assert!(!circuit.end(slow[3], Evidence::Failure, 71));
        assert!(circuit.end(probe, Evidence::Success, 72));
        assert!(!circuit.end(slow[4], Evidence::Failure, 73));
        assert_eq!(circuit.to_stored(), None);
    }

    #[test]
    fn a_start_that_was_granted_before_it_opened_does_not_begin() {
        let mut circuit = Circuit::new(breaker());
        circuit.grant();
        for at_ms in [0, 10, 20] {
            attempt(&mut circuit, Evidence::Failure, at_ms);
        }
        assert!(!circuit.may_begin(21));
        // At the time of the probe it is the one that was granted.
        assert_eq!(circuit.allowed_at(70), None);
        assert!(circuit.may_begin(70));
    }

    #[test]
    fn it_is_restored_with_changed_figures() {
        let restored = |stored: &StoredCircuit, now_ms| Circuit::restore(breaker(), stored, now_ms);
        let open = |until_ms| StoredCircuit {
            failures: Vec::new(),
            open_until_ms: Some(until_ms),
        };
        let circuit = restored(&open(60), 20);
        assert_eq!(circuit.allowed_at(20), Some(60));
        // It would have been open for longer.
        assert_eq!(restored(&open(1_000), 20).allowed_at(20), Some(70));
        // A probe was lost with its process.
        let mut probed = opened();
        probed.begin(70).unwrap();
        let mut circuit = restored(&probed.to_stored().unwrap(), 80);
        assert!(circuit.begin(80).is_some() && circuit.begin(80).is_none());
        // Failures go on counting, as long as they are in the window.
        let closed = StoredCircuit {
            failures: vec![1, 2, 3, 4],
            open_until_ms: None,
        };
        let mut circuit = restored(&closed, 102);
        assert_eq!(circuit.to_stored().unwrap().failures, [3, 4]);
        assert!(circuit.may_begin(102));
        attempt(&mut circuit, Evidence::Failure, 102);
        assert_eq!(open_until(&circuit), Some(152));
    }

    #[test]
    fn what_is_stored_tells_the_state() {
        let now = |circuit: &Circuit, now_ms| {
            let stored = circuit.to_stored().unwrap_or_default();
            stored.state(breaker(), now_ms)
        };
        let mut circuit = Circuit::new(breaker());
        assert_eq!(now(&circuit, 0), (BreakerState::Closed, 0));
        attempt(&mut circuit, Evidence::Failure, 0);
        attempt(&mut circuit, Evidence::Failure, 10);
        assert_eq!(now(&circuit, 99), (BreakerState::Closed, 2));
        assert_eq!(now(&circuit, 100), (BreakerState::Closed, 1));
        let mut circuit = opened();
        assert_eq!(now(&circuit, 69), (BreakerState::Open, 0));
        assert_eq!(now(&circuit, 70), (BreakerState::HalfOpen, 0));
        circuit.begin(70).unwrap();
        assert_eq!(now(&circuit, 70), (BreakerState::HalfOpen, 0));
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Pass(u64),
        Grant,
        /// What was granted begins, if it may; otherwise it is withdrawn.
        Begin,
        Withdraw,
        /// A task that does not wait begins without a grant, if it may.
        BeginAtOnce,
        End(usize, Evidence),
        Restart,
    }

    fn event() -> impl Strategy<Value = Event> {
        let evidence = prop_oneof![
            2 => Just(Evidence::Failure),
            1 => Just(Evidence::Success),
            1 => Just(Evidence::Nothing),
        ];
        prop_oneof![
            3 => (0..60_u64).prop_map(Event::Pass),
            4 => Just(Event::Grant),
            4 => Just(Event::Begin),
            1 => Just(Event::Withdraw),
            1 => Just(Event::BeginAtOnce),
            5 => (any::<usize>(), evidence).prop_map(|(which, what)| Event::End(which, what)),
            1 => Just(Event::Restart),
        ]
    }

    proptest! {
        #[test]
        fn it_never_probes_twice_nor_starts_while_open_nor_sticks(
            events in prop::collection::vec(event(), 1..200)
        ) {
            let mut circuit = Circuit::new(breaker());
            let (mut now_ms, mut granted) = (0, 0);
            // The running attempts, and which of them probes.
            let mut running: Vec<AttemptEpoch> = Vec::new();
            let mut probe: Option<AttemptEpoch> = None;
            // By the rules in words: the failures that count, and until when it is open.
            let mut failures: Vec<u64> = Vec::new();
            let mut until_ms: Option<u64> = None;
            for event in events {
                let may_begin = until_ms.is_none_or(|until| until <= now_ms) && probe.is_none();
                prop_assert_eq!(circuit.may_begin(now_ms), may_begin);
                match event {
                    Event::Pass(ms) => now_ms += ms,
                    Event::Grant => {
                        let is_allowed = circuit.allowed_at(now_ms) == Some(now_ms);
                        prop_assert!(may_begin || !is_allowed);
                        if is_allowed {
                            circuit.grant();
                            granted += 1;
                        }
                    }
                    Event::Withdraw if granted > 0 => {
                        circuit.settle_grant();
                        granted -= 1;
                    }
                    Event::Begin if granted == 0 => {}
                    Event::Begin | Event::BeginAtOnce => {
                        let began = circuit.begin(now_ms);
                        prop_assert_eq!(began.is_some(), may_begin);
                        if let Some(attempt) = began {
                            running.push(attempt);
                            if until_ms.is_some() {
                                prop_assert_eq!(probe.replace(attempt), None);
                            }
                        }
                        if matches!(event, Event::Begin) {
                            circuit.settle_grant();
                            granted -= 1;
                        }
                    }
                    Event::End(which, evidence) if !running.is_empty() => {
                        let attempt = running.swap_remove(which % running.len());
                        let before = circuit.to_stored();
                        let changes = circuit.end(attempt, evidence, now_ms);
                        prop_assert!(changes || circuit.to_stored() == before);
                        if probe == Some(attempt) {
                            probe = None;
                            match evidence {
                                Evidence::Success => until_ms = None,
                                Evidence::Failure => until_ms = Some(now_ms + 50),
                                Evidence::Nothing => {}
                            }
                            failures.clear();
                        } else if changes {
                            prop_assert_eq!(evidence, Evidence::Failure);
                            failures.push(now_ms);
                            failures.retain(|at_ms| at_ms + 100 > now_ms);
                            if failures.len() == 3 {
                                failures.clear();
                                until_ms = Some(now_ms + 50);
                            }
                        }
                        prop_assert_eq!(open_until(&circuit), until_ms);
                    }
                    Event::Restart => {
                        let stored = circuit.to_stored().unwrap_or_default();
                        circuit = Circuit::restore(breaker(), &stored, now_ms);
                        (granted, probe) = (0, None);
                        running.clear();
                        failures.retain(|at_ms| at_ms + 100 > now_ms);
                    }
                    Event::Withdraw | Event::End(..) => {}
                }
            }
            // Once all that runs or was granted is over, a start is allowed after some time.
            for attempt in running {
                circuit.end(attempt, Evidence::Nothing, now_ms);
            }
            (0..granted).for_each(|_| circuit.settle_grant());
            let at_ms = circuit.allowed_at(now_ms);
            prop_assert!(at_ms.is_some_and(|at_ms| at_ms <= now_ms + 50));
            prop_assert_eq!(circuit.allowed_at(now_ms + 50), Some(now_ms + 50));
        }
    }
}
