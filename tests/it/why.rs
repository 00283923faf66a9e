//! What a workflow or a task waits for.

use std::time::{Duration, SystemTime};

use chordal::persistence::MemoryStore;
use chordal::prelude::*;
use chordal::{AppBuilder, Breaker, Clock, Id, Why};

use crate::calls::{call, reached};
use crate::recovery::within;

#[task(name = "why.held", queue = "why held")]
async fn held(key: String) {
    call(&key);
    std::future::pending::<()>().await;
}

#[task(name = "why.quick", queue = "why quick")]
async fn quick(x: u64) -> u64 {
    x
}

#[task(name = "why.limited", rate_limit = "1/h")]
async fn limited() {}

#[task(
    name = "why.failing",
    max_retries = 3,
    retry_backoff = "60s",
    retry_jitter = false
)]
async fn failing() -> Result<(), TaskError> {
    Err(TaskError::new("not yet"))
}

#[task(name = "why.broken", breaker = "why service")]
async fn broken() -> Result<(), TaskError> {
    Err(TaskError::new("no answer").fatal())
}

fn builder(store: MemoryStore) -> AppBuilder {
    App::with_store(store)
        .clock(Clock::manual(
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
        ))
        .queue("why held", 1)
        .breaker("why service", Breaker::failures(1))
        .grace(Duration::ZERO)
        .tasks(tasks![held, quick, limited, failing, broken])
}

async fn app() -> App {
    builder(MemoryStore::new()).start().await.unwrap()
}

/// Asks until the answer is as expected; the last answer is in the failure.
async fn until(app: &App, id: Id, is_it: impl Fn(&[Why]) -> bool) -> Vec<Why> {
    let mut last = Vec::new();
    for _ in 0..100_000 {
        last = app.why(id).await.unwrap();
        assert!(!last.is_empty());
        if is_it(&last) {
            return last;
        }
        tokio::task::yield_now().await;
    }
    panic!("{last:?}");
}

async fn step_of(app: &App, id: Id, step: usize) -> Id {
    let handle = app.async_result::<u64>(id).await.unwrap();
    handle.children::<u64>().await.unwrap()[step].id()
}

#[tokio::test]
async fn a_running_task_runs_and_one_that_has_ended_has_ended() {
    let app = app().await;
    let running = app.apply_async(held.s("why running".into())).await.unwrap();
    reached("why running", 1).await;
    until(&app, running.id(), |why| why == [Why::Running]).await;
    let ended = app.apply_async(quick.s(1)).await.unwrap();
    within(ended.get()).await.unwrap();
    assert_eq!(app.why(ended.id()).await.unwrap(), [Why::Ended]);
}

#[tokio::test]
async fn a_task_in_a_queue_knows_its_position() {
    let app = app().await;
    let _first = app.apply_async(held.s("why queue".into())).await.unwrap();
    reached("why queue", 1).await;
    let second = app.apply_async(held.s("why second".into())).await.unwrap();
    let third = app.apply_async(held.s("why third".into())).await.unwrap();
    for (position, id) in [(1, second.id()), (2, third.id())] {
        let queue = "why held".to_owned();
        let expected = [Why::Queue {
            queue,
            position,
            waiting: 2,
        }];
        until(&app, id, |why| why == expected).await;
    }
}

#[tokio::test]
async fn a_step_waits_for_the_step_before_it() {
    let app = app().await;
    app.pause_queue("why quick").await.unwrap();
    let chain = quick.s(1) | quick.partial() | quick.partial();
    let chain = app.apply_async(chain).await.unwrap();
    let first = step_of(&app, chain.id(), 0).await;
    let second = step_of(&app, chain.id(), 1).await;
    let name = "why.quick".to_owned();
    let expected = [Why::Step { id: first, name }];
    assert_eq!(app.why(second).await.unwrap(), expected);
    assert_eq!(app.why(chain.id()).await.unwrap(), expected);
}

#[tokio::test]
async fn a_body_waits_for_the_missing_members() {
    let app = app().await;
    app.pause_task("why.limited").await.unwrap();
    let header = (0..5).map(|i| match i {
        0 | 3 => Canvas::from(quick.s(i)),
        _ => Canvas::from(limited.s()),
    });
    let all = app.apply_async(Canvas::group(header)).await.unwrap();
    let expected = [Why::Barrier {
        id: all.id(),
        arrived: 2,
        of: 5,
        missing: vec![1..3, 4..5],
    }];
    let why = until(&app, all.id(), |why| why == expected).await;
    let text = format!("2 of the 5 members of {} have ended", all.id());
    assert_eq!(why[0].to_string(), text);
}

#[tokio::test]
async fn a_delayed_task_waits_for_its_time_and_a_failed_one_for_its_retry() {
    let app = app().await;
    let later = quick.s(1).countdown(Duration::from_secs(60));
    let later = app.apply_async(later).await.unwrap();
    until(&app, later.id(), |why| matches!(why, [Why::Time { .. }])).await;
    let flaky = app.apply_async(failing.s()).await.unwrap();
    let is_retry = |why: &[Why]| matches!(why, [Why::Retry { attempt: 2, .. }]);
    until(&app, flaky.id(), is_retry).await;
}

