//! What `results()` gives of a group, and `header_results()` of a chord: in every stage, and of
//! every kind of list.

use std::time::Duration;

use chordal::persistence::MemoryStore;

use super::lives::{SECOND, World, settle};
use super::*;
use crate::recovery::within;

/// As text, for a comparison: `2`, `even: 3 is odd` or `-`.
fn shown<T: std::fmt::Debug>(results: Vec<Option<Result<T, TaskFailure>>>) -> Vec<String> {
    let one = |result| match result {
        None => "-".to_owned(),
        Some(Ok(value)) => format!("{value:?}"),
        Some(Err(failure)) => shown_failure(&failure),
    };
    results.into_iter().map(one).collect()
}

fn shown_failure(failure: &TaskFailure) -> String {
    format!("{}: {}", failure.name, failure.message)
}

async fn results_of<T>(handle: &AsyncResult<Vec<T>>) -> Vec<String>
where
    T: serde::de::DeserializeOwned + std::fmt::Debug,
{
    shown(handle.results().await.unwrap())
}

/// Adds these to its chord, and gives its own.
#[task]
async fn extends(ctx: &TaskContext, own: i64, more: Vec<i64>) -> Result<i64, TaskError> {
    for n in more {
        ctx.add_to_chord(add.s(n, 0))?;
    }
    Ok(own)
}

/// Becomes a group.
#[task]
async fn becomes_group(ctx: &TaskContext) -> Result<Vec<i64>, TaskError> {
    ctx.replace(group([add.s(1, 1), add.s(2, 2)]))
}

fn world() -> World {
    World::of(tasks![extends, becomes_group])
}

#[tokio::test]
async fn members_that_have_ended_are_there_and_others_are_not() {
    let app = app().await;
    let gates = ["partial: 0", "partial: 1", "partial: 2"];
    let held_members = gates.iter().zip(0..);
    let members = held_members.map(|(gate, n)| held.s(n, (*gate).into()));
    let members: Vec<_> = members.chain([even.s(3)]).collect();
    let result = app.apply_async(group(members.clone())).await.unwrap();
    let total = chord(group(members), xsum.partial());
    let total = app.apply_async(total).await.unwrap();
    let handles = result.children::<i64>().await.unwrap();
    let header = total.children::<i64>().await.unwrap();
    for one in [&handles[3], &header[3]] {
        one.get().await.unwrap_err();
    }
    let mut expected = ["-", "-", "-", "even: 3 is odd"];
    assert_eq!(results_of(&result).await, expected);
    for (i, value) in [(1, "1"), (0, "0"), (2, "2")] {
        open(gates[i]);
        handles[i].get().await.unwrap();
        header[i].get().await.unwrap();
        expected[i] = value;
        assert_eq!(results_of(&result).await, expected);
        let header = total.header_results::<i64>().await.unwrap();
        assert_eq!(shown(header.unwrap()), expected);
    }
    assert_eq!(failure_of(&result).await.message, "3 is odd");
    assert_eq!(failure_of(&total).await.error_type, "ChordError");
    assert_eq!(results_of(&result).await, expected);
    let header = total.header_results::<i64>().await.unwrap();
    assert_eq!(shown(header.unwrap()), expected);
}

/// The scenario "Web Scraping".
#[tokio::test]
async fn after_a_timeout_the_results_are_what_came_in_time() {
    let world = world();
    let app = world.start().await;
    let gate = "partial: timeout";
    let pages = app
        .apply_async(group([add.s(1, 1), held.s(7, gate.into()), add.s(2, 2)]))
        .await
        .unwrap();
    for i in [0, 2] {
        pages.children::<i64>().await.unwrap()[i]
            .get()
            .await
            .unwrap();
    }
    let limit = Duration::from_secs(60);
    let (waited, ()) = tokio::join!(biased; pages.get_timeout(limit), async {
        world.clock.advance(limit)
    });
    assert!(matches!(waited, Err(Error::Get(GetError::Timeout { .. }))));
    assert_eq!(results_of(&pages).await, ["2", "-", "4"]);
    open(gate);
    assert_eq!(pages.get().await.unwrap(), [2, 7, 4]);
    assert_eq!(results_of(&pages).await, ["2", "7", "4"]);
}

