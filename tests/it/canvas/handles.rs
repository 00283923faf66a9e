//! Handles: what they tell, and how they are found again.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::lives::World;
use super::*;
use crate::recovery::within;

#[tokio::test]
async fn a_task_goes_from_pending_through_started_to_success() {
    let app = builder().concurrency(1).start().await.unwrap();
    let gates = ["handles: first", "handles: second"];
    let first = app.apply_async(held.s(1, gates[0].into())).await.unwrap();
    let second = app.apply_async(held.s(2, gates[1].into())).await.unwrap();
    noted(gates[0], 1).await;
    assert_eq!(first.state().await.unwrap(), State::Started);
    assert_eq!(second.state().await.unwrap(), State::Pending);
    assert!(!first.ready().await.unwrap());
    assert!(!first.successful().await.unwrap() && !first.failed().await.unwrap());
    assert_eq!(first.completed_count().await.unwrap(), 0);
    open(gates[0]);
    first.get().await.unwrap();
    assert_eq!(first.state().await.unwrap(), State::Success);
    assert!(first.ready().await.unwrap() && first.successful().await.unwrap());
    assert!(!first.failed().await.unwrap());
    assert_eq!(first.completed_count().await.unwrap(), 1);
    open(gates[1]);
    second.get().await.unwrap();
}

#[tokio::test]
async fn a_canvas_has_started_when_one_of_its_tasks_has() {
    let app = app().await;
    let gate = "handles: started";
    let one = || held.s(1, gate.into());
    let chained = app.apply_async(one() | add.partial(1)).await.unwrap();
    let grouped = app.apply_async(group([one(), one()])).await.unwrap();
    let chorded = app
        .apply_async(group([one()]) | xsum.partial())
        .await
        .unwrap();
    noted(gate, 4).await;
    assert_eq!(chained.state().await.unwrap(), State::Started);
    assert_eq!(grouped.state().await.unwrap(), State::Started);
    assert_eq!(chorded.state().await.unwrap(), State::Started);
    open(gate);
    assert_eq!(chained.get().await.unwrap(), 2);
    assert_eq!(grouped.get().await.unwrap(), [1, 1]);
    assert_eq!(chorded.get().await.unwrap(), 1);
}

#[tokio::test]
async fn the_completed_are_counted_as_they_end() {
    let app = app().await;
    let gates = ["handles: count 0", "handles: count 1", "handles: count 2"];
    let members = || {
        gates
            .into_iter()
            .zip(0..)
            .map(|(gate, n)| held.s(n, gate.into()))
    };
    let grouped = app.apply_async(group(members())).await.unwrap();
    let chorded = app
        .apply_async(group(members()) | xsum.partial())
        .await
        .unwrap();
    let children = [
        grouped.children::<i64>().await.unwrap(),
        chorded.children::<i64>().await.unwrap(),
    ];
    for (i, gate) in gates.iter().enumerate() {
        assert_eq!(grouped.completed_count().await.unwrap(), i as u64);
        assert_eq!(chorded.completed_count().await.unwrap(), i as u64);
        open(gate);
        for children in &children {
            children[i].get().await.unwrap();
        }
    }
    assert_eq!(grouped.get().await.unwrap(), [0, 1, 2]);
    assert_eq!(chorded.get().await.unwrap(), 3);
    assert_eq!(grouped.completed_count().await.unwrap(), 3);
    assert_eq!(chorded.completed_count().await.unwrap(), 3);
}

#[tokio::test]
async fn the_completed_steps_of_a_chain_are_counted() {
    let app = app().await;
    let gate = "handles: chain";
    let canvas = add.s(1, 1) | held.partial(gate.into()) | add.partial(1);
    let result = app.apply_async(canvas).await.unwrap();
    noted(gate, 1).await;
    assert_eq!(result.completed_count().await.unwrap(), 1);
    open(gate);
    result.get().await.unwrap();
    assert_eq!(result.completed_count().await.unwrap(), 3);
}

