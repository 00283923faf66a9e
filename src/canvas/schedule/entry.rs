//! An entry: one schedule under a name, and the decision on each of its ticks.

use serde::{Deserialize, Serialize};

use super::{InvalidSchedule, Missed, Overlap, Schedule, Ticks, Timing};
use crate::canvas::time::{Moment, Scale, Time};
use crate::split_mix;

/// A tick that is decided on later than this after its time was missed, in milliseconds.
const MISSED_AFTER_MS: u64 = 60_000;

/// A schedule under a name, and how far its ticks have been decided.
///
/// A calendar follows the wall clock, and an interval the steady scale: [`Progress`] counts on that
/// scale. Ticks are decided in order, each once, and [`Progress`] is stored in the same commit as
/// what was decided. A clock that is set back therefore repeats no tick.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    schedule: Schedule,
    ticks: Ticks,
    /// Of the name, so that entries with the same schedule have different jitter.
    seed: u64,
    progress: Progress,
}

/// How far the ticks of an entry have been decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// The moment from which an interval counts.
    anchor_ms: u64,
    /// All ticks up to this moment have been decided.
    decided_ms: u64,
    is_paused: bool,
    /// The last tick whose work was submitted.
    last_ms: Option<u64>,
}

/// What is to be done for a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Submission {
    /// The time of the tick, without jitter, on the scale of the entry.
    tick_ms: u64,
    /// The work of the tick before is to be revoked, if it has not ended.
    pub(crate) cancels_previous: bool,
}

impl Entry {
    /// Creates an entry whose first tick comes after `now`.
    pub(crate) fn new(name: &str, schedule: Schedule, now: Time) -> Result<Self, InvalidSchedule> {
        let now_ms = now.on(schedule.scale());
        let progress = Progress {
            anchor_ms: now_ms,
            decided_ms: now_ms,
            is_paused: false,
            last_ms: None,
        };
        Self::restore(name, schedule, progress)
    }

    /// Restores an entry from what is stored of it.
    pub(crate) fn restore(
        name: &str,
        schedule: Schedule,
        progress: Progress,
    ) -> Result<Self, InvalidSchedule> {
        Ok(Self {
            ticks: schedule.ticks()?,
            schedule,
            seed: name.bytes().fold(0, |seed, byte| {
                split_mix::number(seed ^ u64::from(byte)).wrapping_add(split_mix::STEP)
            }),
            progress,
        })
    }

    /// Takes over another definition under the same name. If it is due at other times, its ticks
    /// begin after `now`; else none is lost or repeated.
    pub(crate) fn redefine(
        self,
        name: &str,
        schedule: Schedule,
        now: Time,
    ) -> Result<Self, InvalidSchedule> {
        let mut progress = self.progress;
        if schedule.0.timing != self.schedule.0.timing {
            progress.anchor_ms = now.on(schedule.scale());
            progress.decided_ms = progress.anchor_ms;
        }
        Self::restore(name, schedule, progress)
    }

