//! The steady scale over restarts: delays end on it, so that setting the clock moves none of their
//! ends.
//!
//! The readings of the clocks are recorded from time to time. As long as the machine runs, its
//! uptime tells how much time has passed since the last reading, whatever the wall clock did. Over
//! a boot only the wall clock can tell; if it shows an earlier time than before, no time is known
//! to have passed.

use serde::{Deserialize, Serialize};

use super::codec::{self, Kind};
use super::keys;
use crate::persistence::{Pair, Store, StoreError};

/// The readings of the clocks at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClockReading {
    /// The boot id of the machine during which `uptime_ms` counts, where it can be read.
    pub(crate) boot: Option<String>,
    pub(crate) uptime_ms: u64,
    /// Milliseconds since the Unix epoch.
    pub(crate) wall_ms: u64,
    pub(crate) steady_ms: u64,
}

impl ClockReading {
    /// Returns the last reading in the store.
    pub(crate) fn last(store: &dyn Store) -> Result<Option<Self>, StoreError> {
        let record = store.get(keys::CLOCK)?;
        record
            .map(|record| codec::decode(Kind::Clock, keys::CLOCK, &record))
            .transpose()
    }

    pub(crate) fn record(&self) -> Pair {
        (keys::CLOCK.to_vec(), codec::encode(Kind::Clock, self))
    }

    /// Returns the steady time now, computed from this earlier reading. `boot`, `uptime_ms` and
    /// `wall_ms` are current values.
    pub(crate) fn steady_now(&self, boot: Option<&str>, uptime_ms: u64, wall_ms: u64) -> u64 {
        let is_same_boot = boot.is_some() && self.boot.as_deref() == boot;
        let passed = match uptime_ms.checked_sub(self.uptime_ms) {
            Some(passed) if is_same_boot => passed,
            _ => wall_ms.saturating_sub(self.wall_ms),
        };
        self.steady_ms.saturating_add(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const YEAR: u64 = 365 * 24 * HOUR;

    fn reading() -> ClockReading {
        ClockReading {
            boot: Some("this".to_owned()),
            uptime_ms: HOUR,
            wall_ms: 50 * YEAR,
            steady_ms: 49 * YEAR,
        }
    }

    #[test]
    fn while_the_machine_runs_the_wall_clock_is_ignored() {
        for wall_ms in [0, 49 * YEAR, 50 * YEAR + HOUR, 51 * YEAR] {
            let now = reading().steady_now(Some("this"), 3 * HOUR, wall_ms);
            assert_eq!(now, 49 * YEAR + 2 * HOUR, "{wall_ms}");
        }
    }

    #[test]
    fn over_a_boot_the_wall_clock_tells_how_long_the_machine_was_off() {
        for boot in [Some("other"), None] {
            let after = |wall_ms| reading().steady_now(boot, 5 * HOUR, wall_ms);
            assert_eq!(after(50 * YEAR + 2 * HOUR), 49 * YEAR + 2 * HOUR);
            // Without a battery the wall clock starts at 1970.
            assert_eq!(after(0), 49 * YEAR);
        }
    }

    #[test]
    fn two_boots_without_ids_are_not_taken_for_one() {
        let before = ClockReading {
            boot: None,
            ..reading()
        };
        assert_eq!(before.steady_now(None, 9 * HOUR, 50 * YEAR), 49 * YEAR);
    }

    /// A container that moves to another machine has another uptime.
    #[test]
    fn an_uptime_that_went_back_is_ignored() {
        let now = reading().steady_now(Some("this"), 0, 50 * YEAR + HOUR);
        assert_eq!(now, 49 * YEAR + HOUR);
    }
}
