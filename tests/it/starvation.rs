//! No starvation: work of low priority starts within a bounded number of starts, though work of the
//! highest priority never ends.

use std::sync::LazyLock;
use std::time::Duration;

use chordal::AppBuilder;
use chordal::prelude::*;

use crate::calls::{CALLS, call, reached};
use crate::recovery::within;

/// How often what waits longest is passed over.
const PASSES: usize = 31;

/// Submits two more of its kind, so that some always wait.
#[task(name = "starvation.flood", queue = "flood", priority = 9)]
async fn flood(ctx: &TaskContext, test: String) -> Result<(), TaskError> {
    call(&format!("{test} high"));
    if !is_over(&test) {
        for _ in 0..2 {
            let _ = ctx.apply_async(flood.s(test.clone())).await?;
        }
    }
    Ok(())
}

#[task(name = "starvation.low", queue = "flood")]
async fn low(test: String) {
    call(&format!("{test} low"));
}

/// As `flood`, under a limit: each has a key of its own.
#[task(
    name = "starvation.limited_flood",
    limit = "flood",
    concurrency = 1,
    concurrency_by = "key",
    priority = 9
)]
async fn limited_flood(ctx: &TaskContext, test: String, key: u64) -> Result<(), TaskError> {
    call(&format!("{test} high"));
    if !is_over(&test) {
        for n in 0..2 {
            let next = limited_flood.s(test.clone(), 2 * key + n);
            let _ = ctx.apply_async(next).await?;
        }
    }
    Ok(())
}

#[task(name = "starvation.limited_low", limit = "flood")]
async fn limited_low(test: String) {
    call(&format!("{test} low"));
}

/// Starts once a day; the others wait.
#[task(name = "starvation.daily", rate_limit = "1/d")]
async fn daily(test: String) {
    call(&format!("{test} daily"));
}

#[task(name = "starvation.free")]
async fn free(test: String) {
    call(&format!("{test} free"));
}

static LIMIT: LazyLock<usize> = LazyLock::new(|| 40 * (PASSES + 1));

/// Returns whether the test has shown what it can show.
fn is_over(test: &str) -> bool {
    let (calls, high) = (CALLS.borrow(), format!("{test} high"));
    let last = format!("{test} low");
    calls.contains(&last) || calls.iter().filter(|key| **key == high).count() > *LIMIT
}

/// Returns how many of the flood started before the one of low priority.
fn before_low(test: &str) -> usize {
    let (calls, high) = (CALLS.borrow(), format!("{test} high"));
    let last = format!("{test} low");
    let before = calls.iter().take_while(|key| **key != last);
    before.filter(|key| **key == high).count()
}

fn builder() -> AppBuilder {
    App::in_memory()
        .queue("flood", 1)
        .limit_concurrency("flood", 1)
        .grace(Duration::ZERO)
        .tasks(tasks![flood, low, limited_flood, limited_low, daily, free])
}

#[tokio::test]
async fn a_task_of_low_priority_starts_though_tasks_of_the_highest_never_end() {
    let app = builder().paused().start().await.unwrap();
    let test = "queue";
    for _ in 0..3 {
        let _ = app.apply_async(flood.s(test.into())).await.unwrap();
    }
    let _ = app.apply_async(low.s(test.into())).await.unwrap();
    app.resume().await.unwrap();
    within(reached("queue low", 1)).await;
    let before = before_low(test);
    assert!(before <= 4 * (PASSES + 1), "{before}");
    assert!(before >= PASSES, "priority means little: {before}");
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_workflow_that_waits_in_the_store_starts_though_those_of_the_highest_priority_never_end()
{
    let app = builder().live_workflows(2).paused().start().await.unwrap();
    let test = "lane";
    for _ in 0..5 {
        let _ = app.apply_async(flood.s(test.into())).await.unwrap();
    }
    let _ = app.apply_async(low.s(test.into())).await.unwrap();
    app.resume().await.unwrap();
    within(reached("lane low", 1)).await;
    let before = before_low(test);
    // In the lane, and then among those that are in memory.
    assert!(before <= (6 + 3) * (PASSES + 1), "{before}");
    assert!(before >= PASSES, "priority means little: {before}");
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_task_that_waits_for_a_limit_starts_though_others_of_the_highest_priority_never_end() {
    let app = builder().paused().start().await.unwrap();
    let test = "limit";
    for key in 1..=3 {
        let one = limited_flood.s(test.into(), key);
        let _ = app.apply_async(one).await.unwrap();
    }
    let _ = app.apply_async(limited_low.s(test.into())).await.unwrap();
    app.resume().await.unwrap();
    within(reached("limit low", 1)).await;
    let before = before_low(test);
    assert!(before <= 4 * (PASSES + 1), "{before}");
    assert!(before >= PASSES, "priority means little: {before}");
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_task_without_limits_starts_though_many_of_its_queue_wait_for_a_limit() {
    let app = builder().window(16).start().await.unwrap();
    let test = "pacer";
    // Together, so that few batches have them all.
    let mut submissions = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let app = app.clone();
        submissions.spawn(async move { app.apply_async(daily.s(test.into())).await.map(drop) });
    }
    for done in submissions.join_all().await {
        done.unwrap();
    }
    within(reached("pacer daily", 1)).await;
    let other = app.apply_async(free.s(test.into())).await.unwrap();
    within(other.get()).await.unwrap();
    app.shutdown().await.unwrap();
}
