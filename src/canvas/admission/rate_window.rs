//! The starts under one rate limit: decides when the next one is allowed.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::canvas::rate_limit::RateLimit;

/// Starts are spread evenly to within this time: timers are no more precise, and a batch of starts
/// is committed together.
const EVEN_TO_MS: u64 = 10;

/// A window remembers at most about this many points in time, however many starts it allows:
/// starts close to each other share one.
const POINTS: u64 = 64;

/// The starts under one rate limit that are not a period old.
///
/// A start is *granted* to a task with its slot; it is *recorded* when the task's start goes into a
/// batch, and *counted* when the function is called. Invariant: the starts counted in any period and
/// those granted or recorded are never more than the limit allows.
///
/// Two rules decide. The window holds the times of the last starts, so that the limit is exact in
/// every period; and a generic cell rate algorithm spaces the grants, so that they are spread over
/// it.
#[derive(Debug)]
pub(crate) struct RateWindow {
    limit: RateLimit,
    /// Times on the steady scale and how many starts were counted at each, oldest first. A time is
    /// never earlier than that of its starts.
    counted: VecDeque<(u64, u32)>,
    /// The sum of the starts in `counted`.
    in_window: u32,
    /// Granted to tasks whose actors have not recorded them yet.
    granted: u32,
    /// Recorded and not counted.
    recorded: u32,
    /// When the next start is due if starts are spread evenly, in microseconds.
    next_us: u64,
}

/// The starts of a window as they are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredStarts {
    /// The length of the period.
    pub(crate) period_ms: u64,
    /// Times and counts, oldest first.
    pub(crate) counted: Vec<(u64, u32)>,
    /// Starts that are on record and were not counted when this record was made: they may have been
    /// called at any time until it is read.
    pub(crate) uncounted: u32,
}

impl StoredStarts {
    /// Returns whether none of these starts is in a period that includes now.
    pub(crate) fn are_over(&self, now_ms: u64) -> bool {
        let last_ms = self.counted.last().map_or(0, |(at_ms, _)| *at_ms);
        self.uncounted == 0 && last_ms + self.period_ms < now_ms
    }
}

impl RateWindow {
    pub(crate) fn new(limit: RateLimit) -> Self {
        Self {
            limit,
            counted: VecDeque::new(),
            in_window: 0,
            granted: 0,
            recorded: 0,
            next_us: 0,
        }
    }

    /// Restores the window at `now_ms`. A stored time that is still to come, after the machine's
    /// clock was behind at its boot, is taken for now.
    pub(crate) fn restore(limit: RateLimit, stored: StoredStarts, now_ms: u64) -> Self {
        let mut window = Self::new(limit);
        let times = stored.counted.into_iter();
        for (at_ms, starts) in times.chain([(now_ms, stored.uncounted)]) {
            window.push(at_ms.min(now_ms), starts);
        }
        if let Some((last_ms, _)) = window.counted.back() {
            window.next_us = last_ms * 1_000 + window.spacing_us();
        }
        window.forget_old(now_ms);
        window
    }

    /// Grants a start, which should be [allowed](Self::allowed_at) now.
    pub(crate) fn grant(&mut self, now_ms: u64) {
        self.forget_old(now_ms);
        self.granted += 1;
        self.next_us = self.next_us.max(now_ms * 1_000) + self.spacing_us();
    }

    /// Takes back a grant that does not become a start.
    pub(crate) fn withdraw(&mut self) {
        self.granted -= 1;
        self.next_us -= self.spacing_us();
    }

    /// Notes that a granted start is being recorded.
    pub(crate) fn record(&mut self) {
        self.granted -= 1;
        self.recorded += 1;
    }

    /// Counts a recorded start: its function is called.
    pub(crate) fn count(&mut self, now_ms: u64) {
        self.forget_old(now_ms);
        self.recorded -= 1;
        self.push(now_ms, 1);
    }

