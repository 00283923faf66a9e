//! `link`, `link_error` and `on_error`: what runs after the end, and how often.

use super::lives::{World, settle};
use super::*;
use crate::recovery::within;

/// Waits until the workflow's callbacks, its nodes from `first` on, have ended; then no more can
/// run, and what was noted is all there is.
async fn all_notes(
    app: &App,
    root: Id,
    callbacks: impl IntoIterator<Item = u128>,
    key: &str,
) -> Vec<String> {
    for seq in callbacks {
        ended(app, root, seq).await;
    }
    app.shutdown().await.unwrap();
    notes(key)
}

#[tokio::test]
async fn a_link_runs_once_with_the_value() {
    let (app, key) = (app().await, "link: task");
    let result = app
        .apply_async(add.s(2, 2).link(mark.partial(key.into())))
        .await
        .unwrap();
    assert_eq!(result.get().await.unwrap(), 4);
    assert_eq!(all_notes(&app, result.id(), [1], key).await, ["4"]);
}

#[tokio::test]
async fn every_link_runs_and_none_changes_the_value() {
    let (app, key) = (app().await, "link: several");
    let canvas = add
        .s(2, 2)
        .link(mark.partial(key.into()) | add.partial(1) | mark.partial(key.into()))
        .link(even.partial())
        .link(fail.si("ignored".into()))
        .link(mark.si(7, key.into()));
    let result = app.apply_async(canvas).await.unwrap();
    assert_eq!(result.get().await.unwrap(), 4);
    let callbacks = result.children::<Value>().await.unwrap();
    assert_eq!(callbacks.len(), 4);
    for callback in &callbacks {
        let _ = callback.get().await;
    }
    assert!(callbacks[2].failed().await.unwrap());
    assert!(result.successful().await.unwrap());
    app.shutdown().await.unwrap();
    let mut marks = notes(key);
    marks.sort_unstable();
    assert_eq!(marks, ["4", "5", "7"]);
}

#[tokio::test]
async fn a_link_on_a_chain_gets_its_last_value() {
    let (app, key) = (app().await, "link: chain");
    let canvas = (add.s(2, 2) | add.partial(1)).link(mark.partial(key.into()));
    let result = app.apply_async(canvas).await.unwrap();
    assert_eq!(all_notes(&app, result.id(), [3], key).await, ["5"]);
}

#[tokio::test]
async fn a_link_on_a_step_gets_the_value_of_the_step() {
    let (app, key) = (app().await, "link: step");
    let canvas = add.s(2, 2).link(mark.partial(key.into())) | add.partial(1);
    let result = app.apply_async(canvas).await.unwrap();
    assert_eq!(result.get().await.unwrap(), 5);
    assert_eq!(all_notes(&app, result.id(), [2], key).await, ["4"]);
}

#[tokio::test]
async fn a_link_on_a_chord_gets_the_value_of_its_body() {
    let (app, key) = (app().await, "link: chord");
    let canvas = chord(group([add.s(1, 1), add.s(2, 2)]), xsum.partial());
    let result = app
        .apply_async(canvas.link(mark.partial(key.into())))
        .await
        .unwrap();
    assert_eq!(all_notes(&app, result.id(), [4], key).await, ["6"]);
}

#[tokio::test]
async fn a_link_on_a_chain_that_ends_in_a_group_gets_the_list() {
    let app = app().await;
    let canvas = (add.s(1, 1) | group([add.partial(1), add.partial(2)])).link(xsum.partial());
    let result = app.apply_async(canvas).await.unwrap();
    let callback = app.async_result::<i64>(node(result.id(), 5)).await.unwrap();
    assert_eq!(callback.get().await.unwrap(), 7);
}

#[tokio::test]
async fn a_link_on_members_runs_once_per_member() {
    let (app, key) = (app().await, "link: members");
    let members = (0..3).map(|n| add.s(n, 0).link(mark.partial(key.into())));
    let result = app
        .apply_async(group(members) | xsum.partial())
        .await
        .unwrap();
    assert_eq!(result.get().await.unwrap(), 3);
    let mut marks = all_notes(&app, result.id(), [2, 4, 6], key).await;
    marks.sort_unstable();
    assert_eq!(marks, ["0", "1", "2"]);
}

#[tokio::test]
async fn a_link_on_a_group_is_refused() {
    let app = app().await;
    let canvas = group([add.s(1, 1)]).link(nothing.si());
    let refused = app.apply_async(canvas).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "canvas refused: cannot add link to group: use a chord"
    );
}

