//! Schedules: when work is submitted again and again.

mod calendar;
pub(crate) mod entry;
mod fields;

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use self::calendar::Calendar;
use self::fields::Days;
use crate::canvas::freeze::Node;
use crate::canvas::id::{Id, Seq};

/// The longest interval.
const MAX_DURATION: Duration = Duration::from_secs(10 * 366 * 86_400);
/// The longest jitter.
const MAX_JITTER: Duration = Duration::from_secs(86_400);
/// The most ticks that [`Missed::All`] makes up.
const MAX_MADE_UP: u32 = 10_000;

/// When work is due, again and again: a [cron expression](cron), [Celery's `crontab`](crontab) or
/// [an interval](every). Each time at which it is due is a *tick*.
///
/// ```
/// use chordal::{Missed, Overlap, cron};
/// use std::time::{Duration, SystemTime};
///
/// let nightly = cron("0 3 * * *")
///     .tz("Europe/Berlin")
///     .missed(Missed::Skip)
///     .overlap(Overlap::Queue)
///     .jitter(Duration::from_secs(60));
/// let next = nightly.next_after(SystemTime::UNIX_EPOCH)?;
/// // 3 o'clock in Berlin, where the time was one hour ahead of UTC.
/// assert_eq!(next, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(2 * 3_600)));
/// # Ok::<(), chordal::InvalidSchedule>(())
/// ```
///
/// # When the clock of a time zone changes
///
/// Twice a year in many zones, local times are skipped or come twice. What happens depends on the
/// field for hours:
///
/// | hours | a skipped local time | a repeated local time |
/// |---|---|---|
/// | named, such as `3`, `1,2` or `8-18` | when the gap ends; all skipped times are one tick | once, the first time |
/// | with a star, such as `*` or `*/2` | never | twice, as the clock shows it twice |
///
/// ```
/// # use chordal::{Schedule, cron};
/// # use std::time::{Duration, SystemTime};
/// # let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
/// // In Berlin, 02:00 to 03:00 was skipped on 31 March 2024, from 01:00 UTC on.
/// let (before, gap_end) = (at(1_711_839_600), at(1_711_846_800));
/// let named = cron("30 2 * * *").tz("Europe/Berlin");
/// assert_eq!(named.next_after(before)?, Some(gap_end)); // 03:00 in Berlin
/// let hourly = cron("30 * * * *").tz("Europe/Berlin");
/// let half_past_three = gap_end + Duration::from_secs(1_800);
/// assert_eq!(hourly.next_after(gap_end - Duration::from_secs(1_800))?, Some(half_past_three));
/// # Ok::<(), chordal::InvalidSchedule>(())
/// ```
///
/// A day that does not exist, such as 29 February in most years, has no tick. Time zones are those
/// of the system, or, where it has none, those of the IANA database that is built into the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule(pub(crate) Definition);

/// A schedule as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Definition {
    timing: Timing,
    missed: Missed,
    overlap: Overlap,
    jitter: Duration,
    /// Times in milliseconds since the Unix epoch.
    starts_ms: Option<u64>,
    ends_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Timing {
    Cron {
        expression: String,
        zone: String,
        /// Celery's `crontab`: a day must fit both fields for days.
        needs_both_days: bool,
    },
    Every(Duration),
}

/// Which [missed](Schedule::missed) ticks are made up. A tick is missed when its time passed more
/// than a minute ago: the app was not running, the machine slept, or its clock was set forward.
/// Ticks that are on time are not affected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Missed {
    /// None.
    Skip,
    /// The latest one, unless another tick is due by now.
    One,
    /// The latest ones, at most so many (1 to 10,000), the oldest first.
    All(u32),
}

/// What happens at a tick while the work of the tick before has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Overlap {
    /// The work is submitted all the same.
    Allow,
    /// The tick is skipped.
    Skip,
    /// The tick waits until the work before has ended. [`Missed`] decides how many of the ticks
    /// that have waited for more than a minute are made up.
    Queue,
    /// The work before is revoked.
    CancelPrevious,
}

/// An entry of an app's schedules, as [`Schedules::list`](crate::Schedules::list) returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScheduleEntry {
    /// Its name.
    pub name: String,
    /// When it is due.
    pub schedule: Schedule,
    /// It is [paused](crate::Schedules::pause).
    pub is_paused: bool,
    /// It is [declared in code](crate::AppBuilder::schedule), and not
    /// [added](crate::Schedules::add) at run time.
    pub is_declared: bool,
    /// The last tick whose work was submitted.
    pub last: Option<SystemTime>,
    /// The id of the work that was submitted last, by a tick or by a
    /// [trigger](crate::Schedules::trigger).
    pub last_id: Option<Id>,
    /// When the next tick's work is submitted, with jitter; for an interval, unless the clock is
    /// set before. `None`: never, or not before it is resumed.
    pub next: Option<SystemTime>,
}