    /// Returns the earliest time, from `now_ms` on, at which a start is allowed; `None` while that
    /// depends on granted or recorded ones.
    pub(crate) fn allowed_at(&self, now_ms: u64) -> Option<u64> {
        // The tasks that have them would otherwise start together.
        if self.granted >= self.burst() {
            return None;
        }
        let tolerance_us = self.spacing_us() * u64::from(self.burst() - 1);
        let spaced_us = self.next_us.saturating_sub(tolerance_us);
        let spaced_ms = spaced_us.div_ceil(1_000).max(now_ms);
        let others = [self.in_window, self.granted, self.recorded];
        let others: u64 = others.into_iter().map(u64::from).sum();
        // So many starts must leave the window first.
        let mut excess = (others + 1).saturating_sub(u64::from(self.limit.starts()));
        if excess == 0 {
            return Some(spaced_ms);
        }
        for (at_ms, starts) in &self.counted {
            excess = excess.saturating_sub(u64::from(*starts));
            if excess == 0 {
                return Some(spaced_ms.max(self.leaves_at(*at_ms)));
            }
        }
        None
    }

    /// Returns when all starts that are counted now have left the window.
    pub(crate) fn empty_at(&self) -> u64 {
        let last = self.counted.back();
        last.map_or(0, |(at_ms, _)| self.leaves_at(*at_ms))
    }

    /// Returns the starts to store, in the batch that records the new ones.
    pub(crate) fn to_stored(&self) -> StoredStarts {
        StoredStarts {
            period_ms: self.limit.period_ms(),
            counted: self.counted.iter().copied().collect(),
            uncounted: self.recorded,
        }
    }

    fn push(&mut self, at_ms: u64, starts: u32) {
        if starts == 0 {
            return;
        }
        self.in_window += starts;
        // Rounded up, so that no start leaves the window early.
        let grain_ms = (self.limit.period_ms() / POINTS).max(1);
        let at_ms = match u64::from(self.limit.starts()) > POINTS {
            true => at_ms.next_multiple_of(grain_ms),
            false => at_ms,
        };
        match self.counted.back_mut() {
            Some((last_ms, count)) if *last_ms >= at_ms => *count += starts,
            _ => {
                if self.counted.is_empty() {
                    // There may be a window for each of very many keys.
                    self.counted.reserve_exact(1);
                }
                self.counted.push_back((at_ms, starts));
            }
        }
    }

    fn forget_old(&mut self, now_ms: u64) {
        while let Some((at_ms, starts)) = self.counted.front()
            && self.leaves_at(*at_ms) <= now_ms
        {
            self.in_window -= starts;
            self.counted.pop_front();
        }
    }

    /// Returns when starts of this time leave the window. The clock counts whole milliseconds, so a
    /// start at 5 may have been at 5.9.
    fn leaves_at(&self, at_ms: u64) -> u64 {
        at_ms + self.limit.period_ms() + 1
    }

    /// Returns the distance of starts that are spread evenly.
    fn spacing_us(&self) -> u64 {
        let period_us = self.limit.period_ms() * 1_000;
        period_us / u64::from(self.limit.starts())
    }