#[tokio::test]
async fn they_are_the_same_after_a_restart_and_gone_when_the_result_is() {
    let world = world();
    let store = MemoryStore::new();
    let start = || world.over(store.clone()).retention(SECOND).start();
    let app = start().await.unwrap();
    let gate = "partial: restart";
    let members = group([add.s(1, 1), held.s(7, gate.into()), even.s(1)]);
    let result = app.apply_async(members).await.unwrap();
    for (i, is_value) in [(0, true), (2, false)] {
        let member = &result.children::<i64>().await.unwrap()[i];
        assert_eq!(member.get().await.is_ok(), is_value);
    }
    let id = result.id();
    drop(result);
    within(app.shutdown()).await.unwrap();

    let app = start().await.unwrap();
    let result = app.async_result::<Vec<i64>>(id).await.unwrap();
    assert_eq!(results_of(&result).await, ["2", "-", "even: 1 is odd"]);
    open(gate);
    within(result.get()).await.unwrap_err();
    within(result.at_rest()).await.unwrap();
    let all = ["2", "7", "even: 1 is odd"];
    assert_eq!(results_of(&result).await, all);
    // A handle keeps it past its retention.
    world.clock.advance(10 * SECOND);
    settle(&app).await;
    assert_eq!(results_of(&result).await, all);
    app.forget(id).await.unwrap();
    match result.results().await {
        Err(Error::Id(IdError::Unknown { id: unknown })) => assert_eq!(unknown, id),
        other => panic!("{other:?}"),
    }
    drop(result);
    match app.async_result::<Vec<i64>>(id).await {
        Err(Error::Id(IdError::Unknown { id: unknown })) => assert_eq!(unknown, id),
        other => panic!("{other:?}"),
    }
    within(app.shutdown()).await.unwrap();
}