/// The frozen work of an entry: the same in each workflow that is submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) root: Node,
    /// The first free node number.
    pub(crate) next: Seq,
    /// The bytes that it takes in the store.
    pub(crate) bytes: u64,
}

/// A change of an entry at run time.
#[derive(Debug)]
pub(crate) enum Change<W> {
    /// Adds it, or replaces its schedule and its work.
    Add(Schedule, W),
    Remove,
    Pause,
    Resume,
    /// Submits its work now.
    Trigger,
}

/// The error of a [`Schedule`] that is never due or cannot be read. It names the field and its
/// allowed values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSchedule {
    reason: String,
}

/// Creates a schedule from a cron expression: minute, hour, day of month, month and day of week,
/// with a field for seconds before these if there are six; or a nickname, such as `@hourly`.
///
/// ```
/// use chordal::cron;
///
/// for expression in ["*/5 8-18 * * MON-FRI", "30 0 3 1,15 * *", "0 0 L * *", "0 9 * * FRI#2"] {
///     cron(expression).check()?;
/// }
/// for nickname in ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"] {
///     cron(nickname).check()?;
/// }
/// let error = cron("0 25 * * *").check().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "`25` is no hour: allowed are 0 to 23; each may be a list such as 1,2, \
///      a range such as 1-5, or a step such as */5"
/// );
/// # Ok::<(), chordal::InvalidSchedule>(())
/// ```
///
/// If both fields for days name days, a day fits that either names, as in every cron. The time zone
/// is UTC unless [`tz`](Schedule::tz) names another.
pub fn cron(expression: impl Into<String>) -> Schedule {
    Schedule::of(Timing::Cron {
        expression: expression.into(),
        zone: "UTC".to_owned(),
        needs_both_days: false,
    })
}

/// Creates a schedule with a tick after each interval, the first one after the first interval.
///
/// It counts the time that passes, as all delays do, and setting the clock does not move it. The
/// interval is 1 second to ten years, in whole milliseconds.
///
/// ```
/// use chordal::every;
/// use std::time::{Duration, SystemTime};
///
/// let minute = Duration::from_secs(60);
/// let next = every(minute).next_after(SystemTime::UNIX_EPOCH)?;
/// assert_eq!(next, Some(SystemTime::UNIX_EPOCH + minute));
/// assert!(every(Duration::ZERO).check().is_err());
/// # Ok::<(), chordal::InvalidSchedule>(())
/// ```
pub fn every(interval: Duration) -> Schedule {
    Schedule::of(Timing::Every(interval))
}

/// Begins a schedule as Celery's `crontab(minute = "*/5")` does: every field that is not named is a
/// star.
///
/// As in Celery, and unlike in [`cron`], a day must fit both fields for days.
///
/// ```
/// use chordal::crontab;
/// use std::time::{Duration, SystemTime};
///
/// let often = crontab().minute("*/5").schedule();
/// let next = often.next_after(SystemTime::UNIX_EPOCH)?;
/// assert_eq!(next, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(300)));
///
/// let fridays_the_13th = crontab()
///     .minute(0)
///     .hour("7,19")
///     .day_of_week("fri")
///     .day_of_month(13)
///     .month_of_year("1-6")
///     .schedule()
///     .tz("Europe/Berlin");
/// fridays_the_13th.check()?;
/// # Ok::<(), chordal::InvalidSchedule>(())
/// ```
#[must_use]
pub fn crontab() -> Crontab {
    Crontab {
        fields: std::array::from_fn(|_| "*".to_owned()),
    }
}

/// The fields of Celery's [`crontab`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crontab {
    fields: [String; 5],
}

impl Crontab {
    /// Sets the minutes, 0 to 59: a number, or a text such as `"*/15"` or `"0,30"`.
    #[must_use]
    pub fn minute(self, minutes: impl ToString) -> Self {
        self.set(0, minutes)
    }

    /// Sets the hours, 0 to 23.
    #[must_use]
    pub fn hour(self, hours: impl ToString) -> Self {
        self.set(1, hours)
    }

    /// Sets the days of the month, 1 to 31.
    #[must_use]
    pub fn day_of_month(self, days: impl ToString) -> Self {
        self.set(2, days)
    }

