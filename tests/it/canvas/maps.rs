//! `map`, `starmap` and `chunks`.

use super::*;

fn run<O>(canvas: Immutable<O>) -> Signature<(), O> {
    canvas.into_canvas().typed()
}

#[tokio::test]
async fn a_map_calls_the_task_once_per_item_in_order() {
    let texts = ["a", "b", "c"].map(String::from);
    assert_eq!(value(run(shout.map(texts))).await, ["A", "B", "C"]);
    assert_eq!(value(run(shout.map([]))).await, [""; 0]);
}

#[tokio::test]
async fn a_starmap_calls_the_task_once_per_tuple_in_order() {
    assert_eq!(value(run(add.starmap([(1, 2), (3, 4)]))).await, [3, 7]);
    assert_eq!(value(run(add.starmap([]))).await, [0i64; 0]);
}

#[tokio::test]
async fn a_map_is_one_task() {
    let app = app().await;
    let result = app
        .apply_async(add.starmap([(1, 2), (3, 4)]))
        .await
        .unwrap();
    result.get().await.unwrap();
    assert_eq!(result.children::<i64>().await.unwrap().len(), 0);
    assert_eq!(result.completed_count().await.unwrap(), 1);
}

#[tokio::test]
async fn maps_stand_in_chains_groups_and_chords() {
    let pairs = || (0..4).map(|n| (n, n));
    let canvas = add.s(1, 1) | add.starmap(pairs()) | xsum.partial();
    assert_eq!(value(canvas).await, 12);
    assert_eq!(
        value(run(add.starmap(pairs()) | add.each(1))).await,
        [1, 3, 5, 7]
    );
    let members = group([run(add.starmap(pairs())), range.s(2)]);
    assert_eq!(value(members).await, [vec![0, 2, 4, 6], vec![0, 1]]);
}

#[tokio::test]
async fn the_first_failing_item_fails_the_map_and_those_behind_it_are_not_called() {
    let app = builder().tasks(tasks![even_marked]).start().await.unwrap();
    let result = app
        .apply_async(even_marked.map([2, 4, 5, 7, 6]))
        .await
        .unwrap();
    assert_eq!(failure_of(&result).await.message, "5 is odd");
    assert_eq!(notes("maps: items"), ["2", "4", "5"]);
}

#[task]
async fn even_marked(n: i64) -> Result<i64, TaskError> {
    note("maps: items", n);
    even.call(n).await
}

#[tokio::test]
async fn chunks_give_a_list_of_results_per_chunk() {
    let pairs = || (0..5).map(|n| (n, n));
    let expected = [vec![0, 2], vec![4, 6], vec![8]];
    assert_eq!(value(run(add.chunks(pairs(), 2))).await, expected);
    assert_eq!(
        value(run(add.chunks(pairs(), 100))).await,
        [[0, 2, 4, 6, 8]]
    );
    assert_eq!(value(run(add.chunks([], 2))).await, [[0i64; 0]; 0]);
    let in_a_chain = add.s(1, 1) | add.chunks(pairs(), 2) | xsum.each() | xsum.partial();
    assert_eq!(value(in_a_chain).await, 20);
}

#[tokio::test]
async fn a_failing_item_fails_its_chunk_only() {
    let app = app().await;
    let halves = even.chunks((0..6).map(|n| (n * 2 + n / 3,)), 3).settled();
    let result = app.apply_async(halves).await.unwrap();
    // 0 2 4, then 7, which fails
    let chunks = result.get().await.unwrap();
    assert_eq!(chunks[0].as_deref(), Ok(&[0, 2, 4][..]));
    assert_eq!(chunks[1].as_ref().unwrap_err().message, "7 is odd");
}

#[tokio::test]
async fn items_of_a_map_may_be_large() {
    let texts = [20_000, 1_000_000].map(|n| "x".repeat(n));
    assert_eq!(value(run(length.map(texts))).await, [20_000, 1_000_000]);
}

#[tokio::test]
async fn chunks_of_no_items_are_refused() {
    let app = app().await;
    let refused = app.apply_async(add.chunks([(1, 2)], 0)).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "canvas refused: chunks of `add` must have at least one item"
    );
}
