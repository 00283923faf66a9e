//! Waiting inside a task: an async one gives its slot back meanwhile, and what could never end is an
//! error that says what to do instead.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use chordal::prelude::*;
use chordal::{AppBuilder, Error, GetError, Id};
use tokio::sync::watch;

use crate::recovery::within;

/// The apps of these tests, for tasks that reach theirs by other means than their context.
static APPS: LazyLock<Mutex<HashMap<String, App>>> = LazyLock::new(Mutex::default);
/// Handles that are passed to tasks under a name.
static IDS: LazyLock<watch::Sender<HashMap<String, Id>>> = LazyLock::new(watch::Sender::default);

fn app_of(test: &str) -> App {
    APPS.lock().unwrap()[test].clone()
}

/// The app of this test; it is forgotten when the test ends.
async fn start(test: &str, builder: AppBuilder) -> App {
    let tasks = tasks![
        double,
        in_context,
        in_clone,
        spawned,
        blocking_get,
        blocking_wait,
        blocking_timeout,
        get_in_async,
        fib,
        wait_for,
        own_at_rest,
        sibling,
        joined,
        given_up,
        of_other,
        ready_blocking,
        collected
    ];
    let app = builder.tasks(tasks).start().await.unwrap();
    APPS.lock().unwrap().insert(test.to_owned(), app.clone());
    app
}

async fn stop(test: &str, app: App) {
    APPS.lock().unwrap().remove(test);
    app.shutdown().await.unwrap();
}

fn one_slot() -> AppBuilder {
    App::in_memory().concurrency(1).blocking_concurrency(1)
}

#[task(name = "waits.double")]
async fn double(n: u64) -> u64 {
    2 * n
}

#[task(name = "waits.in_context")]
async fn in_context(ctx: &TaskContext, n: u64) -> Result<u64, TaskError> {
    Ok(ctx.apply_async(double.s(n)).await?.get().await?)
}

#[task(name = "waits.in_clone")]
async fn in_clone(test: String, n: u64) -> Result<u64, TaskError> {
    Ok(app_of(&test).apply_async(double.s(n)).await?.get().await?)
}

#[task(name = "waits.spawned")]
async fn spawned(ctx: &TaskContext, n: u64) -> Result<u64, TaskError> {
    let doubled = ctx.apply_async(double.s(n)).await?;
    Ok(tokio::spawn(async move { doubled.get().await }).await??)
}

#[task(name = "waits.blocking_get", blocking)]
fn blocking_get(test: String) -> Result<u64, TaskError> {
    let other = pollster::block_on(app_of(&test).apply_async(blocking_wait.s()))?;
    other.get_blocking()?;
    Ok(1)
}

#[task(name = "waits.blocking_wait", blocking)]
fn blocking_wait() {}

#[task(name = "waits.blocking_timeout", blocking)]
fn blocking_timeout(test: String) -> Result<u64, TaskError> {
    let other = pollster::block_on(app_of(&test).apply_async(double.s(4)))?;
    Ok(pollster::block_on(
        other.get_timeout(Duration::from_secs(60)),
    )?)
}

#[task(name = "waits.ready_blocking", blocking)]
fn ready_blocking(test: String, of: String) -> Result<u64, TaskError> {
    let id = IDS.borrow()[&of];
    let done = pollster::block_on(app_of(&test).async_result::<u64>(id))?;
    Ok(done.get_blocking()?)
}

#[task(name = "waits.get_in_async")]
async fn get_in_async(ctx: &TaskContext) -> Result<u64, TaskError> {
    Ok(ctx.apply_async(double.s(1)).await?.get_blocking()?)
}

#[task(name = "waits.fib")]
async fn fib(ctx: &TaskContext, n: u64) -> Result<u64, TaskError> {
    if n < 2 {
        return Ok(n);
    }
    let one = ctx.apply_async(fib.s(n - 1)).await?;
    let two = ctx.apply_async(fib.s(n - 2)).await?;
    Ok(one.get().await? + two.get().await?)
}

/// Waits for what has the id that is passed under this name.
#[task(name = "waits.wait_for")]
async fn wait_for(test: String, name: String) -> Result<(), TaskError> {
    let mut ids = IDS.subscribe();
    let id = ids.wait_for(|ids| ids.contains_key(&name)).await?[&name];
    let app = app_of(&test);
    app.async_result::<serde_json::Value>(id)
        .await?
        .get()
        .await?;
    Ok(())
}

#[task(name = "waits.own_at_rest")]
async fn own_at_rest(ctx: &TaskContext, test: String) -> Result<(), TaskError> {
    let own = app_of(&test).async_result::<()>(ctx.root_id()).await?;
    Ok(own.at_rest().await?)
}

/// Waits for the member of its group that has this index.
#[task(name = "waits.sibling")]
async fn sibling(ctx: &TaskContext, test: String, index: usize) -> Result<u64, TaskError> {
    let group = ctx.group_id().expect("it is in a group");
    let group = app_of(&test).async_result::<Vec<u64>>(group).await?;
    Ok(1 + group.children::<u64>().await?[index].get().await?)
}

#[task(name = "waits.joined")]
async fn joined(ctx: &TaskContext) -> Result<u64, TaskError> {
    let (one, two) = (ctx.apply_async(double.s(1)), ctx.apply_async(double.s(2)));
    let (one, two) = (one.await?, two.await?);
    let (one, two) = futures_util::join!(one.get(), two.get());
    Ok(one? + two?)
}

