//! Groups: `group` and `group!`.

use super::*;

#[tokio::test]
async fn values_come_in_member_order_whatever_the_order_they_end_in() {
    let app = app().await;
    let gates = ["groups: 0", "groups: 1", "groups: 2"];
    let members = gates
        .into_iter()
        .zip(0..)
        .map(|(gate, n)| held.s(n, gate.into()));
    let result = app.apply_async(group(members)).await.unwrap();
    let members = result.children::<i64>().await.unwrap();
    for (last_first, gate) in gates.iter().enumerate().rev() {
        open(gate);
        members[last_first].get().await.unwrap();
    }
    assert_eq!(result.get().await.unwrap(), [0, 1, 2]);
}

#[tokio::test]
async fn each_member_gets_the_same_value_from_upstream() {
    let canvas = add.s(1, 1) | group((0..3).map(|n| add.partial(n)));
    assert_eq!(value(canvas).await, [2, 3, 4]);
}

#[tokio::test]
async fn members_of_different_types_give_a_tuple() {
    let one = group!(add.s(2, 2));
    assert_eq!(value(one).await, (4,));
    let mixed = group!(add.s(2, 2), shout.s("x".into()), nothing.s(), range.s(2));
    assert_eq!(value(mixed).await, (4, "X".to_owned(), (), vec![0, 1]));
    let fed = add.s(1, 1) | group!(add.partial(1), shout.si("y".into()), range.partial());
    assert_eq!(value(fed).await, (3, "Y".to_owned(), vec![0, 1]));
}

#[task]
async fn join(both: (i64, String)) -> String {
    format!("{}{}", both.0, both.1)
}

#[tokio::test]
async fn a_tuple_of_members_can_be_followed() {
    let app = builder().tasks(tasks![join]).start().await.unwrap();
    let canvas = group!(add.s(2, 2), shout.s("x".into())) | join.partial();
    let result = app.apply_async(canvas).await.unwrap();
    assert_eq!(result.get().await.unwrap(), "4X");
}

#[rustfmt::skip]
#[tokio::test]
async fn a_tuple_has_up_to_twelve_members() {
    let n = || add.s(1, 1);
    let twelve = group!(n(), n(), n(), n(), n(), n(), n(), n(), n(), n(), n(), shout.s("z".into()));
    assert_eq!(value(twelve).await, (2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, "Z".to_owned()));
}

#[tokio::test]
async fn an_empty_group_gives_an_empty_list() {
    let none = || group(Vec::<Signature<(), i64>>::new());
    assert_eq!(value(none()).await, [0i64; 0]);
    assert_eq!(value(group([none(), none()])).await, [[0i64; 0], []]);
    let in_the_middle = add.s(1, 1) | group(Vec::<Signature<i64, i64>>::new()) | xsum.partial();
    assert_eq!(value(in_the_middle).await, 0);
    let at_the_end = add.s(1, 1) | group(Vec::<Signature<i64, i64>>::new());
    assert_eq!(value(at_the_end).await, [0i64; 0]);
}

#[tokio::test]
async fn a_group_of_groups_gives_a_list_of_lists() {
    let canvas = group((0..3).map(|i| group((0..i).map(move |j| add.s(i, j)))));
    assert_eq!(value(canvas).await, [vec![], vec![1], vec![2, 3]]);
}

#[tokio::test]
async fn a_group_may_be_larger_than_the_window() {
    for window in [1, 2, 7] {
        let app = builder().window(window).start().await.unwrap();
        let canvas = group((0..100).map(|n| add.s(n, 0) | add.partial(1)));
        let result = app.apply_async(canvas).await.unwrap();
        let expected: Vec<_> = (1..=100).collect();
        assert_eq!(result.get().await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_group_of_ten_thousand_keeps_its_order() {
    let expected: Vec<_> = (0..10_000).collect();
    let canvas = group((0..10_000).map(|n| add.s(n, 0)));
    assert_eq!(value(canvas).await, expected);
}
