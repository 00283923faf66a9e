//! Time on two scales: the wall clock, which can be set, and a steady scale.

use serde::{Deserialize, Serialize};

/// The scale of a moment. Both scales count milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Elapsed time, across restarts too; used for delays. It started at the wall clock's time, and
    /// setting the clock does not change it.
    Steady,
    /// Time since the Unix epoch, as the machine's clock shows it; used for points in time.
    Wall,
}

/// A moment to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) scale: Scale,
    pub(crate) ms: u64,
}

/// The current time on both scales.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) steady_ms: u64,
    pub(crate) wall_ms: u64,
}

/// The earliest of several moments on each scale. Which of the two comes first can change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Earliest {
    pub(crate) steady_ms: Option<u64>,
    pub(crate) wall_ms: Option<u64>,
}

impl Moment {
    pub(crate) fn steady(ms: u64) -> Self {
        let scale = Scale::Steady;
        Self { scale, ms }
    }

    pub(crate) fn wall(ms: u64) -> Self {
        let scale = Scale::Wall;
        Self { scale, ms }
    }
}

impl Time {
    pub(crate) fn on(self, scale: Scale) -> u64 {
        match scale {
            Scale::Steady => self.steady_ms,
            Scale::Wall => self.wall_ms,
        }
    }

    pub(crate) fn has_reached(self, moment: Moment) -> bool {
        self.left_ms(moment) == 0
    }

    /// Returns the time until a moment unless the clock is set meanwhile; 0 once the moment has
    /// come.
    pub(crate) fn left_ms(self, moment: Moment) -> u64 {
        moment.ms.saturating_sub(self.on(moment.scale))
    }

    /// Returns the time `ms` later.
    pub(crate) fn after(self, ms: u64) -> Self {
        Self {
            steady_ms: self.steady_ms.saturating_add(ms),
            wall_ms: self.wall_ms.saturating_add(ms),
        }
    }

    /// Returns by how much the wall clock is ahead of the steady scale.
    pub(crate) fn ahead_ms(self) -> i64 {
        self.wall_ms.wrapping_sub(self.steady_ms).cast_signed()
    }

    /// Returns what the wall clock shows at a moment unless it is set meanwhile, in milliseconds
    /// since the Unix epoch.
    pub(crate) fn on_the_wall(self, moment: Moment) -> u64 {
        match moment.scale {
            Scale::Wall => moment.ms,
            Scale::Steady => moment.ms.saturating_add_signed(self.ahead_ms()),
        }
    }

    /// Returns the steady time at which the wall clock showed `wall_ms`, unless the clock was set
    /// since.
    pub(crate) fn steady_at(self, wall_ms: u64) -> u64 {
        let ago = self.wall_ms.saturating_sub(wall_ms);
        self.steady_ms.saturating_sub(ago)
    }
}

#[cfg(test)]
impl Time {
    /// Returns a time with both scales equal, as before the clock is set.
    pub(crate) fn both(ms: u64) -> Self {
        Self {
            steady_ms: ms,
            wall_ms: ms,
        }
    }
}

impl Earliest {
    pub(crate) fn add(&mut self, moment: Moment) {
        let first = match moment.scale {
            Scale::Steady => &mut self.steady_ms,
            Scale::Wall => &mut self.wall_ms,
        };
        *first = Some(first.map_or(moment.ms, |first| first.min(moment.ms)));
    }

    pub(crate) fn moments(self) -> impl Iterator<Item = Moment> {
        let steady = self.steady_ms.map(Moment::steady);
        steady.into_iter().chain(self.wall_ms.map(Moment::wall))
    }

    /// Returns the time until the first of them, unless the clock is set meanwhile.
    pub(crate) fn left_ms(self, now: Time) -> Option<u64> {
        self.moments().map(|moment| now.left_ms(moment)).min()
    }

    pub(crate) fn has_come(self, now: Time) -> bool {
        self.left_ms(now) == Some(0)
    }

    /// Returns whether one of these moments comes before those of `other` on its scale.
    pub(crate) fn is_before(self, other: Self) -> bool {
        let before = |own: Option<u64>, other: Option<u64>| {
            own.is_some_and(|own| other.is_none_or(|other| own < other))
        };
        before(self.steady_ms, other.steady_ms) || before(self.wall_ms, other.wall_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_moment_depends_on_both_clocks() {
        let mut earliest = Earliest::default();
        assert!(!earliest.has_come(Time::both(u64::MAX)));
        for moment in [
            Moment::steady(70),
            Moment::wall(90),
            Moment::steady(60),
            Moment::wall(95),
        ] {
            earliest.add(moment);
        }
        let at = |steady_ms, wall_ms| Time { steady_ms, wall_ms };
        assert_eq!(earliest.left_ms(at(50, 50)), Some(10));
        assert_eq!(earliest.left_ms(at(50, 88)), Some(2));
        assert!(earliest.has_come(at(0, 90)) && earliest.has_come(at(60, 0)));
        assert!(!earliest.has_come(at(59, 89)));
    }

    #[test]
    fn the_end_of_a_delay_is_converted_to_the_current_wall_clock() {
        let now = Time {
            steady_ms: 100,
            wall_ms: 40,
        };
        assert_eq!(now.on_the_wall(Moment::steady(130)), 70);
        assert_eq!(now.on_the_wall(Moment::wall(130)), 130);
        assert_eq!(now.steady_at(10), 70);
        assert_eq!(now.steady_at(50), 100);
    }
}