/// More members than a header, a record of the stream and a batch of reads hold.
#[tokio::test]
async fn a_group_that_is_stored_in_pages_has_its_results_in_order() {
    let world = world();
    let app = world.start().await;
    let gate = "partial: pages";
    const SIZE: i64 = 3_000;
    let member = move |n: i64| match n {
        1_500 => held.s(n, gate.into()),
        2_500 => add.s(0, 2_500),
        n => even.s(n),
    };
    let result = app.apply_async(group((0..SIZE).map(member))).await.unwrap();
    let mut completions = result.completions();
    for _ in 0..SIZE - 1 {
        within(completions.next()).await.unwrap().unwrap();
    }
    let results = result.results().await.unwrap();
    assert_eq!(results.len(), SIZE as usize);
    for (n, one) in (0..SIZE).zip(&results) {
        match one {
            None => assert_eq!(n, 1_500),
            Some(Ok(value)) => assert_eq!((*value, n % 2), (n, 0)),
            Some(Err(failure)) => assert_eq!(failure.message, format!("{n} is odd")),
        }
    }
    open(gate);
    within(result.get()).await.unwrap_err();
    let results = result.results().await.unwrap();
    assert_eq!(results[1_500], Some(Ok(1_500)));
    assert!(results.iter().all(Option::is_some));
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn large_values_and_lists_are_elements_too() {
    let app = app().await;
    let large = app
        .apply_async(group([
            letters.s("ab".into(), 50_000),
            letters.s("c".into(), 2),
        ]))
        .await
        .unwrap();
    large.get().await.unwrap();
    let results = large.results().await.unwrap();
    assert_eq!(
        results[0].as_ref().unwrap().as_ref().unwrap().len(),
        100_000
    );
    assert_eq!(results[1], Some(Ok("cc".into())));

    let gate = "partial: nested";
    let inner = |last| group([add.s(1, 1), last]);
    let nested = group([inner(add.s(2, 2)), inner(held.s(3, gate.into()))]);
    let nested = app.apply_async(nested).await.unwrap();
    let lists = nested.children::<Vec<i64>>().await.unwrap();
    lists[0].get().await.unwrap();
    assert_eq!(results_of(&nested).await, ["[2, 4]", "-"]);
    lists[1].children::<i64>().await.unwrap()[0]
        .get()
        .await
        .unwrap();
    assert_eq!(results_of(&lists[1]).await, ["2", "-"]);
    open(gate);
    nested.get().await.unwrap();
    assert_eq!(results_of(&nested).await, ["[2, 4]", "[2, 3]"]);
}

#[tokio::test]
async fn a_settled_group_has_results_as_values() {
    let app = app().await;
    let gate = "partial: settled";
    let members = group([even.s(1), held.s(2, gate.into())]).settled();
    let result = app.apply_async(members).await.unwrap();
    let members = result.children::<i64>().await.unwrap();
    members[0].get().await.unwrap_err();
    let results = result.results().await.unwrap();
    match &results[0] {
        Some(Ok(Err(failure))) => assert_eq!(failure.message, "1 is odd"),
        other => panic!("{other:?}"),
    }
    assert_eq!(results[1], None);
    open(gate);
    result.get().await.unwrap();
    assert_eq!(result.results().await.unwrap()[1], Some(Ok(Ok(2))));
}

#[tokio::test]
async fn members_that_never_ran_have_the_failure_of_what_is_above_them() {
    let app = app().await;
    let two = || group([add.partial(1), add.partial(2)]);
    let after_failure = app.apply_async(fail.s("no".into()) | two()).await.unwrap();
    failure_of(&after_failure).await;
    assert_eq!(results_of(&after_failure).await, ["fail: no", "fail: no"]);

    let gate = "partial: before";
    let later = app
        .apply_async(held.s(1, gate.into()) | two())
        .await
        .unwrap();
    noted(gate, 1).await;
    assert_eq!(results_of(&later).await, ["-", "-"]);
    later.revoke().await.unwrap();
    failure_of(&later).await;
    let why = "chain: revoked";
    assert_eq!(results_of(&later).await, [why, why]);
    for member in later.members::<i64>().await.unwrap().unwrap() {
        assert_eq!(shown_failure(&failure_of(&member).await), why);
    }

    let gate = "partial: revoked";
    let running = group([add.s(1, 1), held.s(2, gate.into())]);
    let running = app.apply_async(running).await.unwrap();
    running.children::<i64>().await.unwrap()[0]
        .get()
        .await
        .unwrap();
    noted(gate, 1).await;
    running.revoke().await.unwrap();
    failure_of(&running).await;
    assert_eq!(results_of(&running).await, ["2", "held: revoked"]);
}

#[tokio::test]
async fn a_list_of_unknown_length_is_empty_until_it_is_known() {
    let app = app().await;
    let gate = "partial: each";
    let upstream = held.s(3, gate.into()) | range.partial();
    let doubled = app.apply_async(upstream | add.each(10)).await.unwrap();
    noted(gate, 1).await;
    assert!(results_of(&doubled).await.is_empty());
    open(gate);
    doubled.get().await.unwrap();
    assert_eq!(results_of(&doubled).await, ["10", "11", "12"]);

    let none = fail.s("no".into()) | range.partial() | add.each(1);
    let none = app.apply_async(none).await.unwrap();
    failure_of(&none).await;
    match none.results().await {
        Err(Error::Failed(failure)) => assert_eq!(shown_failure(&failure), "fail: no"),
        other => panic!("{other:?}"),
    }

    // The list of one task.
    let gate = "partial: list";
    let list = app
        .apply_async(held.s(2, gate.into()) | range.partial())
        .await
        .unwrap();
    assert!(results_of(&list).await.is_empty());
    open(gate);
    list.get().await.unwrap();
    assert_eq!(results_of(&list).await, ["0", "1"]);
    let failed = app.apply_async(fail.s("no".into())).await.unwrap();
    failure_of(&failed).await;
    let failed = failed.cast::<Vec<i64>>();
    assert!(matches!(failed.results().await, Err(Error::Failed(_))));

    let empty = group(Vec::<Signature<(), i64>>::new());
    let empty = app.apply_async(empty).await.unwrap();
    empty.get().await.unwrap();
    assert!(results_of(&empty).await.is_empty());
}

#[tokio::test]
async fn an_element_of_another_type_is_an_error_that_names_it() {
    let app = app().await;
    let sums = app.apply_async(group([add.s(1, 1)])).await.unwrap();
    sums.get().await.unwrap();
    let id = sums.id();
    match sums.cast::<Vec<String>>().results().await {
        Err(Error::Get(GetError::Decode { id: of, what })) => {
            assert_eq!(of, id);
            assert!(what.starts_with("element 0: "), "{what}");
        }
        other => panic!("{other:?}"),
    }
    let one = app.apply_async(add.s(1, 1)).await.unwrap();
    one.get().await.unwrap();
    match one.cast::<Vec<i64>>().results().await {
        Err(Error::Get(GetError::Decode { .. })) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_positions_are_those_of_the_members() {
    let world = world();
    let app = world.start().await;
    let header = group([
        extends.s(1, vec![5, 6]),
        extends.s(2, vec![7]),
        extends.s(3, vec![]),
    ]);
    let total = app
        .apply_async(chord(header, xsum.partial()))
        .await
        .unwrap();
    assert_eq!(within(total.get()).await.unwrap(), 24);
    let own = total.header_results::<i64>().await.unwrap().unwrap();
    assert_eq!(shown(own), ["1", "2", "3"]);

    // Where the value is that of a chord or a group, however it came to be.
    let chained = add.s(1, 1) | group([add.partial(1), add.partial(2)]) | xsum.partial();
    let chained = app.apply_async(chained).await.unwrap();
    within(chained.get()).await.unwrap();
    let own = chained.header_results::<i64>().await.unwrap().unwrap();
    assert_eq!(shown(own), ["3", "4"]);
    let folded = group([add.s(1, 1), add.s(2, 2)]).fold(0, add);
    let folded = app.apply_async(folded).await.unwrap();
    assert_eq!(within(folded.get()).await.unwrap(), 6);
    let own = folded.header_results::<i64>().await.unwrap().unwrap();
    assert_eq!(shown(own), ["2", "4"]);
    let replaced = app.apply_async(becomes_group.s()).await.unwrap();
    within(replaced.get()).await.unwrap();
    assert_eq!(results_of(&replaced).await, ["2", "4"]);
    assert!(replaced.header_results::<i64>().await.unwrap().is_none());
    let one = app.apply_async(add.s(1, 1)).await.unwrap();
    assert!(one.header_results::<i64>().await.unwrap().is_none());
    within(app.shutdown()).await.unwrap();
}

#[test]
fn an_eager_app_has_them_too() {
    pollster::block_on(async {
        let app = App::eager().tasks(all_tasks()).start().await.unwrap();
        let result = app
            .apply_async(group([add.s(1, 1), even.s(3)]))
            .await
            .unwrap();
        let waited = result.get_timeout(Duration::ZERO).await;
        assert!(matches!(waited, Err(Error::Failed(_))));
        assert_eq!(results_of(&result).await, ["2", "even: 3 is odd"]);
        let total = chord([add.s(1, 1), add.s(2, 2)], xsum.partial());
        let total = app.apply_async(total).await.unwrap();
        let header = total.header_results::<i64>().await.unwrap().unwrap();
        assert_eq!(shown(header), ["2", "4"]);
        app.shutdown().await.unwrap();
    });
}
