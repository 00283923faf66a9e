//! Names of queues: they may be many, and not long.

use chordal::persistence::{MemoryStore, Store};
use chordal::prelude::*;
use chordal::{Error, Parameter, StartError, SubmitError, Task, TaskOptions};
use serde_json::json;

use crate::recovery::within;

#[task(name = "queues.pass")]
async fn pass(n: i64) -> i64 {
    n
}

const LONG: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
                    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
                    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
                    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

struct Far<const LONG_NAME: bool>;

impl<const LONG_NAME: bool> Task for Far<LONG_NAME> {
    type Args = ();
    type Output = ();
    const NAME: &'static str = if LONG_NAME { LONG } else { "queues.far" };
    const PARAMS: &'static [Parameter] = &[];
    const OPTIONS: TaskOptions = match LONG_NAME {
        true => TaskOptions::new(),
        false => TaskOptions::new().queue(LONG),
    };

    async fn run(_: TaskContext, (): ()) -> Result<(), TaskError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_name_of_256_bytes_is_refused_wherever_it_is_given_and_one_of_255_is_not() {
    let store = MemoryStore::new();
    let app = App::with_store(store.clone())
        .queue(&LONG[1..], 1)
        .tasks(tasks![pass]);
    let app = app.start().await.unwrap();
    let fits = app.apply_async(pass.s(1).queue(&LONG[1..])).await.unwrap();
    assert_eq!(within(fits.get()).await.unwrap(), 1);

    let in_json = json!({"task": "queues.pass", "args": [1], "kwargs": {}, "immutable": false,
        "options": {"queue": LONG}, "subtask_type": null});
    let canvases: [(Canvas, &str); 5] = [
        (pass.s(1).queue(LONG).into(), ""),
        (Canvas::task("queues.pass", (1,)).queue(LONG), ""),
        (Canvas::from_json(&in_json.to_string()).unwrap(), ""),
        ((pass.s(1) | pass.partial().queue(LONG)).into(), "chain[1]"),
        (group([pass.s(1), pass.s(2).queue(LONG)]).into(), "group[1]"),
    ];
    for (canvas, place) in canvases {
        match app.apply_async(canvas).await {
            Err(Error::Submit(SubmitError::QueueNameTooLong {
                path, bytes, limit, ..
            })) => {
                assert_eq!((&*path, bytes, limit), (place, 256, 255));
            }
            other => panic!("{place}: {other:?}"),
        }
    }
    app.shutdown().await.unwrap();

    for (builder, of) in [
        (App::in_memory().queue(LONG, 1), "queue"),
        (App::in_memory().tasks(tasks![Far::<false>]), "queue"),
        (App::in_memory().tasks(tasks![Far::<true>]), "task"),
        (App::eager().tasks(tasks![Far::<true>]), "task"),
    ] {
        match builder.start().await.map(drop) {
            Err(Error::Start(StartError::NameTooLong { of: found, .. })) => assert_eq!(found, of),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn work_in_thousands_of_queues_is_done_and_nothing_of_a_queue_stays_in_the_store() {
    let store = MemoryStore::new();
    let app = App::with_store(store.clone())
        .tasks(tasks![pass])
        .live_workflows(1);
    let app = app.start().await.unwrap();
    let mut all = Vec::new();
    // Two in each, so that one waits.
    for n in 0..4_000 {
        let queue = format!("queue {}", n / 2);
        all.push(app.apply_async(pass.s(n).queue(queue)).await.unwrap());
    }
    for (n, result) in (0..).zip(all) {
        assert_eq!(within(result.get()).await.unwrap(), n);
    }
    app.shutdown().await.unwrap();
    assert_eq!(store.scan(b"q", b"r").count(), 0);
}
