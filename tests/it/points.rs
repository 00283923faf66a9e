//! A crash at every point of a chord's life: it has one body, or fails and has one errback.
//!
//! What a crash leaves is what was committed before it. So "decided, and not committed" is the end of the
//! commit before, and "committed, and not acted upon" that of the commit itself: to cut a life behind each
//! of its commits meets all the points that there are between two lines of the engine.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};

use chordal::prelude::*;
use chordal::{Error, Id, IdError, TaskEntry};
use serde_json::Value;

use crate::disk::Disk;
use crate::recovery::within;

const SIZES: [u64; 6] = [0, 1, 2, 3, 17, 1_000];
/// How many crashes for each size of a header; more with `CHORDAL_POINT_RUNS`.
const RUNS: usize = 12;

/// Each call of a body or an errback: the chord's number, which of the two, its id.
type Calls = HashMap<u64, Vec<(&'static str, Id)>>;
static CALLS: LazyLock<Mutex<Calls>> = LazyLock::new(Mutex::default);
static CHORDS: AtomicU64 = AtomicU64::new(0);

fn note(chord: u64, what: &'static str, id: Id) {
    let mut calls = CALLS.lock().unwrap();
    calls.entry(chord).or_default().push((what, id));
}

#[task(name = "points.member")]
async fn member(n: u64, fails: bool) -> Result<u64, TaskError> {
    match fails {
        true => Err(TaskError::new("it is meant to")),
        false => Ok(n),
    }
}

#[task(name = "points.body")]
async fn join(ctx: &TaskContext, all: Vec<u64>, chord: u64) -> u64 {
    note(chord, "body", ctx.id());
    all.into_iter().sum()
}

#[task(name = "points.errback")]
async fn undo(ctx: &TaskContext, chord: u64) {
    note(chord, "errback", ctx.id());
}

fn all_tasks() -> [TaskEntry; 3] {
    tasks![member, join, undo]
}

/// Where in its life a chord was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    /// It was not submitted yet.
    Before,
    /// Members are on their way; of these the last may have ended, and the commit that says so was cut.
    Header,
    /// How the header ended is on record, and not what came of that.
    Released,
    Ended,
}

/// A chord that ran to its end, and the disk that remembers every commit of it.
struct Life {
    disk: Disk,
    chord: u64,
    id: Id,
    size: u64,
    fails: bool,
}

impl Life {
    async fn live(size: u64, fails: bool) -> Self {
        let chord = CHORDS.fetch_add(1, Ordering::Relaxed);
        let members = (0..size).map(|n| {
            let fails = fails && n == size / 2;
            Canvas::task("points.member", (n, fails))
        });
        let members: Vec<Canvas> = members.collect();
        let errback = Canvas::immutable("points.errback", (chord,));
        let whole = Canvas::chord(members, Canvas::task("points.body", (chord,)));
        let disk = Disk::default();
        // A few at a time: else all members end in one commit.
        let app = App::with_store(disk.clone())
            .tasks(all_tasks())
            .concurrency(3);
        let app = app.start().await.unwrap();
        let result = app.apply_async(whole.link_error(errback)).await.unwrap();
        let life = Self {
            disk,
            chord,
            id: result.id(),
            size,
            fails,
        };
        life.is_as_meant(within(result.get()).await);
        within(result.at_rest()).await.unwrap();
        app.shutdown().await.unwrap();
        life
    }

    fn is_as_meant(&self, end: Result<Value, Error>) {
        match end {
            Ok(sum) => {
                let expected: u64 = (0..self.size).sum();
                assert!(!self.fails && sum == expected, "{sum}");
            }
            Err(Error::Failed(failure)) => assert!(self.fails, "{failure:?}"),
            Err(error) => panic!("{error}"),
        }
    }

    fn calls(&self) -> Vec<(&'static str, Id)> {
        let calls = CALLS.lock().unwrap();
        calls.get(&self.chord).cloned().unwrap_or_default()
    }

