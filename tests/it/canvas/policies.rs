//! Groups that end early, and groups that bear failures.

use chordal::persistence::{MemoryStore, Store, verify};
use chordal::{Schedules, every};

use super::lives::{End, SECOND, World, becomes, failed, settle};
use super::*;
use crate::disk::Disk;
use crate::recovery::within;

/// Waits until it is told that it is revoked, notes that, and then waits for the gate.
#[task(name = "policies.tidy")]
async fn tidy(ctx: &TaskContext, key: String) -> i64 {
    note(&key, "begins");
    ctx.cancelled().await;
    note(&key, "told");
    passed(&key).await;
    7
}

/// Never ends by itself.
#[task(name = "policies.endless")]
async fn endless() -> i64 {
    std::future::pending().await
}

/// Notes that it has started, and never ends by itself.
#[task(name = "policies.stays")]
async fn stays(n: i64, key: String) -> i64 {
    note(&key, n);
    std::future::pending().await
}

/// Waits at the gate, and fails.
#[task(name = "policies.breaks")]
async fn breaks(gate: String) -> Result<i64, TaskError> {
    note(&gate, "waits");
    passed(&gate).await;
    Err(TaskError::new("no"))
}

/// Starts a group that ends early, and waits for it.
#[task(name = "policies.calls")]
async fn calls(ctx: &TaskContext) -> Result<Vec<i64>, TaskError> {
    let some = group([add.s(1, 1), endless.s()]).first(1);
    Ok(ctx.call("some", some).await?)
}

/// Is replaced by a group that ends early.
#[task(name = "policies.turns")]
async fn turns(ctx: &TaskContext) -> Result<Vec<i64>, TaskError> {
    ctx.replace(group([add.s(1, 1), endless.s()]).first(1))
}

#[task(name = "policies.sum")]
async fn sum(acc: i64, n: i64) -> i64 {
    acc + n
}

#[task(name = "policies.flat")]
async fn flat(lists: Vec<Vec<i64>>) -> i64 {
    lists.iter().flatten().sum()
}

fn world() -> World {
    World::of(tasks![
        tidy, endless, stays, breaks, calls, turns, sum, flat
    ])
}

fn no() -> End {
    failed("TaskError", "no")
}

fn ok(value: impl serde::Serialize) -> End {
    Ok(serde_json::to_value(value).unwrap())
}

/// Canvases that end alike in whichever order their members run, and how.
fn canvases() -> Vec<(Canvas, End)> {
    let bad = || fail.s("no".into());
    let good = |n| add.s(n, 0);
    let broken = |canvas: Signature<(), i64>| (canvas.into_canvas(), None);
    let mut all: Vec<(Canvas, Option<End>)> = vec![
        // The others never end by themselves.
        (
            group([endless.s(), bad(), endless.s()])
                .fail_fast()
                .into_canvas(),
            Some(no()),
        ),
        (
            group([good(1), good(2)]).fail_fast().into_canvas(),
            Some(ok([1, 2])),
        ),
        (
            group([endless.s(), good(1), good(2)])
                .first(2)
                .into_canvas(),
            Some(ok([1, 2])),
        ),
        (
            group([good(1), bad(), good(3)]).at_least(2).into_canvas(),
            Some(ok([1, 3])),
        ),
        (
            group([bad(), good(2), bad()]).at_least(2).into_canvas(),
            Some(no()),
        ),
        // So many that fewer can succeed than it needs.
        (
            group([endless.s(), bad(), bad()]).first(2).into_canvas(),
            Some(no()),
        ),
        // Their bodies.
        (
            (group([good(1), endless.s()]).first(1) | xsum.partial()).into_canvas(),
            Some(ok(1)),
        ),
        (
            (group([bad(), good(2), good(3)]).at_least(1) | xsum.partial()).into_canvas(),
            Some(ok(5)),
        ),
        broken(group([endless.s(), bad()]).fail_fast() | xsum.partial()),
        broken(group([bad(), bad(), endless.s()]).first(2) | xsum.partial()),
        // A list that is known later.
        (
            (range.s(4) | even.each().at_least(2) | xsum.partial()).into_canvas(),
            Some(ok(2)),
        ),
        (
            (range.s(3) | even.each().first(2)).into_canvas(),
            Some(ok([0, 2])),
        ),
        // One within the other.
        (
            (group([
                group([endless.s(), bad()]).fail_fast(),
                group([endless.s(), good(2)]).first(1),
                group([good(3), bad()]).at_least(1),
            ])
            .at_least(2)
                | flat.partial())
            .into_canvas(),
            Some(ok(5)),
        ),
        // The inner group and all that runs in it is revoked.
        (
            group([
                group([endless.s(), endless.s()]) | xsum.partial(),
                group([good(1), endless.s()]).first(1) | xsum.partial(),
            ])
            .first(1)
            .into_canvas(),
            Some(ok([1])),
        ),
        (
            group([endless.s() | after_chain(), bad()])
                .fail_fast()
                .into_canvas(),
            Some(no()),
        ),
        // A fold drops what it holds.
        (
            group([good(1), good(2)])
                .fail_fast()
                .fold(0, sum)
                .into_canvas(),
            Some(ok(3)),
        ),
        broken(
            group([endless.s(), bad(), good(2)])
                .fail_fast()
                .fold(0, sum),
        ),
        // In a chain, and what a task starts.
        (
            (good(1) | group([add.partial(1), add.partial(2)]).at_least(1)).into_canvas(),
            Some(ok([2, 3])),
        ),
        (calls.s().into_canvas(), Some(ok([2]))),
        (turns.s().into_canvas(), Some(ok([2]))),
    ];
    all.drain(..)
        .map(|(canvas, end)| {
            let chord = || failed("ChordError", "");
            (canvas, end.unwrap_or_else(chord))
        })
        .collect()
}

