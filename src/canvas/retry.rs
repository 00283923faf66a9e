//! When a failed attempt is tried again: arithmetic only.

use std::time::Duration;

/// How often and how late a failed task is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    pub(crate) max_retries: u32,
    pub(crate) backoff: Duration,
    pub(crate) backoff_max: Duration,
}

impl RetryPolicy {
    /// The delay before retry number `retries` (0 for the first): `backoff * 2^retries`, at most
    /// `backoff_max`; none when the retries are used up (celery/utils/time.py,
    /// `get_exponential_backoff_interval`).
    pub(crate) fn delay_after(&self, retries: u32) -> Option<Duration> {
        (retries < self.max_retries).then(|| {
            let factor = 2u32.checked_pow(retries).unwrap_or(u32::MAX);
            self.backoff.saturating_mul(factor).min(self.backoff_max)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_the_maximum_and_ends_with_the_retries() {
        let policy = RetryPolicy {
            max_retries: 40,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(10),
        };
        let seconds: Vec<_> = [0, 1, 2, 3, 4, 39]
            .map(|retries| policy.delay_after(retries).unwrap().as_secs())
            .into();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10]);
        assert_eq!(policy.delay_after(40), None);
    }
}
