//! Every form of canvas, run to its end.

use chordal::prelude::*;

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task]
async fn xsum(xs: Vec<i64>) -> i64 {
    xs.iter().sum()
}

async fn app() -> App {
    App::in_memory()
        .tasks(tasks![add, xsum])
        .start()
        .await
        .unwrap()
}

#[tokio::test]
async fn a_chain_of_adds_ends_in_a_group_of_four() {
    let app = app().await;
    let canvas = add.s(2, 2)
        | (add.partial(4) | add.partial(8) | add.partial(16) | add.partial(32))
        | group((0..4).map(|i| add.partial(i)));
    let result = app.apply_async(canvas).await.unwrap();
    assert_eq!(result.get().await.unwrap(), [64, 65, 66, 67]);
}

#[tokio::test]
async fn a_chord_sums_its_header() {
    let app = app().await;
    let canvas = chord(group((0..10).map(|i| add.s(i, i))), xsum.partial());
    let result = app.apply_async(canvas).await.unwrap();
    assert_eq!(result.get().await.unwrap(), 90);
    app.shutdown().await.unwrap();
}
