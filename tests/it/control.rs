//! Queues and tasks that are paused, resumed and changed while an app runs.

use std::time::Duration;

use chordal::persistence::MemoryStore;
use chordal::prelude::*;
use chordal::{AppBuilder, ControlError, ControlTarget, Error, State};

use crate::calls::{CALLS, call, calls, reached};
use crate::disk::Disk;
use crate::recovery::within;

#[task(name = "control.mail", queue = "control mail")]
async fn mail(key: String) {
    call(&key);
    reached(&format!("{key} open"), 1).await;
}

#[task(name = "control.quick", queue = "control mail", rate_limit = "1000/s")]
async fn quick(key: String) {
    call(&key);
}

#[task(name = "control.beside", queue = "control mail")]
async fn beside(key: String) {
    call(&key);
}

#[task(name = "control.other")]
async fn other(key: String) -> String {
    call(&key);
    key
}

/// Goes on after a call.
#[task(name = "control.calling")]
async fn calling(ctx: &TaskContext, key: String) -> Result<String, TaskError> {
    call(&key);
    let called = other.s(format!("{key} below"));
    Ok(ctx.call("below", called).await?)
}

fn builder(store: impl chordal::persistence::Store) -> AppBuilder {
    App::with_store(store)
        .queue("control mail", 2)
        .grace(Duration::ZERO)
        .tasks(tasks![mail, quick, beside, other, calling])
}

/// Waits until all that the app was told is done, as far as it can be.
async fn settled(app: &App) {
    for _ in 0..3 {
        let done = app.apply_async(other.s("done".into())).await.unwrap();
        within(done.get()).await.unwrap();
    }
}

fn controls(app: &App) -> Vec<(ControlTarget, bool, Option<u64>)> {
    let controls = app.controls().unwrap().into_iter();
    controls
        .map(|control| (control.target, control.is_paused, control.concurrency))
        .collect()
}