/// A canvas with every form in it, and its value.
fn nested() -> (Signature<(), i64>, i64) {
    let inner = group([add.partial(1), add.partial(2)]) | xsum.partial();
    let canvas = add.s(1, 1)
        | group([inner.clone() | add.partial(10), inner | add.partial(20)])
        | add.each(100)
        | xsum.partial();
    (canvas, 2 * 7 + 30 + 200)
}

#[tokio::test]
async fn every_node_of_a_nested_canvas_is_found_by_its_id() {
    let app = app().await;
    let (canvas, expected) = nested();
    let result = app.apply_async(canvas).await.unwrap();
    assert_eq!(result.get().await.unwrap(), expected);

    // All that children() leads to, from the root down.
    let mut left = vec![result.clone().cast::<Value>()];
    let mut seen = HashSet::new();
    while let Some(one) = left.pop() {
        assert!(seen.insert(one.id()), "{} is there twice", one.id());
        let found = app.async_result::<Value>(one.id()).await.unwrap();
        assert_eq!(found.id(), one.id());
        assert_eq!(found.state().await.unwrap(), State::Success);
        assert_eq!(found.get().await.unwrap(), one.get().await.unwrap());
        let own: Vec<_> = one.children::<Value>().await.unwrap();
        let found: Vec<_> = found.children::<Value>().await.unwrap();
        let ids = |all: &[AsyncResult<Value>]| all.iter().map(AsyncResult::id).collect::<Vec<_>>();
        assert_eq!(ids(&own), ids(&found));
        left.extend(own);
    }

    // And all others: bodies are numbered with the rest.
    let mut count = 0;
    while let Ok(found) = app.async_result::<Value>(node(result.id(), count)).await {
        assert!(found.successful().await.unwrap(), "node {count}");
        found.get().await.unwrap();
        count += 1;
    }
    assert!(
        count as usize > seen.len(),
        "{count} nodes, {} by children()",
        seen.len()
    );
}

#[tokio::test]
async fn a_nodes_value_is_its_own() {
    let app = app().await;
    let canvas = add.s(1, 1) | (group([add.partial(1), add.partial(2)]) | xsum.partial());
    let result = app.apply_async(canvas).await.unwrap();
    result.get().await.unwrap();
    // The chain, its first step, the chord, the two members, the body.
    for (seq, value) in [(0, 7), (1, 2), (2, 7), (3, 3), (4, 4), (5, 7)] {
        let found = app
            .async_result::<i64>(node(result.id(), seq))
            .await
            .unwrap();
        assert_eq!(found.get().await.unwrap(), value, "node {seq}");
    }
}

#[tokio::test]
async fn elements_come_as_they_end_each_with_its_index() {
    let app = app().await;
    let gates = ["handles: iter 0", "handles: iter 1", "handles: iter 2"];
    let members = gates
        .into_iter()
        .zip(0..)
        .map(|(gate, n)| held.s(n * 10, gate.into()));
    let result = app.apply_async(group(members)).await.unwrap();
    let mut completions = result.completions();
    for i in [2, 0, 1] {
        open(gates[i]);
        let Completion { index, outcome } = completions.next().await.unwrap().unwrap();
        assert_eq!((index, outcome.unwrap()), (i, i as i64 * 10));
    }
    assert!(completions.next().await.is_none());
    assert!(completions.next().await.is_none());
}

#[tokio::test]
async fn completions_are_a_stream_and_none_is_lost_when_a_wait_is_given_up() {
    let app = app().await;
    let gates = ["handles: stream 0", "handles: stream 1"];
    let members = gates
        .into_iter()
        .zip(0..)
        .map(|(gate, n)| held.s(n, gate.into()));
    let result = app.apply_async(group(members)).await.unwrap();
    let mut completions = result.completions();
    {
        let next = std::pin::pin!(completions.next());
        assert!(futures_util::poll!(next).is_pending());
    }
    // As `select!` does with a stream.
    assert!(futures_util::poll!(StreamExt::next(&mut completions)).is_pending());
    open(gates[1]);
    let first = completions.next().await.unwrap().unwrap();
    assert_eq!((first.index, first.outcome), (1, Ok(1)));
    open(gates[0]);
    let rest: Vec<Completion<i64>> = completions.try_collect().await.unwrap();
    assert_eq!(rest.len(), 1);
    assert_eq!((rest[0].index, &rest[0].outcome), (0, &Ok(0)));
}

