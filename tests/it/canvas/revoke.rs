//! Revoking: whatever waits or runs, over restarts, and over a crash behind any batch.

use std::time::Duration;

use chordal::RevokeOutcome;
use chordal::persistence::{Store, verify};

use super::lives::{End, SECOND, World, becomes, failed, settle};
use super::*;
use crate::disk::Disk;
use crate::recovery::within;

/// Waits until it is told, notes that, and then for the gate.
#[task(name = "revoke.tidy")]
async fn tidy(ctx: &TaskContext, key: String) -> i64 {
    note(&key, "begins");
    ctx.cancelled().await;
    note(&key, "told");
    passed(&key).await;
    note(&key, "tidied");
    7
}

#[task(name = "revoke.stubborn", blocking)]
fn stubborn(key: String) -> i64 {
    note(&key, "begins");
    pollster::block_on(passed(&key));
    note(&key, "ends");
    7
}

#[task(name = "revoke.watchful", blocking)]
fn watchful(ctx: &TaskContext, key: String) -> i64 {
    note(&key, "begins");
    while !ctx.is_cancelled() {
        std::thread::yield_now();
    }
    note(&key, "told");
    7
}

#[task(name = "revoke.failing", max_retries = 5, retry_backoff = "10s")]
async fn failing(ctx: &TaskContext, key: String) -> Result<i64, TaskError> {
    note(&key, ctx.attempt());
    Err(TaskError::new("once more"))
}

/// Calls a task that waits at the gate.
#[task(name = "revoke.calls")]
async fn calls(ctx: &TaskContext, key: String) -> Result<i64, TaskError> {
    note(&key, "calls");
    Ok(ctx.call("it", held.s(1, key.clone())).await?)
}

/// Becomes a task that waits at the gate, and one behind that.
#[task(name = "revoke.turns")]
async fn turns(ctx: &TaskContext, key: String) -> Result<i64, TaskError> {
    ctx.replace(held.s(1, key.clone()) | mark.partial(key))
}

#[task(name = "revoke.adds")]
async fn adds(ctx: &TaskContext, key: String) -> Result<i64, TaskError> {
    ctx.add_to_chord(held.s(1, key))?;
    Ok(2)
}

#[task(name = "revoke.fold")]
async fn sum_up(acc: i64, n: i64) -> i64 {
    acc + n
}

#[task(name = "revoke.gates")]
async fn gates(key: String) -> Vec<String> {
    vec![key; 2]
}

#[task(name = "revoke.at_gate")]
async fn at_gate(key: String) {
    note(&key, "waits");
    passed(&key).await;
}

fn world() -> World {
    World::of(tasks![
        tidy, stubborn, watchful, failing, calls, turns, adds, sum_up, gates, at_gate
    ])
}

fn revoked() -> End {
    failed("TaskRevokedError", "revoked")
}

async fn end<O>(result: &AsyncResult<O>) -> End {
    match within(result.clone().cast::<Value>().get()).await {
        Ok(value) => Ok(value),
        Err(Error::Failed(failure)) => Err((failure.error_type, failure.message)),
        Err(other) => panic!("{other}"),
    }
}

async fn is_revoked<O>(result: &AsyncResult<O>) {
    assert_eq!(end(result).await, revoked());
    assert_eq!(result.state().await.unwrap(), State::Revoked);
    assert_eq!(
        within(result.revoke()).await.unwrap(),
        RevokeOutcome::AlreadyDone
    );
}

