//! Attempts: however often a task is tried, only its last attempts stay in the store.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use chordal::persistence::{MemoryStore, Store};
use chordal::prelude::*;
use chordal::{Id, State};
use tokio::sync::watch;

use crate::recovery::within;

/// How many tasks have come to the attempt that does not end.
static HELD: LazyLock<watch::Sender<usize>> = LazyLock::new(watch::Sender::default);

const HELD_AT: u32 = 300;

/// Fails until attempt 300, now and then with a point in time for the next, does not end then, and gives the number of the one after it.
#[task(name = "attempts.again", max_retries = 10_000)]
async fn again(ctx: &TaskContext) -> Result<u32, TaskError> {
    let attempt = ctx.attempt();
    match attempt {
        HELD_AT => {
            HELD.send_modify(|held| *held += 1);
            std::future::pending().await
        }
        ..HELD_AT if attempt.is_multiple_of(2) => {
            Err(ctx.retry().eta(SystemTime::UNIX_EPOCH).into())
        }
        ..HELD_AT => Err(TaskError::retry("not yet", Duration::ZERO)),
        _ => Ok(attempt),
    }
}

fn segments(store: &MemoryStore) -> usize {
    store.scan(b"s", b"t").count()
}

#[tokio::test]
async fn a_task_that_is_tried_again_and_again_leaves_only_its_last_attempts_in_the_store() {
    for members in [0, 1, 3] {
        let store = MemoryStore::new();
        let open = || {
            let app = App::with_store(store.clone()).tasks(tasks![again]);
            app.grace(Duration::ZERO).start()
        };
        let app = open().await.unwrap();
        let before = *HELD.borrow();
        let canvas: Canvas = match members {
            0 => again.s().into(),
            n => group((0..n).map(|_| again.s())).into(),
        };
        let id: Id = app.apply_async(canvas).await.unwrap().id();
        let tasks = members.max(1);
        let mut held = HELD.subscribe();
        within(held.wait_for(|held| *held == before + tasks))
            .await
            .unwrap();
        // Of several tasks some attempts are recorded in one segment with the first ones, or with
        // each other's last.
        let left = segments(&store);
        assert!(left <= 40 * tasks, "{members}: {left}");
        let result = app.async_result::<serde_json::Value>(id).await.unwrap();
        assert_eq!(result.state().await.unwrap(), State::Started);
        drop(result);
        app.shutdown().await.unwrap();

        let app = open().await.unwrap();
        let result = app.async_result::<serde_json::Value>(id).await.unwrap();
        let value = within(result.get()).await.unwrap();
        let expected = match members {
            0 => serde_json::json!(HELD_AT + 1),
            n => vec![HELD_AT + 1; n].into(),
        };
        assert_eq!(value, expected);
        app.shutdown().await.unwrap();
    }
}