    pub(crate) fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.progress.is_paused
    }

    /// Returns the last tick whose work was submitted.
    pub(crate) fn last(&self) -> Option<Moment> {
        let scale = self.schedule.scale();
        let ms = self.progress.last_ms?;
        Some(Moment { scale, ms })
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress
    }

    /// Decides on all ticks that are due; returns the work to be submitted, in order. `is_running`:
    /// the work of the last tick has not ended.
    pub(crate) fn decide(&mut self, now: Time, is_running: bool) -> Vec<Submission> {
        let mut submissions = Vec::new();
        if self.progress.is_paused || self.waits_for_previous(is_running) {
            return submissions;
        }
        let now_ms = now.on(self.schedule.scale());
        if !self.is_open(now) {
            // Ticks of an interval that come outside of its dates are none.
            self.progress.decided_ms = self.progress.decided_ms.max(now_ms);
            return submissions;
        }
        self.pass_over_missed(now_ms);
        let mut is_running = is_running;
        while let Some(tick_ms) = self.next_due(self.progress.decided_ms, now_ms) {
            self.progress.decided_ms = tick_ms;
            let overlap = self.schedule.0.overlap;
            if is_running && overlap == Overlap::Skip {
                continue;
            }
            self.progress.last_ms = Some(tick_ms);
            submissions.push(Submission {
                tick_ms,
                cancels_previous: is_running && overlap == Overlap::CancelPrevious,
            });
            is_running = true;
            if self.waits_for_previous(is_running) {
                break;
            }
        }
        submissions
    }

    /// Returns the moment of the next decision. `None`: there is none before the entry is resumed,
    /// redefined, or, if the work of the last tick is running and the next one waits for it, before
    /// that work has ended.
    pub(crate) fn wake_at(&self, now: Time, is_running: bool) -> Option<Moment> {
        if self.progress.is_paused || self.waits_for_previous(is_running) {
            return None;
        }
        let scale = self.schedule.scale();
        if scale == Scale::Steady && !self.is_open(now) {
            let start_ms = self.schedule.0.starts_ms?;
            return (now.wall_ms < start_ms).then(|| Moment::wall(start_ms));
        }
        let tick_ms = self.next_after(self.progress.decided_ms)?;
        let ms = self.due_ms(tick_ms);
        Some(Moment { scale, ms })
    }

    pub(crate) fn pause(&mut self) {
        self.progress.is_paused = true;
    }

    /// Ends a pause. The ticks during the pause are dropped, whatever is done with missed ones.
    pub(crate) fn resume(&mut self, now: Time) {
        if std::mem::take(&mut self.progress.is_paused) {
            let now_ms = now.on(self.schedule.scale());
            self.progress.decided_ms = self.progress.decided_ms.max(now_ms);
        }
    }

    fn waits_for_previous(&self, is_running: bool) -> bool {
        is_running && self.schedule.0.overlap == Overlap::Queue
    }

    /// Returns whether an interval is within its dates. A calendar has its dates in its ticks.
    fn is_open(&self, now: Time) -> bool {
        let definition = &self.schedule.0;
        self.schedule.scale() == Scale::Wall
            || definition
                .starts_ms
                .is_none_or(|start| now.wall_ms >= start)
                && definition.ends_ms.is_none_or(|end| now.wall_ms < end)
    }

    /// Passes over the missed ticks that are not made up.
    fn pass_over_missed(&mut self, now_ms: u64) {
        let is_missed =
            |tick_ms: u64| self.due_ms(tick_ms).saturating_add(MISSED_AFTER_MS) < now_ms;
        let decided_ms = self.progress.decided_ms;
        let first = self.next_due(decided_ms, now_ms);
        if !first.is_some_and(is_missed) {
            return;
        }
        let most = match self.schedule.0.missed {
            Missed::Skip => 0,
            Missed::One => 1,
            Missed::All(count) => count as usize,
        };
        // Only as much of the past is looked at as has the ticks that are made up, and one more.
        let mut look_back_ms = MISSED_AFTER_MS + self.jitter_ms();
        loop {
            let from_ms = decided_ms.max(now_ms.saturating_sub(look_back_ms));
            let next = |after_ms: &u64| self.next_due(*after_ms, now_ms);
            let due: Vec<u64> = std::iter::successors(next(&from_ms), next).collect();
            let missed = due.iter().take_while(|tick| is_missed(**tick)).count();
            if missed <= most && from_ms > decided_ms {
                look_back_ms = look_back_ms.saturating_mul(4);
                continue;
            }
            let is_current = missed < due.len() && self.schedule.0.missed == Missed::One;
            let made_up = if is_current { 0 } else { most };
            if let Some(last) = missed.checked_sub(made_up + 1) {
                self.progress.decided_ms = due[last];
            }
            return;
        }
    }

    /// Returns the first tick after `after_ms`, if it is due.
    fn next_due(&self, after_ms: u64, now_ms: u64) -> Option<u64> {
        let tick_ms = self.next_after(after_ms)?;
        (self.due_ms(tick_ms) <= now_ms).then_some(tick_ms)
    }

    fn next_after(&self, ms: u64) -> Option<u64> {
        let tick_ms = self.ticks.next_after(ms, self.progress.anchor_ms)?;
        let ends_ms = self.schedule.0.ends_ms;
        match self.schedule.scale() {
            Scale::Wall => ends_ms.is_none_or(|end| tick_ms < end).then_some(tick_ms),
            Scale::Steady => Some(tick_ms),
        }
    }

    /// Returns when the work of a tick is submitted: the jitter of a tick is always the same.
    fn due_ms(&self, tick_ms: u64) -> u64 {
        let random = split_mix::number(self.seed ^ split_mix::number(tick_ms));
        match self.jitter_ms() {
            0 => tick_ms,
            most => tick_ms.saturating_add(random % (most + 1)),
        }
    }

    fn jitter_ms(&self) -> u64 {
        self.schedule.0.jitter.as_millis() as u64
    }
}

