//! The process ends at a point with a name (`src/testing/failpoint.rs`), where a crash hurts, also
//! while it goes on after such an end: each chord has one body, or fails and has one errback.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Output, Stdio};

use chordal::persistence::{RedbStore, SledStore, Store, verify};
use chordal::prelude::*;
use chordal::{AppBuilder, Error, Id};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Dice, Engine, book, own, say, seed, trials};

/// Where the program that ends, this test itself, has its store and its book; and what it runs.
const HOME: &str = "CHORDAL_CRASH_POINTS";
const SHAPE: &str = "CHORDAL_CRASH_POINTS_SHAPE";
const SIZES: [u64; 6] = [0, 1, 2, 3, 17, 1_000];
/// Makes a thousand members too many for one record, and a batch of their submission.
const TEXT: usize = 300;
/// What is swept, and takes two checkpoints, of which the second waits for the first: so many members, of
/// so many bytes each.
const LARGE: (usize, usize) = (32, 600_000);
/// The points that come with it alone: of a submission in parts, of a sweep, of a checkpoint.
const RARE: [&str; 7] = [
    "Staged",
    "Swept",
    "Purged",
    "Written",
    "Settled",
    "Marked",
    "Forgotten",
];

#[task(name = "failpoints.member")]
async fn member(n: u64, fails: bool, _text: String) -> Result<u64, TaskError> {
    book::note(format_args!("member {n}"));
    match fails {
        true => Err(TaskError::new("it is meant to")),
        false => Ok(n),
    }
}

#[task(name = "failpoints.body")]
async fn join(ctx: &TaskContext, all: Vec<u64>) -> u64 {
    book::note(format_args!("body {} {}", ctx.id(), ctx.attempt()));
    all.into_iter().sum()
}

#[task(name = "failpoints.errback")]
async fn undo(ctx: &TaskContext) {
    book::note(format_args!("errback {} {}", ctx.id(), ctx.attempt()));
}

#[task(name = "failpoints.large")]
async fn large(text: String) -> usize {
    text.len()
}

/// A chord, and what there is beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    size: u64,
    /// One member does.
    fails: bool,
    /// Before it there is a submission of 20 MB, which is forgotten.
    behind_much: bool,
}

impl Shape {
    fn all() -> Vec<Self> {
        let with = |size, fails, behind_much| Self {
            size,
            fails,
            behind_much,
        };
        let mut all = vec![with(3, false, true)];
        for size in SIZES {
            all.push(with(size, false, false));
            // Without members nobody can fail.
            if size > 0 {
                all.push(with(size, true, false));
            }
        }
        all
    }

    fn parse(text: &str) -> Self {
        let all = Self::all();
        let named = all.into_iter().find(|shape| shape.to_string() == text);
        named.unwrap_or_else(|| panic!("no shape: {text}"))
    }

    fn chord(self) -> Canvas {
        let Self { size, fails, .. } = self;
        let text = if size > 100 { TEXT } else { 0 };
        let members = (0..size).map(move |n| {
            let fails = fails && n == size / 2;
            Canvas::task("failpoints.member", (n, fails, "x".repeat(text)))
        });
        let members: Vec<Canvas> = members.collect();
        let chord = Canvas::chord(members, Canvas::task("failpoints.body", ()));
        let errback = Canvas::immutable("failpoints.errback", ());
        chord.link_error(errback).idempotency_key("chord")
    }

    #[track_caller]
    fn check(self, end: &Result<Value, Error>) {
        match end {
            Ok(sum) => assert!(!self.fails && *sum == (0..self.size).sum::<u64>(), "{sum}"),
            Err(Error::Failed(failure)) => assert!(self.fails, "{failure:?}"),
            Err(error) => panic!("{error}"),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            size,
            fails,
            behind_much,
        } = self;
        write!(f, "{size},{fails},{behind_much}")
    }
}

fn builder(engine: Engine, home: &Path) -> AppBuilder {
    let data = home.join("data");
    let app = match engine {
        Engine::Sled => App::open(data),
        Engine::Redb => App::with_store(RedbStore::open(data).unwrap()),
    };
    // None of its tasks ends the process.
    app.quarantine_after(u32::MAX)
}

