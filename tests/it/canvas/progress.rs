//! What tasks report of themselves, how far a canvas has got, and the stream of its changes.

use std::time::Duration;

use chordal::persistence::{self, MemoryStore, Store};
use chordal::{Change, Progress, TaskProgress};

use super::lives::{SECOND, World, becomes, settle};
use super::*;
use crate::disk::Disk;
use crate::recovery::within;

/// Goes through its steps as the gates `{key} 0`, `{key} 1`, … open, and notes each: `p 3 10`
/// reports progress, `s NAME value` a state, `fail` ends the attempt, `gone` lets a part of it
/// report behind its end.
#[task(max_retries = 1, retry_backoff = "10s")]
async fn reports(ctx: &TaskContext, key: String, steps: Vec<String>) -> Result<u64, TaskError> {
    for (n, step) in steps.iter().enumerate() {
        passed(&format!("{key} {n}")).await;
        let words: Vec<_> = step.split(' ').collect();
        match words[..] {
            ["p", done, total] => ctx.progress(done.parse()?, total.parse()?),
            ["s", name, value] => ctx.update_state(name, value)?,
            ["gone"] => {
                let ctx = ctx.clone();
                tokio::spawn(async move {
                    passed(&format!("{key} late")).await;
                    ctx.progress(99, 100);
                    note(&format!("{key} late"), "reported");
                });
                return Ok(7);
            }
            ["fail"] if ctx.attempt() == 1 => return Err(TaskError::new("failed")),
            _ => {}
        }
        note(&key, n);
    }
    Ok(7)
}

fn world() -> World {
    World::of(tasks![reports])
}

fn plan<const N: usize>(key: &str, steps: [&str; N]) -> Signature<(), u64> {
    reports.s(key.into(), steps.map(String::from).into())
}

/// Lets the task with this key take its step, and waits until it has.
async fn step(key: &str, n: usize) {
    open(&format!("{key} {n}"));
    within(noted(key, n + 1)).await;
}