    /// Returns how many starts may follow each other at once.
    fn burst(&self) -> u32 {
        let starts = u64::from(self.limit.starts());
        let even = starts * EVEN_TO_MS / self.limit.period_ms();
        let even = u32::try_from(even).unwrap_or(u32::MAX);
        self.limit.burst_size().max(even).max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::split_mix;

    /// Fails if more than `limit` of these times are in a period, however it lies. The times are
    /// those of calls, in whole milliseconds: each call may be up to a millisecond later.
    fn check_all_windows(limit: RateLimit, calls: &[u64], of: &str) {
        let starts = limit.starts() as usize;
        for window in calls.windows(starts + 1) {
            let apart_ms = window[starts] - window[0];
            // (The first may be at the end of its millisecond.)
            let least = limit.period_ms() + 1;
            assert!(apart_ms >= least, "{of}: {window:?}");
        }
    }

    /// One limit with tasks that wait all the time, a slot that may be busy, commits that take
    /// time, withdrawn grants and restarts.
    struct World {
        limit: RateLimit,
        window: RateWindow,
        now_ms: u64,
        /// Starts in the batch that is being filled, and in the one that is being written.
        filling: u32,
        writing: Option<Writing>,
        stored: StoredStarts,
        calls: Vec<u64>,
    }

    struct Writing {
        until_ms: u64,
        starts: u32,
        record: StoredStarts,
    }

    impl World {
        fn new(limit: RateLimit) -> Self {
            Self {
                limit,
                window: RateWindow::new(limit),
                now_ms: 1_000_000,
                filling: 0,
                writing: None,
                stored: StoredStarts::default(),
                calls: Vec::new(),
            }
        }

        /// Seals a batch and begins to write it, if none is being written.
        fn seal(&mut self, takes_ms: u64) {
            if self.writing.is_none() && self.filling > 0 {
                self.writing = Some(Writing {
                    until_ms: self.now_ms + takes_ms,
                    starts: std::mem::take(&mut self.filling),
                    record: self.window.to_stored(),
                });
            }
        }

        /// Ends a commit whose time has come.
        fn commit(&mut self) {
            let now_ms = self.now_ms;
            let written = self.writing.take_if(|writing| writing.until_ms <= now_ms);
            if let Some(Writing { starts, record, .. }) = written {
                (0..starts).for_each(|_| self.window.count(self.now_ms));
                self.call(starts, record);
            }
        }

        fn call(&mut self, starts: u32, record: StoredStarts) {
            self.calls.extend((0..starts).map(|_| self.now_ms));
            self.stored = record;
        }

        /// Kills the process, perhaps behind a commit that its engine has not seen, and starts
        /// another after a while.
        fn restart(&mut self, is_written: bool, after_ms: u64) {
            if let Some(Writing { starts, record, .. }) = self.writing.take_if(|_| is_written) {
                self.call(starts, record);
            }
            (self.filling, self.writing) = (0, None);
            self.now_ms += after_ms;
            let stored = self.stored.clone();
            self.window = RateWindow::restore(self.limit, stored, self.now_ms);
            self.stored = self.window.to_stored();
        }
    }

    #[test]
    fn no_window_has_more_starts_than_allowed_over_slow_commits_busy_slots_and_restarts() {
        let limits = [
            "1/s", "3/s", "10/s", "7/100ms", "10/m", "100/s", "1000/s", "500/50ms", "1/ms",
        ];
        for (number, text) in limits.into_iter().enumerate() {
            for seed in 0..30 {
                let mut state = seed * 100 + number as u64;
                let mut random = |below: u64| {
                    state = state.wrapping_add(split_mix::STEP);
                    split_mix::number(state) % below
                };
                let limit: RateLimit = text.parse().unwrap();
                let bursts = [1, limit.starts(), limit.starts().div_ceil(3)];
                let limit = limit.burst(bursts[random(3) as usize]);
                let mut world = World::new(limit);
                let (slow, busy) = (random(3) * 20, random(2) == 0);
                let step_ms = (limit.period_ms() / 40).clamp(1, 500);
                for _ in 0..600 {
                    world.now_ms += random(2 * step_ms + 1);
                    world.commit();
                    while world.window.allowed_at(world.now_ms) == Some(world.now_ms) {
                        world.window.grant(world.now_ms);
                    }
                    // Some grants become starts, others wait for a slot, and a few are withdrawn.
                    while world.window.granted > 0 && !(busy && random(3) == 0) {
                        match random(20) {
                            0 => world.window.withdraw(),
                            _ => {
                                world.window.record();
                                world.filling += 1;
                            }
                        }
                    }
                    world.seal(random(slow + 1));
                    if random(100) == 0 {
                        world.restart(random(2) == 0, random(limit.period_ms()));
                    }
                }
                assert!(!world.calls.is_empty(), "{text} {seed}");
                check_all_windows(limit, &world.calls, &format!("{text}, seed {seed}"));
            }
        }
    }

    /// Runs a limit under constant demand, with free slots and commits without delay.
    fn saturated(limit: RateLimit, periods: u64) -> Vec<u64> {
        let mut world = World::new(limit);
        let end_ms = world.now_ms + periods * limit.period_ms();
        while let Some(at_ms) = world.window.allowed_at(world.now_ms)
            && at_ms < end_ms
        {
            world.now_ms = at_ms;
            while world.window.allowed_at(world.now_ms) == Some(world.now_ms) {
                world.window.grant(world.now_ms);
                world.window.record();
                world.filling += 1;
            }
            world.seal(0);
            world.commit();
        }
        world.calls
    }

    #[test]
    fn the_allowed_starts_are_nearly_used_up_and_spread_evenly() {
        for text in [
            "1/s",
            "10/s",
            "7/s",
            "10/m",
            "600/m",
            "100/s",
            "5000/s",
            "1000000/s",
            "100/15s",
        ] {
            let limit: RateLimit = text.parse().unwrap();
            let periods = if limit.starts() > 5_000 { 2 } else { 20 };
            let calls = saturated(limit, periods);
            check_all_windows(limit, &calls, text);
            let allowed = u64::from(limit.starts()) * periods;
            // A start at the end of its millisecond is assumed, and points share a time.
            let least = allowed * 96 / 100;
            assert!(
                calls.len() as u64 >= least,
                "{text}: {} of {allowed}",
                calls.len()
            );
            let even_ms = limit.period_ms() / u64::from(limit.starts());
            if even_ms > EVEN_TO_MS {
                let mut pairs = calls.windows(2);
                assert!(pairs.all(|pair| pair[1] - pair[0] >= even_ms), "{text}");
            }
        }
    }

    #[test]
    fn a_burst_starts_at_once_and_the_next_one_when_the_period_is_over() {
        let limit = RateLimit::new(5, Duration::from_secs(10)).burst(5);
        let calls: Vec<u64> = saturated(limit, 3)
            .iter()
            .map(|at| at - 1_000_000)
            .collect();
        let expected = [[0; 5], [10_001; 5], [20_002; 5]].concat();
        assert_eq!(calls, expected);
    }

    #[test]
    fn a_start_that_is_not_recorded_yet_holds_up_the_next_grant() {
        let mut window = RateWindow::new(RateLimit::per_second(10));
        window.grant(5_000);
        assert_eq!(window.allowed_at(9_000), None);
        window.record();
        assert_eq!(window.allowed_at(9_000), Some(9_000));
        window.grant(9_000);
        window.withdraw();
        assert_eq!(window.allowed_at(9_000), Some(9_000));
    }

    #[test]
    fn starts_that_may_have_been_called_until_the_restart_count_from_then_on() {
        let limit = RateLimit::new(2, Duration::from_secs(60));
        let mut window = RateWindow::new(limit);
        window.grant(1_000);
        window.record();
        let stored = window.to_stored();
        assert_eq!((stored.counted.len(), stored.uncounted), (0, 1));
        window.count(1_200);
        let counted = window.to_stored();
        assert_eq!((counted.counted, counted.uncounted), (vec![(1_200, 1)], 0));
        let mut restored = RateWindow::restore(limit, stored, 40_000);
        assert_eq!(restored.allowed_at(40_000), Some(70_000));
        restored.grant(70_000);
        assert_eq!(restored.allowed_at(70_000), None);
        restored.record();
        restored.count(70_000);
        assert_eq!(restored.allowed_at(70_000), Some(100_001));
        // A machine whose clock was behind at its boot.
        let future = StoredStarts {
            period_ms: 60_000,
            counted: vec![(90_000, 2)],
            uncounted: 0,
        };
        let restored = RateWindow::restore(limit, future, 10_000);
        assert_eq!(restored.allowed_at(10_000), Some(70_001));
    }
}