fn after_chain() -> Signature<i64, i64> {
    add.partial(1)
}

/// The end, without the message of a `ChordError`, which has ids in it.
fn shape(end: End) -> End {
    end.map_err(|(kind, message)| match kind.as_str() {
        "ChordError" => (kind, String::new()),
        _ => (kind, message),
    })
}

#[tokio::test]
async fn each_policy_ends_its_group_as_it_says_in_both_modes() {
    let world = world();
    for (canvas, end) in canvases() {
        let shown = format!("{canvas:?}");
        assert_eq!(shape(world.run(canvas).await), end, "{shown}");
    }
    // Where one member runs after the other, those that never end must come behind.
    let bad = || fail.s("no".into());
    let app = App::eager()
        .tasks(all_tasks())
        .tasks(tasks![endless, sum, flat])
        .start()
        .await
        .unwrap();
    for (canvas, end) in [
        (group([bad(), endless.s()]).fail_fast().into_canvas(), no()),
        (
            group([add.s(1, 0), add.s(2, 0), endless.s()])
                .first(2)
                .into_canvas(),
            ok([1, 2]),
        ),
        (
            group([add.s(1, 0), bad(), add.s(3, 0)])
                .at_least(2)
                .into_canvas(),
            ok([1, 3]),
        ),
        (
            group([bad(), bad(), endless.s()]).first(2).into_canvas(),
            no(),
        ),
        (
            (group([add.s(1, 0), endless.s()]).first(1) | xsum.partial()).into_canvas(),
            ok(1),
        ),
        (
            (group([bad(), endless.s()]).fail_fast() | xsum.partial()).into_canvas(),
            failed("ChordError", ""),
        ),
        (
            group([add.s(1, 0), bad(), endless.s()])
                .fail_fast()
                .fold(0, sum)
                .into_canvas(),
            failed("ChordError", ""),
        ),
        (
            (range.s(4) | even.each().at_least(2) | xsum.partial()).into_canvas(),
            ok(2),
        ),
        (
            (range.s(3) | even.each().first(4)).into_canvas(),
            failed("TypeError", "first(4) on a group with 3 members"),
        ),
    ] {
        let shown = format!("{canvas:?}");
        let result = app.apply_async(canvas).await.unwrap();
        let got = match result.get().await {
            Ok(value) => Ok(value),
            Err(Error::Failed(failure)) => Err((failure.error_type, failure.message)),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(shape(got), end, "{shown}");
    }
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_crash_behind_any_batch_changes_no_verdict() {
    let world = world();
    for (canvas, end) in canvases() {
        if end != failed("ChordError", "") {
            world.ends_over_any_crash(canvas, &end).await;
        }
    }
}

#[tokio::test]
async fn the_body_runs_once_and_with_the_values_on_record_over_any_crash() {
    let world = world();
    let disk = Disk::default();
    let app = world.over(disk.clone()).start().await.unwrap();
    let members = [add.s(1, 0), add.s(2, 0), add.s(3, 0), add.s(4, 0)];
    let some = group(members).first(2) | xsum.partial() | mark.partial("policies: body".into());
    let result = app.apply_async(some).await.unwrap();
    within(result.get()).await.unwrap();
    within(app.shutdown()).await.unwrap();
    for kept in 0..disk.batches() {
        let app = world.over(disk.crashed_after(kept)).start().await.unwrap();
        let Ok(result) = app.async_result::<i64>(result.id()).await else {
            continue;
        };
        let total = within(result.get()).await.unwrap();
        // The same values, read from the records of the members.
        let now = result.header_results::<i64>().await.unwrap();
        if let Some(now) = now {
            let values = now.into_iter().flatten().filter_map(Result::ok);
            assert_eq!(values.sum::<i64>(), total, "kept {kept}");
        }
        within(app.shutdown()).await.unwrap();
    }
}

/// The verdict is on record, and a member is still about to stop when the process dies.
#[tokio::test]
async fn a_restart_between_the_verdict_and_the_end_of_the_others_ends_the_group_at_once() {
    for (n, is_first) in [true, false].into_iter().enumerate() {
        let key = format!("policies: restart {n}");
        let world = world().grace(5 * SECOND);
        let disk = Disk::default();
        let app = world.over(disk.clone()).start().await.unwrap();
        let (gate, decides) = (format!("{key} gate"), format!("{key} decides"));
        let members = match is_first {
            true => group([tidy.s(key.clone()), held.s(5, gate.clone())])
                .first(1)
                .into_canvas(),
            false => {
                let fails = held.s(1, gate.clone()) | even.partial();
                group([tidy.s(key.clone()), fails])
                    .fail_fast()
                    .into_canvas()
            }
        };
        let body = Canvas::chain([Canvas::task("mark", (decides,))]);
        let canvas = if is_first {
            members | Canvas::task("xsum", ()) | body
        } else {
            members
        };
        let result = app.apply_async(canvas).await.unwrap();
        noted(&key, 1).await;
        noted(&gate, 1).await;
        open(&gate);
        assert_eq!(noted(&key, 2).await, ["begins", "told"]);
        settle(&app).await;
        assert!(!result.ready().await.unwrap(), "one member has not stopped");
        let store = disk.crashed_after(disk.synced());
        open(&key);
        within(app.shutdown()).await.unwrap();
        let app = world.over(store).start().await.unwrap();
        let result = app.async_result::<Value>(result.id()).await.unwrap();
        let end = world.end(&result).await;
        match is_first {
            true => assert_eq!(end, ok(5)),
            false => assert_eq!(end, failed("TaskError", "1 is odd")),
        }
        assert_eq!(notes(&key), ["begins", "told"], "it did not begin again");
        within(app.shutdown()).await.unwrap();
    }
}

#[tokio::test]
async fn handles_show_what_became_of_members_that_are_left_out() {
    let key = "policies: handles";
    let world = world().slots(3).window(3);
    let app = world.start().await;
    let members = [
        add.s(1, 1),
        fail.s("no".into()),
        endless.s(),
        add.s(1, 1).countdown(1_000 * SECOND),
        (add.s(1, 1) | held.partial(key.into())),
        endless.s(),
        held.s(8, "policies: first".into()),
        endless.s(),
    ];
    // (The window lets seven of them start only when others have ended.)
    let some = app.apply_async(group(members).first(2)).await.unwrap();
    let mut completions = some.completions();
    let children = some.children::<i64>().await.unwrap();
    becomes(&children[2], State::Started).await;
    noted(key, 1).await;
    open(key);
    let values = within(some.get()).await.unwrap();
    assert_eq!(values, [2, 2]);

    let states = futures_util::future::join_all(children.iter().map(AsyncResult::state));
    let states: Vec<_> = states.await.into_iter().map(Result::unwrap).collect();
    let mut expected = vec![State::Revoked; 8];
    (expected[0], expected[1], expected[4]) = (State::Success, State::Failure, State::Success);
    assert_eq!(states, expected);
    for (index, child) in children.iter().enumerate() {
        assert!(child.ready().await.unwrap(), "{index}");
        assert_eq!(child.eta().await.unwrap(), None, "{index}");
    }
    let revoked = failure_of(&children[7]).await;
    assert_eq!(
        (revoked.kind, revoked.name.as_str()),
        (FailureKind::Revoked, "policies.endless")
    );
    assert_eq!(revoked.task_id, children[7].id());

    let results = some.results().await.unwrap();
    let results: Vec<_> = results.into_iter().map(Option::unwrap).collect();
    assert_eq!((&results[0], &results[4]), (&Ok(2), &Ok(2)));
    assert_eq!(results[1].as_ref().unwrap_err().message, "no");
    assert_eq!(results[7], Err(revoked));
    let progress = some.progress().await.unwrap();
    assert_eq!((progress.done, progress.failed), (2, 6));
    assert_eq!((progress.running, progress.total), (0, Some(8)));

    let mut arrived = Vec::new();
    while let Some(completion) = within(completions.next()).await {
        arrived.push(completion.unwrap().index);
    }
    arrived.sort_unstable();
    assert_eq!(arrived, [0, 1, 4], "those that are left out do not arrive");
    // They cannot be revoked any more.
    let again = within(children[7].revoke()).await.unwrap();
    assert_eq!(again, chordal::RevokeOutcome::AlreadyDone);
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn nothing_of_a_huge_group_starts_after_the_first_failure() {
    const SIZE: usize = 100_000;
    let key = "policies: huge";
    let world = world().slots(4).window(64);
    let app = world.start().await;
    let members = (0..SIZE).map(move |n| match n {
        3 => breaks.s("policies: huge gate".into()),
        n => stays.s(n as i64, key.into()),
    });
    let all = app.apply_async(group(members).fail_fast()).await.unwrap();
    noted(key, 3).await;
    noted("policies: huge gate", 1).await;
    open("policies: huge gate");
    let why = within(all.get()).await.unwrap_err();
    assert!(matches!(why, Error::Failed(failure) if failure.message == "no"));
    let mut started = notes(key);
    started.sort();
    assert_eq!(started, ["0", "1", "2"]);
    let progress = all.progress().await.unwrap();
    assert_eq!((progress.done, progress.failed), (0, SIZE as u64));
    let results = all.results().await.unwrap();
    assert_eq!(results.len(), SIZE);
    let last = results[SIZE - 1].as_ref().unwrap().as_ref().unwrap_err();
    assert_eq!(last.kind, FailureKind::Revoked);
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn callbacks_of_members_that_have_ended_run() {
    let app = world().start().await;
    let key = "policies: links";
    let linked = add.s(1, 1).link(mark.partial(key.into()));
    let failing = fail.s("no".into()).link_error(alert.partial(key.into()));
    let cut = endless.s().link_error(alert.partial(key.into()));
    let all = group([linked, failing, cut]).first(1);
    let all = app.apply_async(all | xsum.partial()).await.unwrap();
    assert_eq!(within(all.get()).await.unwrap(), 2);
    within(all.at_rest()).await.unwrap();
    let mut noted = notes(key);
    noted.sort();
    // (The failing member may be left out, too.)
    assert!(noted == ["2"] || noted == ["2", "fail: no"], "{noted:?}");
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_the_reason() {
    let app = world().start().await;
    let two = || group([add.s(1, 1), add.s(2, 2)]);
    let refused = async |canvas: Canvas| app.apply_async(canvas).await.unwrap_err().to_string();
    for (canvas, reason) in [
        (
            two().first(0).into_canvas(),
            "first(0) asks for no value; the least is 1",
        ),
        (
            two().at_least(0).into_canvas(),
            "at_least(0) asks for no value; the least is 1",
        ),
        (
            two().first(3).into_canvas(),
            "first(3) on a group with 2 members",
        ),
        (
            (two().at_least(3) | xsum.partial()).into_canvas(),
            "chord.header: at_least(3) on a group with 2 members",
        ),
        (
            Canvas::group((0..1_000).map(|n| Canvas::task("add", (n, n)))).first(1_001),
            "first(1001) on a group with 1000 members",
        ),
        (
            two().fail_fast().settled().into_canvas(),
            "settled() and fail_fast() exclude each other: a settled group does not fail",
        ),
        (
            two().first(1).at_least(1).into_canvas(),
            "at_least(1) and first(1) exclude each other: a group ends in one way",
        ),
        (
            two().at_least(1).fold(0, sum).into_canvas(),
            "fold() takes in every value as it comes, and at_least(1) chooses among them at the end",
        ),
        (
            add.s(1, 1).fail_fast().into_canvas(),
            "fail_fast() needs a group; `add` is a task",
        ),
    ] {
        let got = refused(canvas).await;
        assert!(got.ends_with(reason), "{got}");
    }
    // The list is known when it is there.
    let few = app
        .apply_async(range.s(1) | even.each().first(2) | xsum.partial())
        .await
        .unwrap();
    let few = failure_of(&few).await;
    assert_eq!(
        (few.kind, few.message.as_str()),
        (FailureKind::Type, "first(2) on a group with 1 member")
    );
    let json = two()
        .first(1)
        .into_canvas()
        .to_json()
        .unwrap_err()
        .to_string();
    assert!(json.ends_with("first(1) has no form in Celery"), "{json}");
    within(app.shutdown()).await.unwrap();
}

/// Returns whether the store says that it uses the addition.
fn is_noted(store: &impl Store) -> bool {
    let record = store.get(b"m/store").unwrap().unwrap_or_default();
    let name: &[u8] = b"group-policies";
    record.windows(name.len()).any(|part| part == name)
}

#[tokio::test]
async fn a_store_names_the_addition_before_it_holds_a_policy() {
    let world = world();
    let plain = MemoryStore::new();
    let app = world.over(plain.clone()).start().await.unwrap();
    let settled = group([add.s(1, 1), fail.s("no".into())]).settled();
    within(app.apply_async(settled).await.unwrap().get())
        .await
        .unwrap();
    within(app.shutdown()).await.unwrap();
    assert!(!is_noted(&plain));

    let policy = || group([add.s(1, 1), add.s(2, 2)]).fail_fast();
    for canvas in [
        policy().into_canvas(),
        // On an `each()`, in a callback, and by a task.
        (range.s(3) | even.each().at_least(1)).into_canvas(),
        add.s(1, 1)
            .link(nothing.si() | group([nothing.si()]).fail_fast())
            .into_canvas(),
        calls.s().into_canvas(),
    ] {
        let store = MemoryStore::new();
        let app = world.over(store.clone()).start().await.unwrap();
        let result = app.apply_async(canvas).await.unwrap();
        within(result.get()).await.unwrap();
        within(app.shutdown()).await.unwrap();
        assert!(is_noted(&store));
        assert!(verify(&store).is_sound(), "{:?}", verify(&store));
    }

    // Members that are staged before their header.
    let disk = Disk::default();
    let app = world.over(disk.clone()).start().await.unwrap();
    let nested = (0..3_000).map(move |n| match n {
        2_500 => group([add.s(1, 1), add.s(2, 2)]).first(1),
        _ => group([add.s(1, 1)]),
    });
    within(app.apply_async(group(nested)).await.unwrap().get())
        .await
        .unwrap();
    within(app.shutdown()).await.unwrap();
    let mut lacks = 0;
    for kept in 0..disk.batches() {
        let store = disk.crashed_after(kept);
        let members = store.scan(b"d", b"e").map(|pair| pair.unwrap().1);
        // (The one group with two members of which the policy keeps one.)
        let is_whole = members.count() > 0 && store.scan(b"w", b"x").next().is_some();
        if is_whole {
            assert!(is_noted(&store), "kept {kept}");
        }
        lacks += usize::from(!is_noted(&store));
    }
    assert!(lacks > 0, "the first batch does not name it yet");
}

#[tokio::test]
async fn the_work_of_a_schedule_may_have_policies() {
    let world = world();
    let store = MemoryStore::new();
    let app = world
        .over(store.clone())
        .schedule(
            "some",
            every(60 * SECOND),
            group([add.s(1, 1), endless.s()]).first(1),
        )
        .start()
        .await
        .unwrap();
    let schedules: Schedules<'_> = app.schedules();
    let id = within(schedules.trigger("some")).await.unwrap();
    let result = app.async_result::<Vec<i64>>(id).await.unwrap();
    assert_eq!(within(result.get()).await.unwrap(), [2]);
    assert!(is_noted(&store));
    within(app.shutdown()).await.unwrap();
}
