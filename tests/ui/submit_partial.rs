use chordal::prelude::*;

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

async fn submit(app: App) {
    let _ = app.apply_async(add.partial(4)).await;
    let _ = app.apply_async(group([add.partial(4)])).await;
    let _ = app.apply_async(add.each(1)).await;
    let _ = app.apply_async(add).await;
}

fn main() {}