#[tokio::test]
async fn a_task_under_a_limit_says_which_and_until_when() {
    let app = app().await;
    let first = app.apply_async(limited.s()).await.unwrap();
    within(first.get()).await.unwrap();
    let second = app.apply_async(limited.s()).await.unwrap();
    let is_limit = |why: &[Why]| match why {
        [Why::Limit { of, key, at }] => {
            of == "the task `why.limited`" && key.is_none() && at.is_some()
        }
        _ => false,
    };
    until(&app, second.id(), is_limit).await;
}

#[tokio::test]
async fn pauses_backlog_and_missing_names_are_known_after_a_restart() {
    let store = MemoryStore::new();
    let app = builder(store.clone())
        .live_workflows(1)
        .start()
        .await
        .unwrap();
    app.pause_queue("why quick").await.unwrap();
    app.pause_task("why.limited").await.unwrap();
    let queue = app.apply_async(quick.s(1)).await.unwrap().id();
    let waits = app.apply_async(quick.s(2)).await.unwrap().id();
    let task = app.apply_async(limited.s()).await.unwrap().id();
    let paused = |why: &[Why]| {
        let queue = "why quick".to_owned();
        why.contains(&Why::PausedQueue { queue })
    };
    let backlog = [Why::Backlog {
        queue: "why quick".to_owned(),
    }];
    let is_paused = |why: &[Why]| {
        let task = "why.limited".to_owned();
        why.contains(&Why::PausedTask { task })
    };
    until(&app, queue, paused).await;
    until(&app, waits, |why| why == backlog).await;
    until(&app, task, is_paused).await;
    app.shutdown().await.unwrap();

    let app = builder(store.clone())
        .live_workflows(1)
        .start()
        .await
        .unwrap();
    until(&app, queue, paused).await;
    until(&app, waits, |why| why == backlog).await;
    until(&app, task, is_paused).await;
    app.shutdown().await.unwrap();

    let app = App::with_store(store)
        .tasks(tasks![held])
        .start()
        .await
        .unwrap();
    let is_missing = |why: &[Why]| {
        let task = "why.quick".to_owned();
        why == [Why::Unregistered { task }]
    };
    until(&app, queue, is_missing).await;
}

#[tokio::test]
async fn a_task_of_an_app_that_was_started_paused_waits_for_its_resumption() {
    let app = builder(MemoryStore::new()).paused().start().await.unwrap();
    let sent = app.apply_async(quick.s(1)).await.unwrap();
    until(&app, sent.id(), |why| why.contains(&Why::PausedApp)).await;
}

#[tokio::test]
async fn a_rate_of_a_signature_and_an_open_breaker_are_told() {
    let app = app().await;
    let rated = || quick.s(1).rate_limit("1/h").limit_key("acme");
    let first = app.apply_async(rated()).await.unwrap();
    within(first.get()).await.unwrap();
    let second = app.apply_async(rated()).await.unwrap();
    let is_limit = |why: &[Why]| match why {
        [Why::Limit { of, key, at }] => {
            of == "its signature" && key.as_deref() == Some("acme") && at.is_some()
        }
        _ => false,
    };
    until(&app, second.id(), is_limit).await;

    let failure = app.apply_async(broken.s()).await.unwrap();
    within(failure.get()).await.unwrap_err();
    let waits = app.apply_async(broken.s()).await.unwrap();
    let is_breaker = |why: &[Why]| match why {
        [Why::Breaker { breaker, at }] => breaker == "why service" && at.is_some(),
        _ => false,
    };
    let why = until(&app, waits.id(), is_breaker).await;
    let text = why[0].to_string();
    let begin = "the breaker `why service` is open; a task may probe at ";
    assert!(text.starts_with(begin), "{text}");
}

#[tokio::test]
async fn what_is_revoked_in_a_paused_queue_is_not_before_others() {
    let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
    let app = builder(MemoryStore::new()).clock(clock.clone());
    let app = app.start().await.unwrap();
    app.pause_queue("why quick").await.unwrap();
    let position = |why: &[Why]| {
        let position = |one: &Why| match one {
            Why::Queue { position, .. } => Some(*position),
            _ => None,
        };
        why.iter().find_map(position)
    };
    let second = Duration::from_secs(1);
    for n in 0..10 {
        // Its actor waits for the time, and then for a slot.
        let later = app.apply_async(quick.s(n).countdown(second)).await.unwrap();
        until(&app, later.id(), |why| {
            matches!(why, [.., Why::Time { .. }])
        })
        .await;
        clock.advance(second);
        until(&app, later.id(), |why| position(why).is_some()).await;
        let _ = within(later.revoke()).await.unwrap();
        within(later.get()).await.unwrap_err();
    }
    let next = app.apply_async(quick.s(1)).await.unwrap();
    // (The one that was revoked last may still be there.)
    until(&app, next.id(), |why| {
        position(why).is_some_and(|at| at <= 2)
    })
    .await;
}