#[tokio::test]
async fn a_handle_and_a_reference_to_one_can_be_awaited() {
    let app = app().await;
    let sum = app.apply_async(add.s(2, 2)).await.unwrap();
    assert_eq!((&sum).await.unwrap(), 4);
    assert_eq!(sum.await.unwrap(), 4);
    let failing = app.apply_async(fail.s("no".into())).await.unwrap();
    let Err(Error::Failed(failure)) = (&failing).await else {
        panic!("it fails");
    };
    assert_eq!(failure.message, "no");
    let list = app.apply_async(group([add.s(1, 1), add.s(2, 2)]));
    let other = app.apply_async(add.s(0, 1)).await.unwrap();
    // Both on other threads: the futures are `Send`.
    let list = tokio::spawn(list.await.unwrap().into_future());
    let other = tokio::spawn(async move { other.await });
    assert_eq!(list.await.unwrap().unwrap(), [2, 4]);
    assert_eq!(other.await.unwrap().unwrap(), 1);
}

/// What `completions` gives, in member order, or the error of the stream.
async fn elements<T: serde::de::DeserializeOwned>(
    result: &GroupResult<T>,
) -> Result<Vec<(usize, Result<T, String>)>, String> {
    let mut all = Vec::new();
    let mut completions = result.completions();
    while let Some(completion) = completions.next().await {
        let Completion { index, outcome } = completion.map_err(|error| match error {
            Error::Failed(failure) => failure.message,
            other => other.to_string(),
        })?;
        all.push((index, outcome.map_err(|failure| failure.message)));
    }
    all.sort_by_key(|(index, _)| *index);
    Ok(all)
}

#[tokio::test]
async fn a_failing_element_is_an_error_and_the_others_come_too() {
    let app = app().await;
    let result = app
        .apply_async(group((0..3).map(|n| even.s(n))))
        .await
        .unwrap();
    assert_eq!(
        elements(&result).await.unwrap(),
        [(0, Ok(0)), (1, Err("1 is odd".into())), (2, Ok(2))]
    );
    let settled = app
        .apply_async(group((0..2).map(|n| even.s(n))).settled())
        .await
        .unwrap();
    let all = elements(&settled).await.unwrap();
    assert_eq!(all[0].1.as_ref().unwrap(), &Ok(0));
    assert_eq!(
        all[1].1.as_ref().unwrap().as_ref().unwrap_err().message,
        "1 is odd"
    );
}

#[tokio::test]
async fn the_elements_of_every_list_can_be_had() {
    let app = app().await;
    let expected: Vec<_> = (0..3).map(|n| (n as usize, Ok(n))).collect();
    let canvases = [
        range.s(3),
        group((0..3).map(|n| add.s(n, 0))),
        range.s(3) | add.each(0),
        add.s(0, 0) | group((0..3).map(|n| add.partial(n))),
        group([add.s(0, 0)]) | group((0..3).map(|n| add.si(n, 0))),
    ];
    for canvas in canvases {
        let result = app.apply_async(canvas).await.unwrap();
        assert_eq!(elements(&result).await.unwrap(), expected);
        // And once more, when all is over.
        assert_eq!(elements(&result).await.unwrap(), expected);
    }
    let none = app
        .apply_async(group(Vec::<Signature<(), i64>>::new()))
        .await
        .unwrap();
    assert_eq!(elements(&none).await.unwrap(), []);
    let large = app
        .apply_async(group([letters.s("x".into(), 100_000)]))
        .await
        .unwrap();
    assert_eq!(
        elements(&large).await.unwrap()[0].1.as_ref().unwrap().len(),
        100_000
    );
}