#[tokio::test]
async fn a_link_does_not_run_after_a_failure_nor_an_errback_after_success() {
    let (app, key) = (app().await, "link: neither");
    let watched = |task: Signature<(), i64>| {
        task.link(mark.partial(key.into()))
            .link_error(alert.partial(key.into()))
    };
    let bad = app.apply_async(watched(fail.s("no".into()))).await.unwrap();
    ended(&app, bad.id(), 2).await;
    let good = app.apply_async(watched(add.s(1, 1))).await.unwrap();
    ended(&app, good.id(), 1).await;
    app.shutdown().await.unwrap();
    assert_eq!(notes(key), ["fail: no", "2"]);
}

#[tokio::test]
async fn an_errback_of_a_task_runs_once_after_its_last_attempt() {
    let clock = Clock::manual(std::time::SystemTime::UNIX_EPOCH);
    let app = builder().clock(clock.clone()).start().await.unwrap();
    let key = "link_error: retries";
    let canvas = fail
        .s("no".into())
        .max_retries(2)
        .on_error(alert.partial(key.into()));
    let result = app.apply_async(canvas).await.unwrap();
    let failed = retry_until_the_end(&result, &clock).await;
    assert_eq!(failed.attempt, 3);
    assert_eq!(all_notes(&app, result.id(), [1], key).await, ["fail: no"]);
}

