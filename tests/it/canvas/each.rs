//! `each`: one task for each element of a list that is known only at run time.

use super::*;

#[tokio::test]
async fn each_after_a_task_fans_out_over_its_list() {
    assert_eq!(value(range.s(4) | add.each(10)).await, [10, 11, 12, 13]);
    assert_eq!(value(range.s(4) | add.each(10) | xsum.partial()).await, 46);
}

#[tokio::test]
async fn each_after_a_group_fans_out_over_its_values() {
    let pair = || group([add.s(1, 1), add.s(2, 2)]);
    assert_eq!(value(pair() | add.each(1)).await, [3, 5]);
    assert_eq!(value(pair() | add.each(1) | xsum.partial()).await, 8);
}

#[tokio::test]
async fn each_after_each_fans_out_again() {
    let canvas = range.s(3) | add.each(1) | add.each(10) | range.each();
    let expected: Vec<Vec<i64>> = (11..14).map(|n| (0..n).collect()).collect();
    assert_eq!(value(canvas).await, expected);
}

#[tokio::test]
async fn each_over_an_empty_list_gives_an_empty_list() {
    let none = || group(Vec::<Signature<(), i64>>::new());
    assert_eq!(value(range.s(0) | add.each(1)).await, [0i64; 0]);
    assert_eq!(value(range.s(0) | add.each(1) | xsum.partial()).await, 0);
    assert_eq!(value(none() | add.each(1)).await, [0i64; 0]);
    assert_eq!(
        value(none() | add.each(1) | add.each(2) | xsum.partial()).await,
        0
    );
    let in_a_group = range.s(0) | group([add.each(1), add.each(2)]);
    assert_eq!(value(in_a_group).await, [[0i64; 0], []]);
}

#[tokio::test]
async fn each_inside_a_group_gives_a_list_per_member() {
    let canvas = range.s(3) | group([add.each(1), add.each(10)]);
    assert_eq!(value(canvas).await, [[1, 2, 3], [10, 11, 12]]);
    let followed = range.s(3) | group([add.each(1) | xsum.partial(), xsum.partial()]);
    assert_eq!(value(followed | xsum.partial()).await, 9);
    let apart = range.s(2) | group!(add.each(1), range.each());
    assert_eq!(value(apart).await, (vec![1, 2], vec![vec![], vec![0]]));
}

#[tokio::test]
async fn each_as_a_body_fans_out_over_the_header() {
    let canvas = chord(group((0..3).map(|n| add.s(n, n))), add.each(1));
    assert_eq!(value(canvas).await, [1, 3, 5]);
}

#[tokio::test]
async fn each_over_more_elements_than_the_window_keeps_their_order() {
    let app = builder().window(8).start().await.unwrap();
    let canvas = range.s(3_000) | add.each(1) | xsum.partial();
    let result = app.apply_async(canvas).await.unwrap();
    assert_eq!(result.get().await.unwrap(), 3_000 * 3_001 / 2);
}

#[tokio::test]
async fn each_takes_elements_of_every_size() {
    let texts: Vec<String> = [0, 1, 10_000, 1_000_000].map(|n| "x".repeat(n)).into();
    let members = group(texts.into_iter().map(|text| shout.s(text)));
    assert_eq!(
        value(members | length.each()).await,
        [0, 1, 10_000, 1_000_000]
    );
}

#[tokio::test]
async fn a_failing_element_fails_each_and_the_others_run() {
    let failed = failure(range.s(6) | even.each() | xsum.partial()).await;
    assert_eq!(failed.kind, FailureKind::Chord);
    assert_eq!(failed.cause.unwrap().message, "1 is odd");
    let failed = failure(range.s(6) | even.each()).await;
    assert_eq!(failed.message, "1 is odd");
}

#[tokio::test]
async fn each_settled_gives_every_outcome() {
    let canvas = range.s(3) | even.each().settled() | outcomes.partial();
    assert_eq!(value(canvas).await, ["0", "even: 1 is odd", "2"]);
}

#[tokio::test]
async fn each_of_what_is_no_list_fails_and_says_so() {
    let number = Canvas::task("add", (1, 2)).typed::<(), Vec<i64>>();
    let failed = failure(number | add.each(1)).await;
    assert_eq!(failed.kind, FailureKind::Type);
    assert_eq!(failed.message, "the value upstream is not a list");
}

#[task]
async fn three(_failure: TaskFailure) -> Vec<i64> {
    vec![1, 2, 3]
}

#[tokio::test]
async fn each_inside_each_fans_out_within_every_element() {
    let app = builder().tasks(tasks![three]).start().await.unwrap();
    // Every element that fails starts an errback, which fans out itself.
    let errback = three.partial() | mark.each("each: within".into());
    let canvas = range.s(6) | even.each().link_error(errback).settled();
    let result = app.apply_async(canvas).await.unwrap();
    assert_eq!(result.get().await.unwrap().len(), 6);
    let mut marks = noted("each: within", 9).await;
    marks.sort_unstable();
    assert_eq!(marks, ["1", "1", "1", "2", "2", "2", "3", "3", "3"]);
}

#[tokio::test]
async fn every_element_has_a_handle() {
    let app = app().await;
    let canvas = range.s(3) | group([add.each(1), add.each(10)]);
    let result = app.apply_async(canvas).await.unwrap();
    result.get().await.unwrap();
    let steps = result.children::<Value>().await.unwrap();
    let members = steps[1].children::<Vec<i64>>().await.unwrap();
    let mut seen = HashSet::new();
    for (member, first) in members.iter().zip([1, 10]) {
        let elements = member.children::<i64>().await.unwrap();
        assert_eq!(elements.len(), 3);
        for (element, i) in elements.iter().zip(0..) {
            assert!(seen.insert(element.id()));
            let found = app.async_result::<i64>(element.id()).await.unwrap();
            assert_eq!(found.get().await.unwrap(), first + i);
            assert_eq!(found.state().await.unwrap(), State::Success);
        }
    }
}
