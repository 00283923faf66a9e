//! Clock steps: when the wall clock is set, and by how much. No time passes at a step.

use crate::dice::Dice;

const SECOND: i64 = 1_000;
const HOUR: i64 = 3_600 * SECOND;
const DAY: i64 = 24 * HOUR;

/// One step of the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClockStep {
    /// The number of driver steps before it, over all lives.
    pub(crate) after: usize,
    /// In milliseconds; negative: backwards.
    pub(crate) by_ms: i64,
}

/// Returns the clock steps of a seed, in order. Two of five seeds have some; the runs of the others
/// stay as they were before clock steps existed. A step back is undone later, since a task that
/// waits for a point in time would wait as long.
pub(crate) fn of(seed: u64) -> Vec<ClockStep> {
    let mut steps = Vec::new();
    if !matches!(seed % 5, 0 | 4) {
        return steps;
    }
    let dice = Dice::new(seed.rotate_left(16) ^ 5);
    for _ in 0..1 + dice.roll(3) {
        let after = dice.roll(dice.pick(&[10, 60, 300]));
        let by_ms = dice.pick(&[
            -30 * DAY,
            -HOUR,
            -5 * SECOND,
            5 * SECOND,
            HOUR,
            DAY + HOUR,
            400 * DAY,
        ]);
        steps.push(ClockStep { after, by_ms });
        if by_ms < 0 || dice.percent(50) {
            steps.push(ClockStep {
                after: after + 1 + dice.roll(80),
                by_ms: -by_ms,
            });
        }
    }
    steps.sort_by_key(|step| step.after);
    steps
}