#[task(name = "waits.collected")]
async fn collected(ctx: &TaskContext) -> Result<u64, TaskError> {
    let group = group((1..=3).map(|n| double.s(n)));
    let mut completions = ctx.apply_async(group).await?.completions();
    let mut sum = 0;
    while let Some(completion) = completions.next().await {
        sum += completion?.outcome?;
    }
    Ok(sum)
}

/// Gives up its first wait, and goes on.
#[task(name = "waits.given_up")]
async fn given_up(ctx: &TaskContext) -> Result<u64, TaskError> {
    let never = ctx.apply_async(double.s(1).countdown(Duration::from_secs(3_600)));
    let never = never.await?;
    let waited = never.get_timeout(Duration::from_millis(1)).await;
    assert!(matches!(waited, Err(Error::Get(GetError::Timeout { .. }))));
    never.revoke().await?;
    Ok(ctx.apply_async(double.s(3)).await?.get().await?)
}

#[task(name = "waits.of_other", blocking)]
fn of_other(test: String) -> Result<u64, TaskError> {
    let other = pollster::block_on(app_of(&test).apply_async(double.s(5)))?;
    Ok(other.get_blocking()?)
}

async fn value(app: &App, signature: Signature<(), u64>) -> u64 {
    let result = app.apply_async(signature).await.unwrap();
    within(result.get()).await.unwrap()
}

async fn why<O: serde::de::DeserializeOwned + std::fmt::Debug>(
    app: &App,
    signature: Signature<(), O>,
) -> String {
    let result = app.apply_async(signature).await.unwrap();
    match within(result.get()).await {
        Err(Error::Failed(failure)) => failure.message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_task_in_the_only_slot_waits_for_what_it_has_submitted() {
    let app = start("only slot", one_slot().live_workflows(1)).await;
    assert_eq!(value(&app, in_context.s(3)).await, 6);
    assert_eq!(value(&app, in_clone.s("only slot".into(), 4)).await, 8);
    assert_eq!(value(&app, spawned.s(5)).await, 10);
    assert_eq!(value(&app, joined.s()).await, 6);
    assert_eq!(value(&app, collected.s()).await, 12);
    assert_eq!(value(&app, given_up.s()).await, 6);
    stop("only slot", app).await;
}

#[tokio::test]
async fn a_task_that_submits_through_the_app_does_not_wait_for_room() {
    let app = start("room", one_slot().max_pending(1)).await;
    assert_eq!(value(&app, in_clone.s("room".into(), 7)).await, 14);
    stop("room", app).await;
}

#[tokio::test]
async fn tasks_that_wait_for_tasks_that_wait_need_few_slots() {
    let app = start("fib", App::in_memory().concurrency(4)).await;
    assert_eq!(value(&app, fib.s(12)).await, 144);
    stop("fib", app).await;
}

#[tokio::test]
async fn a_blocking_task_is_told_at_once_that_it_cannot_wait() {
    let app = start("blocking", one_slot()).await;
    let message = why(&app, blocking_get.s("blocking".into())).await;
    assert!(message.contains("ctx.call"), "{message}");
    let message = why(&app, get_in_async.s()).await;
    assert!(message.contains("ctx.call"), "{message}");
    // Its slots are free.
    assert_eq!(value(&app, blocking_timeout.s("blocking".into())).await, 8);
    stop("blocking", app).await;
}

#[tokio::test]
async fn a_blocking_task_gets_what_is_there() {
    let app = start("there", one_slot()).await;
    let done = app.apply_async(double.s(21)).await.unwrap();
    within(done.get()).await.unwrap();
    IDS.send_modify(|ids| _ = ids.insert("done".into(), done.id()));
    let ready = ready_blocking.s("there".into(), "done".into());
    assert_eq!(value(&app, ready).await, 42);
    stop("there", app).await;
}

#[tokio::test]
async fn a_blocking_task_may_wait_for_another_app() {
    let app = start("this app", one_slot()).await;
    let other = start("other app", one_slot()).await;
    assert_eq!(value(&app, of_other.s("other app".into())).await, 10);
    stop("this app", app).await;
    stop("other app", other).await;
}

#[tokio::test]
async fn a_task_that_waits_for_itself_or_what_it_is_a_part_of_is_told_so() {
    let app = start("itself", one_slot()).await;
    let own = |name: &str| wait_for.s("itself".into(), name.into());
    let alone = app.apply_async(own("alone")).await.unwrap();
    IDS.send_modify(|ids| _ = ids.insert("alone".into(), alone.id()));
    let group = app.apply_async(group([own("group")])).await.unwrap();
    IDS.send_modify(|ids| _ = ids.insert("group".into(), group.id()));
    for failed in [
        within(alone.get()).await.map(drop),
        within(group.get()).await.map(drop),
    ] {
        match failed {
            Err(Error::Failed(failure)) => {
                assert!(failure.message.contains("only after the task"), "{failure}");
            }
            other => panic!("{other:?}"),
        }
    }
    let message = why(&app, own_at_rest.s("itself".into())).await;
    assert!(message.contains("only after the task"), "{message}");
    stop("itself", app).await;
}

#[tokio::test]
async fn a_task_may_wait_for_another_member_of_its_group() {
    let app = start("sibling", one_slot()).await;
    let members = [
        Canvas::from(sibling.s("sibling".into(), 1)),
        double.s(4).into(),
    ];
    let all = app.apply_async(Canvas::group(members)).await.unwrap();
    let all = within(all.get()).await.unwrap();
    assert_eq!(all, serde_json::json!([9, 8]));
    stop("sibling", app).await;
}
