//! Rate limits as users write them: `"10/m"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// At most so many starts in any period of a given length.
///
/// ```
/// use chordal::RateLimit;
/// use std::time::Duration;
///
/// let limit: RateLimit = "10/m".parse()?;
/// assert_eq!(limit, RateLimit::new(10, Duration::from_secs(60)));
/// assert_eq!("100/15s".parse::<RateLimit>()?, RateLimit::new(100, Duration::from_secs(15)));
///
/// let error = "10 a minute".parse::<RateLimit>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     r#"`10 a minute` is not a rate: write starts and a period, such as "10/s", "10/m" or "100/15s""#
/// );
/// # Ok::<(), chordal::InvalidRateLimit>(())
/// ```
///
/// As text a rate is a whole number of starts, `/`, and a period: a unit (`ms`, `s`, `m`, `h` or
/// `d`), or a whole number and a unit.
///
/// Starts are spread evenly over the period, to 10 ms: after a pause, a task under `"10/m"` starts
/// at once and the next one 6 s later. [`burst`](Self::burst) lets several start at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    starts: u32,
    period: Duration,
    burst: u32,
}

/// The error of a text that is not a [`RateLimit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidRateLimit {
    text: String,
    reason: &'static str,
}

/// The units of a period, in milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// A longer period is a mistake, and its starts would have to be remembered as long.
const MAX_PERIOD: Duration = Duration::from_secs(366 * 86_400);

const FORM: &str = r#"write starts and a period, such as "10/s", "10/m" or "100/15s""#;

impl RateLimit {
    /// Allows so many starts in any period of this length; starts are spread evenly.
    ///
    /// A limit that allows no start, or a period that is shorter than a millisecond or longer than
    /// a year, is refused when the app starts.
    #[must_use]
    pub const fn new(starts: u32, period: Duration) -> Self {
        Self {
            starts,
            period,
            burst: 1,
        }
    }

    /// Allows so many starts in any second.
    ///
    /// ```
    /// # use chordal::RateLimit;
    /// assert_eq!(RateLimit::per_second(10), "10/s".parse()?);
    /// # Ok::<(), chordal::InvalidRateLimit>(())
    /// ```
    #[must_use]
    pub const fn per_second(starts: u32) -> Self {
        Self::new(starts, Duration::from_secs(1))
    }

    /// Allows so many starts in any minute.
    ///
    /// ```
    /// # use chordal::RateLimit;
    /// assert_eq!(RateLimit::per_minute(10), "10/m".parse()?);
    /// # Ok::<(), chordal::InvalidRateLimit>(())
    /// ```
    #[must_use]
    pub const fn per_minute(starts: u32) -> Self {
        Self::new(starts, Duration::from_secs(60))
    }

    /// Lets so many tasks start at once after a pause, instead of one after the other at equal
    /// distances. The number of starts in a period stays the same.
    ///
    /// ```
    /// # use chordal::RateLimit;
    /// // After a quiet minute ten tasks start together, and then one every 6 s.
    /// let limit = RateLimit::per_minute(10).burst(10);
    /// # let _ = limit;
    /// ```
    #[must_use]
    pub const fn burst(mut self, starts: u32) -> Self {
        self.burst = starts;
        self
    }

    pub(crate) fn of_stored(starts: u32, period_ms: u64, burst: u32) -> Self {
        Self::new(starts, Duration::from_millis(period_ms)).burst(burst)
    }

    pub(crate) fn starts(self) -> u32 {
        self.starts
    }

    pub(crate) fn period_ms(self) -> u64 {
        u64::try_from(self.period.as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn burst_size(self) -> u32 {
        self.burst
    }

    /// Refuses a limit that no task could meet.
    pub(crate) fn check(self) -> Result<(), String> {
        let Self {
            starts,
            period,
            burst,
        } = self;
        if starts == 0 {
            return Err("a rate limit allows at least 1 start".to_owned());
        }
        if period < Duration::from_millis(1) || period > MAX_PERIOD {
            return Err(format!(
                "the period of a rate limit is 1 ms to 366 days, and not {period:?}"
            ));
        }
        if burst == 0 || burst > starts {
            return Err(format!(
                "the burst of a rate limit is 1 to the number of its starts, {starts}, and not {burst}"
            ));
        }
        Ok(())
    }
}

impl FromStr for RateLimit {
    type Err = InvalidRateLimit;

    fn from_str(text: &str) -> Result<Self, InvalidRateLimit> {
        let refused = |reason| InvalidRateLimit {
            text: text.to_owned(),
            reason,
        };
        let (starts, period) = text.split_once('/').ok_or_else(|| refused(FORM))?;
        let unit_at = period.find(|c: char| !c.is_ascii_digit());
        let (count, unit) = period.split_at(unit_at.unwrap_or(period.len()));
        let unit_ms = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, unit_ms) = unit_ms.ok_or_else(|| refused(FORM))?;
        let starts = whole(starts).ok_or_else(|| refused(FORM))?;
        let count = match count {
            "" => 1,
            count => whole(count).ok_or_else(|| refused(FORM))?,
        };
        let limit = Self::new(starts, Duration::from_millis(u64::from(count) * unit_ms));
        match limit.check() {
            Ok(()) => Ok(limit),
            Err(_) if starts == 0 => Err(refused("it allows no start")),
            Err(_) => Err(refused("its period is not between 1 ms and 366 days")),
        }
    }
}

/// Reads a whole number without a sign.
fn whole(text: &str) -> Option<u32> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

impl TryFrom<&str> for RateLimit {
    type Error = InvalidRateLimit;

    fn try_from(text: &str) -> Result<Self, InvalidRateLimit> {
        text.parse()
    }
}

impl fmt::Display for InvalidRateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, reason } = self;
        write!(f, "`{text}` is not a rate: {reason}")
    }
}

impl std::error::Error for InvalidRateLimit {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_starts_and_a_period() {
        for (text, starts, ms) in [
            ("1/ms", 1, 1),
            ("10/s", 10, 1_000),
            ("10/m", 10, 60_000),
            ("2/h", 2, 3_600_000),
            ("4294967295/d", u32::MAX, 86_400_000),
            ("100/15s", 100, 15_000),
            ("1/366d", 1, 366 * 86_400_000),
        ] {
            let period = Duration::from_millis(ms);
            assert_eq!(text.parse(), Ok(RateLimit::new(starts, period)), "{text}");
        }
        for text in [
            "",
            "/",
            "10",
            "10/",
            "/m",
            "10/x",
            "10/M",
            "-1/s",
            "+1/s",
            "1.5/s",
            "0.5/s",
            " 1/s",
            "1/ s",
            "1/s ",
            "0/s",
            "1/0s",
            "1/367d",
            "4294967296/s",
            "1/4294967296s",
            "1//s",
            "1/1s30s",
            "١/s",
        ] {
            assert!(text.parse::<RateLimit>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_limit_that_no_task_could_meet_is_refused() {
        let second = Duration::from_secs(1);
        for refused in [
            RateLimit::new(0, second),
            RateLimit::new(1, Duration::ZERO),
            RateLimit::new(1, Duration::from_micros(999)),
            RateLimit::new(1, Duration::MAX),
            RateLimit::per_second(5).burst(0),
            RateLimit::per_second(5).burst(6),
        ] {
            assert!(refused.check().is_err(), "{refused:?}");
        }
        assert!(RateLimit::per_second(5).burst(5).check().is_ok());
    }
}