    /// Sets the months, 1 to 12 or `"jan"` to `"dec"`.
    #[must_use]
    pub fn month_of_year(self, months: impl ToString) -> Self {
        self.set(3, months)
    }

    /// Sets the days of the week, 0 (Sunday) to 6, or `"sun"` to `"sat"`.
    #[must_use]
    pub fn day_of_week(self, days: impl ToString) -> Self {
        self.set(4, days)
    }

    /// Returns the schedule of these fields.
    #[must_use]
    pub fn schedule(self) -> Schedule {
        Schedule::of(Timing::Cron {
            expression: self.fields.join(" "),
            zone: "UTC".to_owned(),
            needs_both_days: true,
        })
    }

    fn set(mut self, field: usize, value: impl ToString) -> Self {
        // Celery allows spaces in lists; in an expression they separate fields.
        self.fields[field] = value.to_string().split_whitespace().collect();
        self
    }
}

impl From<Crontab> for Schedule {
    fn from(crontab: Crontab) -> Self {
        crontab.schedule()
    }
}

impl Schedule {
    fn of(timing: Timing) -> Self {
        Self(Definition {
            timing,
            missed: Missed::One,
            overlap: Overlap::Allow,
            jitter: Duration::ZERO,
            starts_ms: None,
            ends_ms: None,
        })
    }

    /// Sets the time zone by its name in the IANA database. An [interval](every) has no use for it,
    /// and keeps none.
    ///
    /// ```
    /// # use chordal::cron;
    /// cron("0 3 * * *").tz("Europe/Berlin").check()?;
    /// let error = cron("0 3 * * *").tz("Berlin").check().unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "`Berlin` is no time zone: write a name such as Europe/Berlin or UTC"
    /// );
    /// # Ok::<(), chordal::InvalidSchedule>(())
    /// ```
    #[must_use]
    pub fn tz(mut self, name: impl Into<String>) -> Self {
        if let Timing::Cron { zone, .. } = &mut self.0.timing {
            *zone = name.into();
        }
        self
    }

    /// Sets which missed ticks are made up. Default: [`Missed::One`].
    ///
    /// ```
    /// # use chordal::{Missed, cron};
    /// // A report for each day that the app was off, for a week at most.
    /// cron("@daily").missed(Missed::All(7)).check()?;
    /// assert!(cron("@daily").missed(Missed::All(0)).check().is_err());
    /// # Ok::<(), chordal::InvalidSchedule>(())
    /// ```
    #[must_use]
    pub fn missed(mut self, missed: Missed) -> Self {
        self.0.missed = missed;
        self
    }

    /// Sets what happens at a tick while the work of the tick before has not ended. Default:
    /// [`Overlap::Allow`].
    ///
    /// ```
    /// # use chordal::{Overlap, every};
    /// # use std::time::Duration;
    /// let poll = every(Duration::from_secs(10)).overlap(Overlap::Skip);
    /// # poll.check()?;
    /// # Ok::<(), chordal::InvalidSchedule>(())
    /// ```
    #[must_use]
    pub fn overlap(mut self, overlap: Overlap) -> Self {
        self.0.overlap = overlap;
        self
    }

    /// Submits each tick's work up to so much later, by a time that differs from tick to tick and
    /// from entry to entry, so that not all work begins at the full hour. Default: none.
    ///
    /// The delay of a tick is always the same, also after a restart. Ticks stay in order: one waits
    /// for the one before. At most a day.
    ///
    /// ```
    /// # use chordal::cron;
    /// # use std::time::Duration;
    /// let hourly = cron("@hourly").jitter(Duration::from_secs(300));
    /// # hourly.check()?;
    /// # Ok::<(), chordal::InvalidSchedule>(())
    /// ```
    #[must_use]
    pub fn jitter(mut self, most: Duration) -> Self {
        self.0.jitter = most;
        self
    }

    /// Sets the first time at which it may be due.
    ///
    /// ```
    /// # use chordal::cron;
    /// # use std::time::{Duration, SystemTime};
    /// let day = Duration::from_secs(86_400);
    /// let later = cron("@daily").starts_at(SystemTime::UNIX_EPOCH + 3 * day);
    /// let next = later.next_after(SystemTime::UNIX_EPOCH)?;
    /// assert_eq!(next, Some(SystemTime::UNIX_EPOCH + 3 * day));
    /// # Ok::<(), chordal::InvalidSchedule>(())
    /// ```
    #[must_use]
    pub fn starts_at(mut self, time: SystemTime) -> Self {
        self.0.starts_ms = Some(millis(time));
        self
    }