/// Waits until the task reports this.
async fn shows<O>(handle: &AsyncResult<O>, state: &str, value: &str) {
    within(async {
        loop {
            if let Some(info) = handle.task_info().await.unwrap() {
                let meta: Value = info.meta().unwrap();
                let meta = meta.as_str().map_or(meta.to_string(), String::from);
                if (info.state(), &*meta) == (state, value) {
                    return;
                }
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The updates on record.
fn on_record(store: &dyn Store) -> Vec<Vec<u8>> {
    let records = store.scan(b"g", b"h");
    records.map(|record| record.unwrap().1).collect()
}

#[tokio::test]
async fn a_running_task_says_what_it_does_and_an_ended_one_says_nothing() {
    let app = world().start().await;
    let key = "progress: info";
    let steps = ["p 3 10", "s QUERYING users", "s EMPTY ", "end"];
    let task = app.apply_async(plan(key, steps)).await.unwrap();
    assert!(task.task_info().await.unwrap().is_none());
    assert_eq!(task.info::<TaskProgress>().await.unwrap(), None);
    step(key, 0).await;
    shows(&task, "PROGRESS", r#"{"done":3,"total":10}"#).await;
    let info = task.info::<TaskProgress>().await.unwrap();
    assert_eq!(info, Some(TaskProgress { done: 3, total: 10 }));
    assert_eq!(task.state().await.unwrap(), State::Started);
    match task.info::<String>().await {
        Err(Error::Get(GetError::Decode { id, what })) => {
            assert_eq!(id, task.id());
            assert!(what.contains("`PROGRESS`"), "{what}");
        }
        other => panic!("{other:?}"),
    }
    step(key, 1).await;
    let info = task.task_info().await.unwrap().unwrap();
    assert_eq!(info.state(), "QUERYING");
    assert_eq!(info.meta::<String>().unwrap(), "users");
    assert_eq!(format!("{info:?}"), r#"TaskInfo { state: "QUERYING", .. }"#);
    step(key, 2).await;
    assert_eq!(task.info().await.unwrap(), Some(String::new()));
    step(key, 3).await;
    assert_eq!(within(task.get()).await.unwrap(), 7);
    assert!(task.task_info().await.unwrap().is_none());
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_reported_is_an_error_that_says_why() {
    #[task]
    async fn wrong(ctx: &TaskContext) -> Vec<String> {
        let large = "x".repeat(4_097);
        let errors = [
            ctx.update_state("", &1),
            ctx.update_state("SUCCESS", &1),
            ctx.update_state(&large, &1),
            ctx.update_state("LARGE", &large),
        ];
        errors.map(|error| error.unwrap_err().to_string()).into()
    }
    let expected = [
        "the state `` cannot be reported: the name of a state has 1 to 64 bytes",
        "the state `SUCCESS` cannot be reported: the engine itself sets this state",
    ];
    let app = World::of(tasks![wrong]).start().await;
    let errors = app.apply_async(wrong.s()).await.unwrap();
    let errors = within(errors.get()).await.unwrap();
    assert_eq!(errors[..2], expected);
    assert!(errors[2].ends_with("1 to 64 bytes"), "{}", errors[2]);
    assert!(errors[3].ends_with("takes 4100 bytes, and at most 4096 are kept"));
    // A function that is called directly has nobody to tell, but the same errors.
    let detached = TaskContext::detached();
    assert_eq!(wrong.call(&detached).await, errors);
    detached.progress(1, 2);
    detached.update_state("QUERYING", &()).unwrap();
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_report_makes_no_batch_and_goes_with_the_next_one_at_most_once_a_second() {
    let world = world();
    let disk = Disk::default();
    let app = world.over(disk.clone()).start().await.unwrap();
    let key = "progress: batches";
    let many: Vec<_> = (0..40).map(|n| format!("p {n} 40")).collect();
    let task = reports.s(key.into(), many);
    let task = app.apply_async(task).await.unwrap();
    within(becomes(&task, State::Started)).await;
    settle(&app).await;
    let meta = disk.get(b"m/store").unwrap().unwrap();
    let batches = disk.batches();
    for n in 0..20 {
        step(key, n).await;
        world.clock.advance(SECOND);
    }
    shows(&task, "PROGRESS", r#"{"done":19,"total":40}"#).await;
    assert_eq!(disk.batches(), batches);
    assert!(on_record(&disk).is_empty());
    assert_eq!(disk.get(b"m/store").unwrap().unwrap(), meta);

    // Another workflow's batch takes the latest along, and names the addition to the format.
    settle(&app).await;
    let first = on_record(&disk);
    assert_eq!(first.len(), 1);
    let names_it = |meta: Vec<u8>| String::from_utf8_lossy(&meta).contains("task-updates");
    assert!(!names_it(meta) && names_it(disk.get(b"m/store").unwrap().unwrap()));
    let moment = Duration::from_millis(1);
    step(key, 20).await;
    world.clock.advance(SECOND - moment);
    settle(&app).await;
    assert_eq!(on_record(&disk), first);
    world.clock.advance(moment);
    settle(&app).await;
    let second = on_record(&disk);
    assert_ne!(second, first);
    // The same again is nothing new.
    world.clock.advance(SECOND);
    settle(&app).await;
    assert_eq!(on_record(&disk), second);
    assert_eq!(persistence::verify(&disk).findings, []);

    for n in 21..40 {
        step(key, n).await;
    }
    assert_eq!(within(task.get()).await.unwrap(), 7);
    within(task.at_rest()).await.unwrap();
    assert!(on_record(&disk).is_empty());
    within(app.shutdown()).await.unwrap();
    // A build that does not know the addition must not open the store from then on.
    assert!(names_it(disk.get(b"m/store").unwrap().unwrap()));
}

#[tokio::test]
async fn a_crash_loses_the_last_report_and_no_recorded_one() {
    let world = world();
    let disk = Disk::default();
    let app = world.over(disk.clone()).start().await.unwrap();
    let key = "progress: crash";
    let steps = ["s FIRST 1", "s SECOND 2", "s THIRD 3", "end"];
    let task = app.apply_async(plan(key, steps)).await.unwrap();
    step(key, 0).await;
    step(key, 1).await;
    shows(&task, "SECOND", "2").await;
    settle(&app).await;
    assert_eq!(on_record(&disk).len(), 1);
    step(key, 2).await;
    shows(&task, "THIRD", "3").await;

    let crashed = disk.crashed();
    let id = task.id();
    let mut text = Vec::new();
    persistence::export(&crashed, &mut text).unwrap();
    let imported = MemoryStore::new();
    persistence::import(&imported, &text[..]).unwrap();
    for again in [world.over(crashed), world.over(imported)] {
        let again = again.paused().start().await.unwrap();
        let task = again.async_result::<u64>(id).await.unwrap();
        let info = task.task_info().await.unwrap().unwrap();
        assert_eq!(
            (info.state(), info.meta::<String>().unwrap()),
            ("SECOND", "2".into())
        );
        again.resume().await.unwrap();
        open(&format!("{key} 3"));
        assert_eq!(within(task.get()).await.unwrap(), 7);
        assert!(task.task_info().await.unwrap().is_none());
        within(again.shutdown()).await.unwrap();
    }
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_report_stays_over_a_retry_and_ends_with_the_task_however_it_ends() {
    let world = world();
    let disk = Disk::default();
    let app = world.over(disk.clone()).start().await.unwrap();
    let key = "progress: retry";
    let steps = ["s FIRST 1", "fail", "s SECOND 2", "end"];
    let task = app.apply_async(plan(key, steps)).await.unwrap();
    step(key, 0).await;
    shows(&task, "FIRST", "1").await;
    open(&format!("{key} 1"));
    becomes(&task, State::Retry).await;
    shows(&task, "FIRST", "1").await;
    assert_eq!(on_record(&disk).len(), 1);
    let revoked = "progress: revoked";
    let other = app
        .apply_async(group([plan(revoked, ["s FIRST 1", "end"])]))
        .await
        .unwrap();
    step(revoked, 0).await;
    let member = &other.children::<u64>().await.unwrap()[0];
    shows(member, "FIRST", "1").await;
    settle(&app).await;
    assert_eq!(on_record(&disk).len(), 2);
    other.revoke().await.unwrap();
    within(other.at_rest()).await.unwrap();
    assert!(member.task_info().await.unwrap().is_none());
    assert_eq!(on_record(&disk).len(), 1);
    task.revoke().await.unwrap();
    within(task.at_rest()).await.unwrap();
    assert!(on_record(&disk).is_empty());

    // What is left of an attempt has no task to report for.
    let key = "progress: late";
    let gone = app.apply_async(plan(key, ["s FIRST 1", "gone"])).await;
    let gone = gone.unwrap();
    step(key, 0).await;
    shows(&gone, "FIRST", "1").await;
    open(&format!("{key} 1"));
    assert_eq!(within(gone.get()).await.unwrap(), 7);
    open(&format!("{key} late"));
    within(noted(&format!("{key} late"), 1)).await;
    settle(&app).await;
    assert!(gone.task_info().await.unwrap().is_none());
    assert!(on_record(&disk).is_empty());
    within(app.shutdown()).await.unwrap();
}

/// `done failed running total`.
async fn progress_of<O>(handle: &AsyncResult<O>) -> String {
    shown(handle.progress().await.unwrap())
}

fn shown(progress: Progress) -> String {
    let Progress {
        done,
        failed,
        running,
        total,
        ..
    } = progress;
    let total = total.map_or("?".to_owned(), |total| total.to_string());
    format!("{done} {failed} {running} {total}")
}

#[tokio::test]
async fn the_progress_of_a_canvas_counts_its_children() {
    let app = builder().concurrency(2).start().await.unwrap();
    let gates = ["progress: a", "progress: b", "progress: c"];
    let one = |n: usize| held.s(n as i64, gates[n].into());
    let members = || group([one(0), one(1), one(2), even.s(1)]);
    let all = app.apply_async(members()).await.unwrap();
    within(noted(gates[1], 1)).await;
    assert_eq!(progress_of(&all).await, "0 0 2 4");
    let task = &all.children::<i64>().await.unwrap()[0];
    assert_eq!(progress_of(task).await, "0 0 1 1");
    open(gates[0]);
    within(noted(gates[2], 1)).await;
    assert_eq!(progress_of(&all).await, "1 0 2 4");
    assert_eq!(progress_of(task).await, "1 0 0 1");
    open(gates[1]);
    open(gates[2]);
    failure_of(&all).await;
    assert_eq!(progress_of(&all).await, "3 1 0 4");
    let settled = app.apply_async(members().settled()).await.unwrap();
    settled.get().await.unwrap();
    assert_eq!(progress_of(&settled).await, "3 1 0 4");
    // Of a chord the header, of a fold its members.
    let total = app.apply_async(chord(members(), xsum.partial())).await;
    let total = total.unwrap();
    assert_eq!(failure_of(&total).await.error_type, "ChordError");
    assert_eq!(progress_of(&total).await, "3 1 0 4");
    let folded = group([add.s(1, 1), add.s(2, 2)]).fold(0, add);
    let folded = app.apply_async(folded).await.unwrap();
    folded.get().await.unwrap();
    assert_eq!(progress_of(&folded).await, "2 0 0 2");
    // The steps of a chain.
    let gate = "progress: chain";
    let chained = add.s(1, 1) | held.partial(gate.into()) | even.partial() | add.partial(1);
    let chained = app.apply_async(chained).await.unwrap();
    within(noted(gate, 1)).await;
    assert_eq!(progress_of(&chained).await, "1 0 1 4");
    open(gate);
    chained.get().await.unwrap();
    assert_eq!(progress_of(&chained).await, "4 0 0 4");
    let failing = app.apply_async(add.s(1, 2) | even.partial() | add.partial(1));
    let failing = failing.await.unwrap();
    failure_of(&failing).await;
    assert_eq!(progress_of(&failing).await, "1 1 0 3");
    // One that does not know yet how many there will be.
    let gate = "progress: each";
    let spread = held.s(3, gate.into()) | range.partial() | add.each(1);
    let spread = app.apply_async(spread).await.unwrap();
    within(noted(gate, 1)).await;
    let each = &spread.children::<Value>().await.unwrap()[2];
    assert_eq!(progress_of(each).await, "0 0 0 ?");
    open(gate);
    spread.get().await.unwrap();
    assert_eq!(progress_of(each).await, "3 0 0 3");
}

#[tokio::test]
async fn members_that_are_canvases_run_from_their_first_task_to_their_end() {
    let app = builder().concurrency(2).start().await.unwrap();
    let gates = [
        "progress: inner a",
        "progress: inner b",
        "progress: inner c",
    ];
    let one = |n: usize| held.s(n as i64, gates[n].into()) | add.partial(1);
    let all = group([one(0), one(1), one(2)]);
    let all = app.apply_async(all).await.unwrap();
    within(noted(gates[1], 1)).await;
    assert_eq!(progress_of(&all).await, "0 0 2 3");
    // The second's next step waits for a slot, behind the third.
    open(gates[1]);
    within(noted(gates[2], 1)).await;
    assert_eq!(progress_of(&all).await, "0 0 3 3");
    open(gates[0]);
    within(all.children::<i64>().await.unwrap()[0].get())
        .await
        .unwrap();
    within(all.children::<i64>().await.unwrap()[1].get())
        .await
        .unwrap();
    assert_eq!(progress_of(&all).await, "2 0 1 3");
    open(gates[2]);
    within(all.get()).await.unwrap();
    assert_eq!(progress_of(&all).await, "3 0 0 3");
}

#[tokio::test]
async fn a_task_that_waits_for_its_retry_does_not_run() {
    let world = world();
    let app = world.start().await;
    let key = "progress: waits";
    let all = group([plan(key, ["fail", "end"])]);
    let all = app.apply_async(all).await.unwrap();
    open(&format!("{key} 0"));
    let member = &all.children::<u64>().await.unwrap()[0];
    becomes(member, State::Retry).await;
    assert_eq!(progress_of(&all).await, "0 0 0 1");
    let app = world.restart(app).await;
    let all = app.async_result::<Vec<u64>>(all.id()).await.unwrap();
    assert_eq!(progress_of(&all).await, "0 0 0 1");
    world.clock.advance(10 * SECOND);
    within(noted(key, 1)).await;
    assert_eq!(progress_of(&all).await, "0 0 1 1");
    open(&format!("{key} 1"));
    within(all.get()).await.unwrap();
    assert_eq!(progress_of(&all).await, "1 0 0 1");
    within(app.shutdown()).await.unwrap();
}

fn told<O: std::fmt::Debug>(change: Change<O>) -> String {
    match change {
        Change::State(state) => state.to_string(),
        Change::Info(info) => format!("{} {}", info.state(), info.meta::<Value>().unwrap()),
        Change::Progress(progress) => shown(progress),
        Change::Ended(Ok(value)) => format!("{value:?}"),
        Change::Ended(Err(failure)) => failure.message,
        other => panic!("{other:?}"),
    }
}

async fn next<O>(changes: &mut chordal::Changes<O>) -> String
where
    O: serde::de::DeserializeOwned + std::fmt::Debug,
{
    told(within(changes.next()).await.unwrap().unwrap())
}

#[tokio::test]
async fn the_changes_of_a_task_end_with_its_outcome() {
    let world = world();
    let app = world.start().await;
    let key = "progress: changes";
    let steps = ["s FIRST 1", "fail", "p 1 2", "end"];
    let task = app.apply_async(plan(key, steps)).await.unwrap();
    becomes(&task, State::Started).await;
    let mut changes = task.changes();
    assert_eq!(next(&mut changes).await, "STARTED");
    step(key, 0).await;
    assert_eq!(next(&mut changes).await, "FIRST \"1\"");
    open(&format!("{key} 1"));
    assert_eq!(next(&mut changes).await, "RETRY");
    // A wait that is given up loses nothing, as in `select!`.
    assert!(futures_util::poll!(StreamExt::next(&mut changes)).is_pending());
    world.clock.advance(10 * SECOND);
    assert_eq!(next(&mut changes).await, "STARTED");
    step(key, 2).await;
    assert_eq!(next(&mut changes).await, r#"PROGRESS {"done":1,"total":2}"#);
    step(key, 3).await;
    let mut last = Vec::new();
    while let Some(change) = within(changes.next()).await {
        last.push(told(change.unwrap()));
    }
    assert_eq!(last, ["SUCCESS", "7"]);
    assert!(changes.next().await.is_none());
    // Of an ended one the end alone.
    let again: Vec<_> = task
        .changes()
        .map(|change| told(change.unwrap()))
        .collect()
        .await;
    assert_eq!(again, ["SUCCESS", "7"]);
    let wrong: Vec<_> = task.cast::<String>().changes().collect().await;
    assert!(matches!(
        &wrong[..],
        [
            Ok(Change::State(State::Success)),
            Err(Error::Get(GetError::Decode { .. }))
        ]
    ));
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn the_changes_of_a_group_count_its_members_to_the_end() {
    let app = builder().concurrency(2).start().await.unwrap();
    let gates = ["progress: group a", "progress: group b"];
    let waiting = gates.map(|gate| held.s(2, gate.into()));
    let all = group(waiting.into_iter().chain([even.s(1)]));
    let all = app.apply_async(all).await.unwrap();
    within(noted(gates[1], 1)).await;
    let mut changes = all.changes();
    assert_eq!(next(&mut changes).await, "STARTED");
    assert_eq!(next(&mut changes).await, "0 0 2 3");
    open(gates[0]);
    // The third starts and fails meanwhile, in one commit or in more.
    let mut seen = next(&mut changes).await;
    while seen != "1 1 1 3" {
        assert!(["1 0 1 3", "1 0 2 3"].contains(&&*seen), "{seen}");
        seen = next(&mut changes).await;
    }
    open(gates[1]);
    let mut last = Vec::new();
    while let Some(change) = within(changes.next()).await {
        last.push(told(change.unwrap()));
    }
    assert_eq!(last.last().unwrap(), "1 is odd");
    assert!(last.contains(&"2 1 0 3".to_owned()) && last.contains(&"FAILURE".to_owned()));
    // A callback that never runs has no outcome.
    let linked = app.apply_async(fail.s("no".into()).link(xsum.si(vec![])));
    let linked = linked.await.unwrap();
    failure_of(&linked).await;
    let callback = &linked.children::<i64>().await.unwrap()[0];
    let changes: Vec<_> = callback.changes().collect().await;
    assert!(matches!(
        &changes[..],
        [Err(Error::Get(GetError::NeverRuns { .. }))]
    ));
}

#[test]
fn an_eager_task_reports_while_it_runs() {
    #[task]
    async fn looks(ctx: &TaskContext) -> Result<Vec<String>, TaskError> {
        // What it calls is a part of its workflow, and over when the call returns.
        ctx.update_state("LOOKING", &1)?;
        ctx.call(
            "it",
            reports.s("progress: eager".into(), vec!["p 1 2".into()]),
        )
        .await?;
        ctx.progress(2, 2);
        Ok(vec!["looked".into()])
    }
    open("progress: eager 0");
    pollster::block_on(async {
        let app = App::eager().tasks(tasks![looks, reports, add]);
        let app = app.start().await.unwrap();
        let task = app.apply_async(looks.s()).await.unwrap();
        assert!(task.task_info().await.unwrap().is_none());
        let changes: Vec<_> = task
            .changes()
            .map(|change| told(change.unwrap()))
            .collect()
            .await;
        assert_eq!(changes, ["SUCCESS", r#"["looked"]"#]);
        let sums = app.apply_async(group([add.s(1, 1), add.s(2, 2)])).await;
        let sums = sums.unwrap();
        assert_eq!(progress_of(&sums).await, "2 0 0 2");
        let changes: Vec<_> = sums
            .changes()
            .map(|change| told(change.unwrap()))
            .collect()
            .await;
        assert_eq!(changes, ["SUCCESS", "2 0 0 2", "[2, 4]"]);
        app.shutdown().await.unwrap();
    });
}
