//! cargo run --package rig
//!
//! Tries every promise of RELIABILITY.md and prints a line for each: how many trials, how many of them
//! failed, how long it took, what could not be tried here. Fails if one has failed.

mod figures;
mod promises;
mod suite;
mod tally;

use std::collections::BTreeMap;
use std::process::{ExitCode, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, iter, thread};

use clap::Parser;
use promises::{CHECKS, CONTROLS, Check, Control, PROMISES, Promise, Trials};
use suite::{Programs, Suite};
use tally::Tally;

/// So many checks run at once: most of the time they wait for disks and for processes.
const LANES: usize = 2;

/// Tries what chordal promises, each promise with its trials.
#[derive(Debug, Parser)]
struct Arguments {
    /// A few trials of each.
    #[arg(long)]
    quick: bool,
    /// So many times as many trials, where their number can be set.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    times: u64,
    /// These promises alone, `G3,G4`; with `--controls`, these rules.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Switches off one rule after the other: for each, a check has to turn red.
    #[arg(long)]
    controls: bool,
}

impl Arguments {
    fn has(&self, id: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == id)
    }

    fn trials(&self, check: &Check) -> u64 {
        match check.trials {
            Trials::Set(_, quick, _) if self.quick => quick,
            Trials::Set(.., whole) => whole * self.times,
            Trials::Fixed => 1,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let known = |id: &String| {
        let mut ids = PROMISES.iter().map(|promise| promise.id);
        let mut rules = CONTROLS.iter().map(|control| control.rule);
        if arguments.controls {
            rules.any(|rule| rule == id)
        } else {
            ids.any(|known| known == id)
        }
    };
    if let Some(unknown) = arguments.only.iter().find(|id| !known(id)) {
        eprintln!("there is no {unknown}");
        return ExitCode::from(2);
    }
    let is_good = match arguments.controls {
        true => controls(&arguments),
        false => promises(&arguments),
    };
    match is_good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Runs each check once, whatever it is good for, and says what that means for each promise.
fn promises(arguments: &Arguments) -> Result<bool, String> {
    let promises: Vec<&Promise> = PROMISES
        .iter()
        .filter(|promise| arguments.has(promise.id))
        .collect();
    let needed = |check: &&Check| {
        let mut promises = promises.iter();
        promises.any(|promise| promise.checks.contains(&check.name))
    };
    let checks: Vec<&'static Check> = CHECKS.iter().filter(needed).collect();
    let suites: Vec<Suite> = checks.iter().map(|check| check.suite).collect();
    let programs = Programs::build(&suites)?;
    let begun = Instant::now();
    let run = |check: &'static Check| -> Result<Counted, String> {
        let trials = arguments.trials(check);
        let tally = match check.figure {
            Some(figure) => figure.measure(programs.path(check.suite)?, trials)?,
            None => {
                let (output, time) = timed(&programs, check, trials, &[])?;
                let tally = Tally::of(&output, time);
                if tally.failures > 0 {
                    keep(check, &output)?;
                }
                tally
            }
        };
        println!(
            "{}: {} trials, {} failures, {:.1} s",
            check.name,
            tally.trials,
            tally.failures,
            tally.time.as_secs_f64()
        );
        Ok((check.name, tally))
    };
    // What is measured is measured alone.
    let (measured, tried): (Vec<_>, Vec<_>) =
        checks.into_iter().partition(|check| check.figure.is_some());
    let mut tallies = side_by_side(&tried, run)?;
    for check in measured {
        tallies.push(run(check)?);
    }
    let tallies: BTreeMap<_, _> = tallies.into_iter().collect();
    println!();
    println!(
        "{:4} {:58} {:>7} {:>8} {:>7}",
        "", "promise", "trials", "failures", "seconds"
    );
    for promise in promises {
        println!("{}", line(promise, &tallies));
    }
    let failures: u64 = tallies.values().map(|tally| tally.failures).sum();
    println!(
        "{failures} failures in {:.0} s; a check that is good for several promises counts in each",
        begun.elapsed().as_secs_f64()
    );
    Ok(failures == 0)
}

type Counted = (&'static str, Tally);

/// Runs the checks, [`LANES`] at a time.
fn side_by_side(
    checks: &[&'static Check],
    run: impl Fn(&'static Check) -> Result<Counted, String> + Sync,
) -> Result<Vec<Counted>, String> {
    let next = AtomicUsize::new(0);
    let lane = || {
        let take = || checks.get(next.fetch_add(1, Ordering::Relaxed));
        iter::from_fn(take).map(|check| run(check)).collect()
    };
    let lanes: Result<Vec<Vec<Counted>>, String> = thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(lane)).collect();
        let ends = lanes.into_iter().map(|lane| lane.join());
        ends.map(|end| end.unwrap_or_else(|_| Err("a lane panicked".to_owned())))
            .collect()
    });
    Ok(lanes?.into_iter().flatten().collect())
}

fn line(promise: &Promise, tallies: &BTreeMap<&str, Tally>) -> String {
    let Promise { id, words, checks } = promise;
    if checks.is_empty() {
        return format!("{id:4} {words:58} not built");
    }
    let mut sum = Tally::default();
    for check in *checks {
        sum += &tallies[check];
    }
    let skipped = sum.skipped.iter().map(|why| format!("  skipped: {why}"));
    let measured = sum
        .measured
        .iter()
        .map(|what| format!("  measured: {what}"));
    format!(
        "{id:4} {words:58} {:7} {:8} {:7.1}{}",
        sum.trials,
        sum.failures,
        sum.time.as_secs_f64(),
        measured.chain(skipped).collect::<String>()
    )
}

/// Without its rule each check has to turn red; with it, it is one of those above.
fn controls(arguments: &Arguments) -> Result<bool, String> {
    let controls = CONTROLS
        .iter()
        .filter(|control| arguments.has(control.rule));
    let controls: Vec<&Control> = controls.collect();
    let suites: Vec<Suite> = controls.iter().map(|c| c.check.suite).collect();
    let programs = Programs::build(&suites)?;
    let mut all_red = true;
    for control in controls {
        let Control {
            rule,
            words,
            check,
            says,
            rounds,
        } = control;
        let mut trials = 0;
        let mut took = Duration::ZERO;
        let mut seen = "green";
        let mut skipped = String::new();
        for _ in 0..*rounds {
            let (output, time) = timed(
                &programs,
                check,
                arguments.trials(check),
                &[("CHORDAL_WITHOUT", rule)],
            )?;
            let tally = Tally::of(&output, time);
            took += time;
            if let Some(why) = tally.skipped.first() {
                seen = "not tried";
                skipped = format!("  skipped: {why}");
                break;
            }
            trials += tally.trials.max(1);
            if tally.failures > 0 {
                keep(check, &output)?;
                seen = match tally::said(&output).contains(says) {
                    true => "red",
                    false => "red for another reason",
                };
                break;
            }
        }
        all_red &= ["red", "not tried"].contains(&seen);
        println!(
            "{rule}  {words:50} expected red, seen {seen}: {}, {trials} trials, {:.1} s{skipped}",
            check.name,
            took.as_secs_f64()
        );
    }
    Ok(all_red)
}

fn timed(
    programs: &Programs,
    check: &Check,
    trials: u64,
    variables: &[(&str, &str)],
) -> Result<(Output, Duration), String> {
    let begun = Instant::now();
    let output = programs.run(check, trials, variables)?;
    Ok((output, begun.elapsed()))
}

/// What a check said that failed.
fn keep(check: &Check, output: &Output) -> Result<(), String> {
    let directory = suite::root().join("target/rig");
    let path = directory.join(format!("{}.log", check.name.replace(' ', "-")));
    fs::create_dir_all(&directory)
        .and_then(|()| fs::write(&path, [&output.stdout[..], &output.stderr].concat()))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    println!("{}: see {}", check.name, path.display());
    Ok(())
}