    /// Sets the time from which on it is not due any more.
    ///
    /// ```
    /// # use chordal::cron;
    /// # use std::time::{Duration, SystemTime};
    /// let day = Duration::from_secs(86_400);
    /// let once = cron("@daily").ends_at(SystemTime::UNIX_EPOCH + 2 * day);
    /// let next = once.next_after(SystemTime::UNIX_EPOCH)?;
    /// assert_eq!(next, Some(SystemTime::UNIX_EPOCH + day));
    /// assert_eq!(once.next_after(SystemTime::UNIX_EPOCH + day)?, None);
    /// # Ok::<(), chordal::InvalidSchedule>(())
    /// ```
    #[must_use]
    pub fn ends_at(mut self, time: SystemTime) -> Self {
        self.0.ends_ms = Some(millis(time));
        self
    }

    /// Checks the expression, the time zone and the figures.
    ///
    /// # Errors
    ///
    /// [`InvalidSchedule`], which names the field and its allowed values.
    pub fn check(&self) -> Result<(), InvalidSchedule> {
        self.ticks().map(drop)
    }

    /// Returns the first tick after `time`, without jitter: for an interval, as if it began at
    /// `time`, or at its start if that is later. `None`: there is no more tick.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub fn next_after(&self, time: SystemTime) -> Result<Option<SystemTime>, InvalidSchedule> {
        let ticks = self.ticks()?;
        let mut after_ms = millis(time);
        if let (Timing::Every(_), Some(starts_ms)) = (&self.0.timing, self.0.starts_ms) {
            after_ms = after_ms.max(starts_ms);
        }
        let next = ticks.next_after(after_ms, after_ms);
        let next = next.filter(|ms| self.0.ends_ms.is_none_or(|end| *ms < end));
        Ok(next.map(|ms| UNIX_EPOCH + Duration::from_millis(ms)))
    }

    /// Compiles the schedule.
    fn ticks(&self) -> Result<Ticks, InvalidSchedule> {
        let Definition {
            timing,
            missed,
            jitter,
            starts_ms,
            ends_ms,
            ..
        } = &self.0;
        let refused = |reason: String| Err(InvalidSchedule { reason });
        if let Missed::All(count) = missed
            && !(1..=MAX_MADE_UP).contains(count)
        {
            return refused(format!(
                "the missed ticks to be made up are 1 to {MAX_MADE_UP}, and not {count}"
            ));
        }
        if *jitter > MAX_JITTER {
            return refused(format!("the jitter is at most a day, and not {jitter:?}"));
        }
        if let (Some(start), Some(end)) = (starts_ms, ends_ms)
            && start >= end
        {
            return refused("it ends before it starts".to_owned());
        }
        match timing {
            Timing::Every(interval) => {
                if *interval < Duration::from_secs(1) || *interval > MAX_DURATION {
                    return refused(format!(
                        "an interval is 1 s to ten years, and not {interval:?}"
                    ));
                }
                Ok(Ticks::Every(interval.as_millis() as u64))
            }
            Timing::Cron {
                expression,
                zone,
                needs_both_days,
            } => {
                let days = match needs_both_days {
                    true => Days::Both,
                    false => Days::Either,
                };
                match Calendar::new(expression, days, zone) {
                    Ok(calendar) => Ok(Ticks::At {
                        calendar: Box::new(calendar),
                        starts_ms: *starts_ms,
                    }),
                    Err(reason) => refused(reason),
                }
            }
        }
    }
}

/// The ticks of a schedule, without jitter and end.
#[derive(Clone, Debug)]
enum Ticks {
    /// In milliseconds on the steady scale.
    Every(u64),
    /// On the wall clock.
    At {
        calendar: Box<Calendar>,
        starts_ms: Option<u64>,
    },
}

impl Ticks {
    /// Returns the first tick after `ms`. An interval counts from `anchor_ms` on.
    fn next_after(&self, ms: u64, anchor_ms: u64) -> Option<u64> {
        match self {
            Self::Every(interval) => {
                let passed = ms.saturating_sub(anchor_ms) / interval;
                anchor_ms.checked_add(interval.checked_mul(passed + 1)?)
            }
            Self::At {
                calendar,
                starts_ms,
            } => match starts_ms {
                Some(start) if ms < *start => calendar.next_after(start.checked_sub(1)?),
                _ => calendar.next_after(ms),
            },
        }
    }
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

impl fmt::Display for InvalidSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for InvalidSchedule {}