#[tokio::test]
async fn a_paused_queue_starts_nothing_lets_run_what_runs_and_goes_on() {
    let app = builder(MemoryStore::new()).start().await.unwrap();
    let key = |key: &str| key.to_owned();
    let running = app.apply_async(mail.s(key("pause running"))).await.unwrap();
    within(reached("pause running", 1)).await;
    app.pause_queue("control mail").await.unwrap();
    let queue = ControlTarget::Queue("control mail".into());
    assert_eq!(controls(&app), [(queue, true, None)]);
    let waiting = app.apply_async(mail.s(key("pause waiting"))).await.unwrap();
    let _ = app.apply_async(quick.s(key("pause quick"))).await.unwrap();
    call("pause running open");
    within(running.get()).await.unwrap();
    settled(&app).await;
    assert_eq!((calls("pause waiting"), calls("pause quick")), (0, 0));
    assert_eq!(waiting.state().await.unwrap(), State::Pending);
    app.resume_queue("control mail").await.unwrap();
    assert!(controls(&app).is_empty());
    within(reached("pause waiting", 1)).await;
    within(reached("pause quick", 1)).await;
    call("pause waiting open");
    within(waiting.get()).await.unwrap();
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_pause_and_a_concurrency_hold_over_a_crash_and_an_unused_queue() {
    let mut disk = Disk::default();
    let app = builder(disk.clone()).start().await.unwrap();
    app.pause_queue("control mail").await.unwrap();
    app.set_concurrency("control mail", 1).await.unwrap();
    app.pause_task("control.other").await.unwrap();
    app.set_task_concurrency("control.quick", 3).await.unwrap();
    let expected = [
        (ControlTarget::Queue("control mail".into()), true, Some(1)),
        (ControlTarget::Task("control.other".into()), true, None),
        (ControlTarget::Task("control.quick".into()), false, Some(3)),
    ];
    assert_eq!(controls(&app), expected);
    for key in ["crash one", "crash two"] {
        let _ = app.apply_async(mail.s(key.into())).await.unwrap();
    }
    let paused = app
        .apply_async(other.s("crash other".into()))
        .await
        .unwrap()
        .id();
    disk = disk.crashed();
    drop(app);
    let app = builder(disk.clone()).start().await.unwrap();
    assert_eq!(controls(&app), expected);
    // (Nothing of the queue or the task starts; what would show it waits itself.)
    let quickly = app
        .apply_async(quick.s("crash quick".into()))
        .await
        .unwrap();
    app.resume_task("control.other").await.unwrap();
    let paused = app.async_result::<String>(paused).await.unwrap();
    assert_eq!(within(paused.get()).await.unwrap(), "crash other");
    settled(&app).await;
    assert_eq!(calls("crash one") + calls("crash two"), 0);
    app.resume_queue("control mail").await.unwrap();
    within(reached("crash one", 1)).await;
    settled(&app).await;
    assert_eq!(calls("crash two"), 0, "one runs at once");
    app.set_concurrency("control mail", 2).await.unwrap();
    within(reached("crash two", 1)).await;
    app.set_concurrency("control mail", None).await.unwrap();
    for key in ["crash one open", "crash two open"] {
        call(key);
    }
    within(quickly.get()).await.unwrap();
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_paused_task_starts_nothing_though_it_waited_for_a_slot_before() {
    let app = builder(MemoryStore::new()).start().await.unwrap();
    let key = |n: u32| format!("task {n}");
    for n in 0..6 {
        let _ = app.apply_async(mail.s(key(n))).await.unwrap();
    }
    within(reached("task 0", 1)).await;
    within(reached("task 1", 1)).await;
    app.pause_task("control.mail").await.unwrap();
    let _ = app.apply_async(mail.s(key(6))).await.unwrap();
    for key in ["task 0 open", "task 1 open"] {
        call(key);
    }
    // Their slots go to others of the queue.
    let quickly = app.apply_async(quick.s("task quick".into())).await.unwrap();
    within(quickly.get()).await.unwrap();
    settled(&app).await;
    assert_eq!((2..7).map(|n| calls(&key(n))).sum::<usize>(), 0);
    app.set_task_concurrency("control.mail", 1).await.unwrap();
    app.resume_task("control.mail").await.unwrap();
    // One after the other, in some order.
    let mut waiting: Vec<_> = (2..7).map(key).collect();
    while !waiting.is_empty() {
        let is_next = |calls: &Vec<String>| waiting.iter().position(|key| calls.contains(key));
        let mut all = CALLS.subscribe();
        let next = {
            let calls = within(all.wait_for(|calls| is_next(calls).is_some())).await;
            is_next(&calls.unwrap()).unwrap()
        };
        let running = waiting.remove(next);
        settled(&app).await;
        assert_eq!(waiting.iter().map(|key| calls(key)).sum::<usize>(), 0);
        call(&format!("{running} open"));
    }
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn many_of_a_paused_task_hold_up_no_other_of_their_queue() {
    let app = builder(MemoryStore::new()).window(400);
    let app = app.start().await.unwrap();
    for n in 0..150 {
        let key = format!("many {n}");
        let _ = app.apply_async(mail.s(key)).await.unwrap();
    }
    let quickly = app.apply_async(quick.s("many quick".into())).await.unwrap();
    app.pause_task("control.mail").await.unwrap();
    for key in ["many 0 open", "many 1 open"] {
        call(key);
    }
    within(quickly.get()).await.unwrap();
    assert_eq!(
        (2..150).map(|n| calls(&format!("many {n}"))).sum::<usize>(),
        0
    );
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_paused_task_uses_up_no_capacity_for_workflows_of_others() {
    let app = builder(MemoryStore::new()).live_workflows(2);
    let app = app.start().await.unwrap();
    app.pause_task("control.mail").await.unwrap();
    for n in 0..5 {
        let key = format!("capacity {n}");
        let _ = app.apply_async(mail.s(key)).await.unwrap();
    }
    let free = app.apply_async(beside.s("capacity".into())).await.unwrap();
    within(free.get()).await.unwrap();
    app.resume_task("control.mail").await.unwrap();
    for n in 0..5 {
        within(reached(&format!("capacity {n}"), 1)).await;
        call(&format!("capacity {n} open"));
    }
    app.shutdown().await.unwrap();
}

#[tokio::test]
#[ignore = "attempts that run when the first setting is made are not counted yet"]
async fn attempts_that_run_count_for_the_concurrency_that_is_set_meanwhile() {
    let app = builder(MemoryStore::new()).start().await.unwrap();
    let first = app.apply_async(mail.s("meanwhile".into())).await.unwrap();
    within(reached("meanwhile", 1)).await;
    app.set_task_concurrency("control.mail", 1).await.unwrap();
    let second = app
        .apply_async(mail.s("meanwhile second".into()))
        .await
        .unwrap();
    settled(&app).await;
    assert_eq!(calls("meanwhile second"), 0, "one runs at once");
    call("meanwhile open");
    within(first.get()).await.unwrap();
    within(reached("meanwhile second", 1)).await;
    call("meanwhile second open");
    within(second.get()).await.unwrap();
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_attempt_of_a_paused_task_goes_on_after_a_call() {
    let app = builder(MemoryStore::new()).start().await.unwrap();
    app.pause_task("control.other").await.unwrap();
    let caller = app.apply_async(calling.s("call".into())).await.unwrap();
    within(reached("call", 1)).await;
    app.pause_task("control.calling").await.unwrap();
    let second = app
        .apply_async(calling.s("control second".into()))
        .await
        .unwrap();
    app.resume_task("control.other").await.unwrap();
    assert_eq!(within(caller.get()).await.unwrap(), "call below");
    settled(&app).await;
    assert_eq!(calls("control second"), 0);
    app.resume_task("control.calling").await.unwrap();
    assert_eq!(within(second.get()).await.unwrap(), "control second below");
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_set_is_an_error_that_says_why() {
    let app = builder(MemoryStore::new()).start().await.unwrap();
    let error = |result: chordal::Result<()>| match result {
        Err(Error::Control(error)) => error,
        result => panic!("{result:?}"),
    };
    let unknown = error(app.pause_task("control.none").await);
    assert_eq!(
        unknown.to_string(),
        "no task is registered as `control.none`"
    );
    let zero = error(app.set_concurrency("control mail", 0).await);
    assert_eq!(
        zero.to_string(),
        "queue `control mail` needs a concurrency of at least 1; to stop it, pause it"
    );
    assert!(matches!(
        error(app.set_task_concurrency("control.mail", 0).await),
        ControlError::NoConcurrency { .. }
    ));
    assert!(matches!(
        error(app.pause_queue("x".repeat(256)).await),
        ControlError::NameTooLong {
            bytes: 256,
            limit: 255
        }
    ));
    assert!(app.controls().unwrap().is_empty());
    app.shutdown().await.unwrap();
    assert!(matches!(
        app.pause_queue("mail").await,
        Err(Error::ShutDown)
    ));

    let eager = App::eager().start().await.unwrap();
    assert_eq!(error(eager.pause_queue("mail").await), ControlError::Eager);
    assert!(eager.controls().unwrap().is_empty());
}