impl Schedule {
    /// Returns the scale of its ticks.
    fn scale(&self) -> Scale {
        match self.0.timing {
            Timing::Cron { .. } => Scale::Wall,
            Timing::Every(_) => Scale::Steady,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;
    use crate::canvas::schedule::{cron, every};

    const SECOND: u64 = 1_000;
    const HOUR: u64 = 3_600 * SECOND;
    const DAY: u64 = 24 * HOUR;
    /// 2024-01-01T00:00:00Z
    const START: u64 = 1_704_067_200_000;

    fn at(ms: u64) -> Time {
        Time {
            steady_ms: START + ms,
            wall_ms: START + ms,
        }
    }

    fn entry(schedule: Schedule) -> Entry {
        Entry::new("entry", schedule, at(0)).unwrap()
    }

    /// Returns the ticks that are submitted at `now`, in milliseconds after the start.
    fn submitted(entry: &mut Entry, now: Time, is_running: bool) -> Vec<u64> {
        let submissions = entry.decide(now, is_running);
        submissions.iter().map(|one| one.tick_ms - START).collect()
    }

    #[test]
    fn missed_ticks_are_made_up_as_the_entry_says() {
        let later = at(10 * DAY + HOUR);
        for (missed, expected) in [
            (Missed::Skip, vec![]),
            (Missed::One, vec![10 * DAY]),
            (Missed::All(3), vec![8 * DAY, 9 * DAY, 10 * DAY]),
            (Missed::All(100), (1..=10).map(|day| day * DAY).collect()),
        ] {
            let mut entry = entry(cron("@daily").missed(missed));
            assert_eq!(submitted(&mut entry, later, false), expected, "{missed:?}");
            assert_eq!(submitted(&mut entry, later, false), [0; 0], "{missed:?}");
            let next = Some(Moment::wall(START + 11 * DAY));
            assert_eq!(entry.wake_at(later, false), next);
        }
        // One of them is on time.
        for (missed, expected) in [
            (Missed::Skip, vec![10 * DAY]),
            (Missed::One, vec![10 * DAY]),
            (Missed::All(1), vec![9 * DAY, 10 * DAY]),
        ] {
            let mut entry = entry(cron("@daily").missed(missed));
            let now = at(10 * DAY + 60 * SECOND);
            assert_eq!(submitted(&mut entry, now, false), expected, "{missed:?}");
        }
    }

    #[test]
    fn years_of_missed_seconds_are_passed_over_without_looking_at_each() {
        let second = Duration::from_secs(1);
        let mut entry = entry(every(second).missed(Missed::All(100)));
        let found = submitted(&mut entry, at(10 * 365 * DAY), false);
        assert_eq!(found.len(), 100 + 61, "with those of the last minute");
        assert!(found.is_sorted_by(|a, b| a + SECOND == *b));
        assert_eq!(found.last(), Some(&(10 * 365 * DAY)));
    }

    #[test]
    fn overlapping_ticks_do_what_the_entry_says() {
        let with = |overlap| entry(cron("@daily").overlap(overlap).missed(Missed::All(10)));
        let now = at(2 * DAY);
        assert_eq!(
            submitted(&mut with(Overlap::Allow), now, true),
            [DAY, 2 * DAY]
        );
        assert_eq!(submitted(&mut with(Overlap::Skip), now, true), [0; 0]);
        assert_eq!(submitted(&mut with(Overlap::Skip), now, false), [DAY]);

        let mut cancels = with(Overlap::CancelPrevious);
        let both = cancels.decide(now, false);
        let cancelled: Vec<_> = both.iter().map(|one| one.cancels_previous).collect();
        assert_eq!(cancelled, [false, true]);

        let mut queue = with(Overlap::Queue);
        assert_eq!(submitted(&mut queue, now, true), [0; 0]);
        assert_eq!(
            queue.wake_at(now, true),
            None,
            "the end of the work wakes it"
        );
        assert_eq!(submitted(&mut queue, now, false), [DAY]);
        assert_eq!(submitted(&mut queue, now, false), [2 * DAY]);
        assert_eq!(submitted(&mut queue, now, false), [0; 0]);
    }

    #[test]
    fn a_calendar_follows_the_wall_clock_and_an_interval_the_steady_scale() {
        let set = |ahead: i64, time: Time| Time {
            wall_ms: time.wall_ms.saturating_add_signed(ahead),
            ..time
        };
        let hour = HOUR.cast_signed();
        let mut calendar = entry(cron("@hourly"));
        assert_eq!(submitted(&mut calendar, set(hour, at(1)), false), [HOUR]);
        // Set back: the hour comes again on the clock, but not as a tick.
        assert_eq!(submitted(&mut calendar, at(HOUR), false), [0; 0]);
        assert_eq!(submitted(&mut calendar, at(2 * HOUR), false), [2 * HOUR]);

        let mut interval = entry(every(Duration::from_secs(3_600)));
        assert_eq!(
            submitted(&mut interval, set(50 * hour, at(1)), false),
            [0; 0]
        );
        let next = Some(Moment::steady(START + HOUR));
        assert_eq!(interval.wake_at(at(1), false), next);
        assert_eq!(
            submitted(&mut interval, set(-hour, at(HOUR)), false),
            [HOUR]
        );
    }

    #[test]
    fn nothing_is_due_outside_of_the_dates() {
        let (start, end) = (START + 2 * DAY, START + 4 * DAY);
        let date = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        for schedule in [cron("@daily"), every(Duration::from_secs(86_400))] {
            let mut entry = entry(schedule.starts_at(date(start)).ends_at(date(end)));
            let mut found = Vec::new();
            for hour in 1..200 {
                let now = at(hour * HOUR);
                found.extend(submitted(&mut entry, now, false));
            }
            assert_eq!(found, [2 * DAY, 3 * DAY]);
            assert_eq!(entry.wake_at(at(200 * HOUR), false), None);
        }
        let late = entry(every(Duration::from_secs(60)).starts_at(date(start)));
        assert_eq!(late.wake_at(at(0), false), Some(Moment::wall(start)));
    }

    #[test]
    fn ticks_during_a_pause_are_dropped() {
        let mut entry = entry(cron("@hourly").missed(Missed::All(9)));
        entry.pause();
        assert_eq!(submitted(&mut entry, at(3 * HOUR), false), [0; 0]);
        assert_eq!(entry.wake_at(at(3 * HOUR), false), None);
        entry.resume(at(3 * HOUR));
        entry.resume(at(4 * HOUR)); // it is not paused
        assert_eq!(submitted(&mut entry, at(4 * HOUR), false), [4 * HOUR]);
    }

    #[test]
    fn another_definition_keeps_the_ticks_unless_it_has_others() {
        let mut hourly = entry(cron("@hourly"));
        assert_eq!(submitted(&mut hourly, at(HOUR), false), [HOUR]);
        let options = cron("@hourly").missed(Missed::All(9));
        let now = at(3 * HOUR + HOUR / 2);
        let mut same = hourly.clone().redefine("entry", options, now).unwrap();
        assert_eq!(submitted(&mut same, now, false), [2 * HOUR, 3 * HOUR]);
        let others = cron("@daily").missed(Missed::All(9));
        let mut daily = hourly.redefine("entry", others, now).unwrap();
        assert_eq!(daily.progress().last_ms, Some(START + HOUR));
        assert_eq!(submitted(&mut daily, now, false), [0; 0]);
        assert_eq!(submitted(&mut daily, at(DAY), false), [DAY]);
    }

    #[test]
    fn jitter_is_the_same_each_time_and_differs_between_entries() {
        let most = Duration::from_secs(600);
        let hourly = || cron("@hourly").jitter(most);
        let delays = |name| {
            let entry = Entry::new(name, hourly(), at(0)).unwrap();
            let ticks = (1..50).map(|hour| START + hour * HOUR);
            let delays: Vec<_> = ticks.map(|tick| entry.due_ms(tick) - tick).collect();
            delays
        };
        assert_eq!(delays("a"), delays("a"));
        assert_ne!(delays("a"), delays("b"));
        let delays = delays("a");
        assert!(delays.iter().all(|delay| *delay <= 600 * SECOND));
        assert!(delays.iter().any(|delay| *delay < 100 * SECOND));
        assert!(delays.iter().any(|delay| *delay > 500 * SECOND));
        let mut entry = entry(hourly());
        let Some(Moment { ms, .. }) = entry.wake_at(at(0), false) else {
            panic!("it has a tick");
        };
        assert_eq!(submitted(&mut entry, at(ms - 1 - START), false), [0; 0]);
        assert_eq!(submitted(&mut entry, at(ms - START), false), [HOUR]);
    }

    fn schedules() -> impl Strategy<Value = Schedule> {
        let timing = prop_oneof![
            Just(cron("* * * * *")),
            Just(cron("*/7 * * * *").tz("Europe/Berlin")),
            Just(cron("*/20 1-3 * * *").tz("America/New_York")),
            Just(cron("30 2 * * *").tz("Australia/Lord_Howe")),
            Just(cron("0 * * * *").tz("Africa/Casablanca")),
            (1_u64..5_000).prop_map(|s| every(Duration::from_secs(s))),
        ];
        (timing, 0_u64..120).prop_map(|(schedule, s)| schedule.jitter(Duration::from_secs(s)))
    }

    /// What happens to an entry between two decisions.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// Time passes, in milliseconds.
        Pass(u64),
        /// The clock is set, by so many milliseconds.
        Set(i64),
        /// The process ends before its decision is committed, and another one starts.
        Crash,
        /// The process ends afterwards.
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (1..40 * SECOND).prop_map(Step::Pass),
            1 => (1..30 * HOUR).prop_map(Step::Pass),
            1 => (-3 * HOUR.cast_signed()..3 * HOUR.cast_signed()).prop_map(Step::Set),
            1 => Just(Step::Crash),
            1 => Just(Step::Restart),
        ];
        prop::collection::vec(step, 1..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        /// With all missed ticks made up, exactly the ticks up to the latest time that the clock
        /// has shown are submitted, each once and in order.
        #[test]
        fn no_tick_is_lost_or_doubled(schedule in schedules(), steps in steps(), start in 0..730_u64) {
            let schedule = schedule.missed(Missed::All(10_000));
            let scale = schedule.scale();
            // Within two years, so that the changes of all zones are met.
            let mut now = at(start * DAY);
            let mut entry = Entry::new("entry", schedule.clone(), now).unwrap();
            let from_ms = now.on(scale);
            let mut latest_ms = from_ms;
            let mut found = Vec::new();
            for step in steps {
                match step {
                    Step::Pass(ms) => now = now.after(ms),
                    Step::Set(ms) => now.wall_ms = now.wall_ms.saturating_add_signed(ms),
                    Step::Crash => {
                        let stored = entry.progress();
                        entry.decide(now, false);
                        entry = Entry::restore("entry", schedule.clone(), stored).unwrap();
                    }
                    Step::Restart => {
                        let stored = entry.progress();
                        entry = Entry::restore("entry", schedule.clone(), stored).unwrap();
                    }
                }
                latest_ms = latest_ms.max(now.on(scale));
                let submissions = entry.decide(now, false);
                found.extend(submissions.iter().map(|one| one.tick_ms));
                let wake = entry.wake_at(now, false).expect("it has no end");
                prop_assert!(!now.has_reached(wake), "it would be woken for nothing");
            }
            let reference = Entry::new("entry", schedule, at(start * DAY)).unwrap();
            let next = |tick: &u64| reference.next_due(*tick, latest_ms);
            let expected: Vec<_> = std::iter::successors(next(&from_ms), next).collect();
            prop_assert_eq!(found, expected);
        }

        /// Whatever is made up, no tick comes twice or out of order, and none that is on time is
        /// lost.
        #[test]
        fn ticks_on_time_are_never_lost(
            schedule in schedules(),
            missed in prop_oneof![Just(Missed::Skip), Just(Missed::One), (1..5_u32).prop_map(Missed::All)],
            steps in steps(),
        ) {
            let schedule = schedule.missed(missed);
            let scale = schedule.scale();
            let mut now = at(0);
            let mut entry = Entry::new("entry", schedule, now).unwrap();
            let mut last_ms = now.on(scale);
            for step in steps {
                match step {
                    Step::Pass(ms) => now = now.after(ms),
                    Step::Set(ms) => now.wall_ms = now.wall_ms.saturating_add_signed(ms),
                    Step::Crash | Step::Restart => {}
                }
                let before = entry.clone();
                let next = |tick: &u64| before.next_due(*tick, now.on(scale));
                let first = next(&before.progress.decided_ms);
                let due: Vec<_> = std::iter::successors(first, next).collect();
                let on_time = due
                    .iter()
                    .filter(|tick| before.due_ms(**tick) + MISSED_AFTER_MS >= now.on(scale))
                    .count();
                let late = due.len() - on_time;
                let found: Vec<_> = entry.decide(now, false).iter().map(|one| one.tick_ms).collect();
                prop_assert!(found.iter().all(|tick| *tick > last_ms));
                prop_assert!(found.is_sorted_by(|a, b| a < b));
                last_ms = found.last().copied().unwrap_or(last_ms);
                let made_up = match missed {
                    Missed::Skip => 0,
                    Missed::One => late.min(1) * usize::from(on_time == 0),
                    Missed::All(most) => late.min(most as usize),
                };
                // (Jitter can make a late tick of one that follows a tick on time.)
                prop_assert!(found.len() >= on_time);
                prop_assert!(found.len() >= made_up + on_time || !found.is_empty());
                prop_assert!(found.len() <= made_up.max(1) + on_time + usize::from(late > 0) * late.min(5));
            }
        }
    }
}