#[tokio::test]
async fn what_waits_for_a_slot_is_revoked_at_once_and_never_starts() {
    let world = world().slots(1);
    let app = world.start().await;
    let key = "revoke slot";
    let before = app.apply_async(held.s(1, key.into())).await.unwrap();
    noted(key, 1).await;
    let waits = app.apply_async(mark.s(2, key.into())).await.unwrap();
    assert_eq!(
        within(waits.revoke()).await.unwrap(),
        RevokeOutcome::BeforeStart
    );
    is_revoked(&waits).await;
    open(key);
    assert_eq!(end(&before).await, Ok(1.into()));
    settle(&app).await;
    assert_eq!(notes(key), ["1"]);
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn what_runs_is_ended_and_gives_its_slot_back() {
    let world = world().slots(1);
    let app = world.start().await;
    let key = "revoke running";
    let runs = app.apply_async(held.s(1, key.into())).await.unwrap();
    noted(key, 1).await;
    let behind = app.apply_async(add.s(1, 1)).await.unwrap();
    assert_eq!(
        within(runs.revoke()).await.unwrap(),
        RevokeOutcome::Cancelling
    );
    is_revoked(&runs).await;
    assert_eq!(end(&behind).await, Ok(2.into()));
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn what_has_ended_stays_as_it_is_and_what_is_unknown_is_so() {
    let app = world().start().await;
    let sum = app.apply_async(add.s(1, 1) | add.partial(1)).await.unwrap();
    assert_eq!(end(&sum).await, Ok(3.into()));
    assert_eq!(
        within(sum.revoke()).await.unwrap(),
        RevokeOutcome::AlreadyDone
    );
    for step in [1, 2] {
        let told = app.revoke(node(sum.id(), step)).await.unwrap();
        assert_eq!(told, RevokeOutcome::AlreadyDone);
    }
    assert_eq!(end(&sum).await, Ok(3.into()));
    let nobody = node(sum.id(), 7);
    assert!(matches!(
        app.revoke(nobody).await,
        Err(Error::Id(IdError::Unknown { id })) if id == nobody
    ));
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn who_listens_may_clean_up_until_the_grace_is_over_and_what_he_gives_does_not_count() {
    let world = world().grace(5 * SECOND);
    let app = world.start().await;
    for (key, in_time) in [("revoke tidy", true), ("revoke untidy", false)] {
        let result = app.apply_async(tidy.s(key.into())).await.unwrap();
        noted(key, 1).await;
        assert_eq!(
            within(result.revoke()).await.unwrap(),
            RevokeOutcome::Cancelling
        );
        noted(key, 2).await;
        assert_eq!(result.state().await.unwrap(), State::Started);
        assert_eq!(
            within(result.revoke()).await.unwrap(),
            RevokeOutcome::Cancelling
        );
        match in_time {
            true => open(key),
            false => drop(world.end(&result).await),
        }
        is_revoked(&result).await;
        assert_eq!(notes(key).len(), if in_time { 3 } else { 2 });
    }
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_blocking_task_is_refused_its_result_and_keeps_its_slot_until_it_is_done() {
    let app = world().start().await;
    let key = "revoke stubborn";
    let result = app.apply_async(stubborn.s(key.into())).await.unwrap();
    noted(key, 1).await;
    assert_eq!(
        within(result.revoke()).await.unwrap(),
        RevokeOutcome::Cancelling
    );
    is_revoked(&result).await;
    assert_eq!(notes(key), ["begins"]);
    open(key);
    noted(key, 2).await;

    let key = "revoke watchful";
    let result = app.apply_async(watchful.s(key.into())).await.unwrap();
    noted(key, 1).await;
    assert_eq!(
        within(result.revoke()).await.unwrap(),
        RevokeOutcome::Cancelling
    );
    is_revoked(&result).await;
    noted(key, 2).await;
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn what_waits_for_a_time_does_not_wait_for_it_to_be_revoked() {
    let world = world();
    let app = world.start().await;
    let key = "revoke times";
    let retry = app.apply_async(failing.s(key.into())).await.unwrap();
    becomes(&retry, State::Retry).await;
    assert_eq!(
        within(retry.revoke()).await.unwrap(),
        RevokeOutcome::Cancelling
    );
    is_revoked(&retry).await;
    // (In memory, and in the store.)
    for delay in [SECOND, 100 * SECOND] {
        let later = mark.s(1, key.into()).countdown(delay);
        let later = app.apply_async(later).await.unwrap();
        settle(&app).await;
        assert_eq!(
            within(later.revoke()).await.unwrap(),
            RevokeOutcome::BeforeStart
        );
        is_revoked(&later).await;
        within(later.at_rest()).await.unwrap();
    }
    let member = mark.s(1, key.into()).countdown(100 * SECOND);
    let group = app
        .apply_async(group([member, mark.s(2, key.into())]))
        .await;
    let group = group.unwrap();
    noted(key, 2).await;
    let told = within(app.revoke(node(group.id(), 1))).await.unwrap();
    assert_eq!(told, RevokeOutcome::BeforeStart);
    assert_eq!(end(&group).await, revoked());
    assert_eq!(group.state().await.unwrap(), State::Failure);
    world.clock.advance(1_000 * SECOND);
    settle(&app).await;
    assert_eq!(notes(key), ["1", "2"]);
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_workflow_in_the_backlog_is_revoked_without_its_turn() {
    let app = world().live(1).start().await;
    let key = "revoke backlog";
    let first = app.apply_async(held.s(1, key.into())).await.unwrap();
    noted(key, 1).await;
    let waits = app.apply_async(mark.s(2, key.into())).await.unwrap();
    let chain = mark.s(3, key.into()) | mark.partial(key.into());
    let chain = app.apply_async(chain).await.unwrap();
    assert_eq!(
        within(waits.revoke()).await.unwrap(),
        RevokeOutcome::BeforeStart
    );
    is_revoked(&waits).await;
    let second = app.revoke(node(chain.id(), 2));
    assert_eq!(within(second).await.unwrap(), RevokeOutcome::BeforeStart);
    open(key);
    assert_eq!(end(&first).await, Ok(1.into()));
    is_revoked(&chain).await;
    assert_eq!(notes(key), ["1", "3"]);
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_parked_task_is_revoked() {
    let store = chordal::persistence::MemoryStore::new();
    let app = App::with_store(store.clone())
        .tasks(all_tasks())
        .grace(Duration::ZERO);
    let app = app.start().await.unwrap();
    let key = "revoke parked";
    let result = app.apply_async(held.s(1, key.into())).await.unwrap();
    noted(key, 1).await;
    within(app.shutdown()).await.unwrap();
    let app = App::with_store(store).start().await.unwrap();
    let result = app.async_result::<i64>(result.id()).await.unwrap();
    while app.parked().await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        within(result.revoke()).await.unwrap(),
        RevokeOutcome::Cancelling
    );
    is_revoked(&result).await;
    assert!(app.parked().await.unwrap().is_empty());
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_group_is_revoked_without_the_members_that_have_not_been_reached() {
    let world = world().slots(2).window(4);
    let app = world.start().await;
    let key = "revoke large";
    let large = group((0..20_000).map(|n| held.s(n, key.into())));
    let large = app.apply_async(large).await.unwrap();
    noted(key, 2).await;
    assert_eq!(
        within(large.revoke()).await.unwrap(),
        RevokeOutcome::Cancelling
    );
    is_revoked(&large).await;
    let last = app.async_result::<i64>(node(large.id(), 20_000)).await;
    is_revoked(&last.unwrap()).await;
    let mut all = large.cast::<Vec<i64>>().completions();
    let mut elements = 0;
    while let Some(element) = within(all.next()).await {
        assert!(element.and_then(|element| Ok(element.outcome?)).is_err());
        elements += 1;
    }
    assert!(elements < 10, "{elements} members have ended of themselves");
    assert_eq!(notes(key).len(), 2);
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_member_is_revoked_before_it_is_reached() {
    let world = world().slots(1).window(2);
    let app = world.start().await;
    let key = "revoke far";
    let members = (0..50).map(|n| held.s(n, key.into()));
    let all = app.apply_async(group(members)).await.unwrap();
    noted(key, 1).await;
    let member = app.async_result::<i64>(node(all.id(), 40)).await.unwrap();
    assert_eq!(
        within(member.revoke()).await.unwrap(),
        RevokeOutcome::BeforeStart
    );
    let app = world.restart(app).await;
    open(key);
    let member = app.async_result::<i64>(member.id()).await.unwrap();
    is_revoked(&member).await;
    let all = app.async_result::<Vec<i64>>(all.id()).await.unwrap();
    assert_eq!(end(&all).await, revoked());
    assert!(!notes(key).contains(&"39".to_owned()));
    assert_eq!(all.completed_count().await.unwrap(), 49);
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn what_needs_the_value_of_what_is_revoked_fails_and_its_errbacks_run() {
    let app = world().start().await;
    let gone = "TaskRevokedError";

    // A member of a header.
    let key = "revoke header";
    let alarm = || Canvas::task("alert", (key,));
    let header = [
        Canvas::immutable("held", (1, key)).link_error(alarm()),
        Canvas::immutable("add", (1, 1)),
    ];
    let chord = Canvas::chord(header, Canvas::task("xsum", ()).link_error(alarm()));
    let chord = app.apply_async(chord).await.unwrap();
    noted(key, 1).await;
    let told = within(app.revoke(node(chord.id(), 1))).await.unwrap();
    assert_eq!(told, RevokeOutcome::Cancelling);
    let (error_type, message) = end(&chord).await.unwrap_err();
    assert_eq!(error_type, "ChordError");
    assert!(message.contains("TaskRevokedError('revoked')"), "{message}");
    within(chord.at_rest()).await.unwrap();
    let called = notes(key);
    assert_eq!(called.len(), 2, "one errback, the body's: {called:?}");

    // A step: the rest of the chain fails, itself it does not.
    let key = "revoke step";
    let step = Canvas::immutable("held", (1, key)).link(Canvas::task("mark", (key,)));
    let chain = step | Canvas::task("mark", (key,));
    let chain = app
        .apply_async(chain.link_error(Canvas::task("alert", (key,))))
        .await
        .unwrap();
    noted(key, 1).await;
    let told = within(app.revoke(node(chain.id(), 1))).await.unwrap();
    assert_eq!(told, RevokeOutcome::Cancelling);
    assert_eq!(end(&chain).await, failed(gone, "revoked"));
    assert_eq!(chain.state().await.unwrap(), State::Failure);
    within(chain.at_rest()).await.unwrap();
    assert_eq!(notes(key), ["1", "held: revoked"]);

    // A body, while the header runs on.
    let key = "revoke body";
    let header = [Canvas::immutable("held", (1, key))];
    let chord = Canvas::chord(header, Canvas::immutable("mark", (9, key)));
    let chord = app.apply_async(chord).await.unwrap();
    noted(key, 1).await;
    let told = within(app.revoke(node(chord.id(), 2))).await.unwrap();
    assert_eq!(told, RevokeOutcome::BeforeStart);
    open(key);
    is_revoked(&chord).await;
    assert_eq!(notes(key), ["1"]);
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn nothing_is_called_for_by_what_is_revoked() {
    let app = world().start().await;
    let key = "revoke callbacks";
    let callback = |name| Canvas::task(name, (key,));
    let task = Canvas::immutable("held", (1, key))
        .link(callback("mark"))
        .link_error(callback("alert"));
    // Whose link waits, and is a part of what is revoked.
    let linked = Canvas::immutable("add", (1, 1));
    let slow = callback("mark").countdown(100 * SECOND);
    let group = Canvas::group([task, linked.link(slow)]);
    let result = app.apply_async(group.link_error(callback("alert"))).await;
    let result = result.unwrap();
    noted(key, 1).await;
    let members = result.children::<i64>().await.unwrap();
    becomes(&members[1], State::Success).await;
    settle(&app).await;
    assert_eq!(
        within(result.revoke()).await.unwrap(),
        RevokeOutcome::Cancelling
    );
    is_revoked(&result).await;
    within(result.at_rest()).await.unwrap();
    settle(&app).await;
    assert_eq!(notes(key), ["1"]);
    within(app.shutdown()).await.unwrap();
}

/// What is revoked whole, once a task of it has noted under the key.
fn shapes(key: &str) -> Vec<Canvas> {
    let waits = || Canvas::immutable("held", (1, key));
    let next = || Canvas::task("mark", (key,));
    vec![
        waits(),
        waits() | next(),
        Canvas::group([waits(), Canvas::immutable("add", (1, 1))]),
        Canvas::chord([waits()], Canvas::immutable("mark", (9, key))),
        Canvas::chord(
            [Canvas::immutable("add", (1, 1))],
            Canvas::immutable("held", (9, key)),
        ),
        Canvas::group([Canvas::group([waits() | next()]) | Canvas::immutable("mark", (9, key))]),
        (gates.s(key.into()) | at_gate.each()).into(),
        Canvas::group([waits()]).fold(0, "revoke.fold"),
        Canvas::immutable("revoke.calls", (key,)) | next(),
        Canvas::immutable("revoke.turns", (key,)) | next(),
        Canvas::group([Canvas::immutable("revoke.adds", (key,))]),
    ]
}

#[tokio::test]
async fn all_of_a_canvas_is_revoked_with_it() {
    let app = world().start().await;
    for i in 0..shapes("").len() {
        let key = format!("revoke whole {i}");
        let canvas = shapes(&key).swap_remove(i);
        let result = app.apply_async(canvas).await.unwrap();
        noted(&key, 1).await;
        settle(&app).await;
        let begun = notes(&key);
        let told = within(result.revoke()).await.unwrap();
        assert_eq!(told, RevokeOutcome::Cancelling, "shape {i}");
        is_revoked(&result).await;
        open(&key);
        within(result.at_rest()).await.unwrap();
        settle(&app).await;
        assert_eq!(notes(&key), begun, "shape {i}");
    }
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn what_a_task_called_is_revoked_by_itself() {
    let app = world().start().await;
    let key = "revoke called";
    let result = app.apply_async(calls.s(key.into())).await.unwrap();
    noted(key, 2).await;
    let told = within(app.revoke(node(result.id(), 1))).await.unwrap();
    assert_eq!(told, RevokeOutcome::Cancelling);
    let (error_type, message) = end(&result).await.unwrap_err();
    assert_eq!(error_type, "Error");
    assert!(message.contains("revoked"), "{message}");
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn the_function_of_a_fold_stands_for_the_fold() {
    let app = world().start().await;
    let key = "revoke fold";
    let fold = Canvas::group([Canvas::immutable("held", (1, key))]).fold(0, "revoke.fold");
    let fold = app.apply_async(fold).await.unwrap();
    noted(key, 1).await;
    let told = within(app.revoke(node(fold.id(), 2))).await.unwrap();
    assert_eq!(told, RevokeOutcome::Cancelling);
    is_revoked(&fold).await;
    within(app.shutdown()).await.unwrap();
}

/// What is told, and what is on the disk by then, of node `seq` of a canvas.
struct Told {
    disk: Disk,
    id: Id,
    root: Id,
    answer: RevokeOutcome,
    /// How many batches were durable.
    at: usize,
}

async fn revoke_on_a_disk(world: &World, canvas: Canvas, key: &str, seq: u128) -> Told {
    let disk = Disk::default();
    let app = world.over(disk.clone()).start().await.unwrap();
    let result = app.apply_async(canvas).await.unwrap();
    noted(key, 1).await;
    settle(&app).await;
    let id = node(result.id(), seq);
    let answer = within(app.revoke(id)).await.unwrap();
    let at = disk.synced();
    open(key);
    let _ = end(&result).await;
    within(result.at_rest()).await.unwrap();
    within(app.shutdown()).await.unwrap();
    Told {
        disk,
        id,
        root: result.id(),
        answer,
        at,
    }
}

#[tokio::test]
async fn what_was_told_stays_true_over_a_crash_behind_any_batch() {
    let world = world();
    let whole: Vec<_> = (0..shapes("").len()).map(|i| (i, 0)).collect();
    // A later step, a body, a member.
    let parts = [(1, 2), (3, 2), (2, 1)];
    for (shape, seq) in whole.into_iter().chain(parts) {
        let key = format!("revoke crash {shape} {seq}");
        let canvas = shapes(&key).swap_remove(shape);
        let told = revoke_on_a_disk(&world, canvas, &key, seq).await;
        for kept in 0..=told.disk.batches() {
            let before = notes(&key).len();
            let store = told.disk.crashed_after(kept);
            let app = world.over(store.clone()).start().await.unwrap();
            let Ok(part) = app.async_result::<Value>(told.id).await else {
                assert!(kept < told.at);
                within(app.shutdown()).await.unwrap();
                continue;
            };
            let root = app.async_result::<Value>(told.root).await.unwrap();
            let how = end(&part).await;
            let whole = end(&root).await;
            within(root.at_rest()).await.unwrap();
            let place = format!(
                "shape {shape}, node {seq}, behind batch {kept} of {}",
                told.at
            );
            if kept >= told.at {
                assert_eq!(how, revoked(), "{place}");
                let again = notes(&key).split_off(before);
                match (seq, told.answer) {
                    (0, _) => assert!(again.is_empty(), "{place}: {again:?}"),
                    (_, RevokeOutcome::BeforeStart) => {
                        assert!(!again.contains(&"9".to_owned()), "{place}: {again:?}");
                    }
                    _ => assert!(whole.is_err(), "{place}"),
                }
            }
            within(app.shutdown()).await.unwrap();
            assert!(verify(&store).is_sound(), "{place}");
        }
    }
}

#[tokio::test]
async fn a_revoked_workflow_is_swept_like_any_other() {
    let store = chordal::persistence::MemoryStore::new();
    let app = App::with_store(store.clone()).tasks(all_tasks());
    let clock = world().clock;
    let app = app.retention(SECOND).clock(clock.clone());
    let app = app.start().await.unwrap();
    let key = "revoke sweep";
    let canvas = held.s(1, key.into()) | mark.partial(key.into());
    let result = app.apply_async(canvas.idempotency_key(key)).await.unwrap();
    noted(key, 1).await;
    let id = result.id();
    assert_eq!(
        within(result.revoke()).await.unwrap(),
        RevokeOutcome::Cancelling
    );
    within(result.at_rest()).await.unwrap();
    assert_eq!(app.pending(), 0);
    result.forget().await.unwrap();
    let gone = async {
        while app.async_result::<i64>(id).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    within(gone).await;
    let again = app
        .apply_async(add.s(1, 1).idempotency_key(key))
        .await
        .unwrap();
    assert_ne!(again.id(), id);
    let uuid = id.as_uuid();
    let own = &uuid.as_bytes()[..11];
    let of_it = |key: &[u8]| key[0] != b'm' && key.windows(own.len()).any(|part| part == own);
    // A sweep passes by what is looked at that moment and comes again after a second.
    let swept = async {
        while store
            .scan(&[0], &[0xff])
            .any(|pair| of_it(&pair.unwrap().0))
        {
            clock.advance(SECOND);
            tokio::task::yield_now().await;
        }
    };
    within(swept).await;
    within(app.shutdown()).await.unwrap();
}
