//! What the tests say of themselves, counted.
//!
//! Each line that has `<n> trials` (or `seeds`) in it counts; a test that says nothing is one trial.
//! `SKIPPED: …` is what could not be tried, and why.

use std::ops::AddAssign;
use std::process::Output;
use std::time::Duration;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) trials: u64,
    pub(crate) failures: u64,
    pub(crate) time: Duration,
    pub(crate) skipped: Vec<String>,
    /// Figures, and what they are held against.
    pub(crate) measured: Vec<String>,
}

impl Tally {
    pub(crate) fn of(output: &Output, time: Duration) -> Self {
        let mut tally = Self::read(&said(output), output.status.success());
        tally.time = time;
        tally
    }

    fn read(said: &str, is_green: bool) -> Self {
        let (mut trials, mut passed, mut failures) = (0, 0, 0);
        let mut skipped = Vec::new();
        for line in said.lines() {
            if let Some((_, why)) = line.split_once("SKIPPED: ") {
                skipped.push(why.to_owned());
                continue;
            }
            trials += before(line, &["trials", "seeds"]);
            passed += before(line, &["passed"]);
            failures += before(line, &["failed"]);
        }
        if trials == 0 {
            trials = passed.saturating_sub(skipped.len() as u64);
        }
        // Killed, or with nothing to run: neither may pass for a success.
        if failures == 0 && (!is_green || trials == 0 && skipped.is_empty()) {
            failures = 1;
        }
        Self {
            trials,
            failures,
            skipped,
            ..Self::default()
        }
    }
}

impl AddAssign<&Tally> for Tally {
    fn add_assign(&mut self, other: &Tally) {
        self.trials += other.trials;
        self.failures += other.failures;
        self.time += other.time;
        self.skipped.extend_from_slice(&other.skipped);
        self.measured.extend_from_slice(&other.measured);
    }
}

/// All that it has said.
pub(crate) fn said(output: &Output) -> String {
    let said = [&output.stdout[..], b"\n", &output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}

/// The first number that stands before one of these words.
fn before(line: &str, units: &[&str]) -> u64 {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = words.windows(2).find_map(|pair| {
        let word = pair[1].trim_end_matches([',', ';', ':', '.']);
        let is_unit = units.contains(&word);
        is_unit.then(|| pair[0].parse().ok()).flatten()
    });
    number.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREEN: &str = "test a ... ok\ntest result: ok. 2 passed; 0 failed; 0 ignored";

    #[test]
    fn what_tests_say_is_added_up_and_silent_ones_count_as_one() {
        let said = format!("crash: Sled: 40 trials, 93 runs\ncrash: Redb: 40 trials\n{GREEN}");
        assert_eq!(Tally::read(&said, true).trials, 80);
        assert_eq!(Tally::read(GREEN, true).trials, 2);
        let seeds = Tally::read("20000 seeds, 3 lives: 9 seeds a second, 0 failed", true);
        assert_eq!((seeds.trials, seeds.failures), (20_000, 0));
    }

    #[test]
    fn a_failure_is_counted_however_it_shows() {
        let said = "test result: FAILED. 2 passed; 3 failed; 0 ignored";
        assert_eq!(Tally::read(said, false).failures, 3);
        assert_eq!(Tally::read("", false).failures, 1);
        let nothing = "test result: ok. 0 passed; 0 failed; 9 filtered out";
        assert_eq!(Tally::read(nothing, true).failures, 1);
    }

    #[test]
    fn what_is_skipped_is_no_trial_and_no_failure() {
        let said = format!("SKIPPED: 60 trials with power cuts: no root\n{GREEN}");
        let tally = Tally::read(&said, true);
        assert_eq!((tally.trials, tally.failures), (1, 0));
        assert_eq!(tally.skipped, ["60 trials with power cuts: no root"]);
    }
}
