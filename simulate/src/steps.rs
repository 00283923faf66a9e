//! Settings of the wall clock: when it is set, and by how much. No time passes with it.

use crate::dice::Dice;

const SECOND: i64 = 1_000;
const HOUR: i64 = 3_600 * SECOND;
const DAY: i64 = 24 * HOUR;

/// One setting of the clock, after so many steps of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) after: usize,
    /// In milliseconds; back, if it is negative.
    pub(crate) by_ms: i64,
}

/// Those of a seed, in order. In two of five seeds there are some: the others stay what they were before there were
/// any. What was set back is put right again, since what waits for a point in time would wait for it.
pub(crate) fn of(seed: u64) -> Vec<Setting> {
    let mut settings = Vec::new();
    if !matches!(seed % 5, 0 | 4) {
        return settings;
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
        settings.push(Setting { after, by_ms });
        if by_ms < 0 || dice.percent(50) {
            settings.push(Setting {
                after: after + 1 + dice.roll(80),
                by_ms: -by_ms,
            });
        }
    }
    settings.sort_by_key(|setting| setting.after);
    settings
}