#[tokio::test]
async fn a_list_that_never_comes_ends_in_its_failure() {
    let app = app().await;
    let canvases = [
        fail.s("no".into()) | range.partial(),
        fail.s("no".into()) | range.partial() | add.each(0),
        fail.s("no".into()) | group([add.partial(1)]),
        group([fail.s("no".into())]) | group([xsum.partial()]),
        group([fail.s("no".into())]) | add.each(0),
    ];
    for canvas in canvases {
        let shape = format!("{canvas:?}");
        let result = app.apply_async(canvas).await.unwrap();
        // Of the stream: it is no member's.
        let why = elements(&result).await.unwrap_err();
        assert!(
            why.ends_with("no") || why.ends_with("('no')"),
            "{shape}: {why}"
        );
    }
}

#[tokio::test]
async fn waiting_has_a_limit_if_it_is_given_one_and_the_work_goes_on() {
    let clock = Clock::manual(SystemTime::UNIX_EPOCH);
    let app = builder().clock(clock.clone()).start().await.unwrap();
    let gate = "handles: timeout";
    let result = app.apply_async(held.s(1, gate.into())).await.unwrap();
    let limit = Duration::from_secs(5);
    let (waited, ()) =
        tokio::join!(biased; result.get_timeout(limit), async { clock.advance(limit) });
    match waited {
        Err(Error::Get(GetError::Timeout { id, waited })) => {
            assert_eq!((id, waited), (result.id(), limit))
        }
        other => panic!("{other:?}"),
    }
    open(gate);
    assert_eq!(result.get_timeout(limit).await.unwrap(), 1);
    assert_eq!(result.get_timeout(Duration::ZERO).await.unwrap(), 1);
}

#[test]
fn a_plain_thread_can_wait() {
    let app = pollster::block_on(app());
    let result = pollster::block_on(app.apply_async(add.s(1, 1))).unwrap();
    let waiter = std::thread::spawn(move || result.get_blocking());
    assert_eq!(waiter.join().unwrap().unwrap(), 2);
}

#[test]
fn any_executor_will_do() {
    pollster::block_on(async {
        let app = app().await;
        let gate = "handles: pollster";
        let canvas = group([held.s(1, gate.into()), add.s(1, 1)]) | xsum.partial();
        let result = app.apply_async(canvas).await.unwrap();
        let waited = result.get_timeout(Duration::from_millis(1)).await;
        assert!(
            matches!(waited, Err(Error::Get(GetError::Timeout { .. }))),
            "{waited:?}"
        );
        open(gate);
        assert_eq!(result.get().await.unwrap(), 3);
        let members = result.children::<i64>().await.unwrap();
        assert_eq!(members[1].get().await.unwrap(), 2);
        let large = app
            .apply_async(letters.s("x".into(), 100_000))
            .await
            .unwrap();
        assert_eq!(large.get().await.unwrap().len(), 100_000);
        app.shutdown().await.unwrap();
    });
}

