//! Limits on starts: every third seed has tasks under them. The runs of the others stay as they
//! were before limits existed.

use std::cell::RefCell;
use std::collections::BTreeMap;

use chordal::RateLimit;

use crate::dice::Dice;
use crate::plan::Role;

/// The name of the limit that all limited tasks share.
pub(crate) const SHARED: &str = "simulate.shared";
/// The limit of `simulate.limited` alone.
pub(crate) const OWN: &str = "2/3s";

/// Returns the name of the task that is under limits, if the task of this role is to be it.
pub(crate) fn task_of(seed: u64, key: u64, role: &Role) -> Option<&'static str> {
    if !seed.is_multiple_of(3) || !role.alone || role.blocking {
        return None;
    }
    let dice = Dice::new(seed.rotate_left(8) ^ key);
    dice.pick(&[
        None,
        None,
        Some("simulate.limited"),
        Some(SHARING),
        Some(KEYED),
    ])
}

/// The task that shares its limit with others.
pub(crate) const SHARING: &str = "simulate.sharing";

/// Returns the rate that the signatures of such tasks set, for each tenant, in every sixth seed.
pub(crate) fn of_signature(seed: u64) -> Option<RateLimit> {
    let rate = RateLimit::new(1, std::time::Duration::from_millis(SIGNATURE_MS));
    (seed % 6 == 3).then_some(rate)
}

const SIGNATURE_MS: u64 = 1_500;

/// The task whose limits are divided by its argument `tenant`.
pub(crate) const KEYED: &str = "simulate.keyed";

/// Returns the tenant of a task.
pub(crate) fn tenant_of(key: u64) -> u64 {
    key % 2
}

/// The running attempts of each tenant.
#[derive(Debug, Default)]
pub(crate) struct Tenants(RefCell<BTreeMap<u64, usize>>);

impl Tenants {
    /// Notes that an attempt runs; returns a fault if another of its tenant runs.
    pub(crate) fn enter(&self, tenant: u64) -> Option<String> {
        let mut all = self.0.borrow_mut();
        let running = all.entry(tenant).or_default();
        *running += 1;
        (*running > 1).then(|| format!("{running} attempts of tenant {tenant} run at once"))
    }

    pub(crate) fn leave(&self, tenant: u64) {
        if let Some(running) = self.0.borrow_mut().get_mut(&tenant) {
            *running = running.saturating_sub(1);
        }
    }

    pub(crate) fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}

/// Returns the shared limit of a seed: starts, milliseconds and the starts at once.
fn shared_of(seed: u64) -> (u32, u64, u32) {
    let dice = Dice::new(seed.rotate_left(40) ^ 3);
    dice.pick(&[
        (1, 700, 1),
        (3, 2_000, 1),
        (4, 5_000, 4),
        (50, 100, 1),
        (2, 20_000, 2),
    ])
}

pub(crate) fn shared(seed: u64) -> RateLimit {
    let (starts, period_ms, burst) = shared_of(seed);
    let period = std::time::Duration::from_millis(period_ms);
    RateLimit::new(starts, period).burst(burst)
}

/// The starts of limited tasks, over all lives.
#[derive(Debug, Default)]
pub(crate) struct Starts(RefCell<BTreeMap<Budget, Vec<u64>>>);

/// A limit, and the tenant if it is divided by tenants.
type Budget = (&'static str, Option<u64>);

impl Starts {
    /// Notes a start; returns a fault if there were too many in a period.
    pub(crate) fn note(
        &self,
        seed: u64,
        task: &str,
        tenant: Option<u64>,
        now_ms: u64,
    ) -> Option<String> {
        let (starts, period_ms, _) = shared_of(seed);
        let limits = match task {
            KEYED => vec![((KEYED, tenant), 1, 2_000)],
            "simulate.limited" => {
                vec![((SHARED, None), starts, period_ms), ((OWN, None), 2, 3_000)]
            }
            _ if of_signature(seed).is_some() => vec![
                ((SHARED, None), starts, period_ms),
                ((SHARING, tenant), 1, SIGNATURE_MS),
            ],
            _ => vec![((SHARED, None), starts, period_ms)],
        };
        let mut all = self.0.borrow_mut();
        limits
            .into_iter()
            .find_map(|(name, starts, period_ms): (_, u32, u64)| {
                let times = all.entry(name).or_default();
                times.push(now_ms);
                let in_period = times.iter().filter(|at_ms| **at_ms + period_ms >= now_ms);
                let in_period = in_period.count();
                (in_period > starts as usize).then(|| {
                    format!(
                        "{in_period} starts under the limit {name:?}, {starts} in {period_ms} ms"
                    )
                })
            })
    }

    /// Forgets all starts: the store has lost some.
    pub(crate) fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}
