//! An entry: one schedule under a name, and the decision on each of its ticks.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{InvalidSchedule, Missed, Overlap, Schedule, Ticks, Timing};
use crate::canvas::time::{Moment, Scale, Time};
use crate::split_mix;

/// A tick that is decided on later than this after its time was missed, in milliseconds.
const MISSED_AFTER_MS: u64 = 60_000;
/// The anchor of an interval whose start is still to come.
const NOT_BEGUN: u64 = u64::MAX;

/// A schedule under a name, and how far its ticks have been decided.
///
/// A calendar follows the wall clock, and an interval the steady scale: [`Progress`] counts on that
/// scale. Ticks are decided in order, each once, and [`Progress`] is stored in the same commit as
/// what was decided. A clock that is set back therefore repeats no tick.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    schedule: Schedule,
    /// `None` if this build cannot read the schedule: it may have been stored where another time zone
    /// is known. Such an entry has no ticks.
    ticks: Option<Ticks>,
    /// Of the name, so that entries with the same schedule have different jitter.
    seed: u64,
    progress: Progress,
    /// The ticks that are due and not decided, in order, as far as they are known: while they wait for
    /// the work of the tick before, only what comes behind them is looked for.
    due: VecDeque<u64>,
}

/// How far the ticks of an entry have been decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// The moment from which an interval counts, or [`NOT_BEGUN`].
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
        schedule.check()?;
        let progress = Progress {
            anchor_ms: schedule.anchor_ms(now),
            decided_ms: now.on(schedule.scale()),
            is_paused: false,
            last_ms: None,
        };
        Ok(Self::restore(name, schedule, progress))
    }

    /// Restores an entry from what is stored of it.
    pub(crate) fn restore(name: &str, schedule: Schedule, progress: Progress) -> Self {
        Self {
            ticks: schedule.ticks().ok(),
            schedule,
            seed: name.bytes().fold(0, |seed, byte| {
                split_mix::number(seed ^ u64::from(byte)).wrapping_add(split_mix::STEP)
            }),
            progress,
            due: VecDeque::new(),
        }
    }

    /// Takes over another definition under the same name. If it is due at other times, its ticks
    /// begin after `now`; else none is lost or repeated.
    pub(crate) fn redefine(
        self,
        name: &str,
        schedule: Schedule,
        now: Time,
    ) -> Result<Self, InvalidSchedule> {
        schedule.check()?;
        let (before, after) = (&self.schedule.0, &schedule.0);
        let mut progress = self.progress;
        if after.timing != before.timing {
            progress.decided_ms = now.on(schedule.scale());
        }
        if after.timing != before.timing || after.starts_ms != before.starts_ms {
            progress.anchor_ms = schedule.anchor_ms(now);
        }
        Ok(Self::restore(name, schedule, progress))
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

    /// Returns why it has no ticks, if this build cannot read its schedule.
    pub(crate) fn error(&self) -> Option<InvalidSchedule> {
        self.schedule.check().err()
    }

    /// Decides on all ticks that are due; returns the work to be submitted, in order. `is_running`:
    /// the work of the last tick has not ended.
    pub(crate) fn decide(&mut self, now: Time, is_running: bool) -> Vec<Submission> {
        let mut submissions = Vec::new();
        if self.progress.is_paused || self.waits_for_previous(is_running) {
            return submissions;
        }
        self.begin(now);
        self.find_due(now);
        self.pass_over_missed(now);
        let mut is_running = is_running;
        while let Some(tick_ms) = self.due.pop_front() {
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
        if self.progress.anchor_ms == NOT_BEGUN {
            return self.schedule.0.starts_ms.map(Moment::wall);
        }
        let tick_ms = self.next_after(self.progress.decided_ms, now)?;
        let ms = self.due_ms(tick_ms);
        let scale = self.schedule.scale();
        Some(Moment { scale, ms })
    }

    /// Returns whether the moment of its next decision changes when the clock is set: an interval
    /// counts on the steady scale, and its end is a point in time.
    pub(crate) fn follows_both_scales(&self) -> bool {
        self.schedule.scale() == Scale::Steady && self.schedule.0.ends_ms.is_some()
    }

    pub(crate) fn pause(&mut self) {
        self.progress.is_paused = true;
    }

    /// Ends a pause. The ticks during the pause are dropped, whatever is done with missed ones.
    pub(crate) fn resume(&mut self, now: Time) {
        if std::mem::take(&mut self.progress.is_paused) {
            let now_ms = now.on(self.schedule.scale());
            self.progress.decided_ms = self.progress.decided_ms.max(now_ms);
            self.due.clear();
        }
    }

    fn waits_for_previous(&self, is_running: bool) -> bool {
        is_running && self.schedule.0.overlap == Overlap::Queue
    }

    /// Begins to count an interval whose start has come.
    fn begin(&mut self, now: Time) {
        if self.progress.anchor_ms == NOT_BEGUN {
            self.progress.anchor_ms = match self.schedule.0.starts_ms {
                Some(start_ms) if start_ms <= now.wall_ms => now.steady_at(start_ms),
                Some(_) => NOT_BEGUN,
                None => now.steady_ms,
            };
        }
    }

    /// Finds the ticks that are due: all of the last minute, and of the missed ones before as many as
    /// are made up, and one more.
    fn find_due(&mut self, now: Time) {
        let now_ms = now.on(self.schedule.scale());
        let look_back_ms = MISSED_AFTER_MS + self.jitter_ms();
        let last_ms = self.due.back().copied();
        let is_near = last_ms.is_some_and(|last| last <= now_ms && now_ms - last <= look_back_ms);
        if let Some(last_ms) = last_ms.filter(|_| is_near) {
            let later = self.due_after(last_ms, now);
            self.due.extend(later);
            return;
        }
        let decided_ms = self.progress.decided_ms;
        let first = self.next_due(decided_ms, now);
        if !first.is_some_and(|tick| self.is_missed(tick, now_ms)) {
            self.due = self.due_after(decided_ms, now).into();
            return;
        }
        let mut look_back_ms = look_back_ms;
        loop {
            let from_ms = decided_ms.max(now_ms.saturating_sub(look_back_ms));
            let due = self.due_after(from_ms, now);
            let missed = due.iter().take_while(|tick| self.is_missed(**tick, now_ms));
            if missed.count() > self.most_made_up() || from_ms == decided_ms {
                self.due = due.into();
                return;
            }
            look_back_ms = look_back_ms.saturating_mul(4);
        }
    }

    /// Passes over the missed ticks that are not made up.
    fn pass_over_missed(&mut self, now: Time) {
        let (most, is_one) = (self.most_made_up(), self.schedule.0.missed == Missed::One);
        if self.due.len() <= most && !is_one {
            return;
        }
        let now_ms = now.on(self.schedule.scale());
        let missed = self.due.iter();
        let missed = missed.take_while(|tick| self.is_missed(**tick, now_ms));
        let missed = missed.count();
        let is_current = is_one && missed < self.due.len();
        let made_up = if is_current { 0 } else { most };
        let mut passed_over = self.due.drain(..missed.saturating_sub(made_up));
        if let Some(last) = passed_over.next_back() {
            self.progress.decided_ms = last;
        }
    }

    fn most_made_up(&self) -> usize {
        match self.schedule.0.missed {
            Missed::Skip => 0,
            Missed::One => 1,
            Missed::All(count) => count as usize,
        }
    }

    fn is_missed(&self, tick_ms: u64, now_ms: u64) -> bool {
        self.due_ms(tick_ms).saturating_add(MISSED_AFTER_MS) < now_ms
    }

    /// Returns the ticks after `after_ms` that are due.
    fn due_after(&self, after_ms: u64, now: Time) -> Vec<u64> {
        let next = |after_ms: &u64| self.next_due(*after_ms, now);
        std::iter::successors(next(&after_ms), next).collect()
    }

    /// Returns the first tick after `after_ms`, if it is due.
    fn next_due(&self, after_ms: u64, now: Time) -> Option<u64> {
        let tick_ms = self.next_after(after_ms, now)?;
        (self.due_ms(tick_ms) <= now.on(self.schedule.scale())).then_some(tick_ms)
    }

    fn next_after(&self, ms: u64, now: Time) -> Option<u64> {
        if self.progress.anchor_ms == NOT_BEGUN {
            return None;
        }
        let ticks = self.ticks.as_ref()?;
        let tick_ms = ticks.next_after(ms, self.progress.anchor_ms)?;
        let is_before = |end_ms| match self.schedule.scale() {
            Scale::Wall => tick_ms < end_ms,
            Scale::Steady => now.on_the_wall(Moment::steady(tick_ms)) < end_ms,
        };
        let is_tick = self.schedule.0.ends_ms.is_none_or(is_before);
        is_tick.then_some(tick_ms)
    }

    /// Returns when the work of a tick is submitted: the jitter of a tick is always the same.
    fn due_ms(&self, tick_ms: u64) -> u64 {
        match self.jitter_ms() {
            0 => tick_ms,
            most => {
                let random = split_mix::number(self.seed ^ split_mix::number(tick_ms));
                tick_ms.saturating_add(random % (most + 1))
            }
        }
    }

    fn jitter_ms(&self) -> u64 {
        self.schedule.0.jitter.as_millis() as u64
    }
}

impl Schedule {
    /// Returns the moment from which an interval counts that is new at `now`.
    fn anchor_ms(&self, now: Time) -> u64 {
        let scale = self.scale();
        match self.0.starts_ms {
            Some(start_ms) if scale == Scale::Steady && start_ms > now.wall_ms => NOT_BEGUN,
            _ => now.on(scale),
        }
    }

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
        for (schedule, expected) in [
            (cron("@daily"), vec![2 * DAY, 3 * DAY]),
            // One interval after the start.
            (every(Duration::from_secs(86_400)), vec![3 * DAY]),
        ] {
            let mut entry = entry(schedule.starts_at(date(start)).ends_at(date(end)));
            let mut found = Vec::new();
            for hour in 1..200 {
                let now = at(hour * HOUR);
                found.extend(submitted(&mut entry, now, false));
            }
            assert_eq!(found, expected);
            assert_eq!(entry.wake_at(at(200 * HOUR), false), None);
        }
        let late = entry(every(Duration::from_secs(60)).starts_at(date(start)));
        assert_eq!(late.wake_at(at(0), false), Some(Moment::wall(start)));
    }

    /// Returns all ticks, each decided when the entry asks to be woken or `late_ms` after that.
    fn all_ticks(entry: &mut Entry, late_ms: u64) -> Vec<u64> {
        let (mut now, mut found) = (at(0), Vec::new());
        while let Some(wake) = entry.wake_at(now, false) {
            now = now.after(now.left_ms(wake) + late_ms);
            found.extend(submitted(entry, now, false));
        }
        found
    }

    #[test]
    fn an_interval_begins_at_its_start_and_has_all_ticks_before_its_end() {
        let date = |ms| UNIX_EPOCH + Duration::from_millis(START + ms);
        let hourly = || every(Duration::from_secs(3_600)).missed(Missed::All(9));
        let (start, end) = (10 * HOUR + HOUR / 2, 13 * HOUR + HOUR / 2 + SECOND);
        let dated = || entry(hourly().starts_at(date(start)).ends_at(date(end)));
        let expected = [1, 2, 3].map(|hours| start + hours * HOUR);
        for late_ms in [0, 30 * SECOND, 5 * HOUR] {
            assert_eq!(all_ticks(&mut dated(), late_ms), expected, "{late_ms}");
        }
        // A start that has passed is none.
        let mut begun = entry(hourly().starts_at(date(0)).ends_at(date(3 * HOUR)));
        assert_eq!(all_ticks(&mut begun, 0), [HOUR, 2 * HOUR]);
        // A new start is waited for, and one that is removed no longer.
        let later = hourly().starts_at(date(start));
        let mut moved = entry(hourly()).redefine("entry", later, at(1)).unwrap();
        assert_eq!(
            moved.wake_at(at(1), false),
            Some(Moment::wall(START + start))
        );
        assert_eq!(submitted(&mut moved, at(5 * HOUR), false), [0; 0]);
        let mut now = moved.redefine("entry", hourly(), at(5 * HOUR)).unwrap();
        assert_eq!(submitted(&mut now, at(6 * HOUR), false), [6 * HOUR]);
    }

    #[test]
    fn a_clock_that_is_past_the_end_for_a_while_ends_nothing() {
        let end = UNIX_EPOCH + Duration::from_millis(START + 9 * HOUR);
        let mut hourly = entry(every(Duration::from_secs(3_600)).ends_at(end));
        let ahead = |time: Time| Time {
            wall_ms: time.wall_ms + DAY,
            ..time
        };
        assert_eq!(submitted(&mut hourly, at(HOUR), false), [HOUR]);
        assert_eq!(hourly.wake_at(ahead(at(HOUR)), false), None);
        assert_eq!(submitted(&mut hourly, ahead(at(2 * HOUR)), false), [0; 0]);
        let next = Some(Moment::steady(START + 2 * HOUR));
        assert_eq!(hourly.wake_at(at(2 * HOUR), false), next);
        assert_eq!(submitted(&mut hourly, at(2 * HOUR), false), [2 * HOUR]);
    }

    #[test]
    fn many_ticks_that_wait_for_each_other_are_looked_for_once() {
        let schedule = cron("* * * * *").overlap(Overlap::Queue);
        let mut entry = entry(schedule.missed(Missed::All(10_000)));
        let mut found = Vec::new();
        for step in 0..10_000 {
            // One more becomes due each ten seconds or so.
            let now = at(10 * DAY + step * 6 * SECOND);
            found.extend(submitted(&mut entry, now, false));
            assert!(entry.due.len() <= 10_001, "{}", entry.due.len());
        }
        assert_eq!(found.len(), 10_000);
        assert!(found.is_sorted_by(|a, b| a + 60 * SECOND == *b));
    }

    #[test]
    fn an_entry_in_a_zone_that_is_not_known_here_has_no_ticks_and_is_replaced() {
        let unknown = cron("@daily").tz("Mars/Olympus");
        let progress = entry(cron("@daily")).progress();
        let mut stored = Entry::restore("entry", unknown.clone(), progress);
        assert!(stored.error().is_some());
        assert_eq!(stored.wake_at(at(3 * DAY), false), None);
        assert_eq!(submitted(&mut stored, at(3 * DAY), false), [0; 0]);
        assert!(stored.clone().redefine("entry", unknown, at(0)).is_err());
        let known = stored.redefine("entry", cron("@daily"), at(DAY)).unwrap();
        assert_eq!(known.error(), None);
        let next = Some(Moment::wall(START + 2 * DAY));
        assert_eq!(known.wake_at(at(DAY), false), next);
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
                        entry = Entry::restore("entry", schedule.clone(), stored);
                    }
                    Step::Restart => {
                        let stored = entry.progress();
                        entry = Entry::restore("entry", schedule.clone(), stored);
                    }
                }
                latest_ms = latest_ms.max(now.on(scale));
                let submissions = entry.decide(now, false);
                found.extend(submissions.iter().map(|one| one.tick_ms));
                let wake = entry.wake_at(now, false).expect("it has no end");
                prop_assert!(!now.has_reached(wake), "it would be woken for nothing");
            }
            let reference = Entry::new("entry", schedule, at(start * DAY)).unwrap();
            let latest = Time::both(latest_ms);
            let next = |tick: &u64| reference.next_due(*tick, latest);
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
                let next = |tick: &u64| before.next_due(*tick, now);
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
