//! The delay before a failed attempt is retried; arithmetic only.

use std::time::Duration;

/// The delay before the first retry of a task without a setting for it.
const BACKOFF: Duration = Duration::from_secs(1);

/// How often and after which delays a failed task is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    pub(crate) max_retries: u32,
    /// A constant delay.
    pub(crate) default_delay: Option<Duration>,
    /// The first of the doubling delays.
    pub(crate) backoff: Option<Duration>,
    pub(crate) backoff_max: Duration,
    pub(crate) jitter: bool,
}

impl RetryPolicy {
    /// Returns the delay before retry number `retries` (0 for the first) of a failed task: `backoff
    /// * 2^retries`, at most `backoff_max`, and with jitter a random time from 0 to that
    /// (celery/utils/time.py, `get_exponential_backoff_interval`; celery/app/autoretry.py).
    pub(crate) fn delay(&self, retries: u32, random: u64) -> Duration {
        match (self.backoff, self.default_delay) {
            (None, Some(delay)) => delay,
            (backoff, _) => {
                let factor = 2u32.checked_pow(retries).unwrap_or(u32::MAX);
                let delay = backoff.unwrap_or(BACKOFF).saturating_mul(factor);
                let delay = delay.min(self.backoff_max);
                if !self.jitter {
                    return delay;
                }
                let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                Duration::from_millis(random % millis.saturating_add(1))
            }
        }
    }

    /// Returns the delay before a retry for which the task gave no time (celery/app/task.py,
    /// `retry`).
    pub(crate) fn delay_asked(&self, retries: u32, random: u64) -> Duration {
        self.default_delay
            .unwrap_or_else(|| self.delay(retries, random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        max_retries: 9,
        default_delay: None,
        backoff: None,
        backoff_max: Duration::from_secs(10),
        jitter: false,
    };

    fn seconds(policy: RetryPolicy) -> Vec<u64> {
        [0, 1, 2, 3, 4, 39]
            .map(|retries| policy.delay(retries, 0).as_secs())
            .into()
    }

    #[test]
    fn the_delay_doubles_up_to_the_maximum() {
        assert_eq!(seconds(POLICY), [1, 2, 4, 8, 10, 10]);
        let backoff = Some(Duration::from_secs(3));
        assert_eq!(
            seconds(RetryPolicy { backoff, ..POLICY }),
            [3, 6, 10, 10, 10, 10]
        );
    }

    #[test]
    fn a_default_delay_stays_the_same_unless_there_is_a_backoff() {
        let fixed = RetryPolicy {
            default_delay: Some(Duration::from_secs(7)),
            ..POLICY
        };
        assert_eq!(seconds(fixed), [7; 6]);
        let both = RetryPolicy {
            backoff: Some(Duration::from_secs(2)),
            ..fixed
        };
        assert_eq!(seconds(both)[..3], [2, 4, 8]);
        assert_eq!(both.delay_asked(2, 0), Duration::from_secs(7));
        assert_eq!(POLICY.delay_asked(2, 0), Duration::from_secs(4));
    }

    #[test]
    fn jitter_draws_from_zero_to_the_whole_delay() {
        let policy = RetryPolicy {
            jitter: true,
            ..POLICY
        };
        let delays = (0..4_003).map(|random| policy.delay(2, random).as_millis());
        let (mut least, mut most) = (u128::MAX, 0);
        for delay in delays {
            least = least.min(delay);
            most = most.max(delay);
        }
        assert_eq!((least, most), (0, 4_000));
    }
}
