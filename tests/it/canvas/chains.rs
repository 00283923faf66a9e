//! Chains: `|` and `chain`.

use super::*;

#[tokio::test]
async fn a_signature_alone_gives_its_value() {
    assert_eq!(value(add.s(2, 2)).await, 4);
}

#[tokio::test]
async fn each_step_takes_the_value_of_the_one_before_it() {
    let canvas = letters.s("ab".into(), 3) | length.partial() | letters_of.partial();
    let app = builder().tasks(tasks![letters_of]).start().await.unwrap();
    let result = app.apply_async(canvas).await.unwrap();
    assert_eq!(result.get().await.unwrap(), "xxxxxx");
}

#[task]
async fn letters_of(n: usize) -> String {
    "x".repeat(n)
}

#[tokio::test]
async fn a_chain_is_the_same_however_it_is_put_in_parentheses() {
    let left = (add.s(1, 2) | add.partial(3)) | add.partial(4);
    let right = add.s(1, 2) | (add.partial(3) | add.partial(4));
    assert_eq!(format!("{left:?}"), format!("{right:?}"));
    assert_eq!((value(left).await, value(right).await), (10, 10));
}

#[tokio::test]
async fn a_chain_of_an_iterator_runs_its_steps_in_order() {
    let canvas = add.s(0, 1) | chain((1..=50).map(|n| add.partial(n)));
    assert_eq!(value(canvas).await, 1 + 50 * 51 / 2);
}

#[tokio::test]
async fn a_chain_of_no_steps_passes_its_value_on() {
    let none = || chain(Vec::<Signature<i64, i64>>::new());
    assert_eq!(value(add.s(2, 2) | none()).await, 4);
    assert_eq!(value(add.s(2, 2) | none() | add.partial(1)).await, 5);
    assert_eq!(value(add.s(2, 2) | none() | none() | none()).await, 4);
    assert_eq!(value(add.s(2, 2) | group([none(), none()])).await, [4, 4]);
    let with_a_task = group([none(), add.partial(1) | none()]) | xsum.partial();
    assert_eq!(value(add.s(2, 2) | with_a_task).await, 9);
}

#[tokio::test]
async fn a_chain_of_no_steps_and_nothing_upstream_gives_the_unit() {
    value::<()>(chain(Vec::<Signature<(), ()>>::new())).await;
    let members = group((0..3).map(|_| chain(Vec::<Signature<(), ()>>::new())));
    assert_eq!(value(members | how_many.partial()).await, 3);
}

#[tokio::test]
async fn an_immutable_step_ignores_what_comes_from_upstream() {
    assert_eq!(
        value(add.s(1, 2) | add.si(10, 20) | add.partial(1)).await,
        31
    );
    assert_eq!(value(shout.s("x".into()) | add.si(2, 3)).await, 5);
    // A chain that starts with one ignores it as a whole.
    let ignores = add.si(10, 20) | add.partial(1);
    assert_eq!(value(shout.s("x".into()) | ignores).await, 31);
}

#[tokio::test]
async fn an_immutable_goes_wherever_a_signature_goes() {
    let app = app().await;
    let alone = app.apply_async(add.si(2, 3)).await.unwrap();
    assert_eq!(alone.get().await.unwrap(), 5);
    let chained = app
        .apply_async(add.si(2, 3) | add.partial(1))
        .await
        .unwrap();
    assert_eq!(chained.get().await.unwrap(), 6);
    let members = range.s(2) | group([add.si(1, 1), add.si(2, 2)]);
    assert_eq!(value(members).await, [2, 4]);
    assert_eq!(
        value(group((0..3).map(|n| add.s(n, 0))) | add.si(7, 7)).await,
        14
    );
}

#[tokio::test]
async fn a_step_that_gives_nothing_can_be_followed() {
    value(nothing.s() | nothing.si()).await;
    assert_eq!(value(nothing.s() | after.partial(3)).await, 3);
    assert_eq!(value(nothing.s() | nothing.si() | add.si(1, 2)).await, 3);
    assert_eq!(
        value(group((0..3).map(|_| nothing.s())) | how_many.partial()).await,
        3
    );
}

#[tokio::test]
async fn a_chain_may_end_in_a_group() {
    let canvas = add.s(2, 2)
        | (add.partial(4) | add.partial(8) | add.partial(16) | add.partial(32))
        | group((0..4).map(|i| add.partial(i)));
    assert_eq!(value(canvas).await, [64, 65, 66, 67]);
}

#[tokio::test]
async fn a_chain_of_a_thousand_steps_ends() {
    let canvas = add.s(0, 0) | chain((0..1_000).map(|_| add.partial(1)));
    assert_eq!(value(canvas).await, 1_000);
}
