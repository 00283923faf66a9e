//! Chords: `chord`, and `|` after a group.

use super::*;

fn header(n: i64) -> Signature<(), Vec<i64>> {
    group((0..n).map(|i| add.s(i, i)))
}

#[tokio::test]
async fn the_body_gets_the_values_of_the_header() {
    assert_eq!(value(chord(header(10), xsum.partial())).await, 90);
}

#[tokio::test]
async fn a_group_followed_by_a_task_is_a_chord() {
    let written = chord(header(10), xsum.partial());
    let piped = header(10) | xsum.partial();
    assert_eq!(format!("{written:?}"), format!("{piped:?}"));
    assert_eq!(value(piped).await, 90);
}

#[tokio::test]
async fn a_chord_can_be_followed() {
    let canvas = chord(header(4), xsum.partial()) | add.partial(1) | add.partial(1);
    assert_eq!(value(canvas).await, 14);
}

#[tokio::test]
async fn a_chord_takes_a_value_from_upstream() {
    let inner = group((0..3).map(|n| add.partial(n))) | xsum.partial();
    assert_eq!(value(add.s(1, 1) | inner | add.partial(1)).await, 10);
}

#[tokio::test]
async fn a_chord_of_no_members_runs_its_body_with_an_empty_list() {
    assert_eq!(value(chord(header(0), xsum.partial())).await, 0);
    assert_eq!(value(header(0) | xsum.partial() | add.partial(1)).await, 1);
}

#[tokio::test]
async fn a_chord_of_one_member_gives_its_body_a_list_of_one() {
    assert_eq!(value(chord(group([add.s(3, 4)]), xsum.partial())).await, 7);
}

#[tokio::test]
async fn a_group_can_follow_a_group() {
    let canvas = header(3) | group([xsum.partial(), xsum.partial()]);
    assert_eq!(value(canvas).await, [6, 6]);
}

#[tokio::test]
async fn a_group_a_group_and_a_task_fan_out_and_in_twice() {
    let canvas = header(3) | group((0..4).map(|_| xsum.partial())) | xsum.partial();
    assert_eq!(value(canvas).await, 24);
    let once_more = header(3)
        | group((0..2).map(|_| xsum.partial()))
        | group((0..2).map(|_| xsum.partial()))
        | xsum.partial()
        | add.partial(1);
    assert_eq!(value(once_more).await, 25);
}

#[tokio::test]
async fn a_body_may_be_any_canvas() {
    let as_chain = chord(header(3), xsum.partial() | add.partial(1));
    assert_eq!(value(as_chain).await, 7);
    let as_group = chord(header(3), group([xsum.partial(), xsum.partial()]));
    assert_eq!(value(as_group).await, [6, 6]);
    let as_chord = chord(header(3), group([xsum.partial()]) | xsum.partial());
    assert_eq!(value(as_chord).await, 6);
    assert_eq!(value(chord(header(3), add.si(1, 1))).await, 2);
}

#[tokio::test]
async fn chords_nest_in_headers() {
    let canvas = group((1..4).map(|n| header(n) | xsum.partial())) | xsum.partial();
    assert_eq!(value(canvas).await, 2 + 6);
}

#[tokio::test]
async fn canvases_nest_four_deep_in_every_order() {
    // A group of chords of chains of groups.
    let groups = |n: i64| add.s(n, 1) | group([add.partial(1), add.partial(2)]) | xsum.partial();
    let chords = |n: i64| group([groups(n), groups(n + 1)]) | xsum.partial();
    // groups(n) = (n + 2) + (n + 3); chords(n) = 4n + 12
    let canvas = group([
        chords(0) | add.partial(100),
        chords(1) | group([add.partial(1), add.partial(2)]) | xsum.partial(),
    ]);
    assert_eq!(value(canvas).await, [112, 35]);

    // The same four forms, the other way round.
    let inner = group([add.partial(1), add.partial(2)]);
    let middle = group([
        inner.clone() | xsum.partial(),
        add.partial(0) | add.partial(5),
    ]);
    let outer = add.s(1, 1) | group([middle.clone(), middle]) | flat.partial() | add.each(1);
    let app = builder().tasks(tasks![flat]).start().await.unwrap();
    let result = app.apply_async(outer).await.unwrap();
    assert_eq!(result.get().await.unwrap(), [8, 8, 8, 8]);
}

#[task]
async fn flat(lists: Vec<Vec<i64>>) -> Vec<i64> {
    lists.concat()
}

#[tokio::test]
async fn the_body_waits_for_the_last_member() {
    let app = builder().tasks(tasks![marked_sum]).start().await.unwrap();
    let gate = "chords: last";
    let members = group([add.s(0, 1), held.s(2, gate.into()), add.s(0, 3)]);
    let canvas = chord(members, marked_sum.partial("chords: body".into()));
    let result = app.apply_async(canvas).await.unwrap();
    let members = result.children::<i64>().await.unwrap();
    for i in [0, 2] {
        members[i].get().await.unwrap();
    }
    noted(gate, 1).await;
    assert_eq!(notes("chords: body"), [""; 0]);
    open(gate);
    assert_eq!(result.get().await.unwrap(), 6);
    assert_eq!(notes("chords: body"), ["6"]);
}

#[task]
async fn marked_sum(xs: Vec<i64>, key: String) -> i64 {
    let sum = xs.iter().sum();
    note(&key, sum);
    sum
}