/// One life, to the end of all if nothing ends it before.
fn live(engine: Engine, home: OsString) {
    let home = Path::new(&home);
    let shape = Shape::parse(&std::env::var(SHAPE).unwrap());
    book::open(home);
    let is_forgotten = book::read(home).iter().any(|line| line == "forgotten");
    let all = async {
        let app = builder(engine, home).tasks(tasks![member, join, undo, large]);
        // A few at a time: else all members end in one commit.
        let app = app.concurrency((shape.size / 10).max(3));
        let app = app.start().await.unwrap();
        if shape.behind_much && !is_forgotten {
            let members = (0..LARGE.0).map(|_| large.s("x".repeat(LARGE.1)));
            let much = group(members).idempotency_key("much");
            let much = app.apply_async(much).await.unwrap();
            much.get().await.unwrap();
            much.forget().await.unwrap();
            book::note(format_args!("forgotten"));
        }
        let chord = app.apply_async(shape.chord().typed::<(), Value>());
        let chord = chord.await.unwrap();
        book::note(format_args!("acked {}", chord.id()));
        shape.check(&chord.get().await);
        book::note(format_args!("ended"));
        chord.at_rest().await.unwrap();
        book::note(format_args!("at rest"));
        app.shutdown().await.unwrap();
        for (point, count) in chordal::reached() {
            println!("\nreached {point} {count}");
        }
        std::process::exit(0);
    };
    pollster::block_on(all)
}

/// The process ends when it comes to this point so often.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kill {
    point: String,
    nth: u64,
}

impl Kill {
    fn new(point: &str, nth: u64) -> Self {
        let point = point.to_owned();
        Self { point, nth }
    }
}

fn run(engine: Engine, home: &TempDir, shape: Shape, kill: Option<&Kill>) -> Output {
    let mut command = own(match engine {
        Engine::Sled => "failpoints::a_chord_has_one_body_or_one_errback_wherever_the_process_ends",
        Engine::Redb => {
            "failpoints::a_chord_has_one_body_or_one_errback_wherever_the_process_ends_with_redb"
        }
    });
    if let Some(Kill { point, nth }) = kill {
        command.env("CHORDAL_FAILPOINT", format!("{point}:{nth}"));
    }
    let command = command
        .env(HOME, home.path())
        .env(SHAPE, shape.to_string())
        .stdin(Stdio::null());
    command.output().unwrap()
}

/// Says whether it came to the point at which it was to end. If not it has ended well.
fn was_killed(output: &Output, kill: Option<&Kill>) -> bool {
    const SIGABRT: i32 = 6;
    let errors = String::from_utf8_lossy(&output.stderr);
    let said = kill.map(|kill| format!("CHORDAL_FAILPOINT: ends at {}", kill.point));
    let is_killed = said.is_some_and(|said| errors.lines().any(|line| line == said));
    let is_good = match is_killed {
        true => output.status.signal() == Some(SIGABRT),
        false => output.status.success(),
    };
    assert!(is_good, "{kill:?}: {}\n{errors}", output.status);
    is_killed
}

