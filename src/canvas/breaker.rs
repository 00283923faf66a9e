//! Circuit breakers: their figures as users set them, and how callers see them.

use std::time::{Duration, SystemTime};

/// When a circuit breaker opens, and for how long.
///
/// ```
/// use chordal::Breaker;
/// use std::time::Duration;
///
/// // Opens at the fifth failure within 30 s; a minute later one attempt probes the service.
/// let stripe = Breaker::failures(5)
///     .within(Duration::from_secs(30))
///     .open_for(Duration::from_secs(60));
/// # let _ = stripe;
/// ```
///
/// An app has a breaker under a [name](crate::AppBuilder::breaker), and tasks name
/// [theirs](crate::TaskOptions::breaker).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Breaker {
    failures: u32,
    within: Duration,
    open_for: Duration,
}

/// The time of each failure is stored in one record.
const MAX_FAILURES: u32 = 500;

/// A longer period is a mistake.
const MAX_PERIOD: Duration = Duration::from_secs(366 * 86_400);

const DEFAULT_PERIOD: Duration = Duration::from_secs(60);

impl Breaker {
    /// Opens at this many failures, 1 to 500, within a minute, and then for a minute.
    /// [`within`](Self::within) and [`open_for`](Self::open_for) set other periods, which are at
    /// least a millisecond and at most a year. Other figures are refused when the app starts.
    #[must_use]
    pub const fn failures(failures: u32) -> Self {
        Self {
            failures,
            within: DEFAULT_PERIOD,
            open_for: DEFAULT_PERIOD,
        }
    }

    /// Sets how long a failure counts.
    ///
    /// ```
    /// # use chordal::Breaker;
    /// # use std::time::Duration;
    /// let breaker = Breaker::failures(5).within(Duration::from_secs(30));
    /// assert_ne!(breaker, Breaker::failures(5));
    /// ```
    #[must_use]
    pub const fn within(mut self, period: Duration) -> Self {
        self.within = period;
        self
    }

    /// Sets how long the breaker stays open before one attempt probes.
    ///
    /// ```
    /// # use chordal::Breaker;
    /// # use std::time::Duration;
    /// let breaker = Breaker::failures(5).open_for(Duration::from_secs(300));
    /// assert_ne!(breaker, Breaker::failures(5));
    /// ```
    #[must_use]
    pub const fn open_for(mut self, period: Duration) -> Self {
        self.open_for = period;
        self
    }

    /// Refuses figures with which the breaker could not work.
    pub(crate) fn check(self) -> Result<(), String> {
        if !(1..=MAX_FAILURES).contains(&self.failures) {
            let Self { failures, .. } = self;
            return Err(format!(
                "it opens at {failures} failures, and must at 1 to {MAX_FAILURES}"
            ));
        }
        for (name, period) in [("within", self.within), ("open_for", self.open_for)] {
            if period < Duration::from_millis(1) || period > MAX_PERIOD {
                return Err(format!(
                    "`{name}` is {period:?}, and must be 1 ms to 366 days"
                ));
            }
        }
        Ok(())
    }

    /// Returns the number of failures at which it opens.
    pub(crate) fn threshold(self) -> usize {
        self.failures as usize
    }

    pub(crate) fn within_ms(self) -> u64 {
        milliseconds(self.within)
    }

    pub(crate) fn open_for_ms(self) -> u64 {
        milliseconds(self.open_for)
    }
}

fn milliseconds(period: Duration) -> u64 {
    u64::try_from(period.as_millis()).unwrap_or(u64::MAX)
}

/// What the tasks under a breaker do that could start while it is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnOpen {
    /// They wait, without a slot.
    #[default]
    Wait,
    /// They fail with [`FailureKind::BreakerOpen`](crate::FailureKind::BreakerOpen), whatever
    /// retries they have left.
    Fail,
}

/// The state of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BreakerState {
    /// Tasks start.
    Closed,
    /// No task starts.
    Open,
    /// It has been open long enough: one attempt probes, or will once a task is ready.
    HalfOpen,
}

/// A breaker as [`App::breakers`](crate::App::breakers) shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerStatus {
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: BreakerState,
    /// The failures that count now; 0 unless it is closed.
    pub failures: u32,
    /// Until when it is open, if it is.
    pub open_until: Option<SystemTime>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_out_of_range_are_refused_with_what_and_where() {
        let ms = Duration::from_millis;
        let reasons = [
            (
                Breaker::failures(0),
                "it opens at 0 failures, and must at 1 to 500",
            ),
            (
                Breaker::failures(501),
                "it opens at 501 failures, and must at 1 to 500",
            ),
            (
                Breaker::failures(1).within(ms(0)),
                "`within` is 0ns, and must be 1 ms to 366 days",
            ),
            (
                Breaker::failures(1).open_for(Duration::MAX),
                "`open_for` is 18446744073709551615.999999999s, and must be 1 ms to 366 days",
            ),
        ];
        for (breaker, reason) in reasons {
            assert_eq!(breaker.check().unwrap_err(), reason);
        }
        let smallest = Breaker::failures(1).within(ms(1)).open_for(ms(1));
        let largest = Breaker::failures(500)
            .within(MAX_PERIOD)
            .open_for(MAX_PERIOD);
        for breaker in [smallest, largest] {
            assert_eq!(breaker.check(), Ok(()));
        }
    }
}