/// Turns the clock on whenever the task waits for its next attempt.
pub(super) async fn retry_until_the_end(result: &AsyncResult<i64>, clock: &Clock) -> TaskFailure {
    loop {
        match result.state().await.unwrap() {
            State::Retry => clock.advance(std::time::Duration::from_secs(1)),
            State::Failure => return failure_of(result).await,
            _ => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test]
async fn an_errback_of_a_chain_runs_once_whichever_step_fails() {
    for step in 0..3 {
        let (app, key) = (app().await, format!("link_error: chain {step}"));
        let steps: Vec<_> = (0..3)
            .map(|i| {
                if i == step {
                    fail.si("no".into())
                } else {
                    add.si(i, i)
                }
            })
            .collect();
        let mut steps = steps.into_iter();
        let first = steps.next().unwrap();
        let canvas = (first | steps.next().unwrap() | steps.next().unwrap())
            .link_error(alert.partial(key.clone()));
        let result = app.apply_async(canvas).await.unwrap();
        assert_eq!(all_notes(&app, result.id(), [4], &key).await, ["fail: no"]);
    }
}

#[tokio::test]
async fn an_errback_of_a_group_runs_once_per_member_that_fails() {
    let (app, key) = (app().await, "link_error: group");
    let canvas = group((0..5).map(|n| even.s(n))).link_error(alert.partial(key.into()));
    let result = app.apply_async(canvas).await.unwrap();
    // Each member is followed by its errback.
    let mut alerts = all_notes(&app, result.id(), [4, 8], key).await;
    alerts.sort_unstable();
    assert_eq!(alerts, ["even: 1 is odd", "even: 3 is odd"]);
}

#[tokio::test]
async fn an_errback_of_a_chord_runs_once_however_many_members_fail() {
    let (app, key) = (app().await, "link_error: chord header");
    let canvas = chord(group((0..5).map(|n| even.s(n))), xsum.partial());
    let result = app
        .apply_async(canvas.on_error(alert.partial(key.into())))
        .await
        .unwrap();
    let member = node(result.id(), 2);
    assert_eq!(
        all_notes(&app, result.id(), [7], key).await,
        [format!(
            "chord: Dependency {member} raised TaskError('1 is odd')"
        )]
    );
}

#[tokio::test]
async fn an_errback_of_a_chord_runs_once_when_its_body_fails() {
    let (app, key) = (app().await, "link_error: chord body");
    let canvas = chord(
        group([add.s(1, 1), add.s(2, 1)]),
        xsum.partial() | even.partial(),
    );
    let result = app
        .apply_async(canvas.link_error(alert.partial(key.into())))
        .await
        .unwrap();
    assert_eq!(
        all_notes(&app, result.id(), [6], key).await,
        ["even: 5 is odd"]
    );
}

#[tokio::test]
async fn an_errback_of_a_header_runs_once_per_member_that_fails() {
    let (app, key) = (app().await, "link_error: header");
    let header = group((0..4).map(|n| even.s(n))).link_error(alert.partial(key.into()));
    let result = app
        .apply_async(header.settled() | outcomes.partial())
        .await
        .unwrap();
    assert_eq!(result.get().await.unwrap().len(), 4);
    let mut alerts = all_notes(&app, result.id(), [4, 8], key).await;
    alerts.sort_unstable();
    assert_eq!(alerts, ["even: 1 is odd", "even: 3 is odd"]);
}

#[tokio::test]
async fn an_errback_of_a_group_runs_once_per_nested_canvas_that_fails() {
    let (app, key) = (app().await, "link_error: nested");
    let canvas = group([add.s(0, 1) | even.partial(), add.s(1, 1) | even.partial()])
        .link_error(alert.partial(key.into()));
    let result = app.apply_async(canvas).await.unwrap();
    assert_eq!(
        all_notes(&app, result.id(), [4], key).await,
        ["even: 1 is odd"]
    );
}

#[tokio::test]
async fn an_errback_may_be_a_canvas_and_have_callbacks_of_its_own() {
    let (app, key) = (app().await, "link_error: canvas");
    let errback = alert.partial(key.into()) | fail.si("again".into());
    let canvas = fail
        .s("no".into())
        .link_error(errback.link_error(alert.partial(key.into())));
    let result = app.apply_async(canvas).await.unwrap();
    assert_eq!(failure_of(&result).await.message, "no");
    assert_eq!(
        all_notes(&app, result.id(), [4], key).await,
        ["fail: no", "fail: again"]
    );
}

#[tokio::test]
async fn a_callback_whose_occasion_never_comes_is_revoked() {
    let (app, key) = (app().await, "link: never");
    let failing = fail.s("no".into()).link(mark.si(1, key.into()));
    let failing = app.apply_async(failing).await.unwrap();
    let fine = add.s(2, 2).link_error(mark.si(2, key.into()));
    let fine = app.apply_async(fine).await.unwrap();
    let never = [
        failing.children::<Value>().await.unwrap().remove(0),
        fine.children::<Value>().await.unwrap().remove(0),
    ];
    for callback in never {
        let got = callback.get().await;
        assert!(matches!(got, Err(Error::Get(GetError::NeverRuns { id })) if id == callback.id()));
        assert_eq!(callback.state().await.unwrap(), State::Revoked);
        assert!(callback.ready().await.unwrap() && !callback.failed().await.unwrap());
    }
    app.shutdown().await.unwrap();
    assert!(notes(key).is_empty());
}

/// Every callback notes its place; nothing that runs has another effect.
fn noting(key: &str, place: &str) -> Canvas {
    Canvas::immutable("letters", (place, 1)) | Canvas::task("called", (key,))
}

#[task]
async fn called(place: String, key: String) {
    note(&key, place);
}

/// The canvas's callbacks that run, in alphabetical order; over restarts too, since they are on
/// record from then on.
async fn callbacks_of(canvas: Canvas, key: &str) -> Vec<String> {
    let world = World::of(tasks![called]);
    let app = world.start().await;
    let result = app.apply_async(canvas).await.unwrap();
    within(result.at_rest()).await.unwrap();
    let app = world.restart(app).await;
    settle(&app).await;
    app.shutdown().await.unwrap();
    let mut places = notes(key);
    places.sort_unstable();
    places
}

#[tokio::test]
async fn errbacks_run_where_something_failed_and_not_where_nothing_ran() {
    let good = || Canvas::immutable("add", (1, 1));
    let bad = || Canvas::immutable("fail", ("no",));
    let late = || good().expires(std::time::Duration::ZERO);
    let key = |n: usize| format!("callbacks: where {n}");
    let at = |n: usize, canvas: Canvas, place: &str| {
        canvas
            .link_error(noting(&key(n), place))
            .link(noting(&key(n), &format!("{place} fine")))
    };
    type Case = (
        fn(&dyn Fn(Canvas, &str) -> Canvas, [Canvas; 3]) -> Canvas,
        &'static [&'static str],
    );
    let cases: [Case; 12] = [
        // A chain: the step that failed; none of the steps behind it.
        (
            |at, [good, bad, _]| at(good.clone(), "a") | at(bad, "b") | at(good, "c"),
            &["a fine", "b"],
        ),
        // A body that never ran because its header failed, and the member.
        (
            |at, [good, bad, _]| {
                Canvas::chord([at(good.clone(), "a"), at(bad, "b")], at(good, "body"))
            },
            &["a fine", "b", "body"],
        ),
        // A header's failure is a chord's, once, however many members fail.
        (
            |at, [good, bad, _]| at(Canvas::chord([bad.clone(), bad], good), "chord"),
            &["chord"],
        ),
        // A body that is a chain: its first step stands for it.
        (
            |at, [good, bad, _]| {
                Canvas::chord([bad], at(good.clone(), "first") | at(good, "second"))
            },
            &["first"],
        ),
        // A body that is a group: every member.
        (
            |at, [good, bad, _]| {
                Canvas::chord(
                    [bad],
                    Canvas::group([at(good.clone(), "one"), at(good, "two")]),
                )
            },
            &["one", "two"],
        ),
        // A body that is a chord: its body.
        (
            |at, [good, bad, _]| {
                Canvas::chord(
                    [bad],
                    Canvas::chord([at(good.clone(), "header")], at(good, "body")),
                )
            },
            &["body"],
        ),
        // A group at a chain's end: once per member that fails; a group has no outcome of its own.
        (
            |at, [good, bad, _]| {
                good.clone()
                    | Canvas::group([at(bad.clone(), "one"), at(good, "two"), at(bad, "three")])
            },
            &["one", "three", "two fine"],
        ),
        // A step before it failed: its members never ran.
        (
            |at, [good, bad, _]| bad | Canvas::group([at(good.clone(), "one"), at(good, "two")]),
            &[],
        ),
        // What expired is silent, what failed for it is not.
        (
            |at, [good, _, late]| Canvas::chord([at(late, "late")], at(good, "body")),
            &["body"],
        ),
        (
            |at, [good, _, late]| at(late, "late") | at(good, "next"),
            &[],
        ),
        // A task that succeeds behind a failure elsewhere.
        (
            |at, [good, bad, _]| Canvas::group([at(good, "good"), at(bad, "bad")]),
            &["bad", "good fine"],
        ),
        // A link of a link, an errback of a link: each by its own task's outcome.
        (
            |at, [good, bad, _]| good.clone().link(at(good, "link")).link(at(bad, "other")),
            &["link fine", "other"],
        ),
    ];
    for (n, (canvas, expected)) in cases.into_iter().enumerate() {
        let at = |canvas: Canvas, place: &str| at(n, canvas, place);
        let canvas = canvas(&at, [good(), bad(), late()]);
        let shape = format!("{canvas:?}");
        assert_eq!(
            callbacks_of(canvas, &key(n)).await,
            expected,
            "{n}: {shape}"
        );
    }
}

#[tokio::test]
async fn the_callbacks_of_what_never_ran_are_revoked() {
    let world = World::of(tasks![called]);
    let app = world.start().await;
    let key = "callbacks: revoked";
    let step = || {
        Canvas::immutable("add", (1, 1))
            .link(noting(key, "link"))
            .link_error(noting(key, "errback"))
    };
    let canvas = Canvas::immutable("fail", ("no",)) | step();
    let result = app.apply_async(canvas).await.unwrap();
    within(result.at_rest()).await.unwrap();
    let app = world.restart(app).await;
    let result = app.async_result::<Value>(result.id()).await.unwrap();
    let steps = result.children::<Value>().await.unwrap();
    assert_eq!(steps[1].state().await.unwrap(), State::Failure);
    let callbacks = steps[1].children::<Value>().await.unwrap();
    assert_eq!(callbacks.len(), 2);
    for callback in callbacks {
        assert_eq!(callback.state().await.unwrap(), State::Revoked);
        for part in callback.children::<Value>().await.unwrap() {
            assert_eq!(part.state().await.unwrap(), State::Revoked);
            assert!(part.ready().await.unwrap());
        }
    }
    assert!(notes(key).is_empty());
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn callbacks_run_over_any_crash() {
    let world = World::of(tasks![called]);
    let key = "callbacks: crash";
    let good = || Canvas::immutable("add", (1, 1)).link(noting(key, "link"));
    let bad = || Canvas::immutable("fail", ("no",)).link_error(noting(key, "errback"));
    let failed = super::lives::failed("TaskError", "no");
    world
        .ends_over_any_crash(good() | bad() | good(), &failed)
        .await;
    world
        .ends_over_any_crash(Canvas::group([good(), bad()]), &failed)
        .await;
}