/// How often a life that nobody ends comes to each point.
fn census(engine: Engine, shape: Shape) -> Vec<Kill> {
    let home = tempfile::tempdir().unwrap();
    let output = run(engine, &home, shape, None);
    assert!(!was_killed(&output, None));
    assert_eq!(faults(&book::read(home.path()), shape, 0), [""; 0]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let reached = text.lines().filter_map(|line| {
        let (point, count) = line.strip_prefix("reached ")?.split_once(' ')?;
        Some(Kill::new(point, count.parse().unwrap()))
    });
    reached.filter(|most| most.nth > 0).collect()
}

/// What is wrong with the book of a chord that has ended, with so many ends of the process before.
fn faults(lines: &[String], shape: Shape, kills: usize) -> Vec<String> {
    let mut faults = Vec::new();
    let mut ids: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut last: BTreeMap<&str, u32> = BTreeMap::new();
    let mut members: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut has_ended, mut is_at_rest) = (false, false);
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        if is_at_rest && matches!(words[0], "member" | "body" | "errback") {
            faults.push(format!("{line}: all was at rest"));
        }
        match words[..] {
            ["acked", id] => drop(ids.entry("acked").or_default().insert(id)),
            ["member", n] => {
                *members.entry(n).or_default() += 1;
                if ids.contains_key("body") {
                    faults.push(format!("{line}: its body had begun"));
                }
            }
            [what @ ("body" | "errback"), id, attempt] => {
                ids.entry(what).or_default().insert(id);
                let attempt = attempt.parse().unwrap();
                let before = last.insert(id, attempt).unwrap_or(0);
                if attempt <= before || attempt as usize > 1 + kills {
                    faults.push(format!("{line}: behind attempt {before}, {kills} kills"));
                }
                if what == "body" && has_ended {
                    faults.push(format!("{line}: its end was told"));
                }
            }
            ["ended"] => has_ended = true,
            ["at", "rest"] => is_at_rest = true,
            ["forgotten"] => {}
            _ => panic!("no line of a book: {line:?}"),
        }
    }
    let expected = match shape.fails {
        true => [("acked", 1), ("body", 0), ("errback", 1)],
        false => [("acked", 1), ("body", 1), ("errback", 0)],
    };
    for (what, count) in expected {
        let found = ids.get(what).map_or(0, BTreeSet::len);
        if found != count {
            faults.push(format!("{found} {what}, not {count}"));
        }
    }
    if members.len() as u64 != shape.size {
        faults.push(format!("{} members ran", members.len()));
    }
    for (n, count) in members {
        if count > 1 + kills {
            faults.push(format!("member {n} ran {count} times, {kills} kills"));
        }
    }
    if !is_at_rest {
        faults.push("it has not ended".to_owned());
    }
    faults
}

/// Lives until all has ended, the first of them with these ends; says which of these came.
fn trial(engine: Engine, shape: Shape, kills: &[Kill]) -> Vec<String> {
    // Shown if it fails.
    println!("{shape:?}, {kills:?}");
    let home = tempfile::tempdir().unwrap();
    let mut came = Vec::new();
    let mut rest = kills.iter();
    loop {
        let kill = rest.next();
        let output = run(engine, &home, shape, kill);
        match kill {
            Some(kill) if was_killed(&output, Some(kill)) => came.push(kill.point.clone()),
            kill => {
                was_killed(&output, kill);
                break;
            }
        }
    }
    let book = book::read(home.path());
    assert_eq!(
        faults(&book, shape, came.len()),
        [""; 0],
        "\n{}",
        book.join("\n")
    );
    let data = home.path().join("data");
    pollster::block_on(async {
        match engine {
            Engine::Sled => check(SledStore::open(data).unwrap(), shape, &book).await,
            Engine::Redb => check(RedbStore::open(data).unwrap(), shape, &book).await,
        }
    });
    came
}

/// The store says what the book does, and nothing in it is wrong.
async fn check(store: impl Store, shape: Shape, book: &[String]) {
    let audit = verify(&store);
    assert!(audit.is_sound(), "{:?}", audit.findings);
    let acked = book.iter().find_map(|line| line.strip_prefix("acked "));
    let id: Id = acked.expect("it has no faults").parse().unwrap();
    let app = App::with_store(store).start().await.unwrap();
    let result = app.async_result::<Value>(id).await.unwrap();
    shape.check(&result.get().await);
    result.at_rest().await.unwrap();
    assert_eq!(app.pending(), 0);
    app.shutdown().await.unwrap();
}

#[test]
fn a_chord_has_one_body_or_one_errback_wherever_the_process_ends() {
    end_anywhere(Engine::Sled);
}

#[test]
fn a_chord_has_one_body_or_one_errback_wherever_the_process_ends_with_redb() {
    end_anywhere(Engine::Redb);
}

