//! Eager mode against the same: where Celery's gives another outcome in 195 of 520 recorded cases,
//! ours is to give none.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use chordal::Clock;
use chordal::prelude::*;

use crate::cases::{self, Case};
use crate::compare::agree;
use crate::engine::{canvas, difference, in_time, random, seeds};
use crate::{quirks, report, tasks};

#[test]
fn every_recorded_case_ends_as_it_did_in_celery_in_eager_mode_too() {
    assert_all(cases::recorded());
}

#[test]
fn where_celery_is_wrong_canvases_end_as_promised_in_eager_mode_too() {
    assert_all(quirks::promised());
}

#[test]
fn random_canvases_end_as_the_model_says_in_eager_mode_too() {
    assert_all(seeds(2).map(random));
}

fn assert_all(cases: impl IntoIterator<Item = Case>) {
    // For the tasks that sleep; the app itself needs none.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().build().unwrap();
    let wrong: Vec<_> = runtime.block_on(async {
        // Clocks that stand alike give the same ids, and what ran is kept by id.
        static CLOCKS: AtomicU64 = AtomicU64::new(1_800_000_000);
        let start = Duration::from_secs(CLOCKS.fetch_add(1_000_000, Ordering::Relaxed));
        let clock = Clock::manual(SystemTime::UNIX_EPOCH + start);
        let app = App::eager().clock(clock.clone()).tasks(tasks::all());
        let app = app.start().await.unwrap();
        let mut wrong = Vec::new();
        for case in cases {
            let outcome = async {
                let result = app.apply_async(canvas(&case)?).await?;
                assert!(result.ready().await?, "{}: it has not ended", case.id);
                report::outcome(result).await
            };
            let outcome = in_time(turning(&clock, outcome)).await;
            wrong.extend(difference(&case, &outcome, agree));
        }
        wrong
    });
    assert!(
        wrong.is_empty(),
        "{}, the first of them:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(5)].join("\n")
    );
}

/// Moves the clock on while a task sleeps: its time limit is to cut that short.
async fn turning<T>(clock: &Clock, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(Duration::from_millis(1)) => {
                clock.advance(Duration::from_secs(1));
            }
        }
    }
}