    /// Goes on from where the crash behind so many commits has left it, to the end; says where that was.
    async fn go_on(&self, kept: usize) -> Point {
        let store = self.disk.crashed_after(kept);
        // Nothing is registered, so nothing can run: this shows what was on the disk.
        let app = App::with_store(store.clone()).start().await.unwrap();
        let point = self.point(&app).await;
        app.shutdown().await.unwrap();

        let before = self.calls().len();
        for life in 2..=3 {
            let app = App::with_store(store.clone()).tasks(all_tasks());
            let app = app.start().await.unwrap();
            match app.async_result::<Value>(self.id).await {
                Ok(result) => {
                    self.is_as_meant(within(result.get()).await);
                    within(result.at_rest()).await.unwrap();
                }
                Err(Error::Id(IdError::Unknown { .. })) => assert_eq!(point, Point::Before),
                Err(error) => panic!("{error}"),
            }
            app.shutdown().await.unwrap();
            let calls = self.calls();
            let expected = match self.fails {
                true => "errback",
                false => "body",
            };
            let who: BTreeSet<_> = calls.iter().copied().collect();
            let what: Vec<_> = who.iter().map(|(what, _)| *what).collect();
            assert_eq!(what, [expected], "behind commit {kept}: {who:?}");
            let again = calls.len() - before;
            assert!(
                again <= 1,
                "behind commit {kept}, {again} calls by life {life}"
            );
            if point == Point::Before || point == Point::Ended && !self.fails {
                assert_eq!(again, 0, "behind commit {kept}, {point:?}");
            }
        }
        point
    }

    async fn point(&self, app: &App) -> Point {
        let result = match app.async_result::<Value>(self.id).await {
            Ok(result) => result,
            Err(Error::Id(IdError::Unknown { .. })) => return Point::Before,
            Err(error) => panic!("{error}"),
        };
        if result.ready().await.unwrap() {
            return Point::Ended;
        }
        let mut has_failed = false;
        if self.fails {
            let members = result.children::<Value>().await.unwrap();
            has_failed = members[self.size as usize / 2].failed().await.unwrap();
        }
        let ended = result.completed_count().await.unwrap();
        match has_failed || ended == self.size {
            true => Point::Released,
            false => Point::Header,
        }
    }
}

/// The last commits one by one, down to the one before the header's end; then others, evenly.
async fn crash_anywhere(size: u64, fails: bool, runs: usize) -> BTreeMap<Point, usize> {
    let mut points = BTreeMap::new();
    let mut done = 0;
    while done < runs {
        let life = Life::live(size, fails).await;
        let commits = life.disk.batches();
        let mut kept = commits;
        loop {
            let point = life.go_on(kept).await;
            *points.entry(point).or_default() += 1;
            done += 1;
            if kept == 0 || point < Point::Released {
                break;
            }
            kept -= 1;
        }
        let step = kept.div_ceil(runs.saturating_sub(done).max(1)).max(1);
        for kept in (0..kept).step_by(step) {
            *points.entry(life.go_on(kept).await).or_default() += 1;
            done += 1;
        }
    }
    points
}

#[tokio::test]
async fn a_chord_cut_at_any_point_has_one_body_or_one_errback() {
    let runs = std::env::var("CHORDAL_POINT_RUNS").map_or(RUNS, |set| set.parse().unwrap());
    for size in SIZES {
        // Without members nobody can fail.
        let kinds = if size == 0 {
            &[false][..]
        } else {
            &[false, true]
        };
        for fails in kinds {
            let points = crash_anywhere(size, *fails, runs / kinds.len()).await;
            let trials: usize = points.values().sum();
            println!("{trials} trials with a header of {size}, fails: {fails}: {points:?}");
            assert!(points.contains_key(&Point::Before), "{points:?}");
            // A chord that fails has ended with the commit that says so, but for its errback.
            let between = if *fails {
                Point::Ended
            } else {
                Point::Released
            };
            assert!(points.contains_key(&between), "{points:?}");
        }
    }
}