#[tokio::test]
async fn an_id_that_was_never_given_is_unknown() {
    let app = app().await;
    let result = app.apply_async(add.s(1, 1) | add.partial(1)).await.unwrap();
    result.get().await.unwrap();
    let never: Id = "0190a1b2-c3d4-7e5f-8a6b-7c0000000000".parse().unwrap();
    for id in [
        never,
        node(never, 3),
        node(result.id(), 3),
        node(result.id(), 1 << 39),
    ] {
        match app.async_result::<i64>(id).await {
            Err(Error::Id(IdError::Unknown { id: unknown })) => assert_eq!(unknown, id),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_value_of_another_type_is_a_decode_error() {
    let app = app().await;
    let result = app.apply_async(shout.s("x".into())).await.unwrap();
    let wrong = app.async_result::<i64>(result.id()).await.unwrap();
    match wrong.get().await {
        Err(Error::Get(GetError::Decode { id, what })) => {
            assert_eq!(id, result.id());
            assert_eq!(what, "a string does not fit into i64");
        }
        other => panic!("{other:?}"),
    }
    let list = app.apply_async(group([shout.s("x".into())])).await.unwrap();
    let list = list.cast::<Vec<i64>>();
    let mut completions = list.completions();
    let element = completions.next().await.unwrap();
    assert!(
        matches!(element, Err(Error::Get(GetError::Decode { .. }))),
        "{element:?}"
    );
    assert!(completions.next().await.is_none(), "the stream is over");
}

#[tokio::test]
async fn a_dropped_handle_does_not_stop_the_work() {
    let app = app().await;
    let gate = "handles: dropped";
    let result = app
        .apply_async(held.s(1, gate.into()) | add.partial(1))
        .await
        .unwrap();
    let id = result.id();
    drop(result);
    noted(gate, 1).await;
    open(gate);
    let found = app.async_result::<i64>(id).await.unwrap();
    assert_eq!(found.get().await.unwrap(), 2);
}

#[tokio::test]
async fn many_can_wait_for_one_value() {
    let app = app().await;
    let gate = "handles: many";
    let result = app.apply_async(held.s(1, gate.into())).await.unwrap();
    let waiters: Vec<_> = (0..50)
        .map(|_| {
            let result = result.clone();
            tokio::spawn(async move { result.get().await })
        })
        .collect();
    open(gate);
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap().unwrap(), 1);
    }
}

#[tokio::test]
async fn a_task_knows_its_place() {
    #[task]
    async fn place(ctx: &TaskContext) -> (Id, Id, Option<Id>, Option<Id>, u32) {
        (
            ctx.id(),
            ctx.root_id(),
            ctx.parent_id(),
            ctx.group_id(),
            ctx.attempt(),
        )
    }
    let app = builder().tasks(tasks![place]).start().await.unwrap();
    let alone = app.apply_async(place.s()).await.unwrap();
    let root = alone.id();
    assert_eq!(alone.get().await.unwrap(), (root, root, None, None, 1));

    let canvas = nothing.s() | group([place.si(), place.si()]);
    let result = app.apply_async(canvas).await.unwrap();
    let root = result.id();
    let group = node(root, 2);
    let members: Vec<_> = (3..5)
        .map(|seq| (node(root, seq), root, Some(group), Some(group), 1))
        .collect();
    assert_eq!(result.get().await.unwrap(), members);

    let chained = app.apply_async(nothing.s() | place.si()).await.unwrap();
    let root = chained.id();
    let second = (node(root, 2), root, Some(root), None, 1);
    assert_eq!(chained.get().await.unwrap(), second);
}

/// Starts work in every way there is.
#[task]
async fn busy(ctx: &TaskContext, n: i64) -> Result<i64, TaskError> {
    let called = ctx.call("one", add.s(n, 1)).await?;
    let more = add.s(called, 1) | add.partial(1);
    let _ = ctx
        .apply_async(more.idempotency_key(ctx.id().to_string()))
        .await?;
    ctx.replace(add.s(called, 10) | add.partial(100))
}

/// All that children() leads to, each with its parent, from the root down. Every one of them names
/// that parent.
async fn family(root: &AsyncResult<Value>) -> Vec<(Option<Id>, Id)> {
    let mut family = vec![(None, root.id())];
    let mut left = vec![root.clone()];
    while let Some(one) = left.pop() {
        for child in one.children::<Value>().await.unwrap() {
            assert!(
                family.iter().all(|(_, id)| *id != child.id()),
                "{} is there twice",
                child.id()
            );
            let parent = child
                .parent::<Value>()
                .await
                .unwrap()
                .expect("a child has a parent");
            assert_eq!(parent.id(), one.id(), "of {}", child.id());
            // It may have no value: a callback that never runs.
            assert!(child.ready().await.unwrap(), "{}", child.id());
            family.push((Some(one.id()), child.id()));
            left.push(child);
        }
    }
    assert!(root.parent::<Value>().await.unwrap().is_none());
    family
}

/// Two chords, one in the header of the other, whose bodies are a chain and a task with a callback.
fn large_family() -> Canvas {
    let sig = |task: &str, args: Value| json!({"task": task, "args": args});
    let linked = |option: &str, callback: Value, mut sig: Value| {
        sig["options"] = json!({option: [callback]});
        sig
    };
    let over = |header: Value, body: Value| json!({"task": "celery.chord", "kwargs": {"header": header, "body": body}});
    let callback = json!({"task": "nothing", "immutable": true});
    let inner = over(
        json!([sig("add", json!([1, 1])), sig("add", json!([2, 2]))]),
        linked("link", callback, sig("xsum", json!([]))),
    );
    let last = linked(
        "link_error",
        sig("alert", json!(["no"])),
        sig("busy", json!([])),
    );
    let body = json!({"task": "celery.chain", "kwargs": {"tasks": [sig("xsum", json!([])), last]}});
    let outer = over(json!([sig("busy", json!([1])), inner]), body);
    Canvas::from_json(&outer.to_string()).unwrap()
}

#[tokio::test]
async fn children_lead_to_all_that_was_started_and_parents_lead_back() {
    let world = World::of(tasks![busy]);
    let app = world.start().await;
    let root = app.apply_async(large_family()).await.unwrap();
    within(root.at_rest()).await.unwrap();
    let children = root.children::<Value>().await.unwrap();
    // Two members of the header, and the body, which is a chain.
    assert_eq!(children.len(), 3);
    assert_eq!(children[2].get().await.unwrap(), root.get().await.unwrap());
    let steps = children[2].children::<Value>().await.unwrap();
    assert_eq!(steps.len(), 2);
    // An errback that has not run, a call, a replacement, a submission.
    let started = steps[1].children::<Value>().await.unwrap();
    assert_eq!(started.len(), 4);
    assert_eq!(started[0].state().await.unwrap(), State::Revoked);
    assert_eq!(started[2].get().await.unwrap(), root.get().await.unwrap());
    assert_ne!(started[3].id().root(), root.id());
    within(started[3].at_rest()).await.unwrap();
    // The body of the inner chord has its handle: the callback is the chord's child.
    let inner = children[1].children::<()>().await.unwrap();
    assert_eq!(inner.len(), 3);
    inner[2].get().await.unwrap();

    let own = app.async_result::<Value>(children[0].children::<Value>().await.unwrap()[2].id());
    within(own.await.unwrap().at_rest()).await.unwrap();
    let before = family(&root).await;
    assert_eq!(before.len(), 24);
    // Every node that has a number, but for the body that is a task.
    let ids: HashSet<_> = before.iter().map(|(_, id)| *id).collect();
    let mut missing = 0;
    let mut seq = 0;
    while app
        .async_result::<Value>(node(root.id(), seq))
        .await
        .is_ok()
    {
        missing += usize::from(!ids.contains(&node(root.id(), seq)));
        seq += 1;
    }
    assert_eq!(missing, 1);
    let app = world.restart(app).await;
    let root = app.async_result::<Value>(root.id()).await.unwrap();
    assert_eq!(family(&root).await, before);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_is_forgotten_is_neither_child_nor_parent() {
    let app = builder().tasks(tasks![busy]).start().await.unwrap();
    let root = app.apply_async(busy.s(1)).await.unwrap();
    within(root.at_rest()).await.unwrap();
    let submitted = root.children::<i64>().await.unwrap().pop().unwrap();
    within(submitted.at_rest()).await.unwrap();
    assert_eq!(
        submitted.parent::<i64>().await.unwrap().unwrap().id(),
        root.id()
    );
    let (of_parent, of_child) = (root.id(), submitted.id());
    drop(submitted);
    app.forget(of_child).await.unwrap();
    assert_eq!(root.children::<i64>().await.unwrap().len(), 2);
    drop(root);

    let root = app.apply_async(busy.s(2)).await.unwrap();
    within(root.at_rest()).await.unwrap();
    let submitted = root.children::<i64>().await.unwrap().pop().unwrap();
    let of_root = root.id();
    drop(root);
    app.forget(of_root).await.unwrap();
    app.forget(of_parent).await.unwrap();
    assert!(submitted.parent::<i64>().await.unwrap().is_none());
    assert_eq!(submitted.get().await.unwrap(), 5);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn families_are_the_same_in_eager_mode() {
    let app = App::eager()
        .tasks(all_tasks())
        .tasks(tasks![busy])
        .start()
        .await
        .unwrap();
    let root = app.apply_async(large_family()).await.unwrap();
    assert_eq!(family(&root).await.len(), 24);
}