fn end_anywhere(engine: Engine) {
    if let Some(home) = std::env::var_os(HOME) {
        return live(engine, home);
    }
    let trials = trials();
    if cfg!(not(debug_assertions)) {
        return say(format_args!(
            "SKIPPED: {trials} trials with points by name: a release build has none"
        ));
    }
    let seed = seed();
    let mut dice = Dice(seed);
    // Each point of each chord; and where a chord goes on that had just got its result.
    let mut places: Vec<(usize, Vec<Kill>)> = Vec::new();
    let mut all = Vec::new();
    for (place, shape) in Shape::all().into_iter().enumerate() {
        let census = census(engine, shape);
        let mut own: Vec<Vec<Kill>> = census.iter().map(|most| vec![most.clone()]).collect();
        own.push(vec![Kill::new("Ended", 1), Kill::new("Resumed", 1)]);
        if shape.behind_much {
            // It takes long.
            own.retain(|kills| RARE.contains(&&*kills[0].point));
        }
        places.extend(own.into_iter().map(|kills| (place, kills)));
        all.push((shape, census));
    }
    for last in (1..places.len()).rev() {
        places.swap(last, dice.below(last as u64 + 1) as usize);
    }
    let mut came: BTreeMap<String, u64> = BTreeMap::new();
    for (place, most) in places.iter().cycle().take(trials as usize) {
        let (shape, census) = &all[*place];
        let some = most
            .iter()
            .map(|Kill { point, nth }| Kill::new(point, 1 + dice.below(*nth)));
        let mut kills: Vec<Kill> = some.collect();
        // And while it goes on, where it does what it did not do before.
        while kills.len() < 3 && dice.below(2) == 0 {
            let next = dice.below(census.len() as u64) as usize;
            kills.push(Kill::new(&census[next].point, 1 + dice.below(3)));
        }
        for point in trial(engine, *shape, &kills) {
            *came.entry(point).or_default() += 1;
        }
    }
    let kills: u64 = came.values().sum();
    let known = chordal::reached().len();
    let of_checkpoints = 4;
    let known = match engine {
        Engine::Sled => known,
        Engine::Redb => known - of_checkpoints,
    };
    say(format_args!(
        "crash: {engine:?}: {trials} trials with points by name, {kills} ends at {} of the {known}; CHORDAL_CRASH_SEED={seed}",
        came.len()
    ));
    assert!(
        came.len() == known || trials < 3 * places.len() as u64,
        "{came:?}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [&str; 7] = [
        "member 0", "acked r", "member 1", "member 1", "body b 1", "body b 2", "ended",
    ];

    #[track_caller]
    fn found(fails: bool, lines: &[&str]) -> Vec<String> {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let shape = Shape {
            size: 2,
            fails,
            behind_much: false,
        };
        faults(&lines, shape, 1)
    }

    fn with(more: &[&'static str]) -> Vec<&'static str> {
        [&GOOD[..], more].concat()
    }

    #[test]
    fn a_book_in_order_has_no_faults() {
        assert_eq!(found(false, &with(&["at rest"])), [""; 0]);
        let failed = [
            "acked r",
            "member 0",
            "member 1",
            "ended",
            "errback e 1",
            "errback e 2",
            "at rest",
        ];
        assert_eq!(found(true, &failed), [""; 0]);
    }

    #[test]
    fn each_kind_of_fault_is_seen() {
        for (fault, lines) in [
            ("body b 3: all was", with(&["at rest", "body b 3"])),
            ("body b 3: its end", with(&["body b 3", "at rest"])),
            ("1 kills", with(&["body b 3", "at rest"])),
            ("body b 2: behind attempt 2", with(&["body b 2", "at rest"])),
            ("2 body, not 1", with(&["body c 1", "at rest"])),
            ("1 errback, not 0", with(&["errback e 1", "at rest"])),
            ("2 acked, not 1", with(&["acked s", "at rest"])),
            ("member 1: its body", with(&["member 1", "at rest"])),
            ("member 1 ran 3 times", with(&["member 1", "at rest"])),
            ("3 members ran", with(&["member 2", "at rest"])),
            ("it has not ended", with(&[])),
        ] {
            let found = found(false, &lines);
            assert!(
                found.iter().any(|found| found.contains(fault)),
                "{fault}: {found:?}"
            );
        }
    }
}
